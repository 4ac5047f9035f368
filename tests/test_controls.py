"""What routes are worth, and one network beside another, image by image."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

import helpers
import synthetic_run
from codinet_jax.analysis import tables
from codinet_jax.data import datasets
from codinet_jax.evaluation import controls, evaluate
from codinet_jax.evaluation.record import Record, read_routes, read_shuffled, write_routes, write_shuffled
from codinet_jax.evaluation.shuffled import shuffle_routes
from codinet_jax.models.routers import is_router
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir


def test_mcnemar_counts_the_images_on_which_two_part() -> None:
    own_N, other_N = np.zeros((2, 100), bool)
    own_N[:60], other_N[10:52] = True, True  # 10 + 8 are the first's alone, none the other's
    other_N[90:92] = True
    found = controls.mcnemar(own_N, other_N)
    assert (found['only_own'], found['only_other']) == (18, 2)
    assert found['difference'] == pytest.approx(0.16)
    assert found['standard_error'] == pytest.approx(np.sqrt((0.20 - 0.16**2) / 99))
    assert found['p_value'] == pytest.approx(2 * (1 + 20 + 190) / 2**20)  # of 20 throws, at most two or at least 18
    assert controls.mcnemar(own_N, own_N)['p_value'] == 1


def test_a_shuffle_gives_every_route_once_and_within_a_class_to_that_class() -> None:
    labels_N, rng = np.arange(90) % 3, np.random.default_rng(0)
    for within_class in (False, True):
        order_N = controls.order_N(rng, labels_N, within_class=within_class)
        np.testing.assert_array_equal(np.sort(order_N), np.arange(90))
        assert np.mean(order_N == np.arange(90)) < 0.2
        assert (labels_N[order_N] == labels_N).all() == within_class


def test_costs_go_with_errors_only_where_both_vary() -> None:
    wrong_N = np.array([True, True, False, False])
    assert controls.cost_error_correlation(np.array([3, 3, 1, 1]), wrong_N) == pytest.approx(1)
    assert controls.cost_error_correlation(np.array([3, 1, 3, 1]), wrong_N) == pytest.approx(0)
    assert controls.cost_error_correlation(np.full(4, 7), wrong_N) is None
    assert controls.cost_error_correlation(np.arange(4), np.zeros(4, bool)) is None
    routes_Nxn = np.array([[1, 0], [1, 1], [1, 1], [0, 0], [1, 1]], bool)
    assert controls.share_off_most_common(routes_Nxn) == pytest.approx(0.4)
    assert controls.share_off_most_common(routes_Nxn[1:3]) == 0


def test_networks_are_paired_on_the_same_images_alone() -> None:
    record = synthetic_run.synthetic_run().record
    costs = synthetic_run.synthetic_run().costs
    is_expensive_N = controls.macs_of_images(record, costs) > np.median(controls.macs_of_images(record, costs))
    other = record._replace(predictions_N=np.where(is_expensive_N, record.labels_N + 1, record.labels_N))
    found = controls.pair(record, other, costs)
    assert found and found['cost_error_correlation'] > 0.6
    assert found['only_own'] == np.sum(is_expensive_N & (record.predictions_N == record.labels_N))
    assert controls.pair(record, other._replace(labels_N=other.labels_N[::-1]), costs) is None
    one = Record(*(array[:1] for array in record))
    assert controls.pair(one, one, costs) is None


@pytest.mark.parametrize('num_devices', [1, 2])
def test_told_routes_are_taken_and_ones_own_give_what_evaluation_gave(
    monkeypatch: pytest.MonkeyPatch, num_devices: int
) -> None:
    mesh, stage = sharding.data_mesh(num_devices), helpers.tiny_stages(helpers.tiny_config())[1]
    model, spec = stage.step.model, datasets.find('digits').spec
    variables = jax.device_get(helpers.scattered_state(stage, mesh).variables)
    monkeypatch.setattr(sharding, 'data_mesh', lambda: mesh)
    images, batch_size = helpers.noise_images(150), 16
    forward = evaluate.make_forward(model, spec, mesh)
    placed = jax.device_put(variables, sharding.replicated(mesh))
    record = evaluate.evaluate(forward, placed, images, batch_size, mesh)
    assert len(np.unique(record.decisions_Nxn, axis=0)) > 2

    monkeypatch.setattr(controls, 'order_N', lambda rng, labels_N, within_class: np.arange(len(labels_N)))
    own = shuffle_routes(model, spec, variables, images, record, times=2, batch_size=batch_size)
    for right_N in (own.right_N, own.right_within_class_N):
        np.testing.assert_array_equal(right_N, record.predictions_N == record.labels_N)

    whole = record._replace(decisions_Nxn=np.ones_like(record.decisions_Nxn))
    static = helpers.tiny_network(None)
    flat = traverse_util.flatten_dict(variables)
    backbone = traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if not is_router(path)})
    of_static = evaluate.evaluate(
        evaluate.make_forward(static, spec, mesh),
        jax.device_put(backbone, sharding.replicated(mesh)),
        images,
        batch_size,
        mesh,
    )
    all_run = shuffle_routes(model, spec, variables, images, whole, times=1, batch_size=batch_size)
    np.testing.assert_array_equal(all_run.right_N, of_static.predictions_N == record.labels_N)
    with pytest.raises(InputError, match='no other route'):
        shuffle_routes(model, spec, variables, images, Record(*(array[:1] for array in record)), times=1)


def test_what_was_shuffled_is_read_with_the_evaluation_it_is_of(tmp_path: Path) -> None:
    workdir, run = Workdir(tmp_path), synthetic_run.synthetic_run()
    write_routes(workdir, 'test', run.record, run.augmented)
    assert read_shuffled(workdir, 'test', run.record) is None
    shuffled = synthetic_run.shuffled(run.record)
    write_shuffled(workdir, 'test', shuffled)
    found = read_shuffled(workdir, 'test', read_routes(workdir, 'test')[0])
    assert found is not None
    worth = controls.worth_of_routes(run.record, found)
    assert worth['all']['difference'] == pytest.approx(np.mean(run.is_correct_N) - 0.5)
    assert worth['within_class']['difference'] == pytest.approx(0)
    other = run.record._replace(predictions_N=(run.record.predictions_N + 1) % 3)
    with pytest.raises(InputError, match='another evaluation'):
        read_shuffled(workdir, 'test', other)


@pytest.mark.long
def test_controls_are_measured_kept_and_shown_by_the_commands(tmp_path: Path) -> None:
    run, static = tmp_path / 'run', tmp_path / 'static'
    for path, flags in ((run, []), (static, ['--config=configs/digits_r14.py:static'])):
        finished = helpers.run_command('main', *helpers.tiny_flags(), *flags, f'--workdir={path}')
        assert finished.returncode == 0, finished.stderr
    refused = helpers.run_command('evaluate', f'--workdir={static}', '--shuffles=1')
    assert refused.returncode == 2 and 'no routes to shuffle' in refused.stderr
    shutil.copytree(run / 'routes', tmp_path / 'routes_before')
    finished = helpers.run_command('evaluate', f'--workdir={run}', '--shuffles=2')
    assert finished.returncode == 0 and 'own routes less those of any image' in finished.stdout, finished.stderr
    before, after = (np.load(path / 'test.npz') for path in (tmp_path / 'routes_before', run / 'routes'))
    np.testing.assert_array_equal(before['decisions_Nxn'], after['decisions_Nxn'])

    finished = helpers.run_command('analyze', f'--workdir={run}', f'--against={static}')
    assert finished.returncode == 0, finished.stderr
    numbers = json.loads((run / 'analysis' / 'numbers.json').read_text())
    assert set(numbers['less']) == {'static'} and set(numbers['worth_of_routes']) == {'all', 'within_class'}
    assert 'run less static' in (run / 'analysis' / 'numbers.md').read_text()
    evaluated = json.loads((static / 'results.json').read_text())
    assert numbers['less']['static']['difference'] == pytest.approx(numbers['top1'] - evaluated['top1'])


def test_the_table_says_what_was_not_measured() -> None:
    numbers = synthetic_run.synthetic_run().numbers()
    shown = tables.text(tables.tables({'a': [numbers]})[0])
    assert shown.count('not measured') == 2
    pair = controls.mcnemar(np.arange(8) < 6, np.arange(8) < 3) | {'cost_error_correlation': None}
    assert '+37.50 ± 18.30' in tables.text(tables.paired({('a', 'b'): pair}))
