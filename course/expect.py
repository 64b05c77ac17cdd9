"""What a check may expect of an answer. The first expectation that is not met ends the check.

Every message says what was expected and what the slip probably was; none shows the expected numbers.
"""

import contextlib
import functools
import importlib
import inspect
import itertools
import linecache
import math
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def kept(function: Callable) -> Callable:
    """Decorate a helper of a check that always gives the same for the same numbers: it is computed once.

    Functions among the arguments count by their place in the source, so that a network made anew is the same network.
    """
    memory: dict[Any, Any] = {}

    def key(value: Any) -> Any:
        if isinstance(value, dict):
            return tuple((name, key(item)) for name, item in sorted(value.items()))
        if isinstance(value, (list, tuple)):
            return tuple(map(key, value))
        if hasattr(value, "__array__"):
            found = np.asarray(value)
            return found.shape, str(found.dtype), found.tobytes()
        return getattr(value, "__code__", value)

    @functools.wraps(function)
    def remembered(*args: Any, **kwargs: Any) -> Any:
        import jax

        known = key((args, kwargs)), jax.config.jax_enable_x64
        if known not in memory:
            memory[known] = function(*args, **kwargs)
        return memory[known]

    return remembered


def one_of(rng: np.random.Generator, *choices: Any) -> Any:
    """Draw one of two or more sets of sizes, so that an answer in which a size is written as a number fails.

    As the first draw of a check two choices differ between the public seeds.
    """
    return choices[int(rng.integers(len(choices)))]


# ---- Calling the answer


def call(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call the learner's function, NumPy arrays passed on as JAX arrays; its exceptions end the check.

    The arguments must be what they were when it returns: a function that writes into a dictionary it was given works
    once. What it returns must be numbers, not what JAX puts in their place while it traces.
    """
    if not callable(function):
        fail(f"expected a function, got {_kind(function)}. Hand over the function itself, without calling it.")
    args, kwargs = _bound(function, tuple(map(_to_jax, args)), {name: _to_jax(v) for name, v in kwargs.items()})
    given = [*args, *kwargs.values()]
    before = [_copy(value) for value in given]
    try:
        result = function(*args, **kwargs)
    except CheckFailed:
        raise
    except (Exception, SystemExit) as error:
        stop(error)
    for kept, value in zip(before, given, strict=True):
        if not _unchanged(kept, value):
            fail("it changes what it was given: it writes into one of its arguments. Make a new one and return that.")
    _refuse_tracers(result)
    return result


def _bound(function: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments as the function takes them: by place or by name, whatever the learner calls them."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions have none
        return args, kwargs
    try:
        signature.bind(*args, **kwargs)
        return args, kwargs
    except TypeError as error:
        mistake = error
    values = [*args, *kwargs.values()]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = [p for p in signature.parameters.values() if p.kind not in variable]
    required = [p for p in own if p.default is p.empty]
    if not len(required) <= len(values) <= len(own):
        shown = ", ".join([_kind(a) for a in args] + [f"{name}={_kind(value)}" for name, value in kwargs.items()])
        fail(f"it is called with ({shown}), but its arguments are {signature}: {mistake}")
    named = [(p, value) for p, value in zip(own, values, strict=False)]
    by_place = tuple(value for p, value in named if p.kind is not p.KEYWORD_ONLY)
    return by_place, {p.name: value for p, value in named if p.kind is p.KEYWORD_ONLY}


def _copy(value: Any) -> Any:
    """The containers anew, the leaves themselves."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unchanged(kept: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return (
            isinstance(kept, dict) and list(kept) == list(value) and all(_unchanged(kept[k], value[k]) for k in value)
        )
    if isinstance(value, (list, tuple)):
        return isinstance(kept, list) and len(kept) == len(value) and all(map(_unchanged, kept, value))
    return kept is value


def _refuse_tracers(result: Any) -> None:
    jax = sys.modules.get("jax")  # kept out of the module: `python -m course hint` should be quick
    if jax is None:
        return
    leaves = jax.tree.leaves(result, is_leaf=lambda value: isinstance(value, Iterator))  # JAX warns of generators
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        fail(
            "what it returns has no value: JAX put a tracer in its place, inside of `jit`, `grad` or `vmap`, and it "
            "was carried outside (through a global variable, say). Return what the transformed function gives."
        )


