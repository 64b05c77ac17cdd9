"""Kernels of finite networks: the empirical NTK, by Jacobian contraction or by NTK-vector products, and the
empirical NNGP.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.empirical import blocks, layerwise
from ntklib.empirical import cost as costs
from ntklib.kernel import Kernel
from ntklib.layers import Dense, Serial
from ntklib.models import ApplyFn, Model, Params, check_output, functional

Outputs = Literal["mean", "full", "diagonal"]
Method = Literal["auto", "jacobian", "products", "layerwise"]


def empirical_ntk(
    model: Model,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    outputs: Outputs = "mean",
    method: Method = "auto",
    max_memory: int | float = 1e9,
    batch_size: int | None = None,
) -> Float[Array, "N M"] | Float[Array, "N M K"] | Float[Array, "N M K K"]:
    """The NTK of a finite network at its present parameters: Θ_kl(x, x') = Σ_p ∂f_k(x)/∂θ_p ∂f_l(x')/∂θ_p.

    model: an `nnx.Module`, a Linen module with its variables, or (apply_fn, params); see `ntklib.functional`. Every
        parameter counts once, with no learning rates. Examples must not see each other (BatchNorm in evaluation mode).
    outputs: "mean" (1/K) Σ_k Θ_kk, [N, M], which tends to `net.kernel(x1, x2).ntk`; "full" Θ_kl, [N, M, K, K];
        "diagonal" Θ_kk, [N, M, K].
    method: three ways to the same numbers.
        "layerwise": a dense layer with inputs a and derivatives δ of the outputs by its own contributes
        (a·a' + 1)(δ·δ'), and no Jacobian is formed: about 2 (n_in + K² n_out) operations a pair of inputs ("full"; K
        instead of K² otherwise). A layer used at T positions (a convolution, a sequence) contributes the sum over T²
        pairs of them, or by its own Jacobian, whichever counts less. Layers are found in any model, see
        `ntklib.empirical.affine`; a weight that is used twice, or in a loop, and whatever belongs to no affine layer
        (scales of norms, embeddings) contributes by its Jacobian, too: nothing is approximated.
        "jacobian" forms the Jacobians of all parameters, [B, K, P], and contracts them: about 2 K P operations a pair
        ("full": 2 K² P).
        "products" pulls each output of x2 back and pushes the result forward through x1: about 3 K F operations a
        pair, F those of one evaluation, without ever holding a Jacobian of x1.
        "auto" counts the operations of all three, for these N, M and K, and takes the smallest: "layerwise" nearly
        always, "products" where K is large and weights are shared between many positions.
    max_memory: bytes to work in, besides inputs, parameters and the result. By default 1 GB; more is used to hold
        several blocks at a time, which saves computing those of x2 again, less where less is as fast. Not kept inside
        `jit`, where the compiler decides what is in memory at a time.
    batch_size: at most so many rows and columns computed at a time; by default what `max_memory` allows.

    Without `x2` only the upper triangle is computed. Long runs show a progress bar, unless the environment variable CI
    is set.

    Raises ValueError or TypeError on inputs or outputs of the wrong shape, on unknown options, and where `max_memory`
    is too little for one pair of inputs (the message says what would do).
    Source: Jacot et al. 2018; "products" and layers by their structure: Novak et al. 2022.

    >>> import ntklib as ntk
    >>> from flax import nnx
    >>> net = ntk.Dense(3, 2, w_std=1.0, use_bias=False, rngs=nnx.Rngs(0))  # linear: Θ = x·x'/d, whatever the weights
    >>> empirical_ntk(net, jnp.eye(3)).round(3).tolist()[0]
    [0.333..., 0.0, 0.0]
    """
    _checks.choice("outputs", outputs, ("mean", "full", "diagonal"))
    _checks.choice("method", method, ("auto", *_WAYS))
    _checks.real("max_memory", max_memory, above=0.0)
    if batch_size is not None:
        _checks.count("batch_size", batch_size)
    apply_fn, params = functional(model)
    x1 = _checks.model_inputs("x1", x1)
    if x2 is not None:
        x2 = _checks.model_inputs("x2", x2)
        _checks.same_inputs(x1, x2)
    k = check_output(apply_fn, params, x1[:1])[1]
    if not jax.tree.leaves(params):
        raise ValueError("`model` has no parameters, so no tangent kernel.")
    n, m = x1.shape[0], (x1 if x2 is None else x2).shape[0]
    cost = costs.of(apply_fn, params, jax.ShapeDtypeStruct(x1.shape[1:], x1.dtype), outputs)
    if method == "auto":
        method = _cheapest(cost, n, m)
    # Wide enough for matrix products at full speed, small enough to skip the lower triangle.
    widest = max(8, 640 // k) if outputs == "full" else 256
    most = min(max(n, m), batch_size or min(widest, max(-(-n // 2), widest // 4)))
    memory, piece = functools.partial(cost.memory, method), functools.partial(cost.piece, method)
    tiling = blocks.choose(memory, piece, k, most, float(max_memory))
    return blocks.compute(blocks.Way(*_WAYS[method], apply_fn, outputs, k), params, x1, x2, cost.dtype, tiling)


def empirical_nngp(model: Model, x1: ArrayLike, x2: ArrayLike | None = None) -> Float[Array, "N M"]:
    """One network's estimate of the NNGP kernel E[f_k(x) f_k(x')] over initialisations, [N, M]; average it over
    networks.

    For any model: (1/K) Σ_k f_k(x) f_k(x'), without bias at every width for outputs of mean zero, but with a
    relative noise of √(2/K). For a `Serial` network ending in `Dense` the readout is integrated out, which leaves
    its last hidden layer h: σ_w² h(x)·h(x')/n + σ_b² (NTK parameterization), the same mean with a noise that
    vanishes like 1/√n.

    >>> import ntklib as ntk
    >>> from flax import nnx
    >>> net = ntk.Serial(ntk.Dense(2, 1, w_std=1.0, rngs=nnx.Rngs(0)))
    >>> empirical_nngp(net, jnp.eye(2)).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    if isinstance(model, Serial) and isinstance(model.layers[-1], Dense):
        *hidden, readout = model.layers

        def last_hidden(x: ArrayLike) -> Array:
            h = _checks.inputs("x", x)
            for layer in hidden:
                h = layer(h)
            return h

        h1 = last_hidden(x1)
        return readout.kernel_map(Kernel.from_inputs(h1, None if x2 is None else last_hidden(x2))).nngp
    apply_fn, params = functional(model)
    x1 = _checks.model_inputs("x1", x1)
    check_output(apply_fn, params, x1[:1])
    f1 = apply_fn(params, x1)
    f2 = f1 if x2 is None else apply_fn(params, _checks.model_inputs("x2", x2))
    return jnp.einsum("ik,jk->ij", f1, f2) / f1.shape[1]


def _cheapest(cost: costs.Cost, n: int, m: int) -> Method:
    """The method with the smallest operation count (see `empirical_ntk`)."""
    return min(("layerwise", "jacobian", "products"), key=lambda method: cost.operations(method, n, m))


# ---------------------------------------------------------------------- what a block of examples needs, and a tile


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jacobians(apply_fn: ApplyFn, outputs: str, params: Params, x: Array, units: Array) -> list[Array]:
    """∂f_k(x)/∂θ for each example and some outputs, one array for each parameter tensor; laid out as for layers."""

    def of_one(one: Array) -> Params:
        _, pull = jax.vjp(lambda p: _on_one(apply_fn, p, one), params)
        return jax.vmap(pull)(units)[0]

    leaves = jax.tree.leaves(jax.vmap(of_one)(x))
    return [layerwise.flat(leaf.reshape(*leaf.shape[:2], -1), outputs) for leaf in leaves]


def _inputs(apply_fn: ApplyFn, outputs: str, params: Params, x: Array, units: ArrayLike) -> tuple[Array, ArrayLike]:
    return x, units


def _products(apply_fn: ApplyFn, outputs: str, params: Params, left: tuple, right: tuple) -> Array:
    forward = functools.partial(_on_one, apply_fn)
    (x1, units1), (x2, units2) = left, right

    def column(one: Array) -> Array:
        """Θ_kl(x1, one) for all l: pull the l-th output back to a direction in parameters, push that through x1."""
        _, pull = jax.vjp(lambda p: forward(p, one), params)

        def push(unit: Array) -> Array:
            (direction,) = pull(unit)
            moved = jax.vmap(lambda x: jax.jvp(lambda p: forward(p, x), (params,), (direction,))[1])(x1)  # [N, K]
            return jnp.matmul(moved, units1.T if outputs == "full" else unit, precision=jax.lax.Precision.HIGHEST)

        return jax.vmap(push, out_axes=-1)(units2)

    theta = jnp.moveaxis(jax.lax.map(column, x2), 0, 1)  # one column after the other: [N, M, (K,) K]
    return theta.sum(-1) if outputs == "mean" else theta


def _on_one(apply_fn: ApplyFn, params: Params, one: Array) -> Array:
    return apply_fn(params, one[None])[0]


_WAYS = {
    "layerwise": (layerwise.features, layerwise.placed, layerwise.contract),
    "jacobian": (_jacobians, layerwise.placed, layerwise.contract),
    "products": (_inputs, layerwise.placed, _products),  # whose blocks are never made in pieces
}
