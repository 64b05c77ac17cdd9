"""Two scores by which to choose a ridge or a network: leave-one-out predictions, and the marginal likelihood."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import cho_solve
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.dynamics import _cholesky, _linalg, _lost_digits, _spectrum
from ntklib.dynamics._spectrum import weighted_norm
from ntklib.dynamics.flow import Number, working_copies, working_precision

#: The error of leave-one-out predictions is computed at this many inputs, where a cheap estimate of it is largest.
_LOOKED_AT = 16
#: The number of random vectors by which the size of R⁻¹ is estimated.
_PROBES = 8


def loo(ntk_train: ArrayLike, y: ArrayLike, *, ridge: Number) -> Float[Array, "N K"]:
    """Return the leave-one-out predictions of kernel ridge regression, without fitting N times.

    Row i is the prediction at x_i of the regression on all other inputs. With c = R⁻¹ y it is::

        f_(−i)(x_i) = y_i − c_i/(R⁻¹)_ii,  R = Θ(X, X) + ridge · tr(Θ(X, X))/N · 1.

    Args:
        ntk_train: Θ(X, X), or the NNGP kernel of X, [N, N].
        y: Targets, [N, K].
        ridge: Not negative. All N regressions add the same number, ridge · tr(Θ(X, X))/N, to the diagonal. The trace is
            that of all inputs, also when one is left out. With 0 the kernel must not be singular.

    Returns:
        The predictions, [N, K]. The mean of (y − loo)² estimates the squared error at new inputs.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If R is singular or indefinite, if the kernel is not square and symmetric, if shapes disagree, or if
            `ridge` is negative.

    Example:
        >>> k = jnp.array([[1.0, 0.5], [0.5, 1.0]])
        >>> loo(k, jnp.array([[2.0], [4.0]]), ridge=0.0).tolist()  # half of the other target
        [[2.0], [1.0]]

    Note:
        The Cholesky factorization and the inverse of its factor take N³ operations. Precision and type are those of
        `gradient_flow`. The function works under jit and grad, also with the kernel from `net.kernel`. A warning is
        given if rounding errors of the kernel move a prediction by more than 1 % of the largest target.

    References:
        Rasmussen & Williams 2006, §5.4.2, equation (5.12).

    See Also:
        `log_marginal_likelihood`, another score of a ridge or a network that needs no validation set.
    """
    kernel, y = _given("ntk_train", ntk_train, y, ridge)
    known, dtype, eps = working_precision(kernel, arrays=(y,), numbers=(ridge,))
    _checks.in_range(dtype, y=y)
    with _linalg.double_precision(known):
        kernel, y = working_copies([("ntk_train", kernel), ("y", y)], known, dtype)
        low = _cholesky.factor("ntk_train", kernel, ridge, eps)
        inverse = _cholesky.inverse_diagonal(low)
        coefficients = cho_solve((low, True), y)
        predictions = y - coefficients / inverse[:, None]
        if not _checks.is_traced(predictions):
            _warn_of_predictions(kernel, y, ridge, eps, low, inverse, coefficients)
        return predictions.astype(dtype)


def log_marginal_likelihood(nngp_train: ArrayLike, y: ArrayLike, *, ridge: Number) -> Float[Array, ""]:
    """Return the logarithm of the probability density of the targets under a Gaussian process.

    The K outputs are independent. Each has mean zero and the covariance R = k(X, X) + ridge · tr(k(X, X))/N · 1::

        log p(y) = −½ Σ_k y_kᵀ R⁻¹ y_k − (K/2) log det R − (N K/2) log 2π.

    With the NNGP kernel this is the evidence of an infinitely wide Bayesian network, by which architectures and their
    σ_w and σ_b can be compared. It depends on the scale of the kernel, although the mean of `gp_posterior` does not.

    Args:
        nngp_train: k(X, X), [N, N].
        y: Targets, [N, K].
        ridge: The variance of the noise on `y`, relative to the mean variance tr(k(X, X))/N; not negative. With 0 the
            kernel must not be singular.

    Returns:
        One number, in nats, for all inputs and outputs together.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If R is singular or indefinite, if the kernel is not square and symmetric, if shapes disagree, if
            `ridge` is negative, or if the result leaves the range of its type.

    Example:
        >>> round(float(log_marginal_likelihood(jnp.eye(2), jnp.array([[1.0], [0.0]]), ridge=0.0)), 4)  # −½ − log 2π
        -2.3379

        The derivatives with respect to σ_w and σ_b, by which both can be fitted:

        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> def evidence(w_std, b_std):
        ...     net = ntk.mlp([2, 1], w_std=w_std, b_std=b_std, rngs=nnx.Rngs(0))
        ...     return log_marginal_likelihood(net.kernel(jnp.eye(2)).nngp, jnp.array([[1.0], [0.0]]), ridge=0.0)
        >>> [round(float(s), 4) for s in jax.grad(evidence, argnums=(0, 1))(2.0**0.5, 1.0)]  # k = [[2, 1], [1, 2]]
        [-0.55, -0.5556]

    Note:
        The factorization takes N³/3 operations. Precision and type are those of `gradient_flow`. The function works
        under jit and grad. With the kernel from `net.kernel`, grad also gives the gradient with respect to the inputs,
        and to σ_w and σ_b of a network that is built inside of the function.
        A warning is given if rounding errors of the kernel move the result by more than 1 % of its absolute value, or
        of N K if N K is larger.

    References:
        Rasmussen & Williams 2006, equation (2.30).

    See Also:
        `gp_posterior`, which takes the same `ridge`; `loo`, another score.
    """
    kernel, y = _given("nngp_train", nngp_train, y, ridge)
    known, dtype, eps = working_precision(kernel, arrays=(y,), numbers=(ridge,))
    with _linalg.double_precision(known):
        kernel, y = working_copies([("nngp_train", kernel), ("y", y)], known, dtype)
        low = _cholesky.factor("nngp_train", kernel, ridge, eps)
        half = jax.scipy.linalg.solve_triangular(low, y, lower=True)
        n, k = y.shape
        value = -0.5 * jnp.sum(half**2) - k * jnp.sum(jnp.log(jnp.diagonal(low))) - 0.5 * n * k * np.log(2 * np.pi)
        if not _checks.is_traced(value):
            if not abs(float(value)) <= float(jnp.finfo(dtype).max):
                raise ValueError(
                    f"`y` is too large for this kernel: it goes up to {float(jnp.abs(y).max()):.3g}, and the result "
                    f"leaves the range of {dtype.name}. Scale `y` to the size of the kernel's outputs, or use a larger "
                    f"`ridge`{', or float64' if dtype == np.float32 else ''}."
                )
            _warn_of_evidence(kernel, y, ridge, eps, low, float(value))
        return value.astype(dtype)


def _given(argument: str, kernel: Any, y: Any, ridge: Any) -> tuple[Any, Any]:
    kernel = _checks.square_kernel(argument, kernel)
    _checks.real("ridge", ridge, minimum=0.0)
    return kernel, _checks.host_targets("y", y, len(kernel))


# ------------------------------------------------------------------------------------------------- rounding errors


def _rounding(kernel: Array, ridge: Any, eps: float, low: Array) -> float:
    """Return an estimate of σ, where entry (i, j) of the kernel Θ has an error of about σ √(Θ_ii Θ_jj).

    If the smallest eigenvalue of R is less than what the ridge added, the kernel has a negative eigenvalue, which is a
    rounding error and shows the size of the others.
    """
    mean = jnp.mean(jnp.diagonal(kernel))
    below_zero = float(jnp.maximum(ridge * mean - _cholesky.smallest_eigenvalue(low), 0.0) / mean)
    return max(_spectrum.ENTRY * eps, below_zero / (2 * len(kernel) ** 0.5))


def _warn_of_predictions(
    kernel: Array, y: Array, ridge: Any, eps: float, low: Array, inverse: Array, coefficients: Array
) -> None:
    """Warn if rounding errors of the kernel move leave-one-out predictions.

    Let w be column i of R⁻¹. An error E of the kernel moves c_i by −wᵀ E c, and w_i = (R⁻¹)_ii by −wᵀ E w.
    """
    largest = float(jnp.abs(y).max())
    if not largest:
        return

    def error(low: Array, inverse: Array, coefficients: Array, sigma: float) -> float:
        d = jnp.diagonal(kernel)
        most = jnp.abs(coefficients).max(1)
        # ‖w‖² is at most w_i divided by the smallest eigenvalue of R. This suggests a cheap estimate. Compute w itself
        # where the estimate is largest.
        estimate = (1 + most / inverse) / jnp.sqrt(inverse)
        rows = jnp.argsort(-estimate)[:_LOOKED_AT]
        columns = cho_solve((low, True), jnp.eye(len(low), dtype=low.dtype)[:, rows])
        reach = weighted_norm(d, columns.T)
        size = weighted_norm(d, coefficients.T).max()
        moved = reach * size / inverse[rows] + most[rows] * reach**2 / inverse[rows] ** 2
        return float(sigma * moved.max()) / largest

    def retry(ridge: float) -> float:
        low = _cholesky.factor("ntk_train", kernel, ridge, eps)
        parts = _cholesky.inverse_diagonal(low), cho_solve((low, True), y)
        return error(low, *parts, _rounding(kernel, ridge, eps, low))

    sigma = _rounding(kernel, ridge, eps, low)
    found = error(low, inverse, coefficients, sigma)
    if found > _lost_digits.TOLERANCE:
        better = _lost_digits.least_ridge(float(ridge), lambda r: retry(r) <= _lost_digits.TOLERANCE)
        _lost_digits.warn(
            "the leave-one-out predictions", found, argument="ntk_train", eps=eps, sigma=sigma, ridge=better
        )


def _warn_of_evidence(kernel: Array, y: Array, ridge: Any, eps: float, low: Array, value: float) -> None:
    """Warn if rounding errors of the kernel move the marginal likelihood.

    With c_k = R⁻¹ y_k, an error E of the kernel moves the logarithm by ½ Σ_k c_kᵀ E c_k − (K/2) tr(R⁻¹ E).
    """

    def error(low: Array, sigma: float) -> float:
        d, k = jnp.diagonal(kernel), y.shape[1]
        root = jnp.sqrt(d)[:, None]
        of_fit = jnp.sum(weighted_norm(d, cho_solve((low, True), y).T) ** 2)
        probes = jax.random.rademacher(jax.random.key(0), (len(low), _PROBES), low.dtype)
        squared = jnp.mean(jnp.sum((root * cho_solve((low, True), root * probes)) ** 2, axis=0))  # ‖D^½ R⁻¹ D^½‖²
        return float(sigma * (of_fit + k * jnp.sqrt(squared)) / 2) / max(abs(value), y.size)

    def retry(ridge: float) -> float:
        low = _cholesky.factor("nngp_train", kernel, ridge, eps)
        return error(low, _rounding(kernel, ridge, eps, low))

    sigma = _rounding(kernel, ridge, eps, low)
    found = error(low, sigma)
    if found > _lost_digits.TOLERANCE:
        better = _lost_digits.least_ridge(float(ridge), lambda r: retry(r) <= _lost_digits.TOLERANCE)
        _lost_digits.warn("the marginal likelihood", found, argument="nngp_train", eps=eps, sigma=sigma, ridge=better)
