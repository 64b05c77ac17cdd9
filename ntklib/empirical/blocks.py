"""Kernels of a finite network in tiles, under a bound on memory.

A tile is the part of the kernel between some examples of x1 and some of x2. For each of these two sets the method
computes a block, for instance the Jacobians of the examples. It then contracts the two blocks, which gives the tile.
A block is used for several tiles. If the block of one example needs too much memory, a block has only some of the
outputs.
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

#: For each `outputs`, the transposition of a tile to its mirror image on the other side of the diagonal.
MIRROR = {"mean": (1, 0), "diagonal": (1, 0, 2), "full": (1, 0, 3, 2)}


class Memory(NamedTuple):
    """The bytes that a block needs.

    Args:
        kept: The bytes of the block itself.
        computing: The bytes needed to compute the block, including the block itself.
        contracting: The bytes needed, besides two blocks, to contract them to a tile.
    """

    kept: int
    computing: int
    contracting: int

    @property
    def total(self) -> int:
        """The bytes for a tile: one block is kept while the other is computed, and then both are contracted."""
        return self.kept + max(self.computing, self.kept + self.contracting)


class Strategy(NamedTuple):
    """How to compute a kernel. A strategy is a static argument of `jit`: equal strategies share compiled programs.

    Args:
        features: features(function, outputs, arguments, x [B, ...], basis [k, K]) computes the block of B examples and
            k outputs. `basis` has the rows of the identity for these outputs.
        written_at: written_at(block, chunk, start) returns the block with a chunk written from example `start` on.
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
        resident: The largest number of blocks of x1 that are held in memory while we loop over the blocks of x2.
        chunk: The number of examples that are computed at a time to fill a block.
    """

    examples: int
    outputs: int
    resident: int
    chunk: int


def choose(
    memory: Callable[[int, int], Memory], chunk: Callable[[int], int], count: int, most: int, max_memory: float
) -> Tiling:
    """Choose the sizes of blocks for a bound on memory.

    A block gets all outputs and the largest number of examples, up to `most`, with which a tile needs at most a third
    of the bound, so that several blocks can be held. If even one example needs more, the block gets one. If that
    exceeds the bound itself, the block gets fewer outputs: the largest divisor of K that fits.

    Args:
        memory: memory(b, k) is the `Memory` of a block with b examples and k outputs.
        chunk: chunk(k) is the number of examples to compute at a time, for k outputs.
        count: K, the number of outputs of the model.
        most: The largest number of examples in a block.
        max_memory: The bound in bytes.

    Raises:
        ValueError: If a tile of one pair of examples and one output exceeds the bound.
    """
    fits = (b for b in range(most, 0, -1) if memory(b, count).total <= max_memory / 3)
    examples, outputs = next(fits, 1), count
    if memory(examples, outputs).total > max_memory:
        divisors = (d for d in range(count, 0, -1) if count % d == 0)
        outputs = next((d for d in divisors if memory(1, d).total <= max_memory), 0)
    if outputs == 0:
        raise ValueError(
            f"`max_memory` = {max_memory:g} bytes is too little for even one pair of examples and one output of this "
            f"model; {memory(1, 1).total:,} would do. Use more, or choose another `method`."
        )
    needed = memory(examples, outputs)
    resident = 1 + int((max_memory - needed.total) // max(needed.kept, 1))
    return Tiling(examples, outputs, resident, min(examples, chunk(outputs)))


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
    """Compute the chunk of the `size` examples from x[at[0]] on, and write it to the block, from example at[1] on."""
    part = jax.lax.dynamic_slice_in_dim(x, at[0], size)
    chunk = strategy.features(strategy.function, strategy.outputs, arguments, part, basis)
    return strategy.written_at(block, chunk, at[1])


def _with_tile(
    strategy: Strategy, mirror: bool, kernel: Array, arguments: Arguments, left: Any, right: Any, at: Array
) -> Array:
    """Compute a tile and write it to the kernel, with `mirror` also to the other side of the diagonal.

    `at` has the first row, the first column, and the first output of each block. For the mean over outputs, tiles of
    different outputs are added up.
    """
    tile = strategy.contract(strategy.function, strategy.outputs, arguments, left, right).astype(kernel.dtype)
    i, j, left_output, right_output = at
    start, mirrored_start = {
        "mean": ((i, j), (j, i)),
        "diagonal": ((i, j, left_output), (j, i, left_output)),
        "full": ((i, j, left_output, right_output), (j, i, right_output, left_output)),
    }[strategy.outputs]
    if strategy.outputs == "mean":
        # The sum over earlier outputs. Neighboring tiles have not added to it: tiles overlap only if blocks have
        # several examples, and then they have all outputs (see `choose`).
        before = jax.lax.dynamic_slice(kernel, start, tile.shape)
        tile = tile / strategy.count + jnp.where(left_output == 0, 0, before)
    kernel = jax.lax.dynamic_update_slice(kernel, tile, start)
    if mirror:
        kernel = jax.lax.dynamic_update_slice(kernel, tile.transpose(MIRROR[strategy.outputs]), mirrored_start)
    return kernel


add_tile = jax.jit(_with_tile, static_argnums=(0, 1), donate_argnums=2)
#: The same for traced values: under `vmap` the result has one more axis than the kernel, and cannot reuse its memory.
_add_traced_tile = jax.jit(_with_tile, static_argnums=(0, 1))


def _keep_freed_memory() -> None:
    """Make the allocator of Linux (glibc) keep freed memory.

    By default it returns the memory of a freed block to the system, which clears and maps each page again for the next
    block. That takes a fifth of the time of a small model. An array of almost 32 MiB is made here and freed at once.
    From then on the allocator keeps up to twice the size of this array. A larger array would have no effect. With other
    allocators nothing changes.
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

    Without `x2` only the tiles of the upper triangle are computed, and each is also written to the lower triangle.
    """
    (kernel,) = together([steps(strategy, arguments, x1, x2, dtype, tiling, quiet=quiet)])
    return kernel


def together[T](computations: Sequence[Generator[Any, None, T]]) -> list[T]:
    """Run several generators such as `steps` at the same time, each on its own device, and return their results."""
    results: list[Any] = [None] * len(computations)
    going = {i: next(computation) for i, computation in enumerate(computations)}
    while going:
        for i, begun in list(going.items()):
            # Wait for an operation before the next one starts on its device: a program in the queue would hold memory.
            jax.block_until_ready(begun)
            try:
                going[i] = next(computations[i])
            except StopIteration as end:
                results[i] = end.value
                del going[i]
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
    """Compute a kernel like `compute`, but yield each array as soon as its computation has started.

    The caller must wait for the array before it resumes this generator. The generator returns the kernel at the end.
    """
    _keep_freed_memory()
    symmetric, outputs, count = x2 is None, strategy.outputs, strategy.count
    x2 = x1 if x2 is None else x2
    shape = (x1.shape[0], x2.shape[0], *{"mean": (), "diagonal": (count,), "full": (count, count)}[outputs])
    kernel, eye = alike((jnp.zeros(shape, dtype), jnp.eye(count, dtype=dtype)), x1)
    rows, columns = (_parts(x.shape[0], tiling.examples) for x in (x1, x2))
    grid = _Grid(rows, columns, range(0, count, tiling.outputs), tiling.resident, symmetric, full=outputs == "full")
    traced = _checks.is_traced(x1, x2, *jax.tree.leaves(arguments))
    add = _add_traced_tile if traced else add_tile
    chunk = 2**31 if traced else tiling.chunk  # `jit` would unroll the loop over chunks

    def block(x: Array, parts: _Parts, i: int, output_start: int) -> Generator[Any, None, Any]:
        basis = eye[output_start : output_start + tiling.outputs]
        return _block(strategy, arguments, x, parts.starts[i], parts.size, basis, chunk)

    quiet = quiet or traced or bool(os.environ.get("CI"))
    with tqdm(total=grid.tiles(), desc="empirical NTK", unit="tile", disable=quiet, delay=2, leave=False) as bar:
        for resident, left_output in grid.residents():
            left = []
            for i in resident:
                left.append((yield from block(x1, rows, i, left_output)))
            for j, right_output, partners in grid.columns_for(resident, left_output):
                is_resident = symmetric and j in resident and right_output == left_output
                right = left[j - resident.start] if is_resident else (yield from block(x2, columns, j, right_output))
                for i in partners:
                    at = np.array([rows.starts[i], columns.starts[j], left_output, right_output], np.int32)
                    kernel = add(strategy, symmetric, kernel, arguments, left[i - resident.start], right, at)
                    yield kernel
                    bar.update()
                del right  # free it before the next block is computed
            del left
    return kernel


def _block(
    strategy: Strategy, arguments: Arguments, x: Array, start: int, size: int, basis: Array, chunk: int
) -> Generator[Any, None, Any]:
    """Compute the block of the `size` examples that begin at `start`, at most `chunk` examples at a time."""
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
    """A division of examples into parts of `size` examples, which begin at `starts` and may overlap."""

    starts: list[int]
    size: int


def _parts(n: int, most: int) -> _Parts:
    """Divide `n` examples into as few parts as possible with at most `most` examples in each.

    All parts have the same size, so that one compiled program serves all.
    """
    count = -(-n // most)
    size = -(-n // count)
    return _Parts([i * (n - size) // max(count - 1, 1) for i in range(count)], size)


class _Grid(NamedTuple):
    """The order in which blocks of rows are contracted with blocks of columns.

    A block is given by its place in `rows` or `columns`, and by the first of its outputs, one of `output_starts`.
    """

    rows: _Parts
    columns: _Parts
    output_starts: range
    most_resident: int  # the largest number of blocks of rows that are held at the same time
    symmetric: bool
    full: bool

    def residents(self) -> Iterator[tuple[range, int]]:
        """Yield the blocks of rows that are held at the same time, and their first output."""
        for top in range(0, len(self.rows.starts), self.most_resident):
            for output_start in self.output_starts:
                yield range(top, min(top + self.most_resident, len(self.rows.starts))), output_start

    def columns_for(self, resident: range, left_output: int) -> Iterator[tuple[int, int, range]]:
        """Yield each block of columns, its first output, and the resident blocks of rows to contract it with.

        If the kernel is symmetric, block i of rows is contracted with block j of columns only for i ≤ j.
        """
        for j in range(resident.start if self.symmetric else 0, len(self.columns.starts)):
            partners = range(resident.start, min(j + 1, resident.stop)) if self.symmetric else resident
            for right_output in self.output_starts if self.full else (left_output,):
                yield j, right_output, partners

    def tiles(self) -> int:
        """Return the number of tiles."""
        return sum(
            len(partners)
            for resident, left_output in self.residents()
            for _, _, partners in self.columns_for(resident, left_output)
        )
