"""Checks of chapter 02, parameterizations."""

from course import expect
from course.tasks import task, written


@task(
    "02.1",
    "contributions",
    minutes=15,
    difficulty=2,
    section="How little each weight moves",
    hints=(
        "The gradient of each output with respect to the matrix has one axis more than the matrix: the output comes "
        "first. `jax.jacobian` gives exactly that. Then everything is elementwise.",
        "gradient [N, n, k] at `W_start`, times (W_end - W_start) [n, k], which broadcasts over the "
        "outputs. The sum runs "
        "over the last two axes. A contribution has the sign of the sum where the product of the two is positive.",
        "c = jax.jacobian(f)(W_start) * (W_end - W_start); total = c.sum(axis=(1, 2)); "
        "share = the mean over axes (1, 2) of c * total[:, None, None] > 0.",
    ),
)
def _(answer, rng):
    import jax
    import jax.numpy as jnp
    import numpy as np

    x, a = rng.normal(size=(3, 4)), rng.normal(size=5)
    start = rng.normal(size=(4, 5))
    end = start + 0.8 * rng.normal(size=(4, 5))

    def f(W):
        half = jnp.tanh(jnp.asarray(x) @ W + 0.3) @ jnp.asarray(a)
        return jnp.concatenate([half, -half[:2]])  # sums of both signs

    gradient, late = (np.asarray(jax.jacobian(f)(jnp.asarray(W)), np.float64) for W in (start, end))
    want = gradient * (end - start)
    total = want.sum((1, 2))

    def share(c):
        return np.mean(c * total[:, None, None] > 0, axis=(1, 2))

    c, got_total, got_share = expect.parts(expect.call(answer, f, start, end), ("c", "total", "share"))
    c = expect.array(c, "c", shape=(5, 4, 5), axes="N n k")
    expect.close(
        c,
        want,
        "c",
        slips={
            "the gradient at the end was used; a first-order account takes it at the start.": late * (end - start),
            "that is the gradient alone; a contribution is gradient × movement.": gradient,
            "that is the movement alone; a contribution is gradient × movement.": np.broadcast_to(
                end - start, want.shape
            ),
            "the gradient is multiplied by the weights; what counts is how far they moved.": gradient * end,
            "the gradient is multiplied by the initial weights; what counts is how far they moved.": gradient * start,
        },
    )
    got_total = expect.array(got_total, "total", shape=(5,), axes="N")
    expect.close(
        got_total,
        total,
        "total",
        slips={
            "that is the mean over the weights; the sum is wanted.": total / 20,
            "that is the true change f(W_end) - f(W_start); the first-order one is wanted.": np.asarray(
                f(jnp.asarray(end)) - f(jnp.asarray(start)), np.float64
            ),
            "absolute values were summed; here contributions of opposite sign cancel.": np.abs(want).sum((1, 2)),
        },
    )
    got_share = expect.array(got_share, "share", shape=(5,), axes="N")
    expect.close(
        got_share,
        share(want),
        "share",
        atol=1e-6,
        slips={
            "that is the share of positive contributions; where the sum is negative the common sign is minus.": np.mean(
                want > 0, axis=(1, 2)
            ),
            "that is the share of negative contributions; the common sign is that of the sum.": np.mean(
                want < 0, axis=(1, 2)
            ),
            "that is the share of the weights with the other sign.": 1 - share(want),
            "that counts the weights; a share is divided by their number.": 20 * share(want),
            "that is a percentage; give a share between 0 and 1.": 100 * share(want),
        },
    )


@task(
    "02.2",
    "rates for sign descent",
    minutes=15,
    difficulty=3,
    section="How little each weight moves",
    hints=(
        "With sign descent the movement no longer depends on the gradient: each weight moves by η. Ask "
        "for each of the three "
        "matrices: how large is one gradient, how many weights are there, and what sign have the contributions?",
        "On one training point every contribution is η |g| with one and the same sign. So the sum is "
        "(number of weights) × η × "
        "(size of a gradient); set it to order one and solve for η.",
        "First layer: d·n weights (d is constant) with gradients like n^-1/2. Hidden layer: n² weights "
        "with gradients like 1/n. "
        "Readout: n weights with gradients like n^-1/2.",
    ),
)
def _(answer, rng):
    first, hidden, readout = expect.parts(answer, ("first layer", "hidden layer", "readout"))
    for name, got in (("first layer", first), ("readout", readout)):
        expect.number(
            got,
            -0.5,
            f"the exponent of the {name}",
            rtol=0.02,
            slips={
                "there are about n of these weights, not n²: the argument differs from the hidden layer's.": -1,
                "with this rate the sum grows with the width: n gradients like n^-1/2 of ONE sign.": 0,
                "that is how f grows with the width at a fixed rate; the rate has to undo it.": 0.5,
                "was the gradient's own size forgotten? One contribution is η |g|, not η.": -1.5,
            },
        )
    expect.number(
        hidden,
        -1,
        "the exponent of the hidden layer",
        rtol=0.02,
        slips={
            "that would be right if signs were those of coins, √(n²) · η/n. But they agree.": 0,
            "was the gradient's 1/n forgotten? One contribution is η/n.": -2,
            "that is how f grows with the width at a fixed rate; the rate has to undo it.": 1,
            "there are n² of these weights, not n: the argument differs from the readout's.": -0.5,
        },
    )
    return "Now compare with the measured slopes below: each should be minus your exponent"


