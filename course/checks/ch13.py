"""Checks of chapter 13, precision."""

from course import expect
from course.tasks import task, written

#: 13.3: where the line through log σ_c over log m meets σ, with 8 and with 11 bits.
SIZES_133 = (190.0, 920.0)


@task(
    "13.1",
    "round_to_bits",
    minutes=20,
    difficulty=2,
    section="What a number of $b$ bits keeps",
    hints=(
        "Scale each number by a power of two so that its last bit becomes the digit before the point. Round to a whole "
        "number there, and scale back.",
        "`jnp.frexp` gives f and e with x = f · 2^e and 1/2 ≤ |f| < 1. All bits of such an f stand behind the point. "
        "How many of them are to be kept?",
        "fraction, exponent = jnp.frexp(x); jnp.ldexp(jnp.round(fraction * 2.0**bits), exponent - bits).",
    ),
)
def _(answer, rng):
    import jax
    import numpy as np

    shape, bits = expect.one_of(rng, ((5, 3), 6), ((3, 7), 9))
    x = rng.uniform(1.02, 1.98, size=shape) * 2.0 ** rng.integers(-6, 7, size=shape)
    x = x * rng.choice([-1.0, 1.0], size=shape)
    x[0, 0], x[1, 1], x[2, 0] = 0.0, -3.0, 2.0 ** (1 - bits) * 1.37 + 4.0  # zero; exact already; far from exact
    x = x.astype(np.float32).astype(np.float64)  # the same numbers in both precisions
    fraction, exponent = np.frexp(x)

    def kept(b, how=np.round):
        return np.ldexp(how(fraction * 2.0**b), exponent - b)

    got = expect.call(answer, x, bits)
    got = expect.array(got, "the rounded array", shape=shape, axes="N M")
    expect.close(
        got,
        kept(bits),
        "the rounded array",
        atol=2.0**-22 * float(abs(x).min(initial=1.0, where=x != 0)),
        slips={
            "`bits` counts the leading 1; here one bit too many is kept.": kept(bits + 1),
            "one bit too few is kept. With 1/2 ≤ |f| < 1 all `bits` bits stand behind the point.": kept(bits - 1),
            "the rest is cut off; it should go to the nearest one.": kept(bits, np.trunc),
            "it goes down to the next number, not to the nearest.": kept(bits, np.floor),
            "it goes up to the next number, not to the nearest.": kept(bits, np.ceil),
            "every number is rounded to the same spacing; it should go with the size of each number.": np.round(
                x * 2.0 ** (bits - 1)
            )
            / 2.0 ** (bits - 1),
            "every number is rounded to a multiple of 2^−bits; the spacing should go with its size.": np.round(
                x * 2.0**bits
            )
            / 2.0**bits,
            "nothing is rounded.": x,
            "that is the error of rounding, not the rounded number.": kept(bits) - x,
            "the spacing is taken from the largest entry, for all.": lambda: _same_spacing(x, bits),
        },
    )
    used = ""
    try:
        used = str(jax.make_jaxpr(lambda a: answer(a, bits))(x))
    except Exception:  # written with NumPy
        used = ""
    expect.that("reduce_precision" not in used, "the numbers are right, but JAX's own rounding is behind them.")
    return "What is left out is a matrix that looks random"


def _same_spacing(x, bits):
    import numpy as np

    spacing = 2.0 ** (np.frexp(abs(x).max())[1] - bits)
    return np.round(x / spacing) * spacing


