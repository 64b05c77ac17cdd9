"""The fixed points of the variance map and the correlation map, the phases, and the depth scales."""

import dataclasses
import functools
import itertools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.depth.propagation import (
    ScalarFunction,
    checked,
    drop_and_slope,
    enough_nodes,
    mean,
    over,
    refuse_jump,
    require_smooth,
    square,
)
from ntklib.duals.integrals import MODERATE, derivative, jump
from ntklib.layers import Elementwise

#: The variances at which the variance map is tabulated to find its fixed points: from 1e-9 to 9.6e15, each 1.0575 times
#: the one before.
TABLE = np.exp(np.log(1e-9) + np.log(1e16) / 659 * np.arange(1030))
_FAR = 1e7  # the variance at which slopes are computed if the variance grows forever
_ROUNDING = 1e-12  # a difference of V(q) and q that counts as a rounding error, relative to q
_CRITICAL = 1e-9  # χ_1 counts as 1 if it differs from 1 by less


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DepthScales:
    """The limits of variance and correlation in a deep network, and the depths over which they are reached.

    All fields are arrays of one shape; see `depth_scales`. If the variance vanishes or diverges, the slopes are those
    at a very small or a very large variance.

    Args:
        q: The fixed point of the variance; ∞ if the variance diverges.
        c: The fixed point of the correlation. It is 1 in the ordered phase, on the critical line, and if q is 0 or ∞.
        chi_q: χ_q, the slope of the variance map at q.
        chi_1: χ_1 = σ_w² E[φ'²] at q, the slope of the correlation map at 1.
        chi_c: χ_c = σ_w² E[φ'(u)φ'(v)] at q and c, the slope of the correlation map at c.
        xi_q: The depth scale of the variance, ξ_q = −1/log(abs(χ_q)), in layers: the variance q_l after l layers tends
            to q like e^(−l/ξ_q). It is ∞ if abs(χ_q) ≥ 1.
        xi_c: The depth scale of the correlation, ξ_c = −1/log χ_c, in layers: the correlation c_l after l layers tends
            to c like e^(−l/ξ_c). It is ∞ if χ_c ≥ 1, as on the critical line, where c_l tends to 1 like a power of l.
    """

    q: Float[Array, "*grid"]
    c: Float[Array, "*grid"]
    chi_q: Float[Array, "*grid"]
    chi_1: Float[Array, "*grid"]
    chi_c: Float[Array, "*grid"]
    xi_q: Float[Array, "*grid"]
    xi_c: Float[Array, "*grid"]

    @property
    def phase(self) -> Any:
        """Return "ordered" for χ_1 < 1, "critical" for χ_1 = 1 (to 1e-9), "chaotic" for χ_1 > 1.

        If the fields are arrays, an array of these words is returned.
        """
        chi_1 = np.asarray(self.chi_1)
        names = np.where(chi_1 > 1 + _CRITICAL, "chaotic", np.where(chi_1 < 1 - _CRITICAL, "ordered", "critical"))
        return str(names) if names.ndim == 0 else names


