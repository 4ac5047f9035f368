"""A workdir that an older version wrote is read with today's defaults, or refused with what to do; records go round."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers
from codinet_jax.config import setup
from codinet_jax.evaluation import record as records_of
from codinet_jax.evaluation.record import AugmentedRecord, Record
from codinet_jax.inference import load
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir, begin

NEWER = (
    ('method',),
    ('imports',),
    ('loss', 'extra_terms'),
    ('loss', 'extra_weights'),
    ('image_size',),
    ('mean',),
    ('std',),
    ('model', 'remat'),
    ('loss', 'label_smoothing'),
    ('optimizer', 'ema_decay'),
)


@pytest.fixture
def older(tmp_path: Path) -> Workdir:
    return by_older_version(tmp_path, {'loss.gamma': 0.7})


def by_older_version(tmp_path: Path, changes: Mapping[str, Any]) -> Workdir:
    written = json.loads(helpers.tiny_config(**changes).to_json())
    written['loss']['gamma_lead'] = written['loss'].pop('gamma_damping_steps')
    for *path, name in NEWER:
        within = written
        for part in path:
            within = within[part]
        del within[name]
    (tmp_path / 'config.json').write_text(json.dumps(written))
    return Workdir(tmp_path)


def test_what_an_older_version_did_not_know_is_as_the_default_says(older: Workdir) -> None:
    config = older.read_config()
    assert (config.image_size, config.mean, config.std, config.model.remat) == (None, None, None, False)
    assert config.loss.label_smoothing == 0.0
    assert config.loss.gamma == 0.7 and config.model.depth == 8, 'what it knew stays'
    assert config.method == 'codinet' and config.loss.gamma_damping_steps == 100.0


@pytest.mark.parametrize('router', ['static', 'random'])
def test_an_older_baseline_is_still_one(tmp_path: Path, router: str) -> None:
    config = by_older_version(tmp_path, {'model.router': router, 'loss.gamma_damping_steps': 200.0}).read_config()
    assert config.method == router
    assert config.loss.gamma_damping_steps == 200.0, 'what was once called gamma_lead'
    assert setup.read(config).model.router == (None if router == 'static' else 'random')


def test_its_run_may_go_on_unless_something_new_is_wanted(older: Workdir) -> None:
    older.check(record_of({'loss.gamma': 0.7}))
    with pytest.raises(InputError, match=r'loss\.label_smoothing \(0\.0 there, 0\.1 here\)'):
        older.check(record_of({'loss.gamma': 0.7, 'loss.label_smoothing': 0.1}))


def test_a_run_may_go_on_with_its_data_and_modules_elsewhere(older: Workdir) -> None:
    elsewhere = record_of({'loss.gamma': 0.7}) | {'data_dir': '/elsewhere', 'imports': ['/elsewhere/my_router.py']}
    older.check(elsewhere)


def test_where_the_data_lie_is_known_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, workdir = tmp_path / 'here' / 'images', Workdir(tmp_path / 'run')
    for name in ('train/oak', 'train/elm', 'val/oak', 'val/elm'):
        (images / name).mkdir(parents=True)
    for data_dir in ('~/images', 'gs://bucket/images', str(images), None):
        assert record_of({'data_dir': data_dir})['data_dir'] == data_dir
    monkeypatch.chdir(images.parent)
    config = helpers.tiny_config(dataset='folder', data_dir='images', image_size=16)
    with workdir.claimed(begin(config, workdir).record):
        pass
    shutil.rmtree(images)
    assert begin(config, workdir).data.spec.class_names == ('elm', 'oak'), 'it is the same folder, and not asked again'
    monkeypatch.chdir(tmp_path)
    assert setup.read(workdir.read_config()).data.data_dir == str(images)


def record_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    return helpers.tiny_setup(**changes).record


def test_a_budget_of_an_older_version_is_an_operating_point(older: Workdir) -> None:
    point = {'threshold': 0.75, 'cost': 0.4, 'top1': 0.9}
    budget = point | {'target_cost': 0.4, 'split': 'train', 'curve': [point]}
    older.write_results({'0.4': budget}, 'budgets')
    assert load.operating_points(older).threshold('0.4') == 0.75
    found = older.read_operating_points()['0.4']
    assert found['macs_share'] == found['curve'][0]['macs_share'] == 0.4 and found['top1'] == 0.9
    older.write_operating_point('half', {'threshold': 0.5, 'macs_share': 0.5})
    known = load.operating_points(older)
    assert (known.threshold('0.4'), known.threshold('half'), known.threshold(None)) == (0.75, 0.5, 0.5)
    with pytest.raises(InputError, match=r"no operating point 'third' \(it has 0\.4, half\)"):
        known.threshold('third')


def records() -> tuple[Record, AugmentedRecord]:
    """Of seven images, five blocks and two augmentations."""
    rng = np.random.default_rng(0)
    v_AxNxn = rng.uniform(size=(3, 7, 5)).astype(np.float32)
    answers_AxN = rng.integers(0, 10, (4, 7), np.int32)
    return Record(answers_AxN[3], answers_AxN[2], v_AxNxn[2], v_AxNxn[2] >= 0.5), AugmentedRecord(
        np.array(['crop', 'horizontal flip']),
        answers_AxN[:2],
        v_AxNxn[:2],
        v_AxNxn[:2] >= 0.5,
        rng.exponential(size=(2, 7)).astype(np.float32),
    )


def assert_same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    assert type(found) is type(expected)
    for array, expected_array in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, expected_array)
        assert array.dtype == expected_array.dtype


def test_routes_are_read_as_they_were_written(tmp_path: Path) -> None:
    workdir, (record, augmented) = Workdir(tmp_path), records()
    records_of.write_routes(workdir, 'test', record, augmented)
    reversed_record = Record(*(array_N[::-1] for array_N in record))
    records_of.write_routes(workdir, 'test_half', reversed_record, augmented)
    for name, expected in (('test', record), ('test_half', reversed_record)):
        found, found_augmented = records_of.read_routes(workdir, name)
        assert_same(found, expected)
        assert_same(found_augmented, augmented)
    records_of.write_routes(workdir, 'test', reversed_record, augmented)
    assert_same(records_of.read_routes(workdir, 'test')[0], reversed_record)
    assert sorted(helpers.all_bytes(tmp_path)) == ['routes/test.npz', 'routes/test_half.npz']


def test_routes_are_kept_under_the_names_of_the_legend(tmp_path: Path) -> None:
    record, augmented = records()
    records_of.write_routes(Workdir(tmp_path), 'test', record, augmented)
    with np.load(tmp_path / 'routes' / 'test.npz') as arrays:
        assert set(arrays.files) == {*Record._fields, *AugmentedRecord._fields}
        np.testing.assert_array_equal(arrays['decisions_Nxn'], record.decisions_Nxn)


def by_an_older_version(path: Path) -> None:
    np.savez_compressed(path, **records()[0]._asdict())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_two_splits(path: Path) -> None:
    record, augmented = records()
    np.savez_compressed(path, **record._replace(labels_N=np.arange(6))._asdict(), **augmented._asdict())


def of_two_networks(path: Path) -> None:
    record, augmented = records()
    wider = record._replace(decisions_Nxn=np.pad(record.decisions_Nxn, ((0, 0), (0, 1))))
    np.savez_compressed(path, **wider._asdict(), **augmented._asdict())


SPOILT: dict[str, Callable[[Path], Any]] = {
    'missing': Path.unlink,
    'empty': lambda path: path.write_bytes(b''),
    'no archive': lambda path: path.write_text('routes'),
    'cut short': cut_short,
    'older': by_an_older_version,
    'of two splits': of_two_splits,
    'of two networks': of_two_networks,
}


@pytest.mark.parametrize('how', SPOILT)
def test_routes_that_cannot_be_read_are_refused_with_what_to_do(tmp_path: Path, how: str) -> None:
    workdir, path = Workdir(tmp_path), tmp_path / 'routes' / 'test.npz'
    records_of.write_routes(workdir, 'test', *records())
    SPOILT[how](path)
    with pytest.raises(InputError, match=f'^{re.escape(str(path))} .*codinet_jax\\.evaluate.$'):
        records_of.read_routes(workdir, 'test')


@pytest.mark.parametrize('axis', ['N', 'A'])
def test_a_record_of_nothing_is_refused(tmp_path: Path, axis: str) -> None:
    arrays = {name: array for each in records() for name, array in each._asdict().items()}  # type: ignore[attr-defined]
    none = {
        name: np.take(array, [], axis=name.rsplit('_', 1)[1].split('x').index(axis))
        for name, array in arrays.items()
        if axis in name.rsplit('_', 1)[1].split('x')
    }
    Workdir(tmp_path).write_arrays('routes', 'test', arrays | none)
    with pytest.raises(InputError, match=r'test\.npz contradicts itself: evaluate again'):
        records_of.read_routes(Workdir(tmp_path), 'test')


@pytest.mark.parametrize(
    'array',
    [np.zeros((2, 8, 8, 1)), np.zeros((2, 8), np.uint8), np.zeros((0, 8, 8, 1), np.uint8)],
    ids=['floats', 'flat', 'none'],
)
def test_what_are_no_pictures_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    records_of.write_thumbnails(Workdir(tmp_path), 'test', array)
    with pytest.raises(InputError, match=r'test\.npz holds no pictures: evaluate again'):
        records_of.read_thumbnails(Workdir(tmp_path), 'test')


@pytest.mark.parametrize('shape', [(7, 8, 8, 1), (3, 64, 48, 3)])
def test_thumbnails_are_read_as_they_were_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    workdir = Workdir(tmp_path)
    thumbnails_SxhxwxC = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    records_of.write_thumbnails(workdir, 'validation', thumbnails_SxhxwxC)
    found = records_of.read_thumbnails(workdir, 'validation')
    np.testing.assert_array_equal(found, thumbnails_SxhxwxC)
    assert found.dtype == np.uint8


@pytest.mark.parametrize('how', ['missing', 'empty', 'no archive', 'cut short', 'older'])
def test_thumbnails_that_cannot_be_read_are_refused_with_what_to_do(tmp_path: Path, how: str) -> None:
    workdir, path = Workdir(tmp_path), tmp_path / 'thumbnails' / 'test.npz'
    records_of.write_thumbnails(workdir, 'test', np.zeros((2, 8, 8, 1), np.uint8))
    SPOILT[how](path)
    with pytest.raises(InputError, match=f'^{re.escape(str(path))} .*codinet_jax\\.evaluate.$'):
        records_of.read_thumbnails(workdir, 'test')
