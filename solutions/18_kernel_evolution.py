# %% [markdown]
# # Exercises 18: how the kernel moves
#
# They go with the chapter `notebooks/18_kernel_evolution.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("18.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from scipy.stats import spearmanr

import ntklib as ntk
from course import check, hint, predict
from course.film import film
from ntklib import plotting

plotting.use_style()

# %% [markdown]
# ## 18.1 `rescaling`
#
# 15 minutes · difficulty 1 of 5 · rests on “Scale and shape”
#
# The chapter splits a motion into a change of the norm and a change of the direction. Here is another split.
# Which multiple $c\,\Theta_0$ of the kernel at the start comes nearest to $\Theta_t$, in the Frobenius norm?
# And which share of $\lVert \Theta_t - \Theta_0 \rVert^2$ is the change from $\Theta_0$ to this $c\,\Theta_0$? What is left is orthogonal to $\Theta_0$.
# The kernels have the shape [N, N] or [N, N, K, K].


# %% task="18.1"
def rescaling(theta0, theta):
    """(c, share): the best multiple, and the share of the squared motion that it accounts for."""
    ### BEGIN SOLUTION
    c = jnp.sum(theta * theta0) / jnp.sum(theta0**2)
    # Pythagoras: Θ_t − Θ_0 = (c − 1) Θ_0 + (Θ_t − c Θ_0), and the second part is orthogonal to Θ_0.
    return c, (c - 1) ** 2 * jnp.sum(theta0**2) / jnp.sum((theta - theta0) ** 2)
    ### END SOLUTION


# %% check="18.1" points=1
check("18.1", rescaling)

# %% [markdown]
# ## 18.2 No hill
#
# 10 minutes · difficulty 2 of 5 · rests on “Children and their barrier”
#
# Two children of one network have the test errors 0.15 and 0.21. Along the straight line between them the error rises
# evenly from one to the other. How large is their error barrier, by the definition of the chapter? Somebody reads it as a hill between
# two basins. What would you measure in addition? And why is the barrier of two children that are trained at a constant, large rate hardly ever zero?

# %% written="18.2" points=2
answer = r"""
### BEGIN SOLUTION
The largest error on the line is that of the worse child, 0.21, and the mean of the ends is
0.18, so the barrier is 0.03: half of the difference of the ends. There is no hill, since
the error only rises. To see a hill, measure the error above the chord, the straight
line between the two end errors (or above the larger one): here it is zero everywhere.
With a constant large rate the parameters keep jumping, so each child's error is a draw
from a distribution with some width, and two of them differ. Half of that difference
stays in the barrier however long they train, even in one basin.
### END SOLUTION
"""
check("18.2", answer)

# %% [markdown]
# ## 18.3 Spot the error
#
# 15 minutes · difficulty 3 of 5 · rests on “Scale and shape”
#
# Somebody asks how much a kernel has slowed down:
#
# 1. The kernel distance is one minus a cosine, so a change of scale alone is no distance.
# 2. From the start to 0.1 epochs it is 0.004, and from 8 to 10 epochs it is 0.06.
# 3. For small motions along a smooth path the distance grows in proportion to the time between the two kernels.
# 4. So the distance divided by this time is the same for all small lags: 0.04 per epoch at the start, 0.03 later.
# 5. The kernel has slowed down by a quarter.
#
# In which line, 1 to 5, is the first error? Then do it right: at each of two times a distance is known for some lag, and near that time the distance grows like
# lag$^h$ with a known exponent $h$ (2 for a smooth path, less if it is shaken).
# Return both velocities $S/\Delta$ for the common lag `lag`, the early one first.

# %% task="18.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 3
### END SOLUTION


def velocities(distances, lags, exponents, lag):
    """Velocities at the common lag, two numbers; distances, lags and exponents are pairs (early, late)."""
    ### BEGIN SOLUTION
    distances, lags, exponents = jnp.asarray(distances), jnp.asarray(lags), jnp.asarray(exponents)
    return distances * (lag / lags) ** exponents / lag
    ### END SOLUTION


# %% check="18.3" points=2
check("18.3", (wrong_line, velocities))

# %% [markdown]
# ## 18.4 A lazy network: predict, then measure
#
# 20 minutes · difficulty 3 of 5 · rests on “Scale and shape”
#
# Chapter 05: multiply the outputs of a network (minus those at the start) by $\alpha$, and divide the rate by $\alpha^2$. Its outputs then move as before, and
# its parameters move $1/\alpha$ as far. Train for a fixed number of steps. The activation is smooth, GELU.
# The kernel distance from the start should go like $\alpha^{p}$ for large $\alpha$, and the change of scale $|s - 1|$ like $\alpha^{q}$. Which exponents do you expect?
# (The kernel of the scaled network is $\alpha^2$ times that of the network. Compare it with its own start.)

