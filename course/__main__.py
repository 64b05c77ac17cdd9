"""The commands of `python -m course`. Each imports what it needs when it runs: a hint should come at once."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn


def lacking(error: ModuleNotFoundError) -> NoReturn:
    """End with a sentence for a package that is not installed; a missing module of ours is a mistake of ours."""
    if not error.name or error.name.split(".")[0] in ("course", "ntklib"):
        raise error
    raise SystemExit(
        f"python -m course needs the package {error.name.split('.')[0]}, which {sys.executable} does not have. "
        f"`make course` sets up all that the course needs in .venv; . .venv/bin/activate then chooses it."
    ) from None


try:
    import typer
except ModuleNotFoundError as error:
    lacking(error)

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="The NTK course.")
Chapters = Annotated[list[str] | None, typer.Argument(help="Numbers such as 03; none for all.")]


@app.command()
def build(chapters: Chapters = None, check: bool = False, force: bool = False) -> None:
    """Make notebooks, solutions and exercises from their sources, and claims.md; --check only compares."""
    from course.claims import tables
    from course.notebooks import build

    root = build.repository()
    if check:
        found = build.check(root, chapters or ())
        print("\n".join(found) or "all built files are in step with their sources")
        raise typer.Exit(bool(found))
    failures = build.build(root, chapters or (), force=force)
    tables.write_page(root)
    if failures:
        print(f"failed: {', '.join(failures)}", file=sys.stderr)
    raise typer.Exit(bool(failures))


@app.command()
def check(chapter: str) -> None:
    """Run the exercises of a chapter, such as 03, as they stand; say which pass, and fail if one is wrong."""
    from course import progress, sheet
    from course.notebooks import build, execute
    from course.tasks import all_tasks

    root = build.repository()
    sheets = {path.name.split("_")[0]: path for path in sorted((root / "exercises").glob("[0-9]*.ipynb"))}
    path = sheets[build.known_chapter(chapter, sheets)]
    # The sheet runs in its own folder: what the learner names from here gets its whole path.
    moved = os.environ.get("NTK_PROGRESS", "")
    if moved not in ("", "off") and not moved.startswith("~"):
        moved = str(progress.location().absolute())
    env = {**execute.environment(root), "CI": "", "NTK_PROGRESS": moved}
    tasks = [task for task in all_tasks().values() if task.chapter == chapter]
    try:
        lines, right = sheet.check(path, tasks, env, path.relative_to(root).as_posix())
    except execute.NotebookFailed as error:
        raise SystemExit(str(error)) from None
    print("\n".join(lines))
    raise typer.Exit(not right)


@app.command()
def hint(task: str, level: Annotated[int, typer.Argument(help="1, 2 or 3")] = 1) -> None:
    """Print a hint for a task, such as 03.2."""
    from course.tasks import hint

    try:
        hint(task, level)
    except ValueError as error:
        raise SystemExit(str(error)) from None


@app.command()
def explorer(rebuild: Annotated[bool, typer.Option("--build", help="compute its diagrams anew")] = False) -> None:
    """Open the phase-diagram explorer in the browser: one page, no network needed."""
    import webbrowser

    from course import explorer

    if rebuild:
        explorer.build()
        return
    print(explorer.PAGE)
    webbrowser.open(explorer.PAGE.as_uri())


@app.command()
def playground() -> None:
    """Open the playground in the browser: infinitely wide networks on points of your own. No network needed."""
    import webbrowser

    from course import playground

    print(playground.PAGE)
    webbrowser.open(playground.PAGE.as_uri())


@app.command()
def site() -> None:
    """Make the site in .cache/site/html: chapters, exercises, claims, library. A warning is an error; no network."""
    from course.notebooks import build
    from course.pages import site

    root = build.repository()
    code = site.build(root, root / ".cache" / "site")
    if not code:
        print(root / ".cache" / "site" / "html" / "index.html")
    raise typer.Exit(code)


@app.command()
def progress() -> None:
    """Show which tasks are done."""
    from rich.console import Console

    from course import progress
    from course.tasks import all_tasks

    Console().print(progress.table(all_tasks()))


@app.command()
def claims() -> None:
    """Show the claims of the literature and what became of them; write claims.md."""
    from rich.console import Console

    from course.claims import records, tables
    from course.notebooks import build

    root = build.repository()
    Console().print(tables.table(records.load(root / "course" / "claims.toml")))
    tables.write_page(root)


@app.command()
def figures(
    measure: Annotated[bool, typer.Option("--measure", help="Train the networks of the first one anew.")] = False,
) -> None:
    """Draw the pictures of the README anew: what is predicted and trained, the map, the speed."""
    from course.notebooks import build
    from course.pictures import figures, front

    root = build.repository()
    if measure:
        front.save(root, front.measure())
    print("\n".join(map(str, figures.write(root))))


@app.command()
def run(
    chapters: Annotated[list[str], typer.Argument(help="Numbers such as 03, or all.")],
    record: Annotated[bool, typer.Option("--record", help="Write what was measured into claims.toml.")] = False,
) -> None:
    """Run chapters from their sources; NTK_SCALE=long takes up to 20 minutes each, NTK_SCALE=paper is the paper's size.

    No file is changed, but with --record, which writes what the claims measured (not what is claimed or predicted).
    """
    from course.claims import replicate, tables
    from course.notebooks import build

    root = build.repository()
    if record and os.environ.get("NTK_SEED", "0") not in ("", "0"):
        raise SystemExit("What is recorded is measured with the seeds that all have: unset NTK_SEED.")
    failed = False
    for target in build.notebooks(root, chapters):
        done = replicate.measure(root, target) if record else replicate.run(root, target)
        wrong = done.wrong or (replicate.record(root, done.found) if record else [])
        failed = failed or bool(wrong)
        print(f"{target.path.stem}: {'FAILED' if wrong else 'passed'} in {done.seconds:.1f} s", flush=True)
        print("\n".join(wrong), file=sys.stderr)
    if record:
        tables.write_page(root)
    raise typer.Exit(failed)


@app.command("replicate")
def replicate_(
    chapters: Chapters = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How many times.")] = 3,
    weekly: Annotated[bool, typer.Option("--weekly", help="Only the chapter whose turn it is this week.")] = False,
    first: Annotated[int, typer.Option(min=1, max=19_000, help="The first of the seeds.")] = 1,
    pool: Annotated[bool, typer.Option("--pool", help="Judge rows that change by all runs: in claims.toml.")] = False,
) -> None:
    """Run chapters with other seeds, and say which verdicts of the claims change; no file is changed but with --pool.

    Fails if one changes between "holds" and "does not hold", if more than one row in twenty changes, or if a chapter
    does not run to its end.
    """
    import datetime

    from course.claims import replicate, tables
    from course.notebooks import build

    root = build.repository()
    found = build.notebooks(root, chapters or ["all"])
    if weekly:
        found = [replicate.of_the_week(found, datetime.date.today())]
    stands = replicate.replicate(root, found, seeds, first, pool)
    if pool:
        tables.write_page(root)
    raise typer.Exit(not stands)


@app.command()
def handout(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Write a folder to hand out: all sheets without solutions, and the checks."""
    from course import handout
    from course.notebooks import build

    try:
        sheets = handout.make(build.repository(), folder)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"{len(sheets)} sheets in {folder}")


