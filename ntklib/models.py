"""One form for every model: a pure function and its parameters."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ntklib import _checks

Params = Any
ApplyFn = Callable[[Params, Array], Array]
#: What every function on finite networks takes: an `nnx.Module`, a bound Linen module, or a pair (apply_fn, params).
Model = nnx.Module | tuple[ApplyFn, Params] | Any


def functional(model: Model) -> tuple[ApplyFn, Params]:
    """(apply_fn, params) of a model, with apply_fn(params, x) -> [N, K] pure and differentiable.

    - An `nnx.Module` is read as it is now, in evaluation mode: Dropout passes everything, BatchNorm uses its running
      statistics, so that examples do not see each other. The parameters are its `nnx.Param`s, as a nested dict of
      arrays; a parameter that is shared by several layers is there once. Other state (running statistics, random keys,
      caches) is held fixed: what a call writes into it is forgotten, so that two calls agree, and the module itself
      is left alone.
    - A Linen module, bound to its variables (`module.bind(variables)`) or as a pair (module, variables); the
      parameters are the collection "params". One that must be told to be in evaluation mode is passed as a function:
      see the next line.
    - A pair (apply_fn, params) is returned as it is. `params` may be any pytree of floating-point or complex numbers.

    Functions of modules of one architecture have one structure as pytrees (the state that is held fixed is in their
    leaves), so that what ntklib compiles for the first serves them all. For a pair, `apply_fn` itself is what
    compiled code is found again by: a `lambda` that is made anew at each call is compiled anew at each call.

    Raises TypeError where `model` is none of these, where a module cannot be called with inputs alone, and where a
    parameter is no floating-point or complex number.

    >>> net = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> apply_fn, params = functional(net)
    >>> apply_fn(params, jnp.ones((5, 3))).shape, sorted(params)
    ((5, 2), ['bias', 'kernel'])
    """
    apply_fn, params = _functional(model)
    for path, leaf in jax.tree.leaves_with_path(params):
        _check_parameter(jax.tree_util.keystr(path), leaf)
    return apply_fn, params


def _functional(model: Model) -> tuple[ApplyFn, Params]:
    if isinstance(model, nnx.Module):
        return _from_nnx(model)
    if isinstance(model, tuple) and len(model) == 2:
        if _is_linen(model[0]):
            return _from_linen(*model)
        if callable(model[0]):
            return model
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


def _check_parameter(path: str, leaf: Any) -> None:
    """Refuse a leaf that cannot be differentiated by: an integer, a text, a random key."""
    if isinstance(leaf, (float, complex)) or jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jnp.inexact):
        return
    given = f"{leaf.dtype} of shape {leaf.shape}" if hasattr(leaf, "dtype") else f"{type(leaf).__name__} {leaf!r}"
    raise TypeError(
        f"`params{path}` must hold floating-point or complex numbers, as every parameter of `model` must: the kernel "
        f"is made of derivatives by them; got {given}. A number is written 1.0, not 1; a constant goes into the "
        f"function, `(lambda p, x: apply_fn({{**p, ...}}, x), params)`, in a module into an `nnx.Variable`."
    )


def check_finite(params: Params) -> None:
    """Refuse parameters that are NaN or infinite, by name; what is traced is let pass."""
    for path, leaf in jax.tree.leaves_with_path(params):
        if _checks.is_traced(leaf) or not getattr(leaf, "is_fully_addressable", True):
            continue
        known = np.asarray(leaf)  # NumPy: inside `jit`, JAX traces even what is known
        with np.errstate(all="ignore"):
            if np.isfinite(np.vdot(known, known)):  # a fifth of the time; one that overflows proves nothing
                continue
        bad = np.size(known) - np.count_nonzero(np.isfinite(known))
        if bad:
            raise ValueError(
                f"`params{jax.tree_util.keystr(path)}` must be finite, as all parameters of `model` must; {bad} of "
                f"{np.size(leaf)} entries are NaN or infinite. Did training diverge? Then use a smaller learning rate."
            )


def check_output(
    apply_fn: Any, params: Any, x: Any, *, eval_shape: Callable[..., Any] = jax.eval_shape
) -> tuple[int, ...]:
    """The output shape [N, K] of a model on `x`, found without computing anything; another rank is refused.

    Of `x` only shape and type matter. `eval_shape` may be one that remembers what it has found.
    """
    try:
        out: Any = eval_shape(apply_fn, params, x)
    except TypeError as error:
        if jnp.issubdtype(x.dtype, jnp.inexact):
            raise
        raise TypeError(
            f"`model` does not take inputs of type {x.dtype} ({error}). Convert them: `x1.astype(jnp.float32)`, or "
            f"for raw pixels `x1 / 255.0`."
        ) from error
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
    if shape[1] == 0:
        raise ValueError(f"`model` must have at least one output; got shape {shape}.")
    if jnp.issubdtype(out.dtype, jnp.complexfloating):
        raise TypeError(
            f"`model` must return real outputs; got {out.dtype}. Pass real and imaginary parts as outputs side by "
            f"side: with `f = apply_fn(p, x)`, return `jnp.concatenate([f.real, f.imag], axis=-1)`."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"`model` must return floating-point outputs; got {out.dtype}.")
    return shape


# -------------------------------------------------------------------------------------------------- modules of Flax


class Static:
    """A value that belongs to a function's structure: compared by value, and hashed once, as graphs are long."""

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            self.hash = hash(value)
        except TypeError:  # something without a hash among the attributes: such functions differ from all others
            self.hash = id(self)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Static) and self.hash == other.hash and bool(self.value == other.value)

    def __repr__(self) -> str:  # JAX asks for the text at each call, and that of a graph is long
        return f"<{type(self.value).__name__}>"


