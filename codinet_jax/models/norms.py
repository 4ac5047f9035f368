"""Batch norm for training, over parts of the batch."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

WITHIN = (1, 2, 3)  # the axes of a group that its statistics are over: rows and pixels


class GroupedBatchNorm(nn.Module):
    """Batch norm for training in which each of `groups` equal parts of the batch has statistics of its own.

    With as many groups as devices, normalising needs no word between them. The running statistics move toward the
    groups' mean. Parameters and statistics are named as `nn.BatchNorm`'s, which takes over where nothing is trained.
    Arithmetic is float32; what is kept for the backward pass is the input as it came, in half the bytes if bfloat16.
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
        parts_GxbxHxWxC = x_BxHxWxC.reshape(self.groups, -1, *shape[1:])
        normed, mean_GxC, var_GxC = normalise(parts_GxbxHxWxC, scale_C, bias_C, self.epsilon)
        for name, seen_GxC in (('mean', mean_GxC), ('var', var_GxC)):
            running[name].value = self.momentum * running[name].value + (1 - self.momentum) * jnp.mean(seen_GxC, 0)
        return normed.reshape(shape).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(
    x_GxbxHxWxC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each group brought to zero mean and unit variance per channel, scaled and shifted; and those means and variances.

    The result has x's type, the statistics are float32 and carry no gradient.
    """
    return _forward(x_GxbxHxWxC, scale_C, bias_C, epsilon)[0]


def _forward(x: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float) -> tuple[Any, Any]:
    exact = x.astype(jnp.float32)
    mean_GxC = jnp.mean(exact, WITHIN)
    var_GxC = jnp.maximum(jnp.mean(jnp.square(exact), WITHIN) - jnp.square(mean_GxC), 0)
    rate_GxC = jax.lax.rsqrt(var_GxC + epsilon)
    normed = (exact - _spread(mean_GxC)) * _spread(rate_GxC * scale_C[None]) + _spread(bias_C[None])
    return (normed.astype(x.dtype), mean_GxC, var_GxC), (x, scale_C, mean_GxC, rate_GxC)


def _backward(epsilon: float, kept: Any, gradients: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    del epsilon
    x, scale_C, mean_GxC, rate_GxC = kept
    # One pass for both sums, one for the input's gradient: the centred input is made anew and never stored.
    dy, centred = gradients[0].astype(jnp.float32), x.astype(jnp.float32) - _spread(mean_GxC)
    sum_GxC, moment_GxC = jnp.sum(dy, WITHIN), jnp.sum(dy * centred, WITHIN) * rate_GxC
    count = x[0, ..., 0].size
    dx = dy - _spread(sum_GxC / count) - centred * _spread(rate_GxC * moment_GxC / count)
    dx = dx * _spread(rate_GxC * scale_C[None])
    return dx.astype(x.dtype), jnp.sum(moment_GxC, 0), jnp.sum(sum_GxC, 0)


normalise.defvjp(_forward, _backward)


def _spread(per_group_GxC: jax.Array) -> jax.Array:
    return per_group_GxC[:, None, None, None, :]
