"""All pages of the site together: `sources` writes them as text, `build` gives them to Sphinx."""

import shutil
from pathlib import Path

from course.claims.records import load
from course.pages import api, chapters, claims, landing, notebooks, papers, sheets
from course.tasks import all_tasks

#: Pages that stand by themselves: where they are kept, and where they go.
ALONE = {"course/explorer/page.html": "explorer.html", "course/playground/page.html": "playground.html"}
#: Files that are copied beside the pages.
BESIDE = {"notebooks": "*.ipynb", "exercises": "*.ipynb"}


def build(root: Path, output: Path, *, builder: str = "html") -> int:
    """Write the sources and run Sphinx, warnings being errors; return its exit code.

    Pages that have not changed are not read again, but all are written: each shows the titles of the others.
    """
    from sphinx.cmd.build import build_main

    source = output / "source"
    _write(sources(root), source)
    arguments = ["-a", "-W", "--keep-going", "-n", "-q", "-j", "1", "-d", str(output / "doctrees"), "-b", builder]
    shutil.rmtree(output / builder, ignore_errors=True)  # no page of an earlier build stays behind
    return build_main([*arguments, str(source), str(output / builder)])


def sources(root: Path) -> dict[str, bytes]:
    """Every file of Sphinx's source folder, by its path. What stands under `extra` is copied as it is."""
    site = root / "course" / "site"
    table, tasks, literature = load(root / "course" / "claims.toml"), all_tasks(), papers.Papers(root)
    figures = notebooks.Figures()
    titles = chapters.titles(root)
    text = api.sources(root)
    text |= {
        "index.md": landing.page(root, table, tasks, alone(root)),
        "chapters/index.md": chapters.index(root),
        "sheets/index.md": sheets.index(root, tasks),
        "claims.md": claims.page(table, titles),
        "literature.md": papers.page(root, literature, titles),
        "notation.md": (root / "course" / "notation.md").read_text(encoding="utf-8"),
    }
    for slug in titles:
        text[f"chapters/{slug}.md"] = chapters.page(root, slug, table, literature, figures)
        text[f"sheets/{slug}.md"] = sheets.page(root, slug, tasks, figures)
    text |= _teaching(root)
    files = {name: content.encode() for name, content in text.items()}
    for path in site.rglob("*"):
        if path.is_file() and path.suffix not in (".rst", ".toml", ".pyc") and path.name != "index.md":
            files[path.relative_to(site).as_posix()] = path.read_bytes()
    files |= {f"extra/figures/{name}": png for name, png in figures.items()}
    files["extra/figures/claims.png"] = (root / "course" / "claims.png").read_bytes()
    for folder, pattern in BESIDE.items():
        files |= {f"extra/{folder}/{path.name}": path.read_bytes() for path in sorted((root / folder).glob(pattern))}
    if (root / landing.MAP).exists():
        files[f"extra/{landing.MAP.name}"] = (root / landing.MAP).read_bytes()
    return files | {f"extra/{name}": _with_way_back(root / path) for path, name in alone(root).items()}


def _teaching(root: Path) -> dict[str, str]:
    """The pages for teachers, as they stand in the repository, with links to the site's pages."""
    paths = {path.stem: path for path in sorted((root / "course" / "teaching").glob("*.md"))}
    text = {
        f"teaching/{name}.md": notebooks.prose(path.read_text("utf-8"), root, path.relative_to(root).as_posix())
        for name, path in paths.items()
    }
    others = "\n".join(name for name in paths if name != "README")
    text["teaching/index.md"] = text.pop("teaching/README.md") + f"\n```{{toctree}}\n:hidden:\n\n{others}\n```\n"
    return text


def alone(root: Path) -> dict[str, str]:
    """The pages that stand by themselves, of those that there are."""
    return {path: name for path, name in ALONE.items() if (root / path).exists()}


def _with_way_back(path: Path) -> bytes:
    """A page that stands by itself, with a link to the first page of the site, which it does not have elsewhere."""
    text = path.read_text(encoding="utf-8")
    head, main, rest = text.partition("<main>\n")
    if not main:
        raise ValueError(f"{path} has no <main> on a line of its own")
    link = '<p style="margin: 0 0 .4rem"><a href="index.html" style="color: inherit">The NTK course</a></p>\n'
    return (head + main + link + rest).encode()


def _write(files: dict[str, bytes], source: Path) -> None:
    """Bring the folder of Sphinx's sources up to date; what has not changed keeps its time."""
    for path in [path for path in source.rglob("*") if path.is_file()]:
        if path.relative_to(source).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        path = source / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
