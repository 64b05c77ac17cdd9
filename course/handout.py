"""A folder to hand out: the sheets, and the package that checks them, without the solutions' notebooks.

The checks hold what they need; a learner who reads them finds formulas. For marks that count, `python -m course grade`
asks with other seeds, and lets no sheet read them.
"""

import re
import shutil
from pathlib import Path

import nbformat

from course import address
from course.notebooks import build, execute

#: Of the package, what no sheet needs.
LEFT_OUT = (
    *("site", "pages", "explorer", "playground", "jupyterlab", "grading", "teaching", "pictures", "__pycache__"),
    *("*.sh", "*.png", "AUTHORS.md", "claims.md"),
)
TEXT = """# Exercises of the NTK course

Each notebook is one sheet. Python 3.12 or newer:

    python -m venv .venv
    . .venv/bin/activate
    pip install "ntklib[course] @ git+{address}"
    jupyter lab

Start `jupyter lab` in this folder: the checks stand in `course`, beside the sheets. `hint("00.1")` in a cell gives an
idea, and `hint("00.1", 2)` says more. A sheet is handed in as it is, saved: LEARNER/{example}.
"""


def make(root: Path, folder: Path) -> list[Path]:
    """Write the folder; return the sheets. Raises ValueError if there is something in it already."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose a new folder, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    sheets = []
    for target in build.targets(root):
        if target.path.parent.name != "exercises":
            continue
        notebook = execute.read(target.path)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = on_the_web(cell.source, root)
        sheets.append(folder / target.path.name)
        nbformat.write(notebook, sheets[-1])
    shutil.copytree(root / "course", folder / "course", ignore=shutil.ignore_patterns(*LEFT_OUT))
    text = TEXT.format(address=address.repository(root), example=sheets[0].name)
    (folder / "README.md").write_text(text, encoding="utf-8")
    for name in ("LICENSE", "LICENSE-TEXT"):
        shutil.copy(root / name, folder / name)
    return sheets


def on_the_web(text: str, root: Path) -> str:
    """Let links to the neighbors in a clone lead to the web, for those who have no clone."""
    return re.sub(r"\]\(\.\./", f"]({address.blob('', root)}", text)
