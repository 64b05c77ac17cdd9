# %% [markdown]
# # Exercises 11: large steps and L2
#
# They go with the chapter `notebooks/11_large_steps_and_l2.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("11.1")` helps on, in three levels.

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

# %% [markdown]
# ## 11.1 Wider, brighter: predict, then measure
#
# 10 minutes · difficulty 1 of 5 · rests on “Two numbers”
#
# The linear network of the chapter, $f = \frac{1}{\sqrt n} u \cdot v\, x$ with the target 0, is trained with $c = 1.25$: the rate is 1.25 times $2/\lambda$ of the network at hand. Two changes, one at a time:
#
# - the width grows from 256 to 16,384, with the same $f_0$;
# - the input is multiplied by 4, $x = 4$ for $x = 1$, with the same weights. ($c$ stays, so $\eta$ changes with $\lambda$.)
#
# By how many steps does each move the peak of the loss, on average over $f_0$? Later is positive. Note both numbers before you measure.

# %% task="11.1"
# how many steps later the loss peaks (a number with one decimal): for the larger width, and for the larger input
later_by_width = ...
later_by_input = ...
### BEGIN SOLUTION
later_by_width = float(np.log(16384 / 256) / (2 * np.log(1.5)))  # 2c − 1 = 1.5
later_by_input = 0.0  # g = η x f/√n: η is 16 times smaller, x and f are 4 times larger
### END SOLUTION

# %% check="11.1" points=2
check("11.1", (later_by_width, later_by_input))

# %% [markdown]
# The measurement waits for your prediction. The figure is what you should see: two curves that lie on each other, and one that is shifted.

# %% alt="The loss over its value at the start, over the steps from 0 to 30, on a logarithmic axis, mean of the logarithm over 200 networks. The curves for input 1 and input 4 at width 256 lie on each other; the curve for width 16384 peaks about five steps later and higher."
if predict("11.1", later_by_width, later_by_input) is not None:
    starts = np.random.default_rng(0).normal(size=200)
    fig, ax = plt.subplots()
    for i, (n, size) in enumerate(((256, 1.0), (256, 4.0), (16384, 1.0))):
        f, lam = starts * size, np.full(200, 2.0 * size**2)
        rate = 1.25 * 2 / lam
        losses = []
        for _ in range(31):
            losses.append(f**2 / starts**2 / size**2)
            f, lam = (
                f * (1 - rate * lam + (rate * size * f) ** 2 / n),
                lam + rate * (size * f) ** 2 / n * (rate * lam - 4),
            )
        ax.plot(np.exp(np.log(losses).mean(1)), linestyle=plotting.DASHES[i], label=f"n = {n}, x = {size:g}")
    ax.set(yscale="log", ylim=(1e-3, 1e4), xlabel="step", ylabel="loss over the loss at the start")
    ax.legend()

# %% [markdown]
# ## 11.2 `one_step`
#
# 20 minutes · difficulty 2 of 5 · rests on “Two numbers”
#
# Give the network a target that is not zero, and any input: $f = \frac{1}{\sqrt n} u \cdot v\, x$ with $\mathcal L = \frac12 (f - y)^2$. Its kernel is $\lambda = x^2 (\lVert u \rVert^2 + \lVert v \rVert^2)/n$.
# Two numbers are still enough. Derive $f'$ and $\lambda'$ after one step of gradient descent. Do not expand for small anything.


# %% task="11.2"
def one_step(f, lam, x, y, width, rate):
    """(f', λ') after one step, exactly; all are numbers."""
    ### BEGIN SOLUTION
    # u' = u − a v and v' = v − a u with a = η r x/√n. Then u'·v' = (1 + a²) u·v − a (|u|² + |v|²),
    # and |u'|² + |v'|² = (1 + a²)(|u|² + |v|²) − 4 a u·v. Multiply by x/√n and by x²/n.
    r = f - y
    a_squared = (rate * r * x) ** 2 / width
    new_f = (1 + a_squared) * f - rate * lam * r
    new_lam = (1 + a_squared) * lam - 4 * rate * r * f * x**2 / width
    return new_f, new_lam
    ### END SOLUTION


# %% check="11.2" points=2
check("11.2", one_step)

# %% [markdown]
# ## 11.3 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “L2 is not a ridge”
#
# Somebody shows that L2 is a ridge, for an infinitely wide ReLU network with $L$ layers and no biases:
#
# 1. With the penalty $\frac\lambda2 \lVert\theta\rVert^2$ gradient flow is $\dot\theta = -\frac1N J^\top (f - y) - \lambda\theta$.
# 2. So the outputs on the training inputs obey $\dot f = J \dot\theta = -\frac1N \Theta (f - y) - \lambda J\theta$.
# 3. The network is linear in its parameters when it is wide, so $J\theta = f$.
# 4. Where $\dot f = 0$, $\Theta (f - y) + N\lambda f = 0$.
# 5. That is $f = \Theta (\Theta + N\lambda)^{-1} y$: ridge regression with $\varepsilon = N\lambda$.
#
# In which line, 1 to 5, is the first error? Mend it, and mind that $\Theta = \Theta_t$ shrinks. If the data are learned much faster than the weights shrink, $f$ at time $t$ is close to the point where $\dot f$ would be zero with the kernel of that moment. Write this point.

