"""Every check that CI runs, in order, behind `make test`, and of them what a change concerns, behind `make check`.

After a failing step the next ones run all the same.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from course import changed
from course.notebooks.execute import environment

PYTHON = (sys.executable, "-m")
WORKERS = max(2, min(4, os.cpu_count() or 2))  # each may need two gigabytes
PYTEST = (*PYTHON, "pytest", "-q", "-n", str(WORKERS), "--dist", "loadfile")
DOCTEST = (*PYTEST, "--doctest-modules")
MOST_BYTES = 1_000_000_000  # of compiled programs that are kept in .cache/jax


@dataclass(frozen=True)
class Step:
    """One check: its commands run one after the other, with what they need of the environment."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    env: dict[str, str] = field(default_factory=dict)


def steps(root: Path) -> list[Step]:
    """Return the steps of `make test`."""
    nbval = ("-p", "course.notebooks.outputs", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=900")
    notebooks = ("notebooks", "solutions", "exercises")
    return [
        *_quick(),
        Step("built", ((*PYTHON, "course", "build", "--check"),)),
        Step("tests", ((*PYTEST, "tests"),)),
        # The docstrings' examples run apart, with JAX as a user has it: tests/conftest.py would make it strict.
        Step("examples", ((*DOCTEST, "ntklib"),), environment(root)),
        Step("notebooks", ((*PYTEST, *nbval, *notebooks),), environment(root)),
    ]


def changed_steps(root: Path) -> list[Step]:
    """Return the steps of `make check`: lint, types, and the tests of what changed."""
    files = changed.files(root)
    found, examples = changed.tests(root, files), changed.doctests(root, files)
    print(f"{len(files)} files have changed; their tests: {' '.join(found) or 'none'}", flush=True)
    commands = [(*PYTEST, "-x", *found)] * bool(found) + [(*DOCTEST, *examples)] * bool(examples)
    return [*_quick(), Step("tests", tuple(commands))]


def _quick() -> list[Step]:
    return [
        Step("lint", ((*PYTHON, "ruff", "check"), (*PYTHON, "ruff", "format", "--check"))),
        Step("types", ((*PYTHON, "pyrefly", "check"),)),
    ]


def run(root: Path, only: Collection[str] = ()) -> bool:
    """Run the steps of `make test`, or some of them, with a line for each at the end; tell whether all passed."""
    chosen = [step for step in steps(root) if not only or step.name in only]
    if unknown := set(only) - {step.name for step in chosen}:
        names = ", ".join(step.name for step in steps(root))
        raise SystemExit(f"no step {', '.join(sorted(unknown))}; there are: {names}")
    return _run(root, chosen)


def run_changed(root: Path, seconds: float = 110.0) -> bool:
    """Run the steps of `make check`, and stop after so many seconds; tell whether all that ran passed."""
    return _run(root, changed_steps(root), end=time.monotonic() + seconds)


def bound(folder: Path, most: int = MOST_BYTES) -> None:
    """Remove what has not been used for longest from JAX's compilation cache, until it has at most so many bytes.

    JAX bounds it itself only with a package that we do not have otherwise, and reads the whole folder at each entry.
    """
    found = [(path, path.stat()) for path in folder.glob("*") if path.is_file()]
    too_much = sum(stat.st_size for _, stat in found) - most
    for path, stat in sorted(found, key=lambda item: max(item[1].st_atime, item[1].st_mtime)):
        if too_much <= 0:
            break
        path.unlink(missing_ok=True)
        too_much -= stat.st_size


def _run(root: Path, chosen: Collection[Step], end: float | None = None) -> bool:
    bound(root / ".cache" / "jax")
    base = {"NTK_SWEEPS": "sixth", **environment(root)}  # the weekly run says "all"; see tests/conftest.py
    cache = [name for name in base if name.startswith("JAX_")]
    results: list[tuple[str, str, float]] = []
    for number, step in enumerate(chosen, 1):
        print(f"\n==== {step.name} ({number} of {len(chosen)})", flush=True)
        env = step.env or {name: value for name, value in base.items() if name not in cache}
        begin = time.monotonic()
        codes = [_call(command, root, env, end) for command in step.commands]
        result = "FAILED" if any(codes) else "STOPPED" if None in codes else "passed"
        results.append((step.name, result, time.monotonic() - begin))
    print("\n==== summary")
    for name, result, seconds in results:
        print(f"{result:<7} {name:<10} {seconds:6.1f} s")
    if any(result == "STOPPED" for _, result, _ in results):
        print("The time was up before all tests had run: make test runs them all.")
    return all(result != "FAILED" for _, result, _ in results)


def _call(command: tuple[str, ...], root: Path, env: dict[str, str], end: float | None) -> int | None:
    """Run a command; return its exit code, or None if it was not done by `end`."""
    if end is not None and time.monotonic() >= end:
        return None
    process = subprocess.Popen(command, cwd=root, env=env)
    try:
        return process.wait(None if end is None else end - time.monotonic())
    except subprocess.TimeoutExpired:
        # As Ctrl-C does: pytest ends its workers and says what it has found so far.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None
