"""Checks at the public boundary. Each message names the argument, the rule, the value that came, and the way out.

Values are checked only if they are known. Under `jit`, `vmap` or `grad` an array is a tracer, and only its shape and
type are checked.
"""

import difflib
import importlib.util
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

#: The bytes that a function works in unless it is told otherwise: 2 GiB, which a laptop of 8 GB has to spare, and in
#: which conjugate gradients solve for 60,000 inputs. `gram` alone has no bound by default, since its result counts.
MAX_MEMORY = 2**31


def is_traced(*values: object) -> bool:
    """Whether only shape and type are known of one of the values."""
    return any(isinstance(v, jax.core.Tracer) for v in values)


def warn(message: str) -> None:
    """Warn, and point at the line that called the library."""
    warnings.warn(message, UserWarning, skip_file_prefixes=(os.path.dirname(__file__),))


def shown(value: object) -> str:
    """Return the text of a value for a message: its type and, on one line, the beginning of its repr."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 100 else text[:97] + '...'}"


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, and all known names."""
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
    """Refuse a value that is not one finite number, is below `minimum`, or is not strictly above `above`."""
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


def _is_no_number(value: Any) -> bool:
    """Whether a value is a bool, complex, or an array of anything but real numbers."""
    if isinstance(value, (bool, np.ma.MaskedArray)):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def _not_traced(argument: str, value: Any) -> None:
    if is_traced(value):
        raise TypeError(
            f"`{argument}` must be known when a program is compiled; got a tracer. Take it from outside of the "
            f'function, or mark it there, e.g. `jax.jit(f, static_argnames="{argument}")`.'
        )


def outside_jit(name: str, instead: str, *values: Any) -> None:
    """Refuse tracers, for a function that computes on the host. `instead` says what to do."""
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


def array(argument: str, value: Any, axes: str, *, way_out: str = "") -> jax.Array:
    """Return a floating-point array with the named axes, e.g. `"N d"`. Refuse another rank, integers, NaN and ∞.

    `axes` may end in `...` for any number of further axes.
    """
    return on_device(argument, checked(argument, value, axes, way_out=way_out))


def checked(argument: str, value: Any, axes: str, *, way_out: str = "") -> Any:
    """Do the same checks as `array`, but return the array as it came, so that a NumPy array stays on the host."""
    value = plain(argument, value)
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
    """Return the message about inputs whose mean squares are no numbers of a type."""
    way_out = ", or use float64" if jnp.dtype(dtype) == np.float32 else ""
    return (
        f"`{argument}` is too large: its squares leave the range of {jnp.dtype(dtype).name}. Standardize it{way_out}."
    )


def not_empty(argument: str, value: Any) -> None:
    """Refuse an array with an axis of length 0: no inputs, no features, no outputs."""
    if 0 in np.shape(value):
        raise ValueError(f"`{argument}` is empty: shape {np.shape(value)}. It must hold at least one entry.")


def in_range(dtype: Any, **arrays: Any) -> None:
    """Refuse known arrays with numbers beyond the range of a type, to which they or results will be converted."""
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
    """Return an array of JAX. Refuse numbers that its type, which is of 32 bits by default, cannot hold."""
    if isinstance(value, jax.Array):
        return value
    value = value.astype(np.float64) if value.dtype == np.longdouble else value
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        in_range(dtype, **{argument: value})
    elif dtype != value.dtype and value.dtype.kind in "iu" and not np.array_equal(value.astype(dtype), value):
        raise ValueError(
            f"`{argument}` must be in the range of {dtype.name}; it goes from {value.min()} to {value.max()}. Convert "
            f"it, e.g. `{argument}.astype(float)`, or turn on 64 bits: `jax.config.update('jax_enable_x64', True)`."
        )
    return jnp.asarray(value)


