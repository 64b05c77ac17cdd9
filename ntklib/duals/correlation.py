"""The correlation ρ of two Gaussian numbers, kept as δ = 1 − |ρ| with the sign of ρ, so that no digit is lost near ±1.

Deep networks and near duplicates bring ρ so near to 1 that 1 − ρ keeps no digits once ρ itself is stored; antipodes of
odd functions do the same near −1. So every layer carries

    δ = 1 − ρ ∈ [0, 1] for ρ ≥ 0,   δ = −(1 + ρ) ∈ [−1, 0) for ρ < 0,

with the smallest positive number in the place of 0 at ρ = −1, where the sign must survive. All functions are
elementwise. Where a variance is zero the correlation is not defined, and δ = 1 (ρ = 0) by convention.
"""

import jax
import jax.numpy as jnp
from jax import Array


def sqrt(x: Array) -> Array:
    """√max(x, 0) with derivative 0, not ∞, where x ≤ 0."""
    inside = x > 0
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, x, 1.0)), 0.0)


def inverse(x: Array) -> Array:
    """1/x, and 0 where x is 0."""
    return jnp.where(x == 0, 0.0, 1 / jnp.where(x == 0, 1.0, x))


def once[Arrays](arrays: Arrays) -> Arrays:
    """The same arrays, made once: what belongs to one input is a vector, and the compiler would make it anew for each
    entry of the matrix that it goes into.
    """
    return jax.lax.optimization_barrier(arrays)


def signed(minus: Array, plus: Array) -> Array:
    """The δ of 1 − ρ and 1 + ρ; only the smaller of the two is looked at."""
    smallest = jnp.asarray(jnp.finfo(minus.dtype).tiny, minus.dtype)
    return jnp.where(minus <= plus, jnp.maximum(minus, 0.0), -jnp.maximum(plus, smallest))


def turned(d: Array, positive: Array) -> Array:
    """The δ of 1 − |ρ| and of whether ρ is positive."""
    smallest = jnp.asarray(jnp.finfo(d.dtype).tiny, d.dtype)
    return jnp.where(positive, jnp.maximum(d, 0.0), -jnp.maximum(d, smallest))


def size(delta: Array) -> Array:
    """1 − |ρ|, zero at ρ = −1 as well."""
    return jnp.maximum(jnp.abs(delta) - jnp.finfo(delta.dtype).tiny, 0.0)


def one_minus(delta: Array) -> Array:
    """1 − ρ."""
    return jnp.where(delta < 0, 2 + delta, delta)


def one_plus(delta: Array) -> Array:
    """1 + ρ."""
    return jnp.where(delta < 0, -delta, 2 - delta)


def rho(delta: Array) -> Array:
    """ρ itself."""
    return jnp.where(delta < 0, -1 - delta, 1 - delta)


def from_covariance(q12: Array, q1: Array, q2: Array) -> Array:
    """δ of a covariance and two variances: as good as q12 allows, which near |ρ| = 1 is half of the digits.

    A distance 1 − |ρ| of a few roundings means 0: otherwise equal inputs, whose q12 and variances differ in the last
    bit, would be taken for inputs at an angle of √ε.
    """
    correlation = inverse(sqrt(q1)) * q12 * inverse(sqrt(q2))
    rounding = 2 * jnp.finfo(correlation.dtype).eps
    minus, plus = (jnp.where(x > rounding, x, 0.0) for x in (1 - correlation, 1 + correlation))
    return signed(minus, plus)


def sum_of(weights: list[tuple[Array, Array]], deltas: list[Array], none: Array) -> Array:
    """δ of a sum of independent terms: with each term's share (r_1, r_2) of the two standard deviations, Σ r² = 1,

        1 ∓ ρ' = Σ r_1 r_2 (1 ∓ ρ) + ½ Σ (r_1 − r_2)²,

    a sum of positive numbers, so that nothing cancels. none: where a variance is zero.
    """
    minus = plus = sum((jnp.square(r1 - r2) for r1, r2 in weights), start=jnp.zeros_like(deltas[0])) / 2
    for (r1, r2), delta in zip(weights, deltas, strict=True):
        minus = minus + r1 * r2 * one_minus(delta)
        plus = plus + r1 * r2 * one_plus(delta)
    return jnp.where(none, 1.0, signed(minus, plus))


def with_bias(delta: Array, weight: tuple[Array, Array], bias: tuple[Array, Array]) -> Array:
    """`sum_of` with a second term that both have in common, ρ = 1: the bias. weight, bias: their shares (r_1, r_2)."""
    (r1, r2), (b1, b2) = weight, bias
    apart = (jnp.square(r1 - r2) + jnp.square(b1 - b2)) / 2
    both, shared = r1 * r2, 2 * (b1 * b2)
    near = both * size(delta) + apart  # 1 ∓ ρ' on the side that δ is on, but for the bias
    return jnp.where(delta < 0, signed(both * (2 + delta) + apart, near + shared), near)
