"""MNIST, Fashion-MNIST and CIFAR-10: fetched once with a checksum, then read from the user's cache folder.

A file is fetched into `NAME.part` and gets its own name only when its SHA-256 is right: what looks complete
is complete. An interrupted download goes on from where it stopped (HTTP range requests), with the next try or
the next call. Several processes may fetch the same file at once: all write the same bytes at the same places,
and `NAME.part` goes away only when `NAME` is there.
"""

import functools
import gzip
import os
import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

TIMEOUT = (10.0, 60.0)  # seconds: to connect, and without a byte arriving
TRIES = 100  # per mirror, each of which brought something before the connection broke
CHUNK = 1 << 15  # bytes: under a second at the slowest host

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images, labels; then those for testing


class Source(NamedTuple):
    """Where a set comes from: addresses that end in "/", tried in order, and the SHA-256 of each file."""

    mirrors: tuple[str, ...]
    files: dict[str, str]


SOURCES = {  # the digests are those in the loaders of TensorFlow Datasets, Keras and torchvision
    "mnist": Source(
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        files={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion_mnist": Source(
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        files={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar10": Source(  # this host may be slow (tens of kB/s): the 170 MB can take an hour
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        files={
            "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        },
    ),
}


def read_mnist(name: str) -> Arrays:
    """MNIST, or a set in its format: images uint8 [N, 28, 28, 1], labels uint8 [N]."""
    x_train, y_train, x_test, y_test = (_read_idx(path) for path in fetch(name))
    return x_train[..., None], y_train, x_test[..., None], y_test


def read_cifar10(name: str) -> Arrays:
    """CIFAR-10 in its binary version: images uint8 [N, 32, 32, 3], labels uint8 [N]."""
    batches = {}
    with tarfile.open(fetch(name)[0], "r:gz") as archive:
        for member in archive:
            if member.name.endswith(".bin") and (file := archive.extractfile(member)):
                with file:
                    batches[Path(member.name).stem] = np.frombuffer(file.read(), np.uint8)
    train = np.concatenate([batches[f"data_batch_{i}"] for i in range(1, 6)])
    return *_images_and_labels(train), *_images_and_labels(batches["test_batch"])


def fetch(name: str) -> list[Path]:
    """The files of a set, in the order of `SOURCES`: from the folder, else from the first mirror that works.

    The folder is `NTK_DATA_DIR/name` if that environment variable is set, and otherwise `name` in the user's
    cache. A file whose SHA-256 is wrong is removed, wherever it came from.

    Raises: ConnectionError if a file cannot be had; its text says how to put it there by hand.
    """
    import pooch

    mirrors, files = SOURCES[name]
    folder = Path(os.environ.get("NTK_DATA_DIR") or pooch.os_cache("ntklib")).expanduser() / name
    reasons = []
    for file, digest in files.items():
        if (folder / file).exists() and pooch.file_hash(str(folder / file)) != digest:
            (folder / file).unlink()
            reasons.append(f"{file} was there, but truncated or altered, and has been removed")
    missing = [file for file in files if not (folder / file).exists()]
    while missing:
        reasons += _download(mirrors, missing[0], files[missing[0]], folder)
        if not (folder / missing[0]).exists():
            raise ConnectionError(
                f"{name!r} needs {', '.join(missing)}, which could not be downloaded ({'; '.join(reasons)}): "
                f"try again later (what has arrived is kept), or put what is missing into the folder {folder} by hand "
                f"(from {mirrors[0]}), or set the environment variable NTK_DATA_DIR to a folder "
                f"that has it in a subfolder {name!r}."
            )
        missing.pop(0)
    return [folder / file for file in files]


def _download(mirrors: tuple[str, ...], file: str, digest: str, folder: Path) -> list[str]:
    """Tries to get `folder/file`; returns what went wrong, a phrase for each mirror that failed."""
    import pooch

    target, part = folder / file, folder / f"{file}.part"
    downloader = functools.partial(_resume, part=part)
    reasons = []
    for mirror in mirrors:
        for _ in range(TRIES):
            before = _size(part)
            try:
                if not target.exists():  # else another process was faster
                    pooch.retrieve(mirror + file, digest, fname=file, path=folder, downloader=downloader)
                part.unlink(missing_ok=True)
                return reasons
            except ValueError:  # the SHA-256 is wrong, and pooch has removed its copy
                part.unlink(missing_ok=True)
                reason = "what came was truncated or altered, and has been removed"
                go_on = before > 0  # what was kept from before may be to blame: once more, from the start
            except OSError as error:  # with those of requests
                reason = _why(error)
                go_on = _size(part) > before  # it brought something before it broke: go on from there
            if not go_on:
                break
        reasons.append(f"{mirror.split('/')[2]}: {reason}")
    return reasons


def _resume(url: str, output_file: str, _pooch: object, *, part: Path) -> None:
    """A downloader for pooch: goes on at the end of `part`, copies it to `output_file` when all is there."""
    import requests
    from tqdm import tqdm

    start = _size(part)
    headers = {"Accept-Encoding": "identity"}  # the bytes of the file itself, never unpacked on the way
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            shutil.copyfile(part, output_file)  # no byte is left to fetch
            return
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            start = 0  # the host knows no ranges and sends the whole file
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        part.touch()
        with (
            open(part, "r+b", buffering=0) as kept,
            tqdm(desc=Path(url).name, total=total, initial=start, unit="B", unit_scale=True) as progress,
        ):
            kept.seek(start)
            for chunk in answer.iter_content(CHUNK):
                kept.write(chunk)
                progress.update(len(chunk))
    shutil.copyfile(part, output_file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _why(error: OSError) -> str:
    import requests

    if isinstance(error, requests.HTTPError):
        return f"answered {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)


def _read_idx(path: Path) -> np.ndarray:
    """An array in the idx format: 0, 0, 8 (for bytes), rank, each size as a big-endian int32, the entries."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes: it begins with {content[:4].hex(' ')}.")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _images_and_labels(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's rows of 3,073 bytes: a label, then 32×32 values of red, of green, and of blue."""
    rows = batch.reshape(-1, 1 + 3 * 32 * 32)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]
