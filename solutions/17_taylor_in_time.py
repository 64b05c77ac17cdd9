# %% [markdown]
# # Exercises 17: Taylor expansion in time
#
# They go with the chapter `notebooks/17_taylor_in_time.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("17.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import check, hint, predict
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()

data = ntk.load("mnist5k", n_train=500, n_test=500, pool=4)
x, x_test = (jnp.asarray(a, jnp.float64) for a in (data.x_train, data.x_test))
y, y_test = jnp.asarray(data.y_train), jnp.asarray(data.y_test)


def convnet(seed, activation=ntk.Relu, n=8):
    """Three convolutions and a readout for images of 7×7 pixels, in the standard parameterization."""
    how = {"w_std": 2**0.5, "parameterization": ntk.STANDARD, "rngs": nnx.Rngs(seed)}
    return ntk.Serial(
        ntk.Conv(1, n, 3, strides=2, **how),
        activation(),
        ntk.Conv(n, n, 3, strides=2, **how),
        activation(),
        ntk.Conv(n, n, 3, **how),
        activation(),
        ntk.Flatten(),
        ntk.Dense(4 * n, 10, **how),
    )


# %% [markdown]
# ## 17.1 `linear_training`
#
# 20 minutes · difficulty 2 of 5 · rests on “Linear from now on”
#
# Train a linearized network without its parameters. Its tangent kernel `theta` $= \Theta_{ij}^{kl}$, [N, N, K, K], has
# $\Theta_{ij}^{kl} = \frac{\partial f_k(x_i)}{\partial\theta} \cdot \frac{\partial f_l(x_j)}{\partial\theta}$ and never changes.
# The loss is the mean cross-entropy of softmax(f), the method full-batch gradient descent with heavy-ball momentum as in
# `optax.sgd(rate, momentum)`: $v \leftarrow \mu v + \nabla\mathcal L$, $\theta \leftarrow \theta - \eta v$. Return the outputs [N, K] after `steps` steps.


# %% task="17.1"
def linear_training(theta, f0, labels, rate, momentum, steps):
    """Outputs [N, K] after the training; f0 [N, K] are the outputs at the onset, labels [N] integers."""
    ### BEGIN SOLUTION
    n, k = f0.shape
    target = jax.nn.one_hot(labels, k)
    f, v = f0, jnp.zeros_like(f0)
    for _ in range(int(steps)):
        v = momentum * v + jnp.einsum("ijkl,jl->ik", theta, jax.nn.softmax(f) - target) / n
        f = f - rate * v  # J times the velocity of the parameters
    return f
    ### END SOLUTION


# %% check="17.1" points=2
check("17.1", linear_training)

# %% [markdown]
# ## 17.2 Three ways to halve: predict, then measure
#
# 15 minutes · difficulty 2 of 5 · rests on “One order more”
#
# A GELU network, its linearization and its second-order expansion at the start are trained with the rate $\eta$ for ten full steps.
# The outputs of the network and of the linearization are then a distance $g_1$ apart, those of the network and of the second order $g_2$.
# By which factor does $g_1$ become *smaller* if $\eta$ is halved and the ten steps are kept? By which factor $g_2$?
# And by which factor does $g_1$ become smaller if $\eta$ is halved and the number of steps is doubled? Take $\eta$ small.

# %% task="17.2"
# g1 before over g1 after, the same for g2 (ten steps each time), and g1 once more with twice the steps
first_order = ...
second_order = ...
twice_the_steps = ...
### BEGIN SOLUTION
first_order = 4  # half the way, and what is left out is quadratic in it
second_order = 8  # cubic
twice_the_steps = 1  # the same way: each follows its gradient flow, only in smaller steps
### END SOLUTION

# %% check="17.2" points=2
check("17.2", (first_order, second_order, twice_the_steps))

# %% [markdown]
# The measurement waits for your prediction.

# %% alt="Distance between the outputs of a network and of its Taylor polynomials after training, over the learning rate from 0.001 to 0.008, both axes logarithmic. With ten steps the points of the linearization approach a dashed line of slope two for small rates and lie below it for larger ones, those of the second order likewise with slope three. With a number of steps in inverse proportion to the rate the distance of the linearization is a horizontal line."
HALVINGS = 4


