"""Limits of SGD with a constant tangent kernel: the largest learning rate, the law at the end, and small steps."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse.linalg
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.dynamics import _linalg, _lost_digits, _spectrum
from ntklib.dynamics._spectrum import Spectrum
from ntklib.dynamics.flow import Problem, working_copies, working_precision

_MAX_STEPS = 2**16


def mean_square_limit(ntk_train: ArrayLike, batch_size: int, *, replace: bool = False) -> float:
    """The learning rate below which the second moments of SGD stay bounded, and above which they grow without bound.

    Never larger than `max_learning_rate`, 2N/λ_max, where the mean diverges; equal to it for a full batch without
    replacement; 2/Θ_ii for B = 1 and a constant diagonal. It is the η at which the largest eigenvalue of s H(η) is 1:

        H_ij = Σ_ab G_ab U_ia U_ja U_ib U_jb,  symmetric, not negative, growing with η,

    with U and G as in `stationary_covariance`. replace: see `noise_covariance`.
    Returns ∞ for a kernel of zeros. Computed in float64, from known values. Cost: an eigendecomposition and some 50 to
    300 N×N matrix products.
    Raises ValueError as `gradient_flow` does; TypeError under jit, vmap and grad.

    >>> round(mean_square_limit(jnp.array([[2.0, 1.0], [1.0, 2.0]]), batch_size=1), 6)
    1.0
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
    """Covariance of the outputs after infinitely many steps, [N, N], summed over the K outputs; see `sgd_moments`.

    The mean residual ends at r*, the part of f_0 − y in the null space of Θ. It keeps the noise alive, whose fixed
    point in the eigenbasis Θ = U λ Uᵀ is

        V_ab = G_ab [s (Uᵀ diag(d) U)_ab + (σ²K/B) δ_ab],  G_ab = η λ_a λ_b/(λ_a + λ_b − (1 − s)(η/N) λ_a λ_b),

    with d = diag(r* r*ᵀ + V), a linear system for d of N unknowns. Without r* and σ, where the model interpolates, it
    is zero. At test points the covariance is P V Pᵀ with P = Θ(x, X) Θ⁺.
    learning_rate, batch_size, replace, label_noise: as for `sgd_moments`.
    small_steps: the limit of small η instead, d = diag(r* r*ᵀ) and no third term in G: the Lyapunov equation of an
        Ornstein-Uhlenbeck process. Its relative error is of order η.
    Raises ValueError at and above `mean_square_limit`, and names it (not under jit).
    Warns where r* depends on eigenvalues that are zero but for rounding errors of the kernel, so that they may not be.
    Cost: that of `mean_square_limit`, and two N×N matrix products for each iteration of conjugate gradients.

    >>> theta, y = jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0], [0.0]])
    >>> noise = stationary_covariance(theta, y, learning_rate=0.1, batch_size=2, label_noise=1.0)
    >>> np.asarray(noise, float).round(4).tolist()  # full batch: (ησ²λ/N)/(2 − ηλ/N)
    [[0.0526, 0.0], [0.0, 0.0526]]
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
                raise ValueError(
                    f"`learning_rate` must be below the mean-square limit, {limit:.6g}, for a stationary law to exist; "
                    f"got {learning_rate}. Lower it, or use larger batches."
                )
        gain = _gain(values, rate, 0.0 if small_steps else (1 - level) * rate / n)
        fresh = jnp.diag(jnp.diagonal(gain)) * (sigma**2 * outputs / batch_size)
        parts = product(modes.T, given.f0 - given.y)
        d = jnp.sum(product(modes, jnp.where(spectrum.null[:, None], parts, 0.0)) ** 2, axis=1)
        _warn_of_lost_floor(given, spectrum, parts, d + sigma**2 * outputs)
        if not small_steps:
            d = _at_rest(modes, level * gain, d + diagonal(modes, fresh))
        cov = product(product(modes, level * gain * rotate(modes, d) + fresh), modes.T)
        return cov.astype(given.dtype)


def _warn_of_lost_floor(given: Problem, spectrum: Spectrum, parts: Array, squares: Array) -> None:
    """Warn where a part of r*² depends on modes that may be null or not."""
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
    """Mean and covariance of the diffusion that SGD with small steps approaches, at times t = η · steps:

        dr = −(1/N) Θ r dt + √(η s) Θ [diag(r²)/N − r rᵀ/N²]^½ dW.

    Its moments obey linear differential equations, integrated here with diffrax; no path is sampled. The relative error
    is below 1e-7 where the result is in float64, 1e-4 in float32, until the covariance has fallen to 1e-12, or 1e-9,
    of the squared targets. They differ from those of `sgd_moments` by a relative error of order η.
    t: one time or several [T], ascending and finite.  Returns (mean [(T,) N, K], cov [(T,) N, N]), as `sgd_moments`.
    Cost: two N×N matrix products an evaluation, some ten evaluations for each N/λ_max of time.
    Raises RuntimeError where 65,536 steps do not reach `t` (not under jit: NaN there), ImportError where diffrax is
    missing. Source: Li, Tai & E 2017 (1511.06251); Mandt et al. 2017 (1704.04289).

    >>> mean, cov = langevin(jnp.ones((1, 1)), jnp.ones((1, 1)), learning_rate=0.1, batch_size=1, t=1.0)
    >>> round(mean.item(), 4), cov.item()  # a single example: no noise
    (0.6321, 0.0)
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
        size = jnp.maximum(jnp.abs(start).max(), jnp.finfo(start.dtype).tiny)  # tolerances are in units of it
        rtol = jnp.asarray(1e-8 if given.dtype == jnp.float64 else 1e-5, ts.dtype)
        # An explicit step is at most some 3.5 over the fastest rate, 2λ_max/N: see early that there would be too many.
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

