"""Marking a class: right rows for every kind of sheet, whatever it does, and nothing else touched."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course import handout
from course.grading import marking, process, report, seal, submissions
from course.notebooks import build, execute

ROOT = build.repository()
SHEET = ROOT / "exercises" / "00_start_here.ipynb"
ANSWERS = ROOT / "solutions" / "00_start_here.ipynb"
LIMITS = process.Limits(seconds=240, memory=2.5e9, output=1e6, processes=24)


def solved() -> nbformat.NotebookNode:
    """The solved sheet of chapter 00, but for the measurement of its last task, which takes most of its time."""
    notebook = execute.read(ANSWERS)
    measured = [cell for cell in notebook.cells if cell.source.startswith("# Any code you like.")]
    assert len(measured) == 1
    notebook.cells.remove(measured[0])
    return notebook


def sheet(path: Path, *cells: str, until: str = "") -> Path:
    """The solved sheet of chapter 00, with cells of the learner's own after the imports, until the check of a task."""
    notebook = solved()
    ends = [i for i, cell in enumerate(notebook.cells) if until and f'check("{until}"' in cell.source]
    notebook.cells = notebook.cells[: ends[0] + 1] if ends else notebook.cells
    place = next(i for i, cell in enumerate(notebook.cells) if "import ntklib" in cell.source) + 1
    notebook.cells[place:place] = [nbformat.v4.new_code_cell(source) for source in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def first_alone(monkeypatch) -> None:
    """Ask the first question alone: a third of the time."""
    asked = submissions.questions("00", ROOT)[:1]
    monkeypatch.setattr(submissions, "questions", lambda chapter, root: asked)


def marked(folder: Path, limits: process.Limits = LIMITS) -> tuple[dict[str, str], str]:
    """The result of each task of the one sheet in a folder, and what is said of the whole."""
    marks = marking.grade(folder, ROOT, limits, lambda line: None)
    said = [mark.reason for mark in marks if not mark.task]
    return {mark.task: mark.result for mark in marks if mark.task}, "".join(said)


TASKS = [question.id for question in submissions.questions("00", ROOT)]
BY_HAND = {question.id for question in submissions.questions("00", ROOT) if question.written}
FULL = {task: "by hand" if task in BY_HAND else "passed" for task in TASKS}


def test_a_class_gets_a_table_and_pages(tmp_path):
    """A perfect sheet, an empty one, and one with its first answer wrong and a cell that stops."""
    folder = tmp_path / "class"
    sheet(folder / "perfect" / SHEET.name)
    shutil.copytree(SHEET.parent, folder / "empty", ignore=lambda _, names: set(names) - {SHEET.name})
    half = solved()
    first = next(cell for cell in half.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == "task-00-1")
    first.source += "\n1 / 0"
    second = next(cell for cell in half.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == "task-00-2")
    second.source = "def directional_derivative(*arguments, **named):\n    return 0.0"
    nbformat.write(half, folder / "half_00.ipynb")
    (folder / "torn_00.ipynb").write_text('{"cells": [', encoding="utf-8")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    marks = marking.grade(folder, ROOT, LIMITS, lambda line: None)
    results = {(mark.learner, mark.task): mark.result for mark in marks}
    assert {task: results["perfect", task] for task in TASKS} == FULL
    assert {results["empty", task] for task in TASKS} == {"not attempted"}
    assert {task: results["half", task] for task in TASKS} == FULL | {"00.2": "not right"}
    assert results["torn", ""] == "not marked"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    files = report.write(marks, tmp_path / "grades")
    assert sorted(path.name for path in files) == ["empty.md", "grades.csv", "half.md", "perfect.md", "torn.md"]
    with files[0].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    points = {
        name: sum(float(row["points"] or 0) for row in rows if row["learner"] == name)
        for name in ("perfect", "half", "empty")
    }
    assert points["perfect"] > points["half"] > points["empty"] == 0
    page = (tmp_path / "grades" / "half.md").read_text(encoding="utf-8")
    assert "## What to look at next" in page
    assert "python -m course hint 00.2" in page
    assert "00.1" not in page.split("## What")[1]


#: What a sheet tries that does not change how it is marked, and what is said of it, if anything.
TRIED = [
    ("def check(*a, **k):\n    print('00.1: passed')", ""),
    (f"open({str(ANSWERS)!r}).read()", "read solutions/00_start_here.ipynb"),
    ("open('OUTSIDE', 'w')", "wrote outside of its folder: OUTSIDE"),
    ("import os\nos.remove('OUTSIDE')", "changed something outside of its folder: OUTSIDE"),
    ("open('inside.txt', 'w').write('allowed')", ""),
    ("import subprocess\nsubprocess.run(['true'])", "started another process"),
    ("import os\nfor _ in range(200):\n    os.fork()", ""),  # the same is said once
    ("import urllib.request\nurllib.request.urlopen('http://192.0.2.1', timeout=5)", "used the network"),
    ("import sys\nsys.exit()", ""),
    ("import atexit, time\natexit.register(time.sleep, 1000)", ""),
    ("input()", ""),
]


def test_what_a_sheet_tries(tmp_path, monkeypatch):
    """All of it in one sheet, cell by cell."""
    first_alone(monkeypatch)
    outside = tmp_path / "outside"
    outside.write_text("as it was", encoding="utf-8")
    cells, said = ([text.replace("OUTSIDE", str(outside)) for text in texts] for texts in zip(*TRIED, strict=True))
    sheet(tmp_path / "class" / "anna" / SHEET.name, *cells, until="00.1")
    found, reason = marked(tmp_path / "class")
    assert found == {"00.1": "passed"}
    assert reason == "; ".join(filter(None, said))
    assert outside.read_text(encoding="utf-8") == "as it was"


@pytest.mark.sweep
@pytest.mark.parametrize(
    "cell",
    [
        "import numpy as np\nnp.allclose = np.isclose = lambda *a, **k: True",
        "ntk.empirical_ntk = lambda *a, **k: None",
        "from course import expect\nexpect.close.__code__ = (lambda *a, **k: None).__code__",
    ],
    ids=lambda cell: cell.split("\n")[-1][:40],
)
def test_a_sheet_that_replaces_what_marks_it_is_not_counted(tmp_path, monkeypatch, cell):
    first_alone(monkeypatch)
    sheet(tmp_path / "class" / "anna" / SHEET.name, cell, until="00.1")
    assert marked(tmp_path / "class") == ({"00.1": "not counted"}, "")


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("cell", "limits", "said"),
    [
        ("while True: pass", {"seconds": 2.0}, "stopped after 2 seconds, in cell 4"),
        (
            "import numpy as np\nkept = [np.ones(10**8) for _ in range(40)]",
            {},
            "stopped with more than 2.5 GB of memory",
        ),
        ("while True: print('x' * 1000)", {}, "stopped after it had printed 1 MB"),
        ("import os\nos._exit(0)", {}, "it ended its own process, in cell 4"),
    ],
)
def test_a_sheet_that_does_not_end_by_itself(tmp_path, monkeypatch, cell, limits, said):
    """What it had answered before counts; here that is nothing."""
    first_alone(monkeypatch)
    sheet(tmp_path / "class" / "anna" / SHEET.name, cell, until="00.1")
    found, reason = marked(tmp_path / "class", process.Limits(**(vars(LIMITS) | limits)))
    assert found == {"00.1": "not run"}
    assert reason.startswith(said)


