"""The pages that are made from the chapters, the tasks and the files beside: plans.md, chapters.md, rubrics.md."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from course.teaching import syllabus
from course.teaching.syllabus import Chapter, Plan

MADE = "<!-- Made by `python -m course teaching`; edit {}, or the chapters and checks. -->"
_PLANS = """# Plans and minutes

{made}

All minutes are estimates of the authors, for somebody who meets the subject for the first time: those of a chapter
stand in its first cell, those of a task above it and in its check. **No human learner has been timed.** What is
measured is the machine: each chapter and each sheet runs within a minute or two on two cores. Time your first class and
change the estimates where they are wrong (`minutes` in `course/checks`, the first cell of the chapter).

In class a chapter is gone through together, with its slides or in the notebook; at home it is read. The minutes are the
same. Not in the sums: the talk after a task, breaks, and what is left over from the week before.
"""
_CHAPTERS = """# What each chapter is for, and what gets in the way

{made}

For each chapter: what one can do after it, and what learners typically take for true. Every misconception has a task
that brings it out. Let the task do it first; then say what stands under it. They come from the slips that the checks
look for and from the questions of the sheets, not from a study of learners.
"""
_RUBRICS = """# Rubrics

{made}

Answers in words and open tasks are marked by hand: one point for each of three things. The learner sees the same
three as soon as something is written down. A model answer stands in the solutions, under the task's heading.

**How to mark by hand.**

- Give a point for the thing, however it is said: in words, in a formula, in a figure with a sentence. No points for
  length, for style or for words of the chapter.
- A wrong sentence beside a right one: the point, if the learner could not have written both had they understood;
  if they hedge between two answers, none.
- Where a number is asked for, the check has looked that it is there. It has not looked at the reason. A number
  without a reason is no point of the rubric.
- An argument that is right and not the model's has its points. Write it into the solutions.
- A task is worth `points` in its sheet (below): each of the three things is a third of them.
- Open tasks have no one answer. A clean negative result with its error earns what a positive one would have earned.

**Predict, then measure.** The check gives its points for the right number, and `predict` keeps the first one that was
noted. Nothing is lost by a wrong prediction that was noted: that is what the task is for. If you mark these by
hand, ask for one line of reasons beside the number, and give one point for each: (1) a number with a reason, noted
before the measurement; (2) what was measured, with its error, and the difference in units of that error; (3) what the
difference comes from, or, where there is none, under which condition there would be one.
"""


def pages(root: Path) -> dict[Path, str]:
    """Return each page's text."""
    course = syllabus.chapters(root)
    makers: dict[str, Callable[[Mapping[str, Chapter]], str]] = {
        "plans.md": plans_page,
        "chapters.md": chapters_page,
        "rubrics.md": rubrics_page,
    }
    return {root / "course" / "teaching" / name: make(course) for name, make in makers.items()}


def write(root: Path) -> list[Path]:
    """Write the pages; return them. Raises ValueError for a plan that does not hold."""
    course = syllabus.chapters(root)
    faults = [fault for plan in syllabus.plans() for fault in plan.faults(course)]
    if faults:
        raise ValueError("\n".join(faults))
    for path, text in (made := pages(root)).items():
        path.write_text(text, encoding="utf-8")
    return list(made)


