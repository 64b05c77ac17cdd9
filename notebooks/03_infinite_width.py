# %% [markdown]
# # 03 · Infinite width
#
# **After this chapter you can**
#
# - derive, layer by layer, the two kernels that a network has at infinite width, $\Sigma$ (NNGP) and $\Theta$ (NTK), and say where each factor comes from;
# - compute them: the Gaussian expectations of an activation by three routes, and a whole network's kernels with `net.kernel`;
# - say how far a network of width $n$ is from that limit (kernel, shape of the output's distribution, drift in training), with exponents you have derived and measured.
#
# **Time:** 75 minutes for the chapter, 85 for the exercises. You need chapter 01 (the empirical NTK) and the NTK parameterization of
# chapter 02.
#
# ## The question
#
# In chapter 01 the NTK was a product of Jacobians, $\Theta(x, x') = \sum_p \partial_{\theta_p} f(x)\, \partial_{\theta_p} f(x')$. It is
# computed at the network's present parameters, so it has two defects as the basis of a theory: it is *random*, because the initial
# parameters are, and it *moves*, because they are trained. Here is what it looks like. We fix an image of a 3 and walk from there, both ways, along the circle that leads towards an
# image of an 8; eight networks of each width are drawn at random, and nothing is trained.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import ntklib as ntk
from course import claim, reseed, scale
from ntklib import duals, plotting

plotting.use_style()
paper = scale() == "paper"

data = ntk.load("mnist5k").flat()
threes, eights = (data.x_train[data.y_train == c] for c in (3, 8))
d = data.x_train.shape[1]
print(data)


# %%
def relu_net(width, key, n_in=d, b_std=0.1):
    """Two hidden layers of one width, NTK parametrization."""
    widths = [n_in, width, width, 1]
    return ntk.mlp(widths, w_std=2**0.5, b_std=b_std, rngs=nnx.Rngs(key))


def over_draws(measure, width, draws, **options):
    """measure(net) for many random networks of one width, compiled once."""

    def one(key):
        return measure(relu_net(width, key, **options))

    keys = jax.random.split(jax.random.key(reseed(width)), draws)
    return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)


def arc(x1, x2, angles):
    """Points on the circle through x1 (angle 0) towards x2, of x1's length."""
    aside = x2 - (x1 @ x2) / (x1 @ x1) * x1
    aside *= np.linalg.norm(x1) / np.linalg.norm(aside)
    return np.outer(np.cos(angles), x1) + np.outer(np.sin(angles), aside)


angles = np.linspace(-np.pi, np.pi, 41)
circle = jnp.asarray(arc(threes[0], eights[0], angles))
start = jnp.asarray(threes[:1])


def along_the_arc(net):
    return ntk.empirical_ntk(net, circle, start, method="products")[:, 0]


# %% alt="Two panels. The kernel between a fixed image and a point on a circle, against the angle: a peaked curve with its maximum at angle zero. Left, width 64: eight thin grey curves scatter by about a third around a dashed black curve. Right, width 1024: the eight grey curves lie close around it."
of_infinite_width = relu_net(1, 0).kernel(circle, start).ntk[:, 0]


def eight_networks(ax, width):
    """Their kernels along the arc, and that of infinite width."""
    curves = over_draws(along_the_arc, width, draws=8)
    ax.plot(angles, curves.T, color="0.6", lw=1, ls="-")
    ax.plot([], [], color="0.6", lw=1, ls="-", label="one network each")
    ax.plot(angles, of_infinite_width, color="black", lw=2, ls="--", label="infinite width")
    ax.set(xlabel="angle from the image of a 3 (rad)", title=f"width n = {width}")


fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.9), sharey=True)
for ax, width in zip(axes, (64, 1024), strict=True):
    eight_networks(ax, width)
axes[0].set_ylabel(r"kernel $\Theta(x_0, x)$ at initialisation")
axes[1].legend(loc="upper right")
plt.show()

# %% [markdown]
# **Move the width yourself.** In a live notebook the next cell comes with a slider.
# Each new width is compiled first, which takes a few seconds.


# %%
def look(log2_width=6):
    """The same for one width, on axes that stay."""
    ax = plt.figure(figsize=(3.9, 2.9)).gca()
    eight_networks(ax, 2**log2_width)
    ax.set_ylim(-3, 9)
    plt.show()


if not os.environ.get("CI"):  # the still pictures are above
    from ipywidgets import interact

    interact(look, log2_width=(3, 11))

