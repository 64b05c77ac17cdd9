"""Checks of chapter 05, lazy training."""

import functools

from course import expect
from course.tasks import task, written


@functools.cache
def _network():
    """A small smooth model; one with a last term that has a value and no derivative, which a difference misses; and
    the same with the derivative of that term.

    They are one function each, so that they compile once for each shape.
    """
    import jax
    import jax.numpy as jnp

    def smooth(p, x):
        d, n = p["first"]["V"].shape
        # shifted, so that no other parameters give the same function by a symmetry of tanh
        return jnp.tanh(x @ p["first"]["V"] / d**0.5 + p["first"]["b"] + 0.4) @ p["last"] / n**0.5 + 0.3

    def term(p, x):
        return jnp.sin(3 * x @ p["first"]["V"]) @ p["last"]

    return (
        jax.jit(smooth),
        jax.jit(lambda p, x: smooth(p, x) + jax.lax.stop_gradient(term(p, x))),
        jax.jit(lambda p, x: smooth(p, x) + term(p, x)),
    )


def _model(rng, d, n, k):
    """A small smooth model with several outputs, (apply_fn, params), params a nested dict; h(w_0) is not zero."""
    import jax.numpy as jnp

    params = {
        "first": {"V": jnp.asarray(rng.normal(size=(d, n))), "b": jnp.asarray(rng.normal(size=n))},
        "last": jnp.asarray(rng.normal(size=(n, k))),
    }

    return _network()[0], params


def _moved(params, rng, by):
    import jax
    import jax.numpy as jnp
    import numpy as np

    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a) + by * rng.normal(size=a.shape)), params)


def _kernel(apply_fn, params, x):
    """Θ with outputs, [N, K, N, K]."""
    import jax
    import numpy as np

    jac = jax.jacrev(apply_fn)(params, x)
    flat = np.concatenate(
        [np.asarray(leaf, np.float64).reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jac)], -1
    )
    return np.einsum("ikp,jlp->ikjl", flat, flat), flat


