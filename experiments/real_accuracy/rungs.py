"""Two rungs of one network and one late decision between them, learnt when both are trained and nothing moves any more.

The rungs share all blocks but the last free ones, which the full one runs and the cheap one does not. As in DS-Net
(arXiv 2103.13258) the decision is told to run on where the cheap rung is wrong. It is a linear function of the pooled
input of the block where it is taken, standardised, and is fitted on strongly augmented training views, for on plain
ones hardly any is wrong. Where it lies is left to whoever matches the cost.

The other way to decide is a second look: the cheap rung answers, and an image that it is not sure of runs again as the
full one, from where the two part. That costs more an image and knows more: what a cascade of two networks knows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import traverse_util
from sklearn.linear_model import LogisticRegression

from codinet_jax.models.cost import CostTable
from codinet_jax.models.routers import is_router
from experiments.real_accuracy import cascade, evaluation, gates, images, networks, probing


def decided(
    start: networks.Start,
    variables: Any,
    train: images.Images,
    rates_n: np.ndarray,
    batch: int,
    num_views: int = 1,
) -> tuple[Any, dict[str, float]]:
    """Variables whose router at the first block that is free tells how likely the cheap rung is wrong.

    Args:
      start: what was trained from, for its architecture.
      variables: trained, with routers.
      train: images to learn from.
      rates_n: of `allocation.late`: 1 for blocks of both rungs, 0 for blocks of none.
      batch: images at a time.
      num_views: of each image.

    Returns:
      variables, and what was seen: shares in per cent of views that the rungs are wrong on, and how many decided on.
    """
    views = probing.views(train, 'strong', num_views)
    labels_V, block = np.repeat(train.labels_N, num_views), int(np.argmax((rates_n > 0) & (rates_n < 1)))
    flat = traverse_util.flatten_dict(variables)
    backbone = traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if not is_router(path)})
    probe = probing.Probe(start, batch)
    cheap, full = (probe.answers(views, route_n, backbone) for route_n in (rates_n >= 1, rates_n > 0))
    is_wrong_V = cheap.predictions_N != labels_V
    channels = start.architecture.blocks[block].in_channels
    features_VxC = cheap.features_Nxnx64[:, block, :channels].astype(np.float64)
    mean_C, std_C = features_VxC.mean(axis=0), np.maximum(features_VxC.std(axis=0), 1e-6)
    fit = LogisticRegression(max_iter=2000).fit((features_VxC - mean_C) / std_C, is_wrong_V)
    seen = {
        'views': float(len(labels_V)),
        'cheap_wrong': 100 * float(np.mean(is_wrong_V)),
        'full_wrong': 100 * float(np.mean(full.predictions_N != labels_V)),
    }
    return _with_router(variables, block, mean_C, std_C, fit.coef_[0], float(fit.intercept_[0])), seen


def second_look(
    judge: evaluation.Judge,
    variables: Any,
    rates_n: np.ndarray,
    test: images.Images,
    calibration: images.Images,
    targets: Sequence[float],
) -> dict[str, Any]:
    """Accuracy and cost where the cheap rung's own confidence decides, at those of the costs that can be had.

    `points` are as `cascade.pair` has them; `shuffled` of a point is what the same share of images, chosen by chance,
    would give, who get the mean of both answers as well. Neither rung pays for routers.
    """
    routes_2xn = np.stack([rates_n >= 1, rates_n > 0])
    macs = rung_macs(judge.costs, *routes_2xn)
    answerers = []
    for name, route_n, rung in zip(('cheap', 'full'), routes_2xn, macs, strict=True):
        of_test, of_train = (
            judge.dictated(variables, data.images_NxHxWxC, np.broadcast_to(route_n, (len(data.labels_N), len(route_n))))
            for data in (test, calibration)
        )
        labels = test.labels_N, of_train.logits, calibration.labels_N
        answerers.append(cascade.Answerer(name, rung, of_test.logits, *labels))
    small, large = answerers
    cheap, full, both = (
        100 * float(np.mean(classes == test.labels_N))
        for classes in (*(np.argmax(rung.logits, -1) for rung in answerers), cascade.together(small, large))
    )
    points = [point for target in targets if (point := cascade.pair(small, large, target))]
    for point in points:
        share = (point['mean_macs'] - macs[0]) / macs[1]
        point['shuffled'] = cheap + share * (both - cheap)
    return {'cheap': cheap, 'full': full, 'cheap_macs': macs[0], 'macs_of_going_on': macs[1], 'points': points}


def rung_macs(costs: CostTable, cheap_n: np.ndarray, full_n: np.ndarray) -> tuple[float, float]:
    """What an image pays for the cheap rung, and what it pays more to be run again from where the full one parts."""
    blocks_n, shortcuts_n = np.asarray(costs.blocks_n), np.asarray(costs.shortcuts_n)
    parting = int(np.argmax(cheap_n != full_n))
    cheap = costs.fixed_macs - costs.router_macs + float(blocks_n @ cheap_n)
    again = float(blocks_n[parting:] @ full_n[parting:]) + float(shortcuts_n[parting:].sum()) + costs.head
    return cheap, again


def _with_router(
    variables: Any, block: int, mean_C: np.ndarray, std_C: np.ndarray, slope_C: np.ndarray, intercept: float
) -> Any:
    """The router's two layers made one linear function: two hidden units hold it and its negative."""
    name, i = gates.block_names(variables)[block]
    place = ... if i is None else i
    flat = traverse_util.flatten_dict(variables)
    hidden, decide = np.zeros((len(slope_C), len(slope_C))), np.zeros((len(slope_C), 2))
    hidden[:, 0], hidden[:, 1] = slope_C, -slope_C
    decide[:2, 1] = 1.0, -1.0
    leaves = {
        ('centre',): mean_C,
        ('scale',): 1 / std_C,
        ('hidden', 'kernel'): hidden,
        ('hidden', 'bias'): np.zeros(len(slope_C)),
        ('decide', 'kernel'): decide,
        ('decide', 'bias'): np.array([0.0, intercept]),
    }
    for leaf, value in leaves.items():
        array = np.array(flat['params', name, 'router', *leaf], np.float32)
        array[place] = value
        flat['params', name, 'router', *leaf] = array
    return traverse_util.unflatten_dict(flat)