# %% [markdown]
# Wide networks agree with each other, and with the dashed curve. No network was drawn for that one: it is `net.kernel`, which reads the
# architecture ($\sigma_w$, $\sigma_b$, the activation, the depth) and never looks at a weight. So there are four questions:
#
# 1. *What* is the dashed curve? (the derivation, and how to compute it)
# 2. *How fast* is it reached as the width grows?
# 3. The output $f$ does not become deterministic. What does it become?
# 4. Does the kernel *stay* there in training?
#
# ## The derivation
#
# We need one network and one layer. In the NTK parameterization (chapter 02), with $L$ affine layers of widths $n_1, \dots, n_{L-1}$,
#
# $$h^1_i(x) = \frac{\sigma_w}{\sqrt d} \sum_{a=1}^d W^1_{ai}\, x_a + \sigma_b b^1_i, \qquad
# h^{l+1}_k(x) = \frac{\sigma_w}{\sqrt{n_l}} \sum_{i=1}^{n_l} W^{l+1}_{ik}\, \phi\big(h^l_i(x)\big) + \sigma_b b^{l+1}_k, \qquad f = h^L,$$
#
# and all $W$ and $b$ are independent $\mathcal N(0, 1)$. An unprimed $h_i$ belongs to the input $x$, a primed $h_i'$ to $x'$. We let $n_1 \to \infty$ first, then $n_2$, and so
# on: layer by layer, each step an induction. (One may also send all widths to infinity together; the limit is the same and
# the proof longer.)
#
# **What $\phi$ must be.** For this derivation: Lipschitz, $|\phi(u) - \phi(v)| \le C|u - v|$. Then $\phi'$ exists almost everywhere and is bounded, and all expectations below are finite.
# ReLU is in. For training Jacot et al. ask for a bounded second derivative as well, and ReLU is out: its kinks will show below.
#
# ### Forward: Σ, the covariance of the units
#
# **First layer.** $h^1_i(x)$ is a sum of Gaussians with fixed coefficients $x_a$: it *is* Gaussian, with mean zero, and different units $i$ use different
# columns of $W^1$: they are independent. For two inputs
#
# $$\mathbb E[h^1_i h^{1\prime}_i] = \sigma_w^2\, \frac{x \cdot x'}{d} + \sigma_b^2 =: \Sigma^1(x, x').$$
#
# **From layer $l$ to $l+1$.** Suppose the units $h^l_1, h^l_2, \dots$ are independent copies of one Gaussian process with covariance $\Sigma^l$. Hold them fixed and
# draw only $W^{l+1}$ and $b^{l+1}$. The same argument as in the first layer, with $\phi(h^l_i)$ in the place of $x_a$: given layer $l$, the units of layer $l+1$ are *exactly* Gaussian and
# independent of each other, with covariance
#
# $$\hat\Sigma^{l+1}(x, x') = \frac{\sigma_w^2}{n_l} \sum_{i=1}^{n_l} \phi(h^l_i)\, \phi(h^{l\prime}_i) + \sigma_b^2. \tag{1}$$
#
# This is a random covariance, because layer $l$ is random; but it is an *average over $n_l$ independent units*. By the law of large numbers,
#
# $$\hat\Sigma^{l+1}(x, x') \;\to\; \Sigma^{l+1}(x, x') = \sigma_w^2\, \mathbb E\big[\phi(u)\phi(v)\big] + \sigma_b^2, \qquad
# (u, v) \sim \mathcal N\!\left(0, \begin{pmatrix} \Sigma^l(x,x) & \Sigma^l(x,x') \\ \Sigma^l(x',x) & \Sigma^l(x',x') \end{pmatrix}\right). \tag{2}$$
#
# Once the covariance is a fixed number, "Gaussian given layer $l$" is simply "Gaussian", and units that were independent given layer $l$ are independent.
# The induction closes.
# At the end, $f$ is a **Gaussian process** with covariance $\Sigma^L$: the *neural network Gaussian process* kernel (Neal 1996 for one hidden layer, Lee et al. 2018 for more).
# Two things to keep from this paragraph: a **finite** network's output is Gaussian given its last hidden layer, that is, a *mixture of Gaussians with random covariance* $\hat\Sigma$;
# and the only thing that goes to a limit is an average over units, so we should expect errors of the size of the central limit theorem, $n^{-1/2}$.
#
# ### Backward: Θ, the covariance of the gradients
#
# Let $\Theta^l_{ij}(x, x')$ be the NTK of the network cut off at $h^l$, between its outputs $i$ and $j$. The claim, again by induction, is
#
# $$\Theta^l_{ij}(x, x') \to \delta_{ij}\, \Theta^l(x, x').$$
#
# *First layer:* $h^1_i$ depends on column $i$ of $W^1$ and on $b^1_i$ only, and $\partial h^1_i/\partial W^1_{ai} = \sigma_w x_a/\sqrt d$.
# So $\Theta^1_{ij} = \delta_{ij}\,(\sigma_w^2\, x\cdot x'/d + \sigma_b^2) = \delta_{ij} \Sigma^1$, at every width.
#
# *From layer $l$ to $l+1$:* the sum over parameters falls into two parts.
#
# **The new parameters**, $W^{l+1}$ and $b^{l+1}$.
# The derivatives are $\partial h^{l+1}_k/\partial W^{l+1}_{ik} = \sigma_w \phi(h^l_i)/\sqrt{n_l}$ and $\sigma_b$, and only column $k$ matters for output $k$.
# Their products sum to
#
# $$\delta_{kk'} \Big(\frac{\sigma_w^2}{n_l} \sum_i \phi(h^l_i)\phi(h^{l\prime}_i) + \sigma_b^2\Big) = \delta_{kk'}\, \hat\Sigma^{l+1} \to \delta_{kk'}\, \Sigma^{l+1}(x, x').$$
#
# **All older parameters** act through $h^l$.
# By the chain rule $\partial h^{l+1}_k = \frac{\sigma_w}{\sqrt{n_l}} \sum_i W^{l+1}_{ik}\, \phi'(h^l_i)\, \partial h^l_i$,
# and the products of the $\partial h^l_i$ sum to $\Theta^l_{ij}$, which is known:
#
# $$\frac{\sigma_w^2}{n_l} \sum_{i, j} W^{l+1}_{ik} W^{l+1}_{jk'}\, \phi'(h^l_i)\, \phi'(h^{l\prime}_j)\, \Theta^l_{ij}(x, x')
# \;\to\; \frac{\sigma_w^2}{n_l} \sum_{i} W^{l+1}_{ik} W^{l+1}_{ik'}\, \phi'(h^l_i)\, \phi'(h^{l\prime}_i)\; \Theta^l(x, x').$$
#
# *Why the cross terms vanish.* Take the terms with $i \ne j$.
#
# - There are $n_l^2$ of them, far more than the $n_l$ terms with $i = j$.
# - Each has a factor $\Theta^l_{ij}$, which is small itself: of order $n^{-1/2}$ ($0$ in the limit, by induction).
# - Each has a factor $W_{ik} W_{jk'}$, which is as often positive as negative. So the terms add like a random walk: $\sqrt{n_l^2}$ steps' worth, not $n_l^2$.
#
# Together $\frac1{n_l} \cdot \sqrt{n_l^2} \cdot n^{-1/2} = n^{-1/2}$.
#
# *What stays* is once more an average over independent units. The weights $W^{l+1}$ were drawn independently of layer $l$.
# So the mean of the product is the product of the means: $\mathbb E[W_{ik}W_{ik'}] = \delta_{kk'}$, times an expectation over one unit.
#
# $$\to\; \delta_{kk'}\; \sigma_w^2\, \mathbb E\big[\phi'(u)\phi'(v)\big]\; \Theta^l(x, x').$$
#
# Here is where the product comes from: a gradient that runs back to an older parameter passes *through* a unit, so it meets that unit's slope $\phi'$, once for $x$ and once for $x'$.
#
# ### The recursion
#
# $$\boxed{\;\;
# \Sigma^{l+1} = \sigma_w^2\, \mathbb E[\phi(u)\phi(v)] + \sigma_b^2, \qquad
# \dot\Sigma^{l+1} = \sigma_w^2\, \mathbb E[\phi'(u)\phi'(v)], \qquad
# \Theta^{l+1} = \Sigma^{l+1} + \dot\Sigma^{l+1}\, \Theta^{l} \;\;}$$
#
# with $(u, v) \sim \mathcal N(0, \Sigma^l)$ and $\Theta^1 = \Sigma^1$. In words: *new layer, plus older layers seen through the slopes*. Nothing in it is random, and nothing depends on labels.
# A `Dense` layer of `ntklib` holds the two lines with $\sigma_w, \sigma_b$, an activation the two expectations; `net.kernel` runs through the layers. By hand:


