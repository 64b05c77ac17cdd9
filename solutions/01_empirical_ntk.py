# %% [markdown]
# # 01 · The empirical NTK: exercises
#
# Write your answers where the cells say so, and run the cell with `check` below each. It says what is wrong, if anything,
# and never shows the answer. `hint("01.1")` gives the idea, `hint("01.1", 2)` the formula, `hint("01.1", 3)` almost the code.
#
# Throughout, `f(theta, x)` is a network: `theta` a pytree of parameters, `x` [N, d], outputs [N, K].

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import ntklib as ntk
from course import check, hint
from ntklib import plotting

plotting.use_style()

# %% [markdown]
# ## 01.1 `empirical_ntk`
#
# 15 minutes · difficulty 2 of 5 · rests on “The kernel of a network”
#
# The NTK between two sets of inputs, averaged over the outputs:
#
# $$
# \Theta(x, x') = \frac1K \sum_{k=1}^{K} \sum_{p=1}^{P} \frac{\partial f_k(x)}{\partial \theta_p} \, \frac{\partial f_k(x')}{\partial \theta_p} .
# $$
#
# `theta` is a nested dictionary of arrays, weights and biases. Use a Jacobian and `einsum`, not `ntk.empirical_ntk`.


# %% task="01.1"
def empirical_ntk(f, theta, x1, x2):
    """The NTK between x1 [N, d] and x2 [M, d], mean over outputs: [N, M]."""
    ### BEGIN SOLUTION
    jacobian = jax.jacobian(f)
    leaves1 = jax.tree.leaves(jacobian(theta, x1))  # each [N, K, ...]
    leaves2 = jax.tree.leaves(jacobian(theta, x2))
    total = 0.0
    for j1, j2 in zip(leaves1, leaves2, strict=True):
        j1, j2 = (j.reshape(*j.shape[:2], -1) for j in (j1, j2))
        total += jnp.einsum("ikp,jkp->ij", j1, j2)
    return total / leaves1[0].shape[1]
    ### END SOLUTION


# %% check="01.1" points=3
check("01.1", empirical_ntk)

# %% [markdown]
# ## 01.2 `ntk_vector_product`
#
# 20 minutes · difficulty 3 of 5 · rests on “Two ways to compute it”
#
# The whole kernel, with all its $K \times K$ blocks, times a vector, $v$ of shape `[M, K]`:
#
# $$
# u_{ik} = \sum_{j=1}^{M} \sum_{l=1}^{K} \Theta_{kl}(x_i, x'_j)\, v_{jl}, \qquad u = J(x)\, \bigl( J(x')^\top v \bigr) .
# $$
#
# Do it with one `jax.vjp` and one `jax.jvp`, not with `ntk.ntk_vector_product`: neither $\Theta$ nor a Jacobian is ever formed. Conjugate gradients (chapter 19) need no more
# than this.


# %% task="01.2"
def ntk_vector_product(f, theta, x1, x2, v):
    """Θ(x1, x2) v, all blocks: v [M, K] at the inputs x2, result [N, K] at x1."""
    ### BEGIN SOLUTION
    _, pull = jax.vjp(lambda p: f(p, x2), theta)
    (direction,) = pull(v)
    _, change = jax.jvp(lambda p: f(p, x1), (theta,), (direction,))
    return change
    ### END SOLUTION


# %% check="01.2" points=3
check("01.2", ntk_vector_product)

# %% [markdown]
# ## 01.3 Predict, then measure: `kernel_step`
#
# 10 minutes · difficulty 2 of 5 · rests on “One step, predicted and measured”
#
# Predict the outputs on test inputs after one gradient step of size $\eta$ on the loss $\frac{1}{2N} \sum_i \lVert f(x_i) - y_i \rVert^2$, from
# functions only: the kernel $\Theta(x, X)$, `[M, N]`, the outputs and the targets. (With $K$ outputs take the same kernel for each.)


# %% task="01.3"
def kernel_step(kernel, f_test, f_train, y, learning_rate):
    """Predicted outputs on test inputs [M, K] after one gradient step.

    kernel [M, N] between test and training inputs; f_test [M, K]; f_train, y [N, K].
    """
    ### BEGIN SOLUTION
    return f_test - learning_rate / len(y) * kernel @ (f_train - y)
    ### END SOLUTION


