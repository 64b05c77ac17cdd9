# %% [markdown]
# # 13 Precision: how many images until the digits run out
#
# After this chapter you can
#
# - say what rounding to $b$ bits does to a kernel, and why it moves eigenvalues by up to about $2\sigma\sqrt m$;
# - predict from small subsets at how many images a rounded kernel stops being positive, and see it happen;
# - choose a remedy (a ridge, stopping early, more digits where they decide) and say what each one cannot do.
#
# 70 minutes to read and run, 75 for the exercises without the open one. You need chapter 03 (kernels of infinite width)
# and chapter 04 (kernel regression as the end of training).
#
# ## The question
#
# Kernel regression solves $\Theta\, c = y$. On paper $\Theta$ is positive definite. In the computer its entries are rounded.
# Lee et al. 2020 say in their abstract that *floating point precision limits kernel performance beyond a critical dataset size*.
# A number is handed on with it: about $10^4$ images for convolutional kernels with pooling in float32. We have this number at second hand only.
#
# Why is there a critical size at all? Can it be predicted without going there? And what helps?

# %%
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from scipy.linalg import lapack

import ntklib as ntk
from course import claim, reseed, sized
from ntklib import plotting

jax.config.update("jax_enable_x64", True)  # the kernels before rounding; float64 is our "exact"
plotting.use_style()

BITS = (8, 11, 16, 24)
SUBSETS = 10
N_DENSE, N_FLAT, N_POOL = sized(2000, long=4000), sized(1200, long=1400), sized(400, long=1200)
N_TEST = 300

# %% [markdown]
# The kernels are those of small networks on real images. **Dense**: two hidden layers on mnist5k. **Flatten** and **pool**: two
# convolutions on the 8×8 images of digits, read out by a weight for each pixel, or by the mean over all pixels.
# `ntk.gram` computes them in float64, with errors below $10^{-7}$ of the diagonal. For this chapter that is exact.

# %%
mnist = ntk.load("mnist5k", n_train=N_DENSE, n_test=N_TEST, seed=reseed(0))
digits = ntk.load("digits", n_train=N_FLAT, n_test=N_TEST, seed=reseed(0))
RELU = {"activation": ntk.Relu(), "w_std": 2**0.5, "b_std": 0.1, "rngs": nnx.Rngs(0)}
ERF = RELU | {"activation": ntk.Erf(), "w_std": 1.5}
IMAGE = ((8, 8, 1), [8, 8], 10)
KERNELS = {  # network, data, images, kernel
    "dense ReLU NTK": (ntk.mlp([784, 8, 8, 10], **RELU), mnist.flat(), N_DENSE, "ntk"),
    "dense ReLU NNGP": (ntk.mlp([784, 8, 8, 10], **RELU), mnist.flat(), N_DENSE, "nngp"),
    "dense erf NNGP": (ntk.mlp([784, 8, 8, 10], **ERF), mnist.flat(), N_DENSE, "nngp"),
    "flatten ReLU NTK": (ntk.cnn(*IMAGE, **RELU), digits, N_FLAT, "ntk"),
    "flatten ReLU NNGP": (ntk.cnn(*IMAGE, **RELU), digits, N_FLAT, "nngp"),
    "pool ReLU NTK": (ntk.cnn(*IMAGE, readout="pool", **RELU), digits, N_POOL, "ntk"),
    "pool ReLU NNGP": (ntk.cnn(*IMAGE, readout="pool", **RELU), digits, N_POOL, "nngp"),
}


def kernel_of(name):
    """The kernel [N, N] in float64, with a diagonal of mean 1."""
    net, data, n, kind = KERNELS[name]
    k = np.asarray(ntk.gram(net, jnp.asarray(data.x_train[:n], jnp.float64), kernel=kind))
    return k / np.trace(k) * n


exact = {name: kernel_of(name) for name in KERNELS}

# %% [markdown]
# ## What a number of $b$ bits keeps
#
# A floating-point number is $\pm f \cdot 2^e$ with $1 \le f < 2$. Its type says how many bits $f$ has. We count the leading 1,
# which is not stored: $b = 8$ for bfloat16, 11 for float16, 24 for float32, 53 for float64. No type of JAX has 16, but
# `jax.lax.reduce_precision` rounds to any number of bits. We leave the range of $e$ alone, and look at $f$ only.
#
# The numbers of $b$ bits between $2^e$ and $2^{e+1}$ are equally far apart. Rounding moves a number by at most half of that distance.
# Over many different numbers the error is spread evenly over this range. Its standard deviation $\sigma$ is then the
# distance over $\sqrt{12}$: between 0.29 and 0.58 of $2^{-b}$ times the number, depending on $f$.
# A kernel has entries of many sizes. For a whole kernel $\sigma$ is the root mean square of the errors off its diagonal.
#
# Two things to note. The error is *relative*: large entries have large errors. And it is the *same* every time: rounding has no
# randomness in it. It only looks random, because the digits beyond the last bit have nothing to do with those before.


# %%
def rounded(k, bits):
    """The entries of k, rounded to `bits` bits."""
    return np.asarray(jax.lax.reduce_precision(jnp.asarray(k), exponent_bits=11, mantissa_bits=bits - 1))


def noise(k, bits):
    """The standard deviation σ of the rounding errors off the diagonal."""
    off = ~np.eye(len(k), dtype=bool)
    return np.sqrt(np.mean((rounded(k, bits) - k)[off] ** 2))


def orders(name, first=0):
    """Ten random orders of the images, [10, N]."""
    n = len(exact[name])
    return [np.random.default_rng(reseed(first + s)).permutation(n) for s in range(SUBSETS)]


def part(k, chosen):
    return k[np.ix_(chosen, chosen)]


def normal_noise(m, rng):
    """A symmetric matrix of independent standard normal numbers, [m, m]."""
    e = rng.normal(size=(m, m))
    return np.tril(e) + np.tril(e, -1).T


