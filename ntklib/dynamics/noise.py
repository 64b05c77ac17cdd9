"""SGD with a constant tangent kernel: the exact mean and covariance of its outputs, and simulated runs.

Each step adds Θ(x, X) times a matrix [N, K] to the outputs f(x). Therefore f(x) = f_0(x) + Θ(x, X) c, where the
coefficients c, [N, K], start at 0. A step does::

    c ← c − (η/B) D r,  r = f(X) − y.

The diagonal matrix D = diag(n_1, ..., n_N) holds how often each example is in the batch, so that Σ_i n_i = B. The
batches of different steps are independent, unless `sgd_simulate` is called with `reshuffle`. The mean of D/B is 1/N.
For one output, for which r is a vector [N], the covariance of D r/B over batches is::

    s [diag(r²)/N − r rᵀ/N²],  s = 1/B with replacement,  s = (N − B)/(B (N − 1)) without.

This is linear in r rᵀ. The mean and the covariance of c after a step therefore depend only on the mean and the
covariance before it. Chapter 08 derives these equations.
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
from ntklib.dynamics import _linalg, _spectrum
from ntklib.dynamics._spectrum import Projected, Spectrum
from ntklib.dynamics.flow import Problem, working_copies, working_precision
from ntklib.dynamics.noise_limits import batch_noise, is_stable, noise_level, problem, product, refuse_large_squares

Moments = tuple[Float[Array, "*T N K"], Float[Array, "*T N N"]]
MomentsAtTest = tuple[Float[Array, "*T M K"], Float[Array, "*T M M"]]
Runs = Float[Array, "runs *T N K"]
RunsAtTest = Float[Array, "runs *T M K"]
Steps = int | Sequence[int] | ArrayLike


def noise_covariance(residual: ArrayLike, batch_size: int, *, replace: bool = False) -> Float[Array, "N N"]:
    """Return the covariance of a mini-batch's residual over the random choice of the batch, summed over the K outputs.

    An SGD step adds −η Θ(x, X) D r/B to f(x). The diagonal matrix D, [N, N], holds how often each example is in the
    batch. The covariance of D r/B over batches, summed over outputs, is::

        s [diag(Σ_k r_k²)/N − r rᵀ/N²],   s = 1/B with replacement,  s = (N − B)/(B (N − 1)) without.

    Args:
        residual: r = f − y, [N, K].
        batch_size: B, the number of examples in a batch.
        replace: Whether a batch may hold an example twice. Without replacement a full batch has no noise.

    Returns:
        The covariance, [N, N], in the squared units of the residual.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `residual` is not [N, K] or not finite, if `batch_size` is below 1 or (without replacement) above
            N, or if entries of the residual are so large that sums of their squares could leave the range of the type.

    Example:
        >>> noise_covariance(jnp.array([[2.0], [0.0]]), batch_size=1).tolist()  # D r/B is (2, 0) or (0, 0)
        [[1.0, 0.0], [0.0, 0.0]]
    """
    r: Any = _checks.checked("residual", residual, "N K", way_out="For one output pass `residual[:, None]`.")
    level = noise_level(len(r), batch_size, replace)
    known, dtype, _ = working_precision(arrays=(r,))
    with _linalg.double_precision(known):
        (r,) = working_copies([("residual", r)], known, dtype)
        refuse_large_squares(r, dtype, "`residual` has entries of", "it")
        cov = level * (jnp.diag(jnp.sum(r**2, axis=1)) / len(r) - product(r, r.T) / len(r) ** 2)
        return cov.astype(dtype)


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
    ntk_test_train: ArrayLike | None = None,
    f0_test: ArrayLike | None = None,
) -> Moments | tuple[Moments, MomentsAtTest]:
    """Return the exact mean and covariance of the outputs under SGD, with the tangent kernel held constant.

    The loss is 1/(2N) Σ_i ‖f(x_i) − y_i‖². The outputs are f(x) = f_0(x) + Θ(x, X) c. Let c̄ be the mean of the
    coefficients c, [N, K], and C their covariance summed over the outputs, [N, N]. In each step::

        c̄ ← c̄ − (η/N) r̄,  C ← A C A + η² s [diag(Q)/N − Q/N²] + η²σ²K/(BN) 1,
        A = 1 − ηΘ/N,  r̄ = f_0 + Θ c̄ − y,  Q = Σ_k E[r_k r_kᵀ] = r̄ r̄ᵀ + Θ C Θ.

    On the right of an arrow are the values before the step. diag(Q) is a diagonal matrix with the diagonal of Q, and 1
    is the identity. The factor s is as in `noise_covariance`, and σ is `label_noise`. The equations are exact: steps
    need not be small, batches need not be large, and the noise need not be Gaussian. The mean equals the outputs of
    full-batch gradient descent. Each batch is drawn independently of all others. If each epoch is a permutation of the
    data instead, the mean and the covariance are different (see `reshuffle` of `sgd_simulate`).

    Args:
        ntk_train: Θ(X, X), [N, N].
        y: Targets, [N, K].
        learning_rate: η ≥ 0.
        batch_size: B, the number of examples in a batch.
        steps: One number of steps, or several ascending numbers [T]; 0 is the start.
        f0: Training outputs at the start, [N, K]; zero by default.
        replace: Whether a batch may hold an example twice.
        label_noise: σ ≥ 0. Each time that an example is drawn, a new error from N(0, σ²) is added to each of its K
            targets for this one step.
        ntk_test_train: Θ(x, X), [M, N], with a row for each test point.
        f0_test: Test outputs at the start, [M, K]; zero by default.

    Returns:
        (mean, cov), [N, K] and [N, N] for one number of steps, [T, N, K] and [T, N, N] for several. With
        `ntk_test_train` the result is a pair of such pairs: the first for the training points, and the second for the
        test points, with M in the place of N. Entry (i, j) of `cov` is Σ_k Cov(f_k(x_i), f_k(x_j)). The expected loss
        is therefore (‖mean − y‖² + tr cov)/(2N). The type is that of `gradient_flow`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: For the reasons of `gradient_flow`, or if `learning_rate` or `label_noise` is negative, if `steps`
            are infinite, negative, not whole, 2³¹ or more, or decrease, if `batch_size` is below 1 or (without
            replacement) above N, or if entries of y − f_0 are so large that sums of their squares could leave the range
            of the type.

    Example:
        >>> theta, y = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([[1.0], [-1.0]])
        >>> mean, cov = sgd_moments(theta, y, learning_rate=0.5, batch_size=1, steps=1)
        >>> mean[:, 0].round(4).tolist(), cov.round(4).tolist()  # f is (1, 0.5) or (−0.5, −1), by hand
        ([0.25, -0.25], [[0.5625, 0.5625], [0.5625, 0.5625]])

    Note:
        A step takes two products of N × N matrices, with or without test points. 1,000 steps at N = 512 take 4 s on two
        CPU cores (3 s in float32). Memory: a few times T (N² + N M + M²) numbers, where M = 0 without test points. The
        kernel is decomposed in float64, as in `gradient_flow`. The steps run in the type of the result.
        A warning is given if `learning_rate` is above `mean_square_limit`, where the covariance grows without bound.
        This test takes the time of some 30 steps, unless simple bounds decide. Below the limit a warning is given if
        rounding errors of the kernels move the mean at the last step by more than 1 % of the largest output. (The
        covariance is less sensitive.) If arguments are traced, warnings may be missing. Forward-mode derivatives work
        (`jax.jvp`, `jax.jacfwd`). Reverse-mode ones do not (`jax.grad`): JAX has none for a loop whose length is an
        array.
    """
    stops, several = _stops(steps)
    given = problem(ntk_train, y, f0, learning_rate, label_noise, ntk_test_train, f0_test, numbers=(stops,))
    n, outputs = given.y.shape
    level = noise_level(n, batch_size, replace)
    with given.precision():
        spectrum, unit = given.spectrum(), given.unit()
        stable = is_stable(spectrum, level, learning_rate)
        rate, sigma = (jnp.asarray(number).astype(unit.dtype) for number in (learning_rate, label_noise))
        from_labels = (rate * unit) ** 2 * sigma**2 * outputs / (int(batch_size) * n)
        values = spectrum.values / unit
        start = product(spectrum.modes.T, given.f0 - given.y)
        rows = (spectrum.modes * values[None, :])[None]
        points = given.projected(spectrum)
        test_rows = None if points is None else _test_rows(given, spectrum, points, rate, stops)

    def converted(array: Any) -> Array:
        """Return an array in the type of the result."""
        return jnp.asarray(array).astype(given.dtype)

    arrays = map(converted, (values, spectrum.modes, start, rate * unit, level, from_labels))
    c = _recursion(*arrays, jnp.diff(stops, prepend=0))
    train = _moments(converted(given.f0), converted(rows), *c)
    if test_rows is None:
        if stable:
            _warn_of_lost_digits(given, spectrum, None, rate, stops, train[0], None)
        return train if several else (train[0][0], train[1][0])
    test = _moments(converted(given.f0_test), converted(test_rows), *c)
    if stable:
        _warn_of_lost_digits(given, spectrum, points, rate, stops, train[0], test[0])
    return (train, test) if several else ((train[0][0], train[1][0]), (test[0][0], test[1][0]))


def _test_rows(given: Problem, spectrum: Spectrum, points: Projected, rate: Array, stops: Array) -> Array:
    """Return Θ(x, X) U divided by `Problem.unit`, as an array [T, M, N]. The columns of U are the modes.

    The columns of null modes shrink as the time η · steps grows (see `Spectrum.fading`). Without null modes the result
    is the same at all times, and its shape is [1, M, N].
    """
    rows = points.rows[None] / given.unit()
    if not (_checks.is_traced(spectrum.null) or bool(spectrum.null.any())):
        return rows
    return rows * spectrum.fading(rate * stops.astype(rate.dtype)[:, None])[:, None, :]


def _moments(start: Array, rows: Array, mean: Array, cov: Array) -> tuple[Array, Array]:
    """Return the mean [T, M, K] and the covariance [T, M, M] of f_0(x) + Θ(x, X) c.

    Args:
        start: f_0(x), [M, K].
        rows: Θ(x, X) U/unit for the modes U, [T or 1, M, N].
        mean: The mean of Uᵀ c · unit, [T, N, K].
        cov: The covariance of Uᵀ c · unit, [T, N, N].
    """
    return start[None] + product(rows, mean), product(product(rows, cov), jnp.swapaxes(rows, 1, 2))


def _evolve(rate: Array, stops: Array) -> _spectrum.Evolve:
    """Return the `Evolve` of full-batch gradient descent, which gives the mean of SGD."""
    return lambda rates: _linalg.descent(rates, np.asarray(stops), rate, jnp.zeros_like(rate))


def _warn_of_lost_digits(
    given: Problem,
    spectrum: Spectrum,
    points: Projected | None,
    rate: Array,
    stops: Array,
    train: Array,
    test: Array | None,
) -> None:
    """Warn if the kernel's rounding errors move the mean at the last step by more than 1 % of the largest output."""
    if _checks.is_traced(spectrum.values, rate, stops, train):
        return
    with given.precision():
        given.warn_of_lost_digits(spectrum, _evolve(rate, stops), points, (train, test), ridges=False)


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
    ntk_test_train: ArrayLike | None = None,
    f0_test: ArrayLike | None = None,
) -> Runs | tuple[Runs, RunsAtTest]:
    """Return the outputs of independent runs of SGD, with the tangent kernel held constant.

    The loss is 1/(2N) Σ_i ‖f(x_i) − y_i‖². A step draws a batch of B examples and does::

        f(x) ← f(x) − (η/B) Θ(x, X) D (f(X) − y),

    where the diagonal matrix D holds how often each example is in the batch. Without `reshuffle`, `sgd_moments` returns
    the exact mean and covariance of these outputs.

    Args:
        ntk_train: Θ(X, X), [N, N].
        y: Targets, [N, K].
        learning_rate: η ≥ 0.
        batch_size: B, the number of examples in a batch.
        steps: One number of steps, or several ascending numbers [T]; 0 is the start.
        key: A random key of JAX. The same key gives the same runs.
        runs: The number of runs, at least 1.
        f0: Training outputs at the start, [N, K]; zero by default.
        replace: Whether a batch may hold an example twice.
        label_noise: As in `sgd_moments`.
        reshuffle: Whether to cut a new random permutation of the data into N/B batches in each epoch. The batches of an
            epoch are then not independent, and their noise nearly cancels within the epoch. `sgd_moments` does not
            describe this case.
        ntk_test_train: Θ(x, X), [M, N], with a row for each test point.
        f0_test: Test outputs at the start, [M, K]; zero by default.

    Returns:
        The training outputs, [runs, N, K] for one number of steps and [runs, T, N, K] for several. With
        `ntk_test_train` a pair: the training outputs, and the test outputs with M in the place of N. The type is that
        of `gradient_flow`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: For the reasons of `sgd_moments` (but the eigenvalues of the kernel are checked only with
            `ntk_test_train`), or if `runs` is below 1, if `key` holds several keys, or if `reshuffle` is True while
            `replace` is True or `batch_size` does not divide N.

    Example:
        >>> theta, y = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([[1.0], [-1.0]])
        >>> f = sgd_simulate(theta, y, learning_rate=0.5, batch_size=1, steps=1, key=jax.random.key(0), runs=100)
        >>> f.shape, sorted({tuple(one) for one in f[..., 0].round(4).tolist()})  # one outcome for each batch
        ((100, 2, 1), [(-0.5, -1.0), (1.0, 0.5)])

    Note:
        A step of a run takes N² K multiplications and N random numbers (with replacement B; with label noise N K more).
        2·10⁵ runs of 60 steps at N = 24 take 3 to 7 s on two CPU cores. Memory: the result, the coefficients c [runs,
        T, N, K], and the state c [N, K] of the runs that are computed together: as many runs as fit into 2¹⁸ numbers,
        at least one. With `ntk_test_train` the kernel is also decomposed, and a warning is given if rounding errors of
        the kernels move the mean at the last step by more than 1 % of the largest output.
    """
    stops, several = _stops(steps)
    given = problem(ntk_train, y, f0, learning_rate, label_noise, ntk_test_train, f0_test, numbers=(stops,))
    noise_level(given.n, batch_size, replace)
    batch_size = int(batch_size)
    _checks.count("runs", runs)
    _checks.key("key", key)
    _checks.flag("reshuffle", reshuffle)
    if reshuffle and (replace or given.n % batch_size):
        raise ValueError(
            f"`reshuffle` cuts a permutation of the {given.n} examples into equal batches: `batch_size` must divide "
            f"{given.n}, and `replace` must be False; got batch_size={batch_size} and replace={replace}."
        )
    draws = "epochs" if reshuffle else "with replacement" if replace else "without replacement"
    noisy = _checks.is_traced(label_noise) or label_noise > 0
    with given.precision():
        unit = given.unit()
        rate, sigma = (jnp.asarray(number).astype(unit.dtype) for number in (learning_rate, label_noise))
        arrays = (given.ntk / unit, given.f0 - given.y, rate * unit, sigma)
    ntk, start, rate_in_units, sigma = (array.astype(given.dtype) for array in arrays)
    c = _runs(jax.random.split(key, runs), ntk, start, rate_in_units, sigma, stops, batch_size, draws, noisy)
    train = _from_start(given.f0.astype(given.dtype), ntk, c)
    if given.ntk_test_train is None:
        return train if several else train[:, 0]
    test = _simulated_test(given, c, rate, stops, train)
    return (train, test) if several else (train[:, 0], test[:, 0])


