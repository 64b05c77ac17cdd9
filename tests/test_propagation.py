"""Signal propagation: maps, phases, the critical line and depth, against high-precision values and other routes."""

import json
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import ACTIVATIONS, assert_close

import ntklib as ntk
from ntklib.depth import critical, phases, propagation
from ntklib.depth import profile as depth

STORED = json.loads((pathlib.Path(__file__).parent / "reference" / "eoc.json").read_text())
NAMED = {name: ACTIVATIONS[name] for name in ("arctan", "elu", "erf", "gelu", "relu", "sigmoid", "silu", "tanh")} | {
    "sin": ntk.Sin(),
    "softplus": ntk.Elementwise(jax.nn.softplus),
}
#: Those with a critical line, and ten values of σ_b on it.
LINES = ("arctan", "elu", "erf", "gelu", "silu", "sigmoid", "sin", "tanh")
BIASES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
DELTAS = jnp.array([0.0, 1e-40, 1e-14, 1e-9, 1e-5, 1e-2, 0.3, 1.0, 1.5, 2.0])


def stored_activation(entry):
    return ntk.LeakyRelu(entry["alpha"]) if entry["activation"] == "leaky_relu" else NAMED[entry["activation"]]


# maps


@pytest.mark.sweep(part=2)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs", "identity", "erf", "sin"])
def test_closed_forms_are_the_quadrature_however_near_the_inputs(name):
    activation = ACTIVATIONS[name]
    for q in (0.05, 2.0, 8.0):
        variances = jnp.full_like(DELTAS, q)
        closed = propagation.over(propagation.drop_and_slope(activation), variances, DELTAS)
        numeric = propagation.over(propagation._quadrature(activation.fn, (64, 64)), variances, DELTAS)
        for one, other in zip(closed, numeric, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-14)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_maps_are_those_of_the_layers(name):
    """A finite check of the other route: `Dense(...)` after the activation, on inputs of that covariance."""
    activation, q, w, b = ACTIVATIONS[name], 1.3, 1.4, 0.3
    c = jnp.array([-0.6, 0.1, 0.8])
    dense = ntk.Dense(2, 2, w_std=w, b_std=b, rngs=nnx.Rngs(0))
    covariances = [jnp.array([[q, q * float(one)], [q * float(one), q]]) for one in c]
    kernels = [
        dense.kernel_map(
            activation.kernel_map(ntk.Kernel(s, jnp.ones_like(s), jnp.full(2, q), jnp.full(2, q), 2, True))
        )
        for s in covariances
    ]
    rtol = 1e-7  # that of the layers' quadrature
    new_q = propagation.variance_map(activation, w, b, q)
    assert_close(new_q, kernels[0].q1[0], rtol=rtol)
    mapped = propagation.correlation_map(activation, w, b, c, q=q)
    assert_close(mapped, jnp.array([k.nngp[0, 1] / k.q1[0] for k in kernels]), rtol=rtol)
    slopes = jnp.array([(k.ntk - k.nngp)[0, 1] for k in kernels])  # Θ' = Σ' + χ Θ, and Θ is 1
    assert_close(propagation.chi(activation, w, q=q, delta=1 - c), slopes, rtol=rtol)


def test_the_slope_of_the_correlation_map_is_chi():
    q = float(phases.fixed_point(ntk.Tanh(), 1.8, 0.2))
    for delta in (1e-10, 1e-3, 0.7):
        step = 1e-4 * delta
        ends = propagation.decorrelation_map(ntk.Tanh(), 1.8, 0.2, jnp.array([delta - step, delta + step]), q=q)
        assert_close((ends[1] - ends[0]) / (2 * step), propagation.chi(ntk.Tanh(), 1.8, q=q, delta=delta), rtol=1e-6)


# fixed points and phases


