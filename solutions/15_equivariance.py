# %% [markdown]
# # Exercises 15: equivariance
#
# They go with the chapter `notebooks/15_equivariance.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("15.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import ntklib as ntk
from course import check, hint, predict
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()

data = ntk.load("mnist5k", n_train=20, n_test=20, pool=4)
x = jnp.asarray(data.x_train, jnp.float64)


def network(readout, shared, depth=1):
    """A network with 3×3 patches that continue at the opposite edge, ReLU, no bias."""
    return ntk.cnn(
        (7, 7, 1), [8] * depth, 1, padding="CIRCULAR", readout=readout, share_weights=shared,
        w_std=2**0.5, rngs=nnx.Rngs(0),
    )  # fmt: skip


# %% [markdown]
# ## 15.1 Five digits that move: predict, then measure
#
# 10 minutes · difficulty 2 of 5 · rests on “With pooling”
#
# Take five digits, and each in all seven positions to which it can be moved to the right around the edge: 35 images.
# How many eigenvalues of the 35×35 matrix $\Theta$ are not zero, for the convolutional network with pooling, and for the same network
# without pooling? Note both numbers before you measure.

# %% task="15.1"
# the number of eigenvalues that are not zero
with_pooling = ...
without_pooling = ...
### BEGIN SOLUTION
with_pooling = 5  # all copies of a digit have equal rows
without_pooling = 35  # moved digits are other images
### END SOLUTION

# %% check="15.1" points=2
check("15.1", (with_pooling, without_pooling))

# %% [markdown]
# The measurement waits for your prediction. The figure is what you should see: one spectrum ends, the other one does not.

# %% alt="Eigenvalues of two 35 by 35 kernels over their number, relative to the largest, on a logarithmic axis. The kernel with pooling has five eigenvalues, and all others lie below the lower end of the axis. The kernel without pooling has 35, which fall slowly to about a hundredth."
if predict("15.1", with_pooling, without_pooling) is not None:
    copies = jnp.concatenate([jnp.asarray(ntk.shift(np.asarray(x[:5]), 0, right, edge="wrap")) for right in range(7)])
    fig, ax = plt.subplots()
    for series, (readout, label) in enumerate((("pool", "with pooling"), ("flatten", "without pooling"))):
        lam = jnp.linalg.eigvalsh(ntk.gram(network(readout, True), copies))[::-1]
        lam = lam[lam > 1e-5 * lam[0]] / lam[0]
        ax.plot(range(1, len(lam) + 1), lam, marker=plotting.MARKERS[series], label=label)
    ax.set(yscale="log", ylim=(1e-4, 2), xlabel="number of the eigenvalue", ylabel="eigenvalue over the largest")
    ax.legend()

# %% [markdown]
# ## 15.2 `linear_variances`
#
# 20 minutes · difficulty 3 of 5 · rests on “What sharing does at finite width”
#
# The same network without an activation: one hidden layer of $n$ channels, $f = \frac{\sigma_w}{\sqrt{nP}} \sum_{p,c} a_{pc}\, z_{pc}$, with the
# covariances $Q_{pp'}$ of a channel between places. What is the variance of $\Theta(x, x)$ over draws, if the hidden layer shares its
# weights, and if it does not? Both weights and readout are trained. For Gaussians $\mathrm{Cov}(z_p^2, z_{p'}^2) = 2\,Q_{pp'}^2$.


# %% task="15.2"
def linear_variances(Q, n, w_std):
    """Variances of Θ(x, x) with shared and with own weights, (shared [N], own [N]), from Q [N, P, P]."""
    ### BEGIN SOLUTION
    # T = σ_w²/P (Σ z_p² + Σ a_p a_p' Q_pp'). Both sums have the variance 2 Σ Q_pp'², and they are uncorrelated.
    P = Q.shape[1]
    terms = 4 * Q**2 * (w_std**2 / P) ** 2 / n
    return terms.sum((1, 2)), jnp.einsum("npp->n", terms)
    ### END SOLUTION


# %% check="15.2" points=3
check("15.2", linear_variances)

# %% [markdown]
# ## 15.3 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “What sharing does at finite width”
#
# Somebody derives how much smaller the learning rate of a convolutional network must be. One hidden layer, no pooling:
#
# 1. In the locally connected network let $g_p$ be the gradient of $f$ with respect to the weights $w_{pc}$ at the place $p$. If all places share their weights, the gradient with respect to $w_c$ is $\sum_p g_p$.
# 2. The hidden layer's part of $\Theta(x, x)$ is therefore $\sum_c \sum_{p, p'} g_p^\top g_{p'}$ for the convolution.
# 3. For the locally connected network it is $\sum_c \sum_p g_p^\top g_p$.
# 4. Neighboring patches of an image are alike, hence $g_p^\top g_{p'} \approx g_p^\top g_p$ on average, and the first sum is about $P$ times the second.
# 5. So $\lambda_{\max}$ of the convolution is about $P$ times as large, and the largest stable learning rate is about $P$ times smaller.
#
# In the limit it does not survive a measurement:

