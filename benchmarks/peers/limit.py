"""What any program must do for an analytic kernel: half of the product of the inputs, and one pass over the result.

The product is NumPy's, in the inputs' precision: N²·d/2 multiplications, for images with pooling those of all pairs of
pixels. The pass writes each entry of the result once.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.cases import Case

#: Rows and columns that are multiplied at a time: large enough for a fast product, small enough for the cache.
_BLOCK = 512


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {"numpy": version("numpy")}


def prepare(case: Case, option: str, x: np.ndarray, weights: list) -> Callable[[], Any]:
    """The product of half of the pairs, and an array [N, N] that is filled."""
    pools = any(layer[0] in ("pool", "global_pool") for layer in case.layers)
    rows = x.reshape(-1, x.shape[-1]) if pools else x.reshape(len(x), -1)

    def call() -> np.ndarray:
        out = np.empty((len(x), len(x)), x.dtype)
        for i in range(0, len(rows), _BLOCK):
            for j in range(i, len(rows), _BLOCK):
                part = rows[i : i + _BLOCK] @ rows[j : j + _BLOCK].T
                if not pools:
                    out[i : i + _BLOCK, j : j + _BLOCK] = part
                    out[j : j + _BLOCK, i : i + _BLOCK] = part.T
        if pools:
            out[...] = 1.0
        return out

    return call
