"""What a check may expect of an answer. The first expectation that is not met ends the check.

Every message says what was expected and what the slip probably was; none shows the expected numbers.
"""

import inspect
import linecache
import math
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


class NotAttempted(Exception):
    """There is no answer yet."""


class CheckFailed(AssertionError):
    """A wrong answer. In a notebook only its message is shown."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def fail(message: str) -> NoReturn:
    """End the check with `message`."""
    raise CheckFailed(message)


def that(condition: Any, message: str) -> None:
    """End the check with `message` unless `condition` holds: for the property at the end of a check."""
    if not condition:
        fail(message)


def call(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call the learner's function, NumPy arrays passed on as JAX arrays; its exceptions end the check."""
    if not callable(function):
        fail(f"expected a function, got {_kind(function)}. Hand over the function itself, without calling it.")
    args, kwargs = tuple(map(_to_jax, args)), {name: _to_jax(value) for name, value in kwargs.items()}
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        given = ", ".join([_kind(a) for a in args] + [f"{name}={_kind(value)}" for name, value in kwargs.items()])
        fail(f"it is called with ({given}), but its arguments are {inspect.signature(function)}: {error}")
    except ValueError:  # built-in functions have no signature
        pass
    try:
        return function(*args, **kwargs)
    except CheckFailed:
        raise
    except Exception as error:
        stop(error)


def stop(error: Exception) -> NoReturn:
    """End the check for an exception out of the learner's code; the stub's is no mistake."""
    if isinstance(error, NotImplementedError) and not _installed(_frames(error)[-1][0]):
        raise NotAttempted from None
    fail(describe(error))


def array(value: Any, what: str = "the result", *, shape: tuple[int, ...], axes: str = "") -> np.ndarray:
    """Return `value` as a NumPy array after looking at its type, shape, dtype and finiteness.

    `axes` names the axes for the messages, as in shape annotations: "N M".
    """
    expected = f"[{', '.join(axes.split())}] = {shape}" if axes else f"{shape}"
    if value is None:
        fail(f"{what} is None: is a `return` missing?")
    if isinstance(value, (tuple, list)):
        fail(f"{what} should be one array of shape {expected}; got a {type(value).__name__} of {len(value)}.")
    if not (hasattr(value, "__array__") or isinstance(value, (int, float, complex))):
        fail(f"{what} should be an array of shape {expected}; got {_kind(value)}.")
    value = np.asarray(value)
    if value.shape != shape:
        fail(f"{what} should have shape {expected}; got {value.shape}.{_shape_slip(value.shape, shape)}")
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        fail(f"{what} should hold floating-point numbers; its dtype is {value.dtype}.")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        bad = tuple(map(int, np.argwhere(~np.isfinite(value))[0]))
        count = int((~np.isfinite(value)).sum())
        fail(f"{what} is not finite: {count} of {value.size} entries are nan or inf, the first at {list(bad)}.")
    return value


def parts(value: Any, names: tuple[str, ...]) -> tuple:
    """Return the parts of a tuple, after looking at how many there are."""
    if not isinstance(value, (tuple, list)) or len(value) != len(names):
        got = f"a {type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list)) else _kind(value)
        fail(f"the result should be a tuple of {len(names)}: {', '.join(names)}; got {got}.")
    return tuple(value)


