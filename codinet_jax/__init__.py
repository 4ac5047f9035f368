"""CoDiNet in JAX: residual networks that choose, image by image, which blocks to run.

One legend for the shapes in array names, used everywhere:

    L  images in a batch                n  gated blocks of the network
    M  views (augmentations) of each    H, W, C  height, width, channels
    B  rows the network sees, L * M     Y  classes
    N  images in a data set             A  augmentations that evaluation tries

`paths_LxMxn` is therefore an array [images, views, blocks]; `costs_n` one number a block. A path is the vector of
relaxed decisions v of one row (Eq. 6), a decision u the 0 or 1 of one block (Eq. 5), a route the vector of decisions.

The names below are all that a notebook needs; experiments/tour.ipynb shows them at work. Each is imported when it is
first asked for, so that an exported network is used without the code of the models.
"""

import importlib
from typing import TYPE_CHECKING, Any

from codinet_jax.runtime import bfloat16

__version__ = '0.1.0'
bfloat16.avoid_fault()  # here, for what is imported first is most likely to be in time

if TYPE_CHECKING:
    from codinet_jax import methods
    from codinet_jax.data.in_memory import ImageSet
    from codinet_jax.data.spec import DataSpec
    from codinet_jax.evaluation.evaluate import evaluate_weights
    from codinet_jax.inference.exported import load as load_exported
    from codinet_jax.inference.load import from_network as predictor
    from codinet_jax.inference.load import from_workdir as load
    from codinet_jax.inference.predictor import Predictor
    from codinet_jax.inference.shipped import load_pretrained
    from codinet_jax.models.architecture import cifar_resnet, imagenet_resnet
    from codinet_jax.models.network import RoutedResNet
    from codinet_jax.training.trainer import Trainer

_FACE = {
    'DataSpec': 'data.spec:DataSpec',
    'ImageSet': 'data.in_memory:ImageSet',
    'Predictor': 'inference.predictor:Predictor',
    'RoutedResNet': 'models.network:RoutedResNet',
    'Trainer': 'training.trainer:Trainer',
    'cifar_resnet': 'models.architecture:cifar_resnet',
    'evaluate_weights': 'evaluation.evaluate:evaluate_weights',
    'imagenet_resnet': 'models.architecture:imagenet_resnet',
    'load': 'inference.load:from_workdir',
    'load_exported': 'inference.exported:load',
    'load_pretrained': 'inference.shipped:load_pretrained',
    'methods': 'methods:',
    'predictor': 'inference.load:from_network',
}
__all__ = [
    'DataSpec',
    'ImageSet',
    'Predictor',
    'RoutedResNet',
    'Trainer',
    'cifar_resnet',
    'evaluate_weights',
    'imagenet_resnet',
    'load',
    'load_exported',
    'load_pretrained',
    'methods',
    'predictor',
]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, _, attribute = _FACE[name].partition(':')
    found = importlib.import_module(f'{__name__}.{module}')
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
