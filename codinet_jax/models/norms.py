"""Batch norm over parts of the batch."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class GroupedBatchNorm(nn.Module):
    """Batch norm for training in which each of `groups` equal parts of the batch has statistics of its own.

    With as many groups as devices, normalising needs no word between them. The running statistics move toward the
    groups' mean. Parameters and statistics are named as `nn.BatchNorm`'s, which takes over where nothing is trained.
    """

    groups: int
    momentum: float
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        shape, per_channel = x_BxHxWxC.shape, x_BxHxWxC.shape[-1:]
        scale_C = self.param('scale', nn.initializers.ones, per_channel, jnp.float32)
        bias_C = self.param('bias', nn.initializers.zeros, per_channel, jnp.float32)
        running = {
            name: self.variable('batch_stats', name, jnp.full, per_channel, start, jnp.float32)
            for name, start in (('mean', 0.0), ('var', 1.0))
        }
        parts_GxbxHxWxC = x_BxHxWxC.reshape(self.groups, -1, *shape[1:]).astype(jnp.float32)
        within: dict[str, Any] = {'axis': (1, 2, 3), 'keepdims': True}
        mean_Gx1x1x1xC = jnp.mean(parts_GxbxHxWxC, **within)
        var_Gx1x1x1xC = jnp.mean(jnp.square(parts_GxbxHxWxC), **within) - jnp.square(mean_Gx1x1x1xC)
        for name, seen in (('mean', mean_Gx1x1x1xC), ('var', var_Gx1x1x1xC)):
            running[name].value = self.momentum * running[name].value + (1 - self.momentum) * jnp.mean(
                seen, (0, 1, 2, 3)
            )
        factor_Gx1x1x1xC = jax.lax.rsqrt(jnp.maximum(var_Gx1x1x1xC, 0) + self.epsilon) * scale_C[None, None, None, None]
        normed = (parts_GxbxHxWxC - mean_Gx1x1x1xC) * factor_Gx1x1x1xC + bias_C[None, None, None, None]
        return normed.reshape(shape).astype(self.dtype)
