"""Training in function space on the cross-entropy: an ordinary differential equation, there being no closed form."""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks
from ntklib.predict import Problem, Start, Train, TrainAndTest


@overload
def cross_entropy_flow(
    ntk_train: ArrayLike, y: ArrayLike, *, t: ArrayLike, f0: Start = None, rtol: float = 1e-6
) -> Train: ...


@overload
def cross_entropy_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: Start = None,
    ntk_test: ArrayLike,
    f0_test: Start = None,
    rtol: float = 1e-6,
) -> TrainAndTest: ...


def cross_entropy_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: Start = None,
    ntk_test: ArrayLike | None = None,
    f0_test: Start = None,
    rtol: float = 1e-6,
) -> Train | TrainAndTest:
    """Logits under gradient flow of the mean cross-entropy of softmax(f) (nats), the kernel held constant:

        df(X)/dt = Θ (y − softmax f(X))/N,   df(x)/dt = Θ(x, X) (y − softmax f(X))/N,

    integrated by diffrax (explicit Runge-Kutta of order 5, error per step below `rtol`): there is no closed form.

    y: probabilities over K ≥ 2 classes, [N, K], such as `jax.nn.one_hot(labels, K)`.  t: finite, since on data that
    can be separated the logits grow for ever.  The rest, and what is returned: as in `gradient_flow`.
    Costs N²K operations an evaluation, some t λ_max(Θ)/N of them. Raises RuntimeError beyond 100,000 steps.
    Needs diffrax, `pip install "ntklib[course]"`. Source: Lee et al. 2019, §2.2.

    >>> one_point = cross_entropy_flow(jnp.eye(1), jnp.array([[1.0, 0.0]]), t=1e-3)
    >>> (1e3 * one_point).round(2).tolist()  # at first it moves along y − 1/2
    [[0.5, -0.5]]
    """
    try:
        import diffrax
    except ImportError as error:
        raise ImportError('cross_entropy_flow needs diffrax: pip install "ntklib[course]".') from error
    times = _checks.times("t", t)
    _checks.real("rtol", rtol, above=0.0)
    if not _checks.is_traced(times) and np.isinf(times).any():
        raise ValueError("`t` must be finite: on data that can be separated the logits grow for ever.")
    problem = Problem(ntk_train, y, f0, ntk_test, f0_test)
    _probabilities("y", problem.y)
    ntk, y, n = problem.ntk, problem.y, len(problem.y)

    def slope(t: Array, coefficients: Array, args: None) -> Array:
        return (y - jax.nn.softmax(problem.f0 + ntk @ coefficients)) / n

    ends = jnp.atleast_1d(times).astype(ntk.dtype)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Tsit5(),
        t0=jnp.zeros_like(ends[0]),
        t1=jnp.maximum(ends[-1], jnp.finfo(ends.dtype).tiny),
        dt0=None,
        y0=jnp.zeros_like(y),
        saveat=diffrax.SaveAt(ts=ends),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        max_steps=100_000,
    )
    coefficients = jnp.asarray(solution.ys)
    train = problem.f0[None] + jnp.einsum("nm,tmk->tnk", ntk, coefficients)
    return problem.outputs(coefficients, train, several=times.ndim == 1)


def _probabilities(argument: str, y: Array) -> None:
    if y.shape[1] < 2:
        raise ValueError(f"`{argument}` must have a column for each class, [N, K] with K ≥ 2; got one column.")
    if not _checks.is_traced(y) and (np.min(y) < 0 or np.abs(np.sum(y, 1) - 1).max() > 1e-4):
        raise ValueError(
            f"`{argument}` must hold probabilities: rows that are not negative and sum to 1. "
            f"For labels: `jax.nn.one_hot(labels, classes)`, not centred."
        )
