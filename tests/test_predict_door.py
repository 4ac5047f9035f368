"""`python -m codinet_jax.predict` answers every file it can read, in order, as the predictor does in process."""

import concurrent.futures
import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import helpers
from codinet_jax.data import datasets
from codinet_jax.inference.predictor import Prediction, Predictor
from codinet_jax.workdir import Workdir

IMAGES = helpers.noise_images(5).images_NxHxWxC
GOOD = [f'good{i}.png' for i in range(5)]
BAD = {'missing.png': 'does not exist', 'empty.png': 'is empty', 'notes.png': 'not an image'}
# Bad ones at the start, inside a batch, between batches and at the end.
MIXED = ['empty.png', *GOOD[:1], 'missing.png', *GOOD[1:4], 'notes.png', *GOOD[4:], 'missing.png']
BUDGET, THRESHOLD = 'dear', 0.3
NUM_TEST = 355

# Every command's flags and files.
ANSWERED: dict[str, list[str]] = {
    'text': ['--workdir={run}', '--batch_size=2', *MIXED[:-1]],
    'json': ['--workdir={run}', '--batch_size=2', '--json', *MIXED],
    'good': ['--workdir={run}', '--json', '--strategy=masked', *GOOD[::-1]],
    'one': ['--workdir={run}', GOOD[0], f'--budget={BUDGET}'],
    'none': ['--workdir={run}', 'missing.png', 'empty.png'],
    'split': ['--workdir={run}', '--split=test', '--json', f'--budget={BUDGET}', '--batch_size=100'],
}
REFUSED: dict[str, tuple[list[str], list[str]]] = {
    'no workdir': (GOOD, ['--workdir=DIRECTORY']),
    'neither files nor split': (['--workdir={run}'], ['image files or a split', '--split=test']),
    'files and split': (['--workdir={run}', '--split=test', *GOOD], ['image files or a split']),
    'unknown split': (['--workdir={run}', '--split=tset'], ['tset', 'validation']),
    'no batch': (['--workdir={run}', '--batch_size=0', *GOOD], ['batch_size']),
    'no run': (['--workdir={files}', *GOOD], ['{files} holds no run', 'codinet_jax.main']),
    'unfinished run': (['--workdir={unfinished}', *GOOD], ['unfinished', 'codinet_jax.main']),
    'unknown budget': (['--workdir={run}', '--budget=cheap', *GOOD], ["'cheap'", BUDGET, 'codinet_jax.calibrate']),
    'unknown strategy': (['--workdir={run}', '--strategy=fast', *GOOD], ["'fast'", 'masked, conditional, compacted']),
    'nothing held out': (['--workdir={run}', '--split=validation'], ["'validation'", 'val_split']),
}


class Doors:
    """Every command of this file, two at a time, and what they said."""

    def __init__(self, tmp: Path):
        self.data_dir = tmp / 'tfds'
        self.run = helpers.write_workdir(tmp / 'run', helpers.tiny_config())
        self.run.write_budget(BUDGET, {'threshold': THRESHOLD})
        with Workdir(tmp / 'unfinished').claimed(helpers.tiny_config()):
            pass
        self.files = tmp / 'files'
        self.files.mkdir()
        for name, image in zip(GOOD, IMAGES, strict=True):
            Image.fromarray(image[..., 0]).save(self.files / name)
        (self.files / 'empty.png').touch()
        (self.files / 'notes.png').write_text('no picture\n')
        self.paths = {name: str(tmp / name) for name in ('run', 'files', 'unfinished')}
        self.before = {name: helpers.all_bytes(tmp / name) for name in self.paths}
        one = functools.partial(helpers.run_door, 'predict', TFDS_DATA_DIR=str(self.data_dir))
        commands = ANSWERED | {name: flags for name, (flags, _) in REFUSED.items()}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            said = pool.map(lambda flags: one(*map(self._filled, flags)), commands.values())
            self.said = dict(zip(commands, said, strict=True))
        self.after = {name: helpers.all_bytes(tmp / name) for name in self.paths}

    def _filled(self, flag: str) -> str:
        return self.path(flag) if flag.endswith('.png') else flag.format(**self.paths)

    def path(self, name: str) -> str:
        return str(self.files / name)

    def objects(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said[name].stdout.splitlines()]

    @functools.cached_property
    def predictor(self) -> Predictor:
        return Predictor.from_workdir(self.run.path)


@pytest.fixture(scope='module')
def doors(tmp_path_factory: pytest.TempPathFactory) -> Doors:
    return Doors(tmp_path_factory.mktemp('predict'))


def assert_objects(objects: Sequence[dict[str, Any]], answers: Prediction, doors: Doors) -> None:
    """One object an image, in order, that say what the predictor says."""
    card = doors.predictor.card
    assert len(objects) == len(answers.labels_B)
    for found, label, probabilities_Y, route, macs in zip(
        objects, answers.labels_B, answers.probabilities_BxY, answers.decisions_Bxn, answers.macs_B, strict=True
    ):
        assert list(found) == ['file', 'label', 'probability', 'route', 'macs', 'static_macs']
        types = {key: type(value) for key, value in found.items()}
        assert types == {
            'file': str,
            'label': int,
            'probability': float,
            'route': list,
            'macs': int,
            'static_macs': int,
        }
        assert found['label'] == label
        assert found['probability'] == pytest.approx(probabilities_Y[label], rel=1e-4)
        assert found['probability'] == pytest.approx(max(probabilities_Y), rel=1e-4)
        assert [type(run) for run in found['route']] == [int] * 3 and found['route'] == route.astype(int).tolist()
        spent = sum(block for block, run in zip(card.blocks_macs, found['route'], strict=True) if run)
        assert found['macs'] == macs == card.fixed_macs + spent
        assert found['static_macs'] == card.static_macs


