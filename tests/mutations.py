"""Tables of right and wrong answers, by which the checks of the exercises are tested (see course/AUTHORS.md)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest

from course import check, expect
from course.expect import CheckFailed


@dataclass(frozen=True)
class Table:
    """Answers to one task: `right` by name, and `wrong` by name, each with words that its message must hold."""

    id: str
    right: dict[str, Any]
    wrong: dict[str, tuple[Any, str]]


def cases(tables: list[Table]) -> Callable:
    """Return the test of all answers in the tables, run as in a notebook (float32), the right ones in float64 too."""
    rows = [
        pytest.param(table.id, answer, None, x64, id=f"{table.id}-right-{name}-{'float64' if x64 else 'float32'}")
        for table in tables
        for name, answer in table.right.items()
        for x64 in (False, True)
    ]
    rows += [
        pytest.param(table.id, answer, words, False, id=f"{table.id}-wrong-{name}")
        for table in tables
        for name, (answer, words) in table.wrong.items()
    ]

    @pytest.mark.parametrize(("task", "answer", "words", "x64"), rows)
    def test_answers(task, answer, words, x64, capsys, monkeypatch):
        with jax.enable_x64(x64), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            if words is None:
                check(task, answer)
                assert ": passed" in capsys.readouterr().out
                check(task, answer, grade=True)
            else:
                assert_fails(task, answer, words, monkeypatch)

    return test_answers


def assert_fails(task: str, answer: Any, words: str, monkeypatch) -> None:
    """The check fails with these words, for a fault of the answer, and shows none of the numbers it compares with."""
    wanted: list[float] = []

    def spy(compare: Callable) -> Callable:
        def spied(got, want, *args, **kwargs):
            wanted.extend(np.ravel(np.asarray(want, np.float64)))
            return compare(got, want, *args, **kwargs)

        return spied

    monkeypatch.setattr(expect, "close", spy(expect.close))
    monkeypatch.setattr(expect, "number", spy(expect.number))
    with pytest.raises(CheckFailed) as caught:
        check(task, answer)
    message = str(caught.value)
    assert words in message
    assert "the check itself" not in message
    for value in wanted:
        digits = f"{abs(value):.4g}"
        assert len(digits.strip("0.")) < 4 or digits not in message, f"the message shows {digits}"
