"""Mini-batch noise in function space: SGD with a constant tangent kernel, its exact moments, and runs of it.

Everything rests on one recursion. A step moves f(x) by Θ(x, X) times a vector, so f_t(x) = f_0(x) + Θ(x, X) c_t, and

    c_{t+1} = c_t − (η/B) D_t r_t,  r_t = f_t(X) − y,

where D_t = diag(n_i) counts how often the batch holds each example, Σ n_i = B, independently of other steps. The mean
of D_t/B is 1/N; the covariance of D_t r/B is s [diag(r²)/N − r rᵀ/N²], with s = 1/B for draws with replacement and
s = (N − B)/(B (N − 1)) without. That is linear in r rᵀ, so the first two moments close. Chapter 08 derives it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.noise_limits import batch_noise, noise_level, problem, product, warn_if_unstable
from ntklib.predict import spectrum

Moments = tuple[Float[Array, "*T N K"], Float[Array, "*T N N"]]
MomentsAtTest = tuple[Float[Array, "*T M K"], Float[Array, "*T M M"]]
Runs = Float[Array, "runs *T N K"]
RunsAtTest = Float[Array, "runs *T M K"]
Steps = int | Sequence[int] | ArrayLike


def noise_covariance(residual: ArrayLike, batch_size: int, replace: bool = False) -> Float[Array, "N N"]:
    """Covariance of the mini-batch residual D r/B, summed over the K outputs: s [diag(Σ_k r_k²)/N − r rᵀ/N²], [N, N].

    An SGD step moves f(x) by −η Θ(x, X) D r/B; this is its noise before the kernel spreads it. residual: f − y, [N, K].
    replace: whether a batch may hold an example twice. Without, a full batch has no noise.
    Raises ValueError on an empty batch, and on one larger than N without replacement.

    >>> noise_covariance(jnp.array([[2.0], [0.0]]), batch_size=1).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    residual = _checks.array("residual", residual, "N K", way_out="For one output pass `residual[:, None]`.")
    n = residual.shape[0]
    level = noise_level(n, batch_size, replace)
    return level * (jnp.diag(jnp.sum(residual**2, axis=1)) / n - product(residual, residual.T) / n**2)


def sgd_moments(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: float | Array,
    batch_size: int,
    steps: Steps,
    f0: ArrayLike | None = None,
    replace: bool = False,
    label_noise: float | Array = 0.0,
    ntk_test: ArrayLike | None = None,
    f0_test: ArrayLike | None = None,
) -> Moments | tuple[Moments, MomentsAtTest]:
    """Exact mean and covariance of the outputs under SGD on 1/(2N) Σ_i ‖f(x_i) − y_i‖² with a constant kernel:

        c̄ ← c̄ − (η/N) r̄,  C ← A C A + η² s [diag(M)/N − M/N²] + η²σ²K/(BN) 1,
        A = 1 − ηΘ/N,  M = Σ_k E[r_k r_kᵀ] = r̄ r̄ᵀ + Θ C Θ,

    for the coefficients c of this module's head. No small step, large batch or Gaussian noise is assumed. The mean is
    that of gradient descent. Batches are drawn afresh at each step: epochs are another process (see `sgd_simulate`).

    ntk_train: Θ(X, X), [N, N].  y: targets, [N, K].  f0: outputs at the start, [N, K] (zero by default).
    steps: one number of steps or several [T], ascending; 0 is the start.  replace: see `noise_covariance`.
    label_noise: standard deviation σ of a fresh N(0, σ²) error in the target of every draw and output.
    ntk_test, f0_test: Θ(x, X), [M, N], and the outputs there at the start, [M, K].

    Returns (mean [(T,) N, K], cov [(T,) N, N]); with `ntk_test` a pair of such pairs, for training and test points.
    `cov` is Σ_k Cov(f_k(x_i), f_k(x_j)), summed over the K outputs: the expected loss is (‖mean − y‖² + tr cov)/(2N).
    Warns if second moments grow without bound at this learning rate, which is tested (at the price of some 30 steps)
    only where neither 2N/λ_max nor a sufficient bound decides; not under jit.
    Cost: two N×N matrix products a step, 4 s for 1,000 steps at N = 512 on two CPU cores (float32: 3 s), and nothing
    more for test points. Memory: a few N² + T (N² + M²) numbers.

    >>> theta, y = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([[1.0], [-1.0]])
    >>> mean, cov = sgd_moments(theta, y, learning_rate=0.5, batch_size=1, steps=1)
    >>> mean[:, 0].round(4).tolist(), cov.round(4).tolist()  # f is (1, 0.5) or (−0.5, −1), by hand
    ([0.25, -0.25], [[0.5625, 0.5625], [0.5625, 0.5625]])
    """
    given = problem(ntk_train, y, f0, learning_rate, label_noise, ntk_test, f0_test)
    stops, several = _stops(steps)
    n, outputs = given.y.shape
    level = noise_level(n, batch_size, replace)
    values, modes = spectrum("ntk_train", given.ntk, 0.0)
    warn_if_unstable(given.ntk, values, modes, level, learning_rate)
    fresh = learning_rate**2 * label_noise**2 * outputs / (batch_size * n)
    numbers = [jnp.asarray(number, modes.dtype) for number in (learning_rate, level, fresh)]
    start = product(modes.T, given.f0 - given.y)
    mean, cov = _recursion(values, modes, start, *numbers, jnp.diff(stops, prepend=0))
    mean, cov = (mean, cov) if several else (mean[0], cov[0])

    def read(start: Array, rows: Array) -> tuple[Array, Array]:
        """Moments of f_0(x) + Θ(x, X) c, where rows = Θ(x, X) U, [M, N]."""
        return _from_start(start, rows, mean), product(product(rows, cov), rows.T)

    train = read(given.f0, modes * values[None, :])
    return train if given.ntk_test is None else (train, read(given.f0_test, product(given.ntk_test, modes)))


