"""What is measured: one table of cases, and the arrays that every implementation gets for a case.

A network is described by a list that each framework reads in its own way, so that all compute the same function:

    ["dense", inputs, outputs], ["conv", channels in, channels out, size], ["pool", window], ["global_pool"],
    ["flatten"], ["residual", [layers of the branch]], and activations by their names, ["relu"]

An affine layer computes w_std/√fan_in · xW + b_std · b (the NTK parameterization). Convolutions have stride 1 and keep
the size of the image, by zeros. This module needs NumPy only: it is imported where JAX or PyTorch are missing, too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Layers = list[list[Any]]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    kind: "empirical", the NTK of a finite network; "analytic", that of the infinitely wide one; "model", the NTK of a
        Flax module as it is initialized, of which `layers` has the name in models.py; "activation", the analytic NTK by
        us alone, beside erf in the place of the activation; "regression", from inputs and targets to predictions.
    data: "mnist5k", as vectors or images as `shape` has it, or "normal", from a seeded generator.
    goal: how many times as fast as the best peer we want to be.
    outputs: of an empirical kernel, "full" [N, N, K, K] or "mean" [N, N].
    test, ridge: of a regression, how many test points it predicts, and the ridge relative to the mean of the diagonal.
    """

    name: str
    kind: str
    layers: Layers
    shape: tuple[int, ...]
    n: int
    goal: float
    outputs: str = "mean"
    data: str = "mnist5k"
    w_std: float = 2**0.5
    b_std: float = 0.1
    tolerance: float = 1e-4
    test: int = 0
    ridge: float = 1e-4
    seed: int = 0

    @property
    def group(self) -> str:
        """What `--only` selects by, beside a part of the name."""
        return f"{self.kind} {self.name}"


def mlp(*widths: int, activation: str = "relu") -> Layers:
    """A fully connected network."""
    layers: Layers = []
    for i in range(len(widths) - 1):
        layers += [["dense", widths[i], widths[i + 1]], [activation]]
    return layers[:-1]


def convolutions(size: int, *channels: int, readout: str, outputs: int) -> Layers:
    """3×3 convolutions with ReLU on images size × size, and a dense readout behind "flatten" or "global_pool"."""
    layers: Layers = []
    for i in range(len(channels) - 1):
        layers += [["conv", channels[i], channels[i + 1], 3], ["relu"]]
    pixels = size**2 if readout == "flatten" else 1
    return [*layers, [readout], ["dense", channels[-1] * pixels, outputs]]


MLP = mlp(784, 512, 512, 512, 10)
CNN = convolutions(28, 1, 32, 32, 32, readout="flatten", outputs=10)
#: A residual block (activations first, as in He et al. 2016b) between two poolings: 2×2, and over all that is left.
RESIDUAL: Layers = [
    ["conv", 1, 32, 3],
    ["pool", 2],
    ["residual", [["relu"], ["conv", 32, 32, 3], ["relu"], ["conv", 32, 32, 3]]],
    ["relu"],
    ["global_pool"],
    ["dense", 32, 10],
]


def deep(depth: int, activation: str) -> Layers:
    """An infinitely wide network with so many hidden layers: its kernel does not depend on the widths."""
    return mlp(784, *[1] * depth, 1, activation=activation)


def _empirical(name: str, layers: Layers, n: int, full: float, mean: float) -> list[Case]:
    shape = (784,) if layers is MLP else (28, 28, 1)
    return [
        Case(f"{name}, N={n:,}, {outputs}", "empirical", layers, shape, n, goal, outputs)
        for outputs, goal in (("full", full), ("mean", mean))
    ]


def _model(name: str, layers: str) -> Case:
    return Case(f"{name}, N=16, mean", "model", [[layers]], (32, 32, 3), 16, goal=2.0, data="normal")


def _analytic(name: str, layers: Layers, n: int, goal: float) -> Case:
    images = layers[0][0] == "conv"
    shape, data = ((8, 8, 3), "normal") if images else ((784,), "mnist5k")
    return Case(f"{name}, N={n:,}", "analytic", layers, shape, n, goal, data=data)


def _activation(name: str, goal: float) -> Case:
    return Case(f"{name} depth 3, N=5,000", "activation", deep(3, name), (784,), 5000, goal)


