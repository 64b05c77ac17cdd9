"""Right and wrong answers to the tasks of chapter 04."""

import jax
import jax.numpy as jnp
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
    values, modes = jnp.linalg.eigh(theta)
    learned = 1 - jnp.exp(-values * t / len(theta))
    w = modes.T @ (y - f0)
    safe = jnp.where(jnp.abs(values) < 1e-4, 1.0, values)
    over = jnp.where(jnp.abs(values) < 1e-4, t / len(theta), learned / safe)
    # what rounding makes of a zero eigenvalue, made to show
    drift = 1 - jnp.exp(jnp.where(jnp.abs(values) < 1e-4, 1e-2, -values) * t / len(theta))
    return f0 + modes @ ((learned if t < 10 else drift)[:, None] * w), f0_test + theta_test @ (
        modes @ (over[:, None] * w)
    )


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
    return (((1 - q) * p**steps - (1 - p) * q**steps) / (p - q)).real


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


def corrected(theta, theta_test, y, f0, f0_test, t):
    values, modes = jnp.linalg.eigh(theta)
    learned = -jnp.expm1(-values * t / len(theta))
    w = modes.T @ (y - f0)
    return f0 + modes @ (learned[:, None] * w), f0_test + theta_test @ (modes @ ((learned / values)[:, None] * w))


def centred_first(theta, theta_test, y, f0, f0_test, t):
    """The suspect, used for the centred network alone."""
    train, test = flow(theta, theta_test, y - f0, jnp.zeros_like(f0), jnp.zeros_like(f0_test), t)
    return f0 + train, f0_test + test


def drives(wanted, start=True, scale=1.0):
    def answer(theta, theta_test, y, f0, f0_test, t):
        train, _ = flow(theta, theta_test, y, f0, f0_test, t)
        _, test = flow(theta, theta_test, y, f0, jnp.zeros_like(f0_test), t, wanted=wanted)
        return train, test * (scale if scale == 1.0 else scale / len(theta)) + start * f0_test

    return answer


TABLES = [
    Table(
        "04.1",
        right={"eigenbasis": flow, "ntk.gradient_flow": by_library},
        wrong={
            "sum loss": (lambda *a: flow(*a, n=1), "summed over the examples"),
            "no start at test points": (
                flow_with(test=lambda b, f0_test, **_: b - f0_test),
                "start at the test points",
            ),
            "driven by y": (flow_with(test=lambda b, **_: b, wanted=lambda y, f0: y), "y drives"),
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
            "test alone": (lambda *a: flow(*a)[1], "tuple of 2"),
            "always the end": (
                lambda k, kt, y, f, ft, t: (flow(k, kt, y, f, ft, t)[0], ft + kt @ jnp.linalg.pinv(k) @ (y - f)),
                "end of training",
            ),
        },
    ),
    Table(
        "04.2",
        right={"a loop": heavy_ball, "powers of a matrix": by_matrix},
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
        },
    ),
    Table(
        "04.3",
        right={"powers": steps_to, "step by step": step_by_step, "an array": lambda *a: jnp.asarray(steps_to(*a))},
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
            "a time": (lambda *a: steps_to(*a) + 0.5, "whole numbers"),
        },
    ),
    Table(
        "04.4",
        right={"y − f0": corrected, "centred network": centred_first},
        wrong={
            "the suspect": (drives(lambda y, f0: y), "what the suspect says"),
            "f_0(x) thrown out": (drives(None, start=False), "should stay"),
            "no start at all": (drives(lambda y, f0: y, start=False), "altogether"),
            "sign": (drives(lambda y, f0: y + f0), "sign of f0"),
            "1/N again": (drives(None, scale=1.0 + 1e-12), "second time"),
            "1/λ lost": (lambda *a: (flow(*a)[0], flow(*a, inverse=False)[1]), "1/λ is lost"),
            "training broken": (
                lambda k, kt, y, f, ft, t: (flow(k, kt, y, 0 * f, ft, t)[0], flow(k, kt, y, f, ft, t)[1]),
                "was right before",
            ),
        },
    ),
]
test_answers = cases(TABLES)
