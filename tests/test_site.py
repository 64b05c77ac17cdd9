"""The site as it is built: without a warning, with a page for everything, without a dead link; and in Chromium.

It is built once, as `make site` does it, with no way to the network.
"""

import hashlib
import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import pytest

from course import address, chapters, tasks
from course.claims import records
from course.notebooks import execute
from course.pages import api, site

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")

ROOT = pathlib.Path(__file__).parents[1]
HTML = ROOT / ".cache" / "site" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SLUGS = [chapter.slug for chapter in chapters.chapters(ROOT).values()]
LANDING = 300_000  # bytes


@pytest.fixture(scope="module")
def pages():
    """The pages of the site by their names, after a build."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "course", "site"],
        cwd=ROOT, env=execute.environment(ROOT) | nowhere, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.relative_to(HTML).as_posix(): path.read_text(encoding="utf-8") for path in HTML.rglob("*.html")}


def test_everything_has_its_page(pages):
    wanted = ["index.html", "claims.html", "literature.html", "notation.html", "library.html", "search.html"]
    wanted += [f"{folder}/{slug}.html" for folder in ("chapters", "sheets") for slug in ("index", *SLUGS)]
    wanted += [f"reference/{entry.page}.html" for entry in api.entries(ROOT).values()]
    wanted += [f"topics/{topic.slug}.html" for topic in api.topics(ROOT)]
    wanted += [f"howto/{path.stem}.html" for path in (ROOT / "course" / "site" / "howto").glob("*.rst")]
    wanted += [f"teaching/{name}.html" for name in ("index", "plans", "chapters", "rubrics", "nbgrader")]
    wanted += site.alone(ROOT).values()
    assert set(wanted) <= set(pages)


def test_every_claim_and_every_task_can_be_linked_to(pages):
    for name in records.load():
        assert f'id="{name.lower()}"' in pages["claims.html"], name
    for task in tasks.all_tasks().values():
        slug = next(slug for slug in SLUGS if slug[:2] == task.chapter)
        assert f"Solution of {task.id}</summary>" in pages[f"sheets/{slug}.html"], task.id


def test_a_chapter_leads_on(pages):
    text = pages["chapters/03_infinite_width.html"]
    box = text.partition('<div class="about">')[2].partition("</div>")[0]
    for target in ("02_parameterizations.html", "04_kernel_dynamics.html", "../sheets/03_infinite_width.html"):
        assert f'href="{target}"' in box
    assert "75 minutes" in box
    assert "chapter 01" in box
    assert 'href="../notebooks/03_infinite_width.ipynb" download' in box
    assert f'href="{address.colab("notebooks/03_infinite_width.ipynb")}"' in box
    assert f'href="{address.edit("notebooks/03_infinite_width.py")}"' in box


def test_every_figure_of_a_chapter_is_there_with_what_it_shows_in_words(pages):
    for slug in SLUGS:
        cells = execute.read(ROOT / "notebooks" / f"{slug}.ipynb").cells
        wanted = [cell.metadata.mystnb.image.alt for cell in cells if "mystnb" in cell.metadata]
        shown = re.findall(
            r'<p class="figure"><img src="\.\./([^"]+)"[^>]* alt="([^"]+)"', pages[f"chapters/{slug}.html"]
        )
        assert [html.unescape(alt) for _, alt in shown] == wanted, slug
        assert all((HTML / source).read_bytes().startswith(b"\x89PNG") for source, _ in shown)


def test_no_equation_was_left_as_it_was_written(pages):
    for name, text in pages.items():
        if name.startswith("_modules/") or name in site.ALONE.values():
            continue
        text = re.sub(r"<(script|style|pre|code|title)\b.*?</\1>", "", text, flags=re.S)
        text = re.sub(r'<(span|div) class="math[^"]*">.*?</\1>', "", text, flags=re.S)
        text = html.unescape(re.sub(r"<[^>]*>", "", text))
        found = re.search(r".{0,60}(\$|\\[a-zA-Z]{2,}|\{cite).{0,60}", text)
        assert not found, f"{name}: {found and found[0]}"


def test_no_link_is_dead(pages):
    ids = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in pages.items()}
    files = {path.relative_to(HTML).as_posix() for path in HTML.rglob("*") if path.is_file()}
    dead = []
    for name, text in pages.items():
        for link in set(re.findall(r'\b(?:href|src)="([^"]*)"', text)):
            parts = urllib.parse.urlsplit(html.unescape(link))
            if parts.scheme or parts.netloc:
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(name), urllib.parse.unquote(parts.path)))
            target = name if not parts.path else target
            anchor = urllib.parse.unquote(parts.fragment)
            if target not in files or (anchor and target in ids and anchor not in ids[target]):
                dead.append(f"{name}: {link}")
    assert dead == []


def test_the_first_page_is_light(pages):
    text = pages["index.html"]
    files = re.findall(r'<(?:script|img)\b[^>]* src="([^"]+)"', text)
    files += re.findall(r'<link\b(?=[^>]*rel="(?:preload )?stylesheet"|[^>]*rel="icon")[^>]*href="([^"]+)"', text)
    assert not [name for name in files if "mathjax" in name]
    assert "MathJax" not in text
    sizes = {name: (HTML / name.partition("?")[0]).stat().st_size for name in files} | {
        "index.html": len(text.encode())
    }
    assert len(sizes) > 5
    assert sum(sizes.values()) < LANDING, sizes


def test_equations_are_typeset_where_there_are_any(pages):
    assert "mathjax/tex-svg.js" in pages["chapters/03_infinite_width.html"]
    for name, text in pages.items():
        assert ("mathjax/tex-svg.js" in text) == ('class="math ' in text), name


def test_mathjax_is_the_file_that_its_authors_published():
    """`es5/tex-svg.js` of the npm package mathjax 3.2.2, with its license beside it."""
    folder = ROOT / "course" / "site" / "_static" / "mathjax"
    digest = hashlib.sha256((folder / "tex-svg.js").read_bytes()).hexdigest()
    assert digest == "d4295dc33744836935c1399feece5159577b34c5c8ffb9f1c6324cd82e03a882"
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_the_workflow_may_write_pages_and_nothing_else():
    text = (ROOT / ".github" / "workflows" / "site.yml").read_text(encoding="utf-8")
    build, deploy = text.split("\n  deploy:\n")
    assert "\npermissions:\n  contents: read\n" in build
    assert "write" not in build
    assert re.findall(r"(\S+): write", deploy) == ["pages", "id-token"]
    uses = re.findall(r"uses: (.*)", text)
    assert len(uses) == 4
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in uses), uses
    assert "make site" in build
    assert "persist-credentials: false" in build


@pytest.fixture
def drive(pages, tmp_path):
    """Open pages in Chromium, in a process of its own: the browser's driver brings an event loop."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    pytest.importorskip("playwright")

    def drive(names):
        script, out = pathlib.Path(__file__).with_name("drive_site.py"), tmp_path / "out.json"
        done = subprocess.run(
            [sys.executable, str(script), str(CHROMIUM), str(HTML), str(out), names],
            capture_output=True, text=True, timeout=3600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text())

    return drive


def faults(result):
    return {key: result[key] for key in ("requests", "errors", "wide", "mathematics", "images") if result[key]}


def test_some_pages_are_right_in_a_browser(drive):
    result = drive("index.html,chapters/05_lazy_training.html,claims.html,reference/gradient_flow.html")
    assert faults(result) == {}
    assert result["pages"] == 8
    assert result["equations"] > 100


@pytest.mark.weekly
def test_every_page_is_right_in_a_browser(drive, pages):
    """At 1280 and 390 px, light and dark, all that is folded unfolded."""
    result = drive("all")
    assert faults(result) == {}
    assert result["pages"] > 1.5 * len(pages)
    assert result["equations"] > 5000
