"""Pooling over images [N, H, W, C]."""

import itertools
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from ntklib import _checks
from ntklib.kernel import Kernel, one_program
from ntklib.layers._windows import HeightWidth, Padding, check_images, height_and_width, windows
from ntklib.layers.base import Layer


class AvgPool(Layer):
    """The mean over windows of pixels.

    Kernel map: for output pixels p and p', Σ'(p, p') is the mean of Σ over all pairs of a pixel in the window of p and
    a pixel in the window of p'. Θ' is the same mean of Θ.

    Args:
        window: The size of a window: a number, or a pair (height, width).
        strides: The distance between neighboring windows: a number, or a pair (height, width). By default it is the
            size of the window, so that windows do not overlap.
        padding: As for `Conv`. Under "SAME" the added zeros do not count in the mean.

    Raises:
        TypeError: If an entry of a pair is not a whole number.
        ValueError: If a size is neither a whole number nor a pair, or if an argument is out of range. From a call and
            from `kernel`, if the inputs are not images, or are smaller than a window with padding "VALID".

    Example:
        >>> AvgPool(2)(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]

    Note:
        The kernel needs the covariances of all pairs of pixels, in this layer and in all layers before it:
        N · M · (H · W)² numbers.
    """

    pools = 1

    def __init__(self, window: HeightWidth, *, strides: HeightWidth | None = None, padding: Padding = "VALID"):
        self.window = height_and_width("window", window)
        self.strides = self.window if strides is None else height_and_width("strides", strides)
        _checks.choice("padding", padding, ("SAME", "VALID", "CIRCULAR"))
        self.padding = padding

    def __call__(self, x: Array | np.ndarray) -> Float[Array, "N H W C"]:
        check_images(x.shape, x.ndim == 4)
        return _mean(jnp.asarray(x), [(1, 2)], self.window, self.strides, self.padding)

    def kernel_map(self, k: Kernel) -> Kernel:
        check_images((*k.q1.shape, k.features), k.q1.ndim > 1)
        return _pooled(k, self.window, self.strides, self.padding).pooled()


@one_program(1, 2, 3)
def _pooled(k: Kernel, window: tuple[int, int], strides: tuple[int, int], padding: Padding) -> Kernel:
    return k.map(lambda a, axes: _mean(a, zip(*axes, strict=True), window, strides, padding))


def _mean(
    a: Array,
    images: Iterable[tuple[int, int]],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding,
) -> Array:
    """Return the mean over windows.

    `images` has a pair of axes (height, width). It has two pairs if the array has an entry for each pair of pixels.
    """
    for axes in images:
        for axis, i in zip(axes, (0, 1), strict=True):
            size = a.shape[axis]
            total = windows(a, (axis,), window[i], strides[i], padding)
            there = jnp.full(total.shape[axis], float(window[i]), a.dtype)
            if padding == "SAME":
                there = windows(jnp.ones(size, a.dtype), (0,), window[i], strides[i], padding)
            a = total / there.reshape([-1 if j == axis else 1 for j in range(a.ndim)])
    return a


class GlobalAvgPool(Layer):
    """The mean over all pixels: [N, H, W, C] -> [N, C].

    Kernel map: Σ' is the mean of Σ(p, p') over all pairs of pixels, and Θ' is the mean of Θ(p, p'). The kernel needs as
    much memory as with `AvgPool`.

    Raises:
        ValueError: From a call and from `kernel`, if the inputs are not images.

    Example:
        >>> GlobalAvgPool()(jnp.arange(16.0).reshape(1, 4, 4, 1)).tolist()
        [[7.5]]

    See Also:
        `Flatten`, whose kernel compares a pixel only with the same pixel of the other image.
    """

    pools = 1

    def __call__(self, x: Array | np.ndarray) -> Float[Array, "N C"]:
        check_images(x.shape, x.ndim == 4)
        return jnp.mean(x, axis=(1, 2))

    def kernel_map(self, k: Kernel) -> Kernel:
        check_images((*k.q1.shape, k.features), k.q1.ndim > 1)
        return _all_pooled(k).pooled()


@one_program()
def _all_pooled(k: Kernel) -> Kernel:
    return k.map(lambda a, axes: jnp.mean(a, axis=tuple(itertools.chain(*axes))))
