"""From the text that is edited (percent format) to notebook cells without outputs.

What a cell is stands in its marker line: task=, check=, written=, points=, alt=, tags= (see AUTHORS.md).
"""

import ast
import difflib
import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

PLACEHOLDER = "Write your answer here."
KEYS = ("task", "check", "written", "points", "alt", "tags", "title")
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"},
}
SETUP = """\
# On Colab and the like this fetches the course (a minute, once); in a clone of the course it does nothing.
import sys
from importlib.util import find_spec

if find_spec("course") is None:
    !test -d ntk-course || git clone -q --depth 1 {address} ntk-course
    %pip install -q "./ntk-course[course]"
    sys.path.insert(0, "ntk-course")
"""


class SourceError(ValueError):
    """A source file that does not follow AUTHORS.md."""


def notebook(path: Path, root: Path, *, exercise: bool = False, target: Path | None = None) -> NotebookNode:
    """Return the notebook of a source file, without outputs; `exercise` cuts solutions and hidden tests."""
    import jupytext

    target = target or path.with_suffix(".ipynb")
    chapter = path.name.split("_")[0]
    cells = [nbformat.v4.new_code_cell(_setup(root).strip())]
    grade_ids: set[str] = set()
    text: Any = jupytext.read(path, fmt="py:percent")
    for raw in text.cells:
        where = f"{path.name}, cell {len(cells) + 1}"
        cells.append(_cell(raw, chapter, exercise, grade_ids, where))
    for position, cell in enumerate(cells):
        cell.id = hashlib.sha256(f"{target.relative_to(root).as_posix()} {position}".encode()).hexdigest()[:12]
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA, nbformat_minor=5)


def _setup(root: Path) -> str:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return SETUP.format(address=project["urls"]["Repository"])


def _cell(raw: NotebookNode, chapter: str, exercise: bool, grade_ids: set[str], where: str) -> NotebookNode:
    marks = {key: value for key, value in raw.metadata.items() if key != "lines_to_next_cell"}
    for key in marks:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1) or [", ".join(KEYS)]
            raise SourceError(f"{where}: unknown mark {key!r} in its `# %%` line; is {near[0]} meant?")
    roles = [key for key in ("task", "check", "written") if key in marks]
    if len(roles) > 1:
        raise SourceError(f"{where}: {' and '.join(roles)} are for two cells")
    role = roles[0] if roles else ""
    metadata: dict[str, Any] = {}
    if "tags" in marks:
        metadata["tags"] = marks["tags"]
    if "alt" in marks:
        metadata["mystnb"] = {"image": {"alt": marks["alt"]}}
    if role:
        if not re.fullmatch(rf"{chapter}\.\d+", str(marks[role])):
            raise SourceError(f'{where}: {role}="{marks[role]}" should look like "{chapter}.1"')
        metadata["nbgrader"] = _nbgrader(role, marks[role], marks.get("points", 1), raw.cell_type)
        if metadata["nbgrader"]["grade_id"] in grade_ids:
            raise SourceError(f'{where}: a second {role}="{marks[role]}"')
        grade_ids.add(metadata["nbgrader"]["grade_id"])
    source = raw.source
    if role == "check" and "### BEGIN HIDDEN TESTS" not in source:
        source += _hidden_test(source, where)
    stub = f'raise NotImplementedError("{marks.get("task")}: your code here")'
    # One line for an answer that is a value, where raising would stop a fresh notebook.
    source = _cut(source, "SOLUTION", role in ("task", "written"), exercise, stub, role == "written", where)
    source = _cut(source, "HIDDEN TESTS", role == "check", exercise, "", False, where)
    new = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}.get(raw.cell_type)
    if new is None:
        raise SourceError(f"{where}: a cell is code or markdown, not {raw.cell_type}")
    return new(source, metadata=metadata)


def _nbgrader(role: str, id: str, points: float, cell_type: str) -> dict[str, Any]:
    metadata = {
        "cell_type": cell_type,
        "grade": role != "task",
        "grade_id": f"{role}-{id.replace('.', '-')}",
        "locked": role == "check",
        "schema_version": 3,
        "solution": role != "check",
        "task": False,
    }
    return metadata | ({"points": points} if role != "task" else {})


def _hidden_test(source: str, where: str) -> str:
    """Return the region that repeats the cell's `check` call in grading mode."""
    try:
        call = ast.parse(source).body[-1].value  # type: ignore[attr-defined]
        if call.func.id != "check":
            raise AttributeError
    except (SyntaxError, AttributeError, IndexError):
        raise SourceError(f"{where}: a check cell ends in a call of `check`") from None
    call.keywords.append(ast.keyword("grade", ast.Constant(True)))
    quoted = ast.unparse(call).replace("'", '"')
    return f"\n### BEGIN HIDDEN TESTS\n{quoted}\n### END HIDDEN TESTS"


def _cut(source: str, name: str, allowed: bool, cut: bool, stub: str, is_text: bool, where: str) -> str:
    """Return `source` with its marked regions replaced by the stub, after looking at the marks."""
    kept: list[str] = []
    inside = False
    for line in source.splitlines():
        begin, end = f"### BEGIN {name}" in line, f"### END {name}" in line
        if (begin and inside) or (end and not inside):
            raise SourceError(f"{where}: `{line.strip()}` without its partner")
        if begin and not allowed:
            raise SourceError(f"{where}: `{line.strip()}` in a cell whose marker line does not say what it is")
        if begin and cut:
            indent = line[: len(line) - len(line.lstrip())]
            if is_text:
                kept.append(PLACEHOLDER)
            elif stub:
                kept.append(indent + stub if indent else "# Your answer here.")
        if not (cut and (inside or begin)):
            kept.append(line)
        inside = (inside or begin) and not end
    if inside:
        raise SourceError(f"{where}: `### BEGIN {name}` without its partner")
    return "\n".join(kept)