@jax.jit
def outputs_on_the_way(params, rate):
    """Outputs of orders 1 and 2 minus the network's, after 10, 20, 40, 80 steps, [times, 2, N, K]."""
    fn, start = ntk.functional(smooth)[0], params

    def trained(model):
        how = {"optimizer": optax.sgd(rate), "steps": 80, "loss": "cross_entropy", "progress": False}
        at = [10 * 2**i for i in range(HALVINGS)]
        look = lambda p: model(p, x[:16])  # noqa: E731
        return ntk.train((model, start), x[:16], y[:16], record=look, record_at=at, **how).records

    ends = [trained(model) for model in (fn, ntk.linearize((fn, start)), ntk.taylor((fn, start), 2))]
    return jnp.stack(ends[1:], axis=1) - ends[0][:, None]


if predict("17.2", first_order, second_order, twice_the_steps) is not None:
    smooth = convnet(0, ntk.Gelu)
    rates = 0.008 / 2 ** np.arange(HALVINGS)
    apart = [outputs_on_the_way(ntk.functional(smooth)[1], rate) for rate in rates]
    g = np.sqrt(np.mean(np.array(apart) ** 2, axis=(-2, -1)))  # [rates, times, order]
    curves = (g[:, 0, 0], g[:, 0, 1], np.array([g[i, i, 0] for i in range(HALVINGS)]))
    names = ("order 1, ten steps", "order 2, ten steps", "order 1, steps ∝ 1/η")
    fig, ax = plt.subplots()
    for i, (name, curve, slope) in enumerate(zip(names, curves, (2, 3, 0), strict=True)):
        ax.plot(rates, curve, plotting.MARKERS[i], color=plotting.COLOURS[i], label=name)
        ax.plot(rates, curve[-1] * (rates / rates[-1]) ** slope, "--", color="0.4", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="learning rate η", ylabel="distance of the outputs (rms)")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.set_xticks([], minor=True)
    ax.legend()

# %% [markdown]
# ## 17.3 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “Linear from now on”
#
# Somebody expects that every linearized network ends without a training error:
#
# 1. The outputs of the linearized network are affine in $\theta$ and the cross-entropy is convex in the outputs, so its loss is convex in $\theta$.
# 2. A convex function has no local minima but its global ones, and gradient descent with a small rate goes to its infimum.
# 3. The network of the chapter has more parameters, 2,538, than training images, 1,000. So a $J_{\tilde t}$ of full rank can bring about any outputs on these images.
# 4. Then outputs with a loss as small as we like can be reached, and the infimum of the loss is zero.
# 5. So from every onset with such a $J_{\tilde t}$ the linearized network ends with no wrong label on the training images.
#
# In which line, 1 to 5, is the first error? Then compute from $J$, [N, K, P], two whole numbers: the dimension of the set of all outputs [N, K] that a
# linearized network reaches on the $N$ images, and the dimension of the set of all probabilities softmax(f) that it reaches there
# (how many directions of the outputs change a probability).
# `jnp.linalg.matrix_rank` may be used. Softmax does not see everything.

# %% task="17.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 3
### END SOLUTION


def freedom(jac):
    """(dimension of the reachable outputs, dimension of the reachable probabilities), from J [N, K, P]."""
    ### BEGIN SOLUTION
    p = jac.shape[-1]
    # softmax ignores what is added to all K outputs of an image: take the mean over k away
    seen = jac - jac.mean(axis=1, keepdims=True)
    return jnp.linalg.matrix_rank(jac.reshape(-1, p)), jnp.linalg.matrix_rank(seen.reshape(-1, p))
    ### END SOLUTION


# %% check="17.3" points=3
check("17.3", (wrong_line, freedom))

# %% [markdown]
# ## 17.4 `from_the_onset`
#
# 20 minutes · difficulty 3 of 5 · rests on “What the kernel knows”
#
# Kernel regression forgot the function at the onset. Put it back, and use what you know from chapters 04 and 12. A linearized network with the squared loss of this course
# and the penalty $\frac{\varepsilon}{2N} \lVert\theta - \theta_{\tilde t}\rVert^2$ is trained to the end. Return its outputs at new images for several relative ridges, $\varepsilon = \delta\, \mathrm{tr}(\Theta)/N$.
# All outputs have the same kernel `theta` here. Write it without `ntk.gradient_flow`.


# %% task="17.4"
def from_the_onset(theta, theta_test, f, f_test, y, ridges):
    """Outputs [R, M, K] from theta [N, N], theta_test [M, N], f [N, K], f_test [M, K] and y [N, K]."""
    ### BEGIN SOLUTION
    lam, modes = jnp.linalg.eigh(theta)
    inverse = 1 / (lam[None, :] + ridges[:, None] * lam.mean())  # [R, N]
    # what is to be learned is y − f(X), and it is learned on top of f
    learned = jnp.einsum("ma,ra,ak->rmk", theta_test @ modes, inverse, modes.T @ (y - f))
    return f_test[None] + learned
    ### END SOLUTION


