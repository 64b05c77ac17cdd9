# %% [markdown]
# # Exercises 08: the noise of SGD
#
# They go with the chapter `notebooks/08_sgd_noise.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("08.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import ntklib as ntk
from course import check, hint
from ntklib import plotting

plotting.use_style()

data = ntk.load("mnist5k")
keep = np.flatnonzero((data.y_train == 3) | (data.y_train == 8))[:32]
small = data.x_train[keep].reshape(32, 7, 4, 7, 4).mean(axis=(2, 4))
x = jnp.asarray(small.reshape(32, 49) / np.sqrt(np.mean(small**2)))
y = jnp.where(jnp.asarray(data.y_train[keep]) == 3, 1.0, -1.0)[:, None]
net = ntk.mlp(
    [49, 256, 1],
    activation=ntk.Erf(),
    w_std=1.5,
    b_std=0.1,
    rngs=nnx.Rngs(0),
)
theta, f0 = ntk.empirical_ntk(net, x), net(x)  # [32, 32] and [32, 1]

# %% [markdown]
# ## 08.1 `batch_covariance`
#
# 15 minutes · difficulty 2 of 5 · rests on “One step of SGD, seen in function space”
#
# A step of SGD moves $f(x)$ by $-\eta\,\Theta(x, X)\,\frac1B D\, r$. Write the covariance of the mini-batch residual
# $\frac1B D\, r$ over the draws of the batch, summed over the outputs, for both ways to draw it (not with `ntk.noise_covariance`):
#
# $$ s \Big[ \frac{\mathrm{diag}(\sum_k r_k^2)}{N} - \frac{\sum_k r_k r_k^\top}{N^2} \Big], \qquad
#    s = \frac 1B \;\text{ (with)}, \qquad s = \frac{N - B}{B\,(N - 1)} \;\text{ (without replacement)}. $$


# %% task="08.1"
def batch_covariance(r, batch_size, replace):
    """Covariance [N, N] of the mini-batch residual, from residuals r [N, K]; replace is True or False."""
    ### BEGIN SOLUTION
    n = r.shape[0]
    if replace:
        s = 1 / batch_size
    else:
        s = (n - batch_size) / (batch_size * (n - 1))
    return s * (jnp.diag(jnp.sum(r**2, axis=1)) / n - r @ r.T / n**2)
    ### END SOLUTION


# %% check="08.1" points=2
check("08.1", batch_covariance)

# %% [markdown]
# ## 08.2 `next_moments`
#
# 20 minutes · difficulty 3 of 5 · rests on “Two moments are enough”
#
# One step of the exact recursion, for one output and batches drawn *with* replacement. Given the mean $\bar r$ and the
# covariance $V$ of the residual on the training points, return both after a step of SGD, without `ntk.sgd_moments`:
#
# $$ \bar r \leftarrow A\, \bar r, \qquad
#    V \leftarrow A V A + \frac{\eta^2}{B}\, \Theta \Big[ \frac{\mathrm{diag}(M)}{N} - \frac{M}{N^2} \Big] \Theta, \qquad
#    M = \bar r \bar r^\top + V, \quad A = 1 - \frac \eta N \Theta . $$


# %% task="08.2"
def next_moments(theta, mean, cov, learning_rate, batch_size):
    """(mean [N], cov [N, N]) of the residual after one more step; theta is the kernel [N, N]."""
    ### BEGIN SOLUTION
    n = len(mean)
    A = jnp.eye(n, dtype=theta.dtype) - learning_rate * theta / n
    second = jnp.outer(mean, mean) + cov
    noise = (jnp.diag(jnp.diag(second)) / n - second / n**2) / batch_size
    new_cov = A @ cov @ A + learning_rate**2 * theta @ noise @ theta
    return A @ mean, new_cov
    ### END SOLUTION


# %% check="08.2" points=3
check("08.2", next_moments)

# %% [markdown]
# ## 08.3 Four times the batch: predict, then measure
#
# 10 minutes · difficulty 2 of 5 · rests on “One step of SGD, seen in function space”
#
# There are $N = 32$ examples, and batches are drawn without replacement. By which factor is the variance of the outputs
# after *one* step smaller with $B = 16$ than with $B = 4$, at the same learning rate? Write it down before you measure.

# %% task="08.3"
# variance with B = 4, over variance with B = 16
factor = ...
### BEGIN SOLUTION
factor = 7.0  # (28/4) / (16/16): not 4, since half of all examples are in
### END SOLUTION

