"""Where the course is on the web. The addresses stand in pyproject.toml, under [project.urls], and are read from there.

Nothing else writes them by hand, but for README.md and CITATION.cff, which a test compares.
"""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    REPOSITORY: str  # of the clone that this package stands in

ROOT = Path(__file__).parents[1]
BRANCH = "main"


def __getattr__(name: str) -> Any:
    """REPOSITORY is read when it is asked for: a handout has this package without pyproject.toml."""
    if name == "REPOSITORY":
        return repository()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def repository(root: Path = ROOT) -> str:
    """The address of the repository, as the pyproject.toml in `root` has it.

    >>> repository().startswith("https://")
    True
    """
    return _urls(root)["Repository"].rstrip("/")


def blob(path: str, root: Path = ROOT) -> str:
    """The page that shows a file, given by its path from the root of the repository.

    >>> blob("LICENSE").removeprefix(repository())
    '/blob/main/LICENSE'
    """
    return f"{repository(root)}/blob/{BRANCH}/{path}"


def raw(path: str, root: Path = ROOT) -> str:
    """A file itself, for pictures."""
    return f"{repository(root)}/raw/{BRANCH}/{path}"


def edit(path: str, root: Path = ROOT) -> str:
    """The page on which a file can be edited."""
    return f"{repository(root)}/edit/{BRANCH}/{path}"


def colab(path: str, root: Path = ROOT) -> str:
    """The page that opens a notebook in Colab."""
    return f"https://colab.research.google.com/github/{_slug(root)}/blob/{BRANCH}/{path}"


def binder(path: str, root: Path = ROOT) -> str:
    """The page that opens a notebook in Binder."""
    return f"https://mybinder.org/v2/gh/{_slug(root)}/{BRANCH}?urlpath=lab/tree/{path}"


def site(path: str = "", root: Path = ROOT) -> str:
    """A page of the course's site; without a path its first page."""
    return f"{_urls(root)['Documentation'].rstrip('/')}/{path}"


def _slug(root: Path) -> str:
    """The owner and the name of the repository."""
    return "/".join(repository(root).split("/")[-2:])


def _urls(root: Path) -> dict[str, str]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
