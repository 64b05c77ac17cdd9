"""Sines and cosines, exponentials and Gaussians, with their duals in closed form."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ntklib.duals.activation import Activation, Near, Parts
from ntklib.duals.correlation import inverse, one_minus, signed, size, sqrt
from ntklib.duals.integrals import float_arrays
from ntklib.duals.sigmoidal import noisy

# ------------------------------------------------------------------------------------------------- sine and cosine


def sin(
    q12: ArrayLike,
    q1: ArrayLike,
    q2: ArrayLike,
    *,
    frequency: float = 1.0,
    amplitude: float = 1.0,
    phase: float = 0.0,
) -> tuple[Array, Array]:
    """Return the dual of a · sin(ωx + b), with amplitude a, frequency ω and phase b.

    The dual is::

        E[φφ]   = (a²/2) e^(−ω²(q1 + q2)/2) (e^(ω² q12) − cos 2b · e^(−ω² q12)),
        E[φ'φ'] = ω² (a²/2) e^(−ω²(q1 + q2)/2) (e^(ω² q12) + cos 2b · e^(−ω² q12)).

    Example:
        >>> [round(float(e), 4) for e in sin(0.5, 1.0, 1.0)]
        [0.1917, 0.4148]
    """
    w2 = frequency**2
    q12, q1, q2 = float_arrays(q12, q1, q2)
    # The exponents are summed first: e^(ω² q12) alone could overflow, although the product is at most 1.
    minus, plus = (jnp.exp(-w2 * ((q1 + q2) / 2 + sign * q12)) for sign in (-1, 1))
    # At small variances the two exponentials nearly cancel. `expm1` keeps the digits of their difference.
    positive = q12 >= 0
    shrunk = jnp.expm1(-2 * w2 * jnp.where(positive, q12, -q12))
    apart = jnp.where(positive, -minus * shrunk, plus * shrunk)
    scale = amplitude**2 / 2
    values = apart + 2 * math.sin(phase) ** 2 * plus
    return scale * values, scale * w2 * (apart + 2 * math.cos(phase) ** 2 * plus)


#: If Q = ω²q is at most `_SHORT` for both variances, 1 − ρ' at ρ = 1 is computed by the function `long_waves` below,
#: from the first `_COUNT` Hermite coefficients. Otherwise it is computed by `short_waves`, in which the logarithms of
#: 1 − κ e^(−2Q), κ = cos 2b, nearly cancel for similar variances. One Q is then above `_SHORT`. If the other is of
#: similar size, these logarithms are tiny, and so are their rounding errors. If it is much smaller, 1 − ρ' is not
#: small.
_SHORT, _COUNT = 8.0, 44


@functools.cache
def _sine_near(frequency: float, amplitude: float, phase: float) -> Near:
    """Return the near form of a · sin(ωy + b), as a function of y.

    The odd part of sin(ωy + b) is cos b sin ωy, and the even part is sin b cos ωy. Let t_i = ω √q_i, P = t_1 t_2,
    d = 1 − cos θ, x = P d and G = e^(−(t_1 − t_2)²/2). For u and w at the acute angle θ (see `Parts`),
    E[sin ωu sin ωw] (upper sign) and E[cos ωu cos ωw] (lower sign) are G (e^(−x) ∓ e^(x − 2P))/2. Their drops from
    θ = 0 are G (1 − e^(−x)) (1 ± e^(x − 2P))/2.
    """
    odd, even = math.cos(phase) ** 2, math.sin(phase) ** 2

    def moment(t: Array) -> Array:
        return (odd * -jnp.expm1(-2 * t**2) + even * (1 + jnp.exp(-2 * t**2))) / 2

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        d = size(delta)
        t1, t2 = frequency * sqrt(q1), frequency * sqrt(q2)
        m1, m2 = moment(t1), moment(t2)
        p = t1 * t2
        x, far = p * d, jnp.exp(p * d - 2 * p)
        aligned = jnp.exp(-jnp.square(t1 - t2) / 2) / 2
        unit = aligned * (inverse(sqrt(m1)) * inverse(sqrt(m2)))
        fall, waves = -jnp.expm1(-x), jnp.exp(-x)
        scale = amplitude**2 * frequency**2 * aligned
        parts = Parts(
            drop=(even * unit * fall * -jnp.expm1(x - 2 * p), odd * unit * fall * (1 + far)),
            start=(even * unit * (1 + jnp.exp(-2 * p)), odd * unit * -jnp.expm1(-2 * p)),
            slope=(even * scale * waves * -jnp.expm1(2 * (x - p)), odd * scale * (waves + far)),
        )
        some1, some2 = (jnp.where(m == 0, 1.0, t) for m, t in ((m1, t1), (m2, t2)))  # no log 0 in `short_waves`
        apart = jnp.where(jnp.maximum(t1, t2) ** 2 <= _SHORT, long_waves(t1, t2), short_waves(some1, some2))
        none = jnp.maximum((m1 == 0).astype(d.dtype), (m2 == 0).astype(d.dtype))
        return parts.joined(delta, apart, none)

    @jax.jit
    def long_waves(t1: Array, t2: Array) -> Array:
        """Return 1 − ρ' at θ = 0 as ½ Σ_n (e_n(t_1) − e_n(t_2))².

        e_n(t) = w_n t^n e^(−t²/2)/√(n! k) are, up to signs, the coordinates of sin(t z + b)/√k in normalized Hermite
        polynomials of z ~ N(0, 1). Here k = E[sin²(t z + b)], and w_n is cos b for odd n and sin b for even n. If t is
        above √`_SHORT`, the result is not used.
        """
        t1, t2 = (jnp.minimum(t, math.sqrt(_SHORT)) for t in (t1, t2))
        start = [jnp.exp(-(t**2) / 2) * inverse(sqrt(moment(t))) for t in (t1, t2)]

        def add(n: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            e1, e2, total = carry
            total = total + jnp.where(n % 2 == 1, odd, even) * jnp.square(e1 - e2)
            root = jnp.sqrt((n + 1).astype(e1.dtype))
            return e1 * t1 / root, e2 * t2 / root, total

        return jax.lax.fori_loop(0, _COUNT, add, (*start, jnp.zeros_like(t1 * t2)))[2] / 2

    def short_waves(t1: Array, t2: Array) -> Array:
        """Return 1 − ρ' at θ = 0 as 1 − G (1 − κe^(−2P))/√((1 − κe^(−2Q_1)) (1 − κe^(−2Q_2))).

        Here κ = cos 2b and Q_i = t_i².
        """
        p, big1, big2 = (jnp.log1p(-math.cos(2 * phase) * jnp.exp(-2 * a)) for a in (t1 * t2, t1**2, t2**2))
        return -jnp.expm1(-jnp.square(t1 - t2) / 2 + p - (big1 + big2) / 2)

    return near


def _wave(x: Array, frequency: float, amplitude: float, phase: float) -> Array:
    return amplitude * jnp.sin(frequency * x + phase)


@functools.cache
def sine_record(frequency: float, amplitude: float, phase: float, name: str = "sin") -> Activation:
    """Return the record of a · sin(ωx + b).

    The limits keep Q = ω²q below 100 in float32 and 1e10 in float64. Rounding then changes ωx by about 1e-6 and 1e-11.
    """
    arguments = {"frequency": frequency, "amplitude": amplitude, "phase": phase}
    return Activation(
        name, functools.partial(_wave, **arguments), functools.partial(sin, **arguments),
        _sine_near(frequency, amplitude, phase), limits=(100 / frequency**2, 1e10 / frequency**2),
        maker=f"{__name__}:sine_record", arguments=(frequency, amplitude, phase, name),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ exponential


def exp(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, rate: float = 1.0) -> tuple[Array, Array]:
    """Return the dual of e^(ax) with a = `rate`: E[φφ] = e^(a²((q1 + q2)/2 + q12)), and E[φ'φ'] = a² E[φφ].

    Example:
        >>> [round(float(e), 4) for e in exp(0.5, 1.0, 1.0)]
        [4.4817, 4.4817]
    """
    q12, q1, q2 = float_arrays(q12, q1, q2)
    values = jnp.exp(rate**2 * ((q1 + q2) / 2 + q12))
    return values, rate**2 * values


@functools.cache
def _exp_near(rate: float) -> Near:
    """Return the near form of e^(ax).

    It uses ρ' = e^(−a²h), where h = ½ E[(u − v)²] = ½(√q1 − √q2)² + √(q1 q2) (1 − ρ).
    """

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        s1, s2 = rate * sqrt(q1), rate * sqrt(q2)
        half_distance = jnp.square(s1 - s2) / 2 + s1 * s2 * one_minus(delta)
        minus = -jnp.expm1(-half_distance)
        return rate**2 * jnp.exp(jnp.square(s1) + jnp.square(s2) - half_distance), signed(minus, 2 - minus)

    return near


def _exponential(x: Array, rate: float) -> Array:
    return jnp.exp(rate * x)


@functools.cache
def exp_record(rate: float) -> Activation:
    """Return the record of e^(ax). The limits keep E[φ²] = e^(2a²q) from overflowing."""
    fn, closed = functools.partial(_exponential, rate=rate), functools.partial(exp, rate=rate)
    limits = (20 / rate**2, 150 / rate**2)
    return Activation(
        "exp", fn, closed, _exp_near(rate), limits=limits, maker=f"{__name__}:exp_record", arguments=(rate,)
    )


# --------------------------------------------------------------------------------------------------------- Gaussian


def gaussian(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, rate: float = 1.0) -> tuple[Array, Array]:
    """Return the dual of e^(−bx²) with b = `rate` > 0.

    With D = (1 + 2b q1)(1 + 2b q2) − 4b² q12²::

        E[φφ] = 1/√D,  E[φ'φ'] = 4b² q12/D^(3/2).

    Example:
        >>> [round(float(e), 4) for e in gaussian(0.5, 1.0, 1.0)]
        [0.3536, 0.0884]
    """
    q12, q1, q2 = float_arrays(q12, q1, q2)
    root, c, squared = noisy(q12, q1, q2, 1 / (2 * rate))
    values = root / jnp.sqrt(squared)
    return values, 2 * rate * c * values / squared * root


@functools.cache
def _gaussian_near(rate: float) -> Near:
    """Return the near form of e^(−bx²).

    `gaussian` defines D. Let A_i = 1 + 4bq_i, so that E[φ²] = A_i^(−1/2). At θ = 0, D has the value
    D_0 = (A_1 + A_2)/2, and ρ' = √(√(A_1 A_2)/D_0). At other angles D = D_0 + 4b² q1 q2 d (2 − d), with d = 1 − cos θ.
    """

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        d = size(delta)
        x1, x2 = 2 * rate * q1, 2 * rate * q2
        root1, root2 = jnp.sqrt(1 + 2 * x1), jnp.sqrt(1 + 2 * x2)  # √A
        d0 = (jnp.square(root1) + jnp.square(root2)) / 2
        geometric = root1 * root2
        squared = jnp.square(root1 - root2) / 2 / d0  # 1 − ρ'² at θ = 0
        apart = squared / (1 + jnp.sqrt(geometric / d0))
        more = jnp.sqrt(x1) * jnp.sqrt(x2)
        more = more / d0 * more * d * (2 - d)  # (D − D_0)/D_0
        grown = jnp.sqrt(1 + more)
        start = jnp.sqrt(geometric / d0)
        drop = start * more / (grown * (1 + grown))
        c = jnp.sqrt(x1) * jnp.sqrt(x2) * (1 - d)
        slope = 2 * rate * (c / d0) / (jnp.sqrt(d0) * grown * (1 + more))
        zeros = jnp.zeros_like(d)
        return Parts((drop, zeros), (start, zeros), (slope, zeros)).joined(delta, apart, jnp.zeros_like(q1 + q2))

    return near


def _bell(x: Array, rate: float) -> Array:
    return jnp.exp(-rate * jnp.square(x))


@functools.cache
def gaussian_record(rate: float) -> Activation:
    """Return the record of e^(−bx²). The limits keep 4bq from overflowing."""
    fn, closed = functools.partial(_bell, rate=rate), functools.partial(gaussian, rate=rate)
    limits = (1e30 / rate, 1e150 / rate)
    return Activation(
        "gaussian", fn, closed, _gaussian_near(rate), limits=limits,
        maker=f"{__name__}:gaussian_record", arguments=(rate,),
    )  # fmt: skip
