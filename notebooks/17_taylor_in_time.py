# %% [markdown]
# # 17 Taylor expansion in time: when is a network linear enough?
#
# After this chapter you can
#
# - replace a network by its Taylor polynomial at any time of its training, and train on from there;
# - measure what nonlinear training has over linear training, with a fair choice of rates and stopping times;
# - say which part of a late success is due to the kernel that was learned, and which to the function that was learned;
# - translate a learning rate from the standard into the NTK parameterization, and say why wide networks show less of all this.
#
# 60 minutes to read and run, 85 for the exercises without the open one. You need chapters 03 (what the width does to the kernel) and 04 (training in function space).
#
# ## The question
#
# At infinite width a network in the NTK parameterization keeps the kernel that it was born with.
# A real network does not. Fort et al. (2020) ask *when* it changes.
# They train a network for a time $\tilde t$, the **onset**. There they replace it by its linearization, and train this on.
# The kernel of the linearized network never changes, so it learns with the kernel of the time $\tilde t$.
# If it ends as well as the network, then no change of the kernel after $\tilde t$ was needed.
#
# Two claims of the paper are tested here.
#
# - **T1**: expanded very early, a linearized network trains poorly; expanded slightly later it trains very well.
#   The abstract gives numbers: after 3 to 4 epochs the error is a third of that at the start, and from 15 to 45 % of the training on it matches full training.
# - **T2**: the **nonlinear advantage**, the error of the linearized network minus the error of the network trained on, exists only very early and vanishes quickly.
#
# Their networks are ResNets on CIFAR-10 and CIFAR-100. Ours are small enough for a laptop: 2,538 parameters, 1,000 digits of 14×14 pixels, 20 epochs.
# What happens to the kernel itself on the way, and whether two copies of the network go the same way, is the subject of chapter 18.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import ntklib as ntk
from course import claim, reseed, sized
from ntklib import plotting

plotting.use_style()

# %% [markdown]
# ## Linear from now on
#
# Let $\theta_{\tilde t}$ be the parameters at the onset, and $J_{\tilde t}(x) = \partial f(\theta_{\tilde t}, x)/\partial\theta$. The linearized network is
#
# $$ f_{\text{lin}}(\theta, x) = f(\theta_{\tilde t}, x) + J_{\tilde t}(x)\,(\theta - \theta_{\tilde t}) . $$
#
# For $\tilde t = 0$ it is that of chapter 04. Three things follow at once.
#
# **Its kernel stands still.** The derivative by $\theta$ is $J_{\tilde t}(x)$ for every $\theta$, so the tangent kernel is $\Theta_{\tilde t} = J_{\tilde t} J_{\tilde t}^\top$ for ever.
# The columns of $J_{\tilde t}$ are features that the network has learned until $\tilde t$. From there on only their weights are learned.
#
# **Its loss is convex.** The cross-entropy is convex in the outputs, and the outputs are affine in $\theta$.
# So there are no bad minima.
# What it can reach is a property of $\Theta_{\tilde t}$ and of the function at the onset alone.
#
# **It is a small linear model.** With $P$ parameters the outputs on $N$ images and $K$ classes move in a space of at most $P$ dimensions.
# Here $P = 2{,}538$ and $NK = 10{,}000$. So it cannot have all outputs, and $\tilde t$ decides which it can have.
#
# What is left out is the rest of the Taylor series,
#
# $$ f(\theta, x) - f_{\text{lin}}(\theta, x) = \tfrac12\, D^2\! f(\theta_{\tilde t}, x)[\Delta, \Delta] + \dots, \qquad \Delta = \theta - \theta_{\tilde t} . $$
#
# It is small if the network is nearly linear, or if it no longer travels. The second is a trivial reason.
# When the loss is small the gradients are small, nothing moves, and *any* two methods agree.
# A vanishing advantage therefore proves little by itself. We need two controls:
#
# 1. the error at the onset, without any further training: how much was there left to win?
# 2. the kernel $\Theta_{\tilde t}$ without the function: kernel regression from zero outputs, which forgets all that $f(\theta_{\tilde t})$ knows.
#
# `ntk.linearize(model)` makes the linearized network, and `ntk.taylor(model, order)` the polynomial of any order.
# `ntk.nonlinear_advantage` does the whole comparison for one network. We write it out, so that all networks share two compiled programs.

