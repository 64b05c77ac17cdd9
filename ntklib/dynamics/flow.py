"""Training in function space: what a network with a constant tangent kernel does, in closed form."""

from collections.abc import Sequence
from typing import Any, overload

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.dynamics import _linalg, _lost_digits, _spectrum
from ntklib.dynamics._spectrum import Projected, Spectrum

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
    ntk_test_train: ArrayLike,
    f0_test: Start = None,
    ridge: Scalar = 0.0,
) -> TrainAndTest: ...


def gradient_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: Start = None,
    ntk_test_train: ArrayLike | None = None,
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
    ntk_test_train: Θ(x, X), [M, N], rows for the test points; f0_test: their outputs at t = 0, [M, K].
    ridge: Θ + ridge · tr(Θ)/N · 1 takes the place of Θ(X, X). Each training point then has a feature of its own, of
        that variance, which fits what the kernel does not: the training outputs still reach `y`, test outputs become
        those of ridge regression. The ridge fit at the training points themselves is `ntk_test_train=ntk_train`.

    Returns f_t(X), [N, K] for one time and [T, N, K] for several; with `ntk_test_train` a pair, f_t(X) and f_t(x) [(T,) M,
    K]. As t → ∞ the training outputs reach `y` on the range of Θ and keep `f0` on its null space. Modes whose
    eigenvalues cannot be told from zero count as null at all times: with errors of ε in the entries, those below some
    4ε√N times the diagonal.
    The computation runs in float64 and on one device (a sharded kernel is gathered); under jit, vmap and grad it runs
    in the type of the result. That is the widest type of the arrays given, and at least float32: also for float16 and
    bfloat16.
    Raises ValueError on a kernel that is not square, symmetric and positive semi-definite, on sizes that disagree, on
    times that are negative or decrease.
    Warns where the rounding errors of the kernel itself move the outputs at the last time by more than a hundredth of
    the largest: modes of small eigenvalues matter then, as with rough targets, late times and no ridge. The warning
    names the lost digits and what helps. Under jit there is none.
    Memory: a few N² + N M numbers. Source: Jacot et al. 2018, §4; Lee et al. 2019, §2.2.

    >>> ntk, y = jnp.array([[2.0]]), jnp.array([[1.0]])
    >>> [round(float(f), 4) for f in gradient_flow(ntk, y, t=jnp.array([0.0, 0.5, jnp.inf]))[:, 0, 0]]
    [0.0, 0.6321, 1.0]
    """
    times = _checks.times("t", t)
    _checks.real("ridge", ridge, minimum=0.0)
    problem = Problem(ntk_train, y, f0, ntk_test_train, f0_test, numbers=(times, ridge))
    with problem.precision():
        ts = _linalg.vector(times, problem.ntk.dtype)
        outputs = problem.evolved(problem.spectrum(ridge), _spectrum.flow_until(ts))
    return problem.returned(outputs, several=times.ndim == 1)


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
    ntk_test_train: ArrayLike,
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
    ntk_test_train: ArrayLike | None = None,
    f0_test: Start = None,
    ridge: Scalar = 0.0,
) -> Train | TrainAndTest:
    """Outputs after full-batch gradient-descent steps on the loss 1/(2N) Σ_i ‖f(x_i) − y_i‖², kernel held constant:

        v ← μ v + (f − y),  f(X) ← f(X) − (η/N) Θ v,  f(x) ← f(x) − (η/N) Θ(x, X) v,

    heavy ball as in `optax.sgd(learning_rate, momentum)`; without momentum f_s(X) = y + (1 − ηΘ/N)^s (f_0 − y). All
    steps at once: one eigendecomposition, and powers by repeated squaring.

    learning_rate: η ≥ 0; above `max_learning_rate` the outputs diverge, and a warning says so.  momentum: 0 ≤ μ < 1.
    steps: one number of steps or several [T], ascending, of any size (under jit below 2³¹); `jnp.inf` is the end of
        training, which only rates below `max_learning_rate` have.
    Everything else, and what is returned and raised: see `gradient_flow`.

    >>> ntk, y = jnp.array([[2.0]]), jnp.array([[1.0]])
    >>> gradient_descent(ntk, y, learning_rate=0.25, steps=[0, 1, 2, jnp.inf])[:, 0, 0].tolist()
    [0.0, 0.5, 0.75, 1.0]
    """
    counts = _checks.steps("steps", steps)
    _checks.real("learning_rate", learning_rate, minimum=0.0)
    _checks.real("ridge", ridge, minimum=0.0)
    _checks.momentum("momentum", momentum)
    problem = Problem(ntk_train, y, f0, ntk_test_train, f0_test, numbers=(counts, learning_rate, momentum, ridge))
    with problem.precision():
        spectrum, stable = problem.spectrum(ridge), True
        if not _checks.is_traced(spectrum.values, learning_rate, counts):
            stable = _is_stable(float(spectrum.values[-1]), problem, float(learning_rate), float(momentum), counts)
        eta, mu = (jnp.asarray(value).astype(problem.ntk.dtype) for value in (learning_rate, momentum))
        at = jnp.atleast_1d(counts) if _checks.is_traced(counts) else np.atleast_1d(counts)
        outputs = problem.evolved(spectrum, lambda rates: _linalg.descent(rates, at, eta, mu), trusted=stable)
    return problem.returned(outputs, several=counts.ndim == 1)


def max_learning_rate(ntk_train: ArrayLike, momentum: Scalar = 0.0) -> Float[Array, ""]:
    """The learning rate up to which full-batch gradient descent is stable, 2(1 + μ)N/λ_max(Θ), for the loss
    1/(2N) Σ_i ‖f(x_i) − y_i‖² with the kernel Θ = `ntk_train` [N, N] held constant; ∞ for a kernel of zeros.

    The largest eigenvalue grows with N, its mode being nearly constant over the data, so that this limit does not.
    For mini-batches it is lower: see `mean_square_limit`. Source: Lee et al. 2019, §2.2; heavy ball: Polyak 1964.

    >>> max_learning_rate(jnp.diag(jnp.array([4.0, 1.0]))).item()  # 2 · 2/4
    1.0
    """
    ntk_train = _checks.square_kernel("ntk_train", ntk_train)
    _checks.momentum("momentum", momentum)
    known, dtype, eps = working_precision(ntk_train, numbers=(momentum,))
    with _linalg.double_precision(known):
        (kernel,) = working_copies([("ntk_train", ntk_train)], known, dtype)
        top = _spectrum.largest("ntk_train", kernel, eps)
        limit = 2 * (1 + jnp.asarray(momentum).astype(top.dtype)) * len(kernel) / top
        return limit.astype(dtype)


def _is_stable(top: float, problem: "Problem", learning_rate: float, momentum: float, counts: np.ndarray) -> bool:
    """Whether steps do not grow; warns where they do. Refuses to go to the end where there is none: at the limit the
    fastest mode swings for ever, and the limit is known as well as the kernel is.
    """
    limit = 2 * (1 + momentum) * problem.n / top if top > 0 else np.inf
    if np.isinf(counts).any() and learning_rate >= limit * (1 - 4 * problem.eps):
        raise ValueError(
            f"`learning_rate` = {learning_rate:g} is not below the largest stable one, {limit:.6g}, to the precision "
            f"of the kernel: there is no end of training. Lower it, or ask for finite `steps`."
        )
    if learning_rate <= limit * (1 + max(1e-6, 4 * problem.eps)):
        return True
    _checks.warn(
        f"`learning_rate` = {learning_rate:g} is above the largest stable one, {limit:.6g}: the outputs grow without "
        f"bound (see max_learning_rate)."
    )
    return False


class Problem:
    """The checked data of one regression, and outputs f_t(x) = f_0(x) + Θ(x, X) c_t from coefficients c_t [T, N, K].

    Its arrays are in float64 where all values are known, and otherwise in the type of the result, `dtype`.  eps: the
    precision of the kernels as they came.  numbers: further arguments that must be known for that.  at_once: whether
    the computation can run at once while a function around it is being traced; an integrator cannot.
    """

    def __init__(
        self,
        ntk_train: ArrayLike,
        y: ArrayLike,
        f0: Start,
        ntk_test_train: Start,
        f0_test: Start,
        numbers: tuple[Any, ...] = (),
        at_once: bool = True,
    ) -> None:
        ntk: Any = _checks.square_kernel("ntk_train", ntk_train)
        self.n = len(ntk)
        targets = _checks.host_targets("y", y, self.n)
        start = None if f0 is None else _checks.host_targets("f0", f0, self.n)
        if start is not None:
            _checks.same_shape("f0", start, "y", targets)
        cross = None if ntk_test_train is None else _checks.cross_kernel("ntk_test_train", ntk_test_train, self.n)
        test_start = None
        if f0_test is not None:
            if cross is None:
                raise ValueError(
                    "`f0_test` is given without `ntk_test_train`, the kernel between test and training inputs [M, N]."
                )
            test_start = _checks.host_targets("f0_test", f0_test, len(cross))
            _checks.same_outputs("f0_test", test_start, "y", targets)
        arrays = [("ntk_train", ntk), ("y", targets), ("f0", start), ("ntk_test_train", cross), ("f0_test", test_start)]
        self.known, self.dtype, self.eps = working_precision(
            ntk, cross, arrays=(targets, start, test_start), numbers=numbers
        )
        self.known &= at_once
        with self.precision():
            self.ntk, self.y, self.f0, self.ntk_test_train, self.f0_test = working_copies(
                arrays, self.known, self.dtype
            )
            self.f0 = jnp.zeros_like(self.y) if f0 is None else self.f0
            if self.ntk_test_train is not None and f0_test is None:
                self.f0_test = jnp.zeros((len(self.ntk_test_train), self.y.shape[1]), self.y.dtype)

    def precision(self) -> Any:
        """The context to compute in."""
        return _linalg.double_precision(self.known)

    def unit(self) -> Array:
        """The power of two near the kernel's largest entry. In units of it squares do not leave the range of float32,
        and to divide by it costs no digit. Time is measured in 1/unit then, and so is a learning rate.
        """
        largest = jnp.abs(self.ntk).max()
        return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1), 1.0)

    def spectrum(self, ridge: Scalar = 0.0) -> Spectrum:
        """That of the training kernel."""
        return _spectrum.spectrum("ntk_train", self.ntk, ridge, self.eps)

    def evolved(
        self, spectrum: Spectrum, evolve: _spectrum.Evolve, *, trusted: bool = True
    ) -> tuple[Array, Array | None]:
        """Training outputs and those at test points, [T, N, K] and [T, M, K].

        trusted: whether to look for lost digits; where outputs diverge there is nothing to find.
        """
        learned, integral = spectrum.filters(evolve)
        wanted = spectrum.modes.T @ (self.y - self.f0)  # the target's components along the modes, [N, K]
        train = self.f0[None] + jnp.einsum("ni,ti,ik->tnk", spectrum.modes, learned, wanted)
        points, test = self.projected(spectrum), None
        if points is not None:
            # Θ⁻¹(1 − e^(−Θt/N)) is 1/N times the integral of a mode's decay, which is finite at zero eigenvalues.
            test = self.f0_test[None] + jnp.einsum("mi,ti,ik->tmk", points.rows, integral, wanted) / self.n
        if trusted:
            self.warn_of_lost_digits(spectrum, evolve, points, (train, test))
        return train, test

    def projected(self, spectrum: Spectrum) -> Projected | None:
        """The test points' kernel with the modes, where there are such points."""
        return None if self.ntk_test_train is None else _spectrum.projected(spectrum, self.ntk_test_train)

    def returned(self, outputs: tuple[Array, Array | None], *, several: bool) -> Any:
        """Training outputs, and those at the test points where there are any, as the user gets them."""
        train, test = (None if f is None else f.astype(self.dtype) for f in outputs)
        train, test = (f if f is None or several else f[0] for f in (train, test))
        return train if test is None else (train, test)

    def warn_of_lost_digits(
        self,
        spectrum: Spectrum,
        evolve: _spectrum.Evolve,
        points: Projected | None,
        outputs: tuple[Array, Array | None],
        *,
        ridges: bool = True,
    ) -> None:
        """Warn where the kernel's rounding errors move the outputs at the last time by more than a hundredth.

        ridges: whether a larger ridge is to be had.
        """
        if _checks.is_traced(spectrum.values, *outputs):
            return
        largest = [0.0 if f is None else float(jnp.abs(f[-1]).max()) for f in outputs]
        wanted = _lost_digits.averaged(self.ntk, self.y - self.f0)

        def errors(spectrum: Spectrum) -> list[float]:
            of_outputs = _lost_digits.of_outputs(spectrum, evolve, wanted, points)
            return [e / size if size else 0.0 for e, size in zip(of_outputs, largest, strict=True)]

        def fine(ridge: float) -> bool:
            return max(errors(spectrum.with_ridge(ridge))) <= _lost_digits.TOLERANCE

        train, test = errors(spectrum)
        if max(train, test) <= _lost_digits.TOLERANCE:
            return
        self.say_lost(
            "the outputs at the test points" if test > _lost_digits.TOLERANCE else "the training outputs",
            max(train, test),
            spectrum,
            ridge=_lost_digits.least_ridge(float(spectrum.ridge / spectrum.diagonal.mean()), fine) if ridges else None,
            early="stop training earlier",
        )

    def say_lost(self, what: str, error: float, spectrum: Spectrum, **ways_out: Any) -> None:
        """Warn that `what` has this relative error."""
        sigma = float(spectrum.sigma)
        _lost_digits.warn(what, error, argument="ntk_train", eps=self.eps, sigma=sigma, **ways_out)


def working_precision(
    *kernels: Any, arrays: tuple[Any, ...] = (), numbers: tuple[Any, ...] = ()
) -> tuple[bool, Any, float]:
    """Whether all values are known, the type of the result, and the precision of the least precise of the kernels.

    The result has the widest type of the kernels and `arrays`, and at least float32.
    """
    wide = any(a is not None and a.dtype == np.float64 for a in (*kernels, *arrays))
    dtype = jnp.result_type(float) if wide else jnp.dtype(jnp.float32)  # float32 where JAX has float64 off
    eps = max(float(jnp.finfo(k.dtype).eps) for k in kernels if k is not None)
    return not _checks.is_traced(*kernels, *arrays, *numbers), dtype, eps


def working_copies(arrays: list[tuple[str, Any]], known: bool, dtype: Any) -> list[Any]:
    """The named arrays in float64 and on one device, if all values are known, and in `dtype` otherwise."""
    if known:
        return [None if a is None else jnp.asarray(_checks.on_host(name, a)) for name, a in arrays]
    return [None if a is None else jnp.asarray(a).astype(dtype) for _, a in arrays]
