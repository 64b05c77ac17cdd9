"""A small part of the table that `python tests/accuracy.py` prints: float32 against float64 where digits are lost."""

import functools
import math

import accuracy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, compilations, kernel, normal
from scipy.integrate import dblquad, quad

import ntklib as ntk
from ntklib.duals import correlation, integrals, making
from ntklib.layers.elementwise import smallest_variance

CASES = [
    ("relu", 3, "plain", 1.0), ("relu", 20, "bias", 255.0), ("leaky_relu", 3, "norm", 1e-12), ("abs", 3, "bias", 1e6),
    ("erf", 3, "plain", 1e6), ("erf", 20, "plain", 1.0), ("erf", 3, "norm", 1.0), ("gelu", 3, "bias", 255.0),
    ("tanh", 3, "plain", 1e-2), ("silu", 3, "residual", 1e-12), ("elu", 1, "bias", 1e-2), ("sigmoid", 3, "norm", 255.0),
    ("arctan", 3, "bias", 1e-12), ("sign", 3, "plain", 1.0), ("sin", 3, "bias", 1e-12), ("gaussian", 3, "bias", 1e6),
    ("hermite", 3, "norm", 1.0), ("exp", 1, "norm", 1.0),
]  # fmt: skip


@pytest.mark.sweep(part=9)
@pytest.mark.parametrize(("name", "depth", "form", "scale"), CASES, ids=lambda value: str(value))
def test_float32_agrees_with_float64(name, depth, form, scale):
    found = accuracy.errors(accuracy.network(accuracy.ACTIVATIONS[name], depth, form), accuracy.inputs(scale))
    assert all(isinstance(error, float) for error in found.values()), found
    assert found["gram"] < 2e-6, found
    assert found["kernel"] < 2e-6, found
    assert found["double"] < 1e-10, found


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_many_features_of_one_sign_keep_float32(shift):
    """Pixels and bytes: sums of 784 products of one sign, in float32, round by more than the result may."""
    data = ntk.load("mnist5k").flat()
    x = (data.x_train[:300] * 50 + shift).astype(np.float32)
    net = ntk.mlp([784, 8, 8, 8, 1], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
    want = ntk.gram(net, x.astype(float))
    for made in (net.kernel(x).ntk, net.kernel(x, x + 0).ntk, jax.jit(net.kernel)(x).ntk, ntk.gram(net, x, tile=16)):
        assert made.dtype == np.float32
        assert np.abs(np.asarray(made, float) / want - 1).max() < 3e-6


@pytest.mark.sweep
@pytest.mark.parametrize("channels", [1, 3, 12])
def test_pixels_that_are_nearly_the_same_keep_float32(channels):
    """Pixels of many channels, too: 1 − |ρ| is made of differences, not of products."""
    x = np.random.default_rng(0).normal(size=(4, 3, 3, channels)).astype(np.float32)
    x[1:3] = x[0] * (1 + 1e-3 * x[1:3])
    x[3] = -x[0]
    net = ntk.cnn((3, 3, channels), [2], 1, activation=ntk.Abs(), w_std=1.4, rngs=nnx.Rngs(0))
    want = net.kernel(jnp.asarray(x, jnp.float64)).ntk
    got = net.kernel(jnp.asarray(x)).ntk
    scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    assert np.abs((np.asarray(got, float) - want) / scale).max() < 2e-6


@pytest.mark.parametrize("name", ["tanh", "sin", "exp"])
def test_variances_beyond_what_is_known_are_refused_and_under_jit_nan(name):
    net, x = accuracy.network(accuracy.ACTIVATIONS[name], 1, "plain"), jnp.asarray(accuracy.inputs(1e6))
    for call in (lambda: net.kernel(x), lambda: ntk.gram(net, x)):
        with pytest.raises(ValueError, match="Standardize the inputs"), jax.numpy_dtype_promotion("standard"):
            call()
    ntk_matrix = np.asarray(jax.jit(net.kernel)(x).ntk)
    large = np.asarray(jnp.mean(x**2, 1)) > 1e9
    assert np.isnan(ntk_matrix[large][:, large]).all()


# ----------------------------------------------------------------------------------------------- δ, tables, new duals


def test_correlations_keep_both_ends():
    for rho in (1.0, 1 - 1e-30, 0.3, 0.0, -0.3, -1.0):
        minus, plus = (np.float64(1.0) - rho, np.float64(1.0) + rho)
        if rho == 1 - 1e-30:
            minus = np.float64(1e-30)
        delta = correlation.signed(jnp.asarray(minus), jnp.asarray(plus))
        assert np.isclose(correlation.one_minus(delta), minus, rtol=1e-15, atol=0)
        assert np.isclose(correlation.one_plus(delta), plus, rtol=1e-15, atol=1e-300)
        assert np.isclose(correlation.rho(delta), rho, rtol=1e-15, atol=1e-16)
    antipode = correlation.signed(jnp.asarray(2.0), jnp.asarray(0.0))
    assert antipode < 0
    assert correlation.size(antipode) == 0


@pytest.mark.sweep(part=9)
@pytest.mark.parametrize("name", ["gelu", "silu", "elu", "sigmoid", "arctan", "tanh"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 2.0), (1.0, 1.0), (1e-6, 300.0)])
def test_tables_are_the_quadrature(name, low, high):
    """Two routes: Chebyshev series made by NumPy, and a sum over nodes for each entry."""
    activation = accuracy.ACTIVATIONS[name].activation
    rng = np.random.default_rng(0)
    q1, q2 = (jnp.asarray(np.exp(rng.uniform(np.log(max(low, 1e-6)), np.log(high), 60))) for _ in range(2))
    q2 = q2.at[:20].set(q1[:20])
    delta = np.concatenate([rng.uniform(0, 1, 20), 10.0 ** rng.uniform(-12, 0, 20), -rng.uniform(0, 1, 20)])
    delta = jnp.asarray(rng.permutation(delta)).at[:2].set(0.0)
    table = making.made(activation, low, high, np.float64)
    slopes, new = table.near(activation, delta, q1, q2)
    want_slopes, want = integrals.near(activation.fn, delta, q1, q2)
    scale = jnp.sqrt(integrals.moment(integrals.derivative(activation.fn), q1))
    assert np.abs((slopes - want_slopes) / scale).max() < 1e-10
    assert np.abs(correlation.one_minus(new) - correlation.one_minus(want)).max() < 1e-10
    # The angle, which a kink behind would see.
    assert np.abs(np.sqrt(correlation.size(new)) - np.sqrt(correlation.size(want))).max() < 1e-10
    assert np.abs(table.moment(q1) / integrals.moment(activation.fn, q1) - 1).max() < 1e-11


