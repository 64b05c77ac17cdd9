"""How far a network and its kernel move in training: measures, and training runs.

Measures: `distances` compares two kernels, and `gradients` the gradients of different examples. `functions` compares
the outputs of two networks, `rectifiers` which of their units are on, and `barrier` the errors on the line between
them. All use `_models`, which checks models.

Runs: `spawning` trains copies of a network, `advantage` trains a network and its linearization, and `following` records
measures in one training. `_comparison` computes these measures, and `_checkpoint` saves such a run in a file. All runs
use `_runs`, which trains from any state on.
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
