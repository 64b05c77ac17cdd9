"""Runs a case: worker processes, a trial of each family's ways, then rounds in turns."""

import dataclasses
import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.peers import Implementation
from benchmarks.process import Failed, Missing, Process, pinned

Say = Callable[[str], None]
#: Order on a few inputs is not that on many: who is slower by less than this is measured on the whole case, too.
CLOSE = 4.0


@dataclass(frozen=True)
class Settings:
    """How to measure.

    cores: of each worker; rounds: how often each implementation has its turn; turn: seconds that a turn lasts at least;
    limit: seconds that one call may take; trial: inputs on which a family's ways are tried.
    """

    cores: int = 1
    rounds: int = 5
    turn: float = 1.0
    limit: float = 120.0
    trial: int = 16


@dataclass
class Measurement:
    """One implementation of one case. `seconds` has a number for each round; `note` says why it has none.

    first: seconds of the first call, which compiles; peak: bytes above what was in use before it.
    difference: from our result, ‖ours − theirs‖/‖theirs‖ in the Frobenius norm, but for the inputs `apart`.
    apart: inputs left out of it, as few as bring it below the case's tolerance; none if it takes more than one in 20.
    outside, diagonal: the largest one outside the diagonal and on it, relative to the largest entry.
    role: see `Implementation`; only a "peer" is compared.
    """

    name: str
    family: str
    seconds: list[float] = field(default_factory=list)
    first: float = 0.0
    peak: int = 0
    difference: float = 0.0
    apart: int = 0
    outside: float = 0.0
    diagonal: float = 0.0
    note: str = ""
    role: str = "peer"


@dataclass
class Result:
    """A case, measured; the peers in the order of the table of implementations."""

    case: Case
    ours: Measurement
    peers: list[Measurement]


class Entrant:
    """An implementation in its process. A step that fails ends it, with a note; steps after that do nothing."""

    def __init__(self, implementation: Implementation, case: Case, settings: Settings, folder: Path):
        self.implementation, self.case, self.settings, self.folder = implementation, case, settings, folder
        self.measured = Measurement(implementation.name, implementation.family, role=implementation.role)
        self.process: Process | None = None
        self.calls = 1

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step, if none has failed so far."""
        if self.measured.note:
            return
        try:
            step()
        except Failed as error:
            how = f". Get it: {self.implementation.how}" if self.implementation.how else ""
            self.measured.note = f"missing: {error}{how}" if isinstance(error, Missing) else f"failed: {error}"
            self.measured.seconds = []
            self.close()

    def start(self, n: int) -> None:
        """Start it on the first `n` inputs, compile, and find out how many calls make a turn."""
        self.process = Process(self.implementation, self.settings.cores, self.folder)
        asked = {"case": dataclasses.asdict(self.case), "option": self.implementation.option, "n": n}
        self._ask("prepare", arrays=str(self.folder / "case.npz"), **asked)
        # The limit is that of a call; the first one compiles as well.
        self.measured.first = self._ask("run", 2 * self.settings.limit, calls=1)["seconds"][0]
        self.calls = max(1, min(50, math.ceil(self.settings.turn / max(self.once(), 1e-6))))

    def once(self) -> float:
        """Seconds of one call."""
        return self._ask("run", calls=1)["seconds"][0]

    def turn(self) -> None:
        """One round: the median of a few calls."""
        seconds = self._ask("run", self.settings.limit * self.calls, calls=self.calls)["seconds"]
        self.measured.seconds.append(statistics.median(seconds))

    def finish(self) -> None:
        """Its memory, its result as a file, and its end."""
        self.measured.peak = self._ask("memory")["peak"]
        self._ask("save", path=str(self.result()))
        self.close()

    def result(self) -> Path:
        """Where its result is put."""
        return self.folder / f"{self.implementation.name}.npy"

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.close()

    def _ask(self, do: str, limit: float | None = None, **request: Any) -> dict:
        assert self.process is not None
        return self.process.ask(do, self.settings.limit if limit is None else limit, **request)


def run(
    case: Case, ours: Implementation, peers: Sequence[Implementation], settings: Settings, say: Say = lambda _: None
) -> tuple[Result, dict[str, str]]:
    """The case measured, and the versions of all that took part.

    Each implementation has a process of its own for the whole case. After compiling, rounds: everybody has a turn, one
    after the other, so that whatever else the machine does meets all of them.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, pinned(settings.cores):
        folder = Path(name)
        arrays: dict[str, Any] = dict(cases.arrays(case))
        for i, array in enumerate(itertools.chain.from_iterable(cases.weights(case))):
            arrays[f"w{i}"] = array
        np.savez(folder / "case.npz", **arrays)

        entrants, out = [Entrant(ours, case, settings, folder)], []
        families = itertools.groupby((peer for peer in peers if peer.takes(case)), lambda peer: peer.family)
        for _, family in families:
            tried = [Entrant(peer, case, settings, folder) for peer in family]
            fast = promising(tried, say)
            entrants += fast
            out += [] if fast else [entrant.measured for entrant in tried]  # each has a note that says why
        entrants = [e if e.process is None else Entrant(e.implementation, case, settings, folder) for e in entrants]
        try:
            for entrant in entrants:
                if entrants[0].measured.note and entrant is not entrants[0]:
                    entrant.measured.note = "not measured, nothing to compare it with"
                say(f"{entrant.implementation.name} compiles")
                entrant.attempt(lambda entrant=entrant: entrant.start(case.n))
            for i in range(settings.rounds):
                for entrant in entrants:
                    say(f"round {i + 1} of {settings.rounds}: {entrant.implementation.name}")
                    entrant.attempt(entrant.turn)
            for entrant in entrants:
                say(f"result of {entrant.implementation.name}")
                entrant.attempt(entrant.finish)
        finally:
            for entrant in entrants:
                entrant.close()
        first, *others = entrants
        for entrant in others:
            if entrant.measured.seconds and first.measured.seconds and entrant.implementation.role == "peer":
                m = entrant.measured
                found = differences(first.result(), entrant.result(), case.tolerance)
                m.difference, m.apart, m.outside, m.diagonal = found
        versions = {k: v for e in entrants if e.process for k, v in e.process.versions.items()}
    return Result(case, first.measured, [entrant.measured for entrant in others] + out), versions


