"""Checks of kernels that are passed as arrays, and in which arithmetic they were computed."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ntklib._checks.arrays import checked, on_host
from ntklib._checks.values import is_traced

#: How far entries (i, j) and (j, i) of a kernel may differ, in ε of the largest entry. `gram(net, x, x)` in float32
#: computes the two in different tiles; with 5,000 inputs they differed by up to 20.
_SYMMETRY = 100.0


def square_kernel(argument: str, value: Any) -> Any:
    """Check a kernel between the same inputs, [N, N], and return it as it came.

    It must be square, symmetric, and not negative on the diagonal, all up to rounding. A kernel in float64 may have
    been computed in float32, and is then symmetric to the digits of float32 only; `rounding` tells whether it was.
    """
    k = checked(argument, value, "N N")
    if k.shape[0] != k.shape[1]:
        raise ValueError(
            f"`{argument}` must be square, [N, N]: the kernel of the training inputs with themselves; got {k.shape}."
        )
    if is_traced(k):
        return k
    known = on_host(argument, k)
    scale, asymmetry = float(np.abs(known).max()), _asymmetry(known)
    eps = max(float(jnp.finfo(k.dtype).eps), _SINGLE)
    slack = min(_SYMMETRY * eps, 0.1) * scale  # 0.1 because bfloat16 has two digits only
    if asymmetry > slack:
        raise ValueError(
            f"`{argument}` must be symmetric; entries (i, j) and (j, i) differ by up to {asymmetry:.3g}. "
            f"Was it computed between two different sets of inputs?"
        )
    lowest = float(known.diagonal().min())
    if lowest < -slack:
        raise ValueError(f"`{argument}` must be positive semi-definite; its diagonal holds {lowest:.3g}.")
    return k


_SINGLE = float(np.finfo(np.float32).eps)


def rounding(kernel: Any, *, square: bool) -> float:
    """Return the ε of the arithmetic in which a kernel was computed.

    It is that of its dtype, unless the kernel is in float64 and its values show that they come from float32: all of
    them are float32 numbers, or a `square` kernel is symmetric to the digits of float32 only. A kernel that was written
    by hand, of numbers such as 0 and 1.5 that need few bits, is exact, and does not count as one from float32.
    """
    eps = float(jnp.finfo(kernel.dtype).eps)
    if is_traced(kernel) or kernel.dtype != np.float64:
        return eps
    known = np.asarray(kernel)
    with np.errstate(over="ignore", under="ignore"):
        single = known.astype(np.float32)
    from_single = np.array_equal(single, known) and bool((single.view(np.uint32) & 0xFF).any())
    uneven = square and _asymmetry(known) > _SYMMETRY * eps * float(np.abs(known).max())
    return _SINGLE if from_single or uneven else eps


def _asymmetry(known: np.ndarray) -> float:
    return float(np.abs(known - known.T).max())


def cross_kernel(argument: str, value: Any, n: int) -> Any:
    """Check a kernel `[M, N]` between M test and N training inputs, and return it as it came."""
    k = checked(argument, value, "M N")
    if k.shape[1] != n:
        swapped = f" It looks transposed: pass `{argument}.T`." if k.shape[0] == n else ""
        raise ValueError(
            f"`{argument}` must be [M, N], a row for each test input and a column for each of the {n} training inputs; "
            f"got {k.shape}.{swapped}"
        )
    return k
