"""Parameterizations: the same function at the start, the same or another way from there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, normal, small_net

import ntklib as ntk

X, Y = normal(0, 5, 3), normal(1, 5, 2)
ALL = [ntk.NTK, ntk.STANDARD, ntk.MEAN_FIELD, ntk.MUP]


def trained(net, steps=30, learning_rate=0.3, momentum=None):
    ntk.train(net, X, Y, optimizer=ntk.sgd(net, learning_rate, momentum), steps=steps)
    return net(X)


@pytest.mark.parametrize("p", ALL, ids=repr)
@pytest.mark.parametrize("q", ALL, ids=repr)
def test_conversion_keeps_the_function(p, q):
    net = small_net(parameterization=p)
    assert_close(ntk.convert(net, q)(X), net(X), rtol=1e-12)
    assert net.layers[0].parameterization == p, "the original is left alone"


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_standard_with_its_rates_is_ntk_step_by_step(momentum):
    net = small_net()
    start = net(X)
    standard = ntk.convert(net, ntk.STANDARD)
    assert_close(trained(standard, momentum=momentum), trained(net, momentum=momentum), rtol=1e-11)
    assert float(jnp.abs(net(X) - start).max()) > 0.1, "it has moved at all"


def test_one_global_rate_in_standard_is_another_path():
    net = small_net()
    standard = ntk.convert(net, ntk.STANDARD)
    import optax

    ntk.train(standard, X, Y, optimizer=optax.sgd(0.3 / 7), steps=30)
    assert float(jnp.abs(standard(X) - trained(net)).max()) > 1e-3


def test_two_layer_mean_field_is_maximal_update():
    def net(p):
        return ntk.mlp([3, 50, 2], activation=ntk.Tanh(), w_std=1.3, b_std=0.2, parameterization=p, rngs=nnx.Rngs(0))

    mean_field = net(ntk.MEAN_FIELD)
    mup = ntk.convert(mean_field, ntk.MUP)
    assert_close(trained(mup), trained(mean_field), rtol=1e-11)


@pytest.mark.parametrize("p", ALL, ids=repr)
def test_initial_weights_have_the_variance_they_should(p):
    """Multiplier × std of the draw: σ_w/√n everywhere, and one more 1/√n for the readout of MUP and MEAN_FIELD."""
    n = 2000
    net: Any = ntk.mlp([3, n, n, 50], w_std=1.5, b_std=0.3, parameterization=p, rngs=nnx.Rngs(0))
    for layer in (net.layers[2], net.layers[4]):
        multiplier = layer.scales()["W"][0]
        std = float(jnp.std(multiplier * layer.W[...]))
        extra = {"output": 0.5, "hidden": 0.5 if p is ntk.MEAN_FIELD else 0.0}[layer.role] * (p in ALL[2:])
        assert abs(std / (1.5 / n ** (0.5 + extra)) - 1) < 0.02
        bias = layer.scales()["b"][0] * layer.b[...]
        assert abs(float(jnp.std(bias)) / 0.3 - 1) < 0.25


@pytest.mark.parametrize(
    ("p", "hidden", "output"),
    [(ntk.NTK, -0.5, 0.0), (ntk.STANDARD, -0.5, 0.0), (ntk.MUP, 0.0, 0.0)],
    ids=["NTK", "STANDARD", "MUP"],
)
def test_how_far_features_and_outputs_move_with_width(p, hidden, output):
    """The exponent of the rms change of the last hidden layer and of the output after three steps."""
    widths, changes = [64, 256, 1024], []
    for n in widths:

        def change(key, n=n):
            net = ntk.mlp([3, n, n, 1], activation=ntk.Tanh(), w_std=1.4, parameterization=p, rngs=nnx.Rngs(params=key))
            apply_fn, params = ntk.functional(net)
            optimizer = ntk.sgd(net, 0.3)
            after = ntk.train((apply_fn, params), X, Y[:, :1], optimizer=optimizer, steps=3).params
            graph, _ = nnx.split(net)
            read = lambda p: (ntk.Serial(*list(nnx.merge(graph, nnx.State(p)).layers)[:3])(X), apply_fn(p, X))  # noqa: E731
            return jax.tree.map(lambda a, b: jnp.mean((a - b) ** 2), read(params), read(after))

        squares = jax.jit(jax.vmap(change))(jax.random.split(jax.random.key(0), 24))
        changes.append([float(jnp.sqrt(s.mean())) for s in squares])
    changes = np.array(changes).T
    slopes = [np.polyfit(np.log(widths), np.log(c), 1)[0] for c in changes]
    assert abs(slopes[0] - hidden) < 0.12, slopes
    assert abs(slopes[1] - output) < 0.12, slopes


def test_sgd_refuses_the_gradients_of_another_network():
    optimizer = ntk.sgd(small_net(), 0.1)
    params = ntk.functional(small_net(width=8))[1]
    with pytest.raises(ValueError, match="not those of the network"):
        optimizer.update(params, optimizer.init(params), params)


def test_sgd_works_with_an_nnx_optimizer_and_with_a_schedule():
    net, twin = small_net(parameterization=ntk.STANDARD), small_net(parameterization=ntk.STANDARD)
    optimizer = nnx.Optimizer(net, ntk.sgd(net, lambda count: jnp.where(count == 0, 0.1, 0.05)), wrt=nnx.Param)
    loss = lambda m: 0.5 * jnp.mean(jnp.sum((m(X) - Y) ** 2, -1))  # noqa: E731
    for _ in range(2):
        optimizer.update(net, nnx.grad(loss)(net))
    apply_fn, params = ntk.functional(twin)
    rates = {"layers": {i: {k: v[2] for k, v in twin.layers[i].scales().items()} for i in (0, 2, 4)}}
    for eta in (0.1, 0.05):
        grads = jax.grad(lambda p: 0.5 * jnp.mean(jnp.sum((apply_fn(p, X) - Y) ** 2, -1)))(params)
        params = jax.tree.map(lambda p, g, r: p - eta * r * g, params, grads, rates)  # noqa: B023
    assert_close(net(X), apply_fn(params, X), rtol=1e-12)


def test_conversion_that_cannot_keep_the_function_is_refused():
    net: Any = ntk.Dense(3, 2, w_std=1.0, b_std=0.0, parameterization=ntk.STANDARD, rngs=nnx.Rngs(0))
    ntk.convert(net, ntk.NTK)  # the bias is zero: nothing is lost
    net.b[...] = net.b[...] + 1.0
    with pytest.raises(ValueError, match="multiplier 0"):
        ntk.convert(net, ntk.NTK)
