"""What can be known of trained networks before any gate is trained: the parts of `audit`, each a function of networks.

Numbers are ready for JSON; accuracies and shares are in per cent.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from experiments.real_accuracy import allocation, cascade, images, probing
from experiments.real_accuracy.probing import Probe

RATES = (0.9, 0.98, 0.993)  # of gates that start nearly open


class Subject(NamedTuple):
    """A full network, a cheap one, and the full one's blocks that cost what the cheap one costs.

    `rung_n` are these blocks, 1 for one that runs, and `rung_variables` the full network's with norms of that route.
    """

    full: Probe
    cheap: Probe
    rung_n: np.ndarray
    rung_variables: Any

    def predictions_N(self, who: str, images_NxHxWxC: np.ndarray) -> np.ndarray:
        """What `full`, `cheap` or `rung` answers."""
        if who == 'rung':
            return self.full.answers(images_NxHxWxC, self.rung_n, self.rung_variables).predictions_N
        return (self.full if who == 'full' else self.cheap).answers(images_NxHxWxC).predictions_N


def subject(full: Probe, cheap: Probe, place_n: np.ndarray, norm_views: np.ndarray) -> Subject:
    """The three, from the order in which blocks of the full network can be spared (`ordering.places_n`)."""
    rung_n = allocation.pruned(place_n, full.costs, cheap.costs.static_macs)
    return Subject(full, cheap, rung_n, full.re_estimated(norm_views, rung_n))


def without_blocks(
    full: Probe, place_n: np.ndarray, order: Mapping[str, Any], norm_views: np.ndarray, test: images.Images
) -> dict[str, Any]:
    """Accuracy without each free block alone, and without the first k of the greedy order; norms re-estimated."""

    def of(route_n: np.ndarray) -> dict[str, Any]:
        variables = full.re_estimated(norm_views, route_n)
        predictions_N = full.answers(test.images_NxHxWxC, route_n, variables).predictions_N
        return {'accuracy': _share(predictions_N == test.labels_N), 'macs': full.costs.mean_macs(route_n)}

    num_blocks = full.num_blocks
    whole = of(np.ones(num_blocks))
    free = [int(k) for k in np.flatnonzero(~np.isnan(place_n))]
    alone = [
        {'block': k, 'divergence': order['divergence_alone'][str(k)]} | of(_without(num_blocks, [k])) for k in free
    ]
    greedy = [
        {'without': k, 'divergence': order['divergence'][i]} | of(_without(num_blocks, order['order'][: i + 1]))
        for i, k in enumerate(order['order'])
    ]
    plain = full.answers(test.images_NxHxWxC).predictions_N
    return {
        'num_images': len(test.labels_N),
        'as_given': {'accuracy': _share(plain == test.labels_N), 'macs': full.costs.static_macs},
        'whole': whole,
        'alone': alone,
        'greedy': greedy,
    }


def wrong_views(subject: Subject, train: images.Images, test: images.Images) -> dict[str, Any]:
    """The share of views that each is wrong on, and of those on which a cheap one is and the full one is not."""

    def of(images_NxHxWxC: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
        is_wrong = {who: subject.predictions_N(who, images_NxHxWxC) != labels_N for who in ('full', 'cheap', 'rung')}
        gains = {f'{who}_alone': _share(is_wrong[who] & ~is_wrong['full']) for who in ('cheap', 'rung')}
        return {who: _share(wrong_N) for who, wrong_N in is_wrong.items()} | gains

    found = {kind: of(probing.views(train, kind), train.labels_N) for kind in probing.KINDS}
    return {'num_images': len(train.labels_N), 'train': found, 'test': of(test.images_NxHxWxC, test.labels_N)}


def foretold(subject: Subject, train: images.Images, num_views: int, test: images.Images) -> dict[str, Any]:
    """How well what a router reads tells the images that the cheap network alone gets wrong, by depth.

    A logistic fit on the standardised pooled input of each block, on strongly augmented training views, is read on test
    images. `crossed` is one on half of the test images, read on the other half, both ways: what could be read if
    training images were like those. Beside it stands what a cascade reads, the cheap network's largest probability.
    """
    views = probing.views(train, 'strong', num_views)
    labels_V = np.repeat(train.labels_N, num_views)
    seen, asked = (subject.full.answers(each) for each in (views, test.images_NxHxWxC))
    channels_n = [block.in_channels for block in subject.full.start.architecture.blocks]
    found: dict[str, Any] = {'num_views': len(labels_V), 'num_images': len(test.labels_N), 'labels': {}}
    for who in ('cheap', 'rung'):
        is_gain_V = (subject.predictions_N(who, views) != labels_V) & (seen.predictions_N == labels_V)
        wrong_N = subject.predictions_N(who, test.images_NxHxWxC) != test.labels_N
        is_gain_N = wrong_N & (asked.predictions_N == test.labels_N)
        depths = [
            {'block': k}
            | _fitted(seen.features_Nxnx64[:, k, :c], is_gain_V, asked.features_Nxnx64[:, k, :c], is_gain_N)
            | {'crossed': crossed(asked.features_Nxnx64[:, k, :c], is_gain_N)}
            for k, c in enumerate(channels_n)
        ]
        found['labels'][who] = {
            'share_of_views': _share(is_gain_V),
            'share_of_test': _share(is_gain_N),
            'depths': depths,
        }
    logits_NxY = subject.cheap.answers(test.images_NxHxWxC).logits_NxY
    wrong_N = np.argmax(logits_NxY, -1) != test.labels_N
    is_gain_N = wrong_N & (asked.predictions_N == test.labels_N)
    found['confidence_of_cheap'] = auc(1 - cascade.confidence(logits_NxY), is_gain_N)
    found['conditioning'] = [_conditioning(seen.features_Nxnx64[:, k, :c]) for k, c in enumerate(channels_n)]
    return found


def drawn_gates(full: Probe, test: images.Images, seed: int) -> list[dict[str, Any]]:
    """Accuracy where every gate runs its block by chance, at rates that gates start training with."""
    rng, rows = np.random.default_rng(seed), []
    is_free_n = allocation.free_n(full.start.architecture)
    for rate in RATES:
        drawn_Nxn = rng.random((len(test.labels_N), full.num_blocks)) < rate
        for gates_transitions in (True, False):
            decisions_Nxn = drawn_Nxn if gates_transitions else drawn_Nxn | ~is_free_n
            predictions_N = full.answers(test.images_NxHxWxC, decisions_Nxn).predictions_N
            rows.append(
                {
                    'rate': rate,
                    'transitions_gated': gates_transitions,
                    'accuracy': _share(predictions_N == test.labels_N),
                    'share_whole': _share(np.all(decisions_Nxn, axis=-1)),
                    'num_images': len(test.labels_N),
                }
            )
    return rows


def auc(scores_N: np.ndarray, is_positive_N: np.ndarray) -> dict[str, float]:
    """The area under the ROC curve, and its standard error as Hanley and McNeil (1982) have it."""
    area = float(roc_auc_score(is_positive_N, scores_N))
    positives, negatives = int(np.sum(is_positive_N)), int(np.sum(~is_positive_N))
    of_two_positives, of_two_negatives = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area)
        + (positives - 1) * (of_two_positives - area**2)
        + (negatives - 1) * (of_two_negatives - area**2)
    ) / (positives * negatives)
    return {'auc': area, 'standard_error': float(np.sqrt(variance))}


def _fitted(
    train_VxC: np.ndarray, is_positive_V: np.ndarray, test_NxC: np.ndarray, is_positive_N: np.ndarray
) -> dict[str, float]:
    mean_C, std_C = np.mean(train_VxC, axis=0), np.std(train_VxC, axis=0)
    std_C = np.where(std_C > 0, std_C, 1.0)  # a channel that is dead stays one
    fit = LogisticRegression(max_iter=2000).fit((train_VxC - mean_C) / std_C, is_positive_V)
    return auc(fit.decision_function((test_NxC - mean_C) / std_C), is_positive_N)


def crossed(features_NxC: np.ndarray, is_positive_N: np.ndarray) -> dict[str, float]:
    """The mean of two areas: fitted on every other row and read on the rest, both ways."""
    halves = slice(0, None, 2), slice(1, None, 2)
    both = [
        _fitted(features_NxC[fit], is_positive_N[fit], features_NxC[read], is_positive_N[read])
        for fit, read in (halves, halves[::-1])
    ]
    error = np.sqrt(sum(each['standard_error'] ** 2 for each in both)) / 2
    return {'auc': float(np.mean([each['auc'] for each in both])), 'standard_error': float(error)}


def _conditioning(features_VxC: np.ndarray) -> dict[str, float]:
    """mean² / variance of channels that vary: 0 for standardised ones."""
    features_VxC = features_VxC.astype(np.float64)
    variance_C = np.var(features_VxC, axis=0)
    is_alive_C = variance_C > 0
    ratio_C = np.mean(features_VxC, axis=0)[is_alive_C] ** 2 / variance_C[is_alive_C]
    return {'median': float(np.median(ratio_C)), 'mean': float(np.mean(ratio_C))}


def _without(num_blocks: int, blocks: list[int]) -> np.ndarray:
    route_n = np.ones(num_blocks)
    route_n[blocks] = 0
    return route_n


def _share(is_so_N: np.ndarray) -> float:
    return 100 * float(np.mean(is_so_N))
