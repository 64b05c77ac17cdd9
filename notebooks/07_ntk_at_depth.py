# %% [markdown]
# # 07 · The NTK at large depth
#
# **After this chapter you can**
#
# - say where the NTK of a very deep network ends, in each phase and on the edge of chaos, how fast, and with which constants;
# - explain why a kernel that is constant lets all outputs move together, and why one that is invertible can still say almost nothing;
# - read a statement about "the limit of infinite depth" and ask the questions that decide whether it is true: which pairs of inputs, which rate, which normalization.
#
# **Time:** 80 minutes for the chapter, 65 for the exercises without the open one. You need the recursion of chapter 03 and the phases of chapter 06.
#
# ## The question
#
# A wide network trains by its kernel $\Theta$ (chapters 03, 04). A deep network, says chapter 06, forgets its inputs, exponentially fast in the ordered and in the chaotic phase,
# slowly on the edge of chaos. So what is left of $\Theta$ at depth 30, 300, 3000? Hayou, Doucet and Rousseau (2019) answer:
# off the edge of chaos the NTK becomes constant, and a constant kernel cannot fit; on it, the limit is invertible, and *still* carries almost no information. The last sentence is
# puzzling. An invertible kernel fits any targets. In the discussion from which this chapter grew the question "how can both be true?" was left open. At the end of
# the chapter you can answer it with a formula of one line, and will also see what is *not* lost.

# %%
import itertools
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from scipy.interpolate import CubicSpline

import ntklib as ntk
from course import claim, reseed, scale
from ntklib import plotting

jax.config.update("jax_enable_x64", True)  # 1 − c falls to 1e-12 and below
plotting.use_style()
PAPER = scale() == "paper"
RELU, ERF, TANH, ELU = ntk.Relu(), ntk.Erf(), ntk.Tanh(), ntk.Elu()

# %% [markdown]
# The data are three disjoint subsets of mnist5k, each with 200 images for training and 300 for testing.
# Every image is divided by its norm.

# %%
SUBSETS, N, M = 3, 200, 300
data = ntk.load("mnist5k", n_train=SUBSETS * N, n_test=SUBSETS * M, seed=reseed(0)).flat()


def unit(x):
    """Inputs divided by their norms, float64."""
    x = np.asarray(x, float)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def subset(i):
    """Images of norm 1 and labels: x [N, d], y [N], and of the test set."""
    a, b = slice(i * N, (i + 1) * N), slice(i * M, (i + 1) * M)
    train = unit(data.x_train[a]), data.y_train[a]
    return *train, unit(data.x_test[b]), data.y_test[b]


x, labels, x_test, _ = subset(0)
cosines = x[:6] @ x_test[:6].T  # a few pairs of digits
pairs = np.sort(np.diag(cosines))
print("cosines of six pairs of digits:", np.round(pairs, 2))

# %% [markdown]
# ## Two numbers a layer
#
# Scale all inputs to the same norm, such that the first layer already has the variance $q$ of the fixed point, $\Sigma^1(x, x) = q$. Then the variance is $q$ in every layer,
# and a pair of inputs is described by its correlation $c_l$ alone. The recursion of chapter 03 becomes two lines, one for equal inputs and one for different ones:
#
# $$\Theta^{l+1}(x, x) = q + \chi_1\, \Theta^l(x, x), \qquad
# \Theta^{l+1}(x, x') = q\, c_{l+1} + \chi(c_l)\, \Theta^l(x, x'), \qquad \Theta^1 = \Sigma^1, \tag{1}$$
#
# where $\chi(c) = \sigma_w^2\, \mathbb E[\phi'(u)\phi'(v)]$ at correlation $c$, and $\chi_1 = \chi(1)$. $L$ counts *affine* layers: $\Theta^1$ is a
# linear model, $\Theta^2$ has one hidden layer. So the depth acts through a product, $\chi$ per layer, and a sum, one new $\Sigma$ per layer. Everything in this chapter follows from (1).
#
# Also, at any depth $\Theta^L(x, x')$ is *one scalar function* of the first correlation. We will use that for Gram matrices a hundred layers deep: compute the function at a few dozen
# points, $\log(1 - \Theta(x, x')/\Theta(x, x))$ against $\log(1 - \cos)$, with cubic splines between them. Here are this shortcut, and a test of it: ten layers, one by one, must give the same.


# %%
def first_delta(cosine, b_std, q):
    """1 − c after the first layer, at variance q: biases bring inputs nearer."""
    return (1 - b_std**2 / q) * (1 - np.asarray(cosine))


def deep_kernel(phi, w_std, b_std, q, depths, points=60):
    """ratio(i, cosines): Θ(x, x')/Θ(x, x) at depths[i] for inputs at first variance q."""
    # Chebyshev nodes in log(1 − cos), from 1e-4 (no two images are nearer) to 2
    nodes = (1 - np.cos(np.pi * np.linspace(0, 1, points))) / 2
    grid = 1e-4 * 2e4**nodes
    delta = first_delta(1 - grid, b_std, q)
    profile = ntk.ntk_depth_profile(phi, w_std, b_std, depths, delta=delta, q=q)
    gap = np.maximum(1 - np.asarray(profile.ratio), 1e-300)
    curves = [CubicSpline(np.log(grid), np.log(row)) for row in gap]

    def ratio(i, cosines):
        distance = np.maximum(1 - cosines, 1e-4)
        values = 1 - np.exp(curves[i](np.log(distance)))
        return np.where(1 - cosines < 1e-9, 1.0, values)

    return ratio


def inputs(x_unit, w_std, b_std, q):
    """Inputs scaled so that the first layer has the variance q, float32."""
    size = np.sqrt(x_unit.shape[1] * (q - b_std**2)) / w_std
    return jnp.asarray(size * x_unit, jnp.float32)


# %%
point = ntk.critical_point(ERF, 0.5)
widths = [x.shape[1]] + [1] * 10  # they play no role for the kernel
net = ntk.mlp(widths, activation=ERF, w_std=point.w_std, b_std=0.5, rngs=nnx.Rngs(0))
exact = net.kernel(np.asarray(inputs(x[:9], point.w_std, 0.5, point.q), float)).ntk
ratio = deep_kernel(ERF, point.w_std, 0.5, point.q, [10])
difference = np.abs(ratio(0, x[:9] @ x[:9].T) - exact / exact[0, 0]).max()
print("interpolated and computed layer by layer agree to 1e-5:", difference < 1e-5)
assert difference < 1e-5

# %% [markdown]
# ## Off the line: constant, or exploding
#
# **Ordered phase**, $\chi_1 < 1$: $c_l \to 1$ for all pairs. Then both lines of (1) have the same fixed point,
#
# $$\Theta^*_{\rm ord} = \frac{q}{1 - \chi_1}.$$
#
# *How fast?* Equal inputs: the error is multiplied by $\chi_1$ in each layer. Different inputs: $c_l$ is not at 1 yet, so the error $e_l$ is also *driven*. With $\delta_l = 1 - c_l \sim \chi_1^l$,
#
# $$e_{l+1} \approx \chi_1 e_l + q\,\delta_{l+1} + \big(\chi_1 - \chi(c_l)\big)\, \Theta^*_{\rm ord}.$$
#
# - Smooth $\phi$: $\chi_1 - \chi(c) \propto \delta$. The drive decays like $\chi_1^l$, exactly as fast as the error itself: resonance, $e_L \sim L\,\chi_1^L$.
# - ReLU: $\chi(c) = \chi_1 (1 - \theta/\pi)$ with $\theta = \arccos c \approx \sqrt{2\delta}$.
#   The drive decays like $\chi_1^{l/2}$, *slower* than the error, and wins: $e_L \sim \chi_1^{L/2}$.
#   A kink halves the rate.
#
# **Chaotic phase**, $\chi_1 > 1$: correlations of different inputs tend to $c^* < 1$, where $\chi_{c^*} = \chi(c^*) < 1$. So
#
# $$\Theta^L(x, x') \to \frac{q\,c^*}{1 - \chi_{c^*}}, \qquad\text{but}\qquad \Theta^L(x, x) = q\,\frac{\chi_1^L - 1}{\chi_1 - 1} \to \infty.$$
#
# The off-diagonal is constant (error $\sim L\,\chi_{c^*}^L$), the diagonal grows without bound. No constant kernel there: divided by its diagonal, it is the *identity*.
#
# **Measurement**: the six pairs of digits. `ntk.ntk_depth_profile` runs (1) in $\delta$, without cancellation.

# %%
OFF_LINE = {
    "ordered, erf": (ERF, 1.0, 0.05**0.5),
    "ordered, ReLU": (RELU, 1.4**0.5, 0.1**0.5),
    "chaotic, erf": (ERF, 2.5**0.5, 0.05**0.5),
}
depths = np.arange(1, 161)


def slopes_over_depth(depths, values):
    """Slope of log(values) [T, pairs] per layer, one for each pair."""
    return np.polyfit(depths, np.log(values), 1)[0]