def fixed_points(activation: Elementwise, w_std: float, b_std: float) -> list[tuple[float, float]]:
    """Return all fixed points of the variance map, each with the slope of the map there.

    A fixed point q of the variance map V is a variance with V(q) = q. It attracts if the slope χ_q = V'(q) is between
    −1 and 1, and repels if χ_q > 1 or χ_q < −1. GELU and SiLU can have two fixed points if σ_b is small. The larger one
    repels, and a variance above it grows forever.

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared.

    Returns:
        A list of pairs (q, χ_q) in ascending order: the fixed points with 1e-9 ≤ q ≤ 9.6e15 (for leaky ReLUs of any
        size), and q = 0 if σ_b = 0 and φ(0) = 0. If every q is a fixed point (ReLU at σ_w² = 2 and σ_b = 0), the list
        is empty.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if `w_std` or `b_std` is not a number or is traced.
        ValueError: If `w_std` or `b_std` is negative or not finite, if float64 is off, or if the means of φ at a
            fixed point cannot be computed accurately.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):
        ...     [(round(q, 4), round(slope, 4)) for q, slope in fixed_points(ntk.Silu(), 1.6795316, 0.2)]
        [(0.194, 0.8707), (0.6895, 1.0987)]

    Note:
        Two fixed points that are less than 6 % apart can be missed.
    """
    _checks.outside_jit("fixed_points", "Inside, `fixed_point` finds one of them.", w_std, b_std)
    fn, (w, b) = checked(activation, w_std=w_std, b_std=b_std)
    _checks.real("w_std", w_std)
    _checks.real("b_std", b_std)
    found = []
    homogeneous = is_homogeneous(fn)
    if float(b) == 0 and float(fn(jnp.zeros(()))) == 0:
        at_zero = float(w**2) * (float(_gain(activation)) if homogeneous else slope_at_zero(fn)) if w > 0 else 0.0
        if not homogeneous or abs(at_zero - 1) > _CRITICAL:
            found.append((0.0, at_zero))
    if not homogeneous:
        excess = np.asarray(b**2 + w**2 * table(fn)[0] - TABLE)
        # If V(q) = q up to rounding errors, the sign of the difference means nothing. An example is a ReLU with a cap,
        # at σ_w² = 2 and variances far below the cap.
        known = np.nonzero(np.abs(excess) > _ROUNDING * TABLE)[0]
        for i, j in itertools.pairwise(known):
            if (excess[i] > 0) == (excess[j] > 0) or j > i + 2:
                continue
            q = _root(fn, w, b, jnp.asarray(TABLE[i]), jnp.asarray(TABLE[j]))
            require_smooth(activation, q)
            found.append((float(q), float(w**2 * variance_slope(fn, q))))
    elif float(w**2 * _gain(activation)) < 1 and float(b) > 0:
        gain = float(w**2 * _gain(activation))
        found.append((float(b) ** 2 / (1 - gain), gain))
    return found


def slope_at_zero(fn: ScalarFunction) -> float:
    """Return the slope of q ↦ E[φ(√q Z)²] at q = 0 if φ(0) = 0: the mean of φ'(0)² from the right and from the left.

    It is ∞ if φ jumps at zero.
    """
    if jump(fn):
        return math.inf
    slope, beside = derivative(fn), 1e-30
    squares = [float(slope(jnp.asarray(x))) ** 2 for x in (beside, -beside)]
    return sum(squares) / 2 if max(squares) > beside else 0.0


def fixed_point(
    activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, *, start: float = 1.0
) -> Float[Array, "..."]:
    """Return the variance that deep networks tend to if their first layer has the variance `start`.

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared. It broadcasts with `w_std`.
        start: The variance after the first layer, a number ≥ 0.

    Returns:
        A fixed point of the variance map, or ∞ if the variance grows forever. It has the broadcast shape.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if another argument does not hold real numbers.
        ValueError: If `w_std`, `b_std` or `start` is negative or not finite, if the shapes do not broadcast, if float64
            is off, or if the means of φ at the fixed point cannot be computed accurately.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):  # σ_b²/(1 − σ_w²/2)
        ...     float(fixed_point(ntk.Relu(), 1.0, 0.5))
        0.5

    Note:
        The variance map V of leaky ReLUs is a straight line. The map of any other activation is tabulated at 1030
        variances up to 9.6e15, and the fixed point is found by Newton steps between two of them. If V(start) > start,
        the result is the first fixed point above `start`, and if V(start) < start, the first one below. Deep networks
        tend to this fixed point if V increases, as it does for most of the library's activations. V decreases for
        cosines and Gaussians, but there the only fixed point attracts.
    """
    fn, (w, b) = checked(activation, w_std=w_std, b_std=b_std)
    _checks.real("start", start, minimum=0.0)
    if is_homogeneous(fn):
        gain = w**2 * _gain(activation)
        inside = gain < 1
        end = jnp.where(inside, b**2 / jnp.where(inside, 1 - gain, 1.0), jnp.inf)
        stays = (b == 0) & ((jnp.abs(gain - 1) < _CRITICAL) | (jnp.asarray(start) == 0))
        return jnp.where(stays, start, end)
    q = _attractor(fn, jnp.asarray(start, jnp.float64), w, b)
    require_smooth(activation, q)
    return q