def stop(error: BaseException) -> NoReturn:
    """End the check for an exception out of the learner's code; the stub's is no mistake."""
    if isinstance(error, NotImplementedError) and not _installed(_frames(error)[-1][0]):
        raise NotAttempted from None
    fail(describe(error))


# ---- Rules that the text states


@contextlib.contextmanager
def without(
    *names: str, because: str = "the library's own answer; here it is yours that is asked for"
) -> Iterator[None]:
    """Fail if one of ntklib's functions is called inside the block: "gradient_flow", "duals.abs", "Dense.kernel_map".

    They are known by their code, so that another name (`from ntklib import gradient_flow as flow`) makes no difference.
    """
    codes = {_code(name): name for name in names}
    used: list[str] = []
    watch, start = sys.monitoring, sys.monitoring.events.PY_START  # these functions alone: the others stay as fast
    tool = next(slot for slot in range(6) if watch.get_tool(slot) is None)
    watch.use_tool_id(tool, "course")
    watch.register_callback(tool, start, lambda code, _: used.append(codes[code]))
    for code in codes:
        watch.set_local_events(tool, code, start)
    try:
        yield
    except CheckFailed:
        if not used:
            raise
    finally:
        for code in codes:
            watch.set_local_events(tool, code, 0)
        watch.register_callback(tool, start, None)
        watch.free_tool_id(tool)
    if used:
        fail(f"it calls ntklib's `{used[0].rpartition('.')[2]}`: {because}.")


def _code(name: str) -> Any:
    """The code of a function of ntklib, from under its decorators."""
    module, found, rest = "ntklib", None, name.split(".")
    while rest:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"{module}.{rest[0]}")
            module, rest = f"{module}.{rest[0]}", rest[1:]
            continue
        break
    found = sys.modules[module]
    for part in rest:
        found = inspect.getattr_static(found, part)
    return inspect.unwrap(found).__code__  # type: ignore[arg-type]


def no_jacobian(compute: Callable, once: Callable, entries: int, *args: Any) -> None:
    """Fail if `compute(*args)` works many times as hard as `once(*args)`, a forward and a backward pass or two.

    So it does with a Jacobian, whole or row by row. `entries`: those of the Jacobian, for code that cannot be traced.
    """
    effort = work(compute, *args)
    formed = largest(compute, *args) >= entries / 2 if math.isinf(effort) else effort >= 12 * work(once, *args)
    that(
        not formed, "the numbers are right, but a Jacobian is behind them, whole or row by row; it can be done without."
    )


def largest(function: Callable, *args: Any) -> int:
    """How many entries the largest array has that `function(*args)` forms on the way."""
    import jax

    args = tuple(map(_to_jax, args))
    try:
        return _footprint(jax.make_jaxpr(function)(*args).jaxpr)[0]
    except (Exception, SystemExit):  # written with NumPy or SciPy: it cannot be traced, so that it is watched
        return _held(function, *args)


def work(function: Callable, *args: Any) -> float:
    """How many entries `function(*args)` writes in all, loops counted; infinite where it cannot be traced."""
    import jax

    try:
        return _footprint(jax.make_jaxpr(function)(*map(_to_jax, args)).jaxpr)[1]
    except (Exception, SystemExit):
        return math.inf


def _footprint(jaxpr: Any) -> tuple[int, float]:
    """The entries of the largest array, and of all arrays together, that a program writes."""
    from jax.extend.core import jaxprs_in_params

    most, total = 0, 0.0
    for eqn in jaxpr.eqns:
        written = [math.prod(getattr(v.aval, "shape", ())) for v in eqn.outvars]
        inner = [_footprint(getattr(body, "jaxpr", body)) for body in jaxprs_in_params(eqn.params)]
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        most = max([most, *written, *(size for size, _ in inner)])
        total += repeats * sum(done for _, done in inner) if inner else sum(written)
    return most, total


