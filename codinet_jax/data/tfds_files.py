"""Splits that TFDS prepared on disk: opened, or read whole; what is missing or damaged is said in a sentence."""

import contextlib
import json
import os
import re
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.data import tfds_directory
from codinet_jax.runtime import files, optional_tensorflow
from codinet_jax.runtime.errors import InputError, NoSuchSplit, first_line

READ_BATCH = 1000
_DESCRIPTION, _NAMES = ('dataset_info.json', 'features.json'), 'label.labels.txt'

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class PreparedSplit:
    """A split on disk, its description checked; `fix` says what to do if its N images are not as described."""

    builder: Any
    name: str
    num_images: int
    directory: Path
    fix: str

    @property
    def file_format(self) -> str:
        return self.builder.info.file_format.value

    def damaged(self, reason: Exception | str) -> InputError:
        """To be raised when the files do not hold what they promise, or the machine does not let them be read."""
        what = f'Split {self.name} of {self.directory}'
        if refusal := files.refused(what, reason):
            return refusal
        # A reader may have taken a file that it could not open for an empty one.
        paths = self.builder.info.splits[self.name].filepaths if isinstance(reason, Exception) else []
        return _unreadable(paths) or InputError(f'{what} is damaged ({first_line(reason)}): {self.fix}.')

    def check_labels(self, labels_N: np.ndarray) -> None:
        """Refuses labels that are none of the set's classes.

        Raises:
          InputError: there are such.
        """
        num_classes = self.builder.info.features['label'].num_classes
        if ((labels_N < 0) | (labels_N >= num_classes)).any():
            raise InputError(
                f'Split {self.name} of {self.directory} has labels from {labels_N.min()} to {labels_N.max()}, and its '
                f'classes are 0 to {num_classes - 1}: prepare it again with labels of these.'
            )


def open_split(
    tfds_name: str,
    split: str,
    image_shape: tuple[int | None, int | None, int | None],
    root: Path,
    classes: tuple[str, ...] | int | None = None,
) -> PreparedSplit:
    """Finds a prepared set and checks that it is one of labelled images, and in files that can be read here.

    Args:
      tfds_name: of the set.
      split: its name in TFDS.
      image_shape: [H, W, C] of every image; None is any size.
      root: the directory that TFDS prepared it in.
      classes: their names in order, or how many there are; None is any.

    Raises:
      InputError: the set is missing, half-written, of other images or classes, or in a format that cannot be read here.
    """
    directory, fix = tfds_directory.newest(tfds_name, root)
    builder = _builder(directory, fix, tfds_name)
    with _half_written(directory, fix):
        features, num_images = dict(builder.info.features), builder.info.splits[split].num_examples
        _check_names_file(directory, features)
    _check_features(features, image_shape, directory)
    _check_classes(features['label'], classes, directory)
    _check_readable(builder.info.file_format.value, tfds_name, directory)
    return PreparedSplit(builder, split, num_images, directory, fix)


class Description(NamedTuple):
    """What a prepared set says of itself.

    Attributes:
      directory: where it lies.
      classes: their names; their numbers, where they have none.
      image_shape: [H, W, C] of every image; None is any.
      splits: their names.
      is_shuffled: whether the images were, when they were written.
    """

    directory: Path
    classes: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int | None]
    splits: tuple[str, ...]
    is_shuffled: bool

    def evaluated(self, split: str) -> str:
        """Its own split of 'test' or 'validation' images; those of validation are tested on where there is no test.

        Raises:
          NoSuchSplit: it has none.
        """
        found = [name for name in (split, 'validation') if name in self.splits]
        if not found:
            raise NoSuchSplit(
                f'{self.directory} has no split {split} ({", ".join(self.splits)}): hold images out of train with '
                '--config.val_split=0.1, which makes them the split validation.'
            )
        return found[0]


