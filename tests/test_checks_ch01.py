"""Right and wrong answers to the exercises of chapter 01."""

import jax
import jax.numpy as jnp
from mutations import Table, cases

# ---- 01.1


def full_ntk(f, theta, x1, x2, keep=lambda name: True):
    """The kernel with its blocks, [N, M, K, K], from the parameters whose name is kept."""
    jacobians = [jax.tree_util.tree_leaves_with_path(jax.jacobian(f)(theta, x)) for x in (x1, x2)]
    j1, j2 = (
        jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for path, leaf in leaves if keep(path[-1].key)], axis=2)
        for leaves in jacobians
    )
    return jnp.einsum("ikp,jlp->ijkl", j1, j2)


def mean_ntk(f, theta, x1, x2, **keep):
    full = full_ntk(f, theta, x1, x2, **keep)
    return jnp.einsum("ijkk->ij", full) / full.shape[-1]


def ntk_by_products(f, theta, x1, x2):
    """Column by column: pull each output of x2 back, push it through x1."""
    out, pull = jax.vjp(lambda p: f(p, x2), theta)

    def column(unit):
        return jax.jvp(lambda p: f(p, x1), (theta,), pull(unit))[1]

    units = jnp.eye(out.size, dtype=out.dtype).reshape(out.size, *out.shape)
    columns = jax.vmap(column)(units)  # [M K, N, K]
    return jnp.einsum("jkik->ij", columns.reshape(*out.shape, *columns.shape[1:])) / out.shape[1]


def by_inputs(f, theta, x1, x2):
    """The Jacobian by the inputs instead of the parameters."""
    j1, j2 = (jax.vmap(jax.jacobian(lambda one: f(theta, one[None])[0]))(x) for x in (x1, x2))
    return jnp.einsum("ikp,jkp->ij", j1, j2) / j1.shape[1]


def of_summed_outputs(f, theta, x1, x2):
    return full_ntk(f, theta, x1, x2).sum((2, 3)) / 3


# ---- 01.2


def product(f, theta, x1, x2, v):
    _, pull = jax.vjp(lambda p: f(p, x2), theta)
    return jax.jvp(lambda p: f(p, x1), (theta,), pull(v))[1]


def product_by_gradient(f, theta, x1, x2, v):
    """J(x2)ᵀ v is the gradient of the sum of f v; then the derivative along a line."""
    direction = jax.grad(lambda p: jnp.sum(f(p, x2) * v))(theta)
    return jax.jacfwd(lambda s: f(jax.tree.map(lambda p, d: p + s * d, theta, direction), x1))(0.0)


def blockwise(f, theta, x1, x2, v):
    return jnp.einsum("ijkk,jk->ik", full_ntk(f, theta, x1, x2), v)


# ---- 01.3


def kernel_step(kernel, f_test, f_train, y, learning_rate):
    return f_test - learning_rate / len(y) * kernel @ (f_train - y)


def kernel_step_by_einsum(kernel, f_test, f_train, y, learning_rate):
    mean = jnp.einsum("mn,nk->mk", kernel, y - f_train) / kernel.shape[1]
    return f_test + learning_rate * mean


# ---- 01.4


def flow(kernel, y, f0, t):
    values, modes = jnp.linalg.eigh(kernel)
    return y + modes @ (jnp.exp(-values * t / len(y))[:, None] * (modes.T @ (f0 - y)))


def flow_by_expm(kernel, y, f0, t):
    decay = jax.scipy.linalg.expm(-kernel * t / len(y))
    return decay @ f0 + (jnp.eye(len(y)) - decay) @ y


def as_it_was(kernel, y, f0, t):
    values, modes = jnp.linalg.eigh(kernel)
    return y + modes @ (jnp.exp(-values * t)[:, None] * (modes.T @ (y - f0)))


def only_the_sign(kernel, y, f0, t):
    return flow(kernel, y, f0, len(y) * t)


def only_the_n(kernel, y, f0, t):
    return 2 * y - flow(kernel, y, f0, t)


def entrywise(kernel, y, f0, t):
    decay = jnp.where(t == 0, jnp.eye(len(y)), jnp.exp(-kernel * t / len(y)))
    return y + decay @ (f0 - y)


