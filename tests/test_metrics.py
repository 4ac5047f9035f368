"""What a run says while it runs: means over whole windows, warnings of collapse, lines, and the metric file."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.runtime.console import duration
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import progress
from codinet_jax.training.metric_files import MetricWriter
from codinet_jax.training.progress import ProgressLines, RunningMeans, described, fitted, routing_warning
from codinet_jax.workdir import Workdir

STATIC = {'loss': 1.25, 'cross_entropy': 1.25, 'accuracy': 0.5}


def step_metrics(step: int) -> dict[str, Any]:
    return {'loss': jnp.float32(1 / (step + 1)), 'run_rates_n': jnp.asarray([step / 7, 1.0])}


def routed(*rates: float, num_paths: float = 3.0) -> dict[str, Any]:
    return {'num_paths': num_paths, 'run_rates_n': list(rates)}


def test_means_are_means_over_the_window() -> None:
    window = RunningMeans()
    for step in range(5):
        window.add(step_metrics(step))
    means = window.means()
    assert means['loss'] == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]))
    assert means['run_rates_n'] == pytest.approx([2 / 7, 1.0])
    json.dumps(means)


def test_a_window_that_went_through_a_checkpoint_equals_one_that_did_not() -> None:
    whole, resumed = RunningMeans(), RunningMeans()
    for step in range(5):
        if step == 3:
            resumed = RunningMeans(**json.loads(json.dumps(resumed.as_json())))
        whole.add(step_metrics(step))
        resumed.add(step_metrics(step))
    assert resumed.means() == whole.means()
    assert resumed.count == 5


def test_steps_that_were_skipped_have_no_part_in_the_means_but_their_share() -> None:
    window = RunningMeans()
    for loss, skipped in ((1.0, 0.0), (np.nan, 1.0), (3.0, 0.0), (np.inf, 1.0)):
        window.add({'loss': jnp.float32(loss), 'skipped': jnp.float32(skipped)})
    assert window.means() == {'loss': 2.0, 'skipped': 0.5}
    none_taken = RunningMeans()
    none_taken.add({'loss': jnp.float32(np.nan), 'skipped': jnp.float32(1.0)})
    assert none_taken.means() == {'skipped': 1.0}


def test_a_window_saved_empty_is_empty() -> None:
    window = RunningMeans(**RunningMeans().as_json())
    window.add({'loss': 2.0})
    assert window.means() == {'loss': 2.0}


def test_one_route_for_all_is_a_static_sub_network() -> None:
    warning = routing_warning(routed(1.0, 0.0, num_paths=1.0))
    assert warning and 'every image takes one route' in warning and '(beta, diversity_margin)' in warning
    without = routing_warning(routed(1.0, 0.0, num_paths=1.0), has_diversity=False)
    assert without == warning.partition(';')[0] + '.', 'a method without diversity has no beta'


@pytest.mark.parametrize(
    ('rates', 'sentence'),
    [
        ((0.0, 0.5, 0.5), 'part of the routing is fixed: block 1 never runs.'),
        ((0.5, 1.0, 1.0), 'part of the routing is fixed: blocks 2 and 3 always run.'),
        ((0.0, 0.5, 1.0), 'part of the routing is fixed: block 1 never runs and block 3 always runs.'),
    ],
)
def test_blocks_that_decide_nothing_are_named(rates: tuple[float, ...], sentence: str) -> None:
    assert routing_warning(routed(*rates)) == sentence


def test_of_blocks_that_have_no_choice_nothing_is_said() -> None:
    """As of the first answer's blocks in a network that resumes."""
    assert routing_warning(routed(1.0, 0.5, 0.5), (True, False, False)) is None
    assert routing_warning(routed(1.0, 0.5, 1.0), (True, False, False)) == (
        'part of the routing is fixed: block 3 always runs.'
    )


def test_routing_that_is_alive_and_networks_that_have_none_are_not_warned_of() -> None:
    assert routing_warning(routed(0.01, 0.5, 0.99)) is None
    assert routing_warning(STATIC) is None


def test_the_line_of_a_routed_network_has_losses_k_gamma_and_paths() -> None:
    terms = {'loss': 2.0, 'cross_entropy': 1.0, 'consistency': 0.1, 'diversity': 0.2, 'cost': 0.3, 'accuracy': 0.25}
    routes = routed(0.5, 1.0, 0.25, num_paths=7) | {'mean_path_length': 1.75, 'gamma': 0.05}
    assert fitted(described(terms | routes), 200) == (
        'loss 2.000  acc 25.0%  K 1.8/3  paths 7  γ 0.050  ce 1.000  con 0.100  div 0.200  cost 0.300'
    )


def test_the_line_of_a_static_network_has_the_loss() -> None:
    assert fitted(described(STATIC), 200) == 'loss 1.250  acc 50.0%  ce 1.250'


