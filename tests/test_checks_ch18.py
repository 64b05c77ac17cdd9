"""Right and wrong answers to the tasks of chapter 18."""

import jax.numpy as jnp
import numpy as np
import pytest
from mutations import Table, cases
from scipy.optimize import minimize_scalar

from course import check
from course.expect import CheckFailed


def rescaling(theta0, theta):
    c = jnp.sum(theta * theta0) / jnp.sum(theta0**2)
    return c, (c - 1) ** 2 * jnp.sum(theta0**2) / jnp.sum((theta - theta0) ** 2)


def by_least_squares(theta0, theta):
    u, v = np.ravel(theta0)[:, None], np.ravel(theta)
    (c,), *_ = np.linalg.lstsq(u, v, rcond=None)
    rest = v - c * u[:, 0]
    return [float(c), 1 - rest @ rest / np.sum((v - u[:, 0]) ** 2)]


def of_traces(theta0, theta):
    """The ratio of the traces over images and outputs."""
    first, last = (np.asarray(part) for part in (theta0, theta))
    trace = "ii->" if first.ndim == 2 else "iikk->"
    return np.einsum(trace, last) / np.einsum(trace, first)


def with_c(factor):
    """Another number in the place of c, and the right share."""
    return lambda theta0, theta: (factor(jnp.ravel(theta0), jnp.ravel(theta)), rescaling(theta0, theta)[1])


def with_share(share):
    """The right c, and another share, of c and the squared norms of Θ_0, Θ_t and their difference."""

    def answer(theta0, theta):
        c = rescaling(theta0, theta)[0]
        return c, share(c, jnp.sum(theta0**2), jnp.sum(theta**2), jnp.sum((theta - theta0) ** 2))

    return answer


def velocities(distances, lags, exponents, lag):
    return distances * (lag / lags) ** exponents / lag


def one_by_one(distances, lags, exponents, lag):
    """From the prefactor of each power law."""
    found = []
    for S, gap, h in zip(np.asarray(distances), np.asarray(lags), np.asarray(exponents), strict=True):
        found.append(float(S / gap**h * lag ** (h - 1)))
    return found


def risks(H, m, w1, w2):
    u, d = w1 - m, w2 - w1
    start, slope, bend = 0.5 * u @ H @ u, u @ H @ d, d @ H @ d

    def risk(a):
        return start + slope * a + 0.5 * bend * a**2

    return risk, slope, bend


def barrier(H, m, w1, w2, subtract=lambda first, last: (first + last) / 2, inner=True):
    risk, slope, bend = risks(H, m, w1, w2)
    top = max(risk(0.0), risk(1.0))
    if inner and bend < 0 and 0 < -slope / bend < 1:
        top = max(top, risk(-slope / bend))
    return top - subtract(risk(0.0), risk(1.0))


def by_search(H, m, w1, w2):
    H, m, w1, w2 = (np.asarray(value, np.float64) for value in (H, m, w1, w2))

    def risk(a):
        w = (1 - a) * w1 + a * w2 - m
        return 0.5 * w @ H @ w

    starts = np.arange(8) / 8
    tops = [-minimize_scalar(lambda b: -risk(b), bounds=(a, a + 1 / 8), method="bounded").fun for a in starts]
    return max(*tops, risk(0.0), risk(1.0)) - 0.5 * risk(0.0) - 0.5 * risk(1.0)


def by_cases(H, m, w1, w2):
    """From the bend and the difference of the ends alone."""
    H, m, w1, w2 = (np.asarray(value, np.float64) for value in (H, m, w1, w2))
    bend = float((w2 - w1) @ H @ (w2 - w1))
    difference = float((w2 - m) @ H @ (w2 - m) - (w1 - m) @ H @ (w1 - m)) / 2
    if bend >= 0 or abs(difference) >= -bend / 2:
        return abs(difference) / 2
    return -bend / 8 - difference**2 / (2 * bend)


