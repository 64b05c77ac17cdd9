"""Ready architectures: what they are made of, and kernels against neural-tangents and against many finite networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, kernel, normal

import ntklib as ntk

ALL = [ntk.NTK, ntk.STANDARD, ntk.MEAN_FIELD, ntk.MUP]
X = normal(0, 2, 4, 5, 2)


def cnn(width=4, seed=0, **changes) -> Any:
    arguments: Any = {"activation": ntk.Erf(), "w_std": 1.3, "b_std": 0.2, "rngs": nnx.Rngs(seed)} | changes
    return ntk.cnn((4, 5, 2), [width, width + 1], 3, **arguments)


def myrtle(depth: Any = 5, width=4, seed=0, **changes) -> Any:
    return ntk.myrtle(depth, width, 3, c_in=2, rngs=nnx.Rngs(seed), **changes)


def affine(net) -> list[Any]:
    return [layer for layer in net.layers if isinstance(layer, ntk.Dense | ntk.Conv)]


VARIANTS: dict[str, dict[str, Any]] = {
    "flatten": {},
    "pool": {"readout": "pool"},
    "strided": {"strides": (2, 1), "kernel_size": (2, 3), "padding": "CIRCULAR"},
    "valid": {"padding": "VALID", "activation": None, "readout": "pool", "kernel_size": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cnn_is_its_layers_written_out(variant):
    changes = VARIANTS[variant]
    net = cnn(**changes)
    first, second, last = affine(net)
    pixels = {"flatten": 20, "pool": 1, "strided": 1 * 5, "valid": 1}[variant]
    assert (first.c_in, first.c_out, second.c_in, second.c_out) == (2, 4, 4, 5)
    assert (last.n_in, last.n_out) == (5 * pixels, 3)
    assert [layer.role for layer in (first, second, last)] == ["input", "hidden", "output"]
    phi = jax.nn.relu if variant == "valid" else jax.scipy.special.erf
    h = phi(second(phi(first(X))))
    h = h.mean((1, 2)) if changes.get("readout") == "pool" else h.reshape(2, -1)
    assert_close(net(X), last(h), rtol=1e-13)


@pytest.mark.parametrize(("p", "readout"), [(p, "pool" if i % 2 else "flatten") for i, p in enumerate(ALL)], ids=repr)
def test_a_cnn_in_any_parameterization(p, readout):
    """Multiplier × σ of the draw: σ_w/√n, and one more 1/√n for the readout of MUP and MEAN_FIELD (where also the
    hidden layer's has it); converted, it is the same function.
    """
    net = cnn(width=60, parameterization=p, readout=readout)
    for layer in affine(net):
        fan_in = layer.W[...].size / layer.W.shape[-1]
        extra = {"input": 0.0, "hidden": p is ntk.MEAN_FIELD, "output": p in ALL[2:]}[layer.role] * 0.5
        multiplier, std, _ = layer.scales()["W"]
        assert_close(multiplier * std, 1.3 / fan_in ** (0.5 + extra), rtol=1e-12)
        assert abs(float(jnp.std(layer.W[...])) / std - 1) < 0.15  # 180 numbers at least
    assert_close(ntk.convert(net, ntk.NTK)(X), net(X), rtol=1e-12)


@pytest.mark.parametrize(("depth", "groups"), [(5, "cc-c-c"), (7, "cc-cc-cc"), (10, "ccc-ccc-ccc")])
def test_myrtle_networks_have_the_published_layers(depth, groups):
    """On 32×32 images: the groups, pooling after each, two more poolings 2×2 down to one pixel, the readout."""
    net = myrtle(depth)
    assert len(affine(net)) == depth
    x = normal(1, 1, 32, 32, 2)
    parts, h = iter(affine(net)), x
    for group in groups.split("-"):
        for _ in group:
            h = jax.nn.relu(next(parts)(h))
        h = h.reshape(1, h.shape[1] // 2, 2, h.shape[2] // 2, 2, -1).mean((2, 4))
    for _ in range(2):
        h = h.reshape(1, h.shape[1] // 2, 2, h.shape[2] // 2, 2, -1).mean((2, 4))
    assert h.shape == (1, 1, 1, 4)
    assert_close(net(x), next(parts)(h[:, 0, 0]), rtol=1e-12)
    assert [layer.role for layer in affine(net)] == ["input", *["hidden"] * (depth - 2), "output"]


def test_myrtle_starts_critical_and_without_bias():
    net = myrtle()
    assert all(abs(layer.w_std**2 - 2.0) < 1e-15 and layer.b_std == 0.0 for layer in affine(net))
    assert_close(net(3.0 * X), 3.0 * net(X), rtol=1e-12)


NETWORKS = {
    "cnn, flatten": lambda width, seed: cnn(width, seed),
    "cnn, pooled": lambda width, seed: cnn(width, seed, readout="pool", strides=2),
    "myrtle": lambda width, seed: myrtle(5, width, seed),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["cnn, pooled", "myrtle"])  # each kind by one of the two routes; test_conv.py has more
def test_kernels_are_those_of_neural_tangents(name):
    nt: Any = pytest.importorskip("ntklib.interop.neural_tangents")
    net = NETWORKS[name](2, 0)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        kernel_fn = nt.to_neural_tangents(net)[2]
        theirs = jax.jit(lambda x: kernel_fn(x, None, ("nngp", "ntk")))(X)
    ours = kernel(net, X)
    assert_close(ours.nngp, theirs.nngp, rtol=1e-7)  # theirs is off by √ε on the diagonal
    assert_close(ours.ntk, theirs.ntk, rtol=1e-7)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["cnn, flatten", "myrtle"])
def test_wide_networks_have_the_kernel_of_the_limit(name):
    """Means over 24 networks of width 32, by their standard error and a bias of order 1/width."""
    want = kernel(NETWORKS[name](2, 0), X)
    apply_fn, _ = ntk.functional(NETWORKS[name](32, 0))

    def of_seed(key):
        params = ntk.functional(NETWORKS[name](32, key))[1]
        jacobian = jax.jacrev(lambda p: apply_fn(p, X)[:, 0])(params)
        theta = sum(jnp.einsum("n...,m...->nm", j, j) for j in jax.tree.leaves(jacobian))
        f = apply_fn(params, X)
        return jnp.einsum("nk,mk->nm", f, f) / 3, theta

    nngp, theta = jax.jit(lambda keys: jax.lax.map(of_seed, keys))(jax.random.split(jax.random.key(1), 24))
    for draws, limit in ((nngp, want.nngp), (theta, want.ntk)):
        error = np.asarray(draws).std(0) / 24**0.5
        assert float((jnp.abs(draws.mean(0) - limit) / (4 * error + 0.04 * limit.max())).max()) < 1.0
