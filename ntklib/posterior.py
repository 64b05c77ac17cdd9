"""Infinitely wide networks with their uncertainty: Gaussian processes, and ensembles of trained networks."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks, _linalg
from ntklib.kernel import Kernel
from ntklib.predict import Scalar, spectrum


def gp_posterior(
    k_train: ArrayLike, y: ArrayLike, k_test_train: ArrayLike, k_test: ArrayLike, *, ridge: Scalar
) -> tuple[Float[Array, "M K"], Float[Array, "M M"]]:
    """Mean and covariance, at test inputs, of a Gaussian process with kernel k that was seen at the training inputs:

        mean = k(x, X) R⁻¹ y,  cov = k(x, x') − k(x, X) R⁻¹ k(X, x'),  R = k(X, X) + ridge · tr(k(X, X))/N · 1.

    With the NNGP kernel it is the Bayesian posterior of an infinitely wide network, and just as well what an ensemble
    of them says whose last layer alone was trained. With the NTK the mean is that of trained networks, the covariance
    is not: see `ensemble_posterior`.

    k_train [N, N], k_test_train [M, N], k_test [M, M]: the kernel of the training inputs, between test and training
        inputs, of the test inputs.  y: targets [N, K].
    ridge: the variance of the noise on `y`, as a share of the mean variance tr(k)/N. Not negative; 0 needs a kernel
        that is not singular.

    Returns the mean [M, K] and the covariance between the inputs [M, M], the same for each of the K outputs.
    Raises ValueError on a singular or indefinite R, on kernels that are not symmetric, on sizes that disagree.
    By one Cholesky factorisation, N³/3 operations. Source: Rasmussen & Williams 2006, §2.2; Lee et al. 2018.

    >>> k = jnp.array([[1.0, 0.5], [0.5, 1.0]])  # one training and one test input, each of variance 1
    >>> mean, cov = gp_posterior(k[:1, :1], jnp.array([[2.0]]), k[1:, :1], k[1:, 1:], ridge=0.0)
    >>> mean.tolist(), cov.tolist()
    ([[1.0]], [[0.75]])
    """
    k_train = _checks.square_kernel("k_train", k_train)
    n = len(k_train)
    y = _checks.targets("y", y, n)
    k_test_train = _checks.test_kernel("k_test_train", k_test_train, n)
    k_test = _same_points("k_test", _checks.square_kernel("k_test", k_test), k_test_train)
    _checks.real("ridge", ridge, minimum=0.0)
    regular = k_train + ridge * jnp.trace(k_train) / n * jnp.eye(n, dtype=k_train.dtype)
    factor = jnp.linalg.cholesky(regular)
    pivots = jnp.diagonal(factor) ** 2
    if not _checks.is_traced(pivots):
        # A pivot is what is left of an entry's variance: below N ε of the largest it is rounding. NaN fails as well.
        floor = n * float(jnp.finfo(pivots.dtype).eps) * float(jnp.diagonal(regular).max())
        if not bool((pivots > floor).all()):
            raise ValueError(
                f"`k_train` is singular to the precision of {pivots.dtype} with `ridge` = {ridge:g}: inputs that are "
                f"equal or nearly so, or fewer features than inputs. Use a ridge, e.g. ridge=1e-4, or float64."
            )
    half = jax.scipy.linalg.solve_triangular(factor, k_test_train.T, lower=True)
    mean = half.T @ jax.scipy.linalg.solve_triangular(factor, y, lower=True)
    return mean, k_test - half.T @ half


def ensemble_posterior(
    kernel_train: Kernel,
    y: ArrayLike,
    kernel_test_train: Kernel | None = None,
    kernel_test: Kernel | None = None,
    *,
    t: ArrayLike,
    ridge: Scalar = 0.0,
    kernel: Literal["ntk", "nngp"] = "ntk",
) -> tuple[Float[Array, "*T M K"], Float[Array, "*T M M"]]:
    """Mean and covariance, over initialisations, of the outputs of infinitely wide networks trained for a time t by
    gradient flow of 1/(2N) Σ_i ‖f(x_i) − y_i‖². The start is Gaussian with the NNGP covariance Σ, and flow is linear:

        P_t = Θ(x, X) R⁻¹ (1 − e^(−Rt/N)),  R = Θ(X, X) + ridge · tr(Θ(X, X))/N · 1,
        mean = P_t y,  cov = Σ(x, x') + P_t Σ(X, X) P_tᵀ − P_t Σ(X, x') − Σ(x, X) P_tᵀ.

    kernel_train, kernel_test_train, kernel_test: `net.kernel(X)`, `net.kernel(x, X)`, `net.kernel(x)`. Without the
        last two the outputs at the training inputs, where 1 − e^(−Rt/N) takes the place of P_t.
    y: targets [N, K].  t: one time or several [T], ascending, `jnp.inf` for the end.
    kernel: "ntk" trains all layers. "nngp" trains the last one alone: Θ becomes Σ and the start has R for its
        covariance at X, so that at t = ∞ this is `gp_posterior` with the same ridge. For "ntk" it is no posterior.

    Returns mean [(T,) M, K] and covariance [(T,) M, M], the same for each of the K outputs.
    Raises ValueError as `gradient_flow` does; TypeError where arrays are given for kernels.
    Memory: N² + T M (N + M) numbers. Source: Lee et al. 2019, §2.4, equations (15) and (16).

    >>> import ntklib as ntk
    >>> from flax import nnx
    >>> net = ntk.mlp([2, 8, 1], w_std=1.0, rngs=nnx.Rngs(0))
    >>> x, new = jnp.eye(2), jnp.array([[1.0, 1.0]])
    >>> y = jnp.ones((2, 1))
    >>> mean, cov = ensemble_posterior(net.kernel(x), y, net.kernel(new, x), net.kernel(new), t=jnp.inf)
    >>> mean.shape, cov.shape
    ((1, 1), (1, 1))
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
    nngp = _checks.square_kernel("kernel_train.nngp", kernel_train.nngp)
    n = len(nngp)
    y = _checks.targets("y", y, n)
    times = _checks.times("t", t)
    dynamics = _checks.square_kernel(f"kernel_train.{kernel}", getattr(kernel_train, kernel))
    values, modes = spectrum(f"kernel_train.{kernel}", dynamics, ridge)
    learned, integral = _linalg.decay(values[None] / n, jnp.atleast_1d(times)[:, None])
    prior = jnp.einsum("ni,i,mi->nm", modes, values, modes) if kernel == "nngp" else nngp
    if kernel_test_train is None or kernel_test is None:
        operator = jnp.einsum("ni,ti,mi->tnm", modes, learned, modes)
        cross, test = prior, prior
    else:
        k_test_train = _checks.test_kernel(f"kernel_test_train.{kernel}", getattr(kernel_test_train, kernel), n)
        operator = jnp.einsum("mn,ni,ti,li->tml", k_test_train, modes, integral / n, modes)
        cross = kernel_test_train.nngp
        test = _same_points("kernel_test.nngp", _checks.square_kernel("kernel_test.nngp", kernel_test.nngp), cross)
    mean = jnp.einsum("tmn,nk->tmk", operator, y)
    mixed = jnp.einsum("tmn,ln->tml", operator, cross)
    cov = test[None] + jnp.einsum("tmn,nj,tlj->tml", operator, prior, operator) - mixed - jnp.swapaxes(mixed, 1, 2)
    return (mean, cov) if times.ndim == 1 else (mean[0], cov[0])


def _same_points(argument: str, k_test: Array, k_test_train: Array) -> Array:
    if len(k_test) != len(k_test_train):
        raise ValueError(
            f"`{argument}` must be [M, M] for the M = {len(k_test_train)} test inputs that are the rows of the kernel "
            f"between test and training inputs; got {k_test.shape}."
        )
    return k_test
