# %% [markdown]
# # Exercises 06: the edge of chaos
#
# They go with the chapter `notebooks/06_edge_of_chaos.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("06.1")` helps on, in three levels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import ntklib as ntk
from course import check, hint
from ntklib import plotting

jax.config.update("jax_enable_x64", True)
plotting.use_style()

tanh = ntk.Tanh()

# %% [markdown]
# ## 06.1 `variance_step`
#
# 20 minutes · difficulty 2 of 5 · rests on “The variance map”
#
# Write one step of the variance map (without `ntk.variance_map`) for any smooth activation, together with its slope, at several variances $q$ at once:
#
# $$ V(q) = \sigma_b^2 + \sigma_w^2\, \mathbb E\big[\phi(\sqrt q Z)^2\big], \qquad \chi_q = V'(q). $$
#
# The expectation is a quadrature: with nodes $z_k$ and weights $w_k$ from `np.polynomial.hermite_e.hermegauss(100)` (weight function
# $e^{-z^2/2}$) $\mathbb E[g(Z)] \approx \sum_k w_k g(z_k) / \sum_k w_k$. For the slope you may derive under the expectation yourself or let JAX do it.


# %% task="06.1"
def variance_step(phi, w_std, b_std, q):
    """(V(q) [M], chi_q [M]) for a JAX function phi of one number, elementwise; q [M], all positive."""
    ### BEGIN SOLUTION
    z, weights = np.polynomial.hermite_e.hermegauss(100)
    z, weights = jnp.asarray(z), jnp.asarray(weights / weights.sum())

    def step(q):
        return b_std**2 + w_std**2 * jnp.sum(weights * phi(jnp.sqrt(q) * z) ** 2)

    return jax.vmap(jax.value_and_grad(step))(q)
    ### END SOLUTION


# %% check="06.1" points=2
check("06.1", variance_step)

# %% [markdown]
# ## 06.2 `critical_line`
#
# 20 minutes · difficulty 2 of 5 · rests on “The critical line”
#
# For each $q$ there is at most one point of the edge of chaos at which $q$ is the variance's fixed point. Derive it again from the two conditions
# $q = V(q)$ and $\chi_1 = 1$, without looking and without `ntk.edge_of_chaos`, and return its two *variances* $\sigma_w^2$ and $\sigma_b^2$. Where $\sigma_b^2$ comes out negative there is no such network; return the
# negative number all the same.


# %% task="06.2"
def critical_line(phi, q):
    """(w_var [M], b_var [M]) on the edge of chaos of a smooth JAX function phi, for variances q [M]."""
    ### BEGIN SOLUTION
    z, weights = np.polynomial.hermite_e.hermegauss(100)
    u = jnp.sqrt(q)[:, None] * jnp.asarray(z)[None, :]
    values, slopes = jax.jvp(phi, (u,), (jnp.ones_like(u),))
    weights = jnp.asarray(weights / weights.sum())
    w_var = 1 / (slopes**2 @ weights)
    return w_var, q - w_var * (values**2 @ weights)
    ### END SOLUTION


# %% check="06.2" points=2
check("06.2", critical_line)

# %% [markdown]
# ## 06.3 Predict, then measure: how soon do two images meet, how soon do they part?
#
# 15 minutes · difficulty 3 of 5 · rests on “Depth scales”
#
# Two tanh networks, $\sigma_b^2 = 0.05$. Predict two numbers of layers, from the depth scales and slopes that are printed below and nothing else:
#
# 1. *Ordered*, $\sigma_w = 1.1$: two images with $1 - c = 0.5$. How many layers until their correlation is within 1 % of its limit?
# 2. *Chaotic*, $\sigma_w = 2.2$: two inputs that differ by a little noise, $1 - c = 10^{-6}$. How many layers until $1 - c$ has grown to about $0.1$?
#
# Use the exponential laws as if they held from the first layer on. Which of the printed numbers governs which case?

# %%
b_std = 0.05**0.5
for name, w in (("ordered", 1.1), ("chaotic", 2.2)):
    s = ntk.depth_scales(tanh, w, b_std)
    print(f"{name}: q = {s.q:.3g}, c* = {s.c:.3g}, χ_1 = {s.chi_1:.4g}, χ_q = {s.chi_q:.3g}")
    print(f"         ξ_q = {s.xi_q:.3g}, ξ_c = {s.xi_c:.4g} layers")

# %% task="06.3"
# (layers until two images meet, layers until two neighbours part)
layers = ...
### BEGIN SOLUTION
layers = (
    float(ntk.depth_scales(tanh, 1.1, b_std).xi_c * np.log(0.5 / 0.01)),
    float(np.log(0.1 / 1e-6) / np.log(ntk.depth_scales(tanh, 2.2, b_std).chi_1)),
)
### END SOLUTION

