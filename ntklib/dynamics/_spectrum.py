"""The spectrum of a kernel with rounding errors: which eigenvalues are known, and which may be zero.

Entry (i, j) of a kernel has an error of about σ √(Θ_ii Θ_jj), with σ near the ε of its floating-point type. Independent
errors form a random symmetric matrix. They shift eigenvalues by up to 2σ√N times the diagonal, the edge of the
semicircle law. An eigenvalue of this size may be zero. The module sets eigenvalues below some three times the edge to
zero, and calls their modes null. Without a ridge a null mode never learns at the training points.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ntklib import _checks
from ntklib.dynamics import _linalg

#: σ in units of ε. A comparison of kernels in float32 and in float64 gave 0.2 to 1, for `gram` and `net.kernel`,
#: networks of 2 to 6 layers, six activations, and 20 to 600 inputs of 1 to 784 features.
ENTRY = 0.7
#: Eigenvalues below this number times ε√N times the diagonal are set to zero. This is some three times the edge 2σ√N.
_FLOOR = 4.0

#: A function that maps the rates λ/N of the modes, [N], to two arrays [T, N]: the part of each mode that is learned at
#: each time, and the integral over time of the part that is left.
Evolve = Callable[[Array], tuple[Array, Array]]


def flow_until(ts: Array) -> Evolve:
    """Return the `Evolve` of gradient flow for the times [T]."""
    return lambda rates: _linalg.decay(rates[None, :], ts[:, None])


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The eigendecomposition of a kernel Θ with a ridge.

    Args:
        values: The eigenvalues of Θ, with those of null modes set to zero, plus `ridge`, [N]. The last is the largest.
        modes: The eigenvectors, in columns, [N, N].
        null: Whether each mode is null, [N].
        floor: For each mode, the bound up to which its eigenvalue of Θ counts as zero, [N].
        sigma: σ of the module's docstring.
        diagonal: The diagonal of Θ, [N].
        ridge: The number that was added to each entry of the diagonal: the relative ridge times tr(Θ)/N.
    """

    values: Array
    modes: Array
    null: Array
    floor: Array
    sigma: Array
    diagonal: Array
    ridge: Array

    def filters(self, evolve: Evolve) -> tuple[Array, Array]:
        """Return the two arrays of `evolve` for these eigenvalues, with the integrals of null modes times `fading`."""
        learned, integral = evolve(self.values / len(self.values))
        integral = jnp.where(self.null[None, :] & ~jnp.isfinite(integral), 0.0, integral)
        return learned, integral * self.fading(integral)

    def fading(self, integral: Array) -> Array:
        """Return the factors by which null modes are suppressed in test outputs, [T, N].

        The true eigenvalue of a null mode may be as large as `floor`. The mode then moves test outputs early in
        training, and should not be left out. But without a ridge its `integral` grows like t, because its eigenvalue
        was set to zero, and would later magnify rounding errors at test points. The factor therefore falls from 1 to 0
        as `integral` grows, early enough to suppress these errors. With a ridge all factors are 1.
        """
        doubtful = (self.null & (self.ridge == 0))[None, :]
        return jnp.exp(-10 * jnp.where(doubtful, integral, 0.0) * self.floor[None, :] / len(self.values))

    def weight(self) -> Array:
        """Return Σ_i Θ_ii u_i² for each mode u, the mean of the diagonal over the mode, [N]."""
        return self.diagonal @ self.modes**2

    def eigenvalues(self) -> Array:
        """Return the eigenvalues of Θ without the ridge, [N]."""
        return jnp.where(self.null, 0.0, self.values - self.ridge)

    def with_ridge(self, ridge: float) -> "Spectrum":
        """Return the spectrum of the same kernel with another ridge, relative to the mean of the diagonal."""
        added = ridge * jnp.mean(self.diagonal)
        return dataclasses.replace(self, values=self.values - self.ridge + added, ridge=added)


def spectrum(argument: str, kernel: Array, ridge: Any, eps: float) -> Spectrum:
    """Return the spectrum of Θ + ridge · tr(Θ)/N · 1, for a kernel Θ, [N, N], computed with the precision `eps`.

    Raises:
        ValueError: If an eigenvalue of Θ is further below zero than rounding explains. The message calls the kernel
            `argument`. Traced kernels are not checked.
    """
    n = len(kernel)
    values, modes = jnp.linalg.eigh(kernel)
    diagonal = jax.lax.stop_gradient(jnp.maximum(jnp.diagonal(kernel), 0.0))
    known, u = jax.lax.stop_gradient((values, modes))
    weight = diagonal @ u**2  # the mean of the diagonal over each mode
    # The error of the decomposition itself. It matters if the decomposition runs in the precision of the kernel.
    solver = 4 * float(jnp.finfo(values.dtype).eps) * jnp.maximum(known[-1], 0.0)
    floor = _FLOOR * eps * n**0.5 * weight + solver
    _refuse_negative(argument, known, floor, weight)
    # An eigenvalue below zero is a rounding error. The errors of other eigenvalues are probably as large.
    seen = jnp.maximum(jnp.max(jnp.where(floor > 0, -known / jnp.where(floor > 0, floor, 1.0), 0.0)), 0.0)
    floor = floor * jnp.maximum(1.0, 1.2 * seen)
    sigma = jnp.maximum(ENTRY, 0.5 * _FLOOR * seen) * eps
    null = known <= floor
    added = ridge * jnp.trace(kernel) / n
    return Spectrum(jnp.where(null, 0.0, values) + added, modes, null, floor, sigma, diagonal, jnp.asarray(added))


