# %% [markdown]
# # 19 · Scaling up
#
# **After this chapter you can**
#
# - predict from counts of operations and bytes what a kernel costs in $N$, $K$, $P$, width and depth, and choose the way to compute it;
# - say what tiles, precision, several devices and a store each buy, and what they do not;
# - solve kernel regression without ever holding the kernel matrix, predict the number of iterations from its spectrum, and work out on paper what a million examples take.
#
# **Time:** 70 minutes for the chapter, 80 for the exercises without the open one.
# You need chapter 01 (the empirical NTK), chapter 03 (its limit) and, for the last third, linear algebra up to the Cholesky factorization.
#
# ## The question
#
# For two thousand images the tangent kernel is a matrix of 16 MB, there in the blink of an eye.
# For a million it has $10^{12}$ entries.
# Regression with millions of examples has been done nevertheless (Adlam 2023).
# *What grows how, which wall comes first, and which remedy moves which wall?*
#
# We answer with **counts**: operations, bytes, iterations.
# A count is the same on every machine (iterations up to a few, by rounding); a time is not.
# So what is printed below is a count, an error or a number of iterations (and, at the end, times worked out on paper); measured times are drawn, as ratios of medians, and yours will differ.

# %%
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
from flax import nnx
from jax.extend.core import jaxprs_in_params

import ntklib as ntk
from course import scale
from ntklib import plotting
from ntklib.scale.pivoted_cholesky import PivotedCholesky
from ntklib.scale.tiles import Tiles

plotting.use_style()
plt.rcParams["figure.dpi"] = 82
paper = scale() == "paper"

N_MAX = 4000 if paper else 2000
data = ntk.load("mnist5k", n_train=N_MAX, n_test=1000).flat()
images = data.x_train.astype(np.float32)


def mlp(width=8, depth=3, K=10):
    """784 → `depth` hidden ReLU layers → K."""
    sizes = [784, *[width] * depth, K]
    return ntk.mlp(sizes, w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))


# %% [markdown]
# ## Two things to count
#
# A computation takes $W$ **operations** and moves $Q$ **bytes** between memory and processor. A machine that does $\pi$ operations and moves $\beta$ bytes a second needs at least
#
# $$t \;\ge\; \max\!\Big(\frac{W}{\pi},\; \frac{Q}{\beta}\Big), \qquad\text{and is limited by memory if}\quad \frac{W}{Q} < \frac{\pi}{\beta}. \tag{1}$$
#
# $W/Q$ is the **arithmetic intensity**.
# A laptop's core does some $10^{11}$ float32 operations in matrix products and moves $10^{10}$ bytes a second; a large GPU $10^{14}$ and $10^{12}$ or more.
# Either way $\pi/\beta$ is between ten and a hundred operations a byte.
# A sum of two arrays has the intensity 1/12 (two numbers read, one written).
# The product of an $[N, d]$ and a $[d, N]$ matrix has $2N^2d$ operations and, at best, $4(2Nd + N^2)$ bytes: $\approx d/2$ for $N \gg d$, and 153 for $N = 1000$ and $d = 784$.
# The sum is limited by memory, and the product with $d$ in the hundreds by arithmetic, on all of these machines.
#
# JAX will count for us: `jax.make_jaxpr` lists a function's elementary operations with their shapes.
# Two operations for each product in a matrix product, one for each entry of anything else; a loop counts as often as it runs.
# For the bytes assume the worst, that each operation reads its arguments from memory and writes its result there.


# %%
def count(f, *args):
    """Operations, and bytes if every operation goes through memory, of f(*args)."""

    def size(variable):
        return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize

    def walk(jaxpr):
        operations = moved = 0
        for eqn in jaxpr.eqns:
            inner = [walk(body) for body in jaxprs_in_params(eqn.params)]
            times = eqn.params.get("length", 1)
            operations += times * sum(o for o, _ in inner)
            moved += times * sum(b for _, b in inner)
            if inner:
                continue
            moved += sum(map(size, eqn.invars)) + sum(map(size, eqn.outvars))
            work = sum(math.prod(v.aval.shape) for v in eqn.outvars)
            if eqn.primitive.name == "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                shape = eqn.invars[0].aval.shape
                work *= 2 * math.prod(shape[axis] for axis in contracted)
            operations += work
        return operations, moved

    return walk(jax.make_jaxpr(f)(*args).jaxpr)


def gram_of(x):
    return jnp.einsum("id,jd->ij", x, x)


a = jnp.ones((1000, 784), jnp.float32)
for name, f in {"X + X": lambda x: x + x, "X Xᵀ": gram_of}.items():
    operations, moved = count(f, a)
    print(f"{name:6} {operations:.2g} operations, intensity {operations / moved:.2g}")
assert count(gram_of, a)[0] == 2 * 1000**2 * 784

# %% [markdown]
# ## Three ways to an empirical NTK
#
# $\Theta(x, x') = \frac1K\sum_k \partial_\theta f_k(x) \cdot \partial_\theta f_k(x')$, for a network with $P$ parameters whose evaluation takes $F$ operations an example.
# For a fully connected one $F \approx 2P$: each weight is used once.
# Write $F'$ for $F$ without the first layer, whose inputs are data and need no derivatives. All three ways give the same numbers (Novak 2022 has all three ideas, and how to combine them).
#
# **Jacobian.**
# One backward pass for each output gives $J$ $[N, K, P]$; then contract it.
# A backward pass is two products a layer, one for the derivatives by the layer's inputs ($F'$ in all), one for those by its weights ($F$), so
#
# $$W_\mathrm{jac} = N\big(F + K(F + F')\big) + 2N^2KP, \qquad \text{bytes held: } 4\,NKP. \tag{2}$$
#
# **Products.**
# $\Theta_{\cdot k}(X, x') = J_k(X)\,J_k(x')^\top$: pull output $k$ at $x'$ back to a direction in parameter space, and push that forward through all of $X$.
# A push costs $F + F'$ as well, as there are two products in $\mathrm d(aW) = \mathrm da\,W + a\,\mathrm dW$; the evaluation that goes with it is shared by the $K$ pushes:
#
# $$W_\mathrm{prod} = N(N + 1)\big(F + K(F + F')\big), \qquad \text{bytes held: } 4\,KP. \tag{3}$$
#
# No Jacobian of $X$ is ever held.
# And a push moves *all* outputs: for $\Theta_{kl}$ with every pair of outputs, $[N, N, K, K]$, this way costs the same, while the contraction in (2) becomes $2N^2K^2P$.
#
# **Layer by layer.**
# A layer $z = aW + b$ with inputs $a$ has the derivative $\partial f_k/\partial W = a^\top \delta_k$, where $\delta_k = \partial f_k/\partial z$: a matrix of rank one.
# Never form it, since
#
# $$\big\langle a^\top\delta,\; a'^\top\delta' \big\rangle = (a \cdot a')\,(\delta\cdot\delta') \quad\Longrightarrow\quad
# \Theta = \frac1K\sum_{\text{layers}} \big(a\cdot a' + 1\big) \sum_k \delta_k\cdot\delta_k'. \tag{4}$$
#
# (In the NTK parameterization $\sigma_w^2/n_\mathrm{in}$ and $\sigma_b^2$ stand before the two terms.) The backward pass needs no derivatives by weights, only the $\delta$, so
#
# $$W_\mathrm{layer} = N(F + KF') + 2N^2 \sum_{\text{layers}} (n_\mathrm{in} + K n_\mathrm{out}), \qquad \text{bytes held: } 4\,N\sum_\text{layers} (n_\mathrm{in} + K n_\mathrm{out}). \tag{5}$$
#
# A pair of examples costs a *sum* of widths where the Jacobian needs $P$, a sum of their *products*.
# Here are all three.
# (A trick for $\delta$: add a zero to each $z$, and differentiate with respect to that.)


