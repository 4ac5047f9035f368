"""`python -m codinet_jax.predict` answers every file it can read, in order, as the predictor does in process."""

import concurrent.futures
import csv
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
from codinet_jax.inference import load
from codinet_jax.inference.predictor import Prediction, Predictor
from codinet_jax.workdir import Workdir

IMAGES = helpers.noise_images(5).images_NxHxWxC
GOOD = [f'good{i}.png' for i in range(5)]
BAD = {'missing.png': 'does not exist', 'empty.png': 'is empty', 'notes.png': 'not an image'}
# Bad ones at the start, inside a batch, between batches and at the end.
MIXED = ['empty.png', *GOOD[:1], 'missing.png', *GOOD[1:4], 'notes.png', *GOOD[4:], 'missing.png']
POINT, THRESHOLD = 'expensive', 0.3
NUM_TEST = 355

# Every command's flags and files.
ANSWERED: dict[str, list[str]] = {
    'text': ['--workdir={run}', '--batch_size=2', *MIXED[:-1]],
    'json': ['--workdir={run}', '--batch_size=2', '--json', *MIXED],
    'good': ['--workdir={run}', '--json', '--strategy=masked', *GOOD[::-1]],
    'searched': ['--workdir={run}', '--csv={files}/../answers.csv', '--top=2', '{files}', '{files}/g*[13].png'],
    'ascii': ['--workdir={run}', GOOD[0]],
    'summed': ['--workdir={run}', '--split=test'],
    'one': ['--workdir={run}', GOOD[0], f'--budget={POINT}'],  # as it was called before
    'none': ['--workdir={run}', 'missing.png', 'empty.png'],
    'split': ['--workdir={run}', '--split=test', '--json', f'--operating_point={POINT}', '--batch_size=100'],
}
REFUSED: dict[str, tuple[list[str], list[str]]] = {
    'no workdir': (GOOD, ['--workdir=RUN', '--exported=DIRECTORY', '--pretrained=cifar10']),
    'neither files nor split': (['--workdir={run}'], ['image files or a split', '--split=test']),
    'files and split': (['--workdir={run}', '--split=test', *GOOD], ['image files or a split']),
    'unknown split': (['--workdir={run}', '--split=tset'], ['tset', 'validation']),
    'no batch': (['--workdir={run}', '--batch_size=0', *GOOD], ['batch_size']),
    'no run': (['--workdir={files}', *GOOD], ['{files} holds no run', 'codinet_jax.main']),
    'unfinished run': (['--workdir={unfinished}', *GOOD], ['unfinished', 'codinet_jax.main']),
    'unknown point': (
        ['--workdir={run}', '--operating_point=cheap', *GOOD],
        ["'cheap'", POINT, 'codinet_jax.calibrate'],
    ),
    'table is there': (['--workdir={run}', '--csv={files}/notes.png', *GOOD], ['notes.png is there already', '--csv']),
    'table nowhere': (['--workdir={run}', '--csv={files}/none/a.csv', *GOOD], ['none/a.csv', '--csv']),
    'no curve': (
        ['--workdir={run}', '--cost=0.5', *GOOD],
        ['{run} has no accuracy-cost curve', 'codinet_jax.calibrate'],
    ),
    'unknown strategy': (['--workdir={run}', '--strategy=fast', *GOOD], ["'fast'", 'masked, conditional, compacted']),
    'nothing held out': (['--workdir={run}', '--split=validation'], ["'validation'", 'val_split']),
}
ENVIRONMENTS = {'ascii': {'PYTHONIOENCODING': 'cp1252'}}  # which has the one mark and not the other
CLOSING = re.compile(r'(\d+) images?, (\d+) failed, (mean cost (\S+)% of static, )?\d+\.\d s, [\d,]+\.\d images/s')
LEGEND = '█ is a block that runs, · one that is skipped; stages are set apart'