def _regression(n: int, goal: float) -> Case:
    name = f"ReLU depth 2, N={n:,}, 1,000 test points"
    return Case(name, "regression", deep(2, "relu"), (784,), n, goal, test=1000, tolerance=1e-6)


CASES = [
    *_empirical("MLP 784-512-512-512-10", MLP, 256, full=3.0, mean=2.0),
    *_empirical("MLP 784-512-512-512-10", MLP, 1024, full=5.0, mean=3.0),
    *_empirical("CNN 28×28, three of 32", CNN, 64, full=2.0, mean=2.0),
    *_empirical("residual CNN 28×28", RESIDUAL, 64, full=1.2, mean=1.2),
    _model("ResNet-20 with BatchNorm", "resnet20"),
    _model("vision transformer", "transformer"),
    _analytic("ReLU depth 3", deep(3, "relu"), 5000, goal=4.0),
    _analytic("ReLU depth 20", deep(20, "relu"), 5000, goal=8.0),
    _analytic("erf depth 3", deep(3, "erf"), 5000, goal=4.0),
    _analytic("conv 8×8 depth 5, flatten", convolutions(8, 3, 1, 1, 1, 1, 1, readout="flatten", outputs=1), 200, 2.0),
    _analytic(
        "conv 8×8 depth 5, global pooling",
        convolutions(8, 3, 1, 1, 1, 1, 1, readout="global_pool", outputs=1),
        100,
        goal=5.0,
    ),
    # Here the goal is a share of the speed that the same network has with erf.
    *(_activation(name, goal=0.2) for name in ("tanh", "silu", "elu", "sigmoid", "arctan")),
    _activation("gelu", goal=1 / 1.5),
    _regression(2000, goal=2.5),
    _regression(10_000, goal=2.5),
]


def chosen(cases: list[Case], only: list[str]) -> list[Case]:
    """The cases that have one of the words in kind or name; a word that none has is refused."""
    for word in only:
        if not any(word.lower() in case.group.lower() for case in cases):
            raise ValueError(f"no case has {word!r} in its name; there are: " + "; ".join(case.group for case in cases))
    return [case for case in cases if not only or any(word.lower() in case.group.lower() for word in only)]


def affine(layers: Layers) -> Iterator[list[Any]]:
    """The affine layers in the order of their weights."""
    for layer in layers:
        if layer[0] == "residual":
            yield from affine(layer[1])
        elif layer[0] in ("dense", "conv"):
            yield layer


def weights(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """(W, b) of each affine layer, standard normal; W [inputs, outputs], or [height, width, channels in, out]."""
    generator = np.random.default_rng(case.seed)
    pairs = []
    for layer in affine(case.layers):
        shape = (layer[3], layer[3], layer[1], layer[2]) if layer[0] == "conv" else (layer[1], layer[2])
        pairs.append((generator.standard_normal(shape, "float32"), generator.standard_normal(shape[-1], "float32")))
    return pairs


def inputs(case: Case) -> np.ndarray:
    """[N, ...] in float32."""
    return arrays(case)["x"]


def arrays(case: Case) -> dict[str, np.ndarray]:
    """Inputs `x` [N, ...] in float32; for a regression also targets `y` [N, K] and test inputs `test` [M, ...]."""
    if case.data == "normal":
        return {"x": np.random.default_rng(case.seed + 1).standard_normal((case.n, *case.shape), "float32")}
    import ntklib

    if case.kind == "regression":  # more than there are by copies that are moved by up to two pixels
        data = ntklib.load(case.data, n_train=4000, n_test=case.test, seed=case.seed)
        data = data.augmented(max(4000, case.n), seed=case.seed)
        y = np.asarray(ntklib.one_hot_centered(data.y_train[: case.n], data.classes))
        x, test = (a.reshape(len(a), *case.shape) for a in (data.x_train[: case.n], data.x_test))
        return {"x": x, "y": y, "test": test}
    data = ntklib.load(case.data, seed=case.seed)
    x = np.concatenate([data.x_train, data.x_test])
    if len(x) < case.n:
        raise ValueError(f"{case.data} has {len(x)} images; the case {case.name!r} wants {case.n}.")
    return {"x": x[: case.n].reshape(case.n, *case.shape)}


def scale(case: Case, layer: list[Any]) -> float:
    """w_std/√fan_in of an affine layer."""
    fan_in = layer[1] * (layer[3] ** 2 if layer[0] == "conv" else 1)
    return case.w_std / math.sqrt(fan_in)
