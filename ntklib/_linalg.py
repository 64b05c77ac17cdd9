"""Functions of symmetric matrices, written so that zero eigenvalues and infinite times are ordinary points."""

import jax
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


@jax.jit
def descent(rate: Array, steps: Array, learning_rate: Array, momentum: Array) -> tuple[Array, Array]:
    """The same two, (1 − p, (1 − p)/λ), where p is what `steps` steps of heavy ball leave of a mode of rate λ ≥ 0.
    rate [N], steps [T] (∞ allowed where it converges) -> [T, N] each.

    The integral a obeys v ← μ v + 1 − λ a, a ← a + η v: an affine map, raised to its power by squaring. It never
    divides by λ, so that small rates keep their digits, and double roots (critical damping) are no special case.
    """
    finite = jnp.where(jnp.isinf(steps), 0, steps).astype(jnp.int32)
    one, zero = jnp.ones_like(rate), jnp.zeros_like(rate)
    rows = [
        [1 - learning_rate * rate, learning_rate * momentum * one, learning_rate * one],
        [-rate, momentum * one, one],
        [zero, zero, one],
    ]
    step = jnp.stack([jnp.stack(row, -1) for row in rows], -2)  # on (a, v, 1), [N, 3, 3]
    start = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0], rate.dtype), (*finite.shape, *rate.shape, 3))

    def bit(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        state, power = carry
        wanted = ((finite >> i) & 1 == 1)[:, None, None]
        # The power may have overflowed where no bit is left to use it: it must not be multiplied with anything then.
        factor = jnp.where(wanted[..., None], power[None], jnp.eye(3, dtype=rate.dtype)[None, None])
        return jnp.einsum("tnij,tnj->tni", factor, state), jnp.einsum("nij,njk->nik", power, power)

    integral = jax.lax.fori_loop(0, 31, bit, (start, step))[0][..., 0]
    at_rest = jnp.where(rate > 0, 1 / jnp.where(rate > 0, rate, 1.0), 0.0)
    integral = jnp.where(jnp.isinf(steps)[:, None], at_rest[None], integral)
    return rate[None] * integral, integral