errors, rates = {}, {}
for name, (phi, w_std, b_std) in OFF_LINE.items():
    s = ntk.depth_scales(phi, w_std, b_std)
    q, c, chi_c = float(s.q), float(s.c), float(s.chi_c)
    delta = first_delta(pairs, b_std, q)
    profile = ntk.ntk_depth_profile(phi, w_std, b_std, depths, delta=delta, q=q)
    end = q * c / (1 - chi_c)
    errors[name] = np.abs(np.asarray(profile.ntk_off_diagonal) - end) / end
    smooth = "ReLU" not in name
    law = np.log(chi_c) if smooth else np.log(chi_c) / 2
    late = slice(70, 140)
    power = depths[:, None] if smooth else 1.0  # L χ^L, or χ^(L/2)
    rates[name] = law, slopes_over_depth(depths[late], (errors[name] / power)[late])
    print(f"{name}: Θ(x, x') → {end:.4g}; ", end="")
    print(f"rate predicted {law:.3g}, measured {rates[name][1].mean():.3g}")

# %% [markdown]
# Then the diagonal in the chaotic phase, for five digits as they are.
# Their norms differ, and so does the variance $q$ in the first layer.

# %%
phi, w_std, b_std = OFF_LINE["chaotic, erf"]
norms = np.mean(np.asarray(data.x_train[:5], float) ** 2, axis=1)
diagonals = []
for norm in norms:
    q = w_std**2 * norm + b_std**2
    profile = ntk.ntk_depth_profile(phi, w_std, b_std, depths, delta=np.zeros(6), q=q)
    diagonals.append(np.asarray(profile.ntk_diagonal)[:, 0])
diagonals = np.array(diagonals)
chi_1 = float(ntk.depth_scales(phi, w_std, b_std).chi_1)
growth = slopes_over_depth(depths[50:], diagonals[:, 50:].T)
print(f"chaotic, erf: growth of Θ(x, x) predicted {np.log(chi_1):.3g}, ", end="")
print(f"measured {growth.mean():.3g}; at L = 100 it is {diagonals[0, 99]:.1e}")

for law, measured in rates.values():
    assert abs(np.median(measured) / law - 1) < 0.03  # a pair whose leading term is small has not arrived yet
assert np.abs(growth / np.log(chi_1) - 1).max() < 0.01

# %% alt="Two panels over depth with logarithmic vertical axes. Left: relative distance of the off-diagonal kernel entry to its limit; points for six digit pairs fall along straight or slightly bent theory lines, in the ordered phase for erf and ReLU and in the chaotic phase for erf; at depth 155 both erf sets are near 1e-8, ReLU, the steepest, near 1e-12. Right: in the chaotic phase the diagonal rises exponentially along the predicted line to 1e16, while the off-diagonal entries stay at about three."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
show = slice(4, None, 15)
for i, name in enumerate(errors):
    law = rates[name][0]
    power = depths if "ReLU" not in name else np.ones(len(depths))
    curve = power * np.exp(law * depths)
    curve *= np.exp(np.log(errors[name][100]).mean()) / curve[100]
    colour, dash = plotting.COLOURS[i], plotting.DASHES[i]
    left.plot(depths[20:], curve[20:], color=colour, linestyle=dash)
    style = {"color": colour, "markersize": 4, "alpha": 0.6}
    for j in range(len(pairs)):
        label = None if j else name
        left.plot(depths[show], errors[name][show, j], plotting.MARKERS[i], **style, label=label)
left.set(yscale="log", xlabel="depth L (affine layers)")
left.set_ylabel(r"$|\Theta(x, x') - \Theta^*|/\Theta^*$")
left.legend()
right.plot(depths, diagonals[0, 50] * chi_1 ** (depths - 51.0), "k-", label=r"theory: $\chi_1^L$")
mean, error = plotting.mean_and_error(diagonals)
style = {"fmt": "o", "color": plotting.COLOURS[0], "label": "Θ(x, x), five digits"}
right.errorbar(depths[show], mean[show], error[show], **style)
s = ntk.depth_scales(phi, w_std, b_std)
end = float(s.q * s.c / (1 - s.chi_c))
off = end * (1 + errors["chaotic, erf"])
right.plot(depths[show], off[show, 0], "s", color=plotting.COLOURS[1], label="Θ(x, x')")
right.axhline(end, color="0.4", ls="--", label=r"theory: $q c^*/(1-\chi_{c^*})$")
right.set(yscale="log", xlabel="depth L (affine layers)", ylabel="chaotic, erf: kernel entry")
_ = right.legend()

# %% [markdown]
# Lines are the laws above with one constant each; points are pairs of digits.
# So "off the line the NTK converges exponentially to a constant" is right in the ordered phase and right off the diagonal in the chaotic one.
# On the chaotic diagonal it fails, by sixteen orders of magnitude at $L = 160$.
#
# ## What a constant kernel does
#
# Let the kernel of $N$ training inputs have $k_0$ on the diagonal and $k_0\lambda$ off it, so $\lambda$, without an index, is the ratio of the two:
#
# $$K = k_0\,\big[(1 - \lambda)\, I + \lambda\, \mathbf 1 \mathbf 1^\top\big]. \tag{2}$$
#
# $\mathbf 1 = (1, \dots, 1)$ is an eigenvector, with the eigenvalue $k_0(1 - \lambda + \lambda N)$: all outputs up together. Every vector that sums to zero is one as well, with the eigenvalue
# $k_0 (1 - \lambda)$: differences between outputs. Under gradient flow, $\dot r = -Kr/N$, the two parts of the residual decay as
#
# $$\bar r(t) = \bar r(0)\, e^{-k_0 t (1 - \lambda + \lambda N)/N}, \qquad r_i(t) - \bar r(t) = \big(r_i(0) - \bar r(0)\big)\, e^{-k_0 t (1 - \lambda)/N}.$$
#
# **Prediction.** In the ordered phase $\lambda \to 1$.
# The mean is learned at $t \approx 1/k_0$.
# Differences take $N/(1 - \lambda)$ times as long, for ever if $\lambda = 1$:
# then all outputs move by the same amount, the loss stops at half the variance of the targets, $\frac12 \mathrm{Var}(y)$, which is what a constant function achieves.
# On real data $\lambda$ differs from pair to pair, so we take the whole kernel and let `ntk.gradient_flow` predict.
#
# **Measurement.** Real networks: erf, ordered ($\sigma_w = 1$, $\sigma_b^2 = 0.05$, $\xi_c = 7$), width 128, 32 digits, target 1 for even and 0 for odd ones, trained to $t = 20/k_0$. As in chapter 03
# we train towards $y + f_0$, so that the residual starts at $-y$. The network is written in JAX as a scan over layers: one layer is compiled, not $L$.


# %%
def deep_net(phi, w_std, b_std):
    """apply_fn(params, x) of an MLP in the NTK parametrization, scanned over layers."""

    def affine(layer, h):
        w, b = layer
        return w_std / h.shape[-1] ** 0.5 * (h @ w) + b_std * b

    def apply_fn(params, x):
        h = affine(params["first"], x)
        h, _ = jax.lax.scan(lambda h, layer: (affine(layer, phi(h)), None), h, params["hidden"])
        return affine(params["last"], phi(h))

    return apply_fn


def draw(key, d, width, depth, outputs):
    """Standard normal weights and biases of a network of `depth` affine layers."""
    keys = iter(jax.random.split(key, 6))

    def layer(*shape):
        shapes = shape, (*shape[:-2], shape[-1])
        flat = [jax.random.normal(next(keys), (math.prod(s),), jnp.float32) for s in shapes]
        return tuple(a.reshape(s) for a, s in zip(flat, shapes, strict=True))  # vectors compile faster

    return {
        "first": layer(d, width),
        "hidden": layer(depth - 2, width, width),
        "last": layer(width, outputs),
    }


# %% [markdown]
# These networks are those of `ntk.mlp`: with the same weights both give the same outputs.


# %%
def through_the_library(params, phi, w_std, b_std, x):
    """Outputs of `ntk.mlp` with these weights, for a test."""
    (w_in, b_in), (w, b), (w_out, b_out) = params["first"], params["hidden"], params["last"]
    weights, biases = [w_in, *w, w_out], [b_in, *b, b_out]
    widths = [w_in.shape[0]] + [len(b) for b in biases]
    net = ntk.mlp(widths, activation=phi, w_std=w_std, b_std=b_std, rngs=nnx.Rngs(0))
    for layer, weight, bias in zip(net.layers[::2], weights, biases, strict=True):
        layer.W[...], layer.b[...] = weight, bias
    return net(x)


few, width, runs, steps = 32, 128, 4, 30
phi, w_std, b_std = OFF_LINE["ordered, erf"]
s = ntk.depth_scales(phi, w_std, b_std)
q = float(s.q)
x_few = inputs(x[:few], w_std, b_std, q)
y_few = jnp.asarray(labels[:few] % 2 == 0, jnp.float32)[:, None]
apply_fn = deep_net(jax.scipy.special.erf, w_std, b_std)
variance = float(y_few.var())
params = draw(jax.random.key(0), x.shape[1], 5, 4, 1)
difference = apply_fn(params, x_few) - through_the_library(params, phi, w_std, b_std, x_few)
assert jnp.abs(difference).max() < 1e-5

# %% [markdown]
# Four networks at each of three depths, and beside them gradient flow with the kernel of this depth.
# `along` is the share of the outputs' movement that lies along $(1, \dots, 1)$.

