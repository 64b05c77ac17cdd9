# %% [markdown]
# # 06 · The edge of chaos
#
# **After this chapter you can**
#
# - follow the variance of one input and the correlation of two through a deep random network by two maps of one variable,
#   and read off the phase (ordered, critical, chaotic) and two depth scales, $\xi_q$ and $\xi_c$;
# - compute the critical line of any activation from one explicit formula, and tell when that line is of no use;
# - predict from $\xi_c$ how deep a network may be and still train, and say which part of that prediction is theory and which is a rule of thumb.
#
# **Time:** 75 minutes for the chapter, 125 for the exercises (85 without the open one). You need the recursion for $\Sigma$ of chapter 03.
#
# ## The question
#
# Take sixteen images of the digit 1, scale them to one length, and send them through thirty layers of a random tanh network. Nothing is trained. All
# that we change from one picture to the next is $\sigma_w$, the scale of the weights. In each layer we look at the correlation
# $c_l = h^l(x)\cdot h^l(x')/(\|h^l(x)\|\,\|h^l(x')\|)$ of pairs of images.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import claim, reseed, scale
from ntklib import duals, plotting
from ntklib.training import accuracy

jax.config.update("jax_enable_x64", True)  # correlations next to one
plotting.use_style()
paper = scale() == "paper"

tanh, relu = ntk.Tanh(), ntk.Relu()  # one object each: compiled once
b_std = 0.05**0.5
edge = ntk.edge_of_chaos(tanh, b_std)  # what this is: see below


def rescaled(x):
    """Images as rows, x·x/d = 1 for each."""
    return x / np.sqrt(np.mean(x**2, axis=1, keepdims=True))


data = ntk.load("mnist5k", n_train=400, n_test=1).flat()
digits = jnp.asarray(rescaled(data.x_train[data.y_train == 1][:16]))


# %%
def random_layers(key, x, q, w_std, *, phi, width, depth, b_std=b_std):
    """h^1 … h^depth of one random network, [depth, N, n], with Σ¹(x, x) = q.

    The NTK parametrization of ntk.Dense, written out so that σ_w may vary
    without compiling anew. Weights are drawn layer by layer and not kept.
    """
    dtype = x.dtype

    def affine(key, a, gain):
        w_key, b_key = jax.random.split(key)
        W = jax.random.normal(w_key, (a.shape[1], width), dtype)
        b = jax.random.normal(b_key, (width,), dtype)
        return (gain / a.shape[1] ** 0.5 * (a @ W) + b_std * b).astype(dtype)

    keys = jax.random.split(key, depth)
    first = affine(keys[0], x, jnp.sqrt(q - b_std**2))

    def layer(h, key):
        h = affine(key, phi(h), w_std)
        return h, h

    rest = jax.lax.scan(layer, first, keys[1:])[1]
    return jnp.concatenate([first[None], rest])


def decorrelations(h):
    """1 − c for all pairs of the N inputs, from h [..., N, n]: [..., pairs]."""
    u = h / jnp.linalg.norm(h, axis=-1, keepdims=True)
    i, j = np.triu_indices(h.shape[-2], 1)
    return jnp.sum((u[..., i, :] - u[..., j, :]) ** 2, axis=-1) / 2


# %%
def three_phases(key, w_stds, qs, width, depth):
    """1 − c at each depth for each σ_w, the same draws for all: [w, depth, pairs]."""

    def one(w, q):
        x = digits.astype(jnp.float32)
        h = random_layers(key, x, q, w, phi=jnp.tanh, width=width, depth=depth)
        return decorrelations(h)

    return jax.vmap(one)(jnp.asarray(w_stds), jnp.asarray(qs))


def many_networks(keys, *args):
    return jax.jit(lambda keys: jax.lax.map(lambda k: three_phases(k, *args), keys))(keys)


names = ("ordered", "critical", "chaotic")
w_three = np.array([1.0, edge, 2.2])
scales = ntk.depth_scales(tanh, w_three, b_std)
opening = many_networks(jax.random.split(jax.random.key(1), 1), w_three, scales.q, 256, 30)[0]

# %% alt="Three panels: correlation of pairs of digits against the layer, 1 to 30. Left, small weights: all pairs rise to correlation one within twenty layers. Middle: they rise slowly and keep apart. Right, large weights: all pairs fall within ten to twenty layers and then scatter between minus 0.2 and 0.5."
fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.6), sharey=True)
for ax, w, values in zip(axes, w_three, opening, strict=True):
    ax.plot(np.arange(1, 31), 1 - values[:, ::12], color="0.45", ls="-", lw=0.8)
    ax.set(xlabel="layer l", title=rf"$\sigma_w$ = {w:.3g}")
axes[0].set_ylabel(r"correlation $c_l$ of two images")
plt.show()

# %% [markdown]
# With small weights the network forgets which image it saw: after twenty layers all sixteen are nearly one and the same vector.
# With large weights it forgets as well, in another way: whatever two images had in common, in the end all pairs scatter around one small correlation (the scatter is that of a network of 256 units).
# In between, something survives. So:
#
# 1. Where do the correlations go, and how fast? (two maps, two depth scales)
# 2. Where exactly is "in between", for each activation? (the critical line)
# 3. Do real networks of finite width follow? (yes, with a noise that we can see)
# 4. Does this say how deep a network can be *trained*? (yes; and it leaves something out)
#
# ## From layers to maps
#
# Chapter 03 has derived the covariance of the units of layer $l$ at infinite width. For two inputs of equal variance it is a $2\times2$ matrix with two
# numbers, the variance $q_l$ and the correlation $c_l$, and one layer maps them as follows:
#
# $$q_{l+1} = V(q_l) = \sigma_b^2 + \sigma_w^2\, \mathbb E\big[\phi(\sqrt{q_l} Z)^2\big], \qquad
# q_{l+1}\, c_{l+1} = \sigma_b^2 + \sigma_w^2\, \mathbb E\big[\phi(u)\phi(v)\big], \tag{1}$$
#
# with $Z \sim \mathcal N(0,1)$ and $u, v$ Gaussian of variance $q_l$ and correlation $c_l$. The variance does not ask for the correlation. So
# first follow $q$, then $c$.
#
# ### The variance map
#
# A deep network iterates $V$. If $q_l$ comes to rest, it does so at a **fixed point** $q = V(q)$. Nearby, $q_l - q$ is multiplied in each layer by the slope
#
# $$\chi_q = V'(q) = \sigma_w^2\, \frac{d}{dq}\, \mathbb E\big[\phi(\sqrt q Z)^2\big] = \frac{\sigma_w^2}{\sqrt q}\, \mathbb E\big[Z\, \phi\phi'\big]
# = \sigma_w^2\, \mathbb E\big[\phi'^2 + \phi\,\phi''\big]. \tag{2}$$
#
# The last step is Gaussian integration by parts, $\mathbb E[Z g(Z)] = \mathbb E[g'(Z)]$ with $g = \phi\phi'$ at $\sqrt q Z$. If $|\chi_q| < 1$ the fixed point attracts, and
#
# $$|q_l - q| \propto |\chi_q|^l = e^{-l/\xi_q}, \qquad \xi_q = -1/\log|\chi_q| .$$

# %%
print("  σ_w      q    χ_q  ξ_q (layers)   |q_l/q − 1| < 2 % after")
for w, q, chi_q, xi_q in zip(w_three, scales.q, scales.chi_q, scales.xi_q, strict=True):
    variance, layers = 3 * q, 0
    while abs(variance / q - 1) > 0.02:  # it starts at 2 q from q
        variance, layers = ntk.variance_map(tanh, w, b_std, variance), layers + 1
    print(f"{w:5.3g}  {q:5.3g}  {chi_q:5.3g}  {xi_q:12.3g}  {layers:3d} layers, from 3 q")

