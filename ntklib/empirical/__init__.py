"""Kernels of finite networks.

`kernels`, `products` and `monte_carlo` have the functions. `pure` makes a model a static function of arrays, `checks`
looks at what came, `plan` decides on a method (`methods`) by counting operations and bytes (`cost`), and `blocks`
computes the tiles, `sharded` on several devices. `program` reads a model as a list of operations, `affine` finds its
affine layers in it, `layerwise` makes of them the `terms` that a kernel is a sum of.
"""

from ntklib.empirical.kernels import empirical_nngp, empirical_ntk
from ntklib.empirical.monte_carlo import MonteCarloKernel, monte_carlo_kernel
from ntklib.empirical.products import ntk_vector_product

__all__ = ["MonteCarloKernel", "empirical_nngp", "empirical_ntk", "monte_carlo_kernel", "ntk_vector_product"]
