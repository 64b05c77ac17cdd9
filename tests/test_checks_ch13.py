"""Right and wrong answers to the tasks of chapter 13."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from mutations import Table, cases

from course.checks.ch13 import SIZES_133


def round_to_bits(x, bits):
    fraction, exponent = jnp.frexp(x)
    return jnp.ldexp(jnp.round(fraction * 2.0**bits), exponent - bits)


def by_spacing(x, bits):
    """In NumPy, from the distance of neighbours."""
    x = np.asarray(x, np.float64)
    size = np.where(x == 0, 1.0, abs(x))
    spacing = 2.0 ** (np.floor(np.log2(size)) - bits + 1)
    return np.rint(x / spacing) * spacing


def by_adding(x, bits):
    """A large number added and taken away again pushes the last digits out."""
    x = np.asarray(x, np.float64)
    large = x * (2.0 ** (53 - bits) + 1)
    return large - (large - x)


def one_by_one(x, bits):
    def one(value):
        if value == 0:
            return 0.0
        spacing = 2.0 ** (math.floor(math.log2(abs(value))) - bits + 1)
        return round(value / spacing) * spacing

    return [[one(float(value)) for value in row] for row in x]


def rounded_by(how, more=0):
    def answer(x, bits):
        fraction, exponent = jnp.frexp(x)
        return jnp.ldexp(how(fraction * 2.0 ** (bits + more)), exponent - bits - more)

    return answer


def one_spacing(x, bits):
    spacing = 2.0 ** (jnp.frexp(jnp.abs(x).max())[1] - bits)
    return jnp.round(x / spacing) * spacing


def of_jax(x, bits):
    return jax.lax.reduce_precision(x, 8, bits - 1)


def critical_size(C, alpha, sigma):
    return (C / (2 * sigma)) ** (2 / (2 * alpha - 1))


def by_bisection(C, alpha, sigma):
    low, high = 1e-3, 1e12
    for _ in range(200):
        m = (low * high) ** 0.5
        low, high = (m, high) if C * m ** (1 - alpha) > 2 * sigma * m**0.5 else (low, m)
    return low


def size_with(power, two=2.0):
    return lambda C, alpha, sigma: (C / (two * sigma)) ** power(alpha)


def safe_ridge(kernel, sigma):
    return 2 * sigma * len(kernel) ** 0.5 / jnp.diagonal(kernel).mean()


def by_sums(kernel, sigma):
    m = np.shape(kernel)[0]
    return 2 * sigma * m**1.5 / sum(float(kernel[i][i]) for i in range(m))


def ridge_with(form):
    return 3, lambda k, sigma: form(k, sigma, len(k))


SHARP, RIGHT = (lambda a: 2 / (2 * a - 1)), (3, safe_ridge)
EIGHT, ELEVEN = SIZES_133

TABLES = [
    Table(
        "13.1",
        right={
            "frexp": round_to_bits,
            "NumPy": by_spacing,
            "a large number": by_adding,
            "Python, one by one": one_by_one,
            "halves away from zero": rounded_by(lambda a: jnp.sign(a) * jnp.floor(jnp.abs(a) + 0.5)),
        },
        wrong={
            "the leading bit not counted": (rounded_by(jnp.round, 1), "one bit too many"),
            "two leading bits": (rounded_by(jnp.round, -1), "one bit too few"),
            "cut off": (rounded_by(jnp.trunc), "cut off"),
            "down": (rounded_by(jnp.floor), "goes down"),
            "up": (rounded_by(jnp.ceil), "goes up"),
            "fixed point": (lambda x, bits: jnp.round(x * 2 ** (bits - 1)) / 2 ** (bits - 1), "same spacing"),
            "fixed point, a bit more": (lambda x, bits: jnp.round(x * 2**bits) / 2**bits, "multiple of 2^−bits"),
            "one spacing for all": (one_spacing, "largest entry"),
            "as it came": (lambda x, bits: x, "nothing is rounded"),
            "the error": (lambda x, bits: round_to_bits(x, bits) - x, "error of rounding"),
            "decimal digits": (lambda x, bits: jnp.round(x, bits), "is not right"),
            "of bfloat16": (lambda x, bits: x.astype(jnp.bfloat16).astype(x.dtype), "is not right"),
            "log of a negative": (
                lambda x, bits: jnp.round(x / 2.0 ** jnp.floor(jnp.log2(x))) * x,
                "not finite",
            ),
            "JAX's": (of_jax, "JAX's own rounding"),
            "NaN at zero": (
                lambda x, bits: x / jnp.abs(x) * jnp.abs(round_to_bits(x, bits)),
                "not finite",
            ),
        },
    ),
    Table(
        "13.2",
        right={
            "closed form": critical_size,
            "bisection": by_bisection,
            "logarithms, an array": lambda C, a, s: jnp.exp(jnp.log(C / 2 / s) / (a - 0.5)),
        },
        wrong={
            "no 2": (size_with(SHARP, 1.0), "the 2 is missing"),
            "no √m": (size_with(lambda a: 1 / (a - 1)), "does not depend on m"),
            "m for √m": (size_with(lambda a: 1 / a), "not as m"),
            "no factor m": (size_with(lambda a: 1 / (a + 0.5)), "m times larger"),
            "√m subtracted": (size_with(lambda a: 1 / (a - 1.5)), "is not right"),
            "no root": (size_with(lambda a: 1.0), "root was forgotten"),
            "upside-down power": (size_with(lambda a: (2 * a - 1) / 2), "upside down"),
            "root of σ": (lambda C, a, s: (C / (2 * s**0.5)) ** SHARP(a), "no root of it"),
            "square of σ": (lambda C, a, s: (C / (2 * s**2)) ** SHARP(a), "it is not squared"),
            "both edges": (size_with(SHARP, 4.0), "from edge to edge"),
            "C/σ upside down": (lambda C, a, s: (2 * s / C) ** SHARP(a), "more noise means fewer"),
            "a whole number": (lambda C, a, s: int(critical_size(C, a, s)), "rounded down"),
            "the next whole number": (lambda C, a, s: math.ceil(critical_size(C, a, s)), "rounded up"),
            "σ fixed": (lambda C, a, s: critical_size(C, a, s) if s < 0.005 else 1e9, "with twice the noise"),
        },
    ),
    Table(
        "13.3",
        right={"the fit": SIZES_133, "roughly": [1.2 * EIGHT, 0.85 * ELEVEN]},
        wrong={
            "the safe rule again": ((EIGHT / 3, ELEVEN / 3), "lasts longer"),
            "far too many": ((2 * EIGHT, ELEVEN), "gives out earlier"),
            "right, then too many": ((EIGHT, 2 * ELEVEN), "with 11 bits the kernel gives out earlier"),
            "right, then too few": ((EIGHT, ELEVEN / 2), "with 11 bits the kernel lasts longer"),
            "swapped": ((ELEVEN, EIGHT), "swapped"),
            "negative": ((-EIGHT, ELEVEN), "above zero"),
            "one number": (EIGHT, "tuple of 2"),
        },
    ),
    Table(
        "13.4",
        right={"as derived": RIGHT, "sums": (3.0, by_sums), "NumPy": (np.int64(3), by_sums)},
        wrong={
            "line 1": ((1, safe_ridge), "line 1 is right"),
            "line 2": ((2, safe_ridge), "line 2 is right"),
            "line 4": ((4, safe_ridge), "line 4 is Weyl"),
            "line 5": ((5, safe_ridge), "line 5 converts"),
            "line 6": ((6, safe_ridge), "one of the lines"),
            "the flawed one": (ridge_with(lambda k, s, m: s * m**1.5 / jnp.trace(k)), "flawed result"),
            "absolute": (ridge_with(lambda k, s, m: 2 * s * m**0.5), "added to the diagonal"),
            "over the trace": (ridge_with(lambda k, s, m: 2 * s * m**0.5 / jnp.trace(k)), "not to the trace"),
            "over λ_max": (
                ridge_with(lambda k, s, m: 2 * s * m**0.5 / jnp.linalg.eigvalsh(k)[-1]),
                "largest eigenvalue",
            ),
            "times the mean": (ridge_with(lambda k, s, m: 2 * s * m**0.5 * jnp.trace(k) / m), "not multiplied"),
            "m for √m": (ridge_with(lambda k, s, m: 2 * s * m**2 / jnp.trace(k)), "not as m"),
            "no √m": (ridge_with(lambda k, s, m: 2 * s * m / jnp.trace(k)), "√m is missing"),
            "room at the bottom": (
                ridge_with(lambda k, s, m: (2 * s * m**0.5 - jnp.linalg.eigvalsh(k)[0]) * m / jnp.trace(k)),
                "smallest eigenvalue of K is not asked for",
            ),
            "a fifth more": (ridge_with(lambda k, s, m: 1.2 * safe_ridge(k, s)), "off by more than the margin"),
            "both edges": (ridge_with(lambda k, s, m: 4 * s * m**1.5 / jnp.trace(k)), "edge to edge"),
            "σ squared": (ridge_with(lambda k, s, m: 2 * s**2 * m**1.5 / jnp.trace(k)), "not squared"),
            "mean of all": (ridge_with(lambda k, s, m: 2 * s * m**0.5 / k.mean()), "all entries"),
        },
    ),
]
test_answers = cases(TABLES)
