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
    """The base class of layers and of networks made of layers.

    A layer has two methods. `__call__` computes the outputs of the finite layer. `kernel_map` computes the kernel of
    the outputs from the kernel of the inputs, in the limit where all hidden widths go to infinity. `kernel_map` uses
    hyperparameters and no parameters, so that neither training nor another seed changes it.

    To write a layer of your own, define both methods in a subclass. The combinators (`Serial`, `Residual`, `Sum`) and
    `kernel` read its attributes `ends_affine`, `wants_vectors` and `pools`: set them where the defaults are wrong.

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

    #: Whether the last operation of the layer is affine, with weights of its own. In the limit its outputs are then
    #: Gaussian with mean zero, and independent of its inputs.
    ends_affine: bool = False
    #: Whether the last operation is a `Dense` layer. `kernel` then refuses images that are not flattened or pooled,
    #: because a `Dense` layer would have outputs at every pixel, which is hardly ever meant.
    wants_vectors: bool = False
    #: The number of pooling layers between inputs and outputs. Kernels hold the covariances of all pairs of pixels
    #: until the last of them.
    pools: int = 0

    @abc.abstractmethod
    def __call__(self, x: Shaped[Array | np.ndarray, "N ..."]) -> Shaped[Array | np.ndarray, "N ..."]:
        """Return the outputs of the finite layer."""

    @abc.abstractmethod
    def kernel_map(self, k: Kernel) -> Kernel:
        """Return the kernel of the outputs from the kernel `k` of the inputs."""

    def kernel(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Kernel:
        """Return NNGP and NTK of the infinitely wide network between two sets of inputs, per output unit.

        Let f be one output unit and θ a parameter. With expectations over initializations and a sum over all
        parameters::

            Σ(x, x') = E[f(x) f(x')],   Θ(x, x') = Σ_θ E[∂f(x)/∂θ ∂f(x')/∂θ].

        Θ depends on the parameterization, and not on learning rates. Under `NTK` it is computed by the recursion of
        Jacot et al. 2018. Derivatives with respect to the inputs are finite, also where inputs are equal or zero: a
        term that would be infinite there, as for the NTK of ReLU at equal inputs, is set to 0. Inputs may be sharded
        over explicit axes of a mesh: the rows of the kernel are then sharded like the rows of `x1`.

        Args:
            x1: Inputs [N, d], or images [N, H, W, C].
            x2: Inputs [M, d], or images [M, H, W, C]. By default the kernel is between `x1` and itself.

        Returns:
            A `Kernel`, whose `nngp` and `ntk` are [N, M]. If the outputs have pixels, they are [N, M, H', W'].

        Raises:
            TypeError: If the inputs are not arrays of floating-point numbers.
            ValueError: If the inputs are empty, not finite, of another shape, or too large or too small for their type;
                if they do not fit the network or each other; if a layer has no kernel where it stands; if two layers
                share a parameter; or if a variance is outside of the range in which an activation's accuracy is known.

        Example:
            >>> import jax.numpy as jnp, ntklib as ntk
            >>> net = ntk.mlp([2, 64, 1], w_std=2**0.5, b_std=0.0, rngs=nnx.Rngs(0))
            >>> k = net.kernel(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
            >>> [[round(float(e), 4) for e in row] for row in k.ntk]
            [[2.0, 0.3183], [0.3183, 2.0]]

        Note:
            Each layer is compiled as a program of its own, and networks share these programs if their inputs have the
            same shape. Another w_std or width compiles nothing, and another depth at most one or two programs.

            Memory: a few times N · M numbers. For images it is H · W times as much until they are flattened, and
            (H · W)² times as much until the last pooling layer. `ntklib.gram` computes large kernels in tiles.

            The error in float32, relative to √(Θ(x, x) Θ(x', x')), is 2e-6 up to depth 20, and 1e-7 more with each
            further layer. This includes inputs that are nearly equal. Use float64 in three cases:

            - With pooling, 1 − ρ of nearly equal images keeps half of its digits, and errors of 1e-4 occur.
            - Near a fixed point of the variance that repels (see `ntklib.fixed_points`; an example is GELU with w_std
              about 1.45), layers magnify the relative errors of variances: the error is 7e-5 at depth 50.
            - In the chaotic phase (see `ntklib.phase`), 1 − ρ of nearly equal inputs grows like χ_1^depth. Its rounding
              error, 1e-14 at the start, grows with it: for erf with w_std = 2 to 1e-4 at depth 50, and to 0.3 at depth
              80.

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
    """Refuse layers that share a parameter. Kernel maps are right only if the weights of all layers are independent.

    Args:
        layers: A network, or a sequence of layers.
        path: The name of the sequence in the message.

    Raises:
        ValueError: If two layers hold the same parameter.
    """
    if (both := shared_parameter(layers, path)) is not None:
        raise ValueError(
            f"The layers of a network must not share weights, but `{both[0]}` and `{both[1]}` are one parameter. The "
            f"infinite-width kernel is right only if the weights of all layers are independent. Make a new layer for "
            f"each place. `ntklib.empirical_ntk`, the kernel of the finite network, takes shared weights "
            f"into account."
        )


def shared_parameter(layers: Any, path: str = "") -> tuple[str, str] | None:
    """Return the paths of two places that hold the same parameter, or None if all parameters are different.

    A parameter is shared if a layer is passed to a network twice, if a layer is put into `layers` a second time, or if
    a parameter of one layer is assigned to another layer (`b.W = a.W`).
    """
    found: dict[int, str] = {}
    for name, param in _parameters(layers, path):
        first = found.setdefault(id(param), name)
        if first != name:
            return first, name
    return None


def _parameters(value: Any, path: str, above: tuple[int, ...] = ()) -> Iterator[tuple[str, nnx.Param]]:
    """Yield (path, parameter) for each place in a module at which a parameter stands.

    `above` has the ids of the objects around `value`. An object that contains itself is not entered a second time.
    """
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
    """Return `kernel(x1, x2)`, also for inputs that are sharded over explicit axes of a mesh.

    The compiler decides which device computes which entries. The rows of the result are sharded like the rows of x1.
    Its columns are sharded like the rows of x2 if these are sharded over another axis than the rows of x1.
    """
    given = [x for x in (x1, x2) if x is not None]
    places = [jax.typeof(x).sharding for x in given if isinstance(x, Array) and x.ndim > 1]
    mesh = next((place.mesh for place in places if AxisType.Explicit in place.mesh.axis_types), None)
    if mesh is None:
        return kernel(x1, x2)
    given = [_on_mesh(jnp.asarray(x), mesh) for x in given]
    rows, columns = (jax.typeof(x).sharding.spec[0] for x in (given[0], given[-1]))
    entries = PartitionSpec(rows, None if columns == rows else columns)
    # A Kernel with the right fields that are not arrays. Its arrays are shapes only, and are filled in below.
    form = jax.eval_shape(kernel, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in given))
    specs = {"nngp": entries, "ntk": entries, "delta": entries, "q1": PartitionSpec(rows), "q2": PartitionSpec(columns)}

    def arrays(*x: Array) -> dict[str, Array]:
        k = kernel(*x)
        return {name: getattr(k, name) for name in specs}

    by_compiler: Any = jax.sharding.auto_axes(arrays, out_sharding=specs)
    return dataclasses.replace(form, **by_compiler(*given))


