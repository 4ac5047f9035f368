"""What the device can do at best: bytes a second of a copy, FLOP/s of a bfloat16 matrix product, and the three
convolutions of a CIFAR ResNet alone. Random data, medians.

    python -m experiments.half_hour.ceilings FILE.json
"""

import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from codinet_jax.runtime import provenance

CHAIN = 20  # convolutions, each of what the one before wrote


def main() -> None:
    is_big = jax.default_backend() != 'cpu'
    keys = jax.random.split(jax.random.key(0), 8)
    x = jax.random.normal(keys[0], (2**31 if is_big else 2**22,), jnp.bfloat16)
    found: dict[str, Any] = {'machine': provenance.machine()}
    found['copy_bytes_per_second'] = 2 * x.nbytes / seconds(jax.jit(lambda x: x + 1), x)
    print(f'copy {found["copy_bytes_per_second"] / 1e12:.3f} TB/s', flush=True)
    del x
    n = 8192 if is_big else 256
    a = jax.random.normal(keys[1], (n, n), jnp.bfloat16)
    found['matmul_flops'] = 2 * n**3 / seconds(jax.jit(jnp.matmul), a, a)
    print(f'matrix product {found["matmul_flops"] / 1e12:.3f} TFLOP/s', flush=True)
    found['convolutions'] = [convolution(size, channels, is_big) for size, channels in ((32, 16), (16, 32), (8, 64))]
    pathlib.Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + '\n')


def convolution(size: int, channels: int, is_big: bool) -> dict[str, float]:
    num_images = 1024 if is_big else 2
    y = jax.random.normal(jax.random.key(2), (num_images, size, size, channels), jnp.bfloat16)
    w = jax.random.normal(jax.random.key(3), (3, 3, channels, channels), jnp.bfloat16)

    def once(_: Any, y: jax.Array, w: jax.Array) -> jax.Array:
        return 0.1 * lax.conv_general_dilated(y, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    chain = jax.jit(lambda y, w: lax.fori_loop(0, CHAIN, lambda i, y: once(i, y, w), y))
    taken = seconds(chain, y, w, times=5) / CHAIN
    flops, rate = 2 * 9 * channels**2 * size**2 * num_images / taken, 2 * y.nbytes / taken
    print(
        f'convolution {size}x{size}x{channels}, {num_images} images: {1e6 * taken:.1f} us, '
        f'{flops / 1e12:.3f} TFLOP/s, {rate / 1e12:.3f} TB/s',
        flush=True,
    )
    return {
        'size': size,
        'channels': channels,
        'images': num_images,
        'seconds': taken,
        'flops': flops,
        'bytes_per_second': rate,
    }


def seconds(call: Callable[..., Any], *arguments: Any, times: int = 20) -> float:
    jax.block_until_ready(call(*arguments))
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


if __name__ == '__main__':
    main()
