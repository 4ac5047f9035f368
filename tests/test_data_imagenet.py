"""Photographs are streamed in both file formats: each once an epoch, any step again, squares as `predict` cuts them."""

import io
import itertools
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from codinet_jax.data import crops, tfds_photographs
from codinet_jax.data.image_files import read_image
from codinet_jax.data.photographs import Cut, RandomAccess
from codinet_jax.data.split import Split
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.hosts import Host

REAL_DATA = Path(__file__).parent.parent.parent / 'shared' / 'tfds'
FORMATS = ['array_record', pytest.param('tfrecord', marks=pytest.mark.tensorflow)]
NUM_TRAIN = 23
BATCH_SIZE = 6
SIZE = 32
ALONE = Host()


def photograph(index: int) -> Image.Image:
    """Red tells which it is; green grows from 0 at the left edge to 255 at the right one, blue from top to bottom."""
    width, height = 60 + 7 * (index % 9), 110 - 6 * (index % 11)
    image_HxWx3 = np.empty((height, width, 3))
    image_HxWx3[..., 0] = 10 * index
    image_HxWx3[..., 1] = 255 * (np.arange(width) + 0.5) / width
    image_HxWx3[..., 2] = (255 * (np.arange(height) + 0.5) / height)[:, None]
    return Image.fromarray(image_HxWx3.round().astype(np.uint8))


def shape(index: int) -> tuple[int, int]:
    """Height and width."""
    return photograph(index).size[::-1]


