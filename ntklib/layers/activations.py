"""Activations as layers: a scalar function on every unit, and its dual on kernels."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks
from ntklib.duals import correlation, oscillating, polynomials, rectified, sigmoidal
from ntklib.duals.activation import Activation
from ntklib.duals.correlation import sqrt
from ntklib.duals.integrals import LIMITS
from ntklib.kernel import Kernel
from ntklib.layers.base import Layer

#: Where `gram` looks ahead: a list that notes the variances before each activation; else None.
_noted: contextvars.ContextVar[list[tuple[Activation, Array, Array]] | None] = contextvars.ContextVar(
    "noted", default=None
)


class Elementwise(Layer):
    """A scalar function φ applied to every unit; it follows an affine layer.

    Kernel map: Σ' = E[φ(u) φ(v)], Θ' = Θ · E[φ'(u) φ'(v)], (u, v) ~ N(0, Σ) for each pair of inputs; 1/n sums over
    units have become expectations.

    fn: a JAX function of one number that works elementwise on arrays, smooth but for kinks or jumps at zero.
    dual: (q12, q1, q2) -> (E[φφ], E[φ'φ']), differentiable, where a closed form is known; by default a quadrature.
    name: how errors call it.

    The kernel is computed by quadrature (`ntklib.duals.expectation`), by `gram` with tables that are made for the
    variances in use and take an entry in some nanoseconds. Both are accurate for variances up to 1e4, or less for
    functions that bend or jump away from zero, or oscillate: how far is measured, once for each function. Beyond, the
    call is refused, and under `jit`, `grad` and `vmap`, where nothing can be refused, the result is NaN. A function
    with such bends and a `dual` of its own is computed by that alone, with half of the digits of 1 − ρ near |ρ| = 1.

    >>> arctan = Elementwise(jnp.arctan)
    >>> round(float(arctan.dual(0.5, 1.0, 1.0)[0]), 4)
    0.2171
    """

    def __init__(
        self,
        fn: Callable[[Array], Array] | Activation,
        dual: Callable[[ArrayLike, ArrayLike, ArrayLike], tuple[Array, Array]] | None = None,
        *,
        name: str | None = None,
    ):
        if isinstance(fn, Activation):  # a record of the library, checked by its tests
            self.activation = fn
            return
        _checks.scalar_function("fn", fn)
        if dual is not None and not callable(dual):
            raise TypeError(f"`dual` must be a function (q12, q1, q2) -> (E[φφ], E[φ'φ']); got {type(dual).__name__}.")
        self.activation = Activation(name or getattr(fn, "__name__", "elementwise"), fn, dual, limits=None)

    @property
    def fn(self) -> Callable[[Array], Array]:
        """φ."""
        return self.activation.fn

    @property
    def name(self) -> str:
        """How errors call it."""
        return self.activation.name

    @property
    def dual(self) -> Callable[[ArrayLike, ArrayLike, ArrayLike], tuple[Array, Array]]:
        """(q12, q1, q2) -> (E[φφ], E[φ'φ']), for arrays that broadcast against each other."""
        return self.activation.dual

    def __call__(self, x: Array) -> Array:
        return self.activation.fn(x)

    def __reduce__(self) -> tuple:
        return of, (self.activation,)

    def kernel_map(self, k: Kernel) -> Kernel:
        k.require_gaussian(f"The activation {self.name!r}")
        activation = self.activation
        v1, v2 = k.variances()
        if (noted := _noted.get()) is not None:
            noted.append((activation, jnp.min(v1), jnp.max(v1)))
            return k.replace(q1=activation.moment(k.q1), q2=activation.moment(k.q2), gaussian=False, delta=k.delta)
        check_variances(activation, v1, v2)
        table = None if k.tables is None else k.tables.of(activation)
        if table is not None:
            moment = table.moment
            slopes, delta = table.near(activation, k.delta, v1, v2)
            values = _values(moment(v1), moment(v2), delta)
        else:
            moment = activation.moment
            values, slopes, delta = _dual(activation, k.nngp, v1, v2, k.delta)
        known = (v1 <= activation.limit(k.nngp.dtype)) & (v2 <= activation.limit(k.nngp.dtype))
        if math.isfinite(activation.limit(k.nngp.dtype)):
            values, slopes = (jnp.where(known, a, jnp.nan) for a in (values, slopes))
        if k.pools:
            q1, q2 = (self._within_image(*own, table) for own in k.within())
        else:
            q1, q2 = moment(k.q1), moment(k.q2)
        delta = jax.lax.stop_gradient(delta)
        return k.replace(nngp=values, ntk=k.ntk * slopes, q1=q1, q2=q2, gaussian=False, delta=delta)

    def _within_image(self, q12: Array, v1: Array, v2: Array, table: Any) -> Array:
        """E[φφ] for the pairs of pixels of one image."""
        delta = correlation.from_covariance(q12, v1, v2)
        if table is None:
            return _dual(self.activation, q12, v1, v2, delta)[0]
        return _values(table.moment(v1), table.moment(v2), table.near(self.activation, delta, v1, v2)[1])


def _values(k1: Array, k2: Array, delta: Array) -> Array:
    s1, s2 = correlation.once((sqrt(k1), sqrt(k2)))
    return s1 * s2 * correlation.rho(delta)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _dual(activation: Activation, q12: Array, q1: Array, q2: Array, delta: Array) -> tuple[Array, Array, Array]:
    """(E[φφ], E[φ'φ'], δ of φ(u) and φ(v)); values by δ, derivatives by the dual from covariances."""
    slopes, new = activation.near(delta, q1, q2)
    slopes = jnp.broadcast_to(slopes, new.shape)
    return _values(activation.moment(q1), activation.moment(q2), new), slopes, new


@_dual.defjvp
def _dual_jvp(activation: Activation, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    q12, q1, q2, delta = primals
    out = _dual(activation, q12, q1, q2, delta)
    q1, q2, d1, d2 = (jnp.broadcast_to(a, q12.shape) for a in (q1, q2, tangents[1], tangents[2]))
    _, (values, slopes) = jax.jvp(activation.dual, (q12, q1, q2), (tangents[0], d1, d2))
    return out, (values, slopes, jnp.zeros_like(out[2]))


def check_variances(activation: Activation, *variances: Array | np.ndarray) -> None:
    """Refuse variances for which an activation's accuracy is not known, where the variances are known."""
    for q in variances:
        if _checks.is_traced(q) or not q.size:
            continue
        largest, smallest = float(jnp.max(q)), float(jnp.min(q, where=q > 0, initial=jnp.inf))
        if not largest <= activation.limit(q.dtype):
            raise ValueError(_too_large(activation, largest, q.dtype))
        if smallest < 1e-6 and not activation.moment(jnp.asarray([smallest], q.dtype))[0] > jnp.finfo(q.dtype).tiny:
            raise ValueError(
                f"The units before the activation {activation.name!r} have a variance of {smallest:.3g}, and behind "
                f"it one that is too small to be a number in {q.dtype.name}. Standardize the inputs, or use a larger "
                f"w_std."
            )


