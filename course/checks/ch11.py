"""Checks of chapter 11, large steps and L2."""

from course import expect
from course.tasks import task, written


@task(
    "11.1",
    "wider, brighter",
    minutes=10,
    difficulty=1,
    section="Two numbers",
    hints=(
        "Which number must grow to order 1 before the kernel moves, and by which factor does it grow in a step?",
        "g = ηxf/√n starts smaller by the square root of the ratio of widths. For the input: x and f grow by 4, and η "
        "is proportional to 1/λ.",
        "np.log(64) / (2 * np.log(2 * c - 1)) for the width; for the input g is multiplied by 4 · 4/16.",
    ),
)
def _(answer, rng):
    import math

    got = expect.parts(answer, ("later_by_width", "later_by_input"))
    growth, wider = math.log(1.5), math.log(64)
    expect.number(
        got[0],
        wider / (2 * growth),
        "later_by_width",
        rtol=0.03,
        slips={
            "g starts smaller by the root of the ratio of widths: f has to grow to √n, not to n.": wider / growth,
            "the growth in a step is 2c − 1, not c.": wider / (2 * math.log(1.25)),
            "the growth in a step is 2c − 1, not 2c.": wider / (2 * math.log(2.5)),
            "the wider network peaks later, not sooner.": -wider / (2 * growth),
            "a logarithm to the base 2 of one number needs that of the other, too.": wider / math.log(2) / 2,
            "the peak does move: the larger width has further to go.": 0.0,
        },
    )
    expect.number(
        got[1],
        0.0,
        "later_by_input",
        rtol=0.15,
        slips={
            "the output at the start is 4 times larger, but η is 16 times smaller and x counts once more.": -math.log(4)
            / growth,
            "η is 16 times smaller, but x and f are 4 times larger each.": math.log(16) / growth,
            "λ has x² in it, and so η falls by 16; g has x and f, which grow by 16 together.": math.log(4) / growth,
        },
    )
    return "Only g and μ count: units of the input do not"


@task(
    "11.2",
    "one_step",
    minutes=20,
    difficulty=2,
    section="Two numbers",
    hints=(
        "Write u' and v' with one letter for the common factor, a = η (f − y) x/√n. Which products of u and v do you "
        "need?",
        "u'·v' = (1 + a²) u·v − a(|u|² + |v|²), and |u'|² + |v'|² = (1 + a²)(|u|² + |v|²) − 4a u·v. Then bring back f "
        "and λ.",
        "r = f - y; a2 = (rate*r*x)**2/width; f' = (1 + a2)*f - rate*lam*r; λ' = (1 + a2)*lam - 4*rate*r*f*x**2/width.",
    ),
)
def _(answer, rng):
    for n in expect.one_of(rng, (7, 3), (9, 5)):
        u, v = rng.normal(size=(2, n))
        u = u / (u @ u / n) ** 0.5
        v = 0.5 * v + (0.7 - 0.5 * (u @ v) / n) * u  # f is 0.7 x √n
        x, y, rate = rng.uniform(1.55, 1.9), -rng.uniform(0.6, 0.9), rng.uniform(0.1, 0.15)

        def numbers(u, v, x=x, n=n):
            return u @ v * x / n**0.5, x**2 * (u @ u + v @ v) / n

        f, lam = numbers(u, v)
        r = f - y
        a = rate * r * x / n**0.5
        want = numbers(u - a * v, v - a * u)
        got = expect.parts(expect.call(answer, f, lam, x, y, n, rate), ("f'", "λ'"), order=want)
        expect.number(
            got[0],
            want[0],
            "f'",
            rtol=1e-4,
            slips={
                "that is the recursion for y = 0: two of its f are f − y here.": f * (1 - rate * lam)
                + (rate * f * x) ** 2 * f / n,
                "the term of second order is missing, which makes the loss turn.": f - rate * lam * r,
                "the term of second order has f in it once, for u·v, and the residual twice.": f
                - rate * lam * r
                + (rate * r * x) ** 2 * r / n,
                "the x² in the term of second order is missing.": f - rate * lam * r + (rate * r) ** 2 * f / n,
                "the 1/n in the term of second order is missing.": f - rate * lam * r + (rate * r * x) ** 2 * f,
                "the sign of the term of first order: gradient descent goes down.": f
                + rate * lam * r
                + (rate * r * x) ** 2 * f / n,
                "that is the residual f' − y, not f'.": want[0] - y,
            },
        )
        expect.number(
            got[1],
            want[1],
            "λ'",
            rtol=1e-4,
            slips={
                "that is the recursion for y = 0: here f² is r f in one term and r² in the other.": lam
                + rate * (f * x) ** 2 / n * (rate * lam - 4),
                "in the mixed term one factor is the residual and the other is u·v, that is f.": lam
                + rate * (r * x) ** 2 / n * (rate * lam - 4),
                "each of the two squares has a mixed term with a 2: the sum has 4.": (1 + a**2) * lam
                - 2 * rate * r * f * x**2 / n,
                "the term of second order is missing.": lam - 4 * rate * r * f * x**2 / n,
                "λ has x²: both terms of the change need it.": lam + rate * r / n * (rate * lam * r - 4 * f),
                "λ has x²: the mixed term needs it.": (1 + a**2) * lam - 4 * rate * r * f / n,
            },
        )
    return "Still two numbers. The mixed term is r f: near the target it vanishes, and so does the change of λ"


