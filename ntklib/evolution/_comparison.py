"""What `follow` records at each time: named measures and functions of the user, of the network at the start and now."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib.data import one_hot_centered
from ntklib.empirical import empirical_ntk
from ntklib.evolution import _runs
from ntklib.evolution.barrier import error_barrier
from ntklib.evolution.distances import kernel_alignment, kernel_distance, kernel_velocity
from ntklib.evolution.functions import function_distance
from ntklib.evolution.gradients import logit_gradient_similarity
from ntklib.evolution.rectifiers import activation_hamming
from ntklib.models import Model, Params

Measure = Callable[[Model, Model], ArrayLike]
#: The measures that have a name, and whether each needs the labels of the probe.
NAMES = {
    "kernel_distance": False, "kernel_velocity": False, "kernel_alignment": True, "function_distance": False,
    "activation_hamming": False, "logit_gradient_similarity": False, "error_barrier": True,
}  # fmt: skip
#: The number of arrays of the size of a kernel that exist at once: the kernels of the start, of t and of t + Δ, and
#: what is needed to compare two of them.
_KERNELS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The measures, and what they compare: the network `start` with the networks of one training.

    Kernels are held as arrays while all that are needed at a time fit into `max_memory`. Otherwise models stand for
    their kernels, which are then compared tile by tile.
    """

    given: _runs.Problem
    key: Array
    measures: dict[str, str | Measure]
    probe: Array
    labels: Array | None
    k: int
    outputs: Literal["mean", "full"]
    lag: int | float
    max_memory: int | float
    start: Params

    @property
    def lag_steps(self) -> int:
        """Δ in steps."""
        return max(1, round(self.lag * self.given.steps_per_epoch))

    def values(self, state: _runs.State, time: int) -> tuple[dict[str, np.ndarray], _runs.State | None]:
        """Return the values of all measures at step `time`, and the state at t + Δ if it was needed."""
        params, ahead, now, then = state[0], None, None, None
        if self._needs("kernel_distance", "kernel_velocity", "kernel_alignment"):
            now = self._first_kernel if params is self.start else self._kernel(params)
        if self._needs("kernel_velocity"):
            ahead = self.given.advance(state, self.key, time, time + self.lag_steps)
            then = self._kernel(ahead[0])
        models = self._model(self.start), self._model(params)
        values = {}
        for name, measure in self.measures.items():
            value = measure(*models) if callable(measure) else self._named(measure, *models, now, then)
            values[name] = np.asarray(value)
        return values, ahead

    def try_out(self) -> None:
        """Refuse, before training, a measure that does not suit the model or the probe."""
        model = self._model(self.start)
        for name in self.measures.values():
            if isinstance(name, str) and not name.startswith("kernel_"):
                self._named(name, model, model, None, None)

    def _named(self, name: str, start: Model, model: Model, now: Any, then: Any) -> ArrayLike:
        """Return a measure, given the models, and the kernels of now and of t + Δ."""
        x, memory = self.probe, {"max_memory": self.max_memory}
        if name == "kernel_distance":
            return kernel_distance(self._first_kernel, now, **self._how)
        if name == "kernel_velocity":
            return kernel_velocity(now, then, lag=self.lag_steps / self.given.steps_per_epoch, **self._how)
        if name == "function_distance":
            return function_distance(start, model, x, **memory)
        if name == "activation_hamming":
            return activation_hamming(start, model, x, **memory)
        if name == "logit_gradient_similarity":
            found = logit_gradient_similarity(model, x, self.labels, **memory)
            return jnp.stack(jax.tree.leaves(found)) if self.labels is not None else found.mean
        assert self.labels is not None
        if name == "kernel_alignment":
            return kernel_alignment(now, y=one_hot_centered(self.labels, self.k), centered=True, **self._how)
        return error_barrier(start, model, x, self.labels, **memory).barrier

    def _needs(self, *names: str) -> bool:
        return any(measure in names for measure in self.measures.values() if isinstance(measure, str))

    def _model(self, params: Params) -> Model:
        return self.given.apply_fn, params

    @functools.cached_property
    def _fits(self) -> bool:
        """Whether kernels are held as arrays."""
        entries = len(self.probe) ** 2 * (self.k**2 if self.outputs == "full" else 1)
        item = max([4, *(leaf.dtype.itemsize for leaf in jax.tree.leaves(self.start))])
        return _KERNELS * item * entries <= self.max_memory

    def _kernel(self, params: Params) -> Any:
        if not self._fits:
            return self._model(params)
        return empirical_ntk(self._model(params), self.probe, outputs=self.outputs, max_memory=self.max_memory / 2)

    @functools.cached_property
    def _first_kernel(self) -> Any:
        return self._kernel(self.start)

    @property
    def _how(self) -> dict[str, Any]:
        """How two kernels are compared."""
        return {} if self._fits else {"x": self.probe, "outputs": self.outputs, "max_memory": self.max_memory}
