"""The reference of the library: one page a public name, written from its docstring and its source.

`sources` holds them as reStructuredText, with the pages in `course/site` that are written by hand.
"""

import functools
import hashlib
import importlib
import inspect
import re
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from course.notebooks import source
from course.pages import signatures

#: Headings of a docstring in the form of `STYLE.md`; what comes before the first is text and equations.
SECTIONS = (
    "Args",
    "Returns",
    "Yields",
    "Raises",
    "Warns",
    "Attributes",
    "Example",
    "Examples",
    "Note",
    "Reference",
    "References",
    "See also",
)


class Group(NamedTuple):
    """Names that stand together on a topic's page."""

    title: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """One page that lists public names of a module."""

    slug: str
    title: str
    text: str
    module: str
    groups: tuple[Group, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the topic."""
        return tuple(name for group in self.groups for name in group.names)


@dataclass(frozen=True)
class Entry:
    """One public name: what it is, where it is defined, and where it is listed."""

    module: str
    name: str
    topic: Topic

    @property
    def qualified(self) -> str:
        """The name as it is imported, `ntklib.gram`."""
        return f"{self.module}.{self.name}"

    @property
    def page(self) -> str:
        """The name of the page: `gram`, `plotting.rate`; `Ensemble_class`, since some file systems ignore capitals."""
        alike = self.name != self.name.lower() and f"{self.module}.{self.name.lower()}" in public_names()
        return self.qualified.removeprefix("ntklib.") + ("_class" if alike else "")

    @property
    def origin(self) -> str:
        """The module in which it is defined."""
        return signatures.origin(self.module, self.name, self.value)

    @property
    def value(self) -> Any:
        """The object itself."""
        return getattr(importlib.import_module(self.module), self.name)


def topics(root: Path) -> list[Topic]:
    """The table in `course/site/topics.toml`."""
    table = tomllib.loads((root / "course" / "site" / "topics.toml").read_text(encoding="utf-8"))
    return [
        Topic(
            row["slug"],
            row["title"],
            row["text"],
            row["module"],
            tuple(Group(group.get("title", ""), tuple(group["names"])) for group in row["group"]),
        )
        for row in table["topic"]
    ]


def entries(root: Path) -> dict[str, Entry]:
    """Every name of the table, by its qualified name."""
    found = [Entry(topic.module, name, topic) for topic in topics(root) for name in topic.names]
    return {entry.qualified: entry for entry in found}


def public_names() -> set[str]:
    """Every public name there is, qualified: of ntklib, of its plotting, and what the bridge adds."""
    import ntklib

    found = {f"ntklib.{name}" for name in ntklib.__all__}
    for name in ("ntklib.plotting", "ntklib.interop.neural_tangents"):
        module = importlib.import_module(name)
        for member, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == name and not member.startswith("_"):
                found.add(f"{name}.{member}")
    return found


def sources(root: Path) -> dict[str, str]:
    """All generated pages: their paths under the folder of Sphinx's sources, and their text."""
    table, found = topics(root), entries(root)
    names = {qualified: docstring(entry) for qualified, entry in found.items()}
    pages = {f"topics/{topic.slug}.rst": _topic_page(topic, found) for topic in table}
    for entry in found.values():
        pages[f"reference/{entry.page}.rst"] = _name_page(root, entry, found, names)
    for path in sorted((root / "course" / "site").rglob("*.rst")):
        pages[path.relative_to(root / "course" / "site").as_posix()] = linked(path.read_text(encoding="utf-8"), found)
    return pages


# ---------------------------------------------------------------------------------------------- from docstring to page


def docstring(entry: Entry) -> str:
    """The docstring of a name; of a constant, the comment `#:` above it."""
    if signatures.is_code(entry.value):
        return inspect.getdoc(entry.value) or ""
    return signatures.comment(entry.origin, entry.name)


def rendered(text: str) -> str:
    """A docstring as reStructuredText: equations keep their lines, `|` is a bar, and sections become fields."""
    from sphinx.ext.napoleon import Config, GoogleDocstring

    settings: Any = Config(
        napoleon_use_param=False,
        napoleon_use_rtype=False,
        napoleon_custom_sections=["Reference", ("Attributes", "params_style")],
    )
    return str(GoogleDocstring(_bars(_equations(inspect.cleandoc(text))), settings))


def _equations(text: str) -> str:
    """Indented blocks before the first section become blocks whose lines and spaces are kept, with `::` or without."""
    lines, out = text.split("\n"), []
    inside = False
    for number, line in enumerate(lines):
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            return "\n".join([*out, *lines[number:]])
        if line.startswith("    ") and not inside and out and not out[-1].strip():
            last = max((place for place, old in enumerate(out) if old.strip()), default=0)
            out[last] = re.sub(r"::$", ":", out[last])
            out += [".. code-block:: text", "   :class: equation", ""]
            inside = True
        elif line.strip() and not line.startswith("    "):
            inside = False
        out.append(line)
    return "\n".join(out)


def _bars(text: str) -> str:
    """Escape `|` outside of code: |x| is a modulus here, never a substitution."""
    out: list[str] = []
    literal: int | None = None  # the indent of the line that a block of code hangs on
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is not None or line.lstrip().startswith((">>>", "...", "+-")):
            out.append(line)
            continue
        if line.endswith("::") or ".. code-block::" in line:
            literal = indent
        parts = re.split(r"(``[^`]+``|`[^`]+`)", line)
        out.append("".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts))
    return "\n".join(out)


