"""Cases that several test files share: a new activation or layer is added here and inherits every law."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import ntklib as ntk

#: Every activation of the library, with parameters that are not special.
ACTIVATIONS = {
    "relu": ntk.Relu(),
    "leaky_relu": ntk.LeakyRelu(0.2),
    "abs": ntk.Abs(),
    "erf": ntk.Erf(),
    "gelu": ntk.Gelu(),
    "sin": ntk.Sin(1.3),
    "identity": ntk.Identity(),
    "tanh": ntk.Tanh(),
    "silu": ntk.Silu(),
    "elu": ntk.Elu(),
    "sigmoid": ntk.Sigmoid(),
    "arctan": ntk.Elementwise(jnp.arctan),
    "rectified": ntk.RectifiedMonomial(2),
    "wave": ntk.Sin(0.9, amplitude=1.3, phase=0.4),
    "cos": ntk.Cos(1.1),
    "rbf": ntk.Rbf(0.4),
    "gaussian": ntk.Gaussian(0.7),
    "exp": ntk.Exp(0.4),
    "monomial": ntk.Monomial(2),
    "hermite": ntk.Hermite(3),
}
CLOSED_FORM = (
    "relu", "leaky_relu", "abs", "erf", "gelu", "sin", "identity", "rectified", "wave", "cos", "rbf", "gaussian", "exp",
    "monomial", "hermite",
)  # fmt: skip


def assert_close(got, want, rtol=1e-10, atol=0.0):
    """Equal up to `rtol` times the largest wanted entry."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, (got.shape, want.shape)
    scale = np.abs(want).max()
    error = np.abs(got - want).max()
    assert error <= rtol * scale + atol, f"off by {error:.3g}, allowed {rtol * scale + atol:.3g}"


def normal(seed, *shape, dtype=jnp.float64):
    """`jax.random.normal` to the bit: an entry depends on its number alone, so one compiled length will do for all."""
    size = math.prod(shape)
    draws = jax.random.normal(jax.random.key(seed), (max(4096, size),), dtype)
    return jnp.asarray(np.asarray(draws)[:size].reshape(shape))


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that grows by an entry with each program that JAX compiles."""
    compiled: list[str] = []

    def heard(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def kernel(net, *inputs) -> ntk.Kernel:
    """`net.kernel(*inputs)`. Its programs, one a layer, are shared by all networks and inputs of the same shape."""
    return net.kernel(*inputs)


def small_net(seed=0, parameterization=ntk.NTK, n_in=3, width=7, n_out=2) -> Any:
    """Two hidden layers, small enough for a dense Jacobian."""
    return ntk.mlp(
        [n_in, width, width, n_out],
        activation=ntk.Erf(),
        w_std=1.3,
        b_std=0.2,
        parameterization=parameterization,
        rngs=nnx.Rngs(seed),
    )
