"""Layers that reshape or normalize."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from ntklib import _checks
from ntklib.duals import correlation
from ntklib.kernel import Kernel, one_program
from ntklib.layers.base import Layer


class LayerNorm(Layer):
    """Layer normalization: each example is normalized over its n units, each pixel of an image over its n channels.

    The layer has no learned scale or shift. With mean and variance over the units::

        z' = (z − mean(z)) / √(var(z) + ε).

    For a kernel it must follow an affine layer or a sum of affine layers; pooling and `Flatten` may stand between.
    Kernel map, with q = Σ(x, x) and q' = Σ(x', x')::

        Σ' = Σ/√((q + ε)(q' + ε)),   Θ' = Θ/√((q + ε)(q' + ε)).

    In the limit of infinite width, the mean over the units is 0 and the variance over the units is q. The derivatives
    of the mean and the variance with respect to the parameters add terms of order 1/n to Θ', which vanish.

    Args:
        epsilon: ε ≥ 0, which is added to the variance. With 0, an example whose units are all equal gives NaN.

    Raises:
        TypeError: If `epsilon` is not a number.
        ValueError: If it is negative or not finite. From `kernel`, if the layer does not follow an affine layer or a
            sum of affine layers.

    Example:
        >>> [round(v, 4) for v in LayerNorm()(jnp.array([[1.0, 3.0]]))[0].tolist()]
        [-1.0, 1.0]
    """

    def __init__(self, epsilon: float = 1e-12):
        _checks.real("epsilon", epsilon, minimum=0.0)
        self.epsilon = epsilon

    def __call__(self, x: Shaped[Array | np.ndarray, "*N n"]) -> Float[Array, "*N n"]:
        x = jnp.asarray(x)
        centered = x - jnp.mean(x, axis=-1, keepdims=True)
        return centered / jnp.sqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + self.epsilon)

    def kernel_map(self, k: Kernel) -> Kernel:
        k.require_gaussian("LayerNorm")
        return _normalized(k, self.epsilon)


@one_program()
def _normalized(k: Kernel, epsilon: Array) -> Kernel:
    v1, v2 = k.variances()
    norm = jnp.sqrt(v1 + epsilon) * jnp.sqrt(v2 + epsilon)
    q1, q2 = (q / (jnp.sqrt(a + epsilon) * jnp.sqrt(b + epsilon)) for q, a, b in k.within())
    # Each entry of Σ is divided by two standard deviations, which changes no correlation.
    return k.replace(nngp=k.nngp / norm, ntk=k.ntk / norm, q1=q1, q2=q2, delta=k.delta, acute=k.acute)


class Flatten(Layer):
    """Turns images into vectors: [N, H, W, C] -> [N, H·W·C].

    Kernel map: Σ' is the mean of Σ(p, p) over the pixels p, and Θ' is the mean of Θ(p, p). A pixel of one image is
    compared only with the same pixel of the other.

    Raises:
        ValueError: From `kernel`, if a pooling layer follows. Also if the images have several pixels and an activation
            follows before the next `Dense`, because units of different pixels have different variances. Put the
            activation before Flatten: the function is the same.

    Example:
        >>> Flatten()(jnp.zeros((2, 4, 4, 3))).shape
        (2, 48)

    See Also:
        `GlobalAvgPool`, whose kernel compares every pixel of one image with every pixel of the other.
    """

    def __call__(self, x: Shaped[Array | np.ndarray, "N *pixels"]) -> Shaped[Array | np.ndarray, "N d"]:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))  # reshape cannot infer −1 if N = 0

    def kernel_map(self, k: Kernel) -> Kernel:
        if k.pools:
            raise ValueError("Flatten must stand after the pooling layers: after it there are no pixels to pool.")
        pixels = math.prod(k.q1.shape[1:])
        return _flat(k).replace(features=k.features * pixels, equal_variances=k.equal_variances and pixels == 1)


@one_program()
def _flat(k: Kernel) -> Kernel:
    """Return the means of Σ(p, p) and Θ(p, p) over the pixels p."""
    nngp, ntk = (a.mean(axis=tuple(range(2, a.ndim))) for a in (k.nngp, k.ntk))
    q1, q2 = k.sizes()
    minus, plus = k.distances()
    if k.q1.ndim > 1:
        minus, plus = (a.mean(axis=tuple(range(2, a.ndim))) for a in (minus, plus))
    none = (q1[:, None] == 0) | (q2[None] == 0)
    delta = jnp.where(none, 1.0, correlation.signed(minus, plus))
    return k.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=jax.lax.stop_gradient(delta))
