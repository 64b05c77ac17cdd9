"""Distance, velocity and alignment of kernels, all from the cosine of the angle between two kernels."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib._directions import sum_in_groups
from ntklib.empirical import empirical_ntk
from ntklib.evolution import _models
from ntklib.models import Model

Outputs = Literal["mean", "full"]
Tile = Callable[[slice, slice], Any]


def kernel_distance(
    kernel1: ArrayLike | Model,
    kernel2: ArrayLike | Model,
    x: ArrayLike | None = None,
    *,
    outputs: Outputs = "mean",
    max_memory: int | float = _checks.MAX_MEMORY,
) -> Float[Array, ""]:
    """Return the distance between two kernels: one minus the cosine of the angle between them.

    Each kernel counts as one vector of all its entries::

        S(Θ, Θ') = 1 − tr(Θ Θ'ᵀ) / √(tr(Θ Θᵀ) tr(Θ' Θ'ᵀ)).

    S is 0 between a kernel and any positive multiple of this kernel, 1 between orthogonal kernels, and at most 1
    between positive semi-definite kernels.

    Args:
        kernel1: A kernel [N, M] or [N, M, K, K]; or a model as in `empirical_ntk`, whose kernel between the inputs `x`
            is computed.
        kernel2: Another kernel of the same shape, or another model.
        x: The inputs [N, ...] on which two models are compared. Leave `x` out for arrays.
        outputs: For models: "mean" compares the kernels (1/K) Σ_k Θ_kk, "full" the kernels Θ_kl of all outputs.
        max_memory: For models: the bytes to use; by default 2 GiB. Kernels that do not fit are compared tile by tile.

    Returns:
        A number, 0 ≤ S ≤ 2.

    Raises:
        ValueError: If the kernels differ in shape or in their numbers of outputs; if a kernel is zero, since zero has
            no direction, or not finite; if `x` is missing for models or given with arrays; as for `empirical_ntk`.
        TypeError: If a kernel is neither a floating-point array nor a model; for models inside `jit`.
        FloatingPointError: As for `empirical_ntk`.

    Example:
        >>> theta = jnp.eye(2)
        >>> kernel_distance(theta, 3 * theta).item()
        0.0
        >>> round(kernel_distance(theta, jnp.array([[1.0, 1.0], [1.0, 1.0]])).item(), 4)  # 1 − 1/√2
        0.2929

    Note:
        For arrays S is computed as ½ ‖Θ/‖Θ‖ − Θ'/‖Θ'‖‖², so that small distances keep their digits; for models it is
        computed from sums in double precision. Arrays may be traced; a traced kernel of zeros gives NaN. Two models
        take the time of two calls of `empirical_ntk`. If there are several tiles, each evaluates the networks anew.

    References:
        Fort et al. 2020 (2010.15110), with the kernels of all logits (outputs="full").
    """
    if _are_models(x, kernel1=kernel1, kernel2=kernel2):
        cosine = _cosine_of_models(kernel1, kernel2, x, outputs, max_memory, "kernel_distance")
        return jnp.asarray(max(0.0, 1.0 - cosine))
    k1, k2 = _arrays(kernel1, kernel2)
    return _half_square(_unit(k1), _unit(k2))


def kernel_velocity(
    kernel1: ArrayLike | Model,
    kernel2: ArrayLike | Model,
    x: ArrayLike | None = None,
    *,
    lag: int | float = 0.4,
    outputs: Outputs = "mean",
    max_memory: int | float = _checks.MAX_MEMORY,
) -> Float[Array, ""]:
    """Return the velocity of a kernel: the distance between the kernels at two times, divided by the time between them.

    With the distance S from `kernel_distance` and the lag Δ::

        v(t) = S(Θ_t, Θ_{t+Δ})/Δ.

    Args:
        kernel1: The kernel, or the model, at time t.
        kernel2: The kernel, or the model, at time t + Δ.
        x: As in `kernel_distance`.
        lag: Δ, in epochs or any other unit of time.
        outputs: As in `kernel_distance`.
        max_memory: As in `kernel_distance`.

    Returns:
        A number, at least 0: per epoch, if `lag` is in epochs.

    Raises:
        ValueError: If `lag` is not positive; as for `kernel_distance`.
        TypeError: If `lag` is not a number; as for `kernel_distance`.
        FloatingPointError: As for `kernel_distance`.

    Example:
        >>> round(kernel_velocity(jnp.eye(2), jnp.array([[1.0, 0.1], [0.1, 1.0]]), lag=0.5).item(), 5)
        0.00993

    Note:
        S is quadratic in a small change of the kernel. If the kernel is a smooth function of time, v is therefore
        proportional to Δ for small Δ, and velocities with different lags cannot be compared. With ReLU the kernel
        jumps whenever a unit changes sign at an input. S then falls like Δ, and v tends to a constant (chapter 18).

    References:
        Fort et al. 2020 (2010.15110), with Δ = 0.4 epochs.

    See Also:
        `follow`, which trains a network and records v at chosen times.
    """
    _checks.real("lag", lag, above=0.0)
    return kernel_distance(kernel1, kernel2, x, outputs=outputs, max_memory=max_memory) / lag


def kernel_alignment(
    kernel1: ArrayLike | Model,
    kernel2: ArrayLike | Model | None = None,
    x: ArrayLike | None = None,
    *,
    y: ArrayLike | None = None,
    centered: bool = False,
    outputs: Outputs = "mean",
    max_memory: int | float = _checks.MAX_MEMORY,
) -> Float[Array, ""]:
    """Return the alignment of a kernel with another kernel or with targets: the cosine of the angle between them.

    Each kernel counts as one vector of all its entries::

        A(Θ, Θ') = tr(Θ Θ'ᵀ) / √(tr(Θ Θᵀ) tr(Θ' Θ'ᵀ)).

    Targets y have the kernel y yᵀ, or y_ik y_jl if Θ is [N, N, K, K]. With `centered` each kernel is first replaced by
    H Θ H, for each pair of outputs. H = 1 − (1/N) 1 1ᵀ subtracts the mean over the inputs: the first 1 is the identity,
    the others are vectors of ones. This removes the mean of the features.

    Args:
        kernel1: A kernel [N, N] or [N, N, K, K]; or a model as in `empirical_ntk`.
        kernel2: Another kernel of the same shape, or another model. Leave `kernel2` out if there are targets.
        x: The inputs [N, ...] of the models. Leave `x` out for arrays.
        y: Targets [N, K], e.g. `one_hot_centered(labels, K)`, in place of `kernel2`.
        centered: Whether to center both kernels.
        outputs: For models: "mean" or "full", as in `kernel_distance`.
        max_memory: As in `kernel_distance`.

    Returns:
        A number between −1 and 1, not negative if both kernels are positive semi-definite. For two kernels without
        centering it is 1 − `kernel_distance`.

    Raises:
        ValueError: As for `kernel_distance`; if `kernel2` and `y` are both given, or neither; if `y` does not fit
            `kernel1`; if centering leaves only rounding errors of a kernel.
        TypeError: As for `kernel_distance`; if `centered` is not True or False.
        FloatingPointError: As for `kernel_distance`.

    Example:
        >>> y = jnp.array([[1.0], [-1.0]])
        >>> round(kernel_alignment(jnp.eye(2), y=y).item(), 4), round(kernel_alignment(y @ y.T, y=y).item(), 4)
        (0.7071, 1.0)
        >>> round(kernel_alignment(jnp.eye(2), y=y, centered=True).item(), 4)  # centered, both are y yᵀ
        1.0

    References:
        Cristianini et al. 2001, for targets; Cortes, Mohri, Rostamizadeh 2012 (1203.0550), for centering.
    """
    if (kernel2 is None) == (y is None):
        raise ValueError("`kernel_alignment` needs another kernel or targets: pass either `kernel2` or `y`.")
    _checks.flag("centered", centered)
    others = {} if kernel2 is None else {"kernel2": kernel2}
    if _are_models(x, kernel1=kernel1, **others):
        what = "kernel_alignment"
        return jnp.asarray(_cosine_of_models(kernel1, kernel2, x, outputs, max_memory, what, y=y, centered=centered))
    if y is not None:
        k1 = _checks.array("kernel1", kernel1, "N N ...")
        targets = _scaled(_checks.targets("y", y, len(k1))).astype(_single(k1.dtype))
        k1, k2 = _arrays(k1, _target_tile(targets, targets, full=k1.ndim == 4), second="y yᵀ")
    else:
        k1, k2 = _arrays(kernel1, kernel2)
    if centered:
        k1, k2 = (_left("kernel1", k1, _centered(k1)), _left("y" if kernel2 is None else "kernel2", k2, _centered(k2)))
    return jnp.sum(_unit(k1) * _unit(k2))


# ------------------------------------------------------------------------------------------------- kernels as arrays


@jax.jit
def _half_square(u: Array, v: Array) -> Array:
    """Return 1 − u·v for unit vectors u, v, as ½ ‖u − v‖²: this loses no digits where u and v are close."""
    return sum_in_groups(jnp.square(u - v)) / 2


@jax.jit
def _unit(k: Array) -> Array:
    """Return the entries of a kernel as a vector of length 1. Scaling them first keeps squares from overflowing."""
    entries = k.reshape(-1)
    entries = entries / jnp.max(jnp.abs(entries))
    return entries / jnp.sqrt(sum_in_groups(jnp.square(entries)))


@jax.jit
def _centered(k: Array) -> Array:
    """Return H Θ H, for each pair of outputs."""
    k = k - jnp.mean(k, 0, keepdims=True)
    return k - jnp.mean(k, 1, keepdims=True)


def _left(argument: str, before: Array, after: Array) -> Array:
    """Return the kernel `after` centering. Refuse it if all its entries are rounding errors of the kernel `before`."""
    if _checks.is_traced(after):
        return after
    # 30 ε allows for the rounding errors of two means.
    noise = 30 * float(jnp.finfo(before.dtype).eps) * float(jnp.max(jnp.abs(before)))
    if float(jnp.max(jnp.abs(after))) <= noise:
        raise ValueError(_NOTHING_LEFT.format(argument=argument))
    return after


_NOTHING_LEFT = "`{argument}` is constant over the inputs, so that centering makes it zero. Pass centered=False."


def _arrays(kernel1: Any, kernel2: Any, second: str = "kernel2") -> tuple[Array, Array]:
    """Check that two kernels have one shape and are not zero. Return them in one type of at least 32 bits."""
    k1, k2 = _checks.array("kernel1", kernel1, "N M ..."), _checks.array(second, kernel2, "N M ...")
    _checks.same_shape(second, k2, "kernel1", k1)
    dtype = _single(jnp.promote_types(k1.dtype, k2.dtype))
    for argument, k in (("kernel1", k1), (second, k2)):
        if not _checks.is_traced(k) and float(np.abs(np.asarray(k)).max()) < float(jnp.finfo(k.dtype).tiny):
            raise ValueError(_ZERO.format(argument=argument))
    return k1.astype(dtype), k2.astype(dtype)


def _single(dtype: Any) -> Any:
    """Return float32 for types of 16 bits: in float16 the sum of more than 65,504 squares of ones overflows."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


