"""Figures from arrays: functions that draw on `Axes` of matplotlib, and the means and slopes that they show.

Theory is drawn as a line, and measurements as points with error bars. The colors of series are those of Okabe & Ito,
which color-blind readers can distinguish. Each of these colors has its own marker and dash, so that a gray print is
readable too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))


def use_style() -> None:
    """Set the course's colors, dashes, grid, and sizes of figures and text for all later figures of this process.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from cycler import cycler
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install matplotlib") from error

    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.8),
            "figure.dpi": 96,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=COLOURS, linestyle=DASHES),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "font.size": 10.5,
            "svg.hashsalt": "ntklib",
        }
    )


def mean_and_error(samples: ArrayLike, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over seeds and its standard error.

    Args:
        samples: An array of numbers of any shape, with at least two seeds.
        axis: The axis of the seeds.

    Returns:
        (mean, error), in float64. Both have the shape of `samples` without the axis of the seeds.

    Raises:
        TypeError: If `samples` does not hold numbers, or `axis` is not a whole number.
        ValueError: If `samples` does not have this axis, or has fewer than two seeds.

    Example:
        >>> mean, error = mean_and_error([1.0, 3.0])
        >>> float(mean), float(error)
        (2.0, 1.0)
    """
    samples = np.asarray(samples)
    samples = samples.astype(np.result_type(samples, np.float64))  # sums in float32 would lose digits
    if not -samples.ndim <= axis < samples.ndim:
        raise ValueError(f"`axis` must be one of the axes of `samples`, which has shape {samples.shape}; got {axis}.")
    if samples.shape[axis] < 2:
        raise ValueError(f"`samples` must hold at least two seeds along axis {axis}; got shape {samples.shape}.")
    return samples.mean(axis), samples.std(axis, ddof=1) / np.sqrt(samples.shape[axis])


def fit_slope(x: ArrayLike, samples: ArrayLike) -> tuple[float, float]:
    """Return the slope of log(samples) against log(x), and its standard error over seeds.

    A line is fitted to the points of each seed. The result is the mean of the slopes, and the standard error of this
    mean.

    Args:
        x: Positive numbers, [n], at least two of them different.
        samples: Positive numbers, [seeds, n], from at least two seeds.

    Returns:
        (slope, error).

    Raises:
        TypeError: If `samples` does not hold numbers.
        ValueError: If shapes do not fit, if a number is not positive and finite, if all of `x` are equal, or if there
            are fewer than two seeds.

    Example:
        >>> fit_slope([1.0, 2.0, 4.0], [[1.0, 0.5, 0.25], [2.0, 1.0, 0.5]])[0].__round__(6)
        -1.0
    """
    x, samples = _curve(x, samples)
    if not (np.isfinite(x) & (x > 0)).all() or not (np.isfinite(samples) & (samples > 0)).all():
        raise ValueError("`x` and `samples` must be positive and finite: their logarithms are fitted.")
    if np.unique(x).size < 2:
        raise ValueError(f"`x` must hold at least two different values to fit a slope; got {x}.")
    slopes = np.polyfit(np.log(x), np.log(samples.astype(float)).T, deg=1)[0]
    mean, error = mean_and_error(slopes)
    return float(mean), float(error)


def rate(
    ax: Axes, x: ArrayLike, samples: ArrayLike, *, label: str, theory: float | None = None, series: int = 0
) -> Axes:
    """Draw measured points on log-log axes, with the fitted slope in the legend.

    Args:
        ax: The axes to draw on.
        x: Positive numbers, [n].
        samples: Positive measurements, [seeds, n]. The points are means over seeds, with standard errors.
        label: The name of the measurements in the legend.
        theory: The predicted slope, or None. A line of this slope is drawn through the geometric mean of the points.
            Lines of the same slope share an entry in the legend.
        series: A number that chooses color, marker and dash.

    Returns:
        `ax`.

    Raises:
        TypeError: If `samples` does not hold numbers.
        ValueError: For the reasons of `fit_slope`.
    """
    x, samples = _curve(x, samples)
    mean, error = mean_and_error(samples)
    slope, slope_error = fit_slope(x, samples)
    colour, marker = COLOURS[series % len(COLOURS)], MARKERS[series % len(MARKERS)]
    text = f"{label}: slope {slope:.2f} ± {slope_error:{'.2f' if slope_error >= 0.005 else '.1g'}}"
    ax.errorbar(x, mean, yerr=error, fmt=marker, linestyle="none", color=colour, capsize=2, label=text)
    if theory is not None:
        middle = np.exp(np.mean(np.log(mean)) - theory * np.mean(np.log(x)))
        dash, name = DASHES[series % len(DASHES)], f"theory: slope {theory:g}"
        known = any(line.get_label() == name for line in ax.lines)
        ax.plot(x, middle * x**theory, color=colour, linestyle=dash, linewidth=1, label=None if known else name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.legend()
    return ax


def theory_and_measurement(
    ax: Axes, x: ArrayLike, theory: ArrayLike, samples: ArrayLike, *, label: str, series: int = 0
) -> Axes:
    """Draw a predicted curve as a line, and measurements as points with error bars.

    Args:
        ax: The axes to draw on.
        x: Numbers, [n].
        theory: The predictions at `x`, [n].
        samples: The measurements, [seeds, n]. The points are means over seeds, with standard errors.
        label: The name in the legend, to which "predicted" and "measured" are added.
        series: A number that chooses color, marker and dash.

    Returns:
        `ax`.

    Raises:
        TypeError: If `samples` does not hold numbers.
        ValueError: If shapes do not fit, or if there are fewer than two seeds.
    """
    x, samples = _curve(x, samples)
    theory = _sized("theory", theory, x.size, "x")
    mean, error = mean_and_error(samples)
    colour, marker = COLOURS[series % len(COLOURS)], MARKERS[series % len(MARKERS)]
    ax.plot(x, theory, color=colour, linestyle=DASHES[series % len(DASHES)], label=f"{label}, predicted")
    ax.errorbar(x, mean, yerr=error, fmt=marker, linestyle="none", color=colour, capsize=2, label=f"{label}, measured")
    ax.legend()
    return ax


def heatmap(ax: Axes, matrix: ArrayLike, *, label: str, title: str = "", symmetric: bool = False) -> Axes:
    """Draw a kernel matrix as an image with a color bar.

    Args:
        ax: The axes to draw on.
        matrix: The entries, [N, M].
        label: The label of the color bar.
        title: The title of the axes.
        symmetric: Whether to center the colors at zero.

    Returns:
        `ax`.

    Raises:
        TypeError: If `matrix` does not hold numbers.
        ValueError: If `matrix` does not have two axes.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"`matrix` must be [N, M]; got shape {matrix.shape}.")
    top = float(np.abs(matrix).max()) if symmetric else None
    image = ax.imshow(
        matrix, cmap="RdBu_r" if symmetric else "cividis", vmin=-top if top else None, vmax=top, interpolation="nearest"
    )
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.85)
    ax.set(xlabel="input", ylabel="input", title=title)
    ax.grid(False)
    return ax


