"""Piecewise linear functions and powers: leaky ReLU and its relatives, identity, step and sign, rectified monomials.

All are homogeneous, φ(ax) = a^p φ(x) for a > 0. Correlations after them therefore do not depend on variances.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib.duals import arccos
from ntklib.duals.activation import Activation, Near, Parts
from ntklib.duals.correlation import size, sqrt
from ntklib.duals.integrals import float_arrays


def sine_and_angle(q12: Array, q1: Array, q2: Array) -> tuple[Array, Array, Array]:
    """Return ρ, sin θ and θ = arccos ρ in [0, π].

    No product of variances is formed, since it could leave the range of numbers. sin² is a difference with a rounding
    error of a few ε; values below that are set to 0. Otherwise equal inputs, whose q12 differs from their variances in
    the last bit, would get θ ≈ √ε (3e-4 in float32) instead of 0. The derivative of θ is infinite at ρ = ±1, and is
    replaced by 0 there. If a variance is zero, θ is π/2.
    """
    s1, s2 = (jnp.where(q > 0, sqrt(q), 1.0) for q in (q1, q2))
    rho = jnp.where((q1 > 0) & (q2 > 0), q12 / s1 / s2, 0.0)
    squared = (1 - rho) * (1 + rho)
    sin = sqrt(jnp.where(squared > 4 * jnp.finfo(rho.dtype).eps, squared, 0.0))
    inside = sin > 0
    edge = jnp.where(rho > 0, 0.0, jnp.where(rho < 0, jnp.pi, jnp.pi / 2)).astype(rho.dtype)
    theta = jnp.where(inside, jnp.arctan2(jnp.where(inside, sin, 1.0), jnp.where(inside, rho, 0.0)), edge)
    return rho, sin, theta


# ------------------------------------------------------------------------------------------------ piecewise linear


def leaky_relu(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, slope: float = 0.0) -> tuple[Array, Array]:
    """Return the dual of φ(x) = x for x ≥ 0 and a · x for x < 0, with a = `slope`.

    The slope 0 is ReLU, −1 the absolute value, and 1 the identity. With θ = arccos(q12/√(q1 q2)) the dual of ReLU is
    √(q1 q2) (sin θ + (π − θ) cos θ)/2π and (π − θ)/2π. Since φ(x) = relu(x) − a · relu(−x), the first number of the
    dual of φ is (1 + a²) r(q12) − 2a r(−q12), with r(q12) the first number of the dual of ReLU. The second is the same
    of the second number of ReLU, with + 2a. The second number has a square-root cusp at ρ = ±1. It is exact there, and
    has errors of √ε for pairs as near as 1 − ρ = ε.

    Example:
        >>> [round(float(e), 4) for e in leaky_relu(0.5, 1.0, 1.0)]
        [0.3045, 0.3333]
    """
    q12, q1, q2 = float_arrays(q12, q1, q2)
    rho, sin, theta = sine_and_angle(q12, q1, q2)
    a, pi = slope, jnp.pi
    values = (1 - a) ** 2 / (2 * pi) * (sqrt(q1) * sqrt(q2) * (sin - theta * rho)) + (1 + a**2) / 2 * q12
    slopes = (1 + a**2) / 2 - (1 - a) ** 2 / (2 * pi) * theta
    return values, slopes


def relu(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> tuple[Array, Array]:
    """Return the dual of max(x, 0): half of the arc-cosine kernels of order 1 and 0 (Cho & Saul 2009).

    Example:
        >>> [round(float(e), 4) for e in relu(1.0, 1.0, 1.0)]
        [0.5, 0.5]
    """
    return leaky_relu(q12, q1, q2, slope=0.0)


def abs(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> tuple[Array, Array]:
    """Return the dual of the absolute value, which is leaky ReLU with the slope −1."""
    return leaky_relu(q12, q1, q2, slope=-1.0)


def identity(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> tuple[Array, Array]:
    """Return the dual of φ(x) = x: the covariance itself, and 1."""
    q12, q1, q2 = float_arrays(q12, q1, q2)
    q12 = q12 + jnp.zeros_like(q1 + q2)  # the shape that the others return
    return q12, jnp.ones_like(q12)


@functools.cache
def _leaky_near(slope: float, acute: bool = False) -> Near:
    """Return the near form of leaky ReLU.

    With a the slope, α = (1 + a)/2 and γ = (1 − a)/2, φ(x) = αx + γ abs(x). With the acute angle θ and d = 1 − cos θ,
    the expectations of the two parts in units of √(q1 q2) are::

        odd part   α² cos θ,  slope α²;      even part   γ² (cos θ + (2/π)(sin θ − θ cos θ)),  slope γ² (1 − 2θ/π).

    `Parts` needs them divided by κ = α² + γ². `acute` says that δ ≥ 0: then the two parts just add.
    """
    odd, even = ((1 + slope) / 2) ** 2, ((1 - slope) / 2) ** 2
    kappa = odd + even

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        d = delta if acute else size(delta)
        theta, sine = arccos.acute(d)
        none = jnp.maximum((q1 == 0).astype(d.dtype), (q2 == 0).astype(d.dtype))
        parts = Parts(
            drop=(even / kappa * (d - 2 / np.pi * sine), odd / kappa * d),
            start=(even / kappa, odd / kappa),
            slope=(even * (1 - 2 / np.pi * theta), odd),
        )
        if acute:
            return parts.slope[0] + parts.slope[1], jnp.maximum(parts.drop[0] + parts.drop[1], none)
        return parts.joined(delta, 0.0, none)

    return near


@functools.cache
def leaky(slope: float) -> Activation:
    """The record of leaky ReLU."""
    fn = functools.partial(jax.nn.leaky_relu, negative_slope=slope)
    closed = functools.partial(leaky_relu, slope=slope)
    return _linear("leaky_relu", fn, closed, slope, "leaky", (slope,))


def _linear(name, fn, closed, slope: float, maker: str, arguments: tuple[float, ...] = ()) -> Activation:
    return Activation(
        name, fn, closed, _leaky_near(slope), acute_form=_leaky_near(slope, acute=True), homogeneous=True,
        nonnegative=slope <= 0, limits=(math.inf, math.inf), maker=f"{__name__}:{maker}", arguments=arguments,
    )  # fmt: skip


@functools.cache
def relu_record() -> Activation:
    """The record of ReLU."""
    return _linear("relu", jax.nn.relu, relu, 0.0, "relu_record")


@functools.cache
def abs_record() -> Activation:
    """The record of the absolute value."""
    return _linear("abs", jnp.abs, abs, -1.0, "abs_record")


@functools.cache
def identity_record() -> Activation:
    """The record of the identity."""
    return _linear("identity", _identity, identity, 1.0, "identity_record")


def _identity(x: Array) -> Array:
    return x


# ------------------------------------------------------------------------------------------- sign, rectified powers


def sign(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> tuple[Array, Array]:
    """Return the dual of sign(x): 1 − 2θ/π, and 0, because the derivative is 0 wherever it exists.

    Example:
        >>> [round(float(e), 4) for e in sign(0.5, 1.0, 1.0)]
        [0.3333, 0.0]
    """
    q12, q1, q2 = float_arrays(q12, q1, q2)
    there = (q1 > 0) & (q2 > 0)
    theta = sine_and_angle(q12, q1, q2)[2]
    values = jnp.where(there, 1 - 2 / jnp.pi * theta, 0.0)
    return values, jnp.zeros_like(values)


def _sign_near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    d = size(delta)
    none = jnp.maximum((q1 == 0).astype(d.dtype), (q2 == 0).astype(d.dtype))
    parts = Parts(drop=(0.0, 2 / np.pi * arccos.acute(d)[0]), start=(0.0, 1.0), slope=(0.0, jnp.zeros_like(d)))
    return parts.joined(delta, 0.0, none)


@functools.cache
def sign_record() -> Activation:
    """The record of sign(x)."""
    limits = (math.inf, math.inf)
    return Activation(
        "sign", jnp.sign, sign, _sign_near, homogeneous=True, limits=limits, maker=f"{__name__}:sign_record"
    )


@functools.cache
def _arccosine(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return P_p and Q_p of J_p(θ) = (π − θ) P_p(c) + sin θ Q_p(c), with c = cos θ, as coefficients from degree 0 on.

    J_p = sin^(2p+1) θ (d/dc)^p ((π − θ)/sin θ). One more derivative gives P_{p+1} = (1 − c²) P' + (2p + 1) c P and
    Q_{p+1} = P + (1 − c²) Q' + 2p c Q.
    """
    square, c = np.polynomial.Polynomial([1.0, 0.0, -1.0]), np.polynomial.Polynomial([0.0, 1.0])
    p, q = np.polynomial.Polynomial([1.0]), np.polynomial.Polynomial([0.0])
    for n in range(degree):
        p, q = square * p.deriv() + (2 * n + 1) * c * p, p + square * q.deriv() + 2 * n * c * q
    return p.coef, q.coef


