"""Smaller images and shifted images: against the pooling layer, and against index arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import ntklib as ntk

IMAGES = np.random.default_rng(0).standard_normal((6, 5, 4, 2))


@pytest.mark.parametrize(("name", "pool", "size"), [("mnist5k", 2, 14), ("mnist5k", 7, 4), ("digits", 8, 1)])
def test_pooled_images_are_those_of_the_pooling_layer_on_a_scale_of_their_own(name, pool, size):
    plain, small = ntk.load(name), ntk.load(name, pool=pool)
    assert small.x_train.shape == (len(plain.x_train), size, size, 1)
    assert small.x_train.dtype == np.float32
    assert (small.y_train == plain.y_train).all()
    assert (small.y_test == plain.y_test).all()
    gray = [x.astype(np.float64) * plain.std + plain.mean for x in (plain.x_train, plain.x_test)]
    want = [np.asarray(ntk.AvgPool(pool)(jnp.asarray(x))) for x in gray]
    assert_close(small.mean, want[0].mean(), rtol=1e-6)
    assert_close(small.std, want[0].std(), rtol=1e-6)
    assert_close(small.x_train, (want[0] - want[0].mean()) / want[0].std(), rtol=1e-6)
    assert_close(small.x_test, (want[1] - want[0].mean()) / want[0].std(), rtol=1e-6)
    assert abs(float(np.mean(np.square(small.x_train, dtype=np.float64))) - 1) < 1e-5


def test_pooled_subsets_are_parts_of_the_pooled_set():
    few, many = (ntk.load("digits", n_train=n, n_test=20, pool=2) for n in (30, 90))
    assert (few.x_train == many.x_train[:30]).all()
    assert (few.mean, few.std, few.black) == (many.mean, many.std, -many.mean / many.std)


def test_colors_are_pooled_apart():
    plain, small = (ntk.load("photo_patches", n_train=9, n_test=9, pool=pool) for pool in (1, 8))
    assert small.x_train.shape == (9, 4, 4, 3)
    gray = plain.x_train[4, 8:16, 24:, 2].astype(np.float64).mean() * plain.std + plain.mean
    assert_close(small.x_train[4, 1, 3, 2], (gray - small.mean) / small.std, rtol=1e-5)


def moved(images, down, right, edge):
    """Pixel by pixel."""
    n, height, width, _ = images.shape
    out = np.zeros_like(images)
    for k, i, j in np.ndindex(n, height, width):
        a, b = i - down[k], j - right[k]
        if edge == "wrap":
            out[k, i, j] = images[k, a % height, b % width]
        elif edge == "nearest":
            out[k, i, j] = images[k, min(max(a, 0), height - 1), min(max(b, 0), width - 1)]
        else:
            out[k, i, j] = images[k, a, b] if 0 <= a < height and 0 <= b < width else edge
    return out


@pytest.mark.parametrize("edge", ["wrap", "nearest", -1.5])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, -2), (-4, 3), ([0, 1, -1, 2, 4, -4], [3, 0, -3, 1, -1, 2])])
def test_shifts_are_those_of_index_arithmetic(edge, down, right):
    got = ntk.shift(IMAGES, np.array(down), np.array(right), edge=edge)
    assert (got == moved(IMAGES, np.broadcast_to(down, 6), np.broadcast_to(right, 6), edge)).all()
    assert ntk.shift(IMAGES.astype(np.float32), down, right, edge=edge).dtype == np.float32


def test_shifts_over_the_edge_come_back():
    assert (ntk.shift(ntk.shift(IMAGES, 7, -9, edge="wrap"), -7, 9, edge="wrap") == IMAGES).all()
    inside = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    assert (ntk.shift(ntk.shift(inside, 2, -1, edge=0.0), -2, 1, edge=0.0) == inside).all()


def test_augmented_images_are_shifts_with_black_at_the_edge():
    data = ntk.load("digits", n_train=20, n_test=5)
    more = data.augmented(60, shift=2)
    assert (more.x_train[:20] == data.x_train).all()
    copies = [ntk.shift(data.x_train, i, j, edge=data.black) for i in range(-2, 3) for j in range(-2, 3)]
    for image, label in zip(more.x_train[20:], more.y_train[20:], strict=True):
        equal = (np.stack(copies) == image).all(axis=(2, 3, 4)).any(0)
        assert label in data.y_train[equal]
