"""The convolution kernels on a GPU: first whether they are right, then what they take beside XLA's.

    python -m experiments.measure.conv_gpu --output=FILE.json --step=cuda,xla

Nothing is timed if anything is wrong. A time is of one convolution in a chain of them, as in a network: each reads what
the one before wrote, and the kernel's gradient reads inputs that lie in memory since long ago.
"""

import functools
import gzip
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import lax
from ml_collections import ConfigDict

from codinet_jax.config import flags as config_flag
from codinet_jax.config import setup
from codinet_jax.kernels import convolution
from codinet_jax.runtime import command
from codinet_jax.training import profiling
from experiments.measure import kernel_trial
from experiments.measure.kernel_trial import log, platform

flags.adopt_module_key_flags(kernel_trial)
CONFIG = config_flag.define_config('Network whose step is timed.', 'cifar10_r110')
ROWS = flags.DEFINE_integer('rows', 256, 'Images to check and to time at.', lower_bound=1)
CHAIN = flags.DEFINE_integer('chain', 20, 'Convolutions in a chain.', lower_bound=1)
BURST = flags.DEFINE_float('burst', 0.1, 'Seconds of a burst.', lower_bound=0.0)
TURNS = flags.DEFINE_integer('turns', 5, 'Bursts of each chain, whose median counts.', lower_bound=1)
STEP = flags.DEFINE_list('step', [], 'Also time whole training steps, with each of these convolutions: cuda, xla.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images of a training step.', lower_bound=1)
VIEWS = flags.DEFINE_integer('views', 2, 'Views of each.', lower_bound=1)
UNROLL = flags.DEFINE_integer('unroll', 54, 'Blocks unrolled in a training step.', lower_bound=1)
NUM_STEPS = flags.DEFINE_integer('num_steps', 30, 'Training steps to time.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', 240.0, 'After so many, nothing else is begun.')
TRACE = flags.DEFINE_bool('trace', False, "Also list kernels' own times, as the profiler sees them.")

ALLOWED = {'bfloat16': 3e-3, 'float32': 1e-4}  # apart from float32, relative, by what the answer is rounded to
KINDS = ('forward', 'input gradient', 'kernel gradient')


def main(argv: Sequence[str]) -> int:
    del argv
    config = config_flag.read(CONFIG)
    log(f'{jax.devices()[0].device_kind}, JAX {jax.__version__}')
    started = time.perf_counter()
    convolution.conv_general_dilated(platform())
    build_seconds = time.perf_counter() - started
    log(f'library in {build_seconds:.1f} s')
    report = kernel_trial.Report(rows=ROWS.value, build_seconds=build_seconds, steps=[])
    # An odd number of images leaves a block with fewer than it has place for.
    right = True
    for channels in convolution.SIZES:
        for rows in (ROWS.value, ROWS.value - 1 | 1, 3):
            right &= check(channels, rows, report.checks)
    report.save()
    if not right and not kernel_trial.TIME_ANYWAY.value:
        log('WRONG: nothing is timed')
        return 1
    for channels in convolution.SIZES:
        if kernel_trial.seconds() > SECONDS.value:
            log(f'out of time before {channels} channels')
            break
        report.add('times', clock(channels, ROWS.value))
    for kind in STEP.value:
        if kernel_trial.seconds() > SECONDS.value:
            log(f'out of time before the step with {kind}')
            break
        report.add('steps', [{'convolution': kind, **step(config, kind)}])
    return 0 if right else 1


def random_inputs(channels: int, rows: int, seed: int) -> tuple[Any, Any, Any]:
    """bfloat16 images, a kernel that keeps their size about the same, and a gradient of what comes of them."""
    size = convolution.SIZES[channels]
    keys = jax.random.split(jax.random.key(seed), 3)
    x, dy = (jax.random.normal(key, (rows, size, size, channels), jnp.bfloat16) for key in keys[:2])
    w = jax.random.normal(keys[2], (3, 3, channels, channels)) / (9 * channels) ** 0.5
    return x, w.astype(jnp.bfloat16), dy


