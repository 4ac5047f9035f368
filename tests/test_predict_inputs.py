"""What arguments of predict stand for, and how answers are written down."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codinet_jax.inference import answers, answers_report, inputs
from codinet_jax.inference.answers import Answer, Named, Refusal
from codinet_jax.inference.answers_report import Form, Tally, table
from codinet_jax.inference.inputs import Item
from codinet_jax.inference.predictor import NetworkSpec, Predictor
from codinet_jax.runtime.errors import InputError

SPEC = NetworkSpec(('cat', 'dog', 'elk', '3'), 2, 3, 1.0, (2, 1), (100, 20, 3), 1000, 1115)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ('b/2.JPG', 'b/10.png', 'a/x.webp', 'a/deep/y.tif', 'top.bmp', 'a[1].png', '.hidden/z.png', 'a/.z.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ('notes.txt', 'a/script.eps', 'b/clip.mpg', 'png'):
        (tmp_path / name).touch()
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*arguments: str) -> list[str]:
    found = inputs.find(arguments)
    assert all(error is None for _, error in found), found
    return [name for name, _ in found]


ALL = ['a/deep/y.tif', 'a/x.webp', 'a[1].png', 'b/10.png', 'b/2.JPG', 'top.bmp']


def test_a_directory_is_its_images_and_those_below_sorted_and_none_hidden(tree: Path) -> None:
    assert names('.') == [f'./{name}' for name in ALL]
    assert names(f'{tree}') == [f'{tree}/{name}' for name in ALL]
    assert names('a') == ['a/deep/y.tif', 'a/x.webp']


def test_linked_folders_are_gone_into_once(tree: Path) -> None:
    (tree / 'subset').mkdir()
    (tree / 'subset' / 'a').symlink_to(tree / 'a')
    (tree / 'subset' / 'again').symlink_to(tree / 'subset')
    assert names('subset') == ['subset/a/deep/y.tif', 'subset/a/x.webp']


def test_a_glob_is_the_images_it_matches_at_any_depth(tree: Path) -> None:
    assert names('**/*.png') == ['a[1].png', 'b/10.png']
    assert names('**') == ALL, 'each once, though directories match as well'
    assert names('[ab]') == [*ALL[:2], *ALL[3:5]], 'directories are searched'
    assert names('b/?.*') == ['b/2.JPG']


def test_what_is_there_under_its_very_name_is_no_glob(tree: Path) -> None:
    assert names('a[1].png', 'notes.txt', 'missing.png', 'b/2.JPG', 'b/2.JPG') == [
        *('a[1].png', 'notes.txt', 'missing.png', 'b/2.JPG', 'b/2.JPG')
    ]


@pytest.mark.parametrize(('argument', 'words'), [('empty', 'holds no image file'), ('*.txt', 'matches no image file')])
def test_what_stands_for_no_image_is_told_and_the_others_are_found(tree: Path, argument: str, words: str) -> None:
    first, (name, error), last = inputs.find(['top.bmp', argument, 'b/10.png'])
    assert (first, last) == (('top.bmp', None), ('b/10.png', None)) and name == argument
    assert isinstance(error, InputError) and str(error).startswith(f'{argument} {words}')
    (item,) = inputs.read([(name, error)], SPEC, 2)
    assert item == Item(argument, error)


@pytest.mark.parametrize('argument', ['b', 'b/*.jpg'])
def test_a_pipe_that_is_found_is_told_and_not_waited_for(tree: Path, argument: str) -> None:
    os.mkfifo('b/pipe.jpg')
    errors = dict(inputs.find([argument]))
    assert str(errors['b/pipe.jpg']) == 'b/pipe.jpg is no file: remove it, or name others.'
    assert inputs.find(['b/pipe.jpg']) == [('b/pipe.jpg', None)], 'one that is named is read as it is meant to be'


def test_images_are_read_ahead_in_one_thread_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    original = inputs.image_files.read_image

    def watched(path: str, *rest: float) -> np.ndarray:
        read.append((Path(path).name, threading.current_thread().name))
        return original(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(inputs.image_files, 'read_image', watched)
    files = [tmp_path / f'{i}.png' for i in range(6)]
    for i, file in enumerate(files):
        Image.new('RGB', (2, 2), (i, 0, 0)).save(file)
    items = inputs.read([(str(file), None) for file in files], SPEC, 3)
    assert next(items).name == str(files[0])
    deadline = time.monotonic() + 10
    while len(read) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [name for name, _ in read] == ['0.png', '1.png', '2.png'], 'no more than asked for'
    assert [item.image_HxWxC[0, 0, 0] for item in items] == [1, 2, 3, 4, 5]
    assert len({thread for _, thread in read}) == 1 and read[0][1] != threading.current_thread().name


def answer(name: str = 'a.png', label: int = 1, macs: int = 1103) -> Named:
    decisions_n = np.array([True, False, True])
    return Named(name, Answer(label, np.array([0.2, 0.5, 0.0, 0.3]), 0.7 * decisions_n, decisions_n, macs), 1)


def test_class_and_number_stand_side_by_side() -> None:
    assert Form(SPEC).line(answer()) == 'a.png  1 dog  50.0%  █· █  0.00 of 0.00 MMACs, 99%'
    assert Form(SPEC, 3, '.#').line(answer()).split('  ')[3:] == [
        '#. #',
        '0.00 of 0.00 MMACs, 99%',
        'top 3: 1 dog 50.0%, 3 30.0%, 0 cat 20.0%',
    ]
    found = Form(SPEC, 9).as_json(answer())
    assert (found['label'], found['class']) == (1, 'dog')
    assert [each['class'] for each in found['top']] == ['dog', '3', 'cat', 'elk'], 'no more than there are'


def test_names_stand_on_one_line_and_tell_a_terminal_nothing() -> None:
    spec = dataclasses.replace(SPEC, classes=('cat', 'dog\x1b[31m', *SPEC.classes[2:]))
    line = Form(spec).line(answer('two\nlines.png'))
    assert line.startswith(r'two\nlines.png  1 dog\x1b[31m  50.0%') and line.isprintable()


@pytest.mark.parametrize(
    ('encoding', 'marks'),
    [('utf-8', '·█'), ('ascii', '.#'), ('cp1252', '.#'), ('cp437', '·█'), (None, '.#'), ('x', '.#')],
)
def test_marks_are_such_as_the_encoding_has(encoding: str | None, marks: str) -> None:
    assert answers_report.marks_for(encoding) == marks


def test_every_answer_is_counted() -> None:
    tally = Tally(5)
    for each in (answer(), answer(label=0, macs=1000), Refusal('b', InputError('no'))):
        tally.add(each)
    assert tally.progress().startswith('3 of 5 images, ')
    assert tally.accuracy('test') == 'test: top-1 50.00%'
    share = (1103 + 1000) / 2 / 1115
    assert tally.closing(SPEC).startswith(f'3 images, 1 failed, mean cost {share:.2%} of static, 0.0 s, ')
    assert 'mean cost' not in Tally(1).closing(SPEC)


@pytest.mark.parametrize('raised', [KeyboardInterrupt, BrokenPipeError, InputError])
def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path, raised: type[BaseException]) -> None:
    with pytest.raises(raised), table(tmp_path / 'a.csv', Form(SPEC)) as write:
        write(answer())
        assert not (tmp_path / 'a.csv').exists()
        raise raised('enough')
    assert list(tmp_path.iterdir()) == []
    with table(tmp_path / 'a.csv', Form(SPEC)) as write:
        write(answer('odd, "name"\udcff.png'))
    assert [path.name for path in tmp_path.iterdir()] == ['a.csv']
    _, row = (tmp_path / 'a.csv').read_bytes().splitlines()
    assert row.startswith(b'"odd, ""name""\xff.png",1,dog,0.5,') and row.endswith(b',1103,10 1,')


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(answers_report.os, 'fsync', full)
    with (
        pytest.raises(InputError, match=r'a\.csv cannot be written \(No space left on device\): make room'),
        table(tmp_path / 'a.csv', Form(SPEC)) as write,
    ):
        write(answer())
    assert list(tmp_path.iterdir()) == []


def test_answers_come_as_soon_as_a_batch_is_full() -> None:
    taken: list[int] = []

    def items() -> Iterator[Item]:
        for i in range(5):
            taken.append(i)
            yield Item(f'{i}', np.full((2, 2, 3), i, np.uint8) if i != 1 else InputError('no'), i)

    def forward(images_BxHxWxC: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        numbers_B = images_BxHxWxC[:, 0, 0, 0] % 4
        return 9.0 * np.eye(4)[numbers_B], np.ones((len(numbers_B), 3), np.float32)

    found = answers.answered(Predictor(SPEC, forward), items(), 2)
    assert isinstance(next(found), Named) and taken == [0, 1, 2]
    second, *rest = found
    assert isinstance(second, Refusal) and second.name == '1'
    assert [(each.name, each.answer.label) for each in rest if isinstance(each, Named)] == [
        ('2', 2),
        ('3', 3),
        ('4', 0),
    ]


def test_only_the_first_batch_is_said_to_be_compiled_and_not_where_answers_go(capsys: pytest.CaptureFixture) -> None:
    def forward(images_BxHxWxC: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(0.3)
        return np.zeros((len(images_BxHxWxC), 4)), np.ones((len(images_BxHxWxC), 3), np.float32)

    items = [Item(f'{i}', np.zeros((2, 2, 3), np.uint8), i) for i in range(2)]
    assert len(list(answers.answered(Predictor(SPEC, forward), items, 1, quiet=0.1))) == 2
    said = capsys.readouterr()
    assert said.out == '' and said.err.startswith('compiling the network ...') and said.err.count('compiling') == 1


def test_progress_is_told_whenever_the_time_has_come() -> None:
    tally, said = Tally(4), list[str]()
    assert [each.name for each in answers_report.counted([answer()] * 4, tally, 3600, said.append)] == ['a.png'] * 4
    assert said == []
    long_ago = Tally(4, started=time.monotonic() - 4000)
    assert len(list(answers_report.counted(iter([answer()] * 4), long_ago, 3600, said.append))) == 4
    assert len(said) == 1 and said[0].startswith('1 of 4 images, ')
    assert tally.num_answered == long_ago.num_answered == 4
