"""PyTorch by `torch.func`: Jacobians of each example by vmap(jacrev), contracted, as in PyTorch's tutorial on NTKs.

Runs in an environment of its own, which need not have JAX, under Python 3.10 or newer.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.cases import Case, Layers, affine, scale

#: Jacobians held at a time; more inputs than fit are taken in blocks.
BYTES = 2**30


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {"torch": str(torch.__version__)}


def prepare(case: Case, option: str, x: np.ndarray, weights: list) -> Callable[[], Any]:
    """The empirical kernel of `case` on the inputs `x`."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    params, function = network(case, weights)
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim == 4 else x))
    jacobian = torch.func.vmap(torch.func.jacrev(function), (None, 0))
    with torch.no_grad():
        outputs = function(params, inputs[0]).shape[0]
    size = sum(p.numel() for p in params)
    block = max(1, min(len(x), BYTES // (4 * outputs * size)))

    def flat(part: torch.Tensor) -> list[torch.Tensor]:
        return [j.flatten(2) for j in jacobian(params, part)]

    def contract(j1: list[torch.Tensor], j2: list[torch.Tensor]) -> Any:
        if case.outputs == "full":
            return sum(torch.einsum("nap,mbp->nmab", a, b) for a, b in zip(j1, j2, strict=True))
        return sum(torch.einsum("nap,map->nm", a, b) for a, b in zip(j1, j2, strict=True)) / outputs

    def call() -> Any:
        if block == len(x):
            j = flat(inputs)
            return contract(j, j)
        rows = []
        for first in inputs.split(block):
            j1 = flat(first)
            rows.append(torch.cat([contract(j1, flat(second)) for second in inputs.split(block)], dim=1))
        return torch.cat(rows)

    return call


def network(case: Case, weights: list) -> tuple[list[torch.Tensor], Callable[[Any, torch.Tensor], torch.Tensor]]:
    """(parameters, function(parameters, one input) -> [K]) with images as [C, H, W], as PyTorch has them."""
    params, after_flatten = [], _channels_before_flatten(case.layers)
    for layer, (w, b) in zip(affine(case.layers), weights, strict=True):
        if layer[0] == "conv":
            w = w.transpose(3, 2, 0, 1)
        elif layer is after_flatten[0]:  # rows are pixels × channels there, channels × pixels here
            w = w.reshape(-1, after_flatten[1], w.shape[1]).swapaxes(0, 1).reshape(w.shape).T
        else:
            w = w.T
        params += [torch.from_numpy(np.ascontiguousarray(array)) for array in (w, b)]

    def function(params: Any, x: torch.Tensor) -> torch.Tensor:
        return _apply(case, case.layers, iter(params), x[None])[0]

    return params, function


def _apply(case: Case, layers: Layers, params: Any, x: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        kind = layer[0]
        if kind == "dense":
            x = scale(case, layer) * F.linear(x, next(params)) + case.b_std * next(params)
        elif kind == "conv":
            x = scale(case, layer) * F.conv2d(x, next(params), padding="same")
            x = x + case.b_std * next(params)[:, None, None]
        elif kind == "relu":
            x = torch.relu(x)
        elif kind == "erf":
            x = torch.erf(x)
        elif kind == "pool":
            x = F.avg_pool2d(x, layer[1])
        elif kind == "global_pool":
            x = x.mean((2, 3))
        elif kind == "flatten":
            x = x.flatten(1)
        elif kind == "residual":
            x = x + _apply(case, layer[1], params, x)
        else:
            raise ValueError(f"no layer {kind!r}")
    return x


def _channels_before_flatten(layers: Layers) -> tuple[Any, int]:
    """The dense layer behind a flattened image, and the image's channels."""
    kinds = [layer[0] for layer in layers]
    if "flatten" not in kinds:
        return None, 0
    at = kinds.index("flatten")
    return layers[at + 1], [layer for layer in affine(layers[:at])][-1][2]