def promising(family: list[Entrant], say: Say) -> list[Entrant]:
    """Those that may be the fastest on the whole case: on a few inputs none is `CLOSE` times as fast. Out are also
    those that cannot be expected to finish in time; the time of a kernel grows with N² at most.
    """
    if all(entrant.implementation.whole for entrant in family):
        return family
    times: dict[Entrant, float] = {}
    for entrant in family:
        case, settings = entrant.case, entrant.settings
        n = min(settings.trial, case.n)

        def attempt(entrant: Entrant = entrant, n: int = n) -> None:
            entrant.start(n)
            times[entrant] = min(entrant.once() for _ in range(3))

        say(f"{entrant.implementation.name} on {n} inputs")
        entrant.attempt(attempt)
        entrant.close()
        if entrant in times and (expected := times[entrant] * (case.n / n) ** 2) > settings.limit:
            entrant.measured.note = f"not measured, about {expected:,.0f} s a call"
            del times[entrant]
    return [entrant for entrant in times if times[entrant] <= CLOSE * min(times.values())]


def differences(ours: Path, theirs: Path, tolerance: float) -> tuple[float, int, float, float]:
    """Of two kernels [N, N, ...] the relative difference in norm, the inputs left out of that, and the largest
    difference outside the diagonal and on it, relative to the largest entry (see `Measurement`). Of predictions [M, K]
    that in norm and the largest.

    Results of other shapes differ by infinity. Read row by row: a full kernel may be larger than memory.
    """
    a, b = (np.load(path, mmap_mode="r") for path in (ours, theirs))
    if a.shape != b.shape:
        return math.inf, 0, math.inf, math.inf
    if a.shape[0] != a.shape[1]:
        error, size = np.abs(a.astype(float) - b), np.abs(b)
        norm = np.linalg.norm(error) / np.linalg.norm(size)
        return math.inf if np.isnan(norm) else float(norm), 0, _largest(error) / float(size.max()), 0.0
    n, off, on, largest = len(a), 0.0, 0.0, 0.0
    errors, sizes = np.empty((n, n), np.float32), np.empty((n, n), np.float32)  # squares, of pairs of inputs
    for i in range(n):
        row = np.asarray(b[i], float)
        error = np.abs(np.asarray(a[i], float) - row)
        errors[i], sizes[i] = ((part**2).reshape(n, -1).sum(1) for part in (error, row))
        largest = max(largest, float(np.abs(row).max()))
        on = max(on, _largest(error[i]))
        error[i] = 0.0
        off = max(off, _largest(error))
    return *_norm(errors, sizes, tolerance), off / largest, on / largest


def _norm(errors: np.ndarray, sizes: np.ndarray, tolerance: float) -> tuple[float, int]:
    """√(Σ errors / Σ sizes), and how many inputs had to be left out, those with the largest errors first."""
    whole = math.sqrt(errors.sum(dtype=float) / sizes.sum(dtype=float))
    if math.isnan(whole):
        return math.inf, 0
    norm, apart = whole, 0
    while norm > tolerance:
        apart += 1
        if apart > len(errors) / 20:
            return whole, 0
        worst = int(np.argmax(errors.sum(0) + errors.sum(1)))
        for squares in (errors, sizes):
            squares[worst], squares[:, worst] = 0.0, 0.0
        norm = math.sqrt(errors.sum(dtype=float) / sizes.sum(dtype=float))
    return norm, apart


def _largest(error: np.ndarray) -> float:
    return math.inf if np.isnan(error).any() else float(error.max())
