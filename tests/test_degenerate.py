"""Function space at its degenerate points: one input, no kernel, equal inputs, any magnitude, type and device."""

import itertools
import math
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, normal

import ntklib as ntk
from ntklib import _checks

N, M, K = 5, 3, 2
J, J_TEST = np.asarray(normal(0, N, 12)), np.asarray(normal(1, M, 12))
PARTS = (J @ J.T / 12, J_TEST @ J.T / 12, J_TEST @ J_TEST.T / 12)
Y = np.asarray(normal(2, N, K))
F0, F0_TEST = (np.asarray(normal(seed, n, K)).round(1) for seed, n in ((3, N), (4, M)))
F0, F0_TEST = (np.asarray(f, jnp.bfloat16).astype(float) for f in (F0, F0_TEST))  # the same numbers in every type
LABELS = np.eye(3)[np.arange(N) % 3]


def record(k) -> ntk.Kernel:
    k = jnp.asarray(k)
    return ntk.Kernel(k, k, jnp.zeros(len(k)), jnp.zeros(k.shape[1]), features=1)


def starts(parts, y):
    """f0 and f0_test in the size of the targets."""
    return {
        "f0": F0[: len(parts[0]), : y.shape[1]].astype(y.dtype),
        "ntk_test_train": parts[1],
        "f0_test": F0_TEST[: len(parts[1]), : y.shape[1]].astype(y.dtype),
    }


def noisy(scale, **more) -> dict[str, Any]:
    return {"learning_rate": 0.1 / scale, "batch_size": 1, "label_noise": 0.3} | more


#: Each function of (train, cross, test), targets, and the size of the kernel in units of which time is measured.
CALLS: dict[str, Any] = {
    "gradient_flow": lambda p, y, s: ntk.gradient_flow(p[0], y, t=np.array([0.0, 1.0, 50.0]) / s, **starts(p, y)),
    "flow to the end": lambda p, y, s: ntk.gradient_flow(p[0], y, t=jnp.inf, ntk_test_train=p[1], ridge=0.1),
    "gradient_descent": lambda p, y, s: ntk.gradient_descent(
        p[0], y, learning_rate=0.5 / s, momentum=0.5, steps=[0, 1, 30, jnp.inf], **starts(p, y)
    ),
    "max_learning_rate": lambda p, y, s: ntk.max_learning_rate(p[0]) * s,
    "gp_posterior": lambda p, y, s: ntk.gp_posterior(p[0], y, p[1], p[2], ridge=0.1)[0],
    "variances": lambda p, y, s: ntk.gp_posterior(p[0], y, p[1], p[2], ridge=0.1)[1].astype(float) / s,
    "ensemble_posterior": lambda p, y, s: ntk.ensemble_posterior(
        record(p[0]), y, record(p[1]), record(p[2]), t=np.array([0.0, 2.0, 1e100]) / s
    )[0],
    "ensemble at training inputs": lambda p, y, s: ntk.ensemble_posterior(record(p[0]), y, t=2.0 / s)[0],
    "mean_square_limit": lambda p, y, s: jnp.asarray(ntk.mean_square_limit(p[0], 1) * s),
    "sgd_moments": lambda p, y, s: ntk.sgd_moments(p[0], y, steps=[0, 5, 20], ntk_test_train=p[1], **noisy(s)),
    "sgd_simulate": lambda p, y, s: ntk.sgd_simulate(
        p[0], y, steps=[0, 5], ntk_test_train=p[1], key=jax.random.key(0), runs=2, **noisy(s, label_noise=0.0)
    ),
    "stationary_covariance": lambda p, y, s: ntk.stationary_covariance(p[0], y, **noisy(s)),
    "langevin": lambda p, y, s: ntk.langevin(p[0], y, learning_rate=0.1 / s, batch_size=1, t=np.array([0.0, 3.0]) / s),
    "cross_entropy_flow": lambda p, y, s: ntk.cross_entropy_flow(
        p[0], LABELS[: len(p[0])].astype(y.dtype), t=np.array([0.0, 3.0]) / s, ntk_test_train=p[1]
    ),
}


def run(name, parts, y, scale=1.0, dtype=np.float32) -> list[np.ndarray]:
    parts = [(np.asarray(p) * scale).astype(dtype) for p in parts]
    return [np.asarray(a) for a in jax.tree.leaves(CALLS[name](parts, np.asarray(y).astype(dtype), scale))]


# ------------------------------------------------------------------------------------------------------- magnitudes


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(2.0**100, np.float32), (2.0**-100, np.float32), (2.0**600, np.float64), (2.0**-600, np.float64)],
)
@pytest.mark.parametrize("name", CALLS)
def test_the_size_of_the_kernel_is_a_unit_of_time(name, scale, dtype):
    """A kernel 1e30 times as large (in float64 1e180), times and rates as much smaller: the same outputs."""
    for got, want in zip(run(name, PARTS, Y, scale, dtype), run(name, PARTS, Y, dtype=dtype), strict=True):
        assert np.isfinite(want).all()
        assert_close(got, want, rtol=1e-5 if name in ("langevin", "cross_entropy_flow") else 2e-6)


