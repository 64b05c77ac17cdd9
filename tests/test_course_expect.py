"""What a check expects of an answer: each slip gets its own words, and none of them shows the expected numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from course import expect
from course.expect import CheckFailed, NotAttempted

WANT = np.array([[1.217, 2.531, 3.119], [0.713, 5.233, 1.331], [2.917, 0.331, 7.127]])


def message(call, *args, **kwargs):
    with pytest.raises(CheckFailed) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "is a `return` missing?"),
        ((1, 2), "got a tuple of 2"),
        ([1.0, 2.0], "got a list of 2"),
        (np.zeros((4, 3)), "Rows and columns are swapped"),
        (np.zeros((3, 3)), "one of the two inputs used twice"),
        (np.zeros((4, 4)), "one of the two inputs used twice"),
        (np.zeros((3, 4, 1)), "An axis of length 1"),
        (np.zeros(3), "Was an axis summed"),
        (1.0, "Was everything summed up"),
        (np.zeros((3, 4, 5)), "An axis is left"),
        (np.zeros((5, 4)), "should have shape [N, M] = (3, 4); got (5, 4)."),
        (np.zeros((3, 4), int), "its dtype is int64"),
        (np.zeros((3, 4), complex), "its dtype is complex128"),
        (np.full((3, 4), np.nan), "12 of 12 entries are nan or inf, the first at [0, 0]"),
        ("text", "got an object of type str"),
    ],
)
def test_an_array_is_looked_at_in_order(value, words):
    assert words in message(expect.array, value, shape=(3, 4), axes="N M")


def test_an_array_comes_back_in_float64():
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float64):
        assert expect.array(jnp.ones((3, 4), dtype), shape=(3, 4)).dtype == np.float64
    assert expect.array(2.0, shape=()) == 2.0


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (WANT.T, "rows and columns are swapped"),
        (-WANT, "the sign is wrong"),
        (2 * WANT, "it is 2 times what was expected"),
        (WANT / 2, "it is 1/2 times what was expected"),
        (np.pi * WANT, "it is π times"),
        (7 * WANT, "it is the width times"),
        (WANT / 7, "it is 1/the width times"),
        (0.123 * WANT, "a constant factor of about 0.12"),
        (WANT**2, "it is the square"),
        (WANT**0.5, "it is the square root"),
        (WANT + 0.3, "differs by the same constant"),
        (0 * WANT, "every entry is zero"),
        (WANT - np.diag(np.diag(WANT)), "wrong on the diagonal only"),
        (np.diag(np.diag(WANT)), "right on the diagonal only"),
        (WANT - np.eye(3)[::-1] / 100, "3 of 9 entries are off, by up to about 1e-03"),
        (np.triu(WANT), "3 of 9 entries are off, by up to about 4e-01 of the largest entry"),
        (WANT + 1, "one is added"),
    ],
)
def test_close_names_the_slip_and_shows_no_expected_number(got, words):
    said = message(expect.close, got, WANT, factors={"the width": 7}, slips={"one is added": WANT + 1})
    assert words in said
    assert not any(str(value) in said for value in WANT.ravel())


def test_close_allows_rounding_relative_to_the_largest_entry():
    expect.close(WANT + 5e-4, WANT)
    assert "entries are off" in message(expect.close, WANT + np.diag([1e-3, 0, 0])[::-1], WANT)
    expect.close(np.zeros(2), np.zeros(2))
    assert "entries are off" in message(expect.close, np.array([0.0, 1.0]), np.zeros(2))
    expect.close(np.full(2, 1e-7), np.zeros(2), atol=1e-6)


def test_close_with_other_shapes_is_a_mistake_in_the_check():
    with pytest.raises(ValueError, match=r"expect\.array first"):
        expect.close(np.zeros(3), np.zeros(1))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("-0.5", "should be one number; got an object of type str"),
        (True, "should be one number"),
        (np.zeros(3), "got an array of shape (3,)"),
        (float("nan"), "is nan"),
        (0.5, "look at its sign"),
        (-0.6, "off by more than the margin"),
        (-1.0, "that is the drift's slope"),
    ],
)
def test_a_number_is_looked_at_in_order(value, words):
    assert words in message(expect.number, value, -0.5, slips={"that is the drift's slope": -1.0})


def test_right_numbers_of_any_type_pass():
    for value in (-0.5, np.float32(-0.51), jnp.asarray(-0.49), np.array(-0.5)):
        expect.number(value, -0.5)
    expect.number(0.01, 0.0)


def test_parts_counts():
    assert expect.parts((1, 2), ("a", "b")) == (1, 2)
    assert "a tuple of 2: nngp, ntk; got a tuple of 3" in message(expect.parts, (1, 2, 3), ("nngp", "ntk"))
    assert "got an array of shape (2, 3)" in message(expect.parts, np.zeros((2, 3)), ("nngp", "ntk"))


NBGRADER = "\n# YOUR CODE HERE\nraise NotImplementedError()\n"


@pytest.mark.parametrize(
    "text", ["", "\n\n", "\nWrite your answer here.\n", "### BEGIN SOLUTION\n### END SOLUTION", NBGRADER]
)
def test_no_text_is_no_attempt(text):
    with pytest.raises(NotAttempted):
        expect.text(text)


def test_text_must_be_long_enough():
    assert "3 words" in message(expect.text, "\nWrite your answer here.\nthree small words", words=4)
    assert "got the number 3" in message(expect.text, 3)
    expect.text("four words are enough", words=4)


def test_call_hands_over_jax_arrays_and_says_what_it_calls_with():
    seen = []
    expect.call(lambda x, n, y: seen.append((x, n, y)), np.zeros(3), 2, y=np.zeros(2))
    assert isinstance(seen[0][0], jax.Array)
    assert seen[0][1] == 2
    assert isinstance(seen[0][2], jax.Array)
    said = message(expect.call, lambda x: x, np.zeros((3, 2)), 4)
    assert "called with (an array of shape (3, 2), the number 4), but its arguments are (x)" in said
    assert "Hand over the function itself" in message(expect.call, np.zeros(3))


def raises_in_a_helper(x):
    return jnp.dot(x, x[:2])  # the line that is shown, the innermost of the learner's


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap])
def test_call_shows_the_learners_own_line(wrap):
    said = message(expect.call, wrap(lambda x: raises_in_a_helper(x)), np.zeros((3, 4)))
    assert "your code stopped with TypeError" in said
    assert "return jnp.dot(x, x[:2])  # the line that is shown" in said


def stub(x):
    raise NotImplementedError("03.2: your code here")


def not_implemented_by_jax(x):
    return jax.jvp(lambda x: jnp.linalg.eig(x)[1].real, (x,), (x,))


def test_only_a_stub_counts_as_no_attempt():
    with pytest.raises(NotAttempted):
        expect.call(stub, np.eye(2))
    assert "NotImplementedError" in message(expect.call, not_implemented_by_jax, np.eye(2))
