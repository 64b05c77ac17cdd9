"""Gaussian expectations of any scalar function, by quadrature: slow, and the reference for all fast methods.

Let u and v be Gaussian with mean zero, variances q1 and q2, covariance q12 and correlation ρ. The dual of φ is the
pair::

    E[φ(u) φ(v)],  E[φ'(u) φ'(v)].

An infinitely wide layer needs these two numbers (Cho & Saul 2009; Daniely et al. 2016). If φ does not jump, the second
is the derivative of the first with respect to q12 (Price's theorem).

In polar coordinates r and α, u = √q1 r cos(α + θ/2) and v = √q2 r cos(α − θ/2), with cos θ = |ρ|. If ρ is negative, v
has the opposite sign. The lines u = 0 and v = 0 divide the plane into four sectors. In each sector the integral is a
sum over Gauss–Legendre nodes in r and in α, so a kink or a jump of φ at zero lies between sectors and does no harm.
Near these lines φ may change within a distance of 1/√q in r or α. The nodes are therefore denser there, and the more so
the larger the variance: sinh maps the nodes in r, and tanh the nodes in α.
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

from ntklib import _checks
from ntklib.duals.correlation import from_covariance, inverse, signed, size, sqrt

ScalarFunction = Callable[[Array], Array]
#: A function (q12, q1, q2) -> (E[φ(u)φ(v)], E[φ'(u)φ'(v)]).
Dual = Callable[[ArrayLike, ArrayLike, ArrayLike], tuple[Array, Array]]

#: The largest variance for which quadrature is as accurate as `expectation` says, in float32 and in float64.
LIMITS = (1e4, 1e4)
#: Variances up to this one need fewer nodes.
MODERATE = 12.0
#: The numbers of radii and of angles in each sector: for variances up to `MODERATE`, and for larger ones.
NODES = {"float32": ((32, 20), (64, 48)), "float64": ((48, 32), (128, 96))}
_RADIUS = 9.0  # larger radii have the probability exp(−40)
#: The arguments of `line`: the smallest node, and the step.
_LINE = {"float32": (1e-9, 0.22), "float64": (1e-15, 0.12)}


def float_arrays(*values: ArrayLike) -> tuple[Array, ...]:
    """Return the values as arrays of their common floating-point type, at least float32.

    Integers get JAX's default type. Refuse complex numbers.
    """
    dtype = jnp.result_type(*values)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"Variances and covariances must be real; got {dtype.name}. Take the real part.")
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
    dtype = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
    return tuple(jnp.asarray(v, dtype) for v in values)


def quadrature(
    f: ScalarFunction, q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, nodes: tuple[int, int] | None = None
) -> tuple[Array, Array]:
    """Return the dual of f by quadrature: E[f(u) f(v)] and E[f'(u) f'(v)].

    `expectation` describes the arguments, the errors that are raised, and the accuracy. f' is the derivative where it
    exists: it leaves out the delta function at a jump of f.

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

    Value and derivatives stay accurate if f and g have a kink or a jump at zero. The derivatives are computed as::

        ∂/∂q12 = E[f'(u) g'(v)],   ∂/∂q1 = (E[u f'(u) g(v)] − q12 E[f'(u) g'(v)])/(2 q1).

    If f jumps at zero, f' contains the delta function of the jump. If both jump, ∂/∂q12 is infinite at ρ = ±1, and this
    infinite term is set to 0. At q1 = 0, ∂/∂q1 is set to 0.

    Args:
        f: A JAX function that works elementwise.
        g: A JAX function that works elementwise.
        q12: The covariance of u and v.
        q1: The variance of u.
        q2: The variance of v. The three arrays broadcast.
        nodes: A pair: the number of radii and the number of angles in each sector. By default they are chosen by the
            largest variance and the floating-point type.

    Returns:
        The expectations, of the broadcast shape; NaN where a variance is larger than 1e4.

    Raises:
        TypeError: If `f` or `g` is not a function, if a variance or covariance is not real, or if an entry of `nodes`
            is not whole.
        ValueError: If the three arrays do not broadcast, or if `nodes` is not a tuple of two positive numbers.

    Note:
        For leaky ReLUs, sign, erf, GELU, tanh, SiLU, ELU, the sigmoid, and for the slopes of all these, the error
        relative to √(E[f(u)²] E[g(v)²]) is below 1e-11 in float64 (2e-11 for the slope of erf) and 1e-6 in float32.
        Near ρ = ±1 the rounding error of q12 adds to this error. Functions that oscillate, have a narrow peak or grow
        fast can have larger errors. Memory: about 13 arrays of the shape of the result, whatever the nodes.
    """
    for argument, function in (("f", f), ("g", g)):
        if not callable(function):
            raise TypeError(f"`{argument}` must be a function, such as jnp.tanh; got {_checks.shown(function)}.")
    if nodes is not None:
        if not isinstance(nodes, tuple) or len(nodes) != 2:
            raise ValueError(f"`nodes` must be a tuple of two whole numbers, such as (80, 60); got {nodes!r}.")
        for count in nodes:
            _checks.count("nodes", count)
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
    slope = _expectation(df, dg, nodes, q12, q1, q2) + _of_jumps(f, g, q12, q1, q2)
    out = slope * d12
    for first, second, q, dq in ((_times_x(df), g, q1, d1), (f, _times_x(dg), q2, d2)):
        by_variance = _expectation(first, second, nodes, q12, q1, q2) - q12 * slope
        out = out + jnp.where(q > 0, by_variance / jnp.where(q > 0, 2 * q, 1.0), 0.0) * dq
    return _expectation(f, g, nodes, q12, q1, q2), out


def _of_jumps(f: ScalarFunction, g: ScalarFunction, q12: Array, q1: Array, q2: Array) -> Array:
    """Return the part of E[f'(u) g'(v)] that comes from jumps J of f and I of g at zero::

        J E[δ(u) g'(v)] + I E[f'(u) δ(v)] + J I E[δ(u) δ(v)],

    where f' and g' leave out the delta functions of the jumps. E[δ(u) h(v)] is the density of u at 0 times the mean of
    h(v) given u = 0. Given u = 0, v has the variance q2 (1 − ρ²). E[δ(u) δ(v)], the density of (u, v) at (0, 0), is
    infinite at ρ = ±1, and set to 0 there.
    """
    d = size(from_covariance(q12, q1, q2))
    rest = d * (2 - d)  # 1 − ρ²
    density1, density2 = (inverse(sqrt(2 * np.pi * q)) for q in (q1, q2))
    jumps, total = (jump(f), jump(g)), jnp.zeros_like(q12)
    for here, other, density, q in ((jumps[0], g, density1, q2), (jumps[1], f, density2, q1)):
        if isinstance(here, Array) or here:
            total = total + here * density * _line_mean(derivative(other), q * rest)
    if all(isinstance(here, Array) or here for here in jumps):
        total = total + jumps[0] * jumps[1] * density1 * density2 * inverse(sqrt(rest))
    return total


@functools.partial(jax.jit, static_argnums=0)
def near(f: ScalarFunction, delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    """Return (E[f'(u) f'(v)], δ of f(u) and f(v)) from the δ of u and v. `ntklib.duals.correlation` defines δ.

    With k_1 = E[f(u)²] and k_2 = E[f(v)²], the correlation ρ' of f(u) and f(v) satisfies::

        1 ∓ ρ' = ½ E[(f(u)/√k_1 ∓ f(v)/√k_2)²].

    A mean of squares does not cancel. Let ε be the spacing of numbers next to 1. The rounding errors of f(u)/√k_1 and
    f(v)/√k_2, about ε, change a small 1 ∓ ρ' by about ε √(1 ∓ ρ'). The nodes and the largest variance are those of
    `expectation`.
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
    """Return the expectation of each number of the tuple `terms(u, v)`."""
    dtype = delta.dtype
    # If ρ is negative, θ is the angle between u and −v. Near ρ = −1 this angle is small and keeps its digits.
    sign = jnp.where(delta < 0, -1.0, 1.0).astype(dtype)
    theta = 2 * jnp.arcsin(jnp.minimum(sqrt(size(delta) / 2), 1.0))
    s1, s2 = sqrt(q1), sign * sqrt(q2)
    known = (q1 <= LIMITS[0]) & (q2 <= LIMITS[0])
    # The nodes are those for the largest variance. A variance that has no result must not spoil the others.
    largest = jnp.max(jnp.where(known, jnp.maximum(q1, q2), 0.0), initial=0.0)
    (radii, radial), (places, shares) = _rules(largest, nodes, dtype)
    pi = jnp.asarray(np.pi, dtype)
    # Two sectors (start, width) in α. For ρ ≥ 0, u and v are positive in the first, and u < 0 < v in the second. For
    # ρ < 0, v has the opposite sign. In the other two sectors are the points (−u, −v).
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
    return tuple(jnp.where(known, t, jnp.nan) for t in totals)


def _rules(largest: Array, nodes: tuple[int, int] | None, dtype: Any) -> tuple[tuple[Array, Array], ...]:
    """Return radii with weights, and places within a sector with weights.

    The shorter rules are padded with zeros, so that one compiled program serves all variances.
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
    """Map two Gauss–Legendre rules (nodes, weights) to (radii, weights) and to (places, weights) within a sector.

    A place is the position of an angle in its sector, from 0 to 1. The weights of the radii contain the Gaussian
    density. The larger the largest variance, the denser are the radii near 0, and the places near 0 and 1. `xp` is
    NumPy or jax.numpy.
    """
    # The radii near 0 are about e^width/2 times denser than the largest ones.
    width = xp.log(2 * xp.sqrt(xp.maximum(largest, 1.0))) + 1
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
    """Return nodes z > 0 and weights for the expectation E[f(z)] of an even f, with z ~ N(0, 1).

    The nodes z = log(1 + e^x) are those of the trapezoid rule in x with the given step. The smallest is `low`. Small
    nodes are evenly spaced in log z, and large ones in z.
    """
    count = int((12.0 - np.log(low)) / step)
    x = np.log(low) + step * np.arange(count)  # np.arange(start, stop, step) would round the step
    z = np.log1p(np.exp(x))
    return z, step / (1 + np.exp(-x)) * np.exp(-(z**2) / 2) * np.sqrt(2 / np.pi)


def _line(dtype: Any) -> tuple[Array, Array]:
    return tuple(jnp.asarray(a, dtype) for a in line(*_LINE[dtype.name]))  # type: ignore


@functools.partial(jax.jit, static_argnums=0)
def moment(f: ScalarFunction, q: Array) -> Array:
    """Return E[f(u)²] for the variance q of u, by quadrature.

    For the functions in the note of `expectation` and q up to 1e4 the relative error is below 1e-12 in float64 and 1e-6
    in float32.
    """
    z, weights = _line(q.dtype)
    roots = jnp.sqrt(weights / 2)

    def larger(i: Array, largest: Array) -> Array:
        x = sqrt(q) * z[i]
        return jnp.maximum(largest, roots[i] * jnp.maximum(jnp.abs(f(x)), jnp.abs(f(-x))))

    # Each term is divided by a power of two next to the largest one. Then no square overflows, and only terms too small
    # to matter underflow.
    largest = jax.lax.stop_gradient(jax.lax.fori_loop(0, len(z), larger, jnp.zeros_like(q)))
    unit = jnp.ldexp(jnp.ones_like(q), jnp.frexp(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0))[1])

    def add(i: Array, total: Array) -> Array:
        x = sqrt(q) * z[i]
        return total + jnp.square(roots[i] * f(x) / unit) + jnp.square(roots[i] * f(-x) / unit)

    return jax.lax.fori_loop(0, len(z), add, jnp.zeros_like(q)) * unit * unit


@functools.partial(jax.jit, static_argnums=0)
def _line_mean(f: ScalarFunction, q: Array) -> Array:
    """Return E[f(u)] for the variance q of u, by quadrature."""
    z, weights = _line(q.dtype)
    # At u = 0 the slope that JAX gives is one of many between the slopes on either side. Any q > 0 gives their mean.
    root = jnp.sqrt(jnp.maximum(q, jnp.finfo(q.dtype).tiny))

    def add(i: Array, total: Array) -> Array:
        return total + weights[i] / 2 * (f(root * z[i]) + f(-root * z[i]))

    return jax.lax.fori_loop(0, len(z), add, jnp.zeros_like(q))


@functools.partial(jax.jit, static_argnums=0)
def collinear(f: ScalarFunction, q1: Array, q2: Array) -> Array:
    """Return 1 − ρ' for ρ = 1, where ρ' is the correlation of f(√q1 z) and f(√q2 z) with z ~ N(0, 1).

    With k_i = E[f(√q_i z)²] the result is ½ E[(f(√q1 z)/√k_1 − f(√q2 z)/√k_2)²]. It is zero for equal variances and for
    homogeneous f.
    """
    z, weights = _line(q1.dtype)
    (s1, r1), (s2, r2) = ((sqrt(q), inverse(sqrt(moment(f, q)))) for q in (q1, q2))

    def add(i: Array, total: Array) -> Array:
        apart = [r1 * f(sign * z[i] * s1) - r2 * f(sign * z[i] * s2) for sign in (1.0, -1.0)]
        return total + weights[i] / 4 * (jnp.square(apart[0]) + jnp.square(apart[1]))

    return jax.lax.fori_loop(0, len(z), add, jnp.zeros_like(q1 + q2))


# ----------------------------------------------------------------------------------------------------------- reach


def sampler(fn: Callable) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that applies `fn` to NumPy arrays in float64, whatever JAX's settings. It compiles once."""
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
    """Return the largest variances, in float32 and float64, up to which quadrature is accurate for f.

    For the variances 1e-6, 1e-5, ..., 1e4 in turn, E[f²] and E[f'²] are computed by the rule in the plane and by the
    rule on a line. The result is the last variance before the rules disagree: relatively by more than 1e-6 with the
    nodes of float32, and by more than 1e-10 with the nodes of float64. It is 0 if they disagree already at the variance
    1e-6, and `LIMITS` if f contains traced values. The rules are inaccurate for functions that oscillate, grow fast, or
    have kinks or jumps away from zero.
    """
    scales = [0.0, *10.0 ** np.arange(-6, round(math.log10(LIMITS[0])) + 1)]
    sampled = sampler(f), sampler(derivative(f))
    found = []
    for name, tolerance in (("float32", 1e-6), ("float64", 1e-10)):
        try:
            agree = [all(_difference(g, q, name) <= tolerance for g in sampled) for q in scales[1:]]
        except jax.errors.TracerArrayConversionError:  # f contains traced values, so it cannot be evaluated
            return LIMITS
        found.append(float(scales[[*agree, False].index(False)]))
    return found[0], found[1]


def _difference(f: Callable[[np.ndarray], np.ndarray], q: float, name: str) -> float:
    """Return the relative difference of E[f(u)²] between the rule in the plane and the rule on a line."""
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
    """Return f', a function that works elementwise. For the same f it is the same object, so that it compiles once."""

    def df(x: Array) -> Array:
        return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    return df


@functools.lru_cache(maxsize=256)
def _known_jump(f: ScalarFunction) -> float:
    with jax.ensure_compile_time_eval():
        near, far = (float(f(x) - f(-x)) for x in (jnp.asarray(1e-30), jnp.asarray(1e-20)))
    return near if abs(near - far) <= 1e-6 * abs(near) else 0.0


def jump(f: ScalarFunction) -> float | Array:
    """Return f(0+) − f(0−), or 0 if f does not have these two limits.

    If f contains traced values, the result is the array f(1e-30) − f(−1e-30), and the limits are not tested.
    """
    try:
        return _known_jump(f)
    except jax.errors.ConcretizationTypeError:
        x = jnp.asarray(1e-30)
        return f(x) - f(-x)


@functools.cache
def _times_x(f: ScalarFunction) -> ScalarFunction:
    return lambda x: x * f(x)
