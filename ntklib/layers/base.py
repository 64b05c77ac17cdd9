"""The one base class: what every layer has."""

import abc

from flax import nnx
from jax import Array
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
        Differentiable in the inputs, also at equal and at zero inputs.

        >>> import jax.numpy as jnp, ntklib as ntk
        >>> net = ntk.mlp([2, 64, 1], w_std=2**0.5, b_std=0.0, rngs=nnx.Rngs(0))
        >>> k = net.kernel(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> [[round(float(e), 4) for e in row] for row in k.ntk]
        [[2.0, 0.3183], [0.3183, 2.0]]
        """
        k = self.kernel_map(Kernel.from_inputs(x1, x2, pools=self.pools))
        if k.q1.ndim > 1 and self.wants_vectors:
            raise ValueError(
                f"The network ends in a Dense layer, but its input there still has pixels, {k.q1.shape[1:]}: put "
                f"ntklib.Flatten() or ntklib.GlobalAvgPool() before it. For outputs at every pixel end with an "
                f"ntklib.Conv of kernel_size=1."
            )
        return k
