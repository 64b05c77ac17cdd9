"""Kernels of finite networks: the empirical NTK, by Jacobian contraction or by NTK-vector products, and the
empirical NNGP.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.kernel import Kernel
from ntklib.layers import Dense, Serial
from ntklib.models import ApplyFn, Model, Params, check_output, functional

Outputs = Literal["mean", "full", "diagonal"]
Method = Literal["auto", "jacobian", "products"]

# What is asked for, from the contraction over parameters p (inputs i, j; outputs k, l).
_CONTRACTION = {"mean": "ikp,jkp->ij", "full": "ikp,jlp->ijkl", "diagonal": "ikp,jkp->ijk"}


def empirical_ntk(
    model: Model,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    outputs: Outputs = "mean",
    method: Method = "auto",
    batch_size: int | None = None,
) -> Float[Array, "N M"] | Float[Array, "N M K"] | Float[Array, "N M K K"]:
    """The NTK of a finite network at its present parameters: Θ_kl(x, x') = Σ_p ∂f_k(x)/∂θ_p ∂f_l(x')/∂θ_p.

    model: an `nnx.Module`, a Linen module with its variables, or (apply_fn, params); see `ntklib.functional`. Every
        parameter counts once, with no learning rates. Examples must not see each other (BatchNorm in evaluation mode).
    outputs: "mean" (1/K) Σ_k Θ_kk, [N, M], which tends to `net.kernel(x1, x2).ntk`; "full" Θ_kl, [N, M, K, K];
        "diagonal" Θ_kk, [N, M, K].
    method: "jacobian" forms the Jacobians of a batch of x1 and of x2, [B, K, P] each, and contracts them: about 2 K
        P operations a pair of inputs ("full": 2 K² P). "products" pulls each output of x2 back and pushes the result
        forward through x1: about 3 K F operations a pair, F those of one evaluation, without ever holding a Jacobian
        of x1. "auto" compares the two counts (F from XLA's cost analysis) and takes the smaller.
    batch_size: rows and columns computed at a time; memory is about 2·B·K·P numbers for "jacobian", and K·P + B²·K
        for each of the B inputs pulled back for "products". By default B is chosen to keep that below about 1 GB.

    Raises ValueError or TypeError on inputs or outputs of the wrong shape, and on unknown options.
    Source: Jacot et al. 2018; the two ways to compute it: Novak et al. 2022.

    >>> import ntklib as ntk
    >>> from flax import nnx
    >>> net = ntk.Dense(3, 2, w_std=1.0, use_bias=False, rngs=nnx.Rngs(0))  # linear: Θ = x·x'/d, whatever the weights
    >>> empirical_ntk(net, jnp.eye(3)).round(3).tolist()[0]
    [0.333..., 0.0, 0.0]
    """
    _checks.choice("outputs", outputs, _CONTRACTION)
    _checks.choice("method", method, ("auto", "jacobian", "products"))
    apply_fn, params = functional(model)
    x1 = _checks.model_inputs("x1", x1)
    x2 = x1 if x2 is None else _checks.model_inputs("x2", x2)
    _checks.same_inputs(x1, x2)
    k = check_output(apply_fn, params, x1[:1])[1]
    if not jax.tree.leaves(params):
        raise ValueError("`model` has no parameters, so no tangent kernel.")
    if method == "auto":
        method = _cheaper(apply_fn, params, x1[:1], k, outputs)
    p = sum(leaf.size for leaf in jax.tree.leaves(params))
    if batch_size is None:
        bytes_each = params_itemsize(params) * k * p * (2 if method == "jacobian" else 3)
        batch_size = max(1, min(256, int(1e9 / bytes_each)))
    _checks.count("batch_size", batch_size)
    block = _jacobian_block if method == "jacobian" else _products_block
    return _tiled(functools.partial(block, apply_fn, outputs), params, x1, x2, batch_size)


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


def params_itemsize(params: Params) -> int:
    """Bytes of one number among the parameters."""
    return max(leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def _cheaper(apply_fn: ApplyFn, params: Params, one: Array, k: int, outputs: Outputs) -> Method:
    """The method with the smaller operation count for one pair of inputs (see `empirical_ntk`)."""
    p = sum(leaf.size for leaf in jax.tree.leaves(params))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, one))  # also where they are traced
    cost = jax.jit(apply_fn).lower(*shapes).cost_analysis()
    evaluation = cost.get("flops", math.inf) if isinstance(cost, dict) else math.inf
    jacobian = 2.0 * p * k * (k if outputs == "full" else 1)
    return "products" if 3.0 * k * evaluation < jacobian else "jacobian"


# ------------------------------------------------------------------------------- one block of rows and columns


def _flat_jacobian(apply_fn: ApplyFn, params: Params, x: Array) -> list[Float[Array, "N K size"]]:
    """∂f_k(x)/∂θ for each example, one array [B, K, size] for each parameter tensor."""
    of_one = jax.jacrev(lambda p, one: apply_fn(p, one[None])[0])
    jac = jax.vmap(of_one, in_axes=(None, 0))(params, x)
    return [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jac)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jacobian_block(apply_fn: ApplyFn, outputs: Outputs, params: Params, x1: Array, x2: Array) -> Array:
    j1, j2 = (_flat_jacobian(apply_fn, params, x) for x in (x1, x2))
    # Tensor by tensor: the parameters' axis is only ever summed over, so nothing is concatenated.
    theta = functools.partial(jnp.einsum, _CONTRACTION[outputs], precision=jax.lax.Precision.HIGHEST)
    total = functools.reduce(operator.add, map(theta, j1, j2))
    return total / j1[0].shape[1] if outputs == "mean" else total


@functools.partial(jax.jit, static_argnums=(0, 1))
def _products_block(apply_fn: ApplyFn, outputs: Outputs, params: Params, x1: Array, x2: Array) -> Array:
    forward = functools.partial(_on_one, apply_fn)

    def column(one: Array) -> Array:
        """Θ_kl(x1, one) for all l: pull the l-th output back to a direction in parameters, push that through x1."""
        f, pull = jax.vjp(lambda p: forward(p, one), params)

        def push(unit: Array, k: Array) -> Array:
            (direction,) = pull(unit)
            moved = jax.vmap(lambda x: jax.jvp(lambda p: forward(p, x), (params,), (direction,))[1])(x1)  # [N, K]
            return moved if outputs == "full" else moved[:, k]

        return jax.vmap(push, out_axes=-1)(jnp.eye(f.shape[0], dtype=f.dtype), jnp.arange(f.shape[0]))

    theta = jnp.moveaxis(jax.lax.map(column, x2), 0, 1)  # one column after the other: [N, M, K (, K)]
    return theta.mean(-1) if outputs == "mean" else theta


def _on_one(apply_fn: ApplyFn, params: Params, one: Array) -> Array:
    return apply_fn(params, one[None])[0]


def _tiled(block: Callable[..., Array], params: Params, x1: Array, x2: Array, size: int) -> Array:
    """`block` on tiles of at most `size` rows and columns; equal tiles compile once."""
    rows = []
    for i in range(0, x1.shape[0], size):
        row = [block(params, x1[i : i + size], x2[j : j + size]) for j in range(0, x2.shape[0], size)]
        rows.append(row[0] if len(row) == 1 else jnp.concatenate(row, axis=1))
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=0)
