"""What evaluation records of every image of a split: all that predicting it showed, and all that analysis reads."""

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
