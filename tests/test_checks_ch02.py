"""Right and wrong answers to the tasks of chapter 02."""

import jax
import jax.numpy as jnp
from mutations import Table, cases


def contributions(f, start, end):
    c = jax.jacobian(f)(start) * (end - start)
    total = c.sum(axis=(1, 2))
    return c, total, jnp.mean(c * total[:, None, None] > 0, axis=(1, 2))


def one_output_at_a_time(f, start, end):
    n = f(start).shape[0]
    c = jnp.stack([jax.grad(lambda W, m=m: f(W)[m])(start) * (end - start) for m in range(n)])
    total = jnp.einsum("mij->m", c)
    share = jnp.stack([jnp.mean(jnp.sign(one) == jnp.sign(t)) for one, t in zip(c, total, strict=True)])
    return c, total, share


def account(gradient_at=0, of=None, total_of=None, share_of=None):
    """`contributions` with one step replaced."""

    def answer(f, start, end):
        gradient = jax.jacobian(f)((start, end)[gradient_at])
        c = (of or (lambda g, a, b: g * (b - a)))(gradient, start, end)
        total = (total_of or (lambda c: c.sum((1, 2))))(c)
        right = c.sum((1, 2))[:, None, None]
        share = (share_of or (lambda c, t: jnp.mean(c * t > 0, axis=(1, 2))))(c, right)
        return c, total, share

    return answer


def true_change(f, start, end):
    c, _, share = contributions(f, start, end)
    return c, f(end) - f(start), share


def step_with(weight, bias):
    """A step whose rates, over η, are weight(fan_in, fan_out, σ_w) and bias(fan_in, σ_b, σ_w)."""

    def step(w, b, grad_w, grad_b, *, learning_rate, w_std, b_std):
        n, k = w.shape
        rate_w, rate_b = learning_rate * weight(n, k, w_std), learning_rate * bias(n, b_std, w_std)
        return w - rate_w * grad_w, b - rate_b * grad_b

    return step


def by_way_of_ntk(w, b, grad_w, grad_b, *, learning_rate, w_std, b_std):
    m = w_std / jnp.sqrt(w.shape[0])
    return m * (w / m - learning_rate * m * grad_w), b_std * (b / b_std - learning_rate * b_std * grad_b)


def square(n, s, _):
    return s**2


right_step = step_with(lambda n, k, s: s**2 / n, square)
flawed_step = step_with(lambda n, k, s: s / n**0.5, lambda n, s, _: s)


def exponent(p):
    i, h, o = p.input, p.hidden, p.output
    delta = min(o.multiplier + o.init, 2 * o.multiplier + o.rate)
    return delta + min(i.rate_out, h.rate + h.rate_out + 2 * h.multiplier - 1)


def layer_by_layer(p):
    delta = -max(-p.output.multiplier - p.output.init, -2 * p.output.multiplier - p.output.rate)
    powers = [(0.0, p.input.rate_out, 0), (p.hidden.multiplier, p.hidden.rate + p.hidden.rate_out, 1)]
    return jnp.array([delta + c + 2 * a - terms for a, c, terms in powers]).min()


def exponent_with(delta=None, first=None, hidden=None, both=min):
    def answer(p):
        i, h, o = p.input, p.hidden, p.output
        d = min(o.multiplier + o.init, 2 * o.multiplier + o.rate) if delta is None else delta(o)
        first_layer = i.rate_out if first is None else first(i)
        hidden_layer = h.rate + h.rate_out + 2 * h.multiplier - 1 if hidden is None else hidden(h)
        return d + both(first_layer, hidden_layer)

    return answer


