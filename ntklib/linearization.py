"""Models made from models: the Taylor expansion in the parameters, the output centred, the output scaled.

What comes out goes where a model goes, and they combine: `linearize(center(net))`, `scale_output(center(net), 10.0)`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks
from ntklib.models import ApplyFn, Model, Params, functional


def linearize(model: Model) -> ApplyFn:
    """The model to first order in its parameters around where they are now, θ_0:

        f_lin(θ, x) = f(θ_0, x) + ∇_θ f(θ_0, x)·(θ − θ_0).

    Returns f_lin(params, x) -> [N, K], nonlinear in x as the model is, affine in `params`; to train it, pass
    `(f_lin, params)` on, with `params` from `functional(model)`. Its tangent kernel is that of the model at θ_0,
    for all parameters: what kernel gradient descent predicts is exact for it.

    A call costs about two of the model's and as much memory (one Jacobian-vector product). Raises ValueError if
    `params` have another structure or other shapes than the model's, TypeError if they and `x` are swapped.
    Source: Lee et al. 2019, §2.2; Chizat et al. 2019, §1.

    >>> square = (lambda w, x: x * w**2, jnp.array([3.0]))
    >>> f_lin = linearize(square)
    >>> f_lin(jnp.array([3.5]), jnp.ones((1, 1))).tolist()  # 9 + 6 · 0.5; the square itself would be 12.25
    [[12.0]]
    """
    return taylor(model, 1)


def taylor(model: Model, order: int) -> ApplyFn:
    """The model's Taylor polynomial in its parameters around where they are now:

        f_k(θ, x) = Σ_{j ≤ k} (1/j!) ∂^j/∂s^j f(θ_0 + s (θ − θ_0), x) at s = 0,

    exact for a model that is a polynomial of degree k in its parameters. Order 0 is the model as it stands, order 1
    `linearize`. Returns f_k(params, x) -> [N, K]; arguments and errors as there.

    By derivatives of derivatives along one direction: a call costs and holds about 2^k times the model's.

    >>> square = (lambda w, x: x * w**2, jnp.array([3.0]))
    >>> taylor(square, 2)(jnp.array([3.5]), jnp.ones((1, 1))).tolist()
    [[12.25]]
    """
    _checks.count("order", order, minimum=0)
    apply_fn, start = functional(model)
    return _Taylor(apply_fn, start, int(order))


# Functions of models are pytrees: what is compiled for one serves all of the same structure (see `functional`).


@functools.partial(jax.tree_util.register_dataclass, data_fields=["apply_fn", "start"], meta_fields=["order"])
@dataclasses.dataclass(frozen=True, eq=False)
class _Taylor:
    apply_fn: ApplyFn
    start: Params
    order: int

    def __call__(self, params: Params, x: ArrayLike) -> Array:
        change = _difference(params, self.start, x)
        x = _checks.one_array("x", x)

        def derivative(j: int, at: Params) -> Array:
            if j == 0:
                return self.apply_fn(at, x)
            return jax.jvp(lambda p: derivative(j - 1, p), (at,), (change,))[1]

        total, factorial = self.apply_fn(self.start, x), 1
        for j in range(1, self.order + 1):
            factorial *= j
            total = total + derivative(j, self.start) / factorial
        return total


def center(model: Model) -> tuple[ApplyFn, Params]:
    """The model minus what it says now, f(θ, x) − f(θ_0, x), as (apply_fn, params): zero at the start for every x, the
    same tangent kernel.

    It removes the random function that training would otherwise leave in at points away from the data. A call costs
    two of the model's. Source: Chizat et al. 2019, §1; Lee et al. 2020, §3.2.

    >>> centered = center((lambda w, x: x * w, jnp.array([3.0])))
    >>> centered[0](jnp.array([5.0]), jnp.ones((1, 1))).tolist()
    [[2.0]]
    """
    apply_fn, start = functional(model)
    return _Centered(apply_fn, start), start


@functools.partial(jax.tree_util.register_dataclass, data_fields=["apply_fn", "start"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class _Centered:
    apply_fn: ApplyFn
    start: Params

    def __call__(self, params: Params, x: ArrayLike) -> Array:
        x = _checks.one_array("x", x)
        return self.apply_fn(params, x) - self.apply_fn(self.start, x)


def scale_output(model: Model, alpha: float) -> tuple[ApplyFn, Params]:
    """The model times α > 0, as (apply_fn, params): its tangent kernel is α² times as large.

    Trained on the loss divided by α², that is with the learning rate η/α², it moves at the model's own pace in
    function space while its parameters travel 1/α as far: the lazy regime of Chizat et al. 2019, §1.

    >>> scaled = scale_output((lambda w, x: x * w, jnp.array([3.0])), 10.0)
    >>> scaled[0](jnp.array([5.0]), jnp.ones((1, 1))).tolist()
    [[50.0]]
    """
    _checks.real("alpha", alpha, above=0.0)
    apply_fn, params = functional(model)
    return _Scaled(apply_fn, alpha), params


@functools.partial(jax.tree_util.register_dataclass, data_fields=["apply_fn", "alpha"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class _Scaled:
    apply_fn: ApplyFn
    alpha: Any

    def __call__(self, params: Params, x: Array) -> Array:
        return self.alpha * self.apply_fn(params, x)


def _difference(params: Any, start: Any, x: Any) -> Any:
    """θ − θ_0, refusing parameters that are not those of the model."""
    given, expected = jax.tree.structure(params), jax.tree.structure(start)
    if given != expected:
        if jax.tree.structure(x) == expected:
            raise TypeError("The arguments are swapped: parameters come first, `f_lin(params, x)`.")
        raise ValueError(
            f"`params` must have the structure of the model's, as `ntklib.functional(model)[1]` has: "
            f"expected {expected}, got {given}."
        )
    shapes, wanted = ([jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (params, start))
    if shapes != wanted:
        raise ValueError(f"`params` must have the shapes of the model's: expected {wanted}, got {shapes}.")
    return jax.tree.map(jnp.subtract, params, start)
