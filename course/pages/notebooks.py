"""A built notebook as Markdown: text as it stands, code and what it printed as blocks, figures as images.

Nothing is run: what stands in the notebook is what the page shows.
"""

import ast
import base64
import functools
import html
import io
import posixpath
import re
from pathlib import Path

from nbformat import NotebookNode

from course import address
from course.notebooks import source

#: What is not prose: blocks of code, code, equations, links.
FIXED = re.compile(r"(```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$]+\$|\[[^\]]*\]\([^)]*\))", re.S)
NAMED = re.compile(r"\b(chapters? )(\d\d(?:(?:, and |, | and | to )\d\d)*)\b")
FOLDERS = {"notebooks": "chapters", "exercises": "sheets", "solutions": "sheets"}
FENCE = "``````"


class Figures(dict[str, bytes]):
    """The figures of all pages by file name, collected while the pages are written."""

    def add(self, name: str, png: bytes) -> str:
        """Keep a figure and return its tag's attributes: where it is, seen from a page in a folder, size and kind."""
        self[name] = png
        width, height = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
        kind = ' class="plot"' * is_plot(png)
        return f'src="../figures/{name}" width="{width}" height="{height}"{kind}'


def is_plot(png: bytes) -> bool:
    """Whether a figure is drawn with lines, points and bars alone. Images and color maps have many dark pixels."""
    from matplotlib.image import imread

    brightest = imread(io.BytesIO(png))[..., :3].max(axis=-1)
    return bool((brightest < 0.43).mean() < 0.08)


def code(text: str) -> str:
    """A block of code."""
    return f"{FENCE}python\n{text.strip()}\n{FENCE}"


def folded(title: str, content: str, kind: str) -> str:
    """A part of a page that opens with a click or a key."""
    summary = f'<details class="{kind}">\n<summary>{html.escape(title)}</summary>'
    return f"{summary}\n\n{content}\n\n</details>"


def outputs(cell: NotebookNode, name: str, figures: Figures) -> str:
    """What a cell printed and drew; `name` begins the names of its figures."""
    blocks: list[str] = []
    for number, output in enumerate(cell.get("outputs", [])):
        if output.output_type == "stream":
            if output.text.strip() and output.name == "stdout":
                blocks.append(f"{FENCE}{{code-block}} text\n:class: output\n\n{output.text.rstrip()}\n{FENCE}")
        elif "image/png" in output.data:
            alt = html.escape(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))
            place = figures.add(f"{name}-{number}.png", base64.b64decode(output.data["image/png"]))
            blocks.append(f'<p class="figure"><img {place} alt="{alt}" loading="lazy" decoding="async"></p>')
        elif "text/html" in output.data:  # a film: see course/film
            blocks.append(output.data["text/html"])
        elif "text/markdown" in output.data:
            blocks.append(output.data["text/markdown"])
        else:
            blocks.append(f"{FENCE}{{code-block}} text\n:class: output\n\n{output.data['text/plain']}\n{FENCE}")
    return "\n\n".join(blocks)


def is_bookkeeping(cell: NotebookNode) -> bool:
    """Whether a cell of code only asserts, or holds a measurement against its record."""

    def is_claim(node: ast.stmt) -> bool:
        call = node.value if isinstance(node, ast.Expr) else None
        return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "claim"

    if cell.source.lstrip().startswith(("%", "!")):
        return False
    body = ast.parse(cell.source).body
    return bool(body) and all(isinstance(node, ast.Assert) or is_claim(node) for node in body)


def without_frame(nb: NotebookNode) -> list[NotebookNode]:
    """The cells without those that the build adds: the set-up cell and the links at the end."""
    cells = [cell for cell in nb.cells if not source.sets_up(cell)]
    return cells[:-1] if cells[-1].source.startswith("---\n") else cells


def prose(text: str, root: Path, path: str) -> str:
    """The text of a cell of the notebook at `path`: its links lead to pages, and chapters it names are links.

    Args:
        text: Markdown.
        root: The repository.
        path: The notebook's, from the root, such as "notebooks/03_infinite_width.ipynb", or that of another text.
    """
    parts = FIXED.split(text)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = _chapters_named(part, root, path)
        elif part.startswith("["):
            label, target = part[1:-1].split("](", 1)
            parts[number] = f"[{label}]({_page(target, root, path)})"
        elif found := re.fullmatch(r"`((?:notebooks|exercises|solutions)/\d\d_\w+\.ipynb)`", part):
            there = posixpath.relpath(found[1], posixpath.dirname(path))
            parts[number] = f"[{part}]({_page(there, root, path)})"
    return "".join(parts)


def _page(target: str, root: Path, path: str) -> str:
    """Where a link of a notebook leads on the site; to the repository, if the site has no such page."""
    if re.match(r"[a-z]+:|#", target):
        return target
    file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    folder, _, name = file.rpartition("/")
    if folder in FOLDERS and name.endswith(".ipynb"):
        return f"../{FOLDERS[folder]}/{name.removesuffix('.ipynb')}.md"
    if file.startswith("course/site/"):
        return "../" + file.removeprefix("course/site/")
    if folder == "course/teaching" and name.endswith(".md"):
        return f"../teaching/{'index.md' if name == 'README.md' else name}"
    if file in ("course/claims.md", "course/notation.md"):
        return "../" + file.removeprefix("course/")
    if not (root / file).exists():
        raise ValueError(f"{path} has a link to {target}: there is no {file}")
    return address.blob(file)


def _chapters_named(text: str, root: Path, path: str) -> str:
    """`chapter 03` and `chapters 03, 04 and 07` become links."""
    own = posixpath.basename(path)[:2]
    slugs = _slugs(root)

    def link(words: str, number: str) -> str:
        known = number in slugs and number != own
        return f"[{words}](../chapters/{slugs[number]}.md)" if known else words

    def several(found: re.Match[str]) -> str:
        if found[1] == "chapter ":
            return link(found[0], found[2])
        return found[1] + re.sub(r"\d\d", lambda number: link(number[0], number[0]), found[2])

    lines = text.split("\n")
    for place, line in enumerate(lines):
        if not line.startswith("#"):  # a heading
            lines[place] = NAMED.sub(several, line)
    return "\n".join(lines)


@functools.cache
def _slugs(root: Path) -> dict[str, str]:
    """The names of the chapters' files by their numbers."""
    return {path.stem[:2]: path.stem for path in sorted((root / "notebooks").glob("[0-9]*.py"))}
