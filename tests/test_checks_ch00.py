"""Right and wrong answers to the exercises of chapter 00."""

import jax
import jax.numpy as jnp
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


# ---- 00.2


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
    updates, new_state = optimizer.update(gradient, opt_state)
    return jax.tree.map(jnp.add, params, updates), new_state


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


TABLES = [
    Table(
        "00.1",
        right={"vmap of grad": gradients, "a loop over vjp": gradients_by_jacobians},
        wrong={
            "1/N as in the mean loss": (mean_loss_for_each, "1/the number of examples times"),
            "forgets the half": (lambda *a: 2 * gradients(*a), "2 times"),
            "gradients of the outputs": (output_gradients, "has the residual"),
            "the first target for all": (first_target, "map over y, too"),
            "summed up": (lambda *a: gradients(*a).sum(0), "that is the sum over the examples"),
            "averaged": (lambda *a: gradients(*a).mean(0), "that is the mean over the examples"),
            "transposed": (lambda *a: gradients(*a).T, "Rows and columns are swapped"),
            "residual's sign": (lambda *a: -gradients(*a), "the sign is wrong"),
            "f called with the batch": (without_vmap, "f takes one example"),
        },
    ),
    Table(
        "00.2",
        right={"jvp": derivative, "along a line": derivative_along_a_line},
        wrong={
            "returns the pair": (
                lambda f, theta, v, x: jax.jvp(lambda p: f(p, x), (theta,), (v,)),
                "return the derivative alone",
            ),
            "returns the value": (lambda f, theta, v, x: f(theta, x), "the outputs themselves"),
            "finite difference": (difference, "not to the accuracy"),
            "a whole step": (lambda *a: difference(*a, s=1.0), "a whole step"),
            "direction normalised": (normalised, "scaled to length 1"),
            "bias forgotten": (without_bias, "the bias did not move"),
            "arguments not in tuples": (
                lambda f, theta, v, x: jax.jvp(lambda p: f(p, x), theta, v)[1],
                "your code stopped with",
            ),
        },
    ),
    Table(
        "00.3",
        right={"apply_updates": training_step, "tree.map": training_step_by_hand},
        wrong={
            "returns the old state": (old_state, "momentum never builds up"),
            "subtracts the updates": (subtracted, "minus sign already"),
            "gradient ascent": (uphill, "the loss goes up"),
            "applies the gradient": (raw_gradient, "the optimiser's updates that belong there"),
            "forgets to apply": (no_update, "have not changed"),
            "swapped results": (lambda *a: training_step(*a)[::-1], "first result should be the new parameters"),
            "parameters only": (lambda *a: training_step(*a)[0], "tuple of 2"),
        },
    ),
    Table(
        "00.4",
        right={"axis and shape test": mse, "reshape": mse_by_vdot},
        wrong={
            "as it was": (broadcasting, "every output is still compared"),
            "mean over everything": (mean_of_everything, "averaged over the K outputs"),
            "no half": (without_half, "½ is missing"),
            "no 1/N": (without_n, "1/N is missing"),
            "an axis and no test": (only_the_axis, "[4, 3] and targets [4]"),
            "tests vectors only": (only_vectors, "[4, 3] and targets [1, 3]"),
            "prints instead of returning": (lambda outputs, targets: None, "should be one number"),
        },
    ),
]
test_answers = cases(TABLES)
