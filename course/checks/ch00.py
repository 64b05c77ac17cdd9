"""Chapter 00: per-example gradients, directional derivatives, a training step, a loss that broadcasts."""

from course import expect
from course.tasks import task, written


def _model(rng):
    """A small smooth network f(theta, x [d]) -> [K] of a parameter vector, and parameters, inputs, targets for it."""
    import jax.numpy as jnp

    d, n, k = 3, 4, 2

    def f(theta, one):
        if jnp.ndim(one) != 1:
            expect.fail(
                f"f takes one example [d]; it was called with shape {jnp.shape(one)}. Let vmap take the examples apart."
            )
        weights, readout = theta[: d * n].reshape(d, n), theta[d * n :].reshape(n, k)
        return jnp.tanh(one @ weights) @ readout + 0.5

    return f, rng.normal(size=d * n + n * k), rng.normal(size=(5, d)), rng.normal(size=(5, k))


@task(
    "00.1",
    "per_example_gradients",
    minutes=10,
    difficulty=2,
    section="`vmap`: write it for one example, get it for all",
    hints=(
        "Write the loss of one example as a function of theta, one input and one target. Then differentiate, then map.",
        "loss_of_one(theta, x_i, y_i) = ½ Σ_k (f(theta, x_i) − y_i)_k². Its gradient is [P]; mapped over the rows of x "
        "and of y, but not over theta, it is [N, P].",
        "jax.vmap(jax.grad(loss_of_one), in_axes=(None, 0, 0))(theta, x, y)",
    ),
)
def _(answer, rng):
    import jax
    import jax.numpy as jnp
    import numpy as np

    f, theta, x, y = _model(rng)
    got = expect.call(answer, f, theta, x, y)
    n, p = len(x), len(theta)

    def one(theta, x, y):
        return 0.5 * jnp.sum((f(theta, x) - y) ** 2)

    want = jax.vmap(jax.grad(one), in_axes=(None, 0, 0))(*map(jnp.asarray, (theta, x, y)))
    if np.shape(got) == (p,):
        total = np.allclose(got, want.sum(0), rtol=1e-3, atol=1e-4)
        what = "the sum" if total else "the mean" if np.allclose(got, want.mean(0), rtol=1e-3, atol=1e-4) else "one row"
        expect.fail(f"that is {what} over the examples, [P]; a row for each example is wanted, [N, P].")
    got = expect.array(got, shape=(n, p), axes="N P")
    jacobian = jax.vmap(jax.jacrev(f), in_axes=(None, 0))(jnp.asarray(theta), jnp.asarray(x)).sum(1)
    pairs = jax.vmap(jax.grad(one), in_axes=(None, 0, None))(jnp.asarray(theta), jnp.asarray(x), jnp.asarray(y[0]))
    expect.close(
        got,
        want,
        rtol=1e-4,
        factors={"the number of examples": n},
        slips={
            "these are the gradients of the outputs; the loss has the residual f − y as well.": jacobian,
            "each input is compared with the first target: map over y, too.": pairs,
        },
    )
    return "Their mean is the gradient of the whole loss"