def test_processes_are_counted_and_all_of_them_end(tmp_path, monkeypatch):
    """Without the guard, which refuses them: sessions of their own, forty of them."""
    import psutil

    monkeypatch.setattr(process, "NAMESPACE", ("no-such-program",))
    process.namespace.cache_clear()
    code = """import subprocess, time
for _ in range(40):
    subprocess.Popen(["sleep", "1013"], start_new_session=True)
time.sleep(60)"""
    real = process.subprocess.Popen
    monkeypatch.setattr(process.subprocess, "Popen", lambda command, **how: real([command[-3], "-c", code], **how))
    outcome = process.run({"cells": []}, ROOT, LIMITS)
    assert outcome.stopped.startswith("stopped with ")
    assert outcome.stopped.endswith("processes, in its first cell")
    left = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "1013"]]
    assert not left


def test_sheets_are_found_by_folder_or_by_name(tmp_path):
    for name in ("anna/03_infinite_width.ipynb", "ben_03.ipynb", "carla/mine.ipynb", ".ipynb_checkpoints/x_03.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('check("04.1", f)')]), tmp_path / name)
    found = {(s.learner, s.chapter) for s in submissions.find(tmp_path, ROOT)}
    assert found == {("anna", "03"), ("ben", "03"), ("carla", "04")}


def test_an_answer_in_a_check_cell_is_run():
    asked = submissions.questions("00", ROOT)[:1]
    cells = [nbformat.v4.new_code_cell(f'x = 1\ncheck("{asked[0].id}", x)')]
    (cell,) = submissions.job(nbformat.v4.new_notebook(cells=cells), asked)["cells"]
    assert cell["source"].startswith("x = 1")
    assert cell["question"]["id"] == asked[0].id


def test_the_seal_sees_functions_classes_and_code():
    import ntklib
    from course import expect

    sealed = seal.Seal()
    assert sealed.broken() == ""
    for place, name in ((ntklib, "relu") if hasattr(ntklib, "relu") else (ntklib, "Relu"), (expect, "close")):
        kept = getattr(place, name)
        setattr(place, name, lambda *a: None)
        assert sealed.broken() == f"{place.__name__}.{name}"
        setattr(place, name, kept)
    assert sealed.broken() == ""


def test_a_formula_in_the_table_is_text(tmp_path):
    mark = report.Mark("=cmd()", "03", "", "not marked", "", "", "-1", "x")
    text = report.write([mark], tmp_path)[0].read_text(encoding="utf-8")
    assert "'=cmd()" in text
    assert "'-1" in text


ATTEMPTS = """
open({out}, "w")
open({out}, "a")
open({out}, "r+")
os.open({out}, os.O_CREAT)
os.remove({out})
os.rename({out}, "here")
os.rename("own", {out})
os.mkdir({out} + "x")
os.rmdir({folder})
os.link({out}, "here")
os.symlink("own", {out} + "x")
os.chmod({out}, 0o777)
os.truncate({out}, 0)
os.utime({out})
shutil.rmtree({folder})
shutil.copyfile("own", {out})
pathlib.Path({out}).write_text("")
open({hidden})
os.listdir(os.path.dirname({hidden}))
list(pathlib.Path({hidden}).parent.glob("*"))
os.system("true")
os.fork()
os.execv("/bin/true", ["true"])
os.posix_spawn("/bin/true", ["true"], {{}})
subprocess.run(["true"])
ctypes.CDLL(None)
socket.create_connection(("192.0.2.1", 80), 1)
socket.getaddrinfo("localhost", 80)
"""


def test_the_guard_refuses_each_way(tmp_path):
    """In a process of its own: it cannot be taken back. What is allowed there stays so."""
    places = {"out": tmp_path / "outside" / "file", "folder": tmp_path / "outside", "hidden": tmp_path / "hidden" / "a"}
    for name in ("outside", "hidden", "own"):
        (tmp_path / name).mkdir()
    for path in (places["out"], places["hidden"], tmp_path / "own" / "own"):
        path.write_text("as it was", encoding="utf-8")
    lines = ATTEMPTS.format(**{name: repr(str(path)) for name, path in places.items()}).strip().splitlines()
    code = f"""
import ctypes, os, pathlib, shutil, socket, subprocess
from course.grading import guard
told = []
guard.install(os.getcwd(), [{str(tmp_path / "hidden")!r}], told.append)
for line in {lines!r}:
    before = len(told)
    try:
        exec(line)
    except PermissionError as error:
        assert str(error).startswith("not while a sheet is marked"), (line, error)
    assert len(told) > before, line
open("new", "w").write("x")
os.rename("new", "newer")
os.remove("newer")
os.listdir("/")
open({str(places["out"])!r})
print(len(told))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "own", env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= len(lines)
    assert [path.read_text(encoding="utf-8") for path in (places["out"], tmp_path / "own" / "own")] == ["as it was"] * 2


def test_a_handout_has_the_sheets_and_checks_and_no_solution(tmp_path):
    """A sheet of it runs there, in a process that sees nothing of this clone but the library."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "ntklib").symlink_to(ROOT / "ntklib")
    folder = tmp_path / "handout"
    sheets = handout.make(ROOT, folder)
    assert [path.name for path in sheets] == sorted(path.name for path in (ROOT / "exercises").glob("*.ipynb"))
    text = "".join(path.read_text(encoding="utf-8") for path in sheets)
    assert "BEGIN SOLUTION" not in text
    assert "](../" not in text
    assert not {"teaching", "grading"} & {path.name for path in (folder / "course").iterdir()}
    code = """import nbformat
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in nbformat.read("00_start_here.ipynb", 4).cells:
    if cell.cell_type == "code" and "%pip" not in cell.source:
        shell.run_cell(cell.source).raise_error()
import course, runpy, sys
print(course.__file__)
for command in ("slides", "grade ."):  # what works in a clone alone says so
    sys.argv = ["course", *command.split()]
    try:
        runpy.run_module("course", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(command, end.code)"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {
        "PYTHONPATH": str(tmp_path / "site"),
        "MPLBACKEND": "agg",
        "PYTHONSAFEPATH": "",
        "IPYTHONDIR": str(tmp_path),
    }
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *ran, place, slides, grade = run.stdout.splitlines()
    assert f"{folder}" in place
    assert any("00.1 " in line for line in ran)
    assert slides.startswith("slides This command works in a clone")
    assert grade.startswith("grade . This command works in a clone")
    with pytest.raises(ValueError, match="is not empty"):
        handout.make(ROOT, folder)