# %%
of_both = [float(ntk.gram(network("flatten", shared), x[:1])[0, 0]) for shared in (True, False)]
print(f"Θ(x, x): shared {of_both[0]:.3g}, own {of_both[1]:.3g}")

# %% [markdown]
# In which line, 1 to 5, is the first error? There is a network for which the sum does grow, if by far less than $P$ times: the one that pools before
# the readout. Compute for it, with ReLU and infinite width, the hidden layer's part of $\Theta(x, x)$ with shared weights over the
# same part with own weights. `Q` holds the covariances $Q_{pp'}$ of the hidden channels between places, before the activation.

# %% task="15.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 4
### END SOLUTION


def pooled_ratio(Q):
    """Hidden layer's part of Θ(x, x) with pooling, shared over own weights, [N], from Q [N, P, P]."""
    ### BEGIN SOLUTION
    # One readout weight a_c for all places: a_c² has the mean 1, and E φ'(z_p) φ'(z_p') = (π − θ)/2π.
    q = jnp.einsum("npp->np", Q)
    angle = jnp.arccos(jnp.clip(Q / jnp.sqrt(q[:, :, None] * q[:, None, :]), -1, 1))
    shared = ((jnp.pi - angle) / (2 * jnp.pi) * Q).sum((1, 2))
    return shared / (q / 2).sum(1)
    ### END SOLUTION


# %% check="15.3" points=3
check("15.3", (wrong_line, pooled_ratio))

# %% [markdown]
# ## 15.4 `pooled_in_blocks`
#
# 25 minutes · difficulty 3 of 5 · rests on “With pooling”
#
# Between no pooling and global pooling: take the mean over blocks of $b \times b$ places that do not overlap, then flatten, then the
# readout, which is scaled by its fan-in as always. Write the NNGP of this network, without the factor $\sigma_w^2$, with shared and with own weights. Given are the
# products $\mathbb E[\phi(z_p)\phi(z'_{p'})]$ of the convolutional network for all pairs of places, `products` [N, M, H, W, H, W], and
# the means $\mathbb E[\phi(z_p)]$ for both sets of images, `means` [N, H, W] and `means2` [M, H, W]. $b$ divides $H$ and $W$.


