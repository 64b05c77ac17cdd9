# %% [markdown]
# # 01 · The empirical NTK
#
# **After this chapter you can**
#
# - write the neural tangent kernel of any network as a product of Jacobians, compute it in two ways, and say what an entry means;
# - derive, and check on a real network, that gradient descent on the parameters is kernel gradient descent on the function;
# - read off the kernel's spectrum what a network learns first, what late, and what never.
#
# **Time:** 60 minutes for the chapter, 95 for the exercises. It needs chapter 00: `functional`, `vmap`, `jvp` and `vjp`.
#
# ## The question
#
# Gradient descent moves parameters: half a million numbers that mean nothing one by one. What we care about is the function
# $f(x)$ they make. **When the parameters take a gradient step, what does the function do?** Is there a rule for it that mentions
# functions only, and no parameters?
#
# There is, with one kernel in which the parameters remain, and it holds for every differentiable model. This chapter derives it, tests it on images, and uses it.

# %%
import itertools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import claim, reseed, scale
from ntklib import plotting

jax.config.update("jax_enable_x64", True)  # small errors are measured here
plotting.use_style()
paper = scale() == "paper"

# %% [markdown]
# The data are 64 training and 64 test images of `mnist5k`, at half resolution (14 × 14, so that the whole chapter runs in seconds),
# and a yes-or-no question, so that one output is enough, $K = 1$: is the digit even ($y = +1$) or odd ($y = -1$)?

# %%
data = ntk.load("mnist5k", n_train=64, n_test=64)


def half_resolution(pictures):
    """Means over 2 × 2 pixels, [N, 196]."""
    return pictures.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)


def even_or_odd(labels):
    """Targets [N, 1]: +1 for even digits, −1 for odd ones."""
    return jnp.where(jnp.asarray(labels) % 2 == 0, 1.0, -1.0)[:, None]


x, x_test = (half_resolution(p) for p in (data.x_train, data.x_test))
size = np.sqrt(np.mean(x**2))  # so that x·x/d = 1 on average
x, x_test = (jnp.asarray(p / size, dtype=float) for p in (x, x_test))
y, y_test = even_or_odd(data.y_train), even_or_odd(data.y_test)
N = len(x)
print("training inputs", x.shape, "targets", y.shape)


def network(key, width, activation=None, outputs=1):
    """A network with one hidden layer, tanh unless said otherwise."""
    sizes = [x.shape[1], width, outputs]
    activation = activation or ntk.Tanh()
    scales = {"w_std": 2**0.5, "b_std": 0.1}
    return ntk.mlp(sizes, activation=activation, **scales, rngs=nnx.Rngs(key))


def rms(a, axis=None):
    """Root mean square."""
    return (a**2).mean(axis=axis) ** 0.5


# %% [markdown]
# ## From parameters to functions
#
# Let $\theta \in \mathbb{R}^P$ be all parameters in one vector and $f_\theta(x) \in \mathbb{R}$ the output. Its derivatives by the parameters
# are a row vector, the **Jacobian** $J(x) = \partial f_\theta(x) / \partial \theta$, of shape $[1, P]$. The loss is
#
# $$
# \mathcal L(\theta) = \frac{1}{2N} \sum_{i=1}^{N} \bigl( f_\theta(x_i) - y_i \bigr)^2 .
# $$
#
# **Step 1: the gradient of the loss.** By the chain rule, with the residuals $r_i = f_\theta(x_i) - y_i$,
#
# $$
# \nabla_\theta \mathcal L = \frac1N \sum_{i=1}^{N} J(x_i)^\top r_i .
# $$
#
# Each example pulls the parameters along its own gradient, as strongly as it is wrong.
#
# **Step 2: what a step does to the function.** The parameters move to $\theta' = \theta - \eta \nabla_\theta \mathcal L$. At any input $x$, in
# the training set or not, Taylor's theorem gives
#
# $$
# f_{\theta'}(x) = f_\theta(x) + J(x)\,(\theta' - \theta) + R, \qquad
# R \approx \tfrac12 (\theta' - \theta)^\top H(x)\, (\theta' - \theta) = \tfrac{\eta^2}{2}\, \nabla \mathcal L^\top H(x)\, \nabla \mathcal L ,
# $$
#
# with $H(x)$ the matrix of second derivatives of $f_\theta(x)$ by the parameters.
#
# **Step 3: insert one in the other.**
#
# $$
# f_{\theta'}(x) = f_\theta(x) - \frac{\eta}{N} \sum_{i=1}^{N} \underbrace{J(x)\, J(x_i)^\top}_{\Theta(x,\, x_i)} r_i + O(\eta^2) .
# $$
#
# The parameters have left the formula. All that remains of them is the **neural tangent kernel**
#
# $$
# \Theta(x, x') = J(x)\, J(x')^\top = \sum_{p=1}^{P} \frac{\partial f(x)}{\partial \theta_p} \frac{\partial f(x')}{\partial \theta_p} .
# $$
#
# Read it like this: *if training lowers the output at $x'$, how much does it take the output at $x$ along?* With $X$ for all training
# inputs, $\Theta(x, X)$ for a row of kernel values and $r$ for all residuals, the rule is
#
# $$
# f(x) \leftarrow f(x) - \frac{\eta}{N}\, \Theta(x, X)\, r .
# $$
#
# This is **kernel gradient descent on the function**. Three things are easy to get wrong: the $1/N$ comes from the loss (a loss
# that *sums* over examples has none); the residual is $f - y$ and the sign in front is minus; and the labels enter through $r$ only:
# $\Theta$ knows the parameters and the inputs, and the targets only through where training has taken the parameters.
#
# **Infinitely small steps.** Let $t = \eta \cdot \text{steps}$ and $\eta \to 0$; the error term dies:
#
# $$
# \frac{d f_t(x)}{dt} = -\frac1N\, \Theta_t(x, X)\, \bigl( f_t(X) - y \bigr) .
# $$
#
# Exact, for every width. But look at the index of $\Theta_t$: the kernel is that of the present parameters, and it may change
# while they move. That it hardly does in *wide* networks of this parameterization is another statement, which comes below and in chapter 03.
#
# ## The kernel of a network
#
# Nothing is needed but the definition: a Jacobian for each image, one row of $P$ numbers, and inner products of rows. The library
# has this as `ntk.empirical_ntk`; "empirical" because it is the kernel of one finite network as it stands.

