"""Kernels of a finite network in tiles, under a bound on memory: blocks of examples, and of outputs where one example
is too much.
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
    """Bytes for a block of examples and outputs: `kept` of it for its tiles, `making` it, `joining` two for a tile."""

    kept: int
    making: int
    joining: int

    @property
    def total(self) -> int:
        """Of two blocks, the second of which is made while the first is there."""
        return self.kept + max(self.making, self.kept + self.joining)


class Way(NamedTuple):
    """One way to compute a kernel. Ways with equal entries are equal, and so compile once.

    features(function, outputs, arguments, x [B, ...], units [k, K]) is what the tiles need of a block;
    placed(block, piece, start) the block with some of its examples in place, from `start` on;
    contract(function, outputs, arguments, left, right) the tile: "mean" Σ_k Θ_kk over the block's outputs [B, B'],
    "full" [B, B', k, k'], "diagonal" [B, B', k].
    """

    features: Callable[..., Any]
    placed: Callable[..., Any]
    contract: Callable[..., Array]
    function: Function
    outputs: str
    count: int  # K


class Tiling(NamedTuple):
    """Examples and outputs in a block, blocks of x1 kept at a time while those of x2 pass by, and examples of a block
    taken at a time to make it.
    """

    examples: int
    outputs: int
    panel: int
    piece: int


def choose(
    memory: Callable[[int, int], Memory], piece: Callable[[int], int], k: int, most: int, max_memory: float
) -> Tiling:
    """At most `most` examples: as many as take no more than a third of the bound, so that several blocks can be kept;
    one, if that fits at all; then fewer outputs at a time.
    """
    fits = (b for b in range(most, 0, -1) if memory(b, k).total <= max_memory / 3)
    examples, outputs = next(fits, 1), k
    if memory(examples, outputs).total > max_memory:
        divisors = (d for d in range(k, 0, -1) if k % d == 0)
        outputs = next((d for d in divisors if memory(1, d).total <= max_memory), 0)
    if outputs == 0:
        raise ValueError(
            f"`max_memory` = {max_memory:g} bytes is too little for even one pair of examples and one output of this "
            f"model; {memory(1, 1).total:,} would do. Raise it, or choose another `method`."
        )
    one = memory(examples, outputs)
    spare = max_memory - one.total
    return Tiling(examples, outputs, 1 + int(spare // max(one.kept, 1)), min(examples, piece(outputs)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _empty(way: Way, size: int, arguments: Arguments, x: Array, units: Array) -> Any:
    """A block to be filled."""
    shapes = jax.eval_shape(functools.partial(way.features, way.function, way.outputs), arguments, x[:size], units)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def add_piece(way: Way, size: int, block: Any, arguments: Arguments, x: Array, units: Array, at: Array) -> Any:
    """The block with `size` examples of x in place: those from at[0] of x on, from at[1] of the block on."""
    piece = jax.lax.dynamic_slice_in_dim(x, at[0], size)
    return way.placed(block, way.features(way.function, way.outputs, arguments, piece, units), at[1])


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def add_tile(way: Way, mirror: bool, kernel: Array, arguments: Arguments, left: Any, right: Any, at: Array) -> Array:
    """The kernel with one tile in place, at row i, column j and outputs k, l; the mean adds up over outputs."""
    tile = way.contract(way.function, way.outputs, arguments, left, right).astype(kernel.dtype)
    i, j, k, m = at
    start, turned = {
        "mean": ((i, j), (j, i)),
        "diagonal": ((i, j, k), (j, i, k)),
        "full": ((i, j, k, m), (j, i, m, k)),
    }[way.outputs]
    if way.outputs == "mean":  # over the blocks of outputs, the first of which begins anew
        before = jax.lax.dynamic_slice(kernel, start, tile.shape)
        tile = tile / way.count + jnp.where(k == 0, 0, before)
    kernel = jax.lax.dynamic_update_slice(kernel, tile, start)
    if mirror:
        other = tile.transpose({"mean": (1, 0), "diagonal": (1, 0, 2), "full": (1, 0, 3, 2)}[way.outputs])
        kernel = jax.lax.dynamic_update_slice(kernel, other, turned)
    return kernel


def _keep_freed_memory() -> None:
    """The allocator of Linux gives what a block frees back to the system, and each page is cleared and mapped again for
    the next: a fifth of the time of a small model. Once it has seen a piece as large as this freed, it keeps as much
    as two of them for later; a larger piece would not count. With other allocators this does nothing.
    """
    np.empty(2**25 - 2**16, np.uint8)


def compute(
    way: Way, arguments: Arguments, x1: Array, x2: Array | None, dtype: Any, tiling: Tiling, *, quiet: bool = False
) -> Array:
    """The kernel in tiles, each written in place; without `x2` those of the upper triangle only, and their mirrors."""
    (kernel,) = together([steps(way, arguments, x1, x2, dtype, tiling, quiet=quiet)])
    return kernel


def together[T](computations: Sequence[Generator[Any, None, T]]) -> list[T]:
    """The results of several `steps`, on a device each, that work at the same time."""
    results: list[Any] = [None] * len(computations)
    going = {i: next(computation) for i, computation in enumerate(computations)}
    while going:
        for i, begun in list(going.items()):
            # What is begun is waited for: programs that stand in a queue would hold memory of their own.
            jax.block_until_ready(begun)
            try:
                going[i] = next(computations[i])
            except StopIteration as end:
                results[i] = end.value
                del going[i]
            del begun
    return results


def steps(
    way: Way, arguments: Arguments, x1: Array, x2: Array | None, dtype: Any, tiling: Tiling, *, quiet: bool = False
) -> Generator[Any, None, Array]:
    """`compute` step by step: yields what it has begun to compute, and returns the kernel."""
    _keep_freed_memory()
    symmetric, outputs, k = x2 is None, way.outputs, way.count
    x2 = x1 if x2 is None else x2
    shape = (x1.shape[0], x2.shape[0], *{"mean": (), "diagonal": (k,), "full": (k, k)}[outputs])
    kernel, eye = alike((jnp.zeros(shape, dtype), jnp.eye(k, dtype=dtype)), x1)
    rows, columns = (_parts(x.shape[0], tiling.examples) for x in (x1, x2))
    grid = _Grid(rows, columns, range(0, k, tiling.outputs), tiling.panel, symmetric, full=outputs == "full")
    traced = _checks.is_traced(x1, x2, *jax.tree.leaves(arguments))
    piece = 2**31 if traced else tiling.piece

    def block(x: Array, parts: _Parts, i: int, chunk: int) -> Generator[Any, None, Any]:
        units = eye[chunk : chunk + tiling.outputs]
        return _block(way, arguments, x, parts.starts[i], parts.size, units, piece)

    quiet = quiet or traced or bool(os.environ.get("CI"))
    with tqdm(total=grid.tiles(), desc="empirical NTK", unit="tile", disable=quiet, delay=2, leave=False) as bar:
        for panel, chunk in grid.panels():
            kept = []
            for i in panel:
                kept.append((yield from block(x1, rows, i, chunk)))
            for j, other, met in grid.passing(panel, chunk):
                there = symmetric and j in panel and other == chunk
                right = kept[j - panel.start] if there else (yield from block(x2, columns, j, other))
                for i in met:
                    at = np.array([rows.starts[i], columns.starts[j], chunk, other], np.int32)
                    kernel = add_tile(way, symmetric, kernel, arguments, kept[i - panel.start], right, at)
                    yield kernel
                    bar.update()
                del right  # or it would still be there while the next is made
            del kept
    return kernel


def _block(
    way: Way, arguments: Arguments, x: Array, start: int, size: int, units: Array, piece: int
) -> Generator[Any, None, Any]:
    """What the tiles need of `size` examples from `start` on, made of at most `piece` examples at a time."""
    if size <= piece:
        part = x if size == x.shape[0] else x[start : start + size]
        made = way.features(way.function, way.outputs, arguments, part, units)
        yield made
        return made
    made, pieces = _empty(way, size, arguments, x, units), _parts(size, piece)
    for first in pieces.starts:
        at = np.array([start + first, first], np.int32)
        made = add_piece(way, pieces.size, made, arguments, x, units, at)
        yield made
    return made


class _Parts(NamedTuple):
    """Some examples in parts of one size, by where each starts. The last ones overlap by an example or so."""

    starts: list[int]
    size: int


def _parts(n: int, most: int) -> _Parts:
    """As few parts as can be of `n` examples, at most `most` in each; all of one size, so that they compile once."""
    count = -(-n // most)
    size = -(-n // count)
    return _Parts([i * (n - size) // max(count - 1, 1) for i in range(count)], size)


class _Grid(NamedTuple):
    """Where the tiles of a kernel lie: blocks of rows and of columns, and chunks of outputs, by where they start."""

    rows: _Parts
    columns: _Parts
    chunks: range
    kept: int  # blocks of rows at a time
    symmetric: bool
    full: bool

    def panels(self) -> Iterator[tuple[range, int]]:
        """The blocks of rows that are kept at the same time, and the chunk of outputs that is kept of them."""
        for top in range(0, len(self.rows.starts), self.kept):
            for chunk in self.chunks:
                yield range(top, min(top + self.kept, len(self.rows.starts))), chunk

    def passing(self, panel: range, chunk: int) -> Iterator[tuple[int, int, range]]:
        """The blocks of columns that pass by a panel, each with a chunk of outputs and the blocks of rows that it meets
        there; those above the diagonal only, where the kernel is symmetric.
        """
        for j in range(panel.start if self.symmetric else 0, len(self.columns.starts)):
            met = range(panel.start, min(j + 1, panel.stop)) if self.symmetric else panel
            for other in self.chunks if self.full else (chunk,):
                yield j, other, met

    def tiles(self) -> int:
        """The number of tiles."""
        return sum(len(met) for panel, chunk in self.panels() for _, _, met in self.passing(panel, chunk))
