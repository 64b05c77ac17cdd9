# %% [markdown]
# # Exercises 10: centering and ensembling
#
# They go with the chapter `notebooks/10_centering_and_ensembling.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("10.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import check, hint, predict
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()

N, M, K = 60, 100, 10
data = ntk.load("mnist5k", n_train=N, n_test=M, pool=4).flat()
x, x_test = (jnp.asarray(a, jnp.float64) for a in (data.x_train, data.x_test))
y, y_test = (np.asarray(ntk.one_hot_centered(a, K), float) for a in (data.y_train, data.y_test))


def network(width):
    """The function that builds a network 49-width-10."""
    return lambda rngs: ntk.mlp([49, width, K], w_std=2**0.5, b_std=0.1, rngs=rngs)


kernels = network(1)(nnx.Rngs(0)).kernel(jnp.concatenate([x, x_test]))
theta, theta_test = kernels.ntk[:N, :N], kernels.ntk[N:, :N]
nngp = kernels.nngp  # [N + M, N + M], training inputs first
rate = 0.5 * N / float(jnp.linalg.eigvalsh(theta)[-1])

# %% [markdown]
# ## 10.1 `steps_with_a_share`
#
# 20 minutes · difficulty 2 of 5 · rests on “Why centering trains faster”
#
# Subtract only the share $\beta$ of the start: train $f - \beta f_0$, with $\beta$ from 0 (plain) to 1 (centered).
# After how many steps of gradient descent is the expected loss of infinitely wide networks at or below `target`?
# The loss is that of the course, $\frac{1}{2N}\sum_i \lVert \cdot \rVert^2$ over $K$ outputs. Return the smallest whole number of steps; it lies below 5,000.


# %% task="10.1"
def steps_with_a_share(theta, nngp, y, beta, learning_rate, target):
    """Steps to an expected loss of `target`; theta and nngp [N, N] at the training inputs, y [N, K]."""
    ### BEGIN SOLUTION
    n, k = y.shape
    lam, modes = jnp.linalg.eigh(theta)
    start = k * jnp.einsum("ai,ab,bi->i", modes, nngp, modes)
    energy = ((modes.T @ y) ** 2).sum(1) + (1 - beta) ** 2 * start
    steps = jnp.arange(5000)
    left = jnp.abs(1 - learning_rate * lam / n)[None, :] ** (2 * steps[:, None])
    return jnp.argmax(left @ energy / (2 * n) <= target)
    ### END SOLUTION


# %% check="10.1" points=2
check("10.1", steps_with_a_share)

# %% [markdown]
# ## 10.2 Twins: predict, then measure
#
# 15 minutes · difficulty 3 of 5 · rests on “What the infinitely wide network says”
#
# A network and its **twin** have the same first layer. The readout of the twin, weights and bias, has the opposite sign.
# Both are trained plainly, each by itself, on the same targets. Then their outputs are averaged.
# At infinite width: which share of the squared distance $D^2$ of *one* plain network is left for the mean of two independent networks?
# And which for the mean of two twins?

# %% task="10.2"
independent = ...  # share of D² left, mean of two independent networks
twins = ...  # share of D² left, mean of two twins
### BEGIN SOLUTION
independent = 0.5  # the variance of a mean of two
twins = 0.0  # f_0 enters linearly and with both signs, and the kernel is the same: the sign cancels in aaᵀ
### END SOLUTION

# %% check="10.2" points=2
check("10.2", (independent, twins))

# %% [markdown]
# The measurement waits for your prediction. Networks are not infinitely wide: see how far off your second number is at width 128.


# %% alt="Squared distance to the kernel over that of one plain network, on a logarithmic axis, for networks of width 128 with error bars. The mean of two independent networks lies near one half, the mean of two twins near 0.03."
def with_twin(width):
    """The function that builds a network with the readout turned round."""

    def build(rngs):
        apply_fn, params = ntk.functional(network(width)(rngs))
        layers = params["layers"]
        return apply_fn, params | {"layers": layers | {2: jax.tree.map(jnp.negative, layers[2])}}

    return build


if predict("10.2", independent, twins) is not None:
    steps, keys = 200, jax.random.split(jax.random.key(0), 16)
    how = {"ntk_test_train": theta_test, "learning_rate": rate, "steps": steps}
    mean = ntk.gradient_descent(theta, y, **how)[1]
    how = {"members": 16, "optimizer": optax.sgd(rate), "steps": steps, "key": keys, "progress": False}
    f = ntk.ensemble(network(128), x, y, **how).outputs(x_test)
    f_twin = ntk.ensemble(with_twin(128), x, y, **how).outputs(x_test)

    def distance(f):
        return np.asarray(((f - mean) ** 2).sum(-1).mean(-1))

    single = distance(f).mean()
    kinds = {"two independent": (f[::2] + f[1::2]) / 2, "two twins": (f + f_twin) / 2}
    fig, ax = plt.subplots(figsize=(5, 3))
    for i, (name, values) in enumerate(kinds.items()):
        value, error = plotting.mean_and_error(distance(values) / single)
        ax.errorbar(i, value, yerr=error, fmt=plotting.MARKERS[i], capsize=3, color=plotting.COLOURS[i])
        print(f"{name}: {value:.2g} ± {error:.1g} of the squared distance of one plain network")
    ax.set(yscale="log", ylabel="D² over that of one network", ylim=(0.02, 1), xlim=(-0.5, 1.5))
    ax.set_xticks([0, 1], list(kinds))

