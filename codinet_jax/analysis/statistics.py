"""The numbers of section 4.4 and Tables 2, 5 and 8, from what evaluation recorded."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from codinet_jax.analysis.run import Run
from codinet_jax.routing import paths

SHARES = (0.5, 0.9, 0.99)
MOST_ROUTES = 20


def statistics(run: Run) -> dict[str, Any]:
    """Everything that is counted, ready for JSON. Shares are in [0, 1], distances in blocks, divergences in nats.

    A mean over nothing, such as the distance within classes of one image each, is None.
    """
    record = run.record
    decisions_Nxn, macs = jnp.asarray(record.decisions_Nxn), float(np.mean(run.macs_N))
    within, between = class_distances(record.decisions_Nxn, record.labels_N)
    return {
        'split': run.split,
        'budget': run.budget,
        'num_images': run.num_images,
        'num_blocks': run.num_blocks,
        'is_static': run.is_static,
        'top1': float(np.mean(run.is_correct_N)),
        'mean_path_length': float(np.mean(run.path_lengths_N)),
        'expected_path_length': float(np.mean(run.expected_lengths_N)),
        'num_paths': int(paths.num_paths(decisions_Nxn)),
        'route_entropy_bits': float(paths.route_entropy(decisions_Nxn)),
        'coverage': {f'{share:.0%}': int(paths.coverage(decisions_Nxn, share)) for share in SHARES},
        'mean_macs': macs,
        'mean_flops': 2 * macs,
        'static_macs': run.costs.static_macs,
        'macs_share': macs / run.costs.static_macs,
        'distance_within_classes': within,
        'distance_between_classes': between,
        'augmentations': augmentation_statistics(run),
        'by_path_length': by_path_length(run),
        'run_rate_per_block': record.decisions_Nxn.mean(axis=0).tolist(),
        'run_rate_per_class': {run.classes[label]: rates_n.tolist() for label, rates_n in class_run_rates(run).items()},
        'most_used_routes': [
            {
                'route': ''.join(map(str, route_n.astype(int))),
                'images': len(members),
                'top1': _mean(run.is_correct_N[members]),
            }
            for route_n, members in most_used_routes(record.decisions_Nxn)
        ],
    }


def augmentation_statistics(run: Run) -> dict[str, dict[str, float]]:
    """How steady routes and predictions are under each augmentation, and under all of them ('mean'); see 4.4.1.

    `same_route` is the share of images whose augmentation takes the very route of the original, `distance` the mean
    Hamming distance of the two, `same_prediction` the share that is classified alike.
    """
    found = {}
    for a, name in enumerate(run.augmented.augmentations_A.tolist()):
        decisions_Nxn = jnp.asarray(run.augmented.augmented_decisions_AxNxn[a])
        distances_N = np.asarray(paths.distances_B(decisions_Nxn, jnp.asarray(run.record.decisions_Nxn)))
        divergences_N = run.augmented.divergences_AxN[a].astype(np.float64)
        is_same_N = run.augmented.augmented_predictions_AxN[a] == run.record.predictions_N
        found[name] = {
            'same_route': _mean(distances_N == 0),
            'distance': _mean(distances_N),
            'same_prediction': _mean(is_same_N),
            'divergence_mean': _mean(divergences_N),
            'divergence_median': float(np.median(divergences_N)),
        }
    measures = next(iter(found.values()))
    return found | {
        'mean': {measure: float(np.mean([each[measure] for each in found.values()])) for measure in measures}
    }


def by_path_length(run: Run) -> list[dict[str, Any]]:
    """The histogram of K, and the accuracy of images by the blocks they run; shortest first, without gaps."""
    corrects = {int(length): run.is_correct_N[run.path_lengths_N == length] for length in np.unique(run.path_lengths_N)}
    return [{'blocks': length, 'images': len(each), 'top1': _mean(each)} for length, each in corrects.items()]


def class_run_rates(run: Run) -> dict[int, np.ndarray]:
    """How often images of each class run each block: [n] in [0, 1] by label, of the classes there are."""
    labels_N = run.record.labels_N
    return {int(label): run.record.decisions_Nxn[labels_N == label].mean(axis=0) for label in np.unique(labels_N)}


def class_distances(decisions_Nxn: np.ndarray, labels_N: np.ndarray) -> tuple[float | None, float | None]:
    """The mean Hamming distance of the routes of two images of one class, and of two images of different classes.

    Over all pairs, without looking at any: where r of N images run a block, r (N - r) pairs part on it. None where
    there is no such pair.
    """
    groups = [decisions_Nxn[labels_N == label] for label in np.unique(labels_N)]
    parted, pairs = _parted(decisions_Nxn)
    within = [sum(counts) for counts in zip(*map(_parted, groups), strict=True)]
    of_two = (within, (parted - within[0], pairs - within[1]))
    within_mean, between_mean = (parted / pairs if pairs else None for parted, pairs in of_two)
    return within_mean, between_mean


def most_used_routes(decisions_Nxn: np.ndarray, most: int = MOST_ROUTES) -> list[tuple[np.ndarray, np.ndarray]]:
    """The routes that most images take, the most used first: each with the positions of its images."""
    routes_Rxn, route_of_N = np.unique(decisions_Nxn, axis=0, return_inverse=True)
    counts_R = np.bincount(route_of_N.ravel(), minlength=len(routes_Rxn))
    order_R = np.argsort(-counts_R, kind='stable')[:most]
    return [(routes_Rxn[r], np.flatnonzero(route_of_N.ravel() == r)) for r in order_R]


def _parted(decisions_Nxn: np.ndarray) -> tuple[int, int]:
    """Over all pairs of rows, the sum of their distances; and how many pairs there are."""
    N, runs_n = len(decisions_Nxn), decisions_Nxn.sum(axis=0, dtype=np.int64)
    return int(np.sum(runs_n * (N - runs_n))), N * (N - 1) // 2


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))
