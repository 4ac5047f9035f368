"""From a config to the things it names, and the checks that keep a bad one from starting."""

import copy
import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from codinet_jax.data import datasets
from codinet_jax.data.datasets import DatasetSpec
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.split import Split
from codinet_jax.errors import InputError
from codinet_jax.kernels import convolution
from codinet_jax.models.architecture import Architecture, cifar_resnet, imagenet_resnet
from codinet_jax.models.codinet import CoDiNet
from codinet_jax.models.cost import CostTable, cost_table
from codinet_jax.models.routers import ROUTERS
from codinet_jax.routing.relaxation import RELAXATIONS
from configs import default

STATIC = 'static'
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def dataset(config: ConfigDict) -> DatasetSpec:
    """What is to be known of the config's data set, under the config's normalisation where that is set.

    Raises:
      InputError: there is no such set, or the normalisation is none for its images.
    """
    spec = datasets.dataset_spec(config.dataset, config.image_size)
    if config.mean is None and config.std is None:
        return spec
    for name, low, of in (('mean', 0, 'from 0 to 1'), ('std', 1e-6, 'above 0 and at most 1')):
        numbers = config[name]
        if numbers is None:
            raise InputError(f'{name} is unset where the other one is not: give mean and std together, or neither.')
        if len(numbers) != spec.num_channels or not all(
            isinstance(number, int | float) and low <= number <= 1 for number in numbers
        ):
            raise InputError(
                f'{name} is {tuple(numbers)}; give a number {of} for each channel of {config.dataset}, of which there '
                f'are {spec.num_channels}.'
            )
    return dataclasses.replace(spec, mean=tuple(map(float, config.mean)), std=tuple(map(float, config.std)))


