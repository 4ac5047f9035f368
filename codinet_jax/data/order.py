"""Which images a batch holds: arithmetic, so any step's are computed without the ones before, on any host."""

import functools
from collections.abc import Iterator

import numpy as np

from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.hosts import Host


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


def evaluation_positions(num_images: int, batch_size: int, host: Host) -> Iterator[np.ndarray]:
    """One host's rows of every evaluation batch, as positions in the split: int32 [rows], -1 in the last one's padding.

    Raises:
      InputError: batch_size is not positive.
    """
    if batch_size < 1:
        raise InputError(f'A batch of {batch_size} images is empty: batch_size must be at least 1.')
    for start in range(0, num_images, batch_size):
        positions = np.arange(start, start + batch_size, dtype=np.int32)
        yield np.where(positions < num_images, positions, -1)[host.rows(batch_size)]


def held_out(num_images: int, val_split: float) -> np.ndarray:
    """Which images are held out for validation, bool [N]: always the same for the same share, all over the set."""
    # Raw bits are ranked because NumPy promises never to change them; it promises that of no Generator method.
    order_N = np.argsort(np.random.PCG64(0).random_raw(num_images), kind='stable')
    held_out_N = np.zeros(num_images, bool)
    held_out_N[order_N[: round(num_images * val_split)]] = True
    return held_out_N
