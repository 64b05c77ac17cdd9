"""Convolutions without shared weights: against convolutions pixel by pixel; kernels against many finite networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, kernel, normal
from test_conv import CASES

import ntklib as ntk

X1, X2 = normal(0, 3, 5, 4, 2), normal(1, 2, 5, 4, 2)


def pair(window, strides, padding, **changes) -> tuple[Any, Any]:
    """A locally connected layer, and a convolution of the same shape."""
    how: Any = {"strides": strides, "padding": padding, "w_std": 1.3, "b_std": 0.2} | changes
    local = ntk.LocallyConnected((5, 4), 2, 3, window, rngs=nnx.Rngs(1), **how)
    return local, ntk.Conv(2, 3, window, rngs=nnx.Rngs(2), **how)


@pytest.mark.sweep
@pytest.mark.parametrize("p", [ntk.NTK, ntk.STANDARD], ids=repr)
@pytest.mark.parametrize(("window", "strides", "padding"), CASES)
def test_each_pixel_is_that_of_the_convolution_with_its_weights(window, strides, padding, p):
    local, conv = pair(window, strides, padding, parameterization=p)
    got = np.asarray(local(X1))
    apply_fn, params = ntk.functional(conv)
    weights, biases = np.asarray(local.W[...]), np.asarray(local.b[...])

    @jax.jit
    def convolved(w, b):
        return apply_fn(params | {"W": w, "b": b}, X1)

    assert got.shape == conv(X1).shape
    for i, j in np.ndindex(*got.shape[1:3]):
        assert_close(convolved(weights[i, j], biases[i, j])[:, i, j], got[:, i, j], rtol=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize(("window", "strides", "padding"), CASES)
def test_without_pooling_it_has_the_kernel_of_the_convolution(window, strides, padding):
    (local, conv), kernels = pair(window, strides, padding), []
    pixels = local(X1).shape[1:3]
    for first, second in (
        (local, ntk.LocallyConnected(pixels, 3, 2, 2, w_std=1.1, b_std=0.3, rngs=nnx.Rngs(0))),
        (conv, ntk.Conv(3, 2, 2, w_std=1.1, b_std=0.3, rngs=nnx.Rngs(0))),
    ):
        end = ntk.Dense(2 * int(np.prod(pixels)), 1, w_std=1.2, rngs=nnx.Rngs(0))
        kernels.append(kernel(ntk.Serial(first, ntk.Erf(), second, ntk.Relu(), ntk.Flatten(), end), X1, X2))
    for name in ("nngp", "ntk", "q1", "q2"):
        assert_close(getattr(kernels[0], name), getattr(kernels[1], name), rtol=1e-12)


def test_before_pooling_equal_pixels_are_those_of_the_convolution_and_different_ones_are_uncorrelated():
    kernels = [layer.kernel_map(ntk.Kernel.from_inputs(X1, X2, pools=1)) for layer in pair((3, 3), (2, 1), "SAME")]
    for name in ("nngp", "ntk", "q1", "q2"):
        local, conv = (np.asarray(getattr(k, name)) for k in kernels)
        same = np.einsum(
            "hwij,hi,wj->hwij", np.ones(local.shape[-4:]), np.eye(local.shape[-4]), np.eye(local.shape[-1])
        )
        assert_close(local, conv * same, rtol=1e-13)
        assert np.abs(conv * (1 - same)).max() > 0.1
    assert_close(ntk.duals.correlation.rho(kernels[0].delta)[:, :, 0, 0, 1, 1], jnp.zeros((3, 2)))


def network(kind, width, rngs):
    """Ends in one output. The first two have one hidden layer: then the mean kernel of any width is the limit."""
    how: Any = {"w_std": 1.3, "b_std": 0.2, "rngs": rngs}
    first = ntk.LocallyConnected((5, 4), 2, width, 3, strides=(2, 1), **how)
    body: list[ntk.Layer] = [first, ntk.Relu()]
    match kind:
        case "flatten":
            return ntk.Serial(*body, ntk.Flatten(), ntk.Dense(12 * width, 1, **how))
        case "pool":
            return ntk.Serial(*body, ntk.GlobalAvgPool(), ntk.Dense(width, 1, **how))
        case _:
            body += [ntk.AvgPool(2, strides=1), ntk.LocallyConnected((2, 3), width, width, 2, **how), ntk.Erf()]
            return ntk.Serial(*body, ntk.GlobalAvgPool(), ntk.Dense(width, 1, **how))


@pytest.mark.weekly
@pytest.mark.parametrize(("kind", "width", "bias"), [("flatten", 8, 0.0), ("pool", 8, 0.0), ("deep", 64, 1 / 64)])
def test_finite_networks_have_the_kernel_of_the_limit_on_average(kind, width, bias):
    """256 draws; entries within 4.5 standard errors, and as far as a finite width adds to it. The convolution's kernel
    is far from that.
    """
    limit = kernel(network(kind, 2, nnx.Rngs(0)), X1, X2)
    estimate = ntk.monte_carlo_kernel(
        lambda rngs: network(kind, width, rngs), X1, X2, draws=256, key=jax.random.key(1), progress=False
    )
    for mean, error, want in (
        (estimate.ntk, estimate.ntk_error, limit.ntk),
        (estimate.nngp, estimate.nngp_error, limit.nngp),
    ):
        off = jnp.abs(mean - want)
        assert bool((off < 4.5 * error + bias * jnp.abs(want).max()).all()), (off / error).max()
        assert float((error / jnp.abs(want).max()).max()) < 0.06


def test_with_pooling_its_kernel_is_not_that_of_the_convolution():
    how: Any = {"readout": "pool", "w_std": 1.3, "b_std": 0.2, "rngs": nnx.Rngs(0)}
    conv, local = (kernel(ntk.cnn((5, 4, 2), [3, 3], 1, share_weights=share, **how), X1, X2) for share in (True, False))
    assert float((jnp.abs(conv.ntk - local.ntk) / jnp.abs(conv.ntk)).min()) > 0.05


@pytest.fixture(name="empirical", scope="module")
def _empirical():
    """A network, and its kernel [N, M, K, K] from dense Jacobians."""
    net = ntk.cnn((5, 4, 2), [3, 4], 2, share_weights=False, strides=(2, 1), w_std=1.3, b_std=0.2, rngs=nnx.Rngs(0))
    apply_fn, params = ntk.functional(net)
    leaves = jax.tree.leaves(jax.jit(jax.jacrev(apply_fn))(params, jnp.concatenate([X1, X2])))
    j = np.concatenate([np.asarray(leaf).reshape(5, 2, -1) for leaf in leaves], -1)
    return net, np.einsum("nkp,mlp->nmkl", j[:3], j[3:])


@pytest.mark.parametrize("method", ["layerwise", "jacobian", "products"])
def test_its_empirical_kernel_is_the_product_of_dense_jacobians(empirical, method):
    net, want = empirical
    assert isinstance(net.layers[2], ntk.LocallyConnected)
    assert_close(ntk.empirical_ntk(net, X1, X2, outputs="full", method=method), want, rtol=1e-12)


def test_standard_with_its_rates_trains_as_ntk():
    """Its fan-in is that of a patch."""
    y = normal(3, 3, 2)
    net = ntk.cnn((5, 4, 2), [3], 2, share_weights=False, activation=ntk.Erf(), w_std=1.3, b_std=0.2, rngs=nnx.Rngs(0))
    standard = ntk.convert(net, ntk.STANDARD)
    for other in (net, standard):
        ntk.train(other, X1, y, optimizer=ntk.sgd(other, 0.3), steps=10)
    assert_close(standard(X1), net(X1), rtol=1e-11)


def test_copies_of_a_convolutions_weights_make_the_convolution():
    how: Any = {"padding": "CIRCULAR", "w_std": 1.3, "b_std": 0.2, "rngs": nnx.Rngs(0)}
    conv, local = (ntk.cnn((5, 4, 2), [3, 4], 2, share_weights=share, **how) for share in (True, False))
    pairs: Any = zip(local.layers, conv.layers, strict=True)
    for ours, theirs in pairs:
        if hasattr(ours, "W"):
            ours.W[...] = jnp.broadcast_to(theirs.W[...], ours.W.shape)
            ours.b[...] = jnp.broadcast_to(theirs.b[...], ours.b.shape)
    assert_close(local(X1), conv(X1), rtol=1e-12)
