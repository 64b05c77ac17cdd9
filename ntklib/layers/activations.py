"""The library's own activations, as layers.

The kernel map of `Elementwise` needs two expectations over Gaussian u and v, E[φ(u) φ(v)] and E[φ'(u) φ'(v)]. They are
called the dual of the activation φ.
"""

import math

import jax.numpy as jnp  # noqa: F401  the examples use jnp

from ntklib import _checks
from ntklib.duals import oscillating, polynomials, rectified, sigmoidal
from ntklib.layers.elementwise import Elementwise


def Relu() -> Elementwise:
    """The activation φ(x) = max(x, 0), as a layer.

    Its dual (see `Elementwise`) has a closed form. E[φ(u) φ(v)] is half of the arc-cosine kernel of order 1.

    Returns:
        An `Elementwise` layer.

    References:
        Cho & Saul 2009, "Kernel Methods for Deep Learning".

    Example:
        >>> Relu()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return Elementwise(rectified.relu_record())


def LeakyRelu(slope: float = 0.01) -> Elementwise:
    """The activation φ(x) = x for x ≥ 0 and slope · x for x < 0, as a layer.

    Its dual (see `Elementwise`) has a closed form.

    Args:
        slope: The slope for negative x, of a size of at most 1e15.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If `slope` is not a real number.
        ValueError: If it is not between −1e15 and 1e15.

    Example:
        >>> LeakyRelu(0.5)(jnp.array([-1.0, 2.0])).tolist()
        [-0.5, 2.0]
    """
    _checks.real("slope", slope)
    if abs(slope) >= 1e-15:  # smaller ones may be zero
        _checks.parameter("slope", slope, "Use a smaller slope and a larger w_std after it.", negative=True)
    return Elementwise(rectified.leaky(float(slope)))


def Abs() -> Elementwise:
    """The activation φ(x) = abs(x), the absolute value, as a layer.

    Its dual (see `Elementwise`) has a closed form.

    Returns:
        An `Elementwise` layer.

    Example:
        >>> Abs()(jnp.array([-1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    return Elementwise(rectified.abs_record())


def RectifiedMonomial(degree: int) -> Elementwise:
    """The activation φ(x) = max(x, 0)^degree, as a layer.

    Its dual (see `Elementwise`) has a closed form. E[φ(u) φ(v)] is half of the arc-cosine kernel of order `degree`.
    Degree 0 is a step from 0 to 1, degree 1 is ReLU.

    Args:
        degree: A whole number from 0 to 150. For larger degrees E[φ²] at variance 1 is beyond the range of float64.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If `degree` is not a whole number.
        ValueError: If it is not between 0 and 150.

    References:
        Cho & Saul 2009, "Kernel Methods for Deep Learning".

    Example:
        >>> RectifiedMonomial(2)(jnp.array([-1.0, 3.0])).tolist()
        [0.0, 9.0]
    """
    _checks.count("degree", degree, minimum=0, maximum=150)
    return Elementwise(rectified.rectified_record(int(degree)))


def Sign() -> Elementwise:
    """The activation φ(x) = sign(x), as a layer.

    Its dual (see `Elementwise`) has a closed form. The derivative of φ is 0, so the layers before this one add nothing
    to the tangent kernel.

    Returns:
        An `Elementwise` layer.

    Example:
        >>> Sign()(jnp.array([-3.0, 2.0])).tolist()
        [-1.0, 1.0]
    """
    return Elementwise(rectified.sign_record())


def Identity() -> Elementwise:
    """The activation φ(x) = x, as a layer, for deep linear networks.

    Its kernel map returns Σ and Θ as they are.

    Returns:
        An `Elementwise` layer.

    Example:
        >>> Identity()(jnp.array([-1.0, 2.0])).tolist()
        [-1.0, 2.0]
    """
    return Elementwise(rectified.identity_record())


def Erf() -> Elementwise:
    """The activation φ(x) = erf(x), as a layer. Some papers use erf(x/√2) instead.

    Its dual (see `Elementwise`) has a closed form. E[φ(u) φ(v)] is the arc-sine kernel.

    Returns:
        An `Elementwise` layer.

    References:
        Williams 1997, "Computing with Infinite Networks".

    Example:
        >>> [round(v, 4) for v in Erf()(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.8427]
    """
    return Elementwise(sigmoidal.erf_record())


def Gelu() -> Elementwise:
    """The activation φ(x) = x Φ(x), with Φ the distribution function of N(0, 1), as a layer.

    This is GELU itself and not its approximation by tanh. Its dual (see `Elementwise`) has a closed form.

    Returns:
        An `Elementwise` layer.

    Example:
        >>> [round(v, 4) for v in Gelu()(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.8413]
    """
    return Elementwise(sigmoidal.gelu_record())


def Tanh() -> Elementwise:
    """The activation φ(x) = tanh(x), as a layer.

    Its dual (see `Elementwise`) has no closed form and is computed by quadrature.

    Returns:
        An `Elementwise` layer.

    Example:
        >>> [round(v, 4) for v in Tanh()(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.7616]
    """
    return Elementwise(sigmoidal.tanh_record())


def Silu() -> Elementwise:
    """The activation φ(x) = x/(1 + exp(−x)), also known as Swish, as a layer.

    Its dual (see `Elementwise`) has no closed form and is computed by quadrature.

    Returns:
        An `Elementwise` layer.

    Example:
        >>> [round(v, 4) for v in Silu()(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.7311]
    """
    return Elementwise(sigmoidal.silu_record())


def Elu() -> Elementwise:
    """The activation φ(x) = x for x > 0 and exp(x) − 1 for x ≤ 0, as a layer.

    Its dual (see `Elementwise`) is computed by quadrature.

    Returns:
        An `Elementwise` layer.

    Example:
        >>> [round(v, 4) for v in Elu()(jnp.array([-1.0, 1.0])).tolist()]
        [-0.6321, 1.0]
    """
    return Elementwise(sigmoidal.elu_record())


def Sigmoid() -> Elementwise:
    """The activation φ(x) = 1/(1 + exp(−x)), as a layer.

    Its dual (see `Elementwise`) has no closed form and is computed by quadrature.

    Returns:
        An `Elementwise` layer.

    Example:
        >>> Sigmoid()(jnp.array([0.0])).tolist()
        [0.5]
    """
    return Elementwise(sigmoidal.sigmoid_record())


def Sin(frequency: float = 1.0, *, amplitude: float = 1.0, phase: float = 0.0) -> Elementwise:
    """The activation φ(x) = amplitude · sin(frequency · x + phase), as a layer.

    Its dual (see `Elementwise`) has a closed form.

    Args:
        frequency: A number from 1e-15 to 1e15, in radians per unit of x.
        amplitude: A number from 1e-15 to 1e15.
        phase: A number, in radians.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If `frequency` or `amplitude` is not between 1e-15 and 1e15, or if `phase` is not finite.

    Example:
        >>> [round(v, 4) for v in Sin(2.0)(jnp.array([0.0, 1.0])).tolist()]
        [0.0, 0.9093]
    """
    _checks.parameter("frequency", frequency, "Change the w_std of the layer before it instead.")
    _checks.parameter("amplitude", amplitude, "Change the w_std of the layer after it instead.")
    _checks.real("phase", phase)
    phase = float(phase)
    if abs(phase) > math.pi:  # in float32 a large phase would lose the digits of x
        phase = math.atan2(math.sin(phase), math.cos(phase))
    return Elementwise(oscillating.sine_record(float(frequency), float(amplitude), phase))


def Cos(frequency: float = 1.0, *, amplitude: float = 1.0) -> Elementwise:
    """The activation φ(x) = amplitude · cos(frequency · x), as a layer.

    Its dual (see `Elementwise`) has a closed form.

    Args:
        frequency: A number from 1e-15 to 1e15, in radians per unit of x.
        amplitude: A number from 1e-15 to 1e15.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If `frequency` or `amplitude` is not between 1e-15 and 1e15.

    Example:
        >>> [round(v, 4) for v in Cos(2.0)(jnp.array([0.0, 1.0])).tolist()]
        [1.0, -0.4161]
    """
    _checks.parameter("frequency", frequency, "Change the w_std of the layer before it instead.")
    _checks.parameter("amplitude", amplitude, "Change the w_std of the layer after it instead.")
    return Elementwise(oscillating.sine_record(float(frequency), float(amplitude), math.pi / 2, "cos"))


def Rbf(gamma: float = 1.0) -> Elementwise:
    """The activation φ(x) = √2 sin(√(2γ) x + π/4), as a layer.

    Its dual (see `Elementwise`) has a closed form. E[φ(u) φ(v)] is the Gaussian (RBF) kernel::

        E[φ(u) φ(v)] = exp(−γ E[(u − v)²]).

    Args:
        gamma: γ, a number from 1e-15 to 1e15.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If `gamma` is not a real number.
        ValueError: If it is not between 1e-15 and 1e15.

    Example:
        >>> [round(v, 4) for v in Rbf()(jnp.array([0.0])).tolist()]
        [1.0]
    """
    _checks.parameter("gamma", gamma, "Change the w_std of the layer before it instead.")
    return Elementwise(oscillating.sine_record(math.sqrt(2 * gamma), math.sqrt(2), math.pi / 4, "rbf"))


def Gaussian(rate: float = 1.0) -> Elementwise:
    """The activation φ(x) = exp(−rate · x²), as a layer.

    Its dual (see `Elementwise`) has a closed form.

    Args:
        rate: A number from 1e-15 to 1e15.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If `rate` is not a real number.
        ValueError: If it is not between 1e-15 and 1e15.

    Example:
        >>> [round(v, 4) for v in Gaussian()(jnp.array([0.0, 1.0])).tolist()]
        [1.0, 0.3679]
    """
    _checks.parameter("rate", rate, "Change the w_std of the layer before it instead.")
    return Elementwise(oscillating.gaussian_record(float(rate)))


def Exp(rate: float = 1.0) -> Elementwise:
    """The activation φ(x) = exp(rate · x), as a layer.

    Its dual (see `Elementwise`) has a closed form.

    Args:
        rate: A number from 1e-15 to 1e15, or the negative of such a number.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If `rate` is not a real number.
        ValueError: If it is 0, which would make φ constant, or if its size is not between 1e-15 and 1e15.

    Example:
        >>> [round(v, 4) for v in Exp(-1.0)(jnp.array([0.0, 1.0])).tolist()]
        [1.0, 0.3679]
    """
    _checks.real("rate", rate)
    if rate == 0:
        raise ValueError("`rate` must not be 0: the function would be constant.")
    _checks.parameter("rate", rate, "Change the w_std of the layer before it instead.", negative=True)
    return Elementwise(oscillating.exp_record(float(rate)))


def Monomial(degree: int) -> Elementwise:
    """The activation φ(x) = x^degree, as a layer.

    Its dual (see `Elementwise`) has a closed form.

    Args:
        degree: A whole number from 1 to 150. For larger degrees E[φ²] at variance 1 is beyond the range of float64.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If `degree` is not a whole number.
        ValueError: If it is not between 1 and 150.

    Example:
        >>> Monomial(3)(jnp.array([-1.0, 2.0])).tolist()
        [-1.0, 8.0]
    """
    _checks.count("degree", degree, maximum=150)
    return Elementwise(polynomials.monomial_record(int(degree)))


def Hermite(degree: int) -> Elementwise:
    """The activation φ(x) = He_n(x)/√(n!), the normalized Hermite polynomial of degree n, as a layer.

    He_n are the probabilists' Hermite polynomials, which are orthogonal under N(0, 1). The dual (see `Elementwise`) has
    a closed form. If u and v have variance 1 and correlation ρ, E[φ(u) φ(v)] = ρ^n.

    Args:
        degree: n, a whole number from 1 to 170. For larger n, n! is beyond the range of float64.

    Returns:
        An `Elementwise` layer.

    Raises:
        TypeError: If `degree` is not a whole number.
        ValueError: If it is not between 1 and 170.

    Example:
        >>> [round(v, 4) for v in Hermite(2)(jnp.array([0.0, 1.0])).tolist()]  # (x² − 1)/√2
        [-0.7071, 0.0]
    """
    _checks.count("degree", degree, maximum=170)
    return Elementwise(polynomials.hermite_record(int(degree)))
