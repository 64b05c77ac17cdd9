"""Notebooks from their sources: a chapter from notebooks/NN_slug.py, solution and exercise from solutions/NN_slug.py.

A notebook is run again only when its code differs from that of the built file, or when that file was not run to its
end. If only text differs, or the set-up cell, which does nothing in a clone, what the code gave stands. A change in
ntklib is not seen here: nbval sees it, and `--force` runs all anew.
"""

import os
import re
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course.claims import tables
from course.notebooks import execute, source

FOLDERS = ("notebooks", "solutions", "exercises")


@dataclass(frozen=True)
class Target:
    """One notebook to be built."""

    source: Path
    path: Path

    def cells(self, root: Path) -> NotebookNode:
        """Return the notebook without outputs."""
        return source.notebook(self.source, root, exercise=self.path.parent != self.source.parent, target=self.path)


def repository() -> Path:
    """Return the root of the repository: that of this package, or else the one around the working folder."""
    here = Path.cwd()
    for folder in (Path(__file__).parents[2], here, *here.parents):
        if (folder / "pyproject.toml").exists() and (folder / "notebooks").is_dir():
            return folder
    raise SystemExit("This command works in a clone of the course's repository: change into its folder.")


def targets(root: Path, chapters: Collection[str] = ()) -> list[Target]:
    """Return what there is to build, in order, for all or some chapters ("03")."""
    found = [Target(path, path.with_suffix(".ipynb")) for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.py"))]
    for path in sorted((root / "solutions").glob("[0-9][0-9]_*.py")):
        found += [Target(path, path.with_suffix(".ipynb")), Target(path, root / "exercises" / f"{path.stem}.ipynb")]
    for chapter in chapters:
        known_chapter(chapter, {target.path.name[:2] for target in found})
    return [target for target in found if not chapters or target.path.name[:2] in chapters]


def notebooks(root: Path, chapters: Collection[str]) -> list[Target]:
    """Return the chapters themselves, without exercises and solutions; "all" for all of them."""
    found = targets(root, [chapter for chapter in chapters if chapter != "all"])
    return [target for target in found if target.path.parent.name == "notebooks"]


def known_chapter(given: str, known: Collection[str]) -> str:
    """Return `given` if it is one of the known chapters; if not, end with a sentence that names the nearest."""
    if given in known:
        return given
    number = re.search(r"(?<!\d)0?(\d{1,2}[a-z]?)(?![\da-z])", given)
    near = number[1].rjust(2 + number[1][-1].isalpha(), "0") if number else ""
    guess = f"did you mean {near}? There" if near in known else "there"
    raise SystemExit(f"there is no chapter {given!r}; {guess} are: {', '.join(sorted(known)) or 'none'}")


def difference(nb: NotebookNode, path: Path) -> str | None:
    """Return in words the first difference between the cells of `nb` and those of the built file."""
    if not path.exists():
        return "is missing"
    try:
        return _difference(nb, execute.read(path))
    except execute.NotebookFailed:
        return "cannot be read as a notebook"


def _difference(nb: NotebookNode, built: NotebookNode) -> str | None:
    if len(built.cells) != len(nb.cells):
        return f"has {len(built.cells)} cells instead of {len(nb.cells)}"
    for number, (old, new) in enumerate(zip(built.cells, nb.cells, strict=True), 1):
        for key in ("cell_type", "source", "id", "metadata"):
            if old.get(key) != new[key]:
                return f"differs in cell {number}: {key}"
    if built.metadata != nb.metadata:
        return "differs in its metadata"
    if any(cell.cell_type == "code" and not cell.execution_count for cell in built.cells):
        return "was not run"
    return None


def _with_what_it_gave(nb: NotebookNode, path: Path, root: Path) -> NotebookNode | None:
    """Return `nb` with the outputs of the built file, if that was run and has the same code in the same order."""
    if not path.exists():
        return None
    try:
        built = execute.read(path)
    except execute.NotebookFailed:
        return None
    old, new = ([cell for cell in given.cells if cell.cell_type == "code"] for given in (built, nb))
    set_up = source.set_up(root)
    if [c.source for c in old if not source.sets_up(c)] != [c.source for c in new if c.source != set_up]:
        return None
    if len(old) != len(new) or any(not cell.execution_count for cell in old):
        return None
    for before, now in zip(old, new, strict=True):
        now.update(outputs=before.outputs, execution_count=before.execution_count)
    return nb


def check(root: Path, chapters: Collection[str] = ()) -> list[str]:
    """Return one line for each built file that is out of step with its source."""
    found = []
    all_targets = targets(root, chapters)
    for target in all_targets:
        try:
            different = difference(target.cells(root), target.path)
        except source.SourceError as error:
            found.append(str(error))
            continue
        if different:
            name = target.path.relative_to(root)
            found.append(f"{name} {different}; mend it with: python -m course build {name.name[:2]}")
    if not chapters:
        paths = {target.path for target in all_targets}
        built = [path for folder in FOLDERS for path in sorted((root / folder).glob("*.ipynb"))]
        found += [f"{p.relative_to(root)} has no source; remove it" for p in built if p not in paths]
        differing = tables.out_of_step(root)
        found += [f"{name} differs from claims.toml; mend it with: python -m course claims" for name in differing]
    return found


def build(root: Path, chapters: Collection[str] = (), *, force: bool = False) -> list[str]:
    """Build what is out of step, with progress on stderr; a failure leaves the old file. Return what failed."""
    failures = []
    for target in targets(root, chapters):
        name = target.path.relative_to(root)
        try:
            nb = target.cells(root)
            if not force and difference(nb, target.path) is None:
                continue
            begin = time.monotonic()
            if not force and _with_what_it_gave(nb, target.path, root):
                done = "has the new text; its code is as it was"
            else:
                print(f"{name} ...", file=sys.stderr, flush=True)
                execute.execute(nb, target.path, execute.environment(root))
                done = f"built in {time.monotonic() - begin:.1f} s"
            wrong = execute.problems(nb, root)
            if wrong:
                raise execute.NotebookFailed(f"{name} ran, but " + "; ".join(wrong))
        except (execute.NotebookFailed, source.SourceError) as error:
            print(f"\nFAILED {name}\n{error}\n", file=sys.stderr)
            failures.append(str(name))
            continue
        write(nb, target.path)
        print(f"{name} {done}", file=sys.stderr, flush=True)
    return failures


def write(nb: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    nbformat.validate(nb)
    partial = path.with_suffix(".part")
    partial.write_text(nbformat.writes(nb) + "\n", encoding="utf-8")
    os.replace(partial, path)