# %% check="17.4" points=2
check("17.4", from_the_onset)

# %% [markdown]
# ## 17.5 An advantage that vanishes
#
# 10 minutes · difficulty 3 of 5 · rests on “Linear from now on”
#
# A colleague trains with a rate that falls to zero at epoch 50. At onset 49 the network has the error 0.081, the linearized network 0.081,
# and the network trained on 0.081. "No nonlinear advantage. So the kernel of epoch 49 has all that is needed." What is wrong with that? At onset 2 she has 0.30, 0.16 and 0.12:
# which share, in percent, of what the network still gains does the linearized network gain? Name one measurement that shows what the *kernel* of epoch 49 is worth.

# %% written="17.5" points=2
answer = r"""
### BEGIN SOLUTION
At epoch 49 nothing moves any more: the network gains nothing, so the linearized one cannot
gain less. Any kernel would show no advantage, even that of the start. The comparison says
something only where there is something left to win. At onset 2 the network gains 0.30 - 0.12
= 0.18 and the linearized one 0.30 - 0.16 = 0.14, which is 78 percent.
What the kernel of epoch 49 is worth shows where the function is taken away: kernel
regression from zero outputs with that kernel, beside the same with the kernel of the start.
Or train with a constant rate.
### END SOLUTION
"""
check("17.5", answer)

# %% [markdown]
# ## 17.6 Go further: the first epoch
#
# 60 minutes · difficulty 5 of 5 · rests on “What the kernel knows”
#
# An open task. In the chapter the kernel of a quarter of an epoch is no better than that of the start. When does it turn? Does it depend on the rate, or on the outputs at the start?
# The cell below follows the error of kernel regression through the first 60 steps, for one network, with the rate 0.03 and with a third of it.
# Predict first: are the two curves the same over the steps, or over rate times steps? Then change it: more seeds, `ntk.center`, no momentum, rectifiers
# against `ntk.Gelu`, other data. Is a spoilt kernel a law, or an accident of a narrow network?

# %%
FEW, AT = 200, (0, 4, 8, 16, 32, 60)


def kernel_error(model, ridge=1e-3):
    """Test error of kernel regression with the tangent kernel of a model."""
    theta = ntk.empirical_ntk(model, jnp.concatenate([x[:FEW], x_test[:300]]), x[:FEW])
    target = jnp.asarray(ntk.one_hot_centered(y[:FEW], 10), theta.dtype)
    f = ntk.gradient_flow(theta[:FEW], target, t=jnp.inf, ridge=ridge, ntk_test_train=theta[FEW:])[1]
    return float((f.argmax(1) != y_test[:300]).mean())


curves = {}
for rate in (0.03, 0.01):
    fn, params = ntk.functional(convnet(1))
    how = {"optimizer": optax.sgd(rate, momentum=0.9), "steps": AT[-1], "batch_size": 32}
    how |= {"loss": "cross_entropy", "key": jax.random.key(1), "record_at": AT, "progress": False}
    history = ntk.train((fn, params), x, y, record=lambda p: p, **how)
    moments = [jax.tree.map(lambda leaf, i=i: leaf[i], history.records) for i in range(len(AT))]
    curves[rate] = [kernel_error((fn, p)) for p in moments]

# %% alt="Error of kernel regression on 300 test digits with the tangent kernel of a network after 0 to 60 steps, for the rates 0.03 and 0.01. Both curves start at 0.22 and rise to 0.3 within four steps. After 60 steps they are back at 0.21 and 0.24."
fig, ax = plt.subplots()
for i, (rate, errors) in enumerate(curves.items()):
    ax.plot(AT, errors, color=plotting.COLOURS[i], marker=plotting.MARKERS[i], label=f"rate {rate:g}")
ax.set(xlabel="steps", ylabel="error of kernel regression", ylim=(0, None))
_ = ax.legend()

# %% written="17.6" points=1
answer = r"""
### BEGIN SOLUTION
One network shows one curve, and its points have a standard error of two to three percent from
300 test digits, so differences of that size mean nothing here: repeat with ten seeds and
compare pairs. Over rate times steps the two curves should lie on each other as long as both
rates follow the same flow; where momentum and large steps overshoot they need not. If the
outputs at the start are to blame, ntk.center takes the worse kernel away, and if the width is,
32 channels do. The share of the largest eigenvalue is no explanation: in the chapter it falls
while the error rises. If the effect goes away with the width at equal rate times kernel,
it is an accident of narrow networks; if it stays, it may be a law. This cell cannot tell.
### END SOLUTION
"""
check("17.6", answer)
