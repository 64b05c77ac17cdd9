"""`functional`, which turns a model of any kind into a pure function and its parameters."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ntklib import _checks

Params = Any
ApplyFn = Callable[[Params, Array], Array]
#: A finite network in one of the forms that `functional` takes.
Model = nnx.Module | tuple[ApplyFn, Params] | Any


def functional(model: Model) -> tuple[ApplyFn, Params]:
    """Return a model as a pure function and its parameters.

    Args:
        model: One of the following.

            - An `nnx.Module`. The function has the module's present state and is in evaluation mode: Dropout drops
              nothing, and BatchNorm uses its running statistics, so that the output of an example does not depend on
              other examples. The parameters are the `nnx.Param` variables, as a nested dict of arrays. A parameter that
              several layers share occurs once. All other state (running statistics, random keys, caches) is fixed: each
              call starts from it and discards what the module writes into it. The module itself does not change.
            - A Linen module, either bound to its variables (`module.bind(variables)`) or as a pair (module, variables).
              The parameters are the collection "params". The module is called with the inputs alone. If it needs
              another argument, such as `train=False`, pass a pair (apply_fn, params) instead.
            - A pair (apply_fn, params). It is returned as it is. `params` may be any pytree of floating-point or
              complex numbers.

    Returns:
        (apply_fn, params), where apply_fn(params, x) maps N inputs to outputs [N, K]. The function of a module is pure
        and differentiable. A function of your own must be both, too.

    Raises:
        TypeError: If `model` is none of these, if a Linen module comes without its variables, if an `nnx.Module` cannot
            be called with inputs alone, or if a parameter does not hold floating-point or complex numbers.

    Example:
        >>> net = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> apply_fn, params = functional(net)
        >>> apply_fn(params, jnp.ones((5, 3))).shape, sorted(params)
        ((5, 2), ['bias', 'kernel'])

    Note:
        The function of a module is a pytree whose leaves are the fixed state. For all modules of one architecture the
        pytree has the same structure, and ntklib compiles once for all of them. For a pair, ntklib compiles once for
        each object `apply_fn`. If you write a `lambda` into the call, each call makes a new object and compiles again.
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
    """Refuse a parameter for which there are no derivatives: an integer, a text, a random key."""
    if isinstance(leaf, (float, complex)) or jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jnp.inexact):
        return
    given = f"{leaf.dtype} of shape {leaf.shape}" if hasattr(leaf, "dtype") else f"{type(leaf).__name__} {leaf!r}"
    raise TypeError(
        f"`params{path}` must hold floating-point or complex numbers, as every parameter of `model` must, because the "
        f"model is differentiated with respect to it; got {given}. Write a number as 1.0, not 1. Move a constant into "
        f"the function, `(lambda p, x: apply_fn({{**p, ...}}, x), params)`, or in a module into an `nnx.Variable`."
    )


def check_finite(params: Params) -> None:
    """Refuse parameters that hold NaN or ∞. The message names the first such parameter.

    Traced parameters are not checked, and neither are arrays that are partly on devices of other processes.
    """
    for path, leaf in jax.tree.leaves_with_path(params):
        if _checks.is_traced(leaf) or not getattr(leaf, "is_fully_addressable", True):
            continue
        known = np.asarray(leaf)  # NumPy, because inside `jit` JAX traces operations on known values too
        with np.errstate(all="ignore"):
            # This takes a fifth of the time of a check of each entry. If the sum of squares is not finite, which may
            # also be an overflow, each entry is checked below.
            if np.isfinite(np.vdot(known, known)):
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
    """Return the shape (N, K) of a model's outputs for `x`, without computing them.

    Refuse outputs that are not one array [N, K] of real floating-point numbers with K > 0. Only the shape and the type
    of `x` are used. `eval_shape` may be a version of `jax.eval_shape` that caches its results.
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
    """A value in the structure of a pytree. It is compared by value, and its hash is computed only once."""

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            self.hash = hash(value)
        except TypeError:  # a part of the value has no hash: this object is then equal to itself alone
            self.hash = id(self)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Static) and self.hash == other.hash and bool(self.value == other.value)

    def __repr__(self) -> str:  # short, because JAX makes this text at each call, and the text of a graph is long
        return f"<{type(self.value).__name__}>"


@functools.partial(jax.tree_util.register_dataclass, data_fields=["state"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Function:
    """The function of a Flax module: a pytree whose leaves are the module's state other than its parameters.

    The functions of all modules of one architecture have the same structure. Two of them are equal if their leaves are
    the same array objects. Without leaves they are always equal.
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
    """The function of an `nnx.Module`. `module` is its graph; `state` has all variables that are not `nnx.Param`."""

    def __call__(self, params: Params, x: Array) -> Array:
        # Each call builds a new module from new variables. `eval` and the call below change only this module.
        state = jax.tree.map(lambda leaf: leaf, self.state)
        module: Any = nnx.merge(self.module.value, nnx.State(params), state)
        module.eval()
        return module(x)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["state"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _LinenFunction(_Function):
    """The function of a Linen module. `state` has all collections except "params"."""

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
    """Whether a value is a Linen module, by the names of its classes, so that this module need not import Linen."""
    return any(c.__module__.startswith("flax.linen") and c.__name__ == "Module" for c in type(value).__mro__)


def _from_linen(module: Any, variables: Any) -> tuple[ApplyFn, Params]:
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"A Linen module comes with its variables, `(module, variables)` with `variables = module.init(key, x)`; "
            f"got {type(variables).__name__}."
        )
    state = {name: value for name, value in variables.items() if name != "params"}
    return _LinenFunction(Static(module), state), variables.get("params", {})


