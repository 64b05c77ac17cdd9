"""The record that layers pass on: the covariances (NNGP) and tangent kernels (NTK) of one layer's outputs."""

import dataclasses

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
    features: how many units carry it; that of the network as built, whatever the limit.
    gaussian: whether those units are centred Gaussian in the limit, as an activation needs them; inputs are not.

    Images keep covariances between equal pixels only, which is all that a network without convolutions needs.
    """

    nngp: Float[Array, "N M *pixels"]
    ntk: Float[Array, "N M *pixels"]
    q1: Float[Array, "N *pixels"]
    q2: Float[Array, "M *pixels"]
    features: int = dataclasses.field(metadata={"static": True})
    gaussian: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def from_inputs(cls, x1: ArrayLike, x2: ArrayLike | None = None) -> "Kernel":
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
        nngp = jnp.einsum("n...c,m...c->nm...", x1, x2, precision=jax.lax.Precision.HIGHEST) / d
        if x1 is x2:  # the variances are the diagonal to the last bit, so that ρ = 1 there is exact in all layers
            q1 = q2 = jnp.einsum("nn...->n...", nngp)
        else:
            q1, q2 = jnp.sum(x1**2, -1) / d, jnp.sum(x2**2, -1) / d
        return cls(nngp, jnp.zeros_like(nngp), q1, q2, features=d)

    def variances(self) -> tuple[Array, Array]:
        """q1 and q2 with an axis for the other set of inputs, so that they broadcast against `nngp`."""
        return self.q1[:, None], self.q2[None, :]

    def require_gaussian(self, layer: str) -> None:
        """Refuse a layer whose kernel map is an expectation over Gaussian units where the units are not Gaussian."""
        if not self.gaussian:
            raise ValueError(
                f"{layer} has no kernel here: in the limit it must see centred Gaussian units, so it must follow an "
                f"affine layer (Dense), not the inputs or another activation. Put a Dense between, or join two "
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