# %%
def forward(weights, x, shifts):
    """f(x) [K], and the inputs of all layers, for one x [d]."""
    inputs = []
    for (W, b), shift in zip(weights, shifts, strict=True):
        inputs.append(x)
        z = (2 / W.shape[0]) ** 0.5 * (x @ W) + 0.1 * b + shift
        x = jax.nn.relu(z)
    return z, inputs


def by_jacobian(weights, zeros, x):
    f = lambda weights, x: forward(weights, x, zeros)[0]  # noqa: E731
    jac = jax.vmap(jax.jacrev(f), in_axes=(None, 0))(weights, x)
    K = zeros[-1].shape[0]
    leaves = [leaf.reshape(len(x), K, -1) for leaf in jax.tree.leaves(jac)]
    return sum(jnp.einsum("ikp,jkp->ij", leaf, leaf) for leaf in leaves) / K


def by_products(weights, zeros, x):
    f = lambda weights, x: forward(weights, x, zeros)[0]  # noqa: E731
    K = zeros[-1].shape[0]

    def column(one):  # Θ(X, one)
        _, pull = jax.vjp(lambda w: f(w, one), weights)

        def output(unit):
            (direction,) = pull(unit)
            on_all = lambda w: jax.vmap(f, in_axes=(None, 0))(w, x)  # noqa: E731
            return jax.jvp(on_all, (weights,), (direction,))[1] @ unit

        return jax.vmap(output)(jnp.eye(K)).sum(0) / K

    return jax.lax.map(column, x).T


# %%
def by_layers(weights, zeros, x):
    def one(x):  # δ of all layers, each [K, n_out], and the inputs
        return jax.jacrev(lambda s: forward(weights, x, s), has_aux=True)(zeros)

    deltas, inputs = jax.vmap(one)(x)
    theta = 0.0
    for a, delta in zip(inputs, deltas, strict=True):
        affine = 2 / a.shape[1] * (a @ a.T) + 0.1**2
        theta += affine * jnp.einsum("ikn,jkn->ij", delta, delta)
    return theta / zeros[-1].shape[0]


WAYS = {"jacobian": by_jacobian, "products": by_products, "layerwise": by_layers}


def parts(net):
    layers = net.layers[::2]
    weights = [(layer.W[...], layer.b[...]) for layer in layers]
    return weights, [jnp.zeros(b.shape) for _, b in weights]


def formulas(N, n, K, depth=2):
    """Operations of the three ways, equations (2), (3) and (5)."""
    sizes = [784, *[n] * depth, K]
    layers = list(itertools.pairwise(sizes))
    P = sum(n_in * n_out + n_out for n_in, n_out in layers)
    F = 2 * sum(n_in * n_out for n_in, n_out in layers)
    rest = F - 2 * 784 * n  # F'
    widths = sum(n_in + K * n_out for n_in, n_out in layers)
    return {
        "jacobian": N * (F + K * (F + rest)) + 2 * N**2 * K * P,
        "products": N * (N + 1) * (F + K * (F + rest)),
        "layerwise": N * (F + K * rest) + 2 * N**2 * widths,
    }


# %%
net = mlp(width=64, depth=2)
x = jnp.asarray(images[:16])
for name, way in WAYS.items():
    own = jax.jit(way)(*parts(net), x)
    library = ntk.empirical_ntk(net, x, method=name)
    error = float(jnp.abs(own - library).max() / jnp.abs(library).max())
    print(f"{name}: equal to ntk.empirical_ntk to 1e-5: {error < 1e-5}")  # float32: 784 products
    assert error < 1e-5

# %% [markdown]
# The prediction, over $N$: slope 1, then 2. For the first two ways the bend lies between $N = 1$ and 2, left of the figure, and for the third near $N = 150$.
# Over $K$ all are linear, up to what does not depend on $K$.
# Over the width $n$ the first two are quadratic once $n$ is larger than the 784 inputs. In the third the part of the pairs is linear, and that of the examples is quadratic at last.
# Dots are counts from the jaxpr of the code above.

# %%
base = {"N": 64, "n": 256, "K": 10}
grids = {
    "N": [4, 16, 64, 256, 1024],
    "K": [1, 3, 10, 30, 100],
    "n": [32, 128, 512, 2048],
}


def counted(N, n, K):
    """Operations of the three ways, from the jaxpr."""
    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")  # noqa: E731
    sizes = [784, n, n, K]
    weights = [(f32(a, b), f32(b)) for a, b in itertools.pairwise(sizes)]
    shifts = [f32(b) for b in sizes[1:]]
    return [count(way, weights, shifts, f32(N, 784))[0] for way in WAYS.values()]


points, lines = {}, {}  # [values, ways] of each panel
for name, grid in grids.items():
    at = [{**base, name: value} for value in grid]
    points[name] = np.array([counted(**sizes) for sizes in at])
    lines[name] = np.array([list(formulas(**sizes).values()) for sizes in at])

# %% alt="Three log-log panels of operations: over N, over outputs K, over width n. In each, dots lie on the lines of the formulae; products on top, the Jacobian below by a factor of up to 2.2 and hardly at all at 4 examples, layerwise far below: from 15 times fewer operations than the Jacobian at 4 examples to 360 times fewer at 1,024, and about a hundred times fewer at all widths."
labels = {"N": "examples N", "K": "outputs K", "n": "width n"}
fig, axes = plt.subplots(1, 3, figsize=(8.4, 3), sharey=True)
for ax, (name, grid) in zip(axes, grids.items(), strict=True):
    for i, way in enumerate(WAYS):
        style = {"color": plotting.COLOURS[i]}
        ax.plot(grid, lines[name][:, i], ls=plotting.DASHES[i], **style)
        style |= {"ls": "none", "marker": plotting.MARKERS[i], "ms": 5}
        ax.plot(grid, points[name][:, i], label=way, **style)
    others = ", ".join(f"{k} = {v}" for k, v in base.items() if k != name)
    ax.set(xscale="log", yscale="log", xlabel=labels[name], title=others)
axes[0].set_ylabel("operations")
axes[0].plot([], [], "k-", label="formulae (2), (3), (5)")
axes[1].legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="upper left")
plt.show()

# %%
off = np.concatenate([points[name] / lines[name] for name in grids])
print("counted over predicted, smallest and largest:")
for way, ratios in zip(WAYS, off.T, strict=True):
    print(f"  {way}: {ratios.min():.2f} to {ratios.max():.2f}")
    assert 0.75 < ratios.min() < ratios.max() < 1.35

# %% [markdown]
# The formulae are right to a few percent where they should be.
# (The Jacobian's extra are scalings of its entries, which count where $N$ is small.
# The third way has less to do where $K$ is large: the readout's backward pass is the same for all examples and is done once.)
#
# **Where each wins.** For a pair of examples, all biases left out:
#
# | | mean over outputs | all pairs of outputs |
# |---|---|---|
# | Jacobian | $2KP$ | $2K^2P$ |
# | products | $K(F + F')$ | $K(F + F')$ |
# | layer by layer | $2\sum(n_\mathrm{in} + Kn_\mathrm{out})$ | $2\sum(n_\mathrm{in} + K^2n_\mathrm{out})$ |
#
# A convolution uses one kernel at $T$ positions.
# Then $F = 2PT$, and (4) becomes a sum over pairs of positions, $T^2$ terms; or the layer's own Jacobian is formed, $2KP$ a pair.
# The layerwise method of `ntk.empirical_ntk` makes this choice for each layer. `method="auto"` then counts the operations of all three methods for the whole network (those of the products 1.5 times, as they take longer), and takes the one with the fewest.


