"""Kernel regression with an infinitely wide network, as estimators of scikit-learn."""

from collections.abc import Callable
from typing import Any, Literal, Self

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from ntklib import _checks, layers
from ntklib.data import one_hot_centered
from ntklib.layers import Elementwise, Layer, cnn, mlp
from ntklib.scale import cg_solve, cholesky, gram
from ntklib.scale.fingerprint import identity
from ntklib.scale.fused import Which
from ntklib.scale.tiles import TileIndex, Tiles

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, check_memory, validate_data
except ImportError as error:
    raise ImportError(
        f"`KernelRegressor` and `KernelClassifier` need scikit-learn, 1.6 or newer: pip install -U scikit-learn. "
        f"({error})",
        name="sklearn",
    ) from error

_ROWS = 1024  # the number of test points whose rows of the kernel are in memory at a time
#: "loo" and "evidence" first take the best of these ridges, and then refine it. Below 1e-8 rounding errors decide.
_RIDGES = np.logspace(-8, 2, 61)
#: The arguments that describe a network if `net` is None, with their defaults.
_DESCRIPTION = {"depth": 3, "activation": "relu", "w_std": 2**0.5, "b_std": 0.1, "readout": "flatten"}
_ACTIVATIONS = {
    name.lower(): getattr(layers, name)
    for name in (
        "Abs",
        "Cos",
        "Elu",
        "Erf",
        "Gaussian",
        "Gelu",
        "Identity",
        "Rbf",
        "Relu",
        "Sigmoid",
        "Silu",
        "Sin",
        "Tanh",
    )
}


