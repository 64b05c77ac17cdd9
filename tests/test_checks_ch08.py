"""Right and wrong answers to the tasks of chapter 08."""

import jax.numpy as jnp
import numpy as np
from mutations import Table, cases

import ntklib as ntk


def level(n, b, replace):
    return 1 / b if replace else (n - b) / (b * (n - 1))


def batch_covariance(r, b, replace):
    n = r.shape[0]
    return level(n, b, replace) * (jnp.diag(jnp.sum(r**2, axis=1)) / n - r @ r.T / n**2)


def by_counts(r, b, replace):
    """From the covariance of the counts."""
    n = r.shape[0]
    counts = b * (jnp.eye(n) / n - 1 / n**2)
    if not replace:
        counts = counts * (n - b) / (n - 1)
    return counts / b**2 * jnp.einsum("ik,jk->ij", r, r)


def covariance_with(squares=1.0, outer=1.0, s=level):
    """`batch_covariance` with other weights for its parts."""

    def answer(r, b, replace):
        n = r.shape[0]
        diagonal, products = jnp.diag(jnp.sum(r**2, axis=1)) / n, r @ r.T / n**2
        return s(n, b, replace) * (squares * diagonal - outer * products)

    return answer


def one_over_n_twice(r, b, replace):
    n = r.shape[0]
    return level(n, b, replace) * (jnp.diag(jnp.sum(r**2, axis=1)) - r @ r.T) / n


def one_over_n_nowhere(r, b, replace):
    return level(len(r), b, replace) * (jnp.diag(jnp.sum(r**2, axis=1)) - r @ r.T)


def one_over_n_squared(r, b, replace):
    return one_over_n_nowhere(r, b, replace) / len(r) ** 2


def by_draws_in_numpy(residuals, size, with_replacement):
    """Entry by entry, in NumPy."""
    r = np.asarray(residuals, np.float64)
    n = len(r)
    s = level(n, size, with_replacement)
    return [[s * (r[i] @ r[j] * (i == j) / n - r[i] @ r[j] / n**2) for j in range(n)] for i in range(n)]


def outputs_added(r, b, replace):
    return batch_covariance(r.sum(axis=1, keepdims=True), b, replace)


def not_squared(r, b, replace):
    n = r.shape[0]
    return level(n, b, replace) * (jnp.diag(r.sum(1)) / n - r @ r.T / n**2)


def next_moments(theta, mean, cov, rate, b):
    n = len(mean)
    a = jnp.eye(n) - rate * theta / n
    m = jnp.outer(mean, mean) + cov
    return a @ mean, a @ cov @ a + rate**2 / b * theta @ (jnp.diag(jnp.diag(m)) / n - m / n**2) @ theta


def by_all_draws(theta, mean, cov, rate, b):
    """From the second moment, term by term, and the mean's square taken off at the end."""
    n = len(mean)
    m = jnp.outer(mean, mean) + cov
    both = theta @ m + m @ theta
    batch = m * (1 - 1 / b) / n**2 + jnp.eye(n) * m / (b * n)
    after = m - rate / n * both + rate**2 * theta @ batch @ theta
    new = mean - rate / n * (theta @ mean)
    return new, after - jnp.outer(new, new)


def moments_with(second=None, noise=None, kept=None, mean_of=None):
    """`next_moments` with one part replaced."""

    def answer(theta, mean, cov, rate, b):
        n = len(mean)
        a = jnp.eye(n) - rate * theta / n
        m = jnp.outer(mean, mean) + cov if second is None else second(mean, cov)
        batch = (jnp.diag(jnp.diag(m)) / n - m / n**2) / b
        new = rate**2 * theta @ batch @ theta if noise is None else noise(theta, batch, rate, b)
        old = a @ cov @ a if kept is None else kept(a, cov)
        return (a @ mean if mean_of is None else mean_of(theta, mean, rate)), old + new

    return answer


def with_noise(form):
    def answer(theta, mean, cov, rate, b):
        n = len(mean)
        a = jnp.eye(n) - rate * theta / n
        return a @ mean, a @ cov @ a + rate**2 / b * theta @ form(jnp.outer(mean, mean) + cov, n) @ theta

    return answer


def mean_twice(*of):
    theta, _, *rest = of
    mean, cov = next_moments(*of)
    return next_moments(theta, mean, *rest)[0], cov


def moments_over_b(theta, mean, cov, rate, b):
    return mean - rate * theta @ mean / b, next_moments(theta, mean, cov, rate, b)[1]


def variances(values, rate, sigma):
    a = rate * values / values.shape[0]
    return sigma**2 * a / (2 - a)


def by_iteration(values, rate, sigma):
    """The recursion, run to its end."""
    a = rate * values / len(values)
    m = 0 * a
    for _ in range(4000):
        m = (1 - a) ** 2 * m + (sigma * a) ** 2
    return m