# %%
def a_pair(layers, K, full, positions=1):
    """Operations a pair of examples of a stack of layers (n_in, n_out)."""
    square = K * K if full else K
    P = sum(i * o for i, o in layers)
    widths = sum(i + square * o for i, o in layers)
    return 2 * square * P, 4 * K * P * positions, 2 * positions**2 * widths


dense, conv = [(512, 512)] * 2, [(9 * 32, 32)]
regimes = {
    "dense 512, K = 10": a_pair(dense, 10, False),
    "dense 512, K = 10, all pairs": a_pair(dense, 10, True),
    "dense 512, K = 4000, all pairs": a_pair(dense, 4000, True),
    "conv 3×3×32, 8×8 pixels, K = 10": a_pair(conv, 10, False, 64),
    "conv 3×3×32, 2×2 pixels, K = 10": a_pair(conv, 10, False, 4),
}
print(f"{'operations a pair':32} jacobian  products  layerwise")
for name, row in regimes.items():
    cells = (f"{v:.1e}{'*' if v == min(row) else ' '}" for v in row)
    print(f"{name:32}", *(f"{cell:>9}" for cell in cells))
best = [int(np.argmin(row)) for row in regimes.values()]
assert best == [2, 2, 1, 0, 2]  # each of the three wins somewhere

# %% [markdown]
# Are counts times?
# A matrix product of a million entries and one of a hundred do not run at the same rate, and what is limited by memory does not run at any rate that counts operations.
# So expect the order and the magnitude of the ratios, not their digits.
# Here are the three methods of the library, and how many bytes the compiler sets aside for them.
# (Where this page was made the products, with *more* operations than the Jacobian, take less time: they do not move $NKP$ numbers through memory.
# A count of operations is half of a prediction.)


