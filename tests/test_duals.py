"""Laws of dual activations: closed form against quadrature against sampling; slopes; degenerate points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ACTIVATIONS, CLOSED_FORM, assert_close
from scipy.integrate import quad
from scipy.special import ndtr

import ntklib as ntk
from ntklib import duals
from ntklib.duals.integrals import expectation, near

RHO = [-1.0, -0.9999, -0.3, 0.0, 0.3, 0.9999, 1.0]
VARIANCES = [(1.0, 1.0), (0.3, 3.0), (2.0, 2.0)]


def triples(q1, q2, dtype=jnp.float64):
    rho = jnp.array(RHO, dtype)
    return rho * jnp.sqrt(q1 * q2).astype(dtype), jnp.full_like(rho, q1), jnp.full_like(rho, q2)


@functools.cache
def gradients(name):
    """[member][argument] of the sums over a dual's two members, as one program: every test gives it seven entries."""
    dual = ACTIVATIONS[name].dual
    of = lambda member: jax.grad(lambda *q: dual(*q)[member].sum(), argnums=(0, 1, 2))  # noqa: E731
    return jax.jit(lambda *q: (of(0)(*q), of(1)(*q)))


@pytest.mark.sweep(part=12)
@pytest.mark.parametrize("name", CLOSED_FORM)
@pytest.mark.parametrize(("q1", "q2"), VARIANCES)
def test_closed_form_is_the_quadrature(name, q1, q2):
    activation = ACTIVATIONS[name]
    q = triples(q1, q2)
    fine = duals.quadrature(activation.fn, *q, nodes=(80, 60))
    for closed, numeric in zip(activation.dual(*q), fine, strict=True):
        assert_close(closed, numeric, rtol=1e-11)


@pytest.mark.sweep(part=6)
@pytest.mark.parametrize("name", CLOSED_FORM)
def test_small_variances_keep_their_digits(name):
    """In float32 a closed form has the numbers of float64, also where the exponentials of a wave nearly cancel."""
    record = ACTIVATIONS[name].activation
    rho = np.array([1.0, 0.5, -0.5])

    def numbers(q, dtype):
        delta, q, q12 = (jnp.asarray(a, dtype) for a in (np.sign(rho) * (1 - np.abs(rho)), q, rho * q))
        return [record.moment(q), record.near(delta, q, q)[0], *record.dual(q12, q, q)]

    for q in np.array([1e-9, 1e-6, 1e-3], np.float32):
        for low, high in zip(numbers(q, jnp.float32), numbers(q, jnp.float64), strict=True):
            assert_close(low, high, rtol=1e-6)


@pytest.mark.parametrize("phase", [4.0, -1e10, 1e308])
def test_a_phase_is_an_angle(phase):
    """Whole turns go before the sum in float32, which would lose the digits of x."""
    x = np.linspace(-1, 1, 9, dtype=np.float32)
    wave = ntk.Sin(1.5, phase=phase)
    turned = np.sin(1.5 * x.astype(np.float64)) * np.cos(phase) + np.cos(1.5 * x.astype(np.float64)) * np.sin(phase)
    assert_close(wave(x), turned, rtol=1e-6)
    assert_close(wave.dual(0.5, 1.0, 1.0)[0], ntk.duals.quadrature(wave.fn, 0.5, 1.0, 1.0)[0])


@pytest.mark.sweep(part=10)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dual_is_the_mean_over_samples(name):
    activation = ACTIVATIONS[name]
    q1, q2, q12, draws = 0.7, 1.9, 0.8, 400_000
    z = np.random.default_rng(0).normal(size=(2, draws))
    u, v = np.linalg.cholesky(np.array([[q1, q12], [q12, q2]])) @ z
    slope = jax.vmap(jax.grad(activation.fn))
    for f, dual in zip((activation.fn, slope), activation.dual(q12, q1, q2), strict=True):
        samples = np.asarray(f(jnp.asarray(u)) * f(jnp.asarray(v)))
        assert abs(samples.mean() - dual) < 4 * samples.std() / np.sqrt(draws) + 1e-12


