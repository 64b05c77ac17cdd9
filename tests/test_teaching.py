"""The pages for those who teach: in step with chapters, tasks and claims, and nothing in them that is not there."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from typing import Any

import nbformat
import pytest
import typer.testing

from course import __main__, handout
from course.claims import records
from course.notebooks import build, source
from course.teaching import pages, slides, syllabus

ROOT = build.repository()
FOLDER = ROOT / "course" / "teaching"
COURSE = syllabus.chapters(ROOT)
TASKS = {task.id: task for chapter in COURSE.values() for task in chapter.tasks}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PLANS = {plan.name: plan for plan in syllabus.plans()}


def test_the_pages_are_in_step():
    assert pages.out_of_step(ROOT) == [], "mend it with: python -m course teaching"


@pytest.mark.parametrize("number", COURSE)
def test_a_chapter_states_the_minutes_of_its_tasks(number):
    chapter = COURSE[number]
    going_further = sum(task.minutes for task in chapter.open_tasks)
    assert chapter.stated in (chapter.exercises, chapter.exercises - going_further), (
        f"chapter {number} says {chapter.stated} minutes for the exercises; its tasks have {chapter.exercises}, "
        f"{chapter.exercises - going_further} without the open one: change its first cell"
    )


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


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Makes the slides of chapter 03 from another text."""

    def make(text: str) -> list[str]:
        (tmp_path / "03.md").write_text(text, encoding="utf-8")
        monkeypatch.setattr(slides, "FOLDER", tmp_path)
        return slides.slides(ROOT, COURSE["03"])

    return make


@pytest.mark.parametrize("number", slides.available())
def test_slides_are_filled_in(number):
    """Question, prediction, figures of the chapter, verdicts, what to ask, tasks: eight to fourteen slides."""
    found = slides.slides(ROOT, COURSE[number])
    whole = "".join(found)
    assert 8 <= len(found) <= 14
    assert whole.count("<img ") >= 3
    tests_claims = any(number in claim.chapters for claim in records.load().values())
    assert ("<th>measured</th>" in whole) == tests_claims
    for heading in ("The question", "Predict", "The verdict", "What to ask the class", "Now you"):
        assert f"<h1>{heading}</h1>" in whole
    assert not re.search(r"(?m)^@|\$\$|<p>@", whole)
    assert all(alt and len(alt) > 60 for alt in re.findall(r'<img alt="([^"]*)"', whole))


def test_each_chapter_has_slides():
    assert slides.available() == list(COURSE)


def test_slides_hold_no_number_that_the_chapter_measures():
    """Verdicts come from claims.toml: no slide says "holds" by itself, and none repeats what was measured."""
    for number in slides.available():
        text = (slides.FOLDER / f"{number}.md").read_text(encoding="utf-8")
        own = "\n".join(line for line in text.splitlines() if not line.startswith("@"))
        assert "holds" not in own.replace("batch holds", "")
        assert "±" not in own


def test_a_row_is_found_by_its_beginning_or_as_a_whole(written):
    """Three rows of F5 begin with these words, and one of them has no others."""
    what = "accuracy gained by L2 alone"
    (row,) = [row for row in records.load()["F5"].at() if row.what == what]
    (slide,) = written(f"@claim F5 · {what}")
    assert f"<td>{what}</td><td>{row.result()}</td>" in slide
    with pytest.raises(slides.SlideError, match="3 times a row of F5"):
        written("@claim F5 · accuracy gained by L2")


