"""neural-tangents 0.6.5 on current JAX, and ntklib networks written in it.

`import ntklib.interop.neural_tangents as nt` gives what `import neural_tangents as nt` gave on older JAX: `nt.stax`,
`nt.predict`, `nt.empirical_ntk_fn`, `nt.batch` and so on. After that, `import neural_tangents` gives the same. It works
only with jax>=0.11,<0.13 and neural-tangents 0.6.5, and raises ImportError otherwise. TensorFlow is never loaded. To
install: `pip install --no-deps neural-tangents==0.6.5 frozendict`.

The two libraries write some things differently (N inputs, K outputs, Θ the NTK on the training inputs):

===========================  =======================  =================================================================
quantity                     ntklib                   neural-tangents
===========================  =======================  =================================================================
loss                         1/(2N) Σᵢ ‖f(xᵢ) − yᵢ‖²  1/(2NK) Σᵢ ‖f(xᵢ) − yᵢ‖²
gradient flow                df/dt = −Θ (f − y)/N     df/dt = −η Θ (f − y)/(NK), η the ``learning_rate`` of ``predict``
for the same curve           ``t``                    ``t`` and ``learning_rate=K``, or K times the ``t``
largest learning rate        2N/λ_max(Θ)              2NK/λ_max(Θ), as ``predict.max_learning_rate(Θ, y.size)``
ρ · tr(Θ)/N on the diagonal  ``ridge=ρ``              ``diag_reg=ρ``; ``diag_reg_absolute_scale=True`` adds ρ itself
empirical NTK, [N, M]        ``outputs="mean"``       ``trace_axes=(-1,)``: in spite of the name, the mean over outputs
[N, M, K, K]                 ``outputs="full"``       ``trace_axes=()``
[N, M, K]                    ``outputs="diagonal"``   ``trace_axes=(), diagonal_axes=(-1,)``
no bias                      ``use_bias=False``       ``b_std=None``
===========================  =======================  =================================================================

In `predict`, `diag_reg` acts on test predictions; predictions at the training inputs still reach the targets.
"""

import warnings
from collections.abc import Callable
from typing import Any

from ntklib import _checks, layers
from ntklib.duals.integrals import derivative
from ntklib.interop import _bridge
from ntklib.layers.base import require_independent
from ntklib.parameterization import NTK, STANDARD

with _bridge.on_current_jax():
    from neural_tangents import (
        Kernel,
        NtkImplementation,
        __version__,
        batch,
        empirical_kernel_fn,
        empirical_nngp_fn,
        empirical_ntk_fn,
        empirical_ntk_vp_fn,
        experimental,
        linearize,
        monte_carlo_kernel_fn,
        predict,
        stax,
        taylor_expand,
    )

__all__ = [
    "Kernel",
    "NtkImplementation",
    "__version__",
    "batch",
    "empirical_kernel_fn",
    "empirical_nngp_fn",
    "empirical_ntk_fn",
    "empirical_ntk_vp_fn",
    "experimental",
    "linearize",
    "monte_carlo_kernel_fn",
    "predict",
    "stax",
    "taylor_expand",
    "to_neural_tangents",
]

#: A layer of `stax`: init_fn(key, input_shape) -> (output_shape, params), apply_fn(params, x) -> z, and
#: kernel_fn(x1, x2, "ntk" or "nngp").
StaxLayer = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]

# The key is the function that makes an activation's record, not its name, which a function of a user may share.
_CLOSED_FORMS: dict[str, Callable[..., StaxLayer]] = {
    "relu_record": stax.Relu,
    "leaky": lambda slope: stax.LeakyRelu(slope),
    "abs_record": stax.Abs,
    "erf_record": stax.Erf,
    "gelu_record": stax.Gelu,
    "sine_record": lambda frequency, amplitude, phase, name: stax.Sin(a=amplitude, b=frequency, c=phase),
    "identity_record": stax.Identity,
}


