"""Sets of TFDS are had by name: classes, size and splits as their files say; small ones whole, photographs streamed."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import helpers
from codinet_jax.config import setup
from codinet_jax.data import datasets, found, tfds_files
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.photographs import RandomAccess
from codinet_jax.runtime.errors import InputError, NoSuchSplit
from codinet_jax.runtime.hosts import Host
from codinet_jax.workdir import Workdir, begin

NAMES = ('pansy', 'iris', 'lily')
REAL_DATA = Path(__file__).parent.parent.parent / 'shared' / 'tfds'


class Flowers(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Images whose pixels tell the class and which of it; what differs from set to set is set below."""

    VERSION = tfds.core.Version('2.1.1')
    shape: Any = (None, None, 3)
    splits: tuple[str, ...] = ('train', 'validation', 'test')
    features: Any = None
    is_ordered = False

    def _info(self) -> tfds.core.DatasetInfo:
        features = self.features or {
            'image': tfds.features.Image(shape=self.shape, encoding_format='png'),
            'label': tfds.features.ClassLabel(names=NAMES),
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=self.is_ordered)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        sizes = {'train': 30, 'validation': 6, 'test': 9}
        return {name: self._generate_examples(sizes[name]) for name in self.splits}

    def _generate_examples(self, num_images: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(num_images):
            label = index * 3 // num_images
            yield index, {name: label if name == 'label' else encoded(self.shape, label, index) for name in self.names}

    @property
    def names(self) -> list[str]:
        return list(self.features or ('image', 'label'))


def encoded(shape: Any, label: int, index: int) -> io.BytesIO:
    height, width, channels = shape
    size = (width or 40 + index, height or 70 - index)
    colour = (60 + 60 * label, 5 * index, 9)
    file = io.BytesIO()
    Image.new('L' if channels == 1 else 'RGB', size, colour[0] if channels == 1 else colour).save(file, 'PNG')
    file.seek(0)
    return file


def written(root: Path, name: str = 'Flowers', file_format: str = 'array_record', **changes: Any) -> Path:
    kind = type(name, (Flowers,), changes, skip_registration=True)
    kind(data_dir=root, file_format=file_format).download_and_prepare()
    return root


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp('tfds')
    written(directory)
    written(directory, 'Petals', shape=(28, 28, 1), splits=('train', 'test'))
    written(directory, 'Ordered', is_ordered=True, splits=('train', 'validation'))
    written(directory, 'Alone', splits=('train',))
    return directory


def labels(images: Any) -> list[int]:
    return sorted(images.sample(100, 0).labels_N.tolist())


def test_photographs_are_streamed_and_split_as_their_files_say(root: Path) -> None:
    data = datasets.source('tfds:flowers', root, image_size=32, views='photographs')
    assert data.spec.classes == NAMES and data.spec.center_crop == 0.875
    assert datasets.source('tfds:flowers', root).image_shape == (224, 224, 3)
    sizes = {split: data.open(split).num_images for split in ('train', 'validation', 'test')}
    assert sizes == {'train': 30, 'validation': 6, 'test': 9}
    train = data.open('train')
    assert isinstance(train, RandomAccess)
    views, first_labels = next(train.train_batches(0, 6, 2, 0, Host()))
    assert views.shape == (6, 2, 32, 32, 3)
    np.testing.assert_array_equal(views[..., 0].reshape(6, -1).mean(axis=1), 60 + 60 * first_labels)


def test_small_squares_are_held_in_memory_in_their_size_and_channels(root: Path) -> None:
    data = datasets.source('tfds:petals', root)
    assert data.settings == {'classes': NAMES, 'image_size': 28, 'image_channels': 1, 'views': 'small'}
    train: Any = data.open('train')
    assert isinstance(train, ImageSet) and train.images_NxHxWxC.shape == (30, 28, 28, 1)
    np.testing.assert_array_equal(train.images_NxHxWxC[:, 3, 5, 0], 60 + 60 * train.labels_N)
    assert data.spec.crop_padding == 3
    larger: Any = datasets.source('tfds:petals', root, image_size=32, image_channels=3).open('test')
    assert larger.images_NxHxWxC.shape == (9, 32, 32, 3)


def test_the_small_are_read_as_the_table_has_them(tmp_path: Path) -> None:
    # The same images by another way, in the same order: of the files.
    digits, named = datasets.source('digits', tmp_path), datasets.source('tfds:digits', tmp_path)
    for split in ('train', 'test'):
        for one, other in zip(digits.open(split), named.open(split), strict=True):  # type: ignore[call-overload]
            np.testing.assert_array_equal(one, other)
    mean, std = named.measured_normalisation() or ((), ())
    np.testing.assert_allclose((mean, std), digits.spec.normalisation, atol=1e-4)


@pytest.mark.parametrize('size', [16, 100])
def test_a_share_of_train_is_held_out(root: Path, size: int) -> None:
    data = datasets.source('tfds:flowers', root, image_size=size, val_split=0.2)
    train, validation = data.open('train'), data.open('validation')
    assert (train.num_images, validation.num_images) == (24, 6)
    together = [image.tobytes() for part in (train, validation) for image in part.sample(100, 0).images_NxHxWxC]
    assert len(set(together)) == 30
    assert data.open('test').num_images == 9


def test_what_lies_in_order_is_parted_in_memory_alone(root: Path) -> None:
    small = datasets.source('tfds:ordered', root, image_size=16, val_split=0.3)
    assert set(labels(small.open('validation'))) == set(labels(small.open('train'))) == {0, 1, 2}
    streamed = datasets.source('tfds:ordered', root, val_split=0.3)
    with pytest.raises(InputError, match='was not shuffled when it was written'):
        streamed.open('train')
    with pytest.raises(InputError, match='its first images may be of one class'):
        datasets.source('tfds:ordered', root).open('train')
    assert datasets.source('tfds:ordered', root).open('test').num_images == 6


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (
            {'features': {'image': tfds.features.Image(shape=(None, None, 3)), 'word': tfds.features.Text()}},
            'does not hold an image and a label of one class',
        ),
        ({'splits': ('test',)}, r'has no split train \(test\)'),
        ({'shape': (28, 28, 1), 'dtype': np.uint16}, 'holds images of uint16: only uint8'),
    ],
)
def test_sets_of_something_else_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    changes = dict(changes)
    if dtype := changes.pop('dtype', None):
        image = tfds.features.Image(shape=changes['shape'], dtype=dtype, encoding_format='png')
        changes['features'] = {'image': image, 'label': tfds.features.ClassLabel(names=NAMES)}
    if 'word' in changes.get('features', {}):
        directory = written(tmp_path, splits=())
        info = directory / 'flowers' / '2.1.1' / 'features.json'
        info.write_text(info.read_text().replace('"label": {', '"word": {'))
    else:
        written(tmp_path, **changes)
    with pytest.raises(InputError, match=sentence):
        datasets.source('tfds:flowers', tmp_path)


