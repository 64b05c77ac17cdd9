"""Checks of chapter 06, the edge of chaos."""

import functools

from course import expect
from course.tasks import task, written


def _gauss():
    """A trapezoid rule for E[g(Z)], independent of the learner's quadrature; for analytic g it is exact to 1e-12."""
    import numpy as np

    z = np.linspace(-9, 9, 181)
    weights = np.exp(-(z**2) / 2)
    return z, weights / weights.sum()


def _shifted_tanh(shift):
    """φ for the learner, and φ, φ', φ'' in NumPy: neither odd nor zero at zero."""
    import jax.numpy as jnp
    import numpy as np

    def phi(x):
        return jnp.tanh(x + shift)

    def numbers(u):
        t = np.tanh(u + shift)
        return t, 1 - t**2, -2 * t * (1 - t**2)

    return phi, numbers


def _means(numbers, q):
    """E[φ²], E[φ'²], E[φφ''], E[φ]² and E[φ']² at each of the variances q."""
    import numpy as np

    z, weights = _gauss()
    value, slope, bend = numbers(np.sqrt(q)[:, None] * z)
    return [
        a @ weights for a in (value**2, slope**2, value * bend)
    ] + [(value @ weights) ** 2, (slope @ weights) ** 2]  # fmt: skip


@task(
    "06.1",
    "variance_step",
    minutes=20,
    difficulty=2,
    section="The variance map",
    hints=(
        "For one number q, write V(q) as a function of q alone. Then `jax.value_and_grad` gives both numbers, and "
        "`jax.vmap` does so for many q.",
        "V(q) = b_std**2 + w_std**2 * sum_k w_k phi(sqrt(q) z_k)**2 with weights that sum to one; its derivative by "
        "hand is w_std**2 * E[phi phi' Z] / sqrt(q) = w_std**2 * E[phi'**2 + phi phi''].",
        "weights = weights / weights.sum(); step = lambda q: b_std**2 + w_std**2 * jnp.sum(weights * "
        "phi(jnp.sqrt(q) * z)**2); return jax.vmap(jax.value_and_grad(step))(q).",
    ),
)
def _(answer, rng):
    import numpy as np

    m = expect.one_of(rng, 5, 7)
    phi, numbers = _shifted_tanh(rng.uniform(0.3, 0.6))
    w, b, q = 1.7, 0.6, rng.uniform(0.3, 2.0, size=m)
    values, slopes, bends, mean_squared, _ = _means(numbers, q)
    z, weights = _gauss()
    unscaled = np.array([numbers(one * z)[0] ** 2 @ weights for one in q])
    physicists = _means(numbers, q / 2)[0]
    with expect.without("variance_map", "chi"):
        pair = expect.call(answer, phi, w, b, q)
    right = (b**2 + w**2 * values, w**2 * (slopes + bends))
    got_v, got_chi = expect.parts(pair, ("V", "chi_q"), order=right)
    got_v = expect.array(got_v, "V", shape=(m,), axes="M")
    expect.close(
        got_v,
        b**2 + w**2 * values,
        "V",
        rtol=1e-3,
        slips={
            "σ_w stands there without its square.": b**2 + w * values,
            "σ_b stands there without its square.": b + w**2 * values,
            "neither σ_w nor σ_b is squared there.": b + w * values,
            "the bias's variance σ_b² is missing.": w**2 * values,
            "σ_w² is applied to the bias as well.": w**2 * (b**2 + values),
            "the activation sees q Z; a Gaussian of variance q is √q Z.": b**2 + w**2 * unscaled,
            "E[φ]² was taken; it is the mean of the square, E[φ²].": b**2 + w**2 * mean_squared,
            "the quadrature's weights do not sum to one.": b**2 + w**2 * values * np.sqrt(2 * np.pi),
            "these are the nodes for the weight e^(-z²), not e^(-z²/2).": b**2 + w**2 * physicists,
        },
    )
    got_chi = expect.array(got_chi, "chi_q", shape=(m,), axes="M")
    expect.close(
        got_chi,
        w**2 * (slopes + bends),
        "chi_q",
        rtol=2e-3,
        slips={
            "that is χ_1 = σ_w² E[φ'²], the slope of the correlation map. In V'(q) there is E[φφ''] as well.": w**2
            * slopes,
            "the factor σ_w² is missing.": slopes + bends,
            "σ_w stands there without its square.": w * (slopes + bends),
            "that is the derivative with respect to √q; the chain rule gives a further 1/(2√q).": w**2
            * (slopes + bends)
            * 2
            * np.sqrt(q),
            "that is E[φφ''] alone.": w**2 * bends,
            "that is the quotient V(q)/q, not the slope of V.": (b**2 + w**2 * values) / q,
            "that is the derivative with respect to log q, q V'(q).": w**2 * (slopes + bends) * q,
            "it is one slope for all q; each q has its own.": np.full(m, got_chi.mean())
            if np.ptp(got_chi) < 1e-6
            else np.nan * q,
        },
    )


