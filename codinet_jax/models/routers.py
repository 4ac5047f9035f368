"""Routers: what decides whether a block runs (Eq. 3 and 4; Table 10).

A router is called once a block as `router(a_BxHxWxC, carry, shared) -> (router_logits_Bx2, carry)`; index 0 is skip,
1 run. The carry travels from block to block and `shared` is the same for all of them; both come from the router's
`start`, a module called once as `start(stem_BxHxWxC, images_BxHxWxC)` on the stem's output and the network's input, in
float32. That seam holds three reaches: local routers use neither; recurrent ones evolve the carry under shared weights;
a global one would decide every block in `start` and hand out its logits.

Routers hold no batch norm: what is frozen in stage 2 is then frozen whole. They compute in float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from codinet_jax.models.architecture import Block
from codinet_jax.models.random_router import PACE, RandomRouter, RandomStart

RECURRENT_FEATURES = 10  # SkipNet's


class LinearRouter(nn.Module):
    """The paper's: global average pool, Dense(C), ReLU, Dense(2)."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any) -> tuple[jax.Array, Any]:
        del shared
        z_BxC = _pooled(a_BxHxWxC)
        return nn.Dense(2, name='decide')(nn.relu(nn.Dense(z_BxC.shape[-1], name='hidden')(z_BxC))), carry


class ConvRouter(nn.Module):
    """A 3x3 convolution of stride 2, ReLU, global average pool, Dense(2): 12.5 % of a basic block, as in Table 10."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any) -> tuple[jax.Array, Any]:
        del shared
        a = a_BxHxWxC.astype(jnp.float32)
        a = nn.relu(nn.Conv(a.shape[-1], (3, 3), strides=2, padding=1, name='conv')(a))
        return nn.Dense(2, name='decide')(_pooled(a)), carry


class RecurrentStart(nn.Module):
    """The empty memory, and the weights of the LSTM cell and the decision that all blocks share."""

    @nn.compact
    def __call__(self, stem_BxHxWxC: jax.Array, images_BxHxWxC: jax.Array) -> tuple[Any, Any]:
        del images_BxHxWxC
        cell = nn.LSTMCell(RECURRENT_FEATURES, name='cell')
        decide = nn.Dense(2, name='decide')
        inputs_Bx10 = jnp.zeros((stem_BxHxWxC.shape[0], RECURRENT_FEATURES))
        carry = cell.initialize_carry(jax.random.key(0), inputs_Bx10.shape)
        if self.is_initializing():
            decide(cell(carry, inputs_Bx10)[1])
        return carry, self.variables['params']


class RecurrentRouter(nn.Module):
    """SkipNet's: global average pool, Dense(10), then an LSTM cell and a Dense(2) shared by all blocks."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any) -> tuple[jax.Array, Any]:
        z_Bx10 = nn.relu(nn.Dense(RECURRENT_FEATURES, name='project')(_pooled(a_BxHxWxC)))
        cell = nn.LSTMCell(RECURRENT_FEATURES, parent=None)
        carry, h_Bx10 = cell.apply({'params': shared['cell']}, carry, z_Bx10)
        decide: Any = nn.Dense(2, parent=None)
        return decide.apply({'params': shared['decide']}, h_Bx10), carry


class RouterKind(NamedTuple):
    """A way of deciding: the module called at every block, its MACs there, and what it starts from, if anything."""

    router: Callable[..., nn.Module]
    macs: Callable[[Block], int]
    start: Callable[..., nn.Module] | None = None


def _linear_macs(block: Block) -> int:
    return block.in_channels**2 + 2 * block.in_channels


def _conv_macs(block: Block) -> int:
    return 9 * block.in_channels**2 * (-(-block.in_size // 2)) ** 2 + 2 * block.in_channels


def _recurrent_macs(block: Block) -> int:
    d = RECURRENT_FEATURES
    return block.in_channels * d + 4 * d * (d + d) + 2 * d


def _random_macs(block: Block) -> int:
    """None: the table counts convolutions and dense layers, and a hash has neither."""
    del block
    return 0


ROUTERS = {
    'linear': RouterKind(LinearRouter, _linear_macs),
    'conv': RouterKind(ConvRouter, _conv_macs),
    'recurrent': RouterKind(RecurrentRouter, _recurrent_macs, start=RecurrentStart),
    'random': RouterKind(RandomRouter, _random_macs, start=RandomStart),
}


def shifted(params: Any, lead: float | jax.Array) -> Any:
    """Parameters of a network whose routers all lean further to running: run's log-odds are higher by `lead`.

    For hard decisions it is what lowering the threshold is, and it is kept where the weights are.
    """
    leaves = traverse_util.flatten_dict(params)
    for path, leaf in leaves.items():
        if path[-2:] == ('decide', 'bias'):
            leaves[path] = leaf.at[..., 1].add(lead)
        elif path[-1] == 'drift':
            leaves[path] = leaf + lead / PACE
    return traverse_util.unflatten_dict(leaves)


def _pooled(a_BxHxWxC: jax.Array) -> jax.Array:
    """z_k of Eq. 3, in float32 so that a decision does not hang on the compute precision of a mean."""
    return jnp.mean(a_BxHxWxC, axis=(1, 2), dtype=jnp.float32)
