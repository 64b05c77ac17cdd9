# %% [markdown]
# # 05 · Lazy training
#
# **After this chapter you can**
#
# - make any smooth model train like its linearization, without making it wide, and say how near: with exponents, and the constant for one of them;
# - say what this needs (an output near zero at the start) and what a minimum nearby needs (a Jacobian of full rank), and what happens when either is missing;
# - estimate from one number, measured before training, how lazy a network will be, say where that number misleads, and show what laziness costs.
#
# **Time:** 60 minutes for the chapter, 85 for the exercises without the open one. You need chapter 01 (the empirical NTK) and the idea of
# parameterizations from chapter 02.
#
# ## The question
#
# So far networks followed their tangent kernel because they were *wide*: each weight moves a little, the kernel stays. Chizat,
# Oyallon and Bach (2019) asked whether width has anything to do with it. Take **any** model, a network of 32 units, say, multiply its output by
# a large number $\alpha$, and train that. They call what happens *lazy training*: the parameters hardly move, and the model behaves like a
# linear one. Why should a mere factor do that? And if lazy is so easy to have, is it good to have?

# %%
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree

import ntklib as ntk
from course import claim, reseed, scale
from ntklib import plotting

jax.config.update("jax_enable_x64", True)  # a gap of 1/α² at α = 1000 needs more than seven digits
plotting.use_style()
PAPER = scale() == "paper"
SEEDS = 10 if PAPER else 4
ALPHAS = np.logspace(-1, 3, 25 if PAPER else 13)

# %% [markdown]
# Twenty digits of mnist5k, shrunk to 7×7 pixels, with the target $+1$ for even and $-1$ for odd digits; a network with one hidden layer
# of 32 erf units and no biases. Nobody would call it wide: its kernel is an average over 32 random units.

# %%
N = 20
data = ntk.load("mnist5k", n_train=N, n_test=1)


def shrink(images):
    """7×7 pixels as rows [N, 49]."""
    return images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)


def even_or_odd(labels):
    return jnp.where(jnp.asarray(labels) % 2 == 0, 1.0, -1.0)[:, None]


x = shrink(data.x_train)
x = jnp.asarray(x / np.sqrt(np.mean(x**2)), float)  # x·x/d = 1 on average
y = even_or_odd(data.y_train)


def network(key, n=32, parameterization=ntk.NTK):
    return ntk.mlp(
        [49, n, 1],
        activation=ntk.Erf(),
        w_std=1.5,
        parameterization=parameterization,
        rngs=nnx.Rngs(key),
    )


def ensemble(make, seeds=SEEDS):
    """One apply_fn, and the parameters of several models along a first axis."""
    models = [ntk.functional(make(reseed(seed))) for seed in range(seeds)]
    leaves = [params for _, params in models]
    return models[0][0], jax.tree.map(lambda *p: jnp.stack(p).astype(float), *leaves)


# %% [markdown]
# ## Scaling the output is shrinking the labels
#
# We write $w$ for the parameters, as Chizat et al. do ($\theta$ elsewhere in this course), and $h(w) \in \mathbb R^N$ for the outputs of the model on
# the $N$ training inputs. What we train is $f = \alpha h$, on the loss
#
# $$ L_\alpha(w) = \frac{1}{\alpha^2} \cdot \frac{1}{2N}\, \lVert \alpha h(w) - y \rVert^2
#    \;=\; \frac{1}{2N}\, \Big\lVert h(w) - \frac{y}{\alpha} \Big\rVert^2 . $$
#
# The factor $1/\alpha^2$ can be had without touching the loss: the gradient gets it, so it is the same as the learning rate $\eta/\alpha^2$. And
# the right-hand side says what scaling is: **training $\alpha h$ on the labels $y$ is training $h$ on the labels $y/\alpha$**, exactly, step
# by step. A large $\alpha$ asks the model for very little.
#
# Why just $\alpha^2$? Gradient flow on $L_\alpha$, and what the outputs $f = \alpha h$ then do:
#
# $$ \dot w = -\frac{1}{\alpha N}\, Dh(w)^\top (f - y), \qquad
#    \dot f = \alpha\, Dh(w)\, \dot w = -\frac1N\, \underbrace{Dh(w)\, Dh(w)^\top}_{\Theta}\, (f - y) . $$
#
# $Dh$ is the Jacobian $[N, P]$ and $\Theta$ the kernel **of $h$**: there is no $\alpha$ in the second equation. As long as $\Theta$ stays, the function moves at one
# and the same pace for each $\alpha$ (from the same $f$), and the parameters move $\alpha$ times more slowly. (Leave $1/\alpha^2$ out, and the function moves
# $\alpha^2$ times as fast; with a finite step it explodes.)
#
# ### Under the magnifying glass
#
# Since $w$ moves like $1/\alpha$, we look at it with the magnification $\alpha$: $w = w_0 + u/\alpha$. With $\varepsilon = 1/\alpha$, Taylor's
# formula reads
#
# $$ f_\varepsilon(u) = \alpha\, h(w_0 + \varepsilon u) = \alpha\, h(w_0) + Dh(w_0)\, u + \frac{\varepsilon}{2}\, D^2h(w_0)[u, u] + O(\varepsilon^2), $$
#
# $$ \dot u = -\frac1N\, Dh(w_0 + \varepsilon u)^\top (f_\varepsilon(u) - y) . $$
#
# **Suppose $h(w_0) = 0$.** Then $\alpha$ has disappeared from the problem but for $\varepsilon$, and nothing special happens at
# $\varepsilon = 0$: the problem simply becomes that of the linear model $\bar h(w) = h(w_0) + Dh(w_0)(w - w_0)$. Its solution depends smoothly on
# $\varepsilon$, up to any fixed time,
#
# $$ u = u_0 + \varepsilon\, u_1 + \dots, \qquad f = f_0 + \varepsilon f_1 + \dots $$
#
# with $u_0, f_0$ those of the linear model (in this section an index counts powers of $\varepsilon$). Writing $w_\alpha$ and
# $\bar w_\alpha$ for model and linearization and going back to $w = w_0 + \varepsilon u$ we read off three laws:
#
# | | is | slope over $\alpha$ |
# |---|---|---|
# | distance traveled $\lVert w_\alpha - w_0 \rVert$ | $\varepsilon \lVert u_0 \rVert$ | $-1$ |
# | distance to the linearized model $\lVert w_\alpha - \bar w_\alpha \rVert$ | $\varepsilon^2 \lVert u_1 \rVert$ | $-2$ |
# | gap of the outputs $\lVert \alpha h(w_\alpha) - \alpha \bar h(\bar w_\alpha) \rVert$ | $\varepsilon \lVert f_1 \rVert$ | $-1$ |
#
# The parameters are nearer to the linear trajectory than the outputs: an error of $1/\alpha^2$ in $w$ is multiplied by
# $\alpha$ in $f$. For the first law we know the constant as well. The linear model moves by kernel gradient descent; with the
# eigenvalues $\lambda_i$ and eigenvectors $v_i$ of $\Theta(w_0)$ it has traveled after $s$ steps of size $\eta$
#
# $$ \lVert u_0 \rVert^2 = \sum_i \frac{q_i^2}{\lambda_i} (v_i^\top y)^2, \qquad q_i = 1 - \Big(1 - \frac{\eta\lambda_i}{N}\Big)^s , $$
#
# because $u_0 = Dh^\top \Theta^{-1} (\text{change of } f)$, whose squared norm is $(\text{change})^\top \Theta^{-1} (\text{change})$, and $f$ has changed by
# $q_i\, v_i^\top y$ along $v_i$. For $s \to \infty$ this is
# $y^\top \Theta^{-1} y$. (That is where a small eigenvalue hurts. Theorem 2.4 of the paper, as quoted in a report by H. Smith, makes the laws
# uniform in time if the smallest one is positive and $\alpha$ large enough; the second law then has $\log\alpha/\alpha^2$.)
#
# ### The measurement
#
# `ntk.center` subtracts what the network says at the start, so that $h(w_0) = 0$ exactly; `ntk.scale_output` multiplies by
# $\alpha$, `ntk.linearize` makes $\bar h$. Both are trained side by side for 500 steps with a tenth of the largest stable
# rate, over four orders of magnitude of $\alpha$.

