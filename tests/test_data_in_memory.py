"""The order of training images is arithmetic, and evaluation meets each image exactly once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codinet_jax.data.datasets import ImageSet
from codinet_jax.data.in_memory import batch_indices, evaluation_batches, train_batch
from codinet_jax.errors import InputError

NUM_IMAGES = 23


def numbered_images(num_images: int = NUM_IMAGES) -> ImageSet:
    numbers_N = np.arange(num_images)
    images_NxHxWxC = np.broadcast_to(numbers_N.astype(np.uint8)[:, None, None, None], (num_images, 2, 2, 1))
    return ImageSet(images_NxHxWxC, numbers_N.astype(np.int32))


def stream(num_steps: int, batch_size: int, num_images: int, seed: int) -> np.ndarray:
    return np.concatenate([batch_indices(step, batch_size, num_images, seed) for step in range(num_steps)])


@settings(deadline=None, max_examples=50)
@given(num_images=st.integers(1, 40), batch_size=st.integers(1, 100), seed=st.integers(0, 2**40))
def test_every_epoch_of_the_stream_holds_every_image_once(num_images: int, batch_size: int, seed: int) -> None:
    num_epochs = 3
    num_steps = -(-num_epochs * num_images // batch_size)
    epochs = stream(num_steps, batch_size, num_images, seed)[: num_epochs * num_images].reshape(num_epochs, num_images)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(num_images), (num_epochs, 1)))


def test_the_batch_size_cuts_the_stream_and_does_not_change_it() -> None:
    np.testing.assert_array_equal(stream(20, 7, NUM_IMAGES, seed=3), stream(70, 2, NUM_IMAGES, seed=3))


def test_a_step_is_the_same_whatever_came_before() -> None:
    in_order = [batch_indices(step, 8, NUM_IMAGES, seed=1) for step in range(30)]
    for step in (29, 0, 17, 2, 28):
        np.testing.assert_array_equal(batch_indices(step, 8, NUM_IMAGES, seed=1), in_order[step])


def test_epochs_and_seeds_have_their_own_orders() -> None:
    first, second = stream(2, 100, 100, seed=0).reshape(2, 100)
    other_seed = batch_indices(0, 100, 100, seed=1)
    assert (first != second).mean() > 0.9
    assert (first != other_seed).mean() > 0.9
    assert (second != other_seed).mean() > 0.9


def test_the_order_is_pinned() -> None:
    assert batch_indices(1, 6, 10, seed=0).tolist() == [7, 4, 5, 9, 7, 4]


def test_writing_into_a_batch_leaves_the_order_alone() -> None:
    expected = batch_indices(0, NUM_IMAGES, NUM_IMAGES, seed=0).copy()
    batch_indices(0, NUM_IMAGES, NUM_IMAGES, seed=0)[:] = 0
    np.testing.assert_array_equal(batch_indices(0, NUM_IMAGES, NUM_IMAGES, seed=0), expected)


def test_a_train_batch_keeps_images_and_labels_together() -> None:
    images, labels = train_batch(numbered_images(), step=2, batch_size=10, seed=5)
    assert images.shape == (10, 2, 2, 1) and images.dtype == np.uint8 and labels.dtype == np.int32
    np.testing.assert_array_equal(labels, batch_indices(2, 10, NUM_IMAGES, seed=5))
    np.testing.assert_array_equal(images[:, 1, 1, 0], labels)


@pytest.mark.parametrize(
    ('batch_size', 'num_images', 'step', 'seed'), [(0, 5, 0, 0), (5, 0, 0, 0), (5, 5, -1, 0), (5, 5, 0, -1)]
)
def test_nonsense_is_refused(batch_size: int, num_images: int, step: int, seed: int) -> None:
    with pytest.raises(InputError):
        batch_indices(step, batch_size, num_images, seed)


@pytest.mark.parametrize('batch_size', [1, 5, 22, 23, 24, 64])
def test_evaluation_meets_every_image_once_in_order(batch_size: int) -> None:
    batches = list(evaluation_batches(numbered_images(), batch_size))
    assert len(batches) == -(-NUM_IMAGES // batch_size)
    assert all(images.shape == (batch_size, 2, 2, 1) for images, _, _ in batches)
    assert all(labels.shape == is_real.shape == (batch_size,) for _, labels, is_real in batches)
    images, labels, is_real = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == np.uint8 and labels.dtype == np.int32 and is_real.dtype == np.bool_
    np.testing.assert_array_equal(labels[is_real], np.arange(NUM_IMAGES))
    np.testing.assert_array_equal(images[is_real][:, 0, 0, 0], np.arange(NUM_IMAGES))
    assert not is_real[NUM_IMAGES:].any() and not labels[NUM_IMAGES:].any(), 'padding is image 0, and masked'


def test_evaluation_in_batches_of_none_is_refused() -> None:
    with pytest.raises(InputError, match='batch_size'):
        next(evaluation_batches(numbered_images(), 0))