@task(
    "02.3",
    "the lost factor",
    minutes=20,
    difficulty=3,
    section="Which learning rate corresponds",
    hints=(
        "Check the lines with units: say W is measured in metres and w in kilometres. Which line "
        "compares a length in metres with "
        "one in kilometres?",
        "w = (σ_w/√n) W holds for the weights, so it holds for their differences: Δw = (σ_w/√n) ΔW. A "
        "bias has the multiplier "
        "σ_b in place of σ_w/√n.",
        "Put ΔW = -η (σ_w/√n) ∂L/∂w into Δw = (σ_w/√n) ΔW: the factor stands there twice. n is the "
        "fan-in, w.shape[0]; for the bias "
        "the factor is σ_b, twice as well.",
    ),
)
def _(answer, rng):
    import numpy as np

    line, step = expect.parts(answer, ("wrong_line", "standard_step"))
    if line is Ellipsis:
        raise expect.NotAttempted
    expect.that(
        isinstance(line, int) and 1 <= line <= 5, "wrong_line should be the number of one of the five lines, 1 to 5."
    )
    expect.that(line >= 4, f"line {line} is right. Say what it compares, in which units, and go on to the next one.")
    expect.that(line <= 4, f"line {line} follows rightly from the one before it. The first error stands further up.")

    n, k = 7, 3
    w, b, grad_w, grad_b = (rng.normal(size=s) for s in ((n, k), (k,), (n, k), (k,)))
    eta, w_std, b_std = 0.4, 1.3, 0.6
    new_w, new_b = expect.parts(
        expect.call(step, w, b, grad_w, grad_b, learning_rate=eta, w_std=w_std, b_std=b_std), ("w", "b")
    )
    new_w = expect.array(new_w, "w", shape=(n, k), axes="fan-in fan-out")
    new_b = expect.array(new_b, "b", shape=(k,), axes="fan-out")
    # What NTK does, step by step: the parameters in its units, a step of η there, and back.
    W, B = w * n**0.5 / w_std, b / b_std
    W = W - eta * w_std / n**0.5 * grad_w
    B = B - eta * b_std * grad_b
    moved_w, moved_b = w_std / n**0.5 * W - w, b_std * B - b
    expect.close(
        new_w - w,
        moved_w,
        "the movement of w",
        rtol=1e-3,
        slips={
            "the factor σ_w/√n stands there once; the movement must be converted as well as the gradient.": -eta
            * w_std
            / n**0.5
            * grad_w,
            "σ_w enters once; it belongs to the multiplier and so enters as often as 1/√n.": -eta * w_std / n * grad_w,
            "σ_w is missing; it is part of the multiplier.": -eta / n * grad_w,
            "1/√n enters once, σ_w twice; they belong to the same multiplier.": -eta * w_std**2 / n**0.5 * grad_w,
            "n is the fan-out here; it should be the fan-in, the number of rows of w.": -eta * w_std**2 / k * grad_w,
            "that is the step with the rate η itself, not converted at all.": -eta * grad_w,
            "the factor was divided by; the standard rate is smaller than η, not larger.": -eta / w_std**2 * n * grad_w,
        },
    )
    expect.close(
        new_b - b,
        moved_b,
        "the movement of b",
        rtol=1e-3,
        slips={
            "the factor σ_b stands there once; the movement must be converted as well as the gradient.": -eta
            * b_std
            * grad_b,
            "the bias needs a rate of its own: its multiplier is σ_b.": -eta * grad_b,
            "the bias has no fan-in: its multiplier is σ_b alone.": -eta * b_std**2 / n * grad_b,
            "the rate of the weights is used for the bias as well; its multiplier is σ_b.": -eta
            * w_std**2
            / n
            * grad_b,
        },
    )
    # A property: the sizes decide nothing but the rate.
    wide = expect.call(
        step,
        np.zeros((4 * n, k)),
        b,
        np.ones((4 * n, k)),
        grad_b,
        learning_rate=eta,
        w_std=w_std,
        b_std=b_std,
    )
    narrow = expect.call(
        step, np.zeros((n, k)), b, np.ones((n, k)), grad_b, learning_rate=eta, w_std=w_std, b_std=b_std
    )
    ratio = float(np.asarray(wide[0])[0, 0] / np.asarray(narrow[0])[0, 0])
    expect.that(abs(ratio - 0.25) < 1e-3, "with a fan-in four times as large, a weight should move a quarter as far.")
    return "The factor enters twice: 1/n"


