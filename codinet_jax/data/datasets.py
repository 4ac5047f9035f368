"""The image sets we know, and how a split of one is read whole into memory."""

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath  # TFDS's own paths, so that gs:// is a data_dir too

from codinet_jax.errors import InputError

READ_BATCH = 1000

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DatasetSpec:
    """What training needs to know of a data set; `mean` and `std` are per channel, of pixels in [0, 1]."""

    tfds_name: str
    train_split: str
    test_split: str
    num_classes: int
    image_size: int
    num_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C] of one image."""
        return (self.image_size, self.image_size, self.num_channels)


class ImageSet(NamedTuple):
    """A split held in memory: uint8 pixels [N, H, W, C] and int32 classes [N]."""

    images_NxHxWxC: np.ndarray
    labels_N: np.ndarray


# A mirrored digit is another shape, so digits and house numbers are cropped and never flipped.
DATASETS: dict[str, DatasetSpec] = {
    'digits': DatasetSpec(
        tfds_name='digits',
        train_split='train',
        test_split='test',
        num_classes=10,
        image_size=8,
        num_channels=1,
        mean=(0.3052,),
        std=(0.3760,),
        crop_padding=1,
        flip=False,
    ),
    'cifar10': DatasetSpec(
        tfds_name='cifar10',
        train_split='train',
        test_split='test',
        num_classes=10,
        image_size=32,
        num_channels=3,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        crop_padding=4,
        flip=True,
    ),
    'cifar100': DatasetSpec(
        tfds_name='cifar100',
        train_split='train',
        test_split='test',
        num_classes=100,
        image_size=32,
        num_channels=3,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        crop_padding=4,
        flip=True,
    ),
    'svhn': DatasetSpec(
        tfds_name='svhn_cropped',
        train_split='train',
        test_split='test',
        num_classes=10,
        image_size=32,
        num_channels=3,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        crop_padding=4,
        flip=False,
    ),
    'imagenet2012': DatasetSpec(
        tfds_name='imagenet2012',
        train_split='train',
        test_split='validation',
        num_classes=1000,
        image_size=224,
        num_channels=3,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_padding=0,
        flip=True,
    ),
}


def dataset_spec(name: str) -> DatasetSpec:
    """The entry of `DATASETS` called `name`.

    Raises:
      InputError: there is none.
    """
    if name in DATASETS:
        return DATASETS[name]
    close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
    hint = f', did you mean {close[0]!r}' if close else ''
    raise InputError(f'Data set {name!r} is unknown{hint}: the known ones are {", ".join(DATASETS)}.')


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None, val_split: float = 0.0) -> ImageSet:
    """Reads one split from disk into memory. Nothing is downloaded, and nothing but digits is ever written.

    Args:
      name: a key of `DATASETS`.
      split: 'train', 'validation' or 'test'.
      data_dir: where TFDS prepared the set; None is TFDS's default, TFDS_DATA_DIR or ~/tensorflow_datasets.
      val_split: fraction of the training images held out, in [0, 1); always the same images for the same fraction.
        'validation' is those, 'train' the others.

    Returns:
      ImageSet of uint8 [N, H, W, C] and int32 [N], in the order of the files.

    Raises:
      InputError: the name or the split is unknown, val_split leaves the split empty, or the set is missing,
        half-written or in a format that cannot be read here.
    """
    spec = dataset_spec(name)
    if split not in ('train', 'validation', 'test'):
        raise InputError(f"Split {split!r} is unknown: ask for 'train', 'validation' or 'test'.")
    if not 0.0 <= val_split < 1.0:
        raise InputError(f'val_split is {val_split}: give the fraction of train to hold out, at least 0 and below 1.')
    root: Path = epath.Path(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
    if split == 'test':
        return _read(spec, spec.test_split, root)
    if split == 'validation' and val_split == 0.0:
        raise InputError("Split 'validation' is empty while val_split is 0: give the fraction of train to hold out.")
    train_set = _read(spec, spec.train_split, root)
    held_out_N = _held_out(len(train_set.labels_N), val_split)
    chosen_N = held_out_N if split == 'validation' else ~held_out_N
    if not chosen_N.any():
        raise InputError(f'val_split {val_split} of {len(chosen_N)} training images leaves none to {split}: change it.')
    return ImageSet(train_set.images_NxHxWxC[chosen_N], train_set.labels_N[chosen_N])


def _held_out(num_images: int, val_split: float) -> np.ndarray:
    # Raw bits are ranked because NumPy promises never to change them; it promises that of no Generator method.
    order_N = np.argsort(np.random.PCG64(0).random_raw(num_images), kind='stable')
    held_out_N = np.zeros(num_images, bool)
    held_out_N[order_N[: round(num_images * val_split)]] = True
    return held_out_N


def _read(spec: DatasetSpec, split: str, root: Path) -> ImageSet:
    # Here and not above, because importing TFDS takes longer than anything the table is read for.
    import tensorflow_datasets as tfds

    if spec.tfds_name == 'digits':
        from codinet_jax.data import digits

        digits.prepare(root)
    directory = _newest_version(spec.tfds_name, root)
    mend = f'delete it and run {_preparation(spec.tfds_name, root)}'
    try:
        builder = tfds.builder_from_directory(directory)
        features, num_images = dict(builder.info.features), builder.info.splits[split].num_examples
    except Exception as error:  # TFDS, json and protobuf each raise kinds of their own for a file missing or cut short
        raise InputError(f'{directory} is half-written ({_summary(error)}): {mend}.') from error
    if not {'image', 'label'} <= features.keys() or features['image'].shape != spec.image_shape:
        shape = features['image'].shape if 'image' in features else None
        raise InputError(f'{directory} holds images of shape {shape}: only {spec.image_shape} can be read into memory.')
    read_batches = _reader(builder.info.file_format.value, spec.tfds_name, directory)
    try:
        images, labels = zip(*read_batches(builder, split), strict=True)
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise InputError(f'Split {split} of {directory} is damaged ({_summary(error)}): {mend}.') from error
    image_set = ImageSet(np.concatenate(images), np.concatenate(labels).astype(np.int32))
    num_read = len(image_set.labels_N)
    if num_read != num_images:
        raise InputError(f'Split {split} of {directory} holds {num_read} images, not {num_images}: {mend}.')
    return image_set


def _newest_version(tfds_name: str, root: Path) -> Path:
    prepare = f'point data_dir at the directory TFDS prepared {tfds_name} in, or run {_preparation(tfds_name, root)}'
    if not root.is_dir():
        raise InputError(f'data_dir {root} does not exist: {prepare}.')
    versions = [path for path in root.glob(f'{tfds_name}/*.*.*') if re.fullmatch(r'\d+\.\d+\.\d+', path.name)]
    if not versions:
        unfinished = any(root.glob(f'{tfds_name}/*incomplete*'))
        what = f'only an unfinished {tfds_name}' if unfinished else f'no {tfds_name}'
        raise InputError(f'data_dir {root} holds {what}: {prepare}.')
    return max(versions, key=lambda path: [int(number) for number in path.name.split('.')])


def _reader(file_format: str, tfds_name: str, directory: Path) -> Callable[[Any, str], Iterator[Batch]]:
    if file_format == 'array_record':
        return _read_array_record
    elsewhere = f'prepare the set in another data_dir with {_preparation(tfds_name, Path("DATA_DIR"))}'
    if file_format != 'tfrecord':
        raise InputError(f'{directory} holds {file_format} files, which are not read here: {elsewhere}.')
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'{directory} holds tfrecord files, which need TensorFlow: pip install tensorflow-cpu, or {elsewhere}.'
        ) from error
    return _read_tfrecord


def _read_array_record(builder: Any, split: str) -> Iterator[Batch]:
    from array_record.python.array_record_module import ArrayRecordReader

    for path, num_expected in zip(
        builder.info.splits[split].filepaths, builder.info.splits[split].shard_lengths, strict=True
    ):
        # TFDS asks a shard for the records it expects, so it would never miss those that lie beyond them.
        num_records = ArrayRecordReader(str(path)).num_records()
        if num_records != num_expected:
            raise ValueError(f'{path.name} holds {num_records} images, not {num_expected}')
    source = builder.as_data_source(split)
    for start in range(0, len(source), READ_BATCH):
        examples = source.__getitems__(range(start, min(start + READ_BATCH, len(source))))
        yield np.stack([example['image'] for example in examples]), np.array([example['label'] for example in examples])


def _read_tfrecord(builder: Any, split: str) -> Iterator[Batch]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # The GPU is JAX's. A program that already used TensorFlow on it has made its own choice, and may keep it.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], 'GPU')
    # One shard after another: the order is that of array_record files, so both formats hold out the same images.
    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        for examples in builder.as_dataset(split, batch_size=READ_BATCH, read_config=in_order).as_numpy_iterator():
            yield examples['image'], examples['label']
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def _preparation(tfds_name: str, root: Path) -> str:
    if tfds_name == 'digits':
        return 'the same command again, which will write it'
    builder = f"tfds.builder('{tfds_name}', data_dir='{root}', file_format='array_record')"
    return f'`python -c "import tensorflow_datasets as tfds; {builder}.download_and_prepare()"`'


def _summary(error: Exception) -> str:
    return str(error).strip().split('\n')[0].rstrip('.') or type(error).__name__
