"""Convolutions and pooling over images [N, H, W, C]."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ntklib import _checks
from ntklib.kernel import Kernel
from ntklib.layers.base import Layer
from ntklib.layers.dense import affine_kernel, check_affine, draw
from ntklib.parameterization import NTK, Parameterization, Role

Padding = Literal["SAME", "VALID", "CIRCULAR"]
Pair = int | tuple[int, int]


class Conv(Layer):
    """Affine layer over patches of pixels: a `Dense` layer of fan-in n = c_in·kh·kw, with the same weights at every
    pixel.

    Kernel map under NTK, with A the mean over the kh·kw places of a patch, shifted together in both images:
    Σ'(p, p') = σ_w² A[Σ](p, p') + σ_b², Θ' = Σ' + σ_w² A[Θ] (Novak et al. 2019; Arora et al. 2019). Other
    parameterizations as for `Dense`.

    kernel_size, strides: a number or a pair (height, width).
    padding: "VALID", none; "SAME", zeros so that the output has ⌈H/stride⌉ rows; "CIRCULAR", the opposite edge in the
        place of zeros. Zeros count in the fan-in: outputs at the edge are smaller.
    w_std, b_std, use_bias, parameterization, role: as for `Dense`; with b_std=0 the bias adds nothing as long as
        `ntklib.sgd` trains.

    >>> layer = Conv(3, 8, (3, 3), w_std=1.0, b_std=0.1, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 28, 28, 3))).shape
    (2, 28, 28, 8)
    """

    ends_affine = True

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: Pair,
        *,
        strides: Pair = 1,
        padding: Padding = "SAME",
        w_std: float,
        b_std: float = 0.0,
        use_bias: bool = True,
        parameterization: Parameterization = NTK,
        role: Role | None = None,
        rngs: nnx.Rngs,
    ):
        _checks.count("c_in", c_in)
        _checks.count("c_out", c_out)
        self.kernel_size, self.strides = _pair("kernel_size", kernel_size), _pair("strides", strides)
        _checks.choice("padding", padding, ("SAME", "VALID", "CIRCULAR"))
        check_affine(w_std, b_std, use_bias, parameterization, rngs)
        self.c_in, self.c_out, self.padding = c_in, c_out, padding
        self.w_std, self.b_std, self.use_bias = w_std, b_std, use_bias
        self.parameterization, self.role = parameterization, role
        scales = self.scales()
        self.W = nnx.Param(scales["W"][1] * draw(rngs, *self.kernel_size, c_in, c_out))
        self.b = nnx.Param(scales["b"][1] * draw(rngs, c_out)) if use_bias else None

    def scales(self) -> dict[str, tuple[float, float, float]]:
        """(multiplier, initial standard deviation, learning-rate factor) of each parameter."""
        p, area = self.parameterization, math.prod(self.kernel_size)
        scales = {"W": p.weight(self.role, self.c_in * area, self.c_out, self.w_std)}
        return scales | {"b": p.bias(self.role, self.c_out, self.b_std)} if self.use_bias else scales

    def __call__(self, x: Array) -> Array:
        _checks.network_input(x)
        _images(x.shape, x.ndim == 4)
        _checks.features(self.c_in, x.shape[-1])
        scales = self.scales()
        sizes = zip(x.shape[1:3], self.kernel_size, self.strides, strict=True)
        edges = [_edges(size, window, stride, self.padding)[:2] for size, window, stride in sizes]
        if self.padding == "CIRCULAR":
            x, edges = jnp.pad(x, [(0, 0), *edges, (0, 0)], mode="wrap"), [(0, 0), (0, 0)]
        z = jax.lax.conv_general_dilated(
            x, scales["W"][0] * self.W[...], self.strides, edges, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return z if self.b is None else z + scales["b"][0] * jnp.broadcast_to(self.b[...], z.shape)

    def kernel_map(self, k: Kernel) -> Kernel:
        _images(k.q1.shape, k.q1.ndim > 1)
        _checks.features(self.c_in, k.features)
        patches = k.map(lambda a, axes: _patch_mean(a, axes, self.kernel_size, self.strides, self.padding))
        return affine_kernel(patches, self.scales(), self.c_in * math.prod(self.kernel_size), self.c_out)


class AvgPool(Layer):
    """The mean over windows of pixels, `strides` apart (by default the window's size, so that windows do not overlap).

    Kernel map: the same mean over both pixels of Σ(p, p') and Θ(p, p'). It needs the covariances of all pairs of
    pixels, and so do all layers before it: N·M·(H·W)² numbers. padding as in `Conv`; under "SAME" the mean is over the
    pixels that are there.

    >>> AvgPool(2)(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """

    pools = 1

    def __init__(self, window: Pair, *, strides: Pair | None = None, padding: Padding = "VALID"):
        self.window = _pair("window", window)
        self.strides = self.window if strides is None else _pair("strides", strides)
        _checks.choice("padding", padding, ("SAME", "VALID", "CIRCULAR"))
        self.padding = padding

    def __call__(self, x: Array) -> Array:
        _images(x.shape, x.ndim == 4)
        return self._mean(x, ((1, 2),))

    def kernel_map(self, k: Kernel) -> Kernel:
        _images(k.q1.shape, k.q1.ndim > 1)
        return k.map(lambda a, axes: self._mean(a, zip(*axes, strict=True))).pooled()

    def _mean(self, a: Array, images: "Sequence[tuple[int, int]] | zip") -> Array:
        """Over the windows of each image of an array, given by its axes (height, width)."""
        for axes in images:
            for axis, i in zip(axes, (0, 1), strict=True):
                size = a.shape[axis]
                total = _windows(a, (axis,), self.window[i], self.strides[i], self.padding)
                there = jnp.full(total.shape[axis], float(self.window[i]), a.dtype)
                if self.padding == "SAME":
                    there = _windows(jnp.ones(size, a.dtype), (0,), self.window[i], self.strides[i], self.padding)
                a = total / there.reshape([-1 if j == axis else 1 for j in range(a.ndim)])
        return a


class GlobalAvgPool(Layer):
    """The mean over all pixels, [N, H, W, C] -> [N, C]. Kernel map: that over all pairs of pixels; see `AvgPool`."""

    pools = 1

    def __call__(self, x: Array) -> Array:
        _images(x.shape, x.ndim == 4)
        return jnp.mean(x, axis=(1, 2))

    def kernel_map(self, k: Kernel) -> Kernel:
        _images(k.q1.shape, k.q1.ndim > 1)
        return k.map(lambda a, axes: jnp.mean(a, axis=tuple(itertools.chain(*axes)))).pooled()


def _pair(argument: str, value: Pair) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise ValueError(f"`{argument}` must be a number or a pair (height, width); got {value!r}.")
    for number in pair:
        _checks.count(argument, number)
    return pair[0], pair[1]


def _images(shape: tuple[int, ...], fits: bool) -> None:
    if not fits:
        raise ValueError(
            f"Convolutions and pooling take images [N, H, W, C]; their input has shape {shape}. "
            f"They stand before Flatten or GlobalAvgPool, not after."
        )


def _edges(size: int, window: int, stride: int, padding: Padding) -> tuple[int, int, int]:
    """How many pixels to add before and after, and how many outputs there are (as XLA has it)."""
    if padding == "VALID":
        if window > size:
            raise ValueError(f"An image of {size} pixels is smaller than the window of {window}, with padding 'VALID'.")
        return 0, 0, (size - window) // stride + 1
    out = -(-size // stride)
    total = max((out - 1) * stride + window - size, 0)
    return total // 2, total - total // 2, out


def _windows(a: Array, axes: tuple[int, ...], window: int, stride: int, padding: Padding) -> Array:
    """Sum over the shifts within a window, the same along each of the axes: a sum of slices, no convolution."""
    low, high, out = _edges(a.shape[axes[0]], window, stride, padding)
    widths = [(low, high) if axis in axes else (0, 0) for axis in range(a.ndim)]
    a = jnp.pad(a, widths, mode="wrap" if padding == "CIRCULAR" else "constant")

    def shifted(shift: int) -> Array:
        part = a
        for axis in axes:
            part = jax.lax.slice_in_dim(part, shift, shift + (out - 1) * stride + 1, stride, axis)
        return part

    return sum((shifted(i) for i in range(1, window)), start=shifted(0))


def _patch_mean(a: Array, axes: tuple[tuple[int, ...], ...], window: tuple, strides: tuple, padding: Padding) -> Array:
    """A[a]: first over rows, then over columns; `axes` are those of the heights and those of the widths."""
    for i in (0, 1):
        a = _windows(a, axes[i], window[i], strides[i], padding)
    return a / math.prod(window)
