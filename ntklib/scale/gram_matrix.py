"""Kernel matrices of any size: in memory, sharded over devices and hosts, or on disk."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.layers import Layer
from ntklib.scale.fused import Which
from ntklib.scale.store import Store, local_path
from ntklib.scale.tiles import TileIndex, Tiles, aligned

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
) -> Float[Array, "N M"]: ...


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
) -> "Float[Array, 'N M'] | TensorStore":
    """Return the kernel matrix of an infinitely wide network, at any size.

    The matrix is `net.kernel(x1, x2).ntk`, computed several times faster: on all cores, in tiles (blocks of rows and
    columns). Without `x2` only one side of the diagonal is computed. Activations without a
    closed form use tables, which are made at the first call for the variances that occur.

    Args:
        net: The network.
        x1: Inputs [N, d] or [N, H, W, C]. NumPy arrays may be larger than a device's memory, for instance
            memory-mapped ones.
        x2: Inputs [M, d] or [M, H, W, C]; by default `x1`.
        kernel: "ntk" or "nngp".
        tile: The number of rows and columns of a tile; by default some 300 on a CPU and 4,000 on a GPU in float32, and
            fewer in float64 or for images.
        mesh: A `jax.sharding.Mesh`, whose devices share the work. Without `store` the result is sharded over them by
            rows, N/devices each. Under `jax.distributed` each process computes the rows of its own devices. Without a
            mesh each process computes all rows.
        store: A folder on this machine. It is made if it does not exist. The result is written to it tile by tile
            (zarr, through tensorstore); see the note.
        max_memory: The bytes that this call may hold at a time; by default there is no bound. The result counts unless
            it is stored. The given inputs do not count; their copies on devices do.
        progress: Whether long runs show a bar with the time left. By default they do, unless the environment variable
            CI is set.

    Returns:
        The matrix, [N, M]. With `store` it is a `tensorstore.TensorStore` k, and `np.asarray(k[:100])` reads 100 rows.

    Raises:
        TypeError: If an argument has the wrong type, or is traced by `jit`, `grad` or `vmap`.
        ValueError: If an argument has a wrong value, if inputs do not fit, if outputs are images, if two layers share a
            parameter, if a layer has no kernel at its place in the network, if the size of the mesh does not divide N
            (without `store`), if there is too little memory for one tile, if variances leave the range in which an
            activation's accuracy is known, or if the store belongs to another run or is damaged.

    Example:
        >>> import jax.numpy as jnp, ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.mlp([2, 64, 1], w_std=2**0.5, rngs=nnx.Rngs(0))
        >>> [[round(float(e), 4) for e in row] for row in gram(net, jnp.eye(2))]
        [[2.0, 0.3183], [0.3183, 2.0]]

    Note:
        Accuracy: the error of an entry relative to √(Θ(x, x) Θ(x', x')) is below 2e-6 in float32 and 1e-10 in float64.
        This holds to depth 20, and also for inputs that are zero, equal, nearly equal, opposite or of very different
        size. Each further layer adds 1e-7 in float32. Deep networks can magnify rounding errors. Near an unstable fixed
        point of the variance map (GELU with w_std 1.45) the factor is 30 at depth 20 and 240 at depth 50, with errors
        of 6e-6 and 7e-5 in float32. In the chaotic phase the factor has no bound for inputs that are nearly the same
        (see `Layer.kernel`). Use float64 in both cases. With pooling, pairs of nearly equal color pixels have errors up
        to 3e-4 in float32 and 3e-8 in float64. Inputs in float16 and bfloat16 are converted to float32.

        Range: piecewise linear functions, sign, erf and GELU allow all variances q before the activation. The largest q
        is 1e4 for tanh, SiLU, ELU and the sigmoid, and 1e4 or less for functions of your own without a `dual`. In
        float32 (float64) sin(ωx) allows ω²q ≤ 100 (1e10), e^(ax) a²q ≤ 20 (150), e^(−bx²) q ≤ 1e30 (1e150), and a
        polynomial E[φ²] ≤ 1e30 (1e280). Larger variances raise an error.

        Cost: N·M·d multiplications for the first layer, and about 20 for each further layer and entry with ReLU.
        Without `x2` half as many are needed. Memory: the result, some 25 MB for each core, and up to 1 GiB for the
        inputs on the devices. Larger inputs are passed to a device tile by tile. The function is not differentiable:
        for gradients use `net.kernel`.

        Store: an interrupted run continues from the tiles that are in the folder, and ends with the same bytes. If the
        folder holds something else, or was made with other inputs, another network (widths count) or other settings, an
        error is raised and nothing is changed. Tiles have checksums. Tiles that are already there are read once, and
        the error about a damaged tile names its file. Under `jax.distributed` the processes share the tiles, and all
        must see the folder. Other processes may fill the same store at the same time without knowing of each other.

    References:
        Jacot et al. 2018, Theorem 1.

    See Also:
        `cg_solve`, which solves for kernel regression without storing the matrix.
    """
    devices = mesh_devices(mesh)
    path = None if store is None else local_path("store", store)
    if path is not None and tile is None:
        tile = Store.tile_of(path)
    n, m = ((np.shape(x) or (1,))[0] for x in (x1, x1 if x2 is None else x2))  # `Tiles` checks the inputs
    rows = slice(0, 0) if path is not None else _rows(mesh, n)  # of the result in the memory of this process
    types = [getattr(x, "dtype", float) for x in (x1, x2) if x is not None]
    itemsize = max(4, *(jax.dtypes.canonicalize_dtype(dtype).itemsize for dtype in types))  # float16 becomes float32
    held = (rows.stop - rows.start) * m * itemsize
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
    """Return the rows `rows` of the matrix, which belong to this process."""
    (n, m), size = tiles.shape, tiles.tile
    out = aligned((rows.stop - rows.start, m), tiles.dtype)
    owned = range(rows.start // size, -(-rows.stop // size))
    # A tile (i, j) below the diagonal is the transpose of (j, i), and is not computed if this process computes (j, i).
    pairs = [(i, j) for i in owned for j in range(-(-m // size)) if not (tiles.symmetric and j < i and j in owned)]

    def put(i: int, j: int, entries: np.ndarray) -> None:
        high, wide = tiles.span(i, n), tiles.span(j, m)
        _place(out, rows, high, wide, entries)
        if tiles.symmetric and i != j and j in owned:
            _place(out, rows, wide, high, entries.T)

    tiles.run(put, pairs, progress=progress)
    return out


def _place(out: np.ndarray, rows: slice, high: slice, wide: slice, entries: np.ndarray) -> None:
    """Write those entries of a tile with rows `high` and columns `wide` to `out` whose rows belong to `rows`."""
    start, stop = max(high.start, rows.start), min(high.stop, rows.stop)
    if start < stop:
        out[start - rows.start : stop - rows.start, wide] = entries[start - high.start : stop - high.start]


def _stored(tiles: Tiles, path: Path, progress: bool | None) -> "TensorStore":
    store = Store(path, tiles)
    ours = tiles.pairs()[jax.process_index() :: jax.process_count()]

    def places(i: int, j: int) -> set[TileIndex]:
        """Return the places of a tile and, for a symmetric matrix, of its transpose: the store holds both."""
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
    """Return the devices of a mesh that belong to this process; without a mesh, the first device of this process."""
    if mesh is None:
        return jax.local_devices()[:1]
    _checks.instance("mesh", mesh, Mesh, "e.g. jax.make_mesh((jax.device_count(),), ('rows',))")
    ours = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    if not ours:
        raise ValueError(
            f"`mesh` must hold a device of every process; process {jax.process_index()} has none in it. "
            f"Make it of all devices: jax.make_mesh((jax.device_count(),), ('rows',))."
        )
    return ours


def _rows(mesh: Mesh | None, n: int) -> slice:
    """Return the rows of the result that this process holds."""
    if mesh is None:
        return slice(0, n)
    _checks.divides_rows(mesh.size, n, ", or `store=` in place of a sharded result")
    index = NamedSharding(mesh, PartitionSpec(mesh.axis_names)).addressable_devices_indices_map((n,))
    spans = [at[0].indices(n) for at in index.values() if at is not None]
    return slice(min(start for start, _, _ in spans), max(stop for _, stop, _ in spans))
