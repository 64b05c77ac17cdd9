"""The error on the straight line between two networks in parameter space."""

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
        barrier: The largest error on the line, minus the mean of the errors of the two networks.
        positions: The positions a on the line, from 0 (the first network) to 1 (the second).
        errors: The errors at these positions.
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
    """Return the error barrier between two networks: how much worse the networks between them are.

    With the error R of a network as a function of its parameters w, on a grid of a from 0 to 1::

        max_a R((1 − a) w + a w') − ½ (R(w) + R(w')).

    Args:
        model1: A model as in `empirical_ntk`, with the parameters w.
        model2: The same model with other parameters w': for modules, of one architecture; for pairs, with the same
            function.
        x: Inputs, [N, ...].
        y: Labels [N], integers from 0; for another `loss` as in `train`.
        loss: R: "zero_one" for the share of wrong labels, "mse", "cross_entropy", or a function of outputs and targets
            that returns one number.
        points: The number of positions on the line, both ends included.
        statistics: The inputs on which the statistics of BatchNorm layers are computed anew at each position, in one
            batch; by default `x`. Other models do not use it.
        max_memory: The bytes to work in; by default 2 GiB. The outputs are computed for as many inputs at a time as
            fit.

    Returns:
        An `ErrorBarrier`: the barrier, the positions and the errors there. The ends belong to the line, so that the
        barrier is at least half of the difference between their errors.

    Raises:
        ValueError: If the models are not of one architecture, or differ in more than their parameters and in the
            statistics of BatchNorm; if `points` is below 2; as for `train`.
        TypeError: As for `empirical_ntk`; inside `jit`.
        FloatingPointError: If an error is not finite.

    Example:
        >>> double_well = lambda w, x: (w**2 - 1) * x  # as good at w = 1 as at w = −1
        >>> path = error_barrier(
        ...     (double_well, jnp.ones((1, 1))), (double_well, -jnp.ones((1, 1))), jnp.ones((1, 1)), jnp.zeros((1, 1)),
        ...     loss="mse", points=3)
        >>> path.barrier.item(), path.errors.tolist()
        (0.5, [0.0, 0.5, 0.0])

    Note:
        It takes one evaluation for each input and position; with BatchNorm two, one of them for all `statistics` at
        once. The running statistics of networks in between belong to other networks, so all networks on the line,
        the two ends as well, are measured with statistics of their own. This is done for modules of Flax, NNX and
        Linen, with their BatchNorm layers; a pair (apply_fn, params) is taken as it is. The maximum over a grid is
        at most that over the line.

    References:
        Frankle et al. 2020 (1912.05671), with the mean of the ends as here; Fort et al. 2020 (2010.15110).
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
    """Return (1 − a) w1 + a w2, which at both ends is one of them to the bit."""
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

    Statistics of BatchNorm are taken for the same parameters and inputs, so that they are equal; keys are not used in
    evaluation mode.
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
