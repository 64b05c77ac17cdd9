"""Right and wrong answers to the tasks of chapter 06."""

import jax
import jax.numpy as jnp
import numpy as np
from mutations import Table, cases

import ntklib as ntk


def nodes(rule=np.polynomial.hermite_e.hermegauss, normalised=True):
    z, weights = rule(100)
    return jnp.asarray(z), jnp.asarray(weights / weights.sum() if normalised else weights)


def step_with(v, **rule):
    """`variance_step` for V given as v(E, phi, w, b, q), with E[g] at √q Z as E(g)."""

    def answer(phi, w, b, q):
        z, weights = nodes(**rule)
        return jax.vmap(jax.value_and_grad(lambda q: v(lambda g: jnp.sum(weights * g(jnp.sqrt(q) * z)), phi, w, b, q)))(
            q
        )

    return answer


def square(phi):
    return lambda u: phi(u) ** 2


variance_step = step_with(lambda E, phi, w, b, q: b**2 + w**2 * E(square(phi)))


def by_parts(phi, w, b, q):
    z, weights = nodes()
    u = jnp.sqrt(q)[:, None] * z[None, :]
    value, slope = jax.jvp(phi, (u,), (jnp.ones_like(u),))
    return b**2 + w**2 * value**2 @ weights, w**2 * (value * slope * z[None, :]) @ weights / jnp.sqrt(q)


def slope_with(change):
    """The right V and a wrong slope: change(right slope, E[φ'²], w, q)."""

    def answer(phi, w, b, q):
        z, weights = nodes()
        v, chi = variance_step(phi, w, b, q)
        u = jnp.sqrt(q)[:, None] * z[None, :]
        slopes = jax.jvp(phi, (u,), (jnp.ones_like(u),))[1] ** 2 @ weights
        return v, change(chi, slopes, w, q, v)

    return answer


def unscaled(phi, w, b, q):
    z, weights = nodes()
    return jax.vmap(jax.value_and_grad(lambda q: b**2 + w**2 * jnp.sum(weights * phi(q * z) ** 2)))(q)


def line_with(w_var=lambda v, s, q, s1: 1 / s, b_var=lambda v, w, q: q - w * v, at=lambda q: q):
    """`critical_line` from E[φ²], E[φ'²] and E[φ']."""

    def answer(phi, q):
        z, weights = nodes()
        u = jnp.sqrt(at(q))[:, None] * z[None, :]
        value, slope = jax.jvp(phi, (u,), (jnp.ones_like(u),))
        v = value**2 @ weights
        w = w_var(v, slope**2 @ weights, q, slope @ weights)
        return w, b_var(v, w, q)

    return answer


def of_tanh(phi, q):
    w = line_with()(jnp.tanh, q)[0]
    z, weights = nodes()
    return w, q - w * (phi(jnp.sqrt(q)[:, None] * z[None, :]) ** 2 @ weights)


def mean_of_phi_squared(phi, q):
    z, weights = nodes()
    w = line_with()(phi, q)[0]
    return w, q - w * (phi(jnp.sqrt(q)[:, None] * z[None, :]) @ weights) ** 2


def by_the_maps(phi, q):
    slope = jax.vmap(jax.grad(phi))
    values, slopes = [], []
    z, weights = nodes()
    for one in q:
        values.append(jnp.sum(weights * phi(jnp.sqrt(one) * z) ** 2))
        slopes.append(jnp.sum(weights * slope(jnp.sqrt(one) * z) ** 2))
    values, slopes = jnp.stack(values), jnp.stack(slopes)
    return [1 / slopes, q - values / slopes]


def step_in_numpy(f, s_w, s_b, variances):
    """A fine grid for the nodes, Stein's lemma for the slope, a list of two."""
    z = np.linspace(-8, 8, 1001)
    p = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    q = np.asarray(variances, np.float64)
    value = np.asarray(f(jnp.asarray(np.sqrt(q)[:, None] * z)), np.float64) ** 2
    return np.stack([s_b**2 + s_w**2 * value @ p, s_w**2 * (value * (z**2 - 1)) @ p / (2 * q)])


def line_in_numpy(f, q):
    z, p = np.polynomial.hermite_e.hermegauss(80)
    p, u = p / p.sum(), np.sqrt(np.asarray(q))[:, None] * z
    slope = np.asarray(jax.vmap(jax.vmap(jax.grad(f)))(jnp.asarray(u)))
    w_var = 1 / (slope**2 @ p)
    return np.array([w_var, np.asarray(q) - w_var * (np.asarray(f(jnp.asarray(u))) ** 2 @ p)])


def chi_q_for_chi_1(phi, q):
    slope = jax.grad(lambda q, s: jnp.sum(variance_step(phi, 1.0, 0.0, q)[0] * s))(q, jnp.ones_like(q))
    v = variance_step(phi, 1.0, 0.0, q)[0]
    return 1 / slope, q - v / slope


