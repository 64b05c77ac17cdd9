"""The factor in float32 with refinement: the solution in float64, at any magnitude, or the factor in float64."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax import nnx
from helpers import assert_close

import ntklib as ntk
from ntklib.scale import cholesky
from ntklib.scale.tiles import Tiles

N = 410  # above the number from which float32 is tried here, and no multiple of a tile
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(N, 20))
NEAR = np.concatenate([NORMAL[:300], NORMAL[:100] + 1e-3 * RNG.normal(size=(100, 20)), NORMAL[:10]])  # copies as well
NORMS = NORMAL * 10.0 ** RNG.uniform(-3, 3, size=(N, 1))
LINE, PLANE = np.sort(RNG.uniform(-2, 2, size=(N, 1)), axis=0), RNG.normal(size=(N, 2))
Y = np.stack([np.sin(NORMAL[:, 0]), NORMAL[:, 1] > 0, np.zeros(N)], 1)


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """Try float32 from 400 inputs on, in place of 2,000: the same steps, in a thirtieth of the time."""
    monkeypatch.setattr(cholesky, "FEW", 400)


def test_float32_is_tried_from_a_number_of_inputs_on(monkeypatch):
    tiles = Tiles(net(20), NORMAL)
    assert cholesky.solve(tiles, Y, 1e-4)[1] is None
    monkeypatch.setattr(cholesky, "FEW", N + 1)
    assert cholesky.solve(tiles, Y, 1e-4)[1] is not None


def net(d, activation=None, b_std=0.1):
    return ntk.mlp([d, 2, 1], activation=activation, w_std=2**0.5, b_std=b_std, rngs=nnx.Rngs(0))


class Infinite(ntk.Layer):
    """A layer with an infinite kernel."""

    def __call__(self, x):
        return x

    def kernel_map(self, k):
        return k.replace(ntk=jnp.inf * k.ntk)


def by_float64(network, x, y, ridge):
    """(Θ + λ, α) as LAPACK has it in float64."""
    k = np.array(ntk.gram(network, x))
    k[np.diag_indices_from(k)] += ridge * np.trace(k) / len(k)
    return k, scipy.linalg.cho_solve(scipy.linalg.cho_factor(k, lower=True), y)


#: Inputs, activation, ridge, whether float32 is enough.
CASES = {
    "normal": (NORMAL, ntk.Relu(), 1e-4, True),
    "normal, no ridge": (NORMAL, ntk.Relu(), 0.0, True),
    "near pairs and copies": (NEAR, ntk.Relu(), 1e-4, True),
    "near pairs and copies, little ridge": (NEAR, ntk.Relu(), 1e-9, False),
    "norms from 1e-3 to 1e3": (NORMS, ntk.Relu(), 0.0, True),
    "a plane": (PLANE, ntk.Relu(), 1e-2, True),
    "a plane, smooth": (PLANE, ntk.Erf(), 1e-6, False),
    "a line, smooth": (LINE, ntk.Erf(), 1e-4, False),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", CASES)
def test_the_solution_is_that_of_float64(name):
    x, activation, ridge, enough = CASES[name]
    network = net(x.shape[1], activation)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The kernel of the training inputs is ill-conditioned")
        a, low = cholesky.solve(Tiles(network, x), Y, ridge)
    k, exact = by_float64(network, x, Y, ridge)
    assert (low is None) == enough
    test = RNG.normal(size=(50, x.shape[1])) * np.median(np.abs(x))
    cross = np.asarray(ntk.gram(network, test, x))
    # Two solutions by float64 differ by its rounding, times the condition number.
    most = np.abs(k).sum(1).max() / (ridge * k.diagonal().mean()) if ridge else 0.0
    assert_close(cross @ a, cross @ exact, rtol=1e-8 if enough else 1e-15 * most)
    assert np.array_equal(a[:, 2], np.zeros(N))
    assert np.abs(Y - k @ a).max() < 1e-11 * np.abs(k).sum(1).max() * np.abs(a).max()
    if enough:
        assert_close(a, exact, rtol=1e-9)


@pytest.mark.weekly
def test_targets_do_not_decide_whether_float32_is_enough():
    """These have next to no part in the directions where corrections stay large."""
    network = net(2, ntk.Erf())
    k, _ = by_float64(network, PLANE, Y, 1e-4)
    _, low = cholesky.solve(Tiles(network, PLANE), k @ np.ones((N, 1)), 1e-4)
    assert low is not None


def test_corrections_are_few_and_that_they_are_made():
    """Without any the error is that of float32; each takes off a factor of a thousand or more."""
    network, products = net(20), []
    multiply = cholesky.ShiftedKernel.__matmul__

    class Counted(cholesky.ShiftedKernel):
        def __matmul__(self, v):
            products.append(v[:, :3].copy())
            return multiply(self, v)

    matrix = Counted(Tiles(network, NEAR), 1e-2)
    a = cholesky._refined(matrix, Y)
    assert a is not None
    _, exact = by_float64(network, NEAR, Y, 1e-2)
    errors = [np.abs(v - exact).max() / np.abs(exact).max() for v in (*products, a)]
    assert 2 <= len(products) <= 4
    assert 1e-7 < errors[0] < 1e-2
    assert (np.array(errors[1:]) < np.maximum(1e-2 * np.array(errors[:-1]), 1e-12)).all()


@pytest.mark.sweep
@pytest.mark.parametrize("power", [-100, -12, 12, 100])
def test_magnitudes_of_inputs_and_targets_do_not_matter(power):
    network = net(20, b_std=0.0)  # then the kernel is homogeneous
    a, low = cholesky.solve(Tiles(network, NORMAL), Y, 1e-4)
    scaled, low_scaled = cholesky.solve(Tiles(network, 10.0**power * NORMAL), 10.0 ** (-power / 2) * Y, 1e-4)
    assert low is low_scaled is None
    assert_close(scaled * 10.0 ** (2.5 * power), a, rtol=1e-9)


def test_a_product_is_that_of_the_matrix():
    network = net(20)
    matrix = cholesky.ShiftedKernel(Tiles(network, NORMAL[:300], tile=128), 0.1)
    out = np.full((300, 300), np.nan)
    scale = RNG.uniform(1, 2, size=300)
    matrix.write(out, scale, keep=True)
    k, _ = by_float64(network, NORMAL[:300], Y[:300], 0.1)
    assert_close(np.triu(out), np.triu(scale[:, None] * k * scale[None]), rtol=1e-14)
    v = RNG.normal(size=(300, 2))
    assert_close(matrix @ v, k @ v, rtol=1e-13)
    low = cholesky.factor(matrix)
    assert_close(np.tril(low) @ np.tril(low).T, k, rtol=1e-13)
    assert_close(cholesky.cho_solve(low, v), np.linalg.solve(k, v), rtol=1e-10)
    assert matrix.parts == {}


@pytest.mark.weekly
def test_few_digits_are_told_and_many_are_not():
    x, few = np.linspace(-1, 1, 100)[:, None], net(1, ntk.Erf())
    with pytest.warns(UserWarning, match=r"ill-conditioned.*digits of the solution are right; with ridge=\de-\d+ six"):
        cholesky.solve(Tiles(few, x), x, 1e-11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cholesky.solve(Tiles(few, x), x, 1e-6)
        cholesky.solve(Tiles(net(20), NORMAL[:100]), Y[:100], 0.0)
    with pytest.raises(ValueError, match=r"singular with `ridge` = 0.*ridge=1e-4"):
        cholesky.solve(Tiles(few, np.repeat(x, 2, axis=0)), Y[:200], 0.0)
    with pytest.raises(ValueError, match=r"singular with `ridge` = 0"):
        cholesky.solve(Tiles(net(20), np.concatenate([NORMAL, NORMAL[:1]])), np.concatenate([Y, Y[:1]]), 0.0)
    with pytest.raises(ValueError, match=r"The kernel of 100 of the 100 training inputs is not finite"):
        cholesky.solve(Tiles(ntk.Serial(few, Infinite()), x), x, 0.1)


@pytest.fixture(name="many", scope="module")
def _many():
    """A network, test inputs, and the kernels (NNGP, NTK) of all inputs by `net.kernel`, the training inputs first."""
    network, test = net(20), np.random.default_rng(1).normal(size=(7, 20))
    whole = jax.jit(network.kernel)(np.concatenate([NORMAL, test]))
    return network, test, {"nngp": np.array(whole.nngp), "ntk": np.array(whole.ntk)}


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_estimators_of_many_inputs_have_the_same_predictions_and_spread(many, kernel):
    """Against the formulas, by `net.kernel`."""
    network, test, whole = many
    with jax.enable_x64(False):
        model = ntk.KernelRegressor(network, kernel=kernel, ridge=1e-3).fit(NORMAL, Y[:, :2])
        got, spread = model.predict(test), model.predict_std(test)
    nngp, nngp_cross, own = whole["nngp"][:N, :N], whole["nngp"][N:, :N], whole["nngp"][N:, N:]
    theta, theta_cross = whole[kernel][:N, :N].copy(), whole[kernel][N:, :N]
    theta[np.diag_indices_from(theta)] += 1e-3 * np.trace(theta) / N
    p = np.linalg.solve(theta, theta_cross.T).T
    start = nngp if kernel == "ntk" else theta
    cov = own + p @ start @ p.T - p @ nngp_cross.T - nngp_cross @ p.T
    assert_close(got, p @ Y[:, :2], rtol=1e-9)
    assert_close(spread, np.sqrt(cov.diagonal()), rtol=1e-8)
    assert_close(model.predict_std(test), spread, rtol=1e-14)
