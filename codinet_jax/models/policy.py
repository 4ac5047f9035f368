"""A router of global reach: a small network that sees the image once and decides all blocks before the first one.

It is BlockDrop's policy network (arXiv 1711.08393; models/resnet.py): a ResNet of one basic block a stage and a dense
layer of one number a block, its logit margin. On CIFAR that is ResNet-8 (16, 32, 64 channels), with a ResNet's stem for
photographs ResNet-10 (64 to 512) on images of half the size. Every image pays for it, however much it skips then.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from codinet_jax.models.architecture import Architecture, cifar_resnet, imagenet_resnet
from codinet_jax.models.blocks import ModuleDef, Residual, Shortcut, stem
from codinet_jax.models.cost import cost_table
from codinet_jax.models.router import Bias, Router, RouterKind, no_macs, pooled, torch_linear


class PolicyStart(nn.Module):
    """The policy network; what routers share is the logit margin of every block."""

    architecture: Architecture
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, stem_BxHxWxC: jax.Array, images_BxHxWxC: jax.Array) -> tuple[Any, jax.Array]:
        del stem_BxHxWxC
        arch = policy_architecture(self.architecture)
        x = images_BxHxWxC.astype(jnp.float32)
        if arch.image_size < self.architecture.image_size:
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = stem(arch, x, self.conv, self.norm)
        for i, block in enumerate(arch.blocks, start=1):
            shortcut = Shortcut(block, self.conv, self.norm, name=f'shortcut{i}')(x)
            x = nn.relu(shortcut + Residual(block, self.conv, self.norm, name=f'residual{i}')(x))
        margins_Bxn = nn.Dense(arch.num_classes, kernel_init=torch_linear, name='decide')(pooled(x))
        return (), margins_Bxn


class PolicyRouter(Router):
    """Hands out what was decided of its block."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del a_BxHxWxC
        margin_Bx1 = jax.lax.dynamic_slice_in_dim(shared, k, 1, axis=1)
        return jnp.pad(margin_Bx1, ((0, 0), (1, 0))), carry


def policy_architecture(architecture: Architecture) -> Architecture:
    """The policy network of a backbone, whose classes are the backbone's blocks."""
    size, num_blocks = architecture.image_size, architecture.num_blocks
    given: dict[str, Any] = {'image_channels': architecture.image_channels, 'num_classes': num_blocks}
    if architecture.stem == 'cifar':
        return cifar_resnet(8, image_size=size, **given)
    whole = imagenet_resnet(18, image_size=size // 2 if size > 1 else size, **given)
    stages = tuple(stage._replace(repeats=stage.repeats - 1) for stage in whole.stages)
    return dataclasses.replace(whole, stages=stages, name='ResNet-10')


def policy_macs(architecture: Architecture) -> int:
    """What an image pays for the policy network."""
    return cost_table(policy_architecture(architecture), None).static_macs


POLICIES = {
    'policy': RouterKind(PolicyRouter, no_macs, start=PolicyStart, start_macs=policy_macs, bias=Bias(is_pair=False))
}
