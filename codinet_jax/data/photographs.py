"""Images streamed from disk: decoded once on the host, M random crops of each, uint8 to the device."""

import contextlib
import itertools
import os
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from codinet_jax.data import crops, image_files
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.order import batch_indices, evaluation_positions
from codinet_jax.runtime.hosts import Host
from codinet_jax.runtime.waiting import waiting

# Decoded and waiting. A batch of 256 images and 4 views is 154 MB.
BATCHES_AHEAD = 2

Record = tuple[Any, int]  # an image still encoded, as whoever decodes it knows it, and its label
TrainingBatch = tuple[np.ndarray, np.ndarray]
EvaluationBatch = tuple[np.ndarray, np.ndarray, np.ndarray]
Batch = TypeVar('Batch')
Tasks = Sequence[Callable[[], None]]


class Cut(NamedTuple):
    """What is cut out of an image of any size.

    Attributes:
      image_size: S, pixels a side of every view and of evaluation's square.
      num_channels: C, 1 or 3.
      center_crop: share of the shorter side that evaluation sees, in (0, 1].
      is_cropped: whether training sees M random crops; else it sees evaluation's square, and views are left to the
        device.
    """

    image_size: int
    num_channels: int = 3
    center_crop: float = 0.875
    is_cropped: bool = True


class Photographs(ABC):
    """A `Split` of N encoded images. Evaluation is the same wherever they come from."""

    def __init__(self, num_images: int, cut: Cut) -> None:
        self._num_images, self.cut = num_images, cut

    @property
    def num_images(self) -> int:
        return self._num_images

    @abstractmethod
    def train_batches(
        self, first_step: int, batch_size: int, num_views: int, seed: int, host: Host
    ) -> Iterator[TrainingBatch]:
        """See `Split`: views uint8 [rows, M, S, S, C]; if they are left to the device, squares [rows, S, S, C]."""

    @abstractmethod
    def _evaluation_records(self, batch_size: int, host: Host) -> Iterator[tuple[np.ndarray, list[Record]]]:
        """One host's batches: positions int32 [rows], and the records of those that are not -1."""

    @abstractmethod
    def _decode(self, position: int, encoded: Any) -> Image.Image:
        """The image at a position; from any thread.

        Raises:
          InputError: it cannot be read or decoded.
        """

    def evaluation_batches(self, batch_size: int, host: Host) -> Generator[EvaluationBatch, None, None]:
        """See `Split`. Pillow cuts the squares as it cuts those of image files; rows that fill up are black."""

        def started() -> Iterator[tuple[EvaluationBatch, Tasks]]:
            for positions, records in self._evaluation_records(batch_size, host):
                squares = np.zeros((len(positions), *self._square_shape), np.uint8)
                labels = np.zeros(len(positions), np.int32)
                labels[: len(records)] = [label for _, label in records]
                rows = zip(squares, positions, records, strict=False)
                tasks = [
                    partial(self._write_square, row, int(position), encoded) for row, position, (encoded, _) in rows
                ]
                yield (squares, labels, positions), tasks

        return done_ahead(started())

    def sample(self, num_images: int, seed: int) -> ImageSet:
        """See `Split`: the first ones, for they were shuffled when they were written, or listed."""
        del seed
        num_images = min(num_images, self.num_images)
        shape = (num_images, *self._square_shape)
        sampled = ImageSet(np.empty(shape, np.uint8), np.empty(num_images, np.int32))
        batch_size = min(num_images, 64)
        with (
            waiting('reading images', num_images, file=sys.stderr) as report,
            contextlib.closing(self.evaluation_batches(batch_size, Host())) as batches,
        ):
            for start, (squares, labels, _) in zip(range(0, num_images, batch_size), batches, strict=False):
                part = slice(start, min(start + batch_size, num_images))
                sampled.images_NxHxWxC[part] = squares[: part.stop - start]
                sampled.labels_N[part] = labels[: part.stop - start]
                report(part.stop)
        return sampled

    @property
    def _square_shape(self) -> tuple[int, int, int]:
        return self.cut.image_size, self.cut.image_size, self.cut.num_channels

    def _training_batch(
        self, rows: Sequence[tuple[int, Any, int]], labels: np.ndarray, num_views: int, seed: int
    ) -> tuple[TrainingBatch, Tasks]:
        """A batch and what fills it, from each image's position, record and place in the training stream."""
        views = (num_views,) if self.cut.is_cropped else ()
        arrays = np.empty((len(rows), *views, *self._square_shape), np.uint8)
        tasks = [
            partial(self._write_views, array, position, encoded, seed, place)
            if self.cut.is_cropped
            else partial(self._write_square, array, position, encoded)
            for array, (position, encoded, place) in zip(arrays, rows, strict=True)
        ]
        return (arrays, labels), tasks

    def _write_views(self, views_MxSxSxC: np.ndarray, position: int, encoded: Any, seed: int, place: int) -> None:
        """Crops of an image, by Pillow wherever it comes from, drawn from its place in the training stream."""
        image, size = self._decode(position, encoded), self.cut.image_size
        boxes_Mx4 = crops.boxes(crops.uniform(len(views_MxSxSxC), seed, place), image.height, image.width)
        for view_SxSxC, (top, left, height, width) in zip(views_MxSxSxC, boxes_Mx4.tolist(), strict=True):
            box = (left, top, left + width, top + height)
            view = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
            view_SxSxC[:] = view.reshape(view_SxSxC.shape)

    def _write_square(self, square_SxSxC: np.ndarray, position: int, encoded: Any) -> None:
        image = self._decode(position, encoded)
        square_SxSxC[:] = image_files.central_square(image, self.cut.image_size, self.cut.center_crop)


