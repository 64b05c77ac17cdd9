"""From source to notebooks: what is cut, marked, run, refused and left alone; and this repository's own are in step."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest

from course.notebooks import build, execute, source

ROOT = Path(__file__).parents[1]

CHAPTER = """\
# %% [markdown]
# # 98 · A sample
#
# $x^2$ and nothing else.

# %% alt="A straight line, \\"y = x\\", from zero to one." tags=["wide"]
import os

from IPython.display import Image, display

display(Image(data=b"\\x89PNG\\r\\n\\x1a\\n0000IHDR", format="png"))
print(os.path.basename(os.getcwd()), os.environ["CI"], os.environ["NTK_PROGRESS"])
"""

EXERCISES = """\
# %%
from course import check, tasks, expect

tasks.written("98.3", "why", rubric=("a", "b", "c"), minutes=1, difficulty=1, section="S", hints=("a", "b", "c"))
for id in ("98.1", "98.2"):
    tasks.task(id, "same", minutes=1, difficulty=1, section="S", hints=("a", "b", "c"))(
        lambda answer, rng: expect.number(answer() if callable(answer) else answer, 4.0)
    )

# %% task="98.1"
def four():
    '''Return 4.'''
    ### BEGIN SOLUTION
    half = 2
    return half + half
    ### END SOLUTION


# %% check="98.1" points=3
check("98.1", four)

# %% task="98.2"
number = ...
### BEGIN SOLUTION
number = 4
### END SOLUTION

# %% check="98.2"
# with a hidden test of its own
check("98.2", number)
### BEGIN HIDDEN TESTS
assert number == 4
### END HIDDEN TESTS

# %% written="98.3" points=2
answer = r\"\"\"
### BEGIN SOLUTION
Because $2 + 2 = 4$.
### END SOLUTION
\"\"\"
check("98.3", answer)

# %% [markdown] written="98.4"
# Why not?
#
# ### BEGIN SOLUTION
# A model answer.
# ### END SOLUTION
"""


def make(root: Path, chapter: str = CHAPTER, exercises: str = EXERCISES) -> Path:
    for folder in ("notebooks", "solutions", "course"):
        (root / folder).mkdir(exist_ok=True)
    (root / "pyproject.toml").write_text('[project]\nurls.Repository = "https://example.org/course"\n')
    (root / "notebooks" / "98_sample.py").write_text(chapter, encoding="utf-8")
    (root / "solutions" / "98_sample.py").write_text(exercises, encoding="utf-8")
    return root


def cells(root: Path, *, exercise: bool) -> list:
    path = root / "solutions" / "98_sample.py"
    return source.notebook(path, root, exercise=exercise).cells


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A repository of one chapter, built once for all tests; those that change it take a copy."""
    root = make(tmp_path_factory.mktemp("repository"))
    assert build.build(root) == []
    return root


@pytest.fixture
def copy(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "copy"))


# ---- without running


def test_the_exercise_has_stubs_where_the_solution_has_solutions(tmp_path):
    make(tmp_path)
    stub = cells(tmp_path, exercise=True)
    solved = cells(tmp_path, exercise=False)
    assert stub[2].source == (
        "def four():\n    '''Return 4.'''\n    raise NotImplementedError(\"98.1: your code here\")"
    )
    assert "return half + half" in solved[2].source
    assert stub[4].source == "number = ...\n# Your answer here."
    assert stub[6].source == 'answer = r"""\nWrite your answer here.\n"""\ncheck("98.3", answer)'
    assert stub[7].source == "Why not?\n\nWrite your answer here."
    assert "A model answer." in solved[7].source


def test_hidden_tests_are_added_to_the_solution_and_cut_from_the_exercise(tmp_path):
    make(tmp_path)
    stub = cells(tmp_path, exercise=True)
    solved = cells(tmp_path, exercise=False)
    region = '\n### BEGIN HIDDEN TESTS\ncheck("98.1", four, grade=True)\n### END HIDDEN TESTS'
    assert solved[3].source == 'check("98.1", four)' + region
    assert stub[3].source == 'check("98.1", four)'
    assert solved[5].source.count("HIDDEN TESTS") == 2
    assert "assert" not in stub[5].source


