"""ResNet-110 on CIFAR-10. Tables 2, 5 to 10."""

from ml_collections import ConfigDict

from configs import default


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = default.get_config()
    config.model.depth = 110
    return default.with_variant(config, variant)
