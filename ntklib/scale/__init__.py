"""Kernels of infinitely wide networks, and regression with them, at any size.

A tile is a block of rows and columns of a kernel matrix. `ahead` makes tables of the activations, `fused` computes one
tile, and `tiles` computes all tiles on all devices. `gram_matrix` joins the tiles, in memory or in files. `store`
writes the files, with a record of the run that `fingerprint` makes. `cholesky` solves a regression with a factor of the
whole matrix. `conjugate_gradients` solves it without storing the matrix; `pivoted_cholesky` is its preconditioner.
"""

from ntklib.scale.conjugate_gradients import CGSolution, NotConvergedError, cg_solve
from ntklib.scale.gram_matrix import gram

__all__ = ["CGSolution", "NotConvergedError", "cg_solve", "gram"]