# %%
f, theta = ntk.functional(network(0, width=256))


def output(theta, image):
    """The output for one image [d]."""
    return f(theta, image[None])[0, 0]


jacobians = jax.vmap(jax.jacrev(output), in_axes=(None, 0))(theta, x)
rows = [j.reshape(N, -1) for j in jax.tree.leaves(jacobians)]
J = jnp.concatenate(rows, axis=1)
Theta = ntk.empirical_ntk((f, theta), x)

print("J:", J.shape, "  Θ:", Theta.shape)
print("Θ = J Jᵀ:", bool(jnp.allclose(Theta, J @ J.T, rtol=1e-10)))

# %% alt="Two heat maps side by side over 40 training images sorted by digit, x·x'/d on the left and the empirical NTK on the right. They show the same pattern: a bright diagonal with faint brighter blocks for most digits, clearest for 0."
order = np.argsort(data.y_train[:40], kind="stable")  # four of each digit
pictures = {
    r"$x\cdot x'/d$": ("inputs", x @ x.T / 196),
    r"$\Theta(x, x')$": ("NTK at the start", Theta),
}
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3))
for ax, (label, (title, matrix)) in zip(axes, pictures.items(), strict=True):
    in_order = matrix[order][:, order]
    plotting.heatmap(ax, in_order, label=label, title=title)
    ax.set(xticks=range(2, 40, 4), xticklabels=range(10), xlabel="digit")
    ax.set(yticks=range(2, 40, 4), yticklabels=range(10), ylabel="digit")
plt.show()

# %% [markdown]
# The network has random weights and has seen no label, and yet its kernel already has an opinion on which images belong
# together: largely that of the inputs themselves. Training will spread what it learns on one image to others along this
# pattern.
#
# ## One step, predicted and measured
#
# **Prediction.** After one gradient step the outputs have moved by $-\frac{\eta}{N} \Theta(x, X)\, r$, up to an error $R$ that falls like
# $\eta^2$: on log-log axes a line of slope 2. (If the kernel step were wrong by a factor, say without the $1/N$, the error would fall
# like $\eta$: slope 1. So the slope tells the two apart where a tolerance might not.)
#
# **Measurement.** Five networks of width 64 with tanh; one real gradient step on the parameters; outputs on the 64 test images before and
# after. The same for ReLU. Since the slope is a statement about small $\eta$, we fit it to the smaller half of the rates, and count its difference from
# the slope of the larger half as part of the uncertainty.

# %%
rates = 2.0 ** -np.arange(2, 10)
keys = jax.random.split(jax.random.key(reseed(0)), 5)


def loss(f, theta):
    """1/(2N) Σ_i (f(x_i) − y_i)²."""
    return 0.5 * jnp.mean((f(theta, x) - y) ** 2)


def move(theta, gradient, rate):
    """The parameters after a gradient step."""
    return jax.tree.map(lambda p, g: p - rate * g, theta, gradient)


