"""Every check that CI runs, in order, behind `make test`. After a failing step the next ones run all the same."""

import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from course.execute import environment


@dataclass(frozen=True)
class Step:
    """One check: its commands run one after the other, with what they need of the environment."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    env: dict[str, str] = field(default_factory=dict)


def steps(root: Path) -> list[Step]:
    """Return the steps of `make test`."""
    python = (sys.executable, "-m")
    pytest = (*python, "pytest", "-q", "-n", "2", "--dist", "loadfile")
    nbval = ("--nbval", "--nbval-current-env", "--nbval-cell-timeout=120", "notebooks", "solutions", "exercises")
    return [
        Step("lint", ((*python, "ruff", "check"), (*python, "ruff", "format", "--check"))),
        Step("types", ((*python, "pyrefly", "check"),)),
        Step("built", ((*python, "course", "build", "--check"),)),
        # The docstrings' examples run apart, with JAX as a user has it: tests/conftest.py would make it strict.
        Step("tests", ((*pytest, "tests"), (*python, "pytest", "-q", "--doctest-modules", "ntklib"))),
        Step("notebooks", ((*pytest, *nbval),), environment(root)),
    ]


def run(root: Path, only: Collection[str] = ()) -> bool:
    """Run the steps with their output passed through, and print a line for each at the end."""
    chosen = [step for step in steps(root) if not only or step.name in only]
    if unknown := set(only) - {step.name for step in chosen}:
        names = ", ".join(step.name for step in steps(root))
        raise SystemExit(f"no step {', '.join(sorted(unknown))}; there are: {names}")
    base = environment(root)
    cache = [name for name in base if name.startswith("JAX_")]
    results: list[tuple[str, bool, float]] = []
    for number, step in enumerate(chosen, 1):
        print(f"\n==== {step.name} ({number} of {len(chosen)})", flush=True)
        env = step.env or {name: value for name, value in base.items() if name not in cache}
        begin = time.monotonic()
        codes = [subprocess.run(command, cwd=root, env=env, check=False).returncode for command in step.commands]
        results.append((step.name, not any(codes), time.monotonic() - begin))
    print("\n==== summary")
    for name, passed, seconds in results:
        print(f"{'passed' if passed else 'FAILED'}  {name:<10} {seconds:6.1f} s")
    return all(passed for _, passed, _ in results)
