"""MNIST, Fashion-MNIST and CIFAR-10: downloaded once, checked, and then read from the user's cache folder.

The bytes of a file NAME are downloaded to `NAME.part`. When all are there, they are copied, and the copy is named
`NAME` only if its SHA-256 is right. So a file `NAME` is complete. An interrupted download continues from where it
stopped (HTTP range requests), with the next connection or the next call. Several processes may download the same file
at once: all write the same bytes at the same places, and a good `NAME.part` is removed only when `NAME` exists.

Neither the host nor the folder is trusted. No more bytes are written than the file has, a host that is too slow is
given up, and bytes are written only to a plain file, never through a link.
"""

import contextlib
import functools
import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

TIMEOUT = (10.0, 60.0)  # the longest time to connect, and the longest time without a byte, in seconds
SLOWEST = (1_000, 60.0)  # bytes and seconds: a host that sends fewer bytes in this time is given up
PAUSE = 0.1  # seconds between a connection that broke and the next one
CHUNK = 1 << 15  # the most bytes that are read at once

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images and labels for training, then for testing


class File(NamedTuple):
    """The length of a file in bytes, and its SHA-256."""

    size: int
    sha256: str


class Source(NamedTuple):
    """The files of a set, and the addresses of its mirrors. Mirrors end in "/", and are tried in order."""

    mirrors: tuple[str, ...]
    files: dict[str, File]