def close(
    got: Any,
    want: Any,
    what: str = "the result",
    *,
    rtol: float = 1e-4,
    atol: float | None = None,
    slips: Mapping[str, Any] | None = None,
    factors: Mapping[str, float] | None = None,
) -> None:
    """Compare `got` with `want` up to `rtol` of the largest entry (or `atol`, where given).

    `slips` maps a message to the value that a well-known slip gives. Looked for in any case: rows and columns
    swapped, sign, a constant factor, a square or root, an added constant, a wrong diagonal. `factors` names further
    constant factors, such as {"N": 5}; each is tried as a product and as a quotient.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        raise ValueError(f"the check compares shapes {got.shape} and {want.shape}: call expect.array first")
    tolerance = rtol * float(np.abs(want).max(initial=0.0)) if atol is None else atol

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return a.shape == b.shape and bool(np.all(np.abs(a - b) <= tolerance))

    if same(got, want):
        return
    for message, wrong in (slips or {}).items():
        if same(got, np.asarray(wrong, np.float64)):
            fail(f"{what} is not right: {message}")
    wrong = np.abs(got - want) > tolerance
    slip = _slip(got, want, wrong, same, factors or {})
    scale = float(np.abs(want).max(initial=0.0))
    size = f", by up to about {np.abs(got - want).max() / scale:.0e} of the largest entry" if scale else ""
    where = f"{int(wrong.sum())} of {wrong.size} entries are off{size}"
    fail(f"{what} is not right: {slip or where + '.'}")


def number(
    value: Any, want: float, what: str = "the answer", *, rtol: float = 0.05, slips: Mapping[str, float] | None = None
) -> None:
    """Compare one number with `want` up to `rtol` (of 1, where `want` is 0)."""
    try:
        if isinstance(value, (bool, str)) or np.shape(value) != ():
            raise TypeError
        value = float(value)
    except (TypeError, ValueError):
        fail(f"{what} should be one number; got {_kind(value)}.")
    if not math.isfinite(value):
        fail(f"{what} is {value}.")
    for message, wrong in (slips or {}).items():
        if abs(value - wrong) <= rtol * abs(wrong) and abs(value - want) > rtol * abs(want):
            fail(f"{what} is not right: {message}")
    if abs(value - want) > rtol * (abs(want) or 1.0):
        slip = "look at its sign." if value * want < 0 else "it is off by more than the margin."
        fail(f"{what} is not right: {slip}")


def text(value: Any, words: int = 12) -> None:
    """Expect an answer in words: a string of at least so many words that is not the placeholder."""
    if not isinstance(value, str):
        fail(f"the answer should be text between the quotation marks; got {_kind(value)}.")
    from course.source import PLACEHOLDER

    # nbgrader's own stub, where an instructor lets it cut the solutions, stands in the text as well.
    stubs = ("### BEGIN SOLUTION", "### END SOLUTION", "# YOUR CODE HERE", "raise NotImplementedError()", PLACEHOLDER)
    for stub in stubs:
        value = value.replace(stub, "")
    count = len(value.split())
    if count == 0:
        raise NotAttempted
    if count < words:
        fail(f"this is too short to say it all: {count} words; a full answer needs at least {words}.")


def describe(error: BaseException) -> str:
    """Return an exception's message together with the learner's own line that it came from."""
    own = [(name, line) for name, line in _frames(error) if not _installed(name)]
    said = str(error).strip() or "no message"
    said = said if len(said) <= 300 else f"{said[:300]} ..."  # JAX may quote whole arrays
    message = f"your code stopped with {type(error).__name__}: {said}"
    if not own:
        return message
    return f"{message}\n    in line {own[-1][1]}: {linecache.getline(*own[-1]).strip()}"


def in_learners_code(error: BaseException) -> bool:
    """Tell whether an exception came through code that is neither installed nor the course's."""
    return any(not _installed(name) for name, _ in _frames(error))


def _frames(error: BaseException) -> list[tuple[str, int]]:
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return frames


def _installed(filename: str) -> bool:
    roots = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    here = Path(__file__).parent
    return filename.startswith((*roots, str(here), str(here.parent / "ntklib"), "<frozen", "<string>"))


def _to_jax(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    import jax.numpy as jnp  # kept out of the module: `python -m course hint` should be quick

    return jnp.asarray(value)


def _kind(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, (int, float)):
        return f"the number {value!r}"
    return f"an object of type {type(value).__name__}"


def _shape_slip(got: tuple[int, ...], want: tuple[int, ...]) -> str:
    if got == want[::-1]:
        return " Rows and columns are swapped."
    if len(want) == 2 and len(got) == 2 and got in ((want[0],) * 2, (want[1],) * 2):
        return " Is one of the two inputs used twice?"
    if [s for s in got if s != 1] == [s for s in want if s != 1]:
        return " An axis of length 1 is too much or missing."
    if len(got) < len(want):
        return " Was an axis summed or averaged over?" if got else " Was everything summed up?"
    if len(got) > len(want) and all(s in got for s in want):
        return " An axis is left to sum or average over."
    return ""


_FACTORS = {"2": 2.0, "4": 4.0, "π": math.pi, "2π": 2 * math.pi, "√2": 2**0.5, "√π": math.pi**0.5}


def _slip(got: np.ndarray, want: np.ndarray, wrong: np.ndarray, same: Callable, factors: Mapping[str, float]) -> str:
    """Return the sentence for a slip that turns `want` into `got`, or an empty one."""
    if got.ndim == 2 and got.shape[0] == got.shape[1]:
        if same(got, want.T):
            return "rows and columns are swapped."
        diagonal = np.eye(len(got), dtype=bool)
        if np.array_equal(wrong, diagonal):
            return "it is wrong on the diagonal only, where the two inputs are equal."
        if np.array_equal(wrong, ~diagonal):
            return "it is right on the diagonal only."
    if not got.any():
        return "every entry is zero."
    if same(got, -want):
        return "the sign is wrong."
    if same(got, want**2):
        return "it is the square of what was expected."
    if (want >= 0).all() and same(got, np.sqrt(np.abs(want))):
        return "it is the square root of what was expected."
    named = {**factors, **_FACTORS}
    for name, factor in named.items():
        for label, ratio in ((name, factor), (f"1/{name}", 1 / factor)):
            if same(got, ratio * want):
                return f"it is {label} times what was expected."
    ratio = float(np.vdot(want, got) / np.vdot(want, want)) if want.any() else 0.0
    if got.size > 1 and ratio and same(got / ratio, want):
        return f"it is off by a constant factor of about {ratio:.2g}."
    shift = float((got - want).mean())
    if got.size > 1 and same(got - shift, want):
        return "it differs by the same constant everywhere: is something added once too often, or not at all?"
    return ""
