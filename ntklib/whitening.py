"""Regularised ZCA: turns the inputs' covariance towards the identity without turning the images around."""

from typing import Self

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks


class ZCA:
    """Regularised ZCA whitening, fitted on training inputs only.

    Features: each channel standardised with two numbers fitted on the training inputs (vectors count as one
    channel), flattened to d numbers, minus the mean of the image, divided by the norm of the image (a blank image
    stays zero). With their matrix X, [n, d], and C = XᵀX/n = U diag(s) Uᵀ,

        x ↦ W x,   W = U diag(s + reg)^(−1/2) Uᵀ,   reg = `epsilon` · tr(C)/d,

    so that the covariance XᵀX/n of the transformed training inputs has eigenvalues s/(s + reg): 1 along directions
    of large variance, 0 along those of none. With fewer inputs than features (n < d) the directions that the
    training inputs do not reach are kept as they are, with the factor 1 in place of reg^(−1/2).

    `epsilon` is relative to the mean eigenvalue: 0.1 is typical, and a large one leaves the features as they are
    but for a factor. The arithmetic is in float64; the result is float32, or float64 if the input is.

    Raises: ValueError if `epsilon` is not above zero, for inputs that are not [N, d] or [N, H, W, C], not
    finite, not of the fitted shape, or infinite when divided by the fitted scale; TypeError for integers;
    RuntimeError for `transform` before `fit`.

    Source: the pipeline of Lee et al. 2020. Theirs fits C on images that are not standardised; here C is that of
    the very features that are transformed.

    >>> x = np.random.default_rng(0).normal(size=(500, 4, 4, 1))
    >>> white = ZCA(epsilon=1e-3).fit(x).transform(x).reshape(500, 16)
    >>> s = np.linalg.eigvalsh(white.T @ white / 500)  # one direction is lost to the mean of the image
    >>> bool(abs(s[0]) < 1e-9), bool(abs(s[1:] - 1).max() < 2e-3)
    (True, True)
    """

    def __init__(self, epsilon: float):
        _checks.real("epsilon", epsilon, above=0.0)
        self.epsilon = float(epsilon)
        self._shape: tuple[int, ...] | None = None

    def fit(self, x: ArrayLike) -> Self:
        """Fits the channels' means and standard deviations and W to the training inputs; returns itself."""
        images = _images(x)
        self._shape = np.shape(x)[1:]
        # Squares of very small or very large entries would under- or overflow: each channel on its own scale.
        scale = abs(images).max(axis=(0, 1, 2))
        scale[scale == 0.0] = 1.0
        scaled = images / scale
        mean, std = scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))
        # A constant channel becomes zero; its standard deviation may be rounding instead of 0.
        self._mean, self._std = scale * mean, scale * np.where(std > 1e-10 * abs(mean), std, 1.0)

        features = self._features(images)
        n, d = features.shape
        s, u = np.linalg.eigh(features.T @ features / n)
        s = s.clip(min=0.0)  # a negative one is rounding
        if s[-1] == 0.0:
            raise ValueError("`x` holds only blank images: without the mean of each, nothing is left to whiten.")
        factors = (s + self.epsilon * s.sum() / d) ** -0.5
        if n < d:
            # Told by the rank, which is n unless inputs depend on each other: `eigh` picks any basis for what
            # they do not reach, and with two different factors in there W would depend on that choice.
            factors[s <= d * np.finfo(float).eps * s[-1]] = 1.0
        self._w = (u * factors) @ u.T
        return self

    def transform(self, x: ArrayLike) -> Float[np.ndarray, " N *size"]:
        """W applied to the features of `x`, in the shape of `x`."""
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
        rows = rows / np.where(largest > 0.0, largest, 1.0)  # their squares would overflow; the norm goes away below
        centred = rows - rows.mean(axis=1, keepdims=True)
        norm, before = (np.linalg.norm(r, axis=1, keepdims=True) for r in (centred, rows))
        blank = norm <= 1e-10 * before  # what is left of a blank image is rounding
        return np.where(blank, 0.0, centred / np.where(blank, 1.0, norm))


def _images(x: ArrayLike) -> np.ndarray:
    """`x` as float64 [N, H, W, C], after the checks; vectors [N, d] as [N, d, 1, 1]."""
    _checks.host_inputs("x", x)
    x = np.asarray(x, np.float64)
    return x if x.ndim == 4 else x[:, :, None, None]