@pytest.mark.parametrize("q", [1e-24, 1e-31, 1e-36])
def test_moments_of_small_variances_keep_their_digits(q):
    """A sum of squares of which single ones are below the smallest normal number of float32."""
    for fn in (jnp.tanh, ntk.Gelu().fn, lambda x: x):
        got = float(integrals.moment(fn, jnp.asarray([q], jnp.float32))[0])
        assert abs(got / float(integrals.moment(fn, jnp.asarray([q], jnp.float64))[0]) - 1) < 1e-6
    assert float(integrals.moment(jnp.zeros_like, jnp.asarray([q]))[0]) == 0


def test_inputs_too_small_for_their_squares_are_harmless_after_a_bias():
    """And a network of zero weights has a kernel of zeros, of inputs of any size."""
    x = accuracy.inputs(1e-25)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        net, without = (accuracy.network(ntk.Relu(), 1, form) for form in ("bias", "plain"))
        for ask in (lambda net: net.kernel(x).ntk, lambda net: ntk.gram(net, x)):
            found = np.asarray(ask(net), float)
            assert np.ptp(found) < 1e-6 * found.max()
            with pytest.raises(ValueError, match=r"too small.*float32"):
                ask(without)
        zero = ntk.mlp([6, 3, 1], w_std=0.0, rngs=nnx.Rngs(0))
        assert not np.asarray(zero.kernel(accuracy.inputs(1.0)).nngp).any()


