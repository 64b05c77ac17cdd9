"""From a folder of sheets to a list of marks."""

from collections.abc import Callable, Iterator
from pathlib import Path

from course.grading import process, submissions
from course.grading.report import BY_HAND, Mark
from course.notebooks import execute

#: What a sheet may not read while it is marked: answers, and what asks for them.
HIDDEN = ("solutions", "notebooks", "tests", "course/checks")


def grade(folder: Path, root: Path, limits: process.Limits, tell: Callable[[str], None]) -> list[Mark]:
    """Mark all sheets of a folder, one after the other; `tell` hears of each before it runs."""
    found = list(submissions.find(folder, root))
    marks: list[Mark] = []
    for number, submission in enumerate(found, 1):
        tell(f"{number} of {len(found)}: {submission.path.relative_to(folder)}")
        marks += _grade(submission, folder, root, limits)
    return marks


def _grade(submission: submissions.Submission, folder: Path, root: Path, limits: process.Limits) -> Iterator[Mark]:
    file = submission.path.relative_to(folder).as_posix()

    def mark(task: str, result: str, points: float | str, of: float | str, reason: str) -> Mark:
        return Mark(submission.learner, submission.chapter, task, result, points, of, reason, file)

    if not submission.chapter:
        try:
            execute.read(submission.path)
            yield mark("", "not marked", "", "", "it is not a sheet of this course: no chapter's number, no check")
        except execute.NotebookFailed:
            yield mark("", "not marked", "", "", "it cannot be read as a notebook")
        return
    asked = submissions.questions(submission.chapter, root)
    try:
        notebook = execute.read(submission.path)
    except execute.NotebookFailed:
        yield mark("", "not marked", "", "", "it cannot be read as a notebook")
        for question in asked:
            yield mark(question.id, "not run", 0, question.points, "")
        return
    job = submissions.job(notebook, asked) | {"chapter": submission.chapter, "hidden": [str(root / n) for n in HIDDEN]}
    outcome = process.run(job, root, limits)
    records = {record["task"]: record for record in outcome.records if "task" in record}
    for question in asked:
        got = records.get(question.id, {"result": "not run", "reason": outcome.stopped})
        points = question.points if got["result"] == "passed" else "" if got["result"] == BY_HAND else 0
        yield mark(question.id, got["result"], points, question.points, got["reason"])
    incidents = list(dict.fromkeys(str(record["incident"]) for record in outcome.records if "incident" in record))
    if outcome.stopped:
        incidents.append(outcome.stopped)
    if incidents:
        yield mark("", "look at it", "", "", "; ".join(incidents)[:500])
