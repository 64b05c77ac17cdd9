"""The estimators: scikit-learn's own checks, the formula, images, and mnist5k."""

import copy
import functools
import pickle
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import pytest
from flax import nnx
from helpers import ACTIVATIONS, assert_close, normal
from helpers import kernel as kernel_of
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import ntklib as ntk

RNG = np.random.default_rng(0)
X, X_TEST = RNG.normal(size=(30, 3)), RNG.normal(size=(8, 3))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]], 1)
NET = ntk.mlp([3, 2, 1], activation=ntk.Relu(), w_std=1.4, b_std=0.3, rngs=nnx.Rngs(0))
#: Checks that cannot run here, and why: the first needs an environment variable, set before SciPy is imported; the
#: others pandas, which is no dependency.
SKIPPED = {"check_array_api_input", "check_regressor_data_not_an_array", "check_classifier_data_not_an_array"}


@pytest.mark.parametrize("estimator", [ntk.KernelRegressor(depth=1), ntk.KernelClassifier(depth=1)])
def test_scikit_learns_own_checks(estimator):
    """Of linear networks, which compile in a tenth of the time: the data of the checks have many shapes."""
    assert_passes_scikit_learns_own_checks(estimator)


@pytest.mark.weekly
@pytest.mark.parametrize(
    "estimator", [ntk.KernelRegressor(), ntk.KernelRegressor(kernel="nngp"), ntk.KernelClassifier()]
)
def test_scikit_learns_own_checks_of_the_default_network(estimator):
    assert_passes_scikit_learns_own_checks(estimator)


def assert_passes_scikit_learns_own_checks(estimator):
    # Two of its checks compare an array with NumPy's promotion; ours are strict in the tests only.
    with jax.numpy_dtype_promotion("standard"):
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert len(results) > 40
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= SKIPPED


@functools.cache
def exact():
    """The kernels of NET: of the training inputs, between test and training inputs, and of the test inputs."""
    return jax.jit(lambda: (kernel_of(NET, X), kernel_of(NET, X_TEST, X), kernel_of(NET, X_TEST)))()


def end_of_flow(kernel):
    """Mean and covariance by `ensemble_posterior`, in one program."""

    @jax.jit
    def posterior(k, cross, test):
        return ntk.ensemble_posterior(k, Y, cross, test, t=jnp.inf, ridge=0.01, kernel=kernel)

    return posterior(*exact())


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_regression_is_the_end_of_ridge_flow_with_its_spread(kernel):
    model = ntk.KernelRegressor(NET, kernel=kernel, ridge=0.01).fit(X, Y)
    mean, cov = end_of_flow(kernel)
    assert_close(model.predict(X_TEST), mean, rtol=1e-9)
    assert_close(model.predict_std(X_TEST), jnp.sqrt(jnp.diagonal(cov)), rtol=1e-8)
    one = ntk.KernelRegressor(NET, kernel=kernel, ridge=0.01).fit(X, Y[:, 1])
    assert one.predict(X_TEST).shape == (8,)
    assert_close(one.predict(X_TEST), mean[:, 1], rtol=1e-9)


@pytest.mark.weekly
def test_long_predictions_in_blocks_are_the_same():
    model = ntk.KernelRegressor(NET).fit(X, Y)
    many = np.concatenate([X_TEST] * 300)
    assert_close(model.predict(many), np.concatenate([model.predict(X_TEST)] * 300), rtol=1e-12)
    assert_close(model.predict_std(many), np.concatenate([model.predict_std(X_TEST)] * 300), rtol=1e-6)


def test_single_precision_sessions_get_double_precision_results():
    with jax.enable_x64(False):
        model = ntk.KernelRegressor(NET, ridge=1e-8).fit(X.astype(np.float32), Y)
        got = model.predict(X_TEST.astype(np.float32))
    x, x_test = (jnp.asarray(a.astype(np.float32), jnp.float64) for a in (X, X_TEST))
    k = kernel_of(NET, x).ntk
    want = kernel_of(NET, x_test, x).ntk @ jnp.linalg.solve(k + 1e-8 * jnp.trace(k) / 30 * jnp.eye(30), Y)
    assert got.dtype == np.float64
    assert_close(got, want, rtol=1e-6)


