# %% [markdown]
# # Exercises 12: ridge and early stopping
#
# They go with the chapter `notebooks/12_ridge_and_early_stopping.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("12.1")` helps on, in three levels.

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

N, M = 100, 500
data = ntk.load("mnist5k", n_train=N, n_test=M, pool=4).flat()
x, x_test = (jnp.asarray(a, jnp.float64) for a in (data.x_train, data.x_test))
y_test = np.asarray(ntk.one_hot_centered(data.y_test, 10), float)
y = np.asarray(ntk.one_hot_centered(data.y_train, 10), float)
y = y + 0.3 * np.random.default_rng(0).normal(size=y.shape)  # noisy targets
net = ntk.mlp([49, 512, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
theta, theta_test = net.kernel(x).ntk, net.kernel(x_test, x).ntk


def squared_error(f):
    """Squared error at the test digits of outputs [M, K]."""
    return float(((f - y_test) ** 2).sum(1).mean())


def with_ridge(theta, theta_test, y, ridge):
    """Test outputs of kernel ridge regression, [M, K]."""
    return ntk.gradient_flow(theta, y, t=jnp.inf, ridge=ridge, ntk_test_train=theta_test)[1]


# %% [markdown]
# ## 12.1 `widest_gap`
#
# 20 minutes · difficulty 2 of 5 · rests on “Two filters”
#
# Stop the flow at another time, $t = \tau N/\varepsilon$. Where do the two filters differ most now, and by how much?
# Return the place $u = \lambda/\varepsilon$ and the gap there, the share that the flow has learned minus the share that the ridge has learned.
# The gap may be negative: what counts is its size. $u$ to one percent will do, the gap to three digits. $\tau$ lies between 0.4 and 2. Draw the gap for $\tau = 0.5$ before you write code.


# %% task="12.1"
def widest_gap(tau):
    """(u, gap): u = λ/ε where |flow − ridge| is largest at t = τN/ε, and flow − ridge there."""
    ### BEGIN SOLUTION
    u = jnp.geomspace(1e-3, 100, 200_001)
    gap = 1 / (1 + u) - jnp.exp(-tau * u)
    place = jnp.argmax(jnp.abs(gap))
    return u[place], gap[place]
    ### END SOLUTION


# %% check="12.1" points=2
check("12.1", widest_gap)

# %% [markdown]
# ## 12.2 `leave_one_out`
#
# 25 minutes · difficulty 3 of 5 · rests on “Choosing without test data”
#
# Leave out input $i$, fit the ridge regression to the others, predict at $x_i$. Do so for each $i$ and each of several ridges.
# All fits keep $\varepsilon = \delta\, \mathrm{tr}(\Theta)/N$ of the *full* kernel. Write it without `ntk.loo`.
#
# A loop over $N$ fits is right and slow. To find the short way, ask: which target $\tilde y_i$ at $x_i$ could you put back
# so that the fit to all $N$ gives the left-out prediction? The fit to all is linear in the targets.


# %% task="12.2"
def leave_one_out(theta, y, ridges):
    """Left-out predictions [R, N, K] for ridges [R], from the kernel [N, N] and targets [N, K]."""
    ### BEGIN SOLUTION
    # With ỹ_i in the place of y_i the full fit passes through it: ỹ_i = f_i + H_ii (ỹ_i − y_i), H = Θ R⁻¹ = 1 − ε R⁻¹.
    # Hence y_i − ỹ_i = (y_i − f_i)/(1 − H_ii) = c_i/(R⁻¹)_ii, and one eigendecomposition serves all ridges.
    lam, modes = jnp.linalg.eigh(theta)
    inverse = 1 / (lam[None, :] + ridges[:, None] * lam.mean())  # [R, N]
    coefficients = jnp.einsum("ia,ra,ak->rik", modes, inverse, modes.T @ y)
    diagonal = jnp.einsum("ia,ra->ri", modes**2, inverse)
    return y[None] - coefficients / diagonal[:, :, None]
    ### END SOLUTION


# %% check="12.2" points=3
check("12.2", leave_one_out)

# %% [markdown]
# ## 12.3 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “The map in our units”
#
# Somebody wants to replace a ridge by early stopping, and derives the number of steps:
#
# 1. The ridge $\delta$ adds $\varepsilon = \delta\, \mathrm{tr}(\Theta)/N$ to the diagonal.
# 2. It learns the share $\lambda/(\lambda + \varepsilon)$ of a mode, which is about $\lambda/\varepsilon$ for a small eigenvalue.
# 3. A step of gradient descent on $\frac{1}{2N}\sum_i \lVert f(x_i) - y_i \rVert^2$ multiplies what is left of a mode by $1 - \eta\lambda$.
# 4. After $k$ steps the share $1 - (1 - \eta\lambda)^k$ is learned, about $k\eta\lambda$ for a small eigenvalue.
# 5. The two agree for $k = \frac{1}{\eta\varepsilon} = \frac{N}{\eta\,\delta\, \mathrm{tr}\,\Theta}$.
#
# It does not survive a measurement:

# %%
rate = N / float(jnp.linalg.eigvalsh(theta)[-1])
delta = 0.1
flawed_steps = N / (rate * delta * float(jnp.trace(theta)))
of_ridge = with_ridge(theta, theta_test, y, delta)
how = {"learning_rate": rate, "steps": round(flawed_steps), "ntk_test_train": theta_test}
of_steps = ntk.gradient_descent(theta, y, **how)[1]
print(f"squared error: ridge {squared_error(of_ridge):.2g}, {round(flawed_steps)} steps {squared_error(of_steps):.2g}")

# %% [markdown]
# In which line, 1 to 5, is the first error? Then go the other way, and one step further: a network was trained for $k$ steps
# with heavy-ball momentum $\mu$ (chapter 04: $v \leftarrow \mu v + (f - y)$, $f \leftarrow f - \frac\eta N \Theta v$). Which ridge $\delta$ learns
# as much of the small modes? Take $k$ much larger than $1/(1 - \mu)$.

# %% task="12.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 3
### END SOLUTION


def matching_ridge(theta, steps, learning_rate, momentum):
    """The relative ridge δ that matches the training, one number; theta is the kernel [N, N]."""
    ### BEGIN SOLUTION
    n = theta.shape[0]
    t = learning_rate * steps / (1 - momentum)  # a residual acts again and again: 1 + μ + μ² + ...
    return n**2 / (t * jnp.trace(theta))
    ### END SOLUTION


# %% check="12.3" points=3
check("12.3", (wrong_line, matching_ridge))

# %% [markdown]
# ## 12.4 Every image twice: predict, then measure
#
# 10 minutes · difficulty 3 of 5 · rests on “The map in our units”
#
# By mistake each image stands in the training set twice, with the same target. So $N$ is twice as large, and nothing is new.
# Ridge regression with $\delta$ and flow stopped at $t$ gave two functions before. By which factors must $\delta$ and $t$ be multiplied,
# to get the same two functions from the doubled set? Note both numbers before you measure.

# %% task="12.4"
# the new ridge δ over the old one, and the new time t over the old one
ridge_factor = ...
time_factor = ...
### BEGIN SOLUTION
ridge_factor = 2.0  # the two copies share the work: 2Θc + ε'c = y, so ε' = 2ε, and tr(Θ)/N is what it was
time_factor = 1.0  # the loss is a mean: 2λ/(2N) = λ/N
### END SOLUTION

# %% check="12.4" points=2
check("12.4", (ridge_factor, time_factor))

# %% [markdown]
# The measurement waits for your prediction. The figure is what you should see: one factor that brings each difference to zero.

# %% alt="Root mean square difference between the test outputs of the doubled set and of the single one, over the factor by which the ridge or the time is multiplied, from 1/4 to 4. One curve touches zero at factor 2, for the ridge; the other at factor 1, for the time."
FACTORS = np.geomspace(0.25, 4, 17)
if predict("12.4", ridge_factor, time_factor) is not None:
    doubled, doubled_test = jnp.tile(theta, (2, 2)), jnp.tile(theta_test, (1, 2))
    y_twice = np.tile(y, (2, 1))
    t = N**2 / (delta * float(jnp.trace(theta)))
    before = with_ridge(theta, theta_test, y, delta)
    stopped = ntk.gradient_flow(theta, y, t=t, ntk_test_train=theta_test)[1]
    of_ridges, of_times = [], []
    for factor in FACTORS:
        f = with_ridge(doubled, doubled_test, y_twice, factor * delta)
        of_ridges.append(jnp.sqrt(jnp.mean((f - before) ** 2)))
        f = ntk.gradient_flow(doubled, y_twice, t=factor * t, ntk_test_train=doubled_test)[1]
        of_times.append(jnp.sqrt(jnp.mean((f - stopped) ** 2)))
    fig, ax = plt.subplots()
    ax.plot(FACTORS, of_ridges, marker="o", label="ridge")
    ax.plot(FACTORS, of_times, marker="s", label="time")
    ax.set(xscale="log", xlabel="factor on δ or t", ylabel="difference of the outputs (rms)")
    ax.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    ax.set_xticks([], minor=True)
    ax.legend()

# %% [markdown]
# ## 12.5 A ridge that moves
#
# 10 minutes · difficulty 2 of 5 · rests on “Choosing without test data”
#
# A colleague checks `ntk.loo` with a loop: she removes input $i$, fits with the same `ridge`, predicts at $x_i$. One of her 20
# predictions is clearly off. Nineteen of her inputs have $\Theta_{ii} = 1$, and one has $\Theta_{ii} = 21$. Which prediction is off, and why?
# By which factor is the ridge $\varepsilon$ in the library's answer larger than in hers? Why does the library keep it?

# %% written="12.5" points=2
answer = r"""
### BEGIN SOLUTION
A relative ridge is a multiple of the mean of the diagonal, and the loop takes the mean
of what is left. With all inputs the mean is (19 + 21)/20 = 2. Without the large one it is
1, so her ε is half as large: the factor is 2, and the prediction at the large input is
off. For the other 19 she has (18 + 21)/19 = 2.05 in place of 2, which hardly shows.
The library keeps ε. Then all N fits are fits with one and the same estimator, the
one whose ridge is to be judged, and then all of them follow from one factorization
of Θ + ε: if ε moved with i there would be N different matrices.
### END SOLUTION
"""
check("12.5", answer)

# %% [markdown]
# ## 12.6 Go further: both at once
#
# 40 minutes · difficulty 4 of 5 · rests on “Where is the best stopping time?”
#
# An open task. A ridge in the loss *and* early stopping: train on $\frac{1}{2N}\lVert f - y \rVert^2$ plus a ridge, and stop. With
# $R = \Theta + \varepsilon$ the share that is learned is $\frac{\lambda}{\lambda + \varepsilon}(1 - e^{-t(\lambda + \varepsilon)/N})$. Does the best pair $(\delta, t)$ beat the
# best ridge and the best time? Predict a size. Then use the cell below: move $\delta$ and $t$, change the noise, the number of
# images, and try filters of your own. Which filter is the best of all, if you know $a_i^2$ and $\sigma^2$?

# %%
DELTAS = np.geomspace(1e-3, 3, 15)
TIMES = np.geomspace(0.03, 30, 15) * N / float(jnp.trace(theta) / N)  # t in units of N over the mean eigenvalue
lam, modes = np.linalg.eigh(np.asarray(theta))
target, reach = modes.T @ y, np.asarray(theta_test) @ modes


def error_of(share):
    """Test error of the filter with these learned shares of the modes, [N]."""
    return squared_error(reach @ (target * (share / lam)[:, None]))


errors = np.zeros((len(DELTAS), len(TIMES)))
for i, eps in enumerate(DELTAS * lam.mean()):
    for j, t in enumerate(TIMES):
        share = lam / (lam + eps) * -np.expm1(-t * (lam + eps) / N)
        errors[i, j] = error_of(share)

only_ridge = min(error_of(lam / (lam + eps)) for eps in DELTAS * lam.mean())
only_time = min(error_of(-np.expm1(-t * lam / N)) for t in TIMES)
print(f"lowest squared error: ridge {only_ridge:.3g}, time {only_time:.3g}, both {errors.min():.3g}")

# %% alt="A map of the test error over the ridge, from 0.001 to 3, and the stopping time, both on logarithmic axes. A bent valley of low error runs from small ridges with an early time to the best ridge with late times; the floor of the valley is nearly flat."
fig, ax = plt.subplots()
mesh = ax.pcolormesh(TIMES, DELTAS, errors, cmap="cividis", vmax=0.8, shading="nearest")
fig.colorbar(mesh, label="squared error on test digits")
i, j = np.unravel_index(errors.argmin(), errors.shape)
ax.plot(TIMES[j], DELTAS[i], "w*", markersize=14, markeredgecolor="black")
ax.set(xscale="log", yscale="log", xlabel="stopping time t", ylabel="ridge δ")
ax.grid(False)

# %% written="12.6" points=1
answer = r"""
### BEGIN SOLUTION
A guess, not a bound: ridge alone and time alone have nearly equal lowest errors, and a
pair is a filter between the two, so it has little to win, a percent or two. Measured on
this subset: ridge 0.588, time 0.601, and the best pair is the best ridge with a time so
late that it does not matter. Along the valley a smaller ridge goes with an earlier time: one does
what the other leaves undone.
The best filter of all minimizes (1 - s)² a² + σ² s² for each mode by itself: s =
a²/(a² + σ²). That is a ridge exactly if a² falls like λ, with ε = σ²λ/a². If a² falls faster
than λ, a filter with a sharper edge is better. Early stopping has one; on power laws it
beats the ridge where a² falls faster than about λ^1.2. If a² falls more slowly, the ridge
is nearer. Other subsets, noises and sizes: repeat the cell with other seeds before you
believe a difference of a percent.
### END SOLUTION
"""
check("12.6", answer)