@pytest.mark.sweep
@pytest.mark.parametrize("entry", STORED["depth_scales"], ids=lambda e: f"{e['activation']}-{e['sigma_w2']}")
def test_depth_scales_meet_the_stored_values(entry):
    got = phases.depth_scales(NAMED[entry["activation"]], entry["sigma_w2"] ** 0.5, entry["sigma_b2"] ** 0.5)
    names = {"q": "q_star", "c": "c_star", "chi_c": "chi_cstar"} | {k: k for k in ("chi_q", "chi_1", "xi_q", "xi_c")}
    for ours, theirs in names.items():
        assert_close(getattr(got, ours), entry[theirs], rtol=1e-9)
    assert (
        got.phase
        == entry["phase"]
        == phases.phase(NAMED[entry["activation"]], entry["sigma_w2"] ** 0.5, entry["sigma_b2"] ** 0.5)
    )


def test_depth_scales_are_the_rates_of_the_iterated_maps():
    w, b = 1.7, 0.2
    scales = phases.depth_scales(ntk.Tanh(), w, b)
    q = jnp.asarray(float(scales.q) * 1.01)
    gaps = []
    for _ in range(40):
        q = propagation.variance_map(ntk.Tanh(), w, b, q)
        gaps.append(float(abs(q - scales.q)))
    assert_close(np.log(gaps[10] / gaps[9]), -1 / scales.xi_q, rtol=1e-3)
    profile = depth.ntk_depth_profile(ntk.Tanh(), w, b, [60, 61], rho=0.9)
    gap = profile.one_minus_c - (1 - scales.c)
    assert_close(jnp.log(gap[1] / gap[0]), -1 / scales.xi_c, rtol=1e-2)


