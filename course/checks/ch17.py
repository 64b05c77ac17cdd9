"""Checks of chapter 17, Taylor expansion in time."""

from course import expect
from course.tasks import task, written


@task(
    "17.1",
    "linear_training",
    minutes=20,
    difficulty=2,
    section="Linear from now on",
    hints=(
        "The outputs are affine in θ: when θ moves by −ηv, they move by −ηJv. So follow Jv, an array [N, K], in the "
        "place of v.",
        "∇L = (1/N) Σ_j Σ_l ∂f_l(x_j)/∂θ (p − 1_y)_jl with p = softmax(f). Multiply by J from the left: the sum over "
        "j and l meets Θ_ij^kl.",
        "g = jnp.einsum('ijkl,jl->ik', theta, jax.nn.softmax(f) - jax.nn.one_hot(labels, K)) / N; v = momentum * v + "
        "g; f = f - rate * v.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, k, steps = expect.one_of(rng, (5, 3, 6), (3, 5, 7))
    p = 8 + n
    jac = rng.normal(size=(n, k, p)) / p**0.5
    jac[:, :, :3] += 0.3  # outputs that help each other
    theta = np.einsum("ikp,jlp->ijkl", jac, jac)
    f0, labels = rng.normal(size=(n, k)), rng.integers(k, size=n)
    rate, mu = rng.uniform(0.6, 0.9), rng.uniform(0.55, 0.7)
    target = np.eye(k)[labels]

    def softmax(f):
        e = np.exp(f - f.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def trained(
        error=lambda f: softmax(f) - target, sums="ijkl,jl->ik", mean=n, mu=mu, last=steps, kernel=theta, how="heavy"
    ):
        f, v = f0, np.zeros_like(f0)
        for _ in range(last):
            gradient = np.einsum(sums, kernel, error(f0 if how == "frozen" else f)) / mean
            before, v = v, mu * v + (1 - mu if how == "damped" else 1) * gradient
            move = {"nesterov": gradient + mu * v, "late": before}.get(how, v)
            f = f - rate * move
        return f

    blocks = np.einsum("ijkk,kl->ijkl", theta, np.eye(k))
    mean_block = np.einsum("ijmm,kl->ijkl", theta, np.eye(k)) / k
    slips = {
        "the loss is a mean over examples: a 1/N is missing.": lambda: trained(mean=1),
        "the loss is a mean over examples, not over examples and outputs.": lambda: trained(mean=n * k),
        "there is no momentum in it.": lambda: trained(mu=0.0),
        "that is the momentum of Nesterov; the heavy ball's is wanted.": lambda: trained(how="nesterov"),
        "the gradient enters v with the factor 1, not 1 − μ.": lambda: trained(how="damped"),
        "the step is taken with the v of the step before.": lambda: trained(how="late"),
        "softmax runs over the outputs of an image, axis 1, and not over the images.": lambda: trained(
            lambda f: softmax(f.T).T - target
        ),
        "softmax is missing: that is the gradient of the squared loss.": lambda: trained(lambda f: f - target),
        "the labels are missing: the gradient is softmax(f) minus one-hot.": lambda: trained(softmax),
        "the sign of the step is wrong: the loss rises.": lambda: trained(lambda f: target - softmax(f)),
        "the gradient is that of the onset at every step; take it at the present outputs.": lambda: trained(
            how="frozen"
        ),
        "each output learns by itself: the blocks k ≠ l of the kernel are missing.": lambda: trained(kernel=blocks),
        "all outputs have the mean kernel; take the kernel of each pair of outputs.": lambda: trained(
            kernel=mean_block
        ),
        "the sum runs over the wrong output index: the error belongs to l.": lambda: trained(sums="ijkl,jk->il"),
        "that is one step too few.": lambda: trained(last=steps - 1),
        "that is one step too many.": lambda: trained(last=steps + 1),
        "these are probabilities; outputs are wanted.": lambda: softmax(trained()),
    }
    got = expect.array(expect.call(answer, theta, f0, labels, rate, mu, steps), shape=(n, k), axes="N K")
    expect.close(got, trained(), "the array of outputs", rtol=1e-4, slips=slips)
    return "No parameter was needed: the kernel and the function at the onset decide where linear training goes"


@task(
    "17.2",
    "three ways to halve",
    minutes=15,
    difficulty=2,
    section="One order more",
    hints=(
        "How does the length of the way in parameters change, each time? With what power of it does each gap go?",
        "Ten steps of half the rate go half the way. The gaps go like the second and the third power of it. Twice the "
        "steps of half the rate go the whole way.",
        "2², 2³, and for the third: both trainings follow their gradient flows, and these do not know the rate.",
    ),
)
def _(answer, rng):
    got = expect.parts(answer, ("first_order", "second_order", "twice_the_steps"))
    expect.number(
        got[0],
        4.0,
        "the factor of g1",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "the way is half as long, but what the linearization leaves out is not linear in it.": 2.0,
            "before over after is asked for: it becomes smaller, so the factor is above 1.": 0.25,
            "that is one power too many: the linearization leaves out the second order.": 8.0,
            "with fewer and smaller steps the network goes a shorter way: something changes.": 1.0,
        },
    )
    expect.number(
        got[1],
        8.0,
        "the factor of g2",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "that is the power of the first-order expansion: one more order, one more power.": 4.0,
            "before over after is asked for, as for g1.": 0.125,
            "that is one power too many: the first term left out is the third order.": 16.0,
            "each order more gives one more factor of 2, not a square.": 64.0,
        },
    )
    expect.number(
        got[2],
        1.0,
        "the factor with twice the steps",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "the steps are half as long and twice as many: how long is the whole way?": 4.0,
            "the way is not half as long: twice the steps make up for the rate.": 2.0,
            "before over after is asked for. And how long is the whole way?": 0.25,
            "the way does not become longer: twice the steps only make up for the rate.": 0.5,
        },
    )
    return "A small rate alone makes no network linear. A short way does"