# %% [markdown]
# Three to seven layers, then the variance is at rest, within two per cent. (For tanh $\phi\phi'' \le 0$, so $\chi_q$ is smaller than $\sigma_w^2\mathbb E[\phi'^2]$. GELU and SiLU
# differ, see below.) If the inputs are scaled so that $\Sigma^1(x, x) = q$, the variance is at rest from the first layer on. From here on we do that.
#
# ### The correlation map
#
# At the fixed point $q$, (1) is a map of the correlation alone,
#
# $$c_{l+1} = f(c_l), \qquad f(c) = \frac{\sigma_b^2 + \sigma_w^2\,\mathbb E[\phi(u)\phi(v)]}{q} .$$
#
# Both maps and the phases are due to Poole et al. (2016), the depth scales below to Schoenholz et al. (2017). Three facts tell the whole story.
#
# - **$f(1) = 1$**, because two equal inputs stay equal: this is $q = V(q)$ once more.
# - **The slope.** By Price's theorem (chapter 03), $\partial\,\mathbb E[\phi(u)\phi(v)]/\partial(qc) = \mathbb E[\phi'(u)\phi'(v)]$, so
#
# $$f'(c) = \sigma_w^2\, \mathbb E\big[\phi'(u)\phi'(v)\big] =: \chi(c), \qquad \chi_1 := f'(1) = \sigma_w^2\, \mathbb E\big[\phi'(\sqrt q Z)^2\big]. \tag{3}$$
#
# - **$f$ is convex on $[0, 1]$.** Expand $\phi(\sqrt q z) = \sum_k a_k He_k(z)/\sqrt{k!}$ in orthonormal Hermite polynomials.
#   For Gaussians of correlation $c$ they obey $\mathbb E[He_j(u) He_k(v)] = \delta_{jk}\, k!\, c^k$, hence $\mathbb E[\phi\phi] = \sum_k a_k^2\, c^k$: a power series with no negative coefficient.
#   Unless $\phi$ is linear there is a term beyond $c$, and $f$ is strictly convex.
#
# A strictly convex curve that ends in the corner $(1, 1)$ meets the diagonal at most once more. Since $f(0) \ge 0$, whether it does is decided by its slope in the corner.
#
# | | slope at $c = 1$ | what happens | phase |
# |---|---|---|---|
# | $\chi_1 < 1$ | below the diagonal's | $c = 1$ attracts: all inputs become equal | **ordered** |
# | $\chi_1 = 1$ | tangent to it | $c = 1$ attracts, ever more slowly | **critical**, the edge of chaos |
# | $\chi_1 > 1$ | above | $c = 1$ repels; $c^* < 1$ attracts: even nearly equal inputs part | **chaotic** |

# %% alt="Three cobweb diagrams of the correlation map for tanh. Ordered: the curve lies above the diagonal and the staircase climbs to one. Critical: the curve touches the diagonal at one and the staircase takes ever smaller steps. Chaotic: the curve crosses the diagonal near 0.1 and the staircase from 0.9 descends to the crossing."
c = np.linspace(0, 1, 101)
fig, axes = plt.subplots(1, 3, figsize=(7.8, 3.0), sharey=True)
for i, (ax, name) in enumerate(zip(axes, names, strict=True)):
    w, q = w_three[i], scales.q[i]
    path = [0.9 if name == "chaotic" else 0.1]
    for _ in range(30):
        path.append(float(ntk.correlation_map(tanh, w, b_std, path[-1], q=q)))
    mapped = ntk.correlation_map(tanh, w, b_std, c, q=q)
    plotting.cobweb(ax, c, mapped, path, label="f(c)", series=i)
    ax.set(title=rf"{name}: $\chi_1$ = {scales.chi_1[i]:.3g}", aspect="equal")
for ax in axes[1:]:
    ax.set_ylabel("")
plt.show()
print("c* in the chaotic phase:", f"{scales.c[2]:.3g}", "· phases:", *scales.phase)
assert tuple(scales.phase) == names

# %% [markdown]
# ### Why δ = 1 − c, and not c
#
# In the ordered phase $1 - c_l$ falls exponentially, and a float64 next to 1 has no digits below $10^{-16}$. So the number 1 − c is lost long before the theory ends, and
# with it all that the chapter on the NTK at depth needs. In the chaotic phase it is worse: two inputs whose correlation is 1 *to 16 digits* need not be equal, and then the network tells them apart in the end.
# The cure is to carry $\delta = 1 - c$. From (1), with $q = V(q)$ and $\mathbb E[\phi(u)^2] = \mathbb E[\phi(v)^2]$,
#
# $$q\,(1 - c') = \sigma_w^2 \Big(\tfrac12\mathbb E[\phi(u)^2] + \tfrac12\mathbb E[\phi(v)^2] - \mathbb E[\phi(u)\phi(v)]\Big)
# \quad\Longrightarrow\quad \delta' = \frac{\sigma_w^2}{2q}\, \mathbb E\big[(\phi(u) - \phi(v))^2\big]. \tag{4}$$
#
# Nothing large is subtracted from anything large. `ntk.decorrelation_map` is this map.

# %% alt="Two panels, 1 minus c against the layer on a logarithmic axis. Left, ordered: in delta a straight line down to 4e-20 at layer 160; in c it ends near 2e-16. Right, chaotic, starting from delta = 1e-20: in delta it rises in a straight line and levels off near one after 125 layers; in c it is zero for ever, marked at the bottom."
steps = 160


def iterated(mapping, start, w, q):
    """start, mapping(start), … [steps]"""

    def step(a, _):
        return mapping(tanh, w, b_std, a, q=q), a

    return np.asarray(jax.lax.scan(step, start, length=steps)[1])


fig, axes = plt.subplots(1, 2, figsize=(7.6, 2.9))
for ax, i, start in ((axes[0], 0, 0.5), (axes[1], 2, 1e-20)):
    w, q = w_three[i], scales.q[i]
    deltas = iterated(ntk.decorrelation_map, start, w, q)
    cs = iterated(ntk.correlation_map, 1.0 - start, w, q)
    naive = np.maximum(1 - cs, 1e-22)  # zero does not go on a logarithmic axis
    layers = np.arange(1, steps + 1)
    ax.semilogy(layers, deltas, label="iterated in δ", color="C0", ls="-")
    ax.semilogy(layers, naive, label="in c, float64 (at the foot: 0)", color="C1", ls="--")
    ax.set(xlabel="layer l", title=f"{names[i]}, δ = {start:g} at the start")
    ax.legend()
    assert abs(deltas[60] / deltas[40] / scales.chi_1[i] ** 20 - 1) < 1e-4
axes[0].set_ylabel(r"$\delta_l = 1 - c_l$")
plt.show()

# %% [markdown]
# The straight lines have the slope $\log\chi_1$ (the cell asserts it): down in the ordered phase, up in the chaotic one until $\delta$ is of order one.
#
# ## Depth scales
#
# Near its attracting fixed point $c^*$ (1 or not), $c_l - c^*$ is multiplied in each layer by $f'(c^*) = \chi(c^*)$. So off the edge
#
# $$|c_l - c^*| \propto e^{-l/\xi_c}, \qquad \xi_c = -\frac{1}{\log \chi_{c^*}}, \qquad \chi_{c^*} = \sigma_w^2\, \mathbb E[\phi'(u)\phi'(v)] \text{ at } (q, c^*). \tag{5}$$
#
# In the ordered phase $c^* = 1$ and $\chi_{c^*} = \chi_1$.
# In the chaotic phase one must take the slope at $c^* < 1$, which convexity makes smaller than one; $\chi_1 > 1$ is there the rate at which *neighbors part*.
# On the edge $\xi_c = \infty$. A phase diagram is one call on a grid:

# %% alt="Phase diagram: depth scale of the correlation as color over weight variance 0.5 to 5 and bias variance 0 to 0.3. A bright ridge follows the critical line, drawn in white, from weight variance one at zero bias variance to about two and a half; the scale falls on both sides to a few layers."
points = 200 if paper else 60
w_grid, b_grid = np.linspace(0.5, 5.0, points) ** 0.5, np.linspace(1e-4, 0.3, points) ** 0.5
grid = ntk.depth_scales(tanh, w_grid[:, None], b_grid[None, :])
nodes = b_grid[np.linspace(0, points - 1, 11).astype(int)]  # both ends among them
line = np.interp(b_grid, nodes, [ntk.edge_of_chaos(tanh, b) for b in nodes])
fig, ax = plt.subplots(figsize=(5.6, 3.4))
plotting.phase_diagram(ax, w_grid, b_grid, grid.xi_c, line, most=50)
for w, i in zip(w_three, range(3), strict=True):
    ax.plot(w**2, b_std**2, marker=plotting.MARKERS[i], color="white", mec="black", ls="none")
