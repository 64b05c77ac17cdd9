"""The methods for an empirical NTK: how each computes a block, and from two blocks a tile (see `blocks`)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ntklib.empirical import layerwise, terms
from ntklib.empirical.blocks import Strategy
from ntklib.empirical.pure import Arguments, Function
from ntklib.empirical.terms import Term


def strategy(method: str, function: Function, outputs: str, count: int) -> Strategy:
    """Return the strategy by which one of the `METHODS` computes the kernel of a model with `count` outputs."""
    features, written_at, contract = METHODS[method]
    return Strategy(features, written_at, contract, function, outputs, count)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jacobians(function: Function, outputs: str, arguments: Arguments, x: Array, basis: Array) -> list[Term]:
    """Return ∂f_k(x)/∂θ for each example and the outputs k whose rows of the identity are in `basis` [k, K]."""

    def of_one(one: Array) -> list[Array]:
        _, pull = jax.vjp(lambda leaves: function(arguments._replace(leaves=leaves), one), arguments.leaves)
        (jacobians,) = jax.vmap(pull)(basis)
        return terms.joined(outputs, [j.reshape(len(basis), -1).astype(basis.dtype) for j in jacobians])

    return [terms.jacobian(outputs, entries) for entries in jax.vmap(of_one)(x)]


def _contract(function: Function, outputs: str, arguments: Arguments, left: list[Term], right: list[Term]) -> Array:
    return terms.contract(outputs, left, right)


def _inputs(
    function: Function, outputs: str, arguments: Arguments, x: Array, basis: ArrayLike
) -> tuple[Array, ArrayLike]:
    return x, basis


def _products(function: Function, outputs: str, arguments: Arguments, left: tuple, right: tuple) -> Array:
    (x1, basis1), (x2, basis2) = left, right

    def of(leaves: list[Array], one: Array) -> Array:
        return function(arguments._replace(leaves=leaves), one)

    def column(one: Array) -> Array:
        """Return the kernel between all of x1 and one example of x2: Θ_kl [B, k, l] for "full", or else Θ_ll [B, l]."""
        _, pull = jax.vjp(lambda leaves: of(leaves, one), arguments.leaves)

        def push(unit: Array) -> Array:
            (direction,) = pull(unit)  # ∂f_l(one)/∂θ
            moved = jax.vmap(lambda x: jax.jvp(lambda p: of(p, x), (arguments.leaves,), (direction,))[1])(x1)  # [B, K]
            return jnp.matmul(moved, basis1.T if outputs == "full" else unit, precision=jax.lax.Precision.HIGHEST)

        return jax.vmap(push, out_axes=-1)(basis2)

    theta = jnp.moveaxis(jax.lax.map(column, x2), 0, 1)  # [B, B', l], or [B, B', k, l] for "full"
    return theta.sum(-1) if outputs == "mean" else theta


#: For each name, (features, written_at, contract) as in `blocks.Strategy`.
METHODS: dict[str, Any] = {
    "layerwise": (layerwise.features, terms.written_at, _contract),
    "jacobian": (_jacobians, terms.written_at, _contract),
    "products": (_inputs, terms.written_at, _products),  # a block is its inputs, and is never written in chunks
}
