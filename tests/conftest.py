"""Float64, strict dtypes and ranks, and enforced shape annotations, before anything imports the library."""

import os
import warnings

os.environ["CI"] = "true"  # no progress bars, no progress file
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # beartype's own, on how a hint is spelt
    hook = install_import_hook(
        [
            f"ntklib.{name}"
            for name in (
                "_linalg",
                "duals",
                "empirical",
                "kernel",
                "layers",
                "noise",
                "noise_limits",
                "posterior",
                "predict",
            )
        ],
        "beartype.beartype",
    )
    hook.__enter__()  # stays on for the session
