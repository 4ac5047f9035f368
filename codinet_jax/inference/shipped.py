"""Networks that come with the package, to see one at work without training.

NAME.npz    weights in float16, by path
NAME.json   its card: depths, images, where the weights come from and under what licence, what thresholds cost and reach
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from codinet_jax.data.spec import DataSpec
from codinet_jax.inference import load
from codinet_jax.inference.operating_points import OperatingPoints
from codinet_jax.inference.predictor import Predictor
from codinet_jax.models.architecture import cifar_resnet, resumed
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError

DIRECTORY = pathlib.Path(__file__).with_name('shipped')
ROUTER, THRESHOLD = 'resuming', 0.5


def load_pretrained(name: str = 'cifar10') -> Predictor:
    """A network that comes with the package, ready to answer.

    Args:
      name: 'cifar10': a ResNet-56 that resumes a ResNet-20, for 32x32 images of ten classes.

    Raises:
      InputError: there is none of this name, or the package is not whole.
    """
    card = read_card(name)
    try:
        with open(DIRECTORY / f'{name}.npz', 'rb') as file, np.load(file, allow_pickle=False) as arrays:
            leaves = {path: arrays[path].astype(np.float32) for path in arrays.files}
        spec = DataSpec(tuple(card['classes']), tuple(card['mean']), tuple(card['std']))
        first, whole = (cifar_resnet(depth, num_classes=spec.num_classes) for depth in card['depths'])
        known = OperatingPoints.of_record({}, card['curve'], f'Network {name}')
        return load.from_network(
            RoutedResNet(resumed(first, whole), ROUTER),
            spec,
            traverse_util.unflatten_dict(leaves, sep='/'),
            threshold=THRESHOLD,
            about=card['about'],
            operating_points=known,
        )
    except Exception as error:  # readers of zip files and arrays raise whatever they stumble over
        raise _not_whole(name, error) from error


def read_card(name: str) -> dict[str, Any]:
    """What is to be known of such a network.

    Raises:
      InputError: there is none of this name.
    """
    names = sorted(path.stem for path in DIRECTORY.glob('*.json'))
    if name not in names:
        raise InputError(f'No network called {name!r} comes with the package: take one of {", ".join(names)}.')
    try:
        return files.read_json(DIRECTORY / f'{name}.json')
    except InputError as error:
        raise _not_whole(name, error) from error


def _not_whole(name: str, error: Exception) -> InputError:
    damaged = InputError(f'Network {name} of the package cannot be read ({error}): install the package again.')
    return files.refused(DIRECTORY, error) or damaged


def write(
    directory: str | os.PathLike[str],
    name: str,
    depths: tuple[int, int],
    spec: DataSpec,
    variables: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Makes the two files of a CIFAR ResNet that resumes another.

    Args:
      directory: where they go.
      name: what the network is called.
      depths: of the one that answers first, and of the whole.
      spec: of the images.
      variables: weights and running averages, which are written in float16.
      facts: `curve`, what thresholds cost and reach, as `OperatingPoints.of_record` reads it; `about`, all else.
    """
    mean, std = spec.normalisation
    card = {'depths': depths, 'classes': spec.class_names, 'mean': mean, 'std': std, **facts}
    path, leaves = pathlib.Path(directory), traverse_util.flatten_dict(dict(variables), sep='/')
    halves: dict[str, Any] = {leaf: np.asarray(value).astype(np.float16) for leaf, value in leaves.items()}
    files.write(path / f'{name}.npz', lambda file: np.savez_compressed(file, **halves))
    files.write(path / f'{name}.json', lambda file: file.write((json.dumps(card, indent=1) + '\n').encode()))
