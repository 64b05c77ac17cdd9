"""A training run that records on the way how far the network and its kernel have moved."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ntklib import _checks, training
from ntklib.evolution import _checkpoint, _models, _runs
from ntklib.evolution._checkpoint import Saved
from ntklib.evolution._comparison import NAMES, Comparison, Measure
from ntklib.models import Model, Params
from ntklib.scale.store import local_path
from ntklib.training import Loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Followed:
    """The result of `follow`.

    Args:
        steps: The step numbers of the records, [T].
        epochs: These steps in epochs, [T].
        loss: The loss over all training data at these steps, [T].
        records: The values of each measure at these steps, [T] or [T, ...].
        params: The parameters at the end.
    """

    steps: Int[Array, " T"]
    epochs: Float[Array, " T"]
    loss: Float[Array, " T"]
    records: dict[str, Array]
    params: Params


def follow(
    model: Model,
    x: ArrayLike,
    y: ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    measures: Sequence[str] | Mapping[str, str | Measure],
    probe: ArrayLike,
    probe_labels: ArrayLike | None = None,
    record_at: Sequence[int] | None = None,
    lag: int | float = 0.4,
    outputs: Literal["mean", "full"] = "mean",
    batch_size: int | None = None,
    loss: Loss | Literal["mse", "cross_entropy"] = "mse",
    key: Array | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    max_memory: int | float = _checks.MAX_MEMORY,
    progress: bool | None = None,
) -> Followed:
    """Train a model as `train` does, and record on the way how far the network and its kernel have moved.

    Θ_0 and Θ_t are the kernels between the inputs `probe`, at the start and at a recorded time t. All measures are
    taken on these inputs:

    - "kernel_distance": S(Θ_0, Θ_t) from `kernel_distance`;
    - "kernel_velocity": S(Θ_t, Θ_{t+Δ})/Δ, from two times of the same training;
    - "kernel_alignment": the centered alignment of Θ_t with the labels;
    - "function_distance": the share of inputs that the network now labels differently than at the start;
    - "activation_hamming": the share of rectifiers that are on now and were off at the start, or the reverse;
    - "logit_gradient_similarity": the mean cosine; with labels three means: over all pairs, within and between classes;
    - "error_barrier": the barrier between the network at the start and the network now.

    Args:
        model: A model as in `train`. At the end the parameters of an `nnx.Module` are replaced by the trained ones.
        x: Inputs [N, ...].
        y: Targets, as in `train`.
        optimizer: Any Optax transformation.
        steps: The number of updates.
        measures: A list of names of measures; or a dict from the name of each record to the name of a measure or to a
            function. The function is called with two models (apply_fn, params), the network at the start and now, and
            returns a number or an array.
        probe: The inputs [M, ...] on which measures are taken.
        probe_labels: The labels of `probe`, integers from 0, [M]. "kernel_alignment" and "error_barrier" need them.
        record_at: Ascending step numbers, where 0 is before the first update; by default 0 and `steps`.
        lag: Δ in epochs. It is rounded to whole steps, at least one.
        outputs: Which kernels are compared, "mean" or "full", as in `kernel_distance`.
        batch_size: As in `train`.
        loss: As in `train`.
        key: As in `train`.
        checkpoint: A file for the state of the run. It is written at each recorded step, at the end, and after Ctrl-C.
            A later call with the same arguments continues from this file, and gives the same results to the bit.
        max_memory: The bytes to use for the measures; by default 2 GiB.
        progress: As in `train`.

    Returns:
        A `Followed`. After Ctrl-C it has what was recorded until then, and an `nnx.Module` is updated as well.

    Raises:
        TypeError: As for `train` and the measures; if `measures` are neither a list nor a dict; inside `jit`.
        ValueError: As for `train` and the measures; if `probe_labels` are missing; if `checkpoint` belongs to another
            run, is damaged, or lies in a folder that does not exist.
        FloatingPointError: If the loss is not finite when it is recorded; as for the measures.

    Example:
        >>> import ntklib as ntk
        >>> net = ntk.mlp([1, 64, 1], w_std=1.0, rngs=nnx.Rngs(0))
        >>> x = jnp.linspace(-1, 1, 8)[:, None]
        >>> followed = follow(net, x, x**2, optimizer=ntk.sgd(net, 1.0), steps=100, record_at=[0, 50, 100],
        ...                   measures=["kernel_distance", "kernel_velocity"], probe=x, progress=False)
        >>> followed.records["kernel_distance"].shape, bool(followed.records["kernel_distance"][0] == 0)
        ((3,), True)

    Note:
        At most three kernels exist at the same time: those at the start, at t and at t + Δ. The kernel at the start is
        computed once, and the other two at most once for each recorded time. If eight arrays of the size of a kernel
        (these three, and those that a comparison needs) do not fit into `max_memory`, kernels are compared tile by
        tile, and each comparison computes its kernels anew.

        If the next recorded step (or, after the last one, the end) comes before t + Δ, a velocity takes Δ more epochs
        of training, whose result is not used again.

        A later call with `checkpoint` cannot check that functions (the optimizer, a loss, your measures) are the same.

    References:
        Fort et al. 2020 (2010.15110).

    See Also:
        `train`; `spawn`, for networks trained on from several times.
    """
    given, key = _runs.problem(
        "follow", model, x, y, optimizer=optimizer, loss=loss, batch_size=batch_size, key=key
    )  # fmt: skip
    _checks.count("steps", steps, maximum=2**31 - 1)
    stops = training.record_steps(record_at, steps)
    _checks.real("lag", lag, above=0.0)
    _checks.choice("outputs", outputs, ("mean", "full"))
    _checks.real("max_memory", max_memory, above=0.0)
    if progress is not None:
        _checks.flag("progress", progress)
    ready = _models.checked("model", model, _checks.model_inputs("probe", probe))
    chosen = _measures(measures, probe_labels)
    labels = None if probe_labels is None else _runs.labels_of("probe_labels", probe_labels, len(ready.x1), ready.k)

    path = None if checkpoint is None else local_path("checkpoint", checkpoint)
    names = {record: measure if isinstance(measure, str) else "a function" for record, measure in chosen.items()}
    settings = {
        "steps": steps,
        "record_at": stops,
        "batch_size": None if batch_size is None else int(batch_size),
        "lag": float(lag),
        "outputs": outputs,
        "loss": getattr(given.loss, "__name__", "a function"),
        "measures": names,
        "parameters": str(jax.tree.map(jnp.shape, given.start())),
        "data": _checkpoint.digest(given.x, given.y, ready.x1, key, *([] if labels is None else [labels])),
    }
    saved = _first(path, settings, given, list(chosen))
    comparison = Comparison(given, key, chosen, ready.x1, labels, ready.k, outputs, lag, float(max_memory), saved.start)
    comparison.try_out()
    run = _Run(comparison, steps, stops, saved)
    with contextlib.closing(training.progress_bar(steps, progress)) as bar:
        bar.update(saved.done)
        if run.go(bar, lambda now: path is None or _checkpoint.write(path, settings, now)):
            print(f"\ninterrupted after {run.saved.done} of {steps} steps; returning what there is")
    if isinstance(model, nnx.Module):
        nnx.update(model, nnx.State(run.saved.state[0]))
    return _result(run.saved, stops, given.steps_per_epoch)


def _result(saved: Saved, stops: list[int], steps_per_epoch: float) -> Followed:
    """Return the records of a run, and its parameters."""
    taken = np.array(stops[: len(saved.loss)])
    return Followed(
        steps=jnp.asarray(taken, dtype=int),
        epochs=jnp.asarray(taken / steps_per_epoch),
        loss=jnp.asarray(np.array([float(v) for v in saved.loss])),
        records={name: jnp.asarray(np.array(values)) for name, values in saved.records.items()},
        params=saved.state[0],
    )


class _Run:
    """A run in progress. Its state `saved` is only replaced as a whole, so that an interrupt leaves it consistent."""

    def __init__(self, comparison: Comparison, steps: int, stops: list[int], saved: Saved) -> None:
        self.comparison, self.steps, self.stops, self.saved = comparison, steps, stops, saved

    def go(self, bar: Any, save: Callable[[Saved], Any]) -> bool:
        """Train to the end, record at the stops, and call `save` after each. Return whether the run was interrupted."""
        try:
            for number in range(len(self.saved.loss), len(self.stops)):
                following = [*self.stops[number + 1 :], self.steps][0]
                self._advance(self.stops[number], bar)
                self._record(self.stops[number], following, bar)
                save(self.saved)
            self._advance(self.steps, bar)
        except KeyboardInterrupt:
            save(self.saved)
            return True
        save(self.saved)
        return False

    def _advance(self, stop: int, bar: Any) -> None:
        """Train to step `stop`, in parts. After each part the bar moves and Ctrl-C takes effect."""
        chunk = max(1, self.steps // 50)
        while self.saved.done < stop:
            ahead = min(stop, self.saved.done + chunk)
            state = self.comparison.given.advance(self.saved.state, self.comparison.key, self.saved.done, ahead)
            bar.update(ahead - self.saved.done)
            self.saved = self.saved._replace(state=state, done=ahead)

    def _record(self, time: int, following: int, bar: Any) -> None:
        """Record all measures at step `time`. If t + Δ is not after the next stop, continue from the state at t + Δ.

        `following` is the next stop, or the end of the run.
        """
        loss = self.comparison.given.full_loss(self.saved.state[0])
        training.check_finite_loss(loss, time)
        values, ahead = self.comparison.values(self.saved.state, time)
        records = {name: [*self.saved.records[name], value] for name, value in values.items()}
        saved = self.saved._replace(loss=[*self.saved.loss, loss], records=records)
        if ahead is not None and time + self.comparison.lag_steps <= following:
            saved = saved._replace(state=ahead, done=time + self.comparison.lag_steps)
            bar.update(self.comparison.lag_steps)
        self.saved = saved


def _first(path: Path | None, settings: dict[str, Any], given: _runs.Problem, names: list[str]) -> Saved:
    """Return the state from which the run continues: the saved one, or the start if none is saved."""
    saved = None
    if path is not None:
        if not path.parent.is_dir():
            raise ValueError(
                f"`checkpoint` is {path}, and there is no folder {path.parent}. Make it, or choose another."
            )
        saved = _checkpoint.read(path, settings, given.start(), names)
    if saved is None:
        return Saved(0, given.params, given.start(), [], {name: [] for name in names})
    # An interrupted run leaves its parameters in the module; a new module has the parameters of the start. Accept both.
    digests = [_checkpoint.digest(*jax.tree.leaves(params)) for params in (given.params, saved.start, saved.state[0])]
    if digests[0] not in digests[1:]:
        raise ValueError(
            f"`checkpoint` belongs to another run: {path} was made with other parameters of `model`. Nothing was "
            f"changed. Choose another place, or delete that file."
        )
    return saved


def _measures(measures: Any, probe_labels: Any) -> dict[str, str | Measure]:
    """Check the measures, and return a dict from the name of each record to its measure."""
    if isinstance(measures, str) or not isinstance(measures, (Mapping, Sequence)) or not measures:
        raise TypeError(
            f'`measures` must be a list of names, e.g. ["kernel_distance"], or a dict of names and functions; got '
            f"{_checks.shown(measures)}."
        )
    chosen = dict(measures) if isinstance(measures, Mapping) else {name: name for name in measures}
    for record, measure in chosen.items():
        if not isinstance(record, str):
            raise TypeError(f"`measures` must have names as keys; got {_checks.shown(record)}.")
        if callable(measure):
            continue
        _checks.choice("measures", measure, NAMES)
        if NAMES[measure] and probe_labels is None:
            raise ValueError(
                f"`probe_labels` must be given for {measure!r}: labels [M], one for each input of `probe`."
            )
    return chosen
