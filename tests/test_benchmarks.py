"""The benchmark's harness on tiny cases: turns, ratios, and what becomes of peers that are missing, wrong or gone."""

import dataclasses
import importlib.util
import io
import itertools
import os
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from rich.console import Console

import ntklib as ntk
from benchmarks import cases, harness, peers, report, worker
from benchmarks.cases import Case
from benchmarks.harness import Measurement, Result, Settings
from benchmarks.peers import Implementation, limit, ours

LINEAR = Case("linear, N=6", "empirical", [["dense", 3, 1]], (3,), 6, goal=2.0, data="normal")
QUICK = Settings(rounds=3, turn=0.0, limit=8.0, trial=4)


def stand_in(option, **changes):
    given: Any = {"family": option, "whole": True, **changes}
    return Implementation(f"stand-in {option}", module="benchmark_peers", option=option, **given)


@pytest.fixture(scope="module")
def linear():
    """Everybody on one linear layer: ours, the same under another name, and stand-ins."""
    tests = os.path.dirname(__file__)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, before]))
    field = [dataclasses.replace(peers.OURS, name="ours again", family="again")]
    field += [stand_in(option) for option in ("wrong", "dies", "refuses")]
    field += [stand_in(option, family="ways", whole=False) for option in ("slow", "right")]
    field += [
        Implementation("gone", "gone", "benchmark_peers", python="/nowhere/python", how="`make gone`", whole=True)
    ]
    field += [Implementation("absent", "absent", "benchmarks.peers.absent", how="`pip install absent`", whole=True)]
    try:
        yield harness.run(LINEAR, peers.OURS, field, QUICK)
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def named(result, name) -> Measurement:
    return next(peer for peer in result.peers if peer.name == name)


def test_everybody_who_can_has_a_turn_in_each_round(linear):
    result, versions = linear
    for measured in (result.ours, named(result, "ours again"), named(result, "stand-in right")):
        assert len(measured.seconds) == 3
        assert measured.note == ""
        assert all(0 < seconds < 8 for seconds in measured.seconds)
    assert {"ntklib", "jax", "stand-in"} <= set(versions)
    assert result.ours.first > result.ours.seconds[0], "the first call compiles"
    assert named(result, "ours again").peak < 2**31
    assert named(result, "ours again").difference == 0.0
    assert named(result, "stand-in right").difference < 1e-6


def test_of_a_family_those_that_are_slow_on_a_few_inputs_are_left_out(linear):
    names = [peer.name for peer in linear[0].peers]
    assert "stand-in right" in names
    assert "stand-in slow" not in names
    assert min(named(linear[0], "stand-in right").seconds) >= 0.02


def test_a_peer_with_another_result_is_flagged_and_is_no_peer(linear):
    result, _ = linear
    wrong = named(result, "stand-in wrong")
    assert abs(wrong.difference - 1e-3 / 1.001) < 1e-6
    assert abs(max(wrong.outside, wrong.diagonal) - 1e-3 / 1.001) < 1e-6
    assert not report.agrees(result, wrong)
    assert report.best(result) is not wrong
    assert "DIFFERS" in report.markdown([result])
    assert any("stand-in wrong has another result than ours" in line for line in report.remarks([result]))
    assert report.wrong([result])
    assert not report.wrong([dataclasses.replace(result, peers=[p for p in result.peers if p is not wrong])])


def test_who_is_missing_is_named_with_the_way_to_get_it(linear):
    result, _ = linear
    text = "\n".join(report.remarks([result]))
    assert "gone is missing: not installed. Get it: `make gone`" in text
    assert "absent is missing: No module named 'benchmarks.peers.absent'. Get it: `pip install absent`" in text
    assert "| gone: missing: not installed |" in report.markdown([result])


def test_who_fails_is_out_and_the_others_go_on(linear):
    result, _ = linear
    assert "ended with code 3" in named(result, "stand-in dies").note
    assert named(result, "stand-in refuses").note == "failed: ValueError: no such network"
    assert named(result, "stand-in dies").seconds == []