# %% task="18.4"
# p, the exponent of the kernel distance, and q, that of |s − 1|
exponent_of_distance = ...
exponent_of_scale = ...
### BEGIN SOLUTION
exponent_of_distance = -2.0  # the kernel moves like the parameters, 1/α, and S is quadratic in the motion
exponent_of_scale = -1.0  # |s − 1| is linear in the motion
### END SOLUTION

# %% check="18.4" points=2
check("18.4", (exponent_of_distance, exponent_of_scale))

# %% [markdown]
# The measurement waits for your prediction. What you should see: two straight lines on logarithmic axes for large $\alpha$.
# The third curve is the kernel distance of the same network with ReLU. It falls more slowly: can you say why? (“Kinks” in the chapter.)

# %% alt="Kernel distance from the start and change of scale over α, from 1 to 32, on logarithmic axes. With GELU both fall along straight lines for large α: the distance with the slope −2, the change of scale with the slope −1. The distance with ReLU falls more slowly for large α, and lies an order of magnitude higher there."
ALPHAS = np.array([1, 2, 4, 8, 16, 32])
ACTIVATIONS = {"GELU": ntk.Gelu(), "ReLU": ntk.Relu()}


def motion(alpha, name):
    """(S, s) after 200 steps of gradient descent on a small problem."""
    net = ntk.mlp([3, 32, 32, 1], activation=ACTIVATIONS[name], w_std=2**0.5, rngs=nnx.Rngs(0))
    apply_fn, start = ntk.functional(net)
    x = jax.random.normal(jax.random.key(1), (40, 3))
    y = jnp.sin(2 * x[:, :1])

    def f(w, x):
        return alpha * (apply_fn(w, x) - apply_fn(start, x))

    def step(i, w):
        grads = jax.grad(lambda w: ntk.training.mse(f(w, x), y))(w)
        return jax.tree.map(lambda p, g: p - 0.1 / alpha**2 * g, w, grads)

    before = ntk.empirical_ntk((f, start), x)
    after = ntk.empirical_ntk((f, jax.lax.fori_loop(0, 200, step, start)), x)
    return jnp.stack([ntk.kernel_distance(before, after), jnp.linalg.norm(after) / jnp.linalg.norm(before)])


if predict("18.4", exponent_of_distance, exponent_of_scale) is not None:
    of_all = jax.jit(
        lambda name: jax.lax.map(lambda alpha: motion(alpha, name), jnp.asarray(ALPHAS, float)), static_argnums=0
    )
    (S, s), (S_relu, _) = (np.asarray(of_all(name)).T for name in ACTIVATIONS)
    fig, ax = plt.subplots()
    ax.loglog(ALPHAS, S, marker="o", label="kernel distance S, GELU")
    ax.loglog(ALPHAS, abs(s - 1), marker="s", label="|s − 1|, GELU")
    ax.loglog(ALPHAS, S_relu, marker="^", label="kernel distance S, ReLU")
    ax.set(xlabel="α", ylabel="motion since the start")
    ax.legend()

# %% [markdown]
# ## 18.5 `barrier_on_a_quadratic`
#
# 30 minutes · difficulty 4 of 5 · rests on “Children and their barrier”
#
# Near a point $m$ a loss is $R(w) = \frac12 (w - m)^\top H (w - m)$, with a symmetric matrix $H$ that may have negative eigenvalues.
# Give the barrier between $w_1$ and $w_2$ exactly, with the maximum over the whole line and not over a grid.
# (For which $H$ is the barrier never larger than half of the difference between the losses at the ends?)


# %% task="18.5"
def barrier_on_a_quadratic(H, m, w1, w2):
    """max over 0 ≤ a ≤ 1 of R((1 − a) w1 + a w2), minus the mean of R(w1) and R(w2)."""
    ### BEGIN SOLUTION
    u, d = w1 - m, w2 - w1
    start, slope, bend = 0.5 * u @ H @ u, u @ H @ d, d @ H @ d  # R(a) = start + slope a + bend a²/2

    def risk(a):
        return start + slope * a + 0.5 * bend * a**2

    # Only a parabola that is open downward has a maximum inside. If bend ≥ 0, as for a positive semidefinite H, an end
    # is the maximum, and the barrier is half of the difference of the ends.
    inside = jnp.where(bend < 0, jnp.clip(-slope / jnp.where(bend < 0, bend, -1.0), 0.0, 1.0), 0.0)
    top = jnp.maximum(jnp.maximum(risk(0.0), risk(1.0)), risk(inside))
    return top - (risk(0.0) + risk(1.0)) / 2
    ### END SOLUTION


