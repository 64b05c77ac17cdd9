# %% [markdown]
# # 19 · Scaling up: exercises
#
# They go with `notebooks/19_scaling_up.ipynb`; none needs the answer to another. `check(...)` under a task says what is wrong, if anything, and
# never shows the answer. `hint("19.1")` gives the idea, `hint("19.1", 2)` the formula, `hint("19.1", 3)` almost the code.

# %%
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from jax.scipy.linalg import solve_triangular

import ntklib as ntk
from course import check, hint
from ntklib import plotting

plotting.use_style()

N = 500
data = ntk.load("mnist5k", n_train=N, n_test=10).flat()
net = ntk.mlp([784, 8, 8, 8, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
with jax.enable_x64(True):
    theta = np.asarray(ntk.gram(net, data.x_train.astype(float)))
lam = 1e-3 * np.trace(theta) / N
A = theta + lam * np.eye(N)
y = np.asarray(ntk.one_hot_centered(data.y_train, 10), float)[:, 3]


def cg_residuals(A, b, inverse=lambda r: r, steps=80):
    """‖b − A x‖/‖b‖ over the iterations of conjugate gradients."""
    x, r = np.zeros_like(b), b.copy()
    z = np.asarray(inverse(r))
    p, out = z, [1.0]
    for _ in range(steps):
        Ap = A @ p
        step = (r @ z) / (p @ Ap)
        x, r_new = x + step * p, r - step * Ap
        z_new = np.asarray(inverse(r_new))
        p = z_new + (r_new @ z_new) / (r @ z) * p
        r, z = r_new, z_new
        out.append(float(np.linalg.norm(b - A @ x) / np.linalg.norm(b)))
    return np.array(out)


# %% [markdown]
# ## 19.1 `gram_cost`
#
# 15 minutes · difficulty 2 of 5 · rests on “The infinitely wide network”
#
# What does the kernel matrix of $N$ inputs cost, computed by tiles? An entry takes a scalar product of length $d$ (a multiplication and an addition for each component) and $c$ operations for each of $L$ hidden layers. The matrix is symmetric: only tiles on and above the diagonal are computed. A tile
# reads two blocks of `tile` inputs from memory (on the diagonal as well: the function of a tile does not know where it is) and writes its entries once; everything else stays in the cache. $N$ is a multiple of the tile.


# %% task="19.1"
def gram_cost(N, tile, d, depth, c, itemsize):
    """(operations, bytes moved) of a symmetric kernel matrix by tiles."""
    ### BEGIN SOLUTION
    blocks = N // tile
    tiles = blocks * (blocks + 1) // 2
    operations = tiles * tile**2 * (2 * d + c * depth)
    moved = tiles * (2 * tile * d + tile**2) * itemsize
    return operations, moved
    ### END SOLUTION


# %% check="19.1" points=2
check("19.1", gram_cost)

# %% [markdown]
# How large must a tile be, so that the memory is not what limits it? Until your function is there the figure is empty.

# %% alt="Operations a byte over the tile's size, log-log: a line that rises with the tile and levels off, crossing the shaded band between 10 and 100 for tiles of some 40 to 500 rows."
grid = [2**k for k in range(1, 13)]
fig, ax = plt.subplots(figsize=(5.4, 3))
try:
    costs = [gram_cost(4096, tile, 784, 3, 42, 4) for tile in grid]
    ax.plot(grid, [w / q for w, q in costs], "o-", label="kernel by tiles")
except NotImplementedError:
    print("no count yet")
ax.axhspan(10, 100, color="0.85", label="what machines ask for")
ax.set(xscale="log", yscale="log", xlabel="rows of a tile")
ax.set(xlim=(1.5, 5000), ylim=(0.3, 3000), ylabel="operations / byte")
ax.legend(fontsize=9)
plt.show()

# %% [markdown]
# ## 19.2 `tiled_product`
#
# 20 minutes · difficulty 3 of 5 · rests on “Solving without the matrix: conjugate gradients”
#
# The one thing that conjugate gradients ask for: $\Theta v$, where $\Theta$ $[N, N]$ is symmetric and too large to store. You get a function that computes a block of it, `entries(rows, columns)` for two slices. Compute each pair of blocks of inputs *once*, and use the block for both triangles. Hold one block at a time. The last block may be smaller.


# %% task="19.2"
def tiled_product(entries, N, tile, v):
    """Θ v [N, K]; entries(slice, slice) is a block of Θ, v [N, K]."""
    ### BEGIN SOLUTION
    spans = [slice(i, min(i + tile, N)) for i in range(0, N, tile)]
    out = jnp.zeros(v.shape, v.dtype)
    for i, rows in enumerate(spans):
        for columns in spans[i:]:
            block = entries(rows, columns)
            out = out.at[rows].add(block @ v[columns])
            if columns != rows:  # the mirror image; the diagonal has none
                out = out.at[columns].add(block.T @ v[rows])
    return out
    ### END SOLUTION


# %% check="19.2" points=3
check("19.2", tiled_product)

# %% [markdown]
# ## 19.3 `corrected_preconditioner`: spot the error
#
# 15 minutes · difficulty 3 of 5 · rests on “Solving without the matrix: conjugate gradients”
#
# A colleague has written $M^{-1} = (FF^\top + \lambda)^{-1}$ by the Woodbury identity. It is fast, it runs without complaint, the numbers have the right size. But conjugate gradients need *more* iterations with it than without.


# %%
def suspect_preconditioner(factor, shift):
    """The function r [N] ↦ (F Fᵀ + λ)⁻¹ r, F = factor [N, rank], λ = shift."""
    small = factor.T @ factor + shift * jnp.eye(factor.shape[1])
    root = jnp.linalg.cholesky(small)  # lower triangle

    def inverse(r):
        inner = solve_triangular(root, factor.T @ r, lower=True)
        return (r - factor @ inner) / shift

    return inverse


values, modes = np.linalg.eigh(theta)
factor = (modes * np.sqrt(values))[:, -50:]  # the best one of rank 50
with jax.enable_x64(True):
    residuals = {
        "none": cg_residuals(A, y),
        "suspect": cg_residuals(A, y, suspect_preconditioner(factor, lam)),
    }
for name, history in residuals.items():
    done = int(np.argmax(history < 1e-3)) if (history < 1e-3).any() else "not in 80"
    about = done if isinstance(done, str) else f"about {round(done, -1)}"  # a few more or less, by processor
    print(f"{name:8} iterations to a residual of 1e-3: {about}")

# %% [markdown]
# What does CG require of $M$, and which line breaks it? Write the function as it should be. (No $[N, N]$ array may be formed.)


# %% task="19.3"
def corrected_preconditioner(factor, shift):
    """The function r [N] ↦ (F Fᵀ + λ)⁻¹ r, F = factor [N, rank], λ = shift."""
    ### BEGIN SOLUTION
    # (λ + FᵀF)⁻¹ = L⁻ᵀ L⁻¹ takes two triangular solves. With one of them the map
    # is not symmetric, and CG's directions are conjugate to nothing.
    small = factor.T @ factor + shift * jnp.eye(factor.shape[1])
    root = jnp.linalg.cholesky(small)

    def inverse(r):
        inner = solve_triangular(root, factor.T @ r, lower=True)
        inner = solve_triangular(root.T, inner, lower=False)
        return (r - factor @ inner) / shift

    return inverse
    ### END SOLUTION


# %% check="19.3" points=2
check("19.3", corrected_preconditioner)

# %% [markdown]
# ## 19.4 `iterations_needed`: predict, then measure
#
# 20 minutes · difficulty 3 of 5 · rests on “Solving without the matrix: conjugate gradients”
#
# From the eigenvalues alone: after how many iterations does the bound
#
# $$\min_m\; 2\Big(\frac{\sqrt{\kappa_m} - 1}{\sqrt{\kappa_m} + 1}\Big)^{k-m}, \qquad \kappa_m = \frac{\lambda_{m+1}}{\lambda_{\min}},$$
#
# fall to `tol`? Here $\lambda_1 \ge \lambda_2 \ge \dots$, so $\lambda_{m+1}$ is the largest after $m$ outliers are dealt with, and $m = 0 \dots N - 1$. What becomes of it for $m = N - 1$? Return the smallest such whole number $k$.


# %% task="19.4"
def iterations_needed(eigenvalues, tol):
    """The smallest k; eigenvalues [N] > 0 in ascending order, as `eigh` has them."""
    ### BEGIN SOLUTION
    best = len(eigenvalues)  # m = N − 1: one root on each eigenvalue
    for m in range(len(eigenvalues) - 1):
        root = math.sqrt(eigenvalues[-1 - m] / eigenvalues[0])
        rate = (root - 1) / (root + 1)
        more = 1 if rate == 0 else math.ceil(math.log(tol / 2) / math.log(rate))
        best = min(best, m + more)
    return best
    ### END SOLUTION


# %% check="19.4" points=3
check("19.4", iterations_needed)

# %% [markdown]
# Now measure. The vertical lines are your predictions for two ridges, for an error of $10^{-4}$ (in the $A$-norm; the chapter says why dots may come a little late). Until the function is there you see the dots alone.

# %% alt="Error in the A-norm over iterations for two ridges, logarithmic axis: dots fall, faster for the larger ridge; a vertical line each stands near where the dots cross the dotted level of 1e-4."
fig, ax = plt.subplots(figsize=(5.8, 3.2))
ax.axhline(1e-4, color="0.5", ls=":", lw=1)
for i, ridge in enumerate((1e-3, 1.0)):
    shifted = theta + ridge * np.trace(theta) / N * np.eye(N)
    exact = np.linalg.solve(shifted, y)
    x, r = np.zeros(N), y.copy()
    p, error = r, []
    for _ in range(81):
        error.append(float(np.sqrt((x - exact) @ shifted @ (x - exact))))
        step = (r @ r) / (p @ shifted @ p)
        x, r_new = x + step * p, r - step * (shifted @ p)
        p, r = r_new + (r_new @ r_new) / (r @ r) * p, r_new
    style = {"color": plotting.COLOURS[i]}
    dots = {"marker": plotting.MARKERS[i], "ls": "none", "ms": 3.5}
    ax.plot(np.array(error) / error[0], label=f"ridge {ridge:g}", **dots, **style)
    try:
        k = iterations_needed(np.linalg.eigvalsh(shifted), 1e-4)
    except NotImplementedError:
        print(f"no prediction yet for ridge {ridge:g}")
        continue
    ax.axvline(k, ls=plotting.DASHES[i], **style)
ax.set(yscale="log", ylim=(1e-8, 2), xlabel="iterations")
ax.set_ylabel("error over its start, A-norm")
ax.legend(fontsize=9)
plt.show()

# %% [markdown]
# ## 19.5 `which wall first`
#
# 10 minutes · difficulty 2 of 5 · rests on “A million examples, on paper”
#
# A colleague has 200,000 pictures of 784 pixels in ten classes and a machine with 64 GB and ten cores, each of $10^{11}$ operations a second in products and 2 ns for an entry of a layer. She wants the labels of new pictures by the kernel of a fully connected network with three hidden layers, and has asked for a larger machine,
# since "the matrix does not fit". In a few sentences with numbers: does she need it? Which solver, which precision, to which residual, and about how long?

# %% written="19.5" points=2
answer = r"""
### BEGIN SOLUTION
She does not. The matrix has $4\cdot10^{10}$ entries: 160 GB in float32, 80 GB even as
half of the tiles, so neither Cholesky nor CG with all tiles kept fits 64 GB. Made
anew, a pass over the $2\cdot10^{10}$ pairs takes $2\cdot10^{10}\,(1568/10^{11} + 3
\cdot 2\cdot10^{-9})\,\mathrm s \approx 430$ s on one core, 43 s on ten; the product
with ten vectors adds less than a second. For labels a residual of $10^{-2}$ is
plenty: with a preconditioner some 20 to 50 iterations, so a quarter to half an hour.
Keeping the two thirds of the tiles that fit saves nearly two thirds of that. Entries in
float32 (from 1 − |ρ|, so that near duplicates do no harm), sums and vectors in float64.
Cholesky would take $N^3/3 \approx 2.7\cdot10^{15}$ operations, about as long, and a
machine of 160 GB or more.
### END SOLUTION
"""
check("19.5", answer)

# %% [markdown]
# ## 19.6 Go further: a better shift
#
# 40 minutes · difficulty 4 of 5 · rests on “Solving without the matrix: conjugate gradients”
#
# An open task. The preconditioner $M = FF^\top + \mu$ of the chapter takes $\mu = \lambda$, since then $M \to A$ as the rank grows. The chapter's figure of the spectrum of $M^{-1}A$ says what that does at a small rank: ones for what $F$ has got right, and everything else far above. Which $\mu$ would put the rest *around* one? What
# do you know about the rest without computing eigenvalues? Try your $\mu$ for several ranks and ridges, look at the spectra, and compare the numbers of iterations. When is $\mu = \lambda$ good enough? The lines below are a start.

# %%
from ntklib.scale.pivoted_cholesky import PivotedCholesky
from ntklib.scale.tiles import Tiles

tiles = Tiles(net, data.x_train)
for rank in (25, 50, 100):
    rng = np.random.default_rng(0)
    F = PivotedCholesky(tiles, np.diag(theta), rank, lam, rng).factor
    M = F @ F.T + lam * np.eye(N)
    history = cg_residuals(A, y, lambda r, M=M: np.linalg.solve(M, r))
    tens = 10 * (int(np.argmax(history < 1e-6)) // 10)  # a few more or less, by processor
    print(f"rank {rank}, μ = λ: {tens} to {tens + 9} iterations")

# %% written="19.6" points=1
answer = r"""
### BEGIN SOLUTION
What $F$ leaves is $R = \Theta - FF^\top$, positive semi-definite, and its diagonal is
known from the factorization: $\mathrm{tr}\,R/N$ is the mean of all its eigenvalues. So
$\mu = \lambda + \mathrm{tr}\,R/N$: on the directions that $F$ has, $M^{-1}A$ stays near
one as long as $\mu$ is small against their eigenvalues; on the others, for $r \ll N$, it
has about the mean one, where $\mu = \lambda$ puts them at $\mathrm{tr}\,R/(N\lambda)$, some hundreds.
Measured with $N = 1000$ and ten outputs, ridge $10^{-3}$: rank 50 from 64 to 49
iterations, rank 100 from 49 to 38, rank 316 from 33 to 26; ridge $10^{-2}$: 53 to 46,
41 to 36, 27 to 24. The gain is an eighth to a quarter, not a factor: without the shift CG needs few
steps for the cluster of ones, as it is one point. $\mu = \lambda$ is good enough where
$\lambda$ is of the size of what is left: a large ridge, or a rank that has nearly all.
### END SOLUTION
"""
check("19.6", answer)
