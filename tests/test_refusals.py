"""What a machine refuses is said as such by whatever reads, and is never called damage: the files may be whole."""

import contextlib
import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codinet_jax.data import datasets, folder, image_files, tfds_photographs
from codinet_jax.data.photographs import Cut
from codinet_jax.data.tfds_files import PreparedSplit
from codinet_jax.inference import exported, load, shipped
from codinet_jax.models import state_dict, weights_file
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError
from codinet_jax.training.metric_files import MetricWriter
from codinet_jax.workdir import Workdir

READERS: dict[str, Callable[[Path], object]] = {
    'an image': lambda path: image_files.read_image(path / 'image.png', 8, 3),
    'weights': lambda path: weights_file.read(path / 'weights.npz'),
    'a state dict': lambda path: state_dict.read(path / 'weights.th'),
    'a config': lambda path: Workdir(path).read_config(),
    'results': lambda path: Workdir(path).read_results(),
    'metrics': lambda path: Workdir(path).read_metrics(),
    'routes': lambda path: Workdir(path).read_arrays('routes', 'test', ('labels_N',)),
    'an exported network': exported.load,
    'a folder': lambda path: folder.class_names(path / 'images'),
    'a folder of a class': lambda path: folder.open_split(path / 'images', 'train', ('a', 'b'), Cut(8)),
}
NAMED = {
    'an image': lambda name: image_files.read_image(name, 8, 3),
    'weights': weights_file.read,
    'a state dict': lambda name: state_dict.read(Path(f'{name}.th')),
    'a workdir': lambda name: Workdir(name).read_config(),
    'a run': load.from_workdir,
    'an exported network': exported.load,
    'an export': exported.check_new,
    'a folder': lambda name: datasets.source('folder', name),
    'a data set': lambda name: datasets.source('cifar10', name).open('train'),
}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A file of every kind; they are opened, and not understood."""
    for name in ('config.json', 'results.json', 'metrics.jsonl', 'weights.npz', 'weights.th', 'image.png'):
        (tmp_path / name).write_text('{}')
    for name in (exported.MANIFEST, exported.PROGRAM, 'routes/test.npz'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in 'ab':
        (tmp_path / 'images' / 'train' / name).mkdir(parents=True)
        (tmp_path / 'images' / 'train' / name / 'x.png').touch()
    return tmp_path


@contextlib.contextmanager
def no_file_opens() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize('what', READERS)
def test_where_no_more_files_may_be_opened_that_is_said(there: Path, what: str) -> None:
    with no_file_opens(), pytest.raises(InputError) as refusal:
        READERS[what](there)
    sentence = str(refusal.value)
    assert sentence.startswith(str(there)) and '(Too many open files)' in sentence, sentence
    assert not any(word in sentence for word in ('damaged', 'fetch', 'restore', 'train', 'delete', 'evaluate')), (
        sentence
    )


@pytest.mark.parametrize('what', NAMED)
def test_a_name_that_is_too_long_is_said_to_be(what: str) -> None:
    with pytest.raises(InputError, match=r'\(File name too long\)'):
        NAMED[what](300 * 'x')  # type: ignore[operator]


class Failing(io.BytesIO):
    """An image of which only the beginning can be read."""

    error: BaseException

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 100:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize('number', [errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_an_image_on_a_drive_that_fails_is_not_called_damaged(number: int) -> None:
    encoded = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(encoded, 'PNG')
    file = Failing(encoded.getvalue())
    file.error = MemoryError() if number == errno.ENOMEM else OSError(number, os.strerror(number))
    with pytest.raises(InputError, match=rf'^x\.png cannot be read \({os.strerror(number)}\): ') as refusal:
        image_files.decode(file, 'x.png', 3)
    assert 'cut short' not in str(refusal.value)


@pytest.mark.parametrize('is_too_large', [True, False])
def test_an_image_too_large_for_this_machine_is_no_damage_of_its_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_too_large: bool
) -> None:
    encoded = io.BytesIO()
    Image.new('RGB', (40, 40)).save(encoded, 'PNG')
    prepared = PreparedSplit(None, 'train', 9, tmp_path, 'delete it')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000 if is_too_large else None)
    content = encoded.getvalue() if is_too_large else encoded.getvalue()[:60]
    with pytest.raises(InputError) as refusal:
        tfds_photographs._decoded(prepared, 3, content, 3)
    large = (
        f'Image 3 of split train of {tmp_path} has more than 1000 pixels, too many to be safe to read: save it smaller.'
    )
    damaged = f'Split train of {tmp_path} is damaged (its image 3 cannot be decoded): delete it.'
    assert str(refusal.value) == (large if is_too_large else damaged)


def test_a_data_set_that_may_not_be_looked_at_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(self: Path) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    (tmp_path / 'cifar10' / '3.0.2').mkdir(parents=True)
    monkeypatch.setattr(Path, 'iterdir', refuse)
    with pytest.raises(InputError, match=r'cannot be read \(Permission denied\): see to it that you may read it\.$'):
        datasets.source('cifar10', tmp_path).open('train')


def test_metrics_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    workdir.metrics.mkdir()
    with pytest.raises(InputError, match=r'metrics\.jsonl cannot be read \(Is a directory\)'):
        MetricWriter(workdir)


@pytest.mark.parametrize('name', ['cifar10.json', 'cifar10.npz'])
def test_a_package_that_is_not_whole_is_to_be_installed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    card = (shipped.DIRECTORY / 'cifar10.json').read_bytes()
    (tmp_path / 'cifar10.json').write_bytes(card)
    (tmp_path / name).write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    monkeypatch.setattr(shipped, 'DIRECTORY', tmp_path)
    with pytest.raises(
        InputError, match=r'^Network cifar10 of the package cannot be read .*: install the package again'
    ):
        shipped.load_pretrained('cifar10')


@pytest.mark.parametrize(
    ('text', 'printed'),
    [
        ('plain ü', 'plain ü'),
        ('two\nlines', r'two\nlines'),
        ('\x1b[31mred', r'\x1b[31mred'),
        (b'byte \xff', r'byte \xff'),
        ('byte \udcff', r'byte \xff'),
        ('half \ud800', r'half \ud800'),
    ],
)
def test_what_no_terminal_should_get_is_written_out(text: str | bytes, printed: str) -> None:
    assert files.printable(text) == printed  # type: ignore[arg-type]