def largest(argument: str, kernel: Array, eps: float) -> Array:
    """Return the largest eigenvalue of a kernel [N, N], without eigenvectors. Refuse eigenvalues far below zero."""
    values = jnp.linalg.eigvalsh(kernel)
    weight = jnp.diagonal(kernel).max()
    _refuse_negative(argument, values, _FLOOR * eps * len(kernel) ** 0.5 * weight, weight)
    return jnp.maximum(values[-1], 0.0)


def _refuse_negative(argument: str, values: Array, floor: Array, weight: Array) -> None:
    if _checks.is_traced(values):
        return
    # A kernel that was computed by quadrature or from tables can have larger errors than those of rounding, also in
    # float64. They are allowed.
    allowed = jnp.minimum(jnp.maximum(1000 * floor, 1e-5 * weight), 0.1 * weight) + floor
    if bool((values < -allowed).any()):
        raise ValueError(
            f"`{argument}` must be positive semi-definite; its smallest eigenvalue is {float(values[0]):.3g} (largest "
            f"{float(values[-1]):.3g}). Was it computed between two sets of inputs? If not, compute it in float64."
        )


# ------------------------------------------------------------------------------------------------------ test points


@dataclasses.dataclass(frozen=True)
class Projected:
    """The kernel between test and training inputs, in the basis of the modes of a spectrum.

    Args:
        rows: Θ(x, X) U, [M, N], for the modes U. If the eigenvalue of a mode u is exactly zero, so is Θ(x, X) u. In the
            columns of null modes, entries that rounding errors explain have been set to zero.
        std: An estimate of √Θ(x, x), [M]: the largest |Θ(x, x_i)|/√Θ_ii, which is a lower bound.
    """

    rows: Array
    std: Array

    def reach(self, spectrum: Spectrum, g: Array) -> Array:
        """Return √Θ(x, x) + ‖D^½ g(Θ) Θ(X, x)‖ for each test point, [M], with D = diag(Θ). `g` is g(λ), [N].

        Rounding errors of the kernel move the output by σ ‖D^½ c‖ times this (see `_lost_digits`).
        """
        return self.std + weighted_norm(spectrum.diagonal, (self.rows * g[None, :]) @ spectrum.modes.T)


def projected(spectrum: Spectrum, k_test: Array) -> Projected:
    """Return Θ(x, X), [M, N], in the basis of the modes of a spectrum."""
    d, null = spectrum.diagonal, spectrum.null
    std = jnp.where(d > 0, jnp.abs(k_test) / jnp.sqrt(jnp.where(d > 0, d, 1.0))[None, :], 0.0).max(1)
    points = Projected(k_test @ spectrum.modes, std)
    # In the columns of null modes, errors of Θ(x, X) enter directly, and errors of Θ(X, X) through the other modes.
    # Entries up to a level are set to zero: six times the standard deviation of both, plus errors of the arithmetic.
    inverse = jnp.where(null, 0.0, 1 / jnp.where(null, 1.0, spectrum.eigenvalues()))
    level = 6 * spectrum.sigma * points.reach(spectrum, inverse)[:, None] * jnp.sqrt(spectrum.weight())[None, :]
    level += 8 * float(jnp.finfo(k_test.dtype).eps) * weighted_norm(jnp.ones_like(d), k_test)[:, None]
    level = jax.lax.stop_gradient(level)
    return Projected(jnp.where(null[None, :] & (jnp.abs(points.rows) <= level), 0.0, points.rows), std)


def weighted_norm(d: Array, rows: Array) -> Array:
    """Return ‖D^½ row‖ for each of `rows`, with D = diag(d). The squares are taken in units of the row's largest entry.

    Otherwise they would leave the range of the type for targets such as 1e200 or 1e-200.
    """
    rows = jnp.sqrt(d)[None, :] * rows
    largest = jnp.abs(rows).max(1)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return unit * jnp.linalg.norm(rows / unit[:, None], axis=1)
