# %% [markdown]
# # 02 · Parameterizations: which learning rate is which
#
# After this chapter you can
#
# - write one network in the standard, NTK, mean-field and maximal-update (μP) parameterizations, and translate a
#   learning rate from one to another;
# - say how far a single weight moves in training, and why the function moves nevertheless;
# - predict from a few exponents whether a wide network learns features or behaves like a kernel method.
#
# 45 minutes to read and run, 85 for the exercises without the open one. You need chapter 01 (the empirical NTK).
#
# ## The question
#
# Papers on the NTK draw all weights from $N(0, 1)$ and write $1/\sqrt n$ in front of the sum; everyone else draws them
# from $N(0, 1/n)$ and writes nothing. The networks are the same at the start. Are they the same after training, and with
# which learning rate? It is said that in the NTK limit the learning rate of the standard parameterization is of order $1/\sqrt n$.
# (We have it from notes and cannot cite a paper for it. Jacot et al. 2018 compare their rate 1.0 with 0.01 of an ordinary network of width 100, that is, with $1/n$.)
# We derive what it is, and then measure it.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import claim, reseed, scale
from ntklib import plotting

plotting.use_style()


def width_axis(ax, widths):
    ax.set(xscale="log", xlabel="width n")
    ax.set_xticks(widths, [str(n) for n in widths])
    ax.set_xticks([], minor=True)


def legend_of_points(ax, **where):
    """A legend without an entry for every theory line; the text under the figure says."""
    entries = zip(*ax.get_legend_handles_labels(), strict=True)
    kept = [(h, label) for h, label in entries if not label.startswith("theory:")]
    ax.legend(*zip(*kept, strict=True), **where)


PAPER = scale() == "paper"
SEEDS = 10 if PAPER else 4
WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)[: 7 if PAPER else 6]

# %% [markdown]
# The data are ten digits of mnist5k, one of each class. We shrink them from 28×28 to 7×7 pixels, because we will let the
# width $n$ grow and want $n \gg d$: here $d = 49$. The target is $+1$ for even and $-1$ for odd digits, one output,
# $K = 1$.

# %% alt="Ten handwritten digits, one of each, coarsened to 7 by 7 pixels; most can still be made out."
data = ntk.load("mnist5k", n_train=10, n_test=1)
small = data.x_train.reshape(10, 7, 4, 7, 4).mean(axis=(2, 4))
small = small / np.sqrt(np.mean(small**2))  # so that x·x/d = 1 on average
x = jnp.asarray(small.reshape(10, 49))
y = jnp.where(jnp.asarray(data.y_train) % 2 == 0, 1.0, -1.0)[:, None]

fig, axes = plt.subplots(1, 10, figsize=(7, 1))
plotting.images(axes, small[..., None], [f"y = {int(t):+d}" for t in y[:, 0]])

# %% [markdown]
# ## One network, written four ways
#
# A layer with fan-in $n$ computes $z = m \cdot \phi W + \dots$ from the activations $\phi$ below it, with
# $W_{ij} \sim N(0, s^2)$, and is trained with some learning rate. Only the product $m\,s$ can be seen in the function at
# the start. For NTK and standard it is $\sigma_w/\sqrt n$, so the two have the same random functions:
#
# | | multiplier $m$ | std of the draw $s$ | SGD learning rate of the weights | of the first layer's weights |
# |---|---|---|---|---|
# | NTK | $\sigma_w/\sqrt n$ | $1$ | $\eta$ | $\eta$ |
# | standard | $1$ | $\sigma_w/\sqrt n$ | $\eta\,\sigma_w^2/n$, the subject of this chapter | $\eta\,\sigma_w^2/d$ |
# | mean field (one hidden layer), readout | $\sigma_w/n$ | $1$ | $\eta\,n$ | $\eta\,n$ |
# | μP, readout | $1$ | $\sigma_w/n$ | $\eta\,\sigma_w^2/n$ | $\eta\,\sigma_w^2\,n/d$ |
# | μP, hidden layers | $1$ | $\sigma_w/\sqrt n$ | $\eta\,\sigma_w^2$ | |
#
# The first layer has the fan-in $d$, which does not grow: its $m s$ is $\sigma_w/\sqrt d$ in all four.
# Mean field and μP have a readout that is smaller by $1/\sqrt n$: at the start such a network is nearly zero, but for its last bias. In `ntklib` a
# parameterization is a record of exponents; a layer takes it as an argument and can tell what follows:

# %%
W_STD, B_STD = 1.5, 0.1


def network(n, key, parameterization=ntk.NTK):
    """A network 49 → n → n → 1 with erf, a smooth sigmoid, as activation."""
    return ntk.mlp(
        [49, n, n, 1],
        activation=ntk.Erf(),
        w_std=W_STD,
        b_std=B_STD,
        parameterization=parameterization,
        rngs=nnx.Rngs(key),
    )


for p in (ntk.NTK, ntk.STANDARD, ntk.MUP):
    for n in (100, 400):
        multiplier, std, rate = network(n, 0, p).layers[2].scales()["W"]
        print(f"{p.name:9} n = {n}, hidden layer: multiplier {multiplier:.3g}, ", end="")
        print(f"std {std:.3g}, rate {rate:.3g} η")

