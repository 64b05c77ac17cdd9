# %% [markdown]
# # Exercises 20: the other library
#
# They go with the chapter `notebooks/20_neural_tangents.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("20.1")` helps on, in three levels.
# No task needs neural-tangents. Where it is installed, some cells show its numbers beside yours.

# %%
import importlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import bridge, check, hint, predict
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()
data = ntk.load("digits", n_train=100, n_test=100)
tokens, new_tokens = (np.asarray(x[..., 0], np.float64) for x in (data.x_train, data.x_test))  # [N, 8, 8]
y = np.asarray(ntk.one_hot_centered(data.y_train, 10), np.float64)
print("tokens", tokens.shape, "targets", y.shape)

# %% [markdown]
# The next cell looks for neural-tangents. If it says that it is missing, go on: the sheet runs without.

# %%
nt = bridge(needed=False)

# %% [markdown]
# ## 20.1 `translated`
#
# 20 minutes · difficulty 2 of 5 · rests on “A dictionary”
#
# A colleague sends this network of neural-tangents (`a` and `b` are widths):
#
# ```python
# stax.serial(
#     stax.Dense(a, W_std=1.5, parameterization="standard"),
#     stax.Erf(),
#     stax.Dense(b, W_std=1.2, b_std=0.0, parameterization="standard"),
#     stax.LeakyRelu(0.1),
#     stax.Dense(1, W_std=0.9, b_std=0.3),
# )
# ```
#
# Write it in `ntklib`: a function that returns the network for inputs of size `d`, hidden layers of widths `a` and `b`, and `rngs`. Its kernels must be the colleague's.


# %% task="20.1"
def translated(d, a, b, rngs):
    """The colleague's network as a layer of ntklib: inputs [N, d] to outputs [N, 1]."""
    ### BEGIN SOLUTION
    return ntk.Serial(
        ntk.Dense(d, a, w_std=1.5, use_bias=False, parameterization=ntk.STANDARD, rngs=rngs),  # b_std=None
        ntk.Erf(),
        ntk.Dense(a, b, w_std=1.2, b_std=0.0, parameterization=ntk.STANDARD, rngs=rngs),  # a bias, zero at first
        ntk.LeakyRelu(0.1),
        ntk.Dense(b, 1, w_std=0.9, b_std=0.3, rngs=rngs),
    )
    ### END SOLUTION


# %% check="20.1" points=2
check("20.1", translated)

# %% [markdown]
# ## 20.2 `pooled`
#
# 15 minutes · difficulty 3 of 5 · rests on “Masks”
#
# What does a mask do in the layer that matters most? Let $k_{ijst}$ be the kernel between token $s$ of sequence $i$ and token $t$ of sequence $j$.
# The next layer is an average over the *real* tokens of each sequence. Write the kernel after it, from `k` and the two masks, which are true where a token is real. Each sequence has at least one.


# %% task="20.2"
def pooled(k, real1, real2):
    """Kernel [N, M] of the averages, from k [N, M, S, T] and masks real1 [N, S], real2 [M, T]."""
    ### BEGIN SOLUTION
    w1 = real1 / jnp.sum(real1, axis=1, keepdims=True)  # the weight of each token in its average
    w2 = real2 / jnp.sum(real2, axis=1, keepdims=True)
    return jnp.einsum("is,jt,ijst->ij", w1, w2, k)
    ### END SOLUTION


# %% check="20.2" points=2
check("20.2", pooled)

# %% [markdown]
# With it a kernel for sequences of different lengths is a matter of lines, also here: a token kernel by `ntklib`, the average by hand, the prediction by `ntk.gradient_flow`.
# The cell does that with the library's own layers for sequences of one length, and asks neural-tangents, if it is there.

# %%
SEEN, FILL = 5, -1000.0  # of eight rows


def token_layers(rngs):
    """From a row of eight pixels to hidden units, for each token."""
    return ntk.Serial(ntk.Dense(8, 16, w_std=1.5, b_std=0.1, rngs=rngs), ntk.Relu())