@app.command()
def teaching() -> None:
    """Make the pages for those who teach with it: plans with their minutes, misconceptions by chapter, rubrics."""
    from course.notebooks import build

    root = build.repository()  # before the rest, which a hand-out does not have
    from course.teaching import pages

    try:
        print("\n".join(str(path) for path in pages.write(root)))
    except ValueError as error:
        raise SystemExit(str(error)) from None


@app.command()
def slides(
    chapters: Chapters = None,
    out: Annotated[Path, typer.Option(help="The folder for them.")] = Path(".cache/slides"),
) -> None:
    """Make slides, one page for each chapter that has some (all without a number); no network needed to show them."""
    from course.notebooks import build

    root = build.repository()
    from course.teaching import slides

    try:
        for number in chapters or slides.available():
            print(slides.write(root, build.known_chapter(number, slides.available()), out))
    except slides.SlideError as error:
        raise SystemExit(str(error)) from None


@app.command()
def grade(
    folder: Annotated[Path, typer.Argument(help="Sheets: LEARNER/03_infinite_width.ipynb, or LEARNER_03.ipynb.")],
    out: Annotated[Path, typer.Option(help="Where grades.csv and a page for each learner go.")] = Path("grades"),
    seconds: Annotated[float, typer.Option(min=1, help="For one sheet.")] = 300,
    gigabytes: Annotated[float, typer.Option(min=0.5, help="Of memory, for one sheet.")] = 4,
) -> None:
    """Mark a folder of sheets with other seeds than the learners', each in a process of its own; change nothing in it.

    Answers in words are left to a reader. NTK_GRADE_SEED chooses other seeds.
    """
    from course.notebooks import build

    root = build.repository()  # before the rest, which a hand-out does not have
    from course.grading import marking, process, report

    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder")
    limits = process.Limits(seconds=seconds, memory=gigabytes * 1e9)
    marks = marking.grade(folder.resolve(), root, limits, lambda line: print(line, file=sys.stderr, flush=True))
    if not marks:
        raise SystemExit(f"there is no notebook in {folder}")
    print("\n".join(report.summary(marks)))
    print(report.write(marks, out)[0])


