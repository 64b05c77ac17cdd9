"""Kernel matrices in tiles, for `gram`, `cg_solve` and the estimators.

A tile is a block of rows and columns that stays in the cache from the first layer to the last. An operation on a whole
matrix would read it from memory and write it back. All cores or devices compute tiles at the same time. If the matrix
is symmetric, only tiles on one side of the diagonal are computed.
"""

import copy
import functools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from tqdm import tqdm

from ntklib import _checks
from ntklib.layers import Layer
from ntklib.layers.base import require_independent
from ntklib.scale import ahead
from ntklib.scale.fused import Form, Network, Side, Which, compiled, directions, side

TileIndex = tuple[int, int]
Work = Callable[[int, int, Any], Callable[[], None]]
#: The bytes of one array of a tile, on a CPU and elsewhere. With 448 KiB the arrays of a layer stay in a CPU's cache.
_CPU, _OTHER = 7 * 2**16, 2**26
#: The time to start a tile and to pass on its result, as the number of entries that are computed in this time.
_CALL = 2**14
#: To compute a tile again for near pairs (see `fused.compiled`) takes this many arrays of its size, and two copies of
#: its inputs. A test compares this number with what the compiler reports.
_AGAIN = 4


class Tiles:
    """The tiles of a kernel matrix Θ(x1, x2), [N, M].

    `tiles(i, j)` returns the rows i·tile to (i + 1)·tile and columns j·tile to (j + 1)·tile of the matrix, as a NumPy
    array.

    Args:
        net: The network.
        x1: The inputs of the rows, [N, d] or [N, H, W, C], which stay on the host. Each device gets a copy of them or,
            if the copies are too large, the inputs of one tile at a time.
        x2: The inputs of the columns; by default `x1`.
        kernel: "ntk" or "nngp".
        tile: The number of rows and columns of a tile. By default one array of a tile takes less than half a MiB on a
            CPU, and some 64 MiB on other devices.
        devices: The devices that take part; by default the first device of this process.
        max_memory: The bytes for tiles that are being computed, inputs on devices, and `reserved` together. If needed,
            fewer threads and smaller tiles are used.
        reserved: The bytes that the caller needs.

    Raises:
        TypeError: If an argument has the wrong type, or is traced.
        ValueError: If an argument has a wrong value, if inputs do not fit, if two layers share a parameter, if there is
            too little memory for one tile, or if `ahead.tables` refuses a variance.
    """

    def __init__(
        self,
        net: Layer,
        x1: ArrayLike,
        x2: ArrayLike | None = None,
        *,
        kernel: Which = "ntk",
        tile: int | None = None,
        devices: Sequence[Any] | None = None,
        max_memory: float | None = None,
        reserved: float = 0.0,
    ) -> None:
        _checks.instance("net", net, Layer, "such as `ntklib.mlp(...)`")
        _checks.choice("kernel", kernel, ("ntk", "nngp"))
        if _checks.is_traced(x1, x2, *(value for _, layer in nnx.iter_modules(net) for value in vars(layer).values())):
            raise TypeError(
                "Kernel matrices are computed tile by tile outside of `jit`, `grad` and `vmap`; inside of them use "
                "`net.kernel(x1, x2).ntk`, which can be compiled and differentiated."
            )
        require_independent(net)
        self.net, self.kernel = net, kernel
        self.x1 = np.asarray(_checks.host_inputs("x1", x1))
        self.symmetric = x2 is None
        self.x2 = self.x1 if x2 is None else np.asarray(_checks.host_inputs("x2", x2))
        _checks.same_inputs(self.x1, self.x2)
        self.shape = (len(self.x1), len(self.x2))
        self.dtype = jax.dtypes.canonicalize_dtype(np.result_type(self.x1.dtype, self.x2.dtype))
        self.devices = list(devices or jax.local_devices()[:1])
        self._resident: dict[Any, list[Side]] = {}
        self._executables: dict[Any, Any] = {}
        self._network = Network(net)
        self._tables = ahead.tables(self._network, [self.x1] if self.symmetric else [self.x1, self.x2], self.dtype)
        self._fit(tile, max_memory, reserved)
        first = np.asarray(self.x1[:256], self.dtype)
        self._center = directions(first)[0].mean(0, keepdims=True) if first.ndim == 2 else None

    def _fit(self, tile: int | None, max_memory: float | None, reserved: float) -> None:
        """Choose the tile size, the number of threads, and whether inputs stay on devices, within `max_memory`."""
        if tile is not None:
            _checks.count("tile", tile)
        if max_memory is not None:
            _checks.real("max_memory", max_memory, above=0.0)
        on_cpu = self.devices[0].platform == "cpu"
        self.tile = min(tile, self._largest_tile()) if tile else self._default_tile(_CPU if on_cpu else _OTHER)
        self.threads = len(self.devices) * (max(1, _cores() // len(self.devices)) if on_cpu else 1)
        inputs = self.x1.nbytes + (0 if self.symmetric else self.x2.nbytes)
        bound = math.inf if max_memory is None else max_memory - reserved
        workspace = self._workspace()
        while tile is None and workspace > bound > 0 and self.tile > 16:
            self.tile = (self.tile + 1) // 2
            workspace = self._workspace()
        if workspace > bound:
            raise ValueError(
                f"`max_memory` is {max_memory:.3g} bytes, but one tile of {self.tile} x {self.tile} and the other "
                f"arrays that must be held take {workspace + reserved:.3g}. Allow at least that"
                + (", or use a smaller `tile`." if bound > 0 and self.tile > 16 else ".")
            )
        #: The number of tiles that a thread has at a time. If there is room for two, the thread passes on one while the
        #: device computes the other.
        self.at_hand = int(min(2, bound / workspace))
        self.threads = int(max(1, min(self.threads, bound / workspace / 2)))
        working, copies = self.threads * self.at_hand * workspace, len(self.devices) * inputs
        self._keeps_inputs = copies <= min(2**30, bound - working)
        #: The bytes in use while tiles are computed, without the tiles that were passed on.
        self.memory = reserved + working + (copies if self._keeps_inputs else 0)

    def _default_tile(self, size: int) -> int:
        pixels = math.prod(self.x1.shape[1:-1])
        numbers = pixels**2 if self.net.pools else pixels  # in one array, for each pair of inputs
        most = max(1, math.isqrt(size // (self.dtype.itemsize * numbers)))
        largest = self._largest_tile()
        if most < 128 or largest <= most:
            return min(most, largest)
        # From the multiples of 8 (the vectors of a processor) between `most`/2 and a little above `most`, choose the
        # one with the least work. Padding and the overhead of each tile count as work.
        near, n = range(8 * (most // 8 + most // 128), most // 2, -8), max(self.shape)
        return min(near, key=lambda tile: (strips := -(-n // tile)) * (strips + 1) * (tile**2 + _CALL))

    def _largest_tile(self) -> int:
        """Return the number of inputs, rounded up to a power of two so that sets of similar sizes share programs."""
        return 2 ** (max(self.shape) - 1).bit_length()

    def _workspace(self) -> int:
        """Return the bytes that one tile takes while it is computed: its inputs, intermediate arrays and result."""
        known = _bytes(self._executable(self.devices[0]))
        again = _AGAIN * known[1] + 2 * known[2] if self.x1.ndim == 2 else 0  # for near pairs
        return sum(known) + known[1] + again  # the second `known[1]` is the result on the host

    def _executable(self, device: Any, careful: bool = False) -> Any:
        key = (self.tile, device, careful)
        if key not in self._executables:
            row = (self.tile, *self.x1.shape[1:])
            form = Form.of(self._tables)
            self._executables[key] = compiled(self._network, self.kernel, row, str(self.dtype), device, careful, form)
        return self._executables[key]

    def against(self, x2: np.ndarray) -> "Tiles":
        """Return the tiles of Θ(x1, x2) for other columns. Copies of x1 on devices are used again."""
        other = copy.copy(self)
        other.x2, other.symmetric, other.shape = x2, False, (self.shape[0], len(x2))
        other._resident = {key: block for key, block in self._resident.items() if key[0] == 1}
        other._tables = ahead.tables(self._network, [self.x1, x2], self.dtype)  # x2 may have other variances
        if Form.of(other._tables) != Form.of(self._tables):
            other._executables = {}
        return other

    def pairs(self) -> list[TileIndex]:
        """Return the indices (i, j) of the tiles to compute: all tiles or, for a symmetric matrix, those with j ≥ i."""
        rows, columns = (-(-n // self.tile) for n in self.shape)
        return [(i, j) for i in range(rows) for j in range(i if self.symmetric else 0, columns)]

    def span(self, i: int, n: int) -> slice:
        """Return the rows (or columns) of tile i as a slice, for a matrix of n rows (or columns)."""
        return slice(i * self.tile, min((i + 1) * self.tile, n))

    def __call__(self, i: int, j: int, device: Any = None) -> np.ndarray:
        if self.symmetric and j < i:  # the transpose, equal to the last bit
            return self(j, i, device).T
        return self._cut(i, j, self.begin(i, j, device or self.devices[0])())

    def diagonal(self) -> np.ndarray:
        """Return Θ(x, x) of each input, [N], for a symmetric matrix."""
        return np.concatenate([self(i, i).diagonal() for i in range(-(-self.shape[0] // self.tile))])

    def begin(self, i: int, j: int, device: Any) -> Callable[[], Array]:
        """Start to compute a tile in the background. Return a function that waits for the tile and returns it.

        The tile then has its padding, and lies on the device.
        """
        x64 = functools.partial(jax.enable_x64, self.dtype == np.float64)  # each thread has this setting of its own
        sizes = [min(self.tile, n - k * self.tile) for k, n in zip((i, j), self.shape, strict=True)]
        limits = np.array([*sizes, self.symmetric and i == j], np.int32)
        with x64():
            a, b = self._block(1, i, device), self._block(1 if self.symmetric else 2, j, device)
            entries, near = self._executable(device)(a, b, limits, self._on(device))

        def padded() -> Array:
            if not near:
                return entries
            with jax.enable_x64(True):
                exact = (
                    directions(np.asarray(self._part(x, k), np.float64))[0] for x, k in ((self.x1, i), (self.x2, j))
                )
                sides = (
                    block._replace(exact=jax.device_put(u, device)) for block, u in zip((a, b), exact, strict=True)
                )
                return self._executable(device, careful=True)(*sides, limits, self._on(device))[0]

        return padded

    def _on(self, device: Any) -> Any:
        """Return the activations' tables on a device."""
        key = ("tables", device)
        if key not in self._resident:
            self._resident[key] = jax.device_put(self._tables, device)
        return self._resident[key]

    def _cut(self, i: int, j: int, padded: Array) -> np.ndarray:
        """Return a tile on the host without its padding, and exactly symmetric if it lies on the diagonal."""
        if padded.ndim > 2:
            raise ValueError(
                "`net` must return vectors, but its outputs are images: the kernel has entries for each pixel. Put a "
                "Flatten or GlobalAvgPool before its last Dense layer. (`net.kernel` has the entries of all pixels.)"
            )
        rows, columns = self.span(i, self.shape[0]), self.span(j, self.shape[1])
        entries = np.asarray(padded)[: rows.stop - rows.start, : columns.stop - columns.start]
        return np.where(np.tri(len(entries), dtype=bool), entries.T, entries) if self.symmetric and i == j else entries

    def _part(self, x: Any, i: int) -> np.ndarray:
        """Return the inputs of tile i on the host. The last input is repeated until there are enough for a whole tile.

        All tiles thus have one shape and share one program. Padding with zeros would not do: their variances may be
        outside of the activations' tables, where the kernel is NaN.
        """
        part = np.asarray(x[self.span(i, len(x))], self.dtype)
        return np.concatenate([part, np.repeat(part[-1:], self.tile - len(part), axis=0)])

    def _block(self, which: int, i: int, device: Any) -> Side:
        """Return the inputs of a tile on a device: block i of x1 (`which` = 1) or of x2 (`which` = 2)."""
        x = self.x1 if which == 1 else self.x2
        if not self._keeps_inputs:
            part = self._part(x, i)
            return jax.device_put(side(part, self._center, np.empty_like(part)), device)
        if (which, device) not in self._resident:
            # One array for all tiles, because the memory that a thread allocates and frees stays with that thread.
            whole = aligned((-(-len(x) // self.tile), self.tile, *x.shape[1:]), self.dtype)
            with ThreadPoolExecutor(self.threads) as pool:
                sides = list(pool.map(lambda k: side(self._part(x, k), self._center, whole[k]), range(len(whole))))
            self._resident[which, device] = jax.device_put(sides, device, may_alias=True)
        return self._resident[which, device][i]

    def run(
        self,
        consume: Callable[[int, int, np.ndarray], None],
        pairs: Iterable[TileIndex] | None = None,
        *,
        progress: bool | None = None,
    ) -> None:
        """Compute tiles on all devices, and call `consume(i, j, entries)` with each, from several threads at once."""

        def work(i: int, j: int, device: Any) -> Callable[[], None]:
            padded = self.begin(i, j, device)
            return lambda: consume(i, j, self._cut(i, j, padded()))

        self.each(work, self.pairs() if pairs is None else pairs, progress=progress)

    def each(self, work: Work, pairs: Iterable[TileIndex], *, progress: bool | None = None) -> None:
        """Call `work(i, j, device)` for each pair, on all devices and in several threads.

        A thread starts the next pair before it finishes the last one, if there is room for two tiles. An interrupt
        (Ctrl-C) waits for the pairs that have been started.

        Args:
            work: A function that starts to work on a pair, and returns a function that finishes this work.
            pairs: The pairs (i, j).
            progress: Whether to show a bar with the time left. By default it is shown, unless the environment variable
                CI is set.
        """
        pairs = list(pairs)
        for device in self.devices if pairs else ():  # compile and copy before the threads start
            (
                self._on(device),
                self._executable(device),
                self._block(1, 0, device),
                self._block(1 if self.symmetric else 2, 0, device),
            )
        todo, lock = iter(pairs), threading.Lock()

        def worker(device: Any) -> None:
            begun: deque[Callable[[], None]] = deque()
            while True:
                with lock:
                    pair = next(todo, None)
                if pair is not None:
                    begun.append(work(*pair, device))
                while begun and (pair is None or len(begun) == self.at_hand):
                    begun.popleft()()
                    with lock:
                        bar.update()
                if pair is None:
                    return

        quiet = bool(os.environ.get("CI")) if progress is None else not progress
        # The bar appears only if the computation takes longer than a second.
        bar = tqdm(total=len(pairs), desc="kernel", unit="tile", disable=quiet, leave=False, delay=1.0)
        with bar, ThreadPoolExecutor(self.threads) as pool:
            workers = [pool.submit(worker, self.devices[i % len(self.devices)]) for i in range(self.threads)]
            try:
                for done in as_completed(workers):
                    done.result()
            finally:  # after an error or an interrupt no further pair is started
                with lock:
                    list(todo)


@functools.lru_cache(maxsize=64)
def _bytes(executable: Any) -> tuple[int, int, int]:
    """Return the bytes of intermediate arrays, result and arguments. They are cached, as XLA takes 2 ms to answer."""
    memory = executable.memory_analysis()
    return memory.temp_size_in_bytes, memory.output_size_in_bytes, memory.argument_size_in_bytes


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialized array, which starts at a multiple of 64 bytes: JAX uses it on a CPU without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
