"""The claims: all 38 are there, `claim` compares a run with claims.toml, and the page is made from that file."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from course.claims import forest, records, tables
from course.claims.claim import claim
from course.claims.records import Claim, Row

ROOT = Path(__file__).parents[1]
CLAIMS = records.load()
SLOPE = "slope over width of the relative error of one network's NTK"
HEAD = """\
# remarks
[margin]
exponent = 0.1
ratio = 0.1
share = 0.05
"""
TABLE = (
    HEAD
    + """
[[claim]]
id = "A1"
source = "Somebody 2020"
statement = "it | grows"
chapters = ["03", "04"]

[[claim.result]]
what = "slope"
kind = "measured"
number = "exponent"
claimed = "<= -0.5"
derived = -0.5
measured = -0.49
uncertainty = 0.01
seeds = 5

[[claim.result]]
what = "drift"
kind = "measured"
number = "ratio"
claimed = 1
measured = 2
uncertainty = 0.05
seeds = 4
note = "Tried up to width 512"

[[claim.result]]
what = "counted beforehand"
kind = "computed"
number = "exponent"
derived = -1

[[claim]]
id = "A2"
source = "Somebody 2020"
statement = "it falls"
chapters = ["04"]
doubted = true
"""
)
MEASURED: dict[str, Any] = {"what": "slope", "measured": -0.503, "uncertainty": 0.02, "seeds": 5}


@pytest.fixture(autouse=True)
def laptop(monkeypatch):
    """The course as it runs for everybody, whatever the shell says."""
    for name in ("NTK_SCALE", "NTK_SEED", "NTK_CLAIMS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def toml(tmp_path):
    """A claims.toml with one claim that was measured twice and one that was not."""
    path = tmp_path / "claims.toml"
    path.write_text(TABLE, encoding="utf-8")
    return path


def row(**changes) -> Row:
    """A row of an exponent, 10 seeds, -0.5 claimed."""
    fields: dict[str, Any] = {"what": "slope", "number": "exponent", "margin": 0.1, "seeds": 10, "claimed": -0.5}
    return Row(**(fields | changes))


# ---- the record of the course


def test_no_claim_was_dropped():
    assert Counter(id[0] for id in CLAIMS) == {"J": 6, "L": 2, "Z": 3, "H": 8, "S": 3, "F": 12, "T": 4}
    assert {id for id, row in CLAIMS.items() if row.doubted} == {"J5", "H4", "H6", "S2"}
    assert all(re.fullmatch(r"\d\d", chapter) for row in CLAIMS.values() for chapter in row.chapters)


def test_the_file_is_what_would_be_written():
    """So that `--record` changes nothing but what was measured, and no remark is lost."""
    assert records.dump(CLAIMS, records.head()) == records.TOML.read_text(encoding="utf-8")


def test_nobody_writes_a_verdict():
    text = records.TOML.read_text(encoding="utf-8")
    assert not re.search(r"^(verdict|predicted|margin) *=", text, re.MULTILINE)
    for path in (ROOT / "notebooks").glob("*.py"):
        assert not re.search(r"\bverdict=|\bpredicted=", path.read_text(encoding="utf-8")), path.name


def test_what_is_not_counted_or_failed_says_why():
    rows = [(id, row) for id, claim in CLAIMS.items() for row in claim.rows]
    shown_only = [(id, row) for id, row in rows if row.claimed is None and row.derived is None]
    failed = [(id, row) for id, row in rows if row.counted and row.verdict == "does not hold"]
    identities = [(id, row) for id, row in rows if row.kind == "identity"]
    silent = [(id, row.what) for id, row in shown_only + failed + identities if len(row.note) < 20]
    assert not silent
    assert all(row.claimed is None for _, row in identities)  # algebra tests nobody's statement


def test_computed_rows_have_no_seeds():
    found = {(row.seeds > 0) for claim in CLAIMS.values() for row in claim.rows if row.kind == "computed"}
    assert found == {False}


def test_each_chapter_measures_its_claims():
    """A chapter that exists calls `claim` for each of its claims; each recorded result is asserted by some chapter."""
    called = {
        path.name[:2]: set(re.findall(r'\bclaim\(\s*"(\w+)"', path.read_text(encoding="utf-8")))
        for path in (ROOT / "notebooks").glob("*.py")
    }
    for id, row in CLAIMS.items():
        for chapter in set(row.chapters) & set(called):
            assert id in called[chapter], f"notebooks/{chapter}_*.py does not measure {id}"
        if row.rows:
            assert any(id in ids for ids in called.values()), f"{id} is recorded, but no chapter asserts it"


# ---- the verdict of a row


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"measured": -0.483, "uncertainty": 0.024}, "holds"),
        ({"measured": -0.30, "uncertainty": 0.20}, "undecided"),
        ({"measured": -0.30, "uncertainty": 0.01}, "does not hold"),
        ({"measured": -0.48, "uncertainty": 0.024, "seeds": 3}, "undecided"),  # 4.30 standard errors, not 2.26
        ({"measured": -0.48, "uncertainty": 0.024, "interval": (-0.59, -0.41)}, "holds"),
        ({"measured": -0.48, "interval": (-0.61, -0.41)}, "undecided"),
        ({"measured": -0.41, "uncertainty": 1.0, "kind": "computed", "seeds": 0}, "holds"),
        ({"measured": -0.39, "uncertainty": 1.0, "kind": "computed", "seeds": 0}, "does not hold"),
        ({"measured": -0.9, "uncertainty": 0.01, "claimed": "<= -0.5"}, "holds"),
        ({"measured": -0.9, "uncertainty": 0.01, "claimed": "> 0"}, "does not hold"),
        ({"measured": -0.9, "uncertainty": 0.01, "claimed": None}, ""),
        ({}, ""),
    ],
)
def test_the_verdict_follows_from_the_numbers(changes, verdict):
    assert row(**changes).verdict == verdict


def test_only_our_prediction_has_an_error_of_its_theory():
    found = row(measured=-0.62, uncertainty=0.005, derived=-0.5, derived_error=0.05)
    assert (found.verdict, found.prediction) == ("does not hold", "met")
    assert row(measured=-0.62, uncertainty=0.005, derived=-0.5).prediction == "not met"
    with pytest.raises(ValueError, match="`derived_error` is from 0 to the margin"):
        row(derived=-0.5, derived_error=0.11)


def test_identities_and_rows_outside_are_not_counted():
    good = {"measured": -0.5, "uncertainty": 0.01}
    assert row(**good).counted
    assert not row(**good, kind="identity").counted
    assert not row(**good, outside="it is a narrow network").counted
    assert not row(**good, claimed=None, derived=-0.5).counted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "guessed"}, "`kind` must be one of measured, computed, identity"),
        ({"scale": "desk"}, "`scale` must be one of laptop, pooled, long, paper"),
        ({"claimed": "about -1"}, "a relation such as"),
        ({"claimed": None, "outside": "why"}, "`outside` says why"),
        ({"measured": 1.0, "seeds": 2}, "`seeds` must be at least 3"),
        ({"measured": float("nan"), "uncertainty": 0.1}, "must be finite"),
        ({"measured": 1.0, "uncertainty": -1.0}, "must be finite"),
        ({"measured": 1.0}, "`uncertainty` must be positive"),
        ({"measured": 1.0, "interval": (1.1, 1.2)}, "must hold what was measured"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        row(**changes)


def test_what_is_printed_ends_with_the_first_digit_of_the_error():
    for mean, error, text in (
        (-0.4831, 0.0237, "-0.48 ± 0.02"),
        (1.0, 0.013, "1.00 ± 0.01"),
        (1.4e-6, 1.6e-7, "1.4e-06 ± 2e-07"),
        (-0.0003, 0.005, "0.000 ± 0.005"),
        (123.4, 20, "123 ± 20"),
        (-1.00001, 3e-7, "-1.000 ± 0.001"),
        (0.9759, 0.00041, "0.9759 ± 0.0004"),
        (0.0, 0.0096, "0 ± 0.01"),
        (4.3e-9, 1e-13, "4.300e-09 ± 1e-13"),
    ):
        assert row(measured=mean, uncertainty=error).result() == text


# ---- the verdict of a claim


def claims_of(*rows: Row) -> Claim:
    return Claim("A1", "Somebody 2020", "it grows", ("03",), rows=rows)


def test_the_verdict_of_several_rows():
    holds = row(what="a", measured=-0.5, uncertainty=0.01)
    fails = row(what="b", measured=0.5, uncertainty=0.01)
    for rows, verdict in (
        ((), "not measured yet"),
        ((row(what="planned"),), "not measured yet"),
        ((holds,), "holds"),
        ((holds, fails), "holds in part"),
        ((fails,), "does not hold"),
        ((holds, row(what="c", measured=0.5, uncertainty=0.01, outside="narrow")), "holds"),
        ((row(what="c", measured=0.5, uncertainty=0.01, outside="narrow"),), "not tested yet"),
        ((row(what="c", measured=0.5, kind="identity"),), "an identity"),
    ):
        assert claims_of(*rows).verdict == verdict


def test_not_at_this_scale_is_a_significant_step_towards_the_claim():
    def two(small: tuple[float, float], large: tuple[float, float]) -> Claim:
        sizes = zip(("laptop", "long"), (small, large), strict=True)
        return claims_of(*(row(scale=name, measured=m, uncertainty=u) for name, (m, u) in sizes))

    for small, large, laptop, verdict in (
        ((0.5, 0.01), (0.1, 0.01), "not at this scale", "not at this scale"),  # nearer, but not there
        ((0.5, 0.01), (-0.5, 0.01), "not at this scale", "holds"),
        ((0.5, 0.01), (0.9, 0.01), "does not hold", "does not hold"),  # farther away
        ((0.5, 0.25), (0.1, 0.25), "does not hold", "undecided"),  # the step may be noise
        ((-0.5, 0.01), (0.5, 0.01), "holds", "does not hold"),
    ):
        claim = two(small, large)
        assert (claim.verdict_at("laptop"), claim.verdict) == (laptop, verdict), (small, large)


# ---- claim(...) in a notebook


def test_a_measurement_that_agrees_is_printed_beside_its_record(toml, capsys):
    claim("A1", **MEASURED, path=toml)
    assert capsys.readouterr().out == (
        "A1 · slope\n"
        "   now -0.50 ± 0.02, recorded -0.49 ± 0.01 (5 seeds, margin 0.1): claimed <= -0.5: holds; derived -0.5: met\n"
    )


def test_shared_digits_are_printed_as_recorded(toml, capsys):
    """How many there are beyond the margin is a matter of the processor's rounding."""
    row = 'what = "digits"\nkind = "computed"\nnumber = "digits"\nclaimed = ">= 6"\nmeasured = 10\n'
    text = TABLE.replace("[margin]", "[margin]\ndigits = 1") + f"\n[[claim.result]]\n{row}"
    toml.write_text(text, encoding="utf-8")
    claim("A2", what="digits", measured=9.56, path=toml)
    assert "now 10, recorded 10 (margin 1): claimed >= 6: holds" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=r"recorded 10, measured 8\.5"):
        claim("A2", what="digits", measured=8.5, path=toml)


