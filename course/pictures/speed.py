"""The plot of speed in the README, speed.svg, from the table in benchmarks/README.md: `python -m course figures`."""

import math
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from course.pictures import svg

WIDTH, ROW, LEFT, RIGHT, TOP = 390, 21, 152, 14, 40
TICKS = (1, 2, 5, 10, 20)
STYLE = """\
.ground{fill:$ground;stroke:$edge}.t{fill:$ink}.q{fill:$quiet}.guide{stroke:$guide}.even{stroke:$gray}
.bar{fill:$blue}.range{stroke:$ink}path{fill:none}"""


@dataclass(frozen=True)
class Case:
    """A case of the benchmarks: the fastest peer's time over ours, with the range over the rounds."""

    name: str
    peer: str
    ratio: float
    low: float
    high: float


def cases(text: str) -> list[Case]:
    """The kernels in the table, each with its fastest peer. Raises ValueError if there is no such table."""
    found: dict[str, Case] = {}
    name = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if heading := re.fullmatch(r"\*\*(.+)\*\*", cells[0]):
            name = heading[1]
        elif cells[0].startswith("ours"):  # the same network with erf is no other program
            continue
        elif name and len(cells) > 4 and (spread := re.fullmatch(r"([\d.]+) to ([\d.]+)", cells[4])):
            case = Case(name, cells[0], float(cells[3]), float(spread[1]), float(spread[2]))
            if name not in found or case.ratio < found[name].ratio:
                found[name] = case
    if not found:
        raise ValueError("benchmarks/README.md holds no table of measurements: make benchmark ARGS=--write makes it")
    return list(found.values())


def alt(found: list[Case]) -> str:
    """What the picture shows, for those who do not see it."""
    low, high = (pick(case.ratio for case in found) for pick in (min, max))
    return (
        f"Bar chart on a logarithmic axis: the time of the fastest other program (neural-tangents, PyTorch or "
        f"scikit-learn) over ours, in {len(found)} cases. The ratios lie between {low:.2g} and {high:.2g}."
    )


def draw(root: Path) -> str:
    """The plot as SVG."""
    found = cases((root / "benchmarks" / "README.md").read_text(encoding="utf-8"))
    height = TOP + ROW * len(found) + 12
    scale = (WIDTH - LEFT - RIGHT) / math.log(1.15 * max(case.high for case in found))

    def x(value: float) -> str:
        return f"{LEFT + scale * math.log(max(value, 1)):.1f}"

    bottom = height - 8
    out = [
        svg.opening(WIDTH, height, "speed", "Speed beside the fastest other program", escape(alt(found))),
        svg.style("speed", STYLE),
        svg.ground(WIDTH, height),
        f'<text class="q" x="{LEFT}" y="16" font-size="9.5">times as fast as the fastest other program</text>',
    ]
    for tick in [tick for tick in TICKS if float(x(tick)) < WIDTH - 8]:
        kind = "even" if tick == 1 else "guide"
        out.append(f'<path class="{kind}" d="M{x(tick)} {TOP - 4}V{bottom}"/>')
        out.append(f'<text class="q" x="{x(tick)}" y="{TOP - 8}" font-size="9.5" text-anchor="middle">{tick}×</text>')
    for number, case in enumerate(found):
        y = TOP + ROW * number + ROW / 2
        lines = _wrapped(_short(case.name))
        for place, line in enumerate(lines):
            at = y + 3.5 + 10 * (place - (len(lines) - 1) / 2)
            out.append(
                f'<text class="t" x="{LEFT - 6}" y="{at:g}" font-size="9.5" text-anchor="end">{escape(line)}</text>'
            )
        words = f"{case.name}: {case.ratio:g} ({case.low:g} to {case.high:g}), {case.peer}"
        out.append(
            f"<g><title>{escape(words)}</title>"
            f'<rect class="bar" x="{LEFT}" y="{y - 5:g}" width="{float(x(case.ratio)) - LEFT:.1f}" height="10"/>'
            f'<path class="range" stroke-width="1.5" d="M{x(case.low)} {y:g}H{x(case.high)}"/></g>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def _short(name: str) -> str:
    """The name of a case without the sizes, which the table has."""
    return re.sub(r" (?=(?:\d+-)+\d+)(?:\d+-)+\d+| 28×28| 8×8|, three of 32", "", name)


def _wrapped(name: str, most: int = 29) -> list[str]:
    """A name on one line, or on two."""
    if len(name) <= most:
        return [name]
    cut = name.rfind(", ", 0, most) + 1 or most
    return [name[:cut], name[cut:].strip()]