class Source(Protocol):
    """Encoded images, any of which can be read at any time."""

    @property
    def num_images(self) -> int:
        """N."""

    def records(self, positions: np.ndarray) -> list[Record]:
        """Of the images at these positions, in [0, N).

        Raises:
          InputError: they cannot be read.
        """

    def decode(self, position: int, encoded: Any, num_channels: int) -> Image.Image:
        """See `Photographs._decode`."""


class RandomAccess(Photographs):
    """Any image can be read at any time, so the order is arithmetic, whatever the hosts."""

    def __init__(self, source: Source, cut: Cut) -> None:
        super().__init__(source.num_images, cut)
        self.source = source

    def train_batches(
        self, first_step: int, batch_size: int, num_views: int, seed: int, host: Host
    ) -> Iterator[TrainingBatch]:
        """See `Photographs`; neither the order nor the crops depend on how many hosts there are."""

        def started() -> Iterator[tuple[TrainingBatch, Tasks]]:
            for step in itertools.count(first_step):
                indices = batch_indices(step, batch_size, self.num_images, seed)[host.rows(batch_size)]
                places = np.arange(step * batch_size, (step + 1) * batch_size)[host.rows(batch_size)]
                encoded, labels = zip(*self.source.records(indices), strict=True)
                rows = list(zip(indices.tolist(), encoded, places.tolist(), strict=True))
                yield self._training_batch(rows, np.array(labels, np.int32), num_views, seed)

        return done_ahead(started())

    def _evaluation_records(self, batch_size: int, host: Host) -> Iterator[tuple[np.ndarray, list[Record]]]:
        for positions in evaluation_positions(self.num_images, batch_size, host):
            yield positions, self.source.records(positions[positions >= 0])

    def _decode(self, position: int, encoded: Any) -> Image.Image:
        return self.source.decode(position, encoded, self.cut.num_channels)


def done_ahead(batches: Iterable[tuple[Batch, Tasks]]) -> Generator[Batch, None, None]:
    """Each batch of arrays, once the tasks that fill them are done: by a thread for every core, a few batches ahead."""
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())
    started = (([pool.submit(task) for task in tasks], batch) for batch, tasks in batches)
    try:
        waiting = deque(itertools.islice(started, BATCHES_AHEAD))
        while waiting:
            waiting.extend(itertools.islice(started, 1))
            futures, batch = waiting.popleft()
            for future in futures:
                future.result()
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
