"""The file in which `follow` saves the state and the settings of a run."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklib.scale.store import put

_FORMAT = "ntklib.follow 1"


class Saved(NamedTuple):
    """The state of a run of `follow` after some steps.

    Args:
        done: The number of steps done.
        start: The parameters before the first step.
        state: The parameters and the state of the optimizer after these steps.
        loss: The losses recorded so far.
        records: For each measure, the values recorded so far.
    """

    done: int
    start: Any
    state: Any
    loss: list[Any]
    records: dict[str, list[Any]]


def digest(*arrays: Any) -> str:
    """Return a hash (SHA-256) of the types, shapes and entries of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        known = np.asarray(_plain(array))
        total.update(f"{known.dtype} {known.shape}".encode())
        total.update(np.ascontiguousarray(known).tobytes())
    return total.hexdigest()


def write(path: Path, settings: dict[str, Any], saved: Saved) -> None:
    """Write the state and the settings of a run. An interrupt leaves either the old file or the new one, complete."""
    arrays: dict[str, Any] = {"done": np.asarray(saved.done), "loss": np.asarray([float(v) for v in saved.loss])}
    for name, tree in (("start", saved.start), ("state", saved.state)):
        arrays |= {f"{name} {i}": _bytes(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    if saved.loss:
        arrays |= {f"record {name}": np.stack(list(map(np.asarray, values))) for name, values in saved.records.items()}
    text = json.dumps({"format": _FORMAT, **settings})
    put(path, lambda file: np.savez(file, settings=text, **arrays), replace=True)


def read(path: Path, settings: dict[str, Any], state: Any, names: list[str]) -> Saved | None:
    """Return the state in a file, with the structure and the types of `state`, or None if there is no file.

    Raise ValueError if the file is damaged, or was written with other settings.
    """
    if not os.path.lexists(path):
        return None
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        ours, theirs = {"format": _FORMAT, **settings}, json.loads(str(found["settings"]))
        other = [name for name in ours if theirs.get(name) != ours[name]]
        if not other:
            loss = list(found["loss"])
            records = {name: list(found[f"record {name}"]) if loss else [] for name in names}
            start, now = _unpacked("start", state[0], found), _unpacked("state", state, found)
            return Saved(int(found["done"]), start, now, loss, records)
    except Exception as error:  # each kind of damage raises another type of error
        raise ValueError(
            f"`checkpoint` must be a file that `follow` has written; {path} is not, or is damaged ({error}). Nothing "
            f"was changed. Delete this file to start again, or choose another place."
        ) from error
    raise ValueError(
        f"`checkpoint` belongs to another run: {path} was made with {other[0]} = {theirs.get(other[0])!r}, not "
        f"{ours[other[0]]!r}. Nothing was changed. Choose another place, or delete that file."
    )


def _unpacked(name: str, like: Any, found: dict[str, np.ndarray]) -> Any:
    leaves, tree = jax.tree.flatten(like)
    return jax.tree.unflatten(tree, [_restored(leaf, found[f"{name} {i}"]) for i, leaf in enumerate(leaves)])


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _bytes(leaf: Any) -> np.ndarray:
    """Return the bytes of an array. NumPy cannot read all types of JAX (bfloat16, for instance) from its files."""
    return np.frombuffer(np.ascontiguousarray(np.asarray(_plain(leaf))).tobytes(), np.uint8)


def _restored(like: Any, data: np.ndarray) -> Any:
    shape, dtype = np.shape(_plain(like)), np.asarray(_plain(like)).dtype
    array = jnp.asarray(np.frombuffer(data.tobytes(), dtype).reshape(shape))
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like)) if _is_key(like) else array
