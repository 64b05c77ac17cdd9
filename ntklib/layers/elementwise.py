"""`Elementwise`, the layer that applies a scalar function to every unit, with its kernel map."""

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
from jaxtyping import Shaped

from ntklib import _checks
from ntklib.duals import correlation
from ntklib.duals.activation import Activation
from ntklib.duals.correlation import sqrt
from ntklib.duals.integrals import LIMITS
from ntklib.kernel import Kernel, one_program
from ntklib.layers.base import Layer

#: Inside `noting`, the list to which each activation adds its record and the variances of its inputs; otherwise None.
_noted: contextvars.ContextVar[list[tuple[Activation, np.ndarray]] | None] = contextvars.ContextVar(
    "noted", default=None
)


class Elementwise(Layer):
    """Applies a scalar function φ to every unit.

    The layer has a kernel only after an affine layer or a sum of affine layers; `LayerNorm` and pooling may stand
    between. In the limit of infinite width the inputs of the layer are then Gaussian with mean zero, and means over
    units become expectations. Let u and v be the values of one of its input units for two inputs of the network. Their
    variances are q1 and q2, and their covariance is q12 = Σ. The kernel map is::

        Σ' = E[φ(u) φ(v)],   Θ' = Θ · E[φ'(u) φ'(v)].

    The two expectations are called the dual of φ.

    Args:
        fn: φ, a JAX function of one number that works elementwise on arrays. It must be pure: JAX compiles it once, and
            later changes of variables that it reads have no effect. It may have a kink or a jump at zero, and should be
            smooth elsewhere. If it has kinks or jumps elsewhere, pass its `dual`.
        dual: The dual in closed form: a differentiable function (q12, q1, q2) -> (E[φ(u) φ(v)], E[φ'(u) φ'(v)]) of
            arrays that broadcast. By default the dual is computed by quadrature.
        name: The name of the layer in error messages; by default the name of `fn`.

    Raises:
        TypeError: If `fn` or `dual` is not a function.
        ValueError: If `fn` does not work elementwise, or does not return real floating-point numbers. From `kernel`, if
            the inputs of the layer are not Gaussian or have different variances (after `Flatten`), if their variances
            are above the limit in the note, or if their variances or mean squares after φ are too small for the
            floating-point type.

    Example:
        >>> arctan = Elementwise(jnp.arctan)
        >>> round(float(arctan.dual(0.5, 1.0, 1.0)[0]), 4)  # E[arctan(u) arctan(v)] for q12 = 0.5 and q1 = q2 = 1
        0.2171

    Note:
        Without a `dual`, `kernel` uses quadrature (`ntklib.duals.expectation`). `gram` makes tables of the dual for the
        variances that occur, and then takes a few nanoseconds for an entry. A function that jumps at zero has no table:
        `gram` raises an error where it needs one.

        Quadrature and tables are accurate for variances up to a limit, which is measured once for each function. It is
        at most 1e4, and lower for functions that oscillate, grow fast, or have kinks or jumps away from zero. `kernel`
        and `gram` raise an error for larger variances. Under `jit`, `grad` and `vmap` no error can be raised, and the
        entries for such variances are NaN.

        With a `dual`, `kernel` computes E[φ(u)²] and all derivatives by `dual`. The rest depends on the limit that is
        measured for φ. If it is 1e4, it still holds: `kernel` uses quadrature and `gram` tables, because both keep the
        digits of 1 − ρ near ρ = ±1. If it is lower, `kernel` and `gram` use `dual` alone, for variances of any size.
        Near ρ = ±1 half of the digits of 1 − ρ are then lost.
    """

    def __init__(
        self,
        fn: Callable[[Array], Array] | Activation,
        dual: Callable[[ArrayLike, ArrayLike, ArrayLike], tuple[Array, Array]] | None = None,
        *,
        name: str | None = None,
    ):
        if isinstance(fn, Activation):  # the record of one of the library's activations
            self.activation = fn
            return
        _checks.scalar_function("fn", fn)
        if dual is not None and not callable(dual):
            raise TypeError(f"`dual` must be a function (q12, q1, q2) -> (E[φφ], E[φ'φ']); got {type(dual).__name__}.")
        self.activation = Activation(name or getattr(fn, "__name__", "elementwise"), fn, dual, limits=None)

    @property
    def fn(self) -> Callable[[Array], Array]:
        """The function φ."""
        return self.activation.fn

    @property
    def name(self) -> str:
        """The name of the layer in error messages."""
        return self.activation.name

    @property
    def dual(self) -> Callable[[ArrayLike, ArrayLike, ArrayLike], tuple[Array, Array]]:
        """The function (q12, q1, q2) -> (E[φ(u) φ(v)], E[φ'(u) φ'(v)]), for arrays that broadcast."""
        return self.activation.dual

    def __call__(self, x: Shaped[Array | np.ndarray, "*N"]) -> Shaped[Array, "*N"]:
        return self.activation.fn(jnp.asarray(x))

    def __reduce__(self) -> tuple:
        return Elementwise, (self.activation,)

    def kernel_map(self, k: Kernel) -> Kernel:
        k.require_gaussian(f"The activation {self.name!r}")
        k.require_equal_variances(f"The activation {self.name!r}")
        activation = self.activation
        v1, v2 = k.variances()
        if (noted := _noted.get()) is not None:
            noted.append((activation, np.asarray(v1)))
            return k.replace(q1=_moment(k.q1, activation), gaussian=False, delta=k.delta)
        check_variances(activation, v1, v2)
        return _mapped(k, activation).replace(gaussian=False)


