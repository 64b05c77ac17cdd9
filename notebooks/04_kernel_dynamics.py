# %% [markdown]
# # 04 · Training in closed form
#
# **After this chapter you can**
#
# - write down, without training, what a wide network says after $t$ units of training time, at training and at test points, for gradient flow, gradient descent and momentum;
# - say which learning rate is too large, which parts of a target are learned first and when, and how far the parameters have to travel;
# - predict the mean *and* the spread of an ensemble of trained networks, and say why that spread is not a Bayesian posterior.
#
# **Time:** 75 minutes for the chapter, 85 for the exercises without the open one. You need chapter 01 (the empirical NTK) and chapter 03 (its limit, and how far it
# drifts in training).
#
# ## The question
#
# Training a network is a loop: gradient, step, gradient, step.
# Nobody expects a formula for what comes out.
# Here is a network with 4096 hidden units, trained for 400 full-batch steps to tell threes ($y = +1$) from eights ($y = -1$).
# The dots are what it said on the way, about images that it was trained on and images that it never saw.
# The lines are a formula.
# It needs the targets, what the network says *before* training, and its tangent kernel *before* training; it takes no step of training.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import claim, reseed, scale
from ntklib import plotting

plotting.use_style()
paper = scale() == "paper"

data = ntk.load("mnist5k").flat()
threes, eights = (data.x_train[data.y_train == c] for c in (3, 8))
new_threes, new_eights = (data.x_test[data.y_test == c] for c in (3, 8))
N = M = 20


def in_their_span(x):
    """The rows of x [N, d] in coordinates of their span, [N, N]; keeps x·x'/d."""
    _, r = np.linalg.qr(np.asarray(x, np.float64).T)
    return r.T * (len(x) / x.shape[1]) ** 0.5


images = np.concatenate([threes[:10], eights[:10], new_threes[:10], new_eights[:10]])
points = in_their_span(images)  # float64, for kernels
both = jnp.asarray(points, jnp.float32)  # first N to train on, then M new ones
x = both[:N]
y = jnp.repeat(jnp.array([1.0, -1.0]), 10)[:, None]
print(f"{N} training and {M} test images in {both.shape[1]} coordinates")

# %% [markdown]
# Two tricks keep this chapter fast; neither changes any law.
# The first is from chapter 03: the 40 images are written in 40 coordinates of their span.
# Outputs, kernels and the movement of the parameters keep their distribution.
# (Only the number of the parameters changes, and with it the length of their start.)
# The second: **many networks are one model**.
# Put the outputs of $S$ one-output networks side by side as one output vector of length $S$.
# The loss $\frac1{2N}\sum_i \|f(x_i) - y_i\|^2$ is a sum over the $S$ outputs, and no parameter occurs in two of them:
# so its gradient is, network by network, the gradient of that network's own loss, and one training loop trains them all.


# %%
def network(width, key, hidden=1, activation=None, n_in=None):
    """A network in NTK parameterization with one output."""
    return ntk.mlp(
        [n_in or len(points), *[width] * hidden, 1],
        activation=activation or ntk.Gelu(),
        w_std=2**0.5,
        b_std=0.1,
        rngs=nnx.Rngs(key),
    )


def networks(width, count, key=0, **options):
    """`count` networks: the function of one, that of all [N, count], parameters."""
    one, _ = ntk.functional(network(width, 0, **options))

    def draw(key):
        return ntk.functional(network(width, key, **options))[1]

    def all_of_them(params, x):
        return jax.vmap(one, in_axes=(0, None))(params, x)[..., 0].T

    keys = jax.random.split(jax.random.key(reseed(key)), count)
    return one, all_of_them, jax.jit(jax.vmap(draw))(keys)


def train(apply_fn, params, optimizer, at, record=None, loss="mse", target=y):
    """Train towards `target`; `record` (by default: all outputs) at the steps `at`."""
    count = apply_fn(params, x[:1]).shape[1]
    return ntk.train(
        (apply_fn, params), x, jnp.broadcast_to(target, (N, count)),
        optimizer=optimizer, steps=at[-1], record_at=at, loss=loss, progress=False,
        record=record or (lambda p: apply_fn(p, both)),
    )  # fmt: skip


# %% [markdown]
# The prediction: the kernel of each network, and what gradient descent with it does in closed form, in float64.


# %%
def tangent_kernels(one, params):
    """The NTK of each network between all points and the training points."""

    def kernel(p):
        return ntk.empirical_ntk((one, p), both, x, method="products")

    return np.asarray(jax.jit(lambda ps: jax.lax.map(kernel, ps))(params), float)


@functools.partial(jax.jit, static_argnames="at")
def descend(kernels, f0, learning_rate, momentum, at):
    """Outputs [networks, T, N + M] after `at` steps, kernels standing still."""

    def one(kernel, f0):
        theta = (kernel[:N] + kernel[:N].T) / 2  # rounding left it a little askew
        train_and_test = ntk.gradient_descent(
            theta, y.astype(float), learning_rate=learning_rate, momentum=momentum,
            steps=at, f0=f0[:N, None], ntk_test_train=kernel[N:], f0_test=f0[N:, None],
        )  # fmt: skip
        return jnp.concatenate(train_and_test, axis=1)[..., 0]

    return jax.vmap(one)(kernels, f0)


def predicted(kernels, f0, at, learning_rate, momentum=0.0):
    """The same in float64; kernels [networks, N + M, N], f0 [networks, N + M]."""
    with jax.enable_x64(True):
        kernels, f0 = np.asarray(kernels, float), np.asarray(f0, float)
        return np.asarray(descend(kernels, f0, learning_rate, momentum, tuple(at)))


def log_steps(last, count=40):
    return np.unique(np.geomspace(1, last, count).round().astype(int))


# %% [markdown]
# One network of width 4096, and the predictions for it with its own kernel and with that of infinite width:

# %%
with jax.enable_x64(True):  # the kernels of the infinitely wide network
    limit = network(1, 0).kernel(jnp.asarray(points))
limit_ntk = np.asarray(limit.ntk[:, :N])

wide = 4096
one, apply_fn, params = networks(wide, 1)
own_ntk = tangent_kernels(one, params)
eta, at = 0.3, [0, *log_steps(400)]
t = eta * np.array(at)
measured = np.asarray(train(apply_fn, params, optax.sgd(eta), at).records)[..., 0]
from_own = predicted(own_ntk, measured[:1], at, eta)[0]  # [T, N + M]
from_limit = predicted(limit_ntk[None], measured[:1], at, eta)[0]


# %% alt="Two panels over training time from 0.3 to 120 on a logarithmic axis. Left: outputs of one network for two training and two test images; dots from training lie on predicted lines, training outputs end at plus and minus one, test outputs elsewhere. Right, logarithmic: the training loss falls from about 1 to below 1e-5 and the test loss levels off near 0.6; dots lie on the solid line predicted with the network's own kernel, from which the dashed line of the infinite-width kernel can hardly be told."
def half_mse(f):
    return np.mean((f - np.asarray(y)[:, 0]) ** 2, axis=-1) / 2


fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3))
examples = {"training 3": 0, "training 8": 11, "new 3": N, "new 8": N + 15}
for i, (label, point) in enumerate(examples.items()):
    style = {"color": plotting.COLOURS[i]}
    left.plot(t[1:], from_own[1:, point], ls=plotting.DASHES[i], **style)
    style |= {"ls": "none", "marker": plotting.MARKERS[i], "ms": 4}
    left.plot(t[1::3], measured[1::3, point], **style, label=label)
left.plot([], [], "k-", label="predicted")
left.set(xscale="log", xlabel="training time t = η · steps", ylabel="output f(x)")
left.legend(ncols=2, loc="lower left")
low, high = left.get_ylim()
left.set_ylim(low - 0.4 * (high - low), high)
for i, (part, label) in enumerate(((slice(N), "training"), (slice(N, None), "test"))):
    style = {"color": plotting.COLOURS[i]}
    own, infinite = half_mse(from_own[:, part]), half_mse(from_limit[:, part])
    right.plot(t[1:], own[1:], "-", **style)
    right.plot(t[1:], infinite[1:], "--", lw=1, **style)
    style |= {"ls": "none", "marker": plotting.MARKERS[i], "ms": 4}
    right.plot(t[1::3], half_mse(measured[1::3, part]), **style, label=label)
right.plot([], [], "k-", label="predicted, own kernel")
right.plot([], [], "k--", lw=1, label="predicted, infinite width")
right.set(xscale="log", yscale="log", ylim=(1e-8, 5), xlabel="training time t")
right.set_ylabel(r"loss $\frac{1}{2N}\sum(f-y)^2$")
right.legend(loc="lower left")
plt.show()

