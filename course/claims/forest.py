"""claims.png: every measured row against what was predicted, in units of its margin; `python -m course claims`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from course.claims.records import Claim, Row, load
from course.claims.verdicts import parse

FURTHEST = 4.0  # margins, from the middle to the edge of the figure
ALT = (
    "One line for each measured row of the claims. Its distance from what the source says (filled circle; a cross "
    "where the row is not counted) and from what we derive (open diamond) in units of the margin, with its interval; "
    "grey is where it holds. Points outside of the figure are arrows at its edge."
)


@dataclass(frozen=True)
class Point:
    """A measurement against one target, all in margins: `band` is where it holds; `what` and `said` are its words."""

    id: str
    what: str
    marker: str
    at: float
    low: float
    high: float
    band: tuple[float, float]
    said: str


def points(claims: Mapping[str, Claim]) -> list[tuple[Point | None, Point | None]]:
    """Return for each measured row its point against the claim and its point against our prediction."""
    found = []
    for claim in claims.values():
        for row in claim.at():
            if row.kind == "measured" and (row.claimed is not None or row.derived is not None):
                ours = _point(claim, row, row.derived, row.margin + row.derived_error, "D", row.prediction)
                marker, said = ("x", "not counted") if row.outside else ("o", row.verdict)
                found.append((_point(claim, row, row.claimed, row.margin, marker, said), ours))
    return found


def _point(claim: Claim, row: Row, target: float | str | None, margin: float, marker: str, said: str) -> Point | None:
    if target is None or row.measured is None:
        return None
    relation, number = parse(target)
    low, middle, high = ((value - number) / row.margin for value in (row.bounds[0], row.measured, row.bounds[1]))
    edge, far = margin / row.margin, 10 * FURTHEST
    bands = {"=": (-edge, edge), "<=": (-far, edge), ">=": (-edge, far), "<": (-far, -edge), ">": (edge, far)}
    return Point(claim.id, row.what, marker, middle, low, high, bands[relation], said)


def digest(claims: Mapping[str, Claim]) -> str:
    """A fingerprint of what the figure shows, which stands in the file: so it is known whether the figure is stale."""
    return hashlib.sha256(repr(points(claims)).encode()).hexdigest()[:16]


def is_stale(root: Path) -> bool:
    """Tell whether claims.png does not show what claims.toml says."""
    from PIL import Image

    path = root / "course" / "claims.png"
    if not path.exists():
        return True
    with Image.open(path) as image:
        return image.info.get("Description") != digest(load(root / "course" / "claims.toml"))


def draw(claims: Mapping[str, Claim]):
    """Return the figure: claims above each other, from the first to the last."""
    from matplotlib.figure import Figure

    rows = points(claims)
    figure = Figure(figsize=(11.5, 1.4 + 0.27 * len(rows)), dpi=100, layout="constrained")
    ax = figure.subplots()
    for line, pair in enumerate(rows):
        for point, y in zip(pair, (line - 0.21, line + 0.21), strict=True):
            if point:
                _draw_point(ax, point, y)
    ax.axvline(0, color="black", linewidth=0.8, linestyle="--")
    named = [next(point for point in pair if point) for pair in rows]
    ax.set_yticks(range(len(rows)), [f"{point.what}  {point.id}" for point in named], fontsize=8)
    starts = [line for line in range(1, len(named)) if named[line].id != named[line - 1].id]
    for line in starts:
        ax.axhline(line - 0.5, color="0.6", linewidth=0.4)
    ax.set(xlim=(-FURTHEST, FURTHEST + 1.9), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(range(-int(FURTHEST), int(FURTHEST) + 1))
    ax.set_xlabel("distance from what was said, in margins\n(bars: 95 % intervals; grey: where it holds)", loc="left")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    _legend(figure, ax)
    return figure


def _draw_point(ax, point: Point, y: float) -> None:
    left, right = (max(min(end, FURTHEST), -FURTHEST) for end in point.band)
    ax.barh(y, right - left, left=left, height=0.36, color="0.87")
    low, high = (max(min(end, FURTHEST), -FURTHEST) for end in (point.low, point.high))
    ax.plot([low, high], [y, y], color="black", linewidth=1.1)
    at, marker = point.at, point.marker
    if abs(at) > FURTHEST:
        at, marker = (FURTHEST - 0.06, ">") if at > 0 else (-FURTHEST + 0.06, "<")
    filled = point.marker == "o"
    face = "black" if filled or point.marker == "x" else "white"
    ax.plot([at], [y], marker=marker, color="black", markerfacecolor=face, markersize=4, linestyle="none")
    ax.text(FURTHEST + 0.1, y, point.said, fontsize=6.5, va="center", weight="bold" if filled else "normal")


def _legend(figure, ax) -> None:
    kinds = (
        ("o", "black", "against what the source says"),
        ("x", "black", "the same, outside of its hypotheses"),
        ("D", "white", "against what we derive"),
    )
    for marker, face, label in kinds:
        style = {"marker": marker, "color": "black", "markerfacecolor": face, "markersize": 5, "linestyle": "none"}
        ax.plot([], [], **style, label=label)
    figure.legend(loc="outside upper center", ncols=len(kinds), frameon=False, fontsize=9)


def write(root: Path) -> None:
    """Write claims.png, if it does not show what claims.toml says."""
    import io

    from PIL import Image, PngImagePlugin

    if is_stale(root):
        claims = load(root / "course" / "claims.toml")
        drawn, about = io.BytesIO(), PngImagePlugin.PngInfo()
        draw(claims).savefig(drawn)
        about.add_text("Description", digest(claims))
        greys = Image.new("P", (1, 1))
        greys.putpalette([level for level in (0, 128, 222, 255) for _ in "RGB"])  # four: an eighth of the bytes
        image = Image.open(drawn).convert("RGB").quantize(palette=greys, dither=Image.Dither.NONE)
        image.save(root / "course" / "claims.png", pnginfo=about, optimize=True)
