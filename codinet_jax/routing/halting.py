"""Halting (Graves, arXiv 1603.08983; Figurnov et al., arXiv 1612.02297): how far an image goes into a stage of U units.

Unit i gives its output x_i a score h_i in (0, 1). The image halts at N, the first unit at which Σ_{i≤N} h_i ≥ 1 - ε, or
at the last. What the stage hands on is the mixture Σ_{i<N} h_i x_i + R x_N with the remainder R = 1 - Σ_{i<N} h_i; what
it costs is N + R, the ponder cost, whose gradient to h_i is -1 before N and 0 from there on.

All is kept as the units come, in float32. An image that has halted stands still: every x after it is x_N. So the
weights after N may be put on anything, for they come to R all the same, and the mixture is right wherever an image is
made to halt, earlier or later than by its score.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

EPSILON = 0.01
_LEAST = 1e-6  # of a score or a remainder, before its logarithm is taken


class Halting(NamedTuple):
    """How far B images are in a stage: the mixture so far, the sum of their scores, what that leaves, and units run.

    The sum stops at 1. `remainder_B` and `units_B` no longer change once an image has halted: at the end of the stage
    they are R and N.
    """

    mixture_BxHxWxC: jax.Array
    sum_B: jax.Array
    remainder_B: jax.Array
    units_B: jax.Array


def begun(num_images: int, *shape: int) -> Halting:
    """Before the first score of a stage whose outputs have this shape; its first unit is run by every image."""
    zeros_B = jnp.zeros(num_images)
    return Halting(jnp.zeros((num_images, *shape)), zeros_B, zeros_B + 1, zeros_B + 1)


def scored(before: Halting, x_BxHxWxC: jax.Array, score_B: jax.Array) -> Halting:
    """After a unit that is not the stage's last: its output, and the score h in (0, 1) that it was given."""
    sum_B = jnp.minimum(before.sum_B + score_B, 1)
    weight_Bx1x1x1 = jnp.expand_dims(sum_B - before.sum_B, range(1, x_BxHxWxC.ndim))
    goes_on_B = sum_B < 1 - EPSILON
    return Halting(
        before.mixture_BxHxWxC + weight_Bx1x1x1 * x_BxHxWxC.astype(jnp.float32),
        sum_B,
        jnp.where(goes_on_B, 1 - sum_B, before.remainder_B),
        before.units_B + goes_on_B,
    )


def mixture(after: Halting, x_BxHxWxC: jax.Array) -> jax.Array:
    """What a stage hands on, from its last output, which of an image that has halted is x_N."""
    weight_Bx1x1x1 = jnp.expand_dims(1 - after.sum_B, range(1, x_BxHxWxC.ndim))
    return after.mixture_BxHxWxC + weight_Bx1x1x1 * x_BxHxWxC.astype(jnp.float32)


def ponder_B(after: Halting) -> jax.Array:
    """N + R of every image, in units, from 1 to U + 1."""
    return after.units_B + after.remainder_B


def margin_B(after: Halting) -> jax.Array:
    """How decidedly images go on: the logit of 1 - Σ h less that of ε, positive before N, negative from there on.

    To ask for more than zero is to raise ε. There is no gradient, as there is none of N.
    """
    left_B = jnp.clip(1 - jax.lax.stop_gradient(after.sum_B), _LEAST, 1 - _LEAST)
    return jax.scipy.special.logit(left_B) - jax.scipy.special.logit(jnp.float32(EPSILON))
