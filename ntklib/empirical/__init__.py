"""Kernels of finite networks: empirical NTK and NNGP, and averages over networks.

`kernels`, `products`, `learning_rate` and `monte_carlo` have the public functions. `pure` makes a model a static
function of arrays, and `checks` checks the arguments. `plan` chooses a method (`methods`) by counting operations and
bytes (`cost`). `blocks` computes the tiles, and `sharded` does so on several devices. `program` reads a model as a
list of operations, `affine` finds its affine layers in it, and `layerwise` computes the `terms` whose sum is the
kernel.
"""

from ntklib.empirical.kernels import empirical_nngp, empirical_ntk
from ntklib.empirical.learning_rate import LearningRateLimit, empirical_max_learning_rate
from ntklib.empirical.monte_carlo import MonteCarloKernel, monte_carlo_kernel
from ntklib.empirical.products import ntk_vector_product

__all__ = [
    "LearningRateLimit",
    "MonteCarloKernel",
    "empirical_max_learning_rate",
    "empirical_nngp",
    "empirical_ntk",
    "monte_carlo_kernel",
    "ntk_vector_product",
]
