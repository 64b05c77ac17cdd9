"""The addresses of the repository and the site: each stands in one place."""

import re
import subprocess
import tomllib
from pathlib import Path

from course import address
from course.notebooks import source

ROOT = Path(__file__).parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
#: Files that people read as they are, and built notebooks, whose set-up cell names the repository.
WRITTEN_OUT = {"README.md", "CITATION.cff", "CHANGELOG.md", "pyproject.toml"}


def test_the_addresses_are_those_of_pyproject():
    assert URLS["Repository"] == address.REPOSITORY
    assert URLS["Changelog"] == address.blob("CHANGELOG.md")
    assert address.blob("a/b.py") == f"{address.REPOSITORY}/blob/main/a/b.py"
    assert address.raw("a/b.svg") == f"{address.REPOSITORY}/raw/main/a/b.svg"
    assert address.edit("a/b.py") == f"{address.REPOSITORY}/edit/main/a/b.py"
    slug = address.REPOSITORY.removeprefix("https://github.com/")
    assert address.colab("a.ipynb") == f"https://colab.research.google.com/github/{slug}/blob/main/a.ipynb"
    assert address.binder("a.ipynb") == f"https://mybinder.org/v2/gh/{slug}/main?urlpath=lab/tree/a.ipynb"
    assert address.site() == URLS["Documentation"]
    assert address.site("claims.html") == URLS["Documentation"] + "claims.html"


def test_another_clone_has_its_own(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nurls.Repository = "https://example.org/a/fork/"\n')
    assert address.repository(tmp_path) == "https://example.org/a/fork"
    assert address.blob("x", tmp_path) == "https://example.org/a/fork/blob/main/x"
    assert "https://example.org/a/fork" in source.set_up(tmp_path)


def test_nothing_else_writes_them_by_hand():
    slug, site = address.REPOSITORY.split("://")[1], address.site().split("://")[1].rstrip("/")
    # `git grep` sees new files too, once they are added.
    hosts = [slug.split("/", 1)[1], site, "colab.research.google.com", "mybinder.org"]
    found = subprocess.run(
        ["git", "grep", "--untracked", "-lFI", *(part for host in hosts for part in ("-e", host))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    allowed = WRITTEN_OUT | {"course/address.py", "tests/test_course_address.py"}
    assert {path for path in found if not path.endswith(".ipynb")} <= allowed


def test_what_is_written_out_agrees():
    repository, site = address.REPOSITORY, address.site()
    text = {name: (ROOT / name).read_text(encoding="utf-8") for name in WRITTEN_OUT if (ROOT / name).exists()}
    assert f"\nrepository-code: {repository}\n" in text["CITATION.cff"]
    assert f"\nurl: {site}\n" in text["CITATION.cff"]
    owner = repository.rsplit("/", 2)[1]
    ours = (repository, site, address.colab(""), address.binder("").partition("?")[0])
    for name, page in text.items():
        for url in re.findall(r"https://[^\s)\"'>\]]+", page):
            if owner in url or "colab." in url or "mybinder." in url:
                assert url.startswith(ours), f"{name}: {url}"
