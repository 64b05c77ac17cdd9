"""Logits under gradient flow of the cross-entropy, by integrating an ordinary differential equation."""

from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks
from ntklib.dynamics import _linalg
from ntklib.dynamics.flow import Problem, Start, Train, TrainAndTest

_MAX_STEPS = 100_000


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
    ntk_test_train: ArrayLike,
    f0_test: Start = None,
    rtol: float = 1e-6,
) -> TrainAndTest: ...


def cross_entropy_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: Start = None,
    ntk_test_train: ArrayLike | None = None,
    f0_test: Start = None,
    rtol: float = 1e-6,
) -> Train | TrainAndTest:
    """Return logits under gradient flow of the cross-entropy, with the tangent kernel held constant.

    The loss is the mean cross-entropy of softmax(f), in nats. For the training inputs X and test inputs x::

        df(X)/dt = Θ (y − softmax f(X))/N,   df(x)/dt = Θ(x, X) (y − softmax f(X))/N.

    There is no closed form. diffrax integrates the equation by an explicit Runge-Kutta method of order 5.

    Args:
        ntk_train: Θ(X, X), [N, N].
        y: Probabilities over K ≥ 2 classes, [N, K], such as `jax.nn.one_hot(labels, K)`.
        t: One time, or several ascending times [T]; finite, because logits can grow forever.
        f0: Training logits at t = 0, [N, K]; zero by default.
        ntk_test_train: Θ(x, X), [M, N], with a row for each test point.
        f0_test: Test logits at t = 0, [M, K]; zero by default.
        rtol: The tolerance for the error of one step of the integrator, relative and absolute; positive.

    Returns:
        The training logits; with `ntk_test_train` the pair of training and test logits. Shapes and type are those of
        `gradient_flow`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: For the reasons of `gradient_flow`, or if `y` does not hold probabilities of at least two classes,
            `t` is infinite or `rtol` is not positive.
        RuntimeError: If 100,000 steps do not reach `t`. Under jit the result is then NaN.
        ImportError: If diffrax is missing (`pip install diffrax`).

    Example:
        >>> one_point = cross_entropy_flow(jnp.eye(1), jnp.array([[1.0, 0.0]]), t=1e-3)
        >>> (1e3 * one_point).round(2).tolist()  # at first f moves along y − 1/2
        [[0.5, -0.5]]

    Note:
        The integrator evaluates the right-hand side some t λ_max(Θ)/N times, with N² K multiplications each time.

    References:
        Lee et al. 2019, §2.2.
    """
    _checks.installed("diffrax", "cross_entropy_flow")
    times = _checks.times("t", t)
    _checks.real("rtol", rtol, above=0.0)
    if not _checks.is_traced(times) and np.isinf(times).any():
        raise ValueError("`t` must be finite: if the kernel can separate the classes, the logits grow forever.")
    _no_labels(y)
    problem = Problem(
        ntk_train, y, f0, ntk_test_train, f0_test, numbers=(times, rtol), at_once=not _linalg.inside_jit()
    )
    _probabilities("y", problem.y)
    with problem.precision():
        unit = problem.unit()
        ts = _linalg.vector(times, problem.ntk.dtype)
        tolerance = jnp.asarray(rtol).astype(ts.dtype)
        kernel, rows = _without_null_modes(problem)
        moved, done = _integrated(kernel / unit, problem.y, problem.f0, ts * unit, tolerance)
        if not _checks.is_traced(done) and not bool(done):
            raise RuntimeError(
                f"{_MAX_STEPS:,} steps of the integrator do not reach `t` = {float(ts[-1]):g}; their number grows with "
                f"t λ_max(Θ)/N. Ask for an earlier `t`, or for a larger `rtol`."
            )
        coefficients = moved / (problem.n * unit)
        train = problem.f0[None] + jnp.einsum("nm,tmk->tnk", kernel, coefficients)
        test = None if rows is None else problem.f0_test[None] + jnp.einsum("mn,tnk->tmk", rows, coefficients)
    return problem.returned((train, test), several=times.ndim == 1)


def _without_null_modes(problem: Problem) -> tuple[Array, Array | None]:
    """Return Θ(X, X) and Θ(x, X) without their rounding errors along null modes.

    Along null modes the outputs never reach the targets. The coefficients c grow with t there, and would magnify these
    errors. Inside jit, or if an argument is traced, both kernels come back unchanged.
    """
    if not problem.known:
        return problem.ntk, problem.ntk_test_train
    spectrum = problem.spectrum()
    u, points = spectrum.modes, problem.projected(spectrum)
    return u * spectrum.values[None, :] @ u.T, None if points is None else points.rows @ u.T


@jax.jit
def _integrated(ntk: Array, y: Array, f0: Array, ts: Array, rtol: Array) -> tuple[Array, Any]:
    """Integrate the coefficients c of f = f_0 + Θ c, for a kernel Θ with entries of order 1.

    Returns:
        N c at the times `ts`, [T, N, K], and whether the integration succeeded. The integrator works on N c, because
        it is about as large as the logits, so that `rtol` can also be the absolute tolerance.
    """
    import diffrax

    def slope(t: Array, moved: Array, args: None) -> Array:
        return y - jax.nn.softmax(f0 + ntk @ moved / len(y))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),  # pyrefly: ignore
        diffrax.Tsit5(),
        t0=jnp.zeros_like(ts[0]),
        t1=jnp.maximum(ts[-1], jnp.finfo(ts.dtype).tiny),
        dt0=None,
        y0=jnp.zeros_like(y),
        saveat=diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        max_steps=_MAX_STEPS,
        throw=False,
    )
    done = solution.result == diffrax.RESULTS.successful
    return jnp.where(done, jnp.asarray(solution.ys), jnp.nan), done


def _no_labels(y: Any) -> None:
    known = _checks.plain("y", y)
    if known.ndim == 1 and jnp.issubdtype(known.dtype, jnp.integer):
        raise ValueError(
            "`y` must be probabilities [N, K]; got a vector of integer labels. Turn them into rows of 0 and 1: "
            "`jax.nn.one_hot(y, classes)`."
        )


def _probabilities(argument: str, y: Array) -> None:
    if y.shape[1] < 2:
        raise ValueError(f"`{argument}` must have a column for each class, [N, K] with K ≥ 2; got one column.")
    _checks.probabilities(argument, y)