# %%
ordered_depths = (4, 10, 32)
ratio = deep_kernel(phi, w_std, b_std, q, ordered_depths)
diagonal = q * (1 - float(s.chi_1) ** np.array(ordered_depths)) / (1 - float(s.chi_1))
trained, flow, along = [], [], []
for i, depth in enumerate(ordered_depths):
    kernel = diagonal[i] * ratio(i, x[:few] @ x[:few].T)
    rate = 20 / diagonal[i] / steps

    def run(key, depth=depth, rate=rate):
        params = draw(key, x.shape[1], width, depth, 1)
        start = apply_fn(params, x_few)
        history = ntk.train(
            (apply_fn, params),
            x_few,
            y_few + start,
            optimizer=optax.sgd(rate),
            steps=steps,
            record=lambda p: apply_fn(p, x_few),
            progress=False,
        )
        return history.records[-1] - start

    keys = jax.random.split(jax.random.key(reseed(depth)), runs)
    trained.append(np.asarray(jax.jit(jax.vmap(run))(keys)))
    flow.append(np.asarray(ntk.gradient_flow(kernel, np.asarray(y_few, float), t=rate * steps)))
    along.append(few * trained[-1].mean((-1, -2)) ** 2 / (trained[-1] ** 2).sum((-1, -2)))

# %% [markdown]
# How much of the target's mean has been learned, and how much of the differences between outputs?


# %%
def learned(moved):
    """Shares learned of the mean and of the differences between outputs [.., N, 1]."""
    y = np.asarray(y_few)
    centred, target = moved - moved.mean(-2, keepdims=True), y - y.mean()
    return moved.mean((-1, -2)) / y.mean(), (centred * target).sum((-1, -2)) / (target**2).sum()


def losses(moved):
    return ((moved - np.asarray(y_few)) ** 2).mean((-1, -2)) / 2


shares = np.array([learned(m) for m in trained])  # [depths, 2, runs]
predicted_shares = np.array([learned(m) for m in flow])
end_loss = np.array([losses(m) for m in trained]).T / (variance / 2)
predicted_loss = np.array([losses(m) for m in flow]) / (variance / 2)
along = np.array(along)
flow_along = [few * m.mean() ** 2 / (m**2).sum() for m in flow]
for i, depth in enumerate(ordered_depths):
    print(f"L = {depth}: movement along (1,…,1): predicted {flow_along[i]:.3f}, ", end="")
    print(f"measured {along[i].mean():.2f}; ", end="")
    print(f"loss over Var(y)/2: {predicted_loss[i]:.2f}, {end_loss[:, i].mean():.2f}")

# %% alt="Two panels for depths 4, 10 and 32. Left: the share of the mean that is learned stays near one at all depths, the share of the differences falls from about one half to 0.06; points from trained networks lie on the predicted lines. Right: the final loss divided by half the variance of the targets rises from about 0.3 to 0.9, predicted line and measured points; a dotted line at one is the constant function."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2))
for i, label in enumerate(("mean", "differences")):
    plotting.theory_and_measurement(
        left,
        ordered_depths,
        predicted_shares[:, i],
        shares[:, i].T,
        label=label,
        series=i,
    )
left.set(
    xlabel="depth L (affine layers)",
    ylabel="share learned at t = 20/Θ(x, x)",
    ylim=(-0.05, 1.3),
)
left.legend()
plotting.theory_and_measurement(right, ordered_depths, predicted_loss, end_loss, label="loss", series=0)
right.axhline(1, color="0.4", ls=":", label="constant function")
right.set(
    xlabel="depth L (affine layers)",
    ylabel="final loss / (Var(y)/2)",
    ylim=(0, 1.3),
)
right.legend(loc="lower right")
for ax in (left, right):
    ax.set_xscale("log")
    ax.set_xticks(ordered_depths, [str(d) for d in ordered_depths])
    ax.set_xticks([], minor=True)

assert along[-1].mean() > 0.95
assert np.abs(end_loss.mean(0) - predicted_loss).max() < 0.2

# %% [markdown]
# At depth 32, four and a half depth scales, the networks learn the mean label and little else.
# "Cannot fit" is a statement about *time*: for every finite $L$ the ordered kernel is still positive definite, and $t \sim N/(k_0(1-\lambda))$ would do;
# but $1 - \lambda$ falls like $L\chi_1^L$, and a step size above $2/k_0$ makes the mean diverge (chapter 04), so the number of steps grows exponentially with depth.
#
# ## On the line: an effective depth
#
# On the edge of chaos $\chi_1 = 1$, and (1) gives at once, for every activation,
#
# $$\Theta^L(x, x) = q L.$$
#
# For different inputs we need how fast $\chi(c_l)$ tends to 1. Write down one layer's map near $c = 1$, and pass to the *inverse* of the small quantity, since that grows almost linearly.
#
# **ReLU.**
# In the angle, $\cos\theta_{l+1} = \big(\sin\theta_l + (\pi - \theta_l)\cos\theta_l\big)/\pi$,
# which expands to $\theta_{l+1} = \theta_l - \nu\,\theta_l^2 - \frac12 \nu^2\,\theta_l^3 + \dots$ with $\nu = \frac1{3\pi}$ (compare the powers of $\theta$ on both sides).
# So
#
# $$\frac1{\theta_{l+1}} = \frac1{\theta_l} + \nu + \tfrac32 \nu^2\, \theta_l + \dots \quad\Longrightarrow\quad
# \frac1{\theta_l} = \nu\,\big(l + \tfrac32 \log l + \dots\big),$$
#
# $$\chi(c_l) = 1 - \frac{\theta_l}\pi = 1 - \frac{3}{l + \frac32\log l + \dots}.$$
#
# **Smooth**, with $\phi''$ continuous.
# $\delta_{l+1} = \delta_l - \frac\beta2 \delta_l^2 + \frac\gamma6 \delta_l^3 - \dots$,
# where $\beta$ and $\gamma$ are the second and third derivative of the correlation map at 1 (`ntk.critical_point` has them).
# Both must be finite.
# So
#
# $$\frac1{\delta_{l+1}} = \frac1{\delta_l} + \frac\beta2 + \Big(\frac{\beta^2}4 - \frac\gamma6\Big)\delta_l + \dots \quad\Longrightarrow\quad
# \frac1{\delta_l} = \frac\beta2\,\big(l + h \log l + \dots\big), \quad h = 1 - \frac{2\gamma}{3\beta^2},$$
#
# $$\chi(c_l) = 1 - \beta\delta_l + \dots = 1 - \frac{2}{l + h\log l + \dots}.$$
#
# Both have one form: $\chi(c_l) = 1 - \dfrac{a}{l + h \log l + \dots}$, with $(a, h) = (3, \frac32)$ for ReLU and $(2,\ 1 - \frac{2\gamma}{3\beta^2})$ for smooth activations.
# It is as if the network had the *effective depth* $\tilde l = l + h \log l$.
# The correlation $c_{l+1}$ is $1 + O(1/l)$, without a logarithm.
# Insert $\Theta^l(x, x') = q\,(A\, l + \kappa \log l)$ into (1):
#
# $$\underbrace{A(l+1) + \kappa \log l}_{\text{left}} + O(\tfrac1l) = \underbrace{1}_{c_{l+1}} + A\, l + \kappa\log l - \underbrace{\frac{a}{l}\Big(1 - h\frac{\log l}{l}\Big)\big(A\, l + \kappa \log l\big)}_{\text{loss}}.$$
#
# Order 1: $A = 1 - aA$. Order $\frac{\log l}l$: $0 = -a\kappa + a h A$. So
#
# $$\boxed{\;\; \frac{\Theta^L(x, x')}{q L} = \frac1{1 + a} + \kappa\,\frac{\log L}{L} + O\Big(\frac1L\Big), \quad \frac{1}{1+a} = \begin{cases} \frac14 & \text{ReLU} \\ \frac13 & \text{smooth}\end{cases}, \quad
# \kappa = \frac{h}{1 + a} = \begin{cases} \frac38 \\ \frac13 - \frac{2\gamma}{9\beta^2}\end{cases} \;\;} \tag{3}$$
#
# The limit does not know the inputs: the gradients of *any* two different images have the cosine $\frac14$ ($\frac13$).
#
# **A kink in the slope.** ELU is in between: $\phi''$ jumps at zero, by $\Delta = 1$. Then $\gamma = \infty$, and (3) does not hold.
# (`critical_point(Elu(), 0.2).gamma` is 0.30: the average of $(\phi^{(3)})^2$ away from the jump, which means nothing here.)
# Two Gaussians at the angle $\theta \approx \sqrt{2\delta}$ have different signs with probability $\theta/\pi$, so $\mathbb E[\phi''(u)\phi''(v)] = \mathbb E[\phi''^2] - \Delta^2\theta/2\pi + \dots$
# Integrate twice:
#
# $$\chi(c) = 1 - \beta\delta + m\,\delta^{3/2} + \dots, \qquad \delta_{l+1} = \delta_l - \tfrac\beta2\delta_l^2 + \tfrac25 m\,\delta_l^{5/2} + \dots, \qquad m = \frac{\sqrt2}{3\pi}\, \sigma_w^2 q\, \Delta^2 .$$
#
# The same steps as above, with $p = \sqrt2\, m\, \beta^{-3/2}$, give $\chi(c_l) = 1 - \frac2l - \frac65\, p\, l^{-3/2}$, and with $\Theta^l = q\,(\frac13 l + B\, l^{1/2})$ in (1):
# $\frac12 B = -2B - \frac25 p$.
# **Regularity decides the rate:**
#
# | $\phi$ | limit | distance to it |
# |---|---|---|
# | kink in $\phi$ (ReLU) | $\frac14$ | $\frac38 \log L/L$ |
# | kink in $\phi'$ (ELU) | $\frac13$ | $-\frac4{25}\, p\, L^{-1/2} = -\frac{8}{75\pi}\, \sigma_w^2 q\, \Delta^2 \beta^{-3/2}\, L^{-1/2}$ |
# | neither (tanh, erf, GELU) | $\frac13$ | $\big(\frac13 - \frac{2\gamma}{9\beta^2}\big) \log L/L$ |
#
# The source (in the version of 2019) has $O(1/L)$ for ReLU and $\log L/L$ for smooth activations, ELU among them, and sees there the reason why tanh works better.
# A test that tells the rates apart: the distance to the limit times $L$ must rise with $\log L$ on a straight line of slope $\kappa$, where $O(1/L)$ would be flat.
# For ELU the distance times $\sqrt L$ must become flat, at $-0.403$ for $\sigma_b = 0.2$.
#
# For ELU the library has no closed form, and a layer by quadrature is too slow for a million of them.
# But one layer is a function of $\delta$ alone. Where $\phi'$ has a kink, it is a smooth function of $\sqrt\delta$: we compute it at 24 points and put polynomials through them.