# %%
def medians(calls, rounds=5):
    """Median seconds of each call, alternating; the first round compiles."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - begin)
    return {name: float(np.median(s[1:])) for name, s in seconds.items()}


width = 64
net = mlp(width, depth=2)
apply_fn, params = ntk.functional(net)
grid = [4, 8, 16, 32]
times, memory = [], []
for N in grid:
    x = jnp.asarray(images[:N])
    calls, room = {}, []
    for name in WAYS:

        def kernel(p, x, name=name):
            return ntk.empirical_ntk((apply_fn, p), x, method=name)

        kernel = jax.jit(kernel).lower(params, x).compile()
        calls[name] = lambda kernel=kernel, x=x: kernel(params, x)
        room.append(kernel.memory_analysis().temp_size_in_bytes)
    times.append(list(medians(calls).values()))
    memory.append(room)
times, memory = np.array(times), np.array(memory)
counts = np.array([list(formulas(N, width, 10).values()) for N in grid])
P = sum(leaf.size for leaf in jax.tree.leaves(params))
widths = 784 + 2 * width + 10 * (2 * width + 10)
numbers = [[N * 10 * P, 10 * P, N * widths] for N in grid]
bytes_held = 4 * np.array(numbers)

# %% alt="Two panels against the number of examples, from 4 to 32. Left: time over that of the layerwise method, products and Jacobian ten or more times slower; the Jacobian's dots lie near the line of the ratio of counts, those of the products below theirs by a factor of two to three. Right: working memory; the Jacobian's grows along its line to some seventy megabytes, that of the products stays at two, the layerwise method's stays under one."
fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3))
for i, name in enumerate(WAYS):
    style = {"color": plotting.COLOURS[i]}
    left.plot(grid, counts[:, i] / counts[:, 2], ls=plotting.DASHES[i], **style)
    dots = style | {"ls": "none", "marker": plotting.MARKERS[i], "ms": 5}
    left.plot(grid, times[:, i] / times[:, 2], label=f"{name}, timed", **dots)
    right.plot(grid, memory[:, i] / 1e6, label=name, **dots)
    line = {"color": plotting.COLOURS[i], "ls": plotting.DASHES[i]}
    right.plot(grid, bytes_held[:, i] / 1e6, **line)
left.plot([], [], "k-", label="ratio of counts")
left.set(xscale="log", yscale="log", ylim=(0.6, 3e3), xlabel="examples N")
left.set_ylabel("time over that of layerwise")
right.plot([], [], "k-", label="(2), (3), (5)")
right.set(xscale="log", yscale="log", ylim=(0.02, 2e3), xlabel="examples N")
right.set_ylabel("working memory (MB)")
for ax in (left, right):
    ax.set_xticks(grid, grid)
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="upper left", ncols=2)
plt.show()

# %%
slopes = np.polyfit(np.log(grid), np.log(memory[:, [0, 2]]), 1)[0]
print(f"slope of the Jacobian's memory over N: {slopes[0]:.1f}")
over = memory / bytes_held
for i, name in enumerate(WAYS):
    near = 0.5 < over[:, i].min() <= over[:, i].max() < 2
    print(f"{name}: memory within a factor of two of the prediction: {near}")
    assert near
assert 0.8 < slopes[0] < 1.3
assert memory[-1, 0] > 10 * memory[-1, 2]
assert times[-1, 2] < times[-1, 0]  # by a large factor, in truth

# %% [markdown]
# ## The infinitely wide network
#
# The analytic kernel is a matrix product, $XX^\top/d$, and then the recursion of chapter 03, entry by entry:
# $\Sigma \leftarrow \sigma_w^2\,\mathbb E[\phi\phi] + \sigma_b^2$, $\Theta \leftarrow \Sigma + \sigma_w^2\,\mathbb E[\phi'\phi']\,\Theta$.
# No width and no $P$ occurs; $K$ neither.
# The cost is
#
# $$W = N^2\,(2d + c\,L), \qquad L \text{ hidden layers}, \; c \text{ operations an entry and layer}. \tag{6}$$
#
# The first term has the intensity of a matrix product.
# The second is a chain of operations on single entries, with an intensity of about 1/10 if each goes through memory:
# the product of 784 columns is $1568$ operations an entry and cheap; a layer's twenty are dear.
# Here it is for ReLU, with the formulas of chapter 03 as they stand there.


# %%
def relu(sigma, q1, q2):
    """E[φ(u) φ(v)] and E[φ'(u) φ'(v)], [N, M], by the correlation of u and v."""
    size = jnp.sqrt(q1[:, None] * q2)
    rho = jnp.clip(sigma / size, -1, 1)
    rest = jnp.pi - jnp.arccos(rho)
    values = size * (jnp.sqrt(1 - rho**2) + rest * rho)
    return values / (2 * jnp.pi), rest / (2 * jnp.pi)


def recursion(x1, x2, depth=3):
    """Θ of `mlp(depth=depth)` in the limit: the recursion on covariances."""
    d = x1.shape[1]
    sigma, q1, q2 = x1 @ x2.T / d, jnp.sum(x1**2, 1) / d, jnp.sum(x2**2, 1) / d
    theta = jnp.zeros_like(sigma)
    for layer in range(depth + 1):
        if layer > 0:
            sigma, slopes = relu(sigma, q1, q2)
            q1, q2, theta = q1 / 2, q2 / 2, theta * slopes
        sigma, q1, q2 = (2 * q + 0.1**2 for q in (sigma, q1, q2))
        theta = sigma + 2 * theta
    return theta


def whole(x, depth=3):
    return recursion(x, x, depth)


def entries(N):
    return jax.ShapeDtypeStruct((N, 784), "float32")


# %%
N = 1024
by_depth = {}
for depth in (1, 2, 3, 10, 20):
    operations, moved = count(lambda x, depth=depth: whole(x, depth), entries(N))
    by_depth[depth] = operations / N**2 - 2 * 784, moved / (4 * N**2)
per_layer, passes = np.polyfit(list(by_depth), list(by_depth.values()), 1)[0]
print(f"c, operations an entry and layer: {per_layer:.0f}")
print(f"reads and writes of an [N, N] array a layer: {passes:.0f}")
for depth, (operations, _) in by_depth.items():
    fit = by_depth[1][0] + per_layer * (depth - 1)
    assert abs(operations / fit - 1) < 0.05  # linear in depth

# %% [markdown]
# Three ideas should help; let us see what each is worth.
#
# 1. **Tiles.**
#    An $[N, N]$ array of 2,000 inputs is 16 MB and does not fit a core's cache; one of $256 \times 256$ entries is 256 kB, and does.
#    Take the *whole recursion* for a tile before going on to the next, and the chain never leaves the cache.
# 2. **Fusion.** A compiler may do the same on a smaller scale: compute the whole chain for one entry in registers. XLA does, under `jax.jit`.
# 3. **Half.** $\Theta(X, X)$ is symmetric: of $b^2$ tiles $b(b+1)/2$ need computing. A whole-matrix form cannot skip the other half.
#
# How much does XLA fuse? It reports the bytes which the compiled function accesses.

# %%
compiled = jax.jit(whole).lower(entries(N)).compile()
fused = compiled.cost_analysis()["bytes accessed"] / (4 * N**2)
print(f"passes over an [N, N] array, operation by operation: {by_depth[3][1]:.0f}")
print(f"compiled, below ten: {fused < 10}")
assert fused < 10 < by_depth[3][1] / 5

# %%
net = mlp()
x = jnp.asarray(images[:N])
tile = 256
blocks = [x[i : i + tile] for i in range(0, N, tile)]
spans = [slice(i, i + tile) for i in range(0, N, tile)]
on_tile = jax.jit(recursion)


def by_tiles(f, half):
    out = np.empty((N, N), np.float32)
    for i, rows in enumerate(spans):
        for j in range(i if half else 0, len(spans)):
            part = np.asarray(f(blocks[i], blocks[j]))
            out[rows, spans[j]] = part
            if half:
                out[spans[j], rows] = part.T
    return out


ways = {
    "one by one, whole": lambda: recursion(x, x),
    "compiled, whole": lambda: on_tile(x, x),
    "compiled, tiles": lambda: by_tiles(on_tile, False),
    "compiled, half of the tiles": lambda: by_tiles(on_tile, True),
    "ntk.gram": lambda: ntk.gram(net, x),
}
seconds = medians(ways)

# %% alt="Bars of time over that of gram, for 1,024 inputs: operation by operation more than 2, then compiled on all tiles, compiled whole, compiled on half of the tiles, and gram at 1."
fig, ax = plt.subplots(figsize=(6.4, 2.8))
ratios = np.array(list(seconds.values())) / seconds["ntk.gram"]
ax.barh(list(ways), ratios, color=plotting.COLOURS[0])
ax.bar_label(ax.containers[0], fmt="%.1f", padding=3)
ax.invert_yaxis()
ax.set(xlabel="median time over that of ntk.gram (this machine)")
plt.show()

# %%
results = [np.asarray(way()) for way in ways.values()]
outside = ~np.eye(N, dtype=bool)
largest = max(np.abs(r - results[-1])[outside].max() for r in results)
print("the five agree outside the diagonal, relative to its mean, to 1e-5:", end=" ")
print(largest < 1e-5 * np.diag(results[-1]).mean())
assert largest < 1e-5 * np.diag(results[-1]).mean()
assert seconds["ntk.gram"] < seconds["one by one, whole"]

# %% [markdown]
# On the machine where this page was made the compiled function is faster, but nowhere near thirty times, as the bytes are fewer.
# So the compiled one is not limited by memory. What is left is arithmetic: the product with 784 columns, and `arccos`.
# And tiles gain **nothing** on top of fusion, since there is no traffic left for a cache to save.
# "Tiles stay in the cache" is the right reason only where operations are not fused. What tiles are needed for is the rest:
#
# - the half of the work that symmetry saves (a factor that tends to 2);
# - a bound on memory: besides inputs and result nothing is there but the work on a tile or two for each core (some 25 MB) (`max_memory=`);
# - several cores and devices, as tiles do not depend on each other;
# - and an order in which a result can be stored, and an interrupted run goes on.
#
# `gram` computes half of the tiles as well, with polynomials in the place of `arccos`,
# on vectors of 512 bits where the processor has them (XLA takes 256), and with another number than $\rho$ to iterate on, which is the next section.
# With three layers the product takes most of the time of `gram`, and the last two bars differ by less than a factor of two. With 20 the chain does, and `gram` took less than a third of the time of the half of the tiles, in a trial outside of this notebook.

# %%
tight = ntk.gram(net, x, max_memory=4 * N**2 + 6e6)  # the result and 6 MB
same = bool((jnp.abs(tight / results[-1] - 1) < 1e-5).all())
print("the same kernel in 6 MB besides the result:", same)
try:
    ntk.gram(net, x, max_memory=4 * N**2)
    refused = False
except ValueError:
    refused = True
print("in nothing besides it: refused, before anything is computed:", refused)
assert same
assert refused

# %% [markdown]
# ## Precision: where half of the digits go
#
# Outside the diagonal, we said.
# On it, and for inputs that are nearly the same, our recursion has a trap.
# It needs the angle $\theta = \arccos\rho$ between two hidden representations.
# Near $\rho = 1$, $\rho \approx 1 - \theta^2/2$: what differs from 1 is *quadratic* in the angle, and rounding
# $\rho$ by $\varepsilon$ changes the angle by
#
# $$|\Delta\theta| \approx \frac{\varepsilon}{\sin\theta} \quad(\theta \gg \sqrt\varepsilon), \qquad\text{at most}\quad \sqrt{2\varepsilon}. \tag{7}$$
#
# So of the 7 digits of float32 about three and a half are left. $\mathbb E[\phi'\phi'] = \frac12(1 - \theta/\pi)$ is linear in $\theta$ and hands the loss on to $\Theta$, in every layer.
#
# The cure: do not store $\rho$.
# Store $g = 1 - \rho$, which is small where the inputs are near, so that a *relative* rounding error of it does no harm.
# At the start it is a sum of squares, $g = \frac12\big\|\frac{x}{\|x\|} - \frac{x'}{\|x'\|}\big\|^2$.
# Behind a ReLU, with $\theta = 2\arcsin\sqrt{g/2}$, it is
#
# $$g' = g - \frac1\pi(\sin\theta - \theta\cos\theta), \qquad \sin\theta - \theta\cos\theta \approx \tfrac13\theta^3 . \tag{8}$$
#
# Near duplicates, $g'$ and $g$ differ by a term of third order only.
# That term is itself a difference of nearly equal numbers, so it is computed as $g^{3/2}$ times a polynomial in $g$.
# Weights do not change $g$, and a bias, at equal norms, multiplies it by $(q - \sigma_b^2)/q$, $q$ the variance with the bias.
# This is what `net.kernel` does, and `gram` (which takes the sum of squares for near pairs only).
# (Near $\rho = -1$ odd functions have the same trap; so both store $1 - |\rho|$, and the sign.)
#
# To measure it: 32 images $x$ and neighbors $x + a\,e$, with $e \perp x$ as long as $x$, so that $\theta \approx a$. Reference: the same float32 numbers, in float64.

# %%
rng = np.random.default_rng(0)
angles = np.logspace(-5, -0.5, 10)
x = images[:32]
direction = rng.normal(size=x.shape)
direction -= (np.sum(direction * x, 1) / np.sum(x * x, 1))[:, None] * x
direction *= (np.linalg.norm(x, axis=1) / np.linalg.norm(direction, axis=1))[:, None]
near = np.concatenate([(x + a * direction).astype(np.float32) for a in angles])


def pairs_of(kernel):
    """Entries of an image and its neighbors, [angles, images], from [32, 320]."""
    parts = np.split(np.asarray(kernel), 10, axis=1)
    return np.array([np.diag(part) for part in parts])


def errors(depth, a, b, pick):
    """Largest relative errors in float32 of the three ways to Θ."""
    net = mlp(depth=depth)
    with jax.enable_x64(True):
        want = pick(ntk.gram(net, a.astype(float), b.astype(float)))
    ways = recursion(a, b, depth), net.kernel(a, b).ntk, ntk.gram(net, a, b)
    return np.array([np.abs(pick(k) / want - 1).max(-1) for k in ways])


near_errors = errors(3, x, near, pairs_of)
depths = (1, 8, 20)
diagonal = lambda k: np.diag(np.asarray(k))  # noqa: E731
diagonal_errors = np.array([errors(L, x, x, diagonal) for L in depths])

# %% alt="Two panels. Left: relative error against the angle between near duplicates on log-log axes; the recursion on covariances in float32 follows a line falling as one over the angle and levels off between 3e-4 and 1e-3, net.kernel and gram in float32 stay near 2e-7. Right: error on the diagonal over depth: that of the recursion grows from 4e-4 for one hidden layer to 8e-3 for twenty, net.kernel and gram stay below 1e-6."
fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3), sharey=True)
epsilon = float(np.finfo(np.float32).eps)
for i, name in enumerate(("covariances", "net.kernel", "ntk.gram")):
    style = {"marker": plotting.MARKERS[i], "ls": "none", "color": plotting.COLOURS[i]}
    left.plot(angles, np.maximum(near_errors[i], 1e-9), label=name, **style)
    right.plot(depths, np.maximum(diagonal_errors[:, i], 1e-9), label=name, **style)
bound = np.minimum(epsilon / angles, (2 * epsilon) ** 0.5)
left.plot(angles, bound, "k-", lw=1, label="(7)")
for ax in (left, right):
    ax.axhline(epsilon, color="0.5", ls=":", lw=1, label="float32, ε")
    ax.set(yscale="log")
    ax.legend(fontsize=8)
left.set(xscale="log", xlabel="angle θ between near duplicates (rad)")
left.set_ylabel("relative error of Θ (largest)")
right.set(xlabel="hidden layers", title="on the diagonal")
plt.show()

# %%
by_rho, by_gap = near_errors[0], near_errors[1:]
falling = (angles > 1e-3) & (angles < 0.1)
slope = np.polyfit(np.log(angles[falling]), np.log(by_rho[falling]), 1)[0]
as_said = abs(slope + 1) < 0.3
print(f"covariances, slope over the angle is -1, as in (7), to 0.3: {as_said}")
print(f"most digits lost by covariances: {np.log10(by_rho.max() / epsilon):.0f}")
print(f"net.kernel and gram, errors below 2e-6: {by_gap.max() < 2e-6}")
worst = diagonal_errors[-1]
print(f"diagonal, depth 20, by covariances: 1e{np.log10(worst[0]):.0f}")
print(f"  by net.kernel and gram, below 2e-6: {worst[1:].max() < 2e-6}")
assert as_said
assert by_gap.max() < 2e-6
assert 0.1 < by_rho.max() / (2 * epsilon) ** 0.5 < 10
assert diagonal_errors[:, 1:].max() < 2e-6 < 1e-4 < worst[0]

# %% [markdown]
# The plateau is $\sqrt{2\varepsilon}$ up to a factor that grows with the number of layers; the fall is (7).
# On the diagonal the loss has a further effect: wherever $\rho = 1$ is rounded down, $\Theta(x, x)$ comes out too small, which makes a kernel matrix *indefinite* sooner than the data do.
# Float64 is no cure but a shift: the covariances lose half of 16 digits, and it is slower, on many GPUs by a factor of thirty or more.
#
# ## More than one device
#
# A tile needs two blocks of rows of $X$, and nobody else's result.
# So devices need not talk to each other while they compute: with $D$ devices each does $1/D$ of the tiles.
# The number of devices is fixed when JAX starts; on a CPU one can ask for several ("host-platform devices"), by an environment variable that
# has to be set *before*. Hence a process of its own, here. `gram(mesh=...)` shares the tiles among the devices of the mesh, and leaves the result with them, by rows.
#
# Across *processes*, on one machine or many, `jax.distributed` connects them first; then the same line of code does. (Each process computes the rows of its own devices, so that symmetry saves work only within these.)
# We run three things: one process with two devices; the same process writes to a folder, a *store*, is *killed* while it writes, and the run goes on from what is there; and two processes, on the loopback, share a store: each writes its own tiles.
# What counts in each case: that the numbers are the same, to the last bit.

# %%
SCRIPT = """
import sys, json, os, threading, time, pathlib
import jax, numpy as np
from flax import nnx
import ntklib as ntk