@task(
    "05.1",
    "linear_model",
    minutes=15,
    difficulty=2,
    section="Under the magnifying glass",
    hints=(
        "`jax.jvp(g, (at,), (along,))` returns two things at once: g(at) and the derivative of g at `at` in the "
        "direction `along`. Those are the two terms.",
        "g is apply_fn as a function of the parameters alone, at = params (where the expansion is made), "
        "along = w - params, which for a pytree is jax.tree.map(jnp.subtract, w, params).",
        "Inside h_bar(w, x): value, slope = jax.jvp(lambda p: apply_fn(p, x), (params,), (change,)); "
        "return value + slope.",
    ),
)
def _(answer, rng):
    import jax
    import jax.numpy as jnp
    import numpy as np

    n, d, width, k = expect.one_of(rng, (3, 6, 5, 7), (7, 5, 6, 3))
    params = _model(rng, d, width, k)[1]
    apply_fn = _network()[1]
    x = rng.normal(size=(n, d))
    w = _moved(params, rng, 0.7)

    with expect.without("linearize", "taylor"):
        h_bar = expect.call(answer, apply_fn, params)
        expect.that(callable(h_bar), "linear_model should return a function h_bar(w, x), to be used like apply_fn.")
        got = expect.call(h_bar, w, x)
    if isinstance(got, (tuple, list)) and len(got) == 2:
        expect.fail("two things came back. jax.jvp returns (value, derivative): h_bar is their sum.")
    got = expect.array(got, "h_bar(w, x)", shape=(n, k), axes="N K")

    def parts(at, along):
        value, slope = jax.jvp(lambda p: apply_fn(p, jnp.asarray(x)), (at,), (along,))
        return np.asarray(value, np.float64), np.asarray(slope, np.float64)

    change = jax.tree.map(jnp.subtract, w, params)
    value, slope = parts(params, change)
    there, slope_there = parts(w, change)

    def along(term):
        """The derivative of a function of the parameters at w_0 along w − w_0."""
        return np.asarray(jax.jvp(term, (params,), (change,))[1], np.float64)

    def with_curvature():
        def slope_at(p):
            return jax.jvp(lambda p: apply_fn(p, jnp.asarray(x)), (p,), (change,))[1]

        return value + slope + along(slope_at) / 2

    # The last term of this model has no derivative, and a difference of two evaluations gives it one.
    uneven = value + along(lambda p: _network()[2](p, jnp.asarray(x)))
    off = np.abs(got - uneven).max() / np.abs(uneven).max()
    expect.that(
        off > 0.03, "is it a difference of two evaluations? jax.jvp differentiates exactly, without a small number."
    )
    expect.close(
        got,
        value + slope,
        "h_bar(w, x)",
        slips={
            "that is the derivative term alone; h(w_0, x) has to be added.": slope,
            "that is h(w_0, x) alone; the derivative term is missing.": value,
            "that is the model itself at w; its linearisation is wanted.": there,
            "the direction was w; it should be w - w_0, how far the parameters are from where the "
            "expansion is made.": value + parts(params, w)[1],
            "the direction has the wrong sign: it is w - w_0, not w_0 - w.": value - slope,
            "the expansion is made around w; it belongs around w_0 = params.": there + slope_there,
            "the Jacobian was taken at w; it should be the one at w_0 = params, which stays the same.": value
            + slope_there,
            "the term h(w_0, x) was replaced by h(w, x).": there + slope,
            "it has half the derivative term; the 1/2 belongs to the second order.": value + slope / 2,
            "the term of second order is in it; the linear model stops after the first.": with_curvature,
        },
    )
    far = jax.tree.map(lambda p, c: p + 3.0 * c, params, change)
    got = expect.array(expect.call(h_bar, far, x), "h_bar(w, x)", shape=(n, k), axes="N K")
    expect.close(got, value + 3 * slope, "h_bar three times as far from w_0")
    # A model is there to be trained: its gradient is Dhᵀ c, wherever it is.
    c = jnp.asarray(rng.normal(size=(n, k)))
    try:
        gradient = jax.grad(lambda w: jnp.sum(c * h_bar(w, jnp.asarray(x))))(w)
    except Exception as error:
        expect.fail(f"it gives numbers and has no gradient, so that it cannot be trained: {type(error).__name__}.")
    want = jax.vjp(lambda p: apply_fn(p, jnp.asarray(x)), params)[1](c)[0]
    flat, want = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (gradient, want))
    expect.that(
        np.abs(flat).max() > 0,
        "its gradient with respect to w is zero: something is held fixed, and nothing is trained.",
    )
    expect.close(flat, want, "the gradient of h_bar with respect to w")
    big, start = _model(rng, 20, 30, 6)
    inputs, target = rng.normal(size=(8, 20)), _moved(start, rng, 0.3)

    def once(w):
        change = jax.tree.map(jnp.subtract, w, start)
        return jax.jvp(lambda p: big(p, jnp.asarray(inputs)), (start,), (change,))

    expect.no_jacobian(
        lambda w: expect.call(answer, big, start)(w, jnp.asarray(inputs)), once, 48 * (20 * 30 + 30 + 30 * 6), target
    )
    return "Affine in w, as it should be, nonlinear in x"


