"""erf and GELU, with duals in closed form; tanh, SiLU, ELU and the sigmoid, with duals by quadrature.

For erf let a_i = 1/(1 + 2q_i), r_i = √(1 − a_i), cos θ = ρ and c = r_1 r_2 cos θ. Then E[φφ] = (2/π) arcsin c (Williams
1997). If independent noise of variance ½ is added to u and to v, their correlation becomes c. For GELU the noise has
variance 1, and a_i = 1/(1 + q_i).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib.duals import arccos
from ntklib.duals.activation import Activation, Parts
from ntklib.duals.correlation import inverse, once, sqrt
from ntklib.duals.integrals import float_arrays
from ntklib.duals.rectified import sine_and_angle


def noisy(q12: Array, q1: Array, q2: Array, noise: float) -> tuple[Array, Array, Array]:
    """Return (√(a_1 a_2), c, 1 − c²) with a_i = noise/(noise + q_i) and c = q12/√((noise + q1)(noise + q2)).

    q1 and q2 are never multiplied, since the product could over- or underflow. Nothing cancels in
    1 − c² = a_1 + a_2 (1 − a_1) + (1 − a_1)(1 − a_2) sin² θ.
    """
    a1, a2 = (noise / (noise + q) for q in (q1, q2))
    b1, b2 = (q / (noise + q) for q in (q1, q2))
    scaled = q12 / (noise + q1) * sqrt((noise + q1) / (noise + q2))
    rho, _, _ = sine_and_angle(q12, q1, q2)
    squared = (1 - rho) * (1 + rho)
    # A value of sin² θ that may be only a rounding error is set to zero, but keeps its derivative, which is finite.
    exact = squared - jax.lax.stop_gradient(squared)
    squared = jnp.where(squared > 4 * jnp.finfo(rho.dtype).eps, squared, exact)
    rest = jnp.where((q1 > 0) & (q2 > 0), b1 * b2 * squared, 0.0)
    return jnp.sqrt(a1) * jnp.sqrt(a2), scaled, a1 + a2 * b1 + rest


def erf(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> tuple[Array, Array]:
    """Return the dual of erf(x), and not that of erf(x/√2).

    With D = (1 + 2 q1)(1 + 2 q2) − 4 q12²::

        E[φφ] = (2/π) arcsin(2 q12/√((1 + 2 q1)(1 + 2 q2))),  E[φ'φ'] = (4/π)/√D.

    Example:
        >>> [round(float(e), 4) for e in erf(0.5, 1.0, 1.0)]
        [0.2163, 0.4502]

    References:
        Williams 1997.
    """
    q12, q1, q2 = float_arrays(q12, q1, q2)
    root, c, squared = noisy(q12, q1, q2, 0.5)
    # arctan2(c, √(1 − c²)) is arcsin c, and keeps the digits that arcsin loses near c = ±1.
    return 2 / jnp.pi * jnp.arctan2(c, jnp.sqrt(squared)), 4 / jnp.pi * root / jnp.sqrt(squared)


def gelu(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> tuple[Array, Array]:
    """Return the dual of the exact GELU, x Φ(x), with Φ the distribution function of N(0, 1).

    With D = (1 + q1)(1 + q2) − q12² and P = E[Φ(u)Φ(v)] = 1/4 + arcsin(q12/√((1 + q1)(1 + q2)))/2π::

        E[φφ] = q12 P + (q1 q2 − q12² + q12²/(1 + q1) + q12²/(1 + q2)) / (2π√D),
        E[φ'φ'] = P + q12 (1/(1 + q1) + 1/(1 + q2) + 1/D) / (2π√D).

    In the derivation, Stein's identity turns the factors u and v into derivatives of Φ.

    Example:
        >>> [round(float(e), 4) for e in gelu(0.5, 1.0, 1.0)]
        [0.2273, 0.3423]
    """
    q12, q1, q2 = float_arrays(q12, q1, q2)
    both, c, squared = noisy(q12, q1, q2, 1.0)
    both, root = jnp.square(both), jnp.sqrt(squared)
    p = 0.25 + jnp.arctan2(c, root) / (2 * jnp.pi)
    a1, a2 = 1 / (1 + q1), 1 / (1 + q2)
    # The second term is (√(q1 q2) √(1 − c²) √((1 − a_1)(1 − a_2)) + q12 c a_1 a_2/√(1 − c²))/2π: nothing cancels.
    width = q1 / jnp.sqrt(1 + q1) * (q2 / jnp.sqrt(1 + q2)) * root
    values = q12 * p + (width + q12 * c * both / root) / (2 * jnp.pi)
    return values, p + c / (2 * jnp.pi * root) * (a1 + a2 + both / squared)


class _Arcs(NamedTuple):
    """Functions of c = p cos θ, with p = r_1 r_2. The angles ψ and ψ_0 have cos ψ = c and cos ψ_0 = p."""

    p: Array
    c: Array
    sine: Array  # sin ψ
    per_sine: Array  # 1/sin ψ
    sine0: Array  # sin ψ_0
    root: Array  # √(a_1 a_2)
    arc: Array  # ψ − ψ_0


def _arcs(d: Array, q1: Array, q2: Array, noise: float) -> _Arcs:
    """Return the `_Arcs` for 1 − cos θ = d.

    ψ − ψ_0 is computed from tan((ψ − ψ_0)/2) = (p − c)/(sin ψ + sin ψ_0) with p − c = p d, so that nothing cancels.
    Roots and divisions take most of the time, so sin ψ is computed as sin² ψ times 1/sin ψ, without a second root.
    """
    (r1, b1), (r2, b2) = once([(jnp.sqrt(q / (q + noise)), jnp.sqrt(noise / (q + noise))) for q in (q1, q2)])
    p, root = r1 * r2, b1 * b2
    rise = p * d
    u0 = root + (jnp.square(r1 - r2) + jnp.square(b1 - b2)) / 2  # 1 − p
    u = u0 + rise  # 1 − c
    squared, sine0 = u * (2 - u), jnp.sqrt(u0 * (2 - u0))
    per_sine = jax.lax.rsqrt(squared)
    sine = squared * per_sine
    return _Arcs(p, 1 - u, sine, per_sine, sine0, root, arccos.twice_arctan(rise / (sine + sine0)))


def _arcsine(x: Array, cosine: Array) -> Array:
    """Return arcsin x for x in [0, 1], given √(1 − x²)."""
    return arccos.from_root(x / jnp.sqrt(1 + cosine))


def _erf_parts(d: Array, q1: Array, q2: Array) -> Parts:
    k1, k2 = (erf(q, q, q)[0] for q in (q1, q2))
    arcs = _arcs(d, q1, q2, 0.5)
    r1, r2 = once([inverse(sqrt(k)) for k in (k1, k2)])
    scale = 2 / np.pi * (r1 * r2)
    start = scale * _arcsine(arcs.p, arcs.sine0)
    return Parts((0.0, scale * arcs.arc), (0.0, start), (0.0, 4 / np.pi * arcs.root * arcs.per_sine))


def _gelu_parts(d: Array, q1: Array, q2: Array) -> Parts:
    """Return the parts of GELU, φ = x/2 + x erf(x/√2)/2.

    The odd part is x/2. With the symbols of `_Arcs`, the expectation of the even part is √(q1 q2)/2π times::

        e(θ) = cos θ arcsin c + p sin ψ + p cos² θ a_1 a_2/sin ψ.

    For large variances e(θ) tends to cos θ (π/2 − θ) + sin θ, as for abs(x)/2. Let x = 1 − cos² θ = d (2 − d). Since
    sin ψ − sin ψ_0 = p² x/(sin ψ + sin ψ_0), the drop e(0) − e(θ) is computed as::

        ψ − ψ_0 + d arcsin c − p³ x/(sin ψ + sin ψ_0) + p a_1 a_2 x (1 + p²/((sin ψ + sin ψ_0) sin ψ_0))/sin ψ.

    For variances up to about 1 nothing cancels. For large ones the terms θ and sin θ nearly cancel near θ = 0, and the
    drop has a relative error of about ε/θ.
    """
    k1, k2 = (gelu(q, q, q)[0] for q in (q1, q2))
    arcs = _arcs(d, q1, q2, 1.0)
    s1, s2 = once([jnp.sqrt(q) * inverse(sqrt(k)) for q, k in ((q1, k1), (q2, k2))])
    unit = s1 * s2  # √(q1 q2)/√(k1 k2)
    a1, a2 = once([1 / (1 + q) for q in (q1, q2)])
    p, per_sine, both = arcs.p, arcs.per_sine, jnp.square(arcs.root)  # both = a_1 a_2
    arcsine = _arcsine(arcs.c, arcs.sine)
    x, sines = d * (2 - d), arcs.sine + arcs.sine0
    per_both = 1 / (sines * arcs.sine0)
    per_sines, per_sine0 = arcs.sine0 * per_both, sines * per_both
    fall = arcs.arc + d * arcsine - p**3 * x * per_sines
    fall = fall + p * both * x * per_sine * (1 + jnp.square(p) * per_both)
    start = arcsine + arcs.arc + p * arcs.sine0 + p * both * per_sine0
    slope = (arcsine + arcs.c * per_sine * (a1 + a2 + both * jnp.square(per_sine))) / (2 * np.pi)
    share = unit / (2 * np.pi)
    return Parts((share * fall, unit * d / 4), (share * start, unit / 4), (slope, 0.25))


@functools.cache
def erf_record() -> Activation:
    """Return the record of erf(x)."""
    fn, limits = jax.scipy.special.erf, (math.inf, math.inf)
    return Activation("erf", fn, erf, parts=_erf_parts, limits=limits, maker=f"{__name__}:erf_record")


@functools.cache
def gelu_record() -> Activation:
    """Return the record of GELU, x Φ(x)."""
    fn, limits = functools.partial(jax.nn.gelu, approximate=False), (math.inf, math.inf)
    return Activation("gelu", fn, gelu, parts=_gelu_parts, limits=limits, maker=f"{__name__}:gelu_record")


@functools.cache
def tanh_record() -> Activation:
    """Return the record of tanh(x)."""
    return Activation("tanh", jnp.tanh, maker=f"{__name__}:tanh_record")


@functools.cache
def silu_record() -> Activation:
    """Return the record of SiLU, x/(1 + exp(−x))."""
    return Activation("silu", jax.nn.silu, maker=f"{__name__}:silu_record")


@functools.cache
def elu_record() -> Activation:
    """Return the record of ELU, which is x for x > 0 and exp(x) − 1 for x ≤ 0."""
    return Activation("elu", jax.nn.elu, maker=f"{__name__}:elu_record")


@functools.cache
def sigmoid_record() -> Activation:
    """Return the record of the sigmoid, 1/(1 + exp(−x))."""
    return Activation("sigmoid", jax.nn.sigmoid, maker=f"{__name__}:sigmoid_record")
