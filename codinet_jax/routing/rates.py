"""Losses of run rates that are off target: of every block, of the whole batch, within bounds.

A run rate is the share of a batch's rows that run a block: the mean of its decisions, whose gradient is whatever theirs
is. Each loss is a float32 scalar; over a sharded batch, under `jit`, the rates are those of the whole batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


def run_rates_n(run_probability_Bxn: jax.Array) -> jax.Array:
    """The mean of every block's v over rows."""
    return jnp.mean(run_probability_Bxn.astype(jnp.float32), axis=0)


def block_rate_loss(rates_n: jax.Array, targets_n: Sequence[float] | jax.Array) -> jax.Array:
    """ConvNet-AIG's: the mean over all n blocks of (target - rate)².

    A block whose target is 1 is left out of the sum, not of the n it is divided by; it is not forced to run.
    """
    targets_n = jnp.asarray(targets_n, jnp.float32)
    return jnp.mean(jnp.where(targets_n < 1, jnp.square(targets_n - rates_n), 0.0))


def batch_rate_loss(rates_n: jax.Array, target: float | jax.Array, *, one_sided: bool = False) -> jax.Array:
    """Herrmann et al.'s: (target - mean rate)², so that the network places its runs itself.

    With `one_sided` only a mean above the target is punished.
    """
    excess = jnp.mean(rates_n) - target
    return jnp.square(jax.nn.relu(excess) if one_sided else excess)


class Bounds(NamedTuple):
    """Between which run rates may lie free of charge, in [0, 1]."""

    low: jax.Array
    high: jax.Array


def closing_bounds(target: float, progress: float | jax.Array, free_after: float) -> Bounds:
    """LAUDNet's: every rate is held to the target at first, and free once a share `free_after` of training is done.

    `progress` is the share of training that is done. Both bounds move along a squared cosine.
    """
    held = jnp.square(jnp.cos(0.5 * jnp.pi * jnp.minimum(1.0, progress / free_after)))
    return Bounds(low=held * target, high=1 - held * (1 - target))


def bounds_loss(rates_n: jax.Array, bounds: Bounds) -> jax.Array:
    """The mean over blocks of the square by which a rate is out of bounds."""
    above_n, below_n = jax.nn.relu(rates_n - bounds.high), jax.nn.relu(bounds.low - rates_n)
    return jnp.mean(jnp.square(above_n) + jnp.square(below_n))


def falling(first: float, last: float, progress: float | jax.Array) -> jax.Array:
    """From `first` to `last`, both above 0, by equal factors; `progress` is the share of the way in [0, 1]."""
    return jnp.float32(first) * jnp.float32(last / first) ** progress
