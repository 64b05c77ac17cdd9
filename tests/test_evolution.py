"""Measures of how networks and kernels differ: laws, and the same numbers as from dense kernels and Jacobians."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import assert_close, normal, small_net

import ntklib as ntk
from ntklib.evolution import distances, rectifiers
from ntklib.models import has_batch_statistics, with_batch_statistics

F64 = {"param_dtype": jnp.float64, "dtype": jnp.float64}
X, LABELS = normal(0, 7, 3), jnp.array([0, 1, 1, 0, 1, 0, 1])
Y = jnp.asarray(ntk.one_hot_centered(LABELS, 2), float)
K1, K2 = (a @ a.T for a in (normal(1, 7, 4), normal(2, 7, 4)))


class Rectified(nnx.Module):
    """Two layers of rectifiers of two kinds."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.first, self.second = (nnx.Linear(*size, rngs=rngs, **F64) for size in ((3, 5), (5, 4)))
        self.readout = nnx.Linear(4, 2, rngs=rngs, **F64)

    def __call__(self, x):
        return self.readout(nnx.leaky_relu(self.second(nnx.relu(self.first(x))), 0.1))


class LinenNet(linen.Module):
    """The same as a Linen module."""

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Dense(5, **F64)(x))
        x = linen.leaky_relu(linen.Dense(4, **F64)(x), 0.1)
        return linen.Dense(2, **F64)(x)


def as_pair(p, x):
    """The same as a function."""
    h = jnp.maximum(x @ p["first"] + 0.1, 0)
    h = h @ p["second"]
    return (h * (h > 0).astype(h.dtype)) @ p["readout"]


def pair(seed):
    shapes = {"first": (3, 5), "second": (5, 4), "readout": (4, 2)}
    return as_pair, {name: normal(10 * seed + i, *shape) for i, (name, shape) in enumerate(shapes.items())}


MODELS: dict[str, Any] = {
    "nnx": Rectified,
    "linen": lambda seed: (LinenNet(), LinenNet().init(jax.random.key(seed), X)),
    "pair": pair,
}


@pytest.fixture(params=MODELS, scope="module")
def two(request):
    """Two models of one architecture."""
    return MODELS[request.param](0), MODELS[request.param](1)


def jacobian(model):
    """[N, K, P], by dense differentiation."""
    apply_fn, params = ntk.functional(model)
    leaves = jax.tree.leaves(jax.jacobian(apply_fn)(params, X))
    return np.concatenate([np.asarray(leaf).reshape(7, 2, -1) for leaf in leaves], axis=2)