@task(
    "00.2",
    "directional_derivative",
    minutes=10,
    difficulty=2,
    section="`jvp` and `vjp`: the Jacobian, without ever writing it down",
    hints=(
        "One forward pass does it: jax.jvp of the outputs, seen as a function of theta alone.",
        "jax.jvp(function, (point,), (direction,)) returns a pair: the function's value, and its derivative along the "
        "direction. Point and direction are tuples, one entry for each argument.",
        "_, change = jax.jvp(lambda p: f(p, x), (theta,), (v,)), and return change.",
    ),
)
def _(answer, rng):
    import jax
    import jax.numpy as jnp
    import numpy as np

    tree = {
        "hidden": {"W": rng.normal(size=(3, 4)), "b": rng.normal(size=4)},
        "out": {"W": rng.normal(size=(4, 2))},
    }
    theta = jax.tree.map(jnp.asarray, tree)
    v = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), theta)
    x = rng.normal(size=(5, 3))

    def f(p, x):
        return jnp.tanh(x @ p["hidden"]["W"] + p["hidden"]["b"][None]) @ p["out"]["W"]

    got = expect.call(answer, f, theta, v, x)
    if isinstance(got, (tuple, list)) and len(got) == 2:
        expect.fail("two things came back. jax.jvp returns (value, derivative): return the derivative alone.")
    got = expect.array(got, shape=(5, 2), axes="N K")
    value, want = jax.jvp(lambda p: f(p, jnp.asarray(x)), (theta,), (v,))
    length = float(np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(v))))
    no_bias = {"hidden": {**v["hidden"], "b": 0 * v["hidden"]["b"]}, "out": v["out"]}
    slips = {
        "those are the outputs themselves, the first of the two things that jax.jvp returns.": value,
        "the direction was scaled to length 1; take v as it is.": want / length,
        "the bias did not move: every part of theta moves along its part of v.": jax.jvp(
            lambda p: f(p, jnp.asarray(x)), (theta,), (no_bias,)
        )[1],
        "that is f(theta + v) − f(theta), a whole step; wanted is the derivative at theta.": f(
            jax.tree.map(jnp.add, theta, v), jnp.asarray(x)
        )
        - value,
    }
    scale = float(np.abs(np.asarray(want)).max())
    off = np.abs(got - np.asarray(want, np.float64)).max() / scale
    slipped = any(np.abs(got - np.asarray(s)).max() < 1e-4 * scale for s in slips.values())
    if 1e-5 < off < 0.03 and not slipped:
        expect.fail(
            "it is nearly right, but not to the accuracy of the arithmetic. Is it a difference of two evaluations? "
            "jax.jvp differentiates exactly."
        )
    expect.close(got, want, rtol=1e-4, slips=slips)


@task(
    "00.3",
    "training_step",
    minutes=10,
    difficulty=2,
    section="Training, by hand and with `ntk.train`",
    hints=(
        "Three lines: the gradient, what the optimiser makes of it, and the parameters with that added.",
        "optimizer.update(gradient, opt_state, params) returns (updates, new opt_state); optax.apply_updates adds the "
        "updates, which already have the minus sign and the learning rate in them.",
        "gradient = jax.grad(loss)(params); updates, opt_state = optimizer.update(gradient, opt_state, params); "
        "return optax.apply_updates(params, updates), opt_state",
    ),
)
def _(answer, rng):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    a = jnp.asarray(rng.normal(size=(4, 4)))
    matrix, start = a @ a.T + jnp.eye(4), jnp.asarray(rng.normal(size=4))
    optimizer = optax.sgd(0.02, momentum=0.8)

    def loss(p):
        w = jnp.concatenate([p["W"], p["b"]])
        return 0.5 * w @ matrix @ w

    def run(step, steps=3):
        params = {"W": start[:3], "b": start[3:]}
        state = optimizer.init(params)
        for _ in range(steps):
            params, state = step(params, state)
        return np.concatenate([params["W"], params["b"]])

    def flat(params):
        """The learner's parameters as one vector, after looking at their form."""
        if isinstance(params, dict) and set(params) == {"W", "b"}:
            parts = zip(("W", "b"), ((3,), (1,)), strict=True)
            return np.concatenate(
                [expect.array(params[name], f"the new params[{name!r}]", shape=shape) for name, shape in parts]
            )
        expect.fail("the first result should be the new parameters, a pytree like `params`: a dict of `W` and `b`.")

    params = {"W": start[:3], "b": start[3:]}
    state = optimizer.init(params)
    for _ in range(3):
        got = expect.call(answer, params, state, loss, optimizer)
        params, new_state = expect.parts(got, ("params", "opt_state"))
        flat(params)
        if jax.tree.structure(new_state) != jax.tree.structure(state):
            expect.fail("the second result should be the optimiser's new state, as optimizer.update returns it.")
        state = new_state

    def right(p, s):
        updates, s = optimizer.update(jax.grad(loss)(p), s, p)
        return optax.apply_updates(p, updates), s

    def raw(sign):
        return lambda p, s: (jax.tree.map(lambda q, g: q + sign * g, p, jax.grad(loss)(p)), s)

    def by_subtraction(p, s):
        updates, s = optimizer.update(jax.grad(loss)(p), s, p)
        return jax.tree.map(jnp.subtract, p, updates), s

    uphill = "the loss goes up: the updates have their minus sign already, and are added to the parameters."
    no_rate = "the gradient itself was added or subtracted; it is the optimiser's updates that belong there."
    expect.close(
        flat(params),
        run(right),
        "the parameters after three steps",
        rtol=1e-4,
        slips={
            "momentum never builds up: is the new state returned, or the old one?": run(
                lambda p, s: (right(p, s)[0], s)
            ),
            uphill: run(by_subtraction),
            no_rate: run(raw(-1.0)),
            no_rate + " ": run(raw(1.0)),
            "the parameters have not changed.": run(lambda p, s: (p, s)),
        },
    )
    return "And it works with any optimiser: try optax.adam"


