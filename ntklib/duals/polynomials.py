"""Monomials and Hermite polynomials. An expansion in Hermite polynomials gives their duals in closed form."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ntklib.duals.activation import Activation, Near
from ntklib.duals.correlation import inverse, signed, size, sqrt
from ntklib.duals.integrals import float_arrays

Coefficients = tuple[float, ...]
#: A function (m, q) -> a_m(q)/q^(m/2), where a_m(q) are the coefficients of φ(√q z) = Σ_m a_m(q) He_m(z)/√m!. It
#: returns None if a_m is zero for every q.
Reduced = Callable[[int, Array], Array | None]


def polynomial(
    q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, coefficients: Coefficients = (0.0, 1.0)
) -> tuple[Array, Array]:
    """Return the dual of φ(x) = Σ_j c_j x^j, with the coefficients c from degree 0 on.

    The expansion φ(√q z) = Σ_m a_m(q) He_m(z)/√m! in the probabilists' Hermite polynomials gives::

        E[φφ] = Σ_m a_m(q1) a_m(q2) ρ^m,  a_m(q) = √m! Σ_i c_{m+2i} (m + 2i)!/(m! i! 2^i) q^(m/2 + i).

    Since q1^(m/2) q2^(m/2) ρ^m = q12^m, E[φφ] is a polynomial in q12, q1 and q2. The same sum for φ' gives E[φ'φ'].

    Example:
        >>> [round(float(e), 4) for e in polynomial(0.5, 1.0, 1.0, coefficients=(0.0, 0.0, 1.0))]  # 1 + 2 q12², 4 q12
        [1.5, 2.0]
    """
    value, slope, unit = _balanced(coefficients)
    q12, q1, q2 = (unit * q for q in float_arrays(q12, q1, q2))
    return _dual(q12, q1, q2, value, slope, len(coefficients) - 1)


def _balanced(c: Coefficients) -> tuple[Reduced, Reduced, float]:
    """Return the functions `Reduced` of φ(x) = Σ_j c_j x^j and of φ', and the number `unit`.

    The functions are to be called with variances and covariances of x times `unit`.

    For x^n the terms of `polynomial` grow like (2n − 1)!!, which is beyond the range of float32 for n > 28. Here φ is
    written as a polynomial in y = 2^e x, whose variance is that of x times `unit` = 4^e ≈ (2n − 1)!!^(1/n). For x^n,
    E[φ²] is then between 2^−n and 2^n where the variance of y is 1. No digit is lost by a power of two.
    """
    n = len(c) - 1
    odd = math.factorial(2 * n) // (2**n * math.factorial(n))  # (2n − 1)!!
    e = round(math.log2(odd) / (2 * n)) if n else 0
    in_y = tuple(x * 2.0 ** (-e * j) for j, x in enumerate(c))
    slope = tuple(j * x * 2.0**e for j, x in enumerate(in_y) if j) or (0.0,)
    return functools.partial(_reduced, in_y), functools.partial(_reduced, slope), 4.0**e


def hermite(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, degree: int = 1) -> tuple[Array, Array]:
    """Return the dual of φ(x) = He_n(x)/√(n!) with n = `degree` ≥ 1.

    For m = n − 2i the coefficients a_m of `polynomial` are::

        a_m(q) = q^(m/2) (q − 1)^i √(n!/m!)/(2^i i!).

    The sum in `polynomial` has the same value, but its terms have both signs and cancel: at variance 1 the error of
    E[φ²] is 3e-3 for n = 30 in float32, and 3e-6 for n = 60 in float64. φ' is √n times the normalized Hermite
    polynomial of degree n − 1.

    Example:
        >>> [round(float(e), 4) for e in hermite(0.5, 1.0, 1.0, degree=2)]  # q12², 2 q12
        [0.25, 1.0]
    """
    return _dual(q12, q1, q2, *_reduced_hermite(degree), degree)


def _dual(
    q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, value: Reduced, slope: Reduced, degree: int
) -> tuple[Array, Array]:
    """Return E[φφ] and E[φ'φ'] for a polynomial φ of some degree, from the coefficients of φ and of φ'."""
    q12, q1, q2 = float_arrays(q12, q1, q2)
    return _sum(q12, q1, q2, value, degree), _sum(q12, q1, q2, slope, degree - 1)


def _sum(q12: Array, q1: Array, q2: Array, reduced: Reduced, degree: int) -> Array:
    """Return Σ_m a_m(q1) a_m(q2) ρ^m up to m = `degree`."""
    total = jnp.zeros_like(q12 + q1 + q2)
    for m in range(max(degree, 0), -1, -1):
        total = total * q12
        first, second = reduced(m, q1), reduced(m, q2)
        if first is not None and second is not None:
            total = total + first * second
    return total


