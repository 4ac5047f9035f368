"""What calibration found of one trained network: thresholds by name, and what thresholds cost.

An exported network carries both, so nothing here knows models, data or workdirs.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from codinet_jax.runtime.errors import InputError

NEAR = 0.01  # of the static network's cost: so far beyond the ends of a curve a wanted cost is taken for the end
WIDEST_GAP, BESIDE_GAP = 0.1, 0.02  # two neighbours further apart are a step: only costs so near to one can be had


class Point(NamedTuple):
    """What a threshold makes of the network: mean MACs as a share of the static network's, top-1, and K."""

    threshold: float
    macs_share: float
    top1: float
    mean_path_length: float


@dataclasses.dataclass(frozen=True)
class OperatingPoints:
    """Thresholds by name, and the accuracy-cost curve, by rising threshold; either may be empty.

    `points` are as the workdir keeps them: each has a threshold, and what else is known of it. `owner` is what
    sentences call the network they belong to; `decides` is as of its `Predictor`.
    """

    points: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    owner: str = 'This network'
    decides: bool = True

    @classmethod
    def of_record(
        cls, points: Mapping[str, Mapping[str, Any]], curve: Iterable[Mapping[str, Any]], owner: str
    ) -> 'OperatingPoints':
        """From what a workdir or a manifest holds.

        Raises:
          AttributeError, KeyError, TypeError, ValueError: that is something else.
        """
        known = {
            name: {key: value for key, value in point.items() if key != 'curve'}
            | {'threshold': _number(point, 'threshold')}
            for name, point in points.items()
        }
        measured = {
            _number(each, 'threshold'): Point(
                *(_number(each, key) for key in ('threshold', 'macs_share')),
                *(float(each.get(key, math.nan)) for key in ('top1', 'mean_path_length')),
            )
            for each in curve
        }
        return cls(known, tuple(measured[threshold] for threshold in sorted(measured)), owner)

    def as_record(self) -> dict[str, Any]:
        """What `of_record` reads, under the names of its arguments; JSON has no NaN."""
        curve = [{key: value for key, value in point._asdict().items() if value == value} for point in self.curve]
        return {'points': {name: dict(point) for name, point in self.points.items()}, 'curve': curve}

    def threshold(
        self, operating_point: str | float | None = None, cost: float | None = None, otherwise: float = 0.5
    ) -> float:
        """The threshold of a named point, or at which the mean image costs so much; `otherwise` if neither is given.

        Args:
          operating_point: a name that `codinet_jax.calibrate` gave to a threshold, or the target cost it is named for.
          cost: mean MACs, as a share of the static network's.
          otherwise: a threshold; 0.5 is that of Eq. 5.

        Raises:
          InputError: both are given, there is no such point, or the cost is not on the curve; or the network is static.
        """
        if operating_point is not None and cost is not None:
            raise InputError('An operating point and a cost are two thresholds: give one of them.')
        if not self.decides and (operating_point, cost) != (None, None):
            raise InputError(
                f'{self.owner} is static, and always costs the same: leave the cost or the operating point out.'
            )
        if cost is not None:
            return self._at_cost(cost)
        return otherwise if operating_point is None else self._named(operating_point)

    def _named(self, operating_point: str | float) -> float:
        if not isinstance(operating_point, str):
            operating_point = f'{operating_point:g}'  # as calibrate names it
        if operating_point not in self.points:
            known = f'it has {", ".join(self.points)}' if self.points else 'it has none'
            or_cost = 'ask for a cost, or ' if self.curve else ''
            raise InputError(
                f'{self.owner} has no operating point {operating_point!r} ({known}): {or_cost}make one with '
                'codinet_jax.calibrate.'
            )
        return float(self.points[operating_point]['threshold'])

    def _at_cost(self, cost: float) -> float:
        """Between the two neighbours on the curve where, as the threshold rises, that cost is first reached."""
        if not self.curve:
            raise InputError(
                f'{self.owner} has no accuracy-cost curve to find a cost of {cost:g} on: run codinet_jax.calibrate on '
                'the workdir of a run, and export again what was exported of it, or give a threshold.'
            )
        shares = [point.macs_share for point in self.curve]
        low, high = min(shares), max(shares)
        if not low - NEAR <= cost <= high + NEAR:
            raise InputError(
                f'{self.owner} cannot cost {cost:g} of the static network: ask for a cost from {low:.3f} to {high:.3f}.'
            )
        wanted = min(max(cost, low), high)
        i = next(i for i, share in enumerate(shares) if share <= wanted)
        if i == 0 or shares[i] == wanted:
            return self.curve[i].threshold
        return self._between(self.curve[i - 1], self.curve[i], wanted)

    def _between(self, left: Point, right: Point, cost: float) -> float:
        gap = left.macs_share - right.macs_share
        if gap <= WIDEST_GAP:
            way = (left.macs_share - cost) / gap
            return threshold_of((1 - way) * shift_of(left.threshold) + way * shift_of(right.threshold))
        near = min((left, right), key=lambda point: abs(point.macs_share - cost))
        if abs(near.macs_share - cost) > BESIDE_GAP:
            raise InputError(
                f'{self.owner} was measured at a cost of {left.macs_share:.3f} and next at {right.macs_share:.3f}, too '
                f'far from {cost:g}: ask for a cost near one of them, or run codinet_jax.calibrate '
                f'--target_cost={cost:g}, which looks between.'
            )
        return near.threshold


def shift_of(threshold: float) -> float:
    """What all logit margins would have to rise by to decide at 0.5 as they do at a threshold."""
    v = min(max(threshold, 1e-12), 1 - 1e-7)
    return math.log((1 - v) / v)


def threshold_of(shift: float) -> float:
    return 1 / (1 + math.exp(shift))


def _number(record: Mapping[str, Any], key: str) -> float:
    value = float(record[key])
    if not math.isfinite(value):
        raise ValueError(f'{key} is {value}')
    return value
