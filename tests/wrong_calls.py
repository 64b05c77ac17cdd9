"""The table of wrong calls, run as a user runs them: float32, no type checking at run time.

Each row: a name, a call, the exception's type, and words that its message must hold: the argument, what came, the way out.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse
from flax import linen, nnx
from jax.experimental.sparse import BCOO
from sklearn.exceptions import NotFittedError

import ntklib as ntk
from ntklib import plotting

RNGS = nnx.Rngs(0)
X, Y = jnp.ones((4, 3)), jnp.ones((4, 2))
NAN = X.at[0, 0].set(jnp.nan)
THETA = jnp.eye(4)
NET = ntk.mlp([3, 5, 2], w_std=1.0, rngs=RNGS)
DEEP = ntk.mlp([3, 5, 5, 2], w_std=1.0, rngs=RNGS)
DENSE = {"w_std": 1.0, "rngs": RNGS}


def solve(**changes):
    """`ntk.cg_solve` with one thing wrong."""
    arguments = {"ridge": 1e-6, "progress": False} | changes
    return ntk.cg_solve(NET, arguments.pop("x", X), arguments.pop("y", Y), **arguments)


def tied(name):
    """A network in which a parameter of the second hidden layer is that of the first."""
    net = ntk.mlp([3, 5, 5, 5, 2], w_std=1.0, rngs=RNGS)
    setattr(net.layers[4], name, getattr(net.layers[2], name))
    return net


def diverged():
    """A network whose first weights are NaN."""
    net = ntk.mlp([3, 5, 2], w_std=1.0, rngs=RNGS)
    net.layers[0].W[...] = net.layers[0].W[...] * jnp.nan
    return net


def product(**changes):
    """`ntk.ntk_vector_product` with one thing wrong."""
    return ntk.ntk_vector_product(**({"model": NET, "x1": X, "x2": None, "v": Y} | changes))


def drawn(**changes):
    """`ntk.monte_carlo_kernel` with one thing wrong."""
    build = lambda rngs: ntk.mlp([3, 2], w_std=1.0, rngs=rngs)  # noqa: E731
    arguments = {"build": build, "x1": X, "draws": 2, "key": jax.random.key(0), "progress": False}
    return ntk.monte_carlo_kernel(**(arguments | changes))


def stored(file, content, net=NET):
    """`ntk.gram` into a store of `NET`, one file of which holds something else."""
    with tempfile.TemporaryDirectory() as folder:
        ntk.gram(NET, X, store=folder, tile=2)
        if content is not None:
            pathlib.Path(folder, file).write_bytes(content)
        ntk.gram(net, X, store=folder)


def resumed(content):
    """`ntk.cg_solve` with a checkpoint of another network (None), or one that holds something else."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "run.npz")
        ntk.cg_solve(DEEP, X, Y, ridge=0.1, checkpoint=path)
        if content is not None:
            path.write_bytes(content)
        solve(ridge=0.1, checkpoint=path)


class Linen(linen.Module):
    """A Linen module without parameters yet."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(x)


def trained_ensemble(**changes):
    """`ntk.ensemble` with one thing wrong."""
    build = lambda rngs: ntk.mlp([3, 5, 2], w_std=1.0, rngs=rngs)  # noqa: E731
    arguments = {"build": build, "x": X, "y": Y, "members": 2, "optimizer": optax.sgd(0.1), "steps": 2}
    return ntk.ensemble(**(arguments | {"key": jax.random.key(0), "progress": False} | changes))


def local(**changes):
    """A layer without shared weights, with one thing wrong."""
    return ntk.LocallyConnected(**({"image_size": 4, "c_in": 2, "c_out": 3, "kernel_size": 3} | DENSE | changes))


def shifted(**changes):
    """`ntk.shift` with one thing wrong."""
    return ntk.shift(**({"images": jnp.ones((2, 4, 4, 1)), "down": 1, "right": 1, "edge": 0.0} | changes))


def train(**changes):
    """`ntk.train` with one thing wrong."""
    arguments = {"optimizer": ntk.sgd(NET, 0.1), "steps": 2, "progress": False} | changes
    return ntk.train(arguments.pop("model", NET), arguments.pop("x", X), arguments.pop("y", Y), **arguments)


def descend(**changes):
    """`ntk.gradient_descent` with one thing wrong."""
    return ntk.gradient_descent(THETA, Y, **({"learning_rate": 0.1, "steps": 2} | changes))


def profile(**changes):
    """`ntk.ntk_depth_profile` with one thing wrong."""
    arguments = {"activation": ntk.Tanh(), "w_std": 1.0, "b_std": 0.1, "depths": [2], "rho": 0.5} | changes
    return ntk.ntk_depth_profile(**arguments)


def double(call):
    """The call in double precision."""

    def inside():
        with jax.enable_x64(True):
            return call()

    return inside


def noisy(**changes):
    """`ntk.sgd_moments` with one thing wrong."""
    arguments = {"learning_rate": 0.1, "batch_size": 2, "steps": 3} | changes
    return ntk.sgd_moments(arguments.pop("ntk_train", THETA), Y, **arguments)


def runs(**changes):
    """`ntk.sgd_simulate` with one thing wrong."""
    arguments = {"learning_rate": 0.1, "batch_size": 2, "steps": 3, "key": jax.random.key(0), "runs": 2}
    return ntk.sgd_simulate(THETA, Y, **(arguments | changes))


def spawned(**changes):
    """`ntk.spawn` with one thing wrong."""
    arguments = {"model": NET, "x": X, "y": Y, "optimizer": optax.sgd(0.1), "steps": 2, "spawn_at": [0, 1]}
    return ntk.spawn(**(arguments | {"batch_size": 2, "key": jax.random.key(0), "progress": False} | changes))


def followed(**changes):
    """`ntk.follow` with one thing wrong."""
    arguments = {"model": NET, "x": X, "y": Y, "optimizer": optax.sgd(0.1), "steps": 2, "probe": X, "progress": False}
    return ntk.follow(**(arguments | {"measures": ["kernel_distance"]} | changes))


def advantage(**changes):
    """`ntk.nonlinear_advantage` with one thing wrong."""
    arguments = {"model": NET, "x": X, "y": LABELS, "x_test": X, "labels_test": LABELS, "optimizer": optax.sgd(0.1)}
    return ntk.nonlinear_advantage(**(arguments | {"steps": 2, "progress": False} | changes))


def barrier(**changes):
    """`ntk.error_barrier` with one thing wrong."""
    return ntk.error_barrier(**({"model1": NET, "model2": NET, "x": X, "y": LABELS} | changes))


def followed_elsewhere(content):
    """`ntk.follow` with a checkpoint that holds something else."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "run.npz")
        path.write_bytes(content)
        followed(checkpoint=path)


LABELS = jnp.array([0, 1, 1, 0])
ONE_OUTPUT = ntk.mlp([3, 5, 1], w_std=1.0, rngs=RNGS)
IN_A_LOOP = (lambda w, x: jax.lax.fori_loop(0, 2, lambda _, h: jnp.maximum(h @ w, 0.0), x), jnp.eye(3))
IMAGES = jnp.ones((2, 4, 4, 2))
VECTORS = np.random.default_rng(0).normal(size=(9, 6))
PICTURES = np.random.default_rng(0).normal(size=(9, 4, 4, 3))
WHITE = ntk.ZCA(0.1).fit(PICTURES)
WIDTHS = np.array([1.0, 2.0, 4.0, 8.0])
MEASURED = np.random.default_rng(0).uniform(1.0, 2.0, (3, 4))


def data(**changes):
    """`ntk.load` of 10 images for training, with one thing wrong."""
    return ntk.load("mnist5k", **({"n_train": 10, "n_test": 5} | changes))


def cnn(**changes):
    """`ntk.cnn` with one thing wrong."""
    arguments = {"input_shape": (4, 4, 2), "channels": [3, 3], "outputs": 2} | DENSE | changes
    return ntk.cnn(**arguments)


def image_net(*ends):
    """A convolution and what is wrong behind it."""
    return ntk.Serial(ntk.Conv(2, 3, 3, **DENSE), *ends)