# %% [markdown]
# ## Rounding noise is a random matrix
#
# Write $K$ for the exact kernel of $m$ images, an NTK or an NNGP (in this chapter $K$ is not the number of outputs), and $\tilde K = K + E$ for the rounded one.
# $E$ is symmetric. Take its entries on and above the diagonal to be independent, all of mean 0 and of the same standard deviation $\sigma$.
# How large are its eigenvalues? Their mean square is
#
# $$ \tfrac1m\, \mathrm{tr}\, E^2 = \tfrac1m \sum_{ij} E_{ij}^2 \approx m\, \sigma^2 , $$
#
# so they are of the size $\sigma\sqrt m$. **Wigner's semicircle law** says how they are spread: with density
# $\frac{1}{2\pi m\sigma^2}\sqrt{4m\sigma^2 - \lambda^2}$. The density is zero beyond $\pm 2\sigma\sqrt m$, the **edge**.
# For this density these assumptions are enough, unless a few entries are far larger than all the others.
# If besides the entries are bounded (in units of $\sigma$), as rounding errors of one size are, the largest eigenvalue is at the edge too, up to a relative error that vanishes as $m$ grows.
# No normal distribution is needed. One size for all entries is enough; one mean square for all rows is needed.
#
# **Prediction**: so it is for rounding errors, though nothing is random in them. The largest of $|\lambda(E)|$ is $2\sigma\sqrt m$.

# %%
EDGE_M = 300
edges, errors = {}, {}
for name, bits in (("dense ReLU NTK", 8), ("dense ReLU NTK", 11), ("flatten ReLU NTK", 8)):
    at = []
    for chosen in orders(name, first=300):
        k = part(exact[name], chosen[:EDGE_M])
        e, edge = rounded(k, bits) - k, 2 * noise(k, bits) * len(k) ** 0.5
        signs = np.sign(normal_noise(len(k), np.random.default_rng(chosen[0])))
        values = np.linalg.eigvalsh(e)
        at.append([abs(values).max() / edge, abs(np.linalg.eigvalsh(signs * e)).max() / edge])
        errors[name, bits] = values / (noise(k, bits) * len(k) ** 0.5)
    edges[name, bits] = np.array(at)
for (name, bits), at in edges.items():
    mean, error = plotting.mean_and_error(at)
    with_signs = f"with random signs {mean[1]:.2f} ± {error[1]:.1g}"
    print(f"{name}, {bits:2d} bits: largest |eigenvalue| of E over 2σ√m: {mean[0]:.2f} ± {error[0]:.1g}; {with_signs}")

# %% alt="Histogram of the eigenvalues of the rounding errors of a dense kernel for 8 and 11 bits, in units of sigma times the square root of m. Both roughly follow the semicircle, which ends at plus and minus 2; they are higher in the middle and reach somewhat further out."
fig, ax = plt.subplots(figsize=(6.4, 3.4))
grid = np.linspace(-2, 2, 400)
ax.plot(grid, np.sqrt(4 - grid**2) / (2 * np.pi), color="0.1", label="semicircle law")
for i, bits in enumerate((8, 11)):
    density, bounds = np.histogram(errors["dense ReLU NTK", bits], bins=np.linspace(-2.6, 2.6, 27), density=True)
    centers = (bounds[1:] + bounds[:-1]) / 2
    ax.plot(centers, density, plotting.MARKERS[i], color=plotting.COLOURS[i], label=f"{bits} bits, one subset")
ax.set(xlabel="eigenvalue of E / (σ√m)", ylabel="density", ylim=(0, 0.47))
_ = ax.legend(loc="upper right")

# %% [markdown]
# The prediction is not met: the largest eigenvalue lies a sixth beyond $2\sigma\sqrt m$ for the dense kernel, and a twelfth beyond it for the convolutional one.
# Why? Give each entry of $E$ a random sign. That keeps the sizes and destroys any order among the signs.
# The largest eigenvalue stays where it was, within 0.02. So the signs do look random, and the cause is in the sizes: the errors do not all have one size.
# The images of mnist5k differ in brightness, bright images have large entries in their whole row, and these have large errors.
# A matrix with some rows of larger noise has a higher middle and a wider edge than the semicircle of its mean square.
# Remember this as an error of the theory of some ten to twenty percent.
#
# ## How much noise a kernel can bear
#
# Weyl's inequality says $\lambda_{\min}(K + E) \ge \lambda_{\min}(K) - \lVert E \rVert$, where $\lVert E \rVert$ is the largest $|\lambda(E)|$.
# Put $2\sigma\sqrt m$ for it: a kernel stays positive as long as $\sigma$ is below $\lambda_{\min}/(2\sqrt m)$, where $\lambda_{\min}$ is that of $K$.
# We call this the **safe rule**. For errors of one size it is safe. For our kernels $\lVert E \rVert$ was up to a fifth larger, and to be safe there the rule needs this margin.
# It is exact only if all eigenvalues of $K$ are equal: then $K$ moves the semicircle as a whole.
# In a kernel most eigenvalues are far above the smallest one. To second order the $j$-th of them pushes the smallest one down by $E_{1j}^2/(\lambda_j - \lambda_{\min})$.
# So the large ones hardly push, and the kernel bears more than the rule says.
#
# Here is the sharp version, for $E$ as above and eigenvectors of $K$ that have nothing to do with $E$. Work in the
# eigenbasis of $K$. We take the entries of $E$ off the diagonal to be independent and of size $\sigma$ in this basis as well; for normal noise they nearly are.
# Let $R = (K + E - z)^{-1}$ for a $z$ below all eigenvalues, and $g = \mathrm{tr}\, R$. The formula for one entry of an
# inverse (Schur's complement) says
#
# $$ R_{ii} = \Big[ \lambda_i + E_{ii} - z - \sum_{j,k \ne i} E_{ij} R^{(i)}_{jk} E_{ki} \Big]^{-1} \approx \frac{1}{\lambda_i - z - \sigma^2 g} , $$
#
# where $R^{(i)}$ is the inverse of $K + E - z$ after its row $i$ and its column $i$ have been removed (it is not $R$ with a row removed).
# So $R^{(i)}$ does not depend on the $E_{ij}$.
# If many terms of the sum count, it is near its mean $\sigma^2\, \mathrm{tr}\, R^{(i)} \approx \sigma^2 g$.
# A single $E_{ii}$ is then small beside it and is left out.
# Call $\omega = z + \sigma^2 g$ and sum over $i$:
#
# $$ g = \sum_i \frac{1}{\lambda_i - \omega} , \qquad z(\omega) = \omega - \sigma^2 \sum_i \frac{1}{\lambda_i - \omega} . $$
#
# Let $z$ come up from $-\infty$. Then $\omega$ grows with it, until $z(\omega)$ has its maximum over $\omega < \lambda_{\min}$. There the spectrum of $K + E$ begins.
# $\tilde K$ is positive if this maximum is above zero, that is, if $\omega > \sigma^2 \sum_i 1/(\lambda_i - \omega)$ for some $\omega$ between 0 and $\lambda_{\min}$. So it bears
#
# $$ \sigma_c^2 = \max_{0 < \omega < \lambda_{\min}} \; \frac{\omega}{\sum_i 1/(\lambda_i - \omega)} ,
#    \qquad \frac{\lambda_{\min}}{2\sqrt m} \;\le\; \sigma_c \;\le\; \frac{\lambda_{\min}}{2} . $$
#
# The lower bound is the safe rule: put $\lambda_{\min}$ for every $\lambda_i$. The upper bound keeps one term of the sum.
#
# **A test without any kernel**: three spectra, with normal noise. For each draw the noise that just makes $K + sE$ singular is known exactly, from
# $K + sE = K^{1/2}\, (1 + s\, K^{-1/2} E K^{-1/2})\, K^{1/2}$: it is $s = -1/\lambda_{\min}(K^{-1/2} E K^{-1/2})$.