def cut_kernel(rows, other_rows):
    """NTK [N, M] of the average over tokens and a readout; sequences [N, T, 8] of one length."""
    net = ntk.Serial(token_layers(nnx.Rngs(0)), ntk.GlobalAvgPool(), ntk.Dense(16, 1, w_std=1.5, rngs=nnx.Rngs(0)))
    return np.asarray(net.kernel(rows[:, :, None], other_rows[:, :, None]).ntk)  # images of T × 1 pixels


short, new_short = tokens[:, :SEEN], new_tokens[:, :SEEN]
k_train, k_test = cut_kernel(short, short), cut_kernel(new_short, short)
_, outputs = ntk.gradient_flow(k_train, y, t=jnp.inf, ntk_test_train=k_test, ridge=1e-2)
print(f"accuracy from the upper {SEEN} of 8 rows: {(np.asarray(outputs).argmax(1) == data.y_test).mean():.2f}")
if nt:
    stax = nt.stax
    _, _, kernel_fn = stax.serial(stax.Dense(1, 1.5, 0.1), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1, 1.5))
    filled, new_filled = (np.where(np.arange(8)[:, None] < SEEN, t, FILL) for t in (tokens, new_tokens))
    masked = kernel_fn(new_filled, filled, "ntk", mask_constant=FILL)
    assert np.allclose(masked, k_test, rtol=1e-6)

# %% [markdown]
# ## 20.3 Zeros in place of a mask: predict, then measure
#
# 10 minutes · difficulty 3 of 5 · rests on “Masks”
#
# Take the network of the last cell *without biases*, and fill sequences of 5 and of 6 real tokens with zeros to 8, without a mask. Now the average is over 8 tokens, and the filled ones are zero.
# By which factor is the kernel between two such sequences smaller or larger than the one with masks? One number, the kernel with zeros over that with masks. Write it down first.

# %% task="20.3"
# kernel with zeros, over kernel with masks
factor = ...
### BEGIN SOLUTION
factor = 5 * 6 / 8**2  # a zero token stays zero, so that only the denominators differ: not 1, and not per sequence
### END SOLUTION

# %% check="20.3" points=1
check("20.3", factor)

# %% [markdown]
# The measurement, by `ntklib`, on twenty digits of which only the first rows are real. It waits for your prediction.

# %%
if predict("20.3", factor) is not None:
    token_net = ntk.Serial(ntk.Dense(8, 16, w_std=1.5, use_bias=False, rngs=nnx.Rngs(0)), ntk.Relu())

    def between_tokens(first, second):
        """NTK between all tokens, [20, 20, 8, 8]."""
        k = np.asarray(token_net.kernel(first.reshape(-1, 8), second.reshape(-1, 8)).ntk)
        return k.reshape(20, 8, 20, 8).swapaxes(1, 2)

    zeros5, zeros6 = (np.where(np.arange(8)[:, None] < n, tokens[:20], 0.0) for n in (5, 6))
    with_zeros = between_tokens(zeros5, zeros6).mean(axis=(2, 3))
    with_masks = between_tokens(tokens[:20], tokens[:20])[:, :, :5, :6].mean(axis=(2, 3))
    print(f"zeros over masks: {(with_zeros / with_masks).mean():.3g}, the same for every pair of images")
    assert np.ptp(with_zeros / with_masks) < 1e-6