@task(
    "02.4",
    "feature_exponent",
    minutes=25,
    difficulty=4,
    section="Features that move, features that do not",
    hints=(
        "Go through the roles and ask of each exponent: is it a power of n here? The readout's fan-in is "
        "n and its fan-out K; "
        "the first layer's fan-in is d and its fan-out n; a hidden layer has n twice.",
        "Readout: a = multiplier, b = init, c = rate. First layer: a = 0, c = rate_out. Hidden: a = multiplier, "
        "c = rate + rate_out, and 1 is subtracted for the n terms of its sum.",
        "delta = min(o.multiplier + o.init, 2 * o.multiplier + o.rate); then add the smaller of i.rate_out and "
        "h.rate + h.rate_out + 2 * h.multiplier - 1.",
    ),
)
def _(answer, rng):
    import numpy as np

    import ntklib as ntk
    from ntklib.parameterization import Exponents

    def some():
        def e():
            return Exponents(*rng.uniform(-1, 1, size=4).round(2))

        return ntk.Parameterization("SOME", e(), e(), e(), std="init")

    records = [some() for _ in range(12)]

    def r(p, *, hidden_out=1, first_in=0, readout_moves=True, coherent=1, readout_out=0, both=min, starts=True):
        i, h, o = p.input, p.hidden, p.output
        last = o.rate + readout_out * o.rate_out
        sizes = [o.multiplier + o.init] * starts + [2 * o.multiplier + last] * readout_moves
        first = i.rate_out + first_in * (i.rate + 2 * i.multiplier)
        return min(sizes) + both(first, h.rate + hidden_out * h.rate_out + 2 * h.multiplier - coherent)

    def all_of(**slip):
        return np.array([r(p, **slip) for p in records])

    got = []
    for p in records:
        value = expect.array(expect.call(answer, p), "r", shape=())
        got.append(float(value))
    expect.close(
        got,
        all_of(),
        "r",
        rtol=1e-4,
        slips={
            "a hidden layer's fan-out is n as well: `rate_out` counts.": all_of(hidden_out=0),
            "the first layer's fan-in is d, a constant: its `multiplier` and `rate` are no powers of n.": all_of(
                first_in=1
            ),
            "the readout's weights also move: δ is the larger of start and movement.": all_of(readout_moves=False),
            "the readout's weights at the start are missing: δ is the larger of start and movement.": all_of(
                starts=False
            ),
            "the sum over a hidden layer's n inputs is missing, which gives a power of n.": all_of(coherent=0),
            "the readout's fan-out is K, a constant: its `rate_out` is no power of n.": all_of(readout_out=1),
            "the largest r_l was taken; the layer that moves most has the smallest.": all_of(both=max),
            "the first layer is missing: features move there, too.": all_of(both=lambda first, hidden: hidden),
            "the hidden layers are missing; r is the smallest of all r_l below the readout.": all_of(
                both=lambda first, hidden: first
            ),
        },
    )
    for p, want in ((ntk.NTK, 0.5), (ntk.STANDARD, 0.5), (ntk.MUP, 0.0)):
        value = float(np.asarray(expect.call(answer, p)))
        expect.that(abs(value - want) < 1e-6, f"r of ntk.{p.name} is not the chapter's.")


written(
    "02.5",
    "forty-four against",
    words=30,
    minutes=10,
    difficulty=2,
    section="How little each weight moves",
    hints=(
        "How large is a sum of n² terms of size 1/n² when their mean is zero, and when it is not?",
        "Compare the mean of c_ij over the weights with its spread: how does each depend on n? For the "
        "second question, "
        "write the first-order change of the loss in one step of gradient descent.",
        "Mean: Θ^(2)-terms over n², the same order as a single term; so the sum is n² · n^-2. And "
        "∂L/∂W_ij · ΔW_ij = -η (∂L/∂W_ij)².",
    ),
)

written(
    "02.6",
    "between kernel and features",
    words=30,
    minutes=40,
    difficulty=4,
    section="Features that move, features that do not",
    hints=(
        "Start from NTK and change two things: make the readout a little smaller, and the rates larger "
        "by what this costs.",
        "With the readout's a = 1/2 + s and all rates multiplied by n^(2s), what is r? And what does the "
        "readout's part of the kernel, "
        "n · n^(-2a) · n^(-c), say about f?",
        "r = 1/2 - s, and f moves by order one: take s = 1/4. Exponents(0.75, 0.0, rate=-0.5) for the "
        "readout; the hidden layer "
        "keeps 0.5 and gets rate=-0.5; the first layer gets rate_out=-0.5.",
    ),
)
