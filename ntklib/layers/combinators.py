"""Combinators, which make a network of layers: `Serial`, `Residual` (a skip connection) and `Sum`."""

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
        ValueError: If there are no layers, or if two of them share weights. From `kernel`, if two layers share weights
            because of an assignment such as `b.W = a.W`, or if an activation or a `LayerNorm` does not follow an affine
            layer or a sum of affine layers.

    Example:
        >>> import jax.numpy as jnp, ntklib as ntk
        >>> dense = lambda n_in, n_out: ntk.Dense(n_in, n_out, w_std=1.0, rngs=nnx.Rngs(n_in))
        >>> net = Serial(dense(4, 64), ntk.Relu(), dense(64, 1))
        >>> net(jnp.ones((2, 4))).shape, net.kernel(jnp.ones((2, 4)), jnp.ones((3, 4))).ntk.shape
        ((2, 1), (2, 3))

    Note:
        The kernel belongs to the limit in which all hidden widths go to infinity. In this limit the outputs of affine
        layers, and sums of such outputs, are Gaussian with mean zero. The kernel maps of activations and of `LayerNorm`
        hold only for such inputs.
    """

    def __init__(self, *layers: Layer):
        _check_layers("Serial", layers)
        require_independent(layers, "layers")
        self.layers = nnx.List(layers)
        self.ends_affine = _ends_affine(layers)
        self.wants_vectors = layers[-1].wants_vectors
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
    """A skip connection: maps inputs x to x + scale · branch(x).

    Kernel map::

        Σ' = Σ + scale² Σ_branch,   Θ' = Θ + scale² Θ_branch.

    The weights of the affine layer at the end of the branch have mean zero and are independent of x. The cross terms
    E[x · branch(x')] and Σ_θ E[∂x/∂θ · ∂branch(x')/∂θ] are therefore zero.

    Args:
        branch: A layer whose outputs have the shape of its inputs. It must end in an affine layer, after which only
            other `Residual` layers may stand. It must not pool.
        scale: The factor on the branch; any real number.

    Raises:
        TypeError: If `branch` is not a `Layer`, or if `scale` is not a number.
        ValueError: If `branch` does not end in an affine layer, if it pools, or if `scale` is not finite. From a call
            and from `kernel`, if the outputs of the branch do not have the shape of its inputs.

    Example:
        >>> import jax.numpy as jnp, ntklib as ntk
        >>> net = Residual(ntk.Dense(3, 3, w_std=1.0, rngs=nnx.Rngs(0)), scale=0.5)
        >>> net.kernel(jnp.ones((1, 3))).nngp.tolist()  # 1 + 0.5² · 1
        [[1.25]]
    """

    def __init__(self, branch: Layer, scale: float = 1.0):
        _check_layers("Residual", (branch,))
        _checks.real("scale", scale)
        if not branch.ends_affine:
            raise ValueError(
                "`branch` must end in an affine layer (Dense, Conv), which makes its outputs independent of the skip "
                "connection. Only Residual layers may follow the affine layer, as in Serial(Dense, Residual)."
            )
        if branch.pools:
            raise ValueError(
                "`branch` must not pool: its outputs are added to images that are not pooled. Put the pooling layer "
                "before or after the Residual."
            )
        self.branch, self.scale, self.wants_vectors = branch, scale, branch.wants_vectors

    def __call__(self, x: Shaped[Array | np.ndarray, "N ..."]) -> Shaped[Array | np.ndarray, "N ..."]:
        out = self.branch(x)
        _same_shape("Residual", x.shape, out.shape)
        return x + self.scale * out

    def kernel_map(self, k: Kernel) -> Kernel:
        branch = self.branch.kernel_map(k)
        _same_shape("Residual", k.nngp.shape, branch.nngp.shape)
        return k + branch.scaled(self.scale**2)


class Sum(Layer):
    """The sum of the outputs of several branches. All branches get the same inputs.

    Kernel map, with a sum over the branches b::

        Σ' = sum_b Σ_b,   Θ' = sum_b Θ_b.

    Each branch ends in an affine layer of its own. The weights of these layers have mean zero and are independent of
    each other, so that the cross terms between two branches are zero.

    Args:
        *branches: Layers whose outputs have one shape. Each must end in an affine layer, which `Residual` layers may
            follow. No two may share weights, and all must have the same number of pooling layers.

    Raises:
        TypeError: If a branch is not a `Layer`.
        ValueError: If there are no branches, if one does not end in an affine layer, if two share weights, or if their
            numbers of pooling layers differ. From a call and from `kernel`, if their outputs have different shapes.

    Example:
        >>> import jax.numpy as jnp, ntklib as ntk
        >>> net = Sum(*[ntk.Dense(3, 2, w_std=1.0, rngs=nnx.Rngs(seed)) for seed in (0, 1)])
        >>> net.kernel(jnp.ones((1, 3))).nngp.tolist()  # 1 + 1
        [[2.0]]

    See Also:
        `Residual`, for a skip connection.
    """

    ends_affine = True

    def __init__(self, *branches: Layer):
        _check_layers("Sum", branches)
        for i, branch in enumerate(branches):
            if not branch.ends_affine:
                raise ValueError(
                    f"Branch {i} of Sum must end in an affine layer (Dense, Conv), or in a Residual with an affine "
                    f"layer before it. For a skip connection use Residual in place of Sum."
                )
        require_independent(branches, "branches")
        self.branches = nnx.List(branches)
        self.wants_vectors = any(branch.wants_vectors for branch in branches)
        self.pools = branches[0].pools
        if any(branch.pools != self.pools for branch in branches):
            numbers = [branch.pools for branch in branches]
            raise ValueError(f"The branches of Sum must have the same number of pooling layers; got {numbers}.")

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
    """Whether layers in a row end in an affine layer, after which only `Residual` layers may stand.

    In the limit the outputs of an affine layer are independent of its inputs. A `Residual` adds to them the outputs of
    another affine layer, which are also independent.
    """
    rest = list(layers)
    while rest and not rest[-1].ends_affine:
        last = rest.pop()
        if isinstance(last, Serial):
            rest.extend(last.layers)
        elif not isinstance(last, Residual):
            return False
    return bool(rest)


def _same_shape(where: str, one: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Raise ValueError if two shapes differ, because a sum of such arrays may broadcast."""
    if one != other:
        raise ValueError(
            f"{where} adds arrays of one shape; got {one} and {other}. All branches must have the same number of "
            f"outputs (and of pixels). In a Residual this is also the number of inputs."
        )


def _check_layers(where: str, layers: Sequence[Layer]) -> None:
    """Raise TypeError if an argument is not a layer, and ValueError if there are no arguments."""
    if not layers:
        raise ValueError(f"{where} needs at least one layer.")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            given = layer.__name__ if callable(layer) and hasattr(layer, "__name__") else repr(layer)
            raise TypeError(
                f"Argument {i} of {where} must be an ntklib layer; got {given}. "
                f"Call the class or function that makes the layer (ntk.Relu()), or wrap a function of numbers: "
                f"ntk.Elementwise(fn)."
            )
