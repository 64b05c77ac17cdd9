"""How pages are written: each public name, chapter, sheet, paper and claim has its place, and the how-to pages run."""

import functools
import pathlib
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from helpers import assert_close

from course import chapters, tasks
from course.claims import records
from course.notebooks import execute
from course.notebooks.execute import environment
from course.pages import api, claims, notebooks, papers, picture, sheets, signatures

pytest.importorskip("sphinx")

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "course" / "site"
ENTRIES = api.entries(ROOT)
OTHERS = sorted(
    [f"topics/{topic.slug}.rst" for topic in api.topics(ROOT)]
    + [path.relative_to(SITE).as_posix() for path in SITE.rglob("*.rst")]
)
sources = functools.cache(lambda: api.sources(ROOT))


def test_every_public_name_is_in_one_topic():
    listed = [f"{topic.module}.{name}" for topic in api.topics(ROOT) for name in topic.names]
    assert len(listed) == len(set(listed)), "a name stands in two topics"
    assert set(listed) == api.public_names(), "course/site/topics.toml lists other names than there are"


def test_pages_have_names_that_every_file_system_tells_apart():
    pages = list(sources())
    assert {page for page in pages if not page.startswith("reference/")} == set(OTHERS)
    assert len({page.lower() for page in pages}) == len(pages)


def test_the_page_of_the_library_leads_to_every_topic_and_how_to():
    index = (SITE / "library.rst").read_text(encoding="utf-8")
    wanted = [f"topics/{topic.slug}" for topic in api.topics(ROOT)]
    wanted += [f"howto/{path.stem}" for path in (SITE / "howto").glob("*.rst")]
    assert sorted(re.findall(r"^   ((?:topics|howto)/\w+)$", index, flags=re.M)) == sorted(wanted)


@pytest.mark.parametrize("qualified", ENTRIES)
def test_every_public_name_says_in_one_sentence_what_it_is(qualified):
    text = api.summary(api.docstring(ENTRIES[qualified]))
    assert text
    assert "\n" not in text


# ---------------------------------------------------------------------------------------------- what a page looks like


def page(name):
    return sources()[f"reference/{name}.rst"]


def test_signatures_stand_as_in_the_source():
    assert signatures.signature(ENTRIES["ntklib.max_learning_rate"].value) == (
        '(ntk_train: ArrayLike, momentum: float | int | Array=0.0, *, nesterov: bool=False) -> Float[Array, ""]'
    )
    for entry in ENTRIES.values():
        written = signatures.signature(entry.value)
        assert "jaxtyping" not in written
        assert "self" not in signatures.arguments(entry.value), entry.name


def test_a_function_with_overloads_says_what_each_of_them_returns():
    written = signatures.signature(ENTRIES["ntklib.gradient_flow"].value)
    assert written.endswith('-> Float[Array, "*T N K"] | tuple[Float[Array, "*T N K"], Float[Array, "*T M K"]]')


def test_a_class_is_called_as_its_own_init_says_or_one_below_it():
    assert signatures.signature(ENTRIES["ntklib.LayerNorm"].value) == "(epsilon: float=1e-12)"
    assert signatures.signature(ENTRIES["ntklib.KernelClassifier"].value).startswith(
        "(net: Layer | None=None, *, depth:"
    )
    assert signatures.signature(ENTRIES["ntklib.Layer"].value) == ""


def test_a_page_links_its_source_the_chapters_and_what_mentions_it():
    text = page("gradient_flow")
    assert "../_modules/ntklib/dynamics/flow.html" in text
    assert "</chapters/04_kernel_dynamics>" in text
    assert ":py:obj:`gradient_descent <ntklib.gradient_descent>`" in text
    assert "</chapters/02_parameterizations>" in page("MUP")  # a constant
    assert page("MUP").count("ntklib.parameterization") == 2


def test_equations_keep_their_lines_and_bars_are_bars():
    text = api.rendered("Size.\n\n    a = |b|\n      = c\n\nwith |x| and `|y|`.\n\nArgs:\n    x: a number.\n")
    assert "   :class: equation\n\n    a = |b|\n      = c\n" in text
    assert r"with \|x\| and `|y|`." in text
    assert "**x** -- a number." in text
    assert api.rendered("Size::\n\n    a = |b|\n\nend") == (
        "Size:\n\n.. code-block:: text\n   :class: equation\n\n    a = |b|\n\nend"
    )
    assert "    a|b" in api.rendered("Size.\n\nNote:\n    So it is::\n\n        a|b\n")


def test_a_quoted_argument_is_no_link():
    """`phase` of Sin is an angle; elsewhere it is the function."""
    assert api.linked("`phase` and `ntk.gram(x)`", ENTRIES, frozenset({"phase"})) == (
        "`phase` and :py:obj:`ntk.gram(x) <ntklib.gram>`"
    )
    assert api.linked("``phase``, :py:obj:`phase`", ENTRIES) == "``phase``, :py:obj:`phase`"
    assert api.linked(">>> `phase`", ENTRIES) == ">>> `phase`"


