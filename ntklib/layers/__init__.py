"""Layers with two readings: activations of a finite network, covariances of the infinitely wide one."""

from ntklib.layers.activations import (
    Abs,
    Elementwise,
    Elu,
    Erf,
    Gelu,
    Identity,
    LeakyRelu,
    Relu,
    Sigmoid,
    Silu,
    Sin,
    Tanh,
)
from ntklib.layers.architectures import cnn, mlp, myrtle
from ntklib.layers.base import Layer
from ntklib.layers.combinators import Residual, Serial, Sum
from ntklib.layers.conv import AvgPool, Conv, GlobalAvgPool
from ntklib.layers.dense import Dense
from ntklib.layers.norm import Flatten, LayerNorm

__all__ = [
    "Abs",
    "AvgPool",
    "Conv",
    "Dense",
    "Elementwise",
    "Elu",
    "Erf",
    "Flatten",
    "Gelu",
    "GlobalAvgPool",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "Relu",
    "Residual",
    "Serial",
    "Sigmoid",
    "Silu",
    "Sin",
    "Sum",
    "Tanh",
    "cnn",
    "mlp",
    "myrtle",
]