def test_graded_cells_carry_nbgraders_metadata(tmp_path):
    make(tmp_path)
    marks = [cell.metadata.get("nbgrader") for cell in cells(tmp_path, exercise=True)]
    assert marks[:2] == [None, None]
    assert marks[3] == {
        "cell_type": "code",
        "grade": True,
        "grade_id": "check-98-1",
        "locked": True,
        "points": 3,
        "schema_version": 3,
        "solution": False,
        "task": False,
    }
    short = [(m["grade_id"], m["grade"], m["solution"], m["locked"], m.get("points")) for m in marks[2:-1]]
    assert short == [
        ("task-98-1", False, True, False, None),
        ("check-98-1", True, False, True, 3),
        ("task-98-2", False, True, False, None),
        ("check-98-2", True, False, True, 1),
        ("written-98-3", True, True, False, 2),
        ("written-98-4", True, True, False, 1),
    ]


def test_the_first_cell_installs_from_the_projects_address(tmp_path):
    make(tmp_path)
    first = cells(tmp_path, exercise=True)[0]
    assert "git clone -q --depth 1 https://example.org/course ntk-course" in first.source
    assert len(first.source.splitlines()) == 8


def test_ids_are_stable_and_differ_between_files(tmp_path):
    make(tmp_path)
    targets = build.targets(tmp_path)
    ids = [[cell.id for cell in target.cells(tmp_path).cells] for target in targets]
    assert ids == [[cell.id for cell in target.cells(tmp_path).cells] for target in targets]
    flat = [id for group in ids for id in group]
    assert len(set(flat)) == len(flat)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('task="98.1"', 'taks="98.1"', "unknown mark 'taks' in its `# %%` line; is task meant?"),
        ('task="98.1"', 'task="97.1"', 'task="97.1" should look like "98.1"'),
        ('task="98.2"', 'task="98.1"', 'a second task="98.1"'),
        ('task="98.1"', 'task="98.1" check="98.1"', "are for two cells"),
        (' task="98.1"', "", "a cell whose marker line does not say what it is"),
        ("    ### END SOLUTION\n\n\n", "\n\n", "`### BEGIN SOLUTION` without its partner"),
        ("    ### BEGIN SOLUTION\n", "", "`### END SOLUTION` without its partner"),
        ('check("98.1", four)', "four()", "ends in a call of `check`"),
        ("# %%\n", "# %% [raw]\n", "a cell is code or markdown"),
    ],
)
def test_a_source_that_is_not_well_formed_is_refused(tmp_path, capsys, old, new, words):
    assert old in EXERCISES
    make(tmp_path, exercises=EXERCISES.replace(old, new, 1))
    with pytest.raises(source.SourceError) as caught:
        cells(tmp_path, exercise=True)
    assert words in str(caught.value)
    assert "98_sample.py, cell " in str(caught.value)
    assert any(words in line for line in build.check(tmp_path))


def test_an_unknown_chapter_is_named(tmp_path):
    with pytest.raises(SystemExit, match="no chapter '77'; there are: 98"):
        build.targets(make(tmp_path), ["77"])


# ---- run


def said(path: Path) -> list[str]:
    lines = [line for cell in execute.read(path).cells for line in execute.verdicts(cell)]
    return [line.split(": ")[1].split(";")[0] for line in lines]


def test_all_three_notebooks_are_built_in_one_go_and_in_step(built):
    assert build.check(built) == []
    for folder in build.FOLDERS:
        nb = execute.read(built / folder / "98_sample.ipynb")
        assert execute.problems(nb, built) == []
        assert not any("execution" in cell.metadata for cell in nb.cells)
    assert said(built / "exercises" / "98_sample.ipynb") == ["not attempted yet"] * 3
    assert said(built / "solutions" / "98_sample.ipynb") == ["passed", "passed", "written down"]


def test_a_notebook_runs_in_its_folder_quietly_with_its_figures_alt_text(built):
    nb = execute.read(built / "notebooks" / "98_sample.ipynb")
    assert execute.text_of(nb.cells[2]).endswith("notebooks true off\n")
    alt = 'A straight line, "y = x", from zero to one.'
    assert nb.cells[2].metadata == {"tags": ["wide"], "mystnb": {"image": {"alt": alt}}}


def test_what_is_in_step_is_not_run_again(copy, monkeypatch):
    monkeypatch.setattr(execute, "execute", lambda nb, path, env: ran.append(path.parent.name))
    monkeypatch.setattr(execute, "problems", lambda nb, root: ["not run"])
    ran: list[str] = []
    assert build.build(copy) == []
    assert ran == []
    (copy / "solutions" / "98_sample.py").write_text(EXERCISES.replace("half = 2", "half = 2.0"))
    assert len(build.build(copy)) == 1
    assert ran == ["solutions"]  # the exercise is the same as before
    build.build(copy, force=True)
    assert ran[1:] == ["notebooks", "solutions", "exercises"]