CALLS = [
    # inputs of a network's kernel
    ("kernel of one vector", lambda: NET.kernel(X[0]), ValueError, ["`x1`", "[N, d]", "(3,)", "x1[None]"]),
    (
        "kernel of integers",
        lambda: NET.kernel(jnp.ones((4, 3), int)),
        TypeError,
        ["`x1`", "floating", "int32", "astype"],
    ),
    ("kernel of NaN", lambda: NET.kernel(NAN), ValueError, ["`x1`", "finite", "1 of 12"]),
    ("kernel of nothing", lambda: NET.kernel(X[:0]), ValueError, ["`x1`", "empty"]),
    ("kernel of unequal inputs", lambda: NET.kernel(X, X[:, :2]), ValueError, ["`x1` and `x2`", "(3,)", "(2,)"]),
    ("kernel of too many features", lambda: NET.kernel(jnp.ones((4, 7))), ValueError, ["3 features", "has 7"]),
    ("kernel of images by an mlp", lambda: NET.kernel(jnp.ones((2, 4, 4, 1))), ValueError, ["features", "Flatten"]),
    ("call with too many features", lambda: NET(jnp.ones((4, 7))), ValueError, ["3 features", "has 7"]),
    # layers
    ("negative w_std", lambda: ntk.Dense(3, 2, w_std=-1.0, rngs=RNGS), ValueError, ["`w_std`", "at least 0", "-1.0"]),
    ("negative b_std", lambda: ntk.Dense(3, 2, b_std=-0.1, **DENSE), ValueError, ["`b_std`", "at least 0"]),
    ("NaN w_std", lambda: ntk.Dense(3, 2, w_std=float("nan"), rngs=RNGS), ValueError, ["`w_std`", "finite"]),
    ("array w_std", lambda: ntk.Dense(3, 2, w_std=jnp.ones(2), rngs=RNGS), ValueError, ["`w_std`", "single", "(2,)"]),
    ("text w_std", lambda: ntk.Dense(3, 2, w_std="he", rngs=RNGS), TypeError, ["`w_std`", "number", "he"]),
    ("no units", lambda: ntk.Dense(0, 2, **DENSE), ValueError, ["`n_in`", "at least 1"]),
    ("half a unit", lambda: ntk.Dense(3, 2.5, **DENSE), TypeError, ["`n_out`", "whole number", "2.5"]),
    (
        "a key for rngs",
        lambda: ntk.Dense(3, 2, w_std=1.0, rngs=jax.random.key(0)),
        TypeError,
        ["`rngs`", "nnx.Rngs(0)"],
    ),
    (
        "bias without bias",
        lambda: ntk.Dense(3, 2, b_std=0.1, use_bias=False, **DENSE),
        ValueError,
        ["`b_std`", "use_bias"],
    ),
    ("name of a parameterization", lambda: ntk.Dense(3, 2, parameterization="ntk", **DENSE), TypeError, ["ntklib.NTK"]),
    ("μP without a role", lambda: ntk.Dense(3, 2, parameterization=ntk.MUP, **DENSE), ValueError, ["`role`", "mlp"]),
    (
        "unknown role",
        lambda: ntk.Dense(3, 2, parameterization=ntk.MUP, role="hiden", **DENSE),
        ValueError,
        ["`role`", "hiden", "'hidden'"],
    ),
    (
        "activation not called",
        lambda: ntk.Serial(ntk.Dense(3, 2, **DENSE), ntk.Relu),
        TypeError,
        ["Relu", "ntk.Relu()"],
    ),
    ("function as a layer", lambda: ntk.Serial(jnp.tanh), TypeError, ["tanh", "ntk.Elementwise"]),
    ("empty network", lambda: ntk.Serial(), ValueError, ["at least one layer"]),
    ("mlp of one width", lambda: ntk.mlp([3], w_std=1.0, rngs=RNGS), ValueError, ["`widths`", "[d, K]", "[3]"]),
    (
        "string activation",
        lambda: ntk.mlp([3, 2], activation="relu", w_std=1.0, rngs=RNGS),
        TypeError,
        ["`activation`", "ntk.Relu()"],
    ),
    ("activation of two numbers", lambda: ntk.Elementwise(jnp.add), ValueError, ["`fn`", "elementwise"]),
    ("activation that sums", lambda: ntk.Elementwise(jnp.sum), ValueError, ["`fn`", "scalar", "()"]),
    ("activation across units", lambda: ntk.Elementwise(jax.nn.softmax), ValueError, ["`fn`", "scalar", "softmax"]),
    (
        "activation that sums up to a unit",
        lambda: ntk.Elementwise(lambda x: jnp.cumsum(x, -1)),
        ValueError,
        ["`fn`", "scalar", "depends on the others"],
    ),
    (
        "activation that sorts",
        lambda: ntk.Elementwise(lambda x: jnp.sort(x, -1)),
        ValueError,
        ["`fn`", "scalar", "depends on the others"],
    ),
    ("activation of NumPy", lambda: ntk.Elementwise(np.tanh), ValueError, ["`fn`", "NumPy", "jnp.tanh"]),
    ("dual that is a number", lambda: ntk.Elementwise(jnp.tanh, 0.5), TypeError, ["`dual`", "float"]),
    ("monomial of half a degree", lambda: ntk.Monomial(2.5), TypeError, ["`degree`", "whole number"]),
    ("monomial of degree 151", lambda: ntk.Monomial(151), ValueError, ["`degree`", "at most 150", "151"]),
    ("rectified monomial of degree 151", lambda: ntk.RectifiedMonomial(151), ValueError, ["`degree`", "at most 150"]),
    ("Hermite polynomial of degree 171", lambda: ntk.Hermite(171), ValueError, ["`degree`", "at most 170", "171"]),
    ("dual of a number", lambda: ntk.duals.quadrature(0.5, 0.5, 1.0, 1.0), TypeError, ["`f`", "float 0.5"]),
    (
        "complex covariance",
        lambda: ntk.duals.quadrature(jnp.tanh, jnp.array(0.5j), 1.0, 1.0),
        TypeError,
        ["must be real", "complex64"],
    ),
    (
        "one number of nodes",
        lambda: ntk.duals.quadrature(jnp.tanh, 0.5, 1.0, 1.0, nodes=(80,)),
        ValueError,
        ["`nodes`", "(80, 60)", "(80,)"],
    ),
    (
        "half a node",
        lambda: ntk.duals.quadrature(jnp.tanh, 0.5, 1.0, 1.0, nodes=(80, 0.5)),
        TypeError,
        ["`nodes`", "whole number", "0.5"],
    ),
    (
        "no nodes",
        lambda: ntk.duals.quadrature(jnp.tanh, 0.5, 1.0, 1.0, nodes=(80, 0)),
        ValueError,
        ["`nodes`", "at least 1", "0"],
    ),
    (
        "dual of degree -1",
        lambda: ntk.duals.rectified_monomial(0.5, 1.0, 1.0, degree=-1),
        ValueError,
        ["`degree`", "at least 0", "-1"],
    ),
    (
        "monomial whose mean square overflows",
        lambda: ntk.mlp([3, 5, 1], activation=ntk.Monomial(40), **DENSE).kernel(X),
        ValueError,
        ["'monomial(40)'", "variance of 1", "float32", "float64"],
    ),
    ("wave of frequency 0", lambda: ntk.Sin(0.0), ValueError, ["`frequency`", "greater than 0"]),
    ("constant exponential", lambda: ntk.Exp(0.0), ValueError, ["`rate`", "constant"]),
    ("bell that grows", lambda: ntk.Gaussian(-1.0), ValueError, ["`rate`", "greater than 0"]),
    *(
        (f"{name} of {size:g}", lambda make=make, size=size: make(size), ValueError, [words, "1e-15 and 1e15", way])
        for name, make, sizes, words, way in (
            ("slope", ntk.LeakyRelu, (1e200, -1e16), "`slope`", "larger w_std after it"),
            ("frequency", ntk.Sin, (1e200, 1e-170), "`frequency`", "w_std of the layer before it"),
            ("frequency of a cosine", ntk.Cos, (1e200, 1e-170), "`frequency`", "w_std of the layer before it"),
            (
                "amplitude",
                lambda a: ntk.Sin(amplitude=a),
                (1e200, 1e-170),
                "`amplitude`",
                "w_std of the layer after it",
            ),
            ("amplitude of a cosine", lambda a: ntk.Cos(amplitude=a), (1e16,), "`amplitude`", "layer after it"),
            ("rate of an exponential", ntk.Exp, (1e200, -1e200, 1e-170), "`rate`", "w_std of the layer before it"),
            ("rate of a bell", ntk.Gaussian, (1e300, 1e-160), "`rate`", "w_std of the layer before it"),
            ("gamma", ntk.Rbf, (1e300, 1e-200), "`gamma`", "w_std of the layer before it"),
        )
        for size in sizes
    ),
    *(
        (
            f"{way} of a wave that is too small",
            lambda call=call: call(ntk.mlp([3, 5, 1], activation=ntk.Sin(1e-12, amplitude=1e-10), **DENSE), X),
            ValueError,
            ["'sin'", "variance of 1", "too small", "float32"],
        )
        for way, call in (("kernel", lambda net, x: net.kernel(x)), ("gram", ntk.gram))
    ),
    *(
        (
            f"{way} whose variances overflow between the layers",
            lambda call=call: call(ntk.mlp([3, 5, 5, 1], w_std=1e15, rngs=RNGS), X),
            ValueError,
            ["'relu'", "variance of", "up to 3.4e+38 in float32", "smaller w_std", "float64"],
        )
        for way, call in (("kernel", lambda net, x: net.kernel(x)), ("gram", ntk.gram))
    ),
    (
        "kernel beyond an activation's range",
        lambda: ntk.mlp([3, 5, 1], activation=ntk.Tanh(), **DENSE).kernel(1e4 * X),
        ValueError,
        ["'tanh'", "variance", "1e+04", "float32", "Standardize"],
    ),
    (
        "gram beyond an activation's range",
        lambda: ntk.gram(ntk.mlp([3, 5, 1], activation=ntk.Exp(), **DENSE), 10 * X),
        ValueError,
        ["'exp'", "variance", "float32", "Standardize", "float64"],
    ),
    (
        "kernel of a function with kinks",
        lambda: ntk.mlp([3, 5, 1], activation=ntk.Elementwise(jax.nn.hard_tanh), **DENSE).kernel(X),
        ValueError,
        ["'hard_tanh'", "kink or a jump", "`dual`"],
    ),
    (
        "gram of a function with kinks",
        lambda: ntk.gram(ntk.mlp([3, 5, 1], activation=ntk.Elementwise(jax.nn.relu6), **DENSE), 10 * X),
        ValueError,
        ["'relu6'", "kink or a jump", "`dual`"],
    ),
    (
        "gram of a function that jumps at zero, with its dual",
        lambda: ntk.gram(ntk.mlp([3, 5, 1], activation=ntk.Elementwise(jnp.sign, ntk.Sign().dual), **DENSE), X),
        ValueError,
        ["'sign'", "jumps at zero", "`net.kernel`", "ntklib.Sign()"],
    ),
    (
        "kernel of units too small for a number",
        lambda: ntk.mlp([3, 5, 1], activation=ntk.Monomial(3), **DENSE).kernel(1e-9 * X),
        ValueError,
        ["'monomial(3)'", "too small", "float32", "larger w_std"],
    ),
    (
        "cg_solve inside jit",
        lambda: jax.jit(lambda x: ntk.cg_solve(NET, x, Y, ridge=0.1))(X),
        TypeError,
        ["`cg_solve`", "outside of `jit`", "net.kernel"],
    ),
    (
        "cg_solve inside grad",
        lambda: jax.grad(lambda y: ntk.cg_solve(NET, X, y, ridge=0.1).solution.sum())(Y),
        TypeError,
        ["`cg_solve`", "`grad`", "net.kernel"],
    ),
    (
        "ensemble inside jit",
        lambda: jax.jit(
            lambda y: (
                ntk.ensemble(
                    lambda rngs: NET, X, y, members=2, optimizer=optax.sgd(0.1), steps=1, key=jax.random.key(0)
                ).loss
            )
        )(Y),
        TypeError,
        ["`ensemble`", "outside of `jit`", "`jax.vmap` of `ntklib.train`"],
    ),
    ("fit inside jit", lambda: jax.jit(ntk.KernelRegressor().fit)(X, Y), TypeError, ["`KernelRegressor`", "`jit`"]),
    (
        "predict inside jit",
        lambda: jax.jit(ntk.KernelClassifier().fit(np.asarray(X), np.arange(len(X)) % 2).predict)(X),
        TypeError,
        ["`KernelClassifier`", "`jit`", "net.kernel"],
    ),
    (
        "masked targets of a regression",
        lambda: ntk.KernelRegressor().fit(np.asarray(X), masked(Y)),
        TypeError,
        ["`y`", "mask", "filled"],
    ),
    (
        "masked test inputs",
        lambda: ntk.KernelClassifier().fit(np.asarray(X), np.arange(len(X)) % 2).predict(masked(X)),
        TypeError,
        ["`X`", "mask", "filled"],
    ),
    ("masked labels", lambda: ntk.one_hot_centered(masked(np.arange(3)), 3), TypeError, ["`labels`", "mask", "Drop"]),
    ("gram inside jit", lambda: jax.jit(lambda x: ntk.gram(NET, x))(X), TypeError, ["`jit`", "net.kernel"]),
    ("gradient of gram", lambda: jax.grad(lambda x: ntk.gram(NET, x).sum())(X), TypeError, ["`grad`", "net.kernel"]),
    ("mlp of one number", lambda: ntk.mlp(5, **DENSE), TypeError, ["`widths`", "[inputs, hidden..., outputs]", "int"]),
    ("network of a list", lambda: NET([[1.0, 2.0, 3.0]]), TypeError, ["array", "jnp.asarray", "list"]),
    (
        "branches of unequal widths called",
        lambda: ntk.Sum(ntk.Dense(3, 2, **DENSE), ntk.Dense(3, 1, **DENSE))(X),
        ValueError,
        ["outputs", "2", "1"],
    ),
    ("skip around another width", lambda: ntk.Residual(ntk.Dense(3, 1, **DENSE))(X), ValueError, ["branch", "1", "3"]),
    (
        "one layer twice",
        lambda: (lambda layer: ntk.Serial(layer, ntk.Relu(), layer))(ntk.Dense(3, 3, **DENSE)),
        ValueError,
        ["share weights", "`layers[0].W`", "`layers[2].W`", "new layer"],
    ),
    (
        "kernel of images without Flatten",
        lambda: ntk.Serial(ntk.Conv(3, 2, 3, **DENSE), ntk.Relu(), ntk.Dense(2, 1, **DENSE)).kernel(
            jnp.ones((2, 4, 4, 3))
        ),
        ValueError,
        ["Dense", "pixels", "Flatten"],
    ),
    (
        "signal of a function with kinks",
        double(lambda: ntk.depth_scales(ntk.Elementwise(jax.nn.hard_tanh), 2.0, 0.1)),
        ValueError,
        ["hard_tanh", "kink"],
    ),
    *(
        (f"{what} of a function that jumps", double(call), ValueError, ["sign jumps at zero", "`correlation_map`"])
        for what, call in {
            "phase": lambda: ntk.phase(ntk.Sign(), 1.5, 0.3),
            "depth scales": lambda: ntk.depth_scales(ntk.Elementwise(jnp.sign), 1.5, 0.3),
            "edge": lambda: ntk.critical_point(ntk.Sign(), 0.3),
        }.items()
    ),
    (
        "signal of waves with many periods",
        double(lambda: ntk.depth_scales(ntk.Sin(), 1e4, 0.1)),
        ValueError,
        ["sin", "oscillates", "`w_std`"],
    ),
    ("no activation", lambda: ntk.Elementwise(3.0), TypeError, ["`fn`", "jnp.tanh", "float"]),
    ("branch without a readout", lambda: ntk.Residual(ntk.Relu()), ValueError, ["`branch`", "affine"]),
    ("skip in a sum", lambda: ntk.Sum(ntk.Dense(3, 3, **DENSE), ntk.Identity()), ValueError, ["Branch 1", "Residual"]),
    (
        "one layer twice in a sum",
        lambda: ntk.Sum(*[ntk.Dense(3, 3, **DENSE)] * 2),
        ValueError,
        ["share", "independent", "`branches[0].W`", "`branches[1].W`"],
    ),
    (
        "weights tied later",
        lambda: tied("W").kernel(X),
        ValueError,
        ["share weights", "`layers[2].W`", "`layers[4].W`", "new layer", "empirical_ntk"],
    ),
    ("gram of tied weights", lambda: ntk.gram(tied("W"), X), ValueError, ["`layers[2].W`", "`layers[4].W`"]),
    (
        "estimator of tied weights",
        lambda: ntk.KernelRegressor(tied("b")).fit(X, Y),
        ValueError,
        ["`layers[2].b`", "`layers[4].b`"],
    ),
    ("activation on inputs", lambda: ntk.Serial(ntk.Relu()).kernel(X), ValueError, ["'relu'", "Dense", "inputs"]),
    (
        "two activations in a row",
        lambda: ntk.Serial(ntk.Dense(3, 4, **DENSE), ntk.Relu(), ntk.Erf()).kernel(X),
        ValueError,
        ["'erf'", "Elementwise"],
    ),
    (
        "branches of unequal width",
        lambda: ntk.Sum(ntk.Dense(3, 4, **DENSE), ntk.Dense(3, 5, **DENSE)).kernel(X),
        ValueError,
        ["same number of outputs", "4 and 5"],
    ),
    # parameterizations
    ("negative learning rate", lambda: ntk.sgd(NET, -0.1), ValueError, ["`learning_rate`", "at least 0", "-0.1"]),
    ("negative momentum", lambda: ntk.sgd(NET, 0.1, momentum=-0.9), ValueError, ["`momentum`", "at least 0"]),
    ("converting to a name", lambda: ntk.convert(NET, "STANDARD"), TypeError, ["`parameterization`", "ntklib.NTK"]),
    # finite networks
    ("unknown outputs", lambda: ntk.empirical_ntk(NET, X, outputs="diag"), ValueError, ["`outputs`", "'diagonal'"]),
    ("unknown method", lambda: ntk.empirical_ntk(NET, X, method="jacobians"), ValueError, ["`method`", "'jacobian'"]),
    ("batch of nothing", lambda: ntk.empirical_ntk(NET, X, tile=0), ValueError, ["`tile`", "at least 1"]),
    ("no model", lambda: ntk.empirical_ntk(jnp.tanh, X), TypeError, ["`model`", "nnx.Module", "(apply_fn, params)"]),
    ("Linen without parameters", lambda: ntk.empirical_ntk(Linen(), X), TypeError, ["module.bind", "init"]),
    ("no parameters", lambda: ntk.empirical_ntk((lambda p, x: x, {}), X), ValueError, ["`model`", "no parameters"]),
    (
        "output without its axis",
        lambda: ntk.empirical_ntk((lambda p, x: x @ p, jnp.ones(3)), X),
        ValueError,
        ["`model`", "[N, K]", "f[:, None]"],
    ),
    (
        "output that is an image",
        lambda: ntk.empirical_ntk((lambda p, x: p * x[..., None], 1.0 * jnp.ones(())), X),
        ValueError,
        ["`model`", "(1, 3, 1)"],
    ),
    ("two outputs", lambda: ntk.empirical_ntk((lambda p, x: (x, x), X), X), TypeError, ["`model`", "one array"]),
    ("empirical kernel of NaN", lambda: ntk.empirical_ntk(NET, NAN), ValueError, ["`x1`", "finite"]),
    (
        "several arrays as inputs",
        lambda: ntk.empirical_ntk(NET, (X, X)),
        TypeError,
        ["`x1`", "tuple of 2", "lambda p, x: apply_fn(p, x, mask)"],
    ),
    (
        "a batch as a dict",
        lambda: ntk.empirical_nngp(NET, {"image": X, "label": Y}),
        TypeError,
        ["`x1`", "dict of 2", "one array"],
    ),
    (
        "second inputs as a dict",
        lambda: ntk.ntk_vector_product(NET, X, {"x": X}, Y),
        TypeError,
        ["`x2`", "dict of 1", "one array"],
    ),
    (
        "masked inputs",
        lambda: ntk.empirical_ntk(NET, np.ma.masked_array(np.ones((4, 3)), mask=np.eye(4, 3))),
        TypeError,
        ["`x1`", "mask", "filled"],
    ),
    ("sparse inputs", lambda: ntk.empirical_ntk(NET, scipy.sparse.eye(3)), TypeError, ["`x1`", "dense", "todense"]),
    (
        "inputs sparse in JAX",
        lambda: ntk.empirical_ntk(NET, BCOO.fromdense(X)),
        TypeError,
        ["`x1`", "dense", "BCOO", "todense"],
    ),
    (
        "rows of two lengths",
        lambda: ntk.empirical_ntk(NET, [[1.0, 2.0, 3.0], [1.0]]),
        ValueError,
        ["`x1`", "rows of equal length"],
    ),
    (
        "objects as inputs",
        lambda: ntk.empirical_ntk(NET, np.array([[1.0, 2.0, None]])),
        TypeError,
        ["`x1`", "numbers", "object", "dtype=float"],
    ),
    ("words as inputs", lambda: ntk.empirical_ntk(NET, [["a", "b"]]), TypeError, ["`x1`", "numbers", "<U1"]),
    (
        "bytes into a convolution",
        lambda: ntk.empirical_ntk(cnn(), IMAGES.astype(np.uint8)),
        TypeError,
        ["`model`", "uint8", "astype(jnp.float32)", "255"],
    ),
    (
        "a whole number among the parameters",
        lambda: ntk.empirical_ntk((lambda p, x: p["scale"] * x, {"scale": 1}), X),
        TypeError,
        ["`params['scale']`", "floating-point", "int 1", "1.0", "{**p, ...}"],
    ),
    (
        "integers among the parameters",
        lambda: ntk.linearize((lambda p, x: x @ p[0][p[1]], [Y[:3], jnp.arange(3)])),
        TypeError,
        ["`params[1]`", "floating-point", "int32 of shape (3,)"],
    ),
    (
        "words among the parameters",
        lambda: ntk.empirical_nngp((lambda p, x: x, {"name": "net"}), X),
        TypeError,
        ["`params['name']`", "floating-point", "str 'net'"],
    ),
    (
        "NaN among the parameters",
        lambda: ntk.empirical_ntk((lambda p, x: x @ p["w"], {"w": Y[:3].at[0].set(jnp.nan)}), X),
        ValueError,
        ["`params['w']`", "finite", "2 of 6", "learning rate"],
    ),
    (
        "NNGP of a diverged network",
        lambda: ntk.empirical_nngp(diverged(), X),
        ValueError,
        ["`params['layers'][0]['W']`", "finite", "15 of 15"],
    ),
    (
        "batch statistics",
        lambda: ntk.empirical_ntk((lambda w, x: (x - x.mean(0)) @ w, Y[:3]), jnp.eye(4)[:, :3]),
        ValueError,
        ["`model`", "each example by itself", "running averages", "deterministic=True"],
    ),
    (
        "one example at a time",
        lambda: ntk.empirical_ntk((lambda w, x: x.reshape(1, 3) @ w, Y[:3]), X),
        ValueError,
        ["`model`", "any number of examples", "fails on 4"],
    ),
    ("no outputs", lambda: ntk.empirical_ntk((lambda w, x: x[:, :0], Y), X), ValueError, ["`model`", "at least one"]),
    (
        "a batch of one size only",
        lambda: ntk.empirical_ntk((lambda w, x: x.reshape(4, 3) @ w, Y[:3]), X),
        ValueError,
        ["`model`", "any number of examples", "takes 4", "a single one"],
    ),
    (
        "outputs that are complex",
        lambda: ntk.empirical_ntk((lambda w, x: x @ w, 1j * Y[:3]), X),
        TypeError,
        ["`model`", "real outputs", "complex64", "f.imag"],
    ),
    (
        "module that needs more than inputs",
        lambda: ntk.empirical_ntk(nnx.RNN(nnx.LSTMCell(3, 2, rngs=RNGS)).cell, X),
        TypeError,
        ["`model`", "inputs alone", "LSTMCell", "nnx.merge"],
    ),
    (
        "module without a call",
        lambda: ntk.empirical_ntk(nnx.List([nnx.Linear(3, 2, rngs=RNGS)]), X),
        TypeError,
        ["`model`", "`__call__`", "List"],
    ),
    (
        "Linen with parameters in place of variables",
        lambda: ntk.empirical_ntk((Linen(), X), X),
        TypeError,
        ["variables", "module.init"],
    ),
    (
        "a number of devices for a mesh",
        lambda: ntk.empirical_ntk(NET, X, mesh=2),
        TypeError,
        ["`mesh`", "jax.make_mesh", "int 2"],
    ),
    (
        "a mesh inside jit",
        lambda: jax.jit(lambda x: ntk.empirical_ntk(NET, x, mesh=jax.make_mesh((1,), ("rows",))))(X),
        ValueError,
        ["`mesh`", "jit", "jax.shard_map"],
    ),
    ("a vector of other inputs", lambda: product(v=Y[:3]), ValueError, ["`v`", "[M, K] = [4, 2]", "(3, 2)"]),
    ("a vector of other outputs", lambda: product(v=Y[:, :1]), ValueError, ["`v`", "[M] = [4]", "(4, 1)"]),
    ("a vector of NaN", lambda: product(v=Y * jnp.nan), ValueError, ["`v`", "finite", "8 of 8"]),
    ("a complex vector", lambda: product(v=1j * Y), TypeError, ["`v`", "real", "v.imag"]),
    (
        "product without parameters",
        lambda: ntk.ntk_vector_product((lambda p, x: x, {}), X, None, X),
        ValueError,
        ["`model`", "no parameters"],
    ),
    (
        "an output too large among many",
        lambda: ntk.empirical_nngp((lambda p, x: x * p, jnp.ones(3)), jnp.ones((9, 3)).at[3].set(1e30)),
        ValueError,
        ["`model`", "squares", "float32", "`x1`"],
    ),
    (
        "an output that is infinite among many",
        lambda: ntk.empirical_ntk((lambda p, x: jnp.exp(x * p), jnp.ones(3)), jnp.eye(9, 3).at[3].set(1e30)),
        FloatingPointError,
        ["inputs 0 and 3", "no finite output"],
    ),
    (
        "networks without parameters",
        lambda: drawn(build=lambda rngs: (lambda p, x: x, {})),
        ValueError,
        ["`build`", "parameters", "none"],
    ),
    ("a single draw", lambda: drawn(draws=1), ValueError, ["`draws`", "at least 2", "1"]),
    ("half a draw", lambda: drawn(draws=2.5), TypeError, ["`draws`", "whole number", "2.5"]),
    ("a seed for a key", lambda: drawn(key=0), TypeError, ["`key`", "jax.random.key(0)", "int"]),
    ("many keys", lambda: drawn(key=jax.random.split(jax.random.key(0))), TypeError, ["`key`", "one"]),
    ("a network for its builder", lambda: drawn(build=NET), TypeError, ["`build`", "function", "rngs=rngs", "Serial"]),
    ("a builder without rngs", lambda: drawn(build=lambda: NET), TypeError, ["`build`", "nnx.Rngs", "argument"]),
    ("a builder of numbers", lambda: drawn(build=lambda rngs: 3), TypeError, ["`build`", "int"]),
    (
        "a builder of ever other networks",
        lambda: drawn(build=lambda rngs: nnx.Sequential(nnx.Linear(3, 2, rngs=rngs), lambda x: x)),
        ValueError,
        ["`build`", "one structure", "lambda"],
    ),
    # function space
    (
        "kernel not square",
        lambda: ntk.gradient_flow(THETA[:3], Y, t=1.0),
        ValueError,
        ["`ntk_train`", "square", "(3, 4)"],
    ),
    (
        "kernel not symmetric",
        lambda: ntk.gradient_flow(THETA.at[0, 1].set(1.0), Y, t=1.0),
        ValueError,
        ["`ntk_train`", "symmetric", "different"],
    ),
    ("kernel not positive", lambda: ntk.gradient_flow(-THETA, Y, t=1.0), ValueError, ["`ntk_train`", "semi-definite"]),
    (
        "kernel indefinite",
        lambda: ntk.gradient_flow(THETA.at[0, 1].set(3.0).at[1, 0].set(3.0), Y, t=1.0),
        ValueError,
        ["`ntk_train`", "smallest eigenvalue", "-2", "float64"],
    ),
    (
        "target of one axis",
        lambda: ntk.gradient_flow(THETA, Y[:, 0], t=1.0),
        ValueError,
        ["`y`", "[N, K]", "y[:, None]"],
    ),
    (
        "labels for targets",
        lambda: ntk.gradient_flow(THETA, jnp.arange(4), t=1.0),
        ValueError,
        ["`y`", "labels", "one_hot_centered"],
    ),
    ("targets of other rows", lambda: ntk.gradient_flow(THETA, Y[:3], t=1.0), ValueError, ["`y`", "4 rows", "got 3"]),
    ("start of another shape", lambda: ntk.gradient_flow(THETA, Y, t=1.0, f0=Y[:, :1]), ValueError, ["`f0`", "(4, 2)"]),
    ("negative time", lambda: ntk.gradient_flow(THETA, Y, t=-1.0), ValueError, ["`t`", "negative", "-1"]),
    ("times backwards", lambda: ntk.gradient_flow(THETA, Y, t=jnp.array([2.0, 1.0])), ValueError, ["`t`", "sort"]),
    ("time NaN", lambda: ntk.gradient_flow(THETA, Y, t=float("nan")), ValueError, ["`t`", "NaN"]),
    (
        "test kernel transposed",
        lambda: ntk.gradient_flow(THETA, Y, t=1.0, ntk_test_train=jnp.ones((4, 7))),
        ValueError,
        ["`ntk_test_train`", "[M, N]", "ntk_test_train.T"],
    ),
    (
        "test start without test kernel",
        lambda: ntk.gradient_flow(THETA, Y, t=1.0, f0_test=Y),
        ValueError,
        ["`f0_test`", "`ntk_test_train`"],
    ),
    ("a Kernel for its matrix", lambda: ntk.gradient_flow(NET.kernel(X), Y, t=1.0), TypeError, ["`ntk_train`", ".ntk"]),
    ("empirical kernel of one vector", lambda: ntk.empirical_ntk(NET, X[0]), ValueError, ["`x1`", "x1[None]"]),
    (
        "unknown way to an empirical kernel",
        lambda: ntk.empirical_ntk(NET, X, method="layers"),
        ValueError,
        ["`method`", "'layers'", "'layerwise'"],
    ),
    (
        "unknown outputs of an empirical kernel",
        lambda: ntk.empirical_ntk(NET, X, outputs="trace"),
        ValueError,
        ["`outputs`", "'trace'", "'mean'"],
    ),
    ("no memory", lambda: ntk.empirical_ntk(NET, X, max_memory=0), ValueError, ["`max_memory`", "greater than 0", "0"]),
    (
        "memory in words",
        lambda: ntk.empirical_ntk(NET, X, max_memory="1 GB"),
        TypeError,
        ["`max_memory`", "number", "1 GB"],
    ),
    (
        "too little memory",
        lambda: ntk.empirical_ntk(NET, X, max_memory=1000),
        ValueError,
        ["`max_memory`", "1000", "one pair", "would do"],
    ),
    ("half a batch", lambda: ntk.empirical_ntk(NET, X, tile=0.5), TypeError, ["`tile`", "whole number"]),
    # training
    ("no steps", lambda: train(steps=0), ValueError, ["`steps`", "at least 1"]),
    ("unknown loss", lambda: train(loss="mes"), ValueError, ["`loss`", "'mse'"]),
    (
        "batch larger than the data",
        lambda: train(batch_size=5, key=jax.random.key(0)),
        ValueError,
        ["`batch_size`", "4"],
    ),
    ("batches without a key", lambda: train(batch_size=2), ValueError, ["`key`", "jax.random.key(0)"]),
    ("targets of other width", lambda: train(y=Y[:, :1]), ValueError, ["`y`", "1 outputs", "2"]),
    ("records out of order", lambda: train(record_at=[2, 1]), ValueError, ["`record_at`", "ascending"]),
    ("records after the end", lambda: train(record_at=[0, 3]), ValueError, ["`record_at`", "steps=2"]),
    # data
    ("unknown data", lambda: ntk.load("mnist_5k"), ValueError, ["mnist_5k", "mnist5k"]),
    ("more data than there are", lambda: ntk.load("mnist5k", n_train=4001), ValueError, ["n_train", "4,000"]),
    ("half an image", lambda: ntk.load("mnist5k", n_train=2.5), TypeError, ["n_train", "2.5"]),
    ("labels that are floats", lambda: ntk.one_hot_centered(np.ones(3), 2), TypeError, ["labels", "float"]),
    ("label out of range", lambda: ntk.one_hot_centered(np.array([0, 2]), 2), ValueError, ["labels", "2"]),
    ("whitening before fitting", lambda: ntk.ZCA(0.1).transform(np.ones((2, 3))), RuntimeError, ["fit"]),
    *[
        (f"data of the name {name!r}", lambda name=name: ntk.load(name), ValueError, ["`name`", "no option", "Known: "])
        for name in (None, True, 5, b"mnist5k", "", "MNIST", ["mnist5k"], np.array(["mnist5k", "digits"]))
    ],
    *[
        (f"data with {argument}={value!r}", lambda a=argument, v=value: data(**{a: v}), kind, [f"`{argument}`", words])
        for argument, value, kind, words in (
            ("n_train", True, TypeError, "whole number; got bool"),
            ("n_train", "5", TypeError, "got str"),
            ("n_train", [5], TypeError, "got list"),
            ("n_train", float("nan"), TypeError, "nan"),
            ("n_train", 0, ValueError, "at least 1"),
            ("n_train", -3, ValueError, "-3"),
            ("n_train", 10**30, ValueError, "at most 4,000"),
            ("n_test", 5.0, TypeError, "5.0"),
            ("n_test", np.ones(2, int), TypeError, "whole number"),
            ("n_test", 1_001, ValueError, "at most 1,000"),
            ("seed", -1, ValueError, "at least 0"),
            ("seed", None, TypeError, "NoneType"),
            ("seed", 1.5, TypeError, "1.5"),
            ("seed", jax.random.key(0), TypeError, "whole number"),
        )
    ],
    ("fewer images than there are", lambda: data().augmented(5), ValueError, ["`n_train`", "at least 10", "5"]),
    (
        "more images than can differ",
        lambda: data().augmented(10**14),
        ValueError,
        ["`n_train`", "at most 250", "`shift`"],
    ),
    ("half an augmented image", lambda: data().augmented(20.5), TypeError, ["`n_train`", "20.5"]),
    ("images moved by nothing", lambda: data().augmented(20, shift=0), ValueError, ["`shift`", "at least 1"]),
    (
        "images moved out of sight",
        lambda: data().augmented(20, shift=28),
        ValueError,
        ["`shift`", "less than 28", "got 28"],
    ),
    ("images moved by true", lambda: data().augmented(20, shift=True), TypeError, ["`shift`", "bool"]),
    ("augmented without a seed", lambda: data().augmented(20, seed=None), TypeError, ["`seed`", "NoneType"]),
    ("augmented with a seed below 0", lambda: data().augmented(20, seed=-1), ValueError, ["`seed`", "at least 0"]),
    ("augmented vectors", lambda: data().flat().augmented(20), ValueError, ["before `flat()`", "(10, 784)"]),
    ("labels that are true or false", lambda: ntk.one_hot_centered([True, False], 2), TypeError, ["`labels`", "bool"]),
    ("labels that are words", lambda: ntk.one_hot_centered(["cat"], 2), TypeError, ["`labels`", "integers"]),
    ("no labels", lambda: ntk.one_hot_centered(None, 2), TypeError, ["`labels`", "array"]),
    (
        "labels that are one-hot",
        lambda: ntk.one_hot_centered(np.eye(3, dtype=int), 3),
        ValueError,
        ["`labels`", "argmax"],
    ),
    ("labels below 0", lambda: ntk.one_hot_centered([-1, 0], 2), ValueError, ["`labels`", "from -1"]),
    ("targets of one class", lambda: ntk.one_hot_centered([0, 0], 1), ValueError, ["`classes`", "at least 2"]),
    ("targets of true classes", lambda: ntk.one_hot_centered([0, 1], True), TypeError, ["`classes`", "bool"]),
    # whitening
    *[
        (f"whitening with epsilon={value!r}", lambda value=value: ntk.ZCA(value), kind, ["`epsilon`", words])
        for value, kind, words in (
            (0.0, ValueError, "greater than 0"),
            (-1, ValueError, "greater than 0"),
            (np.nan, ValueError, "finite"),
            (np.inf, ValueError, "finite"),
            (True, TypeError, "number; got bool"),
            (None, TypeError, "NoneType"),
            ("0.1", TypeError, "str"),
            ([0.1], TypeError, "list"),
            (np.array([0.1]), ValueError, "single number"),
        )
    ],
    ("whitening NaN", lambda: ntk.ZCA(0.1).fit(NAN), ValueError, ["`x`", "finite", "1 of 12"]),
    ("whitening infinity", lambda: ntk.ZCA(0.1).fit(VECTORS * np.inf), ValueError, ["`x`", "finite"]),
    (
        "whitening integers",
        lambda: ntk.ZCA(0.1).fit(np.ones((4, 3), int)),
        TypeError,
        ["`x`", "int64", "astype(float)"],
    ),
    ("whitening bytes", lambda: ntk.ZCA(0.1).fit(np.ones((4, 3), np.uint8)), TypeError, ["`x`", "uint8"]),
    ("whitening booleans", lambda: ntk.ZCA(0.1).fit(np.ones((4, 3), bool)), TypeError, ["`x`", "bool"]),
    ("whitening one vector", lambda: ntk.ZCA(0.1).fit(VECTORS[0]), ValueError, ["`x`", "(6,)", "x[None]"]),
    ("whitening one image", lambda: ntk.ZCA(0.1).fit(PICTURES[0]), ValueError, ["`x`", "(4, 4, 3)", "x[None]"]),
    ("whitening nothing", lambda: ntk.ZCA(0.1).fit(VECTORS[:0]), ValueError, ["`x`", "empty"]),
    ("whitening None", lambda: ntk.ZCA(0.1).fit(None), TypeError, ["`x`", "array", "None"]),
    ("whitening constants", lambda: ntk.ZCA(0.1).fit(np.ones((4, 3))), ValueError, ["`x`", "blank"]),
    ("whitening one column", lambda: ntk.ZCA(0.1).fit(VECTORS[:, :1]), ValueError, ["`x`", "blank"]),
    (
        "whitened images of other channels",
        lambda: WHITE.transform(PICTURES[..., :1]),
        ValueError,
        ["(4, 4, 3)", "(4, 4, 1)"],
    ),
    (
        "whitened images of another size",
        lambda: WHITE.transform(PICTURES[:, :2]),
        ValueError,
        ["(4, 4, 3)", "(2, 4, 3)"],
    ),
    (
        "whitened images as vectors",
        lambda: WHITE.transform(PICTURES.reshape(9, 48)),
        ValueError,
        ["(4, 4, 3)", "(48,)"],
    ),
    ("whitened NaN", lambda: WHITE.transform(PICTURES * np.nan), ValueError, ["`x`", "finite"]),
    ("whitened integers", lambda: WHITE.transform(PICTURES.astype(int)), TypeError, ["`x`", "int64"]),
    (
        "whitened on another scale altogether",
        lambda: ntk.ZCA(0.1).fit(VECTORS * 1e-200).transform(VECTORS * 1e200),
        ValueError,
        ["`x`", "too large"],
    ),
    # figures
    (
        "a figure of one seed",
        lambda: plotting.mean_and_error(MEASURED[:1]),
        ValueError,
        ["`samples`", "two seeds", "(1, 4)"],
    ),
    ("a figure of a number", lambda: plotting.mean_and_error(3.0), ValueError, ["`axis`", "()"]),
    (
        "seeds along an axis that is none",
        lambda: plotting.mean_and_error(MEASURED, axis=2),
        ValueError,
        ["`axis`", "(3, 4)", "2"],
    ),
    ("a slope of zeros", lambda: plotting.fit_slope(WIDTHS, MEASURED * 0), ValueError, ["`samples`", "positive"]),
    ("a slope of NaN", lambda: plotting.fit_slope(WIDTHS, MEASURED * np.nan), ValueError, ["`samples`", "finite"]),
    ("a slope at NaN", lambda: plotting.fit_slope(WIDTHS * np.nan, MEASURED), ValueError, ["`x`", "finite"]),
    ("a slope at one width", lambda: plotting.fit_slope([8, 8], MEASURED[:, :2]), ValueError, ["`x`", "two different"]),
    (
        "a slope of swapped axes",
        lambda: plotting.fit_slope(WIDTHS, MEASURED.T),
        ValueError,
        ["`samples`", "[seeds, 4]", "(4, 3)"],
    ),
    (
        "a rate of one seed",
        lambda: plotting.rate(None, WIDTHS, MEASURED[0], label="a"),
        ValueError,
        ["`samples`", "(4,)"],
    ),
    (
        "a theory for other points",
        lambda: plotting.theory_and_measurement(None, WIDTHS, WIDTHS[:2], MEASURED, label="a"),
        ValueError,
        ["`theory`", "[4]", "(2,)"],
    ),
    ("a heat map of a vector", lambda: plotting.heatmap(None, WIDTHS, label="a"), ValueError, ["`matrix`", "(4,)"]),
    (
        "a heat map of blocks",
        lambda: plotting.heatmap(None, np.ones((2, 2, 3)), label="a"),
        ValueError,
        ["`matrix`", "(2, 2, 3)"],
    ),
    (
        "a phase diagram turned around",
        lambda: plotting.phase_diagram(None, WIDTHS, WIDTHS[:3], MEASURED, WIDTHS[:3]),
        ValueError,
        ["`xi_c`", "(3, 4)", "(4,)"],
    ),
    (
        "a phase diagram with half a line",
        lambda: plotting.phase_diagram(None, WIDTHS[:3], WIDTHS, MEASURED, WIDTHS[:2]),
        ValueError,
        ["`line`", "`b_std`", "(2,)"],
    ),
    (
        "a cobweb of a point",
        lambda: plotting.cobweb(None, WIDTHS, WIDTHS, 0.5, label="a"),
        ValueError,
        ["`path`", "()"],
    ),
    (
        "a cobweb of half a map",
        lambda: plotting.cobweb(None, WIDTHS, WIDTHS[:2], WIDTHS, label="a"),
        ValueError,
        ["`mapped`", "(2,)"],
    ),
    (
        "pictures without channels",
        lambda: plotting.images([None], np.ones((1, 4, 4)), ["a"]),
        ValueError,
        ["`pictures`", "(1, 4, 4)"],
    ),
    (
        "pictures of two channels",
        lambda: plotting.images([None], np.ones((1, 4, 4, 2)), ["a"]),
        ValueError,
        ["`pictures`", "1 or 3"],
    ),
    (
        "pictures with too few titles",
        lambda: plotting.images([None] * 2, PICTURES[:2], ["a"]),
        ValueError,
        ["`titles`", "1 titles"],
    ),
    # models made from models
    ("linearize an array", lambda: ntk.linearize(X), TypeError, ["`model`", "(apply_fn, params)"]),
    ("half an order", lambda: ntk.taylor(NET, 1.5), TypeError, ["`order`", "whole number", "1.5"]),
    ("negative order", lambda: ntk.taylor(NET, -1), ValueError, ["`order`", "at least 0", "-1"]),
    ("scale by zero", lambda: ntk.scale_output(NET, 0.0), ValueError, ["`alpha`", "greater than 0", "0.0"]),
    ("scale by text", lambda: ntk.scale_output(NET, "10"), TypeError, ["`alpha`", "number", "10"]),
    (
        "complex inputs beyond float32",
        lambda: ntk.empirical_ntk((lambda w, x: x.real @ w, Y[:3]), np.full((4, 3), 1e300j)),
        ValueError,
        ["`x1`", "range of complex64", "1e+300", "Scale it"],
    ),
    (
        "linearized at other parameters",
        lambda: ntk.linearize(NET)({"W": X}, X),
        ValueError,
        ["`params`", "structure", "functional"],
    ),
    (
        "linearized at other shapes",
        lambda: ntk.linearize((lambda w, x: x @ w, Y[:3]))(Y, X),
        ValueError,
        ["`params`", "(3, 2)", "(4, 2)"],
    ),
    (
        "linearized and called backwards",
        lambda: ntk.linearize(NET)(X, ntk.functional(NET)[1]),
        TypeError,
        ["swapped", "f_lin(params, x)"],
    ),
    (
        "one array of parameters, linearized and called backwards",
        lambda: ntk.linearize((lambda w, x: x @ w, Y[:3]))(X, Y[:3]),
        TypeError,
        ["swapped", "f_lin(params, x)"],
    ),
    (
        "linearized at several inputs",
        lambda: ntk.linearize(NET)(ntk.functional(NET)[1], {"x": X}),
        TypeError,
        ["`x`", "one array", "dict of 1"],
    ),
    # function space
    (
        "negative ridge",
        lambda: ntk.gradient_flow(THETA, Y, t=1.0, ridge=-0.1),
        ValueError,
        ["`ridge`", "at least 0", "-0.1"],
    ),
    ("half a step", lambda: descend(steps=1.5), ValueError, ["`steps`", "whole", "1.5"]),
    ("negative steps", lambda: descend(steps=-1), ValueError, ["`steps`", "whole", "-1"]),
    ("steps backwards", lambda: descend(steps=[3, 1]), ValueError, ["`steps`", "sort"]),
    ("a table of steps", lambda: descend(steps=[[1, 2]]), ValueError, ["`steps`", "(1, 2)"]),
    (
        "negative learning rate of descent",
        lambda: descend(learning_rate=-0.1),
        ValueError,
        ["`learning_rate`", "at least 0", "-0.1"],
    ),
    ("momentum of one", lambda: descend(momentum=1.0), ValueError, ["`momentum`", "below 1", "1.0"]),
    (
        "no end above the stable rate",
        lambda: descend(learning_rate=9.0, steps=jnp.inf),
        ValueError,
        ["`learning_rate` = 9", "8", "Use a smaller one"],
    ),
    ("start of another shape in descent", lambda: descend(f0=Y[:, :1]), ValueError, ["`f0`", "(4, 2)"]),
    (
        "test start without test kernel of descent",
        lambda: descend(f0_test=Y),
        ValueError,
        ["`f0_test`", "`ntk_test_train`"],
    ),
    (
        "test kernel transposed of descent",
        lambda: descend(ntk_test_train=jnp.ones((4, 3))),
        ValueError,
        ["`ntk_test_train`", "transposed", ".T"],
    ),
    (
        "limit of a kernel record",
        lambda: ntk.max_learning_rate(NET.kernel(X)),
        TypeError,
        ["`ntk_train`", "Kernel", ".ntk"],
    ),
    (
        "cross-entropy of centred targets",
        lambda: ntk.cross_entropy_flow(THETA, ntk.one_hot_centered(np.arange(4), 4), t=1.0),
        ValueError,
        ["`y`", "probabilities", "jax.nn.one_hot"],
    ),
    (
        "cross-entropy of one class",
        lambda: ntk.cross_entropy_flow(THETA, jnp.ones((4, 1)), t=1.0),
        ValueError,
        ["`y`", "K ≥ 2", "one column"],
    ),
    (
        "cross-entropy for ever",
        lambda: ntk.cross_entropy_flow(THETA, jax.nn.one_hot(jnp.arange(4), 4), t=jnp.inf),
        ValueError,
        ["`t`", "finite", "logits"],
    ),
    (
        "posterior of a singular kernel",
        lambda: ntk.gp_posterior(jnp.ones((4, 4)), Y, THETA, THETA, ridge=0.0),
        ValueError,
        ["`nngp_train`", "singular", "`ridge` = 0", "ridge=1e-4"],
    ),
    (
        "posterior at other test inputs",
        lambda: ntk.gp_posterior(THETA, Y, THETA[:3], THETA, ridge=0.0),
        ValueError,
        ["`nngp_test`", "M = 3", "(4, 4)"],
    ),
    (
        "posterior with negative ridge",
        lambda: ntk.gp_posterior(THETA, Y, THETA, THETA, ridge=-1.0),
        ValueError,
        ["`ridge`", "at least 0"],
    ),
    (
        "leave-one-out of a singular kernel",
        lambda: ntk.loo(jnp.ones((4, 4)), Y, ridge=0.0),
        ValueError,
        ["`ntk_train`", "singular", "`ridge` = 0", "ridge=1e-4"],
    ),
    (
        "leave-one-out of a kernel between two sets",
        lambda: ntk.loo(THETA[:3], Y, ridge=1e-3),
        ValueError,
        ["`ntk_train`", "[N, N]", "(3, 4)"],
    ),
    (
        "leave-one-out with targets of other inputs",
        lambda: ntk.loo(THETA, Y[:3], ridge=1e-3),
        ValueError,
        ["`y`", "4", "3"],
    ),
    (
        "a likelihood that overflows",
        lambda: ntk.log_marginal_likelihood(THETA, 1e30 * Y, ridge=0.1),
        ValueError,
        ["`y`", "1e+30", "float32", "float64"],
    ),
    (
        "likelihood with negative ridge",
        lambda: ntk.log_marginal_likelihood(THETA, Y, ridge=-1.0),
        ValueError,
        ["`ridge`", "at least 0"],
    ),
    (
        "ensemble of arrays",
        lambda: ntk.ensemble_posterior(THETA, Y, t=1.0),
        TypeError,
        ["`kernel_train`", "net.kernel(x)"],
    ),
    (
        "ensemble with half the test kernels",
        lambda: ntk.ensemble_posterior(NET.kernel(X), Y, NET.kernel(X), t=1.0),
        ValueError,
        ["`kernel_test`", "together"],
    ),
    (
        "ensemble of an unknown kernel",
        lambda: ntk.ensemble_posterior(NET.kernel(X), Y, t=1.0, kernel="ntkgp"),
        ValueError,
        ["`kernel`", "'ntk'", "'nngp'"],
    ),
    # estimators
    ("regression by an array", lambda: ntk.KernelRegressor(X).fit(X, Y), TypeError, ["`net`", "Layer", "ntklib.mlp"]),
    (
        "a network and a depth",
        lambda: ntk.KernelRegressor(NET, depth=4).fit(X, Y),
        ValueError,
        ["`depth`", "`net` is None", "both"],
    ),
    (
        "regression with half a layer",
        lambda: ntk.KernelRegressor(depth=2.5).fit(X, Y),
        TypeError,
        ["`depth`", "2.5"],
    ),
    (
        "images without a convolution",
        lambda: ntk.KernelRegressor(depth=1).fit(np.asarray(IMAGES), np.arange(2.0)),
        ValueError,
        ["`depth`", "at least 2"],
    ),
    (
        "regression with an unknown activation",
        lambda: ntk.KernelRegressor(activation="rleu").fit(X, Y),
        ValueError,
        ["`activation`", "'rleu'", "'relu'"],
    ),
    (
        "regression with a function for an activation",
        lambda: ntk.KernelRegressor(activation=jnp.tanh).fit(X, Y),
        TypeError,
        ["`activation`", "Elementwise"],
    ),
    (
        "an unknown readout of a regressor",
        lambda: ntk.KernelRegressor(readout="mean").fit(X, Y),
        ValueError,
        ["`readout`", "'pool'"],
    ),
    (
        "pooling of vectors",
        lambda: ntk.KernelRegressor(readout="pool").fit(X, Y),
        ValueError,
        ["`readout`", "images", "vectors"],
    ),
    (
        "regression on sequences",
        lambda: ntk.KernelRegressor().fit(np.ones((4, 3, 2)), Y),
        ValueError,
        ["`X`", "[N, H, W, C]", "[N, 3, 2]"],
    ),
    (
        "unknown kernel of a regressor",
        lambda: ntk.KernelRegressor(kernel="nkt").fit(X, Y),
        ValueError,
        ["`kernel`", "'nkt'", "'ntk'"],
    ),
    (
        "regression with a ridge by a word",
        lambda: ntk.KernelRegressor(ridge="cv").fit(X, Y),
        ValueError,
        ["`ridge`", "loo", "evidence", "cv"],
    ),
    (
        "conjugate gradients with a ridge to be chosen",
        lambda: ntk.KernelRegressor(ridge="loo", solver="cg").fit(X, Y),
        ValueError,
        ["`ridge`", "number", 'solver="cholesky"'],
    ),
    (
        "regression with negative ridge",
        lambda: ntk.KernelRegressor(ridge=-1.0).fit(X, Y),
        ValueError,
        ["`ridge`", "at least 0"],
    ),
    (
        "regression on equal inputs",
        lambda: ntk.KernelRegressor(ridge=0.0).fit(X, Y),
        ValueError,
        ["singular", "`ridge` = 0", "ridge=1e-4"],
    ),
    (
        "regression on other features",
        lambda: ntk.KernelRegressor(NET).fit(X[:, :2], Y),
        ValueError,
        ["3 features", "has 2"],
    ),
    (
        "a regression on inputs of zero",
        lambda: ntk.KernelRegressor(b_std=0.0, ridge="loo").fit(0 * X, Y),
        ValueError,
        ["kernel", "zero", "`b_std`"],
    ),
    (
        "a ridge for targets without squares",
        lambda: ntk.KernelRegressor(ridge="evidence").fit(np.eye(4), np.full(4, 1e200)),
        ValueError,
        ["`y`", "1e+200", '"evidence"'],
    ),
    ("one class", lambda: ntk.KernelClassifier().fit(X, np.zeros(4, int)), ValueError, ["`y`", "two classes"]),
    ("prediction before fitting", lambda: ntk.KernelRegressor().predict(X), NotFittedError, ["not fitted"]),
    # signal propagation
    (
        "an infinite variance",
        double(lambda: ntk.variance_map(ntk.Tanh(), 1.0, 0.0, [1.0, np.inf])),
        ValueError,
        ["`q`", "finite", "got inf"],
    ),
    (
        "a word for a scale",
        double(lambda: ntk.variance_map(ntk.Tanh(), "1", 0.0, 1.0)),
        TypeError,
        ["`w_std`", "real number", "'1'"],
    ),
    (
        "a profile whose variance diverges",
        double(lambda: profile(activation=ntk.Gelu(), w_std=3.0, depths=[10, 1000], q=1.0)),
        ValueError,
        ["gelu", "diverges", "depth 1000", "`w_std`"],
    ),
    (
        "a profile whose variance vanishes",
        double(lambda: profile(w_std=0.5, b_std=0.0, depths=[10, 1000], q=1.0)),
        ValueError,
        ["tanh", "vanishes", "depth 1000", "`depths`"],
    ),
    (
        "a profile of a network without weights",
        double(lambda: profile(activation=ntk.Relu(), w_std=0.0, b_std=0.0, depths=[1, 2], q=1.0)),
        ValueError,
        ["relu", "vanishes", "depth 2"],
    ),
    (
        "the edge of chaos of nothing",
        double(lambda: ntk.edge_of_chaos(ntk.Elementwise(jnp.zeros_like), 0.0)),
        ValueError,
        ["zeros_like", "no edge of chaos", "zero"],
    ),
    (
        "a profile beyond the reach of quadrature",
        double(lambda: profile(activation=ntk.Silu(), w_std=3.0, depths=[60], q=1.0)),
        ValueError,
        ["silu", "closed form", "1e+12"],
    ),
    (
        "a correlation beyond the reach of quadrature",
        double(lambda: ntk.chi(ntk.Silu(), 1.0, q=1e20)),
        ValueError,
        ["silu", "1e+20", "1e+12"],
    ),
    (
        "propagation in single precision",
        lambda: ntk.edge_of_chaos(ntk.Tanh(), 0.1),
        ValueError,
        ["float64", "jax_enable_x64", "jax.enable_x64(True)"],
    ),
    (
        "profile in single precision",
        lambda: ntk.ntk_depth_profile(ntk.Relu(), 1.0, 0.1, [3], rho=0.5),
        ValueError,
        ["float64"],
    ),
    (
        "a function for an activation",
        double(lambda: ntk.edge_of_chaos(jnp.tanh, 0.1)),
        TypeError,
        ["`activation`", "ntklib.Elementwise(jnp.arctan)"],
    ),
    (
        "activation that is no scalar function",
        lambda: ntk.Elementwise(lambda x: x.sum()),
        ValueError,
        ["`fn`", "scalar"],
    ),
    (
        "negative b_std on the line",
        double(lambda: ntk.edge_of_chaos(ntk.Tanh(), -0.1)),
        ValueError,
        ["`b_std`", "not negative", "-0.1"],
    ),
    (
        "negative w_std of a phase",
        double(lambda: ntk.phase(ntk.Tanh(), -1.0, 0.1)),
        ValueError,
        ["`w_std`", "not negative", "-1"],
    ),
    (
        "line of softplus",
        double(lambda: ntk.edge_of_chaos(ntk.Elementwise(jax.nn.softplus), 0.1)),
        ValueError,
        ["softplus", "no edge of chaos", "none at any"],
    ),
    (
        "line of a jump",
        double(lambda: ntk.edge_of_chaos(ntk.Sign(), 0.0)),
        ValueError,
        ["sign", "jumps at zero", "`correlation_map`"],
    ),
    (
        "phase of a jump",
        double(lambda: ntk.phase(ntk.Elementwise(lambda x: jnp.heaviside(x, 0.5)), 1.0, 0.3)),
        ValueError,
        ["jumps at zero", "`correlation_map`"],
    ),
    (
        "line of sigmoid below its start",
        double(lambda: ntk.edge_of_chaos(ntk.Relu(), 0.1)),
        ValueError,
        ["`b_std`", "1.414", "0.1"],
    ),
    (
        "correlation above one",
        double(lambda: ntk.correlation_map(ntk.Tanh(), 1.0, 0.1, 1.1, q=1.0)),
        ValueError,
        ["`c`", "-1 and 1", "1.1"],
    ),
    (
        "decorrelation above two",
        double(lambda: ntk.decorrelation_map(ntk.Tanh(), 1.0, 0.1, 2.1, q=1.0)),
        ValueError,
        ["`delta`", "0 and 2"],
    ),
    (
        "variance below zero",
        double(lambda: ntk.variance_map(ntk.Tanh(), 1.0, 0.1, -1.0)),
        ValueError,
        ["`q`", "not negative"],
    ),
    ("depth zero", double(lambda: profile(depths=[0, 3])), ValueError, ["`depths`", "positive whole", "[0, 3]"]),
    ("half a depth", double(lambda: profile(depths=[1.5])), ValueError, ["`depths`", "positive whole", "1.5"]),
    ("depths backwards", double(lambda: profile(depths=[3, 2])), ValueError, ["`depths`", "ascend"]),
    ("rho above one", double(lambda: profile(rho=1.2)), ValueError, ["`rho`", "-1 and 1", "1.2"]),
    ("rho and delta", double(lambda: profile(delta=0.1)), ValueError, ["`rho`", "`delta`", "one of the two"]),
    (
        "profile of a diverging variance",
        double(lambda: profile(activation=ntk.Relu(), w_std=2.0)),
        ValueError,
        ["relu", "diverges", "`q`"],
    ),
    ("residual profile without variance", double(lambda: profile(residual="plain")), ValueError, ["`q`", "residual"]),
    (
        "unknown residual",
        double(lambda: profile(residual="1/l", q=1.0)),
        ValueError,
        ["`residual`", "'1/l'", "'plain'"],
    ),
    # SGD with noise
    ("SGD batch larger than the data", lambda: noisy(batch_size=5), ValueError, ["`batch_size`", "4", "replace=True"]),
    ("SGD batch of nothing", lambda: noisy(batch_size=0), ValueError, ["`batch_size`", "at least 1"]),
    ("half an example in a batch", lambda: noisy(batch_size=2.5), TypeError, ["`batch_size`", "whole number", "2.5"]),
    ("SGD steps backwards", lambda: noisy(steps=[3, 1]), ValueError, ["`steps`", "sort"]),
    ("SGD steps below zero", lambda: noisy(steps=-1), ValueError, ["`steps`", "from 0", "-1"]),
    ("SGD without end", lambda: noisy(steps=jnp.inf), ValueError, ["`steps`", "finite", "stationary_covariance"]),
    ("SGD uphill", lambda: noisy(learning_rate=-0.1), ValueError, ["`learning_rate`", "at least 0", "-0.1"]),
    ("negative label noise", lambda: noisy(label_noise=-1.0), ValueError, ["`label_noise`", "at least 0"]),
    ("SGD start of another shape", lambda: noisy(f0=Y[:, :1]), ValueError, ["`f0`", "(4, 2)"]),
    (
        "SGD test kernel transposed",
        lambda: noisy(ntk_test_train=jnp.ones((4, 7))),
        ValueError,
        ["`ntk_test_train`", "ntk_test_train.T"],
    ),
    (
        "SGD kernel not symmetric",
        lambda: noisy(ntk_train=THETA.at[0, 1].set(1.0)),
        ValueError,
        ["`ntk_train`", "symmetric"],
    ),
    ("no runs of SGD", lambda: runs(runs=0), ValueError, ["`runs`", "at least 1"]),
    (
        "epochs that do not come out even",
        lambda: runs(batch_size=3, reshuffle=True),
        ValueError,
        ["`reshuffle`", "divide 4", "3"],
    ),
    ("residual of one axis", lambda: ntk.noise_covariance(Y[:, 0], 2), ValueError, ["`residual`", "residual[:, None]"]),
    (
        "no stationary law",
        lambda: ntk.stationary_covariance(THETA, Y, learning_rate=9.0, batch_size=1),
        ValueError,
        ["`learning_rate`", "mean-square limit, 2", "9.0", "larger batches"],
    ),
    (
        "no stationary law of full batches, which cannot be larger",
        lambda: ntk.stationary_covariance(THETA, Y, learning_rate=9.0, batch_size=len(Y), label_noise=1.0),
        ValueError,
        ["`learning_rate`", "9.0. Lower it."],
    ),
    (
        "a diffusion without end",
        lambda: ntk.langevin(THETA, Y, learning_rate=0.1, batch_size=1, t=jnp.inf),
        ValueError,
        ["`t`", "finite", "stationary_covariance"],
    ),
    (
        "limit of a transposed kernel",
        lambda: ntk.mean_square_limit(THETA[:3], 1),
        ValueError,
        ["`ntk_train`", "square", "(3, 4)"],
    ),
    # convolutions
    ("convolution of vectors", lambda: image_net()(X), ValueError, ["images [N, H, W, C]", "(4, 3)"]),
    (
        "kernel of a convolution of vectors",
        lambda: image_net().kernel(X),
        ValueError,
        ["images [N, H, W, C]", "(4, 3)"],
    ),
    (
        "kernel of pooled vectors",
        lambda: image_net(ntk.GlobalAvgPool()).kernel(X),
        ValueError,
        ["pooling", "images", "(4, 3)"],
    ),
    ("convolution of other channels", lambda: image_net()(IMAGES[..., :1]), ValueError, ["2 features", "has 1"]),
    ("kernel of other channels", lambda: image_net().kernel(IMAGES[..., :1]), ValueError, ["2 features", "has 1"]),
    (
        "unknown padding",
        lambda: ntk.Conv(2, 3, 3, padding="SAM", **DENSE),
        ValueError,
        ["`padding`", "'SAM'", "'SAME'"],
    ),
    (
        "window of three numbers",
        lambda: ntk.Conv(2, 3, (3, 3, 3), **DENSE),
        ValueError,
        ["`kernel_size`", "(height, width)", "(3, 3, 3)"],
    ),
    ("window of nothing", lambda: ntk.AvgPool(0), ValueError, ["`window`", "at least 1"]),
    (
        "stride of a half",
        lambda: ntk.Conv(2, 3, 3, strides=(1, 0.5), **DENSE),
        TypeError,
        ["`strides`", "whole number"],
    ),
    (
        "image smaller than the window",
        lambda: ntk.Conv(2, 3, 9, padding="VALID", **DENSE).kernel(IMAGES),
        ValueError,
        ["4 pixels", "9", "VALID"],
    ),
    (
        "pooling behind Flatten",
        lambda: image_net(ntk.Flatten(), ntk.GlobalAvgPool()).kernel(IMAGES),
        ValueError,
        ["Flatten", "pool"],
    ),
    (
        "pooling in a residual branch",
        lambda: ntk.Residual(image_net(ntk.GlobalAvgPool(), ntk.Dense(3, 2, **DENSE))),
        ValueError,
        ["`branch`", "pool"],
    ),
    # kernels at scale
    ("gram of a function", lambda: ntk.gram(lambda x: x, X), TypeError, ["`net`", "Layer", "function"]),
    ("gram of one vector", lambda: ntk.gram(NET, X[0]), ValueError, ["`x1`", "[N, d]", "x1[None]"]),
    ("gram of unequal inputs", lambda: ntk.gram(NET, X, X[:, :2]), ValueError, ["`x1` and `x2`", "(3,)", "(2,)"]),
    ("gram of NaN on the host", lambda: ntk.gram(NET, np.asarray(NAN)), ValueError, ["`x1`", "finite", "1 of 12"]),
    ("gram of an unknown kernel", lambda: ntk.gram(NET, X, kernel="nngps"), ValueError, ["`kernel`", "'nngp'"]),
    ("gram with a tile of 0", lambda: ntk.gram(NET, X, tile=0), ValueError, ["`tile`", "at least 1"]),
    ("gram with a wrong mesh", lambda: ntk.gram(NET, X, mesh=2), TypeError, ["`mesh`", "jax.make_mesh", "int"]),
    (
        "gram with too little memory",
        lambda: ntk.gram(NET, X, max_memory=100.0),
        ValueError,
        ["`max_memory`", "100 bytes", "Allow at least"],
    ),
    ("gram with no memory", lambda: ntk.gram(NET, X, max_memory=0), ValueError, ["`max_memory`", "greater than 0"]),
    (
        "gram into somebody's folder",
        lambda: ntk.gram(NET, X, store=pathlib.Path(__file__).parent),
        ValueError,
        ["`store`", "something else", "Nothing was changed"],
    ),
    (
        "gram of images without Flatten",
        lambda: ntk.gram(ntk.Conv(2, 3, 3, **DENSE), IMAGES),
        ValueError,
        ["`net`", "pixel", "Flatten", "GlobalAvgPool"],
    ),
    (
        "gram of a convolution under a Dense layer",
        lambda: ntk.gram(image_net(ntk.Dense(3, 2, **DENSE)), IMAGES),
        ValueError,
        ["Flatten", "GlobalAvgPool"],
    ),
    (
        "conjugate gradients of a convolution under a Dense layer",
        lambda: ntk.cg_solve(image_net(ntk.Dense(3, 2, **DENSE)), IMAGES, Y[:2], ridge=0.1),
        ValueError,
        ["Flatten", "GlobalAvgPool"],
    ),
    (
        "a regressor of a convolution under a Dense layer",
        lambda: ntk.KernelRegressor(image_net(ntk.Dense(3, 2, **DENSE))).fit(np.asarray(IMAGES), np.arange(2.0)),
        ValueError,
        ["Flatten", "GlobalAvgPool"],
    ),
    (
        "gram into another network's store, all inputs equal",
        lambda: stored("", None, net=DEEP),
        ValueError,
        ["`store`", "another network (layers.2.n_out = 2, here 5)", "Nothing was changed", "another place"],
    ),
    (
        "gram into a store with an empty manifest",
        lambda: stored("ntklib.json", b""),
        ValueError,
        ["`store`", "ntklib.json", "no such record", "delete"],
    ),
    (
        "gram into a store whose manifest is a list",
        lambda: stored("ntklib.json", b"[]"),
        ValueError,
        ["`store`", "ntklib.json", "no such record", "delete"],
    ),
    (
        "gram into a store of the old format",
        lambda: stored("ntklib.json", b'{"format": 1, "tile": 2}'),
        ValueError,
        ["`store`", "ntklib.json", "older version", "compute it anew"],
    ),
    (
        "gram into a store with a damaged tile",
        lambda: stored("c/0/1", b"0123456789"),
        ValueError,
        ["`store` is damaged", "/c/0/1", "Delete", "call again"],
    ),
    (
        "gram into a store whose array is not described",
        lambda: stored("zarr.json", b"{"),
        ValueError,
        ["`store` is damaged", "zarr.json", "Delete this file and call again"],
    ),
    (
        "gram into a bucket",
        lambda: ntk.gram(NET, X, store="s3://bucket/kernel"),
        ValueError,
        ["`store`", "on this machine", "'s3://bucket/kernel'"],
    ),
    (
        "gram into another machine's file",
        lambda: ntk.gram(NET, X, store="file://elsewhere/kernel"),
        ValueError,
        ["`store`", "on this machine", "'file://elsewhere/kernel'"],
    ),
    ("gram into a number", lambda: ntk.gram(NET, X, store=5), TypeError, ["`store`", "path", "int 5"]),
    ("gram into nowhere", lambda: ntk.gram(NET, X, store=""), TypeError, ["`store`", "path", "str ''"]),
    (
        "gram into a file",
        lambda: ntk.gram(NET, X, store=__file__),
        ValueError,
        ["`store`", "something else", "wrong_calls.py"],
    ),
    (
        "gram below a file",
        lambda: ntk.gram(NET, X, store=pathlib.Path(__file__, "kernel")),
        ValueError,
        ["`store` cannot be made", "wrong_calls.py", "another place"],
    ),
    (
        "a checkpoint of another network",
        lambda: resumed(None),
        ValueError,
        ["`checkpoint`", "run.npz", "another network (layers.2.n_out = 5, here 2)", "Nothing was changed"],
    ),
    (
        "a checkpoint that was cut short",
        lambda: resumed(b"PK"),
        ValueError,
        ["`checkpoint`", "run.npz", "damaged", "Delete this file"],
    ),
    (
        "a checkpoint on another machine",
        lambda: solve(checkpoint="gs://bucket/run.npz"),
        ValueError,
        ["`checkpoint`", "on this machine", "'gs://bucket/run.npz'"],
    ),
    (
        "a checkpoint in no folder",
        lambda: solve(checkpoint=pathlib.Path(__file__).parent / "nowhere" / "run.npz"),
        ValueError,
        ["`checkpoint`", "no folder", "nowhere"],
    ),
    ("a checkpoint in a number", lambda: solve(checkpoint=5), TypeError, ["`checkpoint`", "path", "int 5"]),
    (
        "conjugate gradients where the kernel overflows",
        lambda: solve(x=1e30 * X),
        ValueError,
        ["`x`", "too large", "float64"],
    ),
    ("conjugate gradients without ridge", lambda: solve(ridge=0.0), ValueError, ["`ridge`", "greater than 0"]),
    ("conjugate gradients without tolerance", lambda: solve(tol=0.0), ValueError, ["`tol`", "greater than 0"]),
    ("conjugate gradients without iterations", lambda: solve(max_iterations=0), ValueError, ["`max_iterations`"]),
    ("a preconditioner below 0", lambda: solve(preconditioner=-1), ValueError, ["`preconditioner`", "at least 0"]),
    ("conjugate gradients on labels", lambda: solve(y=jnp.arange(4)), ValueError, ["`y`", "one_hot_centered"]),
    ("conjugate gradients on fewer targets", lambda: solve(y=Y[:3]), ValueError, ["`y`", "expected 4", "3"]),
    ("conjugate gradients with too little memory", lambda: solve(max_memory=500), ValueError, ["`max_memory`"]),
    (
        "a checkpoint that is none",
        lambda: solve(checkpoint=__file__),
        ValueError,
        ["`checkpoint`", "cg_solve", "wrong_calls.py"],
    ),
    (
        "conjugate gradients that do not converge",
        lambda: solve(x=jnp.eye(4)[:, :3] + 0.1, max_iterations=1, preconditioner=0),
        ntk.NotConvergedError,
        ["after 1 iterations", "`tol`", "max_iterations", "`.result`"],
    ),
    # ready architectures
    (
        "cnn for a batch of images",
        lambda: cnn(input_shape=IMAGES.shape),
        ValueError,
        ["`input_shape`", "(H, W, C)", "(2, 4, 4, 2)", "x.shape[1:]"],
    ),
    ("cnn for half a pixel", lambda: cnn(input_shape=(4, 4.5, 2)), TypeError, ["`input_shape`", "whole number", "4.5"]),
    ("cnn of one number of channels", lambda: cnn(channels=32), ValueError, ["`channels`", "[32, 32, 32]", "got 32"]),
    ("cnn without convolutions", lambda: cnn(channels=[]), ValueError, ["`channels`", "got []"]),
    ("cnn of no channels", lambda: cnn(channels=[3, 0]), ValueError, ["`channels`", "at least 1", "got 0"]),
    ("cnn without outputs", lambda: cnn(outputs=0), ValueError, ["`outputs`", "at least 1"]),
    ("cnn with another readout", lambda: cnn(readout="pooled"), ValueError, ["`readout`", "'pooled'", "'pool'"]),
    ("cnn of an unknown activation", lambda: cnn(activation="relu"), TypeError, ["`activation`", "ntk.Relu()"]),
    (
        "cnn that shrinks to nothing",
        lambda: cnn(kernel_size=4, padding="VALID"),
        ValueError,
        ["1 pixels", "window of 4", "VALID"],
    ),
    ("Myrtle network of another depth", lambda: ntk.myrtle(6, 3, 2, rngs=RNGS), ValueError, ["5, 7 or 10", "6", "cnn"]),
    ("Myrtle network of a list", lambda: ntk.myrtle([5], 3, 2, rngs=RNGS), TypeError, ["`depth`", "whole number"]),
    (
        "images too large for their squares before a mean over pixels",
        lambda: ntk.cnn((2, 2, 1), [2], 1, readout="pool", **DENSE).kernel(jnp.full((1, 2, 2, 1), 1e25)),
        ValueError,
        ["`x1`", "too large", "float32"],
    ),
    ("Myrtle network without channels", lambda: ntk.myrtle(5, 0, 2, rngs=RNGS), ValueError, ["`channels`", "got 0"]),
    (
        "Myrtle kernel of vectors",
        lambda: ntk.myrtle(5, 1, 2, rngs=RNGS).kernel(X),
        ValueError,
        ["pooling", "images", "(4, 3)"],
    ),
]


