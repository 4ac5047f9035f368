"""ResNet-74 on CIFAR-10. Table 6."""

from ml_collections import ConfigDict

from configs import default


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = default.get_config()
    config.model.depth = 74
    return default.with_variant(config, variant)
