"""Windows of pixels, which convolutions and pooling share."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from ntklib import _checks

Padding = Literal["SAME", "VALID", "CIRCULAR"]
#: Sizes along height and width: one number for both, or a pair (height, width).
HeightWidth = int | tuple[int, int]


def height_and_width(argument: str, value: HeightWidth) -> tuple[int, int]:
    """Check a size and return it as a pair."""
    both = (value, value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(both, Sequence) or len(both) != 2:
        raise ValueError(f"`{argument}` must be a number or a pair (height, width); got {value!r}.")
    for number in both:
        _checks.count(argument, number)
    return both[0], both[1]


def check_images(shape: tuple[int, ...], fits: bool) -> None:
    """Refuse inputs of this shape unless they are images, as `fits` says."""
    if not fits:
        raise ValueError(
            f"Convolutions and pooling take images [N, H, W, C]; their input has shape {shape}. "
            f"They stand before Flatten or GlobalAvgPool, not after."
        )


def extent(size: int, window: int, stride: int, padding: Padding) -> tuple[int, int, int]:
    """Return how many pixels to add before and after, and the number of outputs, by XLA's conventions."""
    if padding == "VALID":
        if window > size:
            raise ValueError(f"An image of {size} pixels is smaller than the window of {window}, with padding 'VALID'.")
        return 0, 0, (size - window) // stride + 1
    out = -(-size // stride)
    total = max((out - 1) * stride + window - size, 0)
    return total // 2, total - total // 2, out


def windows(a: Array, axes: tuple[int, ...], window: int, stride: int, padding: Padding) -> Array:
    """Sum over the places of a window, at the same place along each of the axes.

    It is computed as a sum of slices: no convolution is needed.
    """
    low, high, out = extent(a.shape[axes[0]], window, stride, padding)
    widths = [(low, high) if axis in axes else (0, 0) for axis in range(a.ndim)]
    a = jnp.pad(a, widths, mode="wrap" if padding == "CIRCULAR" else "constant")

    def shifted(shift: int) -> Array:
        part = a
        for axis in axes:
            part = jax.lax.slice_in_dim(part, shift, shift + (out - 1) * stride + 1, stride, axis)
        return part

    return sum((shifted(i) for i in range(1, window)), start=shifted(0))


def patch_mean(a: Array, axes: tuple[tuple[int, ...], ...], window: tuple, strides: tuple, padding: Padding) -> Array:
    """Return A[a], the mean over patches, first over rows and then over columns.

    `axes` are the axes of the heights and the axes of the widths.
    """
    for i in (0, 1):
        a = windows(a, axes[i], window[i], strides[i], padding)
    return a / math.prod(window)
