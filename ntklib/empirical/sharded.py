"""The empirical NTK on several devices: each device of a mesh holds some of the rows of the result."""

import functools
from collections.abc import Collection, Generator, Iterator
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


class Rectangle(NamedTuple):
    """The entries of the kernel between the inputs `rows` of x1 and the inputs `columns` of x2."""

    rows: range
    columns: range
    entries: Array


def check_mesh(mesh: Any, x1: Array, x2: Array | None, arguments: Arguments) -> None:
    """Refuse a mesh over which the rows of the kernel cannot be divided.

    Raises:
        TypeError: If `mesh` is not a `jax.sharding.Mesh`.
        ValueError: If the number of its devices does not divide the number of rows, if none of its devices belongs to
            this process, or if the model or the inputs are traced.
    """
    _checks.instance("mesh", mesh, Mesh, "e.g. jax.make_mesh((jax.device_count(),), ('rows',))")
    if is_staged(x1, x2, arguments):
        raise ValueError(
            "`mesh` places arrays on devices, which is not possible inside `jit`, `grad` or `vmap`. Leave it out, and "
            "divide the rows by `jax.shard_map` around this function."
        )
    _checks.divides_rows(mesh.size, len(x1))
    if all(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError(
            f"`mesh` must hold a device of every process; process {jax.process_index()} has none in it. "
            f"Make it of all devices: jax.make_mesh((jax.device_count(),), ('rows',))."
        )


def compute(plan: Plan, arguments: Arguments, x1: Array, x2: Array | None, mesh: Mesh) -> Array:
    """Compute the kernel on all devices at the same time, and return it sharded by rows.

    With `x2` each device computes its own rows. Without `x2` the kernel is symmetric, and the entries between the rows
    of two devices are needed on both. If both belong to this process, each computes half of these entries (see
    `_shares`). A half is then transposed and copied to the other device.
    """
    arguments, x1, x2 = on_one_device((arguments, x1, x2))
    symmetric = x2 is None
    x2 = x1 if symmetric else x2
    n, m = len(x1), len(x2)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    index = sharding.addressable_devices_indices_map((n,))
    owned = {device: range(*at[0].indices(n)) for device, at in index.items() if at is not None}
    size = n // mesh.size
    all_rows = [range(start, start + size) for start in range(0, n, size)]

    def on_device(device: Any, mine: range, quiet: bool) -> Generator[Any, None, list[Rectangle]]:
        """Compute the rectangles of one device, and yield each array as soon as its computation has started."""
        held = jax.device_put(arguments, device)
        pairs = _shares(mine, all_rows, owned.values()) if symmetric else [(mine, range(m))]
        found = []
        for rows, columns in pairs:
            left = jax.device_put(x1[rows.start : rows.stop], device)
            if symmetric and rows == columns:
                right = None  # then `blocks` computes only one triangle
            else:
                right = jax.device_put(x2[columns.start : columns.stop], device)
            entries = yield from blocks.steps(plan.strategy, held, left, right, plan.dtype, plan.tiling, quiet=quiet)
            found.append(Rectangle(rows, columns, entries))
            quiet = True  # only the first rectangle of the first device shows a progress bar
        return found

    with outside_of_mesh():
        lists = blocks.together([on_device(*item, quiet=i > 0) for i, item in enumerate(owned.items())])
        found: list[Rectangle] = [rectangle for of_one in lists for rectangle in of_one]
        if symmetric:
            # Mirror images in rows of another process are not made: that process computes these rows itself.
            here = [one for one in found if any(one.columns.start in rows for rows in owned.values())]
            found += [_mirrored(one, plan.strategy.outputs) for one in here if one.rows != one.columns]
        shards = [_rows_of(device, rows, m, found) for device, rows in owned.items()]
    return jax.make_array_from_single_device_arrays((n, *shards[0].shape[1:]), sharding, shards)


def _shares(mine: range, all_rows: list[range], owned: Collection[range]) -> Iterator[tuple[range, range]]:
    """Yield the (rows, columns) of a symmetric kernel that the device with the rows `mine` computes.

    `owned` has the rows of each device of this process. Results of another process cannot be copied, so that all
    entries between `mine` and the rows of that process are computed here. For two devices of this process, let A be the
    one with the earlier rows, and B the other. A computes the first half of its rows against all rows of B, and B all
    of its rows against the second half of A's rows.
    """
    yield mine, mine
    half = len(mine) // 2
    for others in all_rows:
        if others not in owned:
            yield mine, others
        elif others.start > mine.start and half:
            yield mine[:half], others
        elif others.start < mine.start:
            yield mine, others[half:]


def _mirrored(one: Rectangle, outputs: str) -> Rectangle:
    """Return the rectangle on the other side of the diagonal of a symmetric kernel."""
    return Rectangle(one.columns, one.rows, one.entries.transpose(blocks.MIRROR[outputs]))


def _rows_of(device: Any, rows: range, m: int, found: list[Rectangle]) -> Array:
    """Return the rows of one device as one array on that device, made of the rectangles that lie in these rows."""
    ours = [one for one in found if one.rows.start in rows]
    kernel = jax.device_put(jnp.zeros((len(rows), m, *ours[0].entries.shape[2:]), ours[0].entries.dtype), device)
    for one in ours:
        at = np.array([one.rows.start - rows.start, one.columns.start], np.int32)
        kernel = _written(kernel, jax.device_put(one.entries, device), at)
    return kernel


@functools.partial(jax.jit, donate_argnums=0)
def _written(kernel: Array, entries: Array, at: Array) -> Array:
    """Return the kernel, in the same memory, with `entries` written from row at[0] and column at[1] on."""
    return jax.lax.dynamic_update_slice(kernel, entries, (at[0], at[1], *[0] * (kernel.ndim - 2)))
