"""Which blocks run how often: run rates by block that meet a cost, from the order in which blocks can be spared."""

import numpy as np

from codinet_jax.models.architecture import Architecture
from codinet_jax.models.cost import CostTable
from codinet_jax.runtime.errors import InputError


def free_n(architecture: Architecture) -> np.ndarray:
    """Blocks that may be skipped: all but those that change the shape."""
    return np.array([block.shortcut == 'identity' for block in architecture.blocks])


def stages_n(architecture: Architecture) -> np.ndarray:
    """The stage of every block, from 0."""
    counts = [bool(stage.transition) + stage.repeats for stage in architecture.stages]
    return np.repeat(np.arange(len(counts)), counts)


def check_reach(is_free_n: np.ndarray, costs: CostTable, target_macs: float) -> None:
    """Refuses MACs of the mean image that no run rates of the free blocks meet.

    Raises:
      InputError: they are fewer than without these blocks, or more than with all.
    """
    least, most = costs.mean_macs(1.0 - is_free_n), costs.mean_macs(np.ones(len(is_free_n)))
    if not least <= target_macs <= most:
        raise InputError(
            f'--target_macs={target_macs:.4g} cannot be met: without any block that may be skipped the mean image '
            f'costs {least:.4g} MACs, and with all of them {most:.4g}.'
        )


def allocate(place_n: np.ndarray, costs: CostTable, target_macs: float, spread_n: np.ndarray) -> np.ndarray:
    """Run rates clip(c + spread (1/2 - place), 0, 1), c such that the mean image costs `target_macs`.

    `place_n` is 0 for the block that is missed most and 1 for the one that is missed least; NaN for one that always
    runs. A spread of 0 is one rate for all, 1.2 leaves most blocks to the router, 2 and a mean of .5 fix a quarter at
    1 and a quarter at 0, and a very large one prunes. The cost is within `check_reach`.
    """
    always_n = np.isnan(place_n)

    def rates_n(centre: float) -> np.ndarray:
        return np.where(always_n, 1.0, np.clip(centre + spread_n * (0.5 - np.nan_to_num(place_n)), 0, 1))

    reach = 1 + np.max(spread_n)
    low, high = -reach, reach
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if costs.mean_macs(rates_n(middle)) < target_macs else (low, middle)
    return rates_n(high)


def pruned(place_n: np.ndarray, costs: CostTable, target_macs: float) -> np.ndarray:
    """Rates of 0 and 1: the blocks that are missed least are left out, as few as bring the cost nearest the target."""
    order = np.argsort(-np.nan_to_num(place_n, nan=-1.0), kind='stable')[: int(np.sum(~np.isnan(place_n)))]
    best, rates_n = None, np.ones(len(place_n))
    for k in (None, *order):
        if k is not None:
            rates_n = rates_n.copy()
            rates_n[k] = 0.0
        miss = abs(costs.mean_macs(rates_n) - target_macs)
        if best is None or miss < best[0]:
            best = miss, rates_n
    assert best is not None
    return best[1]


def late(
    place_n: np.ndarray, costs: CostTable, target_macs: float, decision: int, rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """One decision an image, taken at block `decision`: its free blocks from there on all run, or none does.

    Blocks before it are pruned to meet the cost, and the rate of the decision is then moved to meet it exactly.

    Returns:
      run rates [n] and whether a block repeats the decision [n].

    Raises:
      InputError: less than 2 or more than 98 % of the images would run on.
    """
    always_n = np.isnan(place_n)
    is_late_n = (np.arange(len(place_n)) >= decision) & ~always_n
    order = [k for k in np.argsort(-np.nan_to_num(place_n, nan=-1.0), kind='stable') if not always_n[k]]
    rates_n = np.where(is_late_n, rate, 1.0)
    for k in (k for k in order if not is_late_n[k]):
        if costs.mean_macs(rates_n) <= target_macs:
            break
        rates_n[k] = 0.0
    late_macs = float(np.sum(np.asarray(costs.blocks_n)[is_late_n]))
    exact = rate + (target_macs - costs.mean_macs(rates_n)) / late_macs
    if not 0.02 < exact < 0.98:
        raise InputError(
            f'--target_macs={target_macs:.4g} cannot be met by one decision at block {decision}, where {exact:.2f} of '
            'the images would run on: decide at an earlier block (--decision), or give another --late_rate.'
        )
    rates_n[is_late_n] = exact
    return rates_n, _copies_n(is_late_n)


def cheap_and_full(
    place_n: np.ndarray, costs: CostTable, target_macs: float, cheap_macs: float
) -> tuple[np.ndarray, np.ndarray]:
    """One decision an image: all blocks run, or only those of the network that is `pruned` to `cheap_macs`.

    The rate of the decision, which is taken at the first block that is left out, meets `target_macs`.

    Returns:
      run rates [n] and whether a block repeats the decision [n].

    Raises:
      InputError: less than 2 or more than 98 % of the images would run all.
    """
    cheap_n = pruned(place_n, costs, cheap_macs)
    whole, cheap = costs.mean_macs(np.ones(len(cheap_n))), costs.mean_macs(cheap_n)
    rate = (target_macs - cheap) / max(whole - cheap, 1.0)
    if not 0.02 < rate < 0.98:
        raise InputError(
            f'--target_macs={target_macs:.4g} is not well between the {cheap:.4g} of the cheap network and the '
            f'{whole:.4g} of the whole: give another, or other --cheap_macs.'
        )
    return np.where(cheap_n >= 1, 1.0, rate), _copies_n(cheap_n < 1)


def _copies_n(is_decided_n: np.ndarray) -> np.ndarray:
    """All blocks of one decision but the first, where it is taken."""
    copies_n = is_decided_n.copy()
    copies_n[np.argmax(is_decided_n)] = False
    return copies_n
