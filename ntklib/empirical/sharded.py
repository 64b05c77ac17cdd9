"""One kernel on several devices, with its rows divided over a mesh."""

import functools
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ntklib import _checks
from ntklib.empirical import blocks
from ntklib.empirical.checks import is_staged
from ntklib.empirical.plan import Plan
from ntklib.empirical.pure import Arguments, on_one_device, outside_of_mesh

#: The order of the axes of a tile in its mirror image.
_MIRROR = {"mean": (1, 0), "diagonal": (1, 0, 2), "full": (1, 0, 3, 2)}


class Part(NamedTuple):
    """A rectangle of the kernel: some rows against some columns."""

    rows: range
    columns: range
    entries: Array


def check_mesh(mesh: Any, x1: Array, x2: Array | None, arguments: Arguments) -> None:
    """Refuse a value that is not a mesh, and a mesh that cannot be used.

    Its size must divide the number of rows, it must have a device of this process, and no value may be traced.
    """
    _checks.instance("mesh", mesh, Mesh, "e.g. jax.make_mesh((jax.device_count(),), ('rows',))")
    if is_staged(x1, x2, arguments):
        raise ValueError(
            "`mesh` places arrays on devices, which JAX's transformations cannot do: inside `jit` leave it out, and "
            "divide the rows by `jax.shard_map` around this function."
        )
    _checks.divides_rows(mesh.size, len(x1))
    if all(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError(
            f"`mesh` must hold a device of every process; process {jax.process_index()} has none in it. "
            f"Make it of all: jax.make_mesh((jax.device_count(),), ('rows',))."
        )


def compute(plan: Plan, arguments: Arguments, x1: Array, x2: Array | None, mesh: Mesh) -> Array:
    """Compute the kernel on all devices at the same time, and return it sharded over the mesh by rows.

    Each device computes its rows. Without `x2`, entries between the rows of two devices of this process are computed
    once, half of them by each device, and the other device gets the mirror image.
    """
    arguments, x1, x2 = on_one_device((arguments, x1, x2))
    n, m = len(x1), len(x1 if x2 is None else x2)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    index = sharding.addressable_devices_indices_map((n,))
    owned = {device: range(*at[0].indices(n)) for device, at in index.items() if at is not None}
    size = n // mesh.size
    blocks_of_rows = [range(start, start + size) for start in range(0, n, size)]

    def of_device(device: Any, first: bool) -> Generator[Any, None, list[Part]]:
        at_device = jax.device_put(arguments, device)
        whole = functools.partial(blocks.steps, plan.strategy, at_device, dtype=plan.dtype, tiling=plan.tiling)
        parts = []
        pairs = [(owned[device], range(m))] if x2 is not None else _share(owned[device], blocks_of_rows, owned.values())
        for i, (rows, columns) in enumerate(pairs):
            left = jax.device_put(x1[rows.start : rows.stop], device)
            symmetric = x2 is None and rows == columns
            right = (
                None if symmetric else jax.device_put((x1 if x2 is None else x2)[columns.start : columns.stop], device)
            )
            parts.append(Part(rows, columns, (yield from whole(x1=left, x2=right, quiet=not first or i > 0))))
        return parts

    with outside_of_mesh():
        parts = blocks.together([of_device(device, i == 0) for i, device in enumerate(owned)])
        flat: list[Part] = [part for of_one in parts for part in of_one]
        if x2 is None:
            flat += [_turned(part, plan.strategy.outputs) for part in flat if part.rows != part.columns]
        shards = [_joined(flat, rows, m, device) for device, rows in owned.items()]
    return jax.make_array_from_single_device_arrays((n, *shards[0].shape[1:]), sharding, shards)


def _share(mine: range, all_rows: list[range], owned: Any) -> Iterator[tuple[range, range]]:
    """Yield the rectangles of a symmetric kernel that one device computes. The rows `mine` are its own."""
    yield mine, mine
    half = len(mine) // 2
    for others in all_rows:
        if others not in owned:
            yield mine, others
        elif others.start > mine.start and half:
            yield mine[:half], others
        elif others.start < mine.start:
            yield mine, others[half:]


def _turned(part: Part, outputs: str) -> Part:
    return Part(part.columns, part.rows, part.entries.transpose(_MIRROR[outputs]))


def _joined(parts: list[Part], rows: range, m: int, device: Any) -> Array:
    """Join the rows of one device, on that device."""
    ours = [part for part in parts if part.rows.start in rows]
    kernel = jax.device_put(jnp.zeros((len(rows), m, *ours[0].entries.shape[2:]), ours[0].entries.dtype), device)
    for part in ours:
        at = np.array([part.rows.start - rows.start, part.columns.start], np.int32)
        kernel = _put(kernel, jax.device_put(part.entries, device), at)
    return kernel


@functools.partial(jax.jit, donate_argnums=0)
def _put(kernel: Array, entries: Array, at: Array) -> Array:
    return jax.lax.dynamic_update_slice(kernel, entries, (at[0], at[1], *[0] * (kernel.ndim - 2)))
