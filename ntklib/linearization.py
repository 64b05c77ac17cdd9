"""Models made from models: the Taylor expansion in the parameters, the centered output, the scaled output.

`center` and `scale_output` return models, pairs (apply_fn, params), so that they combine: `linearize(center(net))`,
`scale_output(center(net), 10.0)`. `linearize` and `taylor` return an apply_fn alone.
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
    """Return the first-order Taylor expansion of a model in its parameters around their present values θ_0.

    The linearized model is affine in the parameters, and as nonlinear in x as the model::

        f_lin(θ, x) = f(θ_0, x) + ∇_θ f(θ_0, x) · (θ − θ_0).

    Its tangent kernel does not depend on the parameters, and is the tangent kernel of the model at θ_0. For the
    linearized model, `gradient_flow` and `gradient_descent` are therefore exact.

    Args:
        model: A model as in `functional`.

    Returns:
        f_lin(params, x), which maps inputs to outputs [N, K]. To train it, pass the pair `(f_lin, params)` to `train`,
        with `params` from `functional(model)`.

    Raises:
        TypeError: If `model` is not a model. When f_lin is called: if `x` is not one array, or `params` and `x` are
            swapped.
        ValueError: When f_lin is called: if `params` differ from the model's parameters in structure or in shapes.

    Example:
        >>> square = (lambda w, x: x * w**2, jnp.array([3.0]))
        >>> f_lin = linearize(square)
        >>> f_lin(jnp.array([3.5]), jnp.ones((1, 1))).tolist()  # 9 + 6 · 0.5; the model itself gives 12.25
        [[12.0]]

    Note:
        Inside `jit` a call takes about three times the operations of a call of the model: one time for f(θ_0, x), and
        two for the Jacobian-vector product.

    References:
        Lee et al. 2019, §2.2; Chizat et al. 2019, §1.

    See Also:
        `taylor`, for higher orders.
    """
    return taylor(model, 1)


def taylor(model: Model, order: int) -> ApplyFn:
    """Return the Taylor polynomial of degree k of a model in its parameters around their present values θ_0.

    The linearized model is the case k = 1::

        f_k(θ, x) = Σ_{j ≤ k} (1/j!) ∂^j/∂s^j f(θ_0 + s (θ − θ_0), x) at s = 0.

    If the model is itself a polynomial of degree at most k in its parameters, f_k equals the model.

    Args:
        model: A model as in `functional`.
        order: The degree k ≥ 0. For k = 0 the result is f(θ_0, x) whatever the parameters.

    Returns:
        f_k(params, x), which maps inputs to outputs [N, K].

    Raises:
        TypeError: If `model` is not a model, or `order` not a whole number. When f_k is called: if `x` is not one
            array, or `params` and `x` are swapped.
        ValueError: If `order` is negative. When f_k is called: if `params` differ from the model's parameters in
            structure or in shapes.

    Example:
        >>> square = (lambda w, x: x * w**2, jnp.array([3.0]))
        >>> taylor(square, 2)(jnp.array([3.5]), jnp.ones((1, 1))).tolist()
        [[12.25]]

    Note:
        A call computes k nested derivatives along θ − θ_0. Inside `jit` it takes about 2k + 1 times the operations of a
        call of the model, because XLA computes only once what the derivatives have in common. Outside of `jit` it takes
        about 3^k times as many.
    """
    _checks.count("order", order, minimum=0)
    apply_fn, start = functional(model)
    return _Taylor(apply_fn, start, int(order))


# These functions are pytrees, so that a program that is compiled for one serves all of the same structure.


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

    The centered model is zero at θ = θ_0 for every x, and has the same tangent kernel as the model. Without centering,
    a part of the random function f(θ_0, x) remains after training at all inputs but the training inputs.

    Args:
        model: A model as in `functional`.

    Returns:
        (apply_fn, params), with `params` at θ_0.

    Raises:
        TypeError: If `model` is not a model. When apply_fn is called: if `x` is not one array.

    Example:
        >>> centered = center((lambda w, x: x * w, jnp.array([3.0])))
        >>> centered[0](jnp.array([5.0]), jnp.ones((1, 1))).tolist()
        [[2.0]]

    Note:
        A call takes the time of two calls of the model. An L2 penalty pulls the parameters to zero, and the centered
        output to f(0, x) − f(θ_0, x). With L2 take instead the difference of two copies of the model that start with
        equal parameters and are both trained (chapter 11).

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
    """Return a model with its outputs multiplied by α > 0.

    The tangent kernel is multiplied by α². Compare gradient descent on the scaled model at the rate η/α² with
    gradient descent on the model at the rate η. For equal residuals, one step changes the outputs equally to first
    order, but the parameters only 1/α as much. For large α this is the lazy regime.

    Args:
        model: A model as in `functional`.
        alpha: α, a positive number.

    Returns:
        (apply_fn, params), with the parameters of the model.

    Raises:
        TypeError: If `model` is not a model or `alpha` not a number.
        ValueError: If `alpha` is not positive or not finite.

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


_SWAPPED = "The arguments are swapped: parameters come first, `f_lin(params, x)`."


def _difference(params: Any, start: Any, x: Any) -> Any:
    """Return θ − θ_0. Refuse parameters that differ from the model's in structure or in shapes."""
    given, expected = jax.tree.structure(params), jax.tree.structure(start)
    if given != expected:
        if jax.tree.structure(x) == expected:
            raise TypeError(_SWAPPED)
        raise ValueError(
            f"`params` must have the structure of the model's parameters, `ntklib.functional(model)[1]`: "
            f"expected {expected}, got {given}."
        )
    shapes, wanted = ([jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (params, start))
    if shapes != wanted:
        if [getattr(leaf, "shape", None) for leaf in jax.tree.leaves(x)] == wanted:
            raise TypeError(_SWAPPED)
        raise ValueError(f"`params` must have the shapes of the model's parameters: expected {wanted}, got {shapes}.")
    return jax.tree.map(jnp.subtract, params, start)
