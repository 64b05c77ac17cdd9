"""Checks of chapter 07, the NTK at large depth."""

import functools
import math

from course import expect
from course.tasks import task, written


def _erf(c, q):
    """E[φφ] and E[φ'φ'] of erf for the covariance c of two units of variance q, in plain numbers."""
    root = math.sqrt((1 + 2 * q) ** 2 - 4 * c**2)
    return 2 / math.pi * math.asin(2 * c / (1 + 2 * q)), 4 / math.pi / root


def _relu(c, q):
    """The same for ReLU."""
    angle = math.acos(min(c / q, 1.0))
    return q * (math.sin(angle) + (math.pi - angle) * c / q) / (2 * math.pi), (math.pi - angle) / (2 * math.pi)


@functools.cache
def _duals():
    """The duals that are handed over, one function each, so that they compile once; and what they give."""
    import jax

    from ntklib import duals

    return (jax.jit(duals.erf), _erf), (jax.jit(duals.relu), _relu)


@task(
    "07.1",
    "ntk_at_depth",
    minutes=15,
    difficulty=2,
    section="Two numbers a layer",
    hints=(
        "Keep four numbers: Σ and Θ of the pair (x, x), and Σ and Θ of the pair (x, x'). One affine "
        "layer is there before "
        "the loop starts. The slopes of a step belong to the old Σ.",
        "dual(Σ(x,x), q, q) and dual(Σ(x,x'), q, q) with q the present variance. Then Σ' = w_std² · "
        "values + b_std², and "
        "Θ' = Σ' + w_std² · slopes · Θ, with the new Σ'. Repeat depth − 1 times.",
        "same, other = q, rho * q; diagonal, off = same, other; for _ in range(depth - 1): both duals "
        "at (same, same, same) "
        "and (other, same, same); update same and other; then diagonal = same + w_std**2 * slope * "
        "diagonal, and off alike.",
    ),
)
def _(answer, rng):
    import numpy as np

    def recursion(
        dual, w, b, q, rho, depth, *, late=False, start=1.0, old=False, power=2, bias=2, one_slope="", keep_q=False,
        through=None, own=1, first=None, frozen=False, nngp=False,
    ):  # fmt: skip
        through = power if through is None else through
        same, other = q, rho * q if first is None else first
        diagonal, off = start * same, start * other
        for _ in range(depth - 1):
            at = q if frozen else same
            (v1, s1), (v2, s2) = dual(at, at), dual(other, at)
            new = [w**power * v + (b**bias if bias else 0.0) for v in (v1, v2)]
            if keep_q:
                new[0] = q
            if late:
                s1, s2 = (dual(c, new[0])[1] for c in new)
            if one_slope == "diagonal":
                s2 = s1
            if one_slope == "off":
                s1 = s2
            added = (same, other) if old else new
            diagonal = own * added[0] + w**through * s1 * diagonal
            off = own * added[1] + w**through * s2 * off
            same, other = new
        return np.array([same, other] if nngp else [diagonal, off])

    for dual, numbers in _duals():
        w, b, q, rho = rng.uniform([1.05, 0.3, 4.0, 0.2], [1.3, 0.6, 5.0, 0.7])
        depth = int(rng.integers(4, 7))
        given = float(w), float(b), float(q), float(rho)
        names = ("Θ(x, x)", "Θ(x, x')")
        want = recursion(numbers, *given, depth)
        with expect.without("ntk_depth_profile"):
            pair = expect.call(answer, dual, *given, depth)
        got = expect.parts(pair, names, order=tuple(want))
        got = np.array([expect.array(v, name, shape=()) for v, name in zip(got, names, strict=True)])

        run = functools.partial(recursion, numbers, *given)

        def slip(change=0, run=run, depth=depth, **options):
            return run(depth=depth + change, **options)

        expect.close(
            got,
            want,
            "the pair (Θ(x, x), Θ(x, x'))",
            rtol=2e-4,
            slips={
                "it has one layer too many. `depth` counts affine layers, and the first is there before the loop: "
                "depth − 1 steps.": slip(1),
                "it has one layer too few: depth affine layers are depth − 1 steps.": slip(-1),
                "Θ starts at zero; a linear model (one affine layer) already has Θ = Σ.": slip(start=0.0),
                "σ_w stands there once; the expectations are multiplied by σ_w².": slip(power=1),
                "σ_w² is missing in front of the slopes: they act through the new weights.": slip(through=0),
                "the new layer's own Σ is not added: Θ' = Σ' + ….": slip(own=0),
                "σ_b is not squared.": slip(bias=1),
                "the bias is missing.": slip(bias=0),
                "the slopes are taken at the new Σ; u and v of a step are the units before it.": slip(late=True),
                "the old Σ is added; the new layer's own parameters contribute the new Σ.": slip(old=True),
                "the slope of (x, x) is used for (x, x') as well; it depends on the correlation.": slip(
                    one_slope="diagonal"
                ),
                "the slope of (x, x') is used for (x, x) as well.": slip(one_slope="off"),
                "the variance was held at q; here q is no fixed point, so it changes with the layer.": slip(
                    keep_q=True
                ),
                "the duals get the q of the start in every layer; it changes with the layer.": slip(frozen=True),
                "rho is a correlation; the covariance of the first layer is ρq.": slip(first=given[3]),
                "that is Σ of the last layer; Θ is wanted.": slip(nngp=True),
                "the second is the ratio Θ(x, x')/Θ(x, x); Θ(x, x') itself is wanted.": want / [1.0, want[0]],
            },
        )
        first = expect.parts(expect.call(answer, dual, *given, 1), names)
        first = np.array([expect.array(v, name, shape=()) for v, name in zip(first, names, strict=True)])
        expect.that(
            np.allclose(first, [q, rho * q], rtol=1e-4), "at depth 1 it is a linear model: Θ should be Σ, (q, ρq)."
        )