rms_own = np.sqrt(np.mean((measured - from_own) ** 2, axis=1)).max()
rms_limit = np.sqrt(np.mean((measured - from_limit) ** 2, axis=1)).max()
print("largest rms distance, in units of the targets ±1,")
print(f"  from the prediction with the own kernel: {rms_own:.1g}")
print(f"  with the kernel of infinite width: {rms_limit:.1g}")
assert rms_own < 0.02
assert 3 * rms_own < rms_limit < 0.2  # one network: its draw is n^-1/2 times a number of order one

# %% [markdown]
# So: where does the formula come from, when does it hold, and how wrong is it at width $n$?
#
# ## The derivation
#
# ### Training is a linear equation, once the kernel stands still
#
# Gradient flow is $\dot\theta = -\nabla \mathcal L$.
# With $r_t = f_t(X) - y$, the vector of the $N$ residuals, and $J_t(x) = \partial f_t(x)/\partial\theta$, the gradient of $\mathcal L = \frac1{2N}\|r\|^2$ is $\frac1N J_t(X)^\top r_t$.
# Any output $f(x)$ moves by $\dot f(x) = J_t(x)\,\dot\theta$, so (chapter 01)
#
# $$\dot f_t(x) = -\tfrac1N\, \Theta_t(x, X)\, r_t, \qquad \Theta_t(x, X) = J_t(x)\, J_t(X)^\top \quad [1 \times N]. \tag{1}$$
#
# This is exact for every network that is differentiable in its parameters, and by itself it is of no use: $\Theta_t$ depends on the parameters.
# Chapter 03 showed that in a wide network it barely does, at a fixed time: its drift vanishes as $n \to \infty$.
# (That this holds for *all* times needs an argument, below.)
# So set $\Theta_t = \Theta_0$, and write $\Theta$ for it.
# That is the main approximation of this chapter.
# (Where we put the kernel of infinite width, $\Theta_\infty$, in the place of a network's own $\Theta_0$, that is a second one.)
# The first is the same as replacing the network by its **linearization** $f_\mathrm{lin}(\theta, x) = f_0(x) + J_0(x)\,(\theta - \theta_0)$,
# whose Jacobian is $J_0$ wherever $\theta$ goes (`ntk.linearize`).
#
# ### At the training points: one mode at a time
#
# Now (1) at $x = X$ is linear with constant coefficients: $\dot r = -\frac1N \Theta\, r$, where $\Theta = \Theta(X, X)$.
# It is symmetric and positive semi-definite: $\Theta = \sum_i \lambda_i u_i u_i^\top$ with orthonormal modes $u_i$ (each a pattern of $N$ numbers, one for each training image) and $\lambda_i \ge 0$.
# Along $u_i$ the equation is a scalar one, $\frac{d}{dt}(u_i^\top r) = -\frac{\lambda_i}N (u_i^\top r)$, and so
#
# $$u_i^\top r_t = e^{-\lambda_i t/N}\; u_i^\top r_0, \qquad f_t(X) = y + e^{-\Theta t/N} (f_0 - y), \qquad
# \mathcal L_t = \frac1{2N} \sum_i e^{-2\lambda_i t/N}\, (u_i^\top r_0)^2. \tag{2}$$
#
# Each mode is learned at its own pace, with the **time constant** $N/\lambda_i$. A mode with $\lambda_i = 0$ never moves: the linear model cannot change its outputs in that pattern, and keeps $f_0$ there.
#
# ### At test points: integrate what the training points do
#
# A test point has no target of its own. By (1) it is *driven* by the training residuals, which we now know. Integrate:
#
# $$f_t(x) = f_0(x) - \Theta(x, X)\, \frac1N\!\int_0^t r_s\, ds
# = f_0(x) + \Theta(x, X)\; \underbrace{\Theta^{-1}\big(1 - e^{-\Theta t/N}\big)(y - f_0(X))}_{\textstyle c_t,\; N \text{ coefficients}}. \tag{3}$$
#
# Read it slowly: four points in it are often missed.
# (i) The first term is the network's own start *at the test point*; it does not go away.
# (ii) What drives is $y - f_0(X)$, not $y$.
# (iii) $\Theta(x, X)$ has the test point first.
# (iv) $1/N$ comes with the loss: for a sum over examples the same curve is run through $N$ times faster.
#
# *Zero eigenvalues.* $\Theta^{-1}$ looks dangerous and is not.
# Along $u_i$ the coefficient is $(1 - e^{-\lambda_i t/N})/\lambda_i$, which tends to $t/N$ as $\lambda_i \to 0$.
# On a computer, $1 - e^{-a}$ for small $a$ is a difference of nearly equal numbers; `expm1` computes it without losing digits.
# `ntk.gradient_flow` is (2) and (3); exercise 04.1 writes it.

# %% [markdown]
# ### Steps instead of flow, and the largest learning rate
#
# One step of gradient descent is $r_{s+1} = (1 - \eta\Theta/N)\, r_s$.
# So $e^{-\lambda_i t/N}$ is replaced by $(1 - \eta\lambda_i/N)^s$, everywhere; for small $\eta$ the two agree with $t = \eta s$.
# A power stays bounded only if its base is between $-1$ and $1$:
#
# $$\eta \;\le\; \eta_{\max} = \frac{2N}{\lambda_{\max}}. \tag{4}$$
#
# (With the loss summed over examples: $2/\lambda_{\max}$.
# For images of one kind $\lambda_{\max}$ grows about like $N$, so with the mean loss the limit hardly depends on the amount of data.)
# The largest mode sets the speed limit for all, and the smallest ones set how long one has to drive.
#
# **Momentum.** Heavy ball, as in `optax.sgd(eta, momentum)`, is $v \leftarrow \mu v + \text{gradient}$, $\theta \leftarrow \theta - \eta v$.
# The difference of two steps eliminates $v$; along a mode, with $a = \eta\lambda_i/N$ and $z = u_i^\top r$,
#
# $$z_{s+1} = (1 + \mu - a)\, z_s - \mu\, z_{s-1}.$$
#
# Try $z_s = \rho^s$ ($\rho$ is a number to be found here, not a correlation): $\rho^2 - (1 + \mu - a)\rho + \mu = 0$.
# The product of the two roots is $\mu < 1$, so if they are complex both have modulus $\sqrt\mu < 1$.
# For $a > 0$ the number $1$ is no root: there the polynomial has the value $a$.
# So instability begins where a real root reaches $-1$: $1 + (1 + \mu - a) + \mu = 0$, that is
#
# $$\eta_{\max} = \frac{2(1 + \mu)N}{\lambda_{\max}}. \tag{5}$$
#
# Slow modes ($a \to 0$) behave as if the rate were $\eta/(1 - \mu)$: ten times faster for $\mu = 0.9$. `ntk.gradient_descent` and `ntk.max_learning_rate` do all this.
#
# ### How far the parameters travel
#
# The linearized network moves by $\theta_t - \theta_0 = -\frac1N \int J_0(X)^\top r_s\, ds = J_0(X)^\top c_t$, with the coefficients of (3). Its length needs no parameters either:
#
# $$\|\theta_t - \theta_0\|^2 = c_t^\top\, \Theta\, c_t = \sum_i \frac{(1 - e^{-\lambda_i t/N})^2}{\lambda_i} \big(u_i^\top(y - f_0)\big)^2 \;\longrightarrow\; (y - f_0)^\top \Theta^{-1} (y - f_0). \tag{6}$$
#
# A zero mode adds nothing to the sum, at any time: if $\Theta$ is singular, $\Theta^{-1}$ in the limit is the pseudoinverse.
# With the kernel of infinite width and $f_0 = 0$ the limit is a number that does not depend on the width. The length of $\theta_0$ does: it is close to $\sqrt P$, for $P$ standard normal parameters.
#
# ## Which modes are learned first
#
# Take 200 images, the network infinitely wide, and look at the spectrum.
# What matters is where the eigenvalues are *and* how much of the target lies along each mode: the share $(u_i^\top y)^2/\|y\|^2$.
#
# **Prediction**, for a network that says zero at the start: a mode is learned at about its time constant $N/\lambda_i$, so plot the share of the target against *that*;
# and the loss (2) is the sum over modes.
# (We take steps, so the curves of the right panel are $(1 - \eta\lambda_i/N)^s$, at $s = t/\eta$.)
# **Measurement:** three networks of width 512, the full 784 pixels, 128 steps with $\eta = 0.5$.
# They are *centered*, so that $r_0 = -y$: we train towards $y + f_0$ and look at $f - f_0$ (`ntk.center` does the same to any model; what the random start does comes later).
# The right panel projects their residuals on four modes, those with the largest shares of the target.

