"""Gaussian expectations of activations: one record for each, by closed forms, quadrature and tables.

`activation` has the record; `rectified`, `sigmoidal`, `oscillating` and `polynomials` the library's activations with
their closed forms; `integrals` integrates any scalar function; `tables` has the fast way for these, and `making` makes
the tables; `correlation` and `arccos` keep the digits near ρ = ±1.
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
