"""Two trained networks made one that resumes: the shallow one answers, the later blocks of the deep one go on.

What such a network is, is told in `resuming`. Its later blocks were trained to read what the deep network had computed
where they begin, and now read what 1x1 convolutions make of the ends of the shallow network's stages. These are fitted
to that, stage by stage, by least squares over the pixels of some images (stitching, arXiv 2106.07682). Nothing else is
changed: the first answer is the shallow network's.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.models.architecture import Architecture, Block, Stage
from codinet_jax.models.blocks import stem
from codinet_jax.models.execution import masked
from codinet_jax.models.network import EPSILON, GatedBlock

CONV, NORM = partial(nn.Conv, use_bias=False), partial(nn.BatchNorm, use_running_average=True, epsilon=EPSILON)


def joined(
    architecture: Architecture,
    shallow: Mapping[str, Any],
    deep: Mapping[str, Any],
    batches: Sequence[jax.Array],
) -> dict[str, Any]:
    """The variables of a network that resumes, all but those of `router_start`.

    Args:
      architecture: `architecture.resumed` of the two.
      shallow: the variables of the network that answers first.
      deep: those of the one that goes on.
      batches: the images to fit on, normalised, float32 [B, H, W, C].
    """
    with jax.default_matmul_precision('highest'):
        return _joined(architecture, shallow, deep, batches)


def _joined(architecture: Architecture, shallow: Any, deep: Any, batches: Sequence[jax.Array]) -> dict[str, Any]:
    first, whole = architecture.answering_first.stages, architecture.in_order.stages
    found = {kind: dict(tree) for kind, tree in shallow.items()}
    ends, computed = ([_stem(architecture, own, images) for images in batches] for own in (shallow, deep))
    later: list[Any] = [None] * len(batches)
    for i, (stage, deep_stage) in enumerate(zip(first, whole, strict=True), start=1):
        ends = [_first_blocks(stage, i, shallow, stage.repeats, a) for a in ends]
        computed = [_first_blocks(stage, i, deep, stage.repeats, a) for a in computed]
        known = [_known(*pair) for pair in zip(ends, later, strict=True)]
        kernel_CxD = _fitted(zip(known, computed, strict=True))
        channels = stage.block.channels
        join, bias, down = np.split(kernel_CxD, [channels, channels + 1])
        found['params'][f'stage{len(first) + i - 1}_end'] = {'join': join, 'bias': bias[0]} | (
            {'down': down} if len(down) else {}
        )
        others = _stack(deep, i, slice(stage.repeats, None))
        for kind, tree in others.items():
            found[kind][f'stage{len(first) + i}_blocks'] = tree
        computed = [_through(deep_stage.block, others, a) for a in computed]
        later = [_through(deep_stage.block, others, jax.nn.relu(jnp.tensordot(x, kernel_CxD, 1))) for x in known]
    found['params'][f'stage{len(first)}_end']['head'] = shallow['params']['head']
    found['params']['head'] = deep['params']['head']
    return found


def _known(end_BxHxWxC: jax.Array, later_BxHxWxC: jax.Array | None) -> jax.Array:
    """What a join reads, beside it ones, for the bias."""
    before = [] if later_BxHxWxC is None else [later_BxHxWxC[:, ::2, ::2]]
    return jnp.concatenate([end_BxHxWxC, jnp.ones_like(end_BxHxWxC[..., :1]), *before], axis=-1)


def _fitted(pairs: Iterable[tuple[jax.Array, jax.Array]]) -> np.ndarray:
    """The kernel [C, D] that makes of known pixels [B, H, W, C] most nearly the wanted ones [B, H, W, D].

    By the normal equations, so that no more than a batch is in memory in double precision; of channels that are never
    on, as some are after a ReLU, the least kernel.
    """
    square_CxC: Any = 0.0
    cross_CxD: Any = 0.0
    for pair in pairs:
        known_PxC, wanted_PxD = (np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in pair)
        square_CxC, cross_CxD = square_CxC + known_PxC.T @ known_PxC, cross_CxD + known_PxC.T @ wanted_PxD
    kernel_CxD: np.ndarray = np.linalg.lstsq(square_CxC, cross_CxD)[0].astype(np.float32)
    return kernel_CxD


class _Stem(nn.Module):
    architecture: Architecture

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array) -> jax.Array:
        return stem(self.architecture, images_BxHxWxC, CONV, NORM)


@partial(jax.jit, static_argnums=0)
def _stem(architecture: Architecture, variables: Any, images_BxHxWxC: jax.Array) -> Any:
    return _Stem(architecture).apply(variables, images_BxHxWxC)


def _first_blocks(stage: Stage, i: int, variables: Any, repeats: int, a_BxHxWxC: jax.Array) -> jax.Array:
    """The i-th stage up to its so many equal blocks."""
    if stage.transition:
        transition = {kind: tree[f'stage{i}_transition'] for kind, tree in variables.items()}
        a_BxHxWxC = _block(stage.transition, transition, a_BxHxWxC)
    return _through(stage.block, _stack(variables, i, slice(repeats)), a_BxHxWxC) if repeats else a_BxHxWxC


def _stack(variables: Any, i: int, rows: slice) -> Any:
    """The variables of some of the i-th stage's equal blocks."""
    return {kind: jax.tree.map(lambda w: w[rows], tree[f'stage{i}_blocks']) for kind, tree in variables.items()}


@partial(jax.jit, static_argnums=0)
def _block(block: Block, own: Any, a_BxHxWxC: jax.Array) -> jax.Array:
    gated: Any = GatedBlock(block, None, masked(), CONV, NORM, NORM, 0)
    made_BxHxWxC: jax.Array = gated.apply(own, (a_BxHxWxC, ()), None, (), None, None)[0][0]
    return made_BxHxWxC


def _through(block: Block, stack: Any, a_BxHxWxC: jax.Array) -> jax.Array:
    """What equal blocks, their variables stacked, make of it one after another."""
    for k in range(len(jax.tree.leaves(stack)[0])):
        a_BxHxWxC = _block(block, jax.tree.map(lambda w, k=k: w[k], stack), a_BxHxWxC)
    return a_BxHxWxC
