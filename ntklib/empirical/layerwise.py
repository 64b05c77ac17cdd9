"""The empirical NTK as a sum over affine layers, plus the products of the Jacobians of all other parameters.

A position is a place at which a layer uses the same weights: a pixel of the output of a convolution, or an element of
a sequence. A dense layer on vectors has one. A layer z = s·a W + s_b·b contributes Σ_ts (a_t · a'_s)(δ_kt · δ'_ls) to
Θ_kl(x, x'). Here a_t holds s times the inputs of the layer at position t, and s_b as a further entry if there is a
bias; δ_kt are the derivatives of output k with respect to the outputs of the layer at t. For a layer with one position
no Jacobian is formed.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core

from ntklib.empirical import affine, terms
from ntklib.empirical import program as programs
from ntklib.empirical.affine import AffineLayer, Division
from ntklib.empirical.program import Program
from ntklib.empirical.pure import Arguments, Function, vary, varying_axes
from ntklib.empirical.terms import Term

# How many times longer one multiplication and addition takes outside of a matrix product than inside a matrix product.
_ELEMENTWISE = 8


class Sizes(NamedTuple):
    """The sizes of a layer: T positions, n inputs of one unit at one position, and o units.

    For a convolution these inputs are the entries of a patch, and the units are the output channels. A bias counts as
    one more input.
    `factors` says whether the factors a and δ of the layer are kept. If not, its Jacobian is kept.
    """

    positions: int
    inputs: int
    units: int
    factors: bool


def sizes(program: Program, layer: AffineLayer, k: int, outputs: str) -> Sizes:
    """Return the sizes of a layer, with the choice between its factors and its Jacobian.

    With one position the factors are chosen. Otherwise the choice is that with fewer operations, which are weighted by
    `_ELEMENTWISE` outside of matrix products. For each pair of examples factors need the products a·a', of length n,
    and δ·δ', of length o, of T² pairs of positions. A Jacobian needs products of length n·o, for no pairs of positions.
    `k` is the number K of all outputs, also if a block holds fewer.
    """
    shape = program.shapes[layer.tap].shape
    o = math.prod(shape[a] for a in affine.feature_axes(program, layer))
    t = math.prod(shape) // o
    n = math.prod(program.shapes[program.leaves[layer.weight.leaf]].shape) // o + (layer.bias is not None)
    # For how many pairs (k, l) of outputs δ_k·δ'_l is computed, and how many results these give: "mean" adds them up.
    matrix, count = {"mean": (k, 1), "diagonal": (k, k), "full": (k * k, k * k)}[outputs]
    return Sizes(t, n, o, t == 1 or t * t * (n + matrix * o + count * _ELEMENTWISE) < matrix * n * o)


@functools.partial(jax.jit, static_argnums=(0, 1))
def features(function: Function, outputs: str, arguments: Arguments, x: Array, basis: Array) -> list[Term]:
    """Return the terms (see `terms`) for a batch x [B, ...] and some outputs: `Factors` first, then Jacobians.

    `basis` [k, K] has the rows of the identity for these outputs.
    """
    program = programs.read(function, arguments, jax.eval_shape(lambda x: x[0], x))
    division = affine.division(program)
    kinds = [sizes(program, layer, program.shapes[program.output].shape[0], outputs) for layer in division.layers]
    made, same = _over_examples(functools.partial(_of_one, program, division, kinds, outputs), arguments, basis, x)

    def whole(i: int) -> Array:
        return jnp.broadcast_to(made[i], (x.shape[0], *made[i].shape)) if same[i] else made[i]

    found, by_factors = [], [size for size in kinds if size.factors]
    for i, size in enumerate(by_factors):
        delta = made[2 * i + 1][None] if size.positions == 1 and same[2 * i + 1] else whole(2 * i + 1)
        found.append(terms.Factors(whole(2 * i), delta))
    return found + [terms.jacobian(outputs, whole(i)) for i in range(2 * len(by_factors), len(made))]


def _over_examples(
    of_one: Callable[..., list[Array]], arguments: Arguments, basis: Array, x: Array
) -> tuple[list[Array], list[bool]]:
    """Return the arrays that `of_one` makes, for all examples, and whether each is known to be the same for all.

    An array that is the same has no axis of examples. So has, for instance, the δ of a layer after the last
    nonlinearity. Other arrays have the examples along their first axis.
    """
    closed = jax.make_jaxpr(of_one)(arguments, basis, jax.eval_shape(lambda x: x[0], x))
    varies = _depends(closed, len(closed.jaxpr.invars) - 1)
    given = [*jax.tree.leaves(arguments), basis]
    axes = [0 if v else None for v in varies]
    made = jax.vmap(lambda one: core.jaxpr_as_fun(closed)(*given, one), out_axes=axes)(x)
    return made, [not v for v in varies]


def _of_one(
    program: Program,
    division: Division,
    kinds: Sequence[Sizes],
    outputs: str,
    arguments: Arguments,
    basis: Array,
    x: Array,
) -> list[Array]:
    """Return the arrays of one example.

    They are a [T, n] and δ [k, T, o] of each layer with factors in turn, then the Jacobians of the other layers and of
    the other parameters, as `terms.cut` returns them.
    """
    inputs, deltas, jacobians = _derivatives(program, division, arguments, basis, x)
    pairs, wide = [], []
    for size, a, delta in zip(kinds, inputs, deltas, strict=True):
        if size.factors:
            pairs += [a.T, delta]
            continue
        # Without the barrier XLA would merge the computation of δ into this transposition, and would do it twice,
        # together with that of all residual branches on which δ depends.
        flat = jax.lax.optimization_barrier(delta).swapaxes(0, 1).reshape(size.positions, -1)
        entries = jnp.matmul(a, flat, precision=jax.lax.Precision.HIGHEST)
        wide.append(terms.cut(outputs, entries.reshape(size.inputs, len(basis), size.units)))
    return [*pairs, *wide, *terms.joined(outputs, jacobians)]


def _derivatives(
    program: Program, division: Division, arguments: Arguments, basis: Array, x: Array
) -> tuple[list[Array], list[Array], list[Array]]:
    """Return, for one example, the inputs [n, T] and the δ [k, T, o] of each layer, and the other Jacobians [k, p].

    All come from one evaluation, and from k backward passes, one for each output, which `vmap` does together.
    """
    (layers, plain), leaves = division, arguments.leaves

    def f(shifts: list[Array], moved: list[Array]) -> tuple[Array, list[Array]]:
        at = {**dict(enumerate(leaves)), **dict(zip(plain, moved, strict=True))}
        now = Arguments([at[i] for i in range(len(leaves))], arguments.fixed)
        return affine.evaluate(program, now, x, layers, shifts)

    avals = [program.shapes[layer.tap] for layer in layers]
    zeros = [vary(jnp.zeros(a.shape, a.dtype), varying_axes(a)) for a in avals]
    _, pull, inputs = jax.vjp(f, zeros, [leaves[i] for i in plain], has_aux=True)
    deltas, jacobians = jax.vmap(pull)(basis)
    dtype, ordered = basis.dtype, []
    for layer, delta in zip(layers, deltas, strict=True):
        first = jax.vmap(functools.partial(affine.positions_first, program, layer))(delta)
        ordered.append(first.astype(dtype))
    return inputs, ordered, [j.reshape(len(basis), -1).astype(dtype) for j in jacobians]


def _depends(closed: Any, argument: int) -> list[bool]:
    """Return for each result of a jaxpr whether it may depend on an argument.

    If one operand of an operation depends on the argument, all results of the operation count as depending on it.
    """
    found = {closed.jaxpr.invars[argument]}
    for eqn in closed.jaxpr.eqns:
        if any(not isinstance(v, core.Literal) and v in found for v in eqn.invars):
            found.update(eqn.outvars)
    return [not isinstance(v, core.Literal) and v in found for v in closed.jaxpr.outvars]