# %%
SEEDS = sized(5, long=12)
N, HELD, M = 1000, 500, 2000  # images to learn from, to choose by, to test on
BATCH, RATE, EPOCHS = 32, 0.03, 20
ONSETS = (0, 0.25, 1, 3, 9, 20)  # epochs
RATES, MORE = (0.01, 0.03), 6  # of the trainings from the onsets on, for 6 epochs


def convnet(seed, channels=8, side=4, activation=ntk.Relu, parameterization=ntk.STANDARD):
    """Three convolutions and a readout; `side` is the size of the last images."""
    n, rngs = channels, nnx.Rngs(reseed(seed))
    how = {"w_std": 2**0.5, "parameterization": parameterization, "rngs": rngs}
    return ntk.Serial(
        ntk.Conv(1, n, 3, strides=2, role="input", **how),
        activation(),
        ntk.Conv(n, n, 3, strides=2, role="hidden", **how),
        activation(),
        ntk.Conv(n, n, 3, role="hidden", **how),
        activation(),
        ntk.Flatten(),
        ntk.Dense(side**2 * n, 10, role="output", **how),
    )


# %%
def digits(seed, pool=2):
    """Images and labels to learn from, to choose by, and to test on."""
    data = ntk.load("mnist5k", n_train=N + HELD + 1000, n_test=M - 1000, seed=reseed(seed), pool=pool)
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    parts = np.split(np.arange(len(x)), [N, N + HELD])
    return [(jnp.asarray(x[part]), jnp.asarray(y[part])) for part in parts]


def steps_of(epochs):
    return round(epochs * N / BATCH)


# %%
apply_fn, start = ntk.functional(convnet(0))
count = sum(leaf.size for leaf in jax.tree.leaves(start))
print(f"{count:,} parameters, {N * 10:,} outputs on the training images")
print(f"{N / BATCH:.1f} steps an epoch; onsets after {[steps_of(t) for t in ONSETS]} steps")

# %% [markdown]
# ## The experiment
#
# **The first training.** Eight channels, He initialization in the standard parameterization, SGD with momentum 0.9, batches of 32 and the constant rate 0.03, on the cross-entropy of the logits.
# The constant rate matters. With a rate that decays to zero, everything stops at the end for a trivial reason.
# The rate is nearly as large as the network bears: five trainings with 0.05, made beforehand, ended with errors between 0.15 and 0.28.
#
# **From each onset on** two networks are trained for 6 more epochs with the same batches, and with fresh momentum:
# the linearized network, and the network itself.
# Both with the rates 0.01 and 0.03, and stopped after 2, 4 or 6 epochs.
# Of these six errors we take the one that belongs to the smallest error on 500 held-out images, for each of the two methods by itself.
# (In the paper, as far as we know its protocol, the stopping time was chosen on test images, which flatters both.)
# The errors of all networks below are shares of wrong labels on 2,000 test images. A seed draws the network, the images and the batches.
#
# **Full training** is the network at 20 epochs, trained on in the same way. So 3 epochs are 15 % of the training, and 9 epochs are 45 %.
#
# **Prediction.** There is no theory for the numbers. The source predicts: a linearized error that falls to a third from 0 to 3 epochs, equality with full training from 3 to 9 epochs on,
# a positive advantage at the start and at a quarter of an epoch, and none after 3 and after 9 epochs.
# The factor of three belongs to another network and other data, so that row is shown and not counted.


# %%
@jax.jit
def first_training(params, learn, key):
    """The parameters at the onsets."""
    return ntk.train(
        (apply_fn, params),
        *learn,
        optimizer=optax.sgd(RATE, momentum=0.9),
        steps=steps_of(EPOCHS),
        batch_size=BATCH,
        loss="cross_entropy",
        key=key,
        record=lambda p: p,
        record_at=[steps_of(t) for t in ONSETS],
        progress=False,
    ).records


def wrong(outputs, labels):
    """The share of wrong labels."""
    return jnp.mean(outputs.argmax(1) != labels)


# %%
@functools.partial(jax.jit, static_argnames=("order", "rates", "epochs"))
def trained_on(apply_fn, start, data, key, order=None, rates=RATES, epochs=MORE):
    """Held-out and test error for each rate at its best time, of the network or of its Taylor polynomial."""
    learn, (x_held, y_held), (x_test, y_test) = data
    model = apply_fn if order is None else ntk.taylor((apply_fn, start), order)

    def run(rate):
        held, params = ntk.train(
            (model, start),
            *learn,
            optimizer=optax.sgd(rate, momentum=0.9),
            steps=steps_of(epochs),
            batch_size=BATCH,
            loss="cross_entropy",
            key=key,
            record=lambda p: (wrong(model(p, x_held), y_held), p),
            record_at=[steps_of(epochs * part / 3) for part in (1, 2, 3)],
            progress=False,
        ).records
        best = held.argmin()
        end = jax.tree.map(lambda leaf: leaf[best], params)
        return held[best], wrong(model(end, x_test), y_test)

    return jax.lax.map(run, jnp.array(rates))


