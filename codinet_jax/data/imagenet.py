"""Photographs streamed from disk: decoded once on the host, M random crops of each, uint8 to the device."""

import contextlib
import io
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from codinet_jax.data import crops, image_files, tfds_files
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.order import batch_indices, evaluation_positions
from codinet_jax.data.split import Split
from codinet_jax.data.tfds_files import PreparedSplit
from codinet_jax.runtime import optional_tensorflow
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.hosts import Host

# Records of about 110 kB, still encoded. A host holds those of three epochs at a time, 1.7 GB: of the current one and
# of two that are being made ready, so that none begins with a stall. TFDS shuffled the images when it wrote them, and
# the order of the files is drawn anew each epoch: what is left to do is to part neighbours.
SHUFFLED_RECORDS = 5000
# Read at once, a few records from each in turn.
FILES_AT_ONCE = 16
RECORDS_IN_TURN = 16
# Decoded and waiting. A batch of 256 images and 4 views is 154 MB.
BATCHES_AHEAD = 2

Record = tuple[bytes, int]  # an encoded image and its label
TrainingBatch = tuple[np.ndarray, np.ndarray]
EvaluationBatch = tuple[np.ndarray, np.ndarray, np.ndarray]
Batch = TypeVar('Batch')
Tasks = Sequence[Callable[[], None]]


def open_split(
    tfds_name: str,
    split: str,
    root: Path,
    image_size: int,
    center_crop: float,
    shares: tuple[float, float],
    classes: tuple[str, ...] | int | None = None,
) -> Split:
    """Opens a part of one split of a prepared set of photographs, in either file format.

    Args:
      tfds_name: of the set.
      split: its name in TFDS.
      root: the directory that TFDS prepared the set in.
      image_size: S, pixels a side of every view and of evaluation's square.
      center_crop: share of the shorter side that evaluation sees, in (0, 1].
      shares: of the split's N images in file order, those from round(N * shares[0]) to round(N * shares[1]).
      classes: their names in order, or how many there are; None is any.

    Raises:
      InputError: the set is missing, half-written, damaged, not one of photographs or in a format that cannot be read
        here, or the shares leave no image.
    """
    prepared = tfds_files.open_split(tfds_name, split, (None, None, 3), root, classes)
    first, end = (round(prepared.num_images * share) for share in shares)
    if first >= end:
        percent = ' to '.join(f'{100 * share:g} %' for share in shares)
        raise InputError(f'No image lies at {percent} of the {prepared.num_images} in split {split}: change val_split.')
    photographs = _ArrayRecords if prepared.file_format == 'array_record' else _Tfrecords
    return photographs(prepared, first, end - first, image_size, center_crop)