# %% check="08.3" points=1
check("08.3", factor)

# %% [markdown]
# The measurement, for batch sizes up to 30. The figure is what you should see. At $B = N$, which a logarithmic axis cannot show, nothing is left.

# %% alt="Variance of an output after one step against the batch size, on logarithmic axes: simulated points on the exact line, which follows one over B for small batches and drops steeply towards B = 32; a dotted line 1/B for comparison."
SIZES = (1, 2, 4, 8, 16, 24, 30)
of_theory, of_runs = [], []
for size in SIZES:
    how = {"learning_rate": 0.1, "batch_size": size, "steps": 1, "f0": f0}
    cov = ntk.sgd_moments(theta, y, **how)[1]
    of_theory.append(float(jnp.trace(cov)) / 32)
    key = jax.random.key(0)
    runs = ntk.sgd_simulate(theta, y, key=key, runs=4000, **how)
    of_runs.append(float(runs.var(0).mean()))
fig, ax = plt.subplots()
ax.plot(SIZES, of_theory, label="exact")
ax.plot(SIZES, of_runs, "s", label="4000 runs")
of_one = of_theory[0]
ax.plot(SIZES, [of_one / b for b in SIZES], ":", color="0.4", label="1/B")
ax.set(xscale="log", yscale="log", xlabel="batch size B")
ax.set_xticks(SIZES, [str(b) for b in SIZES])
ax.set_xticks([], minor=True)
ax.set_ylabel("variance of an output after one step")
_ = ax.legend()

# %% [markdown]
# ## 08.4 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “Is it a temperature?”
#
# How strong is label noise in the end? Somebody derives it for full batches, $B = N$, and labels that can all be fitted:
#
# 1. A step adds to the residual the noise $\frac \eta B \Theta \sum_i \varepsilon_i e_i$, with a fresh error
#    $\varepsilon_i \sim N(0, \sigma^2)$ for each of the $B$ examples in the batch ($e_i$ is the $i$-th unit vector).
# 2. Its covariance is $\frac{\eta^2}{B^2}\, \Theta\, \big(\sum_i \sigma^2 e_i e_i^\top\big)\, \Theta
#    = \frac{\eta^2 \sigma^2}{B}\, \Theta^2$.
# 3. In the eigenbasis the variance $m$ of a mode is stationary when
#    $m = \big(1 - \frac{\eta\lambda}{N}\big)^2 m + \frac{\eta^2\sigma^2}{B} \lambda^2$.
# 4. Solving for $m$: $\;m = \frac{\eta \sigma^2 \lambda N}{B\,(2 - \eta\lambda/N)}$.
# 5. With $B = N$ this is $m = \frac{\eta\sigma^2\lambda}{2 - \eta\lambda/N}$, however many examples there are.
#
# It does not survive a measurement:

# %%


def flawed_variances(eigenvalues, learning_rate, sigma):
    """Stationary variance of each mode [N]."""
    n = eigenvalues.shape[0]
    numerator = learning_rate * sigma**2 * eigenvalues
    return numerator / (2 - learning_rate * eigenvalues / n)


def measured_variances(learning_rate, sigma, modes=3):
    """The same by simulation, for the largest modes."""
    runs = ntk.sgd_simulate(
        theta,
        y,
        learning_rate=learning_rate,
        batch_size=32,
        steps=300,
        label_noise=sigma,
        key=jax.random.key(0),
        runs=2000,
        f0=y,
    )
    u = jnp.linalg.eigh(theta)[1][:, -modes:]
    return (runs[..., 0] @ u).var(0)


eigenvalues = jnp.linalg.eigvalsh(theta)
rate = 0.5
flawed = flawed_variances(eigenvalues, rate, 0.3)[-3:]
ratio = flawed / measured_variances(rate, 0.3)
print("flawed over measured, largest modes:", ", ".join(f"{r:.2g}" for r in ratio))

# %% [markdown]
# In which line, 1 to 5, is the first error? And write the variances as they should be, from the derivation and not from the library.
# An eigenvalue may be 0.

# %% task="08.4"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 2
### END SOLUTION


def stationary_variances(eigenvalues, learning_rate, sigma):
    """Variance of each mode under label noise, full batch: from eigenvalues [N] of the kernel, [N]."""
    ### BEGIN SOLUTION
    n = eigenvalues.shape[0]
    decay = learning_rate * eigenvalues / n
    return sigma**2 * decay / (2 - decay)
    ### END SOLUTION


