"""Right and wrong answers to the tasks of chapter 19."""

import math

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.scipy.linalg import cho_solve, solve_triangular
from mutations import Table, cases


def cost(tiles=lambda b: b * (b + 1) // 2, products=2, layers=True, blocks=2, write=True, size=True):
    def answer(N, tile, d, depth, c, itemsize):
        count = tiles(N // tile)
        work = count * tile**2 * (products * d + c * (depth if layers else 1))
        return work, count * (blocks * tile * d + write * tile**2) * (itemsize if size else 1)

    return answer


def cost_by_loops(N, tile, d, depth, c, itemsize):
    operations = moved = 0
    for i in range(0, N, tile):
        for _ in range(i, N, tile):
            operations += tile * tile * d * 2 + tile * tile * depth * c
            moved += itemsize * (tile * d + tile * d + tile * tile)
    return operations, moved


def spans_of(n, tile):
    return [slice(i, min(i + tile, n)) for i in range(0, n, tile)]


def product(entries, N, tile, v):
    out = jnp.zeros_like(v)
    for i, rows in enumerate(spans_of(N, tile)):
        for columns in spans_of(N, tile)[i:]:
            block = entries(rows, columns)
            out = out.at[rows].add(block @ v[columns])
            if columns != rows:
                out = out.at[columns].add(block.T @ v[rows])
    return out


def product_below(entries, N, tile, v):
    """With the tiles below the diagonal, in NumPy, and slices that reach over the end."""
    out = np.zeros(v.shape)
    v = np.asarray(v)
    for i in range(0, N, tile):
        for j in range(0, i + 1, tile):
            block = np.array(entries(slice(i, i + tile), slice(j, j + tile)))
            out[i : i + tile] += block @ v[j : j + tile]
            if j < i:
                out[j : j + tile] += block.T @ v[i : i + tile]
    return out


def both_triangles(entries, N, tile, v):
    parts = []
    for rows in spans_of(N, tile):
        part = 0.0
        for columns in spans_of(N, tile):
            part = part + entries(rows, columns) @ v[columns]
        parts.append(part)
    return jnp.concatenate(parts)


def with_mirror(diagonal=1, mirror=True):
    def answer(entries, N, tile, v):
        out = jnp.zeros_like(v)
        for i, rows in enumerate(spans_of(N, tile)):
            for columns in spans_of(N, tile)[i:]:
                block = entries(rows, columns)
                same = columns == rows
                out = out.at[rows].add((diagonal if same else 1) * (block @ v[columns]))
                if mirror and not same:
                    out = out.at[columns].add(block.T @ v[rows])
        return out

    return answer


def keeps_tiles(entries, N, tile, v):
    spans = spans_of(N, tile)
    held = {(i, j): entries(a, b) for i, a in enumerate(spans) for j, b in enumerate(spans) if j >= i}
    out = jnp.zeros_like(v)
    for (i, j), block in held.items():
        out = out.at[spans[i]].add(block @ v[spans[j]])
        if i != j:
            out = out.at[spans[j]].add(block.T @ v[spans[i]])
    return out


def no_last(entries, N, tile, v):
    out = jnp.zeros_like(v)
    spans = [slice(i * tile, (i + 1) * tile) for i in range(N // tile)]
    for i, rows in enumerate(spans):
        for columns in spans[i:]:
            block = entries(rows, columns)
            out = out.at[rows].add(block @ v[columns])
            if columns != rows:
                out = out.at[columns].add(block.T @ v[rows])
    return out


def whole(entries, N, tile, v):
    return entries(slice(0, N), slice(0, N)) @ v


def no_transpose(entries, N, tile, v):
    out = jnp.zeros_like(v)
    for i, rows in enumerate(spans_of(N, tile)):
        for columns in spans_of(N, tile)[i:]:
            block = entries(rows, columns)
            out = out.at[rows].add(block @ v[columns])
            if columns != rows:
                out = out.at[columns].add(block @ v[rows])
    return out


def woodbury(solve, *, shifted=True, divide=True, sign=-1, both=True):
    def answer(factor, shift):
        small = factor.T @ factor + shifted * shift * jnp.eye(factor.shape[1])
        root = jnp.linalg.cholesky(small)

        def inverse(r):
            inner = solve(root, factor.T @ r)
            if not both:
                return r / shift + sign * factor @ inner
            return (r + sign * factor @ inner) / (shift if divide else 1.0)

        return inverse

    return answer


def twice(root, b):
    return solve_triangular(root.T, solve_triangular(root, b, lower=True), lower=False)


def by_scipy(factor, shift):
    factor = np.asarray(factor, np.float64)
    small = scipy.linalg.cho_factor(factor.T @ factor + shift * np.eye(factor.shape[1]))
    return lambda r: (np.asarray(r) - factor @ scipy.linalg.cho_solve(small, factor.T @ np.asarray(r))) / shift


def by_one_factor(factor, shift):
    """With L⁻¹ Fᵀ, once and for all."""
    root = jnp.linalg.cholesky(factor.T @ factor + shift * jnp.eye(factor.shape[1]))
    half = solve_triangular(root, factor.T, lower=True)
    return lambda r: (r - half.T @ (half @ r)) / shift


def by_singular_values(factor, shift):
    u, s, _ = np.linalg.svd(np.asarray(factor), full_matrices=False)
    return lambda r: (np.asarray(r) - u @ (s**2 / (s**2 + shift) * (u.T @ np.asarray(r)))) / shift


def full_matrix(factor, shift):
    m = factor @ factor.T + shift * jnp.eye(len(factor))
    return lambda r: jnp.linalg.solve(m, r)


def iterations(eigenvalues, tol, *, most=None, sqrt=True, add=True, factor=2.0, zero=1):
    best = math.inf
    for m in range(len(eigenvalues) if most is None else most):
        kappa = float(eigenvalues[-1 - m] / eigenvalues[0])
        root = math.sqrt(kappa) if sqrt else kappa
        rate = (root - 1) / (root + 1)
        more = zero if rate == 0 else math.ceil(math.log(tol / factor) / math.log(rate))
        best = min(best, (m if add else 0) + more)
    return best


def iterations_by_arrays(eigenvalues, tol):
    root = jnp.sqrt(eigenvalues[::-1] / eigenvalues[0])
    rate = (root - 1) / (root + 1)
    more = jnp.where(rate > 0, jnp.ceil(jnp.log(tol / 2) / jnp.log(jnp.where(rate > 0, rate, 0.5))), 1)
    return int(jnp.min(jnp.arange(len(root)) + more))


def one_place_on(eigenvalues, tol):
    """λ_{m+1} as the entry m + 1 of a list that starts at 0."""
    values = np.asarray(eigenvalues, np.float64)[::-1]
    best = len(values)
    for m in range(len(values) - 1):
        root = math.sqrt(values[m + 1] / values[-1])
        rate = (root - 1) / (root + 1)
        best = min(best, m + (1 if rate == 0 else math.ceil(math.log(tol / 2) / math.log(rate))))
    return best


def wrong_end(eigenvalues, tol):
    return iterations(eigenvalues[::-1] * 0 + jnp.flip(1 / eigenvalues) * eigenvalues[0] ** 0.5, tol, most=3)


def over(entries, N, tile, v):
    out = jnp.zeros_like(v)
    for i, rows in enumerate(spans_of(N, tile)):
        for columns in spans_of(N, tile)[i:]:
            block = entries(rows, columns)
            out = out.at[rows].set(block @ v[columns])
            if columns != rows:
                out = out.at[columns].set(block.T @ v[rows])
    return out


def full_in_numpy(factor, shift):
    f = np.asarray(factor)
    inverse = np.linalg.inv(f @ f.T + shift * np.eye(len(f)))
    return lambda r: inverse @ np.asarray(r)


def small_with(add):
    def answer(factor, shift):
        small = jnp.linalg.inv(factor.T @ factor + add(shift) * jnp.eye(factor.shape[1]))
        return lambda r: (r - factor @ (small @ (factor.T @ r))) / shift

    return answer


def no_last_m(eigenvalues, tol):
    best = math.inf
    for m in range(max(len(eigenvalues) - 1, 1)):
        root = math.sqrt(float(eigenvalues[-1 - m] / eigenvalues[0]))
        rate = (root - 1) / (root + 1)
        best = min(best, m + (1 if rate == 0 else math.ceil(math.log(tol / 2) / math.log(rate))))
    return best


def rounded(how, add=0):
    def answer(eigenvalues, tol):
        best = len(eigenvalues)
        for m in range(len(eigenvalues) - 1):
            root = math.sqrt(float(eigenvalues[-1 - m] / eigenvalues[0]))
            rate = (root - 1) / (root + 1)
            best = min(best, m + (1 if rate == 0 else how(math.log(tol / 2) / math.log(rate)) + add))
        return best

    return answer


TABLES = [
    Table(
        "19.1",
        right={
            "counted": cost(),
            "by loops": cost_by_loops,
            "as floats": lambda *a: tuple(map(float, cost()(*a))),
            "an array": lambda *a: np.array(cost()(*a)),
        },
        wrong={
            "whole matrix": (cost(lambda b: b * b), "whole matrix"),
            "no diagonal": (cost(lambda b: b * (b - 1) // 2), "diagonal are missing"),
            "half": (cost(lambda b: b * b / 2), "b(b + 1)/2"),
            "multiplications": (cost(products=1), "an addition for each"),
            "2d − 1": (
                lambda N, t, d, L, c, s: (cost()(N, t, d - 0.5, L, c, s)[0], cost()(N, t, d, L, c, s)[1]),
                "not 2d − 1",
            ),
            "one layer more": (
                lambda N, t, d, L, c, s: (cost()(N, t, d, L + 1, c, s)[0], cost()(N, t, d, L, c, s)[1]),
                "one layer too many",
            ),
            "one block on the diagonal": (
                lambda N, t, d, L, c, s: (cost()(N, t, d, L, c, s)[0], cost()(N, t, d, L, c, s)[1] - N * d * s),
                "does not know where it is",
            ),
            "a ratio": (lambda *a: cost()(*a)[0] / cost()(*a)[1], "tuple of 2"),
            "one layer": (cost(layers=False), "each of the layers"),
            "one tile": (cost(lambda b: 1), "one tile"),
            "numbers": (cost(size=False), "itemsize"),
            "one block": (cost(blocks=1), "two blocks"),
            "not written": (cost(write=False), "have to be written"),
            "inputs once": (
                lambda N, tile, d, depth, c, s: (
                    cost()(N, tile, d, depth, c, s)[0],
                    s * (N * d + (N // tile) * (N // tile + 1) // 2 * tile**2),
                ),
                "read again",
            ),
            "entries": (
                lambda N, t, d, L, c, s: (N * (N + 1) // 2 * (2 * d + c * L), cost()(N, t, d, L, c, s)[1]),
                "leaves out half",
            ),
            "a number a tile": (lambda N, t, *a: (cost()(N, t, *a)[0] / t**2, cost()(N, t, *a)[1]), "tile² is missing"),
            "all written": (
                lambda N, t, d, L, c, s: (
                    cost()(N, t, d, L, c, s)[0],
                    s * ((N // t) * (N // t + 1) * t * d + N * N),
                ),
                "mirror images written",
            ),
            "bytes of all": (
                lambda *a: (cost()(*a)[0], cost(lambda b: b * b)(*a)[1]),
                "bytes is not right: that is the whole",
            ),
            "bytes without diagonal": (
                lambda *a: (cost()(*a)[0], cost(lambda b: b * (b - 1) // 2)(*a)[1]),
                "bytes is not right: the tiles on the diagonal",
            ),
            "swapped": (lambda *a: cost()(*a)[::-1], "swapped"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "operations alone": (lambda *a: cost()(*a)[0], "tuple of 2"),
        },
    ),
    Table(
        "19.2",
        right={
            "above": product,
            "below, NumPy": product_below,
            "smaller blocks": lambda e, n, t, v: product(e, n, max(1, t // 2), v),
            "rows in a list": lambda e, n, t, v: list(np.asarray(product(e, n, t, v))),
        },
        wrong={
            "both triangles": (both_triangles, "more than once"),
            "diagonal twice": (with_mirror(diagonal=2), "no mirror image"),
            "no diagonal": (with_mirror(diagonal=0), "diagonal are missing"),
            "no mirror": (with_mirror(mirror=False), "mirror images are missing"),
            "keeps all": (keeps_tiles, "kept after their use"),
            "no last": (no_last, "left out"),
            "whole": (whole, "larger than a tile"),
            "rows of blocks": (
                lambda e, n, t, v: jnp.concatenate([e(rows, slice(0, n)) @ v for rows in spans_of(n, t)]),
                "larger than a tile",
            ),
            "written over": (over, "overwrites"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "indices": (lambda e, n, t, v: e(0, 1) @ v, "two slices"),
            "transpose forgotten": (no_transpose, "stopped with"),
        },
    ),
    Table(
        "19.3",
        right={
            "two solves": woodbury(twice),
            "cho_solve": woodbury(lambda root, b: cho_solve((root, True), b)),
            "SciPy": by_scipy,
            "one factor": by_one_factor,
            "singular values": by_singular_values,
        },
        wrong={
            "the suspect": (woodbury(lambda root, b: solve_triangular(root, b, lower=True)), "what the suspect says"),
            "transpose alone": (
                woodbury(lambda root, b: solve_triangular(root.T, b, lower=False)),
                "second is missing still",
            ),
            "L twice": (
                woodbury(lambda root, b: solve_triangular(root, solve_triangular(root, b, lower=True), lower=True)),
                "with the transpose",
            ),
            "wrong order": (
                woodbury(lambda root, b: solve_triangular(root, solve_triangular(root.T, b), lower=True)),
                "wrong order",
            ),
            "no shift": (woodbury(twice, shifted=False), "λ is missing"),
            "the factor alone": (lambda f, s: lambda r: f @ woodbury(twice)(f, s)(r)[: f.shape[1]], "is not right"),
            "nothing": (lambda f, s: lambda r: r, "is not right"),
            "not divided": (woodbury(twice, divide=False), "division by λ is missing"),
            "one term divided": (woodbury(twice, both=False), "both terms"),
            "applies M": (lambda f, s: lambda r: f @ (f.T @ r) + s * r, "not its inverse"),
            "sign": (woodbury(twice, sign=1), "sign of the second"),
            "N by N": (full_matrix, "[N, N] is formed"),
            "N by N in NumPy": (full_in_numpy, "[N, N] is formed"),
            "1 for λ": (small_with(lambda s: 1.0), "a 1 on its diagonal"),
            "1/λ for λ": (small_with(lambda s: 1 / s), "has 1/λ"),
            "no return": (lambda f, s: lambda r: None, "is a `return` missing?"),
            "no function": (lambda f, s: f, "return a function"),
        },
    ),
    Table(
        "19.4",
        right={
            "loop": iterations,
            "arrays": iterations_by_arrays,
            "a whole float": lambda e, t: float(rounded(math.ceil)(e, t)),
            "an array": lambda e, t: jnp.array(rounded(math.ceil)(e, t)),
        },
        wrong={
            "textbook": (lambda e, t: iterations(e, t, most=1), "textbook"),
            "no root": (lambda e, t: iterations(e, t, sqrt=False), "√κ, not κ"),
            "outliers are free": (lambda e, t: iterations(e, t, add=False), "iteration of its own"),
            "no factor": (lambda e, t: iterations(e, t, factor=1.0), "factor 2"),
            "N": (lambda e, t: len(e), "has to be chosen"),
            "two outliers at most": (lambda e, t: iterations(e, t, most=3), "too large"),
            "rounded down": (rounded(math.floor), "rounded down"),
            "one place too far": (one_place_on, "one place too far"),
            "descending": (lambda e, t: iterations(np.asarray(e)[::-1], t), "stopped with"),
            "rounded": (rounded(round), "rounded down"),
            "one more": (rounded(math.ceil, 1), "one too many"),
            "half": (lambda e, t: iterations(e, t) // 2, "too small"),
            "inverse": (wrong_end, "too large"),
            "without the last m": (no_last_m, "four iterations are enough"),
            "never one": (lambda e, t: iterations(e, t, zero=2), "one iteration is enough"),
            "a fraction": (lambda e, t: iterations(e, t) + 0.5, "whole number"),
            "nothing": (lambda e, t: None, "return"),
        },
    ),
]
test_answers = cases(TABLES)
