"""Powers of the step of gradient descent, mode by mode."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from ntklib.dynamics import _linalg


def test_large_numbers_of_steps_are_powers():
    rates = np.array([1e-12, 1e-9, 0.3, 1.9])
    steps = np.array([0, 1, 7, 2**31, 2**31 + 1, 10**10, 1e14, 1e200])
    learned, integral = _linalg.descent(jnp.asarray(rates), steps, jnp.asarray(1.0), jnp.asarray(0.0))
    logs = np.array([np.log1p(-1e-12), np.log1p(-1e-9), np.log(0.7), np.log(0.9)])  # of |1 − rate|
    with np.errstate(over="ignore"):
        exponents = steps[:, None] * logs[None, :]
    want = -np.expm1(exponents)
    want[:, 3] = 1 - np.where(steps % 2 == 1, -1.0, 1.0) * np.exp(exponents[:, 3])
    assert_close(learned, want, rtol=1e-12)
    assert_close(np.asarray(integral)[1:] * rates / want[1:], np.ones((7, 4)), rtol=1e-12)
    free = _linalg.descent(jnp.zeros(1), steps, jnp.asarray(0.5), jnp.asarray(0.5))[1][1:, 0]
    assert_close(np.asarray(free) / (steps[1:] - 0.5 * (1 - 0.5 ** steps[1:]) / 0.5), np.ones(7), rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.999])
def test_slow_modes_keep_their_digits_in_float32(momentum):
    """1 − ηλ has none of a rate of 1e-8 in float32: half a million steps must not go by it."""
    rates = np.array([1e-8, 1e-6, 1e-3])
    steps = np.array([1, 100, 10**5, 10**7])
    numbers = [jnp.asarray(a, jnp.float32) for a in (1.0, momentum)]
    got = _linalg.descent(jnp.asarray(rates, jnp.float32), steps, *numbers)
    want = _linalg.descent(jnp.asarray(rates), steps, jnp.asarray(1.0), jnp.asarray(float(numbers[1])))
    for one, other in zip(got, want, strict=True):
        assert np.all(np.abs(np.asarray(one, float) / np.asarray(other) - 1) < 1e-4)
