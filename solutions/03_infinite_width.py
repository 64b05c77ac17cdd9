# %% [markdown]
# # 03 · Infinite width: exercises
#
# Write your answers where the cells say so, and run the cell with `check` below each. It says what is wrong, if anything,
# and never shows the answer. `hint("03.1")` gives the idea, `hint("03.1", 2)` the formula, `hint("03.1", 3)` almost the code.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import ntklib as ntk
from course import check, hint
from ntklib import duals, plotting

plotting.use_style()

# %% [markdown]
# ## 03.1 `abs_dual`
#
# 15 minutes · difficulty 3 of 5 · rests on “Duals in closed form”
#
# Derive the dual of the absolute value, $\phi(x) = |x|$: for centered Gaussians $u, v$ with variances $q_1, q_2$ and covariance $q_{12}$,
#
# $$
# \mathbb E\big[\,|u|\,|v|\,\big] \quad\text{and}\quad \mathbb E\big[\operatorname{sign}(u) \operatorname{sign}(v)\big].
# $$
#
# Pencil and paper first. You may use what the chapter found for ReLU, with $|x| = \mathrm{relu}(x) + \mathrm{relu}(-x)$, or go around the circle again. `q12` is `[N, M]`, with `q1` `[N]` and `q2` `[M]`, as they come from two sets of inputs. The same input may stand in both sets, and rounding
# may then take the correlation a little beyond 1. (`ntklib.duals.abs` is this function; compare afterwards. Quadrature is no derivation either.)


# %% task="03.1"
def abs_dual(q12, q1, q2):
    """(E[|u| |v|], E[sign(u) sign(v)]), each [N, M]; q12 [N, M], q1 [N], q2 [M]."""
    ### BEGIN SOLUTION
    # |u||v| is relu(u)relu(v) in all four quadrants. Opposite quadrants weigh the same; in the two mixed ones
    # the correlation has the other sign, θ → π − θ. So with R(θ) = (sin θ + (π − θ) cos θ)/2π:
    # 2 [R(θ) + R(π − θ)] = (2/π) (sin θ + (π/2 − θ) cos θ).
    scale = jnp.sqrt(q1[:, None] * q2[None, :])
    cosine = jnp.clip(q12 / scale, -1.0, 1.0)
    angle = jnp.arccos(cosine)
    values = 2 / jnp.pi * scale * (jnp.sin(angle) + (jnp.pi / 2 - angle) * cosine)
    # The signs agree on a share 1 − θ/π of the circle and disagree on θ/π.
    slopes = 1 - 2 * angle / jnp.pi
    return values, slopes
    ### END SOLUTION


# %% check="03.1" points=3
check("03.1", abs_dual)

# %% [markdown]
# ## 03.2 `ntk_layer`
#
# 10 minutes · difficulty 2 of 5 · rests on “The recursion”
#
# One step of the recursion: an activation and the affine layer after it. Given $\Sigma^l$ and $\Theta^l$ between $N$ and $M$ inputs, the variances $\Sigma^l(x, x)$ of both
# sets, and the activation's dual, return $\Sigma^{l+1}$ and $\Theta^{l+1}$. `dual(q12, q1, q2)` returns the pair $(\mathbb E[\phi\phi], \mathbb E[\phi'\phi'])$ for arrays that broadcast against each other; `ntk.Tanh().dual` is one.


# %% task="03.2"
def ntk_layer(sigma, theta, q1, q2, dual, w_std, b_std):
    """(Σ^{l+1}, Θ^{l+1}), each [N, M], of the affine layer after an activation.

    sigma, theta: Σ^l and Θ^l, [N, M]; q1 [N] and q2 [M] the variances Σ^l(x, x).
    """
    ### BEGIN SOLUTION
    values, slopes = dual(sigma, q1[:, None], q2[None, :])
    new = w_std**2 * values + b_std**2
    return new, new + w_std**2 * slopes * theta
    ### END SOLUTION


