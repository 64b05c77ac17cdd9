"""Right and wrong answers to the tasks of chapter 04."""

import jax
import jax.numpy as jnp
import numpy as np
from mutations import Table, cases

import ntklib as ntk


def flow(theta, theta_test, y, f0, f0_test, t, *, zero_at=1e-6, n=None, at_zero=True, wanted=None, inverse=True):
    n = len(theta) if n is None else n
    values, modes = jnp.linalg.eigh(theta)
    zero = values <= zero_at * values[-1]
    safe = jnp.where(zero, 1.0, values)
    learned = jnp.where(zero, 0.0, -jnp.expm1(-safe * t / n))
    over = jnp.where(zero, t / n if at_zero else 0.0, learned / safe)
    w = modes.T @ (y - f0 if wanted is None else wanted(y, f0))
    return (
        f0 + modes @ (learned[:, None] * w),
        f0_test + theta_test @ (modes @ ((over if inverse else learned)[:, None] * w)),
    )


def by_library(theta, theta_test, y, f0, f0_test, t):
    return ntk.gradient_flow(theta, y, t=t, f0=f0, ntk_test_train=theta_test, f0_test=f0_test)


def by_inverse(theta, theta_test, y, f0, f0_test, t):
    decay = jax.scipy.linalg.expm(-theta * t / len(theta))
    return y + decay @ (f0 - y), f0_test + theta_test @ jnp.linalg.inv(theta) @ (y - f0 - decay @ (y - f0))


def naive(theta, theta_test, y, f0, f0_test, t):
    """Only an exact zero is taken care of."""
    values, modes = jnp.linalg.eigh(theta)
    learned = 1 - jnp.exp(-values * t / len(theta))
    over = jnp.where(values == 0, t / len(theta), learned / jnp.where(values == 0, 1.0, values))
    w = modes.T @ (y - f0)
    return f0 + modes @ (learned[:, None] * w), f0_test + theta_test @ (modes @ (over[:, None] * w))


def in_numpy(K, K_new, targets, start, start_new, time):
    """Under other names, mode by mode."""
    lam, u = np.linalg.eigh(np.asarray(K, np.float64))
    train, test = np.array(start, np.float64), np.array(start_new, np.float64)
    for value, mode in zip(lam, u.T, strict=True):
        part = mode @ (np.asarray(targets, np.float64) - np.asarray(start, np.float64))
        value = max(value, 0.0) if value > 1e-6 * lam[-1] else 0.0
        rate = value * time / len(lam)
        train += np.outer(mode, part) * -np.expm1(-rate)
        over = -np.expm1(-rate) / value if value else time / len(lam)
        test += np.outer(np.asarray(K_new, np.float64) @ mode, part) * over
    return [train, test]


def regularized(theta, theta_test, y, f0, f0_test, t, eps=1e-2):
    return by_inverse(theta + eps * jnp.eye(len(theta)), theta_test, y, f0, f0_test, t)


def by_pinv(theta, theta_test, y, f0, f0_test, t):
    """Right as long as the test points know nothing of the null space."""
    values, modes = jnp.linalg.eigh(theta)
    decay = modes @ jnp.diag(jnp.exp(-jnp.clip(values, 0) * t / len(theta))) @ modes.T
    change = y - f0 - decay @ (y - f0)
    return f0 + change, f0_test + theta_test @ jnp.linalg.pinv(theta, rtol=1e-5) @ change


def entry_by_entry(theta, theta_test, y, f0, f0_test, t):
    return y + jnp.exp(-theta * t / len(theta)) @ (f0 - y), f0_test


def at_zero_wrong(*args):
    train, test = flow(*args)
    return train, jnp.where(args[-1] == 0, 0.0, test)


def flow_with(train=None, test=None, **options):
    """`flow` with its parts changed."""

    def answer(theta, theta_test, y, f0, f0_test, t):
        a, b = flow(theta, theta_test, y, f0, f0_test, t, **options)
        around = {"y": y, "f0": f0, "f0_test": f0_test, "n": len(theta)}
        return a if train is None else train(a, **around), b if test is None else test(b, **around)

    return answer


