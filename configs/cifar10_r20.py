"""ResNet-20, nine gated blocks, on CIFAR-10: the small one, for a machine without an accelerator.

The paper has no such network. With nine blocks for its fifty-four, diversity needs more weight and a margin of a whole
block, or routing collapses into a few routes.
"""

from ml_collections import ConfigDict

from codinet_jax.config import default


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = default.get_config()
    config.batch_size = 32
    config.num_views = 2
    config.model.depth = 20
    config.loss.beta = 1.0
    config.loss.diversity_margin = 1.0
    config.loss.target_cost = 0.7
    return default.with_variant(config, variant)