@pytest.mark.sweep(part=10)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_of_the_dual_is_the_dual_of_the_slope(name):
    q = triples(1.0, 1.0)
    assert_close(gradients(name)(*q)[0][0], ACTIVATIONS[name].dual(*q)[1], rtol=1e-10)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_agree_with_finite_differences(name):
    dual = ACTIVATIONS[name].dual
    points, h = np.array([0.4, 0.8, 1.5])[:, None] * np.linspace(0.7, 1.3, 7), 1e-5
    exact = gradients(name)(*map(jnp.asarray, points))
    for i in range(3):
        shift = h * np.eye(3)[:, i : i + 1]
        above, below = dual(*(points + shift)), dual(*(points - shift))
        for member in (0, 1):
            assert_close(exact[member][i], (above[member] - below[member]) / (2 * h), rtol=1e-6, atol=1e-7)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_finite_values_and_gradients_at_every_degenerate_point(name, dtype):
    dual = ACTIVATIONS[name].dual
    q1 = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 1e-30, 4.0], dtype)
    q2 = jnp.array([1.0, 1.0, 1.0, 0.0, 1.0, 1e-30, 1.0], dtype)
    q12 = jnp.array([1.0, -1.0, 1.0 + 1e-7, 0.0, 0.0, 1e-30, 2.0], dtype)
    for value, grads in zip(dual(q12, q1, q2), gradients(name)(q12, q1, q2), strict=True):
        assert value.dtype == dtype
        assert jnp.isfinite(value).all()
        for grad in grads:
            assert jnp.isfinite(grad).all()


def plane(f, q, rho):
    """E[f(u) f(v)] by the trapezoid rule on a square grid: exact to 1e-12 for analytic f, and nothing like ours."""
    z = np.arange(-9.6, 9.6, 0.03)
    weight = 0.03 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    v = np.sqrt(q) * (rho * z[:, None] + np.sqrt(1 - rho**2) * z[None, :])
    return (weight * f(np.sqrt(q) * z)) @ f(v) @ weight


@pytest.mark.parametrize(("q", "rho"), [(0.5, 0.5), (4.0, -0.8), (4.0, 0.999)])
def test_quadrature_error_is_what_the_docstring_says(q, rho):
    functions = {"tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2), "silu": (lambda x: x / (1 + np.exp(-x)), None)}
    for name, (f, slope) in functions.items():
        values, slopes = ACTIVATIONS[name].dual(q * rho, q, q)
        assert abs(float(values) - plane(f, q, rho)) < 2e-8 * q
        assert slope is None or abs(float(slopes) - plane(slope, q, rho)) < 2e-8


@pytest.mark.parametrize(("q", "rho"), [(0.5, 0.5), (4.0, -0.8), (4.0, 0.999)])
def test_elu_is_right_across_its_kink(q, rho):
    """One integral done by hand, the other adaptively on either side of zero."""
    s, m_of = np.sqrt(q * (1 - rho**2)), lambda u: rho * u

    def given(m):  # E[elu(m + s z)]
        positive = m * ndtr(m / s) + s * np.exp(-((m / s) ** 2) / 2) / np.sqrt(2 * np.pi)
        return positive + np.exp(m + s**2 / 2) * ndtr(-m / s - s) - ndtr(-m / s)

    def integrand(u):
        return (u if u > 0 else np.expm1(u)) * given(m_of(u)) * np.exp(-(u**2) / (2 * q)) / np.sqrt(2 * np.pi * q)

    want = sum(quad(integrand, *ends, epsabs=1e-12)[0] for ends in ((-9 * np.sqrt(q), 0), (0, 9 * np.sqrt(q))))
    assert abs(float(ACTIVATIONS["elu"].dual(q * rho, q, q)[0]) - want) < 1e-10


@pytest.mark.sweep
@pytest.mark.parametrize(
    "f", [jnp.tanh, jax.nn.silu, jax.nn.elu, jax.nn.sigmoid], ids=["tanh", "silu", "elu", "sigmoid"]
)
def test_variances_up_to_twenty_stay_within_the_stated_error(f):
    q = triples(20.0, 20.0)
    for coarse, fine in zip(duals.quadrature(f, *q), duals.quadrature(f, *q, nodes=(160, 120)), strict=True):
        assert_close(coarse, fine, rtol=1e-5)


def test_relu_is_homogeneous_and_abs_is_two_relus():
    q12, q1, q2 = triples(0.7, 1.9)
    assert_close(duals.relu(9 * q12, 9 * q1, 9 * q2)[0], 9 * duals.relu(q12, q1, q2)[0])
    assert_close(duals.relu(9 * q12, 9 * q1, 9 * q2)[1], duals.relu(q12, q1, q2)[1])
    assert_close(duals.abs(q12, q1, q2)[0], 2 * (duals.relu(q12, q1, q2)[0] + duals.relu(-q12, q1, q2)[0]))


def test_kinked_function_through_the_quadrature_is_exact():
    q = triples(0.3, 3.0)
    for closed, numeric in zip(duals.relu(*q), duals.quadrature(jax.nn.relu, *q), strict=True):
        assert_close(numeric, closed, rtol=1e-13, atol=1e-12)


def jump_and_kink(x):
    return jnp.where(x > 0, 1 + jnp.sin(x), 0.3 * x)


@pytest.mark.parametrize("fn", [jnp.sign, jump_and_kink], ids=["jump", "both"])
def test_derivatives_of_a_quadrature_see_jumps_of_a_function_and_of_its_slope(fn):
    """Both members of the dual against differences; one compiled program for the five points and their neighbors."""
    dual, h = ntk.Elementwise(fn).dual, 1e-5
    points = jnp.array([[0.4, 0.8, 1.5], [-0.7, 1.0, 1.0], [0.0, 0.3, 3.0], [0.9, 1.2, 0.8], [0.2, 2.0, 1.0]])
    exact = jax.vmap(jax.jacfwd(lambda q: jnp.stack(dual(*q))))(points)
    for i, shift in enumerate(h * np.eye(3)):
        above, below = (jnp.stack(dual(*(points + s[None]).T), 1) for s in (shift, -shift))
        assert_close(exact[:, :, i], (above - below) / (2 * h), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_slope_of_the_dual_is_the_dual_of_the_slope_at_a_variance_of_zero(name):
    q = (jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0]))
    assert_close(gradients(name)(*q)[0][0], ACTIVATIONS[name].dual(*q)[1], atol=1e-15)


