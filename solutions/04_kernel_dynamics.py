# %% [markdown]
# # 04 · Training in closed form: exercises
#
# They go with `notebooks/04_kernel_dynamics.ipynb`; none needs the answer to another. `check(...)` under a task says what is wrong, if anything, and
# never shows the answer. `hint("04.1")` gives the idea, `hint("04.1", 2)` the formula, `hint("04.1", 3)` almost the code.
#
# The loss is $\mathcal L = \frac1{2N}\sum_i \|f(x_i) - y_i\|^2$ everywhere.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import check, hint
from ntklib import plotting

plotting.use_style()

data = ntk.load("mnist5k", n_train=40, n_test=10).flat()
x, x_new = jnp.asarray(data.x_train), jnp.asarray(data.x_test)
y = jnp.where(jnp.asarray(data.y_train) % 2 == 0, 1.0, -1.0)[:, None]  # even or odd
N = len(x)


def network(width, key):
    """784 → n → 1, NTK parameterization."""
    return ntk.mlp(
        [784, width, 1],
        activation=ntk.Gelu(),
        w_std=2**0.5,
        b_std=0.1,
        rngs=nnx.Rngs(key),
    )


# %% [markdown]
# ## 04.1 `flow`
#
# 20 minutes · difficulty 3 of 5 · rests on “At test points: integrate what the training points do”
#
# Gradient flow with a constant kernel, by one eigendecomposition of $\Theta$ (not with `ntk.gradient_flow`, which is this function):
#
# $$
# f_t(X) = y + e^{-\Theta t/N}(f_0 - y), \qquad
# f_t(x) = f_0(x) + \Theta(x, X)\, \Theta^{-1}\big(1 - e^{-\Theta t/N}\big)(y - f_0(X)).
# $$
#
# It has to work for a **singular** $\Theta$ as well, where $\Theta^{-1}$ does not exist: what is the limit of $(1 - e^{-\lambda t/N})/\lambda$ for $\lambda \to 0$? Rounding may turn a zero eigenvalue into $-10^{-7}$; the check expects that this does no harm.


# %% task="04.1"
def flow(theta, theta_test, y, f0, f0_test, t):
    """(f_t(X) [N, K], f_t(x) [M, K]) at one time t ≥ 0.

    theta: Θ(X, X) [N, N]; theta_test: Θ(x, X) [M, N]; y, f0: [N, K]; f0_test: [M, K].
    """
    ### BEGIN SOLUTION
    n = len(theta)
    eigenvalues, modes = jnp.linalg.eigh(theta)
    zero = eigenvalues <= 1e-6 * eigenvalues[-1]
    safe = jnp.where(zero, 1.0, eigenvalues)
    learned = jnp.where(zero, 0.0, -jnp.expm1(-safe * t / n))
    over_lambda = jnp.where(zero, t / n, learned / safe)
    wanted = modes.T @ (y - f0)
    train = f0 + modes @ (learned[:, None] * wanted)
    test = f0_test + theta_test @ (modes @ (over_lambda[:, None] * wanted))
    return train, test
    ### END SOLUTION


# %% check="04.1" points=3
check("04.1", flow)

# %% [markdown]
# ## 04.2 `heavy_ball`
#
# 20 minutes · difficulty 3 of 5 · rests on “Steps instead of flow, and the largest learning rate”
#
# What does momentum leave of each mode? Optax does $v \leftarrow \mu v + \nabla\mathcal L$, then $\theta \leftarrow \theta - \eta v$, with $v = 0$ at the start. In function space and along a mode of $\Theta$ with eigenvalue $\lambda$: which two numbers does one step update, and how? Return the residual
# $z_s = u^\top r_s$ after `steps` steps, starting from $z_0 = 1$. (A loop, a `jax.lax.fori_loop`, a power of a $2\times2$ matrix, the roots of the chapter's quadratic: as you like. In the last case mind the double root. `ntk.gradient_descent` would be no answer.)


# %% task="04.2"
def heavy_ball(eigenvalues, N, learning_rate, momentum, steps):
    """z_s [m] for these m values [m] of an eigenvalue of Θ(X, X), N images, z_0 = 1."""
    ### BEGIN SOLUTION
    z = jnp.ones_like(eigenvalues)
    v = jnp.zeros_like(eigenvalues)
    for _ in range(steps):
        v = momentum * v + eigenvalues / N * z
        z = z - learning_rate * v
    return z
    ### END SOLUTION


# %% check="04.2" points=2
check("04.2", heavy_ball)