class _KernelMethod(BaseEstimator):
    """The part that regression and classification share; see `KernelRegressor`."""

    def __init__(
        self,
        net: Layer | None = None,
        *,
        depth: int = 3,
        activation: str | Elementwise = "relu",
        w_std: float = 2**0.5,
        b_std: float = 0.1,
        readout: Literal["flatten", "pool"] = "flatten",
        kernel: Literal["ntk", "nngp"] = "ntk",
        ridge: float | Literal["loo", "evidence"] = 1e-4,
        solver: Literal["cholesky", "cg"] = "cholesky",
        max_memory: int | float = _checks.MAX_MEMORY,
        memory: Any = None,
    ) -> None:
        self.net = net
        self.depth = depth
        self.activation = activation
        self.w_std = w_std
        self.b_std = b_std
        self.readout = readout
        self.kernel = kernel
        self.ridge = ridge
        self.solver = solver
        self.max_memory = max_memory
        self.memory = memory

    def _fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        """Solve (Θ + ridge · tr(Θ)/N · 1) α = y for targets y [N, K]. α [N, K] is kept as `dual_coef_`."""
        self.net_ = self._network(x.shape[1:])
        _checks.choice("kernel", self.kernel, ("ntk", "nngp"))
        _checks.choice("solver", self.solver, ("cholesky", "cg"))
        ridge: Any = self.ridge
        if isinstance(ridge, str):
            _checks.choice("ridge", ridge, ("loo", "evidence"))
            if self.solver == "cg":
                raise ValueError(
                    f'`ridge` must be a number with solver="cg": ridge="{ridge}" needs the eigenvalues of the kernel, '
                    f'which "cg" does not compute. Choose it on a few thousand of the inputs with solver="cholesky".'
                )
        else:
            _checks.real("ridge", ridge, minimum=0.0)
        self.X_fit_ = x
        if self.solver == "cg":
            with jax.enable_x64(True):
                result = cg_solve(
                    self.net_, x, y, ridge=ridge, kernel=self.kernel, tol=1e-8, max_memory=self.max_memory
                )
            self.dual_coef_, self.n_iter_, self.ridge_ = result.solution, result.iterations, ridge
            return self
        self.ridge_: float = ridge
        if isinstance(ridge, str):
            self.ridge_, self.dual_coef_ = _chosen(self._gram(x), y, ridge)
            self._factor = None
            return self
        with jax.enable_x64(True):
            self.dual_coef_, self._factor = cholesky.solve(self._tiles(), y, ridge)
        return self

    def _network(self, input_shape: tuple[int, ...]) -> Layer:
        """Return `net`, or the network that `depth`, `activation`, `w_std`, `b_std` and `readout` describe.

        In the NTK parameterization the kernel does not depend on the widths, so one unit a layer is enough.
        """
        if self.net is not None:
            _checks.instance("net", self.net, Layer, "such as `ntklib.mlp(...)`")
            for name, default in _DESCRIPTION.items():
                if getattr(self, name) != default:
                    raise ValueError(
                        f"`{name}` describes the network that is built if `net` is None; got both. Leave out `{name}`, "
                        f"or leave out `net`."
                    )
            return self.net
        if len(input_shape) not in (1, 3):
            raise ValueError(
                f"`X` must hold vectors [N, d] or images [N, H, W, C] if `net` is None; got the shape "
                f"[N, {', '.join(map(str, input_shape))}]. Flatten the inputs, or pass a `net` that takes them."
            )
        images = len(input_shape) == 3
        _checks.count("depth", self.depth, minimum=2 if images else 1)
        activation = self.activation
        if isinstance(activation, str):
            _checks.choice("activation", activation, _ACTIVATIONS)
            activation = _ACTIVATIONS[activation]()
        scales: Any = {"activation": activation, "w_std": self.w_std, "b_std": self.b_std, "rngs": nnx.Rngs(0)}
        _checks.choice("readout", self.readout, ("flatten", "pool"))
        if images:
            return cnn(input_shape, [1] * (self.depth - 1), 1, readout=self.readout, **scales)
        if self.readout != "flatten":
            raise ValueError(
                f'`readout`="pool" takes the mean over the pixels of images [N, H, W, C]; the inputs are vectors '
                f"[N, {input_shape[0]}]. Pass images, or leave out `readout`."
            )
        return mlp([input_shape[0], *[1] * self.depth], **scales)

    def _tiles(self) -> Any:
        """Return the kernel of the training inputs, in tiles, or as one tile if `memory` keeps it."""
        if self.memory is None:
            return Tiles(self.net_, self.X_fit_, kernel=self.kernel)
        return _OneTile(self._gram(self.X_fit_))

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        """Return Θ(x, X) α, [M, K]."""
        blocks = (self._gram(part, self.X_fit_) for part in _parts(x))
        return np.concatenate([block @ self.dual_coef_ for block in blocks])

    def predict_std(self, X: ArrayLike) -> np.ndarray:
        """Return the standard deviation of the outputs over initializations of the trained networks.

        With the NNGP kernel Σ, the NTK Θ, and λ = ridge · tr/N of the matrix it is added to, the variance at x is::

            "nngp":  Σ(x, x) − P Σ(X, x),                     P = Σ(x, X) (Σ(X, X) + λ)⁻¹,
            "ntk":   Σ(x, x) − 2 P Σ(X, x) + P Σ(X, X) Pᵀ,    P = Θ(x, X) (Θ(X, X) + λ)⁻¹.

        The first is the variance of the Bayesian posterior. The second is the variance over an ensemble of networks in
        which all layers are trained to the end (see `ntklib.ensemble_posterior`).

        Args:
            X: Test inputs, [M, d] or [M, H, W, C].

        Returns:
            [M], in the units of the outputs. It is the same for each of the K outputs.

        Raises:
            ValueError: Before `fit` (as scikit-learn's NotFittedError), or if solver="cg", which solves for the targets
                only.

        Note:
            A point takes some N² operations. For "ntk" each call also computes the NNGP kernel of the training inputs.
            If `fit` has left no factor in float64 (for N from 2,000, and with "loo" or "evidence"), the first call
            computes it, N³/3 operations, and keeps it, N² numbers.
        """
        x = self._validated(X)
        if self.solver == "cg":
            raise ValueError('`predict_std` needs a factor of the kernel: fit with solver="cholesky".')
        if self._factor is None:
            with jax.enable_x64(True):
                self._factor = cholesky.factor(cholesky.ShiftedKernel(self._tiles(), self.ridge_))
        prior = None if self.kernel == "nngp" else self._gram(self.X_fit_, kernel="nngp")
        std = []
        for part in _parts(x):
            covariance = self._gram(part, self.X_fit_, kernel="nngp")
            cross = covariance if prior is None else self._gram(part, self.X_fit_)
            weights = cholesky.cho_solve(self._factor, cross.T)  # Pᵀ, [N, M]
            mixed = np.einsum("mn,nm->m", covariance, weights)
            with jax.enable_x64(True):
                variance = Tiles(self.net_, part, kernel="nngp").diagonal() - mixed
            if prior is not None:
                variance += np.einsum("nm,nm->m", weights, prior @ weights) - mixed
            std.append(np.sqrt(np.maximum(variance, 0.0)))  # rounding can leave a variance below zero
        return np.concatenate(std)

    def _gram(self, x1: np.ndarray, x2: np.ndarray | None = None, *, kernel: Which | None = None) -> np.ndarray:
        """Return a kernel matrix, from `memory` if it is kept there."""
        kernel = kernel or self.kernel
        if self.memory is None:
            return _kernel_matrix("", self.net_, x1, x2, kernel)
        kept = check_memory(self.memory).cache(_kernel_matrix, ignore=["net"])
        return kept(identity(self.net_, x1.shape[1:]), self.net_, x1, x2, kernel)

    def _validated(self, X: ArrayLike) -> np.ndarray:
        """Return test inputs in float64. Refuse what does not fit the training inputs."""
        check_is_fitted(self)
        _refuse(self, X=X)
        return validate_data(self, X, dtype=np.float64, allow_nd=True, reset=False)


