"""Files that survive an interrupt: a kernel matrix on disk, and the state of an iteration.

Each file is first written under another name in the same folder, and is then renamed. So a file is either complete or
not there. A run may be killed at any moment, and the next run continues from the files that are there.
"""

import hashlib
import json
import os
import re
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import jax
import numpy as np

from ntklib.scale.fingerprint import TYPES, difference, fingerprint
from ntklib.scale.tiles import TileIndex, Tiles

if TYPE_CHECKING:
    import tensorstore

_MANIFEST = "ntklib.json"
#: In format 1 only the kernel of the first two inputs told networks apart, and tiles had no checksums. In format 2
#: different networks have different fingerprints, and tiles have checksums.
_FORMAT = 2
#: The number of tiles that are read at a time to test their checksums.
_AT_A_TIME = 64


def local_path(argument: str, value: Any) -> Path:
    """Return the path that a string, a path object or a `file://` address names; `~` is the home folder.

    Raises:
        TypeError: If `value` is of another type, or empty.
        ValueError: If the path is not on this machine, or its home folder is not known.
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str) or not os.fspath(value):
        raise TypeError(f"`{argument}` must be a path, such as 'runs/kernel'; got {type(value).__name__} {value!r}.")
    text = os.fspath(value)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)  # at least two letters, because C:/ is a drive
    if scheme and scheme[1].lower() == "file":
        address = urllib.parse.urlparse(text)
        if address.netloc in ("", "localhost"):
            return Path(urllib.request.url2pathname(address.path))
    if scheme:
        raise ValueError(
            f"`{argument}` must be a path on this machine; got the address {text!r}. Choose a folder where the remote "
            f"storage is mounted, or choose another path and copy what is there to the address when it is complete."
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"`{argument}` is {text!r}, and this home folder is not known. Write the path without `~`. ({error})"
        ) from error


class Store:
    """The folder of one run of `gram`. Each tile is a chunk, and each chunk is a file with a checksum (crc32c).

    The first file is the manifest, which says which run the folder belongs to (see `fingerprint`). One process writes
    it. Other processes of the same run may use the folder at the same time, and write the same tiles. Processes of
    another run are refused.

    Raises:
        ValueError: If the folder cannot be made, holds something else, belongs to another run, or is damaged.
    """

    def __init__(self, path: Path, tiles: Tiles) -> None:
        self.path, self.tiles = path, tiles
        found = _manifest(path)
        ours = {"format": _FORMAT, **fingerprint(tiles)}
        if found is None:
            self._begin(ours)
            found = _manifest(path) or {}  # the manifest of the process that was first
        _same_run("store", path, found, ours)
        self.array = self._open()

    def _begin(self, record: dict) -> None:
        """Make the folder and its manifest, unless another process has made them first."""
        path = self.path
        try:
            others = path.exists() and (not path.is_dir() or any(not _is_beside(p, _MANIFEST) for p in path.iterdir()))
            if others and not (path / _MANIFEST).exists():
                raise ValueError(
                    f"`store` must be a new folder, or one that `gram` has made; {path} holds something else. "
                    f"Nothing was changed."
                )
            path.mkdir(parents=True, exist_ok=True)
            put(path / _MANIFEST, lambda file: file.write(json.dumps(record, indent=1).encode()), replace=False)
        except OSError as error:
            raise ValueError(f"`store` cannot be made at {path}: {error}. Choose another place.") from error

    def _open(self) -> "tensorstore.TensorStore":
        import tensorstore as ts

        (n, m), size = self.tiles.shape, self.tiles.tile
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(self.path.resolve())},
            "metadata": {
                "shape": [n, m],
                "data_type": self.tiles.dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size, size]}},
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
                "fill_value": "NaN",  # other readers return it for a missing tile
            },
            "store_data_equal_to_fill_value": True,  # a tile of NaN is written like any other
            "fill_missing_data_reads": False,  # reading a missing tile is an error
        }
        try:
            return ts.open(spec, open=True, create=True).result()
        except ValueError as error:
            raise ValueError(
                f"`store` is damaged: {self.path / 'zarr.json'} is not the description of its array. Nothing was "
                f"changed. Delete this file and call again: it is written anew, and all tiles are kept. "
                f"({str(error).split(' [')[0]})"
            ) from error

    @staticmethod
    def tile_of(path: Path) -> int | None:
        """Return the size of the tiles of an existing store, or None if there is no store."""
        found = _manifest(path)
        return None if found is None else found["tile"]

    def done(self, pairs: Iterable[TileIndex]) -> set[TileIndex]:
        """Return the tiles of `pairs` that exist. Each of them is read once. Raise ValueError if one is damaged."""
        there = [pair for pair in pairs if os.path.lexists(self._chunk(*pair))]
        damaged = []
        for first in range(0, len(there), _AT_A_TIME):
            some = there[first : first + _AT_A_TIME]
            # To read one entry, the whole file is read and its checksum is tested.
            reads = [self.array[i * self.tiles.tile, j * self.tiles.tile].read() for i, j in some]
            damaged += [pair for pair, read in zip(some, reads, strict=True) if read.exception() is not None]
        if damaged:
            names = ", ".join(str(self._chunk(*pair)) for pair in damaged[:10])
            more = f" and {len(damaged) - 10} more" if len(damaged) > 10 else ""
            raise ValueError(
                f"`store` is damaged: of the {len(there)} tiles in {self.path}, {len(damaged)} cannot be read or have "
                f"another checksum than when they were written: {names}{more}. Nothing was changed. Delete these files "
                f"and call again: they are computed anew, and all others are kept."
            )
        return set(there)

    def write(self, i: int, j: int, entries: np.ndarray) -> None:
        """Write one tile, and return when it is on disk."""
        n, m = self.tiles.shape
        self.array[self.tiles.span(i, n), self.tiles.span(j, m)].write(np.ascontiguousarray(entries)).result()

    def _chunk(self, i: int, j: int) -> Path:
        return self.path / "c" / str(i) / str(j)


class Checkpoint:
    """The state of an iteration in a file, with a record of the problem that it belongs to.

    Without a path nothing is saved. `arrays` has the names and shapes of the arrays of a state, with None for a length
    that is not known.

    Raises:
        ValueError: If the folder of the file does not exist, or if the file belongs to another problem or is damaged.
    """

    def __init__(
        self,
        path: Path | None,
        tiles: Tiles,
        y: np.ndarray,
        settings: dict[str, Any],
        arrays: dict[str, tuple[int | None, ...]],
    ) -> None:
        self.path, self.arrays, self.state, self.at = path, arrays, None, time.monotonic()
        if path is None:
            return
        if not path.parent.is_dir():
            raise ValueError(
                f"`checkpoint` is {path}, and there is no folder {path.parent}. Make it, or choose another."
            )
        targets = hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest()
        self.settings = {"format": _FORMAT, **fingerprint(tiles), **settings, "targets": targets}
        self.exists = os.path.lexists(path)
        if self.exists:
            self.state = self._read(path)

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                state = {name: arrays[name] for name in arrays.files}
            found = json.loads(str(state.pop("settings")))
        except Exception as error:  # different kinds of damage raise different types of errors
            raise self._damaged(path, f"{type(error).__name__}: {error}") from error
        _same_run("checkpoint", path, _complete("checkpoint", path, found), self.settings)
        for name, shape in self.arrays.items():
            array = state.get(name, np.empty(0))
            sizes = [got if want is None else want for want, got in zip(shape, array.shape, strict=False)]
            if array.dtype != np.float64 or array.ndim != len(shape) or [*array.shape] != sizes or not array.size:
                raise self._damaged(path, f"it has no array {name!r} of the type and shape that `cg_solve` writes")
            if not np.isfinite(array).all():
                raise self._damaged(path, f"{name!r} is not finite")
        return {name: state[name] for name in self.arrays}

    @staticmethod
    def _damaged(path: Path, why: str) -> ValueError:
        return ValueError(
            f"`checkpoint` must be a file that `cg_solve` has written; {path} is not, or is damaged ({why}). Nothing "
            f"was changed. Delete this file to start again, or choose another place."
        )

    def load(self) -> dict[str, np.ndarray] | None:
        """Return the state that the file held when this object was made, or None if there was no file."""
        return self.state

    def claim(self, **state: Any) -> None:
        """Write the first state if there was no file, so that another run finds the place taken.

        Under `jax.distributed` nothing is written: a slower process of the same run would take the file for that of an
        earlier run.
        """
        if self.path is not None and not self.exists and jax.process_count() == 1:
            self.save(True, **state)

    def save(self, now: bool, **state: Any) -> None:
        """Write the state if `now` is set or a minute has passed since the last time. Only the first process writes.

        Raises:
            ValueError: If there was no file when this object was made, and another process has written one since.
        """
        if self.path is None or jax.process_index() or not (now or time.monotonic() - self.at > 60):
            return
        settings = json.dumps(self.settings)
        if not put(self.path, lambda file: np.savez(file, settings=settings, **state), replace=self.exists):
            raise ValueError(
                f"`checkpoint` is in use: another process has begun to write {self.path} meanwhile. Nothing was "
                f"changed. Choose another place, or wait until that process ends."
            )
        self.exists, self.at = True, time.monotonic()


def put(path: Path, write: Callable[[IO[bytes]], Any], *, replace: bool) -> bool:
    """Write a file under a temporary name, rename it to `path` when it is complete, and return whether it was renamed.

    Without `replace` an existing file is never changed. If the file system has hard links, this holds even for a file
    that another process creates at the same moment.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(beside, path)
            return True
        try:
            os.link(beside, path)  # unlike renaming, this fails if the file exists
        except FileExistsError:
            return False
        except OSError:  # the file system has no hard links
            if path.exists():
                return False
            os.replace(beside, path)
        return True
    finally:
        beside.unlink(missing_ok=True)


