"""Runs in order of importance, several at a time on one GPU, until time is up; what is finished is kept.

`python -m experiments.real_accuracy.plan --weights=DIR --data_dir=DIR --output=DIR --seconds=480 --epochs=20`

First everything that runs share is made at once: images, soft targets, the answers of given networks, and for each
network the order of its blocks and its compiled programs (in JAX's cache, under the output). No run is started later
than `--start_until`, and at `--seconds` what still runs is stopped: the exit status is then 1, and the same command
goes on. Cascades and the summary are made at the end. Every run has a log by the name of its results, added
to when the command goes on; where two would have one name, nothing is started.
"""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from codinet_jax.runtime import command, files
from codinet_jax.runtime.errors import InputError
from experiments.real_accuracy import images, naming

FLAGS = flags.FLAGS
flags.DEFINE_string('weights', None, 'Where resnet20.npz, resnet32.npz, resnet44.npz and resnet56.npz are.')
flags.DEFINE_string('data_dir', None, 'Where TFDS prepared CIFAR-10; not needed once the cache holds it.')
flags.DEFINE_string('output', 'runs/real_accuracy', 'Where results go; logs and the cache too.')
flags.DEFINE_string('cache', None, 'What runs share; None is `cache` in the output.')
flags.DEFINE_list('teachers', ['resnet56', 'resnet44', 'resnet32'], 'Distilled by every run.')
flags.DEFINE_float('seconds', 480, 'The end of everything but the summary.')
flags.DEFINE_float('start_until', None, 'No run is started later; None is 70 seconds before the end.')
flags.DEFINE_integer('parallel', 3, 'Runs at a time.')
flags.DEFINE_float('epochs', 20, 'Of every run.')
flags.DEFINE_integer('limit', None, 'Only so many runs of the plan.')
flags.DEFINE_string('plan', None, 'A file of runs, each line the flags of one (`--start=resnet56 --variant=rank ...`).')
flags.DEFINE_string('more', '', 'Flags added to every run and every preparation, separated by blanks.')

# Of the flags for every run, those that what is shared takes as well.
READ_BY_TEACHERS = ('--pool', '--cut', '--train_images', '--teacher_batch')
READ_BY_CASCADE = ('--test_images', '--calibration', '--eval_batch')
R56, R32, R20 = 'resnet56', 'resnet32', 'resnet20'
DEFAULT = [
    (R56, 'rank', 68.9e6, 0),
    (R32, 'static', None, 0),
    (R56, 'pruned', 68.9e6, 0),
    (R56, 'rank_codinet', 68.9e6, 0),
    (R56, 'rate', 68.9e6, 0),
    (R56, 'random', 68.9e6, 0),
    (R56, 'batch_rate', 68.9e6, 0),
    (R56, 'late', 68.9e6, 0),
    (R32, 'rank', 40.6e6, 0),
    (R20, 'static', None, 0),
    (R56, 'rank', 60e6, 0),
    (R56, 'static', None, 0),
    (R56, 'independent', 68.9e6, 0),
    (R56, 'rungs', 68.9e6, 0),
    *(
        (*run, seed)
        for seed in (1, 2)
        for run in (
            (R56, 'rank', 68.9e6),
            (R32, 'static', None),
            (R56, 'pruned', 68.9e6),
            (R56, 'rank_codinet', 68.9e6),
            (R56, 'rate', 68.9e6),
        )
    ),
]


class Job(NamedTuple):
    """A subprocess to be: its name, its module, its flags, and the jobs that must have ended before it starts."""

    name: str
    module: str
    flags: tuple[str, ...]
    after: tuple[str, ...] = ()