def one_step(net):
    """Mean error of the kernel step for each rate, and mean change per η."""
    f, theta = ntk.functional(net)
    model = f, theta
    kernel = ntk.empirical_ntk(model, x_test, x, method="jacobian")  # [M, N]
    predicted = -kernel @ (f(theta, x) - y) / N

    gradient = jax.grad(loss, argnums=1)(f, theta)
    before = f(theta, x_test)

    def error(rate):
        measured = f(move(theta, gradient, rate), x_test) - before
        return jnp.mean(jnp.abs(measured - rate * predicted))

    return jax.vmap(error)(rates), jnp.mean(jnp.abs(predicted))


def for_five_networks(activation):
    """`one_step` for each key."""
    return jax.jit(jax.vmap(lambda key: one_step(network(key, 64, activation))))


errors, change = for_five_networks(ntk.Tanh())(keys)
errors_relu, _ = for_five_networks(ntk.Relu())(keys)

# %% alt="Log-log plot of the mean error of the kernel step over the learning rate η from 1/512 to 1/4, five networks, with error bars. The points of the tanh networks lie on a line of slope 2; those of the ReLU networks lie near another one, with larger error bars."
fig, ax = plt.subplots(figsize=(5.4, 3.4))
plotting.rate(ax, rates, errors, label="tanh", theory=2)
plotting.rate(ax, rates, errors_relu, label="ReLU", theory=2, series=1)
ax.set(xlabel="learning rate η", ylabel="mean |error| of the kernel step")
plt.show()


def limit_of_slope(rates, errors):
    """Slope over the smaller rates, and its uncertainty."""
    half = (len(rates) + 1) // 2
    larger, _ = plotting.fit_slope(rates[:half], errors[:, :half])
    smaller, scatter = plotting.fit_slope(rates[-half:], errors[:, -half:])
    return smaller, scatter + abs(smaller - larger)


slope, slope_error = limit_of_slope(rates, errors)
relative = plotting.mean_and_error(errors[:, 0] / (rates[0] * change))[0]
percent = 100 * relative
print(f"η = {rates[0]:g}: the step is wrong by {percent:.2g} % of the change")
assert abs(slope - 2) < 0.02
assert np.all(errors[:, 0] < 0.05 * rates[0] * change)

# %%
claim(
    "J1", what="slope over η of the error of one kernel step", measured=slope, uncertainty=slope_error, seeds=len(keys)
)

# %% [markdown]
# The slope is 2 and the kernel step is right to first order. At moderate learning rates it is off by a small part of the step only.
#
# ReLU has two second-order errors.
#
# - *The Hessian.* $\phi'' = 0$ almost everywhere, but the output contains products of a readout weight and a first-layer weight.
#   Their mixed derivatives stay, and with them $\frac{\eta^2}{2} \nabla \mathcal L^\top H\, \nabla \mathcal L$.
# - *The kinks.*
#   A step moves the input of a unit by an amount $\propto \eta$; so it crosses its kink with a probability $\propto \eta$, and if it does, the output is off by an amount $\propto \eta$.
#   On average this goes like $\eta^2$ as well, but it comes in rare events.
#
# The kinks make the points scatter around the line.
#
# **Move the learning rate yourself.** In a live notebook the next cell comes with a slider.
# A point is one of the 64 test images: the change of its output in one step, predicted and measured.


# %% alt="Three panels for the learning rates 0.25, 2 and 16: the measured change of 64 test outputs against the predicted one. At 0.25 and 2 the points lie on the dashed diagonal. At 16 the largest changes, of up to minus seven, come out smaller than predicted, and their points lie above it."
@jax.jit
def changes(rate):
    """What one step changes at the test images, predicted and measured, [M] each; a network of width 64."""
    f, theta = ntk.functional(network(keys[0], 64))
    kernel = ntk.empirical_ntk((f, theta), x_test, x, method="jacobian")  # [M, N]
    predicted = -rate / N * kernel @ (f(theta, x) - y)
    after = move(theta, jax.grad(loss, argnums=1)(f, theta), rate)
    return predicted[:, 0], (f(after, x_test) - f(theta, x_test))[:, 0]


def look(rates):
    """One panel for each learning rate."""
    _, axes = plt.subplots(1, len(rates), figsize=(2.9 * len(rates), 2.9), squeeze=False)
    for ax, rate in zip(axes[0], rates, strict=True):
        ax.plot(*changes(rate), "o", markersize=4, alpha=0.6)
        ax.axline((0, 0), slope=1, color="0.4", ls="--", lw=1)
        ax.set(title=f"η = {rate:.3g}", xlabel="predicted change")
    axes[0, 0].set_ylabel("measured change")
    plt.show()


if os.environ.get("CI"):  # still pictures
    look([0.25, 2.0, 16.0])
