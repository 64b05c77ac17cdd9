"""The commands of `python -m course`, and what the chapters import from it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import typer.testing

import course
from course import __main__, changed, notebook, suite, tasks
from course.claims import records, tables
from course.notebooks import build, execute
from course.notebooks.execute import environment

ROOT = Path(__file__).parents[1]
CHAPTER = """\
# %% [markdown]
# # 00 · Start here

# %%
import os

import course

print(course.scale(), os.environ.get("TEST_FAIL", ""))
if os.environ.get("TEST_FAIL"):
    raise KeyError("as told")

# %%
course.report(network=0.931, kernel=0.94)
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with chapter 00, for which the commands work."""
    for folder in ("notebooks", "course"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nurls.Repository = "https://example.org/course"\n')
    (tmp_path / "notebooks" / "00_start_here.py").write_text(CHAPTER)
    (tmp_path / "course" / "claims.toml").write_text(records.TOML.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(build, "repository", lambda: tmp_path)
    return tmp_path


def call(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(__main__.app, arguments)


def test_scale_is_one_of_three_and_gives_the_sizes(monkeypatch):
    monkeypatch.delenv("NTK_SCALE", raising=False)
    assert (course.scale(), course.sized(6, long=30, paper=100), course.sized(0)) == ("laptop", 6, 0)
    monkeypatch.setenv("NTK_SCALE", "long")
    assert (course.scale(), course.sized(6, long=30, paper=100), course.sized(6, paper=100)) == ("long", 30, 6)
    monkeypatch.setenv("NTK_SCALE", "paper")
    assert (course.scale(), course.sized(6, long=30, paper=100), course.sized(6, long=30)) == ("paper", 100, 30)
    monkeypatch.setenv("NTK_SCALE", "desk")
    with pytest.raises(ValueError, match="'laptop', 'long' or 'paper'; it is 'desk'"):
        course.scale()


def test_ntk_seed_gives_other_seeds(monkeypatch):
    monkeypatch.delenv("NTK_SEED", raising=False)
    assert [course.reseed(k) for k in range(4)] == [0, 1, 2, 3]
    drawn = {0, 1, 2, 3}
    for seed in ("1", "2", "20000"):
        monkeypatch.setenv("NTK_SEED", seed)
        fresh = {course.reseed(k) for k in range(4)}
        assert len(fresh) == 4
        assert not fresh & drawn
        assert max(fresh) < 2**31  # a key in 32 bits
        drawn |= fresh
    for wrong in ("-1", "1.5", "one", "20001", "²"):
        monkeypatch.setenv("NTK_SEED", wrong)
        with pytest.raises(ValueError, match="a whole number from 0 to 20000"):
            course.reseed(0)


def test_report_is_found_again(capsys):
    course.report(network=0.931, kernel=0.9402)
    line = capsys.readouterr().out
    assert line == "test accuracy on mnist5k: network 93.1 %, NTK 94.0 %\n"
    assert notebook.find_report(f"before\n{line}after") == line.strip()
    assert notebook.find_report("before") is None
    with pytest.raises(ValueError, match="`kernel` must be a fraction"):
        course.report(network=0.9, kernel=94.0)


def test_build_run_and_open_work_on_one_chapter(root, monkeypatch):
    """One after the other, since each starts a kernel."""
    assert call("build").exit_code == 0
    assert call("build", "--check").output == "all built files are in step with their sources\n"
    assert call("open", "--check").stdout.strip() == "test accuracy on mnist5k: network 93.1 %, NTK 94.0 %"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.ipynb")}
    monkeypatch.setenv("NTK_SCALE", "paper")
    passed = call("run", "all")
    assert (passed.exit_code, passed.output.split(" in ")[0]) == (0, "00_start_here: passed")
    monkeypatch.setenv("TEST_FAIL", "1")
    for failed in (call("run", "00"), call("open", "--check")):
        assert failed.exit_code == 1
        assert "KeyError: 'as told'" in failed.output
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.ipynb")} == before


def test_open_check_fails_where_the_accuracies_are_missing(root):
    (root / "notebooks" / "00_start_here.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook()))
    done = call("open", "--check")
    assert done.exit_code == 1
    assert "did not report its two accuracies" in done.output


def test_build_check_fails_where_something_is_out_of_step(root):
    done = call("build", "--check")
    assert done.exit_code == 1
    assert "00_start_here.ipynb is missing; mend it with: python -m course build 00" in done.output
    assert "course/claims.md differs from claims.toml; mend it with: python -m course claims" in done.output


def test_claims_writes_the_page(root):
    done = call("claims")
    assert "38 claims measured" in done.output
    assert not tables.out_of_step(root)


def test_an_unknown_hint_and_chapter_are_one_sentence(root):
    assert "there is no task '77.1'" in str(call("hint", "77.1").output)
    assert "there is no chapter '77'; there are: 00" in str(call("run", "77").output)


# ---- course check


def sheet_of(root, *cells, chapter="01"):
    """The sheet of a chapter, with these code cells."""
    path = root / "exercises" / f"{chapter}_sample.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])))
    return path


SYNTAX = "# the first line\ndef empirical_ntk(f, theta:\n    return 1"
USES = "from course import check\n\n\ndef kernel_step(*args):\n    return missing_name\n\n\nkernel_step()"


def test_check_shows_what_stopped_a_sheet_and_fails(root, monkeypatch):
    """One sheet with one of each, since each run starts a kernel."""
    before = sheet_of(
        root,
        SYNTAX,
        'check("01.1", empirical_ntk)',
        USES,
        'check("01.3", kernel_step)',
        'print("01.2 ntk_vector_product: passed")',
        "eval('1 +')",
        "  x = 1\n y = 2",
        "raise KeyError",
        'check("01.4", ...)',
        "import os; os._exit(3)",
        'check("01.5", "")',
    ).read_bytes()
    done = call("check", "01")
    assert done.exit_code == 1
    out = done.output
    name = "exercises/01_sample.ipynb"
    for text in (
        f"{name}, cell 1, line 2: SyntaxError: '(' was never closed\n"
        "    def empirical_ntk(f, theta:\n                     ^\n",
        f"{name}, cell 2, line 1: NameError: name 'check' is not defined\n    check(\"01.1\", empirical_ntk)\n",
        f"{name}, cell 3, line 5: NameError: name 'missing_name' is not defined\n    return missing_name\n",
        f"{name}, cell 6, line 1: SyntaxError: invalid syntax (<string>, line 1)\n    eval('1 +')\n",
        f"{name}, cell 7, line 1: IndentationError: unexpected indent\n",
        f"{name}, cell 8, line 1: KeyError\n    raise KeyError\n",
        "01_sample.ipynb, cell 10:",
        "Kernel died",
        "\n01.1 empirical_ntk: not run, see cell 2\n",
        "\n01.2 ntk_vector_product: passed\n",
        "\n01.3 kernel_step: not right yet\n  your code stopped with NameError: name 'missing_name' is not defined\n",
        '\n  hint("01.3") helps on.\n',
        "\n01.4 flow: not attempted yet\n",
        "\n01.5 fewer_parameters_than_examples: not run, cell 11 was not reached\n",
        "\n01.6 the_kernel_of_another_optimiser: not run, its check is not in the sheet\n",
    ):
        assert text in out, text + out
    assert (root / name).read_bytes() == before
    assert "\x1b[" not in out


def test_check_passes_a_sheet_that_is_begun_and_notes_where_the_learner_said(root, tmp_path, monkeypatch):
    ids = [task.id for task in tasks.all_tasks().values() if task.chapter == "01"]
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.setenv("NTK_PROGRESS", "mine.json")  # seen from where the learner is, not from where the sheet lies
    monkeypatch.chdir(tmp_path)
    words = "At the least 14 directions are null, because a matrix has at most as many ranks as columns. " * 10
    first, *rest = (f'check("{id}", ...)' for id in ids if id != "01.5")
    sheet_of(root, f'from course import check\n{first}\ncheck("01.5", "{words}")', *rest)
    done = call("check", "01")
    assert done.exit_code == 0, done.output
    assert done.output.count("not attempted yet") == len(ids) - 1
    assert "01.5 fewer_parameters_than_examples: written down" in done.output
    assert "01.5" in (tmp_path / "mine.json").read_text()
    assert not (root / "exercises" / "mine.json").exists()
    monkeypatch.setenv("NTK_PROGRESS", str(tmp_path / "mine.json" / "below"))
    told = call("check", "01").output.splitlines()[-1]  # what could not be noted is not kept from the learner
    assert told.startswith("the progress cannot be written, so 01.5 is not noted")


@pytest.mark.parametrize("text", ["{", "", "[]", "{}", '{"cells": 3}', "\xff\xfe", "<<<<<<< HEAD\n{}"])
def test_a_sheet_that_is_no_notebook_is_one_sentence(root, text):
    path = sheet_of(root)
    path.write_text(text, encoding="latin-1")
    done = call("check", "01")
    assert done.exit_code == 1
    assert f"{path} cannot be read as a notebook" in done.output
    assert "git checkout --" in done.output
    assert isinstance(done.exception, SystemExit)  # and no traceback
    assert build.difference(nbformat.v4.new_notebook(), path) == "cannot be read as a notebook"


@pytest.mark.parametrize(
    ("given", "near"),
    [("1", "01"), ("001", "01"), ("01_sample", "01"), ("../notebooks/00", ""), ("../exercises/01_sample.ipynb", "01"),
     ("", ""), ("*", ""), ("0[1]", ""), ("chapter 1", "01"), ("11", ""), ("/", "")],
)  # fmt: skip
def test_check_takes_a_chapter_and_no_path(root, monkeypatch, given, near):
    sheet_of(root)
    sheet_of(root, chapter="02")
    monkeypatch.setattr(execute, "execute", lambda *args, **kwargs: pytest.fail("ran something"))
    done = call("check", given)
    assert done.exit_code == 1
    assert f"there is no chapter {given!r}; " + (f"did you mean {near}? T" if near else "t") in done.output
    assert "here are: 01, 02" in done.output


@pytest.mark.parametrize("given", ["3.2", "03.02", "3,2", "3-2", " 03.2 "])
def test_a_hint_is_found_however_its_number_is_written(given):
    done = call("hint", given)
    assert done.exit_code == 1
    assert f"there is no task {given!r}; did you mean 03.2 ntk_layer?" in done.output


def test_a_hint_for_a_chapter_names_its_tasks():
    for given in ("3", "03"):
        assert "did you mean 03.1 abs_dual, 03.2 ntk_layer, 03.3" in call("hint", given).output
    for given in ("../checks", "", "what"):
        assert "ids look like '03.2'" in call("hint", given).output


def test_progress_prints_a_table():
    assert "tasks done" in call("progress").output


# ---- make test


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_all_steps_run_and_one_that_fails_fails_the_whole(root, monkeypatch, capfd):
    ok, bad = python("import os; print(os.environ['CI'])"), python("raise SystemExit(5)")
    steps = [suite.Step("one", (ok,)), suite.Step("two", (bad, ok)), suite.Step("three", (ok,))]
    monkeypatch.setattr(suite, "steps", lambda root: steps)
    assert call("test").exit_code == 1
    assert suite.run(root) is False
    lines = capfd.readouterr().out.splitlines()[-3:]
    assert [line.split()[:2] for line in lines] == [["passed", "one"], ["FAILED", "two"], ["passed", "three"]]
    assert suite.run(root, ["one", "three"]) is True
    assert capfd.readouterr().out.count("\ntrue\n") == 2
    with pytest.raises(SystemExit, match="no step four; there are: one, two, three"):
        suite.run(root, ["four"])


def test_the_steps_are_all_that_ci_runs():
    steps = {
        step.name: " ".join(part for command in step.commands for part in command[1:]) for step in suite.steps(ROOT)
    }
    assert list(steps) == ["lint", "types", "built", "tests", "examples", "notebooks"]
    assert "ruff check" in steps["lint"]
    assert "ruff format --check" in steps["lint"]
    assert "--doctest-modules ntklib" in steps["examples"]
    assert "--nbval --nbval-current-env" in steps["notebooks"]
    assert environment(ROOT)["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"


def test_bytecode_that_may_not_lie_beside_the_sources_is_kept_in_the_cache(monkeypatch):
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
        monkeypatch.delenv(name, raising=False)
    assert "PYTHONPYCACHEPREFIX" not in environment(ROOT)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    code = "import sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"
    said = subprocess.run(python(code), env=environment(ROOT), capture_output=True, text=True).stdout
    assert said == f"False {ROOT / '.cache' / 'python'}\n"
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "elsewhere")
    assert environment(ROOT)["PYTHONPYCACHEPREFIX"] == "elsewhere"


# ---- make check


@pytest.fixture
def changed_root(tmp_path):
    """A git repository with some modules and tests on `main`, and a branch with nothing on it yet."""
    files = {
        "ntklib/__init__.py": "from ntklib.room import in_room\nfrom ntklib.b import far\n",
        "ntklib/a.py": "from ntklib import _deep",
        "ntklib/_private.py": "",
        "ntklib/_deep.py": "",
        "ntklib/b.py": "",
        "ntklib/room/__init__.py": "",
        "ntklib/room/deep.py": "",
        "course/checks/ch03.py": "",
        "Makefile": "",
        "tests/helpers.py": "",
        "tests/test_a.py": "import ntklib as ntk\nntk.in_room",
        "tests/test_private.py": "from helpers import x",
        "tests/test_other.py": "from ntklib import a\n# ntk.far",
        "tests/test_room.py": "import helpers",
        "tests/test_nested.py": "def f():\n    from ntklib.room.deep import thing",
        "tests/test_checks_ch03.py": "",
        "tests/test_supply.py": 'name = "Makefile"',
        "tests/test_package.py": "",
        "tests/test_wrong_calls.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "all")
    git(tmp_path, "switch", "-q", "-c", "branch")
    return tmp_path


def git(root, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("name", "tests"),
    [
        ("ntklib/a.py", "a other package wrong_calls"),
        ("ntklib/_private.py", "private package wrong_calls"),
        ("ntklib/b.py", "other package wrong_calls"),  # nothing but ntk.far
        ("ntklib/_deep.py", "a other package wrong_calls"),  # a imports it
        ("ntklib/room/deep.py", "room nested package wrong_calls"),
        ("ntklib/room/__init__.py", "room package wrong_calls"),
        ("course/checks/ch03.py", "checks_ch03"),
        ("tests/helpers.py", "private room"),
        ("tests/test_nested.py", "nested"),
        ("Makefile", "supply"),
    ],
)
def test_what_changed_names_its_tests(changed_root, name, tests):
    assert changed.files(changed_root) == []
    (changed_root / name).write_text("# changed")
    files = changed.files(changed_root)
    assert files == [name]
    found = changed.tests(changed_root, files)
    assert set(found) == {f"tests/test_{test}.py" for test in tests.split()}
    assert changed.doctests(changed_root, files) == [name] * name.startswith("ntklib")
    git(changed_root, "commit", "-qam", "done")  # what the branch has done counts, as what is not committed
    assert changed.files(changed_root) == files


def test_new_and_removed_files_count_and_outside_of_git_nothing_does(changed_root, tmp_path_factory):
    (changed_root / "ntklib" / "new.py").write_text("")
    (changed_root / "ntklib" / "a.py").unlink()
    assert changed.files(changed_root) == ["ntklib/a.py", "ntklib/new.py"]
    assert changed.doctests(changed_root, changed.files(changed_root)) == ["ntklib/new.py"]
    git(changed_root, "branch", "-q", "-D", "main")
    assert changed.files(changed_root) == ["ntklib/a.py", "ntklib/new.py"], "without main, since the last commit"
    assert changed.files(tmp_path_factory.mktemp("plain")) == []


def test_every_module_of_the_library_has_tests_that_a_change_of_it_runs():
    general = {"tests/test_package.py", "tests/test_wrong_calls.py"}
    for path in (ROOT / "ntklib").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if path.name != "__init__.py":
            assert set(changed.tests(ROOT, [name])) - general, name


def test_make_check_stops_in_time_and_says_so(root, monkeypatch, capfd):
    steps = [suite.Step("quick", (python("pass"),)), suite.Step("slow", (python("import time; time.sleep(60)"),))]
    monkeypatch.setattr(suite, "changed_steps", lambda root: steps)
    begin = time.monotonic()
    assert suite.run_changed(root, seconds=3) is True
    assert time.monotonic() - begin < 20
    said = capfd.readouterr().out
    assert "passed  quick" in said
    assert "STOPPED slow" in said
    assert "make test runs them all" in said
    steps[:] = [suite.Step("bad", (python("raise SystemExit(1)"),)), steps[0]]
    assert suite.run_changed(root, seconds=3) is False


def test_the_compilation_cache_is_bounded(tmp_path):
    suite.bound(tmp_path / "not there yet")
    for age in range(10):
        (tmp_path / f"{age}").write_bytes(bytes(100))
        os.utime(tmp_path / f"{age}", (1e9 - age, 1e9 - age))
    suite.bound(tmp_path, most=1_000)
    assert len(list(tmp_path.iterdir())) == 10
    suite.bound(tmp_path, most=450)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2", "3"}  # used last


# ---- make course


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_jupyterlab_opens_on_the_first_chapter_and_ends_with_one_ctrl_c(root, tmp_path):
    (root / "notebooks" / "00_start_here.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook()))
    code = "import pathlib; from course import __main__; from course.notebooks import build; "
    code += f"build.repository = lambda: pathlib.Path({str(root)!r})"
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    log = tmp_path / "log"
    ours, terminal = os.openpty()  # nothing is typed: a question would wait
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-c", f"{code}; __main__.app(['open'])"],
            env={**env, "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_PORT": "0"},
            stdin=terminal,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            for _ in range(600):
                if "/lab/tree/notebooks/00_start_here.ipynb?token=" in log.read_text():
                    break
                time.sleep(0.1)
            else:
                pytest.fail(log.read_text())
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()
            server.wait()
            os.close(ours), os.close(terminal)
    assert "open the address below in a browser" in log.read_text()
