"""Runs chapters for their claims: to record what is measured in claims.toml, or to repeat it with other seeds.

A chapter that runs with `NTK_CLAIMS=file` appends what each `claim` measures to that file, and asserts nothing.
"""

import dataclasses
import datetime
import json
import math
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course.claims import records
from course.claims.claim import HANDED, same_target
from course.claims.records import Claim, Row
from course.claims.verdicts import FAILS, HOLDS, UNDECIDED
from course.notebooks import execute, source
from course.notebooks.build import Target

MEASURED = ("measured", "uncertainty", "interval", "seeds")
MOST_CHANGES = 1 / 20  # of the rows
POOLED = records.SIZES[1]
RANGES = {"share": (0.0, 1.0), "accuracy": (-1.0, 1.0), "correlation": (-1.0, 1.0)}
NORMAL = 1.96  # an interval of 95 % is so many standard errors to either side


@dataclass(frozen=True)
class Run:
    """What a chapter measured, in order, and what went wrong."""

    found: list[dict[str, Any]]
    wrong: list[str]
    seconds: float


def run(root: Path, target: Target, to_the_end: bool = False, **variables: str) -> Run:
    """Run a chapter from its source with these environment variables; no file is changed.

    `to_the_end` goes on after a cell that fails: an assertion may stand before a claim that has nothing to do with it.
    """
    begin = time.monotonic()
    try:
        chosen = {name: os.environ[name] for name in execute.CHOSEN if name in os.environ}
        env = {**execute.environment(root), **chosen, **variables}
        nb = execute.execute(target.cells(root), target.path, env, timeout=24 * 3600, allow_errors=to_the_end)
        wrong = _failures(nb) if to_the_end else execute.problems(nb, root)
    except (execute.NotebookFailed, source.SourceError) as error:
        wrong = [str(error)]
    return Run([], wrong, time.monotonic() - begin)