# %%
def kernels_by_hand(x, affine_layers, w_std, b_std):
    """Σ and Θ of a ReLU network, [N, N]."""
    sigma = w_std**2 * x @ x.T / x.shape[1] + b_std**2
    theta = sigma
    for _ in range(affine_layers - 1):
        q = jnp.diag(sigma)
        values, slopes = duals.relu(sigma, q[:, None], q[None, :])
        sigma = w_std**2 * values + b_std**2
        theta = sigma + w_std**2 * slopes * theta
    return sigma, theta


probe = jnp.asarray(data.x_train[:16])
by_hand = kernels_by_hand(probe, affine_layers=3, w_std=2**0.5, b_std=0.1)
limit = relu_net(1, 0).kernel(probe)  # the width plays no role here
for name, mine, theirs in zip("ΣΘ", by_hand, (limit.nngp, limit.ntk), strict=True):
    difference = jnp.abs(mine - theirs).max() / jnp.abs(theirs).max()
    print(f"{name}: by hand and net.kernel agree to 1e-5: {difference < 1e-5}")
    assert difference < 1e-5

# %% [markdown]
# **What is random at infinite width?** Not the kernels. The output is (question 3): each network is another draw from $\mathcal N(0, \Sigma^L)$. And each single weight is as random as ever; it
# just does not matter any more *which* weights were drawn, because everything the function needs is an average over infinitely many.
#
# ## Duals: three routes to one number
#
# All that is left of the activation is the pair of functions of a $2\times2$ covariance, $\mathbb E[\phi(u)\phi(v)]$ and $\mathbb E[\phi'(u)\phi'(v)]$, called its **dual**.
# `ntklib.duals` takes it as `(q12, q1, q2)`: the covariance $q_{12}$ of $u$ and $v$ and their variances $q_1$, $q_2$.
#
# ### Duals in closed form
#
# For ReLU, write $\vartheta = \arccos\big(q_{12}/\sqrt{q_1 q_2}\big)$ for the angle whose cosine is the correlation.
# Two Gaussians with that correlation are two directions in the plane at angle $\vartheta$:
# with polar coordinates $(R, \psi)$ of a standard Gaussian point, $u = \sqrt{q_1}\, R\cos\psi$ and $v = \sqrt{q_2}\, R \cos(\psi - \vartheta)$.
# The angle $\psi$ is uniform and independent of $R$, and $\mathbb E[R^2] = 2$.
#
# - *Slopes.* $\phi'(u)\phi'(v) = 1$ where both cosines are positive: $\psi$ in $(\vartheta - \frac\pi2, \frac\pi2)$, a share $(\pi - \vartheta)/2\pi$ of the circle.
#   So $\mathbb E[\phi'\phi'] = \dfrac{\pi - \vartheta}{2\pi}$.
# - *Values.*
#   On the same sector, $\mathbb E[\phi\phi] = \sqrt{q_1 q_2}\; \mathbb E[R^2] \displaystyle\int_{\vartheta - \pi/2}^{\pi/2} \cos\psi\, \cos(\psi - \vartheta)\, \frac{d\psi}{2\pi}$,
#   and with $2\cos\psi\cos(\psi-\vartheta) = \cos\vartheta + \cos(2\psi - \vartheta)$,
#
# $$\mathbb E[\phi(u)\phi(v)] = \frac{\sqrt{q_1 q_2}}{2\pi} \big(\sin\vartheta + (\pi - \vartheta)\cos\vartheta\big).$$
#
# Closed forms exist for a handful of functions (`erf`, GELU, sine, leaky ReLU, …).
# They obey a useful check, *Price's theorem*: $\partial\, \mathbb E[\phi(u)\phi(v)]/\partial q_{12} = \mathbb E[\phi'(u)\phi'(v)]$.
#
# ### Quadrature and sampling
#
# For any other scalar function there is **quadrature**: replace the integral over the plane by a weighted sum over well-chosen nodes.
# And there is **sampling**: draw $(u, v)$ many times and average.
# Sampling is what a finite network does: a layer of $n$ units averages over $n$ draws, no more.
# Its error falls like $m^{-1/2}$ in the number $m$ of draws, and quadrature converges much faster, *if* the nodes respect the function.
# The textbook choice, a product of Gauss–Hermite nodes, assumes a smooth function; ReLU has a kink along $u = 0$ and along $v = 0$.
# `duals.quadrature` uses polar coordinates, where these lines are rays, and puts its nodes between them, closer together near the rays:
# where $u$ has a large variance, a function such as tanh changes close to its ray only.