# %% [markdown]
# ## 04.3 `steps_to`: predict, then measure
#
# 20 minutes · difficulty 3 of 5 · rests on “Steps instead of flow, and the largest learning rate”
#
# After how many full-batch steps with the learning rate $\eta$ is the training *loss* down to a given fraction of what it was at the start? Write the function that says so from $\Theta(X, X)$ and $r_0 = f_0 - y$: the smallest $s$ with $\mathcal L_s \le \text{fraction} \cdot \mathcal L_0$. You may assume that $\eta$ is stable and that
# `max_steps` are enough. (`ntk.gradient_descent` would do it for you; do it without.)


# %% task="04.3"
def steps_to(fraction, theta, r0, learning_rate, max_steps=1000):
    """The smallest whole number of steps; theta [N, N], r0 [N, K]."""
    ### BEGIN SOLUTION
    n = len(theta)
    eigenvalues, modes = jnp.linalg.eigh(theta)
    weight = jnp.sum((modes.T @ r0) ** 2, axis=1)
    steps = jnp.arange(max_steps + 1)
    left = (1 - learning_rate * eigenvalues / n)[None, :] ** (2 * steps[:, None])
    loss = left @ weight
    return int(jnp.argmax(loss <= fraction * loss[0]))
    ### END SOLUTION


# %% check="04.3" points=3
check("04.3", steps_to)

# %% [markdown]
# Now measure. The network has 2048 hidden units and never heard of your function. Even against odd digits, $\eta$ at half the largest stable rate. The prediction uses the network's own kernel at the start. There is a dot for each step: each of your three vertical lines should go through the
# first dot that is not above its dotted level. (Until `steps_to` is written the cell shows the dots alone.)

# %% alt="Training loss over its start against steps, logarithmic axis: a smooth falling curve of dots. Dotted horizontal levels at 0.5, 0.1 and 0.01; vertical lines at the predicted steps go through the first dots at or below these levels."
net = network(2048, 0)
apply_fn, params = ntk.functional(net)
theta = ntk.empirical_ntk(net, x)
f0 = net(x)
eta = 0.5 * float(ntk.max_learning_rate(theta))
at = list(range(121))
history = ntk.train(
    (apply_fn, params),
    x,
    y,
    optimizer=optax.sgd(eta),
    steps=at[-1],
    record_at=at,
    progress=False,
)
relative = np.asarray(history.loss / history.loss[0])
fig, ax = plt.subplots(figsize=(5.8, 3.3))
ax.plot(at, relative, "o", ls="none", ms=2.5, label="measured")
for i, fraction in enumerate((0.5, 0.1, 0.01)):
    ax.axhline(fraction, color="0.5", ls=":", lw=1)
    try:
        s = steps_to(fraction, theta, f0 - y, eta)
    except NotImplementedError:
        print(f"no prediction yet for {fraction:g}")
        continue
    colour, dash = plotting.COLOURS[i + 1], plotting.DASHES[i]
    ax.axvline(s, color=colour, ls=dash, label=f"predicted: {fraction:g}")
ax.set(yscale="log", xlabel="steps", ylabel="training loss over its start")
ax.legend(fontsize=9)
plt.show()

# %% [markdown]
# ## 04.4 `corrected_prediction`: spot the error
#
# 15 minutes · difficulty 3 of 5 · rests on “At test points: integrate what the training points do”
#
# A colleague has tested this function well. On networks whose output is zero at the start it agrees with training, at training and test points, to three digits. On the training points it agrees for every network. Then somebody compared an ordinary network at the test points.


# %%
def suspect_prediction(theta, theta_test, y, f0, f0_test, t):
    """f_t(X) [N, K] and f_t(x) [M, K] at a time t > 0; theta is not singular."""
    n = len(theta)
    eigenvalues, modes = jnp.linalg.eigh(theta)
    learned = -jnp.expm1(-eigenvalues * t / n)
    train = f0 + modes @ (learned[:, None] * (modes.T @ (y - f0)))
    coefficients = modes @ ((learned / eigenvalues)[:, None] * (modes.T @ y))
    test = f0_test + theta_test @ coefficients
    return train, test


steps = 200
sgd = optax.sgd(eta)
run = ntk.train((apply_fn, params), x, y, optimizer=sgd, steps=steps, progress=False)
theta_new = ntk.empirical_ntk(net, x_new, x)
predictions = suspect_prediction(theta, theta_new, y, f0, net(x_new), eta * steps)
for name, inputs, prediction in zip(
    ("training", "test"), (x, x_new), predictions, strict=True
):  # fmt: skip
    off = jnp.sqrt(jnp.mean((apply_fn(run.params, inputs) - prediction) ** 2))
    print(f"{name} points: prediction off by {off:.1g} (rms)")

# %% [markdown]
# Which line is it, and why did both of the colleague's tests pass? Write the function as it should be, without `ntk.gradient_flow`.


