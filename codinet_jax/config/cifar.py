"""What the configs of CIFAR ResNets share: the default on another data set, at another depth."""

from ml_collections import ConfigDict

from codinet_jax.config import default, from_weights


def config(dataset: str, depth: int, variant: str = 'codinet') -> ConfigDict:
    """A ResNet of this depth on a data set of 32x32 images."""
    config = default.get_config()
    config.dataset = dataset
    config.model.depth = depth
    return default.with_variant(config, variant)


def pretrained(depth: int, target_cost: float, variant: str = 'codinet') -> ConfigDict:
    """A trained ResNet of CIFAR-10 made to skip in ten epochs, its own answers distilled, from resnetDEPTH.npz.

    What runs at first is nearly all of it, decisions are hard from the start, and the routing losses are of gates
    without noise, or they would punish the draws. None of these numbers was tuned.
    """
    config = from_weights.config(
        target_cost, 'linear', epochs=(8.0, 2.0), learning_rates=(0.015, 0.003), warmup_epochs=0.2
    )
    config.model.depth = depth
    config.init_from = f'resnet{depth}.npz'
    config.distillation.weight = 0.5
    config.distillation.temperature = 3.0
    config.batch_size = 128
    config.routing.relaxation = 'gumbel_straight_through'
    config.routing.initial_run_rate = 0.95
    config.loss.noise_free = True
    config.loss.target_rate = target_cost  # of the methods that have one: all blocks cost nearly the same
    config.loss.gamma_gain = 0.01  # at the default's the price shuts gates before routers have learnt anything
    config.optimizer.router_factor = 5.0
    config.optimizer.ema_decay = 0.998
    config.eval_every_epochs = 2.0
    return default.with_variant(config, variant)
