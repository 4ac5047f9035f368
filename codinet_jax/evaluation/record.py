"""What evaluation records of every image of a split: all that predicting it showed, and all that analysis reads."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir


class Record(NamedTuple):
    """What the network did with every image, in the split's order.

    `run_probability_Nxn` is the noise-free v of Eq. 6, `decisions_Nxn` the u of Eq. 13.
    """

    labels_N: np.ndarray
    predictions_N: np.ndarray
    run_probability_Nxn: np.ndarray
    decisions_Nxn: np.ndarray


class AugmentedRecord(NamedTuple):
    """What it did with A augmentations of every image (section 4.4.1).

    `divergences_AxN` is the KL divergence, in nats, from an image's class probabilities to its augmentation's.
    """

    augmentations_A: np.ndarray
    augmented_predictions_AxN: np.ndarray
    augmented_run_probability_AxNxn: np.ndarray
    augmented_decisions_AxNxn: np.ndarray
    divergences_AxN: np.ndarray


class ShuffledRecord(NamedTuple):
    """How often it was right on an image that took other images' routes: shares in [0, 1] of the times it was tried.

    `right_N` is of routes of any image, `right_within_class_N` of those of its own class, `predictions_N` of the
    evaluation whose routes these are.
    """

    predictions_N: np.ndarray
    right_N: np.ndarray
    right_within_class_N: np.ndarray


# What NumPy calls the types of each: integers, floats, booleans, text.
_KINDS = {
    'labels_N': 'iu',
    'predictions_N': 'iu',
    'run_probability_Nxn': 'f',
    'decisions_Nxn': 'b',
    'augmentations_A': 'U',
    'augmented_predictions_AxN': 'iu',
    'augmented_run_probability_AxNxn': 'f',
    'augmented_decisions_AxNxn': 'b',
    'divergences_AxN': 'f',
}


def is_consistent(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays of these names have types and shapes that can be of a split, none empty; axes are in the names."""
    sizes: dict[str, int] = {}
    for field, kinds in _KINDS.items():
        axes, array = field.rsplit('_', 1)[1].split('x'), arrays[field]
        if array.dtype.kind not in kinds or array.ndim != len(axes):
            return False
        if any(sizes.setdefault(axis, size) != size for axis, size in zip(axes, array.shape, strict=True)):
            return False
    return min(sizes.values()) > 0


def write_routes(workdir: Workdir, name: str, record: Record, augmented: AugmentedRecord) -> None:
    """Keeps what was recorded under a name: a split's, or a split's and an operating point's."""
    workdir.write_arrays('routes', name, record._asdict() | augmented._asdict())


def read_routes(workdir: Workdir, name: str) -> tuple[Record, AugmentedRecord]:
    """What `write_routes` kept.

    Raises:
      InputError: nothing is kept under that name, or an older version wrote it, or it cannot be read.
    """
    arrays = workdir.read_arrays('routes', name, (*Record._fields, *AugmentedRecord._fields))
    if not is_consistent(arrays):
        path = workdir.path / 'routes' / f'{name}.npz'
        raise InputError(f'{path} contradicts itself: evaluate again with codinet_jax.evaluate.')
    augmented = AugmentedRecord(*(arrays[field] for field in AugmentedRecord._fields))
    return Record(*(arrays[field] for field in Record._fields)), augmented


def write_shuffled(workdir: Workdir, name: str, shuffled: ShuffledRecord) -> None:
    """Keeps what came of other images' routes, beside what `write_routes` kept under that name."""
    workdir.write_arrays('shuffled', name, shuffled._asdict())


def read_shuffled(workdir: Workdir, name: str, record: Record) -> ShuffledRecord | None:
    """What `write_shuffled` kept; None if nothing is.

    Raises:
      InputError: it cannot be read, or is of another evaluation than the record's.
    """
    if not workdir.holds_arrays('shuffled', name):
        return None
    found = ShuffledRecord(**workdir.read_arrays('shuffled', name, ShuffledRecord._fields))
    if {array.shape for array in found} != {record.labels_N.shape} or (found[0] != record.predictions_N).any():
        raise InputError(
            f'{workdir.path / "shuffled" / name}.npz is of another evaluation: shuffle routes again with '
            'codinet_jax.evaluate --shuffles=3.'
        )
    return found


def write_thumbnails(workdir: Workdir, split: str, thumbnails_SxhxwxC: np.ndarray) -> None:
    """Keeps what images of a split look like."""
    workdir.write_arrays('thumbnails', split, {'thumbnails_SxhxwxC': thumbnails_SxhxwxC})


def read_thumbnails(workdir: Workdir, split: str) -> np.ndarray:
    """What the first S images of the split look like: uint8 [S, h, w, C].

    Raises:
      InputError: an older version evaluated, or the file cannot be read.
    """
    pictures = workdir.read_arrays('thumbnails', split, ('thumbnails_SxhxwxC',))['thumbnails_SxhxwxC']
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] not in (1, 3) or not pictures.size:
        path = workdir.path / 'thumbnails' / f'{split}.npz'
        raise InputError(f'{path} holds no pictures: evaluate again with codinet_jax.evaluate.')
    return pictures
