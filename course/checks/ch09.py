"""Checks of chapter 09, finite against infinite networks."""

from course import expect
from course.tasks import task, written

SECTION = "What a kernel says about one network"


@task(
    "09.1",
    "agreement",
    minutes=15,
    difficulty=2,
    section=SECTION,
    hints=(
        "One image first: what is the probability that one network answers +1? The two networks are independent.",
        "p = Φ(m/√v). They agree if both say +1 or both say −1; then take the mean over the images.",
        "p = jax.scipy.stats.norm.cdf(mean/jnp.sqrt(variance)); return jnp.mean(p**2 + (1 - p)**2).",
    ),
)
def _(answer, rng):
    import numpy as np
    from scipy.special import ndtr

    (m,) = expect.one_of(rng, (7,), (9,))
    mean = np.linspace(-1.2, 0.5, m) + rng.uniform(-0.02, 0.02, size=m)  # near enough that no two slips agree
    variance = np.linspace(0.3, 0.8, m) + rng.uniform(-0.02, 0.02, size=m)
    p = ndtr(mean / np.sqrt(variance))
    want = (p**2 + (1 - p) ** 2).mean()
    expect.number(
        expect.call(answer, mean, variance),
        want,
        "the share",
        rtol=1e-3,
        slips={
            "that is the share of +1 of one network.": p.mean(),
            "they also agree where both say −1.": (p**2).mean(),
            "that is the share at which they differ.": 1 - want,
            "divide the mean by the standard deviation, the root of the variance.": lambda: (
                lambda q: (q**2 + (1 - q) ** 2).mean()
            )(ndtr(mean / variance)),
            "average over the images at the end: each image has its own probability.": p.mean() ** 2
            + (1 - p.mean()) ** 2,
            "that is how often one network agrees with the mean of all of them.": np.maximum(p, 1 - p).mean(),
            "2v is the variance of a difference of outputs; here each network answers by itself.": lambda: (
                lambda q: (q**2 + (1 - q) ** 2).mean()
            )(ndtr(mean / np.sqrt(2 * variance))),
        },
    )
    return "Where the kernel's answer is unsure, networks disagree: variance is seen without any labels"


@task(
    "09.2",
    "luck",
    minutes=20,
    difficulty=3,
    section="Accuracy that falls with the width",
    hints=(
        "The last width has the common mean, so only the maximum of k Gaussian errors counts.",
        "The maximum of k independent standard normals has the distribution function Φ(z)^k. Its mean is an integral.",
        "z = jnp.linspace(-8, 8, 4001); F = norm.cdf(z)**k; u times the sum of the middles of z times jnp.diff(F).",
    ),
)
def _(answer, rng):
    import numpy as np
    from scipy.special import ndtr, ndtri

    small, large = expect.one_of(rng, (3, 12), (5, 16))
    z = np.linspace(-9, 9, 20_001)

    def of(k):
        return ((z[1:] + z[:-1]) / 2 * np.diff(ndtr(z) ** k)).sum()

    for k in (small, large, 1):
        u = rng.uniform(2.5, 2.9)
        slips = (
            {
                "that is the maximum of k + 1 values: the last width is not among the candidates.": u * of(k + 1),
                "that is for k − 1 values: all of the first k widths are candidates.": u * of(k - 1),
                "√(2 log k) holds for very large k only.": u * np.sqrt(2 * np.log(k)),
                "that is a quantile of a single Gaussian; wanted is the mean of the largest of k.": u
                * ndtri(k / (k + 1)),
                "the last width's noise has mean zero: it does not enlarge the mean of the difference.": u
                * of(k)
                * 2**0.5,
                "it is in units of u: multiply by the standard error.": of(k),
                "the standard error u is already that of a measured mean: do not divide it by √k.": u * of(k) / k**0.5,
                "the best of k widths is on average above all their common mean.": 0.0,
            }
            if k > 1
            else {}
        )
        if k == small:  # for many the median is near the mean of one less
            slips["that is the median of the largest; its mean is a little larger."] = u * ndtri(0.5 ** (1 / k))
        got = expect.call(answer, k, u)
        # One width alone has the mean 0: the margin is one of the noise then, for those who simulate.
        want, rtol = (u * of(k), 0.01) if k > 1 else (0.0, 0.03)
        expect.number(got, want, "the mean", rtol=rtol, slips=slips)
    return "With 7 widths and u = 0.01 it is 0.014. So choose the width on other data"


