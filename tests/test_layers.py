"""Layers: their kernels against reference values, against each other, and against finite networks."""

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import ACTIVATIONS, CLOSED_FORM, assert_close, compilations, kernel, normal, small_net

import ntklib as ntk

REFERENCE = pathlib.Path(__file__).parent / "reference"
DOCUMENT = json.loads((REFERENCE / "reference.json").read_text())
ARRAYS = np.load(REFERENCE / "reference.npz")
CASES = {case["id"]: case for case in DOCUMENT["cases"]}


def build(specs, n_in, rngs):
    """A reference file's list of layers as an ntklib network."""
    layers, width = [], n_in
    for spec in specs:
        match spec["op"]:
            case "dense":
                layers.append(
                    ntk.Dense(
                        width,
                        spec["width"],
                        w_std=spec["W_std"],
                        b_std=spec["b_std"] or 0.0,
                        use_bias=spec["b_std"] is not None,
                        parameterization={"ntk": ntk.NTK, "standard": ntk.STANDARD}[spec["parameterization"]],
                        rngs=rngs,
                    )
                )
                width = spec["width"]
            case "conv":
                layers.append(
                    ntk.Conv(
                        width,
                        spec["width"],
                        tuple(spec["filter"]),
                        strides=tuple(spec["strides"]),
                        padding=spec["padding"],
                        w_std=spec["W_std"],
                        b_std=spec["b_std"],
                        rngs=rngs,
                    )
                )
                width = spec["width"]
            case "flatten":
                layers.append(ntk.Flatten())
                width *= 2 * 4  # 4×6 pixels without their edge
            case "avg_pool":
                layers.append(ntk.AvgPool(tuple(spec["window"]), strides=tuple(spec["strides"])))
            case "global_avg_pool":
                layers.append(ntk.GlobalAvgPool())
            case "sum":
                branch, skip = spec["branches"]
                assert skip == []
                layers.append(ntk.Residual(build(branch, width, rngs)))
            case "relu":
                layers.append(ntk.Relu())
            case "leaky_relu":
                layers.append(ntk.LeakyRelu(spec["alpha"]))
            case "erf":
                layers.append(ntk.Erf())
            case "gelu":
                layers.append(ntk.Gelu())
            case "sin":
                layers.append(ntk.Sin(spec["b"]))
            case "layer_norm":
                layers.append(ntk.LayerNorm(spec["eps"]))
    return ntk.Serial(*layers)


@pytest.mark.sweep
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels_agree_with_the_reference_library(case):
    x1, x2 = (ARRAYS[DOCUMENT["inputs"][case["inputs"]][x]] for x in ("x1", "x2"))
    net = build(case["layers"], x1.shape[-1], nnx.Rngs(0))
    one, two = slice(len(x1)), slice(len(x1), None)
    # One program for both kernels of a set with itself, one for the kernel between them.
    within, between = kernel(net, np.concatenate([x1, x2])), kernel(net, x1, x2)
    for kind in ("nngp", "ntk"):
        both, across = np.asarray(getattr(within, kind)), np.asarray(getattr(between, kind))
        for pair, here in {"11": both[one, one], "12": across, "22": both[two, two]}.items():
            want = ARRAYS[case["arrays"][f"{kind}_{pair}"]]
            diagonal = np.eye(*want.shape, dtype=bool) & (pair != "12")
            off = case["tolerance"]["nngp" if kind == "nngp" else "ntk_off"]
            on = case["tolerance"]["nngp" if kind == "nngp" else "ntk_diag"]
            assert here.shape == want.shape
            assert (np.abs(here - want) <= np.where(diagonal, on, off) * np.abs(want).max()).all(), (kind, pair)


def test_every_reference_case_is_there():
    assert len(CASES) == 11


@functools.cache
def parameters_of_wide_networks():
    """Of 32, the same for every activation: they are drawn by one program."""

    def draw(key):
        return nnx.split(ntk.mlp([5, 256, 256, 1], w_std=1.2, b_std=0.3, rngs=nnx.Rngs(params=key)))[1]

    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 32))


