"""What one layer of an infinitely wide network does to variances and correlations, accurate near the correlation 1.

Two inputs have the variance q and the correlation c. After an activation φ and an affine layer, they have the variance
q' and the correlation c'. With weights of variance σ_w²/fan-in, biases of variance σ_b², and Z ~ N(0, 1)::

    q' = V(q) = σ_b² + σ_w² E[φ(√q Z)²],   q' c' = σ_b² + σ_w² E[φ(u) φ(v)],  (u, v) ~ N(0, q [[1, c], [c, 1]]).

In deep networks c comes so near to 1 that the floating-point number c keeps no digits of 1 − c. Therefore all functions
here compute with δ = 1 − c::

    q' δ' = σ_w² E[(φ(u) − φ(v))²]/2.

The right side is computed without cancellation, by a closed form if there is one, and by quadrature if there is none.
All functions need float64.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.duals import correlation
from ntklib.duals.activation import Activation
from ntklib.duals.correlation import sqrt
from ntklib.duals.integrals import crowded, derivative, jump, line
from ntklib.layers import Elementwise

ScalarFunction = Callable[[Array], Array]
#: A function (q, δ) -> (drop, slope), with slope = E[φ'(u)φ'(v)] and drop = E[(φ(u) − φ(v))²]/(2qδ). The drop is the
#: factor by which a layer with σ_w = 1 multiplies qδ.
DropAndSlope = Callable[[Array, Array], tuple[Array, Array]]

_LINE = (1e-15, 0.05)  # the arguments of `line`: the smallest node, and the step
PLANE = (64, 64)  # the numbers of quadrature nodes: radii, and angles in each sector
_PLAIN, _WIDE = 1e4, 1e12  # the largest variances for which `PLANE`, and 128 x 96 nodes, are enough


def variance_map(activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, q: ArrayLike) -> Float[Array, "..."]:
    """Return the variance after an activation and an affine layer.

    With Z ~ N(0, 1)::

        V(q) = σ_b² + σ_w² E[φ(√q Z)²].

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared.
        q: The variance before the activation, not negative. The three numbers broadcast.

    Returns:
        V(q), of the broadcast shape.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if another argument does not hold real numbers.
        ValueError: If a number is negative or not finite, if the shapes do not broadcast, if float64 is off, or if the
            mean cannot be computed accurately at such a variance.

    Example:
        >>> with jax.enable_x64(True):
        ...     round(float(variance_map(Elementwise(jax.nn.relu), 1.5, 0.1, 2.0)), 12)
        2.26

    Note:
        The mean is computed by a quadrature rule on each half-line. Its nodes are dense near zero, and a kink at zero
        does no harm. For the library's activations the relative error is below 1e-12 up to q = 1e4, with three
        exceptions. Sines and cosines have this accuracy up to q = 800/frequency², and larger variances raise an error.
        Exponentials have it up to q = 6/rate², and polynomials up to degree 20. Beyond, the error grows, and not every
        inaccurate result raises an error.

    References:
        Poole et al. 2016.
    """
    fn, (w, b, q) = checked(activation, w_std=w_std, b_std=b_std, q=q)
    require_smooth(activation, q)
    return b**2 + w**2 * mean(square(fn), q)


def correlation_map(
    activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, c: ArrayLike, *, q: ArrayLike
) -> Float[Array, "..."]:
    """Return the correlation of two inputs after an activation and an affine layer.

    For Gaussian u, v of variance q and correlation c::

        c' = (σ_b² + σ_w² E[φ(u) φ(v)]) / V(q).

    In the theory of deep networks, q is the fixed point of the variance map, `depth_scales(...).q`. The map then has
    the slope χ_1 at c = 1.

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared.
        c: The correlation before the activation, between −1 and 1.
        q: The variance before the activation, not negative. The four numbers broadcast.

    Returns:
        c', of the broadcast shape; nan where V(q) is 0.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if another argument does not hold real numbers.
        ValueError: If a number is out of range or not finite, if the shapes do not broadcast, if float64 is off, or if
            the means cannot be computed accurately at such a variance.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):
        ...     round(float(correlation_map(ntk.Relu(), 2**0.5, 0.0, 0.0, q=1.0)), 6)  # 1/π
        0.31831

    References:
        Poole et al. 2016.

    See Also:
        `decorrelation_map`, which keeps all digits near c = 1.
    """
    in_range("c", c, -1.0, 1.0)
    return 1 - decorrelation_map(activation, w_std, b_std, 1 - jnp.asarray(c), q=q)


def decorrelation_map(
    activation: Elementwise, w_std: ArrayLike, b_std: ArrayLike, delta: ArrayLike, *, q: ArrayLike
) -> Float[Array, "..."]:
    """Return δ' = 1 − c' of two inputs after an activation and an affine layer, from δ = 1 − c before them.

    This is the correlation map in other variables. For Gaussian u, v of variance q and correlation 1 − δ::

        δ' = σ_w² E[(φ(u) − φ(v))²] / (2 V(q)).

    The relative precision of δ' does not depend on how small δ is.

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        b_std: σ_b ≥ 0, not squared.
        delta: δ before the activation, between 0 and 2.
        q: The variance before the activation, not negative. The four numbers broadcast.

    Returns:
        δ', of the broadcast shape; nan where V(q) is 0.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if another argument does not hold real numbers.
        ValueError: If a number is out of range or not finite, if the shapes do not broadcast, if float64 is off, or if
            the means cannot be computed accurately at such a variance.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):  # q is the fixed point, where a small δ is multiplied by χ_1 = σ_w²/2
        ...     float(decorrelation_map(ntk.Relu(), 1.0, 0.1**0.5, 1e-40, q=0.2)) * 1e40
        0.5...

    See Also:
        `correlation_map`.
    """
    in_range("delta", delta, 0.0, 2.0)
    fn, (w, b, delta, q) = checked(activation, w_std=w_std, b_std=b_std, delta=delta, q=q)
    require_smooth(activation, q)
    drop, _ = over(drop_and_slope(activation, enough_nodes(activation, q)), q, delta)
    return w**2 * drop * q * delta / (b**2 + w**2 * mean(square(fn), q))


def chi(activation: Elementwise, w_std: ArrayLike, *, q: ArrayLike, delta: ArrayLike = 0.0) -> Float[Array, "..."]:
    """Return χ = σ_w² E[φ'(u) φ'(v)] for Gaussian u, v of variance q and correlation 1 − δ.

    A layer multiplies the NTK of the layers before it by χ, and squared gradient norms by χ at δ = 0. If q is the fixed
    point of the variance map, χ is the slope of the correlation map. At a fixed point of both maps, a layer multiplies
    small deviations of the correlation from its fixed point by χ. At δ = 0, χ is then χ_1, which is below 1 in the
    ordered phase and above 1 in the chaotic phase. If φ jumps at zero (sign), only the first sentence holds: φ' leaves
    out the jump, and the slope of the correlation map at c = 1 is infinite.

    Args:
        activation: φ.
        w_std: σ_w ≥ 0, not squared.
        q: The variance before the activation, not negative.
        delta: δ before the activation, between 0 and 2. The three numbers broadcast.

    Returns:
        χ, of the broadcast shape.

    Raises:
        TypeError: If `activation` is not an `Elementwise`, or if another argument does not hold real numbers.
        ValueError: If a number is out of range or not finite, if the shapes do not broadcast, if float64 is off, or if
            the means cannot be computed accurately at such a variance.

    Example:
        >>> import ntklib as ntk
        >>> with jax.enable_x64(True):
        ...     float(chi(ntk.LeakyRelu(0.5), 1.0, q=3.0))
        0.625

    References:
        Schoenholz et al. 2017.
    """
    in_range("delta", delta, 0.0, 2.0)
    w, q, delta = checked(activation, w_std=w_std, q=q, delta=delta)[1]
    require_smooth(activation, q)
    return w**2 * over(drop_and_slope(activation, enough_nodes(activation, q)), q, delta)[1]


def checked(activation: Any, **values: ArrayLike) -> tuple[ScalarFunction, list[Array]]:
    """Return φ, and the other arguments as float64 arrays of one shape.

    Raises:
        TypeError: If the activation is not an `Elementwise`, or if another argument does not hold real numbers.
        ValueError: If an argument is negative, not finite or empty, if the shapes do not broadcast, or if float64 is
            off.
    """
    _checks.instance("activation", activation, Elementwise, "such as ntklib.Tanh() or ntklib.Elementwise(jnp.arctan)")
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "Signal propagation over many layers needs float64: call jax.config.update('jax_enable_x64', True) at the "
            "start, or wrap the call in `with jax.enable_x64(True):`."
        )
    arrays = []
    for name, value in values.items():
        if value is None or isinstance(value, (str, bytes)):
            raise TypeError(f"`{name}` must be a real number, or an array of them; got {_checks.shown(value)}.")
        value = _checks.plain(name, value)
        _checks.not_empty(name, value)
        if value.dtype == bool or jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise TypeError(f"`{name}` must be a real number, or an array of them; got {value.dtype}.")
        value = jnp.asarray(value, jnp.float64)
        if not _checks.is_traced(value):
            known = np.asarray(value)  # NumPy, because inside of `jit` operations on JAX arrays are traced as well
            wrong = known[~(np.isfinite(known) & (known >= 0))]
            if wrong.size:
                raise ValueError(f"`{name}` must be finite and not negative; got {wrong[0]:g}.")
        arrays.append(value)
    try:
        return activation.fn, list(jnp.broadcast_arrays(*arrays))
    except ValueError as error:
        shapes = ", ".join(f"`{name}` {a.shape}" for name, a in zip(values, arrays, strict=True))
        raise ValueError(
            f"Shapes must broadcast; got {shapes}. For a grid: `w_std[:, None]`, `b_std[None]`."
        ) from error


def in_range(argument: str, value: Any, low: float, high: float) -> None:
    """Refuse numbers that are not between `low` and `high`, and complex numbers."""
    value = _checks.plain(argument, value)
    _checks.not_empty(argument, value)
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"`{argument}` must be a real number, or an array of them; got {value.dtype}.")
    if not _checks.is_traced(value) and not bool(np.all((np.asarray(value) >= low) & (np.asarray(value) <= high))):
        raise ValueError(f"`{argument}` must lie between {low:g} and {high:g}; got {np.asarray(value).tolist()}.")


# ------------------------------------------------------------------------------------------------- one variable


@functools.partial(jax.jit, static_argnums=(0, 2))
def mean(f: ScalarFunction, q: Array, step: float = _LINE[1]) -> Array:
    """Return E[f(√q Z)] for each variance q of an array. f must be smooth on either side of zero."""
    z, weights = line(_LINE[0], step)

    def one(q: Array) -> Array:
        x = jnp.sqrt(q) * jnp.asarray(z)
        return jnp.sum(jnp.asarray(weights / 2) * (f(x) + f(-x)))

    return over(one, q)


def require_smooth(activation: Elementwise, q: Array) -> None:
    """Refuse variances at which `mean` is not accurate.

    This is so if φ has kinks or jumps away from zero, oscillates many times, or grows fast. E[φ²] and E[φ'²] at the
    smallest, the median and the largest variance are compared with their values from every second node. Traced
    variances are not checked.
    """
    if _checks.is_traced(q):
        return
    known = np.asarray(q)[np.isfinite(q) & (np.asarray(q) > 0)]
    if not known.size:
        return
    some = np.quantile(known, [0.0, 0.5, 1.0])
    fn = activation.fn
    for f in (square(fn), square(derivative(fn))):
        fine, coarse = (np.asarray(mean(f, jnp.asarray(some), step)) for step in (_LINE[1], 2 * _LINE[1]))
        with np.errstate(invalid="ignore"):  # both are infinite if φ overflows
            rough = ~(np.abs(fine - coarse) <= 1e-8 * np.abs(fine))
        if rough.any():
            raise ValueError(
                f"{activation.name} has a kink or a jump away from zero, oscillates, or grows too fast: its means at a "
                f"variance of {some[rough][0]:.3g} cannot be computed accurately. Use a smaller `w_std`, or another "
                f"function."
            )


def refuse_jump(activation: Elementwise) -> None:
    """Refuse a φ that jumps at zero: E[φ'²] leaves out the jump, and is not the slope of the correlation map at 1."""
    if jump(activation.fn):
        raise ValueError(
            f"{activation.name} jumps at zero. The slope of its correlation map at c = 1 is therefore infinite, with "
            f"any `w_std` and `b_std`: two inputs become different however near they are, and there are no phases, no "
            f"edge of chaos and no depth scales. `correlation_map` and `ntk_depth_profile` take this function."
        )


@functools.cache
def square(f: ScalarFunction) -> ScalarFunction:
    """Return the function f². For the same f it is the same object, so that it compiles once."""
    return lambda x: f(x) ** 2


@functools.partial(jax.jit, static_argnums=0)
def over(f: Callable, *arrays: Array) -> Any:
    """Evaluate a function of numbers at each entry of arrays that broadcast, 16 entries at a time."""
    arrays = tuple(jnp.broadcast_arrays(*arrays))
    if arrays[0].ndim == 0:
        return f(*arrays)
    flat = jax.lax.map(lambda entries: f(*entries), tuple(a.ravel() for a in arrays), batch_size=16)
    return jax.tree.map(lambda out: out.reshape(arrays[0].shape), flat)


# ------------------------------------------------------------------------------------------------- two variables


def drop_and_slope(activation: Elementwise, nodes: tuple[int, int] = PLANE) -> DropAndSlope:
    """Return the `DropAndSlope` of an activation: in closed form if there is one, else by quadrature."""
    record = activation.activation
    return _by_record(record) if has_closed_form(activation) else _quadrature(record.fn, nodes)


def enough_nodes(activation: Elementwise, q: Array) -> tuple[int, int]:
    """Return the numbers of quadrature nodes, (radii, angles), that are enough for the variances q.

    Activations with a closed form use no nodes. For the others a ValueError is raised if a variance is above `_WIDE`.
    Traced variances are not checked.
    """
    if _checks.is_traced(q):
        return PLANE
    largest = float(np.max(np.asarray(q), initial=0.0))
    if largest > _WIDE and not has_closed_form(activation):
        raise ValueError(
            f"The variance before {activation.name} is {largest:.3g}. Without a closed form, correlations can be "
            f"computed accurately for variances up to {_WIDE:g}. Use a smaller `w_std` or `b_std`."
        )
    return (128, 96) if largest > _PLAIN else PLANE


def has_closed_form(activation: Elementwise) -> bool:
    """Whether the `DropAndSlope` of an activation has a closed form."""
    return activation.activation.near_form is not None or activation.activation.parts is not None


@functools.cache
def _by_record(record: Activation) -> DropAndSlope:
    """Return a `DropAndSlope` in closed form.

    The drop is E[φ²] (1 − ρ')/(qδ), where ρ' is the correlation of φ(u) and φ(v). At δ = 0 it equals the slope.
    """

    def numbers(q: Array, delta: Array) -> tuple[Array, Array]:
        # The record takes −(1 + ρ) in place of δ if ρ is negative (`ntklib.duals.correlation`).
        signed = correlation.signed(delta, 2 - delta)
        slope, new = record.equal(signed, q)
        there = (delta > 0) & (q > 0)
        drop = correlation.one_minus(new) / jnp.where(there, delta, 1.0) * (record.moment(q) / jnp.where(q > 0, q, 1.0))
        return jnp.where(there, drop, slope), jnp.broadcast_to(slope, delta.shape)

    return numbers


@functools.cache
def _quadrature(f: ScalarFunction, nodes: tuple[int, int]) -> DropAndSlope:
    """Return a `DropAndSlope` by quadrature in polar coordinates of the plane.

    Let δ = 2 sin²(θ/2). With the radius r and the angle α, u = m + b and v = m − b, where m = √q r cos α cos(θ/2) and
    b = √q r sin α sin(θ/2). There are two sectors of angles α, and their mirror images. In the first, of width π − θ, u
    and v have the same sign. In the second, of width θ, they have opposite signs.

    With the quotient D = (φ(u) − φ(v))/2b, which tends to φ'(m) as b tends to 0, the drop is the mean of
    (φ(u) − φ(v))²/(2qδ) = r² sin²α D².

    The nodes are denser where u or v is small, above all if q is large (`ntklib.duals.integrals.crowded`). With 64 x 64
    nodes the relative error is below 1e-11 for q ≤ 1e4. With 128 x 96 nodes it is below 2e-11 for q ≤ 1e8 and below
    3e-8 for q ≤ 1e12.
    """
    rules = [np.polynomial.legendre.leggauss(n) for n in nodes]
    both = lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))  # noqa: E731

    def numbers(q: Array, delta: Array) -> tuple[Array, Array]:
        (r, weights), (places, shares) = crowded(rules[0], rules[1], q, jnp)
        radii, weights, places, shares = r[:, None], weights[:, None], places[None], shares[None]
        half_sin = sqrt(jnp.clip(delta / 2, 0.0, 1.0))
        half_cos = sqrt(1 - half_sin**2)
        theta = 2 * jnp.arctan2(half_sin, half_cos)
        drop = slope = jnp.zeros(())
        for start, width, same in (
            (-(jnp.pi - theta) / 2, jnp.pi - theta, True),
            ((jnp.pi - theta) / 2, theta, False),
        ):
            alpha = start + places * width
            m = jnp.sqrt(q) * radii * jnp.cos(alpha) * half_cos
            rise = jnp.sqrt(q) * radii * jnp.sin(alpha)
            b = rise * half_sin
            weight = weights * shares * width
            # Where u and v have one sign and b is small, the rounding error of D is larger than the distance of D to
            # its limit. Where they have opposite signs, φ may jump between them, and rounding errors do not matter,
            # because the sector is narrow.
            near = jnp.abs(b) < 5e-6 if same else b == 0
            for sign in (1.0, -1.0):
                u, v = sign * (m + b), sign * (m - b)
                (fu, du), (fv, dv) = both(u), both(v)
                # Not 2b: rounding of u and v, which are large if q is, then moves numerator and denominator alike.
                quotient = jnp.where(near, (du + dv) / 2, (fu - fv) / jnp.where(near, 1.0, u - v))
                drop += jnp.sum(weight * (rise * quotient) ** 2)
                slope += jnp.sum(weight * du * dv)
        return drop / jnp.where(q > 0, q, 1.0), slope

    return numbers
