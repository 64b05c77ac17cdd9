"""Kernel matrices of any size: in memory, sharded over devices and hosts, or in a file."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from ntklib import _checks
from ntklib.layers import Layer
from ntklib.scale.fused import Which
from ntklib.scale.store import Store, local_path
from ntklib.scale.tiles import Pair, Tiles, aligned

if TYPE_CHECKING:
    from tensorstore import TensorStore


@overload
def gram(
    net: Layer,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    kernel: Which = "ntk",
    tile: int | None = None,
    mesh: Mesh | None = None,
    store: None = None,
    max_memory: float | None = None,
    progress: bool | None = None,
) -> Array: ...


@overload
def gram(
    net: Layer,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    kernel: Which = "ntk",
    tile: int | None = None,
    mesh: Mesh | None = None,
    store: str | os.PathLike[str],
    max_memory: float | None = None,
    progress: bool | None = None,
) -> "TensorStore": ...


def gram(
    net: Layer,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    kernel: Which = "ntk",
    tile: int | None = None,
    mesh: Mesh | None = None,
    store: str | os.PathLike[str] | None = None,
    max_memory: float | None = None,
    progress: bool | None = None,
) -> "Array | TensorStore":
    """The kernel matrix Θ(x1, x2) of the infinitely wide network, [N, M]: `net.kernel(x1, x2).ntk`, several times
    faster, more accurate in float32, and at any size.

    It is computed by tiles that stay in the cache, on one side of the diagonal where x2 is left out, on all cores.
    Activations with a closed form use it; others use tables, made at the first call for the variances in use.

    Error of an entry relative to √(Θ(x, x) Θ(x', x')): below 2e-6 in float32 and 1e-10 in float64, zero inputs,
    duplicates, near duplicates, antipodes and inputs of very different size included, to depth 20 at least; under
    pooling not for pairs of pixels of color that are nearly equal, where it is up to 3e-4 and 3e-8. Variances before an
    activation: any for piecewise linear functions, erf, GELU and Gaussians; ω²q up to 100 (float64: 1e10) for waves of
    frequency ω; up to 1e4 for tanh, SiLU, ELU, the sigmoid and functions of yours; what is beyond is refused.
    float16 and bfloat16 inputs are computed in float32. Not differentiable: for gradients use `net.kernel`.

    x1, x2: [N, d] or [N, H, W, C]. NumPy arrays may be larger than a device's memory (memory-mapped ones, say).
    kernel: "ntk" or "nngp".
    tile: rows and columns of a tile; by default some 300 in float32, fewer in float64 or for images.
    mesh: a `jax.sharding.Mesh`: its devices share the work, and the result is sharded over them by rows, N/devices
        each. Under `jax.distributed` each process computes the rows of its own devices; without a mesh all of them.
    store: a folder on this machine, to be made or gone on with: the result goes there tile by tile (zarr, through
        tensorstore), and is returned as a `tensorstore.TensorStore` (`np.asarray(k[:100])` reads). An interrupted run
        goes on where it stopped, to the same bytes. A folder that holds anything else, or was made with other inputs,
        another network (widths count) or other settings, is refused and left as it is. Tiles have checksums: those
        that are there already are read once, and where one is damaged the error names its file. Two processes may fill
        one store at once, each for itself; under `jax.distributed` they share the tiles, and all must see the folder.
    max_memory: bytes that this call may hold at a time, its result included (unless stored), the given inputs not.
    progress: a bar with the time left, on long runs; by default unless CI is set in the environment.

    Cost: N·M·d multiplications for the first layer and about 20 a layer and entry for ReLU, half of both where x2 is
    left out. Memory: the result, some 25 MB a core, and up to 1 GiB for the inputs on the device (they are passed on
    tile by tile if they are larger).
    Raises ValueError on inputs that do not fit, a mesh whose size does not divide N, too little memory for one tile.

    >>> import jax.numpy as jnp, ntklib as ntk
    >>> from flax import nnx
    >>> net = ntk.mlp([2, 64, 1], w_std=2**0.5, rngs=nnx.Rngs(0))
    >>> [[round(float(e), 4) for e in row] for row in gram(net, jnp.eye(2))]
    [[2.0, 0.3183], [0.3183, 2.0]]
    """
    devices = mesh_devices(mesh)
    path = None if store is None else local_path("store", store)
    if path is not None and tile is None:
        tile = Store.tile_of(path)
    n, m = ((np.shape(x) or (1,))[0] for x in (x1, x1 if x2 is None else x2))  # `Tiles` looks at the rest
    rows = _rows(mesh, n)
    itemsize = max(4, jax.dtypes.canonicalize_dtype(getattr(x1, "dtype", float)).itemsize)  # half precision is not kept
    held = 0 if path is not None else (rows.stop - rows.start) * m * itemsize
    tiles = Tiles(net, x1, x2, kernel=kernel, tile=tile, devices=devices, max_memory=max_memory, reserved=held)
    if path is not None:
        return _stored(tiles, path, progress)
    out = _in_memory(tiles, rows, progress)
    if mesh is None:
        return jax.device_put(out, devices[0], may_alias=True)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        start, stop, _ = (index or (slice(None),))[0].indices(n)
        return out[start - rows.start : stop - rows.start]

    return jax.make_array_from_callback(tiles.shape, sharding, shard)


def _in_memory(tiles: Tiles, rows: slice, progress: bool | None) -> np.ndarray:
    """The rows of the matrix that this process owns."""
    (n, m), size = tiles.shape, tiles.tile
    out = aligned((rows.stop - rows.start, m), tiles.dtype)
    owned = range(rows.start // size, -(-rows.stop // size))
    # A tile on the far side of the diagonal is a mirror image, where this process has the original.
    pairs = [(i, j) for i in owned for j in range(-(-m // size)) if not (tiles.symmetric and j < i and j in owned)]

    def put(i: int, j: int, entries: np.ndarray) -> None:
        high, wide = tiles.span(i, n), tiles.span(j, m)
        _place(out, rows, high, wide, entries)
        if tiles.symmetric and i != j and j in owned:
            _place(out, rows, wide, high, entries.T)

    tiles.run(put, pairs, progress=progress)
    return out


def _place(out: np.ndarray, rows: slice, high: slice, wide: slice, entries: np.ndarray) -> None:
    """Write those rows of a tile that belong to `rows`."""
    start, stop = max(high.start, rows.start), min(high.stop, rows.stop)
    if start < stop:
        out[start - rows.start : stop - rows.start, wide] = entries[start - high.start : stop - high.start]


def _stored(tiles: Tiles, path: Path, progress: bool | None) -> "TensorStore":
    store = Store(path, tiles)
    ours = tiles.pairs()[jax.process_index() :: jax.process_count()]

    def places(i: int, j: int) -> set[Pair]:
        """Where a tile belongs: its mirror image is a chunk of its own."""
        return {(i, j), (j, i)} if tiles.symmetric else {(i, j)}

    wanted = {place for pair in ours for place in places(*pair)}
    missing = wanted - store.done(sorted(wanted))

    def put(i: int, j: int, entries: np.ndarray) -> None:
        for place in places(i, j) & missing:
            store.write(*place, entries if place == (i, j) else entries.T)

    tiles.run(put, [pair for pair in ours if places(*pair) & missing], progress=progress)
    if jax.process_count() > 1:  # no process returns before all tiles are there
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("ntklib.gram")
    return store.array


def mesh_devices(mesh: Mesh | None) -> list[Any]:
    """The devices of this process that take part."""
    if mesh is None:
        return jax.local_devices()[:1]
    _checks.instance("mesh", mesh, Mesh, "e.g. jax.make_mesh((jax.device_count(),), ('rows',))")
    ours = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    if not ours:
        raise ValueError(
            f"`mesh` must hold a device of every process; process {jax.process_index()} has none in it. "
            f"Make it of all: jax.make_mesh((jax.device_count(),), ('rows',))."
        )
    return ours


def _rows(mesh: Mesh | None, n: int) -> slice:
    """The rows of the result that this process holds."""
    if mesh is None:
        return slice(0, n)
    if n % mesh.size:
        raise ValueError(
            f"`mesh` has {mesh.size} devices, which must divide the {n} rows of the result: use a mesh of "
            f"{math.gcd(n, mesh.size)}, {n - n % mesh.size} inputs, or `store=` in place of a sharded result."
        )
    index = NamedSharding(mesh, PartitionSpec(mesh.axis_names)).addressable_devices_indices_map((n,))
    spans = [at[0].indices(n) for at in index.values() if at is not None]
    return slice(min(start for start, _, _ in spans), max(stop for _, stop, _ in spans))
