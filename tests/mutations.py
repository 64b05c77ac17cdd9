"""Tables of right and wrong answers, by which the checks of the exercises are tested (see course/AUTHORS.md).

A right answer passes in float32 and in float64, on public and hidden seeds (in `make test` the first right answer of a
task in both, and others in float32; and there is one hidden seed, not three). A wrong one fails on every seed, in the
public ones with the words of the table. Each message of a check is reached by an answer in the table, and no slip looks
like another one or like the right answer on any seed.
"""

import ast
import contextlib
import inspect
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import programs
import pytest

from course import check, expect, tasks
from course.expect import CheckFailed

ALL = os.environ.get("NTK_SWEEPS", "all") == "all"  # see conftest.py
#: The weekly run of CI takes twenty, and others each week.
_FIRST = int(os.environ.get("NTK_HIDDEN_FIRST", "1000"))
HIDDEN = tuple(range(_FIRST, _FIRST + int(os.environ.get("NTK_HIDDEN_SEEDS", "3" if ALL else "1"))))


@dataclass(frozen=True)
class Table:
    """Answers to one task: `right` by name, and `wrong` by name, each with words that its message must hold."""

    id: str
    right: dict[str, Any]
    wrong: dict[str, tuple[Any, str]]


def cases(tables: list[Table]) -> Callable:
    """Return the test of all answers in the tables, run as in a notebook: three cases a task."""
    rows = [
        pytest.param(table, kind, id=f"{table.id}-{kind}") for table in tables for kind in ("right", "wrong", "slips")
    ]

    @pytest.mark.parametrize(("table", "kind"), rows)
    def test_answers(table, kind, capsys, monkeypatch):
        faults = {"right": right_pass, "wrong": wrong_fail, "slips": slips_differ}[kind](table, capsys, monkeypatch)
        assert not faults, "\n".join(faults)

    return test_answers


@contextlib.contextmanager
def notebook(x64: bool = False) -> Iterator[None]:
    """JAX as it is in a notebook."""
    with jax.enable_x64(x64), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def right_pass(table: Table, capsys: Any, monkeypatch: Any) -> list[str]:
    """Return the right answers that do not pass with either precision, on public seeds and on hidden ones."""
    refused = []
    for place, (name, answer) in enumerate(table.right.items()):
        for x64 in (False, True)[: 2 if ALL or place == 0 else 1]:
            try:
                with notebook(x64):
                    check(table.id, answer)
                    check(table.id, answer, grade=True)
            except CheckFailed as error:
                refused.append(f"{name} in {'float64' if x64 else 'float32'}: {error}")
            assert refused or ": passed" in capsys.readouterr().out
    return refused


def wrong_fail(table: Table, capsys: Any, monkeypatch: Any) -> list[str]:
    """Return the wrong answers that pass on a seed, and the messages of the check that none of them reaches."""
    task = tasks.find(table.id)
    seen = Seen()
    faults = []
    for name, (answer, words) in table.wrong.items():
        with notebook(), monkeypatch.context() as patch:
            seen.watch(patch)
            try:
                seen.said += assert_fails(table.id, answer, words, patch)
            except (AssertionError, pytest.fail.Exception) as error:
                faults.append(f"{name}: {str(error)[:600]}")
                continue
            without_words(patch)
            for seed in HIDDEN:
                programs.forget(30_000)  # within one test, where conftest.py cannot
                with contextlib.suppress(CheckFailed):
                    tasks._verify(task, answer, seed)
                    faults.append(f"{name} passes with the hidden seed {seed}")
    faults += [f"no answer reaches the message: {m}" for m in sorted(seen.slips | stated(task)) if not seen.reached(m)]
    return faults


def slips_differ(table: Table, capsys: Any, monkeypatch: Any) -> list[str]:
    """Return the slips whose value on a seed is the right one or that of another slip."""
    task = tasks.find(table.id)
    seen = Seen(alike={})
    seen.watch(monkeypatch)
    with notebook():
        for seed in (*tasks.SEEDS, *HIDDEN):
            programs.forget(30_000)  # within one test, where conftest.py cannot
            tasks._verify(task, next(iter(table.right.values())), seed)
    assert seen.alike is not None
    return [f"{n} times: {pair}" for pair, n in seen.alike.items()]


