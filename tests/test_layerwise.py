"""The empirical NTK by layers: which parameters belong to one, the same numbers as from dense Jacobians, and memory."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import assert_close, compilations, normal

import ntklib as ntk
from ntklib.empirical import affine, blocks, methods
from ntklib.empirical import cost as costs
from ntklib.empirical import program as programs
from ntklib.empirical.pure import pure

F64 = {"param_dtype": jnp.float64, "dtype": jnp.float64}


def doubled(net):
    apply_fn, params = ntk.functional(net)
    return apply_fn, jax.tree.map(lambda a: a.astype(jnp.float64), params)


def parameterizations():
    records = (ntk.NTK, ntk.STANDARD, ntk.MEAN_FIELD, ntk.MUP)
    roles: Any = ("input", "hidden", "hidden", "output")
    sizes = ((3, 5), (5, 4), (4, 5), (5, 2))
    layers = []
    for record, role, size in zip(records, roles, sizes, strict=True):
        layers += [
            ntk.Dense(*size, w_std=1.3, b_std=0.4, parameterization=record, role=role, rngs=nnx.Rngs(0)),
            ntk.Erf(),
        ]
    return doubled(ntk.Serial(*layers[:-1]))


def convolutions():
    rest = {"w_std": 1.4, "b_std": 0.3, "rngs": nnx.Rngs(0)}
    branch = ntk.Serial(ntk.Gelu(), ntk.Conv(4, 4, 3, padding="CIRCULAR", **rest))
    return doubled(
        ntk.Serial(
            ntk.Conv(2, 3, (3, 2), strides=(2, 1), padding="VALID", **rest),
            ntk.Tanh(),
            ntk.Conv(3, 4, 3, strides=2, padding="SAME", **rest),  # by 1 on both sides above, on one only across
            ntk.Residual(branch, scale=0.7),
            ntk.AvgPool(2, strides=1),
            ntk.Flatten(),
            ntk.Dense(8, 2, **rest),
        )
    )


class Zoo(nnx.Module):
    """Dilation, groups, a norm with its scale, a pointwise layer at several positions, a layer that no nonlinearity
    follows.
    """

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.dilated = nnx.Conv(2, 4, (2, 2), kernel_dilation=2, rngs=rngs, **F64)
        self.grouped = nnx.Conv(4, 4, (3, 3), feature_group_count=2, strides=2, rngs=rngs, **F64)
        self.norm = nnx.LayerNorm(4, rngs=rngs, **F64)
        self.pointwise = nnx.Linear(4, 3, rngs=rngs, **F64)
        self.linear = nnx.Linear(12, 4, rngs=rngs, **F64)
        self.readout = nnx.Linear(4, 2, rngs=rngs, **F64)

    def __call__(self, x):
        with jax.numpy_dtype_promotion("standard"):
            x = self.norm(self.grouped(nnx.tanh(self.dilated(x))))
        return self.readout(self.linear(nnx.softplus(self.pointwise(x)).reshape(x.shape[0], -1)))


class Tokens(nnx.Module):
    """A table of embeddings, a layer used twice, attention, a weight inside a loop."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.table = nnx.Embed(5, 4, rngs=rngs, **F64)
        self.heads = nnx.Param(normal(8, 3, 4, 2, 2))  # queries, keys and values are slices of one parameter
        self.merge = nnx.Param(normal(7, 2, 2, 4))
        self.shared = nnx.Linear(4, 4, rngs=rngs, **F64)
        self.loop = nnx.Param(normal(9, 4, 4))
        self.readout = nnx.Linear(4, 2, use_bias=False, rngs=rngs, **F64)

    def __call__(self, x):
        q, k, v = (jnp.einsum("ntd,dhe->nthe", self.table(x), w) for w in self.heads[...])
        attention = jax.nn.softmax(jnp.einsum("nthe,nshe->nhts", q, k))
        h = jnp.einsum("nhts,nshe,hed->ntd", attention, v, self.merge[...])
        h = nnx.tanh(self.shared(nnx.tanh(self.shared(h))))
        step = lambda state, token: (jnp.tanh(state @ self.loop[...] + token), None)  # noqa: E731
        state, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], 4), h.dtype), h.swapaxes(0, 1))
        return self.readout(state)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.tanh(linen.Dense(8, **F64)(x))  # at both positions
        return linen.Dense(3, use_bias=False, **F64)(x.reshape(x.shape[0], -1))


def linen_pair():
    net = Linen()
    return net, net.init(jax.random.key(0), normal(0, 1, 2, 16))


