"""Runs a notebook from a clean kernel of the running interpreter and looks after what it leaves behind."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode, ValidationError

MAX_BYTES = 300_000
CHOSEN = ("NTK_SCALE", "NTK_SEED")
_PATHS = re.compile(r"(?<![\w.:/])(?:/(?:home|Users|root|tmp|mnt|opt|usr|var|private)/|[A-Z]:\\\\?\w)")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def environment(root: Path) -> dict[str, str]:
    """Return the environment in which notebooks are run: quiet, noting no progress, compiling once.

    What makes another run than everybody's is left out: `CHOSEN` is for the commands that say so.
    """
    own = {name: value for name, value in os.environ.items() if name not in (*CHOSEN, "NTK_CLAIMS")}
    if own.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Who wants no bytecode beside the sources gets it here: without any, imports take three times as long.
        own.setdefault("PYTHONPYCACHEPREFIX", str(root / ".cache" / "python"))
    return {
        **own,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),  # this clone's code
        "CI": "true",
        "NTK_PROGRESS": "off",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_COMPILATION_CACHE_DIR": str(root / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def read(path: Path) -> Any:
    """Return a notebook file; raise `NotebookFailed` if it is none."""
    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
        return nb
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise NotebookFailed(
            f"{path} cannot be read as a notebook ({why[:200]}). If an editor or a merge damaged it, "
            f"git checkout -- {path} brings back the file as it was handed out."
        ) from None


class NotebookFailed(RuntimeError):
    """A cell raised: the message holds the notebook, the cell's number, its source and the error. Or it is none."""


def plain(text: str) -> str:
    """Return `text` without the colours of a terminal."""
    return _ESCAPES.sub("", text)


def execute(
    nb: NotebookNode, path: Path, env: Mapping[str, str], *, timeout: float = 900, allow_errors: bool = False
) -> NotebookNode:
    """Run `nb` in place, in the folder of `path`, with progress on stderr; leave only stable metadata."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    current = 0

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal current
        current = cell_index
        if sys.stderr.isatty():
            print(f"\r{path.name}: cell {cell_index + 1} of {len(nb.cells)} ", end="", file=sys.stderr, flush=True)

    path.parent.mkdir(exist_ok=True)
    client = NotebookClient(
        nb,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # a kernel of this machine need not warn that it is not encrypted
        timeout=timeout,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
        allow_errors=allow_errors,
        on_cell_start=start,
    )
    manager: Any = client.create_kernel_manager()
    manager.kernel_spec.argv[0] = sys.executable  # whatever other kernel of that name is installed
    try:
        client.execute(env=dict(env))
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        what = plain(_error(nb.cells[current]) or str(error))
        raise NotebookFailed(f"{path.name}, cell {current + 1}:\n\n{nb.cells[current].source}\n\n{what}") from None
    finally:
        if sys.stderr.isatty():
            print("\r" + " " * 70 + "\r", end="", file=sys.stderr)
    from course.notebooks.source import METADATA

    nb.metadata = nbformat.from_dict(METADATA)
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = fewer_colours(output["data"]["image/png"])
    return nb


def fewer_colours(png: str) -> str:
    """A base64 PNG with a palette of 128 colours, a third of the size: figures are lines on white. Left as it is where
    that is not smaller (photographs) or not a picture that can be read.
    """
    import base64
    import io

    from PIL import Image

    try:
        image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    except OSError:
        return png
    out = io.BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    smaller = base64.b64encode(out.getvalue()).decode()
    return smaller if len(smaller) < len(png) else png


def text_of(cell: NotebookNode) -> str:
    """Return what a cell printed and showed, as text."""
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        found += [output.get("text", ""), *(text for kind, text in data.items() if kind.startswith("text/"))]
    return "\n".join("".join(text) for text in found)


def verdicts(cell: NotebookNode) -> list[str]:
    """Return the first lines of what `check` said in a cell, passed or failed."""
    said = [text_of(cell), *(output.evalue for output in cell.get("outputs", []) if output.output_type == "error")]
    return [line for text in said for line in text.splitlines() if re.match(r"\d\d[a-z]?\.\d+ ", line)]


def problems(nb: NotebookNode, root: Path | None = None) -> list[str]:
    """Return what is wrong with a built notebook; empty if nothing is."""
    found = []
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernelspec is not python3")
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("the execution counts are not 1 to n: it was not run in one go")
    for number, cell in enumerate(nb.cells, 1):
        outputs = cell.get("outputs", [])
        if any(output.output_type == "error" for output in outputs):
            found.append(f"cell {number} holds an error")
        found += [
            f"cell {number} wrote to stderr: {o.text.strip()[:200]}" for o in outputs if o.get("name") == "stderr"
        ]
        for text in (cell.source, text_of(cell)):
            if re.search(r" at 0x[0-9a-f]{6}", text):
                found.append(f"cell {number} shows an object's address, which differs at every run")
            if _PATHS.search(text) or (root is not None and str(root) in text):
                found.append(f"cell {number} holds an absolute path")
        if any(kind.startswith("image/") for output in outputs for kind in output.get("data", {})):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            if len(alt) < 20:
                found.append(f'cell {number} shows a figure without alt text: `# %% alt="..."`')
    size = len(nbformat.writes(nb).encode())
    if size > MAX_BYTES:
        found.append(f"it has {size // 1000} kB, more than {MAX_BYTES // 1000}")
    return found


def _error(cell: NotebookNode) -> str:
    """Return the end of a failed cell's traceback."""
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            return "\n".join("\n".join(output.traceback).splitlines()[-25:])
    return ""