@task(
    "05.2",
    "double",
    minutes=20,
    difficulty=3,
    section="Three ways to start at zero",
    hints=(
        "The difference of two copies of the model is zero as long as their parameters are the same, for every x. "
        "A pair of two pytrees is itself a pytree: it may serve as parameters.",
        "The Jacobian of h(w) - h(w') has two blocks, Dh and -Dh. What is its product with its own transpose, and "
        "which factor in front of the difference turns this into Dh Dh^T?",
        "apply_fn2(both, x) = (apply_fn(both[0], x) - apply_fn(both[1], x)) / 2**0.5, and the parameters are "
        "(params, params).",
    ),
)
def _(answer, rng):
    import jax
    import jax.numpy as jnp
    import numpy as np

    n, d, width, k = expect.one_of(rng, (3, 6, 5, 7), (7, 5, 6, 3))
    apply_fn, params = _model(rng, d, width, k)
    x = rng.normal(size=(n, d))
    fn, both = expect.parts(expect.call(answer, apply_fn, params), ("apply_fn2", "params2"))
    expect.that(callable(fn), "the first part should be a function apply_fn2(params2, x).")
    first = expect.call(fn, both, x)
    start = expect.array(first, "the output at the start", shape=(n, k), axes="N K")
    before = np.asarray(apply_fn(params, jnp.asarray(x)), np.float64)
    size = np.abs(before).max()
    for factor, slip in (
        (2.0, "the copies are added"),
        (2**0.5, "the copies are added"),
        (1.0, "it is still the model's own output"),
    ):
        expect.that(
            np.abs(start - factor * before).max() > 1e-4 * size,
            f"the output at the start is not zero: {slip}; take their difference, both started at `params`.",
        )
    expect.that(
        np.abs(start).max() < 1e-5 * size,
        "the output at the start is not zero. Do both copies start at the same `params`?",
    )
    P, P2 = (sum(np.size(leaf) for leaf in jax.tree.leaves(p)) for p in (params, both))
    if P2 == P:
        elsewhere = np.asarray(fn(_moved(both, rng, 0.3), jnp.asarray(x)), np.float64)
        expect.that(
            np.abs(elsewhere).max() > 1e-5 * size,
            "the output is zero for all parameters: both terms take the same ones. Each copy has its own.",
        )
    expect.that(
        P2 != P,
        "there are only as many parameters as before: that is centering, h(w) - h(w_0). Here both copies are trained.",
    )
    expect.that(P2 == 2 * P, "there should be two copies of all parameters, no more and no less, in `params2`.")
    theta, _ = _kernel(apply_fn, params, jnp.asarray(x))
    expect.call(lambda p, x: jax.jacrev(fn)(p, x), both, x)
    got = _kernel(fn, both, jnp.asarray(x))[0]
    # Away from the start: half the difference of h(w + u) and h(w − u) has a gradient in w only there.
    _, moved = _kernel(fn, _moved(both, rng, 0.3), jnp.asarray(x))
    silent = int((np.abs(moved).max((0, 1)) < 1e-9 * np.abs(moved).max()).sum())
    expect.that(
        silent < P,
        "half of the parameters get no gradient: the second copy is held fixed. Both copies are trained.",
    )
    got = expect.array(got, "the tangent kernel", shape=theta.shape)
    expect.close(
        got,
        theta,
        "the tangent kernel of the doubled model",
        slips={
            "it is twice the model's own. Two copies contribute Θ each: which factor in front makes up for it?": 2
            * theta,
            "it is half of the model's own. The factor in front enters the kernel squared: 1/2 is too much.": theta / 2,
            "it is four times the model's own. The factor in front should make it smaller, not larger.": 4 * theta,
        },
    )
    # A property: outputs are odd along the first step of training, as the second order cancels.
    c = jnp.asarray(rng.normal(size=(n, k)), jnp.result_type(first))
    _, pull = jax.vjp(lambda p: fn(p, jnp.asarray(x)), both)
    (step,) = pull(c)

    def along(s):
        return np.asarray(fn(jax.tree.map(lambda p, g: p + s * g, both, step), jnp.asarray(x)), np.float64)

    even = np.abs(along(0.3) + along(-0.3)).max() / np.abs(along(0.3)).max()
    expect.that(
        even < 1e-3,
        "the second-order terms of the two copies do not cancel: the output is made of the same function of both "
        "copies, the one minus the other, and of nothing else.",
    )
    return "Zero for every x, the same kernel, and no second-order term along the first step"