# %% [markdown]
# ## Which learning rate corresponds
#
# Take a weight $W$ of the NTK parameterization, $w$ the same weight in standard units:
#
# $$ w = \frac{\sigma_w}{\sqrt n}\, W . $$
#
# The function is the same, $f_{\text{NTK}}(W) = f_{\text{std}}(w)$. One step of gradient descent in $W$ is
# $\Delta W = -\eta\, \partial \mathcal L/\partial W$. What does $w$ do?
#
# **First factor: the gradient.** By the chain rule
#
# $$ \frac{\partial \mathcal L}{\partial W} = \frac{\sigma_w}{\sqrt n}\, \frac{\partial \mathcal L}{\partial w} . $$
#
# **Second factor: the movement.** The movement is converted like the weight itself,
#
# $$ \Delta w = \frac{\sigma_w}{\sqrt n}\, \Delta W
#    = -\frac{\sigma_w}{\sqrt n}\, \eta\, \frac{\partial \mathcal L}{\partial W}
#    = -\,\eta\, \frac{\sigma_w^2}{n}\, \frac{\partial \mathcal L}{\partial w} . $$
#
# So NTK training with the rate $\eta$ *is* standard training with the rate $\eta\,\sigma_w^2/n$ for weights (with $n$ the
# fan-in of that layer) and, by the same argument, $\eta\,\sigma_b^2$ for biases. The factor $1/\sqrt n$ enters **twice**.
# Whoever sees only the first gets $1/\sqrt n$: that is to convert the steepness of a hill from meters to kilometers, and
# then to take the step in meters all the same.
#
# Nothing here is approximate or needs a large $n$: **prediction**, equal outputs up to rounding, at every step.
# `ntk.convert` rescales the parameters and `ntk.sgd` gives each tensor its rate. In float64, 100 steps:

# %%


def outputs_while_training(net, learning_rate, steps=100):
    """Outputs on the ten digits after 0, 50 and 100 steps, [3, N, 1]."""
    apply_fn, params = ntk.functional(net)
    return ntk.train(
        (apply_fn, params),
        jnp.asarray(x, params["layers"][0]["W"].dtype),
        y,
        optimizer=ntk.sgd(net, learning_rate),
        steps=steps,
        record=lambda p: apply_fn(p, x),
        record_at=[0, steps // 2, steps],
        progress=False,
    ).records


def double(net):
    """The same network with float64 parameters."""
    for _, value in nnx.iter_graph(net):
        if isinstance(value, nnx.Param):
            value[...] = value[...].astype(jnp.float64)
    return net


with jax.enable_x64(True):
    net = double(network(256, 0))
    as_ntk = outputs_while_training(net, 0.3)
    as_standard = outputs_while_training(ntk.convert(net, ntk.STANDARD), 0.3)
    difference = float(jnp.abs(as_standard - as_ntk).max())
    moved = float(jnp.abs(as_ntk[-1] - as_ntk[0]).max())
    print(f"outputs moved by up to {moved:.2f}")
    print("NTK and standard differ by less than 1e-11:", difference < 1e-11)
    assert difference < 1e-11
    assert moved > 0.5

# %% [markdown]
# Mean field and μP are related in the same way. With one hidden layer the readout has the multiplier $\sigma_w/n$ and
# the rate $\eta\,n$ in one; moving the multiplier into the weight gives the rate $\eta\,n\,(\sigma_w/n)^2 =
# \eta\,\sigma_w^2/n$ of the other. They are one parameterization in two notations:

# %%
with jax.enable_x64(True):
    shallow = ntk.mlp(
        [49, 256, 1],
        activation=ntk.Erf(),
        w_std=W_STD,
        b_std=B_STD,
        parameterization=ntk.MEAN_FIELD,
        rngs=nnx.Rngs(0),
    )
    shallow = double(shallow)
    as_mean_field = outputs_while_training(shallow, 0.3)
    as_mup = outputs_while_training(ntk.convert(shallow, ntk.MUP), 0.3)
    difference = float(jnp.abs(as_mean_field - as_mup).max())
    print("mean field and μP differ by less than 1e-11:", difference < 1e-11)
    assert difference < 1e-11

# %% [markdown]
# ## One rate for all: 1/n or 1/√n?
#
# Users of μP give each tensor its own rate; most others do not, and the usual statement is about **one** rate for the whole
# standard network. How large may it be? Near its start a wide network follows $\dot r = -\Theta r/N$ (chapter 01), and
# gradient descent on it is stable as long as no mode overshoots by more than it was off, $\eta\,\lambda_{\max}/N < 2$:
#
# $$ \eta_{\max} = \frac{2N}{\lambda_{\max}(\Theta)} . $$
#
# So we need the kernel of the standard parameterization, with every parameter counted once. Of a layer's weights $w$ with
# fan-in $n$ it contains $\sum_i \phi_i(x)\phi_i(x') = n\,E[\phi\phi']$: of order $n$. Only the weights of the
# hidden layers and of the readout have such a fan-in. The first layer's has the fan-in $d$ and a bias has none, they
# contribute a constant. Altogether
#
# $$ \Theta_{\text{std}} = n\,A + B, \qquad
#    \eta_{\max} = \frac{2N}{\lambda_{\max}(nA + B)} \;\simeq\; \frac{2N}{n\,\lambda_{\max}(A)}
#    \quad\text{for } n \gg d . $$
#
# **Prediction**: $\eta_{\max}$ does not depend on $n$ in the NTK parameterization and goes like $1/n$ in the standard
# one, a little more slowly as long as $B$ (here like $d = 49$) still counts. `net.kernel` gives both kernels, also
# $A$ and $B$, since two widths determine a straight line:

# %%


def limit_kernel(n, parameterization):
    """The infinite-width NTK as this parameterization has it at the width n, [N, N]."""
    return network(n, 0, parameterization).kernel(x).ntk


def predicted_rate(kernel):
    return float(2 * len(x) / jnp.linalg.eigvalsh(kernel)[-1])


k1, k2 = (limit_kernel(n, ntk.STANDARD) for n in (64, 128))
A = (k2 - k1) / 64
B = k1 - 64 * A
assert jnp.allclose(limit_kernel(256, ntk.STANDARD), 256 * A + B, rtol=1e-3)

theory = {
    ntk.NTK: np.array([predicted_rate(limit_kernel(64, ntk.NTK)) for _ in WIDTHS]),
    ntk.STANDARD: np.array([predicted_rate(n * A + B) for n in WIDTHS]),
}

# %% [markdown]
# **Measurement.** A rate counts as stable if in 20 steps the loss never exceeds its starting value.
# We find the largest one by halving an interval for each of several networks.
# The interval is the same for all widths and both parameterizations, from $10^{-5}$ to $10^3$: the search knows nothing of the prediction. Thirteen halvings leave a quarter of a per cent.

# %%


@functools.cache
def ensemble(n, parameterization=ntk.NTK):
    """One apply_fn, and the parameters of several networks along a first axis."""
    nets = [network(n, reseed(seed), parameterization) for seed in range(SEEDS)]
    params = [ntk.functional(net)[1] for net in nets]
    stacked = jax.tree.map(lambda *p: jnp.stack(p), *params)
    return ntk.functional(nets[0])[0], stacked


def losses(apply_fn, params, rate, steps=20):
    """The loss before each of `steps` steps, one rate for all parameters, [steps]."""

    def loss(p):
        return jnp.mean((apply_fn(p, x) - y) ** 2) / 2

    def step(p, _):
        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda w, g: w - rate * g, p, grads), value

    return jax.lax.scan(step, params, length=steps)[1]


