"""Right and wrong answers to the tasks of chapter 11."""

import jax.numpy as jnp
import numpy as np
from mutations import Table, cases

LATER = float(np.log(64) / (2 * np.log(1.5)))


def one_step(f, lam, x, y, width, rate):
    r = f - y
    a2 = (rate * r * x) ** 2 / width
    return (1 + a2) * f - rate * lam * r, (1 + a2) * lam - 4 * rate * r * f * x**2 / width


def by_two_vectors(f, lam, x, y, width, rate):
    """Two units that have this f and λ."""
    inner, squares = f * width**0.5 / x, lam * width / x**2
    plus, minus = (squares + 2 * inner) ** 0.5, (squares - 2 * inner) ** 0.5
    u, v = jnp.array([plus + minus, 0.0]) / 2, jnp.array([plus - minus, 0.0]) / 2
    a = rate * (f - y) * x / width**0.5
    u, v = u - a * v, v - a * u
    return u @ v * x / width**0.5, x**2 * (u @ u + v @ v) / width


def with_f(form):
    """A wrong f' and the right λ'."""
    return lambda f, lam, x, y, n, rate: (form(f, lam, x, f - y, n, rate), one_step(f, lam, x, y, n, rate)[1])


def with_lam(form):
    return lambda f, lam, x, y, n, rate: (one_step(f, lam, x, y, n, rate)[0], form(f, lam, x, f - y, n, rate))


def squared(x, r, n, rate):
    return (rate * r * x) ** 2 / n


def rest(factor=lambda lam, depth, t: jnp.exp(-2 * (depth - 1) * lam * t), ridge=lambda n, depth, lam: n * depth * lam):
    def moving_rest(theta0, y, strength, depth, t):
        now = factor(strength, depth, t) * theta0
        return now @ jnp.linalg.solve(now + ridge(len(y), depth, strength) * jnp.eye(len(y)), y)

    return moving_rest


def by_spectrum(theta0, y, strength, depth, t):
    lam, u = np.linalg.eigh(np.asarray(theta0, np.float64))
    lam = lam * np.exp(-2 * (depth - 1) * strength * t)
    return (u * (lam / (lam + len(lam) * depth * strength))) @ (u.T @ np.asarray(y, np.float64))


def coefficients(theta0, y, strength, depth, t):
    now = jnp.exp(-2 * (depth - 1) * strength * t) * theta0
    return jnp.linalg.solve(now + len(y) * depth * strength * jnp.eye(len(y)), y)


def later(form):
    """`form` of log α/α0, log n/n0 and c."""
    return lambda alpha, n, alpha_0, n_0, c: form(jnp.log(alpha / alpha_0), jnp.log(n / n_0), c)


def by_places(alpha, width, alpha_0, width_0, c):
    def place(alpha, n):
        return np.log10(c / (alpha * np.sqrt(n)))

    return float((place(alpha_0, width_0) - place(alpha, width)) / np.log10(2 * c - 1))


def kernel(
    factor=lambda s, k: (jnp.prod(s) / s) ** (2 * k + 1), decay=jnp.prod, mean=len, change=lambda strengths: strengths
):
    def shrinking_kernel(parts, f0, y, strengths, rate, steps):
        s = 1 - rate * change(jnp.asarray(strengths))
        f = jnp.asarray(f0)
        for k in range(steps):
            now = jnp.einsum("l,lij->ij", factor(s, k) * jnp.ones(len(s)), jnp.asarray(parts))
            f = decay(s) * f - rate / mean(f0) * now @ (f - y)
        return f

    return shrinking_kernel


def layer_by_layer(parts, f0, y, strengths, rate, steps):
    """Keeps the parts, and shrinks them after each step."""
    parts, f, s = [np.asarray(p, float) for p in parts], np.asarray(f0, float), 1 - rate * np.asarray(strengths)
    for _ in range(steps):
        r, f = f - np.asarray(y), f * np.prod(s)
        for layer in range(len(s)):
            others = np.prod(np.delete(s, layer))
            f = f - rate / len(f) * others * parts[layer] @ r
            parts[layer] = parts[layer] * others**2
    return f


def decayed_first(parts, f0, y, strengths, rate, steps):
    s, f = 1 - rate * jnp.asarray(strengths), jnp.asarray(f0)
    for k in range(steps):
        f = jnp.prod(s) * f
        f = f - rate / len(f0) * jnp.einsum("l,lij->ij", (jnp.prod(s) / s) ** (2 * k + 1), parts) @ (f - y)
    return f


def mean_strength(strengths):
    return jnp.full_like(strengths, strengths.mean())