def rows_for_columns(theta, theta_test, y, f0, f0_test, t):
    values, modes = jnp.linalg.eigh(theta)
    safe = jnp.where(values <= 1e-6 * values[-1], 1.0, values)
    learned = jnp.where(values <= 1e-6 * values[-1], 0.0, -jnp.expm1(-safe * t / len(theta)))
    return f0 + modes.T @ (learned[:, None] * (modes @ (y - f0))), f0_test


def heavy_ball(eigenvalues, N, learning_rate, momentum, steps):
    z, v = jnp.ones_like(eigenvalues), jnp.zeros_like(eigenvalues)
    for _ in range(steps):
        v = momentum * v + eigenvalues / N * z
        z = z - learning_rate * v
    return z


def by_matrix(eigenvalues, N, learning_rate, momentum, steps):
    def one(a):
        step = jnp.array([[1 + momentum - learning_rate * a, -momentum], [1.0, 0.0]])
        return (jnp.linalg.matrix_power(step, steps) @ jnp.ones(2))[0]  # z_{-1} = z_0: no velocity

    return jax.vmap(one)(eigenvalues / N)


def ball(change=None, extra=0, old=False, nesterov=False, gain=None):
    """`heavy_ball` with its arguments changed, or its order of updates."""

    def answer(eigenvalues, N, learning_rate, momentum, steps):
        if change:
            eigenvalues, N, learning_rate, momentum = change(eigenvalues, N, learning_rate, momentum)
        z, v = jnp.ones_like(eigenvalues), jnp.zeros_like(eigenvalues)
        for _ in range(steps + extra):
            gradient = eigenvalues / N * z
            new = momentum * v + (gain(momentum) if gain else 1.0) * gradient
            z = z - learning_rate * (momentum * new + gradient if nesterov else v if old else new)
            v = new
        return z

    return answer


def roots(eigenvalues, N, learning_rate, momentum, steps):
    b = 1 + momentum - learning_rate * eigenvalues / N
    root = jnp.sqrt((b**2 - 4 * momentum).astype(complex))
    p, q = (b + root) / 2, (b - root) / 2
    return (((1 - q) * p ** (steps + 1) - (1 - p) * q ** (steps + 1)) / (p - q)).real


def by_angle(arctan):
    """Powers of the roots, those of complex ones by their angle `arctan(imaginary part, real part)`."""

    def answer(lam, N, eta, mu, steps):
        b = 1 + mu - eta * lam / N
        gap = b**2 - 4 * mu
        root = jnp.sqrt(jnp.abs(gap))
        angle = arctan(root, b)
        complex_roots = jnp.sin((steps + 1) * angle) - mu**0.5 * jnp.sin(steps * angle)
        complex_roots = mu ** (steps / 2) * complex_roots / jnp.sin(angle)
        p, q = (b + root) / 2, (b - root) / 2
        real_roots = ((1 - q) * p ** (steps + 1) - (1 - p) * q ** (steps + 1)) / root
        one_root = mu ** (steps / 2) * (steps + 1 - mu**0.5 * steps)
        return jnp.where(jnp.abs(gap) < 1e-5, one_root, jnp.where(gap < 0, complex_roots, real_roots))

    return answer


def by_three_terms(lam, N, eta, mu, steps):
    """z_{s+1} = (1 + μ − ηλ/N) z_s − μ z_{s−1}."""
    before = now = jnp.ones_like(lam)
    for _ in range(steps):
        before, now = now, (1 + mu - eta * lam / N) * now - mu * before
    return now


def steps_to(fraction, theta, r0, learning_rate, max_steps=1000):
    values, modes = jnp.linalg.eigh(theta)
    weight = jnp.sum((modes.T @ r0) ** 2, axis=1)
    steps = jnp.arange(max_steps + 1)
    loss = (1 - learning_rate * values / len(theta))[None, :] ** (2 * steps[:, None]) @ weight
    return int(jnp.argmax(loss <= fraction * loss[0]))