def out_of_step(root: Path) -> list[str]:
    """Return the names of the pages that differ from what they are made from."""
    return [
        path.name for path, text in pages(root).items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def plans_page(course: Mapping[str, Chapter]) -> str:
    """The plans with their sums, and the minutes of all chapters and sheets."""
    text = [_PLANS.format(made=MADE.format("plans.toml"))]
    text += [_plan(plan, course) for plan in syllabus.plans()]
    text += [
        "## Minutes of each chapter and sheet",
        "",
        "The open task of a sheet goes further and has no one answer; not every sheet has one.",
        "",
        "| | chapter | sheet | open task | all | needs |",
        "|---|---|---|---|---|---|",
    ]
    for chapter in course.values():
        going_further = sum(task.minutes for task in chapter.open_tasks)
        text.append(
            f"| {chapter.number} {chapter.name} | {chapter.minutes} | {chapter.exercises - going_further} | "
            f"{going_further or ''} | {chapter.minutes + chapter.exercises} | {', '.join(chapter.needs)} |"
        )
    reading, sheets = (sum(values) for values in zip(*((c.minutes, c.exercises) for c in course.values()), strict=True))
    text.append(f"| **all, in hours** | {reading / 60:.1f} | {sheets / 60:.1f} | | {(reading + sheets) / 60:.1f} | |")
    return "\n".join([*text, ""])


def _plan(plan: Plan, course: Mapping[str, Chapter]) -> str:
    sums = [week.minutes(course) for week in plan.weeks]
    in_class, at_home = (sum(values) for values in zip(*sums, strict=True))
    text = [
        f"## {plan.name.capitalize()}",
        "",
        plan.for_whom,
        f"In class {_hours(in_class)}, at home {_hours(at_home)}; at most {max(s[0] for s in sums)} minutes in class "
        f"and {max(s[1] for s in sums)} at home in a week.",
        "",
        "| week | in class | min | at home | min |",
        "|---|---|---|---|---|",
    ]
    for number, (week, (here, home)) in enumerate(zip(plan.weeks, sums, strict=True), 1):
        together = _cell("chapter", week.together, week.class_tasks)
        alone = _cell("read", week.read, week.home_tasks)
        text.append(f"| {number} | **{week.topic}.** {together} | {here} | {alone} | {home} |")
    return "\n".join([*text, ""])


def _hours(minutes: int) -> str:
    return f"{minutes / 60:.1f} hours"


def _cell(verb: str, chapters: tuple[str, ...], tasks: tuple[str, ...]) -> str:
    parts = [f"{verb} {', '.join(chapters)}"] * bool(chapters) + [f"tasks {', '.join(tasks)}"] * bool(tasks)
    return "; ".join(parts)


def chapters_page(course: Mapping[str, Chapter]) -> str:
    """Objectives and misconceptions, by chapter."""
    text = [_CHAPTERS.format(made=MADE.format("misconceptions.toml"))]
    found = {
        number: list(some)
        for number, some in itertools.groupby(syllabus.misconceptions(), key=lambda m: m.task.split(".")[0])
    }
    for number, chapter in course.items():
        text += [
            f"## {chapter.title}",
            "",
            f"{chapter.minutes} minutes, sheet {chapter.exercises} minutes"
            + (f"; needs {', '.join(chapter.needs)}" * bool(chapter.needs))
            + f". [Chapter](../../notebooks/{chapter.sheet}), [sheet](../../exercises/{chapter.sheet}), "
            f"[solutions](../../solutions/{chapter.sheet}).",
            "",
            "After it one can",
            "",
            *(f"- {goal}" for goal in chapter.goals),
            "",
        ]
        for one in found.get(number, []):
            text += [f"**“{one.think}”** ({one.task}, {chapter.headings[one.task]})", "", one.say, ""]
    return "\n".join(text)


def rubrics_page(course: Mapping[str, Chapter]) -> str:
    """All rubrics, and the tasks that ask for a prediction."""
    text = [_RUBRICS.format(made=MADE.format("course/checks"))]
    for chapter in course.values():
        text += [
            f"## {chapter.title}",
            "",
            f"Model answers: [solutions/{chapter.sheet}](../../solutions/{chapter.sheet}).",
            "",
        ]
        for task in chapter.tasks:
            about = f"{task.minutes} minutes, {chapter.points[task.id]} points"
            if task.rubric:
                text += [f"**{task.id} {chapter.headings[task.id]}** ({about})", ""]
                text += [f"{place}. {point}" for place, point in enumerate(task.rubric, 1)]
                text.append("")
            elif task in chapter.predictions:
                text += [f"**{task.id} {chapter.headings[task.id]}** ({about}): as above.", ""]
    return "\n".join(text)