# %%
many = 600 if paper else 200
half = many // 2
x_many = jnp.asarray(np.concatenate([threes[:half], eights[:half]]))
y_many = np.repeat([1.0, -1.0], half)[:, None]
with jax.enable_x64(True):
    theta = network(1, 0, n_in=784).kernel(jnp.asarray(x_many, float)).ntk
    eigenvalues, modes = (np.asarray(a)[..., ::-1] for a in jnp.linalg.eigh(theta))
share = (modes.T @ y_many)[:, 0] ** 2 / many
rng = np.random.default_rng(0)
share_random = (modes.T @ rng.permutation(y_many))[:, 0] ** 2 / many


first = share[:3].sum()
print(f"rates λ/N: {eigenvalues[0] / many:.2g}, {eigenvalues[1] / many:.2g}, ", end="")
print(f"{eigenvalues[2] / many:.2g}, ..., {eigenvalues[-1] / many:.1g}")
print(f"share of the target in the first three modes: {first:.2f}, ", end="")
print(f"of shuffled labels: {share_random[:3].sum():.2f}")
print(f"share in the very first: {share[0]:.0e}")

# %%
count, width = 3, 4096 if paper else 512
eta, at = 0.5, [0, *log_steps(256 if paper else 128, 9)]
_, apply_fn, params = networks(width, count, n_in=784)
start = apply_fn(params, x_many)
run = ntk.train(
    (apply_fn, params), x_many, start + y_many, optimizer=optax.sgd(eta),
    steps=at[-1], record=lambda p: apply_fn(p, x_many) - start, record_at=at,
    progress=False,
)  # fmt: skip
residuals = np.asarray(run.records, float) - y_many  # [T, N, networks]
amplitudes = np.einsum("ni,tns->sti", modes, residuals)
amplitudes = amplitudes / amplitudes[:, :1]
largest = np.sort(np.argsort(share)[::-1][:4])

# %% alt="Two panels with a logarithmic time axis. Left: share of the target in all modes up to a time constant, from 0.6 to 1000: for threes against eights it jumps to 0.52 by a time constant of 6 and creeps up to 1; for shuffled labels it stays near 0 until 20 and rises late. Right: four modes decay one after another from 1 to 0, the first with a time constant of about 4, the last two, nearly together, of about 12; measured points lie on the predicted curves or close to them."
fine = np.geomspace(0.25, 70, 100)
constants = many / eigenvalues
fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8))
shares = {"threes and eights": share, "shuffled labels": share_random}
for i, (label, of) in enumerate(shares.items()):
    style = {"color": plotting.COLOURS[i], "ls": plotting.DASHES[i], "label": label}
    left.step(constants, of.cumsum(), where="post", **style)
left.set(xscale="log", xlabel=r"time constant $N/\lambda_i$")
left.set_ylabel("share of the target up to there")
left.legend()
for i, mode in enumerate(largest):
    style = {"color": plotting.COLOURS[i]}
    curve = (1 - eta * eigenvalues[mode] / many) ** (fine / eta)
    right.plot(fine, curve, ls=plotting.DASHES[i], **style)
    mean, error = plotting.mean_and_error(amplitudes[:, 1:, mode])
    label = f"mode {mode + 1}: {share[mode]:.0%}"
    right.errorbar(eta * np.array(at[1:]), mean, error, fmt=plotting.MARKERS[i],
                   ls="none", ms=4, **style, label=label)  # fmt: skip
right.set(xscale="log", xlabel="training time t")
right.set_ylabel(r"what is left, $u_i^\top r_t \,/\, u_i^\top r_0$")
right.legend(title="share of target")
plt.show()

losses = np.mean(residuals**2, axis=1).T / 2
steps = np.array(at)
expected = (1 - eta * eigenvalues / many)[None] ** steps[:, None]
off = np.abs(amplitudes.mean(0)[:, largest] - expected[:, largest]).max()
loss_ratio = losses.mean(0) / (expected**2 @ share / 2)
print(f"largest difference of a mode from its prediction: {off:.1g}")
print(f"loss over prediction at the end: {loss_ratio[-1]:.2f}")
assert off < 0.1
assert np.abs(loss_ratio - 1).max() < 0.1

# %% [markdown]
# The rates fall by a factor of more than a thousand, and half of the target lies in the second and third mode, where they are high.
# That is why the loss falls fast at first: much of what tells threes from eights lies in patterns that the kernel finds easy.
# Shuffled labels spread nearly evenly over all modes, and most modes have time constants of hundreds.
#
# The first mode is special.
# It is nearly constant (all these images have much in common), and balanced targets $\pm1$ have next to nothing there.
# Yet its eigenvalue is six times the next one and alone fixes $\eta_{\max}$: the speed limit is set by a direction in which there is next to nothing to learn.
#
# The modes decay one after another. The loss over its start is the sum of their squares, weighted with the shares.
# (The prediction used the kernel of infinite width. The loss of networks of width 512 is five per cent above it at the end.)
#
# ## The largest learning rate
#
# **Prediction.** Below (4) the loss goes to zero, as $\Theta$ is positive definite here.
# Just above it, in the linear model, one mode, the nearly constant one, grows by $|1 - \eta\lambda_{\max}/N|$ each step, whatever the others do.
# With momentum 0.9 the same rate is well below the limit (5), which is 1.9 times (4).
# **Measurement:** a network of width 4096, its own kernel.

# %%
one, apply_fn, params = networks(wide, 1)
at = list(range(0, 41, 2))
theta = (own_ntk[0, :N] + own_ntk[0, :N].T) / 2
eta_max = float(ntk.max_learning_rate(jnp.asarray(theta, jnp.float32)))
cases = {  # η over the limit without momentum, and momentum
    "η = 0.9 limit": (0.9, 0.0),
    "η = 1.1 limit": (1.1, 0.0),
    "η = 1.1 limit, μ = 0.9": (1.1, 0.9),
}
runs = {}
for name, (factor, momentum) in cases.items():
    rate = factor * eta_max
    run = train(apply_fn, params, optax.sgd(rate, momentum or None), at)
    f = predicted(own_ntk, run.records[0].T, at, rate, momentum)[0]
    runs[name] = np.asarray(run.loss), half_mse(f[:, :N])

# %% alt="Training loss on a logarithmic axis against steps from 0 to 40. Below the limit it falls; at 1.1 times the limit it falls at first and then grows, dots near the predicted line until the loss has become large, where the dots bend down; at the same rate with momentum 0.9 it oscillates and falls."
fig, ax = plt.subplots(figsize=(5.6, 3.4))
for i, (name, (loss, line)) in enumerate(runs.items()):
    style = {"color": plotting.COLOURS[i]}
    ax.plot(at, line, ls=plotting.DASHES[i], **style)
    ax.plot(at, loss, plotting.MARKERS[i], ms=5, ls="none", **style, label=name)
ax.plot([], [], "k-", label="predicted")
ax.set(yscale="log", xlabel="steps", ylabel="training loss")
ax.legend()
plt.show()

below, above, heavy = runs.values()
growth = np.log(above[1][-1] / above[1][-5]) / 16  # per step, of the amplitude
print(f"above the limit the linear model grows by {np.exp(growth):.2f} a step")
highest, last = above[0].max(), above[0][-1]
print(f"the network's loss: at most {highest:.0f}, at the end {last:.1g}")
assert np.abs(np.log(below[0] / below[1])).max() < 0.2  # 0.01 to 0.13 with four seeds
assert abs(np.exp(growth) - 1.2) < 0.01  # |1 − 1.1 · 2|
assert heavy[0][-1] < 0.1 * heavy[0][0]
assert above[0].max() > 3 * above[0][0]