@task(
    "17.3",
    "freedom, spot the error",
    minutes=20,
    difficulty=3,
    section="Linear from now on",
    hints=(
        "Count the numbers that the outputs on all images are. And what happens to softmax(f) if one number is added "
        "to all K outputs of an image?",
        "The reachable outputs are f plus the column space of J as a matrix [N·K, P]. Softmax sees the outputs of an "
        "image up to a common constant: take the mean over the outputs away before you count.",
        "jnp.linalg.matrix_rank(jac.reshape(-1, P)); then the same of jac - jac.mean(axis=1, keepdims=True).",
    ),
)
def _(answer, rng):
    import numpy as np

    number, function = expect.parts(answer, ("wrong_line", "freedom"))
    expect.line(
        number,
        3,
        5,
        {
            1: "line 1 is right: a convex function of something affine is convex.",
            2: "line 2 is right: for a smooth convex function a small enough rate does that.",
            4: "line 4 follows from line 3. The error is further up.",
            5: "line 5 follows from line 4 (nearly: a loss near zero has no wrong label). The error is further up.",
        },
    )
    n, k = expect.one_of(rng, (5, 3), (7, 6))
    few, many, low = n + 4, n * k + 9, n - 1
    narrow = rng.normal(size=(n, k, few))
    narrow[:, :, -3:] = rng.normal(size=(n, 1, 3))  # three parameters that move all outputs of an image alike,
    narrow[:, :, -1] = 1.0  # and one of them those of all images
    wide = rng.normal(size=(n, k, many))
    left, right = rng.integers(-3, 4, size=(n, k, low)), rng.integers(-3, 4, size=(low, many))
    joined = (left @ right).astype(float)  # whole numbers: of the same rank in any precision
    for jac in (narrow, wide, joined):
        p = jac.shape[-1]
        rank = np.linalg.matrix_rank
        seen = (jac - jac.mean(1, keepdims=True)).reshape(n * k, p)
        want = int(rank(jac.reshape(n * k, p))), int(rank(seen))
        got = expect.parts(expect.call(function, jac), ("the outputs", "the probabilities"), order=want)
        outputs, probabilities = (
            expect.whole(value, f"the dimension of {name}")
            for value, name in zip(got, ("the outputs", "the probabilities"), strict=True)
        )
        expect.that(outputs != p or outputs == want[0], "P parameters need not be P directions: take the rank of J.")
        expect.that(
            outputs != n * k or outputs == want[0],
            "N·K is the number of outputs; how many directions do the parameters reach?",
        )
        expect.that(
            outputs != rank(jac.reshape(n, k * p)) or outputs == want[0],
            "that is the rank of J as a matrix [N, K·P]; the outputs are N·K numbers, so reshape J to [N·K, P].",
        )
        expect.that(outputs == want[0], "the dimension of the outputs is not right: the column space of J [N·K, P].")
        expect.that(
            probabilities != outputs or probabilities == want[1],
            "softmax does not see all: a constant added to all outputs of an image changes no probability.",
        )
        expect.that(
            probabilities not in (want[0] - n, max(want[0] - n, 0)) or probabilities == want[1],
            "softmax ignores one direction an image only if the parameters reach it: take the rank without it.",
        )
        expect.that(
            probabilities != rank((jac - jac.mean(0)).reshape(n * k, p)) or probabilities == want[1],
            "softmax ignores a constant for each image: take the mean over the outputs away, not that over the images.",
        )
        expect.that(
            probabilities != n * (k - 1) or probabilities == want[1],
            "N(K − 1) is what softmax can see; the parameters reach less of it.",
        )
        expect.that(probabilities == want[1], "the dimension of the probabilities is not right.")
    return "In the chapter softmax sees 9,000 directions, and 2,538 parameters reach at most 28 % of them"