# %%
ON_LINE = {
    "ReLU": (RELU, 0.0),
    "erf, 0.5": (ERF, 0.5),
    "erf, 0.05": (ERF, 0.05),
}
far = np.unique(np.geomspace(10, 1_000_000, 21).astype(int))
scaled, kappa, fitted = {}, {}, {}
for name, (phi, b_std) in ON_LINE.items():
    point = ntk.critical_point(phi, b_std)
    relu = name == "ReLU"
    q, limit = (1.0, 1 / 4) if relu else (point.q, 1 / 3)
    kappa[name] = 3 / 8 if relu else 1 / 3 - 2 * point.gamma / (9 * point.beta**2)
    delta = first_delta(pairs, b_std, q)
    profile = ntk.ntk_depth_profile(phi, point.w_std, b_std, far, delta=delta, q=q)
    assert np.abs(np.asarray(profile.ntk_diagonal)[:, 0] / (q * far) - 1).max() < 1e-8
    scaled[name] = (np.asarray(profile.ratio) - limit) * far[:, None]
    late = far >= 30_000
    fitted[name] = np.polyfit(np.log(far[late]), scaled[name][late], 1)[0]
    mean = fitted[name].mean()
    print(f"{name}: coefficient of log L/L predicted {kappa[name]:.4g}, ", end="")
    print(f"measured {mean:.4g}")
    assert abs(mean / kappa[name] - 1) < 0.01

slope_of_gap = np.polyfit(np.log(far[-8:]), np.log(scaled["ReLU"][-8:] / far[-8:, None]), 1)[0]
print(f"ReLU: slope of log|ratio − 1/4| over log L: {slope_of_gap.mean():.3f}")

# %%
elu = ntk.critical_point(ELU, 0.2)
layers = np.array([2, 5, 10, 20, 40, 80, 150])
nodes = np.cos(np.pi * (np.arange(24) + 0.5) / 24)  # of Chebyshev
root = 1e-4 + 0.97 * (1 + nodes) / 2  # √δ after the first layer
profile = ntk.ntk_depth_profile(ELU, elu.w_std, 0.2, layers, delta=root**2, q=elu.q)
new = np.asarray(profile.one_minus_c)[0]  # δ after the second
chi = (np.asarray(profile.ntk_off_diagonal)[0] / elu.q - (1 - new)) / (1 - root**2)
lost, turned = (
    jnp.asarray(np.polynomial.Polynomial.fit(root, v, 12, w=root**k).convert().coef[::-1])
    for v, k in (((root**2 - new) / root**4, 2), ((1 - chi) / root**2, 1))
)


@jax.jit
def through(delta, depths):
    """Θ(x, x')/Θ(x, x) of the ELU network at these depths, [T, pairs]."""

    def layer(_, state):
        delta, theta = state
        new = delta - jnp.polyval(lost, jnp.sqrt(delta)) * delta**2
        chi = 1 - jnp.polyval(turned, jnp.sqrt(delta)) * delta
        return new, 1 - new + chi * theta

    def advance(carry, stop):
        state = jax.lax.fori_loop(carry[0], stop, layer, carry[1])
        return (stop, state), state[1] / stop

    return jax.lax.scan(advance, (jnp.ones((), int), (delta, 1 - delta)), depths)[1]


difference = np.abs(through(root**2, layers) - profile.ratio).max()
print("ELU: polynomials and quadrature agree to 1e-8 up to L = 150:", difference < 1e-8)
assert difference < 1e-8

# %%
jump = -8 / (75 * np.pi) * elu.w_std**2 * elu.q * elu.beta**-1.5  # φ'' jumps by 1
delta = first_delta(pairs, 0.2, elu.q)
scaled_elu = (np.asarray(through(delta, far)) - 1 / 3) * np.sqrt(far)[:, None]
# The next terms of the expansion are log L/L and 1/L.
late = far >= 30_000
terms = np.stack([np.ones(len(far)), np.log(far) / np.sqrt(far), far**-0.5], axis=1)
fitted_elu = np.linalg.lstsq(terms[late], scaled_elu[late])[0][0]
print(f"ELU, σ_b = 0.2: coefficient of L^(-1/2) predicted {jump:.4g}, ", end="")
print(f"measured {fitted_elu.mean():.4g}")
positive = {}
for phi in (ntk.Gelu(), ntk.Silu()):
    p = ntk.critical_point(phi, 0.2)
    positive[phi.name] = 1 / 3 - 2 * p.gamma / (9 * p.beta**2)
    print(f"{phi.name}, σ_b = 0.2: κ = {positive[phi.name]:.3g}")
assert min(positive.values()) > 0

# %% alt="Four panels over depth from ten to a million on a logarithmic axis. Three show the distance of the kernel ratio to its limit, multiplied by the depth. ReLU: points rise along straight lines of slope three eighths, one for each digit pair. erf with bias 0.5: lines fall slowly. erf with bias 0.05: lines fall steeply and lie far apart. The fourth shows ELU, its distance multiplied by the square root of the depth: the three pairs come together and level off at the dashed prediction, minus 0.4."
fig, axes = plt.subplots(2, 2, figsize=(8.4, 6), sharex=True, layout="constrained")
axes = axes.ravel()
for ax, name in zip(axes, [*ON_LINE, "ELU"], strict=True):
    for j in (0, 2, 5):
        values = (scaled_elu if name == "ELU" else scaled[name])[:, j]
        if name != "ELU":
            line = values[-1] + kappa[name] * np.log(far / far[-1])
            ax.plot(far, line, color=plotting.COLOURS[j], ls="-", lw=1)
        ax.plot(
            far,
            values,
            plotting.MARKERS[j],
            color=plotting.COLOURS[j],
            markersize=4,
            label=f"cosine {pairs[j]:.2f}" if name == "ReLU" else None,
        )
    ax.set(xscale="log", ylabel="(ratio − limit) · L")
    if name != "ELU":
        ax.set_title(f"{name}: line of slope {kappa[name]:.3g}", fontsize=10)
axes[3].axhline(jump, color="black", ls="--", lw=1, label=f"predicted: {jump:.3g}")
axes[3].set(ylabel=r"(ratio − limit) · $\sqrt{L}$")
axes[3].set_title("ELU, 0.2", fontsize=10)
for ax in axes[2:]:
    ax.set_xlabel("depth L (affine layers)")
axes[3].legend()
_ = axes[0].legend()

# %% [markdown]
# The slope for ReLU is 0.375, not 0. On a log–log plot over two decades nobody would see it: the distance falls with a local slope of about $-0.93$, and a straight line through it looks convincing.
# The sign of $\kappa$ depends on the activation: $\kappa < 0$ where $\gamma > \frac32\beta^2$, as for erf, and then the ratio ends below $\frac13$; that of near inputs crosses $\frac13$ on the way.
# GELU and SiLU at $\sigma_b = 0.2$ have $\kappa > 0$ (0.087 and 0.187, computed above). Do not look for monotone convergence.
# ELU is smoother than ReLU and has the slowest rate of all: regularity is not a ladder, and a rate says nothing yet about what is kept.
#
# ## Where tanh and ReLU do differ
#
# The $\log$ is common to all pairs; it carries no information on the inputs.
# What matters is the part that *depends on the pair*, hidden in the $O(1/L)$.
# The recursions for $1/\theta$ and $1/\delta$ start at $1/\theta_1$ and $1/\delta_1$: a pair enters as a head start,
#
# $$\tilde l = l + l_0 + h \log(\cdot), \qquad l_0 = \frac{3\pi}{\theta_1}\ \text{(ReLU)}, \qquad l_0 = \frac{2}{\beta\,\delta_1}\ \text{(smooth)},$$
#
# and with (3) two pairs differ by $\Delta\Theta(x, x')/qL \approx \Delta l_0/((1+a)L)$ as soon as $L \gg l_0$.
# Since $\beta \to 0$ as $\sigma_b \to 0$ (tanh becomes linear there), the head start of a smooth network can be made as large as we like; that of ReLU is fixed.
# **Prediction** for $c_1 = 0.9$ against $0.1$, the spread times $L$:

