"""How a gated block combines run and skip: the only place that knows.

An execution is a pair. `decide` turns a router's logits, and noise if it uses any, into the gate v; `combine` lets F
and S meet under it. F and S are functions of the same operands, arrays with a leading row axis: the block's input and
its shortcut.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from codinet_jax.routing import relaxation

BlockFn = Callable[..., jax.Array]


class Execution(NamedTuple):
    decide: Callable[[jax.Array, jax.Array | None], jax.Array]
    combine: Callable[[BlockFn, BlockFn, tuple[jax.Array, ...], jax.Array], jax.Array]


def relaxed(relax: relaxation.Relaxation, temperature: float) -> Execution:
    """Stage 1: v drawn by a relaxation, a_k = v F(a) + (1 - v) S(a) (Eq. 6 and 7). Needs noise."""

    def decide(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array | None) -> jax.Array:
        if noise_Bx2 is None:
            raise ValueError('relaxed execution needs noise: pass noise_Bxnx2 to the network')
        return relax(router_logits_Bx2, noise_Bx2, temperature)

    def combine(run: BlockFn, skip: BlockFn, operands: tuple[jax.Array, ...], v_B: jax.Array) -> jax.Array:
        run_BxHxWxC, skip_BxHxWxC = run(*operands), skip(*operands)
        v_Bx1x1x1 = v_B[:, None, None, None].astype(run_BxHxWxC.dtype)
        return v_Bx1x1x1 * run_BxHxWxC + (1 - v_Bx1x1x1) * skip_BxHxWxC

    return Execution(decide, combine)


def masked(threshold: float | jax.Array = 0.5) -> Execution:
    """Stage 2 and evaluation: noise-free, a_k = F(a) where v >= threshold, else S(a) (Eq. 13). Computes both."""

    def decide(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array | None) -> jax.Array:
        del noise_Bx2
        return relaxation.run_probability(router_logits_Bx2)

    def combine(run: BlockFn, skip: BlockFn, operands: tuple[jax.Array, ...], v_B: jax.Array) -> jax.Array:
        u_B = relaxation.hard_decision(v_B, threshold)
        return jnp.where(u_B[:, None, None, None], run(*operands), skip(*operands))

    return Execution(decide, combine)