@pytest.mark.parametrize("ask", [lambda net, x: net.kernel(x).ntk, ntk.gram], ids=["kernel", "gram"])
def test_too_small_is_the_mean_square_of_an_input_and_not_their_sum(ask):
    least = smallest_variance(np.float32)
    net = ntk.mlp([64, 3, 1], w_std=1.0, rngs=nnx.Rngs(0))
    x = np.where(np.arange(2 * 64).reshape(2, 64) % 3, 1.0, -1.0)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        above, below = (np.float32(np.sqrt(factor * least) * x) for factor in (3.0, 0.5))
        assert_close(np.asarray(ask(net, above), float) / (3 * least), ask(net, np.float32(x)), rtol=1e-5)
        with pytest.raises(ValueError, match=r"too small.*float32"):
            ask(net, below)


def test_one_small_image_among_many_is_found():
    """Its pixels are neither the smallest, which are zero, nor among the quantiles."""
    net = ntk.Serial(
        ntk.Conv(1, 4, 1, w_std=1.0, rngs=nnx.Rngs(0)),
        ntk.Monomial(10),
        ntk.Flatten(),
        ntk.Dense(16, 1, w_std=1.0, rngs=nnx.Rngs(0)),
    )
    sizes = np.array([0.0, 3e-3, *np.ones(8)], np.float32)
    x = sizes[:, None, None, None] * np.ones((10, 2, 2, 1), np.float32)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        ntk.gram(net, x[2:])
        with pytest.raises(ValueError, match=r"too small.*float32"):
            ntk.gram(net, x)


@pytest.mark.parametrize("name", ["relu", "erf"])
def test_errors_of_deep_kernels_grow_by_1e_7_with_each_layer(name):
    net, x = accuracy.network(accuracy.ACTIVATIONS[name], 50, "plain"), accuracy.inputs(1.0)
    want = np.asarray(net.kernel(jnp.asarray(x, jnp.float64)).ntk)
    root = np.sqrt(want.diagonal())
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        found = np.asarray(net.kernel(jnp.asarray(x)).ntk, float)
    assert np.abs((found - want) / np.where(want == 0, np.inf, root[:, None] * root)).max() < 2e-6 + 30 * 1e-7


def test_where_the_variance_repels_errors_are_those_of_the_map_itself():
    """GELU: Θ changes 240 times as much as the inputs, relatively, and in float32 by as many rounding errors."""
    net = ntk.mlp([6, *[4] * 50, 1], activation=ntk.Gelu(), w_std=1.45, rngs=nnx.Rngs(0))
    x = np.ones((1, 6), np.float32) * np.geomspace(0.1, 10, 60)[:, None].astype(np.float32)
    want, moved = (np.asarray(net.kernel(jnp.asarray(x * s, jnp.float64)).ntk).diagonal() for s in (1, 1 + 1e-7))
    magnified = np.abs(moved / want - 1).max() / 1e-7
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        found = np.asarray(net.kernel(jnp.asarray(x)).ntk, float).diagonal()
    assert 50 < magnified < 1000
    assert np.abs(found / want - 1).max() < 1e-6 * magnified


def test_a_table_gives_nan_outside_its_range():
    activation = accuracy.ACTIVATIONS["tanh"].activation
    table = making.made(activation, 0.5, 1.0, np.float64)
    assert np.isnan(table.moment(jnp.asarray(5.0)))
    assert np.isfinite(table.moment(jnp.asarray(0.7)))


@pytest.mark.parametrize(("q", "rho"), [(1e-2, 0.4), (10.0, -0.7), (1e4, 0.9), (1e4, 0.99999)])
def test_quadrature_at_any_variance_is_the_closed_form_of_erf(q, rho):
    fn = accuracy.ACTIVATIONS["erf"].fn
    values, slopes = integrals.quadrature(fn, q * rho, q, q)
    want, want_slopes = ntk.Erf().dual(q * rho, q, q)
    own, own_slopes = ntk.Erf().dual(q, q, q)
    assert abs(float(values - want)) < 1e-11 * float(own)
    assert abs(float(slopes - want_slopes)) < 1e-11 * float(own_slopes)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["rectified_monomial", "sin phase", "cos", "rbf", "gaussian", "exp", "hermite"])
