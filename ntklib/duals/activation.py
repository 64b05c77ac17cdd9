"""The record of an activation: all that the library knows about a scalar function φ, in one place.

Layers, kernel matrices and signal propagation read the record, and have no formulas for single activations.
"""

import dataclasses
import functools
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ntklib.duals import integrals
from ntklib.duals.correlation import from_covariance, rho, signed, size, turned
from ntklib.duals.integrals import Dual, ScalarFunction

#: A function (δ, q1, q2) -> (E[φ'(u)φ'(v)], δ of φ(u) and φ(v)). `ntklib.duals.correlation` defines δ.
Near = Callable[[Array, Array, Array], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """A scalar function φ with what is known about its Gaussian expectations.

    Let u and v be Gaussian with mean zero, variances q1 and q2, covariance q12 and correlation ρ. The dual of φ is the
    pair E[φφ] = E[φ(u)φ(v)] and E[φ'φ'] = E[φ'(u)φ'(v)]. The correlation after φ is
    ρ' = E[φφ]/√(E[φ(u)²] E[φ(v)²]). The module `ntklib.duals.correlation` defines δ, which stores a correlation.

    Args:
        name: The name of φ in error messages.
        fn: φ, a JAX function that works elementwise.
        closed: The dual in closed form: a differentiable function (q12, q1, q2) -> (E[φφ], E[φ'φ']). If it is None, the
            dual is integrated numerically.
        near_form: A closed form (δ, q1, q2) -> (E[φ'φ'], δ of φ(u) and φ(v)) that stays accurate as ρ tends to ±1. It
            computes the new δ by `Parts.joined`, or by `signed` of `ntklib.duals.correlation`. If it is None, `near`
            uses `parts`, `closed` or quadrature.
        parts: A closed form (1 − abs(ρ), q1, q2) -> `Parts`, for a φ whose near form is known except for 1 − ρ' at
            ρ = 1. This number is then computed by quadrature, or taken from a table.
        acute_form: A faster near form that is valid for δ ≥ 0 only.
        nonnegative: True only if φ(x) ≥ 0 for every x and the new δ is never negative. It may be False for such a φ.
        limits: The largest variances, in float32 and in float64, up to which the record is known to be accurate. If it
            is None, `integrals.reach` measures them.
        maker: The function of the library that makes this record, as "module:function". A pickled record holds `maker`
            and `arguments` in place of the functions.
        arguments: The arguments of that function.
    """

    name: str
    fn: ScalarFunction
    closed: Dual | None = None
    near_form: Near | None = None
    parts: "Callable[[Array, Array, Array], Parts] | None" = None
    acute_form: Near | None = None
    nonnegative: bool = False
    limits: tuple[float, float] | None = integrals.LIMITS
    maker: str | None = None
    arguments: tuple[Any, ...] = ()

    @property
    def dual(self) -> Dual:
        """The dual, a differentiable function (q12, q1, q2) -> (E[φφ], E[φ'φ']) of arrays that broadcast."""
        return self.closed or functools.partial(integrals.quadrature, self.fn)

    def moment(self, q: Array) -> Array:
        """Return E[φ(u)²] for the variance q of u."""
        return self.closed(q, q, q)[0] if self.closed else integrals.moment(self.fn, q)

    def near(self, delta: Array, q1: Array, q2: Array, acute: bool = False) -> tuple[Array, Array]:
        """Return (E[φ'φ'], δ of φ(u) and φ(v)) from the δ of u and v.

        The result stays accurate as ρ tends to ±1, unless `by_covariance` is true. `acute` says that no δ is negative.
        """
        if acute and self.acute_form is not None:
            return self.acute_form(delta, q1, q2)
        if self.near_form is not None:
            return self.near_form(delta, q1, q2)
        if self.parts is not None:
            apart = integrals.collinear(self.fn, q1, q2)
            none = jnp.maximum((q1 == 0).astype(delta.dtype), (q2 == 0).astype(delta.dtype))
            return self.parts(size(delta), q1, q2).joined(delta, apart, none)
        if self.by_covariance:
            values, slopes = self.dual(jnp.sqrt(q1) * jnp.sqrt(q2) * rho(delta), q1, q2)
            return slopes, from_covariance(values, self.moment(q1), self.moment(q2))
        return integrals.near(self.fn, delta, q1, q2)

    def equal(self, delta: Array, q: Array) -> tuple[Array, Array]:
        """Return the result of `near` for q1 = q2 = q. The record must have a `near_form` or `parts`."""
        if self.parts is not None:
            return self.parts(size(delta), q, q).joined(delta, 0.0, (q == 0).astype(delta.dtype))
        assert self.near_form is not None
        return self.near_form(delta, q, q)

    @property
    def tabulated(self) -> bool:
        """Whether `gram` takes the dual from a table if the matrix is large."""
        return self.near_form is None and not self.by_covariance

    @property
    def by_covariance(self) -> bool:
        """Whether `near` uses `closed`: a user has given it, and quadrature is inaccurate below `integrals.LIMITS`."""
        return self.limits is None and self.closed is not None and integrals.reach(self.fn) != integrals.LIMITS

    @property
    def measured(self) -> bool:
        """Whether `integrals.reach` measures the limits."""
        return self.limits is None

    def limit(self, dtype: Any) -> float:
        """Return the largest variance up to which the record is known to be accurate in a floating-point type."""
        if self.by_covariance:  # the dual of a user counts as exact
            return math.inf
        limits = integrals.reach(self.fn) if self.limits is None else self.limits
        return limits[1] if dtype == jnp.float64 else limits[0]

    @functools.cached_property
    def _identity(self) -> tuple:
        """A hashable value. Two records are equal if their values are."""
        if self.maker:
            return self.maker, self.arguments
        functions = (self.fn, self.closed)
        identity = (self.name, *map(_key, functions))
        try:
            hash(identity)
        except TypeError:  # a partial function of an array, which equals only itself
            return (self.name, *map(id, functions))
        return identity

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Activation) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __deepcopy__(self, memo: dict) -> "Activation":
        return self

    def __reduce__(self) -> tuple:
        if self.maker is not None:
            return _made, (self.maker, self.arguments)
        return _rebuilt, (self.name, *map(_portable, (self.fn, self.closed)))