# %% [markdown]
# As predicted, the loss falls at 0.9 of the limit and grows at 1.1 of it, and with momentum it falls there as well.
# At 1.1 of the limit, for some steps, the loss grows near the line of the linear model, whose amplitude grows by 1.20 a step.
# What happens then is beyond the linear model:
# when the residual has grown to the order of $\sqrt n$ the kernel moves, $\lambda_{\max}$ *falls* below $2N/\eta$,
# and training comes back (the "catapult" of Lewkowycz et al. 2020; chapter 11 has more of it).
# So the network survives a rate that its linearization does not (how far above the limit depends on the activation: for ReLU they report some six times), but it leaves the kernel regime to do so.
#
# ## The distance between network and linearization
#
# How wrong are (2) and (3) at width $n$?
# Start both models at the same $\theta_0$.
# Subtract (1) with the frozen kernel from (1) with the true one;
# the difference $\Delta = f - f_\mathrm{lin}$ at the training points (at test points it is a similar integral) obeys $\dot\Delta = -\frac1N\Theta_0\Delta - \frac1N(\Theta_t - \Theta_0)\, r_t$, so
#
# $$\Delta_t = -\frac1N \int_0^t e^{-\Theta_0 (t - s)/N}\, \big(\Theta_s - \Theta_0\big)\, r_s\, ds. \tag{7}$$
#
# If the residual dies out exponentially the integral converges: the distance is at most of the order of the **drift of the kernel**, at every time, also as $t \to \infty$.
#
# *Why it dies out.* With a constant, positive definite kernel it does, by (2).
# The true one might drift away and lose an eigenvalue on the way, and then nothing would stop it: drift and residual each need the other.
# The **bootstrap** cuts the circle.
# Let $\lambda_0 = \lambda_{\min}(\Theta_\infty(X, X)) > 0$: *this is a hypothesis*.
# (Jacot et al. 2018, Proposition 2, have it for different inputs of equal length, a network with biases and a Lipschitz $\phi$ that is no polynomial; with twice the same image it fails.)
# Let $n$ be so large that $\lambda_{\min}(\Theta_0) \ge \tfrac34 \lambda_0$ (with high probability over the start), and let $\tau$ be the first time at which $\lambda_{\min}(\Theta_t) < \tfrac12 \lambda_0$.
#
# 1. Until $\tau$, $\frac{d}{dt} \|r\|^2 = -\frac2N r^\top \Theta_t r \le -\frac{\lambda_0}N \|r\|^2$: the residual falls at least like $e^{-\lambda_0 t/2N}$.
# 2. So until $\tau$ a weight moves by at most $\int |\dot\theta_p|\,ds$, of the order $n^{-1/2} N/\lambda_0$, *for all times*,
#    and the kernel by $C\, n^{-1/2}$ (chapter 03), with a $C$ that depends on the data.
#    (The derivative of the output by a weight stays of the order $n^{-1/2}$ as long as the weights stay near their start, which is what this step says.)
# 3. For $n$ large that is less than $\lambda_0/4$, and $\lambda_{\min}(\Theta_t)$ stays above $\lambda_0/2$. Hence $\tau = \infty$: the residual goes to zero, and 1 and 2 hold for ever.
#
# It is $\Theta_t$ that must stay positive definite, and for that the width must be large *for this data*; a positive definite $\Theta_0$ is not enough.
# (Du et al. 2019 prove it in this way, for one hidden layer of ReLU units with a fixed readout.)
# We know the drift from chapter 03, and get four predictions:
#
# | | what differs | exponent in $n$ |
# |---|---|---|
# | smooth activation | drift: each term moves by $n^{-1/2}$, with a random sign | $-1$ |
# | ReLU | drift: $\sqrt n$ units cross the kink, with random signs | $-3/4$ |
# | smooth, readout weights of one sign | drift without cancellation | $-1/2$ |
# | smooth, prediction by the kernel of *infinite* width | $\Theta_0 - \Theta_\infty$, the random draw | $-1/2$ |
#
# The theorem of Lee et al. 2019 is an upper bound, $O(n^{-1/2})$, for the distance to the linearization.
# It is for Gaussian weights, for $\phi$ and $\phi'$ that are Lipschitz, for $\lambda_0 > 0$ and for a rate below their limit, $2N/(\lambda_{\min} + \lambda_{\max})$ with our loss.
# So the first line is within its hypotheses, and the next two are not: ReLU has a kink, and readout weights of one sign are not Gaussian.
# The first two lines say that one will usually see less than the bound.
# The third should reach its rate: the proof bounds the drift without cancellation between units, and here there is none.
#
# **Measurement.** Widths 128 … 4096, eight networks each, 128 steps with $\eta = 0.6$ (with two hidden layers: widths 64 and 576, four networks).
# Networks are centered: then all have the same $r_0 = -y$, and as the distance grows faster than linearly in $r_0$ the random starts would only blur the law.
# A distance is the rms over all 40 images, in units of the targets $\pm1$, and the largest at any recorded time.


# %%
def with_one_sign(params):
    """These networks and, after them, the same with all readout weights positive."""
    params = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), params)
    readout = params["layers"][2]
    signs = jnp.where(jnp.arange(len(readout["W"])) < len(readout["W"]) // 2, 0, 1)
    flip = jnp.where(signs[:, None, None] == 1, jnp.sign(readout["W"]), 1.0)
    layers = params["layers"] | {2: readout | {"W": flip * readout["W"]}}
    return params | {"layers": layers}


def lengths(params):
    """Length of all parameters of each network, [networks]."""
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(params)]
    return jnp.linalg.norm(jnp.concatenate(leaves, axis=1), axis=1)


# %% [markdown]
# Networks of one width are trained, and both predictions computed for them.


# %%
def compare(width, activation, prepare=None, hidden=1, count=8):
    """Train centered networks; distances to both predictions, [networks, T] each."""
    like = {"activation": activation, "hidden": hidden}
    one, apply_fn, start = networks(width, count, key=width, **like)
    start = prepare(start) if prepare else start
    f0 = apply_fn(start, both)

    def record(p):
        return apply_fn(p, both) - f0, lengths(jax.tree.map(jnp.subtract, p, start))

    run = train(apply_fn, start, optax.sgd(ETA), AT, record, target=y + f0[:N])
    outputs, moved = (np.asarray(a) for a in run.records)
    outputs = outputs.transpose(2, 0, 1)
    with jax.enable_x64(True):
        theta = network(1, 0, **like).kernel(jnp.asarray(points)).ntk[:, :N]
    kernels = np.concatenate([tangent_kernels(one, start), theta[None]])
    *own, infinite = predicted(kernels, np.zeros((len(kernels), N + M)), AT, ETA)
    residuals = outputs[..., :N] - np.asarray(y)[:, 0]
    return {
        "own": np.sqrt(np.mean((outputs - np.stack(own)) ** 2, axis=-1)),
        "infinite": np.sqrt(np.mean((outputs - infinite) ** 2, axis=-1)),
        "moved": moved.T,
        "start": np.broadcast_to(lengths(start)[:, None], moved.T.shape),
        "loss": np.mean(residuals**2, axis=-1) / 2,
    }


# %%
ETA, AT = 0.6, [0, *log_steps(128, 16)]
WIDTHS = (128, 256, 512, 1024, 2048, 4096) if paper else (128, 512, 4096)
DEEP = (128, 512, 2048) if paper else (64, 576)
COUNT = 8
pairs = [compare(n, ntk.Gelu(), with_one_sign) for n in WIDTHS]
gelu = [{k: v[:COUNT] for k, v in pair.items()} for pair in pairs]
signed = [{k: v[COUNT:] for k, v in pair.items()} for pair in pairs]
relu = [compare(n, ntk.Relu()) for n in WIDTHS]
deep = [compare(n, ntk.Gelu(), hidden=2, count=4) for n in DEEP]


def largest_distance(found, which):
    return np.stack([f[which].max(axis=1) for f in found], axis=1)


# %% alt="Distance of networks from predictions against width, logarithmic axes. From the infinite-width kernel it falls with slope about minus one half; from the own linearization with slope minus one half for readouts of one sign, about minus 0.7 for ReLU, and minus one for GELU with one and two hidden layers."
fig, ax = plt.subplots(figsize=(5.4, 3.6))
series = {
    "infinite-width kernel": (WIDTHS, gelu, "infinite", -0.5),
    "own, one sign": (WIDTHS, signed, "own", -0.5),
    "own, ReLU": (WIDTHS, relu, "own", -0.75),
    "own, GELU": (WIDTHS, gelu, "own", -1),
    "own, GELU, 2 layers": (DEEP, deep, "own", -1),
}
slopes = {}
for i, (name, (widths, found, which, law)) in enumerate(series.items()):
    samples = largest_distance(found, which)
    slopes[name] = plotting.fit_slope(widths, samples)
    plotting.rate(ax, widths, samples, label=name, theory=law, series=i)
entries = zip(*ax.get_legend_handles_labels(), strict=True)
kept = [(h, label) for h, label in entries if not label.startswith("theory")]
ax.legend(*zip(*kept, strict=True), loc="upper right")
ax.set(xlabel="width n", ylabel="largest rms distance (targets: ±1)", ylim=(2e-4, 5))
plt.show()