def test_closed_forms_are_integrals_in_the_plane(name):
    """By an adaptive rule of SciPy's, which shares nothing with ours."""
    layer = accuracy.ACTIVATIONS[name]
    q1, q2, q12 = 0.7, 1.3, 0.5
    inverse = np.linalg.inv([[q1, q12], [q12, q2]])
    norm = 2 * np.pi * np.sqrt(q1 * q2 - q12**2)
    compiled = jax.jit(layer.fn)
    fn = functools.cache(lambda u: float(compiled(u)))

    def integrand(v, u):
        density = np.exp(-0.5 * (inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v)) / norm
        return fn(u) * fn(v) * density

    found = dblquad(integrand, -6, 7, -6, 7, epsabs=1e-5, epsrel=1e-5)[0]
    assert abs(found - float(layer.dual(q12, q1, q2)[0])) < 2e-4


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(accuracy.ACTIVATIONS))
def test_a_second_kernel_compiles_nothing(name):
    net, x = accuracy.network(accuracy.ACTIVATIONS[name], 2, "norm"), normal(0, 5, 6)
    for again in (x, x + 0.1):
        net.kernel(x), net.kernel(x, again)
    with compilations() as compiled:
        net.kernel(x + 0.2), net.kernel(x, x + 0.2)
    assert not compiled


# ------------------------------------------------------------------------------------ functions that are no easy ones


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("fn", "least", "most"),
    [
        (jnp.tanh, 1e4, 1e4), (jax.nn.selu, 1e4, 1e4), (jnp.abs, 1e4, 1e4), (jax.nn.mish, 1e4, 1e4),
        (jnp.sin, 1.0, 200.0), (jax.nn.hard_tanh, 0.0, 0.1), (jax.nn.relu6, 0.0, 3.0),
        (lambda x: jax.nn.relu(x - 0.5), 0.0, 0.03), (lambda x: jnp.sin(30 * x), 0.0, 0.2),
    ],
)  # fmt: skip
def test_the_variances_that_can_be_integrated_are_found_by_two_rules(fn, least, most):
    single, double = integrals.reach(fn)
    assert least <= single <= double * 10 <= most * 10


def test_a_function_with_kinks_is_refused_and_under_jit_nan():
    net, x = accuracy.network(ntk.Elementwise(jax.nn.hard_tanh), 2, "bias"), normal(0, 4, 6)
    for call in (lambda: net.kernel(x), lambda: ntk.gram(net, x)):
        with pytest.raises(ValueError, match=r"hard_tanh.*a jump.*Standardize.*`dual`"):
            call()
    assert np.isnan(jax.jit(net.kernel)(x).ntk).all()


def test_a_function_with_kinks_is_computed_by_its_own_dual():
    # `clipped` has kinks away from zero, so that the library uses its dual alone. It is given the dual of |x|.
    def clipped(x):
        return jnp.where(jnp.abs(x) < 1e-3, 1e-3, jnp.abs(x))  # |x| but for 1e-3 around zero

    exact, layer = ntk.Abs(), ntk.Elementwise(clipped, ntk.Abs().dual)
    assert integrals.reach(clipped)[0] < 1.0
    x = normal(0, 5, 6)
    want = kernel(accuracy.network(exact, 3, "bias"), x).ntk
    assert_close(kernel(accuracy.network(layer, 3, "bias"), x).ntk, want, rtol=1e-7)
    assert_close(ntk.gram(accuracy.network(layer, 3, "bias"), x), want, rtol=1e-7)


