"""A set held in memory."""

import itertools
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.data.order import batch_indices, evaluation_positions, held_out
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.hosts import Host


class ImageSet(NamedTuple):
    """A `Split` in memory, the whole of it on every host: uint8 pixels [N, H, W, C] and int32 classes [N]."""

    images_NxHxWxC: np.ndarray
    labels_N: np.ndarray

    @classmethod
    def checked(cls, images: Any, labels: Any, image_shape: tuple[int, int, int], num_classes: int) -> 'ImageSet':
        """Arrays of one's own as a set.

        Raises:
          InputError: they are not uint8 images of this shape with a class each.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or images.shape[1:] != tuple(image_shape) or not len(images):
            raise InputError(
                f'Images are {images.dtype} {list(images.shape)}: give uint8 [N, {", ".join(map(str, image_shape))}].'
            )
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f'Labels are {labels.dtype} {list(labels.shape)}: give integers [{len(images)}].')
        if not (labels.min() >= 0 and labels.max() < num_classes):
            raise InputError(
                f'Labels go from {labels.min()} to {labels.max()}, and there are {num_classes} classes: give labels '
                f'from 0 to {num_classes - 1}.'
            )
        return cls(images, labels.astype(np.int32))

    def first(self, num_images: int | None) -> 'ImageSet':
        """The first so many; all of them for None."""
        return ImageSet(*(array[:num_images] for array in self))

    def part(self, split: str, val_split: float) -> 'ImageSet':
        """What is left to 'train' of these images, or that share of them which is 'validation'.

        Raises:
          InputError: nothing is.
        """
        held_out_N = held_out(self.num_images, val_split)
        chosen_N = held_out_N if split == 'validation' else ~held_out_N
        if not chosen_N.any():
            raise InputError(
                f'val_split {val_split} of {len(chosen_N)} training images leaves none to {split}: change it.'
            )
        return ImageSet(self.images_NxHxWxC[chosen_N], self.labels_N[chosen_N])

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the pixels in [0, 1], channel by channel, to four digits."""
        levels = np.arange(256) / 255
        means, stds = [], []
        for channel in range(self.images_NxHxWxC.shape[-1]):
            counts_N = [np.bincount(image_HxWxC[..., channel].ravel(), minlength=256) for image_HxWxC in self[0]]
            share = np.sum(counts_N, axis=0) / self.images_NxHxWxC[..., channel].size
            means.append(float(share @ levels))
            stds.append(max(float(np.sqrt(share @ (levels - means[-1]) ** 2)), 1 / 255))  # one colour has none
        return tuple(round(mean, 4) for mean in means), tuple(round(std, 4) for std in stds)

    @property
    def num_images(self) -> int:
        return len(self.labels_N)

    def train_batches(
        self, first_step: int, batch_size: int, num_views: int, seed: int, host: Host
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `Split`; the order does not depend on how many hosts there are, and views are left to the device."""
        del num_views
        for step in itertools.count(first_step):
            indices = batch_indices(step, batch_size, self.num_images, seed)[host.rows(batch_size)]
            yield self.images_NxHxWxC[indices], self.labels_N[indices]

    def evaluation_batches(
        self, batch_size: int, host: Host
    ) -> Generator[tuple[np.ndarray, np.ndarray, np.ndarray], None, None]:
        """See `Split`; what fills the last batch up are copies of the last image."""
        for positions in evaluation_positions(self.num_images, batch_size, host):
            yield self.images_NxHxWxC[positions], self.labels_N[positions], positions

    def sample(self, num_images: int, seed: int) -> 'ImageSet':
        """So many images at random, in order; all of them if there are fewer."""
        chosen = np.sort(np.random.default_rng(seed).permutation(self.num_images)[:num_images])
        return ImageSet(self.images_NxHxWxC[chosen], self.labels_N[chosen])