def linked(text: str, found: dict[str, Entry], own: frozenset[str] = frozenset()) -> str:
    """Turn `gram`, `ntk.gram` and `ntklib.gram` into links, but for the names in `own` (its own, its arguments)."""

    def link(match: re.Match[str]) -> str:
        written = match[1]
        name = re.sub(r"^ntk(lib)?\.|\(.*\)$", "", written)
        if name in own or f"ntklib.{name}" not in found:
            return match[0]
        return f":py:obj:`{written} <ntklib.{name}>`"

    out = []
    for line in text.split("\n"):
        code = line.lstrip().startswith((">>>", "... "))
        out.append(line if code else re.sub(r"(?<![:`\w])`([^`<>\n]+)`(?![`_])", link, line))
    return "\n".join(out)


# ------------------------------------------------------------------------------------------------------------ the pages


def _name_page(root: Path, entry: Entry, found: dict[str, Entry], docstrings: dict[str, str]) -> str:
    value = entry.value
    body = textwrap.indent(_body(entry, found), "   ")
    kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
    if inspect.isclass(value) and issubclass(value, BaseException):
        kind = "exception"
    text = [
        ":orphan:\n",  # its topic lists it: the side bar has topics alone, and a page that many would be slow
        _heading(entry.name),
        ".. rst-class:: whereabouts\n",
        f":doc:`ntklib </library>` › :doc:`{entry.topic.title} </topics/{entry.topic.slug}>`\n",
        f".. py:{kind}:: {entry.name}{signatures.signature(value)}",
        f"   :module: {entry.module}",
    ]
    origin = entry.origin
    if origin != entry.module:
        text.append(f"   :canonical: {origin}.{entry.name}")
    text += ["", body, ""]
    others = [] if ".. seealso::" in body else _see_also(entry, found, docstrings)
    if others:
        text += [".. seealso::", "", "   " + ", ".join(f":py:obj:`{o.name} <{o.qualified}>`" for o in others), ""]
    if chapters := _chapters(root, entry):
        text += [".. rubric:: Chapters that use it", ""]
        text += [f"- :doc:`{title} </chapters/{slug}>`" for slug, title in chapters] + [""]
    place = f"{origin.replace('.', '/')}"
    text += [
        ".. rst-class:: whereabouts",
        "",
        f"Defined in `{origin} <../_modules/{place}.html>`__.",
        "",
        f".. {_fingerprint(origin)}",  # with its module a page changes: else Sphinx forgets where its source stands
        "",
    ]
    return "\n".join(text)


