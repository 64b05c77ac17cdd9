"""Leaky ReLU with ReLU, the absolute value and the identity as special cases; sign; rectified monomials.

All are homogeneous: φ(ax) = a^p φ(x) for a > 0. The correlation ρ' after φ therefore does not depend on variances.
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
from ntklib.duals.polynomials import limits_of_power


def sine_and_angle(q12: Array, q1: Array, q2: Array) -> tuple[Array, Array, Array]:
    """Return ρ, sin θ and θ = arccos ρ in [0, π]. If a variance is zero, θ is π/2.

    q1 and q2 are never multiplied, since the product could over- or underflow. The rounding error of sin² θ is a few ε,
    with ε the spacing of numbers next to 1, so a value up to 4ε is set to 0. Without this rule two equal inputs would
    get θ ≈ √ε (3e-4 in float32) if rounding has made q12 and the variances differ in the last bit. At ρ = ±1 the
    infinite derivative of θ is replaced by 0.
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

    The slope 0 gives ReLU, −1 the absolute value, and 1 the identity. Let θ = arccos(q12/√(q1 q2)). The dual of ReLU
    is::

        r(θ) = √(q1 q2) (sin θ + (π − θ) cos θ)/2π,   s(θ) = (π − θ)/2π.

    Since φ(x) = relu(x) − a · relu(−x), the dual of φ is::

        E[φφ] = (1 + a²) r(θ) − 2a r(π − θ),   E[φ'φ'] = (1 + a²) s(θ) + 2a s(π − θ).

    E[φ'φ'] has a square-root cusp at ρ = ±1. It is exact there, but where 1 − abs(ρ) is as small as the rounding error
    ε of ρ, its error is about √ε.

    Example:
        >>> [round(float(e), 4) for e in leaky_relu(0.5, 1.0, 1.0)]
        [0.3045, 0.3333]
    """
    q12, q1, q2 = float_arrays(q12, q1, q2)
    _, sin, theta = sine_and_angle(q12, q1, q2)
    a, pi = slope, jnp.pi
    # With q12 in place of √(q1 q2) ρ, the derivative with respect to q12 is E[φ'φ'] at a variance of zero, too.
    values = (1 - a) ** 2 / (2 * pi) * (sqrt(q1) * sqrt(q2) * sin - theta * q12) + (1 + a**2) / 2 * q12
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
    q12 = q12 + jnp.zeros_like(q1 + q2)  # the broadcast shape
    return q12, jnp.ones_like(q12)


@functools.cache
def _leaky_near(slope: float, acute: bool = False) -> Near:
    """Return the near form of leaky ReLU.

    Let a be the slope, α = (1 + a)/2 and γ = (1 − a)/2. Then φ(x) = αx + γ abs(x). With cos θ = abs(ρ), as
    in `Parts`, E[φ'φ'] and E[φφ]/√(q1 q2) of each part are::

        odd part   α²,  α² cos θ;      even part   γ² (1 − 2θ/π),  γ² (cos θ + (2/π)(sin θ − θ cos θ)).

    For `drop` and `start` the second number is divided by κ = α² + γ², since E[φ²] = κq. `acute` says that δ ≥ 0: then
    the new δ is the sum of the two drops.
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
    """Return the record of leaky ReLU."""
    fn = functools.partial(jax.nn.leaky_relu, negative_slope=slope)
    closed = functools.partial(leaky_relu, slope=slope)
    return _linear("leaky_relu", fn, closed, slope, "leaky", (slope,))


def _linear(name, fn, closed, slope: float, maker: str, arguments: tuple[float, ...] = ()) -> Activation:
    return Activation(
        name, fn, closed, _leaky_near(slope), acute_form=_leaky_near(slope, acute=True), nonnegative=slope <= 0,
        limits=(math.inf, math.inf), maker=f"{__name__}:{maker}", arguments=arguments,
    )  # fmt: skip


@functools.cache
def relu_record() -> Activation:
    """Return the record of ReLU."""
    return _linear("relu", jax.nn.relu, relu, 0.0, "relu_record")


@functools.cache
def abs_record() -> Activation:
    """Return the record of the absolute value."""
    return _linear("abs", jnp.abs, abs, -1.0, "abs_record")


@functools.cache
def identity_record() -> Activation:
    """Return the record of the identity."""
    return _linear("identity", _identity, identity, 1.0, "identity_record")


def _identity(x: Array) -> Array:
    return x


# ------------------------------------------------------------------------------------------- sign, rectified powers