else:
    from ipywidgets import interact

    interact(lambda log2_rate: look([2.0**log2_rate]), log2_rate=(-9.0, 5.0, 0.5))

# %% [markdown]
# ## All steps: the kernel moves along
#
# A training run is many steps. Add up the kernel steps, **each with the kernel of its moment**, $\Theta_s$, computed anew:
#
# $$
# f_T(x) \approx f_0(x) - \frac{\eta}{N} \sum_{s=0}^{T/\eta - 1} \Theta_s(x, X)\, r_s .
# $$
#
# There are $T/\eta$ steps with an error of order $\eta^2$ each: the sum should be wrong by $O(\eta)$ and become exact as $\eta \to 0$,
# *for any width*. To make it hard we take a narrow network of 16 units, whose kernel changes a lot in training, and train it
# until $T = 10$.

# %%
T = 10.0
probe = x_test[:16]  # the images on which we watch


def follow(key, rate, steps):
    """At the end: error of the sum, distance moved, relative change of Θ."""
    f, start = ntk.functional(network(key, 16))

    def kernel(theta):
        return ntk.empirical_ntk((f, theta), probe, x, method="jacobian")

    def step(_, state):
        theta, summed = state
        summed -= rate / N * kernel(theta) @ (f(theta, x) - y)
        gradient = jax.grad(loss, argnums=1)(f, theta)
        return move(theta, gradient, rate), summed

    state = start, f(start, probe)
    end, summed = jax.lax.fori_loop(0, steps, step, state)
    drift = rms(kernel(end) - kernel(start)) / rms(kernel(start))
    moved = rms(f(end, probe) - f(start, probe))
    return rms(f(end, probe) - summed), moved, drift


sum_rates = np.array([0.2, 0.1, 0.05])
follow_all = jax.jit(jax.vmap(follow, in_axes=(0, None, None)))
runs = [follow_all(keys, rate, round(T / rate)) for rate in sum_rates]
sum_errors, moved, drift = np.stack(runs, axis=2)  # each [seeds, rates]

sum_slope, sum_slope_error = limit_of_slope(sum_rates, sum_errors)
print(f"the kernel changed by {100 * drift[:, -1].mean():.0f} % in training")
relative = (sum_errors[:, -1] / moved[:, -1]).mean()
print(f"error of the sum at η = 0.05: {100 * relative:.1g} % of the movement")

# %% alt="Log-log plot of the error of the summed kernel steps at the end of a training run over the learning rate from 0.05 to 0.2, for networks of width 16. The points lie on a line of slope 1."
fig, ax = plt.subplots(figsize=(4.8, 3))
plotting.rate(ax, sum_rates, sum_errors, label="width 16", theory=1)
ax.set(xlabel="learning rate η", ylabel="rms error at t = 10")
ax.set_xticks(sum_rates, sum_rates)
ax.tick_params(axis="x", which="minor", labelbottom=False)
plt.show()

# %%
claim(
    "J1",
    what="slope over η of the error of all kernel steps to t = 10, width 16",
    measured=sum_slope,
    uncertainty=sum_slope_error,
    seeds=len(keys),
)
assert abs(sum_slope - 1) < 0.1
assert relative < 0.05

# %% [markdown]
# So the statement of this chapter needs no wide network: for small steps gradient descent on parameters is kernel gradient descent on the
# function, with a kernel that moves along, and in the limit $\eta \to 0$ it is so exactly.
#
# ## The kernel held constant: a closed form
#
# It becomes *useful* when the kernel stays what it was, for then everything can be computed beforehand. Write $\Theta$ for
# $\Theta_0(X, X)$. With a constant kernel the flow on the training set is a linear differential equation with constant coefficients,
#
# $$
# \frac{dr}{dt} = -\frac1N \Theta\, r \qquad\Longrightarrow\qquad f_t(X) = y + e^{-\Theta t/N} \bigl( f_0(X) - y \bigr) ,
# $$
#
# where $e^{-\Theta t / N}$ is the *matrix* exponential. A test point has no equation of its own. It is driven by the training residuals, which we now know at all times: chapter 04 integrates them.
# `ntk.gradient_flow` evaluates both.
#
# **Prediction:** a network of width 512 follows this closed form closely on training and test images.
# One of width 16, whose kernel moves, does not. **Measurement:** three networks of each width, trained with steps of
# $\eta = 1/4$.

# %%
eta = 0.25
fine = np.concatenate([[0.0], 2.0 ** np.arange(-2, 7.25, 0.25)])  # for lines
times = np.concatenate([[0.0], 2.0 ** np.arange(8)])  # for points
at = np.searchsorted(fine, times)
images = jnp.concatenate([x, x_test])


