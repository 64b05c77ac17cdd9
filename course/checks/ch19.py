"""Checks of chapter 19, scaling up."""

import functools

from course import expect
from course.tasks import task, written


@task(
    "19.1",
    "gram_cost",
    minutes=15,
    difficulty=2,
    section="The infinitely wide network",
    hints=(
        "First one tile: how many entries has it, what does an entry take, what does it read and write? Then count the "
        "tiles on and above the diagonal.",
        "With b = N/tile blocks there are b(b + 1)/2 tiles. A tile has tile² entries of 2d + cL operations; it reads "
        "two blocks of tile × d numbers and writes tile² of them.",
        "tiles = b * (b + 1) // 2; operations = tiles * tile**2 * (2 * d + c * depth); moved = tiles * (2 * tile * d + "
        "tile**2) * itemsize.",
    ),
)
def _(answer, rng):
    itemsize = 8 if rng.random() < 0.5 else 4
    tile, blocks, d, depth, c = (int(rng.integers(*span)) for span in ((5, 9), (3, 6), (11, 20), (2, 5), (30, 50)))

    def cost(tiles, n, products=2, layers=depth):
        moved = tiles * (2 * n * d + n * n)
        return tiles * n * n * (products * d + c * layers), moved

    for b in (blocks, 1):
        n = b * tile
        tiles = b * (b + 1) // 2
        work, moved = cost(tiles, tile)
        pair = expect.call(answer, n, tile, d, depth, c, itemsize)
        got = expect.parts(pair, ("operations", "bytes"), order=(work, moved * itemsize))
        full, strict, half = b * b, b * (b - 1) // 2, b * b / 2
        slips = {
            "that is the whole matrix; the tiles below the diagonal are mirror images.": cost(full, tile)[0],
            "the tiles on the diagonal are missing.": cost(strict, tile)[0],
            "half of all tiles is not the number of those on and above the diagonal: these are b(b + 1)/2.": cost(
                half, tile
            )[0],
            "a scalar product has a multiplication and an addition for each component.": cost(tiles, tile, 1)[0],
            "a multiplication and an addition for each component are 2d, not 2d − 1.": work - tiles * tile**2,
            "the c operations are needed in each of the layers.": cost(tiles, tile, layers=1)[0],
            "that is one layer too many: the c operations are those of a hidden layer, `depth` of them.": cost(
                tiles, tile, layers=depth + 1
            )[0],
            "that is one tile.": cost(1, tile)[0],
            "a tile has tile² entries; N(N + 1)/2 leaves out half of each tile on the diagonal.": n
            * (n + 1)
            / 2
            * (2 * d + c * depth),
            "tile² is missing: each tile has so many entries.": work / tile**2,
        }
        expect.number(got[0], work, "the number of operations", rtol=1e-6, slips=slips if b > 1 else None)
        moved *= itemsize
        slips = {
            "these are numbers; each has `itemsize` bytes.": moved / itemsize,
            "that is the whole matrix; the tiles below the diagonal are mirror images.": cost(full, tile)[1] * itemsize,
            "the tiles on the diagonal are missing.": cost(strict, tile)[1] * itemsize,
            "a tile reads two blocks of inputs, one for its rows and one for its columns.": tiles
            * (tile * d + tile**2)
            * itemsize,
            "a tile on the diagonal reads two blocks as well: its function does not know where it is.": moved
            - b * tile * d * itemsize,
            "the entries of a tile have to be written, too.": tiles * 2 * tile * d * itemsize,
            "each block of inputs is read again for every tile that it is part of.": (n * d + tiles * tile**2)
            * itemsize,
            "that is with the mirror images written; the task counts what is computed.": (tiles * 2 * tile * d + n * n)
            * itemsize,
        }
        expect.number(got[1], moved, "the number of bytes", rtol=1e-6, slips=slips if b > 1 else None)