def sgd_simulate(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: float | Array,
    batch_size: int,
    steps: Steps,
    key: Array,
    runs: int,
    f0: ArrayLike | None = None,
    replace: bool = False,
    label_noise: float | Array = 0.0,
    reshuffle: bool = False,
    ntk_test: ArrayLike | None = None,
    f0_test: ArrayLike | None = None,
) -> Runs | tuple[Runs, RunsAtTest]:
    """Outputs in `runs` independent runs of SGD with a constant kernel; arguments as for `sgd_moments`.

    key: the same key gives the same runs.
    reshuffle: go through the data in epochs, each a fresh permutation cut into batches. Batches of an epoch depend on
        each other and their noise nearly cancels over it: `sgd_moments` does not describe this.

    Returns f_t(X), [runs, (T,) N, K]; with `ntk_test` a pair, that and f_t(x), [runs, (T,) M, K].
    Raises ValueError if `reshuffle` is on and `batch_size` does not divide N, or `replace` is on too.
    Cost: N²K multiplications and N random numbers a step and run. Runs go in groups: beside what is returned, and
    the coefficients c [runs, (T,) N, K], some 2¹⁸ numbers are held (or one run's, where that is more). 2·10⁵ runs of 60
    steps at N = 24 take 3 to 7 s on two CPU cores.

    >>> theta, y = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([[1.0], [-1.0]])
    >>> f = sgd_simulate(theta, y, learning_rate=0.5, batch_size=1, steps=1, key=jax.random.key(0), runs=100)
    >>> f.shape, sorted({tuple(one) for one in f[..., 0].round(4).tolist()})
    ((100, 2, 1), [(-0.5, -1.0), (1.0, 0.5)])
    """
    given = problem(ntk_train, y, f0, learning_rate, label_noise, ntk_test, f0_test)
    stops, several = _stops(steps)
    noise_level(given.n, batch_size, replace)
    _checks.count("runs", runs)
    if reshuffle and (replace or given.n % batch_size):
        raise ValueError(
            f"`reshuffle` cuts permutations of the {given.n} examples into equal batches: `batch_size` must divide "
            f"{given.n} and `replace` be off; got {batch_size} and {replace}."
        )
    draws = "epochs" if reshuffle else "replaced" if replace else "fresh"
    noisy = _checks.is_traced(label_noise) or label_noise > 0
    numbers = [jnp.asarray(number, given.y.dtype) for number in (learning_rate, label_noise)]
    keys, start = jax.random.split(key, runs), given.f0 - given.y
    c = _runs(keys, given.ntk, start, *numbers, stops, batch_size, draws, noisy)
    c = c if several else c[:, 0]
    train = _from_start(given.f0, given.ntk, c)
    return train if given.ntk_test is None else (train, _from_start(given.f0_test, given.ntk_test, c))