def _too_large(activation: Activation, largest: float, dtype: np.dtype) -> str:
    limit = activation.limit(dtype)
    ways, why = ["use a smaller w_std"], ""
    if largest <= activation.limit(jnp.float64):
        ways.append("use float64")
    if activation.measured and limit < LIMITS[0]:
        ways.append("give Elementwise its `dual`")
        why = " (it bends or jumps away from zero, or oscillates, and integrals of larger ones do not converge)"
    return (
        f"The units before the activation {activation.name!r} have a variance of {largest:.3g}; its accuracy is "
        f"known up to {limit:.3g} in {dtype.name}{why}. Standardize the inputs, or {', or '.join(ways)}."
    )


@contextlib.contextmanager
def noting() -> Iterator[list[tuple[Activation, Array, Array]]]:
    """Kernel maps inside follow the variances only, and note their range before each activation."""
    found: list[tuple[Activation, Array, Array]] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def of(activation: Activation) -> Elementwise:
    """The layer of a record."""
    return Elementwise(activation)


# ------------------------------------------------------------------------------------------------- the library's own


def Relu() -> Elementwise:
    """max(x, 0)."""
    return of(rectified.relu_record())


def LeakyRelu(slope: float = 0.01) -> Elementwise:
    """The function x for x > 0 and slope·x otherwise."""
    _checks.real("slope", slope)
    return of(rectified.leaky(float(slope)))