def trained_and_predicted(key, width):
    """Outputs [T, 2N, 1], measured at `times`, predicted at `fine`; Θ."""
    f, theta = ntk.functional(network(key, width))
    run = ntk.train(
        (f, theta),
        x,
        y,
        optimizer=optax.sgd(eta),
        steps=int(times[-1] / eta),
        record=lambda p: f(p, images),
        record_at=(times / eta).astype(int),
    )
    kernel = ntk.empirical_ntk((f, theta), images, x, method="jacobian")
    train, test = ntk.gradient_flow(
        kernel[:N],
        y,
        t=fine,
        f0=f(theta, x),
        ntk_test_train=kernel[N:],
        f0_test=f(theta, x_test),
    )
    return run.records, jnp.concatenate([train, test], axis=1), kernel[:N]


results = {}
for width in (16, 2048 if paper else 512):
    run = jax.vmap(lambda key, n=width: trained_and_predicted(key, n))
    results[width] = jax.tree.map(np.asarray, jax.jit(run)(keys[:3]))

# %% alt="Two panels, widths 16 and 512: outputs of one network on two training and two test images over time on a logarithmic axis. Lines are the closed form with the kernel of the start, points the trained network. At width 512 the points lie on the lines; at width 16 they leave them after t = 10."
watched = {
    "training, even": np.argmax(y == 1),
    "training, odd": np.argmax(y == -1),
    "test, even": N + np.argmax(y_test == 1),
    "test, odd": N + np.argmax(y_test == -1),
}
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.1), sharey=True)
for ax, width in zip(axes, results, strict=True):
    measured, predicted, _ = results[width]
    for s, (name, i) in enumerate(watched.items()):
        style = {"color": plotting.COLOURS[s], "label": name}
        line = predicted[0, :, i, 0]
        ax.plot(fine, line, ls=plotting.DASHES[s], color=style["color"])
        ax.plot(times, measured[0, :, i, 0], plotting.MARKERS[s], **style)
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ax.set(title=f"width {width}", xlabel=r"time $t = \eta\cdot$steps")
axes[0].set_ylabel("output (target ±1)")
outside = {"bbox_to_anchor": (1, 1), "loc": "upper left"}
axes[1].legend(title="points: network\nlines: closed form", **outside)
plt.show()

gaps = {}
for width, (measured, predicted, _) in results.items():
    predicted = predicted[:, at]
    moved = rms(predicted - predicted[:, :1], axis=(1, 2, 3))
    gap = rms(measured - predicted, axis=(1, 2, 3)) / moved
    gaps[width] = plotting.mean_and_error(gap)
    mean, error = 100 * np.array(gaps[width])
    print(f"width {width}: closed form off by {mean:.2g} ± {error:.1g} %")

# %%
narrow, wide = gaps
assert gaps[wide][0] < 0.05, "at the large width the closed form should hold"
assert gaps[narrow][0] > 4 * gaps[wide][0], "the narrow network should leave it"

# %% [markdown]
# Half a thousand units are enough to predict a whole training run to a few per cent, from the start, without training. How
# the gap shrinks with width is the business of chapters 03 and 04.
#
# ## The spectrum: what is learned first
#
# $\Theta$ is symmetric, so it has orthonormal eigenvectors $u_1, \dots, u_N$ and eigenvalues $\lambda_1 \ge \lambda_2 \ge \dots$
# In these coordinates the matrix exponential falls apart into $N$ ordinary ones:
#
# $$
# u_i \cdot r_t = e^{-\lambda_i t / N}\; u_i \cdot r_0 .
# $$
#
# An eigenvector is a pattern of outputs over the training images, and the part of the error along it dies with the time constant
# $N / \lambda_i$. Patterns with large eigenvalues are learned first, and which part of a *target* is learned when depends on how much of
# it lies along which pattern. To see it we sort the modes into four bands and follow the residual in each.

# %% alt="Left: eigenvalues divided by N over their rank, log-log; the first stands apart at about 0.7, the rest fall smoothly from 0.17 to 0.002. Right: the residual in four bands of modes relative to its start, over time. Predicted lines and measured points agree; the first mode is learned by t = 8; of the last band a third is still there at t = 128."
measured, _, kernels = results[wide]
values, modes = np.linalg.eigh(kernels)  # ascending, one set for each seed
values, modes = values[:, ::-1], modes[:, :, ::-1]
residuals = measured[:, :, :N, 0] - np.asarray(y)[:, 0]
along = np.einsum("sni,stn->sti", modes, residuals)  # [seeds, T, modes]
decay = np.exp(-values[:, None] * fine[None, :, None] / N)

