"""What a kernel map carries from layer to layer: covariances (NNGP) and tangent kernels (NTK) of a layer's outputs."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.duals import correlation
from ntklib.duals.correlation import inverse, sqrt
from ntklib.duals.tables import Tables

#: Below these distances 1 − |ρ| between inputs products have lost digits, and differences are taken.
_NEAR = {"float32": 0.01, "float64": 1e-5}
#: So many channels at most are compared one by one at every pair of pixels.
_CHANNELS = 8
_HIGHEST = jax.lax.Precision.HIGHEST  # on accelerators the default rounds factors, and covariances with them


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kernel:
    """Kernels between N and M inputs, per output unit: the kernel of a network with K outputs is this times the
    identity.

    nngp: Σ(x, x') = E[z(x) z(x')], [N, M]; for images one entry per pixel as well, [N, M, H, W].
    ntk:  Θ(x, x') = Σ over all parameters θ of E[∂z(x)/∂θ ∂z(x')/∂θ], of the same shape.
    q1, q2: the variances Σ(x, x) of the two sets of inputs, [N] and [M] (images: [N, H, W] and [M, H, W]).
    features: how many units carry it (channels, for images); that of the network as built, whatever the limit.
    gaussian: whether those units are centered Gaussian in the limit, as an activation needs them; inputs are not.
    pools: how many pooling layers are still to come. Images keep the covariances of equal pixels only, unless pooling
        will ask for all pairs of pixels: then nngp and ntk are [N, M, H, W, H, W] and q1 [N, H, W, H, W].
    delta: 1 − |ρ| with the sign of ρ, ρ = Σ/√(q1 q2), as `nngp`; it keeps the digits near |ρ| = 1 that Σ loses
        (`ntklib.duals.correlation`). Derivatives do not pass through it but through nngp, q1 and q2. By default it is
        computed from these, with half of the digits.
    tables: of activations, where `gram` has made some; else None.
    """

    nngp: Float[Array, "N M *pixels"]
    ntk: Float[Array, "N M *pixels"]
    q1: Float[Array, "N *pixels"]
    q2: Float[Array, "M *pixels"]
    features: int = dataclasses.field(metadata={"static": True})
    gaussian: bool = dataclasses.field(default=False, metadata={"static": True})
    pools: int = dataclasses.field(default=0, metadata={"static": True})
    delta: Any = None  # as `nngp`; never None once it is made
    tables: Tables | None = None

    def __post_init__(self) -> None:
        if self.delta is None:
            v1, v2 = (v.astype(self.nngp.dtype) for v in self.variances())
            delta = correlation.from_covariance(self.nngp, v1, v2)
            object.__setattr__(self, "delta", jax.lax.stop_gradient(delta))

    @classmethod
    def from_inputs(cls, x1: ArrayLike, x2: ArrayLike | None = None, *, pools: int = 0) -> "Kernel":
        """The kernel of the inputs themselves: Σ = x·x'/d and Θ = 0, d the number of features (channels, for images).

        >>> k = Kernel.from_inputs(jnp.array([[1.0, 1.0], [1.0, -1.0]]))
        >>> k.nngp.tolist(), k.q1.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
        """
        x1 = _checks.inputs("x1", x1)
        x2 = x1 if x2 is None else _checks.inputs("x2", x2)
        _checks.same_inputs(x1, x2)
        d = x1.shape[-1]
        product = functools.partial(jnp.einsum, precision=_HIGHEST)
        if pools:
            if x1.ndim != 4:
                raise ValueError(f"A network with pooling takes images [N, H, W, C]; got inputs of shape {x1.shape}.")
            nngp = product("nhwc,mijc->nmhwij", x1, x2) / d
            q1, q2 = (product("nhwc,nijc->nhwij", x, x) / d for x in (x1, x2))
            delta = _directions(x1[:, None, :, :, None, None], x2[None, :, None, None])
            return cls(nngp, jnp.zeros_like(nngp), q1, q2, d, pools=pools, delta=delta)
        nngp = product("n...c,m...c->nm...", x1, x2) / d
        q1, q2 = (_sum(jnp.square(x)) / d for x in (x1, x2))
        if x1.ndim == 4:
            delta = _directions(x1[:, None], x2[None])
        else:
            delta = _vector_directions(x1, x2, x1 is x2)
            # δ is more accurate than the product; derivatives go through the product.
            better = sqrt(q1)[:, None] * sqrt(q2)[None] * correlation.rho(delta)
            nngp = nngp + jax.lax.stop_gradient(better - nngp)
        if x1 is x2:  # the variances are the diagonal to the last bit
            own = jnp.eye(len(x1), dtype=bool).reshape(len(x1), len(x1), *(1,) * (x1.ndim - 2))
            nngp = jnp.where(own, q1[:, None], nngp)
        return cls(nngp, jnp.zeros_like(nngp), q1, q2, d, delta=delta)

    def variances(self) -> tuple[Array, Array]:
        """q1 and q2 with an axis for the other set of inputs, so that they broadcast against `nngp`."""
        if not self.pools or self.q1.ndim == 1:  # one number an image, behind the last pooling
            return self.q1[:, None], self.q2[None, :]
        v1, v2 = (_pixel_variances(q) for q in (self.q1, self.q2))
        return v1[:, None, :, :, None, None], v2[None, :, None, None]

    def within(self) -> list[tuple[Array, Array, Array]]:
        """The covariances within q1 and within q2, each with the variances of its two units: all three are the same,
        but for the pairs of pixels of one image.
        """
        if not self.pools:
            return [(q, q, q) for q in (self.q1, self.q2)]
        each = [(q, _pixel_variances(q)) for q in (self.q1, self.q2)]
        return [(q, v[:, :, :, None, None], v[:, None, None]) for q, v in each]

    def map(self, fn: Callable[[Array, tuple[tuple[int, ...], ...]], Array]) -> "Kernel":
        """fn(array, axes) of all arrays, for a mean fn over pixels; `axes` are those of heights and of widths, one each
        or two.
        """
        axes = {n: ((n, n + 2), (n + 1, n + 3)) if self.pools else ((n,), (n + 1,)) for n in (1, 2)}
        # Each pixel enters several windows. Without a barrier the compiler makes it anew for each of them, with the
        # whole activation before it, which takes several times as long on a CPU.
        now = jax.lax.optimization_barrier(self)
        nngp, ntk = (fn(a, axes[2]) for a in (now.nngp, now.ntk))
        q1, q2 = (fn(a, axes[1]) for a in (now.q1, now.q2))
        if self.pools:
            return self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2)
        k = self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=nngp)  # δ follows below
        minus, plus = (fn(a, axes[2]) for a in now.distances())
        r1, r2 = (a for a in k.shares(*now.sizes()))
        apart, both = jnp.square(r1 - r2) / 2, inverse(r1 * r2)
        none = (both == 0).astype(minus.dtype)
        return k.with_delta(
            correlation.signed(jnp.maximum((minus - apart) * both, none), jnp.maximum((plus - apart) * both, none))
        )

    def sizes(self) -> tuple[Array, Array]:
        """The mean variance of each image."""
        q1, q2 = (q.mean(axis=tuple(range(1, q.ndim))) for q in (self.q1, self.q2))
        return q1, q2

    def shares(self, size1: Array, size2: Array) -> tuple[Array, Array]:
        """√(q/size) for each image and pixel, with an axis for the other set of inputs: what a pixel's standard
        deviation is in units of its image's, so that brightness does not matter.
        """
        pixels = (1,) * (self.q1.ndim - 1)
        r1, r2 = (
            sqrt(q) * inverse(sqrt(size)).reshape(-1, *pixels) for q, size in ((self.q1, size1), (self.q2, size2))
        )
        return r1[:, None], r2[None]

    def distances(self) -> tuple[Array, Array]:
        """½ E[(z/√size ∓ z'/√size')²] for each pair of images and pixel: means over pixels keep their digits."""
        r1, r2 = self.shares(*self.sizes())
        apart, both = jnp.square(r1 - r2) / 2, r1 * r2
        return apart + both * correlation.one_minus(self.delta), apart + both * correlation.one_plus(self.delta)

    def pooled(self) -> "Kernel":
        """One pooling layer fewer to come; after the last the covariances of equal pixels are enough."""
        if self.pools == 1 and self.q1.ndim == 5:
            nngp, ntk = (jnp.einsum("nmhwhw->nmhw", a) for a in (self.nngp, self.ntk))
            k = self.replace(
                nngp=nngp, ntk=ntk, q1=_pixel_variances(self.q1), q2=_pixel_variances(self.q2), pools=0,
                delta=jnp.einsum("nmhwhw->nmhw", self.delta),
            )  # fmt: skip
            return k
        return self.replace(pools=max(self.pools - 1, 0))

    def require_gaussian(self, layer: str) -> None:
        """Refuse a layer whose kernel map is an expectation over Gaussian units where the units are not Gaussian."""
        if not self.gaussian:
            raise ValueError(
                f"{layer} has no kernel here: in the limit it must see centered Gaussian units, so it must follow an "
                f"affine layer (Dense, Conv), not the inputs or another activation. Put a Dense between, or join two "
                f"functions in one ntklib.Elementwise."
            )

    def scaled(self, factor: float) -> "Kernel":
        """The kernel of the outputs times √factor."""
        nngp, ntk, q1, q2 = (factor * a for a in (self.nngp, self.ntk, self.q1, self.q2))
        return self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=self.delta)  # a factor changes no correlation

    def __add__(self, other: "Kernel") -> "Kernel":
        """The kernel of the sum of two independent outputs: kernels and variances add."""
        if not isinstance(other, Kernel):
            return NotImplemented
        if self.features != other.features:
            raise ValueError(
                f"Branches must have as many outputs as each other; got {self.features} and {other.features}."
            )
        nngp, ntk, q1, q2 = (
            getattr(self, name) + getattr(other, name) for name in ("nngp", "ntk", "q1", "q2")
        )  # fmt: skip
        gaussian = self.gaussian and other.gaussian
        total = self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, gaussian=gaussian, delta=self.delta)
        v1, v2 = total.variances()
        shares = [
            tuple(sqrt(v * inverse(t)) for v, t in zip(k.variances(), (v1, v2), strict=True)) for k in (self, other)
        ]
        return total.with_delta(correlation.sum_of(shares, [self.delta, other.delta], (v1 == 0) | (v2 == 0)))  # type: ignore

    def with_delta(self, delta: Array) -> "Kernel":
        """With another δ, through which no derivative passes."""
        return self.replace(delta=jax.lax.stop_gradient(delta))

    def replace(self, **changes: Any) -> "Kernel":
        """A copy with some fields changed; δ follows new covariances and variances, unless it is given too."""
        if "delta" not in changes and not changes.keys().isdisjoint(("nngp", "q1", "q2")):
            changes["delta"] = None
        return dataclasses.replace(self, **changes)


def _pixel_variances(q: Array) -> Array:
    return jnp.einsum("nhwhw->nhw", q)


# ------------------------------------------------------------------------------------------- directions of the inputs


def _unit(x: Array) -> tuple[Array, Array]:
    """x/‖x‖ over the last axis, and whether x is zero."""
    size = jnp.max(jnp.abs(x), -1, keepdims=True)
    scaled = x * inverse(size)
    return scaled * inverse(sqrt(_sum(jnp.square(scaled))))[..., None], size[..., 0] == 0


def _sum(x: Array) -> Array:
    """The sum over the last axis, in groups of √d: that rounds much less than number by number."""
    group = math.isqrt(x.shape[-1])
    if group < 4:
        return jnp.sum(x, -1)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % group)])
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(x.reshape(*x.shape[:-1], -1, group), -1)), -1)


def _directions(x1: Array, x2: Array) -> Array:
    """δ between the last axes of arrays that broadcast, by differences: for a few channels."""
    (u1, zero1), (u2, zero2) = (_unit(jax.lax.stop_gradient(x)) for x in (x1, x2))
    if u1.shape[-1] > _CHANNELS:
        rho = jnp.einsum("...c,...c->...", u1, u2, precision=_HIGHEST)
        return jnp.where(zero1 | zero2, 1.0, correlation.from_covariance(rho, jnp.ones_like(rho), jnp.ones_like(rho)))
    minus, plus = (
        functools.reduce(jnp.add, [jnp.square(u1[..., c] + sign * u2[..., c]) for c in range(u1.shape[-1])]) / 2
        for sign in (-1, 1)
    )
    return jnp.where(zero1 | zero2, 1.0, correlation.signed(minus, plus))


@functools.partial(jax.jit, static_argnums=2)
def _vector_directions(x1: Array, x2: Array, same: bool) -> Array:
    """δ between vectors, [N, M]: by a matrix product, and where some are near in direction by differences.

    1 − ρ = ½ ‖u − c‖² + ½ ‖v − c‖² − (u − c)·(v − c) for the directions u, v and any c. With their mean as c the
    products have either sign, and their sum a tenth of the rounding error that it has for images, say.
    """
    x1, x2 = jax.lax.stop_gradient(x1), jax.lax.stop_gradient(x2)
    (u1, zero1), (u2, zero2) = _unit(x1), _unit(x2)
    center = jnp.sum(u1, 0, keepdims=True) / max(len(u1), 1)
    u1, u2 = u1 - center, u2 - center
    norms1, norms2 = (_sum(jnp.square(u)) for u in (u1, u2))
    minus = (norms1[:, None] + norms2[None]) / 2 - jnp.matmul(u1, u2.T, precision=_HIGHEST)
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


def _exact(x: Array, others: Array) -> Array:
    """δ between one vector and all others, with the digits that the inputs have, however near they are. The largest
    entries are between ½ and 1.

    o = x' − c x, c = x·x'/x·x, is orthogonal to x, and sin θ = ‖o‖/‖x'‖. c x is rounded to as many digits as x', so the
    product is taken in halves, which are exact; what c's own rounding leaves along x is taken out once more.
    """
    x = x[None]
    length = inverse(jnp.sum(jnp.square(x)))
    c = jnp.sum(x * others, -1, keepdims=True) * length
    (c_high, c_low), (x_high, x_low) = _halves(c), _halves(x)
    rest = ((others - c_high * x_high) - (c_high * x_low + c_low * x_high)) - c_low * x_low
    rest = rest - x * (jnp.sum(rest * x, -1, keepdims=True) * length)
    sine = jnp.sum(jnp.square(rest), -1) * inverse(jnp.sum(jnp.square(others), -1))  # sin²
    d = sine / (1 + jnp.sqrt(jnp.maximum(1 - sine, 0.0)))
    return correlation.turned(d, c[..., 0] >= 0)


def _scaled(x: Array) -> Array:
    """X times a power of two, which rounds nothing, so that the largest entry lies between ½ and 1."""
    exponent = jnp.frexp(jnp.max(jnp.abs(x), -1, keepdims=True))[1]
    return jnp.ldexp(x, -exponent)


def _halves(x: Array) -> tuple[Array, Array]:
    """X as a sum of two numbers of half as many digits, whose products with such are exact."""
    if x.dtype == jnp.float64:
        return x, jnp.zeros_like(x)  # the digits of x itself suffice
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high
