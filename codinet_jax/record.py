"""What evaluation records of every image of a split: all that predicting it showed, and all that analysis reads."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


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
    """Whether arrays of these names have types and shapes that can be of one split; the axes are in the names."""
    sizes: dict[str, int] = {}
    for field, kinds in _KINDS.items():
        axes, array = field.rsplit('_', 1)[1].split('x'), arrays[field]
        if array.dtype.kind not in kinds or array.ndim != len(axes):
            return False
        if any(sizes.setdefault(axis, size) != size for axis, size in zip(axes, array.shape, strict=True)):
            return False
    return True
