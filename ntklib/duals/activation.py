"""The record of an activation: all that the library knows about a scalar function φ, in one place.

Layers, kernel matrices, signal propagation and the bridge to neural-tangents read the record. None of them has formulas
of its own, and none asks which function it is.
"""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ntklib.duals import integrals
from ntklib.duals.correlation import from_covariance, rho, signed, size, turned
from ntklib.duals.integrals import Dual, ScalarFunction

#: A function (δ, q1, q2) -> (E[φ'(u)φ'(v)], δ of φ(u) and φ(v)); see `ntklib.duals.correlation`.
Near = Callable[[Array, Array, Array], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """A scalar function φ with what is known about its Gaussian expectations.

    For u, v centered Gaussian with variances q1, q2 and covariance q12, its dual is the pair E[φ(u)φ(v)] and
    E[φ'(u)φ'(v)].

    Args:
        name: The name by which error messages call it.
        fn: φ, a JAX function that works elementwise.
        closed: The dual from covariances, (q12, q1, q2) -> (E[φφ], E[φ'φ']), differentiable, if a closed form is known.
            If it is None, the dual is integrated numerically.
        near_form: The dual from δ, (δ, q1, q2) -> (E[φ'φ'], δ of φ(u) and φ(v)), if a closed form is known in which
            nothing cancels as ρ tends to ±1. It makes the δ by `Parts.joined`, or by `signed` of
            `ntklib.duals.correlation`. If it is None, it is integrated numerically.
        parts: For a φ of which only 1 − ρ' at ρ = 1 has no closed form: the rest of the near form, a function
            (1 − abs(ρ), q1, q2) -> `Parts`. A table then holds 1 − ρ' at ρ = 1 only.
        acute_form: The near form where δ ≥ 0 is known, if it takes less time.
        homogeneous: Whether φ(ax) = a^p φ(x) for every a > 0. Correlations then do not depend on variances.
        nonnegative: Whether φ(x) ≥ 0 for every x. Then no correlation after φ is negative.
        limits: The largest variances in float32 and in float64 for which the accuracy is known. If it is None, they are
            measured.
        maker: "module:function", where the library makes this record, by which it is pickled.
        arguments: The arguments of that function.
    """

    name: str
    fn: ScalarFunction
    closed: Dual | None = None
    near_form: Near | None = None
    parts: "Callable[[Array, Array, Array], Parts] | None" = None
    acute_form: Near | None = None
    homogeneous: bool = False
    nonnegative: bool = False
    limits: tuple[float, float] | None = integrals.LIMITS
    maker: str | None = None
    arguments: tuple[Any, ...] = ()

    @property
    def dual(self) -> Dual:
        """The function (q12, q1, q2) -> (E[φφ], E[φ'φ']), differentiable, for arrays that broadcast."""
        return self.closed or functools.partial(integrals.quadrature, self.fn)

    def moment(self, q: Array) -> Array:
        """Return E[φ(u)²] for the variance q of u."""
        return self.closed(q, q, q)[0] if self.closed else integrals.moment(self.fn, q)

    def near(self, delta: Array, q1: Array, q2: Array, acute: bool = False) -> tuple[Array, Array]:
        """Return (E[φ'φ'], δ of φ(u) and φ(v)) from the δ of u and v, without cancellation.

        See `ntklib.duals.correlation`. `acute` says that no δ is negative.
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
        """Return `near` for units of one variance, in closed form. At ρ = 1, 1 − ρ' is then zero."""
        if self.parts is not None:
            return self.parts(size(delta), q, q).joined(delta, 0.0, (q == 0).astype(delta.dtype))
        assert self.near_form is not None
        return self.near_form(delta, q, q)

    @property
    def tabulated(self) -> bool:
        """Whether kernel matrices use a table for this activation."""
        return self.near_form is None and not self.by_covariance

    @property
    def by_covariance(self) -> bool:
        """Whether only the dual given by a user is used, because φ cannot be integrated for all variances."""
        return self.limits is None and self.closed is not None and integrals.reach(self.fn) != integrals.LIMITS

    @property
    def measured(self) -> bool:
        """Whether the limits are measured."""
        return self.limits is None

    def limit(self, dtype: Any) -> float:
        """Return the largest variance for which the accuracy in a floating-point type is known."""
        if self.by_covariance:
            return math.inf
        limits = integrals.reach(self.fn) if self.limits is None else self.limits
        return limits[1] if dtype == jnp.float64 else limits[0]

    @functools.cached_property
    def _identity(self) -> tuple:
        """A value that is equal for two records of the same activation, also after pickling."""
        if self.maker:
            return self.maker, self.arguments
        functions = (self.fn, self.closed)
        identity = (self.name, *map(_portable, functions))
        try:
            hash(identity)
        except TypeError:  # a partial function of an array
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
    """The dual of φ by its even and its odd part, for the acute angle θ between u and ±v, cos θ = abs(ρ).

    Let E_p(θ) be the expectation of part p of φ(u) times that of φ(±v), and k_1, k_2 the values of E[φ²] for u and v.
    Each field has two entries, for the even and for the odd part. A part that is zero everywhere is the number 0.0.

    Args:
        drop: (E_p(0) − E_p(θ))/√(k_1 k_2).
        start: E_p(0)/√(k_1 k_2).
        slope: The expectation of the product of the part's derivatives.
    """

    drop: tuple[Any, Any]
    start: tuple[Any, Any]
    slope: tuple[Any, Any]

    def joined(self, delta: Array, apart: ArrayLike, none: Array) -> tuple[Array, Array]:
        """Return (E[φ'φ'], δ of φ(u) and φ(v)).

        If ρ is negative, v is replaced by −v, for which the odd part changes its sign.

        Args:
            delta: The δ of u and v.
            apart: 1 − ρ' at θ = 0, where only the variances differ.
            none: 1 where a variance of φ is zero, so that no correlation is defined, and 0 elsewhere.
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
    """The name of a function, or of the function of a `functools.partial`. Functions compiled by JAX do not pickle."""

    module: str
    name: str
    args: tuple = ()
    keywords: tuple = ()


def _portable(fn: Any) -> Any:
    """Return a function in a form that pickles, if it can be found again by its name."""
    if isinstance(fn, functools.partial):
        inner = _portable(fn.func)
        if isinstance(inner, _Named):
            args = tuple(map(_portable, fn.args))
            return dataclasses.replace(inner, args=args, keywords=tuple(fn.keywords.items()))
        return fn
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    found = getattr(importlib.import_module(module), name, None) if module else None
    return _Named(module, name) if module and found is fn else fn


def _found(form: Any) -> Any:
    if not isinstance(form, _Named):
        return form
    fn = getattr(importlib.import_module(form.module), form.name)
    return functools.partial(fn, *map(_found, form.args), **dict(form.keywords)) if form.args or form.keywords else fn