@task(
    "06.2",
    "critical_line",
    minutes=20,
    difficulty=2,
    section="The critical line",
    hints=(
        "You have two equations for two unknowns, and q is given. Which of the two contains only one of the unknowns?",
        "χ_1 = σ_w² E[φ'(√q Z)²] = 1 gives σ_w². Put it into q = σ_b² + σ_w² E[φ(√q Z)²] and solve for σ_b².",
        "w_var = 1 / E[phi'**2]; b_var = q - w_var * E[phi**2]; both means at sqrt(q) z. Slopes of an elementwise "
        "function: jax.jvp(phi, (u,), (jnp.ones_like(u),)) gives phi(u) and phi'(u).",
    ),
)
def _(answer, rng):
    import jax
    import numpy as np

    m = expect.one_of(rng, 5, 7)
    phi, numbers = _shifted_tanh(rng.uniform(0.15, 0.25))  # more, and b_var has a zero
    q = np.concatenate([[0.8, 1.5], rng.uniform(0.8, 1.5, size=m - 2)])
    values, slopes, bends, mean_squared, slope_squared = _means(numbers, q)
    at_one = _means(numbers, np.ones(m))
    of_tanh = _means(_shifted_tanh(0.0)[1], q)[1]
    w, b = 1 / slopes, q - values / slopes
    with expect.without("critical_point", "edge_of_chaos"):
        pair = expect.call(answer, phi, q)
    got_w, got_b = expect.parts(pair, ("w_var", "b_var"), order=(w, b))
    got_w = expect.array(got_w, "w_var", shape=(m,), axes="M")
    expect.close(
        got_w,
        w,
        "w_var",
        rtol=1e-3,
        slips={
            "that is σ_w; the variance σ_w² is wanted.": np.sqrt(w),
            "that is E[φ'²]; χ_1 = 1 means that σ_w² times it is one.": slopes,
            "that makes χ_q one, with E[φφ''] in it; the edge is χ_1 = σ_w² E[φ'²] = 1.": 1 / (slopes + bends),
            "E[φ'] was squared; χ_1 has the mean of the square, E[φ'²].": 1 / slope_squared,
            "the means are taken at variance 1 for each q; χ_1 belongs to the fixed point q.": 1 / at_one[1],
            "that is q/E[φ²], the fixed point without a bias; χ_1 = 1 is not used.": q / values,
            "the slope is that of tanh; take that of `phi`, by JAX.": 1 / of_tanh,
        },
    )
    got_b = expect.array(got_b, "b_var", shape=(m,), axes="M")
    expect.close(
        got_b,
        b,
        "b_var",
        rtol=1e-3,
        slips={
            "that is σ_b; the variance σ_b² is wanted.": np.sqrt(np.abs(b)),
            "σ_w² is missing in front of E[φ²].": q - values,
            "σ_w stands in front of E[φ²] without its square.": q - np.sqrt(w) * values,
            "σ_w² was squared once more: w_var is a variance already.": q - w**2 * values,
            "E[φ²] is divided by q: the activation's variance is meant as it is.": q - w * values / q,
            "E[φ]² was taken; it is the mean of the square, E[φ²].": q - w * mean_squared,
        },
    )
    got_b = expect.parts(expect.call(answer, jax.nn.softplus, q), ("w_var", "b_var"))[1]
    got_b = expect.array(got_b, "b_var", shape=(m,), axes="M")
    expect.that(
        bool(np.all(got_b < 0)),
        "softplus has no edge of chaos: b_var should come out negative for it, and be returned as it is.",
    )
    return "Negative for softplus: no edge"