def at_the_clipped_point(H, m, w1, w2):
    risk, slope, bend = risks(H, m, w1, w2)
    return risk(jnp.clip(-slope / bend, 0, 1)) - (risk(0.0) + risk(1.0)) / 2


def on_a_grid(H, m, w1, w2):
    risk, *_ = risks(H, m, w1, w2)
    return max(risk(a) for a in np.linspace(0, 1, 11)) - (risk(0.0) + risk(1.0)) / 2


def always_the_stationary_point(H, m, w1, w2):
    risk, slope, bend = risks(H, m, w1, w2)
    return risk(-slope / bend) - (risk(0.0) + risk(1.0)) / 2


def at_the_middle(H, m, w1, w2):
    risk, *_ = risks(H, m, w1, w2)
    return risk(0.5) - (risk(0.0) + risk(1.0)) / 2


TIME, NET = np.arange(4.0)[:, None], np.arange(6.0)[None]
FALLING = (-10 * TIME + NET, -10 * TIME - NET)
RNG = np.random.default_rng(0)

TABLES = [
    Table(
        "18.1",
        right={"inner products": rescaling, "least squares": by_least_squares},
        wrong={
            "norms": (with_c(lambda u, v: jnp.sqrt((v @ v) / (u @ u))), "ratio of the norms"),
            "cosine": (with_c(lambda u, v: (u @ v) / jnp.sqrt((v @ v) * (u @ u))), "that is the cosine"),
            "traces": (lambda *of: (of_traces(*of), rescaling(*of)[1]), "ratio of the traces"),
            "the other way": (with_c(lambda u, v: (u @ v) / (v @ v)), "multiple of Θ_t"),
            "the rest": (with_share(lambda c, a, b, moved: 1 - (c - 1) ** 2 * a / moved), "share of the rest"),
            "not squared": (with_share(lambda c, a, b, moved: jnp.sqrt((c - 1) ** 2 * a / moved)), "squared norms"),
            "the chapter's": (
                with_share(lambda c, a, b, moved: (jnp.sqrt(b / a) - 1) ** 2 * a / moved),
                "split of the chapter",
            ),
            "squared cosine": (with_share(lambda c, a, b, moved: c**2 * a / b), "the squared cosine"),
            "from zero": (with_share(lambda c, a, b, moved: c**2 * a / moved), "not from zero"),
            "over the end": (with_share(lambda c, a, b, moved: (c - 1) ** 2 * a / b), "not by ‖Θ_t‖²"),
            "over the start": (with_share(lambda c, a, b, moved: (c - 1) ** 2), "not by ‖Θ_0‖²"),
            "swapped": (lambda *of: rescaling(*of)[::-1], "swapped"),
            "c alone": (lambda *of: rescaling(*of)[0], "tuple of 2"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "18.3",
        right={"arrays": (3, velocities), "one by one": [3.0, one_by_one]},
        wrong={
            "line 1": ((1, velocities), "line 1 is right"),
            "line 2": ((2, velocities), "line 2 is a measurement"),
            "line 4": ((4, velocities), "follows from line 3"),
            "line 5": ((5, velocities), "further up"),
            "no line": ((6, velocities), "1 to 5"),
            "flawed": ((3, lambda S, lags, h, lag: S / lags), "flaw of line 3"),
            "distances": ((3, lambda S, lags, h, lag: S * (lag / lags) ** h), "distances at the common lag"),
            "own lags": ((3, lambda S, lags, h, lag: S * (lag / lags) ** h / lags), "divide by the common lag"),
            "upside down": ((3, lambda S, lags, h, lag: S * (lags / lag) ** h / lag), "upside down"),
            "2 for both": ((3, lambda S, lags, h, lag: S * (lag / lags) ** 2 / lag), "took 2 for both"),
            "h for both": ((3, lambda S, lags, h, lag: S * (lag / lags) ** h[1] / lag), "late one for both"),
            "half": ((3, lambda S, lags, h, lag: S * (lag / lags) ** (h / 2) / lag), "not like lag^(h/2)"),
            "late first": ((3, lambda *of: velocities(*of)[::-1]), "early one comes first"),
            "one number": ((3, lambda *of: velocities(*of)[1]), "shape"),
            "no return": ((3, lambda *of: None), "is a `return` missing?"),
            "the line alone": (3, "tuple of 2"),
        },
    ),
    Table(
        "18.4",
        right={"numbers": (-2.0, -1.0), "whole numbers": [-2, -1], "an array": jnp.array([-2.0, -1.0])},
        wrong={
            "both linear": ((-1, -1), "quadratic in the motion"),
            "travel 1/α²": ((-4, -2), "not 1/α² as far"),
            "grows": ((2, -1), "becomes lazy"),
            "no change": ((0, -1), "does not count"),
            "both quadratic": ((-2, -2), "Only S is quadratic"),
            "scale grows": ((-2, 1), "becomes lazy"),
            "α²": ((-2, 2), "with its own start"),
            "swapped": ((-1, -2), "swapped"),
            "one number": (-2, "tuple of 2"),
            "something": ((-3, -1), "off by more"),
        },
    ),
    Table(
        "18.5",
        right={"the parabola": barrier, "a search": by_search, "two cases, floats": by_cases},
        wrong={
            "no top inside": (lambda *of: barrier(*of, inner=False), "lies inside the line"),
            "above the larger end": (lambda *of: barrier(*of, subtract=jnp.maximum), "above the larger end"),
            "not subtracted": (lambda *of: barrier(*of, subtract=lambda u, v: 0.0), "subtract the mean"),
            "the sum": (lambda *of: barrier(*of, subtract=lambda u, v: u + v), "not their sum"),
            "no half": (lambda H, *of: barrier(2 * H, *of), "½ of the loss"),
            "stationary": (always_the_stationary_point, "no maximum on the line"),
            "clipped": (at_the_clipped_point, "the lower end"),
            "the middle": (at_the_middle, "at the middle"),
            "a grid": (on_a_grid, "over a grid"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "18.6",
        right={
            "arrays": FALLING,
            "lists that rise": [(5 * TIME + 0.1 * NET).tolist(), (TIME - 0.01 * NET).tolist()],
            "JAX": tuple(jnp.asarray(part) for part in FALLING),
        },
        wrong={
            "alike": ((FALLING[0], FALLING[0]), "is +1"),
            "networks mix": ((-TIME + NET, -TIME - NET), "correlation is"),
            "by little": ((-2 * TIME + NET, -2 * TIME - NET), "not above 0.8"),
            "against time": ((10 * TIME + NET, -10 * TIME - NET), "change with the onset alike"),
            "random": ((-10 * TIME + RNG.normal(size=(4, 6)), -10 * TIME + RNG.normal(size=(4, 6))), "is not −1"),
            "equal networks": ((-10 * TIME + 0 * NET, -10 * TIME - NET), "should differ"),
            "turned": ((FALLING[0].T, FALLING[1].T), "shape"),
            "one array": (FALLING[0], "tuple of 2"),
        },
    ),
]
test_answers = cases(TABLES)  # written questions need no table


NUMBERS = ("0.03", "$0.03$", ".03", "0.030", "3 %", "3%", r"$3\,\%$", "3 percent", "Three percent", "3/100")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_found_however_it_is_written(number, capsys):
    check("18.2", f"The worse child has the largest error on the line; above the mean of the ends it is {number}.")
    assert "written down" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["0.3", "0.035", "0.21", "0.06", "13 %"])
def test_another_number_is_refused(number):
    with pytest.raises(CheckFailed, match="a number is missing"):
        check("18.2", f"The worse child has the largest error on the line; above the mean of the ends it is {number}.")