task, folder, port, number = sys.argv[1:]
if task == "share":
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes=2, process_id=int(number)
    )
x = ntk.load("mnist5k", n_train=1024, n_test=10).flat().x_train
net = ntk.mlp([784, 8, 8, 8, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
store = pathlib.Path(folder) / task
mesh = jax.make_mesh((jax.device_count(),), ("rows",))
if task == "mesh":
    k = ntk.gram(net, x, tile=128, mesh=mesh)
    np.save(store.with_suffix(".npy"), np.asarray(k))
    print(json.dumps([s.data.shape for s in k.addressable_shards]))

    def killer():  # once a few tiles are there
        while len(list(pathlib.Path(folder, "killed").glob("c/*/*[0-9]"))) < 3:
            time.sleep(0.001)
        os._exit(9)

    threading.Thread(target=killer).start()
    ntk.gram(net, x, tile=128, store=pathlib.Path(folder, "killed"))
else:
    k = ntk.gram(net, x, tile=128, mesh=mesh)
    print(json.dumps([s.data.shape for s in k.addressable_shards]))
    ntk.gram(net, x, tile=128, store=store)
"""


# %%
def processes(task, folder, count, devices):
    """Run the script in `count` processes; what they print, and how they end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, task, folder, port, str(number)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(count)
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    shapes = [json.loads(line.splitlines()[0]) for line in said]
    return shapes, [process.returncode for process in started]


# %%
x = images[:1024]
net = mlp()
one_device = np.asarray(ntk.gram(net, x, tile=128))
with tempfile.TemporaryDirectory() as folder:
    shapes, ended = processes("mesh", folder, count=1, devices=2)
    two_devices = np.load(Path(folder) / "mesh.npy")
    print("one process, two devices; rows on each:", [s[0] for s in shapes[0]])
    print("  same bytes as one device:", bool((two_devices == one_device).all()))
    killed = Path(folder) / "killed"
    chunks = killed.glob("c/*/*[0-9]")
    before = {path: path.stat().st_mtime_ns for path in chunks}
    print("killed while it wrote, with tiles left to do:", len(before) < 8**2)
    resumed = np.asarray(ntk.gram(net, x, store=killed))
    mirror = {path: killed / "c" / path.name / path.parent.name for path in before}
    whole_pairs = [path for path in before if mirror[path] in before]
    kept = all(path.stat().st_mtime_ns == before[path] for path in whole_pairs)
    print("  gone on; tiles there with their mirror images are kept:", kept)
    print("  same bytes as an unbroken run:", bool((resumed == one_device).all()))
    assert ended == [9]
    assert 3 <= len(before) < 64
    assert kept
    assert (resumed == one_device).all()
    assert (two_devices == one_device).all()
    try:
        ntk.gram(mlp(depth=4), x, store=killed)
    except ValueError as error:
        print("  another network, same store: refused:", "another run" in str(error))

# %%
with tempfile.TemporaryDirectory() as folder:
    shapes, ended = processes("share", folder, count=2, devices=1)
    shared = np.asarray(ntk.gram(net, x, store=Path(folder) / "share"))
    print("two processes; rows with each:", [s[0][0] for s in shapes])
    print("  their common store, same bytes:", bool((shared == one_device).all()))
    assert ended == [0, 0]
    assert (shared == one_device).all()

# %% [markdown]
# ## Solving without the matrix: conjugate gradients
#
# Regression needs $\alpha = (\Theta + \lambda)^{-1}y$.
# The ridge is relative, as everywhere in this course: $\lambda = \text{ridge}\cdot\mathrm{tr}\,\Theta/N$.
# Cholesky takes $N^3/3$ operations, and the matrix has to be there.
# Conjugate gradients (CG) only ask for products $(\Theta + \lambda)v$: $2N^2$ operations each, tile by tile, and a tile can be thrown away after use.
#
# **How many products?**
# Write $A = \Theta + \lambda$.
# After $k$ steps CG has the vector in the span of $y, Ay, \dots, A^{k-1}y$ with the smallest error in the norm $\|e\|_A^2 = e^\top A e$.
# So with *any* polynomial $p$ of degree $k$ and $p(0) = 1$ at hand,
#
# $$\frac{\|e_k\|_A}{\|e_0\|_A} \;\le\; \max_{i}\, |p(\lambda_i)|. \tag{9}$$
#
# Chebyshev's polynomial is the smallest on a whole interval $[\lambda_{\min}, \lambda_{\max}]$, and gives the textbook bound with $\kappa = \lambda_{\max}/\lambda_{\min}$:
#
# $$\frac{\|e_k\|_A}{\|e_0\|_A} \le 2\Big(\frac{\sqrt\kappa - 1}{\sqrt\kappa + 1}\Big)^{k} \approx 2e^{-2k/\sqrt\kappa}. \tag{10}$$
#
# It takes the spectrum for a filled interval. That of a tangent kernel is nothing like it: a few huge eigenvalues, many small ones.
# Spend one root of $p$ on each of the $m$ largest, $\prod_i (1 - \lambda/\lambda_i)$: on the others this is between 0 and 1 and does no harm.
# What is left of the degree goes into Chebyshev on the rest:
#
# $$\frac{\|e_k\|_A}{\|e_0\|_A} \le \min_m\; 2\Big(\frac{\sqrt{\kappa_m} - 1}{\sqrt{\kappa_m} + 1}\Big)^{k - m}, \qquad \kappa_m = \frac{\lambda_{m+1}}{\lambda_{\min}}. \tag{11}$$
#
# **A preconditioner** changes the spectrum: CG with $M^{-1}$ behaves as for $M^{-1}A$ (which is similar to a symmetric matrix if $M$ is symmetric and positive; that it must be).
# Take $M = FF^\top + \lambda$, with $F$ $[N, r]$ from $r$ columns of the kernel, by randomly pivoted Cholesky (Chen 2022).
# If $FF^\top$ has the large eigenvalues right, $M^{-1}A$ has ones there. By the Woodbury identity, $M^{-1}v = \big(v - F(\lambda + F^\top F)^{-1}F^\top v\big)/\lambda$: an $r\times r$ system.
#
# Here are the dozen lines, with the errors measured against Cholesky.


# %%
def cg(A, b, inverse=lambda r: r, steps=100, clean=False):
    """Iterates [steps + 1, N] of preconditioned conjugate gradients for A x = b.

    clean: keep the residuals orthogonal, as they are without rounding.
    """
    x, r = np.zeros_like(b), b.copy()
    z = inverse(r)
    p, iterates, units = z, [x], []
    for _ in range(steps):
        units.append(r / np.linalg.norm(r))
        Ap = A @ p
        step = (r @ z) / (p @ Ap)
        x, r_new = x + step * p, r - step * Ap
        for _ in range(2 if clean else 0):
            r_new = r_new - np.array(units).T @ (np.array(units) @ r_new)
        z_new = inverse(r_new)
        p = z_new + (r_new @ z_new) / (r @ z) * p
        r, z = r_new, z_new
        iterates.append(x)
    return np.array(iterates)


def bound(eigenvalues, k, outliers):
    """Equation (11) for k [steps]; eigenvalues in ascending order."""
    best = np.ones(len(k))
    for m in outliers:
        root = (eigenvalues[-1 - m] / eigenvalues[0]) ** 0.5
        rate = (root - 1) / (root + 1)
        best = np.minimum(best, 2 * rate ** np.maximum(k - m, 0))
    return best


# %%
N, ridge, rank, steps = 1000, 1e-3, 100, 110
x_train = images[:N_MAX]
y_all = np.asarray(ntk.one_hot_centered(data.y_train, 10), float)
with jax.enable_x64(True):
    theta_all = np.asarray(ntk.gram(mlp(), x_train.astype(float)))
    theta_test = np.asarray(ntk.gram(mlp(), data.x_test.astype(float), x_train))
theta = theta_all[:N, :N]
lam = ridge * np.trace(theta) / N
A, y = theta + lam * np.eye(N), y_all[:N]

tiles = Tiles(mlp(), x_train[:N])
factor = PivotedCholesky(tiles, np.diag(theta), rank, lam, np.random.default_rng(0))
M = factor.factor @ factor.factor.T + lam * np.eye(N)
spectra = {
    "plain": np.linalg.eigvalsh(A),
    "preconditioned": scipy.linalg.eigh(A, M, eigvals_only=True),
}
exact = scipy.linalg.cho_solve(scipy.linalg.cho_factor(A), y[:, 3])
runs = {
    "plain": cg(A, y[:, 3], steps=steps),
    "preconditioned": cg(A, y[:, 3], factor, steps=steps),
}


def error_of(iterates):
    e = iterates - exact
    norms = np.sqrt(np.einsum("ki,ki->k", e @ A, e))
    return norms / norms[0]


def first_below(values, level):
    return int(np.argmax(values <= level))


# %% alt="Left: eigenvalues by rank on a log axis, the rank on a log axis as well. Plain: the first is 3,000, the second 200, then they fall to below one. Preconditioned: from 2,200 slowly down to a few hundred, then the last hundred at one. Right: error in the A-norm over iterations. Dots of plain CG fall below the dash-dotted bound of outliers up to 65 iterations and then cross it, far below the dashed textbook bound; the dotted line without rounding stays below the bound. Preconditioned dots fall about twice as fast, far below both of their bounds."
k = np.arange(1001)
fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2))
needed = {}
for i, (name, spectrum) in enumerate(spectra.items()):
    style = {"color": plotting.COLOURS[i]}
    dash = plotting.DASHES[i]
    left.plot(np.arange(1, N + 1), spectrum[::-1], ls=dash, label=name, **style)
    dots = {"ls": "none", "marker": plotting.MARKERS[i], "ms": 3, "markevery": 4}
    measured = error_of(runs[name])
    right.plot(k[: steps + 1], measured, label=f"{name}, measured", **dots, **style)
    textbook, better = bound(spectrum, k, [0]), bound(spectrum, k, range(200))
    right.plot(k, better, ls="-.", **style)
    right.plot(k, textbook, ls="--", lw=1, **style)
    needed[name] = [first_below(v, 1e-6) for v in (measured, better, textbook)]
