"""Functions of symmetric matrices, written so that zero eigenvalues and infinite times are ordinary points."""

import jax.numpy as jnp
from jax import Array


def decay(rate: Array, t: Array) -> tuple[Array, Array]:
    """(1 − e^(−λt), (1 − e^(−λt))/λ) for λ ≥ 0 and 0 ≤ t ≤ ∞: the part of a mode that has been learned, and the
    integral of its decay. By expm1, so that small λt keeps its digits; at λ = 0 they are 0 and t, at t = ∞ they are
    1 and 1/λ, and at λ = 0, t = ∞ both are 0: a mode of no slope never moves.
    """
    positive = rate > 0
    safe = jnp.where(positive, rate, 1.0)
    learned = jnp.where(positive, -jnp.expm1(-safe * t), 0.0)
    at_rest = jnp.where(jnp.isinf(t), 0.0, t)
    return learned, jnp.where(positive, learned / safe, at_rest)
