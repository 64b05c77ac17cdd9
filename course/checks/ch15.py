"""Checks of chapter 15, equivariance."""

from course import expect
from course.tasks import task, written


@task(
    "15.1",
    "five digits that move",
    minutes=10,
    difficulty=2,
    section="With pooling",
    hints=(
        "Two images that the kernel cannot tell apart have equal rows. What does that do to the rank?",
        "With pooling all seven copies of a digit have the same row. Without pooling equal rows need equal images.",
        "With pooling the rank is the number of different digits; without pooling it is the number of images.",
    ),
)
def _(answer, rng):
    got = expect.parts(answer, ("with pooling", "without pooling"))
    expect.number(
        got[0],
        5,
        "the number with pooling",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "the kernel with pooling cannot tell a digit from its moved copy, so there are equal rows.": 35,
            "the digits themselves stay different: only the copies of one digit are alike.": 1,
            "that is the number of zero eigenvalues; asked is the number of the others.": 30,
            "there are seven positions, but which images can the kernel still tell apart?": 7,
        },
    )
    expect.number(
        got[1],
        35,
        "the number without pooling",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "sharing weights makes nothing invariant without pooling: a moved digit is another image.": 5,
            "the kernel without pooling is that of the locally connected network: no two of the images are alike.": 7,
            "a kernel of 35 different images has no null directions here.": 0,
        },
    )
    return "Thirty directions in which the pooled network cannot learn, and need not"


@task(
    "15.2",
    "linear_variances",
    minutes=20,
    difficulty=3,
    section="What sharing does at finite width",
    hints=(
        "Θ is the mean of n independent terms T. Write T for φ(z) = z as in the chapter: the readout's sum R and the "
        "hidden layer's sum S. What is random in each?",
        "R = Σ z_p², with Var R = 2 Σ Q_pp'². S = Σ a_p a_p' Q_pp', with fixed Q: Var S = 2 Σ Q_pp'². z and a are "
        "independent, so the two are uncorrelated. With own weights only equal places are left.",
        "terms = 4 * Q**2 * (w_std**2/P)**2 / n; (terms.sum((1, 2)), jnp.einsum('npp->n', terms)).",
    ),
)
def _(answer, rng):
    import numpy as np

    n_images, p, n, w = expect.one_of(rng, (3, 5, 7, 1.3), (5, 7, 6, 0.8))
    j = rng.normal(size=(n_images, p, p + 3)) + 0.5
    Q = j @ j.transpose(0, 2, 1) / (p + 3)
    squares = Q**2
    both, equal = squares.sum((1, 2)), np.einsum("npp->n", squares)
    unit = w**4 / p**2 / n
    diagonal = np.einsum("npp->n", Q)
    got = expect.parts(expect.call(answer, Q, n, w), ("shared", "own"), order=(4 * both * unit, 4 * equal * unit))

    def slips(kept, other):
        return {
            "the variance of the readout's part alone: the hidden layer's part S varies, too.": 2 * kept * unit,
            "R and S are uncorrelated here: Cov(z_p², a_p a_p') = 0.": 8 * kept * unit,
            "that is the variance of one channel; Θ is a mean over n.": 4 * kept * unit * n,
            "1/n², but the variance of a mean of n terms falls like 1/n.": 4 * kept * unit / n,
            "that is the standard deviation; the variance is asked for.": np.sqrt(4 * kept * unit),
            "the scale is σ_w²/P, and a variance has its square: σ_w⁴/P².": 4 * kept / p / n * w**2,
            "the scale σ_w² is squared in a variance: σ_w⁴.": 4 * kept * unit / w**2,
            "1/P is squared in a variance.": 4 * kept * unit * p,
            "the other pairs of places: these count only if the weights are shared.": 4 * other * unit,
            "Q itself where its square belongs.": lambda: 4 * unit * (diagonal if kept is equal else Q.sum((1, 2))),
        }

    for part, kept, other, name in ((got[0], both, equal, "shared"), (got[1], equal, both, "own")):
        part = expect.array(part, name, shape=(n_images,), axes="N")
        expect.close(part, 4 * kept * unit, name, rtol=1e-4, slips=slips(kept, other))
    return "Without an activation only the alignment of patches counts: Σ Q²"


