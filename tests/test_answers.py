"""Answers written from the exercise sheets alone: they measure the checks.

They stand in `answers/chNN.toml`, as learners would write them: right ones in odd styles, wrong ones with a slip. A
right one passes with either precision, or in float64 where the sheet sets it, on public seeds and on hidden ones. A
wrong one is refused on all of them, on the public ones with `words`. These name the slip, or, with `named = false`, say
only what is off; no words accuse of another slip. The tables in `test_checks_chNN.py` show that each message can be
reached; here it is seen how often.
"""

import ast
import functools
import json
import linecache
import pathlib
import re
import sys
import tomllib
import types

import pytest
from mutations import notebook

from course import tasks
from course.expect import CheckFailed

HERE = pathlib.Path(__file__).parent
HIDDEN = (1000, 1001)
ANSWERS = [
    row for file in sorted((HERE / "answers").glob("ch*.toml")) for row in tomllib.loads(file.read_text())["answer"]
]


@functools.cache
def sheet(chapter: str) -> tuple[str, dict[str, str], bool]:
    """Of a chapter's sheet: its imports and functions, the answer that each check takes, whether it sets float64."""
    (file,) = (HERE.parent / "exercises").glob(f"{chapter}_*.ipynb")
    cells = ["".join(cell["source"]) for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    given, answers = [], {}
    for cell in cells:
        if re.search(r"^ *[!%]", cell, re.MULTILINE):  # a line for IPython
            continue
        for node in ast.parse(cell).body:
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef)):
                given.append(ast.unparse(node))
            elif isinstance(node, ast.Expr) and ast.unparse(node).startswith("check("):
                assert isinstance(node.value, ast.Call)
                answers[ast.literal_eval(node.value.args[0])] = ast.unparse(node.value.args[1])
    return "\n".join(given), answers, any("jax_enable_x64" in cell for cell in cells)


def answer(row: dict, monkeypatch: pytest.MonkeyPatch) -> object:
    """What the learner hands to the check, after the code has run in the sheet."""
    given, answers, _ = sheet(row["task"].split(".")[0])
    name = f"sheet {row['task']}"
    monkeypatch.setitem(linecache.cache, name, (len(row["code"]), None, row["code"].splitlines(True), name))
    module = types.ModuleType("learner")
    monkeypatch.setitem(sys.modules, "learner", module)  # dataclasses look for it
    exec(given, module.__dict__)
    exec(compile(row["code"], name, "exec"), module.__dict__)
    return eval(answers[row["task"]], module.__dict__)


def said(row: dict, given: object) -> dict[int, str]:
    """What the check says of an answer for each seed; nothing if it is right."""
    words = {}
    for seed in (*tasks.SEEDS, *HIDDEN):
        try:
            tasks._verify(tasks.find(row["task"]), given, seed)
            words[seed] = ""
        except CheckFailed as error:
            words[seed] = str(error)
    return words


def name(row: dict) -> str:
    """Its task, and what is odd or wrong in it."""
    return f"{row['task']}-{row.get('right') or row['wrong']}"


RIGHT = [
    pytest.param(row, x64, id=f"{name(row)}-{64 if x64 else 32}")
    for row in ANSWERS
    if "right" in row
    for x64 in ((True,) if sheet(row["task"][:2])[2] else (False, True))
]
WRONG = [pytest.param(row, id=name(row)) for row in ANSWERS if "wrong" in row]


@pytest.mark.sweep(part=12)
@pytest.mark.parametrize(("row", "x64"), RIGHT)
def test_right_answers_pass(row, x64, monkeypatch):
    with notebook(x64):
        words = said(row, answer(row, monkeypatch))
    assert set(words.values()) == {""}


@pytest.mark.sweep(part=12)
@pytest.mark.parametrize("row", WRONG)
def test_wrong_answers_are_refused(row, monkeypatch):
    with notebook(sheet(row["task"].split(".")[0])[2]):
        words = said(row, answer(row, monkeypatch))
    assert all(words.values())
    assert all(row["words"] in words[seed] for seed in tasks.SEEDS)
    assert not any("the check itself" in text for text in words.values())


def test_most_slips_are_named():
    named = [row.get("named", True) for row in ANSWERS if "wrong" in row]
    assert sum(named) >= 0.9 * len(named)


def test_each_code_task_has_answers_of_both_kinds():
    for kind in ("right", "wrong"):
        missing = {t.id for t in tasks.all_tasks().values() if t.kind == "code" and t.chapter <= "08"} - {
            row["task"] for row in ANSWERS if kind in row
        }
        assert not missing
