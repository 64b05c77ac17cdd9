"""The map: in step with the chapters, the claims and the code; legible in light and dark; light itself."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from course import chapters
from course.notebooks import source
from course.pictures import map

ROOT = Path(__file__).parents[1]
FILE = ROOT / "course" / "pictures" / "map.svg"
HEADS = chapters.chapters(ROOT)


def test_it_says_what_the_chapters_say():
    rows = {row.number: row for row in map.rows(ROOT)}
    assert list(rows) == list(HEADS)
    assert rows["00"].needs == ()
    assert rows["20"].needs == ("01", "03", "04")
    assert "interop" in rows["20"].modules
    assert "dynamics" in rows["04"].modules
    assert rows["17"].papers == ("Fort 2020",)
    text = FILE.read_text(encoding="utf-8")
    lanes = {near for row in rows.values() for near in row.direct}
    assert {row.title for row in rows.values()} <= set(re.findall(r">([^<>]+)</text>", text))
    assert text.count('class="module"') == sum(len(row.modules) for row in rows.values())
    assert text.count('class="paper"') == sum(len(row.papers) for row in rows.values())
    assert lanes == {"00", "01", "02", "03", "04", "05", "06"}


def test_what_follows_from_the_rest_is_not_drawn_and_nothing_is_lost():
    def behind(needs, number):
        return {far for near in needs[number] for far in {near, *behind(needs, near)}}

    all_, few = {number: head.needs for number, head in HEADS.items()}, chapters.direct(HEADS)
    assert sum(map_ != few[number] for number, map_ in all_.items()) > 5
    for number in HEADS:
        assert behind(all_, number) == behind(few, number)
        for near in few[number]:
            assert not any(near in behind(few, other) for other in few[number])
        assert all(near < number for near in all_[number])


def test_it_is_one_well_formed_file_that_fetches_nothing():
    tree = ET.fromstring(FILE.read_text(encoding="utf-8"))
    assert tree[0].text == "Map of the course"
    assert tree[1].text == map.alt(ROOT)
    assert tree.get("aria-labelledby") == "map-title map-about"
    assert not re.search(r"href|url\(|@import|<script|<image", FILE.read_text(encoding="utf-8"))
    inline = map.draw(ROOT, lambda number: f"chapters/{number}.html")
    assert re.findall(r'<a href="([^"]+)"', inline) == [f"chapters/{number}.html" for number in HEADS]
    ET.fromstring(inline)


def test_a_module_or_paper_without_a_column_is_named():
    table = map.settings(ROOT)
    assert map.modules("ntk.gram(x)\nfrom ntklib import duals, plotting", table) == ("duals", "scale")
    assert map.modules("from ntklib.scale import tiles as t", table) == ("scale",)
    with pytest.raises(ValueError, match=r"no column for the modules \['scale'\]"):
        map.modules("ntk.gram", {**table, "modules": ["duals"]})
    with pytest.raises(ValueError, match=r"no paper with the arXiv numbers \['1234.56789'\]"):
        map.papers(["Somebody 2012 (1234.56789)"], table)


def test_a_chapter_that_says_no_minutes_is_refused(tmp_path):
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "03_x.py"
    path.write_text("# %% [markdown]\n# # 03 · X\n#\n# 60 minutes to read and run, 90 for the exercises.\n#\n# ## Q\n")
    with pytest.raises(source.SourceError, match=r"03_x\.py: before its first section should stand"):
        chapters.chapters(tmp_path)
    path.write_text(path.read_text().replace("exercises.", "exercises. You need\n# chapter 01 (it) and chapter 02."))
    found = chapters.chapters(tmp_path)["03"]
    assert (found.needs, found.minutes, found.title) == (("01", "02"), 60, "03 · X")
