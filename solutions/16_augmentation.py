# %% [markdown]
# # Exercises 16: augmentation
#
# They go with the chapter `notebooks/16_augmentation.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("16.1")` helps on, in three levels.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage
from flax import nnx

import ntklib as ntk
from course import check, hint, predict
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()

N, M = 100, 300
data = ntk.load("digits", n_train=N, n_test=M)  # 8×8 pixels
y = jnp.asarray(ntk.one_hot_centered(data.y_train, 10), float)
net = ntk.mlp([64, 1, 1, 1], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))


def rows(images):
    return jnp.asarray(images.reshape(len(images), -1), float)


def kernel(a, b):
    """The NTK of a dense network between rows a [n, d] and b [m, d]."""
    return ntk.gram(net, a, b)


# %% [markdown]
# ## 16.1 `member_kernels`
#
# 25 minutes · difficulty 3 of 5 · rests on “Averaging over a group”
#
# An ensemble of $J$ members needs $J$ kernel matrices, one for the copies of each member.
# For deep convolutional kernels these cost more than the solves. For a group all of them stand in one table already.
#
# Let $G$ be a group of permutations of pixels: element `g` makes of rows `x` the rows `x[:, perms[g]]`, and element 0 changes nothing.
# The kernel stays the same if a permutation acts on *both* inputs.
# Somebody has computed `table[i, g, j]`, the kernel between image $i$ as it is and image $j$ changed by `g`.
# Member $m$ has image $i$ changed by `draws[m, i]`. Return the kernel matrices of all members, without any further value of the kernel.
#
# You also get the rule by which elements are combined: `first_then[g, h]` is the element that does the same as first `g`, then `h`.
# The elements need not commute, so think about their order.


# %% task="16.1"
def member_kernels(table, first_then, draws):
    """Kernel matrices [J, N, N] of the members, from table [N, G, N], first_then [G, G] and draws [J, N]."""
    ### BEGIN SOLUTION
    inverse = jnp.argmin(first_then, axis=1)  # first g, then its inverse, is element 0
    # Do the inverse of the copy of image i after both: image i is the original again, and the kernel is the same.
    element = first_then[draws[:, None, :], inverse[draws][:, :, None]]  # [J, i, j]
    i = jnp.arange(len(table))
    return table[i[:, None], element, i[None, :]]
    ### END SOLUTION


# %% check="16.1" points=3
check("16.1", member_kernels)

# %% [markdown]
# ## 16.2 Labels that change sign
#
# 25 minutes · difficulty 4 of 5 · rests on “Averaging over a group”
#
# Does a stroke lean to the right ($y = +1$) or to the left ($y = -1$)? A mirror image changes the answer.
# In general let a group $G$ of permutations of pixels come with signs $\chi(g) = \pm 1$, $\chi(gh) = \chi(g)\,\chi(h)$, so that a copy $g x_i$ has the target $\chi(g)\, y_i$.
# The chapter has the case in which all signs are $+1$.
#
# Derive the prediction of kernel regression on all $|G| N$ copies with the ridge $\lambda$ (absolute, added to the diagonal), and write it with matrices of size $N$: no matrix of all copies with all copies.
# Element $g$ of the group makes of rows `x` the rows `x[:, perms[g]]`. The kernel is invariant if a permutation acts on both inputs.


# %% task="16.2"
def signed_regression(kernel, x_test, x, y, perms, signs, lam):
    """Prediction [M, K] at x_test [M, d], from x [N, d], y [N, K], perms [G, d] of pixels, signs [G] and the ridge lam."""

    ### BEGIN SOLUTION
    def average(a):
        return sum(sign * kernel(a, x[:, perm]) for perm, sign in zip(perms, signs, strict=True)) / len(signs)

    a = jnp.linalg.solve(average(x) + lam / len(signs) * jnp.eye(len(x)), y)
    return average(x_test) @ a
    ### END SOLUTION


# %% check="16.2" points=3
check("16.2", signed_regression)

# %% [markdown]
# ## 16.3 Eight members from two: predict, then measure
#
# 10 minutes · difficulty 2 of 5 · rests on “How many members?”
#
# Somebody measures a squared test error of 0.400 for single members, on average, and of 0.340 for ensembles of two.
# What will it be for ensembles of eight? And how many members have 95 % of all that can be gained over a single one?

# %% task="16.3"
at_eight = ...
members = ...
### BEGIN SOLUTION
limit = 2 * 0.340 - 0.400  # 0.28
at_eight = limit + (0.400 - limit) / 8  # 0.295
members = 20  # 1 − 1/J = 0.95
### END SOLUTION

# %% check="16.3" points=2
check("16.3", (at_eight, members))

