"""Kernels of a finite network in tiles, under a bound on memory: blocks of examples, and of outputs where one example
is too much.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from ntklib import _checks
from ntklib.models import ApplyFn, Params


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

    features(apply_fn, outputs, params, x [B, ...], units [k, K]) is what the tiles need of a block;
    placed(outputs, block, piece, start) the block with some of its examples in place, from `start` on;
    contract(apply_fn, outputs, params, left, right) the tile: "mean" Σ_k Θ_kk over the block's outputs [B, B'],
    "full" [B, B', k, k'], "diagonal" [B, B', k].
    """

    features: Callable[..., Any]
    placed: Callable[..., Any]
    contract: Callable[..., Array]
    apply_fn: ApplyFn
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
def _empty(way: Way, size: int, params: Params, x: Array, units: Array) -> Any:
    """A block to be filled."""
    shapes = jax.eval_shape(functools.partial(way.features, way.apply_fn, way.outputs), params, x[:size], units)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _add_piece(way: Way, size: int, block: Any, params: Params, x: Array, units: Array, at: Array) -> Any:
    """The block with `size` examples of x in place: those from at[0] of x on, from at[1] of the block on."""
    piece = jax.lax.dynamic_slice_in_dim(x, at[0], size)
    return way.placed(way.outputs, block, way.features(way.apply_fn, way.outputs, params, piece, units), at[1])


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _add_tile(way: Way, mirror: bool, kernel: Array, params: Params, left: Any, right: Any, at: Array) -> Array:
    """The kernel with one tile in place, at row i, column j and outputs k, l; the mean adds up over outputs."""
    tile = way.contract(way.apply_fn, way.outputs, params, left, right).astype(kernel.dtype)
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


def compute(way: Way, params: Params, x1: Array, x2: Array | None, dtype: Any, tiling: Tiling) -> Array:
    """The kernel in tiles, each written in place; without `x2` those of the upper triangle only, and their mirrors."""
    _keep_freed_memory()
    symmetric, outputs, k = x2 is None, way.outputs, way.count
    x2 = x1 if x2 is None else x2
    rows, columns = (_starts(x.shape[0], tiling.examples) for x in (x1, x2))
    height, width = (_size(x.shape[0], tiling.examples) for x in (x1, x2))
    chunks = range(0, k, tiling.outputs)
    shape = (x1.shape[0], x2.shape[0], *{"mean": (), "diagonal": (k,), "full": (k, k)}[outputs])
    kernel, eye = jnp.zeros(shape, dtype), np.eye(k, dtype=dtype)
    count = len(chunks) * (len(chunks) if outputs == "full" else 1)
    count *= len(rows) * (len(rows) + 1) // 2 if symmetric else len(rows) * len(columns)
    traced = _checks.is_traced(x1, x2, *jax.tree.leaves(params))
    quiet = traced or bool(os.environ.get("CI"))
    wait = (lambda array: array) if traced else jax.block_until_ready  # queued tiles would hold memory of their own

    def block(x: Array, start: int, size: int, chunk: int) -> Any:
        units = eye[chunk : chunk + tiling.outputs]
        if traced or size <= tiling.piece:
            part = x if size == x.shape[0] else x[start : start + size]
            return wait(way.features(way.apply_fn, outputs, params, part, units))
        made, piece = _empty(way, size, params, x, units), _size(size, tiling.piece)
        for first in _starts(size, tiling.piece):
            at = np.array([start + first, first], np.int32)
            made = wait(_add_piece(way, piece, made, params, x, units, at))
        return made

    with tqdm(total=count, desc="empirical NTK", unit="tile", disable=quiet, delay=2, leave=False) as bar:
        for top in range(0, len(rows), tiling.panel):
            panel = range(top, min(top + tiling.panel, len(rows)))
            for a in chunks:
                kept = [wait(block(x1, rows[i], height, a)) for i in panel]
                for j in range(top if symmetric else 0, len(columns)):
                    for b in chunks if outputs == "full" else (a,):
                        there = symmetric and j in panel and a == b
                        right = kept[j - top] if there else wait(block(x2, columns[j], width, b))
                        for i in panel if not symmetric else range(top, min(j + 1, panel.stop)):
                            at = np.array([rows[i], columns[j], a, b], np.int32)
                            kernel = wait(_add_tile(way, symmetric, kernel, params, kept[i - top], right, at))
                            bar.update()
                        del right  # or it would still be there while the next is made
                del kept
    return kernel


def _size(n: int, most: int) -> int:
    """As few blocks as can be, all of one size, so that they compile once."""
    return -(-n // -(-n // most))


def _starts(n: int, most: int) -> list[int]:
    """The last blocks overlap by an example or so."""
    count, size = -(-n // most), _size(n, most)
    return [i * (n - size) // max(count - 1, 1) for i in range(count)]
