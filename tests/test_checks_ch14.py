"""Right and wrong answers to the tasks of chapter 14."""

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from mutations import Table, cases

import ntklib as ntk


def spectrum(features, divide=True):
    n = features.shape[0] if divide else 1
    s, u = jnp.linalg.eigh(features.T @ features / n)
    return s, u, features.shape


def zca_matrix(features, epsilon):
    s, u, _ = spectrum(features)
    return (u / jnp.sqrt(s + epsilon * s.mean())) @ u.T


def by_svd(features, epsilon):
    """From singular values of the features, in NumPy."""
    f = np.asarray(features, np.float64)
    _, sigma, v = np.linalg.svd(f, full_matrices=False)
    s = sigma**2 / len(f)
    return v.T @ np.diag((s + epsilon * np.sum(f**2) / f.size) ** -0.5) @ v


def zca_with(values, divide=True, side=None):
    """`zca_matrix` with other factors in the eigenbasis."""

    def answer(features, epsilon):
        s, u, (n, d) = spectrum(features, divide)
        back = u.T if side is None else side(u)
        return (u * values(s, epsilon, n, d)) @ back

    return answer


def centered(features, epsilon):
    return zca_matrix(features - features.mean(0), epsilon)


def by_cov(features, epsilon):
    c = np.cov(np.asarray(features).T)
    s, u = np.linalg.eigh(c)
    return (u * (s + epsilon * s.mean()) ** -0.5) @ u.T


def by_root(features, epsilon):
    """SciPy's root of the matrix, then its inverse."""
    f = np.asarray(features, np.float64)
    c = f.T @ f / len(f)
    return np.linalg.inv(scipy.linalg.sqrtm(c + epsilon * np.trace(c) / len(c) * np.eye(len(c))))


def of_singular_values(features, epsilon):
    _, sigma, v = jnp.linalg.svd(features, full_matrices=False)
    return v.T @ jnp.diag((sigma + epsilon * sigma.mean()) ** -0.5) @ v


def by_the_library(features, epsilon):
    zca = ntk.ZCA(epsilon=epsilon).fit(np.asarray(features))
    return zca._w


def fixed_scale(features, epsilon):
    """Right for features of one size only."""
    w = zca_matrix(features, epsilon)
    return jnp.where(jnp.abs(features).max() > 6.5, 1.1, 1.0) * w


def leaked_outputs(y, same, other, m):
    n = y.shape[0]
    return jnp.tile(other * y.sum(0) / (same + (n - 1) * other), (m, 1))


def by_solving(y, same, other, m):
    n = len(y)
    theta = (same - other) * np.eye(n) + other
    return np.full((m, n), other) @ np.linalg.solve(theta, np.asarray(y))


def leaked_with(form):
    """`leaked_outputs` with another factor on the sum of the targets."""
    return lambda y, same, other, m: jnp.tile(form(same, other, len(y)) * y.sum(0), (m, 1))


def inverse_metric(features, epsilon):
    n, d = features.shape
    c = features.T @ features / n
    return jnp.linalg.inv(c + epsilon * jnp.trace(c) / d * jnp.eye(d))


def first_layer_step(V, grad, features, epsilon, rate):
    return V - rate * inverse_metric(features, epsilon) @ grad


def by_whitened_weights(V, grad, features, epsilon, rate):
    """A step of U in V = W U, through the whitened network."""
    w = np.asarray(zca_matrix(features, epsilon), np.float64)
    u = np.linalg.solve(w, np.asarray(V, np.float64))
    return w @ (u - rate * w @ np.asarray(grad, np.float64))


def step_with(by):
    """`first_layer_step` with another matrix before the gradient."""

    def answer(V, grad, features, epsilon, rate):
        n, d = features.shape
        return V - rate * by(features.T @ features / n, epsilon, n, jnp.eye(d)) @ grad

    return answer


