"""Checks of chapter 18, how the kernel moves."""

from course import expect
from course.tasks import task, written


@task(
    "18.1",
    "rescaling",
    minutes=15,
    difficulty=1,
    section="Scale and shape",
    hints=(
        "The nearest multiple is a projection: what is left must be orthogonal to Θ_0, with all entries as one vector.",
        "c = ⟨Θ_t, Θ_0⟩/⟨Θ_0, Θ_0⟩. The change from Θ_0 to c Θ_0 is (c − 1) Θ_0; divide its squared norm by that of "
        "the whole motion.",
        "c = jnp.sum(theta*theta0)/jnp.sum(theta0**2); return c, (c - 1)**2*jnp.sum(theta0**2)/jnp.sum((theta - "
        "theta0)**2).",
    ),
)
def _(answer, rng):
    import numpy as np

    def trace(kernel):
        return np.einsum("ii->" if kernel.ndim == 2 else "iikk->", kernel)

    n, k = expect.one_of(rng, (5, 3), (7, 3))
    for shape, factor in (((n, n), 1.7), ((n, n, k, k), 0.6)):
        j = rng.normal(size=(n, 11))
        theta0 = j @ j.T if len(shape) == 2 else rng.normal(size=shape)
        theta = factor * theta0 + 0.6 * rng.normal(size=shape)
        product, square, both = (theta * theta0).sum(), (theta0**2).sum(), (theta**2).sum()
        c, s, cosine = product / square, np.sqrt(both / square), product / np.sqrt(square * both)
        moved = ((theta - theta0) ** 2).sum()
        share = (c - 1) ** 2 * square / moved
        got = expect.parts(expect.call(answer, theta0, theta), ("c", "the share"), order=(c, share))
        expect.number(
            got[0],
            c,
            "c",
            rtol=3e-4,
            slips={
                "that is the ratio of the norms. The nearest multiple is shorter if the direction has changed.": s,
                "that is the ratio of the traces; the nearest multiple is found from all entries.": trace(theta)
                / trace(theta0),
                "that is the cosine: divide by ⟨Θ_0, Θ_0⟩ alone.": cosine,
                "that is the multiple of Θ_t that is nearest to Θ_0.": product / both,
            },
        )
        expect.number(
            got[1],
            share,
            "the share",
            rtol=3e-4,
            slips={
                "that is the share of the rest; the change to c Θ_0 has 1 minus it.": 1 - share,
                "shares are those of squared norms.": np.sqrt(share),
                "that is the split of the chapter, with the ratio of the norms in the place of c.": (s - 1) ** 2
                * square
                / moved,
                "that is the squared cosine, the share of ‖Θ_t‖²; asked for is that of the motion.": cosine**2,
                "the change is from Θ_0 to c Θ_0, not from zero.": c**2 * square / moved,
                "divide by the squared motion ‖Θ_t − Θ_0‖², not by ‖Θ_t‖².": (c - 1) ** 2 * square / both,
                "divide by the squared motion ‖Θ_t − Θ_0‖², not by ‖Θ_0‖².": (c - 1) ** 2,
            },
        )
    return "c is s (1 − S): where the direction has changed, it is less than the ratio of the norms"


written(
    "18.2",
    "no hill",
    rubric=(
        "the barrier is 0.03, half of the difference of the ends, although nothing on the line is above the worse end;",
        "in addition the error above the chord (or above the larger of the two ends), here zero;",
        "at a constant large rate the ends differ by chance, and half of that stays in the barrier.",
    ),
    numbers=(
        "0.03",
        "0.030",
        ".03",
        "3 %",
        "3%",
        r"3\,\%",
        r"3\%",
        r"3 \%",
        "3 percent",
        "3 percentage points",
        "three percent",
        "3/100",
    ),
    asked="how large is the barrier?",
    minutes=10,
    difficulty=2,
    section="Children and their barrier",
    hints=(
        "The definition subtracts the mean of the two errors. Which point of the line has the largest error?",
        "max − mean = 0.21 − 0.18. What would be zero for this line, and positive for a hill?",
        "The largest error minus the chord. And with a constant rate, are two children ever equally good?",
    ),
)


