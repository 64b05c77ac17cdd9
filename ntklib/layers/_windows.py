"""Sums and means over windows of pixels, for convolutions and pooling layers."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib import _checks

Padding = Literal["SAME", "VALID", "CIRCULAR"]
#: A size along height and width: one whole number for both, or a pair (height, width).
HeightWidth = int | np.integer | tuple[int, int]


def height_and_width(argument: str, value: HeightWidth) -> tuple[int, int]:
    """Return a size as a pair (height, width).

    Raises:
        TypeError: If an entry of a pair is not a whole number.
        ValueError: If `value` is neither a whole number nor a pair, or if an entry is below 1.
    """
    single = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    both: Any = (value, value) if single else value
    if not isinstance(both, Sequence) or len(both) != 2:
        raise ValueError(f"`{argument}` must be a whole number or a pair (height, width); got {value!r}.")
    for number in both:
        _checks.count(argument, number)
    return int(both[0]), int(both[1])


def check_images(shape: tuple[int, ...], fits: bool) -> None:
    """Raise a ValueError that names the shape of the inputs, unless `fits` says that they are images."""
    if not fits:
        raise ValueError(
            f"Convolutions and pooling take images [N, H, W, C]; got shape {shape}. Put these layers before Flatten or "
            f"GlobalAvgPool, not after."
        )


def extent(size: int, window: int, stride: int, padding: Padding) -> tuple[int, int, int]:
    """Return (pixels to add before, pixels to add after, number of outputs) along one axis.

    For "VALID" and "SAME" these are the numbers that XLA uses. For "CIRCULAR" they are the same as for "SAME".

    Raises:
        ValueError: If the window does not fit into the image and `padding` is "VALID".
    """
    if padding == "VALID":
        if window > size:
            raise ValueError(
                f"An image with {size} pixels along one axis is smaller than a window of {window}, with padding "
                f"'VALID'. Use a smaller window, or padding 'SAME'."
            )
        return 0, 0, (size - window) // stride + 1
    out = -(-size // stride)
    total = max((out - 1) * stride + window - size, 0)
    return total // 2, total - total // 2, out


def windows(a: Array, axes: tuple[int, ...], window: int, stride: int, padding: Padding) -> Array:
    """Sum an array over windows along the given axes, after padding.

    With window size w and stride s, the sum along one axis is Σ_i a[s p + i] over i = 0, ..., w − 1, for each output p.
    Along two axes the same i is used for both: Σ_i a[s p + i, s p' + i]. For instance, if the axes are the heights of
    two pixels, then each row of one window is paired with the same row of the other window. The sum is computed as a
    sum of w slices of the array.
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
    """Return the mean over the places of a patch, written A[...] in the docstring of `Conv`.

    Args:
        a: An array with one pair of axes (height, width), or with two pairs if it has an entry for each pair of pixels.
        axes: The height axes, and the width axes.
        window: The size of a patch, (height, width).
        strides: The distance between neighboring patches, (height, width).
        padding: See `Conv`.
    """
    for i in (0, 1):
        a = windows(a, axes[i], window[i], strides[i], padding)
    return a / math.prod(window)
