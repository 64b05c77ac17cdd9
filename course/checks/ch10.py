"""Checks of chapter 10, centering and ensembling."""

from course import expect
from course.tasks import task, written


@task(
    "10.1",
    "steps_with_a_share",
    minutes=20,
    difficulty=2,
    section="Why centering trains faster",
    hints=(
        "What is the residual at the start, and what is its mean square along a mode of the kernel? Each mode then "
        "decays by itself.",
        "The residual is (1 − β) f₀ − y. Its mean square along u_i is (u_i·y)² + (1 − β)² K u_i·Σ u_i, and after s "
        "steps it is multiplied by (1 − ηλ_i/N)^(2s). The loss has 1/(2N).",
        "energy = ((u.T @ y)**2).sum(1) + (1-beta)**2 * K * einsum('ai,ab,bi->i', u, nngp, u); left = "
        "(1 - rate*lam/N) ** (2*steps[:, None]); argmax(left @ energy/(2*N) <= target).",
    ),
)
def _(answer, rng):
    import numpy as np

    n, k = expect.one_of(rng, (7, 3), (9, 5))
    modes, _ = np.linalg.qr(rng.normal(size=(n, n)))
    lam = n * np.geomspace(1.0, 0.02, n)
    theta, nngp = (modes * lam) @ modes.T, (modes * lam**0.5) @ modes.T
    directions = rng.normal(size=(n, k))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    of_start = lam**0.5
    of_targets = np.full(n, 0.2 * k * of_start.mean())  # the same in each mode, a fifth of the start in all
    y = modes @ (of_targets[:, None] ** 0.5 * directions)
    rate, beta = 0.5 / n * rng.uniform(0.97, 1.03), 0.4
    target = 0.05 * (of_targets.sum() + k * of_start.sum()) / (2 * n)
    grid = np.arange(8000)[:, None]

    def losses_of(energy, power=2, decay=lambda lam: 1 - rate * lam / n, half=0.5):
        return (decay(lam) ** (power * grid)) @ energy * half / n

    def steps(goal, energy, **slip):
        return int(np.argmax(losses_of(energy, **slip) <= goal))

    for share in (beta, 0.0, 1.0):
        energy = of_targets + (1 - share) ** 2 * k * of_start
        losses = losses_of(energy)
        want = int(np.argmax(losses <= target))
        goal = (losses[want - 1] * losses[want]) ** 0.5  # midway, so that no rounding makes it a step more or less
        slips = {
            "one step too many: the loss is at or below the target one step before.": want + 1,
            "one step too few: there the loss is still above the target.": want - 1,
            "the loss is a sum of squares: a mode decays with the exponent 2s, not s.": lambda e=energy, g=goal: steps(
                g, e, power=1
            ),
            "the loss has the factor 1/2.": lambda e=energy, g=goal: steps(g, e, half=1.0),
            "the factor of a step is 1 − ηλ/N: the 1/N of the mean loss is missing.": lambda e=energy, g=goal: steps(
                g, e, decay=lambda lam: 1 - rate * lam
            ),
        }
        if share not in (0.0, 1.0):
            slips |= {
                "there are K outputs, and each has a start: the part of Σ comes K times.": lambda g=goal: steps(
                    g, of_targets + (1 - beta) ** 2 * of_start
                ),
                "what is left of the start is (1 − β) f₀, and the loss has its square.": lambda g=goal: steps(
                    g, of_targets + (1 - beta) * k * of_start
                ),
                "β is what is subtracted; 1 − β is what is left.": lambda g=goal: steps(
                    g, of_targets + beta**2 * k * of_start
                ),
                "the start has the covariance of the NNGP, not that of the NTK.": lambda g=goal: steps(
                    g, of_targets + (1 - beta) ** 2 * k * lam
                ),
                "the start is not in it.": lambda g=goal: steps(g, of_targets),
                "β is not in it: that is the plain network.": lambda g=goal: steps(g, of_targets + k * of_start),
                "the targets are not in it.": lambda g=goal: steps(g, (1 - beta) ** 2 * k * of_start),
            }
        got = expect.whole(expect.call(answer, theta, nngp, y, share, rate, goal), "the number of steps")
        expect.number(got, want, "the number of steps", rtol=0.4 / want, slips=slips)
    return "Subtracting the whole start is the fastest, and most of it comes with the first half"