TABLES = [
    Table(
        "01.1",
        right={"jacobian and einsum": mean_ntk, "products": ntk_by_products},
        wrong={
            "transposed": (lambda *a: mean_ntk(*a).T, "Rows and columns are swapped"),
            "sum over outputs": (lambda *a: 3 * mean_ntk(*a), "average over the outputs"),
            "twice too large": (lambda *a: 2 * mean_ntk(*a), "2 times"),
            "no biases": (lambda *a: mean_ntk(*a, keep=lambda name: name != "b"), "the biases are missing"),
            "biases only": (lambda *a: mean_ntk(*a, keep=lambda name: name == "b"), "only the biases"),
            "outputs summed first": (of_summed_outputs, "products of different outputs"),
            "outputs averaged first": (lambda *a: of_summed_outputs(*a) / 3, "products of different outputs"),
            "outputs summed, no mean": (lambda *a: 3 * of_summed_outputs(*a), "added up before differentiating"),
            "first output only": (lambda *a: full_ntk(*a)[:, :, 0, 0], "first output alone"),
            "x1 twice": (lambda f, p, x1, x2: mean_ntk(f, p, x1, x1), "Is one of the two inputs used twice?"),
            "pairs only": (
                lambda f, p, x1, x2: jnp.diag(mean_ntk(f, p, x1, x2)),
                "Was an axis summed or averaged over?",
            ),
            "full blocks": (full_ntk, "the full kernel [N, M, K, K]"),
            "outputs left apart": (lambda *a: jnp.einsum("ijkk->ijk", full_ntk(*a)), "the outputs are still apart"),
            "by the inputs": (by_inputs, "entries are off"),
        },
    ),
    Table(
        "01.2",
        right={"vjp and jvp": product, "gradient and line": product_by_gradient},
        wrong={
            "pushed through x2": (lambda f, p, x1, x2, v: product(f, p, x2, x2, v), "the result belongs to x2"),
            "returns the pair": (lambda f, p, x1, x2, v: (f(p, x1), product(f, p, x1, x2, v)), "two things came back"),
            "returns the outputs": (lambda f, p, x1, x2, v: f(p, x1), "the first of the two things"),
            "each output for itself": (blockwise, "k ≠ l, too"),
            "the mean kernel": (lambda f, p, x1, x2, v: mean_ntk(f, p, x1, x2) @ v, "the mean kernel"),
            "mean over x2": (lambda *a: product(*a) / 5, "1/M times"),
            "v not used": (lambda f, p, x1, x2, v: product(f, p, x1, x2, jnp.ones_like(v)), "ones"),
            "sign": (lambda *a: -product(*a), "the sign is wrong"),
            "pulled back at x1": (
                lambda f, p, x1, x2, v: product(f, p, x2, x1, v),
                "your code stopped with",
            ),
        },
    ),
    Table(
        "01.3",
        right={"matrix product": kernel_step, "einsum": kernel_step_by_einsum},
        wrong={
            "uphill": (lambda k, ft, f, y, r: kernel_step(k, ft, f, y, -r), "wrong sign"),
            "no 1/N": (lambda k, ft, f, y, r: kernel_step(k, ft, f, y, 5 * r), "the 1/N of the loss is missing"),
            "1/M": (lambda k, ft, f, y, r: kernel_step(k, ft, f, y, 5 / 3 * r), "number M of test inputs"),
            "1/(2N)": (lambda k, ft, f, y, r: kernel_step(k, ft, f, y, r / 2), "divided by 2N"),
            "no learning rate": (lambda k, ft, f, y, r: kernel_step(k, ft, f, y, 1.0), "learning rate is missing"),
            "change only": (lambda k, ft, f, y, r: kernel_step(k, 0 * ft, f, y, r), "the change alone"),
            "along y": (lambda k, ft, f, y, r: kernel_step(k, ft, 0 * f, y, r), "instead of the residual"),
            "no targets": (lambda k, ft, f, y, r: kernel_step(k, ft, f, 0 * y, r), "targets are missing"),
            "kernel transposed": (lambda k, ft, f, y, r: kernel_step(k.T, ft, f, y, r), "your code stopped with"),
        },
    ),
    Table(
        "01.4",
        right={"eigh": flow, "expm": flow_by_expm},
        wrong={
            "as it was": (as_it_was, "look at the sign of the residual"),
            "the sign mended only": (only_the_sign, "the 1/N of the loss is missing"),
            "the 1/N mended only": (only_the_n, "look at the sign of the residual"),
            "1/N twice": (lambda k, y, f0, t: flow(k, y, f0, t / len(y)), "1/N in there twice"),
            "1/(2N)": (lambda k, y, f0, t: flow(k, y, f0, t / 2), "too slow by a factor of 2"),
            "grows": (lambda k, y, f0, t: flow(k, y, f0, -t), "grows instead of decaying"),
            "entry by entry": (entrywise, "that of the matrix"),
            "always y": (lambda k, y, f0, t: y, "has training ended before it began"),
        },
    ),
]
test_answers = cases(TABLES)
