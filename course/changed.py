"""Which tests a change concerns, behind `make check`: told from what git says has changed and what the tests import."""

import ast
import functools
import re
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path


def files(root: Path) -> list[str]:
    """Return what has changed since this branch left `main`; on `main` itself, since the last commit."""
    start = _git(root, "merge-base", "HEAD", "main") or ["HEAD"]
    changed = _git(root, "diff", "--name-only", "--no-renames", start[0])
    return sorted({*changed, *_git(root, "ls-files", "--others", "--exclude-standard")})


def tests(root: Path, changed: Collection[str]) -> list[str]:
    """Return the test files that concern the changed files, the nearest first.

    A test file concerns a module if it was changed itself, is named after the module, or imports it; a file of another
    kind, if it names it. Where there is none, those count that use a public name of the module (`ntk.load`; else nearly
    every test would concern nearly every module), and then those that concern the modules that import it.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((root / "tests").glob("test_*.py"))}
    found = dict.fromkeys(root / name for name in changed if root / name in texts)
    for name in changed:
        near = _near(name, texts) or [path for path in texts if _uses(texts[path], _exports(root, name))]
        found |= dict.fromkeys(near or [path for user in _users(root, name) for path in _near(user, texts)])
    if any(name.startswith("ntklib/") for name in changed):
        for name in ("test_package.py", "test_wrong_calls.py"):  # what imports what, what is public, what errors say
            found[root / "tests" / name] = None
    return [path.relative_to(root).as_posix() for path in found if path in texts]


def doctests(root: Path, changed: Collection[str]) -> list[str]:
    """Return the changed modules of the library: their examples run as well."""
    return [name for name in changed if name.startswith("ntklib/") and name.endswith(".py") and (root / name).exists()]


def _near(name: str, texts: Mapping[Path, str]) -> list[Path]:
    """The tests that are named after a file, then those that import it, then those that name it."""
    found = [path for path in texts if path.stem in _test_names(name)]
    found += [path for path in texts if _modules(name) & _imports(texts[path])]
    if not name.endswith((".py", ".ipynb")):
        found += [path for path in texts if f'"{Path(name).name}"' in texts[path]]
    return found


def _users(root: Path, name: str) -> list[str]:
    """The modules of the library that import this one."""
    if not name.startswith("ntklib/"):
        return []
    paths = [path for path in sorted((root / "ntklib").rglob("*.py")) if path.name != "__init__.py"]
    return [
        path.relative_to(root).as_posix()
        for path in paths
        if _modules(name) & _imports(path.read_text(encoding="utf-8"))
    ]


def _test_names(name: str) -> set[str]:
    """The names that a test of this file would have: of `course/checks/ch03.py`, test_ch03 and test_checks_ch03."""
    parts = [*Path(name).parts[:-1], Path(name).stem.lstrip("_")]
    return {"test_" + "_".join(parts[start:]) for start in range(len(parts))} | {
        f"test_{folder}" for folder in parts[1:-1]
    }


def _modules(name: str) -> set[str]:
    """The module in this file, and for one in a room, the room; a helper of the tests goes by its bare name."""
    path = Path(name)
    if path.suffix != ".py":
        return set()
    parts = [part for part in path.with_suffix("").parts if part != "__init__"]
    if parts[0] == "tests":
        return {parts[-1]}
    return {".".join(parts[:length]) for length in range(2, len(parts) + 1)}


@functools.cache
def _imports(text: str) -> set[str]:
    """The modules that a test imports, `from a import b` read as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _exports(root: Path, name: str) -> set[str]:
    """The public names that come from a module of the library by way of `ntklib/__init__.py`."""
    package = root / "ntklib" / "__init__.py"
    if not name.startswith("ntklib/") or not package.exists():
        return set()
    nodes = ast.walk(ast.parse(package.read_text(encoding="utf-8")))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module in _modules(name)]
    return {alias.name for node in froms for alias in node.names}


def _uses(text: str, names: set[str]) -> bool:
    return any(re.search(rf"\bntk\.{name}\b", text) for name in names)


def _git(root: Path, *arguments: str) -> list[str]:
    """The lines that git prints; none where it fails, as it does for a branch that is not there."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []
