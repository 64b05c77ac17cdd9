"""Checks of chapter 08, the noise of SGD."""

from course import expect
from course.tasks import task, written


@task(
    "08.1",
    "batch_covariance",
    minutes=15,
    difficulty=2,
    section="One step of SGD, seen in function space",
    hints=(
        "The counts n_i of a batch have a covariance of their own, the same for all examples; the residuals only scale "
        "it: entry (i, j) gets the factor r_i r_j, summed over the outputs.",
        "s [diag(Σ_k r_k²)/N − Σ_k r_k r_kᵀ/N²]: a diagonal matrix [N, N] from `jnp.sum(r**2, axis=1)`, minus r @ r.T, "
        "each with its own power of N. s depends on `replace`.",
        "s = 1/batch_size if replace else (n - batch_size)/(batch_size*(n - 1)); "
        "s * (jnp.diag(jnp.sum(r**2, axis=1))/n - r @ r.T/n**2).",
    ),
)
def _(answer, rng):
    import numpy as np

    n, b, k = expect.one_of(rng, (7, 3, 5), (9, 5, 3))
    r = rng.normal(size=(n, k)) + 0.5
    squares, outer = np.diag((r**2).sum(1)), r @ r.T
    without, with_ = (n - b) / (b * (n - 1)), 1 / b

    def of(s):
        return s * (squares / n - outer / n**2)

    for replace, s, other in ((True, with_, without), (False, without, with_)):
        with expect.without("noise_covariance", "sgd_moments"):
            got = expect.call(answer, r, b, replace)
        if np.shape(got) == (n,):
            expect.fail("that is one number for each example, the variances; the covariances are wanted, [N, N].")
        got = expect.array(got, "the covariance", shape=(n, n), axes="N N")
        expect.close(
            got,
            of(s),
            f"the covariance with replace={replace}",
            slips={
                "with and without replacement seem to be exchanged, or one is used for both.": of(other),
                "the second term is missing: subtract the mean's square, r rᵀ/N².": s * squares / n,
                "the second term needs 1/N², the first 1/N.": s * (squares - outer) / n,
                "the first term needs 1/N, the second 1/N².": s * (squares - outer) / n**2,
                "the second term should be subtracted, not added.": s * (squares / n + outer / n**2),
                "both terms are without 1/N: the first needs 1/N, the second 1/N².": s * (squares - outer),
                "the sampling factor s is missing.": of(1.0),
                "s without replacement is (N − B)/(B (N − 1)), with N − 1 in the denominator.": of((n - b) / (b * n)),
                "s without replacement is (N − B)/(B (N − 1)); N and B have changed places in the denominator.": of(
                    (n - b) / (n * (b - 1))
                ),
                "s is squared or B is: one step averages B draws, which divides the variance by B once.": of(s / b),
                "the residuals are not squared on the diagonal.": s * (np.diag(r.sum(1)) / n - outer / n**2),
                "that is the first output alone; the outputs are summed.": s
                * (np.diag(r[:, 0] ** 2) / n - np.outer(r[:, 0], r[:, 0]) / n**2),
                "that is the covariance of the sum over the batch, in place of the mean.": of(s * b**2),
                "the outputs were added up before anything was squared.": s
                * (np.diag(r.sum(1) ** 2) / n - np.outer(r.sum(1), r.sum(1)) / n**2),
            },
            factors={"N": n, "B": b, "the number of outputs": k},
        )
    full = expect.array(expect.call(answer, r, n, False), "the covariance", shape=(n, n), axes="N N")
    expect.that(np.abs(full).max() < 1e-6, "a full batch without replacement has no noise.")
    return "A full batch has noise only if it is drawn with replacement"