ax.set_title("tanh; the marks are the three networks of this chapter")
plt.show()

share = float(np.mean(np.asarray(grid.xi_q) < np.asarray(grid.xi_c)))
print(f"ξ_q < ξ_c in {100 * share:.3g} % of the plane: the variance comes to rest first")
for name, xi_c, chi_c in zip(names, scales.xi_c, scales.chi_c, strict=True):
    print(f"{name:9s} ξ_c = {xi_c:.3g} layers (slope at c*: {chi_c:.3g})")

# %% [markdown]
# **Move the point yourself.** In a live notebook the next cell comes with sliders. (`python -m course explorer` opens a page
# with more of them: other activations, and the tangent kernel over depth.)


# %% alt="Left: depth scale over weight and bias scale, with a cross at the chosen point, chaotic, near the bright ridge. Right: its correlation map, which crosses the diagonal at a small angle near 0.7, and the staircase of two inputs from correlation 0.2 to there."
# What the sliders need later on, under names that no other cell takes:
still_plane = w_grid, b_grid, grid.xi_c, line


def look(w_std=1.4, b_std=0.2, rho=0.2):
    """Phase, depth scales and correlation map of tanh at one point."""
    here = ntk.depth_scales(tanh, w_std, b_std)

    def after(c):
        return ntk.correlation_map(tanh, w_std, b_std, c, q=here.q)

    _, (plane, ax) = plt.subplots(1, 2, figsize=(7.8, 3.2))
    plotting.phase_diagram(plane, *still_plane, most=50)
    plane.plot(w_std**2, b_std**2, marker="P", color="white", mec="black")
    path = [rho]
    for _ in range(40):
        path.append(float(after(path[-1])))
    before = np.linspace(0, 1, 101)
    plotting.cobweb(ax, before, after(before), path, label="f(c)")
    ax.set_title(f"{here.phase}: ξ_c = {here.xi_c:.3g} layers")
    plt.show()


if os.environ.get("CI"):  # a still picture
    look()
else:
    from ipywidgets import interact

    ranges = {"w_std": (0.75, 2.2, 0.05), "b_std": (0.02, 0.54, 0.02)}
    interact(look, rho=(0.0, 0.95, 0.05), **ranges)

# %% [markdown]
# ## The critical line
#
# The edge asks for two things at once: $q$ is a fixed point, $q = \sigma_b^2 + \sigma_w^2\mathbb E[\phi(\sqrt q Z)^2]$, and $\chi_1 = \sigma_w^2\mathbb E[\phi'(\sqrt q Z)^2] = 1$ **at that $q$**.
# For given $\sigma_b$ this looks like a root inside a root: for each trial $\sigma_w$ find $q$, then evaluate $\chi_1$. But turn it around.
# *Choose $q$*; then the second condition gives $\sigma_w$, and with it the first gives $\sigma_b$:
#
# $$\sigma_w^2 = \frac{1}{\mathbb E[\phi'(\sqrt q Z)^2]}, \qquad \sigma_b^2 = q - \frac{\mathbb E[\phi(\sqrt q Z)^2]}{\mathbb E[\phi'(\sqrt q Z)^2]}. \tag{6}$$
#
# Two one-dimensional integrals, no search; and the whole line as $q$ runs from 0 to ∞, wherever $\sigma_b^2 \ge 0$. Read three cases off it:
#
# - *tanh*, or any smooth $\phi$ with $\phi(0) = 0$ and $\phi'(0) \ne 0$, as $q \to 0$: $\mathbb E[\phi'^2] \to \phi'(0)^2$, so the line starts at $\sigma_b = 0$, $\sigma_w = 1/|\phi'(0)|$.
# - *ReLU:* $\mathbb E[\phi'^2] = \frac12$ and $\mathbb E[\phi^2] = \frac q2$ for every $q$, so $\sigma_w^2 = 2$ and $\sigma_b^2 = 0$:
#   the line is **one point** (He initialization), at which every $q$ is a fixed point.
# - *Softplus:* it is $\frac x2 + g(x)$ with the even function $g = \log(2 \cosh \frac x2)$, where $g > \frac{|x|}2$ and $|g'| < \frac12$.
#   So $\mathbb E[\phi^2] = \frac q4 + \mathbb E[g^2] > \frac q2$ and $\mathbb E[\phi'^2] = \frac14 + \mathbb E[g'^2] < \frac12$: $\sigma_b^2 < 0$ for every $q$.
#   No edge at all.

# %%
activations = {
    "tanh": tanh, "erf": ntk.Erf(), "ELU": ntk.Elu(), "ReLU": relu,
    "GELU": ntk.Gelu(), "SiLU": ntk.Silu(), "sigmoid": ntk.Sigmoid(),
    "softplus": ntk.Elementwise(jax.nn.softplus),
}  # fmt: skip


def on_the_line(activation, q):
    """(6): σ_w² and σ_b² where q is the fixed point; E[φ²] is V(q) at σ_w = 1, σ_b = 0."""
    slope = ntk.Elementwise(duals.derivative(activation.fn))
    slopes = ntk.variance_map(slope, 1.0, 0.0, q)
    return 1 / slopes, q - ntk.variance_map(activation, 1.0, 0.0, q) / slopes


qs = np.geomspace(1e-3, 60, 80)
lines = {name: on_the_line(activation, qs) for name, activation in activations.items()}

# A second route: the library's, which solves for a given σ_b.
print("at σ_b = 0.2:   σ_w      q    χ_q   variance at q")
for name in ("tanh", "SiLU"):
    point = ntk.critical_point(activations[name], 0.2)
    w2, b2 = on_the_line(activations[name], point.q)
    assert abs(w2 / point.w_std**2 - 1) < 1e-9
    assert abs(b2 - 0.04) < 1e-9
    stays = "comes back" if point.stable else "leaves"
    print(f"{name:12s} {point.w_std:7.4g} {point.q:6.3g} {point.chi_q:6.3g}   {stays}")
try:
    ntk.critical_point(relu, 0.2)
except ValueError as error:
    print("ReLU:", error)
print("softplus: σ_b² > 0 at", int((lines["softplus"][1] > 0).sum()), "of", len(qs), "values of q")
large = np.linspace(40, 60, len(qs))
w2, b2 = on_the_line(activations["sigmoid"], large)
print(f"sigmoid: σ_b² > 0 from q = {large[b2 > 0].min():.2g} on, where σ_w = {w2[b2 > 0].min() ** 0.5:.3g}")

# %% alt="Left: critical lines in the plane of weight variance and bias variance; tanh, erf and ELU rise from bias variance zero at weight variance 1, 0.8 and 1; GELU and SiLU start at 4 and run to smaller weight variance, dotted where their fixed point repels; ReLU is one point at 2. Right: variance against layer for SiLU on its critical line, started 0.1 per cent below and above the fixed point; below it falls to 0.19, above it diverges, after about 70 layers."
fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.3))
for i, name in enumerate(("tanh", "erf", "ELU", "GELU", "SiLU")):
    w2, b2 = (np.asarray(a) for a in lines[name])
    chi_q = w2 * np.gradient(np.asarray(ntk.variance_map(activations[name], 1.0, 0.0, qs)), qs)
    repels = chi_q > 1
    colour = plotting.COLOURS[i]
    left.plot(np.where(repels, np.nan, w2), b2, color=colour, ls="-", label=name)
    left.plot(np.where(repels, w2, np.nan), b2, color=colour, ls=":", lw=2)
    k = np.searchsorted(b2, 0.35 - 0.05 * i)
    left.plot(w2[k], b2[k], color=colour, marker=plotting.MARKERS[i], ls="none")