# ------------------------------------------------------------------------------------------ chapters, sheets, notebooks

CHAPTERS = {chapter.slug: chapter for chapter in chapters.chapters(ROOT).values()}
TASKS = tasks.all_tasks()
LITERATURE = papers.Papers(ROOT)
CLAIMS = records.load()


def test_links_of_a_notebook_lead_to_pages():
    def prose(text):
        return notebooks.prose(text, ROOT, "notebooks/03_infinite_width.ipynb")

    assert prose("[x](04_kernel_dynamics.ipynb)") == "[x](../chapters/04_kernel_dynamics.md)"
    assert prose("[x](../solutions/03_infinite_width.ipynb)") == "[x](../sheets/03_infinite_width.md)"
    assert prose("`exercises/03_infinite_width.ipynb`, 9") == (
        "[`exercises/03_infinite_width.ipynb`](../sheets/03_infinite_width.md), 9"
    )
    assert prose("[x](../course/claims.md)") == "[x](../claims.md)"
    assert prose("[x](../LICENSE)").endswith("/blob/main/LICENSE)")
    assert prose("[x](https://docs.jax.dev)") == "[x](https://docs.jax.dev)"
    with pytest.raises(ValueError, match="there is no notebooks/nowhere"):
        prose("[x](nowhere.md)")


def test_chapters_that_a_text_names_are_links():
    def prose(text):
        return notebooks.prose(text, ROOT, "notebooks/03_infinite_width.ipynb")

    four, seven = "(../chapters/04_kernel_dynamics.md)", "(../chapters/07_ntk_at_depth.md)"
    assert prose("In chapter 04, see") == f"In [chapter 04]{four}, see"
    assert prose("chapters 04 and 07") == f"chapters [04]{four} and [07]{seven}"
    for same in ("chapter 03", "# chapter 04", "`chapter 04`", "$chapter 04$", "chapter 99"):
        assert prose(same) == same


def test_a_hint_shows_each_of_its_signs():
    from markdown_it import MarkdownIt

    for task in TASKS.values():
        for hint in task.hints:
            shown = re.sub("<[^>]*>", "", MarkdownIt().render(sheets.plain(hint)))
            for code, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
                shown = shown.replace(code, sign)
            assert shown.split() == hint.replace("`", "").split(), task.id


def test_cells_that_hold_numbers_against_the_record_are_told_from_others():
    def is_bookkeeping(text):
        return notebooks.is_bookkeeping(nbformat.v4.new_code_cell(text))

    assert is_bookkeeping('claim("J2", what="x", measured=1)\nassert 1 == 1')
    assert not is_bookkeeping("x = 1\nassert x == 1")
    assert not is_bookkeeping("%pip list")
    assert not is_bookkeeping("")


def test_a_figure_keeps_its_size_and_what_it_shows_in_words():
    figures = notebooks.Figures()
    cells = execute.read(ROOT / "notebooks" / "03_infinite_width.ipynb").cells
    cell = next(cell for cell in cells if "mystnb" in cell.metadata)
    text = notebooks.outputs(cell, "03-9", figures)
    (name, png), *_ = figures.items()
    assert png.startswith(b"\x89PNG")
    assert f'src="../figures/{name}"' in text
    assert re.search(r'width="[1-9]\d+" height="[1-9]\d+"', text)
    assert f'alt="{cell.metadata.mystnb.image.alt}"' in text


@pytest.mark.parametrize(
    ("slug", "alt", "plot"),
    [
        ("03_infinite_width", "Two panels. The kernel between a fixed image", True),
        ("19_scaling_up", "Bars of time over that of gram", True),
        ("00_start_here", "Heat map of", False),
        ("00_start_here", "Twelve gray-level images", False),
        ("06_edge_of_chaos", "Phase diagram", False),
        ("14_whitening", "Four digits and four color patches", False),
    ],
)
def test_plots_are_told_from_images_and_color_maps(slug, alt, plot):
    """The dark theme inverts plots, and leaves alone what is bright because it is much."""
    cells = execute.read(ROOT / "notebooks" / f"{slug}.ipynb").cells
    (cell,) = [one for one in cells if one.metadata.get("mystnb", {}).get("image", {}).get("alt", "").startswith(alt)]
    assert ('class="plot"' in notebooks.outputs(cell, "x", notebooks.Figures())) == plot


