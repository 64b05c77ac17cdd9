"""The correlation ρ of two inputs, x·x'/(‖x‖ ‖x'‖), accurate also for inputs of nearly the same or opposite direction.

It is stored as δ = 1 − abs(ρ) with the sign of ρ (see `ntklib.duals.correlation`).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib.duals import correlation
from ntklib.duals.correlation import inverse, sqrt

#: If abs(δ) is smaller than this, the δ of a matrix product has too few correct digits, and `_exact` computes it again.
_NEAR = {"float32": 0.01, "float64": 1e-5}
#: `_exact` takes the sine of an angle for a rounding error if it is smaller than this. In float32 its sum
#: c_high x_low + c_low x_high has rounding errors of about 2⁻³⁵.
_ROUNDING = {"float32": 2.0**-34, "float64": 2.0**-52}
#: The largest number of features in one matrix product of `products_in_groups`.
_GROUP = 128
#: The number of channels that `between_pixels` adds in one pass over all pairs of pixels.
_CHANNELS = 8
HIGHEST = jax.lax.Precision.HIGHEST  # by default accelerators round the factors of products, which costs digits


@functools.partial(jax.jit, static_argnums=2)
def between_vectors(x1: Array, x2: Array, same: bool) -> Array:
    """Return δ, [N, M], between the vectors x1, [N, d], and x2, [M, d].

    `same` says that x2 is x1. Then δ is 0 on the diagonal.

    For all pairs, δ is computed by a matrix product. With the unit vectors u of x1 and v of x2, and any vector c::

        1 − ρ = ½ ‖u − c‖² + ½ ‖v − c‖² − (u − c)·(v − c).

    Here c is the mean of the u. The terms of the product then have both signs, and its rounding error for the images of
    MNIST is two to five times smaller. For pairs of nearly the same or opposite direction, δ is computed a second time
    by `_exact`.

    If a vector is zero, δ is 1. No derivative passes through δ.
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
    """Return δ between vectors, which lie along the last axes of two arrays whose other axes broadcast.

    It is computed from 1 ∓ ρ = ½ ‖u ∓ v‖² with the unit vectors u, v. A vector has an entry for each channel. The terms
    of the channels are added one after the other, so that no array has a number for each pair of vectors and each
    channel. If a vector is zero, δ is 1. No derivative passes through δ.
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
    """Sum over the last axis, of size d, in groups of √d entries. This rounds much less than a sum entry by entry."""
    group = math.isqrt(x.shape[-1])
    if group < 4:
        return jnp.sum(x, -1)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % group)])
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(x.reshape(*x.shape[:-1], -1, group), -1)), -1)


def products_in_groups(x1: Array, x2: Array) -> Array:
    """Return x1 x2ᵀ, [N, M], for x1 [N, d] and x2 [M, d], as a sum of matrix products over groups of features.

    In a matrix product some processors add the d terms of an entry one after the other. For d = 784 the groups make the
    rounding error on such processors four times smaller, and take a few percent longer.
    """
    d = x1.shape[-1]
    size = max(1, -(-d // max(1, -(-d // _GROUP))))  # the groups have nearly the same size
    parts = [(x1[:, i : i + size], x2[:, i : i + size]) for i in range(0, max(d, 1), size)]
    return functools.reduce(jnp.add, [jnp.matmul(a, b.T, precision=HIGHEST) for a, b in parts])


def _unit(x: Array) -> tuple[Array, Array]:
    """Return x/‖x‖ over the last axis, and whether x is zero."""
    size = jnp.max(jnp.abs(x), -1, keepdims=True)
    scaled = x * inverse(size)
    return scaled * inverse(sqrt(sum_in_groups(jnp.square(scaled))))[..., None], size[..., 0] == 0


def _exact(x: Array, others: Array) -> Array:
    """Return δ between a vector x, [d], and each row x' of `others`, [M, d], also if their directions nearly agree.

    The largest absolute entry of each vector must lie between ½ and 1, so that squares do not over- or underflow. Let
    c = (x·x')/(x·x) and o = x' − c x. Then o is orthogonal to x. For the angle θ between x and x'::

        sin θ = ‖o‖/‖x'‖,   1 − abs(cos θ) = sin² θ/(1 + abs(cos θ)).

    If θ is small, the rounding error of the product c x can be as large as o. Therefore c and x are split into halves,
    whose products are exact. Because of the rounding error of c, o still has a small component along x, which is
    removed.

    If x and x' have the same direction, o consists of rounding errors. A sine as small as these is set to zero, because
    the dual of an activation may magnify it: for erf at variances of 1e28 an angle of 1e-11 is large.
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
    """Return each vector times a power of two, which rounds nothing. Its largest absolute entry is then in [½, 1)."""
    exponent = jnp.frexp(jnp.max(jnp.abs(x), -1, keepdims=True))[1]
    return jnp.ldexp(x, -exponent)


def _halves(x: Array) -> tuple[Array, Array]:
    """Split float32 numbers x into sums of two numbers with half as many digits, whose products are exact.

    Numbers in float64 are not split: the second summand is zero.
    """
    if x.dtype == jnp.float64:
        return x, jnp.zeros_like(x)  # the rounding errors of unsplit products are small enough in float64
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high
