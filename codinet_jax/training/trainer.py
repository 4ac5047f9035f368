"""Training on arrays of one's own, from Python: section 3.4 without files."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax

from codinet_jax.config.recipe import Recipe, StageRecipe
from codinet_jax.config.setup import Setup
from codinet_jax.data.datasets import Dataset, DataSource
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.spec import DataSpec
from codinet_jax.methods import Method
from codinet_jax.models import pretrained
from codinet_jax.models.network import RoutedResNet, drawn
from codinet_jax.runtime.errors import InputError
from codinet_jax.training.loop import Run
from codinet_jax.training.state import TrainState


class Trainer:
    """Trains a network by a method, on all devices.

    The learning rate falls tenfold after 60 % and 80 % of stage 1, begins stage 2 at a tenth and falls once more half
    way, as in section 4.1.

    Args:
      network: what is trained; its router must suit the method.
      spec: of the images.
      method: as `methods.CoDiNet()`.
      learning_rate: of SGD, at first.
      recipe: other fields of `config.recipe.Recipe`, as batch_size (64 images), num_views (4), seed (0). A refusal has
        them as configs do: `weight_decay` is optimizer.weight_decay there, `optimizer` itself optimizer.kind.

    Raises:
      InputError: they do not fit each other.
    """

    def __init__(
        self, network: RoutedResNet, spec: DataSpec, method: Method, *, learning_rate: float = 0.1, **recipe: Any
    ):
        if files := sorted({'init_from', 'resumes', 'teacher'} & recipe.keys()):
            raise InputError(f'A Trainer reads no files, and {files[0]} names one: give fit the variables.')
        if method.is_routed != (network.router is not None):
            raise InputError(
                f'{type(method).__name__} trains networks {"with" if method.is_routed else "without"} routers; this '
                f'one has router {network.router!r}.'
            )
        if not method.suits(network.router):
            raise InputError(
                f'{type(method).__name__} does not train router {network.router!r}: give the network '
                f'{method.router or "another"}, or take another method.'
            )
        spec.check_network(network.architecture.num_classes, network.architecture.image_channels)
        self.network, self.spec, self.method = network, spec, method
        self.learning_rate, self.recipe = learning_rate, recipe

    def fit(
        self,
        train: ImageSet,
        test: ImageSet | None = None,
        *,
        epochs: tuple[float, float] = (22.0, 6.0),
        variables: Mapping[str, Any] | None = None,
        teacher: Mapping[str, Any] | None = None,
    ) -> TrainState:
        """Trains both stages and returns the state; its `variables` are what is evaluated and kept.

        Args:
          train: images, uint8 [N, H, W, C] of the network's size and channels, and their classes, integers [N].
          test: such images too, evaluated on the way, if given.
          epochs: of the two stages, in passes over the images.
          variables: to start from, as of a static network; routers that are not among them start fresh.
          teacher: of the same blocks without routers, to distil, if `distillation_weight` is set; unset: `variables`,
            every block run.

        Raises:
          InputError: the images or the variables do not fit the network, or a setting cannot be.
          Diverged: a loss or gradient is not finite.
        """
        variables, teacher = jax.device_get((variables, teacher))  # they may lie on one device alone
        arch = self.network.architecture
        train, *tests = (
            ImageSet.checked(*images, arch.image_shape, arch.num_classes)
            for images in (train, test)
            if images is not None
        )
        setup = self._setup(epochs)
        setup.recipe.check_devices(jax.device_count())
        setup.recipe.check_images(train.num_images)
        setup.check_start(is_given=variables is not None)
        teacher = self._teacher(setup, variables, teacher)
        if variables is not None:
            fresh = jax.device_get(drawn(self.network, setup.recipe.seed))
            variables = pretrained.into(fresh, variables, 'What fit was given')
        with contextlib.ExitStack() as open_files:
            run = Run(setup, train, tests[0] if tests else None, None, open_files, variables, teacher)
            run.both_stages()
            return run.state

    def _teacher(
        self, setup: Setup, variables: Mapping[str, Any] | None, teacher: Mapping[str, Any] | None
    ) -> Mapping[str, Any] | None:
        if not setup.recipe.distillation_weight:
            if teacher is not None:
                raise InputError('A teacher is given, and distillation_weight is 0: set that too, or leave it out.')
            return None
        if teacher is None and self.network.architecture.first_pass:
            raise InputError(
                'distillation_weight is set, and a network that resumes does not teach: give fit a static one as '
                'teacher.'
            )
        teacher = variables if teacher is None else teacher
        if teacher is None:
            raise InputError('distillation_weight is set: give fit the variables that teach.')
        return pretrained.teacher(self.network, teacher, 'What is to teach')

    def _setup(self, epochs: tuple[float, float]) -> Setup:
        first, second = epochs
        stage1 = StageRecipe(first, self.learning_rate, decay_epochs=(0.6 * first, 0.8 * first) if first else ())
        stage2 = StageRecipe(second, 0.1 * self.learning_rate, decay_epochs=(0.5 * second,) if second else ())
        recipe = Recipe(stage1, stage2, **self.recipe)
        arch = self.network.architecture
        data = Dataset(self.spec, arch.image_size, arch.image_channels)
        return Setup(DataSource('arrays', data, self.spec), self.network, self.method, recipe, record={})
