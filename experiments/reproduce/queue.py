"""Which runs a table needs, and who trains them: one after another, by as many processes as there are."""

import contextlib
import fcntl
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir
from experiments.reproduce.definitions import DEFINITIONS
from experiments.reproduce.runs import RUNS
from experiments.reproduce.scales import SCALES, command_flags, config_of

SECONDS_BETWEEN_LOOKS = 10


class Job(NamedTuple):
    """A run of `RUNS` with a seed, where it is kept, and the one whose cost or weights it needs, if any."""

    run: str
    seed: int
    workdir: Workdir
    needs: 'Job | None' = None

    def __str__(self) -> str:
        return f'{self.run}, seed {self.seed}'

    def beside(self, suffix: str) -> pathlib.Path:
        """A file about the run, next to its workdir, which holds nothing but the run."""
        return self.workdir.path.with_suffix(suffix)

    @property
    def cost(self) -> float | None:
        """The share of the static network's MACs that it is to have, once that is known."""
        if self.needs is None or not RUNS[self.run].cost_of:
            return None
        return (self.needs.workdir.read_results() or {})['macs_share']

    @property
    def start(self) -> pathlib.Path | None:
        """The weights that it starts from, if not fresh ones."""
        return self.needs.workdir.path / 'weights.npz' if self.needs and RUNS[self.run].start_of else None

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
            needed = RUNS[run].cost_of or RUNS[run].start_of
            needs = add(needed, seed) if needed else None
            jobs[run, seed] = Job(run, seed, Workdir(directory / run / f'seed_{seed}'), needs)
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
            if job.needs in failed:
                failed.append(job)
            elif job.needs is None or job.needs.is_finished:
                with _mine(job) as is_mine:
                    if is_mine and not job.is_finished:
                        tried += 1
                        failed += [] if train(job) else [job]
        if not tried and not any(job.needs in failed for job in waiting):
            time.sleep(SECONDS_BETWEEN_LOOKS)  # somebody else is at what is left
    return failed


def train(job: Job, scale: str, data_dir: str | None) -> bool:
    """Trains in a process of its own, whose words go to the screen and to a log; returns whether it finished."""
    trained = RUNS[job.run]
    try:
        config = config_of(trained, SCALES[scale], job.seed, job.cost)
    except InputError as error:
        print(f'\n{job}: {error}', flush=True)
        return False
    arguments = [*command_flags(trained, config), f'--workdir={job.workdir}']
    about = {'run': job.run, 'scale': scale, 'command': ['codinet_jax.main', *arguments[:-1]]}
    job.beside('.json').write_text(json.dumps(about, indent=2) + '\n')
    if job.start:
        arguments.append(f'--config.init_from={job.start}')
    if data_dir:
        arguments.append(f'--config.data_dir={data_dir}')
    print(f'\n{job}', flush=True)
    with open(job.beside('.log'), 'a') as log, _ended_with_us('codinet_jax.main', *arguments) as process:
        for line in process.stdout or ():
            print(f'  {line}', end='', flush=True)
            log.write(line)
            log.flush()
    return process.returncode == 0


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
