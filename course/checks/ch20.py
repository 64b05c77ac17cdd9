"""Checks of chapter 20, neural-tangents. None of them needs it."""

from typing import Any

from course import expect
from course.tasks import task, written


def dense(kernel: tuple, n_in: int, w_std: float, bias: float | None, standard: bool) -> tuple:
    """The (covariance, variances, NTK) after an affine layer; `bias` None is none, 0.0 one that starts at zero."""
    cov, q1, q2, theta = kernel
    shift = (bias or 0.0) ** 2
    new, v1, v2 = (w_std**2 * c + shift for c in (cov, q1, q2))
    own = n_in * cov + (bias is not None) if standard else new
    return new, v1, v2, own + w_std**2 * theta


def colleague(
    x1: Any,
    x2: Any,
    a: int,
    b: int,
    *,
    first: bool = True,
    second: bool | None = None,
    last: bool = False,
    biases: tuple[float | None, float | None] = (None, 0.0),
    leak: float = 0.1,
    scales: tuple[float, float, float] = (1.5, 1.2, 0.9),
) -> tuple:
    """NNGP and NTK of the network of 20.1, or of one with a slip, in NumPy; `first` … `last`: in STANDARD."""
    import numpy as np

    d = x1.shape[1]
    kernel = (x1 @ x2.T / d, (x1**2).sum(1)[:, None] / d, (x2**2).sum(1)[None] / d, np.zeros((len(x1), len(x2))))
    cov, q1, q2, theta = dense(kernel, d, scales[0], biases[0], first)
    product = (1 + 2 * q1) * (1 + 2 * q2)
    slope = 4 / np.pi / np.sqrt(product - 4 * cov**2)
    values, v1, v2 = (
        2 / np.pi * np.arcsin(2 * c / r) for c, r in ((cov, product**0.5), (q1, 1 + 2 * q1), (q2, 1 + 2 * q2))
    )
    cov, q1, q2, theta = dense(
        (values, v1, v2, slope * theta), a, scales[1], biases[1], first if second is None else second
    )
    size = np.sqrt(q1 * q2)
    angle = np.arccos(cov / size)
    relu = size / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    kink, tilt = (1 - leak) ** 2, leak  # φ(x) = (1 − leak) relu(x) + leak x
    values, v1, v2 = kink * relu + tilt * cov, (kink / 2 + tilt) * q1, (kink / 2 + tilt) * q2
    slope = kink * (np.pi - angle) / (2 * np.pi) + tilt
    cov, _, _, theta = dense((values, v1, v2, slope * theta), b, scales[2], 0.3, last)
    return cov, theta


