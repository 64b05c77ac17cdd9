"""The warning about lost digits comes where rounding errors move the answer and only there, and its advice helps."""

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from rounded import KERNEL_OF_RANK_2, KERNELS, TARGETS, X_TEST, N, X, flow, gauss, linear, reference, rounded, said

import ntklib as ntk


@pytest.mark.weekly
@pytest.mark.parametrize("seed", [0, 1])
def test_the_warning_comes_where_the_answer_is_off_and_only_there(seed):
    """Smooth and rough targets, fast and slow spectra, early and late, with and without ridge, against float64."""
    counted = {"off": 0, "good": 0}
    for (name, make), (kind, y) in itertools.product(KERNELS.items(), TARGETS.items()):
        k = KERNEL_OF_RANK_2 if name == "linear" else make(X, X)
        k_test = make(X_TEST, X)
        train, test = rounded(k, seed), rounded(k_test, seed + 10)
        for ridge, t in itertools.product((0.0, 1e-6, 1e-5, 1e-3), (10.0, 1e3, 1e5, 1e6, 1e7, np.inf)):
            if name == "gauss" and ridge == 0.0 and t > 1e5:
                continue  # what float64 itself does not resolve is no reference
            want = reference(k, k_test, y, t, ridge)
            (_, got), words = flow(train, test, y.astype(np.float32), t, ridge)
            error = np.abs(got - want).max() / np.abs(want).max()
            case = f"{name}, {kind}, ridge {ridge:g}, t = {t:g}: off by {error:.2g}, {len(words)} warnings"
            if error > 0.03:
                counted["off"] += 1
                assert words, case
            if error < 0.002:
                counted["good"] += 1
                assert not words, case
    assert counted["off"] >= 8, counted
    assert counted["good"] >= 40, counted


def test_the_words_name_digits_and_ways_out_that_work():
    y = TARGETS["rough"].astype(np.float32)
    train, test = rounded(gauss(X, X), 0), rounded(gauss(X_TEST, X), 1)
    (_, wrong), (words,) = flow(train, test, y, np.inf, 1e-6)
    lost, ridge = re.search(r"(\d) of the 7 digits .* use a ridge of at least (\S+),", words).groups()  # pyrefly: ignore
    exact = reference(gauss(X, X), gauss(X_TEST, X), TARGETS["rough"], np.inf, 1e-6)
    error = float(np.abs(wrong - exact).max() / np.abs(exact).max())
    assert abs(int(lost) - (7 + np.log10(error))) < 1.5
    assert "`ntk_train`" in words
    assert "float64" in words
    (_, good), words = flow(train, test, y, np.inf, float(ridge))
    assert not words
    assert_close(good, reference(gauss(X, X), gauss(X_TEST, X), TARGETS["rough"], np.inf, float(ridge)), rtol=0.03)
    (_, good), words = flow(gauss(X, X), gauss(X_TEST, X), y, np.inf, 1e-6)
    assert not words, "in float64 nothing is lost"
    assert_close(good, exact, rtol=1e-6)
    assert not flow(train, test, y, 1e2, 0.0)[1], "and stopping early is safe"


def test_a_double_precision_kernel_is_used_as_such_where_jax_has_float32():
    """The way out without a change of settings: the kernel in float64, all else as before."""
    y = TARGETS["rough"]
    exact = reference(gauss(X, X), gauss(X_TEST, X), y, np.inf, 1e-6)
    with jax.enable_x64(False):
        (_, got), words = flow(gauss(X, X), gauss(X_TEST, X), y, np.inf, 1e-6)
        assert got.dtype == jnp.float32
    assert not words
    assert_close(got, exact, rtol=1e-6)


def test_no_words_under_jit():
    y = TARGETS["rough"].astype(np.float32)
    train = rounded(gauss(X, X), 0)
    with jax.enable_x64(False):
        assert not said(lambda: jax.jit(lambda k: ntk.gradient_flow(k, y, t=jnp.inf, ridge=1e-6))(train))[1]