def largest_stable_rate(apply_fn, params):
    def halve(_, interval):
        low, high = interval
        middle = jnp.sqrt(low * high)
        values = losses(apply_fn, params, middle)
        stable = jnp.all(values <= values[0])  # False for nan, too
        return jnp.where(stable, middle, low), jnp.where(stable, high, middle)

    low, high = jax.lax.fori_loop(0, 13, halve, (1e-5, 1e3))
    return jnp.sqrt(low * high)


# %%
measured = {}
for p in theory:
    columns = []
    for n in WIDTHS:
        apply_fn, params = ensemble(n, p)
        search = jax.vmap(functools.partial(largest_stable_rate, apply_fn))
        columns.append(jax.jit(search)(params))
    measured[p] = np.stack(columns, axis=1)  # [seeds, widths]

wide = slice(2, None)  # from 256 on, where n ≫ d
slope = {p: plotting.fit_slope(WIDTHS[wide], m[:, wide]) for p, m in measured.items()}
log_n, log_rate = np.log(WIDTHS[wide]), np.log(theory[ntk.STANDARD][wide])
of_theory = np.polyfit(log_n, log_rate, deg=1)[0]
for p, (value, error) in slope.items():
    print(f"{p.name:9} slope of the largest stable rate: {value:.2f} ± {error:.2f}")
print(f"STANDARD  slope of 2N/λ_max(nA + B) over the same widths: {of_theory:.2f}")

# %% [markdown]
# And what does the advice "$1/\sqrt n$" do? We take a rate that is fine at the width 64, 0.9 of the predicted bound, and
# scale it to the width 2048 both ways.

# %%
narrow, broad = 64, 2048
start = 0.9 * theory[ntk.STANDARD][WIDTHS.index(narrow)]
runs = {}
for label, n, exponent in (
    ("n = 64", narrow, 0.0),
    ("n = 2048, rate scaled by 1/n", broad, 1.0),
    ("n = 2048, rate scaled by 1/√n", broad, 0.5),
):
    apply_fn, params = ensemble(n, ntk.STANDARD)
    rate = start * (narrow / n) ** exponent
    run = functools.partial(losses, apply_fn, rate=rate, steps=13)
    runs[label] = np.asarray(jax.jit(jax.vmap(run))(params))  # [seeds, steps]

# %% alt="Two panels. Left: the largest stable learning rate against the width on logarithmic axes. In the NTK parameterization it is flat, in the standard one it falls along the predicted line with a slope close to minus one; a dotted line of slope minus one half, from the same start, ends nearly four times above its points. Right: the loss over twelve steps; the run with width 64 and the one with width 2048 and a rate scaled by 1/n both fall, the one scaled by one over root n rises by many orders of magnitude."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5))
for i, (p, name) in enumerate(((ntk.NTK, "NTK"), (ntk.STANDARD, "standard"))):
    plotting.theory_and_measurement(
        left,
        WIDTHS,
        theory[p],
        measured[p],
        label=name,
        series=i,
    )
root = theory[ntk.STANDARD][0] * (np.array(WIDTHS) / WIDTHS[0]) ** -0.5
left.plot(WIDTHS, root, ":", color="0.4", label="standard, if it were 1/√n")
width_axis(left, WIDTHS)
left.set(
    yscale="log",
    ylabel="largest stable rate η",
    ylim=(8e-4, 500),
)
left.legend(ncols=1, loc="upper right")
for i, (label, values) in enumerate(runs.items()):
    mean, error = plotting.mean_and_error(np.log10(values))
    right.errorbar(
        range(13),
        10**mean,
        yerr=[10**mean - 10 ** (mean - error), 10 ** (mean + error) - 10**mean],
        color=plotting.COLOURS[i],
        marker=plotting.MARKERS[i],
        linestyle=plotting.DASHES[i],
        markersize=4,
        label=label,
    )
right.set(yscale="log", xlabel="step", ylabel="training loss")
_ = right.legend()

# %%
ntk_slope, standard_slope = slope[ntk.NTK], slope[ntk.STANDARD]
assert abs(ntk_slope[0]) < 0.1
assert abs(standard_slope[0] - of_theory) < 0.07
assert standard_slope[0] < -0.5 - 5 * standard_slope[1]
for p in theory:  # not only the slope: the rate itself
    ratio = measured[p][:, wide].mean(axis=0) / theory[p][wide]
    assert (abs(ratio - 1) < 0.3).all()
    assert abs(ratio[-1] - 1) < 0.15  # the theory is that of infinite width

claim(
    "J5",
    what="slope of the largest stable rate over n (standard, one rate for all)",
    derived=of_theory,
    measured=standard_slope[0],
    uncertainty=standard_slope[1],
    seeds=SEEDS,
)

