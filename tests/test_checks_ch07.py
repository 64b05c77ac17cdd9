"""Right and wrong answers to the tasks of chapter 07."""

import jax
import jax.numpy as jnp
import numpy as np
from mutations import Table, cases


def recursion(
    *, steps=-1, start=1.0, power=2, bias=2, late=False, old=False, diagonal_slope=False, off_slope=False, held=False,
    through=None, own=1, frozen=False, nngp=False,
):  # fmt: skip
    """`ntk_at_depth` with one step replaced."""

    def answer(dual, w_std, b_std, q, rho, depth):
        same, other = jnp.asarray(q), jnp.asarray(rho * q)
        diagonal, off = start * same, start * other
        for _ in range(depth + steps):
            at = jnp.asarray(q) if frozen else same
            (v1, s1), (v2, s2) = dual(at, at, at), dual(other, at, at)
            new1, new2 = (w_std**power * v + (b_std**bias if bias else 0.0) for v in (v1, v2))
            if held:
                new1 = jnp.asarray(q)
            if late:
                s1, s2 = dual(new1, new1, new1)[1], dual(new2, new1, new1)[1]
            s1, s2 = (s2 if off_slope else s1), (s1 if diagonal_slope else s2)
            add1, add2 = (same, other) if old else (new1, new2)
            factor = w_std ** (power if through is None else through)
            diagonal, off = own * add1 + factor * s1 * diagonal, own * add2 + factor * s2 * off
            same, other = new1, new2
        return (same, other) if nngp else (diagonal, off)

    return answer


def by_matrix(dual, w_std, b_std, q, rho, depth):
    """The 2×2 kernel of both inputs at once."""
    sigma = q * jnp.array([[1.0, rho], [rho, 1.0]])
    theta = sigma
    for _ in range(1, depth):
        d = jnp.diag(sigma)
        values, slopes = dual(sigma, d[:, None], d[None, :])
        sigma = w_std**2 * values + b_std**2
        theta = sigma + w_std**2 * slopes * theta
    return theta[0, 0], theta[0, 1]


def swapped(*args):
    return recursion()(*args)[::-1]


def closed(numerator, denominator):
    """Return y [N, K] -> numerator(λ, N)·mean(y) / denominator(λ, N, ridge)."""

    def answer(y, ratio, ridge=0.0):
        n = y.shape[0]
        return numerator(ratio, n) * y.mean(axis=0) / denominator(ratio, n, ridge)

    return answer


def right_denominator(r, n, g):
    return 1 - r + g + r * n


def sherman_morrison(y, ratio, ridge=0.0):
    n = y.shape[0]
    k = (1 - ratio + ridge) * jnp.eye(n) + ratio * jnp.ones((n, n))
    return ratio * jnp.ones(n) @ jnp.linalg.solve(k, y)


def solve_in_numpy(y, ratio, ridge=0.0):
    n = len(y)
    k = (1 - ratio + ridge) * np.eye(n) + ratio * np.ones((n, n))
    return ratio * np.ones(n) @ np.linalg.solve(k, np.asarray(y))


right_form = closed(lambda r, n: r * n, right_denominator)


def fit_of_the_ratio(depths, ratio, limit):
    d = np.asarray(depths, np.float64)
    return np.linalg.lstsq(np.stack([np.log(d) / d, 1 / d], 1), np.asarray(ratio, np.float64) - limit, rcond=None)[0]


def two_points(i, j):
    def answer(depths, ratio, limit):
        z, log = (ratio - limit) * depths, jnp.log(depths)
        kappa = (z[j] - z[i]) / (log[j] - log[i])
        return kappa, z[i] - kappa * log[i]

    return answer


def fit(depths, ratio, limit):
    return tuple(jnp.polyfit(jnp.log(depths), (ratio - limit) * depths, 1))


def normal_equations(depths, ratio, limit):
    a = jnp.stack([jnp.log(depths), jnp.ones_like(depths)], axis=1)
    return jnp.linalg.solve(a.T @ a, a.T @ ((ratio - limit) * depths))


def through_origin(depths, ratio, limit):
    z, log = (ratio - limit) * depths, jnp.log(depths)
    return (z * log).sum() / (log**2).sum(), 0.0


def through_then_mean(depths, ratio, limit):
    k, _ = through_origin(depths, ratio, limit)
    return k, ((ratio - limit) * depths - k * jnp.log(depths)).mean()