@pytest.mark.sweep(part=10)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_wide_networks_have_the_kernel_of_the_limit(name):
    """Mean over 32 networks of width 256, two hidden layers: the NNGP and NTK within their standard errors' reach."""
    activation, x = ACTIVATIONS[name], normal(0, 3, 5)

    wide, limit = (
        ntk.mlp([5, n, n, 1], activation=activation, w_std=1.2, b_std=0.3, rngs=nnx.Rngs(0)) for n in (256, 8)
    )
    graph, _ = nnx.split(wide)

    def sample(params):
        net = nnx.merge(graph, params)
        return ntk.empirical_nngp(net, x), ntk.empirical_ntk(net, x, method="jacobian", tile=3)

    limit = kernel(limit, x)
    samples = jax.lax.map(sample, parameters_of_wide_networks())
    for drawn, want in zip(samples, (limit.nngp, limit.ntk), strict=True):
        drawn = np.asarray(drawn)
        error = drawn.std(0, ddof=1) / np.sqrt(len(drawn))
        # The mean of the NTK has a bias of order 1/n on top of the noise.
        assert (np.abs(drawn.mean(0) - want) < 4.5 * error + 3 / 256 * np.abs(want).max()).all()


def test_residual_sum_flatten_and_layer_norm_against_wide_networks():
    images = normal(0, 3, 2, 2, 3)
    n = 256

    def build(rngs):
        dense = lambda i, o: ntk.Dense(i, o, w_std=1.1, b_std=0.2, rngs=rngs)  # noqa: E731
        return ntk.Serial(
            ntk.Flatten(),
            dense(12, n),
            ntk.Residual(ntk.Serial(ntk.Relu(), dense(n, n)), scale=0.7),
            ntk.LayerNorm(),
            ntk.Sum(ntk.Serial(ntk.Erf(), dense(n, 1)), ntk.Serial(ntk.Relu(), dense(n, 1))),
        )

    samples = jax.lax.map(
        lambda key: ntk.empirical_ntk(build(nnx.Rngs(params=key)), images, method="jacobian", tile=3),
        jax.random.split(jax.random.key(1), 24),
    )
    drawn, want = np.asarray(samples), kernel(build(nnx.Rngs(0)), images).ntk
    error = drawn.std(0, ddof=1) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - want) < 4.5 * error + 3 / n * np.abs(want).max()).all()


def test_numpy_arrays_are_inputs_of_every_layer():
    """As the README and the chapters pass them; the results are JAX's."""
    rngs = nnx.Rngs(params=0)
    conv = ntk.Conv(1, 4, 3, w_std=1.0, rngs=rngs)
    local = ntk.LocallyConnected((4, 4), 4, 4, 3, w_std=1.0, rngs=rngs)
    dense = lambda n_in, n_out: ntk.Dense(n_in, n_out, w_std=1.0, b_std=0.1, rngs=rngs)  # noqa: E731
    images = np.linspace(-1, 1, 32).reshape(2, 4, 4, 1)
    rows = images.reshape(2, 16)
    with jax.numpy_dtype_promotion("standard"):
        deep = ntk.Serial(conv, local, ntk.Relu(), ntk.AvgPool(2), ntk.Flatten(), dense(16, 3))
        assert_close(deep(images), deep(jnp.asarray(images)))
        for layer in (ntk.Relu(), ntk.LayerNorm(), dense(16, 4), ntk.Residual(dense(16, 16)), ntk.Sum(dense(16, 2))):
            assert isinstance(layer(rows), jax.Array)
            assert_close(layer(rows), layer(jnp.asarray(rows)))
        for layer in (conv, ntk.AvgPool(2), ntk.GlobalAvgPool()):
            assert isinstance(layer(images), jax.Array)
            assert_close(layer(images), layer(jnp.asarray(images)))
        assert_close(ntk.Flatten()(images), rows)


