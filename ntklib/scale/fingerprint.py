"""A record of the inputs, the network and the settings of a kernel matrix on disk, made of plain values.

Different networks must have different records. The record of one network must be the same in another process, on
another machine and in another version of JAX. A record therefore holds no Python hash, no address and no name of a
module. Hyperparameters are compared exactly. Functions cannot be compared. Instead the kernels of the networks that use
them are compared for three fixed inputs, up to rounding.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from ntklib.layers import Layer
from ntklib.scale.tiles import Tiles

#: The entries of a record, and the types that JSON gives them.
TYPES = {
    "kernel": str, "shape": list, "tile": int, "dtype": str, "symmetric": bool, "inputs": str, "network": dict,
    "values": list,
}  # fmt: skip
#: The relative difference up to which two kernels count as the same. In float64 the kernels of one network on different
#: machines agree to 1e-13 or better.
_ROUNDING = 1e-10


def fingerprint(tiles: Tiles) -> dict[str, Any]:
    """Return the record of a kernel matrix.

    The entry "network" has the class of each layer and all of its hyperparameters, widths included (see `describe`).
    The entry "values" is the kernel of three fixed inputs. It tells different functions of a user apart, and layers
    whose code has changed.
    """
    return {
        "kernel": tiles.kernel,
        "shape": list(tiles.shape),
        "tile": tiles.tile,
        "dtype": tiles.dtype.name,
        "symmetric": tiles.symmetric,
        "inputs": _digest(tiles),
        "network": describe(tiles.net),
        "values": _values(tiles),
    }


def identity(net: Layer, shape: tuple[int, ...]) -> str:
    """Return a text for a network and a shape of inputs. Networks with different kernels have different texts.

    It holds the result of `describe`, and the kernels of three fixed inputs, which tell functions of a user apart.
    """
    fixed = _fixed(shape)
    values = []
    for kernel in ("ntk", "nngp"):
        with jax.enable_x64(True):
            out = np.zeros((3, 3))
            tiles = Tiles(net, fixed, kernel=kernel)
            tiles.run(functools.partial(_keep, tiles, out), progress=False)
        values += [float(f"{entry:.9e}") for entry in out.ravel()]
    return repr((sorted(describe(net).items()), values))


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """Return in words the first difference between two records, or None if they belong to the same run."""
    for name, here in ours.items():
        there: Any = theirs.get(name)
        if name == "network":
            for path in sorted({*there, *here}):
                was, is_ = there.get(path), here.get(path)
                if was != is_ and not (was != was and is_ != is_):  # NaN is unequal to itself
                    return f"another network ({path} = {was!r}, here {is_!r})"
        elif name == "values":
            if not _close(there, here):
                return (
                    "another network (layers of the same names and hyperparameters, but their kernels differ: "
                    "a function or a class of yours has changed)"
                )
        elif there != here:
            return f"other {name}" if name in ("inputs", "targets") else f"{name} = {there}, here {here}"
    return None


def describe(net: Layer) -> dict[str, Any]:
    """Return the class and the hyperparameters of each layer as plain values, by their paths in the network.

    Example:
        >>> from ntklib.layers import LayerNorm, Serial
        >>> describe(Serial(LayerNorm(epsilon=0.001)))["layers.0"]
        'LayerNorm'
        >>> describe(Serial(LayerNorm(epsilon=0.001)))["layers.0.epsilon"]
        0.001
    """
    return dict(_walk("", net, ()))


def _walk(path: str, value: Any, inside: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Yield (path, plain value) for `value` and for its parts, if a kernel can depend on them.

    `inside` has the identities of the objects that contain `value`.
    """
    if isinstance(value, (nnx.Variable, nnx.Rngs, nnx.RngStream)) or id(value) in inside:
        return  # no kernel depends on parameters and random keys; an object inside itself has been described
    parts: Mapping[str, Any] = {}
    plain: Any = type(value).__name__
    if value is None or isinstance(value, (str, bool, int, float)):
        plain = value
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(value)
        plain = array.item() if array.ndim == 0 else f"{array.dtype}{list(array.shape)} {_hash(array)}"
        plain = plain if isinstance(plain, (bool, int, float, str)) else str(plain)
    elif isinstance(value, functools.partial):
        parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
    elif isinstance(value, (Mapping, nnx.Dict)):
        parts = {str(key): part for key, part in value.items()}
    elif isinstance(value, Sequence):
        plain, parts = "list", {str(i): part for i, part in enumerate(value)}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, nnx.Module):
        parts = {name: part for name, part in vars(value).items() if not name.startswith("_pytree__")}
    elif callable(value):
        plain = "function"
    yield path, plain
    for name, part in sorted(parts.items()):
        yield from _walk(f"{path}.{name}".lstrip("."), part, (*inside, id(value)))


