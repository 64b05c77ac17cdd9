"""Kernel regression by Cholesky, with the factor in float32 and the solution refined in float64.

Nearly all of the time goes into the factor: N³/3 operations, which take half as long in float32 as in float64. A factor
in float32 gives a solution with a relative error of about κ · 1e-7, where κ is the condition number. The residual is
then computed in float64, from the kernel in float64. The system is solved for the residual with the same factor, and
the result is added to the solution. This correction multiplies the error by about κ · 1e-7. Two or three corrections
are usually enough. If κ is too large for them, the factor is computed in float64.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ntklib import _checks
from ntklib.scale.tiles import TileIndex, Tiles

#: With fewer inputs than this, only the factor in float64 is computed: it takes less than a tenth of a second.
FEW = 2000
#: If a correction is larger than this share of the correction before it, the factor in float32 is not accurate enough.
_RATE = 0.1
#: The corrections end when the next one would be smaller than this, relative to the solution. Predictions, which are
#: sums over the entries of the solution, are more accurate.
_ERROR = 1e-10
#: The usual rounding error of an entry of the kernel in float64, relative to the largest entry.
_ROUNDING = 1e-14


@functools.cache
def _lapack(dtype: type[np.floating]) -> Any:
    """Return LAPACK's `potrf`, which computes the Cholesky factor, and `potrs`, which solves with it.

    SciPy is imported here, to keep the import of `ntklib` short.
    """
    import scipy.linalg

    return scipy.linalg.get_lapack_funcs(("potrf", "potrs"), dtype=dtype)


class ShiftedKernel:
    """The matrix Θ + λ in float64, with λ = ridge · tr(Θ)/N.

    `diagonal` [N] is its diagonal. `parts` holds the tiles that are kept: at first those on the diagonal, and after
    `write(..., keep=True)` all tiles on one side of the diagonal, N²/2 numbers.

    Raises:
        ValueError: If the diagonal is not finite, or is zero everywhere.
    """

    def __init__(self, tiles: Tiles, ridge: float) -> None:
        self.tiles, self.ridge, self.n = tiles, ridge, tiles.shape[0]
        self.parts: dict[TileIndex, np.ndarray] = {}
        blocks = range(-(-self.n // tiles.tile))
        tiles.run(self._keep, [(i, i) for i in blocks], progress=False)
        diagonal = np.concatenate([self.parts[i, i].diagonal() for i in blocks])
        _checks.usable_diagonal("training inputs", diagonal, np.float64)
        shift = ridge * diagonal.mean()
        self.diagonal = diagonal + shift
        for i in blocks:
            self.parts[i, i] = self.parts[i, i] + shift * np.eye(len(self.parts[i, i]))

    def _keep(self, i: int, j: int, entries: np.ndarray) -> None:
        self.parts[i, j] = entries

    def write(self, out: np.ndarray, scale: np.ndarray, *, keep: bool) -> None:
        """Write the upper triangle of s_i (Θ + λ)_ij s_j into `out` [N, N], in the dtype of `out`.

        Args:
            out: The array to write into.
            scale: s, [N].
            keep: Whether to keep the tiles for products (`@`). If not, each tile is dropped after it has been written.
        """

        def put(i: int, j: int, entries: np.ndarray) -> None:
            rows, columns = (self.tiles.span(k, self.n) for k in (i, j))
            out[rows, columns] = scale[rows, None] * entries * scale[None, columns]
            if keep:
                self._keep(i, j, entries)

        missing = [pair for pair in self.tiles.pairs() if pair not in self.parts]
        for i, j in list(self.parts):
            put(i, j, self.parts.pop((i, j)))
        self.tiles.run(put, missing, progress=False)

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        """Return (Θ + λ) v for vectors [N, K]. All tiles must have been kept by `write(..., keep=True)`."""
        out = np.zeros_like(v)
        for (i, j), entries in self.parts.items():
            rows, columns = (self.tiles.span(k, self.n) for k in (i, j))
            out[rows] += entries @ v[columns]
            if i != j:
                out[columns] += entries.T @ v[rows]
        return out


def solve(tiles: Tiles, y: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Solve (Θ + λ) α = y for targets y [N, K] as accurately as in float64, with λ = ridge · tr(Θ)/N.

    Returns:
        α, [N, K], and the factor in float64 (see `factor`), or None if this factor was not needed.

    Raises:
        ValueError: If the matrix is singular, or if its diagonal is not finite, or is zero everywhere.

    Note:
        Memory: N²/2 numbers in float64 and N² in float32. If a factor in float64 is needed, N² numbers in float64.
        With a factor in float64, a warning is given if the rounding errors of the kernel leave fewer than three digits
        of the solution.

    References:
        Higham 2002, Accuracy and Stability of Numerical Algorithms, §12.
    """
    matrix = ShiftedKernel(tiles, ridge)
    a = _refined(matrix, y) if matrix.n >= FEW else None
    if a is not None:
        return a, None
    low = factor(matrix)
    _warn_if_ill_conditioned(matrix, low)
    return cho_solve(low, y), low