left.plot(2, 0, marker="X", color="black", ls="none", ms=8, label="ReLU", clip_on=False)
left.plot([], [], color="0.4", ls=":", lw=2, label="q repels")
left.set(xlim=(0.5, 6.2), ylim=(0, 0.6))
left.set(xlabel=r"weight variance $\sigma_w^2$", ylabel=r"bias variance $\sigma_b^2$")
left.legend(loc="upper right")

silu = ntk.critical_point(activations["SiLU"], 0.2)
ends = {}
for i, factor in enumerate((0.999, 1.001)):
    q_l = [factor * silu.q]
    while len(q_l) < 160 and q_l[-1] < 20:
        q_l.append(float(ntk.variance_map(activations["SiLU"], silu.w_std, 0.2, q_l[-1])))
    ends[factor] = q_l
    right.semilogy(1 + np.arange(len(q_l)), q_l, ls=plotting.DASHES[i], label=f"from {factor} q")
right.axhline(silu.q, color="black", lw=1, ls=":", label="q")
right.set(xlabel="layer l", ylabel=r"variance $q_l$", title="SiLU on its edge, infinite width")
right.legend()
plt.show()
low = ends[0.999][-1]
phase = float(ntk.chi(activations["SiLU"], silu.w_std, q=low))
print(f"from 0.999 q: variance {low:.3g}, where χ_1 = {phase:.3g}: ordered")
print(f"from 1.001 q: above 20 in layer {len(ends[1.001])}, growing")
assert phase < 1 < ends[1.001][-1] / 20

# %% [markdown]
# **Four cases to know.**
#
# - **GELU and SiLU.** The line exists, but for small $\sigma_b$ (GELU: $\sigma_b < 0.416$, SiLU: $\sigma_b < 0.745$) it has $\chi_q > 1$:
#   in (2), $\mathbb E[\phi\phi'']$ is positive for small $q$, and *the variance's fixed point repels*.
#   One part in a thousand, and a hundred layers later the network is ordered or its variance is off to infinity.
#   A network of width $n$ misses $q$ by a relative error of about $n^{-1/2}$.
#   Hayou et al. (2018) argue that $V'(q) \approx 1$ makes this harmless for Swish (that is SiLU): but 1.1 to the power of 100 is 14,000.
# - **Sigmoid.** Its line exists as well, though an early version of arXiv:1905.13654 (Hayou et al.) says that it does not:
#   it starts at $\sigma_w \approx 10$ with $q \approx 46$, far from anybody's initialization.
# - **Softplus:** none.
# - **Rounded values.** For tanh at $\sigma_b = 0.2$ the same version gives $\sigma_w = 1.302$. The exact value is 1.30415. Is this a matter for pedants?

# %%
for w in (1.302, ntk.edge_of_chaos(tanh, 0.2)):
    at = ntk.depth_scales(tanh, w, 0.2)
    print(f"tanh, σ_b = 0.2, σ_w = {w:.6g}: {at.phase}, ξ_c = {at.xi_c:.3g} layers")
assert abs(float(ntk.depth_scales(tanh, 1.302, 0.2).xi_c) - 846) < 1

# %% [markdown]
# At fifty or three hundred layers nobody will notice; in a theory of a thousand or a million layers (chapter 07) the rounded network is plainly in the ordered phase.
#
# ### How fast on the line itself
#
# On the edge the linear term of $\delta' = \chi_1\delta + \dots$ leaves $\delta$ alone, and the next term decides.
#
# - *Smooth $\phi$.* Differentiating (3) once more by Price's theorem, $f''(1) = \sigma_w^2 q\, \mathbb E[\phi''^2] =: \beta$,
#   so $\delta' = \delta - \frac\beta2\delta^2 + \dots$ Then $1/\delta' = 1/\delta + \beta/2 + \dots$: the reciprocal grows by $\beta/2$ in each layer, and $\delta_l \sim 2/(\beta l)$.
# - *ReLU* has no $\phi''$. With $\delta = 1 - \cos\theta$ and $\mathbb E[\phi\phi]$ of chapter 03, $c' = \frac1\pi(\sin\theta + (\pi-\theta)\cos\theta)$,
#   so $\delta' = \delta - \frac1\pi(\sin\theta - \theta\cos\theta) = \delta - \frac{\theta^3}{3\pi} + \dots$, with $\theta = \sqrt{2\delta}$:
#   $\delta' = \delta - s\,\delta^{3/2} + \dots$, $s = \frac{2\sqrt2}{3\pi}$.
#   Now it is $\delta^{-1/2}$ that grows by a constant, $s/2$, in each layer, so $\delta_l \sim \dfrac{4}{s^2 l^2} = \dfrac{9\pi^2/2}{l^2}$.
#
# Polynomial instead of exponential, as Hayou et al. (2019) have found. We fit exponent and constant on the maps.

# %% alt="1 minus c against the number of layers from 1 to 20000 on logarithmic axes, on the edge of chaos. Two tanh networks fall with slope minus one, ReLU with slope minus two, each onto its dashed predicted line from about a hundred layers on. An ordered tanh network falls exponentially, to 1e-7 at layer 59."
fig, ax = plt.subplots(figsize=(6.2, 3.3))
for i, (name, b) in enumerate((("tanh", b_std), ("tanh", 0.5), ("ReLU", 0.0))):
    point = ntk.critical_point(activations[name], b)
    deepest = 2_000 if name == "tanh" else 20_000  # quadrature takes longer
    depths = np.unique(np.geomspace(1, deepest, 20).astype(int))
    q = 1.0 if name == "ReLU" else point.q
    profile = ntk.ntk_depth_profile(activations[name], point.w_std, b, depths, 0.3, q=q)
    constant, power = (4.5 * np.pi**2, -2) if name == "ReLU" else (2 / point.beta, -1)
    colour = plotting.COLOURS[i]
    ax.loglog(depths, profile.one_minus_c, color=colour, marker=plotting.MARKERS[i], ls="none", ms=4, label=rf"{name}, $\sigma_b$ = {b:.2g}")  # fmt: skip
    ax.loglog(depths, constant * depths.astype(float) ** power, color=colour, ls="--", lw=1)
    late = np.log(np.asarray(profile.one_minus_c)[-4:])
    slope, _ = np.polyfit(np.log(depths[-4:]), late, 1)
    ratio = float(np.exp(late[-1]) / constant * float(depths[-1]) ** -power)
    print(f"{name}, σ_b = {b:.2g}: fitted power {slope:.3g} (theory {power}), constant/theory {ratio:.2g}")
    assert abs(slope - power) < 0.02
    assert abs(ratio - 1) < 0.02
ordered = ntk.ntk_depth_profile(tanh, 1.0, b_std, np.arange(1, 60), 0.3).one_minus_c
ax.loglog(np.arange(1, 60), ordered, color="black", ls=":", label=r"tanh, $\sigma_w = 1$")
ax.plot([], [], color="0.4", ls="--", lw=1, label="predicted")
ax.set(xlabel="layer l", ylabel=r"$1 - c_l$ on the edge", ylim=(1e-8, 3))
ax.legend()
plt.show()

# %% [markdown]
# ## Real networks against the maps
#
# The maps are those of infinite width. In a layer of $n$ units each expectation is an average over $n$ units, so a real network's correlation misses the map's by $O(n^{-1/2})$, anew in each layer.
# The next layers multiply an error by the map's slope.
# On the ordered side that is $\chi_1 < 1$, and a new error is itself in proportion to $\delta_l$: all of it dies.
# On the edge the slope is $1 - \beta\delta_l \approx 1 - 2/l$, and new errors shrink with $\delta_l$.
# On the chaotic side $\delta_l$ does not shrink: new errors of full size come in at every layer, and $\chi_{c^*}$ takes old ones away slowly.
# We send the sixteen digits (120 pairs) through tanh networks of three widths, scaled so that
# $\Sigma^1(x, x) = q$ for each $\sigma_w$.

# %%
seeds, depth = (16 if paper else 12), 30
widths = (64, 256, 1024)
measured = {
    n: np.asarray(many_networks(jax.random.split(jax.random.key(reseed(n)), seeds), w_three, scales.q, n, depth))
    for n in widths
}  # [seeds, phases, layers, pairs]

