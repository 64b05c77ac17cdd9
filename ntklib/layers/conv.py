"""Convolutions over images [N, H, W, C], with and without shared weights."""

import dataclasses
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
    """The base class of `Conv` and `LocallyConnected`: an affine layer over patches of pixels."""

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
        """Return {name of a parameter: (multiplier, initial standard deviation, learning-rate factor)}."""
        p, area = self.parameterization, math.prod(self.kernel_size)
        scales = {"W": p.weight(self.role, self.c_in * area, self.c_out, self.w_std)}
        return scales | {"b": p.bias(self.role, self.c_out, self.b_std)} if self.use_bias else scales

    def _extents(self, image_size: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Return (pixels to add before, pixels to add after, number of outputs) for height and for width."""
        sizes = zip(image_size, self.kernel_size, self.strides, strict=True)
        return [extent(size, window, stride, self.padding) for size, window, stride in sizes]

    def _over_patches(self, k: Kernel) -> Kernel:
        """Return the kernel of the outputs if all pixels have the same weights."""
        _checks.features(self.c_in, k.features)
        mean = _PatchMean(self.kernel_size, self.strides, self.padding)
        return affine_kernel(k, self.scales(), self.c_in * math.prod(self.kernel_size), self.c_out, mean)


@dataclasses.dataclass(frozen=True)
class _PatchMean:
    """The mean A of `Conv`: a kernel is averaged over the places of a patch."""

    window: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding

    def __call__(self, k: Kernel) -> Kernel:
        return k.map(lambda a, axes: patch_mean(a, axes, self.window, self.strides, self.padding))


class Conv(_PatchLayer):
    """A convolution: an affine layer over patches of pixels, with the same weights at every pixel.

    It maps [N, H, W, c_in] to [N, H', W', c_out]. At each output pixel, the same `Dense` layer is applied to a patch of
    kh × kw input pixels. Its fan-in is n = c_in · kh · kw.

    Kernel map under NTK for output pixels p and p'::

        Σ'(p, p') = σ_w² A[Σ](p, p') + σ_b²,   Θ'(p, p') = Σ'(p, p') + σ_w² A[Θ](p, p').

    A[Σ](p, p') is the mean of Σ over kh · kw pairs of input pixels: a pixel in the patch of p, and the pixel at the
    same place in the patch of p'.

    Other parameterizations change the factors as for `Dense`.

    Args:
        c_in: The number of input channels.
        c_out: The number of output channels.
        kernel_size: The size of a patch: a number, or a pair (height, width).
        strides: The distance between neighboring patches: a number, or a pair (height, width).
        padding: "VALID" adds no pixels. "SAME" adds pixels that are zero, so that the output has ⌈H/stride⌉ rows and
            ⌈W/stride⌉ columns. "CIRCULAR" adds as many pixels as "SAME", with the values at the opposite edge.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared. With 0 the bias adds nothing, also after training by `ntklib.sgd` (see `Dense`).
        use_bias: Whether there is a bias at all.
        parameterization: As for `Dense`.
        role: As for `Dense`.
        rngs: The random generator of W and b, e.g. `nnx.Rngs(0)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, if a size is neither a whole number nor a pair, if b_std > 0 and
            use_bias=False, or if `role` is unknown or needed and not given. From a call and from `kernel`, if the
            inputs are not images with `c_in` channels, or are smaller than a patch with padding "VALID".

    Example:
        >>> layer = Conv(3, 8, (3, 3), w_std=1.0, b_std=0.1, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 28, 28, 3))).shape
        (2, 28, 28, 8)

    Note:
        The zeros that "SAME" adds count in the fan-in. Outputs at the edge of an image therefore have smaller
        variances.

    References:
        Novak et al. 2019; Arora et al. 2019.

    See Also:
        `LocallyConnected`, the same layer without shared weights.
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
        check_images((*k.q1.shape, k.features), k.q1.ndim > 1)
        return self._over_patches(k)


class LocallyConnected(_PatchLayer):
    """A convolution without shared weights: each output pixel has weights and a bias of its own.

    It maps [N, H, W, c_in] to [N, H', W', c_out]. The patches are the same as for `Conv`. At each output pixel p, a
    `Dense` layer with weights W_p [kh, kw, c_in, c_out] and bias b_p of its own is applied to the patch of p. In the
    NTK parameterization, with the fan-in n = c_in · kh · kw::

        z(p) = σ_w/√n Σ_patch x W_p + σ_b b_p.

    Kernel map under NTK for output pixels p and p', with A as in `Conv`::

        Σ'(p, p') = (σ_w² A[Σ](p, p) + σ_b²) 1[p = p'],   Θ'(p, p') = (Σ'(p, p) + σ_w² A[Θ](p, p)) 1[p = p'].

    1[p = p'] is 1 for p = p', and 0 otherwise. For p = p' this is the kernel map of `Conv`, and the kernel of a network
    without pooling needs no other pairs of pixels: it does not change if `Conv` is replaced by this layer. With pooling
    it changes, because different pixels are correlated after `Conv` and independent after this layer.

    Args:
        image_size: The size of the input images: a number, or a pair (height, width).
        c_in: The number of input channels.
        c_out: The number of output channels.
        kernel_size: As for `Conv`.
        strides: As for `Conv`.
        padding: As for `Conv`.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared. With 0 the bias adds nothing, also after training by `ntklib.sgd` (see `Dense`).
        use_bias: Whether there are biases at all.
        parameterization: As for `Dense`.
        role: As for `Dense`.
        rngs: The random generator of W and b, e.g. `nnx.Rngs(0)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, if a size is neither a whole number nor a pair, if b_std > 0 and
            use_bias=False, if `role` is unknown or needed and not given, or if the images are smaller than a patch with
            padding "VALID". From a call and from `kernel`, if the inputs are not images of this size with `c_in`
            channels.

    Example:
        >>> layer = LocallyConnected(28, 3, 8, 3, strides=2, w_std=1.0, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 28, 28, 3))).shape, layer.W.shape
        ((2, 14, 14, 8), (14, 14, 3, 3, 3, 8))

    Note:
        The layer has H' · W' times as many parameters as `Conv`. A call copies each patch: N · H' · W' · n numbers.
        The kernel takes as much memory as that of `Conv`.

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
        # For each place in a patch, the pixels at this place in all patches. They are concatenated, so that one product
        # is enough.
        places = [
            x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * along + 1 : along]
            for i, j in itertools.product(range(kh), range(kw))
        ]
        patches = jnp.concatenate(places, axis=-1)
        W = scales["W"][0] * self.W[...].reshape(rows, columns, kh * kw * self.c_in, self.c_out)
        z = jnp.einsum("nhwi,hwio->nhwo", patches, W)
        return z if self.b is None else z + scales["b"][0] * jnp.broadcast_to(self.b[...], z.shape)

    def kernel_map(self, k: Kernel) -> Kernel:
        self._check_images((*k.q1.shape, k.features), k.q1.ndim > 1)
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
    """Return a kernel over all pairs of pixels, with Σ and Θ of different pixels set to 0."""
    height, width = k.q1.shape[1:3]
    rows, columns = jnp.eye(height, dtype=bool), jnp.eye(width, dtype=bool)
    equal = rows[:, None, :, None] & columns[None, :, None, :]

    def masked(a: Array, other: float) -> Array:
        return jnp.where(jnp.broadcast_to(equal, a.shape), a, jnp.asarray(other, a.dtype))

    nngp, ntk, q1, q2 = (masked(a, 0.0) for a in (k.nngp, k.ntk, k.q1, k.q2))
    return k.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=masked(k.delta, 1.0))