TABLES = [
    Table(
        "02.1",
        right={"jacobian": contributions, "one output at a time": one_output_at_a_time},
        wrong={
            "gradient at the end": (account(gradient_at=1), "gradient at the end"),
            "no movement": (account(of=lambda g, a, b: g), "gradient alone"),
            "no gradient": (account(of=lambda g, a, b: jnp.broadcast_to(b - a, g.shape)), "movement alone"),
            "weights for movement": (account(of=lambda g, a, b: g * b), "how far they moved"),
            "start minus end": (account(of=lambda g, a, b: g * (a - b)), "sign is wrong"),
            "summed over outputs": (account(of=lambda g, a, b: g * (b - a), total_of=lambda c: c.sum()), "summed up"),
            "mean for sum": (account(total_of=lambda c: c.mean((1, 2))), "mean over the weights"),
            "sum of sizes": (account(total_of=lambda c: jnp.abs(c).sum((1, 2))), "absolute values"),
            "true change": (true_change, "true change"),
            "share of the positive": (account(share_of=lambda c, t: jnp.mean(c > 0, axis=(1, 2))), "positive"),
            "share against": (account(share_of=lambda c, t: jnp.mean(c * t < 0, axis=(1, 2))), "other sign"),
            "count": (account(share_of=lambda c, t: jnp.sum(c * t > 0.0, axis=(1, 2)) * 1.0), "counts"),
            "no share": (lambda f, a, b: contributions(f, a, b)[:2], "tuple of 3"),
        },
    ),
    Table(
        "02.2",
        right={"numbers": (-0.5, -1, -0.5), "a list": [-1 / 2, -1.0, -1 / 2]},
        wrong={
            "coins": ((-0.5, 0, -0.5), "coins"),
            "no gradient": ((-0.5, -2, -0.5), "One contribution is η/n"),
            "growth for rate": ((0.5, 1, 0.5), "undo"),
            "hidden everywhere": ((-1, -1, -1), "about n of these weights"),
            "readout everywhere": ((-0.5, -0.5, -0.5), "n² of these weights"),
            "SGD's rates": ((0, 0, 0), "grows with the width"),
            "one number": (-1, "tuple of 3"),
        },
    ),
    Table(
        "02.3",
        right={"rates": (4, right_step), "there and back": [4, by_way_of_ntk]},
        wrong={
            "the end of it": ((5, right_step), "further up"),
            "the chain rule": ((2, right_step), "line 2 is right"),
            "not a line": ((0, right_step), "1 to 5"),
            "the flawed step": ((4, flawed_step), "stands there once"),
            "1/n without σ²": ((4, step_with(lambda n, k, s: s / n, square)), "σ_w enters once"),
            "σ_w forgotten": ((4, step_with(lambda n, k, s: 1 / n, square)), "σ_w is missing"),
            "σ² over √n": ((4, step_with(lambda n, k, s: s**2 / n**0.5, square)), "σ_w twice"),
            "fan-out": ((4, step_with(lambda n, k, s: s**2 / k, square)), "fan-out"),
            "not converted": ((4, step_with(lambda n, k, s: 1.0, square)), "not converted"),
            "the other way": ((4, step_with(lambda n, k, s: n / s**2, square)), "divided by"),
            "uphill": ((4, step_with(lambda n, k, s: -(s**2) / n, square)), "sign is wrong"),
            "σ_b once": ((4, step_with(lambda n, k, s: s**2 / n, lambda n, s, _: s)), "σ_b stands there once"),
            "bias at η": ((4, step_with(lambda n, k, s: s**2 / n, lambda n, s, _: 1.0)), "rate of its own"),
            "bias over n": ((4, step_with(lambda n, k, s: s**2 / n, lambda n, s, _: s**2 / n)), "no fan-in"),
            "one rate": ((4, step_with(lambda n, k, s: s**2 / n, lambda n, _, s: s**2 / n)), "rate of the weights"),
        },
    ),
    Table(
        "02.4",
        right={"the formula": exponent, "layer by layer": layer_by_layer},
        wrong={
            "hidden rate only": (exponent_with(hidden=lambda h: h.rate + 2 * h.multiplier - 1), "fan-out is n as well"),
            "d as a width": (exponent_with(first=lambda i: i.rate + i.rate_out + 2 * i.multiplier), "d, a constant"),
            "still readout": (exponent_with(delta=lambda o: o.multiplier + o.init), "also move"),
            "readout from zero": (exponent_with(delta=lambda o: 2 * o.multiplier + o.rate), "at the start are missing"),
            "no coherent sum": (exponent_with(hidden=lambda h: h.rate + h.rate_out + 2 * h.multiplier), "n inputs"),
            "K as a width": (
                exponent_with(delta=lambda o: min(o.multiplier + o.init, 2 * o.multiplier + o.rate + o.rate_out)),
                "K, a constant",
            ),
            "the laziest layer": (exponent_with(both=max), "largest r_l"),
            "hidden only": (exponent_with(both=lambda first, hidden: hidden), "first layer is missing"),
            "first only": (exponent_with(both=lambda first, hidden: first), "hidden layers are missing"),
            "a table": (lambda p: {"NTK": 0.5, "MUP": 0.0}.get(p.name, 0.5), "not right"),
        },
    ),
]
test_answers = cases(TABLES)