def test_a_branch_ends_in_a_residual_only_after_an_affine_layer():
    """X + B(x) is not independent of x, and the cross terms would be missing; W x + B(W x) is."""

    def dense(n=64):
        return ntk.Dense(n, 64, w_std=1.0, rngs=nnx.Rngs(n))

    alone = lambda: ntk.Residual(dense())  # noqa: E731
    for wrong in (alone(), ntk.Serial(alone()), ntk.Serial(alone(), alone())):
        with pytest.raises(ValueError, match=r"`branch` must end .* Serial\(Dense, Residual\)"):
            ntk.Residual(wrong)
        with pytest.raises(ValueError, match=r"Branch 1 of Sum must end .* a Residual with an affine layer before it"):
            ntk.Sum(dense(), wrong)
    nested = ntk.Residual(ntk.Serial(dense(), ntk.Serial(alone(), alone())))
    assert_close(nested.kernel(jnp.ones((1, 64))).nngp, [[5.0]])

    draw = jax.vmap(lambda key: functools.reduce(lambda h, w: h + h @ w / 8, normal_weights(key), jnp.ones(64)))
    moved = draw(jax.random.split(jax.random.key(0), 500))  # x + B(x), and the same once more
    assert 3.7 < float(jnp.mean(moved**2)) < 4.3  # as of Serial(Residual, Residual), and not the 3 of independent terms
    assert_close(ntk.Serial(alone(), alone()).kernel(jnp.ones((1, 64))).nngp, [[4.0]])


def normal_weights(key):
    return [jax.random.normal(k, (64, 64)) for k in jax.random.split(key)]


def test_an_activation_after_flatten_has_a_kernel_only_after_a_dense():
    """The pixels have different variances there; before Flatten the same function has the right one."""
    conv, dense = (
        (lambda rngs: ntk.Conv(1, 512, 1, w_std=1.5, rngs=rngs)),
        (lambda n: ntk.Dense(n, 1, w_std=1.0, rngs=nnx.Rngs(1))),
    )
    x = jnp.array([0.1, 3.0, 0.5, 1.0]).reshape(1, 2, 2, 1)
    wrong = ntk.Serial(conv(nnx.Rngs(0)), ntk.Flatten(), ntk.Relu(), dense(2048))
    assert wrong(x).shape == (1, 1)
    for compute in (wrong.kernel, functools.partial(ntk.gram, wrong)):
        with pytest.raises(ValueError, match=r"'relu' has no kernel after Flatten.* Put a Dense between"):
            compute(x)
    with pytest.raises(ValueError, match="'relu' has no kernel after Flatten"):
        ntk.Serial(conv(nnx.Rngs(0)), ntk.Flatten(), ntk.LayerNorm(), ntk.Relu(), dense(2048)).kernel(x)
    first = ntk.Dense(4, 8, w_std=1.5, rngs=nnx.Rngs(2))
    for units, part in (
        (x.reshape(1, 4), first),
        (x.reshape(1, 1, 1, 4), ntk.Conv(4, 8, 1, w_std=1.5, rngs=nnx.Rngs(2))),
    ):
        flat = ntk.Serial(part, ntk.Flatten(), ntk.Relu(), dense(8)).kernel(units)  # there is one pixel, or none
        assert_close(flat.ntk, ntk.Serial(first, ntk.Relu(), dense(8)).kernel(x.reshape(1, 4)).ntk, rtol=1e-12)
    right = ntk.Serial(conv(nnx.Rngs(0)), ntk.Relu(), ntk.Flatten(), dense(2048)).kernel(x)
    hidden = ntk.Serial(conv(nnx.Rngs(0)), ntk.Flatten(), ntk.Relu())(x)
    assert abs(float(jnp.mean(hidden**2) / right.nngp[0, 0]) - 1) < 0.15
    between = ntk.Serial(conv(nnx.Rngs(0)), ntk.Flatten(), ntk.LayerNorm(), dense(2048), ntk.Relu(), dense(1))
    assert jnp.isfinite(between.kernel(x).ntk).all()


