# %% [markdown]
# # Exercises 09: finite against infinite networks
#
# They go with the chapter `notebooks/09_finite_and_infinite.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("09.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import ntklib as ntk
from course import check, hint, predict

# %% [markdown]
# ## 09.1 `agreement`
#
# 15 minutes · difficulty 2 of 5 · rests on “What a kernel says about one network”
#
# Two classes, one output, and the sign of the output is the answer. Over initializations, the output of a wide trained network at a
# test image has the mean $m$ and the variance $v$, and it is Gaussian.
# Two networks were trained on the same images from independent starts. At which share of the test images do they give the same answer?
# Return the expectation, one number.


# %% task="09.1"
def agreement(mean, variance):
    """Expected share of test images at which two networks agree; mean [M], variance [M]."""
    ### BEGIN SOLUTION
    up = jax.scipy.stats.norm.cdf(mean / jnp.sqrt(variance))
    return jnp.mean(up**2 + (1 - up) ** 2)
    ### END SOLUTION


# %% check="09.1" points=2
check("09.1", agreement)

# %% [markdown]
# ## 09.2 `luck`
#
# 20 minutes · difficulty 3 of 5 · rests on “Accuracy that falls with the width”
#
# Suppose that the width has no influence at all. You measure the accuracy at $k + 1$ widths, each with its own networks and
# the standard error $u$, and report "the best of the first $k$ widths minus the last width".
# What do you report on average? Errors are Gaussian and independent. An answer that is right to 1 % will do, for $k$ from 1 to 20.
# Before you write code, guess it for $k = 7$ and $u = 0.01$. Is it above 0.02, the smallest difference of accuracies that counts in this course?


# %% task="09.2"
def luck(k, u):
    """Mean of max(a_1, ..., a_k) − a_0 for independent a_i with the standard deviation u; one number."""
    ### BEGIN SOLUTION
    # P(max < z) = Φ(z)^k, so E max = ∫ z d(Φ^k). The mean of a_0 is the common accuracy, and cancels.
    z = jnp.linspace(-8, 8, 4001)
    below = jax.scipy.stats.norm.cdf(z) ** k
    return u * jnp.sum((z[1:] + z[:-1]) / 2 * jnp.diff(below))
    ### END SOLUTION


# %% check="09.2" points=2
check("09.2", luck)

# %% [markdown]
# ## 09.3 Spot the error
#
# 25 minutes · difficulty 4 of 5 · rests on “What a kernel says about one network”
#
# Somebody wants the variance of wide networks that were trained to the end, all layers of them. $X$ are the training inputs, $\Theta$ and $\Sigma$
# without arguments are kernels between them.
#
# 1. Linearized training takes the outputs at the start to $f(x) = f_0(x) + P\,(y - f_0(X))$, with $P = \Theta(x, X)\,\Theta^{-1}$.
# 2. $f_0$ has the mean zero, so the mean over starts is $P y$.
# 3. What is left is $f_0(x) - P f_0(X)$, and $f_0$ has the covariance $\Sigma$.
# 4. $P$ is the best linear guess of $f_0(x)$ from $f_0(X)$, as in the regression with a Gaussian process.
# 5. So the variance is that of the Gaussian process, $\Sigma(x, x) - \Sigma(x, X)\, \Sigma^{-1}\, \Sigma(X, x)$.
#
# In which line, 1 to 5, is the first error? What does it cost? Return, for each test input, how much larger the true variance is than that of line 5.
# (Compute it in a form of which one sees the sign.)

# %% task="09.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 4
### END SOLUTION


def missing_variance(theta, theta_test, sigma, sigma_test):
    """True variance minus that of line 5, [M]; kernels [N, N] between training inputs, [M, N] with test inputs."""
    ### BEGIN SOLUTION
    # The best linear guess is S = Σ(x, X) Σ⁻¹. f₀(x) − P f₀(X) = [f₀(x) − S f₀(X)] + (S − P) f₀(X); the first part is
    # uncorrelated with f₀(X), so variances add.
    p = jnp.linalg.solve(theta, theta_test.T).T
    s = jnp.linalg.solve(sigma, sigma_test.T).T
    return jnp.einsum("ti,ij,tj->t", p - s, sigma, p - s)
    ### END SOLUTION


# %% check="09.3" points=3
check("09.3", (wrong_line, missing_variance))

