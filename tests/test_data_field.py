"""What a machine refuses is not called damage, and labels are those of the data set: whole sets, small and real."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import helpers
from codinet_jax.data import datasets, tfds_files
from codinet_jax.runtime.errors import InputError

NUM_IMAGES = 40


class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Images in the form of cifar10, of other classes or labels."""

    VERSION = tfds.core.Version('3.0.2')
    label: Any = None
    labels: tuple[int, ...] = ()

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(32, 32, 3), encoding_format='png')
        features = tfds.features.FeaturesDict({'image': image, 'label': self.label})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {'train': self._generate_examples(), 'test': self._generate_examples()}

    def _generate_examples(self) -> Any:
        for i in range(NUM_IMAGES):
            yield i, {'image': Image.new('RGB', (32, 32), (i, 0, 0)), 'label': self.labels[i % len(self.labels)]}


def prepared(directory: Path, label: Any, labels: tuple[int, ...] = tuple(range(10)), shards: int = 2) -> Path:
    kind = type('Cifar10', (Cifar10,), {'label': label, 'labels': labels}, skip_registration=True)
    download = tfds.download.DownloadConfig(num_shards=shards)
    kind(data_dir=directory, file_format='array_record').download_and_prepare(download_config=download)
    return directory


def names(*order: str) -> Any:
    return tfds.features.ClassLabel(names=list(order))


@pytest.mark.parametrize(
    ('label', 'sentence'),
    [
        (tfds.features.ClassLabel(num_classes=12), 'holds images of 12 classes, and there are to be 10'),
        (names(*reversed(datasets.THINGS)), "calls class 0 'truck', which is 'airplane' here"),
    ],
    ids=['twelve', 'another order'],
)
def test_classes_that_are_not_the_sets_are_refused_on_opening(tmp_path: Path, label: Any, sentence: str) -> None:
    source = datasets.source('cifar10', prepared(tmp_path, label))
    with pytest.raises(InputError, match=sentence):
        source.open('train')


@pytest.mark.parametrize('label', [names(*datasets.THINGS), tfds.features.ClassLabel(num_classes=10)])
def test_the_sets_own_names_or_none_are_read(tmp_path: Path, label: Any) -> None:
    images: Any = datasets.source('cifar10', prepared(tmp_path, label)).open('train')
    assert images.labels_N.tolist() == [i % 10 for i in range(NUM_IMAGES)]


def test_labels_of_no_class_are_refused(tmp_path: Path) -> None:
    unlabelled = prepared(tmp_path, tfds.features.ClassLabel(num_classes=10), labels=(0, -1, 9))
    with pytest.raises(InputError, match=r'has labels from -1 to 9, and its classes are 0 to 9'):
        datasets.source('cifar10', unlabelled).open('train')


def opened(directory: Path, limit: str) -> subprocess.CompletedProcess[str]:
    """Reading a set in a process that may have so many files open."""
    program = f"""if True:
        from codinet_jax.data import datasets
        from codinet_jax.runtime.errors import InputError
        try:
            print(datasets.source('cifar10', {str(directory)!r}).open('train').num_images)
        except InputError as error:
            print(error)
    """
    command = f'ulimit {limit}; exec {sys.executable} -c "$PROGRAM"'
    return subprocess.run(
        ['bash', '-c', command],
        cwd=helpers.REPOSITORY,
        env=helpers.environment(PROGRAM=program),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_low_limit_of_open_files_is_raised_or_named_and_no_damage_is_seen(tmp_path: Path) -> None:
    many = prepared(tmp_path, tfds.features.ClassLabel(num_classes=10), shards=NUM_IMAGES)
    assert len(list(many.rglob('*train*array_record*'))) == NUM_IMAGES
    raised = opened(many, '-Sn 36')
    assert raised.stdout == f'{NUM_IMAGES}\n', raised
    named = opened(many, '-n 36')
    assert 'Too many open files' in named.stdout and 'ulimit -n' in named.stdout, named
    assert 'damaged' not in named.stdout and 'delete' not in named.stdout


@pytest.mark.parametrize(
    ('error', 'advice'),
    [
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), 'see to it that you may read it'),
        (RuntimeError('INTERNAL: open() failed: Permission denied'), 'see to it that you may read it'),
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), 'see whether the network drive is there'),
        (ValueError('pread: Input/output error'), 'see whether the disk or network drive is well'),
    ],
)
@pytest.mark.parametrize('what', ['features', 'records'])
def test_what_the_machine_refuses_is_said_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, advice: str, what: str
) -> None:
    source = datasets.source('cifar10', prepared(tmp_path, tfds.features.ClassLabel(num_classes=10)))

    def refuse(*_: Any) -> Any:
        raise error

    if what == 'features':
        monkeypatch.setattr(tfds, 'builder_from_directory', refuse)
    else:
        monkeypatch.setattr(tfds_files, '_read_array_record', refuse)
    with pytest.raises(InputError, match=advice) as found:
        source.open('train')
    assert 'delete' not in str(found.value) and 'damaged' not in str(found.value)


