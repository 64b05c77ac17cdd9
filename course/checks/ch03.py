"""Chapter 03: a dual, a step of the recursion, the spread over networks, a wrong kernel, an activation of one's own."""

import functools

from course import expect
from course.tasks import task, written


def _covariances(rng, n, m, d=6):
    """q12 [n, m], q1 [n], q2 [m] of random inputs, scaled away from 1."""
    x1, x2 = 0.9 * rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d))
    return x1 @ x2.T, (x1**2).sum(1), (x2**2).sum(1)


@task(
    "03.1",
    "abs_dual",
    minutes=15,
    difficulty=3,
    section="Duals in closed form",
    hints=(
        "Divide the circle of the chapter into its four sectors, by the signs of u and v. In each, |u| |v| is a "
        "product of two ReLUs of u or −u and v or −v; turning v into −v turns the angle θ into π − θ.",
        "With R(θ) = (sin θ + (π − θ) cos θ)/2π: E[|u||v|] = √(q1 q2) · 2 [R(θ) + R(π − θ)]. The signs agree on a "
        "share 1 − θ/π of the circle and give +1 there, and −1 on the rest.",
        "angle = jnp.arccos(jnp.clip(q12 / scale, -1, 1)) with scale = jnp.sqrt(q1[:, None] * q2[None, :]); "
        "values = 2/π · scale · (sin(angle) + (π/2 − angle) · cos(angle)); slopes = 1 − (something) · angle.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m = expect.one_of(rng, (3, 5), (7, 6))
    q12, q1, q2 = _covariances(rng, n, m)
    with expect.without("duals.abs", "duals.expectation", "duals.quadrature"):
        pair = expect.call(answer, q12, q1, q2)
    scale = np.sqrt(np.outer(q1, q2))
    cosine = q12 / scale
    angle = np.arccos(cosine)
    relu = scale * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    mixed = scale * (np.sin(angle) - angle * cosine) / (2 * np.pi)  # relu(u) relu(−v)
    relu_slopes, mixed_slopes = (np.pi - angle) / (2 * np.pi), angle / (2 * np.pi)
    names = ("E[|u||v|]", "E[sign(u) sign(v)]")
    values, slopes = expect.parts(pair, names, order=(2 * (relu + mixed), 2 * (relu_slopes - mixed_slopes)))
    values = expect.array(values, "the first, E[|u||v|],", shape=(n, m), axes="N M")
    slopes = expect.array(slopes, "the second, E[sign(u) sign(v)],", shape=(n, m), axes="N M")
    expect.close(
        values,
        2 * (relu + mixed),
        "E[|u||v|]",
        rtol=1e-4,
        slips={
            "this is the dual of ReLU. |u||v| is not zero where u or v is negative.": relu,
            "only the two quadrants in which u and v have the same sign are counted; |u||v| is positive in the "
            "other two as well.": 2 * relu,
            "this is E[uv] = q12 in disguise: in the quadrants of opposite sign |u||v| is −uv, so that term comes "
            "with a plus.": 2 * (relu - mixed),
            "it lacks the scale √(q1 q2): the variances are not 1.": 2 * (relu + mixed) / scale,
            "it is scaled with q1 q2; one root is missing.": 2 * (relu + mixed) * scale,
            "the angle π/2 − θ is added as it is; it comes multiplied with the correlation.": 2
            / np.pi
            * scale
            * (np.sin(angle) + np.pi / 2 - angle),
        },
    )
    expect.close(
        slopes,
        2 * (relu_slopes - mixed_slopes),
        "E[sign(u) sign(v)]",
        rtol=1e-4,
        slips={
            "these are the slopes of ReLU, which are 0 and 1. Those of |x| are −1 and 1.": relu_slopes,
            "this is the share of the circle on which the signs agree. Where they differ the product is −1, not 0.": 2
            * relu_slopes,
            "every quadrant counts with a plus here. sign(u) sign(v) is −1 where the signs differ.": np.ones((n, m)),
            "it is scaled with √(q1 q2), but signs do not know the variances.": 2
            * scale
            * (relu_slopes - mixed_slopes),
        },
    )
    q = 0.3 + rng.random(50)
    root = np.sqrt(np.outer(q, q)).astype(np.float32) * (1 + 3e-7)  # a correlation just above 1, as rounding makes it
    first, second = expect.parts(expect.call(answer, root, q, q), ("E[|u||v|]", "E[sign sign]"))
    both = np.stack([np.asarray(first, float), np.asarray(second, float)])
    expect.that(
        np.isfinite(both).all(),
        "for two equal inputs it gives nan: rounding makes the correlation 1.0000001 there, and the arccos of that "
        "does not exist. Clip it.",
    )
    expect.that(
        np.abs(np.diagonal(both[0]) - q).max() < 2e-3 * q.max() and np.abs(np.diagonal(both[1]) - 1).max() < 2e-3,
        "for u = v it should give E[u²] = q and E[sign²] = 1. Is the correlation clipped too far away from 1?",
    )


@functools.cache
def _duals():
    """The duals that are handed over: one function each, so that they compile once for each shape."""
    import jax

    from ntklib import duals

    return jax.jit(duals.erf), jax.jit(duals.gelu)


@task(
    "03.2",
    "ntk_layer",
    minutes=10,
    difficulty=2,
    section="The recursion",
    hints=(
        "New layer, plus older layers seen through the slopes. Both expectations of the dual are over the covariance "
        "of the layer below.",
        "Σ' = σ_w² E[φφ] + σ_b² and Θ' = Σ' + σ_w² E[φ'φ'] Θ, entry by entry. The dual wants q1 as a column [N, 1] and "
        "q2 as a row [1, M].",
        "values, slopes = dual(nngp, q1[:, None], q2[None, :]); new = w_std**2 * values + b_std**2; then return new "
        "and new plus one more product.",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m = expect.one_of(rng, (3, 5), (7, 6))
    nngp, q1, q2 = _covariances(rng, n, m)
    tangent = nngp + rng.normal(size=nngp.shape)
    w, b = 1.3 + 0.2 * rng.random(), 0.4 + 0.2 * rng.random()
    before = [np.broadcast_to(q, (n, m)) for q in (q1[:, None], q2[None, :])]

    def expectations(dual, *q):
        return [np.asarray(e, np.float64) for e in dual(*q)]

    for dual in _duals():
        # All arguments have one shape, so that one program serves for the slip below as well.
        values, slopes = expectations(dual, nngp, *before)
        new = w**2 * values + b**2

        def of_correlations(part, dual=dual):
            return expectations(dual, nngp / np.sqrt(np.outer(q1, q2)), *before)[part]

        def at_new_sigma_alone(dual=dual, new=new):
            """Θ of somebody who updates Σ first."""
            return new + w**2 * expectations(dual, new, *before)[1] * tangent

        def at_new_sigma(dual=dual, new=new):
            """Θ of somebody who updates Σ and the variances first."""
            after = [w**2 * expectations(dual, q, q, q)[0] + b**2 for q in before]
            return new + w**2 * expectations(dual, new, *after)[1] * tangent

        got = expect.call(answer, nngp, tangent, q1, q2, dual, w, b)
        sigma, theta = expect.parts(got, ("Σ^{l+1}", "Θ^{l+1}"), order=(new, new + w**2 * slopes * tangent))
        sigma = expect.array(sigma, "the first, Σ,", shape=(n, m), axes="N M")
        theta = expect.array(theta, "the second, Θ,", shape=(n, m), axes="N M")
        expect.close(
            sigma,
            new,
            "Σ",
            rtol=1e-4,
            slips={
                "σ_w enters squared: Σ is a variance.": w * values + b**2,
                "σ_b enters squared: Σ is a variance.": w**2 * values + b,
                "the bias of the new layer is missing.": w**2 * values,
                "σ_w and σ_b both stand there without their squares.": w * values + b,
                "σ_w² is applied to the bias, too.": w**2 * (values + b**2),
                "that is the expectation of the slopes; Σ takes that of the values.": w**2 * slopes + b**2,
                "σ_w² Σ + σ_b² leaves the activation out.": w**2 * nngp + b**2,
                "the dual got the correlation; it takes the covariance, Σ^l as it is.": lambda part=of_correlations: (
                    w**2 * part(0) + b**2
                ),
            },
        )
        expect.close(
            theta,
            new + w**2 * slopes * tangent,
            "Θ",
            rtol=1e-4,
            slips={
                "the new layer's own contribution, Σ^{l+1}, is missing.": w**2 * slopes * tangent,
                "the older parameters' share must be multiplied with σ_w²: they act through the new weights.": new
                + slopes * tangent,
                "σ_w enters the second term squared.": new + w * slopes * tangent,
                "the second term has E[φφ] where E[φ'φ'] belongs: a gradient passes through the slope of a unit.": new
                + w**2 * values * tangent,
                "the first term is the old Σ^l. The new layer's parameters contribute the new one.": nngp
                + w**2 * slopes * tangent,
                "the bias is in the second term as well. It has no older parameters behind it.": new
                + (w**2 * slopes + b**2) * tangent,
                "it multiplies the slopes with Σ^l in place of Θ^l.": new + w**2 * slopes * nngp,
                "the slopes are added. The chain rule multiplies.": new + w**2 * slopes + tangent,
                "the activation's slopes are missing from the second term.": new + w**2 * tangent,
                "the slopes are taken at the new Σ; (u, v) has the old one, Σ^l.": at_new_sigma,
                "the slopes are taken at the new Σ, beside the old variances; (u, v) has the old Σ^l.": (
                    at_new_sigma_alone
                ),
                "only the bias of the new layer contributes; its weights do so as well, together Σ^{l+1}.": b**2
                + w**2 * slopes * tangent,
            },
        )


@task(
    "03.3",
    "spread",
    minutes=15,
    difficulty=3,
    section="The output is a Gaussian process, and a mixture before",
    hints=(
        "One layer multiplies q by a random factor with mean 1 that does not depend on q. Find its second moment; then "
        "multiply over layers.",
        "The factor is (1/n) Σ_i z_i² with z standard normal. One term has mean 1 and second moment E[z⁴] = 3. For a "
        "product of independent factors, E[q̂²]/(E q̂)² is the product of the factors' second moments.",
        "Var/mean² = (1 + v/n)**hidden_layers − 1, with v the variance of z²; take the root at the end.",
    ),
)
def _(answer, rng):
    import numpy as np

    t, deep = expect.one_of(rng, (5, 7), (6, 5))
    n = np.sort(rng.choice(np.arange(5, 60), size=t, replace=False)).astype(float)
    for h in (deep, 2, 1):
        got = expect.array(expect.call(answer, n, h), shape=(t,), axes="T")

        def root(v, h=h):
            return np.sqrt((1 + v / n) ** h - 1)

        slips = {
            "this is the variance over the squared mean; the root is missing.": root(2) ** 2,
            "5 is the variance for ReLU with σ_w² = 2. Do the same with z² in place of 2 relu(z)².": root(5),
            "E[z⁴] = 3 is the second moment of z²; the variance is that less the squared mean.": root(3),
            "this is the excess kurtosis, three times the square of what is asked.": 3 * root(2) ** 2,
            "this is the root of E[q̂²]/(E q̂)²; subtract 1 for the variance.": np.sqrt((1 + 2 / n) ** h),
            "one layer too many: the first affine layer's variance is not random.": root(2, h + 1),
            "an average of n terms has a variance 1/n of one term's, not 1/√n.": root(2 * np.sqrt(n)),
            "1 is subtracted after the root; Var/mean² is the second moment less 1, and the root comes last.": np.sqrt(
                (1 + 2 / n) ** h
            )
            - 1,
        }
        if h > 1:  # with one layer these are right
            slips |= {
                "right to leading order in 1/n only. The layers' factors multiply, that is more than a sum.": np.sqrt(
                    2 * h / n
                ),
                "one layer's spread times their number: variances add, not deviations.": h * np.sqrt(2 / n),
                "it does not depend on the number of layers: that is for one.": np.sqrt(2 / n),
                "it does not depend on the number of layers: that is for two.": root(2, 2) if h > 2 else np.nan * n,
                "that is for one layer fewer: each hidden layer brings a factor.": root(2, h - 1)
                if h > 2
                else np.nan * n,
            }
        expect.close(got, root(2), f"with {h} hidden layer{'s' if h > 1 else ''} it", rtol=1e-4, slips=slips)
    return "ReLU has 5 where |x| has 2: it needs two and a half times the width for the same spread"


def _suspect(x1, x2, layers, w, b, *, mistake):
    """The recursion for ReLU in NumPy, right or with a named mistake."""
    import numpy as np

    def values(s, scale):
        """As `duals.relu` has it also where a mistake makes a correlation larger than 1."""
        angle = np.arccos(np.clip(s / scale, -1, 1))
        return scale * (np.sin(angle) - angle * np.cos(angle)) / (2 * np.pi) + s / 2

    def slopes(s, scale):
        return (np.pi - np.arccos(np.clip(s / scale, -1, 1))) / (2 * np.pi)

    d = 1 if mistake == "no 1/d" else x1.shape[1]
    sigma = w**2 * x1 @ x2.T / d + b**2
    q1, q2 = (w**2 * (x**2).sum(1) / d + b**2 for x in (x1, x2))
    theta = sigma
    bias = 0.0 if mistake == "one bias" else b**2

    def after(q):
        return q if mistake == "q stays" else w**2 * q / (1 if mistake == "E[relu²] = q" else 2) + bias

    for _ in range(layers - 1):
        if mistake == "q first":
            q1, q2 = map(after, (q1, q2))
        scale, old = np.sqrt(np.outer(q1, q2)), sigma
        sigma = w**2 * values(old, scale) + bias
        if mistake != "q first":
            q1, q2 = map(after, (q1, q2))
        if mistake == "new Σ":
            slope = slopes(sigma, scale)
        elif mistake == "equal inputs":
            slope = 0.5
        elif mistake == "new Σ and q":
            slope = slopes(sigma, np.sqrt(np.outer(q1, q2)))
        elif mistake == "old Σ, new q":
            slope = slopes(old, np.sqrt(np.outer(q1, q2)))
        else:
            slope = slopes(old, scale)
        theta = (old if mistake == "old Σ in the sum" else sigma) + w ** (
            0 if mistake == "no σ_w²" else 2
        ) * slope * theta
    return theta


@task(
    "03.4",
    "corrected_ntk",
    minutes=15,
    difficulty=3,
    section="The recursion",
    hints=(
        "Go through the loop with the recursion beside it and ask of each symbol: of which layer is it, at the time "
        "when it is used?",
        "Both expectations, E[φφ] and E[φ'φ'], are over (u, v) ~ N(0, Σ^l), the covariance of the layer below. In the "
        "line of `slope`, which layer does `sigma` belong to?",
        "values, slopes = duals.relu(sigma, q1[:, None], q2[None, :]) in one call, before anything is replaced; then "
        "sigma, theta, q1, q2.",
    ),
)
def _(answer, rng):
    n, m, d = expect.one_of(rng, (3, 5, 6), (7, 6, 5))
    x1, x2 = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    for layers, w, b in ((1, 1.2, 0.3), (2, 1.2, 0.3), (4, 1.15 + 0.3 * rng.random(), 0.5)):
        with expect.without("Dense.kernel_map", "Serial.kernel_map"):
            got = expect.call(answer, x1, x2, layers, w, b)
        got = expect.array(got, shape=(n, m), axes="N M")
        slips = {
            "it is still the suspect's kernel: the slopes are taken at the Σ that was just replaced.": "new Σ",
            "the slopes are taken at the next layer's Σ and variances, all of one layer but of the wrong one: (u, v) "
            "belongs to the layer below.": "new Σ and q",
            "Σ is the old one, but the variances q1 and q2 are already the next layer's.": "old Σ, new q",
            "the slopes are right now, but the sum Θ = Σ + … takes the old Σ, not the new one.": "old Σ in the sum",
            "σ_w² is missing in front of the slopes: they act through the new weights.": "no σ_w²",
            "q1 and q2 are replaced before the duals are taken; these are over the layer below, Σ and q.": "q first",
            "the slope ½ is that of equal inputs; off the diagonal it depends on the angle.": "equal inputs",
            "the bias is there in the first layer only; each affine layer has one.": "one bias",
        }
        if layers > 2:  # with one hidden layer these are right
            slips |= {
                "q1 and q2 stay those of the first layer; they change with Σ.": "q stays",
                "E[relu²] = q/2: the ½ is missing where q1 and q2 are replaced.": "E[relu²] = q",
            }
        wrong = {message: _suspect(x1, x2, layers, w, b, mistake=slip) for message, slip in slips.items()}
        wrong["that has one layer too few: so many affine layers have one hidden layer less."] = _suspect(
            x1, x2, layers - 1, w, b, mistake=""
        )
        expect.close(
            got,
            _suspect(x1, x2, layers, w, b, mistake=""),
            f"the kernel of {layers} affine layer{'s' if layers > 1 else ''}",
            rtol=2e-4,
            slips=wrong
            if layers > 1
            else {
                "that has one layer too many: with one affine layer Θ = Σ.": _suspect(x1, x2, 2, w, b, mistake=""),
                "the first layer is divided by √d as well: 1/d is missing.": _suspect(
                    x1, x2, 1, w, b, mistake="no 1/d"
                ),
            },
        )


written(
    "03.5",
    "why_cross_terms_vanish",
    rubric=(
        "for i ≠ j the terms have random signs and a Θ_ij of order n^-1/2: together n^-1/2 → 0;",
        "the n terms with i = j are all positive and of order one: they make the limit;",
        "random stay the weights and f_0, a Gaussian process; the kernels are averages, and only they drive training.",
    ),
    minutes=10,
    difficulty=3,
    section="Backward: Θ, the covariance of the gradients",
    hints=(
        "For the first question count: how many terms, how large is one, and with which sign does it come? For the "
        "second, go through what there is (weights, units, kernels, the function) one by one.",
        "A sum of m terms of size s with random signs is about s √m. And Θ_ij for i ≠ j is 0 in the first layer, about "
        "n^-1/2 above.",
        "Off the diagonal: (1/n) · √(n²) · n^-1/2. On it: (1/n) · n · 1, all of one sign. The function f_0 is a draw "
        "from a Gaussian process; the kernels are averages over infinitely many units.",
    ),
)


@functools.cache
def _activation(small, which):
    """A function with a kink, neither centred nor of variance 1, E[fn²] far from 1; and the same in NumPy.

    They are few, and one function each: what integrates them compiles once.
    """
    import jax.numpy as jnp
    import numpy as np

    a, b = ((1.0, 0.6), (0.6, 0.5), (1.4, 0.45))[which]
    z, weights = _gauss()
    size = (
        (0.35 if small else 2.6) / np.sum(weights * (np.where(z > 0, a * z, 0.3 * a * z) + b * np.cos(z)) ** 2)
    ) ** 0.5
    a, b = float(size * a), float(size * b)

    def of(xp):
        return lambda z: xp.where(z > 0, a * z, 0.3 * a * z) + b * xp.cos(z)

    return of(jnp), of(np)


def _gauss():
    """Nodes and weights of E[g(Z)]."""
    import numpy as np

    z = np.linspace(-9, 9, 4001)
    weights = np.exp(-(z**2) / 2)
    return z, weights / weights.sum()


@task(
    "03.6",
    "normalised",
    minutes=20,
    difficulty=4,
    section="Quadrature and sampling",
    hints=(
        "Find E[fn(Z)²] first. Which of the dual's arguments make u and v the same standard normal variable?",
        "c = 1/√E[fn(Z)²], and E[fn(Z)²] is the first part of the dual at q12 = q1 = q2 = 1. The layer must be built "
        "from the new function, so that its values and its dual both have the c.",
        "second = duals.expectation(fn, fn, 1.0, 1.0, 1.0); then ntk.Elementwise(lambda z: ... * fn(z)) with the "
        "right power of second.",
    ),
)
def _(answer, rng):
    import jax.numpy as jnp
    import numpy as np

    import ntklib as ntk
    from ntklib import duals

    fn, in_numpy = _activation(expect.one_of(rng, True, False), int(rng.integers(3)))
    layer = expect.call(answer, fn)
    if not isinstance(layer, ntk.Elementwise):
        kind = "a function" if callable(layer) and not isinstance(layer, ntk.Layer) else type(layer).__name__
        expect.fail(f"a layer is wanted, ntk.Elementwise(...); got {kind}.")
    at = (jnp.array([1.0, 0.3]), jnp.array([1.0, 0.8]), jnp.array([1.0, 1.4]))
    points, weights = _gauss()
    second, mean = (float(weights @ in_numpy(points) ** power) for power in (2, 1))
    c, deviation = second**-0.5, (second - mean**2) ** 0.5
    z = np.linspace(-2.0, 2.5, 7)
    plain = in_numpy(z)
    got = expect.array(expect.call(layer, z), "layer(z)", shape=(7,), axes="N")
    factor = float(got @ plain / (plain @ plain)) / c
    sampled = 0.005 < abs(factor - 1) < 0.15 and np.abs(got - factor * c * plain).max() < 1e-3 * np.abs(got).max()
    expect.close(
        got,
        c * plain,
        "the layer's function",
        rtol=5e-3,
        slips={
            "fn comes back as it is. If only the dual was scaled, the finite network and its kernel no longer "
            "belong together.": plain,
            "it is divided by E[fn(Z)²]; the root is missing.": c**2 * plain,
            "it is multiplied by √E[fn(Z)²] in place of divided.": plain / c,
            "it is divided by the standard deviation of fn(Z). The second moment is meant, mean included.": plain
            / deviation,
            "the mean of |fn(Z)| is made one; E[φ(Z)²] = 1 is asked.": plain
            / float(weights @ np.abs(in_numpy(points))),
            "the constant is inside of fn; φ = c · fn.": in_numpy(c * z),
            "it is the slopes that have E[φ'²] = 1; E[φ²] = 1 is asked.": lambda: (
                plain / float(weights @ np.gradient(in_numpy(points), points) ** 2) ** 0.5
            ),
            "the quadrature's weights do not sum to one.": c * plain / (2 * np.pi) ** 0.25,
            "these are the nodes for the weight e^(-z²), not e^(-z²/2).": plain
            / float(weights @ in_numpy(points / 2**0.5) ** 2) ** 0.5,
            "the mean was taken off as well. φ = c · fn has only a factor.": (plain - mean) / deviation,
            "c is nearly right: is E[fn(Z)²] an average over random draws? Take more of them, or integrate.": got
            if sampled
            else np.nan * got,
        },
    )
    if layer.activation.closed is None:  # the library's own integrals, of the function that was just compared
        return
    right, right_slopes = (np.asarray(e, np.float64) for e in duals.quadrature(fn, *at))
    values, slopes = (np.asarray(e, np.float64) for e in layer.dual(*at))
    slips = {"the function has the factor c, but the dual is that of fn.": right}
    expect.close(values, c**2 * right, "the layer's dual, E[φφ],", rtol=5e-3, slips=slips)
    expect.close(slopes, c**2 * right_slopes, "the layer's dual, E[φ'φ'],", rtol=5e-3)
