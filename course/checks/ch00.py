"""Chapter 00: per-example gradients, directional derivatives, a training step, a loss that broadcasts."""

import functools
from typing import Any

from course import expect
from course.tasks import task, written


@functools.cache
def _network(d, n, k):
    """A small smooth network f(theta, x [d]) -> [K] of a parameter vector: one function, so that it compiles once."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def f(theta, one):
        if jnp.ndim(one) != 1:
            expect.fail(
                f"f takes one example [d]; it was called with shape {jnp.shape(one)}. Let vmap take the examples apart."
            )
        weights, readout = theta[: d * n].reshape(d, n), theta[d * n :].reshape(n, k)
        return jnp.tanh(one @ weights) @ readout + 0.5

    return f


def _model(rng, sizes):
    """A small network, and parameters, inputs and targets for it."""
    count, d, n, k = sizes
    given = rng.normal(size=d * n + n * k), rng.normal(size=(count, d)), rng.normal(size=(count, k))
    return _network(d, n, k), *given


@expect.kept
def _gradients(loss, theta, x, y):
    """The gradient of each example's loss, [N, P]."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    return np.asarray(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(*map(jnp.asarray, (theta, x, y))))


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

    f, theta, x, y = _model(rng, expect.one_of(rng, (7, 4, 6, 3), (6, 4, 3, 5)))
    got = expect.call(answer, f, theta, x, y)
    (n, k), p = y.shape, len(theta)

    def one(theta, x, y):
        return 0.5 * jnp.sum((f(theta, x) - y) ** 2)

    want = _gradients(one, theta, x, y)
    if np.shape(got) == (p,):
        total = np.allclose(got, want.sum(0), rtol=1e-3, atol=1e-4)
        mean = np.allclose(got, want.mean(0), rtol=1e-3, atol=1e-4)
        expect.that(not total, "that is the sum over the examples, [P]; a row for each example is wanted, [N, P].")
        expect.that(not mean, "that is the mean over the examples, [P]; a row for each example is wanted, [N, P].")
        expect.fail("that is one vector [P]; a row for each example is wanted, [N, P].")
    expect.that(
        np.shape(got) != (k, p),
        "that is a row for each output, [K, P], summed over the examples; a row for each example is wanted, [N, P].",
    )
    expect.that(
        np.shape(got) != x.shape,
        "those are derivatives by the inputs, [N, d]; wanted are those by the parameters theta, [N, P].",
    )
    got = expect.array(got, shape=(n, p), axes="N P")

    def of_one_target(target):
        return jax.vmap(jax.grad(one), in_axes=(None, 0, None))(jnp.asarray(theta), jnp.asarray(x), target)

    def of_norms():
        def norm(theta, x, y):
            return jnp.linalg.norm(f(theta, x) - y)

        return np.asarray(jax.vmap(jax.grad(norm), in_axes=(None, 0, 0))(*map(jnp.asarray, (theta, x, y))))

    def of_outputs():
        return jax.vmap(jax.jacrev(f), in_axes=(None, 0))(jnp.asarray(theta), jnp.asarray(x)).sum(1)

    expect.close(
        got,
        want,
        rtol=1e-4,
        factors={"the number of examples": n},
        slips={
            "these are the gradients of the outputs; the loss has the residual f − y as well.": of_outputs,
            "each input is compared with the first target: map over y, too.": lambda: of_one_target(jnp.asarray(y[0])),
            "the targets are not used.": lambda: of_one_target(0.0),
            "every row is the mean of all gradients; row i belongs to example i alone.": 0 * want + want.mean(0),
            "every row is the sum of all gradients; row i belongs to example i alone.": 0 * want + want.sum(0),
            "those are gradients of the norm ‖f − y‖; the loss has its square.": of_norms,
            "those are gradients of half the norm, ½‖f − y‖; the loss has its square.": lambda: of_norms() / 2,
            "the squares are averaged over the outputs; the loss sums them.": want / k,
            "the squares are averaged over the outputs, and ½ is missing: the loss is half their sum.": 2 * want / k,
            "the factor ½ of the loss is missing, and there is a 1/N that belongs to the mean of the losses.": 2
            * want
            / n,
        },
    )
    return "Their mean is the gradient of the whole loss"