def normalised_by(config: ConfigDict, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> ConfigDict:
    """The config with another normalisation; None is the data set's own."""
    changed = copy.deepcopy(config)
    changed.mean, changed.std = mean, std
    return changed


def split(config: ConfigDict, name: str) -> Split:
    """'train', 'validation' or 'test' of the config's data set; see `datasets.load`."""
    images = datasets.load(config.dataset, name, config.data_dir, config.val_split, config.image_size)
    if name != 'train' or config.train_images is None:
        return images
    if not isinstance(images, ImageSet):
        raise InputError(f'train_images is {config.train_images}, but {config.dataset} is streamed: leave it out.')
    return ImageSet(*(array[: config.train_images] for array in images))


def architecture(config: ConfigDict) -> Architecture:
    """The backbone for the config's data set."""
    spec, model = dataset(config), config.model
    shape = {
        'image_size': spec.image_size,
        'image_channels': spec.num_channels,
        'num_classes': spec.num_classes,
    }
    _one_of('model.backbone', model.backbone, ('cifar_resnet', 'imagenet_resnet'))
    if model.backbone == 'cifar_resnet':
        return cifar_resnet(model.depth, shortcut=model.shortcut, **shape)
    return imagenet_resnet(model.depth, stride_on=model.stride_on, **shape)


def network(config: ConfigDict) -> CoDiNet:
    """The network to train; `unroll` by platform where the config leaves it open."""
    _one_of('model.dtype', config.model.dtype, DTYPES)
    arch = architecture(config)
    # XLA:CPU runs the backward pass of a convolution inside a loop about thirty times slower than outside one. On an
    # H100 a step of ResNet-110 takes 14.8 ms without loops and 25.3 with them, for launches and what loops store.
    unroll = config.model.unroll or (1 if jax.default_backend() == 'tpu' else arch.num_blocks)
    _one_of('model.batch_norm', config.model.batch_norm, ('global', 'device'))
    return CoDiNet(
        arch,
        _router(config),
        DTYPES[config.model.dtype],
        unroll,
        norm_groups=jax.device_count() if config.model.batch_norm == 'device' else 1,
        remat=config.model.remat,
        initial_lead=math.log(config.routing.initial_run_rate / (1 - config.routing.initial_run_rate)),
    )


def trained_network(config: ConfigDict) -> CoDiNet:
    """The network with the convolutions that model.convolution says.

    Raises:
      InputError: they are the kernels, and cannot be had here.
    """
    if config.model.convolution == 'xla':
        return network(config)
    if jax.default_backend() != 'gpu':
        raise InputError('model.convolution=cuda needs a CUDA device, and JAX finds none: leave it at xla.')
    if jax.device_count() > 1:
        raise InputError(
            f'model.convolution=cuda computes on one device, and there are {jax.device_count()}: leave it at xla, or '
            'set CUDA_VISIBLE_DEVICES=0.'
        )
    return network(config).clone(convolution=convolution.conv_general_dilated())


def costs(config: ConfigDict) -> CostTable:
    """The MACs of every part of the config's network."""
    router = _router(config)
    return cost_table(architecture(config), ROUTERS[router].macs if router else None)


def check(config: ConfigDict) -> None:
    """Refuses what cannot be trained.

    Raises:
      InputError: the first setting found wrong, by name, with what it may be.
    """
    default.check_types(config)
    if not 0 < config.routing.initial_run_rate < 1:
        raise InputError(f'routing.initial_run_rate is {config.routing.initial_run_rate}; give a share in (0, 1).')
    table = costs(config)
    network(config)
    _one_of('model.convolution', config.model.convolution, ('xla', 'cuda'))
    if config.model.convolution == 'cuda' and config.model.dtype != 'bfloat16':
        raise InputError('model.convolution=cuda computes in bfloat16: set model.dtype=bfloat16 as well.')
    _one_of('routing.relaxation', config.routing.relaxation, RELAXATIONS)
    for name in ('alpha', 'beta', 'gamma', 'consistency_margin', 'diversity_margin', 'gamma_gain', 'gamma_lead'):
        _at_least(f'loss.{name}', config.loss[name], 0)
    _at_least('loss.gamma_window', config.loss.gamma_window, 1)
    _at_least('loss.gamma_max', config.loss.gamma_max, config.loss.gamma)
    for name in (
        'batch_size',
        'num_views',
        'accumulate_steps',
        'eval_batch_size',
        'log_every_steps',
        'checkpoint_every_steps',
    ):
        _at_least(name, config[name], 1)
    for name in ('momentum', 'weight_decay'):
        _at_least(f'optimizer.{name}', config.optimizer[name], 0)
    if config.train_images is not None:
        _at_least('train_images', config.train_images, 1)
    if config.optimizer.base_batch_size is not None:
        _at_least('optimizer.base_batch_size', config.optimizer.base_batch_size, 1)
    _share('optimizer.ema_decay', config.optimizer.ema_decay)
    _share('loss.label_smoothing', config.loss.label_smoothing)
    _at_least('eval_every_epochs', config.eval_every_epochs, 0)
    if not 0 <= config.seed < 2**32:
        raise InputError(f'seed is {config.seed}; give a number from 0 to {2**32 - 1}.')
    for stage in ('stage1', 'stage2'):
        for name in ('epochs', 'learning_rate', 'warmup_epochs', 'decay_factor'):
            _at_least(f'{stage}.{name}', config[stage][name], 0)
        epochs = tuple(config[stage].decay_epochs)
        if not all(isinstance(epoch, int | float) for epoch in epochs) or not all(
            early < late for early, late in itertools.pairwise((0, *epochs, math.inf))
        ):
            raise InputError(f'{stage}.decay_epochs is {epochs}; write epochs above 0 in rising order.')
    if not 0 < config.routing.temperature < math.inf:
        raise InputError(f'routing.temperature is {config.routing.temperature}; it must be above 0.')
    _share('val_split', config.val_split)
    if config.model.unroll is not None:
        _at_least('model.unroll', config.model.unroll, 1)
    _check_target(config.loss.target_cost, table)


def check_devices(config: ConfigDict, num_devices: int) -> None:
    """Refuses a batch that cannot be spread evenly.

    Raises:
      InputError: devices, times the parts it is worked through in, do not divide the batch.
    """
    if config.batch_size % (num_devices * config.accumulate_steps):
        unit = num_devices * config.accumulate_steps
        parts = f', in {config.accumulate_steps} parts' if config.accumulate_steps > 1 else ''
        nearest = max(unit, config.batch_size // unit * unit)
        raise InputError(
            f'batch_size {config.batch_size} cannot be divided evenly among {num_devices} devices{parts}: '
            f'try batch_size={nearest}.'
        )


def _router(config: ConfigDict) -> str | None:
    _one_of('model.router', config.model.router, (*ROUTERS, STATIC))
    return None if config.model.router == STATIC else config.model.router


def _check_target(target_cost: float | None, table: CostTable) -> None:
    if target_cost is None:
        return
    if not 0 < target_cost <= 1:
        raise InputError(f'loss.target_cost is {target_cost}; give a share of the static cost in (0, 1].')
    floor = table.fixed_macs / table.static_macs
    if target_cost < floor:
        raise InputError(f'loss.target_cost is {target_cost}, but an image that skips every block costs {floor:.3f}.')


def _at_least(name: str, value: float, bound: float) -> None:
    # Written so that NaN is refused as well.
    if not bound <= value < math.inf:
        raise InputError(f'{name} is {value}; it must be finite and at least {bound}.')


def _share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(f'{name} is {value}; give a share in [0, 1).')


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        close = difflib.get_close_matches(value, list(known), n=1)
        hint = f' Did you mean {close[0]}?' if close else ''
        raise InputError(f'{name} is {value!r}; it must be one of {", ".join(known)}.{hint}')