t = ETA * np.array(AT)
shown = [1, 5, 10, -1]
print("distance at the largest width, at t =", *(f"{t[k]:8.2g}" for k in shown))
for name, (_, found, which, _) in series.items():
    curve = found[-1][which].mean(axis=0)
    print(f"{name:36}", *(f"{curve[k]:8.1g}" for k in shown))
for name, (widths, _, _, law) in series.items():
    slope, error = slopes[name]
    print(f"{name:22} slope {slope:.2f} ± {error:.2f}, law {law:g}")
    assert abs(slope - law) < (0.15 if widths is WIDTHS else 0.3)  # the deep ones: two widths, four networks
assert slopes["own, GELU"][0] < slopes["own, ReLU"][0] < slopes["own, one sign"][0]

# %% [markdown]
# (Lines have the exponents of the table; the legend gives the fitted ones.)
# For ReLU the fit, $-0.70 \pm 0.04$, is about one error from $-3/4$; $-1/2$ and $-1$ are several errors away.
# The counting carries over from the kernel to the trained function.
# The statement "the network is its linearization up to $O(n^{-1/2})$" is right as an upper bound.
# Its rate is reached if the readout weights have one sign.
# For ordinary smooth networks, of one hidden layer or two, the bound is too large by a factor of the order of $\sqrt n$.
# In the same figure one sees which kernel to predict with:
# a network's **own** tangent kernel at the start of training is better than the kernel of infinite width by a factor of the order of $\sqrt n$, about fifty at $n = 4096$.
# What the infinite-width kernel misses is the draw of this one network, not its training.
# The table printed above is the "at every time" of the claim: the distance rises while the residual is there, and then stays.
# (With one sign it falls back, by about half. What went wrong early is corrected: at the training points all of it, at the test points a part.)
#
# ## How far the parameters travel
#
# "A global minimum is found with parameters near their start". **Predictions**, with the kernel of infinite width and no other number:
#
# - *Distance.* By (6) the straight distance from the start tends to $\sqrt{y^\top\Theta^{-1}y}$, the same number at every large width.
# - *Path.* The way there is longer, since the modes are learned one after the other.
#   Step $s$ has the length $\frac{\eta}{N} \|J^\top r_s\| = \frac{\eta}{N} \sqrt{r_s^\top \Theta\, r_s}$ with $r_s = -(1 - \eta\Theta/N)^s y$; the path is their sum.
# - *Nearness.* The start has length $\sqrt P$ with $P = n(N + M + 2) + 1$ parameters here, so relative to it the distance falls like $n^{-1/2}$: arithmetic.
#   (With a second hidden layer there are $n^2$ weights: $1/n$ in the limit. Between our widths 64 and 576 $\sqrt P$ grows like $n^{0.90}$.)
# - *Loss.* It goes to zero at widths at which $\Theta_t$ stays positive definite.
#   At a finite time it is not zero but (2), for steps with $(1 - \eta\lambda_i/N)^{2s}$ in the place of the exponential.
#   We compare it with that for the network's own kernel.

# %%
with jax.enable_x64(True):
    target = np.asarray(y, float)[:, 0]
    travel = float(np.sqrt(target @ np.linalg.solve(limit_ntk[:N], target)))
moved = np.stack([f["moved"][:, -1] for f in gelu], axis=1)
relative, deep_relative = (
    np.stack([f["moved"][:, -1] / f["start"][:, -1] for f in found], axis=1)
    for found in (gelu, deep)
)  # fmt: skip
left_over = np.stack([f["loss"][:, -1] / f["loss"][:, 0] for f in gelu], axis=1)

of_prediction = moved[:, -1] / travel
print(f"predicted distance: {travel:.3g}")
for n, values in zip(WIDTHS, moved.T, strict=True):
    print(f"n = {n:4}: {values.mean():.3g} ± {values.std(ddof=1) / COUNT**0.5:.1g}")
path, path_error = plotting.mean_and_error(of_prediction)
nearness = plotting.fit_slope(WIDTHS, relative)
print(f"n = {WIDTHS[-1]}: distance over prediction {path:.3f} ± {path_error:.1g}")
deep_nearness = plotting.fit_slope(DEEP, deep_relative)
print(f"relative distance: slope {nearness[0]:.2f} ± {nearness[1]:.1g}, ", end="")
print(f"with two hidden layers {deep_nearness[0]:.2f} ± {deep_nearness[1]:.1g}")
print(f"share of the loss left at t = {t[-1]:.0f}, at most: {left_over.max():.0e}")
assert abs(path - 1) < 0.05
assert abs(nearness[0] + 0.5) < 0.05
assert abs(deep_nearness[0] + 1) < 0.2
assert left_over.max() < 1e-3


# %%
def path_and_loss(width):
    """Length of the path, loss at its end, and that by (2) with the own kernel; [networks] each."""
    one, apply_fn, start = networks(width, COUNT, key=width)
    towards = y + apply_fn(start, x)

    def loss(params):
        return jnp.sum((apply_fn(params, x) - towards) ** 2) / (2 * N)

    def step(state, _):
        params, travelled = state
        gradient = jax.grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - ETA * g, params, gradient)
        return (params, travelled + ETA * lengths(gradient)), None

    state = start, jnp.zeros(COUNT)
    (end, travelled), _ = jax.jit(lambda s: jax.lax.scan(step, s, length=AT[-1]))(state)
    own = predicted(tangent_kernels(one, start), np.zeros((COUNT, N + M)), [0, AT[-1]], ETA)
    left = np.mean(np.asarray(apply_fn(end, x) - towards) ** 2, axis=0) / 2
    return np.asarray(travelled), left, half_mse(own[:, -1, :N])


way, residual = 0.0, -target
for _ in range(AT[-1]):  # gradient descent with the kernel of infinite width
    way += ETA / N * float(np.sqrt(residual @ limit_ntk[:N] @ residual))
    residual = residual - ETA / N * limit_ntk[:N] @ residual
paths, left, left_by_formula = path_and_loss(WIDTHS[-1])
path_ratio, loss_ratio = (plotting.mean_and_error(v) for v in (paths / way, left / left_by_formula))
print(f"predicted path {way:.3g}, measured {paths.mean():.3g}")
print(f"loss at the end over formula (2), own kernel: {loss_ratio[0]:.2f} ± {loss_ratio[1]:.1g}")
assert abs(path_ratio[0] - 1) < 0.05

# %% [markdown]
# Both halves of the statement hold at these widths.
# The loss goes to zero as far as we trained: at most $8 \cdot 10^{-5}$ of it is left, at any of the widths.
# At $n = 4096$ the loss that is left is what formula (2), for steps, says, to a per cent.
# The parameters get to a place at the distance 2.2 to 2.3, from a start of length 73 to 415.
# At $n = 4096$ the path there has the length 2.5.
# "Near" is relative to the start.
# In absolute terms they move about as far in a wide network as in a narrow one (at $n = 128$ some four per cent farther).
# What falls with the width is how far the function departs from its linearization on the way.
#
# ## Ensembles: mean and covariance
#
# Two networks of infinite width have the same kernel and different starts $f_0$, drawn from the Gaussian process with covariance $\Sigma$ (chapter 03).
# After training both differ still.
# Equation (3) is *affine in $f_0$*, a linear map of $f_0$ plus a constant:
#
# $$f_t(x) = f_0(x) + G_t\,\big(y - f_0(X)\big), \qquad G_t = \Theta(x, X)\, \Theta^{-1}\big(1 - e^{-\Theta t/N}\big), \tag{8}$$
#
# and an affine map of a Gaussian process is one.
# Take the mean (that of $f_0$ is zero).
# Multiply out the covariance of $f_0(x) - G_t f_0(X)$ with the same at $x'$; $G_t'$ is $G_t$ with $x'$ in the place of $x$:
#
# $$\mathbb E f_t(x) = G_t\, y, \qquad
# \operatorname{Cov}\big(f_t(x), f_t(x')\big) = \Sigma(x, x') + G_t\, \Sigma(X, X)\, G_t'^\top - G_t\, \Sigma(X, x') - \Sigma(x, X)\, G_t'^\top. \tag{9}$$
#
# Two kernels with two jobs: $\Theta$ moves the functions, $\Sigma$ says where they start. The covariance does not depend on the targets. `ntk.ensemble_posterior` computes both.
#
# **Measurement.** Six ensembles of 50 networks of width 512, and six of width 32, with their random starts this time.
# The flow is approached by small steps while the fast modes are in motion, and larger ones later.
# We look at the 20 test images, and for the figure at an *arc*: the circle in input space that leads from a training image of a 3 (at angle 0) through one of an 8, scaled to the same length.

