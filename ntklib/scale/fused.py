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

from ntklib._directions import products_in_groups
from ntklib.duals import correlation
from ntklib.duals.tables import Tables
from ntklib.kernel import Kernel
from ntklib.layers import Layer, Serial

Which = Literal["ntk", "nngp"]
#: XLA uses vectors of 256 bits by default, even if the processor has vectors of 512 bits. With 512 bits the layers take
#: two thirds of the time.
_OPTIONS = {"xla_cpu_prefer_vector_width": 512}


class Network:
    """A network as the key of a cache: networks with equal hyperparameters are equal, and share compiled programs."""

    def __init__(self, net: Layer) -> None:
        self.net, self.structure = net, _structure(net)

    def __hash__(self) -> int:
        return hash(self.structure)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.structure == other.structure


def _structure(layer: Layer) -> tuple:
    """Return a hashable value for a layer: its graph with all hyperparameters, also with those that are arrays.

    No kernel depends on parameters and random keys, and they are left out.
    """
    graph, _, arrays = nnx.split(layer, (nnx.Param, nnx.RngState), ...)
    values = map(np.asarray, jax.tree.leaves(arrays))
    return graph, *((value.dtype.str, value.shape, value.tobytes()) for value in values)


class Side(NamedTuple):
    """The inputs of the rows or of the columns of a tile.

    A vector x is stored as its direction √d·x/‖x‖ minus a center, the same for all vectors. The terms of an inner
    product of two vectors then have both signs, also if all features are positive, as those of pixels are. For the
    images of MNIST this makes the rounding error of the sum two to five times smaller.

    Args:
        x: The centered directions of vectors, or the images themselves.
        q: The mean squares ‖x‖²/d of the vectors; None for images.
        norms: The mean squares of the centered directions; None for images.
        exact: For the `careful` function of `compiled`, the directions in float64, not centered; otherwise None.
    """

    x: Any
    q: Any = None
    norms: Any = None
    exact: Any = None


def directions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the directions √d·x/‖x‖ of vectors x [N, d], and the mean squares ‖x‖²/d. The direction of 0 is 0."""
    largest = np.abs(x).max(1, initial=0.0)
    safe = np.where(largest == 0, 1, largest)[:, None]
    scaled = x / safe  # all entries are now at most 1, and no square overflows
    squares = np.square(scaled).mean(1)  # `mean` adds sums of parts, so its rounding error hardly grows with d
    scaled /= np.sqrt(np.where(squares == 0, 1, squares))[:, None]
    return scaled, squares * np.square(safe[:, 0])


def side(x: np.ndarray, center: np.ndarray | None, out: np.ndarray) -> Side:
    """Return the `Side` of inputs x, with its field `x` written to `out`. For images `center` is None."""
    if center is None:
        out[...] = x
        return Side(out)
    units, q = directions(x)
    return Side(np.subtract(units, center, out=out), q, np.square(out).mean(1))


@functools.lru_cache(maxsize=64)
def compiled(
    network: Network, which: Which, shape: tuple[int, ...], dtype: str, device: Any, careful: bool, tables: "Form"
) -> Any:
    """Return the compiled function of one tile: (rows, columns, limits, tables) -> (entries, near).

    `rows` and `columns` are a `Side` each. `limits` holds the numbers of rows and columns without padding, and 1 if
    both are the same inputs, or else 0. `near` says whether 1 − abs(ρ) has lost digits for some pair of inputs, because
    their directions are nearly the same or opposite. The tile must then be computed again by the `careful` function,
    which takes longer to compile.
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
        except jax.errors.JaxRuntimeError:  # this version of XLA does not have the option
            return lowered.compile()


class Form(NamedTuple):
    """The structure of some tables, and the shapes and types of their arrays."""

    tree: Any
    shapes: tuple[tuple[tuple[int, ...], str], ...]

    @classmethod
    def of(cls, tables: Tables | None) -> "Form":
        """Return the form of some tables, or of None."""
        leaves, tree = jax.tree.flatten(tables)
        return cls(tree, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves))

    def filled(self, of: Any) -> Any:
        """Return tables of this form, in which `of(shape, dtype)` makes each array."""
        return jax.tree.unflatten(self.tree, [of(*leaf) for leaf in self.shapes])


def _entries(
    net: Layer, which: Which, careful: bool, a: Side, b: Side, limits: Array, tables: Tables | None
) -> tuple[Array, Array]:
    """Return the entries of a tile and `near`, as `compiled` describes them."""
    near = jnp.zeros((), bool)
    if a.x.ndim > 2:
        k = Kernel.from_inputs(a.x, b.x, pools=net.pools)
    else:
        minus, beyond = _distances(a, b, limits)
        near = jnp.any(jnp.min(beyond, axis=0) < 0)  # XLA vectorizes this minimum, but not `any` of all entries
        delta = correlation.signed(minus, 2 - minus)
        delta = _by_differences(delta, beyond < 0, a.exact, b.exact) if careful else delta
        none = jnp.maximum((a.q == 0).astype(delta.dtype)[:, None], (b.q == 0).astype(delta.dtype)[None])
        delta = correlation.once(jnp.where(none > 0, none, delta))  # a zero input has ρ = 0
        s1, s2 = correlation.once((jnp.sqrt(a.q), jnp.sqrt(b.q)))
        nngp = s1[:, None] * s2[None] * correlation.rho(delta)
        k = Kernel(nngp, jnp.zeros_like(nngp), a.q, b.q, a.x.shape[-1], delta=delta)
    k = propagate(net, k, tables)
    return (k.ntk if which == "ntk" else k.nngp), near