# %% [markdown]
# With $1/\sqrt n$ the loss explodes: the rate is more than three times the stable one. (Between one and two times
# a finite network may recover after the explosion, by going to a flatter place, far away from where its kernel was:
# chapter 11.)
#
# One subtlety of language: as an upper bound "$O(1/\sqrt n)$" is true of $1/n$ as well, like "below 10 meters" of a
# chair. As a rule by which to set a rate it is wrong, and the right panel shows what it costs.
#
# ### One rate for all has another limit
#
# $\eta_0/n$ is stable. Is it also *the NTK limit*? The kernel that drives training is the rate times the kernel,
# $\eta_0\,\Theta_{\text{std}}/n = \eta_0\,(A + B/n)$. As $n \to \infty$ the part $B$ drops out: **the first layer and all
# biases are frozen**, only hidden weights and readout learn. Compare with the NTK, in which every tensor keeps its share:
# the equivalence above wanted $\eta\sigma_w^2/n$ for the hidden weights and readout, but $\eta\sigma_w^2/d$ for the first
# layer and $\eta\sigma_b^2$ for biases. So $\sigma_w^2 A$ is the NTK *without* the terms of the first layer and of the
# biases: another kernel, not a multiple of the NTK. We can build that from the library's layers and compare:

# %%
k = ntk.Kernel.from_inputs(x)
for i, layer in enumerate(network(64, 0).layers):
    k = layer.kernel_map(k)
    if i == 0:
        k = k.replace(ntk=jnp.zeros_like(k.ntk))  # nothing from the first layer
    elif isinstance(layer, ntk.Dense):
        k = k.replace(ntk=k.ntk - B_STD**2)  # nothing from this layer's bias
same = bool(jnp.allclose(k.ntk, W_STD**2 * A, rtol=1e-3))
print("σ_w² A is the NTK without first layer and biases:", same)
assert same

# %% [markdown]
#
# **Prediction**: the share of first layer and biases in the trace falls like $1/n$; the standard network's kernel tends
# to $A$ in shape, and ends at a fixed distance from $\Theta_{\text{NTK}}$. We compare shapes, kernels divided by their
# traces, in the Frobenius norm.

# %%
KERNEL_WIDTHS = WIDTHS[:5]  # Jacobians are ten times larger than the network


def kernels(apply_fn, params):
    """Empirical NTK of (first layer and biases, hidden weights and readout)."""
    gradient = jax.grad(lambda p, one: apply_fn(p, one[None])[0, 0])
    jac = jax.vmap(gradient, in_axes=(None, 0))(params, x)
    frozen, learning = jnp.zeros((10, 10)), jnp.zeros((10, 10))
    for index, layer in jac["layers"].items():
        for name, g in layer.items():
            g = g.reshape(10, -1)
            if index == 0 or name == "b":
                frozen += g @ g.T
            else:
                learning += g @ g.T
    return frozen, learning


def distance(k1, k2):
    k1, k2 = (k / np.trace(k) for k in (k1, k2))
    return np.linalg.norm(k1 - k2) / np.linalg.norm(k2)


share, to_A, to_ntk = (np.zeros((SEEDS, len(KERNEL_WIDTHS))) for _ in range(3))
theta = np.asarray(limit_kernel(64, ntk.NTK))
for j, n in enumerate(KERNEL_WIDTHS):
    apply_fn, params = ensemble(n, ntk.STANDARD)
    of_one = functools.partial(kernels, apply_fn)
    frozen, learning = jax.jit(functools.partial(jax.lax.map, of_one))(params)
    for s in range(SEEDS):
        share[s, j] = np.trace(frozen[s]) / np.trace(frozen[s] + learning[s])
        to_A[s, j] = distance(frozen[s] + learning[s], A)
        to_ntk[s, j] = distance(frozen[s] + learning[s], theta)

# %% alt="Two panels over the width on logarithmic axes. Left: the share of first layer and biases in the trace of the standard network's kernel falls along the predicted curve towards 1/n. Right: the distance of that kernel to A falls like one over root n, while its distance to the NTK levels off near a dashed line."
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1))
widths = np.array(KERNEL_WIDTHS)
share_in_theory = np.trace(B) / (widths * np.trace(A) + np.trace(B))
plotting.theory_and_measurement(
    left,
    widths,
    share_in_theory,
    share,
    label="first layer and biases",
)
left.set(yscale="log", ylabel="share of the trace")
left.legend(loc="lower left")
width_axis(left, widths)
plotting.rate(right, widths, to_A, label="to A", theory=-0.5)
mean, error = plotting.mean_and_error(to_ntk)
orange = plotting.COLOURS[1]
right.errorbar(
    widths,
    mean,
    yerr=error,
    fmt="s",
    capsize=2,
    color=orange,
    label="to the NTK",
)
limit = distance(A, theta)
right.axhline(limit, color=orange, linestyle="--", label="predicted limit")
right.set(ylabel="relative distance of the shapes")
width_axis(right, widths)
_ = right.legend()

# %%
print(f"distance of A to the NTK in shape: {distance(A, theta):.3f}")
print(f"at the width {widths[-1]}: to A {to_A[:, -1].mean():.3f}, ", end="")
print(f"to the NTK {to_ntk[:, -1].mean():.3f}")
assert (abs(share.mean(axis=0) / share_in_theory - 1) < 0.15).all()
assert to_A[:, -1].mean() < 0.6 * distance(A, theta) < to_ntk[:, -1].mean()

