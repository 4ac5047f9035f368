"""ResNet-14, six gated blocks, on scikit-learn's 8x8 digits: nothing to download, minutes on a laptop.

With so few blocks diversity needs a far larger weight and margin than the paper's, or all images take one route.
"""

from ml_collections import ConfigDict

from codinet_jax.config import default


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = default.get_config()
    config.dataset = 'digits'
    config.batch_size = 32
    config.model.depth = 14
    config.loss.beta = 2.0
    config.loss.diversity_margin = 1.0
    config.loss.target_cost = 0.7
    config.stage1.epochs = 22.0
    config.stage1.decay_epochs = (15.0, 19.0)
    config.stage2.epochs = 6.0
    config.stage2.decay_epochs = (4.0,)
    config.eval_every_epochs = 5.0
    config.match_every_epochs = 5.0
    config.log_every_steps = 50
    config.checkpoint_every_steps = 250
    return default.with_variant(config, variant)
