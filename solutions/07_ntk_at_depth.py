# %% [markdown]
# # Exercises 07: the NTK at large depth
#
# They go with the chapter `notebooks/07_ntk_at_depth.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("07.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ntklib as ntk
from course import check, hint
from ntklib import duals, plotting

jax.config.update("jax_enable_x64", True)  # deep networks need the digits
plotting.use_style()

# %% [markdown]
# ## 07.1 `ntk_at_depth`
#
# 15 minutes · difficulty 2 of 5 · rests on “Two numbers a layer”
#
# Code the recursion (which `ntk.ntk_depth_profile` has) for two inputs of equal variance yourself,
#
# $$ \Sigma^{l+1} = \sigma_w^2\,\mathbb E[\phi(u)\phi(v)] + \sigma_b^2, \qquad
#    \Theta^{l+1} = \Sigma^{l+1} + \sigma_w^2\,\mathbb E[\phi'(u)\phi'(v)]\;\Theta^l, \qquad \Theta^1 = \Sigma^1, $$
#
# once for the pair $(x, x)$ and once for $(x, x')$. `dual(q12, q1, q2)` returns the two expectations, as in
# `ntklib.duals`. The variance after the first layer is `q`, the correlation `rho`; `q` need not be a fixed point, so the
# variance changes from layer to layer. `depth` is $L$, the number of *affine* layers.


# %% task="07.1"
def ntk_at_depth(dual, w_std, b_std, q, rho, depth):
    """(Θ(x, x), Θ(x, x')) of a network of `depth` affine layers, two numbers."""
    ### BEGIN SOLUTION
    same, other = q, rho * q  # Σ
    diagonal, off = same, other  # Θ
    for _ in range(depth - 1):
        (v_same, s_same), (v_other, s_other) = (
            dual(same, same, same),
            dual(other, same, same),
        )
        same, other = (w_std**2 * v + b_std**2 for v in (v_same, v_other))
        diagonal = same + w_std**2 * s_same * diagonal
        off = other + w_std**2 * s_other * off
    return diagonal, off
    ### END SOLUTION


# %% check="07.1" points=2
check("07.1", ntk_at_depth)

# %% [markdown]
# ## 07.2 `at_new_input`
#
# 15 minutes · difficulty 3 of 5 · rests on “Invertible, and silent”
#
# Let the kernel be the same for all pairs, as at infinite depth: $k_0$ on the diagonal and $k_0\lambda$ everywhere
# else, also between a new input and the $N$ training inputs. Derive what kernel regression with a relative `ridge` predicts
# there,
#
# $$ f(x) = k_0\lambda\,\mathbf 1^\top \big(K + \text{ridge}\cdot k_0\, I\big)^{-1} y, \qquad
#    K = k_0\big[(1 - \lambda) I + \lambda\,\mathbf 1\mathbf 1^\top\big], $$
#
# and code the closed form: no matrix of size $N \times N$.


# %% task="07.2"
def at_new_input(y, ratio, ridge=0.0):
    """The prediction [K] at a new input, for targets y [N, K] and λ = `ratio`."""
    ### BEGIN SOLUTION
    # 1 is an eigenvector of K + ridge k_0, with the eigenvalue k_0 (1 − λ + ridge + λ N).
    return ratio * y.sum(axis=0) / (1 - ratio + ridge + ratio * y.shape[0])
    ### END SOLUTION


# %% check="07.2" points=2
check("07.2", at_new_input)

# %% [markdown]
# ## 07.3 Constant to one per cent: predict, then measure
#
# 10 minutes · difficulty 2 of 5 · rests on “Off the line: constant, or exploding”
#
# An erf network in the ordered phase, $\sigma_w = 1$, $\sigma_b^2 = 0.05$, inputs at the fixed point $q$ with
# $c_1 = 0.1$. What is the smallest depth $L$ (affine layers) at which $\Theta(x, x')$ and $\Theta(x, x)$ differ by less
# than one per cent, $1 - \Theta(x, x')/\Theta(x, x) < 0.01$? First predict it from the law of the chapter (here
# $\chi_1 = 0.8676$; a factor of two will do), then measure it with `ntk.ntk_depth_profile`. The figure shows what you should see.

