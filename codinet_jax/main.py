"""Trains and evaluates a network: `python -m codinet_jax.main --config=configs/digits_r14.py`.

Run it again to go on with a run that was stopped. Any field of the config can be set as `--config.loss.alpha=0.5`; a
variant's name may follow the file's after a colon: vanilla, consistency, static, random.
"""

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from codinet_jax import doors, hosts
from codinet_jax.workdir import Workdir

CONFIG = config_flags.DEFINE_config_file('config', help_string='Config file, as configs/cifar10_r110.py[:variant].')
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept; runs/CONFIG_NAME if not given.')
DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Join the other processes of a Cloud TPU pod or a Slurm job.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'Elsewhere: HOST:PORT of process 0, any free port there.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Elsewhere: how many processes train together.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Elsewhere: which of them this is, from 0.')


def main(argv: Sequence[str]) -> int | None:
    del argv
    config = doors.read_config(CONFIG)
    workdir = Workdir(WORKDIR.value or _default_workdir())
    cluster = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if DISTRIBUTED.value or any(value is not None for value in cluster):
        with hosts.joined(*cluster):
            return _train(config, workdir)
    doors.start_devices(config.batch_size // max(1, config.accumulate_steps))
    return _train(config, workdir)


def _train(config: ConfigDict, workdir: Workdir) -> int | None:
    from codinet_jax.training import loop, results
    from codinet_jax.training.metrics import say

    try:
        outcome = loop.train(config, workdir)
    except loop.Stopped as stop:
        say(str(stop))
        return 128 + stop.signal_number
    if outcome is not None:
        say(f'{results.readable(outcome)}\nin {workdir}')
    return None


def _default_workdir() -> pathlib.Path:
    filename, _, variant = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
    return pathlib.Path('runs') / '_'.join(filter(None, (pathlib.Path(filename).stem, variant)))


if __name__ == '__main__':
    doors.open_door(main)
