"""The spectrum of a kernel that carries rounding errors: which of its eigenvalues are known, and which may be zero.

An entry of a kernel is known up to σ √(Θ_ii Θ_jj), with σ near the ε of its floating-point type. If these errors are
independent, they form a random symmetric matrix and shift eigenvalues by up to 2σ√N, the edge of the semicircle. An
eigenvalue below that is not known, and may be zero. Its mode is called null here, and is treated as one that never
learns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ntklib import _checks
from ntklib.dynamics import _linalg

#: σ in units of ε. Kernels of `gram` and `net.kernel` in float32 had 0.2 to 1 against float64, over networks of 2 to 6
#: layers, six activations, and 20 to 600 inputs of 1 to 784 features.
ENTRY = 0.7
#: Eigenvalues are taken for zero below this number times ε√N times the diagonal: some three times the edge 2σ√N.
_FLOOR = 4.0

#: A function that maps the rates λ/N of the modes [N] to two arrays [T, N]: the part of each mode that has been learned
#: at each time, and the integral of its decay.
Evolve = Callable[[Array], tuple[Array, Array]]


def flow_until(ts: Array) -> Evolve:
    """Return the evolution under gradient flow until each of the times [T]."""
    return lambda rates: _linalg.decay(rates[None, :], ts[:, None])


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The eigendecomposition of a kernel with its ridge.

    Args:
        values: The eigenvalues of Θ + ridge · tr(Θ)/N · 1, ascending, [N].
        modes: The eigenvectors, in columns, [N, N].
        null: Whether the eigenvalue of Θ is zero up to rounding; it is then taken to be zero. [N].
        floor: The eigenvalue of Θ up to which that is so, for each mode, [N].
        sigma: σ of the module's docstring.
        diagonal: The diagonal of Θ, [N].
        ridge: The number that was added to the diagonal.
    """

    values: Array
    modes: Array
    null: Array
    floor: Array
    sigma: Array
    diagonal: Array
    ridge: Array

    def filters(self, evolve: Evolve) -> tuple[Array, Array]:
        """Return what `evolve` makes of the rates λ/N, two arrays [T, N]. The integrals of null modes fade."""
        learned, integral = evolve(self.values / len(self.values))
        integral = jnp.where(self.null[None, :] & ~jnp.isfinite(integral), 0.0, integral)
        return learned, integral * self.fading(integral)

    def fading(self, integral: Array) -> Array:
        """Return the factors, from 1 to 0, by which null modes fade from test outputs as their integrals grow, [T, N].

        Without a ridge, the integral of a null mode grows like t, and would magnify its rounding errors at test points.
        But a null mode may have an eigenvalue up to `floor`, and then it does move test outputs at first. The factor is
        therefore near 1 at early times, and near 0 before the errors become visible.
        """
        doubtful = (self.null & (self.ridge == 0))[None, :]
        return jnp.exp(-10 * jnp.where(doubtful, integral, 0.0) * self.floor[None, :] / len(self.values))

    def weight(self) -> Array:
        """Return the mean of Θ_ii over each mode, [N]."""
        return self.diagonal @ self.modes**2

    def eigenvalues(self) -> Array:
        """Return the eigenvalues of Θ without the ridge, [N]."""
        return jnp.where(self.null, 0.0, self.values - self.ridge)

    def with_ridge(self, ridge: float) -> "Spectrum":
        """Return the spectrum of the same kernel with another ridge."""
        added = ridge * jnp.mean(self.diagonal)
        return dataclasses.replace(self, values=self.values - self.ridge + added, ridge=added)