# %% check="06.3" points=2
check("06.3", layers)

# %% [markdown]
# The measurement: networks of width 500, four seeds. This is the figure you should see; your two numbers should be where the curves cross the dotted
# lines, to about four layers (the laws do not quite hold from the first layer on, and these are single networks).

# %% alt="Two panels, 1 minus c against the number of layers on a logarithmic axis, four networks each. Left, ordered: nearly straight lines that fall from 0.5 through 0.01 at about 22 layers. Right, chaotic: nearly straight lines that rise from 1e-6 through 0.1 at about 32 layers."
rng = np.random.default_rng(0)
u, v = np.linalg.qr(rng.normal(size=(50, 2)))[0].T * 50**0.5


def measured_decorrelation(w_std, delta, seed, depth=40, n=500):
    """1 - c after each affine layer; both inputs are scaled so that the first layer has the variance q."""
    q = float(ntk.fixed_point(tanh, w_std, b_std))
    weight = delta * q / (q - b_std**2)  # 1 - c of the inputs for 1 - c = delta after the first layer
    x = np.stack([u, (1 - weight) * u + np.sqrt(weight * (2 - weight)) * v])
    key = jax.random.key(seed)
    h = x * ((q - b_std**2) / w_std**2) ** 0.5
    found = []
    for layer in range(depth):
        dense = ntk.Dense(h.shape[1], n, w_std=w_std, b_std=b_std, rngs=nnx.Rngs(jax.random.fold_in(key, layer)))
        h = dense(h)
        found.append(jnp.sum((h[0] / jnp.linalg.norm(h[0]) - h[1] / jnp.linalg.norm(h[1])) ** 2) / 2)
        h = jnp.tanh(h)
    return jnp.stack(found)


fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.0))
for ax, w, delta, end in ((axes[0], 1.1, 0.5, 0.01), (axes[1], 2.2, 1e-6, 0.1)):
    for seed in range(4):
        ax.semilogy(measured_decorrelation(w, delta, seed), color="0.4", ls="-", lw=1)
    ax.axhline(end, color="black", ls=":")
    ax.set(xlabel="layers after the first", title=rf"$\sigma_w$ = {w}")
axes[0].set_ylabel("1 − c")
plt.show()

# %% [markdown]
# ## 06.4 Spot the errors
#
# 20 minutes · difficulty 3 of 5 · rests on “The critical line”
#
# The function is meant to compute $\chi_1$ of tanh networks over a grid of $\sigma_w^2$ and $\sigma_b^2$, so that `chi_1 > 1` is the chaotic phase. It runs, and it gives a smooth picture,
# in which, strangely, no network is chaotic. One of the lines 1 to 6 is wrong, in two ways at once.

# %%
Z, WEIGHTS = np.polynomial.hermite_e.hermegauss(100)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def mean(f, q):
    """E[f(√q Z)] for q of any shape. (Nothing is wrong in here.)"""
    return jnp.sum(WEIGHTS * f(jnp.sqrt(q)[..., None] * Z), axis=-1)


def flawed_chi_1(w_var, b_var):
    """chi_1 over the grid, [W, B], for w_var [W] and b_var [B]."""
    w, b = w_var[:, None], b_var[None, :]  # line 1
    q = b + w**2 * mean(lambda u: jnp.tanh(u) ** 2, jnp.ones((1, 1)))  # line 2
    slope = lambda u: 1 - jnp.tanh(u) ** 2  # line 3  # noqa: E731
    squared = lambda u: slope(u) ** 2  # line 4  # noqa: E731
    chi = mean(squared, q)  # line 5
    return w * chi  # line 6


# %% [markdown]
# Compare it with what you know of the edge ($\sigma_b^2 = 0.05$: $\sigma_w^2 = 1.761$):

# %%
tried = flawed_chi_1(jnp.array([1.5, 1.761, 2.0]), jnp.array([0.05]))[:, 0]
for w_var, chi in zip((1.5, 1.761, 2.0), tried, strict=True):
    print(f"σ_w² = {w_var:.4g}: flawed χ_1 = {chi:.3g}")

# %% [markdown]
# Give the number of the wrong line, and write the function as it should be: the *phase* belongs to which $q$? (Start from $q = 1$; a few hundred steps of whatever you iterate are plenty. No phases, fixed points or slopes from the library.)

# %% task="06.4"
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 2
### END SOLUTION


