"""Kills training runs at random moments until they finish all the same, and compares them with one left in peace:

    python -m experiments.measure.kill_campaign --kills=100 --output=killed

Every run is the same small network on digits, which saves every 10 steps, so that a kill may fall into start-up, a
step, a checkpoint being written, an evaluation, the change of stages or the last files. One stop in five is a SIGTERM
or a SIGINT, after which a run should save, print how to go on, and be gone soon. A run is started again and again, by
the same command, until it ends by itself; its weights, routes, results and metrics must then be those of the
undisturbed run to the bit. Exit status 1 if one is not.
"""

import collections
import math
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from absl import flags

from codinet_jax.runtime import command, provenance
from experiments.measure import report
from experiments.measure.sameness import differences, rows

KILLS = flags.DEFINE_integer('kills', 100, 'How many processes to kill.', lower_bound=1)
OUTPUT = flags.DEFINE_string('output', 'killed', 'Where the runs go; what lies there is removed.')
SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
RESULTS = flags.DEFINE_string('results', None, 'A JSON file to keep what came of it.')

COMMAND = (
    *('-m', 'codinet_jax.main', '--config=configs/digits_r14.py', '--config.model.depth=8'),
    *('--config.batch_size=16', '--config.num_views=2', '--config.loss.target_cost=0.6'),
    *('--config.stage1.epochs=0.5', '--config.stage1.decay_epochs=(0.25,)'),
    *('--config.stage2.epochs=0.5', '--config.stage2.decay_epochs=(0.25,)'),
    *('--config.eval_every_epochs=0.2', '--config.match_every_epochs=0.2', '--config.checkpoint_every_steps=10'),
    '--config.log_every_steps=3',
)


SIGNALS = {signal.SIGKILL: 8, signal.SIGTERM: 1, signal.SIGINT: 1}  # and how often
GOES_ON = 'the same command goes on from there.'


class Attempt(NamedTuple):
    """One process: the seconds it lived, the signal it got if any, the seconds it went on living, what it answered.

    `phase` is what it was at when the signal came, `first_checkpoint` the second at which it first saved.
    """

    seconds: float
    signal: signal.Signals | None
    seconds_to_exit: float
    returncode: int
    says_how_to_go_on: bool
    phase: str
    first_checkpoint: float | None


def main(argv: Sequence[str]) -> int:
    del argv
    command.output_file(RESULTS)  # refused before anything is measured
    root = report.empty_directory(OUTPUT.value)
    moments = random.Random(SEED.value)
    print('one run in peace, twice: the first fills the compilation cache ...', flush=True)
    for name in ('first', 'undisturbed'):
        peaceful = attempt(root, name, math.inf, signal.SIGKILL)
    attempts: list[Attempt] = []
    failed, number = differences(root / 'undisturbed', root / 'first'), 0
    while _num_killed(attempts) < KILLS.value:
        name, number = f'run_{number}', number + 1
        while True:
            (chosen,) = moments.choices(list(SIGNALS), list(SIGNALS.values()))
            attempts.append(attempt(root, name, moments.uniform(0, 1.1 * peaceful.seconds), chosen))
            if attempts[-1].returncode == 0:
                break
        failed += (unlike := [f'{name}: {what}' for what in differences(root / name, root / 'undisturbed')])
        kills = _num_killed(attempts)
        print(f'{name} {"DIFFERS" if unlike else "equal to the bit"} after {kills} kills in all', flush=True)
        if not unlike:
            shutil.rmtree(root / name)
    report.show(_numbers(attempts, number, failed, peaceful), RESULTS.value)
    return 1 if failed else 0


def attempt(root: pathlib.Path, name: str, seconds: float, chosen: signal.Signals) -> Attempt:
    """Starts a run, or goes on with it, and sends it a signal after so long if it has not ended by then."""
    workdir, before, log = root / name, _saved(root / name), root / f'{name}.log'
    num_rows = len(rows(workdir))
    cached = {'JAX_COMPILATION_CACHE_DIR': str(root / 'cache'), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    started, first_checkpoint, sent, phase = time.monotonic(), None, None, 'finished'
    with open(log, 'a') as words:
        process = subprocess.Popen(
            [sys.executable, *COMMAND, f'--workdir={workdir}'],
            env=os.environ | cached,
            stdout=words,
            stderr=words,
        )
        while process.poll() is None:
            lived = time.monotonic() - started
            if first_checkpoint is None and _saved(workdir) - before:
                first_checkpoint = lived
            if sent is None and lived >= seconds:
                process.send_signal(chosen)
                sent, phase = time.monotonic(), _phase(workdir, num_rows)
            time.sleep(0.02)
    ended = time.monotonic()
    if process.returncode and (sent is None or process.returncode not in (-chosen, 128 + chosen)):
        raise SystemExit(f'{name} ended with {process.returncode}: see {log}')
    return Attempt(
        ended - started,
        chosen if sent else None,
        ended - sent if sent else 0.0,
        process.returncode,
        log.read_text().rstrip().endswith(GOES_ON),
        phase,
        first_checkpoint,
    )


def _phase(workdir: pathlib.Path, num_rows: int) -> str:
    """What a killed process was at, as far as what it left shows."""
    checkpoints = workdir / 'checkpoints'
    if checkpoints.is_dir() and any(not path.name.isdecimal() for path in checkpoints.iterdir()):
        return 'a checkpoint being written'
    if (workdir / 'routes').exists():
        return 'results being written'
    new = rows(workdir)[num_rows:]
    if not new:
        return 'start-up'
    if new[-1]['kind'] == 'evaluation':
        return 'after an evaluation'
    return f'stage {new[-1]["stage"]}'


def _num_killed(attempts: Sequence[Attempt]) -> int:
    return sum(each.signal == signal.SIGKILL for each in attempts)


def _numbers(attempts: Sequence[Attempt], num_runs: int, failed: Sequence[str], peaceful: Attempt) -> dict[str, Any]:
    first = [each.first_checkpoint for each in attempts if each.first_checkpoint is not None]
    asked = [each for each in attempts if each.signal in (signal.SIGTERM, signal.SIGINT)]
    return {
        'kills': _num_killed(attempts),
        'kills_by_phase': _counted(each.phase for each in attempts if each.signal == signal.SIGKILL),
        'asked_to_stop': len(asked),
        'asked_by_phase': _counted(each.phase for each in asked),
        'asked_and_answered': _counted(str(each.returncode) for each in asked),
        'asked_and_said_how_to_go_on': sum(each.says_how_to_go_on for each in asked),
        'seconds_to_exit_longest': round(max((each.seconds_to_exit for each in asked), default=0.0), 2),
        'runs': num_runs,
        'differences': list(failed),
        'seconds_undisturbed': round(peaceful.seconds, 2),
        'seconds_to_first_checkpoint_median': round(statistics.median(first), 2) if first else None,
        'seed': SEED.value,
        'command': ' '.join(('python', *COMMAND)),
    } | provenance.machine()


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(names).most_common())


def _saved(workdir: pathlib.Path) -> set[str]:
    found = (workdir / 'checkpoints').glob('*')
    return {path.name for path in found if path.name.isdecimal()}


if __name__ == '__main__':
    command.run(main)