# %%
angles = np.linspace(-np.pi, np.pi, 33)
x1, x2 = points[0], points[10]
length = np.linalg.norm(x1)
aside = x2 - (x1 @ x2) / length**2 * x1
aside *= length / np.linalg.norm(aside)
arc = np.outer(np.cos(angles), x1) + np.outer(np.sin(angles), aside)
eight_at = np.arccos(x1 @ x2 / (length * np.linalg.norm(x2)))
see = np.concatenate([points[N:], arc])  # M test images, and the arc

rates = optax.piecewise_constant_schedule(0.05, {20: 4.0, 55: 4.0})
at, times = [0, 20, 55, 125], np.array([0.0, 1.0, 8.0, 64.0])  # t is the sum of rates
groups, members = 6, 250 if paper else 50


def ensemble(width):
    """Outputs [T, groups, members, points] of trained networks."""
    _, apply_fn, params = networks(width, groups * members, key=width)

    def record(p):
        return apply_fn(p, jnp.asarray(see, jnp.float32))

    run = train(apply_fn, params, optax.sgd(rates), at, record)
    found = np.asarray(run.records, float).transpose(0, 2, 1)
    return found.reshape(len(at), groups, members, -1)


outputs = {n: ensemble(n) for n in (32, 1024 if paper else 512)}
with jax.enable_x64(True):
    net = network(1, 0)
    training, new = jnp.asarray(points[:N]), jnp.asarray(see)
    kernels = net.kernel(training), net.kernel(new, training), net.kernel(new)
    targets = jnp.asarray(y, float)
    at_training, across, at_new = kernels
    mean, cov = ntk.ensemble_posterior(at_training, targets, across, at_new, t=times)
    mean, cov = np.asarray(mean)[..., 0], np.asarray(cov)
std = np.sqrt(np.maximum(np.diagonal(cov, axis1=1, axis2=2), 0))

# %% alt="Two panels, outputs along an arc of inputs at times 1 and 64. A shaded band of two predicted standard deviations around the predicted mean line; dots with bars for mean and two standard deviations of 300 networks lie on line and band. At time 1 the band is broad and the mean nearly flat; at time 64 it is pinched at the two training images, where the mean is close to plus one and minus one, and wide elsewhere."
widest = max(outputs)
fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True)
for ax, k in zip(axes, (1, 3), strict=True):
    line, band = mean[k, M:], 2 * std[k, M:]
    ax.fill_between(angles, line - band, line + band, color="0.85", lw=0,
                    label="predicted ± 2 std")  # fmt: skip
    ax.plot(angles, line, "-", color="k", lw=1, label="predicted mean")
    seen = outputs[widest][k].reshape(groups * members, -1)[:, M:]
    ax.errorbar(angles[::2], seen.mean(0)[::2], 2 * seen.std(0)[::2], fmt=".",
                ls="none", color=plotting.COLOURS[0], capsize=2, lw=1,
                label="networks, mean ± 2 std")  # fmt: skip
    ax.plot([0, eight_at], [1, -1], "X", ls="none", color=plotting.COLOURS[1], ms=7,
            label="training points")  # fmt: skip
    ax.set(title=f"t = {times[k]:g}", xlabel="angle on the arc (rad)")
axes[0].set_ylabel("output f(x)")
fig.legend(*axes[0].get_legend_handles_labels(), ncols=4,
           loc="outside lower center")  # fmt: skip
plt.show()


# %% [markdown]
# A figure convinces; a test can fail.
# Take the 20 test images, with predicted mean $m$ and covariance $C$ ($20\times20$) at one time, and *whiten*: $z = C^{-1/2}(f_t - m)$ should have mean zero and covariance $1$.
# (The code divides by the Cholesky factor of $C$; that $z$ is a rotation of this one, and the three numbers do not see rotations.)
# With $S$ networks there are three numbers, each of which should be 1 up to sampling noise:
#
# - for the mean, $S\, \|\bar z\|^2/M$: a $\chi^2$ per point, which scatters by $\sqrt{2/M}$;
# - for the variances, $\operatorname{tr}\hat C_z/M$ (with $\hat C_z$ the sample covariance about zero);
# - for all correlations, $\|\hat C_z - 1\|_F^2 \cdot S/(M(M+1))$.
#
# How much noise each has is sampled as well: the same numbers for Gaussian ensembles of the same size.


# %%
def whitened(f, m, C):
    """The three numbers for an ensemble f [S, M]."""
    z = np.linalg.solve(np.linalg.cholesky(C), (f - m).T)  # [M, S]
    size, members = z.shape
    covariance = z @ z.T / members
    return (
        members * np.sum(z.mean(1) ** 2) / size,
        np.trace(covariance) / size,
        np.sum((covariance - np.eye(size)) ** 2) * members / (size * (size + 1)),
    )


tested = {}
for n, found in outputs.items():
    print(f"width {n}:   χ² of the mean   variances        correlations")
    for k, time in enumerate(times):
        numbers = np.array([
            whitened(f[:, :M], mean[k, :M], cov[k, :M, :M]) for f in found[k]
        ])  # fmt: skip
        middle, error = plotting.mean_and_error(numbers)
        tested[n, time] = middle, error
        pairs = zip(middle, error, strict=True)
        row = "   ".join(f"{a:.2f} ± {e:.2f}" for a, e in pairs)
        print(f"   t = {time:2g}      {row}")
rng = np.random.default_rng(0)
null = np.array([whitened(rng.normal(size=(members, M)), np.zeros(M), np.eye(M)) for _ in range(2000)])
noise = null.std(0) / groups**0.5  # standard errors by sampling alone
for time in times:
    assert (np.abs(tested[widest, time][0] - null.mean(0)) < 4 * noise).all()
assert tested[32, 8.0][0][1] < 0.95

# %% [markdown]
# At width 512 mean, variances and correlations are what (9) says, within errors of 2 % for the variances, 5 % for the correlations and some 12 % for the $\chi^2$ of the mean.
# At width 32 the test sees a difference: after training the variance is some 15 % too small.
# The third number falls with it, as it is made from the same covariance: it is no evidence about correlations of its own.
# The mean still passes: with fifty networks in an ensemble its error is not seen.
# The missing variance is an effect of higher order, of the kind of chapter 03's bias, and gone to within 2 % at width 512.
# (Nothing is wrong at $t = 0$: with one hidden layer the covariance of the start is exact at every width.)
#
# ## Not a posterior
#
# The band in the figure above is pinched at the data and wide away from them.
# It looks like the posterior of a Gaussian process.
# It is not one.
# The posterior for the prior covariance $\Sigma$, given the data without noise, is
#
# $$\text{mean } \Sigma(x, X)\, \Sigma^{-1} y, \qquad \text{covariance } \Sigma(x, x') - \Sigma(x, X)\,\Sigma^{-1}\,\Sigma(X, x'). \tag{10}$$
#
# Set $t = \infty$ in (9), so that $G = \Theta(x, X)\Theta^{-1}$.
# The mean is that of a process with kernel $\Theta$; but the covariance contains $\Sigma$ and $\Theta$, and is in general neither (10) nor (10) with $\Theta$ in place of $\Sigma$.
# A Bayesian keeps those functions of the prior that agree with the data.
# Gradient descent takes each function and moves it, along $\Theta$, until it fits; where it ends depends on how it moves.
# It is (10) if $\Theta(x, X)\,\Theta^{-1} = \Sigma(x, X)\,\Sigma^{-1}$.
# *Train the readout alone* (hidden weights stay random): then the tangent kernel is $\Sigma$ itself, by equation (1) of chapter 03.
# Put $\Theta = \Sigma$ and $t = \infty$ into (9): the three last terms become $+A - A - A$ with $A = \Sigma(x,X)\Sigma^{-1}\Sigma(X,x')$.
# That *is* (10).
# (A linear network without biases has $\Theta = L\,\Sigma$: there it is (10) with all layers trained, too.)
#
# *Which is larger?* Write $G_\Sigma$ for $\Sigma(x, X)\Sigma^{-1}$ and $G_\Theta$ for $\Theta(x, X)\Theta^{-1}$, and take **one** network, trained both ways from the same start.
# By (8) it ends at two functions that differ by
#
# $$\delta(x) = (G_\Theta - G_\Sigma)\,(y - f_0(X)). \tag{11}$$
#
# The readout-trained one fluctuates by $f_0(x) - G_\Sigma f_0(X)$.
# That is what is left of $f_0(x)$ after its best linear prediction from $f_0(X)$, so it is uncorrelated with $f_0(X)$, and with $\delta$.
# Hence the variances add: **ensemble = posterior + variance of $\delta$.**
# If a training ends at $f_0(x) + G\,(y - f_0(X))$ with a $G$ that does not depend on $f_0$, it leaves at least the spread of the posterior, by the same argument.
#
# **Measurement:** 100 networks of width 1024, each trained in full and with the readout alone; standard deviations along the arc.