def step_by_step(fraction, theta, r0, learning_rate, max_steps=1000):
    r, steps = r0, 0
    step = jax.jit(lambda r: r - learning_rate / len(theta) * theta @ r)
    while float(jnp.sum(r**2)) > fraction * float(jnp.sum(r0**2)):
        r, steps = step(r), steps + 1
    return steps


def counted(weight=None, power=2, base=None, shift=0):
    def answer(fraction, theta, r0, learning_rate, max_steps=1000):
        values, modes = jnp.linalg.eigh(theta)
        w = jnp.sum((modes.T @ r0) ** 2, axis=1) if weight is None else weight(values, modes.T @ r0)
        steps = jnp.arange(max_steps + 1)
        a = learning_rate * values / len(theta)
        left = jnp.abs(1 - a if base is None else base(a, len(theta)))
        loss = left[None, :] ** (power * steps[:, None]) @ w
        return int(jnp.argmax(loss <= fraction * loss[0])) + shift

    return answer


def rows_for_weights(fraction, theta, r0, learning_rate, max_steps=1000):
    values, modes = jnp.linalg.eigh(theta)
    w = jnp.sum((modes @ r0) ** 2, axis=1)
    loss = (1 - learning_rate * values / len(theta))[None, :] ** (2 * jnp.arange(max_steps + 1)[:, None]) @ w
    return int(jnp.argmax(loss <= fraction * loss[0]))


def by_descent(fraction, theta, r0, learning_rate, max_steps=1000):
    steps = np.arange(max_steps + 1)
    out = ntk.gradient_descent(theta, 0 * r0, learning_rate=learning_rate, steps=steps, f0=r0)
    loss = jnp.sum(out**2, axis=(1, 2))
    return int(jnp.argmax(loss <= fraction * loss[0]))


def corrected(theta, theta_test, y, f0, f0_test, t):
    values, modes = jnp.linalg.eigh(theta)
    learned = -jnp.expm1(-values * t / len(theta))
    w = modes.T @ (y - f0)
    return f0 + modes @ (learned[:, None] * w), f0_test + theta_test @ (modes @ ((learned / values)[:, None] * w))


def centred_first(theta, theta_test, y, f0, f0_test, t):
    """The suspect, used for the centred network alone."""
    train, test = flow(theta, theta_test, y - f0, jnp.zeros_like(f0), jnp.zeros_like(f0_test), t)
    return f0 + train, f0_test + test


def over_lambda(theta, theta_test, y, f0, f0_test, t):
    values, modes = jnp.linalg.eigh(theta)
    return f0 + modes @ ((-jnp.expm1(-values * t / len(theta)) / values)[:, None] * (modes.T @ (y - f0)))


def drives(wanted, start=True, scale=1.0):
    def answer(theta, theta_test, y, f0, f0_test, t):
        train, _ = flow(theta, theta_test, y, f0, f0_test, t)
        _, test = flow(theta, theta_test, y, f0, jnp.zeros_like(f0_test), t, wanted=wanted)
        return train, test * (scale if scale == 1.0 else scale / len(theta)) + start * f0_test

    return answer


def velocity(eigenvalues, N, learning_rate, momentum, steps):
    z, v = jnp.ones_like(eigenvalues), jnp.zeros_like(eigenvalues)
    for _ in range(steps):
        v = momentum * v + eigenvalues / N * z
        z = z - learning_rate * v
    return v


def from_nothing(lam, N, eta, mu, steps):
    before, now = jnp.zeros_like(lam), jnp.ones_like(lam)
    for _ in range(steps):
        before, now = now, (1 + mu - eta * lam / N) * now - mu * before
    return now


