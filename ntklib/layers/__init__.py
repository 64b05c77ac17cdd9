"""Layers. Each computes outputs of a finite network, and kernels of the infinitely wide network."""

from ntklib.layers.activations import (
    Abs,
    Cos,
    Elu,
    Erf,
    Exp,
    Gaussian,
    Gelu,
    Hermite,
    Identity,
    LeakyRelu,
    Monomial,
    Rbf,
    RectifiedMonomial,
    Relu,
    Sigmoid,
    Sign,
    Silu,
    Sin,
    Tanh,
)
from ntklib.layers.architectures import cnn, mlp, myrtle
from ntklib.layers.base import Layer
from ntklib.layers.combinators import Residual, Serial, Sum
from ntklib.layers.conv import Conv, LocallyConnected
from ntklib.layers.dense import Dense
from ntklib.layers.elementwise import Elementwise
from ntklib.layers.norm import Flatten, LayerNorm
from ntklib.layers.pooling import AvgPool, GlobalAvgPool

__all__ = [
    "Abs",
    "AvgPool",
    "Conv",
    "Cos",
    "Dense",
    "Elementwise",
    "Elu",
    "Erf",
    "Exp",
    "Flatten",
    "Gaussian",
    "Gelu",
    "GlobalAvgPool",
    "Hermite",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "LocallyConnected",
    "Monomial",
    "Rbf",
    "RectifiedMonomial",
    "Relu",
    "Residual",
    "Serial",
    "Sigmoid",
    "Sign",
    "Silu",
    "Sin",
    "Sum",
    "Tanh",
    "cnn",
    "mlp",
    "myrtle",
]