@task(
    "11.3",
    "L2 as a ridge, spot the error",
    minutes=20,
    difficulty=3,
    section="L2 is not a ridge",
    hints=(
        "Which of the five lines uses a property of the network, and which property does a ReLU network have?",
        "f(aθ) = a^L f(θ), so Jθ = L f. And Θ_t has the weights of L − 1 layers in each factor, twice.",
        "now = exp(−2(L−1)λt) Θ_0; now @ solve(now + N L λ 1, y).",
    ),
)
def _(answer, rng):
    import numpy as np

    chosen, function = expect.parts(answer, ("wrong_line", "moving_rest"))
    expect.line(
        chosen,
        3,
        5,
        {
            1: "line 1 is right: the gradient of the penalty is λθ.",
            2: "line 2 is right: the chain rule, and JJᵀ = Θ.",
            4: "line 4 follows from line 3. The error is further up.",
            5: "line 5 follows from line 4. The error is further up.",
        },
    )
    n, k, depth = expect.one_of(rng, (7, 3, 6), (8, 3, 5))
    j, y = rng.normal(size=(n, n + 2)), rng.normal(size=(n, k))
    theta, lam, t = j @ j.T, rng.uniform(0.05, 0.07), rng.uniform(1.4, 1.7)

    def rest(factor, ridge):
        now = factor * theta
        return now @ np.linalg.solve(now + ridge * np.eye(n), y)

    shrunk = np.exp(-2 * (depth - 1) * lam * t)
    want = rest(shrunk, n * depth * lam)
    got = expect.array(expect.call(function, theta, y, lam, depth, t), shape=(n, k), axes="N K")
    expect.close(
        got,
        want,
        rtol=1e-3,
        slips={
            "that is line 5 as it stands: Jθ is a multiple of f.": rest(1.0, n * lam),
            "the kernel has shrunk by the time t.": rest(1.0, n * depth * lam),
            "line 3 is not mended: Jθ is a multiple of f.": rest(shrunk, n * lam),
            "the N in front of λ is missing: the loss is a mean.": rest(shrunk, depth * lam),
            "Θ = JJᵀ has two factors, and both shrink: the exponent has a 2.": rest(
                np.exp(-(depth - 1) * lam * t), n * depth * lam
            ),
            "the layer of a weight itself is no factor of its derivative: L − 1 layers shrink the Jacobian.": rest(
                np.exp(-2 * depth * lam * t), n * depth * lam
            ),
            "the kernel of two factors J has 2(L − 1) factors that shrink, not 2.": rest(
                np.exp(-2 * lam * t), n * depth * lam
            ),
            "Jθ is L f, not (L − 1) f. That one belongs to the linearized network.": rest(
                shrunk, n * (depth - 1) * lam
            ),
            "the kernel in front has shrunk as well.": lambda: (
                theta @ np.linalg.solve(shrunk * theta + n * depth * lam * np.eye(n), y)
            ),
            "that is the residual f − y at this point; f itself is wanted.": want - y,
            "those are the coefficients: the kernel has to be applied to them.": lambda: np.linalg.solve(
                shrunk * theta + n * depth * lam * np.eye(n), y
            ),
        },
    )
    return "A ridge that grows: relative to the kernel, ε rises like exp(2(L − 1)λt)"


