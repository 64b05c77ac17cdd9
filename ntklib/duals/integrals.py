"""Gaussian expectations of any scalar function, by quadrature. They are slow, and the reference for all fast methods.

For (u, v) centered Gaussian with variances q1, q2 and covariance q12, the dual of φ is the pair::

    E[φ(u) φ(v)],  E[φ'(u) φ'(v)].

These are the two numbers that an infinitely wide layer needs (Cho & Saul 2009; Daniely et al. 2016). The second is the
derivative of the first with respect to q12 (Price's theorem).

In polar coordinates u = √q1 r cos(α − θ/2) and v = √q2 r cos(α + θ/2), with cos θ = ρ. The lines u = 0 and v = 0 are
rays. Gauss–Legendre rules in r and in each of the sectors between the rays never meet a kink or a jump of φ at zero.
Near zero φ may change on the scale 1/√q. The nodes are therefore denser there, by mapping the rules with sinh (radii)
and tanh (angles), and the more so the larger the variance.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib.duals.correlation import from_covariance, inverse, signed, size, sqrt

ScalarFunction = Callable[[Array], Array]
#: A function (q12, q1, q2) -> (E[φ(u)φ(v)], E[φ'(u)φ'(v)]).
Dual = Callable[[ArrayLike, ArrayLike, ArrayLike], tuple[Array, Array]]

#: The largest variance for which the rules below have the stated accuracy, in float32 and in float64.
LIMITS = (1e4, 1e4)
#: (radii, angles in each sector) for variances up to `MODERATE`, and for larger ones.
MODERATE = 12.0
NODES = {"float32": ((32, 20), (64, 48)), "float64": ((48, 32), (128, 96))}
_RADIUS = 9.0  # the weight of larger radii is exp(−40)
#: The lower end of the rule on a line, and the distance of its nodes.
_LINE = {"float32": (1e-9, 0.22), "float64": (1e-15, 0.12)}


def float_arrays(*values: ArrayLike) -> tuple[Array, ...]:
    """Return the values as arrays of one floating-point type."""
    dtype = jnp.result_type(*values)
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
    return tuple(jnp.asarray(v, dtype) for v in values)


def quadrature(
    f: ScalarFunction, q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, nodes: tuple[int, int] | None = None
) -> tuple[Array, Array]:
    """Return the dual of any scalar function by quadrature, (E[f f], E[f' f']). For accuracy see `expectation`.

    Example:
        >>> [round(float(e), 4) for e in quadrature(jnp.tanh, 0.5, 1.0, 1.0)]
        [0.1863, 0.3847]
    """
    values = expectation(f, f, q12, q1, q2, nodes=nodes)
    return values, expectation(derivative(f), derivative(f), q12, q1, q2, nodes=nodes)


def expectation(
    f: ScalarFunction,
    g: ScalarFunction,
    q12: ArrayLike,
    q1: ArrayLike,
    q2: ArrayLike,
    *,
    nodes: tuple[int, int] | None = None,
) -> Array:
    """Return the expectation E[f(u) g(v)] by quadrature, for f and g that are smooth on either side of zero.

    A kink or a jump at zero does no harm. Derivatives use only f' and g', also at kinks:
    ∂/∂q12 = E[f'(u) g'(v)], and ∂/∂q1 = (E[u f'(u) g(v)] − q12 E[f'(u) g'(v)])/(2 q1), which is set to 0 at q1 = 0.

    Args:
        f: A scalar function.
        g: A scalar function.
        q12: The covariance of u and v.
        q1: The variance of u.
        q2: The variance of v. The three arrays broadcast.
        nodes: The numbers of nodes (radial, angular). By default they are chosen by the largest variance.

    Returns:
        The expectations, of the broadcast shape.

    Note:
        For the library's activations and their slopes, and for variances up to 1e4, the error relative to
        √(E[f(u)²] E[g(v)²]) is below 1e-11 in float64 and 1e-6 in float32. Beyond, the result is NaN. Memory: about
        eight times that of the result, whatever the nodes.
    """
    arrays = jnp.broadcast_arrays(*float_arrays(q12, q1, q2))
    return _expectation(f, g, nodes, *arrays)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _expectation(
    f: ScalarFunction, g: ScalarFunction, nodes: tuple[int, int] | None, q12: Array, q1: Array, q2: Array
) -> Array:
    def product(u: Array, v: Array) -> tuple[Array]:
        return (f(u) * g(v),)

    return _over_plane(product, from_covariance(q12, q1, q2), q1, q2, nodes)[0]


@_expectation.defjvp
def _expectation_jvp(
    f: ScalarFunction, g: ScalarFunction, nodes: tuple[int, int] | None, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    q12, q1, q2 = primals
    d12, d1, d2 = tangents
    df, dg = derivative(f), derivative(g)
    slope = _expectation(df, dg, nodes, q12, q1, q2)
    out = slope * d12
    for first, second, q, dq in ((_times_x(df), g, q1, d1), (f, _times_x(dg), q2, d2)):
        by_variance = _expectation(first, second, nodes, q12, q1, q2) - q12 * slope
        out = out + jnp.where(q > 0, by_variance / jnp.where(q > 0, 2 * q, 1.0), 0.0) * dq
    return _expectation(f, g, nodes, q12, q1, q2), out


@functools.partial(jax.jit, static_argnums=0)
def near(f: ScalarFunction, delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    """Return (E[f'(u) f'(v)], δ of f(u) and f(v)) from the δ of u and v (see `ntklib.duals.correlation`).

    With k = E[f²]::

        1 ∓ ρ' = ½ E[(f(u)/√k_1 ∓ f(v)/√k_2)²].

    It is a mean of squares, so that a small 1 ∓ ρ' keeps all digits. Accuracy and range are those of `expectation`.
    """
    delta, q1, q2 = jnp.broadcast_arrays(delta, q1, q2)
    r1, r2 = (inverse(sqrt(moment(f, q))) for q in (q1, q2))

    def terms(u: Array, v: Array) -> tuple[Array, Array, Array]:
        (a, da), (b, db) = (jax.jvp(f, (x,), (jnp.ones_like(x),)) for x in (u, v))
        return da * db, jnp.square(a * r1 - b * r2) / 2, jnp.square(a * r1 + b * r2) / 2

    slopes, minus, plus = _over_plane(terms, delta, q1, q2, None)
    none = ((r1 == 0) | (r2 == 0)).astype(delta.dtype)  # a unit of variance zero has no correlation
    return slopes, signed(jnp.maximum(minus, none), jnp.maximum(plus, none))


def _over_plane(
    terms: Callable[[Array, Array], tuple[Array, ...]],
    delta: Array,
    q1: Array,
    q2: Array,
    nodes: tuple[int, int] | None,
) -> tuple[Array, ...]:
    """Return the expectations of several functions of u and v."""
    dtype = delta.dtype
    # If ρ is negative, take the angle between u and −v, which is small near ρ = −1 and keeps its digits.
    sign = jnp.where(delta < 0, -1.0, 1.0).astype(dtype)
    theta = 2 * jnp.arcsin(jnp.minimum(sqrt(size(delta) / 2), 1.0))
    s1, s2 = sqrt(q1), sign * sqrt(q2)
    largest = jnp.maximum(jnp.max(q1, initial=0.0), jnp.max(q2, initial=0.0))
    (radii, radial), (places, shares) = _rules(largest, nodes, dtype)
    pi = jnp.asarray(np.pi, dtype)
    # Sectors, by the angle α: u > 0 < v around α = 0; v > 0 > u around α = π/2; their mirror images are (−u, −v).
    sectors = [(-(pi - theta) / 2, pi - theta), ((pi - theta) / 2, theta)]
    zero = jnp.zeros_like(delta)
    count = len(jax.eval_shape(terms, zero, zero))

    def at_angle(j: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
        for start, width in sectors:
            alpha = start + places[j] * width
            u, v = s1 * jnp.cos(alpha + theta / 2), s2 * jnp.cos(alpha - theta / 2)

            def along(i: Array, ray: tuple[Array, ...], u: Array = u, v: Array = v) -> tuple[Array, ...]:
                here, mirrored = terms(radii[i] * u, radii[i] * v), terms(-radii[i] * u, -radii[i] * v)
                return tuple(r + radial[i] * (a + b) for r, a, b in zip(ray, here, mirrored, strict=True))

            ray = jax.lax.fori_loop(0, len_of(radial), along, (zero,) * count)
            totals = tuple(t + shares[j] * width * r for t, r in zip(totals, ray, strict=True))
        return totals

    def len_of(weights: Array) -> Array:
        return jnp.count_nonzero(weights).astype(jnp.int32)

    totals = jax.lax.fori_loop(0, len_of(shares), at_angle, (zero,) * count)
    known = (q1 <= LIMITS[0]) & (q2 <= LIMITS[0])
    return tuple(jnp.where(known, t, jnp.nan) for t in totals)


def _rules(largest: Array, nodes: tuple[int, int] | None, dtype: Any) -> tuple[tuple[Array, Array], ...]:
    """Return radii with weights, and places within a sector with weights.

    They are padded with zeros, so that one program serves all variances.
    """
    few, many = (nodes, nodes) if nodes else NODES[dtype.name]
    moderate = largest <= MODERATE

    def legendre(i: int) -> tuple[Array, Array]:
        rules = [np.polynomial.legendre.leggauss(n[i]) for n in (few, many)]
        size = max(len(x) for x, _ in rules)
        x, w = (np.stack([np.pad(rule[part], (0, size - len(rule[part]))) for rule in rules]) for part in (0, 1))
        return tuple(jnp.where(moderate, *jnp.asarray(a, dtype)) for a in (x, w))  # type: ignore

    return crowded(legendre(0), legendre(1), largest.astype(dtype), jnp)


def crowded(radii: tuple[Any, Any], angles: tuple[Any, Any], largest: Any, xp: Any) -> tuple[tuple[Any, Any], ...]:
    """Map Gauss–Legendre rules (nodes, weights) to radii and to places within a sector.

    The nodes become denser near the ends, and the more so the larger the largest variance. `xp` is NumPy or jax.numpy.
    """
    width = xp.log(2 * xp.sqrt(xp.maximum(largest, 1.0))) + 1  # the nodes near the ends are e^width times denser
    x, w = radii
    stretch = _RADIUS / xp.sinh(width)
    r = stretch * xp.sinh(width * (x + 1) / 2)
    density = r * xp.exp(-xp.square(r) / 2) / (2 * np.pi)
    radial = w / 2 * stretch * width * xp.cosh(width * (x + 1) / 2) * density
    x, w = angles
    c = xp.where(largest <= MODERATE, 0.6, 1.0) * xp.maximum(1.0, (width + math.log(5.0) / 2) / 2)
    places = (1 + xp.tanh(c * x) / xp.tanh(c)) / 2
    return (r, radial), (places, w * c / (2 * xp.square(xp.cosh(c * x)) * xp.tanh(c)))


# ------------------------------------------------------------------------------------------------------- on a line


def line(low: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes z > 0 and weights of E[f(z)] for even f; `low` is the smallest z.

    It is a trapezoid rule in x with z = log(1 + e^x). The nodes are dense near zero on every scale, and evenly spaced
    where z is large.
    """
    count = int((12.0 - np.log(low)) / step)
    x = np.log(low) + step * np.arange(count)  # np.arange of these three numbers rounds the step
    z = np.log1p(np.exp(x))
    return z, step / (1 + np.exp(-x)) * np.exp(-(z**2) / 2) * np.sqrt(2 / np.pi)


def _line(dtype: Any) -> tuple[Array, Array]:
    return tuple(jnp.asarray(a, dtype) for a in line(*_LINE[dtype.name]))  # type: ignore


@functools.partial(jax.jit, static_argnums=0)
def moment(f: ScalarFunction, q: Array) -> Array:
    """Return E[f(u)²] for the variance q of u by quadrature, with a relative error below 1e-12 (float32: 1e-7)."""
    z, weights = _line(q.dtype)
    roots = jnp.sqrt(weights / 2)

    def larger(i: Array, largest: Array) -> Array:
        x = sqrt(q) * z[i]
        return jnp.maximum(largest, roots[i] * jnp.maximum(jnp.abs(f(x)), jnp.abs(f(-x))))

    # In units of the power of two next to the largest term, no square that counts is too small or too large a number.
    largest = jax.lax.stop_gradient(jax.lax.fori_loop(0, len(z), larger, jnp.zeros_like(q)))
    unit = jnp.ldexp(jnp.ones_like(q), jnp.frexp(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0))[1])

    def add(i: Array, total: Array) -> Array:
        x = sqrt(q) * z[i]
        return total + jnp.square(roots[i] * f(x) / unit) + jnp.square(roots[i] * f(-x) / unit)

    return jax.lax.fori_loop(0, len(z), add, jnp.zeros_like(q)) * unit * unit


@functools.partial(jax.jit, static_argnums=0)
def collinear(f: ScalarFunction, q1: Array, q2: Array) -> Array:
    """Return 1 − ρ' of f(√q1 z) and f(√q2 z), where ρ = 1.

    It is ½ E[(f(√q1 z)/√k_1 − f(√q2 z)/√k_2)²] with k = E[f²], and zero for equal variances and for homogeneous f.
    """
    z, weights = _line(q1.dtype)
    (s1, r1), (s2, r2) = ((sqrt(q), inverse(sqrt(moment(f, q)))) for q in (q1, q2))

    def add(i: Array, total: Array) -> Array:
        apart = [r1 * f(sign * z[i] * s1) - r2 * f(sign * z[i] * s2) for sign in (1.0, -1.0)]
        return total + weights[i] / 4 * (jnp.square(apart[0]) + jnp.square(apart[1]))

    return jax.lax.fori_loop(0, len(z), add, jnp.zeros_like(q1 + q2))


# ----------------------------------------------------------------------------------------------------------- reach


def sampler(fn: Callable) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of NumPy arrays that computes in double precision, whatever the settings, and compiles once."""
    size = 2**16
    compiled = jax.jit(fn)

    def sample(x: np.ndarray) -> np.ndarray:
        flat = np.ravel(x)
        out = np.empty(-(-flat.size // size) * size)
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            for i in range(0, flat.size, size):
                part = flat[i : i + size]
                out[i : i + size] = compiled(part if part.size == size else np.pad(part, (0, size - part.size)))
        return out[: flat.size].reshape(x.shape)

    return sample


@functools.lru_cache(maxsize=256)
def reach(f: ScalarFunction) -> tuple[float, float]:
    """Return the largest variances, in float32 and float64, for which the quadrature rules can be trusted for f.

    Up to these variances E[f²] and E[f'²] by the rule in the plane and by the rule on a line agree, to 1e-6 with the
    nodes of float32 and to 1e-10 with those of float64. They are at most `LIMITS`, and 0 if the rules never agree. The
    rules are not accurate for kinks and jumps away from zero, and for functions that oscillate many times.
    """
    scales = [0.0, *10.0 ** np.arange(-6, round(math.log10(LIMITS[0])) + 1)]
    sampled = sampler(f), sampler(derivative(f))
    found = []
    for name, tolerance in (("float32", 1e-6), ("float64", 1e-10)):
        try:
            agree = [all(_difference(g, q, name) <= tolerance for g in sampled) for q in scales[1:]]
        except jax.errors.TracerArrayConversionError:  # f contains traced values, which are not known
            return LIMITS
        found.append(float(scales[[*agree, False].index(False)]))
    return found[0], found[1]


def _difference(f: Callable[[np.ndarray], np.ndarray], q: float, name: str) -> float:
    """Return the relative difference of E[f(u)²] by the two rules."""
    radial, angular = NODES[name][0 if q <= MODERATE else 1]
    rules = [np.polynomial.legendre.leggauss(n) for n in (radial, angular)]
    (r, wr), (places, shares) = crowded(rules[0], rules[1], q, np)
    u = np.sqrt(q) * r[:, None] * np.cos(np.pi * (places - 0.5))
    z, weights = line(*_LINE[name])
    with np.errstate(over="ignore", invalid="ignore"):  # a function that overflows fails the test
        plane, on_line = (
            np.sum(w * (np.square(f(x)) + np.square(f(-x))))
            for x, w in ((u, wr[:, None] * shares * np.pi), (np.sqrt(q) * z, weights / 2))
        )
        return float(abs(plane - on_line) / max(abs(plane), abs(on_line), 1e-300))


# ------------------------------------------------------------------------------------------------------ functions


@functools.cache
def derivative(f: ScalarFunction) -> ScalarFunction:
    """Return the derivative f' of a scalar function, elementwise on arrays. It is cached, so that it compiles once."""

    def df(x: Array) -> Array:
        return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    return df


@functools.cache
def _times_x(f: ScalarFunction) -> ScalarFunction:
    return lambda x: x * f(x)
