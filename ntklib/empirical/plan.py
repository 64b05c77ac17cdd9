"""The plan of an empirical NTK: the method that computes it, and the sizes of its tiles."""

import functools
from typing import Any, Literal, NamedTuple

from ntklib.empirical import blocks, methods
from ntklib.empirical import cost as costs
from ntklib.empirical.checks import Ready

Outputs = Literal["mean", "full", "diagonal"]
Method = Literal["auto", "jacobian", "products", "layerwise"]
#: The names of all methods.
METHODS: tuple[Method, ...] = ("auto", "layerwise", "jacobian", "products")


class Plan(NamedTuple):
    """How to compute a kernel. Models of one structure with inputs of one shape have the same plan.

    `dtype` is the type of the kernel, and `precision` the relative rounding error of the numbers in the model.
    """

    strategy: blocks.Strategy
    tiling: blocks.Tiling
    dtype: Any
    precision: float


def planned(given: Ready, *, outputs: Outputs, method: Method, max_memory: float, tile: int | None) -> Plan:
    """Return the plan for a model and its inputs. Options and errors are those of `empirical_ntk`."""
    function, arguments, x1, x2, k = given
    n, m = x1.shape[0], (x1 if x2 is None else x2).shape[0]
    cost = costs.of(function, arguments, costs.example(x1), outputs)
    if method == "auto":
        method = cost.cheapest(n, m)
    if method == "products" and not cost.pushes_forward:
        raise TypeError(costs.NO_PUSH)
    # Large tiles make matrix products fast; more tiles skip more of the lower triangle of a symmetric kernel. There are
    # at least two along the rows, unless they would be smaller than a quarter of `widest`. In a "full" kernel each
    # example has K rows, so that a tile of 640/K examples has 640 rows.
    widest = max(8, 640 // k) if outputs == "full" else 256
    most = min(max(n, m), tile or min(widest, max(-(-n // 2), widest // 4)))
    memory, chunk = functools.partial(cost.memory, method), functools.partial(cost.chunk, method)
    tiling = blocks.choose(memory, chunk, k, most, max_memory)
    return Plan(methods.strategy(method, function, outputs, k), tiling, cost.dtype, cost.precision)