bands = {
    "mode 1": slice(0, 1),
    "modes 2–8": slice(1, 8),
    "modes 9–32": slice(8, 32),
    "modes 33–64": slice(32, 64),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.1))
mean, error = plotting.mean_and_error(values / N)
left.errorbar(range(1, N + 1), mean, error, fmt=".", label="three networks")
left.set(xscale="log", yscale="log", xlabel="rank i", ylabel=r"$\lambda_i / N$")
left.legend()
worst = 0.0
for s, (name, band) in enumerate(bands.items()):
    begin = along[:, :1, band]
    theory = rms(begin * decay[:, :, band], axis=2) / rms(begin, axis=2)
    seen = rms(along[:, :, band], axis=2) / rms(begin, axis=2)
    worst = max(worst, np.abs(theory[:, at] - seen).max())
    style = {"color": plotting.COLOURS[s], "label": name, "capsize": 2}
    right.plot(fine, theory.mean(0), plotting.DASHES[s], color=style["color"])
    mean, error = plotting.mean_and_error(seen)
    right.errorbar(times, mean, error, fmt=plotting.MARKERS[s], **style)
right.set_xscale("symlog", linthresh=1, linscale=0.4)
right.set(xlabel="time t", ylabel="residual, relative to t = 0")
right.legend(title="points: networks\nlines: prediction", **outside)
plt.show()

constant = np.abs(modes[:, :, 0].sum(1)) / np.sqrt(N)
first, second, last = (values[:, i] for i in (0, 1, -1))
print(f"λ₁/λ₂ = {np.mean(first / second):.2g}", end=", ")
print(f"λ₁/λ_N = {np.mean(first / last):.3g}")
print(f"cosine between u₁ and the constant pattern: {constant.mean():.2g}")
assert worst < 0.05, "each band should decay as predicted"

# %% [markdown]
# The bands die one after the other, as predicted. (The first point of mode 1 lies below its line: a step of $\eta = 1/4$ is not
# infinitely small, and multiplies this mode by $1 - \eta \lambda_1/N \approx 0.83$ where the flow has $e^{-\eta\lambda_1/N} \approx 0.84$, four times until $t = 1$.)
#
# The first mode is near the constant pattern, all images up or down together: nearly all entries of this $\Theta$ are positive, and its components have one sign. Before anything else, this network learns
# roughly the mean of the targets. The last few modes have time constants one to four hundred times longer. They are patterns that flip between images
# which the kernel finds alike; fitting them takes long, and whether it helps on test images is another matter. This is why
# *stopping early* acts as a regularizer: it leaves out the modes that come late (chapter 12).
#
# It also says how large a step may be. A step multiplies the $i$th component by $1 - \eta \lambda_i / N$, so $\eta < 2N/\lambda_1$ is needed, and the
# last mode then takes at least about $\lambda_1 / (2\lambda_N)$ steps to fall by $e$.
#
# ## What is never learned: the null space
#
# For any pattern $v$,
#
# $$
# v^\top \Theta\, v = v^\top J J^\top v = \lVert J^\top v \rVert^2 \ge 0 ,
# $$
#
# so $\Theta$ is positive semi-definite, and $\Theta v = 0$ means $J^\top v = 0$: **to first order, no change of the parameters changes the outputs
# along $v$**. While the kernel is constant, gradient descent does not touch such a pattern; it stays as it was. Since $\Theta = J J^\top$ has at most the rank $P$, every
# model with fewer parameters than examples has null directions. So has every set with the same image twice: make a copy of the first image and give
# it the opposite label.

# %%
x_twice = jnp.concatenate([x, x[:1]])
y_twice = jnp.concatenate([y, -y[:1]])
twice = ntk.empirical_ntk((f, theta), x_twice)
values_twice, modes_twice = np.linalg.eigh(twice)
lowest, highest = values_twice[0], values_twice[-1]
print("λ_min < 1e-12 λ_max:", bool(lowest < 1e-12 * highest))

null = np.abs(modes_twice[:, 0])
print("null vector on the image and on its copy:", null[[0, -1]].round(3))
assert null[1:-1].max() < 1e-6

end = ntk.gradient_flow(twice, y_twice, t=jnp.inf, f0=f(theta, x_twice))
pair, others = np.abs(end[jnp.array([0, -1])]), np.abs(end - y_twice)[1:-1]
assert pair.max() < 1e-6
assert others.max() < 1e-6
print("t → ∞: the pair ends at 0, all others at their labels")

