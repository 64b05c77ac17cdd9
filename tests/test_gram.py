"""Kernel matrices by tiles: equal to `net.kernel`, accurate in float32, sharded, stored, resumed, in bounded memory."""

import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import nnx
from helpers import ACTIVATIONS, CLOSED_FORM, assert_close, kernel, normal

import ntklib as ntk
from ntklib.duals import arccos, correlation
from ntklib.kernel import Kernel
from ntklib.scale import fused
from ntklib.scale.fused import propagate
from ntklib.scale.tiles import Tiles, _cores

SCRIPT = pathlib.Path(__file__).parent / "run_gram.py"
RNGS = nnx.Rngs(0)


def net(activation=None, hidden=3, w_std=1.4):
    return ntk.mlp([5] + [8] * hidden + [2], activation=activation, w_std=w_std, b_std=0.2, rngs=RNGS)


class Scaled(ntk.Layer):
    """A layer of a user with a hyperparameter."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def kernel_map(self, k):
        return k.scaled(float(self.factor) ** 2)


@pytest.mark.parametrize("number", [float, np.asarray, jnp.asarray], ids=["Python", "NumPy", "JAX"])
def test_networks_that_differ_in_a_hyperparameter_have_kernels_of_their_own(number):
    """Also if the number is an array, and if it belongs to one of several blocks that are otherwise equal."""
    x = normal(0, 4, 3)

    def blocks(*factors):
        dense = lambda: ntk.Dense(3, 3, w_std=1.3, b_std=0.1, rngs=RNGS)  # noqa: E731
        return ntk.Serial(*[part for a in factors for part in (dense(), Scaled(number(a)))])

    for factors in ((0.5,), (1.5,), (1.0, 1.0, 1.0, 1.0), (1.0, 0.5, 1.0, 2.0)):
        made = blocks(*factors)
        assert_close(ntk.gram(made, x), made.kernel(x).ntk, rtol=1e-10)


def test_a_hyperparameter_that_is_traced_is_refused_like_traced_inputs():
    x, last = normal(0, 4, 3), ntk.Dense(3, 1, w_std=1.0, rngs=RNGS)
    with pytest.raises(TypeError, match="outside of `jit`, `grad` and `vmap`; inside of them use"):
        jax.grad(lambda a: ntk.gram(ntk.Serial(Scaled(a), last), x).sum())(1.5)


# ------------------------------------------------------------------------------------------------ polynomials, duals


def relative(got, want):
    """The largest relative error of floating-point numbers against mpmath's."""
    each = zip(got, want, strict=True)
    return max(abs(mpmath.mpf(float(g)) / w - 1) if w else mpmath.mpf(float(g)) for g, w in each)


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 6e-7), (jnp.float64, 2e-15)])
def test_angles_against_many_digits(dtype, error):
    u = np.concatenate([[0.0, 1.0], np.logspace(-12, 0, 300)]).astype(dtype)
    with mpmath.workdps(40):
        theta = [mpmath.acos(1 - mpmath.mpf(float(v))) for v in u]
        sine = [mpmath.sin(t) - t * mpmath.cos(t) for t in theta]
        for got, want in zip(arccos.acute(jnp.asarray(u)), (theta, sine), strict=True):
            assert relative(got, want) < error
        assert relative(arccos.from_root(jnp.sqrt(jnp.asarray(u))), theta) < error
        # An angle by the tangent of its half.
        double = [2 * mpmath.atan(mpmath.mpf(float(v))) for v in u]
        assert relative(arccos.twice_arctan(jnp.asarray(u)), double) < error


@pytest.mark.sweep
@pytest.mark.parametrize("name", CLOSED_FORM)
def test_duals_by_distance_are_those_by_covariance(name):
    activation = ACTIVATIONS[name].activation
    rng = np.random.default_rng(0)
    q1, q2 = (jnp.asarray(np.append(rng.uniform(0.01, 4.0, 500), tail)) for tail in ([0.0] * 3, [0.0, 2.0, 30.0]))
    rho = jnp.asarray(np.concatenate([rng.uniform(-1.0, 1.0, 498), [1.0, -1.0, 0.0, 0.0, 0.0]]))
    delta = correlation.signed(1 - rho, 1 + rho)
    slopes, new = activation.near(delta, q1, q2)
    values = jnp.sqrt(activation.moment(q1) * activation.moment(q2)) * correlation.rho(new)
    want, want_slopes = activation.dual(rho * jnp.sqrt(q1 * q2), q1, q2)
    # |ρ| = 1 with unequal norms loses half the digits of the angle in the covariance: it has no more.
    assert_close(values, want, rtol=1e-9)
    assert_close(jnp.broadcast_to(slopes, want.shape)[:498], want_slopes[:498], rtol=1e-9)
    assert_close(jnp.broadcast_to(slopes, want.shape)[498:], want_slopes[498:], rtol=1e-7)


