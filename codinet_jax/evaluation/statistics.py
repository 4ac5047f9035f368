"""The numbers of what evaluation recorded: those of every run, and those of section 4.4 and Tables 2, 5 and 8.

Each number has one name. Shares are in [0, 1], distances in blocks, divergences in nats, entropies in bits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.data.augmentations import FLIPS
from codinet_jax.evaluation import controls
from codinet_jax.evaluation.record import AugmentedRecord, Record
from codinet_jax.models.cost import CostTable
from codinet_jax.routing import paths
from codinet_jax.runtime.console import plural

SHARES = (0.5, 0.9, 0.99)
MOST_ROUTES = 20


def summarise(record: Record, costs: CostTable) -> dict[str, Any]:
    """What a run reports: accuracy, K, #paths, MACs and FLOPs of the mean image."""
    of_routes = _of_routes(record.decisions_Nxn)
    run_rates_n = np.mean(record.decisions_Nxn, axis=0)
    mean_macs = costs.mean_macs(run_rates_n)
    return {
        'top1': float(np.mean(record.predictions_N == record.labels_N)),
        'mean_path_length': float(np.sum(run_rates_n)),
        'num_blocks': record.decisions_Nxn.shape[1],
        'num_paths': int(of_routes['num_paths']),
        'route_entropy': float(of_routes['route_entropy']),
        'mean_macs': mean_macs,
        'mean_flops': 2 * mean_macs,
        'static_macs': costs.static_macs,
        'macs_share': mean_macs / costs.static_macs,
        'num_test_images': len(record.labels_N),
        'run_rate_per_block': run_rates_n.tolist(),
    }


def statistics(
    record: Record, augmented: AugmentedRecord, costs: CostTable, class_names: Sequence[str], has_flips: bool = True
) -> dict[str, Any]:
    """Everything that is counted, ready for JSON: the summary and what only analysis asks for.

    `has_flips` says whether flipped images are of this data set, and so part of the mean over augmentations. A mean
    over nothing, such as the distance within classes of one image each, is None.
    """
    coverage = _of_routes(record.decisions_Nxn)['coverage']
    within, between = class_distances(record.decisions_Nxn, record.labels_N)
    is_correct_N = record.predictions_N == record.labels_N
    return summarise(record, costs) | {
        'share_off_most_common': controls.share_off_most_common(record.decisions_Nxn),
        'cost_error_correlation': controls.cost_error_correlation(
            controls.macs_of_images(record, costs), ~is_correct_N
        ),
        'expected_path_length': float(np.mean(record.run_probability_Nxn.sum(axis=1, dtype=np.float64))),
        'coverage': {f'{share:.0%}': int(num_routes) for share, num_routes in zip(SHARES, coverage, strict=True)},
        'distance_within_classes': within,
        'distance_between_classes': between,
        'augmentations': augmentation_statistics(record, augmented, has_flips),
        'averaged_augmentations': averaged(augmented.augmentations_A.tolist(), has_flips),
        'by_path_length': by_path_length(record),
        'run_rate_per_class': {
            class_names[label]: rates_n.tolist() for label, rates_n in class_run_rates(record).items()
        },
        'most_used_routes': [
            {
                'route': ''.join(map(str, route_n.astype(int))),
                'images': len(members),
                'top1': _mean(is_correct_N[members]),
            }
            for route_n, members in most_used_routes(record.decisions_Nxn)
        ],
    }


@jax.jit
def _of_routes(decisions_Nxn: jax.Array) -> dict[str, Any]:
    """All that is counted of distinct routes, by one program: each alone would take as long to compile."""
    return {
        'num_paths': paths.num_paths(decisions_Nxn),
        'route_entropy': paths.route_entropy(decisions_Nxn),
        'coverage': [paths.coverage(decisions_Nxn, share) for share in SHARES],
    }


def averaged(names: Sequence[str], has_flips: bool) -> list[str]:
    """The augmentations that a mean is taken over: all, or of a data set that is not flipped all but flips."""
    return [name for name in names if has_flips or name not in FLIPS]


