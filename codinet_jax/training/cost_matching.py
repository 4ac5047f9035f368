"""Matching the cost of hard decisions: what gamma cannot reach, for it acts on relaxed ones (section 3.4).

Stage 1 prices noisy, relaxed routes of augmented views under the batch's own statistics; what counts are hard routes of
plain images. They cost a few per cent of the static network more or less, and in stage 2, where routers are frozen,
gamma moves nothing. One number added to all routers' logit margins makes up for it.
"""

import dataclasses
from collections.abc import Callable

from codinet_jax.evaluation.cost_search import MISSED, nearest_shift
from codinet_jax.models.routers import shifted
from codinet_jax.runtime.console import log
from codinet_jax.training.state import TrainState

NUM_IMAGES = 2048  # of the training set, whose mean cost is then known to about 0.2 %


def shifted_state(state: TrainState, router: str, shift: float) -> TrainState:
    """The state with every logit margin higher by `shift`, in the parameters and their averages."""
    averages = state.averages and state.averages | {'params': shifted(state.averages['params'], router, shift)}
    return dataclasses.replace(state, params=shifted(state.params, router, shift), averages=averages)


def matching_shift(cost_at: Callable[[float], float], target_cost: float, num_images: int) -> float:
    """The shift at which hard decisions cost what is wanted; how near it comes is reported.

    Args:
      cost_at: measures the macs_share of so many training images at a shift.
      target_cost: wanted share of the static network's MACs.
      num_images: what it measures on.
    """
    shift, macs_share = nearest_shift(cost_at, target_cost)
    log(f'routers shifted by {shift:+.2f}: hard decisions cost {macs_share:.1%} of static on {num_images} train images')
    if abs(macs_share - target_cost) > MISSED:
        log(f'warning: that is not the {target_cost:.1%} asked for, and no shift comes nearer.')
    return shift
