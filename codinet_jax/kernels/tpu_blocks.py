"""Equal basic blocks, each run or skipped image by image, as one Pallas kernel for TPUs: one launch for a whole stack.

A tile of images stays in VMEM while the blocks' weights stream by. Before each block the kernel asks the router, writes
down which images run, and computes these alone, in groups of `ROWS` rows: what is skipped is a turn that a loop does
not take. XLA's compacted way goes to HBM again and again: it gathers, convolves twice and scatters.

Rows of the image lie in sublanes, pixels and channels together in lanes, so that no lane is empty: [H, W * C], which is
512 lanes in each stage of a CIFAR ResNet. With channels alone in lanes 16 of 128 would be of use, in memory too. A
convolution is then a product with a band matrix, 128 lanes out at a time: of the same 128 lanes in three rows, and of
their two neighbour pixels, which share another 128 lanes. Of the products 144 of 768 are of use at 16 channels, 288 at
32 and 576 at 64 (nine products of [pixels, 16] by [16, 16] would use 144 of 9 * 128 lanes in, and 16 of 128 out).

The floor, of ResNet-110 in bfloat16 on a v5e (98 T MACs/s, 0.82 TB/s): 0.77 G MACs an image, zeros counted, are 8 us;
half the blocks are 4. Of bytes a tile reads each block's weights, 0.46 MB or 0.6 us, while it computes for 8 us if all
of it runs; activations are read and written once a stack, 0.11 MB an image, 0.14 us. XLA's compacted way moves some
5.7 MB an image at half the blocks, 7 us, if it leaves no lane empty. One image alone waits for 24 MB of weights, 29 us.
libtpu 0.0.48.1 schedules a full group in 1,640 to 1,710 bundles of instructions a block, where the matrix units need
1,536 cycles; routers and the choice of images take 330 to 1,000 a tile. All this is arithmetic: the kernel compiles for
TPUs and has never run on one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES, SUBLANES = 128, 8
ROWS = 128  # of a group: as many as a matrix unit has rows of weights to load, which then cost nothing
TILE_ROWS = 1024  # of images that stay in VMEM together
BITS = 16  # of decisions that reach the scalar core in one number, which float32 holds exactly
VMEM_BYTES = 32 * 2**20  # float32 images of 64 pixels fit, and libtpu grants it on v4, v5e, v5p and v6e


class Blocks(NamedTuple):
    """The weights of n equal blocks as the kernel reads them; see `pack`. L is W * C, and K six times `LANES`.

    Attributes:
      bands: of both convolutions, [n, 2, K, LANES].
      biases: of both convolutions, for every lane, float32 [n, 2, L].
      hidden: routers' first layer, over sums of pixels, float32 [n, LANES, LANES].
      gates: its biases, and the second layer's margin between run and skip, float32 [n, 2, LANES].
      margins: the second layer's bias, float32 [n].
    """

    bands: Any
    biases: Any
    hidden: Any
    gates: Any
    margins: Any


def supports(size: int, channels: int) -> bool:
    """Whether the kernel computes blocks of images of a size, in pixels a side, and so many channels."""
    is_tiled = size % SUBLANES == 0 and TILE_ROWS % (size * BITS) == 0 and size * channels % LANES == 0
    return is_tiled and channels < LANES and LANES % channels == 0


def pack(residual: Any, router: Any, size: int, dtype: Any) -> Blocks:
    """The weights of n blocks of one shape, batch norm folded into their convolutions.

    Args:
      residual: 'conv1' and 'conv2', each a 'kernel' [n, 3, 3, C, C] and a 'bias' [n, C].
      router: 'hidden', [n, C, C] and [n, C], and 'decide', [n, C, 2] and [n, 2]; None for blocks that always run.
      size: pixels a side, H and W.
      dtype: of the convolutions' operands.
    """
    convs = [jax.tree.map(np.asarray, residual[name]) for name in ('conv1', 'conv2')]
    n, channels = convs[0]['bias'].shape
    hidden, gates, margins = np.zeros((n, LANES, LANES)), np.zeros((n, 2, LANES)), np.full(n, np.inf)
    if router is not None:
        first, second = (jax.tree.map(np.asarray, router[name]) for name in ('hidden', 'decide'))
        hidden[..., :channels] = np.tile(first['kernel'], (1, LANES // channels, 1)) / size**2  # a mean of sums
        gates[:, 0, :channels] = first['bias']
        gates[:, 1, :channels] = second['kernel'][..., 1] - second['kernel'][..., 0]
        margins = second['bias'][:, 1] - second['bias'][:, 0]
    return Blocks(
        bands=np.stack([_band(conv['kernel']) for conv in convs], axis=1).astype(dtype),
        biases=np.stack([np.tile(conv['bias'], (1, size)) for conv in convs], axis=1).astype(np.float32),
        hidden=hidden.astype(np.float32),
        gates=gates.astype(np.float32),
        margins=margins.astype(np.float32),
    )


def _band(kernel_nx3x3xCxC: np.ndarray) -> np.ndarray:
    """[n, K, LANES]: for each of three rows what LANES pixels and channels give to themselves, and neighbours to them.

    The neighbour pixel on the right is in the first C lanes of the latter, as it lies in the next lanes of the image;
    that on the left in the last C.
    """
    n, _, _, C, _ = kernel_nx3x3xCxC.shape
    band = np.zeros((n, 3, 2, LANES, LANES), kernel_nx3x3xCxC.dtype)
    own, neighbours = band[:, :, 0], band[:, :, 1]
    pixels = LANES // C
    for q in range(pixels):
        to = slice(q * C, (q + 1) * C)
        for r in range(max(q - 1, 0), min(q + 2, pixels)):
            own[:, :, r * C : (r + 1) * C, to] = kernel_nx3x3xCxC[:, :, r - q + 1]
    neighbours[:, :, :C, -C:] = kernel_nx3x3xCxC[:, :, 2]
    neighbours[:, :, -C:, :C] = kernel_nx3x3xCxC[:, :, 0]
    return band.reshape(n, 6 * LANES, LANES)


def run(
    blocks: Blocks,
    a_BxHxWxC: jax.Array,
    threshold: jax.Array,
    noise_margins_Bxn: jax.Array | None = None,
    *,
    interpret: Any = False,
) -> tuple[jax.Array, jax.Array]:
    """What n blocks make of B images under masked execution, and every gate's v, float32 [B, n].

    Args:
      blocks: what `pack` returns.
      a_BxHxWxC: of a shape that `supports` knows; in the type of the convolutions' operands.
      threshold: a block runs where v reaches it.
      noise_margins_Bxn: what is added to routers' logit margins; None for nothing.
      interpret: as in `pallas_call`: true anywhere but on a TPU.
    """
    B, H, W, C = a_BxHxWxC.shape
    n, L = len(blocks.margins), W * C
    images = min(B, TILE_ROWS // H)
    margins_Bxn = jnp.broadcast_to(blocks.margins, (B, n))
    if noise_margins_Bxn is not None:
        margins_Bxn += noise_margins_Bxn

    def of_tile(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((images, *shape), lambda tile, k: (tile, *(0 for _ in shape)))

    def of_block(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda tile, k: (k, *(0 for _ in shape)))

    ran, v_Bxn = pl.pallas_call(
        functools.partial(_block, num_images=B),
        out_shape=(
            jax.ShapeDtypeStruct((B, H, L), a_BxHxWxC.dtype),
            jax.ShapeDtypeStruct((B, n), jnp.float32),
        ),
        grid=(pl.cdiv(B, images), n),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            of_tile(H, L),
            of_tile(n),
            of_block(2, 6 * LANES, LANES),
            of_block(2, L),
            of_block(LANES, LANES),
            of_block(2, LANES),
        ],
        out_specs=(of_tile(H, L), of_tile(n)),
        scratch_shapes=[
            pltpu.VMEM((images, H, L), jnp.float32),
            pltpu.VMEM((images, LANES), jnp.float32),
            pltpu.SMEM((-(-images // BITS),), jnp.int32),
            pltpu.SMEM((images + 1,), jnp.int32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('parallel', 'arbitrary'), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=interpret,
        name='codinet_blocks',
    )(
        jnp.reshape(threshold, (1,)).astype(jnp.float32),
        a_BxHxWxC.reshape(B, H, L),
        margins_Bxn,
        blocks.bands,
        blocks.biases,
        blocks.hidden,
        blocks.gates,
    )
    return ran.reshape(a_BxHxWxC.shape), v_Bxn


def _block(
    threshold_ref: Any,
    a_ref: Any,
    margins_ref: Any,
    bands_ref: Any,
    biases_ref: Any,
    hidden_ref: Any,
    gates_ref: Any,
    ran_ref: Any,
    v_ref: Any,
    state_ref: Any,
    sums_ref: Any,
    bits_ref: Any,
    chosen_ref: Any,
    *,
    num_images: int,
) -> None:
    """Block k of a tile of T images: `state` [T, H, L] and `sums` of its pixels [T, LANES] stay from block to block."""
    tile, k = pl.program_id(0), pl.program_id(1)
    T, H, L = state_ref.shape

    @pl.when(k == 0)
    def _() -> None:
        state_ref[...] = a_ref[...].astype(jnp.float32)
        sums_ref[...] = _sums(state_ref[...])
        v_ref[...] = jnp.zeros_like(v_ref)

    v_Tx1 = _gate(sums_ref[...], hidden_ref[...], gates_ref[...], _column(margins_ref[...], k))
    v_ref[...] = jnp.where(_lane(v_ref.shape) == k, v_Tx1, v_ref[...])
    num_run = _choose(v_Tx1 >= threshold_ref[0], jnp.minimum(T, num_images - tile * T), bits_ref, chosen_ref)
    group = min(ROWS // H, T)

    def run_group(g: jax.Array, carry: None) -> None:
        # The last group is filled up with copies of an image of its own.
        rows = [chosen_ref[jnp.minimum(g * group + i, num_run - 1)] for i in range(group)]
        a_RxL = jnp.concatenate([state_ref[row] for row in rows])
        x_RxL = jax.nn.relu(_conv(a_RxL, H, bands_ref[0], biases_ref[0:1]))
        ran = jax.nn.relu(a_RxL + _conv(x_RxL, H, bands_ref[1], biases_ref[1:2]))
        ran_GxHxL = ran.astype(a_ref.dtype).astype(jnp.float32).reshape(group, H, L)
        sums_GxLANES = _sums(ran_GxHxL)
        for i, row in enumerate(rows):
            state_ref[row] = ran_GxHxL[i]
            sums_ref[pl.ds(row, 1)] = sums_GxLANES[i : i + 1]
        return carry

    lax.fori_loop(0, pl.cdiv(num_run, group), run_group, None)

    @pl.when(k == pl.num_programs(1) - 1)
    def _() -> None:
        ran_ref[...] = state_ref[...].astype(ran_ref.dtype)


def _gate(sums_TxLANES: Any, hidden: Any, gates_2xLANES: Any, margins_Tx1: Any) -> Any:
    """v [T, 1] of Eq. 3 to 6. In float32 throughout, as a route must not hang on how a product is rounded."""
    h_TxLANES = jnp.dot(sums_TxLANES, hidden, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    h_TxLANES = jax.nn.relu(h_TxLANES + gates_2xLANES[0:1])
    return jax.nn.sigmoid(jnp.sum(h_TxLANES * gates_2xLANES[1:2], axis=1, keepdims=True) + margins_Tx1)


def _choose(u_Tx1: Any, num_images: Any, bits_ref: Any, chosen_ref: Any) -> Any:
    """Writes down which images run, and returns how many: `BITS` decisions at a time reach the scalar core."""
    T = len(u_Tx1)
    i_Tx1 = lax.broadcasted_iota(jnp.int32, (T, 1), 0)
    weighted_Tx1 = jnp.where(u_Tx1 & (i_Tx1 < num_images), (1 << (i_Tx1 % BITS)).astype(jnp.float32), 0.0)
    for word in range(len(bits_ref)):
        bits_ref[word] = jnp.sum(weighted_Tx1[word * BITS : (word + 1) * BITS]).astype(jnp.int32)

    def of_word(word: Any, count: Any) -> Any:
        bits = bits_ref[word]
        for bit in range(BITS):
            chosen_ref[count] = word * BITS + bit  # unless this one is skipped, and the next that is not comes here
            count += (bits >> bit) & 1
        return count

    return lax.fori_loop(0, len(bits_ref), of_word, jnp.int32(0))


def _conv(x_RxL: Any, H: int, band: Any, bias_1xL: Any) -> Any:
    """A 3x3 convolution of images of H rows each, one below the other."""
    R, L = x_RxL.shape
    h_Rx1 = lax.broadcasted_iota(jnp.int32, (R, 1), 0) % H
    above = jnp.where(h_Rx1 == 0, 0.0, pltpu.roll(x_RxL, 1, 0))
    below = jnp.where(h_Rx1 == H - 1, 0.0, pltpu.roll(x_RxL, R - 1, 0))
    of_rows = [[x[:, j : j + LANES] for j in range(0, L, LANES)] for x in (above, x_RxL, below)]
    is_right = _lane((1, LANES)) < LANES // 2
    nothing = jnp.zeros((R, LANES), jnp.float32)
    precision = lax.Precision.HIGHEST if band.dtype == jnp.float32 else lax.Precision.DEFAULT

    def lanes_out(j: int) -> Any:
        parts = []
        for own in of_rows:
            left, right = (own[i] if 0 <= i < len(own) else nothing for i in (j - 1, j + 1))
            parts += [own[j], jnp.where(is_right, right, left)]
        patches_RxK = jnp.concatenate([part.astype(band.dtype) for part in parts], axis=1)
        return jnp.dot(patches_RxK, band, precision=precision, preferred_element_type=jnp.float32)

    return jnp.concatenate([lanes_out(j) for j in range(L // LANES)], axis=1) + bias_1xL


def _sums(x_TxHxL: Any) -> Any:
    """Over rows and over every `LANES` lanes: [T, LANES]."""
    sums_TxL = jnp.sum(x_TxHxL, axis=1)
    return sum(sums_TxL[:, j : j + LANES] for j in range(0, sums_TxL.shape[1], LANES))


def _column(x_Txn: Any, k: Any) -> Any:
    return jnp.sum(jnp.where(_lane(x_Txn.shape) == k, x_Txn, 0.0), axis=1, keepdims=True)


def _lane(shape: tuple[int, ...]) -> Any:
    return lax.broadcasted_iota(jnp.int32, shape, 1)
