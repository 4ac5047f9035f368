"""A folder of images is read whole, in an order for ever; what may be a mistake in it is a sentence, and nothing is
written there."""

import hashlib
import itertools
import os
import shutil
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import helpers
from codinet_jax.data import datasets, found
from codinet_jax.data.datasets import DataSource
from codinet_jax.data.image_files import read_image
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.photographs import RandomAccess
from codinet_jax.runtime.errors import InputError, NoSuchSplit
from codinet_jax.runtime.hosts import Host

CLASSES = ('ant', 'bee', 'cat')
COUNTS = (12, 7, 2)  # of train
SIZE = 16


def photograph(label: int, index: int) -> Image.Image:
    """Red tells the class, green which of it."""
    return Image.new('RGB', (20 + index, 31 - index), (60 * label, 10 * index, 7))


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, counts in (('train', COUNTS), ('val', (3, 2, 1))):
        for label, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
            for index in range(count):
                save(tmp_path / 'images' / split / name / f'{index}.png', photograph(label, index))
    return tmp_path / 'images'


def source(root: Path, **options: Any) -> DataSource:
    return datasets.source('folder', root, **{'image_size': SIZE} | options)


def seen(images: Any) -> list[tuple[int, int]]:
    """Class and index of each image, in order, as its pixels tell; its label is checked."""
    found = []
    for squares, labels, positions in images.evaluation_batches(4, Host()):
        for square, label, position in zip(squares, labels, positions, strict=True):
            if position >= 0:
                red, green, _ = square.reshape(-1, 3).mean(axis=0).round().astype(int)
                assert red == 60 * label
                found.append((int(label), green // 10))
    return found


EVERY = sorted((label, index) for label, count in enumerate(COUNTS) for index in range(count))


@pytest.mark.parametrize('views', found.VIEWS)
def test_every_image_is_seen_once_with_the_class_of_its_folder(root: Path, views: str) -> None:
    data = source(root, views=views)
    assert data.spec.classes == CLASSES and data.image_shape == (SIZE, SIZE, 3)
    train, test = data.open('train'), data.open('test')
    assert sorted(seen(train)) == EVERY
    assert sorted(seen(test)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    assert isinstance(train, ImageSet if views == 'small' else RandomAccess)


def test_the_order_is_mixed_and_that_of_names_alone(root: Path, tmp_path: Path) -> None:
    order = seen(source(root).open('train'))
    assert order != EVERY and len({label for label, _ in order[:8]}) > 1
    # So that a held-out image stays held out, whatever versions come.
    names = [f'{CLASSES[label]}/{index}.png'.encode() for label, index in order]
    assert names == sorted(names, key=lambda name: hashlib.blake2b(name, digest_size=8).digest())
    elsewhere = tmp_path / 'elsewhere'
    shutil.copytree(root, elsewhere)
    assert seen(source(elsewhere).open('train')) == order
    save(elsewhere / 'train' / 'ant' / 'another.png', photograph(0, 20))
    assert [each for each in seen(source(elsewhere).open('train')) if each != (0, 20)] == order


@pytest.mark.parametrize('val_split', [0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize('is_flat', [False, True])
def test_a_share_of_every_class_is_held_out(root: Path, val_split: float, is_flat: bool) -> None:
    data = source(root / 'train' if is_flat else root, val_split=val_split)
    train, validation = (seen(data.open(split)) for split in ('train', 'validation'))
    assert sorted(train + validation) == EVERY
    for label, count in enumerate(COUNTS):
        held_out = [each for each in validation if each[0] == label]
        assert len(held_out) == min(max(round(count * val_split), 1), count - 1)


def test_a_class_of_one_image_is_trained_on(root: Path) -> None:
    (root / 'train' / 'cat' / '1.png').unlink()
    data = source(root, val_split=0.5)
    assert (2, 0) in seen(data.open('train'))
    assert {label for label, _ in seen(data.open('validation'))} == {0, 1}


def test_both_val_and_test_are_had_by_their_names(root: Path) -> None:
    save(root / 'test' / 'bee' / '0.png', photograph(1, 5))
    data = source(root)
    assert seen(data.open('test')) == [(1, 5)] and len(seen(data.open('validation'))) == 6
    assert len(seen(source(root, val_split=0.5).open('validation'))) == 11
    (root / 'val').rename(root / 'validation')
    assert len(seen(source(root).open('validation'))) == 6


# --- As streams. ---


def batches(images: Any, first_step: int, count: int, host: Host | None = None) -> list[tuple[np.ndarray, ...]]:
    return list(itertools.islice(images.train_batches(first_step, 6, 2, 3, host or Host()), count))


@pytest.mark.parametrize('views', found.VIEWS)
def test_any_step_is_had_without_those_before_and_hosts_share_it(root: Path, views: str) -> None:
    train = source(root, views=views).open('train')
    unbroken = batches(train, 0, 9)
    for step in (2, 5):
        for one, other in zip(batches(source(root, views=views).open('train'), step, 3), unbroken[step:], strict=False):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])
    by_host = [batches(train, 0, 9, Host(index, 3)) for index in range(3)]
    for whole, *parts in zip(unbroken, *by_host, strict=True):
        for column in (0, 1):
            np.testing.assert_array_equal(whole[column], np.concatenate([part[column] for part in parts]))
    labels = np.concatenate([labels for _, labels in unbroken])
    for epoch in (labels[:21], labels[21:42]):
        assert np.bincount(epoch).tolist() == list(COUNTS)
    shape = (6, 2, SIZE, SIZE, 3) if views == 'photographs' else (6, SIZE, SIZE, 3)
    assert unbroken[0][0].shape == shape


def test_small_images_that_fit_into_no_memory_make_the_same_batches(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = source(root).open('train')
    monkeypatch.setattr(found, 'MOST_BYTES', 21 * SIZE * SIZE * 3 - 1)
    streamed = source(root).open('train')
    assert isinstance(held, ImageSet) and isinstance(streamed, RandomAccess)
    for one, other in zip(batches(held, 2, 5), batches(streamed, 2, 5), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    with pytest.raises(InputError, match='train_images is 5, but folder is streamed'):
        source(root, train_images=5).open('train')


def test_the_first_few_images_are_of_several_classes(root: Path) -> None:
    few = source(root, train_images=5).open('train')
    assert few.num_images == 5 and len(set(few.labels_N.tolist())) > 1


@pytest.mark.parametrize(('size', 'views'), [(96, 'small'), (97, 'photographs'), (None, 'photographs')])
def test_what_is_left_open_follows_from_the_size(root: Path, size: int | None, views: str) -> None:
    data = source(root, image_size=size)
    assert data.settings == {
        'classes': CLASSES,
        'image_size': size or 224,
        'image_channels': 3,
        'views': views,
    }
    spec = data.spec
    assert (spec.crop_padding, spec.center_crop) == ((12, 1.0) if views == 'small' else (0, 0.875))
    assert spec.flip and not source(root, flip=False).spec.flip
    assert spec.normalisation == datasets.find('imagenet2012').spec.normalisation


def test_grey_is_had_for_the_asking(root: Path) -> None:
    data = source(root, image_channels=1)
    assert data.image_shape == (SIZE, SIZE, 1) and len(data.spec.normalisation[0]) == 1
    streamed = source(root, image_channels=1, views='photographs').open('train')
    assert batches(streamed, 0, 1)[0][0].shape == (6, 2, SIZE, SIZE, 1)


def test_every_mode_is_converted_as_predict_does(root: Path) -> None:
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (30, 40, 4), np.uint8), 'RGBA')
    bee = root / 'val' / 'bee'
    files = [
        save(bee / 'grey.jpg', colour.convert('L')),
        save(bee / 'cmyk.JPEG', colour.convert('CMYK')),
        save(bee / 'clear.png', colour),
        save(bee / 'palette.gif', colour.convert('P')),
        save(bee / 'deep' / 'er' / 'sixteen.tif', Image.fromarray(rng.integers(0, 2**16, (30, 40), np.uint16))),
        save(bee / 'web.WebP', colour, lossless=True),
    ]
    for view in found.VIEWS:
        squares = source(root, views=view).open('test').sample(100, 0).images_NxHxWxC
        there = {square.tobytes() for square in squares}
        crop = 1.0 if view == 'small' else 0.875
        assert {read_image(file, SIZE, 3, crop).tobytes() for file in files} <= there
        assert len(squares) == 6 + len(files)


# --- What is no image, or may be a mistake. ---


def test_what_is_no_image_is_passed_over(root: Path) -> None:
    for name in ('Thumbs.db', 'notes.txt', '.hidden.png', '.thumbs/1.png', 'ant/labels.csv', 'ant/.DS_Store'):
        path = root / 'train' / 'ant' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'nothing')
    (root / 'README.txt').write_text('mine')
    (root / 'train' / '.cache').mkdir()
    (root / 'logs').mkdir()
    assert sorted(seen(source(root).open('train'))) == EVERY


def test_names_that_are_no_text_are_read_and_named(root: Path) -> None:
    path = os.path.join(os.fsencode(root), b'train', b'ant', b'caf\xe9.png')
    shutil.copy(root / 'train' / 'ant' / '0.png', os.fsdecode(path))
    assert source(root).open('train').num_images == 22
    with open(path, 'wb') as file:
        file.write(b'no image')
    with pytest.raises(InputError, match=r'caf\\xe9\.png is not an image that can be read') as raised:
        source(root).open('train')
    str(raised.value).encode()


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    'empty': (lambda path: path.write_bytes(b''), 'is empty'),
    'text': (lambda path: path.write_text('hello'), 'is not an image'),
    'cut short': (lambda path: os.truncate(path, path.stat().st_size - 30), 'cannot be decoded'),
    'gone': (lambda path: path.unlink(), 'does not exist'),
    'a folder now': (lambda path: (path.unlink(), path.mkdir()), 'is a directory'),
}


@pytest.mark.parametrize('case', BAD_FILES)
def test_a_file_that_cannot_be_read_is_named_when_it_is_met(root: Path, case: str) -> None:
    change, sentence = BAD_FILES[case]
    train = source(root, views='photographs').open('train')
    bad = root / 'train' / 'bee' / '3.png'
    change(bad)
    before = helpers.all_bytes(root)
    for use in (lambda: batches(train, 3, 8), lambda: seen(train), lambda: train.sample(100, 0)):
        with pytest.raises(InputError, match=rf'{bad}.* {sentence}'):
            use()
    assert helpers.all_bytes(root) == before


def test_a_file_or_folder_that_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, locked = source(root, views='photographs').open('train'), str(root / 'train' / 'ant' / '5.png')
    real_open, real_scandir = open, os.scandir

    def refuse(real: Callable[..., Any], path: Any, *rest: Any) -> Any:
        if str(path) == locked:
            raise PermissionError(13, 'Permission denied', locked)
        return real(path, *rest)

    monkeypatch.setattr('builtins.open', lambda path, *rest, **options: refuse(real_open, path, *rest))
    with pytest.raises(InputError, match=rf'{locked} cannot be opened \(Permission denied\)'):
        seen(train)
    locked = str(root / 'train' / 'cat')
    monkeypatch.setattr(os, 'scandir', lambda path: refuse(real_scandir, path))
    with pytest.raises(InputError, match=rf'{locked} cannot be opened \(Permission denied\)'):
        source(root).open('train')


def move(root: Path, old: str, new: str) -> None:
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)