def test_the_images_part_ways(doors: Doors) -> None:
    """Or an answer given to the wrong file would not show."""
    answers = doors.predictor(IMAGES)
    assert len({(label, *route) for label, route in zip(answers.labels_B, answers.decisions_Bxn, strict=True)}) >= 3
    assert len(np.unique(answers.probabilities_BxY.max(axis=1).round(3))) == 5
    assert len(np.unique(answers.decisions_Bxn, axis=0)) >= 2


def test_files_are_answered_as_json_in_their_order_around_those_that_cannot_be_read(doors: Doors) -> None:
    said, objects = doors.said['json'], doors.objects('json')
    assert (said.returncode, said.stderr) == (1, '')
    assert [found['file'] for found in objects] == list(map(doors.path, MIXED))
    assert_objects([found for found in objects if 'error' not in found], doors.predictor(IMAGES), doors)
    for name, found in zip(MIXED, objects, strict=True):
        if name in BAD:
            assert list(found) == ['file', 'error']
            assert found['error'].startswith(doors.path(name)) and BAD[name] in found['error']


def test_files_are_answered_as_text_and_errors_go_to_stderr(doors: Doors) -> None:
    said, answers, card = doors.said['text'], doors.predictor(IMAGES), doors.predictor.card
    assert said.returncode == 1
    lines = said.stdout.splitlines()
    assert len(lines) == len(GOOD)
    for i, (name, line) in enumerate(zip(GOOD, lines, strict=True)):
        file, label, percent, route, price = line.split('  ')
        assert (file, label) == (doors.path(name), str(answers.labels_B[i]))
        assert float(percent.removesuffix('%')) == pytest.approx(100 * answers.probabilities_BxY[i].max(), abs=0.051)
        assert route == ' '.join('█' if run else '·' for run in answers.decisions_Bxn[i])
        macs, static_macs, share = map(float, re.fullmatch(r'(\S+) of (\S+) MMACs, (\d+)%', price).groups())
        assert macs == pytest.approx(answers.macs_B[i] / 1e6, abs=0.0051)
        assert static_macs == pytest.approx(card.static_macs / 1e6, abs=0.0051)
        assert share == pytest.approx(100 * answers.macs_B[i] / card.static_macs, abs=0.51)
    wrong = [name for name in MIXED[:-1] if name in BAD]
    for name, line in zip(wrong, said.stderr.splitlines(), strict=True):
        assert line.startswith(f'error: {doors.path(name)} ') and BAD[name] in line


def test_files_that_can_all_be_read_are_a_success_whatever_executes_them(doors: Doors) -> None:
    said, objects = doors.said['good'], doors.objects('good')
    assert (said.returncode, said.stderr) == (0, '')
    assert [found['file'] for found in objects] == list(map(doors.path, GOOD[::-1]))
    assert_objects(objects, doors.predictor(IMAGES[::-1]), doors)


def test_one_file_is_answered_under_a_budget(doors: Doors) -> None:
    said = doors.said['one']
    assert (said.returncode, said.stderr) == (0, '')
    answers = doors.predictor(IMAGES[:1], THRESHOLD)
    assert not np.array_equal(answers.decisions_Bxn, doors.predictor(IMAGES[:1]).decisions_Bxn)
    file, label, _, route, _ = said.stdout.removesuffix('\n').split('  ')
    assert (file, label) == (doors.path(GOOD[0]), str(answers.labels_B[0]))
    assert route == doors.predictor.card.draw(answers.decisions_Bxn[0])


def test_where_no_file_can_be_read_every_one_is_told_of(doors: Doors) -> None:
    said = doors.said['none']
    assert (said.returncode, said.stdout) == (1, '')
    assert [line.split()[1] for line in said.stderr.splitlines()] == [
        doors.path('missing.png'),
        doors.path('empty.png'),
    ]


def test_a_split_is_answered_whole_under_a_budget(doors: Doors) -> None:
    said, objects = doors.said['split'], doors.objects('split')
    assert (said.returncode, said.stderr) == (0, '')
    assert [found['file'] for found in objects] == [f'test[{i}]' for i in range(NUM_TEST)]
    images = datasets.load('digits', 'test', doors.data_dir).images_NxHxWxC
    assert_objects(objects, doors.predictor(images, THRESHOLD), doors)
    assert len({tuple(found['route']) for found in objects}) > 2


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_answered_is_said_in_a_sentence(doors: Doors, case: str) -> None:
    said, words = doors.said[case], [word.format(**doors.paths) for word in REFUSED[case][1]]
    assert (said.returncode, said.stdout) == (2, '')
    assert said.stderr.startswith('error: ') and said.stderr.count('\n') == 1, said.stderr
    assert [word for word in words if word not in said.stderr] == [], said.stderr


def test_nothing_is_written_into_a_workdir(doors: Doors) -> None:
    assert doors.after == doors.before