def phase_diagram(
    ax: Axes, w_std: ArrayLike, b_std: ArrayLike, xi_c: ArrayLike, line: ArrayLike, *, most: float = 100.0
) -> Axes:
    """Draw depth scales as colors over the plane of σ_w² and σ_b², and the critical line.

    Args:
        ax: The axes to draw on.
        w_std: Values of σ_w, not squared, [n].
        b_std: Values of σ_b, not squared, [m].
        xi_c: The depth scales ξ_c in layers, [n, m].
        line: For each of `b_std`, the σ_w on the critical line, [m].
        most: The largest depth scale of the color bar, in layers. Larger ones have the same color.

    Returns:
        `ax`.

    Raises:
        TypeError: If `w_std`, `b_std` or `xi_c` does not hold numbers.
        ValueError: If shapes do not fit.
    """
    w2, b2, xi = np.asarray(w_std) ** 2, np.asarray(b_std) ** 2, np.asarray(xi_c)
    if xi.shape != (*w2.shape, *b2.shape) or xi.ndim != 2:
        sizes = f"for `w_std` {w2.shape} and `b_std` {b2.shape}"
        raise ValueError(f"`xi_c` must be [len(w_std), len(b_std)]; got shape {xi.shape} {sizes}.")
    line = _sized("line", line, b2.size, "b_std")
    scale = np.minimum(xi, most).T
    mesh = ax.pcolormesh(w2, b2, scale, cmap="cividis", vmax=most, shading="nearest", rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, label=f"depth scale ξ_c (layers, at most {most:g})", shrink=0.9)
    ax.plot(line**2, b2, color="white", linestyle="-", linewidth=2, label="edge of chaos")
    ax.set(xlabel="weight variance σ_w²", ylabel="bias variance σ_b²", xlim=(w2.min(), w2.max()))
    ax.legend(labelcolor="white", loc="upper right")
    ax.grid(False)
    return ax


