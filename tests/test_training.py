"""The training loop: against a loop by hand, its records, batches, interruption, and inside vmap."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from helpers import assert_close, normal, small_net

import ntklib as ntk
from ntklib import training

X, Y = normal(0, 8, 3), normal(1, 8, 2)


@pytest.fixture
def standard_promotion():
    """For optimisers and layers of other libraries, which mix float32 constants in."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("standard_promotion")
def test_loop_is_the_loop_by_hand():
    net = small_net()
    apply_fn, params = ntk.functional(net)
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: 0.5 * jnp.mean(jnp.sum((apply_fn(p, X) - Y) ** 2, -1)))(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    for _ in range(7):
        params, state = step(params, state)
    history = ntk.train(net, X, Y, optimizer=optax.adam(1e-2), steps=7)
    assert_close(net(X), apply_fn(params, X), rtol=1e-12)
    assert_close(history.loss[-1], training.mse(net(X), Y), rtol=1e-12)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.lbfgs()], ids=["momentum", "lbfgs"])
@pytest.mark.usefixtures("standard_promotion")
def test_a_complex_parameter_is_trained_like_its_two_parts(optimizer):
    def outputs(w, x):
        z = x.astype(w.dtype) @ w
        return jnp.concatenate([z.real, (z * z).imag], axis=1)

    parts = (normal(2, 3, 1), normal(3, 3, 1))
    pair = (lambda p, x: outputs(jax.lax.complex(*p), x), parts)
    given = {"optimizer": optimizer, "steps": 9, "record_at": [0, 1, 9]}
    as_one = ntk.train((outputs, jax.lax.complex(*parts)), X, Y, **given)
    assert_close(as_one.loss, ntk.train(pair, X, Y, **given).loss, rtol=1e-9)
    assert as_one.loss[-1] < as_one.loss[0]


def test_records_are_taken_where_asked():
    net = small_net()
    apply_fn, _ = ntk.functional(net)
    start = net(X)
    history = ntk.train(
        net, X, Y, optimizer=ntk.sgd(net, 0.1), steps=10, record=lambda p: apply_fn(p, X), record_at=[0, 3, 7]
    )
    assert history.steps.tolist() == [0, 3, 7]
    assert history.records.shape == (3, 8, 2)
    assert_close(history.records[0], start)
    assert_close(history.loss, jax.vmap(lambda f: training.mse(f, Y))(history.records))
    again = small_net()
    ntk.train(again, X, Y, optimizer=ntk.sgd(again, 0.1), steps=3)
    assert_close(history.records[1], again(X), rtol=1e-12)


def test_batches_are_drawn_anew_and_follow_the_key():
    def run(key, batch_size=4):
        net = small_net()
        ntk.train(net, X, Y, optimizer=ntk.sgd(net, 0.1), steps=5, batch_size=batch_size, key=jax.random.key(key))
        return net(X)

    assert (run(0) == run(0)).all()
    assert not jnp.allclose(run(0), run(1))
    full = small_net()
    ntk.train(full, X, Y, optimizer=ntk.sgd(full, 0.1), steps=5)
    assert_close(run(0, batch_size=8), full(X), rtol=1e-10)


def test_each_step_draws_another_batch_of_different_examples():
    """With one parameter per example, those that have moved have been drawn."""

    def drawn(steps):
        model = (lambda w, x: x @ w, jnp.zeros((8, 1)))
        sampling = {"batch_size": 3, "key": jax.random.key(0)}
        w = ntk.train(model, jnp.eye(8), jnp.ones((8, 1)), optimizer=optax.sgd(1.0), steps=steps, **sampling).params
        return int((w != 0).sum())

    assert drawn(steps=1) == 3
    assert drawn(steps=40) == 8


def test_inside_jit_each_record_comes_from_the_same_loop():
    """The program does not grow with the number of records, and gives what `train` gives outside."""
    apply_fn, params = ntk.functional(ntk.mlp([3, 16, 2], w_std=1.4, rngs=nnx.Rngs(0)))

    def trained(params, at, steps=50):
        how = {"optimizer": optax.sgd(0.3), "steps": steps, "batch_size": 4, "key": jax.random.key(1)}
        return ntk.train((apply_fn, params), X, Y, **how, record=lambda p: apply_fn(p, X), record_at=at, progress=False)

    for at in ([0, 3, 7, 50], [5]):
        inside, outside = jax.jit(lambda p, at=at: trained(p, at))(params), trained(params, at)
        for one, other in zip(jax.tree.leaves(inside), jax.tree.leaves(outside), strict=True):
            assert_close(one, other, rtol=1e-10)
        assert inside.steps.tolist() == at
    few, many = (jax.jit(lambda p, n=n: trained(p, range(n))).lower(params).as_text() for n in (2, 40))
    assert len(many.splitlines()) < len(few.splitlines()) + 10


@pytest.mark.usefixtures("standard_promotion")
def test_many_learning_rates_in_one_vmap():
    """Only the optimizer holds traced values. The module keeps its parameters."""
    net = small_net()
    before = ntk.functional(net)[1]
    rates = jnp.array([0.05, 0.1, 0.2])
    one = lambda rate, model=net: ntk.train(model, X, Y, optimizer=optax.sgd(rate), steps=5).loss  # noqa: E731
    got = jax.vmap(one)(rates)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), before, ntk.functional(net)[1])))
    assert_close(got, jnp.stack([one(float(rate), ntk.functional(net)) for rate in rates]), rtol=1e-12)