# %% [markdown]
# ## 20.4 Spot the error
#
# 20 minutes · difficulty 4 of 5 · rests on “A dictionary”
#
# A notebook of 2021 has
#
# ```python
# predict_fn = nt.predict.gradient_descent_mse(theta, y, learning_rate=eta, diag_reg=delta, diag_reg_absolute_scale=True)
# train, test = predict_fn(t, f0, f0_test, theta_test)
# ```
#
# Somebody translates it to `ntk.gradient_flow(theta, y, t=..., ridge=...)`:
#
# 1. There the outputs follow $\dot f = -\frac{\eta}{NK}\, (\Theta + \delta\, 1)\,(f - y)$, since the loss is a mean over examples and outputs.
# 2. Here they follow $\dot f = -\frac1N \big(\Theta + \mathtt{ridge}\; c\; 1\big)(f - y)$ with a number $c$ that depends on the kernel.
# 3. So the two curves agree at the time $\eta\, t/K$ here, if both ridges are the same matrix.
# 4. The ridge here is relative to the trace, $c = \mathrm{tr}\,\Theta$. Hence $\mathtt{ridge} = \delta/\mathrm{tr}\,\Theta$.
# 5. The translation is `ntk.gradient_flow(theta, y, t=eta * t / K, ridge=delta / jnp.trace(theta))`.
#
# It does not survive a measurement: at the end of training, from a start at zero, the outputs at test points should be $\Theta(x, X)\,(\Theta + \delta\, 1)^{-1} y$.

