"""Checks of chapter 04, training in closed form."""

from course import expect
from course.tasks import task, written


@task(
    "04.1",
    "flow",
    minutes=20,
    difficulty=3,
    section="At test points: integrate what the training points do",
    hints=(
        "Go to the eigenbasis of Θ: there every matrix function is a function of one number. Both formulas need the "
        "components of y − f0 along the modes; they differ in what these are multiplied with.",
        "Training: (1 − e^(−λt/N)) times the component. Test: (1 − e^(−λt/N))/λ times it, and then Θ(x, X). At "
        "λ = 0 the first is 0 and the second t/N. Set λ to a harmless number there before you divide.",
        "w = modes.T @ (y - f0); learned = -expm1(-λ t / N), 0 where λ is (nearly) zero; a = learned / λ, t / N where "
        "λ is zero. Then train = f0 + modes @ (learned[:, None] * w) and test = f0_test + theta_test @ (modes @ "
        "(a[:, None] * w)).",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, k = 6, 4, 2
    for rank in (n + 3, 4):  # a regular kernel, then a singular one
        jac, jac_test = rng.normal(size=(n, rank)), rng.normal(size=(m, rank))
        theta, theta_test = jac @ jac.T, jac_test @ jac.T
        y, f0, f0_test = rng.normal(size=(n, k)), rng.normal(size=(n, k)), 1 + rng.normal(size=(m, k))
        t = 0.7

        eigenvalues, modes = np.linalg.eigh(theta)
        zero = eigenvalues < 1e-9 * eigenvalues[-1]
        safe = np.where(zero, 1.0, eigenvalues)

        def curve(
            wanted=y - f0, scale=n, at=t, start=f0_test, began=f0, cross=theta_test, zero=zero, safe=safe, modes=modes
        ):
            learned = np.where(zero, 0.0, 1 - np.exp(-safe * at / scale))
            over = np.where(zero, at / scale, learned / safe)
            w = modes.T @ wanted
            return began + modes @ (learned[:, None] * w), start + cross @ (modes @ (over[:, None] * w))

        train, test = curve()
        state = "" if rank > n else " of a singular kernel"
        got = expect.call(answer, theta, theta_test, y, f0, f0_test, t)
        got_train, got_test = expect.parts(got, ("f_t(X)", "f_t(x)"))
        got_train = expect.array(got_train, f"f_t(X){state}", shape=(n, k), axes="N K")
        got_test = expect.array(got_test, f"f_t(x){state}", shape=(m, k), axes="M K")
        sum_loss, no_start, plain = curve(scale=1), curve(start=0.0), curve(wanted=y)
        expect.close(
            got_train,
            train,
            f"f_t(X){state}",
            rtol=2e-3,
            slips={
                "that is the flow for a loss summed over the examples; ours is a mean, so t/N.": sum_loss[0],
                "time runs backwards: the residual decays, e^(−λt/N).": y
                + modes @ (np.exp(np.clip(eigenvalues, 0, None) * t / n)[:, None] * (modes.T @ (f0 - y))),
                "f0 stands where y should, or the other way round: what decays is f0 − y.": f0
                + modes @ (np.exp(-np.clip(eigenvalues, 0, None) * t / n)[:, None] * (modes.T @ (y - f0))),
                "that is the residual; add y.": train - y,
                "that starts from zero; at t = 0 the outputs are f0.": train - f0,
                "y drives there; what drives is y − f0.": plain[0],
                "the modes are the columns of what `eigh` returns; rows were used.": f0
                + modes.T @ (np.where(zero, 0.0, 1 - np.exp(-safe * t / n))[:, None] * (modes @ (y - f0))),
            },
        )
        moved = test - f0_test
        expect.close(
            got_test,
            test,
            f"f_t(x){state}",
            rtol=2e-3,
            slips={
                "the start at the test points is missing, f_0(x).": no_start[1],
                "y drives there; what drives the test points is y − f0 at the training points.": plain[1],
                "both f_0(x) is missing and y drives in the place of y − f0.": plain[1] - f0_test,
                "1/N is lost in the exponent.": sum_loss[1],
                "1/N enters once too often: it is in the rate already.": f0_test + moved / n,
                "1/N is missing in front of the integral of e^(−λt/N).": f0_test + moved * n,
                "Θ⁻¹ is missing: (1 − e^(−λt/N))/λ, not (1 − e^(−λt/N)).": f0_test + theta_test @ (train - f0),
                "that is t = ∞, the end of training.": f0_test + theta_test @ np.linalg.pinv(theta) @ (y - f0),
            },
        )
    start = expect.parts(expect.call(answer, theta, theta_test, y, f0, f0_test, 0.0), ("f_t(X)", "f_t(x)"))
    expect.that(
        np.abs(np.asarray(start[0]) - f0).max() < 1e-4 and np.abs(np.asarray(start[1]) - f0_test).max() < 1e-4,
        "at t = 0 it should return f0 and f0_test.",
    )
    # Now the kernel is the singular one: rounding leaves eigenvalues like -1e-7.
    late = expect.parts(expect.call(answer, theta, theta_test, y, f0, f0_test, 1e4), ("f_t(X)", "f_t(x)"))
    for name, value, shape in (("f_t(X)", late[0], (n, k)), ("f_t(x)", late[1], (m, k))):
        value = expect.array(value, f"{name} of a singular kernel at a late time", shape=shape)
        expect.that(
            np.abs(value).max() < 1e3,
            f"{name} runs away at late times: rounding makes a zero eigenvalue slightly negative, and e^(−λt/N) "
            f"grows. Treat what is below about 1e-6 of the largest as zero.",
        )


@task(
    "04.2",
    "heavy_ball",
    minutes=20,
    difficulty=3,
    section="Steps instead of flow, and the largest learning rate",
    hints=(
        "Along one mode the gradient in function space is (λ/N) z. So a step updates the pair (z, v), v being the "
        "velocity.",
        "v ← μ v + (λ/N) z, then z ← z − η v with the new v. Start: z = 1, v = 0.",
        "z = ones; v = zeros; for each step: v = momentum * v + eigenvalues / N * z; z = z - learning_rate * v.",
    ),
)
def _(answer, rng):
    import numpy as np

    n = 3
    eigenvalues = np.sort(rng.uniform(0.05, 1, size=5) * n)
    rate, momentum = float(rng.uniform(0.5, 0.8)), float(rng.uniform(0.6, 0.85))
    # critical damping, (1 − √μ)² = ηλ/N, and a mode of no slope
    eigenvalues = np.concatenate([[0.0, n * (1 - momentum**0.5) ** 2 / rate], eigenvalues])

    def run(steps, eta=rate, mu=momentum, scale=n, gain=1.0, old=False, nesterov=False, first=0.0):
        z, v = np.ones_like(eigenvalues), first * eigenvalues / scale
        for _ in range(steps):
            new = mu * v + gain * eigenvalues / scale * z
            step = v if old else new
            z = z - eta * (mu * new + eigenvalues / scale * z if nesterov else step)
            v = new
        return z

    for steps in (7, 2):
        got = expect.array(
            expect.call(answer, eigenvalues, n, rate, momentum, steps), shape=(len(eigenvalues),), axes="N"
        )
        expect.close(
            got,
            run(steps),
            f"z after {steps} steps",
            rtol=2e-3,
            slips={
                "that is without momentum, (1 − ηλ/N)^s.": run(steps, mu=0.0),
                "that is without momentum and with the rate η/(1 − μ), right for slow modes and small steps only.": run(
                    steps, eta=rate / (1 - momentum), mu=0.0
                ),
                "1/N is missing: the loss is a mean over examples.": run(steps, scale=1.0),
                "the gradient is damped by 1 − μ there; Optax does not do that.": run(steps, gain=1 - momentum),
                "that is Nesterov's momentum; heavy ball moves along v itself.": run(steps, nesterov=True),
                "z moves with the old v; Optax updates v first.": run(steps, old=True),
                "that is one step more.": run(steps + 1),
                "that is one step less.": run(steps - 1),
                "the sign of μ is wrong: velocity is kept.": run(steps, mu=-momentum),
                "that is the loss; the amplitude z is wanted, not its square.": run(steps) ** 2,
                "that is the part learned, 1 − z.": 1 - run(steps),
            },
        )
    got = expect.array(expect.call(answer, eigenvalues, n, rate, momentum, 0), shape=(len(eigenvalues),))
    expect.that(np.abs(got - 1).max() < 1e-5, "after no step z should be 1.")
    expect.that(got[0] == 1.0, "a mode with λ = 0 never moves.")


@task(
    "04.3",
    "steps_to",
    minutes=20,
    difficulty=3,
    section="Steps instead of flow, and the largest learning rate",
    hints=(
        "Write the loss after s steps as a sum over modes, as in equation (2) of the chapter but with powers for "
        "exponentials. Then look for the first s at which it is small enough.",
        "L_s/L_0 = Σ (1 − ηλ_i/N)^(2s) w_i / Σ w_i, with w_i the squared component of r0 along mode i, summed over "
        "outputs.",
        "left = (1 - learning_rate * λ / N)[None, :] ** (2 * arange(max_steps + 1)[:, None]); loss = left @ w; the "
        "first s with loss <= fraction * loss[0] is int(argmax(loss <= fraction * loss[0])).",
    ),
)
def _(answer, rng):
    import numpy as np

    n, k = 8, 2
    modes = np.linalg.qr(rng.normal(size=(n, n)))[0]
    theta = 5.0 * (modes * rng.uniform(0.03, 1, size=n)) @ modes.T
    r0 = rng.normal(size=(n, k)) * np.array([1.0, 3.0])
    eigenvalues, modes = np.linalg.eigh(theta)
    w = np.sum((modes.T @ r0) ** 2, axis=1)
    rate = 0.4 * 2 * n / eigenvalues[-1]
    steps = np.arange(3001)

    def first(fraction, power=2, weight=w, base=1 - rate * eigenvalues / n):
        curve = np.abs(base)[None] ** (power * steps[:, None]) @ weight
        return int(np.argmax(curve <= fraction * curve[0]))

    fractions, values = (0.02, 0.1, 1e-5), []
    for fraction in fractions:
        got = expect.call(answer, fraction, theta, r0, rate, 3000)
        if got is None:
            expect.fail("the result is None: is a `return` missing?")
        try:
            value = float(got)
        except (TypeError, ValueError):
            expect.fail(f"expected one whole number of steps; got an object of type {type(got).__name__}.")
        expect.that(value == int(value), "steps are counted in whole numbers.")
        values.append(int(value))

    def all_of(shift=0, **slip):
        return [first(fraction, **slip) + shift for fraction in fractions]

    slips = {
        "the loss is quadratic in the residual: it decays with the power 2s, not s.": all_of(power=1),
        "1/N stands there twice; the rate of a mode is λ/N.": all_of(base=1 - rate * eigenvalues / n**2),
        "that is the largest mode alone; all modes count, weighted with the residual.": all_of(weight=np.eye(n)[-1]),
        "that is the slowest mode alone; all modes count, weighted with the residual.": all_of(weight=np.eye(n)[0]),
        "all modes have the same weight there; weigh them with the residual's components.": all_of(weight=np.ones(n)),
        "the components of the residual should be squared.": all_of(weight=np.abs(modes.T @ r0).sum(1)),
        "that is gradient flow, e^(−2ηλs/N); with steps of this size the difference counts.": all_of(
            base=np.exp(-rate * eigenvalues / n)
        ),
        "that is one step too many.": all_of(shift=1),
        "that is one step too few.": all_of(shift=-1),
    }
    want = all_of()
    for message, wrong in slips.items():
        if values == wrong and wrong != want:
            expect.fail(f"the number of steps is not right: {message}")
    expect.that(
        values == want,
        "the number of steps is not right. Try a diagonal kernel, where each component of r0 is a mode.",
    )
    return "Now the measurement below"


@task(
    "04.4",
    "corrected_prediction",
    minutes=15,
    difficulty=3,
    section="At test points: integrate what the training points do",
    hints=(
        "Take an ensemble whose networks say y at the training points from the start. What should training change, "
        "anywhere? What does the suspect say?",
        "Compare the two lines that apply `modes.T`: what is it that both training and test points are driven by?",
        "The components in `coefficients` should be those of y − f0, as in the line for the training points. The rest "
        "stays as it is.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, k = 5, 3, 2
    jac, jac_test = rng.normal(size=(n, 12)), rng.normal(size=(m, 12))
    theta, theta_test = jac @ jac.T, jac_test @ jac.T
    y, f0, f0_test = rng.normal(size=(n, k)), rng.normal(size=(n, k)), 1 + rng.normal(size=(m, k))
    t = 0.4
    eigenvalues, modes = np.linalg.eigh(theta)
    learned = 1 - np.exp(-eigenvalues * t / n)

    def coefficients(wanted, factor=learned / eigenvalues):
        return modes @ (factor[:, None] * (modes.T @ wanted))

    train = f0 + coefficients(y - f0, learned)
    test = f0_test + theta_test @ coefficients(y - f0)
    got = expect.call(answer, theta, theta_test, y, f0, f0_test, t)
    got_train, got_test = expect.parts(got, ("f_t(X)", "f_t(x)"))
    got_train = expect.array(got_train, "f_t(X)", shape=(n, k), axes="N K")
    got_test = expect.array(got_test, "f_t(x)", shape=(m, k), axes="M K")
    expect.close(got_train, train, "f_t(X), which was right before,", rtol=2e-3)
    expect.close(
        got_test,
        test,
        "f_t(x)",
        rtol=2e-3,
        slips={
            "that is what the suspect says.": f0_test + theta_test @ coefficients(y),
            "f_0(x) should stay: only what is added to it was wrong.": theta_test @ coefficients(y - f0),
            "that forgets the start altogether; it was in the right place.": theta_test @ coefficients(y),
            "the sign of f0 is wrong: the network need not learn what it says already.": f0_test
            + theta_test @ coefficients(y + f0),
            "1/λ is lost.": f0_test + theta_test @ coefficients(y - f0, learned),
            "1/N enters there a second time.": f0_test + theta_test @ coefficients(y - f0) / n,
        },
    )
    got = expect.parts(expect.call(answer, theta, theta_test, f0, f0, f0_test, t), ("f_t(X)", "f_t(x)"))
    expect.that(
        np.abs(np.asarray(got[1]) - f0_test).max() < 1e-4,
        "a network that says y at the training points from the start should not move anywhere.",
    )
    return "It drove the test points with y"


written(
    "04.5",
    "not_a_posterior",
    words=30,
    minutes=10,
    difficulty=3,
    section="Not a posterior",
    hints=(
        "Which kernel do the functions at the start have as their covariance? Which one decides what is added to them?",
        "Compare the ensemble's covariance at t = ∞, equation (9), with a posterior's, equation (10), term by term. "
        "When are they equal?",
        "Conditioning selects functions of the prior; descent moves each one by Θ(x, X)Θ⁻¹(y − f_0(X)). The two agree "
        "if Θ = Σ: train the readout alone.",
    ),
)

written(
    "04.6",
    "the price of nonsense",
    words=30,
    minutes=30,
    difficulty=4,
    section="Which modes are learned first",
    hints=(
        "Both prices are sums over modes of (u_i·y)² times a function of λ_i. Which function, each time?",
        "Loss: e^(−2λt/N). Path squared: 1/λ. Compute u_i·y for real and shuffled labels with `jnp.linalg.eigh`.",
        "path = sqrt(y @ solve(kernel, y)); for the time evaluate gradient_flow on a fine grid of t and take the first "
        "at which the loss is below a hundredth.",
    ),
)