@task(
    "20.1",
    "translated",
    minutes=20,
    difficulty=2,
    section="A dictionary",
    hints=(
        "Go through it layer by layer and ask of each argument what it means if it is *not* written: there are two "
        "kinds of bias in this network besides the last one, and two parameterizations.",
        "`b_std=None`, the default there, is no bias; `b_std=0.0` is a bias that starts at zero, and its derivative is "
        "part of the NTK. The last layer does not say `parameterization`, so it has the default, NTK. "
        "`LeakyRelu` has the same slope in both.",
        "ntk.Serial(ntk.Dense(d, a, w_std=1.5, use_bias=False, parameterization=ntk.STANDARD, rngs=rngs), ntk.Erf(), "
        "ntk.Dense(a, b, w_std=1.2, b_std=0.0, parameterization=ntk.STANDARD, rngs=rngs), ntk.LeakyRelu(0.1), "
        "ntk.Dense(b, 1, w_std=0.9, b_std=0.3, rngs=rngs)).",
    ),
)
def _(answer, rng):
    import numpy as np
    from flax import nnx

    import ntklib as ntk

    d, a, b = expect.one_of(rng, (5, 7, 6), (6, 5, 9))
    x1, x2 = rng.normal(size=(3, d)) + 0.3, rng.normal(size=(8, d))
    net = expect.call(answer, d, a, b, nnx.Rngs(0))
    if isinstance(net, tuple):
        expect.fail("that is a tuple, as `stax` has it: return one layer, `ntk.Serial(...)`.")
    if not isinstance(net, ntk.Layer):
        expect.fail(f"the result should be a layer of ntklib, such as `ntk.Serial(...)`; got {type(net).__name__}.")

    def of(which, a=a, b=b, **options):
        return lambda: colleague(x1, x2, a, b, **options)[which]

    try:
        kernel = net.kernel(x1.astype(np.float32), x2.astype(np.float32))
    except Exception as error:
        expect.fail(f"its kernel cannot be computed for inputs [N, {d}]: {error}")
    nngp = expect.array(kernel.nngp, "the NNGP", shape=(3, 8), axes="N M")
    theta = expect.array(kernel.ntk, "the NTK", shape=(3, 8), axes="N M")
    squared = tuple(s**2 for s in (1.5, 1.2, 0.9))
    rooted = tuple(s**0.5 for s in (1.5, 1.2, 0.9))
    expect.close(
        nngp,
        of(0)(),
        "the NNGP",
        rtol=3e-4,
        slips={
            "`W_std` is σ_w, as `w_std` here: it is not to be squared.": of(0, scales=squared),
            "`W_std` is σ_w, as `w_std` here: there is no root to take.": of(0, scales=rooted),
            "the slope of the leaky ReLU is 0.1.": of(0, leak=0.01),
            "that is ReLU: the leaky one keeps a slope of 0.1.": of(0, leak=0.0),
        },
    )
    expect.close(
        theta,
        of(1)(),
        "the NTK",
        rtol=3e-4,
        slips={
            "`b_std=0.0` is a bias that starts at zero and is trained: it is part of the NTK. There is none in this "
            "network.": of(1, biases=(None, None)),
            "`b_std=None`, the default of the first layer there, is no bias; here there is one.": of(
                1, biases=(0.0, 0.0)
            ),
            "the two kinds of no bias are exchanged: None is none, 0.0 is one that starts at zero.": of(
                1, biases=(0.0, None)
            ),
            "the widths a and b are exchanged.": of(1, a=b, b=a),
            "the first two layers are in the standard parameterization; here all are in NTK.": of(1, first=False),
            "the second layer is in the standard parameterization, too; here it is in NTK.": of(1, second=False),
            "the first layer is in the standard parameterization, too; here it is in NTK.": of(
                1, first=False, second=True
            ),
            "the last layer is in the NTK parameterization, the default there; here it is in the standard one.": of(
                1, last=True
            ),
            "the last layer is in the NTK parameterization and the others are not; here it is the other way "
            "around.": of(1, first=False, last=True),
        },
    )
    return "Two networks of one NNGP can have different NTKs: biases that start at zero count"


