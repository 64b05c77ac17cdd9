"""The product Θ(x1, x2) v without forming Θ: a backward pass through x2, then a forward pass through x1."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib._convolutions import by_products
from ntklib.empirical import cost as costs
from ntklib.empirical.checks import Ready, check_finite_result, check_outputs, ready
from ntklib.empirical.pure import Arguments, Function, prepared
from ntklib.models import Model


def ntk_vector_product(
    model: Model, x1: ArrayLike, x2: ArrayLike | None, v: ArrayLike
) -> Float[Array, "N K"] | Float[Array, " N"]:
    """Return the empirical NTK times a vector, without forming the kernel.

    A v [M, K] is multiplied by the full kernel, and a v [M] by its mean over outputs, `empirical_ntk(outputs="mean")`::

        (Θ v)_k(x) = Σ_x' Σ_l Θ_kl(x, x') v_l(x'),    (Θ v)(x) = (1/K) Σ_k Σ_x' Θ_kk(x, x') v(x').

    Args:
        model: A model as in `ntklib.empirical_ntk`.
        x1: Inputs, [N, ...].
        x2: Inputs, [M, ...], or None for `x1`.
        v: Real numbers, [M, K] or [M].

    Returns:
        The product, [N, K] for v [M, K], and [N] for v [M].

    Raises:
        ValueError: As for `ntklib.empirical_ntk`; and if `v` is not finite, or does not fit x2 and K.
        TypeError: As for `ntklib.empirical_ntk`; if `v` is not an array of real numbers, or if the model has no
            forward derivatives (`jax.custom_vjp`).
        FloatingPointError: As for `ntklib.empirical_ntk`.

    Note:
        For v [M, K] one backward pass through x2 gives the derivative Σ_x' v(x')ᵀ ∂f(x')/∂θ, and one forward pass
        through x1 its product with ∂f(x)/∂θ. That takes about 3 F (N + M) operations, where F is the number of
        operations of one evaluation of the network. For v [M] there are two such passes for each output, one output
        after the other: about (2 K + 1) F (N + M) operations. The memory is that of one backward pass through all of x2
        and one forward pass through x1, which for v [M] also keeps its intermediate values. More inputs can be taken in
        parts: Θ(x1, x2) v = Σ_i Θ(x1, x2_i) v_i.

        The function compiles once for models of one architecture and inputs of one shape, so that a solver can call it
        in a loop. It works inside `jit`, `vmap` and `jax.shard_map`.

    References:
        Novak et al. 2022, §3.2.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net, x = ntk.Dense(3, 2, w_std=1.0, use_bias=False, rngs=nnx.Rngs(0)), jnp.eye(3)
        >>> ntk_vector_product(net, x, None, jnp.ones(3)).round(3).tolist()  # Θ = x·x'/3
        [0.333..., 0.333..., 0.333...]
    """
    function, arguments, x1, x2, k = given = ready(model, x1, x2)
    if not arguments.leaves:
        raise ValueError("`model` has no parameters, so no tangent kernel.")
    v = _vector(v, given)
    cost = costs.of(function, arguments, costs.example(x1), "full")
    if not cost.pushes_forward:
        raise TypeError(costs.NO_PUSH)
    check_outputs(function, arguments, x1, x2, cost.precision)
    arguments, x1, x2, v = prepared(arguments, x1, x2, v.astype(cost.dtype))
    return check_finite_result(kernel_product(function, arguments, x1, x1 if x2 is None else x2, v, k))


def _vector(v: Any, given: Ready) -> Array:
    m, k = len(given.x1 if given.x2 is None else given.x2), given.k
    v = _checks.one_array("v", v)
    if v.shape not in ((m,), (m, k)):
        raise ValueError(
            f"`v` must be [M, K] = [{m}, {k}], for the full kernel, or [M] = [{m}], for its mean over outputs; "
            f"got shape {v.shape}."
        )
    if jnp.issubdtype(v.dtype, jnp.complexfloating):
        raise TypeError(f"`v` must be real; got {v.dtype}. The product is linear: pass `v.real` and then `v.imag`.")
    return v if not jnp.issubdtype(v.dtype, jnp.floating) else _checks.array("v", v, "M ...")


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def kernel_product(
    function: Function, arguments: Arguments, x1: Array, x2: Array, v: Array, k: int, in_loop: bool = False
) -> Array:
    """Return Θ(x1, x2) v for a model with k outputs.

    `in_loop` says whether the call is inside a loop of a compiled program. In such a loop, and in the loop over outputs
    below, convolutions are slow on a CPU. They are computed as products of matrices there.
    """
    batch = by_products(function.batch) if in_loop or v.ndim == 1 else function.batch

    def outputs(x: Array, leaves: list[Array]) -> Array:
        return batch(arguments._replace(leaves=leaves), x)

    _, pull = jax.vjp(functools.partial(outputs, x2), arguments.leaves)
    if v.ndim == 2:
        return jax.jvp(functools.partial(outputs, x1), (arguments.leaves,), pull(v))[1]
    _, push = jax.linearize(functools.partial(outputs, x1), arguments.leaves)

    def of_output(i: Array) -> Array:
        """Return Σ_x' Θ_ii(x, x') v(x')."""
        (direction,) = pull(v[:, None] * (jnp.arange(k) == i)[None].astype(v.dtype))
        return push(direction)[:, i]

    return jax.lax.map(of_output, jnp.arange(k)).mean(0)