def test_real_damage_is_still_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = datasets.source('cifar10', prepared(tmp_path, tfds.features.ClassLabel(num_classes=10)))
    for path in tmp_path.rglob('*train*array_record*'):
        path.write_bytes(np.random.default_rng(0).bytes(200))
    with pytest.raises(InputError, match=r'is damaged .*: delete it and run'):
        source.open('train')


UNREADABLE = {  # also by a user who may read all
    'link in a circle': (lambda path: path.symlink_to(path.name), 'Too many levels of symbolic links'),
    'link to nothing': (lambda path: path.symlink_to('gone'), 'No such file or directory'),
    'directory': (lambda path: path.mkdir(), 'Is a directory'),
}


@pytest.mark.parametrize('name', ['cifar10', 'tfds:cifar10'])
@pytest.mark.parametrize(
    'file', ['*-train.array_record-00000*', 'features.json', 'dataset_info.json', 'label.labels.txt']
)
@pytest.mark.parametrize('case', UNREADABLE)
def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, case: str, file: str, name: str) -> None:
    """array_record takes such a file for one without images, and TFDS such names of classes for none."""
    (path,) = prepared(tmp_path, names(*datasets.THINGS)).glob(f'cifar10/3.0.2/{file}')
    replace, reason = UNREADABLE[case]
    path.unlink()
    replace(path)
    with pytest.raises(InputError) as refusal:
        datasets.source(name, tmp_path).open('train')
    sentence = str(refusal.value)
    assert f'cannot be read ({reason})' in sentence, sentence
    assert not any(word in sentence for word in ('damaged', 'half-written', 'delete')), sentence


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'airplane\n', 'label.labels.txt has 1 different names, and there are 10 classes'),
        (b'', 'label.labels.txt has 0 different names'),
        ('\n'.join(['caf\xe9', *datasets.THINGS[1:]]).encode('latin-1'), "'utf-8' codec can't decode"),
    ],
    ids=['cut short', 'empty', 'latin-1'],
)
@pytest.mark.parametrize('name', ['cifar10', 'tfds:cifar10'])
def test_names_of_classes_that_are_not_whole_are_not_passed_over(
    tmp_path: Path, content: bytes, reason: str, name: str
) -> None:
    (prepared(tmp_path, names(*datasets.THINGS)) / 'cifar10/3.0.2/label.labels.txt').write_bytes(content)
    with pytest.raises(InputError, match=r'3\.0\.2 is half-written') as refusal:
        datasets.source(name, tmp_path).open('train')
    assert reason in str(refusal.value)


@pytest.mark.parametrize('file', ['features.json', 'dataset_info.json'])
def test_a_set_of_a_newer_tfds_is_whole(tmp_path: Path, file: str) -> None:
    path = prepared(tmp_path, names(*datasets.THINGS)) / 'cifar10/3.0.2' / file
    described = json.loads(path.read_text())
    if file == 'features.json':
        described['featuresDict']['features']['depth'] = {'pythonClassName': 'tensorflow_datasets.newer.Depth'}
    else:
        described['newer'] = 1
    path.write_text(json.dumps(described))
    with pytest.raises(
        InputError, match=r'pip install -U tensorflow-datasets, or prepare .* in another data_dir'
    ) as raised:
        datasets.source('cifar10', tmp_path).open('train')
    assert f'cannot be read by tensorflow-datasets {tfds.__version__}' in str(raised.value)
    assert 'half-written' not in str(raised.value) and 'delete' not in str(raised.value)
