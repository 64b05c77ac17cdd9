"""What a user installs: the wheel, the lock files, the set-up script, and what CI runs."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ntklib as ntk

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHOLE, COURSE = ROOT / "requirements.lock", ROOT / "requirements-course.lock"


# ---- the version and the wheel


def test_the_version_is_one():
    cited = first(r"version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert ntk.__version__ == PROJECT["project"]["version"] == cited[1]
    dated = first(r'date-released: "(.*)"$', (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = first(r"## (\S+), (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert newest.groups() == (ntk.__version__, dated[1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline with the tools of the lock."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_library_and_no_other_name(wheel):
    about = f"ntklib-{ntk.__version__}.dist-info"
    assert {name.split("/")[0] for name in wheel.namelist()} == {"ntklib", about}
    tracked = subprocess.run(["git", "ls-files", "ntklib"], cwd=ROOT, capture_output=True, text=True, check=True)
    held = {name for name in wheel.namelist() if name.startswith("ntklib/")}
    assert set(tracked.stdout.split()) <= held
    assert {"ntklib/py.typed", "ntklib/datasets/mnist5k.npz"} <= held
    metadata = email.message_from_bytes(wheel.read(f"{about}/METADATA"))
    assert metadata["Version"] == ntk.__version__
    assert metadata["Metadata-Version"] == "2.4"
    needs = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(map(name_of, needs)) == sorted(map(name_of, PROJECT["project"]["dependencies"]))
    for name in ("LICENSE", "LICENSE-TEXT", "ntklib/datasets/README.md"):
        assert wheel.read(f"{about}/licenses/{name}") == (ROOT / name).read_bytes()


def test_on_pypi_the_links_and_pictures_have_whole_addresses(wheel):
    metadata = email.message_from_bytes(wheel.read(f"ntklib-{ntk.__version__}.dist-info/METADATA"))
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert metadata["Description-Content-Type"] == "text/markdown"
    targets = re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', text)
    assert len(targets) > 30
    assert all((link or picture).startswith("https://") for link, picture in targets)
    assert f'src="{PROJECT["project"]["urls"]["Repository"]}/raw/main/course/pictures/map.svg"' in text


def name_of(requirement):
    return first(r"[\w.-]+", requirement)[0]


def test_the_wheel_works_by_itself(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = (
        "import importlib.metadata, sys, ntklib as ntk; print(ntk.__file__, ntk.load('mnist5k').x_train.shape);"
        "print(importlib.metadata.version('ntklib') == ntk.__version__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path / 'ntklib' / '__init__.py'} (4000, 28, 28, 1)\nTrue\n", done.stderr


# ---- python -m course without its packages


@pytest.mark.parametrize("missing", ["typer", "numpy", "nbformat", "rich"])
def test_the_course_without_a_package_is_one_sentence(missing):
    command = {"nbformat": ["build", "--check"], "rich": ["progress"]}.get(missing, ["hint", "03.2"])
    code = (
        "import runpy, sys\n"
        f"sys.modules[{missing!r}] = None\n"
        f"sys.argv = ['course', *{command}]\n"
        "runpy.run_module('course', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"python -m course needs the package {missing}, which {sys.executable} does not have.")
    assert "make course" in line


def test_a_mistake_of_ours_is_no_missing_package():
    code = "import runpy, sys\nsys.modules['course.notebooks.build'] = None\nsys.argv = ['course', 'build']\n"
    code += "runpy.run_module('course', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" in done.stderr


# ---- the lock files


def first(pattern, text):
    """The first match of `pattern`, at the beginning of a line."""
    found = re.search(rf"^{pattern}", text, re.MULTILINE)
    assert found, pattern
    return found


def entries(path):
    """{name with its marker: the version} and {the same: its hashes} of a lock file."""
    versions, hashes = {}, {}
    for block in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8")):
        found = re.match(r"([\w.-]+)==([^\s;]+)( ; .*?)? \\\n", block)
        if found:
            key = found[1] + (found[3] or "")
            versions[key] = found[2]
            hashes[key] = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", block))
    return versions, hashes


def test_the_locks_hold_hashes_and_no_addresses():
    for path in (WHOLE, COURSE):
        text = path.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
        pins = [line for line in lines if not line.startswith(" ")]
        assert len(pins) > 100
        assert all(re.fullmatch(r"[\w.-]+==[^\s;]+( ; .*)? \\", line) for line in pins)
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines if line.startswith(" "))
        assert "://" not in text
        assert all(entries(path)[1].values())


def test_what_a_reader_needs_is_a_part_of_what_a_developer_needs():
    """So `make test` after `make course` only adds, and `make course` after `make test` has nothing to do."""
    whole, part = entries(WHOLE), entries(COURSE)
    names = {key.split(" ;")[0]: version for key, version in whole[0].items()}
    hashes = {key.split(" ;")[0]: value for key, value in whole[1].items()}
    for key, version in part[0].items():
        name = key.split(" ;")[0]
        assert names[name] == version, name
        assert part[1][key] == hashes[name], name
    assert {"pytest", "ruff", "neural-tangents", "playwright"} <= set(names)
    assert not {"pytest", "ruff", "neural-tangents", "playwright"} & {key.split(" ;")[0] for key in part[0]}


def test_the_locks_have_all_that_is_asked_for():
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    extras = project["optional-dependencies"]
    build = [line for line in groups["build"] if isinstance(line, str)]
    dev = [line for line in groups["dev"] if isinstance(line, str)]
    for path, asked in (
        (COURSE, [project["dependencies"], extras["course"], build]),
        (WHOLE, [project["dependencies"], *extras.values(), build, dev]),
    ):
        locked = {key.split(" ;")[0]: version for key, version in entries(path)[0].items()}
        for line in [line for lines in asked for line in lines]:
            name, bound = first(r"([\w.-]+)\s*(?:>=|==)\s*([\d.]+)", line).groups()
            assert name in locked, f"{path.name} lacks {name}: make lock UPGRADE="
            assert numbers(locked[name]) >= numbers(bound), f"{path.name}: {name}"


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])][:4]


# ---- course/setup.sh, with a Python and a uv that only write down what they are asked


FAKE_PYTHON = """\
#!/bin/sh
echo "python $*" >>"$LOG"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *"--require-hashes -r"*)
        for last; do :; done
        cp "$last" "$LOG.uv"
        bin=$(dirname "$0")
        printf '#!/bin/sh\\n[ "$1" = --version ] || echo "uv $*" >>"$LOG"\\necho "uv %s (fake)"\\n' "$PINNED" >"$bin/uv"
        chmod +x "$bin/uv" ;;
    *sys.version_info*) exit 0 ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A clone with the set-up script, and what calls it; returns the lines of what it called."""
    root = tmp_path / "clone"
    (root / "course").mkdir(parents=True)
    for name in ("requirements.lock", "requirements-course.lock", "pyproject.toml", "course/setup.sh"):
        shutil.copy(ROOT / name, root / name)
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    pinned = first(r"uv==(\S+)", WHOLE.read_text())[1]

    def run(*arguments, fails=False, **environment):
        log.write_text("")
        environment = {**os.environ, "PYTHON": str(python), "LOG": str(log), "PINNED": pinned, **environment}
        done = subprocess.run(["sh", "course/setup.sh", *arguments], cwd=root, env=environment, capture_output=True)
        assert (done.returncode != 0) == fails, done.stderr
        return log.read_text().splitlines()

    return Clone(root, log, run)


class Clone(NamedTuple):
    """A folder, what was asked for last, and how to call the script."""

    root: Path
    log: Path
    setup: Callable[..., list[str]]


shell = pytest.mark.skipif(os.name == "nt", reason="a shell script")


@shell
def test_setup_installs_uv_and_the_rest_by_hash_and_builds_with_what_is_there(clone):
    called = clone.setup("course")
    fetched = [line for line in called if "install" in line or "sync" in line]
    pip, sync, editable = fetched
    assert pip.startswith("python -m pip install")
    assert {"--require-hashes", "--no-deps"} <= set(pip.split())
    assert sync == "uv pip sync --require-hashes requirements-course.lock"
    assert editable == "uv pip install --quiet --no-deps --no-build-isolation -e ."
    asked = (clone.log.parent / "log.uv").read_text()
    assert [line for line in asked.splitlines() if not line.startswith("    --hash")] == [
        first(r"uv==.*$", WHOLE.read_text())[0]
    ]
    assert set(re.findall(r"sha256:(\w+)", asked)) == entries(WHOLE)[1]["uv"]


@shell
def test_setup_does_nothing_twice_and_switches_both_ways(clone):
    clone.setup("course")
    assert clone.setup("course") == []
    assert "uv pip sync --require-hashes requirements.lock" in clone.setup()
    assert clone.setup() == []
    assert clone.setup("course") == []  # a part of what is there
    (clone.root / "pyproject.toml").write_text("# changed")
    assert "uv pip sync --require-hashes requirements-course.lock" in clone.setup("course")
    assert not any("pip install" in line and "python" in line for line in clone.setup())  # the uv of the lock is there
    assert clone.setup("other", fails=True) == []


@shell
def test_setup_that_was_interrupted_begins_again(clone):
    clone.setup("course")
    (clone.root / ".venv/bin/uv").write_text("#!/bin/sh\necho uv $PINNED\n[ $1 = --version ]")
    clone.setup(fails=True)
    assert not (clone.root / ".venv" / ".ready").exists()
    (clone.root / ".venv/bin/uv").unlink()
    assert any("uv pip sync" in line for line in clone.setup("course"))


# ---- what `make test` leaves out


@pytest.mark.parametrize(("chosen", "kept"), [("all", [12, 1, 4, 12, 1]), ("sixth", [2, 1, 2, 1, 0])])
def test_a_part_of_each_sweep_is_kept(request, monkeypatch, chosen, kept):
    """Of 12 cases of one law, one of another, 4 error messages, 12 slow cases, and a weekly test."""
    conftest = next(plugin for plugin in request.config.pluginmanager.get_plugins() if hasattr(plugin, "PARTS"))

    class Item:
        def __init__(self, name, **marks):
            self.nodeid, self.get_closest_marker = name, marks.get

    items: list[Any] = [Item(f"a[{i}]", sweep=pytest.mark.sweep.mark) for i in range(12)]
    items += [Item("b[0]", sweep=pytest.mark.sweep.mark)]
    items += [Item(f"c[{i}]", sweep=pytest.mark.sweep(part=3).mark) for i in range(4)]
    items += [Item(f"d[{i}]", sweep=pytest.mark.sweep(part=20).mark) for i in range(12)]
    items += [Item("e", weekly=pytest.mark.weekly.mark)]
    monkeypatch.setenv("NTK_SWEEPS", chosen)
    config: Any = types.SimpleNamespace(hook=types.SimpleNamespace(pytest_deselected=lambda items: None))
    conftest.pytest_collection_modifyitems(config, items)
    assert [sum(item.nodeid.startswith(name) for item in items) for name in "abcde"] == kept


# ---- the compilation cache of the tests


@pytest.mark.weekly
def test_an_entry_of_the_compilation_cache_that_is_half_written_is_compiled_again(tmp_path):
    """As another worker leaves it while it writes, and a test run that was killed for good."""
    assert (
        "ignore:Error reading persistent compilation cache entry"
        in PROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"]
    )
    code = "import jax; print(float(jax.jit(lambda x: jax.numpy.sin(x @ x.T).sum())(jax.numpy.ones((3, 4)))))"
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore:Error reading persistent compilation cache entry",
        "-c",
        code,
    ]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def run():
        done = subprocess.run(command, env={**os.environ, **cache}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    right = run()
    entries = [path for path in tmp_path.iterdir() if path.name.endswith("-cache")]
    assert entries
    for part in (0.0, 0.5, 0.99):
        for path in entries:
            path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
        assert run() == right
        for path in entries:
            path.unlink()
        assert run() == right  # and is written anew


# ---- the workflow


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: What a job may do beside reading: publish on PyPI and on the site, without a password.
RIGHTS = {"release": ["id-token: write"], "site": ["pages: write", "id-token: write"]}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_trusts_no_tag_and_leaves_no_credentials(path):
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in uses), uses
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    assert "\npermissions:\n  contents: read\n" in text
    assert re.findall(r"[\w-]+: write", text) == RIGHTS.get(path.stem, [])
    assert "secrets." not in text
    jobs = re.findall(r"^  [\w-]+:(?: #.*)?\n(?=    \S)", text.split("\njobs:\n")[1], flags=re.MULTILINE)
    assert text.count("timeout-minutes:") == len(jobs)


def test_a_push_is_tested_once_and_the_weekly_run_has_other_seeds_each_time():
    ci, weekly = ((ROOT / ".github" / "workflows" / f"{name}.yml").read_text() for name in ("ci", "weekly"))
    assert re.search(r"push:\n    branches: \[main\]", ci)
    assert "\nconcurrency:" in ci
    assert all(words in weekly for words in ("schedule:", "make lock", "make oldest", "NTK_SWEEPS: all"))
    for text in (ci, weekly):
        assert "os: [ubuntu-latest, macos-latest]" in text
        assert 'python: ["3.12", "3.13"]' in text
    assert "NTK_HIDDEN_FIRST: ${{ github.run_number }}000" in weekly
    assert "FIRST: ${{ github.run_number }}1" in weekly


def test_ci_runs_what_the_readme_says():
    assert "exec make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "course: setup-course" in makefile
    assert "test: setup " in makefile


# ---- the set-up cell of the notebooks


@pytest.mark.parametrize("there", [True, False])
def test_the_first_cell_fetches_the_course_only_where_it_is_not(there, monkeypatch):
    from importlib import util

    from IPython.core.inputtransformer2 import TransformerManager

    nb = json.loads(next((ROOT / "notebooks").glob("*.ipynb")).read_text(encoding="utf-8"))
    first = next(cell for cell in nb["cells"] if cell["cell_type"] == "code")
    code = TransformerManager().transform_cell("".join(first["source"]))
    monkeypatch.setattr(util, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, calls = list(sys.path), []

    class Shell:
        def system(self, command):
            calls.append(command)

        def run_line_magic(self, name, line):
            calls.append(f"%{name} {line}")

    exec(code, {"get_ipython": Shell})
    if there:
        assert (calls, sys.path) == ([], before)
    else:
        repository = PROJECT["project"]["urls"]["Repository"]
        fetch, install = calls
        assert fetch == f"test -d ntk-course || git clone -q --depth 1 {repository} ntk-course"
        assert install == '%pip install -q "./ntk-course[course]"'
        assert sys.path == ["ntk-course", *before]
