"""The correlation and the NTK of two inputs in deep networks, layer by layer."""

import dataclasses
import functools
import operator
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from tqdm import tqdm

from ntklib import _checks
from ntklib.depth.phases import fixed_point, is_homogeneous
from ntklib.depth.propagation import (
    DropAndSlope,
    ScalarFunction,
    checked,
    drop_and_slope,
    enough_nodes,
    has_closed_form,
    in_range,
    mean,
    require_smooth,
    square,
)
from ntklib.layers import Elementwise

ResidualScaling = Literal["plain", "1/sqrt(l)", "1/sqrt(L)"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DepthProfile:
    """The kernels of two inputs of equal variance in networks of several depths.

    All fields except `depths` have the axis of `depths`, followed by the axes of `rho`; see `ntk_depth_profile`.

    Args:
        depths: The numbers L of affine layers, [T].
        one_minus_c: 1 − c, with c the correlation of the outputs.
        variance: Σ(x, x). For a φ with φ(ax) = aφ(x) for a > 0, such as ReLU, it is ∞ if it is too large for
            float64, and 0 if it is too small.
        ntk_diagonal: Θ(x, x), or ∞ if it is above 1e308.
        ntk_off_diagonal: Θ(x, x'), or ∞ if it is above 1e308.
        ratio: Θ(x, x')/Θ(x, x). It is right also if the two kernels are ∞ or 0.
    """

    depths: Int[Array, " T"]
    one_minus_c: Float[Array, "T *pairs"]
    variance: Float[Array, "T *pairs"]
    ntk_diagonal: Float[Array, "T *pairs"]
    ntk_off_diagonal: Float[Array, "T *pairs"]
    ratio: Float[Array, "T *pairs"]


def ntk_depth_profile(
    activation: Elementwise,
    w_std: float,
    b_std: float,
    depths: Sequence[int] | ArrayLike,
    rho: ArrayLike | None = None,
    *,
    delta: ArrayLike | None = None,
    q: float | None = None,
    residual: ResidualScaling | None = None,
) -> DepthProfile:
    """Return the correlation and the NTK of two inputs in networks of several depths.

    The depth L counts affine layers. At L = 1, Θ = Σ. From one layer to the next::

        Σ' = σ_b² + σ_w² E[φ(u)φ(v)],  Θ' = Σ' + σ_w² E[φ'(u)φ'(v)] Θ.

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared.
        depths: The depths L in ascending order, [T].
        rho: The correlation of the two inputs after the first layer: a number, or an array for several pairs.
        delta: 1 − rho. Give it instead of `rho` if the correlation is too near 1 for float64.
        q: The variance after the first layer. By default it is the fixed point of the variance map, so that the
            variance is the same in all layers (1 for ReLU at its critical point).
        residual: None for a network without skip connections. "plain" is for `Residual` blocks, z' = z + branch(z),
            whose branch is φ and then an affine layer. With "1/sqrt(l)" the branch of the l-th block is multiplied by
            1/√l. With "1/sqrt(L)" each branch is multiplied by 1/√(max(depths) − 1), where max(depths) − 1 is the
            number of blocks of the deepest network.

    Returns:
        A `DepthProfile`.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if another argument does not hold real numbers or is
            traced.
        ValueError: If `depths` are not positive whole numbers in ascending order; if neither or both of `rho` and
            `delta` are given, or if they are out of range; if `residual` is unknown; if `w_std` or `b_std` is negative,
            or `q` not positive; if no `q` is given and the network is residual or its variance vanishes or diverges; if
            the variance at one of the `depths` is outside of the range of float64 (not for a φ with φ(ax) = aφ(x),
            unless `w_std` and `b_std` are 0), or the means of φ at it cannot be computed accurately; or if float64 is
            off.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):  # on the edge of chaos the diagonal is L q; the ratio tends to 1/4
        ...     profile = ntk_depth_profile(ntk.Relu(), 2**0.5, 0.0, [1, 1000, 100_000], rho=0.1)
        ...     profile.ntk_diagonal.round(3).tolist(), profile.ratio.round(4).tolist()
        ([1.0, 1000.0, 100000.0], [0.1, 0.2534, 0.2501])

    Note:
        1 − c keeps its relative precision however small it is. Layers are computed one by one, and only the results at
        `depths` are kept in memory. A layer takes 1 to 20 microseconds if the activation has a closed form (ReLUs, erf,
        GELU, sin), and about a millisecond if it needs quadrature. If there are more than 2^18 layers, a progress bar
        is shown, and Ctrl-C stops the computation.

    References:
        Jacot et al. 2018; Hayou et al. 2022 (1905.13654).
    """
    stops = _depths(depths)
    given = rho, delta, w_std, b_std, q
    _checks.outside_jit("ntk_depth_profile", "For one layer `decorrelation_map` can be traced.", *given)
    if (rho is None) == (delta is None):
        raise ValueError("Give either the correlation of the inputs, `rho`, or 1 − rho, `delta`: one of the two.")
    if rho is not None:
        in_range("rho", rho, -1.0, 1.0)
        delta = 1 - jnp.asarray(rho)
    else:
        in_range("delta", delta, 0.0, 2.0)
    _, (w, b) = checked(activation, w_std=w_std, b_std=b_std)
    _checks.real("w_std", w_std)
    _checks.real("b_std", b_std)
    start = checked(activation, delta=jnp.asarray(delta))[1][0]
    if residual is not None:
        _checks.choice("residual", residual, ("plain", "1/sqrt(l)", "1/sqrt(L)"))
    if q is None:
        if residual is not None:
            raise ValueError("`q` must be given for residual networks: their variance grows with every block.")
        q = float(fixed_point(activation, w, b))
        if not 0 < q < np.inf:
            raise ValueError(
                f"The variance of {activation.name} with w_std = {float(w):g}, b_std = {float(b):g} "
                f"{'vanishes' if q == 0 else 'diverges'} with depth: give the variance after the first layer as `q`."
            )
    _checks.real("q", q, above=0.0)
    require_smooth(activation, jnp.asarray(q))
    # Two `Tanh()` share the objects `fn` and `drop_and_slope(...)`, so that `_run` compiles once for both.
    first = _start(jnp.asarray(q, jnp.float64), start.ravel())
    enough = enough_nodes(activation, first.q)
    state = _through(activation.fn, drop_and_slope(activation, enough), residual, w, b, first, stops)
    shape = (len(stops), *start.shape)
    # For a homogeneous φ `state.q` stays q, which is checked above. The variance vanishes where `growth` is −∞.
    _refuse_out_of_range(activation, np.where(np.isfinite(state.growth), state.q, 0.0), stops)
    if not is_homogeneous(activation.fn):
        require_smooth(activation, state.q)
        more = enough_nodes(activation, state.q)
        if more > enough and not has_closed_form(activation):  # the variance has grown
            state = _through(activation.fn, drop_and_slope(activation, more), residual, w, b, first, stops)
    one_minus_c, diagonal, off = (a.reshape(shape) for a in (state.delta, state.diagonal, state.off))
    variance = (state.q * jnp.exp(state.growth)).reshape(len(stops), *[1] * start.ndim) * jnp.ones(shape)
    return DepthProfile(jnp.asarray(stops), one_minus_c, variance, variance * diagonal, variance * off, off / diagonal)


class _State(NamedTuple):
    """The state of R pairs of inputs at one depth. The variance is q e^growth.

    `diagonal` and `off` are Θ(x, x) and Θ(x, x') divided by the variance.
    """

    q: Float[Array, ""]
    growth: Float[Array, ""]
    delta: Float[Array, " R"]
    diagonal: Float[Array, " R"]
    off: Float[Array, " R"]


def _start(q: Array, delta: Array) -> _State:
    return _State(q, jnp.zeros(()), delta, jnp.ones_like(delta), 1 - delta)


#: The number of layers in one compiled call. Between two calls the progress bar moves, and Ctrl-C takes effect.
_AT_ONCE = 2**18


def _through(
    fn: ScalarFunction,
    numbers: DropAndSlope,
    residual: ResidualScaling | None,
    w: Array,
    b: Array,
    state: _State,
    stops: np.ndarray,
) -> _State:
    """Return the states at all `stops`, the depths in ascending order, from the `state` at depth 1."""
    last = int(stops[-1])
    if last <= _AT_ONCE:
        return _run(fn, numbers, residual, w, b, state, 1, last, jnp.asarray(stops))[1]
    found = []
    quiet = bool(os.environ.get("CI"))
    with tqdm(total=last, desc="depth profile", unit="layer", disable=quiet, leave=False, delay=2.0) as bar:
        for low in range(0, last, _AT_ONCE):
            high = min(low + _AT_ONCE, last)
            inside = stops[(stops > low) & (stops <= high)]
            ends = np.append(inside, high)
            state, states = _run(fn, numbers, residual, w, b, state, max(low, 1), last, jnp.asarray(ends))
            jax.block_until_ready(state)
            found.append(jax.tree.map(operator.itemgetter(slice(len(inside))), states))
            bar.update(high - low)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    fn: ScalarFunction,
    numbers: DropAndSlope,
    residual: ResidualScaling | None,
    w: Array,
    b: Array,
    state: _State,
    depth: ArrayLike,
    last: ArrayLike,
    stops: Array,
) -> tuple[_State, _State]:
    """Go from the state at `depth` to the last of the stops. Return the state there and the states at all stops.

    `last` is the depth of the deepest network.
    """
    homogeneous = is_homogeneous(fn)

    def layer(depth: Array, state: _State) -> _State:
        branch = {None: 1.0, "plain": 1.0, "1/sqrt(l)": 1 / depth, "1/sqrt(L)": 1 / jnp.maximum(last - 1, 1)}
        weight, bias = w**2 * branch[residual], b**2 * branch[residual]
        kept = 0.0 if residual is None else 1.0
        drop, slope = jax.vmap(lambda d: numbers(state.q, d))(state.delta)
        chi = weight * numbers(state.q, jnp.zeros(()))[1]
        # For a homogeneous φ, E[φ²] = q E[φ'²] is exact. An error of quadrature would grow with every layer.
        second = numbers(state.q, jnp.zeros(()))[1] * state.q if homogeneous else mean(square(fn), state.q)
        shift = jnp.where(bias > 0, bias * jnp.exp(-state.growth), 0.0)  # without a bias exp(−growth) may be infinite
        new = shift + weight * second + kept * state.q
        factor = state.q / new
        moved = factor * (weight * drop + kept) * state.delta
        # Below, all terms of Θ' = kept Θ + (Σ' − kept Σ) + weight E[φ'φ'] Θ are divided by the new variance.
        added = 1 - kept * factor
        shared = 1 - moved - kept * factor * (1 - state.delta)
        diagonal = added + factor * (kept + chi) * state.diagonal
        off = shared + factor * (kept + weight * slope) * state.off
        if homogeneous:  # the variance may leave the range of float64: q stays, and `growth` changes
            return _State(state.q, state.growth - jnp.log(factor), moved, diagonal, off)
        return _State(new, state.growth, moved, diagonal, off)

    def advance(carry: tuple[Array, _State], stop: Array) -> tuple[Any, Any]:
        depth, state = carry
        state = jax.lax.fori_loop(depth, stop, lambda i, s: layer(i.astype(jnp.float64), s), state)
        return (stop, state), state

    (_, end), states = jax.lax.scan(advance, (jnp.asarray(depth, stops.dtype), state), stops)
    return end, states


def _refuse_out_of_range(activation: Elementwise, q: np.ndarray, stops: np.ndarray) -> None:
    """Refuse variances, one for each depth of `stops`, that are outside of the range of float64."""
    limits = np.finfo(np.float64)
    wrong = ~((q >= limits.tiny) & (q <= limits.max))
    if wrong.any():
        raise ValueError(
            f"The variance of {activation.name} {'vanishes' if (q[wrong] < limits.tiny).any() else 'diverges'}: at "
            f"depth {stops[wrong][0]} it is outside of the range of float64. Use smaller `depths`, or a `w_std` and a "
            f"`b_std` with which the variance has a fixed point (`fixed_point` returns it)."
        )


def _depths(depths: Any) -> np.ndarray:
    known = np.atleast_1d(np.asarray(depths))
    if known.ndim != 1 or not known.size or known.dtype.kind not in "iu" or known.min() < 1:
        raise ValueError(f"`depths` must be positive whole numbers of affine layers, [T]; got {depths!r}.")
    if (np.diff(known) <= 0).any():
        raise ValueError(f"`depths` must ascend; got {known.tolist()}.")
    return known
