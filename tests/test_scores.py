"""Leave-one-out predictions and the marginal likelihood: refits, scikit-learn, finite differences."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, kernel, normal

import ntklib as ntk
from ntklib.dynamics import _cholesky

NETS = {
    "relu ntk": (ntk.mlp([5, 1, 1, 1], w_std=1.4, b_std=0.1, rngs=nnx.Rngs(0)), "ntk"),
    "erf nngp": (ntk.mlp([5, 1, 1], activation=ntk.Erf(), w_std=1.2, rngs=nnx.Rngs(0)), "nngp"),
    "linear": (ntk.mlp([5, 1], w_std=1.0, b_std=0.3, rngs=nnx.Rngs(0)), "ntk"),
}


@functools.cache
def problem(name: str, n: int = 60) -> tuple[jax.Array, jax.Array]:
    net, kind = NETS[name]
    x, y = normal(1, n, 5), normal(2, n, 3)
    return getattr(kernel(net, x), kind), y


@pytest.mark.sweep
@pytest.mark.parametrize("ridge", [1e-3, 0.3])
@pytest.mark.parametrize("name", NETS)
def test_loo_is_what_refits_predict(name, ridge):
    """With the absolute ridge of the full fit."""
    k, y = (np.asarray(a) for a in problem(name))
    n = len(k)
    regular = k + ridge * np.trace(k) / n * np.eye(n)
    want = np.zeros_like(y)
    for i in range(n):
        rest = np.arange(n) != i
        want[i] = k[i, rest] @ np.linalg.solve(regular[np.ix_(rest, rest)], y[rest])
    assert_close(ntk.loo(k, y, ridge=ridge), want, rtol=1e-8)


def test_a_target_does_not_enter_its_own_prediction():
    k, y = problem("relu ntk")
    other = y.at[7].add(100.0)
    before, after = (ntk.loo(k, values, ridge=1e-3) for values in (y, other))
    assert_close(after[7], before[7], rtol=1e-9)
    assert jnp.abs(after[8] - before[8]).max() > 0.1


@pytest.mark.sweep
@pytest.mark.parametrize("ridge", [1e-3, 0.3])
@pytest.mark.parametrize("name", NETS)
def test_the_likelihood_is_that_of_scikit_learn(name, ridge):
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    k, y = (np.asarray(a) for a in problem(name))

    class Given(gaussian_process.kernels.Kernel):
        """A kernel that is a matrix."""

        def __init__(self):
            pass

        def __call__(self, X, Y=None, eval_gradient=False):
            return (k.copy(), np.empty((*k.shape, 0))) if eval_gradient else k.copy()

        def diag(self, X):
            return k.diagonal()

        def is_stationary(self):
            return False

    noise = ridge * np.trace(k) / len(k)
    model = gaussian_process.GaussianProcessRegressor(Given(), alpha=noise, optimizer=None)
    want = model.fit(np.zeros((len(k), 1)), y).log_marginal_likelihood_value_
    assert_close(ntk.log_marginal_likelihood(k, y, ridge=ridge), want, rtol=1e-10)


def test_the_likelihood_is_a_density():
    """One input, one output: it integrates to 1 over y."""
    y = np.linspace(-30, 30, 4001)
    values = jax.jit(jax.vmap(lambda v: ntk.log_marginal_likelihood(jnp.array([[2.0]]), v[None, None], ridge=0.5)))(
        jnp.asarray(y)
    )
    assert_close(np.trapezoid(np.exp(np.asarray(values)), y), 1.0, rtol=1e-9)


@pytest.mark.parametrize("score", [ntk.loo, ntk.log_marginal_likelihood])
def test_gradients_in_hyperparameters_are_those_of_differences(score):
    """In σ_w, σ_b and the ridge, through `net.kernel` under jit."""
    x, y = normal(1, 12, 5), normal(2, 12, 2)

    def value(hyper):
        w_std, b_std, ridge = hyper
        k = ntk.Kernel.from_inputs(x, x)
        for layer in (ntk.Dense(5, 1, w_std=1.0, rngs=nnx.Rngs(0)), ntk.Relu()):
            k = layer.kernel_map(k)
        theta = w_std**2 * k.ntk + b_std**2
        return jnp.sum(score(theta, y, ridge=ridge) ** 2)

    at = jnp.array([1.3, 0.4, 0.1])
    got = jax.jit(jax.grad(value))(at)
    fast = jax.jit(value)
    step = 1e-5
    want = [(fast(at + step * e) - fast(at - step * e)) / (2 * step) for e in jnp.eye(3)]
    assert_close(got, jnp.stack(want), rtol=1e-6)


def test_under_jit_they_are_the_same():
    k, y = problem("relu ntk")
    for score in (ntk.loo, ntk.log_marginal_likelihood):
        assert_close(jax.jit(lambda k, y, s=score: s(k, y, ridge=1e-2))(k, y), score(k, y, ridge=1e-2), rtol=1e-9)


def test_float32_kernels_are_worked_with_in_float64():
    k, y = problem("relu ntk")
    k32, y32 = (np.asarray(a, np.float32) for a in (k, y))
    got = ntk.loo(k32, y32, ridge=1e-2)
    assert got.dtype == np.float32
    want = ntk.loo(k32.astype(float), y32.astype(float), ridge=1e-2)
    assert_close(got, np.asarray(want), rtol=1e-6)


@pytest.mark.parametrize("score", [ntk.loo, ntk.log_marginal_likelihood])
def test_lost_digits_are_said_and_an_advised_ridge_helps(score):
    """Nearly equal inputs, in float32: the kernel does not know the difference of their targets."""
    x, y = normal(3, 20, 5, dtype=jnp.float32), normal(5, 40, 1, dtype=jnp.float32)
    x = jnp.concatenate([x, x + jnp.float32(3e-5) * normal(4, 20, 5, dtype=jnp.float32)])
    k = NETS["relu ntk"][0].kernel(x).ntk
    with pytest.warns(UserWarning, match="digits of .* are lost.*use a ridge of at least") as caught:
        score(k, y, ridge=1e-7)
    better = float(str(caught[0].message).split("at least ")[1].split(",")[0].split(" ")[0].rstrip("."))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(k, y, ridge=better)


@pytest.mark.parametrize("apart", [6e-5, 3e-5])
def test_what_is_said_to_be_lost_is_lost(apart):
    """The warning's figure is within a factor of five of the error against the kernel in float64."""
    x, y = normal(3, 20, 5, dtype=jnp.float32), normal(5, 40, 1, dtype=jnp.float32)
    x = jnp.concatenate([x, x + jnp.float32(apart) * normal(4, 20, 5, dtype=jnp.float32)])
    net = NETS["relu ntk"][0]
    want = ntk.loo(net.kernel(x.astype(float)).ntk, y.astype(float), ridge=1e-7)
    with pytest.warns(UserWarning, match="are lost") as caught:
        got = ntk.loo(net.kernel(x).ntk, y, ridge=1e-7)
    said = float(str(caught[0].message).split("by about ")[1].split(" ")[0])
    error = float(jnp.abs(got.astype(float) - want).max() / jnp.abs(y).max().astype(float))
    assert said / 5 < error < 5 * said


def test_singular_kernels_are_refused():
    k, y = jnp.ones((3, 3)), jnp.ones((3, 1))
    for score, name in ((ntk.loo, "ntk_train"), (ntk.log_marginal_likelihood, "nngp_train")):
        with pytest.raises(ValueError, match=f"`{name}` with `ridge` = 0 is singular.*Use a ridge"):
            score(k, y, ridge=0.0)


def test_the_inverse_of_a_factor_by_halves_is_the_inverse(monkeypatch):
    low = np.linalg.cholesky(np.asarray(problem("relu ntk", 50)[0]) + np.eye(50))
    want = np.linalg.inv(low @ low.T).diagonal()
    for at_once in (512, 20, 1):
        monkeypatch.setattr(_cholesky, "_AT_ONCE", at_once)
        assert_close(_cholesky.inverse_diagonal(jnp.asarray(low)), want, rtol=1e-10)