def test_new_text_and_a_new_setup_cell_are_written_without_a_run(copy, monkeypatch, capfd):
    path, chapter = copy / "exercises" / "98_sample.ipynb", copy / "notebooks" / "98_sample.py"
    before = execute.read(path)
    monkeypatch.setattr(execute, "execute", lambda nb, path, env: pytest.fail("ran"))
    monkeypatch.setattr(source, "SETUP", source.SETUP + "# other words")
    chapter.write_text(CHAPTER.replace("and nothing else", "and more text").replace("A straight", "One straight"))
    assert "differs in cell 1: source" in build.check(copy)[0]
    assert build.build(copy) == []
    assert capfd.readouterr().err.count("has the new text; its code is as it was") == 3
    assert build.check(copy) == []
    after, built = execute.read(path), execute.read(copy / "notebooks" / "98_sample.ipynb")
    assert after.cells[0].source.endswith("# other words")
    assert after.cells[1:] == before.cells[1:], "outputs included"
    assert "more text" in built.cells[0].source
    assert built.cells[2].metadata.mystnb.image.alt.startswith("One straight")
    assert built.cells[2].outputs
    # Where code differs as well, or the notebook was not run, it is run.
    after.cells[1].execution_count = None
    nbformat.write(after, path)
    monkeypatch.setattr(source, "SETUP", source.SETUP + " again")
    chapter.write_text(CHAPTER.replace("import os\n", "import os  # here\n"))
    ran = []
    monkeypatch.setattr(execute, "execute", lambda nb, path, env: ran.append(path.parent.name))
    monkeypatch.setattr(execute, "problems", lambda nb, root: ["not run"])
    assert len(build.build(copy)) == 3  # since `problems` finds fault with each
    assert ran == ["notebooks", "exercises"]


def test_notebooks_link_to_each_other(copy):
    (copy / "notebooks" / "99_last.py").write_text("# %% [markdown]\n# # 99 · The last one\n")
    found = {target.path.parent.name: target.cells(copy).cells[-1].source for target in build.targets(copy, ["98"])}
    assert found["notebooks"] == (
        "---\n\n[exercises](../exercises/98_sample.ipynb) · [solutions](../solutions/98_sample.ipynb) · "
        "[source](98_sample.py) · [99 · The last one →](99_last.ipynb)"
    )
    assert found["exercises"].endswith(
        "[98 · A sample](../notebooks/98_sample.ipynb) · [solutions](../solutions/98_sample.ipynb)"
    )
    (last,) = build.targets(copy, ["99"])
    assert last.cells(copy).cells[-1].source == "---\n\n[← 98 · A sample](98_sample.ipynb) · [source](99_last.py)"
    (copy / "notebooks" / "99_last.py").write_text("# %% [markdown]\n# # The last one\n")
    with pytest.raises(source.SourceError, match="should look like '# # 99 · The title'"):
        last.cells(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda nb: nb.cells.pop(), "has 3 cells instead of 4"),
        (lambda nb: nb.cells[0].update(source="# Another"), "differs in cell 1: source"),
        (lambda nb: nb.cells[1].update(id="other"), "differs in cell 2: id"),
        (lambda nb: nb.cells[2].metadata.pop("mystnb"), "differs in cell 3: metadata"),
        (lambda nb: nb.metadata.kernelspec.update(name="mine"), "differs in its metadata"),
        (lambda nb: nb.cells[2].update(execution_count=None), "was not run"),
    ],
)
def test_check_names_the_difference_and_what_mends_it(copy, change, words):
    path = copy / "notebooks" / "98_sample.ipynb"
    nb = execute.read(path)
    change(nb)
    nbformat.write(nb, path)
    name = os.path.join("notebooks", "98_sample.ipynb")
    assert build.check(copy) == [f"{name} {words}; mend it with: python -m course build 98"]
    assert build.check(copy, ["98"]) != []


def test_check_sees_missing_and_orphaned_files(copy):
    (copy / "exercises" / "98_sample.ipynb").unlink()
    shutil.copy(copy / "notebooks" / "98_sample.ipynb", copy / "exercises" / "97_old.ipynb")
    missing, orphan = build.check(copy)
    assert "is missing; mend it with" in missing
    assert orphan.endswith("97_old.ipynb has no source; remove it")


