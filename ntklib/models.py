"""One form for every model: a pure function and its parameters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

Params = Any
ApplyFn = Callable[[Params, Array], Array]
#: What every function on finite networks takes: an `nnx.Module`, a bound Linen module, or a pair (apply_fn, params).
Model = nnx.Module | tuple[ApplyFn, Params] | Any


def functional(model: Model) -> tuple[ApplyFn, Params]:
    """(apply_fn, params) of a model, with apply_fn(params, x) -> [N, K] pure and differentiable.

    - An `nnx.Module` is read as it is now, in evaluation mode: Dropout passes everything, BatchNorm uses its running
      statistics, so that examples do not see each other. The parameters are its `nnx.Param`s, as a nested dict of
      arrays; other state (running statistics, random keys) is held fixed. The module itself is left alone.
    - A Linen module, bound to its variables (`module.bind(variables)`) or as a pair (module, variables); the
      parameters are the collection "params". One that must be told to be in evaluation mode is passed as a function:
      see the next line.
    - A pair (apply_fn, params) is returned as it is.

    >>> net = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> apply_fn, params = functional(net)
    >>> apply_fn(params, jnp.ones((5, 3))).shape, sorted(params)
    ((5, 2), ['bias', 'kernel'])
    """
    if isinstance(model, nnx.Module):
        return _from_nnx(model)
    if isinstance(model, tuple) and len(model) == 2:
        if callable(model[0]) and not _is_linen(model[0]):
            return model
        if _is_linen(model[0]):
            return _from_linen(*model)
    if _is_linen(model):
        module: Any = model
        if module.scope is None:
            raise TypeError(
                "This Linen module has no parameters yet: pass it with its variables, `(module, variables)`, or bound "
                "to them, `module.bind(variables)`, where `variables = module.init(key, x)`."
            )
        return _from_linen(*module.unbind())
    given = f"a tuple of {len(model)}" if isinstance(model, tuple) else type(model).__name__
    raise TypeError(
        f"`model` must be an nnx.Module, a Linen module with its variables, or a pair (apply_fn, params) with "
        f"apply_fn(params, x) -> [N, K]; got {given}."
    )


def check_output(apply_fn: ApplyFn, params: Params, x: Array) -> tuple[int, ...]:
    """The output shape [N, K] of a model on `x`, found without computing anything; another rank is refused."""
    out = jax.eval_shape(apply_fn, params, x)
    shape = getattr(out, "shape", None)
    if shape is None:
        raise TypeError(
            f"`model` must return one array [N, K]; got {type(out).__name__}. "
            f"Wrap it: `(lambda p, x: apply_fn(p, x)[0], params)`, say."
        )
    if len(shape) != 2 or shape[0] != x.shape[0]:
        raise ValueError(
            f"`model` must map {x.shape[0]} inputs to outputs [N, K] = [{x.shape[0]}, K]; got shape {shape}. "
            f"A single output needs its axis, `f[:, None]`; outputs of several axes must be flattened."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"`model` must return floating-point outputs; got {out.dtype}.")
    return shape


@dataclasses.dataclass(frozen=True, repr=False)  # JAX asks for the text at each call, and that of a graph is long
class _Stateless:
    """The function of a module whose only state is its parameters. Networks of one architecture have equal ones, so
    that what is compiled for the first serves them all.
    """

    graph: nnx.GraphDef

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.graph)

    def __call__(self, params: Params, x: Array) -> Array:
        return _call(self.graph, params, nnx.State({}), x)


def _from_nnx(module: nnx.Module) -> tuple[ApplyFn, Params]:
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    stateless = not jax.tree.leaves(rest)
    apply_fn = _Stateless(graph) if stateless else lambda params, x: _call(graph, params, rest, x)
    return apply_fn, nnx.to_pure_dict(params)


def _call(graph: nnx.GraphDef, params: Params, rest: nnx.State, x: Array) -> Array:
    # A fresh module at each call: `eval` and anything the call writes into the module stay in here.
    fresh: Any = nnx.merge(graph, nnx.State(params), rest)
    fresh.eval()
    return fresh(x)


def _is_linen(value: object) -> bool:
    """Whether it is a Linen module, found without importing Linen for those who do not use it."""
    return any(c.__module__.startswith("flax.linen") and c.__name__ == "Module" for c in type(value).__mro__)


def _from_linen(module: Any, variables: dict) -> tuple[ApplyFn, Params]:
    rest = {name: value for name, value in variables.items() if name != "params"}

    def apply_fn(params: Params, x: Array) -> Array:
        return module.apply({"params": params, **rest}, x)

    return apply_fn, variables["params"]
