"""Making the tables of `ntklib.duals.tables` in NumPy: integrals at Chebyshev nodes, and their factorization."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ntklib.duals.activation import Activation
from ntklib.duals.integrals import MODERATE, NODES, crowded, derivative, line, sampler
from ntklib.duals.tables import Table, coordinate

#: Chebyshev coefficients below about this size are dropped. Low-rank sums end when what is left of the matrix is
#: below it.
_TOLERANCE = {"float32": 2e-8, "float64": 1e-12}
#: Once there are so many nodes in θ or in y, no more are tried.
_MOST_ANGLES, _MOST_VARIANCES = 512, 192


def made(activation: Activation, low: float, high: float, dtype: Any) -> Table:
    """Return the table of an activation for variances from `low` to `high`.

    The range of y (see `ntklib.duals.tables`) is widened to multiples of 1/64, so that similar ranges share a table. It
    ends at 1 − 1e-9 at the latest.

    Raises:
        ValueError: If E[φ_1(u) φ_1(v)], where φ_1 is the odd part of φ, does not drop by its value from θ = 0 to π/2
            when it is computed as an integral of E[φ_1'(u) φ_1'(v)]. This happens if φ jumps, or its slope changes too
            abruptly. An error of up to 1e-3 √(E[φ(u)²] E[φ(v)²]) passes.
    """
    ends = coordinate(np.array([low, high], np.float64), np)
    grid = 64.0
    start, stop = np.floor(ends[0] * grid) / grid, np.ceil(ends[1] * grid + 1e-9) / grid
    return _made(activation, float(start), float(min(stop, 1 - 1e-9)), np.dtype(dtype).name)


@functools.lru_cache(maxsize=64)
def _made(activation: Activation, start: float, stop: float, dtype: str) -> Table:
    tolerance, few = _TOLERANCE[dtype], dtype == "float32"
    span = max(stop - start, 1 / 64)
    functions = [sampler(f) for f in (activation.fn, derivative(activation.fn))]
    size = 12
    while not (lines := _Lines(functions, start, span, size, tolerance)).enough and size < _MOST_VARIANCES:
        size += 12
    series: list[np.ndarray] = []
    if activation.parts is None:
        series, along = _series(functions[1], lines, tolerance, few, activation)
        while along > 0.9 * size and size < _MOST_VARIANCES:
            size = int(1.3 * along) + 4
            lines = _Lines(functions, start, span, size, tolerance)
            series, along = _series(functions[1], lines, tolerance, few, activation)
    columns = [lines.logs[:, 0], lines.logs[:, 1], *lines.coordinates.T]
    ranks, factors, signs = _products(series, lines, tolerance)
    values = np.stack([*columns, *factors], 1)
    coefficients = _chebyshev(values)
    keep = max(2, _length(coefficients, tolerance / 10))
    as_given = functools.partial(np.asarray, dtype=dtype)
    return Table(
        as_given(start), as_given(span), as_given(coefficients[:keep]),  # type: ignore
        lines.powers, lines.counts, ranks, as_given(signs),
    )  # fmt: skip


def _nodes(n: int) -> np.ndarray:
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


def _chebyshev(values: np.ndarray) -> np.ndarray:
    """Return the Chebyshev coefficients of the polynomials with the given values at `_nodes`, along the first axis."""
    n = len(values)
    matrix = np.cos(np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n) * 2 / n
    matrix[0] /= 2
    return np.tensordot(matrix, values, 1)


def _length(coefficients: np.ndarray, tolerance: float) -> int:
    """Return how many coefficients remain if those after the last one above the tolerance are dropped."""
    size = np.abs(coefficients).reshape(len(coefficients), -1).max(1, initial=0.0)
    return int(np.max(np.nonzero(size > tolerance)[0], initial=-1)) + 1


class _Lines:
    """The values of E[φ²], of E[φ'²] and of the coordinates e_r at `size` Chebyshev nodes in y.

    `enough` says whether these nodes determine the functions to the tolerance.
    """

    def __init__(self, functions: list[Callable], start: float, span: float, size: int, tolerance: float) -> None:
        y = start + span * (_nodes(size) + 1) / 2
        self.s = 1 / np.square(1 - y) - 1
        self.q = np.square(self.s)
        z, weights = line(1e-15, 0.1)
        weights = weights / 2  # for z and for −z
        (plus, minus), (slope_plus, slope_minus) = (
            [f(sign * self.s[:, None] * z) for sign in (1.0, -1.0)] for f in functions
        )
        self.moment, self.slope = (
            (np.square(a) + np.square(b)) @ weights for a, b in ((plus, minus), (slope_plus, slope_minus))
        )
        self.powers, logs = zip(*(_power(a, self.q) for a in (self.moment, self.slope)), strict=True)
        self.logs = np.stack(logs, 1)
        scale = np.sqrt(2 * weights) / np.sqrt(np.where(self.moment > 0, self.moment, 1.0))[:, None]
        parts = [_low_rank((plus + sign * minus) / 2 * scale, 2 * tolerance) for sign in (1.0, -1.0)]
        self.coordinates, self.counts = np.concatenate(parts, 1), (parts[0].shape[1], parts[1].shape[1])
        everything = np.concatenate([self.logs, self.coordinates], 1)
        self.enough = _length(_chebyshev(everything), tolerance / 10) <= max(0.8 * size, 2)


def _power(values: np.ndarray, q: np.ndarray) -> tuple[tuple[int, float, float], np.ndarray]:
    """Return (m, n, a) and c with values = a q^m (1 + q)^(−n) e^c, where m and n keep c small.

    If a value is not positive, a and c are 0.
    """
    if not (values > 0).all():
        return (0, 0.0, 0.0), np.zeros_like(values)
    order = np.argsort(q)
    logs, grid = np.log(values)[order], np.log(q)[order]
    first, last = ((logs[i + 1] - logs[i]) / (grid[i + 1] - grid[i]) for i in (0, -2))
    m = int(np.clip(np.round(first), 0, 8))
    n = round(2 * float(m - last)) / 2 if q.max() > 1 else 0.0
    rest = np.log(values) - m * np.log(q) + n * np.log1p(q)
    middle = (rest.max() + rest.min()) / 2
    return (m, n, float(np.exp(middle))), rest - middle


def _low_rank(rows: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the coordinates of rows in the first singular directions, as many as an error of `tolerance` needs."""
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    scaled = u * s
    left = np.sqrt(np.cumsum(np.square(scaled)[:, ::-1], 1)[:, ::-1])  # [:, k]: errors without columns k, k + 1, …
    rank = int(np.argmax(np.append(left.max(0) <= tolerance, True)))
    return scaled[:, :rank]


def _series(
    slope: Callable, lines: _Lines, tolerance: float, few: bool, activation: Activation
) -> tuple[list[np.ndarray], int]:
    """Return the Chebyshev coefficients in θ of the four F of `ntklib.duals.tables`, and a number of coefficients in y.

    The four are drop even, drop odd, slope even and slope odd. Each array of coefficients is [degrees, size, size]: for
    each degree in θ, the values at all pairs of nodes in y. The number is that of the Chebyshev coefficients in y that
    these values need.
    """
    angles = _angles(slope, lines, tolerance, few)
    while True:
        theta = (_nodes(angles) + 1) * np.pi / 4
        even, odd = _slopes(slope, lines.s, theta, few)  # parts of φ'; the even part of φ has an odd derivative
        slopes = [odd, even]
        scale = 1 / np.sqrt(np.where(lines.slope > 0, lines.slope, 1.0))
        normalized = [a * (scale[:, None] * scale) for a in slopes]
        root = lines.s / np.sqrt(np.where(lines.moment > 0, lines.moment, 1.0))
        eta = (1 / (1 + lines.q)[:, None] + 1 / (1 + lines.q)) / 2
        integral, d = _integral(angles), 2 * np.square(np.sin(theta / 2))[:, None, None]
        drops = [np.tensordot(integral, a, 1) * (root[:, None] * root) * (1 + eta / d) for a in slopes]
        coefficients = [_chebyshev(a) for a in (*drops, *normalized)]
        lengths = [_length(c, tolerance) for c in coefficients]
        if max(lengths) <= 0.9 * angles or angles >= _MOST_ANGLES:
            break
        angles = 2 * angles
    _refuse_jumps(lines, drops, eta, activation)
    kept = [c[:n] for c, n in zip(coefficients, lengths, strict=True)]
    # For a constant φ all four series are empty.
    along = max((_length(_chebyshev(np.moveaxis(c, 1, 0)), tolerance) for c in kept if len(c)), default=1)
    return kept, along


def _angles(slope: Callable, lines: _Lines, tolerance: float, few: bool) -> int:
    """Return a number of angles that is enough for E[φ'φ'] at the smallest and the two largest variances.

    If no number below `_MOST_ANGLES` is enough, return the next number, which is not tried.
    """
    some = np.argsort(lines.s)[[0, -2, -1]]
    angles = 24
    while angles < _MOST_ANGLES:
        theta = (_nodes(angles) + 1) * np.pi / 4
        scale = 1 / np.sqrt(np.where(lines.slope > 0, lines.slope, 1.0))[some]
        slopes = [a * (scale[:, None] * scale) for a in _slopes(slope, lines.s[some], theta, few)]
        if max(_length(_chebyshev(a), tolerance) for a in slopes) <= 0.85 * angles:
            break
        angles = 4 * angles // 3
    return angles


def _slopes(slope: Callable, s: np.ndarray, theta: np.ndarray, few: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return E[g(u) g(v)] for the even part g of φ', and for its odd part, each [angles, size, size].

    The rule is the polar one of `ntklib.duals.integrals`. In each sector v/√q2 takes the values of u/√q1 in reverse
    order, and in the second sector also with the opposite sign. `few` asks for the nodes of float32.
    """
    radial, angular = NODES["float32" if few else "float64"][0 if s.max() <= np.sqrt(MODERATE) else 1]
    rules = [np.polynomial.legendre.leggauss(n) for n in (radial, angular)]
    (r, wr), (places, shares) = crowded(rules[0], rules[1], np.square(s.max()), np)
    found = np.empty((2, len(theta), len(s), len(s)))
    for k, angle in enumerate(theta):
        even = odd = 0.0
        for i, (start, wide) in enumerate(((-(np.pi - angle) / 2, np.pi - angle), ((np.pi - angle) / 2, angle))):
            u = r[:, None] * np.cos(start + places * wide + angle / 2)  # [radial, angular]
            weights = (wr[:, None] * shares * wide).ravel()
            plus, minus = (slope(sign * s[:, None, None] * u) for sign in (1.0, -1.0))
            e, o = (plus + minus) / 2, (plus - minus) / 2
            turned = [a[:, :, ::-1].reshape(len(s), -1) for a in (e, o if i == 0 else -o)]
            e, o = (a.reshape(len(s), -1) for a in (e, o))
            even, odd = even + 2 * (e * weights) @ turned[0].T, odd + 2 * (o * weights) @ turned[1].T
        found[:, k] = even, odd
    return found[0], found[1]


@functools.lru_cache(maxsize=16)
def _integral(angles: int) -> np.ndarray:
    """Return the matrix that maps the values of f at the nodes θ to ∫_0^θ sin θ' f(θ') dθ' at the same nodes."""
    theta = (_nodes(angles) + 1) * np.pi / 4
    x, w = np.polynomial.legendre.leggauss(angles // 2 + 12)
    inner = np.outer(theta, (x + 1) / 2)  # [angles, rule]
    series = np.cos(np.arange(angles) * np.arccos(np.clip(4 * inner / np.pi - 1, -1, 1))[..., None])
    weighted = np.einsum("tg,tgk->tk", np.sin(inner) * theta[:, None] * w / 2, series)
    return weighted @ _chebyshev(np.eye(angles))


def _refuse_jumps(lines: _Lines, drops: list[np.ndarray], eta: np.ndarray, activation: Activation) -> None:
    """Raise ValueError if the drop of the odd part of φ is wrong by 1e-3, as it is if φ has a jump that is not small.

    At θ = π/2 the expectation of the odd part is 0. So from θ = 0 to π/2 it must drop by its value at θ = 0, which is
    the sum of e_r(q1) e_r(q2) over the odd coordinates. The drop is computed as an integral of φ', which misses a jump.
    """
    values = np.polynomial.chebyshev.chebval(1.0, _chebyshev(drops[1])) / (1 + eta)
    odd = lines.coordinates[:, lines.counts[0] :]
    if np.abs(values - odd @ odd.T).max() > 1e-3:
        raise ValueError(
            f"The activation {activation.name!r} jumps, or its slope changes too abruptly. `gram` has no table "
            f"for it, because an integral of its slope is not accurate. Use `net.kernel`. For a sign or a step "
            f"use ntklib.Sign() or ntklib.RectifiedMonomial(0). If the function does not jump at zero, you can also "
            f"give `Elementwise` its `dual`."
        )


def _products(
    series: list[np.ndarray], lines: _Lines, tolerance: float
) -> tuple[tuple[tuple[int, ...], ...], list[np.ndarray], np.ndarray]:
    """Write each matrix of coefficients as a sum of products of a function of q1 and the same function of q2.

    Returns:
        The number of products for each series and degree; the functions at the nodes in y, in the order in which
        `Table` sums them; and the sign of each product.
    """
    ranks: list[list[int]] = [[] for _ in range(4)]
    factors: list[np.ndarray] = []
    signs: list[float] = []
    for k in range(max(map(len, series), default=0)):
        for i, one in enumerate(series):
            if k >= len(one):
                continue
            values, modes = np.linalg.eigh((one[k] + one[k].T) / 2)
            left, rank = one[k].copy(), 0
            for j in np.argsort(-np.abs(values)):
                if np.abs(left).max() <= tolerance / 2:
                    break
                left -= values[j] * np.outer(modes[:, j], modes[:, j])
                factors.append(np.sqrt(np.abs(values[j])) * modes[:, j])
                signs.append(float(np.sign(values[j])))
                rank += 1
            ranks[i].append(rank)
    return tuple(map(tuple, ranks)) if series else ((),) * 4, factors, np.array(signs)
