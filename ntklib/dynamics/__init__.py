"""Outputs of models that are linear in their parameters, during and after training, computed from kernels alone.

- `flow`: gradient flow and gradient descent on the squared loss, in closed form;
- `cross_entropy`: gradient flow on the cross-entropy;
- `posterior`: mean and covariance of Gaussian processes, and of ensembles of trained networks;
- `scores`: two scores by which to choose a ridge;
- `noise`: mean and covariance of SGD after a given number of steps, and simulated runs;
- `noise_limits`: the largest learning rate of SGD, its covariance after infinitely many steps, and its limit for small
  steps.

The private modules decompose kernels, decide which eigenvalues are known despite rounding errors, and estimate how far
these errors move the results. No function here takes a network.
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
