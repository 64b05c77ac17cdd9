"""Dynamics in function space: closed form against small steps, exact cases, degenerate spectra."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from helpers import assert_close, normal, small_net

import ntklib as ntk
from ntklib.dynamics import _linalg
from ntklib.training import optax

N, M, K = 6, 4, 2
J, J_TEST = normal(0, N, 20), normal(1, M, 20)
THETA, THETA_TEST = J @ J.T, J_TEST @ J.T
Y, F0, F0_TEST = normal(2, N, K), normal(3, N, K), normal(4, M, K)
TIMES = jnp.array([0.0, 0.1, 1.0, 10.0, jnp.inf])
#: The same in NumPy, for references.
THETA_, THETA_TEST_, Y_, F0_, F0_TEST_ = map(np.asarray, (THETA, THETA_TEST, Y, F0, F0_TEST))


def flow(t: Any = TIMES, theta=THETA, **changes) -> Any:
    arguments: Any = {"f0": F0, "ntk_test_train": THETA_TEST, "f0_test": F0_TEST} | changes
    return ntk.gradient_flow(theta, Y, t=t, **arguments)


def test_flow_is_the_matrix_exponential():
    train, test = flow()
    assert train.shape == (5, N, K)
    assert test.shape == (5, M, K)
    for i, t in enumerate(TIMES[:-1]):
        decay = scipy.linalg.expm(-THETA_ * float(t) / N)
        assert_close(train[i], Y_ + decay @ (F0_ - Y_), rtol=1e-12)
        p = THETA_TEST_ @ np.linalg.inv(THETA_) @ (np.eye(N) - decay)
        assert_close(test[i], F0_TEST_ + p @ (Y_ - F0_), rtol=1e-9)
    assert_close(train[-1], Y, rtol=1e-12)
    assert_close(test[-1], F0_TEST_ + THETA_TEST_ @ np.linalg.solve(THETA_, Y_ - F0_), rtol=1e-9)


def test_flow_is_the_limit_of_small_gradient_steps_on_a_linear_model():
    """On parameters, with the loss 1/(2N) Σ‖f − y‖²: the error of Euler steps halves with their size."""
    apply_fn = lambda w, x: x @ w  # noqa: E731
    x, x_test = J, J_TEST
    t, errors = 2.0, []
    for eta in (0.01, 0.005):
        w = ntk.train(
            (apply_fn, jnp.zeros((20, K))), x, Y, optimizer=ntk.training.optax.sgd(eta), steps=round(t / eta)
        ).params
        train, test = ntk.gradient_flow(THETA, Y, t=t, ntk_test_train=THETA_TEST)
        errors.append([float(jnp.abs(apply_fn(w, x) - train).max()), float(jnp.abs(apply_fn(w, x_test) - test).max())])
    assert np.all(np.array(errors[1]) < 0.02)
    assert_close(np.array(errors[0]) / np.array(errors[1]), np.array([2.0, 2.0]), rtol=0.1)


def test_one_data_point_by_hand():
    theta, y = jnp.array([[3.0]]), jnp.array([[2.0]])
    assert_close(ntk.gradient_flow(theta, y, t=0.7), 2 * (1 - jnp.exp(-3 * jnp.array([[0.7]]))), rtol=1e-14)


def test_null_space_keeps_its_start():
    j = J[:, :3]  # rank 3 of 6
    theta, theta_test = j @ j.T, J_TEST[:, :3] @ j.T
    train, test = flow(t=jnp.inf, theta=theta, ntk_test_train=theta_test)
    u = np.linalg.svd(np.asarray(j))[0]
    assert_close(u[:, 3:].T @ train, u[:, 3:].T @ F0, rtol=1e-9)
    assert_close(u[:, :3].T @ train, u[:, :3].T @ Y, rtol=1e-9)
    assert_close(test, F0_TEST + theta_test @ np.linalg.pinv(np.asarray(theta)) @ (Y - F0), rtol=1e-8)


def test_duplicated_points_with_equal_labels_do_no_harm():
    twice = jnp.concatenate([THETA, THETA[:1]]), jnp.concatenate([Y, Y[:1]])
    theta = jnp.concatenate([twice[0], twice[0][:, :1]], axis=1)
    train = ntk.gradient_flow(theta, twice[1], t=jnp.inf)
    assert_close(train, twice[1], rtol=1e-8)


def test_defaults_and_single_time():
    alone = ntk.gradient_flow(THETA, Y, t=1.0)
    assert alone.shape == (N, K)
    assert_close(alone, flow(t=1.0, f0=jnp.zeros((N, K)))[0], rtol=1e-14)


def test_flow_compiles_and_differentiates():
    loss = lambda theta: jnp.sum(ntk.gradient_flow(theta @ theta.T, Y, t=1.0) ** 2)  # noqa: E731
    grad = jax.jit(jax.grad(loss))(J)
    h, direction = 1e-6, normal(9, N, 20)
    assert_close(jnp.vdot(grad, direction), (loss(J + h * direction) - loss(J - h * direction)) / (2 * h), rtol=1e-6)


def test_decay_is_exact_at_its_corners():
    learned, integral = _linalg.decay(jnp.array([0.0, 1e-18, 2.0]), jnp.array(3.0))
    assert_close(learned, [0.0, 3e-18, -np.expm1(-6.0)], rtol=1e-15)
    assert_close(integral, [3.0, 3.0, -np.expm1(-6.0) / 2], rtol=1e-15)
    learned, integral = _linalg.decay(jnp.array([0.0, 2.0]), jnp.array(jnp.inf))
    assert learned.tolist() == [0.0, 1.0]
    assert integral.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("width", [512])
def test_a_trained_wide_network_follows_its_kernel(width):
    net = small_net(width=width)
    x, x_test, y = normal(5, N, 3), normal(6, M, 3), Y
    theta, theta_test = ntk.empirical_ntk(net, x), ntk.empirical_ntk(net, x_test, x)
    f0, f0_test = net(x), net(x_test)
    train, test = ntk.gradient_flow(theta, y, t=5.0, f0=f0, ntk_test_train=theta_test, f0_test=f0_test)
    ntk.train(net, x, y, optimizer=ntk.sgd(net, 0.1), steps=50)
    assert float(jnp.abs(net(x) - train).max()) < 0.1 * float(jnp.abs(f0 - y).max())
    assert float(jnp.abs(net(x_test) - test).max()) < 0.1 * float(jnp.abs(f0 - y).max())


# ridge


def test_ridge_flow_is_the_flow_of_the_regularised_kernel():
    ridge = 0.3
    regular = THETA_ + ridge * np.trace(THETA_) / N * np.eye(N)
    train, test = flow(ridge=ridge)
    for i, t in enumerate(TIMES[:-1]):
        decay = scipy.linalg.expm(-regular * float(t) / N)
        assert_close(train[i], Y_ + decay @ (F0_ - Y_), rtol=1e-12)
        p = THETA_TEST_ @ np.linalg.solve(regular, np.eye(N) - decay)
        assert_close(test[i], F0_TEST_ + p @ (Y_ - F0_), rtol=1e-11)
    fit = ntk.gradient_flow(THETA, Y, t=jnp.inf, ntk_test_train=THETA, ridge=ridge)[1]
    assert_close(fit, THETA_ @ np.linalg.solve(regular, Y_), rtol=1e-12)


# gradient descent


def descent(theta=THETA, **changes) -> Any:
    arguments: Any = {"learning_rate": 0.05, "f0": F0, "ntk_test_train": THETA_TEST, "f0_test": F0_TEST} | changes
    return ntk.gradient_descent(theta, Y, **arguments)


@pytest.fixture(name="linearised", scope="module")
def _linearised():
    """A linearised network with one output, inputs, its kernels on them, and its outputs at the start."""
    net, x, x_test = small_net(n_out=K), normal(5, N, 3), normal(6, M, 3)
    _, params = ntk.functional(net)
    f_lin = ntk.linearize(net)
    # A network's kernel couples its outputs; one with independent outputs is what `ntk_train` describes: take one.
    one = (lambda p, x: f_lin(p, x)[:, :1], params)
    theta, theta_test = ntk.empirical_ntk(one, x), ntk.empirical_ntk(one, x_test, x)
    return one, x, x_test, theta, theta_test, one[0](params, x), one[0](params, x_test)


@pytest.mark.sweep(part=2)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)])
def test_descent_is_optax_on_the_linearised_network(linearised, momentum, nesterov):
    """The whole way: a Flax network, its Jacobian, Optax on its parameters, train and test points."""
    one, x, x_test, theta, theta_test, f0, f0_test = linearised
    eta = 0.4 * float(ntk.max_learning_rate(theta))
    at = [0, 1, 2, 3, 17, 200]
    train, test = ntk.gradient_descent(
        theta, Y[:, :1], learning_rate=eta, steps=at, momentum=momentum, nesterov=nesterov,
        f0=f0, ntk_test_train=theta_test, f0_test=f0_test,
    )  # fmt: skip
    history = ntk.train(
        one, x, Y[:, :1], optimizer=optax.sgd(eta, momentum or None, nesterov), steps=200, record_at=at,
        record=lambda p: (one[0](p, x), one[0](p, x_test)),
    )  # fmt: skip
    assert_close(train, history.records[0], rtol=1e-10)
    assert_close(test, history.records[1], rtol=1e-10)


@pytest.mark.sweep
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.95])
def test_descent_is_the_recursion_also_for_ridge_and_singular_kernels(momentum, nesterov):
    j, j_test = J[:, :4], J_TEST[:, :4]
    eta = 0.1 if nesterov else 0.2  # Nesterov's limit is the lower one
    for theta, theta_test, ridge in ((THETA, THETA_TEST, 0.1), (j @ j.T, j_test @ j.T, 0.0)):
        regular = np.asarray(theta) + ridge * np.trace(theta) / N * np.eye(N)
        f, g, v = F0_, F0_TEST_, np.zeros_like(F0_)
        for _ in range(40):
            v = momentum * v + (f - Y_)
            move = momentum * v + (f - Y_) if nesterov else v
            f, g = f - eta / N * regular @ move, g - eta / N * np.asarray(theta_test) @ move
        train, test = descent(
            theta, learning_rate=eta, steps=40, momentum=momentum, nesterov=nesterov, ntk_test_train=theta_test,
            ridge=ridge,
        )  # fmt: skip
        assert_close(train, f, rtol=1e-12)
        assert_close(test, g, rtol=1e-12)


def test_descent_with_small_steps_is_flow_and_its_end_is_the_end_of_flow():
    errors = []
    for steps in (2000, 4000):
        errors.append(float(jnp.abs(descent(steps=steps, learning_rate=4.0 / steps)[0] - flow(4.0)[0]).max()))
    assert_close(errors[0] / errors[1], 2.0, rtol=0.01)
    for nesterov in (False, True):
        for one, other in zip(descent(steps=jnp.inf, momentum=0.4, nesterov=nesterov), flow(jnp.inf), strict=True):
            assert_close(one, other, rtol=1e-13)
    for one, other in zip(descent(steps=10**7), flow(jnp.inf), strict=True):
        assert_close(one, other, rtol=1e-8)
    j = J[:, :3]  # the null space stays at its start, at the end as well
    ends = descent(j @ j.T, steps=[10**6, jnp.inf], ntk_test_train=J_TEST[:, :3] @ j.T, learning_rate=0.2)
    assert_close(ends[0][0], ends[0][1], rtol=1e-8)
    assert_close(ends[1][0], ends[1][1], rtol=1e-8)


def test_critical_damping_and_rates_near_zero_are_ordinary():
    mu = 0.25  # double root of z² − (1 + μ − x) z + μ at x = (1 − √μ)²
    rates = jnp.array([(1 - mu**0.5) ** 2, 1e-18, 0.0])
    learned, integral = _linalg.descent(rates, jnp.array([30.0]), jnp.asarray(1.0), jnp.asarray(mu))
    p, before = 1.0, 1.0
    for _ in range(30):
        p, before = (1 + mu - rates[0]) * p - mu * before, p
    assert_close(1 - learned[0, 0], p, rtol=1e-6)
    v = a = 0.0
    for _ in range(30):
        v = mu * v + 1.0
        a += v
    assert_close(integral[0, 1:], jnp.array([a, a]), rtol=1e-14)
    assert_close(learned[0, 1:], jnp.array([1e-18 * a, 0.0]), rtol=1e-14)


def test_nesterov_without_momentum_is_plain_descent_and_far_steps_are_those_of_its_roots():
    for one, other in zip(descent(steps=[1, 7], nesterov=True), descent(steps=[1, 7]), strict=True):
        assert_close(one, other, rtol=1e-15)
    mu, x, steps = 0.9, 0.03, 1000  # one mode left after s steps: the roots of z² − (1 + μ)(1 − x) z + μ(1 − x)
    roots = np.roots([1.0, -(1 + mu) * (1 - x), mu * (1 - x)])
    first = 1 - (1 + mu) * x
    share = (roots[0] ** steps * (first - roots[1]) - roots[1] ** steps * (first - roots[0])) / (roots[0] - roots[1])
    one = jnp.ones((1, 1))
    left = ntk.gradient_descent(one, 0 * one, learning_rate=x, steps=steps, momentum=mu, nesterov=True, f0=one)
    assert_close(left[0, 0], share.real, atol=1e-15)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_stability_limit_is_where_descent_turns_unstable(momentum, nesterov):
    limit = float(ntk.max_learning_rate(THETA, momentum, nesterov=nesterov))
    factor = 1 + 2 * momentum if nesterov else 1
    assert_close(limit, 2 * (1 + momentum) / factor * N / jnp.linalg.norm(THETA, 2), rtol=1e-12)
    descend = functools.partial(descent, momentum=momentum, nesterov=nesterov)
    below = descend(steps=5000, learning_rate=0.99 * limit)[0]
    assert_close(below, Y, rtol=1e-3)
    with pytest.warns(UserWarning, match=r"`learning_rate` = .* above the largest stable one, "):
        above = descend(steps=2000, learning_rate=1.01 * limit)[0]
    assert float(jnp.abs(above).max()) > 1e4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        descend(steps=3, learning_rate=limit)


def test_descent_is_differentiable_and_compiles():
    loss = lambda eta: jnp.sum(descent(steps=jnp.array([3, 7]), learning_rate=eta)[1] ** 2)  # noqa: E731
    slope = jax.jit(jax.grad(loss))(jnp.asarray(0.05))
    assert_close(slope, (loss(0.05 + 1e-6) - loss(0.05 - 1e-6)) / 2e-6, rtol=1e-7)


# cross-entropy

LABELS = jax.nn.one_hot(jnp.array([0, 1, 2, 0, 1, 1]), 3)


def test_descent_is_differentiated_by_its_momentum_alone():
    def descent(momentum):
        return ntk.gradient_descent(jnp.diag(jnp.array([2.0, 1.0])), jnp.ones((2, 1)), learning_rate=0.5, steps=7,
                                    momentum=momentum).sum()  # fmt: skip

    want = (descent(0.5 + 1e-5) - descent(0.5 - 1e-5)) / 2e-5
    assert_close(jax.grad(descent)(0.5), want, rtol=1e-6)


def test_cross_entropy_flow_is_the_limit_of_small_steps_on_the_linearised_model():
    x, x_test = J, J_TEST
    linear = (lambda w, x: x @ w, jnp.zeros((20, 3)))
    at = jnp.array([0.0, 0.5, 2.0])
    train, test = ntk.cross_entropy_flow(THETA, LABELS, t=at, ntk_test_train=THETA_TEST, rtol=1e-9)
    errors = []
    for eta in (0.01, 0.005):
        stops = [round(float(t) / eta) for t in at]
        history = ntk.train(
            linear, x, LABELS, loss="cross_entropy", optimizer=optax.sgd(eta), steps=stops[-1], record_at=stops,
            record=lambda w: (x @ w, x_test @ w),
        )  # fmt: skip
        errors.append(
            [float(jnp.abs(history.records[0] - train).max()), float(jnp.abs(history.records[1] - test).max())]
        )
    assert np.all(np.array(errors[1]) < 0.02)
    assert_close(np.array(errors[0]) / np.array(errors[1]), np.array([2.0, 2.0]), rtol=0.05)


def test_cross_entropy_flow_of_one_point_has_a_closed_form():
    """Two logits ±u: du/dt = θ/(1 + e^(2u)), so that 2u + e^(2u) = 1 + 2θt."""
    f = ntk.cross_entropy_flow(jnp.array([[3.0]]), jnp.array([[1.0, 0.0]]), t=jnp.array([0.0, 1.0, 50.0]), rtol=1e-10)
    u = f[:, 0, 0]
    assert_close(f[:, 0, 1], -u, rtol=1e-12)
    assert_close(2 * u + jnp.exp(2 * u), 1 + 6.0 * jnp.array([0.0, 1.0, 50.0]), rtol=1e-7)


def test_cross_entropy_flow_starts_where_it_is_told_and_conserves_the_sum_of_logits():
    start, start_test = normal(7, N, 3), normal(8, M, 3)

    def flow_of(t: Any) -> Any:
        return ntk.cross_entropy_flow(THETA, LABELS, t=t, f0=start, ntk_test_train=THETA_TEST, f0_test=start_test)

    train, test = flow_of(jnp.array([0.0, 3.0]))
    assert_close(train[0], start, rtol=1e-14)
    assert_close(test[0], start_test, rtol=1e-14)
    assert_close(train[1].sum(1), start.sum(1), rtol=1e-6)
    single = flow_of(3.0)
    assert_close(single[1], test[1], rtol=1e-5)
    zero = flow_of(0.0)
    assert_close(zero[0], start, rtol=1e-14)
