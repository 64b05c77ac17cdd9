"""The record that layers pass on: the covariances (NNGP) and tangent kernels (NTK) of one layer's outputs."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kernel:
    """Kernels between N and M inputs, per output unit: the kernel of a network with K outputs is this times the
    identity.

    nngp: Σ(x, x') = E[z(x) z(x')], [N, M]; for images one entry per pixel as well, [N, M, H, W].
    ntk:  Θ(x, x') = Σ over all parameters θ of E[∂z(x)/∂θ ∂z(x')/∂θ], of the same shape.
    q1, q2: the variances Σ(x, x) of the two sets of inputs, [N] and [M] (images: [N, H, W] and [M, H, W]).
    features: how many units carry it (channels, for images); that of the network as built, whatever the limit.
    gaussian: whether those units are centred Gaussian in the limit, as an activation needs them; inputs are not.

    gap: ½ E[(z(x) − z(x'))²] = (q1 + q2)/2 − Σ, as `nngp`; None where nobody asked for it (see `with_gap`).
    pools: how many pooling layers are still to come. Images keep the covariances of equal pixels only, unless pooling
        will ask for all pairs of pixels: then nngp and ntk are [N, M, H, W, H, W] and q1 [N, H, W, H, W].
    """

    nngp: Float[Array, "N M *pixels"]
    ntk: Float[Array, "N M *pixels"]
    q1: Float[Array, "N *pixels"]
    q2: Float[Array, "M *pixels"]
    features: int = dataclasses.field(metadata={"static": True})
    gaussian: bool = dataclasses.field(default=False, metadata={"static": True})
    pools: int = dataclasses.field(default=0, metadata={"static": True})
    gap: Float[Array, "N M *pixels"] | None = None

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
        # HIGHEST: on accelerators the default rounds the factors, and the covariances with them, to fewer bits.
        product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
        if pools:
            if x1.ndim != 4:
                raise ValueError(f"A network with pooling takes images [N, H, W, C]; got inputs of shape {x1.shape}.")
            nngp = product("nhwc,mijc->nmhwij", x1, x2) / d
            q1, q2 = (product("nhwc,nijc->nhwij", x, x) / d for x in (x1, x2))
            return cls(nngp, jnp.zeros_like(nngp), q1, q2, features=d, pools=pools)
        nngp = product("n...c,m...c->nm...", x1, x2) / d
        if x1 is x2:  # the variances are the diagonal to the last bit, so that ρ = 1 there is exact in all layers
            q1 = q2 = jnp.einsum("nn...->n...", nngp)
        else:
            q1, q2 = jnp.sum(x1**2, -1) / d, jnp.sum(x2**2, -1) / d
        return cls(nngp, jnp.zeros_like(nngp), q1, q2, features=d)

    def variances(self) -> tuple[Array, Array]:
        """q1 and q2 with an axis for the other set of inputs, so that they broadcast against `nngp`."""
        if not self.pools:
            return self._pairs()
        v1, v2 = (jnp.einsum("nhwhw->nhw", q) for q in (self.q1, self.q2))
        return v1[:, None, :, :, None, None], v2[None, :, None, None]

    def _pairs(self) -> tuple[Array, Array]:
        return self.q1[:, None], self.q2[None, :]

    def own(self) -> list[tuple[Array, Array, Array]]:
        """For each of q1 and q2 itself and the variances of the units that it is the covariance of."""
        if not self.pools:
            return [(q, q, q) for q in (self.q1, self.q2)]
        v1, v2 = (jnp.einsum("nhwhw->nhw", q) for q in (self.q1, self.q2))
        return [(q, v[:, :, :, None, None], v[:, None, None]) for q, v in ((self.q1, v1), (self.q2, v2))]

    def map(self, fn: Callable[[Array, tuple[tuple[int, ...], ...]], Array]) -> "Kernel":
        """fn(array, axes) of all four arrays; `axes` are those of heights and of widths, one each or two."""
        axes = {n: ((n, n + 2), (n + 1, n + 3)) if self.pools else ((n,), (n + 1,)) for n in (1, 2)}
        # Each pixel enters several windows. Without a barrier the compiler makes it anew for each of them, with the
        # whole activation before it, which takes several times as long on a CPU.
        now = jax.lax.optimization_barrier(self)
        nngp, ntk = (fn(a, axes[2]) for a in (now.nngp, now.ntk))
        q1, q2 = (fn(a, axes[1]) for a in (now.q1, now.q2))
        # Where pairs of different pixels are kept, one of the two may be off the image: then the gap is made anew.
        gap = None if now.gap is None or self.pools else fn(now.gap, axes[2])
        k = self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, gap=gap)
        return k.with_gap() if self.gap is not None and self.pools else k

    def with_gap(self, gap: Array | None = None) -> "Kernel":
        """With the gap, given or as the difference that it is: the layers then carry it along without cancellation.

        A kink in an activation turns an error ε in Σ into √ε in Θ where two inputs are near (3e-4 in float32), and deep
        networks bring all inputs near to each other; the gap has no such cancellation. `gram` works this way.
        """
        if gap is None:
            square = self.pools and self.q1.ndim > 1
            gap = gap_of(self.nngp, *(self.variances() if square else self._pairs()))
        return self.replace(gap=gap)

    def pooled(self) -> "Kernel":
        """One pooling layer fewer to come; after the last the covariances of equal pixels are enough."""
        if self.pools == 1 and self.q1.ndim == 5:
            nngp, ntk = (jnp.einsum("nmhwhw->nmhw", a) for a in (self.nngp, self.ntk))
            q1, q2 = (jnp.einsum("nhwhw->nhw", q) for q in (self.q1, self.q2))
            k = self.replace(nngp=nngp, ntk=ntk, q1=q1, q2=q2, gap=None, pools=0)
            return k if self.gap is None else k.with_gap()
        return self.replace(pools=self.pools - 1)

    def require_gaussian(self, layer: str) -> None:
        """Refuse a layer whose kernel map is an expectation over Gaussian units where the units are not Gaussian."""
        if not self.gaussian:
            raise ValueError(
                f"{layer} has no kernel here: in the limit it must see centred Gaussian units, so it must follow an "
                f"affine layer (Dense, Conv), not the inputs or another activation. Put a Dense between, or join two "
                f"functions in one ntklib.Elementwise."
            )

    def __add__(self, other: "Kernel") -> "Kernel":
        """The kernel of the sum of two independent outputs: kernels and variances add."""
        if not isinstance(other, Kernel):
            return NotImplemented
        if self.features != other.features:
            raise ValueError(
                f"Branches must have as many outputs as each other; got {self.features} and {other.features}."
            )
        total = jax.tree.map(jnp.add, self, other.replace(gaussian=self.gaussian))
        return total.replace(gaussian=self.gaussian and other.gaussian)

    def replace(self, **changes: object) -> "Kernel":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def gap_of(q12: Array, q1: Array, q2: Array) -> Array:
    """(q1 + q2)/2 − q12, where it is more than rounding."""
    gap = (q1 + q2) / 2 - q12
    return jnp.where(gap > 4 * jnp.finfo(gap.dtype).eps * (q1 + q2), gap, 0.0)
