"""Right and wrong answers to the tasks of chapter 12."""

import jax.numpy as jnp
import numpy as np
from mutations import Table, cases
from scipy.optimize import minimize_scalar

import ntklib as ntk

PLACES = np.geomspace(1e-3, 100, 100_001)


def widest(tau, size=np.abs, exponent=lambda tau: tau):
    u = PLACES
    gap = 1 / (1 + u) - np.exp(-exponent(tau) * u)
    i = int(np.argmax(size(gap)))
    return u[i], gap[i]


def by_lobes(tau):
    """Each lobe by itself, with an optimizer."""

    def gap(log_u):
        return 1 / (1 + np.exp(log_u)) - np.exp(-tau * np.exp(log_u))

    found = []
    for sign in (1, -1):
        for start in np.linspace(-5, 4, 10):
            end = minimize_scalar(lambda s, sign=sign: -sign * gap(s), bounds=(start, start + 1), method="bounded")
            found.append((float(np.exp(end.x)), float(gap(end.x))))
    return max(found, key=lambda pair: abs(pair[1]))


def in_units_of_time(tau):
    u, gap = widest(tau)
    return tau * u, gap


def first_lobe(tau):
    """Where the ridge is ahead, if it is anywhere."""
    u, gap = widest(tau, size=lambda gap: -gap)
    return (u, gap) if tau < 1 else widest(tau)


def what_is_left(tau):
    u, _ = widest(tau)
    return u, np.exp(-tau * u)


def epsilon(theta, ridge):
    return ridge * jnp.trace(theta) / len(theta)


def leave_one_out(
    theta, y, ridges, form=lambda y, inverse, theta: y - inverse @ y / jnp.diag(inverse)[:, None], at=epsilon
):
    found = []
    for ridge in ridges:
        inverse = jnp.linalg.inv(theta + at(theta, ridge) * jnp.eye(len(theta)))
        found.append(form(y, inverse, theta))
    return jnp.stack(found)


def by_spectrum(theta, y, ridges):
    lam, u = np.linalg.eigh(np.asarray(theta, np.float64))
    inverse = 1 / (lam + np.asarray(ridges, np.float64)[:, None] * lam.mean())
    c = np.einsum("ia,ra,ak->rik", u, inverse, u.T @ np.asarray(y, np.float64))
    return np.asarray(y)[None] - c / np.einsum("ia,ra->ri", u**2, inverse)[:, :, None]


def by_loop(theta, y, ridges, own=False):
    theta, y = np.asarray(theta, np.float64), np.asarray(y, np.float64)
    n = len(theta)
    found = np.zeros((len(ridges), *y.shape))
    for i in range(n):
        rest = np.arange(n) != i
        few = theta[np.ix_(rest, rest)]
        for a, ridge in enumerate(np.asarray(ridges, np.float64)):
            eps = ridge * (np.trace(few) / (n - 1) if own else np.trace(theta) / n)
            found[a, i] = theta[i, rest] @ np.linalg.solve(few + eps * np.eye(n - 1), y[rest])
    return found


def coarse(tau):
    """On a grid that is too wide for either number."""
    u = np.linspace(0, 10, 21)
    gap = 1 / (1 + u) - np.exp(-tau * u)
    i = int(np.abs(gap).argmax())
    return u[i], gap[i]


def in_float32(tau):
    u = jnp.linspace(0, 30, 3001, dtype=jnp.float32)
    gap = 1 / (1 + u) - jnp.exp(-jnp.float32(tau) * u)
    i = jnp.abs(gap).argmax()
    return [u[i], gap[i]]


def with_zero(theta, y, ridges):
    """The fit to all inputs, the target of the one in question set to zero."""
    found = []
    for ridge in ridges:
        hat = theta @ jnp.linalg.inv(theta + epsilon(theta, ridge) * jnp.eye(len(theta)))
        found.append((hat - jnp.diag(jnp.diag(hat))) @ y)
    return jnp.stack(found)


