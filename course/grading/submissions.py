"""The sheets that were handed in, and what is to be asked of each."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from course.notebooks import build, execute, source

_CHECK = re.compile(r"""^\s*check\(\s*["'](\d\d[a-z]?\.\d+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """What a sheet asks: the expression that is checked, with the lines before it in its cell, and its points."""

    id: str
    points: float
    written: bool
    before: str
    expression: str


@dataclass(frozen=True)
class Submission:
    """One notebook that was handed in, and who handed it in."""

    learner: str
    path: Path
    chapter: str


def find(folder: Path, root: Path) -> Iterator[Submission]:
    """Yield the notebooks of a folder. Of anna/03_infinite_width.ipynb and anna_03.ipynb the learner is anna."""
    known = sorted({path.name.split("_")[0] for path in (root / "exercises").glob("[0-9]*.ipynb")})
    for path in sorted(folder.rglob("*.ipynb")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts):
            continue
        chapter = next((c for c in re.findall(r"(?<!\d)(\d\d[a-z]?)(?![\da-z])", path.stem) if c in known), "")
        learner = "/".join(parts[:-1]) or re.split(r"[ _-]*\d\d[a-z]?(?![\da-z])", path.stem)[0] or path.stem
        yield Submission(learner, path, chapter or _chapter_of(path, known))


def _chapter_of(path: Path, known: Iterable[str]) -> str:
    """The chapter of a sheet whose name does not tell it: that of its checks."""
    try:
        found = _CHECK.findall("\n".join(cell.source for cell in execute.read(path).cells))
    except execute.NotebookFailed:
        return ""
    return next((id.split(".")[0] for id in found if id.split(".")[0] in known), "")


def questions(chapter: str, root: Path) -> list[Question]:
    """The questions of a chapter, from its source: what stands in a learner's check cell decides nothing."""
    (path,) = (root / "solutions").glob(f"{chapter}_*.py")
    (target,) = [target for target in build.targets(root, [chapter]) if target.path.parent.name == "exercises"]
    found = []
    for cell in source.notebook(path, root, exercise=True, target=target.path).cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("grade") and cell.cell_type == "code":
            *before, last = ast.parse(cell.source).body
            call: Any = last
            id, expression = call.value.args
            written = not marks["locked"]
            lines = "" if written else "\n".join(map(ast.unparse, before))
            found.append(Question(id.value, marks["points"], written, lines, ast.unparse(expression)))
    return found


def job(notebook: NotebookNode, asked: Iterable[Question]) -> dict[str, Any]:
    """What the worker is told: the learner's cells in order, each with the question that it answers, if any.

    A check cell is not run as it stands: the question's own lines are. A question whose cell is gone comes at the end.
    """
    left = {question.id: question for question in asked}
    cells = []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code" or source.sets_up(cell):
            continue
        names = [cell.metadata.get("nbgrader", {}).get("grade_id", "").replace("check-", "").replace("written-", "")]
        ids = [id for id in [*(name.replace("-", ".") for name in names), *_CHECK.findall(cell.source)] if id in left]
        question = left.pop(ids[0]) if ids else None
        run = cell.source if question is None or question.written or not _only_checks(cell.source) else ""
        cells.append({"number": number, "source": run, "question": question and asdict(question)})
    cells += [{"number": 0, "source": "", "question": asdict(question)} for question in left.values()]
    return {"cells": cells}


def _only_checks(text: str) -> bool:
    """Whether a cell does nothing but call `predict` and `check`; a learner may have put an answer there."""
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return False
    calls = [line.value for line in body if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)]
    return len(calls) == len(body) and all(getattr(call.func, "id", "") in ("check", "predict") for call in calls)