# %% check="18.5" points=3
check("18.5", barrier_on_a_quadratic)

# %% [markdown]
# ## 18.6 Two clocks
#
# 20 minutes · difficulty 4 of 5 · rests on “Does the advantage go with them?”
#
# How wrong can a correlation over time be? Make two arrays `a` and `b` of the shape [4 onsets, 6 networks] such that
#
# - over all 24 values their rank correlation is above 0.8,
# - and at *each* onset, among the six networks, it is exactly −1.

# %% task="18.6"
a = ...
b = ...
### BEGIN SOLUTION
time, networks = np.arange(4.0)[:, None], np.arange(6.0)[None, :]
a = -10 * time + networks  # both fall with the onset, by more than networks differ, ...
b = -10 * time - networks  # ... and the networks stand in opposite orders
### END SOLUTION

# %% check="18.6" points=2
check("18.6", (a, b))

# %% alt="Two quantities over each other, 24 points in four groups along a rising diagonal. Within each group the points fall from left to right."
if a is not ...:
    fig, ax = plt.subplots()
    for onset, (one, other) in enumerate(zip(np.asarray(a), np.asarray(b), strict=True)):
        ax.plot(one, other, plotting.MARKERS[onset], color=plotting.COLOURS[onset], label=f"onset {onset}")
    ax.set(xlabel="a", ylabel="b")
    ax.legend()
    print(f"over all: {spearmanr(np.ravel(a), np.ravel(b)).statistic:.2f}")

# %% [markdown]
# ## 18.7 Go further: labels without a meaning
#
# 45 minutes · difficulty 4 of 5 · rests on “What the kernel learns”
#
# An open task. The first film is of a small network that learns 512 digits. The second is of the same network with the labels *shuffled* among the images: about the test images they say nothing.
# Predict first: does the kernel's norm take the same way? Do images of one class become neighbors, in the heat map and in the plane of the eigenvectors?
# Then change one thing: another activation, a smaller rate, the outputs scaled up, only half of the labels shuffled, more steps. What of the kernel's motion comes from the labels, what from the images, what from the rate?

# %%
jax.config.update("jax_enable_x64", True)  # as in the chapter
digits = ntk.load("mnist5k", n_train=512, n_test=400, pool=4)
shown, seen = (jnp.asarray(part, float) for part in (digits.x_train, digits.x_test))
few = np.concatenate([np.flatnonzero(digits.y_test == label)[:4] for label in range(10)])
AT = (0, 4, 8, 16, 32, 64, 128)


def film_of(labels, rate=0.1, **changes):
    """The film of a small network that learns these labels, in epochs of 8 steps."""
    how = {"strides": 2, "w_std": 2**0.5, "parameterization": ntk.STANDARD, "rngs": nnx.Rngs(0)}
    fn, params = ntk.functional(ntk.cnn((7, 7, 1), [12, 12], 10, **(how | changes)))
    params = jax.tree.map(lambda part: part.astype(float), params)

    def record(p):
        right = fn(p, seen).argmax(1) == digits.y_test
        return ntk.empirical_ntk((fn, p), seen[few]), right.mean()

    history = ntk.train(
        (fn, params), shown, labels, loss="cross_entropy", optimizer=optax.sgd(rate, momentum=0.9),
        steps=AT[-1], batch_size=64, key=jax.random.key(0), record=record, record_at=AT, progress=False,
    )  # fmt: skip
    kernels, accuracy = history.records
    return film(np.asarray(kernels), digits.y_test[few], np.array(AT) / 8, np.asarray(accuracy))


film_of(digits.y_train)

# %%
film_of(np.random.default_rng(0).permutation(digits.y_train))

# %% written="18.7" points=1
answer = r"""
### BEGIN SOLUTION
With true labels the norm falls to a quarter in the first two epochs and ends at 2.6 times its start; with
shuffled ones it falls to 2 percent and ends at a tenth. The steps are as large in both, so the fall at first is
not the work of the labels. What the labels decide is whether the kernel grows again: it does where the loss
goes down by learning, and shuffled labels of 512 images are not learned in 16 epochs. Within a class the cosines
rise from 0.27 to 0.33 with true labels. With shuffled ones they fall to one half of that, and move to and fro.
One network, one order of batches and four images a class cannot tell a law from an accident: repeat with
seeds, and compare at equal norms, since a kernel that is nearly dead (few rectifiers are on) has few
directions. With GELU or a smaller rate it should die less.
### END SOLUTION
"""
check("18.7", answer)