def by_edge(phi, q):
    return ntk.edge_of_chaos(ntk.Elementwise(phi), q)


def by_variance_map(phi, w, b, q):
    v = lambda q: ntk.variance_map(ntk.Elementwise(phi), w, b, q)  # noqa: E731
    return v(q), jax.vmap(jax.grad(v))(q)


def by_depth_scales(w_var, b_var):
    scale = lambda w, b: ntk.depth_scales(ntk.Tanh(), float(w) ** 0.5, float(b) ** 0.5).chi_1  # noqa: E731
    return jnp.array([[scale(w, b) for b in b_var] for w in w_var])


with jax.enable_x64(True):
    NEAR, FAR = (ntk.depth_scales(ntk.Tanh(), w, 0.05**0.5) for w in (1.1, 2.2))
    XI, XI_Q, XI_FAR, CHI = float(NEAR.xi_c), float(NEAR.xi_q), float(FAR.xi_c), float(FAR.chi_1)
MEET, PART = XI * np.log(50), np.log(1e5) / np.log(CHI)


def grid_with(power=1.0, steps=400, outer=1.0, bias=1.0, inner=2):
    def answer(w_var, b_var):
        z, weights = nodes()
        w, b = w_var[:, None], b_var[None, :] ** bias
        mean = lambda f, q: f(jnp.sqrt(q)[..., None] * z) @ weights  # noqa: E731
        q = jnp.ones((w_var.shape[0], b_var.shape[0]))
        q = jax.lax.fori_loop(0, steps, lambda _, q: b + w**power * mean(lambda u: jnp.tanh(u) ** 2, q), q)
        return w**outer * mean(lambda u: 1 / jnp.cosh(u) ** (2 * inner), q)

    return answer


def point_by_point(w_var, b_var):
    """The root of V(q) = q by bisection."""
    z, weights = nodes()

    def one(w, b):
        excess = lambda q: b + w * jnp.sum(weights * jnp.tanh(jnp.sqrt(q) * z) ** 2) - q  # noqa: E731

        def halve(_, ends):
            middle = (ends[0] + ends[1]) / 2
            up = excess(middle) > 0
            return jnp.where(up, middle, ends[0]), jnp.where(up, ends[1], middle)

        q = jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(w), 10.0 * jnp.ones_like(w)))[0]
        return w * jnp.sum(weights * (1 - jnp.tanh(jnp.sqrt(q) * z) ** 2) ** 2)

    return jnp.stack([jnp.stack([one(w, b) for b in b_var]) for w in w_var])


right_grid = grid_with()

