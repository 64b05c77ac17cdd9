"""Checks at the public boundary: each message names the argument, the rule, what came, and the way out.

Values are looked at only where they are known: under `jit`, `vmap` or `grad` an array is a tracer, and only its
shape and type are checked.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def is_traced(*values: object) -> bool:
    """Whether one of the values is known only by shape and type."""
    return any(isinstance(v, jax.core.Tracer) for v in values)


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: the nearest known one, and all of them."""
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
    """Refuse what is not one finite number, is below `minimum`, or not strictly above `above`."""
    if is_traced(value):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number, jax.Array, np.ndarray)):
        raise TypeError(f"`{argument}` must be a number; got {type(value).__name__} {value!r}.")
    if np.ndim(value) != 0:
        raise ValueError(f"`{argument}` must be a single number; got an array of shape {np.shape(value)}.")
    if not math.isfinite(value):
        raise ValueError(f"`{argument}` must be finite; got {value}.")
    if value < minimum:
        raise ValueError(f"`{argument}` must be at least {minimum:g}; got {value}.")
    if value <= above:
        raise ValueError(f"`{argument}` must be greater than {above:g}; got {value}.")


def count(argument: str, value: Any, *, minimum: int = 1) -> None:
    """Refuse what is not a whole number, or below `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{argument}` must be a whole number; got {type(value).__name__} {value!r}.")
    if value < minimum:
        raise ValueError(f"`{argument}` must be at least {minimum}; got {value}.")


def array(argument: str, value: Any, axes: str, *, way_out: str = "") -> jax.Array:
    """`value` as a floating-point array with the named axes, e.g. `"N d"`; refuses another rank, integers, NaN and ∞.

    `axes` may end in `...` for any number of further axes.
    """
    return jnp.asarray(checked(argument, value, axes, way_out=way_out))


def checked(argument: str, value: Any, axes: str, *, way_out: str = "") -> Any:
    """The same checks, but what is an array is returned as it came: a NumPy array stays on the host."""
    if hasattr(value, "nngp"):
        raise TypeError(f"`{argument}` must be an array; got a Kernel. Pass its `.ntk` or its `.nngp`.")
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
    shape, names = np.shape(value), axes.split()
    fits = len(shape) >= len(names) - 1 if names[-1:] == ["..."] else len(shape) == len(names)
    way_out = way_out and f" {way_out}"
    if not fits:
        raise ValueError(f"`{argument}` must be [{', '.join(names)}]; got shape {shape}.{way_out}")
    if 0 in shape:
        raise ValueError(f"`{argument}` is empty: shape {shape}.{way_out}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"`{argument}` must hold floating-point numbers; got {value.dtype}. "
            f"Convert it, e.g. `{argument}.astype(float)`.{way_out}"
        )
    if not is_traced(value):
        bad = value.size - int(np.count_nonzero(np.isfinite(value)))
        if bad:
            raise ValueError(f"`{argument}` must be finite; {bad} of {value.size} entries are NaN or infinite.")
    return value


def inputs(argument: str, value: ArrayLike) -> jax.Array:
    """Network inputs: `[N, d]` vectors or `[N, H, W, C]` images."""
    return jnp.asarray(host_inputs(argument, value))


def host_inputs(argument: str, value: Any) -> Any:
    """The same, but a NumPy array stays on the host."""
    rank = np.ndim(value)
    if rank not in (2, 4):
        hint = f" For one input pass `{argument}[None]`." if rank in (1, 3) else ""
        raise ValueError(
            f"`{argument}` must be [N, d] vectors or [N, H, W, C] images; got shape {np.shape(value)}.{hint}"
        )
    return checked(argument, value, "N d" if rank == 2 else "N H W C")


def targets(argument: str, value: ArrayLike, rows: int) -> jax.Array:
    """Targets or outputs `[N, K]` for `rows` inputs."""
    if np.ndim(value) == 1 and jnp.issubdtype(np.asarray(value).dtype, jnp.integer):
        raise ValueError(
            f"`{argument}` must be [N, K] targets; got a vector of integer labels. "
            f"Turn them into targets: `ntklib.one_hot_centered({argument}, classes)`."
        )
    value = array(argument, value, "N K", way_out=f"For one output pass `{argument}[:, None]`.")
    if value.shape[0] != rows:
        raise ValueError(f"`{argument}` must have one row per input: expected {rows} rows, got {value.shape[0]}.")
    return value


def square_kernel(argument: str, value: ArrayLike) -> jax.Array:
    """A kernel matrix between the same inputs, `[N, N]`: square, symmetric, positive semi-definite up to rounding."""
    k = array(argument, value, "N N")
    if k.shape[0] != k.shape[1]:
        raise ValueError(
            f"`{argument}` must be square, [N, N]: the kernel of the training inputs with themselves; got {k.shape}."
        )
    if is_traced(k):
        return k
    known = np.asarray(k)  # NumPy: inside `jit`, jnp would trace even what is known
    scale = float(np.abs(known).max())
    gap = float(np.abs(known - known.T).max())
    slack = 100.0 * float(jnp.finfo(k.dtype).eps) * scale
    if gap > slack:
        raise ValueError(
            f"`{argument}` must be symmetric; entries (i, j) and (j, i) differ by up to {gap:.3g}. "
            f"Was it computed between two different sets of inputs?"
        )
    lowest = float(known.diagonal().min())
    if lowest < -slack:
        raise ValueError(f"`{argument}` must be positive semi-definite; its diagonal holds {lowest:.3g}.")
    return k


def not_negative_spectrum(argument: str, eigenvalues: jax.Array, trace: jax.Array) -> None:
    """Refuse a kernel with an eigenvalue below zero by more than rounding (relative to its trace)."""
    if is_traced(eigenvalues):
        return
    lowest, slack = float(eigenvalues.min()), 1e3 * float(jnp.finfo(eigenvalues.dtype).eps) * float(trace)
    if lowest < -slack:
        raise ValueError(
            f"`{argument}` must be positive semi-definite; its smallest eigenvalue is {lowest:.3g} "
            f"(trace {float(trace):.3g}). Add a ridge, or compute the kernel in float64."
        )


def instance(argument: str, value: object, kind: type, example: str) -> None:
    """Refuse what is not of a type; `example` says what would be."""
    if not isinstance(value, kind):
        raise TypeError(f"`{argument}` must be a {kind.__name__}, {example}; got {type(value).__name__} {value!r}.")


def features(expected: int, got: int) -> None:
    """Refuse inputs whose last axis does not fit a layer."""
    if expected != got:
        raise ValueError(
            f"This layer takes {expected} features (the last axis), but its input has {got}. "
            f"Images must be flattened first (ntklib.Flatten, or `data.flat()`); neighbouring layers must agree."
        )


def model_inputs(argument: str, value: Any) -> jax.Array:
    """Inputs of a model that is not ours, `[N, ...]`: any rank from 1, any type (embeddings take integers)."""
    value = one_array(argument, value)
    if value.ndim == 1 and jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"`{argument}` must be inputs [N, ...]; got shape {value.shape}. "
            f"For one input pass `{argument}[None]`, for one number per input `{argument}[:, None]`."
        )
    if value.ndim == 0 or value.size == 0:
        raise ValueError(f"`{argument}` must hold at least one input, [N, ...]; got shape {value.shape}.")
    if jnp.issubdtype(value.dtype, jnp.floating):
        return array(argument, value, "N ...")
    return value


def one_array(argument: str, value: Any) -> jax.Array:
    """`value` as an array of numbers; refuses several arrays at once, and arrays of a kind that JAX does not know."""
    several = isinstance(value, Mapping) or (isinstance(value, tuple) and any(hasattr(v, "shape") for v in value))
    if several:
        raise TypeError(
            f"`{argument}` must be one array of inputs, [N, ...]; got a {type(value).__name__} of {len(value)}. What "
            f"is the same for all inputs goes into the function, `(lambda p, x: apply_fn(p, x, mask), params)`; what "
            f"belongs to each input, into further columns of `{argument}`."
        )
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"`{argument}` must be an array without a mask. Leave masked rows out, or fill them in: "
            f"`{argument}.filled(0)`."
        )
    if type(value).__module__.startswith(("scipy.sparse", "jax.experimental.sparse")):
        raise TypeError(
            f"`{argument}` must be a dense array; got a sparse {type(value).__name__}. Convert it: "
            f"`{argument}.todense()`."
        )
    try:
        known = value if hasattr(value, "dtype") else np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{argument}` must have rows of one length, [N, ...]: {error}") from error
    if not (jnp.issubdtype(known.dtype, jnp.number) or known.dtype == bool):
        raise TypeError(
            f"`{argument}` must be an array of numbers, [N, ...]; got {type(value).__name__} of {known.dtype}. "
            f"Convert it, e.g. `np.asarray({argument}, dtype=float)`."
        )
    return jnp.asarray(known.astype(np.float64) if known.dtype == np.longdouble else known)


def times(argument: str, value: ArrayLike) -> jax.Array:
    """One time or several, [T]: not negative, not decreasing, possibly infinite."""
    t = jnp.asarray(value)
    t = t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.result_type(float))
    if t.ndim > 1 or t.size == 0:
        raise ValueError(f"`{argument}` must be one time or several, [T]; got shape {t.shape}.")
    if is_traced(t):
        return t
    known = np.atleast_1d(np.asarray(t))
    if np.isnan(known).any():
        raise ValueError(f"`{argument}` must be a time; got NaN.")
    if (known < 0).any():
        raise ValueError(f"`{argument}` must not be negative; got {known.min():g}. Training starts at t = 0.")
    if (np.diff(known[np.isfinite(known)]) < 0).any() or (np.isinf(known[:-1]).any() and not np.isinf(known[-1])):
        raise ValueError(f"`{argument}` must not decrease; sort the times first.")
    return t


def steps(argument: str, value: Any) -> jax.Array:
    """One number of steps or several, [T]: whole, not negative, not decreasing, possibly infinite."""
    s = jnp.asarray(value)
    if s.ndim > 1 or s.size == 0:
        raise ValueError(f"`{argument}` must be one number of steps or several, [T]; got shape {s.shape}.")
    if is_traced(s):
        return s
    known = np.atleast_1d(np.asarray(value, dtype=float))
    if np.isnan(known).any() or (known < 0).any() or (known[np.isfinite(known)] % 1 != 0).any():
        raise ValueError(f"`{argument}` must count steps: whole numbers from 0; got {value}.")
    if (known[1:] < known[:-1]).any():
        raise ValueError(f"`{argument}` must not decrease; sort the numbers of steps first.")
    return s


def same_shape(argument: str, value: jax.Array, other: str, reference: jax.Array) -> None:
    """Refuse two arrays that must agree in shape and do not."""
    if value.shape != reference.shape:
        raise ValueError(f"`{argument}` must have the shape of `{other}`, {reference.shape}; got {value.shape}.")


def same_outputs(argument: str, value: jax.Array, other: str, reference: jax.Array) -> None:
    """Refuse two arrays whose number of outputs, the last axis, differs."""
    if value.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"`{argument}` must have as many outputs (last axis) as `{other}`, {reference.shape[-1]}; "
            f"got {value.shape[-1]}."
        )


def test_kernel(argument: str, value: ArrayLike, n: int) -> jax.Array:
    """A kernel between M test and N training inputs, `[M, N]`."""
    k = array(argument, value, "M N")
    if k.shape[1] != n:
        swapped = f" It looks transposed: pass `{argument}.T`." if k.shape[0] == n else ""
        raise ValueError(
            f"`{argument}` must be [M, N], a row for each test input and a column for each of the {n} training inputs; "
            f"got {k.shape}.{swapped}"
        )
    return k


def same_inputs(x1: jax.Array | np.ndarray, x2: jax.Array | np.ndarray) -> None:
    """Refuse two sets of inputs that are not of the same kind."""
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"`x1` and `x2` must hold inputs of the same shape; "
            f"got {x1.shape[1:]} and {x2.shape[1:]} after the first axis."
        )