def by_hat_matrix(theta, y, ridges):
    """The same through H, as nested lists."""
    found = []
    for ridge in ridges:
        hat = theta @ jnp.linalg.inv(theta + epsilon(theta, ridge) * jnp.eye(len(theta)))
        own = jnp.diag(hat)[:, None]
        found.append((hat @ y - own * y) / (1 - own))
    return [np.asarray(one).tolist() for one in found]


def with_form(form):
    return lambda theta, y, ridges: leave_one_out(theta, y, ridges, form=form)


def of_r(theta, y, ridges, power):
    found = []
    for ridge in ridges:
        r = theta + epsilon(theta, ridge) * jnp.eye(len(theta))
        found.append(y - jnp.linalg.solve(r, y) * jnp.diag(r)[:, None] ** power)
    return jnp.stack(found)


def by_the_library(theta, y, ridges):
    return jnp.stack([ntk.loo(theta, y, ridge=float(ridge)) for ridge in ridges])


def ridge_with(form):
    return lambda theta, steps, eta, mu: form(len(theta), eta * steps, jnp.trace(theta), mu)


def matching(theta, steps, learning_rate, momentum):
    return len(theta) ** 2 * (1 - momentum) / (learning_rate * steps * jnp.trace(theta))


def from_a_small_mode(theta, steps, learning_rate, momentum):
    """Run the recursion of a mode that is hardly learned."""
    n, lam = len(theta), 1e-9
    f, v = 0.0, 0.0
    for _ in range(int(steps)):
        v = momentum * v + (f - 1.0)
        f = f - learning_rate * lam / n * v
    return lam / f / (float(np.trace(np.asarray(theta))) / n)


