"""The map of the course, map.svg: chapters, what each needs, the modules it uses, the papers it rests on.

One row a chapter. What is needed stands in the chapters' heads, the papers in claims.toml, the modules in the chapters'
code; map.toml has the rest. `python -m course figures` draws it; a test keeps it in step.
"""

import itertools
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from course import chapters as heads
from course.claims import records
from course.pictures import svg

ALT = (
    "Map of the course, one row for each of the {count} chapters. Lines at the left run from a chapter to those that "
    "need it. Dots show which modules of ntklib a chapter uses, squares which papers it rests on."
)
#: Where things stand, in the units of the drawing. It is 390 wide: letters stay legible on a phone.
WIDTH, HEAD, ROW, LABEL = 390, 104, 18, 19
LANE, DOT, NUMBER, TITLE, GRID, STEP, GAP = 10, 54, 63, 79, 206, 9.9, 6
BEND = 6
STYLE = """\
.ground{fill:$ground;stroke:$edge}.row{fill:$row}.t{fill:$ink}.q{fill:$quiet}.guide{stroke:$guide}
.halo{stroke:$ground}.dot{fill:$ground;stroke:$ink}.module{fill:$ink}.paper{fill:$orange}
.a{stroke:$gray}.b{stroke:$purple}.c{stroke:$blue}.d{stroke:$orange}.e{stroke:$green}
path{fill:none}a:focus .row,a:hover .row{fill:$chosen}"""
LINES = "bcde"


@dataclass(frozen=True)
class Row:
    """A chapter on the map: what it needs first of all, what it needs at all, its modules and papers by name."""

    number: str
    title: str
    direct: tuple[str, ...]
    needs: tuple[str, ...]
    modules: tuple[str, ...]
    papers: tuple[str, ...]


def rows(root: Path) -> list[Row]:
    """The chapters. Raises ValueError where a module or a paper is not in map.toml."""
    table, found = settings(root), heads.chapters(root)
    direct = heads.direct(found)
    claims = records.load(root / "course" / "claims.toml").values()
    return [
        Row(
            number,
            table["short"].get(number) or chapter.title.partition(" · ")[2].partition(": ")[0],
            direct[number],
            chapter.needs,
            modules((root / "notebooks" / f"{chapter.slug}.py").read_text(encoding="utf-8"), table),
            papers([claim.source for claim in claims if number in claim.chapters], table),
        )
        for number, chapter in found.items()
    ]


def settings(root: Path) -> dict[str, Any]:
    """The table in map.toml."""
    return tomllib.loads((root / "course" / "pictures" / "map.toml").read_text(encoding="utf-8"))


def modules(code: str, table: dict[str, Any]) -> tuple[str, ...]:
    """The modules of ntklib that a chapter's code names, in the order of the columns."""
    import ntklib

    used = set()
    for name in re.findall(r"\bntk\.([A-Za-z_]\w*)", code):
        origin = getattr(getattr(ntklib, name, None), "__module__", "")  # of a record, such as MUP, its class's
        if origin.startswith("ntklib."):
            used.add(origin.split(".")[1])
    for module, names in re.findall(r"^from ntklib(?:\.(\w+)\S*)? import \(?(.*?)\)?$", code, flags=re.MULTILINE):
        used |= {module} if module else {name.strip().split(" ")[0] for name in names.split(",")}
    if re.search(r"\bbridge\(", code):
        used.add("interop")
    if lacking := used - {*table["modules"], *table["everywhere"]}:
        raise ValueError(f"course/pictures/map.toml has no column for the modules {sorted(lacking)}")
    return tuple(name for name in table["modules"] if name in used)


def papers(sources: list[str], table: dict[str, Any]) -> tuple[str, ...]:
    """The papers that claims come from, in the order of the columns."""
    given = {number for source in sources for number in re.findall(r"\b\d{4}\.\d{5}\b", source)}
    if lacking := given - {number for paper in table["paper"] for number in paper["arxiv"]}:
        raise ValueError(f"course/pictures/map.toml has no paper with the arXiv numbers {sorted(lacking)}")
    return tuple(paper["name"] for paper in table["paper"] if given & set(paper["arxiv"]))


def alt(root: Path) -> str:
    """What the picture shows, for those who do not see it."""
    return ALT.format(count=len(heads.chapters(root)))


