"""Kernel regression by Cholesky: the factor in float32, which is twice as fast, and the solution refined in float64.

Nearly all operations are those of the factor, N³/3. One in float32 gives a solution with a relative error of some
κ · 1e-7, κ the condition number. The residual, computed in float64 from the kernel in float64, tells that error, and
the same factor takes all but κ · 1e-7 of it away. Two or three times are enough as a rule; where κ is too large for
that, the factor is computed in float64.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import scipy.linalg

from ntklib.scale.tiles import Pair, Tiles

#: LAPACK's factor of a positive definite matrix and solution by it, in float64 and in float32.
_factor64, _solve64, _factor32, _solve32 = (
    *scipy.linalg.get_lapack_funcs(("potrf", "potrs"), dtype=np.float64),
    *scipy.linalg.get_lapack_funcs(("potrf", "potrs"), dtype=np.float32),
)
#: Below so many inputs a factor in float64 takes less than a tenth of a second.
FEW = 2000
#: A correction may be this share of the one before, or the factor in float32 is given up.
_RATE = 0.1
#: Relative error of the solution at which to stop. That of predictions, which are sums over it, is smaller still.
_ERROR = 1e-10
#: Of an entry of the kernel in float64, relative to the largest (see `gram`).
_ROUNDING = 1e-14


class ShiftedKernel:
    """Θ + λ in float64, λ = ridge · tr Θ/N, by the tiles on one side of its diagonal: N²/2 numbers, once all are there.

    diagonal: that of Θ + λ, [N].
    """

    def __init__(self, tiles: Tiles, ridge: float) -> None:
        self.tiles, self.ridge, self.n = tiles, ridge, tiles.shape[0]
        self.parts: dict[Pair, np.ndarray] = {}
        blocks = range(-(-self.n // tiles.tile))
        tiles.run(self._keep, [(i, i) for i in blocks], progress=False)
        own = np.concatenate([self.parts[i, i].diagonal() for i in blocks])
        if not np.isfinite(own).all():
            raise ValueError(
                f"The kernel of {np.count_nonzero(~np.isfinite(own))} of the {self.n} training inputs is not finite: "
                f"they are too large, or the activation is not finite there. Scale the inputs."
            )
        shift = ridge * own.mean()
        self.diagonal = own + shift
        for i in blocks:
            self.parts[i, i] = self.parts[i, i] + shift * np.eye(len(self.parts[i, i]))

    def _keep(self, i: int, j: int, entries: np.ndarray) -> None:
        self.parts[i, j] = entries

    def write(self, out: np.ndarray, scale: np.ndarray, *, keep: bool) -> None:
        """Write the upper triangle of s_i (Θ + λ)_ij s_j into `out` [N, N], in its type; `scale` is s [N].

        keep: whether the tiles stay, as a product needs them; otherwise each is given up when it has been written.
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
        """(Θ + λ) v for vectors [N, K]."""
        out = np.zeros_like(v)
        for (i, j), entries in self.parts.items():
            rows, columns = (self.tiles.span(k, self.n) for k in (i, j))
            out[rows] += entries @ v[columns]
            if i != j:
                out[columns] += entries.T @ v[rows]
        return out


def solve(tiles: Tiles, y: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray | None]:
    """α = (Θ + λ)⁻¹ y for targets [N, K], λ = ridge · tr Θ/N, as accurate as by a factor in float64; and that factor,
    where it was needed (see `factor`).

    Memory: N²/2 numbers in float64 and N² in float32; where the factor in float32 does not do, N² numbers in float64.
    Raises ValueError on a singular matrix; warns where rounding of the kernel leaves few digits of the solution.
    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, §12.
    """
    matrix = ShiftedKernel(tiles, ridge)
    a = _refined(matrix, y) if matrix.n >= FEW else None
    if a is not None:
        return a, None
    low = factor(matrix)
    _tell_digits(matrix, low)
    return cho_solve(low, y), low


