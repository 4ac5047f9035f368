"""What every split of a data set can do, whether it is held in memory or streamed from disk."""

from collections.abc import Generator, Iterator
from typing import Protocol

import numpy as np

from codinet_jax.data.in_memory import ImageSet
from codinet_jax.runtime.hosts import Host


class Split(Protocol):
    """Labelled images. Batch sizes are global, what is yielded is one host's rows of each batch."""

    @property
    def num_images(self) -> int:
        """N: images in the split, over all hosts."""

    def train_batches(
        self, first_step: int, batch_size: int, num_views: int, seed: int, host: Host
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches without end, from training step `first_step` on: the same there as if all before had been drawn.

        Yields:
          Images uint8 [rows, H, W, C], or with their crops drawn already views uint8 [rows, M, H, W, C]; and labels
          int32 [rows].
        """

    def evaluation_batches(
        self, batch_size: int, host: Host
    ) -> Generator[tuple[np.ndarray, np.ndarray, np.ndarray], None, None]:
        """Every image once, over all hosts, in as many batches of one shape on each of them.

        Yields:
          Images uint8 [rows, H, W, C], labels int32 [rows], and each image's position in the split int32 [rows]; it is
          -1 in rows that only fill the batch up.
        """

    def sample(self, num_images: int, seed: int) -> ImageSet:
        """So many of the images, all if there are fewer, in memory and as evaluation sees them."""