def _held(function: Callable, *args: Any) -> int:
    """The same for code that cannot be traced: NumPy's memory, and the arrays that JAX holds at each call in it."""
    import tracemalloc

    import jax

    function(*args)  # compiles, which takes memory of its own
    old = {id(array): array for array in jax.live_arrays()}
    most = 0

    def watch(frame: Any, event: str, _: Any) -> None:
        nonlocal most
        caller = frame.f_back if event == "call" else frame
        if event in ("call", "return", "c_call") and caller and not _installed(caller.f_code.co_filename):
            most = max([most, *(array.size for array in jax.live_arrays() if id(array) not in old)])

    before, tracing = sys.getprofile(), tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    sys.setprofile(watch)
    try:
        function(*args)
    finally:
        sys.setprofile(before)
        peak = tracemalloc.get_traced_memory()[1] - start
        if not tracing:
            tracemalloc.stop()
    return max(most, peak // 8)


# ---- What came back


def array(value: Any, what: str = "the result", *, shape: tuple[int, ...], axes: str = "") -> np.ndarray:
    """Return `value` as a NumPy array after looking at its type, shape and finiteness.

    Nested lists of numbers and whole numbers are as good as an array of floats. `axes` names the axes for the messages,
    as in shape annotations: "N M".
    """
    expected = f"[{', '.join(axes.split())}] = {shape}" if axes else f"{shape}"
    if value is None:
        fail(f"{what} is None: is a `return` missing?")
    _refuse_tracers(value)
    found = _numbers(value)
    if isinstance(value, (tuple, list)) and (found is None or found.shape != shape):
        fail(f"{what} should be one array of shape {expected}; got a {type(value).__name__} of {len(value)}.")
    if found is None:
        called = " Is it to be called first?" if callable(value) else ""
        fail(f"{what} should be an array of shape {expected}; got {_kind(value)}.{called}")
    if found.shape != shape:
        fail(f"{what} should have shape {expected}; got {found.shape}.{_shape_slip(found.shape, shape)}")
    if found.dtype == bool:
        fail(f"{what} should hold numbers; its dtype is bool, the values of a comparison.")
    if np.iscomplexobj(found):
        fail(f"{what} should hold real numbers; its dtype is {found.dtype}. Is `.real` missing?")
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        bad = tuple(map(int, np.argwhere(~np.isfinite(found))[0]))
        count = int((~np.isfinite(found)).sum())
        fail(f"{what} is not finite: {count} of {found.size} entries are nan or inf, the first at {list(bad)}.")
    return found


def _numbers(value: Any) -> np.ndarray | None:
    """`value` as an array if it is made of numbers and nothing else."""
    listed = isinstance(value, (tuple, list, int, float, complex, np.generic))
    if not (listed or hasattr(value, "__array__")):
        return None
    try:
        found = np.asarray(value)
    except Exception:  # rows of different lengths
        return None
    # "V" is how NumPy sees bfloat16 and its like, which JAX brings along
    return found if found.dtype.kind in "biufc" or (found.dtype.kind == "V" and not found.dtype.names) else None


def parts(value: Any, names: tuple[str, ...], *, order: Sequence[Any] | None = None) -> tuple:
    """Return the parts of a tuple, after looking at how many there are; an array of so many rows will do.

    With `order`, the right values, parts that are right but in another order are named.
    """
    expected = f"the result should be a tuple of {len(names)}: {', '.join(names)}"
    if value is None:
        fail(f"the result is None: is a `return` missing? {expected[0].upper() + expected[1:]}.")
    if hasattr(value, "__array__") and np.ndim(value) > 0:
        _refuse_tracers(value)
        rows = tuple(value) if len(value) == len(names) else None
        if rows is None:
            fail(f"{expected}; got {_kind(value)}.")
        value = rows
    if not isinstance(value, (tuple, list)) or len(value) != len(names):
        got = f"a {type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list, dict)) else _kind(value)
        fail(f"{expected}; got {got}.")
    if any(part is Ellipsis for part in value):
        raise NotAttempted
    if order is not None:
        _refuse_permuted(value, order, names)
    return tuple(value)


def _refuse_permuted(got: Sequence[Any], want: Sequence[Any], names: tuple[str, ...]) -> None:
    def same(part: Any, wanted: Any) -> bool:
        found, right = _numbers(part), np.asarray(wanted, np.float64)
        if found is None or found.shape != right.shape or np.iscomplexobj(found):
            return False
        tolerance = 1e-3 * float(np.abs(right).max(initial=0.0))
        return bool(np.all(np.abs(found.astype(np.float64) - right) <= tolerance))

    alike = [[same(part, wanted) for wanted in want] for part in got]
    if all(alike[i][i] for i in range(len(want))):
        return
    for permutation in itertools.permutations(range(len(want))):
        if all(alike[i][j] for i, j in enumerate(permutation)):
            fail(f"the parts are swapped: the order is {', '.join(names)}.")


def whole(value: Any, what: str = "the answer", *, words: str = "") -> int:
    """Return one whole number of any type: 4, 4.0, np.int64(4)."""
    found = _one(value, what, words or f"{what} should be one whole number")
    if not math.isfinite(found) or found != round(found):
        fail(words or f"{what} should be a whole number.")
    return round(found)


def line(value: Any, right: int, last: int, reasons: Mapping[int, str]) -> None:
    """Expect the number of the wrong line, 1 to `last`; `reasons` says why each other line is right."""
    chosen = whole(value, "wrong_line", words=f"wrong_line should be the number of one of the lines, 1 to {last}.")
    if not 1 <= chosen <= last:
        fail(f"wrong_line should be the number of one of the lines, 1 to {last}.")
    if chosen != right:
        fail(reasons[chosen])


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

    `slips` maps a message to the value that a well-known slip gives, or to a function of nothing that computes it if
    the answer is wrong. Looked for in any case: rows and columns
    swapped, another order, sign, a constant factor, a square, root or reciprocal, an added constant, a wrong diagonal.
    `factors` names further constant factors, such as {"N": 5}; each is tried as a product and as a quotient.
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
        if same(got, np.asarray(wrong() if callable(wrong) else wrong, np.float64)):
            fail(f"{what} is not right: {message}")
    wrong = np.abs(got - want) > tolerance
    slip = _slip(got, want, wrong, same, factors or {})
    scale = float(np.abs(want).max(initial=0.0))
    size = f", by up to about {np.abs(got - want).max() / scale:.0e} of the largest entry" if scale else ""
    where = f"{int(wrong.sum())} of {wrong.size} entries are off{size}"
    if scale and np.abs(got - want).max() < 0.02 * scale:
        where = (
            f"it is nearly right. {where[0].upper() + where[1:]}: is something approximated, or a small number added"
        )
    fail(f"{what} is not right: {slip or where + '.'}")


def number(
    value: Any,
    want: float,
    what: str = "the answer",
    *,
    rtol: float = 0.05,
    slips: Mapping[str, Any] | None = None,
    factors: Mapping[str, float] | None = None,
) -> None:
    """Compare one number with `want` up to `rtol` (of 1, where `want` is 0). `slips` and `factors` as for `close`."""
    value = finite(value, what)
    margin = rtol * (abs(want) or 1.0)
    if abs(value - want) <= margin:
        return
    for message, slip in (slips or {}).items():
        wrong = float(slip() if callable(slip) else slip)
        if abs(value - wrong) <= rtol * (abs(wrong) or 1.0):
            fail(f"{what} is not right: {message}")
    got, right = np.array(value), np.array(float(want))

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(abs(a - b) <= min(rtol, 5e-4) * abs(b))

    # A wide margin would find a slip in any number: √π in 1.786, say.
    slip = _slip(got, right, np.array(True), same, factors or {}) if want and rtol < 0.02 else ""
    sign = "look at its sign." if value * want < 0 else ""
    fail(f"{what} is not right: {slip or sign or 'it is off by more than the margin.'}")


def finite(value: Any, what: str = "the answer") -> float:
    """Return one finite number of any type."""
    found = _one(value, what, f"{what} should be one number")
    if not math.isfinite(found):
        fail(f"{what} is {found}.")
    return found


def _one(value: Any, what: str, words: str) -> float:
    """One number of any type as a float."""
    if value is None:
        fail(f"{what} is None: is a `return` missing?")
    _refuse_tracers(value)
    found = None if isinstance(value, (tuple, list, bool, complex)) else _numbers(value)
    if found is None and hasattr(type(value), "__float__") and not hasattr(value, "__array__"):
        found = np.asarray(float(value))  # a fraction, a decimal
    if isinstance(value, bool) or found is None or found.shape != () or found.dtype.kind in "bc":
        fail(f"{words.rstrip('.')}; got {_kind(value)}.")
    return float(found)


def text(value: Any, numbers: tuple[str, ...] = (), asked: str = "") -> None:
    """Expect an answer in words or formulas: a string that says something and is not the placeholder.

    `numbers`: the ways to write a number that the answer must have; `asked` says which number it is.
    """
    if not isinstance(value, str):
        fail(f"the answer should be text between the quotation marks; got {_kind(value)}.")
    from course.notebooks.source import PLACEHOLDER

    # nbgrader's own stub, where an instructor lets it cut the solutions, stands in the text as well.
    stubs = ("### BEGIN SOLUTION", "### END SOLUTION", "# YOUR CODE HERE", "raise NotImplementedError()", PLACEHOLDER)
    for stub in stubs:
        value = value.replace(stub, "")
    marks = len("".join(value.split()))
    if marks == 0:
        raise NotAttempted
    if marks < (10 if re.search(r"[=≈→∝≤≥<>\\^~]", value) else 25):
        fail("this is too short to be an argument: give a sentence or two, or the formulas.")
    if len(set(re.findall(r"\w+", value.lower()))) < 3:
        fail("this says nothing yet: give a sentence or two, or the formulas.")
    if numbers and not any(
        re.search(rf"(?<![\w.,]){re.escape(n)}(?![\w]|[.,]\d)", value, re.IGNORECASE) for n in numbers
    ):
        fail(f"a number is missing, or it is another one: {asked}")


# ---- What went wrong


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


@functools.cache
def _installed(filename: str) -> bool:
    roots = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    here = Path(__file__).parent
    return filename.startswith((*roots, str(here), str(here.parent / "ntklib"), "<frozen", "<string>"))


def _to_jax(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_jax(item) for key, item in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    import jax.numpy as jnp  # kept out of the module: `python -m course hint` should be quick

    return jnp.asarray(value)


def _kind(value: Any) -> str:
    if value is None:
        return "None: is a `return` missing?"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, (int, float)):
        return f"the number {value!r}"
    if inspect.isroutine(value):
        return "a function"
    return f"an object of type {type(value).__name__}"


def _shape_slip(got: tuple[int, ...], want: tuple[int, ...]) -> str:
    if got == want[::-1]:
        return " Rows and columns are swapped."
    if sorted(got) == sorted(want):
        return " The axes are in another order."
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
_NEAR_ONE = 0.05  # a factor nearer to one is no slip: "about 1 times what was expected" would mislead


def _slip(got: np.ndarray, want: np.ndarray, wrong: np.ndarray, same: Callable, factors: Mapping[str, float]) -> str:
    """Return the sentence for a slip that turns `want` into `got`, or an empty one."""
    if not got.any():
        return "it is zero." if got.ndim == 0 else "every entry is zero."
    return _misplaced(got, want, wrong, same) or _as_function(got, want, same) or _constant(got, want, same, factors)


def _misplaced(got: np.ndarray, want: np.ndarray, wrong: np.ndarray, same: Callable) -> str:
    """Right entries in the wrong place, or a part of the entries wrong."""
    if got.ndim == 2 and got.shape[0] == got.shape[1]:
        if same(got, want.T):
            return "rows and columns are swapped."
        diagonal = np.eye(len(got), dtype=bool)
        if np.array_equal(wrong, diagonal):
            return "it is wrong on the diagonal only."
        if np.array_equal(wrong, ~diagonal):
            return "it is right on the diagonal only."
    if got.size > 1:
        if same(got, np.flip(want)) or any(same(got, np.flip(want, axis)) for axis in range(got.ndim)):
            return "the entries are right, in the opposite order."
        if same(np.sort(got, None), np.sort(want, None)):
            return "the entries are right, in another order."
    return ""


def _as_function(got: np.ndarray, want: np.ndarray, same: Callable) -> str:
    """The right numbers, put through a function."""
    if same(got, -want):
        return "the sign is wrong."
    if same(got, np.abs(want)):
        return "it is the absolute value of what was expected."
    if same(got, want**2):
        return "it is the square of what was expected."
    if (want >= 0).all() and same(got, np.sqrt(np.abs(want))):
        return "it is the square root of what was expected."
    if want.all() and same(1 / got if got.all() else got, want) and same(got, 1 / want):
        return "it is the reciprocal of what was expected."
    return ""


def _constant(got: np.ndarray, want: np.ndarray, same: Callable, factors: Mapping[str, float]) -> str:
    """A constant factor, or an added constant."""
    for name, factor in {**factors, **_FACTORS}.items():
        for label, ratio in ((name, factor), (f"1/{name}", 1 / factor)):
            if abs(ratio - 1) > _NEAR_ONE and same(got, ratio * want):
                return f"it is {label} times what was expected."
    if got.size < 2:
        return ""
    ratio = float(np.vdot(want, got) / np.vdot(want, want)) if want.any() else 0.0
    if ratio and abs(ratio - 1) > _NEAR_ONE and same(got / ratio, want):
        return f"it is off by a constant factor of about {ratio:.2g}."
    shift = float((got - want).mean())
    if same(got - shift, want) and np.abs(got - shift - want).max() < 0.1 * abs(shift):
        return "it differs by the same constant everywhere: is something added once too often, or not at all?"
    return ""