class Commands:
    """Every command of this file, two at a time, and what they said."""

    def __init__(self, tmp: Path):
        self.data_dir = tmp / 'tfds'
        self.run = helpers.write_workdir(tmp / 'run', helpers.tiny_config())
        self.run.write_operating_point(POINT, {'threshold': THRESHOLD})
        with Workdir(tmp / 'unfinished').claimed(helpers.tiny_setup().record):
            pass
        self.files = tmp / 'files'
        self.files.mkdir()
        for name, image in zip(GOOD, IMAGES, strict=True):
            Image.fromarray(image[..., 0]).save(self.files / name)
        (self.files / 'empty.png').touch()
        (self.files / 'notes.png').write_text('no picture\n')
        self.paths = {name: str(tmp / name) for name in ('run', 'files', 'unfinished')}
        self.before = {name: helpers.all_bytes(tmp / name) for name in self.paths}
        one = functools.partial(helpers.run_command, 'predict', TFDS_DATA_DIR=str(self.data_dir))
        commands = ANSWERED | {name: flags for name, (flags, _) in REFUSED.items()}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            said = pool.map(
                lambda name: one(*map(self._filled, commands[name]), **ENVIRONMENTS.get(name, {})), commands
            )
            self.said = dict(zip(commands, said, strict=True))
        self.after = {name: helpers.all_bytes(tmp / name) for name in self.paths}

    def _filled(self, flag: str) -> str:
        return self.path(flag) if flag in (*GOOD, *BAD) else flag.format(**self.paths)

    def path(self, name: str) -> str:
        return str(self.files / name)

    def closed(self, name: str) -> list[str]:
        """Lines on stderr before the closing one, which counts as many images as were asked for."""
        *lines, closing = self.said[name].stderr.splitlines()
        match = CLOSING.fullmatch(closing)
        assert match, closing
        num_images = NUM_TEST if name == 'split' else sum(flag.endswith('.png') for flag in ANSWERED[name])
        num_failed = sum(flag in BAD for flag in ANSWERED[name])
        assert (int(match[1]), int(match[2])) == (num_images, num_failed)
        return lines

    def objects(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said[name].stdout.splitlines()]

    @functools.cached_property
    def predictor(self) -> Predictor:
        return load.from_workdir(self.run.path)


@pytest.fixture(scope='module')
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp('predict'))


def assert_objects(objects: Sequence[dict[str, Any]], answers: Prediction, commands: Commands) -> None:
    """One object an image, in order, that say what the predictor says."""
    spec = commands.predictor.spec
    assert len(objects) == len(answers.labels_B)
    for found, label, probabilities_Y, route, macs in zip(
        objects, answers.labels_B, answers.probabilities_BxY, answers.decisions_Bxn, answers.macs_B, strict=True
    ):
        types = {key: type(value) for key, value in found.items()}
        assert types == {
            'file': str,
            'label': int,
            'class': str,
            'probability': float,
            'route': list,
            'macs': int,
            'static_macs': int,
            'macs_share': float,
        }
        assert found['class'] == spec.classes[label] and found['macs_share'] == macs / spec.static_macs
        assert found['label'] == label
        assert found['probability'] == pytest.approx(probabilities_Y[label], rel=1e-4)
        assert found['probability'] == pytest.approx(max(probabilities_Y), rel=1e-4)
        assert [type(run) for run in found['route']] == [int] * 3 and found['route'] == route.astype(int).tolist()
        spent = sum(block for block, run in zip(spec.blocks_macs, found['route'], strict=True) if run)
        assert found['macs'] == macs == spec.fixed_macs + spent
        assert found['static_macs'] == spec.static_macs


def test_the_images_part_ways(commands: Commands) -> None:
    """Or an answer given to the wrong file would not show."""
    answers = commands.predictor(IMAGES)
    assert len({(label, *route) for label, route in zip(answers.labels_B, answers.decisions_Bxn, strict=True)}) >= 3
    assert len(np.unique(answers.probabilities_BxY.max(axis=1).round(3))) == 5
    assert len(np.unique(answers.decisions_Bxn, axis=0)) >= 2


