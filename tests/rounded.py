"""Kernels whose entries carry the rounding errors of float32, and the flow that the exact ones would have."""

import warnings
from typing import Any

import numpy as np

import ntklib as ntk

EPS = 2.0**-23
N = 60
X, X_TEST = np.linspace(-1, 1, N)[:, None], np.linspace(-0.97, 0.97, 17)[:, None]


def laplace(a, b, width=1.0):
    """A kernel with a slowly falling spectrum, as that of ReLU networks."""
    return np.exp(-np.abs(a - b.T) / width)


def gauss(a, b, width=0.5):
    """One with a spectrum that falls to 1e-16 within some twenty modes, as those of smooth activations."""
    return np.exp(-((a - b.T) ** 2) / (2 * width**2))


def matern(a, b, width=0.5):
    """One with a spectrum that falls as i⁻⁶, down to where the rounding errors of float32 are."""
    d = 5**0.5 * np.abs(a - b.T) / width
    return (1 + d + d**2 / 3) * np.exp(-d)


def linear(a, b):
    """One of rank 2."""
    return 1 + a * b.T


KERNELS = {"laplace": laplace, "matern": matern, "gauss": gauss, "linear": linear}
TARGETS = {"smooth": np.sin(3 * X), "rough": np.where(np.arange(N)[:, None] % 3, 1.0, -1.0)}


def rounded(k, seed):
    """The kernel with the errors of a computation in float32: 0.7 ε of √(Θ_ii Θ_jj), and those of its storage."""
    noise = 0.7 * EPS * np.random.default_rng(seed).normal(size=k.shape)
    square = k.shape[0] == k.shape[1]
    scale = np.sqrt(np.outer(np.diag(k), np.diag(k))) if square else np.abs(k).max()
    noise = np.tril(noise) + np.tril(noise, -1).T if square else noise
    return (k + noise * scale).astype(np.float32)


def said(call) -> tuple[Any, list[str]]:
    """What a call returns, and the warnings about lost digits."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(w.message) for w in caught if "digits" in str(w.message)]


def flow(k, k_test, y, t, ridge):
    (train, test), words = said(lambda: ntk.gradient_flow(k, y, t=t, ntk_test_train=k_test, ridge=ridge))
    return (train, np.asarray(test)), words


def reference(k, k_test, y, t, ridge):
    """The flow in NumPy and float64, from the exact kernel."""
    values, u = np.linalg.eigh(k)
    rank = 2 if k is KERNEL_OF_RANK_2 else N
    values = np.where(np.arange(N) < N - rank, 0.0, np.maximum(values, 0.0)) + ridge * np.trace(k) / N
    s = t / N
    with np.errstate(invalid="ignore"):
        g = np.where(values > 0, -np.expm1(-values * s) / np.where(values > 0, values, 1.0), 0.0)
    return k_test @ u @ (g[:, None] * (u.T @ y))


KERNEL_OF_RANK_2 = linear(X, X)