@task(
    "00.4",
    "mse",
    minutes=10,
    difficulty=2,
    section="The data",
    hints=(
        "Print the shape of outputs − targets for outputs [N, 1] and targets [N].",
        "[N, 1] − [N] broadcasts to [N, N]: every output is compared with every target. Give the targets their missing "
        "axis when they have one axis only, and refuse what still does not fit.",
        "if targets.ndim == 1: targets = targets[:, None]; then raise ValueError if outputs.shape != targets.shape; "
        "then the same formula as before.",
    ),
)
def _(answer, rng):
    import numpy as np

    outputs, targets = rng.normal(size=(5, 1)), rng.normal(size=5)
    right = np.sum((outputs[:, 0] - targets) ** 2) / 10
    wrong = np.mean(np.sum((outputs - targets) ** 2, axis=-1)) / 2
    got = expect.call(answer, outputs, targets)
    slips = {
        "every output is still compared with every target.": wrong,
        "every output is still compared with every target, and that is averaged.": wrong / 5,
        "the factor ½ is missing.": 2 * right,
        "the factor 1/N is missing.": 5 * right,
        "the factor 1/(2N) is missing.": 10 * right,
    }
    expect.number(got, right, "the loss for outputs [5, 1] and targets [5]", rtol=1e-4, slips=slips)

    outputs, targets = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    right = np.sum((outputs - targets) ** 2) / 8
    got = expect.call(answer, outputs, targets)
    slips = {
        "it is averaged over the K outputs as well; the loss sums over them and averages over examples.": right / 3,
        "the factor ½ is missing.": 2 * right,
    }
    expect.number(got, right, "the loss for outputs [4, 3] and targets [4, 3]", rtol=1e-4, slips=slips)

    def refused(*shapes):
        import jax.numpy as jnp

        try:
            answer(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))
        except (ValueError, TypeError, AssertionError):
            return True
        return False

    expect.that(refused((4, 3), (4,)), "outputs [4, 3] and targets [4] do not belong together; raise ValueError.")
    expect.that(
        refused((4, 3), (1, 3)),
        "outputs [4, 3] and targets [1, 3] are still broadcast against each other; compare the shapes and raise "
        "ValueError.",
    )
    return "Shapes that do not fit are refused: the next user of this loss will be grateful"


written(
    "00.5",
    "what_the_wrong_loss_learns",
    words=20,
    minutes=10,
    difficulty=3,
    section="The data",
    hints=(
        "Write the wrong loss as a sum over i and j. What does the best constant output look like, and can any other "
        "output do better?",
        "1/(2N) Σ_ij (f(x_i) − y_j)²: for each i apart, the sum over j is smallest at the mean of all targets.",
        "Σ_j (f_i − y_j)² = N (f_i − ȳ)² + Σ_j (y_j − ȳ)². The second term does not depend on the network.",
    ),
)

written(
    "00.6",
    "learning_curve",
    words=30,
    minutes=20,
    difficulty=3,
    section="The first result",
    hints=(
        "Kernel regression on a subset needs only the rows and columns of the kernel that belong to it.",
        "Subsets are nested: the first N images are balanced, up to one, so theta[:N, :N] and theta_test[:, :N] do.",
        "Compute the kernel once for 4,000 images; loop over N with cho_factor and cho_solve; plot the error over N on "
        "log-log axes, and ask whether it has levelled off.",
    ),
)
