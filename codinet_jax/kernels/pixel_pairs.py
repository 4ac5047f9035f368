"""3x3 convolutions of few output channels on a CPU, two neighbouring pixels at a time.

    conv = functools.partial(nn.Conv, conv_general_dilated=pixel_pairs.conv_general_dilated)

XLA:CPU multiplies a convolution's patches by its kernel as matrices, and 16 columns are too few to keep a core busy.
Two pixels side by side read patches of 3x4, and are the 32 outputs of a kernel that holds each kernel twice, one column
apart. A quarter of the products is of zeros; what is left takes 0.7 of the time. The sums have the same terms in
another order. Every other convolution, and every other platform, computes as before.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from codinet_jax.kernels import plain

CHANNELS = 16  # out; of 32 a core is kept busy, and the zeros lose


def conv_general_dilated(x: jax.Array, w: jax.Array, window_strides: Any, padding: Any, **others: Any) -> jax.Array:
    """`lax.conv_general_dilated`, but in pairs on a CPU where they are faster."""

    def as_before(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, w, window_strides, padding, **others)

    if not supports(x, w) or not plain.is_plain(x, w, window_strides, padding, **others):
        return as_before(x, w)
    return lax.platform_dependent(x, w, cpu=in_pairs, default=as_before)


def supports(x: Any, w: Any) -> bool:
    """Whether images [B, H, W, C] and a kernel [3, 3, C, O] are of shapes and types that pairs are good for."""
    return (
        x.ndim == w.ndim == 4
        and x.dtype == w.dtype == jnp.float32
        and x.shape[2] % 2 == 0
        and w.shape == (3, 3, x.shape[3], CHANNELS)
    )


def in_pairs(x_BxHxWxC: jax.Array, w_3x3xCxO: jax.Array) -> jax.Array:
    """The convolution of stride 1 and padding 1 [B, H, W, O], W even, on any platform."""
    twice = [jnp.pad(w_3x3xCxO, ((0, 0), (column, 1 - column), (0, 0), (0, 0))) for column in (0, 1)]
    pairs = lax.conv_general_dilated(
        x_BxHxWxC, jnp.concatenate(twice, axis=-1), (1, 2), ((1, 1), (1, 1)), dimension_numbers=plain.NHWC
    )
    return pairs.reshape(*x_BxHxWxC.shape[:3], w_3x3xCxO.shape[3])