def test_residual_adds_the_square_of_its_scale():
    x, dense = normal(0, 4, 3), lambda: ntk.Dense(3, 3, w_std=1.2, b_std=0.4, rngs=nnx.Rngs(0))
    k, s = dense().kernel(x), 0.7
    nngp, theta = np.asarray(k.nngp), np.asarray(k.ntk)
    got = ntk.Serial(dense(), ntk.Residual(dense(), scale=s)).kernel(x)
    branch = 1.44 * nngp + 0.16
    assert_close(got.nngp, nngp + s**2 * branch)
    assert_close(got.ntk, theta + s**2 * (branch + 1.44 * theta))
    assert_close(got.q1, np.diagonal(got.nngp))


@pytest.mark.sweep(part=10)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_kernel_and_its_gradient_are_finite_at_equal_opposite_and_zero_inputs(name, dtype):
    x = jnp.concatenate([normal(0, 2, 3, dtype=dtype), jnp.zeros((1, 3), dtype)])
    x = jnp.concatenate([x, x[:1], -x[:1]])  # a duplicate and an opposite
    # A quadrature compiles slowly under `grad`: one hidden layer will do where the second repeats the first.
    closed = name in CLOSED_FORM
    widths = [3, 8, 8, 1] if closed else [3, 8, 1]
    net = ntk.mlp(widths, activation=ACTIVATIONS[name], w_std=1.3, b_std=0.0, rngs=nnx.Rngs(0))

    def total(x1, x2):
        k = net.kernel(x1, x2)
        return k.nngp.sum() + k.ntk.sum(), k

    for other in (None, x[2:]) if closed else (None,):
        # Without `jit` the programs are those of single layers, which equal layers share.
        (value, k), grad = jax.value_and_grad(total, argnums=0, has_aux=True)(x, other)
        assert value.dtype == k.ntk.dtype == dtype
        assert jnp.isfinite(k.ntk).all()
        assert jnp.isfinite(k.nngp).all()
        assert jnp.isfinite(grad).all()


def test_gradient_of_a_diagonal_entry_is_that_of_the_variance():
    """k(x, x) of a ReLU network is known: its gradient must come out although ρ = 1 all along."""
    net = ntk.mlp([3, 8, 8, 1], w_std=2**0.5, b_std=0.0, rngs=nnx.Rngs(0))
    x = normal(0, 1, 3)
    want = 2 * 3 * 2 * x[0] / 3  # Θ(x, x) = 3 affine layers times q = 2|x|²/d
    assert_close(jax.jit(jax.grad(lambda x: net.kernel(x).ntk[0, 0]))(x)[0], want)


def test_the_ntk_of_a_kinked_function_of_a_user_has_the_gradient_of_the_closed_form():
    ours, exact = (
        ntk.mlp([3, 8, 1], activation=activation, w_std=1.3, b_std=0.4, rngs=nnx.Rngs(0))
        for activation in (ntk.Elementwise(jax.nn.relu), ntk.Relu())
    )
    x = normal(0, 3, 3)
    assert_close(jax.jacfwd(lambda x: ours.kernel(x).ntk)(x), jax.jacfwd(lambda x: exact.kernel(x).ntk)(x), rtol=1e-9)


def test_relu_network_on_the_critical_line():
    """(σ_w², σ_b²) = (2, 0): the diagonal of Θ is the number of affine layers times q, at any depth, in float32 too."""
    x = np.asarray(normal(0, 4, 20, dtype=jnp.float32))
    net = ntk.mlp([20, *[4] * 19, 1], w_std=2**0.5, rngs=nnx.Rngs(0))
    q = 2 * np.sum(x**2, axis=1) / 20
    assert_close(np.diagonal(net.kernel(x).ntk), 20 * q, rtol=3e-6)