def Abs() -> Elementwise:
    """|x|."""
    return of(rectified.abs_record())


def RectifiedMonomial(degree: int) -> Elementwise:
    """max(x, 0)^degree: the arc-cosine kernels of any order, 0 (a step), 1 (ReLU), 2, …"""
    _checks.count("degree", degree, minimum=0)
    return of(rectified.rectified_record(int(degree)))


def Sign() -> Elementwise:
    """sign(x); its slope, and with it the tangent kernel of all layers before it, is 0."""
    return of(rectified.sign_record())


def Identity() -> Elementwise:
    """The function x itself: a deep linear network's activation."""
    return of(rectified.identity_record())


def Erf() -> Elementwise:
    """erf(x), not erf(x/√2)."""
    return of(sigmoidal.erf_record())


def Gelu() -> Elementwise:
    """x Φ(x), exact; not the approximation by tanh."""  # noqa: D403
    return of(sigmoidal.gelu_record())


def Tanh() -> Elementwise:
    """tanh(x); no closed form."""
    return of(sigmoidal.tanh_record())


def Silu() -> Elementwise:
    """x/(1 + exp(−x)), also known as Swish; no closed form."""
    return of(sigmoidal.silu_record())


def Elu() -> Elementwise:
    """The function x for x > 0 and exp(x) − 1 otherwise; no closed form."""
    return of(sigmoidal.elu_record())


def Sigmoid() -> Elementwise:
    """1/(1 + exp(−x)); no closed form."""
    return of(sigmoidal.sigmoid_record())


def Sin(frequency: float = 1.0, *, amplitude: float = 1.0, phase: float = 0.0) -> Elementwise:
    """Amplitude · sin(frequency · x + phase)."""
    _checks.real("frequency", frequency, above=0.0)
    _checks.real("amplitude", amplitude, above=0.0)
    _checks.real("phase", phase)
    return of(oscillating.sine_record(float(frequency), float(amplitude), float(phase)))


def Cos(frequency: float = 1.0, *, amplitude: float = 1.0) -> Elementwise:
    """Amplitude · cos(frequency · x)."""
    _checks.real("frequency", frequency, above=0.0)
    _checks.real("amplitude", amplitude, above=0.0)
    return of(oscillating.sine_record(float(frequency), float(amplitude), math.pi / 2, "cos"))


def Rbf(gamma: float = 1.0) -> Elementwise:
    """√2 sin(√(2γ) x + π/4), whose dual is the Gaussian (RBF) kernel, E[φ(u)φ(v)] = exp(−γ E[(u − v)²])."""
    _checks.real("gamma", gamma, above=0.0)
    return of(oscillating.sine_record(math.sqrt(2 * gamma), math.sqrt(2), math.pi / 4, "rbf"))


def Gaussian(rate: float = 1.0) -> Elementwise:
    """exp(−rate · x²)."""
    _checks.real("rate", rate, above=0.0)
    return of(oscillating.gaussian_record(float(rate)))


def Exp(rate: float = 1.0) -> Elementwise:
    """exp(rate · x)."""
    _checks.real("rate", rate)
    if rate == 0:
        raise ValueError("`rate` must not be 0: the function would be constant.")
    return of(oscillating.exp_record(float(rate)))


def Monomial(degree: int) -> Elementwise:
    """x^degree."""
    _checks.count("degree", degree)
    return of(polynomials.polynomial_record((0.0,) * int(degree) + (1.0,), f"monomial({degree})"))


def Hermite(degree: int) -> Elementwise:
    """The Hermite polynomial He_n(x)/√n! of degree n: E[φ(u)φ(v)] = ρ^n for units of variance 1."""
    _checks.count("degree", degree)
    return of(polynomials.polynomial_record(polynomials.hermite(int(degree)), f"hermite({degree})"))