def test_a_grid_is_its_points():
    w, b = np.array([0.7, 1.3, 2.5])[:, None], np.array([0.05, 0.6])[None, :]
    grid = phases.depth_scales(ntk.Erf(), w, b)
    assert grid.q.shape == grid.phase.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            point = phases.depth_scales(ntk.Erf(), float(w[i, 0]), float(b[0, j]))
            assert grid.phase[i, j] == point.phase
            for name in ("q", "c", "chi_q", "chi_1", "chi_c", "xi_q", "xi_c"):
                assert_close(np.asarray(getattr(grid, name))[i, j], getattr(point, name), rtol=1e-12)
    w, b = np.linspace(0.6, 3.0, 40), np.linspace(0.05, 1.0, 30)
    large = phases.depth_scales(ntk.Tanh(), w[:, None], b[None])
    chaotic = large.phase == "chaotic"
    assert 100 < chaotic.sum() < 1100
    i, j = (int(k[len(k) // 2]) for k in np.nonzero(chaotic))  # coarser nodes, the same number
    point = phases.depth_scales(ntk.Tanh(), float(w[i]), float(b[j]))
    assert_close(np.asarray(large.xi_c)[i, j], point.xi_c, rtol=1e-5)


def test_all_fixed_points_of_silu_are_found_and_the_start_decides():
    points = phases.fixed_points(ntk.Silu(), 1.6795316, 0.2)
    assert [slope < 1 for _, slope in points] == [True, False]
    (low, _), (high, _) = points
    for q, _ in points:
        assert_close(propagation.variance_map(ntk.Silu(), 1.6795316, 0.2, q), q, rtol=1e-10)
    assert_close(phases.fixed_point(ntk.Silu(), 1.6795316, 0.2, start=0.99 * high), low, rtol=1e-9)
    assert float(phases.fixed_point(ntk.Silu(), 1.6795316, 0.2, start=1.01 * high)) == np.inf


def test_variances_that_vanish_diverge_or_stay():
    assert float(phases.fixed_point(ntk.Tanh(), 0.9, 0.0)) == 0.0
    assert float(phases.fixed_point(ntk.Relu(), 1.6, 0.1)) == np.inf
    assert float(phases.fixed_point(ntk.Relu(), 1.0, 0.0)) == 0.0
    assert float(phases.fixed_point(ntk.Relu(), 2**0.5, 0.0, start=0.7)) == 0.7
    assert phases.phase(ntk.Relu(), 1.6, 0.1) == "chaotic"
    assert phases.phase(ntk.Tanh(), 0.9, 0.0) == "ordered"


# the critical line


@pytest.mark.sweep
@pytest.mark.parametrize("entry", STORED["eoc_points"], ids=lambda e: f"{e['activation']}-{e['sigma_b']}")
def test_critical_points_meet_the_stored_values(entry):
    activation = stored_activation(entry)
    if entry["sigma_b"] is None:
        for b_std in (0.0, 0.1, 1.0):
            with pytest.raises(ValueError, match=r"no edge of chaos .* none at any b_std"):
                critical.critical_point(activation, b_std)
        return
    point = critical.critical_point(activation, entry["sigma_b"])
    for ours, theirs in (("w_std", "sigma_w"), ("chi_q", "chi_q"), ("beta", "beta"), ("q", "q")):
        if not isinstance(entry.get(theirs, "none"), str):
            assert_close(getattr(point, ours), entry[theirs], rtol=1e-8)
    if "variance_map" in entry:
        assert point.stable == (entry["variance_map"] == "stable")


@pytest.mark.sweep
@pytest.mark.parametrize("name", LINES)
def test_chi_1_is_one_along_the_line(name):
    for b_std in BIASES:
        point = critical.critical_point(NAMED[name], b_std)
        assert abs(float(propagation.chi(NAMED[name], point.w_std, q=point.q)) - 1) < 1e-10
        assert_close(propagation.variance_map(NAMED[name], point.w_std, b_std, point.q), point.q, rtol=1e-10)
        assert point.stable == (abs(point.chi_q) < 1)


HALF_TANH = ntk.Elementwise(lambda x: jnp.where(x > 0, x, jnp.tanh(x) / 2))


@pytest.mark.parametrize(
    ("activation", "gain"),
    [(ntk.Relu(), 1 / 2), (ntk.LeakyRelu(0.5), 5 / 8), (HALF_TANH, 5 / 8), (ntk.Tanh(), 1), (ntk.Gelu(), 1 / 4)],
    ids=["relu", "leaky", "half tanh", "tanh", "gelu"],
)
def test_at_a_kink_small_variances_see_both_slopes(activation, gain):
    """σ_w² (φ'(0+)² + φ'(0−)²)/2, and not σ_w² φ'(0)², whichever side the derivative takes at 0."""
    (zero, slope), *_ = phases.fixed_points(activation, 1.1, 0.0)
    assert zero == 0
    assert_close(slope, 1.1**2 * gain)
    small = 1e-12
    assert_close(ntk.variance_map(activation, 1.1, 0.0, small) / small, 1.1**2 * gain, rtol=1e-6)
    assert_close(critical.critical_point(activation, 0.0).w_std, gain**-0.5)
    assert phases.fixed_points(ntk.Relu(), 2**0.5, 0.0) == []  # every variance is one


def test_on_the_line_without_biases_only_a_kink_has_an_infinite_curvature():
    curved = {"half tanh": HALF_TANH, "relu": ntk.Relu(), "leaky": ntk.LeakyRelu(0.5)}
    flat = {"identity": ntk.Identity(), "no leak": ntk.LeakyRelu(1.0), "tanh": ntk.Tanh(), "gelu": ntk.Gelu()}
    for activation in curved.values():
        point = critical.critical_point(activation, 0.0)
        assert (point.beta, point.gamma) == (np.inf, np.inf)
    for activation in flat.values():
        point = critical.critical_point(activation, 0.0)
        assert (point.beta, point.gamma) == (0, 0)


def test_a_function_that_is_homogeneous_in_part_is_not_taken_for_one():
    """ReLUs that are cut off: above at 100 or 1e30, below at 1e-3; and those that are not, however they are written."""
    cut = {
        "100": lambda x: jnp.clip(x, 0.0, 100.0),
        "1e30": lambda x: jnp.clip(x, 0.0, 1e30),
        "both": lambda x: jnp.clip(x, -100.0, 100.0),
        "1e-3": lambda x: jnp.where(x > 1e-3, x, 0.0),
        "one side": lambda x: jnp.where(x < -50, -50.0, x),
    }
    whole = {
        "maximum": lambda x: jnp.maximum(x, 0.3 * x),
        "root": lambda x: jnp.sqrt(x * x) + x,
        "where": lambda x: jnp.where(x > 0, 2 * x, -x),
    }
    assert not [name for name, fn in cut.items() if phases.is_homogeneous(fn)]
    assert not [name for name, fn in whole.items() if not phases.is_homogeneous(fn)]


def test_a_cap_far_above_the_variance_changes_nothing_and_one_that_is_reached_is_refused():
    capped = ntk.Elementwise(lambda x: jnp.clip(x, 0.0, 100.0), name="capped")
    assert_close(ntk.fixed_point(capped, 1.0, 0.1), ntk.fixed_point(ntk.Relu(), 1.0, 0.1), rtol=1e-12)
    # Where the map is the identity up to rounding, the sign of V(q) − q is no crossing, and each start stays.
    assert ntk.fixed_points(capped, 2**0.5, 0.0) == [(0.0, pytest.approx(1.0))]
    assert ntk.fixed_point(capped, 2**0.5, 0.0, start=0.3) == pytest.approx(0.3, rel=1e-12)
    (found,) = ntk.fixed_points(capped, 1.0, 0.1)
    assert found == pytest.approx((0.02, 0.5), rel=1e-10)
    for call in (
        lambda: ntk.fixed_point(capped, 2.0, 0.1),  # infinite for ReLU
        lambda: ntk.ntk_depth_profile(capped, 2**0.5, 0.0, [1, 40], rho=0.5, q=1.0, residual="plain"),
        lambda: ntk.ntk_depth_profile(capped, 2.0, 0.0, [1, 40], rho=0.5, q=1.0),
    ):
        with pytest.raises(ValueError, match="capped has a kink or a jump away from zero"):
            call()


@pytest.mark.parametrize(("q", "rtol"), [(1e4, 1e-11), (1e8, 1e-11), (1e12, 1e-8)])
def test_rounding_at_large_variances_does_not_reach_small_decorrelations(q, rtol):
    """ReLU by quadrature and in closed form. The inputs differ by about 1e-5, and are up to 9√q large."""
    by_quadrature = ntk.Elementwise(lambda x: jnp.maximum(x, 0.0))
    for delta in (1e-10 / q, 3e-11 / q, 1e-11 / q):
        got = propagation.decorrelation_map(by_quadrature, 2**0.5, 0.0, delta, q=q)
        assert_close(got, propagation.decorrelation_map(ntk.Relu(), 2**0.5, 0.0, delta, q=q), rtol=rtol)


@pytest.mark.parametrize("q", [1.0, 12.0, 100.0, 1e4])
def test_large_grids_are_accurate_at_large_variances_too(q):
    grid = jnp.linspace(0.1, q, 1001)
    few, many = (propagation.drop_and_slope(ntk.Silu(), n) for n in (phases._nodes(ntk.Silu(), grid), (64, 64)))
    for delta in (1e-10, 0.03, 0.9):
        assert_close(few(grid[-1], jnp.asarray(delta)), many(grid[-1], jnp.asarray(delta)), rtol=3e-5)


@pytest.mark.parametrize("activation", [ntk.Relu(), ntk.Tanh(), ntk.Gelu()])
def test_without_biases_a_variance_of_zero_stays_zero(activation):
    assert ntk.fixed_point(activation, 3.0, 0.0, start=0.0) == 0
    assert ntk.fixed_point(activation, 3.0, 0.0, start=0.5) > 0


@pytest.mark.parametrize("delta", [1.0, 1e-9, 1e-13, 1e-20])
def test_a_jump_between_two_near_inputs_is_seen(delta):
    step = ntk.Elementwise(lambda x: jnp.where(x > 0, 1.0, 0.0))  # by quadrature
    got = propagation.decorrelation_map(step, 1.0, 0.1, delta, q=1.0)
    assert_close(got, propagation.decorrelation_map(ntk.RectifiedMonomial(0), 1.0, 0.1, delta, q=1.0), rtol=1e-12)


def test_a_variance_of_zero_repels_where_phi_jumps():
    """For sign every variance above zero becomes σ_w² in one layer."""
    assert ntk.fixed_points(ntk.Sign(), 1.5, 0.0) == [(0.0, np.inf), (pytest.approx(2.25), pytest.approx(0.0))]
    assert ntk.fixed_points(ntk.Sign(), 0.0, 0.0) == [(0.0, 0.0)]


def test_a_mean_that_overflows_is_refused():
    with pytest.raises(ValueError, match="grows too fast"):
        propagation.variance_map(ntk.Elementwise(jnp.exp), 1.0, 0.0, 1e4)


def test_unusable_lines_are_reported():
    with pytest.warns(UserWarning, match=r"gelu at b_std = 0.1 .* repels \(χ_q = 1.098"):
        assert_close(critical.edge_of_chaos(ntk.Gelu(), 0.1), 1.72707828, rtol=1e-8)
    with pytest.warns(UserWarning, match=r"sigmoid .* far from usual initializations: w_std = 10.15"):
        critical.edge_of_chaos(ntk.Sigmoid(), 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(critical.edge_of_chaos(ntk.Tanh(), 0.2), 1.30414584, rtol=1e-8)
    at_zero = {name: critical.critical_point(NAMED[name], 0.0) for name in ("tanh", "silu")}
    assert at_zero["tanh"].stable
    assert not at_zero["silu"].stable


def test_beta_and_gamma_are_the_curvatures_of_the_correlation_map():
    """δ' = δ − β/2 δ² + γ/6 δ³ on the line, from the map itself."""
    point = critical.critical_point(ntk.Tanh(), 0.3)
    delta = jnp.array([1e-3, 2e-3])
    bend = (1 - propagation.decorrelation_map(ntk.Tanh(), point.w_std, 0.3, delta, q=point.q) / delta) / delta
    assert_close(2 * bend[0] - bend[1], point.beta / 2, rtol=1e-4)
    assert_close((bend[0] - bend[1]) / (delta[1] - delta[0]), point.gamma / 6, rtol=2e-2)


# depth


@pytest.mark.sweep
@pytest.mark.parametrize("entry", STORED["ntk_depth"], ids=lambda e: f"{e['name']}-{e['c1']}")
@pytest.mark.parametrize("given", [True, False])
def test_profiles_meet_the_stored_values(entry, given):
    rows = np.array(entry["rows"])
    activation, w, b = NAMED[entry["activation"]], entry["sigma_w2"] ** 0.5, entry["sigma_b2"] ** 0.5
    got = depth.ntk_depth_profile(
        activation, w, b, rows[:, 0].astype(int), entry["c1"], q=entry["q"] if given else None
    )
    # The stored 1 − c have an absolute floor: they come from 40 digits of c.
    known = rows[:, 1] > 1e-38
    for ours, column in ((got.ntk_diagonal, 2), (got.ntk_off_diagonal, 3), (got.ratio, 4)):
        np.testing.assert_allclose(ours, rows[:, column], rtol=1e-8)
    if entry["activation"] == "tanh":  # this one was computed in δ
        known = rows[:, 1] > 0
    np.testing.assert_allclose(got.one_minus_c[known], rows[known, 1], rtol=1e-8)


def test_beyond_forty_digits_the_approach_goes_on_as_chi_says():
    """Where the stored 1 − c of erf ends at 1.2e-40, another route: the rate."""
    chi_1 = float(phases.depth_scales(ntk.Erf(), 1.0, 0.05**0.5).chi_1)
    profile = depth.ntk_depth_profile(ntk.Erf(), 1.0, 0.05**0.5, [600, 1000], rho=0.5)
    assert_close(profile.one_minus_c[1] / profile.one_minus_c[0], chi_1**400, rtol=1e-9)


@pytest.mark.parametrize("name", ["relu", "erf", "tanh"])
def test_profiles_are_the_kernels_of_networks_layer_by_layer(name):
    activation, w, b = NAMED[name], 1.3, 0.3
    x = jnp.array([[1.2, 0.1, -0.3], [0.4, 1.0, 0.5]])
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True) * 3**0.5  # both of variance 1
    layers = ntk.mlp([3, 2, 2, 2, 1], activation=activation, w_std=w, b_std=b, rngs=nnx.Rngs(0)).layers
    first = ntk.Serial(*layers[:1]).kernel(x).nngp
    got = depth.ntk_depth_profile(activation, w, b, [1, 2, 3, 4], rho=first[0, 1] / first[0, 0], q=float(first[0, 0]))
    for i, end in enumerate((1, 3, 5, 7)):
        k = ntk.Serial(*layers[:end]).kernel(x)
        assert_close(got.variance[i], k.nngp[0, 0], rtol=1e-7)
        assert_close(got.one_minus_c[i], 1 - k.nngp[0, 1] / k.nngp[0, 0], rtol=1e-6)
        assert_close(got.ntk_diagonal[i], k.ntk[0, 0], rtol=1e-7)
        assert_close(got.ntk_off_diagonal[i], k.ntk[0, 1], rtol=1e-6)


@pytest.mark.sweep(part=3)
@pytest.mark.parametrize("name", ["relu", "tanh"])
@pytest.mark.parametrize("residual", ["plain", "1/sqrt(l)", "1/sqrt(L)"])
def test_residual_profiles_are_the_kernels_of_residual_networks(name, residual):
    activation, w, b, blocks = NAMED[name], 1.1, 0.2, 4
    if name == "relu":
        b = 0.0
    rngs = nnx.Rngs(0)
    x = jnp.array([[1.2, 0.1, -0.3], [0.4, 1.0, 0.5]])
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True) * 3**0.5
    scale = {"plain": lambda _: 1.0, "1/sqrt(l)": lambda i: i**-0.5, "1/sqrt(L)": lambda _: blocks**-0.5}[residual]
    layers: list[ntk.Layer] = [ntk.Dense(3, 5, w_std=w, b_std=b, rngs=rngs)]
    for i in range(1, blocks + 1):
        branch = ntk.Serial(activation, ntk.Dense(5, 5, w_std=w, b_std=b, rngs=rngs))
        layers.append(ntk.Residual(branch, scale=scale(i)))
    k = ntk.Serial(*layers).kernel(x)
    first = layers[0].kernel(x).nngp
    got = depth.ntk_depth_profile(
        activation, w, b, [blocks + 1], rho=first[0, 1] / first[0, 0], q=float(first[0, 0]), residual=residual
    )
    assert_close(got.variance[0], k.nngp[0, 0], rtol=1e-7)
    assert_close(got.ntk_diagonal[0], k.ntk[0, 0], rtol=1e-7)
    assert_close(got.ntk_off_diagonal[0], k.ntk[0, 1], rtol=1e-6)


@pytest.mark.sweep(part=2)
@pytest.mark.parametrize(
    ("activation", "b_std", "limit", "coefficient"),
    [(ntk.Relu(), 0.0, 1 / 4, 3 / 8), (ntk.Erf(), 0.05, 1 / 3, None), (ntk.Erf(), 0.5, 1 / 3, None)],
)
def test_a_million_layers_have_the_limit_and_the_rate(activation, b_std, limit, coefficient):
    """(ratio − limit) L = κ log L + O(1), with κ = 3/8 for ReLU and 1/3 − 2γ/9β² for smooth activations."""
    point = critical.critical_point(activation, b_std)
    depths = np.array([100_000, 300_000, 1_000_000])
    q = point.q if b_std else 1.0
    profile = depth.ntk_depth_profile(activation, point.w_std, b_std, depths, rho=jnp.array([0.0, 0.5]), q=q)
    assert_close(profile.ntk_diagonal, jnp.asarray(depths * q)[:, None] * jnp.ones((1, 2)), rtol=1e-8)
    scaled = (np.asarray(profile.ratio) - limit) * depths[:, None]
    slope = (scaled[2] - scaled[1]) / np.log(depths[2] / depths[1])
    wanted = coefficient or 1 / 3 - 2 * point.gamma / (9 * point.beta**2)
    np.testing.assert_allclose(slope, wanted, rtol=0.01)
    decorrelation = profile.one_minus_c[2] * (
        depths[2] * point.beta / 2 if b_std else 2 * depths[2] ** 2 / 9 / np.pi**2
    )
    np.testing.assert_allclose(decorrelation, 1.0, rtol=1e-3)


def test_residual_nets_have_the_same_limit_and_rate_where_the_variance_leaves_float64():
    depths = np.array([100, 300_000, 1_000_000])
    for w2 in (0.5, 4.0):
        profile = depth.ntk_depth_profile(ntk.Relu(), w2**0.5, 0.0, depths, rho=0.5, q=1.0, residual="plain")
        share = (w2 / 2) / (1 + w2 / 2)
        assert_close(profile.ntk_diagonal[0], (1 + w2 / 2) ** 99 * (1 + share * 99), rtol=1e-10)
        assert float(profile.ntk_diagonal[2]) == np.inf
        scaled = (np.asarray(profile.ratio) - 1 / 4) * depths
        np.testing.assert_allclose((scaled[2] - scaled[1]) / np.log(depths[2] / depths[1]), 3 / 8, rtol=0.01)


def test_profiles_of_relu_do_not_depend_on_the_scale_of_weights_also_beyond_float64():
    """Without biases, correlations and Θ/Σ are those of the critical network, whose variance stays."""
    grown, still, shrunk = (
        depth.ntk_depth_profile(ntk.Relu(), w, 0.0, [10, 3000], rho=0.5, q=1.0) for w in (3.0, 2**0.5, 0.5)
    )
    assert [float(p.variance[1]) for p in (grown, still, shrunk)] == [np.inf, pytest.approx(1.0, rel=1e-11), 0.0]
    for other in (grown, shrunk):
        assert_close(other.ratio, still.ratio, rtol=1e-10)
        assert_close(other.one_minus_c, still.one_minus_c, rtol=1e-10)


@pytest.mark.parametrize("q", [1e6, 1e11])
def test_at_large_variances_silu_is_relu(q):
    """They differ within a distance 1/√q of zero, relative to the size of the units."""
    got, want = (ntk.decorrelation_map(a, 1.0, 0.0, 0.5, q=q) for a in (ntk.Silu(), ntk.Relu()))
    assert abs(float(got / want) - 1) < 10 / q**0.5


def test_inputs_closer_than_rho_can_tell():
    profile = depth.ntk_depth_profile(ntk.Erf(), 2.5**0.5, 0.05**0.5, [1, 50, 400], delta=jnp.array([1e-30, 1e-12]))
    chi_1 = float(phases.depth_scales(ntk.Erf(), 2.5**0.5, 0.05**0.5).chi_1)
    assert_close(profile.one_minus_c[1] / profile.one_minus_c[0], jnp.full(2, chi_1**49), rtol=1e-4)
    assert_close(profile.one_minus_c[2], jnp.full(2, 1 - 0.273536), rtol=1e-5)  # chaos tells them apart in the end


def test_single_precision_sessions_are_told():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"needs float64: .*jax_enable_x64"):
        depth.ntk_depth_profile(ntk.Relu(), 1.0, 0.1, [3], rho=0.5)