@pytest.mark.parametrize("activation", [ntk.Relu(), ntk.LeakyRelu(-0.3), ntk.Abs()], ids=lambda a: a.name)
def test_the_shorter_form_for_acute_angles_is_the_general_one(activation):
    record = activation.activation
    delta = jnp.asarray([0.0, 1e-300, 1e-12, 0.3, 0.9, 1.0, 0.5, 1.0])
    q1, q2 = jnp.asarray([2.0] * 6 + [0.0, 0.0]), jnp.asarray([0.5] * 7 + [0.0])  # the last two: zero inputs
    assert record.nonnegative
    assert record.acute_form is not None
    for got, want in zip(record.near(delta, q1, q2, acute=True), record.near(delta, q1, q2), strict=True):
        assert_close(got, want, rtol=1e-15)
    assert (record.near(delta, q1, q2, acute=True)[1] <= 1).all()  # it stays acute
    weight, bias = [(jnp.sqrt(jnp.asarray(a)), jnp.sqrt(jnp.asarray(b))) for a, b in ((0.9, 0.6), (0.1, 0.4))]
    got, want = (correlation.with_bias(delta, weight, bias, acute) for acute in (True, False))
    assert_close(got, want, rtol=1e-15)


@pytest.mark.parametrize("size", [1.0, 1e30])  # of which the squares leave float32
def test_inputs_of_two_types_are_taken_in_the_wider_one(size):
    x = np.asarray(normal(0, 6, 5)) * size
    y = np.asarray(normal(1, 4, 5) * size).astype(np.float32)
    both, wide = net(hidden=1), y.astype(np.float64)
    assert_close(ntk.gram(both, x, y), ntk.gram(both, x, wide), rtol=1e-12)
    assert_close(ntk.gram(both, y, x), ntk.gram(both, wide, x), rtol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_only_what_is_never_negative_is_said_to_be(name):
    record = ACTIVATIONS[name].activation
    lowest = float(jnp.min(record.fn(jnp.linspace(-40.0, 40.0, 4001))))
    assert lowest >= 0 or not record.nonnegative


def test_a_kernel_is_acute_after_relu_until_something_else_comes():
    def after(*layers):
        return ntk.Serial(*layers).kernel_map(Kernel.from_inputs(jnp.asarray([[1.0, 0.5], [-1.0, 0.2]])))

    def dense(seed):
        return ntk.Dense(2, 2, w_std=1.0, b_std=0.5, rngs=nnx.Rngs(seed))

    assert not after(dense(0)).acute
    assert not after(dense(0), ntk.Erf(), dense(1)).acute
    assert after(dense(0), ntk.Relu()).acute
    after_two = after(dense(0), ntk.Relu(), dense(1))
    assert after_two.acute
    assert not after_two.with_delta(jnp.full((2, 2), -0.5)).acute
    assert not after_two.replace(delta=jnp.full((2, 2), -0.5)).acute
    assert not after(dense(0), ntk.Relu(), dense(1), ntk.Erf()).acute
    assert after(dense(0), ntk.Relu(), ntk.Residual(dense(1))).acute
    assert not after(
        dense(0), ntk.Residual(ntk.Serial(ntk.Relu(), dense(1)))
    ).acute  # the other summand may be negative


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("pool", [False, True])
def test_layers_that_keep_a_kernel_acute_give_what_they_give_without_knowing_it(pool, dtype):
    images = np.array(normal(0, 4, 4, 4, 2), dtype)
    images[1] = 0
    images[2, :, :2] = images[3, :, 2:] = 0  # two images without a common pixel
    k = Kernel.from_inputs(jnp.asarray(images), jnp.concatenate([images, -2 * images[:2]]), pools=int(pool))

    def conv(seed):
        return ntk.Conv(2, 2, 3, w_std=1.3, b_std=0.0 if seed else 0.3, rngs=nnx.Rngs(seed))

    k = ntk.Serial(conv(1), ntk.Relu()).kernel_map(k)
    assert k.acute
    layers = [conv(1), ntk.LayerNorm(), ntk.Residual(ntk.Serial(ntk.Relu(), conv(0)), scale=0.5), ntk.Relu(), conv(0)]
    for layer in layers[:2] + layers[3:] if pool else layers:
        both = [layer.kernel_map(k), layer.kernel_map(k.replace(acute=False, delta=k.delta))]
        for field in ("nngp", "ntk", "delta"):
            got, want = (np.abs(np.asarray(getattr(of, field))) for of in both)  # at ρ = 0, δ is 1 or −1
            assert_close(got, want, rtol=0, atol=20 * float(jnp.finfo(dtype).eps) * want.max())
        k = both[0]
        assert k.acute, layer
        assert float(k.delta.min()) >= 0
        assert float(k.delta.max()) <= 1


@pytest.mark.sweep
@pytest.mark.parametrize("activation", [ntk.Relu(), ntk.LeakyRelu(0.2), ntk.Abs()], ids=lambda a: a.name)
def test_near_duplicates_keep_their_digits(activation):
    x = normal(0, 30, 5, dtype=jnp.float32)
    pairs = jnp.concatenate([x, x + jnp.float32(1e-4) * normal(1, 30, 5, dtype=jnp.float32), x])
    small = net(activation, hidden=10)
    with jax.numpy_dtype_promotion("standard"):
        got = np.asarray(ntk.gram(small, pairs))
    want = np.asarray(ntk.gram(small, pairs.astype(jnp.float64)))
    assert got.dtype == np.float32
    assert_close(got, want, rtol=1e-6)
    near = np.diag(np.asarray(kernel(small, pairs.astype(jnp.float64)).ntk)[:30, 30:60])
    assert_close(np.diag(got[:30, 30:60]), near, rtol=1e-6)
    assert np.array_equal(got[:30, 60:], got[:30, :30])  # an exact copy is the input itself


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("faint", [1.0, 1e-3])
def test_neighbours_at_small_angles_are_right_in_float32(faint, seed):
    """Positive inputs with a mean, as images have; below 0.15 distances are taken by differences, before centring."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(24, 400)) ** 4
    x[12:] *= faint
    step = rng.normal(size=x.shape)
    step -= (np.sum(step * x, 1) / np.sum(x * x, 1))[:, None] * x
    step *= (np.linalg.norm(x, axis=1) / np.linalg.norm(step, axis=1))[:, None]
    small = ntk.mlp([400, 4, 4, 4, 1], w_std=2**0.5, rngs=RNGS)
    for angle in (1e-5, 0.1, 0.2, 0.3):
        pair = x.astype(np.float32), (x + angle * step).astype(np.float32)
        got = np.diag(np.asarray(ntk.gram(small, *pair)))
        want = np.diag(np.asarray(ntk.gram(small, *(a.astype(float) for a in pair))))
        assert np.abs(got / want - 1).max() < 9e-7


def test_deep_networks_are_right_in_float32():
    data = ntk.load("mnist5k").flat()
    x = data.x_train[:300]
    deep = ntk.mlp([784] + [8] * 20 + [1], w_std=2**0.5, b_std=0.1, rngs=RNGS)
    got = np.array(ntk.gram(deep, x))
    want = np.asarray(deep.kernel(jnp.asarray(x, jnp.float64)).ntk)  # layer by layer: equal layers share a program
    assert np.abs(got.diagonal() / want.diagonal() - 1).max() < 1e-6
    np.fill_diagonal(got, want.diagonal())
    assert_close(got, want, rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- tiles


def conv(*layers, padding: Any = "SAME"):
    return ntk.Serial(
        ntk.Conv(2, 3, 3, w_std=1.4, b_std=0.1, padding=padding, rngs=RNGS), ntk.Relu(), *layers
    )  # fmt: skip


def dense(n, m):
    return ntk.Dense(n, m, w_std=1.3, b_std=0.1, rngs=RNGS)


NETS = {
    "relu": net(),
    "deep": net(ntk.Relu(), hidden=6),
    "erf": net(ntk.Erf()),
    "tanh": net(ntk.Tanh(), hidden=1),
    "residual": ntk.Serial(
        dense(5, 4),
        *[ntk.Residual(ntk.Serial(ntk.LeakyRelu(0.1), dense(4, 4)), 0.5) for _ in range(4)],
        ntk.Gelu(), dense(4, 1),
    ),
    "norm": ntk.Serial(
        dense(5, 4), ntk.LayerNorm(1e-3), ntk.Abs(),
        ntk.Sum(dense(4, 2), ntk.Serial(dense(4, 4), ntk.Erf(), dense(4, 2))),
    ),
    "flatten": conv(ntk.Conv(3, 3, 3, w_std=1.4, padding="VALID", rngs=RNGS), ntk.Erf(), ntk.Flatten(), dense(12, 2)),
    "pools": conv(
        ntk.AvgPool(2), ntk.Conv(3, 3, 3, w_std=1.4, rngs=RNGS), ntk.Relu(), ntk.GlobalAvgPool(),
        dense(3, 3), ntk.Relu(), dense(3, 1), padding="CIRCULAR",
    ),
}  # fmt: skip


#: Tables and quadrature agree to 1e-10. Behind pooling 1 − |ρ| of pairs of pixels is a difference.
TOLERANCE = {"tanh": 1e-10, "pools": 3e-8}


@pytest.mark.sweep
@pytest.mark.parametrize("name", NETS)
def test_gram_is_the_kernel(name):
    images = name in ("flatten", "pools")
    x = normal(0, 11, 4, 4, 2) if images else normal(0, 11, 5).at[3].set(0.0)
    x2 = normal(1, 5, *x.shape[1:]).at[2].set(x[4])
    both = kernel(NETS[name], np.concatenate([x, x2]))
    ours, theirs = slice(len(x)), slice(len(x), None)
    got = ntk.gram(NETS[name], x, tile=4)  # 4 does not divide 11, nor 5
    assert_close(got, np.asarray(both.ntk)[ours, ours], rtol=TOLERANCE.get(name, 1e-12))
    assert np.array_equal(got, got.T)
    assert_close(
        ntk.gram(NETS[name], x, kernel="nngp", tile=4),
        np.asarray(both.nngp)[ours, ours],
        rtol=TOLERANCE.get(name, 1e-12),
    )
    got = ntk.gram(NETS[name], np.asarray(x), np.asarray(x2), tile=4)
    assert_close(got, np.asarray(both.ntk)[ours, theirs], rtol=TOLERANCE.get(name, 1e-12))


def test_double_precision_in_a_session_of_single():
    code = (
        "import jax, numpy as np, ntklib as ntk; from flax import nnx\n"
        "x = np.random.default_rng(0).normal(size=(50, 5)); net = ntk.mlp([5, 4, 1], w_std=1.4, rngs=nnx.Rngs(0))\n"
        "assert ntk.gram(net, x).dtype == np.float32\n"
        "with jax.enable_x64(True): k = ntk.gram(net, x, tile=16); want = net.kernel(x).ntk\n"
        "assert k.dtype == want.dtype == np.float64 and abs(np.asarray(k) - np.asarray(want)).max() < 1e-13\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_many_near_pairs_in_one_tile():
    # Two clusters, or the centre would be all that is large: more pairs than are picked one by one.
    x = jnp.repeat(normal(0, 2, 5), 12, axis=0) + 1e-6 * normal(1, 24, 5)
    small = net(hidden=2)
    assert_close(ntk.gram(small, x, tile=24), kernel(small, x).ntk, rtol=1e-13)


def test_vectors_of_512_bits_where_xla_has_the_option(monkeypatch):
    def lowered():
        return jax.jit(lambda x: x + 1).lower(1.0)

    lowered().compile(compiler_options=fused._OPTIONS)  # this version has it; of others nothing is asked:
    monkeypatch.setattr(fused, "_OPTIONS", {"xla_cpu_no_such_option": 512})
    fused.compiled.cache_clear()
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such"):
        lowered().compile(compiler_options=fused._OPTIONS)
    x = normal(0, 17, 5)
    assert_close(ntk.gram(net(), x, tile=13), net().kernel(x).ntk, rtol=1e-12)


def test_tiles_are_computed_again_where_pairs_are_near_and_only_there():
    """Neither an input and itself nor the zeros that fill up the last tile count as such."""
    x = normal(0, 11, 5)
    x2 = normal(1, 9, 5).at[5].set(x[5] + 1e-9)
    small = net(hidden=1)

    def again(*inputs):
        tiles = Tiles(small, *inputs, tile=4)
        asked, executable = [], tiles._executable

        def watched(device, careful=False):
            asked.extend([at] * careful)
            return executable(device, careful)

        tiles._executable = watched
        for at in tiles.pairs():
            tiles(*at)
        return asked

    assert again(x) == []
    assert again(x, x2) == [(1, 1)]
    assert again(jnp.concatenate([x, x[:1]])) == [(0, 2)]


def test_after_an_error_no_other_tile_is_begun():
    tiles = Tiles(net(hidden=1), normal(0, 40, 5), tile=4)
    begun = []

    def work(i, j, device):
        begun.append((i, j))
        if (i, j) == (0, 3):
            raise KeyboardInterrupt
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        tiles.each(lambda *at: lambda: work(*at), tiles.pairs())
    assert (0, 3) in begun
    assert len(begun) < len(tiles.pairs()) - 5


@pytest.mark.parametrize(
    ("room", "order"),
    [(2, ["begin 0", "begin 1", "end 0", "begin 2", "end 1", "end 2"]), (1, ["begin 0", "end 0", "begin 1", "end 1"])],
)
def test_a_tile_is_begun_before_the_last_is_finished_where_there_is_room_for_two(room, order):
    net_, x = net(hidden=1), normal(0, 4 * len(order) // 2, 5)
    tiles = Tiles(net_, x, x[:4], tile=4, max_memory=(room + 0.5) * Tiles(net_, x, tile=4)._workspace())
    assert (tiles.threads, tiles.at_hand) == (1, room)
    assert Tiles(net_, x, tile=4).threads == _cores(), "one for each core"
    events = []

    def work(i, j, device):
        events.append(f"begin {i}")
        return lambda: events.append(f"end {i}")

    tiles.each(work, tiles.pairs())
    assert events == order


def test_tiles_are_few_and_waste_little_on_padding():
    sizes = {n: Tiles(net(hidden=1), np.zeros((n, 5), np.float32)).tile for n in (200, 500, 5000, 5001, 5121)}
    assert sizes == {200: 256, 500: 256, 5000: 336, 5001: 336, 5121: 344}
    assert Tiles(net(hidden=1), np.zeros((5000, 5))).tile == 240


def test_inputs_on_a_device_are_one_array():
    """Blocks made by several threads would each be kept by the allocator for its thread: 20 MB a call at first."""
    x = np.asarray(normal(0, 90, 16))
    tiles = Tiles(ntk.mlp([16, 8, 1], w_std=1.4, rngs=RNGS), x, tile=16)
    blocks = [tiles._block(1, i, tiles.devices[0]) for i in range(6)]
    places = np.array([block.x.unsafe_buffer_pointer() for block in blocks])
    assert np.diff(places).tolist() == [16 * 16 * 8] * 5
    moved = np.concatenate([block.x for block in blocks])
    units = x / np.sqrt((x**2).mean(1, keepdims=True))
    assert_close(moved[:90], units - units.mean(0), rtol=1e-14)  # of the first 256
    assert_close(np.concatenate([block.q for block in blocks])[:90], (x**2).mean(1), rtol=1e-14)
    assert_close(np.concatenate([block.norms for block in blocks]), (moved**2).mean(1), rtol=1e-14)


@pytest.mark.parametrize(("d", "tile"), [(5, 64), (300, 32)])
def test_memory_for_near_pairs_is_counted(d, tile):
    tiles = Tiles(ntk.mlp([d, 4, 1], w_std=1.4, rngs=RNGS), np.asarray(normal(0, 2 * tile, d)), tile=tile)
    memory = tiles._executable(tiles.devices[0], careful=True).memory_analysis()
    used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + 2 * memory.output_size_in_bytes
    assert used <= tiles._workspace() < 3 * used


def test_repeated_layers_are_a_loop():
    x = normal(0, 4, 5)
    deep = net(hidden=12)
    start = Kernel.from_inputs(x)
    text = str(jax.make_jaxpr(lambda k: propagate(deep, k).ntk)(start))
    assert "length=11" in text
    assert_close(propagate(deep, start).ntk, deep.kernel_map(start).ntk, rtol=1e-13)


def test_memory_bound_makes_tiles_smaller_and_inputs_travel():
    x = np.asarray(normal(0, 600, 5))
    free = Tiles(NETS["relu"], x)
    result = 600 * 600 * 8
    bound = Tiles(NETS["relu"], x, max_memory=result + 300_000, reserved=result)
    assert free.memory > bound.memory - result
    assert bound.tile < free.tile
    assert bound.memory <= result + 300_000
    assert_close(ntk.gram(NETS["relu"], x, max_memory=result + 300_000), ntk.gram(NETS["relu"], x), rtol=1e-13)
    travelling = Tiles(NETS["relu"], x, tile=60, max_memory=free.memory)
    travelling._keeps_inputs = False
    assert np.array_equal(travelling(2, 5), Tiles(NETS["relu"], x, tile=60)(2, 5))


# ------------------------------------------------------------------------------------- stores, devices, processes


def run(*arguments, devices=1) -> Any:
    """The result of run_gram.py in a process of its own."""
    return finished(start(*arguments, devices=devices))


def start(*arguments, devices=1):
    """run_gram.py in a process of its own.

    The two settings of the C library return freed memory to the system at once. By default a process keeps some of it
    for later: between 5 and 30 MB in `memory`, from run to run.
    """
    env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "CI": "true"}
    env |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)], env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process, code=0) -> Any:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err[-3000:]
    return json.loads(out.splitlines()[-1]) if code == 0 else None


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_killed_and_gone_on_with_is_an_unbroken_run(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    killed = int(np.random.default_rng().integers(2, 60))
    finished(start("killed", broken, killed), code=9)
    partial = files(broken)
    resumed, unbroken = run("stores", broken, whole)
    assert resumed == unbroken
    assert 1 <= sum(path.parts[0] == "c" for path in partial) < len(files(whole)) - 2, killed
    assert files(broken) == files(whole), killed
    untouched = {path for path, content in partial.items() if files(broken).get(path) == content}
    assert untouched == {path for path in partial if "__lock" not in path.name}


def test_a_store_of_another_run_is_refused_and_left_alone(tmp_path):
    x, small = np.asarray(normal(0, 20, 5)), net(hidden=1)
    kept: Any = ntk.gram(small, x, store=tmp_path / "k", tile=8)
    before = files(tmp_path / "k")
    assert_close(np.asarray(kept), small.kernel(jnp.asarray(x)).ntk, rtol=1e-12)
    again: Any = ntk.gram(small, x, store=tmp_path / "k")
    assert np.array_equal(again[...].read().result(), np.asarray(kept))
    others: dict[str, tuple[Any, Any, Any]] = {
        "other inputs": (small, x + 1.0, {}),
        "another network": (net(hidden=1, w_std=1.4 + 1e-9), x, {}),
        "kernel = ntk, here nngp": (small, x, {"kernel": "nngp"}),
        "tile = 8, here 5": (small, x, {"tile": 5}),
        "dtype = float64, here float32": (small, x.astype(np.float32), {}),
        "shape = [20, 20], here [19, 19]": (small, x[:19], {}),
        "symmetric = True, here False": (small, x, {"x2": x}),
    }
    for words, (other, inputs, changes) in others.items():
        with pytest.raises(ValueError, match="belongs to another run") as error:
            ntk.gram(other, inputs, store=tmp_path / "k", **changes)
        assert words in str(error.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words")
    with pytest.raises(ValueError, match="holds something else"):
        ntk.gram(small, x, store=tmp_path / "mine")
    assert files(tmp_path / "k") == before
    assert list(files(tmp_path / "mine")) == [pathlib.Path("thesis.tex")]


def test_two_devices_and_two_processes_give_the_same_matrix(tmp_path):
    alone = run("mesh", tmp_path / "odd", devices=2)
    assert alone["equal"]
    assert alone["shards"] == [[0, 1000], [1000, 2000]]
    assert "must divide the 1999 rows" in alone["error"]
    pair = [start("process", i, alone["port"], tmp_path / "shared") for i in range(2)]
    outs = [finished(process) for process in pair]
    assert [out["rows"] for out in outs] == [[0, 1000], [1000, 2000]]
    assert [out["sum"] for out in outs] == alone["sums"]
    assert all(out["stored"] == sum(alone["sums"]) for out in outs)
    assert 0 < outs[0]["tiles"] < 21
    assert outs[0]["tiles"] + outs[1]["tiles"] == 6 * 7 / 2


def test_the_result_counts_in_the_type_it_has():
    """Float32 inputs with float64 ones: the result is float64, and half of its memory is not enough."""
    x = np.asarray(normal(0, 600, 5))
    result = 8 * 600 * 600
    with pytest.raises(ValueError, match="`max_memory`"):
        ntk.gram(net(), x.astype(np.float32), x, max_memory=0.9 * result)
    assert ntk.gram(net(), x.astype(np.float32), x, max_memory=3 * result).nbytes == result


@pytest.mark.parametrize("bound", [pytest.param(105_000_000, marks=pytest.mark.weekly), 2**27])
def test_peak_memory_stays_under_the_bound(bound):
    out = run("memory", bound)
    assert out["peak"] <= bound, out
    assert out["peak"] > 5e7, "the result alone is 100 MB: nothing was measured"
