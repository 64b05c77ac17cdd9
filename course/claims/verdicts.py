"""The rule that computes a verdict from a target, a measurement, its uncertainty and a margin; nobody writes one.

A measurement is known up to an interval [low, high]. A target is a number (-0.5) or a relation ("<= -0.5", "> 0"). The
margin is the smallest difference that would matter; it is chosen before the experiment runs.

| target | holds | does not hold |
|---|---|---|
| T | the interval lies within T ± margin | the interval lies outside of T ± margin |
| <= T | high <= T + margin | low > T + margin |
| > T | low > T and mean >= T + margin | high < T + margin |

`>=` and `<` are the mirror images of `<=` and `>`. Everything else is undecided.
"""

import functools
import math
import re

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
IN_PART, NOT_HERE = "holds in part", "not at this scale"
_RELATION = re.compile(r"(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


def parse(target: float | str) -> tuple[str, float]:
    """Return relation and number of a target, ("=", -0.5) for -0.5 and (">", 0.0) for "> 0"."""
    found = _RELATION.fullmatch(target.strip()) if isinstance(target, str) else None
    if found:
        return found[1], float(found[2])
    if isinstance(target, (str, bool)) or not math.isfinite(target):
        raise ValueError(f"a claim or prediction is a finite number or a relation such as '<= -0.5'; got {target!r}")
    return "=", float(target)


def judge(target: float | str, *, mean: float, low: float, high: float, margin: float) -> str:
    """Return "holds", "does not hold" or "undecided" for a measurement between `low` and `high`."""
    relation, number = parse(target)
    if relation == "=":
        if number - margin <= low and high <= number + margin:
            return HOLDS
        return FAILS if low > number + margin or high < number - margin else UNDECIDED
    if relation in (">=", "<"):  # the mirror images: turn all signs around
        number, mean, low, high = -number, -mean, -high, -low
    if relation in ("<=", ">="):
        holds, fails = high <= number + margin, low > number + margin
    else:
        holds, fails = low > number and mean >= number + margin, high < number + margin
    return HOLDS if holds else FAILS if fails else UNDECIDED


def towards(target: float | str, old: float, new: float) -> bool:
    """Tell whether `new` is nearer to fulfilling the target than `old` is."""
    relation, number = parse(target)
    if relation == "=":
        return abs(new - number) < abs(old - number)
    return new > old if relation in (">", ">=") else new < old


def together(verdicts: list[str]) -> str:
    """Return the verdict of a claim from those of its counted rows."""
    found = set(verdicts)
    if found == {HOLDS}:
        return HOLDS
    if {HOLDS, FAILS} <= found:
        return IN_PART
    return FAILS if FAILS in found else UNDECIDED


@functools.cache
def quantile(seeds: int) -> float:
    """Student's 97.5 % quantile for `seeds` - 1 degrees of freedom: how many standard errors to either side.

    >>> round(quantile(3), 2), round(quantile(10), 2)
    (4.3, 2.26)
    """
    from scipy.special import stdtrit

    return float(stdtrit(seeds - 1, 0.975))
