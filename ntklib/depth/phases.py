"""Fixed points of signal propagation: the phases, and the depths to which signals reach."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks
from ntklib.depth.propagation import Scalar, checked, has_closed_form, mean, over, pair, require_smooth, square
from ntklib.duals.integrals import derivative
from ntklib.layers import Elementwise

#: Variances at which the maps are tabulated to find every fixed point; 1/18 of an e-folding apart.
TABLE = np.exp(np.log(1e-9) + np.log(1e16) / 659 * np.arange(1030))  # to 9.8e15
_FAR = 1e7  # where slopes are taken for a variance that grows for ever
_PLAIN, _WIDE = 1e4, 1e12  # up to here 64 x 64, and 128 x 96, nodes are enough
_CRITICAL = 1e-9  # how far χ_1 may be from 1 on the edge of chaos


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DepthScales:
    """Where variance and correlation end in a deep network, and how soon; arrays of one shape (see `depth_scales`).

    q: the variance's fixed point, ∞ where it diverges.  c: the correlation's, 1 unless chaotic.
    chi_q: slope of the variance map at q.  chi_1: σ_w² E[φ'²] at q, the slope of the correlation map at 1.
    chi_c: σ_w² E[φ'(u)φ'(v)] at q and c, the slope of the correlation map at c.
    xi_q, xi_c: depth scales, |q_l − q| ~ e^(−l/ξ_q) and |c_l − c| ~ e^(−l/ξ_c); −1/log|χ_q| and −1/log χ_c, and ∞ on
        the critical line, where the approach is like a power of the depth.
    """

    q: Array
    c: Array
    chi_q: Array
    chi_1: Array
    chi_c: Array
    xi_q: Array
    xi_c: Array

    @property
    def phase(self) -> Any:
        """One of "ordered", "critical", "chaotic", by χ_1 below, at (to 1e-9) or above 1; an array for arrays."""
        chi_1 = np.asarray(self.chi_1)
        names = np.where(chi_1 > 1 + _CRITICAL, "chaotic", np.where(chi_1 < 1 - _CRITICAL, "ordered", "critical"))
        return str(names) if names.ndim == 0 else names


def fixed_points(activation: Elementwise, w_std: float, b_std: float) -> list[tuple[float, float]]:
    """All fixed points q of the variance map between 1e-9 and 1e16, ascending, each with the slope χ_q there:
    attracting where |χ_q| < 1, repelling where above. 0 is one if σ_b = 0 and φ(0) = 0.

    GELU and SiLU have two with small σ_b: the larger one repels, and what starts beyond it grows for ever. Two that
    are less than 5 % apart can be missed. Empty for a map that is the identity (ReLU at σ_w² = 2): every q is one.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):
    ...     [(round(q, 4), round(slope, 4)) for q, slope in fixed_points(ntk.Silu(), 1.6795316, 0.2)]
    [(0.194, 0.8707), (0.6895, 1.0987)]
    """
    fn, (w, b) = checked(activation, w_std=w_std, b_std=b_std)
    found = []
    if float(b) == 0 and float(fn(jnp.zeros(()))) == 0:
        found.append((0.0, float(w**2 * derivative(fn)(jnp.zeros(())) ** 2)))
    if not is_homogeneous(fn):
        excess = np.asarray(b**2 + w**2 * table(fn)[0] - TABLE)
        for i in np.nonzero(excess[:-1] * excess[1:] < 0)[0]:
            q = _root(fn, w, b, jnp.asarray(TABLE[i]), jnp.asarray(TABLE[i + 1]))
            require_smooth(activation, q)
            found.append((float(q), float(w**2 * variance_slope(fn, q))))
    elif float(w**2 * _gain(activation)) < 1 and float(b) > 0:
        gain = float(w**2 * _gain(activation))
        found.append((float(b) ** 2 / (1 - gain), gain))
    return found


def fixed_point(activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, *, start: float = 1.0) -> Array:
    """The fixed point of the variance map to which networks go whose first layer has variance `start`; ∞ where it grows
    for ever. σ_w and σ_b broadcast.

    Found in a table of the map at 1030 variances up to 1e16, and polished by Newton steps within a bracket. Takes the
    map to be increasing, as it is for the library's activations.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):  # σ_b²/(1 − σ_w²/2)
    ...     float(fixed_point(ntk.Relu(), 1.0, 0.5))
    0.5
    """
    fn, (w, b) = checked(activation, w_std=w_std, b_std=b_std)
    if is_homogeneous(fn):
        gain = w**2 * _gain(activation)
        inside = gain < 1
        end = jnp.where(inside, b**2 / jnp.where(inside, 1 - gain, 1.0), jnp.inf)
        return jnp.where((jnp.abs(gain - 1) < _CRITICAL) & (b == 0), start, end)
    q = _attractor(fn, jnp.asarray(start, jnp.float64), w, b)
    require_smooth(activation, q)
    return q


def depth_scales(activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, *, start: float = 1.0) -> DepthScales:
    """Fixed points of variance and correlation, their slopes and depth scales; see `DepthScales`. σ_w and σ_b
    broadcast: a phase diagram is one call on a grid (`w_std[:, None]`, `b_std[None, :]`).

    start: the variance after the first layer, which decides where there are several fixed points. Grids larger than
        1,000 points take coarser quadratures (errors about 1e-6) in the chaotic phase, for activations without a
        closed form.
    Source: Schoenholz et al. 2017; Hayou et al. 2019.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):
    ...     scales = depth_scales(ntk.Tanh(), 1.5, 0.3)
    ...     scales.phase, round(float(scales.q), 4), round(float(scales.xi_c), 2)
    ('chaotic', 0.9608, 19.92)
    """
    fn, (w, b) = checked(activation, w_std=w_std, b_std=b_std)
    q = fixed_point(activation, w, b, start=start)
    # Where the variance vanishes or diverges, slopes are those of the limit: at very small and very large variances.
    inside = jnp.where(jnp.isfinite(q), jnp.maximum(q, TABLE[0] * 1e-3), _FAR)
    chi_q = w**2 * variance_slope(fn, inside)
    numbers = pair(activation, _nodes(activation, inside))
    chi_1 = w**2 * mean(square(derivative(fn)), inside)
    delta = _correlation(numbers, w, inside, chi_1 > 1 + _CRITICAL)
    # The variance must be at rest for the correlation map to have a fixed point.
    delta = jnp.where(jnp.isfinite(q) & (q > 0), delta, 0.0)
    chi_c = jnp.where(delta > 0, w**2 * over(numbers, inside, delta)[1], chi_1)
    return DepthScales(q, 1 - delta, chi_q, chi_1, chi_c, _scale(chi_q), _scale(chi_c))


def phase(activation: Elementwise, w_std: float, b_std: float) -> Literal["ordered", "critical", "chaotic"]:
    """The phase of a network: "ordered", where all inputs become equal with depth (χ_1 < 1), "chaotic", where they part
    (χ_1 > 1), or "critical" between the two, to 1e-9.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):
    ...     phase(ntk.Erf(), 1.0, 0.1), phase(ntk.Relu(), 2**0.5, 0.0)
    ('ordered', 'critical')
    """
    return depth_scales(activation, w_std, b_std).phase


def _nodes(activation: Elementwise, q: Array) -> tuple[int, int]:
    """Enough nodes for these variances, where the activation has no closed form."""
    if _checks.is_traced(q):
        return (64, 64)
    largest = float(q.max(initial=0.0))
    if largest > _WIDE and not has_closed_form(activation):
        raise ValueError(
            f"The variance of {activation.name} has its fixed point at {largest:.3g}; correlations are known up to "
            f"{_WIDE:g}. Use a smaller `w_std` or `b_std`."
        )
    if largest > _PLAIN:
        return (128, 96)
    return (64, 64) if q.size <= 1000 else (24, 16)


# ---------------------------------------------------------------------------------------------------- solvers


@functools.cache
def table(fn: Scalar) -> tuple[Array, Array]:
    """E[φ²] and E[φ'²] at the tabulated variances."""
    with jax.ensure_compile_time_eval():
        return mean(square(fn), jnp.asarray(TABLE)), mean(square(derivative(fn)), jnp.asarray(TABLE))


@functools.cache
def is_homogeneous(fn: Scalar) -> bool:
    """Whether φ(ax) = aφ(x) for a > 0, as for leaky ReLUs: the variance map is then a straight line."""
    with jax.ensure_compile_time_eval():
        x = jnp.array([-3.0, -0.7, 0.2, 1.1, 4.0])
        return bool(jnp.allclose(fn(7.0 * x), 7.0 * fn(x), rtol=1e-12, atol=0.0))


def variance_slope(fn: Scalar, q: Array) -> Array:
    """dE[φ²]/dq = E[φ φ' Z]/√q."""
    return mean(_times(fn), q) / q


@functools.cache
def _times(fn: Scalar) -> Scalar:
    return lambda x: x * fn(x) * derivative(fn)(x)


def _gain(activation: Elementwise) -> Array:
    """E[φ²]/q of a homogeneous activation, exact."""
    return pair(activation)(jnp.ones(()), jnp.zeros(()))[1]


@functools.partial(jax.jit, static_argnums=0)
def _root(fn: Scalar, w: Array, b: Array, low: Array, high: Array) -> Array:
    """The root of V(q) = q in a bracket: Newton steps, with bisection where one would leave it."""
    rising = b**2 + w**2 * mean(square(fn), low) - low > 0  # above the root the map is then below the identity

    def step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, q = state
        excess = b**2 + w**2 * mean(square(fn), q) - q
        before = (excess > 0) == rising
        low, high = jnp.where(before, q, low), jnp.where(before, high, q)
        newton = q - excess / (w**2 * variance_slope(fn, q) - 1)
        inside = (newton > low) & (newton < high)
        return low, high, jnp.where(inside, newton, jnp.where(excess == 0, q, (low + high) / 2))

    return jax.lax.fori_loop(0, 8, step, (low, high, (low + high) / 2))[2]


@functools.partial(jax.jit, static_argnums=0)
def _attractor(fn: Scalar, start: Array, w: Array, b: Array) -> Array:
    """Of an increasing map: the first fixed point above the start where the map is above it, else the first below."""
    grid, values = jnp.asarray(TABLE), table(fn)[0]

    def bracket(w: Array, b: Array) -> tuple[Array, Array, Array]:
        up = b**2 + w**2 * values - grid > 0
        here = jnp.searchsorted(grid, start).astype(jnp.int64)
        grows = b**2 + w**2 * mean(square(fn), start) > start
        index = jnp.arange(len(grid))
        above = jnp.where((index >= here) & ~up, index, len(grid)).min()
        below = jnp.where((index < here) & up, index, -1).max()
        high = jnp.where(grows, above, below + 1)
        low = jnp.where(grows, jnp.maximum(above - 1, 0), below)
        end = jnp.where(high >= len(grid), jnp.inf, jnp.where(low < 0, 0.0, jnp.nan))  # nan: a bracket
        return grid[jnp.clip(low, 0)], grid[jnp.clip(high, 0, len(grid) - 1)], end

    low, high, end = over(bracket, w, b)
    return jnp.where(jnp.isnan(end), _root(fn, w, b, low, high), end)


@functools.partial(jax.jit, static_argnums=0)
def _correlation(numbers: Any, w: Array, q: Array, chaotic: Array) -> Array:
    """δ = 1 − c at the fixed point of the correlation map: Newton steps from c = 0. The map is a power series in c with
    coefficients that are not negative, so convex, and they come from one side.
    """

    def one(w: Array, q: Array, chaotic: Array) -> Array:
        def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            delta, _, i = state
            gap, slope = numbers(q, delta)
            new = delta - (w**2 * gap - 1) * delta / jnp.minimum(w**2 * slope - 1, -1e-15)
            new = jnp.clip(new, 0.0, 1.0)
            return new, jnp.abs(new - delta) > 1e-14 * delta, i + 1

        go = lambda state: state[1] & (state[2] < 60)  # noqa: E731
        return jnp.where(chaotic, jax.lax.while_loop(go, step, (jnp.ones(()), chaotic, 0))[0], 0.0)

    return over(one, w, q, chaotic)


def _scale(chi: Array) -> Array:
    """−1/log|χ|; ∞ at 1 and beyond, 0 at 0."""
    magnitude = jnp.abs(chi)
    inside = (magnitude < 1 - _CRITICAL) & (magnitude > 0)
    return jnp.where(inside, -1 / jnp.log(jnp.where(inside, magnitude, 0.5)), jnp.where(magnitude == 0, 0.0, jnp.inf))
