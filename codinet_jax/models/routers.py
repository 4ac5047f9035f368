"""Routers: what decides whether a block runs (Eq. 3 and 4; Table 10).

A router is a `Router`, called once a block as `router(a_BxHxWxC, carry, shared, k) -> (router_logits_Bx2, carry)`;
index 0 is skip, 1 run. The carry travels from block to block and `shared` is the same for all of them; both come from
the router's `start`, a module called once as `start(stem_BxHxWxC, images_BxHxWxC)` on the stem's output and the
network's input, in float32. That seam holds three reaches: local routers use neither; recurrent ones evolve the carry
under shared weights; a global one would decide every block in `start` and hand out its logits.

Routers compute in float32. A norm of theirs uses running averages where routers are frozen, so that they are frozen
whole. A router of one's own is added to `ROUTERS` by `register`.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from codinet_jax.models.architecture import Block
from codinet_jax.models.blocks import ModuleDef
from codinet_jax.models.random_router import INITIAL_MARGIN, PACE, RandomStart, random_logits
from codinet_jax.runtime.errors import InputError

RECURRENT_FEATURES = 10  # SkipNet's


class Router(nn.Module):
    """What every router is told when it is made: its block, and how to make convolutions and norms.

    `conv` and `norm` compute in float32. A norm named `normI` after a convolution `convI` is folded into it for
    inference.
    """

    block: Block
    conv: ModuleDef
    norm: ModuleDef


class LinearRouter(Router):
    """The paper's: global average pool, Dense(C), ReLU, Dense(2)."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared, k
        z_BxC = _pooled(a_BxHxWxC)
        return nn.Dense(2, name='decide')(nn.relu(nn.Dense(z_BxC.shape[-1], name='hidden')(z_BxC))), carry


class ConvRouter(Router):
    """A 3x3 convolution of stride 2, ReLU, global average pool, Dense(2): 12.5 % of a basic block, as in Table 10."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared, k
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


class RecurrentRouter(Router):
    """SkipNet's: global average pool, Dense(10), then an LSTM cell and a Dense(2) shared by all blocks."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del k
        z_Bx10 = nn.relu(nn.Dense(RECURRENT_FEATURES, name='project')(_pooled(a_BxHxWxC)))
        cell = nn.LSTMCell(RECURRENT_FEATURES, parent=None)
        carry, h_Bx10 = cell.apply({'params': shared['cell']}, carry, z_Bx10)
        decide: Any = nn.Dense(2, parent=None)
        return decide.apply({'params': shared['decide']}, h_Bx10), carry


class RandomRouter(Router):
    """Skips at random, with the probability that all blocks share; see `random_router`."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del a_BxHxWxC, k
        return random_logits(carry, shared)


class Bias(NamedTuple):
    """The parameter that moves a router's logit margin for all images alike.

    `path` ends its path in the network's parameters. It is a pair [skip, run] along its last axis, or a number by
    itself; the margin rises by `gain` where it rises by one.
    """

    path: tuple[str, ...] = ('decide', 'bias')
    is_pair: bool = True
    gain: float = 1.0


class RouterKind(NamedTuple):
    """A way of deciding.

    Attributes:
      router: makes the module called at every block, from `Router`'s fields and a name.
      macs: its MACs an image at a block.
      start: makes the module that it starts from, if anything.
      bias: where its bias is; None if it has none, and then neither a wanted cost nor an initial run rate can be had.
      initial_margin: its logit margin before training, on average.
    """

    router: Callable[..., nn.Module]
    macs: Callable[[Block], int]
    start: Callable[..., nn.Module] | None = None
    bias: Bias | None = Bias()
    initial_margin: float = 0.0


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


ROUTERS: dict[str, RouterKind] = {
    'linear': RouterKind(LinearRouter, _linear_macs),
    'conv': RouterKind(ConvRouter, _conv_macs),
    'recurrent': RouterKind(RecurrentRouter, _recurrent_macs, start=RecurrentStart),
    'random': RouterKind(
        RandomRouter,
        _random_macs,
        start=RandomStart,
        bias=Bias(('drift',), is_pair=False, gain=PACE),
        initial_margin=INITIAL_MARGIN,
    ),
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
        close = difflib.get_close_matches(name, ROUTERS, n=1)
        hint = f' Did you mean {close[0]}?' if close else ''
        raise InputError(f'There is no router {name!r}; it must be one of {", ".join(ROUTERS)}.{hint}')
    return ROUTERS[name]


def is_router(path: Sequence[str]) -> bool:
    """Whether a variable of this path is a router's, or one that routers share."""
    return not {'router', 'router_start'}.isdisjoint(path)


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


def _pooled(a_BxHxWxC: jax.Array) -> jax.Array:
    """z_k of Eq. 3, in float32 so that a decision does not hang on the compute precision of a mean."""
    return jnp.mean(a_BxHxWxC, axis=(1, 2), dtype=jnp.float32)
