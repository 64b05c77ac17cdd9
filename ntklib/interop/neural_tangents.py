"""neural-tangents 0.6.5 on current JAX, and ntklib networks written in it.

`import ntklib.interop.neural_tangents as nt` gives what `import neural_tangents as nt` gave on the JAX of its day:
`nt.stax`, `nt.predict`, `nt.empirical_ntk_fn`, `nt.batch` and so on; from then on `import neural_tangents` gives it,
too. It works with jax>=0.11,<0.13 and neural-tangents 0.6.5 only and says so otherwise (ImportError). TensorFlow is
never loaded. To install: `pip install --no-deps neural-tangents==0.6.5 frozendict`.

Where the two libraries write the same thing differently (N inputs, K outputs, Θ the NTK on the training inputs):

| | ntklib | neural-tangents |
|---|---|---|
| loss | 1/(2N) Σᵢ ‖f(xᵢ) − yᵢ‖² | 1/(2NK) Σᵢ ‖f(xᵢ) − yᵢ‖² |
| gradient flow | df/dt = −Θ (f − y)/N | df/dt = −η Θ (f − y)/(NK), η the `learning_rate` of `predict` |
| for the same curve | `t` | `t` and `learning_rate=K`, or K times the `t` |
| largest learning rate | 2N/λ_max(Θ) | 2NK/λ_max(Θ), as `predict.max_learning_rate(Θ, y.size)` |
| ρ · tr(Θ)/N on the diagonal | `ridge=ρ` | `diag_reg=ρ`; with `diag_reg_absolute_scale=True` it is ρ itself |
| empirical NTK, [N, M] | `outputs="mean"` | `trace_axes=(-1,)`: the mean over outputs, whatever the name says |
| [N, M, K, K] | `outputs="full"` | `trace_axes=()` |
| [N, M, K] | `outputs="diagonal"` | `trace_axes=(), diagonal_axes=(-1,)` |
| no bias | `use_bias=False` | `b_std=None` |

In `predict`, `diag_reg` acts on test predictions; predictions at the training inputs still reach the targets.
"""

import warnings
from collections.abc import Callable
from typing import Any

from ntklib import _checks, layers
from ntklib.duals.integrals import derivative
from ntklib.interop import _bridge
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

#: init_fn(key, input_shape) -> (output_shape, params); apply_fn(params, x) -> z; kernel_fn(x1, x2, "ntk" or "nngp")
Triple = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]

# By the record's maker rather than by the name, which a user's own function may share.
_CLOSED_FORMS: dict[str, Callable[..., Triple]] = {
    "relu_record": stax.Relu,
    "leaky": lambda slope: stax.LeakyRelu(slope),
    "abs_record": stax.Abs,
    "erf_record": stax.Erf,
    "gelu_record": stax.Gelu,
    "sine_record": lambda frequency, amplitude, phase, name: stax.Sin(a=amplitude, b=frequency, c=phase),
    "identity_record": stax.Identity,
}


def to_neural_tangents(net: layers.Layer, *, quadrature_degree: int | None = None) -> Triple:
    """The triple (init_fn, apply_fn, kernel_fn) of neural-tangents that describes the same network as `net`.

    Its `kernel_fn(x1, x2, "ntk")` is a second opinion on `net.kernel(x1, x2).ntk`: the two share no formula. Only the
    description is carried over; `init_fn` draws weights of its own. For the finite network as it is, take ntklib's
    function: `apply_fn, params = ntk.functional(net)`, and then `nt.empirical_ntk_fn(apply_fn)(x1, x2, params)`.

    net: of Dense and Conv (under NTK or STANDARD), AvgPool, GlobalAvgPool, Flatten, the activations, LayerNorm, Serial,
        Residual and Sum.
    quadrature_degree: for activations without a closed form in neural-tangents, which are refused if it is not given:
        nodes per axis of the Gauss–Hermite rule in `nt.stax.ElementwiseNumerical`. Memory: degree² times the kernel's.
        Errors of NNGP and NTK, relative to the largest entry, at 40 nodes and variances 0.5 and 4: sigmoid and SiLU
        below 1e-13 and 1e-5, tanh 2e-8 and 2e-2, arctan 1e-6 and 2e-2; at 80 nodes and variance 4: 1e-8, 1e-3, 2e-3.
        With a kink in φ or φ' they fall only like 1/degree (ELU: 4e-3 and 2e-2 at 40).

    Where branches are summed, neural-tangents warns that it does not check their independence; ntklib has done so.
    It refuses sums of what is not Gaussian, such as Residual around the inputs or an activation: `kernel_fn` raises
    NotImplementedError.

    Raises: TypeError for anything but an ntklib layer, ValueError for a layer or parameterization with no counterpart.

    >>> import ntklib as ntk
    >>> from flax import nnx
    >>> net = ntk.mlp([784, 512, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
    >>> init_fn, apply_fn, kernel_fn = to_neural_tangents(net)
    """
    if quadrature_degree is not None:
        _checks.count("quadrature_degree", quadrature_degree)

    def convert(layer: layers.Layer) -> Triple:
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
    """Both libraries give σ_w and σ_b the same place in either parameterization, and the same NTK to both."""
    names = {NTK: "ntk", STANDARD: "standard"}
    if layer.parameterization not in names:
        raise ValueError(
            f"neural-tangents knows the parameterizations NTK and STANDARD; this network has a {type(layer).__name__} "
            f"layer under {layer.parameterization.name}. `ntklib.convert(net, ntklib.NTK)` is the same function under "
            f"NTK."
        )
    b_std = layer.b_std if layer.use_bias else None  # b_std=0.0 keeps the bias, which under STANDARD has an NTK
    return {"W_std": layer.w_std, "b_std": b_std, "parameterization": names[layer.parameterization]}


def _elementwise(layer: layers.Elementwise, degree: int | None) -> Triple:
    record = layer.activation
    maker = (record.maker or "").rpartition(":")[2]
    if maker in _CLOSED_FORMS:
        return _CLOSED_FORMS[maker](*record.arguments)
    if degree is None:
        raise ValueError(
            f"The activation {layer.name!r} has no closed form in neural-tangents. Pass `quadrature_degree` (e.g. 40) "
            "to integrate it numerically there."
        )
    with warnings.catch_warnings(category=UserWarning, action="ignore"):  # that errors depend on the degree
        return stax.ElementwiseNumerical(layer.fn, deg=degree, df=derivative(layer.fn))


def _sum(*branches: Triple) -> Triple:
    return stax.serial(stax.FanOut(len(branches)), stax.parallel(*branches), stax.FanInSum())


@stax.layer
@stax.supports_masking(remask_kernel=False)
def _times(scale: float) -> Triple:
    """Multiplication by a number. Kernels of neural-tangents, `scale * kernel`, take the square themselves."""
    return (
        lambda key, input_shape: (input_shape, ()),
        lambda params, x, **kwargs: scale * x,
        lambda kernel, **kwargs: scale * kernel,
    )
