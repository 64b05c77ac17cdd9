"""A worker process: one implementation of one case, driven by lines of JSON on standard input.

    {"do": "prepare", "case": {...}, "option": "", "arrays": "case.npz", "n": 16}   the first n inputs
    {"do": "run", "calls": 3}     -> {"seconds": [...]}
    {"do": "memory"}              -> {"peak": bytes above what was in use before the first call}
    {"do": "save", "path": "x"}   the last result, as .npy

One line of JSON answers each request: {"error": ...} if it failed. The first line says the versions, or who is missing.
Standard output is for these lines alone; what else is printed goes to standard error. NumPy only, any Python >= 3.10.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case


def memory(field: str) -> int:
    """Bytes in use now ("VmRSS") or at most so far ("VmHWM")."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # elsewhere only the peak is known
    return peak * (1 if sys.platform == "darwin" else 1024)


class Worker:
    """What is kept between requests."""

    def __init__(self, peer: Any):
        self.peer, self.call, self.result, self.before = peer, lambda: None, None, 0

    def prepare(self, case: dict, option: str, arrays: str, n: int) -> dict:
        """Build the function; nothing is computed yet."""
        with np.load(arrays) as loaded:
            flat = [loaded[name] for name in sorted(loaded.files, key=lambda name: (len(name), name)) if name[0] == "w"]
            x, more = loaded["x"][:n], {name: loaded[name] for name in ("y", "test") if name in loaded.files}
        self.result = None
        self.call = self.peer.prepare(Case(**case), option, x, list(zip(flat[::2], flat[1::2], strict=True)), **more)
        del x, more, flat  # whatever the implementation does not keep itself must not count as in use
        gc.collect()
        self.before = memory("VmRSS")
        return {}

    def run(self, calls: int) -> dict:
        """Call it, and drop each result before the next call."""
        seconds = []
        for _ in range(calls):
            self.result = None
            begin = time.perf_counter()
            self.result = self.call()
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds}

    def memory(self) -> dict:
        """At most in use so far, above what was in use before the first call."""
        return {"peak": max(0, memory("VmHWM") - self.before)}

    def save(self, path: str) -> dict:
        """The last result."""
        np.save(path, np.asarray(self.result))
        return {}


def main(module: str) -> None:
    """Serve requests until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**reply: Any) -> None:
        print(json.dumps(reply), file=out, flush=True)

    try:
        peer = importlib.import_module(module)
    except ImportError as error:
        answer(missing=str(error))
        return
    worker = Worker(peer)
    answer(versions=peer.versions())
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(**getattr(worker, request.pop("do"))(**request))
        except Exception as error:
            traceback.print_exc()
            answer(error=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")


if __name__ == "__main__":
    main(sys.argv[1])
