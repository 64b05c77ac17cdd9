"""The changes that neural-tangents 0.6.5 needs to run on JAX 0.11 and 0.12.

neural-tangents 0.6.5 runs on JAX up to 0.4.25. Its files are not changed. There are three obstacles, each with a
section below:

1. neural-tangents imports names that JAX has since moved or dropped. They are put back while it is imported, and then
   removed.
2. Some functions of neural-tangents rely on internals of older JAX. After the import they are replaced by functions
   that use public names of JAX.
3. `neural_tangents.experimental`, for TensorFlow models, imports hundreds of megabytes. A stand-in takes its place.

JAX itself is the same before and after the import.
"""

import contextlib
import importlib
import importlib.metadata
import math
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import jax
import jax.core
import jax.extend.core
import jax.numpy
from jax.interpreters import ad

JAX_FROM, JAX_BELOW = (0, 11), (0, 13)  # the tests pass on 0.11 and 0.12; each release moves some names
NEURAL_TANGENTS = "0.6.5"  # the last release

INSTALL = f"`pip install --no-deps neural-tangents=={NEURAL_TANGENTS} frozendict`"


@contextlib.contextmanager
def on_current_jax() -> Iterator[None]:
    """Return a context in which `import neural_tangents` works on JAX 0.11 and 0.12.

    After the context the imported package still works.

    Raises:
        ImportError: If JAX or neural-tangents has another version, or if neural-tangents was imported before, through
            another adapter.
        ModuleNotFoundError: If neural-tangents or frozendict is not installed.
    """
    check_versions()
    loaded = sys.modules.get("neural_tangents")
    if loaded is not None:
        if not hasattr(loaded, "_adapted_by_ntklib"):
            raise ImportError(
                "`neural_tangents` was imported before `ntklib.interop.neural_tangents`, through another adapter, and "
                "cannot be adapted a second time. Import `ntklib.interop.neural_tangents` first, in a fresh process; "
                "`import neural_tangents` then gives the same, adapted package."
            )
        yield
        return

    _forget()  # remove what a failed `import neural_tangents` has left behind
    try:
        with _former_jax_names():
            sys.modules["neural_tangents.experimental"] = _LeftOut("neural_tangents.experimental")
            yield
        _adapt()
    except BaseException:
        _forget()
        raise


def check_versions() -> None:
    """Raise ImportError if JAX or neural-tangents has a version for which this bridge was not made, or is missing."""
    if not JAX_FROM <= jax.__version_info__[:2] < JAX_BELOW:
        lower, upper = (".".join(map(str, v)) for v in (JAX_FROM, JAX_BELOW))
        raise ImportError(
            f"`ntklib.interop.neural_tangents` works with jax>={lower},<{upper}; this is jax {jax.__version__}. "
            f'Install such a version, `pip install "jax>={lower},<{upper}"`; the rest of ntklib does not need it.'
        )
    try:
        found = importlib.metadata.version("neural-tangents")
        importlib.metadata.version("frozendict")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"`ntklib.interop.neural_tangents` needs the package {error.name}, which is not installed. "
            f"Install it with {INSTALL}, which leaves out TensorFlow (not needed here); or, in a clone of ntklib, "
            'with `uv pip install ".[interop]"`.',
            name=error.name,
        ) from None
    if found != NEURAL_TANGENTS:
        raise ImportError(
            f"`ntklib.interop.neural_tangents` works with neural-tangents {NEURAL_TANGENTS}; this is {found}. "
            f"Install it with {INSTALL}."
        )


def _forget() -> None:
    """Remove all modules of neural-tangents, so that a half-finished import is not taken for a finished one."""
    for name in [n for n in sys.modules if n.split(".")[0] == "neural_tangents"]:
        del sys.modules[name]


# 1. Names --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _former_jax_names() -> Iterator[None]:
    """Return a context in which JAX has the moved and dropped names that neural-tangents imports."""
    moved = ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")
    names: list[tuple[Any, str, Any]] = [(jax.core, name, getattr(jax.extend.core, name)) for name in moved]
    # neural-tangents adds a rule for this primitive to a table. Nothing uses the primitive any more.
    names.append((ad, "zeros_like_p", jax.extend.core.Primitive("zeros_like")))

    util: Any = types.ModuleType("jax.util")
    util.safe_map, util.safe_zip = _safe_map, _safe_zip

    with contextlib.ExitStack() as undo:
        for module, name, value in names:
            if name not in vars(module):  # a name that another package has put back is left alone
                setattr(module, name, value)
                undo.callback(delattr, module, name)
        if "jax.util" not in sys.modules:
            sys.modules["jax.util"] = util
            undo.callback(sys.modules.pop, "jax.util")
        yield


def _safe_map(f: Callable, *args: Any) -> list:
    """Return the list of f(x, y, ...), for arguments of equal length, as `jax.util.safe_map` did."""
    return [f(*xs) for xs in zip(*args, strict=True)]


def _safe_zip(*args: Any) -> list[tuple]:
    """Return the list of tuples (x, y, ...), for arguments of equal length, as `jax.util.safe_zip` did."""
    return list(zip(*args, strict=True))


# 2. Functions ----------------------------------------------------------------------------------------------------


