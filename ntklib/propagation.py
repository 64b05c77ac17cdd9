"""What one layer of an infinitely wide network does to variances and correlations, accurate next to ρ = 1.

For one activation φ, weights of variance σ_w² per fan-in and biases of variance σ_b²,

    q' = V(q) = σ_b² + σ_w² E[φ(√q Z)²],   q' c' = σ_b² + σ_w² E[φ(u) φ(v)],  (u, v) ~ N(0, q [[1, c], [c, 1]]).

Deep networks bring c so near to 1 that 1 − c keeps no digits. Everything here is therefore in δ = 1 − c:

    q' δ' = σ_w² E[(φ(u) − φ(v))²]/2,

computed without cancellation, by a closed form where there is one, else by quadrature. Needs float64.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks, duals
from ntklib.layers import Elementwise

Scalar = Callable[[Array], Array]
#: (q, δ) -> (E[(φ(u) − φ(v))²]/2δ, E[φ'(u)φ'(v)]): the first is the factor by which a layer with σ_w = 1 multiplies qδ.
Pair = Callable[[Array, Array], tuple[Array, Array]]

_NODES = 320  # on each half-line
_PLANE = (64, 64)  # radii, and angles in each sector


def variance_map(activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, q: ArrayLike) -> Array:
    """V(q) = σ_b² + σ_w² E[φ(√q Z)²], the variance after an activation and an affine layer; arguments broadcast.

    By 320 Gauss–Legendre nodes on each half-line: kinks at zero cost nothing, and the error is below 1e-12 for the
    library's activations and q ≤ 20. Source: Poole et al. 2016.

    >>> with jax.enable_x64(True):
    ...     round(float(variance_map(Elementwise(jax.nn.relu), 1.5, 0.1, 2.0)), 12)
    2.26
    """
    fn, (w, b, q) = checked(activation, w_std=w_std, b_std=b_std, q=q)
    return b**2 + w**2 * mean(square(fn), q)


def correlation_map(
    activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, c: ArrayLike, *, q: ArrayLike
) -> Array:
    """Correlation after an activation and an affine layer, of two inputs of variance q and correlation c:

        c' = (σ_b² + σ_w² E[φ(u) φ(v)]) / V(q).

    With q the fixed point of the variance map (`depth_scales(...).q`) it is the map f of the theory, f(1) = 1 and
    f'(1) = χ_1. Arguments broadcast. Source: Poole et al. 2016.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):
    ...     round(float(correlation_map(ntk.Relu(), 2**0.5, 0.0, 0.0, q=1.0)), 6)  # 1/π
    0.31831
    """
    _in_range("c", c, -1.0, 1.0)
    return 1 - decorrelation_map(activation, w_std, b_std, 1 - jnp.asarray(c), q=q)


def decorrelation_map(
    activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, delta: ArrayLike, *, q: ArrayLike
) -> Array:
    """The correlation map in δ = 1 − c: δ' = σ_w² E[(φ(u) − φ(v))²]/2V(q), to full relative precision however small δ.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):  # off the critical line δ is multiplied by χ_1 = σ_w²/2
    ...     float(decorrelation_map(ntk.Relu(), 1.0, 0.1**0.5, 1e-40, q=0.2)) * 1e40
    0.5...
    """
    _in_range("delta", delta, 0.0, 2.0)
    fn, (w, b, delta, q) = checked(activation, w_std=w_std, b_std=b_std, delta=delta, q=q)
    gap, _ = over(pair(activation), q, delta)
    return w**2 * gap * q * delta / (b**2 + w**2 * mean(square(fn), q))


def chi(activation: Elementwise, w_std: ArrayLike, *, q: ArrayLike, delta: ArrayLike = 0.0) -> Array:
    """χ = σ_w² E[φ'(u) φ'(v)] for u, v of variance q and correlation 1 − δ: by what a layer multiplies the NTK on its
    way, gradients on theirs, and, at a fixed point of the correlation map, what is left of a deviation from it. At
    δ = 0 it is χ_1, whose comparison with 1 gives the phase. Source: Schoenholz et al. 2017.

    >>> import ntklib as ntk
    >>> with jax.enable_x64(True):
    ...     float(chi(ntk.LeakyRelu(0.5), 1.0, q=3.0))
    0.625
    """
    _in_range("delta", delta, 0.0, 2.0)
    w, q, delta = checked(activation, w_std=w_std, q=q, delta=delta)[1]
    return w**2 * over(pair(activation), q, delta)[1]


def checked(activation: Any, **values: ArrayLike) -> tuple[Scalar, list[Array]]:
    """φ and the other arguments as float64 arrays of one shape; refuses what is negative, float32 mode and no scalar
    activation.
    """
    _checks.instance("activation", activation, Elementwise, "such as ntklib.Tanh() or ntklib.Elementwise(jnp.arctan)")
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "Signal propagation over many layers needs float64: call jax.config.update('jax_enable_x64', True) at the "
            "start, or wrap the call in `with jax.enable_x64(True):`."
        )
    arrays = []
    for name, value in values.items():
        value = jnp.asarray(value, jnp.float64)
        if not _checks.is_traced(value):
            known = np.asarray(value)  # NumPy's: inside a trace, operations on JAX arrays are traced as well
            low = float(known.min())
            if not np.isfinite(known).all() or low < 0:
                raise ValueError(f"`{name}` must be finite and not negative; got {low:g}.")
        arrays.append(value)
    return activation.fn, list(jnp.broadcast_arrays(*arrays))


def _in_range(argument: str, value: ArrayLike, low: float, high: float) -> None:
    if not _checks.is_traced(value) and not bool(np.all((np.asarray(value) >= low) & (np.asarray(value) <= high))):
        raise ValueError(f"`{argument}` must lie between {low:g} and {high:g}; got {np.asarray(value).tolist()}.")


# ------------------------------------------------------------------------------------------------- one variable


@functools.partial(jax.jit, static_argnums=0)
def mean(f: Scalar, q: Array) -> Array:
    """E[f(√q Z)] for an array of variances, f smooth on either side of zero."""
    x, weights = np.polynomial.legendre.leggauss(_NODES)
    z, weights = 5.0 * (x + 1.0), 5.0 * weights  # 0 ≤ z ≤ 10, beyond which the Gaussian weighs exp(−50)
    weights = jnp.asarray(weights * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))

    def one(q: Array) -> Array:
        x = jnp.sqrt(q) * jnp.asarray(z)
        return jnp.sum(weights * (f(x) + f(-x)))

    return over(one, q)


@functools.cache
def square(f: Scalar) -> Scalar:
    """f², the same object for the same f."""
    return lambda x: f(x) ** 2


@functools.partial(jax.jit, static_argnums=0)
def over(f: Callable, *arrays: Array) -> Any:
    """A function of numbers at each entry of arrays that broadcast, a few entries at a time."""
    arrays = tuple(jnp.broadcast_arrays(*arrays))
    if arrays[0].ndim == 0:
        return f(*arrays)
    flat = jax.lax.map(lambda entries: f(*entries), tuple(a.ravel() for a in arrays), batch_size=16)
    return jax.tree.map(lambda out: out.reshape(arrays[0].shape), flat)


# ------------------------------------------------------------------------------------------------- two variables


def pair(activation: Elementwise, nodes: tuple[int, int] = _PLANE) -> Pair:
    """The two numbers of `Pair` as a function of the numbers (q, δ), in closed form for leaky ReLUs, erf and sin."""
    dual, keywords = activation.dual, {}
    if isinstance(dual, functools.partial):
        dual, keywords = dual.func, dual.keywords
    if dual in (duals.relu, duals.leaky_relu, duals.abs, duals.identity):
        slopes: dict[Any, float] = {duals.relu: 0.0, duals.abs: -1.0, duals.identity: 1.0}
        return _leaky_relu(slopes[dual] if dual in slopes else keywords["slope"])
    if dual is duals.erf:
        return _erf
    if dual is duals.sin:
        return _sin(keywords.get("frequency", 1.0))
    return _quadrature(activation.fn, nodes)


@functools.cache
def _leaky_relu(a: float) -> Pair:
    """With θ = 2 arcsin √(δ/2): E[(φ(u) − φ(v))²]/2q = ((1 + a²)δ − (1 − a)² (sin θ − θ cos θ)/π)/2."""

    def numbers(q: Array, delta: Array) -> tuple[Array, Array]:
        theta = 2 * jnp.arcsin(duals.sqrt(jnp.clip(delta / 2, 0.0, 1.0)))
        # sin θ − θ cos θ = θ³ (1/3 − θ²/30 + θ⁴/840 − θ⁶/45360 + …), over δ = 2 sin²(θ/2).
        near = theta < 0.1
        t2 = theta**2
        series = theta * t2 * (1 / 3 - t2 * (1 / 30 - t2 * (1 / 840 - t2 / 45360)))
        bend = jnp.where(near, series, jnp.sin(theta) - theta * jnp.cos(theta))
        bend = jnp.where(delta > 0, bend / jnp.where(delta > 0, delta, 1.0), 0.0)
        gap = (1 + a**2) / 2 - (1 - a) ** 2 / (2 * jnp.pi) * bend
        return gap, (1 + a**2) / 2 - (1 - a) ** 2 / (2 * jnp.pi) * theta

    return numbers


def _erf(q: Array, delta: Array) -> tuple[Array, Array]:
    """By arcsin a − arcsin b = arctan2(a √(1−b²) − b √(1−a²), √(1−a²)√(1−b²) + ab), with a = 2q/(1+2q), b = a(1 − δ),
    and the first argument as a²δ(2 − δ)/(a √(1−b²) + b √(1−a²)) where b > 0.
    """
    a = 2 * q / (1 + 2 * q)
    b = a * (1 - delta)
    root_a, root_b = jnp.sqrt(1 + 4 * q) / (1 + 2 * q), jnp.sqrt((1 - b) * (1 + b))
    forward = b > 0
    small = a * (2 - delta) / jnp.where(forward, root_b + (1 - delta) * root_a, 1.0)  # over δ
    positive = delta > 0
    safe = jnp.where(positive, delta, 1.0)
    sine = jnp.where(forward, delta * small, a * root_b - b * root_a)
    angle = jnp.arctan2(sine, root_a * root_b + a * b) / safe
    angle = jnp.where(positive, angle, small)  # at δ = 0 the cosine is 1
    gap = 2 / jnp.pi * angle / jnp.where(q > 0, q, 1.0)
    slope = 4 / jnp.pi / jnp.sqrt((1 + 2 * q * delta) * (1 + 4 * q - 2 * q * delta))
    return jnp.where(q > 0, gap, 4 / jnp.pi), slope


@functools.cache
def _sin(w: float) -> Pair:
    """e^(−Q)(sinh Q − sinh Qc) = 2 e^(−Q) cosh(Q(1+c)/2) sinh(Qδ/2), with Q = ω²q."""

    def numbers(q: Array, delta: Array) -> tuple[Array, Array]:
        big = w**2 * q
        x = big * delta / 2
        positive = x > 0
        # e^(−Q) 2 cosh(Q − x) sinh(x) = (1 − e^(−2x))(1 + e^(−2(Q − x)))/2
        rise = jnp.where(positive, -jnp.expm1(-2 * x) / jnp.where(positive, x, 1.0), 2.0) * w**2 / 2
        gap = rise * (1 + jnp.exp(-2 * (big - x))) / 2
        slope = w**2 * (jnp.exp(-2 * x) + jnp.exp(-2 * (big - x))) / 2
        return gap, slope

    return numbers


@functools.cache
def _quadrature(f: Scalar, nodes: tuple[int, int]) -> Pair:
    """In polar coordinates of the plane, u = m + b and v = m − b with m = √q r cos α cos(θ/2), b = √q r sin α sin(θ/2)
    and δ = 2 sin²(θ/2): u and v have one sign in a sector of width π − θ and opposite signs in one of width θ, and the
    mirror images of both. (φ(u) − φ(v))²/2δ = q r² sin²α ((φ(u) − φ(v))/2b)², whose quotient tends to φ'(m).
    """
    r, wr = np.polynomial.legendre.leggauss(nodes[0])
    r, wr = 4.75 * (r + 1), 4.75 * wr
    radii, weights = r[:, None], (wr * r * np.exp(-(r**2) / 2) / (2 * np.pi))[:, None]
    x, wx = np.polynomial.legendre.leggauss(nodes[1])
    fractions, shares = (x + 1)[None] / 2, wx[None] / 2
    both = lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))  # noqa: E731

    def numbers(q: Array, delta: Array) -> tuple[Array, Array]:
        half_sin = duals.sqrt(jnp.clip(delta / 2, 0.0, 1.0))
        half_cos = duals.sqrt(1 - half_sin**2)
        theta = 2 * jnp.arctan2(half_sin, half_cos)
        gap = slope = jnp.zeros(())
        for start, width, same in (
            (-(jnp.pi - theta) / 2, jnp.pi - theta, True),
            ((jnp.pi - theta) / 2, theta, False),
        ):
            alpha = start + fractions * width
            m = jnp.sqrt(q) * radii * jnp.cos(alpha) * half_cos
            rise = jnp.sqrt(q) * radii * jnp.sin(alpha)
            b = rise * half_sin
            weight = weights * shares * width
            near = jnp.abs(b) < 5e-6  # below, the quotient's rounding error is larger than its distance to its limit
            for sign in (1.0, -1.0):
                u, v = sign * (m + b), sign * (m - b)
                (fu, du), (fv, dv) = both(u), both(v)
                limit = (du + dv) / 2 if same else (u * du - v * dv) / jnp.where(b == 0, 1.0, 2 * sign * b)
                quotient = jnp.where(near, limit, (fu - fv) / jnp.where(near, 1.0, 2 * sign * b))
                gap += jnp.sum(weight * (rise * quotient) ** 2)
                slope += jnp.sum(weight * du * dv)
        return gap / jnp.where(q > 0, q, 1.0), slope

    return numbers
