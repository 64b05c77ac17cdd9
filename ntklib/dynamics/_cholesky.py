"""The Cholesky factor of a kernel with a ridge, and what follows from it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ntklib import _checks

#: Triangular matrices up to this size are inverted at once, larger ones in two halves.
_AT_ONCE = 512


def factor(argument: str, kernel: Array, ridge: Any, eps: float) -> Array:
    """Return the Cholesky factor of K + ridge · tr(K)/N · 1.

    `argument` is the name by which an error calls the kernel, and `eps` the precision of the kernel's type.
    """
    n = len(kernel)
    regular = kernel + ridge * jnp.trace(kernel) / n * jnp.eye(n, dtype=kernel.dtype)
    low = jnp.linalg.cholesky(regular)
    pivots = jnp.diagonal(low) ** 2
    # A pivot is the conditional variance of an input, given those before it. Below the floor it is a rounding error.
    # NaN fails the test as well.
    floor = 4 * n**0.5 * eps * jnp.diagonal(regular)
    if not _checks.is_traced(pivots) and not bool((pivots > floor).all()):
        raise ValueError(
            f"`{argument}` is singular to the precision of its type with `ridge` = {ridge:g}: inputs that are zero, "
            f"equal or nearly so, or fewer features than inputs. Use a ridge, e.g. ridge=1e-4, or compute it in "
            f"float64."
        )
    return low


def smallest_eigenvalue(low: Array) -> Array:
    """Estimate the smallest eigenvalue of L Lᵀ from above, by inverse iteration."""
    v = jnp.cos(jnp.arange(float(len(low))))[:, None]
    for _ in range(20):
        v = jax.scipy.linalg.cho_solve((low, True), v / jnp.linalg.norm(v))
    return 1 / jnp.linalg.norm(v)


def inverse_diagonal(low: Array) -> Array:
    """Return the diagonal of (L Lᵀ)⁻¹: the squared norms of the columns of L⁻¹."""
    return jnp.sum(_inverse(low) ** 2, axis=0)


def _inverse(low: Array) -> Array:
    """Return L⁻¹ by halves, 2N³/3 operations. Solving for the columns of the identity would take N³."""
    n = len(low)
    if n <= _AT_ONCE:
        return jax.scipy.linalg.solve_triangular(low, jnp.eye(n, dtype=low.dtype), lower=True)
    half = n // 2
    top, bottom = _inverse(low[:half, :half]), _inverse(low[half:, half:])
    corner = -bottom @ (low[half:, :half] @ top)
    return jnp.block([[top, jnp.zeros((half, n - half), low.dtype)], [corner, bottom]])
