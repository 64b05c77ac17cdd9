"""Training with Optax in a compiled loop, which shows a progress bar and records the loss and other values."""

import contextlib
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
from jaxtyping import Float
from tqdm import tqdm

from ntklib import _checks
from ntklib._convolutions import by_products
from ntklib.models import ApplyFn, Model, Params, check_output, functional

Loss = Callable[[Array, Array], Array]


def mse(outputs: Array, targets: Array) -> Float[Array, ""]:
    """Return the squared loss 1/(2N) Σ_i ‖f(x_i) − y_i‖², the only squared loss of this library.

    Args:
        outputs: f(x), [N, K].
        targets: y, [N, K].

    Returns:
        One number.

    Example:
        >>> mse(jnp.array([[1.0], [3.0]]), jnp.zeros((2, 1))).item()
        2.5
    """
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))


def cross_entropy(logits: Array, targets: Array) -> Float[Array, ""]:
    """Return the mean cross-entropy of softmax(logits) with the targets, in nats.

    Args:
        logits: [N, K].
        targets: Integer labels [N], or probabilities [N, K].

    Returns:
        One number.

    Example:
        >>> round(float(cross_entropy(jnp.zeros((3, 2)), jnp.array([0, 1, 1]))), 4)
        0.6931
    """
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
    return optax.softmax_cross_entropy(logits, targets).mean()