def chosen(errors):
    """The test error of the rate with the smallest error on the held-out images."""
    held, test = np.asarray(errors, float)
    return test[held.argmin()]


# %%
networks = []  # the parameters at the onsets, for each seed
found = {name: np.full((SEEDS, len(ONSETS)), np.nan) for name in ("at the onset", "linearized", "network")}
first_order = []  # errors of the linearized networks of onset 0, for each rate
for seed in range(SEEDS):
    data, key = digits(seed), jax.random.key(reseed(seed))
    x_test, y_test = data[2]
    records = first_training(ntk.functional(convnet(seed))[1], data[0], key)
    networks.append([jax.tree.map(lambda leaf, i=i: leaf[i], records) for i in range(len(ONSETS))])
    for i, params in enumerate(networks[seed]):
        found["at the onset"][seed, i] = wrong(apply_fn(params, x_test), y_test)
        for name, order in (("linearized", 1), ("network", None)):
            if name == "network" or ONSETS[i] < EPOCHS:
                errors = trained_on(apply_fn, params, data, jax.random.fold_in(key, 1), order)
                found[name][seed, i] = chosen(errors)
                first_order += [errors] if (i, order) == (0, 1) else []
print("onset, epochs", "".join(f"{t:<16}" for t in ONSETS))
for name, errors in found.items():
    means = (plotting.mean_and_error(column) for column in errors.T if np.isfinite(column).all())
    print(f"{name:13}", "".join(f"{mean:.3f} ± {error:.1g}".ljust(16) for mean, error in means))

# %% alt="Two panels over the onset, at 0, 0.25, 1, 3, 9 and 20 epochs, equally spaced. Left, on a logarithmic axis: the error at the onset falls from 0.89 to 0.11. The linearized network ends at 0.24 from onset 0, at 0.31 from 0.25, and at 0.18, 0.13 and 0.10 from 1, 3 and 9 epochs. The network trained on ends between 0.14 and 0.10 from every onset; a dotted line marks full training at 0.10. Right: the nonlinear advantage is 0.10 at onset 0, 0.17 at 0.25, 0.05 at 1 epoch, 0.01 at 3 and zero at 9 epochs, where it lies within a gray band of plus and minus 0.02."
fig, (ax, right) = plt.subplots(1, 2, figsize=(8.6, 3.7))
places = np.arange(len(ONSETS))
for i, (name, errors) in enumerate(found.items()):
    mean, error = plotting.mean_and_error(errors)
    how = {"color": plotting.COLOURS[i], "linestyle": plotting.DASHES[i], "capsize": 2}
    label = name if name == "at the onset" else f"{name}, 6 more epochs"
    ax.errorbar(places, mean, yerr=error, marker=plotting.MARKERS[i], label=label, **how)
full = found["network"][:, -1]
ax.axhline(full.mean(), color="0.4", linestyle=":", label="full training")
ax.set(yscale="log", ylabel="share of wrong labels, test")
ax.set_yticks([0.1, 0.2, 0.5, 1], ["0.1", "0.2", "0.5", "1"])
ax.set_yticks([], minor=True)
ax.legend(fontsize=8)
advantage = found["linearized"] - found["network"]
mean, error = plotting.mean_and_error(advantage)
right.errorbar(places, mean, yerr=error, marker="o", color=plotting.COLOURS[3], capsize=2)
right.plot(np.tile(places, (SEEDS, 1)).T, advantage.T, ".", color="0.6", markersize=5)
right.axhspan(-0.02, 0.02, color="0.9", zorder=0)
right.axhline(0, color="0.4", linewidth=1)
right.set(ylabel="nonlinear advantage")
for one, last in ((ax, 6), (right, 5)):
    one.set_xticks(places[:last], [f"{t:g}" for t in ONSETS[:last]])
    one.set(xlabel="onset, in epochs (not to scale)")

