"""How a gated block combines run and skip: the only place that knows.

An execution is a pair. `decide` turns a router's logits, and noise if there is any, into the gate v; `combine` lets F
and S meet under it. F and S are functions of the same operands, arrays with a leading row axis: the block's input and
its shortcut. All executions that decide hard give the same numbers; they differ in what they compute on the way.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from codinet_jax.routing import relaxation

BlockFn = Callable[..., jax.Array]
Operands = tuple[jax.Array, ...]
Threshold = float | jax.Array

# Rows at a time, by codinet_jax.benchmark: a CPU core is as fast on one row as on many, once it has so many numbers.
CPU_TILE_NUMBERS = 1024
NUM_PREFIXES = 8  # of the batch that an accelerator chooses from: one read on the host a block, however many rows run
TILES_ELSEWHERE = (1, 16, 256)  # where the batch is not known when compiling
CERTAIN = 1e30  # more than any router's logits, those of an untrained ResNet-110 among them


class Execution(NamedTuple):
    decide: Callable[[jax.Array, jax.Array | None], jax.Array]
    combine: Callable[[BlockFn, BlockFn, Operands, jax.Array], jax.Array]


def relaxed(relax: relaxation.Relaxation, temperature: float | jax.Array) -> Execution:
    """Stage 1: v drawn by a relaxation, a_k = v F(a) + (1 - v) S(a) (Eq. 6 and 7). Needs noise."""

    def decide(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array | None) -> jax.Array:
        if noise_Bx2 is None:
            raise ValueError('relaxed execution needs noise: pass noise_Bxnx2 to the network')
        return relax(router_logits_Bx2, noise_Bx2, temperature)

    def combine(run: BlockFn, skip: BlockFn, operands: Operands, v_B: jax.Array) -> jax.Array:
        run_BxHxWxC, skip_BxHxWxC = run(*operands), skip(*operands)
        v_Bx1x1x1 = jnp.expand_dims(v_B, range(1, run_BxHxWxC.ndim))
        dtype = run_BxHxWxC.dtype
        # 1 - v before the cast: of a v near one bfloat16 leaves nothing.
        return v_Bx1x1x1.astype(dtype) * run_BxHxWxC + (1 - v_Bx1x1x1).astype(dtype) * skip_BxHxWxC

    return Execution(decide, combine)


def masked(threshold: Threshold = 0.5) -> Execution:
    """Stage 2 and evaluation: a_k = F(a) where v >= threshold, else S(a) (Eq. 13). Computes both for every row."""

    def combine(run: BlockFn, skip: BlockFn, operands: Operands, v_B: jax.Array) -> jax.Array:
        u_B = relaxation.hard_decision(v_B, threshold)
        ran = run(*operands)
        return jnp.where(jnp.expand_dims(u_B, range(1, ran.ndim)), ran, skip(*operands))

    return Execution(_decide_hard, combine)


def all_run() -> Execution:
    """Every block runs, whatever its router says: a_k = F(a), v = 1."""

    def decide(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array | None) -> jax.Array:
        del noise_Bx2
        return jnp.ones(router_logits_Bx2.shape[0])

    def combine(run: BlockFn, skip: BlockFn, operands: Operands, v_B: jax.Array) -> jax.Array:
        del skip, v_B
        return run(*operands)

    return Execution(decide, combine)


def conditional(threshold: Threshold = 0.5) -> Execution:
    """`masked`, row after row, each computing only the branch it takes: for one image at a time."""

    def combine(run: BlockFn, skip: BlockFn, operands: Operands, v_B: jax.Array) -> jax.Array:
        u_B = relaxation.hard_decision(v_B, threshold)
        if u_B.shape[0] == 1:
            return jax.lax.cond(u_B[0], run, skip, *operands)

        def row(u: jax.Array, *operands: jax.Array) -> jax.Array:
            return jax.lax.cond(u, run, skip, *(x[None] for x in operands))[0]

        return jax.lax.map(lambda each: row(*each), (u_B, *operands))

    return Execution(_decide_hard, combine)


def compacted(threshold: Threshold = 0.5, tile: int | None = None) -> Execution:
    """`masked`, but F is computed of the rows that run and of few others.

    With `tile`, the rows that run are gathered so many at a time by a loop that ends with the last of them, so the work
    follows the decisions while every shape is static. Without it a CPU works in tiles, and an accelerator, where every
    turn of a loop costs launches and a read on the host, in one piece of the batch that holds all rows that run.
    """

    def combine(run: BlockFn, skip: BlockFn, operands: Operands, v_B: jax.Array) -> jax.Array:
        u_B = relaxation.hard_decision(v_B, threshold)
        if tile:
            return _run_in_tiles(run, skip, operands, u_B, tile)
        in_tiles = partial(_run_in_tiles, run, skip, operands, u_B)
        cpu = max(1, CPU_TILE_NUMBERS // math.prod(operands[0].shape[1:]))
        if not isinstance(u_B.shape[0], int):  # the symbolic batch of an export

            def by_batch(*tiles: int) -> jax.Array:
                """In the smallest tile that holds the batch, or in the largest there is."""
                num_rows, smaller = jnp.asarray(u_B.shape[0], jnp.int32), jnp.asarray(tiles[:-1], jnp.int32)
                choice = jnp.count_nonzero(num_rows > smaller)
                return jax.lax.switch(choice, [partial(in_tiles, each) for each in tiles])

            on_cpu = partial(by_batch, *dict.fromkeys((1, cpu)))
            return jax.lax.platform_dependent(cpu=on_cpu, default=partial(by_batch, *TILES_ELSEWHERE))
        in_one_piece = partial(_run_a_prefix, run, skip, operands, u_B)
        return jax.lax.platform_dependent(cpu=partial(in_tiles, min(cpu, u_B.shape[0])), default=in_one_piece)

    return Execution(_decide_hard, combine)


def with_noise(execution: Execution) -> Execution:
    """A hard execution that heeds noise: added to the router's logits, it draws decisions, or dictates them."""

    def decide(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array | None) -> jax.Array:
        return execution.decide(router_logits_Bx2 if noise_Bx2 is None else router_logits_Bx2 + noise_Bx2, None)

    return execution._replace(decide=decide)


