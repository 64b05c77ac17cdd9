"""Many networks at once: against as many calls of `train`, their moments, chunks, interruption, divergence."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close, compilations, normal

import ntklib as ntk
from ntklib import _ensemble_job, ensembles, training

X, Y = normal(0, 8, 3), normal(1, 8, 2)
KEY = jax.random.key(3)


def build(rngs, width=7):
    return ntk.mlp([3, width, 2], activation=ntk.Erf(), w_std=1.3, b_std=0.2, rngs=rngs)


def ensemble(build: Any = build, x: Any = X, y: Any = Y, **changes) -> ntk.Ensemble:
    how: Any = {"members": 3, "optimizer": optax.sgd(0.3, 0.9), "steps": 20, "key": KEY} | changes
    return ntk.ensemble(build, x, y, **how)


def singles(rates=(0.3, 0.3, 0.3), batch_size=None, rows=None, build: Any = build, record_at=(0, 20)):
    """The same by calls of `train`: networks before and after, and their histories."""
    out = []
    for m, k in enumerate(jax.random.split(KEY, len(rates))):
        before, net = build(nnx.Rngs(k)), build(nnx.Rngs(k))
        x, y = (X, Y) if rows is None else (X[rows[m]], Y[rows[m]])
        batches: Any = {"batch_size": batch_size, "key": jax.random.fold_in(k, 2**32 - 1)} if batch_size else {}
        apply_fn = ntk.functional(net)[0]
        record = lambda p, f=apply_fn: f(p, X[:2])  # noqa: E731
        how: Any = {"optimizer": optax.sgd(rates[m], 0.9), "steps": 20, "record": record, "record_at": record_at}
        out.append((before, net, ntk.train(net, x, y, **how, **batches)))
    return out


RATES, ROWS = jnp.array([0.1, 0.3, 0.5]), np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [0, 2, 4, 6, 7]])


@functools.cache
def singles_with_settings(batch_size):
    """Once for ensembles of all groups."""
    return singles(RATES, batch_size, ROWS, record_at=[0, 3, 20])


def test_members_stay_the_networks_that_were_trained_if_build_reads_another_value_later():
    """As in a loop over activations, whose variable `build` reads."""
    trained = []
    for activation in (ntk.Relu(), ntk.Tanh(), ntk.Elementwise(lambda x: jnp.sin(x))):
        made: Any = lambda rngs: ntk.mlp([3, 7, 2], activation=activation, w_std=1.3, rngs=rngs)  # noqa: B023, E731
        trained.append(ensemble(made))
    for one in trained:
        assert_close([training.mse(f, Y) for f in one.outputs(X)], one.loss[:, -1], rtol=1e-9)
        apply_fn, params = one.member(1)
        assert_close(training.mse(apply_fn(params, X), Y), one.loss[1, -1], rtol=1e-9)
        assert_close(one.outputs(X) - one.outputs(X, centered=True), outputs_at_the_start(one), rtol=1e-9)


def outputs_at_the_start(one):
    found = [one.made(key) for key in one.keys]
    return jnp.stack([apply_fn(params, X) for apply_fn, params in found])


@pytest.mark.parametrize("max_memory", [1e9, 1.0])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_members_are_those_of_as_many_calls_of_train(batch_size, max_memory):
    apply_fn = ntk.functional(build(nnx.Rngs(0)))[0]
    got = ensemble(
        optimizer=lambda rate: optax.sgd(rate, 0.9), settings={"rate": RATES}, rows=ROWS, batch_size=batch_size,
        record=lambda p: apply_fn(p, X[:2]), record_at=[0, 3, 20], max_memory=max_memory,
    )  # fmt: skip
    assert got.chunk == (3 if max_memory > 1 else 1)
    assert got.steps.tolist() == [0, 3, 20]
    assert got.loss.shape == (3, 3)
    assert got.records.shape == (3, 3, 2, 2)
    for m, (before, net, history) in enumerate(singles_with_settings(batch_size)):
        assert_close(got.loss[m], history.loss, rtol=1e-11)
        assert_close(got.records[m], history.records, rtol=1e-11)
        assert_close(got.outputs(X)[m], net(X), rtol=1e-11)
        assert_close(got.outputs(X, centered=True)[m], net(X) - before(X), rtol=1e-11)
        member, params = got.member(m)
        assert_close(member(params, X), net(X), rtol=1e-11)
        assert float(jnp.abs(net(X) - before(X)).max()) > 0.05, "it has moved at all"


def test_in_single_precision_too():
    x, y = X.astype(jnp.float32), Y.astype(jnp.float32)
    with jax.enable_x64(False):
        key = jax.random.key(0)
        got = ensemble(x=x, y=y, key=key)
        for m, k in ((0, jax.random.split(key, 3)[0]), (2, jax.random.split(key, 3)[2])):
            net = build(nnx.Rngs(k))
            ntk.train(net, x, y, optimizer=optax.sgd(0.3, 0.9), steps=20)
            assert_close(got.outputs(x)[m], net(x), rtol=1e-5)


def test_mean_variance_and_accuracy_are_those_of_the_outputs():
    got, labels = ensemble(members=3), jnp.array([0, 1, 1, 0, 1, 0, 0, 1])
    alone = singles()
    f = np.stack([net(X) for _, net, _ in alone])
    assert len(got) == 3
    assert_close(got.mean(X), f.mean(0), rtol=1e-11)
    assert_close(got.variance(X), f.var(0, ddof=1), rtol=1e-11)
    assert float(got.accuracy(X, labels)) == np.mean(f.mean(0).argmax(1) == labels)
    centered = f - np.stack([before(X) for before, _, _ in alone])
    assert_close(got.mean(X, centered=True), centered.mean(0), rtol=1e-11)
    assert float(got.accuracy(X, labels, centered=True)) == np.mean(centered.mean(0).argmax(1) == labels)


def test_members_with_equal_keys_start_equal():
    keys = jax.random.split(KEY, 2)[jnp.array([0, 0, 1])]
    got = ensemble(key=keys, optimizer=optax.sgd, settings={"learning_rate": jnp.array([0.1, 0.2, 0.2])})
    assert got.loss[0, 0] == got.loss[1, 0] != got.loss[2, 0]
    assert got.loss[0, 1] != got.loss[1, 1]


def test_networks_of_other_libraries_with_state_and_pairs_of_functions():
    def flax(rngs):
        layers = nnx.Linear(3, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs), nnx.tanh, nnx.Dropout(0.5, rngs=rngs)
        return nnx.Sequential(*layers, nnx.Linear(6, 2, rngs=rngs))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        got, want = ensemble(flax), singles(build=flax)
    for m, (_, net, _) in enumerate(want):
        net.eval()
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            assert_close(got.outputs(X)[m], net(X), rtol=1e-6)

    def centered_by_hand(rngs):
        net = build(rngs)
        apply_fn, params = ntk.functional(net)
        return (lambda p, x: apply_fn(p, x) - net(x)), params

    by_hand, by_library = (ensemble(make) for make in (centered_by_hand, lambda rngs: ntk.center(build(rngs))))
    assert_close(by_hand.outputs(X), by_library.outputs(X), rtol=1e-11)
    for m in range(3):  # a member's function has the state of its own start
        apply_fn, params = by_hand.member(m)
        assert_close(apply_fn(params, X), by_hand.outputs(X)[m], rtol=1e-11)
    assert_close(by_library.loss[:, 0], jnp.full(3, training.mse(jnp.zeros_like(Y), Y)), rtol=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("own", "batch_size"),
    [(np.array([[0, 1, 2, 3], [4, 5, 6, 7], [1, 3, 5, 7]]), 3), (None, None)],
    ids=["rows and batches", "all examples"],
)
def test_members_with_convolutions_take_turns(monkeypatch, own, batch_size):
    """By one program, and with what `train` gives: settings and examples of their own, batches and records included."""
    images, rates, turns = normal(5, 8, 4, 4, 1), jnp.array([0.1, 0.3, 0.5]), []
    in_turn = _ensemble_job.Job._in_turn
    monkeypatch.setattr(_ensemble_job.Job, "_in_turn", lambda job, f: turns.append(f.__name__) or in_turn(job, f))

    def convolutional(rngs):
        return ntk.cnn((4, 4, 1), (3, 3), 2, kernel_size=2, activation=ntk.Erf(), w_std=1.3, b_std=0.2, rngs=rngs)

    apply_fn = ntk.functional(convolutional(nnx.Rngs(0)))[0]
    got = ensemble(
        convolutional, images, optimizer=lambda rate: optax.sgd(rate, 0.9), settings={"rate": rates}, rows=own,
        batch_size=batch_size, record=lambda p: apply_fn(p, images[:2]), record_at=[0, 20],
    )  # fmt: skip
    for m, k in enumerate(jax.random.split(KEY, 3)):
        net = convolutional(nnx.Rngs(k))
        x, y = (images, Y) if own is None else (images[own[m]], Y[own[m]])
        batches: Any = {"batch_size": batch_size, "key": jax.random.fold_in(k, 2**32 - 1)} if batch_size else {}
        history = ntk.train(net, x, y, optimizer=optax.sgd(rates[m], 0.9), steps=20, record_at=[0, 20], **batches)
        assert_close(got.loss[m], history.loss, rtol=1e-11)
        assert_close(got.records[m, -1], net(images[:2]), rtol=1e-11)
    assert turns == ["advance"]
    ensemble()
    assert len(turns) == 1  # dense layers do not


def test_penalties_by_member():
    net = build(nnx.Rngs(0))
    strengths = jnp.array([0.0, 0.1, 0.5])
    make = lambda strength: optax.chain(ntk.weight_decay(net, strength), ntk.sgd(net, 0.3))  # noqa: E731
    got = ensemble(key=KEY[None][jnp.zeros(3, int)], optimizer=make, settings={"strength": strengths}, steps=100)
    norms = [float(sum(jnp.vdot(leaf[m], leaf[m]) for leaf in jax.tree.leaves(got.params))) for m in range(3)]
    assert norms[0] > 1.5 * norms[1] > 1.5**2 * norms[2]
    for m in range(3):
        single = build(nnx.Rngs(KEY))
        ntk.train(single, X, Y, optimizer=make(float(strengths[m])), steps=100)
        assert_close(got.outputs(X)[m], single(X), rtol=1e-11)


def test_training_by_labels():
    got = ensemble(y=jnp.array([0, 1, 1, 0, 1, 0, 0, 1]), loss="cross_entropy", steps=100)
    assert bool((got.loss[:, 1] < 0.5 * got.loss[:, 0]).all())


def test_everything_compiles_once_whatever_the_number_of_groups():
    def count(max_memory):
        jax.clear_caches()
        with compilations() as compiled:
            got = ensemble(members=8, max_memory=max_memory)
        return len(compiled), got.chunk

    (whole, all_at_once), (parts, one) = count(1e9), count(1.0)
    assert (all_at_once, one) == (8, 1)
    assert parts <= whole + 12, "a few small programs that pick the members of a group; no loop"


@pytest.mark.sweep
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 8])
def test_groups_are_of_one_size_and_hold_every_member(chunk):
    groups = _ensemble_job.groups(7, chunk)
    assert len({len(group) for group in groups}) == 1
    assert len(groups[0]) <= chunk
    assert np.unique(np.concatenate(groups)).tolist() == list(range(7))
    assert np.concatenate(groups)[:7].tolist() == list(range(7))


@pytest.mark.sweep
@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1)])
def test_the_memory_of_a_step_is_bounded(width, optimizer):
    """The estimate is above what XLA reserves for the loop over one member, and not by far."""
    made = functools.partial(build, width=width)
    held: dict[str, Any] = {}

    def remember(parts, start, member, bytes_of_step=_ensemble_job.bytes_of_step):
        held.update(parts=parts, start=start, member=member, bytes=bytes_of_step(parts, start, member))
        return held["bytes"]

    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(_ensemble_job, "bytes_of_step", remember)
        x = normal(5, 200, 3)
        ensemble(made, x, normal(6, 200, 2), optimizer=optimizer, members=6)
        loop = lambda member, state: jax.lax.fori_loop(0, 5, held["parts"](member)[1], state)  # noqa: E731
        count = 6
        member = held["member"] | {"key": jax.random.split(KEY, count)}
        axes = ({"key": 0, "settings": 0, "x": None, "y": None}, 0)
        state = jax.vmap(held["start"], in_axes=axes[:1])(member)
        memory: Any = jax.jit(jax.vmap(loop, in_axes=axes)).lower(member, state).compile().memory_analysis()
    used = memory.temp_size_in_bytes + memory.output_size_in_bytes + sum(a.nbytes for a in jax.tree.leaves(state))
    assert used < count * held["bytes"] < 12 * used


def test_the_memory_of_a_member_has_its_examples_and_the_loss_over_all_of_them():
    x, y, width = normal(5, 4000, 3), normal(6, 4000, 2), 50
    every = np.tile(np.arange(4000), (2, 1))

    def needed(rows):
        made, optimizer = functools.partial(build, width=width), training.transformation_of(optax.sgd(0.1))
        keys = jax.random.split(KEY, 2)
        job = _ensemble_job.Job(made, lambda _: optimizer, training.mse, x, y, keys, {}, rows, 1, None)
        return job.bytes_of_a_member()

    assert needed(None) > len(x) * width * x.itemsize  # the hidden units for all examples
    assert needed(every) == needed(None) + x.nbytes + y.nbytes


# ------------------------------------------------------------------------------------- what ends before it should


def test_divergence_is_said_or_kept():
    rates = {"learning_rate": jnp.array([0.1, 1e6, 0.1])}
    with pytest.raises(FloatingPointError, match=r"1 of 3 members \(1\) is not finite at step 50: .*smaller"):
        ensemble(optimizer=optax.sgd, settings=rates, steps=50)
    got = ensemble(optimizer=optax.sgd, settings=rates, steps=50, diverged="keep")
    assert jnp.isfinite(got.loss[:, -1]).tolist() == [True, False, True]
    with pytest.raises(FloatingPointError, match="before the first step"):
        ensemble(lambda rngs: (lambda w, x: x @ w / 0.0, rngs.params.normal((3, 2))), diverged="keep")


@functools.cache
def whole():
    return ensemble(members=6, steps=100, record_at=range(0, 101, 5))


@pytest.mark.parametrize(("calls", "members", "records"), [(10, 2, 4), (70, 2, 21), (130, 4, 21)])
def test_interruption_keeps_what_is_done(monkeypatch, capsys, calls, members, records):
    """Three groups of two members, of 60 pieces each: in the first it keeps what it has, later the groups before it."""

    class Bar:
        disable = False

        def __init__(self, **_):
            self.calls = 0

        def update(self, _):
            self.calls += 1
            if self.calls == calls:
                raise KeyboardInterrupt

        def close(self):
            pass

    whole()
    monkeypatch.setattr(training, "tqdm", Bar)
    monkeypatch.setattr(ensembles, "fitting", lambda *_: 2)
    got = ensemble(members=6, steps=100, record_at=range(0, 101, 5))
    assert "interrupted" in capsys.readouterr().out
    assert got.loss.shape == (members, records)
    assert len(got.steps) == records
    assert_close(got.loss, whole().loss[:members, :records], rtol=1e-11)
    assert got.outputs(X).shape == (members, 8, 2)
