"""Models as users bring them, in Flax NNX alone: a ResNet-20 and a small vision transformer."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


class ResidualBlock(nnx.Module):
    """Two 3×3 convolutions with BatchNorm; beside them the image, thinned and widened by zeros where sizes change."""

    def __init__(self, before: int, after: int, rngs: nnx.Rngs):
        self.stride, self.more = (2 if after > before else 1), after - before
        self.first = nnx.Conv(before, after, (3, 3), strides=self.stride, use_bias=False, rngs=rngs)
        self.second = nnx.Conv(after, after, (3, 3), use_bias=False, rngs=rngs)
        self.norm1, self.norm2 = nnx.BatchNorm(after, rngs=rngs), nnx.BatchNorm(after, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = self.norm2(self.second(nnx.relu(self.norm1(self.first(x)))))
        thinned = x[:, :: self.stride, :: self.stride]
        return nnx.relu(jnp.pad(thinned, [(0, 0)] * 3 + [(0, self.more)]) + h)


class ResNet20(nnx.Module):
    """Three blocks of each of 16, 32 and 64 channels (He et al. 2016a, §4.2): 270,000 parameters."""

    def __init__(self, rngs: nnx.Rngs):
        self.first, self.norm = nnx.Conv(3, 16, (3, 3), use_bias=False, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        sizes = itertools.pairwise([16, *[16] * 3, *[32] * 3, *[64] * 3])
        self.blocks = nnx.List([ResidualBlock(before, after, rngs) for before, after in sizes])
        self.readout = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = nnx.relu(self.norm(self.first(x)))
        for block in self.blocks:
            h = block(h)
        return self.readout(h.mean((1, 2)))


class AttentionBlock(nnx.Module):
    """Attention by four heads, and two dense layers, each behind a norm and beside the identity."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """Four blocks of width 64 on the 64 patches of 4×4 pixels of an image 32×32 (Dosovitskiy et al. 2021, small):
    208,000 parameters.
    """

    def __init__(self, rngs: nnx.Rngs):
        self.patches = nnx.Conv(3, 64, (4, 4), strides=(4, 4), rngs=rngs)
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (64, 64)))
        self.blocks = nnx.List([AttentionBlock(64, rngs) for _ in range(4)])
        self.norm, self.readout = nnx.LayerNorm(64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = self.patches(x).reshape(x.shape[0], 64, 64) + self.position[...]
        for block in self.blocks:
            h = block(h)
        return self.readout(self.norm(h).mean(1))


#: By the name that a case has for its network.
MODELS = {"resnet20": ResNet20, "transformer": Transformer}