# %% [markdown]
# ## 10.3 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “What is left at finite width”
#
# Somebody wants to show that wide plain networks need no centering.
#
# 1. Before training, the outputs of a network with $n$ units have a covariance that does not depend on $n$.
# 2. After training, a plain network of large width has $D^2 = V$, what is left of that covariance.
# 3. The mean of $E$ independent plain networks with $n$ units each has $D^2 = V/E$.
# 4. This mean is a network with $En$ units. So a plain network with $En$ units has $D^2 = V/E$.
# 5. Hence $D^2$ falls like 1/width, and a wide enough plain network is as near to the kernel as one likes.
#
# In which line, 1 to 5, is the first error?
# Then compare one wide network with a mean of narrow ones that has the same number of units.
# The wide one has $En$ units, and the mean has $E$ members of $n$ units. Return two ratios, $D^2$ of the wide network over $D^2$ of the mean:
# for plain networks, where only $V$ counts, and for centered ones, where $v/n$ and $b^2/n^2$ count for a single network of width $n$.

# %% task="10.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 4
### END SOLUTION


def one_over_many(v, b2, n, members):
    """(plain, centered): D² of one network with members·n units over that of the mean of `members` with n."""
    ### BEGIN SOLUTION
    wide = v / (members * n) + b2 / (members * n) ** 2
    many = v / (members * n) + b2 / n**2  # no mean reduces the bias
    return members, wide / many
    ### END SOLUTION


# %% check="10.3" points=3
check("10.3", (wrong_line, one_over_many))

# %% [markdown]
# ## 10.4 A hundred narrow ones
#
# 10 minutes · difficulty 3 of 5 · rests on “Members, bias and variance”
#
# You can train 100 centered networks with 16 units each, or one centered network with 1,600 units, for about the same price.
# Which one is nearer to the kernel, to the leading orders in the width? Which part of the distance is the same for both, and why?
# By which factor do their *squared biases* differ?

# %% written="10.4" points=2
answer = r"""
### BEGIN SOLUTION
The wide one. The variance is the same: v/(100 · 16) for the mean of independent members, and
v/1600 for the wide network, since in both cases 1600 independent units make the kernel.
The bias is that of one member, b/16, however many members there are: a mean does not
change an expectation. The wide network has b/1600, so the squared biases differ by the
factor 100² = 10,000. (What the chapter measures falls more slowly than n^-2: then it is less.)
### END SOLUTION
"""
check("10.4", answer)

# %% [markdown]
# ## 10.5 `errors_of_a_mean`
#
# 25 minutes · difficulty 4 of 5 · rests on “What the infinitely wide network says”
#
# Chapter 12 stops training early. When should an *ensemble of plain networks* stop? Its members forget their starts as they learn.
# Return the expected squared error at the test inputs, $\frac1M \sum_x \lVert f(x) - y(x) \rVert^2$ with the sum over outputs, of the mean of
# `members` infinitely wide plain networks, after each number of steps in `steps`. Gradient descent, no momentum.


# %% task="10.5"
def errors_of_a_mean(ntk_all, nngp_all, y, y_test, learning_rate, steps, members):
    """Expected squared errors [T]; kernels [N + M, N + M], training inputs first; y [N, K], y_test [M, K]."""
    ### BEGIN SOLUTION
    n, k = y.shape
    lam, modes = jnp.linalg.eigh(ntk_all[:n, :n])
    found = []
    for s in steps:
        share = (1 - (1 - learning_rate * lam / n) ** s) / lam
        a = ntk_all[n:, :n] @ (modes * share) @ modes.T
        rest = jnp.concatenate([-a, jnp.eye(len(y_test))], axis=1)
        variance = k * jnp.trace(rest @ nngp_all @ rest.T) / len(y_test)
        found.append(jnp.mean(jnp.sum((a @ y - y_test) ** 2, axis=1)) + variance / members)
    return jnp.stack(found)
    ### END SOLUTION


# %% check="10.5" points=3
check("10.5", errors_of_a_mean)

# %% [markdown]
# Does the best number of steps depend on the number of members? Think before you look.

# %% alt="Expected squared error on test digits over the number of steps, from 1 to 3,000, for the mean of 1, 4, 16 and infinitely many networks. For one network the error falls all the way from about 12; for more members the curves are lower, and that of infinitely many is the lowest and flattens first."
STEPS = [1, 3, 10, 30, 100, 300, 1000, 3000]
try:
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    for i, members in enumerate((1, 4, 16, 1e9)):
        errors = np.asarray(errors_of_a_mean(kernels.ntk, nngp, y, y_test, rate, STEPS, members))
        label = f"E = {members}" if members < 1e9 else "E = ∞, or centered"
        style = {"color": plotting.COLOURS[i], "ls": plotting.DASHES[i], "marker": plotting.MARKERS[i]}
        ax.plot(STEPS, errors, label=label, **style)
    ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="expected squared error, test digits")
    ax.legend()
