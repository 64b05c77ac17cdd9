"""Figures: what stands on the axes is what the arrays say."""

import matplotlib as mpl
import numpy as np
import pytest
from helpers import assert_close

from ntklib import plotting

mpl.use("Agg")
import matplotlib.pyplot as plt

X = np.array([1.0, 2.0, 4.0, 8.0])
SAMPLES = np.array([3.0, 4.0, 5.0])[:, None] * X**-0.5


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_rate_shows_points_slope_and_theory(ax):
    plotting.rate(ax, X, SAMPLES, label="error", theory=-0.5)
    points, line = ax.get_lines()[0], ax.get_lines()[-1]
    assert_close(points.get_ydata(), SAMPLES.mean(0))
    assert_close(line.get_ydata(), SAMPLES.mean(0), rtol=1e-9)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert any("slope -0.50" in text for text in labels)
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_fit_slope_and_its_error():
    noisy = SAMPLES * X ** np.array([[0.1], [0.0], [-0.1]])
    slope, error = plotting.fit_slope(X, noisy)
    assert_close(slope, -0.5)
    assert_close(error, 0.1 / np.sqrt(3))
    with pytest.raises(ValueError, match="positive"):
        plotting.fit_slope(X, -SAMPLES)


def test_series_with_one_slope_share_an_entry_of_the_legend(ax):
    for series, theory in enumerate((-0.5, -0.5, -1.0)):
        plotting.rate(ax, X, SAMPLES, label=f"error {series}", theory=theory, series=series)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [name for name in names if "theory" in name] == ["theory: slope -0.5", "theory: slope -1"]
    assert sum("error" in name for name in names) == 3


def test_theory_is_a_line_and_measurement_points(ax):
    plotting.theory_and_measurement(ax, X, X**-0.5, SAMPLES, label="f")
    line, points = ax.get_lines()[:2]
    assert line.get_linestyle() != "None"
    assert points.get_linestyle() == "None"
    mean, error = plotting.mean_and_error(SAMPLES)
    assert_close(error, SAMPLES.std(0, ddof=1) / np.sqrt(3))
    assert_close(points.get_ydata(), mean)


def test_heatmap_has_labels(ax):
    plotting.heatmap(ax, SAMPLES, label="Θ", symmetric=True)
    image = ax.get_images()[0]
    assert image.get_clim() == (-SAMPLES.max(), SAMPLES.max())
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_error_bars_of_large_float32_numbers_keep_their_digits():
    large = np.array([1e8, 1e8 + 8, 1e8 + 16], np.float32)
    assert_close(plotting.mean_and_error(large), (1e8 + 8, 8 / np.sqrt(3)))


def test_pictures_of_one_row_are_drawn(ax):
    for channels in (1, 3):
        plotting.images([ax], np.arange(2.0 * channels).reshape(1, 1, 2, channels), ["row"])
        drawn = ax.get_images()[-1].get_array()
        assert drawn.shape == ((1, 2) if channels == 1 else (1, 2, 3))
        assert (drawn.min(), drawn.max()) == (0, 1)


def test_one_seed_has_no_error_bar():
    with pytest.raises(ValueError, match="two seeds"):
        plotting.mean_and_error(SAMPLES[:1])


def test_colours_are_told_apart_in_grey():
    grey = [mpl.colors.to_rgb(c) @ np.array([0.299, 0.587, 0.114]) for c in plotting.COLOURS[:3]]
    styles = list(zip(plotting.MARKERS, plotting.DASHES, strict=True))
    assert len(styles) == len(plotting.COLOURS)
    assert len(grey) == 3


def test_phase_diagram_shows_scales_over_variances_and_the_line(ax):
    w, b = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0])
    scales = np.array([[1.0, 2.0], [300.0, 4.0], [5.0, np.inf]])
    plotting.phase_diagram(ax, w, b, scales, line=np.array([1.5, 2.5]), most=100.0)
    mesh, line = ax.collections[0], ax.get_lines()[0]
    assert_close(np.asarray(mesh.get_array()).reshape(2, 3), np.minimum(scales, 100.0).T)
    assert_close(line.get_xdata(), np.array([2.25, 6.25]))
    assert_close(line.get_ydata(), b**2)
    assert ax.get_xlim() == (1.0, 9.0)


def test_cobweb_climbs_from_the_diagonal_to_the_map(ax):
    c = np.linspace(0, 1, 5)
    plotting.cobweb(ax, c, c**2, path=np.array([0.9, 0.81, 0.6561]), label="f")
    plotting.cobweb(ax, c, c**3, path=np.array([0.5, 0.125]), label="g", series=1)
    stairs = ax.get_lines()[1]
    assert_close(stairs.get_xdata(), np.array([0.9, 0.9, 0.81, 0.81, 0.6561]))
    assert_close(stairs.get_ydata(), np.array([0.9, 0.81, 0.81, 0.6561, 0.6561]))
    assert [line.get_label() for line in ax.get_lines()].count("c' = c") == 1
