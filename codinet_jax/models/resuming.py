"""Resuming as a router: a shallow network answers, and an image that it is unsure of goes on from what it has computed.

The blocks are a deep network's (`architecture.resumed`): first those that the shallow one has too, whose activations
are kept at the end of each stage, and a head; then the other blocks of each stage. These read the kept end of the same
stage and, from the second stage on, what was made of the one before it, joined by 1x1 convolutions:
ReLU(J_s end_s + b_s + D_s down(later_{s-1})), where down takes every second pixel. So nothing is computed twice, and
whoever goes all the way has paid for one deep network and the joins. `joining` makes one of two trained networks.

All later blocks decide alike, by how unsure the first answer is, 1 less its largest probability. Who goes on has the
deep network's answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.models import exits
from codinet_jax.models.architecture import Architecture
from codinet_jax.models.execution import Execution
from codinet_jax.models.exits import EXITS, ExitStart
from codinet_jax.models.router import Router, Stages, pooled, router_logits_Bx2

Carry = tuple[jax.Array, tuple[jax.Array, ...]]  # logit margin [B], and the ends of stages that are still to be resumed


class ResumingStart(ExitStart):
    """No stage has ended, and no image is sure yet; the bias is that of early exits."""

    @nn.compact
    def __call__(self, stem_BxHxWxC: jax.Array, images_BxHxWxC: jax.Array) -> tuple[Carry, Any]:
        margin_B, shared = super().__call__(stem_BxHxWxC, images_BxHxWxC)
        return (margin_B, ()), shared


class ResumingRouter(Router):
    """Hands out what the first answer said."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Carry, shared: Any, k: jax.Array) -> tuple[jax.Array, Carry]:
        del a_BxHxWxC, shared, k
        return router_logits_Bx2(carry[0]), carry


class ResumingEnd(nn.Module):
    """Keeps the end of a stage of the first pass; after the last of them answers; joins what the next stage reads."""

    architecture: Architecture
    stage: int

    @nn.compact
    def __call__(
        self, a_BxHxWxC: jax.Array, carry: Carry, shared: Any, combine: Any
    ) -> tuple[jax.Array, Carry, jax.Array | None]:
        margin, ends = carry
        first_pass, num_stages = self.architecture.first_pass, len(self.architecture.stages)
        if self.stage == num_stages:
            return a_BxHxWxC, carry, None
        logits_BxY = None
        if self.stage <= first_pass:
            ends = (*ends, a_BxHxWxC)
        if self.stage < first_pass:
            return a_BxHxWxC, (margin, ends), None
        if self.stage == first_pass:
            logits_BxY = nn.Dense(self.architecture.num_classes, name='head')(pooled(a_BxHxWxC))
            margin = exits.margin_B(logits_BxY) + shared['bias']
        end, *others = ends
        before = () if self.stage == first_pass else (a_BxHxWxC,)
        return self._joined(end, before, margin, combine), (margin, tuple(others)), logits_BxY

    def _joined(self, end: jax.Array, before: tuple[jax.Array, ...], margin: jax.Array, combine: Any) -> jax.Array:
        """What the next stage reads of who goes on, zeros of others; `before` is what came before, if any."""
        channels = end.shape[-1]
        draw = nn.initializers.lecun_normal()
        kernel = self.param('join', draw, (channels, channels))
        bias = self.param('bias', nn.initializers.zeros, (channels,))
        downs = [self.param('down', draw, (x.shape[-1], channels)) for x in before]

        def run(end: jax.Array, *before: jax.Array) -> jax.Array:
            joined = jnp.tensordot(end, kernel.astype(end.dtype), 1) + bias.astype(end.dtype)[None, None, None]
            for x, down in zip(before, downs, strict=True):
                joined += jnp.tensordot(x[:, ::2, ::2], down.astype(x.dtype), 1)
            return nn.relu(joined)

        return combine(run, lambda end, *_: jnp.zeros_like(end), (end, *before), router_logits_Bx2(margin))


def answer(execution: Execution, heads: Sequence[jax.Array], v_SxB: jax.Array) -> jax.Array:
    """The logits of the first head, or of who goes on of the last."""
    return exits.answer(execution, heads, v_SxB[np.array([0, -1])])


def first_pass_n(architecture: Architecture) -> tuple[bool, ...]:
    """The blocks before the first answer, which every image runs."""
    return exits.first_stages_n(architecture, architecture.first_pass)


def in_order(architecture: Architecture, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that the deep network has of one that resumes, `Architecture.in_order`; of any other all."""
    first_pass = architecture.first_pass
    found = {kind: dict(tree) for kind, tree in variables.items()}
    for tree in found.values():
        for i in range(1, first_pass + 1):
            name, later = f'stage{i}_blocks', tree.pop(f'stage{i + first_pass}_blocks')
            stacks = [tree[name], later] if name in tree else [later]
            tree[name] = jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks)
    return found


def routers_n(architecture: Architecture) -> tuple[int, ...]:
    """C x Y for the first answer, before the first block after it."""
    answer_at = sum(first_pass_n(architecture))
    macs = architecture.out_channels * architecture.num_classes
    return tuple(macs * (k == answer_at) for k in range(architecture.num_blocks))


def joins_n(architecture: Architecture) -> tuple[int, ...]:
    """Of each later stage's first block the 1x1 convolutions that join what it reads."""
    found: list[int] = []
    before = 0  # channels
    for i, stage in enumerate(architecture.stages):
        channels, is_later = stage.block.channels, i >= architecture.first_pass
        macs = is_later * (channels + before) * channels * stage.block.out_size**2
        found += [macs, *[0] * (stage.num_blocks - 1)]
        before = is_later * channels
    return tuple(found)


RESUMING = {
    'resuming': EXITS['exits']._replace(
        router=ResumingRouter,
        start=ResumingStart,
        stages=Stages(lambda stage, a, carry: carry, ResumingEnd, first_pass_n, routers_n, answer, joins_n),
        resumes=True,
    )
}
