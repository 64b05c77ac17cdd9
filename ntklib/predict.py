"""Training in function space: what a network with a constant tangent kernel does, in closed form."""

import warnings
from collections.abc import Sequence
from typing import overload

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks, _linalg

Train = Float[Array, "*T N K"]
TrainAndTest = tuple[Float[Array, "*T N K"], Float[Array, "*T M K"]]
Start = ArrayLike | None
Scalar = float | int | Array


@overload
def gradient_flow(
    ntk_train: ArrayLike, y: ArrayLike, *, t: ArrayLike, f0: Start = None, ridge: Scalar = 0.0
) -> Train: ...


@overload
def gradient_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: Start = None,
    ntk_test: ArrayLike,
    f0_test: Start = None,
    ridge: Scalar = 0.0,
) -> TrainAndTest: ...


def gradient_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: Start = None,
    ntk_test: ArrayLike | None = None,
    f0_test: Start = None,
    ridge: Scalar = 0.0,
) -> Train | TrainAndTest:
    """Outputs under gradient flow of the loss 1/(2N) Σ_i ‖f(x_i) − y_i‖² with the kernel held constant:

        df(X)/dt = −Θ (f − y)/N,  so  f_t(X) = y + e^(−Θt/N) (f_0 − y),
        f_t(x) = f_0(x) + Θ(x, X) Θ⁻¹ (1 − e^(−Θt/N)) (y − f_0),

    by one eigendecomposition. One gradient-descent step of size η advances `t` by η. For a loss without the 1/N, as
    some papers have it, the same curve comes N times sooner.

    ntk_train: Θ(X, X), [N, N].  y: targets, [N, K].  f0: outputs at t = 0, [N, K] (zero by default).
    t: one time or several [T], ascending; `jnp.inf` is the end of training.
    ntk_test: Θ(x, X), [M, N], rows for the test points; f0_test: their outputs at t = 0, [M, K].
    ridge: Θ + ridge · tr(Θ)/N · 1 takes the place of Θ(X, X). Each training point then has a feature of its own, of
        that variance, which fits what the kernel does not: the training outputs still reach `y`, test outputs become
        those of ridge regression. The ridge fit at the training points themselves is `ntk_test=ntk_train`.

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
    times = _checks.times("t", t)
    problem = Problem(ntk_train, y, f0, ntk_test, f0_test)
    values, modes = spectrum("ntk_train", problem.ntk, ridge)
    filters = _linalg.decay(values[None, :] / len(modes), jnp.atleast_1d(times)[:, None])
    return problem.filtered(modes, *filters, several=times.ndim == 1)


@overload
def gradient_descent(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: Scalar,
    steps: ArrayLike | Sequence[int | float],
    momentum: Scalar = 0.0,
    f0: Start = None,
    ridge: Scalar = 0.0,
) -> Train: ...


@overload
def gradient_descent(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: Scalar,
    steps: ArrayLike | Sequence[int | float],
    momentum: Scalar = 0.0,
    f0: Start = None,
    ntk_test: ArrayLike,
    f0_test: Start = None,
    ridge: Scalar = 0.0,
) -> TrainAndTest: ...


def gradient_descent(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: Scalar,
    steps: ArrayLike | Sequence[int | float],
    momentum: Scalar = 0.0,
    f0: Start = None,
    ntk_test: ArrayLike | None = None,
    f0_test: Start = None,
    ridge: Scalar = 0.0,
) -> Train | TrainAndTest:
    """Outputs after full-batch gradient-descent steps on the loss 1/(2N) Σ_i ‖f(x_i) − y_i‖², kernel held constant:

        v ← μ v + (f − y),  f(X) ← f(X) − (η/N) Θ v,  f(x) ← f(x) − (η/N) Θ(x, X) v,

    heavy ball as in `optax.sgd(learning_rate, momentum)`; without momentum f_s(X) = y + (1 − ηΘ/N)^s (f_0 − y). All
    steps at once: one eigendecomposition, and powers by repeated squaring.

    learning_rate: η ≥ 0; above `max_learning_rate` the outputs diverge, and a warning says so.  momentum: 0 ≤ μ < 1.
    steps: one number of steps or several [T], ascending; `jnp.inf` is the end of training.
    Everything else, and what is returned and raised: see `gradient_flow`.

    >>> ntk, y = jnp.array([[2.0]]), jnp.array([[1.0]])
    >>> gradient_descent(ntk, y, learning_rate=0.25, steps=[0, 1, 2, jnp.inf])[:, 0, 0].tolist()
    [0.0, 0.5, 0.75, 1.0]
    """
    counts = _checks.steps("steps", steps)
    _checks.real("learning_rate", learning_rate, minimum=0.0)
    _momentum(momentum)
    problem = Problem(ntk_train, y, f0, ntk_test, f0_test)
    values, modes = spectrum("ntk_train", problem.ntk, ridge)
    rates = values / len(modes)
    limit = 2 * (1 + momentum) / rates[-1]
    if not _checks.is_traced(limit, learning_rate, counts) and float(learning_rate) > float(limit) * (1 + 1e-6):
        finding = f"`learning_rate` = {float(learning_rate):g} is above the largest stable one, {float(limit):.6g}"
        if np.isinf(counts).any():
            raise ValueError(f"{finding}: there is no end of training. Lower it, or ask for finite `steps`.")
        warnings.warn(f"{finding}: the outputs grow without bound (see max_learning_rate).", stacklevel=2)
    eta, mu = (jnp.asarray(value, rates.dtype) for value in (learning_rate, momentum))
    filters = _linalg.descent(rates, jnp.atleast_1d(counts), eta, mu)
    return problem.filtered(modes, *filters, several=counts.ndim == 1)


def max_learning_rate(ntk_train: ArrayLike, momentum: Scalar = 0.0) -> Float[Array, ""]:
    """The learning rate up to which full-batch gradient descent is stable, 2(1 + μ)N/λ_max(Θ), for the loss
    1/(2N) Σ_i ‖f(x_i) − y_i‖² with the kernel Θ = `ntk_train` [N, N] held constant; ∞ for a kernel of zeros.

    The largest eigenvalue grows with N, its mode being nearly constant over the data, so that this limit does not.
    For mini-batches it is lower: see `mean_square_limit`. Source: Lee et al. 2019, §2.2; heavy ball: Polyak 1964.

    >>> max_learning_rate(jnp.diag(jnp.array([4.0, 1.0]))).item()  # 2 · 2/4
    1.0
    """
    ntk_train = _checks.square_kernel("ntk_train", ntk_train)
    _momentum(momentum)
    values = jnp.linalg.eigvalsh(ntk_train)
    _checks.not_negative_spectrum("ntk_train", values, jnp.trace(ntk_train))
    return jnp.asarray(2 * (1 + momentum) * len(ntk_train) / jnp.maximum(values[-1], 0.0))


def spectrum(argument: str, kernel: Array, ridge: Scalar) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and modes of Θ + ridge · tr(Θ)/N · 1; those of Θ that are zero up to rounding are set to
    zero. Raises ValueError, naming the argument, if Θ is not positive semi-definite.
    """
    _checks.real("ridge", ridge, minimum=0.0)
    values, modes = jnp.linalg.eigh(kernel)
    _checks.not_negative_spectrum(argument, values, jnp.trace(kernel))
    values = jnp.where(values > len(kernel) * jnp.finfo(values.dtype).eps * values[-1], values, 0.0)
    return values + ridge * jnp.trace(kernel) / len(kernel), modes


