"""Checks of a model and its inputs before a kernel is computed, and of the kernel itself.

If the outputs of an example depended on other examples, as with the statistics of a batch, the kernel would be wrong
without any sign of it.
"""

import functools
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib import _checks
from ntklib.empirical.pure import Arguments, Function, batched, outside_of_mesh, prepared, pure
from ntklib.models import Model, check_finite, check_output, functional

#: The number of examples for which `check_outputs` evaluates a model.
_SOME = 4
#: The standard deviation of the numbers that `_without_zeros` puts in place of zeros.
_SMALL = 0.1
#: Functions that have passed `check_outputs`, for examples that differ. They are not checked again: whether a function
#: treats each example by itself is taken to depend on its structure only, and not on the values of its parameters.
_separate: weakref.WeakSet[Function] = weakref.WeakSet()


class Ready(NamedTuple):
    """A checked model, its arrays, inputs that go together, and its number of outputs k."""

    function: Function
    arguments: Arguments
    x1: Array
    x2: Array | None
    k: int


def ready(model: Model, x1: Any, x2: Any = None) -> Ready:
    """Check model and inputs, and return them in the form that the methods need."""
    apply_fn, params = functional(model)
    x1 = _checks.model_inputs("x1", x1)
    if x2 is not None:
        x2 = _checks.model_inputs("x2", x2)
        _checks.same_inputs(x1, x2)
        dtype = jnp.promote_types(x1.dtype, x2.dtype)
        x1, x2 = x1.astype(dtype), x2.astype(dtype)
    check_finite(params)
    function, arguments = pure(apply_fn, params)
    arguments, x1, x2 = prepared(arguments, x1, x2)
    return Ready(function, arguments, x1, x2, _count_outputs(function, arguments, x1))


def _count_outputs(function: Function, arguments: Arguments, x: Array) -> int:
    """Return K, found by tracing one example. Refuse a model that takes only batches of a certain size."""

    def of(count: int) -> int:
        examples = jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)
        return check_output(function, arguments, examples, eval_shape=batched.eval_shape)[1]

    try:
        return of(1)
    except Exception as error:
        try:
            of(len(x))
        except Exception:  # the model does not take such inputs at all
            raise error from None
        raise ValueError(
            f"`model` must take any number of examples; it takes {len(x)}, and fails on a single one: {error}"
        ) from error


def check_outputs(function: Function, arguments: Arguments, x1: Array, x2: Array | None, precision: float) -> None:
    """Refuse a model whose outputs are not finite, or depend on other examples, the place in the batch, or chance.

    The outputs of a few examples in one batch are compared with those of each by itself. This is done a second time
    with small random numbers in place of zero parameters, because weights that start at zero hide the layers before
    them. Nothing is done if values are traced, or if the function has passed before.

    Args:
        function: The model.
        arguments: Its arrays.
        x1: Inputs.
        x2: Inputs, or None.
        precision: The relative rounding error ε of the numbers that the model computes with. Outputs count as equal if
            they differ by at most √ε times the largest, or by at most 30 times what `_noise` returns (a wide margin).
    """
    if function in _separate or is_staged(arguments, x1, x2):
        return
    x, different = _some(x1, x2)
    try:
        together, alone = _both(function, arguments, x)
    except Exception as error:
        raise ValueError(
            f"`model` must take any number of examples; it takes one, and fails on {x.shape[0]} at a time: {error}"
        ) from error
    if not (np.isfinite(alone).all() or np.isfinite(together).all()):
        raise ValueError(
            f"`model` must have finite outputs; for {int((~np.isfinite(alone)).any(1).sum())} of the {x.shape[0]} "
            f"inputs that were tried they are NaN or infinite. Are the running statistics of `model` finite?"
        )
    _check_equal(function, arguments, x, together, alone, precision)
    if (moved := _without_zeros(arguments)) is not None:
        together, alone = _both(function, moved, x)
        if np.isfinite(together).all() and np.isfinite(alone).all():
            _check_equal(function, moved, x, together, alone, precision)
    if different:
        _separate.add(function)


def _both(function: Function, arguments: Arguments, x: Array) -> tuple[np.ndarray, np.ndarray]:
    with jax.default_matmul_precision("highest"):
        return jax.device_get(_outputs(function, arguments, x))


def _check_equal(
    function: Function, arguments: Arguments, x: Array, together: np.ndarray, alone: np.ndarray, precision: float
) -> None:
    """Refuse outputs of examples in one batch, `together`, that differ from those of each by itself, `alone`."""
    difference, largest = np.abs(together - alone).max(), np.abs(alone).max()
    rounding = precision**0.5 * largest
    if difference <= rounding or difference <= 30 * _noise(function, arguments, x, alone, precision):
        return
    raise ValueError(
        f"`model` must treat each example by itself; its outputs for {x.shape[0]} inputs in one batch differ by up to "
        f"{difference:.2g} from its outputs for one input at a time, which are up to {largest:.2g}. Batch statistics: "
        f"use running averages (evaluation mode, `use_running_average=True`). Dropout or noise: `deterministic=True`."
    )


