"""The largest stable learning rate of a network: against the kernel's eigenvalues, against training, its error."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close, compilations, normal, small_net

import ntklib as ntk

X = normal(0, 9, 3)


def exact(net, x=X):
    """λ_max of the full kernel as a matrix."""
    theta = ntk.empirical_ntk(net, x, outputs="full")
    n, k = len(x), theta.shape[-1]
    return float(jnp.linalg.eigvalsh(theta.transpose(0, 2, 1, 3).reshape(n * k, n * k))[-1])


@pytest.mark.sweep
@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-10])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_that_of_the_kernel_within_its_error(seed, rtol):
    net = small_net(seed)
    limit = ntk.empirical_max_learning_rate(net, X, rtol=rtol, key=jax.random.key(seed))
    want = 2 * 9 / exact(net)
    assert abs(float(limit.learning_rate) - want) <= float(limit.error) + 1e-13 * want
    assert float(limit.error) <= rtol * want * 1.2
    assert float(limit.eigenvalue) <= exact(net) * (1 + 1e-13), "Ritz values are below the eigenvalue"
    assert_close(limit.learning_rate * limit.eigenvalue, 18.0)
    assert int(limit.products) <= 18


def test_power_iteration_of_optax_finds_the_same():
    net = small_net()
    product = lambda v: ntk.ntk_vector_product(net, X, None, v)  # noqa: E731
    value, _ = optax.power_iteration(product, v0=normal(5, 9, 2), num_iters=2000, error_tolerance=1e-14)
    assert_close(ntk.empirical_max_learning_rate(net, X, rtol=1e-8).eigenvalue, value, rtol=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_linear_model_diverges_just_above_it(momentum):
    net = small_net()
    model = (ntk.linearize(net), ntk.functional(net)[1])
    rate = float(ntk.empirical_max_learning_rate(model, X, momentum, rtol=1e-10, max_products=100).learning_rate)
    losses = []
    for factor in (0.99, 1.01):
        how: Any = {"optimizer": optax.sgd(factor * rate, momentum), "steps": 3000}
        losses.append(ntk.train(model, X, normal(1, 9, 2), **how).loss)
    assert float(losses[0][1]) < float(losses[0][0])
    assert float(losses[1][1]) > 100 * float(losses[1][0])


def test_of_a_kernel_of_one_output_it_is_that_of_the_matrix():
    net = small_net(n_out=1)
    theta = ntk.empirical_ntk(net, X)
    got = ntk.empirical_max_learning_rate(net, X, 0.9, rtol=1e-9)
    assert_close(got.learning_rate, ntk.max_learning_rate(theta, 0.9), rtol=1e-9)


def test_one_input_no_kernel_and_many_equal_eigenvalues():
    one = ntk.empirical_max_learning_rate(small_net(n_out=1), X[:1])
    assert_close(one.learning_rate, 2 / exact(small_net(n_out=1), X[:1]), rtol=1e-10)
    assert int(one.products) == 1
    zero = ntk.empirical_max_learning_rate((lambda w, x: 0.0 * x @ w, jnp.ones((3, 2))), X)
    assert (float(zero.learning_rate), float(zero.error), float(zero.eigenvalue)) == (np.inf, 0.0, 0.0)
    identity = ntk.empirical_max_learning_rate((lambda w, x: x @ w, jnp.ones((4, 3))), jnp.eye(4), rtol=1e-10)
    assert_close(identity.learning_rate, 8.0, rtol=1e-12)


def test_in_single_precision_and_for_each_member_of_an_ensemble():
    build = lambda rngs: ntk.mlp([3, 16, 2], w_std=1.3, rngs=rngs)  # noqa: E731
    x = X.astype(jnp.float32)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        keys = jax.random.split(jax.random.key(0), 3)
        rate = lambda k: ntk.empirical_max_learning_rate(build(nnx.Rngs(k)), x).learning_rate  # noqa: E731
        got = jax.jit(jax.vmap(rate))(keys)
        assert got.dtype == jnp.float32
        assert_close(got, [18 / exact(build(nnx.Rngs(k)), x) for k in keys], rtol=1e-3)


def test_too_few_products_are_said():
    with pytest.warns(UserWarning, match="After 2 products .* `max_products`"):
        limit = ntk.empirical_max_learning_rate(small_net(), X, rtol=1e-9, max_products=2)
    assert float(limit.error) > 1e-9 * float(limit.learning_rate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ntk.empirical_max_learning_rate(small_net(), X)


def test_it_compiles_once_for_one_architecture():
    ntk.empirical_max_learning_rate(small_net(0), X)
    net = small_net(1)
    with compilations() as compiled:
        ntk.empirical_max_learning_rate(net, X, rtol=1e-5)
    assert len(compiled) <= 4
