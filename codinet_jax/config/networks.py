"""The networks a config names: the one that is trained, and the one that teaches it."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from codinet_jax.data.datasets import DataSource
from codinet_jax.methods import METHODS, Method
from codinet_jax.models.architecture import Architecture, cifar_resnet, first_third, imagenet_resnet, resumed
from codinet_jax.models.network import RoutedResNet
from codinet_jax.models.routers import ROUTERS, router_kind
from codinet_jax.runtime import checks
from codinet_jax.runtime.errors import InputError

STATIC = 'static'
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def network_of(config: ConfigDict, data: DataSource, method: Method) -> RoutedResNet:
    """The network that is trained; `unroll` by platform where the config leaves it open.

    Raises:
      InputError: a setting of `model` is none there is, or does not go with the method.
    """
    model, rate = config.model, config.routing.initial_run_rate
    checks.one_of('model.dtype', model.dtype, DTYPES)
    checks.one_of('model.batch_norm', model.batch_norm, ('global', 'device'))
    checks.one_of('model.router', model.router, (*ROUTERS, STATIC))
    if method.router not in (None, model.router):
        raise InputError(
            f'method={config.method} is of model.router={method.router}, and that is {model.router}: name the variant, '
            f'as in --config=digits_r14:{config.method}.'
        )
    if method.is_routed != (model.router != STATIC):
        raise InputError(
            f'method is {config.method} and model.router {model.router}, and only one of them skips blocks: name the '
            'variant, as in --config=digits_r14:static.'
        )
    if model.router != STATIC and not method.suits(model.router):
        known = ' or '.join(name for name, each in METHODS.items() if each.router == model.router)
        raise InputError(
            f'model.router={model.router} is of method={known or "one of your own"}, and that is {config.method}: name '
            'the variant, or another router.'
        )
    if model.unroll is not None:
        checks.at_least('model.unroll', model.unroll, 1)
    if model.batch_norm == 'global' and model.norm_groups is not None:
        raise InputError('model.norm_groups is of model.batch_norm=device: set that as well, or leave it out.')
    if model.norm_groups is not None:
        checks.at_least('model.norm_groups', model.norm_groups, 1)
    num_groups = model.norm_groups or (jax.device_count() if model.batch_norm == 'device' else 1)
    architecture = _architecture(config, data)
    # XLA:CPU runs the backward pass of a convolution inside a loop about thirty times slower than outside one. On an
    # H100 a step of ResNet-110 takes 14.8 ms without loops and 25.3 with them, for launches and what loops store.
    unroll = model.unroll or (1 if jax.default_backend() == 'tpu' else architecture.num_blocks)
    return RoutedResNet(
        architecture,
        None if model.router == STATIC else model.router,
        DTYPES[model.dtype],
        unroll,
        norm_groups=num_groups,
        remat=model.remat,
        initial_run_rate=rate,
    )


def teacher_of(config: ConfigDict, data: DataSource) -> Architecture | None:
    """The network of `distillation.teacher`, or None; as deep as the config's unless it is known to be of another.

    Raises:
      InputError: a depth of no teacher or of no network, or a teacher of weight 0.
    """
    teacher, depth = config.distillation.teacher, config.distillation.teacher_depth
    if teacher is None:
        if depth is not None:
            raise InputError(f'distillation.teacher_depth is {depth}, of no teacher: give distillation.teacher too.')
        return None
    if not config.distillation.weight:
        raise InputError('distillation.teacher is set, and distillation.weight is 0: set that too, or leave both out.')
    try:
        return _backbone(config, data, config.model.depth if depth is None else depth)
    except InputError as error:
        raise InputError(f'distillation.teacher_depth: {error}') from error


def _architecture(config: ConfigDict, data: DataSource) -> Architecture:
    model = config.model
    checks.one_of('model.backbone', model.backbone, ('cifar_resnet', 'imagenet_resnet'))
    resumes = model.router != STATIC and router_kind(model.router).resumes
    for name in ('resumes', 'first_depth'):
        if model[name] is not None and not resumes:
            raise InputError(
                f'model.{name} is {model[name]}, and of model.router={model.router} no network answers first: '
                'name the variant, as in --config=cifar10_r110:resumed, or leave it out.'
            )
    try:
        whole = _backbone(config, data, model.depth)
    except InputError as error:
        raise InputError(f'model.{error}') from error
    if not resumes:
        return whole
    name = 'model.first_depth'
    if model.resumes is not None:
        name = f'model.resumes={model.resumes}'
        if config.init_from is None:
            raise InputError(f'{name} is the network that answers first, and init_from the deep one: give it too.')
    try:
        first = first_third(whole) if model.first_depth is None else _backbone(config, data, model.first_depth)
        return resumed(first, whole)
    except InputError as error:
        raise InputError(f'{name}: {error}') from error


def _backbone(config: ConfigDict, data: DataSource, depth: int) -> Architecture:
    size, _, channels = data.image_shape
    shape = {'image_size': size, 'image_channels': channels, 'num_classes': data.spec.num_classes}
    if config.model.backbone == 'cifar_resnet':
        return cifar_resnet(depth, shortcut=config.model.shortcut, **shape)
    return imagenet_resnet(depth, stride_on=config.model.stride_on, **shape)
