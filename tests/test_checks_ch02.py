"""Right and wrong answers to the tasks of chapter 02."""

import jax
import jax.numpy as jnp
import numpy as np
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


def in_numpy(function, a, b):
    """With other names, in NumPy, and lists for arrays."""
    c = np.asarray(jax.jacrev(function)(a)) * np.asarray(b - a)
    sums = c.reshape(len(c), -1).sum(1)
    share = [float(np.mean(np.sign(one) == np.sign(t))) for one, t in zip(c, sums, strict=True)]
    return [c, sums.tolist(), share]


def majority(f, start, end):
    c, total, share = contributions(f, start, end)
    return c, total, jnp.maximum(share, 1 - share)


def by_true_change(f, start, end):
    c, total, _ = contributions(f, start, end)
    return c, total, jnp.mean(c * (f(end) - f(start))[:, None, None] > 0, axis=(1, 2))


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


def step_by_loops(w, b, gw, gb, *, learning_rate, w_std, b_std):
    w, b = np.array(w), np.array(b)
    for i in range(w.shape[0]):
        w[i] -= learning_rate * w_std**2 / w.shape[0] * np.asarray(gw)[i]
    return [w, b - learning_rate * b_std**2 * np.asarray(gb)]


def with_rates(w, b, grad_w, grad_b, rate, weight, bias):
    """By place, under names of its own."""
    return w - rate * weight**2 / len(w) * grad_w, b - rate * bias**2 * grad_b


def alone(part):
    def step(w, b, grad_w, grad_b, **rates):
        new_w, new_b = right_step(w, b, grad_w, grad_b, **rates)
        return (new_w - w, new_b) if part == "w" else (new_w, new_b - b)

    return step


def bias_moves_at_zero(w, b, grad_w, grad_b, *, learning_rate, w_std, b_std):
    new_w, new_b = right_step(w, b, grad_w, grad_b, learning_rate=learning_rate, w_std=w_std, b_std=b_std)
    return new_w, jnp.where(b_std == 0, b - learning_rate * grad_b, new_b)


def fixed_width(w, b, grad_w, grad_b, *, learning_rate, w_std, b_std):
    n = min(len(w), 8)
    new_b = b - learning_rate * b_std**2 * grad_b
    return w - learning_rate * w_std**2 / n * grad_w, new_b


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
        right={"jacobian": contributions, "one output at a time": one_output_at_a_time, "NumPy": in_numpy},
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
            "initial weights": (account(of=lambda g, a, b: g * a), "initial weights"),
            "sum over all": (account(total_of=lambda c: jnp.full(len(c), c.sum())), "sum over all outputs"),
            "share of the negative": (account(share_of=lambda c, t: jnp.mean(c < 0, axis=(1, 2))), "negative"),
            "over the outputs": (
                lambda *a: (*contributions(*a)[:2], jnp.mean(contributions(*a)[0] > 0, axis=0)),
                "averaged over the outputs",
            ),
            "majority": (majority, "the majority"),
            "by the true change": (by_true_change, "sign of the true change"),
            "integer counts": (account(share_of=lambda c, t: jnp.sum(c * t > 0, axis=(1, 2))), "counts the weights"),
            "per cent": (account(share_of=lambda c, t: 100 * jnp.mean(c * t > 0, axis=(1, 2))), "percentage"),
            "another order": (lambda *a: [contributions(*a)[i] for i in (0, 2, 1)], "swapped"),
            "a generator": (lambda *a: (part for part in contributions(*a)), "tuple of 3"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "no share": (lambda f, a, b: contributions(f, a, b)[:2], "tuple of 3"),
        },
    ),
    Table(
        "02.2",
        right={"numbers": (-0.5, -1, -0.5), "a list": [-1 / 2, -1.0, -1 / 2], "an array": np.array([-0.5, -1, -0.5])},
        wrong={
            "coins": ((-0.5, 0, -0.5), "coins"),
            "no gradient": ((-0.5, -2, -0.5), "One contribution is η/n"),
            "growth for rate": ((0.5, 1, 0.5), "undo"),
            "hidden everywhere": ((-1, -1, -1), "their number is not"),
            "another order": ((-0.5, -0.5, -1), "not right"),
            "signs": ((-0.5, 1, -0.5), "undo"),
            "words": (("-1/2", -1, -0.5), "one number"),
            "readout everywhere": ((-0.5, -0.5, -0.5), "n² of these weights"),
            "SGD's rates": ((0, 0, 0), "grows with the width"),
            "one number": (-1, "tuple of 3"),
        },
    ),
    Table(
        "02.3",
        right={
            "rates": (4, right_step),
            "loops": [4.0, step_by_loops],
            "other names": (np.int64(4), with_rates),
            "an array": (jnp.array(4), right_step),
        },
        wrong={
            "the end of it": ((5, right_step), "further up"),
            "the chain rule": ((2, right_step), "line 2 is right"),
            "not a line": ((0, right_step), "1 to 5"),
            "units": ((1, right_step), "line 1 is right"),
            "the step": ((3, right_step), "line 3 is right"),
            "a fraction": ((4.5, right_step), "1 to 5"),
            "by way of NTK": ((4, by_way_of_ntk), "divided by b_std"),
            "no bias at zero": ((4, bias_moves_at_zero), "should not move"),
            "movement of w": ((4, alone("w")), "add it to w"),
            "movement of b": ((4, alone("b")), "add it to b"),
            "no learning rate": (
                (4, lambda w, b, gw, gb, *, learning_rate, w_std, b_std: (w - w_std**2 / len(w) * gw, b)),
                "learning rate is missing",
            ),
            "no bias": ((4, step_with(lambda n, k, s: s**2 / n, lambda n, s, _: 0.0)), "bias has not moved"),
            "fixed width": ((4, fixed_width), "a quarter as far"),
            "no return": ((4, lambda *a, **k: None), "is a `return` missing?"),
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
            "nothing for the first layer": (exponent_with(first=lambda i: 0.0), "first layer's fan-out is n"),
            "no fan-out at all": (
                exponent_with(first=lambda i: 0.0, hidden=lambda h: h.rate + 2 * h.multiplier - 1),
                "in the first layer and in hidden ones",
            ),
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
            "multiplier once": (
                exponent_with(
                    delta=lambda o: min(o.multiplier + o.init, o.multiplier + o.rate),
                    hidden=lambda h: h.rate + h.rate_out + h.multiplier - 1,
                ),
                "multiplier counts twice",
            ),
            "rates alone": (
                exponent_with(
                    delta=lambda o: min(o.multiplier + o.init, o.rate), hidden=lambda h: h.rate + h.rate_out - 1
                ),
                "multipliers are missing",
            ),
            "multipliers alone": (
                exponent_with(
                    delta=lambda o: min(o.multiplier + o.init, 2 * o.multiplier),
                    first=lambda i: 0.0,
                    hidden=lambda h: 2 * h.multiplier - 1,
                ),
                "rates are missing",
            ),
            "the smaller readout": (
                exponent_with(delta=lambda o: max(o.multiplier + o.init, 2 * o.multiplier + o.rate)),
                "of the exponents, the smaller",
            ),
            "no return": (lambda p: None, "is a `return` missing?"),
            "a table": (lambda p: {"NTK": 0.5, "MUP": 0.0}.get(p.name, 0.5), "the same number for every record"),
            "a + b in the hidden layers": (
                exponent_with(hidden=lambda h: h.rate + h.rate_out + h.multiplier + h.init - 1),
                "`init` stands where a second",
            ),
        },
    ),
]
test_answers = cases(TABLES)
