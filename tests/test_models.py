"""Whatever model users bring: its empirical kernel is that of a dense Jacobian, or it is refused in words.

As users run it: float32, ordinary promotion.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import assert_close, compilations

import ntklib as ntk

METHODS: tuple[Any, ...] = ("layerwise", "jacobian", "products")
KEY = jax.random.key(7)


@pytest.fixture(autouse=True)
def as_users_run_it():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


VECTORS, IMAGES, SEQUENCES = data(4, 6), data(3, 6, 6, 4), data(3, 5, 6)
TOKENS = np.random.default_rng(0).integers(0, 7, (3, 5))
RAW = np.random.default_rng(0).integers(0, 256, (4, 6)).astype(np.uint8)


def rngs(seed=0):
    return nnx.Rngs(seed)


class Net(nnx.Module):
    """Some layers, a mean over all positions, a readout."""

    def __init__(self, *layers, width):
        self.layers, self.out = nnx.List(layers), nnx.Linear(width, 2, rngs=rngs(9))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)
        return self.out(jnp.tanh(x))


class Tied(nnx.Module):
    """One layer under two names."""

    def __init__(self):
        self.a = nnx.Linear(6, 6, rngs=rngs())
        self.b, self.out = self.a, nnx.Linear(6, 2, rngs=rngs(1))

    def __call__(self, x):
        return self.out(jnp.tanh(self.b(jnp.tanh(self.a(x)))))


class TiedEmbedding(nnx.Module):
    """The table that reads tokens writes them."""

    def __init__(self):
        self.table = nnx.Embed(7, 6, rngs=rngs())

    def __call__(self, x):
        return self.table.attend(jnp.tanh(self.table(x)).mean(1))


class Scanned(nnx.Module):
    """Three layers stacked in one, run by a loop."""

    def __init__(self):
        make = nnx.vmap(lambda r: nnx.Linear(6, 6, rngs=r), in_axes=(0,), out_axes=0)
        self.stack = nnx.split_rngs(splits=3)(make)(rngs())
        self.out = nnx.Linear(6, 2, rngs=rngs(1))

    def __call__(self, x):
        run = nnx.scan(lambda layer, x: jnp.tanh(layer(x)), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.out(run(self.stack, x))


class Checkpointed(nnx.Module):
    """A layer whose activations are computed again, in a dict."""

    def __init__(self):
        self.parts = nnx.Dict(a=nnx.Linear(6, 6, rngs=rngs()), b=nnx.Linear(6, 2, rngs=rngs(1)))

    def __call__(self, x):
        return self.parts["b"](nnx.remat(lambda layer, x: jnp.tanh(layer(x)))(self.parts["a"], x))


class Odds(nnx.Module):
    """A scalar, an empty, an unused parameter; state of bools, integers and keys; an array that is no variable."""

    def __init__(self):
        self.layer, self.unused = nnx.Linear(6, 2, rngs=rngs()), nnx.Linear(3, 2, rngs=rngs(1))
        self.scale, self.empty = nnx.Param(jnp.array(1.5)), nnx.Param(jnp.zeros((0, 3)))
        self.mask = nnx.Variable(jnp.arange(6) % 3 > 0)
        self.count, self.key = nnx.Variable(jnp.array(3)), nnx.Variable(jax.random.key(0))
        self.shift = jnp.linspace(-1, 1, 6)

    def __call__(self, x):
        noise = jax.random.normal(self.key[...], (6,))
        h = jnp.where(self.mask[...], x, 0.0) + self.shift + noise
        return self.scale[...] * jnp.sin(self.layer(h)) * self.count[...]


class Writes(nnx.Module):
    """Counts its calls, draws from its keys, stores what it saw."""

    def __init__(self):
        self.layer, self.rngs = nnx.Linear(6, 2, rngs=rngs()), rngs(3)
        self.calls, self.seen = nnx.Variable(jnp.array(0)), nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] = self.calls[...] + 1
        y = self.layer(x) + jax.random.normal(self.rngs.noise(), (2,))
        self.seen[...] = y.sum()
        return jnp.tanh(y) * self.calls[...]


class Attention(nnx.Module):
    """With positions to learn, a norm of queries and keys, and a weight of three axes."""

    def __init__(self):
        self.position = nnx.Param(jax.random.normal(KEY, (5, 6)))
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, normalize_qk=True, rngs=rngs())
        self.out = nnx.Param(jax.random.normal(KEY, (5, 6, 2)))

    def __call__(self, x):
        return jnp.einsum("ntd,tdk->nk", self.attention(x + self.position[...]), self.out[...])


def printing(p, x):
    """Operations without a result, a matrix solved with, an eigenvalue, a maximum, a loop of a known length."""
    jax.debug.callback(lambda _: None, x @ p["w"])
    h = jnp.linalg.solve(p["w"] @ p["w"].T + jnp.eye(6), jnp.tanh(x @ p["w"]).T).T
    h = jax.lax.fori_loop(0, 3, lambda _, h: jnp.sin(h @ p["loop"]), h)
    return jax.lax.top_k(h, 2)[0] * jnp.linalg.eigvalsh(p["loop"] + p["loop"].T)[0]


class Bilinear(nnx.Module):
    """A product with the data on both sides of the weight, chosen by the data."""

    def __init__(self):
        self.weight, self.gate = nnx.Param(jax.random.normal(KEY, (3, 6, 6, 2))), nnx.Linear(6, 3, rngs=rngs())

    def __call__(self, x):
        y = jnp.einsum("ni,eijk,nj,ne->nk", x, self.weight[...], x, jax.nn.softmax(self.gate(x)))
        return jax.vmap(lambda x, y: jax.lax.cond(x[0] > 0, jnp.sin, jnp.tanh, y))(x, y)


class LinenNet(linen.Module):
    """With running averages, and one weight used twice."""

    @linen.compact
    def __call__(self, x):
        shared = linen.Dense(6)
        x = linen.BatchNorm(use_running_average=True)(shared(jnp.tanh(shared(x))))
        return linen.DenseGeneral((2, 3), use_bias=False)(jnp.tanh(x))[:, :, 0]


def linen_net():
    variables = LinenNet().init(KEY, VECTORS)
    stats = jax.tree.map(lambda a: a + 0.5, variables["batch_stats"])
    return LinenNet(), {**variables, "batch_stats": stats}


def half(dtype):
    """A model with parameters of half precision."""
    net = nnx.Sequential(nnx.Linear(6, 5, param_dtype=dtype, rngs=rngs()), jnp.tanh, nnx.Linear(5, 2, rngs=rngs(1)))
    nnx.update(net, jax.tree.map(lambda a: a.astype(dtype), nnx.state(net, nnx.Param)))
    return net


def recurrent(cell, width):
    return lambda: Net(nnx.RNN(cell(6, 4, rngs=rngs())), width=width)


def ours(b_std=0.3):
    return ntk.mlp([6, 8, 2], w_std=1.4, b_std=b_std, rngs=rngs())


def layer(make, width, *rest):
    return lambda: Net(make(), *rest, width=width)


ODD: dict[str, tuple[Any, Any]] = {
    "convolution in groups": (layer(lambda: nnx.Conv(4, 4, (3, 3), feature_group_count=2, rngs=rngs()), 4), IMAGES),
    "depthwise": (layer(lambda: nnx.Conv(4, 8, (3, 3), feature_group_count=4, rngs=rngs()), 8), IMAGES),
    "transposed": (layer(lambda: nnx.ConvTranspose(4, 3, (3, 3), strides=(2, 2), rngs=rngs()), 3), IMAGES),
    "circular, dilated": (
        layer(lambda: nnx.Conv(4, 3, (3, 3), padding="CIRCULAR", kernel_dilation=2, rngs=rngs()), 3),
        IMAGES,
    ),
    "causal": (layer(lambda: nnx.Conv(6, 3, 3, padding="CAUSAL", rngs=rngs()), 3), SEQUENCES),
    "masked weights": (
        layer(lambda: nnx.Conv(4, 3, (3, 3), mask=jnp.ones((3, 3, 4, 3)).at[0].set(0), rngs=rngs()), 3),
        IMAGES,
    ),
    "embedding": (layer(lambda: nnx.Embed(7, 6, rngs=rngs()), 6), TOKENS),
    "LoRA": (layer(lambda: nnx.LoRALinear(6, 4, lora_rank=2, rngs=rngs()), 4), VECTORS),
    "GroupNorm": (layer(lambda: nnx.GroupNorm(6, num_groups=2, rngs=rngs()), 6), VECTORS),
    "RMSNorm": (layer(lambda: nnx.RMSNorm(6, rngs=rngs()), 6), VECTORS),
    "BatchNorm, Dropout": (
        layer(lambda: nnx.BatchNorm(6, rngs=rngs()), 6, nnx.Dropout(0.5, rngs=rngs())),
        VECTORS,
    ),
    "weight norm": (layer(lambda: nnx.WeightNorm(nnx.Linear(6, 4, rngs=rngs()), rngs=rngs()), 4), VECTORS),
    "einsum": (layer(lambda: nnx.Einsum("ntd,dhe->nthe", (6, 2, 3), (2, 3), rngs=rngs()), 3), SEQUENCES),
    "several axes": (layer(lambda: nnx.LinearGeneral((5, 6), (2, 3), axis=(-2, -1), rngs=rngs()), 3), SEQUENCES),
    "PReLU": (layer(nnx.PReLU, 6), VECTORS),
    "LSTM": (recurrent(nnx.OptimizedLSTMCell, 4), SEQUENCES),
    "GRU": (recurrent(nnx.GRUCell, 4), SEQUENCES),
    "tied": (Tied, VECTORS),
    "tied embedding": (TiedEmbedding, TOKENS),
    "scanned": (Scanned, VECTORS),
    "checkpointed": (Checkpointed, VECTORS),
    "odds and ends": (Odds, VECTORS),
    "writes": (Writes, VECTORS),
    "attention": (Attention, SEQUENCES),
    "bilinear": (Bilinear, VECTORS),
    "linen": (linen_net, VECTORS),
    "no ordinary layers": (lambda: (printing, {"w": data(6, 6), "loop": data(6, 6, seed=1)}), VECTORS),
    "complex inputs": (lambda: (lambda w, x: jnp.abs(x @ w) ** 2, data(6, 2)), VECTORS + 1j * VECTORS[::-1]),
    "a tree of lists and None": (
        lambda: (
            lambda p, x: jnp.tanh(x @ p[0]["a"]) @ p[1] * p[3],
            [{"a": data(6, 3), "b": None}, data(3, 2), {}, 2.0],
        ),
        VECTORS,
    ),
    "an output without parameters": (
        lambda: (lambda w, x: jnp.stack([x @ w, x[:, 0]], axis=1), data(6)),
        VECTORS,
    ),
    "bytes into linen": (lambda: (linen.Dense(2), linen.Dense(2).init(KEY, VECTORS)), RAW),
    "bytes": (ours, RAW),
    "bools": (ours, RAW > 100),
    "integers": (lambda: ours(0.0), RAW.astype(np.int32) - 100),
    "bytes into a convolution": (layer(lambda: nnx.Conv(4, 3, (3, 3), rngs=rngs()), 3), (IMAGES * 50).astype(np.uint8)),
    "constants and bytes": (
        lambda: (lambda p, x: jnp.tanh(x @ (p["w"] / 300.0)) @ (0.1 * p["v"]), {"w": data(6, 5), "v": data(5, 2)}),
        RAW,
    ),
    "rounded weights": (
        lambda: (
            lambda p, x: jnp.tanh(x @ (9 * p["w"]).astype(jnp.int32).astype(jnp.float32) + x @ p["v"]),
            {"w": data(6, 2), "v": data(6, 2, seed=1)},
        ),
        VECTORS,
    ),
    "float16 inputs": (ours, VECTORS.astype(np.float16)),
    "bfloat16 parameters": (lambda: half(jnp.bfloat16), VECTORS),
    "float16 throughout": (lambda: half(jnp.float16), VECTORS.astype(np.float16)),
    "numbers as parameters": (
        lambda: (lambda p, x: jnp.tanh(p[0] * x[:, :2]) + p[1]["none"][0], [1.5, {"none": (np.ones(2), None)}]),
        VECTORS,
    ),
    "complex parameters": (
        lambda: (
            lambda p, x: jnp.abs(x @ p["w"]) ** 2 @ p["v"].real,
            {"w": data(6, 5) + 1j * data(6, 5, seed=1), "v": data(5, 2) + 0j},
        ),
        VECTORS,
    ),
}


@functools.cache
def dense_resnet():
    return dense(ResNet(1), IMAGES)


def dense(model, x):
    """The full kernel from the Jacobian by all real numbers among the parameters."""
    apply_fn, params = ntk.functional(model)
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    wide = [a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in leaves]
    parts = [(a.real, a.imag) if jnp.iscomplexobj(a) else (a,) for a in wide]

    def f(parts):
        whole = [jax.lax.complex(*part) if len(part) == 2 else part[0] for part in parts]
        x32 = x.astype(np.float32) if x.dtype == np.float16 else x
        return apply_fn(jax.tree.unflatten(tree, whole), jnp.asarray(x32))

    jacobian = [np.asarray(j, np.float64) for j in jax.tree.leaves(jax.jit(jax.jacrev(f))(parts))]
    flat = np.concatenate([j.reshape(*j.shape[:2], -1) for j in jacobian], axis=-1)
    return np.einsum("ikp,jlp->ijkl", flat, flat)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore:.*sow.*")
def test_kernel_of_an_odd_model_is_that_of_its_jacobian(name):
    make, x = ODD[name]
    model, want = make(), dense(make(), x)
    for method in METHODS:
        got = ntk.empirical_ntk(model, x, outputs="full", method=method)
        assert got.dtype == jnp.float32
        assert_close(got, want, rtol=1e-5)


# --------------------------------------------------------------------------------------------------- state of modules


def snapshot(module):
    """All numbers in a module, keys included."""

    def known(a):
        return np.asarray(jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a)

    return jax.tree.map(known, nnx.to_pure_dict(nnx.split(module)[1]))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "writes", "BatchNorm, Dropout", "odds and ends"])
def test_a_module_is_left_as_it_is_and_calls_agree(name):
    make, x = ODD[name]
    module = make()
    module.train()
    before, attributes = snapshot(module), str(nnx.split(module)[0])
    apply_fn, params = ntk.functional(module)
    first = apply_fn(params, jnp.asarray(x))
    assert_close(apply_fn(params, jnp.asarray(x)), first, rtol=0.0)
    assert_close(jax.jit(apply_fn)(params, x), first, rtol=1e-6)
    ntk.empirical_ntk(module, x)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, snapshot(module)))
    assert str(nnx.split(module)[0]) == attributes


class Residual(nnx.Module):
    """A block of a ResNet, with BatchNorm: 3×3 twice, the identity beside them thinned and widened by zeros."""

    def __init__(self, before, after, r):
        self.stride, self.more = (2 if after > before else 1), after - before
        self.first = nnx.Conv(before, after, (3, 3), strides=self.stride, use_bias=False, rngs=r)
        self.second = nnx.Conv(after, after, (3, 3), use_bias=False, rngs=r)
        self.norms = nnx.List([nnx.BatchNorm(after, rngs=r) for _ in range(2)])

    def __call__(self, x):
        h = self.norms[1](self.second(nnx.relu(self.norms[0](self.first(x)))))
        same = jnp.pad(x[:, :: self.stride, :: self.stride], [(0, 0)] * 3 + [(0, self.more)])
        return nnx.relu(same + h)


class ResNet(nnx.Module):
    """With `blocks` of each of the widths: three of three are ResNet-20 (He et al. 2016a, §4.2), here a narrow one."""

    def __init__(self, seed, blocks=1, widths=(4, 8)):
        r, width = rngs(seed), widths[0]
        self.first, self.norm = nnx.Conv(4, width, (3, 3), use_bias=False, rngs=r), nnx.BatchNorm(width, rngs=r)
        sizes = [width, *(w for w in widths for _ in range(blocks))]
        self.blocks = nnx.List([Residual(a, b, r) for a, b in itertools.pairwise(sizes)])
        self.out = nnx.Linear(widths[-1], 2, rngs=r)
        for _, node in nnx.iter_graph(self):
            if isinstance(node, nnx.BatchNorm):
                node.mean[...], node.var[...] = node.mean[...] + 0.1 * seed, node.var[...] + 0.1 * seed

    def __call__(self, x):
        h = nnx.relu(self.norm(self.first(x)))
        for block in self.blocks:
            h = block(h)
        return self.out(h.mean((1, 2)))


@pytest.mark.weekly  # a narrower relative of it is the next test
def test_a_resnet_20_is_compiled_once():
    """And then serves other weights, other running statistics, another object: nothing is compiled for these."""
    counts, kernels = [], []
    for seed in (0, 0, 1):
        module = ResNet(seed, blocks=3, widths=(4, 8, 16))
        before = snapshot(module)
        with compilations() as compiled:
            kernels.append(ntk.empirical_ntk(module, IMAGES))
        counts.append(len(compiled))
        assert jax.tree.all(jax.tree.map(np.array_equal, before, snapshot(module)))
    assert counts[0] > 0
    assert counts[1:] == [0, 0]
    assert_close(kernels[1], kernels[0], rtol=0.0)
    assert float(jnp.abs(kernels[2] - kernels[0]).max()) > 0.01, "the numbers of the first"


@pytest.mark.parametrize("outputs", ["mean", "full"])
def test_modules_with_state_compile_once_for_their_architecture(outputs):
    """And the state is not that of the first: running averages differ."""
    kernels = []
    for seed in (0, 0, 1):
        module = ResNet(seed)
        with compilations() as compiled:
            kernels.append(ntk.empirical_ntk(module, IMAGES, outputs=outputs))
        assert (len(compiled) == 0) == (len(kernels) > 1)
    want = dense_resnet()
    assert_close(kernels[2], want if outputs == "full" else np.einsum("ijkk->ij", want) / 2, rtol=1e-5)


def test_functions_made_of_functions_compile_once_for_their_architecture():
    for make in (
        ntk.center,
        lambda net: ntk.scale_output(net, 3.0),
        lambda net: (ntk.linearize(net), ntk.functional(net)[1]),
    ):
        counts = []
        for seed in (0, 1):
            model = make(ntk.mlp([6, 4, 2], w_std=1.0, rngs=rngs(seed)))
            with compilations() as compiled:
                ntk.empirical_ntk(model, VECTORS)
            counts.append(len(compiled))
        assert counts[1] == 0 < counts[0]


def test_functions_of_modules_are_equal_only_with_equal_state():
    one, same, other = (ntk.functional(module)[0] for module in (ResNet(0), ResNet(0), ResNet(1)))
    assert one != same, "other arrays: what was compiled with those of one does not serve the other"
    assert jax.tree.structure(one) == jax.tree.structure(same) == jax.tree.structure(other)
    assert one == jax.tree.map(lambda leaf: leaf, one)


# ----------------------------------------------------------------------------------------- examples that see each other


class InTrainingMode(nnx.Module):
    """Batch statistics asked for in the call."""

    def __init__(self):
        self.norm, self.out = nnx.BatchNorm(6, rngs=rngs()), nnx.Linear(6, 2, rngs=rngs())

    def __call__(self, x):
        return self.out(self.norm(x, use_running_average=False))


class Dropping(InTrainingMode):
    """A mask asked for in the call."""

    def __init__(self):
        self.drop, self.out = nnx.Dropout(0.5, rngs=rngs()), nnx.Linear(6, 2, rngs=rngs())

    def __call__(self, x):
        return self.out(self.drop(x, deterministic=False))


class Cached(nnx.Module):
    """Attention to what was seen before, one token at a time."""

    def __init__(self, examples=1):
        self.examples = examples
        self.attention, self.out = nnx.MultiHeadAttention(2, 6, decode=True, rngs=rngs()), nnx.Linear(6, 2, rngs=rngs())
        self.attention.init_cache((self.examples, 5, 6))

    def __call__(self, x):
        return self.out(self.attention(x)[:, 0])


W = data(6, 2)
#: name: (model, inputs, words of the message)
SEEING: dict[str, tuple[Any, Any, str]] = {
    "batch statistics": (lambda: (lambda w, x: (x - x.mean(0)) / x.std(0) @ w, W), VECTORS, "Batch statistics"),
    "of an nnx module": (InTrainingMode, VECTORS, "use_running_average"),
    "dropout": (Dropping, VECTORS, "deterministic"),
    "a cache": (Cached, SEQUENCES[:, :1], "any number of examples; it takes one"),
    "a cache of a batch": (lambda: Cached(3), SEQUENCES[:, :1], "any number of examples; it takes 3"),
    "the first of all": (lambda: (lambda w, x: (x - x[:1]) @ w, W), VECTORS, "each example by itself"),
    "place in the batch": (lambda: (lambda w, x: x @ w * jnp.arange(1, len(x) + 1)[:, None], W), VECTORS, "by itself"),
    "number of examples": (lambda: (lambda w, x: x @ w / len(x), W), VECTORS, "by itself"),
    "others, not the next": (
        lambda: (lambda w, x: (x - x.mean(0)) @ w, W),
        np.concatenate([VECTORS[:1]] * 9 + [VECTORS[1:2]]),
        "by itself",
    ),
    "others, one set of one": (lambda: (lambda w, x: (x - x.mean(0)) @ w, W), VECTORS[:1], "by itself"),
    "behind weights of zero": (
        lambda: (lambda p, x: jnp.tanh((x - x.mean(0)) @ p["w"]) @ p["v"], {"w": W, "v": jnp.zeros((2, 3))}),
        VECTORS,
        "by itself",
    ),
    "tokens": (
        lambda: (lambda e, x: jnp.tanh(e[x].mean(1)) - e[x].mean((0, 1)), data(7, 2)),
        TOKENS,
        "by itself",
    ),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", SEEING)
def test_examples_that_see_each_other_are_refused(name):
    make, x, words = SEEING[name]
    others = (VECTORS[1:],) if name.endswith("one set of one") else ()
    calls = [lambda model: ntk.empirical_ntk(model, x, *others), lambda model: ntk.empirical_nngp(model, x, *others)]
    for call in calls:
        with pytest.raises(ValueError, match=words):
            call(make())


def test_rounding_is_not_taken_for_a_dependence():
    """A chaotic network of 60 layers has no digits left in float32, nor one that computes in bfloat16 after three."""
    deep = [nnx.Linear(40, 40, kernel_init=nnx.initializers.normal(0.6), rngs=rngs(i)) for i in range(60)]
    chaotic = nnx.Sequential(*[f for linear in deep for f in (linear, jnp.tanh)], nnx.Linear(40, 2, rngs=rngs()))
    ntk.empirical_ntk(chaotic, data(4, 40), method="jacobian")
    half = [nnx.Linear(6, 6, dtype=jnp.bfloat16, rngs=rngs(i)) for i in range(3)]
    rough = nnx.Sequential(*[f for linear in half for f in (linear, jnp.tanh)], nnx.Linear(6, 2, rngs=rngs()))
    assert_close(ntk.empirical_ntk(rough, VECTORS, outputs="full"), dense(rough, VECTORS), rtol=0.03)


# ------------------------------------------------------------------------------------------------------------- numbers


def test_complex_parameters_count_as_two_real_ones():
    """Θ = Re(J Jᴴ) with JAX's gradients of real outputs; of a holomorphic f, J Jᴴ from its real and imaginary parts."""
    params = {"w": data(6, 5) + 1j * data(6, 5, seed=1), "v": data(5, 2, seed=2) - 1j * data(5, 2, seed=3)}
    f = lambda p, x: jnp.sinh(x @ p["w"]) @ p["v"]  # noqa: E731
    log = lambda p, x: jnp.log(jnp.abs(f(p, x)))  # noqa: E731
    x = 0.3 * VECTORS
    gradients = jax.jit(jax.vmap(lambda k: jax.vmap(lambda x: jax.grad(lambda p: log(p, x[None])[0, k])(params))(x)))
    g = np.concatenate([np.asarray(a).reshape(2, 4, -1) for a in jax.tree.leaves(gradients(jnp.arange(2)))], -1)
    want = np.einsum("kip,ljp->ijkl", g, g.conj()).real
    for method in METHODS:
        assert_close(ntk.empirical_ntk((log, params), x, outputs="full", method=method), want, rtol=1e-5)

    both = lambda p, x: jnp.concatenate([f(p, x).real, f(p, x).imag], axis=-1)  # noqa: E731
    theta = np.asarray(ntk.empirical_ntk((both, params), x, outputs="full"))
    rr, ri, ir, ii = (theta[:, :, a : a + 2, b : b + 2] for a in (0, 2) for b in (0, 2))
    jacobian = jax.jit(jax.jacrev(f, holomorphic=True))(params, x.astype(complex))
    j = np.concatenate([np.asarray(a).reshape(4, 2, -1) for a in jax.tree.leaves(jacobian)], -1)
    assert_close(0.5 * (rr + ii + 1j * (ir - ri)), np.einsum("ikp,jlp->ijkl", j, j.conj()), rtol=1e-5)


