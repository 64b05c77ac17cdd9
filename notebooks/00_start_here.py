# %% [markdown]
# # 00 · Start here
#
# **After this chapter you can**
#
# - treat a Flax NNX network as a plain function $f(\theta, x)$ and take it apart with `grad`, `vmap`, `jvp`, `vjp` and `jit`;
# - train it with Optax: as a pure function, in Flax's own style, and with `ntk.train`;
# - replace training by one linear system with the network's infinite-width kernel, and say how close the two come on real digits.
#
# **Time:** 45 minutes for the chapter, 70 for the exercises. You need Python and a first course on machine learning; no kernel theory.
#
# ## The question
#
# A network is trained by many small steps on millions of weights. This course is about a surprising shortcut.
# If the network is very wide, all those steps end where *one linear system* ends.
# The matrix of that system, the **neural tangent kernel** (NTK), can be written down before any training.
# Chapters 01 to 04 show why. Here we ask only: *does it work?*
# At the bottom of this page a network is trained on images of digits, the linear system is solved for the same images, and 10,000 outputs of the one are laid over those of the other.
#
# On the way there we collect the tools: the data, a network as a function, four transformations of functions, a training loop.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import report, reseed, scale
from ntklib import plotting

plotting.use_style()
paper = scale() == "paper"

# %% [markdown]
# ## The data
#
# `mnist5k` is 5,000 real handwritten digits, 500 of each class, in 28 × 28 gray levels. It comes with the library, so nothing is
# downloaded. We cut it into 4,000 images for training and 1,000 for testing.
#
# > **These are not the MNIST test set.** The 1,000 test images are our own cut of a part of MNIST. An accuracy on them is an
# > accuracy on *mnist5k*; do not compare it with published MNIST numbers. With 1,000 images its standard error is
# > $\sqrt{p(1-p)/1000}$, about 0.7 % at $p = 95\,\%$: a difference of half a per cent means nothing here.

# %%
data = ntk.load("mnist5k")
print(data)

# %% alt="Twelve gray-level images of handwritten digits in one row, each with its label above it; they are ordinary handwriting, some slanted, some thick."
fig, axes = plt.subplots(1, 12, figsize=(9, 1.1))
plotting.images(axes, data.x_train[:12], titles=data.y_train[:12].astype(str))
plt.show()

# %% [markdown]
# Fully connected networks take vectors: `data.flat()` makes each image one row of $d = 784$ numbers, and all $N$ of them a matrix
# $X$ of shape `[N, d]`. Pixels are shifted and scaled, once for all, so that over the training images $x \cdot x / d = 1$ on
# average. The quantity $x \cdot x'/d$ is worth a look: the kernels of infinitely wide fully connected networks, which this course is
# about, are functions of this number and of the two lengths, and see nothing else of two images. (Why? The first layer is
# drawn from a distribution without preferred directions. Chapter 03 makes that precise.)

# %% alt="Heat map of x·x'/d for 80 training images, eight of each class in order. The diagonal is bright; faint brighter squares of eight by eight lie along it, most clearly for classes 0 and 1. Values run from about minus 0.1 to 1.8."
images = data.flat()
order = np.argsort(images.y_train[:80], kind="stable")  # eight of each class
x_sorted, labels = images.x_train[order], images.y_train[order]
gram = x_sorted @ x_sorted.T / x_sorted.shape[1]

fig, ax = plt.subplots(figsize=(4.8, 3.9))
plotting.heatmap(ax, gram, label=r"$x \cdot x'/d$", title="80 digits, sorted by class")
ax.set(xticks=range(4, 80, 8), xticklabels=range(10), xlabel="class")
ax.set(yticks=range(4, 80, 8), yticklabels=range(10), ylabel="class")
plt.show()

same_class = np.equal.outer(labels, labels)
others = ~np.eye(80, dtype=bool)  # an image with another image
print(f"mean of x·x/d:                     {np.diag(gram).mean():.3g}")
print(f"mean of x·x'/d, same class:        {gram[same_class & others].mean():.2g}")
print(f"mean of x·x'/d, different classes: {gram[~same_class].mean():.2g}")