@functools.cache
def _fingerprint(module: str) -> str:
    """A few digits that change with a module's source."""
    return hashlib.sha256(inspect.getsource(importlib.import_module(module)).encode()).hexdigest()[:16]


def _body(entry: Entry, found: dict[str, Entry]) -> str:
    """The docstring and, of a class, its documented members."""
    value = entry.value
    own = frozenset({entry.name, *signatures.arguments(value)})
    parts = [linked(rendered(docstring(entry)), found, own)]
    if inspect.isclass(value):
        for member in signatures.members(value):
            body = linked(rendered(member.docstring), found, own | member.arguments)
            parts += ["", f".. py:{member.directive}:: {member.heading}", "", textwrap.indent(body, "   "), ""]
    return "\n".join(parts)


def _topic_page(topic: Topic, found: dict[str, Entry]) -> str:
    text = [_heading(topic.title), linked(topic.text, found), ""]
    for group in topic.groups:
        if group.title:
            text += [group.title, "-" * len(group.title), ""]
        text += [".. rst-class:: names", ""]
        for name in group.names:
            entry = found[f"{topic.module}.{name}"]
            own = frozenset({name, *signatures.arguments(entry.value)})
            sentence = linked(_bars(summary(docstring(entry))), found, own)
            text += [f":py:obj:`{name} <{entry.qualified}>`", f"   {sentence}", ""]
    return "\n".join([*text, ""])


def _heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def summary(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    first = re.split(r"\n\s*\n|::?\n\s*\n", text.strip(), maxsplit=1)[0].replace("\n", " ")
    return re.split(r"(?<=[^\W\d_]{2}\.)\s+(?=[A-Z`])", first, maxsplit=1)[0].rstrip(":;,")


def _see_also(entry: Entry, found: dict[str, Entry], docstrings: dict[str, str]) -> list[Entry]:
    """Names that the docstring mentions, then names whose docstrings mention this one; else its neighbors."""
    mine = frozenset({entry.name, *signatures.arguments(entry.value)})
    mentioned = [found[q] for q in _mentions(docstrings[entry.qualified], found) if found[q].name not in mine]
    back = [
        other
        for qualified, other in found.items()
        if entry.qualified in _mentions(docstrings[qualified], found)
        and entry.name not in signatures.arguments(other.value)
        and other is not entry
    ]
    group = next(group for group in entry.topic.groups if entry.name in group.names)
    near = [found[f"{entry.module}.{name}"] for name in group.names if name != entry.name]
    return list(dict.fromkeys([*mentioned, *back] or near))[:8]


def _mentions(text: str, found: dict[str, Entry]) -> list[str]:
    names = re.findall(r"`(?:ntk(?:lib)?\.)?([\w.]+)(?:\([^`]*\))?`", text)
    return [f"ntklib.{name}" for name in dict.fromkeys(names) if f"ntklib.{name}" in found]


def _chapters(root: Path, entry: Entry) -> list[tuple[str, str]]:
    """The notebooks that use the name, and their titles."""
    prefix = {"ntklib": "ntk"}.get(entry.module, entry.module.rpartition(".")[2])
    prefix = "nt" if prefix == "neural_tangents" else prefix
    used = re.compile(rf"\b{prefix}\.{entry.name}\b")
    found = []
    for path, text in _notebooks(root):
        if used.search(text):
            found.append((path.stem, source.title(path)))
    return found


@functools.cache
def _notebooks(root: Path) -> list[tuple[Path, str]]:
    return [(path, path.read_text(encoding="utf-8")) for path in sorted((root / "notebooks").glob("[0-9]*.py"))]