# %% check="03.2" points=2
check("03.2", ntk_layer)

# %% [markdown]
# ## 03.3 `spread`: predict, then measure
#
# 15 minutes · difficulty 3 of 5 · rests on “The output is a Gaussian process, and a mixture before”
#
# Given its hidden layers, a network's output at $x$ is Gaussian with a random variance $\hat q$. How random? Take networks with the activation $|x|$, $\sigma_w = 1$, $\sigma_b = 0$ and $h$ hidden layers of $n$ units. *Predict* the relative
# standard deviation over networks, exactly and not only to leading order,
#
# $$
# \frac{\sqrt{\operatorname{Var} \hat q}}{\mathbb E\, \hat q} \quad\text{as a function of } n \text{ and } h .
# $$
#
# The chapter does this for ReLU with $\sigma_w^2 = 2$. Which of the two has the more deterministic kernel at equal width, and by how much?


# %% task="03.3"
def spread(n, hidden_layers):
    """std(q̂)/mean(q̂) for each width in n [T]; `hidden_layers` is a whole number."""
    ### BEGIN SOLUTION
    # One layer turns q into q · (1/n) Σ z_i², z standard normal: mean 1, variance (E z⁴ − 1)/n = 2/n.
    # The factors of different layers are independent, so E[q̂²]/E[q̂]² is the product of 1 + 2/n.
    return jnp.sqrt((1 + 2 / n) ** hidden_layers - 1)
    ### END SOLUTION


# %% check="03.3" points=2
check("03.3", spread)

# %% [markdown]
# Now the measurement: 2,000 networks of each width with two hidden layers. Your prediction should run through the points like this line:
# it starts at 0.75 for $n = 8$, bends a little at first, and becomes a straight line of slope $-1/2$. (Until `spread` is written, the cell shows the points only.)


# %% alt="Relative standard deviation of the output variance against width from 8 to 128, logarithmic axes: points with small error bars fall from about 0.75 to about 0.18, along a line that becomes straight with slope minus one half."
def measured_spread(width, draws=2000, groups=8):
    """The relative standard deviation over networks, in 8 groups of them."""
    x = jnp.array([[1.0, -1.0]])

    def variance(key):
        net = ntk.mlp(
            [2, width, width, 1],
            activation=ntk.Abs(),
            w_std=1.0,
            rngs=nnx.Rngs(key),
        )
        return ntk.empirical_nngp(net, x)[0, 0]

    keys = jax.random.split(jax.random.key(width), draws)
    q = jax.jit(lambda keys: jax.lax.map(variance, keys))(keys)
    q = np.asarray(q).reshape(groups, -1)
    return q.std(1, ddof=1) / q.mean(1)


widths = np.array([8.0, 16.0, 32.0, 64.0, 128.0])
measured = np.array([measured_spread(int(n)) for n in widths]).T
mean, error = plotting.mean_and_error(measured)

fig, ax = plt.subplots()
ax.errorbar(widths, mean, error, fmt="o", ls="none", capsize=2, label="measured")
try:
    ax.plot(widths, spread(jnp.asarray(widths), 2), label="your prediction")
except NotImplementedError:
    print("no prediction yet")
ax.set(xscale="log", yscale="log", xlabel="width n")
ax.set_ylabel("std of q̂ over its mean")
ax.legend()
plt.show()

# %% [markdown]
# ## 03.4 `corrected_ntk`: spot the error
#
# 15 minutes · difficulty 3 of 5 · rests on “The recursion”
#
# A colleague wrote the NTK of a ReLU network. For $\sigma_w^2 = 2$, $\sigma_b = 0$ it is symmetric, it is positive definite, and its diagonal is right (depth times $2|x|^2/d$, as it should be).
# But the mean over many networks disagrees with it, off the diagonal, by more than its error bar.


