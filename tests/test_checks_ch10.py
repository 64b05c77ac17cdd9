"""Right and wrong answers to the tasks of chapter 10."""

import jax.numpy as jnp
import numpy as np
from mutations import Table, cases
from scipy.integrate import quad
from scipy.stats import chi2


def steps(
    theta, nngp, y, beta, rate, target, share=lambda b: (1 - b) ** 2, outputs=None, power=2, half=0.5, n=None, of_y=1.0
):
    size, k = y.shape
    lam, modes = np.linalg.eigh(np.asarray(theta, np.float64))
    start = (k if outputs is None else outputs) * np.diag(modes.T @ np.asarray(nngp, np.float64) @ modes)
    energy = of_y * ((modes.T @ np.asarray(y, np.float64)) ** 2).sum(1) + share(beta) * start
    left = (1 - rate * lam / (n or size)) ** (power * np.arange(8000)[:, None])
    return int(np.argmax(left @ energy * half / size <= target))


def step_by_step(theta, nngp, y, beta, rate, target):
    """The second moment of the residual, carried from step to step."""
    theta, nngp, y = (np.asarray(a, np.float64) for a in (theta, nngp, y))
    n, k = y.shape
    moment = y @ y.T + (1 - beta) ** 2 * k * nngp
    step, count = np.eye(n) - rate * theta / n, 0
    while np.trace(moment) / (2 * n) > target:
        moment, count = step @ moment @ step, count + 1
    return count


def in_jax(theta, nngp, y, beta, rate, target):
    lam, modes = jnp.linalg.eigh(theta)
    energy = ((modes.T @ y) ** 2).sum(1) + (1 - beta) ** 2 * y.shape[1] * jnp.sum(modes * (nngp @ modes), 0)
    losses = jnp.abs(1 - rate * lam / len(y)) ** (2 * jnp.arange(5000)[:, None]) @ energy / (2 * len(y))
    return jnp.sum(losses > target)


def with_slip(**slip):
    return lambda *of: steps(*of, **slip)


def ratios(v, b2, n, members):
    return members, (v / (members * n) + b2 / (members * n) ** 2) / (v / (members * n) + b2 / n**2)


def simplified(v, b2, n, members):
    return float(members), (v * n * members + b2) / members / (v * n + members * b2)


def other_plain(form):
    return 4, lambda v, b2, n, members: (form(members), ratios(v, b2, n, members)[1])


def other_centered(form):
    return 4, lambda v, b2, n, members: (members, form(v, b2, n, members))


def errors(
    theta,
    nngp,
    y,
    y_test,
    rate,
    times,
    members,
    factor=None,
    sign=-1.0,
    of_mean=1.0,
    start=1.0,
    n=None,
    flow=False,
    outputs=None,
):
    size, k = y.shape
    lam, modes = jnp.linalg.eigh(theta[:size, :size])
    m, found = len(y_test), []
    for s in times:
        b = jnp.exp(-rate * lam * s / size) if flow else (1 - rate * lam / (n or size)) ** s
        a = theta[size:, :size] @ (modes * ((1 - b) / lam)) @ modes.T
        rest = jnp.concatenate([sign * start * a, jnp.eye(m)], 1)
        weight = k / m / members if factor is None else factor(k, m, members)
        part = of_mean * ((a @ y - y_test) ** 2).sum(1).mean()
        found.append((part + weight * jnp.trace(rest @ nngp @ rest.T)) / (outputs or 1))
    return jnp.stack(found)


def by_recursion(theta, nngp, y, y_test, rate, times, members):
    """The functional of f₀, and the mean, carried from step to step."""
    theta, nngp, y, y_test = (np.asarray(a, np.float64) for a in (theta, nngp, y, y_test))
    n, k = y.shape
    f, g, found = np.zeros((len(theta), k)), np.eye(len(theta)), []
    for s in range(1, max(times) + 1):
        f = f - rate / n * theta[:, :n] @ (f[:n] - y)
        g = g - rate / n * theta[:, :n] @ g[:n]
        if s in times:
            spread = k * np.trace(g[n:] @ nngp @ g[n:].T) / len(y_test)
            found.append(((f[n:] - y_test) ** 2).sum(1).mean() + spread / members)
    return found