def draw(root: Path, link: Callable[[str], str] | None = None) -> str:
    """The map as SVG. `link` gives the address behind a chapter's row, for a page that holds the map inline."""
    table, found = settings(root), rows(root)
    y, labels, height = _places(found, table)
    columns = _columns(table)
    end = max(columns.values()) + STEP / 2
    out = [
        svg.opening(WIDTH, height, "map", "Map of the course", escape(alt(root)), role="group" if link else "img"),
        svg.style("map", STYLE),
        svg.ground(WIDTH, height),
        *_head(columns, table),
    ]
    for place, name in labels:
        out.append(f'<text class="q" x="{NUMBER}" y="{place}" font-size="9.5" font-weight="600">{escape(name)}</text>')
    for row in found:
        mark = _row(row, y[row.number], end)
        if link:
            mark = f'<a href="{escape(link(row.number))}">{mark}</a>'
        out.append(mark)
    ends = [(y[part["chapters"][0]] - ROW / 2, y[part["chapters"][-1]] + ROW / 2) for part in table["part"]]
    guides = "".join(f"M{x:g} {top:g}V{bottom:g}" for top, bottom in ends for x in columns.values())
    out.append(f'<path class="guide" d="{guides}"/>')
    out += _marks(found, y, columns)
    out += _lines(found, y)
    everywhere = [name for name in table["everywhere"] if name != "kernel"]
    note = f"Nearly all use {', '.join(everywhere[:-1])} and {everywhere[-1]} as well."
    out += [
        f'<text class="q" x="{WIDTH - 8}" y="{height - 9}" font-size="9.5" text-anchor="end">{note}</text>',
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def _places(found: list[Row], table: dict[str, Any]) -> tuple[dict[str, float], list[tuple[float, str]], float]:
    """The middle of each row, the parts' names and where they stand, and the height of it all."""
    numbers = [number for part in table["part"] for number in part["chapters"]]
    if numbers != [row.number for row in found]:
        raise ValueError(
            f"the parts in course/pictures/map.toml must hold each chapter once, in order; they hold {numbers}"
        )
    y: dict[str, float] = {}
    labels, at = [], float(HEAD)
    for part in table["part"]:
        at += LABEL
        labels.append((at - 5, part["name"]))
        for number in part["chapters"]:
            y[number] = at + ROW / 2
            at += ROW
    return y, labels, at + 28


def _columns(table: dict[str, Any]) -> dict[str, float]:
    """Where each module's and each paper's column stands."""
    names = [*table["modules"], *(paper["name"] for paper in table["paper"])]
    gap = len(table["modules"])
    return {name: round(GRID + STEP * i + (GAP if i >= gap else 0), 1) for i, name in enumerate(names)}


def _head(columns: dict[str, float], table: dict[str, Any]) -> list[str]:
    papers_at = columns[table["paper"][0]["name"]] - 4
    out = [
        f'<text class="q" x="{at:g}" y="15" font-size="9.5">{words}</text>'
        for at, words in ((8, "needed by"), (TITLE, "chapter"), (GRID - 4, "modules"), (papers_at, "papers"))
    ]
    return out + [
        f'<text class="t" transform="translate({x + 3:g} {HEAD + 14}) rotate(-90)" font-size="9.5">{name}</text>'
        for name, x in columns.items()
    ]


def _row(row: Row, y: float, end: float) -> str:
    words = [f"{row.number} {row.title}"]
    said = (("needs", row.needs), ("uses", row.modules), ("rests on", row.papers))
    words += [f"{what} {', '.join(names)}" for what, names in said if names]
    return (
        f"<g><title>{escape('; '.join(words))}</title>"
        f'<rect class="row" x="{NUMBER - 3}" y="{y - ROW / 2 + 1:g}" width="{end - NUMBER + 3:g}" height="{ROW - 2}"/>'
        f'<text class="q" x="{NUMBER}" y="{y + 4:g}" font-size="10.5">{row.number}</text>'
        f'<text class="t" x="{TITLE}" y="{y + 4:g}" font-size="11">{escape(row.title)}</text></g>'
    )


def _marks(found: list[Row], y: dict[str, float], columns: dict[str, float]) -> list[str]:
    """Dots for modules, squares for papers."""
    out = []
    for row in found:
        at = y[row.number]
        out += [f'<circle class="module" cx="{columns[name]:g}" cy="{at:g}" r="3"/>' for name in row.modules]
        out += [
            f'<rect class="paper" x="{columns[name] - 3:g}" y="{at - 3:g}" width="6" height="6"/>'
            for name in row.papers
        ]
    return out


def _lines(found: list[Row], y: dict[str, float]) -> list[str]:
    """From each chapter to those that need it: straight to the next row, by a lane of its own to rows further down."""
    order = [row.number for row in found]
    after = dict(itertools.pairwise(order))
    further = {
        near: [row.number for row in found if near in row.direct and row.number != after.get(near)] for near in order
    }
    far = [near for near in order if further[near]]
    # The lane with the fewest branches is the outermost: each branch crosses the lanes between it and the chapter.
    lanes = {near: i for i, near in enumerate(sorted(far, key=lambda near: (len(further[near]), near)))}
    below, above = [], []
    for row in found:
        for near in row.direct:
            if after.get(near) == row.number:
                below.append(f'<path class="a" stroke-width="2" d="M{DOT} {y[near]:g}V{y[row.number]:g}"/>')
    shift = {  # two lines that end at one chapter, or one that ends and one that begins, stand side by side
        number: {near: 3 * (i - (len(met) - 1) / 2) for i, near in enumerate(met)}
        for number in order
        for met in [[near for near in lanes if number in further[near]] + [number] * (number in lanes)]
    }
    for near, lane in lanes.items():
        x, start = DOT - LANE * (len(lanes) - lane) - 4, y[near] + shift[near][near]
        ends = [y[number] + shift[number][near] for number in further[near]]
        color = LINES[lane % len(LINES)]
        down = f"M{x} {start + BEND:g}V{ends[-1] - BEND:g}"
        below.append(f'<path class="{color}" stroke-width="2" d="{down}"/>')
        d = f"M{DOT} {start:g}H{x + BEND}Q{x} {start:g} {x} {start + BEND:g}"
        d += "".join(f"M{x} {end - BEND:g}Q{x} {end:g} {x + BEND} {end:g}H{DOT}" for end in ends)
        level = "".join(f"M{x + BEND} {end:g}H{DOT}" for end in [start, *ends])  # only there it crosses others
        above.append(f'<path class="halo" stroke-width="4" d="{level}"/>')
        above.append(f'<path class="{color}" stroke-width="2" d="{d}"/>')
    dots = [f'<circle class="dot" stroke-width="1.6" cx="{DOT}" cy="{y[number]:g}" r="4"/>' for number in order]
    return [*below, *above, *dots]
