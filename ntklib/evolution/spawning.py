"""Children of a network: copies that are made during its training, and trained to the end with their own batches."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ntklib import _checks, training
from ntklib.evolution import _runs
from ntklib.models import ApplyFn, Model, Params
from ntklib.training import Loss


@dataclasses.dataclass(frozen=True, repr=False)
class Spawned:
    """The result of `spawn`: parents, which are the network at T times, and C children of each parent.

    Args:
        steps: The step numbers at which the children were spawned, [T]. After Ctrl-C only those whose children are
            finished.
        apply_fn: The function of parents and children.
        parents: The parameters of the parents, with a first axis of length T.
        children: The parameters of the children at the end of their training, with two first axes [T, C].
        loss: The loss of each child over all training data at the end, [T, C].
    """

    steps: Int[Array, " T"]
    apply_fn: ApplyFn
    parents: Params
    children: Params
    loss: Float[Array, "T C"]

    def __repr__(self) -> str:
        return f"<{self.loss.shape[1]} children of each of {len(self.steps)} parents>"

    def parent(self, time: int) -> tuple[ApplyFn, Params]:
        """Return the parent at `steps[time]` as a model (apply_fn, params).

        Args:
            time: An index into `steps`, from −T to T − 1; not a step number.

        Raises:
            TypeError: If `time` is not a whole number.
            ValueError: If `time` is out of range.
        """
        _checks.count("time", time, minimum=-len(self.steps), maximum=len(self.steps) - 1)
        return self.apply_fn, jax.tree.map(lambda leaf: leaf[time], self.parents)

    def child(self, time: int, index: int) -> tuple[ApplyFn, Params]:
        """Return one of the C children of the parent at `steps[time]` as a model (apply_fn, params).

        Args:
            time: An index into `steps`, from −T to T − 1; not a step number.
            index: Which child, from −C to C − 1.

        Raises:
            TypeError: If `time` or `index` is not a whole number.
            ValueError: If `time` or `index` is out of range.
        """
        _checks.count("time", time, minimum=-len(self.steps), maximum=len(self.steps) - 1)
        _checks.count("index", index, minimum=-self.loss.shape[1], maximum=self.loss.shape[1] - 1)
        return self.apply_fn, jax.tree.map(lambda leaf: leaf[time, index], self.children)


def spawn(
    model: Model,
    x: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    spawn_at: Sequence[int],
    batch_size: int,
    key: Array,
    children: int = 2,
    child_keys: Array | None = None,
    loss: Loss | Literal["mse", "cross_entropy"] = "mse",
    progress: bool | None = None,
) -> Spawned:
    """Train a network, copy it at several times, and train the copies to the end with batches of their own.

    A copy, called a child, starts with the parameters and the optimizer state (momentum, step counts) of the network,
    its parent. It is trained on the same data until `steps`, with batches that are drawn with a
    key of its own, by default not that of the parent.

    Args:
        model: A model as in `train`. It is not changed.
        x: Inputs [N, ...].
        y: Targets, as in `train`.
        optimizer: Any Optax transformation.
        steps: The step at which the training of the children ends, counted from the start of the parent.
        spawn_at: The steps at which the parent is copied, at least one, strictly ascending; 0 is before the first
            update. The parent is trained up to the last of these steps only.
        batch_size: The number of examples in each step, drawn as in `train`. Unlike there it must be given.
        key: A JAX key for the parent's batches.
        children: C, the number of children at each time.
        child_keys: The keys of the children's batches, [C], typed keys as `jax.random.key` makes them. By default they
            are made from `key`.
        loss: As in `train`.
        progress: As in `train`.

    Returns:
        A `Spawned`. Its methods `parent` and `child` return the networks as models. After Ctrl-C it has only the
        parents all of whose children are finished; if there are none, KeyboardInterrupt is raised.

    Raises:
        TypeError: As for `train`; if `spawn_at` is None or `child_keys` are not typed keys; inside `jit`.
        ValueError: As for `train`; if `spawn_at` is empty, or not strictly ascending whole numbers between 0 and
            `steps`, both included; if there are not C `child_keys`.
        FloatingPointError: If the loss of a child is not finite at the end. Nothing is returned then.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.mlp([1, 16, 1], w_std=1.0, rngs=nnx.Rngs(0))
        >>> x = jnp.linspace(-1, 1, 8)[:, None]
        >>> spawned = spawn(net, x, x**2, optimizer=optax.sgd(0.1, momentum=0.9), steps=20, spawn_at=[0, 10],
        ...                 batch_size=2, key=jax.random.key(0), progress=False)
        >>> spawned
        <2 children of each of 2 parents>
        >>> early, late = [spawned.child(0, c) for c in (0, 1)], [spawned.child(1, c) for c in (0, 1)]
        >>> bool(ntk.function_distance(*late, x, measure="mse") < ntk.function_distance(*early, x, measure="mse"))
        True

    Note:
        The batch of step i depends on i and on the key of the run alone. Therefore the c-th children of different
        parents draw the same batch in a step that both take. Two children of one parent with equal keys end with the
        same parameters, on a CPU to the bit. A child with the parent's key continues the parent's own run.

        The children take C · Σ (steps − s) steps in all, summed over the steps s in `spawn_at`. The parameters of all
        T (C + 1) networks are kept; while they are stacked at the end, those of the children are there three times. All
        runs share one compiled loop, and so do later calls with the same optimizer object, `loss`, `batch_size` and
        shapes of `x` and `y`, for networks of one architecture.

    References:
        Fort et al. 2020 (2010.15110); Frankle et al. 2020 (1912.05671).

    See Also:
        `error_barrier` and `function_distance`, which compare two children.
    """
    _checks.count("batch_size", batch_size)
    given, key = _runs.problem(
        "spawn", model, x, y, optimizer=optimizer, loss=loss, batch_size=batch_size, key=key
    )  # fmt: skip
    _checks.count("steps", steps, maximum=2**31 - 1)
    times = training.record_steps(_given("spawn_at", spawn_at), steps, "spawn_at")
    _checks.count("children", children)
    keys = _child_keys(key, children, child_keys)
    if progress is not None:
        _checks.flag("progress", progress)

    total = times[-1] + len(keys) * sum(steps - time for time in times)
    state, done = given.start(), 0
    finished: list[tuple[Params, list[Params], list[Array]]] = []
    with contextlib.closing(training.progress_bar(total, progress)) as bar:
        try:
            for time in times:
                state, done = _advanced(given, state, key, done, time, bar), time
                grown = [_advanced(given, state, keys[c], time, steps, bar)[0] for c in range(len(keys))]
                losses = [given.full_loss(params) for params in grown]
                for value in losses:
                    training.check_finite_loss(value, steps)
                finished.append((state[0], grown, losses))
        except KeyboardInterrupt:
            if not finished:
                raise
            print(f"\ninterrupted; returning the children of {len(finished)} of {len(times)} times")
    parents, grown, losses = zip(*finished, strict=True)
    return Spawned(
        jnp.asarray(times[: len(finished)]),
        given.apply_fn,
        _runs.stacked(list(parents)),
        _runs.stacked([_runs.stacked(of_time) for of_time in grown]),
        jnp.stack([jnp.stack(of_time) for of_time in losses]),
    )


def _advanced(given: _runs.Problem, state: _runs.State, key: Array, start: int, stop: int, bar: Any) -> _runs.State:
    """Train from `start` to `stop`, in parts. After each part the bar moves and Ctrl-C takes effect."""
    chunk = max(1, bar.total // 50)
    for done in range(start, stop, chunk):
        ahead = min(done + chunk, stop)
        state = given.advance(state, key, done, ahead)
        bar.update(ahead - done)
    return state


def _given(argument: str, value: Any) -> Any:
    if value is None:
        raise TypeError(f"`{argument}` must be a list of step numbers; got None.")
    return value


def _child_keys(key: Array, children: int, child_keys: Any) -> Array:
    """Return one key for each child. By default they are split from a key that the parent uses for no batch."""
    if child_keys is None:
        return jax.random.split(jax.random.fold_in(key, 2**32 - 1), children)
    if not (isinstance(child_keys, jax.Array) and jnp.issubdtype(child_keys.dtype, jax.dtypes.prng_key)):
        raise TypeError(
            f"`child_keys` must be typed keys [C], e.g. `jax.random.split(jax.random.key(1), {children})`; got "
            f"{_checks.shown(child_keys)}."
        )
    if child_keys.shape != (children,):
        raise ValueError(f"`child_keys` must be [C] = [{children}], one for each child; got shape {child_keys.shape}.")
    return child_keys