@app.command("open")
def open_(check: Annotated[bool, typer.Option(help="Run chapter 00 headless instead.")] = False) -> None:
    """Open JupyterLab on the first chapter (Ctrl-C ends it)."""
    from course.notebooks import build

    root = build.repository()
    path = next((root / "notebooks").glob("00_*.ipynb"), None)
    if path is None:
        raise SystemExit("there is no notebooks/00_*.ipynb: make it with python -m course build 00")
    if check:
        raise typer.Exit(_check_first(root, path))
    arguments = [sys.executable, "-m", "jupyterlab", "--log-level=WARN", "--ServerApp.answer_yes=True"]
    arguments += [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/notebooks/{path.name}"]
    # Settings that keep JupyterLab from asking for news and updates: the course needs no network.
    arguments.append(f"--LabApp.app_settings_dir={root / 'course' / 'jupyterlab'}")
    arguments.append("--FileContentsManager.pre_save_hook=course.notebooks.saving.as_built")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        arguments.append("--no-browser")
        print("There is no display here: open the address below in a browser. Ctrl-C ends JupyterLab.", flush=True)
    if os.name == "nt":
        import subprocess

        raise typer.Exit(subprocess.call(arguments))
    os.execv(sys.executable, arguments)


@app.command("test")
def run_all(
    only: Annotated[list[str] | None, typer.Option(help="A step's name; may be repeated.")] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Lint, types, tests of what changed: two minutes.")
    ] = False,
) -> None:
    """Run every check that CI runs."""
    from course import suite
    from course.notebooks import build

    root = build.repository()
    raise typer.Exit(not (suite.run_changed(root) if changed else suite.run(root, only or ())))


def _check_first(root, path) -> int:
    from course.notebook import find_report
    from course.notebooks import execute

    print(f"running {path.relative_to(root)} ...", file=sys.stderr, flush=True)
    begin = time.monotonic()
    try:
        nb = execute.execute(execute.read(path), path, execute.environment(root))
    except execute.NotebookFailed as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    print(f"done in {time.monotonic() - begin:.1f} s", file=sys.stderr)
    line = find_report("\n".join(map(execute.text_of, nb.cells)))
    print(line or "the notebook did not report its two accuracies (course.report)")
    return 0 if line else 1


if __name__ == "__main__":
    try:
        app()
    except ModuleNotFoundError as error:
        lacking(error)