SOURCES = {  # the digests are those in the loaders of TensorFlow Datasets, Keras and torchvision
    "mnist": Source(
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        files={
            "train-images-idx3-ubyte.gz": File(
                9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": File(
                28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": File(
                1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": File(
                4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "fashion_mnist": Source(
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        files={
            "train-images-idx3-ubyte.gz": File(
                26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            "train-labels-idx1-ubyte.gz": File(
                29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            "t10k-images-idx3-ubyte.gz": File(
                4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            "t10k-labels-idx1-ubyte.gz": File(
                5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        },
    ),
    "cifar10": Source(  # this host may be slow (tens of kB/s): the 170 MB can take an hour
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        files={
            "cifar-10-binary.tar.gz": File(
                170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
            ),
        },
    ),
}


def read_mnist(name: str) -> Arrays:
    """Return MNIST or a set like it, images uint8 [N, 28, 28, 1] and labels uint8 [N], for training and testing."""
    x_train, y_train, x_test, y_test = (_read_idx(path) for path in fetch(name))
    return x_train[..., None], y_train, x_test[..., None], y_test


def read_cifar10(name: str) -> Arrays:
    """Return CIFAR-10, images uint8 [N, 32, 32, 3] and labels uint8 [N], for training and testing."""
    batches = {}
    with tarfile.open(fetch(name)[0], "r:gz") as archive:
        for member in archive:
            if member.name.endswith(".bin") and (file := archive.extractfile(member)):
                with file:
                    batches[Path(member.name).stem] = np.frombuffer(file.read(), np.uint8)
    train = np.concatenate([batches[f"data_batch_{i}"] for i in range(1, 6)])
    return *_images_and_labels(train), *_images_and_labels(batches["test_batch"])


def fetch(name: str) -> list[Path]:
    """Return the paths of the files of a set, in the order of `SOURCES`, and download the files that are not there.

    The folder of the set is `NTK_DATA_DIR/name` or, if this environment variable is not set, `ntklib/name` in the
    user's cache. A file in it with a wrong length or a wrong SHA-256 is removed, and downloaded again.

    Raises:
        ConnectionError: If a file cannot be downloaded. The message says how to put it in place by hand.
        OSError: If the folder cannot be used.
    """
    mirrors, files = SOURCES[name]
    folder = _folder(name)
    reasons = []
    with _explained(folder):
        for file, known in files.items():
            if _is_there(folder / file) and not _is_right(folder / file, known):
                (folder / file).unlink(missing_ok=True)
                reasons.append(f"{file} was there, but truncated or altered, and has been removed")
        missing = [file for file in files if not _is_there(folder / file)]
        if missing:
            _make(folder)
        while missing:
            reasons += _download(mirrors, missing[0], files[missing[0]], folder)
            if not _is_there(folder / missing[0]):
                break
            missing.pop(0)
    if missing:
        raise ConnectionError(
            f"{name!r} needs {', '.join(missing)}, which could not be downloaded ({'; '.join(reasons)}): "
            f"try again later (what has arrived is kept), or put what is missing into the folder {folder} by hand "
            f"(from {mirrors[0]}), or set the environment variable NTK_DATA_DIR to a folder "
            f"that has it in a subfolder {name!r}."
        )
    return [folder / file for file in files]


def _folder(name: str) -> Path:
    """Return the folder of a set, which need not exist yet."""
    import pooch

    chosen = os.environ.get("NTK_DATA_DIR")
    try:
        return Path(chosen or pooch.os_cache("ntklib")).expanduser() / name
    except RuntimeError:  # `expanduser` finds no home folder
        raise OSError(
            f"The data folder {chosen or 'in the cache of this user'} cannot be found: that user has no home folder. "
            f"Set the environment variable NTK_DATA_DIR to the absolute path of a folder."
        ) from None


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Return a context that replaces an OSError by one whose message names the folder and the way out."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"The data folder {folder} cannot be used: {error.strerror or error}. "
            f"Mend that, or set the environment variable NTK_DATA_DIR to another folder."
        ) from None


def _make(folder: Path) -> None:
    """Make the folder and its parents. Raise OSError if no files can be made in it."""
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise OSError(f"{nearest} is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def _is_there(path: Path) -> bool:
    """Return whether there is a file at a path. Raise OSError if a folder or something else is there."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} in it is {'a folder' if path.is_dir() else 'not a file'}")
    return path.exists()


def _is_right(path: Path, known: File) -> bool:
    import pooch

    return path.stat().st_size == known.size and pooch.file_hash(str(path)) == known.sha256


def _download(mirrors: tuple[str, ...], name: str, known: File, folder: Path) -> list[str]:
    """Download `folder/name` from the first mirror that works. Return what went wrong with each mirror that failed."""
    import pooch
    import requests
    import urllib3

    target, part = folder / name, folder / f"{name}.part"
    downloader = functools.partial(_complete, part=part, size=known.size)
    reasons = []
    for mirror in mirrors:
        reason = ""
        # If the digest is wrong, bytes kept from an earlier run may be the reason: try once more from the start.
        for _ in range(2 if os.path.lexists(part) else 1):
            try:
                if not target.exists():  # if it exists, another process was faster
                    pooch.retrieve(mirror + name, known.sha256, fname=name, path=folder, downloader=downloader)
                part.unlink(missing_ok=True)
                return reasons
            except (requests.RequestException, urllib3.exceptions.HTTPError, _RefusedError) as error:
                reason = _why(error)
                break
            except ValueError:  # the SHA-256 is wrong, and pooch has removed its copy
                part.unlink(missing_ok=True)
                reason = "what came was truncated or altered, and has been removed"
        reasons.append(f"{mirror.split('/')[2]}: {reason}")
    return reasons


def _complete(url: str, output_file: str, _pooch: object, *, part: Path, size: int) -> None:
    """Download bytes until `part` has `size` bytes, and copy `part` to `output_file`; a downloader for pooch.

    After a connection that broke, another one is opened only if `part` has grown.
    """
    import requests
    import urllib3
    from tqdm import tqdm

    pace = _Pace()
    try:
        with _open_part(part) as kept, tqdm(desc=Path(url).name, total=size, unit="B", unit_scale=True) as progress:
            if _length(kept) > size:
                kept.truncate(0)
            while (before := _length(kept)) < size:
                try:
                    _read_on(url, kept, size, pace, progress)
                except (requests.RequestException, urllib3.exceptions.HTTPError):
                    if _length(kept) == before:
                        raise
                    pace.count(0)
                    time.sleep(PAUSE)
            kept.seek(0)
            with open(output_file, "wb") as out:
                shutil.copyfileobj(kept, out)
    finally:
        with contextlib.suppress(FileNotFoundError):  # another process may have removed it
            if part.is_file() and part.stat().st_size == 0:
                part.unlink()


def _read_on(url: str, kept: BinaryIO, size: int, pace: "_Pace", progress: Any) -> None:
    """Open one connection, request the bytes that follow those in `kept`, and write bytes to `kept` as they arrive."""
    import requests
    import urllib3

    start = _length(kept)
    headers = {"Accept-Encoding": "identity"}  # the bytes of the file itself, without compression
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            start = 0  # the host does not support ranges and sends the whole file
        announced = answer.headers.get("Content-Length", "")
        if announced.isdigit() and start + int(announced) != size:
            raise _RefusedError(f"the file there is truncated or altered: {start + int(announced)} bytes, not {size}")
        kept.seek(start)
        progress.update(start - progress.n)
        # `read1` returns what has arrived. `read` would wait for a whole chunk, and lose it if the connection breaks.
        while chunk := answer.raw.read1(CHUNK, decode_content=False):
            if kept.tell() + len(chunk) > size:
                kept.truncate(0)
                raise _RefusedError(f"the file there is altered: more than {size} bytes")
            kept.write(chunk)
            kept.flush()
            pace.count(len(chunk))
            progress.update(len(chunk))
        if kept.tell() < size:
            raise urllib3.exceptions.IncompleteRead(kept.tell(), size - kept.tell())


class _RefusedError(Exception):
    """Raised if the answer of a host cannot be used. The message says why."""


class _Pace:
    """A counter of the bytes that arrive. It raises `_RefusedError` if a host is slower than `SLOWEST`."""

    def __init__(self) -> None:
        self.bytes, self.since = 0, time.monotonic()

    def count(self, new: int) -> None:
        self.bytes += new
        least, seconds = SLOWEST
        if self.bytes >= least:
            self.bytes, self.since = 0, time.monotonic()
        elif time.monotonic() - self.since > seconds:
            raise _RefusedError(f"it stalls: fewer than {least:,} bytes in {seconds:g} seconds")


def _open_part(part: Path) -> BinaryIO:
    """Open `part` for reading and writing. If it is a link, it is removed first: writing would change another file."""
    with contextlib.suppress(FileNotFoundError):  # there is none yet, or another process has just removed it
        found = part.lstat()
        if stat.S_ISDIR(found.st_mode):
            raise OSError(f"{part.name} in it is a folder")
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            part.unlink()
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(part, flags, 0o666), "r+b")


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _why(error: Exception) -> str:
    """Return a phrase for a message that says why a download failed."""
    import requests
    import urllib3

    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, requests.HTTPError):
        return f"answered {error.response.status_code}"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection broke"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"{type(error).__name__} {error}"


def _read_idx(path: Path) -> np.ndarray:
    """Return the array of an idx file: the bytes 0, 0, 8 (for uint8) and rank, sizes as big-endian int32, entries."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes: it begins with {content[:4].hex(' ')}.")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _images_and_labels(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels from rows of CIFAR-10: a label, then 32×32 values of red, of green, and of blue."""
    rows = batch.reshape(-1, 1 + 3 * 32 * 32)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]
