"""The phase-diagram explorer: its numbers against ntklib, in Chromium, offline, on a narrow screen and by keyboard."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from helpers import assert_close

import ntklib as ntk
from course import explorer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SETTINGS = [  # activation, σ_w, σ_b, ρ, depth
    ("tanh", 1.5, 0.3, 0.5, 20),
    ("tanh", 0.9, 0.2, -0.4, 100),
    ("tanh", 3.0, 0.1, 0.9, 7),
    ("erf", 2.2, 0.6, 0.1, 50),
    ("relu", 1.2, 0.4, 0.3, 1000),
    ("elu", 1.1, 0.5, 0.6, 30),
    ("elu", 1.4, 0.3, 0.6, 3),
    ("gelu", 1.3, 0.8, 0.2, 12),
]


def expected(name, w_std, b_std, rho, depth):
    layer = explorer.activations()[name]
    scales = ntk.depth_scales(layer, np.full(5, w_std), np.full(5, b_std))  # five, as above: compiled once for both
    numbers = {key: float(getattr(scales, key)[0]) for key in ("q", "chi_1", "c", "xi_q", "xi_c")}
    profile = ntk.ntk_depth_profile(layer, w_std, b_std, [1, depth], rho=rho, q=numbers["q"])
    numbers |= {
        "one_minus_c": float(profile.one_minus_c[-1]),
        "diagonal": float(profile.ntk_diagonal[-1]),
        "off": float(profile.ntk_off_diagonal[-1]),
        "ratio": float(profile.ratio[-1]),
    }
    return scales.phase[0], numbers


def test_the_diagrams_are_those_of_the_library():
    stored = explorer.stored()
    assert list(stored) == list(explorer.activations())
    i, j = np.array([3, 20, 33, 50, 55]), np.array([0, 7, 15, 30, 39])
    for name, layer in explorer.activations().items():
        scales = ntk.depth_scales(layer, np.array(explorer.W_STD)[i], np.array(explorer.B_STD)[j])
        assert_close(np.array(stored[name]["xi"])[i, j], np.minimum(scales.xi_c, 100.0), rtol=5e-3)
        assert np.isfinite(stored[name]["xi"]).all()


def test_the_page_asks_nobody_for_anything():
    page = explorer.PAGE.read_text(encoding="utf-8")
    for word in ("http://", "https://", "src=", "@import", "<link"):
        assert word not in page.replace("http://www.w3.org/2000/svg", ""), word


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_every_control_moves_the_numbers(tmp_path):
    """In a process of its own: the browser's driver brings an event loop."""
    pytest.importorskip("playwright")
    out = tmp_path / "out.json"
    script = pathlib.Path(__file__).parent / "drive_explorer.py"
    done = subprocess.run(
        [sys.executable, str(script), str(CHROMIUM), str(explorer.PAGE), str(out)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "EXPLORER_SETTINGS": repr(SETTINGS)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(out.read_text())
    for setting, page in zip(SETTINGS, got["settings"], strict=True):
        phase, numbers = expected(*setting)
        assert page["phase"] == phase
        for key, value in numbers.items():
            tolerance = 2e-2 if key in ("xi_c", "xi_q") else 3e-3
            assert float(page[key]) == pytest.approx(value, rel=tolerance), (setting, key)
    assert got["requests"] == []
    assert got["errors"] == []
    assert got["edge"]["phase"] == "critical"
    assert float(got["edge"]["w"]) == pytest.approx(ntk.critical_point(ntk.Tanh(), 0.3).w_std, rel=5e-3)
    assert got["by_key"] == pytest.approx([1.505, 0.295, 0.51], abs=1e-9)
    middle = [4.625**0.5, 1.125**0.5]  # the axes are variances
    assert got["clicked"] == pytest.approx(middle, abs=0.02)
    assert got["tapped"] == pytest.approx(middle, abs=0.02)
    for moved in ("dragged", "finger"):
        assert got[moved] == pytest.approx([2.4375**0.5, 0.5625**0.5], abs=0.02), moved
    assert got["cross_by_key"] == pytest.approx([1.41, 0.31], abs=1e-9)
    assert "(2, 0)" in got["edge_of_relu"]
    assert "the variance grows" not in got["spoken"]
    assert got["spoken"].startswith("ordered; depth scale")
    assert len(got["overflow"]) == 4
    for screen, more in got["overflow"].items():
        assert more <= 0, f"wider than a screen of {screen}"
    assert got["light"] == ["rgb(255, 255, 255)", "rgb(27, 27, 31)"]
    assert got["dark"] == ["rgb(21, 23, 27)", "rgb(236, 238, 242)"]
    for name, line in got["edge_line"].items():
        assert len(line) > 20
        for w_var, b_var in [(w_var, b_var) for w_var, b_var in line if b_var > 0.2][:8:7]:  # GELU warns below
            there = ntk.edge_of_chaos(explorer.activations()[name], b_var**0.5)
            assert w_var**0.5 == pytest.approx(there, rel=1e-4), (name, b_var)
    shares, figures = np.arange(65) / 64, matplotlib.colormaps["cividis"]
    colors = [[int(v) for v in color[4:-1].split()] for color in got["colors"]]
    assert np.abs(np.array(colors) - 255 * figures(shares)[:, :3]).max() < 6  # of 255
