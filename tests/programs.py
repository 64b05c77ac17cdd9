"""Compiled programs, which must be forgotten before they are too many for the process."""

import gc
import pathlib

import jax

#: Each compiled program takes some memory maps, of which Linux lets a process have 65,530; then the compiler dies.
MAPS = pathlib.Path("/proc/self/maps")


def forget(most: int) -> None:
    """Forget all of them if the process has more than `most` memory maps. To count these takes 10 ms."""
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > most:
        jax.clear_caches()
        gc.collect()  # programs that stand in cycles keep their maps until then
