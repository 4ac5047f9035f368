"""Networks that come with the package, to see one at work without training.

NAME.npz    weights in float16, by member and parameter path
NAME.json   its card: members, images, threshold, where the weights come from and under what licence, and what it does
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from codinet_jax.data.spec import DataSpec
from codinet_jax.inference import cascade
from codinet_jax.inference.cascade import Member
from codinet_jax.inference.predictor import Predictor
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError

DIRECTORY = pathlib.Path(__file__).with_name('shipped')


def load_pretrained(name: str = 'cifar10') -> Predictor:
    """A network that comes with the package, ready to answer.

    Args:
      name: 'cifar10': a cascade of two ResNets, for 32x32 images of ten classes.

    Raises:
      InputError: there is none of this name, or the package is not whole.
    """
    card = read_card(name)
    try:
        with open(DIRECTORY / f'{name}.npz', 'rb') as file, np.load(file, allow_pickle=False) as arrays:
            leaves = {path: arrays[path].astype(np.float32) for path in arrays.files}
        trees = traverse_util.unflatten_dict(leaves, sep='/')
        spec = DataSpec(tuple(card['classes']), tuple(card['mean']), tuple(card['std']))
        members = [Member(_network(depth, len(card['classes'])), spec, trees[str(depth)]) for depth in card['depths']]
        threshold, about = card['threshold'], card['about']
    except Exception as error:  # readers of zip files and arrays raise whatever they stumble over
        raise _not_whole(name, error) from error
    return cascade.from_networks(members, threshold=threshold, about=about)


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
    depths: Sequence[int],
    members: Sequence[Member],
    threshold: float,
    about: Mapping[str, Any],
) -> None:
    """Makes the two files of a cascade of CIFAR ResNets that are normalised alike."""
    spec, path = members[0].data_spec, pathlib.Path(directory)
    leaves = traverse_util.flatten_dict(
        {str(depth): dict(member.variables) for depth, member in zip(depths, members, strict=True)}, sep='/'
    )
    mean, std = spec.normalisation
    card = {
        'depths': list(depths),
        'classes': list(spec.class_names),
        'mean': mean,
        'std': std,
        'threshold': threshold,
        'about': dict(about),
    }
    halves: dict[str, Any] = {name: np.asarray(leaf).astype(np.float16) for name, leaf in leaves.items()}
    files.write(path / f'{name}.npz', lambda file: np.savez_compressed(file, **halves))
    files.write(path / f'{name}.json', lambda file: file.write((json.dumps(card, indent=1) + '\n').encode()))


def _network(depth: int, num_classes: int) -> RoutedResNet:
    return RoutedResNet(cifar_resnet(depth, num_classes=num_classes), router=None)
