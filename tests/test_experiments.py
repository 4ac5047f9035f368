"""The paper's tables as commands: what they train, at which scale, who trains it, and what is said of it."""

import dataclasses
import json
import multiprocessing
import pathlib

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

import helpers
import synthetic_run
from codinet_jax.config import flags as config_flag
from codinet_jax.config import setup
from codinet_jax.runtime.errors import InputError
from configs import digits_r14
from experiments.reproduce import queue, readme, scales, summary
from experiments.reproduce.definitions import COLUMNS, DEFINITIONS, Table
from experiments.reproduce.runs import R110, RUNS, Trained
from experiments.reproduce.scales import SCALES
from runners import finish, work

SEED = 3


def flat(config: ConfigDict) -> dict[str, object]:
    return scales._flat(config)


def config_of(name: str, scale: str, cost: float | None = None) -> ConfigDict:
    return scales.config_of(RUNS[name], SCALES[scale], SEED, 0.6 if RUNS[name].cost_of and cost is None else cost)


def test_every_row_is_a_run_and_every_number_a_column() -> None:
    for name, definition in DEFINITIONS.items():
        assert all(row.run in RUNS and set(row.paper) <= set(COLUMNS) for row in definition.rows), name
        if isinstance(definition, Table):
            assert set(definition.columns) <= set(COLUMNS), name
            papers = any(set(row.paper) & set(definition.columns) for row in definition.rows)
            assert papers == (name not in ('digits', 'peers', 'pretrained', 'pretrained_peers')), name
    assert {row.run for definition in DEFINITIONS.values() for row in definition.rows} == set(RUNS)


def test_the_papers_static_costs_are_ours() -> None:
    """Where the paper prices what the cost table prices too, the two agree: the columns mean the same."""
    for name, static in (('cifar10_r110_static', 0.50), ('svhn_r110_static', 0.50), ('imagenet_r50_static', 3.8)):
        config = config_of(name, 'paper')
        macs = setup.read(config).costs.static_macs
        ours = (1 if config.dataset == 'imagenet2012' else 2) * macs / 1e9
        assert ours == pytest.approx(static, rel=0.02), name
    router = setup.read(config_of('cifar10_r110_conv', 'paper')).costs
    assert sum(router.routers_n) / sum(router.blocks_n) == pytest.approx(0.125, rel=0.05)  # Table 10


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('name', ['cifar10_r110_codinet', 'cifar10_r74_conv', 'imagenet_r50_vanilla'])
def test_a_scale_changes_what_it_says_and_nothing_else(name: str, scale: str) -> None:
    theirs, ours = flat(config_of(name, 'paper')), flat(config_of(name, scale))
    changed = {key for key in theirs if theirs[key] != ours[key]}
    if SCALES[scale].config:
        variant = RUNS[name].config.partition(':')[2] or 'codinet'
        wanted = digits_r14.get_config(variant)
        wanted.update_from_flattened_dict({'seed': SEED, **RUNS[name].changes})
        assert ours == flat(wanted)
        return
    schedule = {f'stage{i}.{key}' for i in (1, 2) for key in ('epochs', 'decay_epochs')}
    assert changed <= schedule | {'model.depth'} | set(SCALES[scale].changes)
    for stage in ('stage1', 'stage2'):
        shares = [np.array(config[f'{stage}.decay_epochs']) / config[f'{stage}.epochs'] for config in (theirs, ours)]
        np.testing.assert_allclose(*shares)
    assert ours['seed'] == SEED