_ZERO = (
    "`{argument}` must not be zero, nor below the smallest normal number of its type, where digits are lost: a kernel "
    "of zeros has no direction, so that no angle to another kernel is defined."
)


def _scaled(y: Array) -> Array:
    """Divide targets by the largest entry, so that products do not overflow. The direction of y yᵀ stays the same."""
    largest = jnp.max(jnp.abs(y))
    return y / jnp.where(largest > 0, largest, 1.0)


def _target_tile(left: Array, right: Array, *, full: bool) -> Array:
    """Return the kernel of targets between two sets of examples: y yᵀ, or y_ik y_jl if `full`."""
    return jnp.einsum("ik,jl->ijkl", left, right) if full else left @ right.T


# ------------------------------------------------------------------------------------------------- kernels of models


def _are_models(x: Any, **kernels: Any) -> bool:
    """Whether the kernels are given by models. Refuse arrays with `x`, and models without `x`."""
    for argument, value in kernels.items():
        is_array = isinstance(value, (np.ndarray, np.generic, jax.Array, list)) or hasattr(value, "nngp")
        if x is None and not is_array and (callable(value) or isinstance(value, tuple)):
            raise ValueError(f"`x` must be given if `{argument}` is a model: the inputs for its kernel.")
        if x is not None and is_array:
            raise ValueError(f"`x` is for models, and `{argument}` is an array. Leave `x` out.")
    return x is not None