# %%
def gauss_hermite(fn, rho, nodes):
    """E[fn(u) fn(v)] at variances 1 and correlation rho, product rule."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    v = rho * z[:, None] + (1 - rho**2) ** 0.5 * z[None, :]
    return w @ (fn(z[:, None]) * fn(v)) @ w


def sampled(fn, rho, draws, repeats=20, seed=0):
    """The same by sampling, [repeats]; each is one layer of `draws` units."""
    z = np.random.default_rng(seed).normal(size=(2, repeats, draws))
    u, v = z[0], rho * z[0] + (1 - rho**2) ** 0.5 * z[1]
    return np.mean(fn(u) * fn(v), axis=1)


rhos = np.linspace(-1, 1, 101)
coarse = rhos[5::15]
exact, rule, samples = {}, {}, {}
with jax.enable_x64(True):
    for name, fn, closed_form in (
        ("ReLU", jax.nn.relu, duals.relu),
        ("erf", jax.scipy.special.erf, duals.erf),
    ):
        exact[name] = np.asarray(closed_form(rhos, 1.0, 1.0)[0])
        rule[name] = np.asarray(duals.quadrature(fn, coarse, 1.0, 1.0)[0])
        several = [sampled(fn, rho, 1000, seed=k) for k, rho in enumerate(coarse)]
        samples[name] = np.array(several).T

    # How fast? ReLU at one correlation, with more and more evaluations.
    rho, relu = 0.5, lambda z: np.maximum(z, 0)
    truth = float(duals.relu(rho, 1.0, 1.0)[0])
    rays = [(6, 4), (10, 6), (16, 12), (24, 16)]
    polar = []
    for nodes in rays:
        value, _ = duals.quadrature(jax.nn.relu, rho, 1.0, 1.0, nodes=nodes)
        polar.append(abs(float(value) - truth))
grid_sizes, sample_sizes = (4, 8, 16, 32, 64), (16, 64, 256, 1024, 4096)
hermite = [abs(gauss_hermite(relu, rho, m) - truth) for m in grid_sizes]
misses = np.array([sampled(relu, rho, m) - truth for m in sample_sizes])

# %% alt="Left: the dual of ReLU and of erf against the correlation: closed forms as lines; crosses from quadrature and points with error bars from 1000 samples lie on them. Right: error of the dual of ReLU against the number of evaluations, both axes logarithmic: sampling falls with slope minus one half, Gauss-Hermite lies a factor of ten lower and falls no faster, quadrature between the rays drops below ten to the minus fourteen within some fifteen hundred evaluations."
fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2))
for i, name in enumerate(exact):
    style = {"color": plotting.COLOURS[i], "ls": plotting.DASHES[i]}
    left.plot(rhos, exact[name], **style, label=f"{name}, closed form")
    style["ls"] = "none"
    left.plot(coarse, rule[name], "x", ms=10, **style, label=None if i else "quadrature")
    error = samples[name].std(0)
    style |= {"fmt": ".", "capsize": 2, "label": None if i else "1,000 samples (± 1 std)"}
    left.errorbar(coarse, samples[name][0], error, **style)
left.set_xlabel("correlation of u and v")
left.set_ylabel(r"$E[\phi(u)\phi(v)]$ at variance 1")
left.set_ylim(-0.5, 0.95)
left.legend(loc="upper left")

spread = np.sqrt((misses**2).mean(1))
guide = spread[0] * (np.array(sample_sizes) / sample_sizes[0]) ** -0.5
right.loglog(sample_sizes, guide, color="0.5", ls="-", lw=1, label="slope −1/2")
for i, (label, evaluations, error) in enumerate(
    (
        ("sampling (rms)", sample_sizes, spread),
        ("Gauss–Hermite", np.square(grid_sizes), hermite),
        ("between the rays", [4 * r * s for r, s in rays], polar),
    )
):
    style = {"color": plotting.COLOURS[i], "marker": plotting.MARKERS[i]}
    right.loglog(evaluations, error, **style, ls="none", label=label)
right.set_xlabel("evaluations of the integrand")
right.set_ylabel("error of the ReLU dual, ρ = 0.5")
right.legend()
plt.show()

slope = np.polyfit(np.log(sample_sizes), np.log(spread), 1)[0]
print(f"sampling error, slope: {slope:.2f}")
assert abs(slope + 0.5) < 0.1
for name, values in rule.items():
    assert np.abs(values - exact[name][5::15]).max() < 1e-8
assert polar[-1] < 1e-8 < hermite[-1]

# %% [markdown]
# Three routes, one number. For a function of your own take `ntk.Elementwise(fn)`: it is a layer whose dual is the quadrature. Note the middle row of squares: a rule of high order
# is no better than its assumption of smoothness.
#
# ## The kernel over width
#
# **Prediction.**
# Both kernels of a finite network are averages over units around the numbers of the recursion, so by the central limit theorem the deviation of *one* network from the limit is of order $n^{-1/2}$:
#
# $$\epsilon_n = \frac{\|\Theta_n - \Theta\|_F}{\|\Theta\|_F} \approx c\, n^{-1/2}, \qquad n \text{ four times as large: half the error.}$$
#
# **Measurement.** Sixteen images, two hidden layers of $n = 64 \dots 2048$ ReLU units; ten networks for each width. `empirical_ntk` is the product of Jacobians. `empirical_nngp` is (1)
# for the last hidden layer: it leaves out the draw of the readout.


# %%
def both_kernels(net):
    tangent = ntk.empirical_ntk(net, probe, method="products")
    return ntk.empirical_nngp(net, probe), tangent


def relative_error(kernels, limit):
    distance = jnp.linalg.norm(kernels - limit, axis=(-2, -1))
    return distance / jnp.linalg.norm(limit)


widths = [64, 128, 256, 512, 1024, 2048] + ([4096] if paper else [])
seeds = 30 if paper else 10
errors_nngp, errors_ntk = [], []
for width in widths:
    nngp, tangent = over_draws(both_kernels, width, seeds)
    errors_nngp.append(relative_error(nngp, limit.nngp))
    errors_ntk.append(relative_error(tangent, limit.ntk))
errors_nngp, errors_ntk = np.transpose(errors_nngp), np.transpose(errors_ntk)

# %% alt="Relative Frobenius error of the kernels of one network against width from 64 to 2048, logarithmic axes. Points for NNGP and NTK fall along parallel lines of slope minus one half, from about 0.35 at width 64 to about 0.06 at width 2048."
fig, ax = plt.subplots(figsize=(5.4, 3.2))
plotting.rate(ax, widths, errors_nngp, label="NNGP Σ", theory=-0.5, series=0)
plotting.rate(ax, widths, errors_ntk, label="NTK Θ", theory=-0.5, series=1)
ax.set(xlabel="width n", ylabel="relative error of one network's kernel")
plt.show()

slopes = {
    "NTK": plotting.fit_slope(widths, errors_ntk),
    "NNGP": plotting.fit_slope(widths, errors_nngp),
}
for slope, error in slopes.values():
    assert abs(slope + 0.5) < 0.12, (slope, error)
typical = errors_ntk[:, -1].mean()
print(f"NTK of one network of width {widths[-1]}: off by {typical:.2g}")

# %% [markdown]
# A network of width 2048 is still some five per cent from its limit, and one more digit costs a hundred times the width. **One network comes close only slowly.**
#
# **The mean over networks is another matter.** Write $\Theta_n = \Theta + n^{-1/2} A + n^{-1} B + \dots$ with random matrices $A$, $B$.
# The term $A$ comes from the central limit theorem and has mean zero.
# So a mean over $S$ networks has an error of about $c\,(nS)^{-1/2}$ from the draw, and a *bias* of order $1/n$ only:
# fluctuations of one layer's $\hat\Sigma$ pass through the next layer's dual, which is curved, and there leave a trace of the second order.
# For one hidden layer there is no next layer, and no bias at all.
# The next cell tries it at width 16, where a single network is useless.
#
# It also uses a shortcut that makes thousands of networks cheap.
# A network sees its inputs only through $\sum_a W_{ai} x_a$.
# Turn the coordinates of $\mathbb R^d$ so that our $N$ images lie in the span of the first $N$ axes:
# the turned $W^1$ is again made of independent $\mathcal N(0,1)$, and its other $d - N$ rows always meet a zero, at the start *and in training*, because their gradient is zero.
# So $N$ coordinates do, and the law of everything we look at, kernels, outputs, training curves, is exactly the same.
# (The recursion said so: $x$ enters by $x \cdot x'/d$ alone.)


# %%
def in_their_span(x):
    """The rows of x [N, d] in coordinates of their span, [N, N]; keeps x·x'/d."""
    _, r = np.linalg.qr(np.asarray(x, np.float64).T)
    return jnp.asarray(r.T * (len(x) / x.shape[1]) ** 0.5, jnp.float32)


