"""The one base class: what every layer has."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from ntklib.kernel import Kernel


class Layer(nnx.Module):
    """A layer, or a network of layers, with two readings: `__call__` maps activations, `kernel_map` maps covariances.

    The first is the finite network, the second its limit as all hidden widths go to infinity. `kernel_map` reads
    hyperparameters only, never parameters: training or another seed cannot change it.
    """

    #: Whether the outputs are centred Gaussian in the limit and independent of everything before: the layer ends
    #: affinely.
    ends_affine: bool = False
    #: Whether the last layer is a Dense, whose outputs at every pixel of an image are hardly ever meant.
    wants_vectors: bool = False
    #: How many pooling layers there are, one after the other: they need the covariances of all pairs of pixels.
    pools: int = 0

    @abc.abstractmethod
    def __call__(self, x: Array) -> Array:
        """The outputs of the finite layer."""

    @abc.abstractmethod
    def kernel_map(self, k: Kernel) -> Kernel:
        """The kernel of the outputs, from that of the inputs."""

    def kernel(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Kernel:
        """NNGP and NTK of the infinitely wide network between the inputs `x1` [N, d] and `x2` [M, d], per output unit.

        nngp is E[f(x) f(x')] over initialisations, ntk the sum over all parameters of E[∂f(x)/∂θ ∂f(x')/∂θ], θ as the
        parameterization has them and with no learning rates in it; under NTK that is the recursion of Jacot et al.
        2018. Without `x2` the kernel is that of `x1` with itself. Memory: a few times N·M numbers, for images before
        they are flattened times the pixels H·W, or (H·W)² with pooling.
        Differentiable in the inputs, also at equal and at zero inputs. Inputs may be sharded over explicit axes of a
        mesh: the rows of the kernel then are as those of `x1`.

        >>> import jax.numpy as jnp, ntklib as ntk
        >>> net = ntk.mlp([2, 64, 1], w_std=2**0.5, b_std=0.0, rngs=nnx.Rngs(0))
        >>> k = net.kernel(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> [[round(float(e), 4) for e in row] for row in k.ntk]
        [[2.0, 0.3183], [0.3183, 2.0]]
        """
        k = _on_explicit_axes(self._of_inputs, x1, x2)
        if k.q1.ndim > 1 and self.wants_vectors:
            raise ValueError(
                f"The network ends in a Dense layer, but its input there still has pixels, {k.q1.shape[1:]}: put "
                f"ntklib.Flatten() or ntklib.GlobalAvgPool() before it. For outputs at every pixel end with an "
                f"ntklib.Conv of kernel_size=1."
            )
        return k

    def _of_inputs(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Kernel:
        return self.kernel_map(Kernel.from_inputs(x1, x2, pools=self.pools))


def _on_explicit_axes(kernel: Callable[..., Kernel], x1: ArrayLike, x2: ArrayLike | None) -> Kernel:
    """`kernel(x1, x2)` where the types of the inputs may tell how these are sharded (a mesh with explicit axes).

    The compiler then decides what is computed where. The rows of the result are sharded as those of x1, its columns as
    the rows of x2, if that is over another axis of the mesh.
    """
    given = [x for x in (x1, x2) if x is not None]
    places = [jax.typeof(x).sharding for x in given if isinstance(x, Array) and x.ndim > 1]
    mesh = next((place.mesh for place in places if AxisType.Explicit in place.mesh.axis_types), None)
    if mesh is None:
        return kernel(x1, x2)
    given = [_on_mesh(jnp.asarray(x), mesh) for x in given]
    rows, columns = (jax.typeof(x).sharding.spec[0] for x in (given[0], given[-1]))
    entries = PartitionSpec(rows, None if columns == rows else columns)
    # A kernel's arrays by names, and what it has besides them.
    form = jax.eval_shape(kernel, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in given))
    specs = {"nngp": entries, "ntk": entries, "delta": entries, "q1": PartitionSpec(rows), "q2": PartitionSpec(columns)}

    def arrays(*x: Array) -> dict[str, Array]:
        k = kernel(*x)
        return {name: getattr(k, name) for name in specs}

    by_compiler: Any = jax.sharding.auto_axes(arrays, out_sharding=specs)
    return dataclasses.replace(form, **by_compiler(*given))


def _on_mesh(x: Array, mesh: Any) -> Array:
    """The same array, in full on each device of the mesh if it is not on it."""
    return x if jax.typeof(x).sharding.mesh == mesh else jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))
