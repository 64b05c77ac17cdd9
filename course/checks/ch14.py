"""Checks of chapter 14, whitening."""

from course import expect
from course.tasks import task, written


def metric(features, epsilon):
    """C + reg, [d, d], of features [N, d]."""
    import numpy as np

    n, d = features.shape
    c = features.T @ features / n
    return c + epsilon * np.trace(c) / d * np.eye(d)


def power(matrix, exponent):
    """A power of a symmetric positive matrix."""
    import numpy as np

    s, u = np.linalg.eigh(matrix)
    return (u * s**exponent) @ u.T


@task(
    "14.1",
    "zca_matrix",
    minutes=15,
    difficulty=2,
    section="What whitening does",
    hints=(
        "In the eigenbasis of C each direction is divided by the square root of its own, regularized variance. Then "
        "turn back.",
        "C = FᵀF/N = U diag(s) Uᵀ. W = U diag(1/√(s + reg)) Uᵀ, and reg is epsilon times the mean of the eigenvalues, "
        "tr(C)/d.",
        "C = F.T @ F / n; s, u = jnp.linalg.eigh(C); return (u / jnp.sqrt(s + epsilon * jnp.trace(C) / d)) @ u.T.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, d = expect.one_of(rng, (11, 5), (9, 6))
    features = rng.normal(size=(n, d)) * np.linspace(0.5, 2.0, d) + 0.5
    epsilon = 0.3
    with expect.without("ZCA.fit", "ZCA.transform"):
        got = expect.call(answer, features, epsilon)
    if np.shape(got) == (n, d):
        expect.fail("that has the shape of the features: W alone is wanted, [d, d].")
    got = expect.array(got, "W", shape=(d, d), axes="d d")
    expect.that(
        np.abs(got - got.T).max() < 1e-3 * np.abs(got).max(),
        "W should be symmetric: after the division turn back to pixels, on the right side of the product.",
    )
    c = features.T @ features / n
    s = np.linalg.eigvalsh(c)
    reg, eye = epsilon * s.mean(), np.eye(d)

    def centered(ddof=0):
        f = (features - features.mean(0)) * (n / (n - ddof)) ** 0.5
        return power(metric(f, epsilon), -0.5)

    def root(values):
        u = np.linalg.eigh(c)[1]
        return (u * values) @ u.T

    expect.close(
        got,
        power(c + reg * eye, -0.5),
        "W",
        slips={
            "epsilon is relative: it multiplies the mean eigenvalue, tr(C)/d.": power(c + epsilon * eye, -0.5),
            "the trace is divided by d: reg is a share of the mean eigenvalue, not of their sum.": power(
                c + epsilon * s.sum() * eye, -0.5
            ),
            "the trace was divided by N; there are d eigenvalues.": power(c + epsilon * s.sum() / n * eye, -0.5),
            "the regularization is missing.": power(c, -0.5),
            "that is W²: divide by the root of the variance.": power(c + reg * eye, -1.0),
            "that is the inverse of W: directions of large variance should shrink.": power(c + reg * eye, 0.5),
            "that is the regularized C itself.": c + reg * eye,
            "C lacks its 1/N.": power(c + reg * eye, -0.5) / n**0.5,
            "the mean over the inputs was subtracted; here C is FᵀF/N.": centered,
            "that is the covariance of `cov`, without the mean and over N − 1; here C is FᵀF/N.": lambda: centered(1),
            "reg is added to the variances, under the root.": root(1 / (s**0.5 + reg)),
            "the roots are added, not what stands under them: the root of s + reg is wanted.": root(
                1 / (s**0.5 + reg**0.5)
            ),
            "reg is a share of the mean eigenvalue, not of the largest.": root((s + epsilon * s[-1]) ** -0.5),
            "s/(s + reg) is the variance after whitening; W multiplies the coordinates, whose squares have it.": root(
                s / (s + reg)
            ),
            "that multiplies by the spread after whitening; the one before, √s, has to be divided out.": root(
                (s / (s + reg)) ** 0.5
            ),
            "the eigenvalues of C are squares of singular values of F, over N.": lambda: root(
                ((n * s) ** 0.5 + epsilon * ((n * s) ** 0.5).mean()) ** -0.5
            ),
        },
        factors={"√N": n**0.5},
    )
    scaled = expect.call(answer, 3.0 * features, epsilon)
    scaled = expect.array(scaled, "W of features three times as large", shape=(d, d))
    expect.that(
        np.abs(3.0 * scaled - got).max() < 1e-3 * np.abs(got).max(),
        "features three times as large should give a W a third as large.",
    )
    return "With ε relative, the units of the pixels drop out"


@task(
    "14.2",
    "leave one out",
    minutes=15,
    difficulty=3,
    section="Fewer inputs than pixels",
    hints=(
        "The input that is left out has taken part in the fit of W. What is its whitened inner product with the inputs "
        "that remain?",
        "All 40 whitened inputs are orthogonal and of equal length, the one that is left out too. So the regression on "
        "the 39 others gives each of them the same weight.",
        "f(x_i) ∝ Σ_{j ≠ i} y_j = −y_i, since the rows of y sum to zero over balanced classes. Where is the largest "
        "output of −y_i?",
    ),
)
def _(answer, rng):
    share = expect.finite(answer, "the share")
    expect.that(0 <= share <= 1, "a share lies between 0 and 1.")
    expect.that(
        not 0.012 < share < 0.05,
        "one or two of the 40 would be luck. Is any left, if you sum the targets of the others?",
    )
    expect.number(
        share,
        0.0,
        "the share",
        slips={
            "that is the share by chance: ten classes, but the outputs are not random. Sum the targets of the 39 "
            "others.": 0.1,
            "that is how well the training inputs are fitted; here each is left out.": 1.0,
            "that is everything but chance: sum the targets of the 39 others, and look at its largest entry.": 0.9,
            "there are two classes for chance to be one half; and the outputs are not random.": 0.5,
            "the test inputs do so, or nearly. The input that is left out is not like them.": 0.6,
        },
    )
    return "Worse than chance: the class that was taken away is the one that is missing among the others"


@task(
    "14.3",
    "whitened with the test inputs, spot the error",
    minutes=20,
    difficulty=3,
    section="Fewer inputs than pixels",
    hints=(
        "Ask of each line which inputs have been seen up to there. Then: what are the inner products of N + M inputs "
        "that were whitened together, N + M < d?",
        "Whitened together, all N + M inputs are orthogonal and of equal length: the kernel has one value on the "
        "diagonal and one beside it, also between test and training inputs.",
        "Θ = (same − other) 1 + other 11ᵀ has Θ⁻¹ Y = (Y − …)/(same − other); a row of constants only needs 1ᵀΘ⁻¹ = "
        "1ᵀ/(same + (N − 1) other). So each row is other · Y.sum(0)/(same + (N − 1) · other).",
    ),
)
def _(answer, rng):
    import numpy as np

    line, outputs = expect.parts(answer, ("wrong_line", "leaked_outputs"))
    another = "the first error is in another line:"
    expect.line(
        line,
        2,
        5,
        {
            1: f"{another} line 1 keeps training and test inputs apart, as it should.",
            3: f"{another} line 3 puts test inputs through what was fitted before, and that is right. Who took part in "
            "the fit?",
            4: f"{another} line 4 is right: rows for the test inputs, columns for the training inputs.",
            5: f"{another} line 5 is kernel regression without a ridge, as it should be.",
        },
    )
    n, m, k = expect.one_of(rng, (7, 5, 3), (9, 6, 5))
    y = rng.normal(size=(n, k)) + 0.5
    same, other = 1.7, 0.6
    got = expect.call(outputs, y, same, other, m)
    if np.shape(got) == (k,):
        expect.fail("that is one row: the outputs at all m test inputs are wanted, [m, K].")
    got = expect.array(got, "the array of outputs", shape=(m, k), axes="m K")
    total = np.tile(y.sum(0), (m, 1))
    expect.close(
        got,
        other * total / (same + (n - 1) * other),
        "the array of outputs",
        slips={
            "the mean of the targets comes out only for many inputs: there is a denominator.": total / n,
            "the targets are not centered here: their sum is not zero.": 0 * total,
            "the kernel of the training inputs is not diagonal: other stands beside the diagonal.": other
            * total
            / same,
            "1ᵀΘ has same once and other N − 1 times, not N times.": other * total / (same + n * other),
            "the rank-one part of Θ, other 11ᵀ, is lost in the inverse.": other * total / (same - other),
            "that is the sum of kernel times targets, without the inverse of Θ.": other * total,
            "between a test input and a training input the kernel is other: they are different inputs.": same
            * total
            / (same + (n - 1) * other),
        },
        factors={"N": n, "m": m},
    )
    return "One answer for every test input, whatever it shows: the leak cost everything"


@task(
    "14.4",
    "first_layer_step",
    minutes=25,
    difficulty=4,
    section="A change of metric",
    hints=(
        "Write the first layer's product as x̃ U = x W U and call V = W U. Gradient descent moves U. How does V move?",
        "∇_U = W ∇_V by the chain rule, and V = W U: two factors W. W² = (C + reg)⁻¹ needs no eigenvectors.",
        "C = F.T @ F / n; reg = epsilon * jnp.trace(C) / d; return V - learning_rate * jnp.linalg.solve(C + reg * "
        "jnp.eye(d), grad).",
    ),
)
def _(answer, rng):
    import numpy as np

    n, d, width = expect.one_of(rng, (11, 5, 3), (9, 6, 7))
    features = rng.normal(size=(n, d)) * np.linspace(0.5, 2.0, d) + 0.5
    V, grad = rng.normal(size=(d, width)), rng.normal(size=(d, width))
    epsilon, eta = 0.3, 0.7
    m = metric(features, epsilon)
    c = features.T @ features / n

    def step(by):
        return V - eta * by @ grad

    with expect.without("ZCA.fit", "ZCA.transform"):
        got = expect.call(answer, V, grad, features, epsilon, eta)
    got = expect.array(got, "the weights", shape=(d, width), axes="d n")
    w = power(m, -0.5)
    expect.close(
        got,
        step(power(m, -1.0)),
        "the array of weights",
        slips={
            "that is the plain step: it trains the network on inputs that are not whitened.": step(np.eye(d)),
            "W acts twice: once in the gradient, and once from U to V.": step(w),
            "the metric is to be inverted: along directions of large variance the step is shorter.": step(m),
            "the sign: gradient descent goes down.": V + eta * power(m, -1.0) @ grad,
            "that is how far the weights move; add it to V.": -eta * power(m, -1.0) @ grad,
            "epsilon is relative to tr(C)/d.": step(np.linalg.inv(c + epsilon * np.eye(d))),
            "the regularization is missing.": step(np.linalg.inv(c)),
            "C lacks its 1/N.": step(power(m, -1.0) / n),
            "the learning rate is missing.": V - power(m, -1.0) @ grad,
            "W is applied to the weights as well: V is already what acts on plain inputs.": w @ step(power(m, -1.0)),
            "the metric acts on the gradient alone, not on V.": power(m, -1.0) @ (V - eta * grad),
            "that is the metric twice: W appears once in the gradient and once from U to V.": step(power(m, -2.0)),
            "that is the step of U, in the coordinates of the whitened inputs.": lambda: (
                np.linalg.solve(w, V) - eta * w @ grad
            ),
        },
    )
    return "Whitening is preconditioning: the first layer's own natural metric, fixed before training"


written(
    "14.5",
    "why the kernels",
    rubric=(
        "the kernel's metric is fixed before training, and nothing later can change it: it gets the whole gain;",
        "a network can stretch directions in its first layer, as far as it is not lazy;",
        "a test: the gap of the gains should close as the network gets lazier (wider, larger α), and it is paired.",
    ),
    minutes=10,
    difficulty=2,
    section="Do networks gain as much?",
    hints=(
        "Who can change the metric of Σ¹ during training?",
        "Write the first layer's metric as E[v vᵀ] over its units. For a kernel it is the covariance at the start.",
        "Kernel: fixed, so whitening is the only way. Network: learns a part of it, unless it is lazy. Test: the gap "
        "of the gains over α or over the width.",
    ),
)

written(
    "14.6",
    "another metric",
    rubric=(
        "a metric of one's own, with the reason why it should help;",
        "chosen on validation inputs, over several subsets, and compared in pairs;",
        "the test inputs looked at once, at the end, with an error.",
    ),
    minutes=40,
    difficulty=4,
    section="A change of metric",
    hints=(
        "Any positive matrix is a metric. ZCA has one number, ε. What do you know about these images and ZCA not?",
        "Ideas: whiten colors only (3×3); s to another power than −1/2; powers of a smoothing matrix; a metric "
        "from the classes' means, on training inputs.",
        "With s, u of C: (u * (s + reg)**(-p/2)) @ u.T for p between 0 and 1, p and ε chosen on the validation inputs.",
    ),
)
