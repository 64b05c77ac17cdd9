"""What is computed before a kernel matrix: the range of variances before each activation, and tables for this range."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib import _checks
from ntklib.duals import making
from ntklib.duals.activation import Activation
from ntklib.duals.integrals import MODERATE
from ntklib.duals.tables import Tables
from ntklib.kernel import Kernel
from ntklib.layers.elementwise import check_small, check_variances, noting, smallest_variance
from ntklib.scale.fused import Network

#: Up to this number of entries, duals at large variances are integrated for each entry instead of by a table.
_FEW = 10_000


def tables(network: Network, x: list[np.ndarray], dtype: np.dtype) -> Tables | None:
    """Return the tables for the activations of a network that need one, for the variances of the given inputs.

    Returns:
        The tables, or None if no activation needs one.

    Raises:
        ValueError: If a variance is larger than those for which an activation's accuracy is known, or too small for
            the type.
    """
    activations = _activations(network, x[0].ndim)
    small = np.concatenate([few_digits(argument, part, dtype) for argument, part in zip(("x1", "x2"), x, strict=False)])
    if small.size and activations:
        _refuse_small(network, x[0].shape[-1], small, activations, dtype)
    if not any(a.tabulated or np.isfinite(a.limit(dtype)) for a in activations):
        return None
    q = np.concatenate([np.square(part, dtype=np.float64).mean(-1) for part in x])
    # A few variances are enough to find a range. Their number is fixed, so that the function compiles once.
    ends = _ends(q)
    with jax.enable_x64(True):
        ranges = np.asarray(_ranges(network, x[0].shape[-1], ends))
    found: dict[Activation, tuple[float, float]] = {}
    for activation, (low, high) in zip(activations, ranges, strict=True):
        check_variances(activation, np.asarray([low, high], dtype))
        before = found.get(activation, (low, high))
        # After pooling a variance may be smaller than the mean of those before it: the range starts at 0.
        found[activation] = (min(before[0], low) if not network.net.pools else 0.0, max(before[1], high))
    # A table for large variances takes seconds to make, and a few entries are integrated in less time.
    few = math.prod(len(part) for part in (x if len(x) > 1 else 2 * x)) <= _FEW
    wanted = [a for a in found if a.tabulated and not (few and found[a][1] > MODERATE)]
    if not wanted:
        return None
    return Tables(tuple(wanted), tuple(making.made(a, *found[a], dtype) for a in wanted))


def few_digits(argument: str, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the mean squares of vectors that are not zero, but smaller than variances with all digits.

    Refuse inputs, also images, whose mean squares are too large for the type.
    """
    with np.errstate(over="ignore", under="ignore"):  # by a product, which makes no array of the size of x
        q = np.einsum("...c,...c->...", x, x, dtype=np.result_type(x.dtype, dtype)) / x.shape[-1]
    if not float(q.max()) <= float(np.finfo(dtype).max):
        raise ValueError(_checks.too_large(argument, dtype))
    if q.ndim > 1:
        return np.zeros(0)
    q = np.square(x[q < smallest_variance(dtype)], dtype=np.float64).mean(-1)
    return q[q > 0]


def _refuse_small(
    network: Network, features: int, q: np.ndarray, activations: list[Activation], dtype: np.dtype
) -> None:
    """Refuse inputs whose variance before an activation is too small for the type, as there is no bias before it."""
    with jax.enable_x64(True):
        ranges = np.asarray(_ranges(network, features, _ends(q)))
    for activation, (low, _) in zip(activations, ranges, strict=True):
        check_small(activation, low, dtype)


def _ends(q: np.ndarray) -> np.ndarray:
    """Return the smallest and largest variance of the inputs and some between; for images at each pixel."""
    if q.ndim == 1:
        return np.quantile(q, np.linspace(0, 1, 64))
    return np.stack([q.min(0), *np.quantile(q, [0.25, 0.5, 0.75], axis=0), q.max(0)])


@functools.lru_cache(maxsize=64)
def _activations(network: Network, rank: int) -> list[Activation]:
    """Return the activations of a network in the order of the layers."""
    found: list[Activation] = []

    def walk(layer: Any) -> None:
        for part in (
            getattr(layer, "layers", None) or getattr(layer, "branches", None) or [getattr(layer, "branch", None)]
        ):
            if part is not None:
                walk(part)
        if hasattr(layer, "activation"):
            found.append(layer.activation)

    walk(network.net)
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _ranges(network: Network, features: int, q: Array) -> Array:
    """Return the smallest and largest variance before each activation, [activations, 2]."""
    none = jnp.zeros((len(q), 0, *q.shape[1:]), q.dtype)
    k = Kernel(none, none, q, q[:0], features, delta=none)
    with noting() as found:
        network.net.kernel_map(k)
    return jnp.stack([jnp.stack([low, high]) for _, low, high in found])
