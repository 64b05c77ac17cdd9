"""What `check` and `hint` say, on tasks of our own; and that the tasks of all chapters are complete and tested."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import Table, assert_fails, cases

from course import check, expect, hint, predict, progress, tasks
from course.expect import CheckFailed

ROOT = Path(__file__).parents[1]
ABOUT = {"minutes": 5, "difficulty": 2, "section": "S", "hints": ("the idea", "the formula", "the code")}
RUBRIC = ("the first;", "the second;", "the third.")
ALL = tasks.all_tasks()


@pytest.fixture
def own_tasks(monkeypatch):
    """Tasks 97.1 to 97.4 and no others; the list of task ids that `check` noted as passed."""
    monkeypatch.setattr(tasks, "TASKS", {})
    seeds, noted = [], []

    @tasks.task("97.1", "double", **ABOUT)
    def _(answer, rng):
        x = rng.normal(size=(3, 4))
        seeds.append(x[0, 0])
        got = expect.array(expect.call(answer, x), shape=(3, 4), axes="N M")
        expect.close(got, 2 * x, slips={"that is x itself.": x})
        return "Now try 3x"

    @tasks.task("97.2", "slope", **ABOUT)
    def _(answer, rng):
        expect.number(answer, -0.5)

    tasks.written("97.3", "why", rubric=RUBRIC, numbers=("14",), asked="how many?", **ABOUT)

    # A mistake in a check of ours: its file is one of the course's.
    code = compile("def verify(answer, rng): answer.method(1); 1 / 0", tasks.__file__, "exec")
    exec(code, scope := {})
    tasks.task("97.4", "broken", **ABOUT)(scope["verify"])

    monkeypatch.setattr(progress, "note", noted.append)
    return seeds, noted


def stub(x):
    raise NotImplementedError("97.1: your code here")


def test_a_right_answer_passes_with_two_seeds_and_is_noted(own_tasks, capsys):
    seeds, noted = own_tasks
    check("97.1", lambda x: 2 * x)
    assert capsys.readouterr().out == "97.1 double: passed. Now try 3x\n"
    assert len(set(seeds)) == 2
    assert noted == ["97.1"]


@pytest.mark.parametrize(("id", "answer"), [("97.1", stub), ("97.2", ...), ("97.2", None), ("97.3", "\n")])
def test_no_answer_is_no_failure_except_in_grading(own_tasks, capsys, id, answer):
    check(id, answer)
    assert capsys.readouterr().out == f"{id} {tasks.TASKS[id].name}: not attempted yet\n"
    assert own_tasks[1] == []
    with pytest.raises(CheckFailed, match="not attempted"):
        check(id, answer, grade=True)


def test_a_wrong_answer_raises_a_message_without_traceback(own_tasks):
    with pytest.raises(CheckFailed) as caught:
        check("97.1", lambda x: x)
    lines = caught.value._render_traceback_()
    assert lines == [
        "97.1 double: not right yet",
        "  the result is not right: that is x itself.",
        '  hint("97.1") helps on.',
    ]
    assert own_tasks[1] == []


def test_grading_takes_other_seeds_prints_nothing_and_notes_nothing(own_tasks, capsys, monkeypatch):
    seeds, noted = own_tasks
    check("97.1", lambda x: 2 * x)
    capsys.readouterr(), noted.clear()
    check("97.1", lambda x: 2 * x, grade=True)
    monkeypatch.setenv("NTK_GRADE_SEED", "secret")
    check("97.1", lambda x: 2 * x, grade=True)
    assert len(set(seeds)) == 6
    assert (capsys.readouterr().out, noted) == ("", [])
    with pytest.raises(CheckFailed):
        check("97.1", lambda x: x, grade=True)


def test_text_is_written_down(own_tasks, capsys):
    check("97.3", "there are 14 of them, for each has its own")
    said = capsys.readouterr().out
    assert said.startswith("97.3 why: written down; compare it with the solution. A point for each:\n  - the first;\n")
    assert own_tasks[1] == ["97.3"]
    with pytest.raises(CheckFailed, match="another one: how many"):
        check("97.3", "there are 15 of them, for each has its own")
    with pytest.raises(CheckFailed, match="too short"):
        check("97.3", "three small words")


class Answer:
    def method(self, x):
        if self is RIGHT:
            return 1
        raise KeyError("of mine")


RIGHT = Answer()


def test_an_exception_outside_of_call_is_the_learners_or_ours(own_tasks):
    with pytest.raises(
        CheckFailed, match=r"your code stopped with KeyError: 'of mine'\n    in line \d+: raise KeyError"
    ):
        check("97.4", Answer())
    with pytest.raises(CheckFailed, match="the check itself stopped with ZeroDivisionError"):
        check("97.4", RIGHT)


def test_a_prediction_is_noted_before_it_is_measured(own_tasks, capsys, monkeypatch):
    monkeypatch.setattr(tasks, "PREDICTED", {})
    for values in ((), (...,), (None,), (1, ...)):
        assert predict("97.2", *values) is None
        assert "97.2 slope: predict first" in capsys.readouterr().out
    assert predict("97.2", -0.5) == -0.5
    assert capsys.readouterr().out == "97.2 slope: your prediction is noted\n"
    assert predict("97.2") == -0.5
    assert predict("97.2", -0.5) == -0.5
    assert capsys.readouterr().out == ""
    assert predict("97.2", 1) == -0.5, "the first one counts"
    assert "your first prediction was -0.5" in capsys.readouterr().out
    assert predict("97.1", 1, 2) == (1, 2)
    with pytest.raises(ValueError, match="there is no task"):
        predict("97.9", 1)


def test_hints_have_three_levels(own_tasks, capsys):
    hint("97.1")
    assert capsys.readouterr().out == '97.1 double, hint 1 of 3: the idea\nhint("97.1", 2) says more.\n'
    hint("97.1", 3)
    assert capsys.readouterr().out == "97.1 double, hint 3 of 3: the code\n"
    with pytest.raises(ValueError, match="must be 1, 2 or 3; got 4"):
        hint("97.1", 4)


def test_an_unknown_task_names_the_nearest(own_tasks):
    with pytest.raises(ValueError, match=r"no task '97\.5'; did you mean .*97\.2 slope"):
        hint("97.5")
    with pytest.raises(ValueError, match="ids look like"):
        check("what", 1)


def test_tasks_are_registered_once_and_with_three_hints(own_tasks):
    with pytest.raises(ValueError, match="defined twice"):
        tasks.written("97.1", "again", rubric=RUBRIC, **ABOUT)
    with pytest.raises(ValueError, match="three hints"):
        tasks.written("97.9", "hintless", rubric=RUBRIC, **{**ABOUT, "hints": ("one",)})
    with pytest.raises(ValueError, match="rubric of three"):
        tasks.written("97.9", "pointless", rubric=("one",), **ABOUT)


def test_tables_of_answers_find_a_check_that_lets_a_wrong_answer_pass(own_tasks, monkeypatch):
    assert_fails("97.1", lambda x: x, "that is x itself", monkeypatch)
    with pytest.raises(AssertionError):
        assert_fails("97.1", lambda x: x, "other words", monkeypatch)
    with pytest.raises(pytest.fail.Exception):
        assert_fails("97.1", lambda x: 2 * x, "", monkeypatch)

    @tasks.task("97.5", "tells", **ABOUT)
    def _(answer, rng):
        want = rng.normal(size=3)
        expect.close(np.zeros(3), want, slips={f"the answer is {want[0]:.4g}": np.zeros(3)})

    with pytest.raises(AssertionError, match="the message shows"):
        assert_fails("97.5", 1, "the answer is", monkeypatch)
    test: Any = cases([Table("97.1", right={"a": 1}, wrong={"b": (2, "c")})])
    assert len(test.pytestmark[0].args[1]) == 3  # right, wrong, slips


# ---- the tasks of all chapters


def tables() -> dict[str, Table]:
    found = {}
    for path in sorted((ROOT / "tests").glob("test_checks_ch*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert hasattr(module, "test_answers"), f"{path.name} lacks `test_answers = cases(TABLES)`"
        found |= {table.id: table for table in module.TABLES}
    return found


def test_each_check_is_tested_against_right_and_wrong_answers():
    found = tables()
    short = {id: found.get(id) for id, task in ALL.items() if task.kind == "code"}
    missing = [id for id, table in short.items() if not table or len(table.right) < 2 or len(table.wrong) < 4]
    assert not missing, f"tasks without a table of 2 right and 4 wrong answers in tests/test_checks_chNN.py: {missing}"
    assert set(found) <= set(ALL)


@pytest.mark.parametrize("id", [id for id, task in ALL.items() if task.kind == "text"])
def test_empty_text_does_not_pass(id, capsys):
    check(id, "\n")
    assert "not attempted yet" in capsys.readouterr().out
    with pytest.raises(CheckFailed):
        check(id, "two words")


@pytest.mark.parametrize("id", list(ALL))
def test_the_exercise_agrees_with_its_task(id):
    """The task stands in solutions/, with its header line; the section it names is one of the chapter's."""
    task = ALL[id]
    (solution,) = (ROOT / "solutions").glob(f"{task.chapter}_*.py")
    text = solution.read_text()
    assert f"# {task.header}\n" in text, f"{solution.name} should say: {task.header}"
    assert len(re.findall(rf'^# %%.*(?:check|written)="{re.escape(id)}"', text, re.MULTILINE)) == 1
    (chapter,) = (ROOT / "notebooks").glob(f"{task.chapter}_*.py")
    headings = [line.lstrip("# ") for line in chapter.read_text().splitlines() if re.match(r"# #+ ", line)]
    assert any(task.section in heading for heading in headings), f"{chapter.name} has no section {task.section!r}"


