"""The image sets we know by name, or find where they lie, and their splits: train, validation held out of it, test."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from codinet_jax.data import found, tfds_files, tfds_photographs
from codinet_jax.data.found import Found, is_found
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.photographs import Cut
from codinet_jax.data.spec import DataSpec
from codinet_jax.data.split import Split
from codinet_jax.runtime.errors import InputError, meant

MEASURED = 10_000  # images that a mean is of
FOUND = ('classes', 'image_size', 'image_channels', 'views')  # arguments of `source`, of sets that `is_found` names

Read = Callable[[str, str | None], Any]


class Dataset(NamedTuple):
    """A data set that commands know by name.

    Attributes:
      spec: see `DataSpec`.
      image_size: pixels a side.
      num_channels: of each image.
      read: the arrays of 'train' or 'test', uint8 [N, H, W, C] and int [N], from a config's data_dir; None: TFDS's.
      tfds_name: of a set that TFDS prepared.
      test_split: what is tested on, in TFDS.
      is_streamed: whether it is too large to be held in memory: photographs of all sizes, which the host crops.
      label_names: what TFDS's files call the classes, if that is not by their names.
    """

    spec: DataSpec
    image_size: int
    num_channels: int
    read: Read | None = None
    tfds_name: str = ''
    test_split: str = 'test'
    is_streamed: bool = False
    label_names: tuple[str, ...] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C] of one image."""
        return (self.image_size, self.image_size, self.num_channels)


def _lines(name: str) -> list[str]:
    return Path(__file__).with_name(f'{name}.txt').read_text(encoding='utf-8').splitlines()


DIGITS = tuple('0123456789')
THINGS = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
# A synset and the first of its words, in the order of all published weights.
SYNSETS, PHOTOGRAPHED = zip(*(line.split(' ', 1) for line in _lines('imagenet2012')), strict=True)

# A mirrored digit is another shape, so digits and house numbers are cropped and never flipped.
DATASETS: dict[str, Dataset] = {
    'digits': Dataset(DataSpec(DIGITS, (0.3052,), (0.3760,), crop_padding=1), 8, 1, tfds_name='digits'),
    'cifar10': Dataset(
        DataSpec(THINGS, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), crop_padding=4, flip=True),
        image_size=32,
        num_channels=3,
        tfds_name='cifar10',
    ),
    'cifar100': Dataset(
        DataSpec(
            tuple(_lines('cifar100')), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), crop_padding=4, flip=True
        ),
        image_size=32,
        num_channels=3,
        tfds_name='cifar100',
    ),
    'svhn': Dataset(
        DataSpec(DIGITS, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), crop_padding=4),
        image_size=32,
        num_channels=3,
        tfds_name='svhn_cropped',
    ),
    'imagenet2012': Dataset(
        DataSpec(PHOTOGRAPHED, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), flip=True, center_crop=0.875),
        image_size=224,
        num_channels=3,
        tfds_name='imagenet2012',
        test_split='validation',
        is_streamed=True,
        label_names=SYNSETS,
    ),
}


def register(name: str, dataset: Dataset) -> None:
    """Adds a data set of one's own under a name that a config's `dataset` can be.

    Raises:
      InputError: another one has this name.
    """
    if is_found(name) or DATASETS.setdefault(name, dataset) != dataset:
        raise InputError(f'There is a data set {name!r} already: register yours under another name.')


def find(name: str, image_size: int | None = None) -> Dataset:
    """The entry of `DATASETS` called `name`; photographs can be had in another size than its own.

    Raises:
      InputError: there is none, or it cannot be had in this size.
    """
    if name not in DATASETS:
        raise InputError(
            f'Data set {name!r} is unknown: the known ones are {", ".join(DATASETS)}; folder is one of your own, and '
            f'tfds:NAME any that TFDS has prepared.{meant(name, DATASETS)}'
        )
    dataset = DATASETS[name]
    if image_size in (None, dataset.image_size):
        return dataset
    if not dataset.is_streamed:
        raise InputError(
            f'image_size is {image_size}, but images of {name} are {dataset.image_size} pixels: leave it out.'
        )
    if not 32 <= image_size <= 1024:
        raise InputError(f'image_size is {image_size}: give pixels a side from 32 to 1024.')
    return dataset._replace(image_size=image_size)


def of_found(there: Found) -> Dataset:
    """A folder, or a set of TFDS's by its name, as an entry of `DATASETS` would be; normalised as ImageNet is."""
    photographs = DATASETS['imagenet2012'].spec
    mean, std = photographs.normalisation
    if there.num_channels == 1:
        mean, std = (round(sum(mean) / 3, 3),), (round(sum(std) / 3, 3),)
    is_streamed = there.views == 'photographs'
    spec = DataSpec(
        there.classes,
        mean,
        std,
        crop_padding=0 if is_streamed else there.image_size // 8,
        flip=True,
        center_crop=photographs.center_crop if is_streamed else 1.0,
    )
    return Dataset(spec, there.image_size, there.num_channels, is_streamed=is_streamed)


