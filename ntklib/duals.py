"""Dual activations: Gaussian expectations of an activation with itself.

For (u, v) centred Gaussian with variances q1, q2 and covariance q12, the dual of φ is the pair

    E[φ(u) φ(v)],  E[φ'(u) φ'(v)],

the two numbers an infinitely wide layer needs (Cho & Saul 2009; Daniely et al. 2016). Every function here takes arrays
`(q12, q1, q2)` that broadcast against each other and returns the pair. The second member is the derivative of the first
with respect to q12 (Price's theorem), for every activation.

Degenerate points. With |ρ| = |q12|/√(q1 q2) = 1, which is every diagonal of a Gram matrix, the angle θ = arccos ρ has
infinite slope, and with q1 = 0 (a zero input) ρ is undefined. The values are right there and the derivatives finite:
where θ' is infinite it is replaced by 0, which is exact along every path that stays on |ρ| = 1, such as k(x, x) as x
moves.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Scalar = Callable[[Array], Array]
Pair = tuple[Array, Array]


def _float_arrays(*values: ArrayLike) -> tuple[Array, ...]:
    dtype = jnp.result_type(*values)
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
    return tuple(jnp.asarray(v, dtype) for v in values)


def sqrt(x: Array) -> Array:
    """√max(x, 0) with derivative 0, not ∞, where x ≤ 0."""
    inside = x > 0
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, x, 1.0)), 0.0)


def _sine_and_angle(q12: Array, q1: Array, q2: Array) -> Pair:
    """√(q1 q2) sin θ and θ = arccos(q12/√(q1 q2)) in [0, π], without dividing by a variance that may be zero (there
    θ = π/2).

    sin² is a difference whose rounding error is a few ε q1 q2; below that |ρ| = 1 is meant. Without this, equal inputs
    whose q12 is rounded otherwise than their variances would get θ ≈ √ε, 3e-4 in float32, in place of 0.
    """
    squared = q1 * q2 - q12**2
    sin = sqrt(jnp.where(squared > 4 * jnp.finfo(q12.dtype).eps * q1 * q2, squared, 0.0))
    inside = sin > 0
    edge = jnp.where(q12 > 0, 0.0, jnp.where(q12 < 0, jnp.pi, jnp.pi / 2)).astype(q12.dtype)
    return sin, jnp.where(inside, jnp.arctan2(jnp.where(inside, sin, 1.0), jnp.where(inside, q12, 0.0)), edge)


def leaky_relu(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, slope: float = 0.0) -> Pair:
    """Dual of φ(x) = x for x > 0, `slope`·x otherwise; slope 0 is ReLU, −1 is the absolute value, 1 the identity.

    With θ = arccos(q12/√(q1 q2)), the ReLU part is E = √(q1 q2) (sin θ + (π − θ) cos θ)/2π and E' = (π − θ)/2π; since
    φ(x) = relu(x) − a·relu(−x), the dual is (1 + a²) relu(q12) − 2a relu(−q12), and likewise for the slopes with + 2a.
    The second member has a square-root cusp at |ρ| = 1: it is exact there, and good to √ε for pairs as
    near as 1 − ρ = ε.

    >>> [round(float(e), 4) for e in leaky_relu(0.5, 1.0, 1.0)]
    [0.3045, 0.3333]
    """
    q12, q1, q2 = _float_arrays(q12, q1, q2)
    sin, theta = _sine_and_angle(q12, q1, q2)
    a, pi = slope, jnp.pi
    values = (1 - a) ** 2 / (2 * pi) * (sin - theta * q12) + (1 + a**2) / 2 * q12
    slopes = (1 + a**2) / 2 - (1 - a) ** 2 / (2 * pi) * theta
    return values, slopes


def relu(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> Pair:
    """Dual of max(x, 0), the arc-cosine kernels of order 1 and 0 (Cho & Saul 2009), halved.

    >>> [round(float(e), 4) for e in relu(1.0, 1.0, 1.0)]
    [0.5, 0.5]
    """
    return leaky_relu(q12, q1, q2, slope=0.0)


def abs(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> Pair:
    """Dual of |x|: leaky ReLU with slope −1."""
    return leaky_relu(q12, q1, q2, slope=-1.0)


def identity(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> Pair:
    """Dual of φ(x) = x: the covariance itself, and 1."""
    q12, q1, q2 = _float_arrays(q12, q1, q2)
    q12 = q12 + jnp.zeros_like(q1 * q2)  # the shape that the others return
    return q12, jnp.ones_like(q12)


def erf(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> Pair:
    """Dual of erf(x), not erf(x/√2) (Williams 1997): with D = (1 + 2 q1)(1 + 2 q2) − 4 q12²,

    E[φφ] = (2/π) arcsin(2 q12/√((1 + 2 q1)(1 + 2 q2))),  E[φ'φ'] = (4/π)/√D.

    >>> [round(float(e), 4) for e in erf(0.5, 1.0, 1.0)]
    [0.2163, 0.4502]
    """
    q12, q1, q2 = _float_arrays(q12, q1, q2)
    d = (1 + 2 * q1) * (1 + 2 * q2) - 4 * q12**2  # ≥ 1: no degenerate point
    # arctan2 of (2 q12, √D) is the arcsin, without its cancellation near ±1.
    return 2 / jnp.pi * jnp.arctan2(2 * q12, jnp.sqrt(d)), 4 / jnp.pi / jnp.sqrt(d)


def gelu(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> Pair:
    """Dual of x Φ(x), Φ the normal distribution function (the exact GELU, not its tanh approximation).

    With D = (1 + q1)(1 + q2) − q12² and P = E[Φ(u)Φ(v)] = 1/4 + arcsin(q12/√((1 + q1)(1 + q2)))/2π,

        E[φφ] = q12 P + (q1 q2 − q12² + q12²/(1 + q1) + q12²/(1 + q2)) / (2π√D),
        E[φ'φ'] = P + q12 (1/(1 + q1) + 1/(1 + q2) + 1/D) / (2π√D),

    by Stein's identity, and Gaussian integrals with precision shifted by one in each direction that holds a density.

    >>> [round(float(e), 4) for e in gelu(0.5, 1.0, 1.0)]
    [0.2273, 0.3423]
    """
    q12, q1, q2 = _float_arrays(q12, q1, q2)
    d = (1 + q1) * (1 + q2) - q12**2
    both = 0.25 + jnp.arctan2(q12, jnp.sqrt(d)) / (2 * jnp.pi)
    inverse = 1 / (1 + q1) + 1 / (1 + q2)
    density = 1 / (2 * jnp.pi * jnp.sqrt(d))
    values = q12 * both + density * (q1 * q2 - q12**2 + q12**2 * inverse)
    return values, both + density * q12 * (inverse + 1 / d)


def sin(q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, frequency: float = 1.0) -> Pair:
    """Dual of sin(ωx), ω = `frequency`: exp(−ω²(q1 + q2)/2) sinh(ω² q12), and ω² times the same with cosh.

    >>> [round(float(e), 4) for e in sin(0.5, 1.0, 1.0)]
    [0.1917, 0.4148]
    """
    w2 = frequency**2
    q12, q1, q2 = _float_arrays(q12, q1, q2)
    # The two exponentials apart: exp(-q) sinh(q) overflows in sinh long before the product is large.
    minus, plus = (jnp.exp(-w2 * ((q1 + q2) / 2 + sign * q12)) for sign in (-1, 1))
    return (minus - plus) / 2, w2 * (minus + plus) / 2


# ---------------------------------------------------------------------------------------------------- quadrature

NODES_FLOAT64, NODES_FLOAT32 = (40, 24), (24, 16)  # radial, angular in each sector


def _nodes(radial: int, angular: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes on 0 ≤ r ≤ 9 with the weight r exp(−r²/2), and on 0 ≤ s ≤ 1."""
    r, w = np.polynomial.legendre.leggauss(radial)
    r, w = 4.5 * (r + 1.0), 4.5 * w  # the tail beyond 9 weighs exp(−40)
    s, ws = np.polynomial.legendre.leggauss(angular)
    return r, w * r * np.exp(-(r**2) / 2), (s + 1) / 2, ws / 2


