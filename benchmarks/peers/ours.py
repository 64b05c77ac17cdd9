"""ntklib."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import ntklib as ntk
from benchmarks.cases import Case, Layers
from benchmarks.models import MODELS

ACTIVATIONS: dict[str, Callable[[], ntk.Elementwise]] = {
    "relu": ntk.Relu,
    "erf": ntk.Erf,
    "gelu": ntk.Gelu,
    "tanh": ntk.Tanh,
    "silu": ntk.Silu,
    "elu": ntk.Elu,
    "sigmoid": ntk.Sigmoid,
    "arctan": lambda: ntk.Elementwise(jnp.arctan),  # somebody's own
}


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {name: version(name) for name in ("ntklib", "jax", "jaxlib", "flax", "numpy")}


def prepare(
    case: Case, option: str, x: np.ndarray, weights: list, y: Any = None, test: Any = None
) -> Callable[[], Any]:
    """The kernel of `case` on the inputs `x`, or the predictions of its regression.

    `option`: "erf" puts erf in the place of the activation.
    """
    if option == "erf":
        case = replace(case, layers=[["erf"] if layer[0] in ACTIVATIONS else layer for layer in case.layers])
    net, inputs = model(case) if case.kind == "model" else network(case, weights), jnp.asarray(x)
    if case.kind == "regression":
        return lambda: ntk.KernelRegressor(net, ridge=case.ridge).fit(x, y).predict(test)
    if case.kind in ("analytic", "activation"):
        kernel = gram(net)
        return lambda: jax.block_until_ready(kernel(inputs))
    outputs: Any = case.outputs
    return lambda: jax.block_until_ready(ntk.empirical_ntk(net, inputs, outputs=outputs))


def model(case: Case) -> Any:
    """The Flax module of a case."""
    return MODELS[case.layers[0][0]](nnx.Rngs(case.seed))


def gram(net: ntk.Layer) -> Callable[[jax.Array], jax.Array]:
    """The function x -> Θ(x, x) of the infinitely wide network; whether it is tiled is decided here alone."""
    tiled = getattr(ntk, "gram", None)
    return jax.jit(lambda x: net.kernel(x).ntk) if tiled is None else lambda x: tiled(net, x)


def network(case: Case, weights: list) -> ntk.Serial:
    """The network of a case, with its weights."""
    net = ntk.Serial(*_layers(case, case.layers, nnx.Rngs(0)))
    pairs = iter(weights)
    for layer in affine(net):
        layer.W[...], layer.b[...] = map(jnp.asarray, next(pairs))
    return net


def affine(layer: Any) -> Iterator[Any]:
    """The affine layers in the order in which they are applied."""
    match layer:
        case ntk.Serial():
            for part in layer.layers:
                yield from affine(part)
        case ntk.Residual():
            yield from affine(layer.branch)
        case ntk.Dense() | ntk.Conv():
            yield layer


def _layers(case: Case, description: Layers, rngs: nnx.Rngs) -> Iterator[ntk.Layer]:
    every: Any = {"w_std": case.w_std, "b_std": case.b_std, "rngs": rngs}
    for kind, *sizes in description:
        match kind:
            case "dense":
                yield ntk.Dense(*sizes, **every)
            case "conv":
                yield ntk.Conv(*sizes, **every)
            case name if name in ACTIVATIONS:
                yield ACTIVATIONS[name]()
            case "pool":
                yield ntk.AvgPool(*sizes)
            case "global_pool":
                yield ntk.GlobalAvgPool()
            case "flatten":
                yield ntk.Flatten()
            case "residual":
                yield ntk.Residual(ntk.Serial(*_layers(case, sizes[0], rngs)))
            case _:
                raise ValueError(f"no layer {kind!r}")
