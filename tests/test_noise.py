"""SGD with a constant kernel: exact moments against enumeration and simulation, the stationary law, the limits."""

import itertools
import json
import math
import pathlib
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal

import ntklib as ntk
from ntklib.dynamics import noise, noise_limits

N, M, K = 4, 3, 2


def problem(seed=0, n=N, rank=12, outputs=K, tests=M) -> tuple[Any, ...]:
    """Kernels of a linear model with `rank` parameters, targets and starts."""
    shapes = (n, rank), (tests, rank), (n, outputs), (n, outputs), (tests, outputs)
    j, j_test, y, f0, f0_test = (np.asarray(normal(seed + i, *shape)) for i, shape in enumerate(shapes))
    return j @ j.T, j_test @ j.T, y, f0, f0_test


def moments(theta, y, **arguments) -> Any:
    return noise.sgd_moments(theta, y, **arguments)


def quiet_moments(theta, y, **arguments) -> Any:
    """Above the stable learning rate it warns, and computes all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return moments(theta, y, **arguments)


def simulate(theta, y, **arguments) -> Any:
    return noise.sgd_simulate(theta, y, **arguments)


def stationary(theta, y, **arguments) -> Any:
    return noise_limits.stationary_covariance(theta, y, **arguments)


def enumerated(theta, theta_test, y, f0, f0_test, *, rate, size, replace, steps):
    """Mean and covariance over all sequences of batches, train and test points stacked, straight from parameters."""
    both, n = np.concatenate([theta, theta_test]), len(y)
    if replace:
        batches = list(itertools.product(range(n), repeat=size))
    else:
        batches = list(itertools.combinations(range(n), size))
    ends = [np.concatenate([f0, f0_test])]
    for _ in range(steps):
        after = []
        for f, batch in itertools.product(ends, batches):
            counts = np.bincount(batch, minlength=n)[:, None]
            after.append(f - rate / size * both @ (counts * (f[:n] - y)))
        ends = after
    ends = np.stack(ends)
    mean = ends.mean(0)
    return mean, np.einsum("sik,sjk->ij", ends - mean, ends - mean) / len(ends)


@pytest.mark.sweep
@pytest.mark.parametrize("rank", [12, 2], ids=["invertible", "singular"])
@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("size", [1, 2])
def test_moments_are_those_of_all_batch_sequences(size, replace, rank):
    theta, theta_test, y, f0, f0_test = problem(rank=rank)
    rate = 0.9 * N / np.trace(theta)
    mean, cov = enumerated(theta, theta_test, y, f0, f0_test, rate=rate, size=size, replace=replace, steps=3)
    train, test = quiet_moments(
        theta,
        y,
        learning_rate=rate,
        batch_size=size,
        steps=3,
        replace=replace,
        f0=f0,
        ntk_test_train=theta_test,
        f0_test=f0_test,
    )
    assert_close(train[0], mean[:N], rtol=1e-12)
    assert_close(test[0], mean[N:], rtol=1e-12)
    assert_close(train[1], cov[:N, :N], rtol=1e-12)
    assert_close(test[1], cov[N:, N:], rtol=1e-12)


def test_one_step_is_the_kernel_times_the_noise_covariance():
    theta, _, y, f0, _ = problem()
    for size, replace in ((1, True), (3, False)):
        cov = moments(theta, y, learning_rate=0.01, batch_size=size, steps=1, f0=f0, replace=replace)[1]
        of_batch = np.asarray(noise.noise_covariance(f0 - y, size, replace=replace))
        assert_close(cov, 0.01**2 * theta @ of_batch @ theta, rtol=1e-12)


@pytest.mark.parametrize(("size", "replace"), [(1, True), (2, True), (3, False)])
def test_noise_covariance_is_that_of_all_batches(size, replace):
    r = np.asarray(normal(5, N, K))
    batches = itertools.product(range(N), repeat=size) if replace else itertools.combinations(range(N), size)
    draws = np.stack([np.bincount(b, minlength=N)[:, None] * r / size for b in map(list, batches)])
    draws = draws - draws.mean(0)
    want = np.einsum("sik,sjk->ij", draws, draws) / len(draws)
    assert_close(noise.noise_covariance(r, size, replace=replace), want, rtol=1e-13)


#: Without the tests' checks of types, which ask for Python's integers.
SHORT_INTEGERS = """
import jax, numpy as np, ntklib as ntk
r, how = np.arange(20.0, dtype=np.float32)[:, None], {"learning_rate": 0.1, "steps": 2}
of = {
    "noise_covariance": lambda b: ntk.noise_covariance(r, b),
    "mean_square_limit": lambda b: ntk.mean_square_limit(np.eye(300), b),
    "sgd_moments": lambda b: ntk.sgd_moments(np.eye(20), r, batch_size=b, label_noise=1.0, replace=True, **how)[1],
    "sgd_simulate": lambda b: ntk.sgd_simulate(
        np.eye(320), np.ones((320, 1)), batch_size=b, key=jax.random.key(0), runs=2, reshuffle=True, **how
    ),
}
for name, call in of.items():
    assert np.allclose(call(np.uint8(16)), call(16), rtol=1e-12, atol=0), name