def chi_1_grid(w_var, b_var):
    """chi_1 of tanh networks over the grid, [W, B], for w_var [W] and b_var [B]."""
    ### BEGIN SOLUTION
    w, b = w_var[:, None], b_var[None, :]
    q = jnp.ones((len(w_var), len(b_var)))
    q = jax.lax.fori_loop(0, 500, lambda _, q: b + w * mean(lambda u: jnp.tanh(u) ** 2, q), q)
    return w * mean(lambda u: (1 - jnp.tanh(u) ** 2) ** 2, q)
    ### END SOLUTION


# %% check="06.4" points=3
check("06.4", (wrong_line, chi_1_grid))

# %% [markdown]
# ## 06.5 The edge of GELU
#
# 10 minutes · difficulty 3 of 5 · rests on “The critical line”
#
# A colleague wants to train a GELU network of depth 200. "The library gives me the edge of chaos at $\sigma_b = 0.1$, $\sigma_w = 1.727$, with $q = 0.183$. So I take these and scale my inputs to $\Sigma^1 = q$." It also printed a warning, $\chi_q = 1.098$,
# which the colleague has overlooked. Explain what will happen to the network, why scaling the inputs exactly does not help, why this is no matter for tanh, and what you would do instead.

# %% written="06.5" points=2
answer = r"""
### BEGIN SOLUTION
$\chi_q = V'(q) > 1$: the fixed point of the variance repels. A deviation of the
variance grows by 9.8 % a layer, that is by a factor of 10 every 25 layers. At finite
width the first layer already misses $q$ by about $q\sqrt{2/n}$ (4 % at n = 1000), and
each layer adds such an error anew, so exact inputs help for a few dozen layers at most.
If the variance starts a little too small it falls to the lower, attracting
fixed point, where $\chi_1 < 1$: the network is ordered and correlations go to 1
exponentially. If it starts a little too large the variance grows without bound. In
either case it is not critical after some 30 layers, and different inputs of one batch may go
different ways. For tanh $\phi\phi'' \le 0$, so that $\chi_q < \chi_1 = 1$ on the edge and
errors of the variance die out. Instead: put a layer norm before each activation, which
holds the variance by force (with its own edge); or a larger bias ($\sigma_b > 0.416$,
where the line is stable); or skip connections, or a shallower network.
### END SOLUTION
"""
check("06.5", answer)

# %% [markdown]
# ## 06.6 Go further: the edge of your own activation
#
# 40 minutes · difficulty 4 of 5 · rests on “The critical line”
#
# An open task. Choose an activation that is not in the chapter (arctan, $\sin$, $x e^{-x^2/2}$, a softplus shifted to $\phi(0) = 0$, $\tanh$ plus a little of $x$, …). Predict: has it a critical line? Where does it start at $\sigma_b = 0$? Is the variance stable on it
# (what does the sign of $\phi\phi''$ say)? How fast does $1 - c_l$ fall, that is, what is $\beta$? Then compute, with your functions or the library's, and see at what depth a tanh network and yours, both on the edge with the same $\sigma_b$,
# have lost the same amount of correlation. Report what you predicted and what came out.

# %%
for name, fn in (("arctan", jnp.arctan), ("shifted softplus", lambda x: jax.nn.softplus(x) - jnp.log(2.0))):
    own = ntk.Elementwise(fn, name=name)
    try:
        point = ntk.critical_point(own, 0.2)
        print(f"{own.name}: σ_w = {point.w_std:.4g}, q = {point.q:.3g}, χ_q = {point.chi_q:.3g}, β = {point.beta:.3g}")
    except ValueError as error:
        print(error)

# %% written="06.6" points=1
answer = r"""
### BEGIN SOLUTION
arctan: smooth, odd, saturating, slope 1 at 0. So the line starts at $\sigma_w = 1$,
$\phi\phi'' \le 0$ gives $\chi_q < 1$: stable. At $\sigma_b = 0.2$ the library has
$\sigma_w = 1.308$, q = 0.617, $\chi_q = 0.591$, $\beta = 0.25$, next to tanh's
(1.304, 0.512, 0.543, 0.282). $1 - c_l \sim 2/(\beta l)$: at equal depth arctan
keeps 0.282/0.25, about 13 % more decorrelation than tanh, or it needs 13 % more layers
to lose as much. Softplus shifted to
$\phi(0) = 0$: now $\phi(0) = 0$ and $\phi'(0) = 1/2$, so a line may start at
$\sigma_w = 2$; $\phi\phi''$ is positive for x > 0 and negative for x < 0, with the larger
values on the right, so one expects $\chi_q > 1$. At $\sigma_b = 0.2$: $\sigma_w = 1.829$, $\chi_q = 1.06$. The
line exists and its variance repels, as for SiLU.
### END SOLUTION
"""
check("06.6", answer)
