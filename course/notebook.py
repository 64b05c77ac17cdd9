"""Two small helpers for the chapters: the size they run at, and the two accuracies of chapter 00."""

import os
import re

_REPORT = re.compile(r"test accuracy on mnist5k: network ([\d.]+) %, NTK ([\d.]+) %")


def scale() -> str:
    """Return "laptop" (the default: a minute on two cores) or "paper" (the source's size), from `NTK_SCALE`."""
    value = os.environ.get("NTK_SCALE") or "laptop"
    if value not in ("laptop", "paper"):
        raise ValueError(f"NTK_SCALE must be 'laptop' or 'paper'; it is {value!r}")
    return value


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