def factor(matrix: ShiftedKernel) -> np.ndarray:
    """L in float64 [N, N] with Θ + λ = L Lᵀ; above its diagonal is anything. The tiles are used up."""
    out = np.empty((matrix.n, matrix.n))
    matrix.write(out, np.ones(matrix.n), keep=False)
    # LAPACK has columns where NumPy has rows: the upper triangle of one is the lower triangle of the other.
    low, failed = _factor64(out.T, lower=True, overwrite_a=True, clean=False)
    if failed or low.diagonal().min() ** 2 <= matrix.n * np.finfo(float).eps * matrix.diagonal.max():
        raise ValueError(
            f"The kernel of the training inputs is singular with `ridge` = {matrix.ridge:g}: inputs that are equal "
            f"or nearly so, or fewer features than inputs. Use a ridge, e.g. ridge=1e-4."
        )
    return low


def cho_solve(low: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(L Lᵀ)⁻¹ y for what `factor` returns."""
    return _solve64(low, y, lower=True)[0]


def _refined(matrix: ShiftedKernel, y: np.ndarray) -> np.ndarray | None:
    """The solution by a factor in float32; None where the corrections do not become small fast."""
    approximate = _in_float32(matrix)
    if approximate is None:
        return None
    a, last = approximate(y), 1.0
    while True:
        # Rounding in float32 has a part in every direction, so that the slowest shows whatever the targets are.
        correction = approximate(y - matrix @ a)
        a += correction
        change = float((np.abs(correction).max(0) / _nonzero(np.abs(a).max(0))).max())
        rate = change / last
        if not rate <= _RATE:  # `not`: NaN is too large
            return None
        if rate * change <= _ERROR:  # the next correction would be that small
            return a
        last = change


def _in_float32(matrix: ShiftedKernel) -> Callable[[np.ndarray], np.ndarray] | None:
    """The function r ↦ (Θ + λ)⁻¹ r, right up to κ · 1e-7, by a factor in float32; None where there is none."""
    # The range of float32 is small: the matrix gets ones on its diagonal, each vector a largest entry of 1.
    scale = 1.0 / np.sqrt(_nonzero(matrix.diagonal))
    out = np.empty((matrix.n, matrix.n), np.float32)
    matrix.write(out, scale, keep=True)
    low, failed = _factor32(out.T, lower=True, overwrite_a=True, clean=False)
    if failed:
        return None

    def approximate(r: np.ndarray) -> np.ndarray:
        r = scale[:, None] * r
        size = _nonzero(np.abs(r).max(0))
        z, _ = _solve32(low, np.asfortranarray(r / size, np.float32), lower=True, overwrite_b=True)
        return scale[:, None] * (size * z)

    return approximate


def _tell_digits(matrix: ShiftedKernel, low: np.ndarray) -> None:
    """Warn where the rounding errors of the kernel are not small against its smallest eigenvalue."""
    v = np.random.default_rng(0).normal(size=matrix.n)
    for _ in range(4):  # inverse iteration
        v = cho_solve(low, v / np.linalg.norm(v))
    smallest, rounding = 1.0 / np.linalg.norm(v), _ROUNDING * math.sqrt(matrix.n) * matrix.diagonal.max()
    if rounding > 1e-3 * smallest:
        digits, enough = max(0.0, math.log10(smallest / rounding)), 1e6 * rounding / matrix.diagonal.mean()
        warnings.warn(
            f"The kernel of the training inputs is ill-conditioned with `ridge` = {matrix.ridge:g}: its smallest "
            f"eigenvalue is {smallest:.1e}, and rounding moves it by {rounding:.0e}. About {digits:.0f} digits of the "
            f"solution are right; with ridge={enough:.0e} six are. Or leave out inputs that are nearly equal.",
            stacklevel=4,
        )


def _nonzero(a: np.ndarray) -> np.ndarray:
    return np.where(a == 0, 1.0, a)