@one_program(1)
def _mapped(k: Kernel, activation: Activation) -> Kernel:
    """Return the kernel of φ(z) from the kernel of the units z."""
    v1, v2 = k.variances()
    table = None if k.tables is None else k.tables.of(activation)
    if table is not None:
        moment = table.moment
        slopes, delta = table.near(activation, k.delta, v1, v2)
        values = _values(moment(v1), moment(v2), delta)
    else:
        moment = activation.moment
        values, slopes, delta = _dual(activation, k.acute, k.nngp, v1, v2, k.delta)
    limit = activation.limit(k.nngp.dtype)
    if math.isfinite(limit):  # for traced variances, which `check_variances` does not check
        known = (v1 <= limit) & (v2 <= limit)
        values, slopes = (jnp.where(known, a, jnp.nan) for a in (values, slopes))
    if k.pools:
        q1, q2 = (_within_image(activation, *arguments, table) for arguments in k.within())
    else:
        q1, q2 = moment(k.q1), moment(k.q2)
    delta = jax.lax.stop_gradient(delta)
    return k.replace(nngp=values, ntk=k.ntk * slopes, q1=q1, q2=q2, delta=delta, acute=activation.nonnegative)


_moment = jax.jit(lambda q, activation: activation.moment(q), static_argnums=1)


def _within_image(activation: Activation, q12: Array, v1: Array, v2: Array, table: Any) -> Array:
    """Return E[φ(u) φ(v)] for each pair of pixels of one image, given their covariances and variances."""
    delta = correlation.from_covariance(q12, v1, v2)
    if table is None:
        return _dual(activation, False, q12, v1, v2, delta)[0]
    return _values(table.moment(v1), table.moment(v2), table.near(activation, delta, v1, v2)[1])


def _values(k1: Array, k2: Array, delta: Array, acute: bool = False) -> Array:
    """Return E[φ(u) φ(v)] = √(k1 k2) ρ' from k1 = E[φ(u)²], k2 = E[φ(v)²], and `delta`, the δ of φ(u) and φ(v).

    ρ' is the correlation of φ(u) and φ(v). `acute` says that no entry of `delta` is negative.
    """
    s1, s2 = correlation.once((sqrt(k1), sqrt(k2)))
    return s1 * s2 * (1 - delta if acute else correlation.rho(delta))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _dual(
    activation: Activation, acute: bool, q12: Array, q1: Array, q2: Array, delta: Array
) -> tuple[Array, Array, Array]:
    """Return E[φ(u) φ(v)], E[φ'(u) φ'(v)], and the δ of φ(u) and φ(v).

    The values are computed from the variances q1, q2 and from `delta`, the δ of u and v, which keeps the digits of
    1 − ρ. The derivatives are computed by the dual, from the variances and the covariance `q12`. `acute` says that no
    entry of `delta` is negative.
    """
    slopes, new = activation.near(delta, q1, q2, acute)
    slopes = jnp.broadcast_to(slopes, new.shape)
    return _values(activation.moment(q1), activation.moment(q2), new, activation.nonnegative), slopes, new