# %% [markdown]
# Both are kernel limits, and both train; they are limits of two different algorithms. "The NTK limit of the standard
# parameterization" therefore means: rates per tensor, $\eta\sigma_w^2/\text{fan-in}$ and $\eta\sigma_b^2$.
# (Sohl-Dickstein et al. 2020 give the standard parameterization a limit with one rate by splitting the width, $n = sN$:
# weights drawn with variance $\sigma_w^2/N$, a factor $1/\sqrt s$ in front, and $s \to \infty$ at fixed $N$. At $s = 1$ it
# is the usual one, and all tensors keep their shares.)
#
# ## How little each weight moves
#
# Back to the NTK parameterization, one rate $\eta$ of order one. There are about $n^2$ hidden weights, and each starts at
# a size of order one. How far does a single one go, and what does it do to the function? Write $h^1, h^2$ for the two
# hidden pre-activations and $\delta^l_j = \partial f/\partial h^l_j$. From
#
# $$ f = \frac{\sigma_w}{\sqrt n} \sum_j W^3_j\, \phi(h^2_j) + \sigma_b b^3, \qquad
#    h^2_j = \frac{\sigma_w}{\sqrt n} \sum_i \phi(h^1_i)\, W^2_{ij} + \sigma_b b^2_j $$
#
# we read off, one factor $1/\sqrt n$ for each multiplier that is passed:
#
# $$ \frac{\partial f}{\partial W^3_j} = \frac{\sigma_w}{\sqrt n} \phi(h^2_j) \sim n^{-1/2}, \qquad
#    \delta^2_j = \frac{\sigma_w}{\sqrt n} W^3_j\, \phi'(h^2_j) \sim n^{-1/2}, \qquad
#    g_{ij} := \frac{\partial f}{\partial W^2_{ij}} = \frac{\sigma_w}{\sqrt n}\, \phi(h^1_i)\, \delta^2_j \sim \frac1n . $$
#
# (And $\delta^1_i$ is $n^{-1/2}$ again: a sum of $n$ terms with random signs, each of size $n^{-1/2} \cdot n^{-1/2}$. So the
# first layer's gradient is like $n^{-1/2}$.) Now four steps:
#
# 1. **Gradient.** $g_{ij} \sim 1/n$.
# 2. **Movement.** A step is $\Delta W_{ij} = -\frac{\eta}{N} \sum_m r_m\, g_{ij}(x_m)$ with the residuals
#    $r_m = f(x_m) - y_m$ of order one: $\Delta W_{ij} \sim 1/n$, and the same after any fixed number of steps. Together
#    $\|\Delta W\|_F \sim 1$, against $\|W\|_F \sim n$.
# 3. **Contribution.** To first order $f(x)$ changes by the sum over all weights of gradient × movement,
#    $c_{ij} = g_{ij}(x)\, \Delta W_{ij} \sim 1/n^2$.
# 4. **Sum.** There are $n^2$ of them. If their signs were those of coins, the sum would be of size
#    $\sqrt{n^2} \cdot n^{-2} = 1/n$ and the function would stand still. It is not, because
#
# $$ \sum_{ij} c_{ij} = -\frac{\eta}{N} \sum_m r_m \sum_{ij} g_{ij}(x)\, g_{ij}(x_m)
#    = -\frac{\eta}{N} \sum_m r_m\, \Theta^{(2)}(x, x_m) \sim 1 , $$
#
# where $\Theta^{(2)}$ is the part of the NTK that comes from these weights.
#
# **What exactly has one sign?** It is often said that "all contributions have the same sign". Look at the terms.
#
# - *One training point, $x = x_m$.* After one step $c_{ij} = -\eta\, r\, g_{ij}^2$: literally all have the sign of $-r$. Later
#   gradients differ from the first by a relative $n^{-1/2}$. A sign changes where $\phi(h^1_i)$ or $\delta^2_j$ was that
#   near to zero: for a share of the units, and so of the weights, that vanishes like $n^{-1/2}$.
# - *Several training points.* $g_{ij}(x)\, g_{ij}(x_m)$ with $x \ne x_m$ may have either sign. Over the weights it has the
#   mean $\Theta^{(2)}(x, x_m)/n^2$ and a spread of the same order. The share of weights that push $f(x)$ where it goes
#   then tends to a number **below 1**. What counts is not this share but the mean: $n^2$ terms whose mean is of order
#   $n^{-2}$ add up to order 1. The share can be computed, see below.
# - *The loss* is what every weight agrees on. In one step, for any number of points, weight $ij$ contributes
#   $\frac{\partial \mathcal L}{\partial W_{ij}} \Delta W_{ij} = -\eta\, (\partial \mathcal L/\partial W_{ij})^2 \le 0$ to the change of
#   the loss: that is what gradient descent means.
#
# **Predictions**: slopes $-1, -1, -2, 0$ for steps 1 to 4 and $-1$ for the sum with signs of coins; input and readout weights
# $-1/2$ for gradient and movement; a share that tends to 1 with one training point.
#
# With ten points the share follows from the limit of chapter 03, without a parameter to fit.
# With a constant kernel all steps together move the weights by $\Delta W_{ij} = \sum_m c_m\, g_{ij}(x_m)$, where the ten numbers $c$ come from gradient descent with $\Theta_\infty$.
# Up to positive factors weight $ij$ then contributes $\phi(u_k)\,\phi'(v_k) \sum_m c_m\, \phi(u_m)\, \phi'(v_m)$ to $f(x_k)$.
# Here $u$ are the values of unit $i$ of the first hidden layer at the ten points, $v$ those of unit $j$ of the second:
# two independent draws from Gaussian processes with the covariances $\Sigma^1$ and $\Sigma^2$.
# Count how often the contribution has the sign of its mean:
# %%
STEPS = 100


def predicted_share(rate, pairs=400_000):
    """Share of hidden weights with the common sign, mean over the ten digits."""
    k, layers = ntk.Kernel.from_inputs(x), []
    for layer in network(64, 0).layers:
        k = layer.kernel_map(k)
        layers.append(k)
    theta, c = np.asarray(k.ntk, float), np.zeros(len(x))
    for _ in range(STEPS):  # gradient descent towards f_0 + y
        c -= rate / len(x) * (theta @ c - np.asarray(y)[:, 0])
    rng = np.random.default_rng(0)
    u, v = (
        rng.multivariate_normal(np.zeros(len(x)), np.asarray(layers[i].nngp, float), pairs)
        for i in (0, 2)  # before each of the two erf layers
    )
    g = np.asarray(jax.lax.erf(u)) * np.exp(-(v**2))  # φ(u) φ'(v), [pairs, N]
    contributions = g * (g @ c)[:, None]
    return float(np.mean(contributions * contributions.mean(axis=0) > 0))


derived_share = predicted_share(rate=0.5)
print(f"predicted share of weights with the common sign, ten digits: {derived_share:.3f}")

