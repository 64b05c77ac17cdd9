"""The distance between two networks as functions: the share of labels that differ, or a squared difference."""

from typing import Any, Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.evolution import _models
from ntklib.models import Model, functional
from ntklib.training import mse


def function_distance(
    model1: Model,
    model2: Model,
    x: ArrayLike,
    *,
    measure: Literal["labels", "mse"] = "labels",
    max_memory: int | float = _checks.MAX_MEMORY,
) -> Float[Array, ""]:
    """Return the distance between two networks as functions, on some inputs.

    A network labels an input by the index of its largest output (the first of equal ones). With [·] = 1 where labels
    differ, else 0::

        "labels":  (1/N) Σ_i [argmax_k f_k(x_i) ≠ argmax_k f'_k(x_i)]
        "mse":     1/(2N) Σ_i ‖f(x_i) − f'(x_i)‖².

    Args:
        model1: A model as in `empirical_ntk`.
        model2: Another model with as many outputs, of any architecture.
        x: Inputs, [N, ...].
        measure: "labels" for the share of inputs that get different labels, or "mse" for the squared loss of one
            network with the outputs of the other as targets.
        max_memory: The bytes to use; by default 2 GiB. Outputs are computed for as many inputs at a time as fit.

    Returns:
        A number; for "labels" between 0 and 1.

    Raises:
        ValueError: If the models have different numbers of outputs; if they have one output and `measure` is "labels";
            if `measure` is unknown; as for `empirical_ntk`.
        TypeError: As for `empirical_ntk`.

    Example:
        >>> one = (lambda w, x: x @ w, jnp.eye(2))
        >>> other = (lambda w, x: x @ w, jnp.array([[1.0, 0.0], [2.0, 1.0]]))
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> function_distance(one, other, x).item(), function_distance(one, other, x, measure="mse").item()
        (0.5, 1.0)

    Note:
        Each network is evaluated once for each input.

    References:
        Fort et al. 2020 (2010.15110); Fort, Hu, Lakshminarayanan 2019 (1912.02757).
    """
    _checks.choice("measure", measure, ("labels", "mse"))
    _checks.real("max_memory", max_memory, above=0.0)
    first, second = _models.checked("model1", model1, x), _models.checked("model2", model2, x)
    _models.same_outputs(first, second)
    if first.k == 1 and measure == "labels":
        raise ValueError(
            '`measure`="labels" needs at least two outputs: with one, all labels are 0. Use measure="mse", or give '
            "the two classes an output each, `jnp.concatenate([-f, f], axis=-1)`."
        )
    f1, f2 = (_models.outputs(*functional(model), first.x1, max_memory) for model in (model1, model2))
    return _labels_that_differ(f1, f2) if measure == "labels" else _mse(f1, f2)


def _labels_that_differ(f1: Array, f2: Array) -> Array:
    return jnp.mean(jnp.argmax(f1, axis=-1) != jnp.argmax(f2, axis=-1), dtype=float)


def _mse(f1: Array, f2: Any) -> Array:
    dtype = jnp.promote_types(f1.dtype, f2.dtype)
    return mse(f1.astype(dtype), f2.astype(dtype))
