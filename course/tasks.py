"""The tasks of the exercises: what each is, how an answer is checked, and the hints.

A chapter's tasks stand in `course/checks/chNN.py`; AUTHORS.md shows one.
"""

import difflib
import hashlib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from course import expect, progress
from course.expect import CheckFailed, NotAttempted

SEEDS = (0, 1)


@dataclass(frozen=True)
class Task:
    """One task: `verify(answer, rng)` raises `CheckFailed`, or returns None or a remark for the learner."""

    id: str
    name: str
    minutes: int
    difficulty: int
    section: str
    hints: tuple[str, str, str]
    kind: Literal["code", "text"]
    verify: Callable
    rubric: tuple[str, ...] = ()  # what earns a point in an answer in words

    @property
    def chapter(self) -> str:
        """The chapter's number, "03"."""
        return self.id.split(".")[0]

    @property
    def header(self) -> str:
        """The line that stands in the task's text, so that text and table agree (a test looks for it)."""
        return f"{self.minutes} minutes · difficulty {self.difficulty} of 5 · rests on “{self.section}”"


TASKS: dict[str, Task] = {}


def task(
    id: str,
    name: str,
    *,
    minutes: int,
    difficulty: int,
    section: str,
    hints: tuple[str, str, str],
    kind: Any = "code",
    rubric: tuple[str, ...] = (),
) -> Callable:
    """Register the decorated `verify(answer, rng)` as the check of a task; it is called once a seed."""

    def register(verify: Callable) -> Callable:
        if id in TASKS:
            raise ValueError(f"task {id} is defined twice")
        if len(hints) != 3 or not 1 <= difficulty <= 5:
            raise ValueError(f"task {id} needs three hints and a difficulty between 1 and 5")
        TASKS[id] = Task(id, name, minutes, difficulty, section, hints, kind, verify, rubric)
        return verify

    return register


def written(
    id: str, name: str, *, rubric: tuple[str, ...], numbers: tuple[str, ...] = (), asked: str = "", **about: Any
) -> None:
    """Register a question that is answered in words, with what earns each of its three points.

    The check sees that something was written down, and, where the question has a number for its answer, that it is
    there: one of `numbers`, ways to write it; `asked` says what was asked for.
    """
    if len(rubric) != 3:
        raise ValueError(f"task {id} needs a rubric of three points")
    register = task(id, name, kind="text", rubric=rubric, **about)
    register(lambda answer, rng: expect.text(answer, numbers, asked))


def all_tasks() -> dict[str, Task]:
    """Return the tasks of all chapters, in order."""
    from course import checks

    for module in pkgutil.iter_modules(checks.__path__, "course.checks."):
        importlib.import_module(module.name)
    return dict(sorted(TASKS.items()))


def find(id: str) -> Task:
    """Return a task; raise ValueError that names the nearest ones when there is none of that id."""
    chapter = str(id).split(".")[0]
    if id not in TASKS and re.fullmatch(r"\d\d[a-z]?", chapter):
        module = f"course.checks.ch{chapter}"
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    if id in TASKS:
        return TASKS[id]
    names = [f"{near} {TASKS[near].name}" for near in _nearest(str(id))]
    raise ValueError(
        f"there is no task {id!r}; " + (f"did you mean {', '.join(names)}?" if names else "ids look like '03.2'")
    )


def _nearest(id: str) -> list[str]:
    """The tasks that may be meant: 3.2 or 03-2 for 03.2; all of a chapter for 3; else what looks alike."""
    known = all_tasks()
    numbers = re.fullmatch(r"\D*?(\d+[a-z]?)(?:\D+0*(\d+))?\D*", id)
    if numbers:
        chapter = numbers[1].lstrip("0") or "0"
        chapter = chapter.rjust(2 + chapter[-1].isalpha(), "0")
        if numbers[2]:
            exact = f"{chapter}.{numbers[2]}"
            found = [exact] if exact in known else []
        else:
            found = [task.id for task in known.values() if task.chapter == chapter]
        if found:
            return found
    return difflib.get_close_matches(id, known, n=3, cutoff=0.5)