# %%
some_depths = np.unique(np.geomspace(1, 1000, 25).astype(int))
three = np.array([0.1, 0.5, 0.9])
first, second = [0, 1, 0], [1, 2, 2]  # the pairs of correlations to compare
SPREADS = {"ReLU": (RELU, 0.0)} | {f"tanh, {b:g}": (TANH, b) for b in (0.5, 0.2, 0.05)}
ratios, spread, head_start, beta = {}, {}, {}, {}
for name, (phi, b_std) in SPREADS.items():
    point = ntk.critical_point(phi, b_std)
    q = 1.0 if name == "ReLU" else point.q
    profile = ntk.ntk_depth_profile(phi, point.w_std, b_std, some_depths, rho=three, q=q)
    ratios[name] = np.asarray(profile.ratio)
    spread[name] = 1000 * (ratios[name][-1, second] - ratios[name][-1, first])
    start = 2 / point.beta / (1 - three) / 3  # l_0/(1 + a)
    if name == "ReLU":
        start = 3 * np.pi / np.arccos(three) / 4
    head_start[name], beta[name] = start[second] - start[first], point.beta
    print(
        f"{name}: spread · L at L = 1000: predicted about {head_start[name][-1]:.3g}, ",
        end="",
    )
    print(f"measured {spread[name][-1]:.3g}")
    assert 0.75 < spread[name][-1] / head_start[name][-1] < 1.3
gain = {name: spread[name][-1] / spread["ReLU"][-1] for name in spread}
smooth_only = list(SPREADS)[1:]
over_beta = np.polyfit(
    np.log([beta[n] for n in smooth_only]),
    np.log([spread[n] for n in smooth_only]),
    1,
)[0]
print(f"slope of log spread over log β: {over_beta.mean():.2f}")
print("over ReLU: " + ", ".join(f"{n}: {g:.3g}" for n, g in gain.items()))

# %% alt="Kernel ratio against depth from 1 to 1000, logarithmic axis. Two curves for each of ReLU and tanh with bias 0.2 and 0.05, for a near and a far pair of inputs. The ReLU curves are nearly together at depth 100 and reach one quarter; those of tanh stay apart longer and come together towards one third, the later the smaller the bias."
fig, ax = plt.subplots(figsize=(6.6, 3.4))
for i, name in enumerate(("ReLU", "tanh, 0.2", "tanh, 0.05")):
    low, _, high = ratios[name].T
    colour, dash = plotting.COLOURS[i], plotting.DASHES[i]
    ax.plot(
        some_depths,
        high,
        color=colour,
        ls=dash,
        label=f"{name} (c = 0.9 above, 0.1 below)",
    )
    ax.plot(some_depths, low, color=colour, ls=dash)
    ax.fill_between(some_depths, low, high, color=colour, alpha=0.12)
for value, text in ((1 / 4, "1/4"), (1 / 3, "1/3")):
    ax.axhline(value, color="0.4", lw=0.8, ls=":")
    ax.text(1.02, value, text, transform=ax.get_yaxis_transform(), va="center")
ax.set(
    xscale="log",
    xlabel="depth L (affine layers)",
    ylabel="Θ(x, x')/Θ(x, x)",
    ylim=(0.05, 1.2),
)
_ = ax.legend(loc="upper right")

# %% [markdown]
# The estimate is good to a quarter: it takes the asymptotic law from the first layer on.
# So deep tanh keeps more of the data-dependent part than deep ReLU, 8 times more at $\sigma_b = 0.2$, 39 times at $0.05$.
# That is a *constant*, $\sim 1/\beta$, and not a slower law in $L$.
#
# ## Invertible, and silent
#
# Now the open question.
# The limit kernel is (2) with $k_0 = qL$ and $\lambda = \frac14$ or $\frac13$.
# Its smallest eigenvalue is $qL(1 - \lambda)$: the kernel is invertible, and *well conditioned* at that,
#
# $$\frac{\lambda_{\max}}{\lambda_{\min}} = 1 + \frac{\lambda}{1 - \lambda} N = 1 + \frac N3 \ \text{(ReLU)}, \qquad 1 + \frac N2\ \text{(smooth)}.$$
#
# Gradient descent fits any labels, quickly.
# And at a **new** input $x$?
# There $\Theta(x, x_i) = k_0\lambda$ for every $i$: $x$ is equally far from all training inputs.
# With the Sherman–Morrison formula,
#
# $$K^{-1} = \frac{1}{k_0(1 - \lambda)} \Big[I - \frac{\lambda\, \mathbf 1\mathbf 1^\top}{1 - \lambda + \lambda N}\Big], \qquad K^{-1} \mathbf 1 = \frac{\mathbf 1}{k_0 (1 - \lambda + \lambda N)},$$
#
# $$\boxed{\;\; f(x) = k_0\lambda\, \mathbf 1^\top K^{-1} y = \frac{\lambda N\, \bar y}{1 - \lambda + \lambda N} = \frac{N \bar y}{N + 3}\ \text{(ReLU)}, \qquad \frac{N\bar y}{N + 2}\ \text{(smooth)}. \;\;} \tag{4}$$
#
# The same value for every $x$: the mean label, shrunk a little.
# **That is how both can be true.** Invertible speaks about the training inputs: each has a direction of its own, the identity in (2), which can store any label.
# Informative speaks about the sharing *between* inputs, and here everyone shares equally with everyone.
# The network memorizes and does not generalize.
#
# **Prediction for finite $L$**: the test outputs have the mean (4), and a spread around it that falls like $1/L$ (from the head starts $l_0$), for ReLU with a small coefficient. **Measurement:**
# 200 digits, target 1 for even and 0 for odd, and 300 test digits, for three disjoint subsets.


# %%
def regress(ratio, i, targets, subset_data, ridge=0.0):
    """Outputs of kernel regression at depth i for the test inputs, [M, K]."""
    x, _, x_test, _ = subset_data
    k = ratio(i, x @ x.T) + ridge * np.eye(len(x))
    return ratio(i, x_test @ x.T) @ np.linalg.solve(k, targets)


subsets = [subset(i) for i in range(SUBSETS)]
point = ntk.critical_point(ERF, 0.5)
CRITICAL = {
    "ReLU": (deep_kernel, RELU, 2**0.5, 0.0, 1.0, 3),
    "erf, 0.5": (deep_kernel, ERF, point.w_std, 0.5, point.q, 2),
}
deep = np.array([10, 100, 1000, 10_000, 100_000])
means, spreads, smallest = {}, {}, {}
for name, (make, phi, w_std, b_std, q, _) in CRITICAL.items():
    ratio = make(phi, w_std, b_std, q, deep)
    for s in subsets:
        y = (s[1] % 2 == 0).astype(float)[:, None]
        values = np.linalg.eigvalsh(ratio(len(deep) - 1, s[0] @ s[0].T))
        smallest.setdefault(name, []).append(values[0])
        for i in range(len(deep)):
            f = regress(ratio, i, y, s)
            means.setdefault(name, []).append(f.mean() / y.mean())
            spreads.setdefault(name, []).append(f.std())
for found in (means, spreads, smallest):
    for name in found:
        found[name] = np.reshape(found[name], (SUBSETS, -1))
constant = {name: N / (N + setting[-1]) for name, setting in CRITICAL.items()}
for name in CRITICAL:
    mean, error = plotting.mean_and_error(means[name][:, -1])
    slope, _ = plotting.fit_slope(deep[-3:], spreads[name][:, -3:])
    print(
        f"{name}: f(x)/ȳ predicted {constant[name]:.4f}, at L = 1e5 {mean:.4f}; ",
        end="",
    )
    print(f"spread falls with slope {slope:.2f}; λ_min/(qL) = {smallest[name][:, 0].mean():.4f}")

# %% alt="Two panels over depth from 10 to 100000, logarithmic axis. Left: mean test output over mean label, for ReLU and erf, approaches the predicted lines just below one. Right: standard deviation of the test outputs over test inputs, from depth 100 on, falling with slope close to minus one on logarithmic axes from about 0.1 to 1e-4."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
for i, name in enumerate(CRITICAL):
    mean, error = plotting.mean_and_error(means[name])
    colour, marker = plotting.COLOURS[i], plotting.MARKERS[i]
    left.errorbar(
        deep,
        mean,
        error,
        fmt=marker,
        color=colour,
        capsize=2,
        label=f"{name}, measured",
    )
    text = f"theory: N/(N+{CRITICAL[name][-1]})"
    left.axhline(constant[name], color=colour, ls=plotting.DASHES[i], lw=1, label=text)
    plotting.rate(right, deep[1:], spreads[name][:, 1:], label=name, theory=-1, series=i)
left.set(
    xscale="log",
    xlabel="depth L (affine layers)",
    ylabel="mean test output / ȳ",
)
left.legend()
right.set(xlabel="depth L (affine layers)", ylabel="spread of test outputs")
right.legend()

for name in CRITICAL:
    a = CRITICAL[name][-1]
    assert np.abs(means[name][:, -1] / constant[name] - 1).max() < 1e-3
    assert abs(plotting.fit_slope(deep[-3:], spreads[name][:, -3:])[0] + 1) < 0.05
    assert np.abs(smallest[name][:, 0] - a / (1 + a)).max() < 1e-3