@task(
    "07.2",
    "at_new_input",
    minutes=15,
    difficulty=3,
    section="Invertible, and silent",
    hints=(
        "No Sherman–Morrison is needed if you look at what stands left of y: the row 1ᵀ times the "
        "inverse. What does the "
        "matrix do to the vector 1?",
        "(K + ridge k_0) 1 = k_0 (1 − λ + ridge + λN) 1. So 1ᵀ (K + ridge k_0)⁻¹ = 1ᵀ / (k_0 (1 − λ + ridge + "
        "λN)), and k_0 cancels.",
        "ratio * y.sum(axis=0) / (1 - ratio + ridge + ratio * N) with N = y.shape[0].",
    ),
)
def _(answer, rng):
    import numpy as np

    N, K = expect.one_of(rng, (7, 3), (6, 5))
    y = rng.normal(size=(N, K)) + 0.7
    for ridge in (0.0, 0.3):
        lam = float(rng.uniform(0.2, 0.5))
        got = expect.call(answer, y, lam, ridge)
        expect.that(np.shape(got) != (N,), "that is one number for each example; sum over the examples, axis 0: [K].")
        got = expect.array(got, shape=(K,), axes="K")
        total = y.sum(0)
        want = lam * total / (1 - lam + ridge + lam * N)
        slips = {
            "it is the mean label; the shrinkage by the diagonal is missing.": total / N,
            "λN/(1 + λN): the matrix without its ones on the diagonal is (1 − λ)I, not I.": lam
            * total
            / (1 + ridge + lam * N),
            "the sum of the targets stands where the mean should, or N is counted twice.": lam
            * N
            * total
            / (1 - lam + ridge + lam * N),
            "an N is missing in the eigenvalue: 1 1ᵀ has the eigenvalue N on 1.": lam * total / (1 - lam + ridge + lam),
            "the mean of the targets stands where their sum should: 1ᵀy is a sum.": lam
            * total
            / N
            / (1 - lam + ridge + lam * N),
            "the similarity to a new input is λ, not 1.": total / (1 - lam + ridge + lam * N),
            "the eigenvalue on 1 is 1 − λ + λN: on differences it is 1 − λ.": lam * total / (1 - lam + ridge),
            "the 3 of N + 3 belongs to λ = ¼; take `ratio`.": total / (N + 3 + ridge),
            "the 2 of N + 2 belongs to λ = ⅓; take `ratio`.": total / (N + 2 + ridge),
            "all outputs were averaged into one; each has a mean label of its own.": np.full(K, want.mean()),
        }
        if ridge:
            slips |= {
                "the ridge does not enter.": lam * total / (1 - lam + lam * N),
                "the ridge is multiplied by N; it is added to each diagonal entry once.": lam
                * total
                / (1 - lam + ridge * N + lam * N),
                "the ridge is subtracted.": lam * total / (1 - lam - ridge + lam * N),
                "the ridge is multiplied by λ; it is added to the diagonal, which is 1 in units of k_0.": lam
                * total
                / (1 - lam + lam * ridge + lam * N),
            }
        expect.close(got, want, "the prediction", rtol=1e-4, slips=slips, factors={"N": N, "λ": lam})
    many = rng.normal(size=(900, K)) + 0.7
    far = expect.array(expect.call(answer, many, 0.25, 0.1), shape=(K,), axes="K")
    expect.close(far, 0.25 * many.sum(0) / (0.85 + 225), "the prediction from 900 examples", rtol=1e-3)
    expect.that(
        expect.largest(lambda y: answer(y, 0.25, 0.1), many) < 900 * 900 / 2,
        "the numbers are right, but a matrix of size N × N is formed on the way; the closed form has none.",
    )
    return "The same for every new input: Nȳ/(N + 3) at λ = 1/4"


