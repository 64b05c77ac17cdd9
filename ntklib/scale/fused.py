"""One tile of a kernel matrix: the recursion of all layers in one compiled function."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ntklib.duals import correlation
from ntklib.duals.tables import Tables
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
    """The inputs of a tile's rows or columns. Images: x alone. Vectors: `x` are their directions √d·x/‖x‖ less a
    center, `norms` the mean squares of these, `q` the mean squares of the inputs. Products of either sign add up with a
    tenth of the rounding error of positive ones; that is what the center is for.
    `exact`: the directions in double precision, for the differences of near ones.
    """

    x: Any
    q: Any = None
    norms: Any = None
    exact: Any = None


def directions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """√d·x/‖x‖ for vectors [N, d], zero where x is zero, and the mean squares ‖x‖²/d."""
    largest = np.abs(x).max(1, initial=0.0)
    safe = np.where(largest == 0, 1, largest)[:, None]
    scaled = x / safe  # no square leaves the range of numbers
    squares = np.square(scaled).mean(1)  # sums in pairs: `np.vecdot` rounds three times as much
    scaled /= np.sqrt(np.where(squares == 0, 1, squares))[:, None]
    return scaled, squares * np.square(safe[:, 0])


def side(x: np.ndarray, center: np.ndarray | None, out: np.ndarray) -> Side:
    """Inputs on the host, made ready, in `out`, for all tiles that they are part of; images have no center."""
    if center is None:
        out[...] = x
        return Side(out)
    units, q = directions(x)
    return Side(np.subtract(units, center, out=out), q, np.square(out).mean(1))


@functools.lru_cache(maxsize=64)
def compiled(
    network: Network, which: Which, shape: tuple[int, ...], dtype: str, device: Any, careful: bool, tables: "Form"
) -> Any:
    """The function of one tile, compiled for a device: (rows, columns, limits, tables) -> (entries, whether pairs are
    near).

    limits: the numbers of rows and columns, without padding, and 1 where they are the same inputs. Where pairs are so
    near in direction that 1 − |ρ| has lost digits, the `careful` function is to be asked again: it takes longer to
    compile. tables: the form of the activations' tables.
    """
    with jax.enable_x64(careful or dtype == "float64"):
        place = jax.sharding.SingleDeviceSharding(device)
        of = functools.partial(jax.ShapeDtypeStruct, sharding=place)
        block = Side(of(shape, dtype), *([of(shape[:1], dtype)] * 2 if len(shape) == 2 else []))
        block = block._replace(exact=of(shape, "float64") if careful else None)
        function = jax.jit(functools.partial(_entries, network.net, which, careful))
        lowered = function.lower(block, block, of((3,), np.int32), tables.filled(of))
        try:
            return lowered.compile(compiler_options=_OPTIONS if device.platform == "cpu" else None)
        except jax.errors.JaxRuntimeError:  # no such option in this version
            return lowered.compile()


class Form(NamedTuple):
    """The structure, shapes and types of some tables."""

    tree: Any
    shapes: tuple[tuple[tuple[int, ...], str], ...]

    @classmethod
    def of(cls, tables: Tables | None) -> "Form":
        """That of these tables."""
        leaves, tree = jax.tree.flatten(tables)
        return cls(tree, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves))

    def filled(self, of: Any) -> Any:
        """Tables of `of(shape, dtype)`."""
        return jax.tree.unflatten(self.tree, [of(*leaf) for leaf in self.shapes])


def _entries(
    net: Layer, which: Which, careful: bool, a: Side, b: Side, limits: Array, tables: Tables | None
) -> tuple[Array, Array]:
    near = jnp.zeros((), bool)
    if a.x.ndim > 2:
        k = Kernel.from_inputs(a.x, b.x, pools=net.pools)
    else:
        minus, beyond = _distances(a, b, limits)
        near = jnp.any(jnp.min(beyond, axis=0) < 0)  # a minimum goes by vectors, where `any` of all would not
        delta = correlation.signed(minus, 2 - minus)
        delta = _by_differences(delta, beyond < 0, a.exact, b.exact) if careful else delta
        none = jnp.maximum((a.q == 0).astype(delta.dtype)[:, None], (b.q == 0).astype(delta.dtype)[None])
        delta = correlation.once(jnp.where(none > 0, none, delta))  # a zero input has no direction
        s1, s2 = correlation.once((jnp.sqrt(a.q), jnp.sqrt(b.q)))
        nngp = s1[:, None] * s2[None] * correlation.rho(delta)
        k = Kernel(nngp, jnp.zeros_like(nngp), a.q, b.q, a.x.shape[-1], delta=delta)
    k = propagate(net, k, tables)
    return (k.ntk if which == "ntk" else k.nngp), near


def _distances(a: Side, b: Side, limits: Array) -> tuple[Array, Array]:
    """1 − ρ by products, and how far 1 − |ρ| is beyond the value at which it loses digits; from itself it is 0."""
    products = jnp.einsum("nc,mc->nm", a.x, b.x, precision=jax.lax.Precision.HIGHEST) / a.x.shape[-1]
    place = jnp.arange(len(a.norms), dtype=jnp.int32)
    own = (place[:, None] == place[None]) & (limits[2] == 1)
    minus = jnp.where(own, 0.0, (a.norms[:, None] + b.norms[None]) / 2 - products)
    # Padding is near nothing, nor are zero inputs. By vectors as far as it goes: a pass over the tile costs as much as
    # half a layer.
    few = 16 * math.sqrt(jnp.finfo(minus.dtype).eps)
    row, column = (
        jnp.where((place < limits[i]) & (side.q > 0), few * side.norms, -jnp.inf) for i, side in ((0, a), (1, b))
    )
    nearest = jnp.minimum(minus, 2 - minus)
    return minus, jnp.where(own, jnp.inf, nearest - (row[:, None] + column[None]))


def _by_differences(delta: Array, near: Array, a: Array, b: Array) -> Array:
    """The same without cancellation: for the near pairs, or, where they are many, for all."""
    count, some = jnp.count_nonzero(near), len(a)

    def exact(u: Array, v: Array, turned: Array) -> Array:
        d = 0.5 * jnp.mean(jnp.square(u - jnp.where(turned, -1.0, 1.0)[..., None] * v), axis=-1)
        return correlation.turned(d.astype(delta.dtype), ~turned)

    def few() -> Array:
        # What fills up is out of bounds, and not written.
        i, j = jnp.nonzero(near, size=some, fill_value=some)
        return delta.at[i, j].set(exact(a[i], b[j], delta[i, j] < 0), mode="drop")

    def all_() -> Array:
        rows = jax.lax.map(lambda row: exact(row[0][None], b, row[1] < 0), (a, delta))
        return jnp.where(near, rows, delta)

    return jax.lax.cond(count > some, all_, few)


def propagate(net: Layer, k: Kernel, tables: Tables | None = None) -> Kernel:
    """`net.kernel_map(k)`, with a loop over repeated layers: it compiles in the time of one, and runs faster too."""

    def through(layer: Layer, k: Kernel) -> Kernel:
        k = layer.kernel_map(k.replace(tables=tables)).replace(tables=None)
        # The next layer reads each of these in several places: XLA would rather make it anew every time.
        q1, q2, delta, ntk = correlation.once((k.q1, k.q2, k.delta, k.ntk))
        return k.replace(q1=q1, q2=q2, delta=delta, ntk=ntk if hasattr(layer, "activation") else k.ntk)

    if not isinstance(net, Serial):
        return through(net, k)
    layers = list(net.layers)
    names = [nnx.split(layer)[0] for layer in layers]
    at = 0
    while at < len(layers):
        period, times = _repetition(names[at:])
        block = Serial(*layers[at : at + period])
        if times > 2 and _repeats(functools.partial(through, block), k):
            k = jax.lax.fori_loop(0, times, lambda _, k, block=block: through(block, k), k)
            at += period * times
        else:
            k = through(layers[at], k)
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


def _repeats(block: Callable[[Kernel], Kernel], k: Kernel) -> bool:
    """Whether a block returns a kernel of the form that it takes."""
    forms = [jax.tree.structure(k)]

    def step(k: Kernel) -> list[Array]:
        leaves, form = jax.tree.flatten(block(k))
        forms.append(form)
        return leaves

    after = jax.eval_shape(step, k)
    return forms[0] == forms[1] and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(after, jax.tree.leaves(k), strict=True)
    )