@task(
    "13.2",
    "critical_size",
    minutes=10,
    difficulty=2,
    section="How much noise a kernel can bear",
    hints=(
        "Which of the m eigenvalues is the smallest, and how does it depend on m alone? The safe rule compares it with "
        "the edge of the noise, which grows with m.",
        "λ_min = C m^(1 − α) meets 2σ√m. Both are powers of m: divide, and take a root.",
        "m^(1/2 − (1 − α)) = C/(2σ), so m = (C/(2σ)) ** (2/(2α − 1)).",
    ),
)
def _(answer, rng):
    C, alpha = expect.one_of(rng, (0.8, 1.3), (0.5, 1.7))
    sigma = 0.004 * rng.uniform(0.8, 1.2)
    power = 2 / (2 * alpha - 1)
    got = expect.call(answer, C, alpha, sigma)
    expect.number(
        got,
        (C / (2 * sigma)) ** power,
        "the critical size",
        rtol=2e-5,
        slips={
            "it has been rounded down; a real number is asked for.": int((C / (2 * sigma)) ** power),
            "it has been rounded up; a real number is asked for.": int((C / (2 * sigma)) ** power) + 1,
            "the semicircle ends at 2σ√m; the 2 is missing.": (C / sigma) ** power,
            "the noise grows as √m; here the edge does not depend on m.": (C / (2 * sigma)) ** (1 / (alpha - 1)),
            "the noise grows as √m, not as m.": (C / (2 * sigma)) ** (1 / alpha),
            "the eigenvalues are m times larger than C i^(−α): λ_min = C m^(1 − α).": (C / (2 * sigma))
            ** (1 / (alpha + 0.5)),
            "the root was forgotten: that is C/(2σ).": C / (2 * sigma),
            "the last root is upside down: solve m^p = C/(2σ) for m.": (C / (2 * sigma)) ** (1 / power),
            "σ is a standard deviation already; no root of it is taken.": (C / (2 * sigma**0.5)) ** power,
            "σ is a standard deviation; it is not squared.": (C / (2 * sigma**2)) ** power,
            "the noise reaches down to −2σ√m; its width from edge to edge is not what counts.": (C / (4 * sigma))
            ** power,
            "C/σ is upside down: more noise means fewer images.": (2 * sigma / C) ** power,
        },
    )
    fewer = expect.finite(expect.call(answer, C, alpha, 2 * sigma), "the critical size")
    expect.that(fewer < (C / (2 * sigma)) ** power, "with twice the noise the critical size must be smaller.")
    return "Each bit more multiplies the size by 2^(2/(2α − 1)): α decides what digits are worth"


@task(
    "13.3",
    "a new kernel",
    minutes=15,
    difficulty=3,
    section="The tails of real kernels",
    hints=(
        "Draw log σ_c over log m: four points, nearly on a line. At which m does the line reach σ?",
        "From m = 50 to 200 log σ_c changes by log(σ_c(200)/σ_c(50)). The slope p is that over log 4; then "
        "m = 200 (σ/σ_c(200))^(1/p).",
        "p, start = np.polyfit(np.log(m), np.log(sigma_c), 1); np.exp((np.log(sigma) - start) / p).",
    ),
)
def _(answer, rng):
    both = expect.parts(answer, ("with 8 bits", "with 11 bits"), order=SIZES_133)
    for got, want, bits in zip(both, SIZES_133, (8, 11), strict=True):
        value = expect.finite(got, f"the critical size with {bits} bits")
        expect.that(value > 0, "a number of images is above zero.")
        factor = value / want
        if factor > 1.4:
            expect.fail(
                f"with {bits} bits the kernel gives out earlier than that: look where the line through log σ_c reaches "
                f"log σ."
            )
        if factor < 1 / 1.4:
            expect.fail(
                f"with {bits} bits the kernel lasts longer than that: σ_c is the noise that it bears, and the factor 2 "
                f"and the √m are in it already."
            )
    return "Three bits are a factor of 8 in σ. Is that what the sizes differ by?"


