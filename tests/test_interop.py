"""neural-tangents on current JAX, and ntklib networks in it: a second opinion that shares no code with ours."""

import subprocess
import sys
import textwrap
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax import nnx
from helpers import kernel
from jax.flatten_util import ravel_pytree

import ntklib as ntk
import ntklib.interop.neural_tangents as nt
from ntklib.interop import _bridge

X1 = jax.random.normal(jax.random.key(0), (6, 3), jnp.float64)
X2 = jax.random.normal(jax.random.key(1), (4, 3), jnp.float64)
IMAGES = jax.random.normal(jax.random.key(2), (3, 4, 4, 2), jnp.float64)

# neural-tangents cannot see what ntklib checks when a network is built: that the branches of a sum are independent.
ALLOW_SUMS = pytest.mark.filterwarnings("ignore:`FanIn` layers assume independent inputs:UserWarning")


@pytest.fixture(autouse=True, scope="module")
def _promotion_as_in_jax():
    """neural-tangents was written for JAX's default rules; the strict ones of our tests are for our code."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def assert_close(actual, expected, tolerance=1e-10):
    """Equal up to `tolerance` of the largest entry."""
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=tolerance * float(np.max(np.abs(expected))))


# Networks and their kernels ---------------------------------------------------------------------------------------


CLOSED_FORMS = {
    "relu": ntk.Relu(),
    "leaky_relu": ntk.LeakyRelu(0.2),
    "abs": ntk.Abs(),
    "erf": ntk.Erf(),
    "gelu": ntk.Gelu(),
    "sin": ntk.Sin(frequency=1.3),
    "identity": ntk.Identity(),
}


def dense(n_in, n_out, w_std, parameterization=ntk.NTK, **kwargs):
    return ntk.Dense(n_in, n_out, w_std=w_std, parameterization=parameterization, rngs=nnx.Rngs(n_in + n_out), **kwargs)


def two_hidden_layers(activation=CLOSED_FORMS["leaky_relu"], parameterization=ntk.NTK):
    """Different widths, σ_w and σ_b in each layer, one with a bias that starts at zero and one without."""
    return ntk.Serial(
        dense(3, 7, 1.5, parameterization, b_std=0.3),
        activation,
        dense(7, 5, 1.3, parameterization, b_std=0.0),
        activation,
        dense(5, 2, 0.9, parameterization, use_bias=False),
    )


def one_hidden_layer():
    return ntk.Serial(dense(3, 7, 1.5, b_std=0.3), ntk.Erf(), dense(7, 2, 0.9))


def branching(parameterization=ntk.NTK):
    """A residual block with a scale and a LayerNorm, then two branches that are summed."""
    block = ntk.Serial(ntk.LayerNorm(epsilon=1e-3), ntk.Erf(), dense(7, 7, 0.7, parameterization, b_std=0.2))
    wide = ntk.Serial(dense(7, 4, 1.4, parameterization), ntk.Gelu(), dense(4, 2, 1.1, parameterization, b_std=0.1))
    straight = dense(7, 2, 0.8, parameterization, use_bias=False)
    return ntk.Serial(dense(3, 7, 1.2, parameterization), ntk.Residual(block, scale=0.6), ntk.Sum(wide, straight))


def assert_same_kernels(net, x1, x2=None, tolerance=1e-10, **options):
    """Between two sets of inputs, or of one set with itself."""
    _, _, kernel_fn = nt.to_neural_tangents(net, **options)

    @jax.jit
    def both(*inputs):
        ours, theirs = net.kernel(*inputs), kernel_fn(*inputs, ("nngp", "ntk"))
        return {"nngp": (ours.nngp, theirs.nngp), "ntk": (ours.ntk, theirs.ntk)}

    for ours, theirs in both(x1, x2).values():
        if x2 is None:
            # Of the angle between x and x neural-tangents takes the cosine first and loses half the digits (ReLU).
            assert_close(np.diag(ours), np.diag(theirs), max(tolerance, 1e-7))
            ours, theirs = (a[~np.eye(len(a), dtype=bool)] for a in (ours, theirs))
        assert_close(ours, theirs, tolerance)


def test_sign_has_its_closed_form_there():
    """Between different inputs: of equal ones neural-tangents loses half the digits, and an arccos half of the rest."""
    assert_same_kernels(two_hidden_layers(ntk.Sign()), X1, X2, 1e-7)


@pytest.mark.sweep
@pytest.mark.parametrize("activation", CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys())
def test_kernels_of_dense_networks_agree(activation):
    assert_same_kernels(two_hidden_layers(activation), X1)


@pytest.mark.sweep
@pytest.mark.parametrize("x2", [None, X2], ids=["one set", "two sets"])
def test_kernels_of_dense_networks_agree_under_standard(x2):
    assert_same_kernels(two_hidden_layers(ntk.Gelu() if x2 is None else ntk.Relu(), ntk.STANDARD), X1, x2)


@ALLOW_SUMS
@pytest.mark.sweep
@pytest.mark.parametrize("parameterization", [ntk.NTK, ntk.STANDARD], ids=lambda p: p.name)
def test_kernels_of_branching_networks_agree(parameterization):
    assert_same_kernels(branching(parameterization), X1, X2)


def test_kernels_of_images_agree():
    pixelwise = ntk.Serial(dense(2, 6, 1.5, b_std=0.1), ntk.Relu(), dense(6, 5, 1.2), ntk.LayerNorm(), ntk.Gelu())
    net = ntk.Serial(pixelwise, ntk.Flatten(), dense(5 * 16, 1, 1.0, b_std=0.2))
    assert_same_kernels(net, IMAGES, IMAGES[:2] + 0.1)


@pytest.mark.sweep
@pytest.mark.parametrize("parameterization", [ntk.NTK, ntk.STANDARD], ids=lambda p: p.name)
def test_kernels_of_convolutional_networks_agree(parameterization):
    every: Any = {"b_std": 0.2, "parameterization": parameterization, "rngs": nnx.Rngs(0)}
    net = ntk.Serial(
        ntk.Conv(2, 3, (2, 3), w_std=1.3, strides=(1, 2), padding="CIRCULAR", **every), ntk.Erf(),
        ntk.AvgPool(3, strides=1, padding="SAME"),
        ntk.Conv(3, 2, 2, w_std=1.2, padding="SAME", use_bias=False, **(every | {"b_std": 0.0})), ntk.Relu(),
        ntk.GlobalAvgPool(), ntk.Dense(2, 1, w_std=1.1, **every),
    )  # fmt: skip
    assert_same_kernels(net, IMAGES, IMAGES[:2] + 0.1)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("activation", "tolerance"),
    # Theirs is the less exact quadrature; these are its errors at 40 nodes and variances up to 1.
    [(ntk.Tanh(), 1e-5), (ntk.Elu(), 1e-2), (ntk.Elementwise(jnp.arctan), 1e-4)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_kernels_by_quadrature_agree(activation, tolerance):
    net = ntk.Serial(dense(3, 9, 0.5, b_std=0.2), activation, dense(9, 1, 1.0))
    assert_same_kernels(net, X1, X2, tolerance, quadrature_degree=40)


@pytest.mark.parametrize(("build", "parameterization"), [(two_hidden_layers, ntk.NTK), (branching, ntk.STANDARD)])
def test_finite_networks_are_the_same_function(build, parameterization):
    net = build(parameterization=parameterization)
    init_fn, apply_fn, _ = nt.to_neural_tangents(net)
    shape, drawn = init_fn(jax.random.key(0), X1.shape)
    assert shape == (6, 2)

    # In the order in which the layers are applied; a bias of neural-tangents has an axis for the inputs.
    ours = [w[...] for layer in dense_layers(net) for w in (layer.W, layer.b) if w is not None]
    leaves, structure = jax.tree.flatten(drawn)
    params = jax.tree.unflatten(structure, [w.reshape(v.shape) for w, v in zip(ours, leaves, strict=True)])
    assert_close(apply_fn(params, X1), net(X1), 1e-12)


def dense_layers(layer):
    match layer:
        case ntk.Dense():
            return [layer]
        case ntk.Serial(layers=parts) | ntk.Sum(branches=parts):
            return [dense for part in parts for dense in dense_layers(part)]
        case ntk.Residual(branch=branch):
            return dense_layers(branch)
    return []


def test_networks_without_a_counterpart_are_refused():
    class Doubling(ntk.Layer):
        def __call__(self, x):
            return 2.0 * x

        def kernel_map(self, k):
            return k

    def relu(x):  # not ReLU, whatever its name
        return jnp.maximum(x, 0.0) ** 2

    wrong: list[tuple[Any, type[Exception], str]] = [
        (dense(3, 2, 1.0, ntk.MUP, role="hidden"), ValueError, "NTK and STANDARD.*MUP.*ntklib.convert"),
        (ntk.Serial(dense(3, 2, 1.0), ntk.Tanh()), ValueError, "'tanh' has no closed form.*quadrature_degree"),
        (ntk.Serial(dense(3, 2, 1.0), ntk.Elementwise(relu)), ValueError, "'relu' has no closed form"),
        (ntk.Serial(Doubling()), ValueError, "Doubling has no counterpart"),
        (jnp.tanh, TypeError, "net"),
    ]
    for net, exception, words in wrong:
        with pytest.raises(exception, match=words):
            nt.to_neural_tangents(net)
    with pytest.raises(ValueError, match="quadrature_degree"):
        nt.to_neural_tangents(ntk.Tanh(), quadrature_degree=0)
    for step in (ntk.RectifiedMonomial(0), ntk.Elementwise(lambda x: x + (x > 0))):
        with pytest.raises(ValueError, match=r"jumps at zero.*monte_carlo_kernel"):
            nt.to_neural_tangents(ntk.Serial(dense(3, 2, 1.0), step), quadrature_degree=40)


@ALLOW_SUMS
def test_sums_that_neural_tangents_cannot_confirm():
    net = ntk.Serial(ntk.Residual(dense(3, 3, 1.0)), dense(3, 1, 1.0))
    assert net.kernel(X1).ntk.shape == (6, 6)
    _, _, kernel_fn = nt.to_neural_tangents(net)
    with pytest.raises(NotImplementedError, match="Gaussian"):
        kernel_fn(X1, None, "ntk")


# neural-tangents itself -------------------------------------------------------------------------------------------


def convolutional():
    stax = nt.stax
    init_fn, apply_fn, _ = stax.serial(
        stax.Conv(3, (3, 3), padding="SAME", b_std=0.1),
        stax.Gelu(),
        stax.AvgPool((2, 2), strides=(2, 2)),
        stax.Flatten(),
        stax.Dense(2, b_std=0.1),
    )
    params = init_fn(jax.random.key(0), IMAGES.shape)[1]
    return jax.jit(apply_fn), params, IMAGES, IMAGES[:2] + 0.1  # jit: structured derivatives must look inside


def ours(net):
    return (*ntk.functional(net), X1, X2)


@pytest.fixture(
    params=[
        lambda: ours(two_hidden_layers(ntk.Relu())),
        lambda: ours(branching(ntk.STANDARD)),
        convolutional,
    ],
    ids=["dense", "branching", "convolutional"],
    scope="module",
)
def model(request):
    """(apply_fn, params, x1, x2) and the kernel [N, M, K, K] from dense Jacobians."""
    apply_fn, params, x1, x2 = request.param()
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jit(jax.jacobian(lambda p: apply_fn(unravel(p), jnp.concatenate([x1, x2]))))(flat)
    j1, j2 = jacobian[: len(x1)], jacobian[len(x1) :]
    return apply_fn, params, x1, x2, jnp.einsum("ikp,jlp->ijkl", j1, j2)


IMPLEMENTATIONS = ["JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS", "STRUCTURED_DERIVATIVES"]


@pytest.mark.sweep
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_empirical_ntk_is_the_product_of_jacobians(model, implementation):
    apply_fn, params, x1, x2, expected = model
    ntk_fn = nt.empirical_ntk_fn(apply_fn, trace_axes=(), implementation=nt.NtkImplementation[implementation])
    assert_close(jax.jit(ntk_fn)(x1, x2, params), expected)


@pytest.mark.sweep
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_means_and_diagonals_over_outputs(implementation):
    apply_fn, params, x1, x2 = ours(one_hidden_layer())
    options = {"implementation": nt.NtkImplementation[implementation], "vmap_axes": 0}
    full = nt.empirical_ntk_fn(apply_fn, trace_axes=())
    mean = nt.empirical_ntk_fn(apply_fn, **options)
    diagonal = nt.empirical_ntk_fn(apply_fn, trace_axes=(), diagonal_axes=(-1,), **options)
    full, mean, diagonal = jax.jit(lambda *args: [f(*args) for f in (full, mean, diagonal)])(x1, x2, params)
    assert_close(mean, jnp.einsum("ijkk->ij", full) / 2)
    assert_close(diagonal, jnp.einsum("ijkk->ijk", full))


def test_the_choice_between_implementations(capsys):
    apply_fn, params, x1, x2 = ours(dense(3, 2, 1.5, b_std=0.3))
    auto = nt.empirical_ntk_fn(apply_fn, implementation=nt.NtkImplementation.AUTO)(
        x1, x2, params
    )  # outside of jit, too
    assert_close(auto, 1.5**2 * X1 @ X2.T / 3 + 0.3**2)
    assert "impl=3, flops=" in capsys.readouterr().out


def test_linearisations_and_batches():
    apply_fn, params, x1, _ = ours(one_hidden_layer())
    moved = jax.tree.map(lambda p: p + 0.1, params)
    tangent = jax.tree.map(jnp.subtract, moved, params)
    expected = jnp.add(*jax.jvp(lambda p: apply_fn(p, x1), (params,), (tangent,)))
    assert_close(nt.linearize(apply_fn, params)(moved, x1), expected)
    assert_close(nt.taylor_expand(apply_fn, params, 1)(moved, x1), expected)

    _, _, kernel_fn = nt.to_neural_tangents(one_hidden_layer())
    batched = nt.batch(kernel_fn, batch_size=2, device_count=0)(x1, None, "ntk")
    assert_close(batched, kernel_fn(x1, None, "ntk"))


# Predictions ------------------------------------------------------------------------------------------------------

LEARNING_RATE, T = 1.7, 3.0
Y = jax.random.normal(jax.random.key(3), (6, 2), jnp.float64)
F0 = jax.random.normal(jax.random.key(4), (6, 2), jnp.float64)
F0_TEST = jax.random.normal(jax.random.key(5), (4, 2), jnp.float64)
NET = one_hidden_layer()


@pytest.fixture(name="theta", scope="module")
def _theta():
    return kernel(NET, X1).ntk


@pytest.fixture(name="theta_test", scope="module")
def _theta_test():
    return kernel(NET, X2, X1).ntk


def predicted(theta, theta_test, t, **options):
    predict_fn = nt.predict.gradient_descent_mse(theta, Y, learning_rate=LEARNING_RATE, **options)
    return predict_fn(t, F0, F0_TEST, theta_test)


def expected_outputs(theta, theta_test, ridge):
    """df/dt = −η Θ (f − y)/(NK): a matrix exponential; test outputs follow the time integral of the residual."""
    n, k = Y.shape
    theta = theta + ridge * jnp.trace(theta) / n * jnp.eye(n)
    decay = scipy.linalg.expm(-LEARNING_RATE * T * np.asarray(theta) / (n * k))
    train = Y + decay @ (F0 - Y)
    test = F0_TEST - theta_test @ jnp.linalg.solve(theta, F0 - train)
    return train, test


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_gradient_flow_is_right(theta, theta_test, ridge):
    train, test = predicted(theta, theta_test, T, diag_reg=ridge)
    expected_train, expected_test = expected_outputs(theta, theta_test, ridge)
    assert_close(train, expected_train)
    assert_close(test, expected_test)


def test_gradient_flow_at_infinite_time(theta, theta_test):
    _, test = predicted(theta, theta_test, None)
    assert_close(test, F0_TEST + theta_test @ jnp.linalg.solve(theta, Y - F0))


@pytest.mark.parametrize("t", [T, None], ids=["finite", "infinite"])
def test_predictions_inside_traces(theta, theta_test, t):
    expected = predicted(theta, theta_test, t)[1]
    assert_close(jax.jit(lambda a, b: predicted(a, b, t)[1])(theta, theta_test), expected)
    assert_close(jax.vmap(lambda a: predicted(a, theta_test, t)[1])(jnp.stack([theta, 2 * theta]))[0], expected)

    @jax.jit
    def total(scale):
        return predicted(scale * theta, theta_test, t)[1].sum()

    h = 1e-5
    assert_close(jax.grad(total)(1.0), (total(1.0 + h) - total(1.0 - h)) / (2.0 * h), 1e-6)


@pytest.mark.parametrize("t", [T, None], ids=["finite", "infinite"])
def test_a_kernel_factorised_inside_jit_serves_outside(theta, theta_test, t):
    predict_fn = nt.predict.gradient_descent_mse(theta, Y)
    inside = jax.jit(lambda f0: predict_fn(t, f0, F0_TEST, theta_test)[1])(F0)
    assert_close(predict_fn(t, F0, F0_TEST, theta_test)[1], inside)  # the factors are numbers, not leaked tracers


def test_predictions_of_ensembles(theta, theta_test):
    _, _, kernel_fn = nt.to_neural_tangents(NET)
    predict_fn = nt.predict.gradient_descent_mse_ensemble(kernel_fn, X1, Y, diag_reg=1e-3)
    mean, _ = predict_fn(x_test=X2, get="ntk", compute_cov=True)
    ridge = 1e-3 * jnp.trace(theta) / len(Y) * jnp.eye(len(Y))
    assert_close(mean, theta_test @ jnp.linalg.solve(theta + ridge, Y))


def test_the_largest_learning_rate(theta):
    expected = 2 * Y.size / jnp.linalg.eigvalsh(theta)[-1]
    assert_close(nt.predict.max_learning_rate(theta, Y.size), expected)
    assert_close(jax.jit(lambda theta: nt.predict.max_learning_rate(theta, Y.size))(theta), expected)


# The bridge -------------------------------------------------------------------------------------------------------


def test_all_public_names_are_there():
    import neural_tangents

    public = {name for name in vars(neural_tangents) if not name.startswith("_")}
    assert public <= set(nt.__all__)
    assert all(getattr(nt, name) is getattr(neural_tangents, name) for name in public)
    assert nt.__version__ == neural_tangents.__version__ == "0.6.5"


def test_tensorflow_is_left_out_and_says_so():
    assert not {"tensorflow", "tf2jax"} & set(sys.modules)
    with pytest.raises(AttributeError, match=r"TensorFlow.*never loads"):
        nt.experimental.get_apply_fn_and_params  # noqa: B018


FRESH_PROCESS = """
    import importlib, sys
    import jax, jax.core, jax.extend.core, jax.interpreters.ad, ntklib

    assert not any(name.startswith(("neural_tangents", "ntklib.interop")) for name in sys.modules)

    # Attributes only, not submodules: importing one more of JAX's own modules changes nothing in the others.
    def attributes():
        modules = {name: m for name, m in sys.modules.items() if name in WATCHED}
        return {name: {k: id(v) for k, v in vars(m).items() if type(v) is not type(sys)} for name, m in modules.items()}

    WATCHED = {"jax", "jax.core", "jax.extend.core", "jax.interpreters.ad", "jax.numpy", "jax.lax", "jax.api_util"}
    before = attributes()

    def assert_jax_as_before():
        assert attributes() == before
        assert "jax.util" not in sys.modules

    # A first attempt without the bridge fails, and does not stand in its way.
    try:
        import neural_tangents
    except ImportError:
        pass
    else:
        raise AssertionError("this JAX needs no bridge")
    assert_jax_as_before()

    # Nor does one that goes wrong half-way.
    from ntklib.interop import _bridge
    try:
        with _bridge.on_current_jax():
            import neural_tangents._src.utils.rules
            raise RuntimeError("half-way")
    except RuntimeError:
        pass
    assert_jax_as_before()
    assert not any(name.startswith("neural_tangents") for name in sys.modules)

    import ntklib.interop.neural_tangents as nt
    assert_jax_as_before()
    assert not {"tensorflow", "tf2jax"} & set(sys.modules)

    import neural_tangents
    assert neural_tangents.stax is nt.stax
    assert importlib.reload(nt).stax is neural_tangents.stax

    net = nt.stax.serial(nt.stax.Dense(4), nt.stax.Relu(), nt.stax.Dense(1))
    print(net[2](jax.numpy.ones((2, 3)), None, "ntk").shape)
