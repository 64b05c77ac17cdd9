"""Empirical kernels averaged over initializations: their limit, their error, their compilations.

As users run it: float32, ordinary promotion.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, compilations, kernel

import ntklib as ntk

VECTORS = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def as_users_run_it():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_monte_carlo_kernels_agree_with_the_limit_within_their_error():
    """At a width where the bias, of order 1/n, is below the error; entries within 4.5 of theirs, and most within 2."""
    build = lambda r: ntk.mlp([6, 400, 400, 3], w_std=1.3, b_std=0.2, rngs=r)  # noqa: E731
    estimate = ntk.monte_carlo_kernel(build, VECTORS, draws=60, key=jax.random.key(0))
    limit = kernel(build(nnx.Rngs(0)), jnp.asarray(VECTORS))
    for mean, error, want in (
        (estimate.ntk, estimate.ntk_error, limit.ntk),
        (estimate.nngp, estimate.nngp_error, limit.nngp),
    ):
        off = np.abs(mean - want) / error
        assert off.max() < 4.5
        assert np.median(off) > 0.1, "an error that is too large"
        assert np.median(off) < 2.0
        assert float((error / np.abs(np.diag(want)).max()).max()) < 0.05


@pytest.mark.parametrize("max_memory", [1e9, 1e5])
def test_monte_carlo_is_the_mean_and_error_of_single_kernels(max_memory):
    def build(r):
        layers = nnx.Linear(6, 20, rngs=r), nnx.BatchNorm(20, rngs=r), nnx.relu, nnx.Dropout(0.5, rngs=r)
        return nnx.Sequential(*layers, nnx.Linear(20, 2, rngs=r))

    key, draws = jax.random.key(3), 5
    got = ntk.monte_carlo_kernel(build, VECTORS, VECTORS[:2], draws=draws, key=key, max_memory=max_memory)
    nets = [build(nnx.Rngs(k)) for k in jax.random.split(key, draws)]
    for one, mean, error in (
        (ntk.empirical_ntk, got.ntk, got.ntk_error),
        (ntk.empirical_nngp, got.nngp, got.nngp_error),
    ):
        kernels = np.stack([one(net, VECTORS, VECTORS[:2]) for net in nets]).astype(np.float64)
        assert_close(mean, kernels.mean(0), rtol=1e-5)
        assert_close(error, kernels.std(0, ddof=1) / np.sqrt(draws), rtol=1e-4)


class OneLayer(nnx.Module):
    def __init__(self, std, rngs):
        self.w = nnx.Param(std * jax.random.normal(rngs.params(), (6, 1)))

    def __call__(self, x):
        return x @ self.w[...]


def test_build_is_read_anew_in_each_call():
    """A variable that it reads may have changed since the last call, as in a cell of a notebook that is run again."""
    std = [1.0]
    build = lambda r: OneLayer(std[0], r)  # noqa: E731
    first = ntk.monte_carlo_kernel(build, VECTORS, draws=2, key=jax.random.key(0))
    std[0] = 3.0
    second = ntk.monte_carlo_kernel(build, VECTORS, draws=2, key=jax.random.key(0))
    assert_close(second.nngp, 9 * first.nngp, rtol=1e-5)


def test_monte_carlo_compiles_nothing_for_further_draws():
    build = lambda r: ntk.mlp([6, 8, 2], w_std=1.0, rngs=r)  # noqa: E731
    with compilations() as compiled:
        ntk.monte_carlo_kernel(build, VECTORS, draws=2, key=jax.random.key(0))
        few = len(compiled)
        ntk.monte_carlo_kernel(build, VECTORS, draws=40, key=jax.random.key(0))
    assert len(compiled) - few <= 8, "forty keys, split and taken apart"


def test_an_error_too_large_for_its_type_is_refused():
    large = lambda w, x: 1e10 * x @ w**2  # noqa: E731
    with pytest.raises(FloatingPointError, match="too large for float32"):
        ntk.monte_carlo_kernel(
            lambda rngs: (large, rngs.params.normal((6, 1))), VECTORS, draws=3, key=jax.random.key(0), progress=False
        )


def test_a_builder_that_must_know_its_numbers_is_called_as_it_is():
    def build(r):
        return nnx.Linear(6, 2 + int(jax.random.bernoulli(r.params(), 0.0)), rngs=r)

    got = ntk.monte_carlo_kernel(build, VECTORS, draws=2, key=jax.random.key(0))
    assert_close(got.ntk, VECTORS @ VECTORS.T + 1, rtol=1e-5)
