"""Kernels of finite networks: the empirical NTK, by Jacobian contraction or by NTK-vector products, and the
empirical NNGP.
"""

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
from ntklib.empirical.checks import check_kernel, check_outputs, ready
from ntklib.empirical.plan import METHODS, Method, Outputs, planned
from ntklib.empirical.pure import batched
from ntklib.kernel import Kernel
from ntklib.layers import Dense, Serial
from ntklib.models import Model, Params


def empirical_ntk(
    model: Model,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    outputs: Outputs = "mean",
    method: Method = "auto",
    max_memory: int | float = 1e9,
    tile: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "N M"] | Float[Array, "N M K"] | Float[Array, "N M K K"]:
    """The NTK of a finite network at its present parameters.

        Θ_kl(x, x') = Σ_p ∂f_k(x)/∂θ_p ∂f_l(x')/∂θ_p

    Every parameter counts once, with no learning rates; a complex one counts as two real ones, its real and imaginary
    part, so that Θ = Re(J Jᴴ) with J the gradients of JAX.

    Args:
        model: an `nnx.Module`, a Linen module with its variables, or (apply_fn, params); see `ntklib.functional`.
            It must treat each example by itself (BatchNorm and Dropout in evaluation mode) and have real outputs; of a
            complex f pass real and imaginary part side by side. For a holomorphic f then
            J Jᴴ = ½ (Θ_rr + Θ_ii + i (Θ_ir − Θ_ri)), of the blocks of the full kernel.
        x1: inputs, [N, ...], of any type that the model takes: bytes and booleans too, integers for embeddings.
        x2: inputs, [M, ...]; by default x1, and then only the upper triangle is computed.
        outputs: "mean" (1/K) Σ_k Θ_kk, which tends to `net.kernel(x1, x2).ntk`; "full" Θ_kl; "diagonal" Θ_kk.
        method: three ways to the same numbers.

            "layerwise": a dense layer with inputs a and derivatives δ of the outputs by its own contributes
            (a·a' + 1)(δ·δ'), and no Jacobian is formed: about 2 (n_in + K² n_out) operations a pair of inputs
            ("full"; K instead of K² otherwise). A layer used at T positions (a convolution, a sequence) contributes
            the sum over T² pairs of them, or by its own Jacobian, whichever counts less. Layers are found in any
            model, see `ntklib.empirical.affine`; a weight that is used twice, or in a loop, and whatever belongs to
            no affine layer (scales of norms, embeddings) contributes by its Jacobian, too: nothing is approximated.

            "jacobian" forms the Jacobians of all parameters, [B, K, P], and contracts them: about 2 K P operations a
            pair ("full": 2 K² P).

            "products" pulls each output of x2 back and pushes the result forward through x1: about 3 K F operations a
            pair, F those of one evaluation, without ever holding a Jacobian of x1.

            "auto" counts the operations of all three, for these N, M and K, and takes the smallest: "layerwise"
            nearly always, "products" where K is large and weights are shared between many positions.
        max_memory: bytes to work in, besides inputs, parameters and the result. By default 1 GB; more is used to hold
            several blocks at a time, which saves computing those of x2 again, less where less is as fast. Not kept
            inside `jit`, where the compiler decides what is in memory at a time.
        tile: at most so many rows and columns computed at a time; by default what `max_memory` allows.
        mesh: a `jax.sharding.Mesh`. Its devices share the rows, N/devices each, and work at the same time, each
            within `max_memory`. The result is sharded by rows, as that of `ntklib.gram`, and equal to that of one
            device up to rounding (1e-6 of the largest entry in float32), as tiles have other sizes. Each device has a
            program of its own to compile. Under `jax.distributed` each process computes the rows of its devices.

    Returns:
        [N, M] for "mean", [N, M, K, K] for "full", [N, M, K] for "diagonal", in the precision of the outputs. Inputs,
        parameters and outputs of fewer than 32 bits are taken in float32; a model that computes in half precision
        inside has no more digits than that.

    Raises:
        ValueError: inputs or outputs of the wrong shape; parameters or outputs that are not finite; examples that see
            each other; unknown options; too little `max_memory` for a pair of inputs (the message says what would do).
        TypeError: inputs that are no array; parameters that are no floating-point or complex numbers.
        FloatingPointError: a model without a derivative at some input.

    Note:
        Models of one architecture compile once, so that this can stand in a loop over seeds or training steps. It works
        inside `jit`, `vmap` and `jax.shard_map` (each shard its rows), where values are not checked. Arrays sharded
        over explicit mesh axes are gathered first. Long runs show a progress bar, unless the environment variable CI
        is set.

    Reference:
        Jacot et al. 2018; "products" and layers by their structure: Novak et al. 2022.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.Dense(3, 2, w_std=1.0, use_bias=False, rngs=nnx.Rngs(0))  # linear: Θ = x·x'/d for all weights
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
    return check_kernel(blocks.compute(plan.way, arguments, x1, x2, plan.dtype, plan.tiling))


def empirical_nngp(model: Model, x1: ArrayLike, x2: ArrayLike | None = None) -> Float[Array, "N M"]:
    """One network's estimate of the NNGP kernel E[f_k(x) f_k(x')] over initializations; average it over networks.

    For any model (1/K) Σ_k f_k(x) f_k(x'), without bias at every width for outputs of mean zero, but with a relative
    noise of √(2/K). For a `Serial` network ending in `Dense` the readout is integrated out, which leaves its last
    hidden layer h: σ_w² h(x)·h(x')/n + σ_b² (NTK parameterization), the same mean with a noise that vanishes like 1/√n.

    Args:
        model: as in `empirical_ntk`.
        x1: inputs, [N, ...].
        x2: inputs, [M, ...]; by default x1.

    Returns:
        [N, M].

    Raises:
        ValueError, TypeError: as `empirical_ntk`.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> net = ntk.Serial(ntk.Dense(2, 1, w_std=1.0, rngs=nnx.Rngs(0)))
        >>> empirical_nngp(net, jnp.eye(2)).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    represented, kernel = by_representation(model)
    function, arguments, x1, x2, _ = ready(represented, x1, x2)
    check_outputs(function, arguments, x1, x2, costs.of(function, arguments, costs.example(x1), "mean").precision)
    return kernel(batched(function, arguments, x1), None if x2 is None else batched(function, arguments, x2))


def by_representation(model: Model) -> tuple[Model, Callable[[Array, Array | None], Array]]:
    """What `empirical_nngp` is made of, [N, p]: the last hidden layer or the outputs, as a model, and the function of
    these for two sets of inputs or one.
    """
    if not (isinstance(model, Serial) and isinstance(model.layers[-1], Dense)):
        return model, _mean_product
    *hidden, readout = model.layers
    represented = Serial(*hidden) if hidden else (_floating, {})
    return represented, lambda h1, h2: readout.kernel_map(Kernel.from_inputs(h1, h2)).nngp


def _floating(params: Params, x: Array) -> Array:
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


@jax.jit
def _mean_product(f1: Array, f2: Array | None) -> Array:
    return jnp.einsum("ik,jk->ij", f1, f1 if f2 is None else f2, precision=jax.lax.Precision.HIGHEST) / f1.shape[1]