def _kernel_matrix(identity: str, net: Layer, x1: np.ndarray, x2: np.ndarray | None, kernel: Which) -> np.ndarray:
    """Return the kernel `kernel` between x1 and x2 in float64.

    joblib looks a kept result up by the other arguments and `identity`, a text that differs for networks with different
    kernels. It does not look at `net`.
    """
    with jax.enable_x64(True):
        return np.asarray(gram(net, x1, x2, kernel=kernel, progress=False))


class _OneTile:
    """A kernel matrix in memory, with the methods of `Tiles` that `cholesky` calls. Its one tile is the matrix."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix, self.shape, self.tile = matrix, matrix.shape, len(matrix)

    def pairs(self) -> list[TileIndex]:
        return [(0, 0)]

    def span(self, i: int, n: int) -> slice:
        return slice(0, n)

    def run(self, consume: Callable, pairs: list[TileIndex], *, progress: bool | None = None) -> None:
        for i, j in pairs:
            consume(i, j, self.matrix)


def _chosen(kernel: np.ndarray, y: np.ndarray, by: str) -> tuple[float, np.ndarray]:
    """Return the best ridge by leave-one-out errors or by the marginal likelihood, and α [N, K].

    With the eigenvalues λ_i and the modes U of the kernel, A = Θ + ridge · tr(Θ)/N · 1 is inverted for each ridge in N²
    operations. For "loo" the score is the mean of the squared leave-one-out errors (A⁻¹ y)_ik/(A⁻¹)_ii. For "evidence"
    it is tr(yᵀ A⁻¹ y) + K log det A, which is −2 times the log marginal likelihood up to a constant.
    """
    import scipy.optimize

    mean = kernel.diagonal().mean()
    values, modes = np.linalg.eigh(kernel)
    values, parts = np.maximum(values, 0.0), modes.T @ y
    squares = modes**2

    def score(log_ridge: float) -> float:
        """Return the score, which is smallest for the best ridge."""
        shifted = values + np.exp(log_ridge) * mean
        if by == "evidence":
            return float(np.sum(parts**2 / shifted[:, None]) + y.shape[1] * np.sum(np.log(shifted)))
        return float(np.mean((modes @ (parts / shifted[:, None]) / (squares @ (1 / shifted))[:, None]) ** 2))

    grid = np.log(_RIDGES)
    scores = [score(r) for r in grid]
    best = int(np.argmin(scores))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = scipy.optimize.minimize_scalar(score, bounds=ends, method="bounded", options={"xatol": 1e-3})
    at = found.x if found.fun < scores[best] else grid[best]
    shifted = values + np.exp(at) * mean
    return float(np.exp(at)), modes @ (parts / shifted[:, None])


class KernelRegressor(RegressorMixin, _KernelMethod):
    """Ridge regression with the kernel of an infinitely wide network, as an estimator of scikit-learn.

    With Θ the NTK, or with kernel="nngp" the NNGP kernel in its place, the prediction is::

        f(x) = Θ(x, X) α,  α = (Θ(X, X) + ridge · tr(Θ(X, X))/N · 1)⁻¹ y.

    Without a ridge this is the mean over initializations of infinitely wide networks that are trained to the end by
    gradient flow. After `fit` the estimator has the attributes `dual_coef_` (α, [N, K]), `X_fit_`, `net_` and `ridge_`,
    and with "cg" also `n_iter_`.

    Args:
        net: A network of this library. Only its kernel is used, not its parameters. By default a network is built from
            the next five arguments. If `net` is given, they must have their defaults.
        depth: The number of affine layers. For vectors all are dense. For images the last one is a dense readout, and
            those before it are 3 × 3 convolutions with zero padding, so that `depth` must be at least 2.
        activation: The name of the activation between them ("relu", "erf", "tanh", "gelu", "silu", "elu", "sigmoid",
            "sin", "cos", "abs", "rbf", "gaussian", "identity"), or a layer such as `ntklib.LeakyRelu(0.1)`.
        w_std: σ_w of all affine layers, not squared.
        b_std: σ_b of all affine layers, not squared.
        readout: For images: "flatten" gives the readout a weight for each pixel, "pool" takes the mean over all pixels
            first. The kernel with "pool" takes H · W times as much time and memory.
        kernel: "ntk" for networks in which all layers are trained, or "nngp" for networks in which the last layer alone
            is trained. The prediction of "nngp" is also the mean of the Bayesian posterior.
        ridge: The ridge relative to the mean of the kernel's diagonal, not negative. With 0 the kernel must not be
            singular. Or a rule that chooses a ridge between 1e-8 and 100: "loo" takes the one with the smallest
            leave-one-out squared error (see `ntklib.loo`), "evidence" the one with the largest marginal likelihood (see
            `ntklib.log_marginal_likelihood`).
        solver: "cholesky" for N up to 20,000 or so, or "cg" for conjugate gradients (`ntklib.cg_solve`), which needs a
            ridge and has no `predict_std`.
        max_memory: The bytes that "cg" may use; by default 2 GiB.
        memory: A folder or a `joblib.Memory` in which kernel matrices are kept, as in scikit-learn's `Pipeline`. A
            search over ridges by cross-validation then computes two kernels for each fold, and none of them twice: that
            of its training inputs, and that between its test and its training inputs. With "cg" only the second is
            kept. By default nothing is kept.

    Raises:
        TypeError: From `fit`, if an argument has the wrong type.
        ValueError: From `fit`, if an argument is out of range, or if the kernel is singular.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> model = KernelRegressor(ridge=1e-6).fit(x, x[:, 0] ** 2)
        >>> bool(abs(model.predict([[0.5]])[0] - 0.25) < 0.01)  # 0.5² = 0.25
        True
        >>> model.predict_std([[0.5], [5.0]]).round(2).tolist()  # among the training inputs, and far from them
        [0.0, 0.47]

    Note:
        Inputs are vectors [N, d] or images [N, H, W, C], and targets [N] or [N, K]. Neither targets nor inputs are
        centered or scaled: put a scaler before the estimator in a `Pipeline`. The estimator follows scikit-learn's
        rules (`clone`, `cross_val_score`, `GridSearchCV`, pickling). Results have double precision, whatever the
        settings of JAX.
        "cholesky" takes N³/3 operations and N² numbers. From N = 2,000 it factors the kernel in float32, and then
        refines the solution until it has the digits of float64, to 1e-10. For smaller N, and if the kernel is too
        ill-conditioned for that, it factors the kernel in float64. "cg" stops at a relative residual of 1e-8.
        "loo" and "evidence" compute the kernel once and its eigenvalues, some 9 N³ operations and 3 N² numbers.
        With "cholesky" and a number for `ridge`, `fit` warns if the kernel's rounding errors are not small compared to
        the smallest eigenvalue of the matrix that is inverted.

    References:
        Jacot et al. 2018; Lee et al. 2019.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the model.

        Args:
            X: Training inputs, [N, d] or [N, H, W, C].
            y: Targets, [N] or [N, K].

        Returns:
            The estimator itself.
        """
        _refuse(self, X=X, y=y)
        X, y = validate_data(self, X, y, dtype=np.float64, allow_nd=True, multi_output=True, y_numeric=True)
        y = np.asarray(y, np.float64)
        self._one_output = y.ndim == 1
        return self._fit(X, y.reshape(len(y), -1))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the outputs [M] or [M, K] at test inputs [M, d] or [M, H, W, C]."""
        outputs = self._outputs(self._validated(X))
        return outputs[:, 0] if self._one_output else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KernelClassifier(ClassifierMixin, _KernelMethod):
    """Classification by ridge regression on centered one-hot targets, as an estimator of scikit-learn.

    For K classes the targets of an example are K numbers: 1 − 1/K for its class and −1/K for all others. The regression
    is that of `KernelRegressor`, and the prediction is the class with the largest output. Labels [N] may be anything
    that can be sorted. After `fit` the attribute `classes_` lists the classes in that order.

    Args:
        net: As in `KernelRegressor`.
        depth: As in `KernelRegressor`.
        activation: As in `KernelRegressor`.
        w_std: As in `KernelRegressor`.
        b_std: As in `KernelRegressor`.
        readout: As in `KernelRegressor`.
        kernel: As in `KernelRegressor`.
        ridge: As in `KernelRegressor`.
        solver: As in `KernelRegressor`.
        max_memory: As in `KernelRegressor`.
        memory: As in `KernelRegressor`.

    Raises:
        TypeError: From `fit`, if an argument has the wrong type.
        ValueError: From `fit`, as `KernelRegressor`; or if there is only one class.

    Example:
        >>> import ntklib as ntk
        >>> data = ntk.load("digits", n_train=300, n_test=200).flat()
        >>> model = KernelClassifier().fit(data.x_train, data.y_train)
        >>> model.score(data.x_test, data.y_test) > 0.9
        True
        >>> model = KernelClassifier(depth=2, activation="erf").fit(data.x_train, data.y_train)
        >>> model.score(data.x_test, data.y_test) > 0.9
        True

    Note:
        There is no `predict_proba`: outputs of a regression on one-hot targets are not probabilities. If you need
        probabilities, scikit-learn's `CalibratedClassifierCV` fits them on held-out data.

    See Also:
        `ntklib.cross_entropy_flow`, for training on the cross-entropy, which has no closed form.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the model.

        Args:
            X: Training inputs, [N, d] or [N, H, W, C].
            y: Labels, [N].

        Returns:
            The estimator itself.
        """
        _refuse(self, X=X, y=y)
        X, y = validate_data(self, X, y, dtype=np.float64, allow_nd=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"`y` must hold at least two classes; got one class, {self.classes_[0]!r}.")
        return self._fit(X, np.asarray(one_hot_centered(labels, len(self.classes_)), np.float64))

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return the outputs [M, K] at test inputs. For two classes, [M]: the second output minus the first."""
        outputs = self._outputs(self._validated(X))
        return outputs if len(self.classes_) > 2 else outputs[:, 1] - outputs[:, 0]

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the labels [M] at test inputs [M, d] or [M, H, W, C]."""
        decision = self.decision_function(X)
        return self.classes_[decision.argmax(1) if decision.ndim == 2 else (decision > 0).astype(int)]


def _refuse(estimator: object, **values: Any) -> None:
    """Refuse masked and traced arrays, which scikit-learn's own checks would let through."""
    name = type(estimator).__name__
    _checks.outside_jit(name, "Fit outside; the outputs can be differentiated through `net.kernel`.", values)
    for argument, value in values.items():
        if isinstance(value, np.ma.MaskedArray):
            _checks.plain(argument, value)


def _parts(x: np.ndarray) -> list[np.ndarray]:
    """Divide test inputs into parts of at most `_ROWS`."""
    return [x[i : i + _ROWS] for i in range(0, len(x), _ROWS)]