def test_files_are_answered_as_json_in_their_order_around_those_that_cannot_be_read(commands: Commands) -> None:
    said, objects = commands.said['json'], commands.objects('json')
    assert (said.returncode, commands.closed('json')) == (1, [])
    assert [found['file'] for found in objects] == list(map(commands.path, MIXED))
    assert_objects([found for found in objects if 'error' not in found], commands.predictor(IMAGES), commands)
    for name, found in zip(MIXED, objects, strict=True):
        if name in BAD:
            assert list(found) == ['file', 'error']
            assert found['error'].startswith(commands.path(name)) and BAD[name] in found['error']


def test_files_are_answered_as_text_and_errors_go_to_stderr(commands: Commands) -> None:
    said, answers, spec = commands.said['text'], commands.predictor(IMAGES), commands.predictor.spec
    assert said.returncode == 1
    lines = said.stdout.splitlines()
    assert len(lines) == len(GOOD)
    for i, (name, line) in enumerate(zip(GOOD, lines, strict=True)):
        file, label, percent, route, price = line.split('  ')
        assert (file, label) == (commands.path(name), str(answers.labels_B[i]))
        assert float(percent.removesuffix('%')) == pytest.approx(100 * answers.probabilities_BxY[i].max(), abs=0.051)
        assert route == ' '.join('█' if run else '·' for run in answers.decisions_Bxn[i])
        macs, static_macs, share = map(float, re.fullmatch(r'(\S+) of (\S+) MMACs, (\d+)%', price).groups())
        assert macs == pytest.approx(answers.macs_B[i] / 1e6, abs=0.0051)
        assert static_macs == pytest.approx(spec.static_macs / 1e6, abs=0.0051)
        assert share == pytest.approx(100 * answers.macs_B[i] / spec.static_macs, abs=0.51)
    wrong = [name for name in MIXED[:-1] if name in BAD]
    legend, *errors = commands.closed('text')
    assert legend == LEGEND
    for name, line in zip(wrong, errors, strict=True):
        assert line.startswith(f'error: {commands.path(name)} ') and BAD[name] in line


def test_files_that_can_all_be_read_are_a_success_whatever_executes_them(commands: Commands) -> None:
    said, objects = commands.said['good'], commands.objects('good')
    assert (said.returncode, commands.closed('good')) == (0, [])
    assert [found['file'] for found in objects] == list(map(commands.path, GOOD[::-1]))
    assert_objects(objects, commands.predictor(IMAGES[::-1]), commands)


def test_one_file_is_answered_at_an_operating_point(commands: Commands) -> None:
    said = commands.said['one']
    assert (said.returncode, commands.closed('one')) == (0, [LEGEND])
    answers = commands.predictor(IMAGES[:1], THRESHOLD)
    assert not np.array_equal(answers.decisions_Bxn, commands.predictor(IMAGES[:1]).decisions_Bxn)
    file, label, _, route, _ = said.stdout.removesuffix('\n').split('  ')
    assert (file, label) == (commands.path(GOOD[0]), str(answers.labels_B[0]))
    assert route == commands.predictor.spec.draw(answers.decisions_Bxn[0])


def test_where_no_file_can_be_read_every_one_is_told_of(commands: Commands) -> None:
    said = commands.said['none']
    assert (said.returncode, said.stdout) == (1, '')
    assert [line.split()[1] for line in commands.closed('none')[1:]] == [
        commands.path('missing.png'),
        commands.path('empty.png'),
    ]


