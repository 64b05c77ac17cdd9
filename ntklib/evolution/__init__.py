"""How a network and its kernel move in training: distances between kernels, functions, and networks of one training.

`distances` compares kernels, `functions` outputs, `gradients` the derivatives of single examples, `rectifiers` which
units are on, and `barrier` the errors on the line between two networks. `spawning` trains children of a network from
several times on. `advantage` trains a network and its linearization from the same time on. `following` records measures
in one training; `_comparison` has the list of measures, and `_checkpoint` the file of a run. All of them use `_models`
(checked models) and `_runs` (training from any state on).
"""

from ntklib.evolution.advantage import NonlinearAdvantage, nonlinear_advantage
from ntklib.evolution.barrier import ErrorBarrier, error_barrier
from ntklib.evolution.distances import kernel_alignment, kernel_distance, kernel_velocity
from ntklib.evolution.following import Followed, follow
from ntklib.evolution.functions import function_distance
from ntklib.evolution.gradients import GradientSimilarity, logit_gradient_similarity
from ntklib.evolution.rectifiers import activation_hamming
from ntklib.evolution.spawning import Spawned, spawn

__all__ = [
    "ErrorBarrier",
    "Followed",
    "GradientSimilarity",
    "NonlinearAdvantage",
    "Spawned",
    "activation_hamming",
    "error_barrier",
    "follow",
    "function_distance",
    "kernel_alignment",
    "kernel_distance",
    "kernel_velocity",
    "logit_gradient_similarity",
    "nonlinear_advantage",
    "spawn",
]
