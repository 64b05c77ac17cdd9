"""Outputs under gradient flow and gradient descent with a constant tangent kernel, in closed form."""

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
Number = float | int | Array


@overload
def gradient_flow(
    ntk_train: ArrayLike, y: ArrayLike, *, t: ArrayLike, f0: Start = None, ridge: Number = 0.0
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
    ridge: Number = 0.0,
) -> TrainAndTest: ...


def gradient_flow(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    t: ArrayLike,
    f0: Start = None,
    ntk_test_train: ArrayLike | None = None,
    f0_test: Start = None,
    ridge: Number = 0.0,
) -> Train | TrainAndTest:
    """Return outputs under gradient flow of the squared loss, with the tangent kernel held constant.

    The loss is 1/(2N) Σ_i ‖f(x_i) − y_i‖². For the training inputs X and test inputs x, with Θ = Θ(X, X)::

        df(X)/dt = −Θ (f − y)/N,  so  f_t(X) = y + e^(−Θt/N) (f_0 − y),
        f_t(x) = f_0(x) + Θ(x, X) Θ⁻¹ (1 − e^(−Θt/N)) (y − f_0).

    One gradient-descent step of size η advances `t` by η. As t → ∞ the training outputs reach `y` on the range of Θ
    and keep `f0` on its null space.

    Args:
        ntk_train: Θ(X, X), [N, N].
        y: Targets, [N, K].
        t: One time, or several ascending times [T]; `jnp.inf` is the end of training.
        f0: Training outputs at t = 0, [N, K]; zero by default.
        ntk_test_train: Θ(x, X), [M, N], with a row for each test point.
        f0_test: Test outputs at t = 0, [M, K]; zero by default.
        ridge: Not negative. The number ridge · tr(Θ)/N is added to the diagonal of Θ. It is as if each training point
            had one more feature, which is zero at all other points. At t = ∞ the test outputs are those of ridge
            regression. The training outputs still reach `y`, because the added features fit what the kernel does not.
            For ridge regression at the training points, pass `ntk_train` also as `ntk_test_train`, and `f0` also as
            `f0_test`.

    Returns:
        f_t(X), [N, K] for one time and [T, N, K] for several. With `ntk_test_train`, the pair of f_t(X) and f_t(x),
        where f_t(x) is [M, K] or [T, M, K]. The type is float64 if JAX has float64 on and one of the kernels, `y`,
        `f0` and `f0_test` is in float64; otherwise it is float32.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the kernel is not square, symmetric and positive semi-definite, if shapes disagree, if an entry
            is not finite, if times are negative or decrease, if `ridge` is negative, or if `f0_test` comes without
            `ntk_test_train`.

    Example:
        >>> ntk, y = jnp.array([[2.0]]), jnp.array([[1.0]])
        >>> [round(float(f), 4) for f in gradient_flow(ntk, y, t=jnp.array([0.0, 0.5, jnp.inf]))[:, 0, 0]]
        [0.0, 0.6321, 1.0]

    Note:
        The computation takes one eigendecomposition, and memory for a few N² + N M numbers. It runs in float64 and on
        one device (a sharded kernel is gathered). If jit, vmap or grad traces an argument, it runs in the type of the
        result. Derivatives with respect to `ntk_train` are NaN if two eigenvalues are equal.
        Eigenvalues below some 4ε√N times the diagonal count as zero, because rounding errors hide them. Here ε is the
        precision of the type in which the kernel was computed.
        A warning is given if rounding errors of the kernel move the outputs at the last time by more than 1 % of the
        largest output. This happens if modes with small eigenvalues matter: at late times without a ridge, if the
        targets are not smooth.
        The warning says how many digits are lost and what helps. Traced arguments give no warning.

    References:
        Jacot et al. 2018, §4; Lee et al. 2019, §2.2. Some papers leave the 1/N out of the loss. Their outputs follow
        the same curve N times as fast.

    See Also:
        `gradient_descent` for steps of finite size; `cross_entropy_flow` for another loss.
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
    learning_rate: Number,
    steps: ArrayLike | Sequence[int | float],
    momentum: Number = 0.0,
    nesterov: bool = False,
    f0: Start = None,
    ridge: Number = 0.0,
) -> Train: ...


@overload
def gradient_descent(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: Number,
    steps: ArrayLike | Sequence[int | float],
    momentum: Number = 0.0,
    nesterov: bool = False,
    f0: Start = None,
    ntk_test_train: ArrayLike,
    f0_test: Start = None,
    ridge: Number = 0.0,
) -> TrainAndTest: ...


def gradient_descent(
    ntk_train: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: Number,
    steps: ArrayLike | Sequence[int | float],
    momentum: Number = 0.0,
    nesterov: bool = False,
    f0: Start = None,
    ntk_test_train: ArrayLike | None = None,
    f0_test: Start = None,
    ridge: Number = 0.0,
) -> Train | TrainAndTest:
    """Return outputs after full-batch gradient descent on the squared loss, with the tangent kernel held constant.

    The loss is 1/(2N) Σ_i ‖f(x_i) − y_i‖². The velocity v, [N, K], starts at 0. A step with momentum μ (heavy ball, as
    in `optax.sgd`) does::

        r = f(X) − y,  v ← μ v + r,  f(X) ← f(X) − (η/N) Θ v,  f(x) ← f(x) − (η/N) Θ(x, X) v.

    With Nesterov's momentum, the last two use μ v + r instead of v, where v is already updated. Without momentum the
    outputs are f(X) = y + (1 − ηΘ/N)^s (f_0 − y) after s steps.

    Args:
        ntk_train: Θ(X, X), [N, N].
        y: Targets, [N, K].
        learning_rate: η ≥ 0. Above `max_learning_rate` (of Θ with its ridge) the outputs diverge. A warning says so,
            unless the kernel or a number is traced.
        steps: One number of steps, or several ascending numbers [T], of any size (below 2³¹ if they are traced).
            `jnp.inf` is the end of training. It is allowed only if `learning_rate` is below `max_learning_rate`.
        momentum: 0 ≤ μ < 1.
        nesterov: Whether to use Nesterov's momentum, as in `optax.sgd`, instead of the heavy ball's.
        f0: Training outputs at the start, [N, K]; zero by default.
        ntk_test_train: Θ(x, X), [M, N], with a row for each test point.
        f0_test: Test outputs at the start, [M, K]; zero by default.
        ridge: As in `gradient_flow`.

    Returns:
        Outputs in the shapes and the type that `gradient_flow` returns, with numbers of steps in the place of times.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: For the reasons of `gradient_flow`, or if `learning_rate` or `momentum` is out of range, if `steps`
            are negative, not whole or decrease, or if they hold ∞ and `learning_rate` is not below `max_learning_rate`.

    Example:
        >>> ntk, y = jnp.array([[2.0]]), jnp.array([[1.0]])
        >>> gradient_descent(ntk, y, learning_rate=0.25, steps=[0, 1, 2, jnp.inf])[:, 0, 0].tolist()
        [0.0, 0.5, 0.75, 1.0]

    Note:
        The cost hardly grows with the number of steps: after one eigendecomposition a step is a small matrix for each
        mode, whose powers are computed by repeated squaring. Precision and the warning about lost digits are those of
        `gradient_flow`. Outputs that diverge give no such warning.

    References:
        Lee et al. 2019, §2.2; Polyak 1964 for the heavy ball; Sutskever et al. 2013 for Nesterov's momentum.
    """
    counts = _checks.steps("steps", steps)
    _checks.real("learning_rate", learning_rate, minimum=0.0)
    _checks.real("ridge", ridge, minimum=0.0)
    _checks.momentum("momentum", momentum)
    _checks.flag("nesterov", nesterov)
    problem = Problem(ntk_train, y, f0, ntk_test_train, f0_test, numbers=(counts, learning_rate, momentum, ridge))
    with problem.precision():
        spectrum, stable = problem.spectrum(ridge), True
        if not _checks.is_traced(spectrum.values, learning_rate, momentum, counts):
            limit = float(_largest_rate(problem.n, spectrum.values[-1], float(momentum), nesterov))
            stable = _is_stable(limit, problem, float(learning_rate), counts)
        eta, mu = (jnp.asarray(value).astype(problem.ntk.dtype) for value in (learning_rate, momentum))
        at = jnp.atleast_1d(counts) if _checks.is_traced(counts) else np.atleast_1d(counts)
        outputs = problem.evolved(
            spectrum, lambda rates: _linalg.descent(rates, at, eta, mu, nesterov=nesterov), trusted=stable
        )
    return problem.returned(outputs, several=counts.ndim == 1)


def max_learning_rate(ntk_train: ArrayLike, momentum: Number = 0.0, *, nesterov: bool = False) -> Float[Array, ""]:
    """Return the largest learning rate at which full-batch gradient descent is stable.

    For the loss 1/(2N) Σ_i ‖f(x_i) − y_i‖² and a constant tangent kernel Θ::

        η_max = 2(1 + μ)N/λ_max(Θ),  with Nesterov's momentum  η_max = 2(1 + μ)/(1 + 2μ) · N/λ_max(Θ).

    Along an eigenvector of Θ, residual and velocity are multiplied by a 2 × 2 matrix in each step. With x = ηλ/N its
    eigenvalues z are the roots of z² − (1 + μ − x) z + μ, or with Nesterov's momentum of z² − (1 + μ)(1 − x) z +
    μ(1 − x). The training is stable if they are at most 1 in absolute value. As x grows from 0, a root first leaves the
    unit disk at z = −1, which gives the formulas above.

    On most data the entries of Θ have a positive mean, and λ_max is about N times this mean. The limit then hardly
    depends on N.

    Args:
        ntk_train: Θ(X, X), [N, N].
        momentum: 0 ≤ μ < 1.
        nesterov: Whether to use Nesterov's momentum, as in `gradient_descent`.

    Returns:
        One number; ∞ for a kernel of zeros.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the kernel is not square, symmetric and positive semi-definite, or if `momentum` is out of range.

    Example:
        >>> max_learning_rate(jnp.diag(jnp.array([4.0, 1.0]))).item()  # 2 · 2/4
        1.0

    References:
        Lee et al. 2019, §2.2; Polyak 1964 for the heavy ball; Sutskever et al. 2013 for Nesterov's momentum.

    See Also:
        `mean_square_limit`, the limit for mini-batches without momentum.
    """
    ntk_train = _checks.square_kernel("ntk_train", ntk_train)
    _checks.momentum("momentum", momentum)
    _checks.flag("nesterov", nesterov)
    known, dtype, eps = working_precision(ntk_train, numbers=(momentum,))
    with _linalg.double_precision(known):
        (kernel,) = working_copies([("ntk_train", ntk_train)], known, dtype)
        top = _spectrum.largest("ntk_train", kernel, eps)
        return _largest_rate(len(kernel), top, jnp.asarray(momentum).astype(top.dtype), nesterov).astype(dtype)


def _largest_rate(n: int, top: Array, momentum: float | Array, nesterov: bool) -> Array:
    limit = 2 * (1 + momentum) * n / top
    return limit / (1 + 2 * momentum) if nesterov else limit


def _is_stable(limit: float, problem: "Problem", learning_rate: float, counts: np.ndarray) -> bool:
    """Return whether the outputs stay bounded. Warn if they do not.

    Refuse infinitely many steps unless the learning rate is below `limit`; at `limit` the fastest mode oscillates
    forever. The comparisons leave room for rounding: `limit` is known to the precision of the kernel, and the user's
    number may come from `max_learning_rate`, which rounds to the type of the result.
    """
    eps = max(problem.eps, float(jnp.finfo(problem.dtype).eps))
    if np.isinf(counts).any() and learning_rate >= limit * (1 - 4 * eps):
        raise ValueError(
            f"`learning_rate` = {learning_rate:g} is not below the largest stable one, {limit:.6g}, to the precision "
            f"of the kernel: the outputs do not converge. Use a smaller one, or finite `steps`."
        )
    if learning_rate <= limit * (1 + max(1e-6, 4 * eps)):
        return True
    _checks.warn(
        f"`learning_rate` = {learning_rate:g} is above the largest stable one, {limit:.6g}: the outputs grow without "
        f"bound (see max_learning_rate)."
    )
    return False


class Problem:
    """The checked arguments of one regression, and computations that all dynamics share.

    The arrays are in float64 if `known` is true: if no argument is traced, and `at_once` is true. Otherwise they are in
    `dtype`, the type of the result. `eps` is the precision in which the kernels were computed.

    Args:
        ntk_train, y, f0, ntk_test_train, f0_test: As in `gradient_flow`.
        numbers: The other arguments that may be traced.
        at_once: False if the computation cannot run while jit traces the caller, but must become a part of the program,
            as an integration by diffrax must. `known` is then false.
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
        _checks.in_range(self.dtype, **{name: a for name, a in arrays if name in ("y", "f0", "f0_test")})
        self.known &= at_once
        with self.precision():
            self.ntk, self.y, self.f0, self.ntk_test_train, self.f0_test = working_copies(
                arrays, self.known, self.dtype
            )
            self.f0 = jnp.zeros_like(self.y) if f0 is None else self.f0
            if self.ntk_test_train is not None and f0_test is None:
                self.f0_test = jnp.zeros((len(self.ntk_test_train), self.y.shape[1]), self.y.dtype)

    def precision(self) -> Any:
        """Return the context that sets the precision of the computation."""
        return _linalg.double_precision(self.known)

    def unit(self) -> Array:
        """Return the largest power of two that is not above the kernel's largest entry; 1 for a kernel of zeros.

        Dividing the kernel by it costs no digits, and keeps squares of entries in the range of float32. Times and
        learning rates must then be multiplied by it.
        """
        largest = jnp.abs(self.ntk).max()
        return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1), 1.0)

    def spectrum(self, ridge: Number = 0.0) -> Spectrum:
        """Return the spectrum of the training kernel with a relative ridge."""
        return _spectrum.spectrum("ntk_train", self.ntk, ridge, self.eps)

    def evolved(
        self, spectrum: Spectrum, evolve: _spectrum.Evolve, *, trusted: bool = True
    ) -> tuple[Array, Array | None]:
        """Return the outputs at training points, [T, N, K], and at test points, [T, M, K] or None.

        Warn of lost digits if `trusted` is true. For outputs that diverge the estimate would mean nothing.
        """
        learned, integral = spectrum.filters(evolve)
        wanted = spectrum.modes.T @ (self.y - self.f0)  # the components of y − f_0 along the modes, [N, K]
        train = self.f0[None] + jnp.einsum("ni,ti,ik->tnk", spectrum.modes, learned, wanted)
        points, test = self.projected(spectrum), None
        if points is not None:
            # If λ > 0, the integral of a mode is N (1 − p)/λ, where p is the part of the residual that is left. This is
            # therefore Θ(x, X) Θ⁻¹ (1 − p) (y − f_0), without a division by λ. For null modes see `filters`.
            test = self.f0_test[None] + jnp.einsum("mi,ti,ik->tmk", points.rows, integral, wanted) / self.n
        if trusted:
            self.warn_of_lost_digits(spectrum, evolve, points, (train, test))
        return train, test

    def projected(self, spectrum: Spectrum) -> Projected | None:
        """Return the kernel between test and training points in the basis of the modes, or None without test points."""
        return None if self.ntk_test_train is None else _spectrum.projected(spectrum, self.ntk_test_train)

    def returned(self, outputs: tuple[Array, Array | None], *, several: bool) -> Any:
        """Return the training outputs, or the pair of training and test outputs, in the type of the result.

        If `several` is false, the axis of times is removed.
        """
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
        """Warn if the kernel's rounding errors move the outputs at the last time by more than 1 % of the largest one.

        If `ridges` is true, the warning may advise a larger ridge.
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
        """Warn that `what` has a relative error of `error`. `ways_out` are passed on to `_lost_digits.warn`."""
        sigma = float(spectrum.sigma)
        _lost_digits.warn(what, error, argument="ntk_train", eps=self.eps, sigma=sigma, **ways_out)


def working_precision(
    *kernels: Any, arrays: tuple[Any, ...] = (), numbers: tuple[Any, ...] = ()
) -> tuple[bool, Any, float]:
    """Return whether all values are known, the type of the result, and the precision of the least precise kernel.

    The first kernel is the square one of the training inputs. The type is float64 if a kernel or one of `arrays` is in
    float64 and JAX has float64 on; otherwise it is float32.
    """
    wide = any(a is not None and a.dtype == np.float64 for a in (*kernels, *arrays))
    dtype = jnp.result_type(float) if wide else jnp.dtype(jnp.float32)  # float32 where JAX has float64 off
    precisions = [_checks.rounding(k, square=k is kernels[0]) for k in kernels if k is not None]
    eps = max(precisions, default=float(jnp.finfo(dtype).eps))
    return not _checks.is_traced(*kernels, *arrays, *numbers), dtype, eps


def working_copies(arrays: list[tuple[str, Any]], known: bool, dtype: Any) -> list[Any]:
    """Return the named arrays: if `known` is true in float64 and on one device, and in `dtype` otherwise.

    Float64 needs a caller inside `double_precision`.
    """
    if known:
        return [None if a is None else jnp.asarray(_checks.on_host(name, a)) for name, a in arrays]
    return [None if a is None else jnp.asarray(a).astype(dtype) for _, a in arrays]
