"""The advantage of training a network over training its linearization, from the same parameters on."""

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
    """The result of `nonlinear_advantage`.

    R optimizers train the linearized network, and S the network itself. T steps are recorded.

    Args:
        advantage: `linearized` minus `nonlinear`.
        linearized: The test error of the linearized network, with the chosen optimizer at the chosen step.
        nonlinear: The test error of the network itself, with the chosen optimizer at the chosen step.
        steps: The steps at which errors were recorded, [T].
        linearized_errors: All test errors of the linearized network, [R, T]; ∞ where its outputs are not finite.
        nonlinear_errors: All test errors of the network itself, [S, T]; ∞ where its outputs are not finite.
        linearized_choice: The chosen optimizer and recorded step, as indices into `linearized_errors`.
        nonlinear_choice: The chosen optimizer and recorded step, as indices into `nonlinear_errors`.
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
    """Return the advantage of a network over its linearization: the difference of their test errors after training.

    Both start from the present parameters θ_t with a new optimizer state, and use the same batches of the same data.
    The linearization f(θ_t, x) + ∇_θ f(θ_t, x) · (θ − θ_t) has a constant kernel, the network's kernel at θ_t. The
    advantage is::

        error(linearized at θ_t, then trained) − error(trained on from θ_t).

    A small learning rate for the network keeps the noise of large steps out of the difference.

    Args:
        model: A model as in `train`, with the parameters θ_t. It is not changed.
        x: Training inputs [N, ...].
        y: Training targets, as in `train`.
        x_test: Test inputs [M, ...]. The error is the share of these that get a wrong label.
        labels_test: The labels of `x_test`, integers from 0, [M].
        optimizer: An Optax transformation for the network, e.g. `optax.sgd(1e-3, momentum=0.9)`; or a list, e.g. with
            several learning rates. The best on `validation` is then chosen.
        steps: The number of updates. If `record_at` ends earlier, so does training.
        linear_optimizer: A transformation or a list for the linearized network; by default `optimizer`.
        validation: A pair (inputs, labels). For each of the two networks, the optimizer and the recorded step with the
            smallest error on this set are chosen; among equal errors the first optimizer, and then the earliest step.
            By default nothing is chosen, and the errors after `steps` are compared.
        record_at: Ascending step numbers at which errors are computed; by default 0 and `steps`. Without `validation`
            the last must be `steps`.
        batch_size: As in `train`.
        loss: As in `train`.
        key: As in `train`.
        max_memory: The bytes to use; by default 2 GiB. Outputs are computed for as many inputs at a time as fit.
        progress: As in `train`.

    Returns:
        A `NonlinearAdvantage`: the advantage, both errors, and the errors at all recorded steps.

    Raises:
        TypeError: As for `train`; if `validation` is not a pair; inside `jit`.
        ValueError: As for `train`; if there are several optimizers, or a last record before `steps`, without
            `validation`; if test or validation sets do not fit the model.
        FloatingPointError: Without `validation`, if the outputs of one of the two networks are not finite after
            `steps`. With `validation`, if the outputs of one of them for this set are finite at no recorded step of any
            optimizer, or if its outputs for `x_test` are not finite at the chosen step.

    Example:
        >>> linear = (lambda w, x: x @ w, jnp.zeros((2, 2)))  # equals its linearization
        >>> x, labels = jnp.eye(2), jnp.array([0, 1])
        >>> how = {"optimizer": optax.sgd(0.1), "steps": 5, "progress": False}
        >>> nonlinear_advantage(linear, x, labels, x, labels, **how).advantage.item()
        0.0

    Note:
        A step of the linearized network takes about twice as long as a step of the network. Networks of one
        architecture share compiled programs if they are trained with the same optimizer objects.

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
            choice = _chosen(name, errors[..., -1], free=validation is not None)
            if not np.isfinite(errors[..., 0][choice]):
                raise FloatingPointError(
                    f"The outputs of the {name} for `x_test` are not finite at the step that was chosen, though "
                    f"its outputs for `validation` are. Are the test inputs much larger?"
                )
            found.append((errors[..., 0], choice))
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
    """Refuse several optimizers, or a last record before `steps`, if there is no `validation` to choose by."""
    if validation is None and max(map(len, lists)) > 1:
        raise ValueError("`validation` must be given to choose among several optimizers: a pair (inputs, labels).")
    if validation is None and stops[-1] != steps:
        raise ValueError(f"`record_at` must end with steps={steps} if `validation` is not given; got {stops[-1]}.")
    if validation is not None and not (isinstance(validation, tuple) and len(validation) == 2):
        raise TypeError(f"`validation` must be a pair (inputs, labels); got {_checks.shown(validation)}.")


def _errors(
    run: _runs.Problem, key: Array, stops: list[int], sets: list[tuple[Array, Array]], max_memory: int | float, bar: Any
) -> np.ndarray:
    """Train, and return the errors on each set at each of the `stops`, [T, sets]; ∞ where outputs are not finite."""
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
    """Return the indices of the optimizer and the step with the smallest error; if `free` is false, 0 and the last."""
    rate, step = np.unravel_index(np.argmin(errors), errors.shape) if free else (0, errors.shape[1] - 1)
    if not np.isfinite(errors[rate, step]):
        raise FloatingPointError(
            f"The outputs of the {name} are not finite: training diverged. Use a smaller learning rate."
        )
    return int(rate), int(step)


def _several(argument: str, optimizers: Any) -> list[Any]:
    """Check one optimizer or a list of them, and return a list."""
    found = optimizers if isinstance(optimizers, list) else [optimizers]
    if not found:
        raise ValueError(f"`{argument}` must be an Optax transformation or a list of them; got an empty list.")
    for each in found:
        training.transformation_of(each)
    return found


def _labelled(given: _runs.Problem, x_name: str, y_name: str, x: Any, labels: Any) -> tuple[Array, Array]:
    """Check and return inputs and labels for the model in `given`."""
    inputs = _checks.model_inputs(x_name, x)
    if inputs.shape[1:] != given.x.shape[1:]:
        raise ValueError(
            f"`{x_name}` must hold inputs of the same shape as `x`, {given.x.shape[1:]}; got {inputs.shape[1:]}."
        )
    outputs = _models.outputs(given.apply_fn, given.params, inputs[:1], np.inf).shape[1]
    return inputs, _runs.labels_of(y_name, labels, len(inputs), outputs)
