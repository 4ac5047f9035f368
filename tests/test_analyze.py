"""analyze and compare: from what a real run left behind to numbers, figures and a page; and what they refuse."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import helpers
from codinet_jax.analysis import embedding, style
from codinet_jax.analysis import study as analysis
from codinet_jax.analysis.figures import accuracy_cost
from codinet_jax.analysis.options import Options
from codinet_jax.analysis.run import Run, read_run
from codinet_jax.analysis.tables import Table, text
from codinet_jax.evaluation.record import Record
from codinet_jax.methods import Static
from codinet_jax.workdir import Workdir

FIGURES = {
    'map_by_class',
    'map_by_blocks',
    'divergence',
    'path_lengths',
    'run_rates',
    'flow',
    'extremes',
    'training',
    'accuracy_cost',
}
OF_ONE_RUN = {'flow', 'extremes'}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits run of a few steps, trained and evaluated by the command."""
    path = tmp_path_factory.mktemp('analyze') / 'tiny'
    finished = helpers.run_command('main', *helpers.tiny_flags(), f'--workdir={path}')
    assert finished.returncode == 0, finished.stderr
    return path


@pytest.fixture(scope='module')
def analysed(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, analysed by the command, which said so."""
    path = tmp_path_factory.mktemp('analyze') / 'tiny'
    shutil.copytree(workdir, path)
    finished = helpers.run_command('analyze', f'--workdir={path}')
    assert finished.returncode == 0, finished.stderr
    (path.parent / 'said').write_text(finished.stdout)
    return path


def files(names: set[str]) -> set[str]:
    return {'numbers.json', 'numbers.md', 'report.html'} | {
        f'{name}.{kind}' for name in names for kind in ('png', 'pdf', 'csv')
    }


@pytest.mark.long
def test_a_run_gets_its_numbers_figures_and_page_and_keeps_all_it_had(workdir: Path, analysed: Path) -> None:
    before, after = helpers.all_bytes(workdir), helpers.all_bytes(analysed)
    assert after.items() > before.items()
    assert {Path(name).name for name in after.keys() - before.keys()} == files(FIGURES)
    numbers, results = (json.loads(after[name]) for name in ('analysis/numbers.json', 'results.json'))
    for name in ('top1', 'mean_path_length', 'num_paths', 'mean_macs', 'macs_share', 'run_rate_per_block'):
        assert numbers[name] == pytest.approx(results[name], abs=1e-6), name
    said = (analysed.parent / 'said').read_text()
    assert f'{results["top1"]:.2%}' in said and 'report.html' in said
    assert set(numbers['augmentations']) == {'crop', 'horizontal flip', 'vertical flip', 'rotation', 'mean'}
    for name in FIGURES:
        with Image.open(analysed / 'analysis' / f'{name}.png') as image:
            assert len(np.unique(np.asarray(image.convert('L')))) > 10, f'{name} is empty'


@pytest.mark.long
def test_an_analysis_comes_out_the_same_again(analysed: Path) -> None:
    again = analysis.study([read_run(Workdir(analysed))], log=lambda _: None).files
    there = helpers.all_bytes(analysed / 'analysis')
    assert {name for name in again if again[name] != there[name]} <= {'report.html'}  # Bokeh numbers its models anew


@pytest.mark.long
def test_all_that_was_evaluated_and_calibrated_is_on_the_plane_of_accuracy_and_cost(
    workdir: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'run'
    shutil.copytree(workdir, path)
    kept = Workdir(path)
    as_trained = kept.read_results()
    assert as_trained is not None
    for name, top1 in (('test_cost=0.5', 0.7), ('test_cheap', 0.6), ('validation', 0.8), ('validation_cost=0.5', 0.5)):
        kept.write_results(as_trained | {'top1': top1, 'mean_macs': 1e6 * top1}, f'evaluation_{name}')
    unseen = {'threshold': 0.4, 'macs_share': 0.7}  # older versions kept what a threshold costs, and no more
    point = {'threshold': 0.3, 'macs_share': 0.8, 'top1': 0.9, 'mean_path_length': 2.0}
    kept.write_cost_curve([point, unseen], 'train', 9)
    run = read_run(kept)
    points = {point.name: point.top1 for point in accuracy_cost.points(run)}
    assert points == {
        'as trained': 100 * as_trained['top1'],
        'a cost of 0.5': 70,
        'operating point cheap': pytest.approx(60),
    }
    assert accuracy_cost.curve(run) == [(pytest.approx(2 * 0.8 * run.costs.static_macs / 1e9), 90)]
    figure = accuracy_cost.accuracy_cost([run], style.theme(False))
    assert 'a cost of 0.5, 70.00 %' in figure.caption and 'training images' in figure.caption
    for kind in ('routes', 'thumbnails'):
        shutil.copyfile(path / kind / 'test.npz', path / kind / 'validation.npz')
    assert {name: each['top1'] for name, each in read_run(kept, 'validation').evaluations.items()} == {
        'as trained': 0.8,
        'cost=0.5': 0.5,
    }


@pytest.mark.long
def test_an_operating_point_is_analysed_beside_the_run_itself(workdir: Path, tmp_path: Path) -> None:
    path = tmp_path / 'run'
    shutil.copytree(workdir, path)
    point = {'threshold': 0.75, 'macs_share': 0.5, 'curve': [], 'split': 'train'}
    Workdir(path).write_operating_point('cheap', point)
    missing = helpers.run_command('analyze', f'--workdir={path}', '--operating_point=cheap')
    assert missing.returncode == 2 and 'codinet_jax.evaluate' in missing.stderr
    for name, flag in (('evaluate', 'operating_point'), ('analyze', 'budget')):  # as it was called before
        finished = helpers.run_command(name, f'--workdir={path}', f'--{flag}=cheap')
        assert finished.returncode == 0, finished.stderr
    numbers = json.loads((path / 'analysis' / 'test_cheap' / 'numbers.json').read_text())
    assert numbers['operating_point'] == 'cheap'
    with np.load(path / 'routes' / 'test_cheap.npz') as routes:
        assert numbers['mean_path_length'] == pytest.approx(routes['decisions_Nxn'].sum() / len(routes['labels_N']))
        np.testing.assert_array_equal(routes['decisions_Nxn'], routes['run_probability_Nxn'] >= 0.75)


def cut(run: Run, count: int) -> Run:
    """The run as if only its first images had been evaluated."""
    return dataclasses.replace(
        run,
        record=Record(*(array[:count] for array in run.record)),
        augmented=run.augmented._replace(
            **{name: array[:, :count] for name, array in run.augmented._asdict().items() if name != 'augmentations_A'}
        ),
        thumbnails_SxhxwxC=run.thumbnails_SxhxwxC[:count],
    )


def decided(run: Run, v_n: np.ndarray) -> Run:
    """The run as if every image and augmentation had these gates."""
    A, N = run.augmented.augmented_predictions_AxN.shape
    v_Nxn, v_AxNxn = np.tile(v_n, (N, 1)), np.tile(v_n, (A, N, 1))
    return dataclasses.replace(
        run,
        record=run.record._replace(run_probability_Nxn=v_Nxn, decisions_Nxn=v_Nxn >= 0.5),
        augmented=run.augmented._replace(
            augmented_run_probability_AxNxn=v_AxNxn, augmented_decisions_AxNxn=v_AxNxn >= 0.5
        ),
    )


def static(run: Run) -> Run:
    setup = dataclasses.replace(run.setup, model=run.setup.model.clone(router=None), method=Static())
    return dataclasses.replace(decided(run, np.ones(run.num_blocks, np.float32)), setup=setup)


def of_one_class(run: Run) -> Run:
    return dataclasses.replace(run, record=run.record._replace(labels_N=np.full_like(run.record.labels_N, 3)))


DEGENERATE = {
    'static': (static, 'static network'),
    'one route': (lambda run: decided(run, np.array([0.9, 0.2, 0.7], np.float32)), 'Routing has collapsed'),
    'one class': (of_one_class, 'All images are of one class'),
    'fewer images than the perplexity': (lambda run: cut(run, 12), 'only 12'),
    'two images': (lambda run: cut(run, 2), 'there is no map'),
}


@pytest.mark.long
@pytest.mark.parametrize('kind', DEGENERATE)
def test_a_degenerate_run_gets_a_report_that_says_so(workdir: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(embedding, 'ITERATIONS', (20, 20))  # whether there is a map is asked, not how good it is
    make, sentence = DEGENERATE[kind]
    found = analysis.study([make(read_run(Workdir(workdir)))], lambda _: None, Options(formats=('png',)))
    assert any(sentence in remark for remark in found.remarks)
    page = found.files['report.html'].decode()
    assert sentence in page
    assert ('id="route-map-chart"' in page) == (kind in ('one class', 'fewer images than the perplexity'))
    assert json.loads(found.files['numbers.json'])['num_test_images'] >= 1
    assert 'nan' not in text(found.numbers)


@pytest.mark.long
def test_runs_are_compared_in_one_table_and_in_shared_figures(workdir: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    shutil.copytree(workdir, other)
    again = helpers.run_command('compare', f'--output={tmp_path / "compared"}', str(workdir), f'a copy={other}')
    assert again.returncode == 0, again.stderr
    assert set(helpers.all_bytes(tmp_path / 'compared')) == files(FIGURES - OF_ONE_RUN)
    numbers = json.loads((tmp_path / 'compared' / 'numbers.json').read_text())
    assert list(numbers) == ['tiny', 'a copy']
    of_first, of_second = (numbers[name].pop('less') for name in numbers)
    assert of_first['a copy'] == of_second['tiny'] and of_first['a copy']['difference'] == 0
    assert (
        of_first['a copy']['p_value'] == 1 and 'tiny less a copy' in (tmp_path / 'compared' / 'numbers.md').read_text()
    )
    assert numbers['tiny'] == numbers['a copy']
    top1 = f'{numbers["tiny"]["top1"]:.2%}'
    assert any(line.split()[1:] == [top1, top1] for line in again.stdout.splitlines() if line.startswith('top-1'))


@pytest.mark.long
def test_seeds_are_pooled_without_a_map(workdir: Path, tmp_path: Path) -> None:
    """Seeds 0 and 1 of one thing, beside another; what the second seed decided is another thing than what it is."""
    for seed in (0, 1):
        shutil.copytree(workdir, tmp_path / 'routed' / f'seed_{seed}')
    second = tmp_path / 'routed' / 'seed_1'
    for name in ('config.json', 'results.json'):
        (second / name).write_text(json.dumps(json.loads((second / name).read_text()) | {'seed': 1}))
    with np.load(second / 'routes' / 'test.npz') as file:
        routes = dict(file)
    wrong = {**routes, 'predictions_N': (routes['labels_N'] + 1) % 10}
    np.savez(second / 'routes' / 'test.npz', **wrong)
    shutil.copytree(workdir, tmp_path / 'alone')
    in_another_order = {name: routes[name][::-1] for name in ('labels_N', 'predictions_N')}
    np.savez(tmp_path / 'alone' / 'routes' / 'test.npz', **{**routes, **in_another_order})
    seeds = [str(tmp_path / 'routed' / f'seed_{seed}') for seed in (0, 1)]
    flags = ['--group', '--no-map', '--format=svg', '--width=single', f'--output={tmp_path / "out"}']
    finished = helpers.run_command('compare', *flags, *seeds, str(tmp_path / 'alone'))
    assert finished.returncode == 0, finished.stderr
    drawn = FIGURES - OF_ONE_RUN - {'map_by_class', 'map_by_blocks'}
    assert {name for name in helpers.all_bytes(tmp_path / 'out') if name.endswith('.svg')} == {
        f'{name}.svg' for name in drawn
    }
    numbers = json.loads((tmp_path / 'out' / 'numbers.json').read_text())
    top1 = numbers['alone']['top1']
    assert [each['top1'] for each in numbers['routed']] == [top1, 0]
    assert 'routed (2 seeds)' in finished.stdout
    assert 'note: alone: evaluated on other images than routed, so' in finished.stdout
    assert f'{top1 / 2:.2%} ± {top1 / np.sqrt(2):.2%}' in finished.stdout
    with open(tmp_path / 'out' / 'path_lengths.csv') as file:
        images = {row['run']: 0 for row in csv.DictReader(file)}
        file.seek(0)
        for row in csv.DictReader(file):
            images[row['run']] += int(row['images'])
    assert images == {'routed': 2 * numbers['alone']['num_test_images'], 'alone': numbers['alone']['num_test_images']}


@pytest.mark.long
@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['analyze'], 'Say which run: --workdir=DIRECTORY.'),
        (['analyze', '--workdir={tmp}/unfinished'], 'go on with codinet_jax.main'),
        (['analyze', '--workdir={tmp}/older'], 'make it with codinet_jax.evaluate'),
        (['analyze', '--workdir={run}', '--operating_point=none'], 'make it with codinet_jax.evaluate'),
        (['compare', '{run}', '--output={tmp}/out'], 'Name the runs to compare'),
        (['compare', '{run}', 'a={run}'], 'Say where to write: --output=DIRECTORY.'),
        (['compare', '{run}', '{run}', '--output={tmp}/out'], "Two runs are called 'tiny'"),
        (['compare', '{run}', 'a={tmp}/cifar', '--output={tmp}/out'], 'different data sets'),
        (['compare', '{run}', 'a={tmp}/held_out', '--output={tmp}/out'], 'a on validation. Name one with --split.'),
        (['compare', '{run}', 'a={run}', '--output={tmp}/file'], 'cannot be made'),
        (['compare', '{run}', 'a={run}', '--output={tmp}/out', '--cost=0.5'], 'test_cost=0.5.npz'),
    ],
)
def test_what_cannot_be_analysed_is_refused_in_a_sentence(
    workdir: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    for name in ('older', 'unfinished', 'cifar', 'held_out'):
        shutil.copytree(workdir, tmp_path / name, ignore=shutil.ignore_patterns('checkpoints', 'analysis'))
    (tmp_path / 'unfinished' / 'results.json').unlink()
    with np.load(tmp_path / 'older' / 'routes' / 'test.npz') as routes:
        older = {field: routes[field] for field in Record._fields}
    np.savez(tmp_path / 'older' / 'routes' / 'test.npz', **older)
    config = json.loads((tmp_path / 'cifar' / 'config.json').read_text())
    (tmp_path / 'cifar' / 'config.json').write_text(json.dumps(config | {'dataset': 'cifar10'}))
    results = json.loads((tmp_path / 'held_out' / 'results.json').read_text())
    (tmp_path / 'held_out' / 'results.json').write_text(json.dumps(results | {'split': 'validation'}))
    for path in [*(tmp_path / 'held_out').glob('routes/test*'), *(tmp_path / 'held_out').glob('thumbnails/test*')]:
        path.rename(path.with_name(path.name.replace('test', 'validation')))
    (tmp_path / 'file').write_text('mine')
    before = helpers.all_bytes(tmp_path)
    name, *rest = (argument.format(tmp=tmp_path, run=workdir) for argument in arguments)
    finished = helpers.run_command(name, *rest)
    assert finished.returncode == 2
    assert sentence in finished.stderr and len(finished.stderr.splitlines()) == 1
    assert helpers.all_bytes(tmp_path) == before


# Read by Python as it starts, as sitecustomize.py: this interpreter then has no such package, whatever is installed.
WITHOUT = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition('.')[0] == '{package}' else find_spec(name, *rest)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ('arguments', 'package'),
    [
        (['analyze', '--workdir={run}'], 'matplotlib'),
        (['analyze', '--workdir={run}'], 'openTSNE'),
        (['compare', '{run}', 'a={run}', '--output={tmp}/out'], 'bokeh'),
    ],
)
def test_a_package_that_is_not_installed_is_asked_for_before_anything_is_written(
    workdir: Path, tmp_path: Path, arguments: list[str], package: str
) -> None:
    (tmp_path / 'sitecustomize.py').write_text(WITHOUT.format(package=package))
    before = helpers.all_bytes(workdir)
    name, *rest = (argument.format(tmp=tmp_path, run=workdir) for argument in arguments)
    finished = helpers.run_command(name, *rest, PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE='1')
    assert (finished.returncode, finished.stdout) == (2, '')
    assert finished.stderr == f'error: Drawing needs the package {package}: pip install "codinet_jax[plots]".\n'
    assert helpers.all_bytes(workdir) == before and not (tmp_path / 'out').exists()


def test_a_table_is_aligned() -> None:
    table = Table('', ('', 'one', 'another'), (('top-1', '9.00%', '10.00%'), ('K', '1', '12')))
    assert text(table).splitlines() == ['         one  another', 'top-1  9.00%   10.00%', 'K          1       12']
