"""The changes that neural-tangents 0.6.5 needs to run on JAX 0.11 and 0.12.

neural-tangents was written for JAX up to 0.4.25, and its sources are not changed. There are three obstacles, each with
a section below:

1. It imports names that JAX has since moved or dropped. They are put back while it is imported, and then removed.
2. Some of its functions rely on internals of older JAX. They are replaced in its modules by functions that use public
   names of JAX.
3. Its TensorFlow module imports hundreds of megabytes for one converter. A stand-in says that it is left out.

JAX itself is the same before and after.
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

JAX_FROM, JAX_BELOW = (0, 11), (0, 13)  # the tests pass on 0.11 and 0.12; each release so far moved something
NEURAL_TANGENTS = "0.6.5"  # the last release

INSTALL = f"`pip install --no-deps neural-tangents=={NEURAL_TANGENTS} frozendict`"


@contextlib.contextmanager
def on_current_jax() -> Iterator[None]:
    """Return a context in which `import neural_tangents` works on JAX 0.11 and 0.12. It stays adapted afterwards.

    Raises:
        ImportError: If JAX or neural-tangents is of another version, if neural-tangents is missing, or if it was
            imported before through another adapter.
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

    _forget()  # what an earlier, failed `import neural_tangents` left behind
    try:
        with _former_jax_names():
            sys.modules["neural_tangents.experimental"] = _LeftOut("neural_tangents.experimental")
            yield
        _adapt()
    except BaseException:
        _forget()
        raise


def check_versions() -> None:
    """Refuse the versions that this bridge was not made for."""
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
    """Remove every trace of neural-tangents, so that a half-finished import is not taken for a finished one."""
    for name in [n for n in sys.modules if n.split(".")[0] == "neural_tangents"]:
        del sys.modules[name]


# 1. Names --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _former_jax_names() -> Iterator[None]:
    """Put back the names that neural-tangents imports from JAX, and that JAX has moved or dropped."""
    moved = ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")
    names: list[tuple[Any, str, Any]] = [(jax.core, name, getattr(jax.extend.core, name)) for name in moved]
    # neural-tangents adds a rule for this primitive to a table. Nothing uses the primitive any more.
    names.append((ad, "zeros_like_p", jax.extend.core.Primitive("zeros_like")))

    util: Any = types.ModuleType("jax.util")
    util.safe_map, util.safe_zip = _safe_map, _safe_zip

    with contextlib.ExitStack() as undo:
        for module, name, value in names:
            if name not in vars(module):  # a patch of another package is neither overwritten nor removed
                setattr(module, name, value)
                undo.callback(delattr, module, name)
        if "jax.util" not in sys.modules:
            sys.modules["jax.util"] = util
            undo.callback(sys.modules.pop, "jax.util")
        yield


def _safe_map(f: Callable, *args: Any) -> list:
    """`jax.util.safe_map`: eager, and strict about lengths."""
    return [f(*xs) for xs in zip(*args, strict=True)]


def _safe_zip(*args: Any) -> list[tuple]:
    """`jax.util.safe_zip`: eager, and strict about lengths."""
    return list(zip(*args, strict=True))


# 2. Functions ----------------------------------------------------------------------------------------------------


class _View(types.ModuleType):
    """A module as neural-tangents is to see it: some names as given here, all others as they are."""

    def __init__(self, module: types.ModuleType, **names: Any):
        super().__init__(module.__name__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Never:
    """A class that JAX no longer has: nothing is an instance of it."""


def _adapt() -> None:
    """Replace what relied on JAX's former inner workings, in neural-tangents' own modules."""
    empirical, predict = _source("empirical"), _source("predict")

    # Structured derivatives (`implementation=3`) and the choice between implementations (`AUTO`)
    empirical._get_primals_out_and_pullback = _primals_out_and_pullback
    empirical._eqn_vjp_fn = _equation_vjp
    empirical._get_flops = _flops
    empirical.core = _View(jax.core, DShapedArray=_Never)
    empirical.ad = _View(
        ad,
        source_info_util=types.SimpleNamespace(transform_name_stack=jax.named_scope),
        config=types.SimpleNamespace(jax_enable_checks=False),
    )
    # It asks `jax.numpy` for sizes of shapes without values and for types of arrays; both are about to be refused.
    empirical.jnp = _View(jax.numpy, size=lambda x: math.prod(x.shape), dtype=lambda x: x.dtype)

    # `predict` factorizes a kernel once, outside of the traces around it. `eval_context` has come to refuse a kernel
    # that is itself traced (made inside jit, vmap, grad); its successor computes what is known and traces the rest.
    predict.jax = _View(jax, core=_View(jax.core, eval_context=jax.ensure_compile_time_eval))
    # On the CPU `max_learning_rate` calls SciPy with an argument that SciPy 1.14 dropped; elsewhere it calls JAX.
    predict._is_on_cpu = lambda x: False

    vars(sys.modules["neural_tangents"])["_adapted_by_ntklib"] = True


def _source(name: str) -> Any:
    """A module of neural-tangents' sources, of which a type checker need not know that we change it."""
    return importlib.import_module(f"neural_tangents._src.{name}")


def _primals_out_and_pullback(
    fn: Callable, mode: Any, _j_rules: bool, _s_rules: bool, _fwd: bool | None, *primals: Any
) -> tuple[Any, Callable]:
    """`fn(*primals)`, and neural-tangents' backward pass through the linear program of `fn` at `primals`.

    The original took that program from `ad.linearize`; here it is the jaxpr of the function `jax.linearize` gives.
    """
    with jax.disable_jit():  # one flat program: the rules of neural-tangents know no calls
        primals_out, jvp = jax.linearize(fn, *primals)
        linear = jax.make_jaxpr(jvp)(*primals)  # only shapes and types of its arguments matter
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
    """Cotangents of the inputs of one linear equation: None for the known ones.

    The original looked up the primitive's transposition rule, whose form differs from primitive to primitive by now.
    """
    if eqn is None:  # the identity, as neural-tangents writes it
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
    """Floating-point operations of `f`, as the compiler counts them: a dictionary by now, once a list of one."""
    lowered = jax.jit(f).lower(*args, **kwargs)
    analysis: Any = (lowered.compile() if optimize else lowered).cost_analysis()
    return analysis["flops"]


# 3. TensorFlow ---------------------------------------------------------------------------------------------------


class _LeftOut(types.ModuleType):
    """Stands for `neural_tangents.experimental`, the kernels of TensorFlow models."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"`{self.__name__}.{name}` is not available: it needs TensorFlow and tf2jax, which "
            "`ntklib.interop.neural_tangents` never loads. For a model of your own, pass a JAX function."
        )
