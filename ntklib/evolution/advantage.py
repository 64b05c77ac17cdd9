"""The advantage of nonlinear training over linear training from the same point on."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ntklib import _checks, training
from ntklib.evolution import _models, _runs
from ntklib.linearization import linearize
from ntklib.models import ApplyFn, Model, Params
from ntklib.training import Loss

Optimizers = optax.GradientTransformation | list[optax.GradientTransformation]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NonlinearAdvantage:
    """The result of `nonlinear_advantage`, with T recorded steps.

    R is the number of optimizers of the linearized network, and S that of the network itself.

    Args:
        advantage: `linearized` minus `nonlinear`.
        linearized: The test error of the linearized network, with the optimizer and at the step that were chosen.
        nonlinear: The same for the network itself.
        steps: The steps at which errors were recorded, [T].
        linearized_errors: All test errors of the linearized network, [R, T]; ∞ where its outputs are not finite.
        nonlinear_errors: The same for the network itself, [S, T].
        linearized_choice: The numbers of the optimizer and of the recorded step that were chosen.
        nonlinear_choice: The same for the network itself.
    """

    advantage: Float[Array, ""]
    linearized: Float[Array, ""]
    nonlinear: Float[Array, ""]
    steps: Int[Array, " T"]
    linearized_errors: Float[Array, "R T"]
    nonlinear_errors: Float[Array, "S T"]
    linearized_choice: tuple[int, int]
    nonlinear_choice: tuple[int, int]


def nonlinear_advantage(
    model: Model,
    x: ArrayLike,
    y: ArrayLike,
    x_test: ArrayLike,
    labels_test: ArrayLike,
    *,
    optimizer: Optimizers,
    steps: int,
    linear_optimizer: Optimizers | None = None,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    record_at: Sequence[int] | None = None,
    batch_size: int | None = None,
    loss: Loss | Literal["mse", "cross_entropy"] = "cross_entropy",
    key: Array | None = None,
    max_memory: int | float = _checks.MAX_MEMORY,
    progress: bool | None = None,
) -> NonlinearAdvantage:
    """Return the error of a network linearized now and trained, minus that of the network itself trained on.

    Both start from the present parameters θ_t, with new states of their optimizers, and see the same batches of the
    same data. The first is `linearize(model)`, f(θ_t, x) + ∇_θ f(θ_t, x) · (θ − θ_t), which learns with the kernel of
    time t. The second should have a small learning rate, so that it is not the noise of large steps that makes the
    difference::

        advantage = error(linearized at θ_t and trained) − error(trained on from θ_t).

    Args:
        model: A model as in `train`, as it is at time t. It is not changed.
        x: Training inputs [N, ...].
        y: Training targets, as in `train`.
        x_test: Inputs [M, ...] on which the errors are taken, the shares of wrong labels.
        labels_test: Their labels, integers from 0, [M].
        optimizer: An Optax transformation for the network, e.g. `optax.sgd(1e-3, momentum=0.9)`; or a list of them,
            e.g. for several learning rates, of which the best on `validation` is taken.
        steps: The number of updates.
        linear_optimizer: The same for the linearized network; by default `optimizer`.
        validation: Inputs and labels on which the optimizer and the stopping time of each of the two are chosen, those
            of the smallest error (of equal ones the first optimizer, and then the earliest time). By default there is
            no choice: the errors are those after `steps`.
        record_at: Ascending step numbers at which errors are taken; by default 0 and `steps`.
        batch_size: As in `train`.
        loss: As in `train`.
        key: As in `train`.
        max_memory: The bytes to compute outputs in, by default 2 GiB: of as many inputs at a time as fit.
        progress: As in `train`.

    Returns:
        A `NonlinearAdvantage`: the advantage, both errors, and all errors on the way.

    Raises:
        TypeError: As for `train`; inside `jit`.
        ValueError: As for `train`; if several optimizers come without `validation`.
        FloatingPointError: If no training of one of the two networks has finite outputs at a step to choose.

    Example:
        >>> linear = (lambda w, x: x @ w, jnp.zeros((2, 2)))  # is its own linearization
        >>> x, labels = jnp.eye(2), jnp.array([0, 1])
        >>> how = {"optimizer": optax.sgd(0.1), "steps": 5, "progress": False}
        >>> nonlinear_advantage(linear, x, labels, x, labels, **how).advantage.item()
        0.0

    Note:
        A step of the linearized network takes about twice the time of a step of the network. Networks of one
        architecture share compiled programs, if the optimizers are the same objects.

    References:
        Fort et al. 2020 (2010.15110).
    """
    given, key = _runs.problem(
        "nonlinear_advantage",
        model,
        x,
        y,
        optimizer=_several("optimizer", optimizer)[0],
        loss=loss,
        batch_size=batch_size,
        key=key,
    )
    _checks.count("steps", steps, maximum=2**31 - 1)
    _checks.real("max_memory", max_memory, above=0.0)
    if progress is not None:
        _checks.flag("progress", progress)
    stops = training.record_steps(record_at, steps)
    lists = [
        _several("linear_optimizer", optimizer if linear_optimizer is None else linear_optimizer),
        _several("optimizer", optimizer),
    ]
    _check_choice(lists, stops, steps, validation)
    sets = [_labelled(given, "x_test", "labels_test", x_test, labels_test)]
    if validation is not None:
        sets.append(_labelled(given, "validation[0]", "validation[1]", *validation))

    models = [linearize((given.apply_fn, given.params)), given.apply_fn]
    found = []
    with contextlib.closing(training.progress_bar(sum(map(len, lists)) * stops[-1], progress)) as bar:
        for name, apply_fn, candidates in zip(("linearized network", "network"), models, lists, strict=True):
            runs = [dataclasses.replace(given, apply_fn=apply_fn, optimizer=each) for each in candidates]
            errors = np.array([_errors(run, key, stops, sets, max_memory, bar) for run in runs])  # [R, T, sets]
            found.append((errors[..., 0], _chosen(name, errors[..., -1], free=validation is not None)))
    (linear, at1), (nonlinear, at2) = found
    return NonlinearAdvantage(
        advantage=jnp.asarray(linear[at1] - nonlinear[at2]),
        linearized=jnp.asarray(linear[at1]),
        nonlinear=jnp.asarray(nonlinear[at2]),
        steps=jnp.asarray(np.array(stops)),
        linearized_errors=jnp.asarray(linear),
        nonlinear_errors=jnp.asarray(nonlinear),
        linearized_choice=at1,
        nonlinear_choice=at2,
    )


def _check_choice(lists: list[list[Any]], stops: list[int], steps: int, validation: Any) -> None:
    """Refuse several optimizers, or an earlier end, if there is no `validation` by which to choose."""
    if validation is None and max(map(len, lists)) > 1:
        raise ValueError("`validation` must be given to choose among several optimizers: a pair (inputs, labels).")
    if validation is None and stops[-1] != steps:
        raise ValueError(f"`record_at` must end with steps={steps} without `validation`; got {stops[-1]}.")
    if validation is not None and not (isinstance(validation, tuple) and len(validation) == 2):
        raise TypeError(f"`validation` must be a pair (inputs, labels); got {_checks.shown(validation)}.")


def _errors(
    run: _runs.Problem, key: Array, stops: list[int], sets: list[tuple[Array, Array]], max_memory: int | float, bar: Any
) -> np.ndarray:
    """Return the errors on each set at each of the steps, [T, sets]; ∞ where outputs are not finite."""
    state, done, errors = run.start(), 0, []
    for stop in stops:
        state = run.advance(state, key, done, stop)
        bar.update(stop - done)
        done = stop
        errors.append([_error(run.apply_fn, state[0], *one, max_memory) for one in sets])
    return np.array(errors)


def _error(apply_fn: ApplyFn, params: Params, x: Array, labels: Array, max_memory: int | float) -> float:
    outputs = _models.outputs(apply_fn, params, x, max_memory)
    return float(_runs.zero_one(outputs, labels)) if bool(jnp.isfinite(outputs).all()) else np.inf


def _chosen(name: str, errors: np.ndarray, *, free: bool) -> tuple[int, int]:
    """Return the numbers of the optimizer and of the step with the smallest error; the last step if it is not free."""
    rate, step = np.unravel_index(np.argmin(errors), errors.shape) if free else (0, errors.shape[1] - 1)
    if not np.isfinite(errors[rate, step]):
        raise FloatingPointError(f"The outputs of the {name} are not finite: training diverged. Use a smaller rate.")
    return int(rate), int(step)


def _several(argument: str, optimizers: Any) -> list[Any]:
    """Return one optimizer, or several, as a list."""
    found = optimizers if isinstance(optimizers, list) else [optimizers]
    if not found:
        raise ValueError(f"`{argument}` must be an Optax transformation or a list of them; got an empty list.")
    for each in found:
        training.transformation_of(each)
    return found


def _labelled(given: _runs.Problem, x_name: str, y_name: str, x: Any, labels: Any) -> tuple[Array, Array]:
    """Check and return inputs and their labels."""
    inputs = _checks.model_inputs(x_name, x)
    if inputs.shape[1:] != given.x.shape[1:]:
        raise ValueError(
            f"`{x_name}` must hold inputs of the shape of `x`'s, {given.x.shape[1:]}; got {inputs.shape[1:]}."
        )
    outputs = _models.outputs(given.apply_fn, given.params, inputs[:1], np.inf).shape[1]
    return inputs, _runs.labels_of(y_name, labels, len(inputs), outputs)
