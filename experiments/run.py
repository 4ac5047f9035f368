"""Trains the networks of the paper's tables and figures, those that are not trained yet:

    python -m experiments.run table2 --output=reproduced --data_dir=DIR --scale=cpu --seeds=0,1

Each run lies in OUTPUT/SCALE/RUN/seed_N, however many tables it stands in. Stop and start this as you like: runs go on
where they were, finished ones are skipped, and one that fails is reported and stops no other. Several of these
commands, on several devices (CUDA_VISIBLE_DEVICES) or hosts that share OUTPUT, divide the runs among themselves.
What came of it: python -m experiments.summarize --output=reproduced.
"""

import signal
import sys
from collections.abc import Sequence

import jax
from absl import flags

from codinet_jax.runtime import command, files
from experiments.reproduce import queue
from experiments.reproduce.scales import SCALES

OUTPUT = flags.DEFINE_string('output', 'reproduced', 'Where runs are kept, in a directory for each scale.')
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where TFDS keeps its sets, if not in TFDS's own default.")
SCALE = flags.DEFINE_enum(
    'scale', 'paper', list(SCALES), '; '.join(f'{name}: {scale.description}' for name, scale in SCALES.items())
)
WEIGHTS = flags.DEFINE_string(
    'weights', None, 'Where resnet20.npz, resnet32.npz and resnet56.npz are, which `pretrained` begins with.'
)
SEEDS = flags.DEFINE_list('seeds', ['0'], 'One run of each network for each.')
LIST = flags.DEFINE_bool('list', False, 'Only list which runs there are and which are finished.')


def main(argv: Sequence[str]) -> int:
    jax.config.update('jax_platforms', 'cpu')  # networks are only planned here: the devices are theirs who train
    jobs = queue.planned(argv[1:], files.expanded(OUTPUT.value) / SCALE.value, SEEDS.value)
    finished = sum(job.is_finished for job in jobs)
    print(
        f'scale {SCALE.value}: {SCALES[SCALE.value].description}\n{len(jobs)} runs, {finished} of them finished',
        flush=True,
    )
    if LIST.value:
        print('\n'.join(f'  {"finished" if job.is_finished else "to do":10}{job}' for job in jobs))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = queue.work_off(jobs, lambda job: queue.train(job, SCALE.value, DATA_DIR.value, WEIGHTS.value))
    for job in failed:
        print(f'failed: {job}; see {job.beside(".log")}', file=sys.stderr)
    if not failed:
        print(f'all are finished; for tables and figures: python -m experiments.summarize --output={OUTPUT.value}')
    return 1 if failed else 0


if __name__ == '__main__':
    command.run(main, takes_arguments=True)