# %%
def bearable(eigenvalues):
    """σ_c, the noise that a kernel with these positive eigenvalues [m] can bear."""
    omega = eigenvalues.min() * np.linspace(0, 1, 201)[1:-1]
    push = np.sum(1 / (eigenvalues[:, None] - omega), axis=0)
    return np.sqrt(np.max(omega / push))


def safe(eigenvalues):
    """λ_min / (2√m), which is never more."""
    return eigenvalues.min() / (2 * len(eigenvalues) ** 0.5)


trial = {}
rng = np.random.default_rng(reseed(0))
for alpha in (0.0, 1.2, 2.0):
    spectrum = np.arange(1, 301.0) ** -alpha
    root = spectrum**-0.5
    found = [-1 / np.linalg.eigvalsh(root[:, None] * normal_noise(300, rng) * root)[0] for _ in range(6)]
    trial[alpha] = np.array(found) / bearable(spectrum)
    ratio = safe(spectrum) / bearable(spectrum)
    print(
        f"λ_i = i^-{alpha:g}: noise borne, found over σ_c: {trial[alpha].mean():.2f}; safe rule over σ_c: {ratio:.2f}"
    )

# %%
assert all(abs(found - 1).max() < 0.15 for found in trial.values())

# %% [markdown]
# The formula is good to a few percent at 300 images. The safe rule can be off by a factor of two and more.
#
# ## The tails of real kernels
#
# Now the kernels. More images mean a smaller smallest eigenvalue, and more noise in $E$. So $\sigma_c$ falls with $m$, and where it meets the $\sigma$ of $b$ bits
# is the critical size. If $\sigma_c$ follows a power of $m$, it can be extrapolated.
#
# This is the **rule, fixed beforehand**. Compute $\sigma_c$ in float64 for ten random subsets of $m = N/32, N/16, N/8$ and $N/4$ images. Average $\log \sigma_c$ over the subsets, and
# fit a line over $\log m$ to the four points. $\sigma$ is that of the first $N/4$ images, as rounding to $b$ bits makes it. Where the line meets it is $m^*$. Nothing larger than $N/4$ is used.

