"""Residual blocks. Convolution and norm are passed in, so that one wiring serves training and folded inference."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from codinet_jax.models.architecture import Architecture, Block

ModuleDef = Callable[..., Any]


def stem(architecture: Architecture, images_BxHxWxC: jax.Array, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """What comes before the first block, as `stem_conv` and `stem_norm` of the module that calls it."""
    kernel, stride = (3, 1) if architecture.stem == 'cifar' else (7, 2)
    features = architecture.stem_channels
    x = conv(features, (kernel, kernel), strides=stride, padding=kernel // 2, name='stem_conv')(images_BxHxWxC)
    x = nn.relu(norm(name='stem_norm')(x))
    if architecture.stem == 'imagenet':
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return x


class Residual(nn.Module):
    """The block's convolutions, each followed by its norm, with a ReLU between them: F_k before its last ReLU."""

    block: Block
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array) -> jax.Array:
        x = a_BxHxWxC
        for i, conv in enumerate(self.block.convs, start=1):
            # Explicit padding: 'SAME' would pad a strided convolution on one side only, unlike every published ResNet.
            x = self.conv(
                conv.features,
                (conv.kernel, conv.kernel),
                strides=conv.stride,
                padding=conv.kernel // 2,
                name=f'conv{i}',
            )(x)
            x = self.norm(name=f'norm{i}')(x)
            if i < len(self.block.convs):
                x = nn.relu(x)
        return x


class Shortcut(nn.Module):
    """What is added to the residual: the input itself, or the input brought to the output's shape."""

    block: Block
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array) -> jax.Array:
        block, stride = self.block, self.block.stride
        if block.shortcut == 'identity':
            return a_BxHxWxC
        if block.shortcut == 'projection':
            x = self.conv(block.channels, (1, 1), strides=stride, padding=0, name='conv')(a_BxHxWxC)
            return self.norm(name='norm')(x)
        padding = block.channels - block.in_channels
        subsampled = a_BxHxWxC[:, ::stride, ::stride]
        return jnp.pad(subsampled, ((0, 0), (0, 0), (0, 0), (padding // 2, padding - padding // 2)))