# --------------------------------------------------------------------------------------------------- batch statistics


@jax.jit
def with_batch_statistics(apply_fn: ApplyFn, params: Params, x: Array) -> ApplyFn:
    """Return the function of a Flax module with the statistics of a batch in place of BatchNorm's running statistics.

    The network is called with `params` on the batch `x`. Each BatchNorm takes the mean and the variance of its inputs,
    keeps them as its new statistics, and normalizes its inputs with them in this call.

    Args:
        apply_fn: The function of a Flax module, from `functional`.
        params: The parameters with which the network is called.
        x: All inputs of the batch, [N, ...].
    """
    if isinstance(apply_fn, _NnxFunction):
        return _with_nnx_statistics(apply_fn, params, x)
    return _with_linen_statistics(cast(_LinenFunction, apply_fn), params, x)


def has_batch_statistics(apply_fn: ApplyFn) -> bool:
    """Whether a function has running statistics that `with_batch_statistics` replaces."""
    if isinstance(apply_fn, _NnxFunction):
        return any(isinstance(v, nnx.BatchStat) for v in jax.tree.leaves(apply_fn.state, is_leaf=_is_variable))
    return isinstance(apply_fn, _LinenFunction) and "batch_stats" in apply_fn.state


def _is_variable(value: Any) -> bool:
    return isinstance(value, nnx.Variable)


def _with_nnx_statistics(apply_fn: _NnxFunction, params: Params, x: Array) -> _NnxFunction:
    module: Any = nnx.merge(apply_fn.module.value, nnx.State(params), jax.tree.map(lambda leaf: leaf, apply_fn.state))
    module.eval()
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.BatchNorm):
            layer.use_running_average, layer.momentum = False, 0.0  # momentum 0 drops the old statistics
    module(x)
    *_, state = nnx.split(module, nnx.Param, ...)
    return dataclasses.replace(apply_fn, state=state)


def _with_linen_statistics(apply_fn: _LinenFunction, params: Params, x: Array) -> _LinenFunction:
    from flax import linen

    def renew(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Before each call of a BatchNorm, write the statistics of its inputs into it. The call then uses them."""
        norm = context.module
        if isinstance(norm, linen.BatchNorm) and context.method_name == "__call__":
            features = {a % args[0].ndim for a in np.atleast_1d(norm.axis)}
            others = tuple(a for a in range(args[0].ndim) if a not in features)
            for name, statistic in (("mean", jnp.mean), ("var", jnp.var)):
                old = norm.get_variable("batch_stats", name)
                norm.put_variable("batch_stats", name, statistic(args[0], others).astype(old.dtype))
        return call(*args, **kwargs)

    with linen.intercept_methods(renew):
        variables = {"params": params, **apply_fn.state}
        _, new = apply_fn.module.value.apply(variables, x, mutable=["batch_stats"])
    return dataclasses.replace(apply_fn, state={**apply_fn.state, **new})
