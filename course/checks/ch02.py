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
    import jax.numpy as jnp
    import numpy as np

    n_out, n, k = expect.one_of(rng, (5, 3, 7), (6, 7, 5))
    # Contributions whose signs separate the slips: the sum and the majority agree for some outputs and not for others,
    # and so do the first-order change and the true one.
    weights = n * k
    with_the_sum = np.array([0.3, 0.35, 0.65, 0.7, 0.25, 0.6])[:n_out]  # shares
    positive = np.array([True, False, True, False, False, True])[:n_out]
    overshoots = np.array([False, False, True, True, False, True])[:n_out]  # the true change has the other sign
    want = np.empty((n_out, n, k))
    for m in range(n_out):
        agree = round(with_the_sum[m] * weights)
        sizes = np.concatenate([rng.uniform(2.0, 3.0, agree), -rng.uniform(0.2, 0.4, weights - agree)])
        want[m] = rng.permutation(sizes if positive[m] else -sizes).reshape(n, k)
    start = rng.normal(size=(n, k))
    moved = rng.uniform(0.5, 1.0, size=(n, k)) * rng.choice([-1.0, 1.0], size=(n, k))
    end, gradient, total = start + moved, want / moved, want.sum((1, 2))
    bend = np.where(overshoots, -3.0, 2.0) * total / np.sum(moved**2)

    def f(W):
        change = W - start
        return jnp.einsum("mij,ij->m", gradient, W) + jnp.asarray(bend) * jnp.sum(change**2) / 2

    true = total + bend * np.sum(moved**2) / 2

    def share(sign):
        return np.mean(want * sign[:, None, None] > 0, axis=(1, 2))

    got = expect.parts(expect.call(answer, f, start, end), ("c", "total", "share"), order=(want, total, share(total)))
    c = expect.array(got[0], "c", shape=want.shape, axes="N n k")
    expect.close(
        c,
        want,
        "c",
        slips={
            "the gradient at the end was used; a first-order account takes it at the start.": (
                gradient + bend[:, None, None] * moved
            )
            * moved,
            "that is the gradient alone; a contribution is gradient × movement.": gradient,
            "that is the movement alone; a contribution is gradient × movement.": np.broadcast_to(moved, want.shape),
            "the gradient is multiplied by the weights; what counts is how far they moved.": gradient * end,
            "the gradient is multiplied by the initial weights; what counts is how far they moved.": gradient * start,
        },
    )
    expect.close(
        expect.array(got[1], "total", shape=(n_out,), axes="N"),
        total,
        "total",
        slips={
            "that is the mean over the weights; the sum is wanted.": total / weights,
            "that is the true change f(W_end) - f(W_start); the first-order one is wanted.": true,
            "absolute values were summed; here contributions of opposite sign cancel.": np.abs(want).sum((1, 2)),
            "that is the sum over all outputs, for each of them.": np.full(n_out, total.sum()),
        },
    )
    right = share(total)
    expect.that(
        np.shape(got[2]) != (n, k),
        "the share is averaged over the outputs, [n, k]; it is a share of the weights, for each output: [N].",
    )
    expect.close(
        expect.array(got[2], "share", shape=(n_out,), axes="N"),
        right,
        "share",
        atol=1e-4,
        slips={
            "that is the share of positive contributions; where the sum is negative the common sign is minus.": share(
                np.ones(n_out)
            ),
            "that is the share of negative contributions; the common sign is that of the sum.": share(-np.ones(n_out)),
            "that is the share of the weights with the other sign.": 1 - right,
            "that is the share of the majority; a few large contributions may decide the sum.": np.maximum(
                right, 1 - right
            ),
            "that goes by the sign of the true change; the sum is the first-order one.": share(true),
            "that counts the weights; a share is divided by their number.": weights * right,
            "that is a percentage; give a share between 0 and 1.": 100 * right,
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
                "n weights with gradients like n^-1/2, all of one sign: their number is not that of the hidden layer, "
                "and one contribution is η |g|, not η.": -1,
                "with this rate the sum grows with the width: n gradients like n^-1/2 of ONE sign.": 0,
                "with this rate f moves like n. At a fixed rate it moves like √n already, n weights with gradients "
                "like n^-1/2 of one sign, and the rate has to undo that.": 0.5,
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
            "with this rate f moves like n². At a fixed rate it moves like n already, n² weights with gradients like "
            "1/n of one sign, and the rate has to undo that.": 1,
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
    before = " Say what it compares, in which units, and go on to the next one."
    expect.line(
        line,
        4,
        5,
        {
            1: f"line 1 is right.{before}",
            2: f"line 2 is right.{before}",
            3: f"line 3 is right.{before}",
            5: "line 5 follows rightly from the one before it. The first error stands further up.",
        },
    )
    n, k = expect.one_of(rng, (7, 3), (6, 5))
    w, b, grad_w, grad_b = (rng.normal(size=s) for s in ((n, k), (k,), (n, k), (k,)))
    eta, w_std, b_std = 0.4, 1.3, 0.6

    def run(w, b, grad_w, b_std=b_std):
        rates = {"learning_rate": eta, "w_std": w_std, "b_std": b_std}
        new_w, new_b = expect.parts(expect.call(step, w, b, grad_w, grad_b, **rates), ("w", "b"))
        new_w = expect.array(new_w, "w", shape=w.shape, axes="fan-in fan-out")
        return new_w, expect.array(new_b, "b", shape=b.shape, axes="fan-out")

    new_w, new_b = run(w, b, grad_w)
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
            "the movement alone comes back; add it to w.": moved_w - w,
            "the learning rate is missing.": moved_w / eta,
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
            "the movement alone comes back; add it to b.": moved_b - b,
            "the factor σ_b stands there once; the movement must be converted as well as the gradient.": -eta
            * b_std
            * grad_b,
            "the bias needs a rate of its own: its multiplier is σ_b.": -eta * grad_b,
            "the bias has no fan-in: its multiplier is σ_b alone.": -eta * b_std**2 / n * grad_b,
            "the rate of the weights is used for the bias as well; its multiplier is σ_b.": -eta
            * w_std**2
            / n
            * grad_b,
            "the bias has not moved.": 0 * grad_b,
        },
    )
    try:
        still = run(w, b, grad_w, b_std=0.0)[1]
    except expect.CheckFailed as failure:
        expect.fail(f"with b_std = 0 a bias does not move; here {failure} Is something divided by b_std?")
    expect.that(np.abs(still - b).max() < 1e-6, "with b_std = 0 a bias should not move.")
    # A property: the sizes decide nothing but the rate.
    wide, narrow = (run(np.zeros((m, k)), b, np.ones((m, k)))[0] for m in (4 * n, n))
    ratio = wide[0, 0] / narrow[0, 0]
    expect.that(abs(ratio - 0.25) < 1e-3, "with a fan-in four times as large, a weight should move a quarter as far.")
    return "The factor enters twice: 1/n"


