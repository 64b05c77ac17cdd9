"""Right and wrong answers to the tasks of chapter 05."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from mutations import Table, cases

import ntklib as ntk

sub = functools.partial(jax.tree.map, jnp.subtract)


def linear_model(apply_fn, params):
    def h_bar(w, x):
        value, slope = jax.jvp(lambda p: apply_fn(p, x), (params,), (sub(w, params),))
        return value + slope

    return h_bar


def by_jax_linearize(apply_fn, params):
    def h_bar(w, x):
        value, push = jax.linearize(lambda p: apply_fn(p, x), params)
        return value + push(sub(w, params))

    return h_bar


def by_jacobian(apply_fn, params):
    def h_bar(w, x):
        jac = jax.jacobian(apply_fn)(params, x)
        terms = jax.tree.map(lambda j, c: jnp.tensordot(j, c, axes=c.ndim), jac, sub(w, params))
        return apply_fn(params, x) + sum(jax.tree.leaves(terms))

    return h_bar


def expansion(value=lambda f, w, p: f(p), at=lambda w, p: p, along=lambda w, p: sub(w, p), times=1.0):
    """`linear_model` with one part replaced."""

    def answer(apply_fn, params):
        def h_bar(w, x):
            f = lambda p: apply_fn(p, x)  # noqa: E731
            slope = jax.jvp(f, (at(w, params),), (along(w, params),))[1]
            return value(f, w, params) + times * slope

        return h_bar

    return answer


def fixed(apply_fn, params):
    """Numbers without a gradient."""
    h = linear_model(apply_fn, params)
    return lambda w, x: jax.lax.stop_gradient(h(w, x))


def through_numpy(apply_fn, params):
    h = linear_model(apply_fn, params)
    return lambda w, x: np.asarray(h(w, x))


def by_difference(apply_fn, params, s=1e-2):
    def h_bar(w, x):
        up, down = (jax.tree.map(lambda p, q, s=s: p + s * (q - p), params, w) for s in (s, -s))
        return apply_fn(params, x) + (apply_fn(up, x) - apply_fn(down, x)) / (2 * s)

    return h_bar


def half_trained(apply_fn, params):
    def h_bar(w, x):
        return linear_model(apply_fn, params)({**w, "last": jax.lax.stop_gradient(w["last"])}, x)

    return h_bar


def by_rows(apply_fn, params):
    """One gradient for each output."""

    def h_bar(w, x):
        shape, change = apply_fn(params, x).shape, sub(w, params)

        def one(i, k):
            g = jax.grad(lambda p: apply_fn(p, x)[i, k])(params)
            return sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (g, change)), strict=True))

        return apply_fn(params, x) + jnp.array([[one(i, k) for k in range(shape[1])] for i in range(shape[0])])

    return h_bar


def written_out(model, w0):
    """Other names, the derivative along a line."""

    def bar(weights, inputs):
        line = lambda s: model(jax.tree.map(lambda a, b: a + s * (b - a), w0, weights), inputs)  # noqa: E731
        value, slope = jax.jvp(line, (0.0,), (1.0,))
        return value + slope

    return bar


def around_the_middle(apply_fn, params):
    """h(w + u) and h(w − u): u starts at zero, and w has no gradient there."""

    def fn(p, x):
        up, down = jax.tree.map(jnp.add, *p), jax.tree.map(jnp.subtract, *p)
        return (apply_fn(up, x) - apply_fn(down, x)) / 2

    return fn, [params, jax.tree.map(jnp.zeros_like, params)]


def in_float32(apply_fn, params):
    fn, both = doubled(apply_fn, params)
    return lambda p, x: fn(p, x).astype(jnp.float32), both


def even_part(apply_fn, params):
    """The kernel is right, and so is zero; the second copy is another function."""

    def fn(both, x):
        a, b = (apply_fn(p, x) for p in both)
        start = jax.lax.stop_gradient(apply_fn(params, x))
        return (a - b + (a - start) ** 2) / 2**0.5

    return fn, (params, params)


def three_copies(apply_fn, params):
    return lambda p, x: (apply_fn(p[0], x) - apply_fn(p[1], x)) / 2**0.5 + 0 * apply_fn(p[2], x), (params,) * 3


def doubled(apply_fn, params):
    return lambda both, x: (apply_fn(both[0], x) - apply_fn(both[1], x)) / 2**0.5, (params, params)


def stacked(apply_fn, params):
    both = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    signs = jnp.array([1.0, -1.0]) / jnp.sqrt(2.0)
    return lambda p, x: jnp.einsum("c,cnk->nk", signs, jax.vmap(apply_fn, (0, None))(p, x)), both


def two_copies(combine, start=lambda p: (p, p)):
    def answer(apply_fn, params):
        return lambda both, x: combine(apply_fn(both[0], x), apply_fn(both[1], x)), start(params)

    return answer


def centered(apply_fn, params):
    return lambda p, x: apply_fn(p, x) - apply_fn(params, x), params


def held_fixed(apply_fn, params):
    def fn(both, x):
        return apply_fn(both[0], x) - jax.lax.stop_gradient(apply_fn(both[1], x))

    return fn, (params, params)


def slightly_off(params):
    return params, jax.tree.map(lambda p: p + 0.1, params)


def scale_for_distance(theta, y, travelled):
    return jnp.sqrt(jnp.sum(y * jnp.linalg.solve(theta, y))) / travelled


def by_eigenvalues(theta, y, travelled):
    lam, modes = jnp.linalg.eigh(theta)
    return float(jnp.linalg.norm((modes.T @ y) / jnp.sqrt(lam)[:, None]) / travelled)


def root_of(squared):
    return lambda theta, y, travelled: squared(theta, y, jnp.linalg.solve(theta, y)) ** 0.5 / travelled


def length(a, b):
    return jnp.sqrt(sum(jnp.sum((p - q) ** 2) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def experiment(rate=lambda a: a**-2, centre=True, scale=lambda a: 1.0, reduce=jnp.mean, end=lambda d, a: d, more=0):
    """The experiment with one part replaced."""

    def answer(apply_fn, params, x, y, *, alpha, learning_rate, steps):
        start = apply_fn(params, x) * centre
        w = params

        def loss(w):
            squares = jnp.sum((alpha * (apply_fn(w, x) - start) - y) ** 2, axis=-1)
            return scale(alpha) * reduce(squares) / 2

        for _ in range(steps + more):
            w = jax.tree.map(lambda p, g: p - learning_rate * rate(alpha) * g, w, jax.grad(loss)(w))
        return end(length(w, params), alpha)

    return answer


def mean_of_all(apply_fn, params, x, y, *, alpha, learning_rate, steps):
    rate = learning_rate / y.shape[1]
    return experiment()(apply_fn, params, x, y, alpha=alpha, learning_rate=rate, steps=steps)


def small_labels(apply_fn, params, x, y, *, alpha, learning_rate, steps):
    """The same thing without α: h on labels h(w_0) + y/α."""
    target = apply_fn(params, x) + y / alpha
    grad = jax.grad(lambda w: jnp.mean(jnp.sum((apply_fn(w, x) - target) ** 2, axis=-1)) / 2)
    step = lambda _, w: jax.tree.map(lambda p, g: p - learning_rate * g, w, grad(w))  # noqa: E731
    return float(length(jax.lax.fori_loop(0, steps, step, params), params))


def with_curvature(apply_fn, params):
    def h_bar(w, x):
        f, c = (lambda p: apply_fn(p, x)), sub(w, params)
        slope = lambda p: jax.jvp(f, (p,), (c,))[1]  # noqa: E731
        return f(params) + slope(params) + jax.jvp(slope, (params,), (c,))[1] / 2

    return h_bar


def sum_less_start(apply_fn, params):
    """Zero at the start, with the right kernel and two copies: their second-order terms add up."""

    def fn(both, x):
        return (apply_fn(both[0], x) + apply_fn(both[1], x) - 2 * apply_fn(params, x)) / 2**0.5

    return fn, (params, params)


def walked(start=lambda h, w0, w, x, a: h(w0, x), begin=-1):
    """The experiment with another thing subtracted from h, or the distance from another step on."""

    def answer(apply_fn, params, x, y, *, alpha, learning_rate, steps):
        way = [params]
        for _ in range(steps):
            h0 = start(apply_fn, params, way[-1], x, alpha)
            loss = lambda w, h0=h0: jnp.mean(jnp.sum((alpha * (apply_fn(w, x) - h0) - y) ** 2, axis=-1)) / 2  # noqa: E731
            way.append(jax.tree.map(lambda p, g: p - learning_rate / alpha**2 * g, way[-1], jax.grad(loss)(way[-1])))
        return length(way[-1], way[begin])

    return answer


def of_alpha_one(apply_fn, params, x, y, *, alpha, learning_rate, steps):
    one = experiment()(apply_fn, params, x, y, alpha=1.0, learning_rate=learning_rate, steps=steps)
    return one / alpha


TABLES = [
    Table(
        "05.1",
        right={"jvp": linear_model, "jax.linearize": by_jax_linearize, "along a line": written_out},
        wrong={
            "no value": (expansion(value=lambda f, w, p: 0.0), "derivative term alone"),
            "no slope": (expansion(times=0.0), "derivative term is missing"),
            "the model": (lambda f, p: f, "the model itself"),
            "direction w": (expansion(along=lambda w, p: w), "direction was w"),
            "backwards": (expansion(along=lambda w, p: sub(p, w)), "wrong sign"),
            "around w": (expansion(value=lambda f, w, p: f(w), at=lambda w, p: w), "around w"),
            "Jacobian at w": (expansion(at=lambda w, p: w), "Jacobian was taken at w"),
            "value at w": (expansion(value=lambda f, w, p: f(w)), "replaced by h(w, x)"),
            "half": (expansion(times=0.5), "half the derivative term"),
            "a whole Jacobian": (by_jacobian, "a Jacobian is behind"),
            "row by row": (by_rows, "a Jacobian is behind"),
            "held fixed": (fixed, "gradient with respect to w is zero"),
            "through NumPy": (through_numpy, "cannot be trained"),
            "half of it fixed": (half_trained, "the gradient of h_bar"),
            "a difference": (by_difference, "difference of two evaluations"),
            "by the library": (lambda f, p: ntk.linearize((f, p)), "`linearize`"),
            "no return": (lambda f, p: None, "return a function"),
            "called": (lambda f, p: f(p, jnp.ones((3, 5))), "return a function"),
            "returns the pair": (
                lambda f, p: lambda w, x: jax.jvp(lambda q: f(q, x), (p,), (sub(w, p),)),
                "h_bar is their sum",
            ),
            "second order": (with_curvature, "the term of second order"),
        },
    ),
    Table(
        "05.2",
        right={
            "a pair": doubled,
            "stacked": stacked,
            "around the middle": around_the_middle,
            "in float32": in_float32,
            "as a dict": lambda f, p: (
                lambda b, x: 2**-0.5 * (f(b["minus"], x) - f(b["plus"], x)),
                {"plus": p, "minus": p},
            ),
        },
        wrong={
            "no 1/√2": (two_copies(lambda a, b: a - b), "twice the model's own"),
            "1/2": (two_copies(lambda a, b: (a - b) / 2), "half of the model's own"),
            "times √2": (two_copies(lambda a, b: 2**0.5 * (a - b)), "four times"),
            "a sum": (two_copies(lambda a, b: a + b), "copies are added"),
            "a normalised sum": (two_copies(lambda a, b: (a + b) / 2**0.5), "copies are added"),
            "a mean": (two_copies(lambda a, b: (a + b) / 2), "own output"),
            "centred": (centered, "that is centering"),
            "held fixed": (held_fixed, "held fixed"),
            "two starts": (two_copies(lambda a, b: (a - b) / 2**0.5, slightly_off), "same `params`"),
            "function only": (lambda f, p: doubled(f, p)[0], "tuple of 2"),
            "swapped": (lambda f, p: doubled(f, p)[::-1], "first part should be a function"),
            "three copies": (three_copies, "no more and no less"),
            "not the same function": (even_part, "second-order terms of the two copies"),
            "no return": (lambda f, p: None, "is a `return` missing?"),
            "outputs side by side": (two_copies(lambda a, b: jnp.concatenate([a, -b], 1)), "shape"),
            "one set of parameters": (
                lambda f, p: (lambda q, x: (f(q, x) - f(q, x)) / 2**0.5, p),
                "zero for all parameters",
            ),
            "a sum less the start": (sum_less_start, "second-order terms of the two copies"),
        },
    ),
    Table(
        "05.3",
        right={
            "solve": scale_for_distance,
            "eigenvalues": by_eigenvalues,
            "an inverse in NumPy": lambda k, t, s: np.sqrt(np.trace(np.asarray(t).T @ np.linalg.inv(k) @ t)) / s,
        },
        wrong={
            "no root": (lambda t, y, d: jnp.sum(y * jnp.linalg.solve(t, y)) / d, "root is missing"),
            "Θ for its inverse": (root_of(lambda t, y, s: jnp.sum(y * (t @ y))), "instead of its inverse"),
            "coefficients": (root_of(lambda t, y, s: jnp.sum(s**2)), "coefficients"),
            "first output": (root_of(lambda t, y, s: jnp.sum((y * s)[:, 0])), "only the first output"),
            "lengths added": (
                lambda t, y, d: jnp.sum(jnp.sum(y * jnp.linalg.solve(t, y), 0) ** 0.5) / d,
                "squares add up",
            ),
            "1/N": (root_of(lambda t, y, s: jnp.mean(jnp.sum(y * s, axis=1))), "1/√N too much"),
            "mean over outputs": (root_of(lambda t, y, s: jnp.sum(y * s) / y.shape[1]), "averaged over the outputs"),
            "1/N in it": (lambda t, y, d: scale_for_distance(t, y, d) / len(y), "there is a 1/N too much"),
            "twice": (lambda t, y, d: 2 * scale_for_distance(t, y, d), "2 times"),
            "a fixed distance": (
                lambda t, y, d: jnp.where(d < 0.1, 2.5, 1.0) * scale_for_distance(t, y, d),
                "half the distance",
            ),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "upside down": (lambda t, y, d: 1 / scale_for_distance(t, y, d), "upside down"),
            "at α = 1": (lambda t, y, d: scale_for_distance(t, y, 1.0), "not the α"),
            "times": (lambda t, y, d: scale_for_distance(t, y, 1 / d), "product"),
            "top eigenvalue": (
                root_of(lambda t, y, s: jnp.sum(y**2) / jnp.linalg.eigvalsh(t)[-1]),
                "largest eigenvalue",
            ),
            "1/α²": (lambda t, y, d: scale_for_distance(t, y, d) ** 0.5, "1/α²"),
            "for each output": (lambda t, y, d: jnp.sum(y * jnp.linalg.solve(t, y), 0) ** 0.5 / d, "one number"),
            "products of outputs": (
                lambda k, y, s: jnp.abs(jnp.sum(y.T @ jnp.linalg.solve(k, y))) ** 0.5 / s,
                "products of different outputs",
            ),
            "over the distance twice": (lambda k, y, s: scale_for_distance(k, y, s) / s, "square of the distance"),
        },
    ),
    Table(
        "05.4",
        right={
            "centred, η/α²": (4, experiment()),
            "in the loss": (4, experiment(rate=lambda a: 1.0, scale=lambda a: a**-2)),
            "small labels": [4, small_labels],
            "a whole float": (4.0, experiment()),
            "NumPy's number": (np.int64(4), small_labels),
        },
        wrong={
            "the conclusion": ((5, experiment()), "further up"),
            "the rate": ((3, experiment()), "line 3 is right"),
            "not a line": ((6, experiment()), "1 to 5"),
            "as it was": ((4, experiment(rate=lambda a: 1 / a, centre=False)), "1/α, and the output at the start"),
            "centred only": ((4, experiment(rate=lambda a: 1 / a)), "rate has 1/α;"),
            "rate only": ((4, experiment(centre=False)), "still α h(w_0)"),
            "no α in the rate": ((4, experiment(rate=lambda a: 1.0)), "no α in it"),
            "α cubed": ((4, experiment(rate=lambda a: a**-3)), "1/α³"),
            "twice": ((4, experiment(scale=lambda a: a**-2)), "there twice"),
            "squared": ((4, experiment(end=lambda d, a: d**2)), "square of the distance"),
            "magnified": ((4, experiment(end=lambda d, a: d * a)), "α times the distance"),
            "a sum": ((4, experiment(reduce=jnp.sum)), "summed over the examples"),
            "line 1": ((1, experiment()), "line 1 is right"),
            "line 2": ((2, experiment()), "line 2 is right"),
            "one fewer": ((4, experiment(more=-1)), "too few"),
            "ignores steps": ((4, lambda *a, steps, **k: experiment()(*a, steps=3, **k)), "after six steps"),
            "ignores the rate": (
                (4, lambda *a, learning_rate, **k: experiment()(*a, learning_rate=0.2, **k)),
                "half the learning rate",
            ),
            "no half": ((4, experiment(scale=lambda a: 2.0)), "lost its ½"),
            "over outputs": ((4, mean_of_all), "averaged over the outputs"),
            "clipped": ((4, experiment(end=lambda d, a: jnp.maximum(d, 5e-2))), "fall by ten"),
            "no return": ((4, lambda *a, **k: None), "is a `return` missing?"),
            "one more": ((4, experiment(more=1)), "too many"),
            "last step": ((4, walked(begin=-2)), "the length of the last step"),
            "zero again and again": ((4, walked(lambda h, w0, w, x, a: h(w, x), 0)), "again in each step"),
            "α forgotten at the start": ((4, walked(lambda h, w0, w, x, a: h(w0, x) / a, 0)), "before the α"),
            "of α = 1": ((4, of_alpha_one), "the distance at α = 1, divided"),
        },
    ),
]
test_answers = cases(TABLES)
