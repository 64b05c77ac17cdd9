"""The digits that a kernel's rounding errors cost its outputs, and the one warning that says so.

Training for a time t makes f(x) = f_0(x) + Θ(x, X) c with c = g(Θ) (y − f_0) and g(λ) = (1 − e^(−λt/N))/λ. Errors of
σ √(Θ_ii Θ_jj) in the entries of Θ (see `_spectrum`) move it, to first order, by

    about σ ‖D^½ c‖ (√Θ(x, x) + ‖D^½ w(x)‖),  w(x) = g(Θ) Θ(X, x),  D = diag(Θ),

because the divided difference of g between λ and λ' is at most g(λ) g(λ'). The estimate knows the targets (c is
small where they are smooth) and the time (g is at most t/N, so that early stopping is safe).
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
#: What the warning may advise.
RIDGES = tuple(10.0**k for k in range(-10, 1))


def of_outputs(spectrum: Spectrum, evolve: Evolve, wanted: Array, points: Projected | None) -> tuple[float, float]:
    """How far the kernel's rounding errors move the training outputs and those at test points at the last time, in the
    targets' units.  wanted: y − f_0 [N, K], averaged over equal rows of the kernel (`averaged`).
    """
    n, d, u = len(spectrum.values), spectrum.diagonal, spectrum.modes
    learned, integral = (a[-1] for a in spectrum.filters(evolve))
    g, parts = integral / n, u.T @ wanted
    left_out = of_null_modes(spectrum, evolve, parts)

    def size(g: Array) -> Array:
        """‖D^½ c‖."""
        return weighted_norm(d, (u @ (g[:, None] * parts)).T).max()

    stays = jnp.sqrt(d * ((u**2) @ (1 - learned) ** 2)).max()  # ‖(1 − Θ g(Θ)) e_j‖, as a weight of training points
    train = max(float(spectrum.sigma * size(jnp.where(spectrum.null, 0.0, g)) * stays), left_out)
    if points is None:
        return train, 0.0
    g = jnp.where((points.rows == 0).all(0), 0.0, g)  # these modes do not reach test points, nor do their errors
    return train, max(float(spectrum.sigma * size(g) * points.reach(spectrum, g).max()), left_out)


def of_null_modes(spectrum: Spectrum, evolve: Evolve, parts: Array) -> float:
    """What modes taken for null may have added to the outputs by now, if they are none: λ g(λ) of their parts.
    parts: Uᵀ(y − f_0), [N, K].

    Where the known eigenvalues come down to the floor without a gap, they go on below it in all likelihood. A kernel
    of low rank has a gap there, and its null modes add nothing.
    """
    null, floor, n = spectrum.null, spectrum.floor, len(spectrum.values)
    ratio = jnp.where(null, jnp.inf, spectrum.eigenvalues() / jnp.where(floor > 0, floor, 1.0))
    if not bool(null.any()) or float(ratio.min()) > 100:
        return 0.0
    at_most = jnp.where(null, floor / 3, 0.0)  # that is the edge 2σ√N
    integral = evolve((at_most + spectrum.ridge) / n)[1][-1]
    share = jnp.where(at_most > 0, at_most / n * integral, 0.0)
    return float(jnp.abs(spectrum.modes @ (share[:, None] * parts)).max())


def averaged(kernel: Array, wanted: Array) -> Array:
    """`wanted` [N, K] averaged over inputs with equal rows of the kernel: rounding does not touch the differences
    within such a group, which are null modes exactly.
    """
    groups = np.unique([hash(row.tobytes()) for row in np.asarray(kernel)], return_inverse=True)[1]
    sums = np.zeros((groups.max() + 1, wanted.shape[1]))
    np.add.at(sums, groups, np.asarray(wanted))
    return jnp.asarray((sums / np.bincount(groups)[:, None])[groups])


def least_ridge(ridge: float, fine: Callable[[float], bool]) -> float | None:
    """The smallest power of ten, larger than the ridge there is, that is `fine`."""
    return next((r for r in RIDGES if r > ridge and fine(r)), None)


def warn(
    what: str, error: float, *, argument: str, eps: float, sigma: float, ridge: float | None = None, early: str = ""
) -> None:
    """Warn that rounding errors of a kernel move `what` by a relative error.

    error: relative to the largest of `what`.  eps: that of the kernel's type.
    ridge: the least that would do, None where none would.  early: how to stop earlier, where that is a way out.
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