# %% [markdown]
# And now on digits, where you do not know the result.
# The first cell measures ensembles of one and two, with shifts by at most a pixel.
# Note your prediction for eight in place of the dots. The second cell measures it with other members.

# %%
moves = list(itertools.product((-1, 0, 1), repeat=2))


def some_shift(rng):
    """A function that moves each image by a shift of its own."""
    down, right = np.array(moves)[rng.integers(9, size=N)].T
    return rows(ntk.shift(data.x_train, down, right, edge=data.black))


def outputs_of(train, ridge=1e-2):
    k = kernel(train, train)
    lam = ridge * jnp.trace(k) / N
    return kernel(rows(data.x_test), train) @ jnp.linalg.solve(k + lam * jnp.eye(N), y)


def squared_error(f):
    return float(np.mean(np.sum((f - ntk.one_hot_centered(data.y_test, 10)) ** 2, axis=-1)))


rng = np.random.default_rng(0)
outputs = np.stack([outputs_of(some_shift(rng)) for _ in range(40)])
first = outputs[:8]
of_one = np.mean([squared_error(f) for f in first])
of_two = np.mean([squared_error((f + g) / 2) for f, g in itertools.combinations(first, 2)])
print(f"single members {of_one:.3g}, ensembles of two {of_two:.3g}")

# %%
predict("16.3", ...)

