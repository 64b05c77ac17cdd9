"""What a check expects of an answer: each slip gets its own words, and none of them shows the expected numbers."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ntklib as ntk
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
        (np.zeros((3, 4), bool), "its dtype is bool"),
        (np.zeros((3, 4), complex), "its dtype is complex128"),
        (lambda: 1, "Is it to be called first?"),
        ([[1.0, 2.0], [3.0]], "got a list of 2"),
        (np.zeros((4, 3, 1)), "An axis"),
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
    assert "got an array of shape (3, 3)" in message(expect.parts, np.zeros((3, 3)), ("nngp", "ntk"))


NBGRADER = "\n# YOUR CODE HERE\nraise NotImplementedError()\n"


@pytest.mark.parametrize(
    "text", ["", "\n\n", "\nWrite your answer here.\n", "### BEGIN SOLUTION\n### END SOLUTION", NBGRADER]
)
def test_no_text_is_no_attempt(text):
    with pytest.raises(NotAttempted):
        expect.text(text)


@pytest.mark.parametrize("text", ["two words", "I do not know", "asdf asdf asdf asdf asdf asdf asdf", "x = 1"])
def test_text_must_say_something(text):
    assert "too short" in message(expect.text, text) or "says nothing" in message(expect.text, text)
    assert "got the number 3" in message(expect.text, 3)


@pytest.mark.parametrize(
    "text",
    [
        r"$f(x_i) \to \bar y$, $L \to \frac N2 \mathrm{Var}(y)$",
        "f_i → ȳ; L → ½ Σ_j (y_j − ȳ)²",
        "Every output goes to the mean label.",
    ],
)
def test_formulas_and_short_sentences_are_answers(text):
    expect.text(text)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("at least 64 − 50 = 14 null directions, loss ‖r⊥‖²/(2N)", True),
        ("at least fourteen null directions, and the loss tends to that part", True),
        ("at least 114 null directions, loss ‖r⊥‖²/(2N)", False),
        ("at least 14.5 null directions, loss ‖r⊥‖²/(2N)", False),
        ("at least N − P null directions, loss ‖r⊥‖²/(2N)", False),
    ],
)
def test_a_number_in_words_is_looked_for(text, right):
    if right:
        expect.text(text, ("14", "fourteen"), "how many?")
    else:
        assert "a number is missing, or it is another one: how many?" in message(
            expect.text, text, ("14",), "how many?"
        )


@pytest.mark.parametrize(
    "value", [4, 4.0, np.int64(4), np.float32(4), np.array(4), jnp.array(4), jnp.array(4.0), fractions.Fraction(4)]
)
def test_whole_numbers_of_any_type_are_whole(value):
    assert expect.whole(value) == 4
    expect.line(value, 4, 5, {})


@pytest.mark.parametrize("value", [4.5, True, "4", [4], None, float("nan"), 4 + 0j, np.zeros(2)])
def test_other_things_are_not(value):
    message(expect.whole, value)
    message(expect.line, value, 4, 5, {})
    assert "line 3 is right" in message(expect.line, 3, 4, 5, {3: "line 3 is right"})
    assert "1 to 5" in message(expect.line, 6, 4, 5, {})


def test_an_array_of_three_is_as_good_as_a_tuple_of_three():
    for value in (np.arange(3.0), jnp.arange(3), [0, 1, 2], (0, 1, 2), np.zeros((3, 2))):
        assert len(expect.parts(value, ("a", "b", "c"))) == 3
    for value in (np.arange(4.0), None, {"a": 1, "b": 2, "c": 3}, 3.0, np.array(3.0)):
        message(expect.parts, value, ("a", "b", "c"))
    assert "is a `return` missing?" in message(expect.parts, None, ("a", "b"))
    with pytest.raises(NotAttempted):
        expect.parts((..., 3), ("a", "b"))


def test_permuted_parts_are_named():
    want = np.arange(3.0), np.arange(3.0) + 1, np.arange(4.0)
    names = ("a", "b", "c")
    assert expect.parts(want, names, order=want) == want
    for order in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        assert "swapped: the order is a, b, c" in message(expect.parts, [want[i] for i in order], names, order=want)
    expect.parts((want[0], 5.0, want[2]), names, order=want)  # wrong in another way: the check goes on


@pytest.mark.parametrize("ratio", [0.97, 1.02, 1.049])
def test_a_factor_near_one_is_no_slip(ratio):
    said = message(expect.close, ratio * WANT, WANT, factors={"N/M": ratio})
    assert "times" not in said
    assert "factor" not in said


def test_a_nearly_right_answer_is_said_to_be_nearly_right():
    assert "nearly right" in message(expect.close, WANT + 0.01 * np.eye(3)[::-1], WANT)


def test_entries_in_another_order_are_named():
    assert "opposite order" in message(expect.close, WANT[::-1], WANT)
    assert "another order" in message(expect.close, WANT[[1, 2, 0]], WANT)
    assert "reciprocal" in message(expect.close, 1 / WANT, WANT)
    assert "absolute value" in message(expect.close, np.abs(WANT - 2), WANT - 2)


def test_a_slip_may_be_computed_when_it_is_needed():
    computed = []
    expect.close(WANT, WANT, slips={"slip": lambda: computed.append(1)})
    assert not computed
    assert "that slip" in message(expect.close, WANT + 7, WANT, slips={"that slip": lambda: WANT + 7})
    assert "that slip" in message(expect.number, 3.0, 2.0, slips={"that slip": lambda: 3.0})


def write_into(params):
    params["W"] = params["W"] + 1
    return params


def test_inputs_are_compared_after_the_call():
    given = {"W": np.zeros(2), "deep": [np.zeros(1)]}
    assert "writes into one of its arguments" in message(expect.call, write_into, dict(given))
    assert "writes into" in message(expect.call, lambda p: p["deep"].append(1), {"deep": [1]})
    assert "writes into" in message(expect.call, lambda p: p.pop("W"), dict(given))
    assert expect.call(lambda p: {**p, "W": 1}, given)["W"] == 1


def leak(x):
    kept = []
    jax.jit(lambda x: kept.append(2 * x) or x)(x)
    return kept[0]


def test_a_tracer_is_no_value():
    assert "put a tracer in its place" in message(expect.call, leak, np.zeros(3))
    assert "put a tracer in its place" in message(expect.call, lambda x: {"a": [leak(x)]}, np.zeros(3))


def test_arguments_go_by_place_or_by_name():
    assert expect.call(lambda x, *, rate: (x, rate), 1, rate=2) == (1, 2)
    assert expect.call(lambda x, eta: (x, eta), 1, rate=2) == (1, 2)
    assert expect.call(lambda *, x, rate: (x, rate), 1, 2) == (1, 2)
    assert expect.call(lambda x, y=3: (x, y), 1) == (1, 3)
    assert "is called with" in message(expect.call, lambda x: x, 1, rate=2)
    assert "your code stopped with SystemExit" in message(expect.call, lambda: exit())


def test_the_librarys_own_answer_is_seen_under_any_name():
    from ntklib import gradient_flow as flow_of_mine

    given = np.eye(2), np.ones((2, 1))
    with pytest.raises(CheckFailed, match="ntklib's `gradient_flow`"), expect.without("gradient_flow"):
        expect.call(lambda k, y: flow_of_mine(k, y, t=1.0), *given)
    with pytest.raises(CheckFailed, match="`kernel_map`"), expect.without("Dense.kernel_map"):
        ntk.mlp([2, 3, 1], w_std=1.0, rngs=nnx.Rngs(0)).kernel(jnp.ones((2, 2)))
    with expect.without("gradient_flow"):
        expect.call(lambda k, y: k @ y, *given)


def n_by_n_in_numpy(x):
    big = np.outer(np.asarray(x), np.asarray(x))
    return big.sum()


def n_by_n_in_pieces(x):
    big = jnp.outer(x, x)
    return float(jnp.sum(big)) + float(x[0])


def test_a_large_array_on_the_way_is_seen():
    x = np.ones(800, np.float32)
    assert expect.largest(lambda x: jnp.sum(x[:, None] * x[None]), x) == 640_000
    assert expect.largest(lambda x: jax.lax.scan(lambda c, a: (c, a * x), 0.0, x)[1], x) == 640_000
    assert expect.largest(n_by_n_in_numpy, x) > 300_000
    assert expect.largest(n_by_n_in_pieces, x) > 300_000
    assert expect.largest(lambda x: np.asarray(x) @ np.asarray(x), x) < 100_000
    assert expect.work(lambda x: jax.lax.scan(lambda c, a: (c + jnp.sum(a * x), None), 0.0, x)[0], x) >= 640_000


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
