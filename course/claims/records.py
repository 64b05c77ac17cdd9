"""The records of claims.toml: what the source says, what we derive, and what came out, kept apart.

A verdict is computed from them (verdicts.py). What is claimed and derived is written by hand, before the experiment
runs; what was measured is written by `python -m course run NN --record`.
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course.claims import verdicts
from course.notebook import SCALES

KINDS = ("measured", "computed", "identity")
TOML = Path(__file__).parents[1] / "claims.toml"
DIGITS, DIGITS_OF_ERROR = 4, 2  # significant digits of a record
SIZES = (SCALES[0], "pooled", *SCALES[1:])  # "pooled": the laptop's run and those with other seeds, taken together
MOST_ERRORS = 5  # ratio of the standard errors of two runs that agree: each is estimated from a few seeds
ROUNDING = 1e-9  # smaller differences are what rounding has left, and each processor rounds in its own way


@dataclass(frozen=True)
class Row:
    """One number that was, or will be, measured: `what` says of what, with its unit.

    kind: "measured" (networks drawn or trained, data), "computed" (kernels or recursions alone), "identity" (algebra).
    number: the kind of number, which gives the margin ("exponent", "ratio", ...).
    claimed: what the source says, if this row tests it; `outside` says why the row lies outside of its hypotheses.
    derived: what the chapter predicts, without a fitted parameter, and how far off its theory can be at this size.
    scale: the size of the experiment; "pooled" is the laptop's run and those with other seeds, taken together.
    measured, uncertainty: a mean and its standard error over `seeds` seeds, or whatever `over` names.
    interval: for shares and correlations, in place of the uncertainty.
    commit, date: of a long or a pooled run.
    """

    what: str
    number: str
    margin: float
    kind: str = "measured"
    scale: str = "laptop"
    claimed: float | str | None = None
    outside: str = ""
    derived: float | str | None = None
    derived_error: float = 0.0
    measured: float | None = None
    uncertainty: float = 0.0
    interval: tuple[float, float] | None = None
    seeds: int = 0
    over: str = "seeds"
    commit: str = ""
    date: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, KINDS), ("scale", self.scale, SIZES)):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {value!r}")
        for target in (self.claimed, self.derived):
            if target is not None:
                verdicts.parse(target)
        if self.outside and self.claimed is None:
            raise ValueError("`outside` says why a claim is not tested by this row; without `claimed` there is none")
        if not 0 <= self.derived_error <= self.margin:
            raise ValueError(f"`derived_error` is from 0 to the margin, {self.margin:g}; got {self.derived_error}")
        if self.measured is not None:
            self._look_at_the_measurement(self.measured)

    def _look_at_the_measurement(self, measured: float) -> None:
        if not (math.isfinite(measured) and math.isfinite(self.uncertainty) and self.uncertainty >= 0):
            raise ValueError(f"`measured` and `uncertainty` must be finite; got {measured} ± {self.uncertainty}")
        if self.kind == "measured" and self.seeds < 3:
            raise ValueError(f"`seeds` must be at least 3 where something was measured; got {self.seeds}")
        if self.kind == "measured" and self.uncertainty == 0 and self.interval is None:
            raise ValueError(
                "`uncertainty` must be positive where something was measured: the standard error of the mean over "
                "seeds. If all seeds gave the same, as a share can, say how sure that is with an `interval`."
            )
        if self.interval is not None:
            low, high = self.interval
            if not (math.isfinite(low) and math.isfinite(high) and low <= measured <= high):
                raise ValueError(
                    f"`interval` must hold what was measured, {measured}, and be finite; got {self.interval}"
                )

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval in which the measurement is taken to lie."""
        if self.measured is None:
            raise ValueError(f"{self.what!r} is not measured yet")
        if self.interval is not None:
            return self.interval
        half = verdicts.quantile(self.seeds) * self.uncertainty if self.kind == "measured" else 0.0
        return self.measured - half, self.measured + half

    @property
    def verdict(self) -> str:
        """What came of the source's claim, "" if this row does not test it or was not measured yet."""
        return self._judge(self.claimed, self.margin)

    @property
    def prediction(self) -> str:
        """What came of our own prediction: "met", "not met", "undecided", or "" if there is none."""
        found = self._judge(self.derived, self.margin + self.derived_error)
        return {verdicts.HOLDS: "met", verdicts.FAILS: "not met"}.get(found, found)

    @property
    def counted(self) -> bool:
        """Whether the row counts for the claim's verdict."""
        return bool(self.verdict) and not self.outside and self.kind != "identity"

    def _judge(self, target: float | str | None, margin: float) -> str:
        if target is None or self.measured is None:
            return ""
        low, high = self.bounds
        return verdicts.judge(target, mean=self.measured, low=low, high=high, margin=margin)

    def rounded(self) -> "Row":
        """The row with as many digits as a record has, so that record and run are judged alike."""
        if self.measured is None:
            return self
        interval = self.interval and tuple(float(f"{end:.{DIGITS}g}") for end in self.interval)
        if interval is not None:  # rounding may not push the mean out of its interval
            interval = min(interval[0], short(self.measured)), max(interval[1], short(self.measured))
        error = float(f"{self.uncertainty:.{DIGITS_OF_ERROR}g}")
        return dataclasses.replace(self, measured=short(self.measured), uncertainty=error, interval=interval)

    def changes(self, old: "Row", but: Collection[str] = ()) -> list[str]:
        """Say which verdict, and which number of seeds, is not that of a record; `but` these verdicts."""
        return [
            f"{name} is recorded as {before!r}, here it is {now!r}"
            for name, before, now in (
                ("the verdict", old.verdict, self.verdict),
                ("our prediction", old.prediction, self.prediction),
                (f"the number of {self.over}", old.seeds, self.seeds),
            )
            if before != now and before not in but and now not in but
        ]

    def differences(self, old: "Row") -> list[str]:
        """Say where this measurement does not agree with a record.

        Another processor rounds in another way, and a long training magnifies that. So means may differ by three
        standard errors, and errors by a factor of five; a verdict near its margin may become undecided or cease to be.
        """
        found = self.changes(old, but={verdicts.UNDECIDED})
        before, now = old.measured or 0.0, self.measured or 0.0
        rounding = max(0.5 * 10.0 ** (1 - DIGITS) * abs(before), ROUNDING)
        if self.number == "digits":  # how many two programs share is a matter of rounding itself
            rounding = self.margin
        low, high = sorted((old.error, self.error))
        if abs(now - before) > 3 * math.hypot(low, high) + rounding or high > MOST_ERRORS * low + rounding:
            found.append(f"recorded {old.result()}, measured {self.result()}")
        return found

    @property
    def error(self) -> float:
        """The standard error; for an interval, that of a normal distribution with such an interval."""
        return self.uncertainty if self.interval is None else (self.interval[1] - self.interval[0]) / (2 * 1.96)

    def result(self) -> str:
        """What was measured, with the digits that its uncertainty leaves."""
        if self.measured is None:
            return "not measured yet"
        if self.interval is not None:
            return f"{self.measured:.3g} [{self.interval[0]:.3g}, {self.interval[1]:.3g}]"
        if self.uncertainty == 0:
            return f"{self.measured:z.3g}"
        return _with_error(self.measured, self.uncertainty)

    def judged(self) -> str:
        """What the source says and what we derive, and what came of both."""
        found = []
        if self.kind == "identity":
            found.append("an identity, never counted")
        if self.claimed is not None:
            why = f" (not counted: {self.outside})" if self.outside else ""
            found.append(f"claimed {number_in_words(self.claimed)}: {self.verdict}{why}")
        if self.derived is not None:
            found.append(f"derived {number_in_words(self.derived)}: {self.prediction}")
        return "; ".join(found) or "shown only: nobody predicts it"