# %% alt="Squared error on test digits over the number of members, one to 32: measured points fall like one over J towards a limit. Your own prediction for eight members is drawn as a cross if you have noted one."
sizes = (1, 2, 4, 8, 16, 32)
measured = [np.mean([squared_error(f.mean(0)) for f in np.split(outputs[8:], 32 // size)]) for size in sizes]
fig, ax = plt.subplots()
ax.plot(sizes, measured, "s", label="other members")
if predict("16.3") is not None:
    ax.plot(8, predict("16.3"), "x", color="black", markersize=10, label="your prediction")
ax.set(xscale="log", xlabel="members J", ylabel="squared error on test digits")
ax.set_xticks(sizes, [str(size) for size in sizes])
ax.set_xticks([], minor=True)
_ = ax.legend()

# %% [markdown]
# ## 16.4 Spot the error: too good to be true
#
# 20 minutes · difficulty 3 of 5 · rests on “Against one solve on all copies”
#
# A student has few digits, makes three copies of each (the image itself, and two turned at random by up to ten degrees), and measures an accuracy that no other method comes near.
#
# 1. Stack the copies: copy $c$ of image $i$ is row $c \cdot n + i$, $c = 0, 1, 2$; copy 0 is the image itself.
# 2. Repeat the labels three times, in the same order.
# 3. Shuffle the $3n$ rows. Put the first fifth aside for testing, and take the rest for training.
# 4. Solve for the training rows with a small ridge, and predict the test rows.
# 5. The accuracy is the share of test rows whose largest output is at their label.

# %%


def three_copies(images, rng):
    """Rows [3n, 64]: the images, and twice the same turned by up to ten degrees."""
    how = {"reshape": False, "order": 1, "cval": data.black}
    turned = [
        [
            scipy.ndimage.rotate(x, angle, **how)
            for x, angle in zip(images, rng.uniform(-10, 10, len(images)), strict=True)
        ]
        for _ in range(2)
    ]
    return rows(np.concatenate([images, *turned]))


def accuracy(train, train_labels, test, test_labels):
    """Line 4 and line 5."""
    k = kernel(train, train)
    targets = jnp.asarray(ntk.one_hot_centered(train_labels, 10), float)
    lam = 1e-3 * jnp.trace(k) / len(k)
    f = kernel(test, train) @ jnp.linalg.solve(k + lam * jnp.eye(len(k)), targets)
    return float(np.mean(f.argmax(1) == test_labels))


FEW = 30
flawed, honest = [], []
for seed in range(5):
    rng = np.random.default_rng(seed)
    x, labels = three_copies(data.x_train[:FEW], rng), np.tile(data.y_train[:FEW], 3)
    order = rng.permutation(3 * FEW)
    test, train = order[: 3 * FEW // 5], order[3 * FEW // 5 :]
    flawed.append(accuracy(x[train], labels[train], x[test], labels[test]))
    honest.append(accuracy(x, labels, rows(data.x_test), data.y_test))
print(
    f"flawed {np.mean(flawed):.2f}; on images that nobody has seen, with all rows for training: {np.mean(honest):.2f}"
)

# %% [markdown]
# In which line, 1 to 5, is the first error? What is its consequence: for which share of the test rows is at least one other copy of the same image among the training rows (for large $n$)?
# And write the split as it should be: `order` is a permutation of the $n$ images. The first `n_test` images of it are for testing, without copies. All copies of the others are for training.

# %% task="16.4"
# The number of the line, 1 to 5, and a share between 0 and 1.
wrong_line = ...
share = ...
### BEGIN SOLUTION
wrong_line = 3
share = 1 - 0.2**2  # 0.96: both others are in the test set with probability 0.2²
### END SOLUTION


def split(order, copies, n_test):
    """(train, test): numbers of rows; copy c of image i is row c·n + i, n = len(order)."""
    ### BEGIN SOLUTION
    n = len(order)
    train = np.concatenate([c * n + np.asarray(order[n_test:]) for c in range(copies)])
    return train, np.asarray(order[:n_test])
    ### END SOLUTION


# %% check="16.4" points=3
check("16.4", (wrong_line, share, split))

# %% [markdown]
# ## 16.5 What is lost
#
# 15 minutes · difficulty 3 of 5 · rests on “Against one solve on all copies”
#
# With $J = 9$ copies of each image: how many times fewer multiplications does the ensemble take than one solve on all copies?
# Why can it be nearly as good all the same, and what exactly does it lose? Say what a matrix of one member is on average.

# %% written="16.5" points=2
answer = r"""
### BEGIN SOLUTION
$J N^3$ in place of $(JN)^3$: 81 times fewer. Off the diagonal a member's matrix is
$k(g_i x_i, g_j x_j)$ with independent $g_i, g_j$, on average $k_G(x_i, x_j)$: the same
averaged kernel that one solve on all copies of a group uses. The predictions of members
scatter, and the variance of their mean falls like 1/J. On the diagonal it is $k(x_i, x_i)$
and not $k_G(x_i, x_i)$, because an image meets itself with one and the same
transformation. So a large ensemble is, nearly, regression with the averaged kernel and an
extra ridge $k - k_G$, and no member ever sees two copies of one image. Where noise in the
labels asks for a ridge of that size anyway, this costs nothing. It is not all that can be
lost: over shifts, which are no group, one solve is better by more than this ridge explains.
### END SOLUTION
"""
check("16.5", answer)

# %% [markdown]
# ## 16.6 Go further: an augmentation of your own
#
# 40 minutes · difficulty 4 of 5 · rests on “The labels decide”
#
# An open task. Write `mine(images, rng)`: copies of digits, each changed at random in a way that keeps its label.
# Predict the sign and the rough size of the gain in accuracy before you run the cell.
# What happens if you go too far? Compare shifts by one and by three pixels. Can you combine two augmentations, and does the gain add up?

# %%
BLACK = data.black


def mine(images, rng):
    """Copies [N, 8, 8, 1] of images; an example that does nearly nothing: a little noise."""
    return images + 0.1 * rng.normal(size=images.shape)


def accuracy_of(augment, members=16, seeds=5, few=100):
    """Test accuracy of an ensemble, and of no augmentation, on the same images: [seeds] each."""
    with_it, without = [], []
    for seed in range(seeds):
        part = ntk.load("digits", n_train=few, n_test=M, seed=seed)
        targets = jnp.asarray(ntk.one_hot_centered(part.y_train, 10), float)
        rng = np.random.default_rng(seed)

        def outputs(images, part=part, targets=targets):
            train, new = rows(images), rows(part.x_test)
            k = kernel(train, train)
            return kernel(new, train) @ jnp.linalg.solve(k + 1e-2 * jnp.trace(k) / few * jnp.eye(few), targets)

        f = sum(outputs(augment(part.x_train, rng)) for _ in range(members))
        with_it.append(float(np.mean(f.argmax(1) == part.y_test)))
        without.append(float(np.mean(outputs(part.x_train).argmax(1) == part.y_test)))
    return np.array(with_it), np.array(without)


gain = np.subtract(*accuracy_of(mine))
print(f"gain in accuracy: {gain.mean():.3f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.3f}")

# %% written="16.6" points=1
answer = r"""
### BEGIN SOLUTION
A slant: `scipy.ndimage.affine_transform(image[..., 0], [[1, 0], [t, 1]], offset=[0, -3.5 * t],
order=1, cval=BLACK)` with $t$ drawn from −0.3 to 0.3 for each image. People slant their
digits differently, and a hundred images do not show all slants, so I predicted a gain of
about 0.01. Measured: −0.006 ± 0.005. There is none that five subsets could see: the
interpolation blurs an image of 8×8 pixels, and the ensemble brings its extra ridge along.
Shifts by one pixel lose 0.06 ± 0.02, as in the chapter. Shifts by three cut parts of the
digit off: −0.49 ± 0.04. Slants and shifts together: −0.05 ± 0.01, about the sum.
### END SOLUTION
"""
check("16.6", answer)
