# %% [markdown]
# # Exercises 14: whitening
#
# They go with the chapter `notebooks/14_whitening.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("14.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from threadpoolctl import threadpool_limits

import ntklib as ntk
from course import check, hint, predict
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()
_ = threadpool_limits(1, user_api="blas")  # small systems: one thread is faster than two


def kernel(x, x_train):
    """The NTK of a ReLU network with one hidden layer and no biases, [M, N]."""
    net = ntk.mlp([x.shape[1], 8, 1], w_std=2**0.5, rngs=nnx.Rngs(0))
    return np.asarray(net.kernel(x, x_train).ntk)


def digits(n, m):
    """Inputs [N, d] and labels of n training and m test digits, and centered targets [N, 10]."""
    data = ntk.load("digits", n_train=n, n_test=m).flat()
    x, x_test = data.x_train.astype(float), data.x_test.astype(float)
    y = ntk.one_hot_centered(data.y_train, 10).astype(float)
    return x, data.y_train, x_test, data.y_test, y


# %% [markdown]
# ## 14.1 `zca_matrix`
#
# 15 minutes · difficulty 2 of 5 · rests on “What whitening does”
#
# Given features $F$ `[N, d]`, write the matrix $W$ `[d, d]` of regularized ZCA whitening, with $C = F^\top F/N$ and
# $\mathrm{reg} = \epsilon\, \mathrm{tr}\,C/d$. It is the *symmetric* positive matrix that brings the variance along each
# eigenvector of $C$ from $s$ to $s/(s + \mathrm{reg})$. The features are ready as they are: nothing is subtracted or divided
# first. Without `ntk.ZCA`.


# %% task="14.1"
def zca_matrix(features, epsilon):
    """W [d, d] from features [N, d]."""
    ### BEGIN SOLUTION
    n, d = features.shape
    C = features.T @ features / n
    s, u = jnp.linalg.eigh(C)
    return (u / jnp.sqrt(s + epsilon * jnp.trace(C) / d)) @ u.T
    ### END SOLUTION


# %% check="14.1" points=2
check("14.1", zca_matrix)

# %% [markdown]
# ## 14.2 Leave one out: predict, then measure
#
# 15 minutes · difficulty 3 of 5 · rests on “Fewer inputs than pixels”
#
# There are 40 training digits, four of each class, and 64 pixels. The whitening is fitted to all 40 with a tiny
# $\epsilon$, and after that leave-one-out (`ntk.loo`, which needs one kernel and one solve only) is to tell how good the
# NTK is: each digit is classified by the regression on the 39 others. Of which share of the 40 does it find the class?
# Think about what the kernel of the 40 looks like, and write your number down before you measure.

# %% task="14.2"
# the share of the 40 digits that leave-one-out classifies rightly
share = ...
### BEGIN SOLUTION
share = 0.0  # the 39 others are all alike to it, and its own class is the rarest among them
### END SOLUTION

# %% check="14.2" points=1
check("14.2", share)

# %% [markdown]
# The measurement, beside the accuracy on new digits. It waits for your prediction.

# %%
if predict("14.2", share) is not None:
    x, labels, x_test, test_labels, y = digits(40, 300)
    for epsilon in (1.0, 0.1, 1e-2, 1e-8):
        zca = ntk.ZCA(epsilon=epsilon).fit(x)
        white, white_test = zca.transform(x), zca.transform(x_test)
        theta = kernel(white, white)
        left_out = np.asarray(ntk.loo(theta, y, ridge=1e-6)).argmax(1)
        outputs = kernel(white_test, white) @ np.linalg.solve(theta, y)
        right = np.mean(outputs.argmax(1) == test_labels)
        said = np.mean(left_out == labels)
        print(f"ε = {epsilon:g}: leave-one-out {said:.2f}, new digits {right:.2f}")

# %% [markdown]
# ## 14.3 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “Fewer inputs than pixels”
#
# "Whitening needs no labels, so I can fit it on everything I have." With `n` training and `m` test inputs:
#
# 1. `x, labels, x_test, test_labels, y = digits(n, m)`
# 2. `zca = ntk.ZCA(epsilon=1e-8).fit(np.concatenate([x, x_test]))`
# 3. `white, white_test = zca.transform(x), zca.transform(x_test)`
# 4. `theta, cross = kernel(white, white), kernel(white_test, white)`
# 5. `f = cross @ np.linalg.solve(theta, y)`
#
# One expects a score that is too good. Look at what comes out:

