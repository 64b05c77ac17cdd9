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


def by_the_maps(phi, q):
    slope = jax.vmap(jax.grad(phi))
    values, slopes = [], []
    z, weights = nodes()
    for one in q:
        values.append(jnp.sum(weights * phi(jnp.sqrt(one) * z) ** 2))
        slopes.append(jnp.sum(weights * slope(jnp.sqrt(one) * z) ** 2))
    values, slopes = jnp.stack(values), jnp.stack(slopes)
    return [1 / slopes, q - values / slopes]


with jax.enable_x64(True):
    NEAR, FAR = (ntk.depth_scales(ntk.Tanh(), w, 0.05**0.5) for w in (1.1, 2.2))
    XI, XI_Q, XI_FAR, CHI = float(NEAR.xi_c), float(NEAR.xi_q), float(FAR.xi_c), float(FAR.chi_1)
MEET, PART = XI * np.log(50), np.log(1e5) / np.log(CHI)


def grid_with(power=1.0, steps=400, outer=1.0, bias=1.0, newton=False):
    def answer(w_var, b_var):
        z, weights = nodes()
        w, b = w_var[:, None], b_var[None, :] ** bias
        mean = lambda f, q: f(jnp.sqrt(q)[..., None] * z) @ weights  # noqa: E731
        q = jnp.ones((w_var.shape[0], b_var.shape[0]))
        q = jax.lax.fori_loop(0, steps, lambda _, q: b + w**power * mean(lambda u: jnp.tanh(u) ** 2, q), q)
        return w**outer * mean(lambda u: 1 / jnp.cosh(u) ** 4, q)

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
        right={"value_and_grad": variance_step, "by parts": by_parts},
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
            "V only": (lambda phi, w, b, q: variance_step(phi, w, b, q)[0], "tuple of 2"),
        },
    ),
    Table(
        "06.2",
        right={"the formula": line_with(), "one by one": by_the_maps},
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
            "clipped": (line_with(b_var=lambda v, w, q: jnp.maximum(q - w * v, 0.0)), "softplus"),
        },
    ),
    Table(
        "06.3",
        right={"the laws": (MEET, PART), "whole layers": [round(MEET), round(PART)]},
        wrong={
            "ξ_c itself": ((XI, PART), "factor e only"),
            "six": ((6 * XI, PART), "border of training"),
            "log10": ((XI * np.log10(50), PART), "natural logarithm"),
            "ξ_q": ((XI_Q * np.log(50), PART), "at rest here"),
            "from one": ((XI * np.log(100), PART), "starts at 0.5"),
            "ξ_c for neighbours": ((MEET, XI_FAR * np.log(1e5)), "c* is reached"),
            "mixed logarithms": ((MEET, 5 / np.log(CHI)), "both times"),
            "χ_1 without log": ((MEET, np.log(1e5) / CHI), "its logarithm counts"),
            "ten powers": ((MEET, np.log(1e6) / np.log(CHI)), "five powers"),
            "one number": (MEET, "tuple of 2"),
        },
    ),
    Table(
        "06.4",
        right={"iterated": (2, right_grid), "bisection": (2, point_by_point)},
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
        },
    ),
]
test_answers = cases(TABLES)
