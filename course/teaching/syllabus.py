"""What the chapters and sheets say of themselves: minutes, what they need, what one can do after them; and the plans.

Nothing here has a number of its own: a chapter's minutes stand in its first cell, a task's in `course.tasks`.
"""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from course import chapters as heads
from course.notebooks import source
from course.tasks import Task, all_tasks

FOLDER = Path(__file__).parent
_POINTS = re.compile(r'(?m)^# %%.* (?:check|written)="(\d\d[a-z]?\.\d+)" points=(\d+)')


@dataclass(frozen=True)
class Chapter(heads.Chapter):
    """A chapter with its sheet: what one can do after it, and the tasks with their headings and points."""

    goals: tuple[str, ...]
    tasks: tuple[Task, ...]
    headings: Mapping[str, str]
    points: Mapping[str, int]

    @property
    def name(self) -> str:
        """The title without the number."""
        return self.title.split(" · ", 1)[1]

    @property
    def sheet(self) -> str:
        """The name of the chapter's notebook and of its sheets, which is one."""
        return f"{self.slug}.ipynb"

    @property
    def exercises(self) -> int:
        """The minutes of all tasks together."""
        return sum(task.minutes for task in self.tasks)

    @property
    def open_tasks(self) -> tuple[Task, ...]:
        """The tasks that go further, which have no one answer."""
        return tuple(task for task in self.tasks if "go further" in self.headings[task.id].lower())

    @property
    def predictions(self) -> tuple[Task, ...]:
        """The tasks that ask to predict before measuring."""
        return tuple(task for task in self.tasks if "predict, then measure" in self.headings[task.id].lower())


@functools.cache
def chapters(root: Path) -> dict[str, Chapter]:
    """Return all chapters by number; raise `source.SourceError` for one whose first cell lacks its minutes."""
    tasks = all_tasks().values()
    found = {}
    for number, head in heads.chapters(root).items():
        text = (root / head.path).with_suffix(".py").read_text(encoding="utf-8")
        sheet = (root / "solutions" / f"{head.slug}.py").read_text(encoding="utf-8")
        own = tuple(task for task in tasks if task.chapter == number)
        found[number] = Chapter(
            **vars(head),
            goals=_goals(re.sub(r"(?m)^# ?", "", text.split("# %%")[1])),
            tasks=own,
            headings={task.id: _heading(sheet, task) for task in own},
            points={id: int(points) for id, points in _POINTS.findall(sheet)},
        )
    return found


def _goals(first: str) -> tuple[str, ...]:
    """The bullets under "After this chapter you can"."""
    part = re.split(r"After this chapter you can(?:\*\*)?", first)[1].strip()
    bullets = re.split(r"\n\s*\n", part)[0]
    return tuple(" ".join(bullet.split()) for bullet in re.split(r"(?m)^- ", bullets) if bullet.strip())


def _heading(sheet: str, task: Task) -> str:
    """What stands behind the task's number in its sheet."""
    found = re.search(rf"(?m)^# ## {re.escape(task.id)} (.*)$", sheet)
    if not found:
        raise source.SourceError(f"task {task.id} has no heading '## {task.id} …' in its sheet")
    return found[1].strip()


@dataclass(frozen=True)
class Misconception:
    """What learners take for true, the task that brings it out, and what to say."""

    task: str
    think: str
    say: str


def misconceptions() -> list[Misconception]:
    """Return those of misconceptions.toml."""
    text = (FOLDER / "misconceptions.toml").read_text(encoding="utf-8")
    return [Misconception(**entry) for entry in tomllib.loads(text)["misconception"]]


@dataclass(frozen=True)
class Week:
    """A week of a plan: numbers of chapters, ids of tasks."""

    topic: str
    read: tuple[str, ...]
    together: tuple[str, ...]
    class_tasks: tuple[str, ...]
    home_tasks: tuple[str, ...]

    def minutes(self, course: Mapping[str, Chapter]) -> tuple[int, int]:
        """Return the minutes in class and at home; raise ValueError for a chapter or task that is not there."""
        return (
            _sum(course, self.together, self.class_tasks),
            _sum(course, self.read, self.home_tasks),
        )


def _sum(course: Mapping[str, Chapter], numbers: tuple[str, ...], ids: tuple[str, ...]) -> int:
    tasks = {task.id: task for chapter in course.values() for task in chapter.tasks}
    for given, known, what in ((numbers, course, "chapter"), (ids, tasks, "task")):
        missing = [one for one in given if one not in known]
        if missing:
            raise ValueError(f"plans.toml: there is no {what} {', '.join(missing)}")
    return sum(course[number].minutes for number in numbers) + sum(tasks[id].minutes for id in ids)


@dataclass(frozen=True)
class Plan:
    """A plan; `together` and `home` bound the minutes of a week."""

    name: str
    for_whom: str
    together: int
    home: int
    weeks: tuple[Week, ...]

    def faults(self, course: Mapping[str, Chapter]) -> list[str]:
        """Say what is wrong with it: a task twice, a chapter before what it needs, a task before its chapter.

        Raises: ValueError for a chapter or a task that is not there.
        """
        found = []
        seen: list[str] = []
        done: list[str] = []
        for number, week in enumerate(self.weeks, 1):
            where = f"{self.name}, week {number}"
            minutes = week.minutes(course)
            for chapter in (*week.read, *week.together):
                seen.append(chapter)
                found += [f"{where}: chapter {chapter} twice"] * (seen.count(chapter) == 2)
            for chapter in (*week.read, *week.together):
                missing = [needed for needed in course[chapter].needs if needed not in seen]
                found += [f"{where}: chapter {chapter} needs {needed} before it" for needed in missing]
            for task in (*week.class_tasks, *week.home_tasks):
                done.append(task)
                found += [f"{where}: task {task} twice"] * (done.count(task) == 2)
                found += [f"{where}: task {task} before its chapter"] * (task.split(".")[0] not in seen)
            bounds = zip(("in class", "at home"), minutes, (self.together, self.home), strict=True)
            found += [f"{where}: {now} minutes {place}, at most {most}" for place, now, most in bounds if now > most]
        return found


def plans() -> list[Plan]:
    """Return those of plans.toml."""
    text = (FOLDER / "plans.toml").read_text(encoding="utf-8")
    found = []
    for entry in tomllib.loads(text)["plan"]:
        lists = ("read", "together", "class_tasks", "home_tasks")
        weeks = tuple(Week(week["topic"], *(tuple(week[name]) for name in lists)) for week in entry.pop("week"))
        found.append(Plan(**entry, weeks=weeks))
    return found
