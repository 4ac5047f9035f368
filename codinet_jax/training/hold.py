"""Holding hard decisions to the wanted cost: what gamma cannot reach, for it acts on relaxed ones (section 3.4).

Stage 1 prices noisy, relaxed routes of augmented views under the batch's own statistics; what counts are hard routes of
plain images. They cost a few per cent of the static network more or less, and in stage 2, where routers are frozen,
gamma moves nothing. One number added to all routers makes up for it: run's log-odds, found by halving.
"""

import dataclasses
from collections.abc import Callable

from codinet_jax.models.routers import shifted
from codinet_jax.training.state import TrainState

TOLERANCE, MISSED = 0.001, 0.01  # of the static network's cost: near enough; so far off that it is said
NUM_IMAGES = 2048  # of the training set, whose mean cost is then known to about 0.2 %
NUM_HALVINGS = 12
FIRST_LEAD, LARGEST_LEAD = 0.25, 16.0  # beyond it every gate of a trained router is open, or every one closed


def nearest_lead(cost_at: Callable[[float], float], target_cost: float) -> tuple[float, float]:
    """What to add to every router's log-odds for hard decisions to cost `target_cost`, and what they cost then.

    `cost_at` measures the cost at such a number, a share of the static network's; by and large it rises. It is asked
    further and further from 0 until the target is passed, then by halves. A cost that jumps over the target, as that of
    a single route does, is left where it comes nearest.
    """
    points = {0.0: cost_at(0.0)}
    is_below = points[0.0] < target_cost

    def is_passed(lead: float) -> bool:
        return (points[lead] < target_cost) != is_below

    def nearest() -> float:
        return min(points, key=lambda lead: (abs(points[lead] - target_cost), abs(lead)))

    before, after = 0.0, FIRST_LEAD if is_below else -FIRST_LEAD
    while abs(points[nearest()] - target_cost) > TOLERANCE and abs(after) <= LARGEST_LEAD:
        points[after] = cost_at(after)
        if is_passed(after):
            break
        before, after = after, 2 * after
    for _ in range(NUM_HALVINGS):
        if abs(points[nearest()] - target_cost) <= TOLERANCE or after not in points:
            break
        middle = (before + after) / 2
        points[middle] = cost_at(middle)
        before, after = (before, middle) if is_passed(middle) else (middle, after)
    return nearest(), points[nearest()]


def leaning(state: TrainState, lead: float) -> TrainState:
    """The state with `lead` added to every router's log-odds of running, in the parameters and their averages."""
    averages = state.averages and state.averages | {'params': shifted(state.averages['params'], lead)}
    return dataclasses.replace(state, params=shifted(state.params, lead), averages=averages)