# %% [markdown]
# ## How well it predicts, against depth
#
# All ten classes now: one output for each, centered one-hot targets, a relative ridge of $10^{-4}$, three subsets.
# Two measures: the *accuracy* of the largest output, and the *explained share* of the targets, $R^2 = 1 - \sum\|f - y\|^2/\sum\|y - \bar y\|^2$.
# On the line ReLU, tanh and ELU; off the line erf, in both phases (erf stands for tanh there because it has closed forms).

# %%
classes = np.eye(10)


def accuracy_and_share(ratio, i, s):
    y, y_test = classes[s[1]] - 0.1, classes[s[3]] - 0.1
    f = regress(ratio, i, y, s, ridge=1e-4)
    share = 1 - ((f - y_test) ** 2).sum() / ((y_test - y.mean(0)) ** 2).sum()
    return (f.argmax(1) == s[3]).mean(), share


REGRESSIONS = {"ReLU, on the line": (RELU, 2**0.5, 0.0, 1.0)}
for phi in (TANH, ELU):
    p = ntk.critical_point(phi, 0.2)
    REGRESSIONS[f"{phi.name}, on the line"] = (phi, p.w_std, 0.2, p.q)
for name in ("ordered, erf", "chaotic, erf"):
    phi, w_std, b_std = OFF_LINE[name]
    q = float(ntk.depth_scales(phi, w_std, b_std).q)
    REGRESSIONS[f"erf, {name[:7]}"] = (phi, w_std, b_std, q)

# %%
layers = np.array([2, 5, 10, 20, 40, 80, 150, 400])
quality = {}
for name, setting in REGRESSIONS.items():
    # By quadrature (tanh, ELU) a layer is slow: fewer points, and not so deep.
    slow = setting[0] in (TANH, ELU)
    some, points = (layers[:-1], 24) if slow else (layers, 60)
    ratio = deep_kernel(*setting, some, points)
    found = [[accuracy_and_share(ratio, i, s) for i in range(len(some))] for s in subsets]
    quality[name] = np.array(found)  # [subsets, depths, 2]
    acc, share = quality[name].mean(0).T
    print(f"{name:18} accuracy at L = 2, 20, 150: {acc[0]:.2f}, {acc[3]:.2f}, {acc[6]:.2f}; ", end="")
    print(f"R² {share[0]:.2f}, {share[3]:.2f}, {share[6]:z.2f}")

# %% [markdown]
# Very deep, at $L = 10^4$: what classifier is left in the order of the outputs?
# And what is left of it after rounding to float32, or with noise in the kernel?

# %%
ratio = deep_kernel(RELU, 2**0.5, 0.0, 1.0, [10_000])
ordering, left_over, share_left, in_float32, in_noise = [], [], [], [], []
rng = np.random.default_rng(reseed(0))
for s in subsets:
    acc, share = accuracy_and_share(ratio, 0, s)
    weights = 1 / np.arccos(s[2] @ s[0].T)
    y = classes[s[1]]
    ordering.append(((weights @ (y - y.mean(0))).argmax(1) == s[3]).mean())
    left_over.append(acc)
    share_left.append(share)
    # The same in float32, without a ridge, and with noise of 3/L of the diagonal in every entry.
    k, k_test = ratio(0, s[0] @ s[0].T), ratio(0, s[2] @ s[0].T)
    f = k_test.astype("f4") @ np.linalg.solve(k.astype("f4"), (y - 0.1).astype("f4"))
    in_float32.append((f.argmax(1) == s[3]).mean())
    noise, noise_test = (3e-4 * rng.normal(size=a.shape) for a in (k, k_test))
    f = (k_test + noise_test) @ np.linalg.solve(k + (noise + noise.T) / 2**0.5, y - 0.1)
    in_noise.append((f.argmax(1) == s[3]).mean())
print(f"ReLU, L = 10000: R² = {np.mean(share_left):.1g}, accuracy {np.mean(left_over):.2f}; ", end="")
print(f"weights 1/θ: {np.mean(ordering):.2f}")
print(f"in float32: {np.mean(in_float32):.2f}; ", end="")
print(f"with noise of 3/L in the kernel: {np.mean(in_noise):.2f}")
assert np.abs(np.array(in_float32) - left_over).max() < 0.02
assert np.mean(in_noise) < np.mean(left_over) - 0.1

# %% alt="Two panels over depth 2 to 400. Left: explained share R squared; on the line it falls slowly, for ReLU to 0.04 at depth 400, for tanh and ELU later; chaotic erf falls to zero by depth 40, ordered erf rises to 0.58, has 0.53 at depth 80 and then drops to zero. Right: accuracy; on the line it stays between 0.73 and 0.85 at all depths, off the line it drops to chance, the chaotic one at depth 150, the ordered one at 400."
fig, axes = plt.subplots(1, 2, figsize=(9, 3.5))
for ax, which, label in zip(axes, (1, 0), ("explained share R²", "accuracy"), strict=True):
    for i, name in enumerate(quality):
        mean, error = plotting.mean_and_error(quality[name][..., which])
        ax.errorbar(
            layers[: len(mean)],
            mean,
            error,
            color=plotting.COLOURS[i],
            marker=plotting.MARKERS[i],
            ls=plotting.DASHES[i],
            markersize=4,
            capsize=2,
            label=name,
        )
    ax.set(xscale="log", xlabel="depth L (affine layers)", ylabel=label)
axes[1].axhline(0.1, color="0.4", lw=0.8, ls=":")
_ = axes[0].legend()

# %% [markdown]
# Look at the two panels together.
# On the line, ReLU at $L = 150$ explains a tenth of the targets, at $L = 400$ half of that; but its *accuracy* is still three quarters.
# Even at $L = 10^4$, where the outputs are constant to a few thousandths, the largest of ten nearly equal outputs is right three times in four.
# Why?
# To first order in $1/L$ the output is a number that is the same for every $x$, near (4), plus a constant times $\frac1L \sum_i l_0(x, x_i)\,(y_i - \bar y)$: a vote of the training images, with the head starts as weights.
# Our classes are equally frequent, so (4) is 0 for all ten outputs; if they were not, (4) would decide, and every $x$ would get the most frequent class.
# With $l_0 \propto 1/\theta$ alone one gets nearly the same accuracy ("weights 1/θ" in the output).
# So the limit says nothing, but the *approach* to it says something, at every depth: a whisper of relative size $1/L$.
# "Almost no information" is right about its size and wrong about its content.
#
# Whether the whisper is heard depends on the noise.
# Rounding is not the trouble: $10^{-7}$ is far below $1/L$, and kernel and solve in float32 classify as well.
# Noise of $3/L$ of the diagonal in each entry is: the accuracy falls from 0.74 to 0.20 (last line of the output).
# A real network of width $n$ has fluctuations of order $\sqrt{L/n}$, much larger than that.
# Off the line the whisper is exponentially small.
# In the chaotic phase the regression explains nothing beyond $L = 40$.
# In the ordered phase it does well for surprisingly long, up to $L = 80$ or eleven depth scales:
# only because the ridge is as small as $10^{-4}$, that is, because it is *trained for a long time* (we tried: with $10^{-2}$ $R^2$ is 0.08 there, and $L = 150$ takes $10^{-8}$ and float64).
# This is the other side of the previous section, and Xiao et al. (2020) draw the distinction: ordered kernels *generalize* but cannot be *trained*, chaotic ones train and do not generalize.
#
# ## Real networks
#
# Hayou et al. trained networks of depth 300 and width 300: after ten epochs of MNIST tanh and ELU are above 91 %, ReLU at 47 ± 12 %; after a hundred 96 % and 82 ± 5 %.
# We take the deepest that trains within this chapter's time, depth 50, and beside it depth 12, at which ReLU trains as well.
# Width 64, 1000 digits of mnist5k, cross-entropy, SGD with batches of 64, 200 steps; three networks at depth 50, four at depth 12.
# Both activations are on the line and take the rate $\eta = 10/(qL)$, so that steps have the same size in units of the kernel's diagonal.
# (At depth 50 we tried six rates from 0.3 to 40 over $qL$: tanh is best at 10 to 20, and the mean accuracy of ReLU stays below 0.2 at every one.)