@pytest.mark.parametrize(("ridge", "solver"), [("loo", "cholesky"), (0.01, "cholesky"), (0.01, "cg")])
@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_the_size_of_the_targets_is_their_unit(ridge, solver, size):
    """Their squares leave the range of float64; the regression does not need them."""
    one, other = (ntk.KernelRegressor(NET, ridge=ridge, solver=solver).fit(X, s * Y) for s in (1.0, size))
    assert one.ridge_ == pytest.approx(other.ridge_, rel=1e-9)
    assert_close(other.predict(X_TEST) / size, one.predict(X_TEST), rtol=1e-7)


def test_the_spread_is_nothing_at_the_data_and_grows_away_from_them():
    model = ntk.KernelRegressor(NET, ridge=0.0).fit(X, Y)
    assert float(model.predict_std(X).max()) < 1e-5
    assert model.predict_std(50.0 * X_TEST).min() > model.predict_std(X_TEST).max()


@pytest.mark.parametrize("ridge", [0.01, "loo"])
def test_later_changes_of_parameters_and_inputs_do_not_enter_predictions(ridge):
    x = X.copy()
    model = ntk.KernelRegressor(NET, ridge=ridge).fit(x, Y)
    want, std = model.predict(X_TEST), ntk.KernelRegressor(NET, ridge=ridge).fit(X, Y).predict_std(X_TEST)
    x *= 2
    model.set_params(kernel="nngp", solver="cg")
    assert_close(model.predict(X_TEST), want, rtol=1e-15)
    assert_close(model.predict_std(X_TEST), std, rtol=1e-12)


def test_a_factor_of_an_earlier_fit_is_not_used():
    model = ntk.KernelRegressor(NET, ridge=0.01).fit(X, Y).set_params(solver="cg").fit(2 * X, Y)
    with pytest.raises(ValueError, match="`predict_std` needs a factor"):
        model.set_params(solver="cholesky").predict_std(X_TEST)


def test_it_works_in_pipelines_searches_and_clones_and_pickles():
    pipeline = make_pipeline(StandardScaler(), ntk.KernelRegressor(NET, ridge=0.1))
    assert cross_val_score(pipeline, X, Y[:, 0], cv=3).mean() > 0.5
    search = GridSearchCV(
        ntk.KernelRegressor(), {"net": [NET, None], "kernel": ["ntk", "nngp"], "ridge": [1e-4, 10.0]}, cv=3
    ).fit(X, Y[:, 0])
    assert search.best_params_["ridge"] == 1e-4
    twin = clone(search.best_estimator_).fit(X, Y[:, 0])
    assert_close(twin.predict(X_TEST), search.predict(X_TEST), rtol=1e-12)
    again = pickle.loads(pickle.dumps(twin))
    assert_close(again.predict(X_TEST), twin.predict(X_TEST), rtol=1e-15)


@pytest.mark.sweep
@pytest.mark.parametrize("activation", ["tanh", "relu", "erf"])
def test_clones_and_searches_are_saved_and_loaded(activation, tmp_path):
    net = ntk.mlp([3, 4, 1], activation=ACTIVATIONS[activation], w_std=1.4, b_std=0.3, rngs=nnx.Rngs(0))
    search = GridSearchCV(ntk.KernelRegressor(net), {"ridge": [1e-4, 10.0]}, cv=3).fit(X, Y[:, 0])
    want = search.predict(X_TEST)
    for fitted in (search, clone(search.best_estimator_).fit(X, Y[:, 0]), copy.deepcopy(search.best_estimator_)):
        joblib.dump(fitted, tmp_path / "model")
        for again in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "model")):
            assert_close(again.predict(X_TEST), want, rtol=1e-12)
            assert_close(again.fit(X, 2 * Y[:, 0]).predict(X_TEST), 2 * want, rtol=1e-12)


def test_without_scikit_learn_the_error_names_what_was_asked_for():
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['sklearn.base'] = None; import ntklib as ntk\n"
        "for name in ('KernelClassifier', 'KernelRegressor'):\n"
        "    try: getattr(ntk, name)\n"
        "    except ImportError as error: print(error)\n"
        "from ntklib import KernelClassifier"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    said = done.stdout.splitlines()
    assert [line.split(":")[0] for line in said] == ["`ntklib.KernelClassifier`", "`ntklib.KernelRegressor`"]
    assert all("pip install -U scikit-learn" in line and "1.6 or newer" in line for line in said)
    assert done.stderr.splitlines()[-1].startswith("ImportError: `ntklib.KernelClassifier`")


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_networks_pickle_and_stay_equal(name):
    net = ntk.mlp([3, 4, 1], activation=ACTIVATIONS[name], w_std=1.0, rngs=nnx.Rngs(0))
    again = pickle.loads(pickle.dumps(net))
    assert ntk.functional(again)[0] == ntk.functional(net)[0]  # compiled once for both
    assert_close(again(jnp.asarray(X)), net(jnp.asarray(X)), rtol=1e-15)
    assert_close(again.kernel(X[:3]).ntk, net.kernel(X[:3]).ntk, rtol=1e-15)


