"""Convolutions and pooling: finite layers against plain loops, kernels against many finite networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import ACTIVATIONS, assert_close, kernel, normal

import ntklib as ntk

X1, X2 = normal(0, 3, 5, 4, 2), normal(1, 2, 5, 4, 2)
RNGS = nnx.Rngs(0)
RELU, ERF = ntk.Relu(), ntk.Erf()


def conv(c_in=2, c_out=3, kernel_size=3, **changes):
    arguments: Any = {"w_std": 1.3, "b_std": 0.2, "rngs": nnx.Rngs(1)} | changes
    return ntk.Conv(c_in, c_out, kernel_size, **arguments)


def patches(image, window, strides, padding):
    """[rows, columns, kh, kw, C] and which of them are there, by index arithmetic."""
    height, width = image.shape[:2]
    sizes, lows = [], []
    for size, k, s in zip((height, width), window, strides, strict=True):
        if padding == "VALID":
            sizes.append((size - k) // s + 1)
            lows.append(0)
        else:
            sizes.append(-(-size // s))
            lows.append(max((sizes[-1] - 1) * s + k - size, 0) // 2)
    out = np.zeros((*sizes, *window, image.shape[2]))
    there = np.zeros((*sizes, *window))
    for i, j, a, b in np.ndindex(*sizes, *window):
        row, column = i * strides[0] + a - lows[0], j * strides[1] + b - lows[1]
        if padding == "CIRCULAR":
            row, column = row % height, column % width
        if 0 <= row < height and 0 <= column < width:
            out[i, j, a, b], there[i, j, a, b] = image[row, column], 1.0
    return out, there


CASES = [
    ((3, 3), (1, 1), "SAME"),
    ((3, 2), (2, 1), "SAME"),
    ((2, 3), (1, 2), "VALID"),
    ((3, 3), (1, 1), "CIRCULAR"),
    ((3, 2), (2, 2), "CIRCULAR"),
    ((1, 1), (1, 1), "VALID"),
]


@pytest.mark.sweep
@pytest.mark.parametrize(("window", "strides", "padding"), CASES)
def test_convolution_and_pooling_are_sums_over_patches(window, strides, padding):
    layer = conv(kernel_size=window, strides=strides, padding=padding)
    pool = ntk.AvgPool(window, strides=strides, padding=padding)
    got, pooled = map(np.asarray, jax.jit(lambda x: (layer(x), pool(x)))(X1))
    fan_in = 2 * window[0] * window[1]
    assert layer.b is not None
    for n in range(3):
        cut, there = patches(np.asarray(X1[n]), window, strides, padding)
        z = 1.3 / fan_in**0.5 * np.einsum("hwabc,abcd->hwd", cut, layer.W[...]) + 0.2 * np.asarray(layer.b[...])
        assert_close(got[n], z, rtol=1e-12)
        assert_close(pooled[n], cut.sum((2, 3)) / there.sum((2, 3))[..., None], rtol=1e-12)


def test_sizes_may_be_numbers_of_numpy():
    layer, pool = conv(kernel_size=np.int64(2), strides=(1, 2)), ntk.AvgPool(np.int64(2))
    assert (layer.kernel_size, layer.strides, pool.window) == ((2, 2), (1, 2), (2, 2))


@pytest.mark.sweep
@pytest.mark.parametrize(("window", "strides", "padding"), CASES)
def test_kernels_of_all_pairs_hold_those_of_equal_pixels(window, strides, padding):
    net = ntk.Serial(conv(2, 3, window, strides=strides, padding=padding), ntk.Relu())
    few, many = (
        jax.jit(lambda x1, x2, pools=pools: net.kernel_map(ntk.Kernel.from_inputs(x1, x2, pools=pools)))(X1, X2)
        for pools in (0, 1)
    )
    for name in ("nngp", "ntk"):
        assert_close(np.einsum("nmhwhw->nmhw", getattr(many, name)), getattr(few, name), rtol=1e-13)
    for name in ("q1", "q2"):
        assert_close(np.einsum("nhwhw->nhw", getattr(many, name)), getattr(few, name), rtol=1e-13)


def network(kind, width, seed, parameterization=ntk.NTK, activation=RELU):
    rngs = nnx.Rngs(seed)
    make = {"parameterization": parameterization, "rngs": rngs}
    first = ntk.Conv(2, width, 3, w_std=1.3, b_std=0.2, padding="SAME", strides=(2, 1), **make)
    second = ntk.Conv(width, width, (2, 3), w_std=1.2, b_std=0.1, padding="CIRCULAR", **make)
    body: list[ntk.Layer] = [first, activation, second, ntk.Relu()]
    ends: list[ntk.Layer]
    match kind:
        case "flatten":
            ends = [ntk.Flatten(), ntk.Dense(12 * width, 1, w_std=1.1, b_std=0.1, **make)]
        case "pool":
            ends = [ntk.GlobalAvgPool(), ntk.Dense(width, 1, w_std=1.1, b_std=0.1, **make)]
        case "mixed":
            third = ntk.Conv(width, width, 2, w_std=1.2, b_std=0.1, padding="VALID", **make)
            ends = [ntk.AvgPool(2, strides=1, padding="SAME"), third, ntk.Relu(), ntk.Flatten()]
            ends.append(ntk.Dense(6 * width, 1, w_std=1.1, b_std=0.1, **make))
        case _:
            branch = ntk.Serial(ntk.Relu(), ntk.Conv(width, width, 3, w_std=1.0, b_std=0.1, **make))
            body = [first, ntk.Residual(branch), ntk.Relu()]
            ends = [ntk.GlobalAvgPool()]
            ends.append(ntk.Dense(width, 1, w_std=1.1, b_std=0.1, **make))
    return ntk.Serial(*body, *ends)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["residual", "mixed"])  # the others: test_architectures.py
def test_wide_networks_have_the_kernel_of_the_limit(kind):
    """Means over networks of width 64: NNGP over 256, NTK over 16."""
    want = kernel(network(kind, 2, 0, activation=ERF), X1, X2)
    apply_fn, _ = ntk.functional(network(kind, 64, 0, activation=ERF))

    def of_seed(key):
        params = ntk.functional(network(kind, 64, key, activation=ERF))[1]
        return apply_fn(params, X1)[:, 0], apply_fn(params, X2)[:, 0], params

    keys = jax.random.split(jax.random.key(0), 256)
    f1, f2, params = jax.jit(lambda keys: jax.lax.map(of_seed, keys))(keys)  # one by one: no grouped convolutions
    scale = float(jnp.sqrt(jnp.outer(want.q1, want.q2)).max())
    assert float(jnp.abs(jnp.einsum("sn,sm->nm", f1, f2) / 256 - want.nngp).max()) < 4 * scale / 256**0.5

    @jax.jit
    def theta(params):
        j1, j2 = (jax.jacrev(apply_fn)(params, x) for x in (X1, X2))
        pairs = zip(jax.tree.leaves(j1), jax.tree.leaves(j2), strict=True)
        return sum(jnp.einsum("nk...,mk...->nm", a, b) for a, b in pairs)

    kernels = jax.lax.map(theta, jax.tree.map(lambda leaf: leaf[:16], params))
    error = kernels.std(0).max() / 16**0.5
    assert float(jnp.abs(kernels.mean(0) - want.ntk).max()) < 5 * float(error) + 0.03 * float(want.ntk.max())


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["flatten", "pool", "mixed", "residual"])
def test_kernels_are_symmetric_and_agree_with_themselves(kind):
    net = network(kind, 2, 0)
    k, both = kernel(net, X1), kernel(net, X1, X1 + 0.0)
    for name in ("nngp", "ntk"):
        a = getattr(k, name)
        assert a.shape == (3, 3)
        assert_close(a, a.T, rtol=1e-12)
        assert_close(a, getattr(both, name), rtol=1e-6)
        assert float(jnp.linalg.eigvalsh(a).min()) > 0
    assert_close(k.q1, np.diagonal(k.nngp), rtol=1e-12)


def test_standard_parameterization_has_the_widths_in_its_kernel():
    """Θ by the rates: with those of `sgd` the standard network moves as the NTK one, layer by layer."""
    net = network("flatten", 6, 3)
    standard = ntk.convert(net, ntk.STANDARD)
    assert_close(standard(X1), net(X1), rtol=1e-12)
    apply_fn, params = ntk.functional(standard)
    rates = ntk.sgd(standard, 1.0)
    factor = jax.tree.map(jnp.ones_like, params)
    scaled = rates.update(factor, rates.init(params), params)[0]
    jacobian = jax.jit(jax.jacrev(apply_fn))(params, X1)
    theta = sum(
        jnp.einsum("nk...,mk...,...->nm", j, j, -s)
        for j, s in zip(jax.tree.leaves(jacobian), jax.tree.leaves(scaled), strict=True)
    )
    assert_close(theta, ntk.empirical_ntk(net, X1), rtol=1e-10)
    wide, wider = (kernel(network("flatten", n, 0, ntk.STANDARD), X1).ntk for n in (8, 16))
    assert float((wider / wide).min()) > 1.5


@pytest.mark.sweep(part=2)
@pytest.mark.parametrize("name", ["gelu", "tanh", "relu"])
def test_activations_over_pairs_of_pixels_are_those_over_vectors(name):
    """A pooled network of 1×1 convolutions on one-pixel images is a dense one."""
    activation, x = ACTIVATIONS[name], normal(4, 5, 3)
    rngs = nnx.Rngs(0)
    dense = ntk.Serial(
        ntk.Dense(3, 2, w_std=1.3, b_std=0.2, rngs=rngs), activation, ntk.Dense(2, 1, w_std=1.0, rngs=rngs)
    )
    image = ntk.Serial(
        ntk.Conv(3, 2, 1, w_std=1.3, b_std=0.2, rngs=rngs), activation, ntk.GlobalAvgPool(),
        ntk.Dense(2, 1, w_std=1.0, rngs=rngs),
    )  # fmt: skip
    pooled, plain = kernel(image, x[:, None, None]), kernel(dense, x)
    for kind in ("nngp", "ntk"):
        assert_close(getattr(pooled, kind), getattr(plain, kind), rtol=1e-7)


def test_a_dense_layer_between_convolution_and_pooling_is_a_convolution_of_one_pixel():
    rngs = nnx.Rngs(0)
    kernels = []
    for middle in (
        ntk.Dense(4, 3, w_std=1.2, b_std=0.1, rngs=rngs),
        ntk.Conv(4, 3, 1, w_std=1.2, b_std=0.1, rngs=rngs),
    ):
        first = ntk.Conv(2, 4, 3, w_std=1.3, b_std=0.2, rngs=rngs)
        kernels.append(kernel(ntk.Serial(first, ntk.Relu(), middle, ntk.Relu(), ntk.GlobalAvgPool()), X1, X2))
    for name in ("nngp", "ntk", "q1", "q2"):
        assert_close(getattr(kernels[0], name), getattr(kernels[1], name), rtol=1e-13)


def test_layer_norm_over_pairs_of_pixels():
    rngs = nnx.Rngs(0)
    net = ntk.Serial(ntk.Conv(2, 4, 3, w_std=1.0, b_std=0.3, rngs=rngs), ntk.LayerNorm(0.1), ntk.GlobalAvgPool())
    k = kernel(net, X1, X2)
    plain = ntk.Serial(net.layers[0]).kernel_map(ntk.Kernel.from_inputs(X1, X2, pools=1))
    v1, v2 = (jnp.sqrt(jnp.einsum("nhwhw->nhw", q) + 0.1) for q in (plain.q1, plain.q2))
    scaled = plain.nngp / jnp.einsum("nhw,mij->nmhwij", v1, v2)
    assert_close(k.nngp, scaled.mean(axis=(2, 3, 4, 5)), rtol=1e-12)
    own = plain.q1 / jnp.einsum("nhw,nij->nhwij", v1, v1)
    assert_close(k.q1, own.mean(axis=(1, 2, 3, 4)), rtol=1e-12)


def test_a_translated_image_is_the_same_to_a_circular_network_with_pooling_and_not_to_one_without():
    moved = jnp.roll(X1, (2, 1), axis=(1, 2))
    rngs = nnx.Rngs(0)
    body = [ntk.Conv(2, 2, 3, w_std=1.3, b_std=0.1, padding="CIRCULAR", rngs=rngs), ntk.Relu()]
    pooled = ntk.Serial(*body, ntk.GlobalAvgPool(), ntk.Dense(2, 1, w_std=1.0, rngs=rngs))
    flat = ntk.Serial(*body, ntk.Flatten(), ntk.Dense(40, 1, w_std=1.0, rngs=rngs))
    still = X1 + 0.0  # the same programs as for `moved`
    assert_close(kernel(pooled, X1, moved).ntk, kernel(pooled, X1, still).ntk, rtol=1e-6)
    assert float(jnp.abs(kernel(flat, X1, moved).ntk - kernel(flat, X1, still).ntk).max()) > 0.05


def test_gradients_are_finite_at_equal_inputs():
    net = network("pool", 2, 0)
    slope = jax.jit(jax.grad(lambda x: net.kernel(x).ntk.sum()))(X1)
    assert bool(jnp.isfinite(slope).all())


def test_deep_circular_networks_have_the_limits_of_dense_ones_and_pooling_mixes_the_pixels():
    """ReLU on the edge of chaos, six pixels, three taps. The ratio Θ(x, x')/Θ(x, x) tends to 1/4 behind a flatten
    readout, as without pixels. Pooled, the diagonal tends to (1 + 3/d)/4, so the ratio to d/(d + 3) = 2/3.
    """
    rngs, depth = nnx.Rngs(0), 1000
    x = normal(5, 2, 6, 1, 3)
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True) * 3**0.5  # every pixel of variance 1
    first = ntk.Conv(3, 1, (3, 1), w_std=2**0.5, padding="CIRCULAR", rngs=rngs)
    block = ntk.Serial(ntk.Relu(), ntk.Conv(1, 1, (3, 1), w_std=2**0.5, padding="CIRCULAR", rngs=rngs))
    ratios = {}
    for name, end, pools in (("flatten", ntk.Flatten(), 0), ("pooled", ntk.GlobalAvgPool(), 1)):

        @jax.jit
        def limit(x, end=end, pools=pools):
            # The first block makes the kernel acute, which a loop may not change.
            k = block.kernel_map(first.kernel_map(ntk.Kernel.from_inputs(x, pools=pools)))
            k = jax.lax.fori_loop(2, depth, lambda _, k: block.kernel_map(k), k)
            return end.kernel_map(k).ntk

        theta = limit(x)
        ratios[name] = float(theta[0, 1] / jnp.sqrt(theta[0, 0] * theta[1, 1]))
    assert abs(ratios["flatten"] - 1 / 4) < 0.006
    assert abs(ratios["pooled"] - 2 / 3) < 0.006