@task(
    "08.2",
    "next_moments",
    minutes=20,
    difficulty=3,
    section="Two moments are enough",
    hints=(
        "Two parts: what is there is contracted by A on both sides, and a new batch adds noise that depends on the "
        "second moment M of the residual, of its mean and its spread.",
        "M = outer(mean, mean) + cov. The batch noise is (diag of M's diagonal)/N − M/N², over B; Θ acts on it from "
        "both sides, and a step of η gives η². `jnp.diag` makes a matrix of a vector and a vector of a matrix.",
        "noise = (jnp.diag(jnp.diag(M))/n - M/n**2)/batch_size; return A @ mean, A @ cov @ A + "
        "learning_rate**2 * theta @ noise @ theta.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, b, eta = expect.one_of(rng, (5, 3, 0.3), (6, 7, 0.2))
    j, half = rng.normal(size=(n, n + 3)), rng.normal(size=(n, n - 1))
    theta, mean, cov = j @ j.T, rng.normal(size=n) + 1.0, half @ half.T
    eye = np.eye(n)
    a = eye - eta * theta / n

    def step(second, *, rate=eta**2, left=theta, right=theta, s=1 / b, kept=None):
        noise = s * (np.diag(np.diag(second)) / n - second / n**2)
        return (a @ cov @ a if kept is None else kept) + rate * left @ noise @ right

    outer = np.outer(mean, mean)
    second = outer + cov
    with expect.without("sgd_moments"):
        pair = expect.call(answer, theta, mean, cov, eta, b)
    got = expect.parts(pair, ("the mean", "the covariance"), order=(a @ mean, step(second)))
    got_mean = expect.array(got[0], "the mean", shape=(n,), axes="N")
    got_cov = expect.array(got[1], "the covariance", shape=(n, n), axes="N N")
    expect.close(
        got_mean,
        a @ mean,
        "the mean",
        slips={
            "the step lacks 1/N: A = 1 − ηΘ/N.": mean - eta * theta @ mean,
            "that is the mean before the step.": mean,
            "the mean of a batch is 1/N per example, whatever B is.": mean - eta * theta @ mean / b,
            "A is applied twice.": a @ a @ mean,
        },
    )
    expect.close(
        got_cov,
        step(second),
        "the covariance",
        slips={
            "the noise comes from the second moment M = r̄ r̄ᵀ + V; the mean's part is missing.": step(cov),
            "the noise comes from the second moment M = r̄ r̄ᵀ + V; the covariance's part is missing.": step(outer),
            "the noise of a step of η has the factor η².": step(second, rate=eta),
            "Θ acts on the noise from both sides.": step(second, right=eye),
            "the kernel is missing around the noise.": step(second, left=eye, right=eye),
            "the old covariance must be contracted by A from both sides.": step(second, kept=cov),
            "A acts on the old covariance from both sides, here from one.": step(second, kept=a @ cov),
            "the sampling factor 1/B is missing.": step(second, s=1.0),
            "that is the factor of draws without replacement.": step(second, s=(n - b) / (b * (n - 1))),
            "only the new noise is there: the old covariance is lost.": step(second, kept=0 * cov),
            "the new noise is missing.": a @ cov @ a,
            "−M/N² is missing in the noise.": a @ cov @ a + eta**2 / b * theta @ np.diag(np.diag(second)) @ theta / n,
            "M has the mean of before the step, not that of after it.": step(np.outer(a @ mean, a @ mean) + cov),
            "M has the covariance of before the step, not A V A.": step(outer + a @ cov @ a),
            "M has mean and covariance of before the step, not those of after it.": step(
                np.outer(a @ mean, a @ mean) + a @ cov @ a
            ),
            "M/N² belongs there, where M/N stands.": a @ cov @ a
            + eta**2 / b * theta @ (np.diag(np.diag(second)) - second) @ theta / n,
            "the first term is a diagonal matrix: `jnp.diag` of a matrix is a vector, and of that a matrix.": a
            @ cov
            @ a
            + eta**2 / b * theta @ (np.diag(second) / n - second / n**2) @ theta,
            "the whole M stands where only its diagonal belongs.": a @ cov @ a
            + eta**2 / b * theta @ (second / n - second / n**2) @ theta,
            "M was contracted in place of V: the result is a second moment, not a covariance.": step(second)
            + np.outer(a @ mean, a @ mean),
        },
    )


@task(
    "08.3",
    "four times the batch",
    minutes=10,
    difficulty=2,
    section="One step of SGD, seen in function space",
    hints=(
        "After one step from a fixed start the whole covariance is proportional to the sampling factor s.",
        "Without replacement s = (N − B)/(B (N − 1)). Take the ratio for the two batch sizes.",
        "((32 − 4)/4) / ((32 − 16)/16).",
    ),
)
def _(answer, rng):
    expect.number(
        answer,
        7.0,
        "the factor",
        rtol=0.01,
        slips={
            "that is 1/B, for draws with replacement; here half of all examples are in the larger batch.": 4.0,
            "that is the ratio of standard deviations; the variance was asked for.": 7.0**0.5,
            "that is the standard deviation, with replacement.": 2.0,
            "it is the other way around: the smaller batch has the larger variance.": 1 / 7,
            "only the finite-population factor is there; a batch also averages over B draws.": 1.75,
            "the variance goes with s, not with its square.": 49.0,
            "1/B enters once, not squared.": 28.0,
            "that is the squared ratio of the batch sizes; 1/B enters once, and N − B as well.": 16.0,
            "1/B is upside down: a batch of 4 has the larger variance for that reason, too.": 7 / 16,
        },
    )
    return "More than four: a large batch leaves little to chance"


@task(
    "08.4",
    "label noise, spot the error",
    minutes=20,
    difficulty=3,
    section="Is it a temperature?",
    hints=(
        "Do not only check the algebra between the lines: check in each line that the matrices have the right size. "
        "How large is the trace of the sum in line 2?",
        "In a batch of all N examples the sum of e_i e_iᵀ over the batch is the unit matrix. Then what is "
        "(η²/B²) Θ σ² 1 Θ in terms of B, and what does line 2 say?",
        "Line 2 has 1/B where 1/B² belongs (for B = N; 1/(BN) in general). With a = ηλ/N the rest goes through: "
        "m = σ² a/(2 − a).",
    ),
)
def _(answer, rng):
    import numpy as np

    line, variances = expect.parts(answer, ("wrong_line", "stationary_variances"))
    another = "the first error is in another line:"
    expect.line(
        line,
        2,
        5,
        {
            1: f"{another} line 1 is right: a step moves r by −(η/B) Θ Σ (r_i − ε_i) e_i.",
            3: f"{another} the form of line 3 is right; the term that it takes over is wrong already. Look further up.",
            4: f"{another} line 4 follows from line 3: 1 − (1 − a)² = a (2 − a). Look further up.",
            5: f"{another} line 5 puts B = N into line 4, as it should. Look further up.",
        },
    )
    n = expect.one_of(rng, 5, 7)
    values = rng.uniform(0.2, 2.2, size=n)
    eta, sigma = 0.7, 0.4
    a = eta * values / n
    with expect.without("stationary_covariance", "mean_square_limit", "sgd_moments"):
        got = expect.call(variances, values, eta, sigma)
    got = expect.array(got, "the array of variances", shape=(n,), axes="N")
    expect.close(
        got,
        sigma**2 * a / (2 - a),
        "the array of variances",
        slips={
            "that is the flawed result, N times too large.": sigma**2 * eta * values / (2 - a),
            "σ is the standard deviation of the noise: it enters squared.": sigma * a / (2 - a),
            "the denominator is 2 − ηλ/N, not 1 − ηλ/N: (1 − a)² has −2a.": sigma**2 * a / (1 - a),
            "that is the limit of small steps; the denominator has − ηλ/N.": sigma**2 * a / 2,
            "the denominator is 2 − ηλ/N; here 1/N is missing in it.": sigma**2 * a / (2 - eta * values),
            "the denominator is 2 minus ηλ/N, not plus.": sigma**2 * a / (2 + a),
            "one factor ηλ/N too much: it cancels against the denominator a (2 − a).": sigma**2 * a**2 / (2 - a),
            "that is the noise of one step, not what it adds up to.": sigma**2 * a**2,
            "it is the same for all modes: a temperature, η σ²/(2N), is the variance of a parameter; that of a mode "
            "has the factor λ.": np.full(n, sigma**2 * eta / (2 * n)),
            "there are N modes and examples, not N − 1.": sigma**2 * eta * values / (2 * (n - 1) - eta * values),
        },
        factors={"N": n},
    )
    ends = expect.call(variances, np.array([1.0, 0.0]), eta, sigma)
    still = np.ravel(np.asarray(ends, np.float64))[-1]
    expect.that(np.isfinite(still), "for an eigenvalue 0 it divides 0 by 0; such a mode is never moved.")
    ends = expect.array(ends, "the array of variances", shape=(2,))
    expect.that(abs(ends[1]) < 1e-9, "a mode with eigenvalue 0 is never moved: its variance is 0.")
    return "ηλ/N → 2 is the limit for the learning rate once more"


written(
    "08.5",
    "the average of many runs",
    rubric=(
        "right: the average has less variance than a run, 50 times less;",
        "wrong: in a linear model the average of parameters is that of functions, full-batch gradient descent's;",
        "the test: one run of gradient descent, to be compared within std/√50.",
    ),
    minutes=10,
    difficulty=2,
    section="Is it a regularizer?",
    hints=(
        "In a model that is linear in its parameters, what is the function of averaged parameters?",
        "What is the mean of SGD's outputs, for any batch size? And how large is the loss of a single run compared "
        "with that of the mean?",
        "Average of parameters = average of functions → gradient descent's function. Single runs have the mean "
        "variance, halved, on top. So: one run of gradient descent, and compare.",
    ),
)

written(
    "08.6",
    "momentum",
    rubric=(
        "predicted for small η: like the rate η/(1 − μ), 2 and 10 times the variance;",
        "one mode at any η, from the recursion of two numbers;",
        "measured beside it, and what is held fixed when the noise 'does not change': η/(1 − μ).",
    ),
    minutes=40,
    difficulty=4,
    section="Is it a temperature?",
    hints=(
        "A noisy residual stays in v and acts again and again, each time less by μ. Sum it up.",
        "Small steps: like a learning rate η/(1 − μ). For one mode, write r_{t+1} = (1 + μ − a) r_t − μ r_{t−1} + a ε "
        "with a = ηλ/N.",
        "Multiply this by r_t and r_{t−1}, take expectations, and solve for E r²: "
        "a σ² (1 + μ)/((1 − μ)(2(1 + μ) − a)).",
    ),
)
