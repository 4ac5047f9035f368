"""The look-up table of section 3.3: what every part of a network costs, in MACs an image, from plain data alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.models.architecture import Architecture, Block


class CostTable(NamedTuple):
    """MACs an image: multiply-accumulates of convolutions and dense layers; FLOPs are twice that.

    The stem, the head, the routers and the shortcuts that change a shape are paid by every image; `blocks_n` only by
    the images that run the block. `policy` is what routers compute of an image before the first block. `alone` is what
    the static network costs where it is not the sum of the parts: of a cascade, the last of its networks; of one that
    resumes, without what joins its stages.
    """

    stem: int
    blocks_n: tuple[int, ...]
    shortcuts_n: tuple[int, ...]
    routers_n: tuple[int, ...]
    head: int
    policy: int = 0
    alone: int | None = None

    @property
    def num_blocks(self) -> int:
        return len(self.blocks_n)

    @property
    def static_macs(self) -> int:
        """The same backbone without routers, every block run."""
        if self.alone is not None:
            return self.alone
        return self.stem + sum(self.blocks_n) + sum(self.shortcuts_n) + self.head

    @property
    def fixed_macs(self) -> int:
        """What an image pays that skips every block."""
        return self.stem + sum(self.shortcuts_n) + self.router_macs + self.head

    @property
    def router_macs(self) -> int:
        """What an image pays to be routed."""
        return self.policy + sum(self.routers_n)

    @property
    def costs_n(self) -> np.ndarray:
        """c_k of Eq. 11: a block's share of the MACs of all blocks, so that they sum to one on every backbone."""
        return np.asarray(self.blocks_n, np.float32) / np.float32(sum(self.blocks_n))

    def mean_macs(self, run_rates_n: np.ndarray) -> float:
        """MACs of the mean image, routers included, where `run_rates_n` is the share of images that run each block."""
        return self.fixed_macs + float(np.dot(np.asarray(run_rates_n, np.float64), self.blocks_n))

    def share_of_static(self, run_rates_n: jax.Array) -> jax.Array:
        """`mean_macs` over `static_macs`: the quantity that a target cost is stated in."""
        shares_n = jnp.asarray(np.asarray(self.blocks_n) / self.static_macs, jnp.float32)
        # Not a dot: accelerators round the inputs of theirs to ten bits or fewer.
        return self.fixed_macs / self.static_macs + jnp.sum(run_rates_n * shares_n)


def cost_table(
    architecture: Architecture, router_macs: Callable[[Block], int] | None, *, first_runs: bool = False, policy: int = 0
) -> CostTable:
    """The table of an architecture; `router_macs` prices one block's router, None means a static network.

    Where the first block always runs (`first_runs`), it has no router to pay for. `policy` is as in `CostTable`.
    """
    kernel = 3 if architecture.stem == 'cifar' else 7
    blocks = architecture.blocks
    return CostTable(
        stem=kernel**2 * architecture.image_channels * architecture.stem_channels * architecture.stem_size**2,
        blocks_n=tuple(map(_block_macs, blocks)),
        shortcuts_n=tuple(map(_shortcut_macs, blocks)),
        routers_n=tuple(
            router_macs(block) if router_macs and not (first_runs and k == 0) else 0 for k, block in enumerate(blocks)
        ),
        head=architecture.out_channels * architecture.num_classes,
        policy=policy,
    )


def _block_macs(block: Block) -> int:
    size, channels, macs = block.in_size, block.in_channels, 0
    for conv in block.convs:
        size = -(-size // conv.stride)
        macs += conv.kernel**2 * channels * conv.features * size**2
        channels = conv.features
    return macs


def _shortcut_macs(block: Block) -> int:
    return block.in_channels * block.channels * block.out_size**2 if block.shortcut == 'projection' else 0