@pytest.mark.sweep
@pytest.mark.parametrize("size", [1e10, 1e-10])
@pytest.mark.parametrize(
    "name",
    [
        "flow to the end",
        "gp_posterior",
        "ensemble_posterior",
        "ensemble at training inputs",
        "sgd_moments",
        "langevin",
        "stationary_covariance",
    ],
)
def test_outputs_are_linear_in_the_targets_and_covariances_quadratic(name, size):
    """Targets of magnitude 1e10 in float32, with their noise: where there is any, in their size too."""

    def call(y, sigma):
        parts = [p.astype(np.float32) for p in PARTS]
        if name == "sgd_moments":
            how = {"learning_rate": 0.1, "batch_size": 1, "steps": 20, "label_noise": sigma}
            return ntk.sgd_moments(parts[0], y, ntk_test_train=parts[1], **how)
        if name == "stationary_covariance":
            return (None, ntk.stationary_covariance(parts[0], y, learning_rate=0.1, batch_size=1, label_noise=sigma))
        if name == "langevin":
            return ntk.langevin(parts[0], y, learning_rate=0.1, batch_size=1, t=3.0)
        return CALLS[name](parts, y, 1.0)

    one, other = (jax.tree.leaves(call((s * Y).astype(np.float32), 0.3 * s)) for s in (1.0, size))
    for a, b in zip(one, other, strict=True):
        power = 2 if a.shape[-1] != K else 1
        assert_close(np.asarray(b, float) / size**power, np.asarray(a, float), rtol=1e-5)


def test_targets_whose_squares_leave_the_range_are_refused():
    y = np.full((N, 1), 1e19, np.float32)
    for call in (
        lambda: ntk.sgd_moments(PARTS[0].astype(np.float32), y, learning_rate=0.1, batch_size=1, steps=1),
        lambda: ntk.langevin(PARTS[0].astype(np.float32), y, learning_rate=0.1, batch_size=1, t=1.0),
    ):
        with pytest.raises(ValueError, match="`y` differs from the start by up to 1e\\+19, and a sum of such squares"):
            call()
    mean = ntk.gradient_flow(PARTS[0].astype(np.float32), y, t=jnp.inf)
    assert_close(np.asarray(mean), y, rtol=1e-6)  # no square there


@pytest.mark.parametrize(("size", "dtype"), [(1e80, float), (1e-100, float), (1e12, np.float32), (1e-12, np.float32)])
def test_the_stationary_law_is_quadratic_in_targets_of_any_size(size, dtype):
    """Fourth powers of these targets leave the range of their type, in which the program works under jit."""
    law = jax.jit(lambda k, y: ntk.stationary_covariance(k, y, learning_rate=0.1, batch_size=1))
    k, y = (J[:, :3] @ J[:, :3].T / 3).astype(dtype), Y.astype(dtype)
    want = np.asarray(law(k, y), float)
    assert want.max() > 1e-4
    got = np.asarray(law(k, (size * y).astype(dtype)), float)
    assert_close(got / size**2, want, rtol=1e-5 if dtype == np.float32 else 1e-12)


# ------------------------------------------------------------------------------------------------------------ types


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", [n for n in CALLS if n != "variances"])
def test_half_precision_is_computed_in_single(name, dtype):
    """The numbers are those of the same rounded arrays in float32; warnings and refusals apart they agree."""
    parts = [np.asarray(p + (2 * np.eye(len(p)) if p.shape[0] == p.shape[1] else 0.0)).astype(dtype) for p in PARTS]
    y = Y.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        got = jax.tree.leaves(CALLS[name](parts, y, 1.0))
    want = jax.tree.leaves(CALLS[name]([p.astype(np.float32) for p in parts], y.astype(np.float32), 1.0))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert_close(np.asarray(a), np.asarray(b), rtol=2e-5)


@pytest.mark.sweep
@pytest.mark.parametrize("name", CALLS)
def test_float32_and_float64_may_be_mixed(name):
    """The result has the wider type, and the numbers of float64."""
    wide, single = list(PARTS), [p.astype(np.float32) for p in PARTS]
    want = jax.tree.leaves(CALLS[name](wide, Y, 1.0))
    for parts, y in ((single, Y), (wide, Y.astype(np.float32)), (single, Y.astype(np.float32))):
        got = jax.tree.leaves(CALLS[name](parts, y, 1.0))
        for a, b in zip(got, want, strict=True):
            if parts is wide or y is Y:
                assert a.dtype == jnp.float64 or name == "max_learning_rate"
            elif name not in ("variances", "mean_square_limit"):
                assert a.dtype == jnp.float32
            assert_close(np.asarray(a), np.asarray(b), rtol=2e-5)


def test_numbers_of_more_than_64_bits_are_computed_in_float64():
    got, want = (
        ntk.gradient_flow(PARTS[0].astype(dtype), Y.astype(dtype), t=1.0, ntk_test_train=PARTS[1].astype(dtype))
        for dtype in (np.longdouble, np.float64)
    )
    for one, other in zip(got, want, strict=True):
        assert one.dtype == jnp.float64
        assert_close(one, other, rtol=1e-15)


