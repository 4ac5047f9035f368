"""Our stage 1 step as a PyTorch user would write it, timed: the opponent of `codinet_jax.profile`.

    python -m experiments.measure.torch_training --config=cifar10_r110:static --config.batch_size=128 \\
        --config.num_views=2 --config.model.dtype=bfloat16 --output=torch_r110.json

The same networks, losses, batch and views, on made-up pixels that are on the device already; crops and mirrors are
drawn there within the step, as ours are. channels_last, autocast where the dtype is bfloat16, fused SGD, convolutions
chosen by trial. A router other than linear or static is not written out. Variants, in the order in which they are
timed unless --variants says otherwise:

    eager           as it is
    graph           the whole step, update and all, in one CUDA graph
    blocks          each block compiled, equal ones once
    blocks_graph    the same in one CUDA graph
    compiled        the network and its losses under torch.compile
    reduce_overhead the same with mode='reduce-overhead', which is CUDA graphs

PyTorch is not a requirement of the package: pip install torch. The file is written after each variant.
"""

import faulthandler
import functools
import gc
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command
from codinet_jax.runtime.errors import InputError

if TYPE_CHECKING:
    import torch

    from codinet_jax.config.setup import Setup

CUDA_ONLY = ('graph', 'blocks_graph', 'reduce_overhead')
VARIANTS = ('eager', 'graph', 'blocks', 'blocks_graph', 'compiled', 'reduce_overhead')

CONFIG = config_flag.define_config('Network, batch and views.', 'cifar10_r110:static')
WANTED = flags.DEFINE_list('variants', None, f'Of {", ".join(VARIANTS)}; unset: all that this device has.')
REPEATS = flags.DEFINE_integer('repeats', 7, 'Bursts that are timed, of every variant.', lower_bound=1)
COMPILE_LIMIT = flags.DEFINE_float('compile_limit', 200.0, 'Seconds for a variant, compilation and all.')
TIME_LIMIT = flags.DEFINE_float('time_limit', 540.0, 'Seconds for all variants; those that are left are left out.')
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers to.')


def main(argv: Sequence[str]) -> None:
    del argv
    started = time.monotonic()
    # Beyond a limit that asks, one that does not: a driver that hangs is not asked.
    faulthandler.dump_traceback_later(TIME_LIMIT.value + 30, exit=True)
    try:
        import torch
    except ImportError as error:
        raise InputError('PyTorch is not installed: pip install torch.') from error
    config, output = config_flag.read(CONFIG), command.output_file(OUTPUT)
    jax.config.update('jax_platforms', 'cpu')  # it only reads the config here, and takes no memory of the card

    from codinet_jax.config import setup
    from experiments.measure import torch_measure

    named = setup.read(config)
    if named.model.router not in ('linear', None):
        raise InputError(f'model.router is {config.model.router!r}; here it must be linear or static.')
    if config.routing.relaxation != 'gumbel_softmax':
        raise InputError(f'routing.relaxation is {config.routing.relaxation!r}; here it must be gumbel_softmax.')
    device = torch_measure.start()
    variants = WANTED.value or [name for name in VARIANTS if device.type == 'cuda' or name not in CUDA_ONLY]
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise InputError(f'There is no variant {unknown[0]!r}: take some of {", ".join(VARIANTS)}.')
    if device.type != 'cuda' and (wrong := [name for name in variants if name in CUDA_ONLY]):
        raise InputError(f'{wrong[0]} needs CUDA: leave it out of --variants.')

    found: dict[str, Any] = {
        'framework': 'PyTorch',
        'machine': torch_measure.machine(device),
        'network': f'{config.model.backbone} {config.model.depth}, router {config.model.router}, {config.model.dtype}',
        'batch_size': config.batch_size,
        'num_views': config.num_views,
        'repeats': REPEATS.value,
        'rows': [],
    }
    print(found['network'], found['machine'], flush=True)
    for name in variants:
        left = TIME_LIMIT.value - (time.monotonic() - started)
        torch.manual_seed(config.seed)
        print(f'{name} ...', flush=True)
        row = {'variant': name} | torch_measure.attempt(
            min(COMPILE_LIMIT.value, left), functools.partial(_measured, name, named, device)
        )
        found['rows'].append(row)
        print(json.dumps(row), flush=True)
        if output:
            output.write_text(json.dumps(found, indent=2) + '\n')
    faulthandler.cancel_dump_traceback_later()
    print(readable(found))


def readable(found: dict[str, Any]) -> str:
    lines = [f'{found["network"]}, {found["batch_size"]} x {found["num_views"]} views']
    for row in found['rows']:
        if 'failed' in row:
            lines.append(f'  {row["variant"]:16} {row["failed"]}')
            continue
        seconds = row['seconds']
        lines.append(
            f'  {row["variant"]:16} {1e3 * seconds["step"]:9.2f} ms a step  {row["images_per_second"]:10.1f} images/s  '
            f'{row["tflops_per_device"]:7.2f} TFLOP/s  first step {seconds["compile"]:6.1f} s'
        )
    return '\n'.join(lines)


def _measured(name: str, setup: 'Setup', device: 'torch.device') -> dict[str, Any]:
    import torch

    from codinet_jax.training import profiling
    from experiments.measure import torch_measure
    from experiments.measure.torch_trainer import Trainer

    torch_measure.compile_afresh()
    gc.collect()  # what was compiled before is in cycles, and holds gigabytes
    if device.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(setup, device)
    started = time.perf_counter()
    if name.startswith('blocks'):
        for block in trainer.network.blocks:
            block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)
            block.relaxed = torch.compile(block.relaxed, fullgraph=True, dynamic=False)
    elif name in ('compiled', 'reduce_overhead'):
        mode = 'reduce-overhead' if name == 'reduce_overhead' else None
        trainer.loss = torch.compile(trainer.loss, fullgraph=True, dynamic=False, mode=mode)  # type: ignore[method-assign]
    step: Callable[[], Any] = trainer.step
    if name.endswith('graph'):
        # First of all, for what a step leaves behind on another stream cannot be captured.
        step, result = torch_measure.captured(trainer.step)
        step()
        loss = float(result)
    else:
        if name == 'reduce_overhead':
            step = _in_turns_of_their_own(trainer.step)
        loss = float(step())  # read at once, for the next step may write over it
    compile_seconds = time.perf_counter() - started
    print(f'  first step after {compile_seconds:.1f} s', flush=True)
    seconds = torch_measure.median_seconds(lambda i: step(), device, REPEATS.value)
    return {
        'stage': 1,
        'batch_size': trainer.batch_size,
        'num_views': trainer.num_views,
        'seconds': {'step': seconds, 'compile': compile_seconds},
        'images_per_second': trainer.batch_size / seconds,
        'tflops_per_device': profiling.flops_of_step(setup) / seconds / 1e12,
        'peak_bytes': torch.cuda.max_memory_allocated() if device.type == 'cuda' else None,
        'loss': loss,
    }


def _in_turns_of_their_own(step: Callable[[], Any]) -> Callable[[], Any]:
    """A step that marks for compiled CUDA graphs that the one before is over, and its memory theirs."""
    import torch

    def marked() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return step()

    return marked


if __name__ == '__main__':
    command.run(main)