few = in_their_span(probe[:4])
few_limit = relu_net(1, 0, n_in=4).kernel(few)
same = jnp.abs(few_limit.ntk - limit.ntk[:4, :4]).max() / limit.ntk.max()
print(f"same kernel from 4 coordinates as from {d}: {same < 1e-5}")
assert same < 1e-5


def ntk_of_few(net):
    return ntk.empirical_ntk(net, few, method="jacobian")


many = 4000
ensemble = over_draws(ntk_of_few, 16, many, n_in=4)
size = float(jnp.linalg.norm(few_limit.ntk))
single = float(relative_error(ensemble, few_limit.ntk).mean())
mean_error = float(relative_error(ensemble.mean(0), few_limit.ntk))
noise = float(jnp.sqrt(ensemble.var(0).sum() / many)) / size
print(f"width 16, one network: off by {single:.2g}")
print(f"width 16, mean of {many:,}: {mean_error:.1g} (noise {noise:.1g})")
assert single > 0.5
assert mean_error < 0.05

# %% [markdown]
# One network of width 16 is off by more than half; the mean over many is within one or two per cent of the *infinite* network, and the noise of the draw alone is as large.
# This is how one should test a kernel implementation: average first.
#
# ## The output is a Gaussian process, and a mixture before
#
# **Prediction.** Given its hidden layers, the output at $x$ is $\mathcal N(0, \hat q)$, with the random variance $\hat q = \hat\Sigma^L(x, x)$ of (1).
# How far is such a mixture from one Gaussian?
# Its fourth moment is $\mathbb E[f^4] = 3\,\mathbb E[\hat q^2]$, so the excess kurtosis (zero for a Gaussian) is
#
# $$\frac{\mathbb E[f^4]}{\mathbb E[f^2]^2} - 3 = \frac{3 \operatorname{Var} \hat q}{(\mathbb E \hat q)^2} = O(1/n).$$
#
# The same holds for every combination $\sum_s c_s f(x_s)$, with $\hat q = c^\top \hat\Sigma c$;
# a vector all of whose combinations are Gaussian is jointly Gaussian, so this *is* the statement about the process.
# For ReLU with $\sigma_w^2 = 2$, $\sigma_b = 0$ there is not even a constant to fit.
# One layer turns the variance $q$ into $q \cdot \frac2n \sum_i \mathrm{relu}(z_i)^2$ with standard normal $z_i$.
# One term of the sum has mean $2 \cdot \frac12 = 1$ and second moment $4 \cdot \frac32 = 6$: variance 5.
# So a layer multiplies $\mathbb E[\hat q^2]/(\mathbb E \hat q)^2$ by $1 + 5/n$, and with two hidden layers
#
# $$\text{excess kurtosis} = 3\big[(1 + 5/n)^2 - 1\big] \approx 30/n.$$
#
# For the difference $f(x) - f(x')$ two hidden layers have no closed form, but the last one can be done exactly.
# Given the first layer's $\hat\Sigma^2$, each unit of the second contributes $D = (\phi(u) - \phi(v))^2$.
# In the polar coordinates from above $\mathbb E D$ and $\mathbb E D^2$ are integrals over the angle $\psi$, with $\mathbb E R^2 = 2$ and $\mathbb E R^4 = 8$.
# So $\mathbb E[\hat q^2 \mid \hat\Sigma^2] \propto (\mathbb E D)^2 + (\mathbb E D^2 - (\mathbb E D)^2)/n$, and only $\hat\Sigma^2$, an average over Gaussian units, is left to be sampled.
# Again nothing is fitted.
#
# **Measurement.**
# Thousands of networks of widths 16 … 256 (this is about the shape of a distribution, so we need many), from the definition with the outputs $f$,
# and from the variance of $\hat q$, which is the same number with far less noise (filled points).

# %%
pair = in_their_span(np.stack([threes[0], eights[0]]))
narrow = [16, 32, 64, 128, 256] + ([512, 1024] if paper else [])
groups = 8


def outputs_and_nngp(net):
    return net(pair)[:, 0], ntk.empirical_nngp(net, pair)


def kurtosis(f):
    """Excess kurtosis of each of the 8 groups of draws; mean zero is known."""
    f = f.reshape(groups, -1)
    return (f**4).mean(1) / (f**2).mean(1) ** 2 - 3


def kurtosis_of_mixture(q):
    q = q.reshape(groups, -1)
    return 3 * q.var(1, ddof=1) / q.mean(1) ** 2