def by_xla(x: Any, w: Any, precision: lax.Precision | None = None) -> Any:
    return lax.conv_general_dilated(
        x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision=precision
    )


# --- Whether they are right. ---


def check(channels: int, rows: int, found: list[dict[str, Any]]) -> bool:
    """Adds a row for each kernel; True if each is as near float32 as rounding lets it be, and repeats to the bit."""

    def ours(x: Any, w: Any, dy: Any) -> Any:
        y, back = jax.vjp(convolution.conv3x3, x, w)
        return y, *back(dy), convolution.kernel_gradient(x, dy, jnp.float32)

    def theirs(x: Any, w: Any, dy: Any) -> Any:
        exact = functools.partial(by_xla, precision=lax.Precision.HIGHEST)
        y, back = jax.vjp(exact, *(each.astype(jnp.float32) for each in (x, w)))
        dx, dw = back(dy.astype(jnp.float32))
        return y, dx, dw, dw

    inputs = jax.block_until_ready(random_inputs(channels, rows, seed=time.time_ns() % 2**31))
    run = jax.jit(ours)
    kernel_trial.spoil_memory()
    answers = [np.asarray(part) for part in run(*inputs)]
    again = [np.asarray(part) for part in run(*inputs)]
    true = [np.asarray(part) for part in jax.jit(theirs)(*inputs)]
    right = True
    for name, mine, other, whole in zip((*KINDS, 'kernel gradient, float32'), answers, again, true, strict=True):
        error = mine.astype(np.float32) - whole
        apart = float(np.linalg.norm(error) / np.linalg.norm(whole))
        worst = float(np.max(np.abs(error)) / np.max(np.abs(whole)))
        repeats = bool(np.array_equal(mine, other))
        fine = apart <= ALLOWED[str(mine.dtype)] and worst <= 10 * ALLOWED[str(mine.dtype)] and repeats
        right &= fine
        found.append(
            {'channels': channels, 'rows': rows, 'kernel': name, 'apart': apart, 'worst': worst, 'repeats': repeats}
        )
        log(
            f'{channels:3} channels, {rows:4} rows, {name:24} apart {apart:.1e}, worst {worst:.1e} of the largest; '
            f'repeats to the bit: {repeats}  {"" if fine else "WRONG"}'
        )
        if not fine:
            _log_where(error, whole)
    return right


def _log_where(error: Any, true: Any) -> None:
    """Which part of each axis is wrong."""

    bad = ~(np.abs(error) <= 0.03 * np.max(np.abs(true)))
    for axis in range(bad.ndim):
        wrong = np.flatnonzero(bad.any(axis=tuple(k for k in range(bad.ndim) if k != axis)))
        log(f'        axis {axis}: {len(wrong)} of {bad.shape[axis]} wrong: {wrong[:20].tolist()}')
    log(f'        {bad.mean():.3f} of all numbers, {np.isnan(error).sum()} are NaN')


# --- What they take. ---


def clock(channels: int, rows: int) -> list[dict[str, Any]]:
    """Seconds of each kernel and of XLA's."""
    x, w, dy = random_inputs(channels, rows, seed=0)
    kept = [x + jnp.bfloat16(i) for i in range(CHAIN.value)]
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, conv in (('cuda', convolution.conv3x3), ('xla', by_xla)):
        for kind, chain in chains(conv).items():
            started = time.perf_counter()
            compiled = jax.jit(chain).lower(x if kind == 'forward' else dy, w, kept).compile()
            log(f'{channels} channels: compiled {name} {kind} in {time.perf_counter() - started:.1f} s')
            calls[name, kind] = functools.partial(compiled, x if kind == 'forward' else dy, w, kept)
    traced = trace(calls) if TRACE.value else []
    times = {key: seconds / CHAIN.value for key, seconds in bursts(calls).items()}
    rows_found: list[dict[str, Any]] = [{'channels': channels, 'rows': rows, 'by': 'trace', **each} for each in traced]
    size = convolution.SIZES[channels]
    flops = 2 * 9 * channels**2 * size**2 * rows
    for name in ('cuda', 'xla'):
        times[name, 'kernel gradient'] = times[name, 'both gradients'] - times[name, 'input gradient']
        for kind in KINDS:
            seconds = times[name, kind]
            rows_found.append({'channels': channels, 'rows': rows, 'by': name, 'kernel': kind, 'seconds': seconds})
            log(
                f'{channels:3} channels, {rows} rows, {name:4} {kind:16} {1e6 * seconds:8.2f} us  '
                f'{flops / seconds / 1e12:6.1f} TFLOP/s'
            )
    return rows_found