def _reduced(c: Coefficients, m: int, q: Array) -> Array | None:
    """Return a_m(q)/q^(m/2) for Σ_j c_j x^j: a polynomial in q."""
    total = None
    for i in range((len(c) - 1 - m) // 2, -1, -1):
        total = None if total is None else total * q
        if x := c[m + 2 * i]:
            ratio = math.factorial(m + 2 * i) / (math.factorial(m) * math.factorial(i) * 2**i)
            term = x * math.sqrt(math.factorial(m)) * ratio
            total = jnp.full_like(q, term) if total is None else total + term
    return total


def _reduced_hermite(degree: int) -> tuple[Reduced, Reduced]:
    """Return the functions `Reduced` of φ(x) = He_n(x)/√(n!) with n = `degree`, and of φ'."""

    def reduced(n: int, factor: float, m: int, q: Array) -> Array | None:
        i, odd = divmod(n - m, 2)
        if i < 0 or odd:
            return None
        weight = math.sqrt(math.factorial(n) // math.factorial(m)) / 2**i / math.factorial(i)
        return factor * weight * (q - 1) ** i

    return functools.partial(reduced, degree, 1.0), functools.partial(reduced, degree - 1, math.sqrt(degree))


def _near(value: Reduced, slope: Reduced, degree: int) -> Near:
    """Return the near form of a polynomial of some degree, from the coefficients of φ and of φ'.

    For input i let e_im = a_m(q_i)/√k_i, with k_i = Σ_m a_m(q_i)². For ρ ≥ 0::

        1 ∓ ρ' = ½ Σ_m (e_1m ∓ e_2m)² ± Σ_m e_1m e_2m (1 − ρ^m),   1 − ρ^m = (1 − ρ)(1 + ρ + ... + ρ^(m−1)).

    For ρ < 0, abs(ρ) takes the place of ρ, and e_2m changes its sign for odd m.
    """

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        e1, e2 = (_unit(value, degree, q) for q in (q1, q2))
        d, sign = size(delta), jnp.where(delta < 0, -1.0, 1.0).astype(delta.dtype)
        minus = plus = jnp.zeros_like(delta)
        power, rise = jnp.ones_like(d), jnp.zeros_like(d)  # |ρ|^m, and (1 − |ρ|^m)/d
        for m in range(degree + 1):
            if m:
                rise, power = rise + power, power * (1 - d)
            if m not in e1:
                continue
            a, b = e1[m], e2[m]
            turned = b * sign if m % 2 else b
            fall = a * turned * (d * rise)
            minus = minus + jnp.square(a - turned) / 2 + fall
            plus = plus + jnp.square(a + turned) / 2 - fall
        none = jnp.maximum(*((_squares(e) == 0).astype(d.dtype) for e in (e1, e2)))
        slopes = _sum(sign * (1 - d) * sqrt(q1) * sqrt(q2), q1, q2, slope, degree - 1)
        return slopes, signed(jnp.maximum(minus, none), jnp.maximum(plus, none))

    return near


def _unit(value: Reduced, degree: int, q: Array) -> dict[int, Array]:
    """Return e_m for each m for which a_m is not zero everywhere."""
    reduced = ((m, value(m, q)) for m in range(degree + 1))
    a = {m: r * sqrt(q) ** m for m, r in reduced if r is not None}
    scale = inverse(sqrt(_squares(a)))
    return {m: x * scale for m, x in a.items()}


def _squares(a: dict[int, Array]) -> Array:
    return functools.reduce(jnp.add, map(jnp.square, a.values()))


def _value(x: Array, coefficients: Coefficients) -> Array:
    total = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + c
    return total


def _hermite_value(x: Array, degree: int) -> Array:
    """Return h_n(x) = He_n(x)/√(n!) by h_{k+1} = (x h_k − √k h_{k−1})/√(k + 1), which is stable for large n."""
    before, now = jnp.ones_like(x), x
    for k in range(1, degree):
        before, now = now, (x * now - math.sqrt(k) * before) / math.sqrt(k + 1)
    return now


@functools.cache
def monomial_record(degree: int) -> Activation:
    """Return the record of x^n with n = `degree`. The limits keep E[φ²] = (2n − 1)!! q^n from overflowing."""
    c = (0.0,) * degree + (1.0,)
    value, slope, unit = _balanced(c)
    balanced = _near(value, slope, degree)

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        return balanced(delta, unit * q1, unit * q2)

    return Activation(
        f"monomial({degree})", functools.partial(_value, coefficients=c), functools.partial(polynomial, coefficients=c),
        near, limits=limits_of_power(degree), maker=f"{__name__}:monomial_record",
        arguments=(degree,),
    )  # fmt: skip


def limits_of_power(degree: int) -> tuple[float, float]:
    """Return the variances q at which E[x^(2n)] is 1e30 and 1e280: the limits for float32 and for float64.

    Here n = `degree`, and E[x^(2n)] = (2n − 1)!! q^n for x ~ N(0, q).
    """
    log = math.log(math.factorial(2 * degree) // (2**degree * math.factorial(degree)))
    return math.exp((math.log(1e30) - log) / degree), math.exp((math.log(1e280) - log) / degree)


@functools.cache
def hermite_record(degree: int) -> Activation:
    """Return the record of He_n(x)/√(n!) with n = `degree`. The limits keep E[φ²] from overflowing."""
    return Activation(
        f"hermite({degree})", functools.partial(_hermite_value, degree=degree),
        functools.partial(hermite, degree=degree), _near(*_reduced_hermite(degree), degree),
        limits=(_largest(degree, 1e30), _largest(degree, 1e280)), maker=f"{__name__}:hermite_record",
        arguments=(degree,),
    )  # fmt: skip


def _largest(degree: int, most: float) -> float:
    """Return the q ≥ 1 at which E[φ²] = Σ_m a_m(q)² is `most`, for φ = He_n/√(n!) with n = `degree`."""

    def log_square(q: float, i: int) -> float:
        m = degree - 2 * i
        weight = math.lgamma(degree + 1) - math.lgamma(m + 1) - 2 * (i * math.log(2) + math.lgamma(i + 1))
        return m * math.log(q) + (2 * i * math.log(q - 1) if i else 0.0) + weight

    low, high = 0.0, math.log(most) / degree  # bounds of log q, the upper one because E[φ²] ≥ q^n
    for _ in range(60):
        middle = (low + high) / 2
        logs = [log_square(math.exp(middle), i) for i in range(degree // 2 + 1)]
        total = max(logs) + math.log(sum(math.exp(x - max(logs)) for x in logs))
        low, high = (middle, high) if total < math.log(most) else (low, middle)
    return math.exp(low)
