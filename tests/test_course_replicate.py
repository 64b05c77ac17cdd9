"""Recording what chapters measure, and repeating it with other seeds."""

import dataclasses
import datetime
import json
import subprocess
from typing import Any

import pytest
import typer.testing

from course import __main__
from course.claims import records, replicate, tables
from course.claims.records import Row
from course.notebooks import build, execute

TABLE = """\
# remarks
[margin]
exponent = 0.1

[[claim]]
id = "A1"
source = "Somebody 2020"
statement = "it grows"
chapters = ["00"]

[[claim.result]]
what = "slope"
kind = "measured"
number = "exponent"
claimed = -0.5
derived = -0.5
note = "for \\"wide\\" networks"

[[claim.result]]
what = "computed"
kind = "computed"
number = "exponent"
derived = 2

[[claim.result]]
what = "planned"
kind = "measured"
number = "exponent"
claimed = "> 0"
"""
CHAPTER = """\
# %% [markdown]
# # 00 · Start here

# %%
import os
from pathlib import Path

import numpy as np

from course import claim, reseed, scale, sized

table = Path("../course/claims.toml")
n = sized(8, long=800)
shift = float(os.environ.get("TEST_SHIFT", "0")) * (reseed(0) > 0)
values = np.random.default_rng(reseed(0)).normal(-0.5 + shift, 0.05, size=n)
error = values.std(ddof=1) / n**0.5
claim("A1", what="slope", measured=values.mean(), uncertainty=error, seeds=n, path=table)
claim("A1", what="computed", measured=2.0, path=table)
"""
ONE: dict[str, Any] = {
    "id": "A1", "what": "slope", "scale": "laptop", "derived": -0.5, "measured": -0.48, "uncertainty": 0.02,
    "interval": None, "seeds": 5, "exact": -0.48,
}  # fmt: skip


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with chapter 00, for which the commands work."""
    for name in ("NTK_SCALE", "NTK_SEED", "NTK_CLAIMS", "TEST_SHIFT"):
        monkeypatch.delenv(name, raising=False)
    for folder in ("notebooks", "course"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nurls.Repository = "https://example.org/course"\n')
    (tmp_path / "notebooks" / "00_start_here.py").write_text(CHAPTER, encoding="utf-8")
    (tmp_path / "course" / "claims.toml").write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr(build, "repository", lambda: tmp_path)
    return tmp_path


def call(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(__main__.app, arguments)


def text(root) -> str:
    return (root / "course" / "claims.toml").read_text(encoding="utf-8")


def without_results(toml: str) -> list[str]:
    names = ("measured = ", "uncertainty", "interval", "seeds", "scale", "commit", "date")
    return [line for line in toml.splitlines() if not line.startswith(names)]


def test_a_chapter_is_recorded_repeated_and_recorded_at_length(root, monkeypatch):
    """One after the other, since each starts a kernel."""
    missing = call("run", "00")
    assert missing.exit_code == 1
    assert "is not recorded yet" in missing.output
    assert text(root) == TABLE

    assert call("run", "00", "--record").exit_code == 0
    assert without_results(text(root)) == without_results(TABLE)  # only what was measured is written
    slope, computed, planned = records.load(root / "course" / "claims.toml")["A1"].rows
    assert (slope.seeds, slope.verdict, computed.measured, planned.measured) == (8, "holds", 2.0, None)
    assert "course/claims.md" not in tables.out_of_step(root)
    laptop = text(root)

    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    same = call("replicate", "00", "--seeds", "2")
    assert same.exit_code == 0, same.output
    assert "2 of 2 rows keep their verdicts with 2 other seeds" in same.output
    assert "the same to all digits" not in same.output
    monkeypatch.setenv("TEST_SHIFT", "0.4")  # what only other seeds show
    other = call("replicate", "00", "--seeds", "1")
    assert other.exit_code == 1
    assert "the verdict is recorded as 'holds', here it is 'does not hold'" in other.output
    assert "A verdict changed between holds and does not hold." in other.output
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    pooled = call("replicate", "00", "--seeds", "1", "--pool")
    assert "slope: with all 2 runs" in pooled.output
    first, both, *_ = records.load(root / "course" / "claims.toml")["A1"].rows
    assert (first, both.scale, both.seeds, both.verdict) == (slope, "pooled", 16, "undecided")
    assert "course/claims.md" not in tables.out_of_step(root)
    assert f"with other seeds as well: {both.result()} (16 seeds)" in tables.markdown(
        records.load(root / "course" / "claims.toml")
    )
    (root / "course" / "claims.toml").write_text(laptop, encoding="utf-8")

    monkeypatch.setenv("NTK_SCALE", "long")
    assert call("run", "00", "--record").exit_code == 0
    long = [row for row in records.load(root / "course" / "claims.toml")["A1"].rows if row.scale == "long"]
    assert [(row.what, row.seeds, row.claimed) for row in long] == [("slope", 800, -0.5), ("computed", 0, None)]
    assert all(row.commit and row.date for row in long)
    assert [row for row in records.load(root / "course" / "claims.toml")["A1"].rows if row.scale == "laptop"] == list(
        _rows(laptop, root)
    )


def test_runs_together_have_their_mean_and_the_larger_of_two_errors():
    def run(measured, uncertainty=0.02, **fields):
        known: dict[str, Any] = {"what": "slope", "number": "exponent", "margin": 0.1, "seeds": 5}
        return Row(**known | {"measured": measured, "uncertainty": uncertainty} | fields)

    near = replicate.together([run(-0.50), run(-0.51), run(-0.49), run(-0.50)])
    assert (near.scale, near.measured, near.uncertainty, near.seeds) == ("pooled", -0.5, 0.01, 20)  # 0.02/√4
    far = replicate.together([run(-0.4), run(-0.6)])
    assert far.uncertainty == 0.1  # between the runs: 0.2/√2/√2
    both = replicate.together([run(0.0, derived=1.0), run(0.0, derived=1.2)])
    assert both.derived == 1.1
    assert replicate.together([run(0.0, derived="> 0"), run(0.0, derived="> 0")]).derived == "> 0"
    shares = [run(mean, 0.0, number="share", interval=(mean - 0.02, mean + 0.02)) for mean in (0.98, 0.99)]
    share = replicate.together(shares)
    assert share.interval == pytest.approx((0.985 - 0.02 / 2**0.5, 0.9991), abs=1e-4)
    certain = replicate.together([run(0.995, 0.0, number="share", interval=(0.97, 1.0))] * 2)
    assert certain.bounds[1] == 1.0  # a share is at most one


def test_a_pooled_row_is_what_the_claim_is_judged_by_and_other_runs_are_compared_with(root):
    assert replicate.record(root, [ONE | {"measured": -0.37}]) == []  # 0.13 from -0.5, with a margin of 0.1
    claim = records.load(root / "course" / "claims.toml")["A1"]
    assert claim.verdict == "undecided"
    runs = [ONE | {"measured": value, "exact": value} for value in (-0.36, -0.37, -0.38)]
    replicate.pool(root, {("A1", "slope"): runs})
    replicate.pool(root, {("A1", "slope"): runs})  # a second time changes nothing
    claim = records.load(root / "course" / "claims.toml")["A1"]
    assert [row.scale for row in claim.rows if row.what == "slope"] == ["laptop", "pooled"]
    assert (claim.verdict, claim.verdict_at("laptop")) == ("does not hold", "undecided")
    record = replicate.recorded({"A1": claim}, ONE)
    assert record is not None
    assert record.scale == "pooled"

    def changed(claim, **fields):
        record = replicate.recorded({"A1": claim}, ONE)
        assert record is not None
        return replicate.changes(claim, record, replicate.again(record, ONE | fields))

    assert changed(claim, measured=-0.3) == []
    assert changed(claim, measured=-0.4) == []  # undecided with fewer seeds
    assert len(changed(claim, measured=-0.5)) == 2  # it holds, and the prediction is met
    alone = dataclasses.replace(claim, rows=tuple(row for row in claim.rows if row.scale == "laptop"))
    assert len(changed(alone, measured=-0.3)) == 2  # no other record: undecided is a verdict as well


def _rows(toml: str, root) -> tuple[Row, ...]:
    path = root / "before.toml"
    path.write_text(toml, encoding="utf-8")
    return records.load(path)["A1"].rows


def test_a_chapter_that_breaks_is_not_recorded(root):
    path = root / "notebooks" / "00_start_here.py"
    broken = CHAPTER.replace("# %%\nimport os", '# %%\nx = {}\nx["as told"]\n\n# %%\nimport os', 1)
    path.write_text(broken, encoding="utf-8")
    done = call("run", "00", "--record")
    assert done.exit_code == 1
    assert "KeyError: 'as told'" in done.output
    assert text(root) == TABLE
    repeated = call("replicate", "--seeds", "1")
    assert repeated.exit_code == 1
    assert "00_start_here, seed 1: 2 rows" in repeated.output  # what comes after it is compared all the same
    assert """FAILED: cell 3: KeyError 'as told' in `x["as told"]`""" in repeated.output
    assert "Cells failed in: 00_start_here, seed 1" in repeated.output


def test_what_is_recorded_has_the_common_seeds(root, monkeypatch):
    monkeypatch.setenv("NTK_SEED", "2")
    assert "unset NTK_SEED" in str(call("run", "00", "--record").output)
    assert text(root) == TABLE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"what": "other"}, "it has no row in claims.toml"),
        ({"derived": -1.0}, "`derived` is -0.5 in claims.toml, where it is written by hand, and -1.0 here"),
        ({"seeds": 2}, "`seeds` must be at least 3"),
        ({"scale": "long"}, "the chapter runs at its laptop's size"),
    ],
)
def test_what_cannot_be_recorded_is_said(root, change, words):
    assert replicate.record(root, [ONE]) == []
    recorded = text(root)
    (refused,) = replicate.record(root, [ONE | change])
    assert words in refused
    assert text(root) == recorded


def test_an_interval_is_recorded(root):
    assert replicate.record(root, [ONE | {"interval": [-0.6, -0.4], "uncertainty": 0.0}]) == []
    assert "interval = [-0.6, -0.4]" in text(root)
    row = records.load(root / "course" / "claims.toml")["A1"].rows[0]
    assert (row.interval, row.verdict) == ((-0.6, -0.4), "holds")


def row(**changes) -> Row:
    fields: dict[str, Any] = {"what": "slope", "number": "exponent", "margin": 0.1, "seeds": 10, "claimed": -0.5}
    return Row(**(fields | {"measured": -0.48, "uncertainty": 0.01} | changes))


def runs_that_find(monkeypatch, *each):
    """Let `measure` hand over these, one after the other, in place of running a chapter."""
    left = list(each)
    monkeypatch.setattr(replicate, "measure", lambda *_, **__: replicate.Run([left.pop(0)], [], 1.0))


@pytest.mark.parametrize(
    ("each", "passes", "words"),
    [
        ([{"measured": -0.47}, {"measured": -0.5}], True, "1 of 1 rows keep"),
        ([{"measured": -0.47}, {"measured": 0.5}], False, "changed between holds and does not hold"),
        ([{"measured": -0.47}, {"uncertainty": 0.2}], False, "More than one row in twenty changed"),
        ([{}, {}], True, "the same to all digits with all seeds; its experiment does not use course.reseed"),
        ([{"measured": -0.5, "uncertainty": 0.001}] * 2, True, "1 of 1 rows keep"),
    ],
)
def test_a_replication_fails_on_what_changes(root, monkeypatch, capsys, each, passes, words):
    replicate.record(root, [ONE])
    runs_that_find(monkeypatch, *(ONE | change for change in each))
    assert replicate.replicate(root, build.notebooks(root, ["all"]), len(each)) == passes
    assert words in capsys.readouterr().out


def test_one_row_in_twenty_may_become_undecided(root, monkeypatch, capsys):
    many = {f"slope {k}": ONE | {"what": f"slope {k}"} for k in range(40)}
    block = TABLE.split("\n\n")[2]
    blocks = [block.replace('"slope"', json.dumps(name)) for name in many]
    (root / "course" / "claims.toml").write_text("\n\n".join([TABLE.rstrip(), *blocks]) + "\n", encoding="utf-8")
    assert replicate.record(root, list(many.values())) == []
    for undecided, passes in ((2, True), (3, False)):
        found = [one | {"uncertainty": 0.2 if k < undecided else 0.02} for k, one in enumerate(many.values())]
        monkeypatch.setattr(replicate, "measure", lambda *_, found=found, **__: replicate.Run(found, [], 1.0))
        assert replicate.replicate(root, build.notebooks(root, ["00"]), 1) == passes
        assert f"{40 - undecided} of 40 rows keep" in capsys.readouterr().out


def test_a_number_that_moves_is_told_from_noise():
    old = row()
    moved = dataclasses.replace(old, measured=-0.53)  # 3.5 standard errors of the difference
    assert moved.differences(old) == ["recorded -0.48 ± 0.01, measured -0.53 ± 0.01"]
    assert dataclasses.replace(old, measured=-0.515).differences(old) == []


def test_what_rounding_has_left_is_no_difference():
    """Another processor adds in another order; in the digits of a record nothing may change."""
    old = row(kind="identity", seeds=0, uncertainty=0.0, claimed=None, derived=0, measured=2.28e-14)
    assert dataclasses.replace(old, measured=7.1e-13).differences(old) == []
    assert dataclasses.replace(old, measured=2e-9).differences(old) == ["recorded 2.28e-14, measured 2e-09"]
    digits = row(kind="computed", number="digits", margin=1, seeds=0, uncertainty=0.0, claimed=">= 6", measured=10)
    assert dataclasses.replace(digits, measured=9.56).differences(digits) == []
    assert dataclasses.replace(digits, measured=8.5).differences(digits) == ["recorded 10, measured 8.5"]


def test_each_chapter_has_its_week():
    targets: list[Any] = list("abc")
    days = [datetime.date(2026, 12, day) for day in range(7, 28)]
    found = [replicate.of_the_week(targets, day) for day in days]
    assert {found.count(target) for target in targets} == {7}
    assert len({replicate.of_the_week(targets, day) for day in days[::7]}) == 3


def test_a_build_is_everybodys(root, monkeypatch):
    """Not that of the seeds and sizes which the shell of its author happens to have set."""
    for name in ("NTK_SCALE", "NTK_SEED", "NTK_CLAIMS"):
        monkeypatch.setenv(name, "long" if name == "NTK_SCALE" else "3")
    assert not {"NTK_SCALE", "NTK_SEED", "NTK_CLAIMS"} & set(execute.environment(root))


def test_a_record_names_the_commit_and_whether_anything_but_the_records_was_changed(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=n", "-c", "user.email=e@x")
        return subprocess.run(["git", "-C", tmp_path, *who, *arguments], capture_output=True, text=True, check=True)

    assert replicate._commit(tmp_path) == "unknown"
    git("init", "--quiet")
    (tmp_path / "course").mkdir()
    for name in ("course/claims.toml", "course/claims.md", "chapter.py"):
        (tmp_path / name).write_text("before")
    git("add", ".")
    git("commit", "--quiet", "--message", "m")
    head = git("rev-parse", "--short", "HEAD").stdout.strip()
    (tmp_path / "course" / "claims.toml").write_text("measured")
    assert replicate._commit(tmp_path) == head
    (tmp_path / "chapter.py").write_text("after")
    assert replicate._commit(tmp_path) == head + "+"
