"""The largest stable learning rate of a finite network, from products with its tangent kernel."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ntklib import _checks
from ntklib.empirical import cost as costs
from ntklib.empirical.checks import check_finite_result, check_outputs, ready
from ntklib.empirical.products import kernel_product
from ntklib.empirical.pure import Arguments, Function, alike, prepared
from ntklib.models import Model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearningRateLimit:
    """The result of `empirical_max_learning_rate`.

    Args:
        learning_rate: η_max = 2(1 + μ)N/λ_max; ∞ for a kernel of zeros.
        error: A bound on the error of `learning_rate`; see the note of `empirical_max_learning_rate`.
        eigenvalue: λ_max, the largest eigenvalue of the full kernel.
        products: The number of products with the kernel that were computed.
    """

    learning_rate: Float[Array, ""]
    error: Float[Array, ""]
    eigenvalue: Float[Array, ""]
    products: Int[Array, ""]


def empirical_max_learning_rate(
    model: Model,
    x: ArrayLike,
    momentum: float | Array = 0.0,
    *,
    rtol: float = 1e-3,
    max_products: int = 50,
    key: Array | None = None,
) -> LearningRateLimit:
    """Return the largest stable learning rate of full-batch gradient descent for a network at its present parameters.

    For the loss 1/(2N) Σ_i ‖f(x_i) − y_i‖² and the full empirical kernel Θ = J Jᵀ [N K, N K]::

        η_max = 2(1 + μ)N/λ_max(Θ).

    This is the limit for the network linearized at its present parameters. The kernel is never formed: Lanczos' method
    finds λ_max from products Θ v. To train at half the limit, take `0.5 * limit.learning_rate` of the result `limit`.

    Args:
        model: A model as in `ntklib.empirical_ntk`.
        x: All training inputs, [N, ...].
        momentum: μ of the heavy ball, 0 ≤ μ < 1.
        rtol: The bound on the relative error at which the iteration stops.
        max_products: The largest number of products, at least 1.
        key: A JAX random key for the vector at the start; by default `jax.random.key(0)`.

    Returns:
        A `LearningRateLimit`: the rate, a bound on its error, λ_max, and the number of products.

    Raises:
        ValueError: As for `ntklib.ntk_vector_product`; if `momentum`, `rtol` or `max_products` is out of range, or if
            `key` holds several keys.
        TypeError: As for `ntklib.ntk_vector_product`; if `momentum` or `rtol` is not a number, `max_products` not a
            whole number, or `key` not a JAX random key.
        FloatingPointError: As for `ntklib.ntk_vector_product`.

    Warns:
        UserWarning: If the bound on the relative error is still larger than `rtol` after `max_products` products, or
            after N K products if these are fewer.

    Note:
        After m products the method has the best approximation (λ, u) of the largest eigenvalue and its eigenvector
        in the span of m vectors. Some eigenvalue lies within r = ‖Θu − λu‖ of λ, and λ is never above λ_max. The
        iteration stops at r ≤ rtol · λ, and `error` is η_max r/λ. The true error is of order r², mostly much smaller.
        The bound holds if the eigenvalue near λ is the largest. It is, unless the random vector at the start has almost
        no component along the eigenvector of λ_max. To be sure, compare with another `key`.

        As a rule about ten products are enough. Each takes about 6 F N operations, where F is the number of operations
        of one evaluation of the network. The memory is that of `ntk_vector_product`, and `max_products` · N · K
        numbers. On a CPU, convolutions are computed as products of matrices, which is several times as fast here. The
        patches of one layer then take the memory of its inputs times the size of the window.

        The function compiles once for models of one architecture and inputs of one shape. It works inside `jit` and
        `vmap`, e.g. over the members of an `ensemble`. There it does not warn: look at `error`.

    References:
        Lee et al. 2019, §2.2; Golub & Van Loan 2013, §10.1 (Lanczos' method with reorthogonalization).

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net, x = ntk.Dense(2, 1, w_std=1.0, use_bias=False, rngs=nnx.Rngs(0)), jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> limit = empirical_max_learning_rate(net, x)  # Θ = x·x'/2 has the eigenvalues 2 and 1/2
        >>> round(float(limit.learning_rate), 4), float(limit.error) < 1e-3
        (2.0, True)

    See Also:
        `max_learning_rate`, for a kernel given as a matrix.
    """
    function, arguments, x, _, k = ready(model, x)
    if not arguments.leaves:
        raise ValueError("`model` has no parameters, so no tangent kernel.")
    _checks.momentum("momentum", momentum)
    _checks.real("rtol", rtol, above=0.0)
    _checks.count("max_products", max_products)
    if key is not None:
        _checks.key("key", key)
    cost = costs.of(function, arguments, costs.example(x), "full")
    if not cost.pushes_forward:
        raise TypeError(costs.NO_PUSH)
    check_outputs(function, arguments, x, None, cost.precision)
    # Drawing a vector and reshaping it gives the same numbers as drawing the array, and compiles up to four times as
    # fast.
    start = jax.random.normal(jax.random.key(0) if key is None else key, (len(x) * k,), cost.dtype).reshape(-1, k)
    arguments, x, start = prepared(arguments, x, start)
    most = min(max_products, start.size)
    value, residual, products = _lanczos(function, arguments, x, start, jnp.asarray(rtol, start.dtype), most)
    check_finite_result(residual)
    if not _checks.is_traced(residual) and float(residual) > rtol * float(value):
        _checks.warn(
            f"After {int(products)} products the bound on the relative error of the largest eigenvalue is "
            f"{float(residual / value):.1g}, above `rtol` = {rtol:g}: increase `max_products` or `rtol`."
        )
    limit = 2 * (1 + jnp.asarray(momentum).astype(value.dtype)) * len(x) / value
    relative = jnp.where(value > 0, residual / jnp.where(value > 0, value, 1.0), 0.0)
    return LearningRateLimit(limit, jnp.where(value > 0, limit * relative, 0.0), value, products)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _lanczos(
    function: Function, arguments: Arguments, x: Array, start: Array, rtol: Array, most: int
) -> tuple[Array, Array, Array]:
    """Return the approximation λ of λ_max after at most `most` products, its residual r, and the number of products."""
    n, dtype = start.size, start.dtype
    number = functools.partial(jnp.asarray, dtype=dtype)

    def product(v: Array) -> Array:
        return kernel_product(function, arguments, x, x, v.reshape(start.shape), start.shape[1], True).reshape(n)

    def going_on(state: Any) -> Array:
        i, *_, value, residual = state
        return (i < most) & (residual > rtol * value)

    def step(state: Any) -> Any:
        i, basis, v, diagonal, beside, *_ = state
        basis = basis.at[i].set(v)
        w = product(v)
        diagonal = diagonal.at[i].set(jnp.vdot(v, w))
        for _ in range(2):  # after one pass, rounding errors would leave components along earlier vectors
            w = w - (basis @ w) @ basis
        beta = jnp.linalg.norm(w)
        # Rows that are not computed yet are zero. They add eigenvalues 0, and λ_max is at least 0.
        values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1))
        residual = beta * jnp.abs(vectors[i, -1])
        v = w / jnp.where(beta > 0, beta, number(1.0))
        beside = beside.at[i].set(beta)
        return i + 1, basis, v, diagonal, beside, values[-1], residual

    v = start.reshape(n) / jnp.linalg.norm(start)
    zeros = alike((jnp.zeros((most, n), dtype), jnp.zeros(most, dtype), jnp.zeros(most, dtype)), start)
    bounds = alike((number(0.0), number(np.inf)), start)
    state = (jnp.zeros((), int), zeros[0], v, *zeros[1:], *bounds)
    products, *_, value, residual = jax.lax.while_loop(going_on, step, state)
    return jnp.maximum(value, 0.0), residual, products