@pytest.mark.parametrize("slug", CHAPTERS)
def test_a_sheet_shows_each_task_with_its_hints_and_its_solution_folded(slug):
    page = sheets.page(ROOT, slug, TASKS, notebooks.Figures())
    open_text = re.sub(r"<details.*?</details>", "", page, flags=re.S)
    assert "SOLUTION" not in page
    solved = execute.read(ROOT / "solutions" / f"{slug}.ipynb").cells
    for task in (task for task in TASKS.values() if task.chapter == slug[:2]):
        assert open_text.count(f"## {task.id} ") == 1
        for level, hint in enumerate(task.hints, 1):
            assert page.count(f"<summary>Hint {level} for {task.id}:") == 1
            assert sheets.plain(hint) in page
            assert sheets.plain(hint) not in open_text
        assert page.count(f"<summary>Solution of {task.id}</summary>") == 1
    for cell in solved:
        for answer in re.findall(r"### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", cell.source, flags=re.S):
            assert answer.strip() in page
            assert answer.strip() not in open_text


# ---------------------------------------------------------------------------------------------- literature and claims


def reference_items(slug):
    text = papers.references((ROOT / "notebooks" / f"{slug}.py").read_text(encoding="utf-8"))
    return re.split(r"^# - ", text, flags=re.M)[1:]


def test_every_reference_of_a_chapter_leads_to_the_literature():
    no_papers = ("Documentation: ", "JAX's [change log]")
    for slug in CHAPTERS:
        items = reference_items(slug)
        assert items, slug
        for item in items:
            named = LITERATURE.named(item)
            assert named or item.startswith(no_papers), f"{slug}: {item}"
            for number in re.findall(r"arXiv:(\d{4}\.\d{5})", item):
                assert number in [LITERATURE.entries[key].fields.get("eprint") for key in named], f"{slug}: {number}"


def test_every_paper_of_the_literature_is_named_by_a_chapter_or_by_the_library():
    named = {key for slug in CHAPTERS for key in LITERATURE.named("\n".join(reference_items(slug)))}
    docstrings = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ntklib").rglob("*.py"))
    for key in set(LITERATURE.entries) - named:
        entry = LITERATURE.entries[key]
        last_name = entry.persons["author"][0].last_names[-1]
        assert re.search(rf"{last_name}.{{0,60}}{entry.fields['year']}", docstrings), key


def test_every_source_of_a_claim_is_in_the_literature():
    known = {entry.fields.get("eprint") for entry in LITERATURE.entries.values()}
    for claim in CLAIMS.values():
        assert set(re.findall(r"\d{4}\.\d{5}", claim.source)) <= known, claim.id


def test_the_claims_page_has_every_claim_once_with_its_verdict_and_rows():
    page = claims.page(CLAIMS, {chapter.slug: chapter.title for chapter in CHAPTERS.values()})
    for claim in CLAIMS.values():
        assert page.count(f"\n({claim.id.lower()})=\n### {claim.id}: ") == 1
        section = page.split(f"\n### {claim.id}: ")[1].split("\n### ")[0]
        assert section.startswith(claim.verdict)
        assert section.count("<tr><td") == len(claim.at())
    with pytest.raises(ValueError, match="chapters that there are not"):
        claims.page(CLAIMS, {})


# ---------------------------------------------------------------------------------------- the picture of the first page


@pytest.mark.weekly
def test_the_picture_shows_what_the_kernel_predicts():
    kept, now = picture.numbers(), picture.prediction()
    for name in ("mean", "std"):
        assert_close(np.array(now[name]), np.array(kept[name]), atol=2e-3)
    assert np.shape(kept["networks"]) == (picture.MEMBERS, len(picture.STEPS), len(picture.GRID))


def test_the_networks_of_the_picture_are_where_the_kernel_predicts_them():
    """Of a normal distribution 95 % lie within two standard deviations; neighboring points of one curve go together."""
    kept = picture.numbers()
    mean, std, networks = (np.array(kept[name]) for name in ("mean", "std", "networks"))
    assert (np.abs(networks - mean) < 2 * std + 0.1).mean() > 0.85
    at_data = [int(np.abs(np.array(picture.GRID) - x).argmin()) for x in picture.X]
    assert np.abs(networks[:, -1, at_data] - np.array(picture.Y)).max() < 0.15
    assert np.abs(networks[:, 0, at_data] - np.array(picture.Y)).max() > 0.5


@pytest.mark.weekly
def test_the_networks_of_the_picture_are_those_of_the_library():
    now, kept = np.array(picture.training()["networks"]), np.array(picture.numbers()["networks"])
    assert_close(now, kept, atol=0.05)


# --------------------------------------------------------------------------------------------------- the how-to pages


PAGES = [SITE / "library.rst", *sorted((SITE / "howto").glob("*.rst"))]


@pytest.mark.sweep
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_code_of_the_how_to_pages_runs(page):
    """As a reader runs it, with JAX as it comes, in a process of its own."""
    assert ">>> " in page.read_text(encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-glob=*.rst"]
    command += ["--doctest-continue-on-failure", str(page)]
    done = subprocess.run(command, cwd=ROOT, env=environment(ROOT), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
