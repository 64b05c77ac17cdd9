"""The training of an ensemble by one compiled program, in groups of as many members as fit into memory."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.extend import core

from ntklib import training
from ntklib._convolutions import convolves
from ntklib.models import ApplyFn, Model, Params, functional
from ntklib.training import Loss

Build = Callable[[nnx.Rngs], Model]


@dataclasses.dataclass(frozen=True, eq=False)  # arrays cannot be hashed
class Job:
    """The checked arguments of `ensemble`, and the functions that train a group of members.

    A `member` is a dict: the key, the settings and the examples of one network. A group is such a dict with a first
    axis over members, except for examples that all members share. `make` returns the optimizer for the settings of a
    member.
    """

    build: Build
    make: Callable[[dict[str, Array]], Any]
    loss: Loss
    x: Array
    y: Array
    keys: Array
    settings: dict[str, Array]
    rows: np.ndarray | None
    batch_size: int | None
    record: Callable[[Params], Any] | None

    def parts(self, member: dict[str, Any]) -> tuple[Callable, Callable]:
        """Return the loss of a member over its examples, and one step of its training, as two functions."""
        apply_fn = functional(self.build(nnx.Rngs(member["key"])))[0]
        batches = jax.random.fold_in(member["key"], 2**32 - 1)
        given = member["x"], member["y"], self.batch_size, batches
        return training.objective(self.loss, self.make(member["settings"]), apply_fn, *given)

    def start(self, member: dict[str, Any]) -> tuple[Params, Any]:
        """Return the parameters and the state of the optimizer at the start."""
        params = jax.tree.map(jnp.asarray, functional(self.build(nnx.Rngs(member["key"])))[1])
        return params, self.make(member["settings"]).init(params)

    def advance(self, member: dict[str, Any], state: Any, done: Array, stop: Array) -> Any:
        """Take the steps `done` to `stop` − 1, and return the state after them."""
        _, step = self.parts(member)  # outside of the loop, so that `build` computes once and not in each step
        return jax.lax.fori_loop(done, stop, step, state)

    def look(self, member: dict[str, Any], params: Params) -> tuple[Array, Any]:
        """Return the loss, and the value of `record`."""
        return self.parts(member)[0](params), None if self.record is None else self.record(params)

    def group(self, chosen: np.ndarray) -> dict[str, Any]:
        """Return the group of the members with these numbers."""
        x, y = (self.x, self.y) if self.rows is None else (self.x[self.rows[chosen]], self.y[self.rows[chosen]])
        settings = {name: values[chosen] for name, values in self.settings.items()}
        return {"key": self.keys[chosen], "settings": settings, "x": x, "y": y}

    @functools.cached_property
    def axes(self) -> dict[str, int | None]:
        """The axis over members in each entry of a group, or None if all members share the entry."""
        of_examples = None if self.rows is None else 0
        return {"key": 0, "settings": 0, "x": of_examples, "y": of_examples}

    @functools.cached_property
    def compiled(self) -> tuple[Callable, Callable, Callable]:
        """The functions `start`, `advance` and `look` for a group.

        By `vmap` all members take a step at once. On a CPU, networks with convolutions are trained one after the other
        instead: this is faster, because the patches of one member stay in the cache (see `ntklib._convolutions`). Their
        losses are computed by one call for each member, outside of a loop, where convolutions are fast and need no
        patches. Parameters are drawn for one member after the other on a CPU in any case: the program compiles twice as
        fast, and gives the same numbers.
        """
        start = self._start_in_turn if jax.default_backend() == "cpu" else jax.vmap(self.start, in_axes=(self.axes,))
        if self.takes_turns:
            return jax.jit(start), jax.jit(self._in_turn(self.advance)), self._one_by_one(jax.jit(self.look))
        advance = jax.vmap(self.advance, in_axes=(self.axes, 0, None, None))
        return jax.jit(start), jax.jit(advance), jax.jit(jax.vmap(self.look, in_axes=(self.axes, 0)))

    @functools.cached_property
    def takes_turns(self) -> bool:
        """Whether the members are trained one after the other, within one program."""
        if jax.default_backend() != "cpu":
            return False
        params = jax.eval_shape(self.start, self.first)[0]
        loss = jax.make_jaxpr(lambda member, params: self.parts(member)[0](params))(self.first, params)
        return convolves(loss.jaxpr)

    def _start_in_turn(self, group: dict[str, Any]) -> tuple[Params, Any]:
        """Return the parameters and the states of the optimizer at the start, made for one member at a time."""
        own = {name: group[name] for name in ("key", "settings")}  # the examples are not needed
        return jax.lax.map(lambda one: self.start({**group, **one}), own)

    def _in_turn(self, of_member: Callable) -> Callable:
        """Return a function of a group, which applies a function of a member and its state to one member at a time."""

        def of_group(group: dict[str, Any], states: Any, *shared: Any) -> Any:
            def one(own: tuple[dict[str, Any], Any]) -> Any:
                return of_member({**group, **own[0]}, own[1], *shared)

            return jax.lax.map(one, ({n: group[n] for n, axis in self.axes.items() if axis == 0}, states))

        return of_group

    def _one_by_one(self, of_member: Callable) -> Callable:
        """Return a function of a group, which calls a compiled function of a member and its state for each member."""

        def of_group(group: dict[str, Any], states: Any) -> Any:
            results = []
            for m in range(len(group["key"])):
                own = {name: jax.tree.map(lambda a, m=m: a[m], group[name]) for name in group if self.axes[name] == 0}
                results.append(of_member({**group, **own}, jax.tree.map(lambda a, m=m: a[m], states)))
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

        return of_group

    @functools.cached_property
    def first(self) -> dict[str, Any]:
        """The first member. All others have entries of the same shapes."""
        group = self.group(np.arange(1))
        return {
            name: value if self.axes[name] is None else jax.tree.map(lambda a: a[0], value)
            for name, value in group.items()
        }

    def check(self, model: tuple[ApplyFn, Params]) -> None:
        """Refuse a loss that does not return one number for the examples of a member."""
        training.check_loss(self.loss, *model, self.first["x"], self.first["y"])

    def bytes_of_a_member(self) -> int:
        """Return an upper bound on the bytes that one member needs.

        It holds its own examples, and all arrays either in one step of its training or in one call of `look`.
        """
        state = jax.eval_shape(self.start, self.first)
        held = sum(map(_bytes, jax.tree.leaves((self.first["settings"], state))))
        look = held + _bytes_in(jax.make_jaxpr(self.look)(self.first, state[0]).jaxpr)
        own = 0 if self.rows is None else _bytes(self.first["x"]) + _bytes(self.first["y"])
        return own + max(look, bytes_of_step(self.parts, self.start, self.first))

    def run(
        self, chosen: np.ndarray, stops: list[int], steps: int, bar: Any, refuse: Callable[[Array, int], None]
    ) -> tuple[Any, list[tuple[Array, Any]], bool]:
        """Train the members `chosen`. The other arguments and the results are as in `training.run`."""
        member = self.group(chosen)
        start, advance, look = self.compiled
        going = functools.partial(advance, member), functools.partial(look, member), start(member)
        return training.run(*going, stops, steps, bar, refuse)


def groups(members: int, chunk: int) -> list[np.ndarray]:
    """Return the numbers of the members in each group, with at most `chunk` members in a group.

    All groups have one size, so that one program serves them all. The last group may repeat the last member.
    """
    count = -(-members // chunk)
    size = -(-members // count)
    return [np.minimum(np.arange(i * size, (i + 1) * size), members - 1) for i in range(-(-members // size))]


def fitting(members: int, max_memory: float, of_member: int) -> int:
    """Return how many members fit into `max_memory` with `of_member` bytes each, at least one."""
    return int(max(1, min(members, max_memory // of_member)))


def bytes_of_step(parts: Callable, start: Callable, member: dict[str, Any]) -> int:
    """Return an upper bound on the bytes of all arrays in one step of the training of one member."""

    def step(member: dict[str, Any], state: Any) -> Any:
        return parts(member)[1](jnp.zeros((), int), state)

    state = jax.eval_shape(start, member)
    given = jax.tree.leaves((member["settings"], state))
    # Settings and state before and after a call, and all arrays of the step.
    return 2 * sum(_bytes(a) for a in given) + _bytes_in(jax.make_jaxpr(step)(member, state).jaxpr)


def _bytes_in(jaxpr: Any) -> int:
    bodies = [_bytes_in(body) for eqn in jaxpr.eqns for body in core.jaxprs_in_params(eqn.params)]
    return sum(_bytes(v.aval) for eqn in jaxpr.eqns for v in eqn.outvars) + sum(bodies)


def _bytes(a: Any) -> int:
    return math.prod(a.shape) * getattr(a.dtype, "itemsize", 8)