"""


def test_jax_is_as_before_in_a_fresh_process():
    script = textwrap.dedent(FRESH_PROCESS)
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "(2, 2)\n"


@pytest.mark.parametrize("version", ["0.4.25", "0.10.2", "0.13.0", "1.0"])
def test_another_jax_is_refused(monkeypatch, version):
    monkeypatch.setattr(jax, "__version__", version)
    monkeypatch.setattr(jax, "__version_info__", tuple(map(int, version.split("."))))
    with pytest.raises(ImportError, match=rf"jax>=0.11,<0.13; this is jax {version}.*pip install"):
        _bridge.check_versions()


def test_another_neural_tangents_is_refused(monkeypatch):
    monkeypatch.setattr(_bridge.importlib.metadata, "version", lambda name: "0.6.2")
    with pytest.raises(ImportError, match=r"neural-tangents 0.6.5; this is 0.6.2.*neural-tangents==0.6.5"):
        _bridge.check_versions()


@pytest.mark.parametrize("missing", ["neural-tangents", "frozendict"])
def test_a_missing_package_is_named_with_the_way_out(monkeypatch, missing):
    def version(name):
        if name == missing:
            raise _bridge.importlib.metadata.PackageNotFoundError(name)
        return "0.6.5"

    monkeypatch.setattr(_bridge.importlib.metadata, "version", version)
    words = rf"{missing}, which is not installed.*pip install --no-deps neural-tangents==0.6.5 frozendict"
    with pytest.raises(ModuleNotFoundError, match=words):
        _bridge.check_versions()


def test_a_package_that_somebody_else_adapted_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "neural_tangents", types.ModuleType("neural_tangents"))
    with pytest.raises(ImportError, match=r"imported before.*first, in a fresh process"), _bridge.on_current_jax():
        pass
