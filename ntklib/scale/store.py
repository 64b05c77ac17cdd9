"""What outlives an interrupt: a kernel matrix on disk and the checkpoints of an iteration, with what they belong to."""

import hashlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntklib.scale.tiles import Tiles

_MANIFEST = "ntklib.json"
_FORMAT = 1


class Store:
    """The folder of one run of `gram`. A tile is a chunk, and a chunk is a file that is there or is not: files are
    written beside and renamed. So what is there is right, whenever the run was killed.

    The manifest has shape, tile, type and kind of the kernel, a hash of the inputs, and the kernel of the first few
    inputs, which tells networks apart.
    """

    def __init__(self, path: Path, tiles: Tiles) -> None:
        self.path, self.tiles = path, tiles
        settings = fingerprint(tiles)
        found = _manifest(path)
        if found is None:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise ValueError(
                    f"`store` must be a new folder, or one that `gram` has made; {path} holds something else. "
                    f"Nothing was changed."
                )
            path.mkdir(parents=True, exist_ok=True)
            beside = path / f".{_MANIFEST}.{uuid.uuid4().hex}"
            beside.write_text(json.dumps(settings, indent=1))
            os.replace(beside, path / _MANIFEST)
        else:
            same_run("store", path, found, settings)
        self.array = self._open()

    def _open(self) -> Any:
        import tensorstore as ts

        (n, m), size = self.tiles.shape, self.tiles.tile
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(self.path.resolve())},
            "metadata": {
                "shape": [n, m],
                "data_type": self.tiles.dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size, size]}},
            },
            "store_data_equal_to_fill_value": True,  # a tile of zeros is a tile that is done
        }
        return ts.open(spec, open=True, create=True).result()

    @staticmethod
    def tile_of(path: str | os.PathLike) -> int | None:
        """The tile of a store that is there already."""
        found = _manifest(Path(path))
        return None if found is None else found["tile"]

    def has(self, i: int, j: int) -> bool:
        """Whether a tile is there."""
        return (self.path / "c" / str(i) / str(j)).exists()

    def write(self, i: int, j: int, entries: np.ndarray) -> None:
        """Write one tile; it is on disk when this returns."""
        n, m = self.tiles.shape
        self.array[self.tiles.span(i, n), self.tiles.span(j, m)].write(np.ascontiguousarray(entries)).result()


class Checkpoint:
    """The vectors of an iteration in a file, with what they belong to."""

    def __init__(self, path: str | os.PathLike | None, tiles: Tiles, y: np.ndarray, settings: dict) -> None:
        self.path, self.at = None if path is None else Path(path), time.monotonic()
        if self.path is None:
            return
        targets = hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest()
        self.settings = {**fingerprint(tiles), **settings, "targets": targets}
        self.state = None
        if self.path.exists():
            try:
                with np.load(self.path) as file:
                    self.state = {name: file[name] for name in file}
                found = json.loads(str(self.state.pop("settings")))
            except (ValueError, KeyError, OSError) as error:
                raise ValueError(f"`checkpoint` must be a file of `cg_solve`; {self.path} is not. {error}") from error
            same_run("checkpoint", self.path, found, self.settings)

    def load(self) -> dict[str, Any] | None:
        return None if self.path is None else self.state

    def save(self, now: bool, **state: Any) -> None:
        """Write beside and rename, once a minute or now."""
        if self.path is None or jax.process_index() or not (now or time.monotonic() - self.at > 60):
            return
        beside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        with beside.open("wb") as file:
            np.savez(file, settings=json.dumps(self.settings), **state)
        os.replace(beside, self.path)
        self.at = time.monotonic()


def fingerprint(tiles: Tiles) -> dict:
    """What tells one kernel matrix from another."""
    digest = hashlib.sha256()
    for x in (tiles.x1,) if tiles.symmetric else (tiles.x1, tiles.x2):
        digest.update(repr((x.shape, x.dtype.name)).encode())
        for i in range(0, len(x), 1024):
            digest.update(np.ascontiguousarray(x[i : i + 1024]).tobytes())
    first = tiles(0, 0)[:2, :2].ravel()
    return {
        "format": _FORMAT,
        "kernel": tiles.kernel,
        "shape": list(tiles.shape),
        "tile": tiles.tile,
        "dtype": tiles.dtype.name,
        "symmetric": tiles.symmetric,
        "inputs": digest.hexdigest(),
        "first entries": [float(e) for e in first],
    }


def same_run(argument: str, path: Path, found: dict, settings: dict) -> None:
    """Refuse to go on with what was begun with other settings."""
    for name, ours in settings.items():
        theirs = found.get(name)
        if name == "first entries" and theirs:  # equal up to rounding: the machine may be another
            same = np.allclose(theirs, ours, rtol=1e-5 if settings["dtype"] == "float32" else 1e-11, atol=0.0)
        else:
            same = theirs == ours
        if not same:
            words = {
                "inputs": "other inputs",
                "targets": "other targets",
                "first entries": f"another network (the kernel of its first inputs is {theirs}, here {ours})",
            }
            raise ValueError(
                f"`{argument}` belongs to another run: {path} was made with "
                f"{words.get(name, f'{name} = {theirs}, here {ours}')}. "
                f"Nothing was changed. Choose another place, or delete that one."
            )


def _manifest(path: Path) -> dict | None:
    try:
        return json.loads((path / _MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