def plain(argument: str, value: Any) -> Any:
    """Return a NumPy or JAX array as it came, and anything like one as a NumPy array.

    Refuse values that are not arrays of plain numbers: a Kernel, None, words, dicts, rows of different lengths, masked,
    sparse and object arrays, random keys.
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
                f"`{argument}` must be an array with rows of equal length; a {type(value).__name__} came that makes no "
                f"array: {error}"
            ) from error
    if getattr(value.dtype, "kind", None) in ("U", "S"):  # JAX's random keys have none
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


def inputs(argument: str, value: ArrayLike) -> jax.Array:
    """Check and return network inputs: vectors `[N, d]` or images `[N, H, W, C]`."""
    return on_device(argument, host_inputs(argument, value))


def host_inputs(argument: str, value: Any) -> Any:
    """Do the same as `inputs`, but let a NumPy array stay on the host."""
    value = plain(argument, value)
    not_empty(argument, value)
    rank = np.ndim(value)
    if rank not in (2, 4):
        hint = f" For one input pass `{argument}[None]`." if rank in (1, 3) else ""
        raise ValueError(
            f"`{argument}` must be [N, d] vectors or [N, H, W, C] images; got shape {np.shape(value)}.{hint}"
        )
    value = checked(argument, value, "N d" if rank == 2 else "N H W C")
    # Half precision has three digits only, and more than double precision does not exist in JAX.
    bits = jnp.finfo(value.dtype).bits
    return value.astype(np.float32 if bits < 32 else np.float64) if bits < 32 or bits > 64 else value


def targets(argument: str, value: ArrayLike, rows: int) -> jax.Array:
    """Check and return targets or outputs `[N, K]` for `rows` inputs."""
    return on_device(argument, host_targets(argument, value, rows))


def host_targets(argument: str, value: Any, rows: int) -> Any:
    """Do the same as `targets`, but let a NumPy array stay on the host and keep its precision."""
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
    """Check and return labels [N]: whole numbers from 0, below `classes`."""
    value = plain(argument, value)
    not_empty(argument, value)
    if value.ndim != 1 or not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(
            f"`{argument}` must be labels [N], integers, or probabilities [N, K], floating-point numbers; got "
            f"{value.dtype} of shape {value.shape}."
        )
    if not is_traced(value):
        known = np.asarray(value)  # NumPy, because inside `jit` operations of jnp on known values are traced too
        lowest, highest = int(known.min()), int(known.max())
        if lowest < 0 or highest >= classes:
            raise ValueError(
                f"`{argument}` must hold labels from 0 to {classes - 1}, the model having {classes} outputs; "
                f"got {lowest if lowest < 0 else highest}."
            )
    return jnp.asarray(value)


def probabilities(argument: str, value: Any) -> None:
    """Refuse rows that are not probabilities over classes."""
    if is_traced(value):
        return
    known = np.asarray(value).astype(np.float64)
    off = np.abs(known.sum(1) - 1).max()
    if known.min() < 0 or off > 1e-3 + 4 * float(jnp.finfo(value.dtype).eps):
        raise ValueError(
            f"`{argument}` must hold probabilities: rows that are not negative and sum to 1; the smallest entry is "
            f"{known.min():.3g}, and sums differ from 1 by up to {off:.3g}. "
            f"For labels: `jax.nn.one_hot(labels, classes)`, not centered."
        )


#: How far entries (i, j) and (j, i) of a kernel may differ, in ε of the largest entry. `gram(net, x, x)` in float32
#: computes the two in different tiles; with 5,000 inputs they differed by up to 20.
_SYMMETRY = 100.0


def square_kernel(argument: str, value: Any) -> Any:
    """Check a kernel between the same inputs, [N, N], and return it as it came.

    It must be square, symmetric, and not negative on the diagonal, all up to rounding. A kernel in float64 may have
    been computed in float32, and is then symmetric to the digits of float32 only; `rounding` tells whether it was.
    """
    k = checked(argument, value, "N N")
    if k.shape[0] != k.shape[1]:
        raise ValueError(
            f"`{argument}` must be square, [N, N]: the kernel of the training inputs with themselves; got {k.shape}."
        )
    if is_traced(k):
        return k
    known = on_host(argument, k)
    scale, asymmetry = float(np.abs(known).max()), _asymmetry(known)
    eps = max(float(jnp.finfo(k.dtype).eps), _SINGLE)
    slack = min(_SYMMETRY * eps, 0.1) * scale  # 0.1 because bfloat16 has two digits only
    if asymmetry > slack:
        raise ValueError(
            f"`{argument}` must be symmetric; entries (i, j) and (j, i) differ by up to {asymmetry:.3g}. "
            f"Was it computed between two different sets of inputs?"
        )
    lowest = float(known.diagonal().min())
    if lowest < -slack:
        raise ValueError(f"`{argument}` must be positive semi-definite; its diagonal holds {lowest:.3g}.")
    return k


_SINGLE = float(np.finfo(np.float32).eps)


def rounding(kernel: Any, *, square: bool) -> float:
    """Return the ε of the arithmetic in which a kernel was computed.

    It is that of its dtype, unless the kernel is in float64 and its values show that they come from float32: all of
    them are float32 numbers, or a `square` kernel is symmetric to the digits of float32 only. A kernel that was written
    by hand, of numbers such as 0 and 1.5 that need few bits, is exact, and does not count as one from float32.
    """
    eps = float(jnp.finfo(kernel.dtype).eps)
    if is_traced(kernel) or kernel.dtype != np.float64:
        return eps
    known = np.asarray(kernel)
    with np.errstate(over="ignore", under="ignore"):
        single = known.astype(np.float32)
    from_single = np.array_equal(single, known) and bool((single.view(np.uint32) & 0xFF).any())
    uneven = square and _asymmetry(known) > _SYMMETRY * eps * float(np.abs(known).max())
    return _SINGLE if from_single or uneven else eps


def _asymmetry(known: np.ndarray) -> float:
    return float(np.abs(known - known.T).max())


def on_host(argument: str, value: Any) -> np.ndarray:
    """Return a known array in double precision on the host, gathered from all devices that hold a part of it."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        raise ValueError(
            f"`{argument}` lies on devices of other processes, {value.sharding}. Gather it first: "
            f"`jax.experimental.multihost_utils.process_allgather({argument}, tiled=True)`."
        )
    return np.asarray(value).astype(np.float64)


