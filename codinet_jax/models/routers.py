"""The routers there are, by name: what decides whether a block runs (Eq. 3 and 4; Table 10). `router` says what one is.

A router of one's own is added to `ROUTERS` by `register`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from codinet_jax.models.architecture import Block
from codinet_jax.models.exits import EXITS
from codinet_jax.models.gates import GATES
from codinet_jax.models.halting import HALTING
from codinet_jax.models.policy import POLICIES
from codinet_jax.models.random_router import INITIAL_MARGIN, PACE, RandomStart, random_logits
from codinet_jax.models.recurrent import RECURRENT, RECURRENT_FEATURES
from codinet_jax.models.resuming import RESUMING
from codinet_jax.models.router import Bias, Router, RouterKind, no_macs, pooled, strided_conv_macs
from codinet_jax.runtime.errors import InputError, meant

__all__ = [
    'RECURRENT_FEATURES',
    'ROUTERS',
    'Bias',
    'Router',
    'RouterKind',
    'is_of_routing',
    'is_router',
    'register',
    'router_kind',
    'shifted',
]


class LinearRouter(Router):
    """The paper's: global average pool, Dense(C), ReLU, Dense(2)."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared, k
        z_BxC = pooled(a_BxHxWxC)
        return nn.Dense(2, name='decide')(nn.relu(nn.Dense(z_BxC.shape[-1], name='hidden')(z_BxC))), carry


class ConvRouter(Router):
    """A 3x3 convolution of stride 2, ReLU, global average pool, Dense(2): 12.5 % of a basic block, as in Table 10."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared, k
        a = a_BxHxWxC.astype(jnp.float32)
        a = nn.relu(nn.Conv(a.shape[-1], (3, 3), strides=2, padding=1, name='conv')(a))
        return nn.Dense(2, name='decide')(pooled(a)), carry


class RandomRouter(Router):
    """Skips at random, with the probability that all blocks share; see `random_router`."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del a_BxHxWxC, k
        return random_logits(carry, shared)


def _linear_macs(block: Block) -> int:
    return block.in_channels**2 + 2 * block.in_channels


ROUTERS: dict[str, RouterKind] = {
    'linear': RouterKind(LinearRouter, _linear_macs),
    'conv': RouterKind(ConvRouter, strided_conv_macs),
    'recurrent': RECURRENT['recurrent'],
    'random': RouterKind(
        RandomRouter,
        no_macs,  # the table counts convolutions and dense layers, and a hash has neither
        start=RandomStart,
        bias=Bias(('drift',), is_pair=False, gain=PACE),
        initial_margin=INITIAL_MARGIN,
    ),
    'lstm': RECURRENT['lstm'],
    **GATES,
    **POLICIES,
    **HALTING,
    **EXITS,
    **RESUMING,
}


def register(name: str, kind: RouterKind) -> None:
    """Adds a router of one's own under a name that configs and networks can use.

    Raises:
      InputError: another router has this name.
    """
    if ROUTERS.setdefault(name, kind) != kind:
        raise InputError(f'There is a router {name!r} already: register yours under another name.')


def router_kind(name: str) -> RouterKind:
    """The entry of `ROUTERS`.

    Raises:
      InputError: there is none of this name.
    """
    if name not in ROUTERS:
        raise InputError(f'There is no router {name!r}; it must be one of {", ".join(ROUTERS)}.{meant(name, ROUTERS)}')
    return ROUTERS[name]


def is_router(path: Sequence[str]) -> bool:
    """Whether a variable of this path is a router's, or one that routers share."""
    return not {'router', 'router_start'}.isdisjoint(path)


def is_of_routing(path: Sequence[str]) -> bool:
    """Whether only a routed network has this variable: a router's, or of the end of a stage."""
    return is_router(path) or any(name.startswith('stage') and name.endswith('_end') for name in path)


def shifted(params: Any, router: str, shift: float | jax.Array) -> Any:
    """Parameters of a network whose routers' logit margins are all higher by `shift`.

    For hard decisions it is what lowering the threshold is, and it is kept where the weights are.

    Raises:
      InputError: the router has no bias.
    """
    bias = router_kind(router).bias
    if bias is None:
        raise InputError(f'Router {router!r} has no bias that could be shifted: name it in its RouterKind.')
    leaves = traverse_util.flatten_dict(params)
    for path, leaf in leaves.items():
        if is_router(path) and path[-len(bias.path) :] == bias.path:
            leaves[path] = leaf.at[..., 1].add(shift / bias.gain) if bias.is_pair else leaf + shift / bias.gain
    return traverse_util.unflatten_dict(leaves)