def chains(conv: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Chains of a convolution and of its gradients, as many as there are inputs."""

    def forward(x: Any, w: Any, inputs: Any) -> Any:
        for _ in inputs:
            x = conv(x, w)
        return x

    def back(dy: Any, w: Any, inputs: Any) -> Any:
        for x in inputs:
            dy = jax.vjp(lambda x: conv(x, w), x)[1](dy)[0]
        return dy

    def both(dy: Any, w: Any, inputs: Any) -> Any:
        gradients = []
        for x in inputs:
            dy, dw = jax.vjp(conv, x, w)[1](dy)
            gradients.append(dw)
        return dy, gradients

    return {'forward': forward, 'input gradient': back, 'both gradients': both}


def trace(calls: dict[Any, Callable[[], Any]]) -> list[dict[str, Any]]:
    """Every kernel's own seconds, its start left out, as the profiler sees them; nothing if it sees none."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, create_perfetto_trace=True):
            for call in calls.values():
                jax.block_until_ready(call())
        for path in pathlib.Path(directory).rglob('perfetto_trace.json.gz'):
            for event in json.loads(gzip.decompress(path.read_bytes()))['traceEvents']:
                if event.get('ph') == 'X' and 'correlation_id' in event.get('args', {}):
                    found.setdefault(event['name'], []).append(event['dur'] / 1e6)
    kernels: list[dict[str, Any]] = [
        {'kernel': name, 'seconds': statistics.median(each), 'least': min(each), 'times': len(each)}
        for name, each in sorted(found.items(), key=lambda item: -sum(item[1]))
    ]
    for each in kernels[:12]:
        log(f'        {1e6 * each["seconds"]:8.2f} us, {each["times"]:4} times: {each["kernel"][:90]}')
    return kernels[:30]


def bursts(calls: dict[Any, Callable[[], Any]]) -> dict[Any, float]:
    """The median seconds of a call over bursts in turns, back to back with one wait at a burst's end."""

    def seconds(call: Callable[[], Any], count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            out = call()
        jax.block_until_ready(out)
        return (time.perf_counter() - started) / count

    counts = {}
    for key, call in calls.items():
        seconds(call, 3)
        counts[key] = max(1, int(BURST.value / seconds(call, 3)))
    found: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(TURNS.value):
        for key, call in calls.items():
            found[key].append(seconds(call, counts[key]))
    return {key: statistics.median(each) for key, each in found.items()}


def step(config: ConfigDict, kind: str) -> dict[str, Any]:
    """A whole training step on random pixels."""
    config = config.copy_and_resolve_references()
    changes = {
        'model.dtype': 'bfloat16',
        'model.unroll': UNROLL.value,
        'model.convolution': kind,
        'batch_size': BATCH_SIZE.value,
        'num_views': VIEWS.value,
    }
    config.update_from_flattened_dict(changes)
    log(f'the step of {config.model.router} ResNet-{config.model.depth} with {kind}')
    found = profiling.profile(setup.read(config), num_steps=NUM_STEPS.value, report=log, with_data=False)
    for line in profiling.readable(found).splitlines():
        log(f'        {line}')
    return found


if __name__ == '__main__':
    command.run(main)