def test_images_and_labels_of_any_kind():
    data = ntk.load("digits", n_train=200, n_test=100)
    rngs = nnx.Rngs(0)
    net = ntk.Serial(ntk.Flatten(), *ntk.mlp([64, 1, 1], w_std=2**0.5, rngs=rngs).layers)
    names = np.array([f"digit {label}" for label in range(10)])
    y_train, y_test = names[data.y_train], names[data.y_test]
    model = ntk.KernelClassifier(net).fit(data.x_train, y_train)
    assert model.score(data.x_test, y_test) > 0.9
    assert set(model.predict(data.x_test)) <= set(names)
    two = data.y_train < 5
    binary: Any = ntk.KernelClassifier(net).fit(data.x_train, two)
    assert binary.decision_function(data.x_test).shape == (100,)
    assert np.array_equal(binary.predict(data.x_test), binary.decision_function(data.x_test) > 0)


def test_mnist5k_is_classified():
    data = ntk.load("mnist5k", n_train=2000, n_test=1000).flat()  # enough of them for a factor in float32
    score = ntk.KernelClassifier().fit(data.x_train, data.y_train).score(data.x_test, data.y_test)
    assert score >= 0.93, score


def test_conjugate_gradients_fit_what_cholesky_fits():
    data = ntk.load("digits", n_train=300, n_test=100).flat()
    direct, iterative = (
        ntk.KernelClassifier(solver=solver, ridge=1e-3).fit(data.x_train, data.y_train) for solver in ("cholesky", "cg")
    )
    want = direct.decision_function(data.x_test)
    assert np.abs(iterative.decision_function(data.x_test) - want).max() < 1e-6 * np.abs(want).max()
    assert np.asarray(iterative.dual_coef_).dtype == np.float64
    assert 1 < iterative.n_iter_ < 100
    with pytest.raises(ValueError, match='solver="cholesky"'):
        iterative.predict_std(data.x_test)


@pytest.mark.parametrize("by", ["loo", "evidence"])
def test_a_ridge_is_chosen_by_its_score(by):
    """No ridge of a fine grid has a better score, and the fit is that with the chosen ridge."""
    x = normal(1, 30, 3)
    y = np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2]], 1) + 0.3 * np.asarray(normal(2, 30, 2))
    model = ntk.KernelRegressor(NET, ridge=by).fit(x, y)
    k = jnp.asarray(ntk.gram(NET, x))

    @jax.jit
    def score(ridge):
        if by == "evidence":
            return -ntk.log_marginal_likelihood(k, y, ridge=ridge)
        return jnp.mean((ntk.loo(k, y, ridge=ridge) - y) ** 2)

    assert 1e-6 < model.ridge_ < 10
    assert score(model.ridge_) <= min(score(r) for r in model.ridge_ * np.geomspace(0.2, 5, 9))
    plain = ntk.KernelRegressor(NET, ridge=model.ridge_).fit(x, y)
    new = normal(3, 7, 3)
    assert_close(model.predict(new), plain.predict(new), rtol=1e-8)
    assert_close(model.predict_std(new), plain.predict_std(new), rtol=1e-8)


def test_a_chosen_ridge_takes_one_kernel(monkeypatch):
    from ntklib import regression

    calls = []
    monkeypatch.setattr(regression, "gram", lambda *args, **options: calls.append(args) or gram(*args, **options))
    gram = ntk.gram
    ntk.KernelRegressor(NET, ridge="loo").fit(normal(1, 30, 3), normal(2, 30))
    assert len(calls) == 1


def test_a_classifier_chooses_a_ridge():
    data = ntk.load("digits", n_train=300, n_test=200).flat()
    model = ntk.KernelClassifier(ridge="loo").fit(data.x_train, data.y_train)
    fixed = ntk.KernelClassifier(ridge=10.0).fit(data.x_train, data.y_train)
    assert model.score(data.x_test, data.y_test) > max(0.9, fixed.score(data.x_test, data.y_test))


