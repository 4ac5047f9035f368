"""scikit-learn's digits as a TFDS set: 1,797 real 8x8 images that are there with nothing to download."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError, first_line

NUM_CLASSES = 10
TEST_EVERY = 5
BRIGHTEST = 16  # of scikit-learn's pixels


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits of the UCI repository, as scikit-learn ships them; a fixed fifth of each class is test."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
                'label': tfds.features.ClassLabel(num_classes=NUM_CLASSES),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=('image', 'label'), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {'train': self._generate_examples(False), 'test': self._generate_examples(True)}

    def _generate_examples(self, is_test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        images_NxHxW, labels_N = _sklearn_digits()
        for index in np.flatnonzero(is_test_image(labels_N) == is_test):
            # As a PIL image, because TFDS would start TensorFlow, and let it take the GPU, to encode an array.
            yield int(index), {'image': Image.fromarray(images_NxHxW[index]), 'label': int(labels_N[index])}


def is_test_image(labels_N: np.ndarray) -> np.ndarray:
    """Which images are test: every fifth of its class, in scikit-learn's order; bool [N] from classes [N]."""
    seen_NxY = np.cumsum(np.eye(NUM_CLASSES, dtype=int)[labels_N], axis=0)
    is_test_N: np.ndarray = seen_NxY[np.arange(len(labels_N)), labels_N] % TEST_EVERY == 0
    return is_test_N


def prepare(data_dir: Path) -> None:
    """Writes digits into `data_dir` as array_record unless it is there; any number of processes may do so at once.

    Raises:
      InputError: the directory cannot be written.
    """
    version_dir = data_dir / 'digits' / str(Digits.VERSION)
    with files.reading(version_dir):
        if version_dir.exists():
            return
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # TFDS leaves a downloads directory beside a set and draws names that two processes may share: it works apart.
        with tempfile.TemporaryDirectory(prefix='.digits.', dir=data_dir) as apart:
            # Its progress bars would announce a directory that is about to move.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                Digits(data_dir=apart, file_format='array_record').download_and_prepare()
            version_dir.parent.mkdir(exist_ok=True)
            _publish(Path(apart, 'digits', version_dir.name), version_dir)
    except (OSError, RuntimeError) as error:  # array_record tells of a full disk by the latter
        if isinstance(error, RuntimeError) and not files.refused(data_dir, error):
            raise
        raise InputError(
            f'digits cannot be written into {data_dir} ({first_line(error)}): make room, or give data_dir one that can.'
        ) from error


def _publish(finished: Path, version_dir: Path) -> None:
    try:
        os.rename(finished, version_dir)
    except OSError:
        if not version_dir.exists():
            raise


def _sklearn_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # only the first use ever needs it

    digits = load_digits()
    images_NxHxW: np.ndarray = np.rint(digits.images * (255 / BRIGHTEST)).astype(np.uint8)
    return images_NxHxW, digits.target
