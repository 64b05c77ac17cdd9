"""Training in function space: what a model that is linear in its parameters does, from kernels alone.

`flow` has gradient flow and gradient descent in closed form, `cross_entropy` the flow of the cross-entropy, `posterior`
Gaussian processes and ensembles of networks, `scores` two scores by which to choose a ridge. `noise` has the moments
of SGD at finite times, `noise_limits` their limits: after infinitely many steps, for small steps, and the largest
learning rate. All of them use `_linalg`, `_cholesky`, `_spectrum` and `_lost_digits`: decompositions, which eigenvalues
are known, and what the kernel's rounding errors cost. No module here sees a network.
"""

from ntklib.dynamics.cross_entropy import cross_entropy_flow
from ntklib.dynamics.flow import gradient_descent, gradient_flow, max_learning_rate
from ntklib.dynamics.noise import noise_covariance, sgd_moments, sgd_simulate
from ntklib.dynamics.noise_limits import langevin, mean_square_limit, stationary_covariance
from ntklib.dynamics.posterior import ensemble_posterior, gp_posterior
from ntklib.dynamics.scores import log_marginal_likelihood, loo

__all__ = [
    "cross_entropy_flow",
    "ensemble_posterior",
    "gp_posterior",
    "gradient_descent",
    "gradient_flow",
    "langevin",
    "log_marginal_likelihood",
    "loo",
    "max_learning_rate",
    "mean_square_limit",
    "noise_covariance",
    "sgd_moments",
    "sgd_simulate",
    "stationary_covariance",
]
