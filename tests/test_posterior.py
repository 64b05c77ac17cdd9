"""Gaussian processes and ensembles of trained networks: the reference library, sampling, Bayes' rule."""

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, kernel, normal

import ntklib as ntk

REFERENCE = pathlib.Path(__file__).parent / "reference"
DOCUMENT = json.loads((REFERENCE / "reference.json").read_text())
ARRAYS = np.load(REFERENCE / "reference.npz")
CASES = {case["id"]: case for case in DOCUMENT["cases"]}
PREDICTIONS = [(entry, reg) for entry in DOCUMENT["predictions"] for reg in entry["diag_reg"]]


def stored(entry: dict) -> tuple[ntk.Kernel, ntk.Kernel, ntk.Kernel]:
    """The stored kernels of a prediction: train, test-train, test."""
    names = CASES[entry["kernel_case"]]["arrays"]

    def kernel(pair: str, swap: bool = False) -> ntk.Kernel:
        nngp, theta = (jnp.asarray(ARRAYS[names[f"{kind}_{pair}"]]) for kind in ("nngp", "ntk"))
        nngp, theta = (nngp.T, theta.T) if swap else (nngp, theta)
        return ntk.Kernel(nngp, theta, jnp.zeros(len(nngp)), jnp.zeros(nngp.shape[1]), features=1)

    return kernel("11"), kernel("12", swap=True), kernel("22")


@pytest.mark.parametrize(("entry", "reg"), PREDICTIONS, ids=lambda v: v["id"] if isinstance(v, dict) else str(v))
class TestReference:
    """Their loss divides by N·K where ours divides by N: their time t is our t/K."""

    def test_gradient_flow(self, entry: Any, reg: Any):
        train, cross, _ = stored(entry)
        y, f0, f0_test = (jnp.asarray(ARRAYS[entry["arrays"][name]]) for name in ("y_train", "f0_train", "f0_test"))
        t = jnp.array([float(v) for v in entry["t"]]) * entry["learning_rate"] / y.shape[1]
        got = ntk.gradient_flow(train.ntk, y, t=t, f0=f0, ntk_test_train=cross.ntk, f0_test=f0_test, ridge=reg)
        for part, name in zip(got, ("train", "test"), strict=True):
            want = ARRAYS[entry["arrays"][f"reg{reg}/gd_mse/{name}"]]
            for got_t, want_t in zip(part, want, strict=True):
                assert_close(got_t, want_t, rtol=1e-10)

    @pytest.mark.sweep
    @pytest.mark.parametrize("kind", ["ntk", "nngp"])
    def test_ensembles(self, entry: Any, reg: Any, kind: Any):
        train, cross, test = stored(entry)
        y = jnp.asarray(ARRAYS[entry["arrays"]["y_train"]])
        t = jnp.array([float(v) for v in entry["t"]]) * entry["learning_rate"] / y.shape[1]
        got = {
            "test": ntk.ensemble_posterior(train, y, cross, test, t=t, ridge=reg, kernel=kind),
            "train": ntk.ensemble_posterior(train, y, t=t, ridge=reg, kernel=kind),
        }
        for where, (mean, cov) in got.items():
            want = {
                part: ARRAYS[entry["arrays"][f"reg{reg}/ensemble/{kind}/{where}_{part}"]] for part in ("mean", "cov")
            }
            for i in range(len(t)):
                assert_close(mean[i], want["mean"][i], rtol=1e-10)
                # At the training points the covariance dies out: relative to what it was at the first time.
                assert_close(cov[i], want["cov"][i], rtol=1e-10, atol=1e-12 * np.abs(want["cov"][0]).max())

    @pytest.mark.sweep
    @pytest.mark.parametrize("kind", ["nngp", "ntkgp"])
    def test_gaussian_processes(self, entry: Any, reg: Any, kind: Any):
        name = "nngp" if kind == "nngp" else "ntk"
        train, cross, test = (getattr(k, name) for k in stored(entry))
        y = jnp.asarray(ARRAYS[entry["arrays"]["y_train"]])
        mean, cov = ntk.gp_posterior(train, y, cross, test, ridge=reg)
        assert_close(mean, ARRAYS[entry["arrays"][f"reg{reg}/gp/{kind}/mean"]], rtol=1e-10)
        assert_close(cov, ARRAYS[entry["arrays"][f"reg{reg}/gp/{kind}/cov"]], rtol=1e-10)


NET = ntk.mlp([3, 4, 4, 1], activation=ntk.Erf(), w_std=1.4, b_std=0.3, rngs=nnx.Rngs(0))
X, X_TEST, Y = normal(0, 6, 3), normal(1, 4, 3), normal(2, 6, 2)


@functools.cache
def kernels():
    """Of the training inputs, between test and training inputs, and of the test inputs."""
    return kernel(NET, X), kernel(NET, X_TEST, X), kernel(NET, X_TEST)