@jax.custom_jvp
def half(w):
    return 0.5 * w


half.defjvp(lambda primals, tangents: (half(*primals), 0.5 * tangents[0]))


def disguised(p, x):
    """Weights that are weights for all that is done to them."""
    h = jnp.tanh(x @ (2 * p["transposed"]).T / 3 + 0.1 * p["offset"][None])
    h = jnp.sin((-p["left"] @ h.T).T * np.float64(1.5) + jnp.broadcast_to(p["shift"], (x.shape[0], 4)))
    h = jax.checkpoint(lambda w, h: h @ w.reshape(4, 5))(p["flat"] * jnp.sqrt(jnp.float64(2.0)), h)
    return jnp.einsum("ni,koi->nok", h**2, p["three"] / 2).reshape(x.shape[0], -1)


def impostors(p, x):
    """Parameters that look like an affine layer's and are not."""
    h = jnp.tanh(x @ p["tied"])
    h = h @ p["tied"].T + x @ (p["masked"] * jnp.triu(jnp.ones((3, 3))))
    h = jnp.where(h > 0, h, jax.lax.cond(p["gain"][0, 0] > 0, lambda w: h @ w, lambda w: h @ w.T, p["branch"]))
    h = h * p["gain"] + h @ half(p["custom"]) + h @ (p["one"] @ p["two"])
    z = h @ p["seen"]
    z = jnp.sin(z) + (z + p["late"])  # the bias comes after a use of the layer's output
    one_for_all = h[:, :2] @ p["weight"] + p["partly"]
    return z[:, :2] + one_for_all + 0.0 * p["seen_too"].sum()


IMPOSTORS = {
    name: normal(i, 3, 3) for i, name in enumerate(("tied", "masked", "branch", "custom", "one", "two", "seen"))
}
IMPOSTORS |= {"partly": normal(7, 1, 1), "gain": normal(8, 1, 3), "late": normal(9, 1, 3), "weight": normal(10, 2, 2)}
IMPOSTORS |= {"unused": normal(11, 3), "seen_too": normal(12, 2)}

DISGUISED = {"transposed": normal(1, 4, 3), "offset": normal(2, 4), "left": normal(3, 4, 4), "shift": normal(4, 4)}
DISGUISED |= {"flat": normal(5, 20), "three": normal(6, 2, 2, 5)}

# name: (model, inputs, layers, how many of them have a bias, leaves that are handled by their Jacobians)
CASES: dict[str, Any] = {
    "mlp": (parameterizations, (3,), 4, 4, set()),
    "convolutions": (convolutions, (7, 7, 2), 4, 4, set()),
    "zoo": (Zoo, (4, 4, 2), 4, 4, {"grouped.kernel", "grouped.bias", "norm.scale", "norm.bias"}),
    "tokens": (Tokens, None, 2, 0, {"table.embedding", "heads", "shared.kernel", "shared.bias", "loop"}),
    "linen": (linen_pair, (2, 16), 2, 1, set()),
    "disguised": (lambda: (disguised, DISGUISED), (3,), 4, 1, {"shift"}),  # added behind a transpose
    "impostors": (
        lambda: (impostors, IMPOSTORS),
        (3,),
        2,
        0,
        {"tied", "partly", "masked", "branch", "gain", "custom", "one", "two", "late", "seen_too"},
    ),
}


def inputs(shape, n, seed):
    return jax.random.randint(jax.random.key(seed), (n, 3), 0, 5) if shape is None else normal(seed, n, *shape)


@functools.cache
def case(name):
    """A model, four inputs, and their full kernel from a dense Jacobian. Tests take two at a time: one compilation."""
    make, shape, *_ = CASES[name]
    apply_fn, params = ntk.functional(make())
    x = inputs(shape, 4, 1)
    jacobian = jax.jit(jax.jacobian(apply_fn))(params, x)
    flat = np.concatenate([np.asarray(j).reshape(*j.shape[:2], -1) for j in jax.tree.leaves(jacobian)], axis=-1)
    return (apply_fn, params), x, np.einsum("ikp,jlp->ijkl", flat, flat)


def counted(model, x, outputs):
    return costs.of(*pure(*model), jax.ShapeDtypeStruct(x.shape[1:], x.dtype), outputs)


def reduced(full, outputs):
    diagonal = np.einsum("ijkk->ijk", full)
    return {"full": full, "diagonal": diagonal, "mean": diagonal.mean(-1)}[outputs]