def test_deep_linear_network_counts_its_layers():
    x = np.asarray(normal(0, 4, 6))
    net = ntk.mlp([6, 5, 5, 1], activation=ntk.Identity(), w_std=1.0, rngs=nnx.Rngs(0))
    assert_close(net.kernel(x).ntk, 3 * x @ x.T / 6)


@pytest.mark.weekly
def test_kernel_matrix_is_symmetric_positive_and_consistent_with_its_parts():
    x = normal(0, 9, 4)
    for name in (*CLOSED_FORM, "tanh"):
        activation = ACTIVATIONS[name]
        net = ntk.mlp([4, 6, 6, 1], activation=activation, w_std=1.2, b_std=0.1, rngs=nnx.Rngs(0))
        compiled = jax.jit(net.kernel)
        k = compiled(x)
        for matrix in (k.nngp, k.ntk):
            assert_close(matrix, matrix.T)
            assert float(jnp.linalg.eigvalsh(matrix).min()) > -1e-12 * float(jnp.trace(matrix)), name
        part = compiled(x[:4], x[2:])
        assert_close(part.ntk, k.ntk[:4, 2:], rtol=1e-7)
        assert_close(jnp.diagonal(k.nngp), k.q1)


def test_networks_share_the_programs_of_their_layers():
    """Those of inputs of one shape: only the first kernel compiles anything, whatever w_std, width and depth are."""

    def dense(widths, w_std):
        return ntk.mlp([4, *widths, 1], activation=ntk.Gelu(), w_std=w_std, b_std=0.1, rngs=nnx.Rngs(0))

    def conv(channels, w_std):
        layers = [ntk.Conv(2, channels, kernel_size=3, w_std=w_std, rngs=nnx.Rngs(0)), ntk.LayerNorm(), ntk.Relu()]
        same = ntk.Conv(channels, channels, kernel_size=3, w_std=w_std, rngs=nnx.Rngs(1))
        readout = ntk.Dense(channels, 1, w_std=w_std, rngs=nnx.Rngs(2))
        return ntk.Serial(*layers, ntk.Residual(same), ntk.AvgPool(2), ntk.GlobalAvgPool(), readout)

    x, images = normal(0, 5, 4), normal(0, 3, 4, 4, 2)
    first = dense((6, 6), 1.2).kernel(x), conv(3, 1.2).kernel(images)
    others = dense((7,), 1.3), dense((5, 6, 7), 1.1), conv(8, 1.4), dense((9, 9), 1.2)
    with compilations() as compiled:
        found = [net.kernel(images if isinstance(net.layers[0], ntk.Conv) else x).ntk for net in others]
        jax.block_until_ready(found)
    assert compiled == []
    assert_close(found[-1], first[0].ntk)


def test_a_function_that_is_defined_anew_under_its_name_has_a_kernel_of_its_own(monkeypatch):
    """As in a notebook, where a cell is changed and run again."""
    x, partials = normal(0, 3, 3), []
    for function, exact in ((jnp.sin, ntk.Sin()), (jnp.cos, ntk.Cos())):

        def phi(x, function=function):
            return function(x)

        phi.__qualname__ = "phi"
        monkeypatch.setitem(globals(), "phi", phi)
        ours, theirs = (
            ntk.mlp([3, 8, 1], activation=activation, w_std=1.3, rngs=nnx.Rngs(0)).kernel(x).ntk
            for activation in (ntk.Elementwise(phi), exact)
        )
        assert_close(ours, theirs, rtol=1e-9)
        partials.append([ntk.Elementwise(functools.partial(phi, function=function)).activation for _ in range(2)])
    assert partials[0][0] == partials[0][1] != partials[1][0]


