# %% [markdown]
# # Exercises 13: precision
#
# They go with the chapter `notebooks/13_precision.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("13.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from scipy.linalg import lapack

import ntklib as ntk
from course import check, hint, predict
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()

# %% [markdown]
# ## 13.1 `round_to_bits`
#
# 20 minutes · difficulty 2 of 5 · rests on “What a number of $b$ bits keeps”
#
# Write the rounding that the chapter leaves to JAX: each number goes to the nearest one of the form $\pm f \cdot 2^e$ with
# $1 \le f < 2$, where $f$ has `bits` bits, the leading 1 included. Halfway between two such numbers either will do.
# Zero stays zero. Not with `jax.lax.reduce_precision`, and not by converting to another type.


# %% task="13.1"
def round_to_bits(x, bits):
    """The entries of x [N, M], rounded to `bits` bits."""
    ### BEGIN SOLUTION
    fraction, exponent = jnp.frexp(x)  # x = fraction · 2^exponent with 1/2 ≤ |fraction| < 1
    return jnp.ldexp(jnp.round(fraction * 2.0**bits), exponent - bits)
    ### END SOLUTION


# %% check="13.1" points=2
check("13.1", round_to_bits)

# %% [markdown]
# ## 13.2 `critical_size`
#
# 10 minutes · difficulty 2 of 5 · rests on “How much noise a kernel can bear”
#
# On paper first. The eigenvalues of the kernel of $m$ images are $\lambda_i = C\, m\, i^{-\alpha}$ for $i = 1, \dots, m$, with $\alpha > 1/2$.
# Rounding errors have the standard deviation $\sigma$. By the safe rule (not the sharp one) the rounded kernel is positive for every $m$ below some size.
# Which size? Write it as a function. It is a real number; do not round it.


# %% task="13.2"
def critical_size(C, alpha, sigma):
    """The number of images m at which the safe rule gives out."""
    ### BEGIN SOLUTION
    # λ_min = C m^(1 − α) meets 2σ√m
    return (C / (2 * sigma)) ** (2 / (2 * alpha - 1))
    ### END SOLUTION


# %% check="13.2" points=2
check("13.2", critical_size)

# %% [markdown]
# ## 13.3 A new kernel: predict, then measure
#
# 15 minutes · difficulty 3 of 5 · rests on “The tails of real kernels”
#
# A kernel that the chapter does not have: the NNGP of a dense network with sine as activation, on the 8×8 images of digits. Below is
# the noise $\sigma_c$ that it bears (geometric means over ten subsets), and the noise of two precisions. At how many images will it stop being positive with **8 bits**, and with **11 bits**?
# Write both down before you measure.

# %%
digits = ntk.load("digits", n_train=1400).flat()
sine = ntk.mlp([64, 8, 8, 10], activation=ntk.Sin(), w_std=1.0, b_std=0.1, rngs=nnx.Rngs(0))
kernel = np.asarray(ntk.gram(sine, jnp.asarray(digits.x_train, jnp.float64), kernel="nngp"))
kernel = kernel / np.diag(kernel).mean()


def rounded(k, bits):
    return np.asarray(jax.lax.reduce_precision(jnp.asarray(k), 11, bits - 1))


def bearable(eigenvalues):
    omega = eigenvalues.min() * np.linspace(0, 1, 201)[1:-1]
    return np.sqrt(np.max(omega / np.sum(1 / (eigenvalues[:, None] - omega), axis=0)))


shuffles = [np.random.default_rng(seed).permutation(1400) for seed in range(10)]
for m in (25, 50, 100, 200):
    found = [bearable(np.linalg.eigvalsh(kernel[np.ix_(s[:m], s[:m])])) for s in shuffles]
    print(f"m = {m:3d}: σ_c = {np.exp(np.log(found).mean()):.3g}")
for bits in (8, 11):
    error = (rounded(kernel, bits) - kernel)[~np.eye(1400, dtype=bool)]
    print(f"{bits:2d} bits: σ = {error.std():.3g}")