def copy_class(root: Path, name: str) -> None:
    shutil.copytree(root / 'train' / 'ant', root / 'train' / name)


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    'no class folder': (lambda root: shutil.rmtree(root / 'train') or (root / 'train').mkdir(), 'no folder that could'),
    'an empty class': (lambda root: (root / 'train' / 'dog').mkdir(), 'train/dog holds no images, .*jpg'),
    'one class': (lambda root: [shutil.rmtree(root / 'train' / name) for name in CLASSES[1:]], 'one class alone, ant'),
    'a class in val alone': (
        lambda root: move(root, 'val/bee', 'val/bees'),
        'has a class bees, which is none of the 3',
    ),
    'a loose image': (lambda root: move(root, 'train/ant/0.png', 'train/0.png'), 'train/0.png lies in no class: move'),
    'a loose image above': (lambda root: move(root, 'train/ant/0.png', '0.png'), '0.png lies in no class'),
    'classes beside train': (lambda root: move(root, 'train/ant', 'ant'), r'ant/.*png lies beside train/: move'),
    'no train': (lambda root: shutil.rmtree(root / 'train'), 'holds no train/: put'),
    'val twice': (lambda root: shutil.copytree(root / 'val', root / 'validation'), 'holds val/ and validation/'),
    'val and valid': (lambda root: shutil.copytree(root / 'val', root / 'valid'), 'holds val/ and valid/'),
    'splits in capitals': (
        lambda root: [move(root, old, new) for old, new in (('train', 'Training'), ('val', 'Testing'))],
        'holds Testing/, which is the name of a split and not of a class',
    ),
    'a split among classes': (
        lambda root: [move(root, f'train/{name}', name) for name in CLASSES] + [(root / 'train').rmdir()],
        'holds val/, which is the name of a split',
    ),
    'splits in the classes': (
        lambda root: (
            [move(root, f'{split}/{name}', f'{name}/{split}') for split in ('train', 'val') for name in ('ant', 'bee')]
            + [shutil.rmtree(root / split) for split in ('train', 'val')]
        ),
        'ant holds train/ and is taken for a class: .*if it is a class, put its images into train/CLASS/',
    ),
    'a loop': (
        lambda root: (root / 'train' / 'ant' / 'in').symlink_to(root / 'train'),
        'read already: remove the link',
    ),
    'a link twice': (
        lambda root: [(root / 'train' / 'ant' / name).symlink_to(root / 'val' / 'ant') for name in 'xy'],
        'read already',
    ),
    'a broken link': (lambda root: (root / 'train' / 'ant' / 'x.jpg').symlink_to('nowhere'), 'x.jpg is no file, or a'),
    'a class that a link no longer leads to': (
        lambda root: (root / 'train' / 'dog').symlink_to('nowhere'),
        'train/dog is a link to nothing: see where it leads, or remove it',
    ),
    'a folder that a link no longer leads to': (
        lambda root: (root / 'val' / 'ant' / 'more').symlink_to('nowhere'),
        'val/ant/more is a link to nothing',
    ),
    'a pipe': (lambda root: os.mkfifo(root / 'train' / 'ant' / 'x.jpg'), 'x.jpg is no file'),
    'capitals': (lambda root: copy_class(root, 'Ant'), "classes 'Ant' and 'ant', which are one but for capitals"),
    'accents': (
        lambda root: [copy_class(root, unicodedata.normalize(form, 'é')) for form in ('NFC', 'NFD')],
        'accents written in another way',
    ),
    'no text': (
        lambda root: copy_class(root, os.fsdecode(b'caf\xe9')),
        r"a class 'caf\\+xe9', which cannot be printed",
    ),
}


