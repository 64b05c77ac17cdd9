"""Right and wrong answers to the tasks of chapter 09."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from mutations import Table, cases
from scipy.special import erf, ndtr, ndtri

from course import check
from course.expect import CheckFailed


def up(mean, variance):
    return norm.cdf(mean / jnp.sqrt(variance))


def both_ways(p):
    return jnp.mean(p**2 + (1 - p) ** 2)


def agreement(mean, variance):
    return both_ways(up(mean, variance))


def by_hermite(mean, variance):
    """By integration over the output of one network."""
    x = np.linspace(-9, 9, 20_001)
    mean, s = np.asarray(mean, float), np.sqrt(np.asarray(variance, float))
    p = np.array(
        [(np.exp(-(x**2) / 2) * (m + t * x > 0)).mean() * 18 / np.sqrt(2 * np.pi) for m, t in zip(mean, s, strict=True)]
    )
    return 1 - 2 * (p * (1 - p)).mean()


def by_loop(mean, variance):
    """In floats of Python, one image after the other."""
    pairs = zip(np.asarray(mean).tolist(), np.asarray(variance).tolist(), strict=True)
    p = [(1 + math.erf(m / math.sqrt(2 * v))) / 2 for m, v in pairs]
    return 1 - 2 * sum(q * (1 - q) for q in p) / len(p)


def in_float32(mean, variance):
    z = np.asarray(mean, np.float32) / np.sqrt(np.asarray(variance, np.float32))
    return np.float32(np.mean((1 + erf(z / 2**0.5) ** 2) / 2))


def luck(k, u, power=lambda k: k, scale=lambda k: 1.0):
    z = np.linspace(-8, 8, 8001)
    return float(u) * scale(int(k)) * ((z[1:] + z[:-1]) / 2 * np.diff(ndtr(z) ** power(int(k)))).sum()


def by_density(k, u):
    z = jnp.linspace(-8, 8, 4001)
    return u * k * jnp.trapezoid(z * norm.pdf(z) * norm.cdf(z) ** (k - 1), z)


def by_draws(k, u):
    """The whole experiment, 400,000 times."""
    a = np.random.default_rng(1).normal(0, float(u), (400_000, int(k) + 1))
    return float((a[:, 1:].max(1) - a[:, 0]).mean())


def guesses(theta, theta_test, sigma, sigma_test):
    return jnp.linalg.solve(theta, theta_test.T).T, jnp.linalg.solve(sigma, sigma_test.T).T


def form(a, middle, b):
    return jnp.einsum("ti,ij,tj->t", a, middle, b)


def missing(theta, theta_test, sigma, sigma_test):
    p, s = guesses(theta, theta_test, sigma, sigma_test)
    return form(p - s, sigma, p - s)


def by_difference(theta, theta_test, sigma, sigma_test):
    """P Σ Pᵀ − 2 P Σ(X, x) + S Σ(X, x), in float64."""
    theta, theta_test, sigma, sigma_test = (np.asarray(a, np.float64) for a in (theta, theta_test, sigma, sigma_test))
    p, s = np.linalg.solve(theta, theta_test.T).T, np.linalg.solve(sigma, sigma_test.T).T
    return np.einsum("ti,ij,tj->t", p, sigma, p) - 2 * (p * sigma_test).sum(1) + (s * sigma_test).sum(1)


def with_form(make):
    def answer(theta, theta_test, sigma, sigma_test):
        p, s = guesses(theta, theta_test, sigma, sigma_test)
        return make(p, s, theta, sigma)

    return (4, answer)


TABLES = [
    Table(
        "09.1",
        right={
            "Φ": agreement,
            "one minus both differences": by_hermite,
            "a loop, floats": by_loop,
            "erf, float32": in_float32,
        },
        wrong={
            "one network": (lambda m, v: jnp.mean(up(m, v)), "of +1 of one network"),
            "both up": (lambda m, v: jnp.mean(up(m, v) ** 2), "both say −1"),
            "differ": (lambda m, v: 1 - agreement(m, v), "they differ"),
            "no root": (lambda m, v: both_ways(norm.cdf(m / v)), "standard deviation"),
            "mean first": (lambda m, v: both_ways(jnp.mean(up(m, v))), "at the end"),
            "with the mean": (
                lambda m, v: jnp.mean(jnp.maximum(up(m, v), 1 - up(m, v))),
                "agrees with the mean of all",
            ),
            "2v": (lambda m, v: both_ways(norm.cdf(m / jnp.sqrt(2 * v))), "difference of outputs"),
            "not averaged": (lambda m, v: up(m, v) ** 2 + (1 - up(m, v)) ** 2, "should be one number"),
            "sign of a difference": (
                lambda m, v: jnp.mean(norm.cdf(jnp.abs(m) / jnp.sqrt(2 * v))),
                "off by more than the margin",
            ),
            "no return": (lambda m, v: None, "is a `return` missing?"),
        },
    ),
    Table(
        "09.2",
        right={"by quadrature": luck, "by the density": by_density, "by draws": by_draws},
        wrong={
            "k + 1": (lambda k, u: luck(k, u, power=lambda k: k + 1), "not among the candidates"),
            "k − 1": (lambda k, u: luck(k, u, power=lambda k: k - 1), "all of the first k"),
            "large k": (lambda k, u: u * np.sqrt(2 * np.log(k)), "very large k"),
            "median": (lambda k, u: u * ndtri(0.5 ** (1 / k)), "the median of the largest"),
            "quantile": (lambda k, u: u * ndtri(k / (k + 1)), "of a single Gaussian"),
            "Blom's formula": (lambda k, u: u * ndtri((k - 0.375) / (k + 0.25)), "off by more than the margin"),
            "u²": (lambda k, u: luck(k, u**2), "off by more than the margin"),
            "root of two": (lambda k, u: 2**0.5 * luck(k, u), "does not enlarge"),
            "no u": (lambda k, u: luck(k, 1.0), "in units of u"),
            "divided": (lambda k, u: luck(k, u) / k**0.5, "already that of a measured mean"),
            "zero": (lambda k, u: 0.0, "above all their common mean"),
            "no return": (lambda k, u: None, "is a `return` missing?"),
        },
    ),
    Table(
        "09.3",
        right={"a square": (4, missing), "a difference, a list": [4.0, by_difference]},
        wrong={
            "line 1": ((1, missing), "line 1 is right"),
            "line 2": ((2, missing), "line 2 is right"),
            "line 3": ((3, missing), "line 3 is right"),
            "line 5": ((5, missing), "further up"),
            "no line": ((6, missing), "1 to 5"),
            "sign": (with_form(lambda p, s, theta, sigma: -form(p - s, sigma, p - s)), "its sign is wrong"),
            "Θ": (with_form(lambda p, s, theta, sigma: form(p - s, theta, p - s)), "Σ and not Θ"),
            "a matrix": (with_form(lambda p, s, theta, sigma: (p - s) @ sigma @ (p - s).T), "An axis is left"),
            "no kernel": (with_form(lambda p, s, theta, sigma: ((p - s) ** 2).sum(1)), "no kernel in the middle"),
            "two squares": (
                with_form(lambda p, s, theta, sigma: form(p, sigma, p) - form(s, sigma, s)),
                "not the difference of two squares",
            ),
            "P alone": (with_form(lambda p, s, theta, sigma: form(p, sigma, p)), "the best guess S is missing"),
            "S alone": (with_form(lambda p, s, theta, sigma: form(s, sigma, s)), "explains"),
            "half of it": (with_form(lambda p, s, theta, sigma: form(p - s, sigma, p)), "on one side only"),
            "the line alone": (4, "tuple of 2"),
            "no return": ((4, lambda *of: None), "is a `return` missing?"),
        },
    ),
    Table(
        "09.4",
        right={"numbers": (1.0, 0.25), "a list": [1, 0.25], "an array": jnp.array([1.0, 0.25])},
        wrong={
            "halved at the end": ((0.25, 0.25), "not halved at the end"),
            "half": ((0.5, 0.25), "P does not change"),
            "four": ((4, 0.25), "cancels"),
            "not squared": ((1, 0.5), "a variance is a square"),
            "nothing": ((1, 1), "must shrink"),
            "grows": ((1, 4), "the start is smaller"),
            "one number": (1, "tuple of 2"),
        },
    ),
]
test_answers = cases(TABLES)  # written questions need no table


NUMBERS = ("28", "28.0", "twenty-eight", "Twenty eight")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_found_however_it_is_written(number, capsys):
    check("09.5", f"The kernel's part stays, the variance is divided by their number: {number} networks.")
    assert "written down" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["27", "27.2", "280", "68"])
def test_another_number_is_refused(number):
    with pytest.raises(CheckFailed, match="a number is missing"):
        check("09.5", f"The kernel's part stays, the variance is divided by their number: {number} networks.")