def errors_with(**slip):
    return lambda *of: errors(*of, **slip)


def of_kernel(theta, nngp, *rest):
    return errors(theta, theta, *rest)


def over_outputs(theta, nngp, y, *rest):
    return errors(theta, nngp, y, *rest, outputs=y.shape[1])


def pieces(n, a):
    once, twice = (1 + 2 * a / n) ** (-n / 2), (1 + 4 * a / n) ** (-n / 2)
    return once, twice, np.exp(-a), twice - 2 * np.exp(-a) * once + np.exp(-2 * a), 2 * a**2 * np.exp(-2 * a) / n


def exact(n, a):
    return pieces(n, a)[3] / pieces(n, a)[4]


def by_quadrature(n, a):
    inside = quad(lambda c: chi2.pdf(c, n) * (np.exp(-a * c / n) - np.exp(-a)) ** 2, 0, 40 * n, limit=400)[0]
    return inside / (2 * a**2 * np.exp(-2 * a) / n)


def of_pieces(form):
    return lambda n, a: form(n, a, *pieces(n, a))


TABLES = [
    Table(
        "10.1",
        right={
            "modes": steps,
            "the second moment, step by step": step_by_step,
            "JAX": in_jax,
            "a float": lambda *of: np.float32(steps(*of)),
        },
        wrong={
            "one more": (lambda *of: steps(*of) + 1, "one step too many"),
            "one less": (lambda *of: steps(*of) - 1, "one step too few"),
            "between two steps": (lambda *of: steps(*of) - 0.5, "a whole number"),
            "exponent s": (with_slip(power=1), "not s"),
            "no half": (with_slip(half=1.0), "factor 1/2"),
            "no 1/N": (with_slip(n=1), "the 1/N of the mean loss"),
            "one output": (with_slip(outputs=1), "comes K times"),
            "not squared": (with_slip(share=lambda b: 1 - b), "has its square"),
            "β left": (with_slip(share=lambda b: b**2), "1 − β is what is left"),
            "the NTK": (lambda theta, nngp, *of: steps(theta, theta, *of), "not that of the NTK"),
            "centered": (with_slip(share=lambda b: 0.0), "the start is not in it"),
            "plain": (with_slip(share=lambda b: 1.0), "the plain network"),
            "no targets": (with_slip(of_y=0.0), "the targets are not in it"),
            "an array": (lambda *of: np.arange(3), "one whole number"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "10.2",
        right={"numbers": (0.5, 0.0), "a list": [0.5, 0], "an array": jnp.array([0.5, 0.0])},
        wrong={
            "√2": ((0.5**0.5, 0.0), "√2 is for D"),
            "a quarter": ((0.25, 0.0), "their variances add"),
            "all": ((1.0, 0.0), "average out"),
            "twins independent": ((0.5, 0.5), "not independent"),
            "twins equal": ((0.5, 1.0), "not at f₀"),
            "twins a quarter": ((0.5, 0.25), "correlation −1"),
            "swapped": ((0.0, 0.5), "swapped"),
            "something": ((0.4, 0.0), "off by more"),
            "twins something": ((0.5, 0.1), "off by more"),
            "one number": (0.5, "tuple of 2"),
        },
    ),
    Table(
        "10.3",
        right={
            "the formula": (4, ratios),
            "simplified": [4.0, simplified],
            "an array": (4, lambda *of: jnp.array(ratios(*of))),
        },
        wrong={
            "line 1": ((1, ratios), "line 1 is right"),
            "line 2": ((2, ratios), "line 2 is right"),
            "line 3": ((3, ratios), "line 3 is right"),
            "line 5": ((5, ratios), "further up"),
            "no line": ((6, ratios), "1 to 5"),
            "line 4 again": (other_plain(lambda e: 1.0), "line 4 again"),
            "other way": (other_plain(lambda e: 1 / e), "other way round"),
            "root": (other_plain(lambda e: e**0.5), "its root is for D"),
            "square": (other_plain(lambda e: e**2), "V/E, once"),
            "swapped": ((4, lambda *of: ratios(*of)[::-1]), "swapped"),
            "bias falls": (
                other_centered(lambda v, b, n, e: (v / (e * n) + b / (e * n) ** 2) / (v / (e * n) + b / (e * n**2))),
                "does not fall with E",
            ),
            "1/n": (
                other_centered(lambda v, b, n, e: (v / (e * n) + b / (e * n)) / (v / (e * n) + b / n)),
                "falls like 1/n², the variance",
            ),
            "no bias": (other_centered(lambda v, b, n, e: 1.0), "the bias is missing"),
            "upside down": (other_centered(lambda *of: 1 / ratios(*of)[1]), "other way round"),
            "variance not divided": (
                other_centered(lambda v, b, n, e: (v / (e * n) + b / (e * n) ** 2) / (v / n + b / n**2)),
                "divided by E as well",
            ),
            "En once": (
                other_centered(lambda v, b, n, e: (v / (e * n) + b / (e * n**2)) / (v / (e * n) + b / n**2)),
                "(En)²",
            ),
            "no return": ((4, lambda *of: None), "is a `return` missing?"),
        },
    ),
    Table(
        "10.5",
        right={
            "modes": errors,
            "recursion": by_recursion,
            "float32": lambda *of: np.asarray(errors(*of), np.float32),
        },
        wrong={
            "one output": (errors_with(factor=lambda k, m, e: 1 / m / e), "each of the K outputs"),
            "no members": (errors_with(factor=lambda k, m, e: k / m), "members average the start"),
            "members squared": (errors_with(factor=lambda k, m, e: k / m / e**2), "not by its square"),
            "the trace": (errors_with(factor=lambda k, m, e: k / e), "divided by M"),
            "mean divided": (lambda *of: errors(*of, of_mean=1 / of[-1]), "the same in all members"),
            "a sum over inputs": (lambda *of: len(of[3]) * errors(*of), "number of test inputs"),
            "no start": (errors_with(factor=lambda k, m, e: 0.0), "the start is missing"),
            "no mean": (errors_with(of_mean=0.0), "error of the mean function"),
            "sign": (errors_with(sign=1.0), "with a minus sign"),
            "start at test alone": (errors_with(start=0.0), "matters too"),
            "the NTK": (of_kernel, "not that of the NTK"),
            "no 1/N": (errors_with(n=1), "the 1/N is missing"),
            "flow": (errors_with(flow=True), "gradient flow"),
            "mean over outputs": (over_outputs, "not a mean"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "10.6",
        right={"closed form": exact, "quadrature": by_quadrature},
        wrong={
            "variance": (of_pieces(lambda n, a, o, t, m, e, f: (t - o**2) / f), "f has a bias"),
            "upside down": (of_pieces(lambda n, a, o, t, m, e, f: f / e), "upside down"),
            "χ² with variance n": (of_pieces(lambda n, a, o, t, m, e, f: 2 * e / f), "2θ²/n"),
            "no exponential": (of_pieces(lambda n, a, o, t, m, e, f: e / (2 * a**2 / n)), "with the exponential"),
            "no t": (of_pieces(lambda n, a, o, t, m, e, f: e * a**2 / f), "v has a²"),
            "bias": (of_pieces(lambda n, a, o, t, m, e, f: (o - m) ** 2 / f), "squared bias alone"),
            "over v": (of_pieces(lambda n, a, o, t, m, e, f: e / (f * n)), "not v"),
            "χ² alone": (
                of_pieces(lambda n, a, o, t, m, e, f: (pieces(n, n * a)[1] - 2 * m * pieces(n, n * a)[0] + m**2) / f),
                "the ratio is not right",
            ),
            "no 2": (
                of_pieces(lambda n, a, o, t, m, e, f: (o - 2 * m * pieces(n, a / 2)[0] + m**2) / f),
                "with the 2",
            ),
            "exact": (of_pieces(lambda n, a, o, t, m, e, f: e), "the ratio is not right"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
]
test_answers = cases(TABLES)  # written questions need no table