def _distances(a: Side, b: Side, limits: Array) -> tuple[Array, Array]:
    """Return 1 − ρ for all pairs of vectors, and 1 − abs(ρ) minus the threshold below which it has lost digits.

    With the centered directions u and v of two vectors 1 − ρ is (‖u‖² + ‖v‖²)/2d − u·v/d, and the threshold is
    16√ε (‖u‖² + ‖v‖²)/d. For a vector and itself the results are 0 and ∞.
    """
    products = products_in_groups(a.x, b.x) / a.x.shape[-1]
    place = jnp.arange(len(a.norms), dtype=jnp.int32)
    same = (place[:, None] == place[None]) & (limits[2] == 1)
    minus = jnp.where(same, 0.0, (a.norms[:, None] + b.norms[None]) / 2 - products)
    # Padding and zero inputs are near no input: their threshold is −∞. It is set for rows and columns, because a pass
    # over all entries of the tile takes as long as half a layer.
    few = 16 * math.sqrt(jnp.finfo(minus.dtype).eps)
    row, column = (
        jnp.where((place < limits[i]) & (side.q > 0), few * side.norms, -jnp.inf) for i, side in ((0, a), (1, b))
    )
    nearest = jnp.minimum(minus, 2 - minus)
    return minus, jnp.where(same, jnp.inf, nearest - (row[:, None] + column[None]))


def _by_differences(delta: Array, near: Array, a: Array, b: Array) -> Array:
    """Return δ with the entries of near pairs computed from differences, in which nothing cancels.

    δ is 1 − abs(ρ) with the sign of ρ. For directions u and v it is ½ mean((u − v)²), or −½ mean((u + v)²) if ρ < 0. If
    there are more near pairs than rows, the differences of all pairs are computed, and those of near pairs are used.
    """
    count, some = jnp.count_nonzero(near), len(a)

    def exact(u: Array, v: Array, turned: Array) -> Array:
        d = 0.5 * jnp.mean(jnp.square(u - jnp.where(turned, -1.0, 1.0)[..., None] * v), axis=-1)
        return correlation.turned(d.astype(delta.dtype), ~turned)

    def few() -> Array:
        # Unused places of `i` and `j` are filled with an index that is out of bounds, which `set` drops.
        i, j = jnp.nonzero(near, size=some, fill_value=some)
        return delta.at[i, j].set(exact(a[i], b[j], delta[i, j] < 0), mode="drop")

    def all_() -> Array:
        rows = jax.lax.map(lambda row: exact(row[0][None], b, row[1] < 0), (a, delta))
        return jnp.where(near, rows, delta)

    return jax.lax.cond(count > some, all_, few)


def propagate(net: Layer, k: Kernel, tables: Tables | None = None) -> Kernel:
    """Return `net.kernel_map(k)`, with a loop over a block of layers that occurs more than twice in a row.

    The loop compiles in the time of one block, and also runs faster.
    """

    def through(layer: Layer, k: Kernel) -> Kernel:
        k = layer.kernel_map(k.replace(tables=tables)).replace(tables=None)
        # The next layer uses each of these arrays in several places. `once` keeps XLA from computing the array again in
        # each place.
        q1, q2, delta, ntk = correlation.once((k.q1, k.q2, k.delta, k.ntk))
        ntk = ntk if hasattr(layer, "activation") else k.ntk
        return k.replace(q1=q1, q2=q2, delta=delta, ntk=ntk, acute=k.acute)

    if not isinstance(net, Serial):
        return through(net, k)
    layers = list(net.layers)
    names = [_structure(layer) for layer in layers]
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
    """Return the length of a block at the start of a list, and how often it occurs there in a row.

    Of all blocks that occur more than once, take the one whose repetitions cover the most entries. If there is none,
    return (1, 1).
    """
    best = (1, 1)
    for period in range(1, len(names) // 2 + 1):
        times = 1
        while names[times * period : (times + 1) * period] == names[:period]:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _repeats(block: Callable[[Kernel], Kernel], k: Kernel) -> bool:
    """Return whether a block maps k to a kernel of the same structure, shapes and types, as a loop must."""
    forms = [jax.tree.structure(k)]

    def step(k: Kernel) -> list[Array]:
        leaves, form = jax.tree.flatten(block(k))
        forms.append(form)
        return leaves

    after = jax.eval_shape(step, k)
    return forms[0] == forms[1] and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(after, jax.tree.leaves(k), strict=True)
    )