@task(
    "19.2",
    "tiled_product",
    minutes=20,
    difficulty=3,
    section="Solving without the matrix: conjugate gradients",
    hints=(
        "Block row i of the result is a sum over block columns j. A block (i, j) above the diagonal has something to "
        "say about two block rows of the result: which, and with which part of v?",
        "out[i] += B v[j] and, where i ≠ j, out[j] += Bᵀ v[i], for j ≥ i. The last slice ends at N.",
        "for i, rows in enumerate(spans): for columns in spans[i:]: block = entries(rows, columns); out = "
        "out.at[rows].add(block @ v[columns]); and if columns != rows: out = out.at[columns].add(block.T @ v[rows]).",
    ),
)
def _(answer, rng):
    import gc
    import weakref

    import jax.numpy as jnp
    import numpy as np

    for n, tile in ((11, 4), (8, 4), (3, 5)):
        k = 3
        root = rng.normal(size=(n, n + 2))
        theta, v = root @ root.T, rng.normal(size=(n, k))
        asked, alive, most = [], [], 0

        def entries(rows, columns, n=n, tile=tile, theta=theta, asked=asked, alive=alive):
            nonlocal most
            for part in (rows, columns):
                expect.that(
                    isinstance(part, slice), "`entries` takes two slices, e.g. entries(slice(0, 4), slice(4, 8))."
                )
            (a, b, _), (c, d, _) = rows.indices(n), columns.indices(n)
            expect.that(
                b - a <= tile and d - c <= tile,
                "a block larger than a tile was asked for; there is memory for tile × tile entries.",
            )
            asked.append((a, b, c, d))
            if len(asked) > 3 and sum(ref() is not None for ref in alive) > 2:
                gc.collect()
            block = jnp.asarray(theta[a:b, c:d])
            alive.append(weakref.ref(block))
            most = max(most, sum(ref() is not None for ref in alive))
            return block

        gc.freeze()  # a collection then looks at what the answer makes, not at all that is loaded
        try:
            got = expect.array(expect.call(answer, entries, n, tile, v), shape=(n, k), axes="N K")
        finally:
            gc.unfreeze()
        cuts = range(0, n, tile)
        diagonal = np.zeros_like(v)
        for i in cuts:
            part = slice(i, min(i + tile, n))
            diagonal[part] = theta[part, part] @ v[part]
        upper = np.zeros_like(v)
        for i in cuts:
            upper[i : i + tile] = theta[i : i + tile, i:] @ v[i:]
        short = np.zeros_like(v)
        whole = n // tile * tile
        short[:whole] = theta[:whole, :whole] @ v[:whole]
        written_over = np.zeros_like(v)
        for i in cuts:
            for j in range(i, n, tile):
                rows, columns = slice(i, min(i + tile, n)), slice(j, min(j + tile, n))
                written_over[rows] = theta[rows, columns] @ v[columns]
                if j > i:
                    written_over[columns] = theta[columns, rows] @ v[rows]
        slips = {
            "a tile on the diagonal has no mirror image, and was used twice.": theta @ v + diagonal,
            "the tiles on the diagonal are missing.": theta @ v - diagonal,
            "the mirror images are missing: a tile above the diagonal belongs to two block rows of the result.": upper,
            "a tile overwrites what others have put there; add to it.": written_over,
        }
        if n % tile:
            slips["the last block, smaller than a tile, is left out."] = short
        expect.close(got, theta @ v, f"Θ v for N = {n} and tiles of {tile}", rtol=1e-3, slips=slips if n > tile else {})
        pairs = [frozenset([(a, b), (c, d)]) for a, b, c, d in asked]
        covered = sum((b - a) * (d - c) * (1 if (a, b) == (c, d) else 2) for a, b, c, d in asked)
        expect.that(
            len(set(pairs)) == len(pairs) and covered == n * n,
            "the result is right, but some pair of blocks was computed more than once: Θ(j, i) is the transpose of "
            "Θ(i, j). The kernel is what costs.",
        )
        expect.that(
            most <= 3 or len(asked) <= 3,
            "the result is right, but tiles are kept after their use: together they are the matrix that does not fit.",
        )