def jobs(cache: str) -> tuple[list[Job], list[Job]]:
    """What is shared, and the runs, which go by the names of their results.

    Raises:
      InputError: the plan cannot be read, or two of its runs would write the same results.
    """
    weights, more = pathlib.Path(FLAGS.weights), tuple(FLAGS.more.split())
    teachers = ','.join(str(weights / f'{teacher}.npz') for teacher in FLAGS.teachers)
    data = (f'--cache={cache}', *((f'--data_dir={FLAGS.data_dir}',) if FLAGS.data_dir else ()))
    common = (f'--output={FLAGS.output}', f'--teachers={teachers}', f'--epochs={FLAGS.epochs}', *data, *more)
    module = 'experiments.real_accuracy.run'
    runs: dict[str, Job] = {}
    starts: dict[str, str] = {}
    for line in _lines()[: FLAGS.limit]:
        start = next((flag.removeprefix('--start=') for flag in line if flag.startswith('--start=')), '')
        start_file = f'--start={weights / start}.npz'
        arguments = (*common, *(start_file if flag.startswith('--start=') else flag for flag in line))
        name = naming.of_arguments(arguments)
        if name in runs:
            raise InputError(
                f'Two runs of the plan would both write {name}.json, the second one with {" ".join(line)}: give it a '
                '--tag of its own.'
            )
        runs[name] = Job(name, module, arguments, (f'prepare_{start}', 'teachers'))
        starts[start] = start_file
    if not runs:
        raise InputError('There is no run in the plan: give --plan a file of them, the flags of one a line.')
    prepare = [
        Job(f'prepare_{start}', module, (start_file, '--variant=static', '--prepare_only', *common))
        for start, start_file in starts.items()
    ]
    given = ','.join(str(weights / f'resnet{depth}.npz') for depth in (20, 32, 44, 56))
    of_teachers, of_given = (
        [flag for flag in more if flag.partition('=')[0] in read] for read in (READ_BY_TEACHERS, READ_BY_CASCADE)
    )
    shared = [
        prepare[0],
        Job('teachers', 'experiments.real_accuracy.teachers', (f'--teachers={teachers}', *data, *of_teachers)),
        *prepare[1:],
        Job(
            'given',
            'experiments.real_accuracy.cascade',
            (f'--given={given}', f'--output={FLAGS.output}', *data, *of_given),
        ),
    ]
    return shared, list(runs.values())


def _lines() -> list[list[str]]:
    """The flags of every run of the plan."""
    if FLAGS.plan:
        with files.reading(FLAGS.plan):
            lines = pathlib.Path(FLAGS.plan).read_text().splitlines()
        return [line.split() for line in lines if line.strip()]
    return [
        [f'--start={start}', f'--variant={variant}', f'--seed={seed}', *([f'--target_macs={macs}'] if macs else [])]
        for start, variant, macs, seed in DEFAULT
    ]


def main(argv: Sequence[str]) -> int:
    del argv
    begin = time.perf_counter()
    output = pathlib.Path(FLAGS.output)
    cache = FLAGS.cache or str(output / 'cache')
    shared, runs = jobs(cache)
    (output / 'logs').mkdir(parents=True, exist_ok=True)
    environment = {
        'JAX_COMPILATION_CACHE_DIR': str((output / 'compiled').resolve()),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
        'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
        'PYTHONUNBUFFERED': '1',
        **os.environ,
    }
    for split in ('train', 'test'):  # once, before several processes would
        images.read(split, FLAGS.data_dir, pathlib.Path(cache))
    start_until = FLAGS.start_until or FLAGS.seconds - 70
    waiting = [*shared, *runs]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    ended: dict[str, int] = {}
    not_started: list[Job] = []

    def now() -> float:
        return time.perf_counter() - begin

    while (waiting or running) and now() < FLAGS.seconds:
        for job, process in list(running.items()):
            if process.poll() is not None:
                ended[job.name] = process.returncode
                del running[job]
                print(f'[{now():6.1f} s] ended {job.name}: {process.returncode}', flush=True)
        if now() > start_until:
            not_started += waiting
            waiting = []
        num_runs = sum(job in runs for job in running)
        for job in list(waiting):
            # What is shared may all be made at once: it is the processor's work for the most part.
            is_free = job in shared or num_runs < FLAGS.parallel
            if is_free and all(name in ended for name in job.after):
                waiting.remove(job)
                num_runs += job in runs
                arguments = [sys.executable, '-m', job.module, *job.flags]
                with open(output / 'logs' / f'{job.name.replace("/", "_")}.log', 'a') as log:
                    running[job] = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment)
                print(f'[{now():6.1f} s] started {job.name}', flush=True)
        time.sleep(0.2)
    for job, process in running.items():
        process.kill()
        process.wait()
        print(f'[{now():6.1f} s] stopped {job.name}', flush=True)
    if failed := [name for name, code in ended.items() if code]:
        print(f'failed: {", ".join(failed)}; see {output / "logs"}', flush=True)
    for module, more in (('cascade', [f'--cache={cache}']), ('summary', [])):
        arguments = [sys.executable, '-m', f'experiments.real_accuracy.{module}', f'--output={output}', *more]
        subprocess.run(arguments, env=environment | {'JAX_PLATFORMS': 'cpu'}, check=False)
    print(f'[{now():6.1f} s] done', flush=True)
    return 1 if failed or running or waiting or not_started else 0


if __name__ == '__main__':
    flags.mark_flag_as_required('weights')
    command.run(main)
