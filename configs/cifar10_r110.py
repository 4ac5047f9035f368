"""ResNet-110 on CIFAR-10. Tables 2, 5 to 10."""

import functools

from codinet_jax.config import cifar

get_config = functools.partial(cifar.config, 'cifar10', 110)
