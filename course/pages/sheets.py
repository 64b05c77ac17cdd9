"""The exercises' pages: the sheet as it is handed out, with folded hints, and the solution folded away."""

import re
from pathlib import Path

from course.notebooks import execute
from course.pages import chapters, notebooks
from course.tasks import Task

INDEX = """\
# Exercises

One sheet for each chapter. A check under each task says at once whether an answer is right and, if not, what is wrong
with it. Hints come in three steps: the idea, the formula or the shape, almost the code. On these pages hints and
solutions are folded; to solve a sheet, open its notebook.

{rows}

```{{toctree}}
:hidden:

{names}
```
"""


def index(root: Path, tasks: dict[str, Task]) -> str:
    """The page that lists the sheets."""
    rows, names = [], []
    for slug, title in chapters.titles(root).items():
        own = [task for task in tasks.values() if task.chapter == slug[:2]]
        minutes = sum(task.minutes for task in own)
        rows.append(f"- [{title}]({slug}.md): {len(own)} tasks, {minutes} minutes")
        names.append(f"{title} <{slug}>")
    return INDEX.format(rows="\n".join(rows), names="\n".join(names))


def page(root: Path, slug: str, tasks: dict[str, Task], figures: notebooks.Figures) -> str:
    """A sheet's page: the exercise's cells, and after each check the hints and the solution's cells of that task."""
    path = f"exercises/{slug}.ipynb"
    asked = notebooks.without_frame(execute.read(root / path))
    solved = notebooks.without_frame(execute.read(root / "solutions" / f"{slug}.ipynb"))
    blocks: list[str] = []
    waiting: list[str] = []  # parts of a solution, until the check of the task is reached
    for number, (cell, answer) in enumerate(zip(asked, solved, strict=True)):
        if cell.cell_type == "markdown":
            text = notebooks.prose(cell.source, root, path)
            blocks.append(text if number else _head(text, root, slug, tasks))
            continue
        role, _, task = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
        blocks.append(notebooks.code(cell.source))
        if role == "task":
            waiting.append(notebooks.code(_solution(answer.source)))
        elif role in ("check", "written"):
            waiting.append(notebooks.outputs(answer, f"{slug[:2]}-solution-{number}", figures))
            blocks.append(_help(tasks[task.replace("-", ".")], waiting))
            waiting = []
        else:
            blocks.append(notebooks.outputs(cell, f"{slug[:2]}-exercise-{number}", figures))
            if answer.outputs != cell.outputs:
                found = notebooks.outputs(answer, f"{slug[:2]}-solution-{number}", figures)
                blocks.append(notebooks.folded("What comes out with the solutions", found, "solution"))
    if waiting:
        raise ValueError(f"{path}: a task without a check after it")
    return "\n\n".join(filter(None, blocks)) + "\n"


def _help(task: Task, solution: list[str]) -> str:
    """The three hints and the solution, each folded."""
    titles = ("the idea", "the formula or the shape", "almost the code")
    blocks = [
        notebooks.folded(f"Hint {level} for {task.id}: {title}", plain(hint), "hint")
        for level, (title, hint) in enumerate(zip(titles, task.hints, strict=True), 1)
    ]
    return "\n\n".join([*blocks, notebooks.folded(f"Solution of {task.id}", "\n\n".join(solution), "solution")])


def plain(hint: str) -> str:
    """A hint as Markdown that shows each of its signs: `code` stays code, nothing else is markup."""
    parts = re.split(r"(`[^`]+`)", hint)
    parts[::2] = [re.sub(r"([\\*_#<>\[\]$~|{}`])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def _solution(text: str) -> str:
    """The code of a solution without the marks around it."""
    return re.sub(r"^[ \t]*### (BEGIN|END) SOLUTION\n?", "", text, flags=re.M)


def _head(text: str, root: Path, slug: str, tasks: dict[str, Task]) -> str:
    own = [task for task in tasks.values() if task.chapter == slug[:2]]
    listed = ", ".join(f"{task.id} `{task.name}`" for task in own)
    _, _, rest = text.partition("\n")
    about = f"**Time:** {sum(task.minutes for task in own)} minutes<br>**Checks:** {listed}"
    bar = f'<div class="about">\n\n{about}\n\n{chapters.ways(root, slug, "sheets")}\n\n</div>'
    return "\n\n".join([f"# {chapters.titles(root)[slug]}: exercises", bar, rest.strip()])