@task(
    "11.4",
    "later_steps",
    minutes=15,
    difficulty=3,
    section="Two numbers",
    hints=(
        "λ moves when a step changes the weights by as much as they are. How large is u' − u beside u, at the start?",
        "u' − u = −η α (f − y) v/√n, λ = 2α² at the start, so η = c/α². The residual starts at 1 and grows by 2c − 1.",
        "jnp.log((alpha * width**0.5) / (alpha_0 * width_0**0.5)) / jnp.log(2*c - 1).",
    ),
)
def _(answer, rng):
    import math

    c = expect.one_of(rng, 1.3, 1.6)
    log = math.log(2 * c - 1)
    for alpha, n, alpha_0, n_0 in ((40.0, 3000, 5.0, 200), (30.0, 500, 6.0, 4000)):
        a, w = math.log(alpha / alpha_0), math.log(n / n_0)
        want = (a + w / 2) / log
        got = expect.call(answer, alpha, n, alpha_0, n_0, c)
        expect.number(
            got,
            want,
            "the number of steps",
            rtol=0.005,
            slips={
                "α is not in it: it makes the weights' movement smaller, as in chapter 05.": w / 2 / log,
                "n is not in it, or not as a factor of the start.": a / log,
                "f must reach α√n, not α n.": (a + w) / log,
                "f must reach α√n: with α² the rate is counted once too often.": (2 * a + w / 2) / log,
                "α counts whole, √n as a root: the root is not over both.": (a + w) / 2 / log,
                "a larger α delays the peak: its logarithm adds to that of √n.": (w / 2 - a) / log,
                "the growth in a step is 2c − 1, not c.": (a + w / 2) / math.log(c),
                "the growth in a step is 2c − 1, not 2c.": (a + w / 2) / math.log(2 * c),
                "later is positive.": -want,
                "nothing is to be rounded.": float(round(want)),
                "one logarithm is to the base 10 and the other is not.": want / math.log(10),
                "the residual grows by 2c − 1 in a step, the loss by its square: count one of them.": want / 2,
            },
        )
    return "Lazier networks take off later. The loss at the peak grows like α² n"