def to_neural_tangents(net: layers.Layer, *, quadrature_degree: int | None = None) -> StaxLayer:
    """Return the network of neural-tangents with the same architecture as a network of ntklib.

    `kernel_fn(x1, x2, "ntk")` is a second opinion on `net.kernel(x1, x2).ntk`: the two libraries share no formula. Only
    the architecture is carried over, and `init_fn` draws new weights. For the finite network with its weights take
    `apply_fn, params = ntk.functional(net)`, and then `nt.empirical_ntk_fn(apply_fn)(x1, x2, params)`.

    Args:
        net: A network of Dense and Conv (under NTK or STANDARD), AvgPool, GlobalAvgPool, Flatten, the activations,
            LayerNorm, Serial, Residual and Sum.
        quadrature_degree: The nodes per axis of the Gauss–Hermite rule in `nt.stax.ElementwiseNumerical`. It is needed
            for activations without a closed form in neural-tangents; see the note.

    Returns:
        (init_fn, apply_fn, kernel_fn) of neural-tangents.

    Raises:
        TypeError: If `net` is not a layer of ntklib.
        ValueError: If a layer or a parameterization has no counterpart, if two layers share a parameter, or if an
            activation needs `quadrature_degree`.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.mlp([784, 512, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
        >>> init_fn, apply_fn, kernel_fn = to_neural_tangents(net)

    Note:
        Quadrature takes degree² times the memory of the kernel. With 40 nodes and the variances 0.5 and 4, the errors
        of NNGP and NTK relative to the largest entry are below 1e-13 and 1e-5 for sigmoid and SiLU, 2e-8 and 2e-2 for
        tanh, 1e-6 and 2e-2 for arctan. With 80 nodes and the variance 4 they are 1e-8, 1e-3 and 2e-3. If φ or φ' has a
        kink, they decrease only like 1/degree (ELU: 4e-3 and 2e-2 with 40 nodes).

        Where branches are summed, neural-tangents warns that it does not check their independence; ntklib has checked
        it. neural-tangents does not add units that are not Gaussian, such as Residual around the inputs or an
        activation: `kernel_fn` raises NotImplementedError.
    """
    if quadrature_degree is not None:
        _checks.count("quadrature_degree", quadrature_degree)
    require_independent(net)

    def convert(layer: layers.Layer) -> StaxLayer:
        match layer:
            case layers.Serial():
                return stax.serial(*map(convert, layer.layers))
            case layers.Sum():
                return _sum(*map(convert, layer.branches))
            case layers.Residual():
                return _sum(stax.Identity(), stax.serial(convert(layer.branch), _times(layer.scale)))
            case layers.Dense():
                return stax.Dense(layer.n_out, **_affine(layer))
            case layers.Conv():
                return stax.Conv(layer.c_out, layer.kernel_size, layer.strides, layer.padding, **_affine(layer))
            case layers.AvgPool():
                return stax.AvgPool(layer.window, layer.strides, layer.padding, normalize_edges=True)
            case layers.GlobalAvgPool():
                return stax.GlobalAvgPool()
            case layers.Elementwise():
                return _elementwise(layer, quadrature_degree)
            case layers.LayerNorm():
                return stax.LayerNorm(eps=layer.epsilon)
            case layers.Flatten():
                return stax.Flatten()
            case layers.Layer():
                raise ValueError(f"{type(layer).__name__} has no counterpart in neural-tangents that is known here.")
        raise TypeError(
            f"`net` must be an ntklib layer or network, such as ntklib.mlp(...); got {type(layer).__name__}."
        )

    return convert(net)


def _affine(layer: layers.Dense | layers.Conv) -> dict[str, Any]:
    """Return the arguments of an affine layer.

    In both parameterizations the two libraries put σ_w and σ_b in the same place, and have the same NTK.
    """
    names = {NTK: "ntk", STANDARD: "standard"}
    if layer.parameterization not in names:
        raise ValueError(
            f"neural-tangents knows the parameterizations NTK and STANDARD; this network has a {type(layer).__name__} "
            f"layer under {layer.parameterization.name}. `ntklib.convert(net, ntklib.NTK)` is the same function under "
            f"NTK."
        )
    b_std = layer.b_std if layer.use_bias else None  # b_std=0.0 keeps the bias, which under STANDARD has an NTK
    return {"W_std": layer.w_std, "b_std": b_std, "parameterization": names[layer.parameterization]}


def _elementwise(layer: layers.Elementwise, degree: int | None) -> StaxLayer:
    record = layer.activation
    maker = (record.maker or "").rpartition(":")[2]
    if maker in _CLOSED_FORMS:
        return _CLOSED_FORMS[maker](*record.arguments)
    if degree is None:
        raise ValueError(
            f"The activation {layer.name!r} has no closed form in neural-tangents. Pass `quadrature_degree` (e.g. 40) "
            "to integrate it numerically there."
        )
    with warnings.catch_warnings(category=UserWarning, action="ignore"):  # it says that errors depend on the degree
        return stax.ElementwiseNumerical(layer.fn, deg=degree, df=derivative(layer.fn))


def _sum(*branches: StaxLayer) -> StaxLayer:
    return stax.serial(stax.FanOut(len(branches)), stax.parallel(*branches), stax.FanInSum())


@stax.layer
@stax.supports_masking(remask_kernel=False)
def _times(scale: float) -> StaxLayer:
    """Return a layer that multiplies by a number. `scale * kernel` of neural-tangents squares the number itself."""
    return (
        lambda key, input_shape: (input_shape, ()),
        lambda params, x, **kwargs: scale * x,
        lambda kernel, **kwargs: scale * kernel,
    )