def test_verdicts_on_a_slide_are_those_of_the_claims(written):
    rows = [(id, row) for id in ("J2", "S2", "F7") for row in records.load()[id].at() if row.counted]
    (slide,) = written("\n".join(f"@claim {id} · {row.what}" for id, row in rows))
    shown = re.findall(r"<tr><td>(\w+)</td>.*?<td>([^<]*)</td><td>[^<]*: <b>([^<]*)</b></td>", slide)
    assert shown == [(id, row.result().replace("-", "−"), row.verdict) for id, row in rows]
    assert {verdict for _, _, verdict in shown} >= {"holds", "does not hold"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("@figure No such figure", "no figure whose alt text begins with 'No such figure'"),
        ("@figure ", "times a figure whose alt text begins with"),
        ("@print no such line", "no printed line"),
        ("@claim J2 · no such row", "no row of J2"),
        ("@claim Q9 · x", "no claim 'Q9'"),
        ("@ask 04.3", "no misconception of this chapter"),
        ("@task 04.3", "no task in this chapter"),
        ("@picture x", "unknown @picture"),
    ],
)
def test_a_slide_that_asks_for_what_is_not_there(line, said, written):
    with pytest.raises(slides.SlideError, match=said) as error:
        written(f"# One\n---\n{line}\n")
    assert "03.md, slide 2" in str(error.value)


def test_markdown_leaves_formulas_alone(written):
    text = "# A\n\nSo $a_i^* < b_{ij}$ and\n\n$$ x_1 \\\\ *y* & z $$\n\n???\nOf $f_0$, f_0, photo_patches.\n"
    (slide,) = written(text)
    assert r"\(a_i^* &lt; b_{ij}\)" in slide
    assert r"\[ x_1 \\ *y* &amp; z \]" in slide
    assert r'<aside class="notes">' in slide
    assert r"Of \(f_0\), f<sub>0</sub>, photo_patches." in slide


def test_the_command_writes_one_file_that_needs_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "MATHJAX", tmp_path / "tex-svg.js")
    call = ["slides", "03", "--out", str(tmp_path / "out")]
    refused = typer.testing.CliRunner().invoke(__main__.app, call)
    assert refused.exit_code == 1
    assert "tex-svg.js is missing" in refused.output
    (tmp_path / "tex-svg.js").write_text("window.typeset = '</script>'", encoding="utf-8")
    done = typer.testing.CliRunner().invoke(__main__.app, call)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "03_infinite_width.html").read_text(encoding="utf-8")
    assert r"window.typeset = '<\/script>'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    unknown = typer.testing.CliRunner().invoke(__main__.app, ["slides", "21"])
    assert "there is no chapter '21'; there are: 00, 01" in unknown.output


@pytest.mark.weekly
@pytest.mark.skipif(CHROMIUM is None or not (ROOT / slides.MATHJAX).exists(), reason="needs Chromium and MathJax")
def test_slides_in_a_browser(tmp_path):
    """Nothing sticks out at 1280 x 720, every formula is typeset, nothing is fetched, the keys work."""
    pytest.importorskip("playwright")
    for number in slides.available():
        slides.write(ROOT, number, tmp_path / "slides")
    script, out = ROOT / "tests" / "drive_slides.py", tmp_path / "out.json"
    run = subprocess.run(
        [sys.executable, str(script), str(CHROMIUM), str(tmp_path / "slides"), str(out)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(out.read_text())
    assert len(result["slides"]) == len(COURSE)
    assert result["faults"] + result["errors"] + result["requests"] == []


def test_nbgrader_gets_our_stubs():
    """As nbgrader_config.py cuts a solved sheet, so it stands in `exercises`; nbgrader itself is not installed here."""
    for path in sorted((ROOT / "solutions").glob("*.ipynb")):
        solved, sheet = (json.loads((ROOT / folder / path.name).read_text()) for folder in ("solutions", "exercises"))
        assert len(solved["cells"]) == len(sheet["cells"])
        for solution, empty in zip(solved["cells"], sheet["cells"], strict=True):
            about = solution["metadata"].get("nbgrader", {})
            assert about == empty["metadata"].get("nbgrader", {})
            if about.get("solution"):
                cell: Any = nbformat.from_dict(solution | {"source": "".join(solution["source"])})
                assert source.without_solution(cell) == "".join(empty["source"]) != cell.source
    assert handout.on_the_web("[a](../notebooks/a.ipynb)", ROOT).startswith("[a](https://")
