"""Whoever waits for long is told what goes on, how far it is and how long it takes; what is short is silent."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import codinet_jax as cj
import helpers
from codinet_jax.data import datasets, image_files
from codinet_jax.data.thumbnails import thumbnails
from codinet_jax.runtime import waiting as lines
from codinet_jax.runtime.console import plural
from codinet_jax.runtime.waiting import first_reported, waiting

FOREVER = 60.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('SECONDS_QUIET', 'SECONDS_BETWEEN_LINES'):
        monkeypatch.setattr(lines, name, 0.02)


def until_said(capsys: pytest.CaptureFixture[str], text: str) -> str:
    """All that is printed until something is."""
    said, end = '', time.monotonic() + FOREVER
    while text not in said:
        assert time.monotonic() < end, said
        said += ''.join(capsys.readouterr())
        time.sleep(0.005)
    return said


def test_what_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting('reading images', 3) as report:
        report(3)
    assert capsys.readouterr() == ('', '')


def test_a_line_that_nobody_reads_any_more_ends_the_lines_alone(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def log(*_: Any) -> None:
        tried.set()
        raise BrokenPipeError

    monkeypatch.setattr(lines, 'log', log)
    uncaught: list[Any] = []
    monkeypatch.setattr(threading, 'excepthook', uncaught.append)
    with waiting('reading images'):
        assert tried.wait(FOREVER)
    assert not uncaught


def test_the_rate_and_the_time_left_are_of_what_came_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 50 wait for a program to be compiled, and the others come 20 a second."""
    now = 1000.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    count = lines._Count('evaluating', 2050, 'images')
    now = 1070.4
    assert count.line(now) == 'evaluating  0/2,050 images  1m10s'
    count.update(50)
    assert count.line(now) == 'evaluating  50/2,050 images  2%'
    now = 1090.4
    count.update(450)
    assert count.line(now + 0.04) == 'evaluating  450/2,050 images  22%  1m20s left  20 images/s'


def test_a_line_that_is_too_long_for_the_terminal_keeps_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    count = lines._Count('matching the cost, trial 12', 2048, 'images')
    for done in (500, 1500):
        count.update(done)
        now += 20
    for columns, last in (('80', '11s left  50 images/s'), ('60', '73%')):
        monkeypatch.setenv('COLUMNS', columns)
        line = count.line(now)
        assert len(line) <= int(columns) and line.endswith(last), line
        assert line.startswith('matching the cost, trial 12  1,500/2,048 images')


@pytest.mark.usefixtures('impatient')
def test_lines_follow_one_another_until_it_is_done_or_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), waiting('dividing', 10, 'shares') as report:
        until_said(capsys, 'dividing  0/10 shares  0s\ndividing  0/10 shares  0s\n')
        report(5)
        until_said(capsys, 'dividing  5/10 shares  50%\n')
        report(1 // 0)
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr() == ('', '')


@pytest.mark.usefixtures('impatient')
def test_of_a_function_the_first_call_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    slow = first_reported(lambda seconds: time.sleep(seconds) or seconds, 'compiling')
    assert slow(0.2) == 0.2 and 'compiling ...  0s\n' in capsys.readouterr().out
    assert slow(0.2) == 0.2 and capsys.readouterr() == ('', '')


@pytest.mark.usefixtures('impatient')
def test_a_folder_of_photographs_is_read_under_ones_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, name in enumerate(('ant', 'bee')):
        for index in range(70):
            path = tmp_path / 'train' / name / f'{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (20, 20), (60 * label, index, 7)).save(path)
    decode, extensions = image_files.decode_file, image_files.extensions

    def slowly(function: Any, seconds: float) -> Any:
        return lambda *arguments: (time.sleep(seconds), function(*arguments))[1]

    monkeypatch.setattr(image_files, 'decode_file', slowly(decode, 0.01))
    monkeypatch.setattr(image_files, 'extensions', slowly(extensions, 0.001))
    source = datasets.source('folder', tmp_path, image_size=16, views='photographs')
    images = source.open('train')
    said = capsys.readouterr()
    assert said.out == '' and f'listing the images of {tmp_path}/train  1/2 classes  50%\n' in said.err
    images.sample(140, 0)
    said = capsys.readouterr()
    assert said.out == '' and 'reading images  64/140 images  46%' in said.err and 'images/s\n' in said.err
    assert len(thumbnails(images)) == 140
    assert 'keeping small copies of images  64/140 images  46%' in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.usefixtures('impatient')
def test_training_tells_what_keeps_it_from_its_first_steps(capsys: pytest.CaptureFixture[str]) -> None:
    spec, images = cj.DataSpec(classes=10, mean=0.3, std=0.4), helpers.noise_images(16)
    trainer = cj.Trainer(helpers.tiny_network(), spec, cj.methods.CoDiNet(), batch_size=16, num_views=2)
    trainer.fit(images, epochs=(1, 1))
    said = capsys.readouterr()
    told = [said.out.find(f'{what} ...  ') for what in ('making the weights', 'compiling stage 1', 'compiling stage 2')]
    assert -1 < told[0] < told[1] < told[2] and said.err == ''


def test_an_evaluation_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from codinet_jax.evaluation import evaluate
    from codinet_jax.runtime import sharding

    monkeypatch.setattr(evaluate, 'SECONDS_BETWEEN_LINES', 0.02)
    monkeypatch.setattr(lines, 'SECONDS_BETWEEN_LINES', 0.02)

    def forward(variables: Any, images_BxHxWxC: Any, positions_B: Any, stream: int) -> Any:
        time.sleep(0.05)
        return positions_B, images_BxHxWxC[:, 0, 0], positions_B, positions_B

    images = helpers.noise_images(80)
    record = evaluate.evaluate(forward, {}, images, 16, sharding.data_mesh(1))
    np.testing.assert_array_equal(record.labels_N, images.labels_N)
    said = capsys.readouterr().out
    assert 'evaluating  32/80 images  40%' in said and said.splitlines()[-1].endswith(' images/s')


@pytest.mark.parametrize(
    ('number', 'words', 'wanted'),
    [(1, ('image',), '1 image'), (0, ('image',), '0 images'), (1442, ('class', 'classes'), '1,442 classes')],
)
def test_one_is_no_plural(number: int, words: tuple[str, ...], wanted: str) -> None:
    assert plural(number, *words) == wanted
