"""Neural tangent kernels in JAX, for networks in Flax NNX.

The usual import is `import ntklib as ntk`. A call `net(x)` returns the outputs of the finite network, and
`net.kernel(x)` returns the NNGP and the NTK of the same network in the limit of infinite width. The library also has
kernels of finite networks, training dynamics in function space, signal propagation in deep networks, large kernel
matrices, data sets, and training. Importing the library changes no setting of JAX.
"""

from typing import TYPE_CHECKING, Any

from ntklib.data import Data, load, one_hot_centered, shift
from ntklib.depth import (
    CriticalPoint,
    DepthProfile,
    DepthScales,
    chi,
    correlation_map,
    critical_point,
    decorrelation_map,
    depth_scales,
    edge_of_chaos,
    fixed_point,
    fixed_points,
    ntk_depth_profile,
    phase,
    variance_map,
)
from ntklib.dynamics import (
    cross_entropy_flow,
    ensemble_posterior,
    gp_posterior,
    gradient_descent,
    gradient_flow,
    langevin,
    log_marginal_likelihood,
    loo,
    max_learning_rate,
    mean_square_limit,
    noise_covariance,
    sgd_moments,
    sgd_simulate,
    stationary_covariance,
)
from ntklib.empirical import (
    LearningRateLimit,
    MonteCarloKernel,
    empirical_max_learning_rate,
    empirical_nngp,
    empirical_ntk,
    monte_carlo_kernel,
    ntk_vector_product,
)
from ntklib.ensembles import Ensemble, ensemble
from ntklib.evolution import (
    ErrorBarrier,
    Followed,
    GradientSimilarity,
    NonlinearAdvantage,
    Spawned,
    activation_hamming,
    error_barrier,
    follow,
    function_distance,
    kernel_alignment,
    kernel_distance,
    kernel_velocity,
    logit_gradient_similarity,
    nonlinear_advantage,
    spawn,
)
from ntklib.kernel import Kernel
from ntklib.layers import (
    Abs,
    AvgPool,
    Conv,
    Cos,
    Dense,
    Elementwise,
    Elu,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Hermite,
    Identity,
    Layer,
    LayerNorm,
    LeakyRelu,
    LocallyConnected,
    Monomial,
    Rbf,
    RectifiedMonomial,
    Relu,
    Residual,
    Serial,
    Sigmoid,
    Sign,
    Silu,
    Sin,
    Sum,
    Tanh,
    cnn,
    mlp,
    myrtle,
)
from ntklib.linearization import center, linearize, scale_output, taylor
from ntklib.models import functional
from ntklib.parameterization import MEAN_FIELD, MUP, NTK, STANDARD, Parameterization, convert, sgd, weight_decay
from ntklib.scale import CGSolution, NotConvergedError, cg_solve, gram
from ntklib.training import History, train
from ntklib.whitening import ZCA

if TYPE_CHECKING:
    from ntklib.regression import KernelClassifier, KernelRegressor

__version__ = "1.0.0"  # a test compares it with pyproject.toml and CITATION.cff

__all__ = [
    "MEAN_FIELD",
    "MUP",
    "NTK",
    "STANDARD",
    "ZCA",
    "Abs",
    "AvgPool",
    "CGSolution",
    "Conv",
    "Cos",
    "CriticalPoint",
    "Data",
    "Dense",
    "DepthProfile",
    "DepthScales",
    "Elementwise",
    "Elu",
    "Ensemble",
    "Erf",
    "ErrorBarrier",
    "Exp",
    "Flatten",
    "Followed",
    "Gaussian",
    "Gelu",
    "GlobalAvgPool",
    "GradientSimilarity",
    "Hermite",
    "History",
    "Identity",
    "Kernel",
    "KernelClassifier",
    "KernelRegressor",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "LearningRateLimit",
    "LocallyConnected",
    "Monomial",
    "MonteCarloKernel",
    "NonlinearAdvantage",
    "NotConvergedError",
    "Parameterization",
    "Rbf",
    "RectifiedMonomial",
    "Relu",
    "Residual",
    "Serial",
    "Sigmoid",
    "Sign",
    "Silu",
    "Sin",
    "Spawned",
    "Sum",
    "Tanh",
    "activation_hamming",
    "center",
    "cg_solve",
    "chi",
    "cnn",
    "convert",
    "correlation_map",
    "critical_point",
    "cross_entropy_flow",
    "decorrelation_map",
    "depth_scales",
    "edge_of_chaos",
    "empirical_max_learning_rate",
    "empirical_nngp",
    "empirical_ntk",
    "ensemble",
    "ensemble_posterior",
    "error_barrier",
    "fixed_point",
    "fixed_points",
    "follow",
    "function_distance",
    "functional",
    "gp_posterior",
    "gradient_descent",
    "gradient_flow",
    "gram",
    "kernel_alignment",
    "kernel_distance",
    "kernel_velocity",
    "langevin",
    "linearize",
    "load",
    "log_marginal_likelihood",
    "logit_gradient_similarity",
    "loo",
    "max_learning_rate",
    "mean_square_limit",
    "mlp",
    "monte_carlo_kernel",
    "myrtle",
    "noise_covariance",
    "nonlinear_advantage",
    "ntk_depth_profile",
    "ntk_vector_product",
    "one_hot_centered",
    "phase",
    "scale_output",
    "sgd",
    "sgd_moments",
    "sgd_simulate",
    "shift",
    "spawn",
    "stationary_covariance",
    "taylor",
    "train",
    "variance_map",
    "weight_decay",
]


def __getattr__(name: str) -> Any:
    """Import the estimators when they are first used, because scikit-learn is optional and slow to import."""
    if name in ("KernelClassifier", "KernelRegressor"):
        try:
            from ntklib import regression
        except ImportError as error:
            if error.name != "sklearn":
                raise
            raise ImportError(f"`ntklib.{name}`: {error}", name="sklearn") from error

        return getattr(regression, name)
    raise AttributeError(f"module 'ntklib' has no attribute {name!r}")
