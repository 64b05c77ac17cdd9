"""The empirical NTK by every method against a dense Jacobian, for every kind of model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import assert_close, kernel, normal, small_net

import ntklib as ntk

METHODS: tuple[Any, ...] = ("jacobian", "products")


class SmallCNN(nnx.Module):
    """Convolution, BatchNorm, Dropout: things that must be read in evaluation mode."""

    def __init__(self, dtype):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 3, (2, 2), param_dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(3, param_dtype=dtype, rngs=rngs)
        self.norm.mean = nnx.BatchStat(jnp.array([0.1, -0.2, 0.3], dtype))
        self.norm.var = nnx.BatchStat(jnp.array([1.5, 0.5, 2.0], dtype))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(27, 2, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.conv(x)))
        return self.dense(self.dropout(h).reshape(x.shape[0], -1))


class LinenMLP(linen.Module):
    dtype: object

    @linen.compact
    def __call__(self, x):
        x = linen.tanh(linen.Dense(4, param_dtype=self.dtype)(x))
        return linen.Dense(2, param_dtype=self.dtype)(x)


def plain(params, x):
    return jnp.tanh(x @ params["a"]) @ params["a"].T[:, :2] * params["c"]  # a is used twice


def models(dtype) -> dict[str, tuple[Any, list]]:
    key = jax.random.key(0)
    vectors = [normal(i, n, 3, dtype=dtype) for i, n in ((1, 3), (2, 4))]
    images = [normal(i, n, 3, 3, 2, dtype=dtype) for i, n in ((3, 3), (4, 4))]
    net = jax.tree.map(lambda a: a.astype(dtype) if hasattr(a, "astype") else a, nnx.state(small_net(), nnx.Param))
    dense = small_net()
    nnx.update(dense, net)
    mlp = LinenMLP(dtype)
    variables = mlp.init(key, vectors[0])
    params = {"a": normal(5, 3, 3, dtype=dtype), "c": jnp.asarray(1.5, dtype)}
    return {
        "dense": (dense, vectors),
        "nnx cnn": (SmallCNN(dtype), images),
        "linen bound": (mlp.bind(variables), vectors),
        "linen pair": ((mlp, variables), vectors),
        "function": ((plain, params), vectors),
    }


def dense_jacobian(model, x):
    apply_fn, params = ntk.functional(model)
    jac = jax.jit(jax.jacobian(apply_fn))(params, x)
    return jnp.concatenate([j.reshape(*j.shape[:2], -1) for j in jax.tree.leaves(jac)], axis=-1)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "dtype", "rtol"),
    [
        *((name, jnp.float64, 1e-10) for name in ("dense", "nnx cnn", "linen bound", "linen pair", "function")),
        ("dense", jnp.float32, 1e-5),
    ],
)
def test_every_method_agrees_with_a_dense_jacobian(name, dtype, rtol):
    model, (x1, x2) = models(dtype)[name]
    j1, j2 = dense_jacobian(model, x1), dense_jacobian(model, x2)
    full = jnp.einsum("ikp,jlp->ijkl", j1, j2)
    want: dict[Any, jax.Array] = {
        "full": full,
        "diagonal": jnp.einsum("ijkk->ijk", full),
        "mean": jnp.einsum("ijkk->ij", full) / 2,
    }
    for outputs, expected in want.items():
        for method in METHODS:
            got = ntk.empirical_ntk(model, x1, x2, outputs=outputs, method=method)
            assert got.dtype == dtype
            assert_close(got, expected, rtol=rtol)


@pytest.mark.sweep
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tile", [1, 2, 3, 100])
def test_batches_change_nothing(method, tile):
    model, (x1, x2) = models(jnp.float64)["dense"]
    whole = ntk.empirical_ntk(model, x1, x2, outputs="full")
    assert_close(ntk.empirical_ntk(model, x1, x2, outputs="full", method=method, tile=tile), whole, rtol=1e-12)


def test_reading_a_module_leaves_it_alone():
    cnn = SmallCNN(jnp.float64)
    x = normal(0, 3, 3, 3, 2)
    first = ntk.empirical_ntk(cnn, x)
    assert cnn.norm.use_running_average is False
    assert cnn.dropout.deterministic is False
    with jax.numpy_dtype_promotion("standard"):
        cnn(x)  # training mode: updates the running statistics, draws a mask
    assert float(jnp.abs(ntk.empirical_ntk(cnn, x) - first).max()) > 0, "new statistics, another function"


def test_scaling_the_output_scales_the_kernel_by_its_square():
    apply_fn, params = ntk.functional(small_net())
    x = normal(0, 3, 3)
    assert_close(
        ntk.empirical_ntk((lambda p, x: 3 * apply_fn(p, x), params), x), 9 * ntk.empirical_ntk((apply_fn, params), x)
    )


def test_nngp_estimates_have_the_mean_of_the_limit():
    x = normal(0, 3, 5)
    build = lambda key: ntk.mlp([5, 100, 2], w_std=1.2, b_std=0.3, rngs=nnx.Rngs(params=key))  # noqa: E731
    want = kernel(build(jax.random.key(0)), x).nngp
    keys = jax.random.split(jax.random.key(1), 4000)
    readout = np.asarray(jax.vmap(lambda k: ntk.empirical_nngp(build(k), x))(keys))
    outputs = np.asarray(jax.vmap(lambda k: ntk.empirical_nngp(ntk.functional(build(k)), x))(keys))
    for samples in (readout, outputs):
        assert (np.abs(samples.mean(0) - want) < 4.5 * samples.std(0) / np.sqrt(len(keys))).all()
    assert (readout.std(0) < 0.4 * outputs.std(0)).all(), "integrating the readout out removes most of the noise"


def test_every_method_works_inside_jit_and_vmap():
    x = normal(0, 3, 3)
    kernel = lambda key, method: ntk.empirical_ntk(  # noqa: E731
        ntk.mlp([3, 4, 2], w_std=1.0, rngs=nnx.Rngs(params=key)), x, method=method
    )
    keys = jax.random.split(jax.random.key(0), 2)
    want = jnp.stack([kernel(key, "auto") for key in keys])
    for method in ("auto", *METHODS):
        many = jax.vmap(lambda key: kernel(key, method))  # noqa: B023
        assert_close(jax.jit(many)(keys), want, rtol=1e-12)
        assert_close(many(keys), want, rtol=1e-12)  # by itself, without a warning about memory that is given away


@pytest.mark.parametrize("activation", [ntk.Relu, ntk.Tanh, ntk.Gelu, lambda: ntk.LeakyRelu(0.3)])
def test_networks_of_one_architecture_compile_once(activation):
    """Their functions are equal, so a loop over seeds or training steps does not compile anew each time."""
    nets = [ntk.mlp([3, 4, 2], activation=activation(), w_std=1.0, rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    first, second = (ntk.functional(net)[0] for net in nets)
    assert first == second
    assert hash(first) == hash(second)
    other = ntk.mlp([3, 4, 2], activation=activation(), w_std=1.1, rngs=nnx.Rngs(0))
    assert ntk.functional(other)[0] != first
