"""Kernels of finite networks.

`kernels` has the functions; `program` reads a model as a list of operations, `affine` finds its affine layers in it,
`layerwise` makes a kernel of them, `cost` counts operations and bytes, `blocks` keeps a bound on memory.
"""

from ntklib.empirical.kernels import empirical_nngp, empirical_ntk

__all__ = ["empirical_nngp", "empirical_ntk"]