# %% [markdown]
# ## 09.4 Half the outputs: predict, then measure
#
# 15 minutes · difficulty 3 of 5 · rests on “What a kernel says about one network”
#
# A wide network trained to the end has the squared error $E + V$: the kernel's and the variance. Now train $\tfrac12 f(\theta, x)$
# in place of $f(\theta, x)$, from the same starts and to the same targets, for four times as long. By which factors do $E$ and $V$ change?
# Note both numbers before you measure.

# %% task="09.4"
# the new E over the old one, and the new V over the old one
error_factor = ...
variance_factor = ...
### BEGIN SOLUTION
error_factor = 1.0  # both kernels are a quarter of what they were, and P = Θ(x, X) Θ⁻¹ is the same
variance_factor = 0.25  # the outputs at the start are halved
### END SOLUTION

# %% check="09.4" points=2
check("09.4", (error_factor, variance_factor))

# %% [markdown]
# The measurement waits for your prediction: 32 networks of width 512, plain and halved. (Four times as long is here four times the rate, with as many steps.)

# %%
if predict("09.4", error_factor, variance_factor) is not None:
    data = ntk.load("digits", n_train=30, n_test=200).flat()
    y = ntk.one_hot_centered(data.y_train, 10)

    def halved(rngs):
        return ntk.scale_output(ntk.mlp([64, 512, 10], w_std=2**0.5, b_std=0.1, rngs=rngs), 0.5)

    def plain(rngs):
        return ntk.mlp([64, 512, 10], w_std=2**0.5, b_std=0.1, rngs=rngs)

    found = []
    for build, rate in ((plain, 0.1), (halved, 0.4)):
        how = {"members": 32, "steps": 200, "key": jax.random.key(0), "progress": False}
        nets = ntk.ensemble(build, data.x_train, y, optimizer=optax.sgd(rate, momentum=0.9), **how)
        variance = float(nets.variance(data.x_test).sum(1).mean())
        error = float(((nets.mean(data.x_test) - ntk.one_hot_centered(data.y_test, 10)) ** 2).sum(1).mean())
        found.append((error - variance / 32, variance))
    ratio = np.divide(found[1], found[0])
    print(f"measured: E times {ratio[0]:.2f}, V times {ratio[1]:.2f}")

# %% [markdown]
# ## 09.5 How many are as good as the kernel?
#
# 10 minutes · difficulty 2 of 5 · rests on “What a kernel says about one network”
#
# A kernel has the squared error 0.25 on the test images. One wide network, trained with a small rate, has 0.93. You average the outputs
# of several such networks. What does the average do to the two parts of the error? How many networks, at least, bring it within 10 % of
# the kernel's error? And what could you do in place of averaging?

# %% written="09.5" points=2
answer = r"""
### BEGIN SOLUTION
The error of one is the kernel's, 0.25, and the variance, 0.93 - 0.25 = 0.68. Starts are
independent, so the mean of m networks has the variance 0.68/m, and the kernel's part stays.
0.68/m <= 0.025 needs m >= 27.2: 28 networks. The variance comes from the outputs at the
start. Without averaging: subtract them (train from a zero output), or make them small.
### END SOLUTION
"""
check("09.5", answer)

# %% [markdown]
# ## 09.6 Go further: what falls, and why
#
# 60 minutes · difficulty 4 of 5 · rests on “Accuracy that falls with the width”
#
# An open task. Take one hidden layer and a small rate, and measure the accuracy over the width once with the outputs at the start and once
# without (`ntk.center`). Predict first: at which end do the two curves differ, and which of them has a maximum between its ends?
# Use at least three subsets, and choose the best width on other subsets than those on which you score it.

# %% written="09.6" points=1
answer = r"""
### BEGIN SOLUTION
Prediction: wide networks lose what the variance of the start costs, so without it the wide
end rises to the kernel's accuracy, and the curve should rise all the way. A narrow network
has outputs at the start of the same size, but it also has noise of its own: few features.
There both curves are low. What the chapter has measured of this (136 images, six subsets):
with the start, flatten has 0.84 near width 32 and 0.79 at width 512; without it, dense
networks of width 1024 have 0.82 and their kernel 0.83. The whole curve without a start
is yours to measure: both curves with their errors, the best inner width chosen on all
subsets but one, and the difference to the largest width on that one.
### END SOLUTION
"""
check("09.6", answer)
