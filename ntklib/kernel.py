"""The record `Kernel`: the covariances (NNGP) and the tangent kernel (NTK) of a layer's outputs.

Each layer maps the `Kernel` of its inputs to the `Kernel` of its outputs.
"""

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
    """The kernels of one output unit z of a layer, between a set of N and a set of M inputs.

    In the limit of infinite width, with a sum over all parameters θ of this layer and of all layers before it::

        Σ(x, x') = E[z(x) z(x')],   Θ(x, x') = Σ_θ E[∂z(x)/∂θ ∂z(x')/∂θ].

    Where the units differ, as the inputs of a network and the outputs of `Flatten` do, Σ and Θ are means over the
    units. After an affine layer all units have the same Σ and Θ, and the kernels between two different units are zero.

    The kernel of two images has an entry for each pixel, and compares this pixel of both images. While a pooling layer
    is still to come, it has an entry for each pair of a pixel of the first image and a pixel of the second, because
    pooling takes means over such pairs.

    Args:
        nngp: Σ, [N, M]; for images [N, M, H, W], and before a pooling layer [N, M, H, W, H, W].
        ntk: Θ, of the shape of `nngp`.
        q1: The variances Σ(x, x) of the first set, [N]; for images [N, H, W]. Before a pooling layer it holds the
            covariances of all pairs of pixels of one image, [N, H, W, H, W].
        q2: As `q1`, for the second set.
        features: The number of units (for images, of channels) that the layer has in the finite network.
        gaussian: Whether the units are Gaussian with mean zero in the limit. The kernel map of an activation needs such
            units. The inputs of the network do not count as Gaussian.
        pools: The number of pooling layers that are still to come.
        equal_variances: Whether all units have the same variance. The kernel map of an activation needs such units.
            After `Flatten` the units of different pixels have different variances.
        acute: Whether it is known that no correlation ρ = cos θ is negative, as after ReLU: no angle θ is obtuse. If
            True, the kernel map of the next ReLU takes half of the time.
        delta: 1 − abs(ρ) with the sign of ρ, where ρ = Σ(x, x')/√(Σ(x, x) Σ(x', x')); of the shape of `nngp`. Near
            ρ = ±1 it keeps the digits that Σ loses (see `ntklib.duals.correlation`). By default it is computed from
            `nngp`, `q1` and `q2`. Then it has only half of the digits there. Derivatives pass through these three
            arrays, and not through `delta`.
        tables: The tables of the duals of activations that `gram` makes (see `ntklib.duals.tables`), or None.

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
    delta: Any = None  # `__post_init__` replaces None by an array
    tables: Tables | None = None

    def __post_init__(self) -> None:
        if self.delta is None:
            v1, v2 = (v.astype(self.nngp.dtype) for v in self.variances())
            delta = correlation.from_covariance(self.nngp, v1, v2)
            delta = correlation.acute(delta) if self.acute else delta
            object.__setattr__(self, "delta", jax.lax.stop_gradient(delta))

    @classmethod
    def from_inputs(cls, x1: ArrayLike, x2: ArrayLike | None = None, *, pools: int = 0) -> "Kernel":
        """Return the kernel of the inputs themselves: Σ(x, x') = x·x'/d and Θ = 0.

        Args:
            x1: Vectors [N, d], or images [N, H, W, C]. For images the product is over the channels, and d = C.
            x2: Vectors [M, d], or images [M, H, W, C]; by default `x1`.
            pools: The number of pooling layers in the network that the inputs enter.

        Returns:
            The `Kernel`, with `features` = d and `gaussian` = False.

        Raises:
            TypeError: If the inputs are not arrays of floating-point numbers.
            ValueError: If the inputs are not vectors or images, are empty, are not finite, or have different shapes
                after the first axis; if a mean of squares overflows; or if `pools` > 0 and the inputs are not images.

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
            if not _checks.is_traced(q) and not bool(jnp.isfinite(q).all()):
                raise ValueError(_checks.too_large(argument, q.dtype))
        return cls(nngp, jnp.zeros_like(nngp), q1, q2, x1.shape[-1], pools=pools, delta=delta)

    def variances(self) -> tuple[Array, Array]:
        """Return the variances of the first and of the second input of each entry, in shapes that broadcast."""
        if not self.pools or self.q1.ndim == 1:  # `GlobalAvgPool` has left one number per image, and is still counted
            return self.q1[:, None], self.q2[None, :]
        v1, v2 = (_pixel_variances(q) for q in (self.q1, self.q2))
        return v1[:, None, :, :, None, None], v2[None, :, None, None]

    def within(self) -> list[tuple[Array, Array, Array]]:
        """Return the arguments (q12, q1, q2) with which the dual of an activation gives the new `q1`, and the new `q2`.

        If no pooling layer is to come, the three arguments are the same array of variances. Before a pooling layer the
        first argument holds the covariances of two pixels of an image, and the others hold their variances.
        """
        if not self.pools:
            return [(q, q, q) for q in (self.q1, self.q2)]
        each = [(q, _pixel_variances(q)) for q in (self.q1, self.q2)]
        return [(q, v[:, :, :, None, None], v[:, None, None]) for q, v in each]

    def map(self, fn: Callable[[Array, tuple[tuple[int, ...], ...]], Array]) -> "Kernel":
        """Return the kernel after a mean over pixels.

        `fn(array, axes)` returns the mean of an array of the shape of `nngp` or of `q1`. `axes` is the pair (axes of
        heights, axes of widths). Before a pooling layer there are two axes of each kind, otherwise one. The new δ is
        computed from the new covariances before a pooling layer, and otherwise from the means of `distances`, which
        keep all digits.
        """
        axes = {n: ((n, n + 2), (n + 1, n + 3)) if self.pools else ((n,), (n + 1,)) for n in (1, 2)}
        # Each pixel enters several windows. Without this barrier XLA computes the activation before this layer again
        # for each window, which takes several times as long on a CPU.
        now = jax.lax.optimization_barrier(self)
        nngp, ntk = (fn(a, axes[2]) for a in (now.nngp, now.ntk))
        q1, q2 = (fn(a, axes[1]) for a in (now.q1, now.q2))
        if self.pools:
            return self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, acute=self.acute)
        k = self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=nngp)  # a placeholder until δ is known
        # The means of `distances` are the distances after this layer, relative to the old sizes. They are solved for
        # 1 ∓ ρ. If a variance is zero, ρ is set to 0.
        minus, plus = now.distances()
        r1, r2 = (a for a in k.shares(*now.sizes()))
        apart, both = jnp.square(r1 - r2) / 2, inverse(r1 * r2)
        none = (both == 0).astype(minus.dtype)
        minus = jnp.maximum((fn(minus, axes[2]) - apart) * both, none)
        if now.acute:  # means of correlations that are not negative are not negative either, but for rounding
            return k.with_delta(jnp.minimum(minus, 1.0), acute=True)
        return k.with_delta(correlation.signed(minus, jnp.maximum((fn(plus, axes[2]) - apart) * both, none)))

    def sizes(self) -> tuple[Array, Array]:
        """Return the mean variance over the pixels of each image, [N] for the first set and [M] for the second."""
        q1, q2 = (q.mean(axis=tuple(range(1, q.ndim))) for q in (self.q1, self.q2))
        return q1, q2

    def shares(self, size1: Array, size2: Array) -> tuple[Array, Array]:
        """Return √(q/size) for each pixel of the first set, [N, 1, H, W], and of the second, [1, M, H, W].

        It does not change if all variances of an image and its size are multiplied by one number.
        """
        pixels = (1,) * (self.q1.ndim - 1)
        r1, r2 = (
            sqrt(q) * inverse(sqrt(size)).reshape(-1, *pixels) for q, size in ((self.q1, size1), (self.q2, size2))
        )
        return r1[:, None], r2[None]

    def distances(self) -> tuple[Array, Array]:
        """Return ½ E[(z/√size − z'/√size')²] and ½ E[(z/√size + z'/√size')²], each of the shape of `nngp`.

        They are computed as sums of terms ≥ 0. Means over pixels therefore keep all digits.
        """
        r1, r2 = self.shares(*self.sizes())
        apart, both = jnp.square(r1 - r2) / 2, r1 * r2
        return apart + both * correlation.one_minus(self.delta), apart + both * correlation.one_plus(self.delta)

    def pooled(self) -> "Kernel":
        """Return the kernel after a pooling layer: `pools` is reduced by 1, but not below 0.

        If no further pooling layer is to come, only the entries at which both pixels are the same are kept.
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
        """Raise ValueError if the units are not Gaussian. `layer` names the layer that needs Gaussian units."""
        if not self.gaussian:
            raise ValueError(
                f"{layer} has no kernel here: in the limit it must see centered Gaussian units, so it must follow an "
                f"affine layer (Dense, Conv), not the inputs or another activation. Put a Dense before it, or join "
                f"two activations in one ntklib.Elementwise."
            )

    def require_equal_variances(self, layer: str) -> None:
        """Raise ValueError if the units have different variances. `layer` names the layer that needs equal ones."""
        if not self.equal_variances:
            raise ValueError(
                f"{layer} has no kernel after Flatten, where the units of different pixels have different variances. "
                f"Put a Dense between them. If the layer stands directly after Flatten, you can put it before Flatten: "
                f"the function is the same."
            )

    def scaled(self, factor: float) -> "Kernel":
        """Return the kernel of the units multiplied by √factor."""
        nngp, ntk, q1, q2 = (factor * a for a in (self.nngp, self.ntk, self.q1, self.q2))
        # A factor changes no correlation.
        return self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=self.delta, acute=self.acute)

    def __add__(self, other: "Kernel") -> "Kernel":
        """Return the kernel of the sums of two sets of independent units: kernels and variances add."""
        if not isinstance(other, Kernel):
            return NotImplemented
        if self.features != other.features:
            raise ValueError(
                f"The branches must have the same number of outputs; got {self.features} and {other.features}."
            )
        units = {name: getattr(self, name) and getattr(other, name) for name in ("gaussian", "equal_variances")}
        return _sum(self, other.replace(features=0, gaussian=False, equal_variances=True)).replace(**units)

    def with_delta(self, delta: Array, acute: bool = False) -> "Kernel":
        """Return a copy with the given `delta` and `acute`. No derivative passes through `delta`."""
        return self.replace(delta=jax.lax.stop_gradient(delta), acute=acute)

    def replace(self, **changes: Any) -> "Kernel":
        """Return a copy with some fields changed.

        If `nngp`, `q1` or `q2` is given and `delta` is not, δ is computed from them. If δ changes and `acute` is not
        given, `acute` becomes False.
        """
        if "delta" not in changes and not changes.keys().isdisjoint(("nngp", "q1", "q2")):
            changes["delta"] = None
        if "delta" in changes:
            changes.setdefault("acute", False)
        return dataclasses.replace(self, **changes)


def one_program(*settings: int) -> Callable[[Callable[..., Kernel]], Callable[..., Kernel]]:
    """Return a decorator that compiles a function. The first argument of the function and its result are kernels.

    Outside of `jit` JAX compiles each operation as a program of its own, about a hundred programs for inputs of a new
    shape. The decorated function is one program. `features`, `gaussian` and `equal_variances` get fixed values before
    the call and their old values after it, so that kernels that differ in these three share the program.

    Args:
        *settings: The positions of the arguments that are neither arrays nor numbers. These arguments must be hashable.
            Each new value compiles a program.
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
    """Return the kernel of the sums of two sets of independent units."""
    nngp, ntk, q1, q2 = (getattr(k, name) + getattr(other, name) for name in ("nngp", "ntk", "q1", "q2"))
    total = k.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, delta=k.delta)
    v1, v2 = total.variances()
    shares = [tuple(sqrt(v * inverse(t)) for v, t in zip(of.variances(), (v1, v2), strict=True)) for of in (k, other)]
    delta = correlation.sum_of(shares, [k.delta, other.delta], (v1 == 0) | (v2 == 0))  # type: ignore
    acute = k.acute and other.acute
    return total.with_delta(correlation.acute(delta) if acute else delta, acute)


@functools.partial(jax.jit, static_argnames="pools")
def _between_inputs(x1: Array, x2: Array | None, pools: bool) -> tuple[Array, Array, Array, Array]:
    """Return Σ(x, x') = x·x'/d, the variances q1 and q2, and δ. Without x2 they are between `x1` and itself."""
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
        # The value of Σ comes from δ, which is more accurate than the product. Its derivative is the product's.
        better = sqrt(q1)[:, None] * sqrt(q2)[None] * correlation.rho(delta)
        nngp = nngp + jax.lax.stop_gradient(better - nngp)
    if same:  # the diagonal must equal the variances to the last bit
        diagonal = jnp.eye(len(x1), dtype=bool).reshape(len(x1), len(x1), *(1,) * (x1.ndim - 2))
        nngp = jnp.where(diagonal, q1[:, None], nngp)
    return nngp, q1, q2, delta
