"""Float32 against float64, by activation, magnitude, degenerate input and depth: `python tests/accuracy.py [words]`.

A case is a network and inputs; its error is the largest difference of an entry, relative to √(k(x, x) k(x', x')). Words
on the command line choose the cases whose names hold all of them. tests/test_accuracy.py runs a part of the table.
"""

import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import ntklib as ntk

ACTIVATIONS: dict[str, Any] = {
    "relu": ntk.Relu(), "leaky_relu": ntk.LeakyRelu(0.2), "abs": ntk.Abs(), "identity": ntk.Identity(),
    "rectified_monomial": ntk.RectifiedMonomial(2), "sign": ntk.Sign(), "erf": ntk.Erf(), "gelu": ntk.Gelu(),
    "tanh": ntk.Tanh(), "silu": ntk.Silu(), "elu": ntk.Elu(), "sigmoid": ntk.Sigmoid(),
    "arctan": ntk.Elementwise(jnp.arctan), "sin": ntk.Sin(), "sin phase": ntk.Sin(0.8, amplitude=1.2, phase=0.4),
    "cos": ntk.Cos(), "rbf": ntk.Rbf(0.5), "gaussian": ntk.Gaussian(0.5), "exp": ntk.Exp(0.3),
    "monomial": ntk.Monomial(2), "hermite": ntk.Hermite(3),
}  # fmt: skip
SCALES = (1e-12, 1.0, 255.0, 1e6)
DEPTHS = (1, 3, 20)
FORMS = ("plain", "bias", "norm", "residual")


def network(activation: Any, depth: int, form: str, d: int = 6) -> ntk.Layer:
    """`depth` activations between affine layers."""
    rngs, b_std = nnx.Rngs(0), 0.0 if form == "plain" else 0.3
    every: dict[str, Any] = {"w_std": 1.3, "b_std": b_std, "rngs": rngs}
    layers: list[ntk.Layer] = [ntk.Dense(d, 4, **every)]
    for _ in range(depth):
        if form == "norm":
            layers.append(ntk.LayerNorm(1e-6))
        if form == "residual":
            layers.append(ntk.Residual(ntk.Serial(activation, ntk.Dense(4, 4, **every)), 0.5))
        else:
            layers += [activation, ntk.Dense(4, 4, **every)]
    return ntk.Serial(*layers)


def inputs(scale: float, d: int = 6) -> np.ndarray:
    """Float32: a zero row, duplicates and neighbours, antipodes and nearly so, one direction with norms 1 : 1000."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, d))
    rows = [
        x, np.zeros((1, d)), x[:2], x[:2] + 1e-3 * rng.normal(size=(2, d)), x[:2] + 1e-6 * rng.normal(size=(2, d)),
        -x[:2], -x[:2] + 1e-3 * rng.normal(size=(2, d)), 1e3 * x[2:4], 1e-3 * x[4:5],
    ]  # fmt: skip
    return (scale * np.concatenate(rows)).astype(np.float32)


def errors(net: ntk.Layer, x: np.ndarray) -> dict[str, Any]:
    """The error of `gram` and of `net.kernel` in float32, and of `gram` in float64; or what they say.

    `net.kernel` is not called under `jit`, where the program of twenty layers would be one, and large.
    """

    def attempt(call: Any) -> Any:
        try:
            return np.asarray(call(), np.float64)
        except ValueError as error:
            return str(error)

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        exact = attempt(lambda: net.kernel(jnp.asarray(x, jnp.float64)).ntk)
        double = attempt(lambda: ntk.gram(net, x.astype(np.float64)))
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        found = {"gram": attempt(lambda: ntk.gram(net, x)), "kernel": attempt(lambda: net.kernel(jnp.asarray(x)).ntk)}
    found["double"] = double
    if np.isnan(exact).any():
        exact = "Standardize"
    if isinstance(exact, str):
        return {"exact": exact, **{name: k if isinstance(k, str) else "not refused" for name, k in found.items()}}
    root = np.sqrt(exact.diagonal())
    scale = root[:, None] * root

    def error(k: Any) -> Any:
        if isinstance(k, str):
            return k
        off = np.abs(k - exact)
        zero = scale == 0
        if np.isnan(k).any():
            return "Standardize (NaN)"
        return float("inf") if (off[zero] > 0).any() else float((off[~zero] / scale[~zero]).max(initial=0.0))

    return {name: error(k) for name, k in found.items()}


def cases() -> Any:
    """(name, activation, depth, form, scale) of the whole table."""
    for (name, activation), depth, form, scale in itertools.product(ACTIVATIONS.items(), DEPTHS, FORMS, SCALES):
        yield f"{name} depth {depth} {form} scale {scale:g}", activation, depth, form, scale


def main(words: list[str]) -> None:
    """Print the table."""
    for name, activation, depth, form, scale in cases():
        if not all(word in name.split() for word in words):
            continue
        found = errors(network(activation, depth, form), inputs(scale))
        row = [f"{e:9.1e}" if isinstance(e, float) else "refused" if "Standardize" in e else e for e in found.values()]
        print(f"{name:45}", *row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