@task(
    "05.3",
    "scale_for_distance",
    minutes=20,
    difficulty=3,
    section="Under the magnifying glass",
    hints=(
        "At the end of training αh = y: h must have changed by y/α. The linear model takes the shortest way there.",
        "The shortest Δw with Dh Δw = y/α is Dh^T Θ^-1 y/α. Work out its squared length; Dh Dh^T = Θ.",
        "The squared length is sum(y * Θ^-1 y)/α², summed over outputs as well. Set its root equal to "
        "`travelled` and solve for α; jnp.linalg.solve(theta, y) is Θ^-1 y.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, k = expect.one_of(rng, (5, 3), (6, 7))
    lam = np.sort([0.3, 0.7, 1.5, 3.0, 8.0, 0.5][:n])

    def draw():
        """A problem, the right α, and that of each slip."""
        modes = np.linalg.qr(rng.normal(size=(n, n)))[0]
        theta = modes @ np.diag(lam) @ modes.T
        theta = (theta + theta.T) / 2
        y, travelled = rng.normal(size=(n, k)), float(rng.uniform(0.1, 0.2))
        inverse = np.linalg.solve(theta, y)
        squares = np.sum(y * inverse, axis=0)
        length = np.sum(squares) ** 0.5
        right = length / travelled
        slips = {
            "the root is missing: yᵀΘ⁻¹y is the square of a distance.": length**2 / travelled,
            "the kernel is there instead of its inverse. A large eigenvalue makes the way shorter.": np.sum(
                y * (theta @ y)
            )
            ** 0.5
            / travelled,
            "that is the norm of Θ⁻¹y, the coefficients; the parameters move by Dhᵀ times these.": np.linalg.norm(
                inverse
            )
            / travelled,
            "only the first output counts there; the squares of all outputs' distances add up.": squares[0] ** 0.5
            / travelled,
            "it is averaged over the outputs; the squares of their distances add up.": right / k**0.5,
            "the distances of the outputs were added; their squares add up.": np.sum(squares**0.5) / travelled,
            "products of different outputs are in the sum: of yᵀΘ⁻¹y the diagonal counts.": np.abs(
                np.sum(y.T @ inverse)
            )
            ** 0.5
            / travelled,
            "it is divided by the square of the distance; the way shrinks like 1/α.": right / travelled,
            "there is a 1/√N too much: the end of training does not know how the loss is normalised.": right / n**0.5,
            "there is a 1/N too much: the end of training does not know how the loss is normalised.": right / n,
            "it is upside down: a smaller distance needs a larger α.": 1 / right,
            "it is the distance at α = 1, not the α.": length,
            "the product with the distance was taken: a smaller distance needs a larger α.": length * travelled,
            "that is the way along the largest eigenvalue only; y has parts along the others.": np.linalg.norm(y)
            / lam[-1] ** 0.5
            / travelled,
            "distance ∝ 1/α, not 1/α².": right**0.5,
        }
        return theta, y, travelled, right, slips

    while True:  # until no two of the numbers are alike
        theta, y, travelled, right, slips = draw()
        if np.diff(np.log(np.sort([right, *slips.values()]))).min() > 5e-3:
            break
    expect.number(expect.call(answer, theta, y, travelled), right, "α", rtol=1e-3, slips=slips)
    half = expect.call(answer, theta, y, travelled / 2)
    expect.number(half, 2 * right, "α for half the distance", rtol=1e-3)


@functools.cache
def _slope():
    """The gradient in w of scale · Σ (α (h(w, x) − start) − y)², compiled once for each shape."""
    import jax
    import jax.numpy as jnp

    def loss(w, x, y, alpha, start, scale):
        return scale * jnp.sum((alpha * (_network()[0](w, x) - start) - y) ** 2)

    return jax.jit(jax.grad(loss))


@task(
    "05.4",
    "the lazy experiment",
    minutes=20,
    difficulty=3,
    section="The start must be near zero",
    hints=(
        "Go through the lines with an α of a million and a network that says 0.5 before training. Which sentence is "
        "not true of it? For the code: compare each factor of α with lines 1 to 3.",
        "At the start f = α h(w_0). What can be subtracted from h so that this is zero, without changing its "
        "gradient? And the rate of line 3 is η/α².",
        "start = apply_fn(params, x) once, before the loop; f = alpha * (apply_fn(w, x) - start); the step is "
        "learning_rate / alpha**2 times the gradient of the loss as it stands.",
    ),
)
def _(answer, rng):
    import jax
    import jax.numpy as jnp
    import numpy as np

    line, experiment = expect.parts(answer, ("wrong_line", "lazy_experiment"))
    on = " Check each factor of α in it, and go on to the next one."
    expect.line(
        line,
        4,
        5,
        {
            1: f"line 1 is right.{on}",
            2: f"line 2 is right.{on}",
            3: f"line 3 is right.{on}",
            5: "line 5 follows rightly from the one before it. The first error stands further up.",
        },
    )
    n, d, width, k = expect.one_of(rng, (3, 6, 5, 7), (7, 5, 6, 3))
    apply_fn, params = _model(rng, d, width, k)
    # Large targets: with small ones the model is nearly linear at every α, and slips look alike.
    x, y = jnp.asarray(rng.normal(size=(n, d))), jnp.asarray(3 * rng.normal(size=(n, k)))
    value = np.asarray(apply_fn(params, x))

    def reference(alpha, rate=0.2, steps=3, *, power=2, centred=True, over=n, half=0.5, end=lambda d, a: d):
        start = value if centred else 0 * value
        w = params
        for _ in range(steps):
            slope = _slope()(w, x, y, alpha, start, half / over)
            w = jax.tree.map(lambda p, g: np.asarray(p) - rate / alpha**power * np.asarray(g), w, slope)
        pairs = zip(jax.tree.leaves(w), jax.tree.leaves(params), strict=True)
        return end(float(np.sqrt(sum(np.sum(np.square(a - np.asarray(b))) for a, b in pairs))), alpha)

    def walk(alpha, steps, *, anew=False, start=value):
        """The parameters after some steps, as one vector."""
        w = params
        for _ in range(steps):
            start = np.asarray(apply_fn(w, x)) if anew else start
            slope = _slope()(w, x, y, alpha, start, 0.5 / n)
            w = jax.tree.map(lambda p, g: jnp.asarray(np.asarray(p) - 0.2 / alpha**2 * np.asarray(g)), w, slope)
        return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(w)])

    def run(alpha, rate=0.2, steps=3):
        return expect.call(experiment, apply_fn, params, x, y, alpha=alpha, learning_rate=rate, steps=steps)

    def slip(**change):
        return lambda: reference(2.5, **change)

    def last_step():
        return float(np.linalg.norm(walk(2.5, 3) - walk(2.5, 2)))

    def always_centered():
        """The residual is −y in each step: the output is made zero again and again."""
        return float(np.linalg.norm(walk(2.5, 3, anew=True) - walk(2.5, 0)))

    expect.number(
        run(2.5),
        reference(2.5),
        "the distance at α = 2.5",
        rtol=2e-3,
        slips={
            "the output at the start is still α h(w_0). Look at line 4 once more.": slip(centred=False),
            "the rate has 1/α; line 3 says what it should have.": slip(power=1),
            "the rate has 1/α, and the output at the start is still α h(w_0).": slip(power=1, centred=False),
            "the rate has no α in it; line 3 says what it should have.": slip(power=0),
            "the rate has 1/α³: was 1/α² put in besides the 1/α that was there?": slip(power=3),
            "1/α² is there twice, in the loss and in the rate.": slip(power=4),
            "that is the square of the distance.": slip(end=lambda d, a: d**2),
            "that is α times the distance.": slip(end=lambda d, a: d * a),
            "that is the length of the last step; the distance goes from the first w to the last.": last_step,
            "the output is made zero again in each step; it is the output at the start that is subtracted, once.": (
                always_centered
            ),
            "h(w_0) is subtracted from α h(w); subtract it from h(w), before the α.": lambda: float(
                np.linalg.norm(walk(2.5, 3, start=value / 2.5) - walk(2.5, 0))
            ),
            "that is the distance at α = 1, divided by α; the model with this α is to be trained.": lambda: (
                reference(1.0) / 2.5
            ),
            "the loss is summed over the examples; keep the mean.": slip(over=1),
            "the loss is averaged over the outputs as well; keep it as it was.": slip(over=n * k),
            "the loss has lost its ½.": slip(half=1.0),
            "that is one step too many.": slip(steps=4),
            "that is one step too few.": slip(steps=2),
        },
    )
    expect.number(
        run(2.5, steps=6),
        reference(2.5, steps=6),
        "the distance after six steps in place of three",
        rtol=2e-3,
        slips={
            "that is the distance at α = 1, divided by α; the model with this α is to be trained.": lambda: (
                reference(1.0, steps=6) / 2.5
            ),
        },
    )
    expect.number(run(2.5, rate=0.1), reference(2.5, rate=0.1), "the distance with half the learning rate", rtol=2e-3)
    far, near = (float(expect.array(run(alpha), "the distance", shape=())) for alpha in (30.0, 300.0))
    expect.that(abs(far / near - 10.0) < 0.5, "from α = 30 to α = 300 the distance should fall by ten.")
    return "Lazy, at last"