overlap = np.asarray(digits @ digits.T / digits.shape[1])
overlap = overlap[np.triu_indices(len(digits), 1)]
predicted = []
for w, q in zip(w_three, scales.q, strict=True):
    first = 1 - (q - b_std**2) / q * overlap - b_std**2 / q  # 1 − c after the first layer
    profile = ntk.ntk_depth_profile(tanh, w, b_std, np.arange(1, depth + 1), delta=jnp.maximum(first, 0.0), q=float(q))
    predicted.append(profile.one_minus_c)
predicted = np.asarray(predicted)  # [phases, layers, pairs]

spread = np.array([[np.std(measured[n][:, p, -1], axis=0, ddof=1).mean() for n in widths] for p in range(3)])
for p, name in enumerate(names):
    ratios = ", ".join(f"{s:.2g}" for s in spread[p])
    print(f"{name:9s} spread of c in layer 30 at widths 64, 256, 1024: {ratios}")

# %% alt="Three panels, ordered, critical and chaotic: distance of the correlation from its limit against layer 1 to 30, logarithmic axis. Lines are the maps. Points of width 1024 lie on them, in the chaotic panel until about layer 20. Points of width 64 leave them: in the critical panel they fall below the line, in the chaotic panel they stay above it from layer 10 or so, with large error bars."
fig, axes = plt.subplots(1, 3, figsize=(8.0, 3.1))
layers = np.arange(1, depth + 1)
limits = 1 - np.asarray(scales.c)
for p, ax in enumerate(axes):
    ax.plot(layers, np.abs(predicted[p].mean(-1) - limits[p]), color="black", ls="-", label="maps")
    for i, n in enumerate((64, 1024)):
        gap = measured[n][:, p].mean(-1) - limits[p]
        mean, error = plotting.mean_and_error(gap)
        ax.errorbar(
            layers[i::2], np.abs(mean)[i::2], error[i::2], color=plotting.COLOURS[i],
            fmt=plotting.MARKERS[i], ms=4, mfc="none", capsize=2, label=f"n = {n}",
        )  # fmt: skip
    ax.set(yscale="log", xlabel="layer l", title=f"{names[p]}, $c^*$ = {1 - limits[p]:.2g}")
axes[0].set_ylabel(r"$|c_l - c^*|$, mean over pairs")
axes[1].set_ylim(0.05, 1)
axes[2].set_ylim(3e-3, 1)
axes[0].legend()
plt.show()


# %% [markdown]
# Now the rate.
# In each network we fit a straight line to $\log|\bar c_l - c^*|$ (a mean over pairs), where the maps say that it is beyond its first, curved layers and above the noise;
# and from its slope read off a depth scale, to be compared with (5).


# %%
def fitted_scale(p, first, last):
    """Depth scale from each network of the largest width, in layers: mean, standard error."""
    gap = np.abs(measured[widths[-1]][:, p].mean(-1) - limits[p])
    window = slice(first - 1, last)
    slopes = np.polyfit(layers[window], np.log(gap[:, window]).T, 1)[0]
    same = np.abs(predicted[p].mean(-1) - limits[p])[window]
    of_maps = -1 / np.polyfit(layers[window], np.log(same), 1)[0]
    return *plotting.mean_and_error(-1 / slopes), of_maps


fits = {"ordered": fitted_scale(0, 10, 30), "chaotic": fitted_scale(2, 5, 14)}
for name, (mean, error, of_maps) in fits.items():
    xi_c = float(scales.xi_c[names.index(name)])
    print(f"{name}: fitted {mean:.2f} ± {error:.1g} layers, ξ_c = {xi_c:.3g}, maps in that window {of_maps:.3g}")
    assert abs(mean - of_maps) < 4 * error + 0.1
powers = np.polyfit(np.log(layers[9:]), np.log(measured[widths[-1]][:, 1].mean(-1)[:, 9:]).T, 1)[0]
of_maps = np.polyfit(np.log(layers[9:]), np.log(predicted[1].mean(-1)[9:]), 1)[0]
power, power_error = plotting.mean_and_error(powers)
print(f"critical: local power of the depth {power:.2f} ± {power_error:.1g}, maps {of_maps:.3g}")
assert abs(power - of_maps) < 4 * power_error
assert (spread[2] > spread[1]).all()
assert (spread[1] > spread[0]).all()
noise = np.polyfit(np.log(widths), np.log(spread.T), 1)[0]
print("powers of n in the spread: " + ", ".join(f"{name} {v:.1f}" for name, v in zip(names, noise, strict=True)))
assert abs(noise[2] + 0.5) < 0.25  # a spread of 12 networks is known to a fifth

# %% [markdown]
# Exponential on both sides, and a power law on the edge (not yet $-1$, since $\beta l/2$ is only about five in layer 30: the maps say the same).
# On the ordered side the fitted scale is the predicted $\xi_c$.
# On the chaotic side the noise ends the window at layer 14, which is too early: there the maps themselves decay with 6.84 layers and not yet with $\xi_c = 6.14$.
# The networks follow the maps, with an error of five per cent, and say nothing on the difference between the two.
# The scatter between networks (printed above) is largest in the *chaotic* phase, where it falls like $n^{-1/2}$.
# On the edge it is half as large; its power of $n$ comes out as $-0.4$, which twelve networks do not tell from $-\frac12$.
# In the ordered phase nearly nothing is left of it.
#
# ### The edge of a network, measured
#
# Is the critical line a fact about networks, or one about formulas?
# Measure it: give networks pairs of nearly equal inputs, and find the $\sigma_w$ at which their distance neither grows nor shrinks from layer to layer.
# By (3), the squared distance of close inputs, $2q\delta$ a unit, is multiplied by $\chi_1$.
# We do so for three activations and one other architecture. With a **layer norm** after each affine layer the variance that $\phi$ sees is always 1:
# the squared distance is divided by the variance $V(1)$ of the affine layer, and multiplied by $\sigma_w^2\,\mathbb E[\phi'(Z)^2]$:
#
# $$\chi_1^{\text{norm}} = \frac{\sigma_w^2\, \mathbb E[\phi'(Z)^2]}{\sigma_b^2 + \sigma_w^2\,\mathbb E[\phi(Z)^2]} = 1
# \quad\Longleftrightarrow\quad \sigma_w = \frac{\sigma_b}{\sqrt{\mathbb E[\phi'^2] - \mathbb E[\phi^2]}} : \tag{7}$$
#
# a straight ray from the origin in place of a curve.
# At $\sigma_b = 0$ there is no edge at all: only the ratio of the two scales counts, and tanh with layer norm and no bias is chaotic for each $\sigma_w$.

# %%
norm = ntk.LayerNorm()
e_slopes = ntk.variance_map(ntk.Elementwise(duals.derivative(jnp.tanh)), 1.0, 0.0, 1.0)
e_values = ntk.variance_map(tanh, 1.0, 0.0, 1.0)
cases = {  # name: (what a layer applies, σ_b, predicted σ_w, q)
    "ReLU": (jax.nn.relu, 0.0, 2**0.5, 1.0),
    "tanh, layer norm": (
        lambda h: jnp.tanh(norm(h)), 0.2, float(0.2 / jnp.sqrt(e_slopes - e_values)), 1.0,
    ),
}  # fmt: skip
for name, phi, q in (("tanh", jnp.tanh, 0.5), ("ELU", jax.nn.elu, 1.0)):
    w2, b2 = on_the_line(activations[name], q)  # choose q, and (6) says the rest
    cases[name] = (phi, float(b2) ** 0.5, float(w2) ** 0.5, q)


