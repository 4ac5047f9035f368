"""The network written out in numpy: one image, plain loops, double precision, every block really run or skipped."""

import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from codinet_jax.models.architecture import Architecture, Block
from codinet_jax.models.network import RoutedResNet
from codinet_jax.models.random_router import INITIAL_MARGIN, PACE, PIXEL_SCALE, SHARPNESS
from codinet_jax.models.routers import RECURRENT_FEATURES

Tree = Any


def np_conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Padded by half the kernel on every side, as PyTorch's `padding=k // 2`."""
    k, size = len(kernel), -(-len(x) // stride)
    padded = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    end = stride * (size - 1) + 1
    return sum(padded[i : i + end : stride, j : j + end : stride] @ kernel[i, j] for i in range(k) for j in range(k))


def np_norm(x: np.ndarray, params: Tree, stats: Tree) -> np.ndarray:
    return (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5) * params['scale'] + params['bias']


def np_relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def np_dense(x: np.ndarray, params: Tree) -> np.ndarray:
    return x @ params['kernel'] + params.get('bias', 0)


def np_sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def np_stem(arch: Architecture, params: Tree, stats: Tree, image: np.ndarray) -> np.ndarray:
    x = np_conv(image, params['stem_conv']['kernel'], 1 if arch.stem == 'cifar' else 2)
    x = np_relu(np_norm(x, params['stem_norm'], stats['stem_norm']))
    if arch.stem == 'cifar':
        return x
    size = -(-len(x) // 2)
    padded = np.pad(x, ((1, 2), (1, 2), (0, 0)), constant_values=-np.inf)
    return np.array(
        [[padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(size)] for i in range(size)]
    )


def np_residual(block: Block, params: Tree, stats: Tree, x: np.ndarray) -> np.ndarray:
    for i, conv in enumerate(block.convs, start=1):
        x = np_norm(np_conv(x, params[f'conv{i}']['kernel'], conv.stride), params[f'norm{i}'], stats[f'norm{i}'])
        x = np_relu(x) if i < len(block.convs) else x
    return x


def np_shortcut(block: Block, params: Tree, stats: Tree, x: np.ndarray) -> np.ndarray:
    if block.shortcut == 'identity':
        return x
    if block.shortcut == 'projection':
        x = np_conv(x, params['shortcut']['conv']['kernel'], block.stride)
        return np_norm(x, params['shortcut']['norm'], stats['shortcut']['norm'])
    wide = np.zeros((block.out_size, block.out_size, block.channels))
    first = (block.channels - block.in_channels) // 2
    wide[:, :, first : first + block.in_channels] = x[:: block.stride, :: block.stride]
    return wide


def np_lstm(params: Tree, memory: Any, x: np.ndarray) -> Any:
    c, h = memory
    gate = {name: np_dense(x, params[f'i{name}']) + np_dense(h, params[f'h{name}']) for name in 'ifgo'}
    c = np_sigmoid(gate['f']) * c + np_sigmoid(gate['i']) * np.tanh(gate['g'])
    return c, np_sigmoid(gate['o']) * np.tanh(c)


def np_scrambled(bits: int) -> int:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = (bits ^ bits >> shift) * factor % 2**32
    return bits


def np_memory(router: str | None, image: np.ndarray) -> Any:
    """What an image's first router remembers."""
    if router != 'random':
        return np.zeros(RECURRENT_FEATURES), np.zeros(RECURRENT_FEATURES)
    steps = np.rint(np.float32(image) * np.float32(PIXEL_SCALE)).ravel()
    return np_scrambled(sum(int(step) * (np_scrambled(i) | 1) for i, step in enumerate(steps)) % 2**32)


def np_router(router: str, params: Tree, shared: Tree, x: np.ndarray, memory: Any) -> tuple[np.ndarray, Any]:
    if router == 'linear':
        return np_dense(np_relu(np_dense(x.mean((0, 1)), params['hidden'])), params['decide']), memory
    if router == 'conv':
        x = np_relu(np_conv(x, params['conv']['kernel'], 2) + params['conv']['bias'])
        return np_dense(x.mean((0, 1)), params['decide']), memory
    if router == 'random':
        memory = (memory + 0x9E3779B9) % 2**32
        share = (np_scrambled(memory) // 2**20 + 0.5) / 2**12
        margin = INITIAL_MARGIN + PACE * shared['drift']
        return np.array([0, SHARPNESS * (margin + math.log(share / (1 - share)))]), memory
    memory = np_lstm(shared['cell'], memory, np_relu(np_dense(x.mean((0, 1)), params['project'])))
    return np_dense(memory[1], shared['decide']), memory


def in_order(arch: Architecture, tree: Tree) -> Iterator[Tree]:
    """The sub-tree of each of the n blocks."""
    for i, stage in enumerate(arch.stages, start=1):
        if stage.transition:
            yield tree[f'stage{i}_transition']
        for j in range(stage.repeats):
            yield jax.tree.map(operator.itemgetter(j), tree[f'stage{i}_blocks'])


class Followed(NamedTuple):
    logits: np.ndarray
    router_logits: np.ndarray
    decisions: np.ndarray


def follow(net: RoutedResNet, variables: Tree, image: jax.Array, decisions: np.ndarray | None = None) -> Followed:
    """One image through the network: at each block its router decides, unless `decisions` says what to run."""
    arch, variables = net.architecture, jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    params, stats = variables['params'], variables['batch_stats']
    x = np_stem(arch, params, stats, np.asarray(image, np.float64))
    memory = np_memory(net.router, np.asarray(image))
    router_logits, taken = [], []
    blocks = zip(arch.blocks, in_order(arch, params), in_order(arch, stats), strict=True)
    for k, (block, block_params, block_stats) in enumerate(blocks):
        scores, memory = np_router(net.router, block_params.get('router'), params.get('router_start'), x, memory)
        run = scores[1] >= scores[0] if decisions is None else decisions[k]
        shortcut = np_shortcut(block, block_params, block_stats, x)
        if run:
            x = np_relu(shortcut + np_residual(block, block_params['residual'], block_stats['residual'], x))
        elif block.shortcut != 'identity':
            x = np_relu(shortcut)
        router_logits.append(scores)
        taken.append(run)
    return Followed(np_dense(x.mean((0, 1)), params['head']), np.array(router_logits), np.array(taken))


def follow_all(net: RoutedResNet, variables: Tree, images_BxHxWxC: jax.Array, **keywords: Any) -> Followed:
    return Followed(*map(np.array, zip(*(follow(net, variables, x, **keywords) for x in images_BxHxWxC), strict=True)))
