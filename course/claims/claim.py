"""`claim` for the notebooks: a measurement beside its record in claims.toml, with the verdict that follows from it."""

import dataclasses
import json
import os
from pathlib import Path

from course.claims import verdicts
from course.claims.records import TOML, Claim, Row, block, load, short
from course.notebook import chosen_seed, scale

HANDED = ("what", "scale", "derived", "measured", "uncertainty", "interval", "seeds")


def claim(
    id: str,
    *,
    what: str,
    measured: float,
    uncertainty: float = 0.0,
    interval: tuple[float, float] | None = None,
    seeds: int = 0,
    derived: float | str | None = None,
    path: Path | None = None,
) -> None:
    """Print what was measured now beside the record, and the verdicts, after asserting that the two agree.

    The row `what` of this claim stands in claims.toml, with its margin and with what is claimed and derived; `derived`
    is for a prediction that the notebook computes. `measured` is a mean over `seeds` seeds and `uncertainty` its
    standard error; for a share or a correlation give an `interval` (95 %) instead.
    Agreement: |new - old| <= 3 √(u_new² + u_old²), and no verdict between "holds" and "does not hold" that has changed
    (`Row.differences`); the verdicts that are printed are then the record's. Nothing is asserted with other seeds
    (NTK_SEED), at another scale than the laptop's (NTK_SCALE), and while recording; then they are the run's.
    Raises: ValueError for a call that cannot be right; AssertionError where run and record differ.
    """
    claims = load(path or TOML)
    if id not in claims:
        raise ValueError(f"there is no claim {id!r}; there are {', '.join(claims)}")
    planned = {row.scale: row for row in claims[id].rows if row.what == what}
    if not planned:
        raise ValueError(_unplanned(claims[id], what))
    size = scale()
    plan = planned.get(size) or planned.get("laptop") or next(iter(planned.values()))
    new = dataclasses.replace(
        plan,
        scale=size,
        measured=float(measured),
        uncertainty=float(uncertainty),
        interval=interval and (float(interval[0]), float(interval[1])),
        seeds=int(seeds),
        derived=plan.derived if derived is None else derived if isinstance(derived, str) else short(float(derived)),
    ).rounded()
    old, judged, now = planned.get(size), new, new.result()
    if target := os.environ.get("NTK_CLAIMS"):
        hand_over(Path(target), id, new, float(measured))
    elif size == "laptop" and chosen_seed() == 0:
        _assert_agreement(id, plan, new)
        judged = dataclasses.replace(plan, derived=new.derived)
        if plan.number == "digits":  # equal within the margin; which digit is the last one differs between processors
            now = plan.result()
    recorded = f"recorded {old.result()}" if old and old.measured is not None else f"no record at scale {size}"
    how_many = f"{seeds} {new.over}, " if seeds else ""
    print(f"{id} · {what}\n   now {now}, {recorded} ({how_many}margin {new.margin:g}): {judged.judged()}")


def hand_over(target: Path, id: str, row: Row, exact: float) -> None:
    """Append what was measured, and its mean to all digits, to the file that `run --record` and `replicate` read."""
    with target.open("a", encoding="utf-8") as file:
        line = {"id": id, "exact": exact} | {name: getattr(row, name) for name in HANDED}
        file.write(json.dumps(line) + "\n")


def same_target(plan: Row, new: Row) -> bool:
    """Tell whether what a notebook derives is what its record says, up to a tenth of the margin."""
    if plan.derived is None or new.derived is None:
        return plan.derived == new.derived
    (relation, before), (other, now) = verdicts.parse(plan.derived), verdicts.parse(new.derived)
    return relation == other and abs(before - now) <= 0.1 * plan.margin


def _assert_agreement(id: str, plan: Row, new: Row) -> None:
    found = []
    if not same_target(plan, new):
        found.append(f"`derived` is {plan.derived} in claims.toml, here it is {new.derived}")
    if plan.measured is None:
        found.append(f"measured {new.result()}, which is not recorded yet")
    else:
        found += new.differences(plan)
    if found:
        raise AssertionError(
            f"claim {id}, {new.what!r}: {'; '.join(found)}. "
            f"Once the experiment is what it should be, python -m course run NN --record records what it measures."
        )


def _unplanned(claim: Claim, what: str) -> str:
    known = "; ".join(dict.fromkeys(repr(row.what) for row in claim.rows)) or "none"
    example = block(Row(what, number="exponent", margin=0.1, claimed="<= -0.5", derived=-1.0))
    return (
        f"claim {claim.id} has no row {what!r} in claims.toml; there are: {known}. A row stands there before its "
        f"experiment runs, with its kind of number, what the source says and what we derive:\n\n{example}\n"
    )
