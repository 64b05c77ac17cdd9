"""From the text that is edited (percent format) to notebook cells without outputs.

What a cell is stands in its marker line: task=, check=, written=, points=, alt=, tags= (see AUTHORS.md).
"""

import ast
import difflib
import hashlib
import re
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from course import address

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
    grade_ids: set[str] = set()
    text: Any = jupytext.read(path, fmt="py:percent")
    cells = [
        _cell(raw, chapter, exercise, grade_ids, f"{path.name}, cell {number}")
        for number, raw in enumerate(text.cells, 1)
    ]
    titled = bool(cells) and cells[0].cell_type == "markdown"
    cells.insert(int(titled), nbformat.v4.new_code_cell(set_up(root)))
    if links := _links(target, root):
        cells.append(nbformat.v4.new_markdown_cell(links))
    for position, cell in enumerate(cells):
        cell.id = hashlib.sha256(f"{target.relative_to(root).as_posix()} {position}".encode()).hexdigest()[:12]
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA, nbformat_minor=5)


def title(path: Path) -> str:
    """Return the title of a chapter's source, such as "06 · The edge of chaos"."""
    first = next((line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# # ")), "")
    found = re.fullmatch(r"# # (\d\d[a-z]?)\W+(.+)", first)
    if not found:
        raise SourceError(f"{path.name}: its first heading should look like '# # {path.name[:2]} · The title'")
    return f"{found[1]} · {found[2]}"


def _links(target: Path, root: Path) -> str:
    """Return a line of links: to the chapter before and after, to the sheet with the solutions, and to the source."""
    chapters = sorted((root / "notebooks").glob("[0-9][0-9]*_*.py"))
    names, kind = [path.stem for path in chapters], target.parent.name
    if target.stem not in names:
        return ""
    here = names.index(target.stem)
    labels = {"notebooks": title(chapters[here]), "exercises": "exercises", "solutions": "solutions"}
    there = {folder: f"[{label}](../{folder}/{target.stem}.ipynb)" for folder, label in labels.items()}
    found = [there[folder] for folder in labels if folder != kind and _is_built(root, folder, target.stem)]
    if kind == "notebooks":
        found.append(f"[source]({target.stem}.py)")
    for step, arrow in ((-1, "← {}"), (1, "{} →")):
        if 0 <= here + step < len(names) and _is_built(root, kind, names[here + step]):
            link = f"[{arrow.format(title(chapters[here + step]))}]({names[here + step]}.ipynb)"
            found.insert(0 if step < 0 else len(found), link)
    return "---\n\n" + " · ".join(found)


def _is_built(root: Path, folder: str, stem: str) -> bool:
    """Return whether there is a source for this notebook."""
    return (root / ("notebooks" if folder == "notebooks" else "solutions") / f"{stem}.py").exists()


def set_up(root: Path) -> str:
    """Return the code of the set-up cell."""
    return SETUP.format(address=address.repository(root)).strip()


def sets_up(cell: NotebookNode) -> bool:
    """Return whether a code cell of a built notebook is a set-up cell, of this version or an earlier one."""
    return cell.source.startswith(SETUP.split("\n", 1)[0])


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
    source = _solution(source, role, marks.get("task", ""), exercise, where)
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


def without_solution(cell: NotebookNode) -> str:
    """Return the text of a solution's cell as the sheet has it; what the cell is stands in its nbgrader metadata."""
    grade_id = cell.metadata["nbgrader"]["grade_id"]
    role, *number = grade_id.split("-")
    return _solution(cell.source, role, ".".join(number), True, grade_id)


def _solution(source: str, role: str, id: str, cut: bool, where: str) -> str:
    """Cut the solution, or keep it, after looking at the marks."""
    stub = f'raise NotImplementedError("{id}: your code here")'
    return _cut(source, "SOLUTION", role in ("task", "written"), cut, stub, role == "written", where)


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
    """Return `source` with its marked regions replaced by the stub, after looking at the marks.

    The stub is one line of comment for an answer that is a value, where raising would stop a fresh notebook.
    """
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