# %% task="15.4"
def pooled_in_blocks(products, means, means2, b):
    """(shared [N, M], own [N, M]): E[f f'] / σ_w² with means over blocks of b×b places before the readout."""
    ### BEGIN SOLUTION
    H, W = products.shape[2:4]
    place = jnp.arange(H * W)
    block = (place // W) // b * (W // b) + (place % W) // b  # the number of each place's block
    together = (block[:, None] == block[None, :]) / (b**2 * H * W)  # 1/b⁴ for the pair, over the number of blocks
    pairs = products.reshape(*products.shape[:2], H * W, H * W)
    m1, m2 = means.reshape(len(means), -1), means2.reshape(len(means2), -1)
    apart = jnp.where(jnp.eye(H * W, dtype=bool), pairs, m1[:, None, :, None] * m2[None, :, None, :])
    return (pairs * together).sum((2, 3)), (apart * together).sum((2, 3))
    ### END SOLUTION


# %% check="15.4" points=3
check("15.4", pooled_in_blocks)

# %% [markdown]
# ## 15.5 Pooling without pooling
#
# 20 minutes · difficulty 4 of 5 · rests on “With pooling”
#
# In chapter 16 a kernel is averaged over a group. Here the group has 49 elements: all cyclic shifts of an image of 7×7 pixels.
# You are given the kernel of a network *without* pooling, as a function, `kernel(x1, x2)` → [N, M]. It is the kernel of the locally
# connected network as well, so it was made without shared weights. Make the kernel of the *pooled convolutional* network of it,
# with no other means than calls of `kernel` on moved images. (Padding is circular, all strides are 1.) `jnp.roll` moves images.


# %% task="15.5"
def with_pooling_from_without(kernel, x1, x2):
    """The kernel of the pooled convolutional network, [N, M]; x1 [N, H, W, C], x2 [M, H, W, C]."""
    ### BEGIN SOLUTION
    H, W = x2.shape[1:3]
    moved = [kernel(x1, jnp.roll(x2, (i, j), axis=(1, 2))) for i in range(H) for j in range(W)]
    return sum(moved) / (H * W)
    ### END SOLUTION


# %% check="15.5" points=3
check("15.5", with_pooling_from_without)

# %% [markdown]
# What it means: augmentation by all cyclic shifts, with kernel regression, makes a convolutional network with pooling of a
# *locally connected* network without, up to the ridge (chapter 16 has its factor). At infinite width, symmetry can be put into the
# weights or into the data.

# %% [markdown]
# ## 15.6 A fair comparison
#
# 15 minutes · difficulty 2 of 5 · rests on “What sharing does at finite width”
#
# A colleague trains a convolutional and a locally connected network without pooling, one hidden layer of 8 channels each, with a
# small rate. The convolutional one has the lower accuracy. She concludes that sharing weights is a bad prior for images.
# Her convolution has 3.5 times the kernel variance at equal width (about the mean over digits in the chapter). How many channels would bring
# her convolution as near to the kernel as the locally connected network is? Which of the two networks then has more parameters in
# its hidden layer? And what would her experiment have to show before it said something about priors?

# %% written="15.6" points=2
answer = r"""
### BEGIN SOLUTION
The variance of the kernel is v/n, so the convolution needs 3.5 · 8 = 28 channels.
It then has 28 · 9 = 252 hidden weights, and the locally connected network has 8 · 9 · 49 = 3528:
still many more. At equal width the two networks are unequally far from the same kernel, and the
noise of a kernel costs accuracy. That may be all she sees: noise, with a mean that is equal. At
infinite width a prior is a statement about the mean, the kernel, which is the same for both. To speak
about priors she must remove the noise: compare at equal distance from the kernel, or average the outputs of many
networks, or follow the difference as the width grows and see that it does not vanish.
### END SOLUTION
"""
check("15.6", answer)

# %% [markdown]
# ## 15.7 Go further: a prior of your own
#
# 60 minutes · difficulty 4 of 5 · rests on “With pooling”
#
# An open task. The cell shows kernel regression with 100 digits, for three ways to end a convolutional network, on test digits in place and moved to the right by one and two places, around the edge.
# Predict first: which of the three numbers of a row are equal? Then find an end, or a whole network, that is as accurate as "flatten" in place
# *and* loses less than 0.05 when a digit moves by one place in any of the four directions. Written digits do not move around an edge: would your network help with digits that really stand elsewhere?

# %%
many = ntk.load("mnist5k", n_train=100, n_test=200, pool=4)


def ending(*last, width):
    """A convolution, ReLU, `last` and a readout with `width` inputs."""
    conv = ntk.Conv(1, 8, 3, padding="CIRCULAR", w_std=2**0.5, rngs=nnx.Rngs(0))
    return ntk.Serial(conv, ntk.Relu(), *last, ntk.Dense(width, 10, w_std=1.0, rngs=nnx.Rngs(1)))


def accuracies(net):
    """On test digits moved to the right by 0, 1 and 2 places."""
    theta, target = ntk.gram(net, many.x_train), ntk.one_hot_centered(many.y_train, 10)
    found = []
    for right in range(3):
        across = ntk.gram(net, ntk.shift(many.x_test, 0, right, edge="wrap"), many.x_train)
        f = ntk.gradient_flow(theta, target, t=jnp.inf, ridge=1e-3, ntk_test_train=across)[1]
        found.append(float((np.asarray(f).argmax(1) == many.y_test).mean()))
    return found


ends = {
    "flatten": ending(ntk.Flatten(), width=8 * 49),
    "means of 3×3": ending(ntk.AvgPool(3, strides=1, padding="CIRCULAR"), ntk.Flatten(), width=8 * 49),
    "means of rows": ending(ntk.AvgPool((1, 7)), ntk.Flatten(), width=8 * 7),
}
for name, net in ends.items():
    print(f"{name:14}", "  ".join(f"{share:.2f}" for share in accuracies(net)))

# %% written="15.7" points=1
answer = r"""
### BEGIN SOLUTION
The three numbers of "means of rows" are equal: its kernel does not change when a digit moves around the
edge within its rows. It is not so for a move up or down. "Flatten" is made of products of equal places, so a move
by one place costs more than half of the accuracy. Local means are no worse in place and keep a part.
The mean over all places is invariant in all directions, and with 0.81 as accurate as "flatten" in place: it meets
the aim. A sum of two branches, one with means of rows and one of columns, has 0.84 in place but 0.47 after a move: what
one branch keeps, the other loses.
Digits that really stand elsewhere come in from an edge that is black, so moves around the edge
are a model of them only as long as the digit does not cross it. 200 test digits have a standard error
of 0.025: differences of that size need more images or pairs.
### END SOLUTION
"""
check("15.7", answer)
