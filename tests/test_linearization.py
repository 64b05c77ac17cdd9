"""Linearised, expanded, centred and scaled models, of every kind of model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from helpers import assert_close, normal, small_net

import ntklib as ntk

X = normal(0, 5, 3)


def moved(params: Any, by: float, seed: int = 1) -> Any:
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    steps = [by * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [leaf + step for leaf, step in zip(leaves, steps, strict=True)])


def models() -> dict[str, Any]:
    linen_net = linen.Dense(2)
    with jax.numpy_dtype_promotion("standard"):
        variables = linen_net.init(jax.random.key(0), X)
    return {
        "ntklib": small_net(),
        "nnx": nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64),
        "linen": linen_net.bind(variables),
        "function": (lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"] ** 2, {"a": normal(1, 3, 4), "b": normal(2, 4, 2)}),
    }


@pytest.mark.parametrize("name", ["ntklib", "nnx", "linen", "function"])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_linearized_is_the_value_and_the_jacobian(name):
    with jax.numpy_dtype_promotion("standard"):
        model = models()[name]
        apply_fn, params = ntk.functional(model)
        f_lin = ntk.linearize(model)
        assert_close(f_lin(params, X), apply_fn(params, X), rtol=1e-14)
        far = moved(params, 1.0)
        change = jax.tree.map(jnp.subtract, far, params)
        jacobian = jax.jacrev(apply_fn)(params, X)
        step = sum(
            jnp.einsum("nk...,...->nk", j, c)
            for j, c in zip(jax.tree.leaves(jacobian), jax.tree.leaves(change), strict=True)
        )
        assert_close(f_lin(far, X), apply_fn(params, X) + step, rtol=1e-6 if name == "linen" else 1e-12)


def test_the_tangent_kernel_of_the_linearized_model_does_not_move():
    net = small_net()
    params = ntk.functional(net)[1]
    f_lin = ntk.linearize(net)
    here = ntk.empirical_ntk(net, X)
    assert_close(ntk.empirical_ntk((f_lin, moved(params, 2.0)), X), here, rtol=1e-11)
    assert np.abs(ntk.empirical_ntk((ntk.functional(net)[0], moved(params, 2.0)), X) - here).max() > 0.1


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_taylor_is_exact_for_polynomials(degree):
    """Of that degree in the parameters jointly, and not for one degree more."""
    exponents = {"a": degree - degree // 2, "b": degree // 2}
    apply_fn = lambda p, x: x[:, :2] * p["a"][None] ** exponents["a"] * p["b"][None] ** exponents["b"]  # noqa: E731
    start, far = {"a": normal(1, 2), "b": normal(2, 2)}, {"a": normal(3, 2), "b": normal(4, 2)}
    assert_close(ntk.taylor((apply_fn, start), degree)(far, X), apply_fn(far, X), rtol=1e-13)
    if degree:
        short = ntk.taylor((apply_fn, start), degree - 1)(far, X)
        assert float(jnp.abs(short - apply_fn(far, X)).max()) > 0.01


def test_taylor_error_falls_with_the_next_power():
    net = small_net()
    apply_fn, params = ntk.functional(net)
    for order in (0, 1, 2, 3):
        f_k = ntk.taylor(net, order)
        errors = []
        for by in (0.02, 0.01):
            near = moved(params, by)
            errors.append(float(jnp.linalg.norm(f_k(near, X) - apply_fn(near, X))))
        assert_close(np.log2(errors[0] / errors[1]), order + 1.0, rtol=0.15)


def test_order_zero_and_one_are_what_they_say():
    net = small_net()
    apply_fn, params = ntk.functional(net)
    far = moved(params, 1.0)
    assert_close(ntk.taylor(net, 0)(far, X), apply_fn(params, X), rtol=1e-14)
    assert_close(ntk.taylor(net, 1)(far, X), ntk.linearize(net)(far, X), rtol=1e-14)


def test_centered_starts_at_zero_with_the_same_kernel_and_combines():
    net = small_net()
    centered = ntk.center(net)
    assert float(jnp.abs(centered[0](centered[1], X)).max()) == 0.0
    assert_close(ntk.empirical_ntk(centered, X), ntk.empirical_ntk(net, X), rtol=1e-13)
    far = moved(centered[1], 0.3)
    assert_close(centered[0](far, X), ntk.functional(net)[0](far, X) - net(X), rtol=1e-13)
    one, other = ntk.linearize(centered)(far, X), ntk.linearize(net)(far, X) - net(X)
    assert_close(one, other, rtol=1e-12)


def test_scaled_output_scales_the_kernel_by_its_square():
    net = small_net()
    scaled = ntk.scale_output(net, 3.0)
    assert_close(scaled[0](scaled[1], X), 3.0 * net(X), rtol=1e-14)
    assert_close(ntk.empirical_ntk(scaled, X), 9.0 * ntk.empirical_ntk(net, X), rtol=1e-13)
    linear = ntk.linearize(scaled)
    assert_close(linear(moved(scaled[1], 1.0), X), 3.0 * ntk.linearize(net)(moved(scaled[1], 1.0), X), rtol=1e-12)


def test_scaled_and_slowed_it_travels_a_tenth_as_far():
    """With η/α² the linearised, centred model has the same outputs at each step, its parameters 1/α of the way."""
    net, y = small_net(), normal(5, 5, 2)
    travelled, outputs = [], []
    for alpha in (1.0, 10.0):
        model = ntk.scale_output(ntk.center(net), alpha)
        f_lin = ntk.linearize(model)
        end = ntk.train((f_lin, model[1]), X, y, optimizer=optax.sgd(0.1 / alpha**2), steps=50).params
        change = jax.tree.map(jnp.subtract, end, model[1])
        travelled.append(jnp.sqrt(sum(jnp.sum(c**2) for c in jax.tree.leaves(change))))
        outputs.append(f_lin(end, X))
    assert_close(outputs[1], outputs[0], rtol=1e-11)
    assert_close(travelled[1], travelled[0] / 10.0, rtol=1e-11)


def test_they_work_over_seeds_under_vmap():
    net = small_net()
    apply_fn, params = ntk.functional(net)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2.0 * leaf]), params)
    far = moved(params, 0.5)
    lines = jax.vmap(lambda p: ntk.linearize((apply_fn, p))(far, X))(stacked)
    assert_close(lines[0], ntk.linearize(net)(far, X), rtol=1e-12)
