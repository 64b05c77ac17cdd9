"""A model as a function and its arrays.

The function is a static argument of `jax.jit`. Models of one structure have equal functions, so that a program that was
compiled for one of them serves all.
"""

import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ntklib import _checks
from ntklib.models import ApplyFn, Params, Static


class Arguments(NamedTuple):
    """The arrays of a model.

    Args:
        leaves: The parameters, by which the model is differentiated: real arrays of at least 32 bits. A complex
            parameter is two of them, its real part and its imaginary part.
        fixed: All other arrays, such as running statistics and random keys.
    """

    leaves: list[Array]
    fixed: list[Array]


@dataclasses.dataclass(frozen=True)
class Function:
    """The function f(arguments, x) -> [K] of one example x, with outputs of at least 32 bits.

    Args:
        apply_fn: The structure of the model's function as a pytree, and each leaf that is not an array, with its place.
        params: The structure of the parameters as a pytree.
        is_complex: For each parameter, whether it is complex.
    """

    apply_fn: Static
    params: Static
    is_complex: tuple[bool, ...]

    def __call__(self, arguments: Arguments, x: Array) -> Array:
        return self.batch(arguments, x[None])[0]

    @property
    def closes_over_something(self) -> bool:
        """Whether a leaf of the model's function is not an array but, for instance, a Python function of the user."""
        return bool(self.apply_fn.value[1])

    def batch(self, arguments: Arguments, x: Array) -> Array:
        """Return the outputs of several examples at once, [N, K]."""
        structure, others = self.apply_fn.value
        places, arrays = dict(others), iter(arguments.fixed)
        apply_fn = jax.tree.unflatten(
            structure, [places[i].value if i in places else next(arrays) for i in range(structure.num_leaves)]
        )
        parts = iter(arguments.leaves)
        leaves = [jax.lax.complex(next(parts), next(parts)) if pair else next(parts) for pair in self.is_complex]
        return jax.tree.map(_wide, apply_fn(jax.tree.unflatten(self.params.value, leaves), x))


#: `Function.batch`, compiled. It is compiled once for all models of one structure and inputs of one shape.
batched = jax.jit(Function.batch, static_argnums=0)


def pure(apply_fn: ApplyFn, params: Params) -> tuple[Function, Arguments]:
    """Return the function of a model, and its arrays.

    If `apply_fn` is a pytree (from `functional`, or a `jax.tree_util.Partial`), its arrays become arguments. Any other
    `apply_fn` is kept as it is, with all values that it closes over.
    """
    held, structure = jax.tree.flatten(apply_fn)
    others = tuple((i, Static(leaf)) for i, leaf in enumerate(held) if not isinstance(leaf, (jax.Array, np.ndarray)))
    fixed = [jnp.asarray(leaf) for leaf in held if isinstance(leaf, (jax.Array, np.ndarray))]
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    is_complex = tuple(jnp.iscomplexobj(leaf) for leaf in leaves)
    parts = [part for leaf in leaves for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))]
    function = Function(Static((structure, others)), Static(tree), is_complex)
    return function if others else _first_equal(function), Arguments([_wide(part) for part in parts], fixed)


@functools.lru_cache(maxsize=64)
def _first_equal(function: Function) -> Function:
    """Return the same object for all equal functions.

    JAX looks up the compiled program of each tile by the function. An equal function that is another object would be
    compared each time, and comparing the graphs of two large modules takes long.
    """
    return function


def _wide(x: Array) -> Array:
    """Convert floating-point numbers of fewer than 32 bits to float32: sums of their products lose most digits."""
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4 else x


def prepared(*values: Any) -> tuple[Any, ...]:
    """Return parameters and inputs as the methods need them. Floating-point numbers have at least 32 bits.

    If an array is sharded over a mesh with explicit axes (`AxisType.Explicit`), all arrays are copied in full to each
    device of this mesh, because the sizes of tiles are not multiples of the sizes of shards. If an array varies over an
    axis of `jax.shard_map`, all arrays are marked as varying over this axis. JAX would sum the derivatives with respect
    to an array without this mark over the devices.
    """
    leaves = jax.tree.leaves(values)
    meshes = (_explicit_mesh(leaf) for leaf in leaves)
    mesh = next((mesh for mesh in meshes if mesh is not None), None)
    axes = frozenset().union(*(varying_axes(jax.typeof(leaf)) for leaf in leaves))
    values = jax.tree.map(_wide, values)
    return vary(values if mesh is None else _replicated(values, mesh), axes)


def alike(values: Any, x: Array) -> Any:
    """Return new arrays placed and marked as `prepared` has placed and marked x."""
    mesh = _explicit_mesh(x)
    return vary(values if mesh is None else _replicated(values, mesh), varying_axes(jax.typeof(x)))


def _explicit_mesh(x: Array) -> Any:
    """Return the mesh of an array if it has explicit axes, or None."""
    sharding = getattr(jax.typeof(x), "sharding", None) if _checks.is_traced(x) else getattr(x, "sharding", None)
    mesh: Any = getattr(sharding, "mesh", None)
    return mesh if mesh is not None and AxisType.Explicit in mesh.axis_types else None


def on_one_device(values: Any) -> Any:
    """Return one device's copy of each array that is in full on each device of a mesh, and any other array itself."""
    return jax.tree.map(lambda leaf: leaf if _explicit_mesh(leaf) is None else leaf.addressable_data(0), values)


def _replicated(values: Any, mesh: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, NamedSharding(mesh, PartitionSpec())), values)


def outside_of_mesh() -> contextlib.AbstractContextManager[Any]:
    """Return a context manager under which no mesh is set, for computations on single devices."""
    return contextlib.nullcontext() if jax.sharding.get_mesh().empty else jax.set_mesh(None)


def varying_axes(aval: Any) -> frozenset:
    """Return the axes of `jax.shard_map` over which an array of the type `aval` (`jax.typeof`) varies."""
    manual = getattr(aval, "manual_axis_type", None)
    return getattr(aval, "vma", frozenset()) if manual is None else manual.varying  # `vma` before JAX 0.12


def vary(values: Any, axes: frozenset) -> Any:
    """Mark arrays as varying over some axes of `jax.shard_map`: their values may differ between devices."""

    def one(leaf: Array) -> Array:
        missing = tuple(axes - varying_axes(jax.typeof(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, values) if axes else values