# %% task="13.3"
# the critical sizes with 8 bits and with 11 bits
with_8, with_11 = ..., ...
### BEGIN SOLUTION
with_8, with_11 = 190, 920
### END SOLUTION

# %% check="13.3" points=2
predict("13.3", with_8, with_11)
check("13.3", (with_8, with_11))

# %% [markdown]
# The measurement, with ten other orders of the images.

# %%
if predict("13.3") is not None:
    for bits, guess in zip((8, 11), predict("13.3"), strict=True):
        k, found = rounded(kernel, bits), []
        for seed in range(100, 110):
            s = np.random.default_rng(seed).permutation(1400)
            info = lapack.dpotrf(k[np.ix_(s, s)], lower=1)[1]
            found.append(info or 1401)
        print(
            f"{bits:2d} bits: met at {np.median(found):.0f} images; your prediction times {np.median(found) / guess:.1f}"
        )

# %% [markdown]
# ## 13.4 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “Rounding noise is a random matrix”
#
# Which ridge makes sure that Cholesky's method goes through on a rounded kernel $K + E$? Somebody derives it, with $\sigma$ the standard deviation of the errors:
#
# 1. The sum of the squares of the entries is $\mathrm{tr}\, E^2 = \sum_{ij} E_{ij}^2 \approx m^2 \sigma^2$.
# 2. $E^2$ has $m$ eigenvalues, so their mean is $m \sigma^2$.
# 3. Hence the eigenvalues of $E$ reach from $-\sigma\sqrt m$ to $\sigma\sqrt m$.
# 4. Since $K$ has no negative eigenvalue, those of $K + E$ lie above $-\sigma\sqrt m$.
# 5. The ridge of ntklib is relative: it adds $\delta\, \mathrm{tr}(K)/m$ to the diagonal. So $\delta = m\, \sigma\sqrt m / \mathrm{tr}(K)$ is enough.
#
# It is not enough for a kernel with many eigenvalues near zero. Below, 40 images are taken ten times each. The exact kernel then has 360 eigenvalues that are zero:

# %%
low_rank = np.kron(np.ones((10, 10)), kernel[:40, :40])
rng = np.random.default_rng(0)
sizes, failures = 0.01, 0
for _ in range(20):
    e = rng.normal(size=(400, 400))
    e = sizes * (np.tril(e) + np.tril(e, -1).T)
    ridge = 400 * sizes * 400**0.5 / np.trace(low_rank)
    diagonal = ridge * np.trace(low_rank) / 400 * np.eye(400)
    failures += lapack.dpotrf(low_rank + e + diagonal, lower=1)[1] > 0
print(f"Cholesky stops in {failures} of 20 draws")

# %% [markdown]
# In which line, 1 to 5, is the first error? And write the ridge as it should be, with no margin on top.

# %% task="13.4"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 3
### END SOLUTION


def safe_ridge(kernel, sigma):
    """The relative ridge δ that is enough for any kernel [m, m] without negative eigenvalues, with errors of σ."""
    ### BEGIN SOLUTION
    m = len(kernel)
    return 2 * sigma * m**0.5 / (jnp.trace(kernel) / m)
    ### END SOLUTION


# %% check="13.4" points=3
check("13.4", (wrong_line, safe_ridge))

# %% [markdown]
# ## 13.5 Mended, but not restored
#
# 10 minutes · difficulty 3 of 5 · rests on “Remedies, each measured”
#
# A colleague's kernel has 8 bits, and Cholesky stops. A ridge of $\delta = 0.1$ makes it go through. "So the kernel is fine again", he says, "and
# to be on the safe side I convert it to float64 and refine the solution." Why does the ridge mend Cholesky, but not the digits that are lost already? What do the conversion and the refinement
# add? And by which factor would $\sigma$ shrink if he *computed* the kernel with 24 bits instead?

