"""Regularized ZCA whitening, which brings the covariance of the inputs near the identity."""

from typing import Self

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks


class ZCA:
    """Regularized ZCA whitening, fitted on training inputs only.

    First an input is turned into a vector of d features. Each channel is standardized with its mean and its standard
    deviation over the training inputs. (A vector has one channel. A channel that is constant over the training inputs
    is divided by its absolute value, or by 1 if it is zero.) The result is flattened, the mean of its d numbers is
    subtracted, and it is divided by its norm. The features of a blank image, whose d numbers are equal, are zero.

    Then the features x are whitened. With the features X [N, d] of the training inputs and C = XᵀX/N = U diag(s) Uᵀ::

        x ↦ W x,   W = U diag(s + reg)^(−1/2) Uᵀ,   reg = epsilon · tr(C)/d.

    The covariance of the whitened training inputs, computed like C, has the eigenvalues s/(s + reg). They are near 1
    along directions of large variance, and 0 along directions of no variance. If N < d, the features of the training
    inputs span fewer than d directions. W then leaves the components of an input along all other directions unchanged.

    Args:
        epsilon: The regularization relative to the mean eigenvalue of C, above zero; 0.1 is typical. A large epsilon
            makes W nearly a multiple of the identity if N ≥ d. If N < d, it makes the components along the directions
            of the training inputs small. The other components then dominate, and predictions fall to chance.

    Raises:
        TypeError: If `epsilon` is not a number.
        ValueError: If it is not above zero and finite.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 4, 4, 1))
        >>> white = ZCA(epsilon=1e-3).fit(x).transform(x).reshape(500, 16)
        >>> s = np.linalg.eigvalsh(white.T @ white / 500)  # subtracting the mean of the image removes one direction
        >>> bool(abs(s[0]) < 1e-9), bool(abs(s[1:] - 1).max() < 2e-3)
        (True, True)

    Note:
        The arithmetic is in float64. The result is float64 if the input is float64, and float32 otherwise.

    References:
        Lee et al. 2020. They compute C from images that are not standardized. Here C is computed from the features,
        which are also what W transforms.
    """

    def __init__(self, epsilon: float):
        _checks.real("epsilon", epsilon, above=0.0)
        self.epsilon = float(epsilon)
        self._shape: tuple[int, ...] | None = None

    def fit(self, x: ArrayLike) -> Self:
        """Compute the means and standard deviations of the channels, and W, from training inputs.

        Args:
            x: Training inputs, [N, d] or [N, H, W, C].

        Returns:
            The object itself.

        Raises:
            TypeError: If `x` is not an array of floating-point numbers.
            ValueError: If `x` has another rank, is empty or not finite, or holds only blank images.
        """
        images = _images(x)
        self._shape = np.shape(x)[1:]
        # Divide each channel by its largest entry: squares of very small or very large numbers under- or overflow.
        scale = abs(images).max(axis=(0, 1, 2))
        scale[scale == 0.0] = 1.0
        scaled = images / scale
        mean, std = scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))
        # A constant channel becomes zero. In other inputs it may vary, and is divided by `scale`. Its standard
        # deviation can be a rounding error above 0.
        self._mean, self._std = scale * mean, scale * np.where(std > 1e-10 * abs(mean), std, 1.0)

        features = self._features(images)
        n, d = features.shape
        s, u = np.linalg.eigh(features.T @ features / n)
        s = s.clip(min=0.0)  # negative eigenvalues are rounding errors
        if s[-1] == 0.0:
            raise ValueError(
                "`x` holds only blank images: after subtracting the mean of each, nothing is left to whiten."
            )
        factors = (s + self.epsilon * s.sum() / d) ** -0.5
        if n < d:
            # The directions that the inputs do not span all get the factor 1. `eigh` returns an arbitrary basis of
            # them, and with different factors W would depend on this basis.
            factors[s <= d * np.finfo(float).eps * s[-1]] = 1.0
        self._w = (u * factors) @ u.T
        return self

    def transform(self, x: ArrayLike) -> Float[np.ndarray, " N *size"]:
        """Return W applied to the features of inputs.

        Args:
            x: Inputs of the fitted shape, [M, d] or [M, H, W, C].

        Returns:
            An array of the shape of `x`.

        Raises:
            TypeError: If `x` is not an array of floating-point numbers.
            ValueError: If `x` is empty or not finite, if its inputs do not have the fitted shape, or if they are
                infinite after division by the fitted standard deviations.
            RuntimeError: If `fit` has not been called.
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
            raise ValueError("`x` is too large: divided by the fitted standard deviations, it is infinite.")
        # The squares of large entries would overflow. The division by the norm below makes up for this factor.
        rows = rows / np.where(largest > 0.0, largest, 1.0)
        centered = rows - rows.mean(axis=1, keepdims=True)
        norm, before = (np.linalg.norm(r, axis=1, keepdims=True) for r in (centered, rows))
        blank = norm <= 1e-10 * before  # a blank image, up to rounding errors
        return np.where(blank, 0.0, centered / np.where(blank, 1.0, norm))


def _images(x: ArrayLike) -> np.ndarray:
    """Check the inputs and return them as float64 [N, H, W, C], or as [N, d, 1, 1] if they are vectors."""
    _checks.host_inputs("x", x)
    x = np.asarray(x, np.float64)
    return x if x.ndim == 4 else x[:, :, None, None]