def test_training_does_not_touch_the_kernel():
    net, x = small_net(), normal(0, 4, 3)
    before = kernel(net, x).ntk
    ntk.train(net, x, normal(1, 4, 2), optimizer=ntk.sgd(net, 1.0), steps=5)
    assert (kernel(net, x).ntk == before).all()
    assert (kernel(small_net(seed=5), x).ntk == before).all()


def test_images_pass_through_dense_pixel_by_pixel():
    images = normal(0, 2, 3, 3, 5)
    net = ntk.Serial(ntk.Dense(5, 4, w_std=1.2, b_std=0.1, rngs=nnx.Rngs(0)), ntk.Relu(), ntk.Flatten())
    k = kernel(net, images)
    pixels = images.reshape(2 * 9, 5)
    one = kernel(ntk.Serial(ntk.Dense(5, 4, w_std=1.2, b_std=0.1, rngs=nnx.Rngs(0)), ntk.Relu()), pixels).ntk
    same_pixel = np.einsum("npmp->nm", np.asarray(one).reshape(2, 9, 2, 9)) / 9
    assert_close(k.ntk, same_pixel)
    assert k.features == 4 * 9
    assert net(images).shape == (2, 36)


def test_layer_norm_normalises_activations_and_kernel():
    z = 3 + 2 * np.asarray(normal(0, 4, 200))
    out = np.asarray(ntk.LayerNorm()(z))
    assert_close(out.mean(-1) + 1, np.ones(4))
    assert_close((out**2).mean(-1), np.ones(4))
    net = ntk.Serial(ntk.Dense(3, 8, w_std=2.0, rngs=nnx.Rngs(0)), ntk.LayerNorm())
    assert_close(np.diagonal(net.kernel(normal(0, 4, 3)).nngp), np.ones(4))


def test_same_seed_same_network():
    x = normal(0, 2, 3)
    assert (small_net(3)(x) == small_net(3)(x)).all()
    assert not jnp.allclose(small_net(3)(x), small_net(4)(x))


def test_the_kernel_of_a_network_that_forgot_flatten_is_refused():
    images = normal(0, 2, 4, 4, 3)
    conv = ntk.Conv(3, 4, kernel_size=3, w_std=1.2, rngs=nnx.Rngs(0))
    dense = [ntk.Dense(4, 4, w_std=1.0, rngs=nnx.Rngs(seed)) for seed in (1, 2)]
    for end in (dense[0], ntk.Sum(*dense), ntk.Residual(dense[0]), ntk.Serial(ntk.Residual(dense[0]))):
        with pytest.raises(ValueError, match=r"Dense.*pixels.*Flatten"):
            ntk.Serial(conv, ntk.Relu(), end).kernel(images)
    same = ntk.Serial(conv, ntk.Relu(), ntk.Conv(4, 1, kernel_size=1, w_std=1.0, rngs=nnx.Rngs(1)))
    assert same.kernel(images).ntk.shape == (2, 2, 4, 4)


def give(other: Any, one: Any, name="W", of="W"):
    """Make a parameter of one layer that of another."""
    setattr(other, name, getattr(one, of))