def _hidden(p):
    """The exponent c + 2a − 1 of a hidden layer."""
    return p.hidden.rate + p.hidden.rate_out + 2 * p.hidden.multiplier - 1


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

    def separates(a, b):
        """Each of two numbers of a record is the smaller one in some of them."""
        return min(np.sum(np.subtract(a, b) > 0.1), np.sum(np.subtract(b, a) > 0.1)) > 2

    records = []
    while not (
        separates([p.input.rate_out for p in records], [_hidden(p) for p in records])
        and separates([p.output.init for p in records], [p.output.multiplier + p.output.rate for p in records])
    ):
        records = [some() for _ in range(12)]

    def r(
        p, *, hidden_out=1, first_out=1, first_in=0, readout_moves=True, coherent=1, readout_out=0, both=min,
        starts=True, times=2, rates=1, larger=min, init_hidden=False,
    ):  # fmt: skip
        i, h, o = p.input, p.hidden, p.output
        last = rates * (o.rate + readout_out * o.rate_out)
        sizes = [o.multiplier + o.init] * starts + [times * o.multiplier + last] * readout_moves
        first = rates * first_out * i.rate_out + first_in * (i.rate + 2 * i.multiplier)
        twice = h.multiplier + h.init if init_hidden else times * h.multiplier
        return larger(sizes) + both(first, rates * (h.rate + hidden_out * h.rate_out) + twice - coherent)

    def all_of(**slip):
        return np.array([r(p, **slip) for p in records])

    got = []
    for p in records:
        value = expect.array(expect.call(answer, p), "r", shape=())
        got.append(float(value))
    expect.that(np.ptp(got) > 1e-6, "r is the same number for every record: it should be computed from the exponents.")
    expect.close(
        got,
        all_of(),
        "r",
        rtol=1e-4,
        slips={
            "a hidden layer's fan-out is n as well: `rate_out` counts.": all_of(hidden_out=0),
            "the first layer's fan-out is n: its `rate_out` counts.": all_of(first_out=0),
            "`rate_out` is missing in the first layer and in hidden ones: their fan-out is n.": all_of(
                first_out=0, hidden_out=0
            ),
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
            "the multiplier counts twice, in front of the weights and, by the chain rule, of the gradient.": all_of(
                times=1
            ),
            "the multipliers are missing beside the rates.": all_of(times=0),
            "in a hidden layer `init` stands where a second `multiplier` belongs.": all_of(init_hidden=True),
            "the rates are missing beside the multipliers.": all_of(rates=0),
            "δ is the larger of start and movement: of the exponents, the smaller.": all_of(larger=max),
            "the first layer is missing: features move there, too.": all_of(both=lambda first, hidden: hidden),
            "the hidden layers are missing; r is the smallest of all r_l below the readout.": all_of(
                both=lambda first, hidden: first
            ),
        },
    )


written(
    "02.5",
    "forty-four against",
    rubric=(
        "right: contributions to f(x) have both signs as soon as there are several training points;",
        "wrong: their mean is of the size 1/n² of one of them, so that n² of them add up to order one;",
        "the loss: every weight lowers it, by η (∂L/∂W_ij)².",
    ),
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
    rubric=(
        "exponents with r = 1/4, and the argument that f moves by order one;",
        "the record, with the coordinate check predicted before it was run;",
        "the slopes of h² and f with their errors (near −0.25 and 0).",
    ),
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
