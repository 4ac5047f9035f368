"""What the configs of CIFAR ResNets share: the default on another data set, at another depth."""

from ml_collections import ConfigDict

from codinet_jax.config import default


def config(dataset: str, depth: int, variant: str = 'codinet') -> ConfigDict:
    """A ResNet of this depth on a data set of 32x32 images."""
    config = default.get_config()
    config.dataset = dataset
    config.model.depth = depth
    return default.with_variant(config, variant)
