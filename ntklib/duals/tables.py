"""Tables of the dual of any scalar function φ: made once for the variances in use, nearly as fast as a closed form.

Let u and v have the variances q1 and q2 and the correlation ρ, and let cos θ = abs(ρ). At fixed variances the dual is a
smooth function of θ, and therefore a short Chebyshev series in θ. Its coefficients are smooth in the two variances, and
therefore short sums of products of a function of q1 and a function of q2::

    F(θ; q1, q2) = Σ_k T_k(4θ/π − 1) Σ_r ± a_kr(q1) a_kr(q2),   0 ≤ θ ≤ π/2.

Here T_k are the Chebyshev polynomials. In a tile of a kernel matrix, a_kr(q1) is a vector over the rows and a_kr(q2) a
vector over the columns. An entry takes about a hundred multiplications.

There are four such F: a slope and a drop for the even part φ_0 of φ, and a slope and a drop for the odd part φ_1. Let
E_p(θ) = E[φ_p(u) φ_p(±v)] with the sign of ρ, k_1 = E[φ(u)²] and k_2 = E[φ(v)²]. Then::

    slope:  E[φ_p'(u) φ_p'(±v)] / √(E[φ'(u)²] E[φ'(v)²]),
    drop:   (E_p(0) − E_p(θ)) / √(k_1 k_2) · (1 + η/d),   d = 1 − cos θ,   η = ½ (1/(1 + q1) + 1/(1 + q2)).

E_p(0) − E_p(θ) is computed as √(q1 q2) ∫_0^θ sin θ' E[φ_p'(u) φ_p'(±v)] dθ', so nothing cancels as θ → 0. If φ
changes over distances of about 1, this difference grows like d for d < η and more slowly beyond. So does d/(d + η). The
drop is the quotient of the two, divided by √(k_1 k_2). It is therefore smooth and keeps its size as θ → 0, so that a
bound on its absolute error is enough.

For two inputs in one direction, θ = 0, but ρ' may differ from 1 if their variances differ:
1 − ρ' = ½ Σ_r (e_r(q1) − e_r(q2))². Here e_r(q) are the coordinates of the unit vector φ(√q z)/√k in the space of
functions of z ~ N(0, 1), with k = E[φ(√q z)²].

All functions of a variance are Chebyshev series in y = 1 − (1 + √q)^(−1/2), which is 0 at q = 0 and 1 at infinity.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib.duals import arccos
from ntklib.duals.activation import Activation, Parts
from ntklib.duals.correlation import size

#: A table with more products than this uses `Table._long_sums` for matrices, which compiles much faster.
_LONG = 320


class Vectors(NamedTuple):
    """The functions of one variance: E[φ²], E[φ'²], the coordinates e_r, and the factors a_kr.

    The first axis of `coordinates` is r, and the first axis of `factors` all pairs of k and r.
    """

    moment: Array
    slope: Array
    coordinates: Array
    factors: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """The dual of one activation for variances in a range. The docstring of this module has the equations.

    Args:
        low: The lower end of the range of y.
        span: The length of the range of y.
        values: The Chebyshev coefficients in y of all functions of one variance, [degree, columns].
        powers: (m, n, a) for E[φ²] and for E[φ'²]. Each of the two expectations is a q^m (1 + q)^(−n) e^c, and the
            first two columns of `values` give the two c.
        coordinates: The number of coordinates e_r of the even part, and of the odd part.
        ranks: For each of the four series drop even, drop odd, slope even and slope odd: the number of products for
            each degree k.
        signs: The sign of each product.
    """

    low: Any
    span: Any
    values: Any
    powers: tuple[tuple[int, float, float], tuple[int, float, float]] = dataclasses.field(metadata={"static": True})
    coordinates: tuple[int, int] = dataclasses.field(metadata={"static": True})
    ranks: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    signs: Any

    def vectors(self, q: Array) -> Vectors:
        """Return all functions of one variance at the variances q. They are NaN outside the range of the table."""
        y = coordinate(q, jnp)
        x = jnp.clip(2 * (y - self.low) / self.span - 1, -1.0, 1.0)
        series = [jnp.ones_like(x), x]
        while len(series) < self.values.shape[0]:
            series.append(2 * x * series[-1] - series[-2])
        basis = jnp.stack(series[: self.values.shape[0]])
        columns = jnp.einsum("dc,d...->c...", self.values, basis, precision=jax.lax.Precision.HIGHEST)
        slack = 1e-3 * self.span + 1e-6
        known = (y >= self.low - slack) & (y <= self.low + self.span + slack)
        columns = jnp.where(known[None], columns, jnp.nan)
        sizes = [
            scale * jnp.where(q == 0, 1.0 if m == 0 else 0.0, q**m) * (1 + q) ** -n * jnp.exp(columns[i])
            for i, (m, n, scale) in enumerate(self.powers)
        ]
        end = 2 + sum(self.coordinates)
        # Without the barrier XLA would compute these vectors again for each entry of the matrix.
        return Vectors(*jax.lax.optimization_barrier((sizes[0], sizes[1], columns[2:end], columns[end:])))

    def moment(self, q: Array) -> Array:
        """Return E[φ(u)²] for the variance q of u."""
        return self.vectors(q).moment

    def near(self, activation: Activation, delta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
        """Return (E[φ'(u)φ'(v)], δ of φ(u) and φ(v)) from the δ of u and v, as `Activation.near` does."""
        v1, v2 = self.vectors(q1), self.vectors(q2)
        none = jnp.maximum((v1.moment == 0).astype(delta.dtype), (v2.moment == 0).astype(delta.dtype))
        e1, e2 = v1.coordinates, v2.coordinates
        apart = sum(jnp.square(e1[r] - e2[r]) for r in range(len(e1))) / 2
        d = size(delta)
        if activation.parts is not None:
            return activation.parts(d, q1, q2).joined(delta, apart, none)
        theta = arccos.acute(d)[0]
        sums = self._sums(4 / np.pi * theta - 1, v1.factors, v2.factors)
        eta = (1 / (1 + q1) + 1 / (1 + q2)) / 2
        share = d / (d + eta)
        slopes = jnp.sqrt(v1.slope) * jnp.sqrt(v2.slope)
        even = self.coordinates[0]
        start = [
            sum((e1[r] * e2[r] for r in rows), start=jnp.zeros_like(d)) for rows in (range(even), range(even, len(e1)))
        ]
        parts = Parts(
            (share * sums[0], share * sums[1]), (start[0], start[1]), (slopes * sums[2], slopes * sums[3])
        )  # fmt: skip
        return parts.joined(delta, apart, none)

    def _sums(self, x: Array, a: Array, b: Array) -> list[Any]:
        """Return the four series at x = 4θ/π − 1, from the factors a of q1 and b of q2."""
        if sum(map(sum, self.ranks)) > _LONG and x.ndim == 2:
            return self._long_sums(x, a[:, :, 0].T, b[:, 0].T)
        a = a * self.signs.reshape(-1, *(1,) * (a.ndim - 1))
        totals: list[Any] = [0.0] * 4
        place, before, now = 0, jnp.ones_like(x), x
        for k in range(max(map(len, self.ranks))):
            for i, ranks in enumerate(self.ranks):
                products: Any = 0.0
                for _ in range(ranks[k] if k < len(ranks) else 0):
                    products = products + a[place] * b[place]
                    place += 1
                if k < len(ranks) and ranks[k]:
                    totals[i] = totals[i] + before * products
            before, now = now, 2 * x * now - before
        return totals

    def _long_sums(self, x: Array, a: Array, b: Array) -> list[Array]:
        """Return the result of `_sums` by matrix products, for a few rows of x at a time.

        The sums over r are padded with zeros to one length. a is [N, products], and b is [M, products].
        """
        degrees, rank = max(map(len, self.ranks)), max(max(r, default=0) for r in self.ranks)
        index = np.full((4, degrees, rank), a.shape[-1])  # the place of a zero
        place = 0
        for k in range(degrees):
            for i, ranks in enumerate(self.ranks):
                count = ranks[k] if k < len(ranks) else 0
                index[i, k, :count] = place + np.arange(count)
                place += count
        used = [i for i in range(4) if any(self.ranks[i])]
        padded = jnp.concatenate([a * self.signs[None], jnp.zeros_like(a[:, :1])], 1)[:, index[used]]
        right = jnp.concatenate([b, jnp.zeros_like(b[:, :1])], 1)[:, index[used]]
        right = jnp.moveaxis(right, 0, -1)  # [used, degrees, rank, M]
        rows = 8
        filled = -x.shape[0] % rows

        def block(part: tuple[Array, Array]) -> Array:
            here, left = part  # [rows, M], [rows, used, degrees, rank]
            products = jnp.einsum("isdr,sdrj->dsij", left, right, precision=jax.lax.Precision.HIGHEST)

            def step(carry: tuple[Array, Array, Array], term: Array) -> tuple[tuple[Array, Array, Array], None]:
                before, now, total = carry
                return (now, 2 * here * now - before, total + before[None] * term), None

            start = (jnp.ones_like(here), here, jnp.zeros((len(used), *here.shape), here.dtype))
            return jax.lax.scan(step, start, products)[0][2]

        blocks = (
            jnp.pad(x, ((0, filled), (0, 0))).reshape(-1, rows, x.shape[1]),
            jnp.pad(padded, ((0, filled), (0, 0), (0, 0), (0, 0))).reshape(-1, rows, *padded.shape[1:]),
        )
        found = jax.lax.map(block, blocks)  # [blocks, used, rows, M]
        sums = jnp.moveaxis(found, 1, 0).reshape(len(used), -1, x.shape[1])[:, : x.shape[0]]
        return [sums[used.index(i)] if i in used else jnp.zeros_like(x) for i in range(4)]


def coordinate(q: Any, xp: Any) -> Any:
    """Return y = 1 − (1 + s)^(−1/2) with s = √q, computed without cancellation as s/(√(1 + s)(√(1 + s) + 1))."""
    s = xp.sqrt(q)
    root = xp.sqrt(1 + s)
    return s / (root * (root + 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables of several activations."""

    activations: tuple[Activation, ...] = dataclasses.field(metadata={"static": True})
    tables: tuple[Table, ...]

    def of(self, activation: Activation) -> Table | None:
        """Return the table of an activation, or None if there is none."""
        return dict(zip(self.activations, self.tables, strict=True)).get(activation)
