"""A folder of images, in which every class is a folder: what it holds, checked, and its images in an order for ever.

    DIR/train/CLASS/*  and  DIR/val/CLASS/*, or validation/ or test/ in place of val/;  or one level, DIR/CLASS/*

Folders inside a class's belong to it, and links are followed. Hidden files, and those whose names do not end as an
image's does, are none of ours. Nothing is ever written here.
"""

import hashlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from codinet_jax.data import image_files
from codinet_jax.data.photographs import Cut, RandomAccess, Record
from codinet_jax.runtime.errors import InputError, NoSuchSplit
from codinet_jax.runtime.files import printable, reading
from codinet_jax.runtime.waiting import waiting

TRAIN = 'train'
# A folder's name, and what it is called.
OTHERS = {'val': 'validation', 'valid': 'validation', 'validation': 'validation', 'test': 'test'}
SPLITS = {TRAIN, 'training', *OTHERS, 'testing'}  # names of no class, in any case of letters


class Files(NamedTuple):
    """A `Source`: N image files and their classes int32 [N]."""

    paths: Sequence[str]
    labels_N: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.paths)

    def records(self, positions: np.ndarray) -> list[Record]:
        return [(self.paths[i], int(self.labels_N[i])) for i in positions]

    def decode(self, position: int, encoded: str, num_channels: int) -> Image.Image:
        del position
        return image_files.decode_file(encoded, num_channels)


def class_names(root: Path) -> tuple[str, ...]:
    """The names of the folders of train, sorted. Their images are not looked at, so this takes no time.

    Raises:
      InputError: there are fewer than two, or names that nobody could tell apart or print.
    """
    names = tuple(sorted(os.path.basename(path) for path in _class_folders(_train(root))))
    check_names(names, printable(root))
    return names


def check_names(names: Sequence[str], where: str) -> None:
    """Refuses what can be no names of classes; `where` they are from begins the sentence.

    Raises:
      InputError: there are fewer than two, or two that nobody could tell apart, or one that cannot be printed.
    """
    if len(names) < 2:
        only = f'one class alone, {printable(names[0])}' if names else 'no folder that could be a class'
        raise InputError(f'{where} holds {only}: give a folder with two or more of them, each with its images.')
    alike: dict[str, str] = {}
    for name in names:
        if not name.isprintable() or not name.strip():
            raise InputError(f'{where} has a class {printable(name)!r}, which cannot be printed: rename it.')
        folded = unicodedata.normalize('NFC', name).casefold()
        if folded in alike:
            raise InputError(
                f'{where} has classes {alike[folded]!r} and {name!r}, which are one but for capitals, or accents '
                'written in another way, and would be one folder elsewhere: put them together, or rename one.'
            )
        alike[folded] = name


def open_split(root: Path, split: str, classes: Sequence[str], cut: Cut, val_split: float = 0.0) -> RandomAccess:
    """Lists one split; nothing is decoded.

    The images lie in an order that only their names decide, as if shuffled: the first so many are of all classes.

    Args:
      root: the folder.
      split: 'train', 'validation' or 'test'; where there is no test/, that is val/ too.
      classes: which classes there must be, in the order of their labels.
      cut: what is cut out of each image.
      val_split: share of each class of train that is validation, at least an image; a class of one image is all train.

    Raises:
      InputError: there is no such split, or it has no images, or other classes, or what could be a mistake.
    """
    directories = _split_folders(root)
    if TRAIN in directories:
        _check_classes(directories[TRAIN], classes, is_whole=True)
    is_part = split == TRAIN or (split == 'validation' and val_split > 0)
    directory = _train(root) if is_part else _evaluated(directories, split, root, val_split)
    if not is_part:
        _check_classes(directory, classes, is_whole=False)
    files, digests = _listed(directory, classes, is_train=is_part)
    order_N = np.argsort(np.array(digests, np.uint64), kind='stable')
    if is_part:
        held_out_N = _held_out(files.labels_N[order_N], val_split)
        order_N = order_N[held_out_N if split == 'validation' else ~held_out_N]
    if not len(order_N):
        raise InputError(
            f'{printable(directory)} holds no images for {split}: put some there, or give another val_split.'
        )
    return RandomAccess(Files([files.paths[i] for i in order_N], files.labels_N[order_N]), cut)


def _split_folders(root: Path) -> dict[str, str]:
    """The folders of the splits there are, by what the splits are called; of one level, the folder itself is train."""
    try:
        if not root.is_dir():
            what = 'is a file' if root.exists() else 'does not exist'
            raise InputError(f'data_dir {printable(root)} {what}: give the folder of your images.')
    except OSError as error:
        raise InputError(f'data_dir {printable(root)} cannot be opened ({error.strerror}): give another.') from error
    folders = {os.path.basename(path): path for path in _class_folders(str(root))}
    if TRAIN not in folders and not (folders and folders.keys() <= OTHERS.keys()):
        if odd := sorted(name for name in folders if name.casefold() in SPLITS):
            raise InputError(
                f'{printable(root)} holds {printable(odd[0])}/, which is the name of a split and not of a class: call '
                'the splits train/ and val/ or test/, or give it another name.'
            )
        if whole := next(filter(_holds_splits, folders.values()), None):
            raise InputError(
                f'{printable(whole)} holds train/ and is taken for a class: give it as data_dir; or, if it is a class, '
                'put its images into train/CLASS/ and val/CLASS/.'
            )
        return {TRAIN: str(root)}
    for name in folders.keys() - {TRAIN, *OTHERS}:
        if image := next(_images(folders[name], set()), None):
            raise InputError(
                f'{printable(image)} lies beside train/: move the folder {printable(name)} into train/, or elsewhere.'
            )
    twice = [f'{name}/' for name in sorted(folders) if OTHERS.get(name) == 'validation']
    if len(twice) > 1:
        raise InputError(f'{printable(root)} holds {" and ".join(twice)}: leave one of them.')
    others = {split: folders[name] for name, split in OTHERS.items() if name in folders}
    return others | ({TRAIN: folders[TRAIN]} if TRAIN in folders else {})