def test_posterior_is_bayes_rule_by_conditioning_a_joint_gaussian():
    k, cross, k_test = kernels()
    noise = 0.2 * jnp.trace(k.nngp) / 6
    joint = jnp.block([[k.nngp + noise * jnp.eye(6), cross.nngp.T], [cross.nngp, k_test.nngp]])
    precision = jnp.linalg.inv(joint)  # of the conditional: the lower right block of the joint precision, inverted
    cov = jnp.linalg.inv(precision[6:, 6:])
    mean, got = ntk.gp_posterior(k.nngp, Y, cross.nngp, k_test.nngp, ridge=0.2)
    assert_close(got, cov, rtol=1e-9)
    assert_close(mean, -cov @ precision[6:, :6] @ Y, rtol=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_ensemble_is_what_sampled_starts_do_under_the_flow(ridge, kind):
    """Monte Carlo: functions drawn from the NNGP, each sent through `gradient_flow`; 10⁵ draws."""
    k, cross, k_test = kernels()
    t, draws = jnp.array([0.5, 20.0]), 100_000
    joint = jnp.block([[k.nngp, cross.nngp.T], [cross.nngp, k_test.nngp]])
    if kind == "nngp":  # the ridge is then noise in the start as well
        joint = joint.at[jnp.arange(6), jnp.arange(6)].add(ridge * jnp.trace(k.nngp) / 6)
    f0 = jnp.linalg.cholesky(joint + 1e-12 * jnp.eye(10)) @ normal(3, 10, draws)
    theta, theta_test = getattr(k, kind), getattr(cross, kind)
    y = jnp.broadcast_to(Y[:, :1], (6, draws))
    train, test = ntk.gradient_flow(theta, y, t=t, f0=f0[:6], ntk_test_train=theta_test, f0_test=f0[6:], ridge=ridge)
    for outputs, arguments in ((train, ()), (test, (cross, k_test))):
        mean, cov = ntk.ensemble_posterior(k, Y[:, :1], *arguments, t=t, ridge=ridge, kernel=kind)
        for i in range(2):
            error = float(jnp.sqrt(jnp.diagonal(cov[i]).max() / draws))
            assert_close(mean[i, :, 0], outputs[i].mean(1), rtol=0.0, atol=4 * error)
            assert_close(cov[i], jnp.cov(outputs[i]), rtol=0.015)


def test_at_the_start_it_is_the_prior_and_at_the_end_the_posterior_for_the_last_layer_alone():
    k, cross, k_test = kernels()
    mean, cov = ntk.ensemble_posterior(k, Y, cross, k_test, t=0.0)
    assert_close(mean, jnp.zeros((4, 2)), atol=1e-15)
    assert_close(cov, k_test.nngp, rtol=1e-13)
    for ridge in (0.0, 0.05):
        got = ntk.ensemble_posterior(k, Y, cross, k_test, t=jnp.inf, ridge=ridge, kernel="nngp")
        want = ntk.gp_posterior(k.nngp, Y, cross.nngp, k_test.nngp, ridge=ridge)
        assert_close(got[0], want[0], rtol=1e-9)
        assert_close(got[1], want[1], rtol=1e-8)


def test_trained_on_the_ntk_it_is_no_posterior_of_the_ntk():
    k, cross, k_test = kernels()
    ours = ntk.ensemble_posterior(k, Y, cross, k_test, t=jnp.inf)
    theirs = ntk.gp_posterior(k.ntk, Y, cross.ntk, k_test.ntk, ridge=0.0)
    assert_close(ours[0], theirs[0], rtol=1e-8)
    assert float(jnp.abs(ours[1] - theirs[1]).max()) > 0.05 * float(jnp.abs(theirs[1]).max())


def test_covariances_are_symmetric_and_not_negative_at_all_times():
    k, cross, k_test = kernels()
    for kind in ("ntk", "nngp"):
        for arguments in ((), (cross, k_test)):
            cov = ntk.ensemble_posterior(k, Y, *arguments, t=jnp.array([0.0, 1.0, 1e3, jnp.inf]), kernel=kind)[1]
            assert_close(cov, jnp.swapaxes(cov, 1, 2), atol=1e-12)
            assert float(jnp.linalg.eigvalsh(cov).min()) > -1e-10


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_singular_kernel_is_refused_in_either_precision(dtype):
    twice = jnp.concatenate([X, X[:1]])
    k, cross, test = (kernel(NET, *pair).nngp.astype(dtype) for pair in ((twice,), (X_TEST, twice), (X_TEST,)))
    y = normal(0, 7, 1).astype(dtype)
    with pytest.raises(ValueError, match=r"`nngp_train` with `ridge` = 0 is singular .*ridge=1e-4"):
        ntk.gp_posterior(k, y, cross, test, ridge=0.0)
    mean, cov = ntk.gp_posterior(k, y, cross, test, ridge=1e-3)
    assert bool(jnp.isfinite(mean).all() & jnp.isfinite(cov).all())


def test_posterior_compiles():
    k, cross, k_test = kernels()
    arguments = (k.nngp, Y, cross.nngp, k_test.nngp)
    fast = jax.jit(lambda *a: ntk.gp_posterior(*a, ridge=0.1))(*arguments)
    assert_close(fast[1], ntk.gp_posterior(*arguments, ridge=0.1)[1], rtol=1e-12)
