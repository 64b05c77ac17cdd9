"""Kernels of finite networks averaged over initializations."""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float
from tqdm import tqdm

from ntklib import _checks
from ntklib._traced import Traced
from ntklib.empirical import blocks
from ntklib.empirical import cost as costs
from ntklib.empirical.checks import Ready, check_kernel, check_outputs, check_squares, ready
from ntklib.empirical.kernels import by_representation
from ntklib.empirical.plan import METHODS, Method, planned
from ntklib.empirical.pure import Arguments, Function, batched, prepared, pure
from ntklib.models import Model, functional


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MonteCarloKernel:
    """The result of `monte_carlo_kernel`: means over networks, with their standard errors.

    Args:
        ntk: The mean of the empirical NTK, [N, M].
        nngp: The mean of the empirical NNGP kernel, [N, M].
        ntk_error: The standard error of `ntk`, [N, M].
        nngp_error: The standard error of `nngp`, [N, M].
    """

    ntk: Float[Array, "N M"]
    nngp: Float[Array, "N M"]
    ntk_error: Float[Array, "N M"]
    nngp_error: Float[Array, "N M"]


def monte_carlo_kernel(
    build: Callable[[nnx.Rngs], Model],
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    draws: int,
    key: Array,
    method: Method = "auto",
    max_memory: int | float = _checks.MAX_MEMORY,
    progress: bool | None = None,
) -> MonteCarloKernel:
    """Return mean and standard error of the empirical kernels of a network over independent initializations.

    With the kernels Θ_d = `empirical_ntk(build(rngs_d), x1, x2)` (means over outputs) of networks d = 1, ..., D::

        Θ̄ = (1/D) Σ_d Θ_d,    with the standard error √( Σ_d (Θ_d − Θ̄)² / (D (D − 1)) ), entry by entry,

    and likewise for `empirical_nngp`. As the width grows, the expectations of both means tend to `net.kernel(x1, x2)`.
    So this function estimates the kernels of an architecture that has no method `kernel`.

    Args:
        build: A function of `nnx.Rngs` that makes a network, e.g. `lambda rngs: nnx.Sequential(...)`. It is called
            with `nnx.Rngs(k)`, where k is a different key for each network. All networks must have the same structure.
        x1: Inputs, [N, ...], as in `empirical_ntk`.
        x2: Inputs, [M, ...]; by default `x1`.
        draws: D, the number of networks, at least 2.
        key: A JAX random key; the same key gives the same numbers.
        method: As in `empirical_ntk`.
        max_memory: The bytes to work in, as in `empirical_ntk`. There are also six arrays [N, M]. Networks are drawn
            one after the other, so that memory does not grow with their number.
        progress: Whether to show a bar over the networks. By default it is shown, unless the environment variable CI
            is set.

    Returns:
        A `MonteCarloKernel`: `ntk`, `nngp`, `ntk_error`, `nngp_error`, each [N, M].

    Raises:
        ValueError: As for `empirical_ntk`; if `draws` is below 2, if the networks differ in structure or have no
            parameters, or if squares of outputs are not finite.
        TypeError: As for `empirical_ntk`; if `build` is not a function of one argument that makes a network; if `draws`
            is not a whole number; or if `key` is not one JAX random key.
        FloatingPointError: As for `empirical_ntk`; if squares of differences between two kernels are not finite.

    Note:
        The time is D times the time of one kernel. Programs compile once for all networks, also `build` if JAX can
        trace it. A `build` that needs the values of its random numbers is called without compilation.

    References:
        Novak et al. 2019, §4.

    Example:
        >>> import ntklib as ntk
        >>> build = lambda rngs: ntk.mlp([2, 256, 1], w_std=1.0, rngs=rngs)
        >>> estimate = monte_carlo_kernel(build, jnp.eye(2), draws=20, key=jax.random.key(0), progress=False)
        >>> off = jnp.abs(estimate.ntk - build(nnx.Rngs(0)).kernel(jnp.eye(2)).ntk)
        >>> bool((off < 5 * estimate.ntk_error).all())
        True
    """
    _checks.count("draws", draws, minimum=2)
    _checks.choice("method", method, METHODS)
    _checks.real("max_memory", max_memory, above=0.0)
    check_builder(build)
    keys = _split(key, draws)
    quiet = bool(os.environ.get("CI")) if progress is None else not progress
    kernels = _kernels(build, x1, x2, keys, method, float(max_memory))
    moments = None
    with tqdm(total=draws, desc="networks", disable=quiet, leave=False) as bar:
        for count, drawn in enumerate(kernels, 1):
            moments = (drawn, jax.tree.map(jnp.zeros_like, drawn)) if moments is None else _add(moments, drawn, count)
            bar.update()
    assert moments is not None
    (ntk, nngp), squares = moments
    ntk_error, nngp_error = (jnp.sqrt(s / (draws * (draws - 1))) for s in squares)
    return MonteCarloKernel(*map(check_kernel, (ntk, nngp, ntk_error, nngp_error)))


