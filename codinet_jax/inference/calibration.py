"""One trained network at many costs, by moving the threshold that the gates are held to."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from codinet_jax.data.in_memory import ImageSet
from codinet_jax.evaluation.cost_search import MISSED, TOLERANCE, nearest_shift
from codinet_jax.inference.operating_points import Point, shift_of, threshold_of
from codinet_jax.inference.predictor import Predictor
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime.errors import InputError

NUM_HALVINGS = 24  # of the interval around each crossing
RUN_ALL, RUN_NONE = 0.0, float(np.nextafter(np.float32(1), np.float32(2)))
RUN_FORCED = 1.0  # the highest that the gate of a block which always runs reaches
NARROWEST = 0.01  # of the logits: closer neighbours on a curve are a step, and nothing is to be found between them
CLIFF = 0.05  # of top-1: who loses more than that against the best point of the curve is told

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


def fewest_run(model: RoutedResNet) -> float:
    """The threshold at which a network runs the fewest blocks it can: none, or those that every image runs."""
    return RUN_FORCED if num_forced(model) else RUN_NONE


def num_forced(model: RoutedResNet) -> int:
    """The blocks that every image runs, at any threshold up to `fewest_run`'s."""
    return sum(model.always_run_n) if model.router else 0


def trace_curve(measure: Measure, num_points: int, last: float = RUN_NONE) -> list[Point]:
    """Points from every block run to the fewest, by rising threshold; each is put into the widest gap of cost there is.

    Args:
      measure: gives the point of a threshold.
      num_points: of the curve, three at least.
      last: the threshold that it ends with; see `fewest_run`.
    """
    curve = [measure(threshold) for threshold in (RUN_ALL, 0.5, last)]
    while len(curve) < num_points:
        gaps = [_gap(left, right) for left, right in itertools.pairwise(curve)]
        i = gaps.index(max(gaps))
        curve.insert(i + 1, measure(_within(curve, i)))
    return curve


def _within(curve: Sequence[Point], i: int) -> float:
    """A threshold between point i and the next: halfway, but beside the end where the curve lies flat before it.

    Gates that are shut for good move at no threshold but `RUN_ALL`, and those that are open for good at the last alone:
    halving would close in on that step for a dozen points.
    """
    is_probed = len(curve) > 3 and _gap(curve[i], curve[i + 1]) > 0
    if is_probed and i == 0 and _is_flat(*curve[1:3]):
        return threshold_of(shift_of(RUN_ALL) - NARROWEST / 2)
    if is_probed and i == len(curve) - 2 and _is_flat(*curve[-3:-1]):
        return threshold_of(shift_of(RUN_NONE) + NARROWEST / 2)
    return _between(curve[i].threshold, curve[i + 1].threshold)


def find_threshold(measure: Measure, curve: Sequence[Point], target_cost: float, *, has_floor: bool = False) -> Point:
    """The point whose cost is nearest to the target, searched between the neighbours on a known curve.

    With `has_floor` it is told why less cannot be had.

    Raises:
      InputError: no threshold comes near the target.
    """
    points = {shift_of(point.threshold): point for point in curve}

    def cost_at(shift: float) -> float:
        points[shift] = measure(threshold_of(shift))
        return points[shift].macs_share

    known = {shift: point.macs_share for shift, point in points.items()}
    shift, macs_share = nearest_shift(cost_at, target_cost, known, NUM_HALVINGS)
    if abs(macs_share - target_cost) > MISSED:
        shares = known.values()
        is_below = has_floor and target_cost < min(shares)
        why = ', for every image runs some of its blocks' if is_below else ''
        raise InputError(
            f'No threshold costs {target_cost:.3f} of the static network: this one can be had from {min(shares):.3f} '
            f'to {max(shares):.3f}{why}, and nearest at {macs_share:.3f}; ask for a --target_cost near that.'
        )
    return points[shift]


COLUMNS = (
    'to all and to 0.5: points of top-1 gained or lost against every block run, and against threshold 0.5; '
    'K: blocks run by the mean image.'
)


def readable(curve: Sequence[Point], found: Sequence[Point] = ()) -> str:
    """The curve as a table, from expensive to cheap, with an arrow at every point that was found.

    Points of top-1 are gained or lost against every block run and against threshold 0.5, where those are on the curve.
    """
    points = sorted({*curve, *found}, key=lambda point: (-point.macs_share, point.threshold))
    by_threshold = {point.threshold: point for point in points}
    lines = ['      cost    top-1  to all  to 0.5      K  threshold']
    for point in points:
        against = [_difference(point, by_threshold.get(threshold)) for threshold in (RUN_ALL, 0.5)]
        lines.append(
            f'{"-> " if point in found else "   "}{point.macs_share:7.2%}  {point.top1:7.2%}  {against[0]:>6}  '
            f'{against[1]:>6}  {point.mean_path_length:5.2f}  {_written(point.threshold):>9}'
        )
    return '\n'.join(lines)


def warning(curve: Sequence[Point], found: Mapping[str, Point]) -> str | None:
    """A sentence on points that lie behind the cliff of accuracy, if some of those found do: they lose more than
    `CLIFF` against the best point, and the sentence says down to which cost less is lost."""
    points = {*curve, *found.values()}
    best = max(points, key=lambda point: (point.top1, -point.macs_share))
    edge = min((point for point in points if best.top1 - point.top1 <= CLIFF), key=lambda point: point.macs_share)
    fallen = [
        f'{name} loses {100 * (best.top1 - point.top1):.1f}'
        for name, point in found.items()
        if best.top1 - point.top1 > CLIFF
    ]
    if not fallen:
        return None
    return (
        f'Accuracy falls off a cliff: operating point {", ".join(fallen)} points of top-1 against the best, '
        f'{best.top1:.2%} at a cost of {best.macs_share:.3f}, while {edge.macs_share:.3f} loses '
        f'{100 * (best.top1 - edge.top1):.1f}; ask for a --target_cost near that, or train for less.'
    )


def _written(threshold: float) -> str:
    """With six decimals, or the power of ten of one that has none."""
    return f'{threshold:.1e}' if 0 < threshold < 5e-7 else f'{threshold:.6f}'


def _difference(point: Point, other: Point | None) -> str:
    return '' if other is None else f'{100 * (point.top1 - other.top1):+.2f}'


def _is_flat(left: Point, right: Point) -> bool:
    return abs(left.macs_share - right.macs_share) <= TOLERANCE


def _gap(left: Point, right: Point) -> float:
    if shift_of(left.threshold) - shift_of(right.threshold) < NARROWEST:
        return 0.0
    return abs(left.macs_share - right.macs_share)


def _between(low: float, high: float) -> float:
    """Halfway in the router's logits, for v crowds at 0 and 1."""
    return threshold_of((shift_of(low) + shift_of(high)) / 2)