def augmentation_statistics(
    record: Record, augmented: AugmentedRecord, has_flips: bool = True
) -> dict[str, dict[str, float]]:
    """How steady routes and predictions are under each augmentation, and under those `averaged` ('mean'); see 4.4.1.

    `same_route` is the share of images whose augmentation takes exactly the route of the original, `distance` the mean
    Hamming distance of the two, `same_prediction` the share that is classified alike.
    """
    found = {}
    for a, name in enumerate(augmented.augmentations_A.tolist()):
        decisions_Nxn = jnp.asarray(augmented.augmented_decisions_AxNxn[a])
        distances_N = np.asarray(paths.distances_B(decisions_Nxn, jnp.asarray(record.decisions_Nxn)))
        divergences_N = augmented.divergences_AxN[a].astype(np.float64)
        is_same_N = augmented.augmented_predictions_AxN[a] == record.predictions_N
        found[name] = {
            'same_route': _mean(distances_N == 0),
            'distance': _mean(distances_N),
            'same_prediction': _mean(is_same_N),
            'divergence_mean': _mean(divergences_N),
            'divergence_median': float(np.median(divergences_N)),
        }
    of_the_set = [found[name] for name in averaged(list(found), has_flips)]
    measures = next(iter(found.values()))
    return found | {'mean': {measure: float(np.mean([each[measure] for each in of_the_set])) for measure in measures}}


def by_path_length(record: Record) -> list[dict[str, Any]]:
    """The histogram of K, and the accuracy of images by the blocks they run; shortest first, without gaps."""
    is_correct_N, lengths_N = record.predictions_N == record.labels_N, record.decisions_Nxn.sum(axis=1)
    corrects = {int(length): is_correct_N[lengths_N == length] for length in np.unique(lengths_N)}
    return [{'blocks': length, 'images': len(each), 'top1': _mean(each)} for length, each in corrects.items()]


def class_run_rates(record: Record) -> dict[int, np.ndarray]:
    """How often images of each class run each block: [n] in [0, 1] by label, of the classes there are."""
    labels_N = record.labels_N
    return {int(label): record.decisions_Nxn[labels_N == label].mean(axis=0) for label in np.unique(labels_N)}


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


def fixed_in_words(
    run_rates_n: Sequence[float], always_run_n: Sequence[bool] | np.ndarray = (), part: str = 'block'
) -> str:
    """Which blocks every image runs, and which none: 'block 1 always runs and blocks 4 to 6 never run'; '' for none.

    Of those that have no choice, `always_run_n`, nothing is said. `part` is what they are called.
    """
    parts = []
    forced = np.flatnonzero(always_run_n)
    for rate, verb in ((0, 'never run'), (1, 'always run')):
        fixed = [k + 1 for k, each in enumerate(run_rates_n) if each == rate and k not in forced]
        if fixed:
            parts.append(f'{part} {fixed[0]} {verb}s' if len(fixed) == 1 else f'{part}s {_ranges(fixed)} {verb}')
    return ' and '.join(parts)


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers: '1, 3 to 5 and 8'."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f'{run[0]} to {run[-1]}' if len(run) > 2 else text for run in runs for text in _alone(run)]
    return ' and '.join(filter(None, (', '.join(parts[:-1]), *parts[-1:])))


def _alone(run: Sequence[int]) -> list[str]:
    """The numbers of a run of one or two; of a longer one its first."""
    return [str(number) for number in (run if len(run) < 3 else run[:1])]


def readable(results: Mapping[str, Any]) -> str:
    """Results, or a summary alone, as a few aligned lines."""
    n = results['num_blocks']
    lines = {
        'top-1': f'{results["top1"]:.2%} of {plural(results["num_test_images"], "image")}',
        'K': f'{results["mean_path_length"]:.2f} of {plural(n, "block")} run',
        'routes': f'{results["num_paths"]} distinct, entropy {results["route_entropy"]:.2f} bits',
        'cost': (
            f'{results["mean_macs"] / 1e6:.2f} MMACs an image, '
            f'{results["macs_share"]:.1%} of the static {results["static_macs"] / 1e6:.2f}'
        ),
        'blocks': ' '.join(f'{rate:.2f}' for rate in results['run_rate_per_block']) + '  (share of images that run)',
    }
    if results.get('top1_stage1') is not None:
        lines['top-1'] += f' ({results["top1_stage1"]:.2%} after stage 1)'
    if 'seconds_train' in results:
        lines['time'] = f'{results["seconds_train"]:.0f} s, {results["images_per_second"]:.0f} images/s'
    return '\n'.join(f'  {name:8}{text}' for name, text in lines.items())


def _parted(decisions_Nxn: np.ndarray) -> tuple[int, int]:
    """Over all pairs of rows, the sum of their distances; and how many pairs there are."""
    N, runs_n = len(decisions_Nxn), decisions_Nxn.sum(axis=0, dtype=np.int64)
    return int(np.sum(runs_n * (N - runs_n))), N * (N - 1) // 2


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))
