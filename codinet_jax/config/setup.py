"""A config is read once, here, into the things it names; nothing below takes a config."""

import dataclasses
import json
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from codinet_jax.config import convolutions, default, networks
from codinet_jax.config.recipe import Recipe, StageRecipe
from codinet_jax.data import datasets
from codinet_jax.data.datasets import DataSource
from codinet_jax.methods import METHODS, Method
from codinet_jax.models.architecture import Architecture
from codinet_jax.models.cost import CostTable
from codinet_jax.models.network import RoutedResNet
from codinet_jax.models.routers import router_kind
from codinet_jax.runtime import checks, files, plugins
from codinet_jax.runtime.errors import InputError

_OF_METHOD = ('loss', 'routing')  # sections of a config


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything a config names.

    `convolution` is what is trained with, one of `convolutions.CONVOLUTIONS`, or None for what suits the devices;
    `record` is the config as it is kept in a workdir, where `data_dir` is known from any directory. `teacher` is the
    network of `recipe.teacher`.
    """

    data: DataSource
    model: RoutedResNet
    method: Method
    recipe: Recipe
    record: dict[str, Any]
    convolution: str | None = None
    teacher: Architecture | None = None

    def __post_init__(self) -> None:
        num_images = self.recipe.batch_size // self.recipe.accumulate_steps
        if num_images < self.method.least_images:
            raise InputError(
                f'A batch of {self.recipe.batch_size} in {self.recipe.accumulate_steps} parts leaves {num_images} '
                f'image(s) to each, and {type(self.method).__name__} compares {self.method.least_images}: give a '
                'larger batch_size or fewer accumulate_steps.'
            )
        if num_images % self.model.norm_groups:
            raise InputError(
                f'batch_size {self.recipe.batch_size} in {self.recipe.accumulate_steps} part(s) cannot be divided '
                f'evenly into {self.model.norm_groups} groups of model.batch_norm=device: give another batch_size or '
                'model.norm_groups.'
            )
        _check_price(self.method, self.model)
        if self.recipe.extra_terms and self.method.stages()[0].frozen == 'routers':
            raise InputError(
                f'loss.extra_terms are added where routers learn, and those of {type(self.method).__name__} do not: '
                'leave them out.'
            )
        self.method.check_blocks(self.costs.num_blocks)

    @property
    def costs(self) -> CostTable:
        return self.model.costs

    @property
    def test_split(self) -> str:
        """What a run is evaluated on: the test split, or what was held out of train."""
        return 'validation' if self.data.val_split else 'test'

    def check_start(self, *, is_given: bool) -> None:
        """Refuses to keep untrained blocks as they are; `is_given` is whether there are weights to start from.

        Raises:
          InputError: stage 1 would.
        """
        if not is_given and self.recipe.stage1.epochs and self.method.stages()[0].frozen == 'backbone':
            raise InputError(
                f'{type(self.method).__name__} keeps the blocks as they are in stage 1, and they are untrained: give '
                "init_from the weights.npz of a run of the config's static variant, or a Trainer's fit the variables "
                'of a static network.'
            )

    def teaching(self, model: RoutedResNet) -> RoutedResNet:
        """The static network that teaches `model`: that of `teacher`, or its own blocks."""
        static = model.static
        return static.clone(architecture=self.teacher) if self.teacher else static

    def training_model(self) -> RoutedResNet:
        """The network with the convolutions that are trained with.

        Raises:
          InputError: they are the kernels, and cannot be had here.
        """
        return self._computed_by(self.convolution or self.fastest_convolution())

    def evaluation_model(self) -> RoutedResNet:
        """The network with the convolutions that are fastest here, whatever it was trained with."""
        return self._computed_by(self.fastest_convolution())

    def _computed_by(self, convolution: str) -> RoutedResNet:
        if self.model.convolution is not None:  # no config's has one
            return self.model
        return self.model.clone(convolution=convolutions.of_name(convolution, self.model))

    def fastest_convolution(self) -> str:
        """Those that are fastest here, of all that change nothing but rounding."""
        return convolutions.fastest()


def read(config: ConfigDict) -> Setup:
    """What a config names; refuses what cannot be trained.

    Raises:
      InputError: the first setting found wrong, by name, with what it may be.
    """
    default.check_types(config)
    plugins.check(config.imports)
    method = method_of(config)
    data = _data(config)
    model = networks.network_of(config, data, method)
    recipe = _recipe(config)
    record = json.loads(config.to_json()) | {'data_dir': files.absolute(config.data_dir)}
    if config.model.convolution is not None:
        checks.one_of('model.convolution', config.model.convolution, convolutions.CONVOLUTIONS)
    if config.model.convolution == 'cuda' and config.model.dtype != 'bfloat16':
        raise InputError('model.convolution=cuda computes in bfloat16: set model.dtype=bfloat16 as well.')
    return Setup(data, model, method, recipe, record, config.model.convolution, networks.teacher_of(config, data))


def _data(config: ConfigDict) -> DataSource:
    if (config.mean is None) != (config.std is None):
        name = 'mean' if config.mean is None else 'std'
        raise InputError(f'{name} is unset where the other one is not: give mean and std together, or neither.')
    if config.train_images is not None:
        checks.at_least('train_images', config.train_images, 1)
    checks.share('val_split', config.val_split)
    return datasets.source(
        config.dataset,
        config.data_dir,
        val_split=config.val_split,
        image_size=config.image_size,
        normalisation=None if config.mean is None else (tuple(config.mean), tuple(config.std)),
        train_images=config.train_images,
        classes=None if config.classes is None else tuple(config.classes),
        image_channels=config.image_channels,
        views=config.views,
        flip=config.flip,
    )


def method_of(config: ConfigDict) -> Method:
    """The config's method, from settings of its fields' names in `loss` and `routing`."""
    checks.one_of('method', config.method, METHODS)
    kind = METHODS[config.method]
    given = {
        field.name: (section, config[section][field.name])
        for field in dataclasses.fields(kind)
        for section in _OF_METHOD
        if field.name in config[section]
    }
    try:
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, (_, value) in given.items()
        }
        return kind(**settings)
    except InputError as error:
        name = str(error).split()[0]
        section = f'{given[name][0]}.' if name in given else ''
        raise InputError(f'{section}{error}') from error


def _recipe(config: ConfigDict) -> Recipe:
    names, weights = config.loss.extra_terms, config.loss.extra_weights
    if len(set(names)) != len(names):
        raise InputError(f'loss.extra_terms are {tuple(names)}: name each term once.')
    if len(names) != len(weights):
        raise InputError(
            f'loss.extra_terms are {len(names)} and loss.extra_weights {len(weights)}: give a weight for each term.'
        )
    stages = {
        name: StageRecipe(
            config[name].epochs,
            config[name].learning_rate,
            config[name].warmup_epochs,
            config[name].decay,
            tuple(config[name].decay_epochs),
            config[name].decay_factor,
        )
        for name in ('stage1', 'stage2')
    }
    optimizer = config.optimizer
    if config.distillation.weight and config.init_from is None and config.distillation.teacher is None:
        raise InputError(
            'distillation.weight is set, and the weights of init_from are what teaches: give them too, or others as '
            'distillation.teacher.'
        )
    return Recipe(
        **stages,
        seed=config.seed,
        batch_size=config.batch_size,
        num_views=config.num_views,
        accumulate_steps=config.accumulate_steps,
        label_smoothing=config.loss.label_smoothing,
        distillation_weight=config.distillation.weight,
        distillation_temperature=config.distillation.temperature,
        teacher=config.distillation.teacher,
        optimizer=optimizer.kind,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        base_batch_size=optimizer.base_batch_size,
        router_factor=optimizer.router_factor,
        block_factor=optimizer.block_factor,
        ema_decay=optimizer.ema_decay,
        skip_nonfinite=optimizer.skip_nonfinite,
        eval_batch_size=config.eval_batch_size,
        eval_every_epochs=config.eval_every_epochs,
        match_every_epochs=config.match_every_epochs,
        log_every_steps=config.log_every_steps,
        checkpoint_every_steps=config.checkpoint_every_steps,
        init_from=config.init_from,
        resumes=config.model.resumes,
        extra_terms=dict(zip(names, weights, strict=True)),
    )


def _check_price(method: Method, model: RoutedResNet) -> None:
    """Refuses a wanted cost or an initial run rate that cannot be met, or would be ignored."""
    target, rate = method.target_cost, model.initial_run_rate
    if rate is not None and not 0 < rate < 1:
        raise InputError(f'routing.initial_run_rate is {rate}; give a share in (0, 1).')
    if model.router is None:
        if target is not None:
            raise InputError('loss.target_cost is set, but a static network always costs the same: leave it out.')
        return
    if target is not None:
        floor = model.costs.mean_macs(np.array(model.always_run_n)) / model.costs.static_macs
        if target < floor:
            skipped = 'all that it can' if any(model.always_run_n) else 'every block'
            raise InputError(f'loss.target_cost is {target}, but an image that skips {skipped} costs {floor:.3f}.')
    if router_kind(model.router).bias is None:
        for name, value, unset in (
            ('loss.target_cost', target, (None,)),
            ('routing.initial_run_rate', rate, (None, 0.5)),
        ):
            if value not in unset:
                raise InputError(
                    f'{name} is {value}, but router {model.router!r} has no bias to meet it with: name one in its '
                    f'RouterKind, or leave it at {unset[-1]}.'
                )
