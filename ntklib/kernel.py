"""`Kernel`: covariances (NNGP) and tangent kernels (NTK) of a layer's outputs, which go from layer to layer."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib._directions import HIGHEST, between_pixels, between_vectors, sum_in_groups
from ntklib.duals import correlation
from ntklib.duals.correlation import inverse, sqrt
from ntklib.duals.tables import Tables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kernel:
    """Kernels between two sets of N and M inputs, per output unit.

    The kernel of a network with K outputs is this one times the identity over the outputs. For the units z of a layer
    and all parameters θ up to it::

        Σ(x, x') = E[z(x) z(x')],   Θ(x, x') = Σ_θ E[∂z(x)/∂θ ∂z(x')/∂θ].

    For images there is an entry for each pixel, which is the same pixel of both images. If a pooling layer is still to
    come, there is an entry for each pair of a pixel of the one and a pixel of the other.

    Args:
        nngp: Σ, [N, M]; for images [N, M, H, W], before pooling [N, M, H, W, H, W].
        ntk: Θ, of the shape of `nngp`.
        q1: The variances Σ(x, x) of the first inputs, [N]; for images [N, H, W], before pooling [N, H, W, H, W].
        q2: The variances of the second inputs, [M]; for images as `q1`.
        features: The number of units (for images, channels) of the network as it was built.
        gaussian: Whether the units are centered Gaussian in the limit, as the inputs of an activation must be. The
            inputs of the network are not.
        pools: The number of pooling layers still to come.
        equal_variances: Whether all units have one variance, as the inputs of an activation must. After `Flatten` the
            units of different pixels have different ones.
        acute: Whether no correlation is negative, as after ReLU: then no angle between units is larger than 90 degrees,
            and the next ReLU takes half of the time.
        delta: 1 − abs(ρ) with the sign of ρ, where ρ = Σ/√(q1 q2); of the shape of `nngp`. Near ρ = ±1 it keeps the
            digits that Σ loses (see `ntklib.duals.correlation`). By default it is computed from `nngp`, `q1` and `q2`,
            which gives half of the digits. Derivatives pass through these three and not through `delta`.
        tables: Tables of activations, which `gram` makes; otherwise None.

    Example:
        >>> k = Kernel.from_inputs(jnp.array([[3.0, 4.0], [0.0, 2.0]]))
        >>> k.nngp.round(4).tolist(), k.ntk.tolist()
        ([[12.5, 4.0], [4.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]])
    """

    nngp: Float[Array, "N M *pixels"]
    ntk: Float[Array, "N M *pixels"]
    q1: Float[Array, "N *pixels"]
    q2: Float[Array, "M *pixels"]
    features: int = dataclasses.field(metadata={"static": True})
    gaussian: bool = dataclasses.field(default=False, metadata={"static": True})
    pools: int = dataclasses.field(default=0, metadata={"static": True})
    equal_variances: bool = dataclasses.field(default=True, metadata={"static": True})
    acute: bool = dataclasses.field(default=False, metadata={"static": True})
    delta: Any = None  # None only until `__post_init__`
    tables: Tables | None = None

    def __post_init__(self) -> None:
        if self.delta is None:
            v1, v2 = (v.astype(self.nngp.dtype) for v in self.variances())
            delta = correlation.from_covariance(self.nngp, v1, v2)
            object.__setattr__(self, "delta", jax.lax.stop_gradient(delta))

    @classmethod
    def from_inputs(cls, x1: ArrayLike, x2: ArrayLike | None = None, *, pools: int = 0) -> "Kernel":
        """Return the kernel of the inputs themselves: Σ = x·x'/d and Θ = 0.

        Args:
            x1: Inputs [N, d], or images [N, H, W, C], for which d is the number of channels C.
            x2: Inputs [M, d], or images; by default `x1`.
            pools: The number of pooling layers of the network that follows.

        Returns:
            The `Kernel`, with `features` = d and `gaussian` = False.

        Raises:
            TypeError: If the inputs are not arrays of floating-point numbers.
            ValueError: If the inputs do not fit each other, if their squares leave the range of their type, or if
                `pools` > 0 and they are not images.

        Example:
            >>> k = Kernel.from_inputs(jnp.array([[1.0, 1.0], [1.0, -1.0]]))
            >>> k.nngp.round(4).tolist(), k.q1.tolist()
            ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
        """
        x1 = _checks.inputs("x1", x1)
        x2 = x1 if x2 is None else _checks.inputs("x2", x2)
        _checks.same_inputs(x1, x2)
        if pools and x1.ndim != 4:
            raise ValueError(f"A network with pooling takes images [N, H, W, C]; got inputs of shape {x1.shape}.")
        nngp, q1, q2, delta = _between_inputs(x1, None if x1 is x2 else x2, bool(pools))
        for argument, q in (("x1", q1), ("x2", q2)):
            if not pools and not _checks.is_traced(q) and not bool(jnp.isfinite(q).all()):
                raise ValueError(_checks.too_large(argument, q.dtype))
        return cls(nngp, jnp.zeros_like(nngp), q1, q2, x1.shape[-1], pools=pools, delta=delta)

    def variances(self) -> tuple[Array, Array]:
        """Return the variances of both units of each pair, with axes of length 1 so that they broadcast to `nngp`."""
        if not self.pools or self.q1.ndim == 1:  # after the last pooling there is one number for each image
            return self.q1[:, None], self.q2[None, :]
        v1, v2 = (_pixel_variances(q) for q in (self.q1, self.q2))
        return v1[:, None, :, :, None, None], v2[None, :, None, None]

    def within(self) -> list[tuple[Array, Array, Array]]:
        """Return the arguments (covariance, variance, variance) of an activation's dual, for q1 and for q2.

        If q1 and q2 are variances, all three are the same. Before pooling they have the covariances of all pairs of
        pixels of an image, and the three differ.
        """
        if not self.pools:
            return [(q, q, q) for q in (self.q1, self.q2)]
        each = [(q, _pixel_variances(q)) for q in (self.q1, self.q2)]
        return [(q, v[:, :, :, None, None], v[:, None, None]) for q, v in each]

    def map(self, fn: Callable[[Array, tuple[tuple[int, ...], ...]], Array]) -> "Kernel":
        """Apply `fn(array, axes)`, a mean over pixels, to all arrays.

        `axes` are the axes of the heights and the axes of the widths: one of each, or two before pooling.
        """
        axes = {n: ((n, n + 2), (n + 1, n + 3)) if self.pools else ((n,), (n + 1,)) for n in (1, 2)}
        # Each pixel enters several windows. Without a barrier the compiler computes the activation before this layer
        # again for each window, which takes several times as long on a CPU.
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
        """Return the mean variance of each image of the two sets, [N] and [M]."""
        q1, q2 = (q.mean(axis=tuple(range(1, q.ndim))) for q in (self.q1, self.q2))
        return q1, q2

    def shares(self, size1: Array, size2: Array) -> tuple[Array, Array]:
        """Return √(q/size) for each image and pixel, with an axis for the other set of inputs.

        It is the standard deviation of a pixel in units of that of its image, and does not depend on brightness.
        """
        pixels = (1,) * (self.q1.ndim - 1)
        r1, r2 = (
            sqrt(q) * inverse(sqrt(size)).reshape(-1, *pixels) for q, size in ((self.q1, size1), (self.q2, size2))
        )
        return r1[:, None], r2[None]

    def distances(self) -> tuple[Array, Array]:
        """Return ½ E[(z/√size ∓ z'/√size')²] for each pair of images and each pixel.

        Both are sums of positive terms, so that their means over pixels keep all digits.
        """
        r1, r2 = self.shares(*self.sizes())
        apart, both = jnp.square(r1 - r2) / 2, r1 * r2
        return apart + both * correlation.one_minus(self.delta), apart + both * correlation.one_plus(self.delta)

    def pooled(self) -> "Kernel":
        """Return the kernel with one pooling layer fewer to come.

        After the last pooling layer only the covariances of equal pixels are kept.
        """
        if self.pools == 1 and self.q1.ndim == 5:
            nngp, ntk = (jnp.einsum("nmhwhw->nmhw", a) for a in (self.nngp, self.ntk))
            k = self.replace(
                nngp=nngp, ntk=ntk, q1=_pixel_variances(self.q1), q2=_pixel_variances(self.q2), pools=0,
                delta=jnp.einsum("nmhwhw->nmhw", self.delta),
            )  # fmt: skip
            return k
        return self.replace(pools=max(self.pools - 1, 0))

    def require_gaussian(self, layer: str) -> None:
        """Refuse non-Gaussian units before a layer whose kernel map is an expectation over Gaussian units."""
        if not self.gaussian:
            raise ValueError(
                f"{layer} has no kernel here: in the limit it must see centered Gaussian units, so it must follow an "
                f"affine layer (Dense, Conv), not the inputs or another activation. Put a Dense between, or join two "
                f"functions in one ntklib.Elementwise."
            )

    def require_equal_variances(self, layer: str) -> None:
        """Refuse units of different variances before a layer whose kernel map is an expectation over one of them."""
        if not self.equal_variances:
            raise ValueError(
                f"{layer} has no kernel after Flatten, where the units of different pixels have different variances. "
                f"Put a Dense between, or, if it stands directly after Flatten, before: the function is the same."
            )

    def scaled(self, factor: float) -> "Kernel":
        """Return the kernel of the units multiplied by √factor."""
        nngp, ntk, q1, q2 = (factor * a for a in (self.nngp, self.ntk, self.q1, self.q2))
        return self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=self.delta)  # a factor changes no correlation

    def __add__(self, other: "Kernel") -> "Kernel":
        """Return the kernel of the sum of two sets of independent units: kernels and variances add."""
        if not isinstance(other, Kernel):
            return NotImplemented
        if self.features != other.features:
            raise ValueError(
                f"Branches must have as many outputs as each other; got {self.features} and {other.features}."
            )
        units = {name: getattr(self, name) and getattr(other, name) for name in ("gaussian", "equal_variances")}
        return _sum(self, other.replace(features=0, gaussian=False, equal_variances=True)).replace(**units)

    def with_delta(self, delta: Array, acute: bool = False) -> "Kernel":
        """Return a copy with the given δ, through which no derivative passes."""
        return self.replace(delta=jax.lax.stop_gradient(delta), acute=acute)

    def replace(self, **changes: Any) -> "Kernel":
        """Return a copy with some fields changed.

        If covariances or variances change and `delta` is not given, δ is computed from them. If δ changes, the copy is
        not `acute`, unless it is given.
        """
        if "delta" not in changes and not changes.keys().isdisjoint(("nngp", "q1", "q2")):
            changes["delta"] = None
        if "delta" in changes:
            changes.setdefault("acute", False)
        return dataclasses.replace(self, **changes)


def one_program(*settings: int) -> Callable[[Callable[..., Kernel]], Callable[..., Kernel]]:
    """Return a decorator that compiles a function of a kernel, the first argument, that returns a kernel.

    Outside of `jit` each operation would otherwise be a program of its own, and inputs of a new shape would compile a
    hundred of them. The program is the same for all layers with the same settings: what a kernel says of its units
    besides the arrays is taken away before the call and given back after it.

    Args:
        *settings: The places of the arguments that are not arrays or numbers. They must be hashable.
    """

    def decorate(fn: Callable[..., Kernel]) -> Callable[..., Kernel]:
        compiled = jax.jit(fn, static_argnums=settings)

        @functools.wraps(fn)
        def call(k: Kernel, *arguments: Any) -> Kernel:
            bare = k.replace(features=0, gaussian=False, equal_variances=True)
            new = compiled(bare, *arguments)
            return new.replace(features=k.features, gaussian=k.gaussian, equal_variances=k.equal_variances)

        return call

    return decorate


def _pixel_variances(q: Array) -> Array:
    return jnp.einsum("nhwhw->nhw", q)


@one_program()
def _sum(k: Kernel, other: Kernel) -> Kernel:
    """Return the kernel of the sum of two sets of independent units."""
    nngp, ntk, q1, q2 = (getattr(k, name) + getattr(other, name) for name in ("nngp", "ntk", "q1", "q2"))
    total = k.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=k.delta)
    v1, v2 = total.variances()
    shares = [tuple(sqrt(v * inverse(t)) for v, t in zip(of.variances(), (v1, v2), strict=True)) for of in (k, other)]
    return total.with_delta(correlation.sum_of(shares, [k.delta, other.delta], (v1 == 0) | (v2 == 0)))  # type: ignore


@functools.partial(jax.jit, static_argnames="pools")
def _between_inputs(x1: Array, x2: Array | None, pools: bool) -> tuple[Array, Array, Array, Array]:
    """Return Σ = x·x'/d of inputs, their variances q1 and q2, and δ; without x2, between `x1` and itself."""
    same = x2 is None
    x2 = x1 if x2 is None else x2
    d = x1.shape[-1]
    product = functools.partial(jnp.einsum, precision=HIGHEST)
    if pools:
        nngp = product("nhwc,mijc->nmhwij", x1, x2) / d
        q1, q2 = (product("nhwc,nijc->nhwij", x, x) / d for x in (x1, x2))
        return nngp, q1, q2, between_pixels(x1[:, None, :, :, None, None], x2[None, :, None, None])
    nngp = product("n...c,m...c->nm...", x1, x2) / d
    q1, q2 = (sum_in_groups(jnp.square(x)) / d for x in (x1, x2))
    if x1.ndim == 4:
        delta = between_pixels(x1[:, None], x2[None])
    else:
        delta = between_vectors(x1, x2, same)
        # δ is more accurate than the product; derivatives go through the product.
        better = sqrt(q1)[:, None] * sqrt(q2)[None] * correlation.rho(delta)
        nngp = nngp + jax.lax.stop_gradient(better - nngp)
    if same:  # the diagonal must equal the variances to the last bit
        diagonal = jnp.eye(len(x1), dtype=bool).reshape(len(x1), len(x1), *(1,) * (x1.ndim - 2))
        nngp = jnp.where(diagonal, q1[:, None], nngp)
    return nngp, q1, q2, delta
