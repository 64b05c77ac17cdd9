"""Replace the convolutions of a function by matrix products, which train faster on a CPU.

The patch of an output pixel holds the inputs in its window. A convolution is the matrix product of all patches with the
weights. Training runs in a compiled loop. Inside of a loop, XLA's CPU backend takes 6 to 100 times as long for a
convolution as for this product. Outside of loops its convolutions are fast.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core

# Operations that call a function in which `_evaluate` replaces convolutions, too. In a function with a derivative of
# its own (custom_jvp, custom_vjp) it replaces none.
_INLINED = ("jit", "pjit", "closed_call", "core_call")
_CHECKPOINTS = ("checkpoint", "remat", "remat2")


def by_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the same results, which computes convolutions as matrix products if JAX runs on a CPU.

    On other backends `function` itself is returned. Grouped and transposed convolutions are not replaced, nor are
    convolutions in loops, branches, and functions with a derivative of their own inside of `function`.

    The patches of a layer take about as much memory as its input times the number of pixels of a window; with strides
    they take less. The gradient computes them a second time, so that the patches of only one layer exist at a time.
    """
    if jax.default_backend() != "cpu":
        return function

    def through(*args: Any) -> Any:
        closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        if not convolves(closed.jaxpr):
            return function(*args)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return through


def convolves(jaxpr: Any) -> bool:
    """Whether a jaxpr, or a jaxpr inside of it, contains a convolution."""
    return any(
        eqn.primitive.name == "conv_general_dilated" or any(map(convolves, core.jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )


def _evaluate(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluate a jaxpr with matrix products in place of convolutions."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        results = _results(eqn, [value(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _results(eqn: Any, given: list[Any]) -> list[Any]:
    """Evaluate one operation of a jaxpr."""
    name, p = eqn.primitive.name, eqn.params
    if name == "conv_general_dilated" and _is_ordinary(p):
        # Without `checkpoint` the gradient would keep the patches of all layers.
        return [jax.checkpoint(functools.partial(_product, p=p), prevent_cse=False)(*given)]
    if name in (*_INLINED, *_CHECKPOINTS):
        body = next(p[part] for part in ("jaxpr", "call_jaxpr") if part in p)
        inner, constants = (body.jaxpr, body.consts) if hasattr(body, "jaxpr") else (body, ())
        if convolves(inner):
            run = functools.partial(_evaluate, inner, constants)
            if name in _CHECKPOINTS:
                run = jax.checkpoint(run, prevent_cse=p["prevent_cse"], policy=p["policy"])
            return run(given)
    bound = eqn.primitive.get_bind_params(p)
    functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # before JAX 0.12 it is a pair
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*functions, *given, **parameters)
    return list(out) if eqn.primitive.multiple_results else [out]


def _is_ordinary(p: dict[str, Any]) -> bool:
    """Whether a convolution is neither grouped nor transposed."""
    return p["feature_group_count"] == p["batch_group_count"] == 1 and all(d == 1 for d in p["lhs_dilation"])


def _product(x: Array, w: Array, *, p: dict[str, Any]) -> Array:
    """Return the convolution of x with the weights w, as one matrix product.

    `p` are the parameters of `conv_general_dilated`.
    """
    of = p["dimension_numbers"]
    x = x.transpose(of.lhs_spec[0], *of.lhs_spec[2:], of.lhs_spec[1])  # [examples, pixels..., channels]
    w = w.transpose(*of.rhs_spec[2:], of.rhs_spec[1], of.rhs_spec[0])  # [window..., channels, units]
    edges = [(0, 0, 0), *((low, high, 0) for low, high in p["padding"]), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
    for axis in range(len(p["padding"]), 0, -1):  # the last axis first: it varies fastest in w
        places, stride, apart = w.shape[axis - 1], p["window_strides"][axis - 1], p["rhs_dilation"][axis - 1]
        reach = x.shape[axis] - (places - 1) * apart  # the number of pixels at which a window can start
        starts = [i * apart for i in range(places)]
        parts = [jax.lax.slice_in_dim(x, start, start + reach, stride, axis) for start in starts]
        x = jnp.concatenate(parts, axis=-1)
    z = jax.lax.dot_general(
        x, w.reshape(math.prod(w.shape[:-1]), w.shape[-1]), (((x.ndim - 1,), (0,)), ((), ())),
        precision=p["precision"], preferred_element_type=p["preferred_element_type"],
    )  # fmt: skip
    order = np.empty(z.ndim, int)
    order[[of.out_spec[0], *of.out_spec[2:], of.out_spec[1]]] = np.arange(z.ndim)
    return z.transpose(order)
