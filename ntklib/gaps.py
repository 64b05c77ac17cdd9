"""Duals from the gap g = ½ E[(u − v)²] = (q1 + q2)/2 − q12 in place of the covariance: as fast as the machine allows,
and exact where two inputs come near.

Each function takes arrays `(gap, q1, q2)` that broadcast against each other and returns the three numbers that the next
layer needs, E[φφ], E[φ'φ'] and the new gap ½ E[(φ(u) − φ(v))²]. They are made for `gram`; they have no useful
derivatives where |ρ| = 1. The same expectations from the covariance, with derivatives, are in `ntklib.duals`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ntklib import _arccos

Triple = tuple[Array, Array, Array]


def leaky_relu(gap: Array, q1: Array, q2: Array, *, slope: float = 0.0) -> Triple:
    """φ(x) = x for x > 0, `slope`·x otherwise; see `ntklib.duals.leaky_relu`.

    With s = √(q1 q2), 1 − cos θ = (g − ½(√q1 − √q2)²)/s, κ = (1 + a²)/2 and β = (1 − a)²/2π:

        E[φ'φ'] = κ − βθ,   g' = κ g − β s (sin θ − θ cos θ),   E[φφ] = κ (q1 + q2)/2 − g'.

    No difference of nearly equal numbers is left: the error of θ is relative. At a variance of zero θ = π/2.

    >>> [round(float(e), 4) for e in leaky_relu(*map(jnp.array, (0.5, 1.0, 1.0)))]
    [0.3045, 0.3333, 0.1955]
    """
    kappa, beta = (1 + slope**2) / 2, (1 - slope) ** 2 / (2 * np.pi)
    s1, s2 = jnp.sqrt(q1), jnp.sqrt(q2)
    # Everything that belongs to one input is computed before the two are joined: on a tile those are vectors.
    r1, r2 = (jnp.where(s > 0, 1 / jnp.where(s > 0, s, 1.0), 0.0) for s in (s1, s2))
    zero1, zero2 = ((s == 0).astype(s.dtype) for s in (s1, s2))
    difference = s1 - s2
    u = (gap - 0.5 * difference * difference) * (r1 * r2)
    theta, sine = _arccos.angle(_once(jnp.maximum(u, jnp.maximum(zero1, zero2))))
    new_gap = _once(kappa * gap - beta * (s1 * s2) * sine)
    return kappa * (q1 + q2) / 2 - new_gap, kappa - beta * theta, new_gap


def erf(gap: Array, q1: Array, q2: Array) -> Triple:
    """erf(x); see `ntklib.duals.erf`. With A = √(1 + 2q1), B = √(1 + 2q2) the angle of Williams' arcsine is that of
    1 − sin = (1 + 2g − ½(A − B)²)/AB.

    >>> [round(float(e), 4) for e in erf(*map(jnp.array, (0.5, 1.0, 1.0)))]
    [0.2163, 0.4502, 0.2482]
    """
    a, b = jnp.sqrt(1 + 2 * q1), jnp.sqrt(1 + 2 * q2)
    own1, own2 = (jnp.asarray(2 / np.pi * jnp.arcsin(2 * q / (1 + 2 * q)), q.dtype) for q in (q1, q2))
    difference = a - b
    u = _once((1 + 2 * gap - 0.5 * difference * difference) * (1 / a) * (1 / b))
    values = _once(1 - 2 / np.pi * _arccos.angle(u)[0])
    slopes = 4 / np.pi / jnp.sqrt(u * (2 - u)) * (1 / a) * (1 / b)
    return values, slopes, jnp.maximum((own1 + own2) / 2 - values, 0.0)


def _once(a: Array) -> Array:
    """Several results use it: XLA would rather compute it, polynomials and all, for each of them again."""
    return jax.lax.optimization_barrier(a)
