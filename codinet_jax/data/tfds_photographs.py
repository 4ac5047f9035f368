"""Photographs that TFDS prepared, streamed from files of either format."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codinet_jax.data import image_files, tfds_files
from codinet_jax.data.photographs import (
    BATCHES_AHEAD,
    Cut,
    Photographs,
    RandomAccess,
    Record,
    Tasks,
    TrainingBatch,
    done_ahead,
)
from codinet_jax.data.tfds_files import PreparedSplit
from codinet_jax.runtime import files, optional_tensorflow
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.hosts import Host

# Records of about 110 kB, still encoded. A host holds those of three epochs at a time, 1.7 GB: of the current one and
# of two that are being made ready, so that none begins with a stall. TFDS shuffled the images when it wrote them, and
# the order of the files is drawn anew each epoch: what is left to do is to part neighbours.
SHUFFLED_RECORDS = 5000
# Read at once, a few records from each in turn.
FILES_AT_ONCE = 16
RECORDS_IN_TURN = 16


def open_split(
    tfds_name: str,
    split: str,
    root: Path,
    cut: Cut,
    shares: tuple[float, float] = (0.0, 1.0),
    classes: tuple[str, ...] | int | None = None,
    image_shape: tuple[int | None, int | None, int | None] = (None, None, 3),
) -> Photographs:
    """Opens a part of one split of a prepared set of photographs, in either file format.

    Args:
      tfds_name: of the set.
      split: its name in TFDS.
      root: the directory that TFDS prepared the set in.
      cut: what is cut out of each.
      shares: of the split's N images in file order, those from round(N * shares[0]) to round(N * shares[1]).
      classes: what the files call them, in order, or how many there are; None is any.
      image_shape: [H, W, C] as the files describe them; None is any.

    Raises:
      InputError: the set is missing, half-written, damaged, not one of such images or in a format that cannot be read
        here, or the shares leave no image.
    """
    prepared = tfds_files.open_split(tfds_name, split, image_shape, root, classes)
    first, end = (round(prepared.num_images * share) for share in shares)
    if first >= end:
        percent = ' to '.join(f'{100 * share:g} %' for share in shares)
        raise InputError(f'No image lies at {percent} of the {prepared.num_images} in split {split}: change val_split.')
    if prepared.file_format == 'array_record':
        return RandomAccess(ArrayRecords(prepared, first, end - first), cut)
    return _Tfrecords(prepared, first, end - first, cut)


class ArrayRecords:
    """A `Source`: images of a prepared split in array_record files, from its `first` on."""

    def __init__(self, prepared: PreparedSplit, first: int, num_images: int) -> None:
        import tensorflow_datasets as tfds

        self.prepared, self.first, self.num_images = prepared, first, num_images
        # Other pictures too, as masks, which nobody looks at.
        skipped = {
            name: tfds.decode.SkipDecoding()
            for name, feature in prepared.builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        try:
            tfds_files.check_array_record_lengths(prepared.builder, prepared.name)
            self._source = prepared.builder.as_data_source(
                f'{prepared.name}[{first}:{first + num_images}]', decoders=skipped
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise prepared.damaged(error) from error

    def records(self, positions: np.ndarray) -> list[Record]:
        try:
            examples = self._source.__getitems__(positions.tolist())
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise self.prepared.damaged(error) from error
        self.prepared.check_labels(np.array([example['label'] for example in examples]))
        return [(example['image'], int(example['label'])) for example in examples]

    def decode(self, position: int, encoded: bytes, num_channels: int) -> Image.Image:
        return _decoded(self.prepared, self.first + position, encoded, num_channels)


def _decoded(prepared: PreparedSplit, index: int, encoded: bytes, num_channels: int) -> Image.Image:
    """One image of a split; `index` is its place there."""
    try:
        return image_files.decode(io.BytesIO(encoded), f'image {index}', num_channels)
    except InputError as error:
        what = f'Image {index} of split {prepared.name} of {prepared.directory}'
        if isinstance(error.__cause__, image_files.TOO_LARGE):
            raise InputError(f'{what} {str(error).partition(f"image {index} ")[2]}') from error
        damaged = prepared.damaged(f'its image {index} cannot be decoded')
        raise files.refused(what, error) or damaged from error


class _Tfrecords(Photographs):
    """tfrecord files, which are read from front to back: every host reads a part of its own, as large as the others."""

    def __init__(self, prepared: PreparedSplit, first: int, num_images: int, cut: Cut) -> None:
        super().__init__(num_images, cut)
        self.prepared, self.first = prepared, first

    def train_batches(
        self, first_step: int, batch_size: int, num_views: int, seed: int, host: Host
    ) -> Iterator[TrainingBatch]:
        """See `Photographs`; each host goes through its part once an epoch, in an order and with crops of its own."""
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
                    # No two images of the hosts' streams share a place.
                    places = places * host.count + host.index
                    images = list(zip(positions.tolist(), encoded, places.tolist(), strict=True))
                    yield self._training_batch(images, labels, num_views, seed)
            except tf.errors.OpError as error:
                raise self._damage(error) from error

        return done_ahead(started())

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
        parsed = files.flat_map(_file_records).map(lambda _, record: _parse(record))
        whole = parsed.apply(tf.data.experimental.assert_cardinality(end - first)).prefetch(rows).as_numpy_iterator()
        try:
            # As many batches as the largest part fills.
            for start in range(first, first - (-self.num_images // host.count), rows):
                positions = np.arange(start, start + rows, dtype=np.int32)
                records = list(itertools.islice(whole, rows))
                self.prepared.check_labels(np.array([label for _, label in records], np.int32))
                yield np.where(positions < end, positions, -1), records
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

    def _decode(self, position: int, encoded: bytes) -> Image.Image:
        return _decoded(self.prepared, self.first + position, encoded, self.cut.num_channels)

    def _damage(self, error: Any) -> InputError:
        return self.prepared.damaged(tfds_files.unread(error))


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
