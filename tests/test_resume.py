"""Real runs, stopped and killed: one that goes on ends bit for bit where one never stopped ends, TensorFlow or not.

All of them train one tiny network under one config, and share a compilation cache.
"""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import helpers
from codinet_jax.data import digits
from real_runs import Process, assert_same_run, ended, newest_step, rows, wait_for, without_tensorflow

STEPS_A_STAGE = 90
CHANGES: dict[str, Any] = {
    'stage1.epochs': 1.0,
    'stage2.epochs': 1.0,
    'stage1.decay_epochs': (0.5,),
    'stage2.decay_epochs': (0.5,),
    'loss.gamma': 0.5,
    'loss.target_cost': 0.4,
    'eval_every_epochs': 0.35,  # every 32 steps
    'checkpoint_every_steps': 20,
    'log_every_steps': 3,  # so that a checkpoint falls inside a window
}


class Runs:
    """Starts the same training in any workdir under one roof."""

    def __init__(self, root: Path):
        self.root = root
        digits.prepare(root / 'tfds')
        (root / 'no_tensorflow').mkdir()
        self.without_tensorflow = without_tensorflow(root / 'no_tensorflow')

    def start(self, name: str, **variables: str) -> Process:
        flags = helpers.tiny_flags(**CHANGES, data_dir=self.root / 'tfds')
        return helpers.start_command(
            'main', *flags, f'--workdir={self.root / name}', JAX_NUM_CPU_DEVICES='2', **variables
        )

    def finish(self, name: str, **variables: str) -> str:
        """Runs to the end, and returns what was said."""
        return ended(self.start(name, **variables), 0)[0]

    def interrupt(self, name: str, at_step: int, number: signal.Signals) -> str:
        """Runs until a step shows in the metrics, sends a signal, and returns what was said."""
        process = self.start(name)
        wait_for((process,), lambda: newest_step(self.root / name) >= at_step)
        process.send_signal(number)
        return ended(process, 128 + number if number == signal.SIGTERM else -number)[0]


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp('runs'))


@pytest.fixture(scope='module')
def undisturbed(runs: Runs) -> Path:
    """A run never stopped, in an interpreter without TensorFlow."""
    runs.finish('undisturbed', **runs.without_tensorflow)
    return runs.root / 'undisturbed'


@pytest.fixture(scope='module')
def stopped(runs: Runs, undisturbed: Path) -> tuple[Path, str]:
    """A run asked to stop in the middle of stage 1; and what it said."""
    del undisturbed  # only for the cache that it fills
    return runs.root / 'disturbed', runs.interrupt('disturbed', at_step=33, number=signal.SIGTERM)


@pytest.fixture(scope='module')
def killed(runs: Runs, stopped: tuple[Path, str]) -> tuple[Path, list[int]]:
    """The same run gone on with, and killed in the middle of stage 2; and the steps it had logged when it died."""
    workdir, _ = stopped
    runs.interrupt('disturbed', at_step=STEPS_A_STAGE + 45, number=signal.SIGKILL)
    return workdir, [row['step'] for row in rows(workdir)]


@pytest.fixture(scope='module')
def disturbed(runs: Runs, killed: tuple[Path, list[int]]) -> tuple[Path, str]:
    """The same run gone on with to its end; and what it said."""
    workdir, _ = killed
    return workdir, runs.finish('disturbed')


def test_without_tensorflow_a_run_trains_and_writes_everything(runs: Runs, undisturbed: Path) -> None:
    probe = ['-c', 'import importlib.util; print(importlib.util.find_spec("tensorflow"))']
    environment = helpers.environment(**runs.without_tensorflow)
    found = subprocess.run(
        [helpers.command('main')[0], *probe], env=environment, text=True, capture_output=True, check=True
    )
    assert found.stdout == 'None\n', 'TensorFlow was not hidden'
    files = {path.name for path in undisturbed.iterdir()}
    of_the_run = {'config.json', 'metrics.jsonl', 'checkpoints', 'weights.npz', 'results.json'}
    assert files == of_the_run | {'routes', 'thumbnails'}
    results = json.loads((undisturbed / 'results.json').read_text())
    assert results['num_steps'] == 2 * STEPS_A_STAGE and results['num_test_images'] == 355
    assert rows(undisturbed)[-1] | {'kind': 'evaluation', 'top1': results['top1']} == rows(undisturbed)[-1]


def test_sigterm_saves_and_says_how_to_go_on(stopped: tuple[Path, str]) -> None:
    workdir, text = stopped
    last_line = text.splitlines()[-1]
    assert 'stopped and saved at step' in last_line and 'same command goes on' in last_line
    step = int(last_line.split('at step ')[1].split(';')[0])
    assert 33 <= step < STEPS_A_STAGE and (workdir / 'checkpoints' / str(step)).is_dir()
    assert not (workdir / 'results.json').exists() and not (workdir / 'weights.npz').exists()


def test_a_killed_run_goes_on_from_a_checkpoint_of_stage_2(disturbed: tuple[Path, str], killed: Any) -> None:
    _, text = disturbed
    step = int(text.split('going on from step ')[1].split('\n')[0])
    assert STEPS_A_STAGE < step <= killed[1][-1] < 2 * STEPS_A_STAGE


def test_a_stopped_run_ends_bit_for_bit_where_one_never_stopped_ends(
    undisturbed: Path, disturbed: tuple[Path, str]
) -> None:
    gamma = json.loads((undisturbed / 'results.json').read_text())['gamma']
    assert gamma not in (0, CHANGES['loss.gamma']), 'a controller at rest would show nothing'
    assert_same_run(disturbed[0], undisturbed)


def test_no_row_of_metrics_is_lost_or_doubled(disturbed: tuple[Path, str]) -> None:
    logged = [row['step'] for row in rows(disturbed[0]) if row['kind'] == 'train']
    assert logged == list(range(3, 2 * STEPS_A_STAGE + 1, 3))


def test_a_finished_run_run_again_changes_nothing(runs: Runs, disturbed: tuple[Path, str]) -> None:
    before = helpers.all_bytes(disturbed[0])
    text = runs.finish('disturbed')
    assert 'finished run' in text and 'top-1' in text
    assert helpers.all_bytes(disturbed[0]) == before