def cobweb(ax: Axes, c: ArrayLike, mapped: ArrayLike, path: ArrayLike, *, label: str, series: int = 0) -> Axes:
    """Draw a correlation map f, the diagonal, and the staircase of its iterates.

    Args:
        ax: The axes to draw on.
        c: Correlations, [n].
        mapped: f(c), [n].
        path: The iterates c_1, c_2 = f(c_1), ..., at least two.
        label: The name of the map in the legend.
        series: A number that chooses color and dash.

    Returns:
        `ax`.

    Raises:
        TypeError: If `c` does not hold numbers.
        ValueError: If `path` is not a sequence of at least two, or if `mapped` and `c` have different lengths.
    """
    path = np.asarray(path)
    if path.ndim != 1 or path.size < 2:
        raise ValueError(f"`path` must be a sequence of at least two correlations; got shape {path.shape}.")
    mapped = _sized("mapped", mapped, np.size(c), "c")
    colour, dash = COLOURS[series % len(COLOURS)], DASHES[series % len(DASHES)]
    ax.plot(c, mapped, color=colour, linestyle=dash, label=label)
    ax.plot(np.repeat(path, 2)[:-1], np.repeat(path, 2)[1:], color=colour, linestyle="-", linewidth=0.8, alpha=0.7)
    ends = [np.min(c), np.max(c)]
    if not any(line.get_label() == "c' = c" for line in ax.get_lines()):
        ax.plot(ends, ends, color="black", linestyle=":", linewidth=1, label="c' = c")
    ax.set(xlabel="correlation c before a layer", ylabel="correlation c' after it")
    ax.legend()
    return ax


def images(axes: Sequence[Axes], pictures: ArrayLike, titles: Sequence[str]) -> None:
    """Draw pictures without ticks, each on its own axes, with its values scaled to [0, 1].

    Args:
        axes: n axes.
        pictures: [n, H, W, C]. One channel is drawn in gray, three in color.
        titles: n titles.

    Raises:
        TypeError: If `pictures` does not hold numbers.
        ValueError: If `pictures` has another shape, or if the numbers of axes, pictures and titles differ.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3):
        raise ValueError(f"`pictures` must be [n, H, W, C] with 1 or 3 channels; got shape {pictures.shape}.")
    if not len(pictures) == len(axes) == len(titles):
        counts = f"{len(pictures)} pictures, {len(axes)} axes and {len(titles)} titles"
        raise ValueError(f"`pictures`, `axes` and `titles` must be equally many; got {counts}.")
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        low, high = picture.min(), picture.max()
        scaled = (picture - low) / (high - low if high > low else 1.0)
        ax.imshow(scaled[..., 0] if picture.shape[-1] == 1 else scaled, cmap="gray")  # `cmap` is ignored for colors
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()


def _curve(x: ArrayLike, samples: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a curve, [n], and the measurements there, [seeds, n], as arrays. Check their shapes."""
    x, samples = np.asarray(x, float), np.asarray(samples)
    if x.ndim != 1 or samples.ndim != 2 or samples.shape[1] != x.size:
        raise ValueError(
            f"`samples` must be [seeds, {x.size}] and `x` [{x.size}], one column for each x; got shapes "
            f"{samples.shape} and {x.shape}."
        )
    return x, samples


def _sized(argument: str, value: ArrayLike, size: int, other: str) -> np.ndarray:
    """Return a sequence as an array. Check that it has `size` numbers, as many as `other`."""
    array = np.asarray(value, float)
    if array.shape != (size,):
        raise ValueError(f"`{argument}` must be [{size}], one number for each of `{other}`; got shape {array.shape}.")
    return array
