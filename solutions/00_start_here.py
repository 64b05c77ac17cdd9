# %% [markdown]
# # 00 · Start here: exercises
#
# Write your answers where the cells say so, and run the cell with `check` below each. It says what is wrong, if anything,
# and never shows the answer. `hint("00.1")` gives the idea, `hint("00.1", 2)` the formula, `hint("00.1", 3)` almost the code.

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

# %% [markdown]
# ## 00.1 `per_example_gradients`
#
# 10 minutes · difficulty 2 of 5 · rests on “`vmap`: write it for one example, get it for all”
#
# Let `f(theta, x_i)` be a network for *one* input `x_i` [d] that returns [K] outputs, with its parameters in one vector
# `theta` [P]. Compute for each example the gradient of its own loss,
#
# $$
# g_i = \nabla_\theta \, \tfrac12 \lVert f(\theta, x_i) - y_i \rVert^2 , \qquad i = 1, \dots, N .
# $$
#
# These are the vectors that mini-batch SGD averages over; how they scatter is the noise of SGD (chapter 08).


# %% task="00.1"
def per_example_gradients(f, theta, x, y):
    """The gradients of the losses ½‖f(theta, x_i) − y_i‖², [N, P].

    f(theta, x_i) -> [K] for one input; theta [P], x [N, d], y [N, K].
    """
    ### BEGIN SOLUTION

    def loss_of_one(theta, x_i, y_i):
        return 0.5 * jnp.sum((f(theta, x_i) - y_i) ** 2)

    return jax.vmap(jax.grad(loss_of_one), in_axes=(None, 0, 0))(theta, x, y)
    ### END SOLUTION


# %% check="00.1" points=2
check("00.1", per_example_gradients)

# %% [markdown]
# ## 00.2 `directional_derivative`
#
# 10 minutes · difficulty 2 of 5 · rests on “`jvp` and `vjp`: the Jacobian, without ever writing it down”
#
# How fast do the outputs change if the parameters move along `v`? Both `theta` and `v` are pytrees (nested dictionaries of
# arrays) of the same form. Compute
#
# $$
# \frac{d}{ds} f(\theta + s\,v, X) \Big|_{s=0} = J v , \qquad [N, K] ,
# $$
#
# exactly, without a Jacobian and without a small number $s$.


# %% task="00.2"
def directional_derivative(f, theta, v, x):
    """The derivative of f(theta, x) [N, K] along v; theta and v are pytrees."""
    ### BEGIN SOLUTION
    _, change = jax.jvp(lambda p: f(p, x), (theta,), (v,))
    return change
    ### END SOLUTION


# %% check="00.2" points=2
check("00.2", directional_derivative)

# %% [markdown]
# ## 00.3 `training_step`
#
# 10 minutes · difficulty 2 of 5 · rests on “Training, by hand and with `ntk.train`”
#
# One step of any Optax optimizer. `loss(params)` is a number; `optimizer.init(params)` made the first `opt_state`. Return the
# new parameters and the new state.


# %% task="00.3"
def training_step(params, opt_state, loss, optimizer):
    """(params, opt_state) after one step of `optimizer` on `loss(params)`."""
    ### BEGIN SOLUTION
    gradient = jax.grad(loss)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
    ### END SOLUTION


# %% check="00.3" points=2
check("00.3", training_step)

# %% [markdown]
# ## 00.4 Spot the error: `mse`
#
# 10 minutes · difficulty 2 of 5 · rests on “The data”
#
# A colleague's network has one output, so its outputs are `[N, 1]`; the targets come as a vector `[N]`. This loss runs, goes
# down, and levels off, and the network learns *nothing*:
#
# ```python
# def mse(outputs, targets):
#     return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))
# ```
#
# Mend it: it should return $\frac{1}{2N} \sum_i \lVert f(x_i) - y_i \rVert^2$ for targets `[N, K]` of the outputs' shape, accept targets
# `[N]` for outputs `[N, 1]`, and raise `ValueError` for shapes that do not belong together, such as `[4, 3]` and `[4]`.