@pytest.mark.parametrize('case', MISTAKES)
def test_what_may_be_a_mistake_is_a_sentence(root: Path, case: str) -> None:
    change, sentence = MISTAKES[case]
    change(root)
    before = sorted(map(str, root.rglob('*')))
    with pytest.raises(InputError, match=sentence) as raised:
        for split in ('train', 'test'):
            source(root).open(split)
    assert '\n' not in str(raised.value) and len(str(raised.value)) < 600
    assert sorted(map(str, root.rglob('*'))) == before


def test_a_data_dir_that_is_none_is_refused(root: Path, tmp_path: Path) -> None:
    for data_dir, sentence in (
        (tmp_path / 'nowhere', 'nowhere does not exist'),
        (root / 'train' / 'ant' / '0.png', 'is a file'),
        (tmp_path, 'images holds train/ and is taken for a class: give it as data_dir'),
        (root / 'val' / 'bee', 'lies in no class: give the folder that holds train/ and val/'),
        (None, '--config.data_dir=DIR'),
        ('gs://bucket/images', 'on this machine'),
    ):
        with pytest.raises(InputError, match=sentence):
            source(data_dir)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf'holds no val/ or test/: give {root}, which does, .*val_split=0\.1'):
        source(root / 'train').open('test')
    with pytest.raises(NoSuchSplit, match=r'which does, or take the split validation, which val_split=0\.2 holds out'):
        source(root / 'train', val_split=0.2).open('test')
    shutil.rmtree(root / 'val')
    with pytest.raises(InputError, match='holds no val/: put its folders into train/ and make one beside that'):
        source(root / 'train').open('validation')
    with pytest.raises(InputError, match='holds no val/: make one beside train/'):
        source(root).open('validation')