@task(
    "10.2",
    "twins",
    minutes=15,
    difficulty=3,
    section="What the infinitely wide network says",
    hints=(
        "Which terms of f_s(x) contain the start, and what happens to them in the mean?",
        "f_s = f₀(x) − A f₀(X) + A y is linear in f₀. The covariance of the mean of two independent starts is half of "
        "one. For twins: what are the two starts, and what are the two kernels?",
        "The twin starts at −f₀. Its kernel has products of two readout weights, so the sign drops out, and A is the "
        "same. The mean is A y.",
    ),
)
def _(answer, rng):
    got = expect.parts(answer, ("independent", "twins"), order=(0.5, 0.0))
    expect.number(
        got[0],
        0.5,
        "the share for two independent networks",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "D² is a square: it falls like a variance, and √2 is for D.": 0.5**0.5,
            "not a quarter: the two starts are independent, and their variances add.": 0.25,
            "their starts differ, and average out in part.": 1.0,
        },
    )
    expect.number(
        got[1],
        0.0,
        "the share for two twins",
        rtol=0.02,  # wide enough that no factor is named, which would tell the number
        slips={
            "twins are not independent: what is the sum of their starts?": 0.5,
            "the twin starts at −f₀, not at f₀.": 1.0,
            "the two starts have the correlation −1: their sum vanishes.": 0.25,
        },
    )
    return "Two plain trainings give one centered network"


@task(
    "10.3",
    "one wide or many narrow, spot the error",
    minutes=20,
    difficulty=3,
    section="What is left at finite width",
    hints=(
        "Write the mean of E networks as one network with En units. Which factor stands before its readout weights?",
        "1/E · 1/√n against 1/√(En): the mean has a smaller readout. A plain network with En units has V. "
        "For centered ones put En for n in v/n + b²/n²; in the mean only the variance is divided by E.",
        "members, (v/(members*n) + b2/(members*n)**2) / (v/(members*n) + b2/n**2).",
    ),
)
def _(answer, rng):
    number, function = expect.parts(answer, ("wrong_line", "one_over_many"))
    expect.line(
        number,
        4,
        5,
        {
            1: "line 1 is right: the covariance of one hidden layer is Σ at every width.",
            2: "line 2 is right: it is the Gaussian at infinite width, up to O(1/n).",
            3: "line 3 is right: it is the variance of a mean.",
            5: "line 5 follows from line 4. The error is further up.",
        },
    )
    n, members = expect.one_of(rng, (30, 7), (50, 9))
    for variance, bias in ((rng.uniform(8, 12), rng.uniform(300, 500)), (rng.uniform(3, 5), rng.uniform(900, 999))):
        part = variance / (members * n)
        wide, many = part + bias / (members * n) ** 2, part + bias / n**2
        want = float(members), wide / many
        got = expect.parts(
            expect.call(function, variance, bias, n, members), ("plain", "centered"), order=(want[0], want[1])
        )
        expect.number(
            got[0],
            want[0],
            "the ratio for plain networks",
            rtol=0.01,
            slips={
                "that is line 4 again: one network with En units has V, not V/E.": 1.0,
                "it is the other way round: the wide network over the mean.": 1 / members,
                "D² falls like 1/E; its root is for D.": members**0.5,
                "the mean has V/E, once.": members**2,
            },
        )
        expect.number(
            got[1],
            want[1],
            "the ratio for centered networks",
            rtol=0.01,
            slips={
                "the bias of a mean is that of one member: it does not fall with E.": (
                    wide / (part + bias / (members * n**2))
                ),
                "the bias is missing: the variances alone are equal.": 1.0,
                "the squared bias falls like 1/n², the variance like 1/n.": (part + bias / (members * n))
                / (part + bias / n),
                "it is the other way round: the wide network over the mean.": many / wide,
                "the variance of the mean is divided by E as well.": (wide / (variance / n + bias / n**2)),
                "the wide network has En units also in the bias, (En)².": ((part + bias / (members * n**2)) / many),
            },
        )
    return "Units buy variance at the same price either way; bias is cheaper in one wide network"