# %%
def suspect_ntk(x1, x2, affine_layers, w_std, b_std):
    """The NTK of a ReLU network, [N, M]. One line of it is wrong."""
    d = x1.shape[1]
    sigma = w_std**2 * x1 @ x2.T / d + b_std**2
    q1 = w_std**2 * jnp.sum(x1**2, axis=1) / d + b_std**2
    q2 = w_std**2 * jnp.sum(x2**2, axis=1) / d + b_std**2
    theta = sigma
    for _ in range(affine_layers - 1):
        sigma = w_std**2 * duals.relu(sigma, q1[:, None], q2[None, :])[0] + b_std**2
        slope = w_std**2 * duals.relu(sigma, q1[:, None], q2[None, :])[1]
        theta = sigma + slope * theta
        q1, q2 = (w_std**2 * q / 2 + b_std**2 for q in (q1, q2))  # E[relu²] = q/2
    return theta


def one_network(key, x, width=128):
    """Empirical NTK [N, N] of a network with three affine layers."""
    net = ntk.mlp([2, width, width, 1], w_std=2**0.5, rngs=nnx.Rngs(key))
    return ntk.empirical_ntk(net, x, method="jacobian")


points = jnp.array([[2.0**0.5, 0.0], [0.0, 2.0**0.5]])  # at right angles
keys = jax.random.split(jax.random.key(0), 1000)
networks = jax.jit(lambda k: jax.lax.map(lambda k: one_network(k, points), k))(keys)
suspect = suspect_ntk(points, points, 3, 2**0.5, 0.0)
error = networks.std(0) / len(networks) ** 0.5
for name, i, j in (("diagonal", 0, 0), ("off the diagonal", 0, 1)):
    print(f"{name}: mean of networks {networks.mean(0)[i, j]:.3g} ± {error[i, j]:.1g}, suspect {suspect[i, j]:.3g}")

# %% [markdown]
# Find the line, and write the function as it should be: the recursion, not the library's layers.


# %% task="03.4"
def corrected_ntk(x1, x2, affine_layers, w_std, b_std):
    """The NTK of a ReLU network with so many affine layers, [N, M]."""
    ### BEGIN SOLUTION
    d = x1.shape[1]
    sigma = w_std**2 * x1 @ x2.T / d + b_std**2
    q1 = w_std**2 * jnp.sum(x1**2, axis=1) / d + b_std**2
    q2 = w_std**2 * jnp.sum(x2**2, axis=1) / d + b_std**2
    theta = sigma
    for _ in range(affine_layers - 1):
        # Both expectations are over the *same* Gaussian, that of the layer below: Σ may only be replaced after
        # the slopes are taken.
        values, slopes = duals.relu(sigma, q1[:, None], q2[None, :])
        sigma = w_std**2 * values + b_std**2
        theta = sigma + w_std**2 * slopes * theta
        q1, q2 = (w_std**2 * q / 2 + b_std**2 for q in (q1, q2))
    return theta
    ### END SOLUTION


# %% check="03.4" points=2
check("03.4", corrected_ntk)

# %% [markdown]
# ## 03.5 `why_cross_terms_vanish`
#
# 10 minutes · difficulty 3 of 5 · rests on “Backward: Θ, the covariance of the gradients”
#
# In the step from layer $l$ to $l+1$ the older parameters contribute $\frac{\sigma_w^2}{n} \sum_{i,j} W_{ik} W_{jk}\, \phi'(h_i)\, \phi'(h_j')\, \Theta^l_{ij}(x, x')$, with $n^2$ terms. Two questions, two or three sentences each:
#
# 1. Why do the $n(n-1)$ terms with $i \neq j$ not matter in the limit, although there are so many more of them?
# 2. What is still random in a network of infinite width, and why can training nevertheless be described by a kernel that is not?

