"""Made-up weights and images, to rehearse without any: `python -m experiments.half_hour.made_up WORK`."""

import pathlib
import sys

import jax
import numpy as np

from codinet_jax.models import weights_file
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.network import RoutedResNet, drawn
from experiments.real_accuracy import images

NUM_IMAGES = 32


def main(work: pathlib.Path) -> None:
    """Writes untrained WORK/weights/resnet8.npz and resnet14.npz, and noise as WORK/images; `unpack` has real ones."""
    for folder in ('weights', 'images'):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for depth in (8, 14):
        network = RoutedResNet(cifar_resnet(depth), None)
        variables = jax.device_get(drawn(network, 0))
        weights_file.write(work / 'weights' / f'resnet{depth}.npz', variables)
    rng = np.random.default_rng(0)
    for split in ('train', 'test'):
        images_NxHxWxC = rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3)).astype(np.uint8)
        labels_N = np.arange(NUM_IMAGES) % 10
        for name, array in ((images.NAMES[0], images_NxHxWxC), (images.NAMES[1], labels_N)):
            images.save(work / 'images' / f'{split}_{name}.npy', array)


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