@pytest.mark.parametrize(("degree", "dtype"), [(40, jnp.float32), (60, jnp.float64)])
def test_hermite_polynomials_are_orthonormal_at_any_degree(degree, dtype):
    """E[φφ] = ρ^n and E[φ'φ'] = n ρ^(n−1) at variance 1; and a sum over nodes at another variance."""
    layer, rho = ntk.Hermite(degree), jnp.asarray([1.0, 0.9, -0.7], dtype)
    one = jnp.ones_like(rho)
    values, slopes = layer.dual(rho, one, one)
    tolerance = 20 * degree * float(jnp.finfo(dtype).eps)
    assert_close(values, rho**degree, rtol=tolerance)
    assert_close(slopes, degree * rho ** (degree - 1), rtol=tolerance)
    nodes, weights = np.polynomial.hermite_e.hermegauss(degree + 1)
    squares = layer.fn(jnp.asarray(nodes * 1.1**0.5, dtype)) ** 2
    want = float(squares.astype(jnp.float64) @ weights) / np.sqrt(2 * np.pi)
    q = jnp.asarray(1.1, dtype)
    assert_close(layer.dual(q, q, q)[0].astype(jnp.float64), want, rtol=50 * tolerance)


@pytest.mark.parametrize("rate", [1e-3, 1.0, 1e10])
def test_the_gaussian_is_right_up_to_its_limit_in_float32(rate):
    """E[φ²] = (1 + 4bq)^(−1/2). The square of 1/(1 + 2bq) leaves the range of float32 long before the limit."""
    record = ntk.Gaussian(rate).activation
    q = jnp.asarray([1e-3, 1.0, 1e19 / rate, 0.99 * min(record.limit(jnp.float32), 3e38)], jnp.float32)
    assert q[-1] > 1e19 / rate
    want = 1 / np.sqrt(1 + 4 * rate * np.asarray(q, np.float64))
    assert_close(record.moment(q).astype(jnp.float64), want, rtol=1e-6)
    for a in record.near(jnp.zeros_like(q), q, q):
        assert jnp.isfinite(a).all()


def test_the_slopes_of_erf_do_not_underflow_in_float32():
    q = jnp.asarray([1.0, 1e10, 1e20, 1e30], jnp.float32)
    want = duals.erf(*(a.astype(jnp.float64) for a in (q / 2, q, q)))[1]
    assert_close(duals.erf(q / 2, q, q)[1].astype(jnp.float64), want, rtol=1e-6)


@pytest.mark.parametrize("large", [1e12, 1e30, np.inf, np.nan])
def test_a_variance_beyond_the_limit_leaves_the_others_alone(large):
    """It is NaN itself, and the nodes of the other entries are chosen without it."""
    q1 = jnp.asarray([1.0, large, 1e4], jnp.float32)
    got = np.asarray(expectation(jnp.tanh, jnp.tanh, jnp.float32(0.5), q1, jnp.float32(1.0)))
    assert np.isnan(got[1])
    alone = np.asarray(expectation(jnp.tanh, jnp.tanh, jnp.float32(0.5), q1[::2], jnp.float32(1.0)))
    assert_close(got[::2], alone, rtol=1e-6)
    delta = jnp.full(3, 0.3, jnp.float32)
    for part, want in zip(near(jnp.tanh, delta, q1, q1), near(jnp.tanh, delta[::2], q1[::2], q1[::2]), strict=True):
        assert_close(np.asarray(part)[::2], want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_quadrature_of_variances_in_sixteen_bits_is_in_float32(dtype):
    got = duals.expectation(jnp.tanh, jnp.tanh, *(jnp.asarray(v, dtype) for v in (0.5, 1.0, 1.0)))
    assert got.dtype == jnp.float32
    assert_close(got, duals.expectation(jnp.tanh, jnp.tanh, *jnp.asarray([0.5, 1.0, 1.0], jnp.float32)), rtol=1e-6)
