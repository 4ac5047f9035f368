"""Which runs a table needs, and who trains them: one after another, by as many processes as there are."""

import contextlib
import fcntl
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from codinet_jax.config import setup
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir
from experiments.reproduce import pruning
from experiments.reproduce.definitions import DEFINITIONS
from experiments.reproduce.runs import RUNS
from experiments.reproduce.scales import SCALES, Scale, command_flags, config_of, needs_weights

SECONDS_BETWEEN_LOOKS = 10


class Job(NamedTuple):
    """A run of `RUNS` with a seed, where it is kept, and the one whose cost it is to have, if any.

    `made_of` are those whose weights it starts from, or of which it is a cascade.
    """

    run: str
    seed: int
    workdir: Workdir
    needs: 'Job | None' = None
    made_of: tuple['Job', ...] = ()

    def __str__(self) -> str:
        return f'{self.run}, seed {self.seed}'

    def beside(self, suffix: str) -> pathlib.Path:
        """A file about the run, next to its workdir, which holds nothing but the run."""
        return self.workdir.path.with_suffix(suffix)

    @property
    def awaits(self) -> tuple['Job', ...]:
        """Those that must be finished before it begins."""
        return (*((self.needs,) if self.needs else ()), *self.made_of)

    @property
    def cost(self) -> float | None:
        """The share of the static network's MACs that it is to have, once that is known."""
        return (self.needs.workdir.read_results() or {})['macs_share'] if self.needs else None

    @property
    def is_finished(self) -> bool:
        return self.workdir.read_results() is not None


def planned(names: Sequence[str], directory: pathlib.Path, seeds: Sequence[str]) -> list[Job]:
    """The runs that tables and figures need, each once, and before it the one that it needs.

    Raises:
      InputError: a name is unknown, or none is given, or a seed is no number.
    """
    if unknown := [name for name in names if name not in DEFINITIONS]:
        raise InputError(f'{unknown[0]!r} is no table or figure here: name some of {", ".join(DEFINITIONS)}.')
    if not names:
        raise InputError(f'Name what to reproduce, one or more of {", ".join(DEFINITIONS)}.')
    if not all(seed.isdecimal() for seed in seeds):
        raise InputError(f'--seeds is {",".join(seeds)}: write whole numbers, as --seeds=0,1,2.')

    jobs: dict[tuple[str, int], Job] = {}

    def add(run: str, seed: int) -> Job:
        if (run, seed) not in jobs:
            trained = RUNS[run]
            needs = add(trained.cost_of, seed) if trained.cost_of else None
            others = (*((trained.starts_from,) if trained.starts_from else ()), *trained.cascade_of)
            made_of = tuple(add(other, seed) for other in others)
            jobs[run, seed] = Job(run, seed, Workdir(directory / run / f'seed_{seed}'), needs, made_of)
        return jobs[run, seed]

    for seed in map(int, seeds):
        for row in (row for name in names for row in DEFINITIONS[name].rows):
            add(row.run, seed)
    return list(jobs.values())


def work_off(jobs: Sequence[Job], train: Callable[[Job], bool]) -> list[Job]:
    """Trains what is not finished and nobody else is at, until nothing is left; returns what failed."""
    failed: list[Job] = []
    while waiting := [job for job in jobs if not job.is_finished and job not in failed]:
        tried = 0
        for job in waiting:
            if any(each in failed for each in job.awaits):
                failed.append(job)
            elif all(each.is_finished for each in job.awaits):
                with _mine(job) as is_mine:
                    if is_mine and not job.is_finished:
                        tried += 1
                        failed += [] if train(job) else [job]
        if not tried and not any(each in failed for job in waiting for each in job.awaits):
            time.sleep(SECONDS_BETWEEN_LOOKS)  # somebody else is at what is left
    return failed


def config_for(job: Job, scale: Scale, weights: pathlib.Path | None = None) -> ConfigDict:
    """The config of a job whose others are finished; one that is pruned is pruned here.

    Raises:
      InputError: the config cannot be used, or the weights that it is made of are not there.
    """
    trained, start = RUNS[job.run], None
    if trained.given:
        start = weights / trained.given if weights else None
        if needs_weights(trained, scale) and not (start and start.exists()):
            raise InputError(
                f'{trained.given} is needed, as codinet_jax.import_weights writes it: say where, --weights.'
            )
    elif trained.starts_from:
        start = job.made_of[0].workdir.path / 'weights.npz'
    config = config_of(trained, scale, job.seed, job.cost, str(start) if start else None)
    if trained.is_pruned and start:
        pruned = job.beside('.npz')
        if not pruned.exists():
            target_cost = config_of(trained._replace(is_pruned=False), scale, job.seed).loss.target_cost
            pruning.write(start, setup.read(config), target_cost, pruned)
        config.init_from = str(pruned)
    return config


def cascade_flags(job: Job, scale: Scale) -> list[str]:
    """What `codinet_jax.cascade` is to be given; what one that was stopped has left is taken away."""
    exported = job.beside('.exported')
    for left in (exported, job.workdir.path):
        shutil.rmtree(left, ignore_errors=True)
    target_cost = config_of(RUNS[job.run], scale, job.seed).loss.target_cost
    members = ','.join(str(each.workdir) for each in job.made_of)
    return [f'--members={members}', f'--target_cost={target_cost}', f'--output={exported}', f'--workdir={job.workdir}']


def train(job: Job, scale: str, data_dir: str | None, weights: str | None = None) -> bool:
    """Trains in a process of its own, whose words go to the screen and to a log; returns whether it finished."""
    trained, command = RUNS[job.run], 'codinet_jax.main'
    try:
        if trained.cascade_of:
            command, arguments = 'codinet_jax.cascade', cascade_flags(job, SCALES[scale])
        else:
            config = config_for(job, SCALES[scale], pathlib.Path(weights).expanduser() if weights else None)
            arguments = [*command_flags(trained, config), f'--workdir={job.workdir}']
    except InputError as error:
        print(f'\n{job}: {error}', flush=True)
        return False
    about = {'run': job.run, 'scale': scale, 'command': [command, *map(_shortened, arguments[:-1])]}
    job.beside('.json').write_text(json.dumps(about, indent=2) + '\n')
    if data_dir:
        arguments.append(f'--data_dir={data_dir}' if trained.cascade_of else f'--config.data_dir={data_dir}')
    print(f'\n{job}', flush=True)
    with open(job.beside('.log'), 'a') as log, _ended_with_us(command, *arguments) as process:
        for line in process.stdout or ():
            print(f'  {line}', end='', flush=True)
            log.write(line)
            log.flush()
    return process.returncode == 0


def _shortened(flag: str) -> str:
    """A flag without the directories of the machine that it was given on."""
    name, _, value = flag.partition('=')
    if name not in ('--config.init_from', '--members', '--output') or value == 'None':
        return flag
    return f'{name}={",".join("/".join(pathlib.Path(each).parts[-3:]) for each in value.split(","))}'


@contextlib.contextmanager
def _mine(job: Job) -> Iterator[bool]:
    """Whether nobody else is at the run; nobody will be while this lasts, and a process that dies lets go."""
    job.beside('.lock').parent.mkdir(parents=True, exist_ok=True)
    with open(job.beside('.lock'), 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _ended_with_us(module: str, *arguments: str) -> Iterator['subprocess.Popen[str]']:
    """A command of this environment, which is asked to stop and waited for if this process is to stop."""
    process = subprocess.Popen(
        [sys.executable, '-m', module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that Ctrl-C reaches it once, from here
    )
    try:
        yield process
        process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
