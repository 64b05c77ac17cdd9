"""Checks of chapter 04, training in closed form."""

import functools

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
    import jax.numpy as jnp
    import numpy as np

    n, m, k = expect.one_of(rng, (7, 5, 3), (6, 8, 5))
    names = ("f_t(X)", "f_t(x)")

    def outputs(got, train, test, state):
        got = expect.parts(got, names, order=(train, test))
        got_train = expect.array(got[0], f"f_t(X){state}", shape=train.shape, axes="N K")
        if np.shape(got[1]) == test.shape and not np.isfinite(np.asarray(got[1], np.float64)).all():
            expect.fail(f"f_t(x){state} is not finite, and f_t(X) is: is something divided by an eigenvalue 0?")
        return got_train, expect.array(got[1], f"f_t(x){state}", shape=test.shape, axes="M K")

    y, f0, f0_test = rng.normal(size=(n, k)), rng.normal(size=(n, k)), 1 + rng.normal(size=(m, k))
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    for singular in (False, True):
        spectrum = np.linspace(1.0, 6.0, n) * rng.uniform(0.9, 1.1, size=n)
        spectrum[: 2 * singular] = 0.0
        theta = (basis * spectrum) @ basis.T
        theta = (theta + theta.T) / 2
        theta_test = rng.normal(size=(m, n)) @ theta / 3  # knows nothing of the null directions either
        given, t = (theta, theta_test, y, f0, f0_test), 1.5

        def curve(wanted=y - f0, at=t / n, spectrum=spectrum, theta_test=theta_test, modes=basis):
            safe = np.where(spectrum > 0, spectrum, 1.0)
            learned = np.where(spectrum > 0, 1 - np.exp(-safe * at), 0.0)
            over = np.where(spectrum > 0, learned / safe, at)
            w = modes.T @ wanted
            return f0 + modes @ (learned[:, None] * w), f0_test + theta_test @ (modes @ (over[:, None] * w))

        train, test = curve()
        state = " of a singular kernel" if singular else ""
        with expect.without("gradient_flow", "gradient_descent"):
            got = expect.call(answer, *given, t)
        got_train, got_test = outputs(got, train, test, state)

        def with_rows(theta=theta, t=t):
            modes = np.asarray(jnp.linalg.eigh(jnp.asarray(theta))[1])
            learned = 1 - np.exp(-np.linalg.eigvalsh(theta) * t / n)
            return f0 + modes.T @ (learned[:, None] * (modes @ (y - f0)))

        backwards = y + basis @ (np.exp(spectrum * t / n)[:, None] * (basis.T @ (f0 - y)))
        slips = {
            "that is the flow for a loss summed over the examples; ours is a mean, so t/N.": curve(at=t)[0],
            "that is twice too fast: the ½ of the loss cancels the 2 of the square.": curve(at=2 * t / n)[0],
            "that is twice too slow: the ½ of the loss cancels the 2 of the square.": curve(at=t / n / 2)[0],
            "it is divided by the number K of outputs as well; the loss is a mean over examples.": curve(at=t / n / k)[
                0
            ],
            "1/N is there twice.": curve(at=t / n**2)[0],
            "time runs backwards: the residual decays, e^(−λt/N).": backwards,
            "f0 stands where y should, or the other way round: what decays is f0 − y.": f0 + y - train,
            "that is the residual; add y.": train - y,
            "that starts from zero; at t = 0 the outputs are f0.": train - f0,
            "y drives there; what drives is y − f0.": curve(wanted=y)[0],
            "the modes are the columns of what `eigh` returns; rows were used.": with_rows,
            "e^(−Θt/N) was taken entry by entry; it is that of the matrix.": y + np.exp(-theta * t / n) @ (f0 - y),
        }
        expect.close(got_train, train, f"f_t(X){state}", rtol=3e-4, slips=slips)
        moved = test - f0_test
        learned = curve()[0] - f0
        slips = {
            "the start at the test points is missing, f_0(x).": moved,
            "y drives there; what drives the test points is y − f0 at the training points.": curve(wanted=y)[1],
            "both f_0(x) is missing and y drives in the place of y − f0.": curve(wanted=y)[1] - f0_test,
            "the residual has the wrong sign: y − f0 drives.": f0_test - moved,
            "1/N is lost in the exponent.": curve(at=t)[1],
            "1/N enters once too often: it is in the rate already.": f0_test + moved / n,
            "1/N is missing in front of the integral of e^(−λt/N).": f0_test + moved * n,
            "Θ⁻¹ is missing: (1 − e^(−λt/N))/λ, not (1 − e^(−λt/N)).": f0_test + theta_test @ learned,
            "that is t = ∞, the end of training: (1 − e^(−λt/N))/λ, not 1/λ.": curve(at=1e9)[1],
            "t is divided by the number M of test points; the loss has the N training points.": curve(at=t / m)[1],
        }
        expect.close(got_test, test, f"f_t(x){state}", rtol=3e-4, slips=slips)
        late = curve(at=12.0)  # where an approximate inverse shows
        got = outputs(expect.call(answer, *given, 12.0 * n), *late, f"{state} at a late time")
        expect.close(got[0], late[0], f"f_t(X){state} at a late time", rtol=3e-4)
        expect.close(
            got[1],
            late[1],
            f"f_t(x){state} at a late time",
            rtol=3e-4,
        )
    start = outputs(expect.call(answer, *given, 0.0), f0, f0_test, " at t = 0")
    expect.that(
        np.abs(start[0] - f0).max() < 1e-4 and np.abs(start[1] - f0_test).max() < 1e-4,
        "at t = 0 it should return f0 and f0_test.",
    )
    # Zero as it is, and as rounding leaves it.
    for smallest in (0.0, -1e-7):
        theta = np.diag([2.0, 1.0, 0.5, smallest])
        cross = np.array([[0.3, -0.2, 0.5, 0.0], [1.0, 0.4, -0.6, 0.0]])
        y, f0, f0_test = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.normal(size=(2, 3))
        for t, when in ((3.0, ""), (1e9, " at a late time")):
            inverse = (1 - np.exp(-np.diag(theta)[:3] * t / 4)) / np.diag(theta)[:3]
            kept = np.append(np.exp(-np.diag(theta)[:3] * t / 4), 1.0)[:, None]
            train, test = y + kept * (f0 - y), f0_test + cross[:, :3] @ (inverse[:, None] * (y - f0)[:3])
            zero = "0" if smallest == 0 else "−1e-7"
            state = f" of a kernel with the eigenvalue {zero}{when}"
            got = outputs(expect.call(answer, theta, cross, y, f0, f0_test, t), train, test, state)
            for name, value, want in zip(names, got, (train, test), strict=True):
                expect.that(
                    np.abs(value).max() < 1e3,
                    f"{name}{state} runs away: e^(−λt/N) grows where rounding makes a zero eigenvalue slightly "
                    "negative. Treat what is below about 1e-6 of the largest as zero.",
                )
                expect.close(value, want, f"{name}{state}", rtol=3e-4)


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

    n = 3  # not the number of the modes below, so that an answer that counts them is seen
    eigenvalues = np.sort(rng.uniform(0.05, 1, size=5) * n)
    rate, momentum = float(rng.uniform(0.5, 0.8)), float(rng.uniform(0.6, 0.85))
    # critical damping, (1 − √μ)² = ηλ/N, and a mode of no slope
    eigenvalues = np.concatenate([[0.0, n * (1 - momentum**0.5) ** 2 / rate], eigenvalues])

    def run(steps, eta=rate, mu=momentum, scale=n, gain=1.0, old=False, nesterov=False, velocity=False):
        z, v = np.ones_like(eigenvalues), 0 * eigenvalues
        for _ in range(steps):
            new = mu * v + gain * eigenvalues / scale * z
            step = v if old else new
            z = z - eta * (mu * new + eigenvalues / scale * z if nesterov else step)
            v = new
        return v if velocity else z

    def two_terms(steps, before=0.0):
        """z_{s+1} = (1 + μ − ηλ/N) z_s − μ z_{s−1} from another z_{−1} than 1."""
        z, before = np.ones_like(eigenvalues), before + 0 * eigenvalues
        for _ in range(steps):
            z, before = (1 + momentum - rate * eigenvalues / n) * z - momentum * before, z
        return z

    for steps in (7, 4):
        with expect.without("gradient_descent"):
            got = expect.call(answer, eigenvalues, n, rate, momentum, steps)
        got = expect.array(got, shape=(len(eigenvalues),), axes="m")
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
                "the rate is twice too large: the ½ of the loss cancels the 2 of the square.": run(steps, scale=n / 2),
                "the gradient is damped by 1 − μ there; Optax does not do that.": run(steps, gain=1 - momentum),
                "that is Nesterov's momentum; heavy ball moves along v itself.": run(steps, nesterov=True),
                "z moves with the old v; Optax updates v first.": run(steps, old=True),
                "that is one step more.": run(steps + 1),
                "that is one step less.": run(steps - 1),
                "the sign of μ is wrong: velocity is kept.": run(steps, mu=-momentum),
                "that is the loss; the amplitude z is wanted, not its square.": run(steps) ** 2,
                "that is the part learned, 1 − z.": 1 - run(steps),
                "that is the velocity v; the residual z is wanted.": run(steps, velocity=True),
                "v = 0 at the start means z_{−1} = z_0 = 1; here the residual was 0 before.": two_terms(steps),
                "μ multiplies z there; it is the velocity of which a part is kept.": (momentum - rate * eigenvalues / n)
                ** steps,
            },
        )
    got = expect.array(expect.call(answer, eigenvalues, n, rate, momentum, 0), shape=(len(eigenvalues),))
    expect.that(np.abs(got - 1).max() < 1e-5, "after no step z should be 1.")
    # The double root, in numbers that have no rounding: r² − r + 1/4 = 0.
    got = expect.array(expect.call(answer, np.array([0.25, 0.0]), 1, 1.0, 0.25, 3), "z", shape=(2,), axes="m")
    expect.close(got, [0.3125, 1.0], "z at a double root, (1 − √μ)² = ηλ/N,", rtol=1e-4)
    # Above ηλ/N = 1 + μ = 1.25, by hand: complex roots with a negative real part, then two negative roots.
    got = expect.array(expect.call(answer, np.array([2.0, 2.3]), 1, 1.0, 0.25, 3), "z", shape=(2,), axes="m")
    expect.that(
        np.abs(got - np.array([-0.125, -0.84575])).max() < 1e-4,
        "z is not right where ηλ/N is above 1 + μ. There the roots have a negative real part.",
    )


_FRACTIONS = (0.4, 0.2, 0.1, 0.02, 5e-3, 1e-3)


@functools.cache
def _problem(n, k, seed):
    """A kernel, residuals and a rate for which each slip gives steps of its own, and these. It takes many draws."""
    import numpy as np

    rng = np.random.default_rng(seed)
    steps = np.arange(2001)

    def draw():
        """A problem, the right numbers of steps, and those of each slip."""
        modes = np.linalg.qr(rng.normal(size=(n, n)))[0]
        theta = 5.0 * (modes * rng.uniform(0.03, 1, size=n)) @ modes.T
        # unequal parts of each mode, so that no other weights give the same numbers
        parts = rng.permutation(np.geomspace(0.3, 3.0, n))[:, None] * rng.choice([-1.0, 1.0], size=(n, k))
        r0 = modes @ (parts * rng.uniform(0.7, 1.3, size=(n, k)))
        eigenvalues, modes = np.linalg.eigh(theta)
        w = np.sum((modes.T @ r0) ** 2, axis=1)
        rate = 0.25 * n / eigenvalues[-1]

        def all_of(shift=0, power=2, weight=w, base=1 - rate * eigenvalues / n, to=1, half=1):
            curve = np.abs(base)[None] ** (power * steps[:, None]) @ weight
            return [int(np.argmax(curve <= half * fraction**to * curve[0])) + shift for fraction in _FRACTIONS]

        slips = {
            "the loss is quadratic in the residual: it decays with the power 2s, not s.": all_of(power=1),
            "that is where the norm of the residual has fallen so far; the loss is its square.": all_of(to=2),
            "that is the first output alone; the loss sums over all.": all_of(weight=(modes.T @ r0[:, 0]) ** 2),
            "½ stands there on one side of the comparison only.": all_of(half=2),
            "1/N stands there twice; the rate of a mode is λ/N.": all_of(base=1 - rate * eigenvalues / n**2),
            "that is the largest mode alone; all modes count, weighted with the residual.": all_of(
                weight=np.eye(n)[-1]
            ),
            "that is the slowest mode alone; all modes count, weighted with the residual.": all_of(weight=np.eye(n)[0]),
            "all modes have the same weight there; weigh them with the residual's components.": all_of(
                weight=np.ones(n)
            ),
            "the components of the residual should be squared.": all_of(weight=np.abs(modes.T @ r0).sum(1)),
            "that is gradient flow, e^(−2ηλs/N); with steps of this size the difference counts.": all_of(
                base=np.exp(-rate * eigenvalues / n)
            ),
            "that is twice too fast: the ½ of the loss cancels the 2 of the square.": all_of(
                base=1 - 2 * rate * eigenvalues / n
            ),
            "1/K stands there as well; the rate of a mode is λ/N.": all_of(base=1 - rate * eigenvalues / n / k),
            "that is one step too many.": all_of(shift=1),
            "that is one step too few.": all_of(shift=-1),
        }
        rows = all_of(weight=np.sum((modes @ r0) ** 2, axis=1))
        curve = np.abs(1 - rate * eigenvalues / n)[None] ** steps[:, None]
        largest = np.square((curve[:, :, None] * (modes.T @ r0)).transpose(0, 2, 1) @ modes.T).max((1, 2))
        slips["that is the largest squared residual; the loss is the mean of all."] = [
            int(np.argmax(largest <= fraction * largest[0])) for fraction in _FRACTIONS
        ]
        return theta, r0, rate, all_of(), slips, rows

    while True:
        *given, want, slips, rows = draw()
        if len({*map(tuple, (want, rows, *slips.values()))}) == len(slips) + 2:
            return *given, want, slips


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

    n, k = expect.one_of(rng, (8, 3), (9, 5))
    theta, r0, rate, want, slips = _problem(n, k, int(rng.integers(2**32)))
    values = []
    for fraction in _FRACTIONS:
        with expect.without("gradient_flow", "gradient_descent"):
            got = expect.call(answer, fraction, theta, r0, rate, 2000)
        values.append(expect.whole(got, "the number of steps"))
    expect.that(
        max(values) < 2000,
        "the loss never gets there in `max_steps`: does the residual not decay? A step is r − (η/N) Θ r.",
    )
    for message, wrong in slips.items():
        if values == wrong and wrong != want:
            expect.fail(f"the number of steps is not right: {message}")
    expect.that(
        values == want,
        "the number of steps is not right. Try a diagonal kernel, where each component of r0 is a mode.",
    )
    # ηλ/N is 1.5 and 0.75: the loss over its start is 1, 0.156, 0.033.
    fast = expect.call(answer, 0.1, np.diag([4.0, 2.0]), np.ones((2, 1)), 0.75, 20)
    expect.that(
        expect.whole(fast, "the number of steps") == 2,
        "the number of steps is not right for a stable rate with ηλ/N above 1: there 1 − ηλ/N is negative.",
    )
    return "Now the measurement below"


@task(
    "04.4",
    "corrected_prediction",
    minutes=15,
    difficulty=3,
    section="At test points: integrate what the training points do",
    hints=(
        "Take a network that says y at the training points from the start. What should training change, "
        "anywhere? What does the suspect say?",
        "Compare the two lines that apply `modes.T`: what is it that both training and test points are driven by?",
        "The components in `coefficients` should be those of y − f0, as in the line for the training points. The rest "
        "stays as it is.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, k = expect.one_of(rng, (5, 7, 3), (6, 4, 5))
    jac, jac_test = rng.normal(size=(n, 3 * n)), rng.normal(size=(m, 3 * n))
    theta, theta_test = jac @ jac.T, jac_test @ jac.T
    y, f0, f0_test = rng.normal(size=(n, k)), rng.normal(size=(n, k)), 1 + rng.normal(size=(m, k))
    t = 0.4
    eigenvalues, modes = np.linalg.eigh(theta)
    learned = 1 - np.exp(-eigenvalues * t / n)

    def coefficients(wanted, factor=learned / eigenvalues):
        return modes @ (factor[:, None] * (modes.T @ wanted))

    train = f0 + coefficients(y - f0, learned)
    test = f0_test + theta_test @ coefficients(y - f0)
    with expect.without("gradient_flow"):
        got = expect.call(answer, theta, theta_test, y, f0, f0_test, t)
    got_train, got_test = expect.parts(got, ("f_t(X)", "f_t(x)"), order=(train, test))
    got_train = expect.array(got_train, "f_t(X)", shape=(n, k), axes="N K")
    got_test = expect.array(got_test, "f_t(x)", shape=(m, k), axes="M K")
    slips = {
        "y drives there; what drives is y − f0.": f0 + coefficients(y, learned),
        "1/λ does not belong there.": f0 + coefficients(y - f0),
        "1/N is lost in the exponent.": f0 + coefficients(y - f0, 1 - np.exp(-eigenvalues * t)),
        "that is t = ∞, the end of training.": y,
    }
    expect.close(got_train, train, "f_t(X), which was right before,", rtol=5e-4, slips=slips)
    expect.close(
        got_test,
        test,
        "f_t(x)",
        rtol=5e-4,
        slips={
            "that is what the suspect says.": f0_test + theta_test @ coefficients(y),
            "f_0(x) should stay: only what is added to it was wrong.": theta_test @ coefficients(y - f0),
            "that forgets the start altogether; it was in the right place.": theta_test @ coefficients(y),
            "the sign of f0 is wrong: the network need not learn what it says already.": f0_test
            + theta_test @ coefficients(y + f0),
            "the residual has the wrong sign: y − f0 drives.": f0_test - theta_test @ coefficients(y - f0),
            "1/λ is lost.": f0_test + theta_test @ coefficients(y - f0, learned),
            "1/N enters there a second time.": f0_test + theta_test @ coefficients(y - f0) / n,
            "1/N is lost in the exponent.": f0_test
            + theta_test @ coefficients(y - f0, (1 - np.exp(-eigenvalues * t)) / eigenvalues),
            "that is t = ∞, the end of training: Θ⁻¹(1 − e^(−Θt/N)), not Θ⁻¹.": f0_test
            + theta_test @ coefficients(y - f0, 1 / eigenvalues),
            "Θ⁻¹ acts on the outputs f_t(X); it is their change, f_t(X) − f0, that it belongs to.": f0_test
            + theta_test @ coefficients(train, 1 / eigenvalues),
        },
    )
    return "It drove the test points with y"


written(
    "04.5",
    "not_a_posterior",
    rubric=(
        "a posterior selects functions of the prior; descent changes each of them;",
        "they start with the covariance Σ and are changed by Θ: both kernels are in the result;",
        "training the readout alone makes the two equal, and then it is a posterior.",
    ),
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
    rubric=(
        "predicted times and distances for real labels and for several shuffles, with their spread;",
        "both prices are higher for nonsense (about 2 times and 1.4 times), and why one more than the other;",
        "a network trained on both, compared with the prediction.",
    ),
    minutes=30,
    difficulty=4,
    section="Which modes are learned first",
    hints=(
        "Both prices are sums over modes of (u_i·y)² times a function of λ_i. Which function, each time?",
        "Loss: e^(−2λt/N). Distance squared: 1/λ. Compute u_i·y for real and shuffled labels with `jnp.linalg.eigh`.",
        "distance = sqrt(y.T @ solve(kernel, y)) in float64; for the time evaluate gradient_flow on a fine grid of t "
        "and take the first at which the loss is below a hundredth.",
    ),
)