# %% [markdown]
# **Measurement.** 100 steps of gradient descent. So that all widths have the same way to go, the targets are set relative to the
# start, $y = f_0 \pm 1$. We use float64: weights of size one that move by $10^{-2}$ to $10^{-4}$ in a hundred steps are a job for more than
# seven digits.

# %%
WEIGHT_WIDTHS = WIDTHS[:5]
ROLES = {"input": 0, "hidden": 2, "readout": 4}


def rms(a):
    return jnp.sqrt(jnp.mean(a**2))


def account_of_weights(apply_fn, x, points, learning_rate, params):
    """Train 100 steps on the first `points` digits: what did each weight contribute?"""
    start = apply_fn(params, x)
    trained_on = (jnp.arange(len(x)) < points) / points  # 1/N for these, else 0

    def loss(f, target):
        return trained_on @ (f - target)[:, 0] ** 2 / 2

    how = {"optimizer": optax.sgd(learning_rate), "loss": loss, "steps": 100, "record_at": [100]}
    trained = ntk.train((apply_fn, params), x, start + y, **how, progress=False).params
    movement = jax.tree.map(jnp.subtract, trained, params)

    def at(one):
        grads = jax.grad(lambda p: apply_fn(p, one[None])[0, 0])(params)
        parts = jax.tree.map(jnp.multiply, grads, movement)
        c = parts["layers"][2]["W"]
        return {
            **{f"gradient {r}": rms(grads["layers"][i]["W"]) for r, i in ROLES.items()},
            "contribution": rms(c),
            "sum": jnp.abs(c.sum()),
            "sum, coin signs": jnp.sqrt(jnp.sum(c**2)),  # rms over all signs
            "share": jnp.mean(c * c.sum() > 0),
            "all tensors": sum(p.sum() for p in jax.tree.leaves(parts)),
        }

    found = jax.lax.map(at, x)
    change = (apply_fn(trained, x) - start)[:, 0]
    found["first-order error"] = jnp.abs(found.pop("all tensors") - change)
    return {k: trained_on @ v for k, v in found.items()} | {
        f"movement {r}": rms(movement["layers"][i]["W"]) for r, i in ROLES.items()
    }


# %%
rows = {1: [], 10: []}  # by the number of training points
with jax.enable_x64(True):
    digits = jnp.asarray(x, jnp.float64)
    for n in WEIGHT_WIDTHS:
        apply_fn, params = ensemble(n, ntk.NTK)
        params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
        of_one = functools.partial(account_of_weights, apply_fn, digits)
        of_all = jax.jit(jax.vmap(of_one, in_axes=(None, None, 0)))
        for points, learning_rate in ((1, 0.1), (10, 0.5)):
            row = jax.device_get(of_all(points, learning_rate, params))
            rows[points].append(row)
accounts = {
    points: {k: np.stack([row[k] for row in of], axis=1) for k in of[0]} for points, of in rows.items()
}  # [seeds, widths] each

# %% [markdown]
# And the slope over the width of each of these sizes:

# %%
slopes = {points: {} for points in accounts}
for points, found in accounts.items():
    for key, samples in found.items():
        if key not in ("share", "first-order error"):
            slopes[points][key] = plotting.fit_slope(WEIGHT_WIDTHS, samples)
print(f"{'slopes over the width':25}one digit      ten digits")
for k in slopes[1]:
    row = "".join(f"{s[k][0]:z8.2f} ± {s[k][1]:.2f}" for s in slopes.values())
    print(f"{k:18}{row}")

# %% alt="Two panels over the width. Left, logarithmic: gradient and movement of a hidden weight fall like 1/n, the contribution of one weight like one over n squared, the sum of all contributions stays flat, and the sum that coin-flip signs would give falls like 1/n; measured points lie on the lines. Right: the share of weights whose contribution has the sign of the sum; with one training digit it is near 1, with ten digits it stays near 0.56 at all widths, on a dashed line of that height and above a dotted one at one half."
wide_left = {"width_ratios": [1.7, 1]}
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4), gridspec_kw=wide_left)
found = accounts[10]
for i, (key, label, theory_slope) in enumerate(
    (
        ("sum", "sum over n² weights", 0),
        ("gradient hidden", "gradient ∂f/∂W", -1),
        ("movement hidden", "movement ΔW", -1),
        ("sum, coin signs", "sum, if signs were coins", -1),
        ("contribution", "gradient × movement", -2),
    )
):
    about = {"label": label, "theory": theory_slope, "series": i}
    plotting.rate(left, WEIGHT_WIDTHS, found[key], **about)
left.set(ylabel="size (per hidden weight, or sum)", ylim=(1e-7, 1e4))
width_axis(left, WEIGHT_WIDTHS)
legend_of_points(left, loc="upper right")
for i, (points, label) in enumerate(((1, "one digit"), (10, "ten digits"))):
    mean, error = plotting.mean_and_error(accounts[points]["share"])
    right.errorbar(
        WEIGHT_WIDTHS,
        mean,
        yerr=error,
        fmt=plotting.MARKERS[i],
        color=plotting.COLOURS[i],
        capsize=2,
        label=f"trained on {label}",
    )
right.axhline(1, color="0.3", linewidth=1, label="theory, one digit, n → ∞")
right.axhline(derived_share, color="0.3", linestyle="--", linewidth=1, label="theory, ten digits")
right.axhline(0.5, color="0.3", linestyle=":", label="coins")
width_axis(right, WEIGHT_WIDTHS)
right.set(
    ylim=(0.45, 1.03),
    ylabel="share of weights with the common sign",
)
_ = right.legend(loc="center right")

# %% [markdown]
# Lines have the predicted slopes, the legend gives the fitted ones (mean and standard error over the networks). Every
# step of the argument is there, and so is the correction: with ten digits 56 or 57 of 100 weights (mean over the digits) push in the direction
# in which $f(x)$ goes and the others against it, at every width, as the two Gaussian processes say.
#
# Two more things to read off. The movement of **readout and input weights** is $n^{-1/2}$, not $1/n$: there are fewer of
# them, and each must do more. And the account is complete: over all tensors, first-order contributions add up to the
# true change of $f$, up to an error that itself falls with $n$. That is the linear regime, which chapter 04 turns into
# predictions.