clean = error_of(cg(A, y[:, 3], steps=steps, clean=True))
right.plot(k[: steps + 1], clean, "k:", label="plain, without rounding")
right.plot([], [], "k-.", label="bound (11)")
right.plot([], [], "k--", lw=1, label="textbook bound (10)")
left.set(xscale="log", yscale="log", xlabel="rank of the eigenvalue")
left.set(ylabel="eigenvalue of A, or of M⁻¹A")
right.set(yscale="log", ylim=(1e-10, 3), xlim=(0, 240), xlabel="iterations k")
right.set_ylabel("error over its start, A-norm")
left.legend(fontsize=8)
right.legend(fontsize=7, loc="lower right")
plt.show()

print("iterations to an error of 1e-6, in tens")
print(34 * " " + "measured  outliers (11)  textbook (10)")
for name, (measured, better, textbook) in needed.items():
    rounded = (round(v, -1) for v in (measured, better, textbook))
    print(f"{name:32} {{:9d}}{{:15d}}{{:15d}}".format(*rounded))
print(f"plain, without rounding {round(first_below(clean, 1e-6), -1):17d}")
visible = clean > 1e-10
limit = bound(spectra["plain"], k[: steps + 1], range(200))
assert (clean <= 1.001 * limit)[visible].all()
(plain, better, textbook), (helped, *_) = needed.values()
assert helped < 0.7 * plain
assert plain < 1.3 * better < textbook / 3

