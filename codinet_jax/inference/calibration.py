"""The budget dial: one trained network at many costs, by moving the threshold that the gates are held to."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from codinet_jax.data.datasets import ImageSet
from codinet_jax.errors import InputError
from codinet_jax.inference.predictor import Predictor

TOLERANCE = 0.01  # of the static network's cost
NUM_HALVINGS = 24  # of the interval around each crossing
RUN_ALL, RUN_NONE = 0.0, float(np.nextafter(np.float32(1), np.float32(2)))


class Point(NamedTuple):
    """What a threshold makes of the network: mean cost as a share of the static network's MACs, top-1, and K."""

    threshold: float
    cost: float
    top1: float
    mean_path_length: float


Measure = Callable[[float], Point]


def measured(predictor: Predictor, images: ImageSet, batch_size: int, threshold: float) -> Point:
    """The point of a threshold on a set of images."""
    answers = predictor.in_batches(images.images_NxHxWxC, batch_size, threshold)
    return Point(
        threshold=threshold,
        cost=float(answers.macs_B.mean()) / predictor.card.static_macs,
        top1=float(np.mean(answers.labels_B == images.labels_N)),
        mean_path_length=float(answers.decisions_Bxn.sum(axis=1).mean()),
    )


def trace_curve(measure: Measure, num_points: int) -> list[Point]:
    """Points from every block run to none, by rising threshold; each is put into the widest gap of cost there is."""
    curve = [measure(threshold) for threshold in (RUN_ALL, 0.5, RUN_NONE)]
    while len(curve) < num_points:
        gaps = [abs(left.cost - right.cost) for left, right in itertools.pairwise(curve)]
        i = gaps.index(max(gaps))
        curve.insert(i + 1, measure(_between(curve[i].threshold, curve[i + 1].threshold)))
    return curve


def find_threshold(measure: Measure, curve: Sequence[Point], target_cost: float) -> Point:
    """The point whose cost is nearest to the target, searched by halving between the neighbours on a known curve.

    Raises:
      InputError: no threshold comes within TOLERANCE of the target.
    """
    best = min(curve, key=lambda point: abs(point.cost - target_cost))
    # A block that is skipped may let later gates open, so the cost falls with the threshold only by and large.
    brackets = [pair for pair in itertools.pairwise(curve) if pair[0].cost >= target_cost > pair[1].cost]
    for low, high in brackets:
        for _ in range(NUM_HALVINGS):
            if abs(best.cost - target_cost) <= TOLERANCE / 10:
                break
            point = measure(_between(low.threshold, high.threshold))
            best = min(best, point, key=lambda point: abs(point.cost - target_cost))
            low, high = (point, high) if point.cost >= target_cost else (low, point)
    if abs(best.cost - target_cost) > TOLERANCE:
        costs = [point.cost for point in curve]
        raise InputError(
            f'No threshold costs {target_cost:.3f} of the static network: this one can be had from {min(costs):.3f} to '
            f'{max(costs):.3f}, and nearest at {best.cost:.3f}; ask for a --target_cost near that.'
        )
    return best


def readable(curve: Sequence[Point], found: Point) -> str:
    """The curve as a table, from dear to cheap, with an arrow at the point that was found."""
    points = sorted({*curve, found}, key=lambda point: -point.cost)
    lines = [
        f'{"-> " if point == found else "   "}{point.threshold:9.6f}  {point.cost:7.2%}  '
        f'{point.mean_path_length:5.2f}  {point.top1:7.2%}'
        for point in points
    ]
    return '\n'.join(['   threshold     cost      K    top-1', *lines])


def _between(low: float, high: float) -> float:
    """Halfway in the router's logits, for v crowds at 0 and 1."""
    logits = [math.log(v / (1 - v)) for v in (min(max(threshold, 1e-12), 1 - 1e-7) for threshold in (low, high))]
    return 1 / (1 + math.exp(-sum(logits) / 2))