def test_a_kernel_without_derivative_is_refused_and_says_where():
    norm = (lambda w, x: jnp.linalg.norm(x * w, axis=-1, keepdims=True), jnp.ones(6))
    x = VECTORS.copy()
    x[2] = 0.0
    with pytest.raises(FloatingPointError, match="kernel of inputs 0 and 2"):
        ntk.empirical_ntk(norm, x)
    with pytest.raises(FloatingPointError, match="no derivative"):
        ntk.ntk_vector_product(norm, x, None, np.ones(4))


@pytest.mark.parametrize("method", METHODS)
def test_a_product_of_derivatives_that_overflows_is_refused(method):
    """Each derivative is finite, and so are the first row and the first column of the kernel."""
    linear, x = (lambda w, x: x @ w, jnp.ones((1, 1))), np.array([[1.0], [1e25], [2.0]], np.float32)
    for others in ((), (x,)):
        with pytest.raises(FloatingPointError, match=r"kernel of inputs 1 and 1 .* of their products"):
            ntk.empirical_ntk(linear, x, *others, method=method)


def test_parameters_that_do_not_matter_have_a_kernel_of_zero():
    for outputs, shape in (("mean", (4, 4)), ("full", (4, 4, 2, 2))):
        for method in METHODS:
            got = ntk.empirical_ntk((lambda p, x: x[:, :2], W), VECTORS, outputs=outputs, method=method)  # pyrefly: ignore
            assert (np.asarray(got) == np.zeros(shape)).all()