def variances_with(form):
    return lambda values, rate, sigma: form(rate * values / values.shape[0], sigma, values.shape[0])


def of_later(mean=False, cov=False):
    """`next_moments` whose noise comes from the mean or the covariance of after the step."""

    def answer(theta, r, v, rate, b):
        a = jnp.eye(len(r)) - rate * theta / len(r)
        later = a @ r if mean else r, a @ v @ a if cov else v
        return moments_with(second=lambda *_: jnp.outer(later[0], later[0]) + later[1])(theta, r, v, rate, b)

    return answer


TABLES = [
    Table(
        "08.1",
        right={"the formula": batch_covariance, "from the counts": by_counts, "lists": by_draws_in_numpy},
        wrong={
            "always with replacement": (covariance_with(s=lambda n, b, _: 1 / b), "exchanged"),
            "exchanged": (lambda r, b, replace: batch_covariance(r, b, not replace), "exchanged"),
            "no second term": (covariance_with(outer=0.0), "second term is missing"),
            "added": (covariance_with(outer=-1.0), "subtracted"),
            "1/N for both": (one_over_n_twice, "needs 1/N²"),
            "no factor": (covariance_with(s=lambda n, b, _: 1.0), "factor s is missing"),
            "N for N − 1": (
                covariance_with(s=lambda n, b, replace: 1 / b if replace else (n - b) / (b * n)),
                "N − 1 in the denominator",
            ),
            "B − 1": (
                covariance_with(s=lambda n, b, replace: 1 / b if replace else (n - b) / (n * (b - 1))),
                "N and B have changed places",
            ),
            "B squared": (covariance_with(s=lambda n, b, replace: level(n, b, replace) / b), "once"),
            "mean over outputs": (
                lambda r, b, replace: batch_covariance(r, b, replace) / r.shape[1],
                "1/the number of outputs times",
            ),
            "outputs added": (outputs_added, "added up before"),
            "sum over the batch": (
                lambda r, b, replace: b**2 * batch_covariance(r, b, replace),
                "in place of the mean",
            ),
            "not squared": (not_squared, "not squared"),
            "no 1/N at all": (one_over_n_nowhere, "without 1/N"),
            "1/N² for both": (one_over_n_squared, "first term needs 1/N"),
            "at least a little noise": (
                lambda r, b, replace: batch_covariance(r, b, replace) + 1e-3 * (b == len(r)) * (not replace),
                "full batch",
            ),
            "by the library": (
                lambda r, b, replace: ntk.noise_covariance(r, batch_size=b, replace=replace),
                "`noise_covariance`",
            ),
            "no return": (lambda r, b, replace: None, "is a `return` missing?"),
            "not summed": (lambda r, b, replace: batch_covariance(r[:, :1], b, replace), "first output alone"),
            "variances only": (lambda r, b, replace: jnp.diag(batch_covariance(r, b, replace)), "one number for each"),
        },
    ),
    Table(
        "08.2",
        right={
            "the formula": next_moments,
            "from the second moment": by_all_draws,
            "NumPy, a list": lambda *a: [np.asarray(part) for part in next_moments(*a)],
        },
        wrong={
            "noise of the spread only": (moments_with(second=lambda mean, cov: cov), "mean's part"),
            "noise of the mean only": (
                moments_with(second=lambda mean, cov: jnp.outer(mean, mean)),
                "covariance's part",
            ),
            "η for η²": (moments_with(noise=lambda theta, batch, rate, b: rate * theta @ batch @ theta), "factor η²"),
            "one Θ": (moments_with(noise=lambda theta, batch, rate, b: rate**2 * theta @ batch), "both sides"),
            "no Θ": (moments_with(noise=lambda theta, batch, rate, b: rate**2 * batch), "kernel is missing"),
            "no 1/B": (
                moments_with(noise=lambda theta, batch, rate, b: b * rate**2 * theta @ batch @ theta),
                "1/B is missing",
            ),
            "not contracted": (moments_with(kept=lambda a, cov: cov), "contracted"),
            "contracted once": (moments_with(kept=lambda a, cov: a @ cov), "from one"),
            "old lost": (moments_with(kept=lambda a, cov: 0 * cov), "old covariance is lost"),
            "no noise": (moments_with(noise=lambda theta, batch, rate, b: 0 * batch), "new noise is missing"),
            "mean without 1/N": (moments_with(mean_of=lambda theta, mean, rate: mean - rate * theta @ mean), "1/N"),
            "mean not moved": (moments_with(mean_of=lambda theta, mean, rate: mean), "before the step"),
            "one of the two": (lambda *of: next_moments(*of)[1], "tuple of 2"),
            "swapped": (lambda *of: next_moments(*of)[::-1], "swapped"),
            "A twice on the mean": (
                lambda t, m, c, r, b: (
                    next_moments(t, next_moments(t, m, c, r, b)[0], c, r, b)[0],
                    next_moments(t, m, c, r, b)[1],
                ),
                "A is applied twice",
            ),
            "1/B for the mean": (moments_over_b, "whatever B is"),
            "without replacement": (
                moments_with(noise=lambda t, z, r, b: r**2 * t @ z @ t * (len(t) - b) / (len(t) - 1)),
                "without replacement",
            ),
            "no −M/N²": (
                moments_with(noise=lambda t, z, r, b: r**2 * t @ jnp.diag(jnp.diag(z)) @ t / (1 - 1 / len(t))),
                "−M/N² is missing",
            ),
            "1/N for 1/N²": (with_noise(lambda M, n: jnp.diag(jnp.diag(M)) / n - M / n), "where M/N stands"),
            "one diag": (with_noise(lambda M, n: jnp.diag(M) / n - M / n**2), "of that a matrix"),
            "a second moment": (
                lambda t, m, c, r, b: (
                    next_moments(t, m, c, r, b)[0],
                    next_moments(t, m, c, r, b)[1] + jnp.outer(*[next_moments(t, m, c, r, b)[0]] * 2),
                ),
                "not a covariance",
            ),
            "no return": (lambda *of: None, "is a `return` missing?"),
            "the whole M": (with_noise(lambda m, n: m / n - m / n**2), "the whole M stands"),
            "noise of the new mean": (of_later(mean=True), "not that of after it"),
            "noise of A V A": (of_later(cov=True), "not A V A"),
            "noise of both": (of_later(mean=True, cov=True), "not those of after it"),
        },
    ),
    Table(
        "08.3",
        right={"a number": 7.0, "a ratio": (28 / 4) / (16 / 16), "whole": 7, "an array": jnp.array(7)},
        wrong={
            "1/B": (4, "with replacement"),
            "root": (7**0.5, "standard deviations"),
            "the other way": (1 / 7, "other way"),
            "finite population only": (28 / 16, "also averages"),
            "squared": (49, "square"),
            "root of 1/B": (2, "with replacement"),
            "1/B twice": (28, "not squared"),
            "several": ([7.0, 7.0], "one number"),
            "something": (5.5, "off by more"),
            "text": ("seven", "one number"),
            "squared ratio": (16, "the squared ratio of the batch sizes"),
            "1/B upside down": (28 / 16 / 4, "1/B is upside down"),
        },
    ),
    Table(
        "08.4",
        right={"the formula": (2, variances), "by iteration": [2, by_iteration], "a whole float": (2.0, variances)},
        wrong={
            "the algebra": ((4, variances), "follows from line 3"),
            "the end": ((5, variances), "further up"),
            "the start": ((1, variances), "line 1 is right"),
            "no line": ((0, variances), "1 to 5"),
            "flawed": ((2, variances_with(lambda a, s, n: n * s**2 * a / (2 - a))), "N times too large"),
            "σ once": ((2, variances_with(lambda a, s, n: s * a / (2 - a))), "squared"),
            "small steps": ((2, variances_with(lambda a, s, n: s**2 * a / 2)), "small steps"),
            "no 1/N below": ((2, variances_with(lambda a, s, n: s**2 * a / (2 - n * a))), "missing in it"),
            "plus": ((2, variances_with(lambda a, s, n: s**2 * a / (2 + a))), "not plus"),
            "a squared": ((2, variances_with(lambda a, s, n: s**2 * a**2 / (2 - a))), "too much"),
            "over N": ((2, variances_with(lambda a, s, n: s**2 * a / (2 - a) / n)), "1/N times"),
            "line 3": ((3, variances), "form of line 3"),
            "a number in words": (("two", variances), "1 to 5"),
            "1 − a": ((2, variances_with(lambda a, s, n: s**2 * a / (1 - a))), "not 1 − ηλ/N"),
            "one step": ((2, variances_with(lambda a, s, n: s**2 * a**2)), "noise of one step"),
            "never zero": ((2, variances_with(lambda a, s, n: s**2 * a / (2 - a) + 1e-6)), "eigenvalue 0"),
            "no return": ((2, lambda *a: None), "is a `return` missing?"),
            "the line alone": (2, "tuple of 2"),
            "a temperature": (
                (2, lambda v, r, s: jnp.full_like(v, r * s**2 / (2 * len(v)))),
                "the same for all modes",
            ),
            "0/0": ((2, lambda v, r, s: variances(v, r, s) * (v / v)), "divides 0 by 0"),
            "N − 1": ((2, lambda v, r, s: s**2 * r * v / (2 * (len(v) - 1) - r * v)), "not N − 1"),
        },
    ),
]
test_answers = cases(TABLES)