def in_whitened_coordinates(V, grad, features, epsilon, rate):
    w = zca_matrix(features, epsilon)
    return jnp.linalg.solve(w, V) - rate * w @ grad


def whitened_afterwards(*of):
    return zca_matrix(of[2], of[3]) @ first_layer_step(*of)


TABLES = [
    Table(
        "14.1",
        right={
            "by eigenvectors": zca_matrix,
            "by singular values": by_svd,
            "a root of the matrix, in float32": lambda f, e: by_root(f, e).astype(np.float32),
            "lists": lambda f, e: by_root(f, e).tolist(),
        },
        wrong={
            "absolute": (zca_with(lambda s, e, n, d: (s + e) ** -0.5), "epsilon is relative"),
            "the whole trace": (zca_with(lambda s, e, n, d: (s + e * s.sum()) ** -0.5), "divided by d"),
            "over N": (zca_with(lambda s, e, n, d: (s + e * s.sum() / n) ** -0.5), "divided by N"),
            "not regularized": (zca_with(lambda s, e, n, d: s**-0.5), "regularization is missing"),
            "no root": (zca_with(lambda s, e, n, d: 1 / (s + e * s.mean())), "that is W²"),
            "inverse": (zca_with(lambda s, e, n, d: (s + e * s.mean()) ** 0.5), "inverse of W"),
            "the covariance": (zca_with(lambda s, e, n, d: s + e * s.mean()), "regularized C itself"),
            "no 1/N": (zca_with(lambda s, e, n, d: (s + e * s.mean()) ** -0.5, divide=False), "lacks its 1/N"),
            "by cov": (by_cov, "of `cov`"),
            "roots added": (zca_with(lambda s, e, n, d: 1 / (s**0.5 + (e * s.mean()) ** 0.5)), "roots are added"),
            "of the largest": (zca_with(lambda s, e, n, d: (s + e * s.max()) ** -0.5), "not of the largest"),
            "the variance after": (zca_with(lambda s, e, n, d: s / (s + e * s.mean())), "variance after whitening"),
            "the spread after": (zca_with(lambda s, e, n, d: (s / (s + e * s.mean())) ** 0.5), "spread after"),
            "not turned back, flipped": (
                lambda f, e: (spectrum(f)[1] * (spectrum(f)[0] + e * spectrum(f)[0].mean()) ** -0.5).T,
                "should be symmetric",
            ),
            "by Cholesky": (lambda f, e: jnp.linalg.cholesky(inverse_metric(f, e)), "should be symmetric"),
            "centered": (centered, "mean over the inputs was subtracted"),
            "root before reg": (zca_with(lambda s, e, n, d: 1 / (s**0.5 + e * s.mean())), "under the root"),
            "singular values": (of_singular_values, "squares of singular values"),
            "not turned back": (
                zca_with(lambda s, e, n, d: (s + e * s.mean()) ** -0.5, side=lambda u: jnp.eye(len(u))),
                "should be symmetric",
            ),
            "turned the wrong way": (
                lambda f, e: jnp.diag((spectrum(f)[0] + e * spectrum(f)[0].mean()) ** -0.5) @ spectrum(f)[1].T,
                "should be symmetric",
            ),
            "the features": (lambda f, e: f @ zca_matrix(f, e), "shape of the features"),
            "of one scale": (fixed_scale, "a third as large"),
            "by the library": (by_the_library, "`fit`"),
            "no return": (lambda f, e: None, "is a `return` missing?"),
        },
    ),
    Table(
        "14.2",
        right={"zero": 0, "a float": 0.0, "nearly": 0.01, "an array": jnp.array(0.0)},
        wrong={
            "chance": (0.1, "by chance"),
            "training": (1.0, "training inputs are fitted"),
            "all but chance": (0.9, "everything but chance"),
            "one half": (0.5, "one half"),
            "as on test inputs": (0.6, "not like them"),
            "something": (0.3, "off by more"),
            "one of forty": (0.025, "would be luck"),
            "below": (-0.1, "between 0 and 1"),
            "in a list": ([0], "one number"),
            "text": ("none", "one number"),
            "per cent": (10, "between 0 and 1"),
        },
    ),
    Table(
        "14.3",
        right={
            "closed form": (2, leaked_outputs),
            "by solving": [2, by_solving],
            "a whole float": (2.0, leaked_outputs),
            "lists": (2, lambda *of: np.asarray(leaked_outputs(*of)).tolist()),
        },
        wrong={
            "line 1": ((1, leaked_outputs), "line 1 keeps"),
            "line 3": ((3, leaked_outputs), "Who took part"),
            "line 4": ((4, leaked_outputs), "line 4 is right"),
            "line 5": ((5, leaked_outputs), "without a ridge"),
            "line 0": ((0, leaked_outputs), "1 to 5"),
            "mean": ((2, leaked_with(lambda a, b, n: 1 / n)), "only for many inputs"),
            "zero": ((2, leaked_with(lambda a, b, n: 0.0)), "not centered here"),
            "diagonal": ((2, leaked_with(lambda a, b, n: b / a)), "not diagonal"),
            "N times": ((2, leaked_with(lambda a, b, n: b / (a + n * b))), "not N times"),
            "rank one lost": ((2, leaked_with(lambda a, b, n: b / (a - b))), "is lost"),
            "no inverse": ((2, leaked_with(lambda a, b, n: b)), "without the inverse"),
            "diagonal value": ((2, leaked_with(lambda a, b, n: a / (a + (n - 1) * b))), "different inputs"),
            "one row of a table": ((2, lambda y, a, b, m: leaked_outputs(y, a, b, 1)), "shape"),
            "one row": ((2, lambda y, a, b, m: leaked_outputs(y, a, b, m)[0]), "one row"),
            "no return": ((2, lambda *a: None), "is a `return` missing?"),
            "the line alone": (2, "tuple of 2"),
        },
    ),
    Table(
        "14.4",
        right={
            "the metric": first_layer_step,
            "through U": by_whitened_weights,
            "W twice": lambda V, g, f, e, r: V - r * zca_matrix(f, e) @ (zca_matrix(f, e) @ g),
        },
        wrong={
            "plain": (step_with(lambda c, e, n, one: one), "plain step"),
            "W once": (lambda V, g, f, e, r: V - r * zca_matrix(f, e) @ g, "W acts twice"),
            "not inverted": (step_with(lambda c, e, n, one: c + e * jnp.trace(c) / len(c) * one), "to be inverted"),
            "uphill": (lambda V, g, f, e, r: V + r * inverse_metric(f, e) @ g, "goes down"),
            "the move": (lambda V, g, f, e, r: -r * inverse_metric(f, e) @ g, "add it to V"),
            "absolute": (step_with(lambda c, e, n, one: jnp.linalg.inv(c + e * one)), "relative"),
            "not regularized": (step_with(lambda c, e, n, one: jnp.linalg.inv(c)), "regularization is missing"),
            "no 1/N": (
                step_with(lambda c, e, n, one: jnp.linalg.inv(c + e * jnp.trace(c) / len(c) * one) / n),
                "lacks its 1/N",
            ),
            "no rate": (lambda V, g, f, e, r: V - inverse_metric(f, e) @ g, "learning rate is missing"),
            "whitened afterwards": (whitened_afterwards, "applied to the weights as well"),
            "on V as well": (lambda V, g, f, e, r: inverse_metric(f, e) @ (V - r * g), "not on V"),
            "the metric twice": (
                lambda V, g, f, e, r: V - r * inverse_metric(f, e) @ inverse_metric(f, e) @ g,
                "metric twice",
            ),
            "the step of U": (in_whitened_coordinates, "coordinates of the whitened inputs"),
            "no return": (lambda *a: None, "is a `return` missing?"),
        },
    ),
]
test_answers = cases(TABLES)
