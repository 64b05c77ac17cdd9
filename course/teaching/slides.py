"""Slides of a chapter: one page that needs no network, made from slides/NN.md and from what the chapter has measured.

A slide is a part of the Markdown file; `---` stands between two. Lines that begin with `@` are filled in, so that no
figure, number or verdict of a chapter is written twice:

    @title                          the title slide: what one can do after the chapter, its minutes, what it needs
    @figure The words that its alt text begins with
    @print  The words that a line begins with, which the chapter prints
    @claim  J2 · words that the row begins with, in claims.toml, or the whole of it; several lines make one table
    @ask    03.4                    the misconception that this task brings out; what to say, in the notes
    @task   03.3                    the task, with its minutes

What stands after a line `???` are notes for the speaker.
"""

import base64
import functools
import html
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from nbformat import NotebookNode

from course.claims import records
from course.notebooks import execute
from course.teaching import syllabus
from course.teaching.syllabus import Chapter

FOLDER = syllabus.FOLDER / "slides"
MATHJAX = Path("course/site/_static/mathjax/tex-svg.js")
LONG = 86  # characters of a printed line that fit a slide; longer ones are set smaller


class SlideError(ValueError):
    """A slide that asks for something that the chapter does not have."""


def available() -> list[str]:
    """Return the numbers of the chapters that have slides."""
    return sorted(path.stem for path in FOLDER.glob("[0-9][0-9]*.md"))


