"""Kernels of a finite network in tiles, under a bound on memory.

Each tile is computed from two blocks of examples. If one example with all outputs needs too much memory, a block has
some of the outputs only.
"""

import functools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from ntklib import _checks
from ntklib.empirical.pure import Arguments, Function, alike


class Memory(NamedTuple):
    """The bytes that a block of examples and outputs needs.

    Args:
        kept: To keep the block for its tiles.
        computing: To compute it.
        contracting: To contract two blocks to a tile.
    """

    kept: int
    computing: int
    contracting: int

    @property
    def total(self) -> int:
        """The bytes for a tile: a block is kept while a second one is computed, and then both are contracted."""
        return self.kept + max(self.computing, self.kept + self.contracting)


class Strategy(NamedTuple):
    """A strategy to compute a kernel. Strategies with equal entries are equal, and therefore compile once.

    Args:
        features: features(function, outputs, arguments, x [B, ...], basis [k, K]) computes a block, that is what the
            tiles need of some examples.
        written_at: written_at(block, chunk, start) returns a block with one chunk of examples written at `start`.
        contract: contract(function, outputs, arguments, left, right) contracts two blocks to a tile: [B, B'] for "mean"
            (Σ_k Θ_kk over the outputs of the block), [B, B', k, k'] for "full", [B, B', k] for "diagonal".
        function: The model.
        outputs: "mean", "full" or "diagonal".
        count: K, the number of outputs of the model.
    """

    features: Callable[..., Any]
    written_at: Callable[..., Any]
    contract: Callable[..., Array]
    function: Function
    outputs: str
    count: int


class Tiling(NamedTuple):
    """The sizes of blocks.

    Args:
        examples: The number of examples in a block.
        outputs: The number of outputs in a block.
        resident: The number of blocks of x1 that are held in memory while we loop over the blocks of x2.
        chunk: The number of examples that are computed at a time to fill a block.
    """

    examples: int
    outputs: int
    resident: int
    chunk: int