outputs, direct, mixture, difference = {}, [], [], []
for width in narrow:
    draws = min(12_800, 409_600 // width)  # wide networks are costly
    drawn = over_draws(outputs_and_nngp, width, draws, n_in=2, b_std=0.0)
    f, q = map(np.asarray, drawn)
    outputs[width] = f
    direct.append(kurtosis(f[:, 0]))
    mixture.append(kurtosis_of_mixture(q[:, 0, 0]))
    q_of_difference = q[:, 0, 0] + q[:, 1, 1] - 2 * q[:, 0, 1]
    difference.append(kurtosis_of_mixture(q_of_difference))
direct, mixture, difference = map(np.transpose, (direct, mixture, difference))


def exact_kurtosis(n):
    return 3 * ((1 + 5 / np.asarray(n)) ** 2 - 1)


gaussian = np.asarray(relu_net(1, 0, n_in=2, b_std=0.0).kernel(pair).nngp)


# %%
def kurtosis_of_difference(n, draws=10_000, angles=128):
    """Excess kurtosis of f(x) − f(x'), from Gaussian first-layer units."""
    rng = np.random.default_rng(n)
    root = np.linalg.cholesky(np.asarray(2 * pair @ pair.T / 2, float))
    psi = np.linspace(0, 2 * np.pi, angles, endpoint=False)
    parts = []
    for _ in range(10):
        u, v = np.maximum(np.einsum("ab,bsn->asn", root, rng.normal(size=(2, draws // 10, n))), 0)
        q1, q2, q12 = (2 * np.mean(a * b, axis=1)[:, None] for a, b in ((u, u), (v, v), (u, v)))
        turn = np.arccos(q12 / np.maximum(np.sqrt(q1 * q2), 1e-12))  # all units may be off
        d = np.sqrt(q1) * np.maximum(np.cos(psi), 0) - np.sqrt(q2) * np.maximum(np.cos(psi - turn), 0)
        parts.append([2 * np.mean(d**2, axis=1), 8 * np.mean(d**4, axis=1)])
    first, second = np.concatenate(parts, axis=1)  # E D and E D², [draws]
    return 3 * (np.mean(first**2 + (second - first**2) / n) / np.mean(first) ** 2 - 1)


curve = exact_kurtosis(narrow)
curve_of_difference = np.array([kurtosis_of_difference(n) for n in narrow])
ratio, ratio_error = plotting.mean_and_error((mixture / curve).mean(1))
joint_ratio, joint_ratio_error = plotting.mean_and_error((difference / curve_of_difference).mean(1))
gaussianity, joint = plotting.fit_slope(narrow, mixture), plotting.fit_slope(narrow, difference)
expected, joint_expected = (np.polyfit(np.log(narrow), np.log(c), 1)[0] for c in (curve, curve_of_difference))

# %% alt="Left: densities of the output of random networks on a logarithmic scale, in units of the limiting standard deviation. Width 16 has a higher peak and heavier tails than the dashed Gaussian; width 256 lies on it. Right: excess kurtosis against width, logarithmic axes: points from the outputs and from the variance of q lie on the predicted curve, from 2.2 at width 16 to 0.12 at width 256; the points for the difference of two outputs lie a little below, on a predicted curve of their own."
fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2))
edges = np.linspace(-5, 5, 41)
grid = np.linspace(-5, 5, 200)
bell = np.exp(-(grid**2) / 2) / (2 * np.pi) ** 0.5
left.plot(grid, bell, "k--", label="limit, N(0, Σ)")
for i, width in enumerate((narrow[0], narrow[-1])):
    scaled = outputs[width] / np.sqrt(np.diag(gaussian))
    density, _ = np.histogram(scaled, edges, density=True)
    density[density == 0] = np.nan
    style = {"color": plotting.COLOURS[i], "ls": "-:"[i], "lw": 1.5}
    left.stairs(density, edges, baseline=None, **style, label=f"width {width}")
left.set(yscale="log", ylim=(3e-4, 2), ylabel="density")
left.set(xlabel=r"output $f(x)/\sqrt{\Sigma(x, x)}$")
left.legend(loc="upper right")

plotting.theory_and_measurement(right, narrow, curve, mixture, label="f(x)")
plotting.theory_and_measurement(right, narrow, curve_of_difference, difference, label="f(x) − f(x')", series=2)
mean, error = plotting.mean_and_error(direct)
style = {"color": plotting.COLOURS[1], "fmt": plotting.MARKERS[1], "mfc": "none", "capsize": 2, "ls": "none"}
right.errorbar(narrow, mean, error, **style, label="f(x), from the outputs")
right.set(xscale="log", yscale="log", ylim=(0.04, 5))
right.set(xlabel="width n", ylabel="excess kurtosis")
right.set_xticks(narrow, [str(n) for n in narrow])
right.minorticks_off()
right.legend()
plt.show()

# %%
print(f"measured over predicted kurtosis: {ratio:.2f} ± {ratio_error:.1g}")
print(f"   for the difference of outputs: {joint_ratio:.2f} ± {joint_ratio_error:.1g}")
print(
    f"slopes: {gaussianity[0]:.3g}, predicted {expected:.3g}; difference {joint[0]:.3g}, predicted {joint_expected:.3g}"
)
last = outputs[narrow[-1]]
covariance = last.T @ last / len(last)
print("covariance of the outputs over Σ:")
print(np.round(covariance / gaussian, 2))

mean, error = plotting.mean_and_error(direct)
assert (np.abs(mean - curve) < 4 * error + 0.05 * curve).all()
assert abs(ratio - 1) < 0.08
assert abs(joint_ratio - 1) < 0.08
assert abs(gaussianity[0] - expected) < 0.08
assert abs(joint[0] - joint_expected) < 0.08
assert np.abs(covariance / gaussian - 1).max() < 0.15

# %% [markdown]
# So networks of width 256 have outputs whose kurtosis 1,600 draws cannot tell from that of a Gaussian, while the kernel of one of them is off by some 18 %.
# No contradiction: the first is an effect of second order, $1/n$, the second one of first order, $n^{-1/2}$.
#
# ## Does the kernel stay? The drift in training
#
# Now train. In the time $t = \eta \cdot \text{steps}$ the loss goes down by a factor of fifty or so: the function moves by $O(1)$. How far does $\Theta$ move?
#
# **The proven bound.** Take one hidden layer, $u_i(x) = \sigma_w w_i \cdot x/\sqrt d$ (bias left out), $f = \frac{\sigma_w}{\sqrt n} \sum_i a_i \phi(u_i)$, and so
#
# $$\Theta(x, x') = \frac{\sigma_w^2}{n} \sum_{i=1}^n \big[\phi(u_i)\phi(u_i') + a_i^2\, \phi'(u_i)\phi'(u_i')\, \Sigma^1(x, x')\big].$$
#
# With residuals $r_s = f(x_s) - y_s$ and the loss $\frac1{2N}\sum_s r_s^2$, gradient flow moves each unit by
#
# $$\dot a_i = -\frac{\sigma_w}{\sqrt n} \frac1N \sum_s r_s\, \phi(u_i(x_s)), \qquad \dot u_i(x) = -\frac{\sigma_w}{\sqrt n}\, a_i\, \frac1N \sum_s r_s\, \phi'(u_i(x_s))\, \Sigma^1(x, x_s).$$
#
# Each moves by $O(n^{-1/2})$.
# So each term of $\Theta$ changes by $O(n^{-1/2})$ if $\phi$ is smooth, and an average of $n$ terms changes by **at most** $O(n^{-1/2})$.
# For smooth $\phi$, a positive definite $\Theta$ and small steps this is proven at any depth (Lee et al. 2019), and it suffices: the kernel is constant in the limit.
#
# **The law that is seen.** The bound is reached only if the changes *agree in sign*.
# Expand one term to first order: $\phi'(u_i)\dot u_i\,\phi(u_i')$ contains $a_i$ once; $2 a_i \dot a_i\, \phi'\phi'$ contains it once; $a_i^2\, \phi''\dot u_i\, \phi'$ three times.
# **Every one is odd in $a_i$**, and the sign of $a_i$ is a fair coin, independent of all else in the unit (the residuals know one unit's sign to order $n^{-1/2}$ only).
# So the changes add like a random walk:
#
# $$\frac1n \cdot \underbrace{n^{-1/2}}_{\text{a term's change}} \cdot \underbrace{\sqrt n}_{\text{of } n \text{ random signs}} = n^{-1}.$$
#
# The second order, $(n^{-1/2})^2$ a term, has no sign to lose, and gives $n^{-1}$ as well.
# Hence a drift like $1/n$.
# Jacot et al. prove the limit and state no rate; $1/n$ is what Lee et al. 2019 see in experiments.
#
# **Two more predictions** from the same counting, to see whether we understand it:
#
# - *ReLU* has no $\phi''$: its slope jumps.
#   Units within $O(n^{-1/2})$ of their kink switch: about $\sqrt n$ of the $n$ units.
#   Each changes $\Theta$ by a whole $1/n$, up or down with the sign of $a_i$ again: $\frac1n \sqrt{\sqrt n} = n^{-3/4}$.
#   This beats $n^{-1}$, so a kinked network should drift like $n^{-3/4}$.
# - *One sign.* Make all readout weights positive, $a_i \to |a_i|$.
#   The kernel at the start does not notice, since only $a_i^2$ enters.
#   But now the signs agree: $n^{-1/2}$, the bound.
#   (Not for an odd activation such as tanh: there the signs of the $w_i$ still cancel.
#   And such a network's output is of order $\sqrt n$ at the start; we take that away by training towards $y + f_0(x)$ in place of $y$, which leaves the residuals at $-y$.
#   For comparison we treat a network with the usual signs in the same way.)
#
# **Measurement.** Ten 3s and ten 8s with targets $\pm 1$, full batch, $\eta = 0.5$, 40 steps, so $t = 20$.
# One hidden layer, SiLU (smooth) or ReLU.
# In the coordinates of the images' span we can afford widths up to 8192.

# %%
images = np.concatenate([threes[:10], eights[:10]])
x = in_their_span(images)
y = jnp.repeat(jnp.array([1.0, -1.0]), 10)[:, None]
eta, steps = 0.5, 40
wide = [64, 256, 2048, 8192] + ([65536] if paper else [])
runs = 16


def drift(activation, width, key, one_sign, subtract_start):
    """‖Θ_t − Θ_0‖/‖Θ_0‖ and the loss at 0 and t, for one network."""
    net = ntk.mlp(
        [len(x), width, 1], activation=activation, w_std=2**0.5, b_std=0.1,
        rngs=nnx.Rngs(key),
    )  # fmt: skip
    readout = net.layers[-1].W
    readout[...] = jnp.where(one_sign, jnp.abs(readout[...]), readout[...])
    apply_fn, params = ntk.functional(net)
    target = y + jnp.where(subtract_start, apply_fn(params, x), 0.0)
    history = ntk.train(
        (apply_fn, params), x, target, optimizer=ntk.sgd(net, eta), steps=steps,
        record=lambda p: ntk.empirical_ntk((apply_fn, p), x, method="products"),
    )  # fmt: skip
    before, after = history.records
    moved = jnp.linalg.norm(after - before) / jnp.linalg.norm(before)
    return moved, history.loss


def drifts(activation, width, one_sign, subtract_start):
    """The same for `runs` networks in each setting that the flags give."""

    def one(case):
        return drift(activation, width, *case)

    keys = jax.random.split(jax.random.key(reseed(width)), runs)
    flags = [jnp.repeat(jnp.array(f), runs) for f in (one_sign, subtract_start)]
    keys = jnp.tile(keys, len(one_sign))
    moved, losses = jax.jit(lambda c: jax.lax.map(one, c))((keys, *flags))
    return moved.reshape(-1, runs), losses.reshape(-1, runs, 2)


# %% [markdown]
# Sixteen networks of each width.
# SiLU in three settings: as it is; trained towards $y + f_0$; and that with readout weights of one sign.
# ReLU as it is.

# %%
smooth, kinked, loss = [], [], []
for width in wide:
    moved, losses = drifts(ntk.Silu(), width, [0, 0, 1], [0, 1, 1])
    smooth.append(moved)
    loss.append(losses)
    kinked.append(drifts(ntk.Relu(), width, [0], [0])[0])
plain, centred, one_sign = np.transpose(smooth, (1, 2, 0))
relu = np.transpose(kinked, (1, 2, 0))[0]
begin, end = np.mean(loss, axis=(0, 2))[0]
time = eta * steps
print(f"SiLU, mean loss at t = 0 and t = {time:g}: {begin:.2g} and {end:.1g}")

# %% alt="Two panels, relative drift of the NTK in training against width from 64 to 8192, logarithmic axes. Left: SiLU falls with slope about minus one, ReLU with slope about minus three quarters. Right: SiLU with random readout signs falls with slope about minus one; with readout weights of one sign it lies higher and falls with slope about minus one half."
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.3), sharey=True)
plotting.rate(axes[0], wide, plain, label="SiLU", theory=-1, series=0)
plotting.rate(axes[0], wide, relu, label="ReLU", theory=-0.75, series=1)
plotting.rate(axes[1], wide, centred, label="random signs", theory=-1, series=0)
plotting.rate(axes[1], wide, one_sign, label="one sign", theory=-0.5, series=2)
for ax, title in zip(axes, ("smooth or kinked", "SiLU, readout signs"), strict=True):
    ax.set(xlabel="width n", title=title)
    ax.legend()
axes[0].set_ylabel(r"drift $\|\Theta_t - \Theta_0\| / \|\Theta_0\|$ at t = 20")
plt.show()

drifts_of = {"SiLU": plain, "ReLU": relu, "signs": one_sign, "control": centred}
moved = {name: plotting.fit_slope(wide, values) for name, values in drifts_of.items()}
for name, law in (("SiLU", -1), ("control", -1), ("ReLU", -0.75), ("signs", -0.5)):
    slope, error = moved[name]
    assert abs(slope - law) < 0.15, (name, slope, error)
assert moved["ReLU"][0] - moved["SiLU"][0] > 0.1

# %% [markdown]
# The counting works.
# The smooth network drifts like $1/n$; turning all readout weights to one sign, which changes neither the kernel at the start nor the size of any weight, brings the drift up to the bound $n^{-1/2}$:
# so the $1/n$ *is* a cancellation of signs.
# ReLU is in between, close to the predicted $-3/4$ (at narrow widths its $1/n$ part is still felt).
# Wherever you read "the NTK stays constant to $O(1/n)$", read: for smooth activations and readouts of both signs.
# In all cases the drift goes to zero, which is what the limit needs.
# (Huang & Yau and Dyer & Gur-Ari turn this kind of counting into a systematic expansion in $1/n$.)
#
# ## Claims

# %%
claim(
    "J2",
    what="slope over width of the relative error of one network's NTK",
    measured=slopes["NTK"][0],
    uncertainty=slopes["NTK"][1],
    seeds=seeds,
)
claim(
    "J2",
    what="slope over width of the relative error of one network's NNGP",
    measured=slopes["NNGP"][0],
    uncertainty=slopes["NNGP"][1],
    seeds=seeds,
)
# %%
claim(
    "J3",
    what="excess kurtosis of the output, measured over 3[(1 + 5/n)² − 1]",
    measured=ratio,
    uncertainty=ratio_error,
    seeds=groups,
)
claim(
    "J3",
    what="slope over width of the excess kurtosis of f(x) − f(x')",
    derived=joint_expected,
    measured=joint[0],
    uncertainty=joint[1],
    seeds=groups,
)
claim(
    "J3",
    what="excess kurtosis of f(x) − f(x'), measured over its own curve",
    measured=joint_ratio,
    uncertainty=joint_ratio_error,
    seeds=groups,
)
# %%
claim(
    "J6",
    what="slope over width of the NTK's drift in training, SiLU",
    measured=moved["SiLU"][0],
    uncertainty=moved["SiLU"][1],
    seeds=runs,
)
claim(
    "J6",
    what="slope over width of the NTK's drift in training, ReLU",
    measured=moved["ReLU"][0],
    uncertainty=moved["ReLU"][1],
    seeds=runs,
)

# %% [markdown]
# ## What to take away
#
# - A layer of many units is an average.
#   At infinite width it is an expectation over a $2\times2$ Gaussian:
#   $\Sigma^{l+1} = \sigma_w^2 \mathbb E[\phi\phi] + \sigma_b^2$, $\Theta^{l+1} = \Sigma^{l+1} + \sigma_w^2 \mathbb E[\phi'\phi']\, \Theta^l$.
# - The exponents, and where they come from:
#
# | quantity, at width $n$ | size | reason |
# |---|---|---|
# | one network's $\Sigma$, $\Theta$ from the limit | $n^{-1/2}$ | central limit theorem over units |
# | mean over networks from the limit | $1/n$ (too small to measure here) | first order has mean zero |
# | excess kurtosis of the output | $1/n$ | variance of $\hat\Sigma$ |
# | drift of $\Theta$ in training, smooth $\phi$ | $1/n$ | random signs of the readout |
# | the same, ReLU | $n^{-3/4}$ | $\sqrt n$ units switch, at random |
# | the same, readout of one sign | $n^{-1/2}$ | no cancellation: the bound is sharp |
#
# - Compare a *mean* of networks with the limit, never one network; and give the width with every statement about "the NTK".
#
# ## Where it breaks
#
# - **Depth.** Each layer adds its own fluctuation: the kurtosis is $3[(1+5/n)^{h} - 1] \approx 15\,h/n$ for $h$ hidden ReLU layers without biases, so it is $h/n$ that must be small.
#   At depth equal to width there is no Gaussian process (chapter 07).
# - **Time.** The drift was measured at a fixed $t$. With a cross-entropy loss on separable data the weights never come to rest, and no fixed width is enough.
# - **Learning rate and parameterization.** Large steps, or mean-field and μP scaling (chapter 02), move the kernel at any width. That is feature learning, and this limit has none.
# - **Narrow places.** A single bottleneck layer of finite width keeps the kernel random however wide the others are.
# - **Float32** and small kernels: a drift of $10^{-4}$ is measurable here, one of $10^{-7}$ would not be.
#
# ## Exercises
#
# `exercises/03_infinite_width.ipynb`, about 85 minutes: derive and code the dual of $|x|$ (03.1) and one step of the recursion (03.2);
# predict, then measure, the spread of the NNGP over networks (03.3); find the mistake in a kernel (03.4); why cross terms vanish, in words (03.5); an activation of your own (03.6).
#
# ## References
#
# - A. Jacot, F. Gabriel, C. Hongler, *Neural Tangent Kernel: Convergence and Generalization in Neural Networks*, 2018, arXiv:1806.07572.
# - R. Neal, *Bayesian Learning for Neural Networks*, 1996; J. Lee et al., *Deep Neural Networks as Gaussian Processes*, 2018, arXiv:1711.00165.
# - S. Arora et al., *On Exact Computation with an Infinitely Wide Neural Net*, 2019, arXiv:1904.11955.
# - J. Lee et al., *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*, 2019, arXiv:1902.06720
#   (the bound and the observed $1/n$ of the drift; from memory).
# - J. Huang, H.-T. Yau, *Dynamics of Deep Neural Networks and Neural Tangent Hierarchy*, 2019, arXiv:1909.08156;
#   E. Dyer, G. Gur-Ari, *Asymptotics of Wide Networks from Feynman Diagrams*, 2019, arXiv:1909.11304 (both from memory).
# - Y. Cho, L. Saul, *Kernel Methods for Deep Learning*, 2009 (the dual of ReLU); C. Williams, *Computing with Infinite Networks*, 1997 (that of erf).