@pytest.mark.sweep
@pytest.mark.parametrize("name", CASES)
def test_layers_are_found_and_nothing_is_approximated(name):
    model, x, full = case(name)
    *_, layers, biases, plain = CASES[name]
    found = affine.division(programs.read(*pure(*model), x[0]))
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(model[1])]
    assert {paths[i] for i in found.plain} == plain
    assert (len(found.layers), sum(layer.bias is not None for layer in found.layers)) == (layers, biases)
    got = ntk.empirical_ntk(model, x[:2], x[2:], outputs="full", method="layerwise")
    assert_close(got, full[:2, 2:], rtol=1e-12)


# Between them: one position and several, by Gram matrices and by Jacobians; δ that is constant; plain leaves.
@pytest.mark.parametrize(
    ("name", "outputs"), [("zoo", "mean"), ("zoo", "diagonal"), ("linen", "mean"), ("linen", "full")]
)
def test_every_output_with_and_without_second_inputs_in_blocks(name, outputs):
    model, x, full = case(name)
    want = reduced(full, outputs)
    kernel = functools.partial(ntk.empirical_ntk, model, outputs=outputs, method="layerwise", tile=2)
    assert_close(kernel(x[:2], x), want[:2], rtol=1e-12)
    assert_close(kernel(x[:3]), want[:3, :3], rtol=1e-12)  # two blocks that overlap


@pytest.mark.parametrize(
    ("name", "outputs", "method"),
    [("zoo", "diagonal", "layerwise"), ("linen", "mean", "layerwise"), ("linen", "full", "jacobian")],
)
def test_a_block_is_made_in_pieces_that_fit_the_cache(name, outputs, method):
    """Three examples by two and two: one of them is computed twice."""
    model, x, full = case(name)
    cost = counted(model, x, outputs)
    assert dataclasses.replace(cost, cache=2 * x.itemsize * cost.working(method, cost.k)).chunk(method, cost.k) == 2
    function, arguments = pure(*model)
    strategy, order = methods.strategy(method, function, outputs, cost.k), np.array([0, 1, 2, 3, 1])
    tiling = blocks.Tiling(examples=3, outputs=cost.k, resident=1, chunk=2)
    got = blocks.compute(strategy, arguments, x[order], None, x.dtype, tiling)
    assert_close(got, reduced(full, outputs)[np.ix_(order, order)], rtol=1e-12)

    units, many = jnp.eye(cost.k, dtype=x.dtype), jax.ShapeDtypeStruct((40, *x.shape[1:]), x.dtype)
    block = jax.eval_shape(functools.partial(strategy.features, function, outputs), arguments, many, units)
    made: Any = blocks.add_chunk
    used = made.lower(strategy, 2, block, arguments, many, units, np.zeros(2, np.int32)).compile().memory_analysis()
    of_examples = [a for a in jax.tree.leaves(block) if 40 in a.shape]
    assert used.alias_size_in_bytes == sum(a.size * a.dtype.itemsize for a in of_examples), "written in place"
    small = dataclasses.replace(cost, cache=2 * x.itemsize * cost.working(method, cost.k))
    assert used.temp_size_in_bytes + used.output_size_in_bytes <= small.memory(method, 40, cost.k).computing


def test_both_ways_of_a_layer_at_several_positions_are_tested():
    for name, outputs, factors in (("linen", "full", [True, True]), ("zoo", "mean", [False, False, True, True])):
        model, x, _ = case(name)
        assert [layer.factors for layer in counted(model, x, outputs).layers] == factors
    model, x, _ = case("linen")
    assert counted(model, x, "full").layers[0].positions == 2


# ----------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("method", "outputs"), [("layerwise", "mean"), ("layerwise", "full"), ("jacobian", "mean"), ("products", "full")]
)
def test_one_output_at_a_time_where_memory_allows_no_more(method, outputs):
    model, x, full = case("linen")
    cost = counted(model, x, outputs)
    least = cost.memory(method, 1, 1).total
    assert least < cost.memory(method, 1, cost.k).total
    got = ntk.empirical_ntk(model, x[:2], outputs=outputs, method=method, max_memory=least)
    assert_close(got, reduced(full[:2, :2], outputs), rtol=1e-12)
    with pytest.raises(ValueError, match=f"{least:,} would do"):
        ntk.empirical_ntk(model, x[:2], outputs=outputs, method=method, max_memory=least - 1)


