"""ResNet-20 on CIFAR-10. A small one, for machines without an accelerator."""

from ml_collections import ConfigDict

from configs import default


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = default.get_config()
    config.model.depth = 20
    return default.with_variant(config, variant)