@pytest.mark.parametrize(
    ('scale', 'epochs', 'decays'),
    [
        ('paper', 350.0, [150.0, 250.0]),
        ('gpu30', 30.0, [12.85714, 21.42857]),
        ('cpu', 4.0, [1.714286, 2.857143]),
        ('digits', 350.0, [150.0, 250.0]),
        ('smoke', 0.2, [0.0857143, 0.1428571]),
    ],
)
def test_a_config_of_one_stage_has_the_epochs_of_both_in_it(scale: str, epochs: float, decays: list[float]) -> None:
    """ConvNet-AIG's authors train for 350 epochs and decay at 150 and 250."""
    config = scales.config_of(Trained(f'{R110}:convnet_aig_authors'), SCALES[scale], SEED)
    assert config.stage1.epochs == pytest.approx(epochs) and config.stage2.epochs == 0
    np.testing.assert_allclose(config.stage1.decay_epochs, decays, rtol=1e-6)


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('name', ['cifar10_r110_random', 'cifar10_r110_margin_0.25', 'cifar100_r32_static'])
def test_the_command_leads_to_the_config(monkeypatch: pytest.MonkeyPatch, name: str, scale: str) -> None:
    config = config_of(name, scale)
    values, command = flags.FlagValues(), ['main', *scales.command_flags(RUNS[name], config)]
    monkeypatch.setattr('sys.argv', command)  # where ml_collections looks for what is overridden
    holder = config_flag.define_config('What to train.', flag_values=values)
    values(command)
    assert flat(holder.value) == flat(config)


@pytest.mark.parametrize('scale', ['paper', 'digits', 'smoke'])
def test_peers_differ_in_their_method_and_in_nothing_that_is_paid_for(scale: str) -> None:
    """One backbone, schedule, number of views and cost, so that what differs is how routes are learnt."""
    rows = [row.run for row in DEFINITIONS['peers'].rows]
    configs = [config_of(name, scale) for name in rows]
    assert len({config.method for config in configs}) == 11
    may_differ = {'method', 'model.router'} | ({'model.depth'} if scale == 'smoke' else set())  # where one needs more
    for name, config in zip(rows, configs, strict=True):
        ours = {key: value for key, value in flat(config).items() if key.split('.')[0] not in ('loss', 'routing')}
        theirs = flat(config_of('peers_codinet', scale))
        assert {key for key in ours if ours[key] != theirs[key]} <= may_differ, name
        assert config.loss.target_cost == (None if config.method in ('static', 'blockdrop') else 0.7)


def test_a_static_network_of_equal_macs_has_the_nearest_depth() -> None:
    """Of ResNet-110's 252.89 MMACs (configs/README.md), ResNet-74's 167.95 are 66 %, ResNet-32's 68.86 27 %."""
    assert config_of('cifar10_r110_equal_macs', 'paper', 0.66).model.depth == 74
    assert config_of('cifar10_r110_equal_macs', 'paper', 0.28).model.depth == 32
    assert config_of('cifar10_r110_equal_macs', 'paper', 1.0).model.depth == 110
    assert config_of('cifar10_r110_random', 'paper', 0.66).loss.target_cost == 0.66


def test_runs_are_planned_once_and_after_those_whose_cost_they_need(tmp_path: pathlib.Path) -> None:
    jobs = queue.planned(['table2', 'figure6', 'table5'], tmp_path, ['0', '7'])
    assert len({(job.run, job.seed) for job in jobs}) == len(jobs) == 2 * (6 + 4)
    for i, job in enumerate(jobs):
        assert (job.needs is None) == (job.run not in ('cifar10_r110_random', 'cifar10_r110_equal_macs'))
        assert job.needs is None or (job.needs in jobs[:i] and job.needs.seed == job.seed)
    assert jobs[0].workdir.path == tmp_path / 'cifar10_r110_static' / 'seed_0'