def expectation(
    f: Scalar,
    g: Scalar,
    q12: ArrayLike,
    q1: ArrayLike,
    q2: ArrayLike,
    *,
    nodes: tuple[int, int] | None = None,
) -> Array:
    """The expectation E[f(u) g(v)] by quadrature, for f and g smooth on either side of zero (a kink or jump at zero
    costs nothing).

    In polar coordinates of the plane in which u and v are linear, u = √q1 r cos(α − θ/2), v = √q2 r cos(α + θ/2), the
    lines u = 0 and v = 0 are rays. Gauss–Legendre in r and within each of the four sectors between the rays never
    meets the kink and converges exponentially; two sectors vanish smoothly as |ρ| → 1.

    Error of the dual and of its slope, relative to the largest entry, for tanh, SiLU, ELU, sigmoid, erf and ReLU: in
    float64 (40 radii, 24 angles a sector) below 2e-8 for variances up to 4 and 1e-5 up to 20; in float32 (24 and 16)
    below 1e-5 for variances up to 4. `nodes=(radial, angular)` buys more. Memory: about eight times the result,
    whatever the nodes.

    Derivatives need f' and g' only, also at kinks:  ∂/∂q12 = E[f'(u) g'(v)]  and
    ∂/∂q1 = (E[u f'(u) g(v)] − q12 E[f'(u) g'(v)]) / 2 q1, taken as 0 at q1 = 0.
    """
    arrays = jnp.broadcast_arrays(*_float_arrays(q12, q1, q2))
    default = NODES_FLOAT64 if arrays[0].dtype == jnp.float64 else NODES_FLOAT32
    return _expectation(f, g, nodes or default, *arrays)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _expectation(f: Scalar, g: Scalar, nodes: tuple[int, int], q12: Array, q1: Array, q2: Array) -> Array:
    r, wr, s, ws = _nodes(*nodes)
    s1, s2 = sqrt(q1), sqrt(q2)
    _, theta = _sine_and_angle(q12, q1, q2)
    pi = jnp.pi
    # Sectors, by angle α: u > 0 < v; v > 0 > u; and their mirror images, reached by (u, v) → (−u, −v).
    # The first has width π − θ around α = 0, the second width θ around α = π/2.
    sectors = [(-(pi - theta) / 2, pi - theta), ((pi - theta) / 2, theta)]

    def at(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        fraction, weight = node  # one angle in each sector, all radii one after the other
        for start, width in sectors:
            alpha = start + fraction * width
            u, v = s1 * jnp.cos(alpha + theta / 2), s2 * jnp.cos(alpha - theta / 2)

            def along(i: Array, ray: Array, u: Array = u, v: Array = v) -> Array:
                rad = radii[i]
                return ray + weights[i] * (f(rad * u) * g(rad * v) + f(-rad * u) * g(-rad * v))

            ray = jax.lax.fori_loop(0, len(r), along, jnp.zeros_like(total), unroll=4)
            total = total + weight * width * ray
        return total, None

    radii, weights = jnp.asarray(r, q12.dtype), jnp.asarray(wr / (2 * np.pi), q12.dtype)
    angles = (jnp.asarray(s, q12.dtype), jnp.asarray(ws, q12.dtype))
    return jax.lax.scan(at, jnp.zeros_like(q12), angles)[0]


@_expectation.defjvp
def _expectation_jvp(f: Scalar, g: Scalar, nodes: tuple[int, int], primals: tuple, tangents: tuple) -> Pair:
    q12, q1, q2 = primals
    d12, d1, d2 = tangents
    df, dg = derivative(f), derivative(g)
    slope = _expectation(df, dg, nodes, q12, q1, q2)
    out = slope * d12
    for first, second, q, dq in ((_times_x(df), g, q1, d1), (f, _times_x(dg), q2, d2)):
        own = _expectation(first, second, nodes, q12, q1, q2) - q12 * slope
        out = out + jnp.where(q > 0, own / jnp.where(q > 0, 2 * q, 1.0), 0.0) * dq
    return _expectation(f, g, nodes, q12, q1, q2), out


@functools.cache
def derivative(f: Scalar) -> Scalar:
    """The derivative f' of a scalar function, elementwise on arrays (cached, so that equal calls compile once)."""

    def df(x: Array) -> Array:
        return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    return df


@functools.cache
def _times_x(f: Scalar) -> Scalar:
    return lambda x: x * f(x)


def quadrature(
    f: Scalar, q12: ArrayLike, q1: ArrayLike, q2: ArrayLike, *, nodes: tuple[int, int] | None = None
) -> Pair:
    """Dual of any scalar function by quadrature: (E[f f], E[f' f']). For accuracy see `expectation`.

    >>> [round(float(e), 4) for e in quadrature(jnp.tanh, 0.5, 1.0, 1.0)]
    [0.1863, 0.3847]
    """
    values = expectation(f, f, q12, q1, q2, nodes=nodes)
    return values, expectation(derivative(f), derivative(f), q12, q1, q2, nodes=nodes)
