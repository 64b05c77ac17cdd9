"""The measures that `follow` records at each time: those that have a name, and functions of the user."""

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
#: The measures that have a name. The value says whether the measure needs labels for the inputs `probe`.
NAMES = {
    "kernel_distance": False, "kernel_velocity": False, "kernel_alignment": True, "function_distance": False,
    "activation_hamming": False, "logit_gradient_similarity": False, "error_barrier": True,
}  # fmt: skip
#: The number of arrays of the size of a kernel that exist at once: the kernels at the start, at t and at t + Δ, and the
#: arrays in a comparison of two of them.
_KERNELS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The measures of a run of `follow`, which compare networks of one training on the inputs `probe`.

    `start` has the parameters before the first step, and `lag` is Δ in epochs. Kernels are arrays if all that exist at
    once fit into `max_memory`. If not, models take their place, and kernels are compared tile by tile.
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
        """Δ in steps, rounded to a whole number, at least 1."""
        return max(1, round(self.lag * self.given.steps_per_epoch))

    def values(self, state: _runs.State, time: int) -> tuple[dict[str, np.ndarray], _runs.State | None]:
        """Return the values of all measures at step `time`, and the state Δ later, or None if no measure needs it."""
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
            values[name] = _kept(value)
        return values, ahead

    def try_out(self) -> None:
        """Compute each named measure that uses no kernel, so that an unsuitable model or probe is refused early."""
        model = self._model(self.start)
        for name in self.measures.values():
            if isinstance(name, str) and not name.startswith("kernel_"):
                self._named(name, model, model, None, None)

    def _named(self, name: str, start: Model, model: Model, now: Any, then: Any) -> ArrayLike:
        """Return the value of a named measure. `now` and `then` are the kernels at t and t + Δ, if it needs them."""
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
        """Whether the kernels of a time fit into `max_memory` as arrays."""
        entries = len(self.probe) ** 2 * (self.k**2 if self.outputs == "full" else 1)
        item = max([4, *(leaf.dtype.itemsize for leaf in jax.tree.leaves(self.start))])
        return _KERNELS * item * entries <= self.max_memory

    def _kernel(self, params: Params) -> Any:
        """Return the kernel of a network as an array, or the model in its place."""
        if not self._fits:
            return self._model(params)
        return empirical_ntk(self._model(params), self.probe, outputs=self.outputs, max_memory=self.max_memory / 2)

    @functools.cached_property
    def _first_kernel(self) -> Any:
        return self._kernel(self.start)

    @property
    def _how(self) -> dict[str, Any]:
        """The keyword arguments for a comparison of two kernels. Arrays need none."""
        return {} if self._fits else {"x": self.probe, "outputs": self.outputs, "max_memory": self.max_memory}


def _kept(value: ArrayLike) -> np.ndarray:
    """Return a value as an array that NumPy can read from its files. Floats of 8 and 16 bits become float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) and array.itemsize < 4 else array