# %%
STEPS = 500


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def difference(a, b):
    return jax.tree.map(jnp.subtract, a, b)


def travel(model, alpha, steps=STEPS):
    """Train αh and its linearisation with the rate η/α², and see how far they go."""
    h, start = model
    theta = ntk.empirical_ntk(model, x)
    lam, modes = jnp.linalg.eigh(theta)
    eta = 0.1 * 2 * N / lam[-1]
    q = 1 - (1 - eta * lam / N) ** steps

    f, _ = ntk.scale_output(model, alpha)
    to_go = (modes.T @ (y - f(start, x)))[:, 0]  # in the kernel's eigenvectors
    ends = []
    for trained in (f, ntk.linearize((f, start))):
        optimizer = optax.sgd(eta / alpha**2)
        history = ntk.train((trained, start), x, y, optimizer=optimizer, steps=steps, progress=False)
        ends.append((history.params, trained(history.params, x)))
    (w, out), (w_linear, out_linear) = ends
    moved = ntk.empirical_ntk((h, w), x) - theta
    return {
        "distance": norm(difference(w, start)),
        "predicted": jnp.sqrt(jnp.sum((q * to_go) ** 2 / lam)) / alpha,
        "parameters": norm(difference(w, w_linear)),
        "outputs": jnp.linalg.norm(out - out_linear),
        "kernel": jnp.linalg.norm(moved) / jnp.linalg.norm(theta),
    }


# %% [markdown]
# And that for four networks at all $\alpha$:


# %%
def sweep(make, params, alphas=ALPHAS):
    """`travel` for make(params, α), all networks and all α at once; [seeds, alphas]."""
    one = lambda w, a: travel(make(w, a), a)  # noqa: E731
    all_of = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))
    return jax.device_get(jax.jit(all_of)(params, jnp.asarray(alphas)))


apply_fn, params = ensemble(network)


def centred(w, alpha):
    return ntk.center((apply_fn, w))


laws = sweep(centred, params)

# %% [markdown]
# The laws hold in the limit, so slopes are fitted for $\alpha \ge 30$ only. Their uncertainty: the standard error over
# four networks, plus the change when the smallest of these $\alpha$ is left out, and not less than the 0.005 to which we round.

# %%
LARGE = ALPHAS >= 30


def slope(alphas, samples):
    """Slope on logarithmic axes and its uncertainty; samples [seeds, alphas]."""
    value, error = plotting.fit_slope(alphas, samples)
    shorter, _ = plotting.fit_slope(alphas[1:], samples[:, 1:])
    return value, max(error + abs(shorter - value), 0.005)


# %% [markdown]
# In the figures of this chapter points are means over networks with their standard errors, and lines are predictions.


# %%
def alpha_axis(ax, **labels):
    ax.set(xscale="log", yscale="log", xlabel="output scale α", **labels)


def points(ax, alphas, samples, label, series=0):
    mean, error = plotting.mean_and_error(samples)
    style = {"fmt": plotting.MARKERS[series], "markersize": 5, "color": plotting.COLOURS[series], "capsize": 2}
    ax.errorbar(alphas, mean, yerr=error, **style, label=label)


def line(ax, alphas, values, series=0):
    style = {"color": plotting.COLOURS[series], "linestyle": plotting.DASHES[series], "linewidth": 1.2}
    ax.plot(alphas, values, **style)


def power(ax, alphas, samples, exponent, series=0):
    """A line of that slope through the last point, drawn over all α."""
    last = samples.mean(axis=0)[-1]
    line(ax, alphas, last * (alphas / alphas[-1]) ** exponent, series=series)


# %% alt="Two panels over the output scale from 0.1 to 1000, logarithmic. Left: the distance travelled falls along its predicted line of slope minus one and bends off below it only for scales under one; the gap of the outputs falls with slope minus one and the gap of the parameters with slope minus two once the scale is above about ten; below they flatten or run under their lines. Right: the relative change of the kernel is several hundred per cent at scale 0.1, falls through one tenth between two and three, and then has slope minus one."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.7), width_ratios=[1.5, 1])
left.axvspan(30, 1500, color="0.93")
for i, (key, exponent, text) in enumerate(
    (
        ("distance", None, "distance travelled"),
        ("outputs", -1, "gap of the outputs"),
        ("parameters", -2, "gap of the parameters"),
    )
):
    value, error = slope(ALPHAS[LARGE], laws[key][:, LARGE])
    points(left, ALPHAS, laws[key], f"{text}, slope {value:.2f}", i)
    if exponent is None:
        line(left, ALPHAS, laws["predicted"].mean(axis=0), series=i)
    else:
        power(left, ALPHAS, laws[key], exponent, i)
alpha_axis(left, ylabel="norm", ylim=(3e-7, 5e4), xlim=(0.07, 1500))
left.legend(loc="upper right")
points(right, ALPHAS, laws["kernel"], "network")
power(right, ALPHAS, laws["kernel"], -1)
alpha_axis(right, ylabel="relative change of the kernel")

# %% [markdown]
# Lines are predictions (for the distance with its constant, nothing fitted), points are means over four networks; slopes are
# fitted in the gray range. The laws start where the kernel stops changing much, here above $\alpha \approx 3$.
#
# Below, at the left edge, is another world. With $\alpha = 0.1$ the network must reach $h = \pm 10$: it travels 20 units, its kernel ends several times as
# large as it began. It learns features; linear it is not.

# %%
fits = {k: slope(ALPHAS[LARGE], v[:, LARGE]) for k, v in laws.items()}
for key, expected in (("distance", -1), ("parameters", -2), ("outputs", -1)):
    value, error = fits[key]
    print(f"{key:10} slope {value:.2f} ± {error:.1g}")
    assert abs(value - expected) < 0.01 + error
ratio = laws["distance"] / laws["predicted"]
print(f"distance / predicted at α = 1000: {ratio[:, -1].mean():.3f}, ", end="")
print(f"at α = 0.1: {ratio[:, 0].mean():.1f}")
assert (abs(ratio[:, -1] - 1) < 2e-3).all()
assert (laws["kernel"][:, 0] > 1).all()
assert (laws["kernel"][:, -1] < 1e-3).all()