@task(
    "18.3",
    "spot the error",
    minutes=15,
    difficulty=3,
    section="Scale and shape",
    hints=(
        "Which statement about S can you check on paper, with Θ_t = Θ_0 + t Θ' and a small t?",
        "S is quadratic in the motion. Bring each distance to the common lag first, by its own power law, and only "
        "then divide by the common lag.",
        "distances * (lag/lags)**exponents/lag.",
    ),
)
def _(answer, rng):
    import numpy as np

    number, function = expect.parts(answer, ("wrong_line", "velocities"))
    expect.line(
        number,
        3,
        5,
        {
            1: "line 1 is right: S(Θ, cΘ) = 0 for every c > 0.",
            2: "line 2 is a measurement, and nothing is wrong with it.",
            4: "line 4 follows from line 3. The error is further up.",
            5: "line 5 follows from the lines before it. The error is further up.",
        },
    )
    first, h = expect.one_of(rng, (0.11, 1.3), (0.13, 1.1))
    distances = np.array([0.004, 0.06]) * rng.uniform(0.8, 1.2, size=2)
    lags, exponents, lag = np.array([first, 1.9]), np.array([2.0, h]), 0.37
    want = distances * (lag / lags) ** exponents / lag
    got = expect.call(function, distances, lags, exponents, lag)
    got = expect.array(got, "the velocities", shape=(2,))
    expect.close(
        got,
        want,
        "the pair of velocities",
        rtol=2e-3,
        slips={
            "the flaw of line 3 is still in it: S/Δ depends on Δ.": distances / lags,
            "these are the distances at the common lag: divide by it.": want * lag,
            "divide by the common lag, since the distances have been brought to it.": want * lag / lags,
            "the ratio of the lags is upside down: a longer lag has a larger distance.": distances
            * (lags / lag) ** exponents
            / lag,
            "each distance has its own exponent; you took 2 for both.": distances * (lag / lags) ** 2 / lag,
            "each distance has its own exponent; you took the late one for both.": distances * (lag / lags) ** h / lag,
            "the distance grows like lag^h, not like lag^(h/2).": distances * (lag / lags) ** (exponents / 2) / lag,
            "the early one comes first.": want[::-1],
        },
    )
    return "With the numbers of the text and h = 2 and 1: 0.16 and 0.03 at the lag of 0.4 epochs, a factor of five"


@task(
    "18.4",
    "a lazy network",
    minutes=20,
    difficulty=3,
    section="Scale and shape",
    hints=(
        "How far do the parameters travel, as a power of α? The kernel is a smooth function of the parameters.",
        "The relative change of the kernel goes like the distance travelled, 1/α. Is S linear in it? Is s?",
        "s − 1 is linear in a small motion, S is quadratic.",
    ),
)
def _(answer, rng):
    p, q = expect.parts(answer, ("the exponent of S", "the exponent of |s − 1|"), order=(-2.0, -1.0))
    expect.number(
        p,
        -2.0,
        "the exponent of S",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "S is one minus a cosine, so it is quadratic in the motion.": -1.0,
            "the parameters travel 1/α as far, not 1/α² as far.": -4.0,
            "it falls as α grows: the network becomes lazy.": 2.0,
            "S compares directions: the factor α² of the kernel does not count.": 0.0,
        },
    )
    expect.number(
        q,
        -1.0,
        "the exponent of |s − 1|",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "a norm changes linearly with a small motion. Only S is quadratic.": -2.0,
            "it falls as α grows: the network becomes lazy.": 1.0,
            "s compares the scaled kernel with its own start, and both have the factor α².": 2.0,
        },
    )
    return "(s − 1)² and S then fall alike, so the share of scale stays: it is cos² of the derivative and the kernel"