def measured_edge(phi, b, w_star, q, key, n=512, depth=14):
    """σ_w at which close inputs keep their distance, from one random network."""
    x = digits
    near = x + 1e-4 * jax.random.normal(jax.random.fold_in(key, 1), x.shape)
    near *= (jnp.linalg.norm(x, axis=1) / jnp.linalg.norm(near, axis=1))[:, None]
    both = jnp.concatenate([x, near])

    def gain(w):
        h = random_layers(key, both, q, w, phi=phi, width=n, depth=depth, b_std=b)
        distance = jnp.sum((h[:, : len(x)] - h[:, len(x) :]) ** 2, axis=-1)
        return jnp.log(jnp.mean(distance[4:] / distance[3:-1]))

    factors = jnp.array([0.9, 0.95, 1.0, 1.05, 1.1])
    slope, middle = jnp.polyfit(jnp.log(factors), jax.vmap(gain)(factors * w_star), 1)
    return w_star * jnp.exp(-middle / slope)


n_edges, edges = (16 if paper else 6), {}
print("                    σ_b   σ_w predicted   σ_w measured")
for name, (phi, b, w_star, q) in cases.items():
    run = jax.jit(lambda keys: jax.lax.map(lambda k: measured_edge(phi, b, w_star, q, k), keys))  # noqa: B023
    edges[name] = plotting.mean_and_error(run(jax.random.split(jax.random.key(reseed(5)), n_edges)))
    mean, error = edges[name]
    print(f"{name:17s} {b:5.3g}   {w_star:13.4g}   {mean:.2f} ± {error:.1g}")
    assert abs(mean - w_star) < 4 * error + 0.005 * w_star

# %% [markdown]
# Four edges, at four places, each within two per cent of the prediction (ELU's is off by more than three of its errors; the formulas are for infinite width):
# the variances do depend on the activation and on the architecture.
# (ReLU is special in one respect: without biases it does not care for scale, and its *correlations* are the same for every $\sigma_w$.
# What $\sigma_w^2 = 2$ keeps is the size of signals and distances.)
#
# ## How deep can it be and still train?
#
# In the ordered phase all inputs look the same after some depth scales, in the chaotic phase all pairs look equally different.
# What tells inputs apart, or says which are alike, is gone from the last layers.
# The squared length of a gradient is multiplied by $\chi_1$ in each layer on the way back, so gradients vanish or explode.
# Schoenholz et al. (2017) drew the conclusion: *a network can be trained if its depth is not much more than $\xi_c$*; on MNIST they found the border at about **$6\,\xi_c$**.
# The 6 is not derived. $\xi_c$ is.
#
# **The experiment, at laptop scale.** 100 digits of 7×7 pixels, tanh, width 50, $\sigma_b^2 = 0.05$, five values of $\sigma_w$ on each side of the edge, depths up to 44, three seeds each;
# full-batch descent with momentum 0.9, seen after 25, 50, 100 and 150 steps. Two choices need a reason:
#
# - *The learning rate.* One rate for all would decide the matter by itself: the NTK's diagonal $\Theta(x,x)$ grows from 0.15 to $3 \cdot 10^{17}$ over our grid.
#   A step is stable if it is of order $1/\Theta$, so each network gets $\eta = 1/\Theta(x, x)$, predicted from $(\sigma_w, \sigma_b, L)$ by `ntk.ntk_depth_profile`.
#   We compare with one rate for all below.
# - *The start.* Targets are $y + f_0(x)$, so that each network starts with the residuals $-y$: otherwise chaotic networks, whose outputs are larger, would have more to unlearn.
#
# The network is written as a function of $\sigma_w$ *and of the depth* (layers beyond it are skipped), so that all of the grid is one compilation.

# %%
n_units, n_seeds = (200, 5) if paper else (50, 3)
LOOKS = (25, 50, 100, 150)  # numbers of steps
depths = np.array([4, 8, 14, 22, 32, 44] + ([64, 90] if paper else []))
w_grid = np.array([0.7, 0.8, 0.9, 1.0, 1.1, edge, 1.8, 2.2, 2.7, 3.3, 4.0])
train_set = ntk.load("mnist5k", n_train=1000 if paper else 100, n_test=500)


def pooled(x):
    """Images as rows of 7×7 pixels, x·x/d = 1, float32."""
    small = x.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)
    return jnp.asarray(rescaled(small), jnp.float32)


x, x_test = pooled(train_set.x_train), pooled(train_set.x_test)
y = jnp.asarray(ntk.one_hot_centered(train_set.y_train, 10), jnp.float32)
labels, labels_test = jnp.asarray(train_set.y_train), jnp.asarray(train_set.y_test)

# From the theory: the scale of the inputs, and Θ(x, x), which sets the learning rate.
fine = np.union1d(np.linspace(0.7, 4.0, 60), w_grid)  # for the curves as well
at_fine = ntk.depth_scales(tanh, fine, b_std)
at = jax.tree.map(lambda a: a[np.searchsorted(fine, w_grid)], at_fine)
input_scale = np.sqrt(np.asarray(at.q) - b_std**2) / w_grid  # Σ¹(x, x) = q
theta = np.array([
    ntk.ntk_depth_profile(tanh, w, b_std, depths, 0.5).ntk_diagonal for w in w_grid
])  # fmt: skip


# %%
def draw(key, deepest, n=n_units):
    """Parameters of all layers, as [..., in, out] and [..., out]."""
    shapes = [(49, n), (n,), (deepest - 2, n, n), (deepest - 2, n), (n, 10), (10,)]
    keys = jax.random.split(key, len(shapes))
    return [jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)]


def network(params, x, w_std, depth):
    """A tanh network of `depth` affine layers in the NTK parametrization."""
    W1, b1, W, b, W_out, b_out = params

    def affine(h, W, b):
        return (w_std / W.shape[0] ** 0.5 * (h @ W) + b_std * b).astype(jnp.float32)

    def layer(h, inputs):
        number, W, b = inputs
        on = number < depth - 2
        return jax.lax.cond(on, lambda h: affine(jnp.tanh(h), W, b), lambda h: h, h), None

    h, _ = jax.lax.scan(layer, affine(x, W1, b1), (jnp.arange(len(W)), W, b))
    return affine(jnp.tanh(h), W_out, b_out)


# It is ntk.mlp: the same parameters give the same outputs.
net = ntk.mlp([49, 20, 20, 20, 10], activation=tanh, w_std=1.3, b_std=b_std, rngs=nnx.Rngs(0))
dense = [(net.layers[i].W[...], net.layers[i].b[...]) for i in (0, 2, 4, 6)]
hidden = [jnp.stack(a) for a in zip(*dense[1:3], strict=True)]
ours = network([*dense[0], *hidden, *dense[3]], x, 1.3, 4)
assert jnp.abs(ours - net(x)).max() < 1e-5


# %%
def trained(key, w_std, scaling, rate, depth):
    """Accuracy on training and test set after LOOKS steps, [LOOKS, 2]."""
    params = draw(key, depths.max())

    def f(p, x):
        return network(p, scaling * x, w_std, depth)

    start, start_test = f(params, x), f(params, x_test)

    def look(p):
        on_test = accuracy(f(p, x_test) - start_test, labels_test)
        return jnp.stack([accuracy(f(p, x) - start, labels), on_test])

    momentum = optax.sgd(rate, momentum=0.9)
    how = {"steps": LOOKS[-1], "record": look, "record_at": LOOKS}
    return ntk.train((f, params), x, y + start, optimizer=momentum, **how).records


train_all = jax.jit(jax.vmap(trained, in_axes=(0, 0, 0, 0, None)))


def over_the_grid(rates, depth):
    """[LOOKS, 2 (train, test), seeds, σ_w]"""
    keys = jnp.tile(jax.random.split(jax.random.key(reseed(0)), n_seeds), len(w_grid))
    each = [jnp.repeat(jnp.asarray(a, jnp.float32), n_seeds) for a in (w_grid, input_scale, rates)]
    found = np.asarray(train_all(keys, *each, depth))  # [σ_w · seeds, LOOKS, 2]
    return found.reshape(len(w_grid), n_seeds, len(LOOKS), 2).transpose(2, 3, 1, 0)


scores = np.stack([over_the_grid(1 / theta[:, i], L) for i, L in enumerate(depths)], axis=-1)
at_100 = LOOKS.index(100)
on_train, on_test = scores[at_100]  # [seeds, σ_w, depths]