def test_networks_made_of_given_ones_come_after_them_and_are_as_deep(tmp_path: pathlib.Path) -> None:
    jobs = queue.planned(['pretrained'], tmp_path, ['0'])
    for i, job in enumerate(jobs):
        assert all(other in jobs[:i] for other in job.made_of)
    named = {job.run: job for job in jobs}
    assert [job.run for job in named['pretrained_cascade'].made_of] == ['pretrained_r20', 'pretrained_r56']
    with pytest.raises(InputError, match=r'resnet56\.npz is needed.*--weights'):
        queue.config_for(named['pretrained_r56'], SCALES['paper'])
    (tmp_path / 'resnet56.npz').touch()
    given = queue.config_for(named['pretrained_r56'], SCALES['paper'], tmp_path)
    assert (given.init_from, given.model.depth) == (str(tmp_path / 'resnet56.npz'), 56)
    assert given.stage1.epochs == given.stage2.epochs == given.distillation.weight == 0
    weights = str(named['pretrained_r56'].workdir.path / 'weights.npz')
    routed = [row.run for row in DEFINITIONS['pretrained'].rows if RUNS[row.run].starts_from == 'pretrained_r56']
    assert len(routed) == 7
    for name in routed:
        if not RUNS[name].is_pruned:
            config = queue.config_for(named[name], SCALES['gpu30'])
            assert config.init_from == weights and config.model.depth == 56
            assert (config.loss.target_cost, config.distillation.weight) == (0.5488, 0.5)
            assert (config.stage1.epochs, config.stage2.epochs) == (24, 6)
    pruned = scales.config_of(RUNS['pretrained_r56_pruned'], SCALES['gpu30'], 0, init_from=weights)
    assert (pruned.stage1.epochs, pruned.stage2.epochs, pruned.loss.target_cost) == (0, 30, None)
    assert pruned.stage2.learning_rate == config.stage1.learning_rate


def test_no_directory_of_the_machine_is_told() -> None:
    assert queue._shortened('--config.init_from=/home/me/paper/r56/seed_0/weights.npz') == (
        '--config.init_from=r56/seed_0/weights.npz'
    )
    assert queue._shortened('--members=/a/b/c/d,/a/b/c/e') == '--members=b/c/d,b/c/e'
    assert queue._shortened('--config.seed=3') == '--config.seed=3'