@pytest.mark.parametrize(('columns', 'last'), [('80', 'K 25.3/54'), ('200', 'cost 0.300'), (None, 'K 25.3/54')])
def test_a_progress_line_fits_the_terminal_and_uses_its_room(
    columns: str | None, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv('COLUMNS', raising=False)
    if columns:
        monkeypatch.setenv('COLUMNS', columns)
    terms = {'loss': 2.0, 'cross_entropy': 1.0, 'consistency': 0.1, 'diversity': 0.2, 'cost': 0.3, 'accuracy': 0.25}
    routes = {'mean_path_length': 25.3, 'gamma': 0.05, 'num_paths': 276, 'run_rates_n': [0.5] * 54}
    monkeypatch.setattr(progress, 'SECONDS_BETWEEN_LINES', 0.0)
    lines = ProgressLines(stage=1, last_step=125_000, images_per_step=128)
    lines.update(1234, terms | routes, timed_steps=100, timed_seconds=30.0)
    (line,) = capsys.readouterr().out.splitlines()
    assert len(line) <= int(columns or 80) and line.endswith(last)
    assert {'step 1234/125000', '10h18m left', 'loss 2.000', 'acc 25.0%', 'K 25.3/54'} <= set(line.split('  '))


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.4, '0s'), (59.4, '59s'), (59.6, '1m00s'), (61, '1m01s'), (3600, '1h00m'), (36061, '10h01m')],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workdir:
    """A workdir whose metrics go to metrics.jsonl alone, as on a machine without TensorFlow."""
    helpers.hide_tensorflow(monkeypatch)
    return Workdir(tmp_path)


def test_every_row_is_a_line_of_json_at_once(workdir: Workdir) -> None:
    with MetricWriter(workdir) as writer:
        writer.write(2, 'train', {'loss': 0.5, 'run_rates_n': [0.25, 1.0]})
        row = json.loads(workdir.metrics.read_text())
        assert row == {'step': 2, 'kind': 'train', 'loss': 0.5, 'run_rates_n': [0.25, 1.0]}
        assert writer.tell() == workdir.metrics.stat().st_size
    assert not workdir.tensorboard.exists()


def test_a_resumed_run_drops_the_rows_that_it_will_write_again(workdir: Workdir) -> None:
    with MetricWriter(workdir) as writer:
        writer.write(2, 'train', {'loss': 0.5})
        keep_bytes = writer.tell()
        writer.write(4, 'train', {'loss': 0.25})
    with MetricWriter(workdir, keep_bytes) as writer:
        assert writer.tell() == keep_bytes
        writer.write(4, 'train', {'loss': 0.125})
    assert [json.loads(line) for line in workdir.metrics.read_text().splitlines()] == [
        {'step': 2, 'kind': 'train', 'loss': 0.5},
        {'step': 4, 'kind': 'train', 'loss': 0.125},
    ]


def test_a_run_resumed_twice_with_no_row_between_loses_nothing(workdir: Workdir) -> None:
    with MetricWriter(workdir) as writer:
        writer.write(2, 'train', {'loss': 0.5})
        keep_bytes = writer.tell()
        writer.write(4, 'train', {'loss': 0.25})
    with MetricWriter(workdir, keep_bytes) as writer:
        keep_bytes = writer.tell()  # a checkpoint before the next row
    with MetricWriter(workdir, keep_bytes) as writer:
        writer.write(4, 'train', {'loss': 0.25})
    assert [json.loads(line)['step'] for line in workdir.metrics.read_text().splitlines()] == [2, 4]


def test_a_run_from_the_start_keeps_no_rows(workdir: Workdir) -> None:
    workdir.metrics.write_text('{"step": 2}\n')
    with MetricWriter(workdir) as writer:
        assert writer.tell() == 0
    assert workdir.metrics.read_bytes() == b''


def test_a_row_that_the_disk_refuses_is_all_that_is_told_of(workdir: Workdir) -> None:
    with (
        pytest.raises(InputError, match=r'^/dev/full cannot be written \(No space left on device\): make room'),
        MetricWriter(workdir) as writer,
    ):
        assert writer._file
        writer._file.close()
        writer._file = open('/dev/full', 'a+b')  # noqa: SIM115 (the writer closes it)
        writer.write(2, 'train', {'loss': 0.5})


@pytest.mark.tensorflow
def test_tensorboard_gets_the_same_numbers_a_block_at_a_time(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with MetricWriter(Workdir(tmp_path)) as writer:
        writer.write(2, 'train', {'loss': 0.5, 'run_rates_n': [0.25, 1.0]})
    events = EventAccumulator(str(tmp_path / 'tensorboard'), size_guidance={'tensors': 0}).Reload()
    tags = {tag: events.Tensors(tag)[0] for tag in events.Tags()['tensors']}
    values = {tag: float(make_ndarray(event.tensor_proto)) for tag, event in tags.items()}
    assert values == {'train/loss': 0.5, 'train/run_rates_n/block_01': 0.25, 'train/run_rates_n/block_02': 1.0}
    assert {event.step for event in tags.values()} == {2}
