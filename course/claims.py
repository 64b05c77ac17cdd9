"""The claims of the literature that the course tests: the table in claims.toml, and `claim` for the notebooks.

A chapter measures, calls `claim`, and so asserts that claims.toml says the same; that file is edited by hand.
"""

import math
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

VERDICTS = ("holds", "holds in part", "not at this scale", "does not hold")
TOML = Path(__file__).with_name("claims.toml")


@dataclass(frozen=True)
class Result:
    """One measured number: `what` says of what, with its unit."""

    what: str
    measured: float
    uncertainty: float
    seeds: int
    verdict: str
    predicted: float | str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"`verdict` must be one of {', '.join(VERDICTS)}; got {self.verdict!r}")
        if self.seeds < 3:
            raise ValueError(f"`seeds` must be at least 3; got {self.seeds}")
        if not (math.isfinite(self.measured) and math.isfinite(self.uncertainty) and self.uncertainty >= 0):
            raise ValueError(f"`measured` and `uncertainty` must be finite; got {self.measured} ± {self.uncertainty}")

    def row(self) -> str:
        """Return the result in words."""
        before = f"predicted {_number(self.predicted)}, " if self.predicted != "" else ""
        measured = f"{_number(self.measured)} ± {self.uncertainty:.1g}"
        return f"{self.what}: {before}measured {measured} ({self.seeds} seeds)"

    def toml(self) -> str:
        """Return the block for claims.toml."""
        predicted = f'"{self.predicted}"' if isinstance(self.predicted, str) else _number(self.predicted)
        lines = [
            "[[claim.result]]",
            f'what = "{self.what}"',
            f"predicted = {predicted}",
            f"measured = {_number(self.measured)}",
            f"uncertainty = {self.uncertainty:.2g}",
            f"seeds = {self.seeds}",
            f'verdict = "{self.verdict}"',
            f'note = "{self.note}"',
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Claim:
    """One statement, where it comes from and where it is tested, and what was found so far."""

    id: str
    source: str
    statement: str
    chapters: tuple[str, ...]
    doubted: bool = False
    results: tuple[Result, ...] = field(default=())

    @property
    def verdict(self) -> str:
        """The verdict of all results together; where they differ, the claim holds in part."""
        verdicts = {result.verdict for result in self.results}
        return "not measured yet" if not verdicts else verdicts.pop() if len(verdicts) == 1 else "holds in part"


def load(path: Path = TOML) -> dict[str, Claim]:
    """Return the claims by id; raise ValueError for a row that is not well formed."""
    claims: dict[str, Claim] = {}
    for row in tomllib.loads(path.read_text(encoding="utf-8"))["claim"]:
        results = tuple(Result(**result) for result in row.get("result", []))
        if row["id"] in claims:
            raise ValueError(f"claim {row['id']} stands twice in {path.name}")
        claims[row["id"]] = Claim(
            row["id"], row["source"], row["statement"], tuple(row["chapters"]), row.get("doubted", False), results
        )
    return claims


def claim(
    id: str,
    *,
    what: str,
    measured: float,
    uncertainty: float,
    verdict: str,
    seeds: int,
    predicted: float | str = "",
    note: str = "",
    path: Path | None = None,
) -> None:
    """Print the recorded row of a measured claim, after asserting that this measurement agrees with it.

    Agreement: the same verdict, prediction and number of seeds, and numbers that differ by no more than the sum of
    the two uncertainties. At paper scale (NTK_SCALE) both are printed and nothing is asserted.
    Raises: ValueError for a call that cannot be right; AssertionError, with the text for claims.toml, otherwise.
    """
    claims = load(path or TOML)
    if id not in claims:
        raise ValueError(f"there is no claim {id!r}; there are {', '.join(claims)}")
    new = Result(what, float(measured), float(uncertainty), seeds, verdict, predicted, note)
    old = next((result for result in claims[id].results if result.what == what), None)
    if os.environ.get("NTK_SCALE") == "paper":
        print(f"{id} at paper scale · {new.verdict} · {new.row()}")
        print(f"{id} as recorded · {old.verdict} · {old.row()}" if old else f"{id} is not recorded yet")
        return
    differences = ["is not recorded yet"] if old is None else _differences(old, new)
    if old is None or differences:
        raise AssertionError(f"claim {id}, {what!r}: {'; '.join(differences)}. For claims.toml:\n\n{new.toml()}\n")
    print(f"{id} {old.verdict} · {old.row()}")


def markdown(claims: dict[str, Claim]) -> str:
    """Return the table of all claims as a page."""
    done = sum(bool(claim.results) for claim in claims.values())
    lines = [
        "# The claims and what became of them",
        "",
        f"{done} of {len(claims)} measured. *Doubted*: we had a reason for doubt beforehand. "
        "Made from `claims.toml` by `python -m course claims`.",
        "",
        "| id | claim | source | chapter | verdict | measured |",
        "|---|---|---|---|---|---|",
    ]
    for claim in claims.values():
        measured = "<br>".join(f"{r.row()}. {r.note}".strip() for r in claim.results)
        statement = claim.statement + (" *(doubted)*" if claim.doubted else "")
        cells = [claim.id, statement, claim.source, ", ".join(claim.chapters), claim.verdict, measured]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def out_of_step(root: Path) -> bool:
    """Tell whether claims.md differs from what claims.toml says."""
    toml, page = root / "course" / "claims.toml", root / "course" / "claims.md"
    return toml.exists() and (not page.exists() or page.read_text(encoding="utf-8") != markdown(load(toml)))


def write_page(root: Path) -> None:
    """Write claims.md."""
    text = markdown(load(root / "course" / "claims.toml"))
    (root / "course" / "claims.md").write_text(text, encoding="utf-8")


def table(claims: dict[str, Claim]):
    """Return a rich table of all claims."""
    from rich.table import Table

    done = sum(bool(claim.results) for claim in claims.values())
    table = Table("id", "claim", "chapter", "verdict", title=f"{done} of {len(claims)} claims measured")
    for claim in claims.values():
        rows = [claim.statement, *(f"→ {result.row()}" for result in claim.results)]
        table.add_row(claim.id, "\n".join(rows), ", ".join(claim.chapters), claim.verdict)
    return table


def _differences(old: Result, new: Result) -> list[str]:
    found = []
    for name in ("verdict", "seeds", "predicted"):
        before, now = getattr(old, name), getattr(new, name)
        if before != now and not (name == "predicted" and _number(before) == _number(now)):
            found.append(f"`{name}` is recorded as {before!r}, here it is {now!r}")
    if abs(old.measured - new.measured) > old.uncertainty + new.uncertainty:
        before, now = (f"{r.measured:.3g} ± {r.uncertainty:.1g}" for r in (old, new))
        found.append(f"recorded {before}, measured {now}")
    return found


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{float(value):.3g}"
