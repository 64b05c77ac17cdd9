"""Functions of symmetric matrices, written so that zero eigenvalues and infinite times are ordinary points."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@contextlib.contextmanager
def double_precision(known: bool) -> Iterator[None]:
    """Return a context in which JAX computes in float64 if all values are `known`. Otherwise it changes nothing.

    An eigendecomposition has errors of ε λ_max, and λ_max grows with N. In float32 they would be √N times as large as
    the errors of the kernel's entries. Inside a function that is being traced, known values are computed immediately,
    so that no float64 enters a program in float32.
    """
    if not known:
        yield
        return
    with jax.ensure_compile_time_eval() if inside_jit() else contextlib.nullcontext(), jax.enable_x64(True):
        yield


def inside_jit() -> bool:
    """Whether a function is being traced. JAX then adds operations to a program instead of computing them."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def vector(values: Any, dtype: Any) -> Array:
    """Return one or several times as an array [T]. Known times beyond the range of the type become ∞."""
    if isinstance(values, jax.core.Tracer):
        return jnp.atleast_1d(values).astype(dtype)
    with np.errstate(over="ignore"):
        return jnp.asarray(np.atleast_1d(values).astype(dtype))


def decay(rate: Array, t: Array) -> tuple[Array, Array]:
    """Return (1 − e^(−λt), (1 − e^(−λt))/λ) for rates λ ≥ 0 and times 0 ≤ t ≤ ∞.

    These are the part of a mode that has been learned, and the integral of its decay. They are computed by expm1, so
    that small λt keeps its digits. At λ = 0 they are 0 and t. At t = ∞ they are 1 and 1/λ. At λ = 0 and t = ∞ both are
    0, because a mode with λ = 0 never moves.
    """
    positive = rate > 0
    safe = jnp.where(positive, rate, 1.0)
    forever = jnp.isinf(t)
    at_rest = jnp.where(forever, 0.0, t)
    # At t = ∞ the derivative of e^(−λt) by λ would be ∞ · 0.
    learned = jnp.where(positive, jnp.where(forever, 1.0, -jnp.expm1(-safe * at_rest)), 0.0)
    return learned, jnp.where(positive, learned / safe, at_rest)


def descent(
    rate: Array, steps: Any, learning_rate: Array, momentum: Array, *, nesterov: bool = False
) -> tuple[Array, Array]:
    """Return (1 − p, (1 − p)/λ), where p is the share of a mode of rate λ ≥ 0 left after some steps with momentum.

    From rates [N] and steps [T] (∞ is allowed if the steps converge) it makes two arrays [T, N].
    With g = 1 − λ a, the integral a = (1 − p)/λ obeys v ← μ v + g, a ← a + η v, and with Nesterov's momentum
    a ← a + η (μ v + g). This is an affine map, whose power is computed by repeated squaring. It never divides by λ, so
    that small rates keep their digits. Double roots (critical damping) need no special case.
    """
    # In terms of v before the step, a grows by η (old · v + new · g).
    old, new = (momentum**2, 1 + momentum) if nesterov else (momentum, jnp.ones_like(momentum))
    return _descent(rate, _bits(steps), jnp.isinf(steps), learning_rate, momentum, (old, new))


def _bits(steps: Any) -> Array:
    """Return the binary digits of numbers of steps [T], the lowest first, [bits, T]. The digits of ∞ are 0.

    Known numbers may be as large as floating-point numbers can be. Numbers under jit are below 2³¹.
    """
    if isinstance(steps, jax.core.Tracer):
        finite = jnp.where(jnp.isinf(steps), 0, steps).astype(jnp.int32)
        return (finite[None, :] >> jnp.arange(31, dtype=jnp.int32)[:, None]) & 1 == 1
    whole = [int(s) if np.isfinite(s) else 0 for s in np.asarray(steps)]
    length = 31 if max(whole) < 2**31 else 1024  # two lengths, each compiled once
    return jnp.asarray([[s >> i & 1 == 1 for s in whole] for i in range(length)])


@jax.jit
def _descent(
    rate: Array, bits: Array, at_the_end: Array, learning_rate: Array, momentum: Array, weights: tuple[Array, Array]
) -> tuple[Array, Array]:
    old, new = (learning_rate * weight for weight in weights)
    one, zero = jnp.ones_like(rate), jnp.zeros_like(rate)
    # The matrix of one step on (a, v, 1), minus the identity: 1 − ηλ would lose all digits of a rate below ε.
    rows = [
        [-new * rate, old * one, new * one],
        [-rate, (momentum - 1) * one, one],
        [zero, zero, zero],
    ]
    step = jnp.stack([jnp.stack(row, -1) for row in rows], -2)  # [N, 3, 3]
    start = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0], rate.dtype), (bits.shape[1], *rate.shape, 3))

    def square(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        state, power = carry
        # After the last bit that is set, the power may have overflowed, and must not be multiplied with anything.
        wanted = jnp.where(bits[i][:, None, None, None], power[None], 0.0)
        state = state + jnp.einsum("tnij,tnj->tni", wanted, state)
        return state, 2 * power + jnp.einsum("nij,njk->nik", power, power)  # (1 + P)² = 1 + 2P + P²

    integral = jax.lax.fori_loop(0, len(bits), square, (start, step))[0][..., 0]
    moves = (rate > 0) & (learning_rate > 0)
    at_rest = jnp.where(moves, 1 / jnp.where(moves, rate, 1.0), 0.0)
    integral = jnp.where(at_the_end[:, None], at_rest[None], integral)
    return jnp.where(rate > 0, rate[None] * integral, 0.0), integral
