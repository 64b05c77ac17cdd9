"""The Cholesky factor of a kernel with a ridge, and two quantities computed from it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ntklib import _checks

#: A triangular matrix with at most this many rows is inverted by one call, a larger one by halves.
_AT_ONCE = 512


def factor(argument: str, kernel: Array, ridge: Any, eps: float) -> Array:
    """Return the lower Cholesky factor L of K + ridge · tr(K)/N · 1, for a kernel K, [N, N].

    Error messages call the kernel `argument`. Its entries are known to the relative precision `eps`.

    Raises:
        ValueError: If the matrix is singular or indefinite to this precision. Traced kernels are not checked.
    """
    n = len(kernel)
    regular = kernel + ridge * jnp.trace(kernel) / n * jnp.eye(n, dtype=kernel.dtype)
    low = jnp.linalg.cholesky(regular)
    pivots = jnp.diagonal(low) ** 2
    # Pivot i is the variance of number i of a Gaussian vector with this covariance, given the numbers before it. Up to
    # the floor it may be a rounding error. The floor is that of an eigenvalue in `_spectrum`, 4ε√N times the diagonal,
    # but for each input. The factor of an indefinite matrix is NaN, and `NaN > floor` is False.
    floor = 4 * n**0.5 * eps * jnp.diagonal(regular)
    if not _checks.is_traced(pivots) and not bool((pivots > floor).all()):
        raise ValueError(
            f"`{argument}` with `ridge` = {ridge:g} is singular or indefinite to the precision in which it was "
            f"computed: some inputs may be zero, equal or nearly equal, or the rank of the kernel is below the number "
            f"of inputs. Use {'a larger ridge' if ridge else 'a ridge, e.g. ridge=1e-4'}, or compute the kernel in "
            f"float64 (to convert it afterwards does not help)."
        )
    return low


def smallest_eigenvalue(low: Array) -> Array:
    """Estimate the smallest eigenvalue of L Lᵀ by 20 inverse iterations. The estimate is never too small."""
    v = jnp.cos(jnp.arange(float(len(low))))[:, None]
    for _ in range(20):
        v = jax.scipy.linalg.cho_solve((low, True), v / jnp.linalg.norm(v))
    return 1 / jnp.linalg.norm(v)


def inverse_diagonal(low: Array) -> Array:
    """Return the diagonal of (L Lᵀ)⁻¹, [N]. Entry i is the squared norm of column i of L⁻¹."""
    return jnp.sum(_inverse(low) ** 2, axis=0)


def _inverse(low: Array) -> Array:
    """Return L⁻¹ by halves, for large N in about 2N³/3 operations. Solving L X = 1 takes N³.

    The inverse of [[A, 0], [B, C]] is [[A⁻¹, 0], [−C⁻¹ B A⁻¹, C⁻¹]].
    """
    n = len(low)
    if n <= _AT_ONCE:
        return jax.scipy.linalg.solve_triangular(low, jnp.eye(n, dtype=low.dtype), lower=True)
    half = n // 2
    top, bottom = _inverse(low[:half, :half]), _inverse(low[half:, half:])
    corner = -bottom @ (low[half:, :half] @ top)
    return jnp.block([[top, jnp.zeros((half, n - half), low.dtype)], [corner, bottom]])
