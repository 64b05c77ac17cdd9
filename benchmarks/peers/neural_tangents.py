"""neural-tangents through the bridge: `stax` networks, as its users write them, compiled as one function."""

import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ntklib.interop.neural_tangents as nt
from benchmarks.cases import Case
from benchmarks.peers import ours


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {name: version(name) for name in ("neural-tangents", "jax")}


def prepare(case: Case, option: str, x: np.ndarray, weights: list) -> Callable[[], Any]:
    """`option`: "1", "2" or "3", its implementation of the empirical kernel, or "float32" or "float64", the precision
    of the analytic one.
    """
    warnings.filterwarnings("ignore", message="`FanIn` layers assume independent inputs")
    if case.kind == "analytic":
        jax.config.update("jax_enable_x64", option == "float64")
        _, _, kernel_fn = nt.to_neural_tangents(ours.network(case, weights))
        kernel: Any = jax.jit(lambda x: kernel_fn(x, None, "ntk"))
        inputs = jnp.asarray(x, option)
        return lambda: jax.block_until_ready(kernel(inputs))
    init_fn, apply_fn, _ = nt.to_neural_tangents(ours.network(case, weights))
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda key: init_fn(key, x.shape)[1], jax.random.key(0)))
    flat = [array for pair in weights for array in pair]
    params = jax.tree.unflatten(structure, [jnp.reshape(w, v.shape) for w, v in zip(flat, leaves, strict=True)])
    ntk_fn = nt.empirical_ntk_fn(
        apply_fn,
        trace_axes=() if case.outputs == "full" else (-1,),
        vmap_axes=0,  # its documentation's advice where examples do not see each other
        implementation=nt.NtkImplementation(int(option)),
    )
    kernel = jax.jit(lambda x, params: ntk_fn(x, None, params))
    inputs = jnp.asarray(x)
    return lambda: jax.block_until_ready(kernel(inputs, params))
