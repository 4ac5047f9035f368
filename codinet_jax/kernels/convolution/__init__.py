"""3x3 convolutions for training CIFAR ResNets in bfloat16 on a GPU, and both of their gradients, as CUDA kernels.

    conv = functools.partial(nn.Conv, conv_general_dilated=convolution.conv_general_dilated())

computes as before, and by the kernels what they know: as many channels out as in, 16 on 32x32 pixels, 32 on 16x16 or
64 on 8x8. Products are of bfloat16, sums float32, and the same to the bit each time. To XLA a call is opaque: on
several devices it needs `jax.shard_map`, for under a plain `jit` every device would compute the whole batch.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from codinet_jax.kernels import plain
from codinet_jax.kernels.library import Library, Platform

TARGET, GRADIENT_TARGET = 'codinet_convolution', 'codinet_convolution_gradient'
LIBRARY = Library(
    TARGET, 'convolution kernel', Path(__file__).parent, ('handler.h', 'kernel.h'), (TARGET, GRADIENT_TARGET)
)
SIZES = {16: 32, 32: 16, 64: 8}  # pixels a side, by channels
IMAGES_A_GROUP = {16: 2, 32: 2, 64: 8}  # `Gradient::kImages` in kernel.h


def supports(x: Any, w: Any) -> bool:
    """Whether the kernels know images [B, H, W, C] and a kernel [3, 3, C, C] by shape and type."""
    return (
        x.ndim == 4
        and w.ndim == 4
        and x.dtype == jnp.bfloat16
        and w.dtype in (jnp.bfloat16, jnp.float32)
        and x.shape[1] == x.shape[2] == SIZES.get(x.shape[3])
        and w.shape == (3, 3, x.shape[3], x.shape[3])
    )


@functools.cache
def conv_general_dilated(platform: Platform = 'CUDA') -> Callable[..., jax.Array]:
    """`lax.conv_general_dilated`, but by the kernels where they know what is asked for.

    Raises:
      InputError: the kernels cannot be built here.
    """
    LIBRARY.register(platform)

    def convolve(x: jax.Array, w: jax.Array, window_strides: Any, padding: Any, **others: Any) -> jax.Array:
        if supports(x, w) and plain.is_plain(x, w, window_strides, padding, **others):
            return conv3x3(x, w)
        return lax.conv_general_dilated(x, w, window_strides, padding, **others)

    return convolve


@jax.custom_vjp
def conv3x3(x_BxHxWxC: jax.Array, w_3x3xCxC: jax.Array) -> jax.Array:
    """bfloat16 images convolved with a bfloat16 or float32 kernel, stride 1 and padding 1, where it `supports` them.

    A float32 kernel is rounded, and its gradient is not. `conv_general_dilated(platform)` must have been called before,
    for the platform that the program is compiled for.
    """
    return _convolve(x_BxHxWxC, w_3x3xCxC.astype(jnp.bfloat16), back=False)


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, Any]:
    rounded = w.astype(jnp.bfloat16)
    # An array of no numbers tells the backward pass of which type its gradient is.
    return _convolve(x, rounded, back=False), (x, rounded, jnp.zeros((0,), w.dtype))


def _backward(kept: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w, like = kept
    return _convolve(dy, w, back=True), kernel_gradient(x, dy, like.dtype)


conv3x3.defvjp(_forward, _backward)


def _convolve(x: jax.Array, w: jax.Array, back: bool) -> jax.Array:
    return jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(x.shape, x.dtype))(x, w, back=back)


def kernel_gradient(x: jax.Array, dy: jax.Array, dtype: Any) -> jax.Array:
    """[3, 3, C, C] in float32 or bfloat16: over images and pixels, the sum of each input by each output's gradient."""
    channels = x.shape[-1]
    groups = -(-x.shape[0] // IMAGES_A_GROUP[channels])
    outputs = (
        jax.ShapeDtypeStruct((3, 3, channels, channels), dtype),
        jax.ShapeDtypeStruct((groups, 9 * channels**2), jnp.float32),
    )
    return jax.ffi.ffi_call(GRADIENT_TARGET, outputs)(x, dy)[0]
