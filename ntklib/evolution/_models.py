"""Helpers of the measures: checks of models and of their parameters, outputs in batches, and tiles of a kernel."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib import _checks
from ntklib.empirical import cost as costs
from ntklib.empirical.checks import Ready, check_outputs, ready
from ntklib.empirical.pure import batched, pure
from ntklib.models import ApplyFn, Model, Params, functional


@contextlib.contextmanager
def named(argument: str) -> Iterator[None]:
    """Replace `model` by the name of the argument in the messages of errors that are raised inside."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError) or "`model`" not in str(error):
            raise
        raise type(error)(str(error).replace("`model`", f"`{argument}`")) from error


def checked(argument: str, model: Model, x: Any) -> Ready:
    """Check the model that was passed as `argument`, and its inputs `x`. Return both in the form that kernels need."""
    x = _checks.model_inputs("x", x)
    with named(argument):
        given = ready(model, x)
        if not given.arguments.leaves:
            raise ValueError("`model` has no parameters, so it does not move in training.")
        precision = costs.of(given.function, given.arguments, costs.example(given.x1), "mean").precision
        check_outputs(given.function, given.arguments, given.x1, None, precision)
    return given


def pair(argument: str, model: Model) -> tuple[ApplyFn, Params]:
    """Return the function and the parameters of a model, with each parameter as an array of JAX."""
    with named(argument):
        apply_fn, params = functional(model)
    return apply_fn, jax.tree.map(jnp.asarray, params)


def outputs(apply_fn: ApplyFn, params: Params, x: Array, max_memory: int | float) -> Array:
    """Return the outputs [N, K] for checked inputs, computed in batches as large as `max_memory` allows."""
    function, arguments = pure(apply_fn, params)
    used = costs.of(function, arguments, costs.example(x), "mean").bytes_of_example
    size = int(max(1, min(len(x), max_memory // used)))
    parts = [batched(function, arguments, x[i : i + size]) for i in range(0, len(x), size)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def same_outputs(first: Ready, second: Ready) -> None:
    """Refuse two models with different numbers of outputs."""
    if first.k != second.k:
        raise ValueError(f"`model2` must have as many outputs as `model1`, {first.k}; got {second.k}.")


def one_structure(params1: Params, params2: Params) -> None:
    """Refuse two sets of parameters that differ in structure or in shapes."""
    first, second = jax.tree.structure(params1), jax.tree.structure(params2)
    if first != second:
        raise ValueError(f"`model2` must have parameters of the same structure as `model1`, {first}; got {second}.")
    for (path, a), b in zip(jax.tree.leaves_with_path(params1), jax.tree.leaves(params2), strict=True):
        if jnp.shape(a) != jnp.shape(b):
            raise ValueError(
                f"`model2` must have parameters of the same shapes as `model1`; `params{jax.tree_util.keystr(path)}` "
                f"has shape {jnp.shape(a)} in `model1` and {jnp.shape(b)} in `model2`."
            )


def known(what: str, *values: Any) -> None:
    """Refuse traced values, for the function `what`, which needs the numbers themselves on the host."""
    if _checks.is_traced(*jax.tree.leaves(values)):
        raise TypeError(
            f"`{what}` needs the numbers in its models and arrays, and got tracers. Call it outside of `jit`, `vmap` "
            f"and `grad`. (`kernel_distance` and `kernel_alignment` accept traced kernels, as arrays.)"
        )


def tiles(n: int, entry: int, max_memory: int | float) -> list[tuple[slice, slice]]:
    """Return tiles (rows, columns) that cover the upper triangle of a kernel [N, N]. Those on the diagonal come first.

    A tile takes `entry` bytes for each pair of inputs, and at most half of `max_memory` if it has more than one pair.
    """
    fits = int(max(1, np.sqrt(max_memory / 2 / entry)))
    size = -(-n // -(-n // fits))
    parts = [slice(i, min(i + size, n)) for i in range(0, n, size)]
    pairs = [(i, j) for i in range(len(parts)) for j in range(i, len(parts))]
    return [(parts[i], parts[j]) for i, j in sorted(pairs, key=lambda at: at[0] != at[1])]


def part(x: Array, rows: slice) -> Array:
    """Return the inputs in some rows. If these are all rows, nothing is copied."""
    return x if rows.start == 0 and rows.stop == len(x) else x[rows]