# %% task="07.3"
# Your prediction, from the law, and the measured depth, an integer.
predicted_depth = ...
measured_depth = ...
### BEGIN SOLUTION
chi_1 = 0.8676
candidates = np.arange(1, 200)
# The law is L χ_1^L, up to a constant of order one; take the falling branch.
predicted_depth = int(candidates[np.nonzero(candidates * chi_1**candidates >= 0.01)[0][-1] + 1])
profile = ntk.ntk_depth_profile(ntk.Erf(), 1.0, 0.05**0.5, candidates, rho=0.1)
measured_depth = int(candidates[np.argmax(np.asarray(profile.ratio) > 0.99)])
### END SOLUTION

# %% check="07.3" points=2
check("07.3", (predicted_depth, measured_depth))

# %% alt="One minus the kernel ratio against depth from 1 to 100 on a logarithmic axis: it falls from 0.9, slowly at first, then nearly exponentially, below 0.01 between depth 40 and 60."
figure_depths = np.arange(1, 101)
curve = ntk.ntk_depth_profile(ntk.Erf(), 1.0, 0.05**0.5, figure_depths, rho=0.1)
fig, ax = plt.subplots(figsize=(5.6, 3))
ax.plot(figure_depths, 1 - np.asarray(curve.ratio), label="erf, ordered")
ax.axhline(0.01, color="0.4", ls=":", label="one per cent")
ax.set(
    yscale="log",
    xlabel="depth L (affine layers)",
    ylabel="1 − Θ(x, x')/Θ(x, x)",
)
_ = ax.legend()

# %% [markdown]
# ## 07.4 Spot the error
#
# 15 minutes · difficulty 3 of 5 · rests on “On the line: an effective depth”
#
# Somebody explains the rate of ReLU on the edge of chaos:
#
# 1. To leading order the slope of the correlation map is $\chi(c_l) = 1 - 3/l$, so
#    $\Theta^{l+1}(x, x') = q + (1 - 3/l)\,\Theta^l(x, x')$ up to smaller terms.
# 2. Put in $\Theta^l = A\,q\,l$. The terms of order one give $A = 1 - 3A$, so $A = \frac14$.
# 3. The diagonal is $q L$. So the ratio tends to $\frac14$ for every pair of different inputs.
# 4. The next term of an expansion in $1/l$ is one power smaller: the distance to the limit is $C/L$.
# 5. Fit $C$ at one depth, and the distance is known at all depths.
#
# And the code to it:

# %%


def flawed_fit(depths, ratio, limit):
    """The coefficient C of 1/L in the distance of `ratio` [T] to its limit."""
    return float(((ratio - limit) * depths)[0])


some = np.array([300, 1000, 3000, 10_000, 30_000, 100_000])
relu = ntk.ntk_depth_profile(ntk.Relu(), 2**0.5, 0.0, some, rho=0.1).ratio
C = flawed_fit(some, np.asarray(relu), 1 / 4)
for L, value in zip(some[[0, -1]], np.asarray(relu)[[0, -1]], strict=True):
    print(f"L = {L}: distance over C/L is {(value - 1 / 4) * L / C:.2f}")

# %% [markdown]
# In which line, 1 to 5, is the first error? And write a fit that has both terms: the coefficient $\kappa$ of $\log L/L$
# (natural logarithm) and $C$ of $1/L$, by least squares over all depths given.

# %% task="07.4"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 4
### END SOLUTION


def rate_fit(depths, ratio, limit):
    """(κ, C) in ratio − limit = κ log L/L + C/L, for arrays depths, ratio [T]."""
    ### BEGIN SOLUTION
    scaled = (ratio - limit) * depths
    kappa, constant = jnp.polyfit(jnp.log(depths), scaled, 1)
    return kappa, constant
    ### END SOLUTION


# %% check="07.4" points=3
check("07.4", (wrong_line, rate_fit))

# %% [markdown]
# ## 07.5 Invertible and uninformative
#
# 10 minutes · difficulty 2 of 5 · rests on “Invertible, and silent”
#
# A colleague: "The limit kernel on the edge of chaos is invertible, even well conditioned. So the network fits every data
# set, so it must carry all the information on the inputs. The claim that it carries almost none is a contradiction." What
# do you answer? And why does the order of ten nearly equal outputs, at a large but finite depth, still classify digits?

