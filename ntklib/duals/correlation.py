"""The correlation ρ of two Gaussian numbers, stored as δ = 1 − abs(ρ) with the sign of ρ.

In deep networks, and for inputs that are nearly equal, ρ is so near to 1 that the floating-point number ρ keeps no
digits of 1 − ρ. With odd functions the same happens near −1 for opposite inputs. Every layer therefore carries::

    δ = 1 − ρ ∈ [0, 1] for ρ ≥ 0,   δ = −(1 + ρ) ∈ [−1, 0) for ρ < 0.

At ρ = −1 it is minus the smallest positive number instead of 0, so that the sign is not lost. All functions here are
elementwise. If a variance is zero, the correlation is not defined, and δ = 1 (ρ = 0) by convention.
"""

import jax
import jax.numpy as jnp
from jax import Array


def sqrt(x: Array) -> Array:
    """Return √max(x, 0), whose derivative is 0 and not ∞ for x ≤ 0."""
    inside = x > 0
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, x, 1.0)), 0.0)


def inverse(x: Array) -> Array:
    """Return 1/x, and 0 where x is 0."""
    return jnp.where(x == 0, 0.0, 1 / jnp.where(x == 0, 1.0, x))


def once[Arrays](arrays: Arrays) -> Arrays:
    """Return the same arrays, behind a barrier for the compiler.

    A vector has an entry for each input. Without the barrier XLA would compute it again for each entry of the matrix in
    which it is used.
    """
    return jax.lax.optimization_barrier(arrays)


def signed(minus: Array, plus: Array) -> Array:
    """Return δ from 1 − ρ and 1 + ρ. Only the smaller of the two is used."""
    smallest = jnp.asarray(jnp.finfo(minus.dtype).tiny, minus.dtype)
    return jnp.where(minus <= plus, jnp.maximum(minus, 0.0), -jnp.maximum(plus, smallest))


def turned(d: Array, positive: Array) -> Array:
    """Return δ from 1 − abs(ρ) and from whether ρ is positive."""
    smallest = jnp.asarray(jnp.finfo(d.dtype).tiny, d.dtype)
    return jnp.where(positive, jnp.maximum(d, 0.0), -jnp.maximum(d, smallest))


def size(delta: Array) -> Array:
    """Return 1 − abs(ρ), which is zero at ρ = −1 as well."""
    return jnp.maximum(jnp.abs(delta) - jnp.finfo(delta.dtype).tiny, 0.0)


def one_minus(delta: Array) -> Array:
    """Return 1 − ρ."""
    return jnp.where(delta < 0, 2 + delta, delta)


def one_plus(delta: Array) -> Array:
    """Return 1 + ρ."""
    return jnp.where(delta < 0, -delta, 2 - delta)


def rho(delta: Array) -> Array:
    """Return ρ itself."""
    return jnp.where(delta < 0, -1 - delta, 1 - delta)


def from_covariance(q12: Array, q1: Array, q2: Array) -> Array:
    """Return δ from a covariance and two variances. Near ρ = ±1 it has half of the digits.

    If 1 − abs(ρ) is as small as a few rounding errors, it is set to 0. Otherwise equal inputs, whose covariance differs
    from their variances in the last bit, would be treated as inputs at an angle of √ε.
    """
    correlation = inverse(sqrt(q1)) * q12 * inverse(sqrt(q2))
    rounding = 2 * jnp.finfo(correlation.dtype).eps
    minus, plus = (jnp.where(x > rounding, x, 0.0) for x in (1 - correlation, 1 + correlation))
    return signed(minus, plus)


def sum_of(weights: list[tuple[Array, Array]], deltas: list[Array], none: Array) -> Array:
    """Return δ of a sum of independent terms.

    Let (r_1, r_2) be the standard deviations of a term divided by those of the sum, so that Σ r² = 1. Then::

        1 ∓ ρ' = Σ r_1 r_2 (1 ∓ ρ) + ½ Σ (r_1 − r_2)².

    All terms are positive, so that nothing cancels.

    Args:
        weights: The pairs (r_1, r_2).
        deltas: δ of each term.
        none: Whether a variance is zero.
    """
    minus = plus = sum((jnp.square(r1 - r2) for r1, r2 in weights), start=jnp.zeros_like(deltas[0])) / 2
    for (r1, r2), delta in zip(weights, deltas, strict=True):
        minus = minus + r1 * r2 * one_minus(delta)
        plus = plus + r1 * r2 * one_plus(delta)
    return jnp.where(none, 1.0, signed(minus, plus))


def with_bias(delta: Array, weight: tuple[Array, Array], bias: tuple[Array, Array], acute: bool = False) -> Array:
    """Return δ of a sum with a bias, a second term that has ρ = 1.

    `weight` and `bias` are the pairs (r_1, r_2) of the two terms, as in `sum_of`. `acute` says that no δ is negative.
    """
    (r1, r2), (b1, b2) = weight, bias
    apart = (jnp.square(r1 - r2) + jnp.square(b1 - b2)) / 2
    both, shared = r1 * r2, 2 * (b1 * b2)
    if acute:
        return both * delta + apart
    near = both * size(delta) + apart  # 1 − ρ' for ρ ≥ 0, and 1 + ρ' without the bias for ρ < 0
    return jnp.where(delta < 0, signed(both * (2 + delta) + apart, near + shared), near)
