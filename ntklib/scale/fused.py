"""One tile of a kernel matrix: the recursion of all layers in one compiled function."""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ntklib.kernel import Kernel
from ntklib.layers import Layer, Serial

Which = Literal["ntk", "nngp"]


class Network:
    """A network by its hyperparameters: equal architectures share what is compiled."""

    def __init__(self, net: Layer) -> None:
        self.net, self.graph = net, nnx.split(net)[0]

    def __hash__(self) -> int:
        return hash(self.graph)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.graph == other.graph


@functools.lru_cache(maxsize=64)
def compiled(network: Network, which: Which, shape: tuple[int, ...], dtype: str, device: Any) -> Any:
    """The function of one tile, compiled for a device."""
    with jax.enable_x64(dtype == "float64"):
        block = jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(device))
        return jax.jit(functools.partial(_entries, network.net, which)).lower(block, block).compile()


def _entries(net: Layer, which: Which, a: Array, b: Array) -> Array:
    k = Kernel.from_inputs(a, b, pools=net.pools)
    if net.pools:
        k = k.with_gap()
    else:
        gap = _distances(a, b)
        k = k.replace(nngp=(k.q1[:, None] + k.q2[None]) / 2 - gap, gap=gap)
    k = propagate(net, k)
    return k.ntk if which == "ntk" else k.nngp


def _distances(a: Array, b: Array) -> Array:
    """½ ‖x − x'‖²/d without cancellation: by products, but for the few pairs that are near by differences."""
    if a.ndim > 2:  # per pixel: a few channels only
        return 0.5 * jnp.mean((a[:, None] - b[None]) ** 2, axis=-1)
    # From the mean of the inputs: products of either sign add up with a tenth of the rounding error of positive ones.
    centre = jnp.mean(a, axis=0, keepdims=True)
    k = Kernel.from_inputs(a - centre, b - centre)
    both = k.q1[:, None] + k.q2[None]
    gap = both / 2 - k.nngp
    near = gap < 6 * math.sqrt(jnp.finfo(gap.dtype).eps) * both
    count, some = jnp.count_nonzero(near), 4 * len(a)

    def few() -> Array:
        i, j = jnp.nonzero(near, size=some, fill_value=0)  # the pair (0, 0) fills up, and is right as well
        return gap.at[i, j].set(0.5 * jnp.mean((a[i] - b[j]) ** 2, axis=-1))

    def all_() -> Array:
        return jax.lax.map(lambda row: 0.5 * jnp.mean((row[None] - b) ** 2, axis=-1), a)

    return jax.lax.switch((count > 0).astype(jnp.int32) + (count > some).astype(jnp.int32), [lambda: gap, few, all_])


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
    leaves, form = jax.tree.flatten(k)
    forms = []

    def step(leaves: list[Array]) -> list[Array]:
        after, form_after = jax.tree.flatten(block.kernel_map(jax.tree.unflatten(form, leaves)))
        forms.append(form_after)
        return after

    after = jax.eval_shape(step, leaves)
    return forms == [form] and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(after, leaves, strict=True)
    )
