"""The dense layer, and functions that all affine layers share."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Shaped

from ntklib import _checks
from ntklib.duals import correlation
from ntklib.duals.correlation import sqrt
from ntklib.kernel import Kernel, one_program
from ntklib.layers.base import Layer
from ntklib.parameterization import NTK, Parameterization, Role


class Dense(Layer):
    """An affine layer on the last axis.

    With a multiplier s of the weights and a multiplier s_b of the bias::

        z = s · x W + s_b · b.

    In the NTK parameterization W, b ~ N(0, 1), s = σ_w/√n with the fan-in n, and s_b = σ_b. Other parameterizations
    have other multipliers s and s_b, and other standard deviations v and v_b of W and b at the start (see
    `ntklib.parameterization`).

    Kernel map under NTK, with Σ = `nngp` and Θ = `ntk` (Jacot et al. 2018, Theorem 1)::

        Σ' = σ_w² Σ + σ_b²,   Θ' = Σ' + σ_w² Θ.

    Kernel map under any parameterization::

        Σ' = n s² v² Σ + s_b² v_b²,   Θ' = n s² Σ + s_b² + n s² v² Θ.

    The three terms of Θ' come from the weights, from the bias, and from all earlier parameters. Under STANDARD, Θ' is
    n Σ + 1 + σ_w² Θ. Here n is the fan-in of the finite layer, `n_in`: Θ' grows with it, and has no limit.

    Args:
        n_in: The number of inputs, n.
        n_out: The number of outputs.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared: the standard deviation of the bias term s_b · b. With 0, the default, the bias adds
            nothing to the outputs, neither at the start nor while `ntklib.sgd` trains; see the note.
        use_bias: Whether there is a bias at all.
        parameterization: One of `NTK`, `STANDARD`, `MEAN_FIELD` and `MUP`, or a `Parameterization` of your own.
        role: "input", "hidden" or "output". It is needed under `MUP` and `MEAN_FIELD`, which scale the first, the
            hidden and the last layers differently. `mlp` sets it.
        rngs: The random generator of W and b, e.g. `nnx.Rngs(0)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a size or a scale is out of range, if b_std > 0 and use_bias=False, or if `role` is unknown or
            needed and not given. From a call and from `kernel`, if the inputs do not have `n_in` features.

    Example:
        >>> layer = Dense(3, 5, w_std=1.0, b_std=0.1, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 3))).shape
        (2, 5)

    Note:
        With b_std=0 the parameter `b` still exists. Under NTK and MEAN_FIELD its multiplier is 0, so that the outputs
        do not depend on it. Under STANDARD and MUP its multiplier is 1, and it starts at 0. `ntklib.sgd` leaves it at
        0, because its learning rate is proportional to σ_b². `optax.sgd` has one learning rate for all parameters, and
        changes it. The tangent kernel Θ = J Jᵀ contains no learning rates, and this bias adds 1 to it.

        For a bias that starts at zero and that `ntklib.sgd` trains, as is usual in Flax, pass b_std=1 and then set
        `layer.b[...] = 0.0`.

    References:
        Jacot et al. 2018, Theorem 1.
    """

    ends_affine = wants_vectors = True

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        w_std: float,
        b_std: float = 0.0,
        use_bias: bool = True,
        parameterization: Parameterization = NTK,
        role: Role | None = None,
        rngs: nnx.Rngs,
    ):
        _checks.count("n_in", n_in)
        _checks.count("n_out", n_out)
        check_affine(w_std, b_std, use_bias, parameterization, rngs)
        self.n_in, self.n_out, self.w_std, self.b_std, self.use_bias = n_in, n_out, w_std, b_std, use_bias
        self.parameterization, self.role = parameterization, role
        scales = self.scales()
        self.W = nnx.Param(scales["W"][1] * standard_normal(rngs, n_in, n_out))
        self.b = nnx.Param(scales["b"][1] * standard_normal(rngs, n_out)) if use_bias else None

    def scales(self) -> dict[str, tuple[float, float, float]]:
        """Return {name of a parameter: (multiplier, initial standard deviation, learning-rate factor)}."""
        p = self.parameterization
        scales = {"W": p.weight(self.role, self.n_in, self.n_out, self.w_std)}
        return scales | {"b": p.bias(self.role, self.n_out, self.b_std)} if self.use_bias else scales

    def __call__(self, x: Shaped[Array | np.ndarray, "*N n_in"]) -> Float[Array, "*N n_out"]:
        _checks.network_input(x)
        _checks.features(self.n_in, x.shape[-1])
        scales = self.scales()
        z = scales["W"][0] * (jnp.asarray(x) @ self.W[...])
        if self.b is None:
            return z
        return z + scales["b"][0] * jnp.broadcast_to(self.b[...], z.shape)

    def kernel_map(self, k: Kernel) -> Kernel:
        _checks.features(self.n_in, k.features)
        return affine_kernel(k, self.scales(), self.n_in, self.n_out)


def affine_kernel(
    k: Kernel,
    scales: dict[str, tuple[float, float, float]],
    fan_in: int,
    features: int,
    mean: Callable[[Kernel], Kernel] | None = None,
) -> Kernel:
    """Return the kernel of the outputs of an affine layer.

    Args:
        k: The kernel of the inputs.
        scales: What the method `scales` of the layer returns.
        fan_in: The number of inputs of an output unit.
        features: The number of output units.
        mean: Replaces the kernel of the inputs by its mean over the `fan_in` inputs of an output unit; hashable. By
            default `k` is that mean.
    """
    s, v, _ = scales["W"]
    s_b, v_b, _ = scales.get("b", (0.0, 0.0, 0.0))
    weights, bias = fan_in * s**2, s_b**2
    b_var = bias * v_b**2
    new = _affine(k, weights, v**2, bias, b_var, _checks.is_traced(b_var) or bool(b_var > 0.0), mean)
    return new.replace(features=features, gaussian=True, equal_variances=True)


@one_program(5, 6)
def _affine(k: Kernel, weights: Array, variance: Array, bias: Array, b_var: Array, shifted: bool, mean: Any) -> Kernel:
    """Return Σ' = w_var Σ + b_var and Θ' = weights · (Σ + variance · Θ) + bias, with w_var = weights · variance.

    Σ and Θ are means over the inputs of an output unit. The sum is taken before the mean, so that one mean is enough
    for Θ'. If b_var is known to be 0, not `shifted`.
    """
    k = k.replace(ntk=k.nngp + variance * k.ntk)
    k = k if mean is None else mean(k)
    w_var = weights * variance
    nngp, q1, q2 = (w_var * q + b_var for q in (k.nngp, k.q1, k.q2))
    new = k.replace(nngp=nngp, ntk=weights * k.ntk + bias, q1=q1, q2=q2, delta=k.delta, acute=k.acute)
    if not shifted:
        return new  # a factor on Σ changes no correlation
    before, after = k.variances(), new.variances()
    after = tuple(jnp.where(q > 0, q, 1.0) for q in after)  # 0 only if an input is zero and b_var is a traced 0
    shares = [tuple(sqrt(part / q) for part, q in zip(parts, after, strict=True))
              for parts in ((w_var * before[0], w_var * before[1]), (b_var, b_var))]  # fmt: skip
    return new.with_delta(correlation.with_bias(k.delta, *correlation.once(shares), k.acute), k.acute)  # type: ignore


def standard_normal(rngs: nnx.Rngs, *shape: int) -> Array:
    """Draw an array of standard normal numbers."""
    # Drawing a vector and reshaping it gives the same numbers as drawing the array, and compiles up to four times as
    # fast.
    return rngs.params.normal((math.prod(shape),)).reshape(shape)


def check_affine(w_std: float, b_std: float, use_bias: bool, parameterization: object, rngs: object) -> None:
    """Check the arguments that all affine layers have.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a scale is negative or not finite, or if b_std > 0 and use_bias=False.
    """
    _checks.real("w_std", w_std, minimum=0.0)
    _checks.real("b_std", b_std, minimum=0.0)
    _checks.flag("use_bias", use_bias)
    _checks.instance(
        "parameterization", parameterization, Parameterization, "one of ntklib.NTK, STANDARD, MEAN_FIELD, MUP"
    )
    _checks.instance("rngs", rngs, nnx.Rngs, "e.g. nnx.Rngs(0)")
    if not use_bias and not _checks.is_traced(b_std) and b_std > 0.0:
        raise ValueError(f"`b_std` must be 0 without a bias; got b_std={b_std} and use_bias=False.")
