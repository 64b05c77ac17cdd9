"""Right and wrong answers to the tasks of chapter 17."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutations import Table, cases

import ntklib as ntk
from course import check
from course.expect import CheckFailed


def trained(
    theta,
    f0,
    labels,
    rate,
    mu,
    steps,
    *,
    error=lambda f, target: jax.nn.softmax(f) - target,
    sums="ijkl,jl->ik",
    mean=lambda n, k: n,
    move=lambda v, before, g, mu: v,
    gain=lambda mu: 1.0,
    frozen=False,
):
    n, k = f0.shape
    f, v, target = f0, jnp.zeros_like(f0), jax.nn.one_hot(labels, k)
    for _ in range(int(steps)):
        g = jnp.einsum(sums, theta, error(f0 if frozen else f, target)) / mean(n, k)
        before, v = v, mu * v + gain(mu) * g
        f = f - rate * move(v, before, g, mu)
    return f


def by_parameters(theta, f0, labels, rate, mu, steps):
    """A linear model with this kernel, trained in NumPy."""
    theta, f0 = np.asarray(theta, np.float64), np.asarray(f0, np.float64)
    n, k = f0.shape
    flat = theta.transpose(0, 2, 1, 3).reshape(n * k, n * k)
    lam, u = np.linalg.eigh(flat)
    jac = u * np.sqrt(np.maximum(lam, 0))
    w, v = np.zeros(n * k), np.zeros(n * k)
    for _ in range(int(steps)):
        f = f0 + (jac @ w).reshape(n, k)
        e = np.exp(f)
        p = e / e.sum(1, keepdims=True)
        p[np.arange(n), np.asarray(labels)] -= 1
        v = mu * v + jac.T @ p.ravel() / n
        w = w - rate * v
    return f0 + (jac @ w).reshape(n, k)


def by_gradient(theta, f0, labels, rate, mu, steps):
    """The derivative of the loss by JAX, and the kernel as a matrix."""
    n, k = f0.shape
    matrix = jnp.asarray(theta).transpose(0, 2, 1, 3).reshape(n * k, n * k)

    def loss(f):
        return -jnp.take_along_axis(jax.nn.log_softmax(f.reshape(n, k)), jnp.asarray(labels)[:, None], 1).mean()

    f, v = jnp.ravel(f0), jnp.zeros(n * k)
    for _ in range(int(steps)):
        v = mu * v + matrix @ jax.grad(loss)(f)
        f = f - rate * v
    return f.reshape(n, k).tolist()


def with_options(**options):
    return lambda *of: trained(*of, **options)


def with_kernel(change):
    return lambda theta, *of: trained(change(theta), *of)


def diagonal_blocks(theta):
    return jnp.einsum("ijkk,kl->ijkl", theta, jnp.eye(theta.shape[-1]))


def mean_block(theta):
    k = theta.shape[-1]
    return jnp.einsum("ijmm,kl->ijkl", theta, jnp.eye(k)) / k


def freedom(jac):
    p = jac.shape[-1]
    rank = jnp.linalg.matrix_rank
    return rank(jac.reshape(-1, p)), rank((jac - jac.mean(1, keepdims=True)).reshape(-1, p))


def by_differences(jac):
    """Softmax sees the differences to the last output."""
    jac = np.asarray(jac, np.float64)
    p = jac.shape[-1]
    seen = (jac[:, :-1] - jac[:, -1:]).reshape(-1, p)
    return [float(np.linalg.matrix_rank(jac.reshape(-1, p))), float(np.linalg.matrix_rank(seen))]


def outputs_with(form):
    return lambda jac: (form(jac), freedom(jac)[1])


def seen_with(form):
    return lambda jac: (freedom(jac)[0], form(jac))


def ended(theta, theta_test, f, f_test, y, ridges, *, target=lambda y, f: y - f, on=lambda f: f, at=None):
    at = at or (lambda d, theta: d * jnp.trace(theta) / len(theta))
    found = [theta_test @ jnp.linalg.solve(theta + at(d, theta) * jnp.eye(len(theta)), target(y, f)) for d in ridges]
    return on(f_test) + jnp.stack(found)


def by_flow_in_numpy(theta, theta_test, f, f_test, y, ridges):
    lam, u = np.linalg.eigh(np.asarray(theta, np.float64))
    learned = [
        np.asarray(theta_test) @ u @ ((u.T @ np.asarray(y - f)) / (lam + float(d) * lam.mean())[:, None])
        for d in ridges
    ]
    return np.asarray(f_test) + np.array(learned)


def end_with(**options):
    return lambda *of: ended(*of, **options)


def by_the_library(theta, theta_test, f, f_test, y, ridges):
    how = {"t": jnp.inf, "f0": f, "f0_test": f_test, "ntk_test_train": theta_test}
    return jnp.stack([ntk.gradient_flow(theta, y, ridge=float(d), **how)[1] for d in ridges])


TABLES = [
    Table(
        "17.1",
        right={
            "outputs": trained,
            "parameters": by_parameters,
            "NumPy": lambda *of: np.asarray(trained(*of)),
            "a gradient, lists": by_gradient,
        },
        wrong={
            "no mean": (with_options(mean=lambda n, k: 1), "1/N is missing"),
            "mean over outputs": (with_options(mean=lambda n, k: n * k), "not over examples and outputs"),
            "no momentum": (lambda a, b, c, d, mu, s: trained(a, b, c, d, 0.0, s), "no momentum"),
            "Nesterov": (with_options(move=lambda v, before, g, mu: g + mu * v), "Nesterov"),
            "damped": (with_options(gain=lambda mu: 1 - mu), "factor 1, not"),
            "late": (with_options(move=lambda v, before, g, mu: before), "step before"),
            "over images": (with_options(error=lambda f, target: jax.nn.softmax(f, axis=0) - target), "axis 1"),
            "squared": (with_options(error=lambda f, target: f - target), "softmax is missing"),
            "no labels": (with_options(error=lambda f, target: jax.nn.softmax(f)), "labels are missing"),
            "uphill": (with_options(error=lambda f, target: target - jax.nn.softmax(f)), "the loss rises"),
            "frozen": (with_options(frozen=True), "that of the onset"),
            "blocks": (with_kernel(diagonal_blocks), "learns by itself"),
            "mean kernel": (with_kernel(mean_block), "mean kernel"),
            "wrong index": (with_options(sums="ijkl,jk->il"), "wrong output index"),
            "too few": (lambda a, b, c, d, mu, s: trained(a, b, c, d, mu, s - 1), "too few"),
            "too many": (lambda a, b, c, d, mu, s: trained(a, b, c, d, mu, s + 1), "too many"),
            "probabilities": (lambda *of: jax.nn.softmax(trained(*of)), "these are probabilities"),
            "transposed": (lambda *of: trained(*of).T, "shape"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
    Table(
        "17.2",
        right={"numbers": (4, 8, 1), "floats": [4.0, 8.0, 1.0], "an array": jnp.array([4.0, 8.0, 1.0])},
        wrong={
            "linear": ((2, 8, 1), "not linear in it"),
            "after over before": ((0.25, 8, 1), "above 1"),
            "cubic": ((8, 8, 1), "one power too many"),
            "nothing": ((1, 1, 1), "something changes"),
            "the same for both": ((4, 4, 1), "one more order"),
            "second after over before": ((4, 0.125, 1), "as for g1"),
            "fourth": ((4, 16, 1), "the third order"),
            "squared": ((4, 64, 1), "not a square"),
            "steps do not count": ((4, 8, 4), "how long is the whole way"),
            "half the way": ((4, 8, 2), "make up for the rate"),
            "a quarter": ((4, 8, 0.25), "And how long is the whole way"),
            "a number": ((6, 8, 1), "off by more"),
            "longer": ((4, 8, 0.5), "does not become longer"),
            "two numbers": ((4, 8), "tuple of 3"),
            "words": (("four", 8, 1), "one number"),
        },
    ),
    Table(
        "17.3",
        right={
            "ranks": (3, freedom),
            "differences, a list": [3.0, by_differences],
            "singular values": (3, lambda jac: jnp.array(freedom(jac), float)),
        },
        wrong={
            "line 1": ((1, freedom), "line 1 is right"),
            "line 2": ((2, freedom), "line 2 is right"),
            "line 4": ((4, freedom), "follows from line 3"),
            "line 5": ((5, freedom), "follows from line 4"),
            "no line": ((6, freedom), "1 to 5"),
            "P": ((3, outputs_with(lambda jac: jac.shape[-1])), "need not be P directions"),
            "NK": ((3, outputs_with(lambda jac: jac.shape[0] * jac.shape[1])), "number of outputs"),
            "rows of images": (
                (3, outputs_with(lambda jac: jnp.linalg.matrix_rank(jac.reshape(len(jac), -1)))),
                "[N, K·P]",
            ),
            "smaller of two": ((3, outputs_with(lambda jac: min(jac.shape[0], jac.shape[-1]))), "[N, K·P]"),
            "one less": ((3, outputs_with(lambda jac: freedom(jac)[0] - 1)), "not right"),
            "sees all": ((3, seen_with(lambda jac: freedom(jac)[0])), "softmax does not see all"),
            "minus N": ((3, seen_with(lambda jac: max(freedom(jac)[0] - len(jac), 0))), "one direction an image only"),
            "mean over images": (
                (3, seen_with(lambda jac: jnp.linalg.matrix_rank((jac - jac.mean(0)).reshape(-1, jac.shape[-1])))),
                "a constant for each image",
            ),
            "minus one": ((3, seen_with(lambda jac: freedom(jac)[0] - 1)), "a constant for each image"),
            "swapped": ((3, lambda jac: freedom(jac)[::-1]), "swapped"),
            "a share": (
                (3, seen_with(lambda jac: freedom(jac)[0] * (jac.shape[1] - 1) // jac.shape[1])),
                "probabilities is not right",
            ),
            "N(K - 1)": ((3, seen_with(lambda jac: jac.shape[0] * (jac.shape[1] - 1))), "reach less of it"),
            "half": ((3, seen_with(lambda jac: freedom(jac)[1] + 100)), "probabilities is not right"),
            "no return": ((3, lambda jac: None), "is a `return` missing?"),
            "the line alone": (3, "tuple of 2"),
        },
    ),
    Table(
        "17.4",
        right={"solve": ended, "the spectrum": by_flow_in_numpy, "NumPy": lambda *of: np.asarray(ended(*of))},
        wrong={
            "from zero": (end_with(target=lambda y, f: y, on=lambda f: 0.0), "regression from zero"),
            "learned twice": (end_with(target=lambda y, f: y), "once more"),
            "the change": (end_with(on=lambda f: 0.0), "that is the change"),
            "sign": (end_with(target=lambda y, f: f - y), "not f(X) − y"),
            "taken away": (end_with(on=lambda f: -f), "not taken away"),
            "absolute": (end_with(at=lambda d, theta: d), "the ridge is relative"),
            "trace": (end_with(at=lambda d, theta: d * jnp.trace(theta)), "has a 1/N"),
            "too small": (end_with(at=lambda d, theta: d * jnp.trace(theta) / len(theta) ** 2), "without another 1/N"),
            "no ridge": (end_with(at=lambda d, theta: 0.0), "no ridge"),
            "the library": (by_the_library, "`gradient_flow`"),
            "ridges last": (lambda *of: jnp.moveaxis(ended(*of), 0, -1), "another order"),
            "one ridge": (lambda *of: ended(*of)[0], "shape"),
            "no return": (lambda *of: None, "is a `return` missing?"),
        },
    ),
]
test_answers = cases(TABLES)  # written questions need no table


NUMBERS = ("78 %", "78 percent", "77.8%", "0.778", "0.78", "7/9", "Seventy-eight percent")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_found_however_it_is_written(number, capsys):
    check("17.5", f"At epoch 49 nothing moves, so any kernel would do. At onset 2 it is {number} of the gain.")
    assert "written down" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["22 %", "0.22", "47 %", "0.14"])
def test_another_number_is_refused(number):
    with pytest.raises(CheckFailed, match="a number is missing"):
        check("17.5", f"At epoch 49 nothing moves, so any kernel would do. At onset 2 it is {number} of the gain.")
