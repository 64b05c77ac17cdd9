"""A learner's sheet of exercises, run as it stands: what its tasks came to, and where a cell of it stopped."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from nbformat import NotebookNode

from course.notebooks import execute
from course.tasks import Task

_FRAME = re.compile(r"Cell In\[(\d+)\], line (\d+)")
_NUMBERED = re.compile(r" \(\d+\.py, line \d+\)$")  # IPython's name of a cell, which tells a learner nothing


def check(path: Path, tasks: Iterable[Task], env: Mapping[str, str], name: str) -> tuple[list[str], bool]:
    """Run a sheet, the file left alone; return what to print, and whether nothing in it is wrong.

    A task that is not attempted yet is not wrong. `name` is what the sheet is called in what is printed.
    Raises: `execute.NotebookFailed` if the file is not a notebook.
    """
    nb = execute.read(path)
    stopped = []
    try:
        execute.execute(nb, path, env, allow_errors=True)
    except execute.NotebookFailed as error:  # it took too long, or took the kernel with it
        stopped = [str(error)]
    faults = {number: fault(nb, number) for number, cell in enumerate(nb.cells, 1) if _stopped(cell)}
    refused = [output.evalue for cell in nb.cells for output in _errors(cell) if output.ename == "CheckFailed"]
    said = refused + [line for cell in nb.cells for line in execute.verdicts(cell)]
    verdicts = []
    for task in tasks:
        verdict = next((text for text in said if text.startswith(f"{task.id} ")), None)
        verdicts.append(verdict or f"{task.id} {task.name}: not run, {_why_not(nb, task, faults)}")
    streams = [output for cell in nb.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    notes = [line for stream in streams for line in stream.text.splitlines() if line.startswith("the progress ")]
    right = all(re.match(r".*: (passed|written down|not attempted)", verdict) for verdict in verdicts)
    lines = [f"{name}, {text}\n" for text in faults.values()] + stopped + verdicts + notes
    return lines, right and not (faults or stopped)


def fault(nb: NotebookNode, number: int) -> str:
    """Say where and why cell `number` of a notebook that was run stopped: cell, line, error, and the line itself."""
    (output,) = _stopped(nb.cells[number - 1])
    trace = execute.plain("\n".join(output.traceback)).splitlines()
    said = _NUMBERED.sub("", output.evalue).strip()
    error = f"{output.ename}: {said[:300]}" if said else output.ename
    frames = [found for line in trace if (found := _FRAME.search(line))]
    if not frames:
        return f"cell {number}: {error}"
    count, line = (int(part) for part in frames[-1].groups())
    if trace[0].startswith("  Cell In["):  # Python could not read the cell: its line, with a mark below
        shown = [text for text in trace[1:] if text.strip() and not text.startswith(output.ename)]
    else:
        number = next(n for n, cell in enumerate(nb.cells, 1) if cell.get("execution_count") == count)
        shown = ["    " + nb.cells[number - 1].source.splitlines()[line - 1].strip()]
    return "\n".join([f"cell {number}, line {line}: {error}", *shown])


def _stopped(cell: NotebookNode) -> list[NotebookNode]:
    """The error that ended a cell, other than a check's verdict."""
    return [output for output in _errors(cell) if output.ename != "CheckFailed"][:1]


def _errors(cell: NotebookNode) -> list[NotebookNode]:
    return [output for output in cell.get("outputs", []) if output.output_type == "error"]


def _why_not(nb: NotebookNode, task: Task, faults: Mapping[int, str]) -> str:
    """Why a task has no verdict."""
    call = re.compile(rf"""\bcheck\(\s*["']{re.escape(task.id)}["']""")
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "code" and call.search(cell.source):
            return f"see cell {number}" if number in faults else f"cell {number} was not reached"
    return "its check is not in the sheet"
