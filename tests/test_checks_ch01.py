"""Right and wrong answers to the exercises of chapter 01."""

import jax
import jax.numpy as jnp
import numpy as np
from mutations import Table, cases

import ntklib as ntk

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
    return full_ntk(f, theta, x1, x2).mean((2, 3)) * f(theta, x1).shape[1]


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
    return y + jnp.exp(-kernel * t / len(y)) @ (f0 - y)


def flow_in_numpy(theta, targets, start, time):
    """Under other names, in NumPy, in exponentials of the training of f0 towards y."""
    values, modes = np.linalg.eigh(np.asarray(theta))
    learned = modes @ np.diag(1 - np.exp(-values * time / theta.shape[0])) @ modes.T
    return np.asarray(start) + learned @ (np.asarray(targets) - np.asarray(start))


def flow_with(time=lambda t, y: t, start=lambda f0, y: f0 - y, add=1.0, rows=False):
    def answer(kernel, y, f0, t):
        values, modes = jnp.linalg.eigh(kernel)
        modes = modes.T if rows else modes
        decay = jnp.exp(-values * time(t, y) / len(y))
        return add * y + modes @ (decay[:, None] * (modes.T @ start(f0, y)))

    return answer


def decay_of_examples(kernel, y, f0, t):
    return y + jnp.exp(-jnp.linalg.eigvalsh(kernel) * t / len(y))[:, None] * (f0 - y)


def step_with(rate=lambda k, y: 1 / len(y), residual=lambda f, y: f - y, start=1.0):
    def answer(kernel, f_test, f_train, y, learning_rate):
        return start * f_test - learning_rate * rate(kernel, y) * kernel @ residual(f_train, y)

    return answer


def step_by_loops(k, ft, f, y, eta):
    out = np.array(ft, float)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] -= eta / k.shape[1] * sum(float(k[i, a] * (f[a, j] - y[a, j])) for a in range(k.shape[1]))
    return out.tolist()


def by_the_library(f, theta, x1, x2):
    return ntk.empirical_ntk((f, theta), x1, x2)


imported_before = ntk.ntk_vector_product


def product_by_jacobians(f, theta, x1, x2, v):
    return jnp.einsum("ijkl,jl->ik", full_ntk(f, theta, x1, x2), v)


def product_in_numpy(f, theta, x1, x2, v):
    return np.einsum("ijkl,jl->ik", np.asarray(full_ntk(f, theta, x1, x2)), np.asarray(v))


def ntk_in_numpy(net, params, a, b):
    """One gradient for each example and output."""

    def row(one, k):
        gradient = jax.grad(lambda p: net(p, one[None])[0, k])(params)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

    j1, j2 = (np.array([[row(one, k) for k in range(net(params, x).shape[1])] for one in x]) for x in (a, b))
    return np.mean(np.einsum("ikp,jkp->ijk", j1, j2), axis=-1)


