"""What the configs share that make a trained network skip: routes of a few blocks, a wanted cost, smooth decay."""

from ml_collections import ConfigDict

from codinet_jax.config import default


def config(
    target_cost: float,
    decay: str,
    *,
    epochs: tuple[float, float],
    learning_rates: tuple[float, float],
    warmup_epochs: float,
) -> ConfigDict:
    """The default for a start from trained weights; epochs and rates are of the two stages.

    With few blocks the paper's weight and margin of diversity let all images take one route.
    """
    config = default.get_config()
    config.num_views = 2
    config.loss.beta = 1.0
    config.loss.diversity_margin = 1.0
    config.loss.target_cost = target_cost
    config.optimizer.nesterov = True
    for stage, stage_epochs, rate in zip((config.stage1, config.stage2), epochs, learning_rates, strict=True):
        stage.epochs, stage.learning_rate, stage.decay = stage_epochs, rate, decay
    config.stage1.warmup_epochs = warmup_epochs
    config.match_every_epochs = 1.0
    return config