# %% written="07.5" points=2
answer = r"""
### BEGIN SOLUTION
To fit is a property of the kernel between training inputs: $K$ invertible means that the
$N$ functions $\Theta(\cdot, x_i)$ take independent values on them. In the limit this is
due to the identity alone, $K = k_0[(1-\lambda)I + \lambda 11^T]$: each input is
similar to itself and equally similar to all others. A kernel method transfers what it
learned to a new $x$ by $\Theta(x, x_i)$, and these are all $k_0\lambda$: every $x$ gets
$N\bar y/(N + 3)$ (ReLU; $N + 2$ for smooth activations). It memorises, as a table does. At finite depth the off-diagonal
entries differ by about $l_0(x, x_i)/L$, where the head start $l_0$ is larger for nearer
inputs. So the outputs are the constant plus a vote of the training labels of size
$1/L$. The largest of ten outputs does not care about the size, only about the
order, if the classes are equally frequent (else $\bar y$ decides). It is lost as soon as noise is larger than $1/L$, such as the random
kernel of a finite network.
### END SOLUTION
"""
check("07.5", answer)

# %% [markdown]
# ## 07.6 Go further: a kink of your choice
#
# 30 minutes · difficulty 4 of 5 · rests on “Where tanh and ReLU do differ”
#
# An open task. Leaky ReLUs, $\phi(x) = x$ for $x > 0$ and $\alpha x$ below, are critical at
# $\sigma_w^2 = 2/(1 + \alpha^2)$, $\sigma_b = 0$. With $\theta = \arccos c$ their duals give
# $\chi(c) = 1 - b\,\theta/\pi$, with $b = (1 - \alpha)^2/(1 + \alpha^2)$, and $\theta' = \theta - b\,\theta^2/3\pi + \dots$ Predict the
# limit of the ratio, the coefficient of $\log L/L$, and how the spread between pairs depends on $\alpha$. Then measure. Which
# $\alpha$ would you choose for a deep network, and what do you lose?

# %%


def leaky(alpha, depths=(1000, 100_000, 1_000_000)):
    """Ratio at the last depth, coefficient of log L/L, and spread · L."""
    w_std = (2 / (1 + alpha**2)) ** 0.5
    rho = np.array([0.1, 0.9])
    depths = np.array(depths)
    p = ntk.ntk_depth_profile(ntk.LeakyRelu(alpha), w_std, 0.0, depths, rho=rho)
    ratio = np.asarray(p.ratio)
    scaled = (ratio - 1 / 4) * depths[:, None]
    kappa = (scaled[2] - scaled[1]) / np.log(depths[2] / depths[1])
    return (
        ratio[-1, 0],
        kappa[0],
        float((ratio[-1, 1] - ratio[-1, 0]) * depths[-1]),
    )


for alpha in (0.0, 0.3):
    ratio, kappa, spread = leaky(alpha)
    print(f"α = {alpha}: ratio {ratio:.4f}, κ {kappa:.3f}, spread · L {spread:.3g}")

# %% written="07.6" points=1
answer = r"""
### BEGIN SOLUTION
The step in $\theta$ has the factor $b$, so $\theta_l = 3\pi/(b\,l)$ and
$\chi = 1 - b\theta/\pi = 1 - 3/l$: $b$ drops out. The limit is $1/4$ and $\kappa$
is $3/8$ for every kink, $\alpha < 1$. A pair enters as $l_0 = 3\pi/(b\,\theta_1)$, so the
spread is about $1/b$ times that of ReLU. $\alpha = 0.3$ has $1/b = 2.2$: measured 7.26
against 3.01 for ReLU, a factor 2.4 (the law holds from some layers on, not from
the first). $\alpha \to 1$ makes it as large as
we like, as $\sigma_b \to 0$ does for tanh; but then a layer is nearly linear, and the
effective depth $b\,L$ is what is left of the depth. One trades how far signals reach
for how nonlinear the network is.
### END SOLUTION
"""
check("07.6", answer)
