"""Correlations of the inputs themselves, as δ (`ntklib.duals.correlation`), with all the digits of the inputs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib.duals import correlation
from ntklib.duals.correlation import inverse, sqrt

#: Where 1 − |ρ| of two inputs is smaller than this, products lose digits, and δ is computed from differences.
_NEAR = {"float32": 0.01, "float64": 1e-5}
#: Below this, the sine of an angle is rounding: a sum of two products of halves has errors of 2⁻³⁵.
_ROUNDING = {"float32": 2.0**-34, "float64": 2.0**-52}
#: The largest number of features that are summed in one matrix product.
_GROUP = 128
#: The number of channels of pixels that are compared in one pass over all pairs.
_CHANNELS = 8
HIGHEST = jax.lax.Precision.HIGHEST  # by default accelerators round the factors, which costs digits of covariances


@functools.partial(jax.jit, static_argnums=2)
def between_vectors(x1: Array, x2: Array, same: bool) -> Array:
    """Return δ between vectors, [N, M].

    It is computed by a matrix product, and again from differences for pairs of nearly the same direction.
    For the directions u, v and any center c, 1 − ρ = ½ ‖u − c‖² + ½ ‖v − c‖² − (u − c)·(v − c). With c the mean
    direction, the terms of the product have both signs. For images this makes its rounding error ten times smaller.
    """
    x1, x2 = jax.lax.stop_gradient(x1), jax.lax.stop_gradient(x2)
    (u1, zero1), (u2, zero2) = _unit(x1), _unit(x2)
    center = jnp.sum(u1, 0, keepdims=True) / max(len(u1), 1)
    u1, u2 = u1 - center, u2 - center
    norms1, norms2 = (sum_in_groups(jnp.square(u)) for u in (u1, u2))
    minus = (norms1[:, None] + norms2[None]) / 2 - products_in_groups(u1, u2)
    delta = correlation.signed(minus, 2 - minus)
    none = zero1[:, None] | zero2[None]
    diagonal = jnp.eye(len(x1), dtype=bool) if same else jnp.zeros_like(none)
    near = (jnp.abs(delta) < _NEAR[x1.dtype.name]) & ~none & ~diagonal

    def mended() -> Array:
        scaled = _scaled(x2)

        def row(of: tuple[Array, Array, Array]) -> Array:
            x, delta, near = of
            return jax.lax.cond(jnp.any(near), lambda: jnp.where(near, _exact(x, scaled), delta), lambda: delta)

        return jax.lax.map(row, (_scaled(x1), delta, near))

    delta = jax.lax.cond(jnp.any(near), mended, lambda: delta)
    return jnp.where(none, 1.0, jnp.where(diagonal, 0.0, delta)).astype(x1.dtype)


def between_pixels(x1: Array, x2: Array) -> Array:
    """Return δ between vectors along the last axes of arrays that broadcast, from differences channel by channel.

    The channels are added one after the other, so that there is never an array of all pairs and channels.
    """
    (u1, zero1), (u2, zero2) = (_unit(jax.lax.stop_gradient(x)) for x in (x1, x2))

    def add(sums: tuple[Array, Array], channel: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (minus, plus), (u, v) = sums, channel
        return (minus + jnp.square(u - v) / 2, plus + jnp.square(u + v) / 2), None

    none = zero1 | zero2
    zeros = jnp.zeros(none.shape, u1.dtype)
    by_channel = jnp.moveaxis(u1, -1, 0), jnp.moveaxis(u2, -1, 0)
    (minus, plus), _ = jax.lax.scan(add, (zeros, zeros), by_channel, unroll=_CHANNELS)
    return jnp.where(none, 1.0, correlation.signed(minus, plus))


def sum_in_groups(x: Array) -> Array:
    """Sum over the last axis in groups of √d entries, which rounds much less than a sum entry by entry."""
    group = math.isqrt(x.shape[-1])
    if group < 4:
        return jnp.sum(x, -1)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % group)])
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(x.reshape(*x.shape[:-1], -1, group), -1)), -1)


def products_in_groups(x1: Array, x2: Array) -> Array:
    """Return x1 x2ᵀ for [N, d] and [M, d], summed in groups of features.

    Some processors add the d products of an entry one after the other. For d = 784 groups make the rounding error four
    times smaller there, and a tile takes a few percent longer.
    """
    d = x1.shape[-1]
    size = max(1, -(-d // max(1, -(-d // _GROUP))))  # groups of nearly one size
    parts = [(x1[:, i : i + size], x2[:, i : i + size]) for i in range(0, max(d, 1), size)]
    return functools.reduce(jnp.add, [jnp.matmul(a, b.T, precision=HIGHEST) for a, b in parts])


def _unit(x: Array) -> tuple[Array, Array]:
    """Return x/‖x‖ over the last axis, and whether x is zero."""
    size = jnp.max(jnp.abs(x), -1, keepdims=True)
    scaled = x * inverse(size)
    return scaled * inverse(sqrt(sum_in_groups(jnp.square(scaled))))[..., None], size[..., 0] == 0


def _exact(x: Array, others: Array) -> Array:
    """Return δ between one vector and all others, with as many digits as the inputs have, however near they are.

    The largest entry of each vector must lie between ½ and 1. With c = x·x'/x·x the vector o = x' − c x is orthogonal
    to x, and sin θ = ‖o‖/‖x'‖. The rounding error of the product c x would be as large as that of x', so the product
    is taken in halves, which are exact. The rounding error of c leaves a part of o along x, which is then removed.
    For two vectors of one direction only rounding errors are left. They are set to zero, because a dual may magnify
    them: for erf at variances of 1e28 an angle of 1e-11 is a large one.
    """
    x = x[None]
    length = inverse(jnp.sum(jnp.square(x)))
    c = jnp.sum(x * others, -1, keepdims=True) * length
    (c_high, c_low), (x_high, x_low) = _halves(c), _halves(x)
    rest = ((others - c_high * x_high) - (c_high * x_low + c_low * x_high)) - c_low * x_low
    rest = rest - x * (jnp.sum(rest * x, -1, keepdims=True) * length)
    sine = jnp.sum(jnp.square(rest), -1) * inverse(jnp.sum(jnp.square(others), -1))  # sin²
    sine = jnp.where(sine > _ROUNDING[x.dtype.name] ** 2, sine, 0.0)
    d = sine / (1 + jnp.sqrt(jnp.maximum(1 - sine, 0.0)))
    return correlation.turned(d, c[..., 0] >= 0)


def _scaled(x: Array) -> Array:
    """Multiply each vector by a power of two, so that its largest entry lies between ½ and 1. This rounds nothing."""
    exponent = jnp.frexp(jnp.max(jnp.abs(x), -1, keepdims=True))[1]
    return jnp.ldexp(x, -exponent)


def _halves(x: Array) -> tuple[Array, Array]:
    """Split x into a sum of two numbers of half as many digits. Products of such numbers are exact."""
    if x.dtype == jnp.float64:
        return x, jnp.zeros_like(x)  # the rounding error of float64 is small enough
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high