@task(
    "15.3",
    "a rate for shared weights, spot the error",
    minutes=20,
    difficulty=3,
    section="What sharing does at finite width",
    hints=(
        "g_p has a factor that does not come from the image: the readout weight a_pc. What does it do on average in a "
        "product of two places?",
        "E[a_pc a_p'c] = 0 for different places. With pooling one weight a_c serves all places, and its square has the "
        "mean 1. The hidden part is then Σ_pp' E[φ'(z_p) φ'(z_p')] Q_pp', against Σ_p q_p/2.",
        "q = einsum('npp->np', Q); θ = arccos(clip(Q/sqrt(q q'))); ((π − θ)/(2π) * Q).sum((1, 2)) / (q/2).sum(1).",
    ),
)
def _(answer, rng):
    import numpy as np

    number, function = expect.parts(answer, ("wrong_line", "pooled_ratio"))
    expect.line(
        number,
        4,
        5,
        {
            1: "line 1 is right: the derivative of a sum in which w_c occurs P times.",
            2: "line 2 is right: the square of a sum.",
            3: "line 3 is right: with own weights there are no cross terms.",
            5: "line 5 follows from line 4. The error is further up.",
        },
    )
    n, p = expect.one_of(rng, (3, 5), (5, 7))
    j = rng.normal(size=(n, p, 6)) + 0.7
    Q = j @ j.transpose(0, 2, 1) / 6
    q = np.einsum("npp->np", Q)
    scale = np.sqrt(q[:, :, None] * q[:, None, :])
    angle = np.arccos(np.clip(Q / scale, -1, 1))
    both = (np.pi - angle) / (2 * np.pi)
    half = q.sum(1) / 2
    want = (both * Q).sum((1, 2)) / half
    dual = scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    got = expect.array(expect.call(function, Q), "the ratio", shape=(n,), axes="N")
    expect.close(
        got,
        want,
        "the ratio",
        rtol=1e-4,
        factors={"P": p},
        slips={
            "it is upside down: shared over own.": 1 / want,
            "all pairs count as if both places were active together half of the time.": Q.sum((1, 2)) / 2 / half,
            "the two places are not independent: E[φ'φ'] depends on the angle between their patches.": (
                Q.sum((1, 2)) / 4 / half
            ),
            "Q is missing: the gradients hold the patches as well as φ'.": both.sum((1, 2)) / (p / 2),
            "that is the readout's part, E[φφ]: for the hidden layer it is E[φ'φ'] Q.": dual.sum((1, 2)) / half,
            "a patch is active half of the time: E[φ'(z_p)²] = 1/2, in the denominator.": want / 2,
            "without pooling the ratio is 1. With pooling one readout weight serves all places.": np.ones(n),
            "P is what line 4 says. Compute the ratio from Q.": np.full(n, float(p)),
            "the equal places are missing from the sum over all pairs.": lambda: want - 1,
            "the probability is (π − θ)/2π: it is 1/2 for equal patches.": lambda: (
                (angle / (2 * np.pi) * Q).sum((1, 2)) / half
            ),
        },
    )
    return "With pooling a shared weight does get a larger gradient, and λ_max grows"


