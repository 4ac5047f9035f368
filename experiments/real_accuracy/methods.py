"""What each variant does in every step, as numbers."""

import math
from typing import NamedTuple

import numpy as np

from experiments.real_accuracy.gates import Knobs

LEARNT = ('rank', 'rank_codinet', 'rate', 'rate_codinet', 'batch_rate', 'batch_codinet', 'independent', 'late', 'rungs')
VARIANTS = (*LEARNT, 'static', 'pruned', 'random')
UNIFORM = ('batch_rate', 'batch_codinet', 'independent')  # free to find their own rates
ALPHA, BETA = 0.2, 1.0  # the paper's weights of consistency and diversity


class Recipe(NamedTuple):
    """Learning rates and lengths; `last` is the share of steps with frozen routers and fixed thresholds.

    `codinet_weight` is of consistency and diversity together, beside the paper's.
    """

    backbone_rate: float
    router_rate: float
    warmup: float = 0.02
    anneal: float = 0.4
    last: float = 0.13
    rate_weight: float = 1.0
    batch_rate_weight: float = 20.0
    codinet_weight: float = 1.0


def is_ranked(variant: str) -> bool:
    return variant.startswith('rank') or variant == 'late'


def initial_margin(variant: str) -> float:
    """Rank gates are blind to it; others start nearly open."""
    return 0.0 if is_ranked(variant) else 3.0


def schedule(variant: str, recipe: Recipe, num_steps: int, rates_n: np.ndarray) -> Knobs:
    """The knobs of all steps, [S] and [S, n].

    Learning rates fall linearly to 0; run rates fall from 1 to their targets over `anneal` of the steps; noise ends
    half way through the steps that train routers.
    """
    progress_S = np.arange(num_steps) / num_steps
    first = 1 - recipe.last
    is_first_S = (progress_S < first).astype(np.float32)
    is_rungs, is_rank = variant == 'rungs', is_ranked(variant)
    is_learnt = variant in LEARNT and not is_rungs  # its routers learn when all else has
    has_noise = is_learnt and not is_rank
    fall_S = np.minimum(1, (progress_S + 1e-3) / recipe.anneal)
    moves = is_learnt or variant == 'random'
    rates_Sxn = 1 - (fall_S if moves else np.ones(num_steps))[:, None] * (1 - rates_n[None])
    bounds_S = np.where(progress_S < first / 3, np.cos(np.pi / 2 * progress_S / (first / 3)) ** 2, 0.0)
    of_batch = variant in UNIFORM
    num_free = int(np.sum((rates_n > 0) & (rates_n < 1)))
    slope_S = np.minimum(1, (np.arange(num_steps) + 1) / max(1, recipe.warmup * num_steps)) * (1 - progress_S)
    nothing_S = np.zeros(num_steps)
    codinet_S = is_first_S * recipe.codinet_weight * variant.endswith('codinet')
    knobs = Knobs(
        rates_n=rates_Sxn,
        rank=is_first_S * is_rank,
        heed=nothing_S + (variant != 'random'),
        through=is_first_S * is_learnt,
        noise=np.where(progress_S < first / 2, 1.0, 0.0) * has_noise + (variant == 'random' or is_rungs),
        shift=nothing_S,
        rate_weight=is_first_S * recipe.rate_weight * (has_noise and not of_batch),
        batch_rate_weight=is_first_S * recipe.batch_rate_weight * of_batch,
        bounds_weight=is_first_S * of_batch,
        bounds=bounds_S,
        alpha=ALPHA * codinet_S,
        beta=BETA * codinet_S,
        diversity_margin=nothing_S + math.sqrt(num_free) / 2,
        backbone_rate=recipe.backbone_rate * slope_S,
        router_rate=recipe.router_rate * slope_S * is_first_S * is_learnt,
        rung=nothing_S + is_rungs,
    )
    return Knobs(*(np.asarray(knob, np.float32) for knob in knobs))