PARTS = ((X, X), (X_TEST, X), (X_TEST, X_TEST))
ROUNDED = [rounded(gauss(a, b), i) for i, (a, b) in enumerate(PARTS)]
EXACT = [gauss(a, b) for a, b in PARTS]


@pytest.mark.parametrize(("name", "small"), [("gp", 1e-5), ("ensemble", 1e-8)])
def test_posteriors_say_what_is_lost(name, small):
    y = TARGETS["rough"].astype(np.float32)

    def call(parts, ridge):
        if name == "gp":
            return said(lambda: ntk.gp_posterior(parts[0], y, *parts[1:], ridge=ridge))
        records = [
            ntk.Kernel(a, a, jnp.zeros(len(a)), jnp.zeros(a.shape[1]), features=1) for a in map(jnp.asarray, parts)
        ]
        return said(lambda: ntk.ensemble_posterior(records[0], y, *records[1:], t=jnp.inf, ridge=ridge))

    enough = 1e-1
    want = call(EXACT, small)
    assert not want[1]
    got = call(ROUNDED, small)
    assert np.abs(np.asarray(got[0][0]) - np.asarray(want[0][0])).max() > 0.03 * np.abs(np.asarray(want[0][0])).max()
    assert got[1]
    assert ("nngp_train" if name == "gp" else "kernel_train.ntk") in got[1][0]
    want, got = call(EXACT, enough), call(ROUNDED, enough)
    assert not want[1]
    assert not got[1]
    for one, other in zip(got[0], want[0], strict=True):
        assert_close(one, other, rtol=5e-3)


@pytest.mark.parametrize("size", [1e-200, 1e200])
@pytest.mark.parametrize("name", ["flow", "gp", "loo"])
def test_what_is_lost_does_not_depend_on_the_size_of_the_targets(name, size):
    """Squares of these targets are 0 or infinite in float64."""

    def words(parts, ridge, y):
        calls = {
            "flow": lambda: ntk.gradient_flow(parts[0], y, t=jnp.inf, ntk_test_train=parts[1], ridge=ridge),
            "gp": lambda: ntk.gp_posterior(parts[0], y, *parts[1:], ridge=ridge),
            "loo": lambda: ntk.loo(parts[0], y, ridge=ridge),
        }
        return said(calls[name])[1]

    y = TARGETS["rough"].astype(float)
    for parts, ridge, lost in ((ROUNDED, 1e-5, True), (ROUNDED, 1e-1, False), (EXACT, 1e-3, False)):
        want = words(parts, ridge, y)
        assert bool(want) == lost
        assert words(parts, ridge, size * y) == want


@pytest.mark.weekly
@pytest.mark.parametrize("name", ["sgd_moments", "sgd_simulate"])
def test_sgd_says_what_is_lost(name):
    """With a full batch it is gradient descent, whose words it shares: lost late, not early."""
    y = TARGETS["rough"].astype(np.float32)
    more = {"key": jax.random.key(0), "runs": 1} if name == "sgd_simulate" else {}

    def call(parts, steps):
        settings: Any = {"learning_rate": 2.0, "batch_size": N, "steps": steps, "ntk_test_train": parts[1]}
        return said(lambda: getattr(ntk, name)(parts[0], y, **settings, **more))

    assert call(ROUNDED, 10**6)[1]
    assert not call(EXACT, 10**6)[1]
    assert not call(ROUNDED, 100)[1]


def test_the_stationary_law_says_when_its_floor_is_not_known():
    """r* is what null modes keep: of these targets all that modes of 1e-7 keep, which float64 says are none."""
    y = TARGETS["rough"].astype(np.float32)
    words = said(lambda: ntk.stationary_covariance(ROUNDED[0], y, learning_rate=0.1, batch_size=1))[1]
    assert "the stationary covariance" in words[0]
    low = said(lambda: ntk.stationary_covariance(rounded(linear(X, X), 0), y, learning_rate=0.1, batch_size=1))
    assert not low[1]
    want = ntk.stationary_covariance(linear(X, X), TARGETS["rough"], learning_rate=0.1, batch_size=1)
    assert_close(np.asarray(low[0]), want, rtol=1e-4)