# %% [markdown]
# Three things to see.
#
# - **The outliers count.** The textbook bound is off by a factor of six; (11) says 80 where we measure 90, from the spectrum alone.
# - **And is it violated?**
#   It is a theorem, and the dots cross its line.
#   The theorem holds for exact arithmetic.
#   Rounding lets the residuals forget that they should be orthogonal to all earlier ones, and CG finds the largest eigenvalues once more, at the price of some more steps.
#   With the residuals made orthogonal by force (dotted) the bound holds at every $k$. That costs $N k$ numbers and is not worth it; nothing converges to something wrong, it only takes longer.
# - **Preconditioning nearly halves the number, and (11) does not see why.**
#   $M^{-1}A$ has $r$ eigenvalues near 1 *below* all others, since $\lambda$ is much smaller than what $FF^\top$ leaves of the kernel, and (11) takes the gap between for filled.
#   Exercise 19.6 asks whether that is a good place for them.
#
# ## What is an iteration worth?
#
# `ntk.cg_solve` is this with tiles, for all outputs at once (and `ntk.KernelRegressor(solver="cg")` calls it). Equal to Cholesky? And how exact need the solution be to *classify*?

# %% alt="Left: over iterations, relative residual, the largest of ten: it rises to five and then falls with bumps to 1e-4 at sixty, on a log scale. Right: test accuracy over iterations, which rises within the first fifteen to the level of the exact solution, drawn as a line, with one dip."
solution = ntk.cg_solve(mlp(), x_train[:N], y, ridge=ridge, tol=1e-8)
direct = scipy.linalg.cho_solve(scipy.linalg.cho_factor(A), y)
difference = np.abs(solution.solution - direct).max() / np.abs(direct).max()
print(f"cg_solve and Cholesky differ by less than 1e-5: {difference < 1e-5}")
assert difference < 1e-5


def accuracy(alpha):
    guess = (theta_test[:, : len(alpha)] @ alpha).argmax(-1)
    return float((guess == data.y_test).mean())


columns = [cg(A, y[:, c], steps=60) for c in range(10)]
iterates = np.stack(columns, axis=-1)  # [61, N, 10]
residuals = np.linalg.norm(y - A @ iterates, axis=1) / np.linalg.norm(y, axis=0)
residuals = residuals.max(-1)
scores = np.array([accuracy(alpha) for alpha in iterates[1:]])
full = accuracy(direct)
fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 2.8))
left.plot(residuals, "o", ls="none", ms=3)
left.set(yscale="log", xlabel="iterations", ylabel="residual ‖y − Aα‖/‖y‖")
dots = {"marker": "o", "ls": "none", "ms": 3}
right.plot(np.arange(1, 61), scores, label="stopped after so many", **dots)
right.axhline(full, color="k", lw=1, label="Cholesky")
right.set(ylim=(0.6, 0.96), xlabel="iterations", ylabel="test accuracy")
right.legend(fontsize=8)
plt.show()

enough = 2 + int(np.flatnonzero(np.abs(scores - full) > 0.01)[-1])
print(f"within 1 % of Cholesky's accuracy to stay: from iteration {enough},")
print(f"where one of the ten residuals is still above 0.1: {residuals[enough] > 0.1}")
assert enough < 30
assert np.abs(scores[40:] - full).max() < 0.02

# %% [markdown]
# The classes are decided long before the equations are solved:
# the first iterations deal with the large eigenvalues, which carry the signal (chapter 04), and stopping early is a regularizer of its own (chapter 12).
# The way there is not monotone.
# If only the label counts, a residual of $10^{-1}$ does here; if the solution itself is
# wanted, as for uncertainties or for comparing kernels to the last per mille, ask for $10^{-6}$.
#
# Now the growth with $N$.
# For i.i.d. inputs $\lambda_{\max} \propto N$, while the smallest eigenvalue is held up by the ridge and by what each input has for itself.
# So $\sqrt\kappa$, and with it the number of iterations, should grow like $\sqrt N$, unless a preconditioner whose rank grows as well takes the large eigenvalues away.

# %% alt="Left, log-log: iterations over N; plain CG rises along the line of the square root of N, preconditioned below with a smaller rise. Right: test accuracy over N rising from 0.84 to 0.95."
sizes = np.array([250, 500, 1000, 2000]) * N_MAX // 2000
ranks = {"plain": 0, "rank 100": 100, "rank 10 √N": None}
table = {name: [] for name in ranks}
top, score = [], []
for n in sizes:
    for name, r in ranks.items():
        settings = {"ridge": ridge, "preconditioner": r}
        result = ntk.cg_solve(mlp(), x_train[:n], y_all[:n], **settings)
        table[name].append(result.iterations)
    score.append(accuracy(result.solution))
    top.append(np.linalg.norm(theta_all[:n, :n], 2) / n)
fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3))
for i, (name, values) in enumerate(table.items()):
    style = {"color": plotting.COLOURS[i], "marker": plotting.MARKERS[i]}
    left.plot(sizes, values, label=name, ls="none", **style)