def spectrum(argument: str, kernel: Array, ridge: Any, eps: float) -> Spectrum:
    """Return the spectrum of a kernel [N, N] whose entries are known to the precision `eps`.

    Raises:
        ValueError: If Θ has an eigenvalue that is further below zero than rounding explains. It names the argument.
    """
    n = len(kernel)
    values, modes = jnp.linalg.eigh(kernel)
    diagonal = jax.lax.stop_gradient(jnp.maximum(jnp.diagonal(kernel), 0.0))
    known, u = jax.lax.stop_gradient((values, modes))
    weight = diagonal @ u**2  # the mean of Θ_ii over each mode
    # The second term is the error of the decomposition itself. It matters if that runs in the precision of the kernel.
    solver = 4 * float(jnp.finfo(values.dtype).eps) * jnp.maximum(known[-1], 0.0)
    floor = _FLOOR * eps * n**0.5 * weight + solver
    _refuse_negative(argument, known, floor, weight)
    # Eigenvalues below zero are rounding errors, and there must be equally large errors above zero.
    seen = jnp.maximum(jnp.max(jnp.where(floor > 0, -known / jnp.where(floor > 0, floor, 1.0), 0.0)), 0.0)
    floor = floor * jnp.maximum(1.0, 1.2 * seen)
    sigma = jnp.maximum(ENTRY, 0.5 * _FLOOR * seen) * eps
    null = known <= floor
    added = ridge * jnp.trace(kernel) / n
    return Spectrum(jnp.where(null, 0.0, values) + added, modes, null, floor, sigma, diagonal, jnp.asarray(added))


def largest(argument: str, kernel: Array, eps: float) -> Array:
    """Return the largest eigenvalue, without eigenvectors. Refuse the same kernels as `spectrum`."""
    values = jnp.linalg.eigvalsh(kernel)
    weight = jnp.diagonal(kernel).max()
    _refuse_negative(argument, values, _FLOOR * eps * len(kernel) ** 0.5 * weight, weight)
    return jnp.maximum(values[-1], 0.0)


def _refuse_negative(argument: str, values: Array, floor: Array, weight: Array) -> None:
    if _checks.is_traced(values):
        return
    # A kernel that was computed by quadrature has errors of some 1e-9, also in float64. They are allowed here.
    allowed = jnp.minimum(jnp.maximum(1000 * floor, 1e-5 * weight), 0.1 * weight) + floor
    if bool((values < -allowed).any()):
        raise ValueError(
            f"`{argument}` must be positive semi-definite; its smallest eigenvalue is {float(values[0]):.3g} (largest "
            f"{float(values[-1]):.3g}). Was it computed between two sets of inputs? If not, compute it in float64."
        )


# ------------------------------------------------------------------------------------------------------ test points


@dataclasses.dataclass(frozen=True)
class Projected:
    """The kernel between test points and the modes of a spectrum.

    Args:
        rows: Θ(x, X) U, [M, N], for the modes U. For a null mode u, Θ(x, X) u must be zero; entries that are zero
            within rounding errors have been set to zero.
        std: An estimate of √Θ(x, x), [M]. Only the lower bound Θ(x, X)²/Θ(X, X) of Θ(x, x) is known.
    """

    rows: Array
    std: Array

    def reach(self, spectrum: Spectrum, g: Array) -> Array:
        """Return √Θ(x, x) + ‖D^½ g(Θ) Θ(X, x)‖ of each test point, [M], with D = diag(Θ).

        In units of σ, this is how far the errors of the kernel's entries move the output at a test point.
        """
        return self.std + weighted_norm(spectrum.diagonal, (self.rows * g[None, :]) @ spectrum.modes.T)


def projected(spectrum: Spectrum, k_test: Array) -> Projected:
    """Project Θ(x, X), [M, N], on the modes of a spectrum."""
    d, null = spectrum.diagonal, spectrum.null
    std = jnp.where(d > 0, jnp.abs(k_test) / jnp.sqrt(jnp.where(d > 0, d, 1.0))[None, :], 0.0).max(1)
    points = Projected(k_test @ spectrum.modes, std)
    # Errors of Θ(x, X) reach a null mode directly, and those of Θ(X, X) through the other modes. The level is six times
    # their standard deviation, plus the errors of the arithmetic.
    inverse = jnp.where(null, 0.0, 1 / jnp.where(null, 1.0, spectrum.eigenvalues()))
    level = 6 * spectrum.sigma * points.reach(spectrum, inverse)[:, None] * jnp.sqrt(spectrum.weight())[None, :]
    level += 8 * float(jnp.finfo(k_test.dtype).eps) * jnp.linalg.norm(k_test, axis=1, keepdims=True)
    level = jax.lax.stop_gradient(level)
    return Projected(jnp.where(null[None, :] & (jnp.abs(points.rows) <= level), 0.0, points.rows), std)


def weighted_norm(d: Array, rows: Array) -> Array:
    """Return ‖D^½ row‖ of each row."""
    return jnp.linalg.norm(jnp.sqrt(d)[None, :] * rows, axis=1)
