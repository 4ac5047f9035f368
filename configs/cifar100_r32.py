"""ResNet-32 on CIFAR-100. Table 6."""

import functools

from codinet_jax.config import cifar

get_config = functools.partial(cifar.config, 'cifar100', 32)