@task(
    "09.3",
    "what the error costs, spot the error",
    minutes=25,
    difficulty=4,
    section=SECTION,
    hints=(
        "Which matrix is the best linear guess of f₀(x) from f₀(X), if f₀ has the covariance Σ? Is it P?",
        "It is S = Σ(x, X) Σ⁻¹. f₀(x) − P f₀(X) is the error of the best guess and a rest. Are they correlated?",
        "p, s = solve(theta, theta_test.T).T, solve(sigma, sigma_test.T).T; r = p - s; (r @ sigma * r).sum(1).",
    ),
)
def _(answer, rng):
    import numpy as np

    number, function = expect.parts(answer, ("wrong_line", "missing_variance"))
    expect.line(
        number,
        4,
        5,
        {
            1: "line 1 is right: gradient flow in a fixed kernel, at the end of training.",
            2: "line 2 is right: f₀ has mean zero everywhere.",
            3: "line 3 is right: y cancels in the difference from the mean.",
            5: "line 5 follows from line 4. The error is further up.",
        },
    )
    n, m, d = expect.one_of(rng, (5, 3, 9), (7, 5, 12))
    j = rng.normal(size=(n + m, d))
    both = rng.normal(size=(n + m, d))
    sigma_all, theta_all = both @ both.T, both @ both.T + 1.5 * j @ j.T
    sigma, sigma_test, theta, theta_test = sigma_all[:n, :n], sigma_all[n:, :n], theta_all[:n, :n], theta_all[n:, :n]
    p, s = np.linalg.solve(theta, theta_test.T).T, np.linalg.solve(sigma, sigma_test.T).T

    def form(a, middle, b):
        return np.einsum("ti,ij,tj->t", a, middle, b)

    want = form(p - s, sigma, p - s)
    got = expect.array(
        expect.call(function, theta, theta_test, sigma, sigma_test), "the variance", shape=(m,), axes="M"
    )
    expect.close(
        got,
        want,
        "the array of variances",
        rtol=2e-3,
        slips={
            "its sign is wrong: the guess P is worse than the best one, so variance is missing in line 5.": -want,
            "the middle is the covariance of f₀(X), Σ and not Θ.": form(p - s, theta, p - s),
            "there is no kernel in the middle: f₀(X) is correlated between images.": ((p - s) ** 2).sum(1),
            "the guesses enter by their difference: a square of it is wanted, not the difference of two squares.": form(
                p, sigma, p
            )
            - form(s, sigma, s),
            "that is P Σ Pᵀ; the best guess S is missing.": form(p, sigma, p),
            "that is what the best guess explains, S Σ Sᵀ.": form(s, sigma, s),
            "a difference of guesses stands on one side only: a variance is a square.": form(p - s, sigma, p),
        },
    )
    return "Zero exactly where Θ and Σ lead to the same guess, as when the last layer alone is trained"


@task(
    "09.4",
    "half the outputs",
    minutes=15,
    difficulty=3,
    section=SECTION,
    hints=(
        "Which kernels does f/2 have, at the start and in training? And which P?",
        "Θ and Σ are a quarter of what they were. P = Θ(x, X) Θ⁻¹ does not notice, f₀ does.",
        "The mean P y is the same; f₀(x) − P f₀(X) is halved, and a variance is a square.",
    ),
)
def _(answer, rng):
    got = expect.parts(answer, ("the factor of E", "the factor of V"))
    expect.number(
        got[0],
        1.0,
        "the factor of E",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "the targets stay, and training goes on until they are met: outputs are not halved at the end.": 0.25,
            "the mean P y has no f₀ in it, and P does not change.": 0.5,
            "P = Θ(x, X) Θ⁻¹: a factor of Θ cancels.": 4.0,
        },
    )
    expect.number(
        got[1],
        0.25,
        "the factor of V",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "f₀ is halved, and a variance is a square.": 0.5,
            "the start is halved: what is left of it must shrink.": 1.0,
            "it shrinks: the start is smaller.": 4.0,
        },
    )
    return "Smaller outputs at the start leave less variance, and centering leaves none of it"


written(
    "09.5",
    "how many are as good",
    rubric=(
        "the kernel's part of the error stays, the variance of the mean of m is V/m;",
        "0.68/m ≤ 0.025, and so 28 networks;",
        "a zero or a small output at the start does it with one network.",
    ),
    numbers=("28", "28.0", "twenty-eight", "twenty eight"),
    asked="how many networks, at least?",
    minutes=10,
    difficulty=2,
    section=SECTION,
    hints=(
        "Split the error of one network in two parts. Which of them is the same in each network?",
        "0.93 = 0.25 + 0.68; the second part is a variance over independent starts.",
        "0.68/m ≤ 0.1 · 0.25. Round up.",
    ),
)

written(
    "09.6",
    "what falls, and why",
    rubric=(
        "a prediction for both curves before the measurement;",
        "both curves over at least four widths and three subsets, with standard errors;",
        "the best width chosen on other subsets than those that score it.",
    ),
    minutes=60,
    difficulty=4,
    section="Accuracy that falls with the width",
    hints=(
        "What does the kernel predict for the wide end of either curve?",
        "With the start: the accuracy of one network. Without: that of the kernel itself.",
        "ntk.ensemble with build = lambda rngs: ntk.center(ntk.mlp(...)), once a width; see `between` in the chapter.",
    ),
)
