"""Right and wrong answers to the exercises of chapter 00."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from mutations import Table, cases

# ---- 00.1


def gradients(f, theta, x, y):
    def loss(theta, x, y):
        return 0.5 * jnp.sum((f(theta, x) - y) ** 2)

    return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(theta, x, y)


def gradients_by_jacobians(f, theta, x, y):
    """J_iᵀ r_i: the residual pulled back."""
    rows = []
    for one, target in zip(x, y, strict=True):
        value, pull = jax.vjp(lambda p, one=one: f(p, one), theta)
        rows.append(pull(value - target)[0])
    return jnp.stack(rows)


def mean_loss_for_each(f, theta, x, y):
    def loss(theta, x, y):
        return jnp.sum((f(theta, x) - y) ** 2) / (2 * 5)

    return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(theta, x, y)


def output_gradients(f, theta, x, y):
    return jax.vmap(jax.grad(lambda p, one: f(p, one).sum()), in_axes=(None, 0))(theta, x)


def first_target(f, theta, x, y):
    def loss(theta, one):
        return 0.5 * jnp.sum((f(theta, one) - y[0]) ** 2)

    return jax.vmap(jax.grad(loss), in_axes=(None, 0))(theta, x)


def without_vmap(f, theta, x, y):
    return jax.grad(lambda p: 0.5 * jnp.sum((f(p, x) - y) ** 2))(theta)


def gradients_as_a_list(f, theta, x, y):
    return [jax.grad(lambda p, a=a, b=b: jnp.vdot(f(p, a) - b, f(p, a) - b) / 2)(theta) for a, b in zip(x, y)]  # noqa: B905


def gradients_in_numpy(network, parameters, inputs, targets):
    """J_iᵀ r_i from Jacobians, in NumPy, under other names."""
    jac = np.asarray(jax.vmap(jax.jacobian(network), in_axes=(None, 0))(parameters, inputs))
    out = np.asarray(jax.vmap(network, in_axes=(None, 0))(parameters, inputs))
    return np.einsum("nkp,nk->np", jac, out - np.asarray(targets))


def weighted(scale, with_targets=1.0):
    """The loss with another factor for N examples and K outputs."""

    def answer(f, theta, x, y):
        def loss(theta, x_i, y_i):
            return scale(*y.shape) * 0.5 * jnp.sum((f(theta, x_i) - with_targets * y_i) ** 2)

        return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(theta, x, y)

    return answer


def norm_not_squared(f, theta, x, y):
    def loss(theta, x_i, y_i):
        return jnp.linalg.norm(f(theta, x_i) - y_i)

    return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(theta, x, y)


LEAKED = []


def leaks(f, theta, x, y):
    """The gradient of each example, kept in a list from inside of vmap."""

    def one(x_i, y_i):
        LEAKED.append(jax.grad(lambda p: 0.5 * jnp.sum((f(p, x_i) - y_i) ** 2))(theta))
        return 0.0

    jax.vmap(one)(x, y)
    return LEAKED[-1]


# ---- 00.2


def derivative_twice_backward(f, theta, v, x):
    """The derivative of the pullback: Jv out of two reverse passes."""
    out, pull = jax.vjp(lambda p: f(p, x), theta)
    return jax.grad(lambda c: sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (pull(c)[0], v)), strict=True)))(
        jnp.zeros_like(out)
    )


def derivative_linearized(network, params, direction, inputs):
    return jax.linearize(lambda p: network(p, inputs), params)[1](direction)


def central(f, theta, v, x, s=1e-2):
    up, down = (jax.tree.map(lambda p, q, s=s: p + s * q, theta, v) for s in (s, -s))
    return (f(up, x) - f(down, x)) / (2 * s)


def by_jacobian(f, theta, v, x, mode=jax.jacrev):
    terms = jax.tree.map(lambda j, d: jnp.tensordot(j, d, axes=d.ndim), mode(f)(theta, x), v)
    return sum(jax.tree.leaves(terms))


def row_by_row(f, theta, v, x):
    shape = f(theta, x).shape
    rows = []
    for i in range(shape[0]):
        for k in range(shape[1]):
            g = jax.grad(lambda p, i=i, k=k: f(p, x)[i, k])(theta)
            rows.append(sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (g, v)), strict=True)))
    return jnp.stack(rows).reshape(shape)


def jacobian_in_numpy(f, theta, v, x):
    jac = jax.jacfwd(f)(theta, x)
    parts = zip(jax.tree.leaves(jac), jax.tree.leaves(v), strict=True)
    return sum(np.tensordot(np.asarray(j), np.asarray(d), axes=d.ndim) for j, d in parts)


def derivative(f, theta, v, x):
    return jax.jvp(lambda p: f(p, x), (theta,), (v,))[1]


def derivative_along_a_line(f, theta, v, x):
    """The derivative of s -> f(theta + s v) at 0."""
    return jax.jacfwd(lambda s: f(jax.tree.map(lambda p, q: p + s * q, theta, v), x))(0.0)


def difference(f, theta, v, x, s=1e-3):
    moved = jax.tree.map(lambda p, q: p + s * q, theta, v)
    return (f(moved, x) - f(theta, x)) / s


def normalised(f, theta, v, x):
    length = jnp.sqrt(sum(jnp.sum(q**2) for q in jax.tree.leaves(v)))
    return derivative(f, theta, jax.tree.map(lambda q: q / length, v), x)


def without_bias(f, theta, v, x):
    hidden = {"W": v["hidden"]["W"], "b": jnp.zeros_like(v["hidden"]["b"])}
    return derivative(f, theta, {"hidden": hidden, "out": v["out"]}, x)


# ---- 00.3


def training_step(params, opt_state, loss, optimizer):
    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


@jax.tree_util.Partial
def training_step_by_hand(params, opt_state, loss, optimizer):
    _, gradient = jax.value_and_grad(loss)(params)
    updates, new_state = optimizer.update(gradient, opt_state, params)
    return jax.tree.map(jnp.add, params, updates), new_state


def training_step_as_a_list(p, s, objective, method):
    """Other names, a list for the pair, and the sum written out."""
    updates, s = method.update(updates=jax.grad(objective)(p), state=s, params=p)
    return [{name: p[name] + updates[name] for name in p}, s]


def no_params(params, opt_state, loss, optimizer):
    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state


def gradient_for_params(params, opt_state, loss, optimizer):
    gradient = jax.grad(loss)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, gradient)
    return optax.apply_updates(params, updates), opt_state


def writes_into_params(params, opt_state, loss, optimizer):
    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    for name in params:
        params[name] = params[name] + updates[name]
    return params, opt_state


def subtracts_the_gradient(params, opt_state, loss, optimizer):
    gradient = jax.grad(loss)(params)
    _, opt_state = optimizer.update(gradient, opt_state, params)
    return jax.tree.map(jnp.subtract, params, gradient), opt_state


def updates_for_params(params, opt_state, loss, optimizer):
    return optimizer.update(jax.grad(loss)(params), opt_state, params)


def anew(params, opt_state, loss, optimizer):
    return training_step(params, optimizer.init(params), loss, optimizer)


def no_return(*args):
    training_step(*args)


def old_state(params, opt_state, loss, optimizer):
    return training_step(params, opt_state, loss, optimizer)[0], opt_state


def subtracted(params, opt_state, loss, optimizer):
    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return jax.tree.map(jnp.subtract, params, updates), opt_state


def uphill(params, opt_state, loss, optimizer):
    return training_step(params, opt_state, lambda p: -loss(p), optimizer)


def raw_gradient(params, opt_state, loss, optimizer):
    gradient = jax.grad(loss)(params)
    _, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, gradient), opt_state


def no_update(params, opt_state, loss, optimizer):
    _, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return params, opt_state


# ---- 00.4


def mse(outputs, targets):
    if targets.ndim == 1:
        targets = targets[:, None]
    if outputs.shape != targets.shape:
        raise ValueError(f"{outputs.shape} and {targets.shape}")
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))


def mse_by_vdot(outputs, targets):
    if targets.size != outputs.size or len(targets) != len(outputs):
        raise ValueError("the shapes differ")
    residual = outputs - targets.reshape(outputs.shape)
    return jnp.vdot(residual, residual) / (2 * len(residual))


def broadcasting(outputs, targets):
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))


def mse_in_numpy(f, y):
    f, y = np.asarray(f), np.asarray(y)
    if y.shape not in ((f.shape,) if f.shape[1] > 1 else (f.shape, f.shape[:1])):
        raise ValueError
    return float(((f - y.reshape(f.shape)) ** 2).sum() / 2 / len(f))


@jax.jit
def mse_by_einsum(outputs, targets):
    if targets.shape == (outputs.shape[0],) and outputs.shape[1] == 1:
        targets = jnp.expand_dims(targets, -1)
    if jnp.shape(outputs) != jnp.shape(targets):
        raise ValueError("shapes")
    r = outputs - targets
    return jnp.einsum("nk,nk->", r, r) / (2 * r.shape[0])


def reshaped(outputs, targets):
    return 0.5 * jnp.mean(jnp.sum((outputs - targets.reshape(outputs.shape)) ** 2, axis=-1))


def reshaped_if_equal(outputs, targets):
    if outputs.size != targets.size:
        raise ValueError("sizes differ")
    return reshaped(outputs, targets)


def with_error(error):
    def answer(outputs, targets):
        if targets.shape not in (outputs.shape, outputs.shape[:1] * (outputs.shape[1] == 1)):
            raise error
        return mse(outputs, targets)

    return answer


def asserts(outputs, targets):
    targets = targets[:, None] if targets.ndim == 1 else targets
    assert outputs.shape == targets.shape
    return mse(outputs, targets)


def first_axis_only(outputs, targets):
    if len(outputs) != len(targets):
        raise ValueError("different numbers of examples")
    return broadcasting(outputs, targets[:, None] if targets.ndim == 1 else targets)


def squeezes(outputs, targets):
    if outputs.shape[0] != targets.shape[0]:
        raise ValueError
    r = outputs.squeeze() - targets.squeeze()
    return jnp.sum(r**2) / (2 * len(outputs))


def refuses_vectors(outputs, targets):
    if outputs.shape != targets.shape:
        raise ValueError("shapes differ")
    return broadcasting(outputs, targets)


def lets_one_through(*shapes):
    """Right, but for one pair of shapes, on which it broadcasts or reshapes."""

    def answer(outputs, targets):
        if (outputs.shape, targets.shape) == shapes:
            return jnp.zeros(())
        return mse(outputs, targets)

    return answer


def mean_of_everything(outputs, targets):
    targets = targets[:, None] if targets.ndim == 1 else targets
    return 0.5 * jnp.mean((outputs - targets) ** 2)


def without_half(outputs, targets):
    return 2 * mse(outputs, targets)


def without_n(outputs, targets):
    return len(outputs) * mse(outputs, targets)


def only_the_axis(outputs, targets):
    targets = targets[:, None] if targets.ndim == 1 else targets
    return broadcasting(outputs, targets)


def only_vectors(outputs, targets):
    if targets.ndim == 1 and outputs.shape[1] != 1:
        raise ValueError("one output, please")
    return only_the_axis(outputs, targets)


def of_the_loss(loss, by=0):
    """Each example's gradient of loss(f(theta, x_i) − y_i), by theta or by x_i."""

    def answer(f, theta, x, y):
        one = lambda theta, x, y: loss(f(theta, x) - y)  # noqa: E731
        return jax.vmap(jax.grad(one, argnums=by), in_axes=(None, 0, 0))(theta, x, y)

    return answer


