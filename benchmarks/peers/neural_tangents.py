"""neural-tangents through the bridge: `stax` networks, as its users write them, compiled as one function."""

import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.kernel_ridge import KernelRidge

import ntklib as ntk
import ntklib.interop.neural_tangents as nt
from benchmarks.cases import Case
from benchmarks.peers import ours


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {name: version(name) for name in ("neural-tangents", "jax", "scikit-learn")}


def prepare(
    case: Case, option: str, x: np.ndarray, weights: list, y: Any = None, test: Any = None
) -> Callable[[], Any]:
    """`option`: "1", "2" or "3", its implementation of the empirical kernel; "float32" or "float64", the precision of
    the analytic one; of a regression "predict", all by neural-tangents, or "KernelRidge", its kernel for scikit-learn.
    """
    warnings.filterwarnings("ignore", message="`FanIn` layers assume independent inputs")
    if case.kind == "regression":
        return _regression(case, option, x, y, test, weights)
    if case.kind == "analytic":
        jax.config.update("jax_enable_x64", option == "float64")
        _, _, kernel_fn = nt.to_neural_tangents(ours.network(case, weights))
        kernel: Any = jax.jit(lambda x: kernel_fn(x, None, "ntk"))
        inputs = jnp.asarray(x, option)
        return lambda: jax.block_until_ready(kernel(inputs))
    apply_fn, params = ntk.functional(ours.model(case)) if case.kind == "model" else _finite(case, x, weights)
    ntk_fn = nt.empirical_ntk_fn(
        apply_fn,
        trace_axes=() if case.outputs == "full" else (-1,),
        vmap_axes=0,  # its documentation's advice where examples do not see each other
        implementation=nt.NtkImplementation(int(option)),
    )
    kernel = jax.jit(lambda x, params: ntk_fn(x, None, params))
    inputs = jnp.asarray(x)
    return lambda: jax.block_until_ready(kernel(inputs, params))


def _finite(case: Case, x: Any, weights: list) -> tuple[Any, Any]:
    """The network of a case as `stax` has it, and its parameters."""
    init_fn, apply_fn, _ = nt.to_neural_tangents(ours.network(case, weights))
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda key: init_fn(key, x.shape)[1], jax.random.key(0)))
    flat = [array for pair in weights for array in pair]
    params = jax.tree.unflatten(structure, [jnp.reshape(w, v.shape) for w, v in zip(flat, leaves, strict=True)])
    return apply_fn, params


def _regression(case: Case, option: str, x: Any, y: Any, test: Any, weights: list) -> Callable[[], Any]:
    """In float64: predictions in float32 are off by more than the tolerance."""
    jax.config.update("jax_enable_x64", True)
    x, y, test = (jnp.asarray(a, jnp.float64) for a in (x, y, test))
    kernel = jax.jit(nt.to_neural_tangents(ours.network(case, weights))[2], static_argnames="get")

    def predict() -> Any:
        # At t = None, the end of training, this is a Cholesky solution. The ridge is relative, as ours.
        function = nt.predict.gradient_descent_mse_ensemble(kernel, x, y, diag_reg=case.ridge)
        return jax.block_until_ready(function(t=None, x_test=test, get="ntk"))

    def kernel_ridge() -> Any:
        train = np.asarray(kernel(x, None, get="ntk"))
        model = KernelRidge(alpha=case.ridge * np.trace(train) / len(train), kernel="precomputed").fit(train, y)
        return model.predict(np.asarray(kernel(test, x, get="ntk")))

    return {"predict": predict, "KernelRidge": kernel_ridge}[option]