@pytest.mark.parametrize(("degree", "size"), [(3, 1e-12), (10, 3e-3)])
@pytest.mark.parametrize("ask", [lambda net, x: net.kernel(x).ntk, ntk.gram], ids=["kernel", "gram"])
def test_variances_too_small_for_what_comes_behind_are_refused(degree, size, ask):
    net = accuracy.network(ntk.Monomial(degree), 1, "plain")
    x = size * jnp.asarray(np.where(np.eye(6, dtype=bool), -1.0, 1.0))  # all of one variance, about size²
    with pytest.raises(ValueError, match=r"too small.*float32"), jax.enable_x64(False):
        ask(net, jnp.asarray(x, jnp.float32))
    assert np.isfinite(ask(net, jnp.asarray(x, jnp.float64))).all()
    nothing = accuracy.network(ntk.Elementwise(jnp.zeros_like), 1, "plain")
    assert not np.asarray(ask(nothing, 1e-3 * x / size)).any()


def test_waves_of_one_direction_by_both_forms():
    """Long waves are compared by coordinates, short ones by exponentials; where they meet both hold."""
    activation = accuracy.ACTIVATIONS["sin phase"].activation
    for q in (0.3, 8.0 / 0.64 * 0.999, 8.0 / 0.64 * 1.001, 40.0):
        q1, q2 = jnp.asarray([q, q]), jnp.asarray([0.9 * q, q])
        new = activation.near(jnp.zeros(2), q1, q2)[1]
        values, own1, own2 = (activation.closed(a, b, c)[0] for a, b, c in
                              ((jnp.sqrt(q1 * q2), q1, q2), (q1, q1, q1), (q2, q2, q2)))  # fmt: skip
        assert_close(new + 1, 2 - values / jnp.sqrt(own1 * own2), rtol=1e-13)


def power(degree, cos, rectified):
    """E[φ(u) φ(v)] of x^n or max(x, 0)^n for unit variances, by an integral over the angle of (u, v) in the plane."""
    theta = np.arccos(np.clip(cos, -1, 1))
    ends = (theta - np.pi / 2, np.pi / 2) if rectified else (0.0, 2 * np.pi)
    value = quad(lambda a: (np.cos(a) * np.cos(a - theta)) ** degree, *ends, epsabs=0, epsrel=1e-13, limit=200)[0]
    return 2.0**degree * math.factorial(degree) / (2 * np.pi) * value


@pytest.mark.parametrize(("make", "degree"), [(ntk.RectifiedMonomial, 27), (ntk.Monomial, 34)])
def test_powers_whose_coefficients_leave_float32_keep_it(make, degree):
    """(2n − 1)!! is beyond the range of float32 for n > 28, and J_n(0) = π (2n − 1)!! for n > 27. E[φ²] is not.

    A variance has a relative error of a few ε, and its n-th power n times as much.
    """
    x = np.asarray(normal(0, 6, 5))
    x = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    x = np.concatenate([x, x[:1] * (1 + 1e-6), -x[1:2]])
    net = ntk.mlp([5, 8, 1], activation=make(degree), w_std=0.5, rngs=nnx.Rngs(0))
    want = net.kernel(x).ntk
    size = np.sqrt(np.outer(np.diagonal(want), np.diagonal(want)))
    q, rectified = np.mean(x**2, axis=1) / 4, make is ntk.RectifiedMonomial
    for i, j in ((0, 0), (0, 5), (0, 2), (1, 3), (4, 5)):
        cos, root = x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]), np.sqrt(q[i] * q[j])
        values, slopes = power(degree, cos, rectified), degree**2 * power(degree - 1, cos, rectified)
        by_hand = root**degree * (values + cos * slopes) / 4
        assert abs(want[i, j] - by_hand) < 1e-10 * size[i, j], (i, j)
    slope = jax.grad(lambda x: net.kernel(x).ntk.sum())(x)
    small = x.astype(np.float32)
    for got in (net.kernel(small).ntk, ntk.gram(net, small)):
        assert got.dtype == np.float32
        assert np.abs((np.asarray(got, float) - want) / size).max() < 3 * degree * np.finfo(np.float32).eps
    got = jax.grad(lambda x: net.kernel(x).ntk.sum())(small)
    assert_close(np.asarray(got, float), slope, rtol=1e-4)