def _is_beside(path: Path, name: str) -> bool:
    """Return whether `path` is a temporary file of `put` for the file `name`. A run that is killed may leave one."""
    return path.name.startswith(f".{name}.")


def _same_run(argument: str, path: Path, found: dict, ours: dict) -> None:
    """Raise ValueError if the record `found` is of a run with other inputs, another network or other settings."""
    words = difference(found, ours)
    if words is not None:
        raise ValueError(
            f"`{argument}` belongs to another run: {path} was made with {words}. Nothing was changed. Choose another "
            f"place, or delete that one."
        )


def _complete(argument: str, path: Path, found: Any) -> dict[str, Any]:
    """Return the record that was found. Raise ValueError if it lacks an entry, or was written by another version."""
    record = found if isinstance(found, dict) else {}
    if record.get("format") == 1:
        raise ValueError(
            f"`{argument}` was written by an older version of ntklib: {path} does not describe its network well "
            f"enough to tell it from all others. Nothing was changed. Delete the {argument} and compute it anew, or "
            f"choose another place."
        )
    wrong = [name for name, type_ in TYPES.items() if type(record.get(name)) is not type_]
    wrong = wrong or (["tile"] if record["tile"] < 1 else [])
    if record.get("format") != _FORMAT or wrong:
        fault = f"has no valid entry {wrong[0]!r}" if wrong else f"is of format {record.get('format')!r}"
        raise ValueError(
            f"`{argument}` is damaged, or of another version of ntklib: {path} must hold a record of its run, but "
            f"{fault if record else 'holds no such record'}. Nothing was changed. Put a copy of the file back, or "
            f"delete {path if argument == 'checkpoint' else path.parent} and call again, or choose another place."
        )
    return record


def _manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a store, or None if there is none. Raise ValueError if it cannot be read."""
    file = path / _MANIFEST
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(f"`store` cannot be read: {error}. Choose another place.") from error
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    return _complete("store", file, found)
