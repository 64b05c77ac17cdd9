"""What came out: one table for the teacher, and a page for each learner that says what to look at next."""

import csv
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from course.tasks import find

BY_HAND = "by hand"


@dataclass(frozen=True)
class Mark:
    """One row: a question of a sheet, or, with an empty `task`, what is to be said of the whole sheet."""

    learner: str
    chapter: str
    task: str
    result: str
    points: float | str
    of: float | str
    reason: str
    file: str


def write(marks: Sequence[Mark], folder: Path) -> list[Path]:
    """Write grades.csv and a page for each learner; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "grades.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Mark)])
        rows.writeheader()
        rows.writerows({name: _safe(value) for name, value in asdict(mark).items()} for mark in marks)
    written = [table]
    for learner in dict.fromkeys(mark.learner for mark in marks):
        page = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', learner)}.md"
        page.write_text(_page(learner, [mark for mark in marks if mark.learner == learner]), encoding="utf-8")
        written.append(page)
    return written


def summary(marks: Sequence[Mark]) -> list[str]:
    """A line for each sheet."""
    lines = []
    for learner, file in dict.fromkeys((mark.learner, mark.file) for mark in marks):
        own = [mark for mark in marks if mark.file == file]
        got, of, by_hand = _sum(own)
        words = f"{got:g} of {of:g} points" + (f", {by_hand:g} more by hand" if by_hand else "")
        said = "; ".join(mark.reason for mark in own if not mark.task)
        lines.append(f"{learner}, {Path(file).name}: {words}" + (f" ({said})" if said else ""))
    return lines


def _sum(marks: Sequence[Mark]) -> tuple[float, float, float]:
    """Points reached, points that are marked here, and points that wait for a reader."""
    asked = [mark for mark in marks if mark.task]
    here = [mark for mark in asked if mark.result != BY_HAND]
    return (
        sum(float(mark.points) for mark in here),
        sum(float(mark.of) for mark in here),
        sum(float(mark.of) for mark in asked if mark.result == BY_HAND),
    )


def _page(learner: str, marks: Sequence[Mark]) -> str:
    got, of, by_hand = _sum(marks)
    lines = [
        f"# {learner}",
        "",
        f"{got:g} of {of:g} points" + (f"; {by_hand:g} more are marked by a reader" * bool(by_hand)),
    ]
    lines += ["", "| task | | points | |", "|---|---|---|---|"]
    for mark in marks:
        name = find(mark.task).name if mark.task else "the sheet"
        points = "" if mark.result == BY_HAND or not mark.task else f"{mark.points:g} of {mark.of:g}"
        lines.append(f"| {mark.task} {name} | {mark.result} | {points} | {_cell(mark.reason)} |")
    open_ = [mark for mark in marks if mark.task and mark.result not in ("passed", BY_HAND)]
    if open_:
        lines += ["", "## What to look at next", ""]
        for mark in open_:
            task = find(mark.task)
            lines.append(
                f"- **{task.id} {task.name}** rests on “{task.section}” of chapter {task.chapter} "
                f"({task.minutes} minutes). `python -m course hint {task.id}` gives the idea."
            )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _safe(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