def test_names_of_no_set_are_refused_and_a_config_is_asked_for(root: Path, tmp_path: Path) -> None:
    for name in ('tfds:', 'tfds:../flowers', 'tfds:/etc', 'tfds:a/b/c', 'tfds:*'):
        with pytest.raises(InputError, match='names no set of TFDS: write tfds:NAME'):
            datasets.source(name, root)
    with pytest.raises(InputError, match=r'holds no roses: .*download_and_prepare'):
        datasets.source('tfds:roses', root)
    with pytest.raises(NoSuchSplit, match=r'has no split test \(train\): .*val_split=0\.1'):
        datasets.source('tfds:alone', root).open('test')
    (tmp_path / 'flowers').mkdir()
    (root / 'flowers' / '2.1.1').rename(tmp_path / 'flowers' / '2.1.1')
    (tmp_path / 'roses' / 'red').mkdir(parents=True)
    try:
        (tmp_path / 'roses' / 'red' / '2.1.1').symlink_to(tmp_path / 'flowers' / '2.1.1')
        assert datasets.source('tfds:roses', tmp_path).spec.classes == NAMES
        (tmp_path / 'roses' / 'white').symlink_to(tmp_path / 'roses' / 'red')
        with pytest.raises(InputError, match='several configs: name one, as roses/red or roses/white'):
            datasets.source('tfds:roses', tmp_path)
        assert datasets.source('tfds:roses/white', tmp_path).spec.classes == NAMES
    finally:
        (tmp_path / 'flowers' / '2.1.1').rename(root / 'flowers' / '2.1.1')


def test_what_is_recorded_asks_no_disk_and_is_held_against_the_files(root: Path, tmp_path: Path) -> None:
    recorded = datasets.source('tfds:petals', root).settings
    assert datasets.source('tfds:petals', tmp_path / 'gone', **recorded).image_shape == (28, 28, 1)
    with pytest.raises(InputError, match=r"calls class 0 'pansy', which is 'rose' here"):
        datasets.source('tfds:petals', root, **recorded | {'classes': ('rose', 'iris', 'lily')}).open('train')