def encoded(image: Image.Image, file_format: str = 'JPEG', **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    file.seek(0)
    return file


def jpeg(index: int) -> io.BytesIO:
    return encoded(photograph(index), quality=98, subsampling=0)


def validation_files() -> list[io.BytesIO]:
    grey = encoded(Image.new('L', (70, 50), 20))
    cmyk = encoded(photograph(0).convert('CMYK'), quality=98, subsampling=0)
    return [cmyk, encoded(photograph(1), 'PNG'), grey, *map(jpeg, range(3, 11))]


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Photographs in the form of imagenet2012."""

    VERSION = tfds.core.Version('5.1.0')

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            'image': tfds.features.Image(encoding_format='jpeg'),
            'label': tfds.features.ClassLabel(num_classes=1000),
            'file_name': tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        damaged = [jpeg(index) for index in range(5)]
        damaged[2].truncate(len(damaged[2].getvalue()) // 2)
        splits = {'train': [*map(jpeg, range(NUM_TRAIN))], 'validation': validation_files(), 'test': damaged}
        return {name: self._generate_examples(files) for name, files in splits.items()}

    def _generate_examples(self, files: list[io.BytesIO]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, file in enumerate(files):
            yield index, {'image': file, 'label': 7 * index, 'file_name': f'{index}.JPEG'}


@pytest.fixture(scope='module')
def data_dirs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    written: dict[str, Path] = {}

    def data_dir(file_format: str) -> Path:
        if file_format not in written:
            written[file_format] = tmp_path_factory.mktemp(file_format)
            three_shards = tfds.download.DownloadConfig(num_shards=3)
            builder = Imagenet2012(data_dir=written[file_format], file_format=file_format)
            builder.download_and_prepare(download_config=three_shards)
        return written[file_format]

    return data_dir


Opener = Callable[..., Split]


@pytest.fixture(params=FORMATS)
def file_format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opened(data_dirs: Callable[[str], Path], file_format: str) -> Opener:
    def open_part(split: str = 'train', shares: tuple[float, float] = (0.0, 1.0), center_crop: float = 0.875) -> Split:
        return tfds_photographs.open_split(
            'imagenet2012', split, data_dirs(file_format), Cut(SIZE, center_crop=center_crop), shares
        )

    return open_part


def identities(images: np.ndarray) -> list[int]:
    """Which photographs these are, or are views of: uint8 [rows, ..., S, S, 3]."""
    reds = images[..., 0].reshape(len(images), -1).mean(axis=1) / 10
    assert np.abs(reds - reds.round()).max() < 0.3
    return reds.round().astype(int).tolist()


def train(
    split: Split, num_steps: int, first_step: int = 0, seed: int = 0, host: Host = ALONE, num_views: int = 1
) -> list[tuple[np.ndarray, np.ndarray]]:
    batches = split.train_batches(first_step, BATCH_SIZE, num_views, seed, host)
    return list(itertools.islice(batches, num_steps))


def stream(*arguments: Any, **options: Any) -> list[int]:
    """The photographs a host sees, in order; their labels are checked."""
    seen = []
    for views, labels in train(*arguments, **options):
        assert views.dtype == np.uint8 and labels.dtype == np.int32
        assert labels.tolist() == [7 * index for index in identities(views)]
        seen += identities(views)
    return seen


def epochs(seen: list[int], size: int) -> list[list[int]]:
    return [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]


@pytest.mark.parametrize('buffer', [tfds_photographs.SHUFFLED_RECORDS, 5])
def test_every_epoch_holds_every_image_once_in_an_order_of_its_own(
    opened: Opener, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfds_photographs, 'SHUFFLED_RECORDS', buffer)
    for seed in (0, 1):
        orders = epochs(stream(opened(), 12, seed=seed), NUM_TRAIN)
        assert len(orders) == 3
        assert all(sorted(order) == list(range(NUM_TRAIN)) for order in orders)
        assert len(set(map(tuple, orders))) == 3
    assert stream(opened(), 4, seed=0) != stream(opened(), 4, seed=1)


def test_three_hosts_see_what_one_would(data_dirs: Callable[[str], Path]) -> None:
    split = tfds_photographs.open_split('imagenet2012', 'train', data_dirs('array_record'), Cut(SIZE))
    by_host = [train(split, 12, host=Host(index, 3), num_views=2) for index in range(3)]
    for one, *parts in zip(train(split, 12, num_views=2), *by_host, strict=True):
        np.testing.assert_array_equal(one[0], np.concatenate([views for views, _ in parts]))
        np.testing.assert_array_equal(one[1], np.concatenate([labels for _, labels in parts]))


@pytest.mark.tensorflow
def test_three_hosts_share_tfrecord_files_without_overlap(data_dirs: Callable[[str], Path]) -> None:
    split = tfds_photographs.open_split('imagenet2012', 'train', data_dirs('tfrecord'), Cut(SIZE))
    parts = []
    for index, size in enumerate([7, 8, 8]):
        orders = epochs(stream(split, 12, host=Host(index, 3)), size)
        assert len(orders) == 3 and len(set(map(tuple, orders))) == 3
        assert len({frozenset(order) for order in orders}) == 1
        parts += sorted(orders[0])
    assert sorted(parts) == list(range(NUM_TRAIN))


@pytest.mark.parametrize('host', [Host(), Host(1, 2)])
def test_a_resumed_run_sees_the_same_bits(opened: Opener, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_photographs, 'SHUFFLED_RECORDS', 5)
    unbroken = train(opened(), 12, host=host, num_views=2)
    # Steps 3 and 7 hold the ends of epochs.
    for step in (1, 3, 4, 7, 10):
        for resumed, expected in zip(train(opened(), 2, step, host=host, num_views=2), unbroken[step:], strict=False):
            np.testing.assert_array_equal(resumed[0], expected[0])
            np.testing.assert_array_equal(resumed[1], expected[1])


def test_views_differ_among_themselves_from_epoch_to_epoch_and_with_the_seed(opened: Opener) -> None:
    split = opened('train', (0, 6 / NUM_TRAIN))
    (one, next_epoch), (other_seed,) = train(split, 2, num_views=3), train(split, 1, seed=1, num_views=3)
    views = [dict(zip(identities(images), images, strict=True)) for images, _ in (one, next_epoch, other_seed)]
    assert views[0].keys() == views[1].keys() == views[2].keys() and len(views[0]) == 6
    for index in views[0]:
        assert len({view.tobytes() for images in views for view in images[index]}) == 9


def window(view_SxSx3: np.ndarray) -> tuple[float, float, float, float]:
    """Top, left, height and width of a view, as shares of its photograph: read off the colours."""
    # The outermost pixels of enlarged crops are clamped.
    inner = slice(2, -2)
    centres = (np.arange(SIZE) + 0.5) / SIZE
    (width, left), (height, top) = (
        np.polyfit(centres[inner], view_SxSx3[inner, inner, channel].mean(axis) / 255, 1)
        for axis, channel in ((0, 1), (1, 2))
    )
    return top, left, height, width


def test_views_are_windows_of_the_usual_areas_and_aspects(opened: Opener) -> None:
    windows, shapes = [], []
    for views, _ in train(opened(), 40, num_views=4):
        for index, images in zip(identities(views), views, strict=True):
            windows += [window(view) for view in images]
            shapes += [shape(index)] * len(images)
    top, left, height, width = np.array(windows).T
    assert min(top.min(), left.min()) > -0.02 and max((top + height).max(), (left + width).max()) < 1.02
    areas, aspects = height * width, width / height * np.array([width / height for height, width in shapes])
    assert 0.06 < areas.min() < 0.12 and 0.85 < areas.max() < 1.02
    # Uniform areas would average 0.54; of the largest, fewer fit.
    assert 0.42 < areas.mean() < 0.54 and 0.2 < areas.std() < 0.27
    assert 0.70 < aspects.min() < 0.80 and 1.25 < aspects.max() < 1.40
    for start, extent in ((top, height), (left, width)):
        room = 1 - extent > 0.1
        places = (start / (1 - extent))[room]
        assert 0.45 < places.mean() < 0.55 and 0.26 < places.std() < 0.32


def test_the_box_is_the_first_that_fits_and_else_the_largest_in_the_centre() -> None:
    uniform_AxMx4 = np.full((crops.ATTEMPTS, 1, 4), 0.5)
    uniform_AxMx4[0, 0] = [0.999, 0.999, 0.0, 0.0]  # too wide for a square image
    uniform_AxMx4[1, 0] = [17 / 92, 0.5, 0.999, 0.0]  # a quarter of the area
    assert crops.boxes(uniform_AxMx4, 100, 100).tolist() == [[50, 0, 50, 50]]
    for height, width, expected in [(30, 900, [0, 430, 30, 40]), (900, 30, [430, 0, 40, 30]), (1, 1, [0, 0, 1, 1])]:
        uniform_AxMx4 = crops.uniform(3, seed=0, position=0)
        assert crops.boxes(uniform_AxMx4, height, width).tolist() == [expected] * 3


def test_boxes_never_leave_the_image() -> None:
    for position, (height, width) in enumerate(itertools.product([2, 3, 10, 375], [2, 5, 500])):
        top, left, box_height, box_width = crops.boxes(crops.uniform(500, 0, position), height, width).T
        assert top.min() >= 0 and left.min() >= 0 and box_height.min() >= 1 and box_width.min() >= 1
        assert (top + box_height).max() <= height and (left + box_width).max() <= width


@pytest.mark.tensorflow
def test_both_formats_train_on_the_same_pixels_of_the_same_windows(data_dirs: Callable[[str], Path]) -> None:
    tfrecord, array_record = (
        tfds_photographs.open_split('imagenet2012', 'train', data_dirs(name), Cut(SIZE))
        for name in ('tfrecord', 'array_record')
    )
    assert isinstance(array_record, RandomAccess)
    records = array_record.source.records(np.arange(NUM_TRAIN))
    for index in range(2):
        views, labels = next(tfrecord.train_batches(4, 12, 3, 5, Host(index, 2)))
        assert views.shape == (6, 3, SIZE, SIZE, 3)
        for row, label in enumerate(labels):
            ((position, image),) = ((i, image) for i, (image, other) in enumerate(records) if other == label)
            expected = np.empty_like(views[row])
            array_record._write_views(expected, position, image, 5, 2 * (4 * 6 + row) + index)
            np.testing.assert_array_equal(views[row], expected)


def test_the_drawn_numbers_are_pinned() -> None:
    assert crops.uniform(1, seed=0, position=5)[0, 0].tolist() == [
        0.3830084316030604,
        0.11212920241750313,
        0.4983964476657645,
        0.3780718050175613,
    ]


def evaluated(split: Split, batch_size: int, host: Host = ALONE) -> list[tuple[np.ndarray, ...]]:
    return list(split.evaluation_batches(batch_size, host))


@pytest.mark.parametrize(('count', 'batch_size'), [(1, 5), (1, 23), (1, 64), (2, 4), (2, 8), (3, 3), (3, 6), (3, 30)])
def test_evaluation_sees_every_image_once_over_all_hosts(opened: Opener, count: int, batch_size: int) -> None:
    split = opened()
    in_order = [square for squares, _, _ in evaluated(split, 1) for square in squares]
    assert sorted(identities(np.stack(in_order))) == list(range(NUM_TRAIN))
    by_host = [evaluated(split, batch_size, Host(index, count)) for index in range(count)]
    assert len({len(batches) for batches in by_host}) == 1
    seen = {}
    for squares, labels, positions in itertools.chain(*by_host):
        assert squares.shape == (batch_size // count, SIZE, SIZE, 3) and squares.dtype == np.uint8
        assert labels.shape == positions.shape == (batch_size // count,)
        assert labels.dtype == positions.dtype == np.int32
        for square, label, position in zip(squares, labels, positions, strict=True):
            if position >= 0:
                assert position not in seen
                seen[position] = label
                np.testing.assert_array_equal(square, in_order[position])
                assert [label] == [7 * index for index in identities(square[None])]
    assert sorted(seen) == list(range(NUM_TRAIN))


@pytest.mark.parametrize('center_crop', [0.875, 1.0])
def test_evaluation_sees_what_predict_sees_of_the_same_files(
    opened: Opener, center_crop: float, tmp_path: Path
) -> None:
    files = validation_files()
    squares, labels, _ = evaluated(opened('validation', center_crop=center_crop), len(files))[0]
    assert sorted(labels) == [7 * index for index in range(len(files))]
    for square, label in zip(squares, labels, strict=True):
        (tmp_path / 'file').write_bytes(files[label // 7].getvalue())
        np.testing.assert_array_equal(square, read_image(tmp_path / 'file', SIZE, 3, center_crop))


def test_cmyk_grey_and_png_are_trained_on(opened: Opener) -> None:
    split = opened('validation')
    seen = stream(split, 2)
    assert len({*seen} & {0, 1, 2}) == 3


def test_shares_part_the_images_in_file_order(opened: Opener) -> None:
    everything, held_out, rest = (opened('train', shares) for shares in [(0, 1), (0, 0.3), (0.3, 1)])
    assert (held_out.num_images, rest.num_images) == (7, 16)
    orders = [identities(evaluated(split, split.num_images)[0][0]) for split in (everything, held_out, rest)]
    assert orders[0] == orders[1] + orders[2]
    assert sorted(stream(rest, 8)[:16]) == sorted(orders[2])


@pytest.mark.parametrize('shares', [(0.0, 0.001), (0.99, 1.0), (0.5, 0.5)])
def test_shares_that_leave_no_image_are_refused(opened: Opener, shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r'of the 23 in split train: change val_split'):
        opened('train', shares)


def test_a_sample_is_the_first_as_evaluation_sees_them(opened: Opener) -> None:
    (squares, labels, _), *_ = evaluated(opened(), NUM_TRAIN)
    for num_images in (5, NUM_TRAIN, 100):
        sample = opened().sample(num_images, seed=3)
        np.testing.assert_array_equal(sample.images_NxHxWxC, squares[:num_images])
        np.testing.assert_array_equal(sample.labels_N, labels[:num_images])


def test_an_image_that_cannot_be_decoded_is_named(opened: Opener, data_dirs: Callable[[str], Path]) -> None:
    builder = tfds.builder_from_directory(data_dirs('array_record') / 'imagenet2012' / '5.1.0')
    source = builder.as_data_source('test', decoders={'image': tfds.decode.SkipDecoding()})
    (position,) = (index for index, example in enumerate(source) if example['label'] == 14)
    named = (
        rf'Split test of .* is damaged \(its image {position} cannot be decoded\): delete it and run .*download_and_'
    )
    for seed in range(3):  # one image at a time, so that it is met at different steps
        with pytest.raises(InputError, match=named):
            list(itertools.islice(opened('test').train_batches(0, 1, 1, seed, ALONE), 5))
    with pytest.raises(InputError, match=named):
        train(opened('test'), 5, first_step=7)
    with pytest.raises(InputError, match=named):
        evaluated(opened('test'), 2)
    if position:
        with pytest.raises(InputError, match=named):
            train(opened('test', (0.2, 1)), 5)


@pytest.fixture
def copied(data_dirs: Callable[[str], Path], file_format: str, tmp_path: Path) -> Path:
    return shutil.copytree(data_dirs(file_format), tmp_path / 'copy')


def reopened(data_dir: Path) -> Split:
    return tfds_photographs.open_split('imagenet2012', 'train', data_dir, Cut(SIZE))


def shards(data_dir: Path) -> list[Path]:
    return sorted(data_dir.glob('imagenet2012/5.1.0/*-train.*'))


DAMAGES: dict[str, Callable[[list[Path]], object]] = {
    'missing': lambda paths: paths[1].unlink(),
    'empty': lambda paths: os.truncate(paths[1], 0),
    'halved': lambda paths: os.truncate(paths[1], paths[1].stat().st_size // 2),
    'too few images': lambda paths: shutil.copy(paths[1], paths[0]),
    'too many images': lambda paths: shutil.copy(paths[0], paths[1]),
}


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('use', [lambda split: train(split, 5), lambda split: evaluated(split, 1)])
def test_damaged_files_are_named_and_how_to_mend_them(
    copied: Path, damage: str, use: Callable[[Split], object]
) -> None:
    lengths = tfds.builder_from_directory(copied / 'imagenet2012' / '5.1.0').info.splits['train'].shard_lengths
    assert lengths == [8, 7, 8]
    DAMAGES[damage](shards(copied))
    with pytest.raises(InputError, match=r'Split train of .*5\.1\.0 is damaged .*delete it and run .*imagenet2012'):
        use(reopened(copied))


def test_a_missing_set_and_a_half_written_one_are_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'holds no imagenet2012: .*download_and_prepare'):
        reopened(tmp_path)
    (copied / 'imagenet2012' / '5.1.0' / 'features.json').unlink()
    with pytest.raises(InputError, match='is half-written'):
        reopened(copied)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('"image": {\n                "image"', '"picture": {\n                "image"', 'examples without image'),
        ('"3"\n', '"1"\n', r'images of shape \(None, None, 1\): only \(None, None, 3\)'),
    ],
)
def test_a_set_of_something_else_is_refused(copied: Path, old: str, new: str, message: str) -> None:
    path = copied / 'imagenet2012' / '5.1.0' / 'features.json'
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        reopened(copied)


def test_tfrecord_without_tensorflow_says_what_to_do(
    data_dirs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data_dirs('array_record'), tmp_path, dirs_exist_ok=True)
    info = tmp_path / 'imagenet2012' / '5.1.0' / 'dataset_info.json'
    for file_format, message in [('tfrecord', 'pip install tensorflow-cpu, or .*array_record'), ('riegeli', 'riegeli')]:
        info.write_text(info.read_text().replace('array_record', file_format).replace('tfrecord', file_format))
        monkeypatch.setitem(sys.modules, 'tensorflow', None)
        with pytest.raises(InputError, match=message):
            reopened(tmp_path)


@pytest.mark.tensorflow
def test_more_hosts_than_images_are_refused(data_dirs: Callable[[str], Path]) -> None:
    split = reopened(data_dirs('tfrecord'))
    for batches in (split.train_batches(0, 24, 1, 0, Host(3, 24)), split.evaluation_batches(24, Host(3, 24))):
        with pytest.raises(InputError, match='24 hosts cannot share 23'):
            next(batches)


@pytest.mark.tensorflow
@pytest.mark.skipif(not (REAL_DATA / 'imagenet2012').is_dir(), reason='the real sets are not beside the repository')
def test_the_real_imagenet_is_seen_whole() -> None:
    validation = tfds_photographs.open_split('imagenet2012', 'validation', REAL_DATA, Cut(SIZE))
    positions, labels = (
        np.concatenate([batch[part] for index in range(2) for batch in evaluated(validation, 64, Host(index, 2))])
        for part in (2, 1)
    )
    assert sorted(positions[positions >= 0]) == list(range(500))
    assert len(set(labels[positions >= 0])) == 10
    training = tfds_photographs.open_split('imagenet2012', 'train', REAL_DATA, Cut(SIZE))
    num_steps = math.ceil(1500 / 60)
    batches = list(itertools.islice(training.train_batches(0, 60, 2, 0, Host()), num_steps))
    in_file_order = np.concatenate([labels for _, labels, _ in evaluated(training, 100)])
    np.testing.assert_array_equal(np.sort(np.concatenate([labels for _, labels in batches])), np.sort(in_file_order))
    assert {views.shape for views, _ in batches} == {(60, 2, SIZE, SIZE, 3)}
