"""Right and wrong answers to the exercises of chapter 03."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from mutations import Table, cases

import ntklib as ntk
from ntklib import duals

# ---- 03.1


def abs_dual(q12, q1, q2):
    scale = jnp.sqrt(q1[:, None] * q2[None, :])
    cosine = jnp.clip(q12 / scale, -1.0, 1.0)
    angle = jnp.arccos(cosine)
    return 2 / jnp.pi * scale * (jnp.sin(angle) + (jnp.pi / 2 - angle) * cosine), 1 - 2 * angle / jnp.pi


def abs_dual_by_arcsin(q12, q1, q2):
    scale = jnp.outer(q1, q2) ** 0.5
    rho = jnp.minimum(jnp.maximum(q12 / scale, -1), 1)
    slope = 2 / jnp.pi * jnp.arcsin(rho)
    return 2 / jnp.pi * scale * jnp.sqrt(1 - rho**2) + q12 * slope, slope


def abs_dual_unclipped(q12, q1, q2):
    scale = jnp.sqrt(q1[:, None] * q2[None, :])
    angle = jnp.arccos(q12 / scale)
    values = 2 / jnp.pi * scale * (jnp.sin(angle) + (jnp.pi / 2 - angle) * jnp.cos(angle))
    return values, 1 - 2 * angle / jnp.pi


def clipped_too_soon(q12, q1, q2):
    scale = jnp.sqrt(q1[:, None] * q2[None, :])
    return abs_dual_unclipped(jnp.clip(q12, -0.99 * scale, 0.99 * scale), q1, q2)


def relu_dual(q12, q1, q2):
    return duals.relu(q12, q1[:, None], q2[None, :])


def with_(values=None, slopes=None):
    """`abs_dual` with one of its parts replaced: functions of (right part, scale, angle, q12)."""

    def answer(q12, q1, q2):
        scale = jnp.sqrt(q1[:, None] * q2[None, :])
        angle = jnp.arccos(jnp.clip(q12 / scale, -1, 1))
        v, s = abs_dual(q12, q1, q2)
        return values(v, scale, angle, q12) if values else v, slopes(s, scale, angle, q12) if slopes else s

    return answer


# ---- 03.2


def ntk_layer(nngp, ntk, q1, q2, dual, w_std, b_std):
    values, slopes = dual(nngp, q1[:, None], q2[None, :])
    new = w_std**2 * values + b_std**2
    return new, new + w_std**2 * slopes * ntk


def ntk_layer_by_loops(nngp, ntk, q1, q2, dual, w_std, b_std):
    def entry(s, t, a, b):
        e, d = dual(s, a, b)
        return (w_std * w_std) * e + b_std * b_std, (w_std * w_std) * (e + d * t) + b_std * b_std

    over_columns = jax.vmap(entry, in_axes=(0, 0, None, 0))
    return jax.vmap(over_columns, in_axes=(0, 0, 0, None))(nngp, ntk, q1, q2)


def layer(sigma, theta):
    """An answer from Σ'(values, slopes, w, b) and Θ'(Σ', values, slopes, w, b, old Σ, old Θ)."""

    def answer(nngp, ntk, q1, q2, dual, w_std, b_std):
        values, slopes = dual(nngp, q1[:, None], q2[None, :])
        new = sigma(values, slopes, w_std, b_std)
        return new, theta(new, values, slopes, w_std, b_std, nngp, ntk)

    return answer


def right_sigma(values, slopes, w, b):
    return w**2 * values + b**2


def right_theta(new, values, slopes, w, b, nngp, ntk):
    return new + w**2 * slopes * ntk


def one_set_of_variances(nngp, ntk, q1, q2, dual, w_std, b_std):
    values, slopes = dual(nngp, q1[:, None], q1[:, None])
    new = w_std**2 * values + b_std**2
    return new, new + w_std**2 * slopes * ntk


# ---- 03.3


def spread(n, hidden_layers):
    return jnp.sqrt((1 + 2 / n) ** hidden_layers - 1)


def spread_by_loop(n, hidden_layers):
    second = jnp.ones_like(n)
    for _ in range(hidden_layers):
        second = second * (3 * n + n * (n - 1)) / n**2
    return (second - 1) ** 0.5


# ---- 03.4


def deep_ntk(x1, x2, affine_layers, w_std, b_std, *, mistake=""):
    d = x1.shape[1]
    sigma = w_std**2 * x1 @ x2.T / d + b_std**2
    q1, q2 = (w_std**2 * jnp.sum(x**2, axis=1) / d + b_std**2 for x in (x1, x2))
    theta = sigma
    bias = 0.0 if mistake == "one bias" else b_std**2
    for _ in range(affine_layers - (mistake != "one layer too many")):
        new = [w_std**2 * q / (1 if mistake == "no half" else 2) + bias for q in (q1, q2)]
        old, before = sigma, (q1[:, None], q2[None, :])
        values, slopes = duals.relu(
            sigma, *((new[0][:, None], new[1][None]) if mistake == "variances first" else before)
        )
        sigma = w_std**2 * values + bias
        q1, q2 = (q1, q2) if mistake == "variances kept" else new
        after = (q1[:, None], q2[None, :])
        if mistake == "slope ½":
            slopes = 0.5
        if mistake == "no σ_w²":
            slopes = slopes / w_std**2
        if mistake == "suspect":
            slopes = duals.relu(sigma, *before)[1]
        if mistake == "all of the next layer":
            slopes = duals.relu(sigma, *after)[1]
        if mistake == "variances of the next layer":
            slopes = duals.relu(old, *after)[1]
        theta = (old if mistake == "old sum" else sigma) + w_std**2 * slopes * theta
    return theta


def by_the_library(x1, x2, affine_layers, w_std, b_std):
    """Layers of the library; no recursion of one's own."""
    k = ntk.Kernel.from_inputs(x1, x2)
    dense = ntk.Dense(x1.shape[1], x1.shape[1], w_std=w_std, b_std=b_std, rngs=ntk_rngs())
    k = dense.kernel_map(k)
    for _ in range(affine_layers - 1):
        k = dense.kernel_map(ntk.Relu().kernel_map(k))
    return k.ntk


def in_numpy(x, z, number_of_layers, s_w, s_b):
    """Under other names, entry by entry."""
    x, z = np.asarray(x, float), np.asarray(z, float)
    out = np.zeros((len(x), len(z)))
    for i, a in enumerate(x):
        for j, b in enumerate(z):
            s, p, q = (s_w**2 * (u @ v) / len(a) + s_b**2 for u, v in ((a, b), (a, a), (b, b)))
            t = s
            for _ in range(number_of_layers - 1):
                angle = math.acos(max(-1.0, min(1.0, s / math.sqrt(p * q))))
                e = math.sqrt(p * q) * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
                s, p, q = (s_w**2 * v + s_b**2 for v in (e, p / 2, q / 2))
                t = s + s_w**2 * (1 - angle / math.pi) / 2 * t
            out[i, j] = t
    return out


def abs_by_relu(q12, q1, q2):
    """|x| = relu(x) + relu(−x), from the dual of ReLU."""
    v1, s1 = duals.relu(q12, q1[:, None], q2[None, :])
    v2, s2 = duals.relu(-q12, q1[:, None], q2[None, :])
    return [2 * (v1 + v2), 2 * (s1 - s2)]


def abs_in_numpy(covariance, left, right):
    scale = np.sqrt(np.outer(left, right))
    angle = np.arccos(np.clip(np.asarray(covariance) / scale, -1, 1))
    return np.stack([2 / np.pi * scale * (np.sin(angle) + (np.pi / 2 - angle) * np.cos(angle)), 1 - 2 * angle / np.pi])


def abs_by_the_library(q12, q1, q2):
    return duals.abs(q12, q1[:, None], q2[None, :])


def layer_in_float64(S, T, v1, v2, expectations, s_w, s_b):
    e, d = (np.asarray(part, np.float64) for part in expectations(S, v1.reshape(-1, 1), v2.reshape(1, -1)))
    return s_b**2 + s_w**2 * e, s_b**2 + s_w**2 * (e + d * np.asarray(T, np.float64))


def at_new_sigma(nngp, ntk, q1, q2, dual, w, b):
    values, _ = dual(nngp, q1[:, None], q2[None, :])
    new = w**2 * values + b**2
    p1, p2 = (w**2 * dual(q, q, q)[0] + b**2 for q in (q1, q2))
    return new, new + w**2 * dual(new, p1[:, None], p2[None, :])[1] * ntk


def ntk_rngs():
    from flax import nnx

    return nnx.Rngs(0)


def mistaken(mistake):
    return lambda x1, x2, layers, w, b: deep_ntk(x1, x2, layers, w, b, mistake=mistake)


# ---- 03.6


def normalised(fn):
    c = duals.expectation(fn, fn, 1.0, 1.0, 1.0) ** -0.5
    return ntk.Elementwise(lambda z: c * fn(z))


def normalised_by_gauss_hermite(fn):
    z, w = np.polynomial.hermite_e.hermegauss(80)
    second = np.sum(w * np.asarray(fn(jnp.asarray(z))) ** 2) / np.sum(w)
    return ntk.Elementwise(lambda x: fn(x) / float(second) ** 0.5)


def moment(fn):
    return ntk.Elementwise(fn).dual(1.0, 1.0, 1.0)[0]


def mean_of(fn):
    return duals.expectation(fn, jnp.ones_like, 1.0, 1.0, 1.0)


def only_the_dual(fn):
    def dual(q12, q1, q2):
        values, slopes = duals.quadrature(fn, q12, q1, q2)
        return values / moment(fn), slopes / moment(fn)

    return ntk.Elementwise(fn, dual)


def only_the_function(fn):
    c = moment(fn) ** -0.5
    return ntk.Elementwise(lambda z: c * fn(z), lambda *q: duals.quadrature(fn, *q))


def scaled_by_deviation(fn):
    c = (moment(fn) - mean_of(fn) ** 2) ** -0.5
    return ntk.Elementwise(lambda z: c * fn(z))


def standardised(fn):
    c, m = (moment(fn) - mean_of(fn) ** 2) ** -0.5, mean_of(fn)
    return ntk.Elementwise(lambda z: c * (fn(z) - m))


def arcsine_alone(value, scale, angle, q12):
    return 2 / jnp.pi * scale * (jnp.sin(angle) + jnp.pi / 2 - angle)


def of_correlations(nngp, ntk, q1, q2, dual, w_std, b_std):
    c = nngp / jnp.sqrt(q1[:, None] * q2[None, :])
    return ntk_layer(c, ntk, q1, q2, dual, w_std, b_std)


def at_new_sigma_alone(nngp, ntk, q1, q2, dual, w, b):
    new = w**2 * dual(nngp, q1[:, None], q2[None, :])[0] + b**2
    return new, new + w**2 * dual(new, q1[:, None], q2[None, :])[1] * ntk


def scaled_by(mean):
    """A layer c·fn with 1/c² = mean(fn)."""

    def answer(fn):
        c = float(mean(fn)) ** -0.5
        return ntk.Elementwise(lambda z: c * fn(z))

    return answer


def inside(fn):
    c = float(moment(fn)) ** -0.5
    return ntk.Elementwise(lambda z: fn(c * z))


def by_rule(rule, normalize):
    z, w = rule(100)
    return scaled_by(lambda fn: np.sum((w / w.sum() if normalize else w) * np.asarray(fn(jnp.asarray(z))) ** 2))


TABLES = [
    Table(
        "03.1",
        right={
            "by the angle": abs_dual,
            "by the arcsine": abs_dual_by_arcsin,
            "by the dual of ReLU": abs_by_relu,
            "NumPy": abs_in_numpy,
        },
        wrong={
            "relu": (relu_dual, "the dual of ReLU"),
            "two quadrants only": (
                with_(values=lambda v, s, t, q: s * (jnp.sin(t) + (jnp.pi - t) * jnp.cos(t)) / jnp.pi),
                "only the two quadrants",
            ),
            "signs kept": (with_(values=lambda v, s, t, q: q), "E[uv] = q12"),
            "no scale": (with_(values=lambda v, s, t, q: v / s), "lacks the scale"),
            "scale not rooted": (with_(values=lambda v, s, t, q: v * s), "one root is missing"),
            "relu slopes": (
                with_(slopes=lambda d, s, t, q: (jnp.pi - t) / (2 * jnp.pi)),
                "slopes of ReLU",
            ),
            "share of agreement": (with_(slopes=lambda d, s, t, q: 1 - t / jnp.pi), "not 0"),
            "slopes of one sign": (with_(slopes=lambda d, s, t, q: jnp.ones_like(t)), "−1 where the signs differ"),
            "not clipped": (abs_dual_unclipped, "Clip it"),
            "swapped": (lambda *q: abs_dual(*q)[::-1], "swapped"),
            "by the library": (abs_by_the_library, "`abs`"),
            "scaled slopes": (with_(slopes=lambda d, s, t, q: d * s), "do not know the variances"),
            "a fixed scale": (with_(values=lambda v, s, t, q: v / s * jnp.mean(s)), "entries are off"),
            "nothing at one": (
                with_(slopes=lambda d, s, t, q: jnp.where(t < 1e-2, 0.0, d)),
                "for u = v",
            ),
            "no return": (lambda *q: None, "is a `return` missing?"),
            "values only": (lambda *q: abs_dual(*q)[0], "a tuple of 2"),
            "no cosine": (with_(values=arcsine_alone), "multiplied with the correlation"),
            "clipped too soon": (clipped_too_soon, "too far away from 1"),
        },
    ),
    Table(
        "03.2",
        right={"in arrays": ntk_layer, "entry by entry": ntk_layer_by_loops, "NumPy": layer_in_float64},
        wrong={
            "values for slopes": (
                layer(right_sigma, lambda new, v, s, w, b, k, t: new + w**2 * v * t),
                "E[φφ] where E[φ'φ'] belongs",
            ),
            "no new layer": (layer(right_sigma, lambda new, v, s, w, b, k, t: w**2 * s * t), "is missing"),
            "no σ_w² on the old": (
                layer(right_sigma, lambda new, v, s, w, b, k, t: new + s * t),
                "must be multiplied with σ_w²",
            ),
            "σ_w for σ_w²": (layer(lambda v, s, w, b: w * v + b**2, right_theta), "σ_w enters squared"),
            "σ_b for σ_b²": (layer(lambda v, s, w, b: w**2 * v + b, right_theta), "σ_b enters squared"),
            "no bias": (layer(lambda v, s, w, b: w**2 * v, right_theta), "bias of the new layer is missing"),
            "old Σ in the sum": (
                layer(right_sigma, lambda new, v, s, w, b, k, t: k + w**2 * s * t),
                "the old Σ^l",
            ),
            "bias twice": (
                layer(right_sigma, lambda new, v, s, w, b, k, t: new + (w**2 * s + b**2) * t),
                "no older parameters behind it",
            ),
            "Σ in place of Θ": (
                layer(right_sigma, lambda new, v, s, w, b, k, t: new + w**2 * s * k),
                "Σ^l in place of Θ^l",
            ),
            "swapped": (lambda *a: ntk_layer(*a)[::-1], "swapped"),
            "both once": (layer(lambda v, s, w, b: w * v + b, right_theta), "both stand there"),
            "σ_w² on the bias": (layer(lambda v, s, w, b: w**2 * (v + b**2), right_theta), "applied to the bias"),
            "slopes for values": (layer(lambda v, s, w, b: w**2 * s + b**2, right_theta), "that of the values"),
            "no activation": (
                lambda k, t, q1, q2, d, w, b: (w**2 * k + b**2, w**2 * k + b**2 + w**2 * t),
                "leaves the activation out",
            ),
            "σ_w on the old": (
                layer(right_sigma, lambda new, v, s, w, b, k, t: new + w * s * t),
                "second term squared",
            ),
            "added": (layer(right_sigma, lambda new, v, s, w, b, k, t: new + w**2 * s + t), "chain rule multiplies"),
            "no slopes": (layer(right_sigma, lambda new, v, s, w, b, k, t: new + w**2 * t), "slopes are missing"),
            "at the new Σ": (at_new_sigma, "slopes are taken at the new Σ"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "variances of one set": (one_set_of_variances, "Σ"),
            "of correlations": (of_correlations, "the dual got the correlation"),
            "new Σ, old variances": (at_new_sigma_alone, "beside the old variances"),
            "own bias alone": (
                layer(right_sigma, lambda n, v, s, w, b, q, t: b**2 + w**2 * s * t),
                "only the bias of the new layer",
            ),
        },
    ),
    Table(
        "03.3",
        right={
            "power": spread,
            "loop over layers": spread_by_loop,
            "a list": lambda widths, layers: [math.sqrt((1 + 2 / float(n)) ** layers - 1) for n in widths],
            "logarithms": lambda n, h: np.sqrt(np.expm1(h * np.log1p(2 / np.asarray(n)))),
        },
        wrong={
            "no root": (lambda n, h: (1 + 2 / n) ** h - 1, "the root is missing"),
            "ReLU's number": (lambda n, h: jnp.sqrt((1 + 5 / n) ** h - 1), "5 is the variance for ReLU"),
            "second moment": (lambda n, h: jnp.sqrt((1 + 3 / n) ** h - 1), "less the squared mean"),
            "leading order": (lambda n, h: jnp.sqrt(1 + 2 * h / n - 1), "factors multiply"),
            "kurtosis": (lambda n, h: 3 * ((1 + 2 / n) ** h - 1), "excess kurtosis"),
            "forgets to subtract 1": (lambda n, h: jnp.sqrt((1 + 2 / n) ** h), "subtract 1"),
            "deviations add": (lambda n, h: h * jnp.sqrt(2 / n), "variances add"),
            "one layer too many": (lambda n, h: spread(n, h + 1), "one layer too many"),
            "root of n": (lambda n, h: jnp.sqrt((1 + 2 / jnp.sqrt(n)) ** h - 1), "not 1/√n"),
            "one layer too few": (lambda n, h: spread(n, h - 1), "one layer fewer"),
            "no return": (lambda n, h: None, "is a `return` missing?"),
            "no layers": (lambda n, h: jnp.sqrt(2 / n), "number of layers"),
            "1 after the root": (lambda n, h: (1 + 2 / n) ** (h / 2) - 1, "subtracted after the root"),
            "always two layers": (lambda n, h: spread(n, 2), "that is for two"),
        },
    ),
    Table(
        "03.4",
        right={"both at once": deep_ntk, "in NumPy": in_numpy, "jitted": jax.jit(deep_ntk, static_argnums=2)},
        wrong={
            "unchanged": (mistaken("suspect"), "still the suspect's kernel"),
            "all of the next layer": (mistaken("all of the next layer"), "belongs to the layer below"),
            "variances of the next layer": (mistaken("variances of the next layer"), "already the next layer's"),
            "old sum": (mistaken("old sum"), "takes the old Σ"),
            "one layer too many": (mistaken("one layer too many"), "one layer too many"),
            "swapped": (lambda a, b, *c: deep_ntk(b, a, *c), "Rows and columns are swapped"),
            "by the library": (by_the_library, "`kernel_map`"),
            "no σ_w²": (mistaken("no σ_w²"), "in front of the slopes"),
            "no return": (lambda *a: None, "is a `return` missing?"),
            "variances first": (mistaken("variances first"), "before the duals are taken"),
            "slope ½": (mistaken("slope ½"), "that of equal inputs"),
            "one bias": (mistaken("one bias"), "in the first layer only"),
            "variances kept": (mistaken("variances kept"), "stay those of the first layer"),
            "no half": (mistaken("no half"), "½ is missing where"),
            "one layer too few": (lambda x1, x2, n, w, b: deep_ntk(x1, x2, max(n - 1, 1), w, b), "one layer too few"),
            "no 1/d": (
                lambda x1, x2, n, w, b: deep_ntk(x1 * x1.shape[1] ** 0.5, x2 * x1.shape[1] ** 0.5, n, w, b),
                "1/d is missing",
            ),
        },
    ),
    Table(
        "03.6",
        right={"by the library": normalised, "by Gauss-Hermite": normalised_by_gauss_hermite},
        wrong={
            "no root": (lambda fn: ntk.Elementwise(lambda z: fn(z) / moment(fn)), "the root is missing"),
            "multiplied": (lambda fn: ntk.Elementwise(lambda z: fn(z) * moment(fn) ** 0.5), "in place of divided"),
            "by the deviation": (scaled_by_deviation, "mean included"),
            "standardised": (standardised, "only a factor"),
            "only the dual": (only_the_dual, "fn comes back as it is"),
            "only the function": (only_the_function, "the dual is that of fn"),
            "a function": (lambda fn: lambda z: fn(z) * moment(fn) ** -0.5, "a layer is wanted"),
            "mean of |fn|": (
                scaled_by(lambda fn: duals.expectation(lambda z: jnp.abs(fn(z)), jnp.ones_like, 1.0, 1.0, 1.0) ** 2),
                "mean of |fn(Z)|",
            ),
            "inside": (inside, "the constant is inside"),
            "of the slopes": (
                scaled_by(lambda fn: ntk.Elementwise(fn).dual(1.0, 1.0, 1.0)[1]),
                "it is the slopes that",
            ),
            "weights as they are": (by_rule(np.polynomial.hermite_e.hermegauss, False), "do not sum to one"),
            "physicists' nodes": (by_rule(np.polynomial.hermite.hermgauss, True), "nodes for the weight e^(-z²)"),
            "a rough mean": (scaled_by(lambda fn: 1.1 * moment(fn)), "an average over random draws"),
        },
    ),
]
test_answers = cases(TABLES)