# %%
members, width = (500, 4096) if paper else (100, 1024)
_, apply_fn, params = networks(width, members, key=1)
labels = {"layers": {0: "frozen", 2: "trained"}}  # affine, GELU, affine
readout_only = optax.multi_transform(
    {"trained": optax.sgd(1.5, momentum=0.9), "frozen": optax.set_to_zero()},
    jax.tree.map(lambda label, part: jax.tree.map(lambda _: label, part),
                 labels, params, is_leaf=lambda a: isinstance(a, str)),
)  # fmt: skip
optimizers = {
    "all layers": optax.sgd(0.5, momentum=0.9),  # 100 steps with momentum 0.9:
    "readout alone": readout_only,  # a time of 500 and 1500
}
ends = {}
for name, optimizer in optimizers.items():
    run = train(
        apply_fn, params, optimizer, [0, 100],
        lambda p: apply_fn(p, jnp.asarray(arc, jnp.float32)),
    )  # fmt: skip
    ends[name] = np.asarray(run.records[-1], float).T  # [networks, points]
    print(f"{name}: {run.loss[-1] / run.loss[0]:.0e} of the loss is left")

with jax.enable_x64(True):
    along = jnp.asarray(arc)
    here, there = net.kernel(along, training), net.kernel(along)
    at_the_end = ntk.ensemble_posterior(at_training, targets, here, there, t=jnp.inf)
    k = at_training
    posterior = ntk.gp_posterior(k.nngp, targets, here.nngp, there.nngp, ridge=0.0)
    of_ntk = ntk.gp_posterior(k.ntk, targets, here.ntk, there.ntk, ridge=0.0)


# %%
def std_of(cov):
    return np.sqrt(np.maximum(np.diagonal(np.asarray(cov)), 0))


def rms(a):
    return np.sqrt(np.mean(a**2, axis=-1))


def spread(f):
    """Standard deviation over networks, and its own standard error."""
    std = f.std(0, ddof=1)
    return std, std / np.sqrt(2 * (len(f) - 1))


lines = {
    "all layers": (std_of(at_the_end[1]), "ensemble, t = ∞"),
    "readout alone": (std_of(posterior[1]), "posterior with Σ"),
}
with jax.enable_x64(True):
    between = here.ntk @ jnp.linalg.inv(at_training.ntk)
    between = between - here.nngp @ jnp.linalg.inv(at_training.nngp)  # G_Θ − G_Σ
    delta_line = std_of(between @ at_training.nngp @ between.T)
    delta_mean = np.asarray(between @ targets)[:, 0]
delta = ends["all layers"] - ends["readout alone"]

lines["δ, both trainings"] = delta_line, "δ, equation (11)"
ends["δ, both trainings"] = delta

# %% alt="Standard deviations along the arc at the end of training. Networks trained in all layers lie on the solid line of the ensemble formula, networks with a trained readout on the dashed line of the Bayesian posterior, a few percent below it; both go down to zero, or nearly, at the two training points; a dotted line, the posterior of a process with kernel Theta, lies about half as high again far from the data. The lowest line, the difference of the two trainings of one network, is predicted and measured at up to about 0.27 away from the data and near zero at the data."
fig, ax = plt.subplots(figsize=(7.4, 3.2))
ax.plot(angles, std_of(of_ntk[1]), ":", color="k", label="posterior with Θ")
for i, (name, (line, label)) in enumerate(lines.items()):
    style = {"color": plotting.COLOURS[i]}
    ax.plot(angles, line, ls=plotting.DASHES[i], **style, label=label)
    std, error = (a[i::4] for a in spread(ends[name]))
    style |= {"fmt": plotting.MARKERS[i], "ls": "none", "ms": 4}
    ax.errorbar(angles[i::4], std, error, **style, label=f"networks, {name}")
ax.set(xlabel="angle on the arc (rad)", ylabel="standard deviation")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
away = lines["all layers"][0] > 0.2  # not at the training points
means = {"all layers": at_the_end[0], "readout alone": posterior[0]}
for name, mean_line in means.items():
    line = lines[name][0]
    of_std = np.mean(spread(ends[name])[0][away] / line[away])
    z = (ends[name].mean(0) - np.asarray(mean_line)[:, 0])[away]
    z = z / line[away] * members**0.5
    print(f"{name}: std over prediction {of_std:.2f}, ", end="")
    print(f"mean off by {np.abs(z).max():.1f} standard errors at most")
    assert abs(of_std - 1) < 0.2
    assert np.abs(z).max() < 4.5
sums = lines["all layers"][0] ** 2 - lines["readout alone"][0] ** 2
assert np.abs(sums - delta_line**2).max() < 1e-6  # the variances add
of_delta = rms(spread(delta)[0]) / rms(delta_line)
off = rms(delta.mean(0) - delta_mean)
print(f"δ: std over prediction {of_delta:.2f}, mean off by {off:.1g} (rms)")
assert abs(of_delta - 1) < 0.3

# %% [markdown]
# The ensemble's spread is *larger* than the posterior's, by about three per cent here.
# The error bars of a hundred networks hide that. The difference $\delta$ of the two trainings, taken network by network, shows it.
# (It is some ten per cent larger than predicted. It is small, and the draw of the kernels at width 1024 adds to it.)
# So in this example the *spread* of the ensemble is near that of the posterior with $\Sigma$.
# It is far from that of the posterior with $\Theta$, whose mean the ensemble has.
# For practical purposes the first may be enough; but the ensemble is a sample from neither.
#
# ## Cross-entropy
#
# For another loss $\frac1N\sum_i \ell(f(x_i), y_i)$, equation (1) holds with $\partial\ell/\partial f$ in the place of $r$.
# With the cross-entropy it is no longer linear, and there is no closed form;
# there still is an equation in function space, for the $N$ training outputs alone: $\dot f(X) = \frac1N\Theta\,(y - \mathrm{softmax} f)$.
# `ntk.cross_entropy_flow` integrates it.
#
# One thing changes for good.
# On data that the model can fit, the squared loss reaches its minimum and training stops; the cross-entropy has no minimum, and logits grow for ever, like $\log t$.
# By (7) the distance between network and linearization was bounded because the residual dies out *exponentially*.
# Here $\partial\ell/\partial f$ stands in its place.
# It decays like $1/t$, and its integral diverges.
# (The damping in (7) weakens as well: its $\Theta_0$ comes with the factor $\partial^2\ell/\partial f^2$, which decays like $1/t$, too.)
# **Prediction:** the distance keeps growing, at a fixed width.
#
# **Measurement:** three networks of width 512, both losses, 300 steps; beside each its linearization, `ntk.linearize`, trained with the same steps.
# The distance is the rms over the 20 training points.
# Two classes need one output: logits $\pm f/\sqrt2$ have the tangent kernel $\Theta$ along the only direction in which they move, and the loss $\log(1 + e^{-\sqrt2\, y f})$.


# %%
def logistic(f, y):
    """The cross-entropy of the logits ±f/√2, summed over networks."""
    return jnp.mean(jnp.sum(jax.nn.softplus(-(2**0.5) * y * f), axis=1))


one, apply_fn, params = networks(512, 3, key=3)
own = tangent_kernels(one, params)
sizes = np.repeat([0.05, 0.2, 0.8], [20, 35, 245])  # of the steps
rates = optax.piecewise_constant_schedule(0.05, {20: 4.0, 55: 4.0})
at = [0, 5, 10, 20, 30, 40, 55, 80, 120, 200, 300]
t = np.concatenate([[0.0], np.cumsum(sizes)])[at]
classes = np.stack([y[:, 0] > 0, y[:, 0] < 0], axis=1).astype(float)


def by_flow(loss, kernel, f0):
    """Outputs at the training points [T, N] under gradient flow."""
    with jax.enable_x64(True):
        theta, f0 = (kernel[:N] + kernel[:N].T) / 2, np.asarray(f0, float)[:, None]
        if loss == "mse":
            f = ntk.gradient_flow(theta, np.asarray(y, float), t=t, f0=f0)
            return np.asarray(f)[..., 0]
        logits = np.concatenate([f0, -f0], axis=1) / 2**0.5
        logits = ntk.cross_entropy_flow(theta, classes, t=t, f0=logits)
        return 2**0.5 * np.asarray(logits)[..., 0]


