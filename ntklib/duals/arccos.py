"""The angle θ from 1 − cos θ by polynomials: several times faster than `jnp.arccos`, and accurate near θ = 0.

Let u = 1 − cos θ and t = √u. Then θ = t P(u) and sin θ − θ cos θ = t u R(u), where P and R are analytic for abs(u) < 2.
The function sin θ − θ cos θ is part of the dual of ReLU. Near θ = 0 the subtraction would lose digits; t u R(u) keeps
them.

The tables below hold the polynomials that interpolate P and R at the Chebyshev points of [0, 1]. The error falls like
5.8^−degree. The function 2 arctan(t)/t is interpolated in the same way, in the variable t², and its error falls as
fast. `python -m ntklib.duals.arccos`, which needs mpmath, prints the tables.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

#: The coefficients of P and the coefficients of R, from degree 0 on: ARCCOS32 for float32, and ARCCOS64 for float64. In
#: exact arithmetic, with the decimal numbers below, the relative errors of the polynomials on [0, 1] are below 2e-8 and
#: 6e-17.
ARCCOS32 = (
    (
        1.4142135464083157,
        0.11785316670023775,
        0.026474482500567433,
        0.0082167309626384398,
        0.0014788598231931452,
        0.0033384170110533712,
        -0.0019906429602384128,
        0.0012117377698107651,
    ),
    (
        0.94280905241473178,
        0.04713939470348821,
        0.0075927172597073725,
        0.0016582847055392795,
        0.00074226197525146648,
        -0.00017620035502475994,
        0.0002344713665398918,
    ),
)
ARCCOS64 = (
    (
        1.4142135623730951,
        0.11785113019774604,
        0.026516504295916167,
        0.0078918166870961977,
        0.0026854115429505864,
        0.00098869370645919837,
        0.00038370003612568147,
        0.00015250797182385684,
        7.2870682571377915e-5,
        -7.185800992367848e-6,
        0.00010871230018361807,
        -0.00020499919349473681,
        0.00034809874714982453,
        -0.00043000945159494794,
        0.00040068828185893021,
        -0.00026884644677358589,
        0.00012425167869548127,
        -3.5378354952821868e-5,
        4.7975410330206166e-6,
    ),
    (
        0.94280904158206336,
        0.047140452079105775,
        0.0075761440838619546,
        0.0017537370683686701,
        0.0004882560753931928,
        0.00015211419937221639,
        5.1094254514834673e-5,
        1.8349126840897055e-5,
        5.8367286472422903e-6,
        5.4657880681018368e-6,
        -6.1128606173822412e-6,
        1.3534533881674908e-5,
        -1.7948915243682661e-5,
        1.8519148835413641e-5,
        -1.3478121029305757e-5,
        6.7650531546790449e-6,
        -2.0764150855087165e-6,
        3.0658986785827734e-7,
    ),
)
#: The coefficients of a polynomial in t² that approximates 2 arctan(t)/t for t in [0, 1], from degree 0 on.
ARCTAN32 = (
    1.9999999943210909,
    -0.66666552583965103,
    0.39996150562297427,
    -0.2852003216564181,
    0.21864683002606186,
    -0.16699449936603203,
    0.11417911186061238,
    -0.060703729571562341,
    0.020975298509898611,
    -0.0034023401281371945,
)
ARCTAN64 = (
    2.0,
    -0.66666666666665716,
    0.39999999999859894,
    -0.28571428563185385,
    0.22222221964174251,
    -0.18181813211313798,
    0.1538455111041126,
    -0.13332742375442196,
    0.11760684004803086,
    -0.1050545111464515,
    0.094394479846422247,
    -0.084251447927710648,
    0.073021627054420702,
    -0.059401435472468463,
    0.043480427661516266,
    -0.027348278576798957,
    0.014077292405979626,
    -0.0056095311063402629,
    0.0016067208363252053,
    -0.00029234176327250026,
    2.5262356860954851e-5,
)


def acute(u: Array) -> tuple[Array, Array]:
    """Return (θ, sin θ − θ cos θ) for u = 1 − cos θ. Values of u outside [0, 1] are clipped.

    >>> [round(float(e), 6) for e in acute(jnp.array(0.5))]  # θ = π/3
    [1.047198, 0.342427]
    """
    p, r = ARCCOS64 if u.dtype == jnp.float64 else ARCCOS32
    v = jnp.clip(u, 0.0, 1.0)
    t = jnp.sqrt(v)
    return t * _horner(p, v), t * v * _horner(r, v)


def from_root(t: Array) -> Array:
    """Return θ for t = √(1 − cos θ) in [0, 1]. It is accurate even if t² underflows to 0."""
    p, _ = ARCCOS64 if t.dtype == jnp.float64 else ARCCOS32
    return t * _horner(p, jnp.minimum(jnp.square(t), 1.0))


def twice_arctan(t: Array) -> Array:
    """Return 2 arctan t for t in [0, 1]. It is accurate near 0, too."""
    return t * _horner(ARCTAN64 if t.dtype == jnp.float64 else ARCTAN32, jnp.square(t))


def _horner(coefficients: tuple[float, ...], v: Array) -> Array:
    total = jnp.full_like(v, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * v + c
    return total


def _interpolant(f: Callable, degree: int) -> list[str]:
    """Return the coefficients of the polynomial that equals f at the Chebyshev points of [0, 1], with 17 digits."""
    import mpmath as mp

    points = [(1 + mp.cos(mp.pi * (2 * k + 1) / (2 * degree + 2))) / 2 for k in range(degree + 1)]
    powers = mp.matrix([[x**j for j in range(degree + 1)] for x in points])
    return [mp.nstr(c, 17) for c in mp.lu_solve(powers, mp.matrix([f(x) for x in points]))]


def main() -> None:
    """Print the tables."""
    import mpmath as mp

    mp.mp.dps = 50

    def r(u: Any) -> Any:
        return (mp.sqrt(u * (2 - u)) - (1 - u) * mp.acos(1 - u)) / u**1.5

    for name, degrees in (("ARCCOS32", (7, 6)), ("ARCCOS64", (18, 17))):
        tables = [_interpolant(f, n) for f, n in zip((lambda u: mp.acos(1 - u) / mp.sqrt(u), r), degrees, strict=True)]
        print(f"{name} = (")
        for table in tables:
            print(f"    ({', '.join(table)}),")
        print(")")
    for name, degree in (("ARCTAN32", 9), ("ARCTAN64", 20)):
        print(f"{name} = ({', '.join(_interpolant(lambda w: 2 * mp.atan(mp.sqrt(w)) / mp.sqrt(w), degree))})")


if __name__ == "__main__":
    main()
