"""What tests/test_sharded.py runs in a process with two devices: empirical kernels inside `jax.shard_map`, of arrays
with explicit axes, and over a mesh, each against the same on one device.
"""

import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import ntklib as ntk

METHODS: tuple[Any, ...] = ("layerwise", "jacobian", "products")
ROWS = PartitionSpec("rows")


class Net(nnx.Module):
    """A convolution, a norm with state, random keys, a parameter that belongs to no layer."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv, self.norm = nnx.Conv(2, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.scale, self.out = nnx.Param(jnp.ones(4)), nnx.Linear(4, 2, rngs=rngs)
        self.rngs = nnx.Rngs(1)

    def __call__(self, x):
        noise = jax.random.normal(self.rngs.noise(), (4,))
        h = nnx.relu(self.norm(self.conv(x))) * self.scale[...] + noise
        return self.out(h.mean((1, 2)))


NET = Net()
X = jax.random.normal(jax.random.key(0), (8, 5, 5, 2))
V = jax.random.normal(jax.random.key(1), (8, 2))
OUTPUTS: tuple[Any, ...] = ("mean", "diagonal", "full")
WANT = {outputs: np.asarray(ntk.empirical_ntk(NET, X, outputs=outputs)) for outputs in OUTPUTS}
PRODUCT = np.einsum("ijkl,jl->ik", WANT["full"], V)


def off(got, want):
    """The largest difference, relative to the largest entry."""
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


def shard_map():
    """Rows of one shard against all columns, against columns of its own, and what varies with the parameters."""
    mesh, found = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,)), {}
    params = ntk.functional(NET)
    many = jax.tree.map(lambda a: jnp.stack([a, 2.0 * a]), params[1])
    for method in METHODS:

        def against_all(x1, x2):
            return ntk.empirical_ntk(NET, x1, x2, method=method)  # noqa: B023

        def own(x):
            return ntk.empirical_ntk(NET, x, outputs="full", method=method)  # noqa: B023

        def of_parameters(p, x):
            one = jax.tree.map(lambda a: a[0], p)
            return ntk.empirical_ntk((params[0], one), x, method=method)[None]  # noqa: B023

        rows = jax.jit(jax.shard_map(against_all, mesh=mesh, in_specs=(ROWS, PartitionSpec()), out_specs=ROWS))
        found[f"{method}, rows"] = off(rows(X, X), WANT["mean"])
        blocks = jax.shard_map(own, mesh=mesh, in_specs=ROWS, out_specs=ROWS)(X)
        want = np.concatenate([WANT["full"][:4, :4], WANT["full"][4:, 4:]])
        found[f"{method}, blocks"] = off(blocks, want)
        ensemble = jax.shard_map(of_parameters, mesh=mesh, in_specs=(ROWS, PartitionSpec()), out_specs=ROWS)
        both = [ntk.empirical_ntk((params[0], jax.tree.map(lambda a: a[i], many)), X) for i in (0, 1)]  # noqa: B023
        found[f"{method}, parameters"] = off(jax.jit(ensemble)(many, X), np.stack(both))

    def product(x1, x2, v):
        return jax.lax.psum(ntk.ntk_vector_product(NET, x1, x2, v), "rows")

    specs = (PartitionSpec(), ROWS, ROWS)
    summed = jax.jit(jax.shard_map(product, mesh=mesh, in_specs=specs, out_specs=PartitionSpec()))
    found["product"] = off(summed(X, X, V), PRODUCT)
    return found


def explicit():
    """Arrays whose types tell how they are sharded: known and traced, inside a mesh and without."""
    mesh, found = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Explicit,)), {}
    x = jax.device_put(X, NamedSharding(mesh, ROWS))
    apply_fn, params = ntk.functional(NET)
    there = apply_fn, jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    few, v = jax.device_put((X[:4], V), NamedSharding(mesh, ROWS))

    def all_of(where):
        for method, traced in itertools.product(METHODS, (False, True)):
            kernel = lambda x: ntk.empirical_ntk(NET, x, method=method)  # noqa: B023, E731
            found[f"{method}, {'traced' if traced else 'known'}, {where}"] = off(
                (jax.jit(kernel) if traced else kernel)(x), WANT["mean"]
            )
        found[f"parameters alone, {where}"] = off(ntk.empirical_ntk(there, X), WANT["mean"])
        found[f"two sets, {where}"] = off(ntk.empirical_ntk(NET, few, X, outputs="full"), WANT["full"][:4])
        found[f"nngp, {where}"] = off(ntk.empirical_nngp(NET, x), np.asarray(ntk.empirical_nngp(NET, X)))
        found[f"product, {where}"] = off(ntk.ntk_vector_product(NET, x, None, v), PRODUCT)

    all_of("without a mesh set")
    with jax.set_mesh(mesh):
        all_of("with a mesh set")
        found["plain arrays, with a mesh set"] = off(ntk.empirical_ntk(NET, X), WANT["mean"])
        found["over the mesh that is set"] = off(ntk.empirical_ntk(NET, x, mesh=mesh), WANT["mean"])
    return found


def over_a_mesh():
    """Sharded by rows, symmetric to the bit."""
    found = {}
    for kind, outputs in itertools.product((AxisType.Auto, AxisType.Explicit), OUTPUTS):
        mesh = jax.make_mesh((2,), ("rows",), axis_types=(kind,))
        for x2, want in ((None, WANT[outputs]), (X[:3], WANT[outputs][:, :3])):
            got = ntk.empirical_ntk(NET, X, x2, outputs=outputs, mesh=mesh)
            name = f"{outputs}, {kind}, {'symmetric' if x2 is None else 'two sets'}"
            found[name] = off(got, want)
            assert [s.data.shape[0] for s in got.addressable_shards] == [4, 4]
            assert {s.device for s in got.addressable_shards} == set(jax.devices())
            if x2 is None:
                known = np.asarray(got)
                turned = {"mean": (1, 0), "diagonal": (1, 0, 2), "full": (1, 0, 3, 2)}[outputs]
                assert (known == known.transpose(turned)).all()
    four = jax.make_mesh((2, 1), ("a", "b"))
    found["two axes, in small tiles"] = off(ntk.empirical_ntk(NET, X, mesh=four, tile=3), WANT["mean"])
    return found


if __name__ == "__main__":
    print(json.dumps({run.__name__: run() for run in (shard_map, explicit, over_a_mesh)}))
