"""The rule that computes verdicts: targets of each kind, at, inside and outside of their margins."""

import math

import numpy as np
import pytest

from course.claims import verdicts

MARGIN = 0.1
CASES = [
    # target, mean, half-width of the interval, verdict
    (-0.5, -0.48, 0.05, "holds"),
    (-0.5, -0.42, 0.05, "undecided"),  # near, but not known well enough
    (-0.5, -0.30, 0.45, "undecided"),  # 2.26 · 0.20
    (-0.5, -0.30, 0.05, "does not hold"),
    (-0.5, -0.58, 0.01, "holds"),
    (-0.5, -0.58, 0.03, "undecided"),
    (-0.5, -0.75, 0.10, "does not hold"),
    (-0.5, -0.75, 0.20, "undecided"),
    ("<= -0.5", -1.0, 0.3, "holds"),  # a bound: far below is fine
    ("<= -0.5", -0.45, 0.04, "holds"),
    ("<= -0.5", -0.45, 0.06, "undecided"),
    ("<= -0.5", -0.35, 0.04, "does not hold"),
    (">= 0", 1.0, 0.5, "holds"),
    (">= 0", -0.05, 0.04, "holds"),
    (">= 0", -0.05, 0.06, "undecided"),
    (">= 0", -0.2, 0.05, "does not hold"),
    ("> 0", 0.3, 0.25, "holds"),
    ("> 0", 0.3, 0.35, "undecided"),  # may be nothing
    ("> 0", 0.08, 0.01, "does not hold"),  # an effect, but smaller than what would matter
    ("> 0", 0.08, 0.05, "undecided"),
    ("> 0", -0.3, 0.1, "does not hold"),
    ("< 1", 0.85, 0.1, "holds"),
    ("< 1", 0.93, 0.03, "undecided"),
    ("< 1", 0.93, 0.02, "does not hold"),
    ("< 1", 1.5, 0.1, "does not hold"),
]


@pytest.mark.parametrize(("target", "mean", "half", "verdict"), CASES)
def test_the_rule(target, mean, half, verdict):
    found = verdicts.judge(target, mean=mean, low=mean - half, high=mean + half, margin=MARGIN)
    assert found == verdict


@pytest.mark.parametrize(("target", "mean", "half", "verdict"), CASES)
def test_the_mirror_image_has_the_same_verdict(target, mean, half, verdict):
    relation, number = verdicts.parse(target)
    turned = {"=": -number, "<=": f">= {-number}", ">=": f"<= {-number}", "<": f"> {-number}", ">": f"< {-number}"}
    found = verdicts.judge(turned[relation], mean=-mean, low=-mean - half, high=-mean + half, margin=MARGIN)
    assert found == verdict


@pytest.mark.parametrize("target", [0.3, "<= 0.3", ">= 0.3", "< 0.3", "> 0.3"])
def test_a_narrower_interval_never_undoes_a_decision(target):
    rng = np.random.default_rng(1)
    for mean, half, shrink in rng.uniform([-1, 0, 0], [1, 1, 1], size=(2000, 3)):
        wide, narrow = (
            verdicts.judge(target, mean=mean, low=mean - h, high=mean + h, margin=MARGIN) for h in (half, half * shrink)
        )
        assert wide in ("undecided", narrow)


def test_a_target_is_a_number_or_a_relation():
    assert verdicts.parse("<= -5e-1") == ("<=", -0.5)
    assert verdicts.parse(">0") == (">", 0.0)
    assert verdicts.parse(2) == ("=", 2.0)
    for wrong in ("about -1", "= 3", "<", "> x", "", math.nan, math.inf, True):
        with pytest.raises(ValueError, match="a finite number or a relation"):
            verdicts.parse(wrong)


def test_the_quantile_is_students():
    from scipy import stats

    for seeds in (3, 4, 10, 16):
        assert math.isclose(verdicts.quantile(seeds), stats.t(seeds - 1).ppf(0.975), rel_tol=1e-12)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ("hh", "holds"),
        ("ff", "does not hold"),
        ("hf", "holds in part"),
        ("hfu", "holds in part"),
        ("fu", "does not hold"),
        ("hu", "undecided"),
        ("u", "undecided"),
    ],
)
def test_the_rows_together(rows, verdict):
    names = {"h": "holds", "f": "does not hold", "u": "undecided"}
    assert verdicts.together([names[letter] for letter in rows]) == verdict


def test_towards_the_target():
    assert verdicts.towards(-0.5, -0.2, -0.4)
    assert not verdicts.towards(-0.5, -0.4, -0.2)
    assert verdicts.towards("> 0", -0.3, -0.1)
    assert verdicts.towards("<= 1", 3, 2)
    assert not verdicts.towards(">= 1", 3, 2)
