"""What the measurements say: ratios, a table for the terminal, and one for benchmarks/README.md."""

import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.harness import Measurement, Result, Settings

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
COLUMNS = ("", "ours s", "peer s", "ratio", "range", "goal", "compile s", "peak MiB", "difference", "largest")


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is: the ratio of the medians, and the smallest and largest of a round."""

    median: float
    low: float
    high: float


def ratio(ours: Measurement, peer: Measurement) -> Ratio:
    """Of two that took turns: their k-th turns stand beside each other in time."""
    rounds = [b / a for a, b in zip(ours.seconds, peer.seconds, strict=True)]
    return Ratio(statistics.median(peer.seconds) / statistics.median(ours.seconds), min(rounds), max(rounds))


def compiling(measured: Measurement) -> float:
    """Seconds that the first call took longer than later ones."""
    return max(0.0, measured.first - statistics.median(measured.seconds))


def agrees(result: Result, peer: Measurement) -> bool:
    """Whether a peer has our result, in norm. Single entries say less: where one unit of a ReLU network is zero up to
    rounding, its slope is 0 for one of us and 1 for the other, and the row of that input is off by 1e-3. A yardstick
    and a limit compute something else.
    """
    return peer.role != "peer" or peer.difference <= result.case.tolerance


def best(result: Result) -> Measurement | None:
    """The fastest peer among those with our result, or the yardstick."""
    measured = [peer for peer in result.peers if peer.seconds and peer.role != "limit" and agrees(result, peer)]
    return min(measured, key=lambda peer: statistics.median(peer.seconds), default=None)


def rows(result: Result) -> Iterator[tuple[str, ...]]:
    """The cells of a case, a row for each peer. What has two numbers has ours first; the largest difference is that
    outside the diagonal and that on it. The ratio of a limit is the share of it that we reach.
    """
    ours = result.ours
    if ours.note:
        yield (f"ours {ours.note}", *[""] * 9)
    elif not any(peer.seconds for peer in result.peers):
        yield ("no peer", _seconds(ours), "", "", "", "", f"{compiling(ours):.1f}", _mib(ours), "", "")
    for peer in result.peers:
        if peer.note or ours.note:
            yield (f"{peer.name}: {peer.note.split('. Get it')[0] or 'ours failed'}", *[""] * 9)
            continue
        r, goal = ratio(ours, peer), ""
        if peer is best(result):
            goal = f"{result.case.goal:.2g} {'reached' if r.median >= result.case.goal else 'missed'}"
        share = peer.role == "limit"
        yield (
            peer.name, _seconds(ours), _seconds(peer), *(_share(r) if share else _ratio(r)), goal,
            f"{compiling(ours):.1f} / {compiling(peer):.1f}", f"{_mib(ours)} / {_mib(peer)}",
            *_differences(result, peer),
        )  # fmt: skip


def table(results: Sequence[Result]) -> Table:
    """For the terminal."""
    made = Table(*COLUMNS, box=box.SIMPLE, pad_edge=False)
    for result in results:
        made.add_row(Text(result.case.name, style="bold"))
        for row in rows(result):
            made.add_row(*map(Text, row))  # `Text`: brackets in messages are no markup
    return made


def markdown(results: Sequence[Result]) -> str:
    """For benchmarks/README.md."""
    lines: list[tuple[str, ...]] = [COLUMNS, ("---",) * len(COLUMNS)]
    for result in results:
        lines += [(f"**{result.case.name}**", *[""] * 9), *rows(result)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def remarks(results: Sequence[Result]) -> list[str]:
    """What to know beside the table: who is missing and how to get it, and whose result is not ours."""
    found: dict[str, str] = {}
    for result in results:
        for peer in result.peers:
            if peer.note.startswith("missing"):
                found[peer.family] = f"{peer.family} is {peer.note}"
            elif not peer.note and not agrees(result, peer):
                found[f"{peer.name} {result.case.name}"] = (
                    f"{result.case.name}: {peer.name} has another result than ours, by {peer.difference:.1e} "
                    f"in norm; it is not counted as a peer."
                )
    return list(found.values())


def wrong(results: Sequence[Result]) -> bool:
    """Whether ours failed somewhere, or somebody has another result."""
    return any(r.ours.note or any(not p.note and not agrees(r, p) for p in r.peers) for r in results)


def conditions(versions: dict[str, str], settings: Settings) -> str:
    """The machine, the versions and the date."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    memory = f", {gib:.0f} GiB" if gib else ""
    used = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"{time.strftime('%Y-%m-%d')}: {settings.rounds} rounds on {settings.cores} of the {os.cpu_count()} cores of "
        f"{_processor()}{memory}; {platform.system()}, Python {platform.python_version()}, {used}."
    )


def write(readme: Path, results: Sequence[Result], conditions: str) -> None:
    """Put the table between the two marks in a Markdown file."""
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme.name} must hold the lines {BEGIN} and {END}, between which the table goes.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n\n{conditions}\n\n{END}{after}")


def _ratio(r: Ratio) -> tuple[str, str]:
    return f"{r.median:.2f}", f"{r.low:.2f} to {r.high:.2f}"


def _share(r: Ratio) -> tuple[str, str]:
    return f"{100 * r.median:.2g} %", f"{100 * r.low:.2g} to {100 * r.high:.2g} %"


def _differences(result: Result, peer: Measurement) -> tuple[str, str]:
    if peer.role != "peer":
        return "", ""
    norm = f"{peer.difference:.0e}" + _but_for(peer) + ("" if agrees(result, peer) else " DIFFERS")
    predictions = result.case.kind == "regression"
    return norm, f"{peer.outside:.0e}" if predictions else f"{peer.outside:.0e} / {peer.diagonal:.0e}"


def _but_for(measured: Measurement) -> str:
    return f" but for {measured.apart} input{'s' * (measured.apart > 1)}" if measured.apart else ""


def _seconds(measured: Measurement) -> str:
    return f"{statistics.median(measured.seconds):.3g}"


def _mib(measured: Measurement) -> str:
    return f"{measured.peak / 2**20:,.0f}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