def _polynomial(coefficients: np.ndarray, x: Array) -> Array:
    total = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + float(c)  # a NumPy number would change the precision
    return total


def rectified_monomial(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, degree: int = 1) -> tuple[Array, Array]:
    """Return the dual of max(x, 0)^p with p = `degree` ≥ 0; p = 0 is the step.

    The first number is the arc-cosine kernel of order p (Cho & Saul 2009)::

        E = (q1 q2)^(p/2) J_p(θ)/2π,  J_0 = π − θ,  J_1 = sin θ + (π − θ) cos θ,  ...

    The second number is p² times the first one of degree p − 1, and 0 for the step.

    Example:
        >>> [round(float(e), 4) for e in rectified_monomial(0.5, 1.0, 1.0, degree=2)]
        [0.7067, 1.218]
    """
    q12, q1, q2 = float_arrays(q12, q1, q2)
    rho, sin, theta = sine_and_angle(q12, q1, q2)
    there = (q1 > 0) & (q2 > 0)

    def dual(p: int) -> Array:
        even, odd = _arccosine(p)
        j = (jnp.pi - theta) * _polynomial(even, rho) + sin * _polynomial(odd, rho)
        return jnp.where(there, (sqrt(q1) * sqrt(q2)) ** p * j / (2 * jnp.pi), 0.0)

    return dual(degree), degree**2 * dual(degree - 1) if degree else jnp.zeros_like(rho)