class Parts(NamedTuple):
    """Expectations of the even part φ_0 and of the odd part φ_1 of φ, at an acute angle θ.

    Let cos θ = abs(ρ), let w be v for ρ ≥ 0 and −v for ρ < 0, and let E_p(θ) = E[φ_p(u) φ_p(w)]. k_1 and k_2 are E[φ²]
    for u and v. Each field is a pair, for the even and for the odd part. If a part is zero everywhere, its entries may
    be the number 0.0, which saves time.

    Args:
        drop: (E_p(0) − E_p(θ))/√(k_1 k_2).
        start: E_p(0)/√(k_1 k_2).
        slope: E[φ_p'(u) φ_p'(w)].
    """

    drop: tuple[Any, Any]
    start: tuple[Any, Any]
    slope: tuple[Any, Any]

    def joined(self, delta: Array, apart: ArrayLike, none: Array) -> tuple[Array, Array]:
        """Return (E[φ'φ'], δ of φ(u) and φ(v)).

        If ρ is negative, w = −v. Then E[φφ] = E_0 − E_1, and the slope of the even part changes its sign.

        Args:
            delta: The δ of u and v.
            apart: 1 − ρ' at ρ = 1. It is zero for equal variances.
            none: 1 where k_1 or k_2 is zero, so that ρ' is not defined, and 0 elsewhere. Where it is 1, ρ' is set to 0.
        """
        even, odd = self.drop
        acute = delta >= 0
        minus = jnp.maximum(apart + even + odd, none)
        if isinstance(even, float):  # an odd function: ρ' changes its sign with ρ
            return self.slope[1], turned(jnp.where(minus > 1, 2 - minus, minus), acute == (minus <= 1))
        if isinstance(odd, float):  # an even function
            slope = self.slope[0]
            return jnp.where(acute, slope, -slope), turned(jnp.where(minus > 1, 2 - minus, minus), minus <= 1)
        turned_minus = jnp.maximum(apart + 2 * self.start[1] + even - odd, none)
        turned_plus = jnp.maximum(apart + 2 * self.start[0] + odd - even, none)
        slope = self.slope[1] + jnp.where(acute, self.slope[0], -self.slope[0])
        plus = jnp.where(acute, 2 - minus, turned_plus)
        return slope, signed(jnp.where(acute, minus, turned_minus), plus)


def _made(maker: str, arguments: tuple[Any, ...]) -> Activation:
    module, name = maker.split(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def _rebuilt(name: str, fn: Any, closed: Any) -> Activation:
    return Activation(name, _found(fn), _found(closed), limits=None)


@dataclasses.dataclass(frozen=True)
class _Named:
    """The module and name of a function, and arguments bound to it.

    It can be pickled. A function that a decorator has compiled, such as jnp.tanh, cannot.
    """

    module: str
    name: str
    args: tuple = ()
    keywords: tuple = ()


def _key(fn: Any) -> Any:
    """Return a function itself, and the parts of a partial function, which is otherwise equal to itself alone.

    A name would not do: if a cell of a notebook is changed and run again, a new function has the name of the old one.
    """
    if isinstance(fn, functools.partial):
        return functools.partial, _key(fn.func), *map(_key, fn.args), *fn.keywords.items()
    return fn


def _portable(fn: Any) -> Any:
    """Return a function as `_Named` if its module holds it under its name, and otherwise unchanged."""
    if isinstance(fn, functools.partial):
        inner = _portable(fn.func)
        if isinstance(inner, _Named):
            args = tuple(map(_portable, fn.args))
            return dataclasses.replace(inner, args=args, keywords=tuple(fn.keywords.items()))
        return fn
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    found = getattr(sys.modules.get(module), name, None) if module else None  # not every module can be imported
    return _Named(module, name) if module and found is fn else fn


def _found(form: Any) -> Any:
    """Return the function from which `_portable` made `form`."""
    if not isinstance(form, _Named):
        return form
    fn = getattr(importlib.import_module(form.module), form.name)
    return functools.partial(fn, *map(_found, form.args), **dict(form.keywords)) if form.args or form.keywords else fn