@task(
    "17.4",
    "from_the_onset",
    minutes=20,
    difficulty=3,
    section="What the kernel knows",
    hints=(
        "What is left to be learned at the onset? Regression from zero, of that, and then add what was there already.",
        "g = f_lin − f(θ_t) is a linear model that starts at zero and has the same kernel. Regress it on y − f(X). "
        "The outputs are f_test + g at the new inputs.",
        "lam, u = jnp.linalg.eigh(theta); f_test + theta_test @ u @ (u.T @ (y - f) / (lam + ridge * lam.mean())"
        "[:, None]), for each ridge.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, k, r = expect.one_of(rng, (7, 5, 3, 6), (6, 9, 3, 5))
    jac = rng.normal(size=(n + m, 11)) / 3
    kernel = jac @ jac.T
    theta, theta_test = kernel[:n, :n], kernel[n:, :n]
    f, f_test, y = rng.normal(size=(n, k)), rng.normal(size=(m, k)), rng.normal(size=(n, k)) + 0.5
    ridges = np.sort(rng.uniform(0.1, 1.0, size=r))
    trace = np.trace(theta) / n

    def regressed(target, at=lambda ridge: ridge * trace, on=0.0):
        return np.array([on + theta_test @ np.linalg.solve(theta + at(d) * np.eye(n), target) for d in ridges])

    slips = {
        "that is regression from zero outputs: the function at the onset is not in it.": lambda: regressed(y),
        "the outputs at the onset are learned once more: regress on y − f(X).": lambda: regressed(y, on=f_test),
        "that is the change since the onset; add the outputs at the onset.": lambda: regressed(y - f),
        "the targets of the change are y − f(X), not f(X) − y.": lambda: regressed(f - y, on=f_test),
        "the change is added to the outputs at the onset, not taken away from them.": lambda: regressed(
            y - f, on=-f_test
        ),
        "the ridge is relative: ε = δ tr(Θ)/N.": lambda: regressed(y - f, at=lambda d: d, on=f_test),
        "ε = δ tr(Θ)/N has a 1/N, and the 1/N of the penalty cancels that of the loss.": lambda: regressed(
            y - f, at=lambda d: d * trace * n, on=f_test
        ),
        "the penalty has 1/N as the loss has: they cancel, and ε stands there without another 1/N.": lambda: regressed(
            y - f, at=lambda d: d * trace / n, on=f_test
        ),
        "there is no ridge in it.": lambda: regressed(y - f, at=lambda d: 0.0, on=f_test),
    }
    with expect.without("gradient_flow", "gradient_descent"):
        got = expect.call(answer, theta, theta_test, f, f_test, y, ridges)
    got = expect.array(got, "the outputs", shape=(r, m, k), axes="R M K")
    expect.close(got, regressed(y - f, on=f_test), "the array of outputs", rtol=1e-3, slips=slips)
    return "A linearized network has two sources of knowledge: its kernel, and the function that it starts from"


written(
    "17.5",
    "an advantage that vanishes",
    rubric=(
        "at epoch 49 nothing moves, so any kernel would show no advantage;",
        "the share at onset 2: 0.14/0.18, 78 percent;",
        "a control that takes the function away or lets the network move: regression with the kernel, a constant rate.",
    ),
    numbers=("78", "77.8", "77.78", "0.78", "0.778", "0.7778", "7/9", "seventy-eight", "seventy eight"),
    asked="which share of the network's gain does the linearized network gain at onset 2?",
    minutes=10,
    difficulty=3,
    section="Linear from now on",
    hints=(
        "What would the linearized network of the *start* show, if it were trained on with a rate near zero?",
        "The gain is the error at the onset minus the error after the training.",
        "(0.30 − 0.16)/(0.30 − 0.12). And which measurement of the chapter does not start from the network's function?",
    ),
)

written(
    "17.6",
    "the first epoch",
    rubric=(
        "a prediction, steps or rate times steps, and what was seen, over several seeds;",
        "one change that takes the dip away or leaves it, with uncertainties;",
        "what follows for a law and for an accident of narrow networks, and what cannot be said.",
    ),
    minutes=60,
    difficulty=5,
    section="What the kernel knows",
    hints=(
        "If both rates follow one gradient flow, on which axis do the curves lie on each other?",
        "Take ten seeds and compare in pairs. Change one thing at a time: the outputs at the start, the momentum, the "
        "activation, the width.",
        "ntk.center((fn, params)) gives a pair whose outputs start at zero; convnet(seed, n=32) is four times as wide.",
    ),
)