"""


def test_batch_sizes_may_be_short_integers_of_numpy():
    """In 8 bits 16 · 19 and 16 · 20 leave the range, and so do 300 examples."""
    done = subprocess.run([sys.executable, "-c", SHORT_INTEGERS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_several_step_numbers_are_single_ones_together():
    theta, theta_test, y, f0, f0_test = problem()
    rest = {"learning_rate": 0.02, "batch_size": 2, "f0": f0, "ntk_test_train": theta_test, "f0_test": f0_test}
    together = moments(theta, y, steps=[0, 1, 1, 7], **rest)
    for i, steps in enumerate([0, 1, 1, 7]):
        alone = moments(theta, y, steps=steps, **rest)
        jax.tree.map(lambda a, b, i=i: assert_close(a[i], b, rtol=1e-13, atol=1e-16), together, alone)
    assert_close(together[0][0][0], f0, rtol=1e-15)
    assert not together[0][1][0].any()
    assert [a.shape for a in jax.tree.leaves(together)] == [(4, N, K), (4, N, N), (4, M, K), (4, M, M)]


def test_full_batch_without_replacement_is_gradient_descent():
    theta, theta_test, y, f0, f0_test = problem()
    same = {"learning_rate": 0.03, "steps": [1, 50], "f0": f0, "ntk_test_train": theta_test, "f0_test": f0_test}
    descent = ntk.gradient_descent(theta, y, **same)
    for (mean, cov), want in zip(moments(theta, y, batch_size=N, **same), descent, strict=True):
        assert_close(mean, want, rtol=1e-12)
        assert float(jnp.abs(cov).max()) == 0
    for runs, want in zip(
        simulate(theta, y, batch_size=N, key=jax.random.key(0), runs=3, **same), descent, strict=True
    ):
        assert_close(runs[1], want, rtol=1e-12)


def test_mean_is_gradient_descent_for_every_batch_size():
    theta, _, y, f0, _ = problem()
    want = ntk.gradient_descent(theta, y, learning_rate=0.03, steps=20, f0=f0)
    for size in (1, 2, 3):
        assert_close(moments(theta, y, learning_rate=0.03, batch_size=size, steps=20, f0=f0)[0], want, rtol=1e-11)


def test_outputs_add_up():
    """Several outputs see the same batches: covariances, and stationary ones, are sums over single outputs."""
    theta, _, y, f0, _ = problem(rank=2)
    noisy = {"learning_rate": 0.05, "batch_size": 2, "label_noise": 0.3}
    for function in (lambda *a, **k: moments(*a, steps=9, **k)[1], stationary):
        parts = [function(theta, y[:, [k]], f0=f0[:, [k]], **noisy) for k in range(K)]
        assert_close(function(theta, y, f0=f0, **noisy), sum(parts), rtol=1e-11)


# ------------------------------------------------------------------------------------------------- simulation


@pytest.mark.sweep(part=3)
@pytest.mark.parametrize(("size", "replace"), [(1, False), (4, True), (4, False), (12, True), (12, False)])
def test_simulation_agrees_with_the_moments(size, replace):
    n, runs = 24, 200_000 if size > 1 else 100_000
    theta, theta_test, y, f0, f0_test = problem(7, n=n, rank=40, outputs=1, tests=3)
    rate = 0.5 * noise_limits.mean_square_limit(theta, size, replace=replace)
    same = {"learning_rate": rate, "batch_size": size, "steps": 20, "replace": replace, "f0": f0}
    same |= {"ntk_test_train": theta_test, "f0_test": f0_test}
    sampled = simulate(theta, y, key=jax.random.key(size), runs=runs, **same)
    for f, (mean, cov) in zip(map(np.asarray, sampled), moments(theta, y, **same), strict=True):
        assert_close(f.mean(0), mean, rtol=0.01)
        centred = f[..., 0] - f[..., 0].mean(0)
        error = centred.T @ centred / runs - cov
        assert np.linalg.norm(error) < 0.01 * np.linalg.norm(cov)


def test_label_noise_in_simulation():
    theta, _, y, f0, _ = problem(rank=12)
    for size, replace in ((2, False), (6, True)):
        same = {"learning_rate": 0.05, "batch_size": size, "replace": replace, "steps": 8, "label_noise": 0.7}
        f = np.asarray(simulate(theta, y, key=jax.random.key(1), runs=100_000, f0=f0, **same))
        mean, cov = moments(theta, y, f0=f0, **same)
        centred = f - f.mean(0)
        sampled = np.einsum("sik,sjk->ij", centred, centred) / len(f)
        assert_close(f.mean(0), mean, rtol=0.01)
        assert_close(sampled, cov, rtol=0.015)


def test_batches_are_uniform_and_of_their_size():
    keys = jax.random.split(jax.random.key(3), 200_000)
    for draw, n, size in ((noise._without_replacement, 5, 2), (noise._with_replacement, 5, 7)):
        counts = np.asarray(jax.jit(jax.vmap(lambda k, d=draw, n=n, s=size: d(k, n, s)))(keys), float)
        assert (counts.sum(1) == size).all()
        assert abs(counts.mean(0) - size / n).max() < 0.01
        if draw is noise._without_replacement:
            shares = np.unique(counts, axis=0, return_counts=True)[1] / len(keys)
            assert len(shares) == math.comb(5, 2)
            assert abs(shares - 0.1).max() < 0.005


def test_epochs_visit_every_example_once_and_are_less_noisy():
    """Small steps: an epoch is nearly a full-batch step, and its covariance far below that of independent batches."""
    theta, _, y, f0, _ = problem(11, n=16, rank=30, outputs=1)
    rate = 0.05 * noise_limits.mean_square_limit(theta, 4)
    same = {"learning_rate": rate, "batch_size": 4, "f0": f0, "key": jax.random.key(0), "runs": 4000}
    shuffled = simulate(theta, y, steps=40, reshuffle=True, **same)
    fresh = simulate(theta, y, steps=40, **same)
    assert float(shuffled.var(0).sum()) < 0.3 * float(fresh.var(0).sum())
    # A kernel that is diagonal shows who was drawn: each example moves B-fold steps, once in four.
    eye, ones = 4 * jnp.eye(16), jnp.ones((16, 1))
    once = simulate(
        eye, ones, learning_rate=0.1, batch_size=4, steps=[1, 4, 6, 8], reshuffle=True, key=same["key"], runs=9
    )
    assert set(np.unique(once[:, 0].round(9))) == {0.0, 0.1}
    assert_close(once[:, 1], jnp.full((9, 16, 1), 0.1))
    assert_close(once[:, 3], jnp.full((9, 16, 1), 0.19))
    assert float(once.std(0)[0].min()) > 0


def test_the_same_key_gives_the_same_runs():
    theta, _, y, _, _ = problem()
    arguments = {"learning_rate": 0.05, "batch_size": 2, "runs": 5, "key": jax.random.key(4)}
    a, b = simulate(theta, y, steps=6, **arguments), simulate(theta, y, steps=[3, 6], **arguments)
    assert a.shape == (5, N, K)
    assert_close(a, b[:, 1], rtol=1e-13)
    assert float(a.std(0).min()) > 0


# ---------------------------------------------------------------------------------- the stationary law and the limits


@pytest.mark.parametrize(
    ("size", "replace", "sigma"), [(1, False, 0.0), (3, True, 0.0), (2, False, 0.5), (N, False, 0.5)]
)
def test_stationary_covariance_is_the_long_run(size, replace, sigma):
    theta, _, y, f0, _ = problem(20, rank=2)
    rate = 0.6 * noise_limits.mean_square_limit(theta, size, replace=replace)
    same = {"learning_rate": rate, "batch_size": size, "replace": replace, "label_noise": sigma, "f0": f0}
    late = moments(theta, y, steps=20_000, **same)[1]
    assert_close(stationary(theta, y, **same), late, rtol=1e-9)
    assert np.trace(late) > 0.01


def test_lyapunov_error_is_proportional_to_the_learning_rate():
    theta, _, y, f0, _ = problem(21, rank=2)
    limit = noise_limits.mean_square_limit(theta, 2)
    for sigma in (0.0, 0.4):
        errors = []
        for rate in (0.02 * limit, 0.01 * limit):
            same = {"learning_rate": rate, "batch_size": 2, "label_noise": sigma, "f0": f0}
            exact, small = (np.asarray(stationary(theta, y, small_steps=s, **same)) for s in (False, True))
            errors.append(np.linalg.norm(small - exact) / np.linalg.norm(exact))
        assert errors[1] < 0.05
        assert abs(errors[0] / errors[1] - 2) < 0.1
        # And it solves its equation, Θ V + V Θ = η s Θ diag(r*²) Θ (+ label noise).
        values, modes = np.linalg.eigh(theta)
        null = modes[:, values < 1e-9]
        floor = np.sum((null @ null.T @ (f0 - y)) ** 2, axis=1)
        force = (2 / 6) * np.diag(floor) + sigma**2 * K / 2 * np.eye(N)  # s = (N − 2)/2(N − 1)
        assert_close(theta @ small + small @ theta, 0.01 * limit * theta @ force @ theta, rtol=1e-10)


def test_label_noise_in_full_batch_has_the_closed_form():
    theta, _, y, _, _ = problem(22)
    rate, sigma = 0.7 * ntk.max_learning_rate(theta).item(), 0.3
    got = stationary(theta, y, learning_rate=rate, batch_size=N, label_noise=sigma)
    values, modes = np.linalg.eigh(theta)
    want = rate * sigma**2 * K * values / N / (2 - rate * values / N)
    assert_close(got, modes @ np.diag(want) @ modes.T, rtol=1e-12)


def test_interpolation_leaves_no_noise():
    theta, _, y, f0, _ = problem(23)
    for size in (1, 2, N):
        rate = 0.8 * noise_limits.mean_square_limit(theta, size)
        assert not stationary(theta, y, learning_rate=rate, batch_size=size, f0=f0).any()
        cov = moments(theta, y, learning_rate=rate, batch_size=size, steps=20_000, f0=f0)[1]
        assert np.abs(cov).max() < 1e-10


@pytest.mark.sweep
@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("rank", [40, 4])
def test_second_moments_decay_below_the_limit_and_grow_above(size, replace, rank):
    theta, _, y, _, _ = problem(30, n=8, rank=rank, outputs=1)
    y = theta @ y  # reachable, so that nothing keeps the noise alive
    limit = noise_limits.mean_square_limit(theta, size, replace=replace)
    for factor, grows in ((0.99, False), (1.01, True)):
        same = {"learning_rate": factor * limit, "batch_size": size, "steps": [2000, 4000], "replace": replace}
        cov = quiet_moments(theta, y, **same)[1]
        assert (np.trace(cov[1]) > np.trace(cov[0])) == grows


@pytest.mark.parametrize("n", [12, 40])
def test_limit_between_its_bounds(n):
    theta = problem(31, n=n, rank=60)[0]
    top, diagonal = np.linalg.eigvalsh(theta)[-1], np.diagonal(theta).max()
    for size in (1, 2, 3, n):
        with_, without = (noise_limits.mean_square_limit(theta, size, replace=replace) for replace in (True, False))
        of_mean = 2 * n / top
        s = (n - size) / (size * (n - 1))
        assert 2 / (diagonal / size + (1 - 1 / size) * top / n) <= with_ * (1 + 1e-12)
        assert 2 / (s * diagonal + (1 - s) * top / n) <= without * (1 + 1e-12)
        assert with_ <= without * (1 + 1e-12) <= of_mean * (1 + 2e-12)
    assert_close(without, of_mean, rtol=1e-12)  # full batch
    scale = np.sqrt(np.diagonal(theta))
    even = 3 * theta / (scale[:, None] * scale[None, :])
    assert_close(noise_limits.mean_square_limit(even, 1), 2 / 3, rtol=1e-12)
    assert noise_limits.mean_square_limit(jnp.zeros((3, 3)), 1) == math.inf


def test_limit_is_the_spectral_radius_of_the_map():
    """M ↦ AMA + η² s Θ [diag(M)/N − M/N²] Θ as an N² × N² matrix, at the limit; for both eigenvalue routines."""
    theta, n = problem(32, n=7, rank=20)[0], 7
    for size, replace in ((1, True), (3, False)):
        rate = noise_limits.mean_square_limit(theta, size, replace=replace)
        s = noise_limits.noise_level(n, size, replace)

        def step(m, rate=rate, s=s):
            a = np.eye(n) - rate * theta / n
            return a @ m @ a + rate**2 * s * theta @ (np.diag(np.diagonal(m)) / n - m / n**2) @ theta

        matrix = np.stack([step(m) for m in np.eye(n * n).reshape(-1, n, n)]).reshape(n * n, n * n)
        assert_close(np.abs(np.linalg.eigvals(matrix)).max(), 1.0, rtol=1e-10)


def test_a_learning_rate_above_the_limit_warns_and_names_both():
    theta, _, y, _, _ = problem(33)
    limit = noise_limits.mean_square_limit(theta, 1)
    for factor in (1.01, 1.2, 50.0):
        with pytest.warns(UserWarning, match=rf"`learning_rate` = .* above the mean-square limit, {limit:.6g}"):
            moments(theta, y, learning_rate=factor * limit, batch_size=1, steps=1)
        with pytest.raises(ValueError, match=rf"mean-square limit, {limit:.6g}"):
            stationary(theta, y, learning_rate=factor * limit, batch_size=1)
    moments(theta, y, learning_rate=0.99 * limit, batch_size=1, steps=1)  # warnings are errors here
    stationary(theta, y, learning_rate=0.99 * limit, batch_size=1)
    jax.jit(lambda rate: moments(theta, y, learning_rate=rate, batch_size=1, steps=2))(2.0 * limit)


def test_diffusion_differs_by_a_relative_error_of_order_of_the_learning_rate():
    theta, _, y, f0, _ = problem(40, rank=3)
    t, errors = 4.0, []
    for rate in (0.02, 0.01):
        steps = round(t / rate)
        same = {"learning_rate": rate, "batch_size": 2, "f0": f0}
        _, cov = moments(theta, y, steps=[steps // 2, steps], **same)
        flow, diffused = noise_limits.langevin(theta, y, t=np.array([t / 2, t]), **same)
        assert_close(flow, ntk.gradient_flow(theta, y, t=np.array([t / 2, t]), f0=f0), rtol=1e-12)
        cov, diffused = np.asarray(cov), np.asarray(diffused)
        errors.append([np.linalg.norm(diffused[i] - cov[i]) / np.linalg.norm(cov[i]) for i in (0, 1)])
    assert max(errors[1]) < 0.2
    assert_close(np.array(errors[0]) / np.array(errors[1]), [2.0, 2.0], rtol=0.15)
    start = noise_limits.langevin(theta, y, t=0.0, **same)
    assert_close(start[0], f0)
    assert not start[1].any()


def test_diffusion_ends_in_the_exact_stationary_law_for_small_steps():
    theta, _, y, f0, _ = problem(41, rank=2)
    same = {"learning_rate": 1e-3, "batch_size": 2, "f0": f0}
    assert_close(noise_limits.langevin(theta, y, t=60.0, **same)[1], stationary(theta, y, **same), rtol=0.01)


# ------------------------------------------------------------------------------------------------- the surroundings


def test_float32_stays_float32_and_close():
    theta, theta_test, y, f0, f0_test = (a.astype(jnp.float32) for a in problem(50))
    same = {"learning_rate": 0.02, "batch_size": 2, "f0": f0}
    tests = {"ntk_test_train": theta_test, "f0_test": f0_test}
    got = moments(theta, y, steps=[10, 50], **same, **tests)
    wide = {k: v.astype(jnp.float64) if isinstance(v, np.ndarray) else v for k, v in (same | tests).items()}
    want = moments(theta.astype(jnp.float64), y.astype(jnp.float64), steps=[10, 50], **wide)
    jax.tree.map(lambda a, b: assert_close(a, b, rtol=1e-4), got, want)
    for a in (
        *jax.tree.leaves(got),
        simulate(theta, y, steps=2, key=jax.random.key(0), runs=2, **same),
        stationary(theta, y, label_noise=0.1, **same),
        noise_limits.langevin(theta, y, t=0.1, **same)[1],
        noise.noise_covariance(y, 2),
    ):
        assert a.dtype == jnp.float32
    assert_close(
        noise_limits.mean_square_limit(theta, 2), noise_limits.mean_square_limit(theta.astype(jnp.float64), 2), 1e-5
    )


def test_all_of_it_compiles_over_learning_rates():
    theta, theta_test, y, f0, _ = problem(51, rank=2)
    rates = jnp.array([0.01, 0.02])
    of_moments = lambda rate: moments(theta, y, learning_rate=rate, batch_size=1, steps=5, ntk_test_train=theta_test)  # noqa: E731
    of_rest = lambda rate: stationary(theta, y, learning_rate=rate, batch_size=1, f0=f0)  # noqa: E731
    for function in (of_moments, of_rest):
        mapped = jax.jit(jax.vmap(function))(rates)
        alone = function(0.02)
        jax.tree.map(lambda a, b: assert_close(a[1], b, rtol=1e-10), mapped, alone)
    slope = jax.jit(jax.grad(lambda theta: jnp.trace(moments(theta, y, learning_rate=0.1, batch_size=1, steps=3)[1])))
    with pytest.raises(ValueError, match="Reverse-mode"):  # a loop of unknown length; forward mode works
        slope(theta)


def test_one_example_has_no_noise():
    theta, y = jnp.array([[2.0]]), jnp.array([[1.0]])
    for replace in (True, False):
        mean, cov = moments(theta, y, learning_rate=0.3, batch_size=1, steps=2, replace=replace)
        assert_close(mean, [[1 - 0.4**2]])
        assert cov.tolist() == [[0.0]]
        assert_close(noise_limits.mean_square_limit(theta, 1, replace=replace), 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 5}, ["`batch_size`", "at most", "4", "replace=True"]),
        ({"batch_size": 0}, ["`batch_size`", "at least 1"]),
        ({"learning_rate": -0.1}, ["`learning_rate`", "at least 0"]),
        ({"label_noise": -1.0}, ["`label_noise`", "at least 0"]),
        ({"steps": [3, 1]}, ["`steps`", "sort"]),
        ({"steps": -1}, ["`steps`", "from 0"]),
        ({"steps": 1.5}, ["`steps`", "whole"]),
        ({"steps": jnp.inf}, ["`steps`", "finite", "stationary_covariance"]),
        ({"f0": jnp.ones((N, 1))}, ["`f0`", "(4, 2)"]),
        ({"ntk_test_train": jnp.ones((N, M))}, ["`ntk_test_train`", "ntk_test_train.T"]),
        ({"f0_test": jnp.ones((M, K))}, ["`f0_test`", "`ntk_test_train`"]),
    ],
)
def test_wrong_calls(change, words):
    theta, _, y, _, _ = problem()
    arguments = {"learning_rate": 0.1, "batch_size": 1, "steps": 2} | change
    for call in (moments, lambda *a, **k: simulate(*a, key=jax.random.key(0), runs=2, **k)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            call(theta, y, **arguments)
        assert all(word in str(caught.value) for word in words), str(caught.value)


STORED = json.loads((pathlib.Path(__file__).parent / "reference" / "eoc.json").read_text())["sgd_moments"]


@pytest.mark.sweep
@pytest.mark.parametrize("entry", STORED, ids=lambda e: f"{e['eta']}-{e['B']}-{e['with_replacement']}")
def test_stored_moments_are_met(entry):
    i = np.arange(4)
    theta = jnp.asarray(np.exp(-np.abs(i[:, None] - i) / 2) + 0.5 * np.eye(4))
    start = jnp.array([[1.0], [-2.0], [0.5], [1.5]])
    mean, cov = quiet_moments(
        theta, jnp.zeros((4, 1)), f0=start, learning_rate=entry["eta"], batch_size=entry["B"],
        replace=entry["with_replacement"], steps=[3, 10],
    )  # fmt: skip
    second = np.asarray(cov) + np.einsum("tik,tjk->tij", mean, mean)
    assert_close(mean[0, :, 0], entry["mean_t3"], rtol=1e-8)
    assert_close(second[0][np.triu_indices(4)], entry["M_t3_upper"], rtol=1e-8)
    assert_close(np.trace(second[1]), entry["trace_M_t10"], rtol=1e-8)
