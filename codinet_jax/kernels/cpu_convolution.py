"""Convolutions for training on a CPU, with both gradients written out.

    conv = functools.partial(nn.Conv, conv_general_dilated=cpu_convolution.conv_general_dilated)
    conv = functools.partial(nn.Conv, conv_general_dilated=cpu_convolution.by_kernels())

The second is by the kernels in `simd`, which a C++ compiler makes. The first is without a compiler: forward by pixel
pairs where they win, and the kernel's gradient XLA's own, but of images put in its order apart from what comes before
(`channels_first`). In both the input's gradient is a forward convolution of the output's by the turned kernel.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from codinet_jax.kernels import pixel_pairs, plain, simd
from codinet_jax.runtime.console import log
from codinet_jax.runtime.errors import InputError

LEAST_SIZE = 16  # pixels a side of a network's images: of smaller ones there is little to gain without a compiler

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(x: jax.Array, w: jax.Array, window_strides: Any, padding: Any, **others: Any) -> jax.Array:
    """`lax.conv_general_dilated`, but by `convolve` where it knows what is asked for."""
    return _convolved(x, w, window_strides, padding, False, **others)


@functools.cache
def by_kernels() -> Callable[..., jax.Array]:
    """The same, by the kernels in `simd` where they know it.

    Raises:
      InputError: they cannot be built here.
    """
    simd.LIBRARY.register('cpu')
    return _by_kernels


@functools.cache
def is_built() -> bool:
    """Whether `by_kernels` can be had; if not, why is said once."""
    try:
        by_kernels()
    except InputError as error:
        log(f"{error} Until then XLA's convolutions train, and take longer.")
        return False
    return True


def _by_kernels(x: jax.Array, w: jax.Array, window_strides: Any, padding: Any, **others: Any) -> jax.Array:
    return _convolved(x, w, window_strides, padding, True, **others)


def _convolved(
    x: jax.Array, w: jax.Array, window_strides: Any, padding: Any, kernels: bool, **others: Any
) -> jax.Array:
    strides = tuple(window_strides)
    if _is_known(x, w, padding) and plain.is_nhwc(x, w, **others):
        return convolve(x, w, strides, tuple(tuple(side) for side in padding), kernels)
    return lax.conv_general_dilated(x, w, window_strides, padding, **others)


def _is_known(x: Any, w: Any, padding: Any) -> bool:
    """Whether it is of float32 images by an odd kernel that keeps the size but for the stride."""
    return (
        x.dtype == w.dtype == jnp.float32
        and x.ndim == w.ndim == 4
        and all(size % 2 for size in w.shape[:2])
        and not isinstance(padding, str)
        and [tuple(side) for side in padding] == [(size // 2, size // 2) for size in w.shape[:2]]
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x_BxHxWxC: jax.Array, w_hxwxCxO: jax.Array, strides: tuple[int, int], padding: Padding, kernels: bool = False
) -> jax.Array:
    """The convolution [B, H', W', O]."""
    if kernels and simd.supports(x_BxHxWxC, w_hxwxCxO, strides):
        return simd.convolution(x_BxHxWxC, w_hxwxCxO, strides[0], padding)
    if strides == (1, 1) and padding == ((1, 1), (1, 1)) and pixel_pairs.supports(x_BxHxWxC, w_hxwxCxO):
        return pixel_pairs.in_pairs(x_BxHxWxC, w_hxwxCxO)
    return _xla(x_BxHxWxC, w_hxwxCxO, strides, padding)


def _forward(
    x: jax.Array, w: jax.Array, strides: tuple[int, int], padding: Padding, kernels: bool
) -> tuple[jax.Array, Any]:
    return convolve(x, w, strides, padding, kernels), (x, w)


def _backward(
    strides: tuple[int, int], padding: Padding, kernels: bool, kept: Any, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *_between(x, dy, strides), (0, 0, 0)))
    dx = convolve(spread, jnp.swapaxes(w[::-1, ::-1], 2, 3), (1, 1), padding, kernels)
    if kernels and simd.supports(x, w, strides):
        return dx, simd.kernel_gradient(x, dy, w.shape[:2], strides[0], padding)
    return dx, _kernel_gradient(x, w, dy, strides, padding)


convolve.defvjp(_forward, _backward)


def _kernel_gradient(x: jax.Array, w: jax.Array, dy: jax.Array, strides: tuple[int, int], padding: Padding) -> Any:
    x_CxHxWxB = channels_first(x, w)
    transposed = jax.linear_transpose(lambda w: _xla(jnp.transpose(x_CxHxWxB, (3, 1, 2, 0)), w, strides, padding), w)
    return transposed(dy)[0]


def channels_first(x_BxHxWxC: jax.Array, w: jax.Array) -> jax.Array:
    """[C, H, W, B], the order in which XLA:CPU takes a kernel's gradient; `w` is any array that all devices have.

    Left alone, XLA fuses the transposition with all that comes before it, and computes the norms and sums of the last
    few blocks anew for each number, in strides: a third of a step's time. What a branch reads is computed before it and
    once, so both branches of a condition that only the weights know are the transposition.
    """

    def turned(x: jax.Array) -> jax.Array:
        return jnp.transpose(x, (3, 1, 2, 0))

    return lax.cond(jnp.ravel(w)[0] > 0, turned, turned, x_BxHxWxC)


def _between(x: jax.Array, dy: jax.Array, strides: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Zeros that bring rows and columns of the output's gradient to where they came from: before, after, between."""
    sizes = zip(x.shape[1:3], dy.shape[1:3], strides, strict=True)
    return [(0, before - (after - 1) * stride - 1, stride - 1) for before, after, stride in sizes]


def _xla(x: jax.Array, w: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=plain.NHWC)