# %%
linear, three, nine = found["linearized"], ONSETS.index(3), ONSETS.index(9)
share = "of the training, minus that of full training"
for what, values in (
    ("error of the linearized network, onset 0 minus onset 3 epochs", linear[:, 0] - linear[:, three]),
    ("error of the linearized network, onset 0 over onset 3 epochs", linear[:, 0] / linear[:, three]),
    (f"error of the linearized network from 3 epochs on, 15 % {share}", linear[:, three] - full),
    (f"error of the linearized network from 9 epochs on, 45 % {share}", linear[:, nine] - full),
):
    mean, error = plotting.mean_and_error(values)
    claim("T1", what=what, measured=mean, uncertainty=error, seeds=SEEDS)
for i, name in ((0, "0"), (1, "0.25 epochs"), (three, "3 epochs"), (nine, "9 epochs")):
    mean, error = plotting.mean_and_error(advantage[:, i])
    claim("T2", what=f"nonlinear advantage at onset {name}", measured=mean, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# **What came out.** (The numbers are the recorded ones. Some of those printed above differ by about one error: rounding is another one on another processor, and training carries it on.)
#
# - *Linearized networks.* From onset 0 the error ends at $0.243 \pm 0.009$, from 3 epochs at $0.132 \pm 0.004$, from 9 epochs at $0.104 \pm 0.006$.
#   A later expansion trains better. The factor is $1.84 \pm 0.04$ and not 3.
# - *It does not fall steadily.* Expanded after a quarter of an epoch, that is after eight steps, linear training is **worse** than from the random start: $0.307 \pm 0.008$.
#   The network itself loses nothing by these eight steps. They spoil its linearization. The next section finds the same in the kernel.
# - *Matching full training.*
#   From 9 epochs on, 45 % of the training, the linearized network is within the margin of 0.02.
#   From 3 epochs on, 15 %, its error is $0.032 \pm 0.005$ above.
#   With five seeds this is undecided, and it looks like a failure: the kernel still improves after 3 epochs.
#   With other seeds as well, 20 in all, it is $0.031 \pm 0.002$, which is more than the margin.
# - *The advantage.*
#   It is $0.102 \pm 0.011$ at the start, $0.166 \pm 0.008$ at a quarter of an epoch, $0.013 \pm 0.003$ at 3 epochs (just undecided at a margin of 0.02; with 20 seeds it is $0.010 \pm 0.002$, within the margin), and zero within the margin at 9 epochs.
#
# **Is it trivial?** At 9 epochs there is something left to win: both methods go from 0.130 to some 0.105. So the agreement says something.
# But a part of this gain needs no learning of features. The rate falls from 0.03 to 0.01 or stays, and smaller steps settle in any model.
# And our networks are small: with 1,000 images, an epoch is 31 steps; with the 50,000 images of CIFAR-10 and batches of 128 it is 391. Times in epochs do not compare one to one.
#
# ## What the kernel knows
#
# The linearized network starts from $f(\theta_{\tilde t})$, which already labels most test digits at 3 epochs.
# So does it do well because the *kernel* is good, or because the *function* is?
# Kernel regression tells the two apart. It starts from zero and uses nothing but $\Theta_{\tilde t}$:
#
# $$ f(x) = \Theta_{\tilde t}(x, X)\,\big(\Theta_{\tilde t}(X, X) + \varepsilon\big)^{-1} y . $$
#
# For $\Theta_{\tilde t}$ we take the mean over the ten outputs, and for $X$ the first 300 of the 1,000 training digits. The ridge is chosen on 100 held-out digits, the error taken on 400 test digits.
# The kernel has seen the labels of all 1,000 training digits, never those of a test digit.
#
# **Prediction.** If T1 is about kernels, this error must fall from 0 to 3 epochs too. How far, nobody says. The claim is about linearized networks, so the row is not counted.
#
# We also print which share of the trace belongs to the largest eigenvalue of $\Theta_{\tilde t}(X, X)$. A kernel in which one direction has nearly all knows little else.

# %%
RIDGES, FEW = np.logspace(-5, 0, 11), 300


def by_regression(theta, y, y_held, y_test):
    """Test error of the ridge that is best on held-out digits, and the share of the largest eigenvalue."""
    lam, modes = np.linalg.eigh((theta[:FEW] + theta[:FEW].T) / 2)
    target = modes.T @ np.asarray(ntk.one_hot_centered(y, 10), float)
    reach = theta[FEW:] @ modes
    labels = [(reach @ (target / (lam + ridge * lam.mean())[:, None])).argmax(1) for ridge in RIDGES]
    held, test = np.split(np.array(labels), [len(y_held)], axis=1)
    best = (held != np.asarray(y_held)).mean(1).argmin()
    return (test[best] != np.asarray(y_test)).mean(), lam[-1] / lam.sum()


regression, largest = np.zeros((2, SEEDS, len(ONSETS)))
for seed in range(SEEDS):
    (x, y), (x_held, y_held), (x_test, y_test) = digits(seed)
    images = jnp.concatenate([x[:FEW], x_held[:100], x_test[:400]])
    for i, params in enumerate(networks[seed]):
        theta = np.asarray(ntk.empirical_ntk((apply_fn, params), images, x[:FEW]), float)
        regression[seed, i], largest[seed, i] = by_regression(theta, y[:FEW], y_held[:100], y_test[:400])
for name, values in (("error of regression", regression), ("share of the largest eigenvalue", largest)):
    means = (plotting.mean_and_error(column) for column in values.T)
    print(f"{name:32}", "  ".join(f"{mean:.3f} ± {error:.1g}" for mean, error in means))

# %% alt="Two panels over the onset, from 0 to 20 epochs. Left: the error of kernel regression with 300 digits rises from 0.18 at the start to 0.21 at 0.25 epochs and then falls to 0.15, 0.125, 0.11 and 0.11. Right: the share of the largest eigenvalue in the trace of the kernel falls from 0.5 to 0.28, is 0.37 at 1 epoch, and falls to 0.20 at 20 epochs."
fig, (ax, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
for one, values, colour in ((ax, regression, 1), (right, largest, 2)):
    mean, error = plotting.mean_and_error(values)
    how = {"color": plotting.COLOURS[colour], "marker": plotting.MARKERS[colour], "capsize": 2}
    one.errorbar(places, mean, yerr=error, **how)
    one.set_xticks(places, [f"{t:g}" for t in ONSETS])
    one.set(xlabel="onset, in epochs (not to scale)")
ax.set(ylabel="error of kernel regression", ylim=(0, None))
_ = right.set(ylabel="share of the largest eigenvalue", ylim=(0, 1))

# %%
mean, error = plotting.mean_and_error(regression[:, 0] - regression[:, three])
what = "error of regression with the kernel of the start minus that with the kernel of 3 epochs, 300 digits"
claim("T1", what=what, measured=mean, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# The kernel by itself improves: its error falls by $0.056 \pm 0.007$ within three epochs, from 0.181 to 0.125. In the 17 epochs after that it falls to $0.106 \pm 0.008$.
# So the success of later expansions is not only that of the function at the onset. Most of the kernel's gain is made early, as the source says for the linearized networks.
#
# Two cautions. A kernel that has been trained is not a kernel for 300 labels: it has seen 1,000. And within three epochs its error falls by less than a factor of two, as that of the linearized network does.
#
# After a quarter of an epoch the kernel is no better than at the start, and in the mean it is worse ($0.21 \pm 0.01$).
# A simple explanation would be that one direction takes over. It is wrong: the share of the largest eigenvalue *falls*, from 0.50 to 0.28. We have no explanation. Exercise 17.6 goes on from here.
#
# ## One order more
#
# At the start the linearized network does poorly. What does the next term of the series bring?
#
# $$ f_2(\theta, x) = f_{\text{lin}}(\theta, x) + \tfrac12\, D^2\! f(\theta_{\tilde t}, x)[\Delta, \Delta] . $$
#
# Its kernel moves, to first order in $\Delta$, as the kernel of the network does. Its loss is not convex any more.
# For a smooth activation and short ways the orders are easy to tell apart. After a way of length $s$ the outputs of the linearized network are off by $O(s^2)$, those of the second order by $O(s^3)$:
# the gradients differ by one order less, and the way adds one.
# Our network has rectifiers. A polynomial at $\theta_{\tilde t}$ keeps each of them on or off as it was there, so a rectifier that switches on the way adds an error that no higher order takes away.
# And a training from the start is no short way. So nobody can say before whether the second order does better.
# We let both go on from onset 0, with the rate 0.03 and the stopping time from the held-out images.

# %%
orders = np.zeros((2, SEEDS))
for seed in range(SEEDS):
    data, key = digits(seed), jax.random.fold_in(jax.random.key(reseed(seed)), 1)
    second_order = trained_on(apply_fn, networks[seed][0], data, key, 2, RATES[1:])
    orders[:, seed] = first_order[seed][1][1], chosen(second_order)
for name, errors in (("order 1", orders[0]), ("order 2", orders[1]), ("network", found["network"][:, 0])):
    print("onset 0, {}: {:.3f} ± {:.1g}".format(name, *plotting.mean_and_error(errors)))

# %%
mean, error = plotting.mean_and_error(orders[0] - orders[1])
what = "error of the first-order expansion at onset 0 minus that of the second-order one"
claim("T2", what=what, measured=mean, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# The second order ends at $0.191 \pm 0.009$, half-way between the linearization ($0.241 \pm 0.009$ at this one rate) and the network ($0.140 \pm 0.003$, the better of two rates).
# Features that move to first order bring half of what is missing. Nobody predicted the number, so it is shown without a target, and we have not tried a third order.
#
# ## Which parameterization?
#
# A common piece of advice is to look for this effect in the standard parameterization, since the NTK parameterization hides it. Let us see what that can mean.
#
# A layer with fan-in $n$ is $z = xW$ in the standard parameterization and $z = \frac{\sigma_w}{\sqrt n}\, xV$ in the NTK parameterization. So $W = \frac{\sigma_w}{\sqrt n} V$, and by the chain rule
# $\frac{\partial \mathcal L}{\partial V} = \frac{\sigma_w}{\sqrt n} \frac{\partial \mathcal L}{\partial W}$. One step with the rate $\eta$ in $W$ is, in $V$,
#
# $$ \Delta V = \frac{\sqrt n}{\sigma_w}\, \Delta W = -\eta\, \frac{\sqrt n}{\sigma_w}\, \frac{\partial \mathcal L}{\partial W}
#    = -\eta\, \frac{n}{\sigma_w^2}\, \frac{\partial \mathcal L}{\partial V} . $$
#
# **For the weights, the standard parameterization with a plain rate is the NTK parameterization with the rate $\eta\, n/\sigma_w^2$ in each layer.** The functions on the way are the same.
# (Biases are another matter: all start at zero here, and in the NTK parameterization with $\sigma_b = 0$ they stay there.)
# So the parameterization by itself decides nothing. The rates do:

# %%
fan_ins = [layer.W.shape for layer in convnet(0).layers if hasattr(layer, "W")]
for shape in fan_ins:
    n = int(np.prod(shape[:-1]))
    print(f"fan-in {n:3}: the rate {RATE} is {RATE * n / 2:.3g} in the NTK parameterization")

# %% [markdown]
# Now let the width grow.
# With a fixed plain rate the rates of the NTK parameterization grow like $n$ in every layer but the first, while the kernel $\Theta$ in these units tends to a limit.
# Beyond the largest stable rate (chapter 04) training is not stable any more.
# So a wide network has to be trained with $\eta \propto 1/n$. After the first layer this *is* the NTK parameterization with a constant rate.
# (The first layer has the fan-in 9 at every width. Its rate in NTK units then falls like $1/n$, and it stands still in the limit, as the biases do: chapter 02.
# To train it too, its rate is kept. So we take the NTK parameterization, with one rate for all layers.)
# There chapter 03 applies. In a training of a fixed time the kernel of a smooth network drifts by $1/n$ of itself.
# The distance $S$ between two kernels is one minus a cosine, and so quadratic in a small change.
# Let $\Theta_t = \Theta_0 + \frac1n D$, and let $D_\perp$ be the part of $D$ orthogonal to $\Theta_0$.
# Then
#
# $$ S(\Theta_0, \Theta_t) \approx \frac{\lVert D_\perp \rVert^2}{2\, n^2\, \lVert \Theta_0 \rVert^2} \propto n^{-2} . $$
#
# The outputs of network and linearized network obey the same equation with kernels that differ by $1/n$, so they are $O(1/n)$ apart.
#
# **Prediction**: slope $-2$ for the kernel distance, slope $-1$ for the outputs. For GELU, since a kink has other exponents (chapter 03: $n^{-3/4}$ in place of $n^{-1}$).
# $D$ is itself random and does not become sharper with the width, so single networks scatter.
# **Measurement**: twelve networks of 16 and of 64 channels in the NTK parameterization, ten full steps with rate 0.3 on 32 digits of 7×7 pixels, kernels and outputs on 32 other digits.
# Outputs at the start are subtracted (`ntk.center`): they are random, and decide how far a network has to travel.

# %%
WIDTHS, DRAWS = (16, 64), sized(12, long=40)


@jax.jit
def short_training(apply_fn, params, x, y, probe):
    """Kernel distance from the start, and rms distance between the network and its linearization."""
    centered = ntk.center((apply_fn, params))
    linear = ntk.linearize(centered)

    def after(model):
        how = {"optimizer": optax.sgd(0.3), "steps": 10, "loss": "cross_entropy", "progress": False}
        return ntk.train((model, params), x, y, **how).params

    def kernel(params):
        return ntk.empirical_ntk((apply_fn, params), probe, method="jacobian")

    end = after(centered[0])
    apart = centered[0](end, probe) - linear(after(linear), probe)
    return ntk.kernel_distance(kernel(params), kernel(end)), jnp.sqrt(jnp.mean(apart**2))


short = np.zeros((2, DRAWS, len(WIDTHS)))
for draw in range(DRAWS):
    (x, y), (probe, _), _ = digits(draw, pool=4)
    for i, n in enumerate(WIDTHS):
        model = ntk.functional(convnet(draw, n, 2, ntk.Gelu, ntk.NTK))
        short[:, draw, i] = short_training(*model, x[:32], y[:32], probe[:32])
for name, samples in zip(("kernel distance", "rms distance of outputs"), short, strict=True):
    for n, column in zip(WIDTHS, samples.T, strict=True):
        print("{}, {} channels: {:.2g} ± {:.1g}".format(name, n, *plotting.mean_and_error(column)))

# %% [markdown]
# And the advantage itself? **Prediction**: it is smaller with more channels. We have no rate for it: an error is not an output, and the narrow network is far from any limit.
# **Measurement**: rectifiers, 1,000 digits of 7×7 pixels, 4 and 32 channels in the NTK parameterization with the same rate 0.3, onset 0, 4 epochs.
# The stopping time is chosen on the held-out images as before.

# %%
CHANNELS = (4, 32)
errors_at = np.zeros((len(CHANNELS), 2, SEEDS))  # of the linearized network, and of the network
for seed in range(SEEDS):
    data, key = digits(seed, pool=4), jax.random.key(reseed(seed))
    for i, n in enumerate(CHANNELS):
        model = ntk.functional(convnet(seed, n, 2, parameterization=ntk.NTK))
        for j, order in enumerate((1, None)):
            errors_at[i, j, seed] = chosen(trained_on(*model, data, key, order, (0.3,), 4))
for n, pair in zip(CHANNELS, errors_at, strict=True):
    rows = {"linearized": pair[0], "network": pair[1], "advantage": pair[0] - pair[1]}
    for name, errors in rows.items():
        print("{:2} channels, {:10} {:.3f} ± {:.1g}".format(n, name, *plotting.mean_and_error(errors)))

# %% alt="Three panels. Left: kernel distance after a short training for 16 and 64 channels, twelve gray dots each, spread over a factor of ten to twenty; the means fall slightly more steeply than a dashed line of slope minus 2. Middle: distance between the outputs of network and linearization; the means fall along a dashed line of slope minus 1. Right: nonlinear advantage at onset 0 with 4 and with 32 channels, five gray dots each: a mean of 0.14 with widely scattered dots, and one of 0.06."
fig, axes = plt.subplots(1, 3, figsize=(8.6, 3.4))
names = ("kernel distance from the start", "rms distance, network and linearized")
for ax, samples, slope, name in zip(axes, short, (-2, -1), names, strict=False):
    mean, error = plotting.mean_and_error(samples)
    ax.plot(np.tile(WIDTHS, (DRAWS, 1)).T, samples.T, ".", color="0.7", markersize=4)
    ax.errorbar(WIDTHS, mean, yerr=error, fmt="o", color=plotting.COLOURS[0], capsize=3, label="mean")
    line = mean[0] * (np.array(WIDTHS) / WIDTHS[0]) ** slope
    ax.plot(WIDTHS, line, "--", color="0.2", label=f"slope −{-slope}")
    ax.set(xscale="log", yscale="log", xlabel="channels", ylabel=name, xlim=(12, 85))
    ax.set_xticks(WIDTHS, [str(n) for n in WIDTHS])
    ax.set_xticks([], minor=True)
    ax.yaxis.set_minor_formatter("")
    ax.legend()
axes[1].set_yticks([0.003, 0.01, 0.03], ["0.003", "0.01", "0.03"])
faded = errors_at[:, 0] - errors_at[:, 1]
mean, error = plotting.mean_and_error(faded.T)
axes[2].plot([0, 1], faded, ".", color="0.7", markersize=4)
axes[2].errorbar([0, 1], mean, yerr=error, fmt="s", color=plotting.COLOURS[3], capsize=3)
axes[2].axhline(0, color="0.4", linewidth=1)
axes[2].set(xlabel="channels", ylabel="nonlinear advantage, onset 0", xlim=(-0.5, 1.5))
_ = axes[2].set_xticks([0, 1], [str(n) for n in CHANNELS])

# %%
told = "centered GELU networks of 16 and 64 channels"
for what, samples in (
    (f"slope over width of the kernel distance after a short training, {told}", short[0]),
    (f"slope over width of the distance between network and linearized network, {told}", short[1]),
):
    slope, error = plotting.fit_slope(WIDTHS, samples)
    claim("T2", what=what, measured=slope, uncertainty=error, seeds=DRAWS)
mean, error = plotting.mean_and_error(faded[1] - faded[0])
what = "nonlinear advantage at onset 0, 32 channels minus 4 channels, NTK parameterization"
claim("T2", what=what, measured=mean, uncertainty=error, seeds=SEEDS)

# %% [markdown]
# **What came out.** The kernel distance falls by a factor of 22 from 16 to 64 channels, the distance of the outputs by 4.5; $1/n^2$ and $1/n$ say 16 and 4.
# The slopes, fitted to each of the twelve and then averaged, are $-2.1 \pm 0.2$ and $-1.04 \pm 0.11$. That agrees with the prediction, but the networks scatter too much for a verdict at a margin of 0.1.
# With other seeds as well, 48 networks of each width, the second is $-1.01 \pm 0.04$, as predicted.
#
# The advantage is $0.14 \pm 0.04$ with 4 channels and $0.06 \pm 0.01$ with 32. The difference has the predicted sign and is undecided: the five narrow networks scatter from 0.04 to 0.27.
# With other seeds as well, 20 in all, it is $-0.08 \pm 0.02$, as predicted.
# With eight times the channels the linearization still has a third more errors than the network. So 32 channels at this rate are far from the limit.
#
# ## What to take away
#
# | statement | here |
# |---|---|
# | a later expansion trains better (T1) | yes: error 0.243 from the start, 0.132 from 3 epochs |
# | to a third of the error | no: by a factor of 1.84; outside of the source's setting |
# | from 15 % on as good as full training | undecided, 0.03 worse; with 20 seeds: no |
# | from 45 % on as good as full training | yes, within 0.02 |
# | advantage at the start, and at a quarter of an epoch (T2) | yes, 0.10 and 0.17 |
# | no advantage after 3, after 9 epochs | undecided (0.013; with 20 seeds 0.010: yes), yes |
# | the kernel alone improves | yes, by 0.056 in three epochs |
# | second order at the start | half of the gap |
# | slopes $-2$ and $-1$ over the width, smaller advantage with more channels | as predicted, undecided with so few networks; with 20 seeds and more two of the three are met |
#
# - A linearized network learns with the kernel of its onset. So its error says what the kernel of that time is worth, together with the function of that time. Kernel regression takes the two apart.
# - A vanishing advantage proves something only where there is something left to win.
# - The first steps can make the kernel worse before it becomes better.
# - The parameterization by itself hides nothing: with equal rates in NTK units, layer by layer, the weights of the two move alike. What matters is how the rates go with the width.
#
# ## Where it breaks
#
# - One architecture, one data set of 1,000 digits, one rate in the first training. With batch normalization, decaying rates or other data the times will differ.
# - Two rates and three stopping times are few. A linearized network that is given more than six epochs may come closer.
# - The network that is trained on changes its kernel further, also at the smaller rate. So the advantage does not compare two kernels, but one that stands still with one that moves.
# - Errors on 2,000 images do not resolve differences below half a percent.
#
# ## Exercises
#
# `exercises/17_taylor_in_time.ipynb`: linear training without parameters, three ways to halve, what softmax can see,
# the function at the onset put back, an advantage that vanishes for a trivial reason, and the first epoch as the open one.
#
# ## References
#
# - S. Fort, G. K. Dziugaite, M. Paul, S. Kharaghani, D. M. Roy, S. Ganguli, *Deep Learning versus Kernel Learning: an Empirical Study of Loss Landscape Geometry and the
#   Time Evolution of the Neural Tangent Kernel*, 2020, arXiv:2010.15110 (the two claims; we have the abstract and second-hand notes on the protocol).
# - A. Jacot, F. Gabriel, C. Hongler, *Neural Tangent Kernel*, 2018, arXiv:1806.07572.
# - J. Lee, L. Xiao, S. Schoenholz, Y. Bahri, R. Novak, J. Sohl-Dickstein, J. Pennington,
#   *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*, 2019, arXiv:1902.06720 (the linearized network at the start).
