"""A shallow network that answers, and goes on where it is unsure, from what it has computed: nothing is done twice.

It is a trained shallow ResNet, whole, and of a trained deep one the later blocks of each stage. They continue the
shallow one's stages: the activations at the end of each of these, and of the stage before it as the later blocks left
them, are joined by 1x1 convolutions to what the later blocks are used to (stitching, arXiv 2106.07682), and the deep
one's head answers. Blocks, parameters and MACs together are those of the deep network, but for the joins.
An image that goes on costs the rest of the deep network more; in a cascade of two networks it costs the whole of it.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.kernels import cpu_convolution
from codinet_jax.models import execution
from codinet_jax.models.architecture import Architecture, Block
from codinet_jax.models.blocks import ModuleDef, Residual, Shortcut, stem
from codinet_jax.models.cost import cost_table
from codinet_jax.models.network import EPSILON, GatedBlock
from experiments.real_accuracy import gates, images, networks, training


class Resumed(nn.Module):
    """Both answers, logits [B, Y], of normalised images. The shallow network's parameters are called as its own."""

    shallow: Architecture
    deep: Architecture
    dtype: Any = jnp.float32
    convolution: Any = jax.lax.conv_general_dilated

    @property
    def later_blocks(self) -> list[int]:
        """Of each stage, how many of the deep network's come after those of the shallow one."""
        stages = zip(self.deep.stages, self.shallow.stages, strict=True)
        return [more.num_blocks - stage.num_blocks for more, stage in stages]

    @property
    def macs(self) -> tuple[int, int]:
        """Of the shallow network, and what an image costs besides that goes on."""
        blocks = [stage.block for stage in self.deep.stages]
        later = sum(
            repeats * sum(conv.kernel**2 * block.channels * conv.features * block.out_size**2 for conv in block.convs)
            for block, repeats in zip(blocks, self.later_blocks, strict=True)
        )
        joins = sum(block.channels**2 * block.out_size**2 for block in blocks)
        downs = sum(a.channels * b.channels * b.out_size**2 for a, b in itertools.pairwise(blocks))
        head = self.deep.out_channels * self.deep.num_classes
        return cost_table(self.shallow, None).static_macs, later + joins + downs + head

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        own: dict[str, Any] = {'dtype': self.dtype, 'conv_general_dilated': self.convolution}
        conv: ModuleDef = partial(nn.Conv, use_bias=False, **own)
        norm: ModuleDef = partial(nn.BatchNorm, not train, momentum=0.9, epsilon=EPSILON, dtype=self.dtype)

        def run(a: jax.Array, block: Block, repeats: int, name: str) -> jax.Array:
            settings: dict[str, Any] = {'router': None, 'execution': execution.masked(), 'conv': conv, 'norm': norm}
            settings |= {'router_norm': None, 'first': 0, 'name': name}
            if not repeats:
                return GatedBlock(block, **settings)((a, ()), None, (), None, None)[0][0]
            stack = nn.scan(
                GatedBlock,
                variable_axes={'params': 0, 'batch_stats': 0},
                split_rngs={'params': True},
                in_axes=(nn.broadcast,) * 4,
                length=repeats,
                unroll=repeats if train else 1,
                check_constancy_invariants=False,
            )
            return stack(block, **settings)((a, ()), None, (), None, None)[0][0]

        def answer(a: jax.Array, name: str) -> jax.Array:
            return nn.Dense(self.deep.num_classes, name=name)(jnp.mean(a, axis=(1, 2), dtype=jnp.float32))

        a = stem(self.shallow, images_BxHxWxC.astype(self.dtype), conv, norm)
        ends = []
        for i, stage in enumerate(self.shallow.stages, start=1):
            if stage.transition:
                a = run(a, stage.transition, 0, f'stage{i}_transition')
            a = run(a, stage.block, stage.repeats, f'stage{i}_blocks')
            ends.append(a)
        first_BxY = answer(a, 'head')

        later: Any = None
        for i, (stage, repeats) in enumerate(zip(self.deep.stages, self.later_blocks, strict=True), start=1):
            joined = conv(stage.block.channels, (1, 1), use_bias=True, name=f'join{i}')(ends[i - 1])
            if later is not None:
                joined += conv(stage.block.channels, (1, 1), strides=2, name=f'down{i}')(later)
            later = run(nn.relu(joined), stage.block, repeats, f'later{i}_blocks')
        return first_BxY, answer(later, 'later_head')