def each_alone(depths, ratio, limit):
    d, terms = ratio - limit, (jnp.log(depths) / depths, 1 / depths)
    return [a @ d / (a @ a) for a in terms]


def log_without_l(depths, ratio, limit):
    a = np.stack([np.log(depths), 1 / np.asarray(depths)], 1)
    return np.linalg.lstsq(a, np.asarray(ratio - limit), rcond=None)[0]


TABLES = [
    Table(
        "07.1",
        right={
            "two pairs": recursion(),
            "matrix": by_matrix,
            "an array": lambda *a: jnp.stack(recursion()(*a)),
            "floats": lambda *a: [float(v) for v in by_matrix(*a)],
        },
        wrong={
            "one layer too many": (recursion(steps=0), "one layer too many"),
            "one layer too few": (recursion(steps=-2), "one layer too few"),
            "from zero": (recursion(start=0.0), "starts at zero"),
            "σ_w once": (recursion(power=1), "σ_w stands there once"),
            "σ_b once": (recursion(bias=1), "σ_b is not squared"),
            "no bias": (recursion(bias=0), "bias is missing"),
            "late slopes": (recursion(late=True), "slopes are taken at the new Σ"),
            "old Σ": (recursion(old=True), "old Σ is added"),
            "χ_1 for all": (recursion(diagonal_slope=True), "slope of (x, x) is used"),
            "χ(c) for all": (recursion(off_slope=True), "slope of (x, x') is used"),
            "q held": (recursion(held=True), "no fixed point"),
            "swapped": (swapped, "swapped"),
            "no σ_w² on slopes": (recursion(through=0), "in front of the slopes"),
            "Σ not added": (recursion(own=0), "is not added"),
            "at least two layers": (
                lambda dual, w, b, q, rho, depth: recursion()(dual, w, b, q, rho, max(depth, 2)),
                "at depth 1",
            ),
            "no return": (lambda *args: None, "is a `return` missing?"),
            "one number": (lambda *args: recursion()(*args)[1], "tuple of 2"),
            "duals at the first q": (recursion(frozen=True), "the q of the start in every layer"),
            "ρ for the covariance": (
                lambda dual, w, b, q, rho, n: (
                    recursion()(dual, w, b, q, rho, n)[0],
                    recursion()(dual, w, b, q, rho / q, n)[1],
                ),
                "the covariance of the first layer is ρq",
            ),
            "Σ": (recursion(nngp=True), "that is Σ of the last layer"),
            "ratio": (
                lambda *a: (recursion()(*a)[0], recursion()(*a)[1] / recursion()(*a)[0]),
                "the second is the ratio",
            ),
        },
    ),
    Table(
        "07.2",
        right={
            "closed form": closed(lambda r, n: r * n, right_denominator),
            "NumPy": lambda t, lam, g=0.0: lam * np.asarray(t).sum(0) / (1 - lam + g + lam * len(t)),
            "a list": lambda y, s, ridge: [s * sum(c) / (1 - s + ridge + s * len(c)) for c in y.T.tolist()],
        },
        wrong={
            "the mean": (closed(lambda r, n: 1.0, lambda r, n, g: 1.0), "mean label"),
            "I for (1 − λ)I": (closed(lambda r, n: r * n, lambda r, n, g: 1 + g + r * n), "(1 − λ)I, not I"),
            "N twice": (closed(lambda r, n: r * n**2, right_denominator), "N is counted twice"),
            "no N": (closed(lambda r, n: r * n, lambda r, n, g: 1 + g), "an N is missing"),
            "mean for sum": (closed(lambda r, n: r, right_denominator), "1ᵀy is a sum"),
            "κ for κλ": (closed(lambda r, n: n, right_denominator), "is λ, not 1"),
            "wrong eigenvalue": (closed(lambda r, n: r * n, lambda r, n, g: 1 - r + g), "on differences"),
            "no ridge": (closed(lambda r, n: r * n, lambda r, n, g: 1 - r + r * n), "ridge does not enter"),
            "N ridges": (closed(lambda r, n: r * n, lambda r, n, g: 1 - r + n * g + r * n), "multiplied by N"),
            "minus ridge": (closed(lambda r, n: r * n, lambda r, n, g: 1 - r - g + r * n), "subtracted"),
            "by a solve": (sherman_morrison, "N × N"),
            "by a solve in NumPy": (solve_in_numpy, "N × N"),
            "few examples alone": (lambda y, s, g=0.0: right_form(y[:100], s, g), "from 900 examples"),
            "no return": (lambda y, ratio, ridge=0.0: None, "is a `return` missing?"),
            "one number": (lambda y, ratio, ridge=0.0: y.mean(), "summed"),
            "ReLU only": (lambda y, ratio, ridge=0.0: y.sum(0) / (len(y) + 3), "the 3 of N + 3"),
            "over the outputs": (lambda y, *a: y.mean(axis=1), "one number for each example"),
            "2 of smooth ones": (lambda y, r, g=0.0: y.sum(0) / (len(y) + 2 + g), "the 2 of N + 2"),
            "one for all outputs": (lambda *a: 0 * right_form(*a) + right_form(*a).mean(), "averaged into one"),
            "λ times the ridge": (
                closed(lambda r, n: r * n, lambda r, n, g: right_denominator(r, n, r * g)),
                "the ridge is multiplied by λ",
            ),
        },
    ),
    Table(
        "07.3",
        right={
            "with the factor L": (61, 48),
            "the exponential alone": (33, np.int64(48)),
            "an array": np.array([60.5, 48]),
        },
        wrong={
            "hidden layers": ((61, 47), "counts hidden layers"),
            "one too deep": ((61, 49), "one too deep"),
            "correlation": ((61, 31), "correlation"),
            "ten per cent": ((61, 27), "ten per cent"),
            "the scale itself": ((7, 48), "ξ itself"),
            "far off": ((480, 48), "more than twice"),
            "too small": ((20, 48), "less than half"),
            "swapped": ((48, 61), "the order is prediction, then measurement"),
            "words": (("about 50", 48), "one number"),
            "one answer": (48, "tuple of 2"),
        },
    ),
    Table(
        "07.4",
        right={
            "polyfit": (4, fit),
            "normal equations": [4, normal_equations],
            "of the ratio": (4.0, fit_of_the_ratio),
        },
        wrong={
            "the end of it": ((5, fit), "further up"),
            "the limit": ((2, fit), "line 2 is right"),
            "not a line": ((6, fit), "1 to 5"),
            "line 1": ((1, fit), "line 1 is right"),
            "line 3": ((3, fit), "line 3 is right"),
            "first and last": ((4, two_points(0, -1)), "two of the depths"),
            "first two": ((4, two_points(0, 1)), "first two depths"),
            "no return": ((4, lambda *a: None), "is a `return` missing?"),
            "swapped": ((4, lambda *a: fit(*a)[::-1]), "swapped"),
            "base 10": (
                (4, lambda d, r, m: tuple(jnp.polyfit(jnp.log10(d), (r - m) * d, 1))),
                "base 10",
            ),
            "base 2": ((4, lambda d, r, m: tuple(jnp.polyfit(jnp.log2(d), (r - m) * d, 1))), "base 2"),
            "not times L": ((4, lambda d, r, m: tuple(jnp.polyfit(jnp.log(d), r - m, 1))), "not multiplied by L"),
            "limit kept": ((4, lambda d, r, m: tuple(jnp.polyfit(jnp.log(d), r * d, 1))), "not subtracted"),
            "through the origin": ((4, through_origin), "through the origin: C/L is missing"),
            "origin, then mean": ((4, through_then_mean), "has no C"),
            "power law": (
                (4, lambda d, r, m: tuple(jnp.polyfit(jnp.log(d), jnp.log(jnp.abs(r - m)), 1))),
                "power law",
            ),
            "depth off by one": (
                (4, lambda d, r, m: tuple(jnp.polyfit(jnp.log(d - 1), (r - m) * (d - 1), 1))),
                "one lower",
            ),
            "C only": ((4, lambda d, r, m: (0.0, ((r - m) * d).mean())), "only C was fitted"),
            "an array too many": ((4, lambda d, r, m: jax.numpy.zeros(3)), "tuple of 2"),
            "log without L": ((4, log_without_l), "here its L is missing"),
            "opposite sign": ((4, lambda d, r, end: fit(d, 2 * end - r, end)), "not limit − ratio"),
            "each alone": ((4, each_alone), "each term was fitted alone"),
        },
    ),
]
test_answers = cases(TABLES)