@task(
    "15.4",
    "pooled_in_blocks",
    minutes=25,
    difficulty=3,
    section="With pooling",
    hints=(
        "The readout has a weight for each block. So only pairs of places of one block meet, and blocks are averaged. "
        "With own weights, what is the product of two different places?",
        "Shared: the mean over blocks of the mean over all b²·b² pairs in the block. Own: the same, but for p ≠ p' "
        "E[φ(z_p)] E[φ(z'_p')] stands in place of the product.",
        "a = products.reshape(N, M, H//b, b, W//b, b, H//b, b, W//b, b); shared = "
        "jnp.einsum('nmhiwjhkwl->nm', a)/(b**2 * H * W); the same with products of means, equal places put right.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, h, w = expect.one_of(rng, (3, 5, 6, 9), (5, 3, 9, 6))
    b = 3
    z = rng.normal(size=(200, n + m, h, w)) + 0.4 * rng.normal(size=(200, 1, h, w)) + rng.normal(size=(1, n + m, h, w))
    act = np.maximum(z, 0)
    products = np.einsum("snhw,smij->nmhwij", act[:, :n], act[:, n:]) / 200
    mean = act.mean(0)
    m1, m2 = mean[:n], mean[n:]
    P = h * w

    def combine(array, size=b):
        blocks = array.reshape(n, m, h // size, size, w // size, size, h // size, size, w // size, size)
        return np.einsum("nmhiwjhkwl->nm", blocks) / (size**2 * P)

    apart = m1[:, None, :, :, None, None] * m2[None, :, None, None]
    equal = np.einsum("nmhwhw->nm", products) / P  # without pooling

    def mixed(array):  # every third place, in the place of neighbors
        blocks = array.reshape(n, m, b, h // b, b, w // b, b, h // b, b, w // b)
        return np.einsum("nmihjwkhlw->nm", blocks) / (b**2 * P)

    def own_of(array, size=b):
        places = np.einsum("nmhwhw->nm", array - apart) / P / size**2
        return combine(apart, size) + places

    shared, own = combine(products), own_of(products)
    got = expect.parts(expect.call(answer, products, m1, m2, b), ("shared", "own"), order=(shared, own))
    first = expect.array(got[0], "shared", shape=(n, m), axes="N M")
    expect.close(
        first,
        shared,
        "shared",
        rtol=1e-4,
        slips={
            "that is global pooling: pairs of places in different blocks do not meet.": lambda: products.mean(
                (2, 3, 4, 5)
            ),
            "that is the network without pooling: equal places only.": equal,
            "the mean over the pairs of a block has 1/b⁴; the pooled value has 1/b² for each image.": shared * b**2,
            "1/b² twice is 1/b⁴ for the pairs; the readout divides by the number of blocks, not of places.": shared
            / b**2,
            "the mean over blocks is missing: that is their sum.": shared * P / b**2,
            "a block is b neighbors: reshape H to (H/b, b), not to (b, H/b).": lambda: mixed(products),
        },
        factors={"b⁴": b**4},
    )
    second = expect.array(got[1], "own", shape=(n, m), axes="N M")
    expect.close(
        second,
        own,
        "own",
        rtol=1e-4,
        slips={
            "different places are independent, but the mean of their product is not zero: ReLU has a mean.": equal
            / b**2,
            "at equal places the product stays: both images use the same weights there.": lambda: combine(apart),
            "at equal places the product stands in place of the product of means, not beside it.": lambda: (
                combine(apart) + equal / b**2
            ),
            "that is the network without pooling.": equal,
            "that is what shared weights give.": shared,
            "pairs of places in different blocks do not meet.": lambda: (
                apart.mean((2, 3, 4, 5)) + np.einsum("nmhwhw->nm", products - apart) / P**2
            ),
        },
    )
    return "Blocks trade one for the other: invariance inside a block, places between blocks"


@task(
    "15.5",
    "pooling without pooling",
    minutes=20,
    difficulty=4,
    section="With pooling",
    hints=(
        "The pooled kernel has all pairs (p, p'). Sort them by p' − p. What do the pairs of one difference add up to?",
        "The pairs with p' = p + g are the pairs of equal places of x and of x' moved by −g. So the pooled kernel is "
        "the mean, over all shifts g, of the kernel without pooling between x and the moved x'.",
        "sum(kernel(x1, jnp.roll(x2, (i, j), axis=(1, 2))) for i in range(H) for j in range(W)) / (H*W).",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, h, w = expect.one_of(rng, (3, 5, 6, 7), (5, 3, 7, 6))
    x1, x2 = rng.normal(size=(n, h, w, 1)), rng.normal(size=(m, h, w, 1)) + 0.3

    def local(a):  # a feature of each place, of its row of three pixels
        a = np.asarray(a, float)[..., 0]
        return np.stack([a, np.roll(a, 1, axis=2), np.roll(a, -1, axis=1)], -1)

    def places(a, c):
        return np.tanh(np.einsum("nhwf,mijf->nmhwij", local(a), local(c)))

    def kernel(a, c):  # symmetric under a common shift, as the kernel of a network is
        return np.einsum("nmhwhw->nm", places(a, c)) / (h * w)

    want = places(x1, x2).mean((2, 3, 4, 5))
    rolls = [(i, j) for i in range(h) for j in range(w)]
    got = expect.array(expect.call(answer, kernel, x1, x2), "the kernel", shape=(n, m), axes="N M")

    def over(pairs):
        return np.mean([kernel(x1, np.roll(x2, pair, axis=(1, 2))) for pair in pairs], axis=0)

    expect.close(
        got,
        want,
        "the kernel",
        rtol=1e-4,
        factors={"the number of shifts": h * w},
        slips={
            "that is the kernel without pooling. If both images move together it stays what it is: one has to stay.": (
                lambda: kernel(x1, x2)
            ),
            "these are the shifts to the side alone: images move down as well.": lambda: over(
                [(0, j) for j in range(w)]
            ),
            "these are the shifts down alone: images move to the side as well.": lambda: over(
                [(i, 0) for i in range(h)]
            ),
            "these are shifts along the diagonal: every (i, j) is wanted.": lambda: over(
                [(i, i) for i in range(max(h, w))]
            ),
            "axis 0 counts the images: move them along the axes 1 and 2.": lambda: np.mean(
                [kernel(x1, np.roll(x2, pair, axis=(0, 1))) for pair in rolls], axis=0
            ),
            "these images have H·W shifts, not 49: H and W are in their shape.": lambda: over(
                [(i, j) for i in range(7) for j in range(7)]
            ),
            "the image that does not move is a shift, too.": lambda: over(rolls[1:]),
            "the average is of kernels, not of images: the kernel is not linear in the image.": lambda: kernel(
                x1, np.full_like(x2, 1) * x2.mean((1, 2), keepdims=True)
            ),
        },
    )
    return "Augmentation by all shifts and pooled convolutions are one and the same kernel"


written(
    "15.6",
    "a fair comparison",
    rubric=(
        "28 channels, since the variance of the kernel falls like 1/n;",
        "the locally connected network still has many more hidden weights: 3,528 against 252;",
        "at equal width she compares noise: the limit is one kernel, and a prior would have to show in it.",
    ),
    numbers=("28", "twenty-eight", "28.0"),
    asked="how many channels does the convolution need?",
    minutes=15,
    difficulty=2,
    section="What sharing does at finite width",
    hints=(
        "How does the variance of the kernel depend on the width?",
        "v/n for both, with 3.5 times the v. And what is the mean of both kernels?",
        "3.5 · 8 channels; weights of the hidden layer: 9 n with sharing, 9 · 49 n without.",
    ),
)

written(
    "15.7",
    "a prior of your own",
    rubric=(
        "which rows of numbers must be equal, and why: the mean is taken over the places that a move exchanges;",
        "one network of one's own, with its accuracies in place and moved in four directions, beside its aim;",
        "what moves around the edge say about digits that stand elsewhere, and the error of 200 test digits.",
    ),
    minutes=60,
    difficulty=4,
    section="With pooling",
    hints=(
        "Over which places must a mean be taken so that a move to the right only exchanges its terms?",
        "Compare GlobalAvgPool, means of columns, and a sum of two branches: means of rows and means of columns.",
        "ntk.Sum(branch1, branch2) adds two networks that end in the same width; ntk.shift(images, down, right, "
        "edge=...) moves images, with a number for what comes in.",
    ),
)
