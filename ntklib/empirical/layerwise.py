"""The empirical NTK as a sum over affine layers, Σ_l Σ_ts (a_t · a'_s)(δ_kt · δ'_ls), with a the layer's inputs and δ
the derivatives with respect to its outputs, at positions t and s. No Jacobian of a dense layer is formed.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core

from ntklib.empirical import affine
from ntklib.empirical import program as programs
from ntklib.empirical.affine import Layer
from ntklib.empirical.program import Program
from ntklib.models import ApplyFn, Params

# What a multiplication and sum costs outside of a matrix product, counted in those inside.
_ELEMENTWISE = 8


class Outer(NamedTuple):
    """A layer by its factors for B examples: `a` [B, T, n]; `delta` [B, T, K·o] for the mean over outputs, [B, K, T, o]
    for the full kernel, [K, B, T, o] for its diagonal, or [K, o] where T = 1 and it is the same for all examples.
    """

    a: Array
    delta: Array


#: What the kernel is a sum of: layers by their factors, or Jacobians: [B, K·p], [B, K, p] or [K, B, p] as above.
Term = Outer | Array


class Sizes(NamedTuple):
    """Of a layer: positions, inputs (one more for a bias), units, and whether its factors are kept or its Jacobian."""

    positions: int
    inputs: int
    units: int
    factors: bool


def sizes(program: Program, layer: Layer, k: int, outputs: str) -> Sizes:
    """The Gram matrices of a layer's two factors over T² pairs of positions, or that of its Jacobian: by count."""
    shape = program.shapes[layer.tap].shape
    o = math.prod(shape[a] for a in affine.feature_axes(program, layer))
    t = math.prod(shape) // o
    n = math.prod(program.shapes[program.leaves[layer.weight.leaf]].shape) // o + (layer.bias is not None)
    matrix, count = {"mean": (k, 1), "diagonal": (k, k), "full": (k * k, k * k)}[outputs]
    return Sizes(t, n, o, t == 1 or t * t * (n + matrix * o + count * _ELEMENTWISE) < matrix * n * o)


# --------------------------------------------------------------------------------------- from a batch of examples


@functools.partial(jax.jit, static_argnums=(0, 1))
def features(apply_fn: ApplyFn, outputs: str, params: Params, x: Array, units: Array) -> list[Term]:
    """The terms for a batch of examples and some of the outputs, `units` [k, K] (rows of the identity)."""
    program = programs.read(apply_fn, params, x[0])
    layers, plain = affine.plan(program)
    leaves, batch, k = jax.tree.leaves(params), x.shape[0], units.shape[0]

    def of_one(leaves: list[Array], units: Array, x: Array) -> tuple[list[Array], list[Array], list[Array]]:
        def f(shifts: list[Array], moved: list[Array]) -> tuple[Array, list[Array]]:
            all_leaves = {**dict(enumerate(leaves)), **dict(zip(plain, moved, strict=True))}
            return affine.evaluate(program, [all_leaves[i] for i in range(len(leaves))], x, layers, shifts)

        avals = [program.shapes[layer.tap] for layer in layers]
        _, pull, inputs = jax.vjp(
            f, [jnp.zeros(a.shape, a.dtype) for a in avals], [leaves[i] for i in plain], has_aux=True
        )
        deltas, jacobians = jax.vmap(pull)(units)  # all layers and outputs from one backward pass
        first = [jax.vmap(functools.partial(affine.positions_first, program, layer)) for layer in layers]
        return inputs, [to(d) for to, d in zip(first, deltas, strict=True)], jacobians

    # The readout's δ is the same for all examples, as is any that no nonlinearity follows: it is kept once.
    closed = jax.make_jaxpr(of_one)(leaves, units, x[0])
    varies = _depends(closed, len(leaves) + 1)
    axes = [0 if v else None for v in varies]
    values = jax.vmap(lambda one: core.jaxpr_as_fun(closed)(*leaves, units, one), out_axes=axes)(x)

    def whole(i: int) -> Array:
        return values[i] if varies[i] else jnp.broadcast_to(values[i], (batch, *values[i].shape))

    terms: list[Term] = []
    for i, layer in enumerate(layers):
        size, j = sizes(program, layer, program.shapes[program.output].shape[0], outputs), len(layers) + i
        if size.factors:
            same = size.positions == 1 and not varies[j]
            terms.append(Outer(whole(i).swapaxes(1, 2), values[j][:, 0] if same else _arranged(whole(j), outputs)))
        else:
            terms.append(_jacobian(whole(i), whole(j), outputs))
    for i in range(2 * len(layers), len(values)):
        terms.append(flat(whole(i).reshape(batch, k, -1), outputs))
    return terms


def _depends(closed: Any, argument: int) -> list[bool]:
    """Which results of a jaxpr depend on an argument."""
    found = {closed.jaxpr.invars[argument]}
    for eqn in closed.jaxpr.eqns:
        if any(not isinstance(v, core.Literal) and v in found for v in eqn.invars):
            found.update(eqn.outvars)
    return [not isinstance(v, core.Literal) and v in found for v in closed.jaxpr.outvars]


