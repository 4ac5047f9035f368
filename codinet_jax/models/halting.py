"""Halting as a router (ACT: Graves, arXiv 1603.08983, in residual networks Figurnov et al., arXiv 1612.02297).

A head scores a unit's output, which is what the router of the next block reads: that block runs unless the image has
halted. So a stage's first block always runs, and its last has no score. What a stage hands on is the mixture of its
units' outputs (`routing.halting`), which travels in the carry.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from codinet_jax.models.architecture import Architecture, Block, Stage
from codinet_jax.models.router import Bias, Router, RouterKind, Stages, but_first, pooled, router_logits_Bx2
from codinet_jax.routing import halting
from codinet_jax.routing.halting import Halting

SCORE_BIAS = -3.0  # an untrained score is 0.047

Carry = tuple[Halting, jax.Array]  # and how many of the stage's blocks were asked


class HaltingRouter(Router):
    """Global average pool, Dense(1), sigmoid: the score of what the block before it put out."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Carry, shared: Any, k: jax.Array) -> tuple[jax.Array, Carry]:
        del shared, k
        before, asked = carry
        if begins_stage(self.block):
            after, margin_B = before, jnp.zeros(a_BxHxWxC.shape[0])
        else:
            bias = nn.initializers.constant(SCORE_BIAS)
            score_Bx1 = nn.sigmoid(nn.Dense(1, bias_init=bias, name='halt')(pooled(a_BxHxWxC)))
            after = halting.scored(before, a_BxHxWxC, score_Bx1[:, 0])
            margin_B = halting.margin_B(after)
        outputs_Bx2, after = but_first(asked, router_logits_Bx2(margin_B), after, before)
        return outputs_Bx2, (after, asked + 1)


class StageEnd(nn.Module):
    """The mixture in place of the last output, and what the stage cost each image to ponder."""

    architecture: Architecture
    stage: int

    def __call__(
        self, a_BxHxWxC: jax.Array, carry: Carry, shared: Any, combine: Any
    ) -> tuple[jax.Array, tuple[()], jax.Array]:
        del shared, combine
        after, _ = carry
        return halting.mixture(after, a_BxHxWxC), (), halting.ponder_B(after)


def begin(stage: Stage, a_BxHxWxC: jax.Array, carry: Any) -> Carry:
    """Nothing is scored yet of outputs that have the shape of the stage's last."""
    del carry
    size = stage.block.out_size
    return halting.begun(a_BxHxWxC.shape[0], size, size, stage.block.channels), jnp.int32(0)


def begins_stage(block: Block) -> bool:
    """Whether a block can be but the first of its stage, for it changes the shape; others may be the first as well."""
    return block.shortcut != 'identity'


def firsts_n(architecture: Architecture) -> tuple[bool, ...]:
    """The first blocks of all stages, which every image runs."""
    return tuple(k == 0 for stage in architecture.stages for k in range(stage.num_blocks))


def routers_n(architecture: Architecture) -> tuple[int, ...]:
    """C for the score of the output before each block that is not the first."""
    blocks = zip(architecture.blocks, firsts_n(architecture), strict=True)
    return tuple(0 if is_first else block.in_channels for block, is_first in blocks)


HALTING = {
    'halting': RouterKind(
        HaltingRouter,
        lambda block: block.in_channels,
        # A larger bias is a higher score, and fewer blocks.
        bias=Bias(('halt', 'bias'), is_pair=False, gain=-1.0),
        initial_margin=-SCORE_BIAS,
        stages=Stages(begin, StageEnd, firsts_n, routers_n),
    )
}
INITIAL_RUN_RATE = 1 / (1 + math.exp(SCORE_BIAS))  # the head's own: what an untrained score leaves
