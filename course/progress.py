"""What the learner has passed, in a small JSON file in the user's state folder. Nothing is sent anywhere.

`NTK_PROGRESS` names another file, or "off". Nothing is written under pytest or where the environment says CI.
"""

import datetime
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def location() -> Path:
    """Return the file that holds the progress."""
    moved = os.environ.get("NTK_PROGRESS")
    if moved and moved != "off":
        path = Path(moved).expanduser()
        return path / "progress.json" if path.is_dir() else path
    import platformdirs

    return Path(platformdirs.user_state_dir("ntklib-course", appauthor=False)) / "progress.json"


def wanted() -> bool:
    """Tell whether passes are noted. pytest sets PYTEST_VERSION, which nbval's kernels inherit."""
    ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return not (ci or "PYTEST_VERSION" in os.environ or os.environ.get("NTK_PROGRESS") == "off")


def load() -> dict[str, str]:
    """Return {task id: date of the first pass}. A damaged file is set aside, with a message."""
    path = location()
    try:
        passed = json.loads(path.read_text(encoding="utf-8"))["passed"]
        if not all(isinstance(key, str) and isinstance(value, str) for key, value in passed.items()):
            raise ValueError("not a table of dates")
        return passed
    except FileNotFoundError:
        return {}
    except OSError as error:
        print(f"the progress cannot be read: {error}", file=sys.stderr)
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        aside = path.with_name(path.name + ".damaged")
        os.replace(path, aside)
        print(f"the progress file was damaged ({error}); it is now {aside}, and a new one begins", file=sys.stderr)
        return {}


def note(task_id: str) -> None:
    """Write down that a task was passed, unless it was before."""
    if not wanted():
        return
    try:
        passed = load()
        if task_id in passed:
            return
        path = location()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"passed": {**passed, task_id: datetime.date.today().isoformat()}}, indent=1)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        print(f"the progress cannot be written: {error}. NTK_PROGRESS names another file.", file=sys.stderr)


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
