"""What a chapter's own head says of it: its title, its minutes and its exercises', and which chapters it needs."""

import re
from dataclasses import dataclass
from pathlib import Path

from course.notebooks import source

#: The sentence about time, in the two forms that chapters have.
TIME = re.compile(
    r"(?P<chapter>\d+) minutes (?:for the chapter|to read and run), (?P<sheet>\d+) for the exercises(?P<open>[^.]*)\."
)
#: The sentence after it.
NEEDS = re.compile(r"(?:You need|It needs) (.*?)\.(?:\s|$)")


@dataclass(frozen=True)
class Chapter:
    """One chapter, titled "03 · Infinite width". `needs` has the chapters that it asks for, by number.

    `minutes` is for reading and running it, `stated` for its exercises: without an open one where the head says so.
    """

    number: str
    slug: str
    title: str
    minutes: int
    stated: int
    needs: tuple[str, ...]

    @property
    def path(self) -> str:
        """The notebook, from the root of the repository."""
        return f"notebooks/{self.slug}.ipynb"


def chapters(root: Path) -> dict[str, Chapter]:
    """All chapters, by number. Raises `SourceError` where a head does not say what it should."""
    paths = sorted((root / "notebooks").glob("[0-9][0-9]*_*.py"))
    return {path.name.split("_")[0]: _chapter(path) for path in paths}


def _chapter(path: Path) -> Chapter:
    text = path.read_text(encoding="utf-8")
    head = re.sub(r"\s*\n# ?", " ", text.split("# ## ", 1)[0])
    time = TIME.search(head)
    needs = NEEDS.search(head, time.end()) if time else None
    if time is None or needs is None:
        raise source.SourceError(
            f"{path.name}: before its first section should stand '60 minutes to read and run, 90 for the exercises. "
            "You need chapter 03 (kernels).'"
        )
    number = path.name.split("_")[0]
    asked = tuple(sorted(set(re.findall(r"\b\d\d\b", needs[1]))))
    without = re.search(r"\((\d+) without", time["open"])
    stated = int(without[1] if without else time["sheet"])
    return Chapter(number, path.stem, source.title(path), int(time["chapter"]), stated, asked)


def direct(found: dict[str, Chapter]) -> dict[str, tuple[str, ...]]:
    """Of what each chapter needs, what does not follow from the rest: 04 needs 03, and 01 by way of 03."""
    behind: dict[str, set[str]] = {}
    for number, chapter in sorted(found.items()):
        behind[number] = {far for near in chapter.needs for far in {near, *behind[near]}}
    return {
        number: tuple(near for near in chapter.needs if not any(near in behind[other] for other in chapter.needs))
        for number, chapter in found.items()
    }