def test_links_to_images_and_to_folders_of_them_are_followed(root: Path, tmp_path: Path) -> None:
    move(root, 'train/bee', '../bees')
    (root / 'train' / 'bee').symlink_to(tmp_path / 'bees')
    move(root, 'train/ant/3.png', '../three.png')
    (root / 'train' / 'ant' / '3.png').symlink_to(tmp_path / 'three.png')
    assert sorted(seen(source(root).open('train'))) == EVERY


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'views': 'large'}, "views is 'large'; it must be one of photographs, small"),
        ({'image_channels': 4}, 'image_channels is 4'),
        ({'image_size': 7}, 'image_size is 7: give pixels a side from 8'),
        ({'classes': ('ant', 'ant', 'bee')}, "classes has classes 'ant' and 'ant'"),
        ({'classes': (1, 2)}, 'give their names'),
    ],
)
def test_what_a_folder_cannot_be_is_refused(root: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        source(root, **options)


@pytest.mark.parametrize('field', ['classes', 'image_channels', 'views'])
def test_a_set_of_the_table_is_not_described(field: str) -> None:
    with pytest.raises(InputError, match=f'{field} is of dataset=folder and dataset=tfds:NAME alone'):
        datasets.source('cifar10', **{field: {'classes': ('a', 'b'), 'image_channels': 3, 'views': 'small'}[field]})


# --- Recorded. ---


def test_what_is_recorded_asks_no_disk_and_is_held_against_the_folder(root: Path) -> None:
    recorded = source(root).settings
    data = datasets.source('folder', root.parent / 'moved', **recorded)
    assert data.spec == source(root).spec
    with pytest.raises(InputError, match='moved does not exist'):
        data.open('test')
    later = datasets.source('folder', root, **recorded)
    copy_class(root, 'dog')
    for split in ('train', 'test'):
        with pytest.raises(
            InputError, match=r'has a class dog, which is none of the 3 that are trained, ant, bee, cat'
        ):
            later.open(split)
    shutil.rmtree(root / 'train' / 'dog')
    shutil.rmtree(root / 'train' / 'bee')
    with pytest.raises(InputError, match='train has no class bee, which is one of the 3 that are trained: put it back'):
        later.open('train')
    shutil.rmtree(root / 'train')
    assert len(seen(later.open('test'))) == 6


def test_labels_follow_the_classes_in_the_order_they_are_given(root: Path) -> None:
    images: Any = source(root, classes=('cat', 'ant', 'bee')).open('train')
    assert np.bincount(images.labels_N).tolist() == [2, 12, 7]


def test_ten_thousand_classes_are_opened_in_seconds(tmp_path: Path) -> None:
    image = save(tmp_path / '0.png', photograph(0, 0))
    names = [f'{number:05}' for number in range(10_000)]
    for name in names:
        (tmp_path / 'train' / name).mkdir(parents=True)
        os.link(image, tmp_path / 'train' / name / 'one.png')
    image.unlink()
    began = time.monotonic()
    data = datasets.source('folder', tmp_path)
    train = data.open('train')
    assert time.monotonic() - began < 5
    assert data.spec.num_classes == train.num_images == 10_000