# %%
LADDER = {name: min(len(k) // 4, 500) // 2 ** np.arange(3, -1, -1) for name, k in exact.items()}
spectra = {  # ascending eigenvalues of each subset, for the four sizes of each kernel
    name: [[np.linalg.eigvalsh(part(k, chosen[:m])) for m in LADDER[name]] for chosen in orders(name, first=100)]
    for name, k in exact.items()
}
borne = {name: np.array([[bearable(v) for v in row] for row in rows]) for name, rows in spectra.items()}  # [10, 4]
sigma = {(name, b): noise(k[: len(k) // 4, : len(k) // 4], b) for name, k in exact.items() for b in BITS}


def fitted(name, subsets=slice(None)):
    """Slope and intercept of log σ_c over log m."""
    return np.polyfit(np.log(LADDER[name]), np.log(borne[name][subsets]).mean(0), 1)


def log_critical(name, bits, subsets=slice(None)):
    slope, start = fitted(name, subsets)
    return (np.log(sigma[name, bits]) - start) / slope


# %% alt="Left: eigenvalues divided by the number of images against their index on logarithmic axes, for dense, flatten and pool ReLU tangent kernels and the dense erf NNGP; straight in the middle, bent down at the end, lowest with pooling. Right: the bearable noise against the number of images, points with error bars on fitted lines; horizontal lines show the rounding noise of the dense ReLU tangent kernel with 8, 11, 16 and 24 bits."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.8, 3.9))
SHOWN = ("dense ReLU NTK", "dense erf NNGP", "flatten ReLU NTK", "pool ReLU NTK")
for i, name in enumerate(SHOWN):
    m, colour = LADDER[name], plotting.COLOURS[i]
    tail = np.array([rows[-1] for rows in spectra[name]])[:, ::-1] / m[-1]
    left.plot(np.arange(1, m[-1] + 1), np.exp(np.log(tail).mean(0)), plotting.DASHES[i], color=colour, label=name)
    mean, error = plotting.mean_and_error(np.log(borne[name]))
    bars = np.exp(mean) * error
    right.errorbar(m, np.exp(mean), yerr=bars, fmt=plotting.MARKERS[i], color=colour, capsize=2, label=name)
    far = np.geomspace(m[0], 4000, 50)
    right.plot(far, np.exp(np.polyval(fitted(name), np.log(far))), plotting.DASHES[i], color=colour)
for bits in BITS:
    height = sigma["dense ReLU NTK", bits]
    right.axhline(height, color="0.5", linewidth=0.8)
    right.text(11, height * 1.15, f"{bits} bits", fontsize=9)
left.set(xscale="log", yscale="log", xlabel="index i", ylabel="λ_i / m, diagonal 1")
right.set(xscale="log", yscale="log", xlabel="images m", ylabel="noise borne, σ_c")
_ = left.legend(loc="lower left")

# %% [markdown]
# The horizontal lines are the $\sigma$ of the dense ReLU NTK. That of the dense erf NNGP is 0.7 times as large, those of the other two kernels are 1.3 (flatten) and 2.6 times (pool) as large.
#
# Two routes to the exponent: if $\lambda_i \approx C\, m\, i^{-\alpha}$, then $\sigma_c$ must fall like $m^{1/2 - \alpha}$. So we fit $\alpha$ in the middle of the spectrum
# of $N/4$ images, between $i = m/10$ and $m/2$, and compare.

# %%
print("                   slope of σ_c   1/2 − α from the middle   critical size at 8, 11, 16 bits")
for name in KERNELS:
    m = LADDER[name][-1]
    middle = np.arange(m // 10, m // 2)
    tail = np.log([rows[-1][::-1][middle - 1] for rows in spectra[name]]).mean(0)
    alpha = -np.polyfit(np.log(middle), tail, 1)[0]
    sizes = "".join(f"{np.exp(log_critical(name, b)):9.2g}" for b in BITS[:3])
    print(f"{name:18} {fitted(name)[0]:10.2f} {0.5 - alpha:18.2f}          {sizes}")

# %% [markdown]
# Over a factor of eight in $m$ the four points lie close to a line: over this range $\sigma_c$ follows a power of $m$, although the tail of the spectrum does not.
# For the NNGP with convolutions both routes agree within about 0.1. For the NTK with convolutions they differ by 0.15 to 0.2.
# For the dense kernels they do not agree at all: the middle of their spectrum falls slowly, and its end bends down. An exponent from the middle would promise far too many images there.
# $\sigma_c$ depends most on the end of the spectrum, and the end decides whether a kernel stays positive. So we extrapolate $\sigma_c$, not $\lambda_i$.
#
# Two things stand out in these predictions.
# The ReLU NNGP bears less than the NTK of the same network.
# The NTK has a second part, which comes from the derivative of the activation.
# It makes the kernel rougher, and its small eigenvalues larger.
# And pooling costs much: it makes all images alike. With 8 bits (bfloat16) the pooled kernels should stop being positive at two and at 15 images. The dense tangent kernel should last for thousands.
#
# ## The critical size, predicted and met
#
# **Prediction**: all pairs of kernel and precision with an $m^*$ of at most $N$. They stand in `claims.toml`, as $\log m^*$, and stood there before the rounded kernel of any larger subset was looked at.
# A factor of two is the margin.
#
# **Measurement**. The critical size is the smallest $m$ at which the rounded kernel has a negative eigenvalue in half of ten random subsets. To find it we need no
# eigenvalues. Take the images of a subset in a fixed order and add them one by one. By Cauchy's interlacing theorem the smallest eigenvalue can only fall. So there is one size at which
# it becomes negative. And Cholesky's method finds this size by itself: its $m$-th pivot is $\det K_m / \det K_{m-1}$, so the first pivot below zero stands where $K_m$ is no longer positive. LAPACK's
# `dpotrf` returns that place. It works in float64, whose own errors are $2^{29}$ times smaller than those of 24 bits.


# %%
def first_failure(k, chosen, guess):
    """The smallest m at which the kernel of the first m chosen images is not positive; N + 1 if there is none."""
    for end in (4 * int(guess), len(chosen)):  # most of them give out early
        info = lapack.dpotrf(part(k, chosen[:end]), lower=1)[1]
        if info > 0:
            return info
    return len(chosen) + 1


ROWS = [  # predicted to give out among our images
    ("dense ReLU NNGP", 8),
    ("flatten ReLU NNGP", 8),
    ("flatten ReLU NNGP", 11),
    ("pool ReLU NTK", 8),
    ("pool ReLU NTK", 11),
    ("pool ReLU NNGP", 8),
    ("pool ReLU NNGP", 11),
    ("pool ReLU NNGP", 16),
]
met = {}  # sizes of the ten subsets for each row
for name, bits in ROWS:
    k, guess = rounded(exact[name], bits), np.exp(log_critical(name, bits))
    met[name, bits] = np.array([first_failure(k, chosen, guess) for chosen in orders(name)])


# %%
def at_half(sizes):
    """The size at which half of the subsets have given out, from [..., 10]."""
    return np.sort(sizes, axis=-1)[..., SUBSETS // 2 - 1]


def log_met(sizes):
    """The logarithm of that size, and its standard error by the bootstrap over the ten subsets."""
    draws = np.random.default_rng(0).integers(SUBSETS, size=(2000, SUBSETS))
    return np.log(at_half(sizes)), np.log(at_half(sizes[draws])).std()


print("                            predicted   safe rule     met")
for name, bits in ROWS:
    safe_log = np.log([[safe(v) for v in row] for row in spectra[name]]).mean(0)
    slope, start = np.polyfit(np.log(LADDER[name]), safe_log, 1)
    by_safe = np.exp((np.log(sigma[name, bits]) - start) / slope)
    value, error = log_met(met[name, bits])
    now = f"{np.exp(log_critical(name, bits)):10.2g} {by_safe:10.2g}"
    print(f"{name:18} {bits:2d} bits {now} {np.exp(value):12.3g} ± {100 * error:.0f} %")

# %% alt="Critical size met against critical size predicted, logarithmic, one point with an error bar for each kernel and precision, different markers for 8, 11 and 16 bits. A line marks equality and a band a factor of two."
fig, ax = plt.subplots(figsize=(5.6, 4.4))
ends = np.array([1.5, 2000.0])
ax.plot(ends, ends, color="0.1", label="as predicted")
ax.fill_between(ends, ends / 2, 2 * ends, color="0.88", label="factor of two")
for i, bits in enumerate(BITS[:3]):
    rows = [row for row in ROWS if row[1] == bits]
    if rows:
        value, error = np.array([log_met(met[row]) for row in rows]).T
        expected = [np.exp(log_critical(*row)) for row in rows]
        style = {"fmt": plotting.MARKERS[i], "color": plotting.COLOURS[i], "capsize": 2}
        ax.errorbar(expected, np.exp(value), yerr=np.exp(value) * error, label=f"{bits} bits", **style)
ax.set(xscale="log", yscale="log", xlabel="critical size predicted from N/4 images", ylabel="critical size met")
_ = ax.legend(loc="upper left")

# %%
name, bits = ROWS[0]  # the pivot is where the eigenvalue changes its sign
chosen, size = orders(name)[0], met[name, bits][0]
k = part(rounded(exact[name], bits), chosen)
assert np.linalg.eigvalsh(k[:size, :size])[0] < 0 < np.linalg.eigvalsh(k[: size - 1, : size - 1])[0]
off = [float(log_met(met[row])[0] - log_critical(*row)) for row in ROWS]
print(f"log of met over predicted: between {min(off):.2f} and {max(off):.2f}")
for name, bits in ROWS:
    value, error = log_met(met[name, bits])
    claim(
        "F8",
        what=f"log of the critical size, {name}, {bits} bits",
        derived=log_critical(name, bits),
        measured=value,
        uncertainty=error,
        seeds=SUBSETS,
    )
mean, error = plotting.mean_and_error(edges["dense ReLU NTK", 8][:, 0])
claim(
    "F8",
    what="largest |eigenvalue| of the rounding errors over 2σ√m, dense ReLU NTK, 8 bits",
    measured=mean,
    uncertainty=error,
    seeds=SUBSETS,
)

# %% [markdown]
# Seven of the eight are met, between 0.9 and 1.45 times the prediction.
# Three of the eight predicted sizes lie beyond the largest subset of the fit, by up to a factor of three, and these are met within 10 %.
# The other predictions lie within the fitted sizes, or below them.
# The safe rule promises two to five times too few images.
#
# One is not met: the pooled NNGP with 8 bits, predicted to give out at two images and giving out at six.
# Two images are no large matrix.
# There is no semicircle of a 2×2 matrix, and the line was fitted at 12 to 100 images.
# The next two, at 15 and 13 images, last some 40 % longer than predicted as well, probably for the same reason.
# The dense kernel also lasts 40 % longer.
# There the errors of an image grow with its brightness, but so does what
# they would have to move: this may be why. We did not test it.
#
# The ten subsets are orders of the same $N$ images, and the larger $m$, the more images they share. The errors do not contain the choice of the $N$ images.
#
# Where $m^*$ is above $N$ nothing was measured.
# That leaves out two pairs below 4,000 images of mnist5k (the dense ReLU NNGP with 11 bits,
# the dense erf NNGP with 8) and the flatten NTK with 8 bits, for which there are not enough images of digits.
#
# ## What breaks
#
# A negative eigenvalue is a sign. The claim is about *performance*. So do the regression, with the kernel as it is: rounded, no ridge, and a solver that does not ask for a positive matrix
# (LU). The rows to the test images are rounded as well.
#
# **Prediction**: far below $m^*$ nothing is lost.
# Above it an eigenvalue $\lambda$ of $K$ below $2\sigma\sqrt m$ becomes some number of that size, of either sign.
# Where it comes close to zero, $1/\lambda$ is huge and the outputs along its eigenvector are noise.
# So the accuracy falls behind. We compare at a quarter and at four times the *predicted* size.

# %%
BROKEN = ("flatten ReLU NNGP", 8)
STEPS = 2.0 ** np.arange(-2, 4)  # m over the predicted critical size


def regression_data(name):
    """Kernel between test and training images (on the scale of `exact`), targets [N, 10], test labels."""
    net, data, n, kind = KERNELS[name]
    x, x_test = (jnp.asarray(x, jnp.float64) for x in (data.x_train[:n], data.x_test))
    scale = np.asarray(ntk.gram(net, x[:1], kernel=kind))[0, 0] / exact[name][0, 0]
    k_test = np.asarray(ntk.gram(net, x_test, x, kernel=kind)) / scale
    return k_test, np.asarray(ntk.one_hot_centered(data.y_train[:n], 10), np.float64), data.y_test


k_test, y, labels = regression_data(BROKEN[0])


def accuracy(outputs):
    return float(np.mean(outputs.argmax(1) == labels))


scores = {}  # [10 subsets, sizes]
SIZES = [int(s * np.exp(log_critical(*BROKEN))) for s in STEPS]
for bits in (53, 11, 8):
    k, kt = (exact[BROKEN[0]], k_test) if bits == 53 else (rounded(a, bits) for a in (exact[BROKEN[0]], k_test))
    scores[bits] = np.array(
        [
            [accuracy(kt[:, chosen[:m]] @ np.linalg.solve(part(k, chosen[:m]), y[chosen[:m]])) for m in SIZES]
            for chosen in orders(BROKEN[0])
        ]
    )

# %% alt="Test accuracy against the number of images for the flatten ReLU NNGP without a ridge. With 53 and 11 bits accuracy rises together up to 524 images; at 1048 that of 11 bits drops to 0.4. With 8 bits it falls behind near the critical size, marked by a vertical line, and drops to 0.3 and below after it."
fig, ax = plt.subplots(figsize=(6.4, 3.6))
for i, (bits, values) in enumerate(scores.items()):
    mean, error = plotting.mean_and_error(values)
    style = {"marker": plotting.MARKERS[i], "linestyle": plotting.DASHES[i], "color": plotting.COLOURS[i]}
    ax.errorbar(SIZES, mean, yerr=error, capsize=2, label=f"{bits} bits", **style)
ax.axvline(np.exp(log_critical(*BROKEN)), color="0.1", linewidth=1, label="predicted for 8 bits")
ax.set(xscale="log", xlabel="training images m", ylabel="test accuracy")
_ = ax.legend(loc="lower left")

# %%
gap = scores[8] - scores[53]
mean, error = plotting.mean_and_error(gap)
for m, a, b in zip(SIZES, mean, error, strict=True):
    print(f"m = {m:4d}: accuracy of 8 bits minus exact {a:6.3f} ± {b:.1g}")
for column, words in ((0, "a quarter of"), (4, "four times")):
    claim(
        "F8",
        what=f"accuracy of the rounded kernel minus the exact one's at {words} the predicted size, {BROKEN[0]}, 8 bits",
        measured=mean[column],
        uncertainty=error[column],
        seeds=SUBSETS,
    )

# %% [markdown]
# Up to half of the predicted size nothing is lost. At the predicted size 8 bits cost 0.05 of accuracy, at twice that size 0.67. *More* images make it worse: the accuracy falls from 0.9 to 0.2.
# With 11 bits nothing is lost at 524 images, and more than half of the accuracy at 1048. The critical size of 11 bits, 656, lies between the two.
# So the claim holds for this kernel without a ridge. Rounding does not limit performance here, it destroys it.
#
# ## What float32 predicts
#
# With 24 bits the critical sizes lie beyond our data, and all but one beyond what a laptop holds. They stay predictions: the fitted line, extended. The interval is
# from the bootstrap over the ten subsets (95 %). It knows the scatter of the fit, and nothing of a line that bends.

# %%
draws = np.random.default_rng(reseed(0)).integers(SUBSETS, size=(500, SUBSETS))
single = {}
for name in KERNELS:
    boot = [log_critical(name, 24, subsets) for subsets in draws]
    single[name] = log_critical(name, 24), *np.quantile(boot, [0.025, 0.975])
    now, low, high = np.exp(single[name])
    beyond = now / LADDER[name][-1]
    print(f"{name:18} float32: {now:8.1e} images, {low:.1e} to {high:.1e}; {beyond:.0e} times the largest subset")

# %%
for name in ("pool ReLU NTK", "pool ReLU NNGP"):
    value, low, high = single[name]
    claim(
        "F8",
        what=f"log of the critical size in float32, {name}, extrapolated",
        measured=value,
        interval=(low, high),
    )

# %% [markdown]
# The pooled NNGP comes to $4 \cdot 10^4$ images in float32, four times the number that is handed on.
# For the pooled NTK it is $2 \cdot 10^7$, and for kernels without pooling it is from a million to some billions.
# None of these is a test of the $10^4$: that was said of CIFAR-10, whose images have 16 times as many pixels to pool over, and of deeper networks.
# And the lines are extended by a factor of 400 and of 200,000.
# What the lines say, if they go on: the pooled NNGP breaks first, and by far.
# For one and the same readout the ReLU NNGP breaks at 300 to 1,200 times fewer images than the NTK.
# On the same digits the pooled kernel breaks at 30 to 70 times fewer images than the flattened one of its kind.
# But the pooled NTK does not break before all kernels without pooling: the flatten NNGP comes earlier.
# And smoothness of the activation does not settle it either: the dense erf NNGP has a critical size ten times that of the dense ReLU NNGP.
#
# ## Cholesky, eigenvalues and conjugate gradients
#
# Three ways to solve $\Theta c = y$, and three ways to notice rounding. Take the same kernel with 8 bits, at four times the predicted size.
#
# - **Cholesky** stops at the first negative pivot. That is crude and honest. Below the critical size it says nothing, even where half of the digits of $c$ are gone.
# - **Eigenvalues** show it all. Those well above $2\sigma\sqrt m$ stay nearly where they are. Those below it are made by the noise, whatever they were before.
# - **Conjugate gradients** (CG) learns the largest eigenvalues first. Its early iterates do not see the noise, the later ones fit it.
#   The method is made for positive matrices. Ours is not positive any more, so nothing guarantees the later iterates.
#   **Prediction**: the distance to the exact outputs at the test images falls at first and rises again, so that stopping in time is a remedy.


# %%
def conjugate_gradients(k, y, looks):
    """Solutions of k c = y after each number of iterations in `looks`, all columns at once."""
    c, r = np.zeros_like(y), y.copy()
    p, found = r.copy(), []
    for step in range(1, looks[-1] + 1):
        kp = k @ p
        rate = (r * r).sum(0) / (p * kp).sum(0)
        c, after = c + rate * p, r - rate * kp
        p, r = after + (after * after).sum(0) / (r * r).sum(0) * p, after
        if step in looks:
            found.append(c)
    return np.array(found)


LOOKS = [1, 2, 3, 5, 8, 12, 20, 30, 50, 80]
M_LARGE = SIZES[4]
distance = {8: [], 53: []}  # from the outputs of the exact kernel, over their size: [4 subsets, looks]
values = {}
for chosen in orders(BROKEN[0], first=200)[:4]:
    chosen = chosen[:M_LARGE]
    want = k_test[:, chosen] @ np.linalg.solve(part(exact[BROKEN[0]], chosen), y[chosen])
    for bits, found in distance.items():
        k, kt = (rounded(a, bits) if bits < 53 else a for a in (part(exact[BROKEN[0]], chosen), k_test[:, chosen]))
        outputs = kt @ conjugate_gradients(k, y[chosen], LOOKS)
        found.append(np.linalg.norm(outputs - want, axis=(1, 2)) / np.linalg.norm(want))
        values[bits] = np.linalg.eigvalsh(k)[::-1]

# %% alt="Left: eigenvalues against their index, exact as a line and of the kernel rounded to 8 bits as points; they agree until a horizontal line at two sigma root m, below which the rounded ones fall away and become negative, shown in gray by their absolute value. Right: distance of the test outputs from those of the exact kernel over the iterations of conjugate gradients, from 2 at the first one; with the exact kernel it falls to a thirtieth or less, with 8 bits it is nearly the same up to a dozen iterations, where it is 0.8 to 0.9, then rises to 5 or more and ends above 1."
fig, (left, right) = plt.subplots(1, 2, figsize=(8.8, 3.7))
index, edge = np.arange(1, M_LARGE + 1), 2 * sigma[BROKEN] * M_LARGE**0.5
left.plot(index, values[53], color="0.1", label="exact")
positive = values[8] > 0
left.plot(index[positive], values[8][positive], "o", markersize=3, color=plotting.COLOURS[0], label="8 bits")
left.plot(index[~positive], -values[8][~positive], "x", markersize=4, color="0.55", label="8 bits, negative: |λ|")
left.axhline(edge, linestyle=":", color="0.3", label="2σ√m")
left.set(xscale="log", yscale="log", xlabel="index", ylabel="eigenvalue")
left.legend(loc="lower left")
for i, (bits, found) in enumerate(distance.items()):
    mean, error = plotting.mean_and_error(found)
    style = {"marker": plotting.MARKERS[i], "linestyle": plotting.DASHES[i], "color": plotting.COLOURS[i]}
    name = "exact" if bits == 53 else f"{bits} bits"
    right.errorbar(LOOKS, mean, yerr=error, capsize=2, label=name, **style)
right.set(xscale="log", yscale="log", xlabel="iterations of CG", ylabel="distance of test outputs")
_ = right.legend(loc="upper left")

# %%
curve = np.mean(distance[8], axis=0)
print(f"8 bits: the distance is least after {LOOKS[curve.argmin()]} iterations, {curve.min():.1g} of the outputs' size")
assert curve[-1] > curve.min()
assert np.mean(distance[53], axis=0)[-1] < 0.1 * curve[-1]

# %% [markdown]
# On the whole the distance falls and rises again, as predicted. Of the iterations that we looked at the 12th is best; there the two curves part.
# But as a remedy stopping has hardly any effect here.
# The least distance is 0.8 to 0.9 of the outputs' size (which of the two, the processor's rounding decides), and to answer zero everywhere would have a distance of 1. The iterates before the 12th that we looked at are farther away than that.
# The exact kernel needs some eighty iterations to get near its outputs, and after twelve most of the way is still to go.
# Stopping in time avoids the noise. It does not replace what the noise has covered.
#
# ## Remedies, each measured
#
# **A ridge.**
# Adding $\delta\, \mathrm{tr}(K)/m$ to the diagonal makes the matrix positive if $\delta$ is at least $2\sigma\sqrt m$ over the mean of the diagonal, by the safe rule.
# (The mean of the diagonal is 1 here.)
# Then Cholesky's method runs through. The outputs are now those of ridge regression, on purpose.
# There are two distances to look at: that to the outputs of the *exact* kernel with the *same* ridge (what rounding still does),
# and that to the exact kernel without a ridge (what rounding and ridge do).
# **Prediction**: the first falls with the ridge, roughly like $1/\delta$; the second has a minimum.
#
# **Float64 only where it decides.**
# Converting a rounded kernel to float64 changes nothing: the errors are in the entries.
# But a rounded kernel can help to solve for an exact one.
# This is **iterative refinement**: factorize the
# rounded matrix, then repeat $c \leftarrow c + \tilde K^{-1}(y - Kc)$, with the residual from the exact entries.
# A step needs one product with $K$.
# It can be computed tile by tile, and no tile need be stored.
# The error $e$ of $c$ obeys $e \leftarrow (1 - \tilde K^{-1} K)\, e = \tilde K^{-1} E\, e$. With $\mu$ the eigenvalues of $K^{-1/2} E K^{-1/2}$, this matrix has the eigenvalues $\mu/(1 + \mu)$.
# The most negative $\mu$ is near $-\sigma/\sigma_c$, since $\sigma_c$ is the noise for which it would be $-1$.
# The largest $\mu$ is about as large, as $E$ and $-E$ are alike, and $\mu/(1 + \mu)$ is smaller for it. So the most negative one decides.
# After many steps the error is multiplied in each step by
#
# $$ \rho = \frac{\sigma/\sigma_c}{1 - \sigma/\sigma_c} . $$
#
# ($\mu$ and $\rho$ are not the momentum and the correlation of other chapters.)
# The factor $\rho$ is below 1 only if $\sigma < \sigma_c/2$. Rounding to one bit less doubles $\sigma$. So **refinement works up to the critical size for one bit less**.
#
# **Prediction** for the flatten ReLU NNGP with 11 bits and the $N/4$ images of the subsets above, each with its own $\sigma_c$.

# %%
RIDGES = np.array([1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0])
off_same, off_none = np.zeros((2, 4, len(RIDGES)))
stops = np.zeros((4, len(RIDGES)), bool)
for s, chosen in enumerate(orders(BROKEN[0], first=200)[:4]):
    chosen = chosen[:M_LARGE]
    k, kt, targets = part(exact[BROKEN[0]], chosen), k_test[:, chosen], y[chosen]
    k8, kt8 = rounded(k, 8), rounded(kt, 8)
    plain = kt @ np.linalg.solve(k, targets)
    for j, ridge in enumerate(RIDGES):
        more = ridge * np.trace(k) / M_LARGE * np.eye(M_LARGE)
        stops[s, j] = lapack.dpotrf(k8 + more, lower=1)[1] > 0
        outputs, same = kt8 @ np.linalg.solve(k8 + more, targets), kt @ np.linalg.solve(k + more, targets)
        off_same[s, j] = np.linalg.norm(outputs - same) / np.linalg.norm(plain)
        off_none[s, j] = np.linalg.norm(outputs - plain) / np.linalg.norm(plain)

REFINED = ("flatten ReLU NNGP", 11)
rates = []  # measured and predicted factor of each subset
for row, chosen in enumerate(orders(REFINED[0], first=100)):
    m = LADDER[REFINED[0]][-1]
    k = part(exact[REFINED[0]], chosen[:m])
    low = rounded(k, REFINED[1])
    c, inverse = np.random.default_rng(reseed(row)).normal(size=m), np.linalg.inv(low)
    for _ in range(60):  # y = 0, so that c is the error
        before = np.linalg.norm(c)
        c = c - inverse @ (k @ c)
    load = noise(k, REFINED[1]) / borne[REFINED[0]][row, -1]
    rates.append((np.linalg.norm(c) / before, load / (1 - load)))
rates = np.array(rates)

# %% alt="Distance of test outputs against the ridge on logarithmic axes, 8 bits, at four times the critical size. The distance to the exact kernel with the same ridge falls as the ridge grows. The distance to the exact kernel without a ridge has a minimum. A vertical line marks the ridge that the safe rule asks for."
fig, ax = plt.subplots(figsize=(6.4, 3.7))
for i, (found, label) in enumerate(((off_same, "same ridge"), (off_none, "no ridge"))):
    mean, error = plotting.mean_and_error(found)
    style = {"marker": plotting.MARKERS[i], "linestyle": plotting.DASHES[i], "color": plotting.COLOURS[i]}
    ax.errorbar(RIDGES, mean, yerr=error, capsize=2, label=f"to the exact kernel, {label}", **style)
asked = 2 * sigma[BROKEN] * M_LARGE**0.5
ax.axvline(asked, color="0.1", linewidth=1, linestyle=":", label="safe rule for Cholesky")
ax.set(
    xscale="log",
    yscale="log",
    ylim=(5e-3, 500),
    xlabel="ridge δ, relative to the mean diagonal",
    ylabel="distance of test outputs",
)
_ = ax.legend(loc="upper right")

# %%
passes = [f"{ridge:.1g}" for ridge, stop in zip(RIDGES, stops.T, strict=True) if not stop.any()]
print(f"ridge of the safe rule: {asked:.2g}; Cholesky passes for all subsets from {passes[0]} on")
print(f"least distance to the exact kernel without a ridge: {off_none.mean(0).min():.2g} of the outputs' size")
assert not stops[:, 1.3 * asked < RIDGES].any()
measured, predicted = rates.T
print(f"refinement: error shrinks by {measured.mean():.3f} a step, predicted {predicted.mean():.3f}")
mean, error = plotting.mean_and_error(measured / predicted)
claim(
    "F8",
    what="factor of iterative refinement over the predicted one, flatten ReLU NNGP, 11 bits",
    measured=mean,
    uncertainty=error,
    seeds=SUBSETS,
)

# %% [markdown]
# **The ridge** of the safe rule is 0.05. Below it the outputs are off by about twice to more than twenty times their size.
# At a ridge of 0.1 they are within a tenth of those of the exact kernel with this ridge, and that distance falls on with $\delta$, somewhat slower than $1/\delta$.
# But the distance to the outputs without a ridge is still a quarter of their size, and none of our six ridges does better: the smaller ones let the noise in, the larger ones take more away.
#
# **Refinement** multiplies the error by nearly the predicted factor. The ratio of measured to predicted is $0.95 \pm 0.03$.
# Its 95 % interval reaches from 0.90 to 1.01, just beyond the margin of 0.1, so the prediction is undecided. Ten subsets are too few to say whether the formula is a few percent off.
# Call critical precision the number of bits at which the kernel just stays positive. At a given size refinement needs one bit *more* than that, and with fewer bits it diverges.
# As a preconditioner for conjugate gradients the factorization of $\tilde K$ should work for as long as $\tilde K$ is positive; we did not try.
#
# ## What the library's warning says
#
# `ntk.gradient_flow`, `ntk.gp_posterior` and the others cannot know the exact kernel.
# They know the type of its entries, and so $\varepsilon = 2^{1-b}$, the distance from 1 to the next number.
# They assume errors of about $0.7\,\varepsilon$ of the diagonal. An eigenvalue below $4\varepsilon\sqrt N$ times the diagonal,
# some three times the edge $2\sigma\sqrt N$, is not known: it counts as zero, and its mode never learns.
# For all other modes they estimate how far errors of this size move the outputs, to first order, and for those that count as zero how much they could have added.
# If one of the two is more than 1 % of the largest output they warn, and say how many digits are lost.
# The estimate depends on the targets and on the time: smooth targets need the small eigenvalues less, and early training does not need them at all.
#
# We hand over the same kernel as bfloat16, which is 8 bits, at a quarter and at four times the predicted critical size.

# %%
said = {}
for m, ridge in ((SIZES[0], 0.0), (M_LARGE, 0.0), (M_LARGE, 0.1)):
    chosen = orders(BROKEN[0], first=200)[0][:m]
    k, kt, targets = part(exact[BROKEN[0]], chosen), k_test[:, chosen], y[chosen]
    how = {"t": jnp.inf, "ridge": ridge}
    want = ntk.gradient_flow(k, targets, ntk_test_train=kt, **how)[1]
    low, low_test = (jnp.asarray(a).astype(jnp.bfloat16) for a in (k, kt))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = ntk.gradient_flow(low, jnp.asarray(targets, jnp.float32), ntk_test_train=low_test, **how)[1]
    off_by = float(jnp.abs(got - want).max() / jnp.abs(want).max())
    words = [str(w.message) for w in caught if "digits" in str(w.message)]
    said[m, ridge] = words
    print(f"m = {m}, ridge {ridge:g}: off by {off_by:.1g} of the largest output; {len(words)} warning(s)")
print(said[M_LARGE, 0.0][0])

# %% [markdown]
# The warning comes in all three cases. It is right about the outputs that it comes with: they are off by 0.3 of the largest and more.
# But these are the library's outputs, and part of their error is in the modes that it has given up. At the smallest size the plain solve above lost no accuracy with 8 bits.
# The advice is the right one: compute the kernel in float64, since converting the entries does not help.
# The library is cautious with so coarse a type.
# It takes $\varepsilon = 2^{-7}$ and errors of $0.7\,\varepsilon$ of the diagonal, five times what rounding alone has made here, because a kernel that was *computed* in 8 bits would be that bad.
# So it also gives up modes
# that the ridge of 0.1 would have saved, and its outputs are then worse than those of the plain solve above.
#
# ## What to take away
#
# - Rounding to $b$ bits adds a matrix with entries of about $0.4 \cdot 2^{-b}$ of the kernel's.
#   Its eigenvalues reach to about $2\sigma\sqrt m$, some ten to twenty percent further if some rows have larger errors.
# - A kernel of $m$ images bears noise up to $\sigma_c$, which follows from its spectrum. It lies between $\lambda_{\min}/(2\sqrt m)$ and $\lambda_{\min}/2$.
# - $\sigma_c$ falls with $m$. Where it meets the $\sigma$ of a type is the critical size. Small subsets in float64 tell where.
# - Past that size Cholesky stops, the lower eigenvalues are noise, and a regression without a ridge gets worse.
# - A ridge or early stopping give up those modes.
#   More digits bring them back, but only digits of the *entries*.
#   Refinement with a rounded factorization ends earlier, at the critical size for one bit less.
#
# ## Where it breaks
#
# - The digits beyond the last bit must look random. Many equal entries, or entries within a few spacings of each other, break that.
# - The extrapolation takes a power law for granted. A few nearly equal images bend it downwards.
# - Rounding in storage is one error. Float32 arithmetic inside of a kernel's recursion adds its own, of a similar size, and then $\sigma$ is larger.
# - Images of 8×8 pixels and two layers are far from CIFAR-10 and deep networks. The $10^4$ was not tested here.
#
# ## Exercises
#
# `exercises/13_precision.ipynb`: rounding by hand, the critical size on paper, a new kernel predicted and met, the error in a ridge, what a ridge does not mend, and a kernel for
# bfloat16 as the open one.
#
# ## References
#
# - J. Lee, S. Schoenholz, J. Pennington, B. Adlam, L. Xiao, R. Novak, J. Sohl-Dickstein, *Finite Versus Infinite Neural Networks:
#   an Empirical Study*, 2020, arXiv:2007.15801 (the claim; we had its abstract).
# - E. Wigner, *On the distribution of the roots of certain symmetric matrices*, Annals of Mathematics 67, 1958 (the semicircle).
# - L. Pastur, *On the spectrum of random matrices*, Theoretical and Mathematical Physics 10, 1972 (a matrix plus noise).
# - N. Higham, *Accuracy and Stability of Numerical Algorithms*, SIAM 2002 (rounding, Cholesky, iterative refinement).