# %% check="01.3" points=2
check("01.3", kernel_step)

# %% [markdown]
# Now the measurement. The cell below takes one gradient step on the parameters of a network on `mnist5k` and plots how far each of 100 test
# outputs moved against your prediction. Expected: nearly all points on the diagonal line, to the eye. Change `eta` to 2: what happens?

# %% alt="Scatter plot of the predicted against the measured change of the output on 100 test images after one gradient step, with a diagonal line. In the solved notebook nearly all points lie on the line; without an answer there is only the line."
eta = 0.2
data = ntk.load("mnist5k", n_train=100, n_test=100).flat()
x, x_test = jnp.asarray(data.x_train), jnp.asarray(data.x_test)
y = jnp.where(jnp.asarray(data.y_train) % 2 == 0, 1.0, -1.0)[:, None]
net = ntk.mlp([784, 128, 1], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
f, theta = ntk.functional(net)

gradient = jax.grad(lambda p: 0.5 * jnp.mean((f(p, x) - y) ** 2))(theta)
stepped = jax.tree.map(lambda p, g: p - eta * g, theta, gradient)
f_test = f(theta, x_test)
measured = np.asarray(f(stepped, x_test) - f_test)[:, 0]

fig, ax = plt.subplots(figsize=(4.4, 3.8))
ends = [measured.min(), measured.max()]
ax.plot(ends, ends, color="black", linewidth=1, label="prediction = measurement")
try:
    kernel = ntk.empirical_ntk(net, x_test, x)
    predicted = kernel_step(kernel, f_test, f(theta, x), y, eta) - f_test
    ax.plot(measured, predicted[:, 0], "o", markersize=4, label="test images")
except NotImplementedError:
    print("kernel_step is not written yet")
ax.set(xlabel="measured change of the output", ylabel="predicted change")
ax.legend()
plt.show()

# %% [markdown]
# ## 01.4 Spot the errors: `flow`
#
# 15 minutes · difficulty 3 of 5 · rests on “The kernel held constant: a closed form”
#
# A colleague wrote the closed form of training with a constant kernel and tested it: "as $t \to \infty$ it gives $y$, as it should". There are **two**
# errors in it. Neither shows at $t \to \infty$.
#
# ```python
# def flow(kernel, y, f0, t):
#     values, modes = jnp.linalg.eigh(kernel)
#     decay = jnp.exp(-values * t)
#     return y + modes @ (decay[:, None] * (modes.T @ (y - f0)))
# ```
#
# Write it right, for gradient flow of $\frac{1}{2N} \sum_i \lVert f(x_i) - y_i \rVert^2$. (`ntk.gradient_flow` is this function; compare afterwards.)


# %% task="01.4"
def flow(kernel, y, f0, t):
    """Outputs on the training inputs at time t, [N, K].

    kernel Θ(X, X) [N, N], held constant; targets y [N, K]; outputs f0 [N, K] at t = 0.
    """
    ### BEGIN SOLUTION
    values, modes = jnp.linalg.eigh(kernel)
    decay = jnp.exp(-values * t / len(y))
    return y + modes @ (decay[:, None] * (modes.T @ (f0 - y)))
    ### END SOLUTION


# %% check="01.4" points=2
check("01.4", flow)

# %% [markdown]
# ## 01.5 Fewer parameters than examples
#
# 10 minutes · difficulty 3 of 5 · rests on “What is never learned: the null space”
#
# A model with one output has $P = 50$ parameters and is trained by gradient flow on $N = 64$ examples; assume its kernel stays
# constant. What is the least number of null directions of $\Theta(X, X)$? What does the training loss tend to as $t \to \infty$, and does the answer depend on the
# outputs at the start?

# %% written="01.5" points=2
answer = r"""
### BEGIN SOLUTION
$\Theta = J J^\top$ with $J$ of shape $[64, 50]$, so its rank is at most 50 and there are at least $64 - 50 = 14$ null directions. Split the residual at the start,
$r_0 = f_0 - y$, into its part in the range of $\Theta$ and its part $r_\perp$ in the null space. The first decays to zero, each mode like $e^{-\lambda_i t/N}$; the second does not
move, because $\Theta r_\perp = 0$. The loss tends to $\lVert r_\perp \rVert^2 / (2N)$, which is zero only if the residual happens to have no part in the null space. It does depend on the start,
through $f_0 - y$: the part of $f_0$ in the null space stays there for ever. (For a model linear in $\theta$ through the origin, $f_0 = J\theta_0$ lies in the range
and only $y$ counts.)
### END SOLUTION
"""
check("01.5", answer)

# %% [markdown]
# ## 01.6 Go further: the kernel of another optimiser
#
# 25 minutes · difficulty 4 of 5 · rests on “From parameters to functions”
#
# Suppose each parameter has a learning rate of its own, $\theta' = \theta - \eta D\, \nabla L$ with a diagonal matrix $D$ (layer-wise rates, or what Adam's second
# moments amount to when they stand still). Which kernel does the function now feel? Derive it, compute it for a network whose first layer learns 10
# times faster than the others, and measure one step: is the error still $O(\eta^2)$? What about *signs* of gradients,
# $\theta' = \theta - \eta\, \mathrm{sign}(\nabla L)$: is there a kernel?

# %% task="01.6" alt="Error of the predicted step over the learning rate on log-log axes for layer-wise learning rates. With the kernel J D Jᵀ the points lie on a line of slope 1.9; with the ordinary kernel J Jᵀ on one of slope 1."
# Any code you like.
### BEGIN SOLUTION
roots = jax.tree.map(jnp.ones_like, theta)  # the square root of D
roots["layers"][0] = jax.tree.map(lambda r: 10**0.5 * r, roots["layers"][0])
phi = jax.tree.map(jnp.divide, theta, roots)


def f_scaled(phi, x):
    """The same outputs, in the parameters φ = θ/√D."""
    return f(jax.tree.map(jnp.multiply, roots, phi), x)


kernels = {
    r"$J D J^\top$": ntk.empirical_ntk((f_scaled, phi), x_test, x),
    r"$J J^\top$": ntk.empirical_ntk((f, theta), x_test, x),
}


def step(rate):
    """Change of the outputs on test images by θ − η D ∇L."""
    update = jax.tree.map(lambda r, g: rate * r**2 * g, roots, gradient)
    return f(jax.tree.map(jnp.subtract, theta, update), x_test) - f_test


rates = 2.0 ** -np.arange(2, 8)
residual = f(theta, x) - y
fig, ax = plt.subplots()

for s, (name, kernel) in enumerate(kernels.items()):
    errors = [float(jnp.abs(step(rate) + rate / len(x) * kernel @ residual).mean()) for rate in rates]
    slope = np.polyfit(np.log(rates), np.log(errors), 1)[0]
    label = f"{name}: slope {slope:.1f}"
    ax.loglog(rates, errors, plotting.MARKERS[s], label=label)
ax.set(xlabel="learning rate η", ylabel="mean |error| of the predicted step")
ax.tick_params(axis="x", which="minor", labelbottom=False)
ax.legend()
plt.show()
### END SOLUTION

# %% written="01.6" points=3
answer = r"""
### BEGIN SOLUTION
Insert $\theta' - \theta = -\eta D \nabla L = -\frac{\eta}{N} D J(X)^\top r$ in Taylor's theorem: $f(x) \leftarrow f(x) - \frac{\eta}{N} J(x) D J(X)^\top r$. So the function feels
$\Theta_D = J D J^\top$, symmetric and positive semi-definite because $D$ is. It is the ordinary NTK in the parameters $\varphi = \theta/\sqrt D$, which is how it can be computed. Measured:
with $\Theta_D$ the error of the step falls nearly like $\eta^2$ (a slope of 1.9: the network has kinks, and $10\,\eta$ is not small), with $J J^\top$ only like $\eta$, since that kernel is wrong at first order. Choosing a parametrization and choosing
learning rates per layer are the same thing (chapter 02). Signs: $\theta' - \theta = -\eta\, \mathrm{sign}(J^\top r / N)$ is not linear in $r$, so $f$ moves by $-\eta J\, \mathrm{sign}(J^\top r)$ and no matrix that
is independent of $r$ does that. One may write $\mathrm{sign}(g) = D(g)\, g$ with $D = 1/|g|$, a kernel $J D(r) J^\top$ that depends on the residual.
### END SOLUTION
"""
check("01.6", answer)
