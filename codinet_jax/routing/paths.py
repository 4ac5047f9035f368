"""What a set of decisions says: how many routes, how evenly used, how long, how steady (section 4.4; Tables 5 and 8).

Decisions are boolean, true for a block that is run. Every function works under `jit` and outside it; those about
distinct routes sort the rows, and cost so little that the set may be a batch or a whole test set.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy


@jax.jit
def route_counts_B(decisions_Bxn: jax.Array) -> jax.Array:
    """How many rows follow each distinct route, in no meaningful order: int32, sums to B, padded with zeros to B."""
    # `jnp.unique` says the same, and takes more than twice as long to trace and compile, once in each training program.
    words_BxW = _words_BxW(decisions_Bxn)
    words_WxB = jax.lax.sort(tuple(words_BxW.T), num_keys=words_BxW.shape[1])
    starts_route_B = functools.reduce(
        jnp.logical_or, (jnp.diff(words_B, prepend=~words_B[:1]) != 0 for words_B in words_WxB)
    )
    return jnp.bincount(jnp.cumsum(starts_route_B) - 1, length=len(decisions_Bxn))


@jax.jit
def num_paths(decisions_Bxn: jax.Array) -> jax.Array:
    """#Path of Table 8: the number of distinct routes, an int32 from 1 to B."""
    return jnp.count_nonzero(route_counts_B(decisions_Bxn))


@jax.jit
def route_entropy(decisions_Bxn: jax.Array) -> jax.Array:
    """Entropy of the routes in bits, from 0 (one route for all) to log2(B); 2^entropy is how many are really in use."""
    B, counts_B = jnp.float32(len(decisions_Bxn)), route_counts_B(decisions_Bxn).astype(jnp.float32)
    # Not the sum of -p log p: this is exactly zero when all rows share a route.
    return (xlogy(B, B) - jnp.sum(xlogy(counts_B, counts_B))) / B / jnp.log(2.0)


def coverage(decisions_Bxn: jax.Array, share: float) -> jax.Array:
    """How few routes hold at least that share of the rows, an int32 from 1 to #Path; the most used are taken first."""
    # In Python's numbers, which count more rows than float32 can; 0.07 of 100 rows is 7, not a hair above it.
    return _num_to_hold(decisions_Bxn, math.ceil(share * len(decisions_Bxn) - 1e-6))


@jax.jit
def _num_to_hold(decisions_Bxn: jax.Array, rows: jax.Array | int) -> jax.Array:
    held_B = jnp.cumsum(jnp.sort(route_counts_B(decisions_Bxn), descending=True))
    return 1 + jnp.count_nonzero(held_B < rows)


def run_rates_n(decisions_Bxn: jax.Array) -> jax.Array:
    """The share of rows that run each block, in [0, 1]: all zeros and ones when routing has collapsed."""
    return jnp.mean(decisions_Bxn, axis=0, dtype=jnp.float32)


def mean_path_length(decisions_Bxn: jax.Array) -> jax.Array:
    """K of Tables 5, 6 and 8: the mean number of blocks run, in [0, n]."""
    return jnp.sum(run_rates_n(decisions_Bxn))


def agreement(decisions_LxMxn: jax.Array) -> jax.Array:
    """The share of further views, over all images, that follow exactly the route of their image's first view (4.4.1).

    In [0, 1]; 1 when there is but one view.
    """
    if decisions_LxMxn.shape[1] == 1:
        return jnp.ones(())
    same_LxM = jnp.all(decisions_LxMxn[:, 1:] == decisions_LxMxn[:, :1], axis=-1)
    return jnp.mean(same_LxM, dtype=jnp.float32)


def distances_B(decisions_Bxn: jax.Array, others_Bxn: jax.Array) -> jax.Array:
    """Hamming distance of every row's route to its counterpart: the blocks on which they part, int32 in [0, n]."""
    return jnp.count_nonzero(decisions_Bxn != others_Bxn, axis=-1)


def divergence_B(log_p_BxY: jax.Array, log_q_BxY: jax.Array) -> jax.Array:
    """KL(p || q) in nats of every row's class probabilities, given their logarithms (Fig. 10); 0 where equal."""
    p_BxY = jnp.exp(log_p_BxY)
    # A class of no probability adds nothing, however impossible it is to q.
    terms_BxY = jnp.where(p_BxY > 0, p_BxY * (log_p_BxY - log_q_BxY), 0.0)
    return jnp.maximum(jnp.sum(terms_BxY, axis=-1), 0.0)


def _words_BxW(decisions_Bxn: jax.Array) -> jax.Array:
    """Each route as W = ceil(n / 32) integers: a sort over two columns rather than 54."""
    B, n = decisions_Bxn.shape
    bits_BxWx32 = jnp.pad(decisions_Bxn, ((0, 0), (0, -n % 32))).reshape(B, -1, 32).astype(jnp.uint32)
    return jnp.sum(bits_BxWx32 << jnp.arange(32, dtype=jnp.uint32)[None, None, :], axis=-1, dtype=jnp.uint32)
