"""Runs the worker for one sheet: a folder, a process group and limits of its own, and nothing left behind."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Where the system can: no network, and with the first process all that it has started ends.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")

IMPORTS = 300.0  # seconds for the imports, which come before the first cell and are no fault of a sheet


@dataclass(frozen=True)
class Limits:
    """What one sheet may take: wall time from its first cell on, memory and printed bytes of all its processes, and how
    many these are.
    """

    seconds: float = 300.0
    memory: float = 4e9
    output: float = 5e6
    processes: int = 32


@dataclass(frozen=True)
class Outcome:
    """What the worker recorded, and the reason why it did not come to its end, if it did not."""

    records: list[dict[str, Any]]
    stopped: str
    seconds: float


def run(job: dict[str, Any], root: Path, limits: Limits) -> Outcome:
    """Run the worker on a job; return what it recorded, whatever the sheet did."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sheet-", ignore_cleanup_errors=True) as folder:
        read, write = os.pipe()
        command = [*namespace(), sys.executable, "-m", "course.grading.worker"]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(root, folder, write),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write,),
            start_new_session=True,
        )
        os.close(write)
        records: list[str] = []
        printed = [0]
        readers = [
            threading.Thread(target=_count, args=(process.stdout, printed), daemon=True),
            threading.Thread(target=_collect, args=(read, records, limits.output), daemon=True),
        ]
        for reader in readers:
            reader.start()
        with contextlib.suppress(BrokenPipeError):
            assert process.stdin is not None
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
        stopped = _watch(process, folder, records, printed, limits)
        for reader in readers:
            reader.join(5)
    found = [record for line in list(records) if isinstance(record := _parsed(line), dict)]
    if not stopped and not any("done" in record for record in found):
        stopped = f"it ended its own process, in {_place(found)}"
    elif stopped:
        stopped = f"{stopped}, in {_place(found)}"
    return Outcome(found, stopped, time.monotonic() - begin)


@functools.cache
def namespace() -> Sequence[str]:
    """`NAMESPACE` if it works here."""
    if shutil.which(NAMESPACE[0]) is None:
        return ()
    trial = subprocess.run([*NAMESPACE, "true"], stdin=subprocess.DEVNULL, capture_output=True)
    return NAMESPACE if trial.returncode == 0 else ()


def _environment(root: Path, folder: str, write: int) -> dict[str, str]:
    """Only what is needed: no tokens, no home. Bytecode that is there is read, and none is written."""
    names = ("PATH", "LANG", "LC_ALL", "NTK_GRADE_SEED", "PYTHONPYCACHEPREFIX")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {
        **kept,
        "HOME": folder,
        "TMPDIR": folder,
        "IPYTHONDIR": folder,
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": str(root / ".cache" / "matplotlib"),
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CI": "true",
        "NTK_PROGRESS": "off",
        "NTK_GRADE_RECORDS": str(write),
    }


def _watch(
    process: subprocess.Popen, folder: str, records: Sequence[str], printed: Sequence[int], limits: Limits
) -> str:
    """Wait for the end of the process; end it where a limit is passed, and say which."""
    stopped, begin, imported = "", time.monotonic(), False
    while process.poll() is None and not stopped:
        time.sleep(0.1)
        family = _family(process.pid)
        if records and not imported:
            begin, imported = time.monotonic(), True
        if time.monotonic() - begin > limits.seconds + (0 if imported else IMPORTS):
            stopped = f"stopped after {limits.seconds:g} seconds"
        elif len(family) > limits.processes:
            stopped = f"stopped with {len(family)} processes"
        elif printed[0] > limits.output:
            stopped = f"stopped after it had printed {limits.output / 1e6:g} MB"
        elif _memory(family) > limits.memory:
            stopped = f"stopped with more than {limits.memory / 1e9:g} GB of memory"
    _end(process.pid, folder)
    process.wait()
    return stopped


def _end(pid: int, folder: str) -> None:
    """End the process and all that it has started. Who is stopped first starts nothing more."""
    import psutil

    known: dict[int, Any] = {}
    while new := [member for member in _family(pid) if member.pid not in known]:
        for member in new:
            known[member.pid] = member
            with contextlib.suppress(psutil.Error):
                member.suspend()
    if not namespace():  # those whose parent has ended are found by the home that they were given
        for member in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if member.environ().get("HOME") == folder:
                    known[member.pid] = member
    for member in known.values():
        with contextlib.suppress(psutil.Error):
            member.kill()


def _family(pid: int) -> list[Any]:
    """The process and all that it has started, those in a session of their own included."""
    import psutil

    try:
        first = psutil.Process(pid)
        found = [first, *first.children(recursive=True)]
        return [member for member in found if member.status() != psutil.STATUS_ZOMBIE]
    except psutil.Error:
        return []


def _memory(family: Sequence[Any]) -> int:
    total = 0
    for member in family:
        with contextlib.suppress(Exception):
            total += member.memory_info().rss
    return total


def _count(pipe: Any, printed: list[int]) -> None:
    """Read what the sheet prints and keep its length alone."""
    with pipe:
        while chunk := pipe.read1(65536):
            printed[0] += len(chunk)


def _collect(read: int, records: list[str], most: float) -> None:
    size = 0
    with os.fdopen(read, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            size += len(line)
            if size > most:
                return
            records.append(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _place(found: Sequence[dict[str, Any]]) -> str:
    cells = [record["cell"] for record in found if "cell" in record]
    return f"cell {cells[-1]}" if cells else "its first cell"