@functools.cache
def _depth_scales(w_std):
    """The depth scales of tanh, in numbers: of the variance, of the correlation, and χ_1."""
    import jax

    import ntklib as ntk

    with jax.enable_x64(True):
        scales = ntk.depth_scales(ntk.Tanh(), w_std, 0.05**0.5)
        return float(scales.xi_q), float(scales.xi_c), float(scales.chi_1)


@task(
    "06.3",
    "meeting and parting",
    minutes=15,
    difficulty=3,
    section="Depth scales",
    hints=(
        "In both cases δ = 1 − c is multiplied by the same factor in each layer. Which factor is that near c = 1? "
        "Is it the same at the limit c* of the chaotic phase?",
        "First: δ falls like exp(−l/ξ_c), from 0.5 to 0.01. Second: near c = 1 it grows like χ_1^l, from 1e-6 to 0.1; "
        "ξ_c says how soon the *end* is reached, once there.",
        "layers = (xi_c * log(0.5 / 0.01), log(0.1 / 1e-6) / log(chi_1)), natural logarithms, each with its "
        "network's numbers.",
    ),
)
def _(answer, rng):
    import numpy as np

    xi_q, xi, _ = _depth_scales(1.1)
    _, xi_far, chi = _depth_scales(2.2)
    fall, rise, growth = float(np.log(50)), float(np.log(1e5)), float(np.log(chi))
    meet, part = expect.parts(answer, ("layers until they meet", "layers until they part"))
    both = [expect.finite(value, "each of the two") for value in (meet, part)]
    swapped = abs(both[0] - rise / growth) < 0.04 * rise / growth and abs(both[1] - xi * fall) < 0.04 * xi * fall
    expect.that(not swapped, "the two numbers are swapped: until they meet first, then until they part.")
    expect.number(
        meet,
        xi * fall,
        "the number of layers until they meet",
        rtol=0.04,
        slips={
            "that is ξ_c, after which δ has fallen by a factor e only.": xi,
            "that is six ξ_c, the border of training; here δ has to fall by a factor of 50.": 6 * xi,
            "take the natural logarithm, δ falls by e, not by 10, in each ξ_c; and the ordered network's numbers.": xi
            * np.log10(50),
            "ξ_q is the scale of the variance, which is at rest here.": xi_q * fall,
            "a fall by 100 was asked; δ starts at 0.5.": xi * np.log(100),
            "a depth scale is a length; it multiplies the logarithm.": fall / xi,
        },
    )
    expect.number(
        part,
        rise / growth,
        "the number of layers until they part",
        rtol=0.04,
        slips={
            "ξ_c governs how soon c* is reached; neighbours part with the slope at c = 1, which is χ_1.": xi_far * rise,
            "take the natural logarithm both times, or log10 both times.": 5 / growth,
            "χ_1 is a factor; its logarithm counts the layers.": rise / chi,
            "log χ_1 is χ_1 − 1 only near 1.": rise / (chi - 1),
            "δ starts at 1e-6 and ends at 0.1: five powers of ten, not six.": np.log(1e6) / growth,
            "that is the distance |h − h'|, whose square is proportional to δ: half the logarithm.": rise / growth / 2,
        },
    )
    return "Compare with the crossings in the figure below"


