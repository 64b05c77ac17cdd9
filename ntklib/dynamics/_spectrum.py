"""The spectrum of a kernel that carries rounding errors: which of its eigenvalues are known, and which may be zero.

An entry of a kernel is known up to σ √(Θ_ii Θ_jj), with σ near the ε of its floating-point type. Taken as a random
symmetric matrix, such errors shift eigenvalues by up to 2σ√N, the edge of the semicircle. An eigenvalue below that is
not known; it may as well be zero. Its mode is called null here, and is treated as one that never learns.
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
#: Eigenvalues below this many ε√N are not told from zero: some three times the edge 2σ√N.
_FLOOR = 4.0

#: From the modes' rates λ/N [N], the part of each mode that has been learned at each time, and the integral of its
#: decay, [T, N] each.
Evolve = Callable[[Array], tuple[Array, Array]]


def flow_until(ts: Array) -> Evolve:
    """Gradient flow until each of the times [T]."""
    return lambda rates: _linalg.decay(rates[None, :], ts[:, None])


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of Θ + ridge · tr(Θ)/N · 1, ascending [N], and modes [N, N] (columns).

    null: modes whose eigenvalue of Θ is zero up to rounding, and is taken as zero, [N].
    floor: the eigenvalue of Θ up to which that is so, [N].
    sigma: σ of this module's head.  diagonal: that of Θ, [N].  ridge: what was added to it.
    """

    values: Array
    modes: Array
    null: Array
    floor: Array
    sigma: Array
    diagonal: Array
    ridge: Array

    def filters(self, evolve: Evolve) -> tuple[Array, Array]:
        """What `evolve` makes of the rates λ/N, [T, N] each; the integrals of null modes fade."""
        learned, integral = evolve(self.values / len(self.values))
        integral = jnp.where(self.null[None, :] & ~jnp.isfinite(integral), 0.0, integral)
        return learned, integral * self.fading(integral)

    def fading(self, integral: Array) -> Array:
        """The factors, from 1 to 0, [T, N], by which null modes drop out of test outputs as their integrals grow.

        Without a ridge the integral of a null mode grows as t does, and would magnify what rounding errors leave of it
        at test points. But modes with an eigenvalue up to `floor` may be among them, and those move test outputs by t:
        the factor is near 1 at first, and near 0 before the errors would show.
        """
        doubtful = (self.null & (self.ridge == 0))[None, :]
        return jnp.exp(-10 * jnp.where(doubtful, integral, 0.0) * self.floor[None, :] / len(self.values))

    def weight(self) -> Array:
        """The mean of Θ_ii over each mode, [N]."""
        return self.diagonal @ self.modes**2

    def eigenvalues(self) -> Array:
        """Those of Θ alone, [N]."""
        return jnp.where(self.null, 0.0, self.values - self.ridge)

    def with_ridge(self, ridge: float) -> "Spectrum":
        """The same kernel with another ridge."""
        added = ridge * jnp.mean(self.diagonal)
        return dataclasses.replace(self, values=self.values - self.ridge + added, ridge=added)


def spectrum(argument: str, kernel: Array, ridge: Any, eps: float) -> Spectrum:
    """The spectrum of a kernel [N, N] whose entries are known to the precision `eps`.

    Raises ValueError, naming the argument, if Θ has an eigenvalue below zero by much more than rounding.
    """
    n = len(kernel)
    values, modes = jnp.linalg.eigh(kernel)
    diagonal = jax.lax.stop_gradient(jnp.maximum(jnp.diagonal(kernel), 0.0))
    known, u = jax.lax.stop_gradient((values, modes))
    weight = diagonal @ u**2  # of each mode: the mean of Θ_ii over it
    # The second term is the error of the decomposition itself: it counts where that runs in the kernel's own precision.
    solver = 4 * float(jnp.finfo(values.dtype).eps) * jnp.maximum(known[-1], 0.0)
    floor = _FLOOR * eps * n**0.5 * weight + solver
    _refuse_negative(argument, known, floor, weight)
    # Eigenvalues below zero are rounding errors that can be seen: there are as large ones above zero.
    seen = jnp.maximum(jnp.max(jnp.where(floor > 0, -known / jnp.where(floor > 0, floor, 1.0), 0.0)), 0.0)
    floor = floor * jnp.maximum(1.0, 1.2 * seen)
    sigma = jnp.maximum(ENTRY, 0.5 * _FLOOR * seen) * eps
    null = known <= floor
    added = ridge * jnp.trace(kernel) / n
    return Spectrum(jnp.where(null, 0.0, values) + added, modes, null, floor, sigma, diagonal, jnp.asarray(added))