def cosine(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def centering(k):
    """H k H for each pair of outputs."""
    h = np.eye(7) - 1 / 7
    return np.einsum("ai,ij...,jb->ab...", h, k, h)


# ------------------------------------------------------------------------------------------------- kernels as arrays


def test_distance_is_an_angle():
    assert ntk.kernel_distance(K1, K1) == 0
    assert ntk.kernel_distance(K1, 1e200 * K1) < 1e-30
    first, second = jnp.diag(jnp.array([1.0, 2.0, 0.0, 0.0])), jnp.diag(jnp.array([0.0, 0.0, 5.0, 1.0]))
    assert_close(ntk.kernel_distance(first, second), 1.0, rtol=1e-15)
    assert_close(ntk.kernel_distance(K1, -K1), 2.0, rtol=1e-15)
    assert_close(ntk.kernel_distance(K1, K2), 1 - cosine(K1, K2))
    order = jnp.array([3, 1, 6, 0, 2, 5, 4])
    together = ntk.kernel_distance(K1[order][:, order], K2[order][:, order])
    assert_close(together, ntk.kernel_distance(K1, K2), rtol=1e-13)
    assert abs(ntk.kernel_distance(K1[order][:, order], K2) - together) > 1e-3


def test_small_distances_keep_their_digits():
    """A rotation by a small angle, of which the cosine is 1 in float32."""
    theta = 1e-5
    one = jnp.array([[1.0, 0.0], [0.0, 0.0]], jnp.float32)
    other = jnp.array([[np.cos(theta), np.sin(theta)], [0.0, 0.0]], jnp.float32)
    assert_close(ntk.kernel_distance(one, other).astype(jnp.float64), theta**2 / 2, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_kernels_of_half_precision_are_compared_in_single(dtype):
    """300² squares of ones are beyond the range of float16."""
    ones, one, y = np.ones((300, 300), dtype), np.eye(300, dtype=dtype), np.ones((300, 1), np.float32)
    with jax.numpy_dtype_promotion("standard"):
        assert_close(ntk.kernel_distance(ones, one), 1 - 1 / np.sqrt(300), rtol=1e-5)
        assert_close(ntk.kernel_alignment(ones, one), 1 / np.sqrt(300), rtol=1e-5)
        assert_close(ntk.kernel_alignment(one, y=y), 1 / np.sqrt(300), rtol=1e-5)


def test_distance_inside_jit_is_that_outside():
    assert_close(jax.jit(ntk.kernel_distance)(K1, K2), ntk.kernel_distance(K1, K2), rtol=1e-13)


def test_velocity_is_distance_over_lag():
    assert_close(ntk.kernel_velocity(K1, K2), ntk.kernel_distance(K1, K2) / 0.4, rtol=1e-15)
    assert_close(ntk.kernel_velocity(K1, K2, lag=3), ntk.kernel_distance(K1, K2) / 3, rtol=1e-15)


def test_alignment_is_a_cosine_centered_or_not():
    y = np.asarray(Y) + 0.3
    assert_close(ntk.kernel_alignment(K1, K2), cosine(K1, K2))
    assert_close(ntk.kernel_alignment(K1, y=y), cosine(K1, y @ y.T))
    assert_close(ntk.kernel_alignment(K1, K2, centered=True), cosine(centering(K1), centering(K2)))
    assert_close(ntk.kernel_alignment(K1, y=y, centered=True), cosine(centering(K1), centering(y @ y.T)))
    assert_close(ntk.kernel_alignment(K1 + 5.0, K2, centered=True), ntk.kernel_alignment(K1, K2, centered=True))
    assert_close(ntk.kernel_alignment(y @ y.T, y=y), 1.0, rtol=1e-14)


# -------------------------------------------------------------------------------------------------- kernels of models


@pytest.mark.sweep
@pytest.mark.parametrize("outputs", ["mean", "full"])
def test_models_are_compared_by_their_dense_kernels(two: Any, outputs, monkeypatch):
    tiles = distances._models.tiles
    monkeypatch.setattr(distances._models, "tiles", lambda n, *_: tiles(n, 1, 2 * 3**2))  # 3 rows at a time
    what = "ikp,jkp->ij" if outputs == "mean" else "ikp,jlp->ijkl"
    k1, k2 = (np.einsum(what, j, j) for j in map(jacobian, two))
    y = np.asarray(Y) + 0.3
    target = y @ y.T if outputs == "mean" else np.einsum("ik,jl->ijkl", y, y)
    assert_close(ntk.kernel_distance(two[0], two[1], X, outputs=outputs), 1 - cosine(k1, k2))
    assert_close(ntk.kernel_alignment(two[0], two[1], X, outputs=outputs), cosine(k1, k2))
    c1, c2 = centering(k1), centering(k2)
    assert_close(ntk.kernel_alignment(two[0], two[1], X, outputs=outputs, centered=True), cosine(c1, c2))
    assert_close(ntk.kernel_alignment(two[0], None, X, y=y, outputs=outputs), cosine(k1, target))
    centered = ntk.kernel_alignment(two[0], None, X, y=y, outputs=outputs, centered=True)
    assert_close(centered, cosine(c1, centering(target)))


def test_tiles_hold_no_more_than_they_may_and_cover_the_triangle():
    tiles = distances._models.tiles(10, 16, 2 * 16 * 4**2)
    assert max((i.stop - i.start) * (j.stop - j.start) for i, j in tiles) <= 4**2
    covered = np.zeros((10, 10), int)
    for i, j in tiles:
        covered[i, j] += 1
        covered[j, i] += i != j
    assert (covered == 1).all()


def test_functions_are_compared_by_labels_and_squares(two: Any):
    f1, f2 = (np.asarray(apply_fn(params, X)) for apply_fn, params in map(ntk.functional, two))
    assert_close(ntk.function_distance(two[0], two[1], X), np.mean(f1.argmax(1) != f2.argmax(1)))
    for memory in (1e9, 2000):
        assert_close(
            ntk.function_distance(two[0], two[1], X, measure="mse", max_memory=memory),
            0.5 * np.mean(((f1 - f2) ** 2).sum(1)),
        )
    assert ntk.function_distance(two[0], two[0], X) == 0


@pytest.mark.sweep
@pytest.mark.parametrize("size", [7, 3])
def test_similarity_of_gradients_is_the_mean_cosine_of_the_jacobian(two: Any, size, monkeypatch):
    tiles = distances._models.tiles
    monkeypatch.setattr(distances._models, "tiles", lambda n, *_: tiles(n, 1, 2 * size**2))
    rows = jacobian(two[0])
    within, between = [], []
    for i in range(7):
        for j in range(i):
            for k in range(2):
                if not (rows[i, k].any() and rows[j, k].any()):
                    continue  # an example for which all units are off
                (within if LABELS[i] == LABELS[j] else between).append(cosine(rows[i, k], rows[j, k]))
    found = ntk.logit_gradient_similarity(two[0], X, LABELS)
    assert_close(found.within, np.mean(within))
    assert_close(found.between, np.mean(between))
    assert_close(found.mean, np.mean(within + between))
    alone = ntk.logit_gradient_similarity(two[0], X)
    assert_close(alone.mean, found.mean)
    assert alone.within is None


def test_similarity_is_one_along_a_line_and_minus_one_across_it():
    linear = (lambda w, x: x @ w, normal(3, 3, 2))
    x = jnp.array([1.0, 2.0, -0.5, -3.0])[:, None] * normal(4, 1, 3)
    found = ntk.logit_gradient_similarity(linear, x, jnp.array([0, 0, 1, 1]))
    assert_close(jnp.stack(jax.tree.leaves(found)), [-1 / 3, 1.0, -1.0])
    x = x.at[0].set(0.0)  # has no gradient: pairs with it are left out
    found = ntk.logit_gradient_similarity(linear, x, jnp.array([0, 0, 1, 1]))
    assert_close(jnp.stack(jax.tree.leaves(found)), [-1 / 3, 1.0, -1.0])


# ------------------------------------------------------------------------------------------------------- rectifiers


def patterns(model: Any):
    """Which rectifiers are on, [N, 9], written out."""
    if isinstance(model, Rectified):
        z: Any = model.first(X)
        return np.concatenate([z > 0, model.second(nnx.relu(z)) > 0], axis=1)
    if model[0] is as_pair:
        z = X @ model[1]["first"] + 0.1
        return np.concatenate([z > 0, jnp.maximum(z, 0) @ model[1]["second"] > 0], axis=1)
    p = model[1]["params"]
    z = X @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None]
    after = jnp.maximum(z, 0) @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"][None]
    return np.concatenate([z > 0, after > 0], axis=1)


def test_what_a_normalization_rectifies_is_no_unit():
    """Flax's LayerNorm has max(0, E[h²] − E[h]²) against rounding."""

    def network(seed: int, phi: Any) -> Any:
        rngs = nnx.Rngs(seed)
        return nnx.Sequential(
            nnx.Linear(3, 4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs), phi, nnx.Linear(4, 1, rngs=rngs)
        )

    one, other = network(0, jax.nn.relu), network(1, jax.nn.relu)
    x = normal(0, 40, 3, dtype=jnp.float32)
    on = [net.layers[1](net.layers[0](x)) > 0 for net in (one, other)]
    assert_close(ntk.activation_hamming(one, other, x), np.mean(np.asarray(on[0] != on[1])))
    smooth = network(0, jnp.tanh)
    with pytest.raises(ValueError, match="`model1` has no rectifiers"):
        ntk.activation_hamming(smooth, smooth, x)


def test_hamming_distance_is_that_of_explicit_patterns(two: Any):
    want = np.mean(patterns(two[0]) != patterns(two[1]))
    assert 0 < want < 1
    assert_close(ntk.activation_hamming(two[0], two[1], X), want)
    assert_close(ntk.activation_hamming(two[0], two[1], X, max_memory=2000), want)
    assert ntk.activation_hamming(two[0], two[0], X) == 0


def test_a_rectifier_of_exactly_zero_is_off():
    """As for an input of zeros to a layer without bias."""
    model = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"])  # noqa: E731
    w, x = jnp.ones((3, 2)), jnp.zeros((4, 3))
    off, on, below = ((model, {"w": w, "b": jnp.full((1, 2), b)}) for b in (0.0, 1.0, -1.0))
    assert ntk.activation_hamming(off, on, x) == 1
    assert ntk.activation_hamming(off, below, x) == 0


RECTIFIERS: dict[str, Any] = {
    "relu": (jax.nn.relu, 1),
    "relu6": (jax.nn.relu6, 1),
    "leaky": (jax.nn.leaky_relu, 1),
    "clip": (lambda z: jnp.clip(z, 0), 1),
    "min": (lambda z: jnp.minimum(z, 0), 1),
    "where": (lambda z: jnp.where(z < 0, 0.0, z), 1),
    "product": (lambda z: z * (z > 0).astype(z.dtype), 1),
    "twice": (lambda z: jax.nn.relu(-jax.nn.relu(z)), 2),
    "library": (ntk.LeakyRelu(0.3), 1),
    "abs": (lambda z: jnp.where(z > 0, z, -z), 1),
    "scaled": (lambda z: jax.nn.leaky_relu(0.5 * z), 1),
    "turned": (lambda z: (lambda u: jnp.where(u > 0, u, 0.0))(-z), 1),
    "softplus": (jax.nn.softplus, 0),
    "elu": (jax.nn.elu, 1),
    "silu": (jax.nn.silu, 0),
    "erf": (ntk.Erf(), 0),
    "of the inputs": (lambda z: z, 0),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", RECTIFIERS)
def test_rectifiers_are_found_however_they_are_written(name):
    fn, count = RECTIFIERS[name]
    model = (lambda w, x: fn(jnp.maximum(x, 0) @ w), normal(5, 3, 2))
    function, arguments = rectifiers._models.ready(model, X)[:2]
    found = rectifiers.rectified(rectifiers._read(function, arguments, jax.ShapeDtypeStruct((3,), X.dtype)))
    assert len(found) == count


# ---------------------------------------------------------------------------------------------------------- barrier


def double_well(w, x):
    return (w**2 - 1) * x


def test_barrier_of_a_double_well_is_known():
    """(w² − 1)²/2 has its hill at 0: height 1/2 between the wells, and none within one."""
    one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    path = ntk.error_barrier((double_well, one), (double_well, -one), one, zero, loss="mse", points=5)
    assert_close(path.barrier, 0.5)
    assert_close(path.positions, [0, 0.25, 0.5, 0.75, 1])
    assert_close(path.errors, [0, (0.25 - 1) ** 2 / 2, 0.5, (0.25 - 1) ** 2 / 2, 0])
    assert ntk.error_barrier((double_well, one), (double_well, one), one, zero, loss="mse").barrier == 0


def test_barrier_of_a_convex_loss_is_at_the_ends():
    """Between two minima of one height there is none; else it is half of the difference of the ends."""
    linear = lambda w, x: x @ w  # noqa: E731
    x = normal(6, 4, 6)  # fewer examples than parameters: many minima
    y = normal(7, 4, 2)
    best = jnp.linalg.pinv(x) @ y
    null = jnp.eye(6) - jnp.linalg.pinv(x) @ x
    ends: Any = [(linear, best + null @ normal(seed, 6, 2)) for seed in (8, 9)]
    assert ntk.error_barrier(ends[0], ends[1], x, y, loss="mse").barrier < 1e-25
    others: Any = [(linear, best + normal(seed, 6, 2)) for seed in (8, 9)]
    path = ntk.error_barrier(others[0], others[1], x, y, loss="mse", points=4)
    assert_close(path.barrier, abs(path.errors[0] - path.errors[-1]) / 2)


def test_barrier_is_that_of_interpolated_parameters(two: Any):
    (apply_fn, w1), (_, w2) = map(ntk.functional, two)
    errors, losses = [], []
    for a in (0, 1 / 3, 2 / 3, 1):
        f = np.asarray(apply_fn(jax.tree.map(lambda u, v, a=a: (1 - a) * u + a * v, w1, w2), X))
        errors.append(np.mean(f.argmax(1) != np.asarray(LABELS)))
        losses.append(0.5 * np.mean(((f - Y) ** 2).sum(1)))
    path = ntk.error_barrier(two[0], two[1], X, LABELS, points=4)
    assert_close(path.errors, np.array(errors))
    assert_close(path.barrier, max(errors) - (errors[0] + errors[3]) / 2, atol=1e-15)
    assert_close(ntk.error_barrier(two[0], two[1], X, Y, loss="mse", points=4).errors, np.array(losses))


X32, Y32 = X.astype(jnp.float32), Y.astype(jnp.float32)


class Normalized(nnx.Module):
    """Two layers, each followed by a BatchNorm, and a Dropout, whose keys differ."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.norms = nnx.List([nnx.BatchNorm(4, rngs=rngs) for _ in range(2)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.readout = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return self.readout(self.dropout(x))


class NormalizedLinen(linen.Module):
    """The same as a Linen module, in evaluation mode."""

    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            x = linen.Dense(4)(x)
            x = linen.relu(linen.BatchNorm(use_running_average=True)(x))
        return linen.Dense(2)(x)


def by_batch(params, kind):
    """The outputs with the statistics of X, written out."""
    if kind == "nnx":
        layers = [(params["layers"][i], params["norms"][i]) for i in range(2)]
        readout = params["readout"]
    else:
        layers = [(params[f"Dense_{i}"], params[f"BatchNorm_{i}"]) for i in range(2)]
        readout = params["Dense_2"]
    h = np.asarray(X32)
    for layer, norm in layers:
        h = h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
        h = np.maximum(h, 0)
    return h @ np.asarray(readout["kernel"]) + np.asarray(readout["bias"])


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_statistics_of_batch_norm_are_those_of_each_network_on_the_line(kind):
    """In float32, in which Flax keeps them."""
    build: Any = Normalized
    if kind == "linen":
        build = lambda seed: (NormalizedLinen(), NormalizedLinen().init(jax.random.key(seed), X32))  # noqa: E731
    models = build(0), build(1)
    (apply_fn, w1), (_, w2) = map(ntk.functional, models)
    assert has_batch_statistics(apply_fn)
    path = ntk.error_barrier(models[0], models[1], X32, Y32, loss="mse", points=3)
    middle = jax.tree.map(lambda u, v: (u + v) / 2, w1, w2)
    want = [0.5 * np.mean(((by_batch(w, kind) - Y32) ** 2).sum(1)) for w in (w1, middle, w2)]
    assert_close(path.errors, np.array(want), rtol=1e-5)
    half = ntk.error_barrier(models[0], models[1], X32, Y32, loss="mse", points=3, statistics=X32[:4])
    assert abs(half.errors - path.errors).min() > 1e-4
    assert not has_batch_statistics(ntk.functional(small_net())[0])
    assert_close(with_batch_statistics(apply_fn, middle, X32)(middle, X32), by_batch(middle, kind), rtol=1e-5)
