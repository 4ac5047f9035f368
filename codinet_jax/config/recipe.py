"""How a network is trained, whatever the method: how long, how fast, on how much at a time."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

from codinet_jax.methods import terms
from codinet_jax.runtime import checks
from codinet_jax.runtime.errors import InputError

DECAYS = ('steps', 'cosine', 'linear')
OPTIMIZERS = ('sgd', 'adam')


@dataclasses.dataclass(frozen=True)
class StageRecipe:
    """How long a stage is, in passes over the images, and its learning rate, warmed up and falling."""

    epochs: float
    learning_rate: float
    warmup_epochs: float = 0.0
    decay: str = 'steps'
    decay_epochs: tuple[float, ...] = ()
    decay_factor: float = 0.1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained, whatever the method; the fields are settings of `default`.

    Raises:
      InputError: the first setting found wrong, by its name there, as optimizer.weight_decay, with what it may be.
    """

    stage1: StageRecipe
    stage2: StageRecipe
    seed: int = 0
    batch_size: int = 64
    num_views: int = 4
    accumulate_steps: int = 1
    label_smoothing: float = 0.0
    distillation_weight: float = 0.0
    distillation_temperature: float = 2.0
    teacher: str | None = None
    optimizer: str = 'sgd'
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    base_batch_size: int | None = None
    router_factor: float = 1.0
    block_factor: float = 1.0
    ema_decay: float = 0.0
    skip_nonfinite: bool = False
    eval_batch_size: int = 500
    eval_every_epochs: float = 10.0
    match_every_epochs: float = 10.0
    log_every_steps: int = 100
    checkpoint_every_steps: int = 1000
    init_from: str | None = None
    resumes: str | None = None
    extra_terms: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            'batch_size',
            'num_views',
            'accumulate_steps',
            'eval_batch_size',
            'log_every_steps',
            'checkpoint_every_steps',
        ):
            checks.at_least(name, getattr(self, name), 1)
        checks.one_of('optimizer.kind', self.optimizer, OPTIMIZERS)
        checks.share('optimizer.momentum', self.momentum)
        for name in ('weight_decay', 'router_factor', 'block_factor'):
            checks.at_least(f'optimizer.{name}', getattr(self, name), 0)
        if self.nesterov and not self.momentum:
            raise InputError('optimizer.nesterov is of a momentum, and optimizer.momentum is 0: leave one out.')
        checks.at_least('distillation.weight', self.distillation_weight, 0)
        checks.at_least('distillation.temperature', self.distillation_temperature, 1e-3)
        if self.base_batch_size is not None:
            checks.at_least('optimizer.base_batch_size', self.base_batch_size, 1)
        checks.share('optimizer.ema_decay', self.ema_decay)
        checks.share('loss.label_smoothing', self.label_smoothing)
        for name in ('eval_every_epochs', 'match_every_epochs'):
            checks.at_least(name, getattr(self, name), 0)
        if not 0 <= self.seed < 2**32:
            raise InputError(f'seed is {self.seed}; give a number from 0 to {2**32 - 1}.')
        for stage, recipe in (('stage1', self.stage1), ('stage2', self.stage2)):
            for name in ('epochs', 'learning_rate', 'warmup_epochs', 'decay_factor'):
                checks.at_least(f'{stage}.{name}', getattr(recipe, name), 0)
            checks.one_of(f'{stage}.decay', recipe.decay, DECAYS)
            epochs = recipe.decay_epochs
            if not all(isinstance(epoch, int | float) for epoch in epochs) or not all(
                early < late for early, late in itertools.pairwise((0, *epochs, math.inf))
            ):
                raise InputError(f'{stage}.decay_epochs is {epochs}; write epochs above 0 in rising order.')
        for name, weight in self.extra_terms.items():
            terms.check(name)
            if not math.isfinite(weight):
                raise InputError(f'The weight of {name} is {weight}; it must be finite.')

    def never_reached(self) -> Iterator[str]:
        """A sentence on what a stage ends before: the whole of its learning rate, or a fall of it."""
        for name, stage in (('stage1', self.stage1), ('stage2', self.stage2)):
            if not stage.epochs:
                continue
            if stage.warmup_epochs >= stage.epochs:
                yield (
                    f'{name}.warmup_epochs is {stage.warmup_epochs:g}, and the stage ends after {stage.epochs:g}: the '
                    f'learning rate never comes to the {stage.learning_rate:g} that is set.'
                )
            late = [f'{epoch:g}' for epoch in stage.decay_epochs if epoch >= stage.epochs]
            if stage.decay == 'steps' and late:
                yield (
                    f'{name}.decay_epochs has {" and ".join(late)}, and the stage ends after {stage.epochs:g}: the '
                    'learning rate does not fall there.'
                )

    def check_images(self, num_images: int) -> None:
        """Refuses stages that would train nothing, and intervals that would never fall due.

        Raises:
          InputError: one is less than a step of so many training images.
        """
        for name, epochs, zero in (
            ('stage1.epochs', self.stage1.epochs, 'no such stage'),
            ('stage2.epochs', self.stage2.epochs, 'no such stage'),
            ('eval_every_epochs', self.eval_every_epochs, 'never'),
            ('match_every_epochs', self.match_every_epochs, 'never'),
        ):
            if epochs > 0 and round(epochs * num_images / self.batch_size) == 0:
                raise InputError(
                    f'{name} is {epochs}, which is less than a step of {self.batch_size} images, and there are '
                    f'{num_images}: give a smaller batch_size, or here at least '
                    f'{self.batch_size / num_images:.2g}, or 0 for {zero}.'
                )

    def check_devices(self, num_devices: int) -> None:
        """Refuses a batch that cannot be spread evenly.

        Raises:
          InputError: devices, times the parts it is worked through in, do not divide the batch.
        """
        unit = num_devices * self.accumulate_steps
        if self.batch_size % unit:
            parts = f', in {self.accumulate_steps} parts' if self.accumulate_steps > 1 else ''
            nearest = max(unit, self.batch_size // unit * unit)
            raise InputError(
                f'batch_size {self.batch_size} cannot be divided evenly among {num_devices} devices{parts}: '
                f'try batch_size={nearest}.'
            )
