"""What a router is: the seam between a block and what decides whether it runs (Eq. 3 and 4).

A router is a `Router`, called once a block as `router(a_BxHxWxC, carry, shared, k) -> (router_logits_Bx2, carry)`;
index 0 is skip, 1 run, and k is the block's number in the network, from 0. The carry travels from block to block and
`shared` is the same for all of them; both come from the router's `start`, a module called once as
`start(stem_BxHxWxC, images_BxHxWxC)` on the stem's output and the network's input, in float32. That seam holds three
reaches: local routers use neither; recurrent ones evolve the carry under shared weights; a global one decides every
block in `start` and hands out its logits. One that gathers something over the blocks of a stage has `Stages` too.

Routers compute in float32. A norm of theirs uses running averages where routers are frozen, so that they are frozen
whole.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from codinet_jax.models.architecture import Architecture, Block, Stage
from codinet_jax.models.blocks import ModuleDef

FORCED_MARGIN = 30.0  # run for certain: in float32 its sigmoid is 1


class Router(nn.Module):
    """What every router is told when it is made: its block, and how to make convolutions and norms.

    `conv` and `norm` compute in float32. A norm named `normI` after a convolution `convI` is folded into it for
    inference.
    """

    block: Block
    conv: ModuleDef
    norm: ModuleDef


torch_linear = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # how PyTorch begins a dense layer


def no_macs(block: Block) -> int:
    """What an image pays where a block's router computes nothing."""
    del block
    return 0


def strided_conv_macs(block: Block) -> int:
    """Of a 3x3 convolution that halves the image and keeps its channels, and a dense layer to two outputs."""
    return 9 * block.in_channels**2 * (-(-block.in_size // 2)) ** 2 + 2 * block.in_channels


class Bias(NamedTuple):
    """The parameter that moves a router's logit margin for all images alike.

    `path` ends its path in the network's parameters. It is a pair [skip, run] along its last axis, or a number by
    itself; the margin rises by `gain` where it rises by one.
    """

    path: tuple[str, ...] = ('decide', 'bias')
    is_pair: bool = True
    gain: float = 1.0


class Stages(NamedTuple):
    """What a router does where a stage begins and ends, and what follows from it for the network.

    Attributes:
      begin: the carry that a stage begins with: `begin(stage, a_BxHxWxC, carry)`.
      end: makes, from `architecture`, the number of the stage from 1 and a name, the module called after a stage's last
        block as `module(a_BxHxWxC, carry, shared, combine) -> (a_BxHxWxC, carry, kept)`. What it keeps, arrays of B
        rows or None, comes out with the network's answer. What only images need that run the next block it may have
        computed of them alone: `combine(run, skip, operands, router_logits_Bx2)`, of pure functions, decides by those
        logits as the next block does.
      always_run_n: the blocks that every image runs.
      routers_n: the MACs of deciding at every block, in place of the kind's `macs`.
      answer: the network's logits, if they are not its head's: `answer(execution, kept, v_SxB)`, where v is that
        of each stage's last block, and what is kept ends with the head's logits.
      joins_n: the MACs that an image pays beside a block's own that runs it.
    """

    begin: Callable[[Stage, jax.Array, Any], Any]
    end: Callable[..., nn.Module]
    always_run_n: Callable[[Architecture], tuple[bool, ...]]
    routers_n: Callable[[Architecture], tuple[int, ...]]
    answer: Callable[..., jax.Array] | None = None
    joins_n: Callable[[Architecture], tuple[int, ...]] | None = None


class RouterKind(NamedTuple):
    """A way of deciding.

    Attributes:
      router: makes the module called at every block, from `Router`'s fields and a name.
      macs: its MACs an image at a block.
      start: makes the module that it starts from, if anything, from a name.
      bias: where its bias is; None if it has none, and then neither a wanted cost nor an initial run rate can be had.
      initial_margin: its logit margin before training, on average.
      first_runs: whether the network's first block always runs. Nobody need ask a router there, so none is counted; a
        stack of equal blocks has one all the same, which is not heeded.
      start_macs: what an image pays for `start`, where that has convolutions or dense layers of its own. It is then
        made from `architecture`, the network's, and from `conv` and `norm` as a `Router` has them, too.
      stages: what it does at the ends of stages, if anything; only the method that names this router trains it then.
      resumes: whether it is of networks that answer early and resume (`architecture.resumed`), and of no others.
    """

    router: Callable[..., nn.Module]
    macs: Callable[[Block], int]
    start: Callable[..., nn.Module] | None = None
    bias: Bias | None = Bias()
    initial_margin: float = 0.0
    first_runs: bool = False
    start_macs: Callable[[Architecture], int] | None = None
    stages: Stages | None = None
    resumes: bool = False

    def always_run_n(self, architecture: Architecture) -> tuple[bool, ...]:
        """The blocks that every image runs, whatever it is."""
        if self.stages:
            return self.stages.always_run_n(architecture)
        return tuple(self.first_runs and k == 0 for k in range(architecture.num_blocks))


def pooled(a_BxHxWxC: jax.Array) -> jax.Array:
    """z_k of Eq. 3, in float32 so that a decision does not hang on the compute precision of a mean."""
    return jnp.mean(a_BxHxWxC, axis=(1, 2), dtype=jnp.float32)


def router_logits_Bx2(margin_B: jax.Array) -> jax.Array:
    """The router outputs of a logit margin."""
    return jnp.stack([jnp.zeros_like(margin_B), margin_B], axis=-1)


def but_first(k: jax.Array, router_logits_Bx2: jax.Array, carry: Any, before: Any) -> tuple[jax.Array, Any]:
    """A router's answer at every block but the network's first, which runs and leaves the carry as it was `before`."""
    is_first, forced_2 = k == 0, jnp.asarray([0.0, FORCED_MARGIN])
    carry = jax.tree.map(lambda new, old: jnp.where(is_first, old, new), carry, before)
    return jnp.where(is_first, forced_2[None], router_logits_Bx2), carry