def write(root: Path, number: str, folder: Path) -> Path:
    """Write a chapter's slides as one file; raise `SlideError` for something that is not there."""
    chapter = syllabus.chapters(root)[number]
    mathjax = root / MATHJAX
    if not mathjax.exists():
        raise SlideError(f"{MATHJAX} is missing, which sets the formulas: take it from the repository")
    page = _PAGE.format(
        title=html.escape(chapter.title),
        style=(FOLDER / "slides.css").read_text(encoding="utf-8"),
        slides="\n".join(slides(root, chapter)),
        script=(FOLDER / "slides.js").read_text(encoding="utf-8"),
        mathjax=mathjax.read_text(encoding="utf-8").replace("</script", r"<\/script"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{Path(chapter.sheet).stem}.html"
    path.write_text(page, encoding="utf-8")
    return path


def slides(root: Path, chapter: Chapter) -> list[str]:
    """Return each slide as HTML."""
    path = FOLDER / f"{chapter.number}.md"
    if not path.exists():
        raise SlideError(f"chapter {chapter.number} has no slides; there are {', '.join(available())}")
    notebook = execute.read(root / "notebooks" / chapter.sheet)
    parts = re.split(r"(?m)^---\n", path.read_text(encoding="utf-8"))
    found = []
    for place, part in enumerate(parts, 1):
        filler = _Filler(root, chapter, notebook, f"{path.name}, slide {place}")
        shown, _, notes = part.partition("\n???\n")
        body = filler.fill(shown)
        said = "".join(_symbols(_markdown(note)) for note in (notes, *filler.notes) if note.strip())
        notes_html = f'<aside class="notes">{said}</aside>' if said else ""
        kind = "slide title" if "@title" in shown else "slide"
        found.append(
            f'<section class="{kind}" aria-label="Slide {place} of {len(parts)}">'
            f'<div class="body">{body}</div>{notes_html}</section>'
        )
    return found


class _Filler:
    """Fills in one slide."""

    def __init__(self, root: Path, chapter: Chapter, notebook: NotebookNode, where: str):
        self.root, self.chapter, self.notebook, self.where = root, chapter, notebook, where
        self.notes: list[str] = []
        self.kinds: dict[str, Callable[[list[str]], str]] = {
            "title": self._title,
            "figure": self._figures,
            "print": self._printed,
            "claim": self._claims,
            "ask": self._questions,
            "task": self._tasks,
        }

    def fill(self, text: str) -> str:
        """The slide's HTML; neighboring lines of one kind are filled in together."""
        found, plain = [], []
        for kind, lines in _runs(text):
            if not kind:
                plain += lines
                continue
            if kind not in self.kinds:
                raise SlideError(f"{self.where}: unknown @{kind}; there are {', '.join(self.kinds)}")
            found += [_markdown("\n".join(plain)), self.kinds[kind](lines)]
            plain = []
        return "".join([*found, _markdown("\n".join(plain))])

    def _title(self, lines: list[str]) -> str:
        chapter = self.chapter
        goals = "\n".join(f"- {goal}" for goal in chapter.goals)
        needs = f" · needs {', '.join(chapter.needs)}" * bool(chapter.needs)
        return (
            f"<h1>{html.escape(chapter.title)}</h1><p>After this chapter you can</p>"
            f"{_markdown(goals)}<p class='small'>{chapter.minutes} minutes for the chapter, "
            f"{chapter.exercises} for its sheet{needs}</p>"
        )

    def _figures(self, lines: list[str]) -> str:
        found = []
        for line in lines:
            cells = [cell for cell in self.notebook.cells if _alt(cell).startswith(line)]
            (cell,) = self._one(cells, "figure whose alt text begins with", line)
            images = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
            (image,) = self._one(images, "image of the figure", line)
            data = base64.b64encode(base64.b64decode(image)).decode()
            found.append(f'<img alt="{html.escape(_alt(cell))}" src="data:image/png;base64,{data}">')
        return f'<div class="figures n{len(found)}">{"".join(found)}</div>'

    def _printed(self, lines: list[str]) -> str:
        printed = [line for cell in self.notebook.cells for line in execute.text_of(cell).splitlines()]
        found = []
        for line in lines:
            starts = list(dict.fromkeys(one for one in printed if one.lstrip().startswith(line)))
            found += self._one(starts, "printed line that begins with", line)
        text = textwrap.dedent("\n".join(found))
        kind = ' class="long"' if max(map(len, text.splitlines())) > LONG else ""
        return f"<pre{kind}>{html.escape(text)}</pre>"

    def _claims(self, lines: list[str]) -> str:
        claims = records.load(self.root / "course" / "claims.toml")
        rows = []
        for line in lines:
            id, _, what = line.partition(" · ")
            if id not in claims:
                raise SlideError(f"{self.where}: there is no claim {id!r}")
            begin = [row for row in claims[id].at() if row.what.startswith(what)]
            whole = [row for row in begin if row.what == what]
            (row,) = self._one(whole or begin, f"row of {id} that begins with", what)
            target = "" if row.claimed is None else f"{records.number_in_words(row.claimed)}: <b>{row.verdict}</b>"
            if row.outside:
                target = f"{records.number_in_words(row.claimed or '')}, not counted here"
            ours = "" if row.derived is None else f"{records.number_in_words(row.derived)}: <b>{row.prediction}</b>"
            rows.append(
                f"<tr><td>{id}</td><td>{_symbols(html.escape(row.what))}</td><td>{_number(row.result())}</td>"
                f"<td>{_number(target)}</td><td>{_number(ours)}</td></tr>"
            )
        head = "<tr><th></th><th></th><th>measured</th><th>the source says</th><th>we derived</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"

    def _questions(self, lines: list[str]) -> str:
        known = syllabus.misconceptions()
        found = []
        for line in lines:
            ones = [one for one in known if one.task == line and line.startswith(f"{self.chapter.number}.")]
            (one,) = self._one(ones, "misconception of this chapter with the task", line)
            found.append(f"<li>{_symbols(_inline(one.think))}</li>")
            self.notes.append(f"**“{one.think}”** {one.say} (Task {one.task}.)")
        return f'<p>Each of these is wrong. Where?</p><ul class="ask">{"".join(found)}</ul>'

    def _tasks(self, lines: list[str]) -> str:
        tasks = {task.id: task for task in self.chapter.tasks}
        found = []
        for line in lines:
            (task,) = self._one([tasks[line]] if line in tasks else [], "task in this chapter", line)
            heading = self.chapter.headings[task.id]
            found.append(f"<li><b>{task.id}</b> {_inline(heading)} <span>{task.minutes} minutes</span></li>")
        return f'<ul class="tasks">{"".join(found)}</ul>'

    def _one(self, found: list, what: str, given: str) -> list:
        if len(found) != 1:
            many = f"are {len(found)} times a" if found else "is no"
            raise SlideError(f"{self.where}: there {many} {what} {given!r}")
        return found


def _runs(text: str) -> Iterator[tuple[str, list[str]]]:
    """Runs of neighboring lines of one kind: ("figure", [...]), and ("", lines) for Markdown."""
    kind, lines = "", []
    for line in text.splitlines():
        match = re.fullmatch(r"@(\w+)\s*(.*)", line)
        now, rest = (match[1], match[2].strip()) if match else ("", line)
        if now != kind and lines:
            yield kind, lines
            lines = []
        kind = now
        lines.append(rest)
    if lines:
        yield kind, lines


def _alt(cell: NotebookNode) -> str:
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")


def _number(text: str) -> str:
    """A number with a true minus sign, and signs that read as such."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text).replace("<=", "≤").replace(">=", "≥").replace("< ", "&lt; ")


def _symbols(text: str) -> str:
    """Indices of plain symbols, ξ_c or f_0, set low; words, code and formulas stay as they are."""
    parts = re.split(r"(<code>.*?</code>|\\\(.*?\\\)|\\\[.*?\\\])", text, flags=re.DOTALL)
    return "".join(
        p if p.startswith(("<code", "\\")) else re.sub(r"(?<=\b[^\W_])_(\w+)", r"<sub>\1</sub>", p) for p in parts
    )


@functools.cache
def _parser():
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    parser = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, allow_space=False, double_inline=True)
    parser.add_render_rule("math_inline", lambda self, tokens, i, *_: rf"\({html.escape(tokens[i].content)}\)")
    for kind in ("math_block", "math_inline_double"):
        parser.add_render_rule(kind, lambda self, tokens, i, *_: rf"\[{html.escape(tokens[i].content)}\]")
    return parser


def _markdown(text: str) -> str:
    return _parser().render(text) if text.strip() else ""


def _inline(text: str) -> str:
    return _parser().renderInline(text)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main id="stage">
{slides}
</main>
<nav aria-label="Slides"><button id="back" aria-label="Previous slide">←</button><output id="place"></output><button
id="on" aria-label="Next slide">→</button></nav>
<script>
{script}
</script>
<script>
{mathjax}
</script>
</body>
</html>
"""