@expect.kept
def _depths():
    """The depths of an erf network at which kernel and correlation are within a part of their limits."""
    import jax
    import numpy as np

    import ntklib as ntk

    depths = np.arange(1, 120)
    with jax.enable_x64(True):
        profile = ntk.ntk_depth_profile(ntk.Erf(), 1.0, 0.05**0.5, depths, rho=0.1)
        ratio, apart = np.asarray(profile.ratio), np.asarray(profile.one_minus_c)
    return [int(depths[np.argmax(found)]) for found in (ratio > 0.99, apart < 0.01, ratio > 0.9)]


@task(
    "07.3",
    "constant to one per cent",
    minutes=10,
    difficulty=2,
    section="Off the line: constant, or exploding",
    hints=(
        "erf is smooth: drive and error decay alike, which brings a factor in front of the exponential. Which?",
        "Predict with L χ_1^L = 0.01 (the larger solution). Measure with the profile at depths 1, 2, 3, "
        "…, and find the "
        "first with 1 − ratio < 0.01; the entries of `depths` count affine layers.",
        "profile = ntk.ntk_depth_profile(ntk.Erf(), 1.0, 0.05**0.5, np.arange(1, 200), rho=0.1); then "
        "int(depths[np.argmax(np.asarray(profile.ratio) > 0.99)]).",
    ),
)
def _(answer, rng):
    guess, measured = expect.parts(answer, ("predicted_depth", "measured_depth"))
    want, at_correlation, at_ten = _depths()
    numbers = [expect.finite(value, "each of the two") for value in (guess, measured)]
    swapped = abs(numbers[0] - want) < 0.5 and want / 2 <= numbers[1] <= want * 2 and abs(numbers[1] - want) > 1.5
    expect.that(
        not swapped,
        "the second number is not the measured depth, and the first one is: the order is prediction, then measurement.",
    )
    expect.number(
        measured,
        want,
        "the measured depth",
        rtol=0.004,
        slips={
            "it counts hidden layers, or starts at 0: `depths` are affine layers.": want - 1,
            "it is one too deep: is 1 added to a depth that already counts affine layers, or is Θ(x, x') compared with "
            "its limit in place of Θ(x, x)?": want + 1,
            "this is where the correlation is 0.99; the kernel needs longer.": at_correlation,
            "ten per cent instead of one?": at_ten,
        },
    )
    guess = expect.finite(guess, "the prediction")
    expect.that(
        abs(guess - 7.04) > 0.5,
        "the prediction is the depth scale ξ itself, where things have fallen by e; one per cent is several of them.",
    )
    expect.that(guess >= want / 2, "the prediction is less than half of what is measured: take the law L χ_1^L.")
    expect.that(guess <= want * 2, "the prediction is more than twice what is measured: take the law L χ_1^L.")
    return "The factor L in L χ_1^L costs some fifteen layers"