written(
    "10.4",
    "a hundred narrow ones",
    rubric=(
        "the wide network is nearer, and the squared biases differ by the factor 100² = 10,000;",
        "the variance is the same, v/1600, since as many independent units make it;",
        "a mean over members does not change the expectation, so it leaves the bias.",
    ),
    numbers=("10000", "10,000", "10 000", "10^4", "1e4", "10⁴", "10**4", "100²", "100^2"),
    asked="by which factor do the squared biases differ?",
    minutes=10,
    difficulty=3,
    section="Members, bias and variance",
    hints=(
        "The table in “What is left at finite width” has both cases.",
        "Variance: v/(nE) with n = 16 and E = 100, against v/1600. Bias: what does a mean over members do to it?",
        "b²/16² against b²/1600².",
    ),
)


@task(
    "10.5",
    "errors_of_a_mean",
    minutes=25,
    difficulty=4,
    section="What the infinitely wide network says",
    hints=(
        "The error splits into a part of the mean function, which all ensembles share, and a part of the start, which "
        "members average out.",
        "With A after s steps: ‖A y − y_test‖²/M + V/E, and V = (K/M) tr C with C = (1, −A) Σ (1, −A)ᵀ. Mind the order "
        "of the inputs in the kernels: training inputs come first.",
        "lam, u = eigh(ntk_all[:N, :N]); a = ntk_all[N:, :N] @ (u * (1 - (1 - rate*lam/N)**s)/lam) @ u.T; rest = "
        "concatenate([-a, eye(M)], axis=1); V = K*trace(rest @ nngp_all @ rest.T)/M.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, k, members = expect.one_of(rng, (6, 5, 3, 7), (7, 9, 5, 3))
    j = rng.normal(size=(n + m, n + m + 3))
    g = rng.normal(size=(n + m, n + m + 2))
    theta, nngp = j @ j.T / 3, g @ g.T / (n + m)
    y, y_test = rng.normal(size=(n, k)), rng.normal(size=(m, k)) + 0.5
    rate = 1.9 / np.linalg.eigvalsh(theta[:n, :n])[-1]
    steps = [1, 10, 40, 150]
    lam, modes = np.linalg.eigh(theta[:n, :n])

    def errors(
        factor=k / m / members,
        sigma=nngp,
        sign=-1.0,
        of_mean=1.0,
        decay=lambda s: (1 - rate * lam / n) ** s,
        mean=lambda f: ((f - y_test) ** 2).sum(1).mean(),
        start=True,
    ):
        found = []
        for s in steps:
            a = theta[n:, :n] @ (modes * ((1 - decay(s)) / lam)) @ modes.T
            rest = np.concatenate([sign * a * start, np.eye(m)], axis=1)
            found.append(of_mean * mean(a @ y) + factor * np.trace(rest @ sigma @ rest.T))
        return np.array(found)

    got = expect.array(expect.call(answer, theta, nngp, y, y_test, rate, steps, members), shape=(len(steps),), axes="T")
    slips = {
        "the start comes for each of the K outputs.": lambda: errors(1 / m / members),
        "members average the start: its variance is divided by their number.": lambda: errors(k / m),
        "its variance is divided by the number of members, not by its square.": lambda: errors(k / m / members**2),
        "the trace has to be divided by M, the number of test inputs.": lambda: errors(k / members),
        "the mean function is the same in all members: its error does not fall with their number.": lambda: errors(
            of_mean=1 / members
        ),
        "the start is missing.": lambda: errors(0.0),
        "the error of the mean function is missing.": lambda: errors(of_mean=0.0),
        "the start at the training inputs is trained away, with a minus sign: f₀(x) − A f₀(X).": lambda: errors(
            sign=1.0
        ),
        "the start at the training inputs matters too: f₀(x) − A f₀(X).": lambda: errors(start=False),
        "the start has the covariance of the NNGP, not that of the NTK.": lambda: errors(sigma=theta),
        "a step multiplies by 1 − ηλ/N: the 1/N is missing.": lambda: errors(decay=lambda s: (1 - rate * lam) ** s),
        "that is gradient flow; here steps are finite.": lambda: errors(decay=lambda s: np.exp(-rate * lam * s / n)),
        "the error is a sum over outputs, not a mean.": lambda: errors(k / m / members / k, of_mean=1 / k),
    }
    expect.close(got, errors(), "the array of errors", rtol=5e-4, slips=slips, factors={"the number of test inputs": m})
    return "With more members the start costs less, and training may stop sooner"


@task(
    "10.6",
    "exact_over_first_order",
    minutes=25,
    difficulty=4,
    section="Draw or drift?",
    hints=(
        "f − m is a difference of two exponentials. You need the mean of e^(−cχ²) for two values of c.",
        "E e^(−cχ²) = (1 + 2c)^(−n/2). The square of e^(−a) − e^(−θ̂t) has c = a/n and c = 2a/n. First order: f moves "
        "by t e^(−a) (θ̂ − θ), and the variance of θ̂ is 2θ²/n.",
        "once, twice = (1+2*a/n)**(-n/2), (1+4*a/n)**(-n/2); (twice - 2*exp(-a)*once + exp(-2*a)) / "
        "(2*a**2*exp(-2*a)/n).",
    ),
)
def _(answer, rng):
    import numpy as np

    units = expect.one_of(rng, 9, 10)
    for a in (3.6 * rng.uniform(0.97, 1.03), 2.45 * rng.uniform(0.98, 1.02)):
        once, twice = (1 + 2 * a / units) ** (-units / 2), (1 + 4 * a / units) ** (-units / 2)
        mean = np.exp(-a)
        exact, first = twice - 2 * mean * once + mean**2, 2 * a**2 * mean**2 / units
        slips = {
            "that is the variance of f: the distance is to m, and f has a bias.": (twice - once**2) / first,
            "it is upside down: exact over first order.": first / exact,
            "the variance of χ² is 2n, so that of θ̂ is 2θ²/n.": 2 * exact / first,
            "the derivative at first order is t e^(−a), with the exponential.": exact / (2 * a**2 / units),
            "the derivative of e^(−θ̂t) has a factor t: v has a².": exact * a**2 / first,
            "that is the squared bias alone.": (once - mean) ** 2 / first,
            "v/n is wanted in the denominator, not v.": exact / (first * units),
            "E e^(−cχ²) is (1 + 2c)^(−n/2), with the 2.": lambda a=a, first=first: (
                (
                    (1 + 2 * a / units) ** (-units / 2)
                    - 2 * np.exp(-a) * (1 + a / units) ** (-units / 2)
                    + np.exp(-2 * a)
                )
                / first
            ),
        }
        got = expect.call(answer, units, a)
        expect.number(got, exact / first, "the ratio", rtol=0.002, slips=slips)
    return "Late in training one mode alone is farther away than first order says; many modes that mix were nearer"


written(
    "10.7",
    "one wide network or many narrow ones",
    rubric=(
        "a prediction, and that variance over members and bias of narrow networks pull in opposite directions;",
        "one change that was tried, with errors over groups or seeds, and whether it beats the table;",
        "what centering takes away, and why this changes the best number of members.",
    ),
    minutes=45,
    difficulty=4,
    section="Members, bias and variance",
    hints=(
        "Split the squared error of the mean into variance over M and a squared bias. Which of them does M change, and "
        "which the width?",
        "The variance of one wide network comes from its outputs at the start. What does `ntk.center` do to them?",
        "With ntk.center(ntk.functional(...)) as `build`, or the outputs at the start subtracted by hand, run the same "
        "table again.",
    ),
)
