# %% [markdown]
# # Exercises 05: lazy training
#
# They go with the chapter `notebooks/05_lazy_training.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("05.1")` helps on, in three levels.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree

import ntklib as ntk
from course import check, hint
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()

N = 20
data = ntk.load("mnist5k", n_train=N, n_test=1)
small = data.x_train.reshape(N, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(N, 49)
x = jnp.asarray(small / np.sqrt(np.mean(small**2)), float)  # twenty digits of 7×7 pixels
y = jnp.where(jnp.asarray(data.y_train) % 2 == 0, 1.0, -1.0)[:, None]


def network(key, n=32, parameterization=ntk.NTK):
    """The chapter's network, 49 → n → 1, as (apply_fn, params) in float64."""
    net = ntk.mlp(
        [49, n, 1],
        activation=ntk.Erf(),
        w_std=1.5,
        parameterization=parameterization,
        rngs=nnx.Rngs(key),
    )
    apply_fn, params = ntk.functional(net)
    return apply_fn, jax.tree.map(lambda a: a.astype(float), params)


def distance(a, b):
    """‖a − b‖ between two sets of parameters."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jnp.sqrt(sum(jnp.sum((p - q) ** 2) for p, q in pairs))


# %% [markdown]
# ## 05.1 `linear_model`
#
# 15 minutes · difficulty 2 of 5 · rests on “Under the magnifying glass”
#
# Derive the model that a lazy network becomes, and code it without ever forming a Jacobian:
#
# $$ \bar h(w, x) = h(w_0, x) + Dh(w_0, x)\,(w - w_0) . $$
#
# The second term is a derivative *along one direction*: a Jacobian-vector product, `jax.jvp`, at the cost of about two evaluations however many
# parameters there are. `params` may be any pytree. Return a function that is used like `apply_fn` and can be trained like it. (`ntk.linearize` is this function; compare afterwards.)


# %% task="05.1"
def linear_model(apply_fn, params):
    """h_bar(w, x) -> [N, K], the first-order expansion of apply_fn(w, x) around w = params."""

    ### BEGIN SOLUTION
    def h_bar(w, x):
        change = jax.tree.map(jnp.subtract, w, params)
        value, slope = jax.jvp(lambda p: apply_fn(p, x), (params,), (change,))
        return value + slope

    return h_bar
    ### END SOLUTION


# %% check="05.1" points=2
check("05.1", linear_model)

# %% [markdown]
# ## 05.2 `double`
#
# 20 minutes · difficulty 3 of 5 · rests on “Three ways to start at zero”
#
# Make of any model another one whose output is zero at the start **for every** $x$, which has the **same tangent kernel** $\Theta$ as the model
# had, and in which **two copies are trained**. Its output is made of the outputs of the two copies and of nothing else.
# It should be a model again: a pair of a function and its parameters, to go wherever such a pair goes. How you
# arrange the parameters of the two copies is up to you.


# %% task="05.2"
def double(apply_fn, params):
    """(apply_fn2, params2): zero at the start, the tangent kernel of (apply_fn, params), both copies trained."""

    ### BEGIN SOLUTION
    def apply_fn2(both, x):
        return (apply_fn(both[0], x) - apply_fn(both[1], x)) / 2**0.5

    return apply_fn2, (params, params)
    ### END SOLUTION


# %% check="05.2" points=3
check("05.2", double)

# %% [markdown]
# ## 05.3 Which α? Predict, then measure
#
# 20 minutes · difficulty 3 of 5 · rests on “Under the magnifying glass”
#
# You want to train a centered model $\alpha h$ to the end, gradient descent with the rate $\eta/\alpha^2$, and its parameters shall travel a given
# small distance. Predict the $\alpha$ from the kernel of $h$ alone. The targets may have several columns, for $K$ outputs that share no parameters: then
# the squares of the distances add up.


# %% task="05.3"
def scale_for_distance(theta, y, travelled):
    """α such that αh, centred and trained to the end, moves by `travelled`; theta [N, N] of h, y [N, K]."""
    ### BEGIN SOLUTION
    squared = jnp.sum(y * jnp.linalg.solve(theta, y))
    return jnp.sqrt(squared) / travelled
    ### END SOLUTION


# %% check="05.3" points=2
check("05.3", scale_for_distance)

# %% [markdown]
# The measurement: three networks, each trained at five scales. Your prediction appears as a line through the points, for the first of them, once `scale_for_distance` is
# written. On which side does it begin to fail, and why there?

# %% alt="Distance travelled by three networks at the end of training, against the output scale from 0.3 to 1000, logarithmic. From a scale of ten on the points fall with slope minus one, and lie a little below that line at the left end."
SCALES = np.array([0.3, 1.0, 10.0, 100.0, 1000.0])


def distances(key):
    """How far the network travels, for each of SCALES."""
    model = ntk.center(network(key))
    eta = 0.2 * N / jnp.linalg.eigvalsh(ntk.empirical_ntk(model, x))[-1]

    def at(alpha):
        scaled, start = ntk.scale_output(model, alpha)
        end = ntk.train(
            (scaled, start),
            x,
            y,
            optimizer=optax.sgd(eta / alpha**2, momentum=0.9),
            steps=4000,
            progress=False,
        ).params
        return distance(end, start)

    return np.asarray(jax.jit(jax.vmap(at))(jnp.asarray(SCALES)))


fig, ax = plt.subplots(figsize=(5.4, 3.5))
for key, marker in enumerate(plotting.MARKERS[:3]):
    ax.plot(SCALES, distances(key), marker, color=plotting.COLOURS[key], label=f"network {key}")
try:
    lengths = np.logspace(-2.3, 1.2, 4)
    theta = ntk.empirical_ntk(network(0), x)
    predicted = [scale_for_distance(theta, y, length) for length in lengths]
    ax.plot(predicted, lengths, color="0.3", label="your prediction, network 0")
except NotImplementedError:
    pass
ax.set(xscale="log", yscale="log", xlabel="output scale α", ylabel="distance travelled")
_ = ax.legend(fontsize=8)

# %% [markdown]
# ## 05.4 Spot the errors
#
# 20 minutes · difficulty 3 of 5 · rests on “The start must be near zero”
#
# A colleague wants to see a network become lazy, and writes down why it must:
#
# 1. I train $f = \alpha h$ on $L = \frac{1}{2N} \lVert \alpha h(w) - y \rVert^2$. The gradient is $\nabla L = \frac{\alpha}{N}\, Dh(w)^\top (\alpha h(w) - y)$.
# 2. A step $\Delta w = -\eta' \nabla L$ moves the outputs by $\Delta f \approx \alpha\, Dh\, \Delta w = -\frac{\eta' \alpha^2}{N}\, \Theta\, (f - y)$, $\Theta$ the kernel of $h$.
# 3. For the outputs to move at the same pace for every $\alpha$, I take $\eta' = \eta/\alpha^2$. Then $\Delta w = -\frac{\eta}{\alpha N}\, Dh^\top (f - y)$.
# 4. At the start $f - y$ is of the size of the labels, whatever $\alpha$ is. So every step is of order $1/\alpha$.
# 5. After a fixed number of steps the parameters have travelled a distance of order $1/\alpha$: any network is lazy at large $\alpha$.
#
# The experiment follows, and it does not come out. (One more error has slipped into the code. At first the colleague saw nan for large
# $\alpha$, lowered the rate until it went away, and then stopped looking.)

# %%


def flawed_experiment(apply_fn, params, x, y, *, alpha, learning_rate, steps):
    """The distance that the parameters of αh travel."""
    w = params
    for _ in range(steps):

        def loss(w):
            f = alpha * apply_fn(w, x)
            return jnp.mean(jnp.sum((f - y) ** 2, axis=-1)) / 2

        grads = jax.grad(loss)(w)
        w = jax.tree.map(lambda p, g: p - learning_rate / alpha * g, w, grads)
    return distance(w, params)


run = jax.jit(flawed_experiment, static_argnames=("apply_fn", "steps"))
for alpha in (1.0, 10.0, 100.0, 1000.0):
    far = run(*network(0), x, y, alpha=alpha, learning_rate=1e-3, steps=50)
    print(f"α = {alpha:4.0f}: distance {far:.2g}")

# %% [markdown]
# In which line, 1 to 5, is the first error? And write the experiment as it should be, so that the distance *is* proportional to $1/\alpha$ at
# large $\alpha$ with one and the same `learning_rate`, for any model. Keep the names of the arguments and the loss.

# %% task="05.4"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 4
### END SOLUTION


def lazy_experiment(apply_fn, params, x, y, *, alpha, learning_rate, steps):
    """The distance ‖w − w_0‖ that the parameters of αh travel, as it should be measured."""
    ### BEGIN SOLUTION
    start = apply_fn(params, x)
    w = params
    for _ in range(steps):

        def loss(w):
            f = alpha * (apply_fn(w, x) - start)
            return jnp.mean(jnp.sum((f - y) ** 2, axis=-1)) / 2

        grads = jax.grad(loss)(w)
        w = jax.tree.map(lambda p, g: p - learning_rate / alpha**2 * g, w, grads)
    return distance(w, params)
    ### END SOLUTION


# %% check="05.4" points=3
check("05.4", (wrong_line, lazy_experiment))

# %% [markdown]
# ## 05.5 Why not α alone?
#
# 10 minutes · difficulty 2 of 5 · rests on “The start must be near zero”
#
# Explain to somebody who has not read the chapter why multiplying a network's output by a large $\alpha$ does not make its training lazy if $h(w_0) \ne 0$. Say
# what the network does in the limit $\alpha \to \infty$, and which of these starts are good enough: $h(w_0)$ of order $1$, $\alpha^{-1/2}$, $\alpha^{-1}$, $\alpha^{-2}$.

# %% written="05.5" points=2
answer = r"""
### BEGIN SOLUTION
Training $\alpha h$ on $y$ with the rate $\eta/\alpha^2$ is training $h$ on the labels
$y/\alpha$ with the rate $\eta$. For large $\alpha$ these labels are nearly zero. If
$h(w_0) = 0$, there is next to nothing to do, and the parameters move by $1/\alpha$. If
not, the network must first unlearn what it says at the start, and how far that is does
not depend on $\alpha$: in the limit it is trained on the label 0, a fixed nonlinear
problem, and the distance tends to a constant. In other words the residual
$\alpha h(w_0) - y$ is of order $\alpha$ and eats up the gain.
With $h(w_0) \sim \alpha^{-p}$ the residual is of order $\alpha^{1-p}$ and the distance
$\alpha^{-p}$ for $p \le 1$. So $\alpha^{-1}$ and $\alpha^{-2}$ are as good as zero (the
distance is $\propto 1/\alpha$), since $\alpha h(w_0)$ stays bounded; with $\alpha^{-1/2}$
the parameters do come to rest, like $\alpha^{-1/2}$, but the gap between the outputs and
those of the linear model does not go to zero; with order 1 nothing becomes lazy.
### END SOLUTION
"""
check("05.5", answer)

# %% [markdown]
# ## 05.6 Go further: κ of a network of your own
#
# 45 minutes · difficulty 4 of 5 · rests on “One number that tells”
#
# An open task. `kappa` below measures $\kappa_h = \lVert h(w_0) - y \rVert\, \lVert D^2h \rVert / \lVert Dh \rVert^2$ for any model with one output. Take an architecture that
# you care about (deeper, with residual connections, a CNN, another activation, another initialization) and make a guess: is it lazier than the chapter's network at
# $\alpha = 1$? What makes it lazier, what less so? Then measure $\kappa$, on three seeds at least, and compare with how much its Jacobian
# really changes in training. Does $\kappa$ put your variants in the right order?
# (With several layers $D^2h$ joins parameters of all units, so the chapter's way, unit by unit, is not open. `kappa` searches from four starts: it may find too little.)

# %%


def kappa(model, x, y, rounds=20):
    """κ_h of a model with one output, for the targets y [N, 1]."""
    apply_fn, params = model
    w0, unflatten = ravel_pytree(params)
    h = lambda w: apply_fn(unflatten(w), x)[:, 0]  # noqa: E731

    def bend(u):
        """D²h[u, u], [N]."""
        return jax.jvp(lambda w: jax.jvp(h, (w,), (u,))[1], (w0,), (u,))[1]

    def curvature(key):
        """max ‖D²h[u, u]‖ over unit u: a power iteration from a random u."""

        def sharpen(_, u):
            c = bend(u)
            u = jax.grad(lambda v: bend(v) @ c)(u)
            return u / jnp.linalg.norm(u)

        u = jax.random.normal(key, w0.shape)
        u = jax.lax.fori_loop(0, rounds, sharpen, u / jnp.linalg.norm(u))
        return jnp.linalg.norm(bend(u))

    keys = jax.random.split(jax.random.key(0), 4)
    bent = jax.lax.map(curvature, keys).max()
    steep = jnp.linalg.norm(jax.jacrev(h)(w0), ord=2)
    return jnp.linalg.norm(h(w0) - y[:, 0]) * bent / steep**2


def jacobian_change(model, x, y, steps=500):
    """Relative change of the Jacobian (Frobenius) after training, a tenth of the largest stable rate."""
    apply_fn, params = model
    eta = 0.2 * len(x) / jnp.linalg.eigvalsh(ntk.empirical_ntk(model, x))[-1]
    optimizer = optax.sgd(eta)
    end = ntk.train(model, x, y, optimizer=optimizer, steps=steps, progress=False).params

    def jacobian(params):
        w, unflatten = ravel_pytree(params)
        return jax.jacrev(lambda w: apply_fn(unflatten(w), x))(w)

    before, after = jacobian(params), jacobian(end)
    return jnp.linalg.norm(after - before) / jnp.linalg.norm(before)


def both(key):
    model = ntk.center(network(key))
    return kappa(model, x, y), jacobian_change(model, x, y)


values = np.array([[float(v) for v in both(key)] for key in range(3)])
(k, change), (k_error, change_error) = plotting.mean_and_error(values)
print(f"the chapter's network: κ = {k:.2f} ± {k_error:.2f}, ", end="")
print(f"the Jacobian changes by {change:.2f} ± {change_error:.2f}")

# %% written="05.6" points=1
answer = r"""
### BEGIN SOLUTION
One possible report, three networks each, centred. The chapter's network has
$\kappa = 0.41 \pm 0.06$, and its Jacobian changes by $0.52 \pm 0.02$. Guesses: a wider
one is lazier; GELU instead of erf too, since it bends only near zero; three hidden layers
are less lazy, because every pair of layers bends. Measured, as $\kappa$ and change:
width 256: $0.24 \pm 0.05$ and $0.19 \pm 0.01$; GELU: $0.17 \pm 0.02$ and
$0.34 \pm 0.05$; three hidden layers of 32: $0.76 \pm 0.10$ and $0.58 \pm 0.07$; the same
with $\sigma_w = 1$: $0.56 \pm 0.04$ and $1.08 \pm 0.18$; not centred, one hidden layer:
$0.66 \pm 0.18$ and $0.57 \pm 0.06$. So all guesses are right in direction, but $\kappa$
does not order the variants: GELU has a smaller $\kappa$ than the wide network and changes
more, and the deep network with $\sigma_w = 1$ changes most of all with a middling
$\kappa$. It is good for orders of magnitude, within a factor of two or three. Two
reasons: $\|D^2h\|$ belongs to the worst direction, and $\|Dh\|$ to the best one, while
the labels also lie along small singular values, where the way is longer.
### END SOLUTION
"""
check("05.6", answer)
