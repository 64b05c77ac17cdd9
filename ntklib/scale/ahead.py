"""What is computed before a kernel matrix: the range of variances before each activation, and tables for this range."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ntklib import _checks
from ntklib.duals import making
from ntklib.duals.activation import Activation
from ntklib.duals.integrals import MODERATE
from ntklib.duals.tables import Tables
from ntklib.kernel import Kernel
from ntklib.layers.elementwise import check_large, check_small, noting
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
    for argument, part in zip(("x1", "x2"), x, strict=False):
        refuse_large(argument, part, dtype)
    q = np.concatenate([_mean_squares(part, np.dtype(np.float64)) for part in x])
    found: dict[Activation, tuple[float, float]] = {}
    for activation, v in _variances(network, x[0].shape[-1], _ends(q)):
        low, high = float(v.min()), float(v.max())
        check_large(activation, high, dtype)
        check_small(activation, float(v.min(where=v > 0, initial=np.inf)), dtype)
        before = found.get(activation, (low, high))
        # After pooling a variance may be smaller than the mean of those before it: the range starts at 0.
        found[activation] = (min(before[0], low) if not network.net.pools else 0.0, max(before[1], high))
    # A table for large variances takes seconds to make, and a few entries are integrated in less time.
    few = math.prod(len(part) for part in (x if len(x) > 1 else 2 * x)) <= _FEW
    wanted = [a for a in found if a.tabulated and not (few and found[a][1] > MODERATE)]
    if not wanted:
        return None
    return Tables(tuple(wanted), tuple(making.made(a, *found[a], dtype) for a in wanted))


def refuse_large(argument: str, x: np.ndarray, dtype: np.dtype) -> None:
    """Refuse inputs whose mean squares are too large for the type."""
    q = _mean_squares(x, np.result_type(x.dtype, dtype))
    if not float(q.max()) <= float(np.finfo(dtype).max):
        raise ValueError(_checks.too_large(argument, dtype))


def _mean_squares(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the mean squares over the last axis, by a product, which makes no array of the size of x."""
    with np.errstate(over="ignore", under="ignore"):
        return np.einsum("...c,...c->...", x, x, dtype=dtype) / x.shape[-1]


def _ends(q: np.ndarray) -> np.ndarray:
    """Return the smallest and largest variance of the inputs and some between; for images at each pixel.

    A few variances are enough to find a range. Their number is fixed, so that what is computed from them compiles once.
    The smallest variance that is not zero is one of them.
    """
    if q.ndim == 1:
        return np.append(np.quantile(q, np.linspace(0, 1, 63)), q.min(where=q > 0, initial=q.max()))
    return np.stack([q.min(0), *np.quantile(q, [0.25, 0.5, 0.75], axis=0), q.max(0)])


def _variances(network: Network, features: int, q: np.ndarray) -> list[tuple[Activation, np.ndarray]]:
    """Return each activation, in the order of the layers, with the variances of its inputs."""
    with jax.enable_x64(True), noting() as found:
        of_inputs = jnp.asarray(q)
        none = jnp.zeros((len(q), 0, *q.shape[1:]), of_inputs.dtype)
        network.net.kernel_map(Kernel(none, none, of_inputs, of_inputs[:0], features, delta=none))
    return found
