"""Small helpers for the chapters: the size and the seeds they run with, the two accuracies of chapter 00, and the other
library of chapter 20.
"""

import importlib
import os
import re
from types import ModuleType

SCALES = ("laptop", "long", "paper")
_REPORT = re.compile(r"test accuracy on mnist5k: network ([\d.]+) %, NTK ([\d.]+) %")
_STRIDE = 100_003  # between the seeds of one value of NTK_SEED and the next


def scale() -> str:
    """Return the size at which the experiments run, from `NTK_SCALE`.

    "laptop" (the default: a minute on two cores), "long" (2 to 20 minutes on one core) or "paper" (the source's size).
    """
    value = os.environ.get("NTK_SCALE") or "laptop"
    if value not in SCALES:
        raise ValueError(f"NTK_SCALE must be 'laptop', 'long' or 'paper'; it is {value!r}")
    return value


def sized[T](laptop: T, *, long: T | None = None, paper: T | None = None) -> T:
    """Return the size for this run's scale; where a scale has none of its own, that of the next smaller one.

    >>> sized(6, paper=16)
    6
    """
    given = {"laptop": laptop, "long": laptop if long is None else long}
    return given[scale()] if scale() != "paper" else given["long"] if paper is None else paper


def chosen_seed() -> int:
    """Return `NTK_SEED`, 0 if it is not set."""
    value = os.environ.get("NTK_SEED") or "0"
    if not value.isascii() or not value.isdigit() or int(value) > 20_000:
        raise ValueError(f"NTK_SEED must be a whole number from 0 to 20000; it is {value!r}")
    return int(value)


def reseed(seed: int) -> int:
    """Return `seed`, or with `NTK_SEED=k` another number in its place, so that an experiment can be repeated afresh.

    Use it for everything that a claim's uncertainty covers: `jax.random.key(reseed(0))`, `nnx.Rngs(reseed(seed))`.

    >>> reseed(3)
    3
    """
    return seed + _STRIDE * chosen_seed()


def report(*, network: float, kernel: float) -> None:
    """Print two test accuracies, given as fractions, in the words that `course open --check` looks for."""
    for name, value in (("network", network), ("kernel", kernel)):
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be a fraction of right answers, between 0 and 1; got {value}")
    print(f"test accuracy on mnist5k: network {100 * network:.1f} %, NTK {100 * kernel:.1f} %")


def find_report(text: str) -> str | None:
    """Return the line that `report` printed, if `text` holds it."""
    found = _REPORT.search(text)
    return found and found.group()


class NotInstalled(ImportError):
    """A package that a chapter needs cannot be used. In a notebook only its message is shown."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def bridge(*, needed: bool = True) -> ModuleType | None:
    """Return `ntklib.interop.neural_tangents`; where that cannot be imported, say in a sentence what to install.

    neural-tangents is not part of a reader's installation (`make course`). With `needed` the sentence ends the cell,
    and with it "Run all"; otherwise it is printed and None is returned, so that cells can wait for it: `if nt: ...`.
    """
    try:
        return importlib.import_module("ntklib.interop.neural_tangents")
    except ImportError as error:
        message = str(error)
        if isinstance(error, ModuleNotFoundError):
            from ntklib.interop._bridge import INSTALL

            what = "This chapter needs" if needed else "Some cells of this sheet wait for"
            message = (
                f"{what} {error.name}, which is not installed: run {INSTALL.replace('`pip', '`%pip')} in a cell, "
                "restart the kernel and run all cells again."
            )
    if needed:
        raise NotInstalled(message) from None
    print(message)
    return None
