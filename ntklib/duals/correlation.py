"""The correlation ρ of two Gaussian numbers, stored as δ = 1 − abs(ρ) with the sign of ρ.

In deep networks, and for inputs that are nearly equal, 1 − ρ can be smaller than the rounding error of the number ρ.
With odd activations and nearly opposite inputs, 1 + ρ can be as small. A `Kernel` therefore holds::

    δ = 1 − ρ ∈ [0, 1] for ρ ≥ 0,   δ = −(1 + ρ) ∈ [−1, 0) for ρ < 0.

At ρ = −1, δ is minus the smallest positive normal number instead of 0, so that the sign of ρ is kept. If a variance is
zero, ρ is not defined, and δ is set to 1 (ρ = 0). All functions here are elementwise.
"""

import jax
import jax.numpy as jnp
from jax import Array


def sqrt(x: Array) -> Array:
    """Return √max(x, 0), with the derivative 0 for x ≤ 0. At x = 0 the derivative of the plain root is infinite."""
    outside = x <= 0  # false for NaN, which must not become 0
    return jnp.where(outside, 0.0, jnp.sqrt(jnp.where(outside, 1.0, x)))


def inverse(x: Array) -> Array:
    """Return 1/x, and 0 where x is 0."""
    return jnp.where(x == 0, 0.0, 1 / jnp.where(x == 0, 1.0, x))


def once[Arrays](arrays: Arrays) -> Arrays:
    """Return the same arrays, behind an optimization barrier.

    A vector has an entry for each input. If a matrix is computed from a vector, XLA without the barrier would compute
    the vector again for each entry of the matrix.
    """
    return jax.lax.optimization_barrier(arrays)


def signed(minus: Array, plus: Array) -> Array:
    """Return δ from 1 − ρ and 1 + ρ. Only the smaller of the two is used."""
    smallest = jnp.asarray(jnp.finfo(minus.dtype).tiny, minus.dtype)
    return jnp.where(minus <= plus, jnp.maximum(minus, 0.0), -jnp.maximum(plus, smallest))


def turned(d: Array, positive: Array) -> Array:
    """Return δ from d = 1 − abs(ρ) and from whether ρ ≥ 0."""
    smallest = jnp.asarray(jnp.finfo(d.dtype).tiny, d.dtype)
    return jnp.where(positive, jnp.maximum(d, 0.0), -jnp.maximum(d, smallest))


def acute(delta: Array) -> Array:
    """Return δ with ρ = 0 where ρ < 0, for correlations that only rounding has made negative."""
    return jnp.where(delta < 0, 1.0, delta)


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
    """Return δ from a covariance and two variances. Its absolute error is a few ε, the spacing of numbers next to 1.

    If 1 − abs(ρ) is at most 2ε, it is set to 0. Without this rule two equal inputs would get an angle of about √ε if
    rounding has made their covariance and their variances differ in the last bit.
    """
    correlation = inverse(sqrt(q1)) * q12 * inverse(sqrt(q2))
    rounding = 2 * jnp.finfo(correlation.dtype).eps
    minus, plus = (jnp.where(x <= rounding, 0.0, x) for x in (1 - correlation, 1 + correlation))
    return signed(minus, plus)


def sum_of(weights: list[tuple[Array, Array]], deltas: list[Array], none: Array) -> Array:
    """Return δ of a sum of independent terms, from the δ of each term.

    For input 1 let r_1 be the standard deviation of a term divided by that of the sum, and r_2 the same for input 2.
    The squares of r_1 over all terms add up to 1, and so do those of r_2. With the correlations ρ of the terms and ρ'
    of the sum, and with Σ over the terms::

        1 ∓ ρ' = Σ r_1 r_2 (1 ∓ ρ) + ½ Σ (r_1 − r_2)².

    No summand is negative, so nothing cancels.

    Args:
        weights: The pair (r_1, r_2) of each term.
        deltas: δ of each term.
        none: Whether the sum has variance zero for one of the inputs. Where it does, the result is 1.
    """
    minus = plus = sum((jnp.square(r1 - r2) for r1, r2 in weights), start=jnp.zeros_like(deltas[0])) / 2
    for (r1, r2), delta in zip(weights, deltas, strict=True):
        minus = minus + r1 * r2 * one_minus(delta)
        plus = plus + r1 * r2 * one_plus(delta)
    return jnp.where(none, 1.0, signed(minus, plus))


def with_bias(delta: Array, weight: tuple[Array, Array], bias: tuple[Array, Array], acute: bool = False) -> Array:
    """Return δ of the sum of a term with the given δ and a bias, whose correlation is 1.

    `weight` and `bias` are the pairs (r_1, r_2) of the term and of the bias, as in `sum_of`. `acute` says that no δ is
    negative.
    """
    (r1, r2), (b1, b2) = weight, bias
    apart = (jnp.square(r1 - r2) + jnp.square(b1 - b2)) / 2
    both, shared = r1 * r2, 2 * (b1 * b2)
    if acute:
        return both * delta + apart
    near = both * size(delta) + apart  # 1 − ρ' for ρ ≥ 0; for ρ < 0 it is 1 + ρ' − 2 b_1 b_2
    return jnp.where(delta < 0, signed(both * (2 + delta) + apart, near + shared), near)
