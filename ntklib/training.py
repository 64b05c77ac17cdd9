"""One small Optax loop, with a progress bar and a recorder."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from tqdm import tqdm

from ntklib import _checks
from ntklib.models import Model, Params, check_output, functional

Loss = Callable[[Array, Array], Array]


def mse(outputs: Array, targets: Array) -> Array:
    """1/(2N) Σ_i ‖f(x_i) − y_i‖², the one squared loss of this library.

    >>> mse(jnp.array([[1.0], [3.0]]), jnp.zeros((2, 1))).item()
    2.5
    """
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Mean cross-entropy (nats) of softmax(logits) [N, K] with integer labels [N] or probabilities [N, K].

    >>> round(float(cross_entropy(jnp.zeros((3, 2)), jnp.array([0, 1, 1]))), 4)
    0.6931
    """
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
    return optax.softmax_cross_entropy(logits, targets).mean()


def accuracy(outputs: Array, labels: Array) -> Array:
    """The share of rows of `outputs` [N, K] whose largest entry stands at the label [N].

    >>> accuracy(jnp.array([[0.2, 0.8], [0.9, 0.1]]), jnp.array([1, 1])).item()
    0.5
    """
    return jnp.mean(jnp.argmax(outputs, axis=-1) == labels)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """What `train` returns: `steps` [T] at which it looked, `loss` [T] over all training data there, `records` (what
    `record` returned, stacked along a first axis T; None without one) and `params` at the end.
    """

    steps: Array
    loss: Array
    records: Any
    params: Params


def train(
    model: Model,
    x: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int | None = None,
    loss: Loss | Literal["mse", "cross_entropy"] = "mse",
    key: Array | None = None,
    record: Callable[[Params], Any] | None = None,
    record_at: Sequence[int] | None = None,
    progress: bool | None = None,
) -> History:
    """Train a model by gradient steps on `loss`.

    model: an `nnx.Module`, whose parameters are replaced by the trained ones at the end, or (apply_fn, params). Modules
        are trained as `functional` reads them, in evaluation mode: no dropout, fixed BatchNorm statistics.
    x, y: inputs [N, ...] and targets [N, K] (or labels [N] for "cross_entropy").
    optimizer: any Optax optimiser, e.g. `ntklib.sgd(net, 1.0)` or `optax.adam(1e-3)`.
    batch_size: each step draws that many different examples, independently of other steps, with `key`; None is full
    batch. record, record_at: `record(params)` is called at these step numbers (0 is before the first); by default at
    0 and the end.
    progress: a bar on stderr; by default on, off where the environment variable CI is set.

    Interrupted by Ctrl-C it returns what it has, the module updated. Raises FloatingPointError when the loss stops
    being finite. Everything compiles once; inside `jax.vmap` or `jax.jit` it works too (over seeds, say), without
    bar and raising.

    >>> import ntklib as ntk
    >>> net = ntk.mlp([1, 64, 1], w_std=1.0, rngs=nnx.Rngs(0))
    >>> x = jnp.linspace(-1, 1, 8)[:, None]
    >>> history = train(net, x, x**2, optimizer=ntk.sgd(net, 1.0), steps=100, progress=False)
    >>> bool(history.loss[-1] < history.loss[0])
    True
    """
    apply_fn, params = functional(model)
    x, y = _checks.model_inputs("x", x), jnp.asarray(y)
    check_output(apply_fn, params, x[:1])
    _checks.count("steps", steps)
    if isinstance(loss, str):
        _checks.choice("loss", loss, ("mse", "cross_entropy"))
    loss_fn = {"mse": mse, "cross_entropy": cross_entropy}[loss] if isinstance(loss, str) else loss
    if loss_fn is mse:
        y = _checks.targets("y", y, x.shape[0])
        if check_output(apply_fn, params, x[:1])[1] != y.shape[1]:
            raise ValueError(f"`y` has {y.shape[1]} outputs and `model` {check_output(apply_fn, params, x[:1])[1]}.")
    if y.shape[0] != x.shape[0]:
        raise ValueError(f"`y` must have one row per input: expected {x.shape[0]} rows, got {y.shape[0]}.")
    if batch_size is not None:
        _checks.count("batch_size", batch_size)
        if batch_size > x.shape[0]:
            raise ValueError(f"`batch_size` must be at most the number of examples, {x.shape[0]}; got {batch_size}.")
        if key is None:
            raise ValueError("`key` must be given to draw batches, e.g. key=jax.random.key(0).")
    stops = [0, steps] if record_at is None else [int(s) for s in record_at]
    if stops != sorted(set(stops)) or not stops or stops[0] < 0 or stops[-1] > steps:
        raise ValueError(f"`record_at` must be ascending step numbers between 0 and steps={steps}; got {stops}.")
    key = jax.random.key(0) if key is None else key

    def full_loss(params: Params) -> Array:
        return loss_fn(apply_fn(params, x), y)

    def step(i: Array, state: tuple[Params, Any]) -> tuple[Params, Any]:
        params, opt_state = state
        if batch_size is None:
            grads = jax.grad(full_loss)(params)
        else:
            rows = jax.random.choice(jax.random.fold_in(key, i), x.shape[0], (batch_size,), replace=False)
            grads = jax.grad(lambda p: loss_fn(apply_fn(p, x[rows]), y[rows]))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    # The number of steps is an argument of the compiled loop, not part of it: chunks of any length compile once.
    advance = jax.jit(lambda state, start, stop: jax.lax.fori_loop(start, stop, step, state))
    look = jax.jit(lambda params: (full_loss(params), None if record is None else record(params)))

    state, done = (params, optimizer.init(params)), 0
    looks: list[tuple[Array, Any]] = []
    quiet = bool(os.environ.get("CI")) if progress is None else not progress
    traced = _checks.is_traced(*jax.tree.leaves((params, x, y, key)))
    bar = tqdm(total=steps, desc="training", unit="step", disable=quiet or traced, leave=False)
    chunk = steps if bar.disable else max(1, steps // 50)
    try:
        for stop in [*stops, *([] if stops[-1] == steps else [steps])]:
            while done < stop:
                ahead = min(stop, done + chunk)
                state = advance(state, done, ahead)
                if not bar.disable:
                    jax.block_until_ready(state)
                    bar.update(ahead - done)
                done = ahead
            if len(looks) < len(stops):
                looks.append(look(state[0]))
                if not traced and not np.isfinite(looks[-1][0]):
                    raise FloatingPointError(
                        f"The loss is {float(looks[-1][0])} at step {stop}: training diverged. "
                        f"Use a smaller learning rate."
                    )
    except KeyboardInterrupt:
        print(f"\ninterrupted after {done} of {steps} steps; returning what there is")
    finally:
        bar.close()
    if isinstance(model, nnx.Module) and not traced:
        nnx.update(model, nnx.State(state[0]))
    losses, records = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looks) if looks else (jnp.zeros(0), None)
    return History(jnp.asarray(stops[: len(looks)]), losses, records, state[0])