@task(
    "19.3",
    "corrected_preconditioner",
    minutes=15,
    difficulty=3,
    section="Solving without the matrix: conjugate gradients",
    hints=(
        "M is symmetric and positive, and so is its inverse. Compare u · inverse(v) with v · inverse(u).",
        "The r × r matrix is L Lᵀ. Its inverse is L⁻ᵀ L⁻¹: how many triangular solves is that?",
        "After the first solve: inner = solve_triangular(root.T, inner, lower=False). The rest stays.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, rank = expect.one_of(rng, (40, 3), (30, 5))
    # FᵀF of the size of λ, so that λ matters in it, and columns that share a part: the order of the solves shows.
    factor, r = 0.2 * rng.normal(size=(n, rank)) @ np.tri(rank), rng.normal(size=n)
    shift = float(rng.uniform(0.4, 0.7))
    small = factor.T @ factor
    inverse = expect.call(answer, factor, shift)
    if not callable(inverse):
        expect.fail("it should return a function of r, as the suspect does.")
    got = expect.array(expect.call(inverse, r), "what the returned function gives", shape=(n,), axes="N")
    regular = small + shift * np.eye(rank)
    root = np.linalg.cholesky(regular)

    def without(inner):
        return (r - factor @ inner) / shift

    right = np.linalg.solve(regular, factor.T @ r)
    want = without(right)
    expect.close(
        got,
        want,
        "M⁻¹ r",
        rtol=2e-3,
        slips={
            "that is what the suspect says.": without(np.linalg.solve(root, factor.T @ r)),
            "the first solve is with Lᵀ now, and the second is missing still.": without(
                np.linalg.solve(root.T, factor.T @ r)
            ),
            "L⁻¹ L⁻¹ is not the inverse of L Lᵀ: the second triangular solve is with the transpose.": without(
                np.linalg.solve(root, np.linalg.solve(root, factor.T @ r))
            ),
            "the two solves are in the wrong order: (L Lᵀ)⁻¹ = L⁻ᵀ L⁻¹, so L comes first.": without(
                np.linalg.solve(root, np.linalg.solve(root.T, factor.T @ r))
            ),
            "λ is missing in the small matrix.": without(np.linalg.solve(small, factor.T @ r)),
            "the small matrix has a 1 on its diagonal where λ belongs.": without(
                np.linalg.solve(small + np.eye(rank), factor.T @ r)
            ),
            "the small matrix has 1/λ on its diagonal where λ belongs.": without(
                np.linalg.solve(small + np.eye(rank) / shift, factor.T @ r)
            ),
            "the division by λ is missing; it was right before.": shift * want,
            "the division by λ belongs to both terms: (r − F …)/λ.": r / shift - factor @ right,
            "that applies M, not its inverse.": factor @ (factor.T @ r) + shift * r,
            "the sign of the second term is wrong: M is larger than λ, its inverse smaller than 1/λ.": (
                r + factor @ right
            )
            / shift,
        },
    )
    many = 800
    large, r = rng.normal(size=(many, rank)), rng.normal(size=many)
    expect.that(
        expect.largest(lambda factor, r: answer(factor, shift)(r), large, r) < many * many / 2,
        "the numbers are right, but an array [N, N] is formed on the way: at N = 10⁶ that is what we cannot have.",
    )


@functools.cache
def _spectrum(seed):
    """A spectrum and a tolerance, the number of iterations, and that of each slip. It takes many draws."""
    import math

    import numpy as np

    def needed(values, tol, most=None, *, sqrt=True, add=True, factor=2.0, whole=math.ceil):
        return min(bounds(values, tol, most, sqrt=sqrt, add=add, factor=factor, whole=whole))

    def bounds(values, tol, most=None, *, sqrt=True, add=True, factor=2.0, whole=math.ceil):
        out = []
        for m in range(len(values) if most is None else most):
            kappa = values[-1 - m] / values[0]
            root = math.sqrt(kappa) if sqrt else kappa
            rate = (root - 1) / (root + 1)
            more = 1 if rate < 1e-6 else whole(math.log(tol / factor) / math.log(rate))
            out.append(more + (m if add else 0))
        return out

    def other(values, tol):
        return {
            "that is the textbook bound, m = 0: the outliers are not used.": needed(values, tol, 1),
            "√κ, not κ.": needed(values, tol, sqrt=False),
            "each outlier costs an iteration of its own: k − m stands in the exponent.": needed(values, tol, add=False),
            "the factor 2 in front of the bound is missing.": needed(values, tol, factor=1.0),
            "that is the smallest ratio: m has to be chosen, and the best is in between.": len(values),
            # With κ_m one place too far the best m is one less, and so is the number.
            "that is one too few. It is rounded down, so that the bound is not reached yet, or λ is taken one place "
            "too far: for m = 0 it is the largest of all.": needed(values, tol, whole=math.floor),
            "that is one too many: the smallest k is asked for.": needed(values, tol) + 1,
        }

    rng = np.random.default_rng(seed)
    # A spectrum on which each slip gives a number of its own, and no logarithm is near a whole number.
    while True:
        bulk = np.exp(rng.uniform(0, math.log(60), size=40))
        outliers = 60 * np.exp(rng.uniform(2, 5, size=6))
        values = np.sort(np.concatenate([bulk, outliers])).astype(np.float32).astype(np.float64)
        tol = float(10 ** rng.uniform(-6, -4))
        raw = np.array(bounds(values, tol, whole=float))
        close = raw[raw < raw.min() + 3]
        far = 0.1 < raw.min() % 1 < 0.4 and np.abs(close - np.round(close)).min() > 0.02
        want, wrong = needed(values, tol), other(values, tol)
        if far and len({want, *wrong.values()}) == len(wrong) + 1:
            return values, tol, want, wrong


@task(
    "19.4",
    "iterations_needed",
    minutes=20,
    difficulty=3,
    section="Solving without the matrix: conjugate gradients",
    hints=(
        "For a fixed m solve the bound for k. Then take the smallest over m. More outliers cost one iteration each and "
        "make κ smaller.",
        "k = m + log(tol/2)/log((√κ_m − 1)/(√κ_m + 1)), rounded up, and κ_m = eigenvalues[-1 - m]/eigenvalues[0]. "
        "Where κ_m = 1 the base is zero: one more iteration is enough.",
        "for m in range(N): root = sqrt(eigenvalues[-1 - m] / eigenvalues[0]); rate = (root - 1) / (root + 1); more "
        "= 1 if rate == 0 else ceil(log(tol / 2) / log(rate)); best = min(best, m + more).",
    ),
)
def _(answer, rng):
    import numpy as np

    def whole(values, tol, what):
        with expect.without("cg_solve"):
            value = expect.call(answer, values.astype(np.float32), tol)
        return expect.whole(value, what)

    values, tol, want, wrong = _spectrum(int(rng.integers(2**32)))
    got = whole(values, tol, "the number")
    for message, value in wrong.items():
        expect.that(got != value, f"the number is not right: {message}")
    expect.that(got >= want, "the number is too small. Are the eigenvalues taken in ascending order?")
    expect.that(got <= want, "the number is too large. Are all m tried, and the eigenvalues in ascending order?")
    few = np.full(9, 3.0)
    expect.that(
        whole(few, tol, "the number for a multiple of the identity") == 1,
        "for a multiple of the identity one iteration is enough.",
    )
    spread = np.array([1.0, 1e2, 1e4, 1e6])
    expect.that(
        whole(spread, 1e-6, "the number for four eigenvalues") == 4,
        "with four eigenvalues, however far apart, four iterations are enough: one root of the polynomial on each.",
    )


written(
    "19.5",
    "which wall first",
    rubric=(
        "memory in numbers: 160 GB in float32, 80 GB in half, and that tiles made anew need neither;",
        "the time of a pass in numbers (about 43 s on ten cores) and how many passes labels need;",
        "the precision: entries in float32, vectors in float64, a residual of 10⁻².",
    ),
    numbers=("160", "149", "80", "75", "43"),
    asked="how large is the matrix in GB, or how many seconds does a pass take on ten cores?",
    minutes=10,
    difficulty=2,
    section="A million examples, on paper",
    hints=(
        "Bytes of the matrix first, of half of its tiles next. Then: what does a pass over all pairs take?",
        "N²/2 pairs, (2d/10¹¹ + 3 · 2 ns) each, on ten cores. Times the iterations that labels need.",
        "160 GB, 80 GB in half; 43 s a pass on ten cores; 20 to 50 passes to a residual of 10⁻². What does keeping "
        "part of the tiles save?",
    ),
)

written(
    "19.6",
    "a better shift",
    rubric=(
        "μ = λ + tr R/N, with the argument by the mean of R's eigenvalues;",
        "iterations for several ranks and ridges, beside those with μ = λ;",
        "when μ = λ is good enough.",
    ),
    minutes=40,
    difficulty=4,
    section="Solving without the matrix: conjugate gradients",
    hints=(
        "What F leaves, R = Θ − F Fᵀ, has a trace that you know. What does the trace say about its eigenvalues?",
        "μ = λ + tr R/N. The diagonal of R is np.diag(theta) - (F**2).sum(1).",
        "left = (np.diag(theta) - (F**2).sum(1)).mean(); M = F @ F.T + (lam + left) * np.eye(N); compare with μ = λ, "
        "and look at scipy.linalg.eigh(A, M, eigvals_only=True).",
    ),
)