# %% task="11.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 3
### END SOLUTION


def moving_rest(theta0, y, strength, depth, t):
    """The point where ḟ = 0 at time t, [N, K], from the kernel at the start [N, N] and targets [N, K]."""
    ### BEGIN SOLUTION
    n = len(theta0)
    now = jnp.exp(-2 * (depth - 1) * strength * t) * theta0
    return now @ jnp.linalg.solve(now + n * depth * strength * jnp.eye(n), y)
    ### END SOLUTION


# %% check="11.3" points=3
check("11.3", (wrong_line, moving_rest))

# %% [markdown]
# ## 11.4 A scaled output
#
# 15 minutes · difficulty 3 of 5 · rests on “Two numbers”
#
# Chapter 05 multiplies the output by $\alpha$ and divides the rate by $\alpha^2$. Do that here: $f = \frac{\alpha}{\sqrt n} u \cdot v$, one example with $x = 1$ and the target $y = 1$, and weights with $f_0 = 0$.
# The rate is $c \cdot 2/\lambda$ with the network's own $\lambda$, which contains $\alpha^2$, and $1 < c < 2$. Both $\alpha$ and $n$ are large.
#
# By how many steps later does the loss peak than at $\alpha = \alpha_0$ and $n = n_0$? Round nothing.
# (What must be of order 1 before $\lambda$ moves?)


# %% task="11.4"
def later_steps(alpha, width, alpha_0, width_0, c):
    """Steps by which the peak comes later with α and n than with α_0 and n_0, one number."""
    ### BEGIN SOLUTION
    # f − y starts at −1. u' = u − ηα r v/√n: weights move by a relative η α r/√n = 2c r/(2 α √n),
    # since λ = 2 α² at the start. So the start is small by α √n.
    return jnp.log(alpha * width**0.5 / (alpha_0 * width_0**0.5)) / jnp.log(2 * c - 1)
    ### END SOLUTION


# %% check="11.4" points=2
check("11.4", later_steps)

# %% [markdown]
# ## 11.5 `shrinking_kernel`
#
# 25 minutes · difficulty 4 of 5 · rests on “Two times two”
#
# The chapter gives a step of the shrinking kernel for two layers with two strengths. Write it for $L$ layers: strengths $\lambda_1 \dots \lambda_L$, and $\Theta_0 = \sum_l \Theta^{(l)}$, where $\Theta^{(l)}$ is the part that comes from the weights of layer $l$.
# Return the outputs on the training inputs after `steps` steps of gradient descent with L2, for an infinitely wide ReLU network without biases.
# Ask for each layer: which other layers stand as factors in its part of the Jacobian?


# %% task="11.5"
def shrinking_kernel(parts, f0, y, strengths, rate, steps):
    """Training outputs [N, K] after `steps`: parts [L, N, N] at the start, f0 and y [N, K], strengths [L]."""
    ### BEGIN SOLUTION
    s = 1 - rate * jnp.asarray(strengths)
    others = jnp.prod(s) / s  # the product over all layers but l
    f = jnp.asarray(f0)
    for k in range(steps):
        now = jnp.einsum("l,lij->ij", others ** (2 * k + 1), jnp.asarray(parts))
        f = jnp.prod(s) * f - rate / len(f0) * now @ (f - y)
    return f
    ### END SOLUTION


# %% check="11.5" points=3
check("11.5", shrinking_kernel)

# %% [markdown]
# ## 11.6 A control that fails
#
# 15 minutes · difficulty 4 of 5 · rests on “Two times two”
#
# For zero output at the start the chapter doubles the network. Why not train $h(x) = f(\theta, x) - f(\theta_0, x)$, as `ntk.center` does, with the penalty on $\theta$?
# Take an infinitely wide ReLU network with $L$ layers and no biases, and an input $x$ far from the data, with $\Theta(x, X) = 0$. Write down $\dot h(x)$.
# To which multiple of $f_0(x)$ does $h(x)$ go for large $t$? What would the 2×2 of the chapter have shown with this control, and why does doubling not have the problem?
# The cell below trains 40 networks in this way, at three strengths. The slope of $h$ over $f_0$ is taken over networks at each test digit, which do have $\Theta(x, X) \ne 0$.

# %%
probe = ntk.mlp([16, 512, 1], w_std=2**0.5, rngs=nnx.Rngs(0))
apply_fn, _ = ntk.functional(probe)
data = ntk.load("digits", n_train=20, n_test=60, pool=2).flat()
x, x_test = jnp.asarray(data.x_train), jnp.asarray(data.x_test)
y = jnp.where(jnp.asarray(data.y_train) % 2 == 0, 1.0, -1.0)[:, None]
rate = 0.4 * float(ntk.empirical_max_learning_rate(probe, x).learning_rate)


