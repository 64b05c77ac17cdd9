"""The README: what it says of hours, chapters, claims and pictures is so, and its links lead somewhere."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from course import chapters
from course.claims import records
from course.pictures import figures, front, map, speed, svg
from course.tasks import all_tasks

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
HEADS = chapters.chapters(ROOT)
DIRECT = chapters.direct(HEADS)
SHEET = Counter()  # minutes
for task in all_tasks().values():
    SHEET[task.chapter] += task.minutes


# ---- the pictures


@pytest.mark.parametrize("name", figures.PICTURES)
def test_a_picture_is_in_step(name):
    draw, most = figures.PICTURES[name]
    text = (ROOT / "course" / "pictures" / name).read_text(encoding="utf-8")
    assert text == draw(ROOT), "python -m course figures draws it anew"
    assert len(text.encode()) < most
    assert not re.search(r"href|url\(|@import|<script|<image", text)


def test_pictures_say_what_they_show_to_those_who_do_not_see_them():
    measured = speed.cases((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"))
    said = {"front": front.alt(), "map": map.alt(ROOT), "speed": speed.alt(measured)}
    alts = dict(re.findall(r'<img src="course/pictures/(\w+)\.svg" width="\d+"\s+alt="([^"]+)">', TEXT))
    assert {name: " ".join(alt.split()) for name, alt in alts.items()} == said
    assert TEXT.count("<img") == 3


def test_letters_stand_out_in_light_and_in_dark():
    for colors in (svg.LIGHT, svg.DARK):
        for ground in ("ground", "row"):
            assert contrast(colors["ink"], colors[ground]) >= 7
            assert contrast(colors["quiet"], colors[ground]) >= 4.5
            for mark in ("gray", "purple", "blue", "orange", "green"):
                assert contrast(colors[mark], colors[ground]) >= 3, mark


def contrast(one, other):
    """The ratio of the accessibility guidelines (WCAG 2)."""

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_style_reaches_its_own_picture_only():
    text = svg.style("map", "a:focus .row,.t{fill:$ink}")
    assert f"#map a:focus .row,#map .t{{fill:{svg.LIGHT['ink']}}}" in text
    assert f"#map .t{{fill:{svg.DARK['ink']}}}" in text.split("@media")[1]
    with pytest.raises(KeyError):
        svg.style("map", ".t{fill:$inc}")


def test_the_plot_of_speed_has_the_fastest_peer_of_each_case():
    table = """