except NotImplementedError:
    plt.close(fig)
    print("the figure comes when errors_of_a_mean is written")

# %% [markdown]
# ## 10.6 `exact_over_first_order`
#
# 25 minutes · difficulty 4 of 5 · rests on “Draw or drift?”
#
# At 343 steps $v/n$ was far too large. Is the first-order theory always too large? Take one training input, one output, target $y = 1$, a start at zero,
# and a kernel that is a number. It is drawn as $\hat\theta = \theta\, \chi^2_n/n$, where $\chi^2_n$ is the sum of the squares of $n$ standard normal numbers, and then stands still.
# Gradient flow for the time $t$ gives $f = 1 - e^{-\hat\theta t}$. Return the exact $\mathbb E(f - m)^2$ over its first-order value $v/n$, as a function of $n$ and $a = \theta t$.
# Here $m = 1 - e^{-a}$.


# %% task="10.6"
def exact_over_first_order(n, a):
    """E(f − m)² over v/n, for a kernel θχ²/n and a = θt."""
    ### BEGIN SOLUTION
    # E e^(−cχ²) = (1 + 2c)^(−n/2), with c = a/n and c = 2a/n. First order: ∂f/∂θ̂ = t e^(−a), var θ̂ = 2θ²/n.
    once = jnp.exp(-n / 2 * jnp.log1p(2 * a / n))
    twice = jnp.exp(-n / 2 * jnp.log1p(4 * a / n))
    exact = twice - 2 * jnp.exp(-a) * once + jnp.exp(-2 * a)
    return exact / (2 * a**2 * jnp.exp(-2 * a) / n)
    ### END SOLUTION


# %% check="10.6" points=3
check("10.6", exact_over_first_order)

# %% [markdown]
# The figure is what you should see: with $a$ above 8/7, about 1.1, one mode alone errs on the other side.

# %% alt="Exact squared distance over its first-order value against a = θt from 0.1 to 8, for 16, 64 and 1024 units, on a logarithmic axis. All curves start near 1. They dip slightly below 1 and then rise, the one for 16 units to more than 100 at a = 8, the one for 1024 units to 1.2."
a = np.geomspace(0.1, 8, 60)
try:
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    for i, n in enumerate((16, 64, 1024)):
        values = [float(exact_over_first_order(n, one)) for one in a]
        ax.plot(a, values, label=f"n = {n}", color=plotting.COLOURS[i], ls=plotting.DASHES[i])
    ax.axhline(1, color="0.5", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="a = θt", ylabel="exact over first order")
    ax.legend()
except NotImplementedError:
    plt.close(fig)
    print("the figure comes when exact_over_first_order is written")

# %% [markdown]
# ## 10.7 Go further: one wide network or many narrow ones
#
# 45 minutes · difficulty 4 of 5 · rests on “Members, bias and variance”
#
# An open task. You may spend 512 hidden units, on one network or on an ensemble whose outputs are averaged.
# The cell trains both, and two ways between, for 200 steps with the rate from above. Predict first: which has the smallest squared error, and why is it not at an end?
# Then change it: beat the best error of the table with 512 units in all. You may center, choose the rate and the number of steps, or scale the outputs.

# %%
GROUPS = 4
for members, width in ((1, 512), (4, 128), (16, 32), (64, 8)):
    trained = ntk.ensemble(
        network(width), x, y, members=GROUPS * members, optimizer=optax.sgd(rate), steps=200,
        key=jax.random.key(members), progress=False,
    )  # fmt: skip
    f = np.asarray(trained.outputs(x_test)).reshape(GROUPS, members, M, K).mean(1)
    squared, right = ((f - y_test) ** 2).sum(-1).mean(1), (f.argmax(-1) == y_test.argmax(-1)).mean(1)
    said = " ± ".join(f"{float(part):.2g}" for part in plotting.mean_and_error(squared))
    accuracy = " ± ".join(f"{float(part):.2g}" for part in plotting.mean_and_error(right))
    print(f"{members:2} of width {width:3}: squared error {said}, accuracy {accuracy}")

# %% written="10.7" points=1
answer = r"""
### BEGIN SOLUTION
One network of width 512 is the worst. Its error is nearly all the variance of its start, whose outputs
are of order one at any width, and a mean over M members divides it by M. From 16 to 64 members the error rises:
what is left then is the bias, which a mean over members does not touch. It falls like 1/n²
and is large at 8 units. So the best M is where v/M and the squared bias are alike. Centering takes
the variance of the start away at once, and then the wide network is no longer behind: with it,
or with outputs scaled down, the best way to spend the units moves towards few wide networks.
Ranks hold for these 60 images and this stopping time: the variance of the start that is
left depends on both. One table with four groups cannot rank neighbors whose errors overlap.
### END SOLUTION
"""
check("10.7", answer)