written(
    "05.5",
    "why not α alone",
    rubric=(
        "αh on y is h on the labels y/α, which tend to zero;",
        "with h(w_0) ≠ 0 the network must unlearn what it says: a fixed problem, however large α is;",
        "α⁻¹ and α⁻² are good enough, α⁻¹ᐟ² and 1 are not, by α h(w_0) bounded or not.",
    ),
    minutes=10,
    difficulty=2,
    section="The start must be near zero",
    hints=(
        "Write the loss of αh on the labels y as a loss of h alone. Which labels does h see when α is very large?",
        "Those labels tend to zero. A network with h(w_0) = 0 has nothing to do then; one with h(w_0) ≠ 0 has. Does α "
        "occur in what it has to do?",
        "With h(w_0) ~ α^-p the residual α h(w_0) - y is of order α^(1-p), or of order one where that is larger; the "
        "parameters move by the residual over α.",
    ),
)

written(
    "05.6",
    "κ of a network of your own",
    rubric=(
        "a guess for each variant, written down before it was measured;",
        "κ and the change of the Jacobian with errors over three seeds at least;",
        "whether κ puts the variants in the right order, and why it may not.",
    ),
    minutes=45,
    difficulty=4,
    section="One number that tells",
    hints=(
        "Change one thing at a time, and say beforehand what it does to each of the three factors of κ: the "
        "residual, ‖D²h‖ and ‖Dh‖.",
        "Any model will do as a pair (apply_fn, params) with one output: ntk.functional(net) makes it of an nnx "
        "module, and ntk.center centres it. Cast the parameters to float64 as `network` does.",
        "For depth: ntk.mlp([49, 32, 32, 32, 1], activation=ntk.Erf(), w_std=1.5, rngs=nnx.Rngs(key)). Call kappa "
        "and jacobian_change for three keys and compare means with standard errors.",
    ),
)