# %% written="13.5" points=2
answer = r"""
### BEGIN SOLUTION
Cholesky stops because some eigenvalues of $K + E$ are negative. The ridge lifts all of
them by the same amount, and none is negative then. But it knows nothing of $E$: the
modes with $\lambda < 2\sigma\sqrt m$ have the eigenvalues and eigenvectors of the noise
before and after. The ridge only makes them count little. What the exact kernel would have
learned along them is not learned. Conversion keeps the entries as they are, errors
included. Refinement solves for the kernel whose entries give the residual: if that is the
rounded one, it finds the rounded kernel's solution to more digits, and those are
digits of the wrong problem. With 24 bits in place of 8, $\sigma$ is
$2^{16} = 65536$ times smaller.
### END SOLUTION
"""
check("13.5", answer)

# %% [markdown]
# ## 13.6 Go further: a kernel for bfloat16
#
# 40 minutes · difficulty 4 of 5 · rests on “The tails of real kernels”
#
# An open task. Design a kernel for images of digits that stays positive with 8 bits for as many images as you can, *and* still
# classifies. Depth, activation, $\sigma_w$ and $\sigma_b$ are yours, and so is what you add to it. Note the critical size and the test accuracy at half of it. What do you give up? Is there a kernel that always survives?

# %%
test = jnp.asarray(digits.x_test, jnp.float64)
inputs = jnp.asarray(digits.x_train, jnp.float64)


def survives(net, kernel="nngp", bits=8, orders=3):
    """Median critical size, and the test accuracy of the rounded kernel with half as many images."""
    k, k_test = (rounded(ntk.gram(net, *x, kernel=kernel), bits) for x in ((inputs,), (test, inputs)))
    sizes = [lapack.dpotrf(k[np.ix_(s, s)], lower=1)[1] or 1401 for s in shuffles[:orders]]
    s = shuffles[0][: int(np.median(sizes)) // 2]
    targets = np.asarray(ntk.one_hot_centered(digits.y_train[s], 10))
    outputs = k_test[:, s] @ np.linalg.solve(k[np.ix_(s, s)], targets)
    return int(np.median(sizes)), float(np.mean(outputs.argmax(1) == digits.y_test))


tried = {"ReLU, 2 layers": ntk.mlp([64, 8, 10], w_std=2**0.5, rngs=nnx.Rngs(0))}
tried["ReLU, 6 layers"] = ntk.mlp([64, 8, 8, 8, 8, 8, 10], w_std=2**0.5, rngs=nnx.Rngs(0))
tried["erf, 2 layers"] = ntk.mlp([64, 8, 10], activation=ntk.Erf(), w_std=1.5, rngs=nnx.Rngs(0))
found = {name: survives(net) for name, net in tried.items()}
for name, (size, accuracy) in found.items():
    print(f"{name:16} positive up to {size - 1} of 1400 images, accuracy with half of them {accuracy:.2f}")

# %% alt="Test accuracy with half of the critical size against the critical size with 8 bits, one point for each of three kernels on digits."
fig, ax = plt.subplots(figsize=(5.6, 3.6))
for i, (name, (size, accuracy)) in enumerate(found.items()):
    ax.plot(size, accuracy, plotting.MARKERS[i], color=plotting.COLOURS[i], label=name)
ax.set(xlabel="critical size with 8 bits (images)", ylabel="test accuracy with half of it")
_ = ax.legend(loc="best")

# %% written="13.6" points=1
answer = r"""
### BEGIN SOLUTION
The rougher the kernel, the longer it lasts: large $\sigma_w$, more layers, activations that jump,
no pooling. Most of them make different images less alike, and the last eigenvalues larger. More
ReLU layers make images more alike, but the kernel rougher where two are near.
A kink alone does not decide: erf with $\sigma_w = 1.5$ lasts longer than ReLU with as many layers.
At the end of this road the kernel is the unit matrix. All its eigenvalues are 1, and the rounding
errors of its zeros are none, so it survives any number of images. It knows nothing of a test
image: accuracy is the price. A ridge is a step on the same road: $\delta = 2\sigma\sqrt m$ over the mean of the diagonal keeps any
kernel positive whose errors have one size, and grows with $m$.
### END SOLUTION
"""
check("13.6", answer)