@jax.jit
def after(key, decay):
    """h and f0 on the test digits, [60] each, after 100 steps on h = f − f0 with L2."""
    start = ntk.functional(ntk.mlp([16, 512, 1], w_std=2**0.5, rngs=nnx.Rngs(key)))[1]
    f0, f0_test = apply_fn(start, x), apply_fn(start, x_test)[:, 0]

    def step(p, _):
        grads = jax.grad(lambda p: jnp.sum((apply_fn(p, x) - f0 - y) ** 2) / 40)(p)
        return jax.tree.map(lambda w, g: (1 - rate * decay) * w - rate * g, p, grads), None

    end = jax.lax.scan(step, start, length=100)[0]
    return apply_fn(end, x_test)[:, 0] - f0_test, f0_test


for forget in (0.0, 1.0, 3.0):
    h, f0_test = jax.vmap(after, (0, None))(jax.random.split(jax.random.key(0), 40), forget / (200 * rate))
    h = h - h.mean(0)
    print(f"L λ t = {forget:g}: slope of h over f0 {float((h * f0_test).sum() / (f0_test**2).sum()):.1f}")

# %% written="11.6" points=2
answer = r"""
### BEGIN SOLUTION
Euler's identity holds for f, not for h: J θ = L f = L (h + f0). So where there are no data
dh/dt = −L λ (h + f0), and h = −(1 − exp(−L λ t)) f0. It starts at 0 and goes to −1 times f0:
the penalty makes f forget f0, and the f0 that is subtracted stays. The control puts in the
noise that it should keep out. The 2×2 would have shown a harmful L2 from zero output, and
one would have called it a loss of features or of fit. The doubled network is homogeneous
itself, J θ = L f with f the whole output, so the penalty draws it to 0, where it started.
### END SOLUTION
"""
check("11.6", answer)

# %% [markdown]
# ## 11.7 Go further: the largest step
#
# 45 minutes · difficulty 4 of 5 · rests on “A real network”
#
# An open task. How far beyond $2N/\lambda_{\max}$ can a rate be? The cell trains eight networks 16-256-1 on the parity of 20 digits at each of six multiples, and prints
# which share of them reaches a loss below 0.01 within 400 steps. Predict first: which activation bears the largest steps, and does the width matter?
# Then look for a network of your own, any activation, width and depth, of which half of the seeds still learn at a multiple of 10. What do the networks pay for such a step?

# %%
MULTIPLES = jnp.array([0.9, 1.2, 1.6, 2.5, 4.0, 6.0])


def learned(activation, width=256, steps=400):
    """Whether each of eight networks learns at each multiple of its own 2N/λ_max, [multiples, 8]."""

    def built(key):
        return ntk.functional(ntk.mlp([16, width, 1], activation=activation, w_std=2**0.5, rngs=nnx.Rngs(key)))

    def one(key, multiple):
        fn, params = built(key)
        rate = multiple * 2 * len(x) / jnp.linalg.eigvalsh(ntk.empirical_ntk((fn, params), x))[-1]

        def loss(p):
            return jnp.sum((fn(p, x) - y) ** 2) / (2 * len(x))

        def step(p, _):
            return jax.tree.map(lambda w, g: w - rate * g, p, jax.grad(loss)(p)), None

        return loss(jax.lax.scan(step, params, length=steps)[0]) < 0.01

    keys = jax.random.split(jax.random.key(0), 8)
    return jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))(keys, MULTIPLES)


print("multiple ", "  ".join(f"{float(multiple):11.1f}" for multiple in MULTIPLES))
for name, activation in (("ReLU", ntk.Relu()), ("tanh", ntk.Tanh()), ("abs", ntk.Abs())):
    shares = zip(*plotting.mean_and_error(np.asarray(learned(activation), float).T), strict=True)
    print(f"{name:9}", "  ".join(f"{share:.2f} ± {error:.2f}" for share, error in shares))

# %% written="11.7" points=1
answer = r"""
### BEGIN SOLUTION
ReLU bears the largest steps: some of its networks learn at six times the limit, tanh and abs none
from 2.5 on. In the two-number recursion a step is survived if the weights shrink fast enough to bring the
kernel below 2N/η, and the multiple 2 is the end there. A ReLU can do more: units whose inputs turn
negative for all images stop, and the kernel falls with every unit that is lost.
That is the price: units that are off for all images, a smaller kernel, a function that is made
of fewer pieces, and a result that depends on the seed. Eight seeds say little about a
share of one half: its standard error is 0.18. The loss of 0.01 and the 400 steps are arbitrary,
and a slow network counts as one that fails.
### END SOLUTION
"""
check("11.7", answer)