def dictated(decisions: ArrayLike) -> jax.Array:
    """The noise under which `with_noise` takes these decisions, whatever routers say: [..., 2], float32.

    For decisions that no router takes, such as a benchmark's, or that are other images'.

    Args:
      decisions: of any shape, booleans or 0 and 1.
    """
    margins = jnp.where(jnp.asarray(decisions) > 0, jnp.float32(CERTAIN), jnp.float32(-CERTAIN))
    return jnp.stack([jnp.zeros_like(margins), margins], axis=-1)


def _decide_hard(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array | None) -> jax.Array:
    """v of Eq. 6; there is no noise where it counts."""
    del noise_Bx2
    return relaxation.run_probability(router_logits_Bx2)


def _run_in_tiles(run: BlockFn, skip: BlockFn, operands: Operands, u_B: jax.Array, tile: int) -> jax.Array:
    skipped = skip(*operands)
    num_rows, num_run = u_B.shape[0], jnp.sum(u_B)
    # The rows that run, and then a row that does not exist: it is read as the last one, and written nowhere.
    rows_B = jnp.nonzero(u_B, size=-(-num_rows // tile) * tile, fill_value=num_rows)[0]

    def run_tile(i: jax.Array, output: jax.Array) -> jax.Array:
        rows_T = jax.lax.dynamic_slice_in_dim(rows_B, i * tile, tile)
        # A row is read before it is written, so that where skipping changes nothing the block works in place.
        sources = (output if x is skipped else x for x in operands)
        if tile == 1:  # which is then a row that runs, and a slice costs less than a gather
            ran = run(*(jax.lax.dynamic_slice_in_dim(x, rows_T[0], 1) for x in sources))
            return jax.lax.dynamic_update_slice_in_dim(output, ran, rows_T[0], 0)
        tiles = (x.at[rows_T].get(mode='clip') for x in sources)
        return output.at[rows_T].set(run(*tiles), mode='drop')

    return jax.lax.fori_loop(0, -(-num_run // tile), run_tile, skipped)


def _run_a_prefix(run: BlockFn, skip: BlockFn, operands: Operands, u_B: jax.Array) -> jax.Array:
    """The rows that run come first, and F is computed of the shortest of `NUM_PREFIXES` prefixes that holds them."""
    skipped = skip(*operands)
    num_rows = u_B.shape[0]
    rows_B = jnp.nonzero(u_B, size=num_rows, fill_value=num_rows)[0]
    step = -(-num_rows // NUM_PREFIXES)
    sizes = [min(size, num_rows) for size in range(0, num_rows + step, step)]

    def of_size(size: int) -> Callable[..., jax.Array]:
        def run_prefix(output: jax.Array) -> jax.Array:
            if not size:
                return output
            # Rows are read before they are written, as in `_run_in_tiles`.
            sources = (output if x is skipped else x for x in operands)
            ran = run(*(x.at[rows_B[:size]].get(mode='clip') for x in sources))
            return output.at[rows_B[:size]].set(ran, mode='drop')

        return run_prefix

    return jax.lax.switch(-(-jnp.sum(u_B) // step), [of_size(size) for size in sizes], skipped)