def test_arrays_alive_at_any_time_keep_within_the_bound():
    """And blocks are kept for as long as they fit: more memory, fewer blocks computed again."""
    model, x, full = case("linen")
    x = jnp.concatenate([x, x[:1]])
    cost, (function, arguments) = counted(model, x, "full"), pure(*model)
    strategy = methods.strategy("layerwise", function, "full", cost.k)
    one, alive = cost.memory("layerwise", 1, cost.k), []

    def watched(*given):
        block = strategy.features(*given)
        alive.append(sum(a.nbytes for a in jax.live_arrays()))
        return block

    def kernel(bound):
        memory = functools.partial(cost.memory, "layerwise")
        tiling = blocks.choose(memory, functools.partial(cost.chunk, "layerwise"), cost.k, 1, float(bound))
        return blocks.compute(strategy._replace(features=watched), arguments, x, None, x.dtype, tiling)

    made = []
    for extra in (0, 2, 9):
        alive.clear()
        before = sum(a.nbytes for a in jax.live_arrays())
        bound = one.total + extra * one.kept
        got = kernel(bound)
        # The last block and its inputs are part of what `making` counts.
        others = max(alive) - before - got.nbytes - one.kept - x[:1].nbytes
        assert others + one.computing <= bound
        assert others < (extra + 2) * one.kept, "a block is kept for longer than it is used"
        assert_close(got[:4, :4], full, rtol=1e-12)
        made.append(len(alive))
        del got
    assert made == [5 + 4 + 3 + 2 + 1, 3 + 2 + 2, 5]  # kept: one, three, all


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("method", "name", "outputs"),
    [
        ("layerwise", "zoo", "full"),
        ("layerwise", "linen", "mean"),
        ("jacobian", "zoo", "full"),
        ("jacobian", "convolutions", "mean"),
        ("products", "linen", "full"),
    ],
)
@pytest.mark.parametrize("examples", [8, 64])  # of many the tiles count most, of few the blocks
def test_counts_are_above_what_the_compiler_allocates(method, name, outputs, examples):
    model, x, _ = case(name)
    cost, (function, arguments) = counted(model, x, outputs), pure(*model)
    x, units = jnp.concatenate([x] * (examples // 4)), jnp.eye(cost.k, dtype=x.dtype)
    strategy = methods.strategy(method, function, outputs, cost.k)
    block = jax.eval_shape(functools.partial(strategy.features, function, outputs), arguments, x, units)
    count = cost.memory(method, examples, cost.k)
    kept = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(block))
    assert kept <= count.kept <= 1.2 * kept
    kernel = jax.ShapeDtypeStruct(
        (examples + 1, examples + 1, *([cost.k] * 2 if outputs == "full" else [])), jnp.float64
    )
    compiled: Any = blocks.add_tile
    tile = compiled.lower(strategy, True, kernel, arguments, block, block, np.zeros(4, np.int32)).compile()
    assert tile.memory_analysis().temp_size_in_bytes <= count.contracting
    if method != "products":
        making: Any = strategy.features
        part = x[: cost.chunk(method, cost.k)]  # made at a time
        used = making.lower(function, outputs, arguments, part, units).compile().memory_analysis()
        assert used.temp_size_in_bytes + used.output_size_in_bytes <= count.computing
        assert count.total < 8 * (used.temp_size_in_bytes + 2 * kept), "a bound that says nothing"


# ---------------------------------------------------------------------------------------- choice, compilation, progress


def test_auto_counts_operations():
    """Layers nearly always; products where outputs are many and weights shared by many positions."""
    dense, x = ntk.functional(ntk.mlp([40, 60, 50, 10], w_std=1.0, rngs=nnx.Rngs(0))), np.zeros((1, 40))
    for outputs in ("mean", "diagonal", "full"):
        assert counted(dense, x, outputs).cheapest(100, 100) == "layerwise"
    many = ntk.Serial(ntk.Conv(1, 200, 3, w_std=1.0, rngs=nnx.Rngs(0)), ntk.Relu(), ntk.GlobalAvgPool())
    assert counted(ntk.functional(many), np.zeros((1, 6, 6, 1)), "full").cheapest(100, 100) == "products"


@pytest.mark.parametrize("outputs", ["mean", "full"])
def test_the_counts_themselves(outputs):
    """Of a dense network: F = 2P up to activations, and what the docstring of `empirical_ntk` says of each method."""
    dense, x = ntk.functional(ntk.mlp([40, 60, 50, 10], w_std=1.0, rngs=nnx.Rngs(0))), np.zeros((1, 40))
    cost, n, m, k = counted(dense, x, outputs), 10**5, 2 * 10**5, 10
    weights, pairs = 40 * 60 + 60 * 50 + 50 * 10, k * k if outputs == "full" else k
    assert cost.evaluation == pytest.approx(2 * weights, rel=0.1)
    assert cost.operations("jacobian", n, m) == pytest.approx(n * m * 2 * pairs * weights, rel=0.05)
    assert cost.operations("products", n, m) == pytest.approx(n * m * (2 * k + 1) * cost.evaluation, rel=0.05)
    layers = 41 + pairs * 60 + 61 + pairs * 50 + 51 + pairs * 10
    assert cost.operations("layerwise", n, m) == pytest.approx(n * m * 2 * layers, rel=0.05)


@pytest.mark.parametrize("outputs", ["mean", "full"])
@pytest.mark.parametrize("k", [1, 10])
def test_products_take_as_many_operations_as_counted(k, outputs):
    """The program of a tile, operation by operation. The first of nine layers needs no derivatives by its inputs."""
    model, n, m = doubled(ntk.mlp([60] * 9 + [k], w_std=1.0, rngs=nnx.Rngs(0))), 7, 5
    x1, x2, units = (jax.ShapeDtypeStruct(shape, "float64") for shape in ((n, 60), (m, 60), (k, k)))
    (function, arguments), cost = pure(*model), counted(model, x1, outputs)
    strategy = methods.strategy("products", function, outputs, k)
    of = lambda *values: strategy.contract(function, outputs, values[0], values[1:3], values[3:])  # noqa: E731
    tile = jax.make_jaxpr(of)(arguments, x1, units, x2, units)
    done = sum(costs._operations(eqn) for eqn in tile.jaxpr.eqns)
    assert 0.9 < done / cost.operations("products", n, m) < 1.0


def test_inside_jit_and_vmap_and_with_traced_inputs():
    def kernel(key, x):
        net = ntk.mlp([3, 4, 2], w_std=1.0, rngs=nnx.Rngs(params=key))
        return ntk.empirical_ntk(net, x, method="layerwise", tile=2)

    keys, x = jax.random.split(jax.random.key(0), 2), normal(0, 3, 3)
    want = jnp.stack([kernel(key, x) for key in keys])
    assert_close(jax.jit(jax.vmap(kernel, in_axes=(0, None)))(keys, x), want, rtol=1e-12)


def test_known_inputs_inside_jit():
    net, x = ntk.mlp([3, 4, 2], w_std=1.0, rngs=nnx.Rngs(0)), normal(0, 3, 3)
    for known in (x, np.asarray(x)):
        got = jax.jit(lambda scale: scale * ntk.empirical_ntk(net, known))(jnp.float64(2.0))  # noqa: B023
        assert_close(got, 2 * ntk.empirical_ntk(net, x), rtol=1e-12)


def test_networks_of_one_architecture_compile_once():
    counts = []
    for seed in (0, 1):
        net = doubled(ntk.mlp([3, 6, 2], activation=ntk.Erf(), w_std=1.0, rngs=nnx.Rngs(seed)))
        x = normal(seed, 5, 3)
        with compilations() as compiled:
            ntk.empirical_ntk(net, x, method="layerwise", tile=2)
        counts.append(len(compiled))
    assert counts[0] > 0
    assert counts[1] == 0


def test_a_bar_counts_the_tiles_and_is_silent_in_ci(monkeypatch):
    model, x, _ = case("linen")
    bars = []

    class Bar(blocks.tqdm):
        def __init__(self, *args, **keywords):
            super().__init__(*args, **keywords)
            bars.append((self, keywords["disable"]))

    monkeypatch.setattr(blocks, "tqdm", Bar)
    kernel = functools.partial(ntk.empirical_ntk, model, outputs="full", method="layerwise", tile=2)
    kernel(x[:3])
    monkeypatch.delenv("CI")
    kernel(x[:3])
    (_, quiet), (bar, shown) = bars
    assert quiet
    assert not shown
    assert bar.n == bar.total == 3  # of two blocks, the upper triangle


def test_a_function_made_under_vmap_holds_traced_values():
    x, weights = normal(0, 3, 4), normal(1, 2, 4, 5)

    def of(start):
        apply_fn = lambda w, x: jnp.tanh(x @ w) - jnp.tanh(x @ start)  # noqa: E731
        return ntk.empirical_ntk((apply_fn, start), x, method="layerwise")

    for theta, w in zip(jax.jit(jax.vmap(of))(weights), weights, strict=True):
        assert_close(theta, ntk.empirical_ntk((lambda w, x: jnp.tanh(x @ w), w), x, method="jacobian"), rtol=1e-12)