@_dual.defjvp
def _dual_jvp(activation: Activation, acute: bool, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    q12, q1, q2, delta = primals
    out = _dual(activation, acute, q12, q1, q2, delta)
    q1, q2, d1, d2 = (jnp.broadcast_to(a, q12.shape) for a in (q1, q2, tangents[1], tangents[2]))
    _, (values, slopes) = jax.jvp(activation.dual, (q12, q1, q2), (tangents[0], d1, d2))
    return out, (values, slopes, jnp.zeros_like(out[2]))


def check_variances(activation: Activation, *variances: Array | np.ndarray) -> None:
    """Raise ValueError for variances that are too large or too small for an activation. Traced ones are not checked."""
    for q in variances:
        if _checks.is_traced(q) or not q.size:
            continue
        largest, smallest = map(float, _range(q))
        check_large(activation, largest, q.dtype)
        check_small(activation, smallest, q.dtype)


@jax.jit
def _range(q: Array) -> tuple[Array, Array]:
    """Return the largest variance, and the smallest that is above zero (∞ if all are zero)."""
    return jnp.max(q), jnp.min(q, where=q > 0, initial=jnp.inf)


def smallest_variance(dtype: Any) -> float:
    """Return the smallest variance that can be computed with all digits of a floating-point type.

    A variance is a mean of squares, and squares below the smallest normal number, `tiny`, are lost. Let ε be the
    spacing of numbers next to 1. If the variance is tiny/ε or more, the lost squares change it by less than its
    rounding error.
    """
    return float(jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps)


def check_large(activation: Activation, q: float, dtype: Any) -> None:
    """Raise ValueError if a variance q is above the limit up to which the accuracy of an activation is known."""
    if not q <= min(activation.limit(dtype), float(jnp.finfo(dtype).max)):
        raise ValueError(_too_large(activation, q, dtype))


def check_small(activation: Activation, q: float, dtype: Any) -> None:
    """Raise ValueError if a variance q > 0 before an activation, or E[φ²] after it, is too small for the type."""
    # From 0.1 on E[φ²] is large enough, even for monomials of high degree, unless a parameter of φ is small.
    if q <= 0 or (q >= 0.1 and not activation.arguments):
        return
    least = smallest_variance(dtype)
    after, at_one = map(float, _moment(jnp.asarray([q, 1.0], dtype), activation))
    nonzero = at_one != 0 or activation.maker is not None  # if φ = 0, E[φ²] = 0 is right
    if q < least or (nonzero and not after > least):
        raise ValueError(
            f"The units before the activation {activation.name!r} have a variance of {q:.3g}. This variance, or the "
            f"mean square after the activation, is too small to keep all digits in {jnp.dtype(dtype).name}. "
            f"Standardize the inputs, or use a larger w_std."
        )


def _too_large(activation: Activation, largest: float, dtype: np.dtype) -> str:
    """Return the message about a variance that is too large for an activation."""
    limit = min(activation.limit(dtype), float(jnp.finfo(dtype).max))
    ways, why = ["use a smaller w_std"], ""
    if largest <= activation.limit(jnp.float64):
        ways.append("use float64")
    if activation.measured and limit < LIMITS[0]:
        ways.append("give Elementwise its `dual`")
        why = (
            " (for larger ones quadrature is not accurate, because the function has a kink or a jump away from zero, "
            "oscillates, or grows fast)"
        )
    return (
        f"The units before the activation {activation.name!r} have a variance of {largest:.3g}. The accuracy of its "
        f"kernel is known for variances up to {limit:.3g} in {dtype.name}{why}. Standardize the inputs, or "
        f"{', or '.join(ways)}."
    )


@contextlib.contextmanager
def noting() -> Iterator[list[tuple[Activation, np.ndarray]]]:
    """Return a context, `with noting() as found`, that collects the variances before each activation.

    Inside it, the kernel map of an activation adds a pair to the list `found`: the activation's record, and the
    variances of its first set of inputs. It computes `q1`, and no other array of the new kernel.
    """
    found: list[tuple[Activation, np.ndarray]] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)