class _View(types.ModuleType):
    """A stand-in for a module, with some names replaced. All other names are looked up in the module."""

    def __init__(self, module: types.ModuleType, **names: Any):
        super().__init__(module.__name__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Never:
    """A stand-in for a class that JAX no longer has. Nothing is an instance of it."""


def _adapt() -> None:
    """Replace the parts of the loaded modules of neural-tangents that rely on internals of older JAX."""
    empirical, predict = _source("empirical"), _source("predict")

    # For structured derivatives (`implementation=3`) and the choice between implementations (`AUTO`)
    empirical._get_primals_out_and_pullback = _primals_out_and_pullback
    empirical._eqn_vjp_fn = _equation_vjp
    empirical._get_flops = _flops
    empirical.core = _View(jax.core, DShapedArray=_Never)
    empirical.ad = _View(
        ad,
        source_info_util=types.SimpleNamespace(transform_name_stack=jax.named_scope),
        config=types.SimpleNamespace(jax_enable_checks=False),
    )
    # `empirical` calls `jnp.size` with a `ShapeDtypeStruct`, and `jnp.dtype` with an array. JAX warns that it will
    # refuse both.
    empirical.jnp = _View(jax.numpy, size=lambda x: math.prod(x.shape), dtype=lambda x: x.dtype)

    # `predict` factorizes a kernel in an `eval_context`: immediately, also inside jit, vmap and grad. This context now
    # refuses kernels that are traced. Its successor `ensure_compile_time_eval` accepts them, and traces operations on
    # them.
    predict.jax = _View(jax, core=_View(jax.core, eval_context=jax.ensure_compile_time_eval))
    # `max_learning_rate` calls JAX, but on a CPU it calls SciPy, with an argument that SciPy 1.14 dropped.
    predict._is_on_cpu = lambda x: False

    vars(sys.modules["neural_tangents"])["_adapted_by_ntklib"] = True


def _source(name: str) -> Any:
    """Return a module of neural-tangents. Its type is `Any`, so that a type checker lets us change it."""
    return importlib.import_module(f"neural_tangents._src.{name}")


def _primals_out_and_pullback(
    fn: Callable, mode: Any, _j_rules: bool, _s_rules: bool, _fwd: bool | None, *primals: Any
) -> tuple[Any, Callable]:
    """Return `fn(*primals)`, and a function that maps cotangents of the outputs to cotangents of `primals`.

    The function is neural-tangents' backward pass through the jaxpr of `fn` linearized at `primals`. The original took
    this jaxpr from `ad.linearize`. Here it is made from the function that `jax.linearize` returns.
    """
    with jax.disable_jit():  # a jaxpr without calls of other jaxprs, for which neural-tangents has no rules
        primals_out, jvp = jax.linearize(fn, *primals)
        linear = jax.make_jaxpr(jvp)(*primals)  # only the shapes and types of `primals` matter
    structure = jax.tree.structure(primals)

    def pullback(*cotangents: Any) -> Any:
        out = _source("empirical")._backward_pass(
            linear.jaxpr,
            mode=mode,
            consts=linear.consts,
            primals_in=[ad.UndefinedPrimal(v.aval) for v in linear.jaxpr.invars],
            cotangents_in=tuple(jax.tree.leaves(cotangents)),
            _j_rules=_j_rules,
            _s_rules=_s_rules,
            _fwd=_fwd,
        )
        return jax.tree.unflatten(structure, out)

    return primals_out, pullback


def _equation_vjp(eqn: Any, cotangent: Any, *inputs: Any) -> Sequence[Any]:
    """Return the cotangents of the inputs of one linear equation of a jaxpr, with None for inputs that are known.

    The original looked up the transposition rule of the primitive. Such rules now have different forms.
    """
    if eqn is None:  # for neural-tangents, this is the identity
        return (cotangent,)
    unknown = [i for i, x in enumerate(inputs) if ad.is_undefined_primal(x)]
    out: list[Any] = [None] * len(inputs)
    if isinstance(cotangent, ad.Zero) or not unknown:
        return out

    def equation(*xs: Any) -> Any:
        full = list(inputs)
        for i, x in zip(unknown, xs, strict=True):
            full[i] = x
        return eqn.primitive.bind(*full, **eqn.primitive.get_bind_params(eqn.params))

    shapes = [jax.ShapeDtypeStruct(inputs[i].aval.shape, inputs[i].aval.dtype) for i in unknown]
    for i, ct in zip(unknown, jax.linear_transpose(equation, *shapes)(cotangent), strict=True):
        out[i] = ct
    return out


def _flops(f: Callable, optimize: bool, *args: Any, **kwargs: Any) -> float:
    """Return the number of floating-point operations of `f`, as counted by the compiler.

    For a compiled program `cost_analysis` once returned a list with one dictionary, and now returns the dictionary.
    """
    lowered = jax.jit(f).lower(*args, **kwargs)
    analysis: Any = (lowered.compile() if optimize else lowered).cost_analysis()
    return analysis["flops"]


# 3. TensorFlow ---------------------------------------------------------------------------------------------------


class _LeftOut(types.ModuleType):
    """A stand-in for `neural_tangents.experimental`, which has the kernels of TensorFlow models."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"`{self.__name__}.{name}` is not available: it needs TensorFlow and tf2jax, which "
            "`ntklib.interop.neural_tangents` never loads. For a model of your own, pass a JAX function."
        )
