"""The first page: `course/site/index.md` with its numbers, its picture and its map."""

from collections.abc import Mapping
from pathlib import Path

from course import address
from course.claims.records import Claim
from course.pages import chapters, picture
from course.tasks import Task

#: Pages that stand by themselves, and what they are called here.
TITLES = {"course/playground/page.html": "Playground", "course/explorer/page.html": "Phase diagrams"}
MAP = Path("course/pictures/map.svg")
ALT = (
    "One row for each chapter. Lines at the left run from a chapter to those that need it. Dots show which modules of "
    "ntklib a chapter uses, squares which papers it rests on."
)


def page(root: Path, claims: Mapping[str, Claim], tasks: Mapping[str, Task], alone: Mapping[str, str]) -> str:
    """The page as Markdown; `alone` are the pages that stand by themselves, by the files they are kept in."""
    slugs = list(chapters.titles(root))
    links = [f'<a href="{alone[path]}">{title}</a>' for path, title in TITLES.items() if path in alone]
    text = (root / "course" / "site" / "index.md").read_text(encoding="utf-8")
    return text.format(
        claims=len(claims),
        chapters=len(slugs),
        tasks=len(tasks),
        picture=picture.svg(),
        repository=address.REPOSITORY,
        folder=address.REPOSITORY.rpartition("/")[2],
        first=f"chapters/{slugs[0]}.html",
        alone="\n".join(links),
        map=_map(root),
    )


def _map(root: Path) -> str:
    """The map of chapters, where there is one."""
    if not (root / MAP).exists():
        return ""
    return f'## The map\n\n<p class="map"><a href="{MAP.name}"><img src="{MAP.name}" alt="{ALT}"></a></p>'