def _simulated_test(given: Problem, c: Array, rate: Array, stops: Array, train: Array) -> Array:
    """Return f_0(x) + Θ(x, X) c, [runs, T, M, K], with Θ(x, X) from `_test_rows`."""
    with given.precision():
        spectrum = given.spectrum()
        points: Any = given.projected(spectrum)
        rows = product(_test_rows(given, spectrum, points, rate, stops), spectrum.modes.T).astype(given.dtype)
        start: Any = given.f0_test
    test = _from_start(start.astype(given.dtype), rows, c)
    _warn_of_lost_digits(given, spectrum, points, rate, stops, train.mean(0), test.mean(0))
    return test


# -------------------------------------------------------------------------------------------------- the recursion


@jax.jit
def _recursion(
    values: Array, modes: Array, start: Array, rate: Array, level: Array, from_labels: Array, counts: Array
) -> tuple[Array, Array]:
    """Return the mean [T, N, K] and the covariance [T, N, N] of Uᵀ c · unit, for the modes U and any number `unit`.

    Args:
        values: λ/unit for the eigenvalues λ, [N].
        modes: U, [N, N].
        start: Uᵀ (f_0 − y), [N, K].
        rate: η · unit.
        level: The factor s of `noise_covariance`.
        from_labels: η²σ²K/(BN) · unit², which label noise adds to each variance in a step.
        counts: For each recorded state, the number of steps since the one before or since the start, [T].
    """
    n = values.shape[0]
    shrink = 1 - rate * values / n

    def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        mean, cov = state
        r = start + values[:, None] * mean
        second = product(r, r.T) + values[:, None] * cov * values[None, :]
        kept = shrink[:, None] * cov * shrink[None, :]
        cov = kept + rate**2 * level * batch_noise(modes, second) + from_labels * jnp.eye(n, dtype=cov.dtype)
        return mean - rate / n * r, cov

    def advance(state: tuple[Array, Array], count: Array) -> tuple[Any, Any]:
        state = jax.lax.fori_loop(0, count, step, state)
        return state, state

    return jax.lax.scan(advance, (jnp.zeros_like(start), jnp.zeros_like(modes)), counts)[1]


