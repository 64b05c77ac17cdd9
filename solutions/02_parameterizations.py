# %% [markdown]
# # Exercises 02: parameterizations
#
# They go with the chapter `notebooks/02_parameterizations.ipynb`. Each stands by itself. `check(...)` under a task says
# whether the answer is right and, if not, what the slip may be; `hint("02.1")` helps on, in three levels.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import ntklib as ntk
from course import check, hint
from ntklib import plotting
from ntklib.parameterization import Exponents

plotting.use_style()

data = ntk.load("mnist5k", n_train=10, n_test=1)
small = data.x_train.reshape(10, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(10, 49)
x = jnp.asarray(small / np.sqrt(np.mean(small**2)))  # ten digits of 7×7 pixels
y = jnp.where(jnp.asarray(data.y_train) % 2 == 0, 1.0, -1.0)[:, None]
W_STD, B_STD = 1.5, 0.1


def network(n, key, parameterization=ntk.NTK):
    """The chapter's network, 49 → n → n → 1."""
    return ntk.mlp(
        [49, n, n, 1],
        activation=ntk.Erf(),
        w_std=W_STD,
        b_std=B_STD,
        parameterization=parameterization,
        rngs=nnx.Rngs(key),
    )


# %% [markdown]
# ## 02.1 `contributions`
#
# 15 minutes · difficulty 2 of 5 · rests on “How little each weight moves”
#
# Write the account of one weight matrix: what did each weight contribute, to first order, to the change of each output
# when training moved $W$ from `W_start` to `W_end`?
#
# $$ c_{m,ij} = \frac{\partial f(x_m)}{\partial W_{ij}}\bigg|_{\text{start}} \; \Delta W_{ij} $$
#
# Return three arrays: $c$ [N, n, k]; its sum over the weights, [N]; and for each output the share of the weights whose
# contribution has the sign of that sum, [N].


# %% task="02.1"
def contributions(f, W_start, W_end):
    """(c [N, n, k], total [N], share [N]) for a function f of one weight matrix [n, k], with f(W) -> outputs [N]."""
    ### BEGIN SOLUTION
    gradient = jax.jacobian(f)(W_start)
    c = gradient * (W_end - W_start)
    total = c.sum(axis=(1, 2))
    share = jnp.mean(c * total[:, None, None] > 0, axis=(1, 2))
    return c, total, share
    ### END SOLUTION


# %% check="02.1" points=2
check("02.1", contributions)

# %% [markdown]
# ## 02.2 Rates for sign descent: predict, then measure
#
# 15 minutes · difficulty 3 of 5 · rests on “How little each weight moves”
#
# Sign descent, $\Delta W = -\eta\,\mathrm{sign}(\partial L/\partial W)$, is what Adam does in its first step, up to its
# $\epsilon$: every weight with a gradient moves by $\eta$. Take **one** training point and the NTK parameterization. With which rate
# $\eta = \eta_0\, n^{p}$ do the weights of the first layer (fan-in $d$), of a hidden layer, and of the readout each
# change $f$ by order one? Redo steps 1 to 4 of the chapter's argument for each of the three, and write down the
# exponents $p$ before you run the measurement.

# %% task="02.2"
# (first layer, hidden layer, readout), for instance (0, 0.5, 1)
exponents = ...
### BEGIN SOLUTION
exponents = (-0.5, -1, -0.5)
### END SOLUTION

# %% check="02.2" points=2
check("02.2", exponents)

# %% [markdown]
# The measurement: one step of sign descent on one digit with the *same* small rate at all widths, for one weight matrix at a
# time. If the change of $f$ grows like $n^s$, the rate that undoes this is $n^{-s}$. The figure below is what you should
# see.

# %% alt="The change of f after one sign-descent step against the width, on logarithmic axes, for the three weight matrices. First layer and readout grow with slope about one half, the hidden layer with slope about one."
WIDTHS = (64, 128, 256, 512)


def change_by_sign_descent(n, key):
    """|Δf| on one digit when one weight matrix takes a sign-descent step of 1e-4, [3]."""
    net = network(n, key)
    apply_fn, params = ntk.functional(net)
    f = lambda p: apply_fn(p, x[:1])[0, 0]  # noqa: E731
    grads = jax.grad(f)(params)
    found = []
    for i in (0, 2, 4):
        layer = params["layers"][i]
        step = 1e-4 * jnp.sign(grads["layers"][i]["W"])
        moved = params["layers"] | {i: layer | {"W": layer["W"] + step}}
        found.append(jnp.abs(f(params | {"layers": moved}) - f(params)))
    return jnp.stack(found)


keys = jax.random.split(jax.random.key(0), 4)
change = np.stack(
    [jax.jit(jax.vmap(functools.partial(change_by_sign_descent, n)))(keys) for n in WIDTHS],
    axis=1,
)  # [seeds, widths, 3]
fig, ax = plt.subplots()
for i, name in enumerate(("first layer", "hidden layer", "readout")):
    plotting.rate(ax, WIDTHS, change[..., i], label=name, series=i)
ax.set(xlabel="width n", ylabel="change of f, sign step of 1e-4")
ax.set_xticks(WIDTHS, [str(n) for n in WIDTHS])
_ = ax.set_xticks([], minor=True)

# %% [markdown]
# ## 02.3 Spot the error
#
# 20 minutes · difficulty 3 of 5 · rests on “Which learning rate corresponds”
#
# This derivation goes around:
#
# 1. In the NTK parameterization a layer computes $\frac{\sigma_w}{\sqrt n} \phi W$, in the standard one $\phi w$. They are the
#    same function when $w = \frac{\sigma_w}{\sqrt n} W$.
# 2. By the chain rule $\frac{\partial L}{\partial W} = \frac{\sigma_w}{\sqrt n} \frac{\partial L}{\partial w}$.
# 3. So a step of gradient descent in the NTK parameterization is
#    $\Delta W = -\eta\, \frac{\sigma_w}{\sqrt n} \frac{\partial L}{\partial w}$.
# 4. It is the same network, so the standard weight takes this step as well:
#    $\Delta w = -\eta\, \frac{\sigma_w}{\sqrt n} \frac{\partial L}{\partial w}$.
# 5. Comparing with $\Delta w = -\eta_{\text{std}} \frac{\partial L}{\partial w}$: the learning rate of the standard parameterization is
#    $\eta_{\text{std}} = \eta\, \sigma_w/\sqrt n$, that is $O(1/\sqrt n)$.
#
# Somebody has turned it into code, with the same reasoning for biases:

# %%


def flawed_step(w, b, grad_w, grad_b, *, learning_rate, w_std, b_std):
    """One step on the standard parameters of one layer, w [fan-in, fan-out] and b [fan-out]."""
    fan_in = w.shape[0]
    w = w - learning_rate * w_std / fan_in**0.5 * grad_w
    b = b - learning_rate * b_std * grad_b
    return w, b


def train_standard(step, n, learning_rate=0.3, steps=20):
    """Losses before each step of a standard network whose layers are updated by `step`."""
    apply_fn, params = ntk.functional(network(n, 0, ntk.STANDARD))

    def loss(p):
        return jnp.mean((apply_fn(p, x) - y) ** 2) / 2

    def one(p, _):
        value, g = jax.value_and_grad(loss)(p)
        new = {}
        for i, layer in p["layers"].items():
            of = g["layers"][i]
            rates = {"learning_rate": learning_rate, "w_std": W_STD, "b_std": B_STD}
            w, b = step(layer["W"], layer["b"], of["W"], of["b"], **rates)
            new[i] = {"W": w, "b": b}
        return {"layers": new}, value

    return jax.jit(lambda p: jax.lax.scan(one, p, length=steps)[1])(params)


for n in (64, 1024):
    values = train_standard(flawed_step, n)
    trains = values[-1] < values[0]  # False for nan
    print(f"flawed step, n = {n}: it", "trains" if trains else "diverges")

# %% [markdown]
# In which line, 1 to 5, is the first error? And write the step as it should be, so that a standard network trained
# with it does exactly what the NTK network does with `learning_rate`; `b_std` may be 0. (At the width 64 nobody notices: that is how such
# errors survive. Do try `train_standard(standard_step, 1024)`.)

# %% task="02.3"
# The number of the line: 1, 2, 3, 4 or 5.
wrong_line = ...
### BEGIN SOLUTION
wrong_line = 4
### END SOLUTION


def standard_step(w, b, grad_w, grad_b, *, learning_rate, w_std, b_std):
    """One step on w [fan-in, fan-out] and b [fan-out] that equals a step of `learning_rate` under NTK; (w, b)."""
    ### BEGIN SOLUTION
    fan_in = w.shape[0]
    w = w - learning_rate * w_std**2 / fan_in * grad_w
    b = b - learning_rate * b_std**2 * grad_b
    return w, b
    ### END SOLUTION


# %% check="02.3" points=3
check("02.3", (wrong_line, standard_step))

# %% [markdown]
# ## 02.4 `feature_exponent`
#
# 25 minutes · difficulty 4 of 5 · rests on “Features that move, features that do not”
#
# Compute the chapter's exponent for any record of ntklib whose hidden layers have $a + b = \tfrac12$,
#
# $$ r = \min(a_L + b_L,\; 2a_L + c_L) + \min_{l<L}\big(c_l + 2a_l - \mathbf 1[l > 1]\big), $$
#
# for a network with a first layer, at least one hidden layer, and a readout (biases left aside). A
# `ntk.Parameterization` has `.input`, `.hidden` and `.output`, each an `Exponents` record: the multiplier is
# fan_in^-`multiplier`, the std of the draw fan_in^-`init`, the rate η · fan_in^-`rate` · fan_out^-`rate_out`. What are
# $a$, $b$, $c$, which count powers of the *width* $n$ only? (The first layer has the fan-in $d$, the readout the
# fan-out $K$: constants.)


# %% task="02.4"
def feature_exponent(parameterization):
    """r such that hidden features move like n^-r: 0.5 for ntk.NTK, 0 for ntk.MUP."""
    ### BEGIN SOLUTION
    first, hidden, last = (
        parameterization.input,
        parameterization.hidden,
        parameterization.output,
    )
    delta = min(last.multiplier + last.init, 2 * last.multiplier + last.rate)
    first_layer = first.rate_out  # its fan-in is d: a = 0, and c from the fan-out
    hidden_layer = hidden.rate + hidden.rate_out + 2 * hidden.multiplier - 1
    return delta + min(first_layer, hidden_layer)
    ### END SOLUTION


# %% check="02.4" points=3
check("02.4", feature_exponent)

# %% [markdown]
# ## 02.5 Forty-four against
#
# 10 minutes · difficulty 2 of 5 · rests on “How little each weight moves”
#
# A colleague has seen the chapter's right panel: "With ten digits 44 of 100 hidden weights push $f(x)$ the wrong way. So the
# contributions do not have one sign, the argument is broken, and $f$ should move by $1/n$ only." What is right in this and what
# is wrong? And of which quantity can one say, for any number of training points, that in one step every single
# weight pushes it the same way?

# %% written="02.5" points=2
answer = r"""
### BEGIN SOLUTION
Right: with several training points the contributions to $f(x)$ have both signs,
since $g_{ij}(x)\,g_{ij}(x_m)$ may be negative when $x \ne x_m$. Wrong: the
conclusion. A sum of $n^2$ terms of size $1/n^2$ is of order $1/n$ if their signs are
those of coins. Here their mean is $-\frac{\eta}{N n^2}\sum_m r_m \Theta^{(2)}(x, x_m)$,
of the same order $1/n^2$ as each term, whatever $n$ is. So the sum is of order one. (It
fluctuates by $n^{-1/2}$ and not by $1/n$: terms of one row or column share a factor.) In one step
every weight lowers the *loss* (to first order), by
$\eta\,(\partial L/\partial W_{ij})^2$, for any number of points.
### END SOLUTION
"""
check("02.5", answer)

# %% [markdown]
# ## 02.6 Go further: between the kernel and features
#
# 40 minutes · difficulty 4 of 5 · rests on “Features that move, features that do not”
#
# An open task. NTK has $r = 1/2$, μP has $r = 0$. Choose exponents of your own with $r = 1/4$ for which $f$ still moves by
# order one, build the record with `ntk.Parameterization` and `Exponents`, predict, and run the coordinate check below. Then,
# if you like, train longer: does such a network find a lower test error than either? Report what you chose, what you
# predicted, what came out.

# %%


def coordinate_check(parameterization, widths=(64, 256, 1024), seeds=4, steps=3):
    """Slopes over the width of the rms change of h² and f, each (slope, standard error)."""

    def changes(n, key):
        net = network(n, key, parameterization)
        apply_fn, params = ntk.functional(net)
        hidden, _ = ntk.functional(ntk.Serial(*list(net.layers)[:3]))

        def read(p):
            first = {i: p["layers"][i] for i in (0, 2)}
            return hidden({"layers": first}, x), apply_fn(p, x)

        before = read(params)
        trained = ntk.train(
            (apply_fn, params),
            x,
            before[1] + y,
            optimizer=ntk.sgd(net, 0.3),
            steps=steps,
            progress=False,
        ).params
        pairs = zip(before, read(trained), strict=True)
        return jnp.stack([jnp.sqrt(jnp.mean((b - a) ** 2)) for a, b in pairs])

    keys = jax.random.split(jax.random.key(1), seeds)
    found = np.stack([jax.jit(jax.vmap(functools.partial(changes, n)))(keys) for n in widths], 1)
    return [plotting.fit_slope(widths, found[..., q]) for q in range(2)]


like_ntk = ntk.Parameterization(
    "LIKE_NTK",
    input=Exponents(multiplier=0.5, init=0.0),
    hidden=Exponents(multiplier=0.5, init=0.0),
    output=Exponents(multiplier=0.5, init=0.0),
    std="multiplier",
)
for name, (slope, error) in zip(("h²", "f "), coordinate_check(like_ntk), strict=True):
    print(f"{name} moves with the slope {slope:z.2f} ± {error:.2f}")

# %% written="02.6" points=1
answer = r"""
### BEGIN SOLUTION
Start from NTK, make the readout smaller by $n^{-1/4}$ and all rates larger by
$n^{1/2}$: readout $(a, b, c) = (3/4, 0, -1/2)$, hidden $(1/2, 0, -1/2)$, first
layer $(0, 0, -1/2)$. Then $r = \min(3/4, 1) + (-1/2) = 1/4$ for both layers, and
$f$ moves through the readout by $n \cdot n^{-2 \cdot 3/4} \cdot n^{1/2} = 1$.
As a record: `input=Exponents(0.5, 0.0, rate_out=-0.5, bias_rate_out=-0.5)`,
`hidden=Exponents(0.5, 0.0, rate=-0.5, bias_rate_out=-0.5)`,
`output=Exponents(0.75, 0.0, rate=-0.5)`. The coordinate check gives
$-0.24 \pm 0.02$ for $h^2$ and $-0.01 \pm 0.03$ for $f$.
It is the NTK with its output scaled by $\alpha = n^{-1/4}$ and the rate by
$\alpha^{-2}$; chapter 05 calls that less lazy.
### END SOLUTION
"""
check("02.6", answer)
