"""What a run begins with: how often each block is to run, and a trained network's weights with fresh routers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from codinet_jax.models.cost import CostTable
from codinet_jax.runtime.errors import InputError
from experiments.real_accuracy import allocation, gates, images, methods, networks

LEAST_STD = 0.3  # of the mean over a block's channels


class Wanted(NamedTuple):
    """What is asked of run rates: MACs of the mean image and of the cheap one of `rungs`; of `late` and `rungs`, where
    they decide (None: the first free block of stage 3) and the share of images that run on, about; of the others, how
    far rates follow the order of blocks, by stage."""

    variant: str
    target_macs: float | None
    cheap_macs: float | None
    decision: int | None
    late_rate: float
    spreads: tuple[float, ...]


def run_rates(
    wanted: Wanted, start: networks.Start, costs: CostTable, places_n: Callable[[], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Run rates [n], and whether a block copies a decision [n].

    Args:
      wanted: what is asked of them.
      start: the network.
      costs: its.
      places_n: finds the order of blocks as `ordering.places_n` does; a static network does without.

    Raises:
      InputError: nothing says what the mean image is to cost, or no run rates of this variant cost that.
    """
    variant, macs = wanted.variant, wanted.target_macs
    nothing_n = np.zeros(start.architecture.num_blocks, bool)
    if variant == 'static':
        return np.ones(len(nothing_n)), nothing_n
    if macs is None:
        raise InputError(f'Say what the mean image of {variant} is to cost: --target_macs=68.9e6.')
    allocation.check_reach(allocation.free_n(start.architecture), costs, macs)  # before blocks are ordered for minutes
    place_n, stages_n = places_n(), allocation.stages_n(start.architecture)
    if variant == 'pruned':
        return allocation.pruned(place_n, costs, macs), nothing_n
    if variant == 'rungs' and wanted.cheap_macs is not None:
        return allocation.cheap_and_full(place_n, costs, macs, wanted.cheap_macs)
    if variant in ('late', 'rungs'):
        of_stage_3 = np.flatnonzero((stages_n == 2) & ~np.isnan(place_n))
        decision = of_stage_3[0] if wanted.decision is None else wanted.decision
        return allocation.late(place_n, costs, macs, int(decision), wanted.late_rate)
    spreads = np.zeros(3) if variant in methods.UNIFORM else np.array(wanted.spreads)
    return allocation.allocate(place_n, costs, macs, spreads[stages_n]), nothing_n


def variables(
    start: networks.Start, variant: str, seed: int, reach: float, copies_n: np.ndarray, some: images.Images
) -> Any:
    """Start weights and fresh routers that read features standardised on some images; `independent` ones read nothing.

    `seed` is of routers, and `reach` how much of their gradient reaches the backbone through what they read.
    """
    _, fresh = networks.gated(start, 'standardised', seed, methods.initial_margin(variant))
    probe, probed = networks.gated(start, 'probe', 0)
    pooled = jax.jit(
        lambda variables, views: probe.apply(variables, images.normalise(views), gates.always, train=False)
    )
    views_BxHxWxC = images.drawn(some, 1, seed=4)[:, 0]
    features_Bxnx64 = np.asarray(pooled(probed, views_BxHxWxC).router_logits_Bxnx2)
    mean_nx64, std_nx64 = np.mean(features_Bxnx64, axis=0), np.std(features_Bxnx64, axis=0)
    channels_n = [block.in_channels for block in start.architecture.blocks]
    is_deaf = variant == 'independent'
    centres = [mean[:c] for mean, c in zip(mean_nx64, channels_n, strict=True)]
    stds = [std[:c] for std, c in zip(std_nx64, channels_n, strict=True)]
    # A channel that hardly varies must not be blown up, for it may come alive as the network trains.
    scales = [(0.0 if is_deaf else 1.0) / np.maximum(std, LEAST_STD * np.mean(std)) for std in stds]
    fresh = gates.edited(fresh, ('centre',), centres)
    fresh = gates.edited(fresh, ('scale',), scales)
    fresh = gates.edited(fresh, ('reach',), np.full(len(copies_n), reach))
    return gates.edited(fresh, ('copy',), copies_n.astype(np.float32))
