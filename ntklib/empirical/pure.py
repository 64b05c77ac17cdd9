"""A model as a static function of arrays: parameters, state and inputs are arguments. Models of one structure have
equal functions, so that what is compiled for the first serves them all.
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
    """The arrays of a model: those it is differentiated by, real and of at least 32 bits, and its other state."""

    leaves: list[Array]
    fixed: list[Array]


@dataclasses.dataclass(frozen=True)
class Function:
    """f(arguments, x) -> [K] for one example x, in at least 32 bits.

    A complex parameter is two real ones among the `leaves`, its real and its imaginary part: what it is to gradient
    descent. Then Θ = Re(J Jᴴ), J the gradients of JAX by the complex parameters.
    """

    apply_fn: Static  # its structure as a pytree, and the leaves that are not arrays, by their place
    params: Static  # the structure of the parameters
    is_complex: tuple[bool, ...]  # of each parameter

    def __call__(self, arguments: Arguments, x: Array) -> Array:
        return self.batch(arguments, x[None])[0]

    @property
    def closes_over_something(self) -> bool:
        """Whether it has parts that are not arrays, a function of the user's, say."""
        return bool(self.apply_fn.value[1])

    def batch(self, arguments: Arguments, x: Array) -> Array:
        """The outputs of several examples at once, [N, K]."""
        structure, others = self.apply_fn.value
        places, arrays = dict(others), iter(arguments.fixed)
        apply_fn = jax.tree.unflatten(
            structure, [places[i].value if i in places else next(arrays) for i in range(structure.num_leaves)]
        )
        parts = iter(arguments.leaves)
        leaves = [jax.lax.complex(next(parts), next(parts)) if pair else next(parts) for pair in self.is_complex]
        return jax.tree.map(_wide, apply_fn(jax.tree.unflatten(self.params.value, leaves), x))


#: `Function.batch`, compiled; and traced once for all models of one structure.
batched = jax.jit(Function.batch, static_argnums=0)


def pure(apply_fn: ApplyFn, params: Params) -> tuple[Function, Arguments]:
    """The static function of a model and its arrays.

    An `apply_fn` that is a pytree (one of `functional`, a `jax.tree_util.Partial`) has its arrays as arguments; any
    other function is what it is, with all that it has closed over.
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
    """The same object for all equal functions: compiled code is looked up by it at each tile, and comparing two graphs
    of a large module takes long.
    """
    return function


def _wide(x: Array) -> Array:
    """Floating-point numbers of fewer than 32 bits in float32: products and sums of these would lose most digits."""
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4 else x


def prepared(*values: Any) -> tuple[Any, ...]:
    """Parameters and inputs as the methods need them: of at least 32 bits, and placed alike on devices.

    Where one of them lies on a mesh with explicit axes (JAX's sharding in types) all are put there, in full on each
    device, for tiles are no multiples of the shards. Inside `jax.shard_map` all vary over the axes that one of them
    varies over: the derivative by a value that is the same on all devices would otherwise be summed over the devices.
    """
    leaves = jax.tree.leaves(values)
    meshes = (_explicit_mesh(leaf) for leaf in leaves)
    mesh = next((mesh for mesh in meshes if mesh is not None), None)
    axes = frozenset().union(*(varying_axes(jax.typeof(leaf)) for leaf in leaves))
    values = jax.tree.map(_wide, values)
    return vary(values if mesh is None else _replicated(values, mesh), axes)


def alike(values: Any, x: Array) -> Any:
    """New arrays as ones that go together with x, which is `prepared`."""
    mesh = _explicit_mesh(x)
    return vary(values if mesh is None else _replicated(values, mesh), varying_axes(jax.typeof(x)))


def _explicit_mesh(x: Array) -> Any:
    """The mesh of an array whose type tells how it is sharded, or None."""
    sharding = getattr(jax.typeof(x), "sharding", None) if _checks.is_traced(x) else getattr(x, "sharding", None)
    mesh: Any = getattr(sharding, "mesh", None)
    return mesh if mesh is not None and AxisType.Explicit in mesh.axis_types else None


def on_one_device(values: Any) -> Any:
    """Arrays that are there in full on each device, as those on one."""
    return jax.tree.map(lambda leaf: leaf if _explicit_mesh(leaf) is None else leaf.addressable_data(0), values)


def _replicated(values: Any, mesh: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, NamedSharding(mesh, PartitionSpec())), values)


def outside_of_mesh() -> contextlib.AbstractContextManager[Any]:
    """For what runs on single devices: a mesh that is set (`jax.set_mesh`) has all of its own take part."""
    return contextlib.nullcontext() if jax.sharding.get_mesh().empty else jax.set_mesh(None)


def varying_axes(aval: Any) -> frozenset:
    """The axes of `jax.shard_map` over which values of a type (`jax.typeof`) differ between devices."""
    manual = getattr(aval, "manual_axis_type", None)
    return getattr(aval, "vma", frozenset()) if manual is None else manual.varying  # `vma` before JAX 0.12


def vary(values: Any, axes: frozenset) -> Any:
    """The values as ones that may differ between devices along these axes."""

    def one(leaf: Array) -> Array:
        missing = tuple(axes - varying_axes(jax.typeof(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, values) if axes else values
