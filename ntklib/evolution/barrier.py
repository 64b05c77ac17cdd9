"""The errors of the networks on the straight line between two networks in parameter space."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks, training
from ntklib.empirical.pure import pure
from ntklib.evolution import _models, _runs
from ntklib.models import ApplyFn, Model, Params, has_batch_statistics, with_batch_statistics
from ntklib.training import Loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ErrorBarrier:
    """The result of `error_barrier`.

    Args:
        barrier: The largest error on the line, minus the mean of the errors at its two ends.
        positions: The positions a on the line, from 0 (the first network) to 1 (the second), [T].
        errors: The errors of the networks at these positions, [T].
    """

    barrier: Float[Array, ""]
    positions: Float[Array, " T"]
    errors: Float[Array, " T"]


def error_barrier(
    model1: Model,
    model2: Model,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: Loss | Literal["zero_one", "mse", "cross_entropy"] = "zero_one",
    points: int = 11,
    statistics: ArrayLike | None = None,
    max_memory: int | float = _checks.MAX_MEMORY,
) -> ErrorBarrier:
    """Return the error barrier between two networks: how far the error rises on the line between their parameters.

    With the error R(w) of the network with parameters w, and the maximum over a grid of positions a from 0 to 1::

        max_a R((1 − a) w + a w') − ½ (R(w) + R(w')).

    Args:
        model1: A model as in `empirical_ntk`, with the parameters w.
        model2: The same model with other parameters w': a module of the same architecture, or a pair with the same
            function.
        x: Inputs, [N, ...].
        y: Labels [N], integers from 0, for "zero_one"; targets as in `train` for any other `loss`.
        loss: The error R: "zero_one" for the share of wrong labels, "mse", "cross_entropy", or a function of outputs
            and targets that returns one number.
        points: The number of positions on the line, both ends included.
        statistics: Inputs for BatchNorm layers, by default `x`. At each position the statistics of these layers are
            computed anew, from all these inputs in one batch.
        max_memory: The bytes to use; by default 2 GiB. Outputs are computed for as many inputs at a time as fit.

    Returns:
        An `ErrorBarrier`: the barrier, the positions and the errors there. The two ends are among the positions, so
        the barrier is at least half of the difference between their errors.

    Raises:
        ValueError: If the models differ in architecture, or in state other than parameters, BatchNorm statistics and
            random keys; if `points` is below 2; if `loss` is "zero_one" and the model has one output; as for
            `empirical_ntk` and `train`.
        TypeError: As for `empirical_ntk` and `train`; inside `jit`.
        FloatingPointError: If the error at some position is not finite.

    Example:
        >>> double_well = lambda w, x: (w**2 - 1) * x  # zero loss at w = 1 and w = −1
        >>> path = error_barrier(
        ...     (double_well, jnp.ones((1, 1))), (double_well, -jnp.ones((1, 1))), jnp.ones((1, 1)), jnp.zeros((1, 1)),
        ...     loss="mse", points=3)
        >>> path.barrier.item(), path.errors.tolist()
        (0.5, [0.0, 0.5, 0.0])

    Note:
        The model is evaluated once for each input and position. With BatchNorm it is also evaluated once at each
        position on all `statistics`: running statistics were collected for other parameters, so each network on the
        line, the two ends included, gets its own. BatchNorm layers are found in Flax modules (NNX and Linen); any other
        function is taken as it is. The maximum over the grid is at most the maximum over the line.

    References:
        Frankle et al. 2020 (1912.05671), who also subtract the mean of the ends; Fort et al. 2020 (2010.15110).
    """
    _checks.count("points", points, minimum=2)
    _checks.real("max_memory", max_memory, above=0.0)
    first, second = _models.checked("model1", model1, x), _models.checked("model2", model2, x)
    (apply_fn, w1), (other, w2) = _models.pair("model1", model1), _models.pair("model2", model2)
    _models.one_structure(w1, w2)
    _models.same_outputs(first, second)
    _models.known("error_barrier", first, second)
    x = first.x1
    batch = x if statistics is None else _checks.model_inputs("statistics", statistics)
    _same_function((apply_fn, w1), other, batch)
    risk, y = _risk(loss, y, len(x), first.k)
    training.check_loss(risk, apply_fn, w1, x, y)
    positions = np.linspace(0.0, 1.0, points)
    errors = []
    for a in positions:
        w = between(w1, w2, float(a))
        now = with_batch_statistics(apply_fn, w, batch) if has_batch_statistics(apply_fn) else apply_fn
        errors.append(risk(_models.outputs(now, w, x, max_memory), y))
    found = jnp.stack(errors)
    if not np.isfinite(np.asarray(found)).all():
        raise FloatingPointError(
            f"`loss` is not finite at the positions {positions[~np.isfinite(np.asarray(found))].tolist()} on the line."
        )
    return ErrorBarrier(found.max() - (found[0] + found[-1]) / 2, jnp.asarray(positions, found.dtype), found)


def between(w1: Params, w2: Params, a: float) -> Params:
    """Return (1 − a) w1 + a w2. For a = 0 it is exactly w1, and for a = 1 exactly w2."""
    return jax.tree.map(lambda u, v: u if a == 0 else v if a == 1 else (1 - a) * u + a * v, w1, w2)


def _risk(loss: Any, y: Any, n: int, outputs: int) -> tuple[Callable[[Array, Array], Array], Array]:
    """Return the error as a function of outputs and targets, and the checked targets."""
    if isinstance(loss, str):
        _checks.choice("loss", loss, ("zero_one", "mse", "cross_entropy"))
    if isinstance(loss, str) and loss == "zero_one":
        return _runs.zero_one, _runs.labels_of("y", y, n, outputs)
    function = training.loss_function(loss)
    return function, training.checked_targets(function, y, n, outputs)


def _same_function(first: tuple[ApplyFn, Params], other: ApplyFn, batch: Array) -> None:
    """Refuse models that differ in more than their parameters.

    BatchNorm statistics may differ: before the comparison both models get those of the same parameters and inputs.
    Random keys may differ, because evaluation mode does not use them.
    """
    apply_fn, params = first
    if has_batch_statistics(apply_fn) and has_batch_statistics(other):
        apply_fn, other = (with_batch_statistics(f, params, batch) for f in (apply_fn, other))
    (function1, held1), (function2, held2) = pure(apply_fn, params), pure(other, params)
    if function1 != function2:
        raise ValueError(
            "`model2` must be `model1` with other parameters: the two are different functions or architectures. Pass "
            "pairs with one function, `(apply_fn, params1)` and `(apply_fn, params2)`."
        )
    for a, b in zip(held1.fixed, held2.fixed, strict=True):
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key) or a.dtype == jnp.uint32
        if not is_key and not (a.shape == b.shape and np.array_equal(np.asarray(a), np.asarray(b))):
            raise ValueError(
                "`model2` must be `model1` with other parameters; they also differ in other state (variables that are "
                'not `nnx.Param`, collections other than "params"). Take the function of one of them for both: '
                "`apply_fn, params1 = ntklib.functional(model1)`, and `(apply_fn, ntklib.functional(model2)[1])`."
            )
