"""The playground: its numbers against ntklib, in Chromium, offline, by mouse, touch and keyboard, on narrow screens."""

import functools
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
import webbrowser
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer.testing
from flax import nnx

import ntklib as ntk
from course import __main__, playground
from ntklib.kernel import Kernel

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LAYERS = {
    "relu": ntk.Relu(), "leaky": ntk.LeakyRelu(0.1), "abs": ntk.Abs(), "erf": ntk.Erf(), "gelu": ntk.Gelu(),
    "sin": ntk.Sin(), "gaussian": ntk.Gaussian(), "rbf": ntk.Rbf(),
}  # fmt: skip
TABLE = np.arange(-30, 31, 5) / 10  # the inputs of the page's table
TIMES = (0.0, 0.3, 10.0, 1e3, np.inf)
POINTS = ((-3.0, 0.5), (-1.35, -1.0), (-0.2, 0.3), (0.7, 1.5), (1.95, -0.4), (3.0, 2.0))
MANY = tuple((round(-2.95 + 0.15 * i, 2), round(float(np.sin(2.3 * i)), 2)) for i in range(40))
NETS: list[dict[str, Any]] = [dict(activation=a, depth=d, w=1.5, b=0.4) for a in LAYERS for d in range(1, 9)]
BOTH = ("all", "last")
PRODUCT: list[Any] = [
    dict(**net, trained=trained, ridge=1e-3, t=t, points=POINTS) for net in NETS for trained in BOTH for t in TIMES
]


def setting(activation="relu", depth=3, w=1.4, b=0.6, trained="all", ridge=0.0, t=np.inf, points=POINTS) -> Any:
    return dict(activation=activation, depth=depth, w=w, b=b, trained=trained, ridge=ridge, t=t, points=points)


TWICE = (*POINTS[:4], (-1.35, 1.0), (2.0, 0.5))  # two at one x
AWKWARD: list[Any] = [
    *(setting(points=points, trained=trained, t=t, ridge=ridge)
      for points in ((), POINTS[:1], TWICE) for trained in BOTH for t in (5.0, np.inf) for ridge in (0.0, 0.1)),
    *(setting(activation=a, trained=trained) for a in LAYERS for trained in BOTH),  # no ridge, trained to the end
    *(setting(points=MANY, activation=a, trained=trained, ridge=1e-3) for a in LAYERS for trained in BOTH),
    *(setting(points=MANY, trained=trained, t=t) for trained in BOTH for t in (3.0, np.inf)),
    *(setting(points=MANY, activation="erf", t=t) for t in (3.0, 1e4)),
    # Without biases every function is 0 at 0, or has kinks there alone. (The library's Sin is NaN for such a pair.)
    *(setting(activation=a, b=0.0, ridge=1e-3) for a in LAYERS if a != "sin"),
    setting("sin", w=0.5, b=0.0, ridge=1e-3), setting("relu", b=0.0), setting("abs", b=0.0),
    *(setting(activation=a, w=0.5, b=1.0, depth=8, ridge=1e-3) for a in LAYERS),  # ordered: almost constant
    *(setting(activation=a, w=3.0, b=0.0, depth=8, ridge=1e-3) for a in LAYERS if a != "sin"),  # chaotic
    setting(w=0.0), setting(depth=1), setting(depth=1, points=MANY),
]  # fmt: skip
HOPELESS = [
    setting("erf", points=MANY),
    setting("rbf", 2, trained="last", points=MANY),
    setting("gelu", 2, 1.2, 1.5, trained="last", points=MANY),
]
CONTROLS = setting("gelu", 4, 1.25, 0.35, "last", 1e-3, 100.0)
ZERO = setting(w=0.0, b=0.0, ridge=0.1)
SAMPLES = [setting("erf", 3, t=t, ridge=ridge, trained=trained, points=((-1.0, 0.5), (0.4, -1.0), (2.0, 0.7)))
           for t, ridge, trained in ((0.0, 0.0, "all"), (2.0, 0.0, "all"), (np.inf, 0.3, "last"))]  # fmt: skip


@functools.cache
def kernels(activation, w, b, points):
    """Σ and Θ of depths 1, ..., 8 between the inputs of the table and the points, [8, n, n]."""
    xs = [*TABLE, *(x for x, _ in points)]
    inputs = jnp.asarray(xs + [1.0] * (len(TABLE) + len(MANY) - len(xs)))[:, None]  # one size: compiled once
    first, layer = (ntk.Dense(n, 8, w_std=w, b_std=b, rngs=nnx.Rngs(0)) for n in (1, 8))
    found = [first.kernel_map(Kernel.from_inputs(inputs))]
    for _ in range(7):
        found.append(layer.kernel_map(LAYERS[activation].kernel_map(found[-1])))
    return tuple(np.stack([getattr(k, kind) for k in found])[:, : len(xs), : len(xs)] for kind in ("nngp", "ntk"))


