"""Right and wrong answers to the tasks of chapter 15."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from mutations import Table, cases


def variances(Q, n, w_std, number=4, power=4, places=2, channels=1):
    Q = np.asarray(Q, float)
    unit = number * w_std**power / Q.shape[1] ** places / n**channels
    return unit * (Q**2).sum((1, 2)), unit * np.einsum("npp->n", Q**2)


def by_spectrum(Q, n, w_std):
    """Var of a form z'z and of a'Qa: twice the sum of the squared eigenvalues, each."""
    P = Q.shape[1]
    lam = jnp.linalg.eigvalsh(jnp.asarray(Q))
    diagonal = jnp.diagonal(jnp.asarray(Q), axis1=1, axis2=2)
    return tuple(2 * 2 * (a**2).sum(1) * w_std**4 / (P**2 * n) for a in (lam, diagonal))


def with_variances(**how):
    return lambda Q, n, w: variances(Q, n, w, **how)


def not_squared(Q, n, w):
    unit = 4 * w**4 / Q.shape[1] ** 2 / n
    return unit * Q.sum((1, 2)), unit * jnp.einsum("npp->n", jnp.asarray(Q))


def ratio(Q, both=lambda angle: (np.pi - angle) / (2 * np.pi)):
    Q = np.asarray(Q, float)
    q = np.einsum("npp->np", Q)
    angle = np.arccos(np.clip(Q / np.sqrt(q[:, :, None] * q[:, None, :]), -1, 1))
    return (both(angle) * Q).sum((1, 2)) / (q.sum(1) / 2)


def ratio_by_arcsin(Q):
    """P(both positive) = 1/4 + arcsin(ρ)/2π."""
    d = jnp.sqrt(jnp.diagonal(jnp.asarray(Q), axis1=1, axis2=2))
    rho = jnp.clip(Q / d[:, :, None] / d[:, None, :], -1, 1)
    return jnp.stack(
        [((0.25 + jnp.arcsin(r) / (2 * jnp.pi)) * c).sum() / (jnp.trace(c) / 2) for r, c in zip(rho, Q, strict=True)]
    )


def of_readout(Q):
    q = np.einsum("npp->np", Q)
    scale = np.sqrt(q[:, :, None] * q[:, None, :])
    angle = np.arccos(np.clip(Q / scale, -1, 1))
    dual = scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return dual.sum((1, 2)) / (q.sum(1) / 2)


def without_q(Q):
    q = np.einsum("npp->np", Q)
    angle = np.arccos(np.clip(Q / np.sqrt(q[:, :, None] * q[:, None, :]), -1, 1))
    return ((np.pi - angle) / (2 * np.pi)).sum((1, 2)) / (Q.shape[1] / 2)


def blocks_of(products, m1, m2, b):
    N, M, H, W = products.shape[:4]
    shape = (N, M, H // b, b, W // b, b, H // b, b, W // b, b)
    return jnp.einsum("nmhiwjhkwl->nm", jnp.asarray(products).reshape(shape)) / (b**2 * H * W)


def product_of_means(m1, m2):
    return jnp.asarray(m1)[:, None, :, :, None, None] * jnp.asarray(m2)[None, :, None, None]


def blocked(products, m1, m2, b):
    means = product_of_means(m1, m2)
    H, W = products.shape[2:4]
    equal = jnp.einsum("nmhwhw->nm", products - means) / (b**2 * H * W)
    return blocks_of(products, m1, m2, b), blocks_of(means, m1, m2, b) + equal


def by_loops(products, m1, m2, b):
    products, m1, m2 = (np.asarray(a, float) for a in (products, m1, m2))
    N, M, H, W = products.shape[:4]
    shared, own = np.zeros((N, M)), np.zeros((N, M))
    for i in range(0, H, b):
        for j in range(0, W, b):
            part = products[:, :, i : i + b, j : j + b, i : i + b, j : j + b]
            a, c = m1[:, i : i + b, j : j + b].reshape(N, -1), m2[:, i : i + b, j : j + b].reshape(M, -1)
            shared += part.mean((2, 3, 4, 5))
            places = np.einsum("nmhwhw->nm", part) - a @ c.T
            own += (a.sum(1)[:, None] * c.sum(1) + places) / b**4
    return shared / (H * W / b**2), own / (H * W / b**2)


def changed(shared=None, own=None):
    def answer(products, m1, m2, b):
        right = blocked(products, m1, m2, b)
        new = [f and f(right, products, m1, m2, b) for f in (shared, own)]
        return tuple(r if a is None else a for a, r in zip(new, right, strict=True))

    return answer


def every_third(right, products, m1, m2, b):
    N, M, H, W = products.shape[:4]
    shape = (N, M, b, H // b, b, W // b, b, H // b, b, W // b)
    return jnp.einsum("nmihjwkhlw->nm", jnp.asarray(products).reshape(shape)) / (b**2 * H * W)


def equal_places(products):
    return jnp.einsum("nmhwhw->nm", products) / (products.shape[2] * products.shape[3])


@functools.partial(jax.jit, static_argnames="axis")
def roll(x, shift, axis):
    """One program for all shifts; `jnp.roll` compiles one for each."""
    return jnp.roll(x, shift, axis=axis)


def over(shifts, of=lambda values: sum(values) / len(values)):
    def answer(kernel, x1, x2):
        H, W = x2.shape[1:3]
        return of([kernel(x1, roll(x2, pair, axis=(1, 2))) for pair in shifts(H, W)])

    return answer


def everywhere(H, W):
    return [(i, j) for i in range(H) for j in range(W)]


def moving_the_first(kernel, x1, x2):
    """Move the other image, the other way."""
    H, W = x1.shape[1:3]
    found = 0.0
    for i in range(H):
        for j in range(W):
            found = found + np.asarray(kernel(np.roll(x1, (-i, -j), axis=(1, 2)), x2)) / (H * W)
    return found


def both_move(kernel, x1, x2):
    H, W = x1.shape[1:3]
    return sum(kernel(roll(x1, g, axis=(1, 2)), roll(x2, g, axis=(1, 2))) for g in everywhere(H, W)) / (H * W)


def along_the_images(kernel, x1, x2):
    H, W = x2.shape[1:3]
    return sum(kernel(x1, roll(x2, g, axis=(0, 1))) for g in everywhere(H, W)) / (H * W)


def in_one_call(kernel, x1, x2):
    """All moved images as one batch, and lists."""
    H, W = x2.shape[1:3]
    batch = np.concatenate([np.roll(np.asarray(x2), g, axis=(1, 2)) for g in everywhere(H, W)])
    return np.asarray(kernel(x1, batch)).reshape(len(x1), H * W, len(x2)).mean(1).tolist()


def of_mean_image(kernel, x1, x2):
    return kernel(x1, jnp.ones_like(x2) * x2.mean((1, 2), keepdims=True))


TABLES = [
    Table(
        "15.1",
        right={"whole numbers": (5, 35), "floats": [5.0, 35.0], "an array": jnp.array([5, 35])},
        wrong={
            "all with pooling": ((35, 35), "cannot tell a digit"),
            "one": ((1, 35), "only the copies"),
            "the zeros": ((30, 35), "number of zero eigenvalues"),
            "positions": ((7, 35), "seven positions"),
            "equivariant": ((5, 5), "makes nothing invariant"),
            "positions without": ((5, 7), "no two of the images"),
            "the zeros without": ((5, 0), "no null directions"),
            "swapped": ((35, 5), "cannot tell a digit"),
            "one number": (5, "tuple of 2"),
            "something": ((6, 35), "off by more"),
        },
    ),
    Table(
        "15.2",
        right={"sums": variances, "spectra": by_spectrum, "lists": lambda *of: [a.tolist() for a in variances(*of)]},
        wrong={
            "the readout alone": (with_variances(number=2), "hidden layer's part S varies"),
            "covariance": (with_variances(number=8), "uncorrelated here"),
            "one channel": (with_variances(channels=0), "variance of one channel"),
            "1/n²": (with_variances(channels=2), "falls like 1/n"),
            "a deviation": (lambda *of: tuple(a**0.5 for a in variances(*of)), "standard deviation"),
            "scale not squared": (with_variances(power=2, places=1), "has its square"),
            "w_std²": (with_variances(power=2), "squared in a variance: σ_w⁴"),
            "1/P": (with_variances(places=1), "1/P is squared"),
            "shared twice": (lambda *of: (variances(*of)[0],) * 2, "only if the weights are shared"),
            "own twice": (lambda *of: (variances(*of)[1],) * 2, "only if the weights are shared"),
            "Q": (not_squared, "where its square belongs"),
            "swapped": (lambda *of: variances(*of)[::-1], "swapped"),
            "one array": (lambda *of: variances(*of)[0], "tuple of 2"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "15.3",
        right={
            "angles": (4, ratio),
            "arcsin": [4.0, ratio_by_arcsin],
            "plus one": (4, lambda Q: 1 + (ratio(Q) - 1)),
        },
        wrong={
            "line 1": ((1, ratio), "line 1 is right"),
            "line 2": ((2, ratio), "line 2 is right"),
            "line 3": ((3, ratio), "line 3 is right"),
            "line 5": ((5, ratio), "follows from line 4"),
            "upside down": ((4, lambda Q: 1 / ratio(Q)), "upside down"),
            "always active": ((4, lambda Q: ratio(Q, lambda angle: 0 * angle + 0.5)), "active together half"),
            "independent": ((4, lambda Q: ratio(Q, lambda angle: 0 * angle + 0.25)), "are not independent"),
            "a mean": ((4, lambda Q: ratio(Q) / Q.shape[1]), "1/P times"),
            "one number": ((4, lambda Q: ratio(Q).mean()), "summed up"),
            "no patches": ((4, without_q), "Q is missing"),
            "the readout": ((4, of_readout), "readout's part"),
            "not halved": ((4, lambda Q: ratio(Q) / 2), "in the denominator"),
            "one": ((4, lambda Q: np.ones(len(Q))), "serves all places"),
            "P": ((4, lambda Q: np.full(len(Q), float(Q.shape[1]))), "what line 4 says"),
            "no equal places": ((4, lambda Q: ratio(Q) - 1), "equal places are missing"),
            "θ/2π": ((4, lambda Q: ratio(Q, lambda angle: angle / (2 * np.pi))), "1/2 for equal patches"),
            "the line alone": (4, "tuple of 2"),
            "no return": ((4, lambda Q: None), "is a `return` missing?"),
        },
    ),
    Table(
        "15.4",
        right={"blocks": blocked, "loops": by_loops},
        wrong={
            "global": (changed(shared=lambda r, p, *_: p.mean((2, 3, 4, 5))), "that is global pooling"),
            "not pooled": (changed(shared=lambda r, p, *_: equal_places(p)), "equal places only"),
            "1/b²": (changed(shared=lambda r, p, m1, m2, b: r[0] * b**2), "has 1/b⁴"),
            "places": (changed(shared=lambda r, p, m1, m2, b: r[0] / b**2), "not of places"),
            "a sum": (
                changed(shared=lambda r, p, m1, m2, b: r[0] * p.shape[2] * p.shape[3] / b**2),
                "mean over blocks is missing",
            ),
            "another 1/b⁴": (changed(shared=lambda r, p, m1, m2, b: r[0] / b**4), "1/b⁴"),
            "every third": (changed(shared=every_third), "b neighbors"),
            "twice": (
                changed(
                    own=lambda r, p, m1, m2, b: blocks_of(product_of_means(m1, m2), m1, m2, b) + equal_places(p) / b**2
                ),
                "not beside it",
            ),
            "no means": (changed(own=lambda r, p, m1, m2, b: equal_places(p) / b**2), "ReLU has a mean"),
            "means everywhere": (
                changed(own=lambda r, p, m1, m2, b: blocks_of(product_of_means(m1, m2), m1, m2, b)),
                "at equal places the product stays",
            ),
            "own not pooled": (changed(own=lambda r, p, *_: equal_places(p)), "network without pooling"),
            "shared twice": (changed(own=lambda r, *_: r[0]), "what shared weights give"),
            "own global": (
                changed(
                    own=lambda r, p, m1, m2, b: (
                        product_of_means(m1, m2).mean((2, 3, 4, 5))
                        + equal_places(p - product_of_means(m1, m2)) / (p.shape[2] * p.shape[3])
                    )
                ),
                "different blocks do not meet",
            ),
            "swapped": (lambda *of: blocked(*of)[::-1], "swapped"),
            "one": (lambda *of: blocked(*of)[0], "tuple of 2"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "15.5",
        right={"second image": over(everywhere), "first image": moving_the_first, "one call": in_one_call},
        wrong={
            "one call": (lambda kernel, x1, x2: kernel(x1, x2), "without pooling"),
            "both move": (both_move, "one has to stay"),
            "a sum": (over(everywhere, of=sum), "number of shifts"),
            "to the side": (over(lambda H, W: [(0, j) for j in range(W)]), "to the side alone"),
            "down": (over(lambda H, W: [(i, 0) for i in range(H)]), "down alone"),
            "diagonal": (over(lambda H, W: [(i, i) for i in range(max(H, W))]), "along the diagonal"),
            "7×7": (over(lambda H, W: everywhere(7, 7)), "H·W shifts"),
            "axes 0 and 1": (along_the_images, "axis 0 counts the images"),
            "without the first": (over(lambda H, W: everywhere(H, W)[1:]), "is a shift, too"),
            "mean image": (of_mean_image, "not of images"),
            "transposed": (lambda *of: jnp.asarray(over(everywhere)(*of)).T, "swapped"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
]
test_answers = cases(TABLES)  # written questions need no table
