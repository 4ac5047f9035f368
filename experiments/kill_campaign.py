"""Kills training runs at random moments until they finish all the same, and compares them with one left in peace:

    python -m experiments.kill_campaign --kills=100 --output=killed

Every run is the same small network on digits, which saves every 20 steps, so that a kill may fall into start-up, a
step, a checkpoint being written, an evaluation, the change of stages or the last files. A run is started again and
again, by the same command, until it ends by itself; its weights, routes, results and metrics must then be those of the
undisturbed run to the bit. Exit status 1 if one is not.
"""

import collections
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from codinet_jax import doors, provenance
from codinet_jax.workdir import OutputDirectory
from experiments.sameness import differences, rows

KILLS = flags.DEFINE_integer('kills', 100, 'How many processes to kill.', lower_bound=1)
OUTPUT = flags.DEFINE_string('output', 'killed', 'Where the runs go; what lies there is removed.')
SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
RESULTS = flags.DEFINE_string('results', None, 'A JSON file to keep what came of it.')

COMMAND = (
    *('-m', 'codinet_jax.main', '--config=configs/digits_r14.py', '--config.model.depth=8'),
    *('--config.batch_size=16', '--config.num_views=2', '--config.loss.target_cost=0.6'),
    *('--config.stage1.epochs=1.0', '--config.stage1.decay_epochs=(0.5,)'),
    *('--config.stage2.epochs=1.0', '--config.stage2.decay_epochs=(0.5,)'),
    *('--config.eval_every_epochs=0.35', '--config.checkpoint_every_steps=20', '--config.log_every_steps=3'),
)


class Attempt(NamedTuple):
    """One process: the seconds it lived, whether it ended by itself, what it was at, and when it first saved."""

    seconds: float
    is_finished: bool
    phase: str
    first_checkpoint: float | None


def main(argv: Sequence[str]) -> int:
    del argv
    root = OutputDirectory(pathlib.Path(OUTPUT.value).expanduser().absolute()).path
    shutil.rmtree(root)
    root.mkdir()
    moments = random.Random(SEED.value)
    print('one run in peace, twice: the first fills the compilation cache ...', flush=True)
    for name in ('first', 'undisturbed'):
        peaceful = attempt(root, name, None)
        if not peaceful.is_finished:
            raise SystemExit(f'the undisturbed run failed: see {root / name}.log')
    attempts: list[Attempt] = []
    failed, number = differences(root / 'undisturbed', root / 'first'), 0
    while sum(not each.is_finished for each in attempts) < KILLS.value:
        name, number = f'run_{number}', number + 1
        while True:
            attempts.append(attempt(root, name, moments.uniform(0, 1.1 * peaceful.seconds)))
            if attempts[-1].is_finished:
                break
        failed += (unlike := [f'{name}: {what}' for what in differences(root / name, root / 'undisturbed')])
        kills = sum(not each.is_finished for each in attempts)
        print(f'{name} {"DIFFERS" if unlike else "equal to the bit"} after {kills} kills in all', flush=True)
        shutil.rmtree(root / name)
    told = _told(attempts, number, failed, peaceful)
    print(json.dumps(told, indent=1))
    if RESULTS.value:
        pathlib.Path(RESULTS.value).write_text(json.dumps(told, indent=1) + '\n')
    return 1 if failed else 0


def attempt(root: pathlib.Path, name: str, seconds: float | None) -> Attempt:
    """Starts a run, or goes on with it, and kills it after so long if it has not ended by then."""
    workdir, before = root / name, _saved(root / name)
    told = len(rows(workdir))
    cached = {'JAX_COMPILATION_CACHE_DIR': str(root / 'cache'), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    started, first_checkpoint = time.monotonic(), None
    with open(root / f'{name}.log', 'a') as log:
        process = subprocess.Popen(
            [sys.executable, *COMMAND, f'--workdir={workdir}'],
            env=os.environ | cached,
            stdout=log,
            stderr=log,
        )
        while process.poll() is None:
            lived = time.monotonic() - started
            if first_checkpoint is None and _saved(workdir) - before:
                first_checkpoint = lived
            if seconds is not None and lived >= seconds:
                process.kill()
            time.sleep(0.02)
    is_finished = process.returncode == 0
    if not is_finished and process.returncode != -9:
        raise SystemExit(f'{name} did not go on by itself: see {root / name}.log')
    phase = 'finished' if is_finished else _phase(workdir, told)
    return Attempt(time.monotonic() - started, is_finished, phase, first_checkpoint)


def _phase(workdir: pathlib.Path, told: int) -> str:
    """What a killed process was at, as far as what it left can tell."""
    checkpoints = workdir / 'checkpoints'
    if checkpoints.is_dir() and any(not path.name.isdecimal() for path in checkpoints.iterdir()):
        return 'a checkpoint being written'
    if (workdir / 'routes').exists():
        return 'results being written'
    new = rows(workdir)[told:]
    if not new:
        return 'start-up'
    if new[-1]['kind'] == 'evaluation':
        return 'after an evaluation'
    return f'stage {new[-1]["stage"]}'


def _told(attempts: Sequence[Attempt], num_runs: int, failed: Sequence[str], peaceful: Attempt) -> dict[str, Any]:
    killed = [each for each in attempts if not each.is_finished]
    first = [each.first_checkpoint for each in attempts if each.first_checkpoint is not None]
    return {
        'kills': len(killed),
        'kills_by_phase': dict(collections.Counter(each.phase for each in killed).most_common()),
        'runs': num_runs,
        'differences': list(failed),
        'seconds_undisturbed': round(peaceful.seconds, 2),
        'seconds_to_first_checkpoint_median': round(statistics.median(first), 2) if first else None,
        'seed': SEED.value,
        'command': ' '.join(('python', *COMMAND)),
    } | provenance.machine()


def _saved(workdir: pathlib.Path) -> set[str]:
    found = (workdir / 'checkpoints').glob('*')
    return {path.name for path in found if path.name.isdecimal()}


if __name__ == '__main__':
    doors.open_door(main)
