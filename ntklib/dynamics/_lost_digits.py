"""How many digits of the outputs are lost to a kernel's rounding errors, and the warning that says so.

After training for a time t, f(x) = f_0(x) + Θ(x, X) c with c = g(Θ) (y − f_0) and g(λ) = (1 − e^(−λt/N))/λ. If the
entries of Θ have errors of σ √(Θ_ii Θ_jj) (see `_spectrum`), they move f(x) to first order by about::

    σ ‖D^½ c‖ (√Θ(x, x) + ‖D^½ w(x)‖),  w(x) = g(Θ) Θ(X, x),  D = diag(Θ),

because the divided difference of g between λ and λ' is at most g(λ) g(λ'). The estimate takes account of the targets
(c is small if they are smooth) and of the time (g is at most t/N, so that outputs are accurate at early times).
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib import _checks
from ntklib.dynamics._spectrum import Evolve, Projected, Spectrum, weighted_norm

#: The relative error of the outputs beyond which a warning says so.
TOLERANCE = 1e-2
#: The ridges that the warning may advise.
RIDGES = tuple(10.0**k for k in range(-10, 1))


def of_outputs(spectrum: Spectrum, evolve: Evolve, wanted: Array, points: Projected | None) -> tuple[float, float]:
    """Estimate how far the kernel's rounding errors move training and test outputs at the last time.

    Both are in the units of the targets. `wanted` is y − f_0 [N, K], averaged over equal rows of the kernel
    (`averaged`).
    """
    n, d, u = len(spectrum.values), spectrum.diagonal, spectrum.modes
    learned, integral = (a[-1] for a in spectrum.filters(evolve))
    g, parts = integral / n, u.T @ wanted
    left_out = of_null_modes(spectrum, evolve, parts)

    def size(g: Array) -> Array:
        """Return ‖D^½ c‖."""
        return weighted_norm(d, (u @ (g[:, None] * parts)).T).max()

    stays = jnp.sqrt(d * ((u**2) @ (1 - learned) ** 2)).max()  # ‖(1 − Θ g(Θ)) e_j‖, as a weight of training points
    train = max(float(spectrum.sigma * size(jnp.where(spectrum.null, 0.0, g)) * stays), left_out)
    if points is None:
        return train, 0.0
    g = jnp.where((points.rows == 0).all(0), 0.0, g)  # modes without effect on test points have no effect by errors
    return train, max(float(spectrum.sigma * size(g) * points.reach(spectrum, g).max()), left_out)


def of_null_modes(spectrum: Spectrum, evolve: Evolve, parts: Array) -> float:
    """Estimate what null modes would have added to the outputs by now if their eigenvalues were not zero.

    That is λ g(λ) times their components of the target, `parts` = Uᵀ(y − f_0) [N, K], with λ at the edge of what is
    known. If the known eigenvalues reach down to the floor without a gap, there are probably more below it. A kernel of
    low rank has a gap there, and its null modes add nothing.
    """
    null, floor, n = spectrum.null, spectrum.floor, len(spectrum.values)
    ratio = jnp.where(null, jnp.inf, spectrum.eigenvalues() / jnp.where(floor > 0, floor, 1.0))
    if not bool(null.any()) or float(ratio.min()) > 100:
        return 0.0
    at_most = jnp.where(null, floor / 3, 0.0)  # the edge 2σ√N
    integral = evolve((at_most + spectrum.ridge) / n)[1][-1]
    share = jnp.where(at_most > 0, at_most / n * integral, 0.0)
    return float(jnp.abs(spectrum.modes @ (share[:, None] * parts)).max())


def averaged(kernel: Array, wanted: Array) -> Array:
    """Average `wanted` [N, K] over inputs with equal rows of the kernel.

    Differences within such a group lie along exact null modes, which rounding errors do not change.
    """
    groups = np.unique([hash(row.tobytes()) for row in np.asarray(kernel)], return_inverse=True)[1]
    sums = np.zeros((groups.max() + 1, wanted.shape[1]))
    np.add.at(sums, groups, np.asarray(wanted))
    return jnp.asarray((sums / np.bincount(groups)[:, None])[groups])


def least_ridge(ridge: float, fine: Callable[[float], bool]) -> float | None:
    """Return the smallest power of ten that is larger than the present ridge and `fine`, or None."""
    return next((r for r in RIDGES if r > ridge and fine(r)), None)


def warn(
    what: str, error: float, *, argument: str, eps: float, sigma: float, ridge: float | None = None, early: str = ""
) -> None:
    """Warn that rounding errors of a kernel move `what`.

    Args:
        what: The name of the quantity.
        error: The error relative to the largest of `what`.
        argument: The name of the kernel.
        eps: The ε of the kernel's type.
        sigma: The relative error of the kernel's entries.
        ridge: The smallest ridge that would be enough; None if there is none.
        early: How to stop training earlier, if that helps.
    """
    digits = round(-math.log10(eps))
    lost = max(1, round(digits + math.log10(error))) if error < 1 else digits
    ways = [] if eps < 1e-10 else ["compute the kernel in float64 (to convert it afterwards does not help)"]
    ways += [] if ridge is None else [f"use a ridge of at least {ridge:.0e}"]
    ways += [early] if early else []
    _checks.warn(
        f"{lost} of the {digits} digits of {what} are lost: `{argument}` is known to {sigma:.0e} of its diagonal "
        f"only, and these rounding errors move {what} by about {error:.0e} of the largest. "
        f"What helps: {', or '.join(ways) or 'fewer inputs that are nearly equal'}."
    )