def describe(tfds_name: str, root: Path) -> Description:
    """What a prepared set of labelled images says of itself.

    Raises:
      InputError: it is missing, half-written, of something else, or has no train.
    """
    import tensorflow_datasets as tfds

    directory, fix = tfds_directory.newest(tfds_name, root)
    builder = _builder(directory, fix, tfds_name)
    with _half_written(directory, fix):
        features, splits = dict(builder.info.features), tuple(builder.info.splits)
        _check_names_file(directory, features)
    image, label = features.get('image'), features.get('label')
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise InputError(
            f'{directory} does not hold an image and a label of one class in each example, under these names: name a '
            'set that does.'
        )
    if np.dtype(image.np_dtype) != np.uint8:
        raise InputError(f'{directory} holds images of {np.dtype(image.np_dtype)}: only uint8 can be read.')
    if 'train' not in splits:
        raise InputError(f'{directory} has no split train ({", ".join(splits)}): name a set that has one.')
    return Description(directory, tuple(label.names), image.shape, splits, not builder.info.disable_shuffling)


def _builder(directory: Path, fix: str, tfds_name: str) -> Any:
    # Here and not above, because importing TFDS takes longer than anything the table is read for.
    import tensorflow_datasets as tfds

    _allow_open_files()
    with _half_written(directory, fix):
        try:
            return tfds.builder_from_directory(directory)
        except Exception as error:
            if files.refused(directory, error) or not _is_described(directory):
                raise
            raise InputError(
                f'{directory} cannot be read by tensorflow-datasets {tfds.__version__} ({first_line(error)}): pip '
                f'install -U tensorflow-datasets, or {tfds_directory.elsewhere(tfds_name)}.'
            ) from error


def _is_described(directory: Path) -> bool:
    """Whether what describes a set is whole, be it in words that the TFDS here does not know."""
    try:
        return all(isinstance(json.loads((directory / name).read_text()), dict) for name in _DESCRIPTION)
    except (OSError, ValueError, RecursionError):
        return False


def _check_names_file(directory: Path, features: dict[str, Any]) -> None:
    """Reads the names of the classes once more: where TFDS cannot, it says nothing and calls them by numbers.

    Raises:
      OSError, ValueError: they are there and cannot be read, or are not so many as there are classes.
    """
    path = directory / _NAMES
    num_classes = getattr(features.get('label'), 'num_classes', None)
    if num_classes is None or not (path.exists() or os.path.islink(path)):
        return
    names = {name for line in path.read_text(encoding='utf-8').split('\n') if (name := line.strip())}
    if len(names) != num_classes:
        raise ValueError(f'{path.name} has {len(names)} different names, and there are {num_classes} classes')


