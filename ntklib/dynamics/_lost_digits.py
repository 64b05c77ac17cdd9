"""Estimates of how far a kernel's rounding errors move the outputs, and the warning that digits are lost.

After training for a time t, f(x) = f_0(x) + Θ(x, X) c with c = g(Θ) (y − f_0) and g(λ) = (1 − e^(−λt/N))/λ. Let the
entries of Θ have independent errors of size σ √(Θ_ii Θ_jj) (see `_spectrum`). To first order they move f(x) by about::

    σ ‖D^½ c‖ (√Θ(x, x) + ‖D^½ w(x)‖),  w(x) = g(Θ) Θ(X, x),  D = diag(Θ).

The first term comes from the errors of Θ(x, X), the second from those of g(Θ). In the eigenbasis, an error E of Θ(X, X)
changes g(Θ) by E_ab times (g(λ_a) − g(λ_b))/(λ_a − λ_b), and this quotient is at most g(λ_a) g(λ_b) in absolute value.
The estimate is small for smooth targets, because their c is small, and at early times, because g is at most t/N.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib import _checks
from ntklib.dynamics._spectrum import Evolve, Projected, Spectrum, weighted_norm

#: A warning is given if the relative error of the outputs is larger than this.
TOLERANCE = 1e-2
#: The ridges that the warning may advise.
RIDGES = tuple(10.0**k for k in range(-10, 1))


def of_outputs(spectrum: Spectrum, evolve: Evolve, wanted: Array, points: Projected | None) -> tuple[float, float]:
    """Return the largest errors that rounding of the kernel causes in training and test outputs, at the last time.

    Both are estimates in the units of the targets. Without test points the second is 0. `wanted` is the result of
    `averaged` for y − f_0, [N, K].
    """
    n, d, u = len(spectrum.values), spectrum.diagonal, spectrum.modes
    learned, integral = (a[-1] for a in spectrum.filters(evolve))
    g, parts = integral / n, u.T @ wanted
    left_out = of_null_modes(spectrum, evolve, parts)

    def size(g: Array) -> Array:
        """Return the largest ‖D^½ c‖ of the K outputs."""
        return weighted_norm(d, (u @ (g[:, None] * parts)).T).max()

    # At training point j, √Θ_jj ‖row j of 1 − Θ g(Θ)‖ takes the place of the bracket in the module's docstring.
    stays = jnp.sqrt(d * ((u**2) @ (1 - learned) ** 2)).max()
    train = max(float(spectrum.sigma * size(jnp.where(spectrum.null, 0.0, g)) * stays), left_out)
    if points is None:
        return train, 0.0
    g = jnp.where((points.rows == 0).all(0), 0.0, g)  # a mode that moves no test point adds no error there
    return train, max(float(spectrum.sigma * size(g) * points.reach(spectrum, g).max()), left_out)


def of_null_modes(spectrum: Spectrum, evolve: Evolve, parts: Array) -> float:
    """Return the largest change of an output, at the last time, if the eigenvalues of null modes were not zero.

    If some known eigenvalue is below 100 times the floor, more eigenvalues are probably hidden below the floor. Each
    null mode is then given an eigenvalue λ near 2σ√N times the diagonal. The mode adds λ g times its component of
    y − f_0, with g at λ plus the ridge. `parts` are these components, Uᵀ(y − f_0), [N, K]. A kernel of low rank has a
    gap above the floor: the result is 0.
    """
    null, floor, n = spectrum.null, spectrum.floor, len(spectrum.values)
    ratio = jnp.where(null, jnp.inf, spectrum.eigenvalues() / jnp.where(floor > 0, floor, 1.0))
    if not bool(null.any()) or float(ratio.min()) > 100:
        return 0.0
    at_most = jnp.where(null, floor / 3, 0.0)  # near the edge 2σ√N, see `_FLOOR` of `_spectrum`
    integral = evolve((at_most + spectrum.ridge) / n)[1][-1]
    share = jnp.where(at_most > 0, at_most / n * integral, 0.0)
    return float(jnp.abs(spectrum.modes @ (share[:, None] * parts)).max())


def averaged(kernel: Array, wanted: Array) -> Array:
    """Return `wanted`, [N, K], averaged over each group of inputs that have equal rows in the kernel.

    Differences within a group lie along exact null modes, which rounding errors do not change.
    """
    groups = np.unique([hash(row.tobytes()) for row in np.asarray(kernel)], return_inverse=True)[1]
    sums = np.zeros((groups.max() + 1, wanted.shape[1]))
    np.add.at(sums, groups, np.asarray(wanted))
    return jnp.asarray((sums / np.bincount(groups)[:, None])[groups])


def least_ridge(ridge: float, fine: Callable[[float], bool]) -> float | None:
    """Return the smallest of `RIDGES` that is above the present ridge and for which `fine` is true, or None."""
    return next((r for r in RIDGES if r > ridge and fine(r)), None)


def warn(
    what: str, error: float, *, argument: str, eps: float, sigma: float, ridge: float | None = None, early: str = ""
) -> None:
    """Warn that rounding errors of a kernel move some quantity.

    Args:
        what: The name of the quantity.
        error: The relative error. The caller chooses the size that it is relative to, such as the largest output.
        argument: The name of the kernel.
        eps: The ε of the type in which the kernel was computed.
        sigma: The relative error of the kernel's entries.
        ridge: The smallest ridge to advise, or None.
        early: The advice to stop training earlier, or "".
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