# %% [markdown]
# One eigenvalue is zero, its vector is $(1, 0, \dots, 0, -1)/\sqrt2$: "the two copies differ". All other images are fitted in the end, and
# the contradictory pair ends at the mean of its labels, 0.
#
# ## A linear model has a constant kernel
#
# The error term of the kernel step was $\frac{\eta^2}{2} \nabla \mathcal L^\top H \nabla \mathcal L$. If $f$ is *linear in the parameters* then $H = 0$: the kernel
# step is exact for every $\eta$, and the kernel cannot change. A single `Dense` layer, $f(x) = \frac{\sigma_w}{\sqrt d} x W + \sigma_b b$, has
#
# $$
# \Theta(x, x') = \sigma_w^2\, \frac{x \cdot x'}{d} + \sigma_b^2 ,
# $$
#
# whatever its weights. So the network of this chapter differs from a kernel machine exactly as far as it is curved in $\theta$.

# %%
linear = ntk.Dense(196, 1, w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(3))
before = ntk.empirical_ntk(linear, x)
linear_errors, linear_change = one_step(linear)
ntk.train(linear, x, y, optimizer=optax.sgd(0.25), steps=200)
after = ntk.empirical_ntk(linear, x)

assert jnp.allclose(before, 2 * x @ x.T / 196 + 0.01, rtol=1e-10)
assert jnp.allclose(before, after, rtol=1e-12)
assert np.all(linear_errors < 1e-12 * linear_change)
print("linear model: Θ as in the formula, constant; the kernel step exact")

# %% [markdown]
# ## Several outputs
#
# With $K$ outputs $J(x)$ has $K$ rows and $\Theta(x, x') = J(x) J(x')^\top$ is a $K \times K$ block: entry $(k, l)$ says how
# much training output $l$ at $x'$ takes output $k$ at $x$ along. The whole kernel is `[N, M, K, K]`.
#
# In a wide network each block is nearly a multiple of the identity. Take one hidden layer, $f_k = \frac{\sigma_w}{\sqrt n} \sum_j a_{jk}\, \phi(h_j)$.
#
# - The readout weights $a_{jk}$ of different outputs are different parameters: no contribution to $k \ne l$.
# - The first layer is shared, and contributes $\frac{\sigma_w^2}{n} \sum_j a_{jk} a_{jl}\, \phi'(h_j) \phi'(h_j') \cdot (\dots)$. For $k = l$ the factor $a_{jk}^2$ is
#   positive and the sum of $n$ terms over $n$ is of order 1. For $k \neq l$ the products $a_{jk} a_{jl}$ have random signs and the sum is
#   of order $\sqrt n$: divided by $n$, it vanishes like $n^{-1/2}$.
#
# So for wide networks one matrix `[N, M]` says it all, the mean over outputs, $\frac1K \sum_k \Theta_{kk}$. That is what `empirical_ntk` returns
# unless told otherwise, and each output then learns on its own, as if it had a network for itself.

# %%
widths = np.array([16, 64, 256])
off_diagonal = ~np.eye(10, dtype=bool)


def crosstalk(key, width):
    """rms of Θ_kl, k ≠ l, relative to the mean of Θ_kk; 10 outputs."""
    net = network(key, width, outputs=10)
    blocks = ntk.empirical_ntk(net, x[:5], outputs="full", method="jacobian")
    own = jnp.einsum("nmkk->nmk", blocks)
    return rms(blocks[..., off_diagonal]) / jnp.mean(own)


def for_width(n):
    """`crosstalk` of five networks of one width."""
    return jax.jit(jax.vmap(lambda key: crosstalk(key, n)))(keys)


ratio = np.stack([for_width(int(n)) for n in widths], axis=1)  # [seeds, widths]

# %% alt="Log-log plot over width from 16 to 256: the size of the off-diagonal entries of the 10 × 10 blocks relative to the diagonal ones falls from about 0.25 to 0.06 along a line of slope minus one half."
fig, ax = plt.subplots(figsize=(4.8, 3))
plotting.rate(ax, widths, ratio, label="10 outputs", theory=-0.5)
ax.set(
    xlabel="width n",
    ylabel=r"rms $\Theta_{kl}$ / mean $\Theta_{kk}$,  $k \neq l$",
)
ax.set_xticks(widths, widths)
ax.tick_params(axis="x", which="minor", labelbottom=False)
plt.show()

block_slope, block_error = plotting.fit_slope(widths, ratio)
assert abs(block_slope + 0.5) < 0.1