class Problem:
    """The checked data of one regression, and outputs f_t(x) = f_0(x) + Θ(x, X) c_t from coefficients c_t [T, N, K]."""

    def __init__(self, ntk_train: ArrayLike, y: ArrayLike, f0: Start, ntk_test: Start, f0_test: Start) -> None:
        self.ntk = _checks.square_kernel("ntk_train", ntk_train)
        self.n = len(self.ntk)
        self.y = _checks.targets("y", y, self.n)
        self.f0 = jnp.zeros_like(self.y) if f0 is None else _checks.targets("f0", f0, self.n)
        _checks.same_shape("f0", self.f0, "y", self.y)
        self.ntk_test = None if ntk_test is None else _checks.test_kernel("ntk_test", ntk_test, self.n)
        if self.ntk_test is not None:
            m = len(self.ntk_test)
            zeros = jnp.zeros((m, self.y.shape[1]), self.y.dtype)
            self.f0_test = zeros if f0_test is None else _checks.targets("f0_test", f0_test, m)
            _checks.same_outputs("f0_test", self.f0_test, "y", self.y)
        elif f0_test is not None:
            raise ValueError(
                "`f0_test` is given without `ntk_test`, the kernel between test and training inputs [M, N]."
            )

    def filtered(self, modes: Array, learned: Array, integral: Array, *, several: bool) -> Train | TrainAndTest:
        """From the part of each mode that has been learned and the integral of its decay, [T, N] each."""
        wanted = modes.T @ (self.y - self.f0)  # the target's components along the modes, [N, K]
        train = self.f0[None] + jnp.einsum("ni,ti,ik->tnk", modes, learned, wanted)
        # c = Θ⁻¹(1 − e^(−Θt/N))(y − f0) = (1/N) Σ over modes of their decay's integral: finite at zero eigenvalues.
        return self.outputs(jnp.einsum("ni,ti,ik->tnk", modes, integral, wanted) / self.n, train, several=several)

    def outputs(self, coefficients: Array, train: Array, *, several: bool) -> Train | TrainAndTest:
        """Training outputs, and those at the test points where there are any."""
        if self.ntk_test is None:
            return train if several else train[0]
        test = self.f0_test[None] + jnp.einsum("mn,tnk->tmk", self.ntk_test, coefficients)
        return (train, test) if several else (train[0], test[0])


def _momentum(value: Scalar) -> None:
    _checks.real("momentum", value, minimum=0.0)
    if not _checks.is_traced(value) and value >= 1:
        raise ValueError(f"`momentum` must be below 1; got {value}. At 1 nothing damps the motion.")