@functools.partial(jax.jit, static_argnums=(6, 7, 8))
def _runs(
    keys: Array, ntk: Array, start: Array, rate: Array, sigma: Array, stops: Array, size: int, draws: str, noisy: bool
) -> Float[Array, "runs T N K"]:
    """Return c · unit after the numbers of steps `stops`, [T], with one run for each key. `unit` may be any number.

    `ntk` is Θ(X, X)/unit, `start` f_0 − y, `rate` η · unit, `sigma` the label noise, and `size` the batch size. `draws`
    says how batches are drawn, and `noisy` whether there is label noise.
    """
    n = start.shape[0]
    in_order = jnp.arange(n, dtype=stops.dtype)

    def one_run(key: Array) -> Array:
        def step(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            c, epoch = state
            now = jax.random.fold_in(key, t)
            if draws == "epochs":  # `epoch` is a permutation. Example i belongs to batch epoch[i] // size.
                place = t % (n // size)
                epoch = jax.lax.cond(place == 0, lambda: jax.random.permutation(now, in_order), lambda: epoch)
                drawn = epoch // size == place
            else:
                draw = _with_replacement if draws == "with replacement" else _without_replacement
                drawn = draw(now, n, size)
            counts = drawn.astype(c.dtype)[:, None]
            push = counts * (start + product(ntk, c))
            if noisy:  # the sum of n_i new errors from N(0, σ²) has the law N(0, n_i σ²)
                # Drawn as a vector: this compiles up to four times as fast as a matrix, and gives the same numbers.
                errors = jax.random.normal(jax.random.fold_in(now, 1), (c.size,), c.dtype).reshape(c.shape)
                push = push - jnp.sqrt(counts) * sigma * errors
            return c - rate / size * push, epoch

        def advance(state: tuple[Any, Array], stop: Array) -> tuple[Any, Array]:
            moved = jax.lax.fori_loop(state[1], stop, step, state[0])
            return (moved, stop), moved[0]

        return jax.lax.scan(advance, ((jnp.zeros_like(start), in_order), jnp.zeros_like(stops[0])), stops)[1]

    return jax.lax.map(one_run, keys, batch_size=max(1, 2**18 // start.size))


def _with_replacement(key: Array, n: int, size: int) -> Array:
    """Draw `size` times one of n examples, and return how often each was drawn, [N]."""
    return jnp.zeros(n, jnp.int32).at[jax.random.randint(key, (size,), 0, n)].add(1)


def _without_replacement(key: Array, n: int, size: int) -> Array:
    """Draw `size` different examples out of n, all subsets with equal probability, and return which were drawn, [N].

    Visit the examples in order, and take each with probability (examples still to take)/(examples still to visit). This
    needs no sorting.
    """

    def visit(left: Array, seen: tuple[Array, Array]) -> tuple[Array, Array]:
        u, remaining = seen
        take = u * remaining < left
        return left - take.astype(left.dtype), take

    u = jax.random.uniform(key, (n,), jnp.float32)
    return jax.lax.scan(visit, jnp.float32(size), (u, jnp.arange(n, 0, -1, dtype=jnp.float32)))[1]


def _from_start(start: Array, rows: Array, c: Array) -> Array:
    """Return f_0(x) + Θ(x, X) c, from Θ(x, X)/unit and c · unit. The latter may have leading axes."""
    change = product(rows, c)
    return jnp.broadcast_to(start, change.shape) + change


def _stops(steps: Steps) -> tuple[Array, bool]:
    """Return the numbers of steps, [T], and whether `steps` was a sequence."""
    stops = _checks.steps("steps", steps)
    if not _checks.is_traced(stops):
        if not np.isfinite(stops).all():
            raise ValueError("`steps` must be finite; for the end of training see `stationary_covariance`.")
        if stops.max() >= 2**31:
            raise ValueError(
                f"`steps` must be below 2³¹, because the steps are computed one by one; got {stops.max():g}. For the "
                f"end of training see `stationary_covariance`."
            )
        return jnp.asarray(np.atleast_1d(stops).astype(np.int32)), stops.ndim == 1
    return jnp.atleast_1d(stops).astype(jnp.int32), stops.ndim == 1