def tied(how) -> tuple[Any, tuple[str, str]]:
    """Networks in which two layers came to share a parameter after they were built, and the places of the two."""
    rngs = nnx.Rngs(0)
    every: dict[str, Any] = {"w_std": 1.2, "b_std": 0.3}
    net: Any = ntk.mlp([3, 5, 5, 5, 2], rngs=rngs, **every)
    first, second = net.layers[2], net.layers[4]
    branch = ntk.Serial(ntk.Relu(), ntk.Dense(5, 5, rngs=rngs, **every))
    match how:
        case "weights":
            give(second, first)
            return net, ("layers[2].W", "layers[4].W")
        case "biases":
            give(second, first, "b", "b")
            return net, ("layers[2].b", "layers[4].b")
        case "a bias and a weight":  # [1, 5] broadcasts to [5]
            net = ntk.Serial(ntk.Dense(1, 5, rngs=rngs, **every))
            give(net.layers[0], net.layers[0], "b")
            return net, ("layers[0].W", "layers[0].b")
        case "a layer put in another's place":
            net.layers[4] = first
            return net, ("layers[2].W", "layers[4].W")
        case "a layer inserted":
            net.layers.insert(5, first)
            return net, ("layers[2].W", "layers[5].W")
        case "the readout":
            net = ntk.mlp([3, 5, 5, 5], rngs=rngs, **every)
            give(net.layers[4], net.layers[2])
            return net, ("layers[2].W", "layers[4].W")
        case "in a branch":
            net.layers[4] = ntk.Residual(branch)
            give(branch.layers[1], first)
            return net, ("layers[2].W", "layers[4].branch.layers[1].W")
        case "branches of a sum":
            net = ntk.Sum(*(ntk.Dense(3, 2, rngs=rngs, **every) for _ in range(3)))
            give(net.branches[2], net.branches[0])
            return net, ("branches[0].W", "branches[2].W")
    raise KeyError(how)


HOW = [
    "weights", "biases", "a bias and a weight", "a layer put in another's place", "a layer inserted", "the readout",
    "in a branch", "branches of a sum",
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_no_kernel_of_infinite_width_for_layers_that_share_parameters(how):
    """Weights that were tied are not independent; the kernel reads no parameters, and would not see it."""
    net, places = tied(how)
    x = normal(0, 4, 1 if how == "a bias and a weight" else 3)
    asked = {
        "kernel": lambda: net.kernel(x),
        "under jit": lambda: jax.jit(lambda x: net.kernel(x).ntk)(x),
        "gram": lambda: ntk.gram(net, x),
        "solve": lambda: ntk.cg_solve(net, x, x[:, :1], ridge=0.1, progress=False),
        "estimator": lambda: ntk.KernelRegressor(net).fit(np.asarray(x), np.asarray(x[:, 0])),
    }
    if how != "a bias and a weight":  # one layer alone
        asked["map"] = lambda: net.kernel_map(ntk.Kernel.from_inputs(x))
    for name, call in asked.items():
        with pytest.raises(ValueError, match="share weights") as caught:
            call()
        for place in places:
            assert f"`{place}`" in str(caught.value), name


@pytest.mark.parametrize("how", HOW)
def test_the_kernel_of_a_finite_network_counts_shared_parameters_once(how):
    """Against a dense Jacobian, by all methods; and the NNGP estimate integrates no readout that stands twice."""
    net, _ = tied(how)
    x = normal(0, 4, 1 if how == "a bias and a weight" else 3)
    apply_fn, params = ntk.functional(net)
    rows = [np.reshape(j, (*j.shape[:2], -1)) for j in jax.tree.leaves(jax.jit(jax.jacobian(apply_fn))(params, x))]
    want = sum(np.einsum("ikp,jlp->ijkl", j, j) for j in rows)
    for method in ("jacobian", "products", "layerwise", "auto"):
        assert_close(ntk.empirical_ntk(net, x, outputs="full", method=method), want, rtol=1e-12)
    outputs = np.asarray(net(x))
    assert_close(ntk.empirical_nngp(net, x), outputs @ outputs.T / outputs.shape[1], rtol=1e-12)


def test_a_function_whose_module_cannot_be_imported_has_a_kernel():
    """As a function from a file that was run without a place in `sys.modules`."""
    arctan = lambda x: jnp.arctan(x)  # noqa: E731
    arctan.__module__, arctan.__qualname__ = "no_such_module", "arctan"
    layers = [ntk.Dense(3, n, w_std=1.0, rngs=nnx.Rngs(n)) for n in (3, 1)]
    nets = [ntk.Serial(layers[0], ntk.Elementwise(f), layers[1]) for f in (arctan, jnp.arctan)]
    x = normal(0, 4, 3)
    assert_close(nets[0].kernel(x).ntk, nets[1].kernel(x).ntk, rtol=1e-15)