def _without_zeros(arguments: Arguments) -> Arguments | None:
    """Return the arrays of a model with small random numbers in place of zero parameters; None if none is zero."""
    random = np.random.default_rng(1)  # NumPy, because JAX would compile a program for each shape
    moved = list(arguments.leaves)
    for i, leaf in enumerate(moved):
        zero = np.asarray(leaf) == 0 if leaf.is_fully_addressable else np.zeros(1, bool)  # not on several hosts
        if zero.any():
            values = np.array(leaf)
            values[zero] = _SMALL * random.standard_normal(int(zero.sum()))
            moved[i] = jax.device_put(values, leaf.sharding)
    return (
        None if all(a is b for a, b in zip(moved, arguments.leaves, strict=True)) else arguments._replace(leaves=moved)
    )


def is_staged(*values: Any) -> bool:
    """Whether values are traced, or operations on them would be. Inside `jit` all operations are traced."""
    return _checks.is_traced(jnp.zeros(()), *jax.tree.leaves(values))


def check_kernel(kernel: Array) -> Array:
    """Return the kernel. Raise FloatingPointError if it is NaN or infinite."""
    if _checks.is_traced(kernel):
        return kernel
    with outside_of_mesh():
        for shard in kernel.addressable_shards:
            _check_shard(shard.data, shard.index[0].start or 0)
    return kernel


def _check_shard(kernel: Array, first: int) -> None:
    """Check all entries: products of two large derivatives may overflow in an entry, and nowhere else in its row."""
    if bool(_all_finite(kernel)):
        return
    finite = np.isfinite(np.asarray(kernel)).reshape(*kernel.shape[:2], -1).all(-1)
    (row, column), *_ = np.argwhere(~finite)
    raise FloatingPointError(
        f"The kernel of inputs {row + first} and {column} is NaN or infinite: {_CAUSES} {kernel.dtype}."
    )


def check_finite_result(result: Array) -> Array:
    """Return the product with a kernel. Raise FloatingPointError if it is NaN or infinite."""
    if not _checks.is_traced(result) and not np.isfinite(np.asarray(result)).all():
        raise FloatingPointError(f"The product is NaN or infinite, because of some input: {_CAUSES} {result.dtype}.")
    return result


def check_squares(argument: str, outputs: Array) -> Array:
    """Return the outputs of a model for the inputs `argument`. Refuse them if a sum of their squares is not finite."""
    if not _checks.is_traced(outputs):
        with outside_of_mesh():
            finite = [np.asarray(_finite_squares(shard.data)) for shard in outputs.addressable_shards]
        if not all(rows.all() for rows in finite):
            raise ValueError(
                f"`model` must have outputs and hidden units whose squares are finite in {outputs.dtype}; for some "
                f"of the inputs `{argument}` they are not. Are these inputs too large?"
            )
    return outputs


#: Why a kernel is not finite, for messages.
_CAUSES = (
    "`model` has no finite output there, or no derivative (a root, a norm or a logarithm of zero, say), or one of them "
    "or of their products is too large for"
)


@jax.jit
def _finite_squares(outputs: Array) -> Array:
    return jnp.isfinite(jnp.sum(jnp.square(outputs).reshape(len(outputs), -1), axis=1))


@jax.jit
def _all_finite(kernel: Array) -> Array:
    return jnp.isfinite(kernel).all()


def _some(x1: Array, x2: Array | None) -> tuple[Array, bool]:
    """Return a few examples, and whether they differ. x2 is used only if x1 has fewer than `_SOME` examples.

    The examples are equally spaced in the set. If they are all equal, one that differs from them replaces the last.
    """
    known = x1 if x2 is None or len(x1) >= _SOME else jnp.concatenate([x1, x2.astype(x1.dtype)])
    rows = np.unique(np.linspace(0, len(known) - 1, _SOME).astype(int))
    if not _differ(known[rows]):
        others = np.flatnonzero((np.asarray(known) != np.asarray(known[0])).reshape(len(known), -1).any(1))
        rows = np.append(rows[: _SOME - 1], others[:1]) if len(others) else rows
    return known[rows], _differ(known[rows])


def _differ(x: Array) -> bool:
    known = np.asarray(x)
    return bool((known != known[:1]).any())


@functools.partial(jax.jit, static_argnums=0)
def _outputs(function: Function, arguments: Arguments, x: Array) -> tuple[Array, Array]:
    """Return the outputs of all examples in one batch, and the outputs of each example by itself."""
    return function.batch(arguments, x), jax.vmap(lambda one: function(arguments, one))(x)


def _noise(function: Function, arguments: Arguments, x: Array, alone: Any, precision: float) -> float:
    """Return how much the outputs change when each parameter moves by four rounding errors, up or down at random.

    In a deep chaotic network this can be as much as the outputs themselves.
    """
    keys = jax.random.split(jax.random.key(0), len(arguments.leaves))
    signs = [jax.random.rademacher(key, a.shape, a.dtype) for key, a in zip(keys, arguments.leaves, strict=True)]
    moved = [a * (1 + 4 * precision * sign) for a, sign in zip(arguments.leaves, signs, strict=True)]
    _, other = jax.device_get(_outputs(function, arguments._replace(leaves=moved), x))
    return float(np.abs(other - alone).max())
