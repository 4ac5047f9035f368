"""Trains and evaluates a network: `python -m codinet_jax.main --config=digits_r14`.

Run it again to go on with a run that was stopped. Any field of the config can be set as `--config.loss.alpha=0.5`; a
variant's name may follow the config's after a colon: vanilla, consistency, static, random, or one of another method in
codinet_jax/methods. A config of your own is given as the path of its file, and routers, methods, loss terms and data
sets of your own as `--import=my_router.py`.
"""

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command, hosts, plugins
from codinet_jax.workdir import Workdir

CONFIG = config_flag.define_config('What to train: cifar10_r110[:variant], another name, or a file.')
IMPORT = plugins.define_import()
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept; runs/CONFIG_NAME if not given.')
DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Join the other processes of a Cloud TPU pod or a Slurm job.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'Elsewhere: HOST:PORT of process 0, any free port there.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Elsewhere: how many processes train together.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Elsewhere: which of them this is, from 0.')


def main(argv: Sequence[str]) -> int | None:
    del argv
    config = config_flag.read(CONFIG)
    config.imports = tuple(dict.fromkeys((*config.imports, *IMPORT.value)))
    workdir = Workdir(_default_workdir() if WORKDIR.value is None else WORKDIR.value)
    cluster = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if DISTRIBUTED.value or any(value is not None for value in cluster):
        with hosts.joined(*cluster):
            return _train(config, workdir)
    command.start_devices(config.batch_size // max(1, config.accumulate_steps), trains=True)
    return _train(config, workdir)


def _train(config: ConfigDict, workdir: Workdir) -> int | None:
    from codinet_jax.evaluation.statistics import readable
    from codinet_jax.runtime.console import log
    from codinet_jax.runtime.signals import Stopped
    from codinet_jax.training import loop
    from codinet_jax.workdir import begin

    try:
        outcome = loop.train(begin(config, workdir), workdir)
    except Stopped as stop:
        log(str(stop))
        return 128 + stop.signal_number
    if outcome is not None:
        log(f'{readable(outcome)}\nin {workdir}')
    return None


def _default_workdir() -> pathlib.Path:
    filename, _, variant = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
    return pathlib.Path('runs') / '_'.join(filter(None, (pathlib.Path(filename).stem, variant)))


if __name__ == '__main__':
    command.run(main)