# %% task="04.4"
def corrected_prediction(theta, theta_test, y, f0, f0_test, t):
    """f_t(X) [N, K] and f_t(x) [M, K] at a time t > 0; theta is not singular."""
    ### BEGIN SOLUTION
    # What drives the test points are the training residuals, y − f0: the network need
    # not learn what it says already. With f0 = 0 there is no difference.
    n = len(theta)
    eigenvalues, modes = jnp.linalg.eigh(theta)
    learned = -jnp.expm1(-eigenvalues * t / n)
    wanted = modes.T @ (y - f0)
    train = f0 + modes @ (learned[:, None] * wanted)
    coefficients = modes @ ((learned / eigenvalues)[:, None] * wanted)
    return train, f0_test + theta_test @ coefficients
    ### END SOLUTION


# %% check="04.4" points=2
check("04.4", corrected_prediction)

# %% [markdown]
# ## 04.5 `not_a_posterior`
#
# 10 minutes · difficulty 3 of 5 · rests on “Not a posterior”
#
# An infinite ensemble of infinitely wide networks is trained to $t = \infty$. All fit the data exactly, their mean is $\Theta(x, X)\Theta^{-1}y$, the mean of a Gaussian-process posterior with kernel $\Theta$, and their spread vanishes at the data. A colleague calls the ensemble "a sample from the posterior".
# In two to four sentences: why is it none, neither for the prior covariance $\Theta$ nor for $\Sigma$? What would one have to train to get one?

# %% written="04.5" points=2
answer = r"""
### BEGIN SOLUTION
Conditioning on the data asks which functions *of the prior* agree with them. The
networks start as draws from the prior with covariance $\Sigma$, but gradient descent
does not select among them: it changes each of them, $f_0 \to f_0 + \Theta(x, X)
\Theta^{-1}(y - f_0(X))$, and what it adds is shaped by $\Theta$. So the covariance
contains both kernels: it is not $\Theta(x,x') - \Theta(x,X)\Theta^{-1}\Theta(X,x')$,
since no network was drawn with the covariance $\Theta$, and not the one with $\Sigma$,
since for that the added part would have to be $\Sigma(x, X)\Sigma^{-1}(\dots)$. To get
a posterior, train the readout alone: then the tangent kernel is $\Sigma$, and mean and
covariance at $t = \infty$ are those of the posterior with $\Sigma$.
### END SOLUTION
"""
check("04.5", answer)

# %% [markdown]
# ## 04.6 Go further: the price of nonsense
#
# 30 minutes · difficulty 4 of 5 · rests on “Which modes are learned first”
#
# An open task. Networks can fit shuffled labels. What does it cost them? With `ntk.gradient_flow`, the kernel of infinite width and the 40 images above, predict for real and for shuffled labels (several shuffles): the time until the training loss is a hundredth of its start, and how far the parameters get, the straight distance
# of equation (6) of the chapter. Then train a network on both and compare. Which of the two prices is the higher one, and what do they have to do with each other? The lines below are a start.

# %%
with jax.enable_x64(True):
    kernel = network(1, 0).kernel(jnp.asarray(x, float)).ntk
    target = jnp.asarray(y, float)
    shuffled = jax.random.permutation(jax.random.key(0), target)
    times = jnp.array([1.0, 10.0, 100.0])
    for name, labels in (("real", target), ("shuffled", shuffled)):
        f = ntk.gradient_flow(kernel, labels, t=times)
        loss = 0.5 * jnp.mean(jnp.sum((f - labels) ** 2, axis=2), axis=1)
        print(f"{name:9} loss at t = 1, 10, 100:", *(f"{v:.3g}" for v in loss))

# %% written="04.6" points=1
answer = r"""
### BEGIN SOLUTION
In the eigenbasis the loss is $\frac1{2N}\sum_i e^{-2\lambda_i t/N} c_i^2$ with $c_i =
u_i^\top y$, and the squared distance $\sum_i c_i^2/\lambda_i$: both ask how much of the
target lies at small $\lambda_i$. Shuffled labels spread evenly, $c_i^2 \approx 1$; real
ones lie more at large $\lambda_i$. Predicted with these 40 images: real labels need
$t = 55$ and a distance of 3.6, eight shuffles $t = 75$ to $130$ and distances of 4.6 to 5.8.
So both prices are higher for nonsense, the time by a factor of two, the distance by
1.4: the distance is the root of a sum over all modes, and the time is set by the slowest
ones that matter for the last hundredth. Even against odd digits is not a smooth
target; with threes against eights both ratios are larger. With $N$ the ratio of the
distances grows.
Networks of width 2048 follow these predictions to a few per cent.
### END SOLUTION
"""
check("04.6", answer)