def accuracy(outputs: Array, labels: Array) -> Float[Array, ""]:
    """Return the share of examples whose largest output is that of their label.

    Args:
        outputs: [N, K].
        labels: Integers from 0, [N].

    Returns:
        A number between 0 and 1.

    Example:
        >>> accuracy(jnp.array([[0.2, 0.8], [0.9, 0.1]]), jnp.array([1, 1])).item()
        0.5
    """
    return jnp.mean(jnp.argmax(outputs, axis=-1) == labels)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """The result of `train`.

    Args:
        steps: The step numbers at which the loss was recorded, [T].
        loss: The loss over all training data at these steps, [T].
        records: The values that `record` returned at these steps, stacked along a first axis of length T; None if
            there was no `record`.
        params: The parameters at the end.
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
    """Train a model with an Optax optimizer. Return the recorded losses and values, and the parameters.

    Args:
        model: A model as in `functional`. An `nnx.Module` is trained in evaluation mode, without dropout and with fixed
            BatchNorm statistics, and at the end its parameters are replaced by the trained ones.
        x: Inputs [N, ...].
        y: Targets [N, K]. For "cross_entropy" they are labels [N], integers from 0, or probabilities [N, K].
        optimizer: Any Optax transformation, e.g. `ntklib.sgd(net, 1.0)`, `optax.adam(1e-3)` or `optax.lbfgs()`. It
            is given the loss function and its value, for line searches.
        steps: The number of updates.
        batch_size: The number of examples in each step. They are drawn with `key`, without replacement within a step,
            and independently of other steps. By default each step uses all examples.
        loss: "mse", "cross_entropy", or a function of outputs and targets that returns one number.
        key: A JAX key; needed with `batch_size`.
        record: A function of the parameters that JAX can trace. It is called at the steps `record_at`.
        record_at: Ascending step numbers, where 0 is before the first update; by default 0 and `steps`.
        progress: Whether to show a bar on stderr. By default it is shown, unless the environment variable CI is set.

    Returns:
        A `History`. After Ctrl-C it has what was recorded until then, and an `nnx.Module` is updated as well.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or if shapes do not fit.
        FloatingPointError: If the loss is not finite when it is recorded.

    Example:
        >>> import ntklib as ntk
        >>> net = ntk.mlp([1, 64, 1], w_std=1.0, rngs=nnx.Rngs(0))
        >>> x = jnp.linspace(-1, 1, 8)[:, None]
        >>> history = train(net, x, x**2, optimizer=ntk.sgd(net, 1.0), steps=100, progress=False)
        >>> bool(history.loss[-1] < history.loss[0])
        True

    Note:
        Each call compiles one loop, whatever the number of steps. `train` also works inside `jax.vmap` (over seeds or
        learning rates, for instance) and `jax.jit`. There it shows no bar, raises no FloatingPointError, and does not
        update a module. Arrays sharded over explicit axes of a mesh are gathered to one device.

        On a CPU a step computes a convolution as the matrix product of its patches with its weights, unless it is
        grouped or transposed, or inside of a loop, a branch or a function with a derivative of its own. (The patch of
        an output pixel holds the inputs in its window.) In a loop this is 6 to 100 times as fast as XLA's convolution.
        The patches of a layer take as much memory as its inputs times the number of pixels of a window, for one layer
        at a time. Smaller batches need less.
    """
    apply_fn, params = functional(model)
    params = jax.tree.map(gathered, params)
    inputs = gathered(_checks.model_inputs("x", x))
    outputs = check_output(apply_fn, params, inputs[:1])[1]
    loss_fn = loss_function(loss)
    targets = gathered(checked_targets(loss_fn, y, len(inputs), outputs))
    check_loss(loss_fn, apply_fn, params, inputs, targets)
    transformation = transformation_of(optimizer)
    _checks.count("steps", steps, maximum=2**31 - 1)
    stops = record_steps(record_at, steps)
    if record is not None and not callable(record):
        raise TypeError(f"`record` must be a function of the parameters; got {_checks.shown(record)}.")
    if progress is not None:
        _checks.flag("progress", progress)
    key = batch_key(key, batch_size, len(inputs))

    full_loss, step = objective(loss_fn, transformation, apply_fn, inputs, targets, batch_size, key)

    def look(params: Params) -> tuple[Array, Any]:
        return full_loss(params), None if record is None else record(params)

    state = params, transformation.init(params)
    # The number of steps is an argument of the compiled loop, so that loops of all lengths share one compilation.
    advance = jax.jit(lambda state, start, stop: jax.lax.fori_loop(start, stop, step, state))
    given = jax.tree.leaves((params, inputs, targets, key))
    # A loop of no steps finds tracers that only the optimizer or the loss holds, a learning rate for instance.
    if _checks.is_traced(*given) or _checks.is_traced(*jax.tree.leaves(advance(state, 0, 0))):
        state, (losses, records) = _in_one_loop(step, by_products(look), state, stops, steps)
        return History(jnp.asarray(stops), losses, records, state[0])
    with contextlib.closing(progress_bar(steps, progress)) as bar:
        state, looks, _ = run(advance, jax.jit(look), state, stops, steps, bar, check_finite_loss)
    if isinstance(model, nnx.Module):
        nnx.update(model, nnx.State(state[0]))
    losses, records = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looks) if looks else (jnp.zeros(0), None)
    return History(jnp.asarray(stops[: len(looks)]), losses, records, state[0])


def _in_one_loop(
    step: Callable, look: Callable, state: Any, stops: list[int], steps: int
) -> tuple[Any, tuple[Array, Any]]:
    """Train inside of `jit` or `vmap`: a loop over the `stops`, with a loop over the steps between them inside.

    So `look` is compiled once and `step` at most twice, and not once for each stop.

    Returns:
        The state after the last step, and the stacked values that `look` returned at the `stops`.
    """

    def to_the_next(state: Any, bounds: tuple[Array, Array]) -> tuple[Any, Any]:
        state = jax.lax.fori_loop(*bounds, step, state)
        return state, look(state[0])

    bounds = jnp.asarray([0, *stops[:-1]]), jnp.asarray(stops)
    state, looks = jax.lax.scan(to_the_next, state, bounds)
    if stops[-1] < steps:
        state = jax.lax.fori_loop(jnp.asarray(stops[-1]), jnp.asarray(steps), step, state)
    return state, looks


def gathered(array: Array) -> Array:
    """Gather an array that is sharded over explicit axes to one device, where the loop can pick batches from it."""
    if _checks.is_traced(array) or not isinstance(array, jax.Array) or not any(jax.typeof(array).sharding.spec):
        return array
    return jnp.asarray(np.asarray(array))


def objective(
    loss: Loss,
    transformation: optax.GradientTransformationExtraArgs,
    apply_fn: ApplyFn,
    x: Array,
    y: Array,
    batch_size: int | None,
    key: Array,
) -> tuple[Callable[[Params], Array], Callable[[Array, tuple[Params, Any]], tuple[Params, Any]]]:
    """Return two functions: the loss over all examples, and one step of training.

    The loss is a function of the parameters. The step is a function of its number and of the state (parameters, state
    of the optimizer). It computes convolutions as matrix products, because it runs in a loop, where XLA's convolutions
    are slow on a CPU. The loss over all examples keeps its convolutions, because it is usually computed outside of a
    loop.
    """
    in_loop = by_products(apply_fn)

    def full_loss(params: Params) -> Array:
        return loss(apply_fn(params, x), y)

    def step(i: Array, state: tuple[Params, Any]) -> tuple[Params, Any]:
        params, opt_state = state
        rows = slice(None)
        if batch_size is not None:
            rows = jax.random.choice(jax.random.fold_in(key, i), len(x), (batch_size,), replace=False)

        def objective(params: Params) -> Array:
            return loss(in_loop(params, x[rows]), y[rows])

        value, grads = jax.value_and_grad(objective)(params)
        # For a complex parameter JAX returns ∂L/∂(real part) − i ∂L/∂(imaginary part). Optax needs the conjugate.
        grads = jax.tree.map(jnp.conj, grads)
        more = {"value": value, "grad": grads, "value_fn": objective}  # for line searches; others ignore it
        updates, opt_state = transformation.update(grads, opt_state, params, **more)
        return optax.apply_updates(params, updates), opt_state

    return full_loss, step


def progress_bar(total: int, progress: bool | None) -> Any:
    """Return a bar over `total` steps. `progress` says whether it is shown."""
    quiet = bool(os.environ.get("CI")) if progress is None else not progress
    return tqdm(total=total, desc="training", unit="step", disable=quiet, leave=False)


def run(
    advance: Callable,
    look: Callable,
    state: Any,
    stops: list[int],
    steps: int,
    bar: Any,
    check: Callable[[Array, int], None],
) -> tuple[Any, list[tuple[Array, Any]], bool]:
    """Run the loop to its end, or until Ctrl-C.

    Args:
        advance: The compiled loop, a function of the state, of the number of steps done, and of the number at which to
            stop.
        look: A function of the parameters, which are the first part of the state. It returns the loss and the record.
        state: The state at the start.
        stops: The steps at which `look` is called.
        steps: The number of steps.
        bar: The progress bar.
        check: A function of the loss and the step number, called at the `stops`. It raises an error if the loss is
            unacceptable.

    Returns:
        The state after the last step that was done, the values that `look` returned, and whether the loop was
        interrupted.
    """
    looks: list[tuple[Array, Any]] = []
    done, chunk = 0, steps if bar.disable else max(1, steps // 50)  # a bar that is shown moves about 50 times
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
                check(looks[-1][0], stop)
    except KeyboardInterrupt:
        print(f"\ninterrupted after {done} of {steps} steps; returning what there is")
        return state, looks, True
    return state, looks, False


def check_finite_loss(loss: Array, step: int) -> None:
    """Refuse a loss that is NaN or infinite at a recorded step."""
    if np.isfinite(loss):
        return
    if step == 0:
        raise FloatingPointError(
            f"The loss is {float(loss)} before the first step: look for NaN, ∞ or very large numbers in `model` and "
            f"`y`."
        )
    raise FloatingPointError(
        f"The loss is {float(loss)} at step {step}: training diverged. Use a smaller learning rate."
    )


# ------------------------------------------------------------------------------------------------------- the checks


def loss_function(loss: Any) -> Loss:
    """Check a loss that is given as a function or by its name, and return the function."""
    if isinstance(loss, str):
        _checks.choice("loss", loss, ("mse", "cross_entropy"))
        return {"mse": mse, "cross_entropy": cross_entropy}[loss]
    if not callable(loss):
        raise TypeError(
            f'`loss` must be "mse", "cross_entropy" or a function loss(outputs, targets); got {_checks.shown(loss)}.'
        )
    return loss


def checked_targets(loss: Loss, y: Any, rows: int, outputs: int) -> Array:
    """Check and return the targets for a loss, given the number of examples and the number of outputs of the model."""
    y = _checks.plain("y", y)
    if y.ndim == 0 or len(y) != rows:
        raise ValueError(f"`y` must have one row per input: expected {rows} rows, got shape {y.shape}.")
    if loss is cross_entropy and (y.ndim == 1 or jnp.issubdtype(y.dtype, jnp.integer)):
        return _checks.labels("y", y, outputs)
    if loss is mse or loss is cross_entropy:
        y = _checks.targets("y", y, rows)
        if y.shape[1] != outputs:
            raise ValueError(f"`y` has {y.shape[1]} outputs and `model` {outputs}.")
        if loss is cross_entropy:
            _checks.probabilities("y", y)
        return y
    return jnp.asarray(_checks.checked("y", y, "N ...") if jnp.issubdtype(y.dtype, jnp.floating) else y)


def check_loss(loss: Loss, apply_fn: ApplyFn, params: Params, x: Array, y: Array) -> None:
    """Refuse a loss function that does not return one floating-point number."""
    value = jax.eval_shape(lambda p: loss(apply_fn(p, x), y), params)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"`loss` must return one number, e.g. the mean over examples; got {value}.")


def transformation_of(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Check an optimizer, and return it with an `update` that also accepts the loss function and its value."""
    wanted = "`optimizer` must be an Optax transformation, e.g. `optax.adam(1e-3)` or `ntklib.sgd(net, 0.1)`"
    if isinstance(optimizer, nnx.Optimizer):
        raise TypeError(f"{wanted}; got an nnx.Optimizer. Pass the transformation in it, `optimizer.tx`.")
    if callable(optimizer):
        name = getattr(optimizer, "__name__", repr(optimizer))
        raise TypeError(f"{wanted}; got the function {name}. Call it, e.g. `{name}(0.1)`.")
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"{wanted}; got {_checks.shown(optimizer)}.")
    return optax.with_extra_args_support(optimizer)


def record_steps(record_at: Any, steps: int, argument: str = "record_at") -> list[int]:
    """Check and return the step numbers at which the loss is recorded."""
    if record_at is None:
        return [0, steps]
    numbers = np.asarray(_checks.plain(argument, record_at))
    fits = numbers.ndim == 1 and numbers.size > 0 and np.issubdtype(numbers.dtype, np.integer)
    if not fits or (np.diff(numbers) <= 0).any() or numbers[0] < 0 or numbers[-1] > steps:
        raise ValueError(
            f"`{argument}` must be a list of ascending whole numbers between 0 and steps={steps}; got {record_at!r}."
        )
    return [int(number) for number in numbers]


def batch_key(key: Any, batch_size: Any, examples: int) -> Array:
    """Check the size of batches and the key with which they are drawn. Return the key, or any key if none is needed."""
    if key is not None:
        _checks.key("key", key)
    if batch_size is not None:
        _checks.count("batch_size", batch_size)
        if batch_size > examples:
            raise ValueError(f"`batch_size` must be at most the number of examples, {examples}; got {batch_size}.")
        if key is None:
            raise ValueError("`key` must be given to draw batches, e.g. key=jax.random.key(0).")
    return jax.random.key(0) if key is None else key