def test_a_cache_for_one_example_serves_one():
    x = SEQUENCES[:1, :1]
    assert_close(ntk.empirical_ntk(Cached(), x, outputs="full"), dense(Cached(), x), rtol=1e-5)


def test_inputs_of_two_precisions_go_together():
    net = ours()
    with jax.enable_x64(True):
        mixed = ntk.empirical_ntk(net, VECTORS, VECTORS.astype(np.float64))
    assert_close(mixed, ntk.empirical_ntk(net, VECTORS, VECTORS.copy()), rtol=1e-5)


def test_nngp_of_bytes_and_of_half_precision_is_that_of_their_values():
    for net in (ours(), ntk.Serial(ntk.Dense(6, 2, w_std=1.0, rngs=rngs())), nnx.Linear(6, 2, rngs=rngs())):
        assert_close(ntk.empirical_nngp(net, RAW), ntk.empirical_nngp(net, RAW.astype(np.float32)), rtol=1e-6)
        small = VECTORS.astype(np.float16)
        assert_close(ntk.empirical_nngp(net, small), ntk.empirical_nngp(net, small.astype(np.float32)), rtol=1e-6)


# ------------------------------------------------------------------------------------------- products with the kernel


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["tied", "BatchNorm, Dropout", "embedding", "complex parameters", "LSTM"])
def test_product_with_a_vector_is_that_with_the_kernel(name):
    make, x = ODD[name]
    model, x2 = make(), x[:2]
    full = ntk.empirical_ntk(model, x, x2, outputs="full")
    v = data(2, full.shape[-1])
    assert_close(ntk.ntk_vector_product(model, x, x2, v), np.einsum("ijkl,jl->ik", full, v), rtol=1e-5)
    mean = ntk.empirical_ntk(model, x, x2)
    assert_close(ntk.ntk_vector_product(model, x, x2, v[:, 0]), mean @ v[:, 0], rtol=1e-5)
    w = data(len(x))
    assert_close(ntk.ntk_vector_product(model, x, None, w), ntk.empirical_ntk(model, x) @ w, rtol=1e-5)