def test_many_seeds_in_one_vmap():
    def one(key):
        model = ntk.functional(ntk.mlp([3, 6, 2], w_std=1.0, rngs=nnx.Rngs(params=key)))
        return ntk.train(model, X, Y, optimizer=optax.sgd(0.1), steps=5).loss

    keys = jax.random.split(jax.random.key(0), 3)
    assert_close(jax.jit(jax.vmap(one))(keys), jax.lax.map(one, keys), rtol=1e-12)

    def classifier(key):
        model = ntk.functional(ntk.mlp([3, 6, 2], w_std=1.0, rngs=nnx.Rngs(params=key)))
        labels = jnp.array([0, 1, 1, 0, 1, 0, 0, 1])
        how: Any = {"loss": "cross_entropy", "batch_size": 2, "key": key, "steps": 3}
        return ntk.train(model, X, labels, optimizer=optax.sgd(0.1), **how).loss

    assert_close(jax.jit(jax.vmap(classifier))(keys), jax.lax.map(classifier, keys), rtol=1e-12)


def test_cross_entropy_takes_labels_and_probabilities():
    labels = jnp.array([0, 1, 1, 0, 1, 0, 0, 1])
    logits = normal(2, 8, 2)
    want = -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), labels])
    assert_close(training.cross_entropy(logits, labels), want)
    assert_close(training.cross_entropy(logits, jax.nn.one_hot(labels, 2)), want)
    net = small_net()
    history = ntk.train(net, X, labels, optimizer=ntk.sgd(net, 1.0), steps=200, loss="cross_entropy")
    assert history.loss[-1] < 0.3 * history.loss[0]
    assert training.accuracy(net(X), labels) > 0.8


def test_divergence_is_said():
    net = small_net()
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        ntk.train(net, X, Y, optimizer=ntk.sgd(net, 1e6), steps=50)


def test_interruption_keeps_what_there_is(monkeypatch, capsys):
    class Bar:
        disable = False

        def __init__(self, **_):
            self.calls = 0

        def update(self, _):
            self.calls += 1
            if self.calls == 10:
                raise KeyboardInterrupt

        def close(self):
            pass

    monkeypatch.setattr(training, "tqdm", Bar)
    net = small_net()
    start = net(X)
    history = ntk.train(net, X, Y, optimizer=ntk.sgd(net, 0.1), steps=100, record_at=range(0, 101, 5))
    assert "interrupted" in capsys.readouterr().out
    assert 0 < len(history.steps) < 21
    assert not jnp.allclose(net(X), start), "the module holds the parameters reached"


# ------------------------------------------------------------------------------ what optimizers may want, and targets


@pytest.mark.usefixtures("standard_promotion")
def test_line_searches_are_given_the_loss():
    """L-BFGS as by hand, and transformations that want the value of the loss; on the full batch."""
    net = small_net()
    apply_fn, params = ntk.functional(net)
    loss = lambda p: 0.5 * jnp.mean(jnp.sum((apply_fn(p, X) - Y) ** 2, -1))  # noqa: E731
    optimizer = optax.lbfgs()
    state, start = optimizer.init(params), float(loss(params))

    @jax.jit  # without it the line search is compiled anew in each step
    def step(params, state):
        value, grads = optax.value_and_grad_from_state(loss)(params, state=state)
        updates, state = optimizer.update(grads, state, params, value=value, grad=grads, value_fn=loss)
        return optax.apply_updates(params, updates), state

    for _ in range(5):
        params, state = step(params, state)
    history = ntk.train(net, X, Y, optimizer=optax.lbfgs(), steps=5)
    assert_close(net(X), apply_fn(params, X), rtol=1e-8)
    assert float(history.loss[-1]) < 0.2 * start
    for other in (
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)),
        optax.polyak_sgd(),
    ):
        again = small_net()
        history = ntk.train(again, X, Y, optimizer=other, steps=5)
        assert float(history.loss[-1]) < float(history.loss[0])


@pytest.mark.usefixtures("standard_promotion")
def test_line_searches_in_batches_search_on_their_batch():
    """A batch of all examples is the full batch, whatever order they come in."""
    full, batches = small_net(), small_net()
    ntk.train(full, X, Y, optimizer=optax.lbfgs(), steps=3)
    ntk.train(batches, X, Y, optimizer=optax.lbfgs(), steps=3, batch_size=8, key=jax.random.key(0))
    assert_close(batches(X), full(X), rtol=1e-8)


def test_old_and_new_keys_are_taken_and_draw_alike():
    losses = []
    for key in (jax.random.key(3), jax.random.PRNGKey(3)):
        net = small_net()
        losses.append(ntk.train(net, X, Y, optimizer=optax.sgd(0.1), steps=3, batch_size=2, key=key).loss)
    assert_close(losses[0], losses[1], rtol=1e-14)


def test_a_loss_that_is_not_finite_at_the_start_is_no_matter_of_rates():
    model = (lambda w, x: x @ w / 0.0, jnp.ones((3, 2)))
    with pytest.raises(FloatingPointError, match="before the first step: look for NaN"):
        ntk.train(model, X, Y, optimizer=optax.sgd(0.1), steps=3)


def test_the_function_cross_entropy_is_checked_as_its_name_is():
    net = small_net()
    for loss in ("cross_entropy", training.cross_entropy):
        with pytest.raises(ValueError, match="`y` must hold probabilities"):
            ntk.train(net, X, Y, optimizer=optax.sgd(0.1), steps=3, loss=loss)
    own = lambda logits, y: training.cross_entropy(logits, y)  # noqa: E731
    ntk.train(net, X, jnp.zeros(8, jnp.int32), optimizer=optax.sgd(0.1), steps=3, loss=own)
