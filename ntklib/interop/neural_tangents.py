"""neural-tangents 0.6.5 on current JAX, and networks of ntklib as networks of neural-tangents.

`import ntklib.interop.neural_tangents as nt` gives what `import neural_tangents as nt` gave on older JAX: `nt.stax`,
`nt.predict`, `nt.empirical_ntk_fn`, `nt.batch` and so on. After that, `import neural_tangents` works, too. With other
versions than jax>=0.11,<0.13 and neural-tangents 0.6.5 the import raises ImportError. TensorFlow is never loaded. To
install: `pip install --no-deps neural-tangents==0.6.5 frozendict`.

The two libraries write some things differently (N inputs, K outputs, Θ the NTK on the training inputs, δ a ridge):

===========================  =======================  =================================================================
quantity                     ntklib                   neural-tangents
===========================  =======================  =================================================================
loss                         1/(2N) Σᵢ ‖f(xᵢ) − yᵢ‖²  1/(2NK) Σᵢ ‖f(xᵢ) − yᵢ‖²
gradient flow                df/dt = −Θ (f − y)/N     df/dt = −η Θ (f − y)/(NK), η the ``learning_rate`` of ``predict``
for the same curve           ``t``                    ``t`` and ``learning_rate=K``, or K times the ``t``
largest learning rate        2N/λ_max(Θ)              2NK/λ_max(Θ), as ``predict.max_learning_rate(Θ, y.size)``
δ · tr(Θ)/N on the diagonal  ``ridge=δ``              ``diag_reg=δ``; ``diag_reg_absolute_scale=True`` adds δ itself
empirical NTK, [N, M]        ``outputs="mean"``       ``trace_axes=(-1,)``: in spite of the name, the mean over outputs
[N, M, K, K]                 ``outputs="full"``       ``trace_axes=()``
[N, M, K]                    ``outputs="diagonal"``   ``trace_axes=(), diagonal_axes=(-1,)``
no bias                      ``use_bias=False``       ``b_std=None``
===========================  =======================  =================================================================

In `predict`, `diag_reg` changes the end of training at test points only. Predictions at the training inputs still reach
the targets.
"""

import warnings
from collections.abc import Callable
from typing import Any

from jax import Array

from ntklib import _checks, layers
from ntklib.duals.integrals import derivative, jump
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

# A key is the name of the function that makes an activation's record. Records of functions of a user have no such name.
_CLOSED_FORMS: dict[str, Callable[..., StaxLayer]] = {
    "relu_record": stax.Relu,
    "leaky": lambda slope: stax.LeakyRelu(slope),
    "abs_record": stax.Abs,
    "erf_record": stax.Erf,
    "gelu_record": stax.Gelu,
    "sine_record": lambda frequency, amplitude, phase, name: stax.Sin(a=amplitude, b=frequency, c=phase),
    "identity_record": stax.Identity,
    "sign_record": stax.Sign,
}


def to_neural_tangents(net: layers.Layer, *, quadrature_degree: int | None = None) -> StaxLayer:
    """Return the network of neural-tangents with the same architecture as a network of ntklib.

    `kernel_fn(x1, x2, "ntk")` checks `net.kernel(x1, x2).ntk` independently: the two libraries share no code. Only the
    architecture is carried over, and `init_fn` draws new weights. For the finite network with its own weights call
    `apply_fn, params = ntk.functional(net)`, and then `nt.empirical_ntk_fn(apply_fn)(x1, x2, params)`.

    Args:
        net: A network of Dense and Conv (under NTK or STANDARD), AvgPool, GlobalAvgPool, Flatten, the activations,
            LayerNorm, Serial, Residual and Sum.
        quadrature_degree: The number of nodes per axis of the Gauss–Hermite rule in `nt.stax.ElementwiseNumerical`. It
            is needed if neural-tangents has no closed form for an activation; see the note.

    Returns:
        (init_fn, apply_fn, kernel_fn) of neural-tangents.

    Raises:
        TypeError: If `net` is not a layer of ntklib, or `quadrature_degree` is not a whole number.
        ValueError: If a layer or a parameterization has no counterpart, if two layers share a parameter, if
            `quadrature_degree` is below 1, if an activation needs it and it is not given, or if such an activation
            jumps at zero, where this quadrature is wrong.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.mlp([784, 512, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
        >>> init_fn, apply_fn, kernel_fn = to_neural_tangents(net)

    Note:
        Quadrature takes degree² times the memory of the kernel. The errors of NNGP and NTK, relative to the largest
        entry, depend on the variance before the activation. With 40 nodes and the variance 0.5 they are below 1e-13 for
        sigmoid and SiLU, 2e-8 for tanh, and 1e-6 for arctan. For the variance 4 these errors are 1e-5, 2e-2 and 2e-2;
        80 nodes make them 1e-8, 1e-3 and 2e-3. If φ or φ' has a kink, the errors decrease only like 1/degree. For ELU
        with 40 nodes they are 4e-3 for the variance 0.5, and 2e-2 for the variance 4.

        If branches are summed, neural-tangents warns that it does not check their independence. ntklib has checked it.
        neural-tangents does not add branches whose units are not Gaussian, such as an activation, or the inputs
        themselves in a Residual around the first layer: `kernel_fn` then raises NotImplementedError.
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
    """Return the arguments of the affine `stax` layer that is the counterpart of `layer`.

    In both parameterizations the two libraries put σ_w and σ_b in the same place, and have the same NTK.
    """
    names = {NTK: "ntk", STANDARD: "standard"}
    if layer.parameterization not in names:
        raise ValueError(
            f"neural-tangents knows the parameterizations NTK and STANDARD; this network has a {type(layer).__name__} "
            f"layer under {layer.parameterization.name}. `ntklib.convert(net, ntklib.NTK)` is the same function under "
            f"NTK."
        )
    b_std = layer.b_std if layer.use_bias else None  # with b_std=0.0 the bias stays: under STANDARD it adds to the NTK
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
    size = jump(layer.fn)
    if isinstance(size, Array) or size:  # an array contains traced values
        raise ValueError(
            f"The activation {layer.name!r} jumps at zero. The quadrature of neural-tangents is wrong by several per "
            f"cent there, whatever `quadrature_degree`. Compare `net.kernel` with ntklib.monte_carlo_kernel instead."
        )
    with warnings.catch_warnings(category=UserWarning, action="ignore"):  # that errors depend on the degree
        return stax.ElementwiseNumerical(layer.fn, deg=degree, df=derivative(layer.fn))


def _sum(*branches: StaxLayer) -> StaxLayer:
    return stax.serial(stax.FanOut(len(branches)), stax.parallel(*branches), stax.FanInSum())


@stax.layer
@stax.supports_masking(remask_kernel=False)
def _times(scale: float) -> StaxLayer:
    """Return a layer that multiplies by `scale`. In neural-tangents `scale * kernel` multiplies a kernel by scale²."""
    return (
        lambda key, input_shape: (input_shape, ()),
        lambda params, x, **kwargs: scale * x,
        lambda kernel, **kwargs: scale * kernel,
    )