def _cosine_of_models(
    model1: Model,
    model2: Model | None,
    x: Any,
    outputs: str,
    max_memory: int | float,
    what: str,
    *,
    y: Any = None,
    centered: bool = False,
) -> float:
    """Return the cosine between the kernels of two models, or of a model and targets."""
    _checks.choice("outputs", outputs, ("mean", "full"))
    _checks.real("max_memory", max_memory, above=0.0)
    first = _models.checked("kernel1", model1, x)
    x = first.x1
    second: Tile
    if model2 is None:
        targets = _scaled(_checks.targets("y", y, len(x)))
        if targets.shape[1] != first.k and outputs == "full":
            raise ValueError(f"`y` must have as many outputs as `kernel1`, {first.k}; got {targets.shape[1]}.")
        second = lambda i, j: _target_tile(targets[i], targets[j], full=outputs == "full")  # noqa: E731
        _models.known(what, first, targets)
    else:
        other = _models.checked("kernel2", model2, x)
        if other.k != first.k and outputs == "full":
            raise ValueError(f"`kernel2` must have as many outputs as `kernel1`, {first.k}; got {other.k}.")
        _models.known(what, first, other)
        second = _kernel_tile(model2, x, outputs, max_memory)
    entry = 16 * (first.k**2 if outputs == "full" else 1)  # bytes: an entry of at most 8 in each of two tiles
    pairs = _models.tiles(len(x), entry, max_memory)
    names = ("kernel1", "y" if model2 is None else "kernel2")
    return tiled_cosine(_kernel_tile(model1, x, outputs, max_memory), second, pairs, names, centered=centered)