def posterior(nngp, theta, y, t, ridge, *, trained):
    """Mean and variance at the inputs of the table."""
    m = len(TABLE)

    def part(rows, columns):
        q = jnp.diagonal(nngp)
        return Kernel(nngp[rows, columns], theta[rows, columns], q[rows], q[columns], features=1)

    old, new = slice(m, None), slice(None, m)
    mean, cov = ntk.ensemble_posterior(
        part(old, old), y[:, None], part(new, old), part(new, new), t=t, ridge=ridge,
        kernel="ntk" if trained == "all" else "nngp",
    )  # fmt: skip
    return mean[:, 0], jnp.diagonal(cov)


@functools.cache
def library() -> list[Any]:
    """Mean, variance and scale of every setting: all those of one size in one program."""
    settings = [*PRODUCT, *AWKWARD, *HOPELESS, CONTROLS]
    found: dict[int, Any] = {}
    groups: dict[Any, list[Any]] = {}
    for i, s in enumerate(settings):
        nngp, theta = (k[s["depth"] - 1] for k in kernels(s["activation"], s["w"], s["b"], s["points"]))
        scale = np.diagonal(nngp).max() ** 0.5
        if s["points"]:
            given = (nngp, theta, np.array([y for _, y in s["points"]]), s["t"], s["ridge"])
            groups.setdefault((len(s["points"]), s["trained"]), []).append((i, scale, given))
        else:
            found[i] = np.zeros(len(TABLE)), np.diagonal(nngp)[: len(TABLE)], scale
    for (_, trained), members in groups.items():
        program = jax.jit(jax.vmap(functools.partial(posterior, trained=trained)))
        result = program(
            *(jnp.asarray(np.stack(parts)) for parts in zip(*(given for *_, given in members), strict=True))
        )
        for (i, scale, _), mean, variance in zip(members, *map(np.asarray, result), strict=True):
            found[i] = mean, variance, scale
    return [found[i] for i in range(len(settings))]


def portable(s):
    return {**s, "t": "inf" if s["t"] == np.inf else s["t"], "points": [{"x": x, "y": y} for x, y in s["points"]]}


def assert_same(page, want, what):
    """1e-6 of the targets, and 1e-6 of the variance before training."""
    mean, variance, scale = want
    np.testing.assert_allclose(page["mean"], mean, rtol=1e-6, atol=1e-6, err_msg=f"mean of {what}")
    np.testing.assert_allclose(
        page["variance"], variance, rtol=1e-6, atol=1e-6 * scale**2, err_msg=f"variance of {what}"
    )


@pytest.fixture(scope="module")
def got(tmp_path_factory):
    """What the page says, from a process of its own: the browser's driver brings an event loop."""
    pytest.importorskip("playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    folder = tmp_path_factory.mktemp("playground")
    settings = [*PRODUCT, *AWKWARD, *HOPELESS, ZERO]
    given: dict[str, Any] = {
        "settings": [portable(s) for s in settings],
        "nets": NETS,
        "samples": [portable(s) for s in SAMPLES],
    }
    given["points"] = ";".join(f"{x},{y}" for x, y in POINTS)
    (folder / "in.json").write_text(json.dumps(given))
    script = pathlib.Path(__file__).parent / "drive_playground.py"
    command = [
        sys.executable,
        str(script),
        str(CHROMIUM),
        str(playground.PAGE),
        *map(str, (folder / "in.json", folder / "out.json")),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
        library()  # meanwhile
        said = browser.communicate(timeout=300)[1]
    assert browser.returncode == 0, said[-3000:]
    return json.loads((folder / "out.json").read_text())


def test_the_page_asks_nobody_for_anything():
    page = playground.PAGE.read_text(encoding="utf-8")
    for word in ("http://", "https://", "src=", "@import", "<link", "fetch("):
        assert word not in page.replace("http://www.w3.org/2000/svg", ""), word


def test_all_networks_and_times_agree_with_the_library(got):
    for setting, page, want in zip(PRODUCT, got["settings"], library(), strict=False):
        assert_same(page, want, setting)


def test_awkward_points_agree_with_the_library(got):
    for setting, page, want in zip(AWKWARD, got["settings"][len(PRODUCT) :], library()[len(PRODUCT) :], strict=False):
        assert page["finite"], setting
        assert_same(page, want, setting)


def test_what_hangs_on_rounding_is_said_in_words(got):
    place = len(PRODUCT) + len(AWKWARD)
    for page, (mean, _, _) in zip(got["settings"][place:], library()[place:-1], strict=False):
        assert np.abs(np.array(page["mean"]) - mean).max() > 1e-6, "the digits are not lost"
        assert page["finite"]
        assert any("rounding errors" in note for note in page["notes"]), page["notes"]


def test_a_degenerate_state_is_said_in_words(got):
    page = got["settings"][-1]  # no weights, no biases
    assert page["finite"]
    assert page["mean"] == page["variance"] == [0.0] * len(TABLE)
    assert ["every network is zero" in note for note in page["notes"]] == [True]
    words = {
        "No points yet": setting(points=(), t=5.0), "Points share x = −1.35 ": setting(points=TWICE),
        "straight lines": setting(depth=1),
        "At x = 0 every network is 0": setting(activation="relu", b=0.0, ridge=1e-3),
    }  # fmt: skip
    said = {repr(s): page["notes"] for s, page in zip(AWKWARD, got["settings"][len(PRODUCT) :], strict=False)}
    for text, s in words.items():
        assert any(text in note for note in said[repr(s)]), (text, said[repr(s)])
    plain = got["settings"][PRODUCT.index({**NETS[2], "trained": "all", "ridge": 1e-3, "t": 10.0, "points": POINTS})]
    assert plain["notes"] == []


def test_kernels_over_the_angle_agree_with_the_library(got):
    angles = np.radians([0, 30, 60, 90, 120, 150, 180] + [0] * (len(TABLE) + len(MANY) - 7))  # the size of `kernels`
    x = jnp.asarray(np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], 1))
    for i, (name, layer) in enumerate(LAYERS.items()):
        first, dense = (ntk.Dense(n, 8, w_std=1.5, b_std=0.4, rngs=nnx.Rngs(0)) for n in (2, 8))
        k = first.kernel_map(Kernel.from_inputs(x))
        for depth in range(1, 9):
            want = np.stack([k.nngp[0, :7], k.ntk[0, :7]], 1)
            page = got["angles"][8 * i + depth - 1]
            np.testing.assert_allclose(page, want, rtol=1e-6, atol=1e-9 * np.abs(want).max(), err_msg=f"{name} {depth}")
            k = dense.kernel_map(layer.kernel_map(k))