@functools.partial(jax.jit, donate_argnums=0)
def _add(moments: Any, drawn: Any, count: ArrayLike) -> Any:
    """Add a network to means and sums of squared deviations, without differences of large numbers (Welford 1962)."""
    means, squares = moments
    steps = jax.tree.map(jnp.subtract, drawn, means)
    means = jax.tree.map(lambda mean, step: mean + step / count, means, steps)
    return means, jax.tree.map(lambda s, step, new, mean: s + step * (new - mean), squares, steps, drawn, means)


def check_builder(build: Any) -> None:
    """Refuse a value that is not a function of `nnx.Rngs`."""
    example = "e.g. `lambda rngs: ntklib.mlp([3, 64, 1], w_std=1.0, rngs=rngs)`"
    if not callable(build) or isinstance(build, nnx.Module):
        raise TypeError(
            f"`build` must be a function of `nnx.Rngs` that makes a network, {example}; got {type(build).__name__}."
        )
    try:
        inspect.signature(build).bind(None)
    except TypeError as error:
        raise TypeError(f"`build` must take one argument, the `nnx.Rngs`, {example}: {error}.") from None


def _split(key: Any, draws: int) -> Array:
    try:
        keys = jax.random.split(key, draws)
        jax.random.key_data(keys[0])
    except (TypeError, ValueError):
        given = f"{len(key)} of them" if np.ndim(key) == 1 else type(key).__name__
        raise TypeError(f"`key` must be one JAX random key, e.g. `jax.random.key(0)`; got {given}.") from None
    return keys


def _kernels(
    build: Callable[[nnx.Rngs], Model], x1: Any, x2: Any, keys: Array, method: Method, max_memory: float
) -> Iterator[tuple[Array, Array]]:
    """Yield the NTK and the NNGP kernel of each network, both [N, M]."""
    first = _built(build, keys[0])
    if not jax.tree.leaves(functional(first)[1]):
        raise ValueError("`build` must make networks with parameters; this one has none, so no tangent kernel.")
    given, hidden = ready(first, x1, x2), ready(by_representation(first)[0], x1, x2)
    plan = planned(given, outputs="mean", method=method, max_memory=max_memory, tile=None)
    check_outputs(given.function, given.arguments, given.x1, given.x2, plan.precision)
    draw, (_, kernel) = _drawing(build, given, hidden, keys[0]), by_representation(first)
    for k in keys:
        arguments, part = draw(k)
        arguments, inputs1, inputs2 = prepared(arguments, given.x1, given.x2)
        ntk = blocks.compute(plan.strategy, arguments, inputs1, inputs2, plan.dtype, plan.tiling, quiet=True)
        h1 = check_squares("x1", _in_parts(hidden, part, inputs1, max_memory))
        h2 = None if inputs2 is None else check_squares("x2", _in_parts(hidden, part, inputs2, max_memory))
        yield ntk, kernel(h1, h2)


def _built(build: Callable[[nnx.Rngs], Model], key: Array) -> Model:
    model = build(nnx.Rngs(key))
    try:
        functional(model)
    except TypeError as error:
        raise TypeError(f"`build` must make a network: {error}") from error
    return model


def _draw(
    build: Callable[[nnx.Rngs], Model], whole: Function, part: Function, key: Array
) -> tuple[Arguments, Arguments]:
    """Draw a network. Return its arrays, and the arrays of the part that `by_representation` takes of it."""
    model = _built(build, key)
    (function, arguments), (hidden, others) = (pure(*functional(m)) for m in (model, by_representation(model)[0]))
    if (function, hidden) != (whole, part):
        raise ValueError(
            "`build` must make networks of one structure; two networks differ in structure. Create sizes, activations "
            "and functions outside of `build` (a `lambda` is a new function each time), and parameters inside."
        )
    return arguments, others


@functools.partial(jax.jit, static_argnums=0)
def _compiled(draw: Traced, key: Array) -> tuple[Arguments, Arguments]:
    return draw(key)


def _drawing(build: Callable[[nnx.Rngs], Model], given: Ready, hidden: Ready, key: Array) -> Callable[[Array], Any]:
    """Return `_draw` as a function of a key, compiled unless `build` needs the values of its random numbers."""
    draw = functools.partial(_draw, build, given.function, hidden.function)
    try:
        return functools.partial(_compiled, Traced(draw, key))
    except Exception:  # an error with another cause occurs again when `build` is called
        return draw


def _in_parts(hidden: Ready, arguments: Arguments, x: Array, max_memory: float) -> Array:
    """Return the outputs for all inputs, computed in batches that are as large as `max_memory` allows."""
    used = costs.of(hidden.function, arguments, costs.example(x), "mean").bytes_of_example
    size = int(max(1, min(len(x), max_memory // used)))
    parts = [batched(hidden.function, arguments, x[i : i + size]) for i in range(0, len(x), size)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