def _kernel_tile(model: Model, x: Array, outputs: Any, max_memory: int | float) -> Tile:
    """Return the function that computes a tile of a model's kernel."""

    def tile(i: slice, j: slice) -> Array:
        columns = None if i == j else _models.part(x, j)
        return empirical_ntk(model, _models.part(x, i), columns, outputs=outputs, max_memory=max_memory / 2)

    return tile


def tiled_cosine(
    tile1: Tile, tile2: Tile, pairs: list[tuple[slice, slice]], names: tuple[str, str], *, centered: bool
) -> float:
    """Return the cosine between two symmetric kernels, which are computed tile by tile.

    With the row sums r_i = Σ_j Θ_ij and s_i = Σ_j Θ'_ij, [N] or [N, K, K]::

        ⟨HΘH, HΘ'H⟩ = ⟨Θ, Θ'⟩ − (2/N) Σ_i r_i·s_i + (1/N²) (Σ_i r_i)·(Σ_i s_i).
    """
    n = max(j.stop for _, j in pairs)
    products, sums = np.zeros(3), [np.zeros(0), np.zeros(0)]
    for i, j in pairs:
        both = [np.asarray(tile(i, j)) for tile in (tile1, tile2)]
        products += (1 if i == j else 2) * _products(*both)
        for k, tile in enumerate(both if centered else []):
            if not sums[k].size:
                sums[k] = np.zeros((n, *tile.shape[2:]))
            sums[k][i] += tile.sum(1, dtype=np.float64)
            if i != j:  # the tile below the diagonal is the transpose, with the two outputs exchanged
                below = tile.sum(0, dtype=np.float64)
                sums[k][j] += below.swapaxes(-1, -2) if below.ndim == 3 else below
    left = products
    if centered:
        rows, totals = _products(*sums), _products(*(s.sum(0, keepdims=True) for s in sums))
        left = products - 2 * rows / n + totals / n**2
    for name, before, after in zip(names, products[[0, 2]], left[[0, 2]], strict=True):
        if before == 0:
            raise ValueError(_ZERO.format(argument=name))
        if after <= 1e-12 * before:  # these are squared norms; in float32, 1e-6 of a norm may be a rounding error
            raise ValueError(_NOTHING_LEFT.format(argument=name))
    return float(left[1] / math.sqrt(left[0]) / math.sqrt(left[2]))


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return [a·a, a·b, b·b] in double precision. Only one row at a time is converted."""
    total = np.zeros(3)
    for u, v in zip(a, b, strict=True):
        u, v = (np.ravel(w).astype(np.float64) for w in (u, v))
        total += u @ u, u @ v, v @ v
    return total
