"""ResNet-110 on SVHN, cropped but never flipped. Table 4."""

from ml_collections import ConfigDict

from configs import default


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = default.get_config()
    config.dataset = 'svhn'
    return default.with_variant(config, variant)