# %% [markdown]
# ## Two ways to compute it
#
# `method="jacobian"` forms the Jacobians, $[N, K, P]$ numbers, and contracts them: about $2KP$ operations for a pair of inputs, or $2K^2P$ if all $K^2$ entries of its block are wanted.
# (The cost of forming the Jacobians comes on top.)
#
# `method="products"` never holds a Jacobian of $X$.
# For each input $x'$ and each output $l$ it pulls a unit vector back to parameters (`vjp`) and pushes the result forward through all $x$ (`jvp`): that is one column of $\Theta$.
# Let $F$ be the number of operations of one evaluation.
# A push takes about $2F$ operations for each $x$, because each product of the evaluation, $aW$, becomes two, $\mathrm da\,W + a\,\mathrm dW$.
# The evaluation itself is needed once for all $K$ pushes.
# So a pair costs at most about $(2K + 1)F$, whether all $K^2$ entries of its block are wanted or only the diagonal ones.
#
# For a fully connected network $F \approx 2P$: each weight is used once, in a multiplication and an addition.

# %%
sizes = [784, 512, 512, 10]
P = sum(m * (n + 1) for n, m in itertools.pairwise(sizes))
F, K = 2 * P, sizes[-1]
print(f"784-512-512-10: P = {P:,}; millions of operations for one pair:")
print("              mean   full block")
print(f"jacobian  {2 * K * P / 1e6:8.0f} {2 * K**2 * P / 1e6:12.0f}")
products = (2 * K + 1) * F / 1e6
print(f"products  {products:8.0f} {products:12.0f}")
print(f"Jacobian of 1,000 inputs, 4 bytes each: {4000 * K * P / 1e9:.0f} GB")

ten = network(7, 64, outputs=10)
for wanted in ("mean", "diagonal", "full"):
    by_jacobian, by_products = (
        ntk.empirical_ntk(ten, x[:12], x_test[:9], outputs=wanted, method=way)
        for way in ("jacobian", "products")  # 12 images against 9 others
    )
    assert jnp.allclose(by_jacobian, by_products, rtol=1e-9, atol=1e-12)
    print(f"{wanted:9}", by_jacobian.shape, "the same by both methods")

# %% [markdown]
# For the mean over outputs Jacobians are cheaper here, for full blocks products are. Memory decides as often: the Jacobians of
# a thousand images fill a machine, so the library works in tiles. In
# convolutional networks each weight is used at every pixel, $F \gg P$, and Jacobians win over products, unless all blocks of many outputs are wanted. The default, `method="auto"`, counts the operations of both and of a
# third way, `"layerwise"`, which uses that the derivative by a layer's weights is a product of two factors. Nearly always it takes the third (chapter 19).
#
# Products also give $\Theta v$ for a *vector* $v$ at the price of about two training steps, without any kernel: exercise 01.2.
#
# ## What to take away
#
# - $\Theta(x, x') = J(x) J(x')^\top$: how far a training step at $x'$ takes the output at $x$ along.
# - A gradient step on $\theta$ is a kernel step on $f$, $f \leftarrow f - \frac{\eta}{N} \Theta r$, with an error $O(\eta^2)$. Added up with the kernel of each
#   moment, and $\eta \to 0$, it is exact *for every width*.
# - If the kernel stays constant (linear models always, wide networks in the NTK parameterization nearly) training has a closed form: modes of $\Theta$ decay like
#   $e^{-\lambda_i t/N}$, large eigenvalues first, null directions never.
# - Wide networks with several outputs have $\Theta \approx$ (one matrix) ⊗ identity.
#
# ## Where it breaks
#
# - **Large steps.** The rule is first order in $\eta$. Beyond $\eta = 2N/\lambda_1$ the residual grows from step to step, until the neglected term decides (chapter 11).
# - **Narrow or long-trained networks.** The rule stays true but $\Theta_t$ moves, and the closed form with $\Theta_0$ does not hold: see width 16.
# - **Other optimizers.** Momentum and per-layer learning rates change the rule in known ways (chapters 02 and 04; exercise 01.6). Adam does not follow
#   the gradient and has no kernel of this form, unless its second moments stand still (01.6).
# - **Other losses.** Then $r_i$ is the derivative of example $i$'s loss by its output. The kernel step holds, but the closed form was for squares.
# - **Kinks.** With ReLU the second order is a Hessian *and* a count of units that cross their kink.
#
# ## Exercises
#
# In `exercises/01_empirical_ntk.ipynb`: the kernel from Jacobians; a kernel-vector product without any; predicting a step and measuring it; a
# closed form with two errors in it; a question about fewer parameters than examples; and, open, the kernel of another optimizer.
#
# ## References
#
# - A. Jacot, F. Gabriel, C. Hongler, *Neural Tangent Kernel: Convergence and Generalization in Neural Networks*, NeurIPS 2018, arXiv:1806.07572.
# - J. Lee, L. Xiao et al., *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*, NeurIPS 2019, arXiv:1902.06720.
#   (Its loss has no $1/N$: the same curve comes $N$ times sooner.)
# - R. Novak, J. Sohl-Dickstein, S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, arXiv:2206.08720 (ways to compute it).