def _on_mesh(x: Array, mesh: Any) -> Array:
    """Return an array that is on the mesh. An array from elsewhere is copied in full to each device."""
    return x if jax.typeof(x).sharding.mesh == mesh else jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def _refuse_vanished(k: Kernel, x1: Any, x2: Any) -> None:
    """Refuse inputs that are not zero but have a kernel of zeros, because the mean squares of all pixels underflow.

    `k` is the kernel of the network's outputs. Traced inputs and inputs on devices of other processes are not checked.
    """
    for argument, x, q in (("x1", x1, k.q1), ("x2", x1 if x2 is None else x2, k.q2)):
        if _checks.is_traced(q, x) or not getattr(q, "is_fully_addressable", True):
            continue
        vanished = (np.asarray(q) == 0).reshape(len(q), -1).all(1)
        if not vanished.any():
            continue
        given = np.asarray(x)[vanished].astype(np.float64)  # [n, d] or [n, H, W, C]
        squares = np.square(given).mean(-1).reshape(len(given), -1).max(1)
        nonzero = given.reshape(len(given), -1).any(1)
        if (nonzero & (squares < float(jnp.finfo(q.dtype).tiny))).any():
            raise ValueError(
                f"`{argument}` has inputs that are too small for {q.dtype.name}: their squares round to zero. "
                f"Standardize the inputs, or use float64."
            )
