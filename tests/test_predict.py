"""Dynamics in function space: closed form against small steps, exact cases, degenerate spectra."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal, small_net

import ntklib as ntk
from ntklib import _linalg

N, M, K = 6, 4, 2
J, J_TEST = normal(0, N, 20), normal(1, M, 20)
THETA, THETA_TEST = J @ J.T, J_TEST @ J.T
Y, F0, F0_TEST = normal(2, N, K), normal(3, N, K), normal(4, M, K)
TIMES = jnp.array([0.0, 0.1, 1.0, 10.0, jnp.inf])


def flow(t: Any = TIMES, theta=THETA, **changes) -> Any:
    arguments = {"f0": F0, "ntk_test": THETA_TEST, "f0_test": F0_TEST} | changes
    return ntk.gradient_flow(theta, Y, t=t, **arguments)


def test_flow_is_the_matrix_exponential():
    train, test = flow()
    assert train.shape == (5, N, K)
    assert test.shape == (5, M, K)
    for i, t in enumerate(TIMES[:-1]):
        decay = jax.scipy.linalg.expm(-THETA * t / N)
        assert_close(train[i], Y + decay @ (F0 - Y), rtol=1e-12)
        p = THETA_TEST @ jnp.linalg.inv(THETA) @ (jnp.eye(N) - decay)
        assert_close(test[i], F0_TEST + p @ (Y - F0), rtol=1e-9)
    assert_close(train[-1], Y, rtol=1e-12)
    assert_close(test[-1], F0_TEST + THETA_TEST @ jnp.linalg.solve(THETA, Y - F0), rtol=1e-9)


def test_flow_is_the_limit_of_small_gradient_steps_on_a_linear_model():
    """On parameters, with the loss 1/(2N) Σ‖f − y‖²: the error of Euler steps halves with their size."""
    apply_fn = lambda w, x: x @ w  # noqa: E731
    x, x_test = J, J_TEST
    t, errors = 2.0, []
    for eta in (0.01, 0.005):
        w = ntk.train(
            (apply_fn, jnp.zeros((20, K))), x, Y, optimizer=ntk.training.optax.sgd(eta), steps=round(t / eta)
        ).params
        train, test = ntk.gradient_flow(THETA, Y, t=t, ntk_test=THETA_TEST)
        errors.append([float(jnp.abs(apply_fn(w, x) - train).max()), float(jnp.abs(apply_fn(w, x_test) - test).max())])
    assert np.all(np.array(errors[1]) < 0.02)
    assert_close(np.array(errors[0]) / np.array(errors[1]), np.array([2.0, 2.0]), rtol=0.1)


def test_one_data_point_by_hand():
    theta, y = jnp.array([[3.0]]), jnp.array([[2.0]])
    assert_close(ntk.gradient_flow(theta, y, t=0.7), 2 * (1 - jnp.exp(-3 * jnp.array([[0.7]]))), rtol=1e-14)


def test_null_space_keeps_its_start():
    j = J[:, :3]  # rank 3 of 6
    theta, theta_test = j @ j.T, J_TEST[:, :3] @ j.T
    train, test = flow(t=jnp.inf, theta=theta, ntk_test=theta_test)
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
    train, test = ntk.gradient_flow(theta, y, t=5.0, f0=f0, ntk_test=theta_test, f0_test=f0_test)
    ntk.train(net, x, y, optimizer=ntk.sgd(net, 0.1), steps=50)
    assert float(jnp.abs(net(x) - train).max()) < 0.1 * float(jnp.abs(f0 - y).max())
    assert float(jnp.abs(net(x_test) - test).max()) < 0.1 * float(jnp.abs(f0 - y).max())
