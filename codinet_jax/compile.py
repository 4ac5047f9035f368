"""Compiles training or inference for an accelerator that is not there. Check before you rent:

    python -m codinet_jax.compile --config=imagenet_r50 --topology=v5e-4x4 --program=train
    python -m codinet_jax.compile --config=cifar10_r110 --topology=h100 --program=predict --batch_size=1024

It is the program that would run there, by the compiler that would compile it there; no device and no data are needed.
It reports memory a chip and whether it fits, collectives and their bytes, loops, and of a GPU how much the host
launches and how often it waits to read what the device decided; of speed nothing.

Topologies are v5e-AxB, v6e-AxB, v4-AxBxC, v5p-AxBxC (v5e-4x4 is 16 chips, v5e-1x1 one), h100, and cpu, this machine's.
TPUs need the package jax[tpu], GPUs jax[cuda13]. Any setting can be tried, as --config.batch_size=512 or
--config.model.dtype=bfloat16; XLA_FLAGS and LIBTPU_INIT_ARGS are heeded. A ResNet-50 takes ten minutes on two cores.
The exit status is 1 where the program does not fit.
"""

import time
from collections.abc import Sequence

from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command, files, plugins
from codinet_jax.runtime.errors import InputError

CONFIG = config_flag.define_config('What to compile: cifar10_r110[:variant], another name, or a file.')
plugins.define_import()
TOPOLOGY = flags.DEFINE_string('topology', None, 'What to compile for, as v5e-4x4, v4-2x2x4, h100 or cpu.')
PROGRAM = flags.DEFINE_enum('program', 'train', ['train', 'predict'], 'A step of training, or inference.')
STAGE = flags.DEFINE_integer('stage', None, 'Of train: the stage whose step it is; 1.', lower_bound=1, upper_bound=2)
STRATEGY = flags.DEFINE_string(
    'strategy', None, 'Of predict: masked, conditional, fused (for TPUs), or compacted, the default.'
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'Of predict: images a call, over all chips; 128.', lower_bound=1)
TILE = flags.DEFINE_integer('tile', None, 'Of predict, compacted: rows at a time.', lower_bound=1)
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write everything to, with versions.')


def main(argv: Sequence[str]) -> int:
    del argv
    config = config_flag.read(CONFIG, 'what to compile: ')
    output = command.output_file(OUTPUT)
    if TOPOLOGY.value is None:
        raise InputError('Say what to compile for: --topology=v5e-4x4, h100 or another; see --help.')
    is_train = PROGRAM.value == 'train'
    if is_train and (BATCH_SIZE.value or STRATEGY.value or TILE.value):
        raise InputError(
            '--batch_size, --strategy and --tile are of --program=predict: training takes --config.batch_size.'
        )
    if STAGE.value and not is_train:
        raise InputError('--stage is of --program=train: inference has none.')
    batch = config.batch_size // max(1, config.accumulate_steps) if is_train else BATCH_SIZE.value or 128
    command.start_devices(batch)

    from codinet_jax.compiling import programs, report, summary, targets
    from codinet_jax.config import left_open
    from codinet_jax.runtime import provenance

    targets.prepare_process()
    target = targets.parse(TOPOLOGY.value)
    mesh = targets.mesh(target)
    named = left_open.read(config)
    recipe = named.recipe
    started = time.perf_counter()
    if is_train:
        stage = STAGE.value or 1
        about = {'program': 'train', 'stage': stage, 'batch_size': recipe.batch_size, 'views': recipe.num_views}
        lowered = programs.training_step(named, mesh, stage)
    else:
        batch_size, strategy = BATCH_SIZE.value or 128, STRATEGY.value or 'compacted'
        about = {'program': 'predict', 'strategy': strategy, 'batch_size': batch_size, 'tile': TILE.value}
        lowered = programs.inference(named.model, named.data.spec, mesh, batch_size, strategy, TILE.value)
    print(f'compiling for {target.name}, which may take minutes ...', flush=True)
    found = report.compiled(lowered, target, time.perf_counter() - started)
    print(summary.readable(found))
    if output:
        network = {'dataset': named.record['dataset'], **named.record['model']}
        everything = {'machine': provenance.machine(), 'network': network} | about | found
        files.write(output, lambda file: file.write(files.json_bytes(everything)))
        print(f'written to {output}')
    return 1 if found['memory']['fits'] is False else 0


if __name__ == '__main__':
    command.run(main)
