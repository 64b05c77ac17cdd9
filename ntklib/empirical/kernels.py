"""Kernels of one finite network: the empirical NTK and the empirical NNGP kernel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.empirical import blocks, sharded
from ntklib.empirical import cost as costs
from ntklib.empirical.checks import check_kernel, check_outputs, check_squares, ready
from ntklib.empirical.plan import METHODS, Method, Outputs, planned
from ntklib.empirical.pure import batched
from ntklib.kernel import Kernel
from ntklib.layers import Dense, Serial
from ntklib.layers.base import shared_parameter
from ntklib.models import Model, Params


def empirical_ntk(
    model: Model,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    outputs: Outputs = "mean",
    method: Method = "auto",
    max_memory: int | float = _checks.MAX_MEMORY,
    tile: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "N M"] | Float[Array, "N M K"] | Float[Array, "N M K K"]:
    """Return the NTK of a finite network at its present parameters.

    With the outputs f_k and the parameters θ_p::

        Θ_kl(x, x') = Σ_p ∂f_k(x)/∂θ_p ∂f_l(x')/∂θ_p.

    Each parameter has the weight 1: learning rates of single layers do not enter. A complex parameter counts as two
    real ones, its real and its imaginary part: Θ = Re(J Jᴴ), where J are the gradients of JAX.

    Args:
        model: An `nnx.Module`, a Linen module with its variables, or (apply_fn, params); see `ntklib.functional`.
            The outputs of an example must not depend on other examples: BatchNorm and Dropout must be in evaluation
            mode, which an `nnx.Module` always is here. Outputs must be real; for complex ones see the note.
        x1: Inputs, [N, ...], of any type that the model takes: also bytes, booleans, and integers for embeddings.
        x2: Inputs, [M, ...]. By default they are `x1`, and only tiles that touch the upper triangle are computed.
        outputs: "mean" for (1/K) Σ_k Θ_kk, which tends to `net.kernel(x1, x2).ntk` as the width grows; "full" for Θ_kl;
            "diagonal" for Θ_kk.
        method: "layerwise", "jacobian", "products", or "auto". All give the same numbers up to rounding; see the note.
        max_memory: The bytes to work in, besides inputs, parameters and the result; by default 2 GiB. The function uses
            less if more would not be faster. Inside `jit` the compiler allocates memory, and the bound does not hold.
        tile: The largest number of rows, and of columns, to compute at a time; by default at most 256, or at most
            max(8, 640/K) for "full". Tiles are smaller if `max_memory` requires it.
        mesh: A `jax.sharding.Mesh` whose number of devices divides N. The devices compute at the same time, each within
            `max_memory` and by a program of its own. The result is sharded by rows, like that of `ntklib.gram`. It
            differs from the result of one device by rounding (1e-6 of the largest entry in float32), because tiles
            have other sizes. Under `jax.distributed` each process computes the rows of its devices.

    Returns:
        [N, M] for "mean", [N, M, K, K] for "full", [N, M, K] for "diagonal", in the precision of the outputs.
        Floating-point inputs, parameters and outputs of fewer than 32 bits are converted to float32. If the model
        computes in half precision inside, the kernel has only the digits of half precision.

    Raises:
        ValueError: If inputs or outputs have the wrong shape, if inputs or parameters are not finite, if the outputs
            for a few inputs, which are tried in the first call for an architecture, are not finite or depend on other
            examples, if the model has no parameters, if an option is unknown or out of range, or if `max_memory` is too
            small for a pair of inputs (the message says what is enough). For a `mesh`: if its number of devices does
            not divide N, if this process has no device in it, or if the call is inside `jit`, `grad` or `vmap`.
        TypeError: If inputs are not arrays, if parameters are not floating-point or complex numbers, if outputs are not
            real, if `model`, `max_memory`, `tile` or `mesh` has the wrong type, or if `method` is "products" and the
            model has no forward derivatives (`jax.custom_vjp`).
        FloatingPointError: If an entry of the kernel is not finite: the model has no finite output or no derivative at
            some input, or derivatives whose products are too large for their type.

    Note:
        F is the number of operations of one evaluation, and P the number of parameters.

        - "layerwise" finds the affine layers of any model (see `ntklib.empirical.affine`). A dense layer z = a W + b
          contributes (a·a' + 1)(δ·δ'), where δ are the derivatives of the outputs with respect to z. No Jacobian is
          formed. That takes about 2 (n_in + K n_out) operations for each pair of inputs, or 2 (n_in + K² n_out) for
          "full". A layer that is used at T positions (in a convolution or a sequence) contributes the sum over the T²
          pairs of positions, or the product of its Jacobians if this takes fewer operations. Weights that are used
          twice or in a loop, and parameters that belong to no affine layer (scales of norms, embeddings), contribute
          by their Jacobians. Nothing is approximated.
        - "jacobian" computes the Jacobians of B examples at a time, [B, K, P], and multiplies them: about 2 K P
          operations for each pair, or 2 K² P for "full".
        - "products" computes the derivative ∂f_l(x')/∂θ of each output of each input in x2 by a backward pass, and
          multiplies it by ∂f(x)/∂θ with a Jacobian-vector product for each input x in x1: at most about (2 K + 1) F
          operations for each pair. No Jacobian of x1 is held.
        - "auto" counts the operations of all three for these N, M and K, and takes the method with the fewest: nearly
          always "layerwise", but "products" if K is large and many positions share weights. An operation of "products"
          counts 1.5 times, because it takes longer. Without forward derivatives "products" is not considered.

        For complex outputs f, pass their real and imaginary parts side by side. Let Θ_ri be the block of the full
        kernel between real parts for x1 and imaginary parts for x2, and so on. If f is holomorphic in the parameters,
        J Jᴴ = ½ (Θ_rr + Θ_ii + √−1 (Θ_ir − Θ_ri)), where J is the Jacobian of f.

        Models of one architecture compile once, so that this function can be called in a loop over seeds or training
        steps. It works inside `jit`, `vmap` and `jax.shard_map` (where each shard computes its rows). Traced values are
        not checked. Errors of the model itself, for inputs with a wrong number of features for instance, are passed on,
        but for a TypeError where inputs are not floating-point: it is taken to say that the model does not take this
        type. Arrays sharded over explicit axes of a mesh are first copied to each of its devices. Long runs show a
        progress bar, unless the environment variable CI is set.

    References:
        Jacot et al. 2018; Novak et al. 2022 for "products" and for the use of a layer's structure.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.Dense(3, 2, w_std=1.0, use_bias=False, rngs=nnx.Rngs(0))  # linear: Θ = x·x'/d
        >>> empirical_ntk(net, jnp.eye(3)).round(3).tolist()[0]
        [0.333..., 0.0, 0.0]
    """
    _checks.choice("outputs", outputs, ("mean", "full", "diagonal"))
    _checks.choice("method", method, METHODS)
    _checks.real("max_memory", max_memory, above=0.0)
    if tile is not None:
        _checks.count("tile", tile)
    function, arguments, x1, x2, _ = given = ready(model, x1, x2)
    if mesh is not None:
        sharded.check_mesh(mesh, x1, x2, arguments)
    if not arguments.leaves:
        raise ValueError("`model` has no parameters, so no tangent kernel.")
    plan = planned(given, outputs=outputs, method=method, max_memory=float(max_memory), tile=tile)
    check_outputs(function, arguments, x1, x2, plan.precision)
    if mesh is not None:
        return check_kernel(sharded.compute(plan, arguments, x1, x2, mesh))
    return check_kernel(blocks.compute(plan.strategy, arguments, x1, x2, plan.dtype, plan.tiling))


def empirical_nngp(model: Model, x1: ArrayLike, x2: ArrayLike | None = None) -> Float[Array, "N M"]:
    """Return an estimate, made from one network, of the NNGP kernel E[f_k(x) f_k(x')] over initializations.

    For a `Serial` network that ends in `Dense` and whose layers share no weights, the expectation over the parameters
    of the last layer is exact. In the NTK parameterization, with the last hidden layer h of n units, the estimate is::

        σ_w² h(x)·h(x')/n + σ_b².

    Its noise vanishes like 1/√n. For any other model the estimate is the mean over outputs::

        (1/K) Σ_k f_k(x) f_k(x').

    Over random networks of the model's own width, both have the mean E[f_k(x) f_k(x')]. The diagonal of the second has
    a relative noise of √(2/K) even in wide networks: average it over networks.

    Args:
        model: A model as in `empirical_ntk`.
        x1: Inputs, [N, ...].
        x2: Inputs, [M, ...]; by default `x1`.

    Returns:
        The estimate, [N, M].

    Raises:
        ValueError: As for `empirical_ntk`, for `model` (which may have no parameters here; those of a last layer whose
            expectation is exact are not looked at), `x1` and `x2`; or if squares of outputs or of hidden units are not
            finite.
        TypeError: As for `empirical_ntk`, for `model`, `x1` and `x2`.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.Serial(ntk.Dense(2, 1, w_std=1.0, rngs=nnx.Rngs(0)))
        >>> empirical_nngp(net, jnp.eye(2)).tolist()
        [[0.5, 0.0], [0.0, 0.5]]

    See Also:
        `monte_carlo_kernel`, which averages over networks and gives standard errors.
    """
    represented, kernel = by_representation(model)
    function, arguments, x1, x2, _ = ready(represented, x1, x2)
    check_outputs(function, arguments, x1, x2, costs.of(function, arguments, costs.example(x1), "mean").precision)
    h1 = check_squares("x1", batched(function, arguments, x1))
    return kernel(h1, None if x2 is None else check_squares("x2", batched(function, arguments, x2)))


def by_representation(model: Model) -> tuple[Model, Callable[[Array, Array | None], Array]]:
    """Return (represented, kernel), with which `empirical_nngp` makes its estimate.

    `represented` is a model with outputs h [N, p]: the inputs of the last layer of `model` if the expectation over this
    layer is exact, and the outputs of `model` if not. kernel(h1, h2) makes the estimate [N, M] from h for x1 and h for
    x2; h2 is None if x2 is x1.
    """
    if not (isinstance(model, Serial) and isinstance(model.layers[-1], Dense)) or shared_parameter(model):
        return model, _mean_product
    *hidden, readout = model.layers
    represented = Serial(*hidden) if hidden else (_floating, {})
    return represented, lambda h1, h2: readout.kernel_map(Kernel.from_inputs(h1, h2)).nngp


def _floating(params: Params, x: Array) -> Array:
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


@jax.jit
def _mean_product(f1: Array, f2: Array | None) -> Array:
    return jnp.einsum("ik,jk->ij", f1, f1 if f2 is None else f2, precision=jax.lax.Precision.HIGHEST) / f1.shape[1]