@contextlib.contextmanager
def _half_written(directory: Path, fix: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # TFDS, json and protobuf each raise kinds of their own for a file missing or cut short
        half_written = InputError(f'{directory} is half-written ({first_line(error)}): {fix}.')
        unreadable = _unreadable(directory / name for name in (*_DESCRIPTION, _NAMES))
        raise files.refused(directory, error) or unreadable or half_written from error


def _unreadable(paths: Iterable[Any]) -> InputError | None:
    return next(filter(None, map(files.unreadable, paths)), None)


def _check_features(
    features: dict[str, Any], image_shape: tuple[int | None, int | None, int | None], directory: Path
) -> None:
    if missing := {'image', 'label'} - features.keys():
        raise InputError(f'{directory} holds examples without {" and ".join(sorted(missing))}: name a set of those.')
    shape = features['image'].shape
    if len(shape) != 3 or any(wanted not in (None, size) for size, wanted in zip(shape, image_shape, strict=True)):
        raise InputError(f'{directory} holds images of shape {shape}: only {image_shape} can be read.')


def _check_classes(label: Any, classes: tuple[str, ...] | int | None, directory: Path) -> None:
    if classes is None:
        return
    num_classes = classes if isinstance(classes, int) else len(classes)
    if label.num_classes != num_classes:
        raise InputError(
            f'{directory} holds images of {label.num_classes} classes, and there are to be {num_classes}: name a set '
            'of so many.'
        )
    unnamed = [str(number) for number in range(num_classes)]
    if not isinstance(classes, int) and list(label.names) not in (unnamed, list(classes)):
        other = next(i for i, (there, here) in enumerate(zip(label.names, classes, strict=True)) if there != here)
        raise InputError(
            f'{directory} calls class {other} {label.names[other]!r}, which is {classes[other]!r} here: prepare the '
            'set with its classes in this order.'
        )


def read(
    tfds_name: str,
    split: str,
    image_shape: tuple[int, int, int],
    root: Path,
    classes: tuple[str, ...] | int | None = None,
) -> Batch:
    """One split of a prepared set, in the order of its files: uint8 [N, H, W, C] and int32 [N].

    Raises:
      InputError: as `open_split`, or the files are damaged.
    """
    prepared = open_split(tfds_name, split, image_shape, root, classes)
    read_batches = _read_array_record if prepared.file_format == 'array_record' else _read_tfrecord
    try:
        images, labels = zip(*read_batches(prepared.builder, split), strict=True)
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise prepared.damaged(error) from error
    images_NxHxWxC, labels_N = np.concatenate(images), np.concatenate(labels).astype(np.int32)
    if len(labels_N) != prepared.num_images:
        raise prepared.damaged(f'it holds {len(labels_N)} images, not {prepared.num_images}')
    prepared.check_labels(labels_N)
    return images_NxHxWxC, labels_N


def _check_readable(file_format: str, tfds_name: str, directory: Path) -> None:
    if file_format == 'array_record':
        return
    elsewhere = tfds_directory.elsewhere(tfds_name)
    if file_format != 'tfrecord':
        raise InputError(f'{directory} holds {file_format} files, which are not read here: {elsewhere}.')
    try:
        optional_tensorflow.load()
    except ImportError as error:
        raise InputError(
            f'{directory} holds tfrecord files, which need TensorFlow: pip install tensorflow-cpu, or {elsewhere}.'
        ) from error


def check_array_record_lengths(builder: Any, split: str) -> None:
    """Compares what the files of a split hold with what its description promises.

    Raises:
      ValueError: a file holds more or fewer images.
      OSError: a file is missing or no array_record file; as RuntimeError.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    for path, num_expected in zip(
        builder.info.splits[split].filepaths, builder.info.splits[split].shard_lengths, strict=True
    ):
        # TFDS asks a shard for the records it expects, so it would never miss those that lie beyond them.
        num_records = ArrayRecordReader(str(path)).num_records()
        if num_records != num_expected:
            raise ValueError(f'{path.name} holds {num_records} images, not {num_expected}')


def _read_array_record(builder: Any, split: str) -> Iterator[Batch]:
    check_array_record_lengths(builder, split)
    source = builder.as_data_source(split)
    for start in range(0, len(source), READ_BATCH):
        examples = source.__getitems__(range(start, min(start + READ_BATCH, len(source))))
        yield np.stack([example['image'] for example in examples]), np.array([example['label'] for example in examples])


def _read_tfrecord(builder: Any, split: str) -> Iterator[Batch]:
    import tensorflow_datasets as tfds

    tf = optional_tensorflow.load()
    # One shard after another: the order is that of array_record files, so both formats hold out the same images.
    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        for examples in builder.as_dataset(split, batch_size=READ_BATCH, read_config=in_order).as_numpy_iterator():
            yield examples['image'], examples['label']
    except tf.errors.OpError as error:
        raise unread(error) from error


def unread(error: Any) -> OSError:
    """What TensorFlow stumbled over in a file, without the names of its own operations."""
    return OSError(re.sub(r'\{\{.*?\}\} *|\[Op:.*', '', error.message).strip())


def _allow_open_files() -> None:
    """A set may lie in hundreds of files, and all of them are open at once: as many as the machine allows may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