@functools.cache
def _monomial_near(degree: int) -> Near:
    """Return the near form of max(x, 0)^p.

    The function is the sum of x^p/2 and of abs(x)^p sign(x)^(p+1)/2, of which one is even and the other odd. With
    W = θP − sin θ Q, J_p(π − θ) is (−1)^p W. In units of (q1 q2)^(p/2)/2π the expectations of the two parts are
    therefore πP/2 and πP/2 − W.
    """

    def halves(p: int, d: Array, theta: Array) -> tuple[Array, Array, Array, float]:
        """Return the drops of the two parts divided by πP(1), W, and P(1)."""
        even, odd = _arccosine(p)
        c, one = 1 - d, float(even.sum())
        # P(1) − P(c) is a polynomial in d without a constant term, so that nothing cancels.
        in_d = np.polynomial.Polynomial(even)(np.polynomial.Polynomial([1.0, -1.0])).coef
        fall = -d * _polynomial(in_d[1:], d) if len(in_d) > 1 else jnp.zeros_like(d)
        w = theta * _polynomial(even, c) - jnp.sqrt(d * (2 - d)) * _polynomial(odd, c)
        return fall / (2 * one), fall / (2 * one) + w / (np.pi * one), w, one

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        d = size(delta)
        theta = arccos.acute(d)[0]
        plain, kinked, _, _ = halves(degree, d, theta)
        drop = (plain, kinked) if degree % 2 == 0 else (kinked, plain)
        slope = (jnp.zeros_like(d), jnp.zeros_like(d))
        if degree:
            low_plain, low_kinked, _, one = halves(degree - 1, d, theta)
            scale = degree**2 * one / 2 * (sqrt(q1) * sqrt(q2)) ** (degree - 1)
            low = (scale * (0.5 - low_plain), scale * (0.5 - low_kinked))
            # The derivative of the even half is odd: x^(p−1) is odd for even p.
            slope = (low[0], low[1]) if (degree - 1) % 2 else (low[1], low[0])
        none = jnp.maximum((q1 == 0).astype(d.dtype), (q2 == 0).astype(d.dtype))
        return Parts(drop, (0.5, 0.5), slope).joined(delta, 0.0, none)

    return near


def _rectified(x: Array, degree: int) -> Array:
    return jnp.where(x > 0, jnp.where(x > 0, x, 1.0) ** degree, 0.0)


@functools.cache
def rectified_record(degree: int) -> Activation:
    """The record of max(x, 0)^degree."""
    fn = functools.partial(_rectified, degree=degree)
    closed = functools.partial(rectified_monomial, degree=degree)
    power = 1 / max(degree, 1)
    limits = (1e30**power, 1e280**power) if degree else (math.inf, math.inf)
    name, maker = f"rectified_monomial({degree})", f"{__name__}:rectified_record"
    return Activation(
        name, fn, closed, _monomial_near(degree), homogeneous=True, limits=limits, maker=maker, arguments=(degree,)
    )  # fmt: skip
