"""Where the time of a training step goes: waiting for input, on the host, on the devices."""

import contextlib
import pathlib
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.config.setup import Setup
from codinet_jax.data.prefetch import prefetch
from codinet_jax.runtime import hosts, sharding
from codinet_jax.training import stages

WARM_UP = 3
TRACED = 3

# TFLOP/s of a device in dense bfloat16, from the makers' data sheets, by how JAX's name for it begins. float32 has half
# of it on NVIDIA's cards, as TF32; on a TPU it is computed from bfloat16 parts, and its peak is not stated.
PEAK_TFLOPS = {
    'NVIDIA A100': 312.0,
    'NVIDIA H100 PCIe': 756.0,
    'NVIDIA H100': 989.0,
    'NVIDIA H200': 989.0,
    'TPU v4': 275.0,
    'TPU v5 lite': 197.0,
    'TPU v5': 459.0,
    'TPU v6 lite': 918.0,
}

Batch = tuple[jax.Array, ...]


class StepTimes(NamedTuple):
    """Seconds of one turn of the loop: it waits for a batch, dispatches step s, and waits for step s - 1."""

    input: float
    host: float
    device: float


def profile(
    setup: Setup,
    number: int = 1,
    num_steps: int = 20,
    trace: pathlib.Path | None = None,
    peak_tflops: float | None = None,
    report: Callable[[str], None] = print,
    *,
    with_data: bool = True,
) -> dict[str, Any]:
    """Takes steps of a stage of a setup's training, as training takes them, and times them.

    Args:
      setup: what would be trained; nothing of it is kept.
      number: of the stage, 1 or 2.
      num_steps: that are timed, after some that are not.
      trace: a directory for a trace of a few steps more; None for none.
      peak_tflops: of one device; None looks it up.
      report: takes lines of progress.
      with_data: whether steps are taken on the setup's data set; else on one batch of random pixels, on the devices
        already, for which no data need be there.

    Returns:
      Medians, and what follows from them: seconds, images a second, the share of the devices' peak, bytes a device.

    Raises:
      InputError: the batch cannot be spread over the devices, or the data cannot be used.
    """
    recipe, mesh = setup.recipe, sharding.data_mesh()
    recipe.check_devices(mesh.size)
    if with_data:
        train_set = setup.data.open('train')
        num_images = train_set.num_images
        batches = train_set.train_batches(0, recipe.batch_size, recipe.num_views, recipe.seed, hosts.this())
        placed = prefetch(sharding.put(mesh, *batch) for batch in batches)
    else:
        num_images, placed = recipe.batch_size, _repeated(sharding.put(mesh, *random_batch(setup)))
    stage = stages.plan(setup, num_images)[number - 1]
    with contextlib.closing(placed) as ready:
        state, batch = stage.placed_state(mesh), next(ready)
        report('compiling the step ...')
        started = time.perf_counter()
        step_fn: Any = stages.compiled(stage.step, mesh)
        executable = step_fn.lower(state, *batch).compile()
        compile_seconds = time.perf_counter() - started
        report(f'compiled in {compile_seconds:.1f} s; taking {WARM_UP + num_steps} steps as training does ...')
        state, times = _in_training(executable, state, ready, WARM_UP + num_steps)
        report(f'{num_steps} steps on one batch, and {num_steps} batches with no step ...')
        state, device_alone = _devices_alone(executable, state, batch, num_steps)
        input_alone = _input_alone(ready, num_steps)
        if trace:
            with jax.profiler.trace(trace, create_perfetto_trace=True):
                _in_training(executable, state, ready, TRACED)
    times = times[WARM_UP:]
    seconds = {'step': statistics.median(map(sum, times))}
    seconds |= {part: statistics.median(getattr(t, part) for t in times) for part in StepTimes._fields}
    seconds |= {'devices_alone': device_alone, 'input_alone': input_alone, 'compile': compile_seconds}
    return {
        'stage': number,
        'steps': num_steps,
        'platform': jax.default_backend(),
        'num_devices': mesh.size,
        'batch_size': recipe.batch_size,
        'num_views': recipe.num_views,
        'seconds': seconds,
        'images_per_second': recipe.batch_size / seconds['step'],
        **_utilisation(setup, seconds['step'], mesh.size, peak_tflops),
        'peak_bytes': (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use'),
        'compiled_bytes': sharding.peak_bytes(executable),
    }


def readable(found: Mapping[str, Any]) -> str:
    """What `profile` found, for a person."""
    seconds, views = found['seconds'], found['num_views']
    lines = [
        f'step {seconds["step"] * 1e3:.1f} ms (median of {found["steps"]}), '
        f'{found["images_per_second"]:.1f} images/s, {views * found["images_per_second"]:.1f} views/s'
    ]
    host = 'dispatching, which on a CPU is computing' if found['platform'] == 'cpu' else 'dispatching'
    what = {'input': 'waiting for the next batch', 'host': host, 'device': 'waiting for the devices'}
    lines += [f'  {seconds[part] * 1e3:9.1f} ms  {text}' for part, text in what.items()]
    alone = {'devices_alone': 'the devices, were there no input', 'input_alone': 'the input, were there no step'}
    for part, text in alone.items():
        rate = found['batch_size'] / seconds[part]
        lines.append(f'alone {seconds[part] * 1e3:8.1f} ms  {text}: {rate:.1f} images/s')
    utilisation = (
        f'{found["model_flops_utilisation"]:.1%} of {found["peak_tflops"]:g}'
        if found['model_flops_utilisation'] is not None
        else 'of a peak not known here: give --peak_tflops'
    )
    lines.append(f'model FLOPs  {found["tflops_per_device"]:.3f} TFLOP/s a device, {utilisation}')
    measured = f'{found["peak_bytes"] / 2**20:.0f} MiB a device at the peak; ' if found['peak_bytes'] else ''
    lines.append(f'memory  {measured}{found["compiled_bytes"] / 2**20:.0f} MiB a device as compiled')
    return '\n'.join(lines)


def peak_of(device_kind: str, dtype: str = 'bfloat16') -> float | None:
    """TFLOP/s of a device by JAX's name for it, in bfloat16 or float32; None if it is not known."""
    known = [kind for kind in PEAK_TFLOPS if device_kind.startswith(kind)]
    if not known or (dtype == 'float32' and not device_kind.startswith('NVIDIA')):
        return None
    return PEAK_TFLOPS[max(known, key=len)] / (2 if dtype == 'float32' else 1)


def random_batch(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """A batch of random pixels and classes, as training would be given it."""
    recipe, dataset = setup.recipe, setup.data.dataset
    rng, views = np.random.default_rng(recipe.seed), (recipe.num_views,) if dataset.is_streamed else ()
    images = rng.integers(0, 256, (recipe.batch_size, *views, *dataset.image_shape), np.uint8)
    return images, rng.integers(0, setup.data.spec.num_classes, recipe.batch_size, np.int32)


def flops_of_step(setup: Setup) -> float:
    """Of the model, of a step on a batch of a setup.

    Backward costs twice what forward does. All blocks run: relaxed and masked gates compute both branches.
    """
    costs, recipe = setup.costs, setup.recipe
    return 3 * 2 * costs.mean_macs(np.ones(costs.num_blocks)) * recipe.batch_size * recipe.num_views


def _utilisation(
    setup: Setup, step_seconds: float, num_devices: int, peak_tflops: float | None
) -> dict[str, float | None]:
    rate = flops_of_step(setup) / step_seconds / num_devices / 1e12
    peak = peak_tflops or peak_of(jax.devices()[0].device_kind, jnp.dtype(setup.model.dtype).name)
    return {
        'tflops_per_device': rate,
        'peak_tflops': peak,
        'model_flops_utilisation': rate / peak if peak else None,
    }


def _repeated(batch: Batch) -> Generator[Batch, None, None]:
    while True:
        yield batch


def _in_training(executable: Any, state: Any, ready: Iterator[Batch], num_steps: int) -> tuple[Any, list[StepTimes]]:
    times, unread = [], None
    for _ in range(num_steps):
        started = time.perf_counter()
        batch = next(ready)
        has_batch = time.perf_counter()
        state, metrics = executable(state, *batch)
        dispatched = time.perf_counter()
        jax.device_get(unread)
        unread = metrics
        times.append(StepTimes(has_batch - started, dispatched - has_batch, time.perf_counter() - dispatched))
    jax.block_until_ready(state)
    return state, times


def _devices_alone(executable: Any, state: Any, batch: Batch, num_steps: int) -> tuple[Any, float]:
    started = time.perf_counter()
    for _ in range(num_steps):
        state, _ = executable(state, *batch)
    jax.block_until_ready(state)
    return state, (time.perf_counter() - started) / num_steps


def _input_alone(ready: Iterator[Batch], num_batches: int) -> float:
    for _ in range(WARM_UP):  # what was prefetched meanwhile
        next(ready)
    started = time.perf_counter()
    for _ in range(num_batches):
        jax.block_until_ready(next(ready))
    return (time.perf_counter() - started) / num_batches
