"""Batches of a set held in memory; their order is arithmetic, so any step's is computed without the ones before."""

import functools
from collections.abc import Iterator

import numpy as np

from codinet_jax.data.datasets import ImageSet
from codinet_jax.errors import InputError


def batch_indices(step: int, batch_size: int, num_images: int, seed: int) -> np.ndarray:
    """The images that training step `step` sees.

    The epochs' permutations, laid end to end, are one stream; step s takes its positions s * batch_size to
    (s + 1) * batch_size. So nothing is dropped at the end of an epoch, and a batch may span two.

    Args:
      step: 0 for the first.
      batch_size: images a step.
      num_images: N, images in the set.
      seed: not negative.

    Returns:
      int64 [batch_size], each in [0, num_images).

    Raises:
      InputError: batch_size or num_images is not positive, or step or seed is negative.
    """
    if batch_size < 1 or num_images < 1:
        raise InputError(f'A batch of {batch_size} from {num_images} images is empty: both must be at least 1.')
    if step < 0 or seed < 0:
        raise InputError(f'Step {step} with seed {seed} has no batch: neither may be negative.')
    start, end = step * batch_size, (step + 1) * batch_size
    epochs = range(start // num_images, (end - 1) // num_images + 1)
    stream = np.concatenate([_epoch_permutation(num_images, seed, epoch) for epoch in epochs])
    offset = start - epochs.start * num_images
    return stream[offset : offset + batch_size]


@functools.lru_cache(maxsize=2)
def _epoch_permutation(num_images: int, seed: int, epoch: int) -> np.ndarray:
    # Raw bits are ranked because NumPy promises never to change them; it promises that of no Generator method.
    permutation_N = np.argsort(np.random.PCG64((seed, epoch)).random_raw(num_images), kind='stable')
    permutation_N.setflags(write=False)
    return permutation_N


def train_batch(image_set: ImageSet, step: int, batch_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [batch_size, H, W, C] and labels int32 [batch_size] of training step `step`; see `batch_indices`.

    Raises:
      InputError: as `batch_indices`.
    """
    indices = batch_indices(step, batch_size, len(image_set.labels_N), seed)
    return image_set.images_NxHxWxC[indices], image_set.labels_N[indices]


def evaluation_batches(image_set: ImageSet, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every image once, in order, in batches of one shape.

    The last batch is filled up with copies of image 0, which its mask tells apart.

    Yields:
      Images uint8 [batch_size, H, W, C], labels int32 [batch_size], is_real bool [batch_size].

    Raises:
      InputError: batch_size is not positive.
    """
    if batch_size < 1:
        raise InputError(f'A batch of {batch_size} images is empty: batch_size must be at least 1.')
    num_images = len(image_set.labels_N)
    for start in range(0, num_images, batch_size):
        positions = np.arange(start, start + batch_size)
        is_real = positions < num_images
        indices = np.where(is_real, positions, 0)
        yield image_set.images_NxHxWxC[indices], image_set.labels_N[indices], is_real
