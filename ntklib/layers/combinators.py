"""Networks made of layers: one after the other, with a skip connection, or side by side."""

from collections.abc import Sequence

import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Shaped

from ntklib import _checks
from ntklib.kernel import Kernel
from ntklib.layers.base import Layer, require_independent


class Serial(Layer):
    """Applies layers one after the other.

    Args:
        *layers: The layers in the order in which they are applied. No two of them may share weights.

    Raises:
        TypeError: If an argument is not a `Layer`.
        ValueError: If there are no layers, or if two share weights. `kernel` also raises it if two came to share
            weights later (`b.W = a.W`), and where an activation or a `LayerNorm` does not follow an affine layer or a
            sum of such layers.

    Example:
        >>> import jax.numpy as jnp, ntklib as ntk
        >>> dense = lambda n_in, n_out: ntk.Dense(n_in, n_out, w_std=1.0, rngs=nnx.Rngs(n_in))
        >>> net = Serial(dense(4, 64), ntk.Relu(), dense(64, 1))
        >>> net.kernel(jnp.ones((2, 4)), jnp.ones((3, 4))).ntk.shape
        (2, 3)

    Note:
        The kernel is exact in the limit of infinite width if the inputs of each activation and each `LayerNorm` are
        centered Gaussian units. They are if the layer follows an affine layer or a sum of affine layers.
    """

    def __init__(self, *layers: Layer):
        _layers("Serial", layers)
        require_independent(layers, "layers")
        self.layers = nnx.List(layers)
        self.ends_affine, self.wants_vectors = _ends_affine(layers), layers[-1].wants_vectors
        self.pools = sum(layer.pools for layer in layers)

    def __call__(self, x: Shaped[Array | np.ndarray, "N ..."]) -> Shaped[Array | np.ndarray, "N ..."]:
        for layer in self.layers:
            x = layer(x)
        return x

    def kernel_map(self, k: Kernel) -> Kernel:
        require_independent(self.layers, "layers")
        for layer in self.layers:
            k = layer.kernel_map(k)
        return k


class Residual(Layer):
    """Adds a branch to its input: x + scale · branch(x).

    Kernel map::

        Σ' = Σ + scale² Σ_branch,   Θ' = Θ + scale² Θ_branch.

    The cross terms vanish because the branch must end in an affine layer, whose weights are centered and independent
    of x.

    Args:
        branch: A layer that ends affinely and has outputs of the shape of its inputs.
        scale: The factor on the branch; any real number.

    Raises:
        TypeError: If `branch` is not a `Layer`, or `scale` not a number.
        ValueError: If the branch does not end in an affine layer, if it pools, or, when it is called, if its outputs do
            not have the shape of its inputs.

    Example:
        >>> import jax.numpy as jnp, ntklib as ntk
        >>> net = Residual(ntk.Dense(3, 3, w_std=1.0, rngs=nnx.Rngs(0)), scale=0.5)
        >>> net.kernel(jnp.ones((1, 3))).nngp.tolist()
        [[1.25]]
    """

    def __init__(self, branch: Layer, scale: float = 1.0):
        _layers("Residual", (branch,))
        _checks.real("scale", scale)
        if not branch.ends_affine:
            raise ValueError(
                "`branch` must end in an affine layer (Dense, Conv), or it is not independent of the skip connection. "
                "A Residual may stand at its end if there is an affine layer before it: Serial(Dense, Residual)."
            )
        self.branch, self.scale = branch, scale
        if branch.pools:
            raise ValueError("`branch` must not pool: the skip connection has the size of its input.")

    def __call__(self, x: Shaped[Array | np.ndarray, "N ..."]) -> Shaped[Array | np.ndarray, "N ..."]:
        out = self.branch(x)
        _same_shape("Residual", x.shape, out.shape)
        return x + self.scale * out

    def kernel_map(self, k: Kernel) -> Kernel:
        branch = self.branch.kernel_map(k)
        _same_shape("Residual", k.nngp.shape, branch.nngp.shape)
        return k + branch.scaled(self.scale**2)


class Sum(Layer):
    """Adds the outputs of branches that start from the same input.

    Kernel map: the kernels of the branches add. The cross terms vanish because each branch ends in an affine layer of
    its own, so that the branches are independent.

    Args:
        *branches: Layers that end affinely, have outputs of one shape, share no weights, and have equally many pooling
            layers.

    Raises:
        TypeError: If a branch is not a `Layer`.
        ValueError: If the branches do not fit what is said above.

    Example:
        >>> import jax.numpy as jnp, ntklib as ntk
        >>> net = Sum(*[ntk.Dense(3, 2, w_std=1.0, rngs=nnx.Rngs(seed)) for seed in (0, 1)])
        >>> net.kernel(jnp.ones((1, 3))).nngp.tolist()
        [[2.0]]

    See Also:
        `Residual`, for a skip connection.
    """

    ends_affine = True

    def __init__(self, *branches: Layer):
        _layers("Sum", branches)
        for i, branch in enumerate(branches):
            if not branch.ends_affine:
                raise ValueError(
                    f"Branch {i} of Sum must end in an affine layer (Dense, Conv), or in a Residual with an affine "
                    f"layer before it; for a skip connection use Residual."
                )
        require_independent(branches, "branches")
        self.branches = nnx.List(branches)
        self.pools = branches[0].pools
        if any(branch.pools != self.pools for branch in branches):
            raise ValueError("The branches of Sum must have equally many pooling layers.")

    def __call__(self, x: Shaped[Array | np.ndarray, "N ..."]) -> Shaped[Array | np.ndarray, "N ..."]:
        first, *others = [branch(x) for branch in self.branches]
        for other in others:
            _same_shape("Sum", first.shape, other.shape)
        return sum(others, start=first)

    def kernel_map(self, k: Kernel) -> Kernel:
        require_independent(self.branches, "branches")
        first, *others = [branch.kernel_map(k) for branch in self.branches]
        for other in others:
            _same_shape("Sum", first.nngp.shape, other.nngp.shape)
        return sum(others, start=first)


def _ends_affine(layers: Sequence[Layer]) -> bool:
    """Whether the outputs are independent of the inputs: a Residual at the end passes on what comes to it."""
    rest = list(layers)
    while rest and not rest[-1].ends_affine:
        last = rest.pop()
        if isinstance(last, Serial):
            rest.extend(last.layers)
        elif not isinstance(last, Residual):
            return False
    return bool(rest)


def _same_shape(where: str, one: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Refuse to add arrays that would broadcast."""
    if one != other:
        raise ValueError(
            f"{where} adds outputs of one shape; got {one} and {other}. All branches must have the same number of "
            f"outputs; with a skip connection this is also the number of inputs."
        )


def _layers(where: str, layers: Sequence[Layer]) -> None:
    if not layers:
        raise ValueError(f"{where} needs at least one layer.")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            given = (
                layer.__name__
                if isinstance(layer, type) or (callable(layer) and hasattr(layer, "__name__"))
                else repr(layer)
            )
            raise TypeError(
                f"Argument {i} of {where} must be an ntklib layer; got {given}. "
                f"Call it if it is a layer's name (ntk.Relu()), or wrap a function: ntk.Elementwise(fn)."
            )