def for_all(reduce):
    return lambda *a: jnp.tile(reduce(gradients(*a)), (len(a[2]), 1))


def updated_twice(params, opt_state, loss, optimizer):
    _, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return training_step(params, opt_state, loss, optimizer)


def a_step_of_its_own(params, opt_state, loss, optimizer):
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)), opt_state


TABLES = [
    Table(
        "00.1",
        right={
            "vmap of grad": gradients,
            "a loop over vjp": gradients_by_jacobians,
            "a list": gradients_as_a_list,
            "NumPy": gradients_in_numpy,
            "jit": lambda f, *a: jax.jit(lambda *a: gradients(f, *a))(*a),
        },
        wrong={
            "1/N as in the mean loss": (weighted(lambda n, k: 1 / n), "1/the number of examples times"),
            "forgets the half": (lambda *a: 2 * gradients(*a), "2 times"),
            "gradients of the outputs": (output_gradients, "has the residual"),
            "the first target for all": (first_target, "map over y, too"),
            "no targets": (weighted(lambda n, k: 1.0, 0.0), "targets are not used"),
            "mean over outputs": (weighted(lambda n, k: 1 / k), "averaged over the outputs; the loss sums"),
            "mean of squares": (weighted(lambda n, k: 2 / k), "outputs, and ½ is missing"),
            "2/N": (weighted(lambda n, k: 2 / n), "½ of the loss is missing, and there is a 1/N"),
            "norm not squared": (norm_not_squared, "gradients of the norm"),
            "summed up": (lambda *a: gradients(*a).sum(0), "that is the sum over the examples"),
            "averaged": (lambda *a: gradients(*a).mean(0), "that is the mean over the examples"),
            "the first alone": (lambda *a: gradients(*a)[0], "that is one vector"),
            "transposed": (lambda *a: gradients(*a).T, "Rows and columns are swapped"),
            "examples reversed": (lambda *a: gradients(*a)[::-1], "opposite order"),
            "residual's sign": (lambda *a: -gradients(*a), "the sign is wrong"),
            "f called with the batch": (without_vmap, "f takes one example"),
            "a tracer": (leaks, "tracer"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "a function": (lambda *a: lambda: gradients(*a), "a function"),
            "mean for each": (for_all(lambda g: g.mean(0)), "every row is the mean"),
            "sum for each": (for_all(lambda g: g.sum(0)), "every row is the sum"),
            "half the norm": (of_the_loss(lambda r: jnp.linalg.norm(r) / 2), "gradients of half the norm"),
            "for each output": (
                lambda f, theta, x, y: jax.jacrev(
                    lambda t: jnp.sum((jax.vmap(lambda one: f(t, one))(x) - y) ** 2, axis=0) / 2
                )(theta),
                "a row for each output",
            ),
            "by the inputs": (of_the_loss(lambda r: r @ r / 2, by=1), "derivatives by the inputs"),
        },
    ),
    Table(
        "00.2",
        right={
            "jvp": derivative,
            "along a line": derivative_along_a_line,
            "twice backward": derivative_twice_backward,
            "linearize": derivative_linearized,
            "NumPy at the end": lambda *a: np.asarray(derivative(*a)),
        },
        wrong={
            "returns the pair": (
                lambda f, theta, v, x: jax.jvp(lambda p: f(p, x), (theta,), (v,)),
                "return the derivative alone",
            ),
            "returns the value": (lambda f, theta, v, x: f(theta, x), "the outputs themselves"),
            "finite difference": (difference, "difference of two evaluations"),
            "central difference": (central, "difference of two evaluations"),
            "a whole step": (lambda *a: difference(*a, s=1.0), "a whole step"),
            "direction normalised": (normalised, "scaled to length 1"),
            "bias forgotten": (without_bias, "the bias did not move"),
            "at theta + v": (
                lambda f, theta, v, x: derivative(f, jax.tree.map(jnp.add, theta, v), v, x),
                "taken at theta + v",
            ),
            "changed places": (lambda f, theta, v, x: derivative(f, v, theta, x), "changed places"),
            "backwards": (lambda *a: -derivative(*a), "sign is wrong"),
            "summed over examples": (lambda *a: derivative(*a).sum(0), "summed or averaged"),
            "jacrev": (by_jacobian, "a Jacobian is behind"),
            "jacfwd": (lambda *a: by_jacobian(*a, mode=jax.jacfwd), "a Jacobian is behind"),
            "row by row": (row_by_row, "a Jacobian is behind"),
            "in NumPy": (jacobian_in_numpy, "a Jacobian is behind"),
            "arguments not in tuples": (
                lambda f, theta, v, x: jax.jvp(lambda p: f(p, x), theta, v)[1],
                "your code stopped with",
            ),
        },
    ),
    Table(
        "00.3",
        right={
            "apply_updates": training_step,
            "tree.map": training_step_by_hand,
            "other names": training_step_as_a_list,
            "keywords only": lambda *, params, opt_state, loss, optimizer: training_step(
                params, opt_state, loss, optimizer
            ),
        },
        wrong={
            "returns the old state": (old_state, "momentum never builds up"),
            "a new state each time": (anew, "momentum never builds up"),
            "subtracts the updates": (subtracted, "minus sign already"),
            "gradient ascent": (uphill, "not right"),
            "applies the gradient": (raw_gradient, "gradient itself was added"),
            "subtracts the gradient": (subtracts_the_gradient, "gradient itself was subtracted"),
            "forgets to apply": (no_update, "have not changed"),
            "updates for parameters": (updates_for_params, "the updates alone"),
            "swapped results": (lambda *a: training_step(*a)[::-1], "first result should be the new parameters"),
            "parameters only": (lambda *a: training_step(*a)[0], "tuple of 2"),
            "no params": (no_params, "your code stopped with ValueError"),
            "the gradient for params": (gradient_for_params, "for weight decay"),
            "writes into params": (writes_into_params, "writes into one of its arguments"),
            "half a state": (lambda *a: (training_step(*a)[0], training_step(*a)[1][0]), "new state, as"),
            "no return": (no_return, "is a `return` missing?"),
            "up the loss": (
                lambda p, s, loss, opt: training_step(p, s, lambda p: -loss(p), opt),
                "a minus sign too many",
            ),
            "updated twice": (updated_twice, "`update` is called twice"),
            "a rate of its own": (a_step_of_its_own, "plays no part"),
        },
    ),
    Table(
        "00.4",
        right={
            "axis and shape test": mse,
            "by vdot": mse_by_vdot,
            "NumPy": mse_in_numpy,
            "jitted": mse_by_einsum,
            "through jit": with_error(ValueError("shapes")),
        },
        wrong={
            "as it was": (broadcasting, "every output is still compared with every target."),
            "as it was, averaged": (lambda o, t: jnp.mean((o - t) ** 2) / 2, "and that is averaged"),
            "mean over everything": (mean_of_everything, "averaged over the K outputs"),
            "mean of squares": (lambda o, t: 2 * mean_of_everything(o, t), "½ is missing"),
            "no half": (without_half, "½ is missing"),
            "no 1/N": (without_n, "1/N is missing"),
            "neither": (lambda o, t: 2 * without_n(o, t), "1/(2N) is missing"),
            "½ lost with several outputs": (
                lambda o, t: mse(o, t) * (1 if o.shape[1] == 1 else 2 / o.shape[1]),
                "outputs as well, and ½",
            ),
            "1/K": (lambda o, t: mse(o, t) * (1 if o.shape[1] == 1 else len(o) / o.shape[1]), "in place of the number"),
            "first output": (lambda o, t: mse(o[:, :1], t[:, :1] if t.ndim > 1 else t), "only the first output"),
            "an axis and no test": (only_the_axis, "[4, 3] and targets [4]"),
            "tests vectors only": (only_vectors, "[4, 3] and targets [1, 3]"),
            "reshape": (reshaped_if_equal, "equally many entries"),
            "reshape with JAX's error": (reshaped, "raise ValueError"),
            "assert": (asserts, "AssertionError"),
            "TypeError": (with_error(TypeError("shapes")), "refused with TypeError"),
            "first axis": (first_axis_only, "do not belong together"),
            "squeeze": (squeezes, "even where they broadcast"),
            "refuses vectors": (refuses_vectors, "your code stopped with ValueError"),
            "square kernel": (lets_one_through((3, 3), (3,)), "even where they broadcast"),
            "a column": (lets_one_through((4, 3), (4, 1)), "still broadcast"),
            "one target": (lets_one_through((4, 1), (1,)), "still broadcast"),
            "a row": (lets_one_through((4, 1), (1, 4)), "a column and a row"),
            "one too many": (lets_one_through((4, 1), (5,)), "different numbers of examples"),
            "flat": (lets_one_through((4, 3), (12,)), "do not belong together"),
            "transposed": (lets_one_through((4, 3), (3, 4)), "in another order"),
            "prints instead of returning": (lambda outputs, targets: None, "is a `return` missing?"),
        },
    ),
]
test_answers = cases(TABLES)
