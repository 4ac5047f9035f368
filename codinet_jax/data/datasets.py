"""The image sets we know, and their splits: train, validation held out of it, test."""

import dataclasses
import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath  # TFDS's own paths, so that gs:// is a data_dir too

from codinet_jax.data import tfds_files
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.split import Split
from codinet_jax.errors import InputError


@dataclass(frozen=True)
class DatasetSpec:
    """What is to be known of a data set; `mean` and `std` are per channel, of pixels in [0, 1].

    A set `is_streamed` if it is too large to be held in memory: photographs of all sizes, which the host crops.
    `center_crop` is the share of a photograph's shorter side that evaluation sees; `classes` are their names, where
    they are few enough to be listed here.
    """

    tfds_name: str
    test_split: str
    num_classes: int
    image_size: int
    num_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool
    is_streamed: bool = False
    center_crop: float = 1.0
    classes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C] of one image."""
        return (self.image_size, self.image_size, self.num_channels)


DIGITS = tuple('0123456789')
THINGS = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

# A mirrored digit is another shape, so digits and house numbers are cropped and never flipped.
DATASETS: dict[str, DatasetSpec] = {
    'digits': DatasetSpec(
        tfds_name='digits',
        test_split='test',
        num_classes=10,
        image_size=8,
        num_channels=1,
        mean=(0.3052,),
        std=(0.3760,),
        crop_padding=1,
        flip=False,
        classes=DIGITS,
    ),
    'cifar10': DatasetSpec(
        tfds_name='cifar10',
        test_split='test',
        num_classes=10,
        image_size=32,
        num_channels=3,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        crop_padding=4,
        flip=True,
        classes=THINGS,
    ),
    'cifar100': DatasetSpec(
        tfds_name='cifar100',
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
        test_split='test',
        num_classes=10,
        image_size=32,
        num_channels=3,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        crop_padding=4,
        flip=False,
        classes=DIGITS,
    ),
    'imagenet2012': DatasetSpec(
        tfds_name='imagenet2012',
        test_split='validation',
        num_classes=1000,
        image_size=224,
        num_channels=3,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_padding=0,
        flip=True,
        is_streamed=True,
        center_crop=0.875,
    ),
}


def dataset_spec(name: str, image_size: int | None = None) -> DatasetSpec:
    """The entry of `DATASETS` called `name`; photographs can be had in another size than its own.

    Raises:
      InputError: there is none, or it cannot be had in this size.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
        hint = f', did you mean {close[0]!r}' if close else ''
        raise InputError(f'Data set {name!r} is unknown{hint}: the known ones are {", ".join(DATASETS)}.')
    spec = DATASETS[name]
    if image_size in (None, spec.image_size):
        return spec
    if not spec.is_streamed:
        raise InputError(
            f'image_size is {image_size}, but images of {name} are {spec.image_size} pixels: leave it out.'
        )
    if not 32 <= image_size <= 1024:
        raise InputError(f'image_size is {image_size}: give pixels a side from 32 to 1024.')
    return dataclasses.replace(spec, image_size=image_size)


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    val_split: float = 0.0,
    image_size: int | None = None,
) -> Split:
    """Opens one split on disk: into memory, or to be streamed. Nothing is downloaded, and only digits are ever written.

    Args:
      name: a key of `DATASETS`.
      split: 'train', 'validation' or 'test'.
      data_dir: where TFDS prepared the set; None is TFDS's default, TFDS_DATA_DIR or ~/tensorflow_datasets.
      val_split: fraction of the training images held out, in [0, 1); always the same images for the same fraction.
        'validation' is those, 'train' the others.
      image_size: pixels a side, as in `dataset_spec`.

    Raises:
      InputError: the name or the split is unknown, val_split leaves it empty, or the set is missing, half-written or in
        a format that cannot be read here.
    """
    spec = dataset_spec(name, image_size)
    if split not in ('train', 'validation', 'test'):
        raise InputError(f"Split {split!r} is unknown: ask for 'train', 'validation' or 'test'.")
    if not 0.0 <= val_split < 1.0:
        raise InputError(f'val_split is {val_split}: give the fraction of train to hold out, at least 0 and below 1.')
    if split == 'validation' and val_split == 0.0:
        raise InputError("Split 'validation' is empty while val_split is 0: give the fraction of train to hold out.")
    root: Path = epath.Path(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
    tfds_split = spec.test_split if split == 'test' else 'train'
    if spec.is_streamed:
        from codinet_jax.data import imagenet

        shares = {'train': (val_split, 1.0), 'validation': (0.0, val_split), 'test': (0.0, 1.0)}[split]
        return imagenet.open_split(spec.tfds_name, tfds_split, root, spec.image_size, spec.center_crop, shares)
    images = ImageSet(*tfds_files.read(spec.tfds_name, tfds_split, spec.image_shape, root))
    if split == 'test':
        return images
    held_out_N = _held_out(images.num_images, val_split)
    chosen_N = held_out_N if split == 'validation' else ~held_out_N
    if not chosen_N.any():
        raise InputError(f'val_split {val_split} of {len(chosen_N)} training images leaves none to {split}: change it.')
    return ImageSet(images.images_NxHxWxC[chosen_N], images.labels_N[chosen_N])


def _held_out(num_images: int, val_split: float) -> np.ndarray:
    # Raw bits are ranked because NumPy promises never to change them; it promises that of no Generator method.
    order_N = np.argsort(np.random.PCG64(0).random_raw(num_images), kind='stable')
    held_out_N = np.zeros(num_images, bool)
    held_out_N[order_N[: round(num_images * val_split)]] = True
    return held_out_N
