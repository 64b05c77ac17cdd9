"""Checks of arrays: their type, their numbers and their shape. Also checks of times and of numbers of steps."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ntklib._checks.values import is_traced, shown


def array(argument: str, value: Any, axes: str, *, way_out: str = "") -> jax.Array:
    """Check an array of floating-point numbers, and return it as a JAX array.

    It must have one axis for each name in `axes`, two for "N d". If `axes` ends in "...", further axes are allowed. It
    must not be empty, and must not hold NaN or ∞. `way_out` is added to messages about the rank and the type.
    """
    return on_device(argument, checked(argument, value, axes, way_out=way_out))


def checked(argument: str, value: Any, axes: str, *, way_out: str = "") -> Any:
    """Do the checks of `array`, and return the result of `plain`: a NumPy array stays on the host.

    Numbers of more than 64 bits are converted to float64.
    """
    value = plain(argument, value)
    if value.dtype == np.longdouble:  # JAX has no type with more digits than float64
        with np.errstate(over="ignore"):
            value = value.astype(np.float64)
    shape, names = np.shape(value), axes.split()
    not_empty(argument, value)
    fits = len(shape) >= len(names) - 1 if names[-1:] == ["..."] else len(shape) == len(names)
    way_out = way_out and f" {way_out}"
    if not fits:
        raise ValueError(f"`{argument}` must be [{', '.join(names)}]; got shape {shape}.{way_out}")
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


def too_large(argument: str, dtype: Any) -> str:
    """Return the message about inputs whose mean squares overflow in a floating-point type."""
    way_out = ", or use float64" if jnp.dtype(dtype) == np.float32 else ""
    return (
        f"`{argument}` is too large: its squares leave the range of {jnp.dtype(dtype).name}. Standardize it{way_out}."
    )


def not_empty(argument: str, value: Any) -> None:
    """Refuse an array with an axis of length 0: no inputs, no features, no outputs."""
    if 0 in np.shape(value):
        raise ValueError(f"`{argument}` is empty: shape {np.shape(value)}. It must hold at least one entry.")


def in_range(dtype: Any, **arrays: Any) -> None:
    """Refuse floating-point arrays that hold finite numbers beyond the range of `dtype`.

    The arrays, or results computed from them, will be converted to `dtype`. None and traced arrays are not checked.
    """
    most = float(jnp.finfo(dtype).max)
    for argument, value in arrays.items():
        if value is None or is_traced(value) or not jnp.issubdtype(value.dtype, jnp.floating):
            continue
        if float(jnp.finfo(value.dtype).max) <= most:
            continue
        known = np.asarray(value)
        if (largest := float(np.max(np.abs(known), where=np.isfinite(known), initial=0.0))) > most:
            raise ValueError(
                f"`{argument}` must be in the range of {jnp.dtype(dtype).name}, below {most:.3g}; it goes up to "
                f"{largest:.3g}. Scale it, or turn on float64: `jax.config.update('jax_enable_x64', True)`."
            )


def on_device(argument: str, value: Any) -> jax.Array:
    """Return a NumPy or JAX array as a JAX array.

    By default JAX converts types of 64 bits to types of 32 bits. Refuse numbers that the new type cannot hold.
    """
    if isinstance(value, jax.Array):
        return value
    value = value.astype(np.float64) if value.dtype == np.longdouble else value
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        in_range(dtype, **{argument: value})
    elif jnp.issubdtype(dtype, jnp.complexfloating):
        in_range(dtype, **{argument: np.maximum(np.abs(value.real), np.abs(value.imag))})
    elif dtype != value.dtype and value.dtype.kind in "iu" and not np.array_equal(value.astype(dtype), value):
        raise ValueError(
            f"`{argument}` must be in the range of {dtype.name}; it goes from {value.min()} to {value.max()}. Convert "
            f"it, e.g. `{argument}.astype(float)`, or turn on 64 bits: `jax.config.update('jax_enable_x64', True)`."
        )
    return jnp.asarray(value)


def plain(argument: str, value: Any) -> Any:
    """Return a NumPy or JAX array as it came, and a number or a list as a NumPy array (with tracers, a JAX array).

    Refuse values that are not arrays of numbers or bools: a Kernel, None, text, dicts, sets, functions, rows of
    different lengths, masked, sparse and object arrays, and random keys.
    """
    if hasattr(value, "nngp"):
        raise TypeError(f"`{argument}` must be an array; got a Kernel. Pass its `.ntk` or its `.nngp`.")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"`{argument}` must be an array without a mask: masked entries would count as numbers. Drop their rows, or "
            f"fill them in, e.g. `{argument}.filled(0.0)`."
        )
    if type(value).__module__.startswith(("scipy.sparse", "jax.experimental.sparse")):
        raise TypeError(
            f"`{argument}` must be a dense array; got {type(value).__name__}. Convert it: `{argument}.todense()`."
        )
    if value is None or isinstance(value, (str, bytes, dict, set)) or callable(value):
        raise TypeError(f"`{argument}` must be an array; got {shown(value)}.")
    if not isinstance(value, (np.ndarray, np.generic, jax.Array)):
        try:
            value = jnp.asarray(value) if is_traced(*jax.tree.leaves(value)) else np.asarray(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`{argument}` must be an array with rows of equal length; got a {type(value).__name__} that cannot be "
                f"converted to an array: {error}"
            ) from error
    if getattr(value.dtype, "kind", None) in ("U", "S"):  # the type of JAX's random keys has no `kind`
        raise TypeError(
            f"`{argument}` must hold numbers, integers for classes; got words ({value.dtype}). Number them, e.g. by "
            f"`np.unique({argument}, return_inverse=True)[1]`."
        )
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
        raise TypeError(
            f"`{argument}` must hold numbers; got an array of {value.dtype}. Convert it, e.g. "
            f"`np.asarray({argument}, dtype=float)`."
        )
    return value


def on_host(argument: str, value: Any) -> np.ndarray:
    """Return an array that is not traced as a NumPy array in float64.

    The parts of a sharded array are gathered. Refuse an array if other processes hold parts of it.
    """
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        raise ValueError(
            f"`{argument}` lies on devices of other processes, {value.sharding}. Gather it first: "
            f"`jax.experimental.multihost_utils.process_allgather({argument}, tiled=True)`."
        )
    return np.asarray(value).astype(np.float64)


def times(argument: str, value: ArrayLike) -> Any:
    """Check one time or several times [T]. They may be infinite, must not be negative, and must not decrease.

    Returns: floating-point numbers, in a NumPy array, or in a JAX array if they are traced.
    """
    t = _one_or_several(argument, value, "time")
    if is_traced(t):
        return t
    if (t < 0).any():
        raise ValueError(f"`{argument}` must not be negative; got {t.min():g}. Training starts at t = 0.")
    if t.ndim and (t[1:] < t[:-1]).any():
        raise ValueError(f"`{argument}` must not decrease; sort the times first.")
    return t


def steps(argument: str, value: Any) -> Any:
    """Check one number of steps or several [T]. They must be whole or infinite, not negative, and must not decrease.

    Returns: floating-point numbers, in a NumPy array, or in a JAX array if they are traced.
    """
    s = _one_or_several(argument, value, "number of steps")
    if is_traced(s):
        return s
    if (s < 0).any() or (s[np.isfinite(s)] % 1 != 0).any():
        raise ValueError(f"`{argument}` must count steps: whole numbers from 0; got {value}.")
    if s.ndim and (s[1:] < s[:-1]).any():
        raise ValueError(f"`{argument}` must not decrease; sort the numbers of steps first.")
    return s


def _one_or_several(argument: str, value: Any, what: str) -> Any:
    """Return one number or several [T] as an array of floating-point numbers, in float64 if they are not traced.

    Refuse bools, complex numbers and NaN. `what` says in messages what the numbers are.
    """
    try:  # NumPy makes objects of whole numbers from 2⁶⁴ on; JAX refuses those from 2³¹ on, with 64 bits from 2⁶³ on
        if type(value) is int:
            value = float(value)
        elif isinstance(value, (list, tuple)) and not _holds_bools(value):
            value = [float(v) if type(v) is int else v for v in value]
    except OverflowError as error:
        raise ValueError(f"`{argument}` must be below 1.8e308, or infinite: `jax.numpy.inf`.") from error
    if value is None or isinstance(value, (str, bytes)) or (isinstance(value, (list, tuple)) and _holds_bools(value)):
        raise TypeError(f"`{argument}` must be a {what} or several; got {value!r}.")
    value = plain(argument, value)
    if value.dtype == bool or jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"`{argument}` must be a {what} or several; got {value.dtype} {value!r}.")
    if value.ndim > 1 or value.size == 0:
        raise ValueError(f"`{argument}` must be one {what} or several, [T]; got shape {value.shape}.")
    if is_traced(value):
        return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))
    value = np.asarray(value).astype(np.float64)
    if np.isnan(value).any():
        raise ValueError(f"`{argument}` must be a {what}; got NaN.")
    return value


def _holds_bools(values: Iterable[Any]) -> bool:
    return any(isinstance(v, (bool, np.bool_)) for v in values)


def same_shape(argument: str, value: Any, other: str, reference: Any) -> None:
    """Refuse two arrays of different shapes."""
    if value.shape != reference.shape:
        raise ValueError(f"`{argument}` must have the shape of `{other}`, {reference.shape}; got {value.shape}.")


def same_outputs(argument: str, value: Any, other: str, reference: Any) -> None:
    """Refuse two arrays with different numbers of outputs, the lengths of their last axes."""
    if value.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"`{argument}` must have as many outputs (last axis) as `{other}`, {reference.shape[-1]}; "
            f"got {value.shape[-1]}."
        )
