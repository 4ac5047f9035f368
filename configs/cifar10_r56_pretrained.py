"""A trained ResNet-56 made to skip, at the cost of ResNet-32, which is what it has to beat:

    codinet import_weights --source=resnet56.th --output=resnet56.npz
    codinet main --config=cifar10_r56_pretrained --config.data_dir=DIR

The numbers of a run like it, and of its rivals, are in experiments/results/real_accuracy_h100.md.
"""

import functools

from codinet_jax.config import cifar

get_config = functools.partial(cifar.pretrained, 56, 0.5488)