# %% [markdown]
# The diagonal is $x \cdot x / d$, about 1. Along it there are faint squares: two images of one class are more alike, by this number, than two of different classes, but only on
# average. A linear function of the pixels, fitted to all 4,000 images, is right on about 85 % of the test images; a nonlinear function will do much better.
#
# **Targets.** We do *regression* in most of the course, because its dynamics can be solved. A label becomes a vector of
# $K = 10$ numbers, $1 - 1/K$ at the right class and $-1/K$ elsewhere: one-hot, centered, so that its entries sum to zero. The squared
# loss is the same everywhere in this course,
#
# $$
# \mathcal L = \frac{1}{2N} \sum_{i=1}^{N} \lVert f(x_i) - y_i \rVert^2 ,
# $$
#
# and the predicted class is the largest of the ten outputs.

# %%
x_train, x_test = jnp.asarray(images.x_train), jnp.asarray(images.x_test)
y_train = jnp.asarray(ntk.one_hot_centered(images.y_train, classes=10))
print("label", images.y_train[0], "becomes", y_train[0])

# %% [markdown]
# ## A network is a function of its parameters
#
# `ntk.mlp` builds a fully connected network as a Flax NNX module. An NNX module is an ordinary Python object that holds its
# weights; you call it, and it computes.

# %%
net = ntk.mlp([784, 512, 512, 10], activation=ntk.Relu(), w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
print("outputs for five images:", net(x_train[:5]).shape)

# %% [markdown]
# `w_std` and `b_std` are the scales $\sigma_w$ and $\sigma_b$ of weights and biases; chapter 02 says where they stand in the
# formula and why. `nnx.Rngs(0)` is the source of randomness: the same seed gives the same weights.
#
# For theory an object with weights inside is the wrong way round. We want $f(\theta, x)$, a function of **two** arguments, because all
# the interesting derivatives are with respect to the first. `nnx.split` takes the object apart into its structure and its
# parameters, and `nnx.merge` puts it together again:

# %%
graph, params_state, rest = nnx.split(net, nnx.Param, ...)
again = nnx.merge(graph, params_state, rest)
print("same outputs:", bool(jnp.array_equal(again(x_train[:5]), net(x_train[:5]))))

# %% [markdown]
# `ntk.functional` wraps exactly this: it returns a pure function and the parameters as nested dictionaries of arrays, which JAX
# calls a *pytree*. Every function of `ntklib` that looks at a finite network does so first, and it takes any NNX or Linen module that
# is called with inputs alone, yours included.

# %%
apply_fn, params = ntk.functional(net)
print("same outputs:", bool(jnp.array_equal(apply_fn(params, x_train[:5]), net(x_train[:5]))))
for layer, tensors in params["layers"].items():
    print(f"layer {layer}:", {name: tensor.shape for name, tensor in tensors.items()})
print(f"P = {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters")

# %% [markdown]
# ## Four transformations of functions
#
# JAX is NumPy plus *transformations*: functions that take a function and return another. Each of the four below comes with the one idea
# about it that later chapters lean on. To keep the numbers small we use a network with a single output and five images.

# %%
small = ntk.mlp([784, 64, 1], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(1))
f, theta = ntk.functional(small)
x, y = x_train[:5], jnp.array([[1.0], [-1.0], [1.0], [-1.0], [1.0]])


def loss(theta, x, y):
    """1/(2N) Σ_i ‖f(x_i) − y_i‖²."""
    return 0.5 * jnp.mean(jnp.sum((f(theta, x) - y) ** 2, axis=-1))


# %% [markdown]
# ### `grad`: a gradient has the shape of what you differentiate by
#
# `jax.grad(loss)` is a new function that returns $\nabla_\theta \mathcal L$. It differentiates a *scalar* by its first argument, and the result is a
# pytree just like `theta`: the same dictionaries, an array of the same shape in each place. So $\theta - \eta \nabla_\theta \mathcal L$ is
# one `jax.tree.map`, and that is gradient descent.

# %%
gradient = jax.grad(loss)(theta, x, y)
for layer, tensors in gradient["layers"].items():
    print(f"layer {layer}:", {name: tensor.shape for name, tensor in tensors.items()})

stepped = jax.tree.map(lambda p, g: p - 0.01 * g, theta, gradient)
print("a step downhill lowers the loss:", bool(loss(stepped, x, y) < loss(theta, x, y)))

# %% [markdown]
# ### `vmap`: write it for one example, get it for all
#
# `jax.vmap` turns a function of one example into a function of a batch, without a Python loop. `in_axes` says for each argument
# which axis to map over; `None` means "the same for all". With it we get the gradient of the network's *output* (not of the
# loss) for each image separately.

# %%


def output_of_one(theta, image):
    """The network's single output for one image [d]."""
    return f(theta, image[None])[0, 0]


gradients = jax.vmap(jax.grad(output_of_one), in_axes=(None, 0))(theta, x)
print("first weight matrix, a gradient for each image:", gradients["layers"][0]["W"].shape)

# %% [markdown]
# Here is the first glimpse of the course's subject. Take the gradients of two images and form their inner product over all
# parameters: the 5 × 5 table of these numbers *is* the neural tangent kernel of this network,
#
# $$
# \Theta(x, x') = \sum_{p=1}^{P} \frac{\partial f(x)}{\partial \theta_p} \, \frac{\partial f(x')}{\partial \theta_p} .
# $$
#
# It says how alike two images are *to the training of this network*: a small step along the gradient of $f(x')$ changes
# $f(x)$ in proportion to $\Theta(x, x')$. The library computes the same.

# %%
rows = [leaf.reshape(5, -1) for leaf in jax.tree.leaves(gradients)]
flat = jnp.concatenate(rows, axis=1)  # [N, P]
by_hand = flat @ flat.T
by_library = ntk.empirical_ntk(small, x)
print("shape of all gradients, [N, P]:", flat.shape)
print("agrees with ntk.empirical_ntk: ", bool(jnp.allclose(by_hand, by_library, rtol=1e-4)))

# %% [markdown]
# ### `jvp` and `vjp`: the Jacobian, without ever writing it down
#
# Collect the derivatives of all $N$ outputs by all $P$ parameters in the Jacobian $J$, `[N, P]`. It is often too large to store,
# but two products with it are cheap, each about as cheap as a couple of evaluations of the network:
#
# - `jax.jvp` computes $Jv$: *if the parameters moved in the direction $v$, how fast would the outputs change?* (forward)
# - `jax.vjp` computes $J^\top u$: *if the outputs were to be pulled by $u$, which direction in parameters is asked for?* (backward;
#   `grad` is a `vjp`)
#
# They are two views of one matrix, so $u \cdot (Jv) = (J^\top u) \cdot v$ for any $u$ and $v$. And one after the other they give
# $J J^\top u = \Theta u$, the kernel times a vector, with no kernel formed. Chapter 01 builds on this.

# %%


def outputs(theta):
    """All outputs as a vector [N]."""
    return f(theta, x)[:, 0]


def inner(a, b):
    """The inner product of two pytrees."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


u = jnp.array([1.0, 0.0, -1.0, 2.0, 0.5])
v = jax.tree.map(jnp.sin, theta)  # any direction in parameters

_, j_v = jax.jvp(outputs, (theta,), (v,))
_, pull_back = jax.vjp(outputs, theta)
(jt_u,) = pull_back(u)
_, j_jt_u = jax.jvp(outputs, (theta,), (jt_u,))

print("u·(Jv) = (Jᵀu)·v:", bool(jnp.allclose(jnp.vdot(u, j_v), inner(jt_u, v), rtol=1e-4)))
print("J(Jᵀu) = Θu:     ", bool(jnp.allclose(j_jt_u, by_library @ u, rtol=1e-4, atol=1e-4)))

# %% [markdown]
# ### `jit`: compile once, for each shape
#
# `jax.jit` runs a function once with *tracers* in place of numbers, writes down what it does to them, and compiles that. After that,
# Python is not involved: anything that is not a computation on arrays (a `print`, appending to a list) happens during tracing
# only. This is the idea to remember: **a jitted function must be pure**, all that it needs comes in as arguments and all that it does goes
# out as results. It is also why the network had to become $f(\theta, x)$.

# %%
traced = []


@jax.jit
def counted_loss(theta, x, y):
    traced.append(x.shape)  # a side effect, to see when Python runs
    return loss(theta, x, y)


for batch in (x, x, x[:3], x):
    counted_loss(theta, batch, y[: len(batch)])
print("called 4 times, traced for the shapes", traced)

# %% [markdown]
# The transformations compose: `jit(vmap(grad(...)))` is as good as any of them, and a whole training run can be put inside
# `vmap` to train several seeds at once.
#
# ## Training, by hand and with `ntk.train`
#
# Optax keeps the *rules* of optimizers: given gradients, it says what to add to the parameters. Momentum and the like are a
# state, and since functions are pure, the state goes in and comes out. Ten lines are a training loop:

# %%
x_few, y_few = x_train[:500], y_train[:500]
optimizer = optax.adam(0.01)


def few_loss(params):
    residual = apply_fn(params, x_few) - y_few
    return 0.5 * jnp.mean(jnp.sum(residual**2, axis=-1))


@jax.jit
def step(params, opt_state):
    value, gradient = jax.value_and_grad(few_loss)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value


trained, opt_state, losses = params, optimizer.init(params), []
for _ in range(40):
    trained, opt_state, value = step(trained, opt_state)
    losses.append(value)

# %% [markdown]
# Flax's documentation writes the same loop with objects. `nnx.Optimizer` holds the optimizer's state and `nnx.value_and_grad` differentiates by the module's parameters.
# `nnx.jit` takes the objects apart before the compiled function and puts them together after it, as `nnx.split` and `nnx.merge` did above.

# %%
model = nnx.clone(net)
model_optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)


def model_loss(model):
    return 0.5 * jnp.mean(jnp.sum((model(x_few) - y_few) ** 2, axis=-1))


@nnx.jit
def model_step(model, optimizer):
    value, gradient = nnx.value_and_grad(model_loss)(model)
    optimizer.update(model, gradient)  # changes the weights in place
    return value


model_losses = [model_step(model, model_optimizer) for _ in range(40)]
assert np.allclose(model_losses, losses, rtol=1e-2)
print("both loops see the same 40 losses")

# %% [markdown]
# `ntk.train` is this loop, with mini-batches, a progress bar and a recorder that looks at the parameters at the
# steps you name. It takes a module (and then leaves the trained weights in it) or a pair `(apply_fn, params)`, which stays as
# it is.

# %% alt="Training loss over 40 Adam steps on a logarithmic axis. A line, the loop by hand, falls in waves from about 9 to below 0.2; eight dots, ntk.train, lie on it."
history = ntk.train((apply_fn, params), x_few, y_few, optimizer=optimizer, steps=40, record_at=range(0, 40, 5))

fig, ax = plt.subplots()
ax.plot(range(40), losses, label="by hand")
ax.plot(history.steps, history.loss, "o", color=plotting.COLOURS[1], label="ntk.train")
ax.set(xlabel="step", ylabel="training loss (target units²)", yscale="log")
ax.legend()
plt.show()

assert np.allclose(history.loss, np.array(losses)[::5], rtol=1e-2)
assert losses[-1] < 0.1 * losses[0]

# %% [markdown]
# ## The first result
#
# Now in earnest: two hidden layers of 1024 units, 400 training images, 1,000 test images, and gradient descent with all 400 images in each step.
# Two things make this the network that the theory is about.
#
# - **Its learning rate** is 0.9 times $2N/\lambda_{\max}(\Theta)$, the largest that is stable without momentum, and the momentum is 0.9.
#   Chapter 04 derives that number, and shows that momentum changes the way and not the end.
# - **It is centered.** A network with random weights is a random function, $f_0$. We train $f - f_0$, the change since the start, towards $y$; that is to train $f$ towards $y + f_0(X)$.

# %%
N = 400
wide = ntk.mlp([784, 1024, 1024, 10], activation=ntk.Relu(), w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(reseed(0)))
x, y = x_train[:N], y_train[:N]
theta_train = wide.kernel(x).ntk  # [N, N]
theta_test = wide.kernel(x_test, x).ntk  # [M, N]
apply_fn, start = ntk.functional(wide)
f0, f0_test = apply_fn(start, x), apply_fn(start, x_test)

history = ntk.train(
    (apply_fn, start),
    x,
    y + f0,
    optimizer=optax.sgd(0.9 * ntk.max_learning_rate(theta_train), momentum=0.9),
    steps=400 if paper else 100,
    record=lambda params: apply_fn(params, x_test) - f0_test,
    record_at=[2, 5, 10, 20, 40, 70, 100] + ([400] if paper else []),
)
network_outputs = np.asarray(history.records)  # [T, M, 10]
left_over = history.loss[-1] / (0.5 * jnp.mean(jnp.sum(y**2, axis=-1)))
print(f"share of the training loss that is left: {left_over:.1g}")

# %% [markdown]
# And the shortcut. `wide.kernel(x, x')` is the kernel that the same architecture has when its hidden layers are infinitely wide.
# It is a formula: it reads $\sigma_w$, $\sigma_b$, the activation and the depth, but no weight.
# The prediction for the trained network is
#
# $$
# f(x) = \Theta(x, X)\, c, \qquad \Theta(X, X)\, c = y ,
# $$
#
# one linear system with a symmetric, positive definite matrix `[N, N]`, to be solved by Cholesky's method.
# Whether the solution is sound can be seen by inserting it.


# %%
def kernel_outputs(theta, theta_test, targets):
    """Θ(x, X) Θ(X, X)⁻¹ targets at the test images, [M, K]."""
    factor = jax.scipy.linalg.cho_factor(theta)
    coefficients = jax.scipy.linalg.cho_solve(factor, targets)
    residual = jnp.abs(theta @ coefficients - targets).max()
    assert residual < 1e-3, "the linear system is not solved accurately"
    return np.asarray(theta_test @ coefficients)


def accuracy(outputs):
    """The share of test images with the largest output at the label."""
    return float(np.mean(np.argmax(outputs, axis=-1) == images.y_test))


predicted = kernel_outputs(theta_train, theta_test, y)
network, kernel = accuracy(network_outputs[-1]), accuracy(predicted)
alike = np.argmax(network_outputs[-1], -1) == np.argmax(predicted, -1)
correlation = np.corrcoef(predicted.ravel(), network_outputs[-1].ravel())[0, 1]
slope = np.vdot(predicted, network_outputs[-1]) / np.vdot(predicted, predicted)
print(f"10,000 outputs: correlation {correlation:.2f}, slope {slope:.2f}")
print(f"same class for {100 * alike.mean():.0f} % of the test images")

# %% tags=["nbval-ignore-output"]
report(network=network, kernel=kernel)

# %% alt="Two panels. Left: test error in per cent over the steps of training on a logarithmic axis. The network's points with error bars fall from 28 per cent at step 2 to about 14 at step 100; the kernel's error, a horizontal line with a shaded band, lies at 12 per cent. Right: outputs of the trained network on 1,000 test images against the kernel's prediction; the points form a narrow cloud along the diagonal, one dense part near minus 0.1 and a sparse one up to 1.25."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
rights = np.array([accuracy(outputs) for outputs in network_outputs])
error_bar = 100 * np.sqrt(rights * (1 - rights) / len(x_test))
left.errorbar(history.steps, 100 * (1 - rights), error_bar, fmt="o", capsize=2, label="network, in training")
low, high = (100 * (1 - kernel + s * np.sqrt(kernel * (1 - kernel) / len(x_test))) for s in (-1, 1))
left.axhline(100 * (1 - kernel), color=plotting.COLOURS[1], label="infinite-width NTK, one system")
left.axhspan(low, high, color=plotting.COLOURS[1], alpha=0.15)
left.set(xscale="log", xlabel="steps", ylabel="test error on mnist5k (%)", ylim=(0, None))
left.legend()

right.plot(predicted.ravel(), network_outputs[-1].ravel(), ".", ms=2, alpha=0.3)
right.plot([-0.5, 1.2], [-0.5, 1.2], color="black", ls="-", lw=1)
right.set(xlabel="output predicted by the kernel", ylabel="output of the trained network", aspect="equal")
plt.show()

# %% [markdown]
# On the right are all ten outputs on all test images, none of which was trained on.
# No parameter was fitted: the points would lie on the line if the network were infinitely wide and trained to the end.
# That two accuracies are close would prove little, since many classifiers are right on seven digits of eight.
# That 10,000 *numbers* are predicted, the wrong answers included, is the evidence.
# (With 512 units instead of 1024 the correlation is 0.95: the cloud narrows with the width. Chapter 04 measures how.)
#
# Two more numbers from the same formula.
# Without the centering the network would end at $f_0(x) + \Theta(x, X)\, \Theta(X, X)^{-1} (y - f_0(X))$: its random start stays in the test outputs.
# And the kernel may take all 4,000 images.

# %%
not_centered = f0_test + kernel_outputs(theta_train, theta_test, y - f0)
theta_all = wide.kernel(x_train).ntk
with_all = kernel_outputs(theta_all, wide.kernel(x_test, x_train).ntk, y_train)
print(f"test accuracy predicted without centering: {100 * accuracy(not_centered):.0f} %")
print(f"of the kernel with all 4,000 images:       {100 * accuracy(with_all):.1f} %")

assert left_over < 0.01
assert correlation > 0.93
assert abs(slope - 1) < 0.05
assert alike.mean() > 0.85
assert accuracy(not_centered) < kernel - 0.1
assert accuracy(with_all) > 0.95

# %% [markdown]
# ## What to take away
#
# - A network is a function $f(\theta, x)$; `ntk.functional` makes one out of a module. A gradient is a pytree of the same form as
#   $\theta$; `vmap` gives it per example; `jvp` and `vjp` multiply with the Jacobian and its transpose; `jit` wants purity.
# - The inner products of per-example gradients form a kernel, the NTK.
# - One linear system with the infinite-width NTK predicts what a wide, centered network says after gradient descent, output by output.
#   *That a formula without weights can do this* is what the course explains.
#
# ## Where it breaks
#
# - **One network, one split.** Error bars above are those of 1,000 test images only. Whether kernels or networks classify better is another question, for chapter 09.
#   For images with more structure and for convolutional networks the answer changes.
# - **Other trainings are not predicted.** Adam, large learning rates or a narrow network leave the kernel behind (chapters 01, 05 and 11).
# - **It does not scale by itself.** $\Theta(X, X)$ has $N^2$ entries. Cholesky's method takes $N^3/6$ multiplications and as many additions: 4,000 images are a
#   matter of seconds, 60,000 need chapter 19.
# - **It is not yet an explanation.** Chapter 01 takes the first step: what gradient descent on *parameters* does to the *function*. Chapter 02 asks
#   how learning rates depend on width, chapter 03 where the formula behind `net.kernel` comes from, chapter 04 puts the pieces together.
#
# ## Exercises
#
# In `exercises/00_start_here.ipynb`: per-example gradients, a directional derivative, a training step, a loss with a broadcasting error,
# one question, and an open one. Each has a check that says what is wrong, and `hint("00.1")` helps.
#
# ## References
#
# - A. Jacot, F. Gabriel, C. Hongler, *Neural Tangent Kernel: Convergence and Generalization in Neural Networks*, NeurIPS 2018, arXiv:1806.07572.
# - Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST database of handwritten digits*. `mnist5k` is a part of it, under CC BY-SA 3.0;
#   its origin is described in `ntklib/datasets/README.md`.
# - Documentation: [JAX](https://docs.jax.dev), [Flax NNX](https://flax.readthedocs.io), [Optax](https://optax.readthedocs.io).