# %%
for points in (1, 10):
    for key, predicted in (
        ("gradient hidden", -1),
        ("movement hidden", -1),
        ("contribution", -2),
        ("sum", 0),
        ("sum, coin signs", -1),
        ("gradient input", -0.5),
        ("gradient readout", -0.5),
        ("movement input", -0.5),
        ("movement readout", -0.5),
    ):
        value, error = slopes[points][key]
        assert abs(value - predicted) < 0.15, (points, key, value, error)
    assert accounts[points]["first-order error"][:, -1].mean() < 0.03
share_one, share_ten = (accounts[points]["share"][:, -1] for points in (1, 10))
assert (share_one > 0.98).all()
assert abs(share_ten.mean() - derived_share) < 0.02

# %%
for what, (value, error) in (
    ("slope over n of the movement of one hidden weight (ten digits, 100 steps)", slopes[10]["movement hidden"]),
    ("slope over n of the movement of one readout weight (ten digits, 100 steps)", slopes[10]["movement readout"]),
    ("slope over n of the sum of gradient × movement over the hidden weights", slopes[10]["sum"]),
):
    claim("J4", what=what, measured=value, uncertainty=error, seeds=SEEDS)
widest = f"n = {WEIGHT_WIDTHS[-1]}"
for inputs, derived, share in (
    ("one training point", None, share_one),
    ("ten training points", derived_share, share_ten),
):
    mean, error = plotting.mean_and_error(share)
    what = f"share of hidden weights with the common sign, {inputs}, {widest}"
    claim("J4", what=what, derived=derived, measured=mean, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# ## Features that move, features that do not
#
# In the NTK parameterization no single weight does much, and neither does a single hidden unit.
# How far do the features $h^l$ move, in general? Count powers of the width.
# Let layer $l$ have the multiplier $n^{-a_l}$, weights of standard deviation $n^{-b_l}$ and the rate $\eta\, n^{-c_l}$ (an *abc-parameterization*, Yang & Hu 2021, here with a $c$ for each layer).
# Powers of $d$ and $K$ are constants. In this section $r$ stands for an exponent, and residuals are written out as $f - y$.
#
# **First NTK, layer $2$ of $L = 3$.** There $a = 1/2$, $b = 0$, $c = 0$.
# One step on the point $x_m$ moves $W_{ij}$ by $-\eta\, (f - y)(x_m)\, n^{-1/2} \phi_i\, \delta_j$, with $\delta_j = \partial f/\partial h_j \sim n^{-1/2}$.
# The unit $h_j$ gets $n^{-1/2} \sum_i \phi_i\, \Delta W_{ij}$: a sum of $n$ terms, at $x = x_m$ all of one sign.
# Together $n^{-1/2} \cdot n \cdot n^{-1/2} \cdot n^{-1/2} = n^{-1/2}$.
#
# **The same with letters**, by the layer's own weights:
#
# $$ \Delta h^l_j(x) = n^{-a_l} \sum_i \phi_i(x)\, \Delta w_{ij}
#    = -\eta\, n^{-c_l - 2a_l}\; (f - y)(x_m)\; \delta^l_j(x_m) \sum_i \phi_i(x)\, \phi_i(x_m) . $$
#
# - The last sum has $n$ terms with a common mean for a hidden layer: order $n$. For the first layer, whose fan-in is $d$, it is of order 1.
# - $\delta^l_j$ starts at the readout as $n^{-a_L} w^L_j$. The weight $w^L_j$ is $n^{-b_L}$ at the start and moves by $n^{-c_L - a_L}$: the larger one counts.
# - Hidden layers with $a_l + b_l = 1/2$ pass $\delta$ down unchanged in size.
#
# Altogether $\Delta h^l \sim n^{-r_l}$ by the layer's own weights, with
#
# $$ r_l = \min(a_L + b_L,\; 2a_L + c_L) + c_l + 2a_l - \mathbf 1[l > 1], \qquad r = \min_{l < L} r_l . $$
#
# $r = 0$ means that from some layer on features move as much as they can without blowing up (in μP from the first on). With any $r > 0$ they stand still in the limit: a kernel regime, as long as $f$ moves. NTK has $r = 1/2$.
#
# | | readout $(a_L, b_L, c_L)$ | first layer $(a, b, c)$ | hidden $(a, b, c)$ | $r_1$ | $r_2$ | $r$ |
# |---|---|---|---|---|---|---|
# | NTK | $(\tfrac12, 0, 0)$ | $(0, 0, 0)$ | $(\tfrac12, 0, 0)$ | 1/2 | 1/2 | 1/2 |
# | standard, one rate $\eta_0/n$ | $(0, \tfrac12, 1)$ | $(0, 0, 1)$ | $(0, \tfrac12, 1)$ | 3/2 | 1/2 | 1/2 |
# | μP | $(0, 1, 1)$ | $(0, 0, -1)$ | $(0, \tfrac12, 0)$ | 0 | 0 | 0 |
#
# μP gets there with a readout that is smaller at the start ($\delta$ is $1/n$, so nothing explodes) and larger rates below it.
# With a single hidden layer that is the mean-field parameterization.
#
# **Prediction**: the rms change of $h^1$, $h^2$ and $f$ in three steps has the slopes $-r_1$, $-\min(r_1, r_2)$ and 0. This is the
# *coordinate check* by which people test their μP code. With one rate $\eta_0/n$ the slopes of
# $h^2$ and $f$ should be steeper at first and get there only later: at these widths the first layer still contributes its
# share, which dies out like $B/n$ (seen above).

# %%
CHECK_WIDTHS = (128, 512, 2048, 8192)[: 4 if PAPER else 3]


def changes(n, parameterization, one_rate, params):
    """Rms change of h¹, h² and f over the ten digits after three steps, [3]."""
    net = network(n, 0, parameterization)
    layers = list(net.layers)
    parts = [ntk.functional(ntk.Serial(*layers[:depth]))[0] for depth in (1, 3, 5)]

    def read(p):
        """h¹, h² and f; the first layers need the first layers' parameters."""
        return [
            part(p | {"layers": {i: p["layers"][i] for i in range(0, depth, 2)}}, x)
            for part, depth in zip(parts, (1, 3, 5), strict=True)
        ]

    optimizer = optax.sgd(0.3 * W_STD**2 / n) if one_rate else ntk.sgd(net, 0.3)
    before = read(params)
    model = parts[-1], params
    trained = ntk.train(model, x, before[-1] + y, optimizer=optimizer, steps=3, progress=False).params
    pairs = zip(before, read(trained), strict=True)
    return jnp.stack([rms(b - a) for a, b in pairs])


# %%
CASES = {  # name: parameterization, one rate for all?, predicted slopes of h¹, h², f
    "NTK": (ntk.NTK, False, (-0.5, -0.5, 0)),
    "standard, η₀/n": (ntk.STANDARD, True, (-1.5, None, None)),
    "μP": (ntk.MUP, False, (0, 0, 0)),
}
moved = {}
for name, (p, one_rate, _) in CASES.items():
    columns = []
    for n in CHECK_WIDTHS:
        of_one = functools.partial(changes, n, p, one_rate)
        columns.append(jax.jit(jax.vmap(of_one))(ensemble(n, p)[1]))
    moved[name] = np.stack(columns, axis=1)  # [seeds, widths, 3]

# %% alt="Two panels: rms change of the first and of the second hidden layer after three steps, against the width on logarithmic axes, for NTK, standard with one rate, and μP. The NTK points fall with slope minus one half in both, the first layer of the standard network with slope minus three halves, and μP is flat."
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4))
titles = ("first hidden layer h¹", "second hidden layer h²")
for q, (ax, title) in enumerate(zip(axes, titles, strict=True)):
    for i, (name, (_, _, expected)) in enumerate(CASES.items()):
        plotting.rate(
            ax,
            CHECK_WIDTHS,
            moved[name][..., q],
            label=name,
            theory=expected[q],
            series=i,
        )
    low, high = ax.get_ylim()
    width_axis(ax, CHECK_WIDTHS)
    ax.set(title=title, ylim=(low, high * (high / low) ** 0.5))
    legend_of_points(ax, loc="upper right")
