"""ResNet-110 on SVHN, cropped but never flipped. Table 4."""

import functools

from codinet_jax.config import cifar

get_config = functools.partial(cifar.config, 'svhn', 110)
