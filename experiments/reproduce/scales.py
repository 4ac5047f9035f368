"""How large an experiment is run: the paper's own size, or one that this machine can do; never to be mixed up."""

import importlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from flax import traverse_util
from ml_collections import ConfigDict

from codinet_jax.config import networks, setup
from codinet_jax.runtime.errors import InputError
from experiments.reproduce.runs import Trained


class Scale(NamedTuple):
    """What a scale changes in every config. `depths` replaces depths, `epochs` those of the two stages, with the decays
    of the learning rate at the same shares of them, and all of them go to the one stage of a config that has no other;
    `config` is a config file in place of each run's, in the variant of
    the run; `is_result` is whether its numbers may be shown to anybody.
    """

    description: str
    is_result: bool
    depths: Mapping[int, int] = MappingProxyType({})
    epochs: tuple[float, float] | None = None
    changes: Mapping[str, Any] = MappingProxyType({})
    config: str | None = None


SCALES = {
    'paper': Scale("the configs as they are: the paper's networks and schedule, or digits_r14's own", is_result=True),
    'gpu30': Scale(
        "the paper's networks, 24 + 6 epochs of 128 images x 2 views in bfloat16, the first one to warm up",
        is_result=True,
        epochs=(24, 6),
        changes={'batch_size': 128, 'num_views': 2, 'model.dtype': 'bfloat16', 'stage1.warmup_epochs': 1.0},
    ),
    'cpu': Scale(
        'ResNet-8, -14 and -20 for ResNet-32, -74 and -110; 3 + 1 epochs of 20,000 images, 32 x 2 views a step',
        is_result=True,
        depths={32: 8, 74: 14, 110: 20},
        epochs=(3, 1),
        changes={
            'batch_size': 32,
            'num_views': 2,
            'train_images': 20_000,
            'eval_every_epochs': 1.0,
            'match_every_epochs': 1.0,
        },
    ),
    'short': Scale(
        'for what begins with trained networks: 1 + 0.25 epochs of 20,000 images, 64 x 2 views a step',
        is_result=True,
        epochs=(1, 0.25),
        changes={
            'batch_size': 64,
            'num_views': 2,
            'train_images': 20_000,
            'eval_every_epochs': 0.0,
            'match_every_epochs': 0.25,
        },
    ),
    'digits': Scale(
        "digits_r14 in place of every config: ResNet-14 on scikit-learn's digits, its own schedule of 22 + 6 epochs",
        is_result=True,
        config='configs/digits_r14.py',
    ),
    'smoke': Scale(
        'SMOKE: eighteen steps of ResNet-8 or -14 on digits, which shows that the command runs and nothing else',
        is_result=False,
        depths={14: 8, 20: 8, 32: 8, 50: 8, 56: 14, 74: 8, 110: 8},
        epochs=(0.1, 0.1),
        changes={
            'dataset': 'digits',
            'batch_size': 16,
            'num_views': 2,
            'model.backbone': 'cifar_resnet',
            'model.dtype': 'float32',
            'eval_every_epochs': 0.0,
            'log_every_steps': 5,
            'checkpoint_every_steps': 1000,
        },
    ),
}


def config_of(
    trained: Trained, scale: Scale, seed: int, cost: float | None = None, init_from: str | None = None
) -> ConfigDict:
    """The resolved config of a run.

    Args:
      trained: the run.
      scale: how large it is.
      seed: of all that is random.
      cost: what the one that it takes its cost from came to, as a share of static.
      init_from: the weights that it starts from, or that it is.

    Raises:
      InputError: the config refuses what the scale makes of it.
    """
    path, colon, variant = trained.config.partition(':')
    config = _config_file(f'{scale.config or path}{colon}{variant}').copy_and_resolve_references()
    if trained.is_pruned:
        config.stage2.update({**config.stage1.to_dict(), 'epochs': config.stage1.epochs + config.stage2.epochs})
        config.stage1.epochs = config.stage1.warmup_epochs = 0.0
    changes = dict(trained.changes) | dict(scale.changes) | {'seed': seed} | _start(trained, init_from)
    depths = {} if needs_weights(trained, scale) else scale.depths
    changes['model.depth'] = max(trained.least_depth, depths.get(config.model.depth, config.model.depth))
    for stage, epochs in _epochs(config, scale).items():
        share = epochs / config[stage].epochs
        changes[f'{stage}.epochs'] = float(epochs)
        changes.setdefault(f'{stage}.warmup_epochs', share * config[stage].warmup_epochs)
        changes[f'{stage}.decay_epochs'] = tuple(share * epoch for epoch in config[stage].decay_epochs)
    config.update_from_flattened_dict(changes)
    if trained.given and init_from:
        config.stage1.epochs = config.stage2.epochs = 0.0
    if cost is not None and config.model.router == networks.STATIC:
        config.model.depth = _depth_at(config, cost)
    elif cost is not None:
        config.loss.target_cost = cost
    setup.read(config)
    return config


def needs_weights(trained: Trained, scale: Scale) -> bool:
    """Whether it is made of given networks: of no others may numbers be shown, nor of any but as deep as they are."""
    return scale.is_result and scale.config is None and bool(trained.given or trained.starts_from or trained.cascade_of)


def _start(trained: Trained, init_from: str | None) -> dict[str, Any]:
    """What a run starts from. Gates that prune are to stay as they are, and a network that is given has no teacher."""
    changes: dict[str, Any] = {}
    if trained.starts_from or trained.given:
        changes['init_from'] = init_from
    if trained.given or (trained.starts_from and init_from is None):
        changes['distillation.weight'] = 0.0
    if trained.is_pruned:
        changes['loss.target_cost'] = None
    return changes


def command_flags(trained: Trained, config: ConfigDict) -> list[str]:
    """What `codinet_jax.main` is to be given to have this config, and no more."""
    theirs = _flat(_config_file(trained.config))
    changed = {name: value for name, value in _flat(config).items() if theirs[name] != value}
    return [f'--config={trained.config}', *(f'--config.{name}={_as_flag(value)}' for name, value in changed.items())]


def _epochs(config: ConfigDict, scale: Scale) -> dict[str, float]:
    """What the scale makes of the epochs, by stage; one that the config leaves out stays out."""
    if not scale.epochs:
        return {}
    epochs = dict(zip(('stage1', 'stage2'), scale.epochs, strict=True))
    trained = [stage for stage in epochs if config[stage].epochs]
    return epochs if len(trained) == len(epochs) else dict.fromkeys(trained, sum(scale.epochs))


def _config_file(name: str) -> ConfigDict:
    path, _, variant = name.partition(':')
    module = importlib.import_module(path.removesuffix('.py').replace('/', '.'))
    config: ConfigDict = module.get_config(variant or 'codinet')
    return config


def _flat(config: ConfigDict) -> dict[str, Any]:
    return traverse_util.flatten_dict(json.loads(config.to_json()), sep='.')


def _as_flag(value: Any) -> str:
    return f'({"".join(f"{item}," for item in value)})' if isinstance(value, list) else str(value)


def _depth_at(config: ConfigDict, cost: float) -> int:
    """The depth at which a static network comes nearest to this share of what the config's costs."""
    wanted = cost * setup.read(config).costs.static_macs

    def off(depth: int) -> float:
        other = config.copy_and_resolve_references()
        other.model.depth = depth
        return abs(setup.read(other).costs.static_macs - wanted)

    if config.model.backbone != 'cifar_resnet':
        raise InputError(f'A {config.model.backbone} cannot be had in any depth: there is none of equal MACs.')
    return min(range(8, config.model.depth + 1, 6), key=off)
