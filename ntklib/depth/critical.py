"""The edge of chaos: the critical line of each activation."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib.depth.phases import TABLE, is_homogeneous, table, variance_slope
from ntklib.depth.propagation import Pair, Scalar, checked, mean, pair, require_smooth, square
from ntklib.duals.integrals import derivative
from ntklib.layers import Elementwise


@dataclasses.dataclass(frozen=True)
class CriticalPoint:
    """A point of the edge of chaos: χ_1 = 1 at a fixed point q of the variance.

    q is 0 for the limit of small variances, and nan where any variance is one (ReLU). `stable`: whether the variance
    comes back to q, |χ_q| < 1, or stays (χ_q = 1, ReLU). beta = σ_w² q E[φ''²] and gamma = σ_w² q² E[φ'''²] are the
    second and third derivative of the correlation map at 1: 1 − c_l ~ 2/(β l) (β = ∞ at a kink, where it is ~ l⁻²).
    """

    w_std: float
    b_std: float
    q: float
    chi_q: float
    beta: float
    gamma: float
    stable: bool


def critical_point(activation: Elementwise, b_std: float) -> CriticalPoint:
    """The point of the edge of chaos with this σ_b, from the line's parametrisation by the variance q:

        σ_w² = 1/E[φ'(√q Z)²],  σ_b² = q − E[φ(√q Z)²]/E[φ'(√q Z)²],

    solved for q between 1e-9 and 1e16. At σ_b = 0 with φ(0) = 0 it is the limit σ_w = 1/|φ'(0)|, and for leaky ReLUs,
    whose line is the one point σ_b = 0, σ_w² = 2/(1 + slope²), any q is a fixed point.

    Raises ValueError where there is none (softplus: none at all; leaky ReLUs: σ_b > 0). Some are of little use, and
    `stable`, `q` and `w_std` say so: for GELU below σ_b = 0.416 and SiLU below 0.745 the variance leaves q for good,
    and for the sigmoid q = 46 and σ_w = 10 at the least. Source: Hayou et al. 2019; the parametrisation: chapter 06.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):
    ...     point = critical_point(ntk.Tanh(), 0.2)
    >>> round(point.w_std, 6), round(point.q, 6), point.stable
    (1.304146, 0.512079, True)
    """
    fn, (b,) = checked(activation, b_std=b_std)
    slope = derivative(fn)
    at_zero = float(jnp.abs(slope(jnp.zeros(()))))
    if is_homogeneous(fn):
        w_std = float(pair(activation)(jnp.ones(()), jnp.zeros(()))[1]) ** -0.5
        if float(b) > 0:
            raise ValueError(
                f"`b_std` must be 0 on the edge of chaos of {activation.name}, whose variance map is a straight line: "
                f"it is the point w_std = {w_std:.4g}, b_std = 0; got b_std = {float(b):g}."
            )
        return CriticalPoint(w_std, 0.0, np.nan, 1.0, np.inf, np.inf, True)
    bias = np.asarray(TABLE - table(fn)[0] / table(fn)[1])  # σ_b² along the line
    if float(b) == 0 and float(fn(jnp.zeros(()))) == 0 and at_zero > 0:
        return CriticalPoint(1 / at_zero, 0.0, 0.0, 1.0, 0.0, 0.0, _chi_q(fn, 1e-3) < 1)
    below = bias - float(b) ** 2
    crossings = np.nonzero((below[:-1] < 0) & (below[1:] >= 0))[0]
    if not len(crossings):
        known = bias[bias > 0]
        line = f"it exists for b_std ≥ {known.min() ** 0.5:.3g}" if len(known) else "it has none at any b_std"
        raise ValueError(f"{activation.name} has no edge of chaos with `b_std` = {float(b):g}: {line}.")
    low, high = (jnp.asarray(TABLE[crossings[0] + i]) for i in (0, 1))
    numbers = pair(activation)
    q = _critical_root(fn, numbers, b, low, high)
    require_smooth(activation, q)
    w2 = 1 / numbers(q, jnp.zeros(()))[1]
    second = derivative(slope)
    chi_q = float(w2 * variance_slope(fn, q))
    return CriticalPoint(
        float(jnp.sqrt(w2)), float(b), float(q), chi_q,
        float(w2 * q * mean(square(second), q)),
        float(w2 * q**2 * mean(square(derivative(second)), q)),
        abs(chi_q) < 1,
    )  # fmt: skip


def edge_of_chaos(activation: Elementwise, b_std: float) -> float:
    """σ_w on the edge of chaos, where χ_1 = 1, for a given σ_b; `critical_point` has the variance q and more.

    Inputs must be scaled so that the first layer has the variance q, where q is not reached from elsewhere: a warning
    says when the variance leaves it for good (GELU, SiLU at small σ_b), and when it is far from any in use (sigmoid).
    Raises ValueError where there is none.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):
    ...     round(edge_of_chaos(ntk.Relu(), 0.0) ** 2, 12), round(edge_of_chaos(ntk.Erf(), 0.2), 8)
    (2.0, 1.15279541)
    """
    point = critical_point(activation, b_std)
    if not point.stable:
        warnings.warn(
            f"On the edge of chaos of {activation.name} at b_std = {b_std:g} the variance's fixed point "
            f"q = {point.q:.4g} repels (χ_q = {point.chi_q:.4g} > 1): inputs must start at q exactly, and deep "
            f"networks leave it all the same.",
            stacklevel=2,
        )
    if point.q > 30:
        warnings.warn(
            f"The edge of chaos of {activation.name} at b_std = {b_std:g} is far from usual initialisations: "
            f"w_std = {point.w_std:.4g}, variance q = {point.q:.4g}.",
            stacklevel=2,
        )
    return point.w_std


def _chi_q(fn: Scalar, q: float) -> float:
    """χ_q at the point of the critical line that belongs to q."""
    at = jnp.asarray(q)
    return float(variance_slope(fn, at) / mean(square(derivative(fn)), at))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _critical_root(fn: Scalar, numbers: Pair, b: Array, low: Array, high: Array) -> Array:
    """The q on the critical line with σ_b² = q − E[φ²]/E[φ'²], increasing in the bracket, by bisection."""
    # E[φ'²] as the depth profile has it: over a million layers the last digit of χ_1 matters.
    bias = lambda q: q - mean(square(fn), q) / numbers(q, jnp.zeros(()))[1] - b**2  # noqa: E731

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        below = bias(middle) < 0
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (low, high))
    return (low + high) / 2
