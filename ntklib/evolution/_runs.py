"""Training from any state on, by a compiled loop that all runs of one architecture share.

The arrays of a run are arguments of the loop, so that runs with arrays of the same shapes share one compiled program.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import Partial

from ntklib import _checks, training
from ntklib._traced import Traced
from ntklib.evolution import _models
from ntklib.models import ApplyFn, Model, Params, check_output
from ntklib.training import Loss

#: The parameters and the state of the optimizer.
State = tuple[Params, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """The checked arguments of a training, as for `ntklib.train`."""

    apply_fn: ApplyFn
    params: Params
    x: Array
    y: Array
    loss: Loss
    optimizer: optax.GradientTransformation
    batch_size: int | None

    @property
    def steps_per_epoch(self) -> float:
        """The number of steps in an epoch, N/`batch_size` (not always whole), or 1 if each step uses all examples."""
        return 1.0 if self.batch_size is None else len(self.x) / self.batch_size

    def start(self) -> State:
        """Return the state before the first step."""
        return self.params, training.transformation_of(self.optimizer).init(self.params)

    def advance(self, state: State, key: Array, start: int, stop: int) -> State:
        """Take the steps `start` to `stop` − 1, with batches drawn with `key`, and return the state after them."""
        how = self._loss, self.optimizer, self.batch_size
        return jax.block_until_ready(_advance(*how, self._function, self.x, self.y, key, state, start, stop))

    def full_loss(self, params: Params) -> Array:
        """Return the loss over all examples."""
        return _full_loss(self._loss, self._function, self.x, self.y, params)

    @functools.cached_property
    def _loss(self) -> Loss:
        if self.loss in (training.mse, training.cross_entropy):
            return self.loss
        outputs = jax.eval_shape(self.apply_fn, self.params, self.x)
        return _Compared(self.loss, Traced(self.loss, outputs, self.y))

    @functools.cached_property
    def _function(self) -> ApplyFn:
        return as_argument(self.apply_fn)


@dataclasses.dataclass(frozen=True)
class _Compared:
    """A loss of a user that is compared by what it does, because a variable that it reads may have changed."""

    loss: Loss = dataclasses.field(compare=False)
    traced: Traced

    def __call__(self, outputs: Array, targets: Array) -> Array:
        return self.loss(outputs, targets)


def problem(
    what: str, model: Model, x: Any, y: Any, *, optimizer: Any, loss: Any, batch_size: Any, key: Any
) -> tuple[Problem, Array]:
    """Check the arguments of a training as `train` does, and refuse tracers. Return them with the key of the batches.

    `what` is the name of the calling function, for messages.
    """
    apply_fn, params = _models.pair("model", model)
    params = jax.tree.map(training.gathered, params)
    inputs = training.gathered(_checks.model_inputs("x", x))
    outputs = check_output(apply_fn, params, inputs[:1])[1]
    loss_fn = training.loss_function(loss)
    targets = training.gathered(training.checked_targets(loss_fn, y, len(inputs), outputs))
    training.check_loss(loss_fn, apply_fn, params, inputs, targets)
    training.transformation_of(optimizer)
    key = training.batch_key(key, batch_size, len(inputs))
    _models.known(what, params, inputs, targets, key)
    return Problem(apply_fn, params, inputs, targets, loss_fn, optimizer, batch_size), key


def as_argument(apply_fn: ApplyFn) -> ApplyFn:
    """Return a function as a pytree that `jit` takes as an argument. Its leaves that are functions become static."""
    return jax.tree.map(lambda leaf: Partial(leaf) if callable(leaf) else leaf, apply_fn)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(
    loss: Loss,
    optimizer: Any,
    batch_size: int | None,
    apply_fn: ApplyFn,
    x: Array,
    y: Array,
    key: Array,
    state: State,
    start: Array,
    stop: Array,
) -> State:
    _, step = training.objective(loss, training.transformation_of(optimizer), apply_fn, x, y, batch_size, key)
    return jax.lax.fori_loop(start, stop, step, state)


@functools.partial(jax.jit, static_argnums=0)
def _full_loss(loss: Loss, apply_fn: ApplyFn, x: Array, y: Array, params: Params) -> Array:
    return loss(apply_fn(params, x), y)


def zero_one(outputs: Array, labels: Array) -> Array:
    """Return the share of examples for which the index of the largest output is not the label."""
    return jnp.mean(jnp.argmax(outputs, axis=-1) != labels, dtype=float)


def labels_of(argument: str, value: Any, n: int, outputs: int) -> Array:
    """Check and return labels [n] for a model with `outputs` outputs."""
    if outputs < 2:
        raise ValueError(
            f"`{argument}` must be labels of at least two classes, but the model has only one output. Give each class "
            f"an output of its own."
        )
    found = _checks.labels(argument, value, outputs)
    if len(found) != n:
        raise ValueError(f"`{argument}` must be [N] = [{n}], one label for each input; got {len(found)}.")
    return found


def stacked(parts: list[Any]) -> Any:
    """Return trees of arrays stacked along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
