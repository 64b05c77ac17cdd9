"""Gaussian expectations of activations: in closed form, by quadrature and from tables.

Let u and v be Gaussian with mean zero, variances q1 and q2 and covariance q12. The dual of an activation φ is the pair
E[φ(u) φ(v)], E[φ'(u) φ'(v)]. A function with the name of an activation, such as `relu`, takes q12, q1 and q2 and
returns the dual. The three arrays broadcast.

- `activation` has the class `Activation`, which holds φ with its dual: the record of φ.
- `rectified`, `sigmoidal`, `oscillating` and `polynomials` make the records of the library's activations.
- `integrals` computes the dual of any scalar function by quadrature.
- `making` computes a table of a dual, and `tables` evaluates it.
- `correlation` stores ρ so that its distance from ±1 keeps its digits. `arccos` computes the angle from this distance.
"""

from ntklib.duals.activation import Activation
from ntklib.duals.integrals import derivative, expectation, quadrature
from ntklib.duals.oscillating import exp, gaussian, sin
from ntklib.duals.polynomials import polynomial
from ntklib.duals.rectified import abs, identity, leaky_relu, rectified_monomial, relu, sign
from ntklib.duals.sigmoidal import erf, gelu

__all__ = [
    "Activation",
    "abs",
    "derivative",
    "erf",
    "exp",
    "expectation",
    "gaussian",
    "gelu",
    "identity",
    "leaky_relu",
    "polynomial",
    "quadrature",
    "rectified_monomial",
    "relu",
    "sign",
    "sin",
]
