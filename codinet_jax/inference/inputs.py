"""What `codinet_jax.predict` is asked about: image files, directories of them and globs, prefetched."""

import glob
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from codinet_jax.data import image_files
from codinet_jax.data.prefetch import prefetch
from codinet_jax.inference.predictor import NetworkSpec
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.files import printable


class Item(NamedTuple):
    """An image, or why it cannot be read, under the name that its answer bears; and its class where that is known."""

    name: str
    image_HxWxC: np.ndarray | InputError
    true_label: int | None = None


Found = tuple[str, InputError | None]  # a path, and why nothing can be read there if that is known already


def find(arguments: Sequence[str]) -> list[Found]:
    """The files that arguments name, in their order.

    A directory stands for all image files in it and below, sorted; a glob, ** included, for those that it matches, and
    for what is in the directories that it matches. Image files are known there by their extensions, and hidden ones are
    left out. A name that exists as it stands is no glob.
    """
    return [found for argument in arguments for found in _named_by(argument)]


def read(found: Iterable[Found], spec: NetworkSpec, count: int) -> Generator[Item, None, None]:
    """The images, as the network takes them, each read by a thread of its own up to `count` before it is asked for."""
    return prefetch((_read(path, error, spec) for path, error in found), count)


def _read(path: str, error: InputError | None, spec: NetworkSpec) -> Item:
    try:
        if error is not None:
            raise error
        return Item(path, image_files.read_image(path, spec.image_size, spec.num_channels, spec.center_crop))
    except InputError as refusal:
        return Item(path, refusal)


def _named_by(argument: str) -> Iterator[Found]:
    if os.path.isdir(argument):
        yield from _below(argument) or [
            (argument, InputError(f'{printable(argument)} holds no image file: name another.'))
        ]
    elif os.path.lexists(argument) or glob.escape(argument) == argument:
        yield argument, None
    else:
        yield from _matches(argument) or [
            (argument, InputError(f'{printable(argument)} matches no image file: name another.'))
        ]


def _below(directory: str) -> list[Found]:
    errors: list[OSError] = []
    files: list[str] = []
    seen: set[tuple[int, int]] = set()
    for parent, inner, names in os.walk(directory, onerror=errors.append, followlinks=True):
        identity = os.stat(parent)
        if (identity.st_dev, identity.st_ino) in seen:  # a link to where it has been
            inner.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        files += [os.path.join(parent, name) for name in _shown(names, inner) if _is_image(name)]
    unread = [
        (
            str(error.filename),
            InputError(f'{printable(error.filename)} cannot be searched ({error.strerror}): make it readable.'),
        )
        for error in errors
    ]
    return [*map(_found, sorted(files)), *unread]


def _found(path: str) -> Found:
    """What is no file is not opened: a named pipe would wait for ever for somebody to write."""
    if os.path.exists(path) and not os.path.isfile(path):
        return path, InputError(f'{printable(path)} is no file: remove it, or name others.')
    return path, None


def _shown(names: list[str], inner: list[str]) -> list[str]:
    """Names that are not hidden; os.walk goes into what is left in `inner`."""
    inner[:] = [name for name in inner if not name.startswith('.')]
    return [name for name in names if not name.startswith('.')]


def _matches(pattern: str) -> list[Found]:
    found: dict[str, InputError | None] = {}
    for path in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)):
        if os.path.isdir(path):
            found |= dict(_below(path.rstrip(os.sep) or os.sep))
        elif _is_image(path):
            found |= [_found(path)]
    return sorted(found.items(), key=lambda each: each[0])


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_files.extensions()