def depth_scales(activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, *, start: float = 1.0) -> DepthScales:
    """Return the fixed points of the variance map and the correlation map, the slopes there, and the depth scales.

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared. It broadcasts with `w_std`: for a phase diagram pass `w_std[:, None]` and
            `b_std[None, :]` in one call.
        start: The variance after the first layer, a number ≥ 0. It decides which fixed point of the variance map is
            reached if there are several.

    Returns:
        A `DepthScales` with arrays of the broadcast shape.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if another argument does not hold real numbers.
        ValueError: If `w_std`, `b_std` or `start` is negative or not finite, if the shapes do not broadcast, if float64
            is off, if φ jumps at zero (sign), or if the means of φ at a fixed point cannot be computed accurately.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):
        ...     scales = depth_scales(ntk.Tanh(), 1.5, 0.3)
        ...     scales.phase, round(float(scales.q), 4), round(float(scales.xi_c), 2)
        ('chaotic', 0.9608, 19.92)

    Note:
        For activations without a closed form, `c` and `chi_c` are computed by quadrature in the chaotic phase. Grids of
        more than 1,000 points use fewer nodes if no variance is above 12; the relative errors are then up to 3e-5.

    References:
        Schoenholz et al. 2017; Hayou et al. 2019.
    """
    fn, (w, b) = checked(activation, w_std=w_std, b_std=b_std)
    refuse_jump(activation)
    q = fixed_point(activation, w, b, start=start)
    # If the variance vanishes or diverges, compute the slopes at a very small or a very large variance.
    inside = jnp.where(jnp.isfinite(q), jnp.maximum(q, TABLE[0] * 1e-3), _FAR)
    chi_q = w**2 * variance_slope(fn, inside)
    numbers = drop_and_slope(activation, _nodes(activation, inside))
    chi_1 = w**2 * mean(square(derivative(fn)), inside)
    delta = _correlation(numbers, w, inside, chi_1 > 1 + _CRITICAL)
    # The correlation map has a fixed point only if the variance has one.
    delta = jnp.where(jnp.isfinite(q) & (q > 0), delta, 0.0)
    chi_c = jnp.where(delta > 0, w**2 * over(numbers, inside, delta)[1], chi_1)
    return DepthScales(q, 1 - delta, chi_q, chi_1, chi_c, _scale(chi_q), _scale(chi_c))


def phase(activation: Elementwise, w_std: float, b_std: float) -> Literal["ordered", "critical", "chaotic"]:
    """Return the phase of a network, which says whether two inputs become equal or different with depth.

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared.

    Returns:
        "ordered" if inputs become equal (χ_1 < 1), "chaotic" if they become different (χ_1 > 1), "critical" if χ_1 = 1
        to 1e-9.

    Raises:
        TypeError: As `depth_scales`.
        ValueError: As `depth_scales`.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):
        ...     phase(ntk.Erf(), 1.0, 0.1), phase(ntk.Relu(), 2**0.5, 0.0)
        ('ordered', 'critical')
    """
    return depth_scales(activation, w_std, b_std).phase


def _nodes(activation: Elementwise, q: Array) -> tuple[int, int]:
    """Return the result of `enough_nodes`, or fewer nodes for a large grid of moderate variances."""
    found = enough_nodes(activation, q)
    few = q.size > 1000 and not _checks.is_traced(q) and float(q.max()) <= MODERATE
    return (24, 16) if few else found


# ---------------------------------------------------------------------------------------------------- solvers


@functools.cache
def table(fn: ScalarFunction) -> tuple[Array, Array]:
    """Return E[φ²] and E[φ'²] at the variances of `TABLE`."""
    with jax.ensure_compile_time_eval():
        return mean(square(fn), jnp.asarray(TABLE)), mean(square(derivative(fn)), jnp.asarray(TABLE))


@functools.cache
def is_homogeneous(fn: ScalarFunction) -> bool:
    """Whether φ(ax) = aφ(x) for a > 0, as for leaky ReLUs. The variance map is then a straight line.

    φ(±a)/a is compared with φ(±1) for a from 1e-100 to 1e100, at 46 values in each decade. This finds that a ReLU with
    a cap at 100, or one that is cut off below 1e-3, is not homogeneous.
    """
    with jax.ensure_compile_time_eval():
        sizes = np.geomspace(1e-100, 1e100, 9201)[:, None] * np.array([1.0, -1.0])
        values = fn(jnp.asarray(sizes)) / np.abs(sizes)
        return bool(jnp.allclose(values, fn(jnp.asarray([1.0, -1.0]))[None], rtol=1e-12, atol=0.0))


def variance_slope(fn: ScalarFunction, q: Array) -> Array:
    """Return dE[φ²]/dq = E[φ φ' Z]/√q."""
    return mean(_times(fn), q) / q


@functools.cache
def _times(fn: ScalarFunction) -> ScalarFunction:
    return lambda x: x * fn(x) * derivative(fn)(x)


