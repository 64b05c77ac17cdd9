"""What the learner has passed, in a small JSON file in the user's state folder. Nothing is sent anywhere.

`NTK_PROGRESS` names another file, or "off". Nothing is written under pytest or where the environment says CI.

Several notebooks may note at once: each waits for the others at a lock file beside, reads what is there, adds to it and
puts the new file in the place of the old one in one step. No note is lost, and no reader sees half a file.
"""

import contextlib
import datetime
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

PATIENCE = 10.0  # seconds to wait for others who note at the same time; each takes a thousandth of one


def location() -> Path:
    """Return the file that holds the progress; raise OSError if `NTK_PROGRESS` names a home folder that is unknown."""
    moved = os.environ.get("NTK_PROGRESS")
    if moved and moved != "off":
        try:
            path = Path(moved).expanduser()
        except RuntimeError:
            raise OSError(f"NTK_PROGRESS is {moved}, but that user has no home folder") from None
        return path / "progress.json" if path.is_dir() else path
    import platformdirs

    return Path(platformdirs.user_state_dir("ntklib-course", appauthor=False)) / "progress.json"


def wanted() -> bool:
    """Tell whether passes are noted. pytest sets PYTEST_VERSION, which nbval's kernels inherit."""
    ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return not (ci or "PYTEST_VERSION" in os.environ or os.environ.get("NTK_PROGRESS") == "off")


def load() -> dict[str, str]:
    """Return {task id: date of the first pass}. A file that cannot be read is told in one line on stderr."""
    try:
        path = _file()
        try:
            return _read(path)["passed"]
        except _DamagedError:
            with _alone(path):
                return _mended(path)["passed"]
    except OSError as error:
        print(f"the progress cannot be read: {error}. NTK_PROGRESS names another file.", file=sys.stderr)
        return {}


def note(task_id: str) -> None:
    """Write down that a task was passed, unless it was before."""
    if not wanted():
        return
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            content = _mended(path)
            if task_id not in content["passed"]:
                content["passed"][task_id] = datetime.date.today().isoformat()
                _write(path, content)
    except OSError as error:
        print(
            f"the progress cannot be written, so {task_id} is not noted: {error}. NTK_PROGRESS names another file.",
            file=sys.stderr,
        )


def table(tasks: Mapping[str, Any]):
    """Return a rich table of the tasks (by id) with what is done and what is open."""
    from rich.table import Table

    passed = load()
    done = [task for id, task in tasks.items() if id in passed]
    title = f"{len(done)} of {len(tasks)} tasks done"
    table = Table("task", "name", "minutes", "difficulty", "done", title=title)
    chapter = None
    for id, task in tasks.items():
        if chapter not in (None, task.chapter):
            table.add_section()
        chapter = task.chapter
        done_mark = "written" if task.kind == "text" else "✔"  # words are not checked, only that they are there
        mark = f"{done_mark} {passed[id]}" if id in passed else "open"
        table.add_row(id, task.name, str(task.minutes), f"{task.difficulty} of 5", mark)
    return table


class _DamagedError(Exception):
    """The file is not what `note` writes."""


def _file() -> Path:
    """The file itself, where `location` is a link to it; raises OSError for anything that is not a file."""
    path = Path(os.path.realpath(location()))
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file")  # renaming what a damaged file leaves would hit a folder or a device
    return path


def _read(path: Path) -> dict[str, Any]:
    """What the file holds. What other versions of the course keep beside "passed" stays as it is."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"passed": {}}
    except (ValueError, RecursionError) as error:
        raise _DamagedError(str(error)) from None
    passed = content.get("passed") if isinstance(content, dict) else None
    if not (isinstance(passed, dict) and all(isinstance(date, str) for date in passed.values())):
        raise _DamagedError('no table of dates under "passed"')
    return content


def _mended(path: Path) -> dict[str, Any]:
    """The same. A damaged file is set aside, and the notes in it that can still be read make the new one."""
    try:
        return _read(path)
    except _DamagedError as error:
        text = path.read_text(encoding="utf-8", errors="replace")
        kept = dict(re.findall(r'"(\d\d[a-z]?\.\d+)"\s*:\s*"(\d{4}-\d\d-\d\d)"', text))
        aside = _free(path.with_name(path.name + ".damaged"))
        os.replace(path, aside)
        if kept:
            _write(path, {"passed": kept})
        print(
            f"the progress file was damaged ({error}); it is now {aside}, and a new one begins with "
            f"the {len(kept)} passes that could still be read",
            file=sys.stderr,
        )
        return {"passed": kept}


def _free(path: Path) -> Path:
    """`path`, or with a number behind it where that exists."""
    number = 1
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process in at a time. The system takes the lock from a process that ends, however it ends."""
    lock = path.with_name(path.name + ".lock")
    with open(lock, "a+b") as file:
        end = time.monotonic() + PATIENCE
        while not _locked(file):
            if time.monotonic() > end:
                raise OSError(f"another process has held {lock} for {PATIENCE:g} seconds")
            time.sleep(0.005)
        yield


def _locked(file: IO[bytes]) -> bool:
    """Take the lock if it is free; closing the file gives it back."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