@pytest.mark.sweep
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_known_kernels_may_stand_inside_jit(name, x64):
    """Everything known but a factor, which is traced: no value is asked for, and gradients pass around it."""
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("standard"):
        parts, y = [p.astype(np.float32) for p in PARTS], Y.astype(np.float32)
        want = jax.tree.leaves(CALLS[name](parts, y, 1.0))

        def total(factor):
            parts_of_it = jax.tree.leaves(CALLS[name](parts, y, 1.0))
            return factor * sum(jnp.sum(a) for a in parts_of_it)

        got, slope = jax.jit(jax.value_and_grad(total))(jnp.asarray(2.0))
    direct = sum(float(np.asarray(a, float).sum()) for a in want)
    size = sum(float(np.abs(np.asarray(a, float)).sum()) for a in want)
    assert abs(float(got) - 2 * direct) < 1e-5 * size
    assert abs(float(slope) - direct) < 1e-5 * size


@pytest.mark.parametrize("activation", [ntk.Relu(), ntk.Sign(), ntk.Erf(), ntk.Tanh()], ids=lambda a: a.name)
def test_nan_inputs_give_nan_under_jit_where_no_error_can_be_raised(activation):
    layers = [ntk.Dense(3, n, w_std=1.0, b_std=0.1, rngs=nnx.Rngs(n)) for n in (3, 1)]
    net = ntk.Serial(layers[0], activation, layers[1])
    k = jax.jit(net.kernel)(jnp.asarray([[1.0, 2.0, 3.0], [jnp.nan, 1.0, 2.0], [0.0, 0.0, 0.0]]))
    for a in map(np.asarray, (k.nngp, k.ntk)):
        assert np.isnan(a[1]).all()
        assert np.isnan(a[:, 1]).all()


# ------------------------------------------------------------------------------------------------- one input, no kernel


