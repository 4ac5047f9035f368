"""Float32 convolutions on a CPU, and the gradients of their kernels, in C++ that a compiler makes for its processor.

XLA:CPU multiplies patches by kernels as matrices, and 16 or 32 columns are too few to keep a core busy. Here a tile of
the output, or of a kernel's gradient, stays in registers (kernel.h). Sums are the same to the bit each time, with any
number of threads. A batch that lies on several devices is computed where it lies.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from codinet_jax.kernels.library import FOR_CPUS, Library

TARGET, GRADIENT_TARGET = 'codinet_simd_convolution', 'codinet_simd_gradient'
LIBRARY = Library(
    'codinet_simd',
    'convolution for CPUs',
    Path(__file__).parent,
    ('kernel.h', 'tasks.h'),
    (TARGET, GRADIENT_TARGET),
    FOR_CPUS,
)
CHANNELS = 16  # what output channels are a multiple of: `kChannels` in kernel.h
IMAGES_A_GROUP = 8  # `kImages` in call.cpp
MOST_WEIGHTS = 9 * 128 * 128  # of a kernel: larger ones are read from memory again for each tile

Padding = tuple[tuple[int, int], tuple[int, int]]


def supports(x: Any, w: Any, strides: tuple[int, int]) -> bool:
    """Whether it is for images [B, H, W, C] and kernels [h, w, C, O] of such shapes and types."""
    return (
        x.dtype == w.dtype == jnp.float32
        and strides[0] == strides[1]
        and w.shape[3] % CHANNELS == 0
        and w.size <= MOST_WEIGHTS
    )


def convolution(x_BxHxWxC: jax.Array, w_hxwxCxO: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """The convolution [B, H', W', O]; `LIBRARY.register('cpu')` must have been called."""
    return _convolution(x_BxHxWxC, w_hxwxCxO, _known_by(stride, padding), stride, padding)


def kernel_gradient(
    x_BxHxWxC: jax.Array, dy_BxHxWxO: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    """[h, w, C, O], of a kernel of that size: over images and pixels, each input by each output's gradient."""
    return _kernel_gradient(x_BxHxWxC, dy_BxHxWxO, _known_by(size, stride, padding), size, stride, padding)


def _known_by(*static: Any) -> jax.Array:
    """A number for these arguments and this file, which goes with the arrays.

    JAX's compilation cache tells programs apart by what is in them before they are partitioned: that is the arrays of a
    call, but neither its other arguments nor what it is made of on each device.
    """
    digest = hashlib.sha256(repr(static).encode() + Path(__file__).read_bytes()).digest()
    return jnp.uint32(int.from_bytes(digest[:4]))


@functools.partial(custom_partitioning, static_argnums=(3, 4))
def _convolution(x: jax.Array, w: jax.Array, known_by: jax.Array, stride: int, padding: Padding) -> jax.Array:
    del known_by
    return _convolution_here(x, w, stride, padding)


@functools.partial(custom_partitioning, static_argnums=(3, 4, 5))
def _kernel_gradient(
    x: jax.Array, dy: jax.Array, known_by: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    del known_by
    return _kernel_gradient_here(x, dy, size, stride, padding)


def _convolution_here(x: jax.Array, w: jax.Array, stride: int, padding: Padding) -> jax.Array:
    height, width = (
        (side + sum(zeros) - window) // stride + 1
        for side, zeros, window in zip(x.shape[1:3], padding, w.shape[:2], strict=True)
    )
    y = jax.ShapeDtypeStruct((x.shape[0], height, width, w.shape[3]), x.dtype)
    return jax.ffi.ffi_call(TARGET, y)(x, w, **_attributes(stride, padding))


def _kernel_gradient_here(
    x: jax.Array, dy: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    dw = jax.ShapeDtypeStruct((*size, x.shape[3], dy.shape[3]), x.dtype)
    groups = jax.ShapeDtypeStruct((-(-x.shape[0] // IMAGES_A_GROUP), dw.size), x.dtype)
    return jax.ffi.ffi_call(GRADIENT_TARGET, (dw, groups))(x, dy, **_attributes(stride, padding))[0]


def _attributes(stride: int, padding: Padding) -> dict[str, Any]:
    return {'stride': stride, 'top': padding[0][0], 'left': padding[1][0]}


def _of_rows(mesh: Any, shapes: Any) -> tuple[Any, Any]:
    """How the first array's leading axis is spread, and a sharding of such rows."""
    axes = shapes[0].sharding.spec[0] if shapes[0].sharding.spec else None
    return axes, NamedSharding(mesh, PartitionSpec(axes))


def _partition_convolution(stride: int, padding: Padding, mesh: Any, shapes: Any, result: Any) -> Any:
    del result
    _, rows = _of_rows(mesh, shapes)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def here(x: jax.Array, w: jax.Array, known_by: jax.Array) -> jax.Array:
        del known_by
        return _convolution_here(x, w, stride, padding)

    return mesh, here, rows, (rows, everywhere, everywhere)


def _partition_gradient(
    size: tuple[int, int], stride: int, padding: Padding, mesh: Any, shapes: Any, result: Any
) -> Any:
    del result
    axes, rows = _of_rows(mesh, shapes)

    def summed(x: jax.Array, dy: jax.Array, known_by: jax.Array) -> jax.Array:
        del known_by
        here = _kernel_gradient_here(x, dy, size, stride, padding)
        return lax.psum(here, axes) if axes else here

    everywhere = NamedSharding(mesh, PartitionSpec())
    return mesh, summed, everywhere, (rows, rows, everywhere)


_convolution.def_partition(_partition_convolution, sharding_rule='b h w c, i j c o, -> b y x o')
_kernel_gradient.def_partition(_partition_gradient, sharding_rule='b h w c, b y x o, -> i j c o')
