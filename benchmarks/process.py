"""The parent's side of a worker process (`benchmarks.worker` is the other): requests out, answers in, in time."""

import contextlib
import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import ROOT, Implementation


class Failed(Exception):
    """A worker that does not answer, or answers with an error; the message is for the table."""


class Missing(Failed):
    """A worker whose implementation is not installed."""


class Process:
    """A worker process with `cores` threads; `versions` are those of what it measures."""

    def __init__(self, implementation: Implementation, cores: int, folder: Path):
        if not Path(implementation.python).exists():
            raise Missing("not installed")
        threads = {"OMP_NUM_THREADS": str(cores), "OPENBLAS_NUM_THREADS": str(cores)}
        env = {**os.environ, **threads, "JAX_ENABLE_COMPILATION_CACHE": "false"}  # compile times are measured
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
        env.setdefault("JAX_PLATFORMS", "cpu")
        self._log = folder / f"{implementation.name.replace(' ', '-')}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [implementation.python, "-m", "benchmarks.worker", implementation.module],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=ROOT,
            )  # fmt: skip
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        hello = self._answer(120.0)
        if "missing" in hello:
            self.close()
            raise Missing(hello["missing"])
        self.versions: dict[str, str] = hello["versions"]

    def ask(self, do: str, limit: float, **request: Any) -> dict:
        """What it answers, within `limit` seconds; after that it is ended. Raises Failed."""
        assert self._process.stdin is not None
        try:
            print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        except OSError:
            raise Failed(self._last_words()) from None
        answer = self._answer(limit)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what could not be sent is not missed
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _answer(self, limit: float) -> dict:
        try:
            line = self._answers.get(timeout=limit)
        except queue.Empty:
            self.close()
            raise Failed(f"more than {limit:.0f} s") from None
        if not line:
            raise Failed(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        code = self._process.wait()
        said = self._log.read_text().strip().splitlines()
        return f"ended with code {code}" + (f": {said[-1]}" if said else "")


@contextlib.contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Inside, this process and those that it starts run on the last `cores` of the cores it has (Linux only).

    A process that is pinned before it begins has no threads elsewhere, and libraries count the cores they may use.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    if not 1 <= cores <= len(before):
        raise ValueError(f"--cores must be from 1 to {len(before)}, the cores that this process has; got {cores}.")
    os.sched_setaffinity(0, sorted(before)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
