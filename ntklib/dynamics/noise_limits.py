"""Limits of SGD with a constant tangent kernel: the largest learning rate, infinitely many steps, and small steps."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.dynamics import _linalg, _lost_digits, _spectrum
from ntklib.dynamics._spectrum import Spectrum
from ntklib.dynamics.flow import Problem, working_copies, working_precision

_MAX_STEPS = 2**16


def mean_square_limit(ntk_train: ArrayLike, batch_size: int, *, replace: bool = False) -> float:
    """Return the learning rate below which the second moments of SGD stay bounded, and above which they grow.

    The limit is the η at which the largest eigenvalue of s H(η) is 1, for the matrix H, [N, N]::

        H_ij = Σ_ab G_ab U_ia U_ja U_ib U_jb,

    with s as in `ntklib.noise_covariance`, and with U and G as in `stationary_covariance`. H is symmetric, has no
    negative entries, and grows with η. The limit is never larger than `max_learning_rate` = 2N/λ_max, above which the
    mean diverges. For a full batch without replacement (s = 0) the two are equal. For B = 1 and a constant diagonal the
    limit is 2/Θ_ii.

    Args:
        ntk_train: Θ(X, X), [N, N]; not traced by jit, vmap or grad.
        batch_size: B, the number of examples in a batch.
        replace: Whether a batch may hold an example twice.

    Returns:
        A Python float; ∞ for a kernel of zeros.

    Raises:
        TypeError: If an argument has the wrong type or is traced.
        ValueError: If the kernel is not square, symmetric and positive semi-definite, or if `batch_size` is below 1 or
            (without replacement) above N.

    Example:
        >>> round(mean_square_limit(jnp.array([[2.0, 1.0], [1.0, 2.0]]), batch_size=1), 6)
        1.0

    Note:
        The computation runs in float64. It takes an eigendecomposition and some 50 to 300 products of N × N matrices.
    """
    ntk: Any = _checks.square_kernel("ntk_train", ntk_train)
    level = noise_level(len(ntk), batch_size, replace)
    if _checks.is_traced(ntk):
        raise TypeError("`ntk_train` must be known: `mean_square_limit` does not run under jit, vmap or grad.")
    known, dtype, eps = working_precision(ntk)
    with _linalg.double_precision(known):
        (kernel,) = working_copies([("ntk_train", ntk)], known, dtype)
        spectrum = _spectrum.spectrum("ntk_train", kernel, 0.0, eps)
        return _limit(*_in_float64(spectrum), level)


def stationary_covariance(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: float | Array,
    batch_size: int,
    f0: ArrayLike | None = None,
    replace: bool = False,
    label_noise: float | Array = 0.0,
    small_steps: bool = False,
) -> Float[Array, "N N"]:
    """Return the covariance of the outputs after infinitely many steps of SGD, summed over the K outputs.

    The mean residual tends to r_∞, [N, K], the part of f_0 − y in the null space of Θ. If r_∞ is not zero, the batches
    remain noisy. In the eigenbasis Θ = U diag(λ) Uᵀ the stationary covariance V obeys::

        V_ab = G_ab [s (Uᵀ diag(d) U)_ab + (σ²K/B) δ_ab],  G_ab = η λ_a λ_b/(λ_a + λ_b − (1 − s)(η/N) λ_a λ_b),

    where s is as in `ntklib.noise_covariance`, and d is the diagonal of r_∞ r_∞ᵀ + V in the basis of the examples. This
    is a linear system for the N numbers d. V is zero if r_∞ = 0 (the model interpolates) and σ = 0. At test points the
    covariance is P U V Uᵀ Pᵀ, with P = Θ(x, X) Θ⁺ and the pseudoinverse Θ⁺.

    Args:
        ntk_train: Θ(X, X), [N, N].
        y: Targets, [N, K].
        learning_rate: η > 0.
        batch_size: B, the number of examples in a batch.
        f0: Training outputs at the start, [N, K]; zero by default.
        replace: Whether a batch may hold an example twice.
        label_noise: σ, as in `sgd_moments`.
        small_steps: Whether to return the leading order in η instead: d is then the diagonal of r_∞ r_∞ᵀ alone, and the
            denominator of G has no third term. The result solves the Lyapunov equation of an Ornstein-Uhlenbeck
            process. Its relative error is of order η.

    Returns:
        The covariance in the basis of the examples, U V Uᵀ, [N, N].

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: For the reasons of `sgd_moments` (except for `steps`), if `learning_rate` is 0, or if it is not
            below `mean_square_limit`. This limit is not checked if the kernel or `learning_rate` is traced, nor with
            `small_steps`.

    Example:
        >>> theta, y = jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0], [0.0]])
        >>> noise = stationary_covariance(theta, y, learning_rate=0.1, batch_size=2, label_noise=1.0)
        >>> np.asarray(noise, float).round(4).tolist()  # full batch: (ησ²λ/N)/(2 − ηλ/N)
        [[0.0526, 0.0], [0.0, 0.0526]]

    Note:
        Without `small_steps` the computation takes the time of `mean_square_limit`, and the system for d is solved by
        conjugate gradients, with two products of N × N matrices in each iteration. A warning is given if r_∞ depends on
        eigenvalues that rounding errors of the kernel hide: they may be zero or not.

    References:
        Mandt et al. 2017 for the limit of small steps.
    """
    given = problem(ntk_train, y, f0, learning_rate, label_noise)
    _checks.real("learning_rate", learning_rate, above=0.0)
    _checks.flag("small_steps", small_steps)
    n, outputs = given.y.shape
    level = noise_level(n, batch_size, replace)
    with given.precision():
        spectrum = given.spectrum()
        values, modes = spectrum.values, spectrum.modes
        rate, sigma = (jnp.asarray(number).astype(values.dtype) for number in (learning_rate, label_noise))
        if not (small_steps or _checks.is_traced(values, rate)):
            limit = _limit(*_in_float64(spectrum), level)
            if float(rate) >= limit * (1 - 4 * given.eps):
                way = "Lower it, or use larger batches." if level > 0 else "Lower it."
                raise ValueError(
                    f"`learning_rate` must be below the mean-square limit, {limit:.6g}: otherwise second moments "
                    f"grow without bound; got {learning_rate}. {way}"
                )
        gain = _gain(values, rate, 0.0 if small_steps else (1 - level) * rate / n)
        fresh = jnp.diag(jnp.diagonal(gain)) * (sigma**2 * outputs / int(batch_size))
        parts = product(modes.T, given.f0 - given.y)
        d = jnp.sum(product(modes, jnp.where(spectrum.null[:, None], parts, 0.0)) ** 2, axis=1)
        _warn_of_lost_floor(given, spectrum, parts, d + sigma**2 * outputs)
        if not small_steps:
            d = _at_rest(modes, level * gain, d + diagonal(modes, fresh))
        cov = product(product(modes, level * gain * rotate(modes, d) + fresh), modes.T)
        return cov.astype(given.dtype)


def _warn_of_lost_floor(given: Problem, spectrum: Spectrum, parts: Array, squares: Array) -> None:
    """Warn if r_∞ may be wrong, because rounding errors hide whether eigenvalues that were set to zero are zero.

    `parts` is Uᵀ(f_0 − y), [N, K]. `squares` is r_∞² + σ², summed over outputs, [N].
    """
    if _checks.is_traced(spectrum.values, squares):
        return
    missed = _lost_digits.of_null_modes(spectrum, _spectrum.flow_until(jnp.full(1, jnp.inf)), parts) ** 2
    if missed > _lost_digits.TOLERANCE * float(squares.max()):
        given.say_lost("the stationary covariance", missed / float(squares.max()), spectrum)


def langevin(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: float | Array,
    batch_size: int,
    t: ArrayLike,
    f0: ArrayLike | None = None,
    replace: bool = False,
) -> tuple[Float[Array, "*T N K"], Float[Array, "*T N N"]]:
    """Return mean and covariance of the diffusion that SGD approaches for small steps.

    At the times t = η · steps, the residual r = f(X) − y of one output obeys::

        dr = −(1/N) Θ r dt + √(η s) Θ [diag(r²)/N − r rᵀ/N²]^½ dW,

    with s as in `ntklib.noise_covariance`. The mean is that of gradient flow. The covariance obeys a linear
    differential equation, which diffrax integrates; no path is sampled. Both differ from the results of `sgd_moments`
    by a relative error of order η.

    Args:
        ntk_train: Θ(X, X), [N, N].
        y: Targets, [N, K].
        learning_rate: η ≥ 0. It sets the size of the noise.
        batch_size: B, the number of examples in a batch.
        t: One time, or several ascending times [T]; finite.
        f0: Training outputs at t = 0, [N, K]; zero by default.
        replace: Whether a batch may hold an example twice.

    Returns:
        (mean, cov) of the training outputs: [N, K] and [N, N] for one time, [T, N, K] and [T, N, N] for several. The
        covariance is summed over the outputs.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: For the reasons of `sgd_moments`, or if `t` is infinite, negative or decreases.
        RuntimeError: If 65,536 steps of the integrator do not reach `t`. Under jit the covariance is then NaN.
        ImportError: If diffrax is missing (`pip install diffrax`).

    Example:
        >>> mean, cov = langevin(jnp.ones((1, 1)), jnp.ones((1, 1)), learning_rate=0.1, batch_size=1, t=1.0)
        >>> round(mean.item(), 4), cov.item()  # a single example: no noise
        (0.6321, 0.0)

    Note:
        The integrator evaluates the derivative some five to ten times in each interval N/λ_max of the time t. Each
        evaluation takes two products of N × N matrices. In float64 the relative error of the covariance is below 1e-7,
        until the covariance has fallen to 1e-12 of m², where m is the largest component of f_0 − y along an eigenvector
        of Θ. In float32 it is below 1e-4, until the covariance has fallen to 1e-9 of m².

    References:
        Li, Tai & E 2017 (1511.06251); Mandt et al. 2017 (1704.04289).
    """
    _checks.installed("diffrax", "langevin")
    times = _checks.times("t", t)
    if not _checks.is_traced(times) and not np.isfinite(times).all():
        raise ValueError("`t` must be finite; for the end of training see `stationary_covariance`.")
    given = problem(ntk_train, y, f0, learning_rate, numbers=(times,), at_once=not _linalg.inside_jit())
    level = noise_level(given.n, batch_size, replace)
    with given.precision():
        spectrum = given.spectrum()
        values, modes, unit, ts = spectrum.values, spectrum.modes, given.unit(), _linalg.vector(times, given.ntk.dtype)
        scale = jnp.asarray(learning_rate).astype(ts.dtype) * level * unit
        start = product(modes.T, given.f0 - given.y)
        size = jnp.maximum(jnp.abs(start).max(), jnp.finfo(start.dtype).tiny)  # tolerances are relative to its square
        rtol = jnp.asarray(1e-8 if given.dtype == jnp.float64 else 1e-5, ts.dtype)
        # The fastest rate is 2λ_max/N, and an explicit step is stable up to some 3.5 divided by this rate. If this
        # makes too many steps, say so before integrating.
        if not _checks.is_traced(values, ts) and float(2 * values[-1] / given.n * ts[-1]) > 3.5 * _MAX_STEPS:
            raise RuntimeError(_too_late(ts))
        cov, done = _diffused(values / unit, modes, start / size, scale, ts * unit, rtol)
        if not _checks.is_traced(done) and not bool(done):
            raise RuntimeError(_too_late(ts))
        left = 1 - _linalg.decay(values[None, :] / given.n, ts[:, None])[0]
        mean = jnp.einsum("na,ta,ak->tnk", modes, left, start) + given.y[None]
        cov = product(product(modes, cov), modes.T) * size**2
        mean, cov = mean.astype(given.dtype), cov.astype(given.dtype)
    return (mean, cov) if times.ndim else (mean[0], cov[0])


def _too_late(ts: Array) -> str:
    return (
        f"{_MAX_STEPS:,} steps of the integrator do not reach `t` = {float(ts[-1]):g}; their number grows with "
        f"t λ_max(Θ)/N. Ask for an earlier `t`, or for the end: `stationary_covariance(..., small_steps=True)`."
    )


# --------------------------------------------------------------------------------------------- shared with `noise`

#: The matrix product in full precision. On accelerators the default rounds float32 factors to fewer bits.
product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def noise_level(n: int, batch_size: int, replace: bool) -> float:
    """Return the factor s of `noise_covariance`. Refuse a batch that cannot be drawn from n examples."""
    _checks.count("batch_size", batch_size)
    _checks.flag("replace", replace)
    if not replace and batch_size > n:
        raise ValueError(
            f"`batch_size` must be at most the number of examples, {n}; got {batch_size}. "
            f"Only `replace=True` allows larger batches."
        )
    size = int(batch_size)  # a product of NumPy's short integers could leave their range
    return 1 / size if replace else (n - size) / (size * max(n - 1, 1))


def problem(
    ntk_train: ArrayLike,
    y: Any,
    f0: Any,
    rate: Any,
    sigma: Any = 0.0,
    ntk_test_train: Any = None,
    f0_test: Any = None,
    numbers: tuple[Any, ...] = (),
    at_once: bool = True,
) -> Problem:
    """Return the checked arguments of one regression by SGD."""
    _checks.real("learning_rate", rate, minimum=0.0)
    _checks.real("label_noise", sigma, minimum=0.0)
    given = Problem(ntk_train, y, f0, ntk_test_train, f0_test, numbers=(rate, sigma, *numbers), at_once=at_once)
    which = "`y`, and also `f0`, `f0_test` and `label_noise` if you pass them,"
    with given.precision():
        refuse_large_squares(given.y - given.f0, given.dtype, "`y` differs from the start by", which)
    return given


def refuse_large_squares(residual: Array, dtype: Any, what: str, which: str) -> None:
    """Refuse a residual [N, K] if sums of its squares could leave the range of `dtype`. Traced ones are not checked.

    The message begins with `what`, and advises to divide `which` by a number.
    """
    largest = jnp.abs(residual).max()
    most = float(jnp.finfo(dtype).max) ** 0.5 / (10 * len(residual))
    if not _checks.is_traced(largest) and float(largest) > most:
        raise ValueError(
            f"{what} up to {float(largest):.3g}, and a sum of such squares could leave the range of "
            f"{jnp.dtype(dtype).name}. Divide {which} by a number c. Then multiply the means and outputs that are "
            f"returned by c, and the covariances by c²."
        )


@jax.jit
def _diffused(values: Array, modes: Array, start: Array, scale: Array, ts: Array, rtol: Array) -> tuple[Array, Any]:
    """Return the diffusion's covariance in the eigenbasis at the times `ts`, [T, N, N], and whether all were reached.

    For any numbers `unit` and c, `values` are λ/unit, `scale` is η s · unit, `ts` are t · unit, and `start` is
    Uᵀ(f_0 − y)/c. The result is then the covariance divided by c².
    """
    import diffrax

    n = len(values)

    def slope(t: Array, cov: Array, _: None) -> Array:
        r = jnp.exp(-values * t / n)[:, None] * start
        noise = scale * values[:, None] * values[None, :] * batch_noise(modes, product(r, r.T) + cov)
        return noise - (values[:, None] + values[None, :]) * cov / n

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),  # pyrefly: ignore
        diffrax.Tsit5(),
        t0=jnp.zeros((), values.dtype),
        t1=jnp.maximum(ts[-1], jnp.finfo(ts.dtype).tiny),
        dt0=None,
        y0=jnp.zeros_like(modes),
        saveat=diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol * 1e-4),
        max_steps=_MAX_STEPS,
        throw=False,
    )
    done = solution.result == diffrax.RESULTS.successful
    return jnp.where(done, jnp.asarray(solution.ys), jnp.nan), done


@jax.jit
def _at_rest(modes: Array, gain: Array, known: Array) -> Array:
    """Return the solution d of (1 − sH) d = known. Below the mean-square limit 1 − sH is positive definite.

    Conjugate gradients work with d², the fourth power of targets. In units of the largest entry of `known` they stay in
    the range of the type. Outside of it the iteration would end at once, at d = 0.
    """
    tolerance = 10 * float(jnp.finfo(modes.dtype).eps)
    largest = jax.lax.stop_gradient(jnp.abs(known).max())
    unit = jnp.where(largest > 0, largest, 1.0)
    apply = lambda d: d - diagonal(modes, gain * rotate(modes, d))  # noqa: E731
    return unit * jax.scipy.sparse.linalg.cg(apply, known / unit, tol=tolerance)[0]


def rotate(modes: Array, d: Array) -> Array:
    """Return Uᵀ diag(d) U."""
    return product(modes.T * d[None, :], modes)


def diagonal(modes: Array, m: Array) -> Array:
    """Return the diagonal of U m Uᵀ."""
    return jnp.sum(product(modes, m) * modes, axis=1)


def batch_noise(modes: Array, second: Array) -> Array:
    """Return diag(Q)/N − Q/N² for Q = `second`. Q and the result are given in the eigenbasis of the kernel.

    diag(Q) is the diagonal of Q in the basis of the examples. In the eigenbasis it is not diagonal.
    """
    n = modes.shape[0]
    return rotate(modes, diagonal(modes, second)) / n - second / n**2


def is_stable(spectrum: Spectrum, level: float, rate: Any) -> bool:
    """Return whether second moments stay bounded. Warn if they do not. Traced values count as stable.

    Cheap sufficient conditions are tried first.
    """
    if _checks.is_traced(spectrum.values, rate):
        return True
    n, top, rate = len(spectrum.values), float(spectrum.values[-1]), float(rate)
    # Row i of s H sums to at most s η Θ_ii/(2 − (1 − s) η λ_max/N). No eigenvalue is above the largest sum of a row.
    if rate * (level * float(spectrum.diagonal.max()) + (1 - level) * top / n) <= 2:
        return True
    if rate * top <= 2 * n and _growth(*_in_float64(spectrum), level, rate)[0] <= 1:
        return True
    limit = _limit(*_in_float64(spectrum), level)
    if rate <= limit * (1 + 1e-6):
        return True
    _checks.warn(
        f"`learning_rate` = {rate:g} is above the mean-square limit, {limit:.6g}, at this batch size: second "
        f"moments grow without bound (see mean_square_limit)."
    )
    return False


def _limit(values: np.ndarray, modes: np.ndarray, level: float) -> float:
    """Return the η at which the largest eigenvalue of s H(η) is 1. For s = 0 return 2N/λ_max, and for Θ = 0 return ∞.

    The iteration starts at η = 2N/λ_max. Each step computes the eigenvector v of the largest eigenvalue of s H(η), and
    then the η at which vᵀ s H(η) v is 1. For a fixed unit vector v this function of η increases, and is never above the
    largest eigenvalue. The iterates therefore never fall below the limit. They converge like Newton's method.
    """
    import scipy.optimize  # here, because it takes as long to import as the rest of the library

    n, top = len(values), float(values[-1])
    if top <= 0:
        return math.inf
    rate = 2 * n / top
    while level > 0:
        growth, v = _growth(values, modes, level, rate)
        weights = level * ((modes.T * v) @ modes) ** 2
        excess = functools.partial(_excess, values, level, weights)
        if growth <= 1 + 1e-12 or excess(rate) <= 0:
            break
        rate: Any = scipy.optimize.brentq(excess, 0.0, rate, xtol=1e-14 * rate)
    return rate


def _excess(values: np.ndarray, level: float, weights: np.ndarray, rate: float) -> float:
    """Return vᵀ s H(η) v − 1. `weights` are the squares of the entries of Uᵀ diag(v) U, times s."""
    return float(np.sum(weights * _gain(values, rate, (1 - level) * rate / len(values)))) - 1


def _growth(values: np.ndarray, modes: np.ndarray, level: float, rate: float) -> tuple[float, np.ndarray]:
    """Return the largest eigenvalue of s H(η) and its unit eigenvector. Second moments grow if it is above 1."""
    n = len(values)
    gain = level * _gain(values, rate, (1 - level) * rate / n)
    h = lambda v: np.sum((modes @ (gain * ((modes.T * v) @ modes))) * modes, axis=1)  # noqa: E731
    if n <= 32:
        eigenvalues, vectors = np.linalg.eigh(np.stack([h(v) for v in np.eye(n)]))
    else:
        import scipy.sparse.linalg

        operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=h, dtype=np.float64)  # pyrefly: ignore
        eigenvalues, vectors = scipy.sparse.linalg.eigsh(operator, k=1, v0=np.ones(n))
    return float(eigenvalues[-1]), vectors[:, -1]


def _gain(values, rate, correction):
    """Return G = η/(1/λ_a + 1/λ_b − correction), [N, N], a NumPy or JAX array like `values`. λ = 0 gives G = 0."""
    xp = np if isinstance(values, np.ndarray) else jnp
    inverse = xp.where(values > 0, 1 / xp.where(values > 0, values, 1.0), xp.inf)
    return rate / (inverse[:, None] + inverse[None, :] - correction)


def _in_float64(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(spectrum.values, np.float64), np.asarray(spectrum.modes, np.float64)