def _holds_splits(directory: str) -> bool:
    return all(any(os.path.isdir(os.path.join(directory, name)) for name in names) for names in ((TRAIN,), OTHERS))


def _train(root: Path) -> str:
    directories = _split_folders(root)
    if TRAIN not in directories:
        raise InputError(f'{printable(root)} holds no train/: put images there, in a folder for each class.')
    return directories[TRAIN]


def _evaluated(directories: dict[str, str], split: str, root: Path, val_split: float) -> str:
    found = directories.get(split) or (directories.get('validation') if split == 'test' else None)
    if found is None:
        wanted = 'val/ or test/' if split == 'test' else 'val/'
        above = root.absolute().parent
        if directories[TRAIN] != str(root):
            advice = 'make one beside train/'
        elif _holds_splits(str(above)):
            advice = f'give {printable(above)}, which does'
        else:
            advice = 'put its folders into train/ and make one beside that'
        held_out = (
            f'take the split validation, which val_split={val_split:g} holds out of train'
            if val_split
            else 'hold images out of train with --config.val_split=0.1, which makes them the split validation'
        )
        raise NoSuchSplit(f'{printable(root)} holds no {wanted}: {advice}, or {held_out}.')
    return found


def _class_folders(directory: str) -> list[str]:
    """The folders in one, where no image may lie beside them."""
    folders, images = _entries(directory)
    if images:
        advice = 'move it into the folder of its class' if folders else 'give the folder that holds train/ and val/'
        raise InputError(f'{printable(images[0])} lies in no class: {advice}.')
    return folders


def _check_classes(directory: str, classes: Sequence[str], *, is_whole: bool) -> None:
    """Refuses a folder of other classes; unless `is_whole`, some of them may be missing."""
    there, known = {os.path.basename(path): path for path in _class_folders(directory)}, set(classes)
    for name in sorted(there.keys() - known):
        if is_whole or next(_images(there[name], set()), None):
            raise InputError(
                f'{printable(directory)} has a class {printable(name)}, which is none of the {len(classes)} that are '
                f'trained, {_some(classes)}: take it away, or train on all of them in a new workdir.'
            )
    if is_whole and (missing := sorted(known - there.keys())):
        raise InputError(
            f'{printable(directory)} has no class {missing[0]}, which is one of the {len(classes)} that are trained: '
            'put it back, or train without it in a new workdir.'
        )


def _listed(directory: str, classes: Sequence[str], *, is_train: bool) -> tuple[Files, list[int]]:
    """All images of a split, and a number of each that its name within the split decides."""
    paths, labels, seen = [], [], set[tuple[int, int]]()
    with waiting(f'listing the images of {printable(directory)}', len(classes), 'classes', file=sys.stderr) as report:
        for label, name in enumerate(classes):
            folder = os.path.join(directory, name)
            found = list(_images(folder, seen)) if is_train or os.path.isdir(folder) else []
            if is_train and not found:
                ends = _some(sorted(image_files.extensions()), 40)
                raise InputError(
                    f'{printable(folder)} holds no images, of which the names end in {ends}: put some there, or '
                    'remove it.'
                )
            paths += found
            labels += [label] * len(found)
            report(label + 1)
    start = len(directory) + 1
    digests = [
        int.from_bytes(hashlib.blake2b(os.fsencode(path[start:]), digest_size=8).digest(), 'big') for path in paths
    ]
    return Files(paths, np.array(labels, np.int32)), digests


def _images(directory: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """The images in a folder and in those inside it; `seen` are the folders already gone through."""
    waiting = [directory]
    while waiting:
        folder = waiting.pop()
        with reading(folder):
            identity = os.stat(folder)
        if (identity.st_dev, identity.st_ino) in seen:
            raise InputError(f'{printable(folder)} is a link to a folder that is read already: remove the link.')
        seen.add((identity.st_dev, identity.st_ino))
        folders, images = _entries(folder)
        waiting += folders
        yield from images


def _entries(directory: str) -> tuple[list[str], list[str]]:
    """The folders and the images that lie in a folder, links followed: their paths, sorted."""
    folders, images = [], []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith('.'):
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in image_files.extensions():
                    if not entry.is_file():
                        raise InputError(f'{printable(entry.path)} is no file, or a link to none: remove it.')
                    images.append(entry.path)
                elif entry.is_symlink() and not os.path.exists(entry.path):  # a folder of images, it may be
                    raise InputError(f'{printable(entry.path)} is a link to nothing: see where it leads, or remove it.')
    except OSError as error:
        where = printable(error.filename or directory)
        raise InputError(f'{where} cannot be opened ({error.strerror}): see to it that you may read it.') from error
    return sorted(folders), sorted(images)


def _held_out(labels_N: np.ndarray, val_split: float) -> np.ndarray:
    """Which images are validation, bool [N]: the first of each class: its share, one at least, and not all."""
    order_N, counts_Y = np.argsort(labels_N, kind='stable'), np.bincount(labels_N)
    shares_Y = np.clip(np.round(counts_Y * val_split), 1 if val_split else 0, np.maximum(counts_Y - 1, 0))
    ranks_N = np.empty(len(labels_N), int)
    ranks_N[order_N] = np.arange(len(labels_N)) - np.repeat(np.cumsum(counts_Y) - counts_Y, counts_Y)
    is_held_out_N: np.ndarray = ranks_N < shares_Y[labels_N]
    return is_held_out_N


def _some(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')