def sign(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> tuple[Array, Array]:
    """Return the dual of sign(x): 1 − 2θ/π with θ = arccos ρ, and 0, because the derivative is 0 wherever it exists.

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
    """Return the record of sign(x)."""
    limits = (math.inf, math.inf)
    return Activation("sign", jnp.sign, sign, _sign_near, limits=limits, maker=f"{__name__}:sign_record")


@functools.cache
def _arccosine(degree: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the coefficients of P_p/P_p(1) and of Q_p/P_p(1), from degree 0 on, and P_p(1), for p = `degree`.

    With c = cos θ, the two polynomials give J_p(θ) = sin^(2p+1) θ (d/dc)^p ((π − θ)/sin θ) as
    (π − θ) P_p(c) + sin θ Q_p(c). They start from P_0 = 1 and Q_0 = 0. One more derivative gives
    P_{p+1} = (1 − c²) P_p' + (2p + 1) c P_p and Q_{p+1} = P_p + (1 − c²) Q_p' + 2p c Q_p. No coefficient is negative.
    P_p(1) is beyond the range of float32 from p = 29 on, so it is kept apart.
    """
    square, c = np.polynomial.Polynomial([1.0, 0.0, -1.0]), np.polynomial.Polynomial([0.0, 1.0])
    p, q = np.polynomial.Polynomial([1.0]), np.polynomial.Polynomial([0.0])
    for n in range(degree):
        p, q = square * p.deriv() + (2 * n + 1) * c * p, p + square * q.deriv() + 2 * n * c * q
    even, odd = (np.asarray(polynomial.coef, np.float64) for polynomial in (p, q))
    one = float(even.sum())
    return even / one, odd / one, one


def _scaled_power(factor: float, x: Array, exponent: int) -> Array:
    """Return factor · x^exponent, where the factor or the power alone may be outside of the range of numbers.

    A power of two, by which no digit is lost, goes from the factor to x.
    """
    mantissa, shift = math.frexp(factor)
    each = round(shift / exponent) if exponent else 0
    return math.ldexp(mantissa, shift - each * exponent) * (x * 2.0**each) ** exponent


def _polynomial(coefficients: np.ndarray, x: Array) -> Array:
    total = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + float(c)  # a NumPy number would turn float32 into float64
    return total


def rectified_monomial(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, degree: int = 1) -> tuple[Array, Array]:
    """Return the dual of max(x, 0)^p with p = `degree` ≥ 0. For p = 0 the function is the step from 0 to 1.

    E[φφ] is half of the arc-cosine kernel of order p (Cho & Saul 2009)::

        E[φφ] = (q1 q2)^(p/2) J_p(θ)/2π,  J_0 = π − θ,  J_1 = sin θ + (π − θ) cos θ,  ...

    E[φ'φ'] is p² times E[φφ] of degree p − 1, and 0 for the step.

    Example:
        >>> [round(float(e), 4) for e in rectified_monomial(0.5, 1.0, 1.0, degree=2)]
        [0.7067, 1.218]
    """
    if degree < 0:
        raise ValueError(f"`degree` must be at least 0; got {degree}.")
    q12, q1, q2 = float_arrays(q12, q1, q2)
    rho, sin, theta = sine_and_angle(q12, q1, q2)
    there = (q1 > 0) & (q2 > 0)

    def dual(p: int) -> Array:
        even, odd, one = _arccosine(p)
        j = (jnp.pi - theta) * _polynomial(even, rho) + sin * _polynomial(odd, rho)
        return jnp.where(there, _scaled_power(one, sqrt(q1) * sqrt(q2), p) * j / (2 * jnp.pi), 0.0)

    return dual(degree), degree**2 * dual(degree - 1) if degree else jnp.zeros_like(rho)


@functools.cache
def _monomial_near(degree: int) -> Near:
    """Return the near form of max(x, 0)^p.

    The function is the sum of x^p/2 and abs(x)^p sign(x)^(p+1)/2. One of these parts is even and the other odd. With P
    and Q of `_arccosine` at c = cos θ, and with W = θP − sin θ Q, J_p(θ) = πP − W and J_p(π − θ) = (−1)^p W. In units
    of (q1 q2)^(p/2)/2π these are the sum and, but for its sign, the difference of the expectations of the two parts. So
    x^p/2 has the expectation πP/2, and the other part πP/2 − W. For p ≥ 1 the two terms of W cancel near θ = 0, and the
    new δ has a relative error of about ε/θ.
    """

    def drops(p: int, d: Array, theta: Array) -> tuple[Array, Array]:
        """Return the drops of x^p/2 and of the other part, divided by πP(1), which is E[φ²] in the units above."""
        even, odd, _ = _arccosine(p)
        c = 1 - d
        # 1 − c^k is d (1 + c + … + c^(k−1)). With the coefficients a_k of P, P(1) − P(c) is therefore d times a
        # polynomial whose j-th coefficient is the sum of a_k over k > j. No term is negative, so nothing cancels.
        sums = np.cumsum(even[::-1])[-2::-1]
        fall = d * _polynomial(sums, c) if p else jnp.zeros_like(d)
        w = theta * _polynomial(even, c) - jnp.sqrt(d * (2 - d)) * _polynomial(odd, c)
        return fall / 2, fall / 2 + w / np.pi

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        d = size(delta)
        theta = arccos.acute(d)[0]
        plain, kinked = drops(degree, d, theta)
        drop = (plain, kinked) if degree % 2 == 0 else (kinked, plain)
        slope = (jnp.zeros_like(d), jnp.zeros_like(d))
        if degree:
            low_plain, low_kinked = drops(degree - 1, d, theta)
            one = _arccosine(degree - 1)[2]
            scale = degree**2 / 2 * _scaled_power(one, sqrt(q1) * sqrt(q2), degree - 1)
            low = (scale * (0.5 - low_plain), scale * (0.5 - low_kinked))
            # For even p the even part is x^p/2, and its derivative is p x^(p−1)/2.
            slope = (low[0], low[1]) if (degree - 1) % 2 else (low[1], low[0])
        none = jnp.maximum((q1 == 0).astype(d.dtype), (q2 == 0).astype(d.dtype))
        return Parts(drop, (0.5, 0.5), slope).joined(delta, 0.0, none)

    return near


def _rectified(x: Array, degree: int) -> Array:
    return jnp.where(x > 0, jnp.where(x > 0, x, 1.0) ** degree, 0.0)


@functools.cache
def rectified_record(degree: int) -> Activation:
    """Return the record of max(x, 0)^p with p = `degree`. The limits keep E[φ²] from overflowing."""
    fn = functools.partial(_rectified, degree=degree)
    closed = functools.partial(rectified_monomial, degree=degree)
    limits = limits_of_power(degree) if degree else (math.inf, math.inf)
    name, maker = f"rectified_monomial({degree})", f"{__name__}:rectified_record"
    return Activation(
        name, fn, closed, _monomial_near(degree), limits=limits, maker=maker, arguments=(degree,)
    )  # fmt: skip
