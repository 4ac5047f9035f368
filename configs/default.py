"""ResNet-110 on CIFAR-10, and every setting there is: see codinet_jax/config/default.py."""

from codinet_jax.config.default import get_config

__all__ = ['get_config']