# ------------------------------------------------------------------- function space, training and parameterizations:
# types, masks, sparse and ragged arrays, None, flags, keys, optimizers, tracers, magnitudes

T3, Y3, X3 = jnp.eye(3) + 0.5, jnp.ones((3, 2)), jnp.eye(3)


def flow(k=THETA, y=Y, **changes):
    """`ntk.gradient_flow` with one thing wrong."""
    return ntk.gradient_flow(k, y, **({"t": 1.0} | changes))


def gp(*parts, **changes):
    """`ntk.gp_posterior` with one thing wrong."""
    parts = parts or (THETA, Y, THETA, THETA)
    return ntk.gp_posterior(*parts, **({"ridge": 0.1} | changes))


def ensemble(**changes):
    """`ntk.ensemble_posterior` with one thing wrong."""
    return ntk.ensemble_posterior(NET.kernel(X), Y, **({"t": 1.0} | changes))


def stationary(**changes):
    """`ntk.stationary_covariance` with one thing wrong."""
    return ntk.stationary_covariance(THETA, Y, **({"learning_rate": 0.1, "batch_size": 1} | changes))


def diffusion(**changes):
    """`ntk.langevin` with one thing wrong."""
    arguments = {"learning_rate": 0.1, "batch_size": 1, "t": 1.0} | changes
    return ntk.langevin(arguments.pop("k", THETA), arguments.pop("y", Y), **arguments)


