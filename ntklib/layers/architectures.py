"""Ready architectures: fully connected, convolutional, and the Myrtle networks."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ntklib import _checks
from ntklib.layers.activations import Elementwise, Relu
from ntklib.layers.base import Layer
from ntklib.layers.combinators import Serial
from ntklib.layers.conv import AvgPool, Conv, GlobalAvgPool, Padding, Pair
from ntklib.layers.dense import Dense
from ntklib.layers.norm import Flatten
from ntklib.parameterization import NTK, Parameterization

#: Convolutions before each pooling layer of the Myrtle networks; with the readout they are `depth` affine layers.
_MYRTLE = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}


def mlp(
    widths: Sequence[int],
    *,
    activation: Elementwise | None = None,
    w_std: float,
    b_std: float = 0.0,
    parameterization: Parameterization = NTK,
    rngs: nnx.Rngs,
) -> Serial:
    """A fully connected network: `widths` = [inputs, hidden..., outputs], `activation` (ReLU by default) between.

    >>> import jax.numpy as jnp
    >>> net = mlp([784, 512, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
    >>> net(jnp.zeros((5, 784))).shape
    (5, 10)
    """
    if not isinstance(widths, Sequence | np.ndarray) or isinstance(widths, str):
        raise TypeError(
            f"`widths` must be a list, [inputs, hidden..., outputs]; got {type(widths).__name__} {widths!r}."
        )
    if len(widths) < 2:
        raise ValueError(f"`widths` must name at least inputs and outputs, [d, K]; got {list(widths)}.")
    activation = _activation(activation)
    layers: list[Layer] = []
    last = len(widths) - 2
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        role = "output" if i == last else "input" if i == 0 else "hidden"
        layers += [
            Dense(n_in, n_out, w_std=w_std, b_std=b_std, parameterization=parameterization, role=role, rngs=rngs),
            activation,
        ]
    return Serial(*layers[:-1])


def cnn(
    input_shape: tuple[int, int, int],
    channels: Sequence[int],
    outputs: int,
    *,
    kernel_size: Pair = 3,
    strides: Pair = 1,
    padding: Padding = "SAME",
    readout: Literal["flatten", "pool"] = "flatten",
    activation: Elementwise | None = None,
    w_std: float,
    b_std: float = 0.0,
    parameterization: Parameterization = NTK,
    rngs: nnx.Rngs,
) -> Serial:
    """A convolutional network on images `input_shape` = (H, W, C): one convolution for each number in `channels`,
    `activation` (ReLU by default) after it, then a dense readout with `outputs` units.

    kernel_size, strides, padding: of every convolution; see `Conv`.
    readout: "flatten" gives each place of the image weights of its own, and the infinite-width kernel compares equal
        places only, N·M·H·W numbers; "pool" reads the mean over all places, as translation asks for, and needs all
        pairs of them, N·M·(H·W)².

    >>> import jax.numpy as jnp
    >>> net = cnn((28, 28, 1), [32, 32], 10, w_std=2**0.5, rngs=nnx.Rngs(0))
    >>> net(jnp.zeros((5, 28, 28, 1))).shape
    (5, 10)
    """
    height, width, c_in = _input_shape(input_shape)
    _channels(channels)
    _checks.count("outputs", outputs)
    _checks.choice("readout", readout, ("flatten", "pool"))
    activation = _activation(activation)
    every: dict[str, Any] = {"w_std": w_std, "b_std": b_std, "parameterization": parameterization, "rngs": rngs}
    layers: list[Layer] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise([c_in, *channels])):
        role = "hidden" if i else "input"
        conv = Conv(n_in, n_out, kernel_size, strides=strides, padding=padding, role=role, **every)
        layers += [conv, activation]
    layers.append(Flatten() if readout == "flatten" else GlobalAvgPool())
    # The layers themselves say how many units reach the readout.
    image = jax.ShapeDtypeStruct((1, height, width, c_in), jnp.result_type(float))
    units = jax.eval_shape(Serial(*layers), image).shape[-1]
    return Serial(*layers, Dense(units, outputs, role="output", **every))


def myrtle(
    depth: Literal[5, 7, 10],
    channels: int,
    outputs: int,
    *,
    c_in: int = 3,
    activation: Elementwise | None = None,
    w_std: float = 2**0.5,
    b_std: float = 0.0,
    parameterization: Parameterization = NTK,
    rngs: nnx.Rngs,
) -> Serial:
    """A Myrtle network: three groups of 3×3 convolutions with ReLU, 2×2 average pooling after the first and the second,
    the mean over all that is left after the third, and a dense readout. `depth` counts convolutions and readout: the
    groups have 2, 1, 1 convolutions at depth 5, 2, 2, 2 at 7, and 3, 3, 3 at 10.

    On 32×32 images the mean is what three more 2×2 poolings give, as the network is usually written; this form takes
    images of any size from 4×4. The infinite-width kernel holds all pairs of pixels of the full image, N·M·(H·W)²
    numbers: pass few images at a time.

    Source: Shankar et al. 2020, "Neural Kernels Without Tangents" (NNGP and other kernels of this architecture on
    CIFAR-10).

    >>> import jax.numpy as jnp
    >>> net = myrtle(5, 16, 10, rngs=nnx.Rngs(0))
    >>> net(jnp.zeros((2, 32, 32, 3))).shape
    (2, 10)
    """
    if depth not in _MYRTLE:
        raise ValueError(f"`depth` of a Myrtle network must be 5, 7 or 10; got {depth!r}. For others see ntklib.cnn.")
    for argument, value in (("channels", channels), ("outputs", outputs), ("c_in", c_in)):
        _checks.count(argument, value)
    activation = _activation(activation)
    every: dict[str, Any] = {"w_std": w_std, "b_std": b_std, "parameterization": parameterization, "rngs": rngs}
    layers: list[Layer] = [Conv(c_in, channels, 3, role="input", **every), activation]
    first, *others = _MYRTLE[depth]
    for convolutions in (first - 1, *others):
        for _ in range(convolutions):
            layers += [Conv(channels, channels, 3, role="hidden", **every), activation]
        layers.append(AvgPool(2))
    layers[-1] = GlobalAvgPool()
    return Serial(*layers, Dense(channels, outputs, role="output", **every))


def _activation(activation: Elementwise | None) -> Elementwise:
    activation = Relu() if activation is None else activation
    _checks.instance("activation", activation, Elementwise, "e.g. ntk.Relu(), or ntk.Elementwise(jnp.arctan)")
    return activation


def _input_shape(shape: Any) -> tuple[int, int, int]:
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 3:
        raise ValueError(
            f"`input_shape` must be (H, W, C), that of one image without the axis of examples; got {shape!r}. "
            f"For images `x` [N, H, W, C] pass `x.shape[1:]`."
        )
    for size in shape:
        _checks.count("input_shape", size)
    return shape[0], shape[1], shape[2]


def _channels(channels: Any) -> None:
    if not isinstance(channels, Sequence) or isinstance(channels, str) or not channels:
        raise ValueError(
            f"`channels` must list the channels of each convolution, such as [32, 32, 32]; got {channels!r}."
        )
    for count in channels:
        _checks.count("channels", count)