def _digest(tiles: Tiles) -> str:
    """Return a hash of all inputs after conversion to the type in which the kernel is computed."""
    digest = hashlib.sha256()
    for part in _parts(tiles):
        digest.update(repr(part.shape).encode())
        digest.update(np.ascontiguousarray(part, tiles.dtype).tobytes())
    return digest.hexdigest()


def _parts(tiles: Tiles) -> Iterator[np.ndarray]:
    """Yield the inputs in parts of 1,024, because they may be in a file larger than memory."""
    for x in (tiles.x1,) if tiles.symmetric else (tiles.x1, tiles.x2):
        yield from (x[i : i + 1024] for i in range(0, len(x), 1024))


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _values(tiles: Tiles) -> list[float]:
    """Return the float64 kernel of three fixed inputs, scaled to the smallest, median and largest norm of an input."""
    fixed = _fixed(tiles.x1.shape[1:])
    norms = np.concatenate([_root_mean_square(part) for part in _parts(tiles)])
    out, values = np.zeros((3, 3)), []
    for norm in (norms.min(), np.median(norms), norms.max()):
        with jax.enable_x64(True):
            few = Tiles(tiles.net, norm * fixed, kernel=tiles.kernel, devices=tiles.devices[:1])
            few.run(functools.partial(_keep, few, out), progress=False)
        values += [float(entry) for entry in out[np.triu_indices(3)]]
    return values


def _fixed(shape: tuple[int, ...]) -> np.ndarray:
    """Return three inputs of a shape, with entries √2 sin k² for k = 1, 2, ...: scattered, with mean squares near 1."""
    numbers = np.arange(1, 3 * math.prod(shape) + 1, dtype=float)
    return np.sqrt(2) * np.sin(numbers**2).reshape(3, *shape)


def _root_mean_square(x: np.ndarray) -> np.ndarray:
    """Return √(‖x‖²/d) of each input x. To keep squares in range, x is first divided by its largest absolute entry."""
    flat = np.abs(np.asarray(x, float)).reshape(len(x), -1)
    largest = flat.max(1)
    return largest * np.sqrt(np.square(flat / np.where(largest > 0, largest, 1.0)[:, None]).mean(1))


def _keep(tiles: Tiles, out: np.ndarray, i: int, j: int, entries: np.ndarray) -> None:
    out[tiles.span(i, len(out)), tiles.span(j, len(out))] = entries


def _close(theirs: Any, ours: Sequence[float]) -> bool:
    """Return whether two lists of kernel values are equal up to rounding, relative to √(Θ(x, x) Θ(x', x'))."""
    if len(theirs) != len(ours) or not all(isinstance(value, (int, float)) for value in theirs):
        return False
    there, here = (np.zeros((3, 3, 3)) for _ in range(2))
    rows, columns = np.triu_indices(3)
    there[:, rows, columns], here[:, rows, columns] = (np.reshape(v, (3, -1)) for v in (theirs, ours))
    std = np.sqrt(np.abs(np.einsum("kii->ki", here)))
    slack = _ROUNDING * np.maximum(std[:, :, None] * std[:, None, :], np.finfo(float).tiny)
    same = (np.abs(there - here) <= slack) | (there == here) | (np.isnan(there) & np.isnan(here))
    return bool(same.all())