@task(
    "11.5",
    "shrinking_kernel",
    minutes=25,
    difficulty=4,
    section="Two times two",
    hints=(
        "A derivative with respect to a weight of layer l is a product with one factor for every other layer. The step "
        "takes J at the shrunken weights and Jᵀ at the old ones.",
        "Layer l's part after k steps has the factor ∏_{m≠l} s_m^{2k}, and a step adds one more ∏_{m≠l} s_m. The "
        "output itself is multiplied by ∏ s_m.",
        "others = jnp.prod(s)/s; now = einsum('l,lij->ij', others**(2*k + 1), parts); f = prod(s)*f - rate/N * now @ "
        "(f - y).",
    ),
)
def _(answer, rng):
    import numpy as np

    n, k, depth, steps = expect.one_of(rng, (6, 3, 3, 9), (7, 3, 5, 8))
    j = rng.normal(size=(depth, n, n + 1)) * np.linspace(0.5, 1.0, depth)[:, None, None]
    parts, f0, y = j @ j.transpose(0, 2, 1), 2 * rng.normal(size=(n, k)), rng.normal(size=(n, k))
    strengths = np.linspace(0.1, 0.3, depth) * rng.uniform(0.9, 1.1)
    rate = 0.5 * n / np.linalg.eigvalsh(parts.sum(0))[-1]

    def run(factor, decay=None, mean=n, early=False):
        s = 1 - rate * strengths
        f = f0.copy()
        for i in range(steps):
            now = np.einsum("l,lij->ij", factor(s, i) * np.ones(depth), parts)
            kept = (np.prod(s) if decay is None else decay(s)) * f
            f = kept - rate / mean * now @ ((kept if early else f) - y)
        return f

    def right(s, i):
        return (np.prod(s) / s) ** (2 * i + 1)

    got = expect.call(answer, parts, f0, y, strengths, rate, steps)
    got = expect.array(got, shape=(n, k), axes="N K")
    expect.close(
        got,
        run(right),
        rtol=1e-4,
        slips={
            "the kernel does not shrink in it.": lambda: run(lambda s, i: 1.0),
            "a part shrinks with the other layers, not with its own.": lambda: run(lambda s, i: s ** (2 * i + 1)),
            "a part has a factor for each of the others: its own layer is not among them.": lambda: run(
                lambda s, i: np.prod(s) ** (2 * i + 1)
            ),
            "the kernel is a product of two Jacobians: the exponent has a 2.": lambda: run(
                lambda s, i: (np.prod(s) / s) ** i
            ),
            "each step starts with the shrunken weights: one more factor than 2k.": lambda: run(
                lambda s, i: (np.prod(s) / s) ** (2 * i)
            ),
            "in a step one Jacobian is old and one is shrunken: 2k + 1, not 2k + 2.": lambda: run(
                lambda s, i: (np.prod(s) / s) ** (2 * i + 2)
            ),
            "the output is multiplied by one factor for each layer.": lambda: run(right, lambda s: s.mean()),
            "f0 is not forgotten in it: the penalty acts on the output, too.": lambda: run(right, lambda s: 1.0),
            "the 1/N of the loss is missing.": lambda: run(right, mean=1),
            "the residual of a step is that of the outputs before they are multiplied.": lambda: run(right, early=True),
            "a product of factors is wanted, not one strength for all layers.": lambda: run(
                lambda s, i: s.mean() ** ((depth - 1) * (2 * i + 1)), lambda s: s.mean() ** depth
            ),
        },
    )
    return "All an infinitely wide network with L2 can do"


written(
    "11.6",
    "a control that fails",
    rubric=(
        "ḣ = −Lλ(h + f0) where there are no data, since Euler's identity holds for f and not for h;",
        "h goes to −1 times f0: the penalty forgets what is still subtracted, so the control adds noise, and L2 looks "
        "harmful;",
        "the doubled network is homogeneous as a whole, so zero is where the penalty draws it.",
    ),
    numbers=(
        "-1",
        "−1",
        "minus one",
        "minus 1",
        "-f0",
        "−f0",
        "-f_0",
        "−f_0",
        "-f₀",
        "−f₀",
        "to minus f0",
        "to minus f_0",
    ),
    asked="to which multiple of f0(x) does h(x) go?",
    minutes=15,
    difficulty=4,
    section="Two times two",
    hints=(
        "Write ḟ first, with the penalty, and then h = f − f0. Is h homogeneous in θ?",
        "ḟ = −Lλ f where Θ(x, X) = 0. So f goes to 0. And h?",
        "h = −(1 − exp(−Lλt)) f0. For the doubled network f is the whole output.",
    ),
)

written(
    "11.7",
    "the largest step",
    rubric=(
        "a prediction, and which activation bears the largest steps, with counts over seeds;",
        "one network of one's own that was tried, and how it changes the counts;",
        "what a large step costs, such as units that are off for all images, and what eight seeds cannot say.",
    ),
    minutes=45,
    difficulty=4,
    section="A real network",
    hints=(
        "What must the kernel do during the first steps for the loss to come down again?",
        "Count the units that are off for all 20 images before and after. Do tanh and abs have such units?",
        "Try learned(ntk.LeakyRelu(0.3)), other widths, and more seeds; (fn(p, x) == 0) is not the test, the units' "
        "inputs are.",
    ),
)
