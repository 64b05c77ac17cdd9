"""Runs one sheet and marks it: `python -m course.grading.worker`, with the job on stdin and records to a descriptor.

The cells run as in a notebook, in order. What marks them was imported before, is sealed, and is looked at again around
each check. A record is written as soon as a question is marked: what comes later cannot take it back.
"""

import importlib
import json
import os
import pkgutil
import sys
from typing import Any

from course.grading import guard, seal


def main() -> None:
    """Read the job, import all that marks, seal it, run the cells."""
    job = json.load(sys.stdin)
    channel = os.fdopen(int(os.environ.pop("NTK_GRADE_RECORDS")), "w", buffering=1, encoding="utf-8")
    os.set_inheritable(channel.fileno(), False)

    def record(**fields: Any) -> None:
        channel.write(json.dumps(fields) + "\n")

    shell = _shell()
    tasks = _import(job["chapter"])
    mark = tasks.check
    sealed = seal.Seal()
    guard.install(os.getcwd(), job["hidden"], lambda what: record(incident=what))
    names, errors, changed = shell.user_ns, [], ""
    for cell in job["cells"]:
        if cell["number"]:
            record(cell=cell["number"])
        error = _run(shell, cell["source"])
        if error:
            errors.append(f"cell {cell['number']} stopped with {error}")
        if question := cell["question"]:
            changed = changed or sealed.broken()
            result, reason = ("not counted", "") if changed else _mark(shell, names, question, mark, tasks, errors)
            changed = changed or sealed.broken()
            if changed:
                result, reason = "not counted", f"the sheet has replaced {changed}"
            record(task=question["id"], result=result, reason=reason)
    record(done=True)
    channel.flush()
    os._exit(0)  # nothing that the sheet has left for the end of the process runs


def _shell() -> Any:
    """IPython as in a notebook, without a history and without settings of the machine."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    return InteractiveShell.instance(config=config)


def _import(chapter: str) -> Any:
    """Import whatever marks an answer, so that nothing of it is read from a file or made later."""
    import matplotlib.font_manager
    import matplotlib.pyplot  # noqa: F401
    import scipy.linalg
    import scipy.optimize
    import scipy.special
    import scipy.stats  # noqa: F401

    import ntklib
    from course import tasks

    for module in pkgutil.walk_packages(ntklib.__path__, "ntklib."):
        if not module.name.startswith("ntklib.interop."):
            importlib.import_module(module.name)
    importlib.import_module(f"course.checks.ch{chapter}")
    return tasks


def _run(shell: Any, source: str) -> str:
    """Run a cell; return the error that ended it, in a line."""
    if not source.strip():
        return ""
    result = shell.run_cell(source, store_history=False)
    error = result.error_before_exec or result.error_in_exec
    return f"{type(error).__name__}: {error}".split("\n")[0][:200] if error is not None else ""


def _mark(
    shell: Any, names: dict[str, Any], question: dict, mark: Any, tasks: Any, errors: list[str]
) -> tuple[str, str]:
    """Return the result and its reason."""
    names["predict"] = tasks.predict
    if error := _run(shell, question["before"]):
        return "not right", error
    try:
        answer = eval(question["expression"], names)
    except Exception as error:
        return "not run", "; ".join([f"{type(error).__name__}: {error}", *errors[-3:]])
    try:
        mark(question["id"], answer, grade=True)
    except tasks.CheckFailed as failure:
        lines = str(failure).splitlines()
        attempted = not lines[0].endswith("not attempted")
        said = " ".join(line.strip() for line in lines[1:] if "helps on" not in line)
        return ("not right", said) if attempted else ("not attempted", "; ".join(errors[-1:]))
    return ("by hand", "an answer in words") if question["written"] else ("passed", "")


if __name__ == "__main__":
    main()
