"""Checks of chapter 12, ridge and early stopping."""

from course import expect
from course.tasks import task, written


@task(
    "12.1",
    "widest_gap",
    minutes=20,
    difficulty=2,
    section="Two filters",
    hints=(
        "For τ < 1 the gap has two lobes: first the ridge is ahead, later the flow. Either may be the larger one, so "
        "look at all u at once.",
        "flow − ridge = (1 − e^(−τu)) − u/(1 + u) = 1/(1 + u) − e^(−τu). The place where its absolute value is "
        "largest, and the gap there with its sign.",
        "u = jnp.geomspace(1e-3, 100, 100_001); gap = 1/(1 + u) - jnp.exp(-tau*u); i = jnp.argmax(jnp.abs(gap)); "
        "return u[i], gap[i].",
    ),
)
def _(answer, rng):
    import numpy as np

    u = np.geomspace(1e-4, 200, 400_001)
    early, late = expect.one_of(rng, (0.45, 1.3), (0.5, 1.6))
    for tau in (late, early, 0.85):
        tau = tau * (1 + 0.02 * rng.uniform())
        gap = 1 / (1 + u) - np.exp(-tau * u)
        i, top = int(np.abs(gap).argmax()), int(gap.argmax())
        at_one = 1 / (1 + u) - np.exp(-u)
        bottom = int(gap.argmin())
        got = expect.parts(expect.call(answer, tau), ("u", "the gap"), order=(u[i], gap[i]))
        of_place = {
            "that is in units of N/t, τλ/ε; u is λ/ε.": tau * u[i],
            "that is the place for τ = 1: does your function use `tau`?": u[int(at_one.argmax())],
            "τ multiplies the time, and so the exponent: e^(−τu), not e^(−u/τ).": lambda tau=tau: u[
                int(np.abs(1 / (1 + u) - np.exp(-u / tau)).argmax())
            ],
        }
        if gap[i] < 0:
            of_place["that is the lobe where the flow is ahead; here the ridge is ahead by more."] = u[top]
        elif tau < 1:
            of_place["that is the lobe where the ridge is ahead; here the flow is ahead by more, later."] = u[bottom]
        expect.number(got[0], u[i], "u", rtol=0.015, slips=of_place)
        expect.number(
            got[1],
            gap[i],
            "the gap",
            rtol=0.002,
            slips={
                "its sign is wrong: the gap is flow minus ridge.": -gap[i],
                "that is what is left at the place, not the gap: the share learned by the flow is 1 − e^(−τu).": np.exp(
                    -tau * u[i]
                ),
            },
        )
    return "Near τ = 0.53 both lobes are equal, 0.10. No stopping time makes the largest gap smaller"


