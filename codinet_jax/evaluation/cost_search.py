"""The one search for a wanted cost: of cost matching in training, by routers' biases, and of calibration, by threshold.

Both move every gate's logit margin by one number, the shift: a bias raised by it, or a threshold t lowered to
sigmoid(logit(t) - shift), give the same hard decisions of a router that does not see what it skipped.
"""

import itertools
from collections.abc import Callable, Mapping

TOLERANCE, MISSED = 0.001, 0.01  # of the static network's cost: near enough; so far off that it is reported
NUM_HALVINGS = 12
FIRST_SHIFT, LARGEST_SHIFT = 0.25, 16.0  # beyond it every gate of a trained router is open, or every one closed


def nearest_shift(
    cost_at: Callable[[float], float],
    target_cost: float,
    known: Mapping[float, float] | None = None,
    num_halvings: int = NUM_HALVINGS,
) -> tuple[float, float]:
    """The shift at which the mean image costs `target_cost`, and what it costs then.

    A cost that jumps over the target, as that of a single route does, is left where it comes nearest.

    Args:
      cost_at: measures the cost at a shift, a share of the static network's MACs; by and large it rises.
      target_cost: such a share.
      known: costs measured before, by shift. Without them 0 is measured, and from there further and further out until
        the target is passed.
      num_halvings: how often an interval over which the target is passed is halved.
    """
    points = dict(known) if known else {0.0: cost_at(0.0)}

    def is_below(shift: float) -> bool:
        return points[shift] < target_cost

    def nearest() -> float:
        return min(points, key=lambda shift: (abs(points[shift] - target_cost), abs(shift)))

    def is_near() -> bool:
        return abs(points[nearest()] - target_cost) <= TOLERANCE

    def is_passed(one: float, other: float) -> bool:
        return is_below(one) != is_below(other)

    if not known:
        before, after = 0.0, FIRST_SHIFT if is_below(0.0) else -FIRST_SHIFT
        while not is_near() and abs(after) <= LARGEST_SHIFT:
            points[after] = cost_at(after)
            if is_passed(before, after):
                break
            before, after = after, 2 * after
    for low, high in [pair for pair in itertools.pairwise(sorted(points)) if is_passed(*pair)]:
        for _ in range(num_halvings):
            if is_near():
                break
            middle = (low + high) / 2
            points[middle] = cost_at(middle)
            low, high = (low, middle) if is_passed(low, middle) else (middle, high)
    return nearest(), points[nearest()]