| **a** |  |  |  |  |
| slow | 1 | 8 | 8.00 | 7.00 to 9.00 | 2 |
| fast | 1 | 3 | 3.00 | 2.50 to 3.50 | 2 |
| absent: not measured |  |  |  |  |  |
| **b, N=5** |  |  |  |  |
| limit | 1 | 3 | 30 % | 29 to 31 % | 2 |
| only | 1 | 0.5 | 0.50 | 0.40 to 0.60 | 2 missed |
| **tanh** |  |  |  |  |
| ours with erf | 1 | 0.6 | 0.60 | 0.50 to 0.70 | 0.2 reached |
"""
    found = speed.cases(table)
    assert found == [speed.Case("a", "fast", 3, 2.5, 3.5), speed.Case("b, N=5", "only", 0.5, 0.4, 0.6)]
    assert "between 0.5 and 3" in speed.alt(found)
    with pytest.raises(ValueError, match="holds no table"):
        speed.cases("words")


def test_the_trained_networks_are_where_they_were_predicted():
    """From the stored numbers: within the error of so many networks, and what a width of 512 is off."""
    found = front.load(ROOT)
    between = [place for place in range(len(found["mean"])) if place % front.STEPS_BETWEEN]
    for place, (mean, std) in enumerate(zip(found["mean"], found["std"], strict=True)):
        got, spread = found["measured_mean"][place], found["measured_std"][place]
        if place in between:
            assert abs(got - mean) < 3.5 * std / found["members"] ** 0.5 + 0.05
            assert 0.7 * std < spread < 1.3 * std
        else:
            target = 1.0 if place % (2 * front.STEPS_BETWEEN) == 0 else -1.0
            assert abs(got - target) < 0.01
            assert spread < 0.01
            assert std < 0.01
    inside = [
        abs(network[place] - found["mean"][place]) < 2 * found["std"][place]
        for network in found["networks"]
        for place in between
    ]
    assert 0.88 < sum(inside) / len(inside) < 0.995
    assert min(found["before"]) > 3 * found["std"][1]


@pytest.mark.weekly
def test_the_picture_at_the_head_can_be_made_again():
    """The whole prediction, and the first of the networks."""
    import numpy as np

    found, posed = front.load(ROOT), front.task()
    for name, values in zip(("before", "mean", "std"), front.predict(posed), strict=True):
        assert np.allclose(values, found[name], atol=2e-3), name
    assert np.allclose(front.train(posed, 2), found["networks"][:2], atol=0.02)


# ---- what it says


def test_the_hours_are_those_of_the_chapters_and_tasks():
    reading, exercises = sum(head.minutes for head in HEADS.values()) / 60, SHEET.total() / 60
    said = re.search(r"About (\d+) hours for (\d+) chapters and (\d+) for\s+their (\d+) exercises", TEXT)
    assert said
    assert abs(int(said[1]) - reading) <= 1
    assert abs(int(said[3]) - exercises) <= 1
    assert (int(said[2]), int(said[4])) == (len(HEADS), len(all_tasks()))
    orders = TEXT.split("| you have |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(orders) == 3
    for order in orders:
        _, _, names, *hours, _ = order.split("|")
        numbers = re.findall(r"\d\d", names)
        if " to " in names:
            numbers = [number for number in HEADS if numbers[0] <= number <= numbers[1]]
        found = sum(HEADS[number].minutes for number in numbers), sum(SHEET[number] for number in numbers)
        for words, minutes in zip(hours, found, strict=True):
            hour = re.search(r"\d+", words)
            assert hour
            assert abs(int(hour[0]) - minutes / 60) <= 1, order


def test_the_table_of_chapters_is_that_of_the_chapters():
    rows = re.findall(r"^\| (\d\d) \| \[(.+?)\]\((.+?)\) \| (.+?) \| (.*?) ?\| (\d)(½?) \|$", TEXT, flags=re.MULTILINE)
    assert [row[0] for row in rows] == list(HEADS)
    for number, title, path, about, needs, hours, half in rows:
        head = HEADS[number]
        assert head.title.partition(" · ")[2].startswith(title)
        assert path == head.path
        assert 10 < len(about) < 60
        assert tuple(re.findall(r"\d\d", needs)) == DIRECT[number]
        stated = int(hours) + (0.5 if half else 0)
        assert abs(stated - (head.minutes + SHEET[number]) / 60) <= 0.5, (
            f"{number}: {head.minutes} + {SHEET[number]} min"
        )


def test_the_verdicts_are_counted_right():
    verdicts = Counter(claim.verdict for claim in records.load(ROOT / "course" / "claims.toml").values())
    said = re.search(
        r"Of (\d+) claims of the literature (\d+) hold, (\d+) hold in part, (\d+) do not hold, (\d+) are undecided"
        r"[^.]*? and (\d+) is an identity",
        " ".join(TEXT.split()),
    )
    assert said
    kinds = ("holds", "holds in part", "does not hold", "undecided", "an identity")
    assert [int(number) for number in said.groups()] == [verdicts.total(), *(verdicts[kind] for kind in kinds)]


def test_links_lead_somewhere_and_lines_are_short():
    links = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", TEXT)
    local = [one or other for one, other in links if "://" not in (one or other)]
    assert len(local) > 30
    missing = [link for link in local if not (ROOT / link).exists()]
    assert not missing
    for number, line in enumerate(TEXT.splitlines(), 1):
        assert len(line) <= (135 if line.startswith("|") else 120), f"line {number} of README.md"
    text = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    paragraphs = [part for part in text.split("\n\n") if not part.startswith(("|", "- ", "<img"))]
    assert max(len(part) for part in paragraphs) < 450


def test_the_library_is_shown_in_twelve_lines():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    code = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) == 12


def test_its_commands_exist():
    done = subprocess.run([sys.executable, "-m", "course", "--help"], capture_output=True, text=True, cwd=ROOT)
    there = set(re.findall(r"│ (\w+) ", done.stdout))
    named = {name for name in re.findall(r"`(\w+)(?: \d\d)?` \|", TEXT)}
    named |= set(re.findall(r"python -m course (\w+)", TEXT))
    assert {"progress", "explorer", "replicate", "grade", "handout", "open"} <= named
    assert named <= there
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", TEXT.split("## Without make")[0])) <= targets
