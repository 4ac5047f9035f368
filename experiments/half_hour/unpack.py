"""Puts back what `pack` packed:

    python -m experiments.half_hour.unpack WORK PART [PART ...] --tfds

Wheels are installed into WORK/site, weights lie in WORK/weights, and images in WORK/images as plain arrays, which
`experiments.real_accuracy` takes as its cache. With --tfds, once all sheets of a split have come, also in WORK/tfds as
the set that `codinet_jax` reads (--config.data_dir=WORK/tfds), in the order they had. Parts may come one by one.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

CONTENTS = 'contents.json'
NAMES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work', type=pathlib.Path)
    parser.add_argument('parts', type=pathlib.Path, nargs='+')
    parser.add_argument('--tfds', action='store_true', help='Images as a TFDS set too; about 20 s.')
    asked = parser.parse_args(arguments)
    unpack(asked.work, asked.parts)
    if asked.tfds:
        sys.path.insert(0, str(asked.work / 'site'))
        prepare(asked.work)


def unpack(work: pathlib.Path, parts: Sequence[pathlib.Path]) -> None:
    """Wheels, weights, sheets; then plain arrays of every split that is whole."""
    for part in parts:
        about = part / CONTENTS
        if not about.exists():
            sys.exit(f'{part} is no part that pack wrote: {CONTENTS} is missing.')
        for folder in ('weights', 'cifar'):
            if (part / folder).exists():
                shutil.copytree(part / folder, work / folder, dirs_exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(about, work / CONTENTS)
        if wheels := sorted(str(path) for path in (part / 'wheels').glob('*.whl')):
            install = [sys.executable, '-m', 'pip', 'install', '-q', '--no-index', '--no-deps', '--no-compile']
            subprocess.run([*install, '--no-cache-dir', '--upgrade', f'--target={work / "site"}', *wheels], check=True)
            print(f'{len(wheels)} wheels in {work / "site"}', flush=True)
    for split, about in json.loads((work / CONTENTS).read_text()).items():
        labels = [np.load(path) for path in _of(work, split, 'npy')]
        sheets = _of(work, split, 'webp')
        if [path.stem for path in sheets] != [path.stem for path in _of(work, split, 'npy')] or (
            sum(map(len, labels)) != about['images']
        ):
            print(f'{split}: {len(sheets)} sheets so far; the others have yet to come', flush=True)
            continue
        images = work / 'images'
        images.mkdir(exist_ok=True)
        parts_of = [pixels(path, len(own), about['shape']) for path, own in zip(sheets, labels, strict=True)]
        np.save(images / f'{split}_images.npy', np.concatenate(parts_of))
        np.save(images / f'{split}_labels.npy', np.concatenate(labels))
        print(f'{split}: {about["images"]} images in {images}', flush=True)


def pixels(path: pathlib.Path, num_images: int, shape: Sequence[int]) -> np.ndarray:
    """uint8 [N, H, W, C] of a sheet."""
    height, width, channels = shape
    whole = np.asarray(Image.open(path).convert('RGB'))
    rows, columns = whole.shape[0] // height, whole.shape[1] // width
    apart = whole.reshape(rows, height, columns, width, channels).transpose(0, 2, 1, 3, 4)
    return apart.reshape(-1, height, width, channels)[:num_images]


def prepare(work: pathlib.Path) -> None:
    """Writes the plain arrays as CIFAR-10 in array_record, unless that is there; both splits must be whole."""
    images = work / 'images'
    if missing := [split for split in ('train', 'test') if not (images / f'{split}_labels.npy').exists()]:
        print(f'no TFDS set yet: {" and ".join(missing)} not whole', flush=True)
        return
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Cifar10(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version('3.0.2')

            def _info(self) -> Any:
                features = tfds.features.FeaturesDict(
                    {
                        'image': tfds.features.Image(shape=(32, 32, 3), encoding_format='png'),
                        'label': tfds.features.ClassLabel(names=list(NAMES)),
                    }
                )
                return tfds.core.DatasetInfo(
                    builder=self, features=features, supervised_keys=('image', 'label'), disable_shuffling=True
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
                return {split: self._generate_examples(split) for split in ('train', 'test')}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
                arrays = (np.load(images / f'{split}_{name}.npy') for name in ('images', 'labels'))
                for i, (image, label) in enumerate(zip(*arrays, strict=True)):
                    yield i, {'image': Image.fromarray(image), 'label': int(label)}

    Cifar10(data_dir=work / 'tfds', file_format='array_record').download_and_prepare()
    print(f'CIFAR-10 in {work / "tfds"}', flush=True)


def _of(work: pathlib.Path, split: str, ending: str) -> list[pathlib.Path]:
    return sorted((work / 'cifar').glob(f'{split}_*.{ending}'))


if __name__ == '__main__':
    main()