root = table["plain"][-1] * np.sqrt(sizes / sizes[-1])
left.plot(sizes, root, "k-", lw=1, label="∝ √N")
left.set(xscale="log", yscale="log", xlabel="N")
left.set_ylabel("iterations to residual 1e-6")
score = np.array(score)
binomial = np.sqrt(score * (1 - score) / len(data.y_test))
right.errorbar(sizes, score, yerr=binomial, fmt="o", ls="none", capsize=2)
right.set(xscale="log", xlabel="N", ylabel="test accuracy (± binomial error)")
left.legend(fontsize=8)
left.set(ylim=(18, 250), yticks=[20, 50, 100, 200], yticklabels=[20, 50, 100, 200])
for ax in (left, right):
    ax.minorticks_off()
    ax.set_xticks(sizes, sizes)
plt.show()

slope = np.polyfit(np.log(sizes), np.log(table["plain"]), 1)[0]
print(f"λ_max / N is constant to 10 %: {np.ptp(top) < 0.1 * np.mean(top)}")
print(f"iterations over N, plain, slope 1/2 to 0.1: {abs(slope - 0.5) < 0.1}")
assert 0.3 < slope < 0.7
assert score[-1] > score[0] + 0.03

# %% [markdown]
# ## A million examples, on paper
#
# Everything needed is above.
# The rates are rounded to one digit and named, and so are the times; put in the rates of your machine.
# (A ReLU layer takes 1 to 2 ns an entry on a core with the polynomials of `gram`; a GPU of 100 TFLOP/s in matrix products does about a tenth of that in anything else.
# Fully connected, $d = 784$, $L = 3$, $K = 10$.)


# %%
MACHINES = {  # products/s, seconds an entry and layer, bytes, bytes/s
    "laptop core": (1e11, 2e-9, 16e9, 1e10),
    "GPU, 100 TFLOP/s": (1e14, 4e-12, 80e9, 2e12),
}
D_IN, LAYERS, OUTPUTS = 784, 3, 10


def in_words(seconds):
    units = {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86400, "years": 3.15e7}
    unit = max((u for u in units if units[u] <= seconds), key=units.get, default="ms")
    return f"{float(f'{seconds / units[unit]:.1g}'):g} {unit}"


def plan(N, machine, iterations):
    products, an_entry, room, bandwidth = MACHINES[machine]
    kernel = N**2 / 2 * (2 * D_IN / products + LAYERS * an_entry)
    product = max(2 * N**2 * OUTPUTS / products, 2 * N**2 / bandwidth)
    return {
        "kernel once": (kernel, True),
        "Cholesky": (kernel + N**3 / 3 / products, room >= 4 * N**2),
        "CG, kept": (kernel + iterations * product, room >= 2 * N**2),
        "CG, remade": (iterations * (kernel + product), True),
    }


for machine in MACHINES:
    print(f"{machine}; 100 iterations")
    print("       N  entries   bytes   kernel once   Cholesky    CG, kept  CG, remade")
    for N in (10**4, 10**5, 10**6, 5 * 10**6):
        answers = plan(N, machine, 100).values()
        row = [in_words(s) + ("" if fits else "*") for s, fits in answers]
        left = f"{N:8.0e}  {N**2:7.1g} {4 * N**2:7.1g}"
        print(left, f"{row[0]:>13}", *(f"{cell:>11}" for cell in row[1:]))
print("* does not fit its memory: Cholesky 4 N² bytes, kept tiles 2 N² in float32")
hours = plan(10**6, "GPU, 100 TFLOP/s", 100)["CG, remade"][0] / 3600
assert 0.1 < hours < 1

# %% [markdown]
# Read it as a map of walls.
# **Memory** comes first, at some $10^5$ examples: $4N^2$ bytes grow faster than machines.
# Tiles that are made again and thrown away remove that wall for the matrix (not for the preconditioner, see below), at the price of the kernel once for each iteration.
# **Time** is next: $N^3$ for Cholesky, $N^2$ times the iterations for CG.
# On a laptop's core a million fully connected examples are a week or two; on one GPU twenty-five minutes, which the table rounds to one digit; and since tiles need no company, on $D$ GPUs a $D$-th of that.
# The assumption that carries the weight is the 100 iterations: without a preconditioner it would be $3\sqrt N = 3000$ by the slope above;
# with rank $10\sqrt N$ the growth was slow up to $N = 2000$, and nobody has measured it here at a million.
# Note what the preconditioner then weighs: $10 N^{1.5}$ numbers, 80 GB in float64.
#
# For *convolutional* kernels with pooling the layers of an entry cost $T^2$ times more, $T$ pixels, and the entry $10^5$ to $10^6$ times.
# There the kernel is dear and everything else is free, and the wall of time comes at $10^4$ to $10^5$ examples.
# With many GPUs and preconditioned CG, Adlam et al. (2023) went to five million.
#
# ## What to take away
#
# - **Count first.**
#   Operations and bytes predict what wins; XLA's own accounts and the jaxpr say whether you counted right.
#   A prediction that is off by 40 % was a mistake in the derivation more often than in the machine.
# - **Empirical NTK:** layer by layer, nearly always.
#   The Jacobian for layers with many positions and few weights; products where $K$ is in the thousands and all pairs of outputs are wanted, or where the Jacobians of more than one example do not fit.
# - **Analytic kernel:** fused, on tiles; half of them where it is symmetric. Tiles are for memory, symmetry, devices and restarts; the compiler looks after the cache.
# - **Precision:** for ReLU and a ridge that is not tiny, float32 is enough if the recursion works on $1 - \rho$. With covariances it loses half of its digits where inputs nearly coincide.
# - **Solve:** Cholesky while $N^2$ numbers fit (to some $3\cdot 10^4$ in 16 GB).
#   Then CG on kept tiles; then on tiles made anew.
#   Always with a preconditioner; to $10^{-1}$ or $10^{-2}$ if labels are all you want.
#
# ## Where it breaks
#
# - **(1) with one rate** for all matrix products: small ones run far below it.
# - **XLA's counts** leave out what it hands to libraries, and count a loop once: check them against your own.
# - **Ridge zero.** $\kappa$ is then at least what the data's nearest pair makes it: neither CG nor float32 Cholesky can be trusted (chapter 13).
# - **$\sqrt N$** was seen over a factor of eight in $N$, for one kernel and one data set.
# - **Examples that see each other** (batch normalization in training mode): no tile stands for itself.
#
# ## Exercises
#
# `exercises/19_scaling_up.ipynb`, 80 minutes and an open task:
# the operations and bytes of a tile (19.1), a product with a kernel that is never stored (19.2), a preconditioner with a mistake in it (19.3),
# predict the number of iterations, then measure it (19.4), which wall comes first (19.5), a better shift (19.6).
#
# ## References
#
# - R. Novak, J. Sohl-Dickstein, S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, 2022, arXiv:2206.08720.
# - B. Adlam, J. Lee, S. Padhy, Z. Nado, J. Snoek, *Kernel Regression with Infinite-Width Neural Networks on Millions of Examples*, 2023, arXiv:2303.05420.
# - Y. Chen, E. Epperly, J. Tropp, R. Webber, *Randomly pivoted Cholesky: Practical approximation of a kernel matrix with few entry evaluations*, 2022, arXiv:2207.06503.
# - M. Hestenes, E. Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, 1952.
# - A. Greenbaum, *Iterative Methods for Solving Linear Systems*, 1997 (outliers, and rounding).
# - S. Williams, A. Waterman, D. Patterson, *Roofline: An Insightful Visual Performance Model*, 2009 (equation 1).
