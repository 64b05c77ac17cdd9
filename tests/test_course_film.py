"""The film of a kernel: its numbers against NumPy, and the page in Chromium, offline, in a frame, on narrow screens."""

import json
import pathlib
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest

from course.film import LEVELS, UNITS, film
from course.pages import notebooks

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LABELS = np.array([3, 0, 7, 0, 3, 7, 3, 0, 7])
ORDER = [1, 3, 7, 0, 4, 6, 2, 5, 8]
EPOCHS, ACCURACY = [0, 0.25, 1.5, 10.0], [0.1, 0.35, 0.61234, 0.9]


def kernels():
    """Features that move from noise to classes, and have a large mean in common, [T, N, N]."""
    rng = np.random.default_rng(0)
    noise, classes = rng.normal(size=(9, 20)), rng.normal(size=(10, 20))[LABELS]
    features = [5 + (1 - 0.3 * t) * noise + t * classes for t in range(4)]
    return np.stack([f @ f.T for f in features])


def centered(theta):
    """C = H Θ H in the order of the labels, written out."""
    H = np.eye(9) - np.ones((9, 9)) / 9
    return H @ theta[np.ix_(ORDER, ORDER)] @ H


@pytest.fixture(scope="module")
def made():
    return film(kernels(), LABELS, EPOCHS, ACCURACY)


def test_numbers_are_those_of_the_kernels(made):
    assert made.labels == [0, 0, 0, 3, 3, 3, 7, 7, 7]
    assert made.epochs == EPOCHS
    assert made.accuracy == [0.1, 0.35, 0.6123, 0.9]
    norms = [np.linalg.norm(theta) for theta in kernels()]
    np.testing.assert_allclose(made.sizes, np.array(norms) / norms[0], rtol=5e-3)
    rows, columns = np.triu_indices(9)
    for theta, letters in zip(kernels(), made.cosines, strict=True):
        c = centered(theta)
        cosines = (c / np.sqrt(np.outer(np.diag(c), np.diag(c))))[rows, columns]
        values = 2 * np.array([LEVELS.index(letter) for letter in letters]) / (len(LEVELS) - 1) - 1
        np.testing.assert_allclose(values, cosines, atol=1.01 / (len(LEVELS) - 1))


def test_places_are_entries_of_eigenvectors_that_do_not_flip(made):
    places = np.array(made.places)
    assert np.abs(places).max() == UNITS
    for theta, place in zip(kernels(), places, strict=True):
        lam, modes = np.linalg.eigh(centered(theta))
        for number in (0, 1):
            vector, mode = place[:, number] / np.linalg.norm(place[:, number]), modes[:, -1 - number]
            assert abs(vector @ mode) > 0.999, (number, lam)
    assert ((places[:-1] * places[1:]).sum(1) > 0).all()


def test_the_page_asks_nobody_for_anything_and_fits_into_markdown(made):
    page = made.page()
    for word in ("http://", "https://", "src=", "@import", "<link", "fetch("):
        assert word not in page.replace("http://www.w3.org/2000/svg", ""), word
    shown = made._repr_html_()
    assert "\n" not in shown
    assert shown.startswith(f"<p>{made!r}. Run the notebook")  # without frames this is left
    output = nbformat.v4.new_output("display_data", data={"text/plain": repr(made), "text/html": shown})
    cell = nbformat.v4.new_code_cell("film(...)", outputs=[output])
    assert notebooks.outputs(cell, "18-3", notebooks.Figures()) == shown


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_slider_keys_button_frame_and_narrow_screens(made, tmp_path):
    """In a process of its own: the browser's driver brings an event loop."""
    pytest.importorskip("playwright")
    paths = [tmp_path / name for name in ("film.html", "frame.html", "out.json")]
    paths[0].write_text(made.page(), encoding="utf-8")
    around = '<!doctype html><meta charset="utf-8"><body data-theme="dark">'
    paths[1].write_text(around + made._repr_html_(), encoding="utf-8")
    script = pathlib.Path(__file__).parent / "drive_film.py"
    command = [sys.executable, str(script), str(CHROMIUM), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(paths[2].read_text())
    assert got["requests"] == got["errors"] == []
    for number, told in enumerate(got["times"]):
        want = [
            [label, *place] for label, place in zip(made.labels, np.array(made.places[number]) / UNITS, strict=True)
        ]
        np.testing.assert_allclose(told["digits"], want, atol=1e-3)
        assert f"accuracy {made.accuracy[number]:.2f}" in told["status"]
        assert f"{made.sizes[number]:g} times" in told["status"]
        assert told["spoken"] == f"epoch {EPOCHS[number]:g}"
        c = centered(kernels()[number])
        cosines, grey = c / np.sqrt(np.outer(np.diag(c), np.diag(c))), np.array(told["drawn"])
        level = np.rint((cosines + 1) / 2 * (len(LEVELS) - 1))
        by_level = [grey[level == value].mean() for value in np.unique(level)]
        assert np.all(np.diff(by_level) > 0), "a larger cosine is lighter"
        assert np.ptp([grey[i, i] for i in range(9)]) == 0
    assert got["by_key"] == "1"
    assert got["playing"] == ["Pause", "0"]
    assert got["played"] == "3"
    assert [extra for extra, _ in got["overflow"].values()] == [0, 0]
    assert got["overflow"]["390"][1] < 844, "all of it is in sight on a phone"
    assert got["frame"]["dark"] == "dark"
    assert got["frame"]["light"] == ""
    assert got["frame"]["left_out"] == 0
    assert "Epoch 0" in got["frame"]["status"]
    assert got["frame"]["around"].strip() == "", "the note stays only where the page does not run"
