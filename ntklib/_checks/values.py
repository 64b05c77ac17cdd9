"""Checks of single values: numbers, names, flags, keys, functions; and warnings."""

import difflib
import importlib.util
import math
import os
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: The default of `max_memory`, in bytes: 2 GiB. A laptop with 8 GB has this much to spare, and for `cg_solve` with
#: 60,000 inputs it is enough. Only `gram` has no bound by default, because its bound includes the result.
MAX_MEMORY = 2**31


def is_traced(*values: object) -> bool:
    """Whether any of the values is a tracer, whose shape and type are known and whose numbers are not."""
    return any(isinstance(v, jax.core.Tracer) for v in values)


def warn(message: str) -> None:
    """Give a `UserWarning` that names the line outside of ntklib from which the library was called."""
    warnings.warn(message, UserWarning, skip_file_prefixes=(os.path.dirname(os.path.dirname(__file__)),))


def shown(value: object) -> str:
    """Return the text of a value for a message: its type and, on one line, the beginning of its repr."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 100 else text[:97] + '...'}"


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the most similar known name, if any, and all known names."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"{guess} Known: {', '.join(map(repr, known))}."


def choice(argument: str, value: object, known: Iterable[str]) -> None:
    """Refuse a name that is not among the `known` ones."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:  # an array would be compared entry by entry
        raise ValueError(f"`{argument}` has no option {value!r}.{nearest(value, known)}")


def real(argument: str, value: Any, *, minimum: float = -math.inf, above: float = -math.inf) -> None:
    """Refuse a value that is not one finite real number, is below `minimum`, or is not strictly above `above`."""
    if not isinstance(value, (int, float, np.number, jax.Array, np.ndarray)) or _is_no_number(value):
        raise TypeError(f"`{argument}` must be a number; got {shown(value)}.")
    if np.ndim(value) != 0:
        raise ValueError(f"`{argument}` must be a single number; got an array of shape {np.shape(value)}.")
    if is_traced(value):
        return
    if type(value) is int and abs(value) > 10**308:
        raise ValueError(f"`{argument}` must be below 1e308; got a whole number of {len(str(value))} digits.")
    if not math.isfinite(value):
        raise ValueError(f"`{argument}` must be finite; got {value}.")
    if value < minimum:
        raise ValueError(f"`{argument}` must be at least {minimum:g}; got {value}.")
    if value <= above:
        raise ValueError(f"`{argument}` must be greater than {above:g}; got {value}.")


def parameter(argument: str, value: Any, instead: str, *, negative: bool = False) -> None:
    """Refuse a parameter of an activation whose size is not in [1e-15, 1e15], or is negative without `negative`.

    Its square, and the square of its inverse, are then within the range of float32. `instead` says what to do.
    """
    real(argument, value, above=-math.inf if negative else 0.0)
    if not is_traced(value) and not 1e-15 <= abs(value) <= 1e15:
        raise ValueError(f"`{argument}` must be between 1e-15 and 1e15 in size; got {value}. {instead}")


def _is_no_number(value: Any) -> bool:
    """Whether a value is a bool, a masked array, or an array whose type is neither integer nor floating-point."""
    if isinstance(value, (bool, np.ma.MaskedArray)):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def _not_traced(argument: str, value: Any) -> None:
    if is_traced(value):
        raise TypeError(
            f"`{argument}` must be known when a program is compiled; got a tracer. Take it from outside of the "
            f'function, or make it a static argument, e.g. `jax.jit(f, static_argnames="{argument}")`.'
        )


def outside_jit(name: str, instead: str, *values: Any) -> None:
    """Refuse tracers in the arguments of the function `name`, which needs their numbers. `instead` says what to do."""
    if is_traced(*jax.tree.leaves(values)):
        raise TypeError(f"`{name}` computes on the host, outside of `jit`, `grad` and `vmap`; got tracers. {instead}")


