"""Image sets that are in no table, and are found where they lie: a folder of images, or whatever TFDS has prepared."""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from etils import epath  # TFDS's own paths, so that gs:// is a data_dir too

from codinet_jax.data import folder, tfds_files, tfds_photographs
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.photographs import Cut, Photographs
from codinet_jax.data.split import Split
from codinet_jax.runtime import console, files
from codinet_jax.runtime.errors import InputError, first_sentence

FOLDER = 'folder'
TFDS = 'tfds:'
VIEWS = ('photographs', 'small')
PHOTOGRAPH_SIZE = 224  # where nothing else is said
LARGEST_SMALL = 96  # pixels a side; STL-10's
MOST_BYTES = 2**31  # of small images held in memory, in each process
MANY = 10_000  # images that take a while to be read


class Found(NamedTuple):
    """Such a set, as it is found or as a run recorded it: then no disk is asked.

    Attributes:
      classes: their names, in the order of the labels.
      image_size: S, pixels a side of what the network sees.
      num_channels: C, 1 or 3.
      views: 'photographs': cropped at random by the host as ImageNet's are. 'small': resized to S, and cropped on the
        device as CIFAR's are.
    """

    classes: tuple[str, ...]
    image_size: int
    num_channels: int
    views: str


def is_found(name: str) -> bool:
    """Whether a name is that of such a set."""
    return name == FOLDER or name.startswith(TFDS)


def root(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder, or the directory of all sets of TFDS's; its default where none is given.

    Raises:
      InputError: a folder is not given, or cannot be on this machine; or a bucket cannot be reached.
    """
    if name == FOLDER:
        if data_dir is None or '://' in os.fspath(data_dir):
            raise InputError('dataset=folder is of images on this machine: give their folder, --config.data_dir=DIR.')
        return files.expanded(data_dir)
    directory = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    if '://' not in os.fspath(directory):
        return files.expanded(directory)
    bucket = epath.Path(directory)  # TFDS's own paths for buckets, which gs:// names
    try:
        bucket.exists()
    except Exception as error:  # what reads buckets is one of several packages, or missing
        raise InputError(
            f'{directory} cannot be reached ({first_sentence(error)}): install what it needs and see that you may read '
            'it, or mount the bucket and give data_dir its path.'
        ) from error
    return bucket


def find(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    classes: tuple[str, ...] | None = None,
    image_size: int | None = None,
    num_channels: int | None = None,
    views: str | None = None,
) -> Found:
    """What a set is, where None leaves it open: classes and channels as they are found, images of TFDS that all are
    squares of 96 pixels at most in their size, others in 224, views of up to 96 pixels as of small images.

    Raises:
      InputError: the set is not there or cannot be used, or one of these cannot be.
    """
    if views not in (None, *VIEWS):
        raise InputError(f'views is {views!r}; it must be one of {", ".join(VIEWS)}.')
    if num_channels not in (None, 1, 3):
        raise InputError(f'image_channels is {num_channels}: give 1 for grey or 3 for colour.')
    if image_size is not None and not 8 <= image_size <= 1024:
        raise InputError(f'image_size is {image_size}: give pixels a side from 8 to 1024.')
    if classes is not None:
        if not all(isinstance(each, str) for each in classes):
            raise InputError(f'classes are {classes}: give their names, as ("cat", "dog").')
        folder.check_names(classes, 'classes')
    if name == FOLDER:
        classes = folder.class_names(root(name, data_dir)) if classes is None else classes
    elif None in (classes, image_size, num_channels):
        there = tfds_files.describe(_tfds_name(name), root(name, data_dir))
        height, width, depth = there.image_shape
        classes = there.classes if classes is None else classes
        num_channels = num_channels or (1 if depth == 1 else 3)
        image_size = image_size or (height if height == width and (height or 1024) <= LARGEST_SMALL else None)
    assert classes is not None
    size = image_size or PHOTOGRAPH_SIZE
    return Found(classes, size, num_channels or 3, views or VIEWS[size <= LARGEST_SMALL])


def open_split(name: str, directory: Path, split: str, found: Found, center_crop: float, val_split: float) -> Split:
    """One split of it, as `DataSource.open` has it: photographs are streamed, and small images, as soon as they would
    take more than 2 GB, too; of folders, and of whole array_record splits, the batches are the same then.

    Raises:
      InputError: it has no such split, or is damaged, or is not what was found.
    """
    cut = Cut(found.image_size, found.num_channels, center_crop, is_cropped=found.views == 'photographs')
    if name == FOLDER:
        images = folder.open_split(directory, split, found.classes, cut, val_split)
        return images if cut.is_cropped or not _fits(images) else _in_memory(images, files.printable(directory))
    return _open_tfds(_tfds_name(name), directory, split, found.classes, cut, val_split)


def _open_tfds(name: str, root: Path, split: str, classes: tuple[str, ...], cut: Cut, val_split: float) -> Split:
    there = tfds_files.describe(name, root)
    is_part = split == 'train' or (split == 'validation' and val_split > 0)
    tfds_split = 'train' if is_part else there.evaluated(split)
    shape = (None, None, None)
    if not cut.is_cropped:
        images = tfds_photographs.open_split(name, tfds_split, root, cut, (0.0, 1.0), classes, shape)
        if _fits(images):
            whole = _in_memory(images, f'split {tfds_split} of {there.directory}')
            return whole.part(split, val_split) if is_part else whole
    if is_part and not there.is_shuffled:
        raise InputError(
            f'{there.directory} was not shuffled when it was written, so its first images may be of one class: write '
            'it again without disable_shuffling.'
        )
    shares = {'train': (val_split, 1.0), 'validation': (0.0, val_split)}[split] if is_part else (0.0, 1.0)
    images = tfds_photographs.open_split(name, tfds_split, root, cut, shares, classes, shape)
    if not is_part:
        images.sample(1, 0)  # a test split without labels is refused before anything is trained
    return images


def _fits(images: Photographs) -> bool:
    cut = images.cut
    return images.num_images * cut.image_size**2 * cut.num_channels <= MOST_BYTES


def _in_memory(images: Photographs, what: str) -> ImageSet:
    if images.num_images >= MANY:
        console.log(f'reading {images.num_images} images of {what} into memory ...', sys.stderr)
    return images.sample(images.num_images, 0)


def _tfds_name(name: str) -> str:
    found = name.removeprefix(TFDS)
    if not re.fullmatch(r'\w+(/\w[\w.+-]*)?', found):
        raise InputError(f'{name!r} names no set of TFDS: write tfds:NAME or tfds:NAME/CONFIG, as tfds:beans.')
    return found