@functools.cache
def _with_a_jump():
    """A function whose last term has a value and no derivative, which a difference of two evaluations does not see.

    Returns it, and the same function with the derivative of that term.
    """
    import jax
    import jax.numpy as jnp

    def smooth(p, x):
        return jnp.tanh(x @ p["hidden"]["W"] + p["hidden"]["b"][None]) @ p["out"]["W"]

    def term(p, x):
        return jnp.sin(x @ p["hidden"]["W"]) @ p["out"]["W"]

    return (
        jax.jit(lambda p, x: smooth(p, x) + jax.lax.stop_gradient(term(p, x))),
        jax.jit(lambda p, x: smooth(p, x) + term(p, x)),
    )


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

    def given(count, d, n, k):
        shapes = {"hidden": {"W": (d, n), "b": (n,)}, "out": {"W": (n, k)}}

        def draw(shapes) -> Any:
            return {a: draw(b) if isinstance(b, dict) else jnp.asarray(rng.normal(size=b)) for a, b in shapes.items()}

        return draw(shapes), draw(shapes), jnp.asarray(rng.normal(size=(count, d)))

    f, moving = _with_a_jump()
    theta, v, x = given(*expect.one_of(rng, (5, 3, 4, 2), (6, 4, 5, 3)))
    got = expect.call(answer, f, theta, v, x)
    if isinstance(got, (tuple, list)) and len(got) == 2:
        expect.fail("two things came back. jax.jvp returns (value, derivative): return the derivative alone.")
    value, want = jax.jvp(lambda p: f(p, x), (theta,), (v,))
    got = expect.array(got, shape=want.shape, axes="N K")
    length = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(v)))
    no_bias = {"hidden": {**v["hidden"], "b": 0 * v["hidden"]["b"]}, "out": v["out"]}
    stepped = jax.tree.map(lambda p, q: jnp.asarray(np.add(p, q)), theta, v)
    moved = np.asarray(jax.jvp(lambda p: moving(p, x), (theta,), (v,))[1], np.float64)
    off = np.abs(got - moved).max() / np.abs(moved).max()
    expect.that(
        off > 0.03, "is it a difference of two evaluations? jax.jvp differentiates exactly, without a small number."
    )
    expect.close(
        got,
        want,
        rtol=1e-4,
        slips={
            "those are the outputs themselves, the first of the two things that jax.jvp returns.": value,
            "the direction was scaled to length 1; take v as it is.": want / length,
            "the bias did not move: every part of theta moves along its part of v.": lambda: jax.jvp(
                lambda p: f(p, x), (theta,), (no_bias,)
            )[1],
            "that is f(theta + v) − f(theta), a whole step; wanted is the derivative at theta.": lambda: (
                f(stepped, x) - value
            ),
            "the derivative is taken at theta + v; it belongs at theta.": lambda: jax.jvp(
                lambda p: f(p, x), (stepped,), (v,)
            )[1],
            "theta and v have changed places.": lambda: jax.jvp(lambda p: f(p, x), (v,), (theta,))[1],
        },
    )
    theta, v, x = given(8, 20, 30, 6)  # 48 outputs, 810 parameters
    expect.no_jacobian(
        lambda theta, v: answer(f, theta, v, x),
        lambda theta, v: jax.jvp(lambda p: f(p, x), (theta,), (v,))[1],
        48 * 810,
        theta,
        v,
    )


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
    optimizer = optax.chain(optax.add_decayed_weights(3.0), optax.sgd(0.02, momentum=0.8))  # it wants the parameters

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

    def right(p, s, of=lambda p, g: p, after=lambda p, u: optax.apply_updates(p, u), sign=1.0, times=1):
        gradient = jax.tree.map(lambda g: sign * g, jax.grad(loss)(p))
        for _ in range(times - 1):
            _, s = optimizer.update(gradient, s, of(p, gradient))
        updates, s = optimizer.update(gradient, s, of(p, gradient))
        return after(p, updates), s

    def with_another():
        """What comes back if it is the same with any optimizer."""
        other = optax.chain(optax.add_decayed_weights(1.0), optax.sgd(0.3, momentum=0.5))  # of the same form
        p, s = {"W": start[:3], "b": start[3:]}, state
        for _ in range(3):
            p = expect.parts(expect.call(answer, p, s, loss, other), ("params", "opt_state"))[0]
        moved = np.abs(flat(p) - flat(params)).max() > 1e-6
        return np.full(4, np.nan) if moved else flat(params)

    def raw(sign):
        return lambda p, s: (jax.tree.map(lambda q, g: q + sign * g, p, jax.grad(loss)(p)), s)

    expect.close(
        flat(params),
        run(right),
        "the parameters after three steps",
        rtol=1e-4,
        slips={
            "momentum never builds up: the state that was given goes into `update`, no other, and the new one comes "
            "back.": lambda: run(lambda p, s: (right(p, s)[0], s)),
            "the loss goes up: the updates have their minus sign already, and are added to the parameters.": lambda: (
                run(lambda p, s: right(p, s, after=lambda p, u: jax.tree.map(jnp.subtract, p, u)))
            ),
            "the gradient itself was subtracted; it is the optimiser's updates that belong there.": lambda: run(
                raw(-1.0)
            ),
            "the gradient itself was added; it is the optimiser's updates that belong there.": lambda: run(raw(1.0)),
            "the parameters have not changed.": lambda: run(lambda p, s: (p, s)),
            "`update` is called twice in a step: the state moves on twice.": lambda: run(
                lambda p, s: right(p, s, times=2)
            ),
            "the gradient has a minus sign too many: the loss goes up.": lambda: run(
                lambda p, s: right(p, s, sign=-1.0)
            ),
            "`optimizer` plays no part in it: another one gives the same.": with_another,
            "those are the updates alone; they are added to the parameters.": lambda: run(
                lambda p, s: right(p, s, after=lambda p, u: u)
            ),
            "`optimizer.update` wants the parameters behind the state, for weight decay; it gets something else.": (
                lambda: run(lambda p, s: right(p, s, of=lambda p, g: g))
            ),
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
    import jax.numpy as jnp
    import numpy as np

    n, k = expect.one_of(rng, (5, 3), (6, 7))
    outputs, targets = rng.normal(size=(n, 1)), rng.normal(size=n)
    right = np.sum((outputs[:, 0] - targets) ** 2) / (2 * n)
    wrong = np.mean(np.sum((outputs - targets) ** 2, axis=-1)) / 2
    slips = {
        "every output is still compared with every target.": wrong,
        "every output is still compared with every target, and that is averaged.": wrong / n,
        "the factor ½ is missing.": 2 * right,
        "the factor 1/N is missing.": n * right,
        "the factor 1/(2N) is missing.": 2 * n * right,
    }
    got = expect.call(answer, outputs, targets)
    expect.number(got, right, f"the loss for outputs [{n}, 1] and targets [{n}]", rtol=1e-4, slips=slips)
    got = expect.call(answer, outputs, targets[:, None])
    expect.number(got, right, f"the loss for outputs [{n}, 1] and targets [{n}, 1]", rtol=1e-4)

    outputs, targets = rng.normal(size=(n, k)), rng.normal(size=(n, k))
    right = np.sum((outputs - targets) ** 2) / (2 * n)
    slips = {
        "it is averaged over the K outputs as well; the loss sums over them and averages over examples.": right / k,
        "it is averaged over the K outputs as well, and ½ is missing.": 2 * right / k,
        "it is divided by the number K of outputs in place of the number N of examples.": right * n / k,
        "only the first output counts there.": np.sum((outputs - targets)[:, 0] ** 2) / (2 * n),
    }
    got = expect.call(answer, outputs, targets)
    expect.number(got, right, f"the loss for outputs [{n}, {k}] and targets [{n}, {k}]", rtol=1e-4, slips=slips)

    def refuse(outputs, targets, why):
        said = f"outputs {list(outputs)} and targets {list(targets)}"
        try:
            answer(jnp.asarray(rng.normal(size=outputs)), jnp.asarray(rng.normal(size=targets)))
        except ValueError:
            return
        except Exception as error:
            expect.fail(f"{said} are refused with {type(error).__name__}; raise ValueError, which says what is wrong.")
        expect.fail(f"{said} {why}; raise ValueError.")

    refuse((4, 3), (4,), "do not belong together")
    refuse((3, 3), (3,), "do not belong together, even where they broadcast")
    refuse((4, 3), (1, 3), "are still broadcast against each other: compare the shapes")
    refuse((4, 3), (4, 1), "are still broadcast against each other: compare the shapes")
    refuse((4, 3), (3, 4), "have equally many entries, in another order")
    refuse((4, 3), (12,), "have equally many entries, and do not belong together")
    refuse((4, 1), (1,), "are still broadcast against each other: compare the shapes")
    refuse((4, 1), (1, 4), "are a column and a row, every output against every target")
    refuse((4, 1), (5,), "belong to different numbers of examples")
    return "Shapes that do not fit are refused: the next user of this loss will be grateful"


written(
    "00.5",
    "what_the_wrong_loss_learns",
    rubric=(
        "every output is compared with every target, N² pairs;",
        "every output tends to the mean ȳ of the targets, whatever the inputs;",
        "the loss levels off at ½ Σ_j (y_j − ȳ)², N/2 times the variance of the targets.",
    ),
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
    rubric=(
        "errors for at least five N, with an error bar or the number of wrong images behind it;",
        "a law in numbers: the slope on log–log axes (about −0.6), and whether it levels off;",
        "what speaks against continuing the line to 40,000: one split, few wrong images, ambiguous labels.",
    ),
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
