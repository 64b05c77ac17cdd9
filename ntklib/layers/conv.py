"""Convolutions over images [N, H, W, C], with and without shared weights."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from ntklib import _checks
from ntklib.kernel import Kernel, one_program
from ntklib.layers._windows import HeightWidth, Padding, check_images, extent, height_and_width, patch_mean
from ntklib.layers.base import Layer
from ntklib.layers.dense import affine_kernel, check_affine, standard_normal
from ntklib.parameterization import NTK, Parameterization, Role


class _PatchLayer(Layer):
    """An affine layer over patches of pixels. Its subclasses say which pixels share weights."""

    ends_affine = True
    w_std: float
    b_std: float
    use_bias: bool
    parameterization: Parameterization
    role: Role | None

    def _describe(
        self, c_in: int, c_out: int, kernel_size: HeightWidth, strides: HeightWidth, padding: Padding
    ) -> None:
        _checks.count("c_in", c_in)
        _checks.count("c_out", c_out)
        _checks.choice("padding", padding, ("SAME", "VALID", "CIRCULAR"))
        self.c_in, self.c_out, self.padding = c_in, c_out, padding
        self.kernel_size = height_and_width("kernel_size", kernel_size)
        self.strides = height_and_width("strides", strides)

    def scales(self) -> dict[str, tuple[float, float, float]]:
        """Return (multiplier, initial standard deviation, learning-rate factor) of each parameter, by its name."""
        p, area = self.parameterization, math.prod(self.kernel_size)
        scales = {"W": p.weight(self.role, self.c_in * area, self.c_out, self.w_std)}
        return scales | {"b": p.bias(self.role, self.c_out, self.b_std)} if self.use_bias else scales

    def _extents(self, image_size: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """For height and width: how many pixels to add before and after, and the number of outputs."""
        sizes = zip(image_size, self.kernel_size, self.strides, strict=True)
        return [extent(size, window, stride, self.padding) for size, window, stride in sizes]

    def _over_patches(self, k: Kernel) -> Kernel:
        """Return the kernel of a `Dense` layer over patches, with the same weights at every pixel."""
        _checks.features(self.c_in, k.features)
        patches = _patch_means(k, self.kernel_size, self.strides, self.padding)
        return affine_kernel(patches, self.scales(), self.c_in * math.prod(self.kernel_size), self.c_out)


@one_program(1, 2, 3)
def _patch_means(k: Kernel, window: tuple[int, int], strides: tuple[int, int], padding: Padding) -> Kernel:
    """Return the kernel averaged over the places of a patch, for each pixel at which a patch stands."""
    return k.map(lambda a, axes: patch_mean(a, axes, window, strides, padding))


class Conv(_PatchLayer):
    """A convolution: an affine layer over patches of pixels, with the same weights at every pixel.

    It maps [N, H, W, c_in] to [N, H', W', c_out]. Each output is that of a `Dense` layer whose inputs are the
    n = c_in · kh · kw numbers of a patch of kh × kw pixels.

    Kernel map under NTK for pixels p and p'. A is the mean over the kh · kw places of a patch; the place in the patch
    of p and the place in the patch of p' are the same::

        Σ'(p, p') = σ_w² A[Σ](p, p') + σ_b²,   Θ'(p, p') = Σ'(p, p') + σ_w² A[Θ](p, p').

    Other parameterizations change the factors as for `Dense`.

    Args:
        c_in: The number of input channels.
        c_out: The number of output channels.
        kernel_size: The size of a patch: a number, or a pair (height, width).
        strides: The distance between neighboring patches: a number, or a pair (height, width).
        padding: "VALID" adds no pixels. "SAME" adds zeros, so that the output has ⌈H/stride⌉ rows. "CIRCULAR" adds as
            many pixels as "SAME", but takes them from the opposite edge.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared. With 0 the bias adds nothing as long as `ntklib.sgd` trains (see `Dense`).
        use_bias: Whether there is a bias at all.
        parameterization: As for `Dense`.
        role: As for `Dense`.
        rngs: The random numbers from which W and b are drawn, e.g. `nnx.Rngs(0)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; and, when the layer is called, if the inputs are not images with
            `c_in` channels, or are smaller than a patch with padding "VALID".

    Example:
        >>> layer = Conv(3, 8, (3, 3), w_std=1.0, b_std=0.1, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 28, 28, 3))).shape
        (2, 28, 28, 8)

    Note:
        The zeros of "SAME" count in the fan-in, so that outputs at the edge are smaller.

    References:
        Novak et al. 2019; Arora et al. 2019.

    See Also:
        `LocallyConnected`, the same without shared weights.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: HeightWidth,
        *,
        strides: HeightWidth = 1,
        padding: Padding = "SAME",
        w_std: float,
        b_std: float = 0.0,
        use_bias: bool = True,
        parameterization: Parameterization = NTK,
        role: Role | None = None,
        rngs: nnx.Rngs,
    ):
        check_affine(w_std, b_std, use_bias, parameterization, rngs)
        self._describe(c_in, c_out, kernel_size, strides, padding)
        self.w_std, self.b_std, self.use_bias = w_std, b_std, use_bias
        self.parameterization, self.role = parameterization, role
        scales = self.scales()
        self.W = nnx.Param(scales["W"][1] * standard_normal(rngs, *self.kernel_size, c_in, c_out))
        self.b = nnx.Param(scales["b"][1] * standard_normal(rngs, c_out)) if use_bias else None

    def __call__(self, x: Array | np.ndarray) -> Float[Array, "N H W c_out"]:
        _checks.network_input(x)
        check_images(x.shape, x.ndim == 4)
        _checks.features(self.c_in, x.shape[-1])
        scales = self.scales()
        edges = [(before, after) for before, after, _ in self._extents(x.shape[1:3])]
        if self.padding == "CIRCULAR":
            x, edges = jnp.pad(x, [(0, 0), *edges, (0, 0)], mode="wrap"), [(0, 0), (0, 0)]
        z = jax.lax.conv_general_dilated(
            jnp.asarray(x),
            scales["W"][0] * self.W[...],
            self.strides,
            edges,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return z if self.b is None else z + scales["b"][0] * jnp.broadcast_to(self.b[...], z.shape)

    def kernel_map(self, k: Kernel) -> Kernel:
        check_images(k.q1.shape, k.q1.ndim > 1)
        return self._over_patches(k)


class LocallyConnected(_PatchLayer):
    """A convolution without shared weights: each output pixel has weights and a bias of its own.

    It maps [N, H, W, c_in] to [N, H', W', c_out]. The output at the pixel p is that of a `Dense` layer of its own, with
    weights W_p [kh, kw, c_in, c_out] and the bias b_p, over the patch of `Conv` at p. In the NTK parameterization, with
    n = c_in · kh · kw::

        z(p) = σ_w/√n Σ_patch x W_p + σ_b b_p.

    Kernel map under NTK for pixels p and p', where A is the mean over the places of a patch::

        Σ'(p, p') = (σ_w² A[Σ](p, p) + σ_b²) 1[p = p'],   Θ'(p, p') = (Σ'(p, p) + σ_w² A[Θ](p, p)) 1[p = p'].

    For equal pixels this is the kernel of `Conv`. A network without pooling sees equal pixels only, and therefore has
    the kernel of the convolutional network that it copies. With pooling the two differ: different pixels of a
    convolution are correlated, and those of this layer are not.

    Args:
        image_size: The size of the images that come in: a number, or a pair (height, width).
        c_in: The number of input channels.
        c_out: The number of output channels.
        kernel_size: As for `Conv`.
        strides: As for `Conv`.
        padding: As for `Conv`.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared. With 0 the bias adds nothing as long as `ntklib.sgd` trains (see `Dense`).
        use_bias: Whether there are biases at all.
        parameterization: As for `Dense`.
        role: As for `Dense`.
        rngs: The random numbers from which W and b are drawn, e.g. `nnx.Rngs(0)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; and, when the layer is called, if the inputs are not images of this
            size with `c_in` channels.

    Example:
        >>> layer = LocallyConnected(28, 3, 8, 3, strides=2, w_std=1.0, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 28, 28, 3))).shape, layer.W.shape
        ((2, 14, 14, 8), (14, 14, 3, 3, 3, 8))

    Note:
        It has H' · W' times as many parameters as the convolution. A call copies each patch: N · H' · W' · n numbers.
        The memory of the kernel is that of `Conv`.

    References:
        Novak et al. 2019; Lee et al. 2020.
    """

    def __init__(
        self,
        image_size: HeightWidth,
        c_in: int,
        c_out: int,
        kernel_size: HeightWidth,
        *,
        strides: HeightWidth = 1,
        padding: Padding = "SAME",
        w_std: float,
        b_std: float = 0.0,
        use_bias: bool = True,
        parameterization: Parameterization = NTK,
        role: Role | None = None,
        rngs: nnx.Rngs,
    ):
        self.image_size = height_and_width("image_size", image_size)
        check_affine(w_std, b_std, use_bias, parameterization, rngs)
        self._describe(c_in, c_out, kernel_size, strides, padding)
        self.w_std, self.b_std, self.use_bias = w_std, b_std, use_bias
        self.parameterization, self.role = parameterization, role
        pixels, scales = [out for *_, out in self._extents(self.image_size)], self.scales()
        self.W = nnx.Param(scales["W"][1] * standard_normal(rngs, *pixels, *self.kernel_size, c_in, c_out))
        self.b = nnx.Param(scales["b"][1] * standard_normal(rngs, *pixels, c_out)) if use_bias else None

    def __call__(self, x: Array | np.ndarray) -> Float[Array, "N H W c_out"]:
        _checks.network_input(x)
        self._check_images(x.shape, x.ndim == 4)
        _checks.features(self.c_in, x.shape[-1])
        scales = self.scales()
        (top, bottom, rows), (left, right, columns) = self._extents(self.image_size)
        x = jnp.pad(
            x, [(0, 0), (top, bottom), (left, right), (0, 0)], mode="wrap" if self.padding == "CIRCULAR" else "constant"
        )
        (down, along), (kh, kw) = self.strides, self.kernel_size
        # The pixels at one place of all patches, for each place: one product then serves all places.
        places = [
            x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * along + 1 : along]
            for i, j in itertools.product(range(kh), range(kw))
        ]
        patches = jnp.concatenate(places, axis=-1)
        W = scales["W"][0] * self.W[...].reshape(rows, columns, kh * kw * self.c_in, self.c_out)
        z = jnp.einsum("nhwi,hwio->nhwo", patches, W)
        return z if self.b is None else z + scales["b"][0] * jnp.broadcast_to(self.b[...], z.shape)

    def kernel_map(self, k: Kernel) -> Kernel:
        self._check_images(k.q1.shape, k.q1.ndim > 1)
        shared = self._over_patches(k)
        return _uncorrelated(shared) if shared.pools and shared.q1.ndim == 5 else shared

    def _check_images(self, shape: tuple[int, ...], fits: bool) -> None:
        check_images(shape, fits)
        if shape[1:3] != self.image_size:
            raise ValueError(
                f"This LocallyConnected layer has weights for images of {self.image_size} pixels (height, width); its "
                f"input has {shape[1:3]}. Build it with image_size={shape[1:3]}."
            )


@one_program()
def _uncorrelated(k: Kernel) -> Kernel:
    """Return a kernel between all pairs of pixels in which different pixels have covariance and tangent kernel 0."""
    height, width = k.q1.shape[1:3]
    rows, columns = jnp.eye(height, dtype=bool), jnp.eye(width, dtype=bool)
    equal = rows[:, None, :, None] & columns[None, :, None, :]

    def masked(a: Array, other: float) -> Array:
        return jnp.where(jnp.broadcast_to(equal, a.shape), a, jnp.asarray(other, a.dtype))

    nngp, ntk, q1, q2 = (masked(a, 0.0) for a in (k.nngp, k.ntk, k.q1, k.q2))
    return k.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=masked(k.delta, 1.0))