def largest(argument: str, kernel: Array, eps: float) -> Array:
    """The largest eigenvalue alone; refuses what `spectrum` does."""
    values = jnp.linalg.eigvalsh(kernel)
    weight = jnp.diagonal(kernel).max()
    _refuse_negative(argument, values, _FLOOR * eps * len(kernel) ** 0.5 * weight, weight)
    return jnp.maximum(values[-1], 0.0)


def _refuse_negative(argument: str, values: Array, floor: Array, weight: Array) -> None:
    if _checks.is_traced(values):
        return
    # A kernel by quadrature is known to some 1e-9 in any precision: what it lacks counts among its errors.
    allowed = jnp.minimum(jnp.maximum(1000 * floor, 1e-5 * weight), 0.1 * weight) + floor
    if bool((values < -allowed).any()):
        raise ValueError(
            f"`{argument}` must be positive semi-definite; its smallest eigenvalue is {float(values[0]):.3g} (largest "
            f"{float(values[-1]):.3g}). Was it computed between two sets of inputs? Otherwise compute it in float64."
        )


# ------------------------------------------------------------------------------------------------------ test points


@dataclasses.dataclass(frozen=True)
class Projected:
    """Θ(x, X) U, [M, N], for the modes U of a spectrum, and √Θ(x, x), [M].

    Θ(x, X) u is zero for a null mode u, whose variance is zero; what is there within the rounding errors has been set
    to zero. Of Θ(x, x) only Θ(x, X)²/Θ(X, X) is known, which is not larger.
    """

    rows: Array
    own: Array

    def reach(self, spectrum: Spectrum, g: Array) -> Array:
        """√Θ(x, x) + ‖D^½ g(Θ) Θ(X, x)‖ of each test point, [M], with D = diag(Θ): how far errors of the kernel's
        entries of size σ move it, in units of σ.
        """
        return self.own + weighted_norm(spectrum.diagonal, (self.rows * g[None, :]) @ spectrum.modes.T)


def projected(spectrum: Spectrum, k_test: Array) -> Projected:
    """From Θ(x, X), [M, N]."""
    d, null = spectrum.diagonal, spectrum.null
    own = jnp.where(d > 0, jnp.abs(k_test) / jnp.sqrt(jnp.where(d > 0, d, 1.0))[None, :], 0.0).max(1)
    points = Projected(k_test @ spectrum.modes, own)
    # Errors of Θ(x, X) reach a null mode directly, and those of Θ(X, X) through the other modes. Six times their
    # standard deviation, and the errors of the arithmetic.
    inverse = jnp.where(null, 0.0, 1 / jnp.where(null, 1.0, spectrum.eigenvalues()))
    level = 6 * spectrum.sigma * points.reach(spectrum, inverse)[:, None] * jnp.sqrt(spectrum.weight())[None, :]
    level += 8 * float(jnp.finfo(k_test.dtype).eps) * jnp.linalg.norm(k_test, axis=1, keepdims=True)
    level = jax.lax.stop_gradient(level)
    return Projected(jnp.where(null[None, :] & (jnp.abs(points.rows) <= level), 0.0, points.rows), own)


def weighted_norm(d: Array, rows: Array) -> Array:
    """‖D^½ row‖ of each row."""
    return jnp.linalg.norm(jnp.sqrt(d)[None, :] * rows, axis=1)
