"""The progress file: where it is, when it is written, and what happens to a damaged one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course import progress

ROOT = Path(__file__).parents[1]


@pytest.fixture
def learner(monkeypatch, tmp_path):
    """The environment of a learner: no CI, no pytest, and the file in a folder of its own."""
    for name in ("CI", "PYTEST_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NTK_PROGRESS", str(tmp_path / "state" / "mine.json"))
    return tmp_path / "state" / "mine.json"


def test_passes_are_noted_once(learner):
    assert progress.load() == {}
    progress.note("03.2")
    first = learner.read_text()
    progress.note("03.1")
    assert set(progress.load()) == {"03.1", "03.2"}
    before = learner.stat().st_mtime_ns
    progress.note("03.2")
    assert learner.stat().st_mtime_ns == before
    assert json.loads(first)["passed"]["03.2"] == progress.load()["03.2"]
    assert sorted(path.name for path in learner.parent.iterdir()) == ["mine.json", "mine.json.lock"]


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("NTK_PROGRESS", "off"), ("PYTEST_VERSION", "9")])
def test_nothing_is_written_where_nobody_learns(learner, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress, "location", lambda: pytest.fail("looked at"))
    progress.note("03.2")
    assert not learner.exists()


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_ci_may_be_said_not_to_be(learner, monkeypatch, value):
    monkeypatch.setenv("CI", value)
    progress.note("03.2")
    assert learner.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"passed": 3}', '{"passed": {"03.2": 1}}', "\x00\xff", "null"])
def test_a_damaged_file_is_set_aside(learner, capsys, text):
    learner.parent.mkdir()
    learner.write_text(text, encoding="latin-1")
    progress.note("03.2")
    assert set(progress.load()) == {"03.2"}
    assert learner.with_name("mine.json.damaged").read_text(encoding="latin-1") == text
    assert "was damaged" in capsys.readouterr().err


def test_what_a_damaged_file_still_shows_is_kept(learner, capsys):
    for id in ("03.2", "04b.1"):
        progress.note(id)
    whole = learner.read_text()
    damages = [whole[:-4], whole.replace('"passed"', "passed"), whole + "}", "\ufffd" + whole, whole.replace("{", "[")]
    for number, damage in enumerate(damages):
        learner.write_text(damage, encoding="utf-8")
        if number % 2:
            progress.note("05.1")
        assert {"03.2", "04b.1"} <= set(progress.load()), damage
        assert "2 passes that could still be read" in capsys.readouterr().err
        assert progress.load()
        assert capsys.readouterr().err == ""  # it is told once
        learner.write_text(whole)
    aside = sorted(learner.parent.glob("*.damaged*"))
    assert {path.read_text() for path in aside} == set(damages), "an older damaged file stays"


def test_what_others_keep_in_the_file_stays(learner):
    learner.parent.mkdir()
    learner.write_text('{"passed": {"03.1": "2026-01-01"}, "predicted": {"08.3": 7}}')
    progress.note("03.2")
    content = json.loads(learner.read_text())
    assert set(content["passed"]) == {"03.1", "03.2"}
    assert content["predicted"] == {"08.3": 7}


def start(learner, code):
    """Another process of the learner."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_VERSION")}
    environment |= {"NTK_PROGRESS": str(learner), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=-1, stderr=-1, text=True)


def test_several_processes_note_at_once_and_no_note_is_lost(learner):
    go = learner.with_name("go")
    code = (
        "import pathlib, sys, time; from course import progress\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.001)\n"
        "for i in range(40): progress.note(f'0{WHO}.{i}')"
    )
    learner.parent.mkdir()
    processes = [start(learner, code.replace("WHO", str(who))) for who in range(3)]
    go.touch()
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
    assert set(progress.load()) == {f"0{who}.{i}" for who in range(3) for i in range(40)}
    assert not list(learner.parent.glob("*.part"))