# %% alt="Two heat maps of accuracy after a hundred steps over weight scale 0.7 to 4 and depth 4 to 44, with the curves of 6 xi_c and of 1 xi_c, which rise to infinity at the critical weight scale 1.33. Left, training accuracy: high below the curves on both sides and low above. Right, test accuracy: on the ordered side the same border; on the chaotic side it falls much earlier, along the curve of one depth scale."
xi_fine = np.asarray(at_fine.xi_c)
ladder = np.append(depths, depths[-1] * 2 ** np.arange(1, 5))  # the axis, continued
rows, columns = np.arange(len(depths)), np.arange(len(w_grid))
fig, axes = plt.subplots(1, 2, figsize=(8.0, 3.5), sharey=True)
for ax, values, title in zip(axes, (on_train, on_test), ("training set", "test set"), strict=True):
    picture = values.mean(0).T
    mesh = ax.pcolormesh(columns, rows, picture, cmap="cividis", vmin=0, vmax=1, shading="nearest")
    for factor, dash in ((6, "-"), (1, "--")):
        height = np.interp(np.log(factor * xi_fine), np.log(ladder), np.arange(len(ladder)), left=np.nan)
        place = np.interp(fine, w_grid, columns)
        ax.plot(place, height, color="black", ls="-", lw=4)
        ax.plot(place, height, color="white", ls=dash, lw=2)
        at_text = {6: (7.6, 4.2), 1: (6.2, 1.4)}[factor] if not paper else (place[-1], height[-1])
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(*at_text, rf"${factor}\,\xi_c$", ha="center", va="center", bbox=box, fontsize=9)
    ax.axvline(list(w_grid).index(edge), color="black", ls=":", lw=1)
    ax.set(title=f"accuracy, {title}", xlabel=r"$\sigma_w$ (dotted: the edge)")
    ax.set(xlim=(-0.5, len(w_grid) - 0.5), ylim=(-0.5, len(depths) - 0.5))
    ax.set_xticks(columns, [f"{w:.2g}" for w in w_grid], fontsize=8)
    ax.grid(False)
axes[0].set_yticks(rows, [str(L) for L in depths])
axes[0].set_ylabel("depth L (affine layers)")
fig.colorbar(mesh, ax=axes, label="accuracy (chance 0.1)")
plt.show()

# %% [markdown]
# The picture of Schoenholz et al., from a hundred steps of training.
# On the training set the border of the bright region runs near the curve $6\,\xi_c$ on both sides, as long as that curve lies within our depths.
# So much for the rule. The right picture is less symmetric. On the ordered side the test accuracy has the same border.
# **On the chaotic side it is lost at one depth scale, not at six**: between the two curves most of these networks fit their training set and are near chance on new images.
#
# Both make sense. In the ordered phase all that tells inputs apart is $\delta \propto e^{-L/\xi_c}$;
# a hundred steps can amplify that by so much and no more, and what is lost is lost for training and test images alike.
# In the chaotic phase any two inputs are *far* apart, which is no obstacle to fitting them;
# but whether a new image resembles a training image is a matter of $c_L - c^* \propto e^{-L/\xi_c}$, and after one or two $\xi_c$ there is nothing left to generalize from.
# (Chapter 07 says the same in terms of the NTK, which is diagonal there.)
#
# ### What the factor 6 is worth
#
# A rule of thumb with a number in it should not depend on when we stop. So we look after each of the four numbers of steps.
# **Prediction** for the ordered side: $\delta$ falls by $e$ per $\xi_c$. If a factor $e$ in the steps makes up for a factor $e$ in $\delta$, it moves the border by one $\xi_c$.
#
# For each $\sigma_w$ and seed we take the depth at which half of the accuracy is lost
# (0.55 on the training set, half way between 1 and chance; 0.42 on the test set, half way between 0.74 and chance), interpolated in $\log L$, and divide by $\xi_c$.
# Means are over the $\sigma_w$ with $\xi_c < 5$, four on the ordered and three on the chaotic side: there at least 8.9 depth scales lie within our depths.


# %%
def half_depth(curves, level):
    """The depth where accuracy [..., depths] first falls below level; at most the first depth; nan where it does not."""
    out = np.full(curves.shape[:-1], np.nan)
    for index in np.ndindex(out.shape):
        below = np.nonzero(curves[index] < level)[0]
        if not len(below):
            continue
        k = below[0]
        if k == 0:
            out[index] = depths[0]
            continue
        high, low = curves[index][k - 1], curves[index][k]
        t = (high - level) / (high - low)
        out[index] = depths[k - 1] ** (1 - t) * depths[k] ** t
    return out


xi_c = np.asarray(at.xi_c)
sides = {"ordered": w_grid < edge - 1e-6, "chaotic": w_grid > edge + 1e-6}
halves = {("train", n): half_depth(scores[i, 0], 0.55) for i, n in enumerate(LOOKS)}
halves |= {("test", n): half_depth(scores[i, 1], 0.42) for i, n in enumerate(LOOKS)}
within = xi_c < 5  # 8.9 ξ_c and more lie within our depths: known before any network is trained
factors = {}  # of each seed: a mean over these σ_w
for (what, n), values in halves.items():
    for side, of_side in sides.items():
        chosen = of_side & within
        factors[what, side, n] = (values[:, chosen] / xi_c[chosen]).mean(1)
        mean, error = plotting.mean_and_error(factors[what, side, n])
        if what == "train" or n == 100:
            print(f"{what:5s} {side}, {n} steps, {chosen.sum()} σ_w: L = ({mean:.2g} ± {error:.1g}) ξ_c at half")
few, many = LOOKS[0], LOOKS[-1]
chosen = sides["ordered"] & within
moved = halves["train", many] - halves["train", few]
shift = (moved[:, chosen] / (np.log(many / few) * xi_c[chosen])).mean(1)
mean, error = plotting.mean_and_error(shift)
print(f"ordered: a factor e in the steps moves the border by ({mean:.2g} ± {error:.1g}) ξ_c; predicted 1")

ahead = on_test[:, list(w_grid).index(1.1)] - on_test[:, list(w_grid).index(edge)]
for L, mean, error in zip(depths, *plotting.mean_and_error(ahead), strict=True):
    print(f"depth {L:2d}: test accuracy at σ_w = 1.1 minus on the edge {mean:z.2f} ± {error:.2f}")

fixed = over_the_grid(np.full(len(w_grid), 0.03), depths[4])[at_100]  # one rate for all

# %% alt="Left: depth at which half of the training accuracy is lost against xi_c, logarithmic axes, after the fewest and after the most steps, on both sides; more steps lie higher. On the ordered side the points after the most steps lie above the dotted line of eight xi_c, the others near or between it and the dashed line of four. Right: accuracy at depth 32 against weight scale: training accuracy with the scaled rate is a broad hill around the edge; with one rate for all it is narrower; test accuracy is a lower hill whose top is on the ordered side."
fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2))
reach = np.array([1.0, 8.0])
for factor, dash in ((4, "--"), (8, ":")):
    left.plot(reach, factor * reach, color="black", ls=dash, lw=1, label=rf"{factor} $\xi_c$")
for i, (side, n) in enumerate((side, n) for side in sides for n in (few, many)):
    mean, error = plotting.mean_and_error(halves["train", n][:, sides[side]])
    left.errorbar(
        xi_c[sides[side]], mean, error, fmt=plotting.MARKERS[i], color=plotting.COLOURS[i],
        mfc="none" if n == few else None, capsize=2, label=f"{side}, {n} steps",
    )  # fmt: skip
left.set(xscale="log", yscale="log", xlabel=r"depth scale $\xi_c$ (layers)", ylabel="depth at half accuracy")
for axis, ticks in ((left.xaxis, (1, 2, 5)), (left.yaxis, (2, 5, 10, 20, 50))):
    axis.set_ticks(ticks, [str(t) for t in ticks])
    axis.set_ticks([], minor=True)
