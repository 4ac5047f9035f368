"""The order of training images is arithmetic, and evaluation meets each image exactly once."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.order import batch_indices
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.hosts import Host

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


@pytest.mark.parametrize('first_step', [0, 2, 7])
def test_train_batches_keep_images_and_labels_together_from_any_step_on(first_step: int) -> None:
    batches = numbered_images().train_batches(first_step, 10, num_views=2, seed=5, host=Host())
    for step, (images, labels) in zip(range(first_step, first_step + 5), batches, strict=False):
        assert images.shape == (10, 2, 2, 1) and images.dtype == np.uint8 and labels.dtype == np.int32
        np.testing.assert_array_equal(labels, batch_indices(step, 10, NUM_IMAGES, seed=5))
        np.testing.assert_array_equal(images[:, 1, 1, 0], labels)


def test_hosts_share_a_batch_and_its_order_is_that_of_one_host() -> None:
    whole = numbered_images().train_batches(3, 12, 1, seed=5, host=Host())
    shares = [numbered_images().train_batches(3, 12, 1, seed=5, host=Host(index, 3)) for index in range(3)]
    for (images, labels), *parts in itertools.islice(zip(whole, *shares, strict=True), 4):
        assert all(len(part) == 4 for _, part in parts)
        np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), labels)


@pytest.mark.parametrize(
    ('batch_size', 'num_images', 'step', 'seed'), [(0, 5, 0, 0), (5, 0, 0, 0), (5, 5, -1, 0), (5, 5, 0, -1)]
)
def test_nonsense_is_refused(batch_size: int, num_images: int, step: int, seed: int) -> None:
    with pytest.raises(InputError):
        batch_indices(step, batch_size, num_images, seed)


@pytest.mark.parametrize('num_hosts', [1, 2, 3])
@pytest.mark.parametrize('batch_size', [6, 12, 24, 66])
def test_evaluation_meets_every_image_once_over_all_hosts(batch_size: int, num_hosts: int) -> None:
    hosts = [list(numbered_images().evaluation_batches(batch_size, Host(h, num_hosts))) for h in range(num_hosts)]
    assert all(len(batches) == -(-NUM_IMAGES // batch_size) for batches in hosts)
    share = batch_size // num_hosts
    for images, labels, positions in itertools.chain(*hosts):
        assert images.shape == (share, 2, 2, 1) and labels.shape == positions.shape == (share,)
        assert images.dtype == np.uint8 and labels.dtype == positions.dtype == np.int32
    images, labels, positions = (np.concatenate(parts) for parts in zip(*itertools.chain(*hosts), strict=True))
    np.testing.assert_array_equal(np.sort(positions[positions >= 0]), np.arange(NUM_IMAGES))
    np.testing.assert_array_equal(labels[positions >= 0], positions[positions >= 0])
    np.testing.assert_array_equal(images[positions >= 0][:, 0, 0, 0], positions[positions >= 0])
    assert (positions == -1).sum() == -NUM_IMAGES % batch_size


@pytest.mark.parametrize('batch_size', [1, 5, 22, 23, 64])
def test_one_host_evaluates_in_order(batch_size: int) -> None:
    batches = numbered_images().evaluation_batches(batch_size, Host())
    positions = np.concatenate([positions for _, _, positions in batches])
    np.testing.assert_array_equal(positions[:NUM_IMAGES], np.arange(NUM_IMAGES))
    assert (positions[NUM_IMAGES:] == -1).all()


def test_evaluation_in_batches_of_none_is_refused() -> None:
    with pytest.raises(InputError, match='batch_size'):
        next(numbered_images().evaluation_batches(0, Host()))


def test_a_sample_is_some_of_the_images_in_order_and_at_most_all() -> None:
    sample = numbered_images().sample(9, seed=4)
    assert len(set(sample.labels_N)) == 9 and (np.diff(sample.labels_N) > 0).all()
    np.testing.assert_array_equal(sample.images_NxHxWxC[:, 0, 0, 0], sample.labels_N)
    assert sample.labels_N.tolist() != numbered_images().sample(9, seed=5).labels_N.tolist()
    np.testing.assert_array_equal(numbered_images().sample(99, seed=4).labels_N, np.arange(NUM_IMAGES))


PIXELS = np.zeros((4, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
    ('images', 'labels', 'message'),
    [
        (PIXELS / 255, [0, 1, 2, 0], r'Images are float64 \[4, 2, 2, 1\]: give uint8 \[N, 2, 2, 1\]'),
        (PIXELS[..., 0], [0, 1, 2, 0], r'Images are uint8 \[4, 2, 2\]'),
        (np.tile(PIXELS, 3), [0, 1, 2, 0], r'Images are uint8 \[4, 2, 2, 3\]'),
        (PIXELS[:0], [], r'Images are uint8 \[0, 2, 2, 1\]'),
        (PIXELS, [0, 1, 2], r'Labels are int64 \[3\]: give integers \[4\]'),
        (PIXELS, [0.0, 1.0, 2.0, 0.0], 'Labels are float64'),
        (PIXELS, np.eye(4, dtype=int), r'Labels are int64 \[4, 4\]'),
        (PIXELS, [0, 1, 3, 0], 'Labels go from 0 to 3, and there are 3 classes: give labels from 0 to 2'),
        (PIXELS, [0, -1, 2, 0], 'Labels go from -1 to 2'),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageSet.checked(images, labels, (2, 2, 1), 3)


def test_arrays_of_ones_own_become_a_set() -> None:
    images = ImageSet.checked(PIXELS, [0, 1, 2, 0], (2, 2, 1), 3)
    assert images.num_images == 4 and images.labels_N.dtype == np.int32
    assert images.first(3).labels_N.tolist() == [0, 1, 2] and images.first(None).num_images == 4
