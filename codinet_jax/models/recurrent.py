"""Recurrent routers: one LSTM cell that all blocks share remembers what an image did so far (Table 10, "RNN").

`RecurrentRouter` is the paper's comparison: a ReLU before the cell, two numbers out, every block asked. `LSTMGate` is
SkipNet's RNNGate (arXiv 1711.09485; cifar/models.py): a linear projection, one number out, the first block never asked.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from codinet_jax.models.architecture import Block
from codinet_jax.models.router import Bias, Router, RouterKind, but_first, pooled

RECURRENT_FEATURES = 10  # SkipNet's


class RecurrentStart(nn.Module):
    """The empty memory, and the weights of the LSTM cell and the decision that all blocks share."""

    num_outputs: int = 2

    @nn.compact
    def __call__(self, stem_BxHxWxC: jax.Array, images_BxHxWxC: jax.Array) -> tuple[Any, Any]:
        del images_BxHxWxC
        cell = nn.LSTMCell(RECURRENT_FEATURES, name='cell')
        decide = nn.Dense(self.num_outputs, name='decide')
        inputs_Bx10 = jnp.zeros((stem_BxHxWxC.shape[0], RECURRENT_FEATURES))
        carry = cell.initialize_carry(jax.random.key(0), inputs_Bx10.shape)
        if self.is_initializing():
            decide(cell(carry, inputs_Bx10)[1])
        return carry, self.variables['params']


class RecurrentRouter(Router):
    """Global average pool, Dense(10), ReLU, then an LSTM cell and a Dense(2) shared by all blocks."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del k
        z_Bx10 = nn.relu(nn.Dense(RECURRENT_FEATURES, name='project')(pooled(a_BxHxWxC)))
        return _remembered(carry, shared, z_Bx10, 2)


class LSTMGate(Router):
    """SkipNet's RNNGate: global average pool, Dense(10), then an LSTM cell and a Dense(1) that all blocks share.

    The number is the logit margin. Without a ReLU the cell sees both signs of the projection. Cell and decision begin
    as Flax begins them, the projection as theirs does, by He et al.'s fan-out.
    """

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        he = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
        z_Bx10 = nn.Dense(RECURRENT_FEATURES, kernel_init=he, name='project')(pooled(a_BxHxWxC))
        margin_Bx1, after = _remembered(carry, shared, z_Bx10, 1)
        return but_first(k, jnp.pad(margin_Bx1, ((0, 0), (1, 0))), after, carry)


def _remembered(carry: Any, shared: Any, z_Bx10: jax.Array, num_outputs: int) -> tuple[jax.Array, Any]:
    """What the shared cell and decision make of a block's features, and the memory after it."""
    cell = nn.LSTMCell(RECURRENT_FEATURES, parent=None)
    carry, h_Bx10 = cell.apply({'params': shared['cell']}, carry, z_Bx10)
    decide: Any = nn.Dense(num_outputs, parent=None)
    return decide.apply({'params': shared['decide']}, h_Bx10), carry


def _macs(block: Block, num_outputs: int) -> int:
    d = RECURRENT_FEATURES
    return block.in_channels * d + 4 * d * (d + d) + num_outputs * d


RECURRENT = {
    'recurrent': RouterKind(RecurrentRouter, lambda block: _macs(block, 2), start=RecurrentStart),
    'lstm': RouterKind(
        LSTMGate,
        lambda block: _macs(block, 1),
        start=functools.partial(RecurrentStart, num_outputs=1),
        bias=Bias(is_pair=False),
        first_runs=True,
    ),
}
