"""A run of `experiments.reproduce` with some fields changed, going on where it was stopped:

    python -m experiments.half_hour.train_run cifar10_r110_codinet gpu30 DIRECTORY [FIELD=VALUE ...]

It becomes `codinet_jax.main`, so a signal to it is one to the training, which saves and ends.
"""

import json
import os
import pathlib
import sys
from typing import Any

import jax

from experiments.reproduce.runs import RUNS
from experiments.reproduce.scales import SCALES, command_flags, config_of


def main() -> None:
    name, scale_name, directory, *changes = sys.argv[1:]
    scale = SCALES[scale_name]
    more: dict[str, Any] = {}
    for change in changes:
        field, _, value = change.partition('=')
        more[field] = int(value) if value.isdecimal() else value
    data_dir = more.pop('data_dir', None)
    scale = scale._replace(changes={**scale.changes, 'checkpoint_every_steps': 2000, **more})
    jax.config.update('jax_platforms', 'cpu')  # the devices are training's
    config = config_of(RUNS[name], scale, seed=0)
    workdir = pathlib.Path(directory).resolve() / scale_name / name / 'seed_0'
    workdir.parent.mkdir(parents=True, exist_ok=True)
    arguments = ['-m', 'codinet_jax.main', *command_flags(RUNS[name], config)]
    about = {'run': name, 'scale': scale_name, 'command': arguments[1:]}
    workdir.with_suffix('.json').write_text(json.dumps(about, indent=2) + '\n')
    more_flags = [f'--workdir={workdir}', *([f'--config.data_dir={data_dir}'] if data_dir else [])]
    os.execv(sys.executable, [sys.executable, *arguments, *more_flags])


if __name__ == '__main__':
    main()
