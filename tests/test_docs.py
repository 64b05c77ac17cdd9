"""The API reference: every public name has its page, the pages parse, and the how-to pages run."""

import functools
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from course import docs, signatures
from course.execute import environment

pytest.importorskip("sphinx")
import docutils.core
import docutils.nodes
from docutils.parsers.rst import Directive, directives, roles

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "course" / "site"
ENTRIES = docs.entries(ROOT)
OTHERS = sorted(
    [f"topics/{topic.slug}.rst" for topic in docs.topics(ROOT)]
    + [path.relative_to(SITE).as_posix() for path in SITE.rglob("*.rst")]
)
sources = functools.cache(lambda: docs.sources(ROOT))


def test_every_public_name_is_in_one_topic():
    listed = [f"{topic.module}.{name}" for topic in docs.topics(ROOT) for name in topic.names]
    assert len(listed) == len(set(listed)), "a name stands in two topics"
    assert set(listed) == docs.public_names(), "course/site/topics.toml lists other names than there are"


def test_pages_have_names_that_every_file_system_tells_apart():
    pages = list(sources())
    assert {page for page in pages if not page.startswith("reference/")} == set(OTHERS)
    assert len({page.lower() for page in pages}) == len(pages)


def test_the_first_page_leads_to_every_topic_and_how_to():
    index = (SITE / "index.rst").read_text(encoding="utf-8")
    wanted = [f"topics/{topic.slug}" for topic in docs.topics(ROOT)]
    wanted += [f"howto/{path.stem}" for path in (SITE / "howto").glob("*.rst")]
    assert sorted(re.findall(r"^   ((?:topics|howto)/\w+)$", index, flags=re.M)) == sorted(wanted)


@pytest.mark.parametrize("qualified", ENTRIES)
def test_every_public_name_says_in_one_sentence_what_it_is(qualified):
    text = docs.summary(docs.docstring(ENTRIES[qualified]))
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
    assert "notebooks/04_kernel_dynamics.ipynb" in text
    assert ":py:obj:`gradient_descent <ntklib.gradient_descent>`" in text
    assert "notebooks/02_parameterizations.ipynb" in page("MUP")  # a constant
    assert page("MUP").count("ntklib.parameterization") == 2


def test_equations_keep_their_lines_and_bars_are_bars():
    text = docs.rendered("Size.\n\n    a = |b|\n      = c\n\nwith |x| and `|y|`.\n\nArgs:\n    x: a number.\n")
    assert "   :class: equation\n\n    a = |b|\n      = c\n" in text
    assert r"with \|x\| and `|y|`." in text
    assert "**x** -- a number." in text
    assert docs.rendered("Size::\n\n    a = |b|\n\nend") == (
        "Size:\n\n.. code-block:: text\n   :class: equation\n\n    a = |b|\n\nend"
    )
    assert "    a|b" in docs.rendered("Size.\n\nNote:\n    So it is::\n\n        a|b\n")


def test_a_quoted_argument_is_no_link():
    """`phase` of Sin is an angle; elsewhere it is the function."""
    assert docs.linked("`phase` and `ntk.gram(x)`", ENTRIES, frozenset({"phase"})) == (
        "`phase` and :py:obj:`ntk.gram(x) <ntklib.gram>`"
    )
    assert docs.linked("``phase``, :py:obj:`phase`", ENTRIES) == "``phase``, :py:obj:`phase`"
    assert docs.linked(">>> `phase`", ENTRIES) == ">>> `phase`"


# ----------------------------------------------------------------------------------- what docutils says, without Sphinx


class Anything(Directive):
    """A directive of Sphinx: its content is parsed, its arguments are not looked at."""

    has_content, optional_arguments, final_argument_whitespace = True, 1, True

    def run(self):
        """The content in a box."""
        node = docutils.nodes.container()
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


class Nothing(Anything):
    """A directive without text, or with code."""

    def run(self):
        """Nothing to look at."""
        return []


@pytest.fixture(scope="module", autouse=True)
def sphinx_words():
    """Teach docutils the directives and roles of Sphinx that are used here."""
    for name in ("py:function", "py:class", "py:data", "py:exception", "py:method", "py:property", "py:attribute",
                 "seealso"):  # fmt: skip
        directives.register_directive(name, type(name, (Anything,), {"option_spec": Options()}))
    for name in ("toctree", "code-block"):
        directives.register_directive(name, type(name, (Nothing,), {"option_spec": Options()}))
    for name in ("py:obj", "doc"):
        role: Any = roles.GenericRole(name, docutils.nodes.literal)
        roles.register_local_role(name, role)


class Options(dict):
    """Any option is as good as another."""

    def __getitem__(self, key):
        return directives.unchanged

    def __bool__(self):
        return True


def messages(text):
    """What docutils has to say about a page."""
    settings = {"report_level": 2, "halt_level": 6, "warning_stream": False}
    tree = docutils.core.publish_doctree(".. default-role:: code\n\n" + text, settings_overrides=settings)
    return [message.astext() for message in tree.findall(docutils.nodes.system_message)]


def test_messages_are_found():
    assert messages("A list:\n\n- one\n  - two\n    three\n  four") != []
    assert messages("An `open quote") != []


@pytest.mark.parametrize("qualified", ENTRIES)
def test_every_public_name_renders_without_a_message(qualified):
    assert messages(page(ENTRIES[qualified].page)) == []


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_page_renders_without_a_message(name):
    assert messages(sources()[name]) == []


# --------------------------------------------------------------------------------------------------- the how-to pages


PAGES = [SITE / "index.rst", *sorted((SITE / "howto").glob("*.rst"))]


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