axes[0].set_ylabel("rms change in 3 steps")
plt.show()

# %%
for name, (_, _, expected) in CASES.items():
    found = [plotting.fit_slope(CHECK_WIDTHS, moved[name][..., q]) for q in range(3)]
    print(f"{name:15}", "   ".join(f"{s:z5.2f} ± {e:.2f}" for s, e in found))
    for (value, error), predicted in zip(found, expected, strict=True):
        if predicted is not None:
            assert abs(value - predicted) < 0.15, (name, value, error, predicted)
h2 = moved["standard, η₀/n"][..., 1].mean(axis=0)
local = np.diff(np.log(h2)) / np.diff(np.log(CHECK_WIDTHS))
print("standard, η₀/n, slope of h² from width to width:", local.round(2))
assert abs(local[-1] + 0.5) < 0.15 < abs(local[0] + 0.5)

# %% [markdown]
# ## What to take away
#
# - NTK with the rate $\eta$ is standard with $\eta\sigma_w^2/\text{fan-in}$ for weights and $\eta\sigma_b^2$ for
#   biases, exactly, at every width. The multiplier enters twice: through the gradient and through the movement.
# - The largest stable single rate of a standard network falls like $1/n$. With a rate like $1/\sqrt n$ training diverges once $n$ is large.
# - One rate $\eta_0/n$ freezes first layer and biases. It has a kernel limit, but another one than the NTK.
# - A hidden weight moves by $1/n$ and contributes $1/n^2$. The function moves because $n^2$ contributions have a common
#   *mean*; one common *sign* they have in one step only: at a single training point, or in the loss.
# - In the NTK parameterization features move by $n^{-1/2}$, in μP by order one, and a few exponents tell which.
#
# ## Where it breaks
#
# - $n \gg d$ was needed. With the full 28×28 images $B$ is about 16 times larger, and the slope of a standard network reaches
#   $-1$ only for $n$ far above 784. Depth comparable to width breaks the counting, too.
# - It is about SGD, with or without momentum. Adam divides the gradient by its size, so the factor that comes *through
#   the gradient* cancels and only the movement's is left: between the two parameterizations an Adam rate is
#   converted by $\sigma_w/\sqrt n$, once. Exercise 02.2 looks at what the rates themselves must be.
# - Weight decay does not convert by itself: it pulls on $W$ or on $w$ (chapter 11).
# - The account of the weights is first order. At small widths, or long after the start with large steps, gradients are no
#   longer those of the start.
#
# ## Exercises
#
# `exercises/02_parameterizations.ipynb`: the account of a network's weights, rates for sign descent, the $1/\sqrt n$
# derivation with its error in it, and the exponent $r$ from the library's records.
#
# ## References
#
# - A. Jacot, F. Gabriel, C. Hongler, *Neural Tangent Kernel: Convergence and Generalization in Neural Networks*, 2018,
#   arXiv:1806.07572.
# - G. Yang, E. J. Hu, *Tensor Programs IV: Feature Learning in Infinite-Width Neural Networks*, 2021,
#   arXiv:2011.14522 (abc-parameterizations, the exponent $r$); G. Yang et al., *Tensor Programs V*, 2022,
#   arXiv:2203.03466 (rates per tensor in μP).
# - J. Sohl-Dickstein et al., *On the infinite width limit of neural networks with a standard parameterization*,
#   2020, arXiv:2001.07301.
# - S. Mei, A. Montanari, P.-M. Nguyen, *A mean field view of the landscape of two-layer neural networks*, 2018,
#   arXiv:1804.06561.
