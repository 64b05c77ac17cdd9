"""Models made from models: the Taylor expansion in the parameters, the centered output, the scaled output.

The results can be used wherever a model can, so that they combine: `linearize(center(net))`,
`scale_output(center(net), 10.0)`.
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
    """Return a model to first order in its parameters around their present values θ_0.

    The linearized model is affine in the parameters, and as nonlinear in x as the model::

        f_lin(θ, x) = f(θ_0, x) + ∇_θ f(θ_0, x) · (θ − θ_0).

    Its tangent kernel does not depend on the parameters: it is that of the model at θ_0. The predictions of
    `gradient_flow` and `gradient_descent` are therefore exact for it.

    Args:
        model: A model as `functional` takes it.

    Returns:
        f_lin(params, x), which maps inputs to outputs [N, K]. To train it, pass on the pair `(f_lin, params)` with
        `params` from `functional(model)`.

    Raises:
        TypeError: If `model` is not a model; and, from f_lin, if `params` and `x` are swapped.
        ValueError: From f_lin, if `params` do not have the structure and the shapes of the model's parameters.

    Example:
        >>> square = (lambda w, x: x * w**2, jnp.array([3.0]))
        >>> f_lin = linearize(square)
        >>> f_lin(jnp.array([3.5]), jnp.ones((1, 1))).tolist()  # 9 + 6 · 0.5; the square itself would be 12.25
        [[12.0]]

    Note:
        A call takes about twice the time and memory of a call of the model: it is one Jacobian-vector product.

    References:
        Lee et al. 2019, §2.2; Chizat et al. 2019, §1.

    See Also:
        `taylor`, for higher orders.
    """
    return taylor(model, 1)


def taylor(model: Model, order: int) -> ApplyFn:
    """Return the Taylor polynomial of a model in its parameters around their present values θ_0.

    For a model that is a polynomial of degree k in its parameters it is exact::

        f_k(θ, x) = Σ_{j ≤ k} (1/j!) ∂^j/∂s^j f(θ_0 + s (θ − θ_0), x) at s = 0.

    Args:
        model: A model as `functional` takes it.
        order: k ≥ 0. With 0 it is the model at θ_0 whatever the parameters, with 1 it is `linearize(model)`.

    Returns:
        f_k(params, x), which maps inputs to outputs [N, K].

    Raises:
        TypeError: If `model` is not a model or `order` not a whole number; and, from f_k, if `params` and `x` are
            swapped.
        ValueError: If `order` is negative; and, from f_k, if `params` do not have the structure and the shapes of the
            model's parameters.

    Example:
        >>> square = (lambda w, x: x * w**2, jnp.array([3.0]))
        >>> taylor(square, 2)(jnp.array([3.5]), jnp.ones((1, 1))).tolist()
        [[12.25]]

    Note:
        It takes derivatives of derivatives along one direction. A call takes about 2^k times the time and memory of a
        call of the model.
    """
    _checks.count("order", order, minimum=0)
    apply_fn, start = functional(model)
    return _Taylor(apply_fn, start, int(order))


# These functions are pytrees, so that what is compiled for one serves all of the same structure (see `functional`).


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
    """Return a model minus its present outputs: f(θ, x) − f(θ_0, x).

    It is zero at the start for every x, and has the same tangent kernel as the model. The random function f(θ_0, x) is
    removed everywhere. Training alone would not remove it away from the data.

    Args:
        model: A model as `functional` takes it.

    Returns:
        (apply_fn, params), with `params` at θ_0.

    Raises:
        TypeError: If `model` is not a model.

    Example:
        >>> centered = center((lambda w, x: x * w, jnp.array([3.0])))
        >>> centered[0](jnp.array([5.0]), jnp.ones((1, 1))).tolist()
        [[2.0]]

    Note:
        A call takes the time of two calls of the model. With an L2 penalty the parameters go to zero, and the output
        of the centered model to −f(θ_0, x): use two opposite copies there (chapter 11).

    References:
        Chizat et al. 2019, §1; Lee et al. 2020, §3.2.
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
    """Return a model multiplied by α > 0.

    Its tangent kernel is α² times that of the model. If it is trained on the loss divided by α², that is with the
    learning rate η/α², its outputs move as fast as those of the model, while its parameters travel 1/α as far. For
    large α this is the lazy regime.

    Args:
        model: A model as `functional` takes it.
        alpha: α, a positive number.

    Returns:
        (apply_fn, params), with the parameters of the model.

    Raises:
        TypeError: If `model` is not a model or `alpha` not a number.
        ValueError: If `alpha` is not positive.

    Example:
        >>> scaled = scale_output((lambda w, x: x * w, jnp.array([3.0])), 10.0)
        >>> scaled[0](jnp.array([5.0]), jnp.ones((1, 1))).tolist()
        [[50.0]]

    References:
        Chizat et al. 2019, §1.
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
    """Return θ − θ_0. Refuse parameters of another structure or other shapes than the model's."""
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