def test_a_split_is_answered_whole_at_an_operating_point(commands: Commands) -> None:
    said, objects = commands.said['split'], commands.objects('split')
    assert said.returncode == 0
    (accuracy,) = commands.closed('split')
    assert [found['file'] for found in objects] == [f'test[{i}]' for i in range(NUM_TEST)]
    images, labels_N = datasets.source('digits', commands.data_dir).open('test')
    assert_objects(objects, commands.predictor(images, THRESHOLD), commands)
    right = sum(found['label'] == label for found, label in zip(objects, labels_N, strict=True))
    assert accuracy == f'test: top-1 {right / NUM_TEST:.2%}'
    assert len({tuple(found['route']) for found in objects}) > 2


def test_a_split_is_summed_up_unless_each_is_asked_for(commands: Commands) -> None:
    said = commands.said['summed']
    assert (said.returncode, said.stderr) == (0, '')
    accuracy, closing = said.stdout.splitlines()
    images, labels_N = datasets.source('digits', commands.data_dir).open('test')
    answers = commands.predictor(images)
    assert accuracy == f'test: top-1 {np.mean(answers.labels_B == labels_N):.2%}'
    match = CLOSING.fullmatch(closing)
    assert match and match.group(1, 2) == (f'{NUM_TEST}', '0')
    assert float(match[4]) == pytest.approx(100 * answers.macs_B.mean() / commands.predictor.spec.static_macs, abs=0.01)


def test_a_directory_and_a_glob_are_answered_in_a_table(commands: Commands) -> None:
    said = commands.said['searched']
    assert said.returncode == 1 and said.stderr.count('\n') == 2, 'two files there are no images'
    match = CLOSING.fullmatch(said.stdout.removesuffix('\n'))
    assert match and match.group(1, 2) == ('9', '2')
    with open(commands.files.parent / 'answers.csv', encoding='utf-8', newline='') as file:
        header, *rows = csv.reader(file)
    top = [f'top{i}_{field}' for i in (1, 2) for field in ('label', 'class', 'probability')]
    assert header == ['file', 'label', 'class', 'probability', *top, 'macs_share', 'macs', 'route', 'error']
    files = [*sorted([*GOOD, 'empty.png', 'notes.png']), 'good1.png', 'good3.png']
    answers, spec = commands.predictor(IMAGES), commands.predictor.spec
    assert [row[0] for row in rows] == list(map(commands.path, files))
    for name, row in zip(files, rows, strict=True):
        if name in BAD:
            assert row[1:-1] == [''] * 12 and BAD[name] in row[-1]
            continue
        i = GOOD.index(name)
        likeliest = sorted(range(10), key=lambda label, i=i: -answers.probabilities_BxY[i, label])[:2]
        label, class_name, _, first, first_class, _, second, _, probability, share, macs, route, error = row[1:]
        assert [int(first), int(second)] == likeliest and int(label) == likeliest[0] and error == ''
        assert class_name == first_class == spec.classes[likeliest[0]]
        assert float(probability) == pytest.approx(answers.probabilities_BxY[i, likeliest[1]], rel=1e-3)
        assert int(macs) == answers.macs_B[i] and float(share) == answers.macs_B[i] / spec.static_macs
        assert route == ' '.join('1' if run else '0' for run in answers.decisions_Bxn[i])
    assert [path.name for path in commands.files.parent.iterdir() if path.name.startswith('.')] == []


def test_marks_are_of_what_the_terminal_can_show(commands: Commands) -> None:
    said = commands.said['ascii']
    assert said.returncode == 0 and said.stderr.startswith('# is a block that runs, . one that is skipped')
    route = said.stdout.split('  ')[3]
    assert route == ' '.join('#' if run else '.' for run in commands.predictor(IMAGES[:1]).decisions_Bxn[0])


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_answered_is_said_in_a_sentence(commands: Commands, case: str) -> None:
    said, words = commands.said[case], [word.format(**commands.paths) for word in REFUSED[case][1]]
    helpers.assert_refused(said, *words)


def test_nothing_is_written_into_a_workdir(commands: Commands) -> None:
    assert commands.after == commands.before
