"""Kernels known up to rounding: which modes are null, and that these stay where they are."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal
from rounded import EPS, KERNEL_OF_RANK_2, TARGETS, X_TEST, N, X, flow, gauss, linear, reference, rounded

import ntklib as ntk
from ntklib.dynamics import _spectrum


def twins(dtype):
    """A kernel whose first two inputs are one, with two targets; and the flow that keeps their difference."""
    j, j_test = normal(0, 5, 12), normal(1, 3, 12)
    j = j.at[1].set(j[0])
    y, f0 = normal(2, 5, 2), normal(3, 5, 2)
    basis = jnp.eye(5)[:, 1:].at[0, 0].set(1.0).at[:, 0].divide(2**0.5)  # orthogonal to e_1 − e_2
    theta, theta_test = j @ j.T, j_test @ j.T

    def exact(t):
        values, u = jnp.linalg.eigh(basis.T @ theta @ basis)
        g = -jnp.expm1(-values * t / 5) / values
        c = basis @ (u @ (g[:, None] * (u.T @ (basis.T @ (y - f0)))))
        return f0 + theta @ c, theta_test @ c

    # Rounding the factor keeps the rows equal; the product rounds each entry.
    theta, theta_test = (np.asarray(a) for a in (theta, theta_test))
    return [a.astype(dtype) for a in (theta, theta_test, np.asarray(y), np.asarray(f0))], exact


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("t", [0.0, 1e-3, 1.0, 1e3, 1e5, 1e8, 1e10, 1e20, 1e30, 1e300, np.inf])
def test_a_null_mode_stays_where_it_is_at_any_time(dtype, t):
    (theta, theta_test, y, f0), exact = twins(dtype)
    want = exact(t)
    rtol = 1e-11 if dtype == np.float64 else 2e-6
    got = ntk.gradient_flow(theta, y, t=t, f0=f0, ntk_test_train=theta_test)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, rtol=rtol)
    rate = 1e-3
    if t >= 1.0 and np.isfinite(t):
        got = ntk.gradient_descent(
            theta, y, learning_rate=rate, steps=round(t / rate), f0=f0, ntk_test_train=theta_test
        )
        for one, other in zip(got, exact(np.inf) if t >= 1e3 else want, strict=True):
            assert_close(one, other, rtol=max(rtol, 3e-3 if t < 1e5 else 0.0))


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1 - 1e-6])
def test_a_null_mode_stays_where_it_is_after_any_number_of_steps(momentum):
    (theta, theta_test, y, f0), exact = twins(np.float32)
    for steps in (2**31, 2**40, 10**15, 1e100):
        got = ntk.gradient_descent(
            theta, y, learning_rate=0.1, steps=steps, momentum=momentum, f0=f0, ntk_test_train=theta_test
        )
        for one, other in zip(got, exact(np.inf), strict=True):
            assert_close(one, other, rtol=2e-6)


def test_null_modes_that_rounding_has_hidden_stay_too():
    """Rank 2 of 60 with rounded entries: eigenvalues of 1e-6 of both signs in the place of zeros."""
    train, test = rounded(linear(X, X), 0), rounded(linear(X_TEST, X), 1)
    y = TARGETS["rough"].astype(np.float32)
    for t in (1e4, 1e6, 1e8, 1e12, np.inf):
        want = reference(KERNEL_OF_RANK_2, linear(X_TEST, X), TARGETS["rough"], t, 0.0)
        (_, got), words = flow(train, test, y, t, 0.0)
        assert_close(got, want, rtol=1e-4)
        assert not words


@pytest.mark.parametrize("t", [1e9, 1e12, 1e20, 1e300])
def test_late_times_are_the_end_for_inputs_that_are_nearly_equal(t):
    """Two inputs 1e-4 apart with two targets: their difference is taken for null, and yet it is seen at test points."""
    x, x_test = np.array(normal(0, 20, 20)), np.asarray(normal(1, 9, 20))
    x[1] = x[0] + 1e-4
    distance = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1)  # noqa: E731
    train, test = (rounded(np.exp(-distance(a, x) / 20), i) for i, a in enumerate((x, x_test)))
    y = np.asarray(normal(2, 20, 1), np.float32)
    assert_close(flow(train, test, y, t, 0.0)[0][1], flow(train, test, y, np.inf, 0.0)[0][1], atol=1e-3)


def test_early_outputs_keep_what_unknown_modes_add_to_them():
    """At first f(x) = (t/N) Θ(x, X) y whatever the eigenvalues: modes below the rounding level are in it."""
    train, test = rounded(gauss(X, X), 0), rounded(gauss(X_TEST, X), 1)
    y = normal(5, N, 1).astype(jnp.float32)
    got = ntk.gradient_flow(train, y, t=1e-3, ntk_test_train=test)[1]
    assert_close(got, 1e-3 / N * test.astype(float) @ np.asarray(y, float), rtol=2e-3)
    assert_close(got, reference(gauss(X, X), gauss(X_TEST, X), np.asarray(y, float), 1e-3, 0.0), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_modes_that_are_known_learn(dtype):
    """An eigenvalue 1e-5 of the largest among 200, far below N ε λ_max in float32 and far above what rounding makes."""
    n = 200
    u = np.linalg.qr(np.asarray(normal(0, n, n)))[0]
    values = np.full(n, 1.0)
    values[0], values[1] = 100.0, 1e-3
    k = (u * values) @ u.T
    y = u[:, [1]]
    got = ntk.gradient_flow(k.astype(dtype), y.astype(dtype), t=np.array([0.0, n / 1e-3, np.inf]))
    for share, part in zip((0.0, 1 - np.exp(-1.0), 1.0), got, strict=True):
        assert_close(u[:, 1] @ np.asarray(part, float), np.array([share]), atol=0.01 if dtype == np.float32 else 1e-6)


def test_inputs_of_other_norms_have_other_levels():
    """A kernel that grows as the square of the inputs: what is far below the largest entry is known nevertheless."""
    norms = np.array([1e3, 1.0, 1e-2])
    k = (np.eye(3) + 0.2) * np.outer(norms, norms)
    y = np.array([[1.0], [-1.0], [2.0]])
    for dtype in (np.float32, np.float64):
        assert_close(ntk.gradient_flow(k.astype(dtype), y.astype(dtype), t=np.inf), y, rtol=1e-5)
        assert_close(
            ntk.gradient_descent(k.astype(dtype), y.astype(dtype), learning_rate=1e-6, steps=1e15), y, rtol=1e-5
        )


def test_the_level_is_that_of_the_rounding_errors():
    """The floor lies above what rounding makes of zeros, and within a factor of ten: neither blind nor forgetful."""
    for n in (30, 300):
        low = np.asarray(normal(0, n, 3))
        k = low @ low.T
        for seed in range(3):
            spectrum = _spectrum.spectrum("k", jnp.asarray(rounded(k, seed).astype(float)), 0.0, EPS)
            assert int(spectrum.null.sum()) == n - 3
            made = np.linalg.eigvalsh(rounded(k, seed).astype(float))[: n - 3]
            assert np.abs(made).max() < float(spectrum.floor[: n - 3].max()) < 30 * np.abs(made).max()


def test_a_single_null_mode_is_found_without_another_to_show_the_errors():
    """Rank N − 1: where rounding has made the one zero positive, no negative eigenvalue tells how large errors are."""
    signs = set()
    for seed in range(12):
        low = np.asarray(normal(seed, 30, 29))
        k = rounded(low @ low.T / 29, seed).astype(float)
        signs.add(bool(np.linalg.eigvalsh(k)[0] > 0))
        assert int(_spectrum.spectrum("k", jnp.asarray(k), 0.0, EPS).null.sum()) == 1
    assert signs == {True, False}
