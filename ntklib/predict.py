"""Training in function space: what a network with a constant tangent kernel does, in closed form."""

from typing import overload

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks, _linalg


@overload
def gradient_flow(
    ntk_train: ArrayLike, y: ArrayLike, *, t: ArrayLike, f0: ArrayLike | None = None
) -> Float[Array, "*T N K"]: ...


@overload
def gradient_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: ArrayLike | None = None,
    ntk_test: ArrayLike,
    f0_test: ArrayLike | None = None,
) -> tuple[Float[Array, "*T N K"], Float[Array, "*T M K"]]: ...


def gradient_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: ArrayLike | None = None,
    ntk_test: ArrayLike | None = None,
    f0_test: ArrayLike | None = None,
) -> Float[Array, "*T N K"] | tuple[Float[Array, "*T N K"], Float[Array, "*T M K"]]:
    """Outputs under gradient flow of the loss 1/(2N) Σ_i ‖f(x_i) − y_i‖² with the kernel held constant:

        df(X)/dt = −Θ (f − y)/N,  so  f_t(X) = y + e^(−Θt/N) (f_0 − y),
        f_t(x) = f_0(x) + Θ(x, X) Θ⁻¹ (1 − e^(−Θt/N)) (y − f_0),

    by one eigendecomposition. One gradient-descent step of size η advances `t` by η. For a loss without the 1/N, as
    some papers have it, the same curve comes N times sooner.

    ntk_train: Θ(X, X), [N, N].  y: targets, [N, K].  f0: outputs at t = 0, [N, K] (zero by default).
    t: one time or several [T], ascending; `jnp.inf` is the end of training.
    ntk_test: Θ(x, X), [M, N], rows for the test points; f0_test: their outputs at t = 0, [M, K].

    Returns f_t(X), [N, K] for one time and [T, N, K] for several; with `ntk_test` a pair, f_t(X) and f_t(x) [(T,) M,
    K]. As t → ∞ the training outputs reach `y` on the range of Θ and keep `f0` on its null space, where eigenvalues
    are taken as zero below N·ε times the largest.
    Raises ValueError on a kernel that is not square, symmetric and positive semi-definite, on sizes that disagree, on
    times that are negative or decrease.
    Memory: a few N² numbers. Source: Jacot et al. 2018, §4; Lee et al. 2019, §2.2.

    >>> ntk, y = jnp.array([[2.0]]), jnp.array([[1.0]])
    >>> [round(float(f), 4) for f in gradient_flow(ntk, y, t=jnp.array([0.0, 0.5, jnp.inf]))[:, 0, 0]]
    [0.0, 0.6321, 1.0]
    """
    ntk_train = _checks.square_kernel("ntk_train", ntk_train)
    n = ntk_train.shape[0]
    y = _checks.targets("y", y, n)
    times = _checks.times("t", t)
    f0 = jnp.zeros_like(y) if f0 is None else _checks.targets("f0", f0, n)
    _checks.same_shape("f0", f0, "y", y)
    rates, modes = _spectrum("ntk_train", ntk_train)
    wanted = modes.T @ (y - f0)  # the target's components along the kernel's modes, [N, K]

    def along_modes(weights: Array) -> Array:
        return jnp.einsum("ni,ti,ik->tnk", modes, weights, wanted)

    learned, integral = _linalg.decay(rates[None, :], jnp.atleast_1d(times)[:, None])
    several = times.ndim == 1
    train = f0[None] + along_modes(learned)
    train = train if several else train[0]
    if ntk_test is None:
        if f0_test is not None:
            raise ValueError(
                "`f0_test` is given without `ntk_test`, the kernel between test and training inputs [M, N]."
            )
        return train
    ntk_test = _checks.test_kernel("ntk_test", ntk_test, n)
    f0_test = (
        jnp.zeros((len(ntk_test), y.shape[1]), y.dtype)
        if f0_test is None
        else _checks.targets("f0_test", f0_test, len(ntk_test))
    )
    _checks.same_outputs("f0_test", f0_test, "y", y)
    # Θ⁻¹(1 − e^(−Θt/N)) = (1/N) Σ over modes of the integral of their decay: finite at zero eigenvalues.
    test = f0_test[None] + jnp.einsum("mn,tnk->tmk", ntk_test, along_modes(integral)) / n
    return train, test if several else test[0]


def _spectrum(argument: str, kernel: Array) -> tuple[Array, Array]:
    """Rates λ/N and modes of a kernel; eigenvalues that are zero up to rounding are set to zero."""
    n = kernel.shape[0]
    values, modes = jnp.linalg.eigh(kernel)
    _checks.not_negative_spectrum(argument, values, jnp.trace(kernel))
    values = jnp.where(values > n * jnp.finfo(values.dtype).eps * values[-1], values, 0.0)
    return values / n, modes
