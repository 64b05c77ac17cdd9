"""Regularized ZCA whitening, which brings the covariance of the inputs near the identity."""

from typing import Self

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks


class ZCA:
    """Regularized ZCA whitening, fitted on training inputs only.

    First the features of an input are computed. Each channel is standardized with two numbers fitted on the training
    inputs (vectors count as one channel), the image is flattened to d numbers, its mean is subtracted, and it is
    divided by its norm (a blank image stays zero). With the features of N training inputs X, [N, d], and C = XᵀX/N =
    U diag(s) Uᵀ, the transformation is::

        x ↦ W x,   W = U diag(s + reg)^(−1/2) Uᵀ,   reg = epsilon · tr(C)/d.

    The covariance of the transformed training inputs has the eigenvalues s/(s + reg): 1 along directions of large
    variance, and 0 along directions of no variance. If there are fewer inputs than features (N < d), W is 1 along the
    directions that the training inputs do not reach.

    Args:
        epsilon: The regularization relative to the mean eigenvalue, above zero. 0.1 is typical. With N ≥ d a
            large one only multiplies the features by a number. With N < d it also makes what lies along the directions
            that the training inputs do not reach larger than all else, and predictions fall to chance.

    Raises:
        TypeError: If inputs are integers.
        ValueError: If `epsilon` is not above zero; and, from `fit` and `transform`, if inputs are not [N, d] or
            [N, H, W, C], not finite, not of the fitted shape, or infinite after division by the fitted scale.
        RuntimeError: If `transform` is called before `fit`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 4, 4, 1))
        >>> white = ZCA(epsilon=1e-3).fit(x).transform(x).reshape(500, 16)
        >>> s = np.linalg.eigvalsh(white.T @ white / 500)  # subtracting the mean of the image removes one direction
        >>> bool(abs(s[0]) < 1e-9), bool(abs(s[1:] - 1).max() < 2e-3)
        (True, True)

    Note:
        The arithmetic is in float64. The result is float32, or float64 if the input is.

    References:
        Lee et al. 2020, who compute C from images that are not standardized. Here C is computed from the features that
        are transformed.
    """

    def __init__(self, epsilon: float):
        _checks.real("epsilon", epsilon, above=0.0)
        self.epsilon = float(epsilon)
        self._shape: tuple[int, ...] | None = None

    def fit(self, x: ArrayLike) -> Self:
        """Fit the means and standard deviations of the channels, and W, to training inputs.

        Args:
            x: Training inputs, [N, d] or [N, H, W, C].

        Returns:
            The object itself.
        """
        images = _images(x)
        self._shape = np.shape(x)[1:]
        # Divide each channel by its largest entry, since squares of very small or very large ones under- or overflow.
        scale = abs(images).max(axis=(0, 1, 2))
        scale[scale == 0.0] = 1.0
        scaled = images / scale
        mean, std = scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))
        # A constant channel becomes zero. By rounding its standard deviation may differ from 0.
        self._mean, self._std = scale * mean, scale * np.where(std > 1e-10 * abs(mean), std, 1.0)

        features = self._features(images)
        n, d = features.shape
        s, u = np.linalg.eigh(features.T @ features / n)
        s = s.clip(min=0.0)  # negative ones are rounding errors
        if s[-1] == 0.0:
            raise ValueError(
                "`x` holds only blank images: after subtracting the mean of each, nothing is left to whiten."
            )
        factors = (s + self.epsilon * s.sum() / d) ** -0.5
        if n < d:
            # All directions that the inputs do not reach get the same factor, whatever their number: `eigh` chooses any
            # basis of them, and with different factors W would depend on that choice.
            factors[s <= d * np.finfo(float).eps * s[-1]] = 1.0
        self._w = (u * factors) @ u.T
        return self

    def transform(self, x: ArrayLike) -> Float[np.ndarray, " N *size"]:
        """Return W applied to the features of inputs.

        Args:
            x: Inputs of the fitted shape, [M, d] or [M, H, W, C].

        Returns:
            An array of the shape of `x`.
        """
        if self._shape is None:
            raise RuntimeError("`transform` needs a fitted ZCA: call `fit` with the training inputs first.")
        images = _images(x)
        if np.shape(x)[1:] != self._shape:
            raise ValueError(f"`x` must hold inputs of the fitted shape {self._shape}; got {np.shape(x)[1:]}.")
        white = (self._features(images) @ self._w).reshape(np.shape(x))
        return white if np.asarray(x).dtype == np.float64 else white.astype(np.float32)

    def _features(self, images: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            rows = ((images - self._mean) / self._std).reshape(len(images), -1)
        largest = abs(rows).max(axis=1, keepdims=True)
        if not np.isfinite(largest).all():
            raise ValueError("`x` is too large for the scale that was fitted: divided by it, it is infinite.")
        # Squares of large entries would overflow. The factor drops out when the rows are divided by their norms.
        rows = rows / np.where(largest > 0.0, largest, 1.0)
        centered = rows - rows.mean(axis=1, keepdims=True)
        norm, before = (np.linalg.norm(r, axis=1, keepdims=True) for r in (centered, rows))
        blank = norm <= 1e-10 * before  # of a blank image only rounding errors are left
        return np.where(blank, 0.0, centered / np.where(blank, 1.0, norm))


def _images(x: ArrayLike) -> np.ndarray:
    """Check the inputs and return them as float64 [N, H, W, C], or as [N, d, 1, 1] if they are vectors."""
    _checks.host_inputs("x", x)
    x = np.asarray(x, np.float64)
    return x if x.ndim == 4 else x[:, :, None, None]
