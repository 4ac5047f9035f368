"""One trained network at many costs, by moving the threshold that the gates are held to."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from codinet_jax.data.in_memory import ImageSet
from codinet_jax.evaluation.cost_search import MISSED, nearest_shift
from codinet_jax.inference.predictor import Predictor
from codinet_jax.runtime.errors import InputError

NUM_HALVINGS = 24  # of the interval around each crossing
RUN_ALL, RUN_NONE = 0.0, float(np.nextafter(np.float32(1), np.float32(2)))


class Point(NamedTuple):
    """What a threshold makes of the network: mean MACs as a share of the static network's, top-1, and K."""

    threshold: float
    macs_share: float
    top1: float
    mean_path_length: float


Measure = Callable[[float], Point]


def measured(predictor: Predictor, images: ImageSet, batch_size: int, threshold: float) -> Point:
    """The point of a threshold on a set of images."""
    answers = predictor.in_batches(images.images_NxHxWxC, batch_size, threshold)
    return Point(
        threshold=threshold,
        macs_share=float(answers.macs_B.mean()) / predictor.spec.static_macs,
        top1=float(np.mean(answers.labels_B == images.labels_N)),
        mean_path_length=float(answers.decisions_Bxn.sum(axis=1).mean()),
    )


def trace_curve(measure: Measure, num_points: int) -> list[Point]:
    """Points from every block run to none, by rising threshold; each is put into the widest gap of cost there is."""
    curve = [measure(threshold) for threshold in (RUN_ALL, 0.5, RUN_NONE)]
    while len(curve) < num_points:
        gaps = [abs(left.macs_share - right.macs_share) for left, right in itertools.pairwise(curve)]
        i = gaps.index(max(gaps))
        curve.insert(i + 1, measure(_between(curve[i].threshold, curve[i + 1].threshold)))
    return curve


def find_threshold(measure: Measure, curve: Sequence[Point], target_cost: float) -> Point:
    """The point whose cost is nearest to the target, searched between the neighbours on a known curve.

    Raises:
      InputError: no threshold comes near the target.
    """
    points = {_shift(point.threshold): point for point in curve}

    def cost_at(shift: float) -> float:
        points[shift] = measure(_threshold(shift))
        return points[shift].macs_share

    known = {shift: point.macs_share for shift, point in points.items()}
    shift, macs_share = nearest_shift(cost_at, target_cost, known, NUM_HALVINGS)
    if abs(macs_share - target_cost) > MISSED:
        shares = known.values()
        raise InputError(
            f'No threshold costs {target_cost:.3f} of the static network: this one can be had from {min(shares):.3f} '
            f'to {max(shares):.3f}, and nearest at {macs_share:.3f}; ask for a --target_cost near that.'
        )
    return points[shift]


def readable(curve: Sequence[Point], found: Point) -> str:
    """The curve as a table, from expensive to cheap, with an arrow at the point that was found."""
    points = sorted({*curve, found}, key=lambda point: -point.macs_share)
    lines = [
        f'{"-> " if point == found else "   "}{point.threshold:9.6f}  {point.macs_share:7.2%}  '
        f'{point.mean_path_length:5.2f}  {point.top1:7.2%}'
        for point in points
    ]
    return '\n'.join(['   threshold     cost      K    top-1', *lines])


def _between(low: float, high: float) -> float:
    """Halfway in the router's logits, for v crowds at 0 and 1."""
    return _threshold((_shift(low) + _shift(high)) / 2)


def _shift(threshold: float) -> float:
    """What all logit margins would have to rise by to decide at 0.5 as they do at a threshold."""
    v = min(max(threshold, 1e-12), 1 - 1e-7)
    return math.log((1 - v) / v)


def _threshold(shift: float) -> float:
    return 1 / (1 + math.exp(shift))