@pytest.mark.weekly
def test_the_targets_of_a_classifier_are_exact_to_double_precision():
    labels = np.arange(len(X)) % 3
    outputs = ntk.KernelClassifier(NET).fit(X, labels).decision_function(X_TEST)
    assert_close(outputs, ntk.KernelRegressor(NET).fit(X, np.eye(3)[labels] - 1 / 3).predict(X_TEST), atol=1e-12)


def test_networks_are_described_by_numbers_and_names():
    """As the network that one would build by hand; anything that describes it can be searched over."""
    rngs, scales = nnx.Rngs(0), {"w_std": 1.2, "b_std": 0.3}
    leaky = ntk.LeakyRelu(0.2)
    cases = (1, "relu", ntk.Relu()), (2, "erf", ntk.Erf()), (4, "tanh", ntk.Tanh()), (3, leaky, leaky)
    for depth, activation, layer in cases:
        net = ntk.mlp([3, *[2] * (depth - 1), 1], activation=layer, **scales, rngs=rngs)
        got = ntk.KernelRegressor(depth=depth, activation=activation, **scales).fit(X, Y)
        assert_close(got.predict(X_TEST), ntk.KernelRegressor(net).fit(X, Y).predict(X_TEST), rtol=1e-9)
    search = GridSearchCV(ntk.KernelRegressor(), {"depth": [1, 3], "activation": ["relu", "erf"]}, cv=3).fit(X, Y)
    assert search.best_params_["depth"] == 3  # the second target is no linear function
    again = clone(search.best_estimator_).fit(X, Y)
    assert_close(again.predict(X_TEST), search.predict(X_TEST), rtol=1e-12)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_images_get_a_convolutional_network(readout):
    data = ntk.load("digits", n_train=40, n_test=10, pool=2)
    net = ntk.cnn(data.x_train.shape[1:], [2], 1, readout=readout, w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
    got = ntk.KernelClassifier(depth=2, readout=readout).fit(data.x_train, data.y_train)
    want = ntk.KernelClassifier(net).fit(data.x_train, data.y_train).decision_function(data.x_test)
    assert_close(got.decision_function(data.x_test), want, rtol=1e-9)


def test_a_search_with_memory_computes_each_kernel_once(monkeypatch, tmp_path):
    """For each fold a kernel of the training inputs and one of the test inputs, and one for the fit at the end."""
    from ntklib import regression

    shapes, gram = [], regression.gram

    def counted(net, x1, x2=None, **options):
        shapes.append((len(x1), None if x2 is None else len(x2)))
        return gram(net, x1, x2, **options)

    monkeypatch.setattr(regression, "gram", counted)
    ridges = np.geomspace(1e-6, 10.0, 5)

    def search(memory):
        shapes.clear()
        return GridSearchCV(ntk.KernelRegressor(NET, memory=memory), {"ridge": ridges}, cv=3).fit(X, Y)

    kept = search(str(tmp_path))
    assert sorted(shapes, key=str) == [(10, 20)] * 3 + [(20, None)] * 3 + [(30, None)]
    plain = search(None)
    assert len(shapes) == 15  # those of the training inputs are not made by `gram`
    assert_close(kept.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], rtol=1e-9)
    assert_close(kept.predict(X_TEST), plain.predict(X_TEST), rtol=1e-9)
    assert_close(kept.best_estimator_.predict_std(X_TEST), plain.best_estimator_.predict_std(X_TEST), rtol=1e-6)


@pytest.mark.weekly
def test_memory_tells_networks_apart(tmp_path):
    """By hyperparameters, and by the kernels of functions that have no name."""
    nets = [
        ntk.mlp([3, 2, 1], activation=activation, w_std=w_std, rngs=nnx.Rngs(0))
        for activation, w_std in ((ntk.Erf(), 1.4), (ntk.Erf(), 1.5), (ntk.Elementwise(lambda x: jnp.tanh(x)), 1.4),
                                  (ntk.Elementwise(lambda x: jnp.sin(x)), 1.4))
    ]  # fmt: skip
    found = [ntk.KernelRegressor(net, memory=str(tmp_path)).fit(X, Y).predict(X_TEST) for net in nets]
    for net, got in zip(nets, found, strict=True):
        assert_close(got, ntk.KernelRegressor(net).fit(X, Y).predict(X_TEST), rtol=1e-9)
