"""Activations: a scalar function and its dual."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks, duals, gaps
from ntklib.kernel import Kernel, gap_of
from ntklib.layers.base import Layer


class Elementwise(Layer):
    """A scalar function φ applied to every unit; it follows an affine layer.

    Kernel map: Σ' = E[φ(u) φ(v)], Θ' = Θ · E[φ'(u) φ'(v)], (u, v) ~ N(0, Σ) for each pair of inputs; 1/n sums over
    units have become expectations.

    fn: a JAX function of one number that works elementwise on arrays, smooth but for kinks or jumps at zero.
    dual: (q12, q1, q2) -> (E[φφ], E[φ'φ']) where a closed form is known; by default a quadrature (see
        `ntklib.duals.expectation` for its error), with `nodes=(radial, angular)` to make it finer.

    gap_dual: the same from the gap, (gap, q1, q2) -> (E[φφ], E[φ'φ'], new gap), where `gram` is to be exact near a kink
        (see `ntklib.gaps`).

    >>> arctan = Elementwise(jnp.arctan)
    >>> round(float(arctan.dual(0.5, 1.0, 1.0)[0]), 4)
    0.2171
    """

    def __init__(
        self,
        fn: Callable[[Array], Array],
        dual: Callable[[ArrayLike, ArrayLike, ArrayLike], tuple[Array, Array]] | None = None,
        *,
        nodes: tuple[int, int] | None = None,
        name: str | None = None,
        gap_dual: Callable[[Array, Array, Array], tuple[Array, Array, Array]] | None = None,
    ):
        if not callable(fn):
            raise TypeError(f"`fn` must be a function of one number, such as jnp.tanh; got {type(fn).__name__}.")
        try:
            out = jax.eval_shape(fn, jax.ShapeDtypeStruct((2, 3), jnp.float32))
        except Exception as error:
            raise ValueError(
                f"`fn` must be a JAX function that works elementwise on arrays; calling it failed: {error}"
            ) from error
        if getattr(out, "shape", None) != (2, 3):
            raise ValueError(
                f"`fn` must be scalar, applied elementwise: [2, 3] came back as {getattr(out, 'shape', out)}."
            )
        self.fn, self.name = fn, name or getattr(fn, "__name__", "elementwise")
        self.dual = dual or _partial(duals.quadrature, fn, nodes=nodes)
        self.gap_dual = gap_dual

    def __call__(self, x: Array) -> Array:
        return self.fn(x)

    def __reduce__(self) -> tuple:
        """Pickled by the names of its functions: those of JAX that are compiled do not pickle themselves."""
        return _rebuilt, (_portable(self.fn), _portable(self.dual), self.name, _portable(self.gap_dual))

    def kernel_map(self, k: Kernel) -> Kernel:
        k.require_gaussian(f"The activation {self.name!r}")
        # The diagonal is a vector: no need to find it in the matrix, and it is there for x1 against x2 as well.
        if k.gap is not None and self.gap_dual:
            dual = self.gap_dual
            q1, q2 = (dual(gap_of(*own), *own[1:])[0] if k.pools else self.dual(*own)[0] for own in k.own())
            nngp, slopes, gap = dual(k.gap, *k.variances())
            return k.replace(nngp=nngp, ntk=k.ntk * slopes, q1=q1, q2=q2, gap=gap, gaussian=False)
        q1, q2 = (self.dual(*own)[0] for own in k.own())
        nngp, slopes = self.dual(k.nngp, *k.variances())
        k = k.replace(nngp=nngp, ntk=k.ntk * slopes, q1=q1, q2=q2, gaussian=False)
        return k if k.gap is None else k.with_gap()


def Relu() -> Elementwise:
    """max(x, 0)."""
    return Elementwise(jax.nn.relu, duals.relu, name="relu", gap_dual=gaps.leaky_relu)


def LeakyRelu(slope: float = 0.01) -> Elementwise:
    """X for x > 0, slope·x otherwise."""
    _checks.real("slope", slope)
    fn = _partial(jax.nn.leaky_relu, negative_slope=slope)
    dual, gap_dual = (_partial(f, slope=slope) for f in (duals.leaky_relu, gaps.leaky_relu))
    return Elementwise(fn, dual, name="leaky_relu", gap_dual=gap_dual)


def Abs() -> Elementwise:
    """|x|."""
    return Elementwise(jnp.abs, duals.abs, name="abs", gap_dual=_partial(gaps.leaky_relu, slope=-1.0))


def Erf() -> Elementwise:
    """erf(x), not erf(x/√2)."""
    return Elementwise(jax.scipy.special.erf, duals.erf, name="erf", gap_dual=gaps.erf)


def Gelu() -> Elementwise:
    """X Φ(x), exact; not the approximation by tanh."""
    return Elementwise(_partial(jax.nn.gelu, approximate=False), duals.gelu, name="gelu")


def Sin(frequency: float = 1.0) -> Elementwise:
    """sin(frequency · x)."""
    _checks.real("frequency", frequency, above=0.0)
    fn = _partial(_sin, frequency=frequency)
    return Elementwise(fn, _partial(duals.sin, frequency=frequency), name="sin")


def Identity() -> Elementwise:
    """X itself: a deep linear network's activation."""
    return Elementwise(_identity, duals.identity, name="identity")


def Tanh() -> Elementwise:
    """tanh(x); dual by quadrature."""
    return Elementwise(jnp.tanh, name="tanh")


def Silu() -> Elementwise:
    """x/(1 + exp(−x)), also known as Swish; dual by quadrature."""
    return Elementwise(jax.nn.silu, name="silu")


def Elu() -> Elementwise:
    """X for x > 0, exp(x) − 1 otherwise; dual by quadrature."""
    return Elementwise(jax.nn.elu, name="elu")


def Sigmoid() -> Elementwise:
    """1/(1 + exp(−x)); dual by quadrature."""
    return Elementwise(jax.nn.sigmoid, name="sigmoid")


@functools.cache
def _partial(fn: Callable, *args: object, **keywords: object) -> functools.partial:
    """The same object for the same arguments: networks of one architecture are then equal, and compile once."""
    return functools.partial(fn, *args, **keywords)


def _sin(x: Array, frequency: float) -> Array:
    return jnp.sin(frequency * x)


def _identity(x: Array) -> Array:
    return x


@dataclasses.dataclass(frozen=True)
class _Portable:
    """A function by name, or a `functools.partial` of one."""

    module: str
    name: str
    args: tuple = ()
    keywords: tuple = ()


def _portable(fn: Any) -> Any:
    """`fn` in a form that pickles, where it can be found again by its name."""
    if isinstance(fn, functools.partial):
        inner = _portable(fn.func)
        if isinstance(inner, _Portable):
            args = tuple(map(_portable, fn.args))
            return dataclasses.replace(inner, args=args, keywords=tuple(fn.keywords.items()))
        return fn
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    found = getattr(importlib.import_module(module), name, None) if module else None
    return _Portable(module, name) if module and found is fn else fn


def _found(form: Any) -> Any:
    if not isinstance(form, _Portable):
        return form
    fn = getattr(importlib.import_module(form.module), form.name)
    return _partial(fn, *map(_found, form.args), **dict(form.keywords)) if form.args or form.keywords else fn


def _rebuilt(fn: Any, dual: Any, name: str, gap_dual: Any) -> Elementwise:
    return Elementwise(_found(fn), _found(dual), name=name, gap_dual=_found(gap_dual))
