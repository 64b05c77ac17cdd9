"""Kernel regression with an infinitely wide network, as estimators of scikit-learn."""

from collections.abc import Callable
from typing import Any, Literal, Self

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from ntklib import _checks, layers
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
        """Solve (Θ + ridge · tr(Θ)/N · 1) α = y for targets y [N, K], and keep α [N, K] as `dual_coef_`."""
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
        # Predictions belong to this fit, also if parameters or the array X are changed after it.
        self._fitted, self._factor = {"kernel": self.kernel, "solver": self.solver}, None
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
            return self
        with jax.enable_x64(True):
            self.dual_coef_, self._factor = cholesky.solve(self._tiles(), y, ridge)
        return self

    def _network(self, input_shape: tuple[int, ...]) -> Layer:
        """Return `net`, or the network that `depth`, `activation`, `w_std`, `b_std` and `readout` describe.

        In the NTK parameterization the kernel does not depend on the widths, so each hidden layer gets one unit.
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
        """Return the kernel of the training inputs as `Tiles`, or as one tile if `memory` is given."""
        if self.memory is None:
            return Tiles(self.net_, self.X_fit_, kernel=self._fitted["kernel"])
        return _OneTile(self._gram(self.X_fit_))

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        """Return Θ(x, X) α, [M, K]."""
        blocks = (self._gram(part, self.X_fit_) for part in _parts(x))
        return np.concatenate([block @ self.dual_coef_ for block in blocks])

    def predict_std(self, X: ArrayLike) -> np.ndarray:
        """Return the standard deviation of the outputs over initializations of the trained networks.

        Let Σ be the NNGP kernel and Θ the NTK. λ is `ridge` times the mean of the diagonal of the kernel to which it is
        added. The variance at x depends on the argument `kernel` of the estimator::

            "nngp":  Σ(x, x) − P Σ(X, x),                     P = Σ(x, X) (Σ(X, X) + λ)⁻¹,
            "ntk":   Σ(x, x) − 2 P Σ(X, x) + P Σ(X, X) Pᵀ,    P = Θ(x, X) (Θ(X, X) + λ)⁻¹.

        With "nngp" it is the variance of the Bayesian posterior. With "ntk" it is the variance over an ensemble of
        networks whose layers are all trained to the end (see `ntklib.ensemble_posterior`).

        Args:
            X: Test inputs, [M, d] or [M, H, W, C].

        Returns:
            The standard deviations [M], in the units of the outputs. They are the same for each of the K outputs.

        Raises:
            TypeError: If `X` is a masked array or traced.
            ValueError: Before `fit` (as scikit-learn's NotFittedError), if `X` does not fit the training inputs, or if
                solver="cg", which does not factor the kernel.

        Note:
            A test input takes some 2 N² operations, and 4 N² with "ntk". With "ntk" each call also computes the NNGP
            kernel of the training inputs. If `fit` has not kept a factor of the kernel in float64 (as usual from N =
            2,000 on, and with "loo" and "evidence"), the first call computes one in N³/3 operations, and keeps it, N²
            numbers.
        """
        x = self._validated(X)
        if self._fitted["solver"] == "cg":
            raise ValueError('`predict_std` needs a factor of the kernel: fit with solver="cholesky".')
        if self._factor is None:
            with jax.enable_x64(True):
                self._factor = cholesky.factor(cholesky.ShiftedKernel(self._tiles(), self.ridge_))
        prior = None if self._fitted["kernel"] == "nngp" else self._gram(self.X_fit_, kernel="nngp")
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
        """Return a kernel matrix. If `memory` is given, it is looked up there first and kept there."""
        kernel = kernel or self._fitted["kernel"]
        if self.memory is None:
            return _kernel_matrix("", self.net_, x1, x2, kernel)
        kept = check_memory(self.memory).cache(_kernel_matrix, ignore=["net"])
        return kept(identity(self.net_, x1.shape[1:]), self.net_, x1, x2, kernel)

    def _validated(self, X: ArrayLike) -> np.ndarray:
        """Return test inputs in float64. Refuse them if they do not fit the training inputs."""
        check_is_fitted(self)
        _refuse(self, X=X)
        return validate_data(self, X, dtype=np.float64, allow_nd=True, reset=False)


def _kernel_matrix(identity: str, net: Layer, x1: np.ndarray, x2: np.ndarray | None, kernel: Which) -> np.ndarray:
    """Return the matrix of the kernel `kernel` between x1 and x2 in float64.

    joblib finds a kept result by all arguments except `net`. `identity` is a text in place of the network, and differs
    for networks with different kernels.
    """
    with jax.enable_x64(True):
        return np.asarray(gram(net, x1, x2, kernel=kernel, progress=False))


class _OneTile:
    """A kernel matrix in memory as one tile, with the methods of `Tiles` that `cholesky` calls."""

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
    """Return the ridge with the smallest score, and α [N, K] for this ridge.

    Let A = Θ + ridge · tr(Θ)/N · 1. For by="loo" the score is the mean of the squared leave-one-out errors
    (A⁻¹ y)_ik/(A⁻¹)_ii. For by="evidence" it is tr(yᵀ A⁻¹ y) + K log det A, which is −2 times the log marginal
    likelihood up to a constant. The eigenvalues and eigenvectors of Θ are computed once. Then a score takes some N² K
    operations for "loo", and N K for "evidence".
    """
    import scipy.optimize

    _checks.usable_diagonal("training inputs", kernel.diagonal(), kernel.dtype)
    mean, size = kernel.diagonal().mean(), float(np.abs(y).max()) or 1.0
    values, modes = np.linalg.eigh(kernel)
    values, parts = np.maximum(values, 0.0), modes.T @ (y / size)  # squares of a very large y would overflow
    squares = modes**2

    def score(log_ridge: float) -> float:
        """Return the score of the ridge exp(log_ridge)."""
        shifted = values + np.exp(log_ridge) * mean
        if by == "evidence":
            with np.errstate(over="ignore"):
                fit = np.sum((size / np.sqrt(shifted)) ** 2 * np.sum(parts**2, axis=1))
            return float(fit + y.shape[1] * np.sum(np.log(shifted)))
        return float(np.mean((modes @ (parts / shifted[:, None]) / (squares @ (1 / shifted))[:, None]) ** 2))

    grid = np.log(_RIDGES)
    scores = [score(r) for r in grid]
    if not np.isfinite(scores).any():
        raise ValueError(
            f'`y` goes up to {size:.3g}, which is so large for this kernel that no ridge has a finite score by "{by}". '
            f"Scale `y`."
        )
    best = int(np.nanargmin(scores))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = scipy.optimize.minimize_scalar(score, bounds=ends, method="bounded", options={"xatol": 1e-3})
    at = found.x if found.fun < scores[best] else grid[best]
    shifted = values + np.exp(at) * mean
    return float(np.exp(at)), size * (modes @ (parts / shifted[:, None]))


class KernelRegressor(RegressorMixin, _KernelMethod):
    """Ridge regression with the kernel of an infinitely wide network, as an estimator of scikit-learn.

    Let Θ be the NTK, or the NNGP kernel if kernel="nngp". The prediction at x is::

        f(x) = Θ(x, X) α,  α = (Θ(X, X) + ridge · tr(Θ(X, X))/N · 1)⁻¹ y.

    Without a ridge f(x) is the output of an infinitely wide network that is trained to the end by gradient flow, in the
    mean over initializations. After `fit` the estimator has the attributes `dual_coef_` (α, [N, K]), `X_fit_`,
    `net_` and `ridge_`, and with "cg" also `n_iter_`.

    Args:
        net: A network of this library. Only its kernel is used, not its parameters. By default a network is built from
            the next five arguments. If `net` is given, these five must have their defaults.
        depth: The number of affine layers. For vectors all are dense. For images the last one is a dense readout, and
            all others are 3 × 3 convolutions with zero padding. `depth` must then be at least 2.
        activation: The name of the activation between the affine layers ("relu", "erf", "tanh", "gelu", "silu", "elu",
            "sigmoid", "sin", "cos", "abs", "rbf", "gaussian", "identity"), or a layer such as `ntklib.LeakyRelu(0.1)`.
        w_std: σ_w of all affine layers, not squared.
        b_std: σ_b of all affine layers, not squared.
        readout: For images: "flatten" gives the readout a weight for each pixel, "pool" takes the mean over all pixels
            first. The kernel with "pool" takes H · W times as much time and memory.
        kernel: "ntk" for networks whose layers are all trained, or "nngp" for networks whose last layer alone is
            trained. The prediction of "nngp" is also the mean of the Bayesian posterior.
        ridge: A number ≥ 0, relative to the mean of the kernel's diagonal, or one of two rules that choose a number
            between 1e-8 and 100. "loo" chooses the number with the smallest mean squared leave-one-out error (see
            `ntklib.loo`), and "evidence" the number with the largest marginal likelihood (see
            `ntklib.log_marginal_likelihood`). With 0 the kernel must not be singular.
        solver: "cholesky", for N up to 20,000 or so, or "cg" for conjugate gradients (see `ntklib.cg_solve`). "cg"
            needs a number above 0 as `ridge`, and has no `predict_std`.
        max_memory: The bytes that "cg" may use; by default 2 GiB.
        memory: A folder or a `joblib.Memory` in which kernel matrices are kept, as in scikit-learn's `Pipeline`. By
            default nothing is kept. If they are kept, a search over ridges by cross-validation computes two kernels for
            each fold, and each only once: the kernel of the training inputs, and the kernel between test and training
            inputs. With "cg" only the second is kept.

    Raises:
        TypeError: From `fit`, if an argument has the wrong type.
        ValueError: From `fit`, if an argument is out of range, or if the kernel is singular.
        NotConvergedError: From `fit` with "cg", if the relative residual is above 1e-8 after 500 iterations (see
            `ntklib.cg_solve`).

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
        rules (`clone`, `cross_val_score`, `GridSearchCV`, pickling). Results are in float64, whatever the settings of
        JAX.

        "cholesky" with a number as `ridge` takes N³/3 operations and memory for N² numbers. From N = 2,000 on it
        factors the kernel in float32, and then refines the solution to a relative error of about 1e-10. If N is
        smaller, or if the kernel is too ill-conditioned for float32, it factors the kernel in float64. In float64 `fit`
        warns if the rounding errors of the kernel are not small compared to the smallest eigenvalue of the matrix that
        is inverted.

        "cg" stops at a relative residual of 1e-8. "loo" and "evidence" compute the kernel and its eigenvalues once, in
        some 9 N³ operations and memory for 5 N² numbers.

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
        X, y = validate_data(self, X, y, dtype=np.float64, allow_nd=True, multi_output=True, y_numeric=True, copy=True)
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

    For K classes the targets of an example are K numbers: 1 − 1/K for its class and −1/K for all others. The outputs
    are computed as in `KernelRegressor`, and the prediction is the class with the largest output. Labels [N] may be
    whole numbers, bools or strings. After `fit` the estimator has the attributes of `KernelRegressor`, and `classes_`,
    the classes in sorted order.

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
        ValueError: From `fit`, for the same reasons as in `KernelRegressor`, if there is only one class, or if the
            labels are not classes.
        NotConvergedError: From `fit`, as in `KernelRegressor`.

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
        There is no `predict_proba`, because the outputs of a regression on one-hot targets are not probabilities. If
        you need probabilities, scikit-learn's `CalibratedClassifierCV` fits them on held-out data.

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
        X, y = validate_data(self, X, y, dtype=np.float64, allow_nd=True, copy=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"`y` must hold at least two classes; got one class, {self.classes_[0]!r}.")
        count = len(self.classes_)
        return self._fit(X, np.eye(count)[labels] - 1 / count)  # `one_hot_centered` rounds to float32

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return the outputs [M, K] at test inputs. For two classes return the second minus the first, [M]."""
        outputs = self._outputs(self._validated(X))
        return outputs if len(self.classes_) > 2 else outputs[:, 1] - outputs[:, 0]

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the labels [M] at test inputs [M, d] or [M, H, W, C]."""
        decision = self.decision_function(X)
        return self.classes_[decision.argmax(1) if decision.ndim == 2 else (decision > 0).astype(int)]


def _refuse(estimator: object, **values: Any) -> None:
    """Raise TypeError for a masked array, whose mask scikit-learn would ignore, and for traced arrays."""
    name = type(estimator).__name__
    _checks.outside_jit(name, "Fit outside; the outputs can be differentiated through `net.kernel`.", values)
    for argument, value in values.items():
        if isinstance(value, np.ma.MaskedArray):
            _checks.plain(argument, value)


def _parts(x: np.ndarray) -> list[np.ndarray]:
    """Divide test inputs into parts of at most `_ROWS`."""
    return [x[i : i + _ROWS] for i in range(0, len(x), _ROWS)]
