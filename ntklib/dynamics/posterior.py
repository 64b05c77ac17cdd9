"""Mean and covariance of Gaussian processes, and of ensembles of infinitely wide networks during training."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.dynamics import _cholesky, _linalg, _lost_digits, _spectrum
from ntklib.dynamics._spectrum import Spectrum, weighted_norm
from ntklib.dynamics.flow import Number, working_copies, working_precision
from ntklib.kernel import Kernel


def gp_posterior(
    nngp_train: ArrayLike, y: ArrayLike, nngp_test_train: ArrayLike, nngp_test: ArrayLike, *, ridge: Number
) -> tuple[Float[Array, "M K"], Float[Array, "M M"]]:
    """Return the posterior mean and covariance of a Gaussian process at test inputs.

    For the kernel k, training inputs X and test inputs x, x'::

        mean = k(x, X) R⁻¹ y,  cov = k(x, x') − k(x, X) R⁻¹ k(X, x'),  R = k(X, X) + ridge · tr(k(X, X))/N · 1.

    With the NNGP kernel this is the Bayesian posterior of an infinitely wide network. Without a ridge it is also the
    distribution of the outputs of such networks if only the last layer is trained, to t = ∞. If all layers are trained,
    the mean is the one with the NTK as k, but the covariance is not: see `ensemble_posterior`.

    Args:
        nngp_train: k(X, X), [N, N].
        y: Targets, [N, K].
        nngp_test_train: k(x, X), [M, N].
        nngp_test: k(x, x'), [M, M].
        ridge: The variance of the noise on `y`, relative to the mean variance tr(k(X, X))/N; not negative. With 0 the
            kernel must not be singular.

    Returns:
        The mean, [M, K], and the covariance between test inputs, [M, M], which is the same for each of the K outputs.
        Variances that rounding leaves below zero are set to zero.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If R is singular or indefinite, if a square kernel is not symmetric, if shapes disagree, if `ridge`
            is negative, or if the three matrices cannot be parts of one kernel, because variances would be negative.

    Example:
        >>> k = jnp.array([[1.0, 0.5], [0.5, 1.0]])  # one training and one test input, each of variance 1
        >>> mean, cov = gp_posterior(k[:1, :1], jnp.array([[2.0]]), k[1:, :1], k[1:, 1:], ridge=0.0)
        >>> mean.tolist(), cov.tolist()
        ([[1.0]], [[0.75]])

    Note:
        The Cholesky factorizations take 2N³/3 + M³/3 operations, and the products and solves with k(x, X) take some
        4 N M (N + M). Precision and type are those of `gradient_flow`.
        A warning is given if rounding errors of the kernels move the mean or the variances by more than 1 % of their
        largest entry. Changes of the variances by less than 1e-4 of the largest k(x, x) do not count.

    References:
        Rasmussen & Williams 2006, §2.2; Lee et al. 2018.
    """
    names = ("nngp_train", "nngp_test_train", "nngp_test")
    given = _checked(names, nngp_train, nngp_test_train, nngp_test)
    y = _checks.host_targets("y", y, len(given.train))
    _checks.real("ridge", ridge, minimum=0.0)
    known, dtype, eps = working_precision(given.train, given.cross, given.test, arrays=(y,), numbers=(ridge,))
    _checks.in_range(dtype, y=y)
    with _linalg.double_precision(known):
        k = given.working(known, dtype)
        (y,) = working_copies([("y", y)], known, dtype)
        factor = _cholesky.factor("nngp_train", k.train, ridge, eps)
        half = jax.scipy.linalg.solve_triangular(factor, k.cross.T, lower=True)
        mean = half.T @ jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        cov = k.test - half.T @ half
        if not _checks.is_traced(mean, cov):
            k.refuse_unlike(eps)
            errors = _gp_errors(k, y, ridge, factor, eps)
            _refuse_negative(names, cov, errors)
            retry = lambda ridge: _gp_errors(k, y, ridge, _cholesky.factor(names[0], k.train, ridge, eps), eps)  # noqa: E731
            _warn_of_lost_digits("nngp_train", eps, ridge, errors, retry, mean, cov, k.test)
        return mean.astype(dtype), _not_negative(cov).astype(dtype)


def ensemble_posterior(
    kernel_train: Kernel,
    y: ArrayLike,
    kernel_test_train: Kernel | None = None,
    kernel_test: Kernel | None = None,
    *,
    t: ArrayLike,
    ridge: Number = 0.0,
    kernel: Literal["ntk", "nngp"] = "ntk",
) -> tuple[Float[Array, "*T M K"], Float[Array, "*T M M"]]:
    """Return mean and covariance of the outputs of infinitely wide networks that are trained for a time t.

    The networks differ in their initializations, and are trained by gradient flow of 1/(2N) Σ_i ‖f(x_i) − y_i‖². At the
    start the outputs are Gaussian, with mean zero and the NNGP covariance Σ. At time t they are linear in the outputs
    at the start. Therefore::

        P_t = Θ(x, X) R⁻¹ (1 − e^(−Rt/N)),  R = Θ(X, X) + ridge · tr(Θ(X, X))/N · 1,
        mean = P_t y,  cov = Σ(x, x') + P_t Σ(X, X) P_tᵀ − P_t Σ(X, x') − Σ(x, X) P_tᵀ.

    Args:
        kernel_train: `net.kernel(X)`.
        y: Targets, [N, K].
        kernel_test_train: `net.kernel(x, X)`. Without `kernel_test_train` and `kernel_test` the test inputs x are the
            training inputs X, and P_t is 1 − e^(−Rt/N).
        kernel_test: `net.kernel(x)`.
        t: One time, or several ascending times [T]; `jnp.inf` is the end of training.
        ridge: Not negative; see R above.
        kernel: With "ntk" all layers are trained; the result is then not a Bayesian posterior. With "nngp" only the
            last layer is trained: R is Σ(X, X) with the ridge, P_t has Σ(x, X) instead of Θ(x, X), and `cov` has R
            instead of Σ(X, X). At t = ∞ this is `gp_posterior` with the same ridge.

    Returns:
        The mean, [M, K] or [T, M, K], and the covariance, [M, M] or [T, M, M], which is the same for each of the K
        outputs. Without test inputs M is N.

    Raises:
        TypeError: If an argument has the wrong type, such as an array instead of a `Kernel`.
        ValueError: For the reasons of `gradient_flow` and `gp_posterior` (but R may be singular), if only one of the
            kernels at test inputs is given, or if `kernel` is not "ntk" or "nngp".

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.mlp([2, 8, 1], w_std=1.0, rngs=nnx.Rngs(0))
        >>> x, new = jnp.eye(2), jnp.array([[1.0, 1.0]])
        >>> y = jnp.ones((2, 1))
        >>> mean, cov = ensemble_posterior(net.kernel(x), y, net.kernel(new, x), net.kernel(new), t=jnp.inf)
        >>> mean.shape, cov.shape
        ((1, 1), (1, 1))

    Note:
        Memory: a few N² + T M (N + M) numbers. Precision and warnings are those of `gp_posterior`, at the last time.
        Without test inputs there is no warning.

    References:
        Lee et al. 2019, §2.4, equations (15) and (16).
    """
    for name, value in (
        ("kernel_train", kernel_train), ("kernel_test_train", kernel_test_train), ("kernel_test", kernel_test)
    ):  # fmt: skip
        if value is not None or name == "kernel_train":
            _checks.instance(name, value, Kernel, "`net.kernel(x)`")
    if (kernel_test_train is None) != (kernel_test is None):
        raise ValueError(
            "`kernel_test_train` and `kernel_test` go together: `net.kernel(x_test, x_train)` and `net.kernel(x_test)`."
        )
    _checks.choice("kernel", kernel, ("ntk", "nngp"))
    _checks.real("ridge", ridge, minimum=0.0)
    times = _checks.times("t", t)
    records = (kernel_train, kernel_test_train, kernel_test)
    given = [_of_records(records, kind) for kind in (kernel, "nngp")]
    y = _checks.host_targets("y", y, len(given[0].train))
    known, dtype, eps = working_precision(
        *(a for k in given for a in (k.train, k.cross, k.test)), arrays=(y,), numbers=(times, ridge)
    )
    with _linalg.double_precision(known):
        theta, nngp = (k.working(known, dtype) for k in given)
        (y,) = working_copies([("y", y)], known, dtype)
        ts = _linalg.vector(times, y.dtype)
        spectrum = _spectrum.spectrum(theta.names[0], theta.train, ridge, eps)
        evolve = _spectrum.flow_until(ts)
        start = nngp
        if kernel == "nngp":  # R takes the place of Σ(X, X): the outputs at the start include the noise of the ridge
            start = dataclasses.replace(nngp, train=spectrum.modes * spectrum.values[None, :] @ spectrum.modes.T)
        mean, cov = _ensemble(theta, start, y, spectrum, *spectrum.filters(evolve))
        if not (theta.cross is None or _checks.is_traced(mean, cov)):
            theta.refuse_unlike(eps)
            nngp.refuse_unlike(eps)
            errors = _ensemble_errors(theta, start, y, spectrum, evolve, eps)
            _refuse_negative(nngp.names, cov[-1], errors)
            retry = lambda r: _ensemble_errors(theta, start, y, spectrum.with_ridge(r), evolve, eps)  # noqa: E731
            _warn_of_lost_digits(theta.names[0], eps, ridge, errors, retry, mean[-1], cov[-1], nngp.test)
        mean, cov = mean.astype(dtype), _not_negative(cov).astype(dtype)
    return (mean, cov) if times.ndim == 1 else (mean[0], cov[0])


def _ensemble(
    theta: "_Parts", sigma: "_Parts", y: Array, spectrum: Spectrum, learned: Array, integral: Array
) -> tuple[Array, Array]:
    """Return mean [T, M, K] and covariance [T, M, M] at the test points; without them, at the training points."""
    u = spectrum.modes
    if theta.cross is None or sigma.cross is None or sigma.test is None:
        stays = jnp.einsum("ni,ti,mi->tnm", u, 1 - learned, u)
        mean = jnp.einsum("ni,ti,mi,mk->tnk", u, learned, u, y)
        return mean, jnp.einsum("tmn,nj,tlj->tml", stays, sigma.train, stays)
    rows = _spectrum.projected(spectrum, theta.cross).rows
    operator = jnp.einsum("mi,ti,li->tml", rows, integral / len(u), u)
    mixed = jnp.einsum("tmn,ln->tml", operator, sigma.cross)
    ours = jnp.einsum("tmn,nj,tlj->tml", operator, sigma.train, operator)
    return operator @ y[None], sigma.test[None] + ours - mixed - jnp.swapaxes(mixed, 1, 2)


# ---------------------------------------------------------------------------------------------- parts of one kernel


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The three matrices of one kernel, with the names of the arguments that they came from.

    `train` is [N, N], `cross` [M, N] between test and training inputs, and `test` [M, M]. Without test inputs the last
    two are None.
    """

    names: tuple[str, str, str]
    train: Any
    cross: Any
    test: Any

    def working(self, known: bool, dtype: Any) -> "_Parts":
        """Return the same matrices in float64 if `known` is true, and in `dtype` otherwise."""
        arrays = zip(self.names, (self.train, self.cross, self.test), strict=True)
        return _Parts(self.names, *working_copies(list(arrays), known, dtype))

    def refuse_unlike(self, eps: float) -> None:
        """Refuse matrices that are not parts of one kernel.

        The matrix [[train, crossᵀ], [cross, test]] must be positive semi-definite up to rounding. To test this, scale
        it to a diagonal of ones, add a small number (the slack) to the diagonal, and factorize it by Cholesky. If the
        training kernel alone cannot be factorized, increase the slack, at most to 0.1.
        """
        variances = jnp.concatenate([jnp.diagonal(self.train), jnp.diagonal(self.test)])
        largest = variances.max()
        scale = jnp.sqrt(jnp.maximum(variances, jnp.where(largest > 0, 1e-12 * largest, 1.0)))
        a, b = scale[: len(self.train)], scale[len(self.train) :]
        train, test = self.train / (a[:, None] * a[None, :]), self.test / (b[:, None] * b[None, :])
        slack = min(max(100 * eps * len(scale) ** 0.5, 1e-6), 0.1)
        factor = _with_slack(train, slack)
        if factor is None:
            while slack < 0.1 and _with_slack(train, slack) is None:
                slack = min(10 * slack, 0.1)
            slack = min(10 * slack, 0.1)  # a margin, so that the factorization is well conditioned
            factor = _with_slack(train, slack)
        if factor is not None:
            half = jax.scipy.linalg.solve_triangular(factor, (self.cross / (b[:, None] * a[None, :])).T, lower=True)
            if _with_slack(test - half.T @ half, slack) is not None:
                return
        raise ValueError(_unlike(self.names, ""))


def _with_slack(matrix: Array, slack: float) -> Array | None:
    """Return the Cholesky factor of a matrix plus `slack` · 1, or None if the sum is not positive definite."""
    factor = jnp.linalg.cholesky(matrix + slack * jnp.eye(len(matrix)))
    return factor if bool(jnp.isfinite(factor).all()) else None


def _unlike(names: tuple[str, str, str], finding: str) -> str:
    return (
        f"`{names[0]}`, `{names[1]}` and `{names[2]}` cannot be parts of one kernel: some outputs would have a "
        f"variance below zero{finding}. Compute all three with the same network and the same inputs, and scale all of "
        f"them or none."
    )


def _checked(names: tuple[str, str, str], train: Any, cross: Any, test: Any) -> _Parts:
    train = _checks.square_kernel(names[0], train)
    cross = _checks.cross_kernel(names[1], cross, len(train))
    test = _checks.square_kernel(names[2], test)
    if len(test) != len(cross):
        raise ValueError(
            f"`{names[2]}` must be [M, M] for the M = {len(cross)} test inputs that are the rows of the kernel "
            f"between test and training inputs; got {test.shape}."
        )
    return _Parts(names, train, cross, test)


def _of_records(records: tuple[Kernel, Kernel | None, Kernel | None], kind: str) -> _Parts:
    train, cross, test = (f"{name}.{kind}" for name in ("kernel_train", "kernel_test_train", "kernel_test"))
    arrays = [None if k is None else getattr(k, kind) for k in records]
    if arrays[1] is None:
        return _Parts((train, cross, test), _checks.square_kernel(train, arrays[0]), None, None)
    return _checked((train, cross, test), *arrays)


# ------------------------------------------------------------------------------------------------- rounding errors

#: How far rounding errors of the kernels move the mean, how far they move the variances, [M], and σ of `_spectrum`.
_Errors = tuple[float, Array, float]


def _gp_errors(k: _Parts, y: Array, ridge: Any, factor: Array, eps: float) -> _Errors:
    n, d = len(k.train), jnp.diagonal(k.train)
    added, lower = ridge * jnp.mean(d), (factor, True)
    # If the smallest eigenvalue of R is less than what the ridge added, k(X, X) has a negative eigenvalue, which is a
    # rounding error and shows the size of the others.
    below_zero = float(jnp.maximum(added - _cholesky.smallest_eigenvalue(factor), 0.0) / jnp.mean(d))
    sigma = max(_spectrum.ENTRY * eps, below_zero / (2 * n**0.5))
    coefficients, weights = (jax.scipy.linalg.cho_solve(lower, a) for a in (y, k.cross.T))
    reach = jnp.sqrt(jnp.maximum(jnp.diagonal(k.test), 0.0)) + weighted_norm(d, weights.T)
    return float(sigma * weighted_norm(d, coefficients.T).max() * reach.max()), sigma * reach**2, sigma


def _ensemble_errors(theta: _Parts, sigma: _Parts, y: Array, spectrum: Spectrum, evolve: Any, eps: float) -> _Errors:
    """Return estimates of how far rounding errors δΘ and δΣ of the kernels move mean and variances.

    Let A = P_t Σ(X, X) − Σ(x, X). The covariance changes by A δP_tᵀ + δP_t Aᵀ, and by terms such as P_t δΣ P_tᵀ.
    """
    u, n = spectrum.modes, len(spectrum.modes)
    g = spectrum.filters(evolve)[1][-1] / n
    points = _spectrum.projected(spectrum, theta.cross)
    of_mean = _lost_digits.of_outputs(spectrum, evolve, _lost_digits.averaged(theta.train, y), points)[1]
    reach = points.reach(spectrum, g)
    operator = (points.rows * g[None, :]) @ u.T
    behind = ((operator @ sigma.train - sigma.cross) @ u * g[None, :]) @ u.T
    of_operator = 2 * spectrum.sigma * weighted_norm(spectrum.diagonal, behind) * reach
    prior = jnp.sqrt(jnp.maximum(jnp.diagonal(sigma.test), 0.0)) + weighted_norm(jnp.diagonal(sigma.train), operator)
    return of_mean, of_operator + _spectrum.ENTRY * eps * prior**2, float(spectrum.sigma)


def _refuse_negative(names: tuple[str, str, str], cov: Array, errors: _Errors) -> None:
    """Raise ValueError if a variance is further below zero than rounding explains."""
    variances = jnp.diagonal(cov)
    if bool((variances < -30 * errors[1]).any()):
        raise ValueError(_unlike(names, f", {float(variances.min()):.3g}"))


def _not_negative(cov: Array) -> Array:
    """Return a covariance with variances below zero set to zero."""
    return jnp.where(jnp.eye(cov.shape[-1], dtype=bool), jnp.maximum(cov, 0.0), cov)


def _warn_of_lost_digits(
    argument: str,
    eps: float,
    ridge: Any,
    errors: _Errors,
    retry: Callable[[float], _Errors],
    mean: Array,
    cov: Array,
    prior: Array,
) -> None:
    """Warn if rounding errors move the mean or the variances by more than 1 % of their largest entry.

    `retry` returns the errors with another ridge, and `prior` is the covariance of the test outputs before training.
    """
    largest, variance = float(jnp.abs(mean).max()), float(jnp.diagonal(cov).max())
    least = _lost_digits.TOLERANCE**2 * float(jnp.diagonal(prior).max())  # 1 % of a standard deviation

    def relative(errors: _Errors) -> tuple[float, float]:
        worst = float(errors[1].max())
        return errors[0] / largest if largest else 0.0, worst / max(variance, worst) if worst > least else 0.0

    def fine(errors: _Errors) -> bool:
        return max(relative(errors)) <= _lost_digits.TOLERANCE

    if fine(errors):
        return
    of_mean, of_variance = relative(errors)
    _lost_digits.warn(
        "the means" if of_mean > _lost_digits.TOLERANCE else "the variances",
        max(of_mean, of_variance),
        argument=argument,
        eps=eps,
        sigma=errors[2],
        ridge=_lost_digits.least_ridge(ridge, lambda r: fine(retry(r))),
    )