@task(
    "20.2",
    "pooled",
    minutes=15,
    difficulty=3,
    section="Masks",
    hints=(
        "An average is a sum with weights. What are the weights of a sequence's tokens, real and filled?",
        "Weights w[i, s] = real1[i, s] / (number of real tokens of i), and the same for the second set. The kernel of "
        "two weighted sums is the sum over all pairs (s, t) of weight, weight and k.",
        'w1 = real1 / jnp.sum(real1, axis=1, keepdims=True), w2 likewise; jnp.einsum("is,jt,ijst->ij", w1, w2, k).',
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, s, t = expect.one_of(rng, (3, 5, 7, 6), (6, 3, 5, 9))
    first, second = rng.normal(size=(n, s, 11)) + 0.5, rng.normal(size=(m, t, 11)) + 0.5
    k = np.einsum("isc,jtc->ijst", first, second) / 11
    lengths1, lengths2 = rng.integers(2, s, size=n), rng.integers(2, t, size=m)
    lengths1[0], lengths2[0] = 2, t - 1
    lengths1[1], lengths2[1] = s - 1, 2
    # Real tokens need not stand in front.
    real1 = rng.permuted(np.arange(s)[None] < lengths1[:, None], axis=1)
    real2 = rng.permuted(np.arange(t)[None] < lengths2[:, None], axis=1)

    def average(w1, w2, over1, over2):
        return np.einsum("is,jt,ijst->ij", w1 / over1, w2 / over2, k)

    n1, n2 = real1.sum(1, keepdims=True), real2.sum(1, keepdims=True)
    one1, one2 = np.ones_like(real1, float), np.ones_like(real2, float)
    got = expect.array(expect.call(answer, k, real1, real2), "the kernel", shape=(n, m), axes="N M")
    expect.close(
        got,
        average(real1, real2, n1, n2),
        "the kernel",
        slips={
            "the average is over the real tokens; here filled ones count in the number.": average(real1, real2, s, t),
            "the masks are not used: that is the average over all tokens.": average(one1, one2, s, t),
            "the filled tokens are in the sum; only their number is right.": average(one1, one2, n1, n2),
            "the mask of the second set is not used.": average(real1, one2, n1, t),
            "the mask of the first set is not used.": average(one1, real2, s, n2),
            "that is the sum over the real tokens, not their average.": average(real1, real2, 1, 1),
            "the masks are the wrong way around: they are true where a token is real.": lambda: average(
                ~real1, ~real2, s - n1, t - n2
            ),
            "a sum of n terms is divided by √n; an average is divided by n.": average(real1, real2, n1**0.5, n2**0.5),
            "it is divided by the number of real tokens in all sequences; each has its own.": average(
                real1, real2, n1.sum(), n2.sum()
            ),
            "the lengths enter squared: one factor 1/length for each set.": average(real1, real2, n1**2, n2**2),
            "only tokens in equal positions are paired; an average pairs each with each.": lambda: np.einsum(
                "is,js,ijss->ij",
                (real1 / n1)[:, : min(s, t)],
                (real2 / n2)[:, : min(s, t)],
                k[:, :, : min(s, t), : min(s, t)],
            ),
        },
    )
    return "That is all a mask does here; in attention it also takes filled tokens out of the softmax"


@task(
    "20.3",
    "zeros in place of a mask",
    minutes=10,
    difficulty=3,
    section="Masks",
    hints=(
        "Without biases, what does the network make of a token of zeros, and what does such a token add to a sum?",
        "Both kernels are sums over the same pairs of real tokens. They are divided by different numbers: of pairs of "
        "real tokens, and of pairs of all tokens.",
        "(sum/(8·8)) / (sum/(5·6)).",
    ),
)
def _(answer, rng):
    expect.number(
        answer,
        30 / 64,
        "the factor",
        rtol=0.01,
        slips={
            "it is the other way around: the kernel with zeros is the smaller one.": 64 / 30,
            "a zero token adds nothing to the sum, but it is counted in the average.": 1.0,
            "that is the factor of the first sequence; the kernel has one for each.": 5 / 8,
            "that is the factor of the second sequence; the kernel has one for each.": 6 / 8,
            "that is 5/8 twice; one of the two sequences has 6 real tokens.": (5 / 8) ** 2,
            "that is 6/8 twice; one of the two sequences has 5 real tokens.": (6 / 8) ** 2,
            "the kernel is a product of two averages: the factors multiply, without a root.": (30 / 64) ** 0.5,
            "each average is divided once, not twice.": (30 / 64) ** 2,
            "that is the share of the pairs that are filled; the real ones are what is left.": 34 / 64,
        },
    )
    return "For a kernel without ridge, a factor per sequence only rescales the targets: it is the bias that hurts"


@task(
    "20.4",
    "a ridge, spot the error",
    minutes=20,
    difficulty=4,
    section="A dictionary",
    hints=(
        "Try each line in the smallest case: N = 1, where Θ is a number. Then with N equal eigenvalues.",
        "What is tr(Θ) if all N diagonal entries are q, and what does a ridge of 1 e-2 add to each of them here? Look "
        "at the notation: the ridge is relative to the *mean* of the diagonal.",
        "c = tr(Θ)/N, so ridge = δ N / tr(Θ); the time η t / K is right. Return (eta * t / K, "
        "delta * len(theta) / jnp.trace(theta)).",
    ),
)
def _(answer, rng):
    import numpy as np

    line, translate = expect.parts(answer, ("wrong_line", "time_and_ridge"))
    another = "the first error is in another line:"
    expect.line(
        line,
        4,
        5,
        {
            1: f"{another} line 1 is right: the mean over N examples and K outputs divides the gradient by both.",
            2: f"{another} line 2 is right, it leaves open what c is. Look further down.",
            3: f"{another} line 3 is right: η/(NK) there and 1/N here, so that K, not N, is between the times.",
            5: f"{another} line 5 only puts together what stands above it. Look further up.",
        },
    )
    n, k, t, eta, delta = expect.one_of(rng, (5, 3, 40.0, 0.7, 0.3), (7, 6, 25.0, 1.3, 0.2))
    j = rng.normal(size=(n, n + 4)) + 0.2
    theta = j @ j.T
    trace = float(np.trace(theta))
    got_t, got_ridge = expect.parts(
        expect.call(translate, theta, k, t, eta, delta), ("t", "ridge"), order=(eta * t / k, delta * n / trace)
    )
    expect.number(
        got_t,
        eta * t / k,
        "t",
        rtol=1e-3,
        slips={
            "the learning rate is missing: there a step of η advances the time by η.": t / k,
            "K is missing: there the loss is a mean over the outputs as well.": eta * t,
            "it is the other way around: the flow there is K times slower, so that less time passes here.": eta * t * k,
            "N stands in both equations and cancels.": eta * t / (n * k),
            "that is N in the place of K.": eta * t / n,
            "a large learning rate is a long time here; it is not divided by.": t / (eta * k),
        },
    )
    expect.number(
        got_ridge,
        delta * n / trace,
        "ridge",
        rtol=1e-3,
        slips={
            "that is the flawed result, N times too small.": delta / trace,
            "δ is what is added there; the ridge here is relative.": delta,
            "it is the other way around: divide δ by the mean of the diagonal.": delta * trace / n,
            "1/N stands on the wrong side: c is tr(Θ)/N, and δ is divided by c.": delta / (trace * n),
            "K has no part in the ridge: it is added to Θ, which both have.": delta * n / (trace * k),
            "that is relative to the largest eigenvalue; it should be the mean of them.": delta
            / np.linalg.eigvalsh(theta)[-1],
        },
    )
    return "Off by exactly N, or by exactly K: a factor like that has a reason"


written(
    "20.5",
    "which library",
    rubric=(
        "the first: neural-tangents, for attention and masks (the prediction may be ours: a kernel is an array);",
        "the second: ntklib, for the angle near ρ = 1 in float32, and for the size of the kernel;",
        "the third: a mean over K = 10 outputs, so that t = 1000 there is t = 100 here, ten times less far; no bug.",
    ),
    numbers=("100",),
    asked="which t here corresponds to t = 1000 there, with 10 outputs?",
    minutes=10,
    difficulty=2,
    section="Which one, when",
    hints=(
        "For each of the three: what can only one of the two do, or what does it do more exactly?",
        "Near duplicates have ρ close to 1; look at the figure with the angle. For the third look at the first line of "
        "the dictionary.",
        "neural-tangents; ntklib (half of float32's digits are lost through the arccosine, and `gram` tiles); "
        "t = η t/K = 1000/10.",
    ),
)

written(
    "20.6",
    "an old cell",
    rubric=(
        "the names that are gone, and what stands in their place;",
        "the factor K between the two losses, in the rate or in the time, and where it does not matter;",
        "it runs, and the distance to the prediction falls with the width, about like n^-1/2.",
    ),
    minutes=40,
    difficulty=4,
    section="Its notebooks, today",
    hints=(
        "Run the imports one by one. Then write the two losses side by side, with their 1/N and 1/K.",
        "np.mean over [N, K] is a mean over examples and outputs: the old rate η is η/K with the loss of `ntk.train`.",
        "`from jax import jit, grad`; `jax.config.update`; `optax.sgd(eta / K)`; "
        "`ntk.gradient_flow(..., t=eta*steps/K)`.",
    ),
)