def logits(**changes):
    """`ntk.cross_entropy_flow` with one thing wrong."""
    arguments = {"t": 1.0} | changes
    return ntk.cross_entropy_flow(THETA, arguments.pop("y", jax.nn.one_hot(jnp.arange(4) % 2, 2)), **arguments)


def classify(y, **changes):
    """`ntk.train` on the cross-entropy with one thing wrong."""
    return train(loss="cross_entropy", y=y, **changes)


def masked(array):
    """With a mask on its first entry."""
    return np.ma.array(np.asarray(array), mask=np.arange(array.size).reshape(array.shape) == 0)


BIG = jnp.full((4, 2), 1e19)
OTHER = ntk.mlp([3, 5, 2], w_std=2.0, rngs=RNGS).kernel

CALLS += [
    # arrays of other kinds
    ("integer kernel", lambda: flow(jnp.eye(4, dtype=int)), TypeError, ["`ntk_train`", "floating", "int32", "astype"]),
    ("boolean kernel", lambda: flow(jnp.eye(4) > 0), TypeError, ["`ntk_train`", "floating", "bool"]),
    ("complex kernel", lambda: flow(THETA + 0j), TypeError, ["`ntk_train`", "floating", "complex64"]),
    ("kernel of objects", lambda: flow(np.eye(4).astype(object)), TypeError, ["`ntk_train`", "numbers", "object"]),
    ("no kernel", lambda: flow(None), TypeError, ["`ntk_train`", "an array", "None"]),
    ("kernel of words", lambda: flow("theta"), TypeError, ["`ntk_train`", "an array", "theta"]),
    ("kernel of ragged rows", lambda: flow([[1.0], [1.0, 2.0]]), ValueError, ["`ntk_train`", "rows of equal length"]),
    ("masked kernel", lambda: flow(masked(THETA)), TypeError, ["`ntk_train`", "mask", "filled"]),
    ("sparse kernel", lambda: flow(scipy.sparse.eye(4)), TypeError, ["`ntk_train`", "dense", "todense()"]),
    ("sparse array of JAX", lambda: flow(BCOO.fromdense(THETA)), TypeError, ["`ntk_train`", "dense", "todense()"]),
    ("kernel in a dict", lambda: flow({"ntk": THETA}), TypeError, ["`ntk_train`", "an array", "dict"]),
    (
        "kernel of keys",
        lambda: flow(jax.random.split(jax.random.key(0), (4, 4))),
        TypeError,
        ["`ntk_train`", "numbers"],
    ),
    ("NaN in a kernel", lambda: flow(THETA.at[0, 0].set(jnp.nan)), ValueError, ["`ntk_train`", "finite", "1 of 16"]),
    ("infinite kernel", lambda: flow(jnp.inf * jnp.ones((4, 4))), ValueError, ["`ntk_train`", "finite", "16 of 16"]),
    ("no targets", lambda: flow(y=None), TypeError, ["`y`", "an array", "None"]),
    ("masked targets", lambda: flow(y=masked(Y)), TypeError, ["`y`", "mask", "filled"]),
    ("sparse targets", lambda: flow(y=scipy.sparse.csr_array(np.ones((4, 2)))), TypeError, ["`y`", "dense"]),
    ("ragged targets", lambda: flow(y=[[1.0], [1.0, 2.0], [1.0], [1.0]]), ValueError, ["`y`", "equal length"]),
    ("complex targets", lambda: flow(y=Y + 1j), TypeError, ["`y`", "floating", "complex64"]),
    ("integer targets", lambda: flow(y=jnp.ones((4, 2), int)), TypeError, ["`y`", "floating", "int32"]),
    ("NaN in targets", lambda: flow(y=NAN[:, :2]), ValueError, ["`y`", "finite", "1 of 8"]),
    ("NaN at the start", lambda: flow(f0=NAN[:, :2]), ValueError, ["`f0`", "finite", "1 of 8"]),
    (
        "NaN in a test kernel",
        lambda: flow(ntk_test_train=NAN.T[:, :4]),
        ValueError,
        ["`ntk_test_train`", "finite", "1 of 12"],
    ),
    ("masked test kernel", lambda: flow(ntk_test_train=masked(THETA)), TypeError, ["`ntk_test_train`", "mask"]),
    ("masked kernel of a posterior", lambda: gp(masked(THETA), Y, THETA, THETA), TypeError, ["`nngp_train`", "mask"]),
    (
        "NaN in a posterior",
        lambda: gp(THETA, Y, THETA, THETA.at[0, 0].set(jnp.nan)),
        ValueError,
        ["`nngp_test`", "finite"],
    ),
    ("a network for a kernel", lambda: flow(NET), TypeError, ["`ntk_train`", "an array", "Serial", "..."]),
    ("posterior without test points", lambda: gp(THETA, Y, None, THETA), TypeError, ["`nngp_test_train`", "None"]),
    ("posterior without their variances", lambda: gp(THETA, Y, THETA, None), TypeError, ["`nngp_test`", "None"]),
    ("labels for logits", lambda: logits(y=jnp.arange(4) % 2), ValueError, ["`y`", "labels", "jax.nn.one_hot"]),
    ("masked residual", lambda: ntk.noise_covariance(masked(Y), 1), TypeError, ["`residual`", "mask"]),
    ("limit of a boolean kernel", lambda: ntk.max_learning_rate(THETA > 0), TypeError, ["`ntk_train`", "bool"]),
    ("mean-square limit of nothing", lambda: ntk.mean_square_limit(None, 1), TypeError, ["`ntk_train`", "None"]),
    ("masked inputs in training", lambda: train(x=masked(X)), TypeError, ["`x`", "mask"]),
    ("a dict of inputs in training", lambda: train(x={"x": X}), TypeError, ["`x`", "one array", "dict"]),
    # times and steps
    ("times that go on after the end", lambda: flow(t=[0, jnp.inf, 1, jnp.inf]), ValueError, ["`t`", "sort"]),
    ("time that is complex", lambda: flow(t=1j), TypeError, ["`t`", "time", "complex"]),
    ("time that is true", lambda: flow(t=True), TypeError, ["`t`", "time", "True"]),
    ("a bool among times", lambda: flow(t=[0.0, True]), TypeError, ["`t`", "time", "True"]),
    ("time in words", lambda: flow(t="end"), TypeError, ["`t`", "time", "end"]),
    ("no time", lambda: flow(t=None), TypeError, ["`t`", "time", "None"]),
    ("no times", lambda: flow(t=[]), ValueError, ["`t`", "[T]", "(0,)"]),
    ("masked times", lambda: flow(t=masked(jnp.ones(2))), TypeError, ["`t`", "mask"]),
    ("time beyond numbers", lambda: flow(t=10**400), ValueError, ["`t`", "1.8e308", "inf"]),
    ("steps that are true", lambda: descend(steps=True), TypeError, ["`steps`", "number of steps", "True"]),
    ("a bool among steps", lambda: descend(steps=[1, True]), TypeError, ["`steps`", "True"]),
    ("complex steps", lambda: descend(steps=2 + 0j), TypeError, ["`steps`", "complex"]),
    ("steps in words", lambda: descend(steps="3"), TypeError, ["`steps`", "number of steps", "3"]),
    ("no steps of descent", lambda: descend(steps=None), TypeError, ["`steps`", "None"]),
    ("more steps than numbers", lambda: descend(steps=10**400), ValueError, ["`steps`", "1.8e308", "inf"]),
    ("time of an ensemble that is true", lambda: ensemble(t=True), TypeError, ["`t`", "True"]),
    ("time of logits that is complex", lambda: logits(t=1j), TypeError, ["`t`", "complex"]),
    ("time of a diffusion that is true", lambda: diffusion(t=True), TypeError, ["`t`", "True"]),
    ("SGD steps that are true", lambda: noisy(steps=True), TypeError, ["`steps`", "True"]),
    ("more steps of SGD than can be counted", lambda: noisy(steps=2**31), ValueError, ["`steps`", "2³¹", "stationary"]),
    ("more steps of training", lambda: train(steps=2**31), ValueError, ["`steps`", "at most 2,147,483,647"]),
    # numbers
    ("ridge that is true", lambda: flow(ridge=True), TypeError, ["`ridge`", "number", "True"]),
    ("complex ridge", lambda: flow(ridge=1j), TypeError, ["`ridge`", "number", "1j"]),
    ("complex ridge of JAX", lambda: flow(ridge=jnp.array(1j)), TypeError, ["`ridge`", "number"]),
    ("ridge in words", lambda: gp(ridge="1e-3"), TypeError, ["`ridge`", "number", "1e-3"]),
    ("no ridge for a posterior", lambda: gp(ridge=None), TypeError, ["`ridge`", "number", "None"]),
    ("two ridges", lambda: flow(ridge=jnp.ones(2)), ValueError, ["`ridge`", "single", "(2,)"]),
    ("NaN ridge", lambda: ensemble(ridge=float("nan")), ValueError, ["`ridge`", "finite"]),
    ("negative ridge of an ensemble", lambda: ensemble(ridge=-1.0), ValueError, ["`ridge`", "at least 0"]),
    ("rate of descent that is true", lambda: descend(learning_rate=True), TypeError, ["`learning_rate`", "number"]),
    ("infinite rate of descent", lambda: descend(learning_rate=jnp.inf), ValueError, ["`learning_rate`", "finite"]),
    ("rate beyond numbers", lambda: descend(learning_rate=10**400), ValueError, ["`learning_rate`", "below 1e308"]),
    ("complex momentum", lambda: descend(momentum=0.5j), TypeError, ["`momentum`", "number", "0.5j"]),
    (
        "no end at the stability limit",
        lambda: descend(learning_rate=8.0, steps=jnp.inf),
        ValueError,
        ["`learning_rate` = 8", "not below", "finite `steps`"],
    ),
    (
        "no end there with momentum",
        lambda: descend(learning_rate=12.0, momentum=0.5, steps=[1, jnp.inf]),
        ValueError,
        ["`learning_rate` = 12", "not below", "12"],
    ),
    (
        "no end there with Nesterov's momentum",
        lambda: descend(learning_rate=6.0, momentum=0.5, nesterov=True, steps=jnp.inf),
        ValueError,
        ["`learning_rate` = 6", "not below", "6"],
    ),
    ("Nesterov by name", lambda: descend(nesterov="nesterov"), TypeError, ["`nesterov`", "True or False", "nesterov"]),
    (
        "limit for a Nesterov of 0.9",
        lambda: ntk.max_learning_rate(THETA, 0.5, nesterov=0.9),
        TypeError,
        ["`nesterov`", "True or False", "0.9"],
    ),
    ("rate of SGD that is true", lambda: noisy(learning_rate=True), TypeError, ["`learning_rate`", "number", "True"]),
    ("complex label noise", lambda: noisy(label_noise=1j), TypeError, ["`label_noise`", "number", "1j"]),
    ("batch that is true", lambda: noisy(batch_size=True), TypeError, ["`batch_size`", "whole number", "True"]),
    (
        "no rate for a stationary law",
        lambda: stationary(learning_rate=0.0),
        ValueError,
        ["`learning_rate`", "greater than 0"],
    ),
    ("tolerance of logits that is true", lambda: logits(rtol=True), TypeError, ["`rtol`", "number", "True"]),
    ("runs that are true", lambda: runs(runs=True), TypeError, ["`runs`", "whole number", "True"]),
    # flags
    ("replacement in words", lambda: noisy(replace="no"), TypeError, ["`replace`", "True or False", "no"]),
    ("replacement by a number", lambda: runs(replace=0), TypeError, ["`replace`", "True or False", "0"]),
    (
        "replacement of noise in words",
        lambda: ntk.noise_covariance(Y, 1, replace="no"),
        TypeError,
        ["`replace`", "True or False"],
    ),
    (
        "replacement of a limit in words",
        lambda: ntk.mean_square_limit(THETA, 1, replace="no"),
        TypeError,
        ["`replace`", "'no'"],
    ),
    ("epochs in words", lambda: runs(reshuffle="yes"), TypeError, ["`reshuffle`", "True or False", "yes"]),
    ("small steps in words", lambda: stationary(small_steps="no"), TypeError, ["`small_steps`", "True or False"]),
    ("bias in words", lambda: ntk.Dense(3, 2, use_bias="no", **DENSE), TypeError, ["`use_bias`", "True or False"]),
    ("progress in words", lambda: train(progress="no"), TypeError, ["`progress`", "True or False", "no"]),
    # keys
    ("a number for a key", lambda: runs(key=0), TypeError, ["`key`", "jax.random.key(0)", "int 0"]),
    ("no key for runs", lambda: runs(key=None), TypeError, ["`key`", "jax.random.key(0)", "None"]),
    ("several keys", lambda: runs(key=jax.random.split(jax.random.key(0), 3)), ValueError, ["`key`", "(3,)", "key[0]"]),
    ("a number for a key in training", lambda: train(key=0), TypeError, ["`key`", "jax.random.key(0)", "int 0"]),
    ("rngs for a key in training", lambda: train(key=RNGS, batch_size=2), TypeError, ["`key`", "jax.random.key(0)"]),
    # kernels that do not go together
    (
        "posterior of mixed kernels",
        lambda: gp(T3, Y3, 3 * T3, T3),
        ValueError,
        ["`nngp_train`", "`nngp_test_train`", "one kernel", "scale"],
    ),
    (
        "ensemble of two networks",
        lambda: ntk.ensemble_posterior(NET.kernel(X3), Y3, OTHER(X3), NET.kernel(X3), t=1.0),
        ValueError,
        ["`kernel_train.ntk`", "one kernel", "same network"],
    ),
    (
        "ensemble without its kernel",
        lambda: ntk.ensemble_posterior(None, Y, t=1.0),
        TypeError,
        ["`kernel_train`", "net.kernel(x)"],
    ),
    ("kernel by a number", lambda: ensemble(kernel=3), ValueError, ["`kernel`", "3", "'ntk'"]),
    # what leaves the range
    (
        "targets whose squares overflow",
        lambda: ntk.sgd_moments(THETA, BIG, learning_rate=0.1, batch_size=1, steps=1),
        ValueError,
        ["`y`", "1e+19", "float32", "Divide"],
    ),
    ("diffusion of such targets", lambda: diffusion(y=BIG), ValueError, ["`y`", "1e+19", "float32"]),
    (
        "diffusion that takes too long",
        lambda: diffusion(t=1e9),
        RuntimeError,
        ["`t` = 1e+09", "65,536 steps", "stationary_covariance"],
    ),
    (
        "logits that take too long",
        lambda: ntk.cross_entropy_flow(jnp.ones((2, 2)), jnp.eye(2), t=1e12),
        RuntimeError,
        ["`t` = 1e+12", "100,000 steps", "rtol"],
    ),
    # what must be known
    (
        "mean-square limit under jit",
        lambda: jax.jit(lambda k: ntk.mean_square_limit(k, 1))(THETA),
        TypeError,
        ["`ntk_train`", "jit"],
    ),
    (
        "batch under jit",
        lambda: jax.jit(lambda b: noisy(batch_size=b))(1),
        TypeError,
        ["`batch_size`", "tracer", 'static_argnames="batch_size"'],
    ),
    ("replacement under jit", lambda: jax.jit(lambda r: noisy(replace=r))(True), TypeError, ["`replace`", "tracer"]),
    ("steps of training under jit", lambda: jax.jit(lambda s: train(steps=s))(3), TypeError, ["`steps`", "tracer"]),
    (
        "steps of another rank under jit",
        lambda: jax.jit(lambda s: descend(steps=s))(jnp.ones((2, 2))),
        ValueError,
        ["`steps`", "(2, 2)"],
    ),
    (
        "ridge of a rank under jit",
        lambda: jax.jit(lambda r: flow(ridge=r))(jnp.ones(2)),
        ValueError,
        ["`ridge`", "single", "(2,)"],
    ),
    # training
    ("a rate for an optimizer", lambda: train(optimizer=0.1), TypeError, ["`optimizer`", "Optax", "0.1"]),
    ("an optimizer not called", lambda: train(optimizer=optax.sgd), TypeError, ["`optimizer`", "sgd", "Call it"]),
    (
        "an optimizer of Flax",
        lambda: train(optimizer=nnx.Optimizer(NET, optax.sgd(0.1), wrt=nnx.Param)),
        TypeError,
        ["`optimizer`", "nnx.Optimizer", "optimizer.tx"],
    ),
    ("an optimizer by name", lambda: train(optimizer="adam"), TypeError, ["`optimizer`", "optax.adam(1e-3)", "'adam'"]),
    ("no optimizer", lambda: train(optimizer=None), TypeError, ["`optimizer`", "Optax", "None"]),
    ("loss by a number", lambda: train(loss=3), TypeError, ["`loss`", "mse", "int 3"]),
    (
        "loss that is not one number",
        lambda: train(loss=lambda f, y: (f - y) ** 2),
        ValueError,
        ["`loss`", "one number", "(4, 2)"],
    ),
    ("record that is no function", lambda: train(record=3), TypeError, ["`record`", "function", "int 3"]),
    ("one step to record at", lambda: train(record_at=2), ValueError, ["`record_at`", "list", "got 2"]),
    ("half a step to record at", lambda: train(record_at=[0, 1.5]), ValueError, ["`record_at`", "whole", "1.5"]),
    ("steps of training that are true", lambda: train(steps=True), TypeError, ["`steps`", "whole number", "True"]),
    (
        "batch of training that is true",
        lambda: train(batch_size=True, key=jax.random.key(0)),
        TypeError,
        ["`batch_size`", "True"],
    ),
    ("no targets in training", lambda: train(y=None), TypeError, ["`y`", "an array", "None"]),
    ("one number for targets", lambda: train(y=1.0), ValueError, ["`y`", "4 rows", "()"]),
    ("labels for squares", lambda: train(y=jnp.arange(4)), ValueError, ["`y`", "labels", "one_hot_centered"]),
    ("integers for squares", lambda: train(y=jnp.ones((4, 2), int)), TypeError, ["`y`", "floating", "int32"]),
    ("NaN in targets of training", lambda: train(y=NAN[:, :2]), ValueError, ["`y`", "finite", "1 of 8"]),
    (
        "cross-entropy of centered targets in training",
        lambda: classify(ntk.one_hot_centered(np.arange(4) % 2, 2)),
        ValueError,
        ["`y`", "probabilities", "-0.5", "jax.nn.one_hot"],
    ),
    ("cross-entropy of rows that sum to two", lambda: classify(Y), ValueError, ["`y`", "probabilities", "sum to 1"]),
    ("label above the range", lambda: classify(jnp.array([0, 1, 2, 0])), ValueError, ["`y`", "0 to 1", "got 2"]),
    ("label below the range", lambda: classify(jnp.array([0, 1, -1, 0])), ValueError, ["`y`", "0 to 1", "got -1"]),
    ("labels that are no integers", lambda: classify(jnp.ones(4)), TypeError, ["`y`", "integers", "float32"]),
    (
        "one-hot rows of integers",
        lambda: classify(jnp.eye(4, 2, dtype=int)),
        TypeError,
        ["`y`", "labels [N]", "(4, 2)"],
    ),
    # parameterizations
    (
        "converting a number",
        lambda: ntk.convert(3, ntk.NTK),
        TypeError,
        ["`net`", "nnx.Module", "int 3", "ntklib.convert(net"],
    ),
    (
        "converting the wrong way round",
        lambda: ntk.convert(ntk.NTK, NET),
        TypeError,
        ["`net`", "ntklib.NTK", "ntklib.convert(net"],
    ),
    (
        "rates of no network",
        lambda: ntk.sgd(None, 0.1),
        TypeError,
        ["`net`", "nnx.Module", "None", "ntklib.sgd(net, 0.1)"],
    ),
    ("rates the wrong way round", lambda: ntk.sgd(0.1, NET), TypeError, ["`net`", "float 0.1", "ntklib.sgd(net, 0.1)"]),
    ("a network for a rate", lambda: ntk.sgd(NET, NET), TypeError, ["`learning_rate`", "schedule"]),
    ("rate that is true", lambda: ntk.sgd(NET, True), TypeError, ["`learning_rate`", "number", "True"]),
    ("no rate", lambda: ntk.sgd(NET, None), TypeError, ["`learning_rate`", "number", "None"]),
    ("momentum of five", lambda: ntk.sgd(NET, 0.1, momentum=5), ValueError, ["`momentum`", "below 1", "5"]),
    ("momentum that is true", lambda: ntk.sgd(NET, 0.1, momentum=True), TypeError, ["`momentum`", "number", "True"]),
    (
        "decay the wrong way round",
        lambda: ntk.weight_decay(0.1, NET),
        TypeError,
        ["`net`", "float 0.1", "ntklib.weight_decay(net, 1e-3)"],
    ),
    ("negative decay", lambda: ntk.weight_decay(NET, -0.1), ValueError, ["`strength`", "at least 0", "-0.1"]),
    ("decay by a schedule", lambda: ntk.weight_decay(NET, lambda i: 0.1), TypeError, ["`strength`", "number"]),
    (
        "decay like a name",
        lambda: ntk.weight_decay(NET, 0.1, like="NTK"),
        TypeError,
        ["`like`", "ntklib.NTK", "str 'NTK'"],
    ),
    (
        "decay like one that tells layers apart",
        lambda: ntk.weight_decay(ntk.Dense(3, 2, **DENSE), 0.1, like=ntk.MUP),
        ValueError,
        ["`role`", "MUP", "input"],
    ),
    (
        "exponents in words",
        lambda: ntk.parameterization.Exponents("1/2", 0.0),
        TypeError,
        ["`multiplier`", "number", "1/2"],
    ),
    (
        "numbers for exponents",
        lambda: ntk.parameterization.Parameterization("mine", 1, 2, 3, "init"),
        TypeError,
        ["`input`", "Exponents"],
    ),
    (
        "a scale elsewhere",
        lambda: ntk.parameterization.Parameterization("mine", ntk.NTK.input, ntk.NTK.hidden, ntk.NTK.output, "weights"),
        ValueError,
        ["`std`", "'weights'", "'init'"],
    ),
    (
        "role by a number",
        lambda: ntk.Dense(3, 2, parameterization=ntk.MUP, role=1, **DENSE),
        ValueError,
        ["`role`", "1", "'hidden'"],
    ),
    # ensembles
    ("an ensemble of none", lambda: trained_ensemble(members=0), ValueError, ["`members`", "at least 1", "0"]),
    ("an ensemble of a network", lambda: trained_ensemble(build=NET), TypeError, ["`build`", "function of `nnx.Rngs`"]),
    ("an ensemble of nothing", lambda: trained_ensemble(build=lambda: NET), TypeError, ["`build`", "one argument"]),
    (
        "an ensemble of numbers",
        lambda: trained_ensemble(build=lambda rngs: 3),
        TypeError,
        ["`build`", "network", "int"],
    ),
    (
        "an ensemble that decides by chance",
        lambda: trained_ensemble(build=lambda rngs: NET if rngs.params.normal(()) > 0 else DEEP),
        TypeError,
        ["`build`", "trace", "random"],
    ),
    ("an ensemble without a key", lambda: trained_ensemble(key=0), TypeError, ["`key`", "jax.random.key(0)", "int 0"]),
    (
        "an ensemble with a key too many",
        lambda: trained_ensemble(key=jax.random.split(jax.random.key(0), 3)),
        ValueError,
        ["`key`", "2 members", "got 3"],
    ),
    (
        "an optimizer not called for an ensemble",
        lambda: trained_ensemble(optimizer=optax.sgd),
        TypeError,
        ["`optimizer`", "sgd", "Call it"],
    ),
    (
        "settings for an optimizer that is made",
        lambda: trained_ensemble(settings={"learning_rate": jnp.ones(2)}),
        TypeError,
        ["`optimizer`", "function of 'learning_rate'", "`settings`"],
    ),
    (
        "settings by another name",
        lambda: trained_ensemble(optimizer=optax.sgd, settings={"rate": jnp.ones(2)}),
        TypeError,
        ["`optimizer`", "`settings`", "'rate'"],
    ),
    (
        "settings that make no optimizer",
        lambda: trained_ensemble(optimizer=lambda rate: rate, settings={"rate": jnp.ones(2)}),
        TypeError,
        ["`optimizer`", "Optax transformation"],
    ),
    (
        "settings for others",
        lambda: trained_ensemble(optimizer=optax.sgd, settings={"learning_rate": jnp.ones(3)}),
        ValueError,
        ["`settings['learning_rate']`", "2 members", "(3,)"],
    ),
    (
        "settings in a list",
        lambda: trained_ensemble(optimizer=optax.sgd, settings=[0.1, 0.2]),
        TypeError,
        ["`settings`", "dict", "list [0.1, 0.2]"],
    ),
    (
        "integers for settings",
        lambda: trained_ensemble(optimizer=optax.sgd, settings={"learning_rate": jnp.arange(2)}),
        TypeError,
        ["`settings['learning_rate']`", "floating", "int32"],
    ),
    ("rows of one member", lambda: trained_ensemble(rows=[0, 1]), ValueError, ["`rows`", "[M, n]", "(2,)"]),
    (
        "rows in halves",
        lambda: trained_ensemble(rows=[[0.5], [1.0]]),
        TypeError,
        ["`rows`", "whole numbers", "float64"],
    ),
    (
        "rows that are not there",
        lambda: trained_ensemble(rows=[[0], [4]]),
        ValueError,
        ["`rows`", "0 to 3", "from 0 to 4"],
    ),
    (
        "batches larger than the rows",
        lambda: trained_ensemble(rows=[[0, 1], [2, 3]], batch_size=3),
        ValueError,
        ["`batch_size`", "at most", "2", "3"],
    ),
    (
        "targets of other width for an ensemble",
        lambda: trained_ensemble(y=Y[:, :1]),
        ValueError,
        ["`y`", "1 outputs", "2"],
    ),
    (
        "an ensemble that may diverge",
        lambda: trained_ensemble(diverged="warn"),
        ValueError,
        ["`diverged`", "'keep'", "warn"],
    ),
    (
        "an ensemble without memory",
        lambda: trained_ensemble(max_memory=0),
        ValueError,
        ["`max_memory`", "greater than 0"],
    ),
    ("records of an ensemble", lambda: trained_ensemble(record=3), TypeError, ["`record`", "function", "int 3"]),
    (
        "an ensemble that diverges",
        lambda: trained_ensemble(
            build=lambda rngs: ntk.Dense(3, 2, w_std=1.0, rngs=rngs), optimizer=optax.sgd(1e9), steps=60
        ),
        FloatingPointError,
        ["2 of 2 members (0, 1)", "step 60", "smaller learning rate", 'diverged="keep"'],
    ),
    ("variance of one", lambda: trained_ensemble(members=1).variance(X), ValueError, ["two `members`", "one"]),
    (
        "accuracy by other labels",
        lambda: trained_ensemble().accuracy(X, jnp.zeros(3, int)),
        ValueError,
        ["`labels`", "[4]", "got 3"],
    ),
    ("a member that is not there", lambda: trained_ensemble().member(2), ValueError, ["`index`", "at most 1", "2"]),
    # the largest rate of a network
    ("largest rate of no inputs", lambda: ntk.empirical_max_learning_rate(NET, 3.0), ValueError, ["`x1`", "input"]),
    (
        "largest rate to no tolerance",
        lambda: ntk.empirical_max_learning_rate(NET, X, rtol=0.0),
        ValueError,
        ["`rtol`", "greater than 0"],
    ),
    (
        "largest rate without products",
        lambda: ntk.empirical_max_learning_rate(NET, X, max_products=0),
        ValueError,
        ["`max_products`", "at least 1"],
    ),
    (
        "largest rate with momentum 1",
        lambda: ntk.empirical_max_learning_rate(NET, X, 1.0),
        ValueError,
        ["`momentum`", "below 1"],
    ),
    (
        "largest rate by a seed",
        lambda: ntk.empirical_max_learning_rate(NET, X, key=0),
        TypeError,
        ["`key`", "jax.random.key(0)"],
    ),
    (
        "largest rate of a network that diverged",
        lambda: ntk.empirical_max_learning_rate(diverged(), X),
        ValueError,
        ["finite", "smaller learning rate"],
    ),
    # layers without shared weights
    (
        "local layer on another size",
        lambda: local()(jnp.ones((2, 5, 4, 2))),
        ValueError,
        ["(4, 4) pixels", "(5, 4)", "image_size=(5, 4)"],
    ),
    (
        "kernel of a local layer on another size",
        lambda: local().kernel(jnp.ones((2, 5, 4, 2))),
        ValueError,
        ["(4, 4) pixels", "(5, 4)"],
    ),
    ("local layer on vectors", lambda: local()(X), ValueError, ["images [N, H, W, C]", "(4, 3)"]),
    ("local layer on other channels", lambda: local()(jnp.ones((2, 4, 4, 3))), ValueError, ["2 features", "has 3"]),
    ("local layer of no size", lambda: local(image_size=(4,)), ValueError, ["`image_size`", "pair", "(4,)"]),
    (
        "local layer smaller than its window",
        lambda: local(padding="VALID", kernel_size=5),
        ValueError,
        ["4 pixels", "window of 5"],
    ),
    ("weights shared in words", lambda: cnn(share_weights="no"), TypeError, ["`share_weights`", "True or False"]),
    # smaller and shifted images
    ("images pooled by 3", lambda: ntk.load("digits", pool=3), ValueError, ["`pool`", "8×8", "'digits'", "3"]),
    ("images pooled by 0", lambda: ntk.load("digits", pool=0), ValueError, ["`pool`", "at least 1"]),
    ("shifted vectors", lambda: ntk.shift(X, 1, 1, edge=0.0), ValueError, ["`images`", "[N, H, W, C]", "(4, 3)"]),
    ("shifted by half a pixel", lambda: shifted(down=0.5), TypeError, ["`down`", "whole", "0.5"]),
    ("shifted by too many numbers", lambda: shifted(right=[1, 1, 1]), ValueError, ["`right`", "2 images", "(3,)"]),
    ("shifted out of sight", lambda: shifted(down=-4), ValueError, ["`down`", "less than 4", "wrap"]),
    ("shifted to an unknown edge", lambda: shifted(edge="black"), ValueError, ["`edge`", "'nearest'", "black"]),
    ("shifted to no edge", lambda: shifted(edge=None), TypeError, ["`edge`", "number", "None"]),
    # how the kernel moves
    (
        "distance to a kernel of zeros",
        lambda: ntk.kernel_distance(THETA, 0 * THETA),
        ValueError,
        ["`kernel2`", "zero", "direction"],
    ),
    (
        "distance between kernels of two shapes",
        lambda: ntk.kernel_distance(THETA, jnp.eye(3)),
        ValueError,
        ["`kernel2`", "shape", "(4, 4)", "(3, 3)"],
    ),
    (
        "distance to a Kernel",
        lambda: ntk.kernel_distance(THETA, NET.kernel(X)),
        TypeError,
        ["`kernel2`", "Kernel", ".ntk"],
    ),
    (
        "distance between models without inputs",
        lambda: ntk.kernel_distance(NET, NET),
        ValueError,
        ["`x`", "`kernel1`", "model"],
    ),
    (
        "distance between arrays with inputs",
        lambda: ntk.kernel_distance(THETA, THETA, X),
        ValueError,
        ["`x`", "`kernel1`", "Leave"],
    ),
    (
        "distance to something else",
        lambda: ntk.kernel_distance(NET, "net", X),
        TypeError,
        ["`kernel2`", "nnx.Module", "str"],
    ),
    (
        "distance of unknown outputs",
        lambda: ntk.kernel_distance(NET, NET, X, outputs="all"),
        ValueError,
        ["`outputs`", "'mean'", "all"],
    ),
    (
        "distance between full kernels of other outputs",
        lambda: ntk.kernel_distance(NET, ONE_OUTPUT, X, outputs="full"),
        ValueError,
        ["`kernel2`", "2", "got 1"],
    ),
    (
        "distance between models in jit",
        lambda: jax.jit(lambda x: ntk.kernel_distance(NET, NET, x))(X),
        TypeError,
        ["`kernel_distance`", "jit"],
    ),
    (
        "velocity in no time",
        lambda: ntk.kernel_velocity(THETA, THETA, lag=0.0),
        ValueError,
        ["`lag`", "greater than 0"],
    ),
    ("alignment with nothing", lambda: ntk.kernel_alignment(THETA), ValueError, ["`kernel2`", "`y`"]),
    ("alignment with two things", lambda: ntk.kernel_alignment(THETA, THETA, y=Y), ValueError, ["`kernel2`", "`y`"]),
    ("alignment with labels", lambda: ntk.kernel_alignment(THETA, y=LABELS), ValueError, ["`y`", "one_hot_centered"]),
    (
        "centered alignment of a constant",
        lambda: ntk.kernel_alignment(THETA * 0 + 1, THETA, centered=True),
        ValueError,
        ["`kernel1`", "constant", "centered=False"],
    ),
    (
        "centered alignment with constant targets",
        lambda: ntk.kernel_alignment(NET, None, X * jnp.arange(1.0, 5.0)[:, None], y=Y, centered=True),
        ValueError,
        ["`y`", "constant"],
    ),
    (
        "alignment centered in words",
        lambda: ntk.kernel_alignment(THETA, THETA, centered="no"),
        TypeError,
        ["`centered`", "True or False"],
    ),
    (
        "labels of one output",
        lambda: ntk.function_distance(ONE_OUTPUT, ONE_OUTPUT, X),
        ValueError,
        ["two outputs", 'measure="mse"'],
    ),
    (
        "functions with other outputs",
        lambda: ntk.function_distance(NET, ONE_OUTPUT, X),
        ValueError,
        ["`model2`", "2", "got 1"],
    ),
    (
        "functions by an unknown measure",
        lambda: ntk.function_distance(NET, NET, X, measure="l2"),
        ValueError,
        ["`measure`", "'labels'", "l2"],
    ),
    (
        "functions of a network that diverged",
        lambda: ntk.function_distance(NET, diverged(), X),
        ValueError,
        ["`model2`", "finite"],
    ),
    (
        "similarity of one gradient",
        lambda: ntk.logit_gradient_similarity(NET, X[:1]),
        ValueError,
        ["`x`", "two", "got 1"],
    ),
    (
        "similarity within one class",
        lambda: ntk.logit_gradient_similarity(NET, X, 0 * LABELS),
        ValueError,
        ["`labels`", "two classes", "1 classes"],
    ),
    (
        "similarity with labels of other inputs",
        lambda: ntk.logit_gradient_similarity(NET, X, LABELS[:3]),
        ValueError,
        ["`labels`", "4 inputs", "(3,)"],
    ),
    (
        "similarity without gradients",
        lambda: ntk.logit_gradient_similarity((lambda w, x: x @ (0 * w), jnp.ones((3, 2))), X),
        ValueError,
        ["`model`", "zero"],
    ),
    (
        "patterns of smooth activations",
        lambda: ntk.activation_hamming(
            (lambda w, x: jnp.tanh(x @ w), jnp.eye(3)), (lambda w, x: jnp.tanh(x @ w), jnp.eye(3)), X
        ),
        ValueError,
        ["`model1`", "no rectifiers", "function_distance"],
    ),
    (
        "patterns of two architectures",
        lambda: ntk.activation_hamming(NET, DEEP, X),
        ValueError,
        ["`model2`", "`model1`", "got 2"],
    ),
    ("patterns in a loop", lambda: ntk.activation_hamming(IN_A_LOOP, IN_A_LOOP, X), ValueError, ["`model1`", "loop"]),
    ("barrier between architectures", lambda: barrier(model2=DEEP), ValueError, ["`model2`", "`model1`"]),
    (
        "barrier between two functions",
        lambda: barrier(model1=(lambda w, x: x @ w, jnp.ones((3, 2))), model2=(lambda w, x: x @ w, jnp.ones((3, 2)))),
        ValueError,
        ["`model2`", "one function", "(apply_fn, params1)"],
    ),
    ("barrier at one point", lambda: barrier(points=1), ValueError, ["`points`", "at least 2"]),
    ("barrier of targets", lambda: barrier(y=Y), TypeError, ["`y`", "labels"]),
    (
        "barrier of one output",
        lambda: barrier(model1=ONE_OUTPUT, model2=ONE_OUTPUT),
        ValueError,
        ["`y`", "two classes", "one output"],
    ),
    ("barrier of an unknown error", lambda: barrier(loss="zero"), ValueError, ["`loss`", "'zero_one'"]),
    (
        "barrier of a loss for each output",
        lambda: barrier(loss=lambda f, y: (f - y) ** 2, y=Y),
        ValueError,
        ["`loss`", "one number"],
    ),
    (
        "barrier of an infinite error",
        lambda: barrier(loss=lambda f, y: jnp.log(-jnp.sum(f**2)), y=Y),
        FloatingPointError,
        ["`loss`", "not finite"],
    ),
    ("children at no time", lambda: spawned(spawn_at=None), TypeError, ["`spawn_at`", "None"]),
    ("children after the end", lambda: spawned(spawn_at=[3]), ValueError, ["`spawn_at`", "steps=2", "[3]"]),
    ("children without batches", lambda: spawned(batch_size=None), TypeError, ["`batch_size`", "None"]),
    ("children of a seed", lambda: spawned(child_keys=[1, 2]), TypeError, ["`child_keys`", "jax.random.split"]),
    (
        "children with too few keys",
        lambda: spawned(child_keys=jax.random.split(jax.random.key(0), 3)),
        ValueError,
        ["`child_keys`", "2", "(3,)"],
    ),
    ("no children", lambda: spawned(children=0), ValueError, ["`children`", "at least 1"]),
    (
        "children that diverge",
        lambda: spawned(optimizer=optax.sgd(1e30)),
        FloatingPointError,
        ["smaller learning rate"],
    ),
    ("a child that is not there", lambda: spawned().child(2, 0), ValueError, ["`time`", "at most 1"]),
    (
        "advantage of several rates without validation",
        lambda: advantage(optimizer=[optax.sgd(0.1), optax.sgd(0.2)]),
        ValueError,
        ["`validation`", "several"],
    ),
    ("advantage of no rate", lambda: advantage(optimizer=[]), ValueError, ["`optimizer`", "empty"]),
    (
        "advantage before the end",
        lambda: advantage(record_at=[1]),
        ValueError,
        ["`record_at`", "steps=2", "`validation`"],
    ),
    ("advantage with validation inputs alone", lambda: advantage(validation=X), TypeError, ["`validation`", "pair"]),
    ("advantage on other inputs", lambda: advantage(x_test=jnp.ones((4, 2))), ValueError, ["`x_test`", "(3,)", "(2,)"]),
    ("advantage on targets", lambda: advantage(labels_test=Y), TypeError, ["`labels_test`", "labels"]),
    (
        "advantage at inputs whose outputs overflow",
        lambda: advantage(
            model=(lambda w, x: jnp.exp(x @ w), jnp.ones((3, 2))), x_test=1e9 * X, validation=(X, LABELS)
        ),
        FloatingPointError,
        ["`x_test`", "not finite"],
    ),
    (
        "advantage of a diverged training",
        lambda: advantage(optimizer=optax.sgd(1e38)),
        FloatingPointError,
        ["not finite", "smaller learning rate"],
    ),
    (
        "an unknown measure",
        lambda: followed(measures=["kernel_distence"]),
        ValueError,
        ["`measures`", "Did you mean 'kernel_distance'"],
    ),
    (
        "a measure alone",
        lambda: followed(measures="kernel_distance"),
        TypeError,
        ["`measures`", "list", "kernel_distance"],
    ),
    (
        "a measure that needs labels",
        lambda: followed(measures=["error_barrier"]),
        ValueError,
        ["`probe_labels`", "error_barrier"],
    ),
    (
        "a measure of other models",
        lambda: followed(model=ONE_OUTPUT, y=Y[:, :1], measures=["function_distance"]),
        ValueError,
        ["two outputs"],
    ),
    (
        "labels of a part of the probe",
        lambda: followed(probe_labels=LABELS[:2]),
        ValueError,
        ["`probe_labels`", "[4]", "got 2"],
    ),
    (
        "a run in a file of something else",
        lambda: followed_elsewhere(b"x"),
        ValueError,
        ["`checkpoint`", "follow", "Delete"],
    ),
    ("a run in no folder", lambda: followed(checkpoint="/nowhere/at/all"), ValueError, ["`checkpoint`", "no folder"]),
    ("a run that diverges", lambda: followed(optimizer=optax.sgd(1e30)), FloatingPointError, ["smaller learning rate"]),
    # no inputs at all: the same words wherever they come
    *(
        (f"nothing in {name}", call, ValueError, [f"`{argument}` is empty", shape, "at least one entry"])
        for name, argument, shape, call in (
            ("the inputs of a kernel", "x1", "(0, 3)", lambda: NET.kernel(X[:0])),
            ("the second inputs of a kernel", "x2", "(0, 3)", lambda: NET.kernel(X, X[:0])),
            ("a list", "x1", "(0,)", lambda: NET.kernel([])),
            ("the features of gram", "x1", "(4, 0)", lambda: ntk.gram(NET, X[:, :0])),
            ("the inputs of gram", "x1", "(0, 3)", lambda: ntk.gram(NET, X[:0])),
            (
                "the inputs of gram on a mesh",
                "x1",
                "(0, 3)",
                lambda: ntk.gram(NET, X[:0], mesh=jax.make_mesh((1,), ("rows",))),
            ),
            ("the inputs of an empirical kernel", "x1", "(0, 3)", lambda: ntk.empirical_ntk(NET, X[:0])),
            (
                "those on a mesh",
                "x1",
                "(0, 3)",
                lambda: ntk.empirical_ntk(NET, X[:0], mesh=jax.make_mesh((1,), ("rows",))),
            ),
            ("a list for an empirical kernel", "x1", "(0,)", lambda: ntk.empirical_ntk(NET, [])),
            ("the inputs of a solve", "x", "(0, 3)", lambda: solve(x=X[:0], y=Y[:0])),
            ("the targets of a solve", "y", "(0, 2)", lambda: solve(y=Y[:0])),
            ("a kernel of training", "ntk_train", "(0, 0)", lambda: ntk.gradient_flow(THETA[:0, :0], Y[:0], t=1.0)),
            (
                "a kernel at test points",
                "ntk_test_train",
                "(0, 4)",
                lambda: ntk.gradient_flow(THETA, Y, t=1.0, ntk_test_train=THETA[:0]),
            ),
            ("the inputs of training", "x", "(0, 3)", lambda: train(x=X[:0], y=Y[:0])),
            ("the inputs of an ensemble", "x", "(0, 3)", lambda: trained_ensemble(x=X[:0], y=Y[:0])),
            ("labels", "labels", "(0,)", lambda: ntk.one_hot_centered(np.zeros(0, int), 3)),
            ("the labels of a barrier", "y", "(0,)", lambda: ntk.error_barrier(NET, NET, X, np.zeros(0, int))),
            (
                "the scales of a phase diagram",
                "w_std",
                "(0,)",
                double(lambda: ntk.depth_scales(ntk.Tanh(), np.zeros(0), 0.1)),
            ),
            ("the correlations of a profile", "rho", "(0,)", double(lambda: profile(rho=np.zeros(0)))),
        )
    ),
    # numbers that 32 bits do not hold, and arrays that are not real numbers
    (
        "integers beyond 32 bits",
        lambda: ntk.empirical_ntk(NET, np.array([[2**40, 1, 2]])),
        ValueError,
        ["`x1`", "int32", "1099511627776", "jax_enable_x64"],
    ),
    ("inputs beyond float32", lambda: NET.kernel(np.full((2, 3), 1e200)), ValueError, ["`x1`", "float32", "1e+200"]),
    (
        "inputs beyond float32 in gram",
        lambda: ntk.gram(NET, np.full((2, 3), 1e200)),
        ValueError,
        ["`x1`", "too large", "float32", "Standardize"],
    ),
    ("squares beyond float32", lambda: NET.kernel(1e30 * X), ValueError, ["`x1`", "too large", "float32"]),
    (
        "squares beyond float32 in gram",
        lambda: ntk.gram(NET, X, np.full((2, 3), np.float32(1e30))),
        ValueError,
        ["`x2`", "too large", "float32"],
    ),
    ("squares below float32", lambda: NET.kernel(1e-25 * X), ValueError, ["`x1`", "too small", "float32"]),
    (
        "squares of images below float32",
        lambda: ntk.Serial(ntk.Conv(2, 3, 3, w_std=1.0, rngs=nnx.Rngs(0)), ntk.Flatten()).kernel(1e-25 * IMAGES),
        ValueError,
        ["`x1`", "too small", "float32"],
    ),
    ("squares with few digits", lambda: NET.kernel(1e-18 * X), ValueError, ["'relu'", "too small", "float32"]),
    *(
        (
            f"squares below float32 in gram, {scale}",
            lambda scale=scale: ntk.gram(NET, scale * X),
            ValueError,
            ["'relu'", "too small", "float32"],
        )
        for scale in (1e-18, 1e-25)
    ),
    (
        "outputs below float32 in gram",
        lambda: ntk.gram(ntk.Dense(3, 1, w_std=1.0, rngs=nnx.Rngs(0)), 1e-23 * X),
        ValueError,
        ["outputs", "too small", "float32", "Standardize"],
    ),
    (
        "targets beyond float32",
        lambda: ntk.gradient_flow(THETA, np.full((4, 2), 1e200), t=1.0),
        ValueError,
        ["`y`", "float32", "1e+200"],
    ),
    (
        "noise of a residual beyond float32",
        lambda: ntk.noise_covariance(1e30 * Y, 2),
        ValueError,
        ["`residual`", "1e+30", "square", "float32"],
    ),
    (
        "distance to a kernel without digits",
        lambda: ntk.kernel_distance(np.float32(1e-44) * THETA, THETA),
        ValueError,
        ["`kernel1`", "zero", "digits"],
    ),
    ("a solve of zeros", lambda: solve(x=0 * X), ValueError, ["`x`", "zeros", "`b_std`"]),
    (
        "a solve whose solution overflows",
        lambda: solve(x=1e-3 * X, y=1e308 * np.ones((4, 1))),
        ValueError,
        ["`y`", "1e+308", "Scale"],
    ),
    ("a network of objects", lambda: NET(np.ones((2, 3)).astype(object)), TypeError, ["numbers", "object"]),
    *(
        (f"a scale that is {what}", double(lambda w=w: ntk.fixed_point(ntk.Tanh(), w, 0.1)), kind, ["`w_std`", word])
        for what, w, kind, word in (
            ("a word", "1", TypeError, "str"),
            ("True", True, TypeError, "bool"),
            ("complex", 1j, TypeError, "complex"),
            ("masked", np.ma.array([1.0, 2.0], mask=[0, 1]), TypeError, "mask"),
            ("None", None, TypeError, "None"),
        )
    ),
    (
        "scales that do not broadcast",
        double(lambda: ntk.fixed_point(ntk.Tanh(), np.ones(2), np.ones(3))),
        ValueError,
        ["`w_std` (2,)", "`b_std` (3,)", "[:, None]"],
    ),
    (
        "fixed points of several scales",
        double(lambda: ntk.fixed_points(ntk.Tanh(), np.ones(2), 0.1)),
        ValueError,
        ["`w_std`", "single number", "(2,)"],
    ),
    *(
        (
            f"a start at {start}",
            double(lambda start=start: ntk.depth_scales(ntk.Tanh(), 1.5, 0.1, start=start)),
            kind,
            ["`start`"],
        )
        for start, kind in ((-1.0, ValueError), (float("nan"), ValueError), (True, TypeError))
    ),
    ("a complex correlation", double(lambda: profile(rho=0.5j)), TypeError, ["`rho`", "complex"]),
    (
        "a profile inside jit",
        double(lambda: jax.jit(lambda rho: profile(rho=rho).ratio)(0.5)),
        TypeError,
        ["ntk_depth_profile", "decorrelation_map"],
    ),
    (
        "a function that is cut off at variances it reaches",
        double(lambda: ntk.fixed_point(ntk.Elementwise(lambda x: jnp.clip(x, 0.0, 100.0)), 2.0, 0.1)),
        ValueError,
        ["kink", "`w_std`"],
    ),
]


def outcome(call):
    """(type's name, message) of what a call raises."""
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", "no exception"


if __name__ == "__main__":
    import json
    import sys

    asked = set(json.load(sys.stdin))
    print(json.dumps({name: outcome(call) for name, call, *_ in CALLS if name in asked}))
