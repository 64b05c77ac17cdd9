"""The cosines between the gradients of different examples, computed from the tangent kernel, tile by tile."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.empirical import empirical_ntk
from ntklib.evolution import _models
from ntklib.models import Model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientSimilarity:
    """The result of `logit_gradient_similarity`.

    Args:
        mean: The mean cosine over all pairs of different examples.
        within: The mean cosine over pairs of the same class; None if there were no labels.
        between: The mean cosine over pairs of two classes; None if there were no labels.
    """

    mean: Float[Array, ""]
    within: Float[Array, ""] | None
    between: Float[Array, ""] | None


def logit_gradient_similarity(
    model: Model, x: ArrayLike, labels: ArrayLike | None = None, *, max_memory: int | float = _checks.MAX_MEMORY
) -> GradientSimilarity:
    """Return the mean cosine between the gradients of an output for different examples.

    The gradient of output k is g_k(x) = ∂f_k(x)/∂θ. The mean is over the outputs k and the pairs i ≠ j of examples::

        cos(g_k(x_i), g_k(x_j)) = Θ_kk(x_i, x_j)/√(Θ_kk(x_i, x_i) Θ_kk(x_j, x_j)).

    The cosine tells how much a gradient step that raises the output for one example also raises it for the other.

    Args:
        model: A model as in `empirical_ntk`.
        x: Inputs, [N, ...], at least two.
        labels: The classes of the inputs, integers [N]. If they are given, two more means are taken: over pairs within
            a class, and over pairs between classes.
        max_memory: The bytes to use; by default 2 GiB. The kernel is computed tile by tile, and no tile is kept.

    Returns:
        A `GradientSimilarity`: numbers between −1 and 1.

    Raises:
        ValueError: If there are fewer than two inputs; if `labels` are not [N] integers, are of one class only, or
            have no class of two inputs; if one of the means has no pair of gradients that are not zero; as for
            `empirical_ntk`.
        TypeError: As for `empirical_ntk`; inside `jit`.
        FloatingPointError: As for `empirical_ntk`.

    Example:
        >>> linear = (lambda w, x: x @ w, jnp.ones((2, 1)))  # the gradient is x itself
        >>> x = jnp.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
        >>> similarity = logit_gradient_similarity(linear, x, jnp.array([0, 0, 1]))
        >>> similarity.within.item(), similarity.between.item(), round(similarity.mean.item(), 4)
        (1.0, -1.0, -0.3333)

    Note:
        It takes the time of one call of `empirical_ntk` with outputs="diagonal". If there are several tiles, each
        evaluates the network anew. The Jacobian of all examples need not fit into `max_memory`. If a gradient is zero,
        because all units are off for an example, say, it has no direction, and its pairs are left out.

    References:
        Fort & Ganguli 2019 (1910.05929); Fort et al. 2020 (2010.15110).
    """
    _checks.real("max_memory", max_memory, above=0.0)
    given = _models.checked("model", model, x)
    x, k = given.x1, given.k
    _models.known("logit_gradient_similarity", given, labels)
    if len(x) < 2:
        raise ValueError(f"`x` must hold at least two inputs, whose gradients are compared; got {len(x)}.")
    classes = np.zeros(len(x), int) if labels is None else _classes(labels, len(x))
    norms = np.zeros((len(x), k))
    sums, counts = np.zeros(2), np.zeros(2)
    # Four arrays, with at most 8 bytes for each pair and output. Tiles on the diagonal come first: they hold the norms.
    for i, j in _models.tiles(len(x), 32 * k, max_memory):
        columns = None if i == j else _models.part(x, j)
        tile = empirical_ntk(model, _models.part(x, i), columns, outputs="diagonal", max_memory=max_memory / 2)
        entries = np.asarray(tile).astype(np.float64)
        if i == j:
            norms[i] = np.sqrt(np.diagonal(entries, axis1=0, axis2=1).T)
        length = norms[i][:, None] * norms[j][None]
        pairs = np.ones(entries.shape[:2], bool) if i != j else np.triu(np.ones(entries.shape[:2], bool), 1)
        same = classes[i][:, None] == classes[j][None]
        cosines = np.divide(entries, length, out=np.zeros_like(entries), where=length > 0)
        for number, chosen in enumerate((pairs & same, pairs & ~same)):
            sums[number] += cosines[chosen].sum()
            counts[number] += (length[chosen] > 0).sum()
    return _similarity(sums, counts, labeled=labels is not None)


def _similarity(sums: np.ndarray, counts: np.ndarray, *, labeled: bool) -> GradientSimilarity:
    if not counts.sum() or (labeled and not counts.all()):
        raise ValueError(
            "`model` has no pair of examples with gradients that are not zero, within a class or between classes. Are "
            "all units of the model off?"
        )
    mean = jnp.asarray(sums.sum() / counts.sum())
    within, between = (jnp.asarray(s / n) if labeled else None for s, n in zip(sums, counts, strict=True))
    return GradientSimilarity(mean, within, between)


def _classes(labels: ArrayLike, n: int) -> np.ndarray:
    known = np.asarray(_checks.plain("labels", labels))
    if known.shape != (n,) or not np.issubdtype(known.dtype, np.integer):
        raise ValueError(
            f"`labels` must be the classes of the {n} inputs, integers [N]; got {known.dtype} of shape {known.shape}."
        )
    _, sizes = np.unique(known, return_counts=True)
    if len(sizes) < 2 or sizes.max() < 2:
        raise ValueError(
            f"`labels` must have at least two classes, and at least one class of two inputs; got {len(sizes)} classes "
            f"of at most {sizes.max()} inputs. Without `labels` the mean is over all pairs."
        )
    return known
