"""Convolutions as products: the same numbers and gradients, wherever they stand, and what keeps its form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close, normal
from jax.extend import core

import ntklib as ntk
from ntklib import ensembles, training
from ntklib._convolutions import by_products, convolves

NHWC = ("NHWC", "HWIO", "NHWC")
#: The shapes of inputs and weights, and the other arguments of `jax.lax.conv_general_dilated`.
CASES = {
    "same": ((2, 5, 6, 3), (3, 2, 3, 4), (1, 1), "SAME", {"dimension_numbers": NHWC}),
    "strides": ((2, 7, 6, 3), (3, 2, 3, 4), (2, 3), "VALID", {"dimension_numbers": NHWC}),
    "edges": ((2, 5, 6, 3), (3, 2, 3, 4), (2, 1), [(2, 0), (-1, 3)], {"dimension_numbers": NHWC}),
    "dilated": ((2, 9, 8, 3), (3, 2, 3, 4), (2, 1), "SAME", {"dimension_numbers": NHWC, "rhs_dilation": (2, 3)}),
    "channels first": ((2, 3, 5, 6), (4, 3, 3, 2), (1, 2), "SAME", {}),
    "units first": ((3, 2, 5, 6), (3, 2, 4, 3), (1, 1), "SAME", {"dimension_numbers": ("CNHW", "HWOI", "CHWN")}),
    "sequences": ((2, 9, 3), (4, 3, 5), (2,), "SAME", {"dimension_numbers": ("NHC", "HIO", "NHC")}),
    "volumes": (
        (2, 4, 5, 3, 2),
        (2, 3, 1, 2, 4),
        (1, 2, 1),
        "SAME",
        {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")},
    ),
}
TRANSPOSED = {"dimension_numbers": NHWC, "lhs_dilation": (2, 1)}
KEPT = {
    "batch groups": ((4, 5, 6, 3), (3, 2, 3, 4), (1, 1), "SAME", {"dimension_numbers": NHWC, "batch_group_count": 2}),
    "grouped": ((2, 5, 6, 4), (3, 2, 2, 4), (1, 1), "SAME", {"dimension_numbers": NHWC, "feature_group_count": 2}),
    "transposed": (
        (2, 5, 6, 3),
        (3, 2, 3, 4),
        (1, 1),
        [(1, 1), (0, 2)],
        {"dimension_numbers": NHWC, "lhs_dilation": (2, 1)},
    ),
}


def convolution(case):
    x, w, strides, padding, more = case
    return normal(0, *x), normal(1, *w), lambda w, x: jax.lax.conv_general_dilated(x, w, strides, padding, **more)


def program(function, *args):
    return jax.make_jaxpr(function)(*args).jaxpr


@pytest.mark.parametrize("name", CASES)
def test_a_convolution_is_the_product_of_patches_and_weights(name):
    x, w, function = convolution(CASES[name])
    changed = by_products(function)
    assert convolves(program(function, w, x))
    assert not convolves(program(changed, w, x))
    into = normal(2, *jax.eval_shape(function, w, x).shape)

    @jax.jit
    def outputs_and_gradients(w, x):
        return [(f(w, x), *jax.grad(lambda *a, f=f: jnp.sum(f(*a) * into), (0, 1))(w, x)) for f in (changed, function)]

    for got, want in zip(*outputs_and_gradients(w, x), strict=True):
        assert_close(got, want, rtol=1e-13)


@pytest.mark.parametrize("name", KEPT)
def test_grouped_and_transposed_convolutions_keep_their_form(name):
    x, w, function = convolution(KEPT[name])
    assert convolves(program(by_products(function), w, x))
    assert_close(by_products(function)(w, x), function(w, x), rtol=1e-13)


def test_a_product_is_as_precise_and_as_wide_as_the_convolution():
    """The accuracy and the type of the result that the convolution asked for."""
    x, w = (a.astype(jnp.bfloat16) for a in convolution(CASES["same"])[:2])
    more: Any = {"dimension_numbers": NHWC, "precision": "highest", "preferred_element_type": jnp.float32}
    function = lambda w, x: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", **more)  # noqa: E731
    changed = by_products(function)
    (product,) = [e for e in inside(program(changed, w, x)) if e.primitive.name == "dot_general"]
    assert product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    assert changed(w, x).dtype == jnp.float32
    assert_close(changed(w, x), function(w, x), rtol=1e-6)


def test_gradients_keep_no_patches():
    """What is kept for the gradient is no larger than inputs and weights: patches are six times the inputs here."""
    x, w, function = convolution(CASES["same"])
    kept = jax.tree.leaves(jax.vjp(by_products(function), w, x)[1])
    assert max(a.size for a in kept) <= max(x.size, w.size)


def test_a_policy_of_what_is_kept_stays():
    _, _, function = convolution(CASES["same"])
    policy = jax.checkpoint_policies.everything_saveable
    changed = by_products(lambda w, x: jax.checkpoint(lambda w, x: jnp.sin(function(w, x)), policy=policy)(w, x))
    x, w, _ = convolution(CASES["same"])
    policies = [e.params["policy"] for e in inside(program(changed, w, x)) if "policy" in e.params]
    assert policy in policies


@pytest.mark.parametrize("around", [jax.jit, jax.checkpoint])
def test_a_convolution_in_a_function_that_is_called(around):
    """Also for many weights at once. What is not to be kept for the gradient is still not kept."""
    x, w, function = convolution(CASES["strides"])
    b = normal(3, 1, 1, 1, 4)

    def model(params, x):
        return around(lambda w, x: jnp.tanh(function(w, x)))(params["w"], x) + params["b"]

    changed, params = by_products(model), {"w": w, "b": b}
    assert not convolves(program(changed, params, x))
    assert ("tanh" in [eqn.primitive.name for eqn in program(changed, params, x).eqns]) == (around is jax.jit)
    assert_close(changed(params, x), model(params, x), rtol=1e-13)
    many = {"w": jnp.stack([w, 2 * w]), "b": jnp.stack([b, -b])}
    got = jax.vmap(changed, in_axes=(0, None))(many, x)
    assert_close(got, jax.vmap(model, in_axes=(0, None))(many, x), rtol=1e-13)


def test_models_without_convolutions_and_other_machines_keep_their_programs(monkeypatch):
    _, _, function = convolution(CASES["same"])
    dense = lambda w, x: jax.nn.relu(x.reshape(2, -1) @ w)  # noqa: E731
    given = normal(0, 90, 4), normal(1, 2, 5, 6, 3)
    assert str(program(by_products(dense), *given)) == str(program(dense, *given))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert by_products(function) is function


@pytest.mark.sweep(part=2)
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("of", ["ntklib", "flax"])
def test_training_steps_by_products(of, batch_size, monkeypatch):
    """A step has no convolution, and trains to the same outputs as with one. The loss, in no loop, keeps its own."""
    x, y = normal(0, 6, 5, 5, 2), normal(1, 6, 2)

    def network():
        rngs = nnx.Rngs(0)
        if of == "ntklib":
            return ntk.cnn((5, 5, 2), (4, 3), 2, kernel_size=(3, 2), strides=2, w_std=1.4, b_std=0.2, rngs=rngs)
        layers = nnx.Conv(2, 4, (3, 3), param_dtype=jnp.float64, rngs=rngs), jax.nn.relu, lambda x: x.mean((1, 2))
        return nnx.Sequential(*layers, nnx.Linear(4, 2, param_dtype=jnp.float64, rngs=rngs))

    def step_and_outputs():
        net = network()
        apply_fn, params = ntk.functional(net)
        transformation = optax.with_extra_args_support(optax.sgd(0.1))
        state = params, transformation.init(params)
        full, step = training.objective(training.mse, transformation, apply_fn, x, y, batch_size, jax.random.key(0))
        assert convolves(program(full, params))
        batches: Any = {} if batch_size is None else {"batch_size": batch_size, "key": jax.random.key(1)}
        ntk.train(net, x, y, optimizer=optax.sgd(0.1), steps=10, **batches)
        return convolves(program(step, 0, state)), net(x)

    (within, got), _ = step_and_outputs(), monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    before, want = step_and_outputs()
    assert (within, before) == (False, True)
    assert_close(got, want, rtol=1e-12)


@pytest.mark.parametrize("what", ["the largest rate", "a product of the mean kernel"])
def test_products_with_a_kernel_in_a_loop(what, monkeypatch):
    """Lanczos' iteration and the loop over outputs have no convolution on a CPU, and find the same as with one."""
    x, v = normal(0, 6, 5, 5, 2), normal(1, 6)
    net = ntk.cnn((5, 5, 2), (4, 3), 2, kernel_size=(3, 2), strides=2, w_std=1.4, b_std=0.2, rngs=nnx.Rngs(0))
    apply_fn, params = ntk.functional(net)

    def found(x):
        model = (lambda p, x: apply_fn(p, x), params)  # a function of its own: nothing that was compiled is found
        if what == "the largest rate":
            return ntk.empirical_max_learning_rate(model, x, rtol=1e-9).learning_rate
        return ntk.ntk_vector_product(model, x, None, v)

    def loops_convolve():
        loops = [e for e in inside(program(lambda x: found(x), x)) if e.primitive.name in ("while", "scan")]
        return any(convolves(body) for e in loops for body in core.jaxprs_in_params(e.params))

    within, got = loops_convolve(), found(x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (within, loops_convolve()) == (False, True)
    assert_close(got, found(x), rtol=1e-12)
    theta = ntk.empirical_ntk(net, x, outputs="full")
    if what == "the largest rate":
        assert_close(got, 2 * 6 / jnp.linalg.eigvalsh(theta.transpose(0, 2, 1, 3).reshape(12, 12))[-1], rtol=1e-8)
    else:
        assert_close(got, jnp.einsum("ijkk,j->i", theta, v) / 2, rtol=1e-10)


def inside(jaxpr):
    """All operations of a program, at any depth."""
    return [e for eqn in jaxpr.eqns for e in (eqn, *(i for b in core.jaxprs_in_params(eqn.params) for i in inside(b)))]


def test_outputs_of_an_ensemble_are_computed_one_member_after_the_other(monkeypatch):
    """Convolutions of several members at once take twice as long and more on a CPU."""
    x = normal(0, 3, 4, 4, 1)
    convolutional = lambda rngs: ntk.cnn((4, 4, 1), (3,), 2, w_std=1.3, rngs=rngs)  # noqa: E731
    dense = lambda rngs: ntk.Serial(ntk.Flatten(), ntk.mlp([16, 3, 2], w_std=1.3, rngs=rngs))  # noqa: E731
    at_once = []
    outputs = ensembles._outputs
    monkeypatch.setattr(ensembles, "_outputs", lambda *a: at_once.append(len(a[1])) or outputs(*a))
    how: Any = {"members": 3, "optimizer": optax.sgd(0.1), "steps": 1, "key": jax.random.key(0)}
    for build, sizes in ((convolutional, [1, 1, 1]), (dense, [3])):
        trained = ntk.ensemble(build, x, normal(1, 3, 2), **how)
        members = [trained.member(m) for m in range(3)]
        want = np.stack([jax.jit(apply_fn)(params, x) for apply_fn, params in members])
        start = np.stack([build(nnx.Rngs(key))(x) for key in trained.keys])
        for centered in (False, True):
            at_once.clear()
            got = trained.outputs(x, centered=centered)
            assert_close(got, want - start if centered else want, rtol=1e-11)
            assert at_once == sizes
        at_once.clear()
