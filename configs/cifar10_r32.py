"""ResNet-32 on CIFAR-10. Table 6."""

import functools

from codinet_jax.config import cifar

get_config = functools.partial(cifar.config, 'cifar10', 32)