# %% task="00.4"
def mse(outputs, targets):
    """1/(2N) Σ_i ‖f(x_i) − y_i‖²; outputs [N, K], targets [N, K], or [N] if K = 1."""
    ### BEGIN SOLUTION
    if targets.ndim == 1:
        targets = targets[:, None]
    if outputs.shape != targets.shape:
        raise ValueError(f"shapes differ: {outputs.shape}, {targets.shape}")
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))
    ### END SOLUTION


# %% check="00.4" points=2
check("00.4", mse)

# %% [markdown]
# ## 00.5 What does the wrong loss learn?
#
# 10 minutes · difficulty 3 of 5 · rests on “The data”
#
# Take the colleague's loss as it stands in 00.4, with outputs `[N, 1]` and targets `[N]`. Towards which outputs does
# training drive the network, whatever the inputs? Where does the loss level off? Give the argument in two or three sentences or formulas.

# %% written="00.5" points=2
answer = r"""
### BEGIN SOLUTION
The difference is an $N \times N$ matrix, so the loss is $\frac{1}{2N} \sum_{i,j} (f(x_i) - y_j)^2$: every output is compared with
every target. For each $i$ the sum over $j$ is $N (f(x_i) - \bar y)^2 + \sum_j (y_j - \bar y)^2$, with $\bar y$ the mean of the targets.
Only the first term depends on the network, and it is smallest at $f(x_i) = \bar y$ for all $i$: the network learns the mean
label and ignores its input. The loss levels off at $\frac12 \sum_j (y_j - \bar y)^2$, that is $N/2$ times the variance of the targets.
### END SOLUTION
"""
check("00.5", answer)

# %% [markdown]
# ## 00.6 Go further: how many images does the kernel need?
#
# 20 minutes · difficulty 3 of 5 · rests on “The first result”
#
# Take the infinite-width NTK of the chapter's network and do the regression with the first $N = 125, 250, \dots, 4000$ training images.
# Plot the test error over $N$. Is there a law? What would you expect from 40,000 images, and what speaks against trusting that?
# Use any code you like; then write down what you found.

# %% task="00.6" alt="Test error of kernel regression on mnist5k over the number of training images, both axes logarithmic: the points fall from about 24 per cent at 125 images to 3 per cent at 4,000, close to a straight line."
# Any code you like.
### BEGIN SOLUTION
data = ntk.load("mnist5k").flat()
x_train, x_test = jnp.asarray(data.x_train), jnp.asarray(data.x_test)
y_train = jnp.asarray(ntk.one_hot_centered(data.y_train, classes=10))
net = ntk.mlp([784, 512, 512, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
theta = net.kernel(x_train).ntk
theta_test = net.kernel(x_test, x_train).ntk

sizes, errors = 125 * 2 ** np.arange(6), []
for n in sizes:
    factor = jax.scipy.linalg.cho_factor(theta[:n, :n])
    alpha = jax.scipy.linalg.cho_solve(factor, y_train[:n])
    outputs = theta_test[:, :n] @ alpha
    wrong = jnp.argmax(outputs, axis=-1) != data.y_test
    errors.append(100 * float(jnp.mean(wrong)))

errors = np.array(errors)
standard_error = 100 * np.sqrt(errors / 100 * (1 - errors / 100) / len(x_test))
fig, ax = plt.subplots()
ax.errorbar(
    sizes,
    errors,
    standard_error,
    fmt="o",
    capsize=2,
    label="kernel regression",
)
ax.set(xscale="log", yscale="log", ylabel="test error (%)")
ax.set_xlabel("training images N")
ax.set_xticks(sizes, sizes)
ax.set_yticks([3, 5, 10, 20], [3, 5, 10, 20])
ax.minorticks_off()
ax.legend()
plt.show()
### END SOLUTION

# %% written="00.6" points=2
answer = r"""
### BEGIN SOLUTION
On log-log axes the points lie close to a straight line: each doubling of $N$ takes away about a third of the error, so the error falls
roughly like $N^{-0.6}$, from about 24 % at 125 images to 3 % at 4,000, with no sign of levelling off. Continued to 40,000 images the line
would promise about 0.8 %. Against trusting it: the last point rests on thirty wrong test images, with an error bar of 0.5 %, and all of them on the
same thousand images and one split; a power law must end where labels are ambiguous; and nothing says that the slope stays the same.
### END SOLUTION
"""
check("00.6", answer)