def installed(module: str, where: str) -> None:
    """Raise ImportError if an optional package is missing."""
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
            f"`{argument}` must be scalar, applied elementwise: [2, 3] came back as {getattr(out, 'shape', out)}."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"`{argument}` must return real floating-point numbers; got {out.dtype}.")
    # The result for an entry must not depend on the other entries, whichever entry it is: a cumulative sum leaves the
    # first one as it is, and sorting leaves all of them if they ascend.
    x = np.array([[0.4, -1.3, 1.7], [-0.1, 1.1, -0.7]], np.float32)
    whole, *alone = fn(jnp.asarray(x)), *(fn(jnp.full((1, 1), entry)) for entry in x.flat)
    if is_traced(whole, *alone):
        return
    if not np.allclose(np.ravel(whole), np.ravel(alone), rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ValueError(
            f"`{argument}` must be scalar, applied elementwise: what it makes of one number depends on the others in "
            f"the array, as in a softmax."
        )


def instance(argument: str, value: object, kind: type, example: str) -> None:
    """Refuse a value that is not of a type. `example` shows a value that is."""
    if not isinstance(value, kind):
        raise TypeError(f"`{argument}` must be a {kind.__name__}, {example}; got {shown(value)}.")


def network_input(x: Any) -> None:
    """Refuse a value with which a network cannot be called."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"A network takes an array, such as `jnp.asarray(x)`; got {type(x).__name__}.")
    if getattr(x.dtype, "kind", None) in ("O", "U", "S"):
        raise TypeError(f"A network takes an array of numbers; got one of {x.dtype}.")
    if np.ndim(x) == 0:
        raise ValueError("A network takes inputs [N, d]; got a single number.")


def features(expected: int, got: int) -> None:
    """Refuse inputs whose last axis does not fit a layer."""
    if expected != got:
        raise ValueError(
            f"This layer takes {expected} features (the last axis), but its input has {got}. "
            f"Images must be flattened first (ntklib.Flatten, or `data.flat()`); neighboring layers must agree."
        )


def model_inputs(argument: str, value: Any) -> jax.Array:
    """Check and return inputs `[N, ...]` of any model: of any rank from 1, and any type (embeddings take integers)."""
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
    """Return a value as an array of numbers. Refuse several arrays at once, and what `plain` refuses."""
    several = isinstance(value, Mapping) or (isinstance(value, tuple) and any(hasattr(v, "shape") for v in value))
    if several:
        raise TypeError(
            f"`{argument}` must be one array of inputs, [N, ...]; got a {type(value).__name__} of {len(value)}. What "
            f"is the same for all inputs goes into the function, `(lambda p, x: apply_fn(p, x, mask), params)`; what "
            f"belongs to each input, into further columns of `{argument}`."
        )
    return on_device(argument, plain(argument, value))


def times(argument: str, value: ArrayLike) -> Any:
    """Check one time or several times [T]: not negative, not decreasing, possibly infinite.

    Returns: a NumPy array if they are known.
    """
    t = _ascending(argument, value, "time")
    if is_traced(t):
        return t
    if (t < 0).any():
        raise ValueError(f"`{argument}` must not be negative; got {t.min():g}. Training starts at t = 0.")
    if t.ndim and (t[1:] < t[:-1]).any():
        raise ValueError(f"`{argument}` must not decrease; sort the times first.")
    return t


def steps(argument: str, value: Any) -> Any:
    """Check one number of steps or several [T]: whole, not negative, not decreasing, possibly infinite.

    Returns: a NumPy array if they are known.
    """
    s = _ascending(argument, value, "number of steps")
    if is_traced(s):
        return s
    if (s < 0).any() or (s[np.isfinite(s)] % 1 != 0).any():
        raise ValueError(f"`{argument}` must count steps: whole numbers from 0; got {value}.")
    if s.ndim and (s[1:] < s[:-1]).any():
        raise ValueError(f"`{argument}` must not decrease; sort the numbers of steps first.")
    return s


def _ascending(argument: str, value: Any, what: str) -> Any:
    """Return one number or several, which must not be bool, complex or NaN; known ones in double precision."""
    try:  # NumPy returns objects for whole numbers beyond 2⁶³, and JAX refuses whole numbers beyond 2³¹
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
    """Refuse two arrays with different numbers of outputs (the last axis)."""
    if value.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"`{argument}` must have as many outputs (last axis) as `{other}`, {reference.shape[-1]}; "
            f"got {value.shape[-1]}."
        )


def cross_kernel(argument: str, value: Any, n: int) -> Any:
    """Check a kernel `[M, N]` between M test and N training inputs, and return it as it came."""
    k = checked(argument, value, "M N")
    if k.shape[1] != n:
        swapped = f" It looks transposed: pass `{argument}.T`." if k.shape[0] == n else ""
        raise ValueError(
            f"`{argument}` must be [M, N], a row for each test input and a column for each of the {n} training inputs; "
            f"got {k.shape}.{swapped}"
        )
    return k


def divides_rows(devices: int, n: int, way_out: str = "") -> None:
    """Refuse a mesh of so many devices that they cannot hold equally many of n rows."""
    if n % devices:
        fits = max(n - n % devices, devices)
        raise ValueError(
            f"`mesh` has {devices} devices, which must divide the {n} rows of the result. Use a mesh of "
            f"{math.gcd(n, devices)}, or {fits} inputs{way_out}."
        )


def same_inputs(x1: jax.Array | np.ndarray, x2: jax.Array | np.ndarray) -> None:
    """Refuse two sets of inputs that are not of the same kind."""
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"`x1` and `x2` must hold inputs of the same shape; "
            f"got {x1.shape[1:]} and {x2.shape[1:]} after the first axis."
        )