TABLES = [
    Table(
        "11.1",
        right={"numbers": (LATER, 0.0), "one decimal": [5.1, 0], "an array": jnp.array([LATER, 0.0])},
        wrong={
            "n for √n": ((2 * LATER, 0), "not to n"),
            "c": ((float(np.log(64) / (2 * np.log(1.25))), 0), "2c − 1, not c"),
            "2c": ((float(np.log(64) / (2 * np.log(2.5))), 0), "2c − 1, not 2c"),
            "sooner": ((-LATER, 0), "not sooner"),
            "log 2": ((3.0, 0), "base 2"),
            "no move": ((0, 0), "further to go"),
            "f0 alone": ((LATER, -float(np.log(4) / np.log(1.5))), "x counts once more"),
            "η alone": ((LATER, float(np.log(16) / np.log(1.5))), "4 times larger each"),
            "x forgotten": ((LATER, float(np.log(4) / np.log(1.5))), "grow by 16 together"),
            "far off": ((LATER, 1.0), "off by more"),
            "something": ((4.0, 0), "off by more"),
            "one number": (LATER, "tuple of 2"),
            "words": (("five", 0), "one number"),
        },
    ),
    Table(
        "11.2",
        right={"formula": one_step, "two vectors": by_two_vectors, "a list": lambda *of: list(one_step(*of))},
        wrong={
            "y = 0": (
                with_f(lambda f, lam, x, r, n, rate: f * (1 - rate * lam) + squared(x, f, n, rate) * f),
                "recursion for y = 0: two",
            ),
            "first order": (with_f(lambda f, lam, x, r, n, rate: f - rate * lam * r), "makes the loss turn"),
            "r³": (
                with_f(lambda f, lam, x, r, n, rate: f - rate * lam * r + squared(x, r, n, rate) * r),
                "the residual twice",
            ),
            "no x": (with_f(lambda f, lam, x, r, n, rate: f - rate * lam * r + squared(1, r, n, rate) * f), "the x²"),
            "no n": (with_f(lambda f, lam, x, r, n, rate: f - rate * lam * r + squared(x, r, 1, rate) * f), "the 1/n"),
            "uphill": (
                with_f(lambda f, lam, x, r, n, rate: f + rate * lam * r + squared(x, r, n, rate) * f),
                "goes down",
            ),
            "residual": (
                lambda f, lam, x, y, n, rate: (one_step(f, lam, x, y, n, rate)[0] - y, lam),
                "the residual f' − y",
            ),
            "λ of y = 0": (
                with_lam(lambda f, lam, x, r, n, rate: lam + rate * (f * x) ** 2 / n * (rate * lam - 4)),
                "recursion for y = 0: here",
            ),
            "λ of r": (
                with_lam(lambda f, lam, x, r, n, rate: lam + rate * (r * x) ** 2 / n * (rate * lam - 4)),
                "one factor is the residual",
            ),
            "2 for 4": (
                with_lam(
                    lambda f, lam, x, r, n, rate: (1 + squared(x, r, n, rate)) * lam - 2 * rate * r * f * x**2 / n
                ),
                "the sum has 4",
            ),
            "λ of first order": (
                with_lam(lambda f, lam, x, r, n, rate: lam - 4 * rate * r * f * x**2 / n),
                "second order is missing",
            ),
            "x in neither": (
                with_lam(lambda f, lam, x, r, n, rate: lam + rate * r / n * (rate * lam * r - 4 * f)),
                "both terms of the change",
            ),
            "λ without x": (
                with_lam(lambda f, lam, x, r, n, rate: (1 + squared(x, r, n, rate)) * lam - 4 * rate * r * f / n),
                "λ has x²",
            ),
            "swapped": (lambda *of: one_step(*of)[::-1], "swapped"),
            "f alone": (lambda *of: one_step(*of)[0], "tuple of 2"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "11.3",
        right={"solve": (3, rest()), "spectrum": [3.0, by_spectrum], "NumPy": (np.int64(3), by_spectrum)},
        wrong={
            "line 1": ((1, rest()), "line 1 is right"),
            "line 2": ((2, rest()), "line 2 is right"),
            "line 4": ((4, rest()), "follows from line 3"),
            "line 5": ((5, rest()), "follows from line 4"),
            "no line": ((6, rest()), "1 to 5"),
            "as it stands": ((3, rest(lambda *of: 1.0, lambda n, depth, lam: n * lam)), "line 5 as it stands"),
            "constant": ((3, rest(lambda *of: 1.0)), "has shrunk by the time"),
            "not mended": ((3, rest(ridge=lambda n, depth, lam: n * lam)), "line 3 is not mended"),
            "no N": ((3, rest(ridge=lambda n, depth, lam: depth * lam)), "the loss is a mean"),
            "no 2": ((3, rest(lambda lam, depth, t: jnp.exp(-(depth - 1) * lam * t))), "the exponent has a 2"),
            "L": ((3, rest(lambda lam, depth, t: jnp.exp(-2 * depth * lam * t))), "is no factor of its derivative"),
            "two layers": ((3, rest(lambda lam, depth, t: jnp.exp(-2 * lam * t))), "2(L − 1) factors"),
            "L − 1": ((3, rest(ridge=lambda n, depth, lam: n * (depth - 1) * lam)), "belongs to the linearized"),
            "in front": ((3, lambda th, y, s, d, t: th @ coefficients(th, y, s, d, t)), "in front has shrunk"),
            "residual": ((3, lambda th, y, *of: rest()(th, y, *of) - y), "residual f − y at this point"),
            "coefficients": ((3, coefficients), "those are the coefficients"),
            "transposed": ((3, lambda *of: rest()(*of).T), "shape"),
            "no return": ((3, lambda *of: None), "is a `return` missing?"),
            "the line alone": (3, "tuple of 2"),
        },
    ),
    Table(
        "11.4",
        right={
            "formula": later(lambda a, w, c: (a + w / 2) / jnp.log(2 * c - 1)),
            "two places": by_places,
            "NumPy": lambda alpha, n, alpha_0, n_0, c: np.log((alpha / alpha_0) ** 2 * n / n_0) / np.log(2 * c - 1) / 2,
        },
        wrong={
            "no α": (later(lambda a, w, c: w / 2 / jnp.log(2 * c - 1)), "α is not in it"),
            "no n": (later(lambda a, w, c: a / jnp.log(2 * c - 1)), "n is not in it"),
            "n": (later(lambda a, w, c: (a + w) / jnp.log(2 * c - 1)), "not α n"),
            "α²": (later(lambda a, w, c: (2 * a + w / 2) / jnp.log(2 * c - 1)), "once too often"),
            "root of both": (later(lambda a, w, c: (a + w) / 2 / jnp.log(2 * c - 1)), "not over both"),
            "α sooner": (later(lambda a, w, c: (w / 2 - a) / jnp.log(2 * c - 1)), "delays the peak"),
            "c": (later(lambda a, w, c: (a + w / 2) / jnp.log(c)), "2c − 1, not c"),
            "2c": (later(lambda a, w, c: (a + w / 2) / jnp.log(2 * c)), "2c − 1, not 2c"),
            "sooner": (later(lambda a, w, c: -(a + w / 2) / jnp.log(2 * c - 1)), "later is positive"),
            "rounded": (later(lambda a, w, c: round(float((a + w / 2) / jnp.log(2 * c - 1)))), "to be rounded"),
            "log10": (later(lambda a, w, c: (a + w / 2) / jnp.log(10) / jnp.log(2 * c - 1)), "base 10"),
            "loss": (later(lambda a, w, c: (a + w / 2) / jnp.log(2 * c - 1) / 2), "count one of them"),
            "something": (lambda *of: 1.0, "off by"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "11.5",
        right={"products": kernel(), "layer by layer": layer_by_layer},
        wrong={
            "constant": (kernel(lambda s, k: 1.0), "does not shrink"),
            "own layer": (kernel(lambda s, k: s ** (2 * k + 1)), "not with its own"),
            "all layers": (kernel(lambda s, k: jnp.prod(s) ** (2 * k + 1)), "not among them"),
            "one Jacobian": (kernel(lambda s, k: (jnp.prod(s) / s) ** k), "the exponent has a 2"),
            "2k": (kernel(lambda s, k: (jnp.prod(s) / s) ** (2 * k)), "one more factor than 2k"),
            "2k + 2": (kernel(lambda s, k: (jnp.prod(s) / s) ** (2 * k + 2)), "not 2k + 2"),
            "one factor": (kernel(decay=jnp.mean), "one factor for each layer"),
            "not forgotten": (kernel(decay=lambda s: 1.0), "f0 is not forgotten"),
            "no 1/N": (kernel(mean=lambda f: 1), "the 1/N of the loss"),
            "late residual": (decayed_first, "before they are multiplied"),
            "mean strength": (kernel(change=mean_strength), "not one strength for all"),
            "transposed": (lambda *of: kernel()(*of).T, "shape"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
]
test_answers = cases(TABLES)  # written questions need no table