def test_one_input_and_one_output_have_closed_forms():
    theta, cross, own = np.array([[2.0]]), np.array([[1.0]]), np.array([[3.0]])
    y, f0 = np.array([[5.0]]), np.array([[1.0]])
    t = 0.7
    left = math.exp(-2 * t)
    train, test = ntk.gradient_flow(theta, y, t=t, f0=f0, ntk_test_train=cross)
    assert_close(train, [[5 - 4 * left]], rtol=1e-14)
    assert_close(test, [[0.5 * 4 * (1 - left)]], rtol=1e-14)
    for steps, momentum in itertools.product((0, 1, 7), (0.0, 0.9)):
        f, v = 1.0, 0.0
        for _ in range(steps):
            v = momentum * v + (f - 5.0)
            f -= 0.1 * 2.0 * v
        got = ntk.gradient_descent(theta, y, learning_rate=0.1, steps=steps, momentum=momentum, f0=f0)
        assert_close(got, [[f]], rtol=1e-14)
    assert_close(ntk.max_learning_rate(theta), 1.0)
    mean, cov = ntk.gp_posterior(theta, y, cross, own, ridge=0.5)
    assert_close(mean, [[5 / 3]], rtol=1e-14)
    assert_close(cov, [[3 - 1 / 3]], rtol=1e-14)
    mean, cov = ntk.ensemble_posterior(record(theta), y, record(cross), record(own), t=t)
    p = 0.5 * (1 - left)
    assert_close(mean, [[5 * p]], rtol=1e-14)
    assert_close(cov, [[3 + 2 * p**2 - 2 * p]], rtol=1e-14)
    (mean, cov), _ = ntk.sgd_moments(
        theta, y, learning_rate=0.1, batch_size=1, steps=2, label_noise=0.3, ntk_test_train=cross
    )
    assert_close(mean, [[5 * (1 - 0.8**2)]], rtol=1e-14)
    assert_close(cov, [[0.04 * 0.09 * (1 + 0.64)]], rtol=1e-13)
    law = ntk.stationary_covariance(theta, y, learning_rate=0.1, batch_size=1, label_noise=0.3)
    assert_close(law, [[0.04 * 0.09 / (1 - 0.64)]], rtol=1e-13)
    assert ntk.noise_covariance(y, 1).tolist() == [[0.0]]
    mean, cov = ntk.langevin(theta, y, learning_rate=0.1, batch_size=1, t=t)
    assert_close(mean, [[5 * (1 - left)]], rtol=1e-12)
    assert cov.tolist() == [[0.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_kernel_of_zeros_moves_nothing(dtype):
    zero, cross, y = (np.zeros(s, dtype) for s in ((N, N), (M, N), (N, K)))
    y = y + Y.astype(dtype)
    own = PARTS[2].astype(dtype)
    f0, f0_test = F0.astype(dtype), F0_TEST.astype(dtype)
    same: Any = {"f0": f0, "ntk_test_train": cross, "f0_test": f0_test}
    for got in (
        *(ntk.gradient_flow(zero, y, t=t, **same) for t in (0.0, 1.0, 1e30, jnp.inf)),
        *(ntk.gradient_flow(zero, y, t=t, ridge=0.1, **same) for t in (1.0, jnp.inf)),  # relative: of nothing
        *(ntk.gradient_descent(zero, y, learning_rate=0.5, steps=s, momentum=0.9, **same) for s in (3, 2**40, jnp.inf)),
        [a[0] for a in ntk.sgd_moments(zero, y, learning_rate=0.5, batch_size=1, steps=9, label_noise=0.1, **same)],
    ):
        assert_close(got[0], f0, rtol=1e-6)
        assert_close(got[1], f0_test, rtol=1e-6)
    assert ntk.max_learning_rate(zero) == math.inf
    assert ntk.mean_square_limit(zero, 1) == math.inf
    assert not ntk.stationary_covariance(zero, y, learning_rate=0.5, batch_size=1).any()
    assert not ntk.langevin(zero, y, learning_rate=0.5, batch_size=1, t=3.0)[1].any()
    assert not ntk.cross_entropy_flow(zero, LABELS.astype(dtype), t=3.0).any()
    mean, cov = ntk.ensemble_posterior(record(zero), y, record(cross), record(own), t=jnp.inf)
    assert not mean.any()
    assert_close(cov, own, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`nngp_train` with .* is singular .* some inputs may be zero"):
        ntk.gp_posterior(zero, y, cross, own, ridge=0.1)
    assert_close(ntk.gradient_flow(zero, y, t=1.0, ntk_test_train=np.ones((M, N), dtype))[0], np.zeros((N, K)))


# ----------------------------------------------------------------------------------------------------- equal inputs


def twins() -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The parts of a kernel whose first two inputs are equal; those without the second; two targets for the two."""
    j = np.concatenate([J[:1], J])
    double = [j @ j.T / 12, J_TEST @ j.T / 12, PARTS[2]]
    double[0][1], double[0][:, 1] = double[0][0], double[0][:, 0]  # a product of matrices may round them apart
    double[0][1, 1] = double[0][0, 0]
    double[1][:, 1] = double[1][:, 0]
    y = np.concatenate([Y[:1] + 1.0, Y])
    return double, list(PARTS), y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_inputs_count_as_one_of_the_mean_target(dtype):
    """At the end of training, in each function that has an end; with a ridge for both, as Bayes' rule has it."""
    double, single, y = twins()
    double, single, y = ([p.astype(dtype) for p in double], [p.astype(dtype) for p in single], y.astype(dtype))
    merged = np.concatenate([y[:2].mean(0, keepdims=True), y[2:]])
    rtol = 1e-10 if dtype == np.float64 else 1e-5
    want = ntk.gradient_flow(single[0], merged, t=jnp.inf, ntk_test_train=single[1])
    got = ntk.gradient_flow(double[0], y, t=jnp.inf, ntk_test_train=double[1])
    assert_close(got[1], want[1], rtol=rtol)
    assert_close(got[0][0], merged[0], rtol=rtol)
    got = ntk.gradient_descent(double[0], y, learning_rate=0.1, steps=1e25, ntk_test_train=double[1])
    assert_close(got[1], want[1], rtol=rtol)
    got = ntk.ensemble_posterior(record(double[0]), y, record(double[1]), record(double[2]), t=1e25)
    ours = ntk.ensemble_posterior(record(single[0]), merged, record(single[1]), record(single[2]), t=1e25)
    assert_close(got[0], ours[0], rtol=rtol)
    assert_close(got[1], ours[1], rtol=10 * rtol)
    late = ntk.sgd_moments(double[0], y, learning_rate=0.1, batch_size=6, steps=20_000, ntk_test_train=double[1])
    assert_close(late[1][0], want[1], rtol=max(rtol, 1e-4))
    with pytest.raises(ValueError, match=r"`nngp_train` with .* is singular"):
        ntk.gp_posterior(double[0], y, double[1], double[2], ridge=0.0)


def test_logits_of_equal_inputs_with_two_labels_settle():
    """Their mean label is learned, and late times do not turn rounding errors into logits at test points."""
    double = twins()[0]
    y = np.eye(2)[[0, 1, 0, 1, 0, 1]]
    parts = [p.astype(np.float32) for p in double]
    f = ntk.cross_entropy_flow(parts[0], y.astype(np.float32), t=1e4, ntk_test_train=parts[1])
    want = ntk.cross_entropy_flow(double[0], y, t=1e4, ntk_test_train=double[1], rtol=1e-8)
    for got, exact in zip(f, want, strict=True):
        assert_close(np.asarray(got), np.asarray(exact), rtol=1e-3)
    assert_close(f[0][0], f[0][1], rtol=1e-6)


# ------------------------------------------------------------------------------------------ starts, ends, full batches


def test_at_time_zero_nothing_has_moved():
    same: Any = {"f0": F0, "ntk_test_train": PARTS[1], "f0_test": F0_TEST}
    for got in (
        ntk.gradient_flow(PARTS[0], Y, t=0.0, ridge=0.1, **same),
        ntk.gradient_descent(PARTS[0], Y, learning_rate=0.1, steps=0, momentum=0.9, **same),
        [a[0] for a in ntk.sgd_moments(PARTS[0], Y, learning_rate=0.1, batch_size=1, steps=0, **same)],
        [
            a[0]
            for a in ntk.sgd_simulate(
                PARTS[0], Y, learning_rate=0.1, batch_size=1, steps=0, key=jax.random.key(0), runs=1, **same
            )
        ],
        ntk.cross_entropy_flow(PARTS[0], LABELS[:, :K] + LABELS[:, [2]] * 0.5, t=0.0, **same),
    ):
        assert_close(got[0], F0, rtol=1e-15)
        assert_close(got[1], F0_TEST, rtol=1e-15)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1 - 1e-9])
def test_a_rate_of_zero_moves_nothing_and_the_stability_limit_has_no_end(momentum):
    theta, y = PARTS[0].astype(np.float32), Y.astype(np.float32)
    for steps in (5, 2**35, jnp.inf):
        still = ntk.gradient_descent(theta, y, learning_rate=0, steps=steps, momentum=momentum, ntk_test_train=theta)
        assert not still[0].any()
        assert not still[1].any()
    limit = float(ntk.max_learning_rate(theta, momentum))
    for rate in (limit, np.nextafter(np.float32(limit), np.float32(0)), limit * (1 + 1e-7)):
        with pytest.raises(ValueError, match="not below the largest stable one"):
            ntk.gradient_descent(theta, y, learning_rate=float(rate), steps=[3, jnp.inf], momentum=momentum)
        ntk.gradient_descent(theta, y, learning_rate=float(rate), steps=3, momentum=momentum)
    below = ntk.gradient_descent(theta, y, learning_rate=0.999 * limit, steps=[10**8, jnp.inf], momentum=momentum)
    assert_close(np.asarray(below[1]), y, rtol=1e-6)
    if momentum < 0.9:
        assert_close(np.asarray(below[0]), y, rtol=1e-5)


@pytest.mark.sweep(part=2)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("of", ["net.kernel", "gram"])
def test_opposite_inputs_of_great_size_are_opposite_to_the_last_bit(of, dtype):
    """At a variance of 1e28 the slope of erf falls to a tenth if 1 − abs(ρ) is 5e-27 instead of 0."""
    x = 1e14 * normal(0, 12, 7, dtype=dtype)
    net = ntk.mlp([7, 4, 1], activation=ntk.Erf(), w_std=1.0, rngs=nnx.Rngs(0))
    both, n = np.concatenate([x, -x, 4 * x]).astype(dtype), len(x)
    k = np.asarray(net.kernel(both).ntk if of == "net.kernel" else ntk.gram(net, both), float)
    own = k.diagonal()[:n]
    assert_close(k[:n, n : 2 * n].diagonal() / own, -np.ones(n), rtol=2e-6)
    far = np.asarray(net.kernel(x[:1], 4 * x[:1]).ntk, float)  # of one direction, at another place among the inputs
    assert_close(k[:1, 2 * n : 2 * n + 1], far, rtol=2e-6)
    assert_close(k[n : 2 * n, 2 * n :].diagonal(), -k[:n, 2 * n :].diagonal(), rtol=2e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_stability_limit_has_no_end_in_whatever_type_it_came(seed, nesterov):
    """Without float64 in JAX the limit of a float64 kernel comes in float32, rounded down as often as up."""
    root = np.random.default_rng(seed).normal(size=(6, 9))
    with jax.enable_x64(False):
        limit = ntk.max_learning_rate(root @ root.T, 0.5, nesterov=nesterov)
        assert limit.dtype == np.float32
        with pytest.raises(ValueError, match="not below the largest stable one"):
            ntk.gradient_descent(
                root @ root.T, np.ones((6, 1)), learning_rate=limit, steps=np.inf, momentum=0.5, nesterov=nesterov
            )


def test_at_the_limit_the_fastest_mode_swings_for_ever():
    """2N/λ exactly, on one mode: f jumps between 0 and 2y, at any number of steps."""
    for steps in (1, 2, 10**6, 10**6 + 1, 2**50):
        f = ntk.gradient_descent(np.array([[2.0]]), np.array([[1.0]]), learning_rate=1.0, steps=steps)
        assert float(f[0, 0]) == (2.0 if steps % 2 else 0.0)


def test_a_full_batch_without_label_noise_is_descent():
    how: Any = {"learning_rate": 0.3, "steps": [1, 40]}
    want = ntk.gradient_descent(PARTS[0], Y, **how)
    moments: Any = ntk.sgd_moments(PARTS[0], Y, batch_size=N, label_noise=0.0, **how)
    mean, cov = moments
    assert_close(mean, want, rtol=1e-12)
    assert not cov.any()
    runs = ntk.sgd_simulate(PARTS[0], Y, batch_size=N, label_noise=0.0, key=jax.random.key(0), runs=2, **how)
    assert_close(runs[0], want, rtol=1e-12)
    assert not ntk.stationary_covariance(PARTS[0], Y, learning_rate=0.3, batch_size=N).any()
    assert not ntk.langevin(PARTS[0], Y, learning_rate=0.3, batch_size=N, t=3.0)[1].any()


def test_late_times_that_no_integrator_reaches_are_said():
    with pytest.raises(RuntimeError, match=r"do not reach `t` = 1e\+09.*stationary_covariance"):
        ntk.langevin(PARTS[0], Y, learning_rate=0.1, batch_size=1, t=1e9)
    with pytest.raises(RuntimeError, match=r"100,000 steps of the integrator do not reach `t` = 1e\+12"):
        ntk.cross_entropy_flow(twins()[0][0], np.eye(2)[[0, 1, 0, 1, 0, 1]], t=1e12)  # two labels for one input


# ------------------------------------------------------------------------------------------------------- one kernel


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_of_different_kernels_are_refused_and_those_of_one_are_not(dtype):
    x, x_test = np.linspace(-1, 1, N)[:, None], np.linspace(-1.2, 1.2, M)[:, None]
    make = lambda a, b: np.exp(-((a - b.T) ** 2) / 4)  # noqa: E731
    parts = [make(a, b).astype(dtype) for a, b in ((x, x), (x_test, x), (x_test, x_test))]
    y = np.sin(3 * x + np.arange(K)).astype(dtype)
    for factors in ((1, 3, 1), (1, 1.05, 1), (1, -3, 1), (1, 1, 0.9), (0.5, 1, 1)):
        changed = [f * p for f, p in zip(factors, parts, strict=True)]
        changed = [p.astype(dtype) for p in changed]
        with pytest.raises(ValueError, match="cannot be parts of one kernel"):
            ntk.gp_posterior(changed[0], y, changed[1], changed[2], ridge=1e-3)
        with pytest.raises(ValueError, match="cannot be parts of one kernel"):  # though no variance is negative then
            ntk.gp_posterior(changed[0], y, changed[1], changed[2], ridge=30.0)
        with pytest.raises(ValueError, match=r"`kernel_train.ntk`, .* cannot be parts of one kernel"):
            ntk.ensemble_posterior(record(changed[0]), y, *map(record, changed[1:]), t=jnp.inf, ridge=1e-3)
    for scale in (1.0, 1e-20, 1e20):
        train, cross, own = (p * dtype(scale) for p in parts)
        got = ntk.gp_posterior(train, y, cross, own, ridge=1e-3)
        assert bool(jnp.isfinite(got[1]).all())
    ntk.ensemble_posterior(record(parts[0]), y, *map(record, parts[1:]), t=jnp.inf, ridge=1e-3)


def test_a_cross_kernel_that_was_rounded_gives_itself_away_by_negative_variances():
    """Together the three are positive up to 1e-6; with a ridge of 1e-10 what lies behind seven digits shows."""
    x, x_test = np.linspace(-1, 1, 40)[:, None], np.linspace(-0.97, 0.97, 25)[:, None]
    train, cross, own = (np.exp(-((a - b.T) ** 2) * 2) for a, b in ((x, x), (x_test, x), (x_test, x_test)))
    assert float(jnp.diagonal(ntk.gp_posterior(train, x, cross, own, ridge=1e-10)[1]).min()) >= 0.0
    with pytest.raises(ValueError, match="a variance below zero, -"):
        ntk.gp_posterior(train, x, cross.round(7), own, ridge=1e-10)
    with pytest.raises(ValueError, match=r"singular or indefinite .* Use a larger ridge"):  # known to come from float32
        ntk.gp_posterior(train, x, cross.astype(np.float32).astype(float), own, ridge=1e-10)


def test_the_nngp_of_one_network_and_the_ntk_of_another_are_refused_too():
    def both(nngp, theta):
        return [
            ntk.Kernel(jnp.asarray(a), jnp.asarray(b), jnp.zeros(len(a)), jnp.zeros(a.shape[1]), features=1)
            for a, b in zip(nngp, theta, strict=True)
        ]

    right, wrong = list(PARTS), [PARTS[0], 3 * PARTS[1], PARTS[2]]
    ntk.ensemble_posterior(*_spread(both(right, right)), t=1.0)
    for nngp, theta, kind in ((wrong, right, "nngp"), (right, wrong, "ntk")):
        with pytest.raises(ValueError, match=rf"`kernel_train.{kind}`, .* cannot be parts of one kernel"):
            ntk.ensemble_posterior(*_spread(both(nngp, theta)), t=1.0)


def _spread(records) -> tuple[Any, ...]:
    return records[0], Y, records[1], records[2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variances_are_not_negative(dtype):
    """At the training inputs themselves, where the exact ones are 0 or as small as the ridge."""
    for ridge in (0.0, 1e-9, 1e-4):
        k = (PARTS[0] + 0.1 * np.eye(N)).astype(dtype)
        mean, cov = ntk.gp_posterior(k, Y.astype(dtype), k, k, ridge=ridge)
        assert float(jnp.diagonal(cov).min()) >= 0.0
        assert float(jnp.diagonal(cov).max()) < 2 * ridge * float(np.trace(k)) / N + 1e-6
        r = record(k)
        mean, cov = ntk.ensemble_posterior(r, Y.astype(dtype), r, r, t=jnp.inf, ridge=ridge)
        assert float(jnp.diagonal(cov).min()) >= 0.0
        assert_close(np.asarray(mean), Y.astype(dtype), rtol=1e-2 if ridge else 1e-5)


# ---------------------------------------------------------------------------------------------------------- symmetry


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_symmetry_is_asked_for_up_to_rounding(dtype):
    """A part in a thousand is another kernel; fifty units of float32 in the last place are the tiles of a product.

    In float64 as well: a kernel in float64 may be a sum of kernels in float32.
    """
    eps = float(np.finfo(np.float32).eps)
    for gap, fits in ((50 * eps, True), (1000 * eps, False), (1e-3, False)):
        k = np.eye(3).astype(dtype) + dtype(0.5)
        k[0, 1] += dtype(1.5 * gap)
        y = np.ones((3, 1), dtype)
        if fits:
            ntk.gradient_flow(k, y, t=1.0)
            continue
        for call in (
            lambda k=k, y=y: ntk.gradient_flow(k, y, t=1.0),
            lambda k=k, y=y: ntk.gp_posterior(k, y, k, k, ridge=0.1),
            lambda k=k: ntk.max_learning_rate(k),
        ):
            with pytest.raises(ValueError, match="must be symmetric"):
                call()


POOLED = ntk.cnn((4, 4, 3), (8,), 2, kernel_size=3, readout="pool", w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("way", ["gram", "net.kernel", "sum", "scaled"])
def test_kernels_from_float32_are_taken_in_float64(way):
    """Rows of a kernel between many inputs and a few are symmetric to float32 only, whatever type they are in later."""
    x = 40 * normal(0, 12, 4, 4, 3, dtype=np.float32)
    if way == "net.kernel":
        k = jax.jit(lambda x: POOLED.kernel(x, x[:N]).ntk)(x)[:N]
    else:
        k = ntk.gram(POOLED, x, x[:N])[:N]
    k, y = np.asarray(k, np.float64), normal(1, N, K)
    k = {"sum": k + 0.1 * np.asarray(ntk.gram(POOLED, 3 * x, 3 * x[:N])[:N]), "scaled": k / np.pi}.get(way, k)
    assert 0 < np.abs(k - k.T).max() < 1e-5 * k.max()
    exact, t = (k + k.T) / 2, 2 * N / k.trace()
    assert_close(
        ntk.gradient_descent(k, y, steps=9, learning_rate=t),
        ntk.gradient_descent(exact, y, steps=9, learning_rate=t),
        rtol=1e-5,
    )
    assert_close(ntk.max_learning_rate(k), ntk.max_learning_rate(exact), rtol=1e-6)
    assert_close(ntk.mean_square_limit(k, batch_size=3), ntk.mean_square_limit(exact, batch_size=3), rtol=1e-6)
    for call in (
        lambda k: ntk.gradient_flow(k, y, t=t),
        lambda k: ntk.gp_posterior(k, y, k[:M], k[:M, :M], ridge=0.1)[0],
        lambda k: ntk.loo(k, y, ridge=0.1),
    ):
        assert_close(call(k), call(exact), rtol=1e-5)


def test_a_mesh_that_holds_no_equal_parts_is_told_how_many_inputs_would_do():
    """Never none: three inputs on four devices want one input more."""
    for n, ways in ((3, "a mesh of 1, or 4 inputs"), (10, "a mesh of 2, or 8 inputs"), (6, "a mesh of 2, or 4 inputs")):
        with pytest.raises(ValueError, match=f"4 devices, which must divide the {n} rows.*{ways}"):
            _checks.divides_rows(4, n)
    _checks.divides_rows(4, 8)


def test_networks_take_no_inputs_at_all():
    """A batch of none has none of the outputs."""
    rngs = nnx.Rngs(0)
    for net, shape in (
        (ntk.mlp([3, 4, 2], w_std=1.0, rngs=rngs), (0, 3)),
        (ntk.cnn((4, 4, 1), [3], 2, w_std=1.0, rngs=rngs), (0, 4, 4, 1)),
        (ntk.cnn((4, 4, 1), [3], 2, readout="pool", w_std=1.0, rngs=rngs), (0, 4, 4, 1)),
    ):
        assert net(jnp.zeros(shape)).shape == (0, 2)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_derivatives_at_the_end_of_training_are_differences(ridge):
    """The derivative of e^(−λt) by λ at t = ∞ is 0, not ∞ · 0."""
    shapes = (4, 4), (2, 4), (4, 1), (4, 4)
    a, cross, y, along = (np.asarray(normal(seed, *shape)) for seed, shape in enumerate(shapes))
    kernel, along = a @ a.T + np.diag(np.arange(1.0, 5.0)), along + along.T

    @jax.jit
    def end(h):
        train, test = ntk.gradient_flow(kernel + h * along, y, t=jnp.inf, ntk_test_train=cross, ridge=ridge)
        return (train**2).sum() + test.sum()

    difference = (end(1e-5) - end(-1e-5)) / 2e-5
    assert abs(difference) > 1e-3
    assert_close(jax.grad(end)(0.0), difference, rtol=1e-7)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_alignment_with_targets_of_any_size(size):
    k, y = normal(0, 5, 3, dtype=jnp.float32), normal(1, 5, 2, dtype=jnp.float32)
    k = k @ k.T
    net = ntk.mlp([3, 4, 2], w_std=1.0, rngs=nnx.Rngs(0))
    for first, more in ((k, ()), (net, (None, normal(2, 5, 3)))):
        want = ntk.kernel_alignment(first, *more, y=y)
        assert_close(ntk.kernel_alignment(first, *more, y=jnp.float32(size) * y), want, rtol=1e-5)


@pytest.mark.parametrize("in_float64", [False, True])
def test_the_digits_of_a_kernel_are_those_it_was_computed_with(in_float64):
    """Converted to float64, a kernel from float32 still has its rounding errors, and the warning comes all the same."""
    x = np.linspace(-1, 1, 100, dtype=np.float32)[:, None]
    net = ntk.mlp([1, 8, 1], activation=ntk.Erf(), w_std=2.0, b_std=0.1, rngs=nnx.Rngs(0))
    parts = np.asarray(ntk.gram(net, x)), np.asarray(ntk.gram(net, 0.99 * x[::4], x))
    k, k_test = (part.astype(np.float64) if in_float64 else part for part in parts)
    with pytest.warns(UserWarning, match="6 of the 7 digits of the outputs at the test points are lost"):
        ntk.gradient_flow(k, np.sin(300 * x).astype(k.dtype), t=jnp.inf, ntk_test_train=k_test, ridge=1e-6)


def test_kernels_of_whole_numbers_are_exact():
    """Numbers that need few bits are no sign of float32. Here the eigenvalues are 39603 and 1/39603."""
    k = np.array([[10946.0, 17711.0], [17711.0, 28657.0]])
    y = np.array([[1.0], [0.0]])
    assert_close(ntk.gradient_flow(k, y, t=jnp.inf), y, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ several devices

SEVERAL_DEVICES = """
import jax, numpy as np, optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import ntklib as ntk

jax.config.update("jax_num_cpu_devices", 2)
rng = np.random.default_rng(0)
j, jt = rng.normal(size=(8, 20)), rng.normal(size=(4, 20))
k, kt, own, y, x = (a.astype(np.float32) for a in (j @ j.T, jt @ j.T, jt @ jt.T, rng.normal(size=(8, 2)), j[:, :3]))

def calls(k, kt, own, y, x):
    net = ntk.mlp([3, 4, 2], w_std=1.0, rngs=nnx.Rngs(0))
    record = lambda a: ntk.Kernel(a, a, np.zeros(len(a)), np.zeros(a.shape[1]), features=1)
    noisy = {"learning_rate": 0.01, "batch_size": 2}
    return [
        ntk.gradient_flow(k, y, t=[1.0, 2.0], ntk_test_train=kt),
        ntk.gradient_descent(k, y, learning_rate=0.1, steps=3, ntk_test_train=kt),
        ntk.gp_posterior(k, y, kt, own, ridge=0.1),
        ntk.ensemble_posterior(record(k), y, record(kt), record(own), t=1.0),
        ntk.max_learning_rate(k),
        ntk.mean_square_limit(k, 1),
        ntk.sgd_moments(k, y, steps=3, ntk_test_train=kt, **noisy),
        ntk.sgd_simulate(k, y, steps=3, ntk_test_train=kt, key=jax.random.key(0), runs=2, **noisy),
        ntk.stationary_covariance(k, y, label_noise=0.1, **noisy),
        ntk.langevin(k, y, t=1.0, **noisy),
        ntk.noise_covariance(y, 2),
        ntk.train(net, x, y, optimizer=optax.sgd(0.1), steps=2, batch_size=4, key=jax.random.key(0)).loss,
    ]

want = calls(k, kt, own, y, x)
for axes in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2,), ("a",), axis_types=(axes,))
    sharded = [jax.device_put(a, NamedSharding(mesh, P("a", None))) for a in (k, kt, own, y, x)]
    for inside in (False, True):
        if inside:
            with jax.set_mesh(mesh):
                got = calls(*sharded)
        else:
            got = calls(*sharded)
        for i, (one, other) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)):
            assert np.allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-6), (axes, inside, i)
net = ntk.mlp([3, 4, 2], w_std=1.0, rngs=nnx.Rngs(0))
theta = ntk.gram(net, x, mesh=jax.make_mesh((2,), ("rows",)), progress=False)
flow = ntk.gradient_flow(theta, y, t=1.0)
assert np.allclose(flow, ntk.gradient_flow(np.asarray(theta), y, t=1.0), rtol=1e-6)
print("agree", len(theta.sharding.device_set))
"""


WIDE_NETWORKS = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import ntklib as ntk

jax.config.update("jax_num_cpu_devices", 4)
rng, rngs = np.random.default_rng(0), nnx.Rngs(0)
x, x2, images = (rng.normal(size=shape).astype(np.float32) for shape in [(8, 3), (4, 3), (4, 4, 4, 1)])
x[1] = x[0] * (1 + 1e-6)
mlp = ntk.mlp([3, 4, 4, 2], w_std=1.4, b_std=0.1, rngs=rngs)
cnn = ntk.cnn((4, 4, 1), [2], 2, w_std=1.4, rngs=rngs)
mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Explicit, AxisType.Explicit))
put = lambda x, axis: jax.device_put(x, NamedSharding(mesh, P(axis)))
for kernel, one, other, rows, columns in [
    (mlp.kernel, (put(x, "a"),), (x,), "a", None),
    (jax.jit(mlp.kernel), (put(x, "a"), x2), (x, x2), "a", None),
    (jax.jit(mlp.kernel), (x2, put(x, "b")), (x2, x), None, "b"),
    (mlp.kernel, (put(x, "a"), put(x2, "b")), (x, x2), "a", "b"),
    (jax.jit(cnn.kernel), (put(images, ("a", "b")),), (images,), ("a", "b"), None),
]:
    with jax.set_mesh(mesh):
        got = kernel(*one)
    assert tuple(got.ntk.sharding.spec)[:2] == (rows, columns), got.ntk.sharding
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(kernel(*other)), strict=True):
        assert np.allclose(np.asarray(a), np.asarray(b), rtol=2e-6, atol=1e-7)
print("agree")
"""


@pytest.mark.weekly
def test_kernels_of_wide_networks_stay_sharded_over_explicit_axes():
    done = subprocess.run([sys.executable, "-c", WIDE_NETWORKS], capture_output=True, text=True, timeout=600)
    assert done.stdout == "agree\n", done.stdout + done.stderr


@pytest.mark.weekly
def test_kernels_on_several_devices_are_gathered():
    """Sharded over automatic and explicit axes, inside and outside a mesh, and as `gram` returns them."""
    done = subprocess.run([sys.executable, "-c", SEVERAL_DEVICES], capture_output=True, text=True, timeout=600)
    assert done.stdout == "agree 2\n", done.stdout + done.stderr