@task(
    "12.2",
    "leave_one_out",
    minutes=25,
    difficulty=3,
    section="Choosing without test data",
    hints=(
        "Put the left-out prediction ỹ_i in the place of y_i and fit to all N: the fit passes through ỹ_i, because it "
        "fits the others best already and costs nothing at x_i. How much does f_i move when y_i moves?",
        "f = H y with H = Θ R⁻¹ = 1 − ε R⁻¹. So ỹ_i = f_i + H_ii (ỹ_i − y_i), y_i − ỹ_i = (y_i − f_i)/(1 − H_ii), "
        "and with c = R⁻¹ y this is c_i/(R⁻¹)_ii. R = Θ + ridge · tr(Θ)/N.",
        "lam, u = jnp.linalg.eigh(theta); inverse = 1/(lam[None] + ridges[:, None]*lam.mean()); c = "
        "einsum('ia,ra,ak->rik', u, inverse, u.T @ y); d = "
        "einsum('ia,ra->ri', u**2, inverse); y[None] - c/d[..., None].",
    ),
)
def _(answer, rng):
    import numpy as np

    n, k, r = expect.one_of(rng, (7, 3, 5), (9, 5, 3))
    j = rng.normal(size=(n, n + 6)) * rng.uniform(0.15, 0.4, size=(n, 1))  # Θ_ii near 1
    theta, y = j @ j.T, rng.normal(size=(n, k)) + 0.5
    ridges = np.sort(rng.uniform(0.05, 1.0, size=r))

    def each(form, at=lambda ridge: ridge * np.trace(theta) / n):
        found = []
        for ridge in ridges:
            inverse = np.linalg.inv(theta + at(ridge) * np.eye(n))
            found.append(form(inverse, inverse @ y, np.diag(inverse)[:, None]))
        return np.array(found)

    def left_out(form=lambda inverse, c, d: y - c / d, **how):
        return each(form, **how)

    def own_ridge():
        found = np.zeros((r, n, k))
        for i in range(n):
            rest = np.arange(n) != i
            few = theta[np.ix_(rest, rest)]
            for a, ridge in enumerate(ridges):
                c = np.linalg.solve(few + ridge * np.trace(few) / (n - 1) * np.eye(n - 1), y[rest])
                found[a, i] = theta[i, rest] @ c
        return found

    with expect.without("loo"):
        got = expect.call(answer, theta, y, ridges)
    got = expect.array(got, "the predictions", shape=(r, n, k), axes="R N K")
    r_diagonal = np.array([np.diag(theta) + ridge * np.trace(theta) / n for ridge in ridges])[:, :, None]
    expect.close(
        got,
        left_out(),
        "the array of predictions",
        rtol=1e-3,
        slips={
            "these are the fitted values: input i is still in the fit that predicts it.": lambda: left_out(
                lambda inverse, c, d: theta @ c
            ),
            "these are the residuals y − ỹ; the predictions ỹ are wanted.": lambda: left_out(
                lambda inverse, c, d: c / d
            ),
            "the sign of the correction is wrong: the prediction is y minus it.": lambda: left_out(
                lambda inverse, c, d: y + c / d
            ),
            "c is divided by the diagonal of R⁻¹, not multiplied with it.": lambda: left_out(
                lambda inverse, c, d: y - c * d
            ),
            "the division by the diagonal of R⁻¹ is missing.": lambda: left_out(lambda inverse, c, d: y - c),
            "the diagonal is that of R; it should be that of its inverse.": lambda: (
                y[None] - left_out(lambda inverse, c, d: c) / r_diagonal
            ),
            "1/R_ii is not (R⁻¹)_ii: invert first, then take the diagonal.": lambda: (
                y[None] - left_out(lambda inverse, c, d: c) * r_diagonal
            ),
            "the ridge is relative: ε = δ tr(Θ)/N.": lambda: left_out(at=lambda ridge: ridge),
            "ε = δ tr(Θ)/N has a 1/N.": lambda: left_out(at=lambda ridge: ridge * np.trace(theta)),
            "the ridge moves with the input that is left out: all fits keep the ε of the full kernel.": own_ridge,
            "there is no ridge in it.": lambda: left_out(at=lambda ridge: 0.0),
            "y_i has been replaced by zero: the fit to all N still takes the zero for a target at x_i.": lambda: each(
                lambda inverse, c, d: theta @ c - np.diag(theta @ inverse)[:, None] * y
            ),
        },
    )
    return "N regressions for the price of one"


@task(
    "12.3",
    "a number of steps, spot the error",
    minutes=20,
    difficulty=3,
    section="The map in our units",
    hints=(
        "Look at the loss in line 3, at every number in it. For the momentum: v holds all residuals so far, each "
        "weaker by μ than the next. What is the total effect of one residual?",
        "The mean in the loss makes it 1 − ηλ/N. A residual acts with 1 + μ + μ² + … = 1/(1 − μ), so momentum is a "
        "rate η/(1 − μ), and t = ηk/(1 − μ). Then solve t = N²/(δ tr Θ) for δ.",
        "n**2 * (1 - momentum) / (learning_rate * steps * jnp.trace(theta)).",
    ),
)
def _(answer, rng):
    import numpy as np

    number, function = expect.parts(answer, ("wrong_line", "matching_ridge"))
    expect.line(
        number,
        3,
        5,
        {
            1: "line 1 is right: a ridge is relative to the mean of the diagonal.",
            2: "line 2 is right: λ/(λ + ε) ≈ λ/ε where λ ≪ ε.",
            4: "line 4 follows from line 3. The error is further up.",
            5: "line 5 follows from the lines before it. The error is further up.",
        },
    )
    n, steps, mu = expect.one_of(rng, (7, 3000, 0.9), (9, 5000, 0.8))
    j, eta = rng.normal(size=(n, n + 3)), rng.uniform(0.02, 0.05)
    theta = j @ j.T
    trace, t = np.trace(theta), eta * steps
    for momentum in (0.0, mu):
        want = n**2 * (1 - momentum) / (t * trace)
        slips = {
            "that is N times too small: the flaw of line 3 is still in it.": want / n,
            "that is N times too large: the mean of the diagonal is tr(Θ)/N, once.": want * n,
            "that is ε, what is added to the diagonal; δ is relative to tr(Θ)/N.": n / t * (1 - momentum),
            "the learning rate is missing: t = η · steps.": want * eta,
        }
        if momentum:
            slips |= {
                "the momentum is not in it: a residual acts again in later steps.": n**2 / (t * trace),
                "momentum makes training faster, so the matching ridge is smaller.": n**2
                / (t * trace * (1 - momentum)),
                "the factor is 1 − μ, from the sum 1 + μ + μ² + …, not 1/(1 + μ).": n**2 / (t * trace * (1 + momentum)),
                "the factor is 1 − μ, not its square.": want * (1 - momentum),
                "the factor is 1 − μ, not μ.": n**2 / (t * trace) * momentum,
            }
        got = expect.call(function, theta, steps, eta, momentum)
        expect.number(got, want, "the ridge", rtol=0.01, slips=slips, factors={"N": n})
    return "Momentum is a longer training: the map has η/(1 − μ)"


