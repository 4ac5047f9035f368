"""Early exits as a router: a linear head after every stage but the last, and an image that one of them is sure of goes
no further (BranchyNet, arXiv 1709.01686; MSDNet, arXiv 1703.09844; the linear exits of DG-Net).

All blocks of a stage decide alike, by how unsure the least unsure head before it is, 1 less its largest probability:
so routes are whole stages, and who has left stays away whatever the threshold. The answer is that of the last head
reached.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from codinet_jax.models.architecture import Architecture
from codinet_jax.models.execution import Execution
from codinet_jax.models.router import FORCED_MARGIN, Bias, Router, RouterKind, Stages, pooled, router_logits_Bx2


class ExitStart(nn.Module):
    """No image is sure yet, and `bias`, which all exits share: at zero an image leaves where p is above a half."""

    @nn.compact
    def __call__(self, stem_BxHxWxC: jax.Array, images_BxHxWxC: jax.Array) -> tuple[Any, Any]:
        del images_BxHxWxC
        bias = self.param('bias', nn.initializers.zeros, ())
        return jnp.full(stem_BxHxWxC.shape[0], FORCED_MARGIN), {'bias': bias}


class ExitRouter(Router):
    """Hands out what the exits before said."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: jax.Array, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del a_BxHxWxC, shared, k
        return router_logits_Bx2(carry), carry


class Exit(nn.Module):
    """Global average pool, Dense(classes); none after the last stage, where the network's head is."""

    architecture: Architecture
    stage: int

    @nn.compact
    def __call__(
        self, a_BxHxWxC: jax.Array, carry: jax.Array, shared: Any, combine: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        del combine
        if self.stage == len(self.architecture.stages):
            return a_BxHxWxC, carry, None
        logits_BxY = nn.Dense(self.architecture.num_classes, name='head')(pooled(a_BxHxWxC))
        return a_BxHxWxC, jnp.minimum(carry, margin_B(logits_BxY) + shared['bias']), logits_BxY


def margin_B(logits_BxY: jax.Array) -> jax.Array:
    """The logit of 1 - max p; without a gradient, for a decision to leave has none."""
    logits_BxY = jax.lax.stop_gradient(logits_BxY)
    is_likeliest_BxY = jax.nn.one_hot(jnp.argmax(logits_BxY, axis=-1), logits_BxY.shape[-1], dtype=bool)
    # From the other classes, for of a p near one float32 leaves nothing.
    others_B = jax.nn.logsumexp(jnp.where(is_likeliest_BxY, -jnp.inf, logits_BxY), axis=-1)
    return others_B - jnp.max(logits_BxY, axis=-1)


def answer(execution: Execution, heads: Sequence[jax.Array], v_SxB: jax.Array) -> jax.Array:
    """The logits of the last head that an image reached: of the network's own head those who ran the last stage."""
    first, *others = heads
    chosen_BxY = first
    for reached_BxY, v_B in zip(others, v_SxB[1:], strict=True):
        chosen_BxY = execution.combine(lambda new, _: new, lambda _, old: old, (reached_BxY, chosen_BxY), v_B)
    return chosen_BxY


def first_stages_n(architecture: Architecture, num_stages: int = 1) -> tuple[bool, ...]:
    """The blocks of so many stages, those before the first exit, which every image runs."""
    return tuple(i < num_stages for i, stage in enumerate(architecture.stages) for _ in range(stage.num_blocks))


def routers_n(architecture: Architecture) -> tuple[int, ...]:
    """C x Y for the exit before each stage's first block; later exits are counted of every image, as routers are."""
    return tuple(
        block.in_channels * architecture.num_classes if i and not k else 0
        for i, stage in enumerate(architecture.stages)
        for k, block in enumerate(([stage.transition] if stage.transition else []) + [stage.block] * stage.repeats)
    )


EXITS = {
    'exits': RouterKind(
        ExitRouter,
        lambda block: 0,
        start=ExitStart,
        bias=Bias(('bias',), is_pair=False),
        stages=Stages(lambda stage, a, carry: carry, Exit, first_stages_n, routers_n, answer),
    )
}
