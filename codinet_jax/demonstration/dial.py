"""The dial of the page: the thresholds that it stops at, cheapest first, and what is known of each.

Where the network was calibrated a stop is a cost, the threshold of which is read off the measured curve as `--cost`
does; elsewhere stops are thresholds, evenly spaced in the logits. Those that have a name are stops of either.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.inference.operating_points import OperatingPoints, Point, shift_of, threshold_of
from codinet_jax.inference.predictor import Predictor
from codinet_jax.runtime.errors import InputError

NUM_COSTS, NUM_THRESHOLDS = 61, 49
WIDEST_SHIFT = 6.0  # thresholds from 0.0025 to 0.9975
AS_TRAINED = 0.5  # the threshold of Eq. 5
NO_DIAL = 'There is no dial to turn: this network has no routers, and every image runs every block.'
NO_CURVE = 'What thresholds cost was not measured: the dial moves the threshold itself.'


class Stop(NamedTuple):
    """A threshold, what is known of the mean image at it, and what it is called; None and '' where that is nothing."""

    threshold: float
    macs_share: float | None = None
    top1: float | None = None
    name: str = ''


class Dial(NamedTuple):
    """The stops, none if there is nothing to decide; which of them the dial begins at, and a sentence about them."""

    stops: tuple[Stop, ...]
    start: int
    sentence: str


def kind(predictor: Predictor) -> str:
    """'cascade', 'routed' or 'static'."""
    if predictor.spec.is_cascade:
        return 'cascade'
    return 'routed' if predictor.decides else 'static'


def dial(predictor: Predictor, measured_on: str) -> Dial:
    """The dial of a network.

    Args:
      predictor: the network, held to the threshold that the dial begins at.
      measured_on: what its curve, if it has one, was measured on, as it ends a sentence.
    """
    its_kind, curve = kind(predictor), predictor.operating_points.curve
    if its_kind == 'static':
        return Dial((), 0, NO_DIAL)
    trained = {AS_TRAINED: 'as trained'} if its_kind == 'routed' else {}
    names = {predictor.threshold: 'as given'} | trained | _names(predictor.operating_points.points)
    thresholds = _of_costs(predictor.operating_points) if curve else _of_logits()
    stops = [_stop(threshold, curve, names.get(threshold, '')) for threshold in {*thresholds, *names}]
    stops.sort(key=lambda stop: -stop.threshold)
    start = next(i for i, stop in enumerate(stops) if stop.threshold == predictor.threshold)
    return Dial(tuple(stops), start, f'Measured on {measured_on}.' if curve else NO_CURVE)


def _names(points: Mapping[str, Mapping[str, Any]]) -> dict[float, str]:
    return {float(point['threshold']): name for name, point in points.items()}


def _of_costs(known: OperatingPoints) -> list[float]:
    """The thresholds of costs all along the curve; in a step of it there is none."""
    shares, thresholds = [point.macs_share for point in known.curve], []
    for cost in np.unique(np.round(np.linspace(min(shares), max(shares), NUM_COSTS), 3)):
        try:
            thresholds.append(known.threshold(cost=float(cost)))
        except InputError:
            continue
    return thresholds


def _of_logits() -> list[float]:
    return [0.0, *map(threshold_of, np.linspace(WIDEST_SHIFT, -WIDEST_SHIFT, NUM_THRESHOLDS).tolist())]


def _stop(threshold: float, curve: Sequence[Point], name: str) -> Stop:
    """Between the neighbours on the curve, in the logits."""
    if not curve:
        return Stop(threshold, name=name)
    shifts = [-shift_of(point.threshold) for point in curve]
    share, top1 = (
        float(np.interp(-shift_of(threshold), shifts, [getattr(point, field) for point in curve]))
        for field in ('macs_share', 'top1')
    )
    return Stop(threshold, share, top1 if np.isfinite(top1) else None, name)
