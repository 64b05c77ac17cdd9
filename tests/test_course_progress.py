"""The progress file: where it is, when it is written, and what happens to a damaged one."""

import json
import os

import pytest

from course import progress


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
    assert [path.name for path in learner.parent.iterdir()] == ["mine.json"]


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("NTK_PROGRESS", "off"), ("PYTEST_VERSION", "9")])
def test_nothing_is_written_where_nobody_learns(learner, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress, "load", lambda: pytest.fail("looked at"))
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
    assert "cannot be written: read-only" in capsys.readouterr().err


def test_the_table_says_what_is_done(learner, monkeypatch):
    from course import tasks

    monkeypatch.setattr(tasks, "TASKS", {})
    for id in ("01.1", "02.1", "02.2"):
        about = {"minutes": 5, "difficulty": 2, "section": "S", "hints": ("a", "b", "c")}
        tasks.task(id, f"name{id}", **about)(lambda answer, rng: None)
    tasks.written("02.3", "words", **about)
    progress.note("02.3")
    progress.note("02.1")
    table = progress.table(tasks.TASKS)
    assert table.title == "2 of 4 tasks done"
    assert [str(mark)[:1] for mark in table.columns[4].cells] == ["o", "✔", "o", "w"], (
        "words are not ticked off: nobody has checked them"
    )