def choose(
    memory: Callable[[int, int], Memory], chunk: Callable[[int], int], k: int, most: int, max_memory: float
) -> Tiling:
    """Choose the sizes of blocks for a bound on memory.

    A block gets as many examples, up to `most`, as need no more than a third of the bound, so that several blocks can
    be held. If that is less than one example, it gets one. If one example with all outputs exceeds the bound, it gets
    fewer outputs.

    Args:
        memory: The `Memory` of a block with b examples and k outputs.
        chunk: The number of examples to compute at a time, for k outputs.
        k: The number of outputs of the model.
        most: The largest number of examples in a block.
        max_memory: The bound in bytes.
    """
    fits = (b for b in range(most, 0, -1) if memory(b, k).total <= max_memory / 3)
    examples, outputs = next(fits, 1), k
    if memory(examples, outputs).total > max_memory:
        divisors = (d for d in range(k, 0, -1) if k % d == 0)
        outputs = next((d for d in divisors if memory(1, d).total <= max_memory), 0)
    if outputs == 0:
        raise ValueError(
            f"`max_memory` = {max_memory:g} bytes is too little for even one pair of examples and one output of this "
            f"model; {memory(1, 1).total:,} would do. Use more, or choose another `method`."
        )
    one = memory(examples, outputs)
    spare = max_memory - one.total
    return Tiling(examples, outputs, 1 + int(spare // max(one.kept, 1)), min(examples, chunk(outputs)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _empty(strategy: Strategy, size: int, arguments: Arguments, x: Array, basis: Array) -> Any:
    """Return a block of zeros, which is then filled chunk by chunk."""
    shapes = jax.eval_shape(
        functools.partial(strategy.features, strategy.function, strategy.outputs), arguments, x[:size], basis
    )
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def add_chunk(
    strategy: Strategy, size: int, block: Any, arguments: Arguments, x: Array, basis: Array, at: Array
) -> Any:
    """Compute `size` examples of x from at[0] on, and write them to the block from at[1] on."""
    chunk = jax.lax.dynamic_slice_in_dim(x, at[0], size)
    return strategy.written_at(
        block, strategy.features(strategy.function, strategy.outputs, arguments, chunk, basis), at[1]
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def add_tile(
    strategy: Strategy, mirror: bool, kernel: Array, arguments: Arguments, left: Any, right: Any, at: Array
) -> Array:
    """Compute a tile and write it to the kernel at row i, column j and outputs k, l.

    For the mean, tiles of different outputs are added up.
    """
    tile = strategy.contract(strategy.function, strategy.outputs, arguments, left, right).astype(kernel.dtype)
    i, j, k, m = at
    start, turned = {
        "mean": ((i, j), (j, i)),
        "diagonal": ((i, j, k), (j, i, k)),
        "full": ((i, j, k, m), (j, i, m, k)),
    }[strategy.outputs]
    if strategy.outputs == "mean":  # add to the tile of the outputs before, unless these are the first
        before = jax.lax.dynamic_slice(kernel, start, tile.shape)
        tile = tile / strategy.count + jnp.where(k == 0, 0, before)
    kernel = jax.lax.dynamic_update_slice(kernel, tile, start)
    if mirror:
        other = tile.transpose({"mean": (1, 0), "diagonal": (1, 0, 2), "full": (1, 0, 3, 2)}[strategy.outputs])
        kernel = jax.lax.dynamic_update_slice(kernel, other, turned)
    return kernel


def _keep_freed_memory() -> None:
    """Make the allocator of Linux keep freed memory.

    By default it returns the memory of a freed block to the system, and each page is cleared and mapped again for the
    next block. That takes a fifth of the time of a small model. After an array as large as this one has been freed, the
    allocator keeps up to twice its size; a larger array would have no effect. Other allocators ignore it.
    """
    np.empty(2**25 - 2**16, np.uint8)


def compute(
    strategy: Strategy,
    arguments: Arguments,
    x1: Array,
    x2: Array | None,
    dtype: Any,
    tiling: Tiling,
    *,
    quiet: bool = False,
) -> Array:
    """Compute a kernel tile by tile.

    Without `x2` only the tiles of the upper triangle are computed, and each is also written at its mirror place.
    """
    (kernel,) = together([steps(strategy, arguments, x1, x2, dtype, tiling, quiet=quiet)])
    return kernel


def together[T](computations: Sequence[Generator[Any, None, T]]) -> list[T]:
    """Run several `steps`, each on a device of its own, at the same time, and return their results."""
    results: list[Any] = [None] * len(computations)
    going = {i: next(computation) for i, computation in enumerate(computations)}
    while going:
        for i, begun in list(going.items()):
            # Wait for each operation before starting the next: programs in a queue would hold memory of their own.
            jax.block_until_ready(begun)
            try:
                going[i] = next(computations[i])
            except StopIteration as end:
                results[i] = end.value
                del going[i]
            del begun
    return results


def steps(
    strategy: Strategy,
    arguments: Arguments,
    x1: Array,
    x2: Array | None,
    dtype: Any,
    tiling: Tiling,
    *,
    quiet: bool = False,
) -> Generator[Any, None, Array]:
    """Do what `compute` does in steps: yield each array whose computation has started, and return the kernel."""
    _keep_freed_memory()
    symmetric, outputs, k = x2 is None, strategy.outputs, strategy.count
    x2 = x1 if x2 is None else x2
    shape = (x1.shape[0], x2.shape[0], *{"mean": (), "diagonal": (k,), "full": (k, k)}[outputs])
    kernel, eye = alike((jnp.zeros(shape, dtype), jnp.eye(k, dtype=dtype)), x1)
    rows, columns = (_parts(x.shape[0], tiling.examples) for x in (x1, x2))
    grid = _Grid(rows, columns, range(0, k, tiling.outputs), tiling.resident, symmetric, full=outputs == "full")
    traced = _checks.is_traced(x1, x2, *jax.tree.leaves(arguments))
    chunk = 2**31 if traced else tiling.chunk

    def block(x: Array, parts: _Parts, i: int, output_start: int) -> Generator[Any, None, Any]:
        basis = eye[output_start : output_start + tiling.outputs]
        return _block(strategy, arguments, x, parts.starts[i], parts.size, basis, chunk)

    quiet = quiet or traced or bool(os.environ.get("CI"))
    with tqdm(total=grid.tiles(), desc="empirical NTK", unit="tile", disable=quiet, delay=2, leave=False) as bar:
        for resident, output_start in grid.residents():
            kept = []
            for i in resident:
                kept.append((yield from block(x1, rows, i, output_start)))
            for j, other, met in grid.passing(resident, output_start):
                there = symmetric and j in resident and other == output_start
                right = kept[j - resident.start] if there else (yield from block(x2, columns, j, other))
                for i in met:
                    at = np.array([rows.starts[i], columns.starts[j], output_start, other], np.int32)
                    kernel = add_tile(strategy, symmetric, kernel, arguments, kept[i - resident.start], right, at)
                    yield kernel
                    bar.update()
                del right  # free it before the next block is computed
            del kept
    return kernel


def _block(
    strategy: Strategy, arguments: Arguments, x: Array, start: int, size: int, basis: Array, chunk: int
) -> Generator[Any, None, Any]:
    """Compute the block of `size` examples from `start` on, at most `chunk` examples at a time."""
    if size <= chunk:
        part = x if size == x.shape[0] else x[start : start + size]
        made = strategy.features(strategy.function, strategy.outputs, arguments, part, basis)
        yield made
        return made
    made, chunks = _empty(strategy, size, arguments, x, basis), _parts(size, chunk)
    for first in chunks.starts:
        at = np.array([start + first, first], np.int32)
        made = add_chunk(strategy, chunks.size, made, arguments, x, basis, at)
        yield made
    return made


class _Parts(NamedTuple):
    """A division of examples into parts of one size, given by their first examples. Parts may overlap a little."""

    starts: list[int]
    size: int


def _parts(n: int, most: int) -> _Parts:
    """Divide `n` examples into as few parts as possible with at most `most` examples in each.

    All parts have one size, so that they compile once.
    """
    count = -(-n // most)
    size = -(-n // count)
    return _Parts([i * (n - size) // max(count - 1, 1) for i in range(count)], size)


class _Grid(NamedTuple):
    """The places of the tiles of a kernel: blocks of rows, blocks of columns, and the first outputs of blocks."""

    rows: _Parts
    columns: _Parts
    output_starts: range
    kept: int  # the number of blocks of rows that are held at a time
    symmetric: bool
    full: bool

    def residents(self) -> Iterator[tuple[range, int]]:
        """Yield the blocks of rows that are held at the same time, with their first output."""
        for top in range(0, len(self.rows.starts), self.kept):
            for output_start in self.output_starts:
                yield range(top, min(top + self.kept, len(self.rows.starts))), output_start

    def passing(self, resident: range, output_start: int) -> Iterator[tuple[int, int, range]]:
        """Yield the blocks of columns that are contracted with the resident blocks of rows.

        Each comes with its first output, and with those of the resident blocks that it is contracted with. If the
        kernel is symmetric, only blocks on one side of the diagonal are contracted.
        """
        for j in range(resident.start if self.symmetric else 0, len(self.columns.starts)):
            met = range(resident.start, min(j + 1, resident.stop)) if self.symmetric else resident
            for other in self.output_starts if self.full else (output_start,):
                yield j, other, met

    def tiles(self) -> int:
        """Return the number of tiles."""
        return sum(
            len(met)
            for resident, output_start in self.residents()
            for _, _, met in self.passing(resident, output_start)
        )
