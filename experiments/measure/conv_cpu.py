"""Our convolutions for CPUs beside XLA's, one core, in turns: `python -m experiments.measure.conv_cpu`.

3x3 convolutions of a CIFAR ResNet's stages and the gradients of their kernels, 64 images of random numbers, in billion
operations a second, medians of turns after one that is not counted.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from codinet_jax.runtime import command, provenance
from experiments.measure import report

TURNS = flags.DEFINE_integer('turns', 11, 'Of all.', lower_bound=1)
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers to.')
BATCH_SIZE = 64
ONES = ((1, 1), (1, 1))


def main(argv: Sequence[str]) -> None:
    del argv
    output = command.output_file(OUTPUT)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    command.start_devices()
    import jax

    from codinet_jax.kernels import simd

    simd.LIBRARY.register('cpu')
    rows, calls = [], _calls()
    for channels in (16, 32, 64):
        rng, size = np.random.default_rng(0), 512 // channels
        x, w = (
            jax.device_put(rng.normal(size=shape).astype(np.float32))
            for shape in ((BATCH_SIZE, size, size, channels), (3, 3, channels, channels))
        )
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(TURNS.value + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                jax.block_until_ready(call(x, w))
                seconds[name].append(time.perf_counter() - started)
        operations = 2 * x.size * 9 * channels
        rates = {name: operations / float(np.median(each[1:])) / 1e9 for name, each in seconds.items()}
        print(f'{channels} channels  ' + ', '.join(f'{name} {rate:.0f}' for name, rate in rates.items()), flush=True)
        rows.append({'channels': channels, 'gflops': rates})
    report.show({'machine': provenance.machine(), 'turns': TURNS.value, 'rows': rows}, str(output) if output else None)


def _calls() -> dict[str, Callable[..., Any]]:
    """By name, of images and a kernel; a kernel's gradient takes the images as the output's gradient too."""
    import jax
    from jax import lax

    from codinet_jax.kernels import cpu_convolution, plain, simd

    def by_xla(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(x, w, (1, 1), ONES, dimension_numbers=plain.NHWC)

    return {
        'forward': jax.jit(lambda x, w: simd.convolution(x, w, 1, ONES)),
        'forward by XLA': jax.jit(by_xla),
        'forward by pixel pairs': jax.jit(lambda x, w: cpu_convolution.convolve(x, w, (1, 1), ONES)),
        'gradient': jax.jit(lambda x, w: simd.kernel_gradient(x, x, (3, 3), 1, ONES)),
        'gradient by XLA': jax.jit(lambda x, w: jax.linear_transpose(lambda w: by_xla(x, w), w)(x)[0]),
    }


if __name__ == '__main__':
    command.run(main)
