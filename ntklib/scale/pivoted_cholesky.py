"""Randomly pivoted Cholesky: an approximation of a kernel matrix from a few of its columns, used as a preconditioner.

References: Chen, Epperly, Tropp & Webber 2022, and for blocks with rejection Epperly, Tropp & Webber 2024.
"""

import math

import numpy as np

from ntklib.scale.tiles import Tiles

#: The most columns that are computed at a time. A few arrays of so many columns exist at the same time, in float64.
BLOCK = 256


class PivotedCholesky:
    """The map r ↦ (FFᵀ + λ)⁻¹ r, where Θ ≈ FFᵀ with F [N, rank].

    F is built from columns of the residual Θ − FFᵀ. At most `BLOCK` columns are proposed at a time, with probabilities
    proportional to the diagonal d of the residual. A proposal i is accepted with probability d'_i/d_i, where d' is the
    diagonal of the residual after the proposals that were accepted before i.
    """

    def __init__(self, tiles: Tiles, diagonal: np.ndarray, rank: int, shift: float, rng: np.random.Generator) -> None:
        import scipy.linalg  # here, to keep the import of `ntklib` short

        n, self.shift, self.rank = len(diagonal), shift, 0
        left, factor = diagonal.copy(), np.zeros((n, rank))
        rounding = max(10 * np.finfo(tiles.dtype).eps, 1e-12) * diagonal.sum()
        while self.rank < rank and left.sum() > rounding:
            drawn = rng.choice(n, min(BLOCK, tiles.tile, n), p=left / left.sum())
            proposals = drawn[np.sort(np.unique(drawn, return_index=True)[1])]  # each once, in the order of the draw
            columns = _columns(tiles, proposals)
            columns -= factor[:, : self.rank] @ factor[proposals, : self.rank].T
            accepted = _accept(columns[proposals], left[proposals], rng)[: rank - self.rank]
            if not len(accepted):  # the residual consists of rounding errors
                break
            g = columns[np.ix_(proposals[accepted], accepted)]
            g[np.diag_indices_from(g)] += 1e-14 * np.trace(g)
            low = np.linalg.cholesky(g)
            new = np.asarray(scipy.linalg.solve_triangular(low, columns[:, accepted].T, lower=True, overwrite_b=True)).T
            factor[:, self.rank : self.rank + len(accepted)] = new
            left = np.maximum(left - np.einsum("ij,ij->i", new, new), 0.0)
            left[proposals[accepted]] = 0.0
            self.rank += len(accepted)
        self.factor = factor[:, : self.rank]
        small = self.factor.T @ self.factor
        small[np.diag_indices_from(small)] += shift
        self.cholesky = scipy.linalg.cho_factor(small, lower=True, check_finite=False)

    def __call__(self, r: np.ndarray) -> np.ndarray:
        import scipy.linalg

        if not self.rank:
            return r / self.shift
        # Woodbury: (FFᵀ + λ)⁻¹ = (1 − F (FᵀF + λ)⁻¹ Fᵀ)/λ.
        inner = scipy.linalg.cho_solve(self.cholesky, self.factor.T @ r, check_finite=False)
        return (r - self.factor @ inner) / self.shift


def _accept(left: np.ndarray, proposed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of the proposals in a block that are accepted.

    `left` is the residual between the proposals, and `proposed` its diagonal.
    """
    left, taken = left.copy(), []
    for i in range(len(left)):
        if rng.random() * proposed[i] < left[i, i]:
            column = left[:, i] / math.sqrt(left[i, i])
            left -= np.outer(column, column)
            taken.append(i)
    return np.array(taken, int)


def _columns(tiles: Tiles, chosen: np.ndarray) -> np.ndarray:
    """Return Θ(x, x[chosen]) as an array in float64, computed in the type of the tiles."""
    part = tiles.against(np.asarray(tiles.x1[chosen]))
    out = np.empty(part.shape)

    def put(i: int, j: int, entries: np.ndarray) -> None:
        out[part.span(i, part.shape[0]), part.span(j, part.shape[1])] = entries

    part.run(put, progress=False)
    return out