TABLES = [
    Table(
        "06.1",
        right={"value_and_grad": variance_step, "by parts": by_parts, "NumPy, an array": step_in_numpy},
        wrong={
            "σ_w": (step_with(lambda E, phi, w, b, q: b**2 + w * E(square(phi))), "σ_w stands there without"),
            "σ_b": (step_with(lambda E, phi, w, b, q: b + w**2 * E(square(phi))), "σ_b stands there without"),
            "no bias": (step_with(lambda E, phi, w, b, q: w**2 * E(square(phi))), "σ_b² is missing"),
            "q Z": (unscaled, "√q Z"),
            "E[φ]²": (step_with(lambda E, phi, w, b, q: b**2 + w**2 * E(phi) ** 2), "mean of the square"),
            "weights": (
                step_with(lambda E, phi, w, b, q: b**2 + w**2 * E(square(phi)), normalised=False),
                "do not sum to one",
            ),
            "other nodes": (
                step_with(lambda E, phi, w, b, q: b**2 + w**2 * E(square(phi)), rule=np.polynomial.hermite.hermgauss),
                "e^(-z²)",
            ),
            "χ_1": (slope_with(lambda chi, s, w, q, v: w**2 * s), "that is χ_1"),
            "no σ_w²": (slope_with(lambda chi, s, w, q, v: chi / w**2), "σ_w² is missing"),
            "over √q": (slope_with(lambda chi, s, w, q, v: chi * 2 * jnp.sqrt(q)), "chain rule"),
            "E[φφ'']": (slope_with(lambda chi, s, w, q, v: chi - w**2 * s), "alone"),
            "quotient": (slope_with(lambda chi, s, w, q, v: v / q), "quotient"),
            "neither squared": (step_with(lambda E, phi, w, b, q: b + w * E(square(phi))), "neither σ_w nor"),
            "σ_w² on the bias": (step_with(lambda E, phi, w, b, q: w**2 * (b**2 + E(square(phi)))), "bias as well"),
            "σ_w on the slope": (slope_with(lambda chi, s, w, q, v: chi / w), "σ_w stands there without"),
            "swapped": (lambda *a: variance_step(*a)[::-1], "swapped"),
            "by the library": (by_variance_map, "`variance_map`"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "V only": (lambda phi, w, b, q: variance_step(phi, w, b, q)[0], "tuple of 2"),
            "by log q": (slope_with(lambda chi, s, w, q, v: chi * q), "with respect to log q"),
            "one slope": (slope_with(lambda chi, s, w, q, v: 0 * q + chi.mean()), "one slope for all q"),
        },
    ),
    Table(
        "06.2",
        right={"the formula": line_with(), "one by one": by_the_maps, "NumPy, an array": line_in_numpy},
        wrong={
            "σ_w": (line_with(w_var=lambda v, s, q, s1: s**-0.5), "that is σ_w;"),
            "upside down": (line_with(w_var=lambda v, s, q, s1: s), "times it is one"),
            "E[φ']²": (line_with(w_var=lambda v, s, q, s1: 1 / s1**2), "mean of the square"),
            "at one": (line_with(at=jnp.ones_like), "at variance 1"),
            "no χ_1": (line_with(w_var=lambda v, s, q, s1: q / v), "is not used"),
            "σ_b": (line_with(b_var=lambda v, w, q: jnp.sqrt(jnp.abs(q - w * v))), "that is σ_b;"),
            "σ_w² lost": (line_with(b_var=lambda v, w, q: q - v), "σ_w² is missing"),
            "root of σ_w²": (line_with(b_var=lambda v, w, q: q - jnp.sqrt(w) * v), "without its square"),
            "squared twice": (line_with(b_var=lambda v, w, q: q - w**2 * v), "squared once more"),
            "χ_q": (chi_q_for_chi_1, "makes χ_q one"),
            "over q": (line_with(b_var=lambda v, w, q: q - w * v / q), "divided by q"),
            "swapped": (lambda *a: line_with()(*a)[::-1], "swapped"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "clipped": (line_with(b_var=lambda v, w, q: jnp.maximum(q - w * v, 0.0)), "softplus"),
            "slope of tanh": (of_tanh, "the slope is that of tanh"),
            "mean of φ squared": (mean_of_phi_squared, "E[φ]² was taken"),
        },
    ),
    Table(
        "06.3",
        right={
            "the laws": (MEET, PART),
            "whole layers": [round(MEET), round(PART)],
            "an array": np.array([MEET, PART]),
        },
        wrong={
            "ξ_c itself": ((XI, PART), "factor e only"),
            "six": ((6 * XI, PART), "border of training"),
            "log10": ((XI * np.log10(50), PART), "natural logarithm"),
            "ξ_q": ((XI_Q * np.log(50), PART), "at rest here"),
            "from one": ((XI * np.log(100), PART), "starts at 0.5"),
            "ξ_c for neighbours": ((MEET, XI_FAR * np.log(1e5)), "c* is reached"),
            "mixed logarithms": ((MEET, 5 / np.log(CHI)), "both times"),
            "χ_1 without log": ((MEET, np.log(1e5) / CHI), "its logarithm counts"),
            "swapped": ((PART, MEET), "numbers are swapped"),
            "divided": ((np.log(50) / XI, PART), "a depth scale is a length"),
            "distance": ((MEET, PART / 2), "half the logarithm"),
            "nan": ((float("nan"), PART), "is nan"),
            "ten powers": ((MEET, np.log(1e6) / np.log(CHI)), "five powers"),
            "one number": (MEET, "tuple of 2"),
            "χ_1 − 1": ((MEET, np.log(1e5) / (CHI - 1)), "only near 1"),
        },
    ),
    Table(
        "06.4",
        right={
            "iterated": (2, right_grid),
            "bisection": (2, point_by_point),
            "a whole float": (2.0, right_grid),
            "NumPy's number": [np.int64(2), right_grid],
        },
        wrong={
            "another line": ((6, right_grid), "line 6 is right"),
            "not a line": ((7, right_grid), "1 to 6"),
            "unchanged": ((2, grid_with(power=2.0, steps=1)), "still the flawed"),
            "one step": ((2, grid_with(steps=1)), "belongs to the fixed point"),
            "still squared": ((2, grid_with(power=2.0)), "q is at rest now"),
            "squared at the end": ((2, grid_with(outer=2.0)), "last line"),
            "rooted": ((2, grid_with(power=0.5)), "root of w_var"),
            "bias squared": ((2, grid_with(bias=2.0)), "b_var is squared"),
            "no step": ((2, grid_with(steps=0)), "left at q = 1"),
            "E[φ'²]": ((2, grid_with(outer=0.0)), "without σ_w²"),
            "swapped": ((2, lambda w, b: right_grid(w, b).T), "shape"),
            "E[φ']": ((2, grid_with(inner=1)), "mean of the square"),
            "by the library": ((2, by_depth_scales), "ntklib's"),
            "a fraction": ((2.5, right_grid), "1 to 6"),
            "no number": ((True, right_grid), "1 to 6"),
            "no return": ((2, lambda w, b: None), "is a `return` missing?"),
            "a few steps": ((2, grid_with(steps=4)), "not at rest yet"),
        },
    ),
]
test_answers = cases(TABLES)