@dataclass(frozen=True)
class Claim:
    """One statement, where it comes from and where it is tested, and what was found so far."""

    id: str
    source: str
    statement: str
    chapters: tuple[str, ...]
    doubted: bool = False
    rows: tuple[Row, ...] = ()

    def at(self, size: str | None = None) -> list[Row]:
        """The measured rows of one scale; without one, those of the largest scale at which each was measured."""
        measured = [row for row in self.rows if row.measured is not None]
        if size:
            return [row for row in measured if row.scale == size]
        largest = {row.what: row for row in sorted(measured, key=lambda row: SIZES.index(row.scale))}
        return [largest[what] for what in dict.fromkeys(row.what for row in measured)]

    def verdict_at(self, size: str | None = None) -> str:
        """The verdict of the counted rows of one scale, or of the largest."""
        rows = self.at(size)
        counted = [row for row in rows if row.counted]
        if not counted:
            known = rows and all(row.kind == "identity" for row in rows)
            return "an identity" if known else "not tested yet" if rows else "not measured yet"
        found = verdicts.together([row.verdict for row in counted])
        short = [row for row in counted if row.verdict != verdicts.HOLDS]
        return verdicts.NOT_HERE if short and all(map(self.approaches, short)) else found

    @property
    def verdict(self) -> str:
        """The verdict at the largest scale."""
        return self.verdict_at()

    def approaches(self, row: Row) -> bool:
        """Whether laptop and long row differ, towards what is claimed, by more than their uncertainty."""
        sizes = {other.scale: other for other in self.rows if other.what == row.what and other.measured is not None}
        small, large = sizes.get("pooled", sizes.get("laptop")), sizes.get("long")
        if not (small and large) or row.claimed is None:
            return False
        before, after = small.measured or 0.0, large.measured or 0.0
        seeds = min((r.seeds for r in (small, large) if r.kind == "measured"), default=0)
        noise = verdicts.quantile(seeds) * math.hypot(small.error, large.error) if seeds else 0.0
        return abs(after - before) > noise and verdicts.towards(row.claimed, before, after)


