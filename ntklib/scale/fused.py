"""One tile of a kernel matrix: the recursion of all layers in one compiled function."""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ntklib.kernel import Kernel
from ntklib.layers import Layer, Serial

Which = Literal["ntk", "nngp"]
#: XLA takes vectors of 256 bits even where a processor has 512: with those the layers take two thirds of the time.
_OPTIONS = {"xla_cpu_prefer_vector_width": 512}


class Network:
    """A network by its hyperparameters: equal architectures share what is compiled."""

    def __init__(self, net: Layer) -> None:
        self.net, self.graph = net, nnx.split(net)[0]

    def __hash__(self) -> int:
        return hash(self.graph)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.graph == other.graph


class Side(NamedTuple):
    """The inputs of a tile's rows or columns. Vectors come less a centre, with ‖x‖²/d as they were (`q`) and now
    (`norms`): products of either sign add up with a tenth of the rounding error of positive ones. Images: x alone.
    `as_given`, for differences of near vectors: those with their centre, since centring rounds.
    """

    x: Any
    q: Any = None
    norms: Any = None
    as_given: Any = None


def side(x: np.ndarray, centre: np.ndarray, out: np.ndarray) -> Side:
    """Inputs on the host, made ready, in `out`, for all tiles that they are part of."""
    if x.ndim > 2:
        out[...] = x
        return Side(out)
    q = np.square(x, out=out).mean(1)  # sums in pairs: `np.vecdot` rounds three times as much
    return Side(np.subtract(x, centre, out=out), q, np.square(out).mean(1))


@functools.lru_cache(maxsize=64)
def compiled(network: Network, which: Which, shape: tuple[int, ...], dtype: str, device: Any, careful: bool) -> Any:
    """The function of one tile, compiled for a device: (rows, columns, limits) -> (entries, whether pairs are near).

    limits: the numbers of rows and columns, without padding, and 1 where they are the same inputs. Where pairs are so
    near that their distance has lost digits, the `careful` function is to be asked again: it takes longer to compile.
    """
    with jax.enable_x64(dtype == "float64"):
        place = jax.sharding.SingleDeviceSharding(device)
        of = functools.partial(jax.ShapeDtypeStruct, sharding=place)
        block = Side(of(shape, dtype), *([of(shape[:1], dtype)] * 2 if len(shape) == 2 else []))
        block = block._replace(as_given=of(shape, dtype) if careful else None)
        function = jax.jit(functools.partial(_entries, network.net, which, careful))
        lowered = function.lower(block, block, of((3,), np.int32))
        try:
            return lowered.compile(compiler_options=_OPTIONS if device.platform == "cpu" else None)
        except jax.errors.JaxRuntimeError:  # no such option in this version
            return lowered.compile()


def _entries(net: Layer, which: Which, careful: bool, a: Side, b: Side, limits: Array) -> tuple[Array, Array]:
    k, near = Kernel.from_inputs(a.x, b.x, pools=net.pools), jnp.zeros((), bool)
    if net.pools:
        k = k.with_gap()
    elif a.x.ndim > 2:  # by differences: a few channels only
        gap = 0.5 * jnp.mean((a.x[:, None] - b.x[None]) ** 2, axis=-1)
        k = k.replace(nngp=(k.q1[:, None] + k.q2[None]) / 2 - gap, gap=gap)
    else:
        gap, beyond = _distances(k.nngp, a, b, limits)
        near = jnp.any(jnp.min(beyond, axis=0) < 0)  # a minimum goes by vectors, where `any` of all would not
        gap = _by_differences(gap, beyond < 0, a.as_given, b.as_given) if careful else gap
        k = k.replace(q1=a.q, q2=b.q, nngp=(a.q[:, None] + b.q[None]) / 2 - gap, gap=gap)
    k = propagate(net, k)
    return (k.ntk if which == "ntk" else k.nngp), near


def _distances(products: Array, a: Side, b: Side, limits: Array) -> tuple[Array, Array]:
    """½ ‖x − x'‖²/d by products, and how far beyond the distance at which it loses digits; from itself it is 0."""
    place = jnp.arange(len(a.norms), dtype=jnp.int32)
    own = (place[:, None] == place[None]) & (limits[2] == 1)
    gap = jnp.where(own, 0.0, (a.norms[:, None] + b.norms[None]) / 2 - products)
    # Padding is near nothing. By vectors as far as it goes: a pass over the tile costs as much as half a layer.
    few = 16 * math.sqrt(jnp.finfo(gap.dtype).eps)
    row, column = (jnp.where(place < limits[i], few * side.norms, -jnp.inf) for i, side in ((0, a), (1, b)))
    return gap, jnp.where(own, jnp.inf, gap - (row[:, None] + column[None]))


def _by_differences(gap: Array, near: Array, a: Array, b: Array) -> Array:
    """The same without cancellation: for the near pairs, or, where they are many, for all."""
    count, some = jnp.count_nonzero(near), len(a)

    def few() -> Array:
        # What fills up is out of bounds, and not written.
        i, j = jnp.nonzero(near, size=some, fill_value=some)
        return gap.at[i, j].set(0.5 * jnp.mean((a[i] - b[j]) ** 2, axis=-1), mode="drop")

    def all_() -> Array:
        return jax.lax.map(lambda row: 0.5 * jnp.mean((row[None] - b) ** 2, axis=-1), a)

    return jax.lax.cond(count > some, all_, few)


def propagate(net: Layer, k: Kernel) -> Kernel:
    """`net.kernel_map(k)`, with a loop over repeated layers: it compiles in the time of one, and runs faster too."""
    if not isinstance(net, Serial):
        return net.kernel_map(k)
    layers = list(net.layers)
    names = [nnx.split(layer)[0] for layer in layers]
    at = 0
    while at < len(layers):
        period, times = _repetition(names[at:])
        block = Serial(*layers[at : at + period])
        if times > 2 and _repeats(block, k):
            k = jax.lax.fori_loop(0, times, lambda _, k, block=block: block.kernel_map(k), k)
            at += period * times
        else:
            k = layers[at].kernel_map(k)
            at += 1
    return k


def _repetition(names: list[Any]) -> tuple[int, int]:
    """The shortest block that the list starts with most often: its length, and how often."""
    best = (1, 1)
    for period in range(1, len(names) // 2 + 1):
        times = 1
        while names[times * period : (times + 1) * period] == names[:period]:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _repeats(block: Layer, k: Kernel) -> bool:
    """Whether a block returns a kernel of the form that it takes."""
    forms = [jax.tree.structure(k)]

    def step(k: Kernel) -> list[Array]:
        leaves, form = jax.tree.flatten(block.kernel_map(k))
        forms.append(form)
        return leaves

    after = jax.eval_shape(step, k)
    return forms[0] == forms[1] and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(after, jax.tree.leaves(k), strict=True)
    )