TABLES = [
    Table(
        "01.1",
        right={"jacobian and einsum": mean_ntk, "products": ntk_by_products, "row by row": ntk_in_numpy},
        wrong={
            "transposed": (lambda *a: mean_ntk(*a).T, "Rows and columns are swapped"),
            "sum over outputs": (lambda *a: jnp.einsum("ijkk->ij", full_ntk(*a)), "average over the outputs"),
            "mean twice": (lambda f, p, *x: mean_ntk(f, p, *x) / f(p, x[0]).shape[1], "taken twice"),
            "over parameters": (
                lambda f, p, *x: mean_ntk(f, p, *x) / sum(a.size for a in jax.tree.leaves(p)),
                "summed over",
            ),
            "readout alone": (
                lambda f, p, *x: mean_ntk(lambda o, x: f(p | {"out": o}, x), p["out"], *x),
                "only the readout",
            ),
            "hidden layer alone": (
                lambda f, p, *x: mean_ntk(lambda h, x: f(p | {"hidden": h}, x), p["hidden"], *x),
                "only the hidden",
            ),
            "no biases, summed": (
                lambda *a: jnp.einsum("ijkk->ij", full_ntk(*a, keep=lambda name: name != "b")),
                "biases are missing, and",
            ),
            "by the library": (by_the_library, "`empirical_ntk`"),
            "twice too large": (lambda *a: 2 * mean_ntk(*a), "2 times"),
            "no biases": (lambda *a: mean_ntk(*a, keep=lambda name: name != "b"), "the biases are missing"),
            "biases only": (lambda *a: mean_ntk(*a, keep=lambda name: name == "b"), "only the biases"),
            "outputs summed first": (of_summed_outputs, "products of different outputs"),
            "outputs averaged first": (lambda *a: full_ntk(*a).mean((2, 3)), "k ≠ l, are in the mean"),
            "outputs summed, no mean": (lambda *a: full_ntk(*a).sum((2, 3)), "added up before differentiating"),
            "first output only": (lambda *a: full_ntk(*a)[:, :, 0, 0], "first output alone"),
            "x1 twice": (lambda f, p, x1, x2: mean_ntk(f, p, x1, x1), "Is one of the two inputs used twice?"),
            "pairs only": (
                lambda f, p, x1, x2: jnp.diag(mean_ntk(f, p, x1, x2)),
                "Was an axis summed or averaged over?",
            ),
            "full blocks": (full_ntk, "the full kernel [N, M, K, K]"),
            "outputs left apart": (lambda *a: jnp.einsum("ijkk->ijk", full_ntk(*a)), "the outputs are still apart"),
            "by the inputs": (by_inputs, "entries are off"),
            "last leaf alone": (
                lambda f, p, *x: mean_ntk(lambda q, x: f(p | {"out": p["out"] | q}, x), {"b": p["out"]["b"]}, *x),
                "only the last leaf",
            ),
        },
    ),
    Table(
        "01.2",
        right={
            "vjp and jvp": product,
            "gradient and line": product_by_gradient,
            "jitted": lambda f, *a: jax.jit(lambda *a: product(f, *a))(*a),
            "NumPy at the end": lambda *a: np.asarray(product(*a)),
        },
        wrong={
            "pushed through x2": (lambda f, p, x1, x2, v: product(f, p, x2, x2, v), "the result belongs to x2"),
            "returns the pair": (lambda f, p, x1, x2, v: (f(p, x1), product(f, p, x1, x2, v)), "two things came back"),
            "returns the outputs": (lambda f, p, x1, x2, v: f(p, x1), "the first of the two things"),
            "each output for itself": (blockwise, "k ≠ l, too"),
            "the mean kernel": (lambda f, p, x1, x2, v: mean_ntk(f, p, x1, x2) @ v, "the mean kernel"),
            "mean over x2": (lambda *a: product(*a) / len(a[3]), "1/M times"),
            "mean over x1": (lambda *a: product(*a) / len(a[2]), "1/N times"),
            "mean over outputs": (lambda *a: product(*a) / a[4].shape[1], "1/K times"),
            "by Jacobians": (product_by_jacobians, "a Jacobian is behind"),
            "by Jacobians in NumPy": (product_in_numpy, "a Jacobian is behind"),
            "by the library": (lambda f, p, *a: imported_before((f, p), *a), "`ntk_vector_product`"),
            "no return": (lambda *a: None, "is a `return` missing?"),
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
        right={"matrix product": kernel_step, "einsum": kernel_step_by_einsum, "loops and lists": step_by_loops},
        wrong={
            "uphill": (step_with(residual=lambda f, y: y - f), "wrong sign"),
            "no 1/N": (step_with(lambda k, y: 1.0), "the 1/N of the loss is missing"),
            "no 1/N, uphill": (step_with(lambda k, y: -1.0), "is missing, and the sign"),
            "1/M": (step_with(lambda k, y: 1 / len(k)), "number M of test inputs"),
            "1/(2N)": (step_with(lambda k, y: 1 / (2 * len(y))), "divided by 2N"),
            "2/N": (step_with(lambda k, y: 2 / len(y)), "multiplied by 2/N"),
            "1/(NK)": (step_with(lambda k, y: 1 / y.size), "over the K outputs as well"),
            "1/K": (step_with(lambda k, y: 1 / y.shape[1]), "instead of the N examples"),
            "no learning rate": (lambda k, ft, f, y, r: kernel_step(k, ft, f, y, 1.0), "learning rate is missing"),
            "change only": (step_with(start=0.0), "the change alone"),
            "along y": (step_with(residual=lambda f, y: -y), "instead of the residual"),
            "no targets": (step_with(residual=lambda f, y: f), "targets are missing"),
            "kernel transposed": (lambda k, ft, f, y, r: kernel_step(k.T, ft, f, y, r), "your code stopped with"),
            "no return": (lambda *a: None, "is a `return` missing?"),
        },
    ),
    Table(
        "01.4",
        right={"eigh": flow, "expm": flow_by_expm, "NumPy": flow_in_numpy},
        wrong={
            "as it was": (as_it_was, "look at the sign of the residual"),
            "the sign mended only": (only_the_sign, "the 1/N of the loss is missing"),
            "the 1/N mended only": (only_the_n, "look at the sign of the residual"),
            "1/N twice": (lambda k, y, f0, t: flow(k, y, f0, t / len(y)), "1/N in there twice"),
            "1/(2N)": (lambda k, y, f0, t: flow(k, y, f0, t / 2), "too slow by a factor of 2"),
            "2/N": (flow_with(lambda t, y: 2 * t), "too fast by a factor of 2"),
            "1/(NK)": (flow_with(lambda t, y: t / y.shape[1]), "factor of K"),
            "1/K": (flow_with(lambda t, y: t * len(y) / y.shape[1]), "K stands in the place of N"),
            "y + e·f0": (flow_with(start=lambda f0, y: f0), "it is y + f0"),
            "residual alone": (flow_with(add=0.0), "add y"),
            "rows": (flow_with(rows=True), "rows were used"),
            "not trained": (lambda k, y, f0, t: f0, "does not depend on t"),
            "by the library": (lambda k, y, f0, t: ntk.gradient_flow(k, y, t=t, f0=f0), "`gradient_flow`"),
            "grows": (lambda k, y, f0, t: flow(k, y, f0, -t), "grows instead of decaying"),
            "entry by entry": (entrywise, "entry by entry"),
            "always y": (lambda k, y, f0, t: y, "has training ended before it began"),
            "one step": (lambda k, y, f0, t: f0 - t / len(y) * k @ (f0 - y), "one step of gradient descent"),
            "decay of the examples": (decay_of_examples, "mode i multiplies example i"),
        },
    ),
]
test_answers = cases(TABLES)