@task(
    "13.4",
    "the ridge, spot the error",
    minutes=20,
    difficulty=3,
    section="Rounding noise is a random matrix",
    hints=(
        "Each line gives one fact about the eigenvalues of E. Which of them speaks of a mean, and which of an extreme?",
        "The root of the mean of λ² is σ√m. The semicircle with this width ends further out.",
        "Line 3 takes the rms for the edge, which is 2σ√m. So δ = 2σ√m / (tr(K)/m).",
    ),
)
def _(answer, rng):
    import numpy as np

    line, ridge = expect.parts(answer, ("wrong_line", "safe_ridge"))
    another = "the first error is in another line:"
    expect.line(
        line,
        3,
        5,
        {
            1: f"{another} line 1 is right: m² entries, each with a square of σ² on average.",
            2: f"{another} line 2 is right: the trace of a matrix is the sum of its eigenvalues.",
            4: f"{another} line 4 is Weyl's inequality, with the edge of line 3 put in. Look further up.",
            5: f"{another} line 5 converts to the relative ridge as it should, with what line 4 says. Look further up.",
        },
    )
    m = expect.one_of(rng, 5, 7)
    half, sigma = rng.normal(size=(m, m + 3)), 0.03
    k = half @ half.T * rng.uniform(0.7, 0.9)
    edge, mean = 2 * sigma * m**0.5, np.trace(k) / m
    got = expect.call(ridge, k, sigma)
    expect.number(
        got,
        edge / mean,
        "the ridge",
        rtol=1e-3,
        slips={
            "that is the flawed result: the edge is further out than the rms.": edge / 2 / mean,
            "that is what is added to the diagonal; the ridge is relative to tr(K)/m.": edge,
            "it is relative to the mean of the diagonal, not to the trace.": edge / (mean * m),
            "it is relative to the mean of the diagonal, not to the largest eigenvalue.": edge
            / np.linalg.eigvalsh(k)[-1],
            "it should be divided by the mean of the diagonal, not multiplied.": edge * mean,
            "the edge grows as √m, not as m.": 2 * sigma * m / mean,
            "the √m is missing.": 2 * sigma / mean,
            "the smallest eigenvalue of K is not asked for: the ridge should be enough for any K, as in line 4.": (
                edge - np.linalg.eigvalsh(k)[0]
            )
            / mean,
            "from edge to edge is twice as much; only the lower edge counts.": 2 * edge / mean,
            "σ is the standard deviation; it is not squared here.": 2 * sigma**2 * m**0.5 / mean,
            "it is relative to the mean of the diagonal, not to that of all entries.": edge / k.mean(),
        },
    )
    return "A ridge that is safe for any kernel; a kernel with room at the bottom needs less"


written(
    "13.5",
    "mended, but not restored",
    rubric=(
        "the ridge lifts all eigenvalues by the same amount, but the modes below 2σ√m stay those of the noise;",
        "conversion changes no entry; refinement solves the rounded problem more exactly, unless the residual has the "
        "exact entries;",
        "2^16 = 65536 times smaller: only digits of the entries help.",
    ),
    numbers=(
        "65536",
        "65,536",
        "65 536",
        "65{,}536",
        "2^16",
        "2^{16}",
        "2**16",
        "2¹⁶",
        "2^-16",
        "2^(-16)",
        "2^{-16}",
        "2**-16",
        "2⁻¹⁶",
    ),
    asked="how many times smaller is σ with 24 bits in place of 8?",
    minutes=10,
    difficulty=3,
    section="Remedies, each measured",
    hints=(
        "What does the ridge know of E? And what does a conversion to float64 do to an entry?",
        "Look at one mode with an exact eigenvalue far below 2σ√m: its eigenvalue and eigenvector, rounded, with and "
        "without the ridge.",
        "K + E + δ has the eigenvectors of K + E. The ridge makes 1/λ harmless, no more. σ goes with 2^(−b).",
    ),
)

written(
    "13.6",
    "a kernel for bfloat16",
    rubric=(
        "a kernel of one's own with its critical size and its accuracy beside those of the three;",
        "what is given up: a heavier tail is a rougher kernel, or a part that only knows the training images;",
        "a kernel that always survives: eigenvalues that stay above 2σ√m, such as one with a ridge that grows as √m.",
    ),
    minutes=40,
    difficulty=4,
    section="The tails of real kernels",
    hints=(
        "What makes the last eigenvalues large: a smooth kernel or a rough one?",
        "Rough activations (sign, abs, ReLU), large σ_w, more depth, no pooling, no bias: all make different images "
        "less alike. At the end of this road each image is like itself alone.",
        "Try ntk.Sign() with kernel='nngp', deep networks in the chaotic phase, and K + δ for a δ of your choice.",
    ),
)
