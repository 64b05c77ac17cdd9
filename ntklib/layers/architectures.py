"""Functions that build networks: fully connected, convolutional, and Myrtle networks."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ntklib import _checks
from ntklib.layers._windows import HeightWidth, Padding
from ntklib.layers.activations import Relu
from ntklib.layers.base import Layer
from ntklib.layers.combinators import Serial
from ntklib.layers.conv import Conv, LocallyConnected
from ntklib.layers.dense import Dense
from ntklib.layers.elementwise import Elementwise
from ntklib.layers.norm import Flatten
from ntklib.layers.pooling import AvgPool, GlobalAvgPool
from ntklib.parameterization import NTK, Parameterization

#: For each depth, the numbers of convolutions in the three groups. With the dense readout they add up to the depth.
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
    """Build a fully connected network: affine layers, with an activation between them.

    Args:
        widths: [d, n_1, ..., K]: the size of an input, the width of each hidden layer, and the number of outputs.
        activation: The layer between two affine layers; ReLU by default.
        w_std: σ_w of all affine layers, not squared.
        b_std: σ_b of all affine layers, not squared.
        parameterization: As for `Dense`. This function sets the `role` of each layer.
        rngs: The random generator of the parameters, e.g. `nnx.Rngs(0)`.

    Returns:
        A `Serial` network from [N, d] to [N, K].

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there are fewer than two widths, or if a width, `w_std` or `b_std` is out of range.

    Example:
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
    kernel_size: HeightWidth = 3,
    strides: HeightWidth = 1,
    padding: Padding = "SAME",
    readout: Literal["flatten", "pool"] = "flatten",
    share_weights: bool = True,
    activation: Elementwise | None = None,
    w_std: float,
    b_std: float = 0.0,
    parameterization: Parameterization = NTK,
    rngs: nnx.Rngs,
) -> Serial:
    """Build a convolutional network: convolutions, each followed by an activation, and a dense readout.

    Args:
        input_shape: (H, W, C), the shape of one image.
        channels: The numbers of output channels of the convolutions, from first to last.
        outputs: The number of outputs, K.
        kernel_size: The size of a patch in every convolution; see `Conv`.
        strides: The strides of every convolution; see `Conv`.
        padding: The padding of every convolution; see `Conv`.
        readout: With "flatten" the readout has a weight for each pixel and channel. With "pool" it acts on the mean
            over all pixels. With "pool", padding "CIRCULAR", strides 1 and shared weights, the outputs do not change if
            the image is shifted circularly.
        share_weights: Whether a convolution has the same weights at all pixels. If False, the layers are
            `LocallyConnected`.
        activation: The layer after each convolution; ReLU by default.
        w_std: σ_w of all affine layers, not squared.
        b_std: σ_b of all affine layers, not squared.
        parameterization: As for `Dense`. This function sets the `role` of each layer.
        rngs: The random generator of the parameters, e.g. `nnx.Rngs(0)`.

    Returns:
        A `Serial` network from [N, H, W, C] to [N, K].

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `input_shape` is not (H, W, C), if `channels` is not a list or is empty, if an option is unknown,
            if a size, `w_std` or `b_std` is out of range, or if an image becomes smaller than a patch under padding
            "VALID".

    Example:
        >>> import jax.numpy as jnp
        >>> net = cnn((28, 28, 1), [32, 32], 10, w_std=2**0.5, rngs=nnx.Rngs(0))
        >>> net(jnp.zeros((5, 28, 28, 1))).shape
        (5, 10)

    Note:
        With "flatten" the infinite-width kernel compares two images only at the same pixel: N · M · H · W numbers. With
        "pool" it compares every pixel of one with every pixel of the other: N · M · (H · W)² numbers.
    """
    height, width, c_in = _input_shape(input_shape)
    _channels(channels)
    _checks.count("outputs", outputs)
    _checks.choice("readout", readout, ("flatten", "pool"))
    _checks.flag("share_weights", share_weights)
    activation = _activation(activation)
    every: dict[str, Any] = {"w_std": w_std, "b_std": b_std, "parameterization": parameterization, "rngs": rngs}
    layers: list[Layer] = []
    every_conv: dict[str, Any] = {"strides": strides, "padding": padding, **every}
    # Trace the layers on one image. This gives the size of the image before each layer, and the fan-in of the readout.
    image = jax.ShapeDtypeStruct((1, height, width, c_in), jnp.result_type(float))
    for i, (n_in, n_out) in enumerate(itertools.pairwise([c_in, *channels])):
        role = "hidden" if i else "input"
        if share_weights:
            conv = Conv(n_in, n_out, kernel_size, role=role, **every_conv)
        else:
            conv = LocallyConnected(image.shape[1:3], n_in, n_out, kernel_size, role=role, **every_conv)
        layers += [conv, activation]
        image = jax.eval_shape(conv, image)
    layers.append(Flatten() if readout == "flatten" else GlobalAvgPool())
    units = jax.eval_shape(layers[-1], image).shape[-1]
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
    """Build a Myrtle network: three groups of 3 × 3 convolutions with pooling, and a dense readout.

    Each convolution is followed by an activation, and each of the first two groups by a 2 × 2 average pooling. The
    third group is followed by the mean over all remaining pixels and by the readout.

    Args:
        depth: The number of affine layers, readout included. The numbers of convolutions in the three groups are
            (2, 1, 1) at depth 5, (2, 2, 2) at depth 7, and (3, 3, 3) at depth 10.
        channels: The number of channels of every convolution.
        outputs: The number of outputs, K.
        c_in: The number of channels of the images.
        activation: The layer after each convolution; ReLU by default.
        w_std: σ_w of all affine layers, not squared.
        b_std: σ_b of all affine layers, not squared.
        parameterization: As for `Dense`. This function sets the `role` of each layer.
        rngs: The random generator of the parameters, e.g. `nnx.Rngs(0)`.

    Returns:
        A `Serial` network from [N, H, W, c_in] to [N, K]. Images may have any size from 4 × 4 on.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `depth` is not 5, 7 or 10, or if another argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> net = myrtle(5, 16, 10, rngs=nnx.Rngs(0))
        >>> net(jnp.zeros((2, 32, 32, 3))).shape
        (2, 10)

    Note:
        The infinite-width kernel holds the covariances of all pairs of pixels of the full image, N · M · (H · W)²
        numbers: pass few images at a time.

    References:
        Shankar et al. 2020, "Neural Kernels Without Tangents" (NNGP and other kernels of this architecture on
        CIFAR-10). The network is usually written with three more 2 × 2 poolings instead of the mean. On 32 × 32 images
        this is the same.
    """
    _checks.count("depth", depth)
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
            f"`input_shape` must be (H, W, C), the shape of one image without the axis of examples; got {shape!r}. "
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