TABLES = [
    Table(
        "12.1",
        right={
            "on a grid": widest,
            "by lobes": by_lobes,
            "an array": lambda tau: jnp.array(widest(tau)),
            "float32": in_float32,
        },
        wrong={
            "τ = 1": (lambda tau: widest(1.0), "does your function use `tau`?"),
            "t/N for 1/ε": (in_units_of_time, "in units of N/t"),
            "u/τ": (lambda tau: widest(tau, exponent=lambda tau: 1 / tau), "not e^(−u/τ)"),
            "flow's lobe": (lambda tau: widest(tau, size=lambda gap: gap), "here the ridge is ahead by more"),
            "ridge's lobe": (first_lobe, "here the flow is ahead by more"),
            "ridge minus flow": (lambda tau: (widest(tau)[0], -widest(tau)[1]), "flow minus ridge"),
            "its size": (lambda tau: (widest(tau)[0], abs(widest(tau)[1])), "its sign"),
            "swapped": (lambda tau: widest(tau)[::-1], "swapped"),
            "what is left": (what_is_left, "not the gap"),
            "a coarse grid": (coarse, "off by more than the margin"),
            "the place alone": (lambda tau: widest(tau)[0], "tuple of 2"),
            "no return": (lambda tau: None, "is a `return` missing?"),
        },
    ),
    Table(
        "12.2",
        right={
            "inverses": leave_one_out,
            "the spectrum": by_spectrum,
            "a loop over all fits": by_loop,
            "lists, by the hat matrix": by_hat_matrix,
        },
        wrong={
            "fitted values": (with_form(lambda y, inverse, theta: theta @ inverse @ y), "still in the fit"),
            "residuals": (with_form(lambda y, inverse, theta: inverse @ y / jnp.diag(inverse)[:, None]), "residuals"),
            "added": (with_form(lambda y, inverse, theta: y + inverse @ y / jnp.diag(inverse)[:, None]), "sign"),
            "multiplied": (
                with_form(lambda y, inverse, theta: y - inverse @ y * jnp.diag(inverse)[:, None]),
                "not multiplied",
            ),
            "not divided": (with_form(lambda y, inverse, theta: y - inverse @ y), "division"),
            "diagonal of R": (lambda theta, y, ridges: of_r(theta, y, ridges, -1), "should be that of its inverse"),
            "1/R_ii": (lambda theta, y, ridges: of_r(theta, y, ridges, 1), "invert first"),
            "absolute ridge": (lambda *of: leave_one_out(*of, at=lambda theta, ridge: ridge), "the ridge is relative"),
            "trace": (lambda *of: leave_one_out(*of, at=lambda theta, ridge: ridge * jnp.trace(theta)), "has a 1/N"),
            "no ridge": (lambda *of: leave_one_out(*of, at=lambda theta, ridge: 0.0), "no ridge"),
            "a ridge that moves": (lambda *of: by_loop(*of, own=True), "moves with the input"),
            "zero for the target": (with_zero, "replaced by zero"),
            "the library": (by_the_library, "`loo`"),
            "axes": (lambda *of: jnp.swapaxes(leave_one_out(*of), 0, 1), "another order"),
            "one ridge": (lambda theta, y, ridges: leave_one_out(theta, y, ridges[:1])[0], "shape"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "12.3",
        right={
            "the formula": (3, matching),
            "a list, a float": [3.0, lambda theta, k, eta, mu: float(matching(theta, k, eta, mu))],
            "a small mode": (3, from_a_small_mode),
        },
        wrong={
            "line 1": ((1, matching), "line 1 is right"),
            "line 2": ((2, matching), "line 2 is right"),
            "line 4": ((4, matching), "follows from line 3"),
            "line 5": ((5, matching), "further up"),
            "no line": ((7, matching), "1 to 5"),
            "flawed": ((3, ridge_with(lambda n, t, tr, mu: n * (1 - mu) / (t * tr))), "flaw of line 3"),
            "N too often": ((3, ridge_with(lambda n, t, tr, mu: n**3 * (1 - mu) / (t * tr))), "N times too large"),
            "ε": ((3, ridge_with(lambda n, t, tr, mu: n * (1 - mu) / t)), "that is ε"),
            "no rate": ((3, lambda theta, k, eta, mu: matching(theta, k, 1.0, mu)), "learning rate is missing"),
            "no momentum": ((3, lambda theta, k, eta, mu: matching(theta, k, eta, 0.0)), "momentum is not in it"),
            "slower": (
                (3, ridge_with(lambda n, t, tr, mu: n**2 / (t * tr * (1 - mu)))),
                "momentum makes training faster",
            ),
            "1 + μ": ((3, ridge_with(lambda n, t, tr, mu: n**2 / (t * tr * (1 + mu)))), "not 1/(1 + μ)"),
            "squared": ((3, ridge_with(lambda n, t, tr, mu: n**2 * (1 - mu) ** 2 / (t * tr))), "not its square"),
            "the best time": (
                (3, lambda *of: matching(*of) / 0.56),  # τ of the chapter, which the map does not have
                "off by more than the margin",
            ),
            "the number as text": (("3", matching), "number of one of the lines"),
            "μ": ((3, lambda theta, k, eta, mu: matching(theta, k, eta, 1 - mu if mu else 0.0)), "not μ"),
            "no return": ((3, lambda *of: None), "is a `return` missing?"),
            "the line alone": (3, "tuple of 2"),
        },
    ),
    Table(
        "12.4",
        right={"numbers": (2.0, 1.0), "whole numbers": [2, 1], "an array": jnp.array([2.0, 1.0])},
        wrong={
            "nothing changes": ((1, 1), "something has to change"),
            "the other way": ((0.5, 1), "other way around"),
            "twice": ((4, 1), "only ε counts"),
            "sooner": ((2, 0.5), "the loss is a mean"),
            "later": ((2, 2), "so do the eigenvalues"),
            "N squared": ((2, 4), "cancel"),
            "swapped": ((1, 2), "something has to change"),
            "one number": (2, "tuple of 2"),
            "something": ((3, 1), "off by more"),
            "words": (("two", 1), "one number"),
        },
    ),
]
test_answers = cases(TABLES)  # written questions need no table