def test_a_verdict_near_its_margin_may_become_undecided(toml, capsys):
    """As on another processor: the numbers agree, and the verdict that is printed is the record's."""
    claim("A1", **(MEASURED | {"measured": -0.47, "uncertainty": 0.04}), path=toml)
    assert "claimed <= -0.5: holds; derived -0.5: met" in capsys.readouterr().out
    assert row(measured=-0.47, uncertainty=0.04, seeds=5, claimed="<= -0.5").verdict == "undecided"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"measured": -0.57}, "recorded -0.49 ± 0.01, measured -0.57 ± 0.02"),
        ({"measured": -0.42, "uncertainty": 0.001}, "recorded -0.49 ± 0.01, measured -0.420 ± 0.001"),
        ({"measured": 0.5}, "the verdict is recorded as 'holds', here it is 'does not hold'"),
        ({"uncertainty": 0.2}, "recorded -0.49 ± 0.01, measured -0.5 ± 0.2"),
        ({"seeds": 4}, "the number of seeds is recorded as 5, here it is 4"),
        ({"derived": -1.0}, "`derived` is -0.5 in claims.toml, here it is -1.0"),
        ({"what": "counted beforehand", "seeds": 0}, "which is not recorded yet"),
    ],
)
def test_a_measurement_that_disagrees_says_where(toml, change, words):
    with pytest.raises(AssertionError, match=words) as caught:
        claim("A1", **(MEASURED | change), path=toml)
    assert "python -m course run NN --record" in str(caught.value)