def factor(matrix: ShiftedKernel) -> np.ndarray:
    """Return L in float64, [N, N], with Θ + λ = L Lᵀ. Entries above the diagonal are arbitrary.

    The tiles that `matrix` kept are dropped.

    Raises:
        ValueError: If the matrix is singular.
    """
    out = np.empty((matrix.n, matrix.n))
    matrix.write(out, np.ones(matrix.n), keep=False)
    # LAPACK stores a matrix by columns, and NumPy by rows. An upper triangle in NumPy is a lower one in LAPACK.
    potrf, _ = _lapack(np.float64)
    low, failed = potrf(out.T, lower=True, overwrite_a=True, clean=False)
    # A pivot L_ii² that is no larger than its rounding error may be zero in exact arithmetic.
    if failed or low.diagonal().min() ** 2 <= matrix.n * np.finfo(float).eps * matrix.diagonal.max():
        raise ValueError(
            f"The kernel of the training inputs is singular with `ridge` = {matrix.ridge:g}: some inputs may be equal "
            f"or nearly equal, or the rank of the kernel is below the number of inputs. Use "
            f"{'a larger ridge' if matrix.ridge else 'a ridge, e.g. ridge=1e-4'}."
        )
    return low


def cho_solve(low: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (L Lᵀ)⁻¹ y for the result L of `factor`."""
    _, potrs = _lapack(np.float64)
    return potrs(low, y, lower=True)[0]


def _refined(matrix: ShiftedKernel, y: np.ndarray) -> np.ndarray | None:
    """Return α by a factor in float32 and corrections, or None if the factor fails or the corrections shrink slowly."""
    approximate = _approximate_solver(matrix)
    if approximate is None:
        return None
    a, last = approximate(y), 1.0
    while True:
        correction = approximate(y - matrix @ a)
        a += correction
        change = float((np.abs(correction).max(0) / _nonzero(np.abs(a).max(0))).max())
        # The rounding errors of float32 have a component along every eigenvector. The rate is therefore that of the
        # component that shrinks most slowly, whatever the targets are.
        rate = change / last
        if not rate <= _RATE:  # also for NaN, unlike `rate > _RATE`
            return None
        if rate * change <= _ERROR:  # an estimate of the next correction
            return a
        last = change


def _approximate_solver(matrix: ShiftedKernel) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the map r ↦ (Θ + λ)⁻¹ r by a factor in float32, or None if the matrix has no such factor.

    The relative error of the map is about κ · 1e-7.
    """
    # The range of float32 is small: scale the matrix to ones on its diagonal, and each vector to a largest entry of 1.
    scale = 1.0 / np.sqrt(_nonzero(matrix.diagonal))
    out = np.empty((matrix.n, matrix.n), np.float32)
    matrix.write(out, scale, keep=True)
    potrf, potrs = _lapack(np.float32)
    low, failed = potrf(out.T, lower=True, overwrite_a=True, clean=False)
    if failed:
        return None

    def approximate(r: np.ndarray) -> np.ndarray:
        r = scale[:, None] * r
        size = _nonzero(np.abs(r).max(0))
        z, _ = potrs(low, np.asfortranarray(r / size, np.float32), lower=True, overwrite_b=True)
        return scale[:, None] * (size * z)

    return approximate


def _warn_if_ill_conditioned(matrix: ShiftedKernel, low: np.ndarray) -> None:
    """Warn if the rounding errors of the kernel are not small compared to the smallest eigenvalue of Θ + λ."""
    v, top = np.random.default_rng(0).normal(size=matrix.n), matrix.diagonal.max()
    for _ in range(4):  # inverse iteration: v tends to the eigenvector of the smallest eigenvalue
        v = top * cho_solve(low, v / np.linalg.norm(v))  # in units in which squares stay in the range of numbers
    smallest = top / np.linalg.norm(v)
    # If the N² errors are independent, the norm of their matrix is about √N times the size of an error.
    rounding = _ROUNDING * math.sqrt(matrix.n) * top
    if rounding > 1e-3 * smallest:
        digits, enough = max(0.0, math.log10(smallest / rounding)), 1e6 * rounding / matrix.diagonal.mean()
        warnings.warn(
            f"The kernel of the training inputs is ill-conditioned with `ridge` = {matrix.ridge:g}: its smallest "
            f"eigenvalue is {smallest:.1e}, and rounding moves it by {rounding:.0e}. About {digits:.0f} digits of the "
            f"solution are right; with ridge={enough:.0e} six are. It also helps to leave out inputs that are nearly "
            f"equal.",
            stacklevel=4,
        )


def _nonzero(a: np.ndarray) -> np.ndarray:
    """Return a divisor: `a` with ones in the place of zeros."""
    return np.where(a == 0, 1.0, a)
