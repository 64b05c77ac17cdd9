"""The terms whose sum is an empirical NTK: Jacobians, and affine layers by their factors.

They are laid out so that the kernel between two blocks of examples is one batched matrix product for each term, for all
choices of `outputs`. Axes: B examples; G and C groups, within which rows are multiplied with rows; R outputs that have
rows of their own; p the numbers that are summed over.

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

# The length of sums for which matrix products are fast. On a CPU longer sums take three to five times as long as sums
# in parts of this length, because neither factor stays in the cache. Jacobians of fewer entries are joined.
_LONG = 4096


class Factors(NamedTuple):
    """The factors of a layer with T positions.

    Args:
        a: The inputs of the layer, [B, T, n].
        delta: The derivatives with respect to its outputs, [B, K, T, o], or [1, K, 1, o] if they are the same for all
            examples.
    """

    a: Array
    delta: Array


#: Factors, or a Jacobian [C, G, B, R, p], whose entries are divided into C parts of p.
Term = Factors | Array


def parts(outputs: str, inputs: int, k: int, units: int) -> int:
    """Return the number of parts of one length into which the entries of a Jacobian [inputs, K, units] are cut."""
    rows, length = (inputs * k * units, 1) if outputs == "mean" else (inputs, units)
    fit = (g for g in range(min(rows, _LONG // length), 0, -1) if rows % g == 0)
    most = next(fit, 1)
    return rows // most if 4 * most * length >= _LONG else 1


def cut(outputs: str, entries: Array) -> Array:
    """Return a Jacobian [inputs, K, units] as [C, R, p]. For the mean the order of the entries does not matter."""
    n, k, o = entries.shape
    c = parts(outputs, n, k, o)
    if outputs == "mean":
        return entries.reshape(c, 1, -1)
    return entries.reshape(c, -1, k, o).swapaxes(1, 2).reshape(c, k, -1)


def joined(outputs: str, jacobians: Sequence[Array]) -> list[Array]:
    """Return Jacobians [K, p] as [C, R, p]: large ones are cut, and all small ones are joined to one."""
    small = [entries for entries in jacobians if entries.shape[1] <= _LONG]
    large = [entries for entries in jacobians if entries.shape[1] > _LONG]
    whole = [entries[None] if outputs == "mean" else entries.T[:, :, None] for entries in large]
    if small:
        whole.append(jnp.concatenate(small, axis=1)[None])
    return [cut(outputs, entries) for entries in whole]


def groups(outputs: str, k: int, sizes: Sequence[int]) -> int:
    """Return the number of products of `joined` Jacobians of these sizes, plus one for the sum of each."""
    small, large = sum(p for p in sizes if p <= _LONG), [p for p in sizes if p > _LONG]
    counts = [parts(outputs, 1, k, p) if outputs == "mean" else parts(outputs, p, k, 1) for p in large]
    return sum(counts) + len(counts) + parts(outputs, 1, k, max(small, 1)) + 1


def jacobian(outputs: str, entries: Array) -> Array:
    """Return the Jacobians [B, C, R, p] of a batch as a term."""
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
    """Contract the terms of two blocks, and sum them.

    Returns: Σ_k Θ_kk, [B, B'], for "mean"; [B, B', K, K'] for "full"; [B, B', K] for "diagonal".
    """
    total, *others = map(functools.partial(_pairs, outputs), left, right)
    total = sum(others, start=total)
    if outputs == "mean":
        return total[0, :, 0, :, 0]
    return total[:, :, 0, :, 0].transpose(1, 2, 0) if outputs == "diagonal" else total[0].transpose(0, 2, 1, 3)


def _pairs(outputs: str, left: Term, right: Any) -> Array:
    """Contract one term of two blocks to [G, B, R, B', R']."""
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
    """Return [B, K, T, o] as [G, B, R, T, p]."""
    b, k, t, o = delta.shape
    if outputs == "mean":
        return delta.swapaxes(1, 2).reshape(1, b, 1, t, k * o)
    return delta.swapaxes(0, 1)[:, :, None] if outputs == "diagonal" else delta[None]


def _products(u: Array, v: Array) -> Array:
    """Multiply all rows of u with all rows of v: [G, rows, p], [G, columns, p] -> [G, rows, columns]."""
    return jax.lax.dot_general(u, v, (((2,), (2,)), ((0,), (0,))), precision=jax.lax.Precision.HIGHEST)
