"""Layers that reshape or normalise."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from ntklib import _checks
from ntklib.duals import correlation
from ntklib.kernel import Kernel
from ntklib.layers.base import Layer


class LayerNorm(Layer):
    """z' = (z − mean(z)) / √(var(z) + ε) over the units (channels), without a learned scale or shift; it follows an
    affine layer.

    Kernel map: Σ' = Σ/√((q + ε)(q' + ε)), Θ' = Θ/√((q + ε)(q' + ε)) with q, q' the variances of the two inputs. In the
    limit mean and variance over units are 0 and q exactly, and their own derivatives vanish like 1/n.
    """

    def __init__(self, epsilon: float = 1e-12):
        _checks.real("epsilon", epsilon, minimum=0.0)
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + self.epsilon)

    def kernel_map(self, k: Kernel) -> Kernel:
        k.require_gaussian("LayerNorm")
        v1, v2 = k.variances()
        norm = jnp.sqrt(v1 + self.epsilon) * jnp.sqrt(v2 + self.epsilon)
        q1, q2 = (q / (jnp.sqrt(a + self.epsilon) * jnp.sqrt(b + self.epsilon)) for q, a, b in k.within())
        # A factor changes no correlation.
        return k.replace(nngp=k.nngp / norm, ntk=k.ntk / norm, q1=q1, q2=q2, delta=k.delta)


class Flatten(Layer):
    """[N, H, W, C] -> [N, H·W·C]. Kernel map: the mean over equal pixels, since units are pixels and channels alike
    then.
    """

    def __call__(self, x: Array) -> Array:
        return x.reshape(x.shape[0], -1)

    def kernel_map(self, k: Kernel) -> Kernel:
        if k.pools:
            raise ValueError("Flatten must stand after the pooling layers: nothing can be pooled behind it.")
        pixels = k.q1.shape[1:]
        nngp, ntk = (a.mean(axis=tuple(range(2, a.ndim))) for a in (k.nngp, k.ntk))
        q1, q2 = k.sizes()
        minus, plus = (a.mean(axis=tuple(range(2, a.ndim))) for a in k.distances()) if pixels else k.distances()
        none = (q1[:, None] == 0) | (q2[None] == 0)
        delta = jnp.where(none, 1.0, correlation.signed(minus, plus))
        features = k.features * math.prod(pixels)
        return k.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=jax.lax.stop_gradient(delta), features=features)
