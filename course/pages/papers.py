"""The literature: `course/site/papers.bib` has each paper once, and the chapters' references lead to it."""

import functools
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

BIB = "papers.bib"
PAGE = """\
# Literature

Every paper that a chapter rests on. Each chapter says at its end what it takes from which.

```{{bibliography}}
:all:
```

## By chapter

{rows}
"""


class Papers:
    """The entries of the BibTeX file by their keys."""

    def __init__(self, root: Path) -> None:
        from pybtex.database import parse_file

        self.entries: Mapping = parse_file(str(root / "course" / "site" / BIB)).entries

    def named(self, text: str) -> list[str]:
        """The keys of the papers that a text names, by arXiv number or by title, in the file's order."""
        letters = _letters(text)
        return [key for key, (number, title) in self._signs.items() if number in text or (title and title in letters)]

    @functools.cached_property
    def _signs(self) -> dict[str, tuple[str, str]]:
        """How a paper is recognized: by its arXiv number, else by its title, or by a short form of it."""
        found = {}
        for key, entry in self.entries.items():
            number = entry.fields.get("eprint")
            title = entry.fields.get("shorttitle", entry.fields["title"])
            found[key] = (number, "") if number else (title, _letters(title))
        return found

    def cited(self, text: str) -> str:
        """A chapter's text in which each item of the list under "References" ends in links to this page's entries."""
        head, heading, references = text.partition("## References\n")
        items = re.split(r"^(?=- )", references, flags=re.M)
        for number, item in enumerate(items):
            if item.startswith("- ") and (keys := self.named(item)):
                items[number] = item.rstrip() + " {cite:p}`" + ",".join(keys) + "`" + item[len(item.rstrip()) :]
        return head + heading + "".join(items)


def references(text: str) -> str:
    """What stands under "References" in a chapter's source."""
    return text.partition("# ## References\n")[2]


def page(root: Path, papers: Papers, titles: Mapping[str, str]) -> str:
    """The page of all papers; `titles` are those of the chapters, by their slugs."""
    rows = []
    for slug, title in titles.items():
        keys = papers.named(references((root / "notebooks" / f"{slug}.py").read_text(encoding="utf-8")))
        rows.append(f"- [{title}](chapters/{slug}.md): " + ", ".join(f"{{cite:t}}`{key}`" for key in keys))
    return PAGE.format(rows="\n".join(rows))


def _letters(text: str) -> str:
    """The letters and digits of a text, without accents, braces and capitals, so that titles can be compared."""
    plain = unicodedata.normalize("NFKD", text.replace("\n#", " "))
    return re.sub(r"[^a-z0-9]", "", plain.lower())