for key, what in (
    ("distance", "slope over α of the distance travelled"),
    ("parameters", "slope over α of the distance to the linearised trajectory"),
    ("outputs", "slope over α of the output's gap to the linearised model"),
):
    value, error = fits[key]
    claim("Z1", what=f"{what} (32 erf units, centred)", measured=value, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# **Move the scale yourself.** In a live notebook the cell after the next comes with a slider for $\alpha$.
# One network and its linearization are trained side by side.
# Above are four of the twenty outputs $f = \alpha h$ over the steps, below the entries of the kernel after training over those before.

# %%
SEEN = np.unique(np.geomspace(1, STEPS, 40).astype(int))
first = jax.tree.map(lambda leaf: leaf[0], params)


@jax.jit
def side_by_side(alpha):
    """Outputs of αh and of its linearization after SEEN steps, [T, N] each, and Θ before and after training."""
    h, start = centred(first, alpha)
    f, _ = ntk.scale_output((h, start), alpha)
    before = ntk.empirical_ntk((h, start), x)
    optimizer = optax.sgd(0.1 * 2 * N / jnp.linalg.eigvalsh(before)[-1] / alpha**2)

    def trained(model):
        looks = {"record": lambda w: model(w, x)[:, 0], "record_at": SEEN, "progress": False}
        return ntk.train((model, start), x, y, optimizer=optimizer, steps=STEPS, **looks)

    full, linear = trained(f), trained(ntk.linearize((f, start)))
    return full.records, linear.records, before, ntk.empirical_ntk((h, full.params), x)


# %% alt="Three columns for the output scales 0.1, 1 and 10. Above: four outputs of a network over 500 steps, and dashed those of its linearization. Below: entries of the kernel after training against those before. At scale 0.1 the solid curves leave the dashed ones after ten steps, and entries of the kernel grow up to fifteenfold; at 1 the curves part in the end, and large entries grow by up to three quarters; at 10 curves and dashes coincide, and the entries lie on the diagonal."
def look(alphas):
    """A column of two panels for each α."""
    size = 2.9 * len(alphas), 5
    _, axes = plt.subplots(2, len(alphas), figsize=size, squeeze=False, layout="constrained")
    for (above, below), alpha in zip(axes.T, alphas, strict=True):
        full, linear, before, after = side_by_side(alpha)
        for i in range(4):
            above.plot(SEEN, full[:, i], "-", color=plotting.COLOURS[i])
            above.plot(SEEN, linear[:, i], "k--", lw=1)
        below.plot(np.ravel(before), np.ravel(after), ".", color=plotting.COLOURS[0])
        below.axline((0, 0), slope=1, color="0.4", ls="--", lw=1)
        above.set(title=f"α = {alpha:.4g}", xscale="log", xlabel="steps (dashed: linearization)")
        below.set(xlabel="Θ(x, x') before training")
    axes[0, 0].set_ylabel("output, target ±1")
    axes[1, 0].set_ylabel("Θ(x, x') after training")
    plt.show()


if os.environ.get("CI"):  # still pictures
    look([0.1, 1.0, 10.0])
else:
    from ipywidgets import interact

    interact(lambda log10_alpha: look([10**log10_alpha]), log10_alpha=(-1.0, 3.0, 0.25))

# %% [markdown]
# ### Any model
#
# The argument never said "network". Three more models, the last of them not even a network: a deep and narrow tanh network, a small convolutional network
# in plain Flax, and a sum of five Gaussian bumps whose heights *and places* are learnt.

# %%


class SmallCNN(nnx.Module):
    """4 channels, 3×3, tanh, means over nine 3×3 windows, linear readout."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.readout = nnx.Linear(4 * 9, 1, rngs=rngs)

    def __call__(self, x):
        a = jnp.tanh(self.conv(x.reshape(-1, 7, 7, 1)))
        a = nnx.avg_pool(a, (3, 3), strides=(2, 2))
        return self.readout(a.reshape(len(x), -1))


def bumps(seed):
    """Σ_k c_k exp(−‖x − m_k‖²/2d), as (apply_fn, params)."""
    key_c, key_m = jax.random.split(jax.random.key(seed))
    params = {"c": jax.random.normal(key_c, (5,)), "m": jax.random.normal(key_m, (5, 49))}

    def h(p, x):
        square = jnp.sum((x[:, None, :] - p["m"][None]) ** 2, axis=-1)
        return (jnp.exp(-square / (2 * 49)) @ p["c"])[:, None]

    return h, params


def deep(seed):
    tanh = ntk.Tanh()
    return ntk.mlp([49, 8, 8, 8, 1], activation=tanh, w_std=1.5, rngs=nnx.Rngs(seed))


# %% [markdown]
# Each at four large $\alpha$:

# %%
FEW = np.logspace(1.5, 3, 4)
for name, make in (
    ("three hidden layers of 8 tanh", deep),
    ("a CNN", lambda seed: SmallCNN(nnx.Rngs(seed))),
    ("five bumps", bumps),
):
    fn, stacked = ensemble(make)
    P = sum(leaf[0].size for leaf in jax.tree.leaves(stacked))
    found = sweep(lambda w, a, fn=fn: ntk.center((fn, w)), stacked, FEW)
    three = [slope(FEW, found[k]) for k in ("distance", "parameters", "outputs")]
    print(f"{name:30} P = {P:3d}, slopes", ", ".join(f"{v:.2f}" for v, _ in three))
    for (value, error), expected in zip(three, (-1, -2, -1), strict=True):
        assert abs(value - expected) < 0.03 + error
    if name == "a CNN":
        value, error = three[0]
        what = "slope over α of the distance travelled (Flax CNN, centred)"
        claim("Z1", what=what, measured=value, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# ## The start must be near zero
#
# We supposed $h(w_0) = 0$. Without it the residual at the start is $\alpha h(w_0) - y$, and that **grows with $\alpha$**. The equation for $u$ is driven by it,
# so $u$ is of order $\alpha$, and $w - w_0 = u/\alpha$ of order one. Nothing is won.
#
# The other form of the loss says it better: $\alpha h$ on the labels $y$ is $h$ on the labels $y/\alpha$. For $\alpha \to \infty$ the labels become
# **zero**: the network is asked to forget what it says at the start, a fixed task without any $\alpha$ in it. So the distance tends to the one that $h$ travels
# when it is trained on the label 0.
#
# In between, let the output at the start be $\alpha^{-p}\, h(w_0)$, by taking away the rest. The residual is of order $\alpha^{1-p}$ and with it $u$, and the
# next term $u_1$, which is quadratic in $u$, like $\alpha^{2-2p}$. For $0 \le p \le 1$:
#
# | | general $p$ | $p = 0$: untouched | $p = \tfrac12$ | $p = 1$: $\alpha h(w_0)$ bounded |
# |---|---|---|---|---|
# | distance traveled | $-p$ | $0$ | $-\tfrac12$ | $-1$ |
# | gap of the parameters | $-2p$ | $0$ | $-1$ | $-2$ |
# | gap of the outputs | $1 - 2p$ | $+1$ | $0$ | $-1$ |
#
# **Bounded is enough**, zero is not needed: for $p = 1$ all three laws are back, with $y - h(w_0)$ in the place of $y$ in the constant.

# %%


def starting_at(p, w, alpha):
    """The model whose output at the start is α^-p h(w_0)."""
    h, start = ntk.center((apply_fn, w))
    return lambda q, x: h(q, x) + alpha**-p * apply_fn(w, x), start


def distance_to_zero_labels(w):
    """How far h travels when trained on the label 0, unscaled."""
    eta = 0.1 * 2 * N / jnp.linalg.eigvalsh(ntk.empirical_ntk((apply_fn, w), x))[-1]
    trained = ntk.train(
        (apply_fn, w),
        x,
        jnp.zeros_like(y),
        optimizer=optax.sgd(eta),
        steps=STEPS,
        progress=False,
    ).params
    return norm(difference(trained, w))


POWERS = (0.0, 0.5, 1.0)
at_power = lambda p, w, a: travel(starting_at(p, w, a), a)  # noqa: E731
for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
    at_power = jax.vmap(at_power, in_axes=axes)
found = jax.device_get(jax.jit(at_power)(jnp.array(POWERS), params, jnp.asarray(ALPHAS)))
starts = {p: {key: v[i] for key, v in found.items()} for i, p in enumerate(POWERS)}
plateau = np.asarray(jax.jit(jax.vmap(distance_to_zero_labels))(params))

# %% alt="Distance travelled against the output scale, logarithmic, for three outputs at the start. Untouched, it falls at first and from a scale of about ten on stays at two, on the line predicted from training on zero labels; scaled by one over root alpha it falls with slope minus one half; scaled by one over alpha with slope minus one, along its predicted line."
fig, ax = plt.subplots(figsize=(6.4, 3.6))
names = ("h(w₀), untouched", "h(w₀)/√α", "h(w₀)/α")
for i, (p, name) in enumerate(zip(POWERS, names, strict=True)):
    value, _ = slope(ALPHAS[LARGE], starts[p]["distance"][:, LARGE])
    points(ax, ALPHAS, starts[p]["distance"], f"start {name}: slope {value:z.2f}", i)
    if p == 0:
        line(ax, ALPHAS, np.full(len(ALPHAS), plateau.mean()), series=i)
    else:
        at = ALPHAS >= 1
        line(ax, ALPHAS[at], starts[p]["predicted"].mean(axis=0)[at], series=i)
alpha_axis(ax, ylabel="distance travelled, ‖w − w₀‖")
_ = ax.legend()

# %% [markdown]
# Lines are predictions without a fitted constant: the two that fall come from the linear model with its true residual $y - \alpha^{1-p} h(w_0)$, the plateau from
# training the *unscaled* network on zero labels.

# %%
for p in POWERS:
    found = [slope(ALPHAS[LARGE], starts[p][k][:, LARGE]) for k in ("distance", "parameters", "outputs")]
    print(f"p = {p}: slopes", ", ".join(f"{v:z.2f} ± {e:.1g}" for v, e in found))
    for (value, error), expected in zip(found, (-p, -2 * p, 1 - 2 * p), strict=True):
        assert abs(value - expected) < 0.03 + 2 * error
ratio = starts[0.0]["distance"][:, -1] / plateau
print(f"untouched, α = 1000: distance / distance to zero labels = {ratio.mean():.3f}")
assert (abs(ratio - 1) < 0.01).all()

for p, what in ((0.0, "h(w_0) untouched"), (1.0, "h(w_0)/α at the start, bounded αh")):
    value, error = slope(ALPHAS[LARGE], starts[p]["distance"][:, LARGE])
    claim("Z2", what=f"slope over α of the distance travelled, {what}", measured=value, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# ### Three ways to start at zero
#
# | | how | kernel at the start | price |
# |---|---|---|---|
# | centering | train $h(w) - h(w_0)$ (`ntk.center`) | $\Theta$ | two evaluations |
# | doubling | two copies, $\frac{1}{\sqrt2}\,(h(w) - h(w'))$, both started at $w_0$, both trained | $\Theta$ | two evaluations, $2P$ parameters |
# | zero readout | set the last layer's weights to 0 | of the last layer only | another kernel, without the part of the layers below |
#
# (The doubled kernel is $\frac12(\Theta + \Theta)$; without the $1/\sqrt2$ it would be $2\Theta$. With a zero readout no gradient gets past the last layer
# until that has moved.)
#
# Now a surprise: for two of them the gap of the outputs has **another exponent**. We need one line of algebra for each. Put the magnifying glass
# on the doubled model:
#
# $$ f_\varepsilon(u, u') = \frac{1}{\sqrt2\,\varepsilon}\, \big[ h(w_0 + \varepsilon u) - h(w_0 + \varepsilon u') \big] . $$
#
# Swap the copies, turn both round and change the sign of $\varepsilon$:
# $f_{-\varepsilon}(-u', -u) = -\frac{1}{\sqrt2\,\varepsilon}\, [h(w_0 + \varepsilon u') - h(w_0 + \varepsilon u)] = f_\varepsilon(u, u')$. It is
# the same function in other coordinates, and $(u, u') \mapsto (-u', -u)$ is a rotation or reflection, which gradient descent does not notice. So
# training at $-\varepsilon$ is a mirror image of training at $\varepsilon$, with the same outputs: **$f$ is an even function of
# $\varepsilon$**. An even function has no term $\varepsilon f_1$, and the gap starts with $\varepsilon^2 f_2$: slope $-2$. In short, the second-order terms
# $D^2h[u, u]$ and $D^2h[u', u']$ cancel, since $u' = -u$ to first order. (The parameters keep their $-2$: the
# mirror only says that both copies have the same $u_1$, not that it is zero.)
#
# Zero readout: with $a$ the readout and $V$ the rest, $h = a \cdot g(V)$ and $a_0 = 0$, so
# $f_\varepsilon(u_a, u_V) = u_a \cdot g(V_0 + \varepsilon u_V)$. That does not change under $(\varepsilon, u_V) \to (-\varepsilon, -u_V)$: even, again, and $-2$.
#
# **Prediction**: $-1$ for centering, $-2$ for the other two. Whoever tests the law $1/\alpha$ on a doubled model tests the wrong law.

# %%


def doubled(w, alpha):
    """(h(w) − h(w'))/√2 with both copies started at w_0."""
    return lambda q, x: (apply_fn(q[0], x) - apply_fn(q[1], x)) / 2**0.5, (w, w)


def zero_readout(w, alpha):
    layers = w["layers"]
    silent = jax.tree.map(jnp.zeros_like, layers[2])
    return apply_fn, {"layers": layers | {2: silent}}


ways = {
    "centred": (laws, -1),
    "doubled": (sweep(doubled, params), -2),
    "zero readout": (sweep(zero_readout, params), -2),
}

# %% alt="Gap between the outputs of the scaled model and of its linearisation against the output scale, logarithmic. Centred, it falls with slope minus one; doubled and with a zero readout, with slope minus two. All three are within a factor of a few at small scales."
fig, ax = plt.subplots(figsize=(6.4, 3.6))
for i, (name, (found, exponent)) in enumerate(ways.items()):
    value, _ = slope(ALPHAS[LARGE], found["outputs"][:, LARGE])
    points(ax, ALPHAS, found["outputs"], f"{name}: slope {value:.2f}", i)
    power(ax, ALPHAS[ALPHAS >= 3], found["outputs"], exponent, i)
alpha_axis(ax, ylabel="gap of the outputs, ‖f − f_linear‖")
_ = ax.legend()

# %%
for name, (found, exponent) in ways.items():
    three = [slope(ALPHAS[LARGE], found[k][:, LARGE]) for k in ("distance", "parameters", "outputs")]
    print(f"{name:13} slopes", ", ".join(f"{v:.2f}" for v, _ in three))
    for (value, error), expected in zip(three, (-1, -2, exponent), strict=True):
        assert abs(value - expected) < 0.01 + error
value, error = slope(ALPHAS[LARGE], ways["doubled"][0]["outputs"][:, LARGE])
claim("Z1", what="slope over α of the output's gap, doubled model", measured=value, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# ## One number that tells, to a factor of a few
#
# $\alpha$ is a knob, not a measure: $\alpha = 1$ is lazy for one network and not for another. What decides? To fit, $h$ has to change by the residual
# $r = h(w_0) - y$. The shortest step that changes the outputs by $\lVert r \rVert$, if the direction is favorable, has the length
# $\lVert \Delta w \rVert = \lVert r \rVert / \lVert Dh \rVert$, with the largest singular value $\lVert Dh \rVert$. On this way the Jacobian
# changes by at most $\lVert D^2h \rVert\, \lVert \Delta w \rVert$. Relative to its own size that is
#
# $$ \kappa_h(w_0) = \lVert h(w_0) - y \rVert\; \frac{\lVert D^2h(w_0) \rVert}{\lVert Dh(w_0) \rVert^2} . $$
#
# $\kappa_h \ll 1$ is the criterion of Chizat et al.: *the model has fitted before its Jacobian has noticed*. They come to it by comparing two
# rates in one gradient step on $F = \frac{1}{2N}\lVert r \rVert^2$: the Jacobian's relative change is at most $\eta\, \lVert \nabla F \rVert\, \lVert D^2h \rVert / \lVert Dh \rVert$, and the
# loss's relative change $\eta\, \lVert \nabla F \rVert^2 / F$. The quotient is
#
# $$ \frac{\lVert D^2h \rVert}{\lVert Dh \rVert} \cdot \frac{F}{\lVert \nabla F \rVert}
#    = \frac{\lVert D^2h \rVert}{\lVert Dh \rVert} \cdot \frac{\lVert r \rVert^2}{2\, \lVert Dh^\top r \rVert}
#    \;\approx\; \frac{\kappa_h}{2} \quad\text{if } \lVert Dh^\top r \rVert \approx \lVert Dh \rVert\, \lVert r \rVert ; $$
#
# the $N$ has canceled, and with square loss the factor 2 is left aside. Two steps are rough, in opposite directions. $\lVert D^2h \rVert$ is the worst direction's curvature, while training goes
# in its own: this makes $\kappa_h$ too large. And $\lVert Dh^\top r \rVert$ can be much *smaller* than $\lVert Dh \rVert\, \lVert r \rVert$: what lies along small singular values needs a longer way,
# in the end $\sqrt{r^\top \Theta^{-1} r}$ instead of $\lVert r \rVert/\lVert Dh \rVert$. So $\kappa_h$ is an order of magnitude, not a bound.
#
# For $\alpha h$ every derivative gets a factor $\alpha$:
#
# $$ \kappa_{\alpha h} = \frac1\alpha\, \lVert \alpha h(w_0) - y \rVert\; \frac{\lVert D^2h \rVert}{\lVert Dh \rVert^2}
#    \;\le\; \Big( \lVert h(w_0) \rVert + \frac{\lVert y \rVert}{\alpha} \Big) \frac{\lVert D^2h \rVert}{\lVert Dh \rVert^2} , $$
#
# the whole of the last two sections in one line: $1/\alpha$ if $h(w_0) = 0$, and stuck at a constant if not.
#
# ### And width?
#
# With one hidden layer the two parameterizations of chapter 02 differ by a factor in front,
#
# $$ h_{\text{MF}} = \frac{\sigma_w}{n} \sum_j a_j\, \phi(h_j), \qquad h_{\text{NTK}} = \frac{\sigma_w}{\sqrt n} \sum_j a_j\, \phi(h_j) = \sqrt n\; h_{\text{MF}} , $$
#
# and their learning rates by $\eta_{\text{MF}} = n\, \eta_{\text{NTK}}$: **the NTK parameterization is the mean-field network with $\alpha = \sqrt n$ and the rate $\eta_{\text{MF}}/\alpha^2$.**
# Even the start fits. $h_{\text{MF}}(w_0)$ is a mean of $n$ terms with random signs, so it is of order $n^{-1/2} = 1/\alpha$: the bounded case, $p = 1$.
# The movement of readout and input weights in chapter 02 is this chapter's $1/\alpha$. So is the gap to the linearized network in chapter 04 with readouts of one sign; random signs cancel the first order down to $1/n$.
# Chapter 03's $n^{-1/2}$ is not: there the kernel *at the start* is an average over random units, and a law of large numbers says how well.
# Width is one way to get a large factor in front. It is not needed, and width alone makes nothing lazy.
#
# **Prediction**: in the mean-field parameterization $\kappa_h$ and the change of the Jacobian do not fall with the width; in the NTK parameterization both fall like
# $1/\sqrt n$; in both they fall like $1/\alpha$. We need $\lVert D^2h \rVert = \max \lVert D^2h[u, u] \rVert$ over unit vectors $u$.
# With one hidden layer $D^2h$ joins parameters of one unit only. So $D^2h[u, u] = \sum_j |u_j|^2\, D_j^2h[\hat u_j, \hat u_j]$, where $u_j$ is what $u$ does to unit $j$ and $\sum_j |u_j|^2 = 1$:
# a weighted mean over units, whose norm is largest when *one* unit has all the weight. $\lVert D^2h \rVert$ is the largest of the units' own curvatures.
# Within a unit (50 parameters) we iterate, from three starts in *every* unit: take the output direction $c$ in which $h$ bends most along $u$, then the $u$ that bends $c \cdot h$ most, and so on.
# (From a few starts in all parameters at once the iteration stays in whatever unit it falls into, and finds too little.)

# %%


def on_data(model):
    """(h, w_0) with h a function of one vector [P] and values [N]."""
    fn, start = model
    w0, unflatten = ravel_pytree(start)
    return lambda w: fn(unflatten(w), x)[:, 0], w0


def unit_curvature(v, a, key, rounds=40):
    """The largest ‖D²h[u, u]‖ over unit vectors u, where h = a erf(σ_w v · x/7) is one unit."""
    h = lambda w: w[-1] * jax.scipy.special.erf(1.5 / 7 * x @ w[:-1])  # noqa: E731
    w0 = jnp.append(v, a)

    def bend(u):
        """D²h[u, u], [N]."""
        return jax.jvp(lambda w: jax.jvp(h, (w,), (u,))[1], (w0,), (u,))[1]

    def sharpen(_, u):
        c = bend(u)
        u = jax.grad(lambda v: bend(v) @ c)(u)  # 2 Σ_i c_i D²h_i u
        return u / jnp.linalg.norm(u)

    starts = jax.random.normal(key, (3, len(w0)))
    ends = jax.vmap(lambda u: jax.lax.fori_loop(0, rounds, sharpen, u / jnp.linalg.norm(u)))(starts)
    return jnp.linalg.norm(jax.vmap(bend)(ends), axis=1).max()


# %% [markdown]
# With it $\kappa_h$, and what it should foretell: how much the Jacobian changes in training.


# %%
def kappa(model, w, factor, target):
    """κ_h for outputs that must go from h(w_0) to target [N]; h is `factor` times the network with weights w."""
    h, w0 = on_data(model)
    V, a = w["layers"][0]["W"], w["layers"][2]["W"][:, 0]
    keys = jax.random.split(jax.random.key(0), len(a))
    bent = factor * 1.5 / len(a) ** 0.5 * jax.vmap(unit_curvature)(V.T, a, keys).max()
    steep = jnp.linalg.norm(jax.jacrev(h)(w0), ord=2)
    return jnp.linalg.norm(h(w0) - target) * bent / steep**2


def jacobian_change(model, alpha, steps=200):
    """‖Dh(w_T) − Dh(w_0)‖/‖Dh(w_0)‖ (Frobenius) after training αh."""
    f, start = ntk.scale_output(model, alpha)
    theta = ntk.empirical_ntk(model, x)
    eta = 0.1 * 2 * N / jnp.linalg.eigvalsh(theta)[-1]
    optimizer = optax.sgd(eta / alpha**2)
    history = ntk.train((f, start), x, y, optimizer=optimizer, steps=steps, progress=False)
    h, _ = on_data(model)
    before, after = (jax.jacrev(h)(ravel_pytree(p)[0]) for p in (start, history.params))
    return jnp.linalg.norm(after - before) / jnp.linalg.norm(before)


# %% [markdown]
# Two widths in both parameterizations, over four decades of $\alpha$:

# %%
NARROW, WIDE = 16, 2048 if PAPER else 256
KAPPA_ALPHAS = np.logspace(-1, 3, 9)
change, kappas = {}, {}
for n in (NARROW, WIDE):
    fn, stacked = ensemble(functools.partial(network, n=n))
    mean_field = network(0, n, ntk.MEAN_FIELD)  # the same weights: seed 0
    assert jnp.allclose(mean_field(x), network(0, n)(x) / n**0.5, rtol=1e-5)

    def one(w, factor, fn=fn):
        model = ntk.center((lambda w, x: factor * fn(w, x), w))
        along = lambda a: jacobian_change(model, a)  # noqa: E731
        return jax.vmap(along)(jnp.asarray(KAPPA_ALPHAS)), kappa(model, w, factor, y[:, 0])

    of_all = jax.jit(lambda stacked, factor, one=one: jax.lax.map(lambda w: one(w, factor), stacked))
    for name, factor in (("NTK", 1.0), ("mean field", n**-0.5)):
        change[name, n], at_one = map(np.asarray, of_all(stacked, factor))
        kappas[name, n] = at_one[:, None] / KAPPA_ALPHAS  # centred: κ ∝ 1/α exactly

# %% alt="Two panels with the relative change of the Jacobian in training for two widths, 16 and 256, in the NTK and in the mean-field parameterization. Left, against the output scale: from about ten on all fall with slope minus one; the NTK networks lie lower, the wide one lowest; the two mean-field networks lie together at the top. Right, against kappa: below a kappa of one all four fall on nearly one line of slope one; above it the change grows more slowly."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.7), sharey=True)
for i, ((name, n), samples) in enumerate(change.items()):
    points(left, KAPPA_ALPHAS, samples, f"{name}, n = {n}", i)
    points(right, kappas[name, n].mean(axis=0), samples, f"{name}, n = {n}", i)
ends = np.array([2e-4, 10])
right.plot(ends, ends, color="0.4", linewidth=1, label="change = κ", zorder=0)
alpha_axis(left, ylabel="relative change of the Jacobian")
right.set(xscale="log", xlabel="κ, measured before training")
_ = right.legend()

# %%
for (name, n), samples in change.items():
    k = kappas[name, n][:, 2]  # α = 1
    print(f"{name:10} n = {n:4d}, α = 1: κ = {k.mean():.2f}, ", end="")
    print(f"Jacobian changes by {100 * samples[:, 2].mean():.0f} %")
fitted = [slope(KAPPA_ALPHAS[5:], samples[:, 5:])[0] for samples in change.values()]
print("slopes over α from 30 on:", ", ".join(f"{value:.2f}" for value in fitted))
assert all(abs(value + 1) < 0.03 for value in fitted)

all_ratios = np.concatenate([(change[k] / kappas[k])[:, 2:].ravel() for k in change])
print(f"change / κ for α ≥ 1: {all_ratios.min():.1f} to {all_ratios.max():.1f}")
assert 0.1 < all_ratios.min() < all_ratios.max() < 3
for name, expected in (("NTK", -0.5), ("mean field", 0.0)):
    two_widths = np.stack([change[name, n][:, -1] for n in (NARROW, WIDE)], axis=1)
    value, error = plotting.fit_slope((NARROW, WIDE), two_widths)
    print(f"{name:10} slope over n at α = 1000: {value:z.2f} ± {error:.2f}")
    assert abs(value - expected) < 0.1 + 2 * error

for name in ("NTK", "mean field"):
    narrow, wide = (kappas[name, n][:, 2].mean() for n in (NARROW, WIDE))
    print(f"{name:10} κ at n = {NARROW} over κ at n = {WIDE}: {narrow / wide:.2g}")

# %% [markdown]
# A factor of 16 in width does nothing to the Jacobian's change in a mean-field network: the two lie on top of each other, and at $\alpha = 1$ both change completely. The
# network of 16 units is lazy at $\alpha = 100$ in either parameterization. Against $\kappa$, measured before the first step, all four are near
# one line, within a factor of about three, for the three decades of $\alpha \ge 1$.
#
# **One prediction failed.** $\kappa$ of the NTK parameterization should fall by $\sqrt{16} = 4$ with the width, and falls by 2.2; that of the mean-field one should stay, and rises by 1.8.
# The change of the Jacobian does what it should.
# $\lVert D^2h \rVert$ belongs to the one unit that bends most, and among 256 units there is a worse one than among 16.
# That unit decides $\kappa$, but not the training.
# So a small $\kappa$ says that training will be lazy, unless the labels lie along small singular values.
# It is not a ruler, and it need not put two networks in the right order (exercise 05.6).
#
# ## A minimum next door
#
# So far the parameters stayed near $w_0$ and the loss went to zero all the same. There must be a minimum close by. Is this training's doing? No, it
# is there beforehand, and it can be had without any training. We look for $w$ with
#
# $$ \alpha\, h(w) = y \quad\Longleftrightarrow\quad h(w) = \frac{y}{\alpha}, \qquad h(w_0) = 0 . $$
#
# If $Dh(w_0)$ has **full rank** $N$ (this is what *non-degenerate* means: $P \ge N$ and $\Theta(w_0)$ invertible), then $h$ maps a neighbourhood of $w_0$ onto a
# neighbourhood of $0$; this is the implicit function theorem. For large $\alpha$ the label $y/\alpha$ lies in it. To first order the solutions form the
# plane $Dh\,(w - w_0) = y/\alpha$, whose point nearest to $w_0$ is
#
# $$ w^* - w_0 = Dh^\top \Theta^{-1}\, \frac{y}{\alpha}, \qquad \lVert w^* - w_0 \rVert = \frac{1}{\alpha} \sqrt{y^\top \Theta^{-1} y}\; \big(1 + O(1/\alpha)\big) . $$
#
# The scale does nothing but say how far the labels are. And gradient descent finds *this* minimum out of the many: the linear model started in
# $w_0$ moves within the rows of $Dh(w_0)$ only, so it ends in the nearest point, and the network ends within $1/\alpha^2$ of it.
#
# **Without full rank** everything depends on what is missing. Three cases:
#
# - *Rank zero, second order alive.* A network with one hidden layer, $\phi(0) = 0$, no biases and $w_0 = 0$ has $h = 0$ and $Dh = 0$: $h \approx \frac12 D^2h[\delta, \delta] = y/\alpha$
#   wants $\delta \sim \alpha^{-1/2}$. For our erf network, near zero it is the bilinear $h \approx c\, x V a$ with $c = \sigma_w^2 \phi'(0)/\sqrt{nd}$. With $v$ the least-norm solution of
#   $x v = y/\alpha$, the cheapest $(V, a)$ with $c\, V a = v$ is of rank one and has $\lVert \delta \rVert^2 = 2 \lVert v \rVert/c$. There is a minimum arbitrarily near, but
#   nothing lazy about it: the kernel starts at zero and is made altogether by the move. (And gradient descent does not move at all from this saddle.)
# - *A dead input.* In a ReLU network in which all units are silent on $x_1$, that row of $Dh$ is zero and stays zero all around $w_0$.
#   A unit must first be woken, and its readout must have the sign of $y_1$.
#   If it has it, unit $j$ with the weights $v_j$ is $|v_j \cdot x_1| / \lVert x_1 \rVert$ away;
#   if not, its readout $a_j$ has to cross zero as well, and it is $\sqrt{|v_j \cdot x_1|^2 / \lVert x_1 \rVert^2 + a_j^2}$ away.
#   Neither distance knows $\alpha$: slope 0.
#   (We go to the nearest unit of the first kind, and the line below is for that one; one of the second kind with a small readout can be nearer.
#   Below with $x_1$ as the only input, so that the rest does not interfere.)
# - *Two equal inputs with different labels.* No $w$ fits both. But the rank is the same all around $w_0$, so the outputs near 0 that can be reached are still all those with
#   $h_1 = h_2$: there is a nearby minimum of the loss, just not one with loss zero.
#
# **Prediction**: slopes $-1$, $-\frac12$, 0 with all three constants. **Measurement**: we find the nearest solution by iterating the formula: linearize $h$ where we
# are, take of its solutions the one nearest to $w_0$. With full rank the search starts at $w_0$. In the other two cases it has to start at the predicted answer:
# there it confirms that a minimum is where the formula says, but not that none is nearer.

# %%


def nearest_minimum(h, w0, target, start=None, rounds=40):
    """δ of least norm with h(w_0 + δ) = target [N], and how well it solves this."""

    def improve(move):
        J = jax.jacrev(h)(w0 + move)
        to_go = target - h(w0 + move) + J @ move  # of the plane J δ = to_go
        return J.T @ jnp.linalg.solve(J @ J.T, to_go)

    start = jnp.zeros_like(w0) if start is None else start
    # Half steps: where the Jacobian is made by the move itself, full ones swing around the solution for ever.
    move = jax.lax.fori_loop(0, rounds, lambda _, move: (move + improve(move)) / 2, start)
    move = improve(move)
    return move, jnp.abs(h(w0 + move) - target).max()


def full_rank(w, alpha):
    h, w0 = on_data(ntk.center((apply_fn, w)))
    move, error = nearest_minimum(h, w0, y[:, 0] / alpha)
    J = jax.jacrev(h)(w0)
    predicted = jnp.sqrt(y[:, 0] @ jnp.linalg.solve(J @ J.T, y[:, 0])) / alpha
    return jnp.linalg.norm(move), predicted, error * alpha


# %% [markdown]
# The case of rank zero. Its search starts at the bilinear solution.


# %%
def from_zero(w, alpha):
    """All weights zero; the search starts from the bilinear solution, its unit vector from w."""
    zero = jax.tree.map(jnp.zeros_like, w)
    h, w0 = on_data((apply_fn, zero))
    c = 1.5**2 * 2 / jnp.sqrt(jnp.pi) / jnp.sqrt(32 * 49)
    v = jnp.linalg.lstsq(x, y[:, 0] / alpha)[0]
    size = jnp.linalg.norm(v)
    e = w["layers"][2]["W"][:, 0]
    e = e / jnp.linalg.norm(e)
    layers = {i: dict(layer) for i, layer in zero["layers"].items()}
    layers[0]["W"] = jnp.outer(v / size, e) * jnp.sqrt(size / c)
    layers[2]["W"] = e[:, None] * jnp.sqrt(size / c)
    start = ravel_pytree({"layers": layers})[0]
    move, error = nearest_minimum(h, w0, y[:, 0] / alpha, start)
    return jnp.linalg.norm(move), jnp.sqrt(2 * size / c), error * alpha


# %% [markdown]
# The case of the dead input. Its search starts at the unit that is woken most cheaply.


# %%
def dead_input(key, alpha, n=64):
    """A ReLU network on one digit, label +1, on which its units are silent, each at least 1 away from speaking.

    Its output weights are ±1. With a small one the search may put its unit to sleep again.
    """
    unit = x[0] / jnp.linalg.norm(x[0])
    V, a = jax.random.normal(key, (49, n)), jax.random.rademacher(jax.random.fold_in(key, 1), (n,), x.dtype)
    away = 1 + jnp.abs(unit @ V)
    V = V - jnp.outer(unit, unit @ V + away)  # now unit · V = −away
    c = jnp.sqrt(2 / n) * jnp.linalg.norm(x[0]) / 7

    def h(w):
        return c * jax.nn.relu(unit @ w[: 49 * n].reshape(49, n)) @ w[49 * n :, None]

    w0 = jnp.concatenate([V.ravel(), a])
    way = jnp.where(a > 0, away + 1 / (alpha * c * a), jnp.inf)  # until unit j says 1/α
    j = jnp.argmin(way)
    V_woken = jnp.zeros_like(V).at[:, j].set(way[j] * unit)
    start = jnp.concatenate([V_woken.ravel(), jnp.zeros_like(a)])
    move, error = nearest_minimum(h, w0, jnp.ones(1) / alpha, start)
    return jnp.linalg.norm(move), away[j], error * alpha


# %% [markdown]
# All three, each for four networks, at five large $\alpha$:

# %%
NEAR_ALPHAS = np.logspace(3, 5, 5)
CASES = {
    "full rank": (full_rank, params, -1.0),
    "w₀ = 0": (from_zero, params, -0.5),
    "a dead input": (dead_input, jax.random.split(jax.random.key(reseed(0)), SEEDS), 0.0),
}
near = {}
for name, (find, seeds, _) in CASES.items():
    all_of = jax.vmap(jax.vmap(find, in_axes=(None, 0)), in_axes=(0, None))
    near[name] = jax.device_get(jax.jit(all_of)(seeds, jnp.asarray(NEAR_ALPHAS)))
    assert near[name][2].max() < 1e-6  # it does fit: αh = y

# %%


def trained_to_the_end(w, alpha):
    """Distance between where gradient descent ends and the nearest minimum."""
    model = ntk.center((apply_fn, w))
    h, w0 = on_data(model)
    eta = 0.1 * 2 * N / jnp.linalg.eigvalsh(ntk.empirical_ntk(model, x))[-1]
    end = ntk.train(
        ntk.scale_output(model, alpha),
        x,
        y,
        optimizer=optax.sgd(eta / alpha**2, momentum=0.9),
        steps=4000,
        progress=False,
    ).params
    move, _ = nearest_minimum(h, w0, y[:, 0] / alpha)
    return jnp.linalg.norm(ravel_pytree(end)[0] - w0 - move)


all_of = jax.vmap(jax.vmap(trained_to_the_end, in_axes=(None, 0)), in_axes=(0, None))
missed = np.asarray(jax.jit(all_of)(params, jnp.asarray(NEAR_ALPHAS)))

# %% alt="Distance from the start to the nearest parameters that fit all labels, against the output scale, logarithmic. With a Jacobian of full rank it falls with slope minus one along the predicted line, from the zero network with slope minus one half, with a dead input it stays constant. A fourth series, the distance between the end of gradient descent and the nearest minimum in the full-rank case, falls with slope minus two."
fig, ax = plt.subplots(figsize=(6.6, 3.8))
for i, (name, (distance, predicted, _)) in enumerate(near.items()):
    value, _ = slope(NEAR_ALPHAS, distance)
    points(ax, NEAR_ALPHAS, distance, f"{name}: slope {value:z.2f}", i)
    line(ax, NEAR_ALPHAS, predicted.mean(axis=0), series=i)
value, _ = slope(NEAR_ALPHAS, missed)
points(ax, NEAR_ALPHAS, missed, f"full rank, end of training to nearest minimum: {value:.2f}", 3)
power(ax, NEAR_ALPHAS, missed, -2, 3)
alpha_axis(ax, ylabel="distance to the nearest minimum", ylim=(1e-11, 1e5))
_ = ax.legend(loc="upper left")

# %%
for name, (distance, predicted, _) in near.items():
    value, error = slope(NEAR_ALPHAS, distance)
    expected = CASES[name][2]
    ratio = distance[:, -1] / predicted[:, -1]
    print(f"{name:12} slope {value:z.2f} ± {error:.1g}, distance/predicted {ratio.mean():.3f}")
    assert abs(value - expected) < 0.01 + error
    assert (abs(ratio - 1) < 0.01).all()
value, error = slope(NEAR_ALPHAS, missed)
assert abs(value + 2) < 0.02 + error

for name, what in (
    ("full rank", "Jacobian of full rank"),
    ("w₀ = 0", "degenerate: Jacobian zero at w_0 = 0"),
    ("a dead input", "degenerate: all ReLUs dead on one input"),
):
    value, error = slope(NEAR_ALPHAS, near[name][0])
    claim(
        "Z3",
        what=f"slope over α of the distance to the nearest minimum, {what}",
        measured=value,
        uncertainty=error,
        seeds=SEEDS,
    )
ratio = near["full rank"][0] / near["full rank"][1]
value, error = plotting.mean_and_error(ratio[:, -1])
claim(
    "Z3",
    what="distance to the nearest minimum over √(yᵀΘ⁻¹y)/α, α = 10⁵",
    measured=value,
    uncertainty=error,
    seeds=SEEDS,
)

# %% [markdown]
# ## The price
#
# A lazy network trains like a linear model with random features. Does it *generalize* as well as the same network when it is allowed to learn features? We
# compare a two-layer ReLU network of 64 units with itself, at $\alpha$ from 0.03 to 30, on two tasks with one output:
#
# - **digits**: even or odd, 400 training digits of 7×7 pixels, 1,000 test digits, four splits;
# - **teacher**: inputs from $N(0, I)$ in 30 dimensions, labels from a ReLU network of *two* units, scaled to variance one; 300 training and 1,000 test points,
#   four teachers.
#
# What is a fair comparison? Lazy networks fit slowly what lies along small eigenvalues, so with equal steps they would stop early without being asked. We stop all at the
# **same training loss**, once early (0.1, from 0.5 at the start) and once late (0.03). Everything is centered. Momentum 0.9 saves
# steps. The limit $\alpha \to \infty$ needs no training: it is kernel gradient flow with the kernel at $w_0$, `ntk.gradient_flow`, stopped at the same loss.

# %%
STOPS = (0.1, 0.03)
PRICE_ALPHAS = np.array([0.03, 0.1, 0.3, 1.0, 3.0, 30.0])
UNITS = 256 if PAPER else 64
N_DIGITS, N_TEACHER = (2000, 1000) if PAPER else (400, 300)


def relu_net(seed, d):
    return ntk.mlp([d, UNITS, 1], w_std=2**0.5, rngs=nnx.Rngs(seed))


def digits(seed):
    data = ntk.load("mnist5k", n_train=N_DIGITS, n_test=1000, seed=seed)
    size = np.sqrt(np.mean(shrink(data.x_train) ** 2))
    inputs = (jnp.asarray(shrink(a) / size, float) for a in (data.x_train, data.x_test))
    x, x_test = inputs
    return x, even_or_odd(data.y_train), x_test, even_or_odd(data.y_test)


@jax.jit
def teacher(seed):
    k1, k2, k3 = jax.random.split(jax.random.key(seed), 3)
    x, x_test = jax.random.normal(k1, (N_TEACHER, 30)), jax.random.normal(k2, (1000, 30))
    V = jax.random.normal(k3, (30, 2))
    V = V / jnp.linalg.norm(V, axis=0)
    y, y_test = ((jax.nn.relu(a @ V) @ jnp.array([[1.0], [-1.0]])) for a in (x, x_test))
    return x, y / y.std(), x_test, y_test / y.std()


# %% [markdown]
# Training goes on until the loss first reaches a stop, and then until it reaches the next.


# %%
def scores(f, y_test):
    return jnp.mean((f - y_test) ** 2) / 2, jnp.mean(jnp.sign(f) != jnp.sign(y_test))


def train_until(apply_fn, eta, w, x, y, x_test, y_test, alpha, most=4000):
    """(test loss, test error) when the training loss first reaches each of STOPS."""
    f, _ = ntk.scale_output(ntk.center((apply_fn, w)), alpha)
    optimizer = optax.sgd(eta / alpha**2, momentum=0.9)
    loss = lambda w: jnp.mean((f(w, x) - y) ** 2) / 2  # noqa: E731

    def step(state):
        w, momentum, _, count = state
        value, grads = jax.value_and_grad(loss)(w)
        updates, momentum = optimizer.update(grads, momentum)
        return optax.apply_updates(w, updates), momentum, value, count + 1

    def until(state, stop):
        not_yet = lambda s: (s[2] > stop) & (s[3] < most)  # noqa: E731
        state = jax.lax.while_loop(not_yet, step, state)
        return state, (*scores(f(state[0], x_test), y_test), state[2])

    state = (w, optimizer.init(w), jnp.array(jnp.inf, y.dtype), 0)
    stops = jnp.array(STOPS, y.dtype)
    return jnp.stack(jax.lax.scan(until, state, stops)[1])  # [3, stops]


# %% [markdown]
# For $\alpha \to \infty$ the kernel says the same without training.


# %%
def limit(apply_fn, w, x, y, x_test, y_test):
    """The same for α → ∞, by kernel gradient flow; and the largest stable rate."""
    kernel = functools.partial(ntk.empirical_ntk, (apply_fn, w))
    stable = 2 * len(x) / jnp.linalg.eigvalsh(kernel(x))[-1]
    times = jnp.logspace(0, 6, 300)
    f, f_test = ntk.gradient_flow(kernel(x), y, t=times, ntk_test_train=kernel(x_test, x))
    losses = jnp.mean((f - y) ** 2, axis=(1, 2)) / 2
    first = [jnp.argmax(losses < stop) for stop in STOPS]
    return jnp.array([scores(f_test[i], y_test) for i in first]).T, stable  # [2, stops]


# %% [markdown]
# Both tasks, with four networks each:

# %%
price, limits = {}, {}
for name, make, share in (("digits", digits, 0.2), ("teacher", teacher, 0.05)):
    sets = [jnp.stack(a) for a in zip(*map(make, range(SEEDS)), strict=True)]
    d = sets[0].shape[-1]
    fn, stacked = ensemble(functools.partial(relu_net, d=d))
    of_limit = jax.jit(jax.vmap(functools.partial(limit, fn)))
    limits[name], stable = map(np.asarray, of_limit(stacked, *sets))
    eta = share * float(stable.min())  # the teacher is learnt in few steps: smaller ones

    each = jax.vmap(functools.partial(train_until, fn, eta), in_axes=(0, 0, 0, 0, 0, None))
    sweep_of = jax.jit(lambda a, *data, each=each: jax.lax.map(lambda alpha: each(*data, alpha), a))
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (PRICE_ALPHAS, stacked, *sets))
    price[name] = np.asarray(sweep_of(*single)).swapaxes(0, 1)  # [seeds, alphas, 3, stops]

# %% alt="Two panels. Left: test error on digits in per cent against the output scale; stopped at training loss 0.03 it is about eight per cent for scales up to 0.3 and rises to about eleven at scale 30, the dashed limit; stopped at 0.1 the rise is smaller. Right: test loss with the teacher network; stopped at 0.03 it rises from 0.04 at scale 0.03 to 0.14 at scale 3 and stays there, at the dashed limit; stopped at 0.1, from 0.07 to 0.16."
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.6))
panels = ((axes[0], "digits", 1, 100, "test error, %"), (axes[1], "teacher", 0, 1, "test loss"))
for ax, name, column, unit, label in panels:
    for i, stop in enumerate(STOPS):
        samples = unit * price[name][:, :, column, i]
        points(ax, PRICE_ALPHAS, samples, f"stopped at training loss {stop}", i)
        mean = unit * limits[name][:, column, i].mean()
        ax.axhline(mean, color=plotting.COLOURS[i], linestyle=plotting.DASHES[i], linewidth=1.2)
    ax.set(xscale="log", xlabel="output scale α", ylabel=label, title=name)
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower right")

# %%
gaps = {}
for name, column, unit in (("digits", 1, 100), ("teacher", 0, 1)):
    for i, stop in enumerate(STOPS):
        at = unit * price[name][:, :, column, i]  # [seeds, alphas]
        rich, lazy = at[:, 0], at[:, -1]  # α = 0.03 and 30
        ends = unit * limits[name][:, column, i]
        gaps[name, stop] = plotting.mean_and_error(lazy - rich)
        gap, error = gaps[name, stop]
        print(f"{name:7} at {stop:4}: α = 0.03 {rich.mean():.2g}, α = 30 {lazy.mean():.2g}, ", end="")
        print(f"α → ∞ {ends.mean():.2g}; gap {gap:.1g} ± {error:.1g}")
        assert abs(lazy.mean() / ends.mean() - 1) < 0.15  # the limit predicts the lazy end
for name in price:  # did they reach the stop before their 4,000 steps were over?
    reached = (price[name][:, :, 2] <= np.array(STOPS, "f4")).mean()
    print(f"{name}: {100 * reached:.3g} % of the trainings reach their stop")
    assert reached > 0.9
for (name, stop), (gap, error) in gaps.items():
    if (name, stop) != ("digits", 0.1):
        assert gap > 2 * error

# %% [markdown]
# Points at the right lie at the horizontal lines, the limits: for large $\alpha$ the network *is* its kernel, also on new inputs. To the left:
#
# - **Lazy is worse on both tasks.** With the teacher the test loss is almost four times as large, on digits there are 11 errors in a hundred instead of 8.
#   The teacher is built to favor features: two directions out of thirty matter, a network that moves its first layer can turn its units there, a kernel
#   cannot. The digits depend on all pixels, and for them a kernel is not bad.
# - **When one stops matters.** On digits the gap is $2 \pm 0.8$ errors in a hundred if one stops early and $3 \pm 0.5$ if one stops late. The teacher shows it better: going on
#   from 0.1 to 0.03 almost halves the test loss of the network that learns features, and does little for the lazy one.
# - $\alpha$ cannot be made small without end. The kernel grows on the way (its change is four times its size at $\alpha = 0.1$, first figure), and a rate that is fine for it at the start
#   is too large then: on digits, training breaks down at $\alpha = 0.01$ with these steps.
#
# Chizat et al. train a VGG-11 on all of CIFAR-10 and find that lazy costs much more: the network learns features that a random convolutional kernel has not. Here are
# no convolutions, 400 images and a task that a kernel does well. What we have measured is the direction, and that its size depends on the task.
#
# ## What to take away
#
# - $\alpha h$ on labels $y$ with the rate $\eta/\alpha^2$ is $h$ on labels $y/\alpha$. Lazy training is a demand so small that the model can meet it
#   without leaving the neighbourhood in which it is linear.
# - With $h(w_0) = 0$ and at fixed time: distance traveled $\propto 1/\alpha$, with a constant that the kernel knows;
#   distance to the linear trajectory $\propto 1/\alpha^2$; gap of the outputs $\propto 1/\alpha$, but $1/\alpha^2$ for a doubled model or a zero readout, by a symmetry.
# - With $h(w_0) \ne 0$ the scale alone does nothing: the parameters travel as far as it takes to unlearn $h(w_0)$. Bounded $\alpha h(w_0)$ is enough.
# - $\kappa_h$ warns before training, within a factor of a few; it does not order networks. Into the Jacobian's change width enters through the scale only: the NTK parameterization is the mean-field one with $\alpha = \sqrt n$.
# - The minimum next door exists because the Jacobian has full rank. Training only walks there.
# - Lazy means no features. What it costs depends on the task: here a factor of almost four in test loss where two directions matter, three errors in a hundred on digits.
#
# ## Where it breaks
#
# - The laws are about a fixed time or a kernel without small eigenvalues. The constant is $\sqrt{y^\top \Theta^{-1} y}$ in the end, and with a nearly singular
#   kernel it takes an enormous $\alpha$ until they begin.
# - They need a model whose derivative is Lipschitz near $w_0$. ReLU is differentiable at almost every $w_0$, so at fixed width the laws come out, but only for $\alpha$ so large
#   that no unit changes sides on any input; the wider the network and the more data, the larger.
# - Square loss. With cross-entropy the labels are at infinity: every problem that the linearized model separates leaves the lazy regime in the end, later for larger $\alpha$.
# - Float32 has too few digits for $1/\alpha^2$: parameters of norm 40 are rounded by about $40 \cdot 6 \cdot 10^{-8}$, as much as their gap at $\alpha = 1000$.
#
# ## Exercises
#
# `exercises/05_lazy_training.ipynb`: the linear model from one Jacobian-vector product, the doubled model, the $\alpha$ for a given distance, an experiment with its errors in it,
# what a nonzero start does, and $\kappa$ of a network of your own.
#
# ## References
#
# - L. Chizat, E. Oyallon, F. Bach, *On Lazy Training in Differentiable Programming*, 2019, arXiv:1812.07956.
# - S. Mei, A. Montanari, P.-M. Nguyen, *A mean field view of the landscape of two-layer neural networks*, 2018, arXiv:1804.06561.
# - J. Lee, L. Xiao et al., *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*, 2019, arXiv:1902.06720.
# - M. Geiger, S. Spigler, A. Jacot, M. Wyart, *Disentangling feature and lazy training in deep neural networks*, 2020, arXiv:1906.08034 (α against width).
