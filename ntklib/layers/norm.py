"""Layers that reshape or normalise."""

import math

import jax.numpy as jnp
from jax import Array

from ntklib import _checks
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
        q1, q2 = (q / jnp.sqrt((a + self.epsilon) * (b + self.epsilon)) for q, a, b in k.own())
        gap = k.gap
        if gap is not None:  # ½(√q1 − √q2)², the part of the norms, changes unlike that of the angle
            (s1, r1), (s2, r2) = ((jnp.sqrt(v), jnp.sqrt(v / (v + self.epsilon))) for v in (v1, v2))
            gap = (gap - (s1 - s2) ** 2 / 2) / norm + (r1 - r2) ** 2 / 2
        return k.replace(nngp=k.nngp / norm, ntk=k.ntk / norm, q1=q1, q2=q2, gap=gap)


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
        each = [k.nngp, k.ntk] + ([] if k.gap is None else [k.gap])
        nngp, ntk, *gap = (a.mean(axis=tuple(range(2, a.ndim))) for a in each)
        q1, q2 = (q.mean(axis=tuple(range(1, q.ndim))) for q in (k.q1, k.q2))
        gap = gap[0] if gap else None
        return k.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, gap=gap, features=k.features * math.prod(pixels))
