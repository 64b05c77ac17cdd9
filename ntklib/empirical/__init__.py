"""Kernels of finite networks: the empirical NTK, the empirical NNGP kernel, and their averages over networks.

The public functions are in `kernels`, `products`, `learning_rate` and `monte_carlo`. `empirical_ntk` uses the
other modules in this order:

- `checks` checks model and inputs, and `pure` splits a model into a function and its arrays.
- `program` reads the function as a list of operations, in which `affine` finds the affine layers.
- `cost` counts the operations and bytes of each of the `methods`, and `plan` chooses one, with the sizes of tiles.
- `blocks` computes the kernel tile by tile, and `sharded` does so on several devices.
- `layerwise` computes the derivatives for one of the methods, and `terms` makes a tile from products of derivatives.
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