def check(id: str, answer: Any, *, grade: bool = False) -> None:
    """Check an answer: print one line if it is right or not attempted, raise `CheckFailed` if it is wrong.

    With `grade=True`, as in hidden tests, a missing answer raises too, the seeds are others, nothing is printed.
    """
    task, remark = find(id), None
    label = f"{task.id} {task.name}"
    try:
        if answer is None or answer is Ellipsis:
            raise NotAttempted
        for seed in _hidden_seeds(id) if grade else SEEDS:
            remark = _verify(task, answer, seed)
    except NotAttempted:
        if grade:
            raise CheckFailed(f"{label}: not attempted") from None
        print(f"{label}: not attempted yet")
        return
    except CheckFailed as failure:
        message = f'{label}: not right yet\n  {failure}\n  hint("{task.id}") helps on.'
        raise CheckFailed(message) from failure.__cause__
    if grade:
        return
    if task.kind == "text":
        print(f"{label}: written down; compare it with the solution. A point for each:")
        print("\n".join(f"  - {point}" for point in task.rubric))
        _show(answer)
    else:
        print(f"{label}: passed" + (f". {remark}" if remark else ""))
    progress.note(task.id)


PREDICTED: dict[str, Any] = {}


def predict(id: str, *values: Any) -> Any:
    """Note what you expect before you measure it: `predict("08.3", 7)`. The first prediction is the one that is kept.

    Without a value return what was noted; or say "predict first", and return None, so that a measuring cell can wait
    for it: `if predict("08.3") is not None: ...`.
    """
    task = find(id)
    label = f"{task.id} {task.name}"
    given = values[0] if len(values) == 1 else values
    missing = any(value is Ellipsis or value is None for value in values)
    if values and not missing and id not in PREDICTED:
        PREDICTED[id] = given
        print(f"{label}: your prediction is noted")
    elif values and not missing and repr(PREDICTED[id]) != repr(given):
        print(f"{label}: your first prediction was {PREDICTED[id]!r}, and that is the one that counts")
    if id not in PREDICTED:
        print(f'{label}: predict first, then measure; predict("{task.id}", ...) notes it')
        return None
    return PREDICTED[id]


def hint(id: str, level: int = 1) -> None:
    """Print a hint: level 1 gives the idea, 2 the formula or shape, 3 almost the code."""
    task = find(id)
    if level not in (1, 2, 3):
        raise ValueError(f"`level` must be 1, 2 or 3; got {level!r}")
    print(f"{task.id} {task.name}, hint {level} of 3: {task.hints[level - 1]}")
    if level < 3:
        print(f'hint("{task.id}", {level + 1}) says more.')


def _verify(task: Task, answer: Any, seed: int) -> str | None:
    import numpy as np

    try:
        return task.verify(answer, np.random.default_rng(seed))
    except (CheckFailed, NotAttempted):
        raise
    except Exception as error:  # from an answer that the check did not call through expect.call, or a mistake of ours
        if expect.in_learners_code(error):
            expect.stop(error)
        raise CheckFailed(f"the check itself stopped with {type(error).__name__}: {error}") from error


def _hidden_seeds(id: str) -> tuple[int, int]:
    secret = os.environ.get("NTK_GRADE_SEED", "grade")
    digest = hashlib.sha256(f"{secret} {id}".encode()).digest()
    return int.from_bytes(digest[:4]), int.from_bytes(digest[4:8])


def _show(text: str) -> None:
    """Render Markdown under the cell; outside a notebook do nothing."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None:
        from IPython.display import Markdown, display

        kept = [line for line in text.splitlines() if not line.startswith("### ")]
        display(Markdown("\n".join(kept).strip()))