class _Photographs(ABC):
    """A `Split`: N images of a prepared one, from its `first` on. Evaluation is the same whatever the file format."""

    def __init__(
        self, prepared: PreparedSplit, first: int, num_images: int, image_size: int, center_crop: float
    ) -> None:
        self.prepared, self.first = prepared, first
        self.image_size, self.center_crop = image_size, center_crop
        self._num_images = num_images

    @property
    def num_images(self) -> int:
        return self._num_images

    @abstractmethod
    def train_batches(
        self, first_step: int, batch_size: int, num_views: int, seed: int, host: Host
    ) -> Iterator[TrainingBatch]:
        """See `Split`: views uint8 [rows, M, S, S, 3]."""

    @abstractmethod
    def _evaluation_records(self, batch_size: int, host: Host) -> Iterator[tuple[np.ndarray, list[Record]]]:
        """One host's batches: positions int32 [rows], and the records of those that are not -1."""

    def evaluation_batches(self, batch_size: int, host: Host) -> Generator[EvaluationBatch, None, None]:
        """See `Split`. Pillow cuts the squares as it cuts those of image files; rows that fill up are black."""

        def started() -> Iterator[tuple[EvaluationBatch, Tasks]]:
            for positions, records in self._evaluation_records(batch_size, host):
                squares = np.zeros((len(positions), self.image_size, self.image_size, 3), np.uint8)
                labels = np.zeros(len(positions), np.int32)
                labels[: len(records)] = [label for _, label in records]
                rows = zip(squares, positions, records, strict=False)
                tasks = [
                    partial(self._write_square, row, int(position), encoded) for row, position, (encoded, _) in rows
                ]
                yield (squares, labels, positions), tasks

        return _done_ahead(started())

    def sample(self, num_images: int, seed: int) -> ImageSet:
        """See `Split`: the first ones, for TFDS shuffled them when it wrote the files."""
        del seed
        num_images = min(num_images, self.num_images)
        batch_size = min(num_images, 64)
        with contextlib.closing(self.evaluation_batches(batch_size, Host())) as batches:
            parts = itertools.islice(batches, -(-num_images // batch_size))
            squares, labels, _ = map(np.concatenate, zip(*parts, strict=True))
        return ImageSet(squares[:num_images], labels[:num_images])

    def _write_views(self, views_MxSxSx3: np.ndarray, position: int, encoded: bytes, seed: int, place: int) -> None:
        """Crops of a photograph, by Pillow whatever the file format, drawn from its place in the training stream."""
        image = self._decode(position, encoded)
        boxes_Mx4 = crops.boxes(crops.uniform(len(views_MxSxSx3), seed, place), image.height, image.width)
        for view_SxSx3, (top, left, height, width) in zip(views_MxSxSx3, boxes_Mx4.tolist(), strict=True):
            box = (left, top, left + width, top + height)
            view_SxSx3[:] = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR, box)

    def _write_square(self, square_SxSx3: np.ndarray, position: int, encoded: bytes) -> None:
        square_SxSx3[:] = image_files.central_square(self._decode(position, encoded), self.image_size, self.center_crop)

    def _decode(self, position: int, encoded: bytes) -> Image.Image:
        try:
            return image_files.decode(io.BytesIO(encoded), f'image {self.first + position}', num_channels=3)
        except InputError as error:
            raise self._undecodable(position) from error

    def _undecodable(self, position: int) -> InputError:
        return self.prepared.damaged(f'its image {self.first + position} cannot be decoded')


def _done_ahead(batches: Iterable[tuple[Batch, Tasks]]) -> Generator[Batch, None, None]:
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


class _ArrayRecords(_Photographs):
    """array_record files: any image can be read at any time, so the order is arithmetic, whatever the hosts."""

    def __init__(self, prepared: PreparedSplit, first: int, num_images: int, *sizes: Any) -> None:
        import tensorflow_datasets as tfds

        super().__init__(prepared, first, num_images, *sizes)
        try:
            tfds_files.check_array_record_lengths(prepared.builder, prepared.name)
            self._source = prepared.builder.as_data_source(
                f'{prepared.name}[{first}:{first + num_images}]', decoders={'image': tfds.decode.SkipDecoding()}
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise prepared.damaged(error) from error

    def train_batches(
        self, first_step: int, batch_size: int, num_views: int, seed: int, host: Host
    ) -> Iterator[TrainingBatch]:
        """See `Split`; neither the order nor the crops depend on how many hosts there are."""

        def started() -> Iterator[tuple[TrainingBatch, Tasks]]:
            for step in itertools.count(first_step):
                indices = batch_indices(step, batch_size, self.num_images, seed)[host.rows(batch_size)]
                places = np.arange(step * batch_size, (step + 1) * batch_size)[host.rows(batch_size)]
                records = self._records(indices)
                views = np.empty((len(indices), num_views, self.image_size, self.image_size, 3), np.uint8)
                rows = zip(views, indices, records, places, strict=True)
                yield (
                    (views, np.array([label for _, label in records], np.int32)),
                    [
                        partial(self._write_views, row, int(index), encoded, seed, int(place))
                        for row, index, (encoded, _), place in rows
                    ],
                )

        return _done_ahead(started())

    def _evaluation_records(self, batch_size: int, host: Host) -> Iterator[tuple[np.ndarray, list[Record]]]:
        for positions in evaluation_positions(self.num_images, batch_size, host):
            yield positions, self._records(positions[positions >= 0])

    def _records(self, positions: np.ndarray) -> list[Record]:
        try:
            examples = self._source.__getitems__(positions.tolist())
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise self.prepared.damaged(error) from error
        self.prepared.check_labels(np.array([example['label'] for example in examples]))
        return [(example['image'], int(example['label'])) for example in examples]


class _Tfrecords(_Photographs):
    """tfrecord files, which are read from front to back: every host reads a part of its own, as large as the others."""

    def train_batches(
        self, first_step: int, batch_size: int, num_views: int, seed: int, host: Host
    ) -> Iterator[TrainingBatch]:
        """See `Split`; each host goes through its part once an epoch, in an order and with crops of its own."""
        tf = optional_tensorflow.load()
        rows = batch_size // host.count

        def parsed(place: Any, record: tuple[Any, Any]) -> tuple[Any, ...]:
            return place, record[0], *_parse(record[1])

        def started() -> Iterator[tuple[TrainingBatch, Tasks]]:
            stream = self._training_stream(first_step * rows, seed, host).map(parsed, tf.data.AUTOTUNE)
            try:
                for places, positions, encoded, labels in (
                    stream.batch(rows).prefetch(BATCHES_AHEAD).as_numpy_iterator()
                ):
                    self.prepared.check_labels(labels)
                    views = np.empty((rows, num_views, self.image_size, self.image_size, 3), np.uint8)
                    # No two images of the hosts' streams share a place.
                    images = zip(views, positions, encoded, places * host.count + host.index, strict=True)
                    yield (
                        (views, labels),
                        [
                            partial(self._write_views, row, int(position), image, seed, int(place))
                            for row, position, image, place in images
                        ],
                    )
            except tf.errors.OpError as error:
                raise self._damage(error) from error

        return _done_ahead(started())

    def _training_stream(self, place: int, seed: int, host: Host) -> Any:
        """One host's epochs laid end to end, from a place on, still encoded: (place, (position, record))."""
        tf = optional_tensorflow.load()
        first, end = self._part(host)
        files = self._files(first, end)

        def epoch_records(epoch: Any) -> Any:
            file_key, record_key = tf.unstack(tf.random.split(tf.stack([tf.constant(seed, tf.int64), -1 - epoch]), 2))
            order = tf.random.experimental.stateless_shuffle(tf.range(len(files[0])), file_key)
            shuffled_files = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(column, order) for column in files))
            records = shuffled_files.interleave(
                _file_records, FILES_AT_ONCE, RECORDS_IN_TURN, num_parallel_calls=tf.data.AUTOTUNE
            )
            record_seed = tf.random.stateless_uniform([], record_key, minval=None, maxval=None, dtype=tf.int64)
            whole = records.apply(tf.data.experimental.assert_cardinality(end - first))
            return whole.shuffle(SHUFFLED_RECORDS, record_seed, reshuffle_each_iteration=False)

        epoch, skipped = divmod(place, end - first)
        # In turn, and yet in parallel, so that while an epoch is read the next ones fill their buffers.
        records = tf.data.Dataset.range(epoch, 2**62).interleave(epoch_records, cycle_length=1, num_parallel_calls=1)
        return records.skip(skipped).enumerate(place)

    def _evaluation_records(self, batch_size: int, host: Host) -> Iterator[tuple[np.ndarray, list[Record]]]:
        tf = optional_tensorflow.load()
        first, end = self._part(host)
        rows = batch_size // host.count
        files = tf.data.Dataset.from_tensor_slices(self._files(first, end))
        records = files.flat_map(_file_records).map(lambda _, record: _parse(record))
        whole = records.apply(tf.data.experimental.assert_cardinality(end - first)).prefetch(rows).as_numpy_iterator()
        try:
            # As many batches as the largest part fills.
            for start in range(first, first - (-self.num_images // host.count), rows):
                positions = np.arange(start, start + rows, dtype=np.int32)
                yield np.where(positions < end, positions, -1), list(itertools.islice(whole, rows))
            next(whole, None)  # that there are no more is only noticed by asking
        except tf.errors.OpError as error:
            raise self._damage(error) from error

    def _part(self, host: Host) -> tuple[int, int]:
        if self.num_images < host.count:
            few = f'{self.num_images} of the images in split {self.prepared.name}'
            raise InputError(f'{host.count} hosts cannot share {few}: start no more hosts than there are images.')
        return self.num_images * host.index // host.count, self.num_images * (host.index + 1) // host.count

    def _files(self, first: int, end: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Columns: a file, its records to skip, those to read then, -1 for all, and the first of them's position."""
        part = f'{self.prepared.name}[{self.first + first}:{self.first + end}]'
        files = self.prepared.builder.info.splits[part].file_instructions
        skips, counts = np.array([(file.skip, file.take) for file in files], np.int64).T
        # All and not so many, so that a file which holds more than it should is noticed.
        takes = np.where([file.takes_all for file in files], -1, counts)
        return [str(file.filename) for file in files], skips, takes, first + np.cumsum(counts) - counts

    def _damage(self, error: Any) -> InputError:
        return self.prepared.damaged(re.sub(r'\{\{.*?\}\} *|\[Op:.*', '', error.message).strip())


def _tensorflow() -> Any:
    """For what becomes part of a graph, which `optional_tensorflow.load` cannot; that was called before."""
    import tensorflow as tf

    return tf


def _file_records(name: Any, skip: Any, take: Any, first: Any) -> Any:
    return _tensorflow().data.TFRecordDataset(name, buffer_size=2**20).skip(skip).take(take).enumerate(first)


def _parse(record: Any) -> tuple[Any, Any]:
    tf = _tensorflow()
    features = {name: tf.io.FixedLenFeature([], dtype) for name, dtype in (('image', tf.string), ('label', tf.int64))}
    example = tf.io.parse_single_example(record, features)
    return example['image'], tf.cast(example['label'], tf.int32)
