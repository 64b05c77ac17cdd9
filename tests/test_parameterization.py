"""Parameterizations: the same function at the start, the same or another way from there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close, normal, small_net

import ntklib as ntk

X, Y = normal(0, 5, 3), normal(1, 5, 2)
ALL = [ntk.NTK, ntk.STANDARD, ntk.MEAN_FIELD, ntk.MUP]


def trained(net, steps=30, learning_rate=0.3, momentum=None):
    ntk.train(net, X, Y, optimizer=ntk.sgd(net, learning_rate, momentum), steps=steps)
    return net(X)


@pytest.mark.sweep
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


@pytest.mark.weekly
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


def test_with_momentum_sgd_refuses_gradients_that_would_broadcast():
    net = ntk.Dense(2, 1, w_std=1.0, rngs=nnx.Rngs(0))
    transformation = ntk.sgd(net, 0.1, momentum=0.9)
    state = transformation.init(nnx.state(net, nnx.Param))
    other = nnx.state(ntk.Dense(1, 1, w_std=1.0, rngs=nnx.Rngs(0)), nnx.Param)
    with pytest.raises(ValueError, match="gradients are not those of the network"):
        transformation.update(other, state)


def test_a_parameter_named_scales_is_no_method():
    class Own(nnx.Module):
        def __init__(self):
            self.scales = nnx.Param(jnp.ones(1))

    net = Own()
    assert ntk.convert(net, ntk.STANDARD).scales[...] == 1.0
    for transformation in (ntk.sgd(net, 0.1), ntk.weight_decay(net, 0.1)):
        params = nnx.state(net, nnx.Param)
        transformation.update(params, transformation.init(params), params)


def test_shared_parameters_are_converted_once_or_refused():
    how: Any = {"use_bias": False, "rngs": nnx.Rngs(0)}
    layers = [ntk.Dense(3, 3, w_std=1.2, **how) for _ in range(2)]
    net, x = ntk.Serial(*layers), jnp.ones((1, 3))
    layers[1].W = layers[0].W
    assert_close(ntk.convert(net, ntk.STANDARD)(x), net(x), rtol=1e-12)
    layers[1].w_std = 0.7
    with pytest.raises(ValueError, match=r"layers\.1\.W is shared.*w_std"):
        ntk.convert(net, ntk.STANDARD)


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


# ------------------------------------------------------------------------------------------ rates of single tensors

D, N1, N2, OUT, ETA = 3, 5, 4, 2, 0.05  # unequal widths: a fan-in taken for a fan-out shows

#: By hand, for (W1, b1, W2, b2, W3, b3) of a network D-N1-N2-OUT: the multipliers and, in units of η, the rates; from
#: the papers' tables, w and b being σ_w and σ_b.
BY_HAND = {
    ntk.NTK: lambda w, b: (
        [w / D**0.5, b, w / N1**0.5, b, w / N2**0.5, b],
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    ),
    ntk.STANDARD: lambda w, b: (
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [w * w / D, b * b, w * w / N1, b * b, w * w / N2, b * b],
    ),
    ntk.MEAN_FIELD: lambda w, b: (
        [w / D**0.5, b, w / N1, b, w / N2, b],
        [N1, N1, N1 * N2, N2, N2, 1.0],
    ),
    ntk.MUP: lambda w, b: (
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [w * w * N1 / D, b * b * N1, w * w, b * b * N2, w * w / N2, b * b],
    ),
}  # fmt: skip


def by_hand(p, w_std, b_std):
    """A network, its parameters as a list, its function of them, and their rates, without a layer of the library."""
    net: Any = ntk.mlp(
        [D, N1, N2, OUT], activation=ntk.Erf(), w_std=w_std, b_std=b_std, parameterization=p, rngs=nnx.Rngs(3)
    )
    multipliers, rates = BY_HAND[p](w_std, b_std)

    def f(params, x):
        w1, b1, w2, b2, w3, b3 = (m * a for m, a in zip(multipliers, params, strict=True))
        h = jax.scipy.special.erf(x @ w1 + b1[None])
        h = jax.scipy.special.erf(h @ w2 + b2[None])
        return h @ w3 + b3[None]

    return net, parameters(net), f, rates


def parameters(net):
    """W1, b1, W2, b2, W3, b3."""
    return [jnp.array(a[...]) for i in (0, 2, 4) for a in (net.layers[i].W, net.layers[i].b)]


@pytest.mark.sweep
@pytest.mark.parametrize("b_std", [0.7, 0.0])
@pytest.mark.parametrize("p", ALL, ids=repr)
def test_every_tensor_of_every_role_learns_at_its_own_rate(p, b_std):
    net, params, f, rates = by_hand(p, 1.3, b_std)
    assert_close(net(X), f(params, X), rtol=1e-13)
    loss = lambda params: 0.5 * jnp.mean(jnp.sum((f(params, X) - Y) ** 2, -1))  # noqa: E731
    gradient = jax.jit(jax.grad(loss))
    for _ in range(4):
        params = [
            np.asarray(a) - ETA * r * np.asarray(g) for a, r, g in zip(params, rates, gradient(params), strict=True)
        ]
    ntk.train(net, X, Y, optimizer=ntk.sgd(net, ETA), steps=4)
    for got, want in zip(parameters(net), params, strict=True):
        assert_close(got, want, rtol=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize("b_std", [0.7, 0.0])
@pytest.mark.parametrize("p", ALL, ids=repr)
def test_a_small_step_is_the_kernel_weighted_by_the_rates(p, b_std):
    """df/dt = −Θ (f − y)/N with Θ the sum over tensors of rate · J Jᵀ."""
    net, params, f, rates = by_hand(p, 1.3, b_std)
    jacobians = [np.reshape(j, (5, OUT, -1)) for j in jax.jit(jax.jacobian(f))(params, X)]
    theta = sum(r * np.einsum("nkp,mlp->nkml", j, j) for r, j in zip(rates, jacobians, strict=True))
    start = np.asarray(net(X))
    predicted = -np.einsum("nkml,ml->nk", theta, start - Y) / 5
    moves = []
    for eta in (1e-5, 5e-6):
        one: Any = nnx.clone(net)
        ntk.train(one, X, Y, optimizer=ntk.sgd(one, eta), steps=1)
        moves.append((np.asarray(one(X)) - start) / eta)
    assert_close(2 * moves[1] - moves[0], predicted, rtol=1e-6)  # the term of order η taken out


@pytest.mark.parametrize("p", ALL, ids=repr)
def test_without_a_scale_no_bias_adds_anything_as_long_as_sgd_trains(p):
    """σ_b = 0: the outputs stay those of the same network without biases, and STANDARD stays NTK."""
    net: Any = ntk.mlp([D, N1, N2, OUT], w_std=1.3, parameterization=p, rngs=nnx.Rngs(0))
    bare = [jnp.array(net.layers[i].W[...]) for i in (0, 2, 4)]
    ntk.train(net, X, Y, optimizer=ntk.sgd(net, 0.1), steps=10)
    assert float(jnp.abs(net.layers[2].W[...] - bare[1]).max()) > 1e-4, "it has moved at all"
    h = X
    for i in (0, 2, 4):
        layer = net.layers[i]
        h = jnp.maximum(h, 0.0) if i else h
        h = layer.scales()["W"][0] * (h @ layer.W[...])
    assert_close(net(X), h, rtol=1e-13)


def test_standard_stays_ntk_without_a_scale_of_biases_too():
    net: Any = ntk.mlp([D, N1, N2, OUT], w_std=1.3, rngs=nnx.Rngs(0))
    standard = ntk.convert(net, ntk.STANDARD)
    assert_close(trained(standard), trained(net), rtol=1e-11)


@pytest.mark.parametrize("p", ALL, ids=repr)
def test_the_kernel_counts_a_bias_as_the_jacobian_does(p):
    """Both have no rates in them: 1 for a bias of multiplier 1, σ_b² or 0 for one that is multiplied by σ_b."""
    for b_std in (0.0, 0.7):
        layer = ntk.Dense(D, 1, w_std=1.3, b_std=b_std, parameterization=p, role="output", rngs=nnx.Rngs(0))
        bare = ntk.Dense(D, 1, w_std=1.3, use_bias=False, parameterization=p, role="output", rngs=nnx.Rngs(0))
        counted = layer.kernel(X).ntk - bare.kernel(X).ntk
        assert_close(counted, jnp.full((5, 5), b_std**2 if p.std == "multiplier" else 1.0), atol=1e-14)
        assert_close(layer.kernel(X).ntk, ntk.empirical_ntk(layer, X), rtol=1e-12)


@pytest.mark.parametrize("p", [ntk.STANDARD, ntk.MUP], ids=repr)
def test_a_bias_that_starts_at_zero_and_learns(p):
    """What the docstring of `Dense` says to do; and that one rate for all trains a bias of σ_b = 0."""
    layer = ntk.Dense(D, OUT, w_std=1.3, b_std=1.0, parameterization=p, role="hidden", rngs=nnx.Rngs(0))
    assert layer.b is not None
    layer.b[...] = 0.0 * layer.b[...]
    start = layer(X)
    ntk.train(layer, X, Y, optimizer=ntk.sgd(layer, 0.1), steps=1)
    rate = 1.0 if p is ntk.STANDARD else OUT
    assert_close(layer.b[...], -0.1 * rate * jnp.mean(start - Y, axis=0), rtol=1e-12)
    other = ntk.Dense(D, OUT, w_std=1.3, parameterization=p, role="hidden", rngs=nnx.Rngs(0))
    ntk.train(other, X, Y, optimizer=optax.sgd(0.1), steps=1)
    assert other.b is not None
    assert float(jnp.abs(other.b[...]).max()) > 1e-3


@pytest.mark.sweep(part=3)
@pytest.mark.parametrize("p", ALL, ids=repr)
def test_a_convolution_of_the_size_of_its_image_learns_as_a_dense_layer(p):
    """Same fan-in, same draws: one step of `sgd` moves weights and biases alike, for each role."""
    for role in ("input", "hidden", "output"):
        same: Any = {"w_std": 1.3, "b_std": 0.7, "parameterization": p, "role": role}
        dense = ntk.Dense(2 * 2 * 3, OUT, **same, rngs=nnx.Rngs(0))
        conv = ntk.Conv(3, OUT, 2, padding="VALID", **same, rngs=nnx.Rngs(0))
        net = ntk.Serial(conv, ntk.Flatten())
        x = normal(5, 5, 2, 2, 3)
        assert_close(net(x), dense(x.reshape(5, -1)), rtol=1e-13)
        ntk.train(net, x, Y, optimizer=ntk.sgd(net, 0.1), steps=2)
        ntk.train(dense, x.reshape(5, -1), Y, optimizer=ntk.sgd(dense, 0.1), steps=2)
        assert conv.b is not None
        assert dense.b is not None
        assert_close(conv.b[...], dense.b[...], rtol=1e-12)
        assert_close(conv.W[...].reshape(-1, OUT), dense.W[...], rtol=1e-12)


# ------------------------------------------------------------------------------------------------------- weight decay


def decayed(net, x=X, y=Y, strength=0.02, steps=300, rate=0.1, **how):
    """The outputs after training with a penalty, and with momentum."""
    optimizer = optax.chain(ntk.weight_decay(net, strength, **how), ntk.sgd(net, rate, momentum=0.9))
    ntk.train(net, x, y, optimizer=optimizer, steps=steps)
    return net(x)


@pytest.mark.parametrize("b_std", [0.2, 0.0])
def test_with_the_strengths_of_ntk_a_standard_network_trains_as_one_under_ntk(b_std):
    net: Any = ntk.mlp([3, 7, 7, 2], activation=ntk.Erf(), w_std=1.3, b_std=b_std, rngs=nnx.Rngs(0))
    standard: Any = ntk.convert(net, ntk.STANDARD)
    plain, start = nnx.clone(standard), net(X)
    want = decayed(net)
    assert_close(decayed(standard), want, rtol=1e-12)
    back: Any = ntk.convert(standard, ntk.NTK)
    assert_close(back.layers[0].W[...], net.layers[0].W[...], rtol=1e-12)
    assert float(jnp.abs(want - start).max()) > 0.1, "it has moved at all"
    assert float(jnp.abs(decayed(plain, like=ntk.STANDARD) - want).max()) > 1e-3, "one strength is another penalty"


def test_convolutions_are_decayed_as_dense_layers_are():
    x = normal(2, 5, 4, 4, 2)
    net = ntk.cnn((4, 4, 2), [5, 5], 2, activation=ntk.Erf(), w_std=1.3, b_std=0.2, rngs=nnx.Rngs(0))
    standard = ntk.convert(net, ntk.STANDARD)
    assert_close(decayed(standard, x, steps=50), decayed(net, x, steps=50), rtol=1e-12)


def test_the_decay_is_the_gradient_of_the_penalty_that_stands_in_the_loss():
    """Gradient descent by hand, with λ/2 ‖θ‖² of the NTK parameters written into the loss."""
    net = small_net()
    standard = ntk.convert(net, ntk.STANDARD)
    apply_fn, params = ntk.functional(net)

    def loss(params):
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return 0.5 * jnp.mean(jnp.sum((apply_fn(params, X) - Y) ** 2, -1)) + 0.02 / 2 * penalty

    @jax.jit
    def step(params, velocity):
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, jax.grad(loss)(params))
        return jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity), velocity

    velocity = jax.tree.map(np.zeros_like, params)
    for _ in range(20):
        params, velocity = step(params, velocity)
    assert_close(decayed(standard, steps=20), apply_fn(params, X), rtol=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize("p", ALL, ids=repr)
@pytest.mark.parametrize("like", ALL, ids=repr)
def test_each_strength_is_the_square_of_the_ratio_of_the_multipliers(p, like):
    """The penalty of the converted network is that of the original with the strengths of `like`."""
    net = small_net(parameterization=p)
    decay, params = ntk.weight_decay(net, 0.3, like=like), nnx.state(net, nnx.Param)
    gradient, _ = decay.update(jax.tree.map(jnp.zeros_like, params), decay.init(params), params)
    twice = sum(jnp.vdot(g, v) for g, v in zip(jax.tree.leaves(gradient), jax.tree.leaves(params), strict=True))
    there = jax.tree.leaves(nnx.state(ntk.convert(net, like), nnx.Param))
    assert_close(twice, 0.3 * sum(jnp.vdot(leaf, leaf) for leaf in there), rtol=1e-12)


def test_strengths_may_be_traced_and_other_layers_have_the_plain_one():
    class Mixed(nnx.Module):
        def __init__(self):
            self.ours = ntk.Dense(3, 4, w_std=2.0, parameterization=ntk.STANDARD, rngs=nnx.Rngs(0))
            self.theirs = nnx.Linear(4, 2, rngs=nnx.Rngs(1))

    params: Any = nnx.state(Mixed(), nnx.Param)

    @jax.jit
    @jax.vmap
    def gradient(strength):
        decay = ntk.weight_decay(Mixed(), strength)
        return decay.update(jax.tree.map(jnp.zeros_like, params), decay.init(params), params)[0]

    got = gradient(jnp.array([0.0, 0.1]))
    assert_close(got.theirs.kernel[...][1], 0.1 * params.theirs.kernel[...], rtol=1e-6)
    assert_close(got.ours.W[...][1], 0.1 * 3 / 4 * params.ours.W[...], rtol=1e-12)
    assert not got.ours.b[...].any(), "a bias with b_std = 0 is left out"
    assert not got.ours.W[...][0].any()


def test_weight_decay_says_what_it_needs():
    net = small_net()
    decay, gradients = ntk.weight_decay(net, 0.1), jax.tree.map(jnp.ones_like, nnx.state(net, nnx.Param))
    with pytest.raises(ValueError, match="needs the parameters"):
        decay.update(gradients, decay.init(gradients))
    with pytest.raises(ValueError, match="not those of the network that `weight_decay`"):
        ntk.weight_decay(small_net(width=9), 0.1).update(gradients, decay.init(gradients), gradients)