def test_single_networks_have_the_law_of_the_ensemble(got):
    for sample in got["sample"]:
        exact, variance = (np.array(sample[key]) for key in ("exact", "exact_variance"))
        error = np.sqrt(variance / 2000)
        assert (np.abs(np.array(sample["mean"]) - exact) < 5 * error + 1e-6).all(), sample
        assert (np.abs(np.array(sample["variance"]) / variance - 1) < 5 * (2 / 2000) ** 0.5).all(), sample


def test_controls_tables_and_the_address(got):
    page = got["controls"]
    assert page["points"] == [list(point) for point in POINTS]
    mean, variance, _ = library()[-1]
    want = np.stack([TABLE, mean, np.sqrt(variance)], 1)
    np.testing.assert_allclose(page["values"], want, rtol=1e-6, atol=1e-6)
    assert got["again"] == {key: page[key] for key in got["again"]}  # from the address alone
    for word in ("activation=gelu", "trained=last", "depth=4", "w=1.25", "ridge=0.001", "t=100", "draws=5"):
        assert word in page["hash"]
    for word in ("depth", "points", "activation", "w"):
        assert word in got["wrong"].split(":")[1]
    gap, chaos, stop = got["presets"]
    assert [nan for _, nan in (gap, chaos, stop)] == [False] * 3
    for (address, _), word in zip((gap, chaos, stop), ("activation=erf", "depth=8", "t=15.8"), strict=True):
        assert word in address


def test_mouse_keys_and_touch_move_the_points(got):
    def near(points, want):
        return np.asarray(points) == pytest.approx(np.asarray(want), abs=0.051)

    assert "No points yet" in got["empty"]["notes"]
    assert not got["empty"]["nan"]
    assert near(got["clicked"], [(-1, 0.5), (1, -0.5), (2, 1)])
    assert near(got["dragged"], [(-1, 0.5), (0, 1.5), (2, 1)])
    assert near(got["dragged_out"], [(-1, 0.5), (0, 1.5)])
    assert len(got["added"]) == 3
    (x, y), (moved_x, moved_y) = got["added"][2], got["moved"][2]  # up, ten left, right, down twice
    assert (moved_x - x, moved_y - y) == pytest.approx((-0.45, -0.05), abs=0.011)
    assert got["spoken"].startswith("Point 3 of 3: x = ")
    assert " the mean is " in got["spoken"]
    assert got["focus"] == "3.5px"
    assert len(got["deleted"]) == 2
    assert got["heir"], "the focus goes to another point"
    assert near(got["tapped"], [(-1, 0.5), (1.5, -1)])
    assert near(got["finger"], [(-1, 0.5), (0.5, 1)])


def test_the_page_fits_screens_and_is_quiet(got):
    assert got["requests"] == []
    assert got["errors"] == []
    assert len(got["overflow"]) == 6
    for screen, more in got["overflow"].items():
        assert more <= 0, f"wider than a screen of {screen}"
    assert got["light"] == ["rgb(255, 255, 255)", "rgb(27, 27, 31)"]
    assert got["dark"] == ["rgb(21, 23, 27)", "rgb(236, 238, 242)"]
    assert 150 < int(got["film"][0]) < 202
    assert got["film"][1] == "Pause"
    assert got["still"] == ["202", "Train"], "with reduced motion it is at the end at once"


@pytest.mark.parametrize("command", ["explorer", "playground"])
def test_the_command_opens_the_page(command, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    done = typer.testing.CliRunner().invoke(__main__.app, [command])
    page = importlib.import_module(f"course.{command}").PAGE
    assert (done.exit_code, done.output.strip(), opened) == (0, str(page), [page.as_uri()])
    assert page.is_file()
