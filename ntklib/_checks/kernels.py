"""Checks of kernels that are passed as arrays, and the rounding error of the arithmetic that computed them."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ntklib._checks.arrays import checked, on_host
from ntklib._checks.values import is_traced

#: Entries (i, j) and (j, i) of a kernel may differ by this many times ε · (the largest entry). `gram(net, x, x)` in
#: float32 computes them in different tiles. With 5,000 inputs they differed by up to 20 times ε · (the largest entry).
_SYMMETRY = 100.0


def square_kernel(argument: str, value: Any) -> Any:
    """Check the kernel [N, N] of a set of inputs with itself, and return it as it came.

    It must be square. Up to rounding, it must be symmetric and must not be negative on the diagonal. Rounding errors of
    float32 are allowed in float64 too, because such a kernel may have been computed in float32 (see `rounding`).
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
    slack = min(_SYMMETRY * eps, 0.1) * scale  # at most 0.1, because 100 ε of bfloat16 is 0.8
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
    """Return the machine epsilon ε of the arithmetic in which a kernel was computed.

    For a kernel in float64 it is the ε of float32 in two cases: if float32 holds all entries exactly and some have more
    than 16 significant bits, or if the kernel is `square` and not symmetric to the digits of float64. Numbers that
    somebody has typed, such as 0 and 1.5, have fewer bits, and are exact. In all other cases, and for traced kernels,
    it is the ε of the kernel's dtype.
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
    """Check a kernel [M, N] between M test inputs and N = `n` training inputs, and return it as it came."""
    k = checked(argument, value, "M N")
    if k.shape[1] != n:
        swapped = f" It looks transposed: pass `{argument}.T`." if k.shape[0] == n else ""
        raise ValueError(
            f"`{argument}` must be [M, N], a row for each test input and a column for each of the {n} training inputs; "
            f"got {k.shape}.{swapped}"
        )
    return k


def usable_diagonal(inputs: str, diagonal: np.ndarray, dtype: Any) -> None:
    """Refuse the diagonal [N] of a kernel of `inputs`, computed in `dtype`, if it is not finite or zero everywhere."""
    n, name = len(diagonal), jnp.dtype(dtype).name
    if not np.isfinite(diagonal).all():
        raise ValueError(
            f"The kernel of {np.count_nonzero(~np.isfinite(diagonal))} of the {n} {inputs} is not finite: they are too "
            f"large, or the activation is not finite there. Scale the inputs{', or use float64' * (name != 'float64')}."
        )
    if not diagonal.any():
        raise ValueError(
            f"The kernel of the {inputs} consists of zeros: all {n} are zero, or too small for {name}, and no layer "
            f"has a bias. Scale the inputs, or use a `b_std`."
        )