def test_products_compile_once_and_work_inside_jit_and_vmap():
    counts = []
    for seed in (0, 1):
        module, v = ResNet(seed), data(3, 2)
        with compilations() as compiled:
            ntk.ntk_vector_product(module, IMAGES, None, v)
        counts.append(len(compiled))
    assert counts[1] == 0 < counts[0]
    net, many = ours(), data(3, 4, 2)
    product = jax.jit(jax.vmap(lambda v: ntk.ntk_vector_product(net, VECTORS, None, v)))
    for got, v in zip(product(many), many, strict=True):
        assert_close(got, ntk.ntk_vector_product(net, VECTORS, None, v), rtol=1e-6)


def test_functions_without_forward_derivatives_have_a_kernel_but_no_products():
    sin = jax.custom_vjp(jnp.sin)
    sin.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
    model = (lambda w, x: sin(jax.vmap(lambda x: jax.lax.cond(x[0] > 0, sin, jnp.tanh, x))(x) @ w), W)
    for method in ("auto", "layerwise", "jacobian"):
        got = ntk.empirical_ntk(model, VECTORS, outputs="full", method=method)  # pyrefly: ignore
        assert_close(got, dense(model, VECTORS), rtol=1e-5)
    for call in (
        lambda: ntk.empirical_ntk(model, VECTORS, method="products"),
        lambda: ntk.ntk_vector_product(model, VECTORS, None, np.ones(4)),
    ):
        with pytest.raises(TypeError, match="custom_vjp"):
            call()