def begin(shallow: networks.Start, deep: networks.Start, some: images.Images) -> Any:
    """Variables of both, joined by least squares over the pixels of some images: to what the deep network has computed
    where its later blocks begin, from what there is in its place."""
    inputs = images.normalise(jnp.asarray(some.images_NxHxWxC))
    first = [stage.num_blocks for stage in shallow.architecture.stages]
    ends, wanted = _activations(shallow, inputs, first), _activations(deep, inputs, first)
    params, batch_stats = dict(shallow.variables['params']), dict(shallow.variables['batch_stats'])
    more = Resumed(shallow.architecture, deep.architecture).later_blocks
    later: Any = None
    for i, (stage, repeats) in enumerate(zip(deep.architecture.stages, more, strict=True), start=1):
        end = ends[i - 1]
        known = [end, jnp.ones_like(end[..., :1])] + ([] if later is None else [later[:, ::2, ::2]])
        known_NxHxWxC = jnp.concatenate(known, axis=-1)
        kernel_CxD = _least_squares(known_NxHxWxC, wanted[i - 1])
        at, bias, down = np.split(kernel_CxD, [end.shape[-1], end.shape[-1] + 1])
        params[f'join{i}'] = {'kernel': at[None, None], 'bias': bias[0]}
        if len(down):
            params[f'down{i}'] = {'kernel': down[None, None]}
        stack = {name: tree[f'stage{i}_blocks'] for name, tree in deep.variables.items()}
        for name, variables in (('params', params), ('batch_stats', batch_stats)):
            variables[f'later{i}_blocks'] = jax.tree.map(lambda w, repeats=repeats: w[-repeats:], stack[name])
        later = _through(stage.block, stack, slice(-repeats, None), jax.nn.relu(known_NxHxWxC @ kernel_CxD))
    return {'params': params | {'later_head': deep.variables['params']['head']}, 'batch_stats': batch_stats}


def _least_squares(known_NxHxWxC: jax.Array, wanted_NxHxWxD: jax.Array) -> np.ndarray:
    known, wanted = (np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (known_NxHxWxC, wanted_NxHxWxD))
    return np.linalg.lstsq(known, wanted)[0].astype(np.float32)


def _activations(network: networks.Start, inputs: jax.Array, after: Sequence[int]) -> list[jax.Array]:
    """Of each stage, what comes out of its first so many blocks."""
    a: Any = _Stem(network.architecture).apply(network.variables, inputs)
    found = []
    for i, (stage, num_blocks) in enumerate(zip(network.architecture.stages, after, strict=True), start=1):
        if stage.transition:
            transition = {name: tree[f'stage{i}_transition'] for name, tree in network.variables.items()}
            a = _block(stage.transition, transition, a)
        stack = {name: tree[f'stage{i}_blocks'] for name, tree in network.variables.items()}
        place = num_blocks - (stage.transition is not None)
        found.append(_through(stage.block, stack, slice(place), a))
        a = _through(stage.block, stack, slice(place, None), found[-1])
    return found


CONV, NORM = partial(nn.Conv, use_bias=False), partial(nn.BatchNorm, True, epsilon=EPSILON)


class _Stem(nn.Module):
    architecture: Architecture

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array) -> jax.Array:
        return stem(self.architecture, images_BxHxWxC, CONV, NORM)


def _block(block: Block, variables: Any, a_BxHxWxC: jax.Array) -> jax.Array:
    residual: Any = {name: tree['residual'] for name, tree in variables.items()}
    shortcut_BxHxWxC: Any = Shortcut(block, CONV, NORM).apply({}, a_BxHxWxC)
    return nn.relu(shortcut_BxHxWxC + Residual(block, CONV, NORM).apply(residual, a_BxHxWxC))


def _through(block: Block, stack: Any, rows: slice, a_BxHxWxC: jax.Array) -> jax.Array:
    for k in range(len(jax.tree.leaves(stack)[0]))[rows]:
        a_BxHxWxC = _block(block, jax.tree.map(lambda w, k=k: w[k], stack), a_BxHxWxC)
    return a_BxHxWxC


def answer(model: Resumed) -> training.Answer:
    """Both answers to every view, first those of the shallow network, as what trains them asks them."""
    model = model.clone(dtype=networks.train_dtype())
    if jax.default_backend() == 'cpu':
        model = model.clone(convolution=cpu_convolution.conv_general_dilated)

    def answered(
        params: Any, batch_stats: Any, views: jax.Array, knobs: gates.Knobs, key: jax.Array
    ) -> training.Answered:
        del knobs, key
        output: Any
        output, mutated = model.apply(
            {'params': params, 'batch_stats': batch_stats}, views, train=True, mutable=['batch_stats']
        )
        return training.Answered(jnp.concatenate(output), mutated['batch_stats'], jnp.zeros(()), jnp.ones(()))

    return answered
