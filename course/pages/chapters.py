"""The chapters' pages: the notebooks with what they gave, under a line with the time, what is needed, and ways on."""

from pathlib import Path

from course import address, chapters
from course.claims.records import Claim
from course.notebooks import execute
from course.pages import notebooks, papers

INDEX = """\
# Chapters

Each chapter asks a question, derives a prediction, and measures it on networks and data that a laptop can hold. The
times are for reading a chapter and running its notebook; the [exercises](../sheets/index.md) come on top.

{rows}

```{{toctree}}
:hidden:

{names}
```
"""


def titles(root: Path) -> dict[str, str]:
    """The chapters in order, such as "03_infinite_width", with their titles, such as "03 · Infinite width"."""
    return {chapter.slug: chapter.title for chapter in chapters.chapters(root).values()}


def index(root: Path) -> str:
    """The page that lists the chapters."""
    found = chapters.chapters(root).values()
    rows = [f"- [{chapter.title}]({chapter.slug}.md), {chapter.minutes} minutes" for chapter in found]
    return INDEX.format(rows="\n".join(rows), names="\n".join(chapter.slug for chapter in found))


def page(root: Path, slug: str, claims: dict[str, Claim], literature: papers.Papers, figures: notebooks.Figures) -> str:
    """A chapter's page."""
    path = f"notebooks/{slug}.ipynb"
    cells = notebooks.without_frame(execute.read(root / path))
    blocks = []
    for number, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            text = notebooks.prose(literature.cited(cell.source), root, path)
            blocks.append(text if number else _head(text, root, slug, claims))
            continue
        shown = [notebooks.code(cell.source), notebooks.outputs(cell, f"{slug[:2]}-{number}", figures)]
        block = "\n\n".join(filter(None, shown))
        if notebooks.is_bookkeeping(cell):
            block = notebooks.folded("Code: what was measured, held against the record", block, "cell")
        blocks.append(block)
    return "\n\n".join(blocks) + "\n"


def _head(text: str, root: Path, slug: str, claims: dict[str, Claim]) -> str:
    """The first cell, with its paragraph about time and what is needed in a box under the title, and links."""
    _, *paragraphs = text.split("\n\n")
    time = next(part for part in paragraphs if chapters.TIME.search(part.replace("\n", " ")))
    lines = [time if time.startswith("**Time") else f"**Time:** {time}"]
    if tested := [claim for claim in claims.values() if slug[:2] in claim.chapters]:
        lines.append("**Tests:** " + ", ".join(f"[{c.id}](../claims.md#{c.id.lower()}) {c.verdict}" for c in tested))
    box = "\n\n".join(['<div class="about">', "<br>".join(lines), ways(root, slug, "chapters"), "</div>"])
    return "\n\n".join([f"# {titles(root)[slug]}", box, *(part for part in paragraphs if part is not time)])


def ways(root: Path, slug: str, folder: str) -> str:
    """A line of links: to the pages before and after, and what one can do with this one."""
    title = titles(root)
    names = list(title)
    here = names.index(slug)
    kind = {"chapters": "notebooks", "sheets": "exercises"}[folder]
    path = f"{kind}/{slug}.ipynb"
    edited = f"notebooks/{slug}.py" if folder == "chapters" else f"solutions/{slug}.py"
    other = {"chapters": f"[exercises](../sheets/{slug}.md)", "sheets": f"[the chapter](../chapters/{slug}.md)"}
    links = [
        other[folder],
        f"[open in Colab]({address.colab(path)})",
        f'<a href="../{path}" download>download notebook</a>',
        f"[edit]({address.edit(edited)})",
    ]
    if here + 1 < len(names):
        links.insert(0, f"[next: {title[names[here + 1]]}]({names[here + 1]}.md)")
    if here:
        links.insert(0, f"[previous: {title[names[here - 1]]}]({names[here - 1]}.md)")
    return " · ".join(links)