f_lin = ntk.linearize((apply_fn, params))
found = {}
for name, loss in (("mse", "mse"), ("cross-entropy", logistic)):
    for model, function in (("network", apply_fn), ("linearized", f_lin)):
        run = train(
            function, params, optax.sgd(rates), at, loss=loss,
            record=lambda p, function=function: function(p, x),
        )  # fmt: skip
        found[name, model] = np.asarray(run.records, float).transpose(2, 0, 1)
    starts = found[name, "network"][:, 0]
    flows = [by_flow(name, k, f0) for k, f0 in zip(own, starts, strict=True)]
    found[name, "flow"] = np.stack(flows)


# %% alt="Rms distance between a network and its linearization over training time from 0.25 to 200, both axes logarithmic. With the squared loss it levels off near 0.003 and falls after t = 30, to 3e-5 at the end; with the cross-entropy it grows all the time, to about 0.1."
def margin(f):
    return np.mean(f * np.asarray(y)[:, 0], axis=-1)


fig, ax = plt.subplots(figsize=(5.4, 3.2))
distance, stepping = {}, {}
for i, name in enumerate(("mse", "cross-entropy")):
    trained, linear, flow = (found[name, k] for k in ("network", "linearized", "flow"))
    distance[name], stepping[name] = rms(trained - linear), rms(linear - flow)
    mean, error = plotting.mean_and_error(distance[name])
    ax.errorbar(t[1:], mean[1:], error[1:], fmt=plotting.MARKERS[i], ms=4, lw=1,
                ls=plotting.DASHES[i], label=name)  # fmt: skip
ax.set(xscale="log", yscale="log", ylim=(1e-6, 1), xlabel="training time t")
ax.set_ylabel("rms, network − linearization")
ax.legend()
plt.show()

growth = {}
for name in distance:
    early, late = distance[name].mean(0)[[6, -1]]
    growth[name] = late / early
    margins = [margin(found[name, k])[:, -1].mean() for k in ("network", "flow")]
    print(f"{name}: mean margin y f at the end {margins[0]:.2f}, flow {margins[1]:.2f}")
    print(f"   distance at t = {t[6]:.0f}: {early:.1g}, at t = {t[-1]:.0f}: {late:.1g}")
    print(f"   linearized networks and flow differ by {stepping[name].max():.1g} at most")
    assert stepping[name].max() < 0.03
assert growth["mse"] < 1 < 3 < growth["cross-entropy"]

# %% [markdown]
# The margins of network and kernel hardly differ: with the squared loss they agree to two decimals, and with the cross-entropy to two or three per cent.
# The distances tell more.
# With the squared loss the distance falls again: what the network did differently on the way is corrected at the training points before it stops.
# (At test points it stays: that is why the rms over all 40 images stayed, in the section on the distance.)
# With the cross-entropy training never stops, and the distance grows as long as we looked, to $t = 200$.
# If it goes on like that, as the integral in (7) suggests, *no* fixed width is enough for all times.
# The theorems leave room for that: for all times that of Lee et al. 2019 needs the squared loss; for other losses that of Jacot et al. 2018 holds up to a fixed time.
#
# ## Claims

# %%
for what, name in (
    ("slope over width, distance from the own linearisation, GELU", "own, GELU"),
    ("slope over width, distance from the own linearisation, ReLU", "own, ReLU"),
    ("the same for GELU with readout weights of one sign", "own, one sign"),
    ("slope over width, distance from the infinite-width prediction", "infinite-width kernel"),
):
    value, error = slopes[name]
    claim("L1", what=what, measured=value, uncertainty=error, seeds=COUNT)

# %%
for what, (value, error) in (
    ("distance of the parameters from their start at n = 4096 over its prediction", (path, path_error)),
    ("slope over width of the parameters' distance over their length", nearness),
    ("share of the training loss left at t = 77, n = 4096", plotting.mean_and_error(left_over[:, -1])),
):
    claim("J6", what=what, measured=value, uncertainty=error, seeds=COUNT)

# %%
values, errors = tested[widest, 64.0]
for what, value, error in zip(
    (
        "mean of an ensemble, n = 512, t = 64: χ² for each image",
        "variance of an ensemble, n = 512, t = 64, over its prediction",
        "its correlations: squared deviation over that of sampling",
    ),
    values,
    errors,
    strict=True,
):
    claim("L2", what=what, measured=value, uncertainty=error, seeds=groups)
(_, narrow, _), errors = tested[32, 64.0]
what = "variance of an ensemble, n = 32, t = 64, over its prediction"
claim("L2", what=what, measured=narrow, uncertainty=errors[1], seeds=groups)

# %%
for what, (value, error) in {
    "training loss at t = 77, n = 4096, over formula (2) with the network's own kernel": loss_ratio,
    "length of the parameters' path at n = 4096 over its prediction": path_ratio,
}.items():
    claim("J6", what=what, measured=value, uncertainty=error, seeds=COUNT)

# %% [markdown]
# ## What to take away
#
# - With a constant kernel training is linear: each mode of $\Theta(X, X)$ decays as $e^{-\lambda_i t/N}$ (flow) or $(1 - \eta\lambda_i/N)^s$ (steps).
#   Test points follow through $\Theta(x, X)$, starting from their own $f_0(x)$.
# - $\eta_{\max} = 2(1+\mu)N/\lambda_{\max}$ is set by the largest mode. Here that is one in which there is next to nothing to learn.
# - What a network learns early is what its kernel finds easy. A target is learned fast if it lies there.
# - A network follows its own linearization to $1/n$ (smooth), $n^{-3/4}$ (ReLU), $n^{-1/2}$ (readout weights of one sign; the rate of the proven bound).
#   From the infinite-width kernel it is $n^{-1/2}$ away, through the draw at the start.
# - The parameters walk as far at every width; relative to their start it is $n^{-1/2}$ (one hidden layer).
#   That they stay there for all times is proven for $\lambda_{\min}(\Theta_\infty) > 0$ and a width that is large for this data.
# - An ensemble has mean $G_t y$ and covariance (9): $\Theta$ moves, $\Sigma$ starts. It is a posterior if the readout alone is trained, to the end; with all layers trained it is none in general.
#
# ## Where it breaks
#
# - **Rates above the limit:** if it is not far above, the network can survive by leaving the kernel regime (chapter 11).
# - **Cross-entropy, long:** the logits never rest, and the distance grows with time.
# - **Large residuals:** the distance grows faster than linearly in $r_0$:
#   by (7) like its square for smooth $\phi$ and small $r_0$ (higher powers follow), with kinks like a power between $3/2$ and $2$.
#   Scaling the output changes that (chapter 05); so do targets far from $f_0$.
# - **Small eigenvalues:** at $t = \infty$ one divides by them; in float32, or with nearly equal inputs, use a ridge or stop early (chapters 12 and 13).
# - **Mini-batches:** the mean follows (2), the spread does not (chapter 08).
# - **20 images.** With more data the slowest modes take longer, and in that time a network of the same width can drift further.
#
# ## Exercises
#
# `exercises/04_kernel_dynamics.ipynb`, 85 minutes and an open task:
# gradient flow for a singular kernel (04.1), momentum (04.2), predict, then measure, when the loss is down to a tenth (04.3),
# find the mistake in a prediction (04.4), why the ensemble is no posterior (04.5), shuffled labels (04.6).
#
# ## References
#
# - J. Lee, L. Xiao, S. Schoenholz, Y. Bahri, R. Novak, J. Sohl-Dickstein, J. Pennington, *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*, 2019, arXiv:1902.06720.
# - A. Jacot, F. Gabriel, C. Hongler, *Neural Tangent Kernel: Convergence and Generalization in Neural Networks*, 2018, arXiv:1806.07572.
# - S. Du, X. Zhai, B. Póczos, A. Singh, *Gradient Descent Provably Optimizes Over-parameterized Neural Networks*, 2019, arXiv:1810.02054 (the bootstrap).
# - B. Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964 (heavy ball).
# - A. Lewkowycz, Y. Bahri, E. Dyer, J. Sohl-Dickstein, G. Gur-Ari, *The large learning rate phase of deep learning: the catapult mechanism*, 2020, arXiv:2003.02218.
# - C. Rasmussen, C. Williams, *Gaussian Processes for Machine Learning*, 2006, §2.2 (the posterior).