@dataclass(frozen=True)
class DataSource:
    """A data set, where it lies and how it is split. Nothing is downloaded, and only digits are ever written.

    Attributes:
      name: what it is called.
      dataset: see `find`.
      spec: the data set's own, or one of another normalisation.
      data_dir: the folder, or where TFDS prepared the set; None is TFDS's default, TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      val_split: share of the training images held out, in [0, 1); always the same images for the same share.
      train_images: the first so many of train, of a set held in memory; None is all of them.
      found: what a set is that is no entry of `DATASETS`.
    """

    name: str
    dataset: Dataset
    spec: DataSpec
    data_dir: str | os.PathLike[str] | None = None
    val_split: float = 0.0
    train_images: int | None = None
    found: Found | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C] of one image."""
        return self.dataset.image_shape

    @property
    def settings(self) -> dict[str, Any]:
        """With these, named as in `FOUND`, `source` finds the same and asks no disk; none of a set of `DATASETS`."""
        return {} if self.found is None else dict(zip(FOUND, self.found, strict=True))

    def measured_normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of 10,000 training images, of a set of TFDS's by name that is of small ones; else None.

        Raises:
          InputError: as `open`.
        """
        if self.found is None or self.name == found.FOLDER or self.dataset.is_streamed:
            return None
        return self.open('train').sample(MEASURED, seed=0).normalisation()

    def open(self, split: str) -> Split:
        """Opens one split: into memory, or to be streamed.

        Args:
          split: 'train', 'validation', which is what is held out of train, or 'test'.

        Raises:
          NoSuchSplit: what is there is whole, and this split is no part of it.
          InputError: the split is unknown, or val_split leaves it empty, or the set is missing, half-written or in a
            format that cannot be read here.
        """
        dataset, val_split, there = self.dataset, self.val_split, self.found
        if split not in ('train', 'validation', 'test'):
            raise InputError(f"Split {split!r} is unknown: ask for 'train', 'validation' or 'test'.")
        if not 0.0 <= val_split < 1.0:
            raise InputError(f'val_split is {val_split}: give the share of train to hold out, at least 0 and below 1.')
        if split == 'validation' and val_split == 0.0 and there is None:
            raise InputError("Split 'validation' is empty while val_split is 0: give the share of train to hold out.")
        if there is not None:
            images = found.open_split(self.name, self._root, split, there, self.spec.center_crop, val_split)
        else:
            images = self._streamed(split) if dataset.is_streamed else self._in_memory(split)
        if split != 'train' or self.train_images is None:
            return images
        if not isinstance(images, ImageSet):
            raise InputError(f'train_images is {self.train_images}, but {self.name} is streamed: leave it out.')
        return images.first(self.train_images)

    def _streamed(self, split: str) -> Split:
        dataset, shares = self.dataset, {'train': (self.val_split, 1.0), 'validation': (0.0, self.val_split)}
        tfds_split = dataset.test_split if split == 'test' else 'train'
        cut = Cut(dataset.image_size, dataset.num_channels, self.spec.center_crop)
        labels = dataset.label_names or dataset.spec.classes
        return tfds_photographs.open_split(
            dataset.tfds_name, tfds_split, self._root, cut, shares.get(split, (0.0, 1.0)), labels
        )

    def _in_memory(self, split: str) -> ImageSet:
        dataset = self.dataset
        if dataset.read is None:
            tfds_split = dataset.test_split if split == 'test' else 'train'
            labels = dataset.label_names or dataset.spec.classes
            images = ImageSet(*tfds_files.read(dataset.tfds_name, tfds_split, dataset.image_shape, self._root, labels))
        else:
            data_dir = None if self.data_dir is None else os.fspath(self.data_dir)
            pixels, classes = dataset.read('test' if split == 'test' else 'train', data_dir)
            images = ImageSet.checked(pixels, classes, dataset.image_shape, self.spec.num_classes)
        return images if split == 'test' else images.part(split, self.val_split)

    @property
    def _root(self) -> Path:
        return found.root(self.name, self.data_dir)


def source(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    val_split: float = 0.0,
    image_size: int | None = None,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    train_images: int | None = None,
    classes: tuple[str, ...] | None = None,
    image_channels: int | None = None,
    views: str | None = None,
    flip: bool | None = None,
) -> DataSource:
    """A data set by name: of `DATASETS`, or 'folder', in data_dir, or 'tfds:NAME', of any set that TFDS prepared.

    Args:
      name: what it is called.
      data_dir: see `DataSource`.
      val_split: see `DataSource`.
      image_size: pixels a side, of photographs, a folder or 'tfds:NAME'.
      normalisation: another mean and std than its own.
      train_images: see `DataSource`.
      classes: of a folder or 'tfds:NAME' alone, as the next two; None is what is found there, see `found.find`.
      image_channels: 1 or 3.
      views: 'photographs' or 'small'.
      flip: whether views are mirrored; None is as the set has it.

    Raises:
      InputError: there is no such set, or not in this size, or the normalisation is not for its images.
    """
    there = None
    if is_found(name):
        there = found.find(name, data_dir, classes, image_size, image_channels, views)
    elif given := [
        field
        for field, value in (('classes', classes), ('image_channels', image_channels), ('views', views))
        if value is not None
    ]:
        raise InputError(f'{given[0]} is of dataset=folder and dataset=tfds:NAME alone: leave it out with {name}.')
    dataset = find(name, image_size) if there is None else of_found(there)
    if flip is None:  # a set of the table is what it is under TFDS's name too
        flip = next((known.spec.flip for known in DATASETS.values() if name == f'tfds:{known.tfds_name}'), None)
    spec = dataset.spec if flip is None else dataclasses.replace(dataset.spec, flip=flip)
    if normalisation is not None:
        for field, numbers in zip(('mean', 'std'), normalisation, strict=True):
            if len(numbers) != dataset.num_channels:
                raise InputError(
                    f'{field} is {tuple(numbers)}; give a number for each channel of {name}, of which there are '
                    f'{dataset.num_channels}.'
                )
        spec = dataclasses.replace(spec, mean=tuple(normalisation[0]), std=tuple(normalisation[1]))
    return DataSource(name, dataset, spec, data_dir, val_split, train_images, there)