# %%
DEPTH, WIDTH, STEPS, TRAIN = (300, 300, 6000, 4000) if PAPER else (50, 64, 200, 1000)
digits = ntk.load("mnist5k", n_train=TRAIN, n_test=500).flat()
nets = {DEPTH: 3, 12: 4}  # depth: how many
record_at = [0, STEPS // 4, STEPS // 2, 3 * STEPS // 4, STEPS]
point = ntk.critical_point(TANH, 0.2)
NETWORKS = {
    "tanh": (jnp.tanh, point.w_std, 0.2, point.q),
    "ReLU": (jax.nn.relu, 2**0.5, 0.0, 1.0),
}
curves = {}
y, y_test = jnp.asarray(digits.y_train), jnp.asarray(digits.y_test)
for (name, (phi, w_std, b_std, q)), L in itertools.product(NETWORKS.items(), nets):
    apply_fn = deep_net(phi, w_std, b_std)
    a, b = (inputs(unit(v), w_std, b_std, q) for v in (digits.x_train, digits.x_test))

    def one(key, apply_fn=apply_fn, a=a, b=b, L=L, rate=10 / (q * L)):
        params = draw(key, a.shape[1], WIDTH, L, 10)
        return ntk.train(
            (apply_fn, params),
            a,
            y,
            loss="cross_entropy",
            optimizer=optax.sgd(rate),
            steps=STEPS,
            batch_size=64,
            key=key,
            record_at=record_at,
            progress=False,
            record=lambda p: jnp.mean(apply_fn(p, b).argmax(-1) == y_test),
        ).records

    keys = jax.random.split(jax.random.key(reseed(0)), nets[L])
    curves[name, L] = np.asarray(jax.jit(jax.vmap(one))(keys))
    mean, error = plotting.mean_and_error(curves[name, L][:, -1])
    print(f"{name} on the line, depth {L}: test accuracy {mean:.2f} ± {error:.2f}")

# %% alt="Test accuracy against training step. At depth 50 tanh on the line rises to above one half and ReLU stays between one tenth and one fifth. At depth 12 both rise to more than one half."
fig, ax = plt.subplots(figsize=(6, 3.2))
for i, ((name, L), acc) in enumerate(curves.items()):
    mean, error = plotting.mean_and_error(acc)
    ax.errorbar(
        record_at,
        mean,
        error,
        color=plotting.COLOURS[i],
        marker=plotting.MARKERS[i],
        ls=plotting.DASHES[i],
        capsize=3,
        label=f"{name}, depth {L}",
    )
ax.axhline(0.1, color="0.4", lw=0.8, ls=":", label="chance")
ax.set(
    xlabel="step",
    ylabel="test accuracy",
    ylim=(0, 1),
    title=f"on the line, width {WIDTH}",
)
_ = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
advantage, advantage_error = plotting.mean_and_error(curves["tanh", DEPTH][:, -1] - curves["ReLU", DEPTH][:, -1])
at_twelve, at_twelve_error = plotting.mean_and_error(curves["tanh", 12][:, -1] - curves["ReLU", 12][:, -1])
assert advantage > 3 * advantage_error

# %% [markdown]
# Tanh wins clearly at depth 50. But ReLU does not train there at all, so the run cannot say why. Two reasons are possible, of which the kernel knows only one:
#
# 1. The data-dependent part of its kernel is eight times larger (the spread above).
# 2. These networks are about as deep as wide, so the infinite-width kernel describes neither.
#    In a ReLU network $V(q) = q$: nothing brings a layer's variance back, and its random deviations, of relative size $\sqrt{5/n}$ per layer, multiply up over the layers.
#    For tanh $\chi_q = 0.54$: half of each deviation is forgotten in the next layer.
#    So the scale of a ReLU network's outputs and gradients differs from draw to draw, and one learning rate cannot suit them all.
#
# We have not separated the two, and the mechanism is untested; both fade together with the depth.
# At depth 12 both networks train, and tanh is still ahead: 0.83 against 0.67 after 200 steps, where ReLU is still rising.
# This is a short run at a small scale: what we report is the difference, on three seeds and on four.
#
# ## Residual nets
#
# Blocks $z^{l+1} = z^l + W\phi(z^l)$ with ReLU, no biases, weight variance $\sigma_w^2$; write $s = \sigma_w^2/2$. Now (1) reads (all from $\Sigma$ and $\Theta$ of a sum of independent parts)
#
# $$q_{l+1} = (1 + s)\, q_l, \qquad \Theta^{l+1}(x, x) = (1 + s)\, \Theta^l(x, x) + s\, q_l$$
#
# and hence
#
# $$\Theta^L(x, x) = (1 + s)^{L-1} q_1 \big(1 + \rho\,(L - 1)\big), \quad \rho = \frac{s}{1 + s}.$$
#
# So the normalizer is $L\,(1 + \sigma_w^2/2)^{L-1}$; the $2^L$ of the first versions is right for $\sigma_w^2 = 2$ only, up to the factor $L$.
# Correlations take the ReLU step *times* $\rho$, $\theta_{l+1} \approx \theta_l - \rho\,\theta_l^2/3\pi$:
# the effective depth is $\rho\, l$ in place of $l$, and the ratio goes to $\frac14$ for **every** $\sigma_w$.
# A residual net needs no tuning to be "on the line".
# If the $l$-th branch is scaled, so is its contribution:
#
# | branch scale | effective depth | ratio |
# |---|---|---|
# | 1 | $\rho\, L$ | $\to \frac14$, distance $\frac38 \log L/L$ |
# | $1/\sqrt l$ | $s \sum 1/l \approx s \log L$ | $\to \frac14$, but only like $1/\log L$ |
# | $1/\sqrt{L}$ | $s$, whatever $L$ | a limit that *depends on the inputs* |
#
# In the last case depth becomes a continuous time $\tau$ from 0 to $s$: with $g(\theta) = (\sin\theta + (\pi - \theta)\cos\theta)/\pi$ for one ReLU layer,
# $\dot c = g - c$, and $\dot\Theta = g - \frac{\theta}{\pi} \Theta$ (after division by the growing variance). **Prediction** by a thousand midpoint steps, **measurement** by the recursion:


# %%
def g(c):
    theta = np.arccos(np.clip(c, -1, 1))
    return (np.sin(theta) + (np.pi - theta) * c) / np.pi, theta / np.pi


def continuous(c, s, steps=1000):
    """Θ(x, x')/Θ(x, x) at the end of a residual net of effective depth s."""
    theta, h = c, s / steps
    for _ in range(steps):
        middle, turned = g(c)
        c_half = c + h / 2 * (middle - c)
        theta_half = theta + h / 2 * (middle - turned * theta)
        middle, turned = g(c_half)
        c, theta = c + h * (middle - c_half), theta + h * (middle - turned * theta_half)
    return theta / (1 + s)


# %%
blocks = np.unique(np.geomspace(2, 1_000_000, 20).astype(int))
residual = {}
for kind, w2 in (("plain", 0.5), ("plain", 2.0), ("plain", 4.0), ("1/sqrt(l)", 2.0)):
    p = ntk.ntk_depth_profile(RELU, w2**0.5, 0.0, blocks, rho=0.5, q=1.0, residual=kind)
    residual[kind, w2] = p
shallow = [3, 10, 100, 1000]
whole = []
for n in shallow:
    p = ntk.ntk_depth_profile(RELU, 2**0.5, 0.0, [n], rho=0.5, q=1.0, residual="1/sqrt(L)")
    whole.append(float(p.ratio[0]))
limit_whole = continuous(0.5, 1.0)
print(f"1/√L: ratio predicted {limit_whole:.4f}, at L = 1000 {whole[-1]:.4f}")

# %% [markdown]
# For plain blocks we fit the coefficient of $\log L/L$, predicted $\frac38$, and look at the normalizer at a moderate depth.

# %%
residual_kappa = []
for w2 in (0.5, 2.0, 4.0):
    p = residual["plain", w2]
    gap = (np.asarray(p.ratio) - 1 / 4) * blocks
    residual_kappa.append(np.polyfit(np.log(blocks[-5:]), gap[-5:], 1)[0])
    normaliser = float(p.ntk_diagonal[5]) / (blocks[5] * (1 + w2 / 2) ** (blocks[5] - 1.0))
    share = (w2 / 2) / (1 + w2 / 2)
    print(f"σ_w² = {w2:g}: coefficient of log L/L {residual_kappa[-1]:.3f}; ", end="")
    print(f"Θ(x,x)/(L (1+s)^(L-1)) at L = {blocks[5]}: {normaliser:.3f}, limit ρ = {share:.3f}")
print(f"1/√l: ratio at L = 1e6: {float(residual['1/sqrt(l)', 2.0].ratio[-1]):.3f}")

# %% alt="Kernel ratio of residual networks against depth from 2 to a million, logarithmic axis. Plain blocks with three weight variances fall to one quarter; branches scaled by one over root l fall slowly and are at 0.34 at a million; branches scaled by one over root L stay at the predicted line 0.46."
fig, ax = plt.subplots(figsize=(6.6, 3.4))
for i, ((kind, w2), p) in enumerate(residual.items()):
    label = f"σ_w² = {w2:g}" if kind == "plain" else "branches 1/√l, σ_w² = 2"
    ax.plot(
        blocks,
        p.ratio,
        color=plotting.COLOURS[i],
        marker=plotting.MARKERS[i],
        ls=plotting.DASHES[i],
        markersize=4,
        label=label,
    )
ax.plot(shallow, whole, "X", color="black", label="branches 1/√L, measured")
ax.axhline(limit_whole, color="black", ls="--", lw=1, label="the same, predicted")
ax.axhline(1 / 4, color="0.4", ls=":", lw=1, label="1/4")
ax.set(
    xscale="log",
    xlabel="depth L (affine layers)",
    ylabel="Θ(x, x')/Θ(x, x)",
    ylim=(0.23, 0.64),
)
_ = ax.legend(ncols=2, loc="upper right")
assert abs(whole[-1] - limit_whole) < 1e-3
assert np.abs(np.array(residual_kappa) * 8 / 3 - 1).max() < 0.03

# %% [markdown]
# ## Contested statements
#
# Five statements of the literature did not come out as they stand. For each: what is claimed, what we find, and how far we trust either. The claims are those of the version of 1905.13654 submitted in
# 2019. Later versions carry the title "Exact convergence rates" and may have mended some; we did not verify which.
#
# | claimed | found | trust |
# |---|---|---|
# | Off the line $\sup_{x, x'} \lvert\Theta^L - \lambda\rvert \le e^{-\gamma L}$, in both phases | ordered: yes. Chaotic: off-diagonal yes, diagonal $\sim \chi_1^L$ | high: one line of algebra, and Xiao et al. (2020) find the same |
# | On the line, ReLU: distance $O(1/L)$ | $\frac38 \log L/L$ | high: expansion and $10^6$ layers agree to $10^{-3}$ |
# | ... with $\sup$ over all $x \ne x'$ | cannot converge: see below | high: continuity |
# | Smooth activations are slower by a $\log$, therefore better | tanh: same rate, a constant $\sim 1/\beta$ in its favor; ELU: slower, $L^{-1/2}$ | rate: high. That the constant is *why* deep tanh nets train better: moderate, finite width also matters |
# | Residual nets: normalizer $2^L$ | $L(1 + \sigma_w^2/2)^{L-1}$ | high: exact solution |
#
# **The supremum.** $\Theta^L$ is continuous: as $x' \to x$, $\Theta^L(x, x') \to \Theta^L(x, x)$, which is $qL$ and not $qL/4$.
# At *every* depth there are pairs whose ratio is as near to 1 as you like, namely those with a head start $l_0 \gg L$.
# The statement is true for pairs with $c_1 \le 1 - \varepsilon$, with constants that depend on $\varepsilon$:

# %%
near = np.array([1e-1, 1e-4, 1e-7, 1e-10])
profile = ntk.ntk_depth_profile(RELU, 2**0.5, 0.0, [1000, 100_000], delta=near, q=1.0)
for depth, row in zip((1000, 100_000), np.asarray(profile.ratio), strict=True):
    cells = [f"{d:.0e}: {v:.3f}" for d, v in zip(near, row, strict=True)]
    print(f"ReLU, L = {depth}: ratio at 1 − c = " + ", ".join(cells))
assert profile.ratio[0, -1] > 0.95
assert profile.ratio[1, 0] < 0.251

# %% [markdown]
# ## Claims
#
# Infinite-width numbers are computed and have no random seeds.
# Their uncertainty, the scatter over pairs of digits (six), images (five) or subsets of the data (three) or the accuracy of the fit, 1 %, says how far another run may be off;
# the verdict does not use it.


# %%
def scatter(values, floor=0.0):
    values = np.asarray(values)
    return values.mean(), max(values.std(ddof=1), floor * abs(values.mean()))


for name, text in (
    ("ordered, erf", "ordered, erf: rate per layer of |Θ(x,x') − q/(1−χ_1)|/L"),
    ("ordered, ReLU", "ordered, ReLU: rate per layer of |Θ(x,x') − q/(1−χ_1)|"),
    ("chaotic, erf", "chaotic, erf: rate per layer of |Θ(x,x') − qc*/(1−χ_c*)|/L"),
):
    law, measured = rates[name]
    value, error = scatter(measured, 0.01)
    claim("H4", what=text, derived=law, measured=value, uncertainty=error)
value, error = scatter(growth, 0.001)
claim("H4", what="chaotic, erf: growth rate per layer of Θ(x,x)", measured=value, uncertainty=error)

# %%
for what, derived, values in (
    ("share of the outputs' movement along (1,…,1), ordered erf, L = 32, width 128", flow_along[-1], along[-1]),
    ("loss over Var(y)/2 at t = 20/Θ(x,x), ordered erf, L = 32, width 128", predicted_loss[-1], end_loss[:, -1]),
):
    value, error = plotting.mean_and_error(values)
    claim("H5", what=what, derived=derived, measured=value, uncertainty=error, seeds=runs)

# %%
for what, derived, values in (
    (
        "ReLU on the line: slope of log|ratio − 1/4| over log L, L = 2e4 to 1e6 (sub-exponential)",
        None,
        slope_of_gap,
    ),
    ("ReLU on the line: coefficient of log L/L", None, fitted["ReLU"]),
    ("erf on the line, σ_b = 0.5: coefficient of log L/L, 1/3 − 2γ/9β²", kappa["erf, 0.5"], fitted["erf, 0.5"]),
    ("ELU on the line, σ_b = 0.2: coefficient of L^(-1/2)", jump, fitted_elu),
    (
        "tanh on the line: slope over β of the data-dependent spread at L = 1000 (three pairs of correlations)",
        None,
        over_beta,
    ),
):
    value, error = scatter(values, 0.01)
    claim("H6", what=what, derived=derived, measured=value, uncertainty=error)

# %%
for name in CRITICAL:
    a = CRITICAL[name][-1]
    for what, derived, values in (
        (f"{name}: smallest eigenvalue over qL, L = 1e5", a / (1 + a), smallest[name][:, 0]),
        (f"{name}: output at new inputs over the mean label, L = 1e5, N = 200", constant[name], means[name][:, -1]),
    ):
        value, error = plotting.mean_and_error(values)
        claim("H7", what=what, derived=derived, measured=value, uncertainty=error)
value, error = plotting.mean_and_error(left_over)
what = "ReLU: accuracy of the largest of ten outputs, L = 1e4, exact kernel"
claim("H7", what=what, measured=value, uncertainty=error, seeds=SUBSETS)

# %%
for depth, value, error, count in (
    (50, advantage, advantage_error, nets[DEPTH]),
    (12, at_twelve, at_twelve_error, nets[12]),
):
    what = f"test accuracy of tanh minus ReLU, depth {depth}, width 64, mnist5k, 200 steps of SGD"
    claim("H8", what=what, measured=value, uncertainty=error, seeds=count)

# %% [markdown]
# ## What to take away
#
# - One recursion, $\Theta^{l+1} = \Sigma^{l+1} + \chi\,\Theta^l$, decides everything: $\chi < 1$ forgets, $\chi > 1$ explodes, $\chi = 1 - a/l$ shares a fixed part $1/(1+a)$.
#
# | | $\Theta(x, x)$ | $\Theta(x, x')$ | approach | the regression at a new $x$ |
# |---|---|---|---|---|
# | ordered | $q/(1-\chi_1)$ | the same | $L\chi_1^L$, ReLU $\chi_1^{L/2}$ | the mean label, unless trained exponentially long |
# | chaotic | $\sim \chi_1^L$ | $qc^*/(1-\chi_{c^*})$ | $L\chi_{c^*}^L$ | memorizes, outputs 0 elsewhere |
# | critical, ReLU | $qL$ | $qL/4$ | $\frac38 \log L/L$ | $N\bar y/(N+3)$ |
# | critical, smooth | $qL$ | $qL/3$ | $\kappa \log L/L$ | $N\bar y/(N+2)$ |
# | critical, kink in $\phi'$ (ELU) | $qL$ | $qL/3$ | $\propto L^{-1/2}$ | $N\bar y/(N+2)$ |
#
# - *Invertible* is about memorizing, *informative* about sharing: a kernel needs off-diagonal entries that differ.
# - Smooth activations with small $\sigma_b$ are ahead by a constant, $1/\beta$. Residual branches scaled by $1/\sqrt L$ avoid the problem altogether.
# - Report the size of an effect and what survives in its order separately: here $R^2$ and accuracy tell two stories.
#
# ## Where it breaks
#
# - **Width.** All limits are width first, depth second. At $L \sim n$ the kernel is random and moves in training.
# - **The line must be hit.** With $\chi_1 = 1 - \epsilon$ the critical laws end at $L \approx 1/\epsilon$.
#   Values rounded to three digits, as papers print them, have $\xi_c \approx 800$: good at $L = 100$, wrong at 1000.
# - **Inputs must start at $q$.**
#   If the first layer has another variance, tanh, erf and ELU have a transient of length $\xi_q$, and GELU and SiLU at small $\sigma_b$ leave $q$ altogether (chapter 06).
#   ReLU has no transient, but then images of different norm have different diagonals.
# - **ReLU next to $c = 1$** needs $1 - c$ itself: $\arccos c$ in float64 loses half the digits.
# - We measured fully connected networks only, and digits only.
#
# ## Exercises
#
# `exercises/07_ntk_at_depth.ipynb`, about 65 minutes without the open one: code the recursion with the right count of layers (07.1); the limit kernel's prediction with a ridge (07.2);
# predict, then measure, the depth at which an ordered kernel is constant to 1 % (07.3); find the error in a rate (07.4); invertible and uninformative, in words (07.5); a kink of your choice (07.6).
#
# ## References
#
# - S. Hayou, A. Doucet, J. Rousseau, *Mean-field Behavior of Neural Tangent Kernel for Deep Neural Networks*, 2019,
#   arXiv:1905.13654 (later versions: *Exact Convergence Rates of the Neural Tangent Kernel in the Large Depth Limit*).
# - L. Xiao, J. Pennington, S. Schoenholz, *Disentangling Trainability and Generalization in Deep Neural Networks*, 2020, arXiv:1912.13053.
# - S. Hayou, A. Doucet, J. Rousseau, *On the Impact of the Activation Function on Deep Neural Networks Training*, 2019, arXiv:1902.06853.
# - S. Schoenholz et al., *Deep Information Propagation*, 2017, arXiv:1611.01232.