def without_words(monkeypatch: Any) -> None:
    """Let the checks compare and not look for slips: on hidden seeds nobody reads the message."""
    close, number = expect.close, expect.number
    monkeypatch.setattr(expect, "close", lambda *args, **options: close(*args, **options | {"slips": None}))
    monkeypatch.setattr(expect, "number", lambda *args, **options: number(*args, **options | {"slips": None}))


@dataclass
class Seen:
    """What a check compared with and what it said: `slips` are the messages that it has for slips."""

    slips: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)
    alike: dict[str, int] | None = None

    def watch(self, monkeypatch: Any) -> None:
        """Look at each `expect.close` and `expect.number`."""

        def spy(compare: Callable) -> Callable:
            usual = inspect.signature(compare).parameters["rtol"].default

            def spied(got, want, *args, **options):
                slips = options.get("slips") or {}
                self.slips |= set(slips)
                if self.alike is not None:
                    self._compare(want, slips, options.get("rtol", usual), options.get("atol"))
                return compare(got, want, *args, **options)

            return spied

        monkeypatch.setattr(expect, "close", spy(expect.close))
        monkeypatch.setattr(expect, "number", spy(expect.number))

    def _compare(self, want: Any, slips: dict[str, Any], rtol: float, atol: float | None) -> None:
        named = {"the right answer": want, **slips}
        values = {n: np.asarray(value() if callable(value) else value, np.float64) for n, value in named.items()}
        tolerance = rtol * float(np.abs(values["the right answer"]).max(initial=0.0)) if atol is None else atol
        tolerance = tolerance or rtol
        items = list(values.items())
        for i, (one, a) in enumerate(items):
            for other, b in items[i + 1 :]:
                if a.shape == b.shape and not (np.abs(a - b) > tolerance).any() and np.isfinite(a + b).all():
                    pair = f"{one} | {other}"
                    assert self.alike is not None
                    self.alike[pair] = self.alike.get(pair, 0) + 1

    def reached(self, message: str) -> bool:
        """Whether the check has said so."""
        return any(message.strip() in said for said in self.said)


def stated(task: tasks.Task) -> set[str]:
    """The texts of `fail`, `that` and `line` in a check's own lines, the longest fixed part of each."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(task.verify)))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr in ("fail", "that"):
            found |= _fixed(node.args[-1])
        elif node.func.attr == "line" and isinstance(node.args[-1], ast.Dict):
            found |= {text for value in node.args[-1].values for text in _fixed(value)}
    return found


def _fixed(node: ast.expr) -> set[str]:
    pieces = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    plain = isinstance(node, (ast.Constant, ast.JoinedStr))
    return {max(pieces, key=len)} if pieces and plain else set()


def assert_fails(task: str, answer: Any, words: str, monkeypatch) -> list[str]:
    """The check fails with these words, for a fault of the answer, and shows none of the numbers it compares with.

    Returns what it says with each of the public seeds.
    """
    wanted: list[float] = []

    def spy(compare: Callable) -> Callable:
        def spied(got, want, *args, **kwargs):
            wanted.extend(np.ravel(np.asarray(want, np.float64)))
            return compare(got, want, *args, **kwargs)

        return spied

    monkeypatch.setattr(expect, "close", spy(expect.close))
    monkeypatch.setattr(expect, "number", spy(expect.number))
    said = []
    for seed in tasks.SEEDS:
        with pytest.raises(CheckFailed) as caught:
            tasks._verify(tasks.find(task), answer, seed)
        message = str(caught.value)
        assert words in message, f"{words!r} is not in the message of seed {seed}: {message}"
        assert "the check itself" not in message
        for value in wanted:
            digits = f"{abs(value):.4g}"
            assert len(digits.strip("0.")) < 4 or digits not in message, f"the message shows {digits}"
        said.append(message)
    return said