def test_a_process_that_dies_leaves_no_lock_and_one_that_hangs_is_not_waited_for(learner, monkeypatch, capsys):
    learner.parent.mkdir()
    hangs = start(
        learner,
        "from course import progress; import time\n"
        "with progress._alone(progress.location()): print('in', flush=True); time.sleep(60)",
    )
    assert hangs.stdout is not None
    assert hangs.stdout.readline() == "in\n"
    monkeypatch.setattr(progress, "PATIENCE", 0.2)
    begin = time.monotonic()
    progress.note("03.1")
    assert 0.2 <= time.monotonic() - begin < 5
    told = capsys.readouterr().err
    assert "03.1 is not noted: another process has held" in told
    assert told.count("\n") == 1
    hangs.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    hangs.communicate()
    progress.note("03.2")
    assert set(progress.load()) == {"03.2"}


def test_a_link_to_the_file_stays_a_link(learner, tmp_path):
    learner.parent.mkdir()
    target = tmp_path / "synced.json"
    learner.symlink_to(target)
    progress.note("03.2")
    progress.note("03.3")
    assert learner.is_symlink()
    assert set(json.loads(target.read_text())["passed"]) == {"03.2", "03.3"}


def test_an_unknown_home_folder_is_one_line(learner, monkeypatch, capsys):
    monkeypatch.setenv("NTK_PROGRESS", "~no-such-user/x")
    progress.note("03.2")
    assert progress.load() == {}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("NTK_PROGRESS is ~no-such-user/x, but that user has no home folder" in line for line in lines)


def test_what_is_not_a_file_is_left_alone(learner, monkeypatch, capsys):
    places = ["folder/progress.json", "fifo"]
    (learner.parents[1] / places[0]).mkdir(parents=True)
    if hasattr(os, "mkfifo"):
        os.mkfifo(learner.parents[1] / places[1])
    for place in [str(learner.parents[1] / place) for place in places] + [os.devnull]:
        monkeypatch.setenv("NTK_PROGRESS", place if "folder" not in place else str(Path(place).parent))
        if os.path.exists(place):
            before = os.stat(place)
            progress.note("03.2")
            assert progress.load() == {}
            lines = capsys.readouterr().err.splitlines()
            assert [f"{place} is not a file" in line for line in lines] == [True, True]
            assert os.stat(place).st_ino == before.st_ino


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder in which not even root can write")
def test_a_folder_that_the_system_keeps_to_itself_is_one_line(learner, monkeypatch, capsys):
    for place in ("/proc/ntk/progress.json", "/proc/progress.json", "/proc/version/progress.json"):
        monkeypatch.setenv("NTK_PROGRESS", place)
        progress.note("03.2")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("the progress cannot be written, so 03.2 is not noted:")
        assert "NTK_PROGRESS names another file" in line
        progress.load()
        assert len(capsys.readouterr().err.splitlines()) <= 1


def test_a_damaged_file_in_a_read_only_folder_is_one_line(learner, monkeypatch, capsys):
    learner.parent.mkdir()
    learner.write_text("{")

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", refuse)
    assert progress.load() == {}
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert learner.read_text() == "{"


def test_the_place_follows_the_environment(learner, monkeypatch):
    monkeypatch.setenv("NTK_PROGRESS", str(learner.parents[1]))
    assert progress.location() == learner.parents[1] / "progress.json"
    monkeypatch.delenv("NTK_PROGRESS")
    assert progress.location().parts[-2:] == ("ntklib-course", "progress.json")


def test_a_folder_that_cannot_be_written_is_no_failure(learner, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", refuse)
    progress.note("03.2")
    assert "cannot be written, so 03.2 is not noted: read-only" in capsys.readouterr().err
    assert not list(learner.parent.glob("*.part"))


def test_the_table_says_what_is_done(learner, monkeypatch):
    from course import tasks

    monkeypatch.setattr(tasks, "TASKS", {})
    for id in ("01.1", "02.1", "02.2"):
        about = {"minutes": 5, "difficulty": 2, "section": "S", "hints": ("a", "b", "c")}
        tasks.task(id, f"name{id}", **about)(lambda answer, rng: None)
    tasks.written("02.3", "words", rubric=("a", "b", "c"), **about)
    progress.note("02.3")
    progress.note("02.1")
    table = progress.table(tasks.TASKS)
    assert table.title == "2 of 4 tasks done"
    assert [str(mark)[:1] for mark in table.columns[4].cells] == ["o", "✔", "o", "w"], (
        "words are not ticked off: nobody has checked them"
    )
