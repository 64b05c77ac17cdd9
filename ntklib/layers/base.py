"""The base class of all layers."""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Shaped

from ntklib import _checks
from ntklib.kernel import Kernel


class Layer(nnx.Module):
    """A layer, or a network of layers: the base class of both.

    A layer has two readings. `__call__` maps activations: it is the finite network. `kernel_map` maps covariances: it
    is the limit of the network as all hidden widths go to infinity. `kernel_map` reads hyperparameters only and never
    parameters, so that neither training nor another seed can change it.

    A layer of your own is a subclass that defines both methods. It states by the class attributes `ends_affine`,
    `wants_vectors` and `pools` what containers need to know of it.

    Example:
        >>> import jax.numpy as jnp
        >>> class Double(Layer):
        ...     def __call__(self, x):
        ...         return 2 * x
        ...
        ...     def kernel_map(self, k):
        ...         return k.scaled(4.0)
        >>> Double().kernel(jnp.ones((1, 3))).nngp.tolist()
        [[4.0]]
    """

    #: Whether the layer ends affinely, so that in the limit its outputs are centered Gaussian and independent of
    #: everything before them.
    ends_affine: bool = False
    #: Whether the last layer is a Dense: given images it would have outputs at every pixel, which is hardly ever meant.
    wants_vectors: bool = False
    #: The number of pooling layers that an input passes. Pooling needs the covariances of all pairs of pixels.
    pools: int = 0

    @abc.abstractmethod
    def __call__(self, x: Shaped[Array | np.ndarray, "N ..."]) -> Shaped[Array | np.ndarray, "N ..."]:
        """Return the outputs of the finite layer."""

    @abc.abstractmethod
    def kernel_map(self, k: Kernel) -> Kernel:
        """Return the kernel of the outputs, given the kernel of the inputs."""

    def kernel(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Kernel:
        """Return NNGP and NTK of the infinitely wide network between two sets of inputs, per output unit.

        With expectations over initializations and sums over all parameters::

            Σ(x, x') = E[f(x) f(x')],   Θ(x, x') = Σ_θ E[∂f(x)/∂θ ∂f(x')/∂θ].

        The parameters θ are those of the parameterization, and no learning rates enter. Under `NTK` this is the
        recursion of Jacot et al. 2018. The kernel is differentiable in the inputs, also where inputs are equal or zero.
        Inputs may be sharded over explicit axes of a mesh: the rows of the kernel are then sharded as those of `x1`.

        Args:
            x1: Inputs [N, d], or images [N, H, W, C].
            x2: Inputs [M, d], or images [M, H, W, C]. By default the kernel is between `x1` and itself.

        Returns:
            A `Kernel`, whose `nngp` and `ntk` are [N, M].

        Raises:
            TypeError: If the inputs are not arrays of floating-point numbers.
            ValueError: If the inputs do not fit the network or each other, if a layer has no kernel where it stands, if
                two layers share a parameter, or if variances leave the range in which an activation's accuracy is
                known.

        Example:
            >>> import jax.numpy as jnp, ntklib as ntk
            >>> net = ntk.mlp([2, 64, 1], w_std=2**0.5, b_std=0.0, rngs=nnx.Rngs(0))
            >>> k = net.kernel(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
            >>> [[round(float(e), 4) for e in row] for row in k.ntk]
            [[2.0, 0.3183], [0.3183, 2.0]]

        Note:
            Each layer is a compiled program, which all networks share whose inputs have the same shape: another w_std,
            width or depth compiles nothing.
            Memory: a few times N · M numbers. For images before they are flattened it is H · W times as much, and
            with pooling (H · W)² times. `ntklib.gram` computes large kernels in tiles.
            Accuracy in float32, relative to √(Θ(x, x) Θ(x', x')): 2e-6 up to depth 20, also for inputs that are nearly
            the same, and from there on 1e-7 more with each layer. Use float64 in three cases. With pooling,
            correlations of nearly equal images have half of the digits, and errors of 1e-4 occur. Near a variance that
            repels (GELU with w_std about 1.45), layers magnify the relative errors of variances: 7e-5 at depth
            50. Deep in the chaotic phase, 1 − ρ of inputs that are nearly the same grows like χ_1^depth, and so do
            its rounding errors of 1e-14: for erf with w_std = 2 to 1e-4 at depth 50, and to 0.3 at depth 80.

        References:
            Jacot et al. 2018, Theorem 1.
        """
        require_independent(self)
        k = _on_explicit_axes(self._of_inputs, x1, x2)
        _refuse_vanished(k, x1, x2)
        if k.q1.ndim > 1 and self.wants_vectors:
            raise ValueError(
                f"The network ends in a Dense layer, whose inputs still have pixels, {k.q1.shape[1:]}: put "
                f"ntklib.Flatten() or ntklib.GlobalAvgPool() before it. For outputs at every pixel end with an "
                f"ntklib.Conv of kernel_size=1."
            )
        return k

    def _of_inputs(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Kernel:
        return self.kernel_map(Kernel.from_inputs(x1, x2, pools=self.pools))


def require_independent(layers: Any, path: str = "") -> None:
    """Refuse layers that share a parameter: the kernel takes the weights of each to be independent of all others.

    Args:
        layers: A network, or a sequence of layers.
        path: The name of the sequence, for the message.
    """
    if (both := shared_parameter(layers, path)) is not None:
        raise ValueError(
            f"The layers of a network must not share weights, but `{both[0]}` and `{both[1]}` are one parameter. The "
            f"infinite-width kernel takes the weights of each layer to be independent of those of all others. Make a "
            f"new layer for each place. `ntklib.empirical_ntk`, the kernel of the finite network, takes shared weights "
            f"into account."
        )


def shared_parameter(layers: Any, path: str = "") -> tuple[str, str] | None:
    """Return two places of layers at which the same parameter stands, or None if there are none.

    Parameters come to be shared in three ways: a layer is passed for two places of a network, it is put into `layers` a
    second time later, or a parameter of one layer is assigned to another (`b.W = a.W`).
    """
    found: dict[int, str] = {}
    for name, param in _parameters(layers, path):
        first = found.setdefault(id(param), name)
        if first != name:
            return first, name
    return None


def _parameters(value: Any, path: str, above: tuple[int, ...] = ()) -> Iterator[tuple[str, nnx.Param]]:
    """Yield each parameter of a module with its place, once for each place. `above` are the modules that hold it."""
    if isinstance(value, nnx.Param):
        yield path, value
    elif id(value) in above:
        return
    elif isinstance(value, (nnx.Module, dict)):
        items = value if isinstance(value, dict) else vars(value)
        for name, part in items.items():
            if not str(name).startswith("_pytree__"):
                place = f"[{name}]" if str(name).isdigit() else f".{name}" if path else str(name)
                yield from _parameters(part, path + place, (*above, id(value)))
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _parameters(part, f"{path}[{i}]", (*above, id(value)))


def _on_explicit_axes(kernel: Callable[..., Kernel], x1: ArrayLike, x2: ArrayLike | None) -> Kernel:
    """Return `kernel(x1, x2)`, also for inputs whose types say how they are sharded (a mesh with explicit axes).

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
    # What a kernel has besides its arrays; the arrays themselves are computed below, by their names.
    form = jax.eval_shape(kernel, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in given))
    specs = {"nngp": entries, "ntk": entries, "delta": entries, "q1": PartitionSpec(rows), "q2": PartitionSpec(columns)}

    def arrays(*x: Array) -> dict[str, Array]:
        k = kernel(*x)
        return {name: getattr(k, name) for name in specs}

    by_compiler: Any = jax.sharding.auto_axes(arrays, out_sharding=specs)
    return dataclasses.replace(form, **by_compiler(*given))


def _on_mesh(x: Array, mesh: Any) -> Array:
    """Return the same array. If it is not on the mesh, it is put there, in full on each device."""
    return x if jax.typeof(x).sharding.mesh == mesh else jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def _refuse_vanished(k: Kernel, x1: Any, x2: Any) -> None:
    """Refuse vectors that are not zero, but whose squares are too small to be numbers. Traced ones are not checked."""
    for argument, x, q in (("x1", x1, k.q1), ("x2", x1 if x2 is None else x2, k.q2)):
        if _checks.is_traced(q, x) or q.ndim != 1 or np.ndim(x) != 2 or not getattr(q, "is_fully_addressable", True):
            continue
        vanished = np.asarray(q) == 0
        rows = np.asarray(x)[vanished].astype(np.float64)
        if (rows.any(1) & (np.square(rows).mean(1) < float(jnp.finfo(q.dtype).tiny))).any():
            raise ValueError(
                f"`{argument}` has inputs too small for {q.dtype.name}: their variance vanishes. Standardize the "
                f"inputs, or use float64."
            )