product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def noise_level(n: int, batch_size: int, replace: bool) -> float:
    """The factor s of the batch noise; refuses a batch that cannot be drawn."""
    _checks.count("batch_size", batch_size)
    _checks.flag("replace", replace)
    if not replace and batch_size > n:
        raise ValueError(
            f"`batch_size` must be at most the number of examples, {n}; got {batch_size}. "
            f"Only `replace=True` allows larger batches."
        )
    return 1 / batch_size if replace else (n - batch_size) / (batch_size * max(n - 1, 1))


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
    """The checked data of one regression by SGD."""
    _checks.real("learning_rate", rate, minimum=0.0)
    _checks.real("label_noise", sigma, minimum=0.0)
    given = Problem(ntk_train, y, f0, ntk_test_train, f0_test, numbers=(rate, sigma, *numbers), at_once=at_once)
    with given.precision():
        residual = jnp.abs(given.y - given.f0).max()
    most = float(jnp.finfo(given.dtype).max) ** 0.5 / (10 * given.n)
    if not _checks.is_traced(residual) and float(residual) > most:
        raise ValueError(
            f"`y` differs from the start by up to {float(residual):.3g}, whose square leaves the range of "
            f"{jnp.dtype(given.dtype).name}. Divide `y` and `f0` by a number and multiply what comes by it."
        )
    return given


@jax.jit
def _diffused(values: Array, modes: Array, start: Array, scale: Array, ts: Array, rtol: Array) -> tuple[Array, Any]:
    """Covariance at the times `ts` of the diffusion, in the eigenbasis, [T, N, N], and whether all went well."""
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
    """The d of (1 − sH) d = known; 1 − sH is symmetric and, below the mean-square limit, positive definite."""
    tolerance = 10 * float(jnp.finfo(modes.dtype).eps)
    return jax.scipy.sparse.linalg.cg(lambda d: d - diagonal(modes, gain * rotate(modes, d)), known, tol=tolerance)[0]


def rotate(modes: Array, d: Array) -> Array:
    """Uᵀ diag(d) U."""
    return product(modes.T * d[None, :], modes)


def diagonal(modes: Array, m: Array) -> Array:
    """diag(U m Uᵀ)."""
    return jnp.sum(product(modes, m) * modes, axis=1)


def batch_noise(modes: Array, second: Array) -> Array:
    """diag(M)/N − M/N², for M and the result in the eigenbasis."""
    n = modes.shape[0]
    return rotate(modes, diagonal(modes, second)) / n - second / n**2


def is_stable(spectrum: Spectrum, level: float, rate: Any) -> bool:
    """Whether second moments stay bounded, decided as cheaply as possible; warns where they do not."""
    if _checks.is_traced(spectrum.values, rate):
        return True
    n, top, rate = len(spectrum.values), float(spectrum.values[-1]), float(rate)
    if rate * (level * float(spectrum.diagonal.max()) + (1 - level) * top / n) <= 2:  # sufficient for stability
        return True
    if rate * top <= 2 * n and _growth(*_in_float64(spectrum), level, rate)[0] <= 1:
        return True
    limit = _limit(*_in_float64(spectrum), level)
    if rate <= limit * (1 + 1e-6):
        return True
    _checks.warn(
        f"`learning_rate` = {rate:g} is above the mean-square limit, {limit:.6g}, at this batch size: the "
        f"covariance grows without bound (see mean_square_limit)."
    )
    return False


def _limit(values: np.ndarray, modes: np.ndarray, level: float) -> float:
    """The η at which the largest eigenvalue of s H(η) is 1, by steps from above.

    For a fixed unit vector v, vᵀ s H(η) v is a known increasing function of η and never above the largest eigenvalue,
    so the η at which it is 1 is never below the limit; with v the eigenvector at the last η this converges like Newton.
    """
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
    """vᵀ s H(η) v − 1, from the squares of s^½ Uᵀ diag(v) U."""
    return float(np.sum(weights * _gain(values, rate, (1 - level) * rate / len(values)))) - 1


def _growth(values: np.ndarray, modes: np.ndarray, level: float, rate: float) -> tuple[float, np.ndarray]:
    """The largest eigenvalue of s H(η), above 1 where second moments grow, and its unit eigenvector."""
    n = len(values)
    gain = level * _gain(values, rate, (1 - level) * rate / n)
    h = lambda v: np.sum((modes @ (gain * ((modes.T * v) @ modes))) * modes, axis=1)  # noqa: E731
    if n <= 32:
        eigenvalues, vectors = np.linalg.eigh(np.stack([h(v) for v in np.eye(n)]))
    else:
        operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=h, dtype=np.float64)  # pyrefly: ignore
        eigenvalues, vectors = scipy.sparse.linalg.eigsh(operator, k=1, v0=np.ones(n))
    return float(eigenvalues[-1]), vectors[:, -1]


def _gain(values, rate, correction):
    """G, [N, N], of NumPy or JAX eigenvalues: η/(1/λ_a + 1/λ_b − correction), 0 where an eigenvalue is."""
    xp = np if isinstance(values, np.ndarray) else jnp
    inverse = xp.where(values > 0, 1 / xp.where(values > 0, values, 1.0), xp.inf)
    return rate / (inverse[:, None] + inverse[None, :] - correction)


def _in_float64(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(spectrum.values, np.float64), np.asarray(spectrum.modes, np.float64)