# -------------------------------------------------------------------------------------------------- the recursion


@jax.jit
def _recursion(
    values: Array, modes: Array, start: Array, rate: Array, level: Array, fresh: Array, gaps: Array
) -> tuple[Array, Array]:
    """Mean [T, N, K] and covariance [T, N, N] of c in the eigenbasis, after each of the `gaps`; start is r_0 there."""
    n = values.shape[0]
    shrink = 1 - rate * values / n

    def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        mean, cov = state
        r = start + values[:, None] * mean
        second = product(r, r.T) + values[:, None] * cov * values[None, :]
        kept = shrink[:, None] * cov * shrink[None, :]
        cov = kept + rate**2 * level * batch_noise(modes, second) + fresh * jnp.eye(n, dtype=cov.dtype)
        return mean - rate / n * r, cov

    def advance(state: tuple[Array, Array], gap: Array) -> tuple[Any, Any]:
        state = jax.lax.fori_loop(0, gap, step, state)
        return state, state

    return jax.lax.scan(advance, (jnp.zeros_like(start), jnp.zeros_like(modes)), gaps)[1]


@functools.partial(jax.jit, static_argnums=(6, 7, 8))
def _runs(
    keys: Array, ntk: Array, start: Array, rate: Array, sigma: Array, stops: Array, size: int, draws: str, noisy: bool
) -> Float[Array, "runs T N K"]:
    """The coefficients at each of the `stops`, a run for each key."""
    n = start.shape[0]
    in_order = jnp.arange(n, dtype=stops.dtype)

    def one_run(key: Array) -> Array:
        def step(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            c, epoch = state
            now = jax.random.fold_in(key, t)
            if draws == "epochs":  # a batch is the examples that a permutation sends to its stretch
                place = t % (n // size)
                epoch = jax.lax.cond(place == 0, lambda: jax.random.permutation(now, in_order), lambda: epoch)
                drawn = epoch // size == place
            else:
                drawn = (_with_replacement if draws == "replaced" else _without_replacement)(now, n, size)
            counts = drawn.astype(c.dtype)[:, None]
            push = counts * (start + product(ntk, c))
            if noisy:  # the sum of n_i fresh errors
                errors = jax.random.normal(jax.random.fold_in(now, 1), c.shape, c.dtype)
                push = push - jnp.sqrt(counts) * sigma * errors
            return c - rate / size * push, epoch

        def advance(state: tuple[Any, Array], stop: Array) -> tuple[Any, Array]:
            moved = jax.lax.fori_loop(state[1], stop, step, state[0])
            return (moved, stop), moved[0]

        return jax.lax.scan(advance, ((jnp.zeros_like(start), in_order), jnp.zeros_like(stops[0])), stops)[1]

    return jax.lax.map(one_run, keys, batch_size=max(1, 2**18 // start.size))


def _with_replacement(key: Array, n: int, size: int) -> Array:
    return jnp.zeros(n, jnp.int32).at[jax.random.randint(key, (size,), 0, n)].add(1)


def _without_replacement(key: Array, n: int, size: int) -> Array:
    """Each subset alike, without sorting: take an example with probability (still to take)/(still to see)."""

    def visit(left: Array, seen: tuple[Array, Array]) -> tuple[Array, Array]:
        u, remaining = seen
        take = u * remaining < left
        return left - take.astype(left.dtype), take

    u = jax.random.uniform(key, (n,), jnp.float32)
    return jax.lax.scan(visit, jnp.float32(size), (u, jnp.arange(n, 0, -1, dtype=jnp.float32)))[1]


def _from_start(start: Array, rows: Array, c: Array) -> Array:
    """f_0(x) + Θ(x, X) c, for any leading axes of c."""
    moved = product(rows, c)
    return jnp.broadcast_to(start, moved.shape) + moved


def _stops(steps: Steps) -> tuple[Array, bool]:
    """Numbers of steps [T], and whether several were asked for."""
    stops = _checks.steps("steps", steps)
    if not _checks.is_traced(stops) and not np.isfinite(stops).all():
        raise ValueError("`steps` must be finite; for the end of training see `stationary_covariance`.")
    return jnp.atleast_1d(stops).astype(jnp.int32), stops.ndim == 1