# %%
net = ntk.mlp([64, 32, 1], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
flat, new_flat = tokens.reshape(100, 64), new_tokens.reshape(100, 64)
theta, theta_test = np.asarray(net.kernel(flat).ntk), np.asarray(net.kernel(new_flat, flat).ntk)


def flawed(theta, K, t, eta, delta):
    """Time and ridge for ntk.gradient_flow, with the error in it."""
    return eta * t / K, delta / np.trace(theta)


for delta in (0.1, 1.0, 10.0):
    _, ridge = flawed(theta, 10, np.inf, 1.0, delta)
    _, outputs = ntk.gradient_flow(theta, y, t=jnp.inf, ntk_test_train=theta_test, ridge=ridge)
    right = theta_test @ np.linalg.solve(theta + delta * np.eye(100), y)
    off = np.linalg.norm(outputs - right) / np.linalg.norm(right)
    print(f"δ = {delta:g}: off by {off:.0%}")

# %% [markdown]
# In which line, 1 to 5, is the first error? And write the translation as it should be.

# %% task="20.4"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 4
### END SOLUTION


def time_and_ridge(theta, K, t, eta, delta):
    """(t, ridge) for ntk.gradient_flow, from the kernel [N, N], the number of outputs, and t, η, δ there."""
    ### BEGIN SOLUTION
    return eta * t / K, delta * len(theta) / jnp.trace(theta)
    ### END SOLUTION


# %% check="20.4" points=3
check("20.4", (wrong_line, time_and_ridge))

# %% [markdown]
# ## 20.5 Which would you use?
#
# 10 minutes · difficulty 2 of 5 · rests on “Which one, when”
#
# Three people ask you. The first has sentences of different lengths and wants an NTK with attention.
# The second has 30,000 images, many of them near duplicates, a ReLU network of depth 20, and only float32 on her device.
# The third found, with 10 outputs, that at `t=1000` here an outlier is fitted, and at `t=1000` with `learning_rate=1` in neural-tangents it is not: "one of the two has a bug".
# Which library do you recommend to the first and to the second, and why? What do you tell the third: with which `t` here should he compare?

# %% written="20.5" points=2
answer = r"""
### BEGIN SOLUTION
The first: neural-tangents, which has attention and masks; the predictions can be made with either
library, since a kernel is an array. The second: ntklib. For near duplicates the angle goes through
an arccosine in neural-tangents, and in float32 only some four digits are left there, more lost with
each of 20 layers; and the kernel has 9 × 10⁸ entries, for which `gram` has tiles, devices and a store.
The third: no bug on these grounds. There the loss is a mean over the K = 10 outputs as well, so that
t = 1000 there is t = 100 here: training is ten times less far, and the outlier is not fitted yet.
If the curves differ at t = 100 here, too, look for a ridge (relative or absolute?) or for another kernel.
### END SOLUTION
"""
check("20.5", answer)

# %% [markdown]
# ## 20.6 Go further: an old cell, today
#
# 40 minutes · difficulty 4 of 5 · rests on “Its notebooks, today”
#
# An open task. This is how such notebooks looked in 2020: a wide network is trained on the parameters, and its test outputs are compared with what the kernel predicts.
#
# ```python
# from jax.api import jit, grad
# from jax.config import config
# from jax.experimental import optimizers
# import neural_tangents as nt
# from neural_tangents import stax
#
# config.update("jax_enable_x64", True)
# init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(512, 1.5, 0.1), stax.Erf(), stax.Dense(10, 1.5, 0.1))
# _, params = init_fn(random.PRNGKey(0), (-1, 64))
# opt_init, opt_update, get_params = optimizers.sgd(learning_rate)
# loss = lambda params, x, y: 0.5 * np.mean((apply_fn(params, x) - y) ** 2)
# state = opt_init(params)
# for i in range(steps):
#     state = opt_update(i, grad(loss)(get_params(state), x, y), state)
# predict_fn = nt.predict.gradient_descent_mse(kernel_fn(x, x, "ntk"), y, learning_rate)
# fx_train, fx_test = predict_fn(steps, fx_train_0, fx_test_0, kernel_fn(x_test, x, "ntk"))
# ```
#
# Bring it up, with `ntklib` and Optax, on the digits above: find out which names are gone, what stands in their place, and which factor the learning rate needs (look at the loss!). Then see how the distance between network and prediction depends on the width.
# The next cell says which of its modules your JAX still has (`jax.config` is an object today, and no module to import from); the one after it has a frame to play with.

# %%
for path in ("jax.api", "jax.config", "jax.experimental.optimizers", "jax.example_libraries.optimizers", "jax.random"):
    try:
        importlib.import_module(path)
        print(f"{path}: there")
    except ModuleNotFoundError:
        print(f"{path}: gone")

# %% alt="Distance between the test outputs of trained networks and the prediction of the infinite-width kernel, against the width, both axes logarithmic: four points that fall with growing width, beside a dotted line of slope minus one half."
WIDTHS, STEPS, RATE = (32, 128, 512, 2048), 200, 0.3
distance = []
for width in WIDTHS:
    wide = ntk.mlp([64, width, 10], activation=ntk.Erf(), w_std=1.5, b_std=0.1, rngs=nnx.Rngs(width))
    start, start_test = np.asarray(wide(flat)), np.asarray(wide(new_flat))
    kernels = np.asarray(wide.kernel(flat).ntk), np.asarray(wide.kernel(new_flat, flat).ntk)
    _, expected = ntk.gradient_flow(
        kernels[0], y, t=RATE * STEPS, f0=start, ntk_test_train=kernels[1], f0_test=start_test
    )  # fmt: skip
    ntk.train(wide, flat, y, optimizer=optax.sgd(RATE), steps=STEPS, progress=False)  # changes the network
    distance.append(np.sqrt(np.mean((np.asarray(wide(new_flat)) - np.asarray(expected)) ** 2)))

fig, ax = plt.subplots(figsize=(5.4, 3.2))
ax.loglog(WIDTHS, distance, "o", ls="none", label="one network each")
ax.loglog(WIDTHS, distance[0] * (np.array(WIDTHS) / WIDTHS[0]) ** -0.5, ":", color="0.4", label="slope −1/2")
ax.set(xlabel="width n", ylabel="rms distance at test points")
_ = ax.legend()

# %% written="20.6" points=1
answer = r"""
### BEGIN SOLUTION
Gone: `jax.api` (now `from jax import jit, grad`), `jax.config` as a module (`jax.config.update`),
`jax.experimental.optimizers` (in `jax.example_libraries`, or `optax.sgd`); `import neural_tangents` fails
and comes up through `ntklib.interop.neural_tangents`, after which `nt.stax` is there. `np` is `jax.numpy`.
The factor: `np.mean` is a mean over examples and outputs, so the loss is 1/(2NK) Σ‖f − y‖². The rate η of
the old cell is η/K with the loss of `ntk.train`, and time is t = η · steps/K. (Its prediction has the same
loss, so that the old cell is right as it stands.) Width: the distance falls like n^(-1/2), from the draw
of the kernel at the start (chapter 04); with the network's own kernel it would be smaller.
### END SOLUTION
"""
check("20.6", answer)
