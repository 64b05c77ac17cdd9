"""Checks of inputs, targets and labels, and of whether they fit the network and each other."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ntklib._checks.arrays import array, checked, not_empty, on_device, plain
from ntklib._checks.values import is_traced


def inputs(argument: str, value: ArrayLike) -> jax.Array:
    """Check inputs of a network, vectors [N, d] or images [N, H, W, C], and return them as a JAX array."""
    return on_device(argument, host_inputs(argument, value))


def host_inputs(argument: str, value: Any) -> Any:
    """Do the checks of `inputs`, and return a NumPy array as a NumPy array, so that it stays on the host."""
    value = plain(argument, value)
    not_empty(argument, value)
    rank = np.ndim(value)
    if rank not in (2, 4):
        hint = f" For one input pass `{argument}[None]`." if rank in (1, 3) else ""
        raise ValueError(
            f"`{argument}` must be [N, d] vectors or [N, H, W, C] images; got shape {np.shape(value)}.{hint}"
        )
    value = checked(argument, value, "N d" if rank == 2 else "N H W C")
    # Types of 16 bits have two or three digits only.
    return value.astype(np.float32) if jnp.finfo(value.dtype).bits < 32 else value


def targets(argument: str, value: ArrayLike, rows: int) -> jax.Array:
    """Check targets or outputs [N, K] for N = `rows` inputs, and return them as a JAX array."""
    return on_device(argument, host_targets(argument, value, rows))


def host_targets(argument: str, value: Any, rows: int) -> Any:
    """Do the checks of `targets`, and return a NumPy array as a NumPy array, so that float64 keeps its digits."""
    value = plain(argument, value)
    if value.ndim == 1 and jnp.issubdtype(value.dtype, jnp.integer):
        raise ValueError(
            f"`{argument}` must be [N, K] targets; got a vector of integer labels. "
            f"Turn them into targets: `ntklib.one_hot_centered({argument}, classes)`."
        )
    value = checked(argument, value, "N K", way_out=f"For one output pass `{argument}[:, None]`.")
    if value.shape[0] != rows:
        raise ValueError(f"`{argument}` must have one row per input: expected {rows} rows, got {value.shape[0]}.")
    return value


def labels(argument: str, value: Any, classes: int) -> jax.Array:
    """Check labels [N], whole numbers from 0 to `classes` − 1, and return them as a JAX array."""
    value = plain(argument, value)
    not_empty(argument, value)
    if value.ndim != 1 or not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(
            f"`{argument}` must be labels [N], integers; got {value.dtype} of shape {value.shape}. Only the targets of "
            f"a cross-entropy may also be probabilities [N, K], floating-point numbers."
        )
    if not is_traced(value):
        known = np.asarray(value)  # NumPy, because inside `jit` operations of jnp on known values are traced too
        lowest, highest = int(known.min()), int(known.max())
        if lowest < 0 or highest >= classes:
            raise ValueError(
                f"`{argument}` must hold labels from 0 to {classes - 1}, because the model has {classes} outputs; "
                f"got {lowest if lowest < 0 else highest}."
            )
    return jnp.asarray(value)


def probabilities(argument: str, value: Any) -> None:
    """Refuse rows [N, K] with a negative entry, or with a sum that differs from 1 by more than 1e-3 and rounding."""
    if is_traced(value):
        return
    known = np.asarray(value).astype(np.float64)
    off = np.abs(known.sum(1) - 1).max()
    if known.min() < 0 or off > 1e-3 + 4 * float(jnp.finfo(value.dtype).eps):
        raise ValueError(
            f"`{argument}` must hold probabilities: rows that are not negative and sum to 1; the smallest entry is "
            f"{known.min():.3g}, and sums differ from 1 by up to {off:.3g}. "
            f"For labels pass `jax.nn.one_hot(labels, classes)`; centered rows are not probabilities."
        )


def network_input(x: Any) -> None:
    """Refuse inputs of a network that are not an array of numbers with at least one axis."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"A network takes an array, such as `jnp.asarray(x)`; got {type(x).__name__}.")
    if getattr(x.dtype, "kind", None) in ("O", "U", "S"):
        raise TypeError(f"A network takes an array of numbers; got one of {x.dtype}.")
    if np.ndim(x) == 0:
        raise ValueError("A network takes inputs [N, d]; got a single number.")


def features(expected: int, got: int) -> None:
    """Refuse inputs if the length of their last axis, `got`, is not the number that a layer takes, `expected`."""
    if expected != got:
        raise ValueError(
            f"This layer takes {expected} features (the last axis), but its input has {got}. "
            f"Neighboring layers must agree in this number. Before a Dense layer, flatten images (ntklib.Flatten, or "
            f"`data.flat()`)."
        )


def model_inputs(argument: str, value: Any) -> jax.Array:
    """Check inputs [N, ...] of any model, and return them as a JAX array.

    Floating-point inputs must have two or more axes. Integers, for embeddings, may have one.
    """
    value = one_array(argument, value)
    not_empty(argument, value)
    if value.ndim == 1 and jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"`{argument}` must be inputs [N, ...]; got shape {value.shape}. "
            f"For one input pass `{argument}[None]`, for one number per input `{argument}[:, None]`."
        )
    if value.ndim == 0:
        raise ValueError(f"`{argument}` must be inputs [N, ...]; got a single number.")
    if jnp.issubdtype(value.dtype, jnp.floating):
        return array(argument, value, "N ...")
    return value


def one_array(argument: str, value: Any) -> jax.Array:
    """Return a value as a JAX array of numbers. Refuse a tuple or a dict of arrays, and all that `plain` refuses."""
    several = isinstance(value, Mapping) or (isinstance(value, tuple) and any(hasattr(v, "shape") for v in value))
    if several:
        raise TypeError(
            f"`{argument}` must be one array of inputs, [N, ...]; got a {type(value).__name__} of {len(value)}. Put "
            f"an argument that all inputs share into the function, `(lambda p, x: apply_fn(p, x, mask), params)`. Put "
            f"numbers that belong to each input into further columns of `{argument}`."
        )
    return on_device(argument, plain(argument, value))


def same_inputs(x1: jax.Array | np.ndarray, x2: jax.Array | np.ndarray) -> None:
    """Refuse two sets of inputs whose shapes differ after the first axis."""
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"`x1` and `x2` must hold inputs of the same shape; "
            f"got {x1.shape[1:]} and {x2.shape[1:]} after the first axis."
        )


def divides_rows(devices: int, n: int, way_out: str = "") -> None:
    """Refuse a mesh if its number of devices does not divide n, the number of rows. `way_out` ends the message."""
    if n % devices:
        fits = max(n - n % devices, devices)
        raise ValueError(
            f"`mesh` has {devices} devices, which must divide the {n} rows of the result. Use a mesh of "
            f"{math.gcd(n, devices)}, or {fits} inputs{way_out}."
        )