@task(
    "18.5",
    "barrier_on_a_quadratic",
    minutes=30,
    difficulty=4,
    section="Children and their barrier",
    hints=(
        "On the line the loss is a parabola in a. Where can a parabola on [0, 1] have its maximum?",
        "R(a) = R(w1) + a (w1 − m)ᵀHd + a² dᵀHd/2 with d = w2 − w1. If dᵀHd < 0 the top is at a = −(w1 − m)ᵀHd/dᵀHd, "
        "if that is inside; otherwise it is at one of the ends.",
        "top = max(R(0), R(1)), and if bend < 0 and 0 < -slope/bend < 1, max(top, R(-slope/bend)); return top - (R(0) "
        "+ R(1))/2.",
    ),
)
def _(answer, rng):
    import numpy as np

    (size,) = expect.one_of(rng, (5,), (7,))
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    m = rng.normal(size=size)
    d, e = basis[:, 0], basis[:, 1]
    positive = basis @ np.diag(np.linspace(1.0, 3.0, size)) @ basis.T
    saddle = basis @ np.diag(np.r_[-2.0, np.linspace(1.0, 3.0, size - 1)]) @ basis.T
    cases = (
        ("a saddle, with the top inside", saddle, m - d + 0.3 * e, m + 1.4 * d + 0.5 * e),
        ("a positive semidefinite H", positive, m + 0.5 * d, m - 0.4 * e + 0.9 * d),
        ("a saddle, with the top at an end", saddle, m + 0.4 * d + 0.2 * e, m + 1.5 * d + 0.3 * e),
    )
    grid = np.linspace(0.0, 1.0, 11)
    for name, H, w1, w2 in cases:

        def risk(a, H=H, w1=w1, w2=w2):
            w = w1 + a * (w2 - w1) - m
            return 0.5 * w @ H @ w

        ends = np.array([risk(0.0), risk(1.0)])
        slope, bend = (w1 - m) @ H @ (w2 - w1), (w2 - w1) @ H @ (w2 - w1)
        place = -slope / bend
        inside = bend < 0 and 0 < place < 1
        top = max(ends.max(), risk(place)) if inside else ends.max()
        want = top - ends.mean()
        slips = {
            "that is the largest loss above the larger end; the mean of the ends is subtracted.": top - ends.max(),
            "that is the largest loss itself: subtract the mean of the ends.": top,
            "the ½ of the loss is missing.": 2 * want,
            "that is the loss at the middle: the top may be elsewhere.": risk(0.5) - ends.mean(),
            "that is the lower end; where the parabola opens upward the top is at the higher one.": (
                ends.min() - ends.mean()
            ),
            "the mean of the ends, not their sum.": top - ends.sum(),
        }
        if inside:
            slips["the top of the parabola lies inside the line, above both ends."] = ends.max() - ends.mean()
            slips["that is the maximum over a grid of 11 points: the top lies between two of them."] = (
                max(risk(a) for a in grid) - ends.mean()
            )
        else:
            slips["that point is no maximum on the line: the parabola opens upward, or its top is outside of it."] = (
                risk(place) - ends.mean()
            )
        got = expect.call(answer, H, m, w1, w2)
        expect.number(got, want, f"the barrier ({name})", rtol=5e-4, slips=slips)
    return "Where H is positive semidefinite there is no hill: the barrier is half of the difference of the ends"


@task(
    "18.6",
    "two clocks",
    minutes=20,
    difficulty=4,
    section="Does the advantage go with them?",
    hints=(
        "Let both arrays fall with the onset, by much. What remains free is the order of the networks at one onset.",
        "Among the networks of one onset let `a` rise where `b` falls, by little: then the ranks of different onsets "
        "do not mix.",
        "time = np.arange(4.0)[:, None]; net = np.arange(6.0); a = -10*time + net; b = -10*time - net.",
    ),
)
def _(answer, rng):
    import numpy as np
    from scipy.stats import rankdata

    def correlation(u, v):
        u, v = (rankdata(w) - (len(w) + 1) / 2 for w in (u, v))
        return (u @ v) / np.sqrt((u @ u) * (v @ v))

    got = expect.parts(answer, ("a", "b"))
    a, b = (
        expect.array(part, name, shape=(4, 6), axes="onsets networks") for part, name in zip(got, "ab", strict=True)
    )
    a, b = (np.asarray(part, np.float64) for part in (a, b))
    for part, name in ((a, "a"), (b, "b")):
        distinct = all(len(set(row)) == 6 for row in part.tolist())
        expect.that(distinct, f"at each onset the six values of `{name}` should differ: equal ones have no order.")
    at_onsets = np.array([correlation(*rows) for rows in zip(a, b, strict=True)])
    overall = correlation(a.ravel(), b.ravel())
    expect.that(
        not (at_onsets > 0.999).all(),
        "at each onset the correlation is +1: the networks should stand in opposite orders in `a` and `b`.",
    )
    expect.that((at_onsets < -0.999).all(), "at some onset the rank correlation of the six networks is not −1.")
    expect.that(overall > -0.5, "over all values the correlation is negative: both should change with the onset alike.")
    expect.that(
        overall > 0.8,
        "over all values the correlation is not above 0.8: let the onset matter more than the network.",
    )
    return "At every onset a network with a larger `a` has a smaller `b`, and all networks together say the opposite"


written(
    "18.7",
    "labels without a meaning",
    rubric=(
        "a prediction, and how norm, heat map and eigenvectors differ between the two films;",
        "one change that was made, and what it says about labels, images or rate;",
        "what one network, one order of batches and four images a class cannot say.",
    ),
    minutes=45,
    difficulty=4,
    section="What the kernel learns",
    hints=(
        "In the first steps the network learns how often each class occurs. Do shuffled labels know that?",
        "Compare the norms at each time, and the blocks on the diagonal of the heat map with the rest.",
        "film_of(labels, activation=ntk.Gelu(), rate=0.03), and labels of which half are shuffled: "
        "np.where(rng.random(512) < 0.5, shuffled, digits.y_train).",
    ),
)