def test_a_run_records_what_it_found_and_measured(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = helpers.tiny_config(dataset='tfds:petals', data_dir=str(root))
    workdir = Workdir(tmp_path / 'run')
    begun = begin(config, workdir)
    assert begun.record['classes'] == list(NAMES) and begun.record['image_size'] == 28
    images: Any = begun.data.open('train')
    pixels = images.images_NxHxWxC / 255
    np.testing.assert_allclose(begun.record['mean'], [pixels.mean()], atol=1e-4)
    np.testing.assert_allclose(begun.record['std'], [pixels.std()], atol=1e-4)
    assert begun.data.spec.normalisation == (tuple(begun.record['mean']), tuple(begun.record['std']))
    with workdir.claimed(begun.record):
        pass

    def touched(*_: Any) -> Any:
        raise AssertionError('the disk is asked')

    monkeypatch.setattr(tfds_files, 'describe', touched)
    monkeypatch.setattr(datasets.DataSource, 'measured_normalisation', touched)
    assert setup.read(workdir.read_config()).data.spec == begun.data.spec
    assert begin(config, workdir).record == begun.record
    with pytest.raises(InputError, match='another config: image_size'):
        workdir.check(begin(helpers.tiny_config(dataset='tfds:petals', image_size=32), workdir).record)


@pytest.mark.tensorflow
@pytest.mark.parametrize('size', [16, 100])
def test_tfrecord_files_hold_the_same(root: Path, tmp_path: Path, size: int) -> None:
    written(tmp_path, file_format='tfrecord')
    one, other = (
        datasets.source('tfds:flowers', directory, image_size=size, val_split=0.2) for directory in (root, tmp_path)
    )
    assert one.settings == other.settings
    for split in ('train', 'validation', 'test'):
        for array, same in zip(one.open(split).sample(100, 0), other.open(split).sample(100, 0), strict=True):
            np.testing.assert_array_equal(array, same)
    images, _ = next(other.open('train').train_batches(3, 6, 2, 0, Host()))
    assert images.shape == ((6, 16, 16, 3) if size == 16 else (6, 2, 100, 100, 3))


@pytest.mark.tensorflow
def test_small_tfrecord_images_can_be_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, file_format='tfrecord')
    data = datasets.source('tfds:flowers', tmp_path, image_size=16)
    there = {image.tobytes() for image in data.open('train').sample(100, 0).images_NxHxWxC}
    monkeypatch.setattr(found, 'MOST_BYTES', 0)
    epoch = itertools.islice(data.open('train').train_batches(0, 6, 2, 0, Host()), 5)
    seen = [image.tobytes() for images, _ in epoch for image in images]
    assert len(seen) == 30 and set(seen) == there


@pytest.mark.skipif(not (REAL_DATA / 'cifar10').is_dir(), reason='the real sets are not beside the repository')
def test_the_real_cifar10_is_the_same_by_both_names() -> None:
    table, named = (datasets.source(name, REAL_DATA) for name in ('cifar10', 'tfds:cifar10'))
    assert named.spec.classes == table.spec.classes and named.image_shape == table.image_shape
    assert (named.spec.crop_padding, named.spec.flip) == (table.spec.crop_padding, table.spec.flip)
    for one, other in zip(table.open('test'), named.open('test'), strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(one, other)


# --- The names of the table. ---


def test_the_names_of_the_table_are_those_of_tfds() -> None:
    package = Path(tfds.__file__).parent
    synsets = (package / 'datasets' / 'imagenet2012' / 'labels.txt').read_text().split()
    photographs = datasets.find('imagenet2012')
    assert list(photographs.label_names or ()) == synsets
    names = photographs.spec.class_names
    assert [names[index] for index in (0, 207, 281, 999)] == ['tench', 'golden retriever', 'tabby', 'toilet tissue']
    for name, count in (('imagenet2012', 1000), ('cifar100', 100)):
        names = datasets.find(name).spec.class_names
        assert len({each.casefold() for each in names}) == count
    assert names == tuple(sorted(names)) and (names[0], names[1], names[-1]) == ('apple', 'aquarium_fish', 'worm')


@pytest.mark.skipif(not (REAL_DATA / 'imagenet2012').is_dir(), reason='the real sets are not beside the repository')
def test_the_real_imagenet_names_its_classes_by_synset() -> None:
    description = tfds_files.describe('imagenet2012', REAL_DATA)
    assert description.classes == datasets.find('imagenet2012').label_names
