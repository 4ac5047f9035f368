"""A workdir that an older version wrote is read with today's defaults, or refused with what to do; records go round."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers
from codinet_jax.errors import InputError
from codinet_jax.record import AugmentedRecord, Record
from codinet_jax.workdir import Workdir

NEWER = (
    ('image_size',),
    ('mean',),
    ('std',),
    ('model', 'remat'),
    ('loss', 'label_smoothing'),
    ('optimizer', 'ema_decay'),
)


@pytest.fixture
def older(tmp_path: Path) -> Workdir:
    written = json.loads(helpers.tiny_config(**{'loss.gamma': 0.7}).to_json())
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


def test_its_run_may_go_on_unless_something_new_is_wanted(older: Workdir) -> None:
    older.check(helpers.tiny_config(**{'loss.gamma': 0.7}))
    with pytest.raises(InputError, match=r'loss\.label_smoothing \(0\.0 there, 0\.1 here\)'):
        older.check(helpers.tiny_config(**{'loss.gamma': 0.7, 'loss.label_smoothing': 0.1}))


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
    workdir.write_routes('test', record, augmented)
    reversed_record = Record(*(array_N[::-1] for array_N in record))
    workdir.write_routes('test_half', reversed_record, augmented)
    for name, expected in (('test', record), ('test_half', reversed_record)):
        found, found_augmented = workdir.read_routes(name)
        assert_same(found, expected)
        assert_same(found_augmented, augmented)
    workdir.write_routes('test', reversed_record, augmented)
    assert_same(workdir.read_routes('test')[0], reversed_record)
    assert sorted(helpers.all_bytes(tmp_path)) == ['routes/test.npz', 'routes/test_half.npz']


def test_routes_are_kept_under_the_names_of_the_legend(tmp_path: Path) -> None:
    record, augmented = records()
    Workdir(tmp_path).write_routes('test', record, augmented)
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


SPOILT: dict[str, Callable[[Path], Any]] = {
    'missing': Path.unlink,
    'empty': lambda path: path.write_bytes(b''),
    'no archive': lambda path: path.write_text('routes'),
    'cut short': cut_short,
    'older': by_an_older_version,
    'of two splits': of_two_splits,
}


@pytest.mark.parametrize('how', SPOILT)
def test_routes_that_cannot_be_read_are_refused_with_what_to_do(tmp_path: Path, how: str) -> None:
    workdir, path = Workdir(tmp_path), tmp_path / 'routes' / 'test.npz'
    workdir.write_routes('test', *records())
    SPOILT[how](path)
    with pytest.raises(InputError, match=f'^{re.escape(str(path))} .*codinet_jax\\.evaluate.$'):
        workdir.read_routes('test')


@pytest.mark.parametrize('shape', [(7, 8, 8, 1), (3, 64, 48, 3)])
def test_thumbnails_are_read_as_they_were_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    workdir = Workdir(tmp_path)
    thumbnails_SxhxwxC = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    workdir.write_thumbnails('validation', thumbnails_SxhxwxC)
    found = workdir.read_thumbnails('validation')
    np.testing.assert_array_equal(found, thumbnails_SxhxwxC)
    assert found.dtype == np.uint8


@pytest.mark.parametrize('how', ['missing', 'empty', 'no archive', 'cut short', 'older'])
def test_thumbnails_that_cannot_be_read_are_refused_with_what_to_do(tmp_path: Path, how: str) -> None:
    workdir, path = Workdir(tmp_path), tmp_path / 'thumbnails' / 'test.npz'
    workdir.write_thumbnails('test', np.zeros((2, 8, 8, 1), np.uint8))
    SPOILT[how](path)
    with pytest.raises(InputError, match=f'^{re.escape(str(path))} .*codinet_jax\\.evaluate.$'):
        workdir.read_thumbnails('test')
