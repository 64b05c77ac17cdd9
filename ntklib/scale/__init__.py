"""Kernels of infinitely wide networks, and regression with them, at any size.

`fused` computes one tile, and `tiles` all of them on all devices. `gram_matrix` puts them together, in memory or on
disk (`store`, with `fingerprint` to say what a folder belongs to). `cholesky` solves by a factor of the whole matrix;
`conjugate_gradients` without the whole, with `pivoted_cholesky` as its preconditioner.
"""

from ntklib.scale.conjugate_gradients import CGSolution, NotConvergedError, cg_solve
from ntklib.scale.gram_matrix import gram

__all__ = ["CGSolution", "NotConvergedError", "cg_solve", "gram"]
