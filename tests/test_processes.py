"""Two real processes that train one run: the same numbers as one process, and no end of one that the other waits for.

All of them train one tiny network on two devices, and share a compilation cache.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

import helpers
from codinet_jax.data import digits
from codinet_jax.runtime import hosts, signals
from codinet_jax.runtime.errors import InputError
from real_runs import Process, assert_same_run, ended, newest_step, rows, wait_for, without_tensorflow

STEPS = 18
CHANGES: dict[str, Any] = {
    'stage1.epochs': 0.2,
    'stage1.decay_epochs': (0.1,),
    'stage2.epochs': 0.0,  # its steps would be compiled by every process, and are spread as those of stage 1
    'stage2.decay_epochs': (),
    'loss.gamma': 0.5,
    'loss.target_cost': 0.4,
    'checkpoint_every_steps': 10,
    'log_every_steps': 3,
}
LONGER_STEPS = 54  # so that it is still training when it is disturbed, three times
LONGER = ('--config.stage1.epochs=0.6', '--config.stage1.decay_epochs=(0.3,)')
GOES_ON = 'The same command on all hosts goes on from the last checkpoint.'
# Heartbeats alone take half a minute; a closed connection tells at once.
SECONDS_TO_MISS_A_HOST = 60


class Processes:
    """Starts the same training in any workdir under one root, in one process or in two; ends what is left over."""

    def __init__(self, root: Path):
        self.root = root
        self._started: list[Process] = []
        digits.prepare(root / 'tfds')
        self._variables = without_tensorflow(root)  # whose import takes longer than the training

    def alone(self, name: str, *flags: str) -> Process:
        return self._start(f'--workdir={self.root / name}', *flags, JAX_NUM_CPU_DEVICES='2')

    def pair(self, *names: str, of_both: Sequence[str] = (), of_second: Sequence[str] = ()) -> tuple[Process, Process]:
        """Processes 0 and 1, in the workdirs of two names or that of one; the second may have flags of its own."""
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            cluster = [f'--coordinator=127.0.0.1:{free.getsockname()[1]}', '--num_processes=2']
        first, second = (
            self._start(f'--workdir={self.root / name}', *cluster, f'--process_id={index}', *of_both, *own)
            for index, (name, own) in enumerate(((names[0], ()), (names[-1], of_second)))
        )
        return first, second

    def _start(self, *flags: str, **variables: str) -> Process:
        all_flags = *helpers.tiny_flags(**CHANGES, data_dir=self.root / 'tfds'), *flags
        process = helpers.start_command('main', *all_flags, **self._variables, **variables)
        self._started.append(process)
        return process

    def kill_all(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


def saved_steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit())


@pytest.fixture(scope='module')
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp('processes'))
    yield started
    started.kill_all()


@pytest.fixture(scope='module')
def together(processes: Processes) -> tuple[Path, list[str]]:
    """A run of two processes; and what each of them said."""
    pair = processes.pair('together')
    return processes.root / 'together', [ended(process, 0)[0] for process in pair]


class Disturbed:
    """One run of two processes that is stopped, loses its first host, then its second, and gets to its end."""

    def __init__(self, processes: Processes):
        self.workdir = processes.root / 'disturbed'
        self.stopped = self._disturb(processes, 8, 1, signal.SIGTERM)
        self.stopped_at = saved_steps(self.workdir)[-1]
        self.lost_first = self._disturb(processes, self.stopped_at + 16, 0, signal.SIGKILL)
        self.saved_by_both = saved_steps(self.workdir)[-1]
        self.lost_second = self._disturb(processes, 39, 1, signal.SIGKILL)
        self.last_saved = saved_steps(self.workdir)[-1]
        self.finished = [ended(process, 0) for process in processes.pair('disturbed', of_both=LONGER)]

    def _disturb(
        self, processes: Processes, at_step: int, victim: int, number: signal.Signals
    ) -> tuple[list[tuple[int, str, str]], float]:
        """Sends one of two processes a signal; the status and words of both, and how long they took to end."""
        pair = processes.pair('disturbed', of_both=LONGER)
        wait_for(pair, lambda: newest_step(self.workdir) >= at_step)
        pair[victim].send_signal(number)
        start = time.monotonic()
        outcomes = []
        for process in pair:
            stdout, stderr = process.communicate(timeout=300)
            outcomes.append((process.returncode, stdout, stderr))
        return outcomes, time.monotonic() - start


@pytest.fixture(scope='module')
def disturbed(processes: Processes) -> Disturbed:
    return Disturbed(processes)


@pytest.mark.long
def test_two_processes_compute_what_one_does(processes: Processes, together: tuple[Path, list[str]]) -> None:
    workdir, said = together
    ended(processes.alone('alone'), 0)
    # A sum of two does not depend on their order; of more devices the last bits would differ.
    assert_same_run(workdir, processes.root / 'alone')
    assert [row['step'] for row in rows(workdir) if row['kind'] == 'train'] == list(range(3, STEPS + 1, 3))
    assert 'on 2 cpu devices,' in said[0] and 'top-1' in said[0]


@pytest.mark.long
def test_only_the_first_host_speaks_and_writes(together: tuple[Path, list[str]]) -> None:
    workdir, said = together
    assert not [line for line in said[1].splitlines() if line and 'Gloo' not in line]
    files = {path.name for path in workdir.iterdir()}
    of_the_run = {'config.json', 'metrics.jsonl', 'checkpoints', 'weights.npz', 'results.json'}
    assert files == of_the_run | {'routes', 'thumbnails'}


@pytest.mark.long
def test_sigterm_to_one_stops_both_at_the_same_saved_step(disturbed: Disturbed) -> None:
    outcomes, seconds = disturbed.stopped
    assert [status for status, _, _ in outcomes] == [128 + signal.SIGTERM] * 2, outcomes
    assert f'stopped and saved at step {disturbed.stopped_at}; the same command goes on' in outcomes[0][1]
    assert all('error:' not in stderr for _, _, stderr in outcomes)
    assert 8 <= disturbed.stopped_at < LONGER_STEPS and seconds < SECONDS_TO_MISS_A_HOST


@pytest.mark.long
@pytest.mark.parametrize('victim', [0, 1])
def test_a_host_killed_ends_the_other_with_a_sentence(disturbed: Disturbed, victim: int) -> None:
    outcomes, seconds = (disturbed.lost_first, disturbed.lost_second)[victim]
    assert outcomes[victim][0] == -signal.SIGKILL
    status, _, stderr = outcomes[1 - victim]
    assert status not in (0, 2) and seconds < SECONDS_TO_MISS_A_HOST
    assert stderr.rstrip().endswith(GOES_ON) and 'another host died' in stderr


@pytest.mark.long
def test_a_run_that_lost_hosts_goes_on_and_ends_with_the_same_bits(disturbed: Disturbed, processes: Processes) -> None:
    assert f'going on from step {disturbed.stopped_at}\n' in disturbed.lost_first[0][0][1]
    assert f'going on from step {disturbed.saved_by_both}\n' in disturbed.lost_second[0][0][1]
    assert f'going on from step {disturbed.last_saved}\n' in disturbed.finished[0][0]
    assert disturbed.stopped_at < disturbed.last_saved < LONGER_STEPS
    ended(processes.alone('undisturbed', *LONGER), 0)
    assert_same_run(disturbed.workdir, processes.root / 'undisturbed')


@pytest.mark.long
def test_a_finished_run_is_told_by_the_first_and_ends_both(processes: Processes, together: Any) -> None:
    said = [ended(process, 0)[0] for process in processes.pair('together')]
    assert 'finished run' in said[0] and 'top-1' in said[0] and 'finished run' not in said[1]


@pytest.mark.parametrize(
    ('names', 'of_second', 'sentence'),
    [
        (('taken',), (), 'another config'),
        (('mine', 'yours'), (), 'not the same directory on every host'),
        (('ours',), ('--config.checkpoint_every_steps=5',), 'checkpoint_every_steps is 10 on the first host and 5'),
    ],
    ids=['another config', 'workdir not shared', 'not saving together'],
)
def test_what_is_wrong_for_one_host_is_said_by_both(
    processes: Processes, names: tuple[str, ...], of_second: Sequence[str], sentence: str
) -> None:
    (processes.root / 'taken').mkdir(exist_ok=True)
    (processes.root / 'taken' / 'config.json').write_text(helpers.tiny_config(**{'loss.beta': 0.125}).to_json())
    for process in processes.pair(*names, of_second=of_second):
        _, stderr = ended(process, 2, SECONDS_TO_MISS_A_HOST)
        warning, *building, refusal = stderr.splitlines()
        assert all('builds the convolution for CPUs' in line for line in building)  # once, where there is none yet
        assert warning == 'warning: stage2.decay_epochs changes nothing: it is read where stage2.epochs is set.'
        assert refusal.startswith('error: ') and sentence in refusal
    assert not (processes.root / names[-1] / 'checkpoints').exists()


OF_TWO = """
import sys
import jax
import numpy as np
from codinet_jax.runtime import hosts
jax.config.update('jax_platforms', 'cpu')
with hosts.joined(sys.argv[1], 2, int(sys.argv[2])):
    own = np.full((2, 3), 0.1 + jax.process_index(), np.float32)
    found, nothing = hosts.arrays_of_first(({'w': own}, None))
    print(found['w'].tolist() == [[np.float32(0.1)] * 3] * 2, nothing)
"""


def test_every_host_begins_with_the_weights_of_the_first() -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        coordinator = f'127.0.0.1:{free.getsockname()[1]}'
    pair = [
        subprocess.Popen(
            [sys.executable, '-c', OF_TWO, coordinator, str(index)], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=SECONDS_TO_MISS_A_HOST)[0].splitlines() for process in pair]
    assert [lines[-1] for lines in said] == ['True None'] * 2  # Gloo says something before


@pytest.mark.parametrize(
    ('cluster', 'sentence'),
    [
        (('localhost:1234', None, 0), 'together'),
        ((None, 2, 0), 'together'),
        (('localhost', 2, 0), 'HOST:PORT'),
        (('localhost:1234', 2, 2), 'number the 2 processes from 0'),
    ],
)
def test_half_a_cluster_is_refused(cluster: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence), hosts.joined(*cluster):
        raise AssertionError('joined')


def test_an_interrupt_of_one_of_several_hosts_counts_as_a_notice_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[int] = []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    previous = signal.signal(signal.SIGTERM, lambda number, _: notices.append(number))
    try:
        with signals.stop_signals() as alone:
            signal.raise_signal(signal.SIGINT)
            assert notices == [signal.SIGTERM] and alone == []
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