left.set_ylim(1.2, 60)
left.legend(loc="lower right")
for i, (label, values) in enumerate((
    ("train, η = 1/Θ", on_train[..., 4]), ("train, η = 0.03", fixed[0]), ("test, η = 1/Θ", on_test[..., 4]),
)):  # fmt: skip
    mean, error = plotting.mean_and_error(values)
    right.errorbar(
        w_grid, mean, error, color=plotting.COLOURS[i], fmt=plotting.MARKERS[i],
        ls=plotting.DASHES[i], lw=1, capsize=2, label=label,
    )  # fmt: skip
right.axvline(edge, color="black", ls=":", lw=1, label="edge")
right.set(xlabel=r"$\sigma_w$", ylabel=f"accuracy at depth {depths[4]}", ylim=(0, 1.02))
right.legend()
plt.show()

later = [factors["train", "ordered", n].mean() for n in LOOKS]
assert later == sorted(later)  # more steps, deeper networks
assert factors["test", "chaotic", 100].mean() < factors["train", "chaotic", 100].mean() / 2

# %% [markdown]
# - **The factor is not a constant.**
#   After a hundred steps half of the training accuracy is gone at $7.7 \pm 0.3$ depth scales on the ordered and $5.3 \pm 0.1$ on the chaotic side,
#   and in between lies the 6 of Schoenholz et al. After 25 steps it is at 5.5 and 3.8, after 150 steps at 9.4 and 5.5.
#   The number 6 belongs to our patience (and to the level of one half, and to the width) as much as to the network.
# - **The law is fair.** At one number of steps single $\sigma_w$ differ by a factor of up to two on the ordered side (left panel).
#   These numbers are for $\xi_c$ from 1 to 5 layers. Nearer to the edge the border lies near our deepest network or beyond it, and depth over width spoils training before.
# - **The prediction failed.** A factor $e$ in the steps moves the ordered border by $2.2 \pm 0.1$ depth scales, not by one.
#   More steps help twice as much as the decay of $\delta$ alone says. Why, we have not found out.
# - **Which side fails first?** On the training set, measured in $\xi_c$ and with $\eta = 1/\Theta(x,x)$: the chaotic side, a little.
#   With one rate for all both borders move inwards (right panel): on the ordered side the same step is too small for a small kernel, on the chaotic side it is too large for a large one.
#   Which fails first is then a matter of the rate. On the test set it is the chaotic side, by a factor of seven.
# - **Is the edge best?** For training the deepest networks, yes, within the errors. For new images, no: at depths 14 and 22, and on average at 8 and 32, networks a little on the *ordered* side, at $\sigma_w = 1.1$, do better.
#   (We saw this before we chose $\sigma_w = 1.1$ for the last row below, so that row tests nothing: it describes.)
#   At finite depth one needs a $\xi_c$ of some fraction of $L$, not $\xi_c = \infty$. And depth as such is no gain here: no depth clearly beats 4 in test accuracy.
#
# ## Claims

# %%
for name, (mean, error, of_maps) in fits.items():
    xi = float(scales.xi_c[names.index(name)])
    what = f"fitted depth scale of the correlation over ξ_c, tanh networks of width 1024, {name}"
    claim("H1", what=what, derived=of_maps / xi, measured=mean / xi, uncertainty=error / xi, seeds=seeds)
for name, (mean, error) in edges.items():
    b, w_star = cases[name][1:3]
    what = f"critical σ_w measured in networks, {name}, σ_b = {b:.2g}"
    claim("H2", what=what, derived=w_star, measured=mean, uncertainty=error, seeds=n_edges)

deep = on_train[..., list(depths).index(44)]
on_edge = deep[:, list(w_grid).index(edge)]
off = deep[:, (w_grid == 1.0) | (w_grid == 2.2)].mean(1)
shallow = on_test[..., list(depths).index(22)]
lost = "depth at which half of the {} accuracy is lost over ξ_c"
shifted = "shift of that depth for a factor e in the steps over ξ_c"
at_22 = (shallow[:, w_grid == edge] - shallow[:, w_grid == 1.1])[:, 0]
for what, values in (
    ("training accuracy at depth 44, σ_w on the edge minus mean of σ_w = 1.0 and 2.2", on_edge - off),
    *((f"{lost.format('training')}, {s} side, {n} steps", factors["train", s, n]) for s in sides for n in (few, many)),
    (f"{shifted}, ordered side, {few} to {many} steps", shift),
    (f"{lost.format('test')}, chaotic side, 100 steps", factors["test", "chaotic", 100]),
    ("test accuracy at depth 22, σ_w on the edge minus σ_w = 1.1 (ordered)", at_22),
):
    value, error = plotting.mean_and_error(values)
    claim("H3", what=what, measured=value, uncertainty=error, seeds=n_seeds)

# %% [markdown]
# ## What to take away
#
# - A deep random network is two maps: $q \mapsto V(q)$, then $c \mapsto f(c)$.
#   Phase: $\chi_1 = \sigma_w^2\,\mathbb E[\phi'(\sqrt q Z)^2]$ **at the fixed point** against 1. Depth scale: $\xi_c = -1/\log f'(c^*)$, in both phases.
# - The critical line is explicit in $q$: $\sigma_w^2 = 1/\mathbb E[\phi'^2]$, $\sigma_b^2 = q - \mathbb E[\phi^2]/\mathbb E[\phi'^2]$.
#   Ask of each activation whether it exists, and whether $\chi_q < 1$ on it.
#
# | | decay of $\lvert c_l - c^*\rvert$ | edge |
# |---|---|---|
# | off the edge | $e^{-l/\xi_c}$, to $1$ or to $c^*$ | |
# | smooth $\phi$, on it | $2/(\beta l)$ | a line |
# | ReLU, on it | $(9\pi^2/2)/l^2$ | a point |
# | tanh with layer norm | | a ray |
# | GELU, SiLU, small $\sigma_b$ | | a line whose $q$ repels |
# | softplus | | none |
#
# - Trainable depth grows with $\xi_c$ on both sides; the factor, from 4 to 9 here, is a matter of steps, level and width.
#   Depth at which a network *generalizes* does, too, with a factor of little more than one on the chaotic side.
#
# ## Where it breaks
#
# - **Width.** Everything rests on $L/n$ being small.
#   Noise in $c_l$ is of order $n^{-1/2}$, largest in the chaotic phase; the top row of the heat map has $L/n \approx 0.9$, and even on the edge training is no longer perfect there.
# - **Training.** $\xi_c$ is a property of the initialization. A network that moves its features (chapter 02) may leave the phase it started in.
# - **Architecture.** Skip connections change the maps (chapter 07); with layer norm only the ratio $\sigma_w/\sigma_b$ counts;
#   and dropout, which sends equal inputs to different ones, removes $c = 1$ as a fixed point and with it the edge (Schoenholz et al.).
# - **Two inputs of different norm** need the map with two variances. We scaled it away.
# - **"Critical" needs digits.** $\chi_1 - 1 = 10^{-3}$ is $\xi_c = 1000$.
#
# ## Exercises
#
# `exercises/06_edge_of_chaos.ipynb`, about 125 minutes: the variance map and its slope for any activation (06.1); the critical line by its parameterization (06.2);
# predict, then measure, how soon two images meet and two neighbors part (06.3); find the mistakes in a phase diagram (06.4);
# why the edge of GELU is of little use (06.5); the edge of an activation of your own (06.6).
#
# ## References
#
# - B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein, S. Ganguli, *Exponential Expressivity in Deep Neural Networks through Transient Chaos*, 2016, arXiv:1606.05340.
# - S. Schoenholz, J. Gilmer, S. Ganguli, J. Sohl-Dickstein, *Deep Information Propagation*, 2017, arXiv:1611.01232.
# - S. Hayou, A. Doucet, J. Rousseau, *On the Selection of Initialization and Activation Function for Deep Neural Networks*, 2018, arXiv:1805.08266.
# - S. Hayou, A. Doucet, J. Rousseau, *On the Impact of the Activation Function on Deep Neural Networks Training*, 2019, arXiv:1902.06853.
# - L. Xiao, J. Pennington, S. Schoenholz, *Disentangling Trainability and Generalization in Deep Neural Networks*, 2020, arXiv:1912.13053.
