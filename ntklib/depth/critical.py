"""The edge of chaos of an activation: the line in the plane of σ_w and σ_b on which χ_1 = σ_w² E[φ'²] is 1."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks
from ntklib.depth.phases import TABLE, is_homogeneous, slope_at_zero, table, variance_slope
from ntklib.depth.propagation import (
    DropAndSlope,
    ScalarFunction,
    checked,
    drop_and_slope,
    mean,
    refuse_jump,
    require_smooth,
    square,
)
from ntklib.duals.integrals import derivative
from ntklib.layers import Elementwise


@dataclasses.dataclass(frozen=True)
class CriticalPoint:
    """A point of the edge of chaos, where χ_1 = 1 at a fixed point q of the variance.

    Args:
        w_std: σ_w.
        b_std: σ_b.
        q: The fixed point of the variance. It is 0 if the point is a limit of small variances, and nan if every
            variance is a fixed point (ReLU).
        chi_q: χ_q, the slope of the variance map at q.
        beta: β = σ_w² q E[φ''²], the second derivative of the correlation map at c = 1. The correlation c_l after l
            layers then tends to 1 like 1 − c_l ~ 2/(β l). If φ has a kink, this derivative is infinite, and
            1 − c_l ~ l⁻². `beta` is then ∞ for leaky ReLUs and at q = 0. In other cases the kink is ignored, and
            `beta` is σ_w² q E[φ''²] without it.
        gamma: γ = σ_w² q² E[φ'''²], the third derivative of the correlation map at c = 1. It is ∞ where `beta` is ∞. If
            φ'' jumps at zero (ELU), this derivative is infinite, too, but the jump is ignored.
        stable: Whether a variance near q returns to q (for q > 0, if χ_q is between −1 and 1) or, for leaky ReLUs,
            stays where it is.
    """

    w_std: float
    b_std: float
    q: float
    chi_q: float
    beta: float
    gamma: float
    stable: bool


def critical_point(activation: Elementwise, b_std: float) -> CriticalPoint:
    """Return the point of the edge of chaos with a given σ_b.

    On the edge of chaos σ_w and σ_b are functions of the variance q. With Z ~ N(0, 1)::

        σ_w² = 1/E[φ'(√q Z)²],  σ_b² = q − E[φ(√q Z)²]/E[φ'(√q Z)²].

    The second equation is solved for q between 1e-9 and 9.6e15. If it has several solutions, the smallest q at which
    its right side increases is taken. There are two exceptions. If σ_b = 0, φ(0) = 0 and φ'(0) is not 0, the point is
    the limit of small variances, with σ_w = 1/abs(φ'(0)). (At a kink, φ'(0)² is the mean of its values from both
    sides.) For leaky ReLUs the line is a single point, σ_b = 0 and σ_w² = 2/(1 + slope²), and every q is a fixed point.

    Args:
        activation: φ.
        b_std: σ_b ≥ 0, not squared.

    Returns:
        A `CriticalPoint`.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if `b_std` is not a number or is traced.
        ValueError: If there is no such point (softplus and sign have none; leaky ReLUs have none with σ_b > 0), if
            `b_std` is negative or not finite, if the means of φ at q cannot be computed accurately, or if float64 is
            off.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):
        ...     point = critical_point(ntk.Tanh(), 0.2)
        >>> round(point.w_std, 6), round(point.q, 6), point.stable
        (1.304146, 0.512079, True)

    Note:
        Some points are of little use: look at `stable`, `q` and `w_std`. For GELU with σ_b < 0.416 and for SiLU with
        σ_b < 0.745 the fixed point q repels: a variance near q moves away from it, layer by layer. For the sigmoid, q
        is at least 45.6 and σ_w at least 10.

    References:
        Hayou et al. 2019. Chapter 06 derives σ_w and σ_b as functions of q.
    """
    _checks.outside_jit("critical_point", "Compute it outside, and pass its numbers.", b_std)
    fn, (b,) = checked(activation, b_std=b_std)
    _checks.real("b_std", b_std)
    refuse_jump(activation)
    slope = derivative(fn)
    if is_homogeneous(fn):
        gain = float(drop_and_slope(activation)(jnp.ones(()), jnp.zeros(()))[1])
        if not gain:
            raise ValueError(f"{activation.name} has no edge of chaos: it is zero everywhere.")
        w_std = gain**-0.5
        if float(b) > 0:
            raise ValueError(
                f"`b_std` must be 0 on the edge of chaos of {activation.name}, whose variance map is a straight line: "
                f"the edge is the single point w_std = {w_std:.4g}, b_std = 0; got b_std = {float(b):g}."
            )
        curved = np.inf if _kink(slope, 1.0) else 0.0
        return CriticalPoint(w_std, 0.0, np.nan, 1.0, curved, curved, True)
    bias = np.asarray(TABLE - table(fn)[0] / table(fn)[1])  # σ_b² along the line
    if float(b) == 0 and float(fn(jnp.zeros(()))) == 0 and (at_zero := slope_at_zero(fn)) > 0:
        curved = np.inf if _kink(slope, 1e-30) else 0.0
        return CriticalPoint(at_zero**-0.5, 0.0, 0.0, 1.0, curved, curved, _chi_q(fn, 1e-3) < 1)
    below = bias - float(b) ** 2
    crossings = np.nonzero((below[:-1] < 0) & (below[1:] >= 0))[0]
    if not len(crossings):
        known = bias[bias > 0]
        line = f"it exists for b_std ≥ {known.min() ** 0.5:.3g}" if len(known) else "it has none at any b_std"
        raise ValueError(f"{activation.name} has no edge of chaos with `b_std` = {float(b):g}: {line}.")
    low, high = (jnp.asarray(TABLE[crossings[0] + i]) for i in (0, 1))
    numbers = drop_and_slope(activation)
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
    """Return σ_w on the edge of chaos, where χ_1 = 1, for a given σ_b.

    Args:
        activation: φ.
        b_std: σ_b ≥ 0, not squared.

    Returns:
        σ_w, not squared.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if `b_std` is not a number or is traced.
        ValueError: As `critical_point`.

    Warns:
        UserWarning: If the fixed point q of the variance repels (GELU and SiLU at small σ_b). The variance of a deep
            network then leaves q, even if the inputs are scaled so that the first layer has the variance q. Also if
            q > 30, which is far from usual variances (sigmoid).

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):
        ...     round(edge_of_chaos(ntk.Relu(), 0.0) ** 2, 12), round(edge_of_chaos(ntk.Erf(), 0.2), 8)
        (2.0, 1.15279541)

    See Also:
        `critical_point`, which also returns q and the slope of the variance map at q.
    """
    point = critical_point(activation, b_std)
    if not point.stable:
        warnings.warn(
            f"On the edge of chaos of {activation.name} at b_std = {b_std:g} the variance's fixed point "
            f"q = {point.q:.4g} repels (χ_q = {point.chi_q:.4g}): even if the first layer has the variance q, rounding "
            f"errors make deep networks leave it.",
            stacklevel=2,
        )
    if point.q > 30:
        warnings.warn(
            f"The edge of chaos of {activation.name} at b_std = {b_std:g} is far from usual initializations: "
            f"w_std = {point.w_std:.4g}, variance q = {point.q:.4g}.",
            stacklevel=2,
        )
    return point.w_std


def _kink(slope: ScalarFunction, x: float) -> bool:
    """Whether the slopes at x and −x differ by more than rounding errors."""
    right, left = (float(slope(jnp.asarray(at))) for at in (x, -x))
    return abs(right - left) > 1e-9 * max(abs(right), abs(left))


def _chi_q(fn: ScalarFunction, q: float) -> float:
    """Return χ_q at the point of the critical line with the variance q."""
    at = jnp.asarray(q)
    return float(variance_slope(fn, at) / mean(square(derivative(fn)), at))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _critical_root(fn: ScalarFunction, numbers: DropAndSlope, b: Array, low: Array, high: Array) -> Array:
    """Find the q with σ_b² = q − E[φ²]/E[φ'²] between `low` and `high` by bisection. The right side increases there."""
    # E[φ'²] is computed as in `ntk_depth_profile`: over a million layers the last digit of χ_1 matters.
    bias = lambda q: q - mean(square(fn), q) / numbers(q, jnp.zeros(()))[1] - b**2  # noqa: E731

    def halve(_: ArrayLike, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        below = bias(middle) < 0
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (low, high))
    return (low + high) / 2