def load(path: Path = TOML) -> dict[str, Claim]:
    """Return the claims by id; raise ValueError for a row that is not well formed."""
    claims: dict[str, Claim] = {}
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    for entry in content["claim"]:
        id = entry["id"]
        rows = tuple(_row(id, row, content["margin"]) for row in entry.pop("result", []))
        if id in claims:
            raise ValueError(f"claim {id} stands twice in {path.name}")
        names = [(row.what, row.scale) for row in rows]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"claim {id} has two rows {twice[0]!r} at scale {twice[1]} in {path.name}")
        claims[id] = Claim(**entry | {"chapters": tuple(entry["chapters"]), "rows": rows})
    return claims


def _row(id: str, entry: dict[str, Any], margins: Mapping[str, float]) -> Row:
    what = entry.get("what", "?")
    if unknown := set(entry) - ({field.name for field in dataclasses.fields(Row)} - {"margin"}):
        raise ValueError(f"claim {id}, {what!r}: a row has no field {', '.join(sorted(unknown))}")
    if entry.get("number") not in margins:
        raise ValueError(f"claim {id}, {what!r}: `number` must be one of {', '.join(margins)}")
    if "interval" in entry:
        entry = entry | {"interval": tuple(entry["interval"])}
    try:
        return Row(**entry, margin=margins[entry["number"]])
    except ValueError as error:
        raise ValueError(f"claim {id}, {what!r}: {error}") from None


def dump(claims: Mapping[str, Claim], head: str) -> str:
    """Return the text of claims.toml: its head (remarks and margins, as they stand) and the claims."""
    blocks = [head.rstrip()]
    for claim in claims.values():
        lines = ["[[claim]]", *(f"{name} = {_toml(getattr(claim, name))}" for name in ("id", "source", "statement"))]
        lines += [f"chapters = {_toml(claim.chapters)}", *(["doubted = true"] if claim.doubted else [])]
        blocks += ["\n".join(lines), *(block(row) for row in claim.rows)]
    return "\n\n".join(blocks) + "\n"


def head(path: Path = TOML) -> str:
    """Return what stands in claims.toml before the first claim."""
    return path.read_text(encoding="utf-8").split("\n[[claim]]")[0]


def block(row: Row) -> str:
    """Return the row as it stands in claims.toml."""
    lines = ["[[claim.result]]"]
    measured = row.measured is not None and row.interval is None
    always = ("what", "kind", "number", *["uncertainty"] * measured)
    for name in always[:3] + tuple(field.name for field in dataclasses.fields(Row)[3:] if field.name != "kind"):
        value = getattr(row, name)
        if name in always or value != Row.__dataclass_fields__[name].default:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else f"{value:.{DIGITS}g}"


def short(value: float) -> float:
    """A number with the digits of a record."""
    return float(f"{value:.{DIGITS}g}")


def number_in_words(value: float | str) -> str:
    """A target as it is printed."""
    return value if isinstance(value, str) else f"{float(value):.3g}"


def _with_error(mean: float, error: float) -> str:
    """A mean and its standard error: to the first digit of the error, and at most to four digits of the mean.

    >>> _with_error(-0.4831, 0.0237), _with_error(1.0, 0.013), _with_error(1.4e-6, 1.6e-7), _with_error(-0.0003, 0.005)
    ('-0.48 ± 0.02', '1.00 ± 0.01', '1.4e-06 ± 2e-07', '0.000 ± 0.005')
    >>> _with_error(0.9755, 0.00029), _with_error(1.0, 0.0003)  # an error is never shown as zero
    ('0.9755 ± 0.0003', '1.000 ± 0.001')
    """
    if mean == 0:
        return f"0 ± {error:.1g}"
    size = math.floor(math.log10(abs(short(mean))))
    first = math.floor(math.log10(float(f"{error:.1g}")))
    places = min(-first, DIGITS - 1 - size)  # behind the point
    if places > 5:
        return f"{mean:.{max(size + places, 0)}e} ± {error:.0e}"
    places = max(places, 0)
    error = max(float(f"{error:.1g}"), 10.0**-places)
    return f"{mean:z.{places}f} ± {error:.{places}f}"