@task(
    "07.4",
    "rate_fit",
    minutes=15,
    difficulty=3,
    section="On the line: an effective depth",
    hints=(
        "Look at what the code prints: C/L does not describe the distance over a range of depths. Which "
        "line promised that?",
        "The slope of the map is 1 − 3/(l + (3/2) log l + …): the expansion has logarithms. With y = "
        "(ratio − limit) · L "
        "the model is a straight line, y = κ log L + C.",
        "kappa, C = jnp.polyfit(jnp.log(depths), (ratio - limit) * depths, 1).",
    ),
)
def _(answer, rng):
    import numpy as np

    line, fit = expect.parts(answer, ("wrong_line", "rate_fit"))
    early = "is right: to leading order the logarithm plays no role. Look further down."
    expect.line(
        line,
        4,
        5,
        {i: f"line {i} {early}" for i in (1, 2, 3)}
        | {5: "line 5 does follow from the one before it: the first error is further up."},
    )
    count = expect.one_of(rng, 7, 9)
    # Of one sign: else what a depth counted one lower does to log L and to the factor L may cancel.
    kappa, constant, limit = rng.uniform([0.7, 1.8, 0.2], [1.3, 2.6, 0.4])
    depths = np.round(np.geomspace(20, 700, count))
    L, log = depths, np.log(depths)
    # Not on a line: only least squares over all depths gives these two numbers.
    # Lines through two of the points, and means of such lines, are far from it with these signs.
    signs = {7: (-1, 1, 1, 0.6, -0.6, 1, -0.6), 9: (0.6, -1, 0.6, 1, -0.6, 1, -0.6, 1, -1)}[count]
    off = 0.13 * np.array(signs) * rng.uniform(0.8, 1.2, size=count)
    ratio = limit + (kappa * log + constant + off) / L
    got = expect.parts(expect.call(fit, depths, ratio, float(limit)), ("κ", "C"))
    got = np.array([expect.array(v, name, shape=()) for v, name in zip(got, ("κ", "C"), strict=True)])

    def least_squares(distance, log=log, factor=L, order=(0, 1)):
        """By least squares in distance · L, or in the distance itself: the text leaves it open. The nearer one."""
        both = np.stack([log, 1 + 0 * L], 1)
        fits = [np.linalg.lstsq(both, distance * factor)[0], np.linalg.lstsq(both / factor[:, None], distance)[0]]
        return min((fit[list(order)] for fit in fits), key=lambda pair: np.abs(got - pair).max())

    distance = ratio - limit
    scaled = distance * L
    through = float((scaled * log).sum() / (log**2).sum())
    alone = [float(term @ distance / (term @ term)) for term in (log / L, 1 / L)]
    ends = np.polyfit(log[[0, -1]], scaled[[0, -1]], 1)
    expect.close(
        got,
        least_squares(distance),
        "the pair (κ, C)",
        rtol=5e-3,
        slips={
            "the two are swapped: κ comes first.": least_squares(distance, order=(1, 0)),
            "the logarithm is to the base 10; the natural one is meant.": least_squares(distance, np.log10(L)),
            "the logarithm is to the base 2; the natural one is meant.": least_squares(distance, np.log2(L)),
            "the distance is not multiplied by L: it is κ log L + C over L.": np.polyfit(log, distance, 1),
            "the first term is κ log L/L; here its L is missing.": np.linalg.lstsq(np.stack([log, 1 / L], 1), distance)[
                0
            ],
            "the limit is not subtracted.": least_squares(ratio),
            "the distance is ratio − limit, not limit − ratio.": least_squares(-distance),
            "each term was fitted alone; the fit is of both together.": np.array(alone),
            "the straight line goes through the origin: C/L is missing beside κ log L/L.": np.array([through, 0.0]),
            "κ comes from a line through the origin, which has no C.": np.array(
                [through, (scaled - through * log).mean()]
            ),
            "this is a power law, a slope on log–log axes; the law is κ log L/L + C/L.": np.polyfit(
                log, np.log(np.abs(distance)), 1
            ),
            "two of the depths decide alone; the fit is by least squares over all of them.": ends,
            "the first two depths decide alone; the fit is by least squares over all of them.": np.polyfit(
                log[:2], scaled[:2], 1
            ),
            "the depths are counted one lower: L counts affine layers as given.": least_squares(
                distance, np.log(L - 1), L - 1
            ),
            "the term in log L is missing: only C was fitted.": np.array([0.0, scaled.mean()]),
        },
    )
    return "Over two decades log L/L looks like a power of about -0.9"


written(
    "07.5",
    "invertible and uninformative",
    rubric=(
        "to fit takes an invertible K, which the identity alone provides; to predict takes Θ(x, x_i);",
        "in the limit these are all k_0 λ: every new input gets Nȳ/(N + 3);",
        "at finite depth they differ by about l_0/L: a vote whose order counts, until noise is larger than 1/L.",
    ),
    minutes=10,
    difficulty=2,
    section="Invertible, and silent",
    hints=(
        "Which entries of the kernel decide whether it is invertible, and which are used at a new input?",
        "Split K into its identity part and its part 1 1ᵀ. The first is only there for an input with "
        "itself. For the second "
        "question: how large are the differences between off-diagonal entries, and does argmax care about size?",
        "K = k_0[(1−λ)I + λ11ᵀ]: fit by (1−λ)I, prediction by λ alone, Nȳ/(N+3). Differences between "
        "entries are l_0/L: a vote "
        "of size 1/L, whose order survives until noise of that size.",
    ),
)

written(
    "07.6",
    "a kink of your choice",
    rubric=(
        "predicted: the limit ¼ and κ = 3/8 for every kink, the spread times 1/b;",
        "measured for two α at least, beside the prediction;",
        "what is lost as α → 1: a nearly linear network, an effective depth b L.",
    ),
    minutes=30,
    difficulty=4,
    section="Where tanh and ReLU do differ",
    hints=(
        "Do the derivation for ReLU again, with 1/θ, and carry the factor b along. Where does it cancel?",
        "θ_l ≈ 3π/(b l), and χ = 1 − bθ/π. So a is the same. The head start is l_0 = 3π/(b θ_1).",
        "Limit 1/4, κ = 3/8, spread · L multiplied by 1/b. The effective depth is b L: as α → 1 the "
        "network becomes linear.",
    ),
)