def where_it_is(small):
    """The first step at which small(r, r0, fraction)."""

    def answer(fraction, theta, r0, learning_rate, max_steps=1000):
        values, modes = np.linalg.eigh(np.asarray(theta, np.float64))
        z, r0 = modes.T @ np.asarray(r0, np.float64), np.asarray(r0, np.float64)
        for s in range(max_steps):
            if small(modes @ ((1 - learning_rate * values / len(values))[:, None] ** s * z), r0, fraction):
                return s
        return max_steps

    return answer


def drives_with(train, test):
    """`corrected` with other factors of the components of y − f0, functions of λ, t and N."""

    def answer(theta, theta_test, y, f0, f0_test, t):
        values, modes = jnp.linalg.eigh(theta)
        w, n = modes.T @ (y - f0), len(theta)
        return (
            f0 + modes @ (train(values, t, n)[:, None] * w),
            f0_test + theta_test @ (modes @ (test(values, t, n)[:, None] * w)),
        )

    return answer


def learned(values, t, n):
    return 1 - jnp.exp(-values * t / n)


def of_the_outputs(theta, theta_test, y, f0, f0_test, t):
    train, _ = corrected(theta, theta_test, y, f0, f0_test, t)
    return train, f0_test + theta_test @ jnp.linalg.solve(theta, train)


