"""What proves that routing pays: differences image by image, routes that are other images', and costs beside errors.

Accuracies and their differences are shares in [0, 1].
"""

from typing import Any

import numpy as np

from codinet_jax.evaluation.record import Record, ShuffledRecord
from codinet_jax.models.cost import CostTable


def paired_difference(own_N: np.ndarray, other_N: np.ndarray) -> dict[str, float]:
    """The mean of own minus other, and its standard error, image by image; of two images or more."""
    difference_N = np.asarray(own_N, float) - np.asarray(other_N, float)
    return {
        'difference': float(np.mean(difference_N)),
        'standard_error': float(np.std(difference_N, ddof=1) / np.sqrt(len(difference_N))),
    }


def mcnemar(own_N: np.ndarray, other_N: np.ndarray) -> dict[str, float]:
    """McNemar's test of two networks on the same images, of booleans that say where each is right.

    The difference and its standard error; on how many images only one of the two is right; and p, how likely so uneven
    a split is if either is as likely to be the one: the exact two-sided binomial probability.
    """
    from scipy.stats import binomtest  # half a second, which only comparisons need

    only_own, only_other = int(np.sum(own_N & ~other_N)), int(np.sum(other_N & ~own_N))
    num_parted = only_own + only_other
    p = float(binomtest(only_own, num_parted).pvalue) if num_parted else 1.0
    return paired_difference(own_N, other_N) | {'only_own': only_own, 'only_other': only_other, 'p_value': p}


def order_N(rng: np.random.Generator, labels_N: np.ndarray, *, within_class: bool) -> np.ndarray:
    """Whose route each image is given: any image's, or one's of its own class; every route is given once."""
    if not within_class:
        return rng.permutation(len(labels_N))
    found_N = np.arange(len(labels_N))
    for label in np.unique(labels_N):
        rows = np.flatnonzero(labels_N == label)
        found_N[rows] = rng.permutation(rows)
    return found_N


def worth_of_routes(record: Record, shuffled: ShuffledRecord) -> dict[str, dict[str, float]]:
    """By how much images are right more often on their own route than on others': of all, and of their class."""
    is_right_N = record.predictions_N == record.labels_N
    return {
        kind: paired_difference(is_right_N, right_N) | {'top1': float(np.mean(right_N, dtype=np.float64))}
        for kind, right_N in (('all', shuffled.right_N), ('within_class', shuffled.right_within_class_N))
    }


def cost_error_correlation(macs_N: np.ndarray, is_wrong_N: np.ndarray) -> float | None:
    """Of what an image costs with an error made on it; None where either is the same for all images."""
    if np.ptp(np.asarray(macs_N, float)) == 0 or np.ptp(np.asarray(is_wrong_N, float)) == 0:
        return None
    return float(np.corrcoef(macs_N, is_wrong_N)[0, 1])


def macs_of_images(record: Record, costs: CostTable) -> np.ndarray:
    """MACs of every image, [N]."""
    return costs.fixed_macs + record.decisions_Nxn @ np.array(costs.blocks_n, float)


def share_off_most_common(decisions_Nxn: np.ndarray) -> float:
    """The share of images whose route is not the one that most images take: 0 where all take the same."""
    return 1 - float(np.max(np.unique(decisions_Nxn, axis=0, return_counts=True)[1]) / len(decisions_Nxn))


def pair(record: Record, other: Record, costs: CostTable) -> dict[str, Any] | None:
    """A network beside another on the same images: `mcnemar`, and its costs beside the other's errors.

    None where the labels say that the images are not the same, or there is one alone.
    """
    if len(record.labels_N) < 2 or not np.array_equal(record.labels_N, other.labels_N):
        return None
    own_N, other_N = (each.predictions_N == each.labels_N for each in (record, other))
    correlation = cost_error_correlation(macs_of_images(record, costs), ~other_N)
    return mcnemar(own_N, other_N) | {'cost_error_correlation': correlation}
