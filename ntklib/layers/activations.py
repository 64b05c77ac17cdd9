"""The library's own activations as layers, each with the record of its dual."""

import math

import jax.numpy as jnp  # noqa: F401  the examples use it

from ntklib import _checks
from ntklib.duals import oscillating, polynomials, rectified, sigmoidal
from ntklib.layers.elementwise import Elementwise


def Relu() -> Elementwise:
    """The activation φ(x) = max(x, 0).

    The kernel is in closed form: the arc-cosine kernel of order 1.

    Returns:
        The layer.

    References:
        Cho & Saul 2009, "Kernel Methods for Deep Learning".

    Example:
        >>> Relu()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return Elementwise(rectified.relu_record())


def LeakyRelu(slope: float = 0.01) -> Elementwise:
    """The activation φ(x) = x for x ≥ 0 and slope · x for x < 0.

    The kernel is in closed form.

    Args:
        slope: The slope for negative x; any real number.

    Returns:
        The layer.

    Raises:
        TypeError: If `slope` is not a real number.

    Example:
        >>> LeakyRelu(0.5)(jnp.array([-1.0, 2.0])).tolist()
        [-0.5, 2.0]
    """
    _checks.real("slope", slope)
    return Elementwise(rectified.leaky(float(slope)))


def Abs() -> Elementwise:
    """The activation φ(x) = abs(x), the absolute value.

    The kernel is in closed form.

    Returns:
        The layer.

    Example:
        >>> Abs()(jnp.array([-1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    return Elementwise(rectified.abs_record())


def RectifiedMonomial(degree: int) -> Elementwise:
    """The activation φ(x) = max(x, 0)^degree, whose dual is the arc-cosine kernel of that order.

    The kernel is in closed form. Degree 0 is a step from 0 to 1, degree 1 is ReLU.

    Args:
        degree: A whole number from 0.

    Returns:
        The layer.

    Raises:
        TypeError: If `degree` is not a whole number.
        ValueError: If it is negative.

    References:
        Cho & Saul 2009, "Kernel Methods for Deep Learning".

    Example:
        >>> RectifiedMonomial(2)(jnp.array([-1.0, 3.0])).tolist()
        [0.0, 9.0]
    """
    _checks.count("degree", degree, minimum=0)
    return Elementwise(rectified.rectified_record(int(degree)))


def Sign() -> Elementwise:
    """The activation φ(x) = sign(x).

    The kernel is in closed form. The derivative of φ is 0, so all layers before this one add nothing to the tangent
    kernel.

    Returns:
        The layer.

    Example:
        >>> Sign()(jnp.array([-3.0, 2.0])).tolist()
        [-1.0, 1.0]
    """
    return Elementwise(rectified.sign_record())


def Identity() -> Elementwise:
    """The activation φ(x) = x, of a deep linear network. The kernel map changes nothing.

    Returns:
        The layer.

    Example:
        >>> Identity()(jnp.array([-1.0, 2.0])).tolist()
        [-1.0, 2.0]
    """
    return Elementwise(rectified.identity_record())


def Erf() -> Elementwise:
    """The activation φ(x) = erf(x); not erf(x/√2), which some papers use.

    The kernel is in closed form: the arc-sine kernel.

    Returns:
        The layer.

    References:
        Williams 1997, "Computing with Infinite Networks".

    Example:
        >>> [round(v, 4) for v in Erf()(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.8427]
    """
    return Elementwise(sigmoidal.erf_record())


def Gelu() -> Elementwise:
    """The activation φ(x) = x Φ(x), with Φ the distribution function of N(0, 1).

    This is the exact function, not its approximation by tanh. The kernel is in closed form.

    Returns:
        The layer.

    Example:
        >>> [round(v, 4) for v in Gelu()(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.8413]
    """
    return Elementwise(sigmoidal.gelu_record())


def Tanh() -> Elementwise:
    """The activation φ(x) = tanh(x). Its dual has no closed form and is computed by quadrature.

    Returns:
        The layer.

    Example:
        >>> [round(v, 4) for v in Tanh()(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.7616]
    """
    return Elementwise(sigmoidal.tanh_record())


def Silu() -> Elementwise:
    """The activation φ(x) = x/(1 + exp(−x)), also known as Swish.

    Its dual has no closed form and is computed by quadrature.

    Returns:
        The layer.

    Example:
        >>> [round(v, 4) for v in Silu()(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.7311]
    """
    return Elementwise(sigmoidal.silu_record())


def Elu() -> Elementwise:
    """The activation φ(x) = x for x > 0 and exp(x) − 1 otherwise.

    Its dual has no closed form and is computed by quadrature.

    Returns:
        The layer.

    Example:
        >>> [round(v, 4) for v in Elu()(jnp.array([-1.0, 1.0])).tolist()]
        [-0.6321, 1.0]
    """
    return Elementwise(sigmoidal.elu_record())


def Sigmoid() -> Elementwise:
    """The activation φ(x) = 1/(1 + exp(−x)). Its dual has no closed form and is computed by quadrature.

    Returns:
        The layer.

    Example:
        >>> Sigmoid()(jnp.array([0.0])).tolist()
        [0.5]
    """
    return Elementwise(sigmoidal.sigmoid_record())


def Sin(frequency: float = 1.0, *, amplitude: float = 1.0, phase: float = 0.0) -> Elementwise:
    """The activation φ(x) = amplitude · sin(frequency · x + phase).

    The kernel is in closed form.

    Args:
        frequency: A positive number, in radians per unit of x.
        amplitude: A positive number.
        phase: In radians.

    Returns:
        The layer.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If `frequency` or `amplitude` is not positive.

    Example:
        >>> [round(v, 4) for v in Sin(2.0)(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.9093]
    """
    _checks.real("frequency", frequency, above=0.0)
    _checks.real("amplitude", amplitude, above=0.0)
    _checks.real("phase", phase)
    return Elementwise(oscillating.sine_record(float(frequency), float(amplitude), float(phase)))


def Cos(frequency: float = 1.0, *, amplitude: float = 1.0) -> Elementwise:
    """The activation φ(x) = amplitude · cos(frequency · x).

    The kernel is in closed form.

    Args:
        frequency: A positive number, in radians per unit of x.
        amplitude: A positive number.

    Returns:
        The layer.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If `frequency` or `amplitude` is not positive.

    Example:
        >>> [round(v, 4) for v in Cos(2.0)(jnp.array([0.0, 1.0])).tolist()]
        [1.0, -0.4161]
    """
    _checks.real("frequency", frequency, above=0.0)
    _checks.real("amplitude", amplitude, above=0.0)
    return Elementwise(oscillating.sine_record(float(frequency), float(amplitude), math.pi / 2, "cos"))


def Rbf(gamma: float = 1.0) -> Elementwise:
    """The activation φ(x) = √2 sin(√(2γ) x + π/4), whose dual is the Gaussian (RBF) kernel.

    For (u, v) Gaussian with mean 0::

        E[φ(u) φ(v)] = exp(−γ E[(u − v)²]).

    Args:
        gamma: γ, a positive number.

    Returns:
        The layer.

    Raises:
        TypeError: If `gamma` is not a real number.
        ValueError: If it is not positive.

    Example:
        >>> [round(v, 4) for v in Rbf()(jnp.array([0.0])).tolist()]
        [1.0]
    """
    _checks.real("gamma", gamma, above=0.0)
    return Elementwise(oscillating.sine_record(math.sqrt(2 * gamma), math.sqrt(2), math.pi / 4, "rbf"))


def Gaussian(rate: float = 1.0) -> Elementwise:
    """The activation φ(x) = exp(−rate · x²).

    The kernel is in closed form.

    Args:
        rate: A positive number.

    Returns:
        The layer.

    Raises:
        TypeError: If `rate` is not a real number.
        ValueError: If it is not positive.

    Example:
        >>> [round(v, 4) for v in Gaussian()(jnp.array([0.0, 1.0])).tolist()]
        [1.0, 0.3679]
    """
    _checks.real("rate", rate, above=0.0)
    return Elementwise(oscillating.gaussian_record(float(rate)))


def Exp(rate: float = 1.0) -> Elementwise:
    """The activation φ(x) = exp(rate · x).

    The kernel is in closed form.

    Args:
        rate: A number other than 0.

    Returns:
        The layer.

    Raises:
        TypeError: If `rate` is not a real number.
        ValueError: If it is 0, which would make the function constant.

    Example:
        >>> [round(v, 4) for v in Exp(-1.0)(jnp.array([0.0, 1.0])).tolist()]
        [1.0, 0.3679]
    """
    _checks.real("rate", rate)
    if rate == 0:
        raise ValueError("`rate` must not be 0: the function would be constant.")
    return Elementwise(oscillating.exp_record(float(rate)))


def Monomial(degree: int) -> Elementwise:
    """The activation φ(x) = x^degree.

    The kernel is in closed form.

    Args:
        degree: A whole number from 1.

    Returns:
        The layer.

    Raises:
        TypeError: If `degree` is not a whole number.
        ValueError: If it is not positive.

    Example:
        >>> Monomial(3)(jnp.array([-1.0, 2.0])).tolist()
        [-1.0, 8.0]
    """
    _checks.count("degree", degree)
    return Elementwise(polynomials.polynomial_record((0.0,) * int(degree) + (1.0,), f"monomial({degree})"))


def Hermite(degree: int) -> Elementwise:
    """The activation φ(x) = He_n(x)/√(n!), the normalized Hermite polynomial of degree n.

    The kernel is in closed form. For units u, v of variance 1 and correlation ρ, E[φ(u) φ(v)] = ρ^n.

    Args:
        degree: n, a whole number from 1.

    Returns:
        The layer.

    Raises:
        TypeError: If `degree` is not a whole number.
        ValueError: If it is not positive.

    Example:
        >>> [round(v, 4) for v in Hermite(2)(jnp.array([0.0, 1.0])).tolist()]  # (x² − 1)/√2
        [-0.7071, 0.0]
    """
    _checks.count("degree", degree)
    return Elementwise(polynomials.polynomial_record(polynomials.hermite(int(degree)), f"hermite({degree})"))
