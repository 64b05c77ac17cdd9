"""Runs: children of a network, its linearization trained beside it, and measures recorded in one training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close, compilations, normal, small_net

import ntklib as ntk
from ntklib.evolution import _comparison, _models, _runs

X, LABELS = normal(0, 8, 3), jnp.array([0, 1, 1, 0, 1, 0, 1, 0])
Y = jnp.asarray(ntk.one_hot_centered(LABELS, 2), float)
OPTIMIZER = optax.sgd(0.3, momentum=0.5)
MODEL = ntk.functional(small_net())
RUN: Any = {"optimizer": OPTIMIZER, "batch_size": 2, "key": jax.random.key(3), "progress": False}


def same(params1, params2):
    """Whether parameters are equal to the bit."""
    return all(map(np.array_equal, jax.tree.leaves(params1), jax.tree.leaves(params2)))


@pytest.fixture(scope="module")
def trained():
    """The parameters after 0, 3, 6 and 12 steps of `train`."""
    at = [0, 3, 6, 12]
    return dict(zip(at, _rows(ntk.train(MODEL, X, Y, steps=12, record=lambda p: p, record_at=at, **RUN)), strict=True))


def _rows(history):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], history.records) for i in range(len(history.steps))]


# ---------------------------------------------------------------------------------------------------------- children


def test_children_have_their_parents_momentum_and_orders_of_their_own(trained):
    keys = jnp.stack([RUN["key"], jax.random.key(8), jax.random.key(8)])
    spawned = ntk.spawn(MODEL, X, Y, steps=12, spawn_at=[3, 6], children=3, child_keys=keys, **RUN)
    for time, step in enumerate((3, 6)):
        for a, b in zip(*map(jax.tree.leaves, (spawned.parent(time)[1], trained[step])), strict=True):
            assert_close(a, b, rtol=1e-12)
        own, other, again = (spawned.child(time, c)[1] for c in range(3))
        for a, b in zip(*map(jax.tree.leaves, (own, trained[12])), strict=True):
            assert_close(a, b, rtol=1e-12)  # the parent's order: its own end, which needs its momentum
        assert same(other, again)
        assert not same(own, other)
    assert same(spawned.child(0, 0)[1], spawned.child(1, 0)[1])  # both go on as the parent, to the bit
    assert_close(spawned.loss[1, 1], ntk.training.mse(spawned.apply_fn(spawned.child(1, 1)[1], X), Y))


def test_a_loss_is_read_anew_in_each_run():
    """A variable that it reads may have changed, as in a cell of a notebook that is run again."""
    factor = [1.0]
    loss = lambda outputs, y: factor[0] * jnp.mean((outputs - y) ** 2)  # noqa: E731
    for number in (1.0, 3.0):
        factor[0] = number
        how: Any = {"steps": 2, "loss": loss, **RUN}
        exact = ntk.train(MODEL, X, Y, **how).loss
        followed = ntk.follow(MODEL, X, Y, measures=["function_distance"], probe=X, **how)
        assert_close(followed.loss, exact, rtol=1e-12)
        spawned = ntk.spawn(MODEL, X, Y, spawn_at=[0], child_keys=RUN["key"][None], children=1, **how)
        assert_close(spawned.loss[0, 0], exact[-1], rtol=1e-12)


def test_runs_of_one_architecture_share_a_program():
    how: Any = {"steps": 4, "spawn_at": [0, 2], **RUN}
    first, other, x = ntk.spawn(MODEL, X, Y, **how), small_net(1), X + 1
    with compilations() as compiled:
        ntk.spawn(other, x, Y, **how)
    assert len(compiled) == 0
    assert not same(first.child(0, 0)[1], first.child(0, 1)[1])  # by default the keys differ


def test_children_of_an_interrupted_run_are_those_that_are_finished(monkeypatch):
    calls = []
    advance = _runs.Problem.advance

    def interrupting(self, *args):
        calls.append(args)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return advance(self, *args)

    monkeypatch.setattr(_runs.Problem, "advance", interrupting)
    spawned = ntk.spawn(MODEL, X, Y, steps=4, spawn_at=[0, 2], **RUN)
    assert spawned.steps.tolist() == [0]
    assert repr(spawned) == "<2 children of each of 1 parents>"


# --------------------------------------------------------------------------------------------------------- advantage


def test_a_network_that_is_linear_has_no_advantage():
    linear = (lambda w, x: x @ w, normal(1, 3, 2))
    found = ntk.nonlinear_advantage(linear, X, LABELS, X, LABELS, steps=6, record_at=[2, 6], **RUN)
    assert found.advantage == 0
    assert_close(found.linearized_errors, found.nonlinear_errors)
    assert found.steps.tolist() == [2, 6]


def test_a_network_whose_kernel_grows_has_an_advantage():
    """At w = 2.8 the slope of the cosine is a third of what it becomes: eight steps suffice, but not at the slope of
    the start.
    """
    model = (lambda w, x: jnp.concatenate([jnp.cos(w) * x, 0 * x], axis=-1), jnp.full((1, 1), 2.8))
    data = jnp.ones((4, 1)), jnp.zeros(4, int)
    found = ntk.nonlinear_advantage(model, *data, *data, optimizer=optax.sgd(1.0), steps=8, progress=False)
    assert (found.linearized, found.nonlinear, found.advantage) == (1, 0, 1)


def test_advantage_is_the_difference_of_two_trainings():
    """Against `train` on the network and on its linearization, with the best step and rate on a validation split."""
    fast = optax.sgd(1.0)
    valid, test = (normal(2, 8, 3), 1 - LABELS), (normal(3, 8, 3), LABELS)
    at = [0, 4, 8]
    how: Any = {"steps": 8, "batch_size": 2, "key": RUN["key"], "record_at": at, "progress": False}
    found = ntk.nonlinear_advantage(
        MODEL, X, LABELS, *test, optimizer=[OPTIMIZER, fast], linear_optimizer=fast, validation=valid, **how
    )

    def errors(model, optimizer):
        """On the test and the validation split, [T, 2]."""
        error = lambda p, x, labels: 1 - ntk.training.accuracy(model[0](p, x), labels)  # noqa: E731
        record = lambda p: jnp.stack([error(p, *test), error(p, *valid)])  # noqa: E731
        return ntk.train(model, X, LABELS, optimizer=optimizer, loss="cross_entropy", record=record, **how).records

    plain = np.stack([errors(MODEL, OPTIMIZER), errors(MODEL, fast)])
    linear = np.asarray(errors((ntk.linearize(MODEL), MODEL[1]), fast))[None]
    assert_close(found.nonlinear_errors, plain[..., 0])
    assert_close(found.linearized_errors, linear[..., 0])
    best, linear_best = (np.unravel_index(e[..., 1].argmin(), e.shape[:2]) for e in (plain, linear))
    assert (found.nonlinear_choice, found.linearized_choice) == (best, linear_best)
    assert_close(found.nonlinear, plain[best][0])
    assert_close(found.advantage, linear[linear_best][0] - plain[best][0], atol=1e-15)
    last = ntk.nonlinear_advantage(MODEL, X, LABELS, *test, optimizer=OPTIMIZER, linear_optimizer=fast, **how)
    assert_close(last.advantage, linear[0, -1, 0] - plain[0, -1, 0], atol=1e-15)


# ------------------------------------------------------------------------------------------------------ one training

PROBE: Any = {"probe": X[:5], "probe_labels": LABELS[:5]}
NAMES = ["kernel_distance", "kernel_velocity", "kernel_alignment", "function_distance", "logit_gradient_similarity"]
NAMES += ["error_barrier"]
FOLLOW: Any = {**RUN, **PROBE, "steps": 12, "record_at": [0, 3, 6, 12], "lag": 0.75, "measures": NAMES}


@pytest.fixture(scope="module")
def followed():
    return ntk.follow(MODEL, X, Y, **FOLLOW)


def test_follow_trains_as_train(followed, trained):
    for a, b in zip(*map(jax.tree.leaves, (followed.params, trained[12])), strict=True):
        assert_close(a, b, rtol=1e-12)
    assert followed.steps.tolist() == [0, 3, 6, 12]
    assert_close(followed.epochs, [0, 0.75, 1.5, 3.0])
    assert_close(followed.loss[2], ntk.training.mse(MODEL[0](trained[6], X), Y))


def test_follow_records_what_the_measures_say(followed, trained):
    start, probe = MODEL, PROBE["probe"]
    longer = ntk.train(MODEL, X, Y, steps=15, **RUN).params
    then = {0: trained[3], 3: trained[6], 12: longer}
    for time, step in enumerate((0, 3, 6, 12)):
        now = MODEL[0], trained[step]
        records = {name: values[time] for name, values in followed.records.items()}
        assert_close(records["kernel_distance"], ntk.kernel_distance(start, now, probe), atol=1e-12)
        if step in then:
            velocity = ntk.kernel_velocity(now, (MODEL[0], then[step]), probe, lag=0.75)
            assert_close(records["kernel_velocity"], velocity, rtol=1e-8)
        y = ntk.one_hot_centered(PROBE["probe_labels"], 2)
        assert_close(records["kernel_alignment"], ntk.kernel_alignment(now, None, probe, y=y, centered=True))
        assert_close(records["function_distance"], ntk.function_distance(start, now, probe))
        similarity = ntk.logit_gradient_similarity(now, probe, PROBE["probe_labels"])
        assert_close(records["logit_gradient_similarity"], jnp.stack(jax.tree.leaves(similarity)))
        barrier = ntk.error_barrier(start, now, probe, PROBE["probe_labels"]).barrier
        assert_close(records["error_barrier"], barrier, atol=1e-15)
    assert followed.records["kernel_distance"][0] == 0


def test_kernels_that_do_not_fit_are_compared_by_tiles(followed, monkeypatch):
    measures = ["kernel_distance", "kernel_velocity", "kernel_alignment"]
    tiles = _models.tiles
    monkeypatch.setattr(_comparison, "_KERNELS", 1e9)
    monkeypatch.setattr(_models, "tiles", lambda n, *_: tiles(n, 1, 2 * 3**2))  # 3 rows at a time
    small = ntk.follow(MODEL, X, Y, **(FOLLOW | {"measures": measures}))
    for name in measures:
        assert_close(small.records[name], followed.records[name], rtol=1e-9, atol=1e-12)


def test_functions_of_the_user_and_the_module_itself():
    net = ntk.mlp([3, 7, 2], w_std=1.0, rngs=nnx.Rngs(0))
    norm = lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))  # noqa: E731
    measures = {"norm": lambda start, now: norm(now[1]), "switched": "activation_hamming"}
    found = ntk.follow(net, X, Y, measures=measures, steps=6, probe=X, **RUN)
    assert_close(found.records["norm"][1], norm(nnx.state(net, nnx.Param)))
    assert set(found.records) == {"norm", "switched"}
    assert found.records["switched"][0] == 0


def test_three_kernels_are_there_at_most_whatever_the_number_of_times():
    """Of the start, of now, and of now and a lag."""
    measures = ["kernel_distance", "kernel_velocity"]
    counts = []
    kernels = lambda: [a for a in jax.live_arrays() if a.shape == (6, 6)]  # noqa: E731
    others = kernels()  # of other tests, and kept here, so that no new array takes the place of one of them

    def count(start, now):
        counts.append(sum(all(a is not b for b in others) for a in kernels()))
        return 0.0

    how = FOLLOW | {
        "probe": X[:6],
        "record_at": [0, 1, 2, 3, 6, 9],
        "measures": {n: n for n in measures} | {"n": count},
    }
    ntk.follow(MODEL, X, Y, **(how | {"probe_labels": None}))
    assert len(counts) == 6
    assert 1 <= max(counts) <= 3


@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, followed, times, capsys):
    path, calls = tmp_path / "run.npz", []

    def interrupting(start, now):
        calls.append(now)
        if len(calls) == times:
            raise KeyboardInterrupt
        return ntk.function_distance(start, now, PROBE["probe"])

    measures = dict(zip(NAMES, NAMES, strict=True)) | {"mine": interrupting}
    net = small_net()
    first = ntk.follow(net, X, Y, checkpoint=path, **(FOLLOW | {"measures": measures}))
    assert "interrupted" in capsys.readouterr().out
    assert len(first.steps) == times - 1
    second = ntk.follow(net, X, Y, checkpoint=path, **(FOLLOW | {"measures": measures}))
    assert same(second.params, followed.params)
    for name in NAMES:
        assert np.array_equal(second.records[name], followed.records[name]), name
    count = len(calls)
    third = ntk.follow(small_net(), X, Y, checkpoint=path, **(FOLLOW | {"measures": measures}))
    assert len(calls) == count  # all there
    assert same(third, second)
    for changes, word in (
        ({"steps": 13}, "steps"),
        ({"lag": 0.5}, "lag"),
        ({"key": jax.random.key(4)}, "data"),
        ({"model": small_net(5)}, "parameters"),
    ):
        arguments: Any = {"model": small_net(), "x": X, "y": Y} | FOLLOW | {"measures": measures} | changes
        with pytest.raises(ValueError, match=word):
            ntk.follow(checkpoint=path, **arguments)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="damaged"):
        ntk.follow(small_net(), X, Y, checkpoint=path, **(FOLLOW | {"measures": measures}))


def test_a_measure_of_half_precision_is_read_from_the_checkpoint(tmp_path):
    how = FOLLOW | {"measures": {"half": lambda one, other: jnp.asarray(1.5, jnp.bfloat16)}}
    first, second = (ntk.follow(MODEL, X, Y, checkpoint=tmp_path / "run.npz", **how) for _ in range(2))
    assert same(first, second)


def test_a_bar_shows_all_steps(capsys):
    ntk.follow(MODEL, X, Y, **(FOLLOW | {"measures": ["function_distance"], "progress": True}))
    assert "training" in capsys.readouterr().err