TABLES = [
    Table(
        "04.1",
        right={"eigenbasis": flow, "NumPy": in_numpy, "pinv": by_pinv, "jitted": jax.jit(flow)},
        wrong={
            "sum loss": (lambda *a: flow(*a, n=1), "summed over the examples"),
            "no start at test points": (
                flow_with(test=lambda b, f0_test, **_: b - f0_test),
                "start at the test points",
            ),
            "driven by y": (
                lambda *a: (flow(*a)[0], flow(*a, wanted=lambda y, f0: y)[1]),
                "y drives there; what drives the test",
            ),
            "no inverse": (lambda *a: flow(*a, inverse=False), "Θ⁻¹ is missing"),
            "1/N twice": (
                flow_with(test=lambda b, f0_test, n, **_: f0_test + (b - f0_test) / n),
                "1/N enters once too often",
            ),
            "integral without 1/N": (
                flow_with(test=lambda b, f0_test, n, **_: f0_test + (b - f0_test) * n),
                "1/N is missing in front",
            ),
            "the residual": (flow_with(train=lambda a, y, **_: a - y), "add y"),
            "starts from zero": (flow_with(train=lambda a, f0, **_: a - f0), "at t = 0 the outputs are f0"),
            "uphill": (lambda k, kt, y, f, ft, t: flow(k, kt, y, f, ft, -t), "backwards"),
            "rows for columns": (rows_for_columns, "rows were used"),
            "an inverse": (by_inverse, "singular kernel"),
            "rounding grows": (naive, "runs away"),
            "by the library": (by_library, "`gradient_flow`"),
            "a ridge": (regularized, "f_t(X"),
            "a tiny ridge": (lambda *a: regularized(*a, eps=2e-3), "not right"),
            "no limit": (lambda *a: flow(*a, zero_at=-1.0), "divided by an eigenvalue 0"),
            "entry by entry": (entry_by_entry, "entry by entry"),
            "2/N": (lambda k, kt, y, f, ft, t: flow(k, kt, y, f, ft, 2 * t), "twice too fast"),
            "1/(2N)": (lambda k, kt, y, f, ft, t: flow(k, kt, y, f, ft, t / 2), "twice too slow"),
            "1/(NK)": (lambda k, kt, y, f, ft, t: flow(k, kt, y, f, ft, t / y.shape[1]), "outputs as well"),
            "1/N²": (lambda k, kt, y, f, ft, t: flow(k, kt, y, f, ft, t / len(y)), "there twice"),
            "reversed": (lambda k, kt, y, f, ft, t: (f + y - flow(k, kt, y, f, ft, t)[0], ft), "f0 stands where y"),
            "train driven by y": (lambda *a: flow(*a, wanted=lambda y, f0: y), "y drives there; what drives is"),
            "test reversed": (flow_with(test=lambda b, f0_test, **_: 2 * f0_test - b), "wrong sign"),
            "test driven by y alone": (
                lambda *a: (flow(*a)[0], flow(*a, wanted=lambda y, f0: y)[1] - a[4]),
                "both f_0(x)",
            ),
            "test sum loss": (lambda *a: (flow(*a)[0], flow(*a, n=1)[1]), "lost in the exponent"),
            "at zero": (at_zero_wrong, "at t = 0 it should"),
            "swapped": (lambda *a: flow(*a)[::-1], "swapped"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "test alone": (lambda *a: flow(*a)[1], "tuple of 2"),
            "always the end": (
                lambda k, kt, y, f, ft, t: (flow(k, kt, y, f, ft, t)[0], ft + kt @ jnp.linalg.pinv(k) @ (y - f)),
                "end of training",
            ),
            "M for N at test points": (
                lambda k, kt, y, f0, ft, t: (
                    flow(k, kt, y, f0, ft, t)[0],
                    flow(k, kt, y, f0, ft, t * len(k) / len(kt))[1],
                ),
                "number M of test points",
            ),
        },
    ),
    Table(
        "04.2",
        right={
            "a loop": heavy_ball,
            "powers of a matrix": by_matrix,
            "NumPy, a list": lambda lam, n, lr, mu, s: [
                float(z) for z in heavy_ball(np.asarray(lam, float), n, lr, mu, s)
            ],
            "three terms": by_three_terms,
            "roots": by_angle(jnp.arctan2),
        },
        wrong={
            "no momentum": (ball(lambda e, n, r, m: (e, n, r, 0.0)), "without momentum, (1"),
            "effective rate": (ball(lambda e, n, r, m: (e, n, r / (1 - m), 0.0)), "slow modes"),
            "sum loss": (ball(lambda e, n, r, m: (e, 1, r, m)), "1/N is missing"),
            "damped": (ball(gain=lambda m: 1 - m), "damped by"),
            "Nesterov": (ball(nesterov=True), "Nesterov"),
            "old velocity": (ball(old=True), "updates v first"),
            "one more": (ball(extra=1), "one step more"),
            "wrong sign": (ball(lambda e, n, r, m: (e, n, r, -m)), "velocity is kept"),
            "loss": (lambda *a: heavy_ball(*a) ** 2, "not its square"),
            "learned": (lambda *a: 1 - heavy_ball(*a), "1 − z"),
            "double root": (roots, "not finite"),
            "arctan on one branch": (by_angle(lambda up, right: jnp.arctan(up / right)), "negative real part"),
            "one less": (ball(extra=-1), "one step less"),
            "1/N twice": (ball(lambda e, n, r, m: (e / n, n, r, m)), "not right"),
            "2/N": (ball(lambda e, n, r, m: (2 * e, n, r, m)), "twice too large"),
            "no start": (lambda *a: 0 * heavy_ball(*a) if a[4] == 0 else heavy_ball(*a), "after no step"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "velocity": (velocity, "that is the velocity v"),
            "zero before": (from_nothing, "the residual was 0 before"),
            "μ on z": (lambda lam, n, eta, mu, s: (mu - eta * lam / n) ** s, "μ multiplies z there"),
        },
    ),
    Table(
        "04.3",
        right={
            "powers": steps_to,
            "step by step": step_by_step,
            "an array": lambda *a: jnp.asarray(steps_to(*a)),
            "a whole float": lambda *a: float(steps_to(*a)),
        },
        wrong={
            "amplitude": (counted(power=1), "quadratic"),
            "flow": (counted(base=lambda a, n: jnp.exp(-a)), "gradient flow"),
            "1/N twice": (counted(base=lambda a, n: 1 - a / n), "1/N"),
            "slowest mode": (counted(lambda values, w: jnp.eye(len(values))[0]), "slowest mode"),
            "largest mode": (counted(lambda values, w: jnp.eye(len(values))[-1]), "largest mode"),
            "equal weights": (counted(lambda values, w: jnp.ones(len(values))), "same weight"),
            "one late": (counted(shift=1), "too many"),
            "one early": (counted(shift=-1), "too few"),
            "nothing": (lambda *a: None, "return"),
            "a time": (lambda *a: steps_to(*a) + 0.5, "whole number"),
            "2/N": (counted(base=lambda a, n: 1 - 2 * a), "twice too fast"),
            "1/(NK)": (
                lambda f, k, r, eta, m=1000: steps_to(f, k, r, eta / r.shape[1], m),
                "1/K stands there",
            ),
            "rows": (rows_for_weights, "Try a diagonal kernel"),
            "not squared": (counted(lambda values, w: jnp.abs(w).sum(1)), "should be squared"),
            "by the library": (by_descent, "`gradient_descent`"),
            "norm": (where_it_is(lambda r, r0, f: np.sum(r**2) <= f**2 * np.sum(r0**2)), "the norm of the residual"),
            "first output": (
                where_it_is(lambda r, r0, f: np.sum(r[:, 0] ** 2) <= f * np.sum(r0[:, 0] ** 2)),
                "first output alone",
            ),
            "the largest": (
                where_it_is(lambda r, r0, f: np.max(r**2) <= f * np.max(r0**2)),
                "the largest squared residual",
            ),
            "half on one side": (where_it_is(lambda r, r0, f: np.sum(r**2) / 2 <= f * np.sum(r0**2)), "on one side"),
            "never": (where_it_is(lambda r, r0, f: False), "never gets there"),
            "a logarithm": (counted(base=lambda a, n: jnp.exp(jnp.log(1 - a))), "1 − ηλ/N is negative"),
            "no negative factor": (counted(base=lambda a, n: jnp.maximum(1 - a, 0)), "1 − ηλ/N is negative"),
        },
    ),
    Table(
        "04.4",
        right={"y − f0": corrected, "centred network": centred_first, "NumPy": in_numpy, "an inverse": by_inverse},
        wrong={
            "the suspect": (drives(lambda y, f0: y), "what the suspect says"),
            "f_0(x) thrown out": (drives(None, start=False), "should stay"),
            "no start at all": (drives(lambda y, f0: y, start=False), "altogether"),
            "sign": (drives(lambda y, f0: y + f0), "sign of f0"),
            "1/N again": (drives(None, scale=1.0 + 1e-12), "second time"),
            "1/λ lost": (lambda *a: (flow(*a)[0], flow(*a, inverse=False)[1]), "1/λ is lost"),
            "training by y": (lambda *a: flow(*a, wanted=lambda y, f0: y), "y drives there"),
            "1/λ in training": (lambda *a: (flow(*a)[0] * 0 + over_lambda(*a), flow(*a)[1]), "1/λ does not belong"),
            "reversed": (drives(lambda y, f0: f0 - y), "wrong sign"),
            "by the library": (by_library, "`gradient_flow`"),
            "swapped": (lambda *a: flow(*a)[::-1], "swapped"),
            "test alone": (lambda *a: flow(*a)[1], "tuple of 2"),
            "training broken": (
                lambda k, kt, y, f, ft, t: (flow(k, kt, y, 0 * f, ft, t)[0], flow(k, kt, y, f, ft, t)[1]),
                "was right before",
            ),
            "no 1/N": (
                drives_with(lambda v, t, n: learned(v, t, 1), lambda v, t, n: learned(v, t, 1) / v),
                "1/N is lost in the exponent",
            ),
            "no 1/N at test points": (
                drives_with(learned, lambda v, t, n: learned(v, t, 1) / v),
                "f_t(x) is not right: 1/N is lost",
            ),
            "infinite time": (drives_with(lambda v, t, n: 1 + 0 * v, lambda v, t, n: 1 / v), "t = ∞"),
            "infinite time at test points": (drives_with(learned, lambda v, t, n: 1 / v), "not Θ⁻¹."),
            "of the outputs": (of_the_outputs, "Θ⁻¹ acts on the outputs"),
        },
    ),
]
test_answers = cases(TABLES)
