"""ResNet-32 on CIFAR-100. Table 6."""

from ml_collections import ConfigDict

from configs import default


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = default.get_config()
    config.dataset = 'cifar100'
    config.model.depth = 32
    return default.with_variant(config, variant)