# %% check="08.4" points=3
check("08.4", (wrong_line, stationary_variances))

# %% [markdown]
# ## 08.5 The average of many runs
#
# 10 minutes · difficulty 2 of 5 · rests on “Is it a regularizer?”
#
# A colleague fine-tunes a *linearized* network on data with disputed labels, by SGD with small batches, each drawn afresh, and each run from the same start. She averages the
# parameters of 50 runs, and the average has a clearly lower test loss than any single run. "So the noise of SGD helped
# us to a flat region, and the average sits in its middle: implicit regularization." What is right in this and what
# is wrong? Which much cheaper computation gives (nearly) her averaged network, and how would you test her claim?

# %% written="08.5" points=2
answer = r"""
### BEGIN SOLUTION
Right: the average is better than a single run. Single runs carry the variance of
the noise, $\frac12$ of its mean over the test points in the expected loss, and
averaging 50 runs divides it by 50. Wrong: the explanation. The network is linear in
its parameters, so the average of the parameters is the average of the functions, and
its expectation is the function of full-batch gradient descent with the same learning
rate and number of steps, for every batch size. One run of gradient descent gives it.
The loss has one and the same Hessian everywhere: there is no flatter region to find.
Test: compare the average with gradient descent; they differ by the sampling error
only, std/√50. A regularizer would show a difference that stays with more runs.
### END SOLUTION
"""
check("08.5", answer)

# %% [markdown]
# ## 08.6 Go further: momentum
#
# 40 minutes · difficulty 4 of 5 · rests on “Is it a temperature?”
#
# An open task. With heavy-ball momentum $\mu$ a step is $v \leftarrow \mu v + \frac1B D r$, then $c \leftarrow c - \eta v$.
# With label noise $r$ becomes $r - \varepsilon$. Take full batches, $B = N$, and labels that can be fitted.
# How large is the stationary variance, compared with that without momentum at the same $\eta$?
# Predict it for small $\eta$ (a hint: what is the *total* effect of one noisy residual on $c$, over all later steps?), then for
# a single mode at any $\eta$ (a linear recursion of two numbers: its covariance has three), and measure. What is held
# fixed when people say that momentum "does not change the noise"?

# %%


def variance_with_momentum(learning_rate, momentum, sigma=0.3, steps=2000):
    """Mean stationary variance of an output, full batch with label noise."""

    def run(key):
        def step(t, state):
            f, v = state
            draw = jax.random.fold_in(key, t)
            noise = sigma * jax.random.normal(draw, y.shape)
            v = momentum * v + theta @ (f - y - noise) / 32
            return f - learning_rate * v, v

        return jax.lax.fori_loop(0, steps, step, (y, 0 * y))[0]

    keys = jax.random.split(jax.random.key(0), 500)
    return float(jax.jit(jax.vmap(run))(keys).var(0).mean())


plain = variance_with_momentum(0.1, 0.0)
for momentum in (0.0, 0.5, 0.9):
    ratio = variance_with_momentum(0.1, momentum) / plain
    print(f"momentum {momentum}: {ratio:.2g} times the variance without")

# %% written="08.6" points=1
answer = r"""
### BEGIN SOLUTION
One noisy residual moves $v$ by $\mu^j$ of itself $j$ steps later, so in total it
moves $c$ by $\eta(1 + \mu + \mu^2 + \dots) = \eta/(1-\mu)$ times itself. For small
steps momentum is a learning rate $\eta/(1-\mu)$, and the variance $\propto \eta$ grows
by $1/(1-\mu)$: 2 and 10 for $\mu = 0.5$ and 0.9. For one mode with $a = \eta\lambda/N$
the covariance of $(r, v)$ gives the exact
$m = \frac{a\,\sigma^2 (1 + \mu)}{(1 - \mu)\,(2(1 + \mu) - a)}$ for $B = N$, which is
$\frac{a\sigma^2}{2 - a}$ at $\mu = 0$. Over the modes at $\eta = 0.1$ that predicts 1.96
and 9.7 times; measured 2.0 and 9.6. "Does not change the noise" holds at fixed
$\eta/(1-\mu)$, which is then the temperature's learning rate.
### END SOLUTION
"""
check("08.6", answer)
