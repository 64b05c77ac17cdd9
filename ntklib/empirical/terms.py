"""The terms whose sum is an empirical NTK: Jacobians, and the factors of affine layers.

They are laid out so that the terms of two blocks of examples are multiplied by batched matrix products, for all choices
of `outputs`. Axes: B examples; C parts, of p numbers each, into which the sum is cut (over what, the table says); G
outputs k that are multiplied only with the same output; R outputs k that are multiplied with all outputs l.

===============  =  =  ======================
outputs          G  R  summed over
===============  =  =  ======================
"mean" Σ_k Θ_kk  1  1  parameters and outputs
"diagonal" Θ_kk  K  1  parameters
"full" Θ_kl      1  K  parameters
===============  =  =  ======================
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# The longest sum over p for which matrix products are fast. On a CPU a longer sum takes three to five times as long as
# the same sum in parts of this length, because neither factor stays in the cache.
_LONG = 4096


class Factors(NamedTuple):
    """The factors of a layer with n inputs and o outputs at each of T positions.

    Args:
        a: The inputs of the layer, [B, T, n].
        delta: The derivatives of the network's outputs with respect to the outputs of the layer, [B, K, T, o], or
            [1, K, 1, o] if T is 1 and they are the same for all examples.
    """

    a: Array
    delta: Array


#: The factors of a layer, or Jacobians [C, G, B, R, p].
Term = Factors | Array


def parts(outputs: str, inputs: int, k: int, units: int) -> int:
    """Return C, the number of equal parts into which the sum over a Jacobian [inputs, K, units] is cut.

    Parts have at most max(`_LONG`, units) numbers. If they would have fewer than `_LONG`/4, the sum is not cut.
    """
    rows, length = (inputs * k * units, 1) if outputs == "mean" else (inputs, units)
    fit = (g for g in range(min(rows, _LONG // length), 0, -1) if rows % g == 0)
    most = next(fit, 1)
    return rows // most if 4 * most * length >= _LONG else 1


def cut(outputs: str, entries: Array) -> Array:
    """Return a Jacobian [inputs, K, units] as [C, K, p], for "mean" as [C, 1, p] with its entries in any order."""
    n, k, o = entries.shape
    c = parts(outputs, n, k, o)
    if outputs == "mean":
        return entries.reshape(c, 1, -1)
    return entries.reshape(c, -1, k, o).swapaxes(1, 2).reshape(c, k, -1)


def joined(outputs: str, jacobians: Sequence[Array]) -> list[Array]:
    """Return Jacobians [K, p] after `cut`. Those of at most `_LONG` parameters are first joined into one."""
    small = [entries for entries in jacobians if entries.shape[1] <= _LONG]
    large = [entries for entries in jacobians if entries.shape[1] > _LONG]
    whole = [entries[None] if outputs == "mean" else entries.T[:, :, None] for entries in large]
    if small:
        whole.append(jnp.concatenate(small, axis=1)[None])
    return [cut(outputs, entries) for entries in whole]


def groups(outputs: str, k: int, sizes: Sequence[int]) -> int:
    """Return how many arrays of the size of a tile `contract` makes from `joined` Jacobians of these sizes.

    It makes a product for each part, and a sum for each Jacobian.
    """
    small, large = sum(p for p in sizes if p <= _LONG), [p for p in sizes if p > _LONG]
    counts = [parts(outputs, 1, k, p) if outputs == "mean" else parts(outputs, p, k, 1) for p in large]
    return sum(counts) + len(counts) + parts(outputs, 1, k, max(small, 1)) + 1


def jacobian(outputs: str, entries: Array) -> Array:
    """Return the Jacobians of B examples, [B, C, K, p] or for "mean" [B, C, 1, p], as a term [C, G, B, R, p]."""
    if outputs == "diagonal":
        return entries.transpose(1, 2, 0, 3)[:, :, :, None]
    return entries.swapaxes(0, 1)[:, None]


def written_at(block: list[Term], chunk: list[Term], start: Array) -> list[Term]:
    """Return the terms of a block with one chunk of examples written at `start`."""

    def at(axis: int, whole: Array, part: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis)

    def one(whole: Any, part: Any) -> Term:
        if not isinstance(whole, Factors):
            return at(2, whole, part)
        shared = len(whole.delta) < len(whole.a)
        return Factors(at(0, whole.a, part.a), part.delta if shared else at(0, whole.delta, part.delta))

    return list(map(one, block, chunk))


def contract(outputs: str, left: list[Term], right: list[Term]) -> Array:
    """Contract two blocks: multiply their terms, and return the sum of the products.

    It is Σ_k Θ_kk, [B, B'], for "mean"; [B, B', K, K'] for "full"; [B, B', K] for "diagonal".
    """
    total, *others = map(functools.partial(_pairs, outputs), left, right)
    total = sum(others, start=total)
    if outputs == "mean":
        return total[0, :, 0, :, 0]
    return total[:, :, 0, :, 0].transpose(1, 2, 0) if outputs == "diagonal" else total[0].transpose(0, 2, 1, 3)


def _pairs(outputs: str, left: Term, right: Any) -> Array:
    """Multiply one term of two blocks, and return the product [G, B, R, B', R']."""
    if not isinstance(left, Factors):
        (c, g, *rows, p), (*_, b, r, _) = left.shape, right.shape
        products = _products(left.reshape(c * g, -1, p), right.reshape(c * g, -1, p))
        return products.reshape(c, g, *rows, b, r).sum(0)
    (a1, _), (a2, _) = left, right
    d1, d2 = (_grouped(outputs, term.delta) for term in (left, right))
    (g, *rows, p), (_, *columns, _) = d1.shape, d2.shape
    inputs = _products(a1.reshape(1, -1, a1.shape[-1]), a2.reshape(1, -1, a2.shape[-1]))
    inputs = inputs.reshape(1, a1.shape[0], 1, a1.shape[1], a2.shape[0], 1, a2.shape[1])
    products = _products(d1.reshape(g, -1, p), d2.reshape(g, -1, p)).reshape(g, *rows, *columns)
    return jnp.sum(inputs * products, axis=(3, 6))


def _grouped(outputs: str, delta: Array) -> Array:
    """Return δ [B, K, T, o] as [G, B, R, T, p]."""
    b, k, t, o = delta.shape
    if outputs == "mean":
        return delta.swapaxes(1, 2).reshape(1, b, 1, t, k * o)
    return delta.swapaxes(0, 1)[:, :, None] if outputs == "diagonal" else delta[None]


def _products(u: Array, v: Array) -> Array:
    """Multiply all rows of u with all rows of v within each group: [G, i, p] and [G, j, p] to [G, i, j]."""
    return jax.lax.dot_general(u, v, (((2,), (2,)), ((0,), (0,))), precision=jax.lax.Precision.HIGHEST)