@task(
    "06.4",
    "a wrong phase diagram",
    minutes=20,
    difficulty=3,
    section="The critical line",
    hints=(
        "Go through the lines with the units in mind: which names hold variances, and which hold standard deviations? "
        "Then ask, of each mean, at which variance it is taken.",
        "The arguments are variances already, so nothing is squared. And χ_1 decides the phase at the fixed point "
        "q = V(q), not after one step from q = 1.",
        "q = jnp.ones((W, B)); repeat a few hundred times: q = b + w * mean(tanh², q); then w * mean((1 − tanh²)², q). "
        "jax.lax.fori_loop(0, 500, lambda _, q: ..., q) does not unroll.",
    ),
)
def _(answer, rng):
    import numpy as np

    line, function = expect.parts(answer, ("wrong_line", "chi_1_grid"))
    why = "is right. Check what it uses: a variance or its root? at which q?"
    expect.line(line, 2, 6, {i: f"line {i} {why}" for i in (1, 3, 4, 5, 6)})
    z, weights = _gauss()

    def mean(f, q):
        return f(np.sqrt(q)[..., None] * z) @ weights

    def chi(w_var, b_var, *, power=1, steps=300, outer=1, bias=1, inner=2):
        w, b = w_var[:, None], b_var[None, :] ** bias
        q = np.ones((len(w_var), len(b_var)))
        for _ in range(steps):
            q = b + w**power * mean(lambda u: np.tanh(u) ** 2, q)
        return w**outer * mean(lambda u: (1 - np.tanh(u) ** 2) ** inner, q)

    def slip(**change):
        return lambda: chi(w_var, b_var, **change)

    def too_few():
        """What the answer gives, if that is a fixed point half way."""
        halfway = [steps for steps in range(2, 40) if np.abs(chi(w_var, b_var, steps=steps) - got).max() < 1e-4]
        return got if halfway and np.abs(got - want).max() > 2e-3 * want.max() else np.nan * got

    shape = expect.one_of(rng, (3, 5), (6, 3))
    w_var, b_var = rng.uniform(0.8, 2.5, size=shape[0]), rng.uniform(0.02, 0.4, size=shape[1])
    w_var[1], b_var[1] = 1.0, 0.01  # near a critical point of the variance map, where the first steps change much
    with expect.without("chi", "phase", "depth_scales", "fixed_point", "fixed_points"):
        got = expect.call(function, w_var, b_var)
    got, want = expect.array(got, shape=shape, axes="W B"), chi(w_var, b_var)
    expect.close(
        got,
        want,
        rtol=2e-3,
        slips={
            "this is still the flawed function.": slip(power=2, steps=1),
            "the power is mended, but χ_1 is taken after one step from q = 1; it belongs to the fixed point.": slip(
                steps=1
            ),
            "q is at rest now, but w_var is a variance already: it is squared in V(q).": slip(power=2),
            "w_var is squared in the last line: it is a variance already.": slip(outer=2),
            "the root of w_var is taken in the variance map; it is a variance, which is what V(q) needs.": slip(
                power=0.5
            ),
            "b_var is squared: it is a variance already.": slip(bias=2),
            "the variance is left at q = 1; χ_1 belongs to the fixed point of V.": slip(steps=0),
            "that is E[φ'²] without σ_w².": slip(outer=0),
            "the variance is not at rest yet: a few steps are too few, take a few hundred.": too_few,
            "that is σ_w² E[φ']; χ_1 has the mean of the square, E[φ'²].": slip(inner=1),
        },
    )
    return "Now the edge goes through (1.761, 0.05)"


written(
    "06.5",
    "the edge of GELU",
    rubric=(
        "χ_q > 1: the fixed point of the variance repels, 9.8 % a layer, ten times in 25 layers;",
        "finite width makes an error of order n^-1/2 in each layer, so that exact inputs do not help;",
        "tanh has φφ'' ≤ 0, so that χ_q < 1; a remedy: layer norm, a larger bias, skips, fewer layers.",
    ),
    minutes=10,
    difficulty=3,
    section="The critical line",
    hints=(
        "χ_q is the slope of the variance map at its fixed point. What does a slope above one do to a small error?",
        "How large is the error that a network of width n makes in the first layer, and how many layers does it take "
        "to grow by a factor of ten? Where does the variance go, on either side?",
        "Error about n^-1/2, growth 1.098 per layer, log(10)/log(1.098) = 25 layers. Below: an attracting fixed point "
        "with χ_1 < 1. Above: infinity. For tanh φφ'' is negative. What fixes a variance by force?",
    ),
)

written(
    "06.6",
    "your own activation",
    rubric=(
        "predicted before computing: is there a line, where does it start, is the variance stable on it;",
        "χ_q and β computed, and compared with the prediction;",
        "the depth at which both networks have lost the same correlation, from the two β.",
    ),
    minutes=40,
    difficulty=4,
    section="The critical line",
    hints=(
        "Three numbers tell most: φ(0), φ'(0), and the sign of φφ'' near zero.",
        "The line starts at σ_w = 1/|φ'(0)| if φ(0) = 0. χ_q − χ_1 = σ_w² E[φφ''] decides about stability, and "
        "β = σ_w² q E[φ''²] about the rate 2/(βl).",
        "ntk.critical_point(ntk.Elementwise(fn), b_std) has all of it: w_std, q, chi_q, beta. Compare β with that "
        "of tanh at the same b_std.",
    ),
)