@pytest.mark.parametrize(
    ('names', 'seeds', 'sentence'),
    [(['table7'], ['0'], 'no table or figure'), ([], ['0'], 'one or more of'), (['table2'], ['x'], 'whole numbers')],
)
def test_what_cannot_be_planned_is_refused(names: list[str], seeds: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        queue.planned(names, pathlib.Path('nowhere'), seeds)


def test_a_failed_run_stops_none_but_those_that_need_it(tmp_path: pathlib.Path) -> None:
    jobs, tried = queue.planned(['table2'], tmp_path, ['0']), []

    def train(job: queue.Job) -> bool:
        tried.append(job.run)
        return job.run != 'cifar10_r110_codinet' and finish(job)

    failed = [job.run for job in queue.work_off(jobs, train)]
    assert set(failed) == {f'cifar10_r110_{name}' for name in ('codinet', 'random', 'equal_macs')}
    assert tried == [f'cifar10_r110_{name}' for name in ('static', 'vanilla', 'consistency', 'codinet')]
    tried.clear()
    assert queue.work_off(jobs, lambda job: bool(tried.append(job.run)) or finish(job)) == []
    assert tried == [f'cifar10_r110_{name}' for name in ('codinet', 'random', 'equal_macs')]


@pytest.mark.long
def test_several_runners_share_the_work_and_do_none_of_it_twice(tmp_path: pathlib.Path) -> None:
    context = multiprocessing.get_context('spawn')
    all_are_here = context.Barrier(3)
    runners = [context.Process(target=work, args=(tmp_path, name, all_are_here)) for name in 'abc']
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(120)
        assert runner.exitcode == 0
    lines = [line.split() for line in (tmp_path / 'trained').read_text().splitlines()]
    assert sorted(name for name, _ in lines) == sorted(row.run for row in DEFINITIONS['table6'].rows)
    assert len({who for _, who in lines}) > 1


def test_mean_spread_and_difference_are_told_and_what_is_missing() -> None:
    row = {'paper': {'accuracy': 94.47}, 'seeds': [{'numbers': {'accuracy': 93.0}}, {'numbers': {'accuracy': 94.0}}]}
    assert summary._cells('accuracy', row) == ('93.50 ± 0.71', '94.47', '-0.97')
    assert summary._cells('accuracy', row | {'seeds': row['seeds'][:1]}) == ('93.00', '94.47', '-1.47')
    assert summary._cells('accuracy', row | {'seeds': []}) == ('missing', '94.47', '')
    assert summary._cells('accuracy', row | {'paper': {}}) == ('93.50 ± 0.71', '', '')


def test_a_run_of_another_version_that_says_too_little_is_refused_in_a_sentence(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = DEFINITIONS['table2'].rows[0]
    run = tmp_path / row.run / 'seed_0'
    run.mkdir(parents=True)
    (run / 'results.json').touch()
    run.with_suffix('.json').write_text('{"command": []}')
    results = dict.fromkeys(summary.HOW, 1)
    monkeypatch.setattr(
        summary, 'read_run', lambda *_, **__: dataclasses.replace(synthetic_run.synthetic_run(), results=results)
    )
    assert list(summary.runs_of([row], tmp_path)[row.run]) == [0]
    del results['commit']
    with pytest.raises(InputError, match=r"seed_0/results\.json does not record 'commit'.* train it again"):
        summary.runs_of([row], tmp_path)


def test_a_figure_lists_the_results_of_others_with_their_sources() -> None:
    text = summary.markdown(DEFINITIONS['figure8'], [], 'Scale paper.', [])
    for macs, error in ((2.13e8, 6.45), (1.55e8, 6.70)):  # of PFEC's own table
        assert f'| PFEC | ResNet-110 | {2 * macs / 1e9:g} | {100 - error:.2f} | arXiv:1608.08710, Table 1 |' in text
    assert '| ACT | ResNet-110 | 0.38 | 93.50 | Table 7 |' in summary.markdown(DEFINITIONS['figure7'], [], '', [])
    assert 'other methods' not in summary.markdown(DEFINITIONS['figure11'], [], '', [])


def told(**changes: object) -> dict[str, object]:
    how = {'commit': 'abc1234', 'device': 'AMD EPYC', 'num_devices': 2, 'versions': {'jax': '0.10.2'}}
    seeds = [{'seed': i, 'numbers': {'accuracy': 93.0 + i, 'paths': 20.0}, 'how': how} for i in range(2)]
    rows = [
        {'label': 'ours', 'paper': {'accuracy': 94.47}, 'seeds': seeds},
        {'label': 'other', 'paper': {}, 'seeds': []},
    ]
    return {'title': 'T', 'scale': 'cpu', 'says': 'Scale cpu: small.', 'is_result': True, 'rows': rows} | changes


def test_the_readmes_tables_are_written_from_the_kept_numbers(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'table9_cpu.json').write_text(json.dumps(told()))
    text = 'before\n<!-- results table9_cpu -->\nold\n<!-- end of results -->\nafter\n'
    filled = readme.filled(text, tmp_path)
    assert filled.startswith('before\n<!-- results table9_cpu -->\n| | Acc. (%) | #Path |\n|---|---:|---:|\n')
    assert '| ours | 93.50 ± 0.71 (94.47) | 20 ± 0 |\n| other | missing | missing |\n' in filled
    assert 'Scale cpu: small. Seeds 0, 1; commit abc1234; AMD EPYC, 2 devices; jax 0.10.2.\n<!-- end' in filled
    assert filled.endswith('-->\nafter\n') and readme.filled(filled, tmp_path) == filled


def test_what_is_no_result_is_not_written_into_the_readme(tmp_path: pathlib.Path) -> None:
    text = '<!-- results table9_smoke -->\n<!-- end of results -->'
    with pytest.raises(InputError, match=r'table9_smoke\.json does not exist'):
        readme.filled(text, tmp_path)
    (tmp_path / 'table9_smoke.json').write_text(json.dumps(told(is_result=False)))
    with pytest.raises(InputError, match='no result'):
        readme.filled(text, tmp_path)


def test_the_readme_says_what_the_kept_numbers_say() -> None:
    text = (helpers.REPOSITORY / 'experiments' / 'README.md').read_text()
    assert '<!-- results ' in text
    assert readme.filled(text, helpers.REPOSITORY / 'experiments' / 'results') == text