@pytest.mark.parametrize("chapter", sorted({task.chapter for task in ALL.values()}))
def test_the_chapter_says_how_long_its_exercises_take(chapter):
    """The sum over its tasks, "without the open one" that without the task that goes further."""
    (path,) = (ROOT / "notebooks").glob(f"{chapter}_*.py")
    (sheet,) = (ROOT / "solutions").glob(f"{chapter}_*.py")
    said = re.search(r"(\d+) for the exercises( without the open one)?", path.read_text())
    assert said, f"{path.name} should say how many minutes its exercises take"
    open_ones = re.findall(r"^# ## ([\d.]+) Go further", sheet.read_text(), re.MULTILINE)
    left_out = open_ones if said[2] else []
    assert not said[2] or open_ones, f"{sheet.name} has no open task"
    minutes = sum(task.minutes for id, task in ALL.items() if task.chapter == chapter and id not in left_out)
    assert int(said[1]) == minutes, f"{path.name} should say {minutes} for the exercises{said[2] or ''}"


def test_each_exercise_has_its_task():
    marks = re.compile(r'^# %%.*(?:check|task)="([\d.]+)"', re.MULTILINE)
    used = {id for path in (ROOT / "solutions").glob("*.py") for id in marks.findall(path.read_text())}
    assert used <= set(ALL)


def test_hints_come_without_jax():
    code = "import sys, course.tasks as t; t.all_tasks(); print([m for m in ('jax', 'ntklib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", "import JAX and ntklib inside the functions of course/checks/chNN.py"