@task(
    "12.4",
    "every image twice",
    minutes=10,
    difficulty=3,
    section="The map in our units",
    hints=(
        "Both copies of an image get the same coefficient, by symmetry. Write the equations of both methods for one.",
        "Ridge: (Θ' + ε') c' = y' with Θ' of four blocks Θ becomes 2Θc + ε'c = y, and f(x) = 2Θ(x, X)c. Flow: the "
        "rates are λ'/N', with λ' = 2λ and N' = 2N. And how large is tr(Θ')/N'?",
        "ε' = 2ε, tr(Θ')/N' = tr(Θ)/N; λ'/N' = λ/N.",
    ),
)
def _(answer, rng):
    got = expect.parts(answer, ("the factor of δ", "the factor of t"))
    expect.number(
        got[0],
        2.0,
        "the factor of δ",
        rtol=0.01,
        slips={
            "the data count twice against the ridge, which stays one: something has to change.": 1.0,
            "it is the other way around: against twice the data an equal ridge is weaker.": 0.5,
            "the mean of the diagonal does not change: tr and N both double, so only ε counts.": 4.0,
        },
    )
    expect.number(
        got[1],
        1.0,
        "the factor of t",
        rtol=0.01,
        slips={
            "eigenvalues double, but the loss is a mean over N examples, which doubles as well.": 0.5,
            "N doubles, but so do the eigenvalues: the rates are λ/N.": 2.0,
            "in the map N² and two doubled factors, δ and the trace, cancel.": 4.0,
        },
    )
    return "The loss is a mean, the ridge is not: only one of the two notices"


written(
    "12.5",
    "a ridge that moves",
    rubric=(
        "the prediction at the input with the large diagonal is off, by a factor of 2 in ε;",
        "because a relative ridge follows the mean of the diagonal of what is left;",
        "the library keeps ε: one estimator is judged, and one factorization serves all.",
    ),
    numbers=("2", "two", "2.0", "twice", "double", "doubles", "doubled", "half", "½", "1/2", "0.5"),
    asked="by which factor is the library's ε larger?",
    minutes=10,
    difficulty=2,
    section="Choosing without test data",
    hints=(
        "`ridge` is relative. Relative to what, in her loop and in the library?",
        "The mean of the diagonal with all 20 inputs, and without the large one.",
        "(19 · 1 + 21)/20 against 19/19. And what would one factorization be worth if ε changed with i?",
    ),
)

written(
    "12.6",
    "both at once",
    rubric=(
        "a size predicted, and then measured over a grid of pairs;",
        "how the gain changes with the noise or the number of images, over more than one subset;",
        "the best filter of all for known a and σ, a²/(a² + σ²), and what it says of the ridge.",
    ),
    minutes=40,
    difficulty=4,
    section="Where is the best stopping time?",
    hints=(
        "The best ridge and the best time are points on the edges of the map. A pair is a filter between the two. "
        "Guess what it can win if the edges differ by a few percent only; the guess is no bound.",
        "Minimize (1 − s)² a² + σ² s² over s, for each mode by itself. When is the result a ridge?",
        "s = a²/(a² + σ²). That is λ/(λ + ε) if a² = σ²λ/ε: coefficients that fall like the eigenvalues.",
    ),
)
