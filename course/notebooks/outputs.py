"""How `make test` compares the numbers that a cell prints with those in the notebook: a plugin for nbval.

nbval compares texts. But processors add in different orders, so the last digit of a number may turn, and a long
training that magnifies rounding ends elsewhere. The plugin keeps nbval's comparison for all text between the numbers
and for whole numbers, and lets other numbers agree by the rule that claims have:

| printed | agrees if |
|---|---|
| m ± u | means differ by at most 3 √(u² + u'²), the errors by at most a factor of five |
| m [low, high] | the same, with the standard error of which this is a 95 % interval |
| any other decimal number | it differs by at most one in its last digit |
| below 1e-9 on both sides | always: what rounding has left |
"""

import copy
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from course.claims.records import MOST_ERRORS, ROUNDING

_NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\d+")


def agree(before: str, now: str) -> bool:
    """Tell whether two printed texts say the same.

    >>> agree("rate 0.57 ± 0.02 after 50 steps", "rate 0.59 ± 0.01 after 50 steps")
    True
    >>> agree("rate 0.57 ± 0.02 after 50 steps", "rate 0.57 ± 0.02 after 51 steps")
    False
    """
    texts = [re.sub(r"\s+", " ", _NUMBER.sub("#", text)).strip() for text in (before, now)]
    if texts[0] != texts[1]:
        return False
    return all(_numbers_agree(a, b) for a, b in zip(_numbers(before), _numbers(now), strict=True))


@dataclass
class _Number:
    """A number as it is printed; `error` is its standard error, and `is_error` says that it is one itself."""

    text: str
    error: float | None = None
    is_error: bool = False

    @property
    def value(self) -> float:
        return float(self.text.replace("−", "-"))

    @property
    def whole(self) -> bool:
        return self.text.lstrip("+-−").isdigit()

    @property
    def last_digit(self) -> float:
        """What one is worth in the last printed digit: 0.01 for 0.57, 1e-6 for 2.3e-5."""
        digits, _, power = self.text.lower().partition("e")
        return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def _numbers(text: str) -> list[_Number]:
    """The numbers of a text, with the errors that stand behind them."""
    places = list(_NUMBER.finditer(text))
    found = [_Number(place[0]) for place in places]
    for i in range(len(found) - 1):
        between = text[places[i].end() : places[i + 1].start()].strip()
        if between == "±":
            found[i].error, found[i + 1].is_error = found[i + 1].value, True
        elif between == "[" and i + 2 < len(found) and text[places[i + 2].end() :].startswith("]"):
            width = found[i + 2].value - found[i + 1].value
            for number in found[i : i + 3]:
                number.error = width / (2 * 1.96)
    return found


def _numbers_agree(a: _Number, b: _Number) -> bool:
    if a.text == b.text:
        return True
    if a.whole and b.whole and a.error is None and not a.is_error:
        return False
    small, large = sorted((abs(a.value), abs(b.value)))
    turned = 1.001 * min(a.last_digit, b.last_digit)  # and a little, for 0.57 - 0.56 in floating point
    if large < ROUNDING or (a.is_error and large <= MOST_ERRORS * small):
        return True
    return abs(a.value - b.value) <= turned + 3 * math.hypot(a.error or 0.0, b.error or 0.0)


# ---- The plugin


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each cell of a notebook compare its outputs as above."""
    from nbval.plugin import IPyNbCell

    for item in items:
        if isinstance(item, IPyNbCell):
            item.compare_outputs = functools.partial(_compare, item.compare_outputs)


def _compare(by_nbval: Any, test: Sequence[Any], ref: Sequence[Any], **how: Any) -> Any:
    """Call nbval's comparison with the notebook's own text in the place of each text that agrees with it."""
    if len(test) == len(ref):
        test = [_with_text_of(before, now) for before, now in zip(ref, test, strict=True)]
    return by_nbval(test, ref, **how)


def _with_text_of(before: Any, now: Any) -> Any:
    """The new output, with the text of the one before if the two agree."""
    changed = copy.deepcopy(now)
    if before["output_type"] == now["output_type"] == "stream" and before["name"] == now["name"]:
        if agree(before["text"], now["text"]):
            changed["text"] = before["text"]
    elif "data" in before and "data" in now:
        old, new = (output["data"].get("text/plain", "") for output in (before, now))
        if old and agree(old, new):
            changed["data"]["text/plain"] = old
            if "text/html" in before["data"] and "text/html" in now["data"]:  # a film: its text says what it shows
                changed["data"]["text/html"] = before["data"]["text/html"]
    return changed
