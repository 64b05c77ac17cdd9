"""How modes decay in training, also at zero eigenvalues and infinite times; and the precision in which to compute."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@contextlib.contextmanager
def double_precision(known: bool) -> Iterator[None]:
    """Return a context in which JAX computes in float64 if `known` is true. Otherwise the context changes nothing.

    `known` says that no value is traced. Inside jit, operations in the context run immediately. Otherwise JAX would add
    operations in float64 to a program in float32.

    The reason for float64: an eigendecomposition moves eigenvalues by about ε λ_max, where ε is the precision of its
    type, and λ_max grows like N. Rounding the kernel's entries to float32 moves eigenvalues only by about ε√N times the
    diagonal, with the ε of float32. A decomposition in float32 would therefore move them √N times as far.
    """
    if not known:
        yield
        return
    with jax.ensure_compile_time_eval() if inside_jit() else contextlib.nullcontext(), jax.enable_x64(True):
        yield


def inside_jit() -> bool:
    """Return whether this runs inside jit, where JAX adds operations to a program instead of computing them."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def vector(values: Any, dtype: Any) -> Array:
    """Return one time or several as an array [T] of `dtype`. Known times beyond the range of this type become ∞."""
    if isinstance(values, jax.core.Tracer):
        return jnp.atleast_1d(values).astype(dtype)
    with np.errstate(over="ignore"):
        return jnp.asarray(np.atleast_1d(values).astype(dtype))


def decay(rate: Array, t: Array) -> tuple[Array, Array]:
    """Return 1 − e^(−λt) and (1 − e^(−λt))/λ, for rates λ ≥ 0 and times 0 ≤ t ≤ ∞ that broadcast.

    Here a rate is an eigenvalue of Θ/N, where Θ includes its ridge. The first result is the learned part of the mode,
    and the second is the integral of e^(−λs) over 0 ≤ s ≤ t. `expm1` keeps the digits of a small λt. At λ = 0 the
    results are 0 and t, and at t = ∞ they are 1 and 1/λ. At λ = 0 and t = ∞ the integral is set to 0, because such a
    mode never moves.
    """
    positive = rate > 0
    safe = jnp.where(positive, rate, 1.0)
    forever = jnp.isinf(t)
    finite = jnp.where(forever, 0.0, t)  # at t = ∞ the derivative of e^(−λt) with respect to λ would be ∞ · 0
    learned = jnp.where(positive, jnp.where(forever, 1.0, -jnp.expm1(-safe * finite)), 0.0)
    return learned, jnp.where(positive, learned / safe, finite)


def descent(
    rate: Array, steps: Any, learning_rate: Array, momentum: Array, *, nesterov: bool = False
) -> tuple[Array, Array]:
    """Return 1 − p and (1 − p)/λ, [T, N] each, for rates λ ≥ 0, [N], and numbers of steps, [T].

    Here a rate is an eigenvalue of Θ/N, where Θ includes its ridge, and p is the part of the mode's residual that is
    left after the steps. A number of steps may be ∞ if the steps converge. Let a = (1 − p)/λ, and let v be the velocity
    of the mode. Both start at 0. A step with momentum does::

        p = 1 − λ a,  v ← μ v + p,  a ← a + η v  (heavy ball)  or  a ← a + η (μ v + p)  (Nesterov's).

    This affine map of (a, v) is raised to the power of the number of steps by repeated squaring. This needs no division
    by λ, so that small rates keep their digits, and no special case for critical damping (two equal roots).
    """
    # In terms of v before the step, a grows by η (old · v + new · p).
    old, new = (momentum**2, 1 + momentum) if nesterov else (momentum, jnp.ones_like(momentum))
    return _descent(rate, _bits(steps), jnp.isinf(steps), learning_rate, momentum, (old, new))


def _bits(steps: Any) -> Array:
    """Return the binary digits of numbers of steps [T], the lowest first, as booleans [bits, T]. ∞ has the digits of 0.

    Known numbers may be any that float64 holds. Traced numbers must be below 2³¹.
    """
    if isinstance(steps, jax.core.Tracer):
        finite = jnp.where(jnp.isinf(steps), 0, steps).astype(jnp.int32)
        return (finite[None, :] >> jnp.arange(31, dtype=jnp.int32)[:, None]) & 1 == 1
    whole = [int(s) if np.isfinite(s) else 0 for s in np.asarray(steps)]
    length = 31 if max(whole) < 2**31 else 1024  # only two lengths, as `_descent` is compiled for each
    return jnp.asarray([[s >> i & 1 == 1 for s in whole] for i in range(length)])


@jax.jit
def _descent(
    rate: Array, bits: Array, at_the_end: Array, learning_rate: Array, momentum: Array, weights: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Return what `descent` does. `bits` come from `_bits`, `at_the_end` marks ∞ steps, `weights` is (old, new)."""
    old, new = (learning_rate * weight for weight in weights)
    one, zero = jnp.ones_like(rate), jnp.zeros_like(rate)
    # The matrix of one step on (a, v, 1), minus the identity: 1 − ηλ would lose all digits of an ηλ below ε.
    rows = [
        [-new * rate, old * one, new * one],
        [-rate, (momentum - 1) * one, one],
        [zero, zero, zero],
    ]
    step = jnp.stack([jnp.stack(row, -1) for row in rows], -2)  # [N, 3, 3]
    start = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0], rate.dtype), (bits.shape[1], *rate.shape, 3))

    def square(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        state, power = carry
        # Beyond the highest bit of a number the power may have overflowed to ∞, and 0 · ∞ would be NaN.
        wanted = jnp.where(bits[i][:, None, None, None], power[None], 0.0)
        state = state + jnp.einsum("tnij,tnj->tni", wanted, state)
        return state, 2 * power + jnp.einsum("nij,njk->nik", power, power)  # (1 + P)² = 1 + 2P + P²

    integral = jax.lax.fori_loop(0, len(bits), square, (start, step))[0][..., 0]
    moves = (rate > 0) & (learning_rate > 0)
    at_rest = jnp.where(moves, 1 / jnp.where(moves, rate, 1.0), 0.0)
    integral = jnp.where(at_the_end[:, None], at_rest[None], integral)
    return jnp.where(rate > 0, rate[None] * integral, 0.0), integral