def _failures(nb: Any) -> list[str]:
    """The cells that failed, each with the line that did."""
    found = []
    for number, cell in enumerate(nb.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                lines = execute.plain("\n".join(output.traceback)).splitlines()
                where = next((line.split(maxsplit=2)[-1] for line in lines[::-1] if re.match(r"-+> \d", line)), "")
                found.append(f"cell {number}: {output.ename} {output.evalue} in `{where}`".replace("  ", " "))
    return found


def measure(root: Path, target: Target, to_the_end: bool = False, **variables: str) -> Run:
    """The same, with what its claims measured."""
    with tempfile.TemporaryDirectory() as folder:
        handed = Path(folder) / "claims.jsonl"
        done = run(root, target, to_the_end, **variables, NTK_CLAIMS=str(handed))
        lines = handed.read_text(encoding="utf-8").splitlines() if handed.exists() else []
    return dataclasses.replace(done, found=[json.loads(line) for line in lines])


# ---- course run NN --record


def record(root: Path, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write what was measured into claims.toml, and nothing else; return in words what could not be recorded.

    A size that has no row yet gets one, with what is claimed and derived in the laptop's.
    """
    path = root / "course" / "claims.toml"
    claims, refused = records.load(path), []
    for one in found:
        try:
            claims[one["id"]] = with_measurement(claims[one["id"]], one, _commit(root))
        except ValueError as error:
            refused.append(f"claim {one['id']}, {one['what']!r} is not recorded: {error}")
    path.write_text(records.dump(claims, records.head(path)), encoding="utf-8")
    return refused


def with_measurement(claim: Claim, one: Mapping[str, Any], commit: str) -> Claim:
    """Return the claim with what was measured in the row of its scale; raise ValueError if it cannot stand there."""
    rows = list(claim.rows)
    sizes = {row.scale: index for index, row in enumerate(rows) if row.what == one["what"]}
    laptop = rows[sizes["laptop"]] if "laptop" in sizes else None
    plan = rows[sizes[one["scale"]]] if one["scale"] in sizes else laptop
    if plan is None:
        raise ValueError("it has no row in claims.toml")
    measured = {name: one[name] for name in MEASURED}
    if one["interval"] is not None:
        measured["interval"] = tuple(one["interval"])
    if one["scale"] != "laptop":
        measured |= {"commit": commit, "date": datetime.date.today().isoformat()}
        if laptop and plan.kind == "measured" and _numbers(laptop) == _numbers(dataclasses.replace(plan, **measured)):
            raise ValueError(f"the chapter runs at its laptop's size; course.sized gives it one for {one['scale']}")
    new = dataclasses.replace(plan, scale=one["scale"], **measured)
    if not same_target(plan, dataclasses.replace(plan, derived=one["derived"])):
        raise ValueError(
            f"`derived` is {plan.derived} in claims.toml, where it is written by hand, and {one['derived']} here"
        )
    if one["scale"] in sizes:
        rows[sizes[one["scale"]]] = new
    else:
        rows.insert(max(sizes.values()) + 1, new)
    return dataclasses.replace(claim, rows=tuple(rows))


def _numbers(row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in MEASURED)


def _commit(root: Path) -> str:
    """The commit that is checked out, with "+" if the working tree differs from it by more than the records."""
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    but_records = ("--", ".", ":(exclude)course/claims.*")  # one recorded chapter after the other
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *but_records], capture_output=True, check=False)
    return head.stdout.strip() + "+" * bool(changed.returncode) if head.returncode == 0 else "unknown"


# ---- course replicate


def replicate(root: Path, chapters: Sequence[Target], seeds: int, first: int = 1, pooled: bool = False) -> bool:
    """Run each chapter with so many other seeds, say what changes, and tell whether the record stands.

    `first` is the first of the seeds. `pooled` writes what all runs measured together into claims.toml, for the rows
    whose verdicts change.
    """
    claims = records.load(root / "course" / "claims.toml")
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}  # what was measured of each row
    changed: set[tuple[str, str]] = set()
    reversed_, broken = False, []
    for target in chapters:
        for seed in range(first, first + seeds):
            run = measure(root, target, to_the_end=True, NTK_SEED=str(seed))
            name = f"{target.path.stem}, seed {seed}"
            print(f"{name}: {len(run.found)} rows in {run.seconds:.0f} s", flush=True)
            if run.wrong:
                broken.append(name)
                print("\n".join(f"   FAILED: {words}" for words in run.wrong), flush=True)
            for one in run.found:
                old = recorded(claims, one)
                if old is None:
                    continue
                key, new = (one["id"], one["what"]), again(old, one)
                seen.setdefault(key, []).append(one)
                words = changes(claims[one["id"]], old, new)
                if words:
                    changed.add(key)
                reversed_ = reversed_ or {old.verdict, new.verdict} == {HOLDS, FAILS}
                for line in dict.fromkeys(words + new.differences(dataclasses.replace(old, seeds=new.seeds))):
                    print(f"   {one['id']} · {one['what']}: {line}", flush=True)
    print(f"{len(seen) - len(changed)} of {len(seen)} rows keep their verdicts with {seeds} other seeds")
    for (id, what), values in seen.items():
        if seeds > 1 and len({one["exact"] for one in values}) == 1 and _is_random(claims[id], what):
            print(f"{id} · {what}: the same to all digits with all seeds; its experiment does not use course.reseed")
    if pooled:
        pool(root, {key: runs for key, runs in seen.items() if key in changed and _is_random(claims[key[0]], key[1])})
    too_many = len(changed) > MOST_CHANGES * len(seen)
    if reversed_:
        print("A verdict changed between holds and does not hold.")
    if too_many:
        print("More than one row in twenty changed.")
    if broken:
        print(f"Cells failed in: {', '.join(broken)}")
    return not (reversed_ or too_many or broken)


# ---- course replicate --pool


def pool(root: Path, found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> None:
    """Write a pooled row for each of these (claim, what): the laptop's record and its runs with other seeds together.

    A pooled row that stands already is replaced.
    """
    path = root / "course" / "claims.toml"
    claims = records.load(path)
    for (id, what), runs in found.items():
        rows = [row for row in claims[id].rows if (row.what, row.scale) != (what, POOLED)]
        at = next(index for index, row in enumerate(rows) if (row.what, row.scale) == (what, "laptop"))
        laptop = rows[at]
        row = together([laptop, *(again(laptop, one) for one in runs)])
        row = dataclasses.replace(row, commit=_commit(root), date=datetime.date.today().isoformat())
        rows.insert(at + 1, row)
        claims[id] = dataclasses.replace(claims[id], rows=tuple(rows))
        print(f"   {id} · {what}: with all {len(runs) + 1} runs {row.result()}, {row.judged()}", flush=True)
    path.write_text(records.dump(claims, records.head(path)), encoding="utf-8")


def together(runs: Sequence[Row]) -> Row:
    """Return the pooled row of several runs of equally many seeds.

    It has the mean of the runs. Its standard error is that of the mean of independent runs, or what the scatter between
    the runs says, whichever is larger.
    """
    count = len(runs)
    values = [float(run.measured or 0.0) for run in runs]
    mean = statistics.fmean(values)
    error = max(math.hypot(*(run.error for run in runs)) / count, statistics.stdev(values) / math.sqrt(count))
    derived = [run.derived for run in runs]
    fields: dict[str, Any] = {"uncertainty": error}
    if runs[0].interval is not None:
        low, high = RANGES.get(runs[0].number, (-math.inf, math.inf))
        half = NORMAL * error
        fields = {"uncertainty": 0.0, "interval": (max(mean - half, low), min(mean + half, high))}
    if all(isinstance(value, (int, float)) for value in derived):
        fields["derived"] = records.short(statistics.fmean(derived))  # type: ignore
    seeds = sum(run.seeds for run in runs)
    return dataclasses.replace(runs[0], scale=POOLED, measured=mean, seeds=seeds, **fields).rounded()


def _is_random(claim: Claim, what: str) -> bool:
    return any(row.kind == "measured" for row in claim.rows if row.what == what)


def recorded(claims: Mapping[str, Claim], one: Mapping[str, Any]) -> Row | None:
    """The record of a measurement at its scale, if there is one; for a laptop's the pooled one, if there is one."""
    rows = claims[one["id"]].rows if one["id"] in claims else ()
    found = {row.scale: row for row in rows if row.what == one["what"] and row.measured is not None}
    return found.get(POOLED if one["scale"] == "laptop" and POOLED in found else one["scale"])


def changes(claim: Claim, old: Row, new: Row) -> list[str]:
    """Say in words which verdict of a record is another one in a run with other seeds.

    Some rows have a second record with more seeds, pooled or long, by which their claim is judged. A run has fewer, so
    it may leave undecided what that record decides. It must not turn it round.
    """
    more = {row.scale for row in claim.rows if row.what == old.what and row.measured is not None} - {"laptop"}
    return new.changes(dataclasses.replace(old, seeds=new.seeds), but={UNDECIDED} if more else ())


def again(old: Row, one: Mapping[str, Any]) -> Row:
    """A record's row with what was measured this time; a prediction that the chapter computes is that of its run."""
    fields = {name: one[name] for name in HANDED if name != "interval"}
    return dataclasses.replace(old, **fields, interval=one["interval"] and tuple(one["interval"]))


def of_the_week(targets: Sequence[Target], day: datetime.date) -> Target:
    """The chapter whose turn it is on this day: each has one week in as many weeks as there are chapters."""
    return targets[day.toordinal() // 7 % len(targets)]
