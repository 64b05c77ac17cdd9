"""Kernels of infinitely wide networks, and regression with them, at any size.

`fused` computes one tile, `tiles` all of them on all devices, `gram_matrix` puts them together, `store` on disk;
`conjugate_gradients` solves without putting them together, with `pivoted_cholesky` as its preconditioner.
"""

from ntklib.scale.conjugate_gradients import CGSolution, NotConvergedError, cg_solve
from ntklib.scale.gram_matrix import gram

__all__ = ["CGSolution", "NotConvergedError", "cg_solve", "gram"]