def test_if_ours_fails_that_is_all(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    result, _ = harness.run(LINEAR, stand_in("refuses"), [stand_in("right")], QUICK)
    assert result.ours.note == "failed: ValueError: no such network"
    assert result.peers[0].note == "not measured, nothing to compare it with"
    assert "| ours failed: ValueError: no such network |" in report.markdown([result])
    assert report.wrong([result])
    assert "DIFFERS" not in report.markdown([result])


def test_a_call_without_end_is_ended(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    result, _ = harness.run(LINEAR, stand_in("right"), [stand_in("hangs")], dataclasses.replace(QUICK, limit=0.5))
    assert result.peers[0].note == "failed: more than 1 s"
    assert len(result.ours.seconds) == 3


def test_who_would_take_too_long_is_not_measured(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    settings = dataclasses.replace(QUICK, limit=0.5, trial=1)
    peer = stand_in("right", whole=False)  # 0.02 s on one input, so 0.72 s on six by the square
    result, _ = harness.run(LINEAR, stand_in("right"), [peer], settings)
    assert result.peers[0].note.startswith("not measured, about 1 s a call")
    assert not report.wrong([result])


# Arithmetic -------------------------------------------------------------------------------------------------------

OURS = Measurement("ntklib", "ntklib", [1.0, 2.0, 4.0], first=5.0, peak=3 * 2**20)
FAST = Measurement(
    "fast", "fast", [3.0, 5.0, 10.0], first=5.5, peak=2**20, difference=1e-6, outside=3e-5, diagonal=2e-3
)
SLOW = Measurement("slow", "slow", [30.0, 20.0, 10.0], first=9.0, peak=2**20)
RESULT = Result(LINEAR, OURS, [SLOW, FAST])


def test_ratios_are_of_medians_and_ranges_of_rounds():
    r = report.ratio(OURS, FAST)
    assert (r.median, r.low, r.high) == (2.5, 2.5, 3.0)
    r = report.ratio(OURS, SLOW)
    assert (r.median, r.low, r.high) == (10.0, 2.5, 30.0)
    assert report.compiling(OURS) == 3.0
    assert report.best(RESULT) is FAST


def test_the_table_has_these_numbers():
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.markdown([RESULT]).splitlines()]
    assert cells[2][0] == "**linear, N=6**"
    assert cells[4] == [
        "fast",
        "2",
        "5",
        "2.50",
        "2.50 to 3.00",
        "2 reached",
        "3.0 / 0.5",
        "3 / 1",
        "1e-06",
        "3e-05 / 2e-03",
    ]
    assert cells[3][:6] == ["slow", "2", "20", "10.00", "2.50 to 30.00", ""]
    ambitious = dataclasses.replace(RESULT, case=dataclasses.replace(RESULT.case, goal=2.6))
    assert "2.6 missed" in report.markdown([ambitious])
    shown = io.StringIO()
    Console(width=170, file=shown).print(report.table([RESULT]))
    assert "2.50 to 3.00" in shown.getvalue()


def test_single_entries_may_differ_and_the_norm_may_not():
    off = Result(LINEAR, OURS, [SLOW, dataclasses.replace(FAST, difference=1.01e-4)])
    assert report.agrees(RESULT, FAST)
    assert not report.agrees(off, off.peers[1])
    assert report.best(off) is SLOW


def test_differences_are_relative_to_the_largest_entry(tmp_path):
    a = np.array([[1.0, 2.0], [2.0, 4.0]])
    paths = [tmp_path / f"{name}.npy" for name in "abcd"]
    moved, lost = a.copy(), a.copy()
    moved[0, 1] += 0.4
    moved[1, 1] = 5.0
    lost[1, 0] = np.nan
    for path, array in zip(paths, (a, moved, lost, a[:1]), strict=True):
        np.save(path, array)
    norm = (0.4**2 + 1) ** 0.5 / (1 + 2.4**2 + 4 + 25) ** 0.5
    assert np.allclose(harness.differences(paths[0], paths[1], 1e-4), (norm, 0, 0.4 / 5, 1 / 5))
    assert harness.differences(paths[0], paths[2], 1e-4)[:3] == (np.inf, 0, np.inf)
    assert harness.differences(paths[0], paths[3], 1e-4) == (np.inf, 0, np.inf, np.inf)


def test_few_inputs_may_be_apart(tmp_path):
    """Where a ReLU is zero up to rounding; one in twenty, not more."""
    a = np.random.default_rng(0).normal(size=(40, 40, 2, 2))
    b = a + 1e-6
    paths = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(paths[0], a)
    for apart in (0, 1, 2, 3):
        if apart:
            b[7 * apart], b[:, 7 * apart] = a[7 * apart] * (1 + 0.01 * apart), a[:, 7 * apart] * 1.01
        np.save(paths[1], b)
        difference, found, *_ = harness.differences(*paths, 1e-4)
        assert found == apart % 3
        assert (difference < 1e-5) == (apart < 3)
    measured = dataclasses.replace(FAST, difference=1e-6, apart=2)
    assert "| 1e-06 but for 2 inputs |" in report.markdown([Result(LINEAR, OURS, [measured])])


def test_writing_puts_the_table_between_the_marks_and_nothing_else(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    conditions = report.conditions({"jax": "1.2"}, Settings(cores=2))
    for _ in range(2):
        report.write(readme, [RESULT], conditions)
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n\n| ")
    assert text.endswith(f"jax 1.2.\n\n{report.END}\nafter\n")
    assert "old" not in text
    assert text.count("**linear, N=6**") == 1
    assert "on 2 of the" in text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="must hold the lines"):
        report.write(readme, [RESULT], conditions)
    assert report.BEGIN in (peers.ROOT / "benchmarks" / "README.md").read_text()


# Cases ------------------------------------------------------------------------------------------------------------

SMALL = {
    "dense": Case("dense", "empirical", cases.mlp(3, 4, 2), (3,), 3, 1.0, "full", "normal"),
    "flatten": Case(
        "flatten", "empirical", cases.convolutions(4, 1, 2, 3, readout="flatten", outputs=2), (4, 4, 1), 3, 1.0,
        "full", "normal",
    ),
    "residual": Case(
        "residual", "empirical",
        [["conv", 1, 3, 3], ["pool", 2], ["residual", [["relu"], ["conv", 3, 3, 3]]], ["relu"], ["global_pool"],
         ["dense", 3, 2]],
        (4, 4, 1), 3, 1.0, "mean", "normal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_networks_are_what_their_descriptions_say(name):
    case, x = SMALL[name], cases.inputs(SMALL[name]).astype(float)
    weights = [(w.astype(float), b.astype(float)) for w, b in cases.weights(case)]
    got = jax.jit(ours.network(case, weights))(jnp.asarray(x))
    assert_close(got, plain(case, case.layers, iter(weights), x), rtol=1e-12)


@pytest.mark.skipif(not peers.TORCH.exists(), reason="PyTorch is not installed: make benchmark-torch")
def test_pytorch_has_the_same_function():
    """The case whose weights are stored otherwise there; a true run compares all of them."""
    torch = next(dataclasses.replace(peer, whole=True) for peer in peers.PEERS if peer.family == "torch.func")
    result, _ = harness.run(SMALL["flatten"], peers.OURS, [torch], dataclasses.replace(QUICK, rounds=1, limit=60.0))
    assert result.peers[0].note == ""
    assert report.agrees(result, result.peers[0])


@pytest.mark.parametrize(("name", "parameters"), [("ResNet-20", 269_722), ("transformer", 207_946)])
def test_models_are_what_their_names_say(name, parameters):
    """And their outputs for an example do not depend on the others in the batch."""
    case = next(case for case in cases.CASES if name in case.name)
    apply_fn, params = ntk.functional(ours.model(case))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    assert {peer.family for peer in peers.PEERS if peer.takes(case)} == {"neural-tangents"}
    x = jnp.asarray(cases.arrays(case)["x"][:3])
    apply = jax.jit(apply_fn)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        both, with_another = (apply(params, part) for part in (x[:2], x[::2]))
    assert both.shape == (2, 10)
    assert_close(both[:1], with_another[:1], rtol=1e-5)
    assert float(jnp.abs(both[1] - with_another[1]).max()) > 1e-3 * float(jnp.abs(both).max())


REGRESSION = Case(
    "regression, N=40", "regression", cases.mlp(64, 3, 1), (64,), 40, 1.0, data="digits", test=10, tolerance=1e-6
)


def regression(monkeypatch):
    """The arrays of a small regression, and its weights: of the digits, as mnist5k has no fewer than 4,000."""
    data = ntk.load("digits", n_train=40, n_test=10).flat()
    y = np.asarray(ntk.one_hot_centered(data.y_train, 10))
    arrays = {"x": data.x_train, "y": y, "test": data.x_test}
    monkeypatch.setattr(cases, "arrays", lambda case: arrays)
    return arrays, doubled(REGRESSION)


def doubled(case):
    """The weights in float64, as the networks of a session in float64 have them."""
    return [(w.astype(float), b.astype(float)) for w, b in cases.weights(case)]


def test_a_regression_is_the_formula(monkeypatch):
    arrays, weights = regression(monkeypatch)
    got = ours.prepare(REGRESSION, "", weights=weights, **arrays)()
    x, test = (jnp.asarray(arrays[name].astype(float)) for name in ("x", "test"))
    net = ours.network(REGRESSION, weights)
    k, cross = np.split(np.asarray(jax.jit(net.kernel)(jnp.concatenate([x, test]), x).ntk), [40])
    shifted = k + 1e-4 * np.trace(k) / 40 * np.eye(40)
    assert_close(got, cross @ np.linalg.solve(shifted, arrays["y"]), rtol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("neural_tangents") is None, reason="neural-tangents is not installed")
@pytest.mark.sweep
@pytest.mark.parametrize("option", ["predict", "KernelRidge"])
def test_peers_have_the_same_predictions(monkeypatch, option):
    arrays, _ = regression(monkeypatch)
    peer = next(peer for peer in peers.PEERS if peer.option == option)
    result, _ = harness.run(REGRESSION, peers.OURS, [peer], dataclasses.replace(QUICK, rounds=1, limit=120.0))
    assert result.peers[0].note == ""
    assert 0.0 < result.peers[0].difference < 1e-6
    assert len(arrays["x"]) == 40
    assert "DIFFERS" not in report.markdown([result])


def test_a_large_regression_has_augmented_inputs():
    small, large = (
        cases.arrays(case) for case in cases.CASES if case.kind == "regression"
    )  # 2,000 of the 4,000 images; all of them and 6,000 copies
    assert small["x"].shape == (2000, 784)
    assert large["x"].shape == (10_000, 784)
    assert small["test"].shape == large["test"].shape == (1000, 784)
    assert large["y"].shape == (10_000, 10)
    assert np.array_equal(small["x"], large["x"][:2000])
    assert np.array_equal(small["y"].argmax(1), large["y"][:2000].argmax(1))


def test_an_activation_is_compared_with_erf_in_its_place():
    """The yardstick has another result, counts for the goal, and is not called wrong."""
    case = Case("sin-like, N=6", "activation", cases.mlp(3, 1, 1, activation="gelu"), (3,), 6, goal=1e-9, data="normal")
    yardstick = next(peer for peer in peers.PEERS if peer.role == "yardstick")
    result, _ = harness.run(case, peers.OURS, [yardstick], dataclasses.replace(QUICK, rounds=1, limit=60.0))
    assert report.best(result) is result.peers[0]
    assert "1e-09 reached" in report.markdown([result])
    assert not report.wrong([result])
    x, weights = cases.inputs(case).astype(float), doubled(case)
    erf = dataclasses.replace(case, layers=cases.mlp(3, 1, 1, activation="erf"))
    got = ours.prepare(case, "erf", x, weights)()
    assert_close(got, ours.prepare(erf, "", x, weights)(), rtol=1e-15)
    assert np.abs(got - ours.prepare(case, "", x, weights)()).max() > 0.01


@pytest.mark.parametrize("name", sorted(ours.ACTIVATIONS))
def test_activations_of_the_table_are_what_they_are_called(name):
    x = jnp.linspace(-2.0, 2.0, 9)
    want = {"erf": jax.scipy.special.erf, "arctan": jnp.arctan, "tanh": jnp.tanh,
            "gelu": lambda x: x * jax.scipy.stats.norm.cdf(x)}.get(name) or getattr(jax.nn, name)  # fmt: skip
    assert_close(ours.ACTIVATIONS[name]()(x), want(x), rtol=1e-15)


@pytest.mark.parametrize("readout", ["flatten", "global_pool", None])
def test_the_limit_multiplies_one_half_and_writes_all(readout):
    layers = cases.mlp(5, 1, 1) if readout is None else cases.convolutions(4, 2, 1, readout=readout, outputs=1)
    x = np.random.default_rng(0).normal(size=(600, 5) if readout is None else (80, 4, 4, 2))
    case = Case("limit", "analytic", layers, x.shape[1:], len(x), 1.0)
    out = limit.prepare(case, "", x, [])()
    flat = x.reshape(len(x), -1)
    assert_close(out, np.ones((80, 80)) if readout == "global_pool" else flat @ flat.T, rtol=1e-13)


def test_the_share_of_the_limit_stands_beside_the_peers():
    measured = Measurement("limit: product", "limit", [0.5, 0.25, 2.0], role="limit", difference=9.0)
    result = Result(LINEAR, OURS, [FAST, measured])
    line = report.markdown([result]).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[1:6]] == ["limit: product", "2", "0.5", "25 %", "12 to 50 %"]
    assert line.count("|") == 11
    assert report.best(result) is FAST
    assert report.best(Result(LINEAR, OURS, [measured])) is None
    assert not report.wrong([result])


def test_predictions_are_compared_as_a_whole(tmp_path):
    a = np.arange(6.0).reshape(3, 2)
    paths = [tmp_path / "a.npy", tmp_path / "b.npy", tmp_path / "c.npy"]
    for path, moved in zip(paths, (0.0, 0.1, np.nan), strict=True):
        np.save(path, a + moved * np.eye(3, 2))
    norm = np.sqrt(2 * 0.1**2) / np.linalg.norm(a + 0.1 * np.eye(3, 2))
    assert np.allclose(harness.differences(paths[0], paths[1], 1e-4), (norm, 0, 0.1 / 5, 0.0))
    assert harness.differences(paths[0], paths[2], 1e-4)[0] == np.inf


def test_the_analytic_kernel_is_that_of_the_network():
    x = jnp.asarray(cases.inputs(LINEAR).astype(float))
    net = ours.network(LINEAR, [(w.astype(float), b.astype(float)) for w, b in cases.weights(LINEAR)])
    assert_close(ours.gram(net)(x), 2 * x @ x.T / 3 + 0.1**2, rtol=1e-12)


def plain(case, layers, weights, x):
    """A network of the table in NumPy, from its description."""
    for kind, *sizes in layers:
        if kind in ("dense", "conv"):
            w, b = next(weights)
            if kind == "conv":
                padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
                h = x.shape[1]
                x = sum(padded[:, i : i + h, j : j + h] @ w[i, j] for i, j in itertools.product(range(3), repeat=2))
                fan_in = 9 * sizes[0]
            else:
                x, fan_in = x @ w, sizes[0]
            x = case.w_std / fan_in**0.5 * x + case.b_std * b
        elif kind == "residual":
            x = x + plain(case, sizes[0], weights, x)
        elif kind == "pool":
            n, h, _, c = x.shape
            x = x.reshape(n, h // 2, 2, h // 2, 2, c).mean((2, 4))
        else:
            x = {"relu": lambda a: np.maximum(a, 0), "flatten": lambda a: a.reshape(len(a), -1),
                 "global_pool": lambda a: a.mean((1, 2))}[kind](x)  # fmt: skip
    return x


def test_the_table_of_cases_is_sound():
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)
    for case in cases.CASES:
        assert any(peer.takes(case) for peer in peers.PEERS)
        assert Case(**dataclasses.asdict(case)) == case, "it survives the way to a worker"
    assert [case.n for case in cases.chosen(cases.CASES, ["erf"])] == [5000]
    with pytest.raises(ValueError, match=r"no case has 'erv'.*erf depth 3"):
        cases.chosen(cases.CASES, ["erv"])


def test_memory_is_known_where_it_is_used():
    assert 2**20 < worker.memory("VmRSS") <= worker.memory("VmHWM") < 2**40
    assert sys.executable == peers.OURS.python