def momentum(argument: str, value: Any) -> None:
    """Refuse a value that is not a momentum, 0 ≤ μ < 1."""
    real(argument, value, minimum=0.0)
    if not is_traced(value) and value >= 1:
        raise ValueError(f"`{argument}` must be below 1; got {value}. At 1 nothing damps the motion.")


def flag(argument: str, value: Any) -> None:
    """Refuse a value that is not True or False. The string "no", for instance, would count as true."""
    _not_traced(argument, value)
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{argument}` must be True or False; got {shown(value)}.")


def key(argument: str, value: Any) -> None:
    """Refuse a value that is not one random key of JAX."""
    new = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    old = isinstance(value, (jax.Array, np.ndarray)) and value.dtype == np.uint32 and value.shape[-1:] == (2,)
    if not (new or old):
        raise TypeError(f"`{argument}` must be a random key of JAX, e.g. `jax.random.key(0)`; got {shown(value)}.")
    shape = value.shape if new else value.shape[:-1]
    if shape != ():
        raise ValueError(f"`{argument}` must be a single key; got keys of shape {shape}. Pass one, `{argument}[0]`.")


def count(argument: str, value: Any, *, minimum: int = 1, maximum: int | None = None) -> None:
    """Refuse a value that is not a whole number, is below `minimum`, or is above `maximum`."""
    _not_traced(argument, value)
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{argument}` must be a whole number; got {shown(value)}.")
    if value < minimum:
        raise ValueError(f"`{argument}` must be at least {minimum}; got {value}.")
    if maximum is not None and value > maximum:
        raise ValueError(f"`{argument}` must be at most {maximum:,}; got {value:,}.")


def installed(module: str, where: str) -> None:
    """Raise ImportError if the optional package `module`, which the function `where` needs, is missing."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"`{where}` needs {module}: `pip install {module}`.")


def scalar_function(argument: str, fn: Any) -> None:
    """Refuse a value that is not a JAX function of one number that works elementwise on arrays."""
    if not callable(fn):
        raise TypeError(f"`{argument}` must be a function of one number, such as jnp.tanh; got {type(fn).__name__}.")
    try:
        out = jax.eval_shape(fn, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    except Exception as error:
        numpy = isinstance(fn, np.ufunc) or isinstance(error, jax.errors.TracerArrayConversionError)
        way_out = f"NumPy's functions do not: write it with jax.numpy, as jnp.{getattr(fn, '__name__', 'tanh')}."
        raise ValueError(
            f"`{argument}` must be a JAX function that works elementwise on arrays; "
            + (way_out if numpy else f"calling it failed: {error}")
        ) from error
    if getattr(out, "shape", None) != (2, 3):
        raise ValueError(
            f"`{argument}` must be a scalar function that works elementwise on arrays: its result for an array of "
            f"shape (2, 3) has the shape {getattr(out, 'shape', out)}."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"`{argument}` must return real floating-point numbers; got {out.dtype}.")
    # No result may depend on the other entries of the array. All entries are compared, because a cumulative sum leaves
    # the first one as it is. They are not in ascending order, because sorting would leave all of them as they are.
    x = np.array([[0.4, -1.3, 1.7], [-0.1, 1.1, -0.7]], np.float32)
    whole, *alone = fn(jnp.asarray(x)), *(fn(jnp.full((1, 1), entry)) for entry in x.flat)
    if is_traced(whole, *alone):
        return
    if not np.allclose(np.ravel(whole), np.ravel(alone), rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ValueError(
            f"`{argument}` must be a scalar function that works elementwise on arrays: its result for one number "
            f"depends on the others in the array, as in a softmax."
        )


def instance(argument: str, value: object, kind: type, example: str) -> None:
    """Refuse a value that is not of the type `kind`. `example` shows such a value in the message."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"`{argument}` must be {article} {kind.__name__}, {example}; got {shown(value)}.")
