"""Trains and evaluates a network: `python -m codinet_jax.main --config=configs/digits_r14.py`.

Run it again to go on with a run that was stopped. Any field of the config can be set as `--config.loss.alpha=0.5`; a
variant's name may follow the file's after a colon: vanilla, consistency, static.
"""

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from codinet_jax import doors

CONFIG = config_flags.DEFINE_config_file('config', help_string='Config file, as configs/cifar10_r110.py[:variant].')
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept; runs/CONFIG_NAME if not given.')
DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Join the other hosts of a TPU pod or a Slurm job.')


def main(argv: Sequence[str]) -> int | None:
    del argv
    config = doors.read_config(CONFIG)
    doors.start_devices(config.batch_size, distributed=DISTRIBUTED.value)

    from codinet_jax.training import loop, results
    from codinet_jax.training.metrics import say
    from codinet_jax.workdir import Workdir

    workdir = Workdir(WORKDIR.value or _default_workdir())
    try:
        outcome = loop.train(config, workdir)
    except loop.Stopped as stop:
        say(str(stop))
        return 128 + stop.signal_number
    say(f'{results.readable(outcome)}\nin {workdir}')
    return None


def _default_workdir() -> pathlib.Path:
    filename, _, variant = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
    return pathlib.Path('runs') / '_'.join(filter(None, (pathlib.Path(filename).stem, variant)))


if __name__ == '__main__':
    doors.open_door(main)
