"""Polynomials. An expansion in Hermite polynomials gives their duals in closed form."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib.duals.activation import Activation, Near
from ntklib.duals.correlation import inverse, signed, size, sqrt
from ntklib.duals.integrals import float_arrays

Coefficients = tuple[float, ...]


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
    q12, q1, q2 = float_arrays(q12, q1, q2)

    def dual(c: Coefficients) -> Array:
        total = jnp.zeros_like(q12 + q1 + q2)
        for m in range(len(c) - 1, -1, -1):
            total = total * q12 + _reduced(c, m, q1) * _reduced(c, m, q2)
        return total

    return dual(coefficients), dual(_slope(coefficients))


def _slope(c: Coefficients) -> Coefficients:
    return tuple(j * x for j, x in enumerate(c) if j) or (0.0,)


def _reduced(c: Coefficients, m: int, q: Array) -> Array:
    """Return a_m(q)/q^(m/2), which is a polynomial in q."""
    total = jnp.zeros_like(q)
    for i in range((len(c) - 1 - m) // 2, -1, -1):
        weight = math.sqrt(math.factorial(m)) * math.factorial(m + 2 * i) / (
            math.factorial(m) * math.factorial(i) * 2**i
        )  # fmt: skip
        total = total * q + c[m + 2 * i] * weight
    return total


@functools.cache
def _polynomial_near(coefficients: Coefficients) -> Near:
    """Return the near form of a polynomial.

    For input i let e_im = a_m(q_i)/√k_i, with k_i = Σ_m a_m(q_i)². For ρ ≥ 0::

        1 ∓ ρ' = ½ Σ_m (e_1m ∓ e_2m)² ± Σ_m e_1m e_2m (1 − ρ^m),   1 − ρ^m = (1 − ρ)(1 + ρ + ... + ρ^(m−1)).

    For ρ < 0, abs(ρ) takes the place of ρ, and e_2m changes its sign for odd m.
    """

    def near(delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        e1, e2 = (_unit(coefficients, q) for q in (q1, q2))
        d, sign = size(delta), jnp.where(delta < 0, -1.0, 1.0).astype(delta.dtype)
        minus = plus = jnp.zeros_like(delta)
        power, rise = jnp.ones_like(d), jnp.zeros_like(d)  # |ρ|^m, and (1 − |ρ|^m)/d
        for m, (a, b) in enumerate(zip(e1, e2, strict=True)):
            if m:
                rise, power = rise + power, power * (1 - d)
            turned = b * sign if m % 2 else b
            fall = a * turned * (d * rise)
            minus = minus + jnp.square(a - turned) / 2 + fall
            plus = plus + jnp.square(a + turned) / 2 - fall
        none = jnp.maximum(*((_squares(e) == 0).astype(d.dtype) for e in (e1, e2)))
        slopes = jnp.zeros_like(delta)
        rho = sign * (1 - d)
        derived = _slope(coefficients)
        for m in range(len(derived) - 1, -1, -1):
            slopes = slopes * (rho * sqrt(q1) * sqrt(q2)) + _reduced(derived, m, q1) * _reduced(derived, m, q2)
        return slopes, signed(jnp.maximum(minus, none), jnp.maximum(plus, none))

    return near


def _unit(c: Coefficients, q: Array) -> list[Array]:
    a = [_reduced(c, m, q) * sqrt(q) ** m for m in range(len(c))]
    scale = inverse(sqrt(_squares(a)))
    return [x * scale for x in a]


def _squares(a: list[Array]) -> Array:
    return functools.reduce(jnp.add, map(jnp.square, a))


def _value(x: Array, coefficients: Coefficients) -> Array:
    total = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + c
    return total


@functools.cache
def polynomial_record(coefficients: Coefficients, name: str = "polynomial") -> Activation:
    """Return the record of Σ_j c_j x^j. The limits keep E[φ²], which grows like q^degree, in the range of numbers."""
    fn = functools.partial(_value, coefficients=coefficients)
    closed = functools.partial(polynomial, coefficients=coefficients)
    degree = max(len(coefficients) - 1, 1)
    limits = (1e30 ** (1 / degree), 1e280 ** (1 / degree))
    return Activation(
        name, fn, closed, _polynomial_near(coefficients), homogeneous=sum(c != 0 for c in coefficients) == 1,
        limits=limits, maker=f"{__name__}:polynomial_record", arguments=(coefficients, name),
    )  # fmt: skip


def hermite(degree: int) -> Coefficients:
    """Return the coefficients of the probabilists' He_n(x)/√(n!) with n = `degree`; E[φ²] is 1 for x ~ N(0, 1)."""
    power = np.polynomial.hermite_e.herme2poly([0.0] * degree + [1.0])
    return tuple(float(c) for c in power / math.sqrt(math.factorial(degree)))