def test_a_failing_notebook_says_where_and_leaves_the_old_file(copy, capfd):
    path = copy / "notebooks" / "98_sample.ipynb"
    before = path.read_bytes()
    (copy / "notebooks" / "98_sample.py").write_text(CHAPTER + '\n# %%\nvalue = {}\nvalue["missing key"]\n')
    assert build.build(copy) == [os.path.join("notebooks", "98_sample.ipynb")]
    err = capfd.readouterr().err
    assert "98_sample.ipynb, cell 4:" in err
    assert 'value["missing key"]' in err
    assert "KeyError: 'missing key'" in err
    assert path.read_bytes() == before
    assert not list((copy / "notebooks").glob("*.part"))


def test_a_notebook_with_faults_in_its_outputs_is_refused(copy, capfd):
    faults = "import os, sys\nprint(os.getcwd())\nprint('careful', file=sys.stderr)\n"
    (copy / "notebooks" / "98_sample.py").write_text(CHAPTER + "\n# %%\n" + faults)
    assert len(build.build(copy)) == 1
    err = capfd.readouterr().err
    assert "cell 4 holds an absolute path" in err
    assert "cell 4 wrote to stderr: careful" in err


def code(source: str, count: int | None, outputs: list | None = None, **metadata) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source, execution_count=count, outputs=outputs or [], metadata=metadata)


def output(kind: str, **content) -> nbformat.NotebookNode:
    return nbformat.v4.new_output(kind, **content)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (code("1", 2), "execution counts are not 1 to n"),
        (code("1", None), "execution counts are not 1 to n"),
        (code("open('/home/me/x')", 1), "absolute path"),
        (code("1", 1, [output("stream", name="stdout", text="in /tmp/x")]), "absolute path"),
        (code("1", 1, [output("display_data", data={"text/html": r"C:\Users\me"})]), "absolute path"),
        (code("1", 1, [output("stream", name="stderr", text="careful")]), "wrote to stderr: careful"),
        (code("1", 1, [output("error", ename="E", evalue="", traceback=[])]), "holds an error"),
        (code("1", 1, [output("display_data", data={"image/png": "AA"})]), "without alt text"),
        (code("1", 1, [output("stream", name="stdout", text="x" * 300_000)]), "more than 300"),
    ],
)
def test_problems_are_found(cell, words):
    nb = nbformat.v4.new_notebook(cells=[cell], metadata=source.METADATA)
    assert words in "; ".join(execute.problems(nb))


def test_no_problems_are_invented():
    fine = [
        code("x = a/home/b; 'https://example.org/home/x'", 1, [output("stream", name="stdout", text="n/tmp 1/usr/2")]),
        code("1", 2, [output("display_data", data={"image/png": "AA"})], mystnb={"image": {"alt": "x" * 20}}),
    ]
    assert execute.problems(nbformat.v4.new_notebook(cells=fine, metadata=source.METADATA)) == []
    assert execute.problems(nbformat.v4.new_notebook(cells=[])) == ["the kernelspec is not python3"]


# ---- this repository


def test_the_committed_notebooks_are_in_step_with_their_sources():
    assert build.check(ROOT) == []


BUILT = [path for folder in build.FOLDERS for path in sorted((ROOT / folder).glob("*.ipynb"))]


@pytest.mark.parametrize("path", BUILT, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_committed_notebooks_are_clean(path):
    assert execute.problems(execute.read(path), ROOT) == []


def test_hardly_an_output_is_kept_from_nbval():
    tags = [tag for path in BUILT for cell in execute.read(path).cells for tag in cell.metadata.get("tags", [])]
    assert sum(tag.startswith("nbval-") for tag in tags) <= 3


def test_each_chapter_has_its_exercises():
    chapters = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert {path.stem for path in (ROOT / "solutions").glob("*.py")} <= chapters


def test_figures_are_stored_with_fewer_colours_and_look_the_same():
    import base64
    import io

    import numpy as np
    from PIL import Image

    from course.notebooks.execute import fewer_colours

    rng = np.random.default_rng(0)
    figure = np.full((120, 160, 3), 255, np.uint8)
    figure[40:42] = (0, 114, 178)
    figure[:, 50:53] = (213, 94, 0)
    figure[60:80, 60:100] = rng.integers(0, 256, (20, 40, 1))  # a grey picture in it

    def png(array):
        out = io.BytesIO()
        Image.fromarray(array).convert("RGBA").save(out, "PNG")
        return base64.b64encode(out.getvalue()).decode()

    before = png(figure)
    after = fewer_colours(before)
    assert len(after) < len(before)
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(after))).convert("RGB"))
    assert np.abs(seen.astype(int) - figure.astype(int)).max() <= 8
    assert np.array_equal(seen[41, 0], figure[41, 0])
    assert fewer_colours(after) == after or len(fewer_colours(after)) < len(after)
