"""Thumbnails are a split's images themselves where they are small, photographs shrunk, and no more than fit."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import helpers
from codinet_jax.data import thumbnails as thumbnail_files
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.thumbnails import LARGEST, MOST_BYTES, thumbnails

BYTES = 8 * 8  # of an image of the digits


def photographs(num_images: int, height: int, width: int) -> ImageSet:
    """Each darkens from its own brightness at the top to black, and is red from left to right."""
    down_H, right_W = np.linspace(1, 0, height), np.linspace(0, 1, width)
    pixels_NxHxWxC = np.zeros((num_images, height, width, 3))
    pixels_NxHxWxC += down_H[:, None, None] * np.linspace(100, 255, num_images)[:, None, None, None]
    pixels_NxHxWxC[..., 0] = 255 * right_W
    return ImageSet(pixels_NxHxWxC.astype(np.uint8), np.zeros(num_images, np.int32))


@pytest.mark.parametrize('num_images', [1, 63, 64, 65, 130])
def test_small_images_are_kept_to_the_bit_in_the_order_of_the_split(num_images: int) -> None:
    images = helpers.noise_images(num_images)
    np.testing.assert_array_equal(thumbnails(images), images.images_NxHxWxC)


@pytest.mark.parametrize('shape', [(32, 32, 3), (64, 64, 3), (64, 48, 3), (64, 64, 1)])
def test_up_to_64_pixels_nothing_is_shrunk(shape: tuple[int, int, int]) -> None:
    pixels_NxHxWxC = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    found = thumbnails(ImageSet(pixels_NxHxWxC, np.zeros(5, np.int32)))
    np.testing.assert_array_equal(found, pixels_NxHxWxC)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ('height', 'width', 'expected'),
    [(224, 224, (64, 64)), (65, 65, (64, 64)), (96, 192, (32, 64)), (192, 96, (64, 32)), (224, 64, (64, 18))],
)
def test_photographs_are_shrunk_whole_and_in_proportion(height: int, width: int, expected: tuple[int, int]) -> None:
    images = photographs(3, height, width)
    found = thumbnails(images)
    assert found.shape == (3, *expected, 3) and found.dtype == np.uint8 and max(expected) == LARGEST
    # The same gradients, seen at the centres of larger pixels.
    rows = ((np.arange(expected[0]) + 0.5) * height / expected[0]).astype(int)
    columns = ((np.arange(expected[1]) + 0.5) * width / expected[1]).astype(int)
    picked = images.images_NxHxWxC[:, rows][:, :, columns].astype(int)
    assert np.abs(found[:, 2:-2, 2:-2] - picked[:, 2:-2, 2:-2]).max() <= 6


def test_photographs_stay_in_order() -> None:
    images = photographs(70, 80, 80)
    means_S = thumbnails(images)[..., 2].mean(axis=(1, 2))
    np.testing.assert_allclose(means_S, images.images_NxHxWxC[..., 2].mean(axis=(1, 2)), atol=0.6)
    assert (np.diff(means_S) > 0).all()


@pytest.mark.parametrize('spare', [0, 1, BYTES - 1])
@pytest.mark.parametrize('fit', [1, 63, 64, 65, 128, 129, 130, 131, 1000])
def test_the_first_that_fit_are_kept(fit: int, spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnail_files, 'MOST_BYTES', fit * BYTES + spare)
    images = helpers.noise_images(130)
    np.testing.assert_array_equal(thumbnails(images), images.images_NxHxWxC[:fit])


def test_it_is_the_shrunk_photographs_that_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnail_files, 'MOST_BYTES', 5 * 64 * 64 * 3)
    images = photographs(9, 100, 100)
    found = thumbnails(images)
    assert len(found) == 5
    np.testing.assert_array_equal(found, thumbnails(ImageSet(images.images_NxHxWxC[:5], images.labels_N[:5])))


def test_what_does_not_fit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnail_files, 'MOST_BYTES', 100 * BYTES)
    images, read = helpers.noise_images(1000), list[int]()
    batches_of = ImageSet.evaluation_batches

    def counted(*arguments: Any) -> Iterator[Any]:
        for batch in batches_of(*arguments):
            read.append(len(batch[0]))
            yield batch

    monkeypatch.setattr(ImageSet, 'evaluation_batches', counted)
    assert len(thumbnails(images)) == 100 and read == [64, 64]


def test_all_test_images_of_cifar_fit() -> None:
    assert MOST_BYTES // (32 * 32 * 3) >= 10_000 and MOST_BYTES // (64 * 64 * 3) == 2730
