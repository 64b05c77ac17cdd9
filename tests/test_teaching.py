"""The pages for those who teach: in step with chapters, tasks and claims, and nothing in them that is not there."""

import dataclasses
import re

import pytest

from course import build
from course.teaching import pages, syllabus

ROOT = build.repository()
FOLDER = ROOT / "course" / "teaching"
COURSE = syllabus.chapters(ROOT)
TASKS = {task.id: task for chapter in COURSE.values() for task in chapter.tasks}
PLANS = {plan.name: plan for plan in syllabus.plans()}


def test_the_pages_are_in_step():
    assert pages.out_of_step(ROOT) == [], "mend it with: python -m course teaching"


def test_what_a_chapter_needs_is_read_from_it():
    assert COURSE["00"].needs == ()
    assert COURSE["03"].needs == ("01", "02")
    assert COURSE["15"].needs == ("03", "04")
    for chapter in list(COURSE.values())[1:]:
        assert chapter.needs, f"chapter {chapter.number} does not say which chapter it needs"
        assert len(chapter.goals) >= 3


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_holds(name):
    """Its sums are those of chapters and tasks, found here in another way: from the page, row by row."""
    plan = PLANS[name]
    assert plan.faults(COURSE) == []
    page = (FOLDER / "plans.md").read_text(encoding="utf-8").split(f"## {name.capitalize()}\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == {"three": 3, "six": 6, "twelve": 12}[name.split()[0]]
    totals = [0, 0]
    for row in rows:
        for place, (cell, minutes) in enumerate(((row[1], row[2]), (row[3], row[4].rstrip(" |")))):
            cell = cell.split(".** ")[-1]
            expected = sum(TASKS[id].minutes for id in re.findall(r"\d\d\.\d", cell))
            expected += sum(COURSE[number].minutes for number in re.findall(r"\b\d\d\b(?!\.)(?<!\.\d\d)", cell))
            assert int(minutes) == expected, row
            totals[place] += expected
    assert f"In class {totals[0] / 60:.1f} hours, at home {totals[1] / 60:.1f} hours" in page


def test_a_plan_that_does_not_hold_is_refused():
    plan = PLANS["three weeks"]
    first, second, third = plan.weeks

    def faults(*weeks, **changed):
        return " ".join(dataclasses.replace(plan, weeks=weeks, **changed).faults(COURSE))

    assert "chapter 03 needs 01" in faults(second, first, third)
    assert "task 03.3 before its chapter" in faults(first, dataclasses.replace(second, together=()))
    assert "task 01.1 twice" in faults(first, dataclasses.replace(second, class_tasks=("01.1",)))
    assert "chapter 00 twice" in faults(first, dataclasses.replace(second, read=("00",)))
    assert "110 minutes in class, at most 100" in faults(first, together=100)
    with pytest.raises(ValueError, match=r"there is no task 01\.9"):
        faults(dataclasses.replace(first, class_tasks=("01.9",)))
    with pytest.raises(ValueError, match="there is no chapter 77"):
        faults(dataclasses.replace(first, read=("77",)))


def test_every_chapter_has_its_misconceptions():
    found = syllabus.misconceptions()
    for one in found:
        assert one.task in TASKS, one
        assert len(one.think) <= 160, one
        assert 80 <= len(one.say) <= 450, (one.task, len(one.say))
    for number in COURSE:
        assert 2 <= sum(one.task.startswith(f"{number}.") for one in found) <= 4, number
    numbers = [one.task.split(".")[0] for one in found]
    assert numbers == sorted(numbers)
    assert len({one.think for one in found}) == len(found)
    mentioned = {id for one in found for id in re.findall(r"\b\d\d\.\d\b", one.say)}
    assert mentioned <= TASKS.keys()


def test_all_rubrics_are_on_their_page():
    page = (FOLDER / "rubrics.md").read_text(encoding="utf-8")
    for task in TASKS.values():
        assert all(f". {point}\n" in page for point in task.rubric), task.id
        assert bool(task.rubric) == (task.kind == "text")
    assert all(len(chapter.predictions) == 1 for chapter in list(COURSE.values())[1:])
    assert all(f"**{chapter.predictions[0].id} " in page for chapter in list(COURSE.values())[1:])


def test_links_of_the_pages_lead_somewhere():
    for path in FOLDER.glob("*.md"):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