# %%


def flawed_accuracy(n, m, epsilon=1e-8, leak=True):
    """Test accuracy of the five lines, with the leak or without."""
    x, _, x_test, test_labels, y = digits(n, m)
    seen = np.concatenate([x, x_test]) if leak else x
    zca = ntk.ZCA(epsilon=epsilon).fit(seen)
    white, white_test = zca.transform(x), zca.transform(x_test)
    theta, cross = kernel(white, white), kernel(white_test, white)
    f = cross @ np.linalg.solve(theta, y)
    spread = np.abs(f - f.mean(0)).max() / np.abs(f).max()
    return np.mean(f.argmax(1) == test_labels), spread


honest, _ = flawed_accuracy(22, 20, leak=False)
leaking, spread = flawed_accuracy(22, 20)
print(f"22 training and 20 test digits: honest {honest:.2f}, leaking {leaking:.2f}")
print(f"its outputs differ between test digits by less than 1 % of the largest: {spread < 0.01}")
large = [flawed_accuracy(200, 360, leak=leak)[0] for leak in (False, True)]
print(f"200 training and 360 test digits: honest {large[0]:.2f}, leaking {large[1]:.2f}")

# %% [markdown]
# In which line, 1 to 5, is the error? And what does the leaking pipeline answer at the `m` test inputs? Let the $N + M$ inputs be linearly independent and
# $\epsilon \to 0$, so that the kernel has the value `same` for an input with itself and `other` for any two different inputs,
# training or test. Write the outputs for targets `y` `[N, K]`, which need not be centered.

# %% task="14.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 2
### END SOLUTION


def leaked_outputs(y, same, other, m):
    """Outputs [m, K] at m test inputs, from targets y [N, K]."""
    ### BEGIN SOLUTION
    n = y.shape[0]
    row = other * y.sum(0) / (same + (n - 1) * other)
    return jnp.tile(row, (m, 1))
    ### END SOLUTION


# %% check="14.3" points=3
check("14.3", (wrong_line, leaked_outputs))

# %% [markdown]
# ## 14.4 `first_layer_step`
#
# 25 minutes · difficulty 4 of 5 · rests on “A change of metric”
#
# Whitening is a change of metric also for *training*. Let a network's first layer act on whitened inputs, $x\,W\,U$ (inputs are
# rows, $W = W^\top$), and let gradient descent train $U$. On plain inputs the same function has the first layer $V = W U$.
# Write one step of gradient descent on $U$ with learning rate $\eta$ as an update of $V$ `[d, n]`: from $V$, the gradient
# `grad` $= \partial\mathcal L/\partial V$ `[d, n]`, and the features `[N, d]` with which $W$ is made as in 14.1. It needs no
# eigenvectors. Without `ntk.ZCA`.


# %% task="14.4"
def first_layer_step(V, grad, features, epsilon, learning_rate):
    """The weights V [d, n] after one step."""
    ### BEGIN SOLUTION
    n, d = features.shape
    C = features.T @ features / n
    reg = epsilon * jnp.trace(C) / d
    return V - learning_rate * jnp.linalg.solve(C + reg * jnp.eye(d), grad)
    ### END SOLUTION


# %% check="14.4" points=3
check("14.4", first_layer_step)

# %% [markdown]
# ## 14.5 Why the kernels?
#
# 10 minutes · difficulty 2 of 5 · rests on “Do networks gain as much?”
#
# "Whitening helps kernels more than networks" is said often. Give the reason in terms of the metric of the first layer: who
# can change it, and when? Then design a test that could refute your reason, with networks that differ in one thing only. What
# would you compare, and what would you expect for data on which whitening *hurts*?

# %% written="14.5" points=2
answer = r"""
### BEGIN SOLUTION
Both start with the metric that the inputs give, $x \cdot x'$ or $x^\top (C + reg)^{-1} x'$.
The kernel keeps it for ever: whitening is the only chance to have another one, and it
gets the whole gain, or the whole loss. A network trains its first layer, so that its
metric $\frac1n \sum_j v_j v_j^\top$ can move towards directions that tell the classes
apart. It gets a part of the gain by itself, if there is one, and may undo a part of a
loss. That needs movement: a lazy network follows the kernel of its start.
Test: the same network with growing α (or width), the gains with and without whitening
in pairs, each with its own best stopping time. The gap to the NTK's gain should close as
the network gets lazier. If it stays for lazy networks, the reason is another one, for
instance that training was stopped before small directions were learned. Where whitening
hurts, the network should lose less than the kernel: a gap of the other sign.
### END SOLUTION
"""
check("14.5", answer)

