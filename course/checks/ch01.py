"""Chapter 01: the empirical NTK, its products with vectors, kernel steps and flows."""

import functools

from course import expect
from course.tasks import task, written


@functools.cache
def _network():
    """A small smooth network f(theta, x [N, d]) -> [N, k] with weights and biases, one that compiles once a shape."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def f(theta, x):
        h = jnp.tanh(x @ theta["hidden"]["W"] + theta["hidden"]["b"][None])
        return h @ theta["out"]["W"] + theta["out"]["b"][None]

    return f


def _model(rng, d, n, k):
    """A small network and its parameters."""
    import jax
    import jax.numpy as jnp

    tree = {
        "hidden": {"W": rng.normal(size=(d, n)), "b": rng.normal(size=n)},
        "out": {"W": rng.normal(size=(n, k)), "b": rng.normal(size=k)},
    }
    return _network(), jax.tree.map(jnp.asarray, tree)


_LIBRARY = ("empirical_ntk", "ntk_vector_product", "monte_carlo_kernel")


@functools.cache
def _compiled_jacobian():
    import jax

    return jax.jit(jax.jacobian(_network()))


@expect.kept
def _leaves(theta, x):
    """∂f/∂θ of the network, by the names of the parameters, each [N, K, P]."""
    import jax
    import numpy as np

    leaves = jax.tree_util.tree_leaves_with_path(_compiled_jacobian()(theta, x))
    return [(path[-1].key, np.asarray(leaf, np.float64).reshape(*leaf.shape[:2], -1)) for path, leaf in leaves]


def _jacobian(theta, x, leave_out=""):
    """∂f/∂θ as one NumPy array [N, K, P], without the parameters of one name."""
    import numpy as np

    return np.concatenate([leaf for name, leaf in _leaves(theta, x) if name != leave_out], axis=2)


@task(
    "01.1",
    "empirical_ntk",
    minutes=15,
    difficulty=2,
    section="The kernel of a network",
    hints=(
        "Take the Jacobian of all outputs by all parameters, once at x1 and once at x2, and sum the products of their "
        "entries over the parameters.",
        "jax.jacobian(f)(theta, x1) is a pytree like theta; each leaf has the shape [N, K, *shape of the parameter]. "
        'Flatten the last axes, contract with "ikp,jkp->ij", add over all leaves, divide by K.',
        "For j1, j2 in zip(jax.tree.leaves(jac1), jax.tree.leaves(jac2)): reshape each to [N, K, -1], and add up "
        'jnp.einsum("ikp,jkp->ij", j1, j2) / K.',
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, d, width, k = expect.one_of(rng, (5, 6, 4, 7, 3), (3, 7, 6, 4, 5))
    f, theta = _model(rng, d, width, k)
    x1, x2 = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    with expect.without(*_LIBRARY):
        got = expect.call(answer, f, theta, x1, x2)
    if np.shape(got) == (n, m, k, k):
        expect.fail("that is the full kernel [N, M, K, K]; wanted is the mean over equal outputs, k = l: [N, M].")
    if np.shape(got) == (n, m, k):
        expect.fail("the outputs are still apart, [N, M, K]; average over them.")
    got = expect.array(got, shape=(n, m), axes="N M")
    j1, j2 = _jacobian(theta, x1), _jacobian(theta, x2)
    b1, b2 = _jacobian(theta, x1, "b"), _jacobian(theta, x2, "b")
    w1, w2 = _jacobian(theta, x1, "W"), _jacobian(theta, x2, "W")
    mean = "ikp,jkp->ij"
    last = k * width + k  # parameters of the readout, the last ones
    expect.close(
        got,
        np.einsum(mean, j1, j2) / k,
        rtol=1e-4,
        slips={
            "it is K times what was expected: average over the outputs instead of summing.": np.einsum(mean, j1, j2),
            "it is 1/K times what was expected: the mean over the outputs is taken twice.": np.einsum(mean, j1, j2)
            / k**2,
            "the biases are missing: every parameter counts.": np.einsum(mean, b1, b2) / k,
            "the biases are missing, and outputs are summed instead of averaged.": np.einsum(mean, b1, b2),
            "only the biases are there: every parameter counts.": np.einsum(mean, w1, w2) / k,
            "only the readout's parameters are there: every parameter counts.": np.einsum(
                mean, j1[..., -last:], j2[..., -last:]
            )
            / k,
            "only the last leaf of the pytree is there: add up over all of them.": np.ones((n, m)),
            "only the hidden layer's parameters are there: every parameter counts.": np.einsum(
                mean, j1[..., :-last], j2[..., :-last]
            )
            / k,
            "the outputs were added up before differentiating: products of different outputs are in it.": np.einsum(
                "ikp,jlp->ij", j1, j2
            ),
            "products of different outputs, k ≠ l, are in the sum.": np.einsum("ikp,jlp->ij", j1, j2) / k,
            "products of different outputs, k ≠ l, are in the mean.": np.einsum("ikp,jlp->ij", j1, j2) / k**2,
            "that is the kernel of the first output alone; average over all.": j1[:, 0] @ j2[:, 0].T,
            "it is divided by the number of parameters; they are summed over.": np.einsum(mean, j1, j2)
            / k
            / j1.shape[2],
        },
    )
    square = expect.array(expect.call(answer, f, theta, x1, x1), shape=(n, n), axes="N N")
    expect.close(square, np.einsum(mean, j1, j1) / k, "Θ(X, X)")


@task(
    "01.2",
    "ntk_vector_product",
    minutes=20,
    difficulty=3,
    section="Two ways to compute it",
    hints=(
        "Θ(x1, x2) v = J(x1) (J(x2)ᵀ v): first pull v back from the outputs at x2 to the parameters, then push the "
        "result forward to the outputs at x1.",
        "jax.vjp(lambda p: f(p, x2), theta) gives (outputs, pull); pull(v) is a tuple with one pytree, a direction in "
        "parameters. jax.jvp along it gives [N, K].",
        "_, pull = jax.vjp(lambda p: f(p, x2), theta); (direction,) = pull(v); then the second part of "
        "jax.jvp(lambda p: f(p, x1), (theta,), (direction,)).",
    ),
)
def _(answer, rng):
    import jax
    import jax.numpy as jnp
    import numpy as np

    n, m, d, width, k = expect.one_of(rng, (5, 6, 4, 7, 3), (3, 7, 6, 4, 5))
    f, theta = _model(rng, d, width, k)
    x1, x2, v = rng.normal(size=(n, d)), rng.normal(size=(m, d)), rng.normal(size=(m, k))
    with expect.without(*_LIBRARY):
        got = expect.call(answer, f, theta, x1, x2, v)
    if isinstance(got, (tuple, list)) and len(got) == 2:
        expect.fail("two things came back. jax.jvp returns (outputs, derivative): return the derivative alone.")
    if np.shape(got) == (m, k):
        expect.fail("the result belongs to x2, [M, K]; v lives there. Pull back at x2 and push forward at x1: [N, K].")
    got = expect.array(got, shape=(n, k), axes="N K")
    full = np.einsum("ikp,jlp->ijkl", _jacobian(theta, x1), _jacobian(theta, x2))
    expect.close(
        got,
        np.einsum("ijkl,jl->ik", full, v),
        rtol=1e-4,
        factors={"M": m, "K": k, "N": n},
        slips={
            "those are the outputs f(theta, x1), the first of the two things that jax.jvp returns.": np.asarray(
                f(theta, jnp.asarray(x1))
            ),
            "each output saw its own part of v only; the blocks have entries with k ≠ l, too.": np.einsum(
                "ijkk,jk->ik", full, v
            ),
            "that is the mean kernel [N, M] times v; the product with all blocks [K, K] is wanted.": np.einsum(
                "ijkk,jl->il", full, v
            )
            / k,
            "v does not seem to be used: this is Θ times a vector of ones.": np.einsum("ijkl->ik", full),
        },
    )

    def product(theta, x1, x2, v):
        _, pull = jax.vjp(lambda p: f(p, x2), theta)
        return jax.jvp(lambda p: f(p, x1), (theta,), pull(v))[1]

    f, theta = _model(rng, 20, 30, 6)
    x1, x2, v = rng.normal(size=(8, 20)), rng.normal(size=(9, 20)), rng.normal(size=(9, 6))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(theta))
    expect.no_jacobian(lambda *a: answer(f, *a), product, 48 * parameters, theta, x1, x2, v)
    return "It costs about as much as two training steps, however many parameters there are"


@task(
    "01.3",
    "kernel_step",
    minutes=10,
    difficulty=2,
    section="One step, predicted and measured",
    hints=(
        "It is step 3 of the derivation, with the sum over training examples written as a matrix product.",
        "f_test − (η/N) Θ(x, X) (f_train − y): [M, K] − number · [M, N] @ [N, K], N training examples.",
        "f_test - learning_rate / len(y) * kernel @ (f_train - y)",
    ),
)
def _(answer, rng):
    m, n, k = expect.one_of(rng, (3, 5, 7), (7, 6, 5))
    kernel, f_test = rng.normal(size=(m, n)), rng.normal(size=(m, k))
    f_train, y, eta = rng.normal(size=(n, k)), rng.normal(size=(n, k)), 0.3
    got = expect.call(answer, kernel, f_test, f_train, y, eta)
    got = expect.array(got, shape=(m, k), axes="M K")
    change = kernel @ (f_train - y) / n
    expect.close(
        got,
        f_test - eta * change,
        "the outputs after the step",
        rtol=1e-5,
        slips={
            "the residual or the step has the wrong sign: this goes uphill.": f_test + eta * change,
            "the 1/N of the loss is missing.": f_test - eta * n * change,
            "the 1/N is missing, and the sign is wrong.": f_test + eta * n * change,
            "it is divided by the number M of test inputs; the loss has the number N of training examples.": f_test
            - eta * change * n / m,
            "it is divided by 2N: the 2 goes when the square is differentiated.": f_test - eta * change / 2,
            "it is multiplied by 2/N: the ½ of the loss cancels the 2 of the square.": f_test - eta * change * 2,
            "the learning rate is missing.": f_test - change,
            "that is the change alone; add it to f_test.": -eta * change,
            "the step goes along y instead of the residual f − y.": f_test + eta * kernel @ y / n,
            "the targets are missing from the residual.": f_test - eta * kernel @ f_train / n,
            "it is averaged over the K outputs as well.": f_test - eta * change / k,
            "it is averaged over the K outputs instead of the N examples.": f_test - eta * change * n / k,
        },
    )


@task(
    "01.4",
    "flow",
    minutes=15,
    difficulty=3,
    section="The kernel held constant: a closed form",
    hints=(
        "Try it where you know the answer: t = 0. Then take a diagonal Θ: how fast should an example decay if N "
        "of them share the loss?",
        "f_t = y + e^(−Θt/N) (f_0 − y). Compare each sign and each factor with the code.",
        "decay = jnp.exp(-values * t / len(y)), and the residual is f0 - y.",
    ),
)
def _(answer, rng):
    import jax.numpy as jnp
    import numpy as np

    n, k = expect.one_of(rng, (5, 3), (6, 7))
    a = rng.normal(size=(n, n - 2))
    kernel = a @ a.T
    y, f0, t = rng.normal(size=(n, k)), rng.normal(size=(n, k)), 0.7
    values, modes = np.linalg.eigh(kernel)

    def with_rows():
        modes = np.asarray(jnp.linalg.eigh(jnp.asarray(kernel))[1], np.float64)
        return y + modes.T @ (np.exp(-values * t / n)[:, None] * (modes @ (f0 - y)))

    def flow(time, n=n):
        return y + modes @ (np.exp(-values * time / n)[:, None] * (modes.T @ (f0 - y)))

    with expect.without("gradient_flow", "gradient_descent"):
        got = expect.call(answer, kernel, y, f0, 0.0)
    got = expect.array(got, "the result at t = 0", shape=(n, k), axes="N K")
    expect.close(
        got,
        f0,
        "the result at t = 0",
        rtol=1e-4,
        slips={
            "it should be f0 there, and it is 2y − f0: look at the sign of the residual.": 2 * y - f0,
            "it should be f0 there, and it is y: has training ended before it began?": y,
            "it should be f0 there, and it is y + f0: what decays is the residual, f0 − y.": y + f0,
            "it should be f0 there, and it is f0 − y: add y.": f0 - y,
            "the exponential was taken entry by entry, where e^0 is 1 for every entry; e^(−Θt/N) is that of the "
            "matrix.": y + np.ones((n, n)) @ (f0 - y),
        },
    )
    got = expect.array(expect.call(answer, kernel, y, f0, t), f"the result at t = {t}", shape=(n, k), axes="N K")
    expect.close(
        got,
        flow(t),
        f"the result at t = {t}",
        rtol=1e-4,
        slips={
            "training is N times too fast: the 1/N of the loss is missing.": flow(t, n=1),
            "training is too slow by a factor of N: is 1/N in there twice?": flow(t, n=n**2),
            "training is too slow by a factor of 2: the ½ of the loss cancels the 2 of the square.": flow(t / 2),
            "training is too fast by a factor of 2: the ½ of the loss cancels the 2 of the square.": flow(2 * t),
            "training is too slow by a factor of K: the loss is a mean over examples, not over outputs.": flow(t / k),
            "the loss is a mean over the N examples; here K stands in the place of N.": flow(t, n=k),
            "it grows instead of decaying.": flow(-t),
            "the modes are the columns of what `eigh` returns; rows were used.": with_rows,
            "that is one step of gradient descent of the length t, f0 − (t/N) Θ (f0 − y); flow takes infinitely many "
            "small ones.": f0 - t / n * kernel @ (f0 - y),
            "the decay of mode i multiplies example i; it belongs to the components along the modes.": y
            + np.exp(-values * t / n)[:, None] * (f0 - y),
            "it does not depend on t.": f0,
        },
    )
    return "Θ here has null directions, and your result keeps f0 along them"


written(
    "01.5",
    "fewer_parameters_than_examples",
    rubric=(
        "at least 14 null directions, since the rank of J Jᵀ is at most P;",
        "the loss tends to ‖r⊥‖²/(2N), r⊥ the part of f_0 − y in the null space;",
        "it depends on the start, through f_0 − y.",
    ),
    numbers=("14", "fourteen"),
    asked="how many null directions are there at the least?",
    minutes=10,
    difficulty=3,
    section="What is never learned: the null space",
    hints=(
        "What is the largest rank that J Jᵀ can have?",
        "Split the residual at t = 0 into a part in the range of Θ and a part in its null space, and follow both.",
        "The first part decays to 0, the second stays: the loss ends at ‖second part‖²/(2N). Now say what the parts "
        "depend on.",
    ),
)

written(
    "01.6",
    "the_kernel_of_another_optimiser",
    rubric=(
        "the kernel J D Jᵀ, derived;",
        "one step measured for several η, with the slope of the error for both kernels (near 2, near 1);",
        "signs of gradients are not linear in the residual, so that no fixed kernel belongs to them.",
    ),
    minutes=25,
    difficulty=4,
    section="From parameters to functions",
    hints=(
        "Repeat steps 2 and 3 of the derivation with θ' = θ − η D ∇L, where D is a diagonal matrix of rates.",
        "The kernel becomes J D Jᵀ. To compute it with ntk.empirical_ntk, write θ = √D φ and take the kernel in φ.",
        "apply_scaled = lambda phi, x: f(tree.map(mul, roots, phi), x), at phi = tree.map(truediv, theta, roots). Then "
        "measure one step for several η and fit the slope of the error.",
    ),
)
