"""A trained shallow network that goes on, where it is unsure, with the later blocks of a trained deep one.

What a network is that resumes is told in `models.resuming`. Here one is begun: of the deep network later blocks read
what 1x1 convolutions make of the ends of the shallow one's stages, and these are fitted, stage by stage, to what the
deep network has computed where its later blocks begin (stitching, arXiv 2106.07682).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.kernels import cpu_convolution
from codinet_jax.models import execution
from codinet_jax.models.architecture import Architecture, Block, resumed
from codinet_jax.models.blocks import Residual, Shortcut, stem
from codinet_jax.models.network import EPSILON, RoutedResNet
from experiments.real_accuracy import gates, images, networks, training

UNSURE = 0.1  # an image goes on, unless told otherwise, whose likeliest class has less than 90 %
CONV, NORM = partial(nn.Conv, use_bias=False), partial(nn.BatchNorm, True, epsilon=EPSILON)


def network(shallow: Architecture, deep: Architecture) -> RoutedResNet:
    """The two as one, which `begin` gives variables."""
    return RoutedResNet(resumed(shallow, deep), 'resuming')


def begin(shallow: networks.Start, deep: networks.Start, some: images.Images) -> Any:
    """Variables of `network`, joined by least squares over the pixels of some images."""
    inputs = images.normalise(jnp.asarray(some.images_NxHxWxC))
    first = shallow.architecture.stages
    num_blocks = [stage.num_blocks for stage in first]
    ends, wanted = (_activations(network, inputs, num_blocks) for network in (shallow, deep))
    params, batch_stats = dict(shallow.variables['params']), dict(shallow.variables['batch_stats'])
    later: Any = None
    for i, (end, stage) in enumerate(zip(ends, deep.architecture.stages, strict=True)):
        known = [end, jnp.ones_like(end[..., :1])] + ([] if later is None else [later[:, ::2, ::2]])
        known_NxHxWxC = jnp.concatenate(known, axis=-1)
        kernel_CxD = _least_squares(known_NxHxWxC, wanted[i])
        join, bias, down = np.split(kernel_CxD, [end.shape[-1], end.shape[-1] + 1])
        params[f'stage{len(first) + i}_end'] = {'join': join, 'bias': bias[0]} | ({'down': down} if len(down) else {})
        stack = {name: tree[f'stage{i + 1}_blocks'] for name, tree in deep.variables.items()}
        repeats = stage.num_blocks - num_blocks[i]
        for name, variables in (('params', params), ('batch_stats', batch_stats)):
            variables[f'stage{len(first) + i + 1}_blocks'] = jax.tree.map(lambda w, n=repeats: w[-n:], stack[name])
        later = _through(
            stage.block, stack, slice(-repeats, None), jax.nn.relu(jnp.tensordot(known_NxHxWxC, kernel_CxD, 1))
        )
    params[f'stage{len(first)}_end']['head'] = params['head']
    params |= {'head': deep.variables['params']['head'], 'router_start': {'bias': np.float32(np.log(1 / UNSURE - 1))}}
    return {'params': params, 'batch_stats': batch_stats}


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


def answer(model: RoutedResNet) -> training.Answer:
    """Both answers to every view, first those of the shallow network, as what trains them asks them."""
    model = model.clone(dtype=networks.train_dtype(), unroll=model.architecture.num_blocks)
    if jax.default_backend() == 'cpu':
        model = model.clone(convolution=cpu_convolution.conv_general_dilated)

    def answered(
        params: Any, batch_stats: Any, views: jax.Array, knobs: gates.Knobs, key: jax.Array
    ) -> training.Answered:
        del knobs, key
        variables = {'params': params, 'batch_stats': batch_stats}
        output: Any
        output, mutated = model.apply(variables, views, execution.all_run(), train=True, mutable=['batch_stats'])
        heads_BxY = jnp.concatenate(output.of_stages)
        return training.Answered(heads_BxY, mutated['batch_stats'], jnp.zeros(()), jnp.ones(()))

    return answered
