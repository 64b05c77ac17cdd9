"""Tables of the duals of a network's activations, made for the range of variances before each activation.

The dual of φ is the pair of expectations E[φ(u)φ(v)] and E[φ'(u)φ'(v)] over Gaussian u and v.
"""

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

#: Up to this number of entries, duals at variances above `MODERATE` are integrated for each entry, without a table.
_FEW = 10_000


def tables(network: Network, x: list[np.ndarray], dtype: np.dtype) -> Tables | None:
    """Return the tables of all activations of a network that need one, or None if none does.

    `x` holds the inputs of the rows and, unless the matrix is symmetric, the inputs of the columns.

    Raises:
        ValueError: If a mean square of the inputs is too large for `dtype`, if a layer has no kernel at its place in
            the network, if a variance of the outputs that is not zero would be zero in `dtype`, if a variance before an
            activation is too small for `dtype` or larger than those for which an activation's accuracy is known, or if
            an activation that needs a table jumps at zero or changes its slope there too abruptly.
    """
    for argument, part in zip(("x1", "x2"), x, strict=False):
        refuse_large(argument, part, dtype)
    q = np.concatenate([_mean_squares(part, np.dtype(np.float64)) for part in x])
    found: dict[Activation, tuple[float, float]] = {}
    before_activations, outputs = _variances(network, x[0].shape[-1], _ends(q))
    for activation, v in before_activations:
        low, high = float(v.min()), float(v.max())
        check_large(activation, high, dtype)
        check_small(activation, float(v.min(where=v > 0, initial=np.inf)), dtype)
        before = found.get(activation, (low, high))
        # `_variances` returns the mean of the variances of pooled pixels. The variance of their mean lies between 0 and
        # this value, so with pooling the range starts at 0.
        found[activation] = (min(before[0], low) if not network.net.pools else 0.0, max(before[1], high))
    if ((outputs > 0) & (outputs < float(np.finfo(dtype).tiny))).any():
        raise ValueError(
            f"The outputs have variances down to {outputs[outputs > 0].min():.3g}, which are too small for "
            f"{np.dtype(dtype).name}. Standardize the inputs, use a larger w_std, or use float64."
        )
    # A table for large variances takes seconds to make. To integrate the dual for a few entries takes less time.
    few = math.prod(len(part) for part in (x if len(x) > 1 else 2 * x)) <= _FEW
    wanted = [a for a in found if a.tabulated and not (few and found[a][1] > MODERATE)]
    if not wanted:
        return None
    return Tables(tuple(wanted), tuple(making.made(a, *found[a], dtype) for a in wanted))


def refuse_large(argument: str, x: np.ndarray, dtype: np.dtype) -> None:
    """Raise ValueError if a mean square of the inputs is too large for a type."""
    q = _mean_squares(x, np.result_type(x.dtype, dtype))
    if not float(q.max()) <= float(np.finfo(dtype).max):
        raise ValueError(_checks.too_large(argument, dtype))


def _mean_squares(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the mean squares of x over the last axis. `einsum` makes no array of the size of x."""
    with np.errstate(over="ignore", under="ignore"):
        return np.einsum("...c,...c->...", x, x, dtype=dtype) / x.shape[-1]


def _ends(q: np.ndarray) -> np.ndarray:
    """Return the smallest and the largest variance of the inputs, the smallest that is not zero, and some in between.

    For vectors, q [N], these are 63 quantiles and the smallest variance that is not zero; for images, q [N, H, W], five
    quantiles and that variance at each pixel. Their number is fixed, so that `_variances` compiles its programs once.
    """
    not_zero = q.min(0, where=q > 0, initial=q.max())
    if q.ndim == 1:
        return np.append(np.quantile(q, np.linspace(0, 1, 63)), not_zero)
    return np.stack([q.min(0), not_zero, *np.quantile(q, [0.25, 0.5, 0.75], axis=0), q.max(0)])


def _variances(
    network: Network, features: int, q: np.ndarray
) -> tuple[list[tuple[Activation, np.ndarray]], np.ndarray]:
    """Return the pairs (activation, variances before it), in the order of the layers, and the variances of the outputs.

    q holds variances of inputs.
    """
    with jax.enable_x64(True), noting() as found:
        of_inputs = jnp.asarray(q)
        none = jnp.zeros((len(q), 0, *q.shape[1:]), of_inputs.dtype)  # no second inputs: the covariances are empty
        end = network.net.kernel_map(Kernel(none, none, of_inputs, of_inputs[:0], features, delta=none))
    return found, np.asarray(end.q1)
