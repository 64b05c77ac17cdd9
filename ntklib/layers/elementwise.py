"""`Elementwise`: a scalar function applied to every unit, and its dual applied to kernels."""

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
from ntklib.kernel import Kernel
from ntklib.layers.base import Layer

#: While `gram` looks ahead, the list in which each activation notes the variances of its inputs; otherwise None.
_noted: contextvars.ContextVar[list[tuple[Activation, Array, Array]] | None] = contextvars.ContextVar(
    "noted", default=None
)


class Elementwise(Layer):
    """Applies a scalar function φ to every unit.

    It must follow an affine layer, so that its inputs are Gaussian in the limit of infinite width. In that limit the
    means over units become expectations, and the kernel map is, for each pair of inputs::

        Σ' = E[φ(u) φ(v)],   Θ' = Θ · E[φ'(u) φ'(v)],   (u, v) ~ N(0, Σ).

    Args:
        fn: φ, a JAX function of one number that works elementwise on arrays. It must be smooth, except for kinks or
            jumps at zero.
        dual: A function (q12, q1, q2) -> (E[φφ], E[φ'φ']), differentiable, for a φ whose dual is known in closed form.
            By default the two expectations are computed by quadrature.
        name: The name by which error messages call the layer; by default that of `fn`.

    Raises:
        TypeError: If `fn` or `dual` is not a function.
        ValueError: If `fn` does not work elementwise; and, from `kernel`, if the variances of the units are larger than
            those for which the accuracy is known.

    Example:
        >>> arctan = Elementwise(jnp.arctan)
        >>> round(float(arctan.dual(0.5, 1.0, 1.0)[0]), 4)
        0.2171

    Note:
        `kernel` uses quadrature (`ntklib.duals.expectation`). `gram` uses tables, which it makes for the variances in
        use. An entry then takes a few nanoseconds. Both are accurate for variances up to 1e4. The limit is lower
        for functions that bend or jump away from zero, or oscillate; it is measured once for each function. Larger
        variances raise an error. Under `jit`, `grad` and `vmap` nothing can be raised, and the result is NaN.
        For a function with bends away from zero that comes with a `dual`, only `dual` is used. Near ρ = ±1 it gives
        half of the digits of 1 − ρ.
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
        """The function φ."""
        return self.activation.fn

    @property
    def name(self) -> str:
        """The name by which error messages call the layer."""
        return self.activation.name

    @property
    def dual(self) -> Callable[[ArrayLike, ArrayLike, ArrayLike], tuple[Array, Array]]:
        """The function (q12, q1, q2) -> (E[φφ], E[φ'φ']), for arrays that broadcast against each other."""
        return self.activation.dual

    def __call__(self, x: Shaped[Array | np.ndarray, "*N"]) -> Shaped[Array, "*N"]:
        return self.activation.fn(jnp.asarray(x))

    def __reduce__(self) -> tuple:
        return of, (self.activation,)

    def kernel_map(self, k: Kernel) -> Kernel:
        k.require_gaussian(f"The activation {self.name!r}")
        k.require_equal_variances(f"The activation {self.name!r}")
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
            values, slopes, delta = _dual(activation, k.acute, k.nngp, v1, v2, k.delta)
        known = (v1 <= activation.limit(k.nngp.dtype)) & (v2 <= activation.limit(k.nngp.dtype))
        if math.isfinite(activation.limit(k.nngp.dtype)):
            values, slopes = (jnp.where(known, a, jnp.nan) for a in (values, slopes))
        if k.pools:
            q1, q2 = (self._within_image(*arguments, table) for arguments in k.within())
        else:
            q1, q2 = moment(k.q1), moment(k.q2)
        delta = jax.lax.stop_gradient(delta)
        return k.replace(
            nngp=values, ntk=k.ntk * slopes, q1=q1, q2=q2, gaussian=False, delta=delta, acute=activation.nonnegative
        )

    def _within_image(self, q12: Array, v1: Array, v2: Array, table: Any) -> Array:
        """Return E[φφ] for the pairs of pixels of one image."""
        delta = correlation.from_covariance(q12, v1, v2)
        if table is None:
            return _dual(self.activation, False, q12, v1, v2, delta)[0]
        return _values(table.moment(v1), table.moment(v2), table.near(self.activation, delta, v1, v2)[1])


def _values(k1: Array, k2: Array, delta: Array, acute: bool = False) -> Array:
    s1, s2 = correlation.once((sqrt(k1), sqrt(k2)))
    return s1 * s2 * (1 - delta if acute else correlation.rho(delta))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _dual(
    activation: Activation, acute: bool, q12: Array, q1: Array, q2: Array, delta: Array
) -> tuple[Array, Array, Array]:
    """Return E[φφ], E[φ'φ'], and δ of φ(u) and φ(v).

    The values are computed from δ, of which `acute` says that it is not negative. Derivatives are those of the dual
    from covariances.
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
    """Refuse variances for which an activation's accuracy is not known. Traced variances are not checked."""
    for q in variances:
        if _checks.is_traced(q) or not q.size:
            continue
        largest, smallest = float(jnp.max(q)), float(jnp.min(q, where=q > 0, initial=jnp.inf))
        if not largest <= activation.limit(q.dtype):
            raise ValueError(_too_large(activation, largest, q.dtype))
        check_small(activation, smallest, q.dtype)


def smallest_variance(dtype: Any) -> float:
    """Return the smallest variance with all digits: below, squares of units are too small to be normal numbers."""
    return float(jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps)


def check_small(activation: Activation, q: float, dtype: Any) -> None:
    """Refuse a variance that loses digits before or after an activation, being too small for the type."""
    if not 0 < q < 1e-6:
        return
    least = smallest_variance(dtype)
    if q < least or not activation.moment(jnp.asarray([q], dtype))[0] > least:
        raise ValueError(
            f"The units before the activation {activation.name!r} have a variance of {q:.3g}. It, or that after the "
            f"activation, is too small for all digits of {jnp.dtype(dtype).name}. Standardize the inputs, or use a "
            f"larger w_std."
        )


def _too_large(activation: Activation, largest: float, dtype: np.dtype) -> str:
    limit = activation.limit(dtype)
    ways, why = ["use a smaller w_std"], ""
    if largest <= activation.limit(jnp.float64):
        ways.append("use float64")
    if activation.measured and limit < LIMITS[0]:
        ways.append("give Elementwise its `dual`")
        why = " (it bends or jumps away from zero, or oscillates, and the quadrature does not converge beyond)"
    return (
        f"The units before the activation {activation.name!r} have a variance of {largest:.3g}; its accuracy is "
        f"known up to {limit:.3g} in {dtype.name}{why}. Standardize the inputs, or {', or '.join(ways)}."
    )


@contextlib.contextmanager
def noting() -> Iterator[list[tuple[Activation, Array, Array]]]:
    """Return a context in which kernel maps compute variances only, and activations note the ranges they meet."""
    found: list[tuple[Activation, Array, Array]] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def of(activation: Activation) -> Elementwise:
    """Return the layer of an activation's record."""
    return Elementwise(activation)