def test_a_row_must_stand_in_the_table_beforehand(toml):
    with pytest.raises(ValueError, match="no claim 'A3'; there are A1, A2"):
        claim("A3", **MEASURED, path=toml)
    with pytest.raises(ValueError, match="no row 'other'") as caught:
        claim("A1", **(MEASURED | {"what": "other"}), path=toml)
    assert "'slope'; 'drift'; 'counted beforehand'" in str(caught.value)
    block = str(caught.value).split("\n\n")[1]
    toml.write_text(TABLE + "\n" + block, encoding="utf-8")  # as told, under the last claim
    assert records.load(toml)["A2"].rows[0].what == "other"


@pytest.mark.parametrize(("name", "value"), [("NTK_SCALE", "paper"), ("NTK_SCALE", "long"), ("NTK_SEED", "3")])
def test_other_seeds_and_sizes_are_judged_and_not_asserted(toml, capsys, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    claim("A1", **(MEASURED | {"measured": 9.0}), path=toml)
    out = capsys.readouterr().out
    assert "now 9.00 ± 0.02" in out
    assert "claimed <= -0.5: does not hold; derived -0.5: not met" in out
    assert ("recorded -0.49 ± 0.01" in out) == (name == "NTK_SEED")


CALLS = [  # of J2, -0.5 claimed and derived, with 10 seeds where nothing else is said
    ({"measured": -0.30, "uncertainty": 0.20}, "undecided"),
    ({"measured": -0.483, "uncertainty": 0.024}, "holds"),
    ({"measured": -0.5, "uncertainty": 0.044}, "holds"),
    ({"measured": -0.5, "uncertainty": 0.045}, "undecided"),
    ({"measured": -0.5, "uncertainty": 0.03, "seeds": 3}, "undecided"),
    ({"measured": -0.5, "uncertainty": 0.03, "seeds": 30}, "holds"),
    ({"measured": -0.39, "uncertainty": 0.001}, "does not hold"),
    ({"measured": -0.30, "uncertainty": 0.04}, "does not hold"),
    ({"measured": -1.0, "uncertainty": 0.1}, "does not hold"),
    ({"measured": -1.0, "uncertainty": 0.3}, "undecided"),
    ({"measured": 0.5, "uncertainty": 0.01}, "does not hold"),
    ({"measured": -0.45, "interval": (-0.55, -0.42)}, "holds"),
    ({"measured": -0.45, "interval": (-0.55, -0.35)}, "undecided"),
]


@pytest.mark.parametrize(("numbers", "verdict"), CALLS)
def test_no_call_is_taken_at_its_word(numbers, verdict, capsys, monkeypatch):
    call: dict[str, Any] = {"seeds": 10, "uncertainty": 0.02, **numbers}
    monkeypatch.setenv("NTK_SEED", "1")
    claim("J2", what=SLOPE, **call)
    outcome = {"holds": "met", "does not hold": "not met"}.get(verdict, verdict)
    assert f"claimed -0.5: {verdict}; derived -0.5: {outcome}" in capsys.readouterr().out
    monkeypatch.delenv("NTK_SEED")
    if verdict == "does not hold":
        with pytest.raises(AssertionError, match="recorded as 'holds', here it is 'does not hold'"):
            claim("J2", what=SLOPE, **call)
        assert capsys.readouterr().out == ""
    with pytest.raises(TypeError, match="verdict"):
        claim("J2", what=SLOPE, **(call | {"verdict": "holds"}))


def test_a_forgotten_uncertainty_or_number_of_seeds_is_no_certainty(monkeypatch):
    for seed in ("0", "1"):
        monkeypatch.setenv("NTK_SEED", seed)
        with pytest.raises(ValueError, match="`uncertainty` must be positive"):
            claim("J2", what=SLOPE, measured=-0.5, seeds=10)
        with pytest.raises(ValueError, match="`seeds` must be at least 3"):
            claim("J2", what=SLOPE, measured=-0.5, uncertainty=0.02)


# ---- the file and the page


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"A2"', '"A1"', "stands twice"),
        ('"drift"', '"slope"', "two rows 'slope' at scale laptop"),
        ("note =", "verdict =", "no field verdict"),
        ('"ratio"\n', '"price"\n', "`number` must be one of exponent, ratio, share"),
        ("seeds = 4", "seeds = 2", "claim A1, 'drift': `seeds` must be at least 3"),
    ],
)
def test_a_table_that_is_not_well_formed_is_refused(toml, old, new, words):
    toml.write_text(TABLE.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        records.load(toml)


def test_the_page_is_made_from_the_file(toml, tmp_path):
    (tmp_path / "course").mkdir()
    toml.rename(tmp_path / "course" / "claims.toml")
    assert "course/claims.md" in tables.out_of_step(tmp_path)
    tables.write_page(tmp_path)
    assert "course/claims.md" not in tables.out_of_step(tmp_path)
    page = (tmp_path / "course" / "claims.md").read_text(encoding="utf-8")
    for line in (
        "1 of 2 claims of the literature",
        "| [A1](#a1) | it \\| grows | Somebody 2020 | 03, 04 | holds in part |",
        "| slope | <= -0.5 | -0.5 | -0.49 ± 0.01 (5 seeds) |  | 0.1 | holds | met |",
        "| drift | 1 |  | 2.00 ± 0.05 (4 seeds) |  | 0.1 | does not hold |  |",
        "- *drift*: Tried up to width 512",
        "| A2 | it falls *(doubted beforehand)* | Somebody 2020 | 04 | not measured yet |",
    ):
        assert line in page
    assert "counted beforehand" not in page
    assert tables.table(records.load(tmp_path / "course" / "claims.toml")).row_count == 2


def test_a_long_run_stands_beside_the_laptops(toml):
    long = TABLE.replace("[[claim]]\nid = \"A2\"", """[[claim.result]]
what = "drift"
kind = "measured"
number = "ratio"
scale = "long"
claimed = 1
measured = 1.3
uncertainty = 0.01
seeds = 40
commit = "0123abc"
date = "2026-11-29"

[[claim]]
id = "A2\"""")  # fmt: skip
    toml.write_text(long, encoding="utf-8")
    claims = records.load(toml)
    assert records.dump(claims, HEAD) == long
    assert claims["A1"].verdict == "not at this scale"
    cells = "| drift | 1 |  | 2.00 ± 0.05 (4 seeds) | 1.30 ± 0.01 (40 seeds) | 0.1 |"
    assert cells in tables.markdown(claims)


# ---- the figure


def drawn(*rows: Row) -> Any:
    return forest.draw({"A1": claims_of(*rows)}).axes[0]


def marks(ax) -> list[tuple[str, float, float]]:
    """Marker, place and line of what stands in the figure, without the legend."""
    lines = [line for line in ax.lines if line.get_marker() not in ("None", "") and len(line.get_xdata())]
    return [(line.get_marker(), line.get_xdata()[0], line.get_ydata()[0]) for line in lines]


def test_the_figure_shows_distances_in_margins():
    ax = drawn(
        row(what="a", measured=-0.45, uncertainty=0.02, derived=-0.6, derived_error=0.05),
        row(what="b", measured=0.5, uncertainty=0.02),  # ten margins off
        row(what="c", measured=0.5, uncertainty=0.02, kind="computed"),
        row(what="d", measured=-0.4, uncertainty=0.001, claimed="<= -0.5", outside="narrow"),
        row(what="e", measured=-0.4, uncertainty=0.001, claimed=None),
    )
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a  A1", "b  A1", "d  A1"]
    assert marks(ax) == [
        ("o", pytest.approx(0.5), pytest.approx(-0.21)),
        ("D", pytest.approx(1.5), pytest.approx(0.21)),
        (">", pytest.approx(forest.FURTHEST, abs=0.1), pytest.approx(0.79)),
        ("x", pytest.approx(1.0), pytest.approx(1.79)),
    ]
    bars = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    assert bars == [pytest.approx(bar) for bar in ((-1, 1), (-1.5, 1.5), (-1, 1), (-forest.FURTHEST, 1))]
    interval = next(line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == -0.21)
    assert interval.get_xdata() == pytest.approx([0.5 - 2.262 * 0.2, 0.5 + 2.262 * 0.2], abs=1e-3)
    assert [text.get_text() for text in ax.texts] == ["holds", "undecided", "does not hold", "not counted"]


def test_a_point_in_the_grey_with_its_interval_holds():
    """The picture and the rule say the same, for every row of the course."""
    for pair in forest.points(CLAIMS):
        for point in filter(None, pair):
            inside = point.band[0] <= point.low and point.high <= point.band[1]
            if point.said in ("holds", "met") and point.band[0] == -point.band[1]:
                assert inside, point
            if point.said in ("does not hold", "not met"):
                assert not inside, point


def test_the_figure_is_greyscale():
    import numpy as np
    from PIL import Image

    path = ROOT / "course" / "claims.png"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels.max(2) == pixels.min(2)).all()
    assert pixels.min() < 20  # not faint
    assert path.stat().st_size < 1_200 * len(forest.points(CLAIMS))  # and a line of text is half of that


def test_a_stale_figure_is_named(toml, tmp_path):
    (tmp_path / "course").mkdir()
    path = toml.rename(tmp_path / "course" / "claims.toml")
    assert forest.is_stale(tmp_path)
    tables.write_page(tmp_path)
    assert tables.out_of_step(tmp_path) == []
    path.write_text(TABLE.replace("uncertainty = 0.05", "uncertainty = 0.06"), encoding="utf-8")
    assert tables.out_of_step(tmp_path) == ["course/claims.md", "course/claims.png"]
