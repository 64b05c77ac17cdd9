"""A film of a kernel in training: heat map, eigenvectors and accuracy over time, as one self-contained page.

The page needs no server and no network. A notebook shows it in a frame, and so does the site.
"""

import html
import itertools
import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PAGE = pathlib.Path(__file__).with_name("page.html")
#: A cosine is rounded to one of 64 values between −1 and 1, and each value has a letter.
LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
UNITS = 99  # places of images are whole numbers between −99 and 99


@dataclass(frozen=True)
class Film:
    """What the page shows: lists with an entry for each time."""

    labels: list[int]  # of the images, sorted
    epochs: list[float]
    accuracy: list[float]
    sizes: list[float]  # norm of the kernel over that of the first
    cosines: list[str]  # upper triangle with diagonal, row by row, letters of LEVELS
    places: list[list[list[int]]]  # entries of the first two eigenvectors, [images, 2]

    def page(self) -> str:
        """The page, as HTML."""
        data = json.dumps({"levels": LEVELS, "units": UNITS, **vars(self)}, separators=(",", ":"))
        return PAGE.read_text(encoding="utf-8").replace("DATA", data.replace("<", "\\u003c"))

    def __repr__(self) -> str:
        """A line in place of the page, for programs that show text alone."""
        first, last = (f"{value:.2f}" for value in (self.accuracy[0], self.accuracy[-1]))
        return (
            f"Film of a kernel on {len(self.labels)} images at {len(self.epochs)} times: "
            f"accuracy {first} at the start, {last} at {self.epochs[-1]:g} epochs"
        )

    def _repr_html_(self) -> str:
        """A frame with the page. The page fits the height of the frame to itself, and removes the note before it.

        JupyterLab shows no frames of a notebook that was not run yet. Then the note is what a reader sees.
        """
        style = "border: 0; width: 100%; height: 34rem"
        page = html.escape(self.page()).replace("\n", "&#10;")  # one line, so that it may stand in Markdown
        title = html.escape(repr(self))
        note = f"<p>{title}. Run the notebook to see it.</p>"
        return f'{note}<iframe title="{title}" style="{style}" loading="lazy" srcdoc="{page}"></iframe>'


def film(kernels: np.ndarray, labels: np.ndarray, epochs: Sequence[float], accuracy: Sequence[float]) -> Film:
    """Make a film of a kernel on some images, which it sorts by their labels.

    The heat map shows the cosines C_ij / √(C_ii C_jj) of the centered kernel C = H Θ H with H = I − 1 1ᵀ / N: which
    images have similar features, apart from what all images have in common. The eigenvectors are the first two of C.
    Their signs are free. Here each has a positive scalar product with that of the time before.

    Args:
        kernels: Θ at each time, [T, N, N].
        labels: Of the images, whole numbers of one digit, [N].
        epochs: The times, in increasing order, [T].
        accuracy: On test images, between 0 and 1, [T].

    Example:
        >>> rng = np.random.default_rng(0)
        >>> features = rng.normal(size=(2, 6, 10))
        >>> kernels = features @ features.swapaxes(1, 2)
        >>> film(kernels, np.array([0, 1, 0, 1, 2, 2]), [0, 1.5], [0.1, 0.8])
        Film of a kernel on 6 images at 2 times: accuracy 0.10 at the start, 0.80 at 1.5 epochs
    """
    order = np.argsort(labels, kind="stable")
    theta = np.asarray(kernels, float)[:, order[:, None], order]
    centered = theta - theta.mean(1, keepdims=True) - theta.mean(2, keepdims=True) + theta.mean((1, 2), keepdims=True)
    lengths = np.sqrt(np.diagonal(centered, axis1=1, axis2=2))
    cosines = centered / (lengths[:, :, None] * lengths[:, None, :])
    sizes = np.linalg.norm(theta, axis=(1, 2))
    vectors = np.linalg.eigh(centered)[1][..., :-3:-1]  # [T, N, 2], the largest first
    for before, now in itertools.pairwise(vectors):
        now *= np.where((before * now).sum(0) < 0, -1.0, 1.0)
    return Film(
        labels=[int(label) for label in np.asarray(labels)[order]],
        epochs=[float(time) for time in epochs],
        accuracy=[round(float(share), 4) for share in accuracy],
        sizes=[float(f"{size:.3g}") for size in sizes / sizes[0]],
        cosines=[_letters(matrix) for matrix in cosines],
        places=np.rint(vectors / np.abs(vectors).max() * UNITS).astype(int).tolist(),
    )


def _letters(cosines: np.ndarray) -> str:
    levels = np.rint((np.clip(cosines[np.triu_indices(len(cosines))], -1, 1) + 1) / 2 * (len(LEVELS) - 1))
    return "".join(LEVELS[int(level)] for level in levels)