def _arranged(delta: Array, outputs: str) -> Array:
    """[B, K, T, o] as `Outer` has it."""
    if outputs == "mean":
        return delta.swapaxes(1, 2).reshape(delta.shape[0], delta.shape[2], -1)
    return delta if outputs == "full" else delta.swapaxes(0, 1)


def _jacobian(a: Array, delta: Array, outputs: str) -> Array:
    """Σ_t a_t ⊗ δ_kt, as one matrix product for each example."""
    (b, n, _), (_, k, t, o) = a.shape, delta.shape
    # [B, n, K·o]
    jacobian = jnp.matmul(a, delta.swapaxes(1, 2).reshape(b, t, k * o), precision=jax.lax.Precision.HIGHEST)
    if outputs == "mean":
        return jacobian.reshape(b, -1)
    return flat(jacobian.reshape(b, n, k, o).swapaxes(1, 2).reshape(b, k, n * o), outputs)


def flat(jacobian: Array, outputs: str) -> Array:
    """[B, K, p] as `Term` has it."""
    if outputs == "mean":
        return jacobian.reshape(jacobian.shape[0], -1)
    return jacobian if outputs == "full" else jacobian.swapaxes(0, 1)


def placed(outputs: str, block: list[Term], piece: list[Term], start: Array) -> list[Term]:
    """The terms of a batch with those of some of its examples in place, from the one at `start` on."""

    def at(axis: int, whole: Array, part: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis)

    def one(whole: Any, part: Any) -> Term:
        axis = 1 if outputs == "diagonal" else 0
        if not isinstance(whole, Outer):
            return at(axis, whole, part)
        shared = whole.delta.ndim == 2
        return Outer(at(0, whole.a, part.a), part.delta if shared else at(axis, whole.delta, part.delta))

    return list(map(one, block, piece))


# ------------------------------------------------------------------------------------------------ to pairs of them


def contract(apply_fn: ApplyFn, outputs: str, params: Params, left: list[Term], right: list[Term]) -> Array:
    """The sum over all terms for pairs of examples: "mean" Σ_k Θ_kk [B, B'], "full" [B, B', K, K'], "diagonal"
    [B, B', K].
    """
    of = {"mean": _mean, "full": _full, "diagonal": _diagonal}[outputs]
    total = functools.reduce(jnp.add, map(of, left, right))
    return total if outputs == "mean" else total.transpose({"full": (0, 2, 1, 3), "diagonal": (1, 2, 0)}[outputs])


def _gram(u: Array, v: Array) -> Array:
    """Products over the last axis, of every row of u with every row of v."""
    # As matrices: XLA's CPU backend copies operands of higher rank before a product.
    a, b = u.reshape(-1, u.shape[-1]), v.reshape(-1, v.shape[-1])
    products = jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
    return products.reshape(*u.shape[:-1], *v.shape[:-1])


def _each(u: Array, v: Array) -> Array:
    """The same for each entry of the first axis: [K, ..., p] and [K, ..., p] to [K, ..., ...]."""
    return jax.vmap(_gram)(u, v)


def _mean(left: Term, right: Any) -> Array:
    if not isinstance(left, Outer):
        return _gram(left, right)
    (a1, d1), (a2, d2) = left, right
    if d1.ndim == 2:
        return _gram(a1[:, 0], a2[:, 0]) * jnp.vdot(d1, d2)
    if a1.shape[1] == 1:
        return _gram(a1[:, 0], a2[:, 0]) * _gram(d1[:, 0], d2[:, 0])
    return jnp.sum(_gram(a1, a2) * _gram(d1, d2), axis=(1, 3))


def _full(left: Term, right: Any) -> Array:
    """[B, K, B', K']"""
    if not isinstance(left, Outer):
        return _gram(left, right)
    (a1, d1), (a2, d2) = left, right
    if d1.ndim == 2:
        return _gram(a1[:, 0], a2[:, 0])[:, None, :, None] * _gram(d1, d2)[None, :, None, :]
    if a1.shape[1] == 1:
        return _gram(a1[:, 0], a2[:, 0])[:, None, :, None] * _gram(d1[:, :, 0], d2[:, :, 0])
    return jnp.sum(_gram(a1, a2)[:, None, :, :, None] * _gram(d1, d2), axis=(2, 5))


def _diagonal(left: Term, right: Any) -> Array:
    """[K, B, B']"""
    if not isinstance(left, Outer):
        return _each(left, right)
    (a1, d1), (a2, d2) = left, right
    if d1.ndim == 2:
        return _gram(a1[:, 0], a2[:, 0])[None] * jnp.sum(d1 * d2, axis=1)[:, None, None]
    if a1.shape[1] == 1:
        return _gram(a1[:, 0], a2[:, 0])[None] * _each(d1[:, :, 0], d2[:, :, 0])
    return jnp.sum(_gram(a1, a2)[None] * _each(d1, d2), axis=(2, 4))
