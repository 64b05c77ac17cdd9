"""The claims: all 38 are there, `claim` asserts what claims.toml records, and the page is made from it."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from course import claims
from course.claims import claim

ROOT = Path(__file__).parents[1]
CLAIMS = claims.load()
MEASURED: dict[str, Any] = {
    "what": "slope", "measured": -0.503, "uncertainty": 0.02, "verdict": "holds", "seeds": 5, "predicted": -0.5
}  # fmt: skip


@pytest.fixture
def toml(tmp_path):
    """A claims.toml with one claim that was measured twice and one that was not."""
    path = tmp_path / "claims.toml"
    path.write_text(
        """
        [[claim]]
        id = "A1"
        source = "Somebody 2020"
        statement = "it | grows"
        chapters = ["03", "04"]
        [[claim.result]]
        what = "slope"
        predicted = -0.5
        measured = -0.49
        uncertainty = 0.01
        seeds = 5
        verdict = "holds"
        [[claim.result]]
        what = "drift"
        measured = 2.0
        uncertainty = 0.5
        seeds = 3
        verdict = "not at this scale"
        note = "Tried up to width 512"
        [[claim]]
        id = "A2"
        source = "Somebody 2020"
        statement = "it falls"
        chapters = ["04"]
        doubted = true
        """
    )
    return path


def test_no_claim_was_dropped():
    assert Counter(id[0] for id in CLAIMS) == {"J": 6, "L": 2, "Z": 3, "H": 8, "S": 3, "F": 12, "T": 4}
    assert {id for id, row in CLAIMS.items() if row.doubted} == {"J5", "H4", "H6", "S2"}
    assert all(re.fullmatch(r"\d\d", chapter) for row in CLAIMS.values() for chapter in row.chapters)


def test_each_verdict_but_holds_says_why():
    silent = [
        id
        for id, row in CLAIMS.items()
        for result in row.results
        if result.verdict != "holds" and len(result.note) < 20
    ]
    assert not silent


def test_each_chapter_measures_its_claims():
    """A chapter that exists calls `claim` for each of its claims; each recorded result is asserted by some chapter."""
    called = {
        path.name[:2]: set(re.findall(r'\bclaim\(\s*"(\w+)"', path.read_text()))
        for path in (ROOT / "notebooks").glob("*.py")
    }
    for id, row in CLAIMS.items():
        for chapter in set(row.chapters) & set(called):
            assert id in called[chapter], f"notebooks/{chapter}_*.py does not measure {id}"
        if row.results:
            assert any(id in ids for ids in called.values()), f"{id} is recorded, but no chapter asserts it"


def test_a_measurement_that_agrees_prints_the_recorded_row(toml, capsys):
    claim("A1", **MEASURED, path=toml)
    row = "A1 holds · slope: predicted -0.5, measured -0.49 ± 0.01 (5 seeds)\n"
    assert capsys.readouterr().out == row


@pytest.mark.parametrize(
    ("id", "change", "words"),
    [
        ("A1", {"measured": -0.54}, "recorded -0.49 ± 0.01, measured -0.54 ± 0.02"),
        ("A1", {"verdict": "does not hold"}, "`verdict` is recorded as 'holds', here it is 'does not hold'"),
        ("A1", {"seeds": 3}, "`seeds` is recorded as 5, here it is 3"),
        ("A1", {"predicted": -1.0}, "`predicted` is recorded as -0.5, here it is -1.0"),
        ("A1", {"what": "other"}, "is not recorded yet"),
        ("A2", {}, "is not recorded yet"),
    ],
)
def test_a_measurement_that_disagrees_says_what_to_record(toml, id, change, words):
    with pytest.raises(AssertionError) as caught:
        claim(id, **(MEASURED | change), path=toml)
    assert words in str(caught.value)
    block = str(caught.value).split("\n\n")[1]
    toml.write_text(
        f'[[claim]]\nid = "{id}"\nsource = "s"\nstatement = "s"\nchapters = ["01"]\n{block}', encoding="utf-8"
    )
    claim(id, **(MEASURED | change), path=toml)  # the block that it shows is right


@pytest.mark.parametrize(
    ("id", "change", "words"),
    [
        ("A3", {}, "no claim 'A3'"),
        ("A1", {"verdict": "true"}, "`verdict` must be one of holds"),
        ("A1", {"seeds": 2}, "`seeds` must be at least 3"),
        ("A1", {"measured": float("nan")}, "must be finite"),
        ("A1", {"uncertainty": -1.0}, "must be finite"),
    ],
)
def test_a_call_that_cannot_be_right_is_refused(toml, id, change, words):
    with pytest.raises(ValueError, match=words):
        claim(id, **(MEASURED | change), path=toml)


def test_paper_scale_prints_both_and_asserts_nothing(toml, capsys, monkeypatch):
    monkeypatch.setenv("NTK_SCALE", "paper")
    claim("A1", **(MEASURED | {"measured": -9.0}), path=toml)
    assert "measured -9" in (out := capsys.readouterr().out)
    assert "measured -0.49" in out


def test_the_verdict_of_several_results(toml):
    rows = claims.load(toml)
    assert (rows["A1"].verdict, rows["A2"].verdict) == ("holds in part", "not measured yet")


def test_the_page_is_made_from_the_file(toml, tmp_path):
    (tmp_path / "course").mkdir()
    toml.rename(tmp_path / "course" / "claims.toml")
    assert claims.out_of_step(tmp_path)
    claims.write_page(tmp_path)
    assert not claims.out_of_step(tmp_path)
    page = (tmp_path / "course" / "claims.md").read_text()
    assert "1 of 2 measured" in page
    assert "| A1 | it \\| grows |" in page
    assert "Tried up to width 512" in page
    assert "| A2 | it falls *(doubted)* | Somebody 2020 | 04 | not measured yet |  |" in page
    assert claims.table(claims.load(tmp_path / "course" / "claims.toml")).row_count == 2


def test_a_claim_stands_once(toml):
    toml.write_text(toml.read_text().replace('"A2"', '"A1"'))
    with pytest.raises(ValueError, match="stands twice"):
        claims.load(toml)