def _gain(activation: Elementwise) -> Array:
    """Return E[φ²]/q = E[φ'²] of a homogeneous activation, which does not depend on q."""
    return drop_and_slope(activation)(jnp.ones(()), jnp.zeros(()))[1]


@functools.partial(jax.jit, static_argnums=0)
def _root(fn: ScalarFunction, w: Array, b: Array, low: Array, high: Array) -> Array:
    """Find the q with V(q) = q between `low` and `high` by Newton steps.

    A step that would leave this interval is replaced by a bisection.
    """
    rising = b**2 + w**2 * mean(square(fn), low) - low > 0  # whether V(q) > q below the root, and V(q) < q above it

    def step(_: ArrayLike, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, q = state
        excess = b**2 + w**2 * mean(square(fn), q) - q
        before = (excess > 0) == rising
        low, high = jnp.where(before, q, low), jnp.where(before, high, q)
        newton = q - excess / (w**2 * variance_slope(fn, q) - 1)
        inside = (newton > low) & (newton < high)
        return low, high, jnp.where(inside, newton, jnp.where(excess == 0, q, (low + high) / 2))

    return jax.lax.fori_loop(0, 8, step, (low, high, (low + high) / 2))[2]


@functools.partial(jax.jit, static_argnums=0)
def _attractor(fn: ScalarFunction, start: Array, w: Array, b: Array) -> Array:
    """Return the first fixed point above `start` if V(start) > start, and the first one below if V(start) < start.

    If V(start) = start up to rounding errors, `start` itself is returned.
    """
    grid, values = jnp.asarray(TABLE), table(fn)[0]

    def bracket(w: Array, b: Array) -> tuple[Array, Array, Array]:
        up = b**2 + w**2 * values - grid > 0
        here = jnp.searchsorted(grid, start).astype(jnp.int64)
        after = b**2 + w**2 * mean(square(fn), start)
        grows, stays = after > start, jnp.abs(after - start) <= _ROUNDING * start
        index = jnp.arange(len(grid))
        above = jnp.where((index >= here) & ~up, index, len(grid)).min()
        below = jnp.where((index < here) & up, index, -1).max()
        high = jnp.where(grows, above, below + 1)
        low = jnp.where(grows, jnp.maximum(above - 1, 0), below)
        # `end` is ∞ above the table, 0 below it, and nan if the fixed point must be found between two entries.
        end = jnp.where(high >= len(grid), jnp.inf, jnp.where(low < 0, 0.0, jnp.nan))
        end = jnp.where(stays, start, end)
        return grid[jnp.clip(low, 0)], grid[jnp.clip(high, 0, len(grid) - 1)], end

    low, high, end = over(bracket, w, b)
    return jnp.where(jnp.isnan(end), _root(fn, w, b, low, high), end)


@functools.partial(jax.jit, static_argnums=0)
def _correlation(numbers: Any, w: Array, q: Array, chaotic: Array) -> Array:
    """Return δ = 1 − c at the fixed point c of the correlation map, and 0 if not `chaotic`.

    It is found by Newton steps from c = 0. The map is a power series in c with coefficients that are not negative. It
    is therefore convex for c ≥ 0, and all steps stay on one side of the fixed point.
    """

    def one(w: Array, q: Array, chaotic: Array) -> Array:
        def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            delta, _, i = state
            drop, slope = numbers(q, delta)
            new = delta - (w**2 * drop - 1) * delta / jnp.minimum(w**2 * slope - 1, -1e-15)
            new = jnp.clip(new, 0.0, 1.0)
            return new, jnp.abs(new - delta) > 1e-14 * delta, i + 1

        go = lambda state: state[1] & (state[2] < 60)  # noqa: E731
        return jnp.where(chaotic, jax.lax.while_loop(go, step, (jnp.ones(()), chaotic, 0))[0], 0.0)

    return over(one, w, q, chaotic)


def _scale(chi: Array) -> Array:
    """Return −1/log(abs(χ)). It is 0 if χ = 0, and ∞ if abs(χ) is 1 (to 1e-9) or larger."""
    magnitude = jnp.abs(chi)
    inside = (magnitude < 1 - _CRITICAL) & (magnitude > 0)
    return jnp.where(inside, -1 / jnp.log(jnp.where(inside, magnitude, 0.5)), jnp.where(magnitude == 0, 0.0, jnp.inf))