@functools.partial(jax.tree_util.register_dataclass, data_fields=["state"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Function:
    """The function of a Flax module, its state beside the parameters as leaves. Without such state functions of one
    architecture are equal; with it they have one structure.
    """

    module: Static
    state: Any

    def __hash__(self) -> int:
        return hash(self.module)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, _Function) or self.module != other.module:
            return False
        mine, theirs = jax.tree.leaves(self.state), jax.tree.leaves(other.state)
        return len(mine) == len(theirs) and all(a is b for a, b in zip(mine, theirs, strict=True))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["state"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _NnxFunction(_Function):
    """Of an `nnx.Module`: its graph, and all that is no `nnx.Param`."""

    def __call__(self, params: Params, x: Array) -> Array:
        # A module of its own at each call, of variables of its own: `eval` and what the call writes stay in here.
        state = jax.tree.map(lambda leaf: leaf, self.state)
        module: Any = nnx.merge(self.module.value, nnx.State(params), state)
        module.eval()
        return module(x)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["state"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _LinenFunction(_Function):
    """Of a Linen module, with all collections but the parameters."""

    def __call__(self, params: Params, x: Array) -> Array:
        return self.module.value.apply({"params": params, **self.state}, x)


def _from_nnx(module: nnx.Module) -> tuple[ApplyFn, Params]:
    _check_takes_inputs_alone(module)
    graph, params, state = nnx.split(module, nnx.Param, ...)
    return _NnxFunction(Static(graph), state), nnx.to_pure_dict(params)


def _check_takes_inputs_alone(module: Any) -> None:
    if not callable(module):
        raise TypeError(f"`model` must have a `__call__`, to be called with inputs; {type(module).__name__} has none.")
    try:
        inspect.signature(module).bind(None)
    except TypeError as error:
        raise TypeError(
            f"`model` must be callable with inputs alone; {type(module).__name__} is not: {error}. Pass a function: "
            f"`graph, params, rest = nnx.split(model, nnx.Param, ...)` and then "
            f"`(lambda p, x: nnx.merge(graph, p, rest)(x, ...), params)`."
        ) from None


def _is_linen(value: object) -> bool:
    """Whether it is a Linen module, found without importing Linen for those who do not use it."""
    return any(c.__module__.startswith("flax.linen") and c.__name__ == "Module" for c in type(value).__mro__)


def _from_linen(module: Any, variables: Any) -> tuple[ApplyFn, Params]:
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"A Linen module comes with its variables, `(module, variables)` with `variables = module.init(key, x)`; "
            f"got {type(variables).__name__}."
        )
    state = {name: value for name, value in variables.items() if name != "params"}
    return _LinenFunction(Static(module), state), variables.get("params", {})