# %% written="03.5" points=3
answer = r"""
### BEGIN SOLUTION
1. For $i \neq j$ the units $h_i$ and $h_j$ share no weights of their own layer, so $\Theta^l_{ij}$ is zero for the first layer and of order $n^{-1/2}$ above it. Besides, $W_{ik} W_{jk}$ is a
product of independent, centred weights: a random sign. About $n^2$ terms of size $n^{-1/2}$ with random signs add up to $n \cdot n^{-1/2}$, and the factor $1/n$ leaves $n^{-1/2} \to 0$. The $n$ terms with $i = j$
carry the positive factor $W_{ik}^2$ and a $\Theta^l_{ii}$ of order one: they add up to order $n$ and give the limit.

2. Each weight is random, and so is the function at the start: $f_0$ is a draw from a Gaussian process with covariance $\Sigma^L$. But the kernels $\Sigma$ and $\Theta$ are averages over units, and an average over infinitely many independent units
is its expectation (law of large numbers). Training from $f_0$ involves the network through $\Theta$ only, which is fixed and stays fixed: the *dynamics* is deterministic, its starting point is not.
### END SOLUTION
"""
check("03.5", answer)

# %% [markdown]
# ## 03.6 `normalised`: an activation of your own
#
# 20 minutes · difficulty 4 of 5 · rests on “Quadrature and sampling”
#
# *Go further.* Any scalar function can be an activation: `ntk.Elementwise(fn)` is a layer whose dual is found by quadrature. But repeated many times most functions blow the variance up or let it die. Write a function that
# takes `fn` and returns the *layer* $\phi = c \cdot \mathrm{fn}$ with the constant $c > 0$ for which
#
# $$
# \mathbb E[\phi(Z)^2] = 1, \qquad Z \sim \mathcal N(0, 1),
# $$
#
# so that with $\sigma_w = 1$, $\sigma_b = 0$ inputs of variance 1 keep the variance 1 through any number of layers.


# %% task="03.6"
def normalised(fn):
    """An ntk.Elementwise layer for c·fn with E[(c·fn(Z))²] = 1."""
    ### BEGIN SOLUTION
    second_moment = duals.expectation(fn, fn, 1.0, 1.0, 1.0)
    c = 1.0 / jnp.sqrt(second_moment)
    return ntk.Elementwise(lambda z: c * fn(z))
    ### END SOLUTION


# %% check="03.6" points=2
check("03.6", normalised)

# %% [markdown]
# Then play. The cell shows how an angle between two inputs travels through ten layers, for three functions. Put one of your own in the list. Can you find one that keeps two
# nearly equal inputs apart? One that makes two opposite inputs equal at once? What do the limits have to do with $\mathbb E[\phi'(Z)^2]$, printed in the legend? (Chapter 06 has the theory.)


# %% alt="Correlation of two inputs after 0 to 10 layers, starting at 0.9, for three normalised activations: with tanh it falls slowly to 0.7, with a cosine it falls to nearly zero within three layers, with a bump plus a constant it rises towards one."
def correlation_after(layer, layers=10, start=0.9):
    """[layers + 1] correlations under σ_w = 1, σ_b = 0 at variance 1."""
    found = [jnp.asarray(start)]
    for _ in range(layers):
        found.append(layer.dual(found[-1], 1.0, 1.0)[0])
    return np.array(found)


candidates = {
    "tanh": jnp.tanh,
    "cos(2x)": lambda x: jnp.cos(2 * x),
    "x exp(−x²/2) + ½": lambda x: x * jnp.exp(-(x**2) / 2) + 0.5,
}
fig, ax = plt.subplots()
for i, (name, fn) in enumerate(candidates.items()):
    try:
        layer = normalised(fn)
    except NotImplementedError:
        print(f"{name}: `normalised` is not written yet")
        continue
    slope = layer.dual(1.0, 1.0, 1.0)[1]
    style = {"marker": plotting.MARKERS[i], "label": f"{name}, E[φ'²] = {slope:.2g}"}
    ax.plot(correlation_after(layer), **style)
ax.set(xlabel="hidden layers", ylabel="correlation of the two inputs", ylim=(-0.1, 1.05))
if ax.lines:
    ax.legend()
plt.show()