# %% [markdown]
# ## 14.6 Go further: a better metric than ZCA
#
# 40 minutes · difficulty 4 of 5 · rests on “A change of metric”
#
# An open task. Any positive matrix is a metric. Find one that beats both plain features and ZCA for the NTK, on `photo_patches` or
# on another set, and say why it should. Choose on validation images, compare over several subsets in pairs, and look at the
# test images once, at the end. A start is below: ZCA itself, a milder power of the spectrum, and colors only. For
# a gray set you might smooth.

# %%


def color_patches(seed, n=270, m=300):
    """Features [N, 192] of training and validation patches (zero mean, unit norm), and their labels."""
    data = ntk.load("photo_patches", n_train=n + m, seed=seed, pool=4).flat()
    x = data.x_train.astype(float)
    x = x - x.mean(1, keepdims=True)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x[:n], x[n:], data.y_train[:n], data.y_train[n:]


def power_metric(features, p, epsilon):
    """(C + reg)^(-p/2): p = 0 is none, p = 1 is ZCA."""
    C = features.T @ features / len(features)
    s, u = np.linalg.eigh(C)
    s = s.clip(0) + epsilon * s.mean()
    return (u * s ** (-p / 2)) @ u.T


def color_metric(features, epsilon):
    """ZCA of the three colors of a pixel, the same for all pixels."""
    return np.kron(np.eye(64), power_metric(features.reshape(-1, 3), 1.0, epsilon))


def validation_accuracy(metric, seeds=3, ridge=0.1):
    """Accuracy of the NTK with inputs x @ metric(features), one number for each subset."""
    found = []
    for seed in range(seeds):
        x, x_valid, labels, valid_labels = color_patches(seed)
        w = metric(x)
        theta, cross = kernel(x @ w, x @ w), kernel(x_valid @ w, x @ w)
        y = ntk.one_hot_centered(labels, 9).astype(float)
        theta = theta + ridge * np.trace(theta) / len(theta) * np.eye(len(theta))
        outputs = cross @ np.linalg.solve(theta, y)
        found.append(np.mean(outputs.argmax(1) == valid_labels))
    return np.array(found)


METRICS = {
    "none": lambda x: np.eye(x.shape[1]),
    "ZCA, ε = 0.1": lambda x: power_metric(x, 1.0, 0.1),
    "half of it": lambda x: power_metric(x, 0.5, 0.1),
    "power of other sign": lambda x: power_metric(x, -0.2, 0.1),
    "colors, ε = 0.1": lambda x: color_metric(x, 0.1),
}
accuracies = {name: validation_accuracy(metric) for name, metric in METRICS.items()}

# %% alt="Difference of the validation accuracy of the NTK from that without a metric, for ZCA, half of its exponent, a small power of the other sign, and whitened colors, with error bars over three subsets, and zero as a line."
fig, ax = plt.subplots(figsize=(6.4, 3.4))
names = list(METRICS)[1:]
for i, name in enumerate(names):
    mean, error = plotting.mean_and_error(accuracies[name] - accuracies["none"])
    ax.errorbar([i], [mean], yerr=error, fmt="o", color=plotting.COLOURS[0], capsize=3)
ax.axhline(0, color="0.4", label="plain features")
ax.set_xticks(range(len(names)), names)
ax.set(xlabel="metric", ylabel="validation accuracy gained", xlim=(-0.5, len(names) - 0.5))
_ = ax.legend(loc="lower right")

# %% written="14.6" points=1
answer = r"""
### BEGIN SOLUTION
The chapter's figure says where the classes sit: in the directions of large variance. So
a metric should give these more weight and not less. A small power of the other sign,
$(C + reg)^{+0.1}$, gains 0.01 on the validation images of three subsets. Colors are
another matter: their differences are small beside the brightness and tell photographs
apart, so whitening the $3 \times 3$ covariance of colors, the same for all pixels, gains
0.02 and amplifies no fine noise. ZCA with $\epsilon = 0.1$ loses 0.12. Three subsets
choose between five metrics; the test images, of another half of the photographs, are to
be looked at once, for the one chosen, in pairs with the plain features.
### END SOLUTION
"""
check("14.6", answer)
